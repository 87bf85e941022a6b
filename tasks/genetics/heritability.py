"""Heritability and genetic correlation of all traits from the association's own reading.

Haseman and Elston's regression of products of two people's traits on their relationship. With
traits of unit variance, r the partial correlations of the traits with M variants, R that of the
traits, A the relationships (`Sumstats.relationship`) and ν people less covariates, its solution is

    G = (ν mean_j r_j r_j' - R) / (ν tr A² / M² - 1)

so the associations of all traits give the heritabilities and the genetic covariances of all pairs.
The standard errors are those of a block jackknife over the variants.

References
----------
Haseman and Elston 1972, doi:10.1007/BF01066731; random probes for tr A²: Wu and Sankararaman 2018,
doi:10.1093/bioinformatics/bty253; jackknife: Bulik-Sullivan et al. 2015, doi:10.1038/ng.3211.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from axoloci.errors import NotPossibleError

MIN_BLOCKS = 20  # of the jackknife; of fewer its standard error is itself unsure by over 16%
FEWEST_SE = 2.0  # of a heritability; below it a genetic correlation is no normal variable


@dataclass(frozen=True)
class Estimate:
    """Estimates of all traits, or pairs of traits.

    Attributes
    ----------
    value
        [float64] NaN where it is not defined.
    se
        [float64, same shape] Of the block jackknife.
    """

    value: NDArray[np.float64]
    se: NDArray[np.float64]


@dataclass(frozen=True)
class GeneticCovariance:
    """Genetic covariances of traits, in units of the traits.

    Attributes
    ----------
    genetic, phenotypic
        [float64, shape: (n_traits, n_traits)]
    leave_one_out
        [float64, shape: (n_blocks, n_traits, n_traits)] `genetic` without each block.
    """

    genetic: NDArray[np.float64]
    phenotypic: NDArray[np.float64]
    leave_one_out: NDArray[np.float64]


def relationship_traces(
    relationship: Mapping[str, NDArray[Any]],
) -> tuple[float, NDArray[np.float64]]:
    """Tr A² of the relationships, and that without each block of variants.

    w'A²w of random probes w has tr A² as its mean. Its noise is largely that of w'Aw and w'w, whose
    means are known, M and ν: the combination (A² - aA + bI) of A's eigenvalues that varies least
    for unlinked variants is taken, which changes no mean.

    Parameters
    ----------
    relationship
        `Sumstats.relationship`.

    Returns
    -------
    (whole, without)
        float, and [float64, shape: (n_blocks,)].
    """
    first, own, cross = (np.asarray(relationship[name]) for name in ("first", "own", "cross"))
    n_tested = np.asarray(relationship["n_tested"], dtype=np.float64)  # (B,)
    df, squares = float(relationship["df"]), relationship["squares"]

    def trace(
        second: NDArray[np.float64], first: NDArray[np.float64], m: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """From w'A²w and w'Aw, (..., n_probes), of m variants (...,)."""
        plain = second.mean(axis=-1)
        unit = m / df  # mean eigenvalue
        gamma = np.maximum(plain / (df * unit**2) - 1, 0.0)  # of K = A / unit: tr K²/ν - 1
        slope, offset = (2 + gamma) * unit, unit**2
        noise = -slope * (first.mean(axis=-1) - m) + offset * (squares.mean() - df)
        return np.asarray(plain + noise)

    whole = trace(cross.sum(axis=0), first.sum(axis=0), n_tested.sum())
    without = trace(
        cross.sum(axis=0) - 2 * cross + own, first.sum(axis=0) - first, n_tested.sum() - n_tested
    )
    return float(whole), without


def genetic_covariance(
    scores: NDArray[np.float64],
    n_tested: NDArray[Any],
    correlation: NDArray[np.float64],
    sd: NDArray[np.float64],
    relationship: Mapping[str, NDArray[Any]],
) -> GeneticCovariance:
    """Genetic covariances of all pairs of traits by Haseman and Elston's regression.

    Parameters
    ----------
    scores
        [float64, shape: (n_blocks, n_traits, n_traits)] Σ_j r_j r_j' over the variants of each
        block of the jackknife, r_j the partial correlations of variant j with the traits, of mean
        square 1 / ν where there is no effect.
    n_tested
        [shape: (n_blocks,)] Variants in these sums.
    correlation
        [float64, shape: (n_traits, n_traits)] Of the covariate-adjusted traits.
    sd
        [float64, shape: (n_traits,)] Their standard deviations.
    relationship
        `Sumstats.relationship`.

    Raises
    ------
    NotPossibleError
        Too few blocks for a jackknife, or people so distantly related, and so few, that their
        relationships tell nothing.
    """
    n_blocks = len(scores)
    if n_blocks < MIN_BLOCKS:
        raise NotPossibleError(
            f"heritability needs {MIN_BLOCKS} blocks of variants, and the association has "
            f"{n_blocks}: too few autosomal variants were tested"
        )
    df = float(relationship["df"])
    whole, without = relationship_traces(relationship)
    of_relationship = np.asarray(relationship["n_tested"], dtype=np.float64)
    m, m_without = of_relationship.sum(), of_relationship.sum() - of_relationship
    spread = df * whole / m**2 - 1
    spread_without = df * without / m_without**2 - 1  # (B,)
    if not (spread > 0 and (spread_without > 0).all()):
        raise NotPossibleError(
            "the relationships of the people do not vary: heritability cannot be estimated; more "
            "variants or people are needed"
        )
    n_used = np.asarray(n_tested, dtype=np.float64)
    total = scores.sum(axis=0)  # (K, K)
    units = np.outer(sd, sd)
    genetic = (df * total / n_used.sum() - correlation) / spread * units
    n_without = (n_used.sum() - n_used)[:, None, None]
    leave_one_out = (df * (total - scores) / n_without - correlation) / spread_without[
        :, None, None
    ]
    return GeneticCovariance(genetic, correlation * units, leave_one_out * units)


def jackknife_se(
    leave_one_out: NDArray[np.float64], *, skip_missing: bool = False
) -> NDArray[np.float64]:
    """Standard error of an estimate from those without each of n_blocks blocks of equal size.

    Parameters
    ----------
    leave_one_out
        [float64, shape: (n_blocks, ...)]
    skip_missing
        A block without a value, NaN, had nothing to leave out and is not counted; else it makes the
        standard error NaN.

    Returns
    -------
    [float64, shape: (...)] NaN of fewer than two blocks.
    """
    used = np.isfinite(leave_one_out) if skip_missing else np.True_
    n_blocks = np.broadcast_to(used, leave_one_out.shape).sum(axis=0)  # (...)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = leave_one_out.sum(axis=0, where=used) / n_blocks
        square = np.square(leave_one_out - mean).sum(axis=0, where=used)
        return np.where(n_blocks > 1, np.sqrt((n_blocks - 1) / n_blocks * square), np.nan)


def heritability(covariance: GeneticCovariance) -> Estimate:
    """Share of each trait's variance that the variants explain; below 0 by chance where it is 0.

    Parameters
    ----------
    covariance
        Of n_traits traits.

    Returns
    -------
    Estimate
        [shape: (n_traits,)]
    """
    variance = np.diag(covariance.phenotypic)
    without = np.diagonal(covariance.leave_one_out, axis1=1, axis2=2)  # (B, K)
    return Estimate(np.diag(covariance.genetic) / variance, jackknife_se(without) / variance)


def genetic_correlation(covariance: GeneticCovariance) -> Estimate:
    """Genetic correlation of each pair of traits.

    Parameters
    ----------
    covariance
        Of n_traits traits.

    Returns
    -------
    Estimate
        [shape: (n_traits, n_traits)] NaN where a heritability is not above 0, with all variants or
        without one of the blocks. Not cut at ±1, which would bias it.
    """
    value = _correlations(covariance.genetic)
    without = np.stack([_correlations(one) for one in covariance.leave_one_out])
    se = jackknife_se(without)
    np.fill_diagonal(se, np.where(np.isnan(np.diag(value)), np.nan, 0.0))
    return Estimate(np.where(np.isnan(se), np.nan, value), se)


def _correlations(covariance: NDArray[np.float64]) -> NDArray[np.float64]:
    variance = np.diag(covariance)
    scale = np.sqrt(np.where(variance > 0, variance, np.nan))
    return np.asarray(covariance / np.outer(scale, scale))

"""Associations of voxels from those of the few traits that stand for them.

Maps that are combinations of traits, x = mean + B'l, have effects that are the same combinations of
the traits' effects: the genome is read once for the traits, and a voxel is a product with its
column of B. With all components of the maps this is the regression of each voxel itself; with
fewer, that of the maps projected on them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

from axoloci.statistics import neg_log10_f_tail

AT_ONCE = 16_384  # voxels whose columns are held in float64
SINGULAR = 1e-13  # of the largest eigenvalue of S: what is below is rounding
ROUNDING = 2.0**-23  # largest relative error of a float32 product and sum, with room to spare


def voxel_variances(sums: NDArray[np.float64], basis: NDArray[np.floating]) -> NDArray[np.float64]:
    """Residual sum of squares of each voxel on the covariates, b'Sb.

    Parameters
    ----------
    sums
        [float64, shape: (r, r)] S: sums of products of the traits' residuals on the covariates.
    basis
        [shape: (r, n_voxels)] B: what one more of a trait adds to a map.

    Returns
    -------
    [float64, shape: (n_voxels,)]
    """
    found = np.empty(basis.shape[1])
    for place, b in _parts(basis):
        found[place] = np.einsum("rv,rv->v", b, sums @ b)
    return found


def own_variances(
    variances: NDArray[np.float64],
    voxel_sd: NDArray[np.floating],
    n_samples: int,
    n_covariates: int,
) -> NDArray[np.float64]:
    """Residual sum of squares of each voxel itself, in place of that of its map.

    The larger of b'Sb and (n - p) s². With it in place of b'Sb, an effect on the map is tested
    against the noise of the voxel, and p is never smaller. It is that of the people in training
    where the intercept is the only covariate, and has no bias for others who vary as they do; what
    further covariates explain of a voxel is not taken off, so that there p errs to the safe side.

    Parameters
    ----------
    variances
        [float64, shape: (n_voxels,)] From `voxel_variances`.
    voxel_sd
        [float, shape: (n_voxels,)] s, standard deviation of the voxels over people.
    n_samples, n_covariates
        n, and p with the intercept.

    Returns
    -------
    [float64, shape: (n_voxels,)]
    """
    own = (n_samples - n_covariates) * np.square(voxel_sd, dtype=np.float64)
    return np.asarray(np.maximum(variances, own))


def voxel_effects(
    beta: NDArray[Any],
    se: NDArray[Any],
    df: NDArray[Any],
    sums: NDArray[np.float64],
    basis: NDArray[np.floating],
    variances: NDArray[np.float64] | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Effect of variants on voxels, and its standard error, from those on the traits.

    β_v = b_v'β. A variant's own sum of squares g follows from each trait: 1/g = (df se² + β²)/S_jj;
    with the mean of these, se_v² = (b_v'S b_v / g − β_v²) / df. Exact where the people of a variant
    are those of S. Where some lack the genotype β is exact still, and S of everybody, in
    proportion, stands for theirs in se: see `se_error`.

    Parameters
    ----------
    beta, se
        [float, shape: (n_variants, r)] Of the traits.
    df
        [float, shape: (n_variants,)] Residual degrees of freedom.
    sums
        [float64, shape: (r, r)] S, as for `voxel_variances`.
    basis
        [shape: (r, n_voxels)] B.
    variances
        [float64, shape: (n_voxels,)] From `voxel_variances`, if known; or from `own_variances`, for
        the standard error of β in the noise of the voxels themselves.

    Returns
    -------
    (beta, se)
        [float64, shape: (n_variants, n_voxels)] each, in units of the maps; se is 0 where a voxel
        is a combination of covariates and variant, NaN where the variant was not tested.

    References
    ----------
    RVGA: Fang et al. 2026, doi:10.1038/s41467-026-69816-z; here without their approximation of se.
    """
    beta = np.asarray(beta, dtype=np.float64)
    df = np.asarray(df, dtype=np.float64)[:, None]  # (m, 1)
    if variances is None:
        variances = voxel_variances(sums, basis)
    reciprocal = variant_reciprocals(beta, se, df[:, 0], sums)[:, None]  # (m, 1)
    effect, error = np.empty((2, len(beta), basis.shape[1]))
    for place, b in _parts(basis):
        effect[:, place] = beta @ b  # (m, part)
        squared = (reciprocal * variances[place] - effect[:, place] ** 2) / df
        error[:, place] = np.sqrt(np.maximum(squared, 0.0))
    return effect, error


def variant_reciprocals(
    beta: NDArray[Any], se: NDArray[Any], df: NDArray[Any], sums: NDArray[np.float64]
) -> NDArray[np.float64]:
    """1/g of each variant, g its residual sum of squares on the covariates, from its traits' se.

    Parameters
    ----------
    beta, se, df, sums
        As for `voxel_effects`.

    Returns
    -------
    [float64, shape: (n_variants,)]
    """
    beta, se = np.asarray(beta, dtype=np.float64), np.asarray(se, dtype=np.float64)
    df = np.asarray(df, dtype=np.float64)[:, None]  # (m, 1)
    return np.asarray(((df * se**2 + beta**2) / np.diag(sums)).mean(axis=1))


def se_error(n: NDArray[Any], n_all: int) -> NDArray[np.float64]:
    """How far `voxel_effects` is off in se, relative, where people lack the genotype.

    A sum of squares over n of n_all people varies about its share of the whole by
    √(2 (1/n − 1/n_all)) where residuals are normal, and se by half of that: this is one standard
    deviation over variants and voxels. At 1% missing it is 1.6e-3 with 2,000 people and 3e-4 with
    53,000, and z changes by as much of itself. Measured beside direct regression of 2,000 people:
    1.6e-3 in root mean square, at most 1.2e-2 of two million pairs, where z was off by 0.03 at
    most (benchmarks/results/voxels.md).

    Parameters
    ----------
    n
        [int, shape: (n_variants,)] People with the genotype.
    n_all
        People on whom S rests.

    Returns
    -------
    [float64, shape: (n_variants,)]

    >>> se_error(np.array([2000, 1980]), 2000).round(4)
    array([0.    , 0.0016])
    """
    with np.errstate(divide="ignore"):
        return np.sqrt(np.maximum(1 / np.asarray(n, dtype=np.float64) - 1 / n_all, 0.0) / 2)


def mixed_voxel_effects(
    beta: NDArray[Any],
    se: NDArray[Any],
    correlation: NDArray[np.float64],
    basis: NDArray[np.floating],
    inflation: NDArray[np.float64] | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Effect of variants on voxels, and its standard error, from those of a mixed model.

    β_v = b_v'β and se_v² = b_v'DRD b_v with D the traits' se. The mixed model of a trait weighs
    people by the trait's own heritability: no regression of a voxel gives just these numbers, and
    their law without an effect is right all the same.

    Parameters
    ----------
    beta, se
        [float, shape: (n_variants, r)] Of the traits.
    correlation
        [float64, shape: (r, r)] R, of the traits' statistics for a variant without an effect.
    basis
        [shape: (r, n_voxels)] B.
    inflation
        [float64, shape: (n_voxels,)] What se² is multiplied by: variance of a voxel over that of
        its map, if its own noise is wanted.

    Returns
    -------
    (beta, se)
        [float64, shape: (n_variants, n_voxels)] each, in units of the maps.
    """
    beta, se = np.asarray(beta, dtype=np.float64), np.asarray(se, dtype=np.float64)
    effect, error = np.empty((2, len(beta), basis.shape[1]))
    for place, b in _parts(basis):
        effect[:, place] = beta @ b  # (m, part)
        for row, own in enumerate(se):
            scaled = own[:, None] * b  # (r, part)
            squared = np.einsum("rv,rv->v", scaled, correlation @ scaled)
            error[row, place] = np.sqrt(np.maximum(squared, 0.0))
    if inflation is not None:
        error *= np.sqrt(inflation)
    return effect, error


def voxel_neg_log10_p(
    effect: NDArray[np.float64], error: NDArray[np.float64], df: NDArray[Any]
) -> NDArray[np.float64]:
    """−log10 p of effects on voxels.

    Parameters
    ----------
    effect, error
        [float64, shape: (n_variants, n_voxels)] β and se.
    df
        [float, shape: (n_variants,)] Residual degrees of freedom.

    Returns
    -------
    [float64, shape: (n_variants, n_voxels)] 0 where a voxel does not vary.
    """
    df = np.asarray(df, dtype=np.float64)[:, None]  # (m, 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.square(effect / error) / df
    ratio[(effect == 0) & (error == 0)] = 0.0
    return neg_log10_f_tail(ratio, 1, df)


def region_basis(
    basis: NDArray[np.floating], labels: NDArray[np.integer], numbers: NDArray[np.integer]
) -> NDArray[np.float64]:
    """What one more of a trait adds to the mean of each region: the mean column of its voxels.

    Parameters
    ----------
    basis
        [shape: (r, n_voxels)] B.
    labels
        [int, shape: (n_voxels,)] Region of each voxel.
    numbers
        [int, shape: (n_regions,)] Regions, each of which has a voxel.

    Returns
    -------
    [float64, shape: (r, n_regions)]
    """
    columns = [basis[:, labels == number].mean(axis=1, dtype=np.float64) for number in numbers]
    return np.stack(columns, axis=1)


@dataclass(frozen=True)
class VoxelHits:
    """Pairs of a variant and a voxel beyond a threshold.

    Attributes
    ----------
    variant, voxel
        [int64, shape: (n_pairs,)] Places in the block and in the basis.
    beta, se, neg_log10_p
        [float64, shape: (n_pairs,)]
    """

    variant: NDArray[np.int64]
    voxel: NDArray[np.int64]
    beta: NDArray[np.float64]
    se: NDArray[np.float64]
    neg_log10_p: NDArray[np.float64]


class VoxelScan:
    """All variants against all voxels, of which only what passes a threshold is made.

    With w = √g S^(-1/2)'β of a variant and u_v = S^(1/2)'b_v / √(b_v'S b_v) of a voxel, both in r
    dimensions, the partial correlation of the two is w'u_v, and u_v has length 1. So the canonical
    R² = ‖w‖² of a variant with all traits bounds its r² with every voxel: variants below the bound
    are done, exactly. Without an effect df R² is about r, so at 5e-8 this spares most variants of
    less than some 20 traits, and few of 50 and more. Of the others the products are made in
    float32, and those within their rounding of the threshold again in float64. With the variances
    of the voxels themselves u_v is shorter than 1, and the bound holds all the more.

    Parameters
    ----------
    sums
        [float64, shape: (r, r)] S, as for `voxel_variances`.
    basis
        [shape: (r, n_voxels)] B.
    variances
        [float64, shape: (n_voxels,)] From `voxel_variances`, or from `own_variances`.
    p_threshold
        Largest p of a pair.
    """

    def __init__(
        self,
        sums: NDArray[np.float64],
        basis: NDArray[np.floating],
        variances: NDArray[np.float64],
        p_threshold: float,
    ) -> None:
        self.sums, self.basis = sums, basis
        self.threshold = float(-np.log10(p_threshold))
        self.p_threshold = p_threshold
        self.variances = variances
        evals, evecs = np.linalg.eigh(sums)
        kept = evals > SINGULAR * evals[-1]
        half = evecs[:, kept] * np.sqrt(evals[kept])  # (r, k): S = half half'
        self.whitening = evecs[:, kept] / np.sqrt(evals[kept])  # (r, k)
        self.directions = np.zeros((half.shape[1], basis.shape[1]), dtype=np.float32)  # (k, V)
        varies = self.variances > 0
        for place, b in _parts(basis):
            length = np.sqrt(np.where(varies[place], self.variances[place], 1.0))
            self.directions[:, place] = np.where(varies[place], half.T @ b / length, 0.0)

    def passing(self, beta: NDArray[Any], se: NDArray[Any], df: NDArray[Any]) -> NDArray[np.int64]:
        """Variants that may have a voxel beyond the threshold, by their joint R².

        Parameters
        ----------
        beta, se
            [float, shape: (n_variants, r)] Of the traits; NaN where not tested.
        df
            [float, shape: (n_variants,)]

        Returns
        -------
        [int64, shape: (n_passing,)] Their places.
        """
        w, smallest = self._whitened(beta, se, df)
        with np.errstate(invalid="ignore"):
            # what rounding may add to the bound itself is let pass
            return np.flatnonzero(np.linalg.norm(w, axis=1) >= smallest * (1 - 1e-9))

    def hits(self, beta: NDArray[Any], se: NDArray[Any], df: NDArray[Any]) -> Iterator[VoxelHits]:
        """Pairs of some variants beyond the threshold, a part of the voxels at a time.

        Parameters
        ----------
        beta, se, df
            As for `passing`; of variants that were tested.

        Yields
        ------
        VoxelHits
            By variant, then voxel, within a part.
        """
        beta, se = np.asarray(beta, dtype=np.float64), np.asarray(se, dtype=np.float64)
        df = np.asarray(df, dtype=np.float64)
        w, smallest = self._whitened(beta, se, df)  # (m, k), (m,)
        # a float32 sum of k products of vectors of lengths ‖w‖ and 1 is off by less than this
        slack = (w.shape[1] + 4) * ROUNDING * np.linalg.norm(w, axis=1)
        least = (smallest - slack).astype(np.float32)[:, None]  # (m, 1)
        screened = w.astype(np.float32)
        for start in range(0, self.basis.shape[1], AT_ONCE):
            place = slice(start, start + AT_ONCE)
            near = np.abs(screened @ self.directions[:, place]) >= least  # (m, part)
            voxels = np.flatnonzero(near.any(axis=0))
            if len(voxels) == 0:
                continue
            columns = start + voxels
            effect, error = voxel_effects(
                beta, se, df, self.sums, self.basis[:, columns], self.variances[columns]
            )
            neg_log10_p = voxel_neg_log10_p(effect, error, df)  # (m, n_near)
            row, column = np.nonzero(neg_log10_p >= self.threshold)
            yield VoxelHits(
                row,
                columns[column],
                *(each[row, column] for each in (effect, error, neg_log10_p)),
            )

    def _whitened(
        self, beta: NDArray[Any], se: NDArray[Any], df: NDArray[Any]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Vectors w of variants (m, k), and the smallest correlation beyond the threshold (m,)."""
        reciprocal = variant_reciprocals(beta, se, df, self.sums)  # (m,)
        w = np.asarray(beta, dtype=np.float64) @ self.whitening / np.sqrt(reciprocal)[:, None]
        t = special.stdtrit(np.asarray(df, dtype=np.float64), self.p_threshold / 2)
        return w, np.abs(t) / np.sqrt(np.square(t) + df)


def _parts(basis: NDArray[np.floating]) -> Iterator[tuple[slice, NDArray[np.float64]]]:
    """Columns of a basis in float64, some at a time, and where they stand."""
    for start in range(0, basis.shape[1], AT_ONCE):
        place = slice(start, start + AT_ONCE)
        yield place, np.asarray(basis[:, place], dtype=np.float64)

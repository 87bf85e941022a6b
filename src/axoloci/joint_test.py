"""Exact joint test of several traits from their own associations, variant by variant.

Beta and se of every trait give the partial correlation of the variant with each; with the traits'
own correlation these give the share R² of the variant's variance that all traits together explain,
which is the F test of a regression of the genotype on covariates and traits. Any invertible remix
of the traits leaves it as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import linalg

from axoloci.errors import InputError
from axoloci.statistics import neg_log10_f_tail

MAX_CONDITION = 1e10  # beyond it R⁻¹ has lost more digits than the float32 store holds
TRAIT_P = 0.05  # of a trait that carries a variant, divided by the number of traits
MAX_MISFIT = 0.002  # K (1/df − 1/df of everybody): at 5e-8 the type-1 error may be 1.1 times that


@dataclass(frozen=True)
class JointResult:
    """Joint test of a block of variants; NaN where a variant could not be tested.

    Attributes
    ----------
    r2
        [float64, shape: (n_variants,)] Canonical R² of the variant with all traits.
    f
        [float64, shape: (n_variants,)] Its F statistic, K and n − p − K degrees of freedom.
    neg_log10_p
        [float64, shape: (n_variants,)]
    too_few
        [bool, shape: (n_variants,)] Not tested because too many people lack the genotype.
    """

    r2: NDArray[np.float64]
    f: NDArray[np.float64]
    neg_log10_p: NDArray[np.float64]
    too_few: NDArray[np.bool_]


def whiten_traits(correlation: NDArray[Any], traits: Sequence[str]) -> NDArray[np.float64]:
    """Matrix W with W'W = R⁻¹, so that R² of a variant is ‖W r‖².

    Parameters
    ----------
    correlation
        [float64, shape: (n_traits, n_traits)] Correlation of the covariate-adjusted traits.
    traits
        Their names, for the error.

    Returns
    -------
    [float64, shape: (n_traits, n_traits)] Lower triangular.

    Raises
    ------
    InputError
        The matrix is not a correlation, or some traits are combinations of others (named).
    """
    correlation = np.asarray(correlation, dtype=np.float64)
    n_traits = len(traits)
    if correlation.shape != (n_traits, n_traits):
        raise InputError(
            f"trait correlation has shape {correlation.shape} for {n_traits} traits; "
            "run the association again"
        )
    if (
        not np.isfinite(correlation).all()
        or np.abs(correlation - correlation.T).max() > 1e-6
        or np.abs(np.diag(correlation) - 1).max() > 1e-6
    ):
        raise InputError(
            "trait correlation is not a symmetric matrix with ones on its diagonal; "
            "run the association again"
        )
    evals, evecs = np.linalg.eigh(correlation)
    if evals[0] * MAX_CONDITION < evals[-1]:
        loading = np.abs(evecs[:, 0])
        tied = [traits[i] for i in np.argsort(-loading) if loading[i] > 0.1 * loading.max()]
        raise InputError(
            "the traits are linearly dependent, so their joint test is not defined: "
            f"{', '.join(tied[:10])}{f' and {len(tied) - 10} more' if len(tied) > 10 else ''} "
            "add up to a constant; leave one of them out"
        )
    cholesky = np.linalg.cholesky(correlation)  # (K, K): R = C C'
    return np.asarray(
        linalg.solve_triangular(cholesky, np.eye(n_traits), lower=True), dtype=np.float64
    )


def partial_correlation(
    beta: NDArray[Any], se: NDArray[Any], df: NDArray[Any]
) -> NDArray[np.float64]:
    """Partial correlation of variants and traits given the covariates, r = t / √(t² + df).

    Parameters
    ----------
    beta, se
        [float, shape: (n_variants, n_traits)] Effects and their standard errors.
    df
        [float, shape: (n_variants, n_traits)] Residual degrees of freedom of each regression.

    Returns
    -------
    [float64, shape: (n_variants, n_traits)] NaN where se is not positive.
    """
    beta = np.asarray(beta, dtype=np.float64)
    se = np.asarray(se, dtype=np.float64)
    with np.errstate(invalid="ignore"):
        # beta / √(beta² + df se²), so that a perfect fit with se = 0 is no division by zero
        r = beta / np.hypot(beta, se * np.sqrt(np.asarray(df, dtype=np.float64)))  # (M, K)
        return np.where(se >= 0, r, np.nan)


def joint_test(
    beta: NDArray[Any],
    se: NDArray[Any],
    df: NDArray[Any],
    df_all: int,
    whitening: NDArray[np.float64],
) -> JointResult:
    """Exact F test of the canonical R² of each variant with all traits.

    R² = r'R⁻¹r with r the partial correlations; F = (R²/K) / ((1 − R²)/(n − p − K)). Exact where
    everybody has the genotype. Where some lack it, R of everybody stands for R of the others; its
    eigenvalues are off by up to 2√(K(1/df − 1/df_all)), and the variant is left out where that
    exceeds 0.2.

    Parameters
    ----------
    beta, se
        [float, shape: (n_variants, n_traits)] Effects and standard errors of the association.
    df
        [float, shape: (n_variants, n_traits)] Residual degrees of freedom of each regression,
        n − p − 1 with p covariates, intercept included.
    df_all
        The same for everybody on whom the traits' correlation rests.
    whitening
        [float64, shape: (n_traits, n_traits)] From `whiten_traits`.

    Returns
    -------
    JointResult

    Raises
    ------
    InputError
        Too few people for so many traits, or beta and se do not belong to the correlation.

    References
    ----------
    Canonical correlation: doi:10.1093/biomet/28.3-4.321; eigenvalues of a correlation of few:
    doi:10.1070/SM1967v001n04ABEH001994
    """
    n_traits = beta.shape[1]
    assert beta.shape == se.shape == df.shape
    assert whitening.shape == (n_traits, n_traits)
    fewest, too_few = smallest_df(df, df_all)
    r = partial_correlation(beta, se, df)  # (M, K)
    r2 = np.square(r @ whitening.T).sum(axis=1)  # (M,)
    too_few &= np.isfinite(r2)
    r2[too_few] = np.nan
    if (r2 > 1 + 1e-6).any():
        raise InputError(
            f"{int((r2 > 1 + 1e-6).sum())} variants have a joint R² above 1: beta and se do not "
            "belong to trait_correlation.npy; run the association again"
        )
    r2 = np.minimum(r2, 1 - np.finfo(np.float64).eps)
    df2 = np.maximum(fewest + 1 - n_traits, 1)  # (M,): n − p − K
    f = (r2 / n_traits) / ((1 - r2) / df2)
    return JointResult(r2, f, neg_log10_p(r2, n_traits, df2), too_few)


def smallest_df(df: NDArray[Any], df_all: int) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Degrees of freedom of a joint test of each variant, and whether they are too few for it.

    Parameters
    ----------
    df, df_all
        As for `joint_test`.

    Returns
    -------
    (fewest, too_few)
        [float64, shape: (n_variants,)] The smallest of all traits; [bool, shape: (n_variants,)].

    Raises
    ------
    InputError
        Even everybody's are too few for so many traits.
    """
    n_traits = df.shape[1]
    if df_all + 1 <= n_traits:
        raise InputError(
            f"{n_traits} traits cannot be tested jointly with {df_all} residual degrees of freedom "
            "(people less covariates); choose fewer traits"
        )
    fewest = np.maximum(np.asarray(df, dtype=np.float64).min(axis=1), 0.5)
    return fewest, n_traits * (1 / fewest - 1 / df_all) > MAX_MISFIT


def neg_log10_p(r2: NDArray[Any], df1: float, df2: NDArray[Any] | float) -> NDArray[np.float64]:
    """−log10 p of an R² with `df1` tested and `df2` residual degrees of freedom.

    Nothing underflows. With df1 = 1 it is the two-sided t test of a partial correlation whose
    square is `r2`.

    Parameters
    ----------
    r2
        [float64, shape: (n_variants,)] From 0 to below 1; NaN gives NaN.
    df1, df2
        Degrees of freedom; df2 [shape: (n_variants,)] or one number.

    Returns
    -------
    [float64, shape: (n_variants,)]
    """
    r2 = np.asarray(r2, dtype=np.float64)
    return neg_log10_f_tail(r2 / (1 - r2), df1, df2)


def carrying_traits(neg_log10_p: NDArray[Any]) -> NDArray[np.int64]:
    """Traits that carry a variant found jointly: those with p < 0.05 / K (Bonferroni).

    Parameters
    ----------
    neg_log10_p
        [float, shape: (n_traits,)] Of the variant with each trait.

    Returns
    -------
    [int64] Traits, smallest p first; may be empty, as many weak effects can add up.
    """
    order = np.argsort(-neg_log10_p, kind="stable")
    return np.asarray(order[neg_log10_p[order] > -np.log10(TRAIT_P / len(neg_log10_p))])

"""Joint test of all traits of a mixed model, one variant at a time, and inflation.

The exact F test of the canonical R² is that of `axoloci.joint_test`. A mixed model weighs the
people of each trait by its own heritability, and no regression of the genotype gives its
statistics: their joint law is that of their correlation for variants without an effect.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

from axoloci.joint_test import JointResult, smallest_df
from axoloci.statistics import neg_log10_f_tail

CHI2_MEDIAN = 0.45493642311957283  # of one degree of freedom


def mixed_joint_test(
    beta: NDArray[Any],
    se: NDArray[Any],
    df: NDArray[Any],
    df_all: int,
    whitening: NDArray[np.float64],
) -> JointResult:
    """Joint test of each variant with all traits of a mixed model: Hotelling's T².

    T² = t'R⁻¹t with the traits' t and their correlation R for variants without an effect; T²/K has
    an F distribution with K and n − p − 1 degrees of freedom, that of one trait exactly. Slightly
    conservative where K is no longer small beside n. Where some people lack the genotype, as for
    `joint_test`.

    Parameters
    ----------
    beta, se, df, df_all
        As for `joint_test`.
    whitening
        [float64, shape: (n_traits, n_traits)] From `whiten_traits`, of R.

    Returns
    -------
    JointResult
        `r2` is T²/(T² + df).

    References
    ----------
    doi:10.1214/aoms/1177732979
    """
    n_traits = beta.shape[1]
    assert beta.shape == se.shape == df.shape
    assert whitening.shape == (n_traits, n_traits)
    fewest, too_few = smallest_df(df, df_all)
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.asarray(beta, dtype=np.float64) / np.asarray(se, dtype=np.float64)  # (M, K)
    t2 = np.square(t @ whitening.T).sum(axis=1)  # (M,)
    too_few &= np.isfinite(t2)
    t2[too_few] = np.nan
    ratio = t2 / fewest
    p = neg_log10_f_tail(ratio, n_traits, fewest)
    return JointResult(ratio / (1 + ratio), t2 / n_traits, p, too_few)


def lambda_gc(neg_log10_p: NDArray[Any]) -> float:
    """Genomic inflation: median χ² of one degree of freedom at these p, over its expectation.

    Parameters
    ----------
    neg_log10_p
        [float, shape: (n_variants,)] NaN is left out.

    Returns
    -------
    float
        1 under the null; NaN without a variant.
    """
    neg_log10_p = neg_log10_p[np.isfinite(neg_log10_p)]
    if neg_log10_p.size == 0:
        return float("nan")
    median_p = 10.0 ** -min(float(np.median(neg_log10_p)), 300.0)
    return float(special.chdtri(1, median_p)) / CHI2_MEDIAN

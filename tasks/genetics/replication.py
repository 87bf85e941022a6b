"""Replication of a joint test: whether the traits that a locus changed are changed again.

A second joint test would ask whether the variant changes any combination of the traits. The
combination is known by now, so one directed test with one degree of freedom is asked instead.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from axoloci.errors import InputError

LEVEL = 0.05
"""Family-wise error rate of the replication, shared by the leads that can be tested."""


@dataclass(frozen=True)
class Replication:
    """Directed test of each lead variant; NaN where it could not be tested.

    Attributes
    ----------
    r
        [float64, shape: (n_leads,)] Partial correlation of the variant with the discovery's
        combination of traits; above 0 if the effect has the discovery's direction.
    neg_log10_p
        [float64, shape: (n_leads,)] One-sided.
    p_threshold
        Largest p of a lead that is replicated.
    replicated
        [bool, shape: (n_leads,)] p of at most `p_threshold`.
    """

    r: NDArray[np.float64]
    neg_log10_p: NDArray[np.float64]
    p_threshold: float
    replicated: NDArray[np.bool_]


def combined_correlation(
    r_discovery: NDArray[np.float64],
    correlation_discovery: NDArray[np.float64],
    sd_discovery: NDArray[np.float64],
    r_replication: NDArray[np.float64],
    correlation_replication: NDArray[np.float64],
    sd_replication: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Correlation of each lead, in other people, with the combination of traits that it changed.

    The discovery's regression of the genotype on the traits gives the combination; in the
    replication its correlation with the variant follows from those of the traits.

    Parameters
    ----------
    r_discovery, r_replication
        (n_leads, n_traits) partial correlations of variants and traits given the covariates, for
        the same effect allele; a row of NaN where the replication lacks the variant.
    correlation_discovery, correlation_replication
        (n_traits, n_traits) correlation of the covariate-adjusted traits.
    sd_discovery, sd_replication
        (n_traits,) their standard deviations: a trait keeps its unit between the cohorts, not its
        variance.

    Returns
    -------
    float64, (n_leads,)
        Above 0 if the effect has the discovery's direction. With one trait it is the trait's own.

    Raises
    ------
    InputError
        The traits of the discovery are linearly dependent.
    """
    try:
        weight = np.linalg.solve(correlation_discovery, r_discovery.T).T  # (n_leads, K) of SDs
    except np.linalg.LinAlgError as error:
        raise InputError("the traits of the discovery are linearly dependent") from error
    weight = weight / sd_discovery * sd_replication
    variance = np.einsum("lk,kj,lj->l", weight, correlation_replication, weight)
    return np.asarray((weight * r_replication).sum(axis=1) / np.sqrt(variance))


def replicate(
    r: NDArray[np.float64], df: NDArray[Any], p_threshold: float | None = None
) -> Replication:
    """Test each lead in the direction of the discovery.

    Parameters
    ----------
    r
        (n_leads,) from `combined_correlation`, each variant once.
    df
        (n_leads,) residual degrees of freedom in the replication.
    p_threshold
        Of each lead; None is `LEVEL` divided by the number of leads that can be tested.
    """
    df = np.asarray(df, dtype=np.float64)
    t = r * np.sqrt(df / np.maximum(1 - r * r, 1e-300))
    neg_log10_p = -stats.t.logsf(t, df) / np.log(10)
    tested = np.isfinite(neg_log10_p)
    if p_threshold is None:
        p_threshold = LEVEL / max(1, int(tested.sum()))
    replicated = tested & (neg_log10_p >= -np.log10(p_threshold))
    return Replication(r, neg_log10_p, p_threshold, replicated)


def rate_interval(n_replicated: int, n_tested: int) -> tuple[float, float]:
    """95% confidence interval of the replication rate; of no leads it is 0 to 1.

    References
    ----------
    Wilson 1927, doi:10.1080/01621459.1927.10502953
    """
    if not n_tested:
        return 0.0, 1.0
    interval = stats.binomtest(n_replicated, n_tested).proportion_ci(0.95, method="wilson")
    return float(interval.low), float(interval.high)


def sign_test(r: NDArray[np.float64]) -> float:
    """One-sided p of as many effects or more in the discovery's direction, if signs were random."""
    known = r[np.isfinite(r)]
    if not len(known):
        return 1.0
    same = int((known > 0).sum())
    return float(stats.binomtest(same, len(known), alternative="greater").pvalue)

"""Meta-analysis: effects of several studies combined by the inverse of their variances."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from axoloci.statistics import neg_log10_gamma_tail, neg_log10_normal

Model = Literal["fixed", "random"]
MODEL: Model = "fixed"
"""One effect in all studies; the random model has a distribution of effects."""


@dataclass(frozen=True)
class Combined:
    """Effects over studies; all arrays have the shape of one study's.

    Attributes
    ----------
    beta, se
        [float64] Combined effect and its standard error; NaN where no study has one.
    neg_log10_p
        [float64] Two-sided, by the normal law.
    n_studies
        [int64] That have an effect.
    q
        [float64] Cochran's Q of heterogeneity; NaN with fewer than two studies, as what follows.
    neg_log10_q_p
        [float64] Of Q, by the χ² law with n_studies − 1 degrees of freedom.
    i2
        [float64] I², 0 to 1: share of the variation between studies that is not sampling error.
    tau2
        [float64] Variance of the effect between studies (DerSimonian–Laird), 0 in the fixed model.
    """

    beta: NDArray[np.float64]
    se: NDArray[np.float64]
    neg_log10_p: NDArray[np.float64]
    n_studies: NDArray[np.int64]
    q: NDArray[np.float64]
    neg_log10_q_p: NDArray[np.float64]
    i2: NDArray[np.float64]
    tau2: NDArray[np.float64]


def has_effect(beta: NDArray[np.float64], se: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which effects count: those that are known, with a standard error above 0."""
    with np.errstate(invalid="ignore"):
        return np.asarray(np.isfinite(beta) & (se > 0) & np.isfinite(se))


def combine_studies(beta: NDArray[Any], se: NDArray[Any], model: Model = MODEL) -> Combined:
    """Combine effects by the inverse of their variances.

    Parameters
    ----------
    beta, se
        [float, shape: (n_studies, ...)] For the same effect allele and in the same units. A
        study without an effect (`has_effect`) does not count.
    model
        "fixed": weights 1/se². "random": weights 1/(se² + τ²), with τ² by DerSimonian and Laird.

    References
    ----------
    Q: Cochran 1954, doi:10.2307/3001666. I²: Higgins and Thompson 2002, doi:10.1002/sim.1186.
    τ²: DerSimonian and Laird 1986, doi:10.1016/0197-2456(86)90046-2.
    """
    effects, errors = np.asarray(beta, dtype=np.float64), np.asarray(se, dtype=np.float64)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        counts = has_effect(effects, errors)  # (n_studies, ...)
        variances = np.where(counts, np.square(errors), np.inf)  # a weight of zero
        effects = np.where(counts, effects, 0.0)
        n_studies = counts.sum(axis=0)
        mean, total = _weighted_mean(effects, variances)
        weights = 1 / variances
        q = (weights * np.square(effects - mean)).sum(axis=0)
        df = n_studies - 1.0
        several = n_studies > 1
        q = np.where(several, q, np.nan)
        tau2 = np.zeros_like(total)
        if model == "random":
            spread = total - np.square(weights).sum(axis=0) / total
            tau2 = np.where(several, np.maximum(0.0, (q - df) / spread), 0.0)
            mean, total = _weighted_mean(effects, variances + tau2)
        combined_se = np.where(n_studies > 0, 1 / np.sqrt(total), np.nan)
        i2 = np.where(q > df, (q - df) / q, np.where(several, 0.0, np.nan))
        tau2 = np.where(several, tau2, np.nan)
    return Combined(
        beta=mean,
        se=combined_se,
        neg_log10_p=neg_log10_normal(mean / combined_se),
        n_studies=n_studies,
        q=q,
        neg_log10_q_p=_neg_log10_chi2_tail(q, df),
        i2=i2,
        tau2=tau2,
    )


def _weighted_mean(
    effects: NDArray[np.float64], variances: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean over studies by the inverse of the variances, and the sum of these weights."""
    weights = 1 / variances
    total = weights.sum(axis=0)
    return (weights * effects).sum(axis=0) / total, total


def _neg_log10_chi2_tail(q: NDArray[np.float64], df: NDArray[np.float64]) -> NDArray[np.float64]:
    """−log10 p of χ², whose degrees of freedom differ between the values."""
    result = np.full(np.shape(q), np.nan)
    for own in np.unique(df[df > 0]):
        result[df == own] = neg_log10_gamma_tail(q[df == own] / 2, own / 2)
    return result

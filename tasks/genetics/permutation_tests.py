"""MOSTest and minP: tests of all traits at once whose null is that of permuted genotypes.

Both take what they cannot derive from statistics of the same traits with variants whose people were
permuted, so that nothing is assumed of how the traits are distributed. They are offered beside the
exact F test: MOSTest for comparison with published studies, minP for effects on few traits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

from axoloci.errors import InputError
from axoloci.statistics import neg_log10_f_tail, neg_log10_gamma_tail

MIN_PERMUTED = 1000  # statistics; the null's shape is unsure by over 4% with fewer
VARIANCE_KEPT = (
    0.99  # of the traits; smaller eigenvalues of their correlation count as the last one
)
LARGEST = 300.0  # −log10 p; beyond it p itself is no float64


@dataclass(frozen=True)
class Mostest:
    """MOSTest's statistic z'C⁻¹z and its null distribution.

    Attributes
    ----------
    whitening
        [float64, shape: (n_traits, n_traits)] W with W'W = C⁻¹, C the correlation with its smallest
        eigenvalues raised.
    shape, scale
        Of the gamma distribution of the statistic.
    """

    whitening: NDArray[np.float64]
    shape: float
    scale: float


@dataclass(frozen=True)
class MinP:
    """Null distribution of the smallest p of all traits, Beta(a, b).

    Attributes
    ----------
    a, b
        Of the beta distribution; of n independent tests 1 and n.
    """

    a: float
    b: float

    @property
    def n_effective(self) -> float:
        """Independent tests whose smallest p has the same mean."""
        return self.b / self.a


def _finite(permuted: NDArray[Any]) -> NDArray[np.float64]:
    """Permuted variants that have a result of all traits."""
    t = np.asarray(permuted, dtype=np.float64)
    t = t[np.isfinite(t).all(axis=1)]
    if len(t) < MIN_PERMUTED:
        raise InputError(
            f"{len(t)} permuted variants have a result of all these traits, and the null of "
            f"MOSTest and minP needs {MIN_PERMUTED}: run the association again with a larger "
            "--n-permuted, or with more variants"
        )
    return t


def fit_mostest(
    permuted: NDArray[Any],
    correlation: NDArray[np.float64],
    variance_kept: float = VARIANCE_KEPT,
) -> Mostest:
    """MOSTest's statistic for these traits, and its null from permuted genotypes.

    Parameters
    ----------
    permuted
        [float, shape: (n_permuted, n_traits)] t of permuted variants.
    correlation
        [float64, shape: (n_traits, n_traits)] Of the covariate-adjusted traits.
    variance_kept
        Share of the traits' variance in eigenvalues that stay as they are; the others are raised to
        the smallest of these, for they are mostly noise.

    Raises
    ------
    InputError
        Too few permuted variants.

    References
    ----------
    van der Meer et al. 2020, doi:10.1038/s41467-020-17368-1
    """
    t = _finite(permuted)
    evals, evecs = np.linalg.eigh(correlation)  # ascending
    share = np.cumsum(evals[::-1]) / evals.sum()
    n_kept = min(int(np.searchsorted(share, variance_kept)) + 1, len(evals))
    evals = np.maximum(evals, evals[-n_kept])
    whitening = (evecs / np.sqrt(evals)).T  # (K, K)
    statistic = np.square(t @ whitening.T).sum(axis=1)
    shape, _, scale = stats.gamma.fit(statistic, floc=0)
    return Mostest(whitening, float(shape), float(scale))


def mostest(t: NDArray[Any], null: Mostest) -> NDArray[np.float64]:
    """−log10 p of MOSTest.

    Parameters
    ----------
    t
        [float, shape: (n_variants, n_traits)] Statistics of the association.
    null
        From `fit_mostest`.

    Returns
    -------
    [float64, shape: (n_variants,)] NaN where a trait was not tested.
    """
    statistic = np.square(np.asarray(t, dtype=np.float64) @ null.whitening.T).sum(axis=1)
    return neg_log10_gamma_tail(statistic / null.scale, null.shape)


def fit_min_p(permuted: NDArray[Any], df: float) -> MinP:
    """The distribution that the smallest p of these traits has without an effect.

    Parameters
    ----------
    permuted
        [float, shape: (n_permuted, n_traits)] t of permuted variants.
    df
        Their degrees of freedom.

    Raises
    ------
    InputError
        Too few permuted variants.

    References
    ----------
    Beta distribution of smallest p: Dudbridge and Koeleman 2004, doi:10.1086/423738
    """
    largest = np.abs(_finite(permuted)).max(axis=1)
    smallest_p = 2 * special.stdtr(df, -largest)
    a, b, _, _ = stats.beta.fit(smallest_p, floc=0, fscale=1)
    return MinP(float(a), float(b))


def min_p(neg_log10_p: NDArray[Any], null: MinP) -> NDArray[np.float64]:
    """−log10 p of the smallest p of all traits.

    Parameters
    ----------
    neg_log10_p
        [float, shape: (n_variants,)] Of the trait with the smallest p.
    null
        From `fit_min_p`.

    Returns
    -------
    [float64, shape: (n_variants,)] NaN stays NaN.
    """
    observed = np.asarray(neg_log10_p, dtype=np.float64)
    ratio = 10.0 ** np.minimum(observed, LARGEST) - 1  # (1 − p) / p
    found = neg_log10_f_tail(ratio, 2 * null.b, np.full(observed.shape, 2 * null.a))
    # in the far tail the distribution function is p^a / (a B(a, b))
    far = null.a * observed + (np.log(null.a) + special.betaln(null.a, null.b)) / np.log(10)
    return np.asarray(np.where(observed > LARGEST, far, found))

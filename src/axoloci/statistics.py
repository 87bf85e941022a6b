"""Statistics that several steps share: robust deviations, and tails where float64 ends."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

_LOG_SPACE_BELOW = 1e-250  # tails smaller than this are summed as logarithms
_TINY = 1e-300  # stands for a denominator of zero in the continued fraction


def robust_z(values: ArrayLike) -> NDArray[np.float64]:
    """Distance from the median in robust standard deviations, (x − median) / (1.4826 MAD).

    Outliers move neither the median nor the spread, so that they cannot hide themselves.

    Parameters
    ----------
    values
        [float, shape: (n,)] NaN stays NaN.

    Returns
    -------
    [float64, shape: (n,)] Where more than half of the values are equal, these are zero and
    the others infinite.

    References
    ----------
    Iglewicz and Hoaglin 1993; doi:10.1016/j.jesp.2013.03.013
    """
    x = np.asarray(values, dtype=np.float64)
    if not np.isfinite(x).any():
        return np.full(x.shape, np.nan)
    distance = x - np.nanmedian(x)
    spread = 1.4826 * float(np.nanmedian(np.abs(distance)))
    if spread > 0:
        return np.asarray(distance / spread)
    return np.where(distance == 0, 0.0, np.copysign(np.inf, distance) + 0 * distance)


def neg_log10_normal(z: ArrayLike) -> NDArray[np.float64]:
    """−log10 of the two-sided p of normal scores, right far beyond the smallest float64.

    Parameters
    ----------
    z : array-like
        Scores, of either sign.

    Returns
    -------
    float64, of the shape of `z`
        NaN stays NaN.
    """
    from scipy import special

    one_sided = special.log_ndtr(-np.abs(np.asarray(z, dtype=np.float64)))  # natural logarithm
    return np.asarray(-(one_sided + np.log(2)) / np.log(10) + 0.0)  # + 0.0: no minus zero


def neg_log10_f_tail(ratio: ArrayLike, df1: float, df2: ArrayLike) -> NDArray[np.float64]:
    """−log10 p of an F test, right far beyond the smallest float64.

    With x = 1 / (1 + ratio) the tail of F is the regularised incomplete beta function
    I_x(df2 / 2, df1 / 2); below 1e-250 its continued fraction (DLMF 8.17.22) is summed, with the
    factor before it as a logarithm.

    Parameters
    ----------
    ratio : array-like
        Explained over residual sum of squares, df1 F / df2: R² / (1 − R²), or t² / df with
        df1 = 1, where the test is the two-sided one of Student's t.
    df1
        Degrees of freedom that are tested.
    df2 : array-like
        Residual degrees of freedom, of a shape that broadcasts with `ratio`.

    Returns
    -------
    float64, as broadcast
        NaN where df2 is not positive or either is NaN.
    """
    from scipy import special

    ratios, degrees = np.broadcast_arrays(
        np.asarray(ratio, dtype=np.float64), np.asarray(df2, dtype=np.float64)
    )
    result = np.full(ratios.shape, np.nan)
    usable = (degrees > 0) & ~np.isnan(ratios)
    odds, a, b = ratios[usable], degrees[usable] / 2, df1 / 2
    p = special.betainc(a, b, 1 / (1 + odds))
    with np.errstate(divide="ignore"):
        value = -np.log10(p) + 0.0  # + 0.0: no minus zero
    far = (p < _LOG_SPACE_BELOW) & np.isfinite(odds)
    if far.any():
        value[far] = -_log_beta_tail(odds[far], a[far], b) / np.log(10)
    result[usable] = value
    return result


def z_score(neg_log10_p: NDArray[np.float64]) -> NDArray[np.float64]:
    """The normal score, not negative, of a two-sided p-value, however small.

    Parameters
    ----------
    neg_log10_p : (n,)
        −log10 p.
    """
    from scipy import special

    half = -neg_log10_p * np.log(10) - np.log(2)
    return np.asarray(np.abs(special.ndtri_exp(half)))


def neg_log10_gamma_tail(x: ArrayLike, shape: float) -> NDArray[np.float64]:
    """−log10 of the upper tail of a gamma distribution, right far beyond the smallest float64.

    Below 1e-250 the continued fraction of the incomplete gamma function is summed (DLMF 8.9.2).

    Parameters
    ----------
    x : array-like
        In units of the distribution's scale.
    shape
        Of the distribution; half the degrees of freedom of a χ² / 2.

    Returns
    -------
    float64, of the shape of `x`
        NaN stays NaN.
    """
    from scipy import special

    x = np.asarray(x, dtype=np.float64)
    p = special.gammaincc(shape, x)
    with np.errstate(divide="ignore"):
        value = np.asarray(-np.log10(p) + 0.0)  # + 0.0: no minus zero
    far = (p < _LOG_SPACE_BELOW) & np.isfinite(x)
    if far.any():
        value[far] = -_log_gamma_tail(x[far], shape) / np.log(10)
    return value


def _log_gamma_tail(x: NDArray[np.float64], shape: float) -> NDArray[np.float64]:
    """Natural logarithm of Γ(shape, x) / Γ(shape) far in its tail; Lentz's method."""
    from scipy import special

    b = x + 1 - shape
    c = np.full_like(x, 1 / _TINY)
    d = 1 / np.where(np.abs(b) < _TINY, _TINY, b)
    fraction = d.copy()
    for k in range(1, 10_000):
        a = -k * (k - shape)
        b = b + 2
        d = a * d + b
        d = 1 / np.where(np.abs(d) < _TINY, _TINY, d)
        c = b + a / c
        c = np.where(np.abs(c) < _TINY, _TINY, c)
        fraction = fraction * c * d
        if (np.abs(c * d - 1) < 1e-15).all():
            break
    return np.asarray(shape * np.log(x) - x - special.gammaln(shape) + np.log(fraction))


def _log_beta_tail(
    odds: NDArray[np.float64], a: NDArray[np.float64], b: float
) -> NDArray[np.float64]:
    """Natural logarithm of I_x(a, b) far in its tail, odds = (1 − x) / x; Lentz's method."""
    from scipy import special

    x = 1 / (1 + odds)
    c = np.ones_like(x)
    d = 1 - (a + b) * x / (a + 1)
    d = 1 / np.where(np.abs(d) < _TINY, _TINY, d)
    fraction = d.copy()
    for m in range(1, 1000):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for term in (even, odd):
            d = 1 + term * d
            d = 1 / np.where(np.abs(d) < _TINY, _TINY, d)
            c = 1 + term / c
            c = np.where(np.abs(c) < _TINY, _TINY, c)
            fraction = fraction * c * d
        if (np.abs(c * d - 1) < 1e-15).all():
            break
    log_front = b * np.log(odds) - (a + b) * np.log1p(odds)  # x^a (1 - x)^b
    log_front -= special.betaln(a, b) + np.log(a)
    return np.asarray(log_front + np.log(fraction))

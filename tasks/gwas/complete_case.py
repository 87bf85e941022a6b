"""Regression of many traits on one variant at a time, with the missing genotypes left out exactly.

Let Q be the orthonormal covariates (intercept included), y the traits adjusted for them, g0 the
genotypes with zeros where missing, S the m people without a genotype. With

    a = Q'g0,  b = Q_S'y_S,  (I - Q_S'Q_S) c = a

the regression over the people who have a genotype is

    g'g  = g0'g0 - a'c
    beta = (g0'y + c'b) / g'g
    y'y  = y'y - y_S'y_S - b'(I - Q_S'Q_S)^-1 b
    se^2 = (y'y / g'g - beta^2) / (n - m - rank(Q) - 1)

so one product of the genotypes with [y, Q] serves all traits, and only the missing people are
touched again. The minor allele is counted inside (small numbers keep float32 exact); results are
for the effect allele.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
import numpy as np
from numpy.typing import NDArray

MAX_VIF = 1000.0  # beyond: the covariates explain over 99.9% of the genotype, too little is left
MIN_PIVOT = 1e-6  # of I - Q_S'Q_S: below, a covariate has lost all its people

TESTED, MONOMORPHIC, TOO_FEW, COLLINEAR = range(4)
STATUS_NAMES = (
    "tested",
    "monomorphic",
    "too_few_genotypes",
    "collinear_with_covariates",
)

Function = TypeVar("Function", bound=Callable[..., Any])


def _compiled(function: Function) -> Function:
    """Compile by numba without the GIL; kept on disk where a folder for that can be written."""
    options: dict[str, Any] = {"nogil": True, "fastmath": {"contract", "reassoc", "nsz"}}
    try:
        return cast(Function, numba.njit(cache=True, **options)(function))
    except RuntimeError:  # no folder for the cache: a read-only image without a home
        return cast(Function, numba.njit(**options)(function))


@_compiled
def decode(dosage: NDArray[np.int8], counted: NDArray[Any], counts: NDArray[np.int32]) -> None:
    """Count the minor allele, with zeros where missing.

    Parameters
    ----------
    dosage : (n_variants, n_samples)
        Effect-allele counts 0, 1, 2; negative where missing.
    counted : (n_variants, n_samples), written
        Counts of the minor allele as floating point.
    counts : (n_variants, 3), written
        People without a genotype, with one and with two effect alleles.
    """
    n_variants, n_samples = dosage.shape
    for v in range(n_variants):
        row = dosage[v]
        n_missing = n_one = n_two = np.int32(0)
        for i in range(n_samples):
            n_missing += np.int32(row[i] < 0)
            n_one += np.int32(row[i] == 1)
            n_two += np.int32(row[i] == 2)
        counts[v, 0], counts[v, 1], counts[v, 2] = n_missing, n_one, n_two
        out = counted[v]
        if n_one + 2 * n_two > n_samples - n_missing:  # the effect allele is the major one
            for i in range(n_samples):
                out[i] = np.int8(2) - row[i] if row[i] >= 0 else np.int8(0)
        else:
            for i in range(n_samples):
                out[i] = row[i] if row[i] >= 0 else np.int8(0)


@_compiled
def regress(
    dosage: NDArray[np.int8],
    counts: NDArray[np.int32],
    products: NDArray[Any],
    q: NDArray[Any],
    y: NDArray[Any],
    scale: NDArray[np.float64],
    beta: NDArray[Any],
    se: NDArray[Any],
    status: NDArray[np.uint8],
) -> None:
    """Effect and standard error of each variant on each trait.

    Parameters
    ----------
    dosage : (n_variants, n_samples)
        As in `decode`.
    counts : (n_variants, 3)
        From `decode`.
    products : (n_variants, n_traits + n_covariates)
        Minor-allele counts times [y, q].
    q : (n_samples, n_covariates)
        Orthonormal covariates.
    y : (n_samples, n_traits)
        Adjusted traits, y'y = n_samples each.
    scale : (n_traits,)
        Unit of y in units of the trait.
    beta, se : (n_variants, n_traits), written
        Per effect allele, in units of the trait; NaN where not tested.
    status : (n_variants,), written
        Index into `STATUS_NAMES`.
    """
    n_variants, n_samples = dosage.shape
    n_covariates, n_traits = q.shape[1], y.shape[1]
    missing = np.empty(n_samples, dtype=np.int64)
    a = np.empty(n_covariates)
    c = np.empty(n_covariates)
    lower = np.empty((n_covariates, n_covariates))  # Cholesky factor of I - Q_S'Q_S
    b = np.empty((n_covariates, n_traits), dtype=y.dtype)
    gy = np.empty(n_traits)
    yy = np.empty(n_traits)
    for v in range(n_variants):
        n_missing, n_one, n_two = counts[v, 0], counts[v, 1], counts[v, 2]
        n = n_samples - n_missing
        alleles = n_one + 2 * n_two
        flip = alleles > n
        n_homozygous = n - n_one - n_two if flip else n_two
        total = n_one + 2 * n_homozygous
        squares = float(n_one + 4 * n_homozygous)  # g0'g0, a whole number
        df = n - n_covariates - 1
        beta[v, :] = np.nan
        se[v, :] = np.nan
        if df < 1:
            status[v] = TOO_FEW
            continue
        spread = squares - float(total) * float(total) / n  # around the mean
        if n_one == n or n_homozygous == n or total == 0:
            status[v] = MONOMORPHIC
            continue

        for j in range(n_covariates):
            a[j] = products[v, n_traits + j]
            c[j] = a[j]
        for k in range(n_traits):
            gy[k] = products[v, k]
            yy[k] = n_samples
        if n_missing:
            m = 0
            row = dosage[v]
            for i in range(n_samples):
                missing[m] = i
                m += row[i] < 0
            if not _factor(q, missing[:m], lower):
                status[v] = COLLINEAR
                continue
            _solve(lower, c)
            _missing_products(q, y, missing[:m], b, yy)
            for j in range(n_covariates):
                for k in range(n_traits):
                    gy[k] += c[j] * b[j, k]
            for j in range(
                n_covariates
            ):  # b becomes L^-1 b, whose squares are the last term of y'y
                for i in range(j):
                    factor = lower[j, i]
                    for k in range(n_traits):
                        b[j, k] -= factor * b[i, k]
                inverse = 1.0 / lower[j, j]
                for k in range(n_traits):
                    b[j, k] *= inverse
                    yy[k] -= b[j, k] * b[j, k]
        gg = squares
        for j in range(n_covariates):
            gg -= a[j] * c[j]
        if gg * MAX_VIF < spread:
            status[v] = COLLINEAR
            continue
        status[v] = TESTED
        sign = -1.0 if flip else 1.0
        for k in range(n_traits):
            effect = gy[k] / gg
            variance = (yy[k] / gg - effect * effect) / df
            beta[v, k] = sign * effect * scale[k]
            se[v, k] = np.sqrt(max(variance, 0.0)) * scale[k]


@_compiled
def _factor(q: NDArray[Any], missing: NDArray[np.int64], lower: NDArray[np.float64]) -> bool:
    """Cholesky factor of I - Q_S'Q_S into `lower`; False if it is singular."""
    n_covariates = q.shape[1]
    for j in range(n_covariates):
        for i in range(j + 1):
            lower[j, i] = 1.0 if i == j else 0.0
    for person in missing:
        for j in range(n_covariates):
            for i in range(j + 1):
                lower[j, i] -= q[person, j] * q[person, i]
    for j in range(n_covariates):
        for i in range(j):
            value = lower[j, i]
            for k in range(i):
                value -= lower[j, k] * lower[i, k]
            lower[j, i] = value / lower[i, i]
        pivot = lower[j, j]
        for k in range(j):
            pivot -= lower[j, k] * lower[j, k]
        if pivot < MIN_PIVOT:
            return False
        lower[j, j] = np.sqrt(pivot)
    return True


@_compiled
def _solve(lower: NDArray[np.float64], x: NDArray[np.float64]) -> None:
    """Solve L L'x = x in place."""
    n = len(x)
    for j in range(n):
        for i in range(j):
            x[j] -= lower[j, i] * x[i]
        x[j] /= lower[j, j]
    for j in range(n - 1, -1, -1):
        for i in range(j + 1, n):
            x[j] -= lower[i, j] * x[i]
        x[j] /= lower[j, j]


@_compiled
def _missing_products(
    q: NDArray[Any],
    y: NDArray[Any],
    missing: NDArray[np.int64],
    b: NDArray[Any],
    yy: NDArray[np.float64],
) -> None:
    """Write Q_S'y_S to `b`, take y_S'y_S off `yy`; four people at a time spare memory traffic."""
    n_covariates, n_traits = b.shape
    b[:, :] = 0.0
    m = len(missing)
    whole = m - m % 4
    for start in range(0, whole, 4):
        i0, i1, i2, i3 = missing[start], missing[start + 1], missing[start + 2], missing[start + 3]
        y0, y1, y2, y3 = y[i0], y[i1], y[i2], y[i3]
        for k in range(n_traits):
            yy[k] -= y0[k] * y0[k] + y1[k] * y1[k] + y2[k] * y2[k] + y3[k] * y3[k]
        for j in range(n_covariates):
            q0, q1, q2, q3 = q[i0, j], q[i1, j], q[i2, j], q[i3, j]
            row = b[j]
            for k in range(n_traits):
                row[k] += q0 * y0[k] + q1 * y1[k] + q2 * y2[k] + q3 * y3[k]
    for place in range(whole, m):
        i0 = missing[place]
        y0 = y[i0]
        for k in range(n_traits):
            yy[k] -= y0[k] * y0[k]
        for j in range(n_covariates):
            q0 = q[i0, j]
            for k in range(n_traits):
                b[j, k] += q0 * y0[k]

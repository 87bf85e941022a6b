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
touched again. The same holds for people without a trait: y is zero there and Q'y = 0 all the same,
so with P the people who have the trait, I becomes Q_P'Q_P, and the products with Q and the sums of
the genotypes are those of P.

Genotypes are counted from about their mean, for which the intercept makes up. Else g0'g0 - a'c
would be a small difference of large numbers where a variant varies little, as a poorly imputed one
does. Where the covariates explain most of a variant it is one all the same, and a is taken again in
float64. Where a variant explains much of a trait, y'y / g'g - beta^2 is another, and so are the
products of the two.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

from axoloci.io.genotypes import PackedCalls
from axoloci.tasks.gwas import packed, unpacked
from axoloci.tasks.gwas.compiled import compiled
from axoloci.tasks.gwas.null_model import NullModel, TraitGroup
from axoloci.tasks.gwas.variant_qc import N_MISSING, SQUARES, TOTAL, summarize

MAX_VIF = 1000.0  # beyond: the covariates explain over 99.9% of the genotype, too little is left
MIN_PIVOT = 1e-6  # of I - Q_S'Q_S: below, a covariate has lost all its people
FEW_COLUMNS = 64  # of a product: beyond, BLAS is fastest with a multiple of 16
LITTLE_LEFT = 0.2  # of a genotype by the covariates: below, in float64
STRONG = 0.1  # share of a trait's variance that a variant explains: beyond, in float64
CONSTANT_SPREAD = 1e-10  # of the sum of squares: below, all genotypes are equal but for rounding

TESTED, MONOMORPHIC, TOO_FEW, COLLINEAR = range(4)
STATUS_NAMES = (
    "tested",
    "monomorphic",
    "too_few_genotypes",
    "collinear_with_covariates",
)


class Fit(NamedTuple):
    """Regressions of the columns of `NullModel.y` on a block of variants.

    Attributes
    ----------
    beta, se : (n_variants, n_tested)
        Per effect allele, in units of the trait; NaN where not tested.
    n, status : (n_variants, n_groups)
        People with a genotype and the traits of each group; index into `STATUS_NAMES`.
    centred : (n_variants, n_samples)
        Counts of the effect allele less about their mean, 0 where missing; an array of the device.
    explained : (n_variants, n_covariates)
        `centred` times the orthonormal covariates; an array of the device.
    extra : (n_variants, n_extra)
        `centred` times the extra columns; an array of the device.
    factors : (n_samples, n_tested + n_covariates + n_extra or more)
        The columns of all of these products.
    """

    beta: NDArray[Any]
    se: NDArray[Any]
    n: NDArray[np.int32]
    status: NDArray[np.uint8]
    centred: Any
    explained: Any
    extra: Any
    factors: Any


class CpuRegression:
    """Regression of all traits on blocks of variants, by numba and BLAS.

    Parameters
    ----------
    model
        From `fit_null`.
    precision
        float32 or float64: of the products of genotypes and traits, and of the results.
    extra : (n_samples, n_extra), optional
        Columns that are multiplied with the genotypes as well.
    """

    def __init__(
        self, model: NullModel, precision: DTypeLike, extra: NDArray[Any] | None = None
    ) -> None:
        self.model = model
        self.exact_q, self.exact_y = np.ascontiguousarray(model.q), np.ascontiguousarray(model.y)
        self.q, self.y = self.exact_q.astype(precision), self.exact_y.astype(precision)
        self.n_extra = 0 if extra is None else extra.shape[1]
        columns = [self.y, self.q] if extra is None else [self.y, self.q, extra]
        n_columns = width = sum(part.shape[1] for part in columns)
        if width > FEW_COLUMNS:  # empty columns make BLAS faster
            width = -(-width // 8) * 8
        self.factors = np.zeros((len(self.y), width), dtype=precision)
        self.factors[:, :n_columns] = np.concatenate(columns, axis=1)
        self.people = [subset_of(group) for group in model.groups]
        n_groups, n_covariates = len(model.groups), self.q.shape[1]
        self.stop = np.array([group.columns.stop for group in model.groups], dtype=np.int64)
        self.has = np.zeros((n_groups, len(self.y)), dtype=np.bool_)
        self.gram = np.zeros((n_groups, n_covariates, n_covariates))
        for i, group in enumerate(model.groups):
            self.has[i], self.gram[i] = group.has, group.gram

    def running(self) -> AbstractContextManager[Any]:
        """What a thread works within."""
        return nullcontext()

    def load(self, dosage: NDArray[Any] | PackedCalls) -> NDArray[Any]:
        """A block as the other functions take it: dosages, or uint8 of `packed.read_calls`."""
        return packed.read_calls(dosage) if isinstance(dosage, PackedCalls) else dosage

    def summarize(self, dosage: NDArray[Any]) -> NDArray[np.float64]:
        """As `variant_qc.summarize`."""
        is_packed = dosage.dtype == np.uint8
        return packed.summarize(dosage, self.model.n_samples) if is_packed else summarize(dosage)

    def take(self, dosage: NDArray[Any], chosen: NDArray[np.bool_]) -> NDArray[Any]:
        """Some of the variants."""
        return np.ascontiguousarray(dosage[chosen])

    def regress(self, dosage: NDArray[Any], moments: NDArray[np.float64]) -> Fit:
        """All traits against the variants.

        Parameters
        ----------
        dosage
            From `load`.
        moments : (n_variants, N_MOMENTS)
            From `summarize`.
        """
        n_variants, n_tested, n_covariates = len(dosage), self.y.shape[1], self.q.shape[1]
        n_samples, form = self.model.n_samples, packed if dosage.dtype == np.uint8 else unpacked
        middle = middles(moments, n_samples)
        centred = np.empty((n_variants, n_samples), dtype=self.y.dtype)
        sums_of_all = centred_sums(moments, n_samples, middle)
        form.centre(dosage, middle, centred, sums_of_all)
        products = centred @ self.factors  # (V, n_tested + n_covariates + n_extra + padding)
        fit = Fit(
            beta=np.empty((n_variants, n_tested), dtype=self.y.dtype),
            se=np.empty((n_variants, n_tested), dtype=self.y.dtype),
            n=np.empty((len(self.people), n_variants), dtype=np.int32).T,
            status=np.empty((len(self.people), n_variants), dtype=np.uint8).T,
            centred=centred,
            explained=products[:, n_tested : n_tested + n_covariates],
            extra=products[:, n_tested + n_covariates :][:, : self.n_extra],
            factors=self.factors,
        )
        a_of_all = fit.explained
        a = np.empty((len(self.people), n_variants, n_covariates), dtype=self.y.dtype)
        sums = np.empty((len(self.people), n_variants, 3))
        for i, subset in enumerate(self.people):
            if subset is None:
                a[i], sums[i] = a_of_all, sums_of_all
                continue
            part = np.empty((n_variants, len(subset.people)), dtype=self.y.dtype)
            form.centre_some(dosage, subset.people, middle, part, sums[i])
            np.matmul(part, self.q[subset.people], out=a[i])
            if subset.lacks:
                a[i], sums[i] = a_of_all - a[i], sums_of_all - sums[i]
        starts = np.concatenate([[0], np.cumsum(moments[:, N_MISSING])]).astype(np.int64)
        missing = np.empty(starts[-1], dtype=np.int32)
        form.find_missing(dosage, starts, missing)
        regress(
            starts,
            missing,
            sums,
            centred,
            products,
            a,
            self.q,
            self.y,
            self.exact_q,
            self.exact_y,
            self.stop,
            self.has,
            self.gram,
            self.model.scale,
            fit.beta,
            fit.se,
            fit.n.T,
            fit.status.T,
        )
        return fit


class Subset(NamedTuple):
    """The fewer of who has some traits and who lacks them."""

    people: NDArray[np.int64]
    lacks: bool


def subset_of(group: TraitGroup) -> Subset | None:
    """Whose genotypes tell the sums over the people of a group; None for everyone's."""
    if group.is_whole:
        return None
    lacks = 2 * group.n_samples > len(group.has)
    return Subset(np.flatnonzero(group.has != lacks), lacks)


def middles(moments: NDArray[np.float64], n_samples: int) -> NDArray[np.float64]:
    """Means in steps of 1/256, so that float32 holds what is left of whole numbers exactly.

    Parameters
    ----------
    moments : (n_variants, N_MOMENTS)
        From `variant_qc.summarize`.
    n_samples
        Of how many people.

    Returns
    -------
    float64, (n_variants,)
        0 where no one has a genotype.
    """
    n = np.maximum(n_samples - moments[:, N_MISSING], 1)
    return np.asarray(np.round(256 * moments[:, TOTAL] / n) / 256)


def centred_sums(
    moments: NDArray[np.float64], n_samples: int, middle: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Missing genotypes, sum and sum of squares of the others less `middle`; (n_variants, 3).

    Exact for whole numbers.
    """
    n = n_samples - moments[:, N_MISSING]
    total, squares = moments[:, TOTAL], moments[:, SQUARES]
    return np.stack(
        [moments[:, N_MISSING], total - n * middle, squares - middle * (2 * total - n * middle)],
        axis=1,
    )


@compiled
def regress(
    starts: NDArray[np.int64],
    missing_of: NDArray[np.int32],
    sums: NDArray[np.float64],
    centred: NDArray[Any],
    products: NDArray[Any],
    a_of: NDArray[Any],
    q: NDArray[Any],
    y: NDArray[Any],
    exact_q: NDArray[np.float64],
    exact_y: NDArray[np.float64],
    stop_of: NDArray[np.int64],
    has: NDArray[np.bool_],
    gram: NDArray[np.float64],
    scale: NDArray[np.float64],
    beta: NDArray[Any],
    se: NDArray[Any],
    n_of: NDArray[np.int32],
    status: NDArray[np.uint8],
) -> None:
    """Effect and standard error of each variant on each trait.

    Parameters
    ----------
    starts, missing_of : (n_variants + 1,), (n_missing,)
        Where in the second the people without a genotype of each variant begin; and where they end.
    sums : (n_groups, n_variants, 3)
        Of the people who have a group's traits: how many lack a genotype; sum and sum of squares of
        what follows.
    centred : (n_variants, n_samples)
        Counts of the effect allele less about their mean, 0 where missing.
    products : (n_variants, n_tested or more)
        These times y.
    a_of : (n_groups, n_variants, n_covariates)
        These times q, over the people who have a group's traits.
    q : (n_samples, n_covariates)
        Orthonormal covariates.
    y : (n_samples, n_tested)
        Adjusted traits; see `NullModel`.
    exact_q, exact_y
        Both in float64.
    stop_of : (n_groups,)
        Column after the traits of each group, which follow those of the group before.
    has : (n_groups, n_samples)
        Who has the traits.
    gram : (n_groups, n_covariates, n_covariates)
        q'q over these.
    scale : (n_tested,)
        Unit of y in units of the trait.
    beta, se : (n_variants, n_tested), written
        Per effect allele, in units of the trait; NaN where not tested.
    n_of : (n_groups, n_variants), written
        People with genotype and traits.
    status : (n_groups, n_variants), written
        Index into `STATUS_NAMES`.
    """
    n_variants, n_samples = centred.shape
    n_covariates, n_tested = q.shape[1], y.shape[1]
    n_has = np.array([group.sum() for group in has])
    rounded = y.itemsize < 8
    a = np.empty(n_covariates)
    c = np.empty(n_covariates)
    lost = np.empty((n_covariates, n_covariates))  # Q_S'Q_S
    lower = np.empty((n_covariates, n_covariates))  # Cholesky factor of Q_P'Q_P less Q_S'Q_S
    b = np.empty((n_covariates, n_tested), dtype=y.dtype)
    less = np.empty(n_tested)  # y_S'y_S
    for v in range(n_variants):
        missing = missing_of[starts[v] : starts[v + 1]]
        is_known = False  # what these people take away, for all groups
        for group in range(len(stop_of)):
            first, stop = 0 if group == 0 else stop_of[group - 1], stop_of[group]
            n_missing = int(sums[group, v, 0])
            n = n_has[group] - n_missing
            total, squares = sums[group, v, 1], sums[group, v, 2]
            df = n - n_covariates - 1
            n_of[group, v] = n
            beta[v, first:stop] = np.nan
            se[v, first:stop] = np.nan
            if df < 1:
                status[group, v] = TOO_FEW
                continue
            spread = squares - total * total / n  # around the mean
            if spread <= CONSTANT_SPREAD * squares:
                status[group, v] = MONOMORPHIC
                continue

            for j in range(n_covariates):
                a[j] = a_of[group, v, j]
            a[0] = total * exact_q[0, 0]  # of the intercept: it is known exactly
            c[:] = a
            if n_missing and not is_known:
                _missing_products(q, y, missing, lost, b, less)
                is_known = True
            if n_missing or n_has[group] < n_samples:
                for j in range(n_covariates):
                    for i in range(j + 1):
                        lower[j, i] = gram[group, j, i] - (lost[j, i] if n_missing else 0.0)
                if n_missing and n_has[group] < n_samples:  # not in gram, so not lost
                    for person in missing:
                        if not has[group, person]:
                            for j in range(n_covariates):
                                for i in range(j + 1):
                                    lower[j, i] += q[person, j] * q[person, i]
                if not _factor(lower, gram[group]):
                    status[group, v] = COLLINEAR
                    continue
                _solve(lower, c)
            gg = squares
            for j in range(n_covariates):
                gg -= a[j] * c[j]
            if gg * MAX_VIF < spread:
                status[group, v] = COLLINEAR
                continue
            status[group, v] = TESTED
            own = products[v, first:stop].astype(np.float64)
            more, yy = _corrections(c, lower, b, less, first, stop, n_missing > 0)
            yy += n_has[group]
            strong = gg < LITTLE_LEFT * spread
            for k in range(stop - first):
                gy = own[k] + more[k]
                strong |= gy * gy > STRONG * gg * yy[k]
            exact_gg = gg
            if strong and rounded:
                _products_in_float64(centred[v], exact_q, has[group], a)
                c[:] = a
                if n_missing or n_has[group] < n_samples:
                    _solve(lower, c)
                exact_gg = squares
                for j in range(n_covariates):
                    exact_gg -= a[j] * c[j]
                for k in range(stop - first):
                    gy = own[k] + more[k]
                    if gy * gy > STRONG * gg * yy[k]:
                        own[k] = 0.0
                        for i in range(n_samples):
                            own[k] += centred[v, i] * exact_y[i, first + k]
                        if n_missing:
                            more[k] = 0.0
                            for j in range(n_covariates):
                                more[k] += c[j] * b[j, first + k]
            for k in range(stop - first):
                effect = (own[k] + more[k]) / exact_gg
                variance = (yy[k] / exact_gg - effect * effect) / df
                beta[v, first + k] = effect * scale[first + k]
                se[v, first + k] = np.sqrt(max(variance, 0.0)) * scale[first + k]


@compiled
def _corrections(
    c: NDArray[np.float64],
    lower: NDArray[np.float64],
    b: NDArray[Any],
    less: NDArray[np.float64],
    first: int,
    stop: int,
    some_missing: bool,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """What the people without the genotype add to g'y and to y'y of some traits."""
    to_gy, to_yy = np.zeros(stop - first), np.zeros(stop - first)
    if not some_missing:
        return to_gy, to_yy
    half = b[:, first:stop].copy()  # becomes L^-1 b, whose squares are the last term of y'y
    more, squares = np.zeros_like(half[0]), np.zeros_like(half[0])
    for j in range(len(c)):
        mine, weight = half[j], b.dtype.type(c[j])
        for k in range(len(more)):
            more[k] += weight * mine[k]
        for i in range(j):
            other, weight = half[i], b.dtype.type(lower[j, i])
            for k in range(len(more)):
                mine[k] -= weight * other[k]
        weight = b.dtype.type(1.0 / lower[j, j])
        for k in range(len(more)):
            mine[k] *= weight
            squares[k] += mine[k] * mine[k]
    for k in range(len(more)):
        to_gy[k] = more[k]
        to_yy[k] = -less[first + k] - squares[k]
    return to_gy, to_yy


@compiled
def _products_in_float64(
    centred: NDArray[Any],
    q: NDArray[np.float64],
    has: NDArray[np.bool_],
    a: NDArray[np.float64],
) -> None:
    """Write a = Q_P'g0 of one variant."""
    a[:] = 0.0
    for i in range(len(centred)):
        if has[i]:
            for j in range(len(a)):
                a[j] += centred[i] * q[i, j]


@compiled
def _factor(lower: NDArray[np.float64], gram: NDArray[np.float64]) -> bool:
    """Cholesky factor of a matrix in its place; False if it is singular beside `gram`."""
    for j in range(len(lower)):
        for i in range(j):
            value = lower[j, i]
            for k in range(i):
                value -= lower[j, k] * lower[i, k]
            lower[j, i] = value / lower[i, i]
        pivot = lower[j, j]
        for k in range(j):
            pivot -= lower[j, k] * lower[j, k]
        if pivot < MIN_PIVOT * gram[j, j]:
            return False
        lower[j, j] = np.sqrt(pivot)
    return True


@compiled
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


@compiled
def _missing_products(
    q: NDArray[Any],
    y: NDArray[Any],
    missing: NDArray[np.int32],
    lost: NDArray[np.float64],
    b: NDArray[Any],
    less: NDArray[np.float64],
) -> None:
    """Write Q_S'Q_S, Q_S'y_S and y_S'y_S; four people at a time spare memory traffic."""
    n_covariates, n_traits = b.shape
    lost[:, :] = 0.0
    b[:, :] = 0.0
    less[:] = 0.0
    m = len(missing)
    whole = m - m % 4
    for start in range(0, whole, 4):
        i0, i1, i2, i3 = missing[start], missing[start + 1], missing[start + 2], missing[start + 3]
        y0, y1, y2, y3 = y[i0], y[i1], y[i2], y[i3]
        for k in range(n_traits):
            less[k] += y0[k] * y0[k] + y1[k] * y1[k] + y2[k] * y2[k] + y3[k] * y3[k]
        for j in range(n_covariates):
            q0, q1, q2, q3 = q[i0, j], q[i1, j], q[i2, j], q[i3, j]
            row = b[j]
            for k in range(n_traits):
                row[k] += q0 * y0[k] + q1 * y1[k] + q2 * y2[k] + q3 * y3[k]
            for i in range(n_covariates):
                lost[j, i] += q0 * q[i0, i] + q1 * q[i1, i] + q2 * q[i2, i] + q3 * q[i3, i]
    for place in range(whole, m):
        i0 = missing[place]
        y0 = y[i0]
        for k in range(n_traits):
            less[k] += y0[k] * y0[k]
        for j in range(n_covariates):
            q0 = q[i0, j]
            for k in range(n_traits):
                b[j, k] += q0 * y0[k]
            for i in range(n_covariates):
                lost[j, i] += q0 * q[i0, i]

"""LD score regression: heritability and genetic covariance from summary statistics alone.

A variant in disequilibrium with many others tags more of what a trait inherits: over variants j

    E[z_1j z_2j] = √(n_1j n_2j) · l_j · ρ / M + a

with LD scores l, the genetic covariance ρ (heritability, where both traits are one), M common
variants and an intercept a that takes what grows with no LD score: stratification, and the overlap
of the people of two studies. Variants are weighted by the inverse of the variance of z_1 z_2 and of
how often what they tag is counted. Standard errors are those of a jackknife over blocks of
neighbouring variants.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from axoloci.tasks.genetics.heritability import jackknife_se

N_BLOCKS = 200
TWO_STEP = 30.0  # χ² below which variants give the intercept of a heritability
MAX_CHI2 = 80.0  # or 0.001 n, where that is more: beyond it single variants decide the slope
N_ROUNDS = 3  # of weighted regression; each takes its weights from the one before
CHUNK = 16_384  # numbers that are worked on at a time, as many as a processor's cache holds


@dataclass(frozen=True)
class Regressors:
    """What the statistics of all traits are regressed on.

    Attributes
    ----------
    ld_score
        [float64, shape: (n_variants,)] Over all variants of a panel.
    weight_ld_score
        [float64, shape: (n_variants,)] Over the variants of the regression alone: how often what a
        variant tags is counted. LD scores of a panel serve as well.
    n_common
        Variants that carry the heritability: common ones of the panel (M_5_50).
    edges
        [int64, shape: (n_blocks + 1,)] Where the blocks of the jackknife begin and end.
    """

    ld_score: NDArray[np.float64]
    weight_ld_score: NDArray[np.float64]
    n_common: float
    edges: NDArray[np.int64]


@dataclass(frozen=True)
class Line:
    """The expected product of two statistics, ρ n l / M + intercept, of some pairs of traits.

    Attributes
    ----------
    covariance
        [float64, shape: (n_pairs,)] ρ: genetic covariance, or heritability; of standardised traits.
    intercept
        [float64, shape: (n_pairs,)]
    """

    covariance: NDArray[np.float64]
    intercept: NDArray[np.float64]

    def __getitem__(self, pairs: slice) -> Line:
        """Of some of the pairs."""
        return Line(self.covariance[..., pairs], self.intercept[..., pairs])


@dataclass(frozen=True)
class Regression:
    """A line, and the same with each block of variants left out.

    Attributes
    ----------
    line
        Of all variants; NaN of a pair without variants.
    left_out
        The two numbers have the shape (n_blocks, n_pairs); NaN where a block has no variant with
        both statistics.
    mean
        [float64, shape: (n_pairs,)] Mean of the products; of a trait with itself, its mean χ².
    n_variants
        [int64, shape: (n_pairs,)] That have both statistics.
    """

    line: Line
    left_out: Line
    mean: NDArray[np.float64]
    n_variants: NDArray[np.int64]

    def __getitem__(self, pairs: slice) -> Regression:
        """Of some of the pairs."""
        lines = self.line[pairs], self.left_out[pairs]
        return Regression(*lines, self.mean[pairs], self.n_variants[pairs])

    @property
    def covariance_se(self) -> NDArray[np.float64]:
        """Standard errors [float64, shape: (n_pairs,)]."""
        return jackknife_se(self.left_out.covariance, skip_missing=True)

    @property
    def intercept_se(self) -> NDArray[np.float64]:
        """Standard errors [float64, shape: (n_pairs,)]; 0 of an intercept that was given."""
        return jackknife_se(self.left_out.intercept, skip_missing=True)


def block_edges(n_variants: int, n_blocks: int = N_BLOCKS) -> NDArray[np.int64]:
    """Cut variants into blocks of equal numbers.

    Returns
    -------
    [int64, shape: (n_blocks + 1,)]
    """
    return np.floor(np.linspace(0, n_variants, n_blocks + 1)).astype(np.int64)


def leave_out_large(
    z: NDArray[np.float32], n: NDArray[Any], max_chi2: float | None = None
) -> NDArray[np.int64]:
    """Make NaN what is so large that it would decide a regression alone.

    Parameters
    ----------
    z
        [float32, shape: (n_variants, n_traits)] Statistics, changed in place.
    n
        [float, shape: (n_variants, 1 or n_traits)] People.
    max_chi2
        Largest z²; without it 80, or 0.001 n where that is more.

    Returns
    -------
    [int64, shape: (n_traits,)] Variants left out of each trait.
    """
    limit = np.maximum(MAX_CHI2, 0.001 * n.max(axis=0)) if max_chi2 is None else max_chi2
    n_large = np.zeros(z.shape[1], dtype=np.int64)
    for column, largest in enumerate(np.broadcast_to(limit, z.shape[1])):  # no copy of all
        too_large = np.square(z[:, column]) > largest  # (M,)
        z[too_large, column] = np.nan
        n_large[column] = too_large.sum()
    return n_large


def heritability(
    z: NDArray[Any],
    n: NDArray[Any],
    regressors: Regressors,
    *,
    two_step: float | None = TWO_STEP,
    intercept: float | None = None,
) -> Regression:
    """SNP heritability of traits, on the observed scale.

    Parameters
    ----------
    z
        [float, shape: (n_variants, n_traits)] Statistics of the association; NaN where a variant
        is left out.
    n
        [float, shape: (n_variants, 1 or n_traits)] People, positive.
    regressors
        Of the same variants.
    two_step
        Only variants with χ² below this give the intercept, and then all the slope; None: one
        regression gives both.
    intercept
        Given instead of estimated; 1 without stratification.

    Returns
    -------
    Regression
        A pair is a trait with itself.

    References
    ----------
    doi:10.1038/ng.3211
    """
    products = _Products(z, z, n, n, regressors)
    begin = products.without_weights(1.0 if intercept is None else intercept)
    if intercept is not None or two_step is None:
        return products.regress(begin, intercept=intercept)
    first = products.regress(begin, below=two_step)
    second = products.regress(begin, intercept=first.line.intercept)
    # a block that changes the intercept changes the slope too: dslope = −c dintercept
    total = products.sums(begin, begin, begin).sum(axis=0)  # (5, K)
    c = total[1] / total[2]
    change = first.left_out.intercept - first.line.intercept  # (n_blocks, K)
    left_out = Line(second.left_out.covariance - c * change, first.left_out.intercept)
    return Regression(second.line, left_out, second.mean, second.n_variants)


def genetic_covariance(
    first_z: NDArray[Any],
    z: NDArray[Any],
    first_n: NDArray[Any],
    n: NDArray[Any],
    first: Regression,
    others: Regression,
    regressors: Regressors,
    *,
    intercept: NDArray[Any] | float | None = None,
) -> Regression:
    """Genetic covariance of one trait with others, all standardised.

    Parameters
    ----------
    first_z, z
        [float, shape: (n_variants, 1) and (n_variants, n_traits)] Statistics for the same allele;
        NaN where a variant is left out.
    first_n, n
        [float, shape: (n_variants, 1) and (n_variants, 1 or n_traits)] People, positive.
    first, others
        Heritabilities of the one trait and of the others, for the weights.
    regressors
        Of the same variants.
    intercept
        Given instead of estimated: the correlation of the traits times people in both studies over
        √(n_1 n_2); 0 if nobody is in both.

    Returns
    -------
    Regression

    References
    ----------
    doi:10.1038/ng.3406
    """
    products = _Products(first_z, z, first_n, n, regressors)
    begin = products.without_weights(0.0 if intercept is None else intercept)
    return products.regress(begin, first.line, others.line, intercept=intercept)


def genetic_correlation(
    covariance: Regression, first: Regression, others: Regression
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Genetic correlation of one trait with others, and its standard errors.

    Parameters
    ----------
    covariance
        Of the trait with each of the others.
    first, others
        Their heritabilities, of the same variants and blocks, with no two steps.

    Returns
    -------
    [float64, shape: (n_traits,)] twice
        NaN where a heritability is not positive.
    """
    of_all = covariance.line.covariance, first.line.covariance, others.line.covariance
    of_blocks = (e.left_out.covariance for e in (covariance, first, others))  # (n_blocks, ·)
    with np.errstate(invalid="ignore", divide="ignore"):
        value, left_out = (
            np.where((h1 > 0) & (h2 > 0), rho / np.sqrt(h1 * h2), np.nan)
            for rho, h1, h2 in (of_all, of_blocks)
        )
    # a heritability that is positive only thanks to some blocks has no standard error
    lost = (np.isnan(left_out) & np.isfinite(covariance.left_out.covariance)).any(axis=0)
    se = jackknife_se(left_out, skip_missing=True)
    return value, np.where(np.isnan(value) | lost, np.nan, se)


class _Products:
    """Products of the statistics of pairs of traits, and their regression on LD scores."""

    def __init__(
        self,
        z1: NDArray[Any],
        z2: NDArray[Any],
        n1: NDArray[Any],
        n2: NDArray[Any],
        regressors: Regressors,
    ) -> None:
        self.z1, self.z2, self.n1, self.n2 = z1, z2, n1, n2
        self.regressors = regressors
        self.n_pairs = z2.shape[1]

    def without_weights(self, intercept: NDArray[Any] | float) -> Line:
        """The line that the means alone give."""
        sums = self.sums().sum(axis=0)  # (5, P)
        self.n_variants, self.mean = sums[0].astype(np.int64), _ratio(sums[3], sums[0])
        covariance = _ratio(sums[3] - intercept * sums[0], sums[1])
        return Line(covariance, np.broadcast_to(np.float64(intercept), covariance.shape))

    def regress(
        self,
        begin: Line,
        first: Line | None = None,
        second: Line | None = None,
        *,
        intercept: NDArray[Any] | float | None = None,
        below: float = np.inf,
    ) -> Regression:
        """Iterated weighted regression.

        Parameters
        ----------
        begin
            For the first weights.
        first, second
            Of the heritabilities of both traits; without them of a trait with itself, which is
            what is estimated.
        intercept
            Given instead of estimated.
        below
            Only products below this are used.
        """
        line = begin
        for k in range(N_ROUNDS):
            # LDSC weights by n l / mean n instead of l where not all variants are used
            by_people = k > 0 and np.isfinite(below)
            lines = first or line, second or line, line
            sums = self.sums(*lines, below, by_people=bool(by_people))  # (n_blocks, 5, P)
            line = self._solve(sums.sum(axis=0), intercept)
        left_out = self._solve(sums.sum(axis=0) - sums, intercept)
        for values in (left_out.covariance, left_out.intercept):
            values[sums[:, 0] == 0] = np.nan
        return Regression(line, left_out, self.mean, self.n_variants)

    def sums(
        self,
        first: Line | None = None,
        second: Line | None = None,
        cross: Line | None = None,
        below: float = np.inf,
        *,
        by_people: bool = False,
    ) -> NDArray[np.float64]:
        """Σw, Σwx, Σwx², Σwy and Σwxy of each block, x = n l / M, y = z_1 z_2.

        Parameters
        ----------
        first, second, cross
            Of the heritabilities of both traits and of their covariance, for the weights; without
            them each is 1.
        below
            Weights of other products are 0.
        by_people
            Weights take LD scores times the number of people over its mean.

        Returns
        -------
        [float64, shape: (n_blocks, 5, n_pairs)]
        """
        edges = self.regressors.edges
        sums = np.zeros((len(edges) - 1, 5, self.n_pairs))
        mean_n = self.n1.mean(axis=0, dtype=np.float64) if by_people else None
        for block, (start, stop) in enumerate(pairwise(edges.tolist())):
            for rows in _chunks(start, stop, self.n_pairs):
                z1, z2 = (z[rows].astype(np.float64, copy=False) for z in (self.z1, self.z2))
                y = z1 * z2  # (rows, P)
                used = y < below  # not where one is NaN
                y[~used] = 0
                n1, n2 = (n[rows].astype(np.float64, copy=False) for n in (self.n1, self.n2))
                n = np.sqrt(n1 * n2)  # (rows, 1 or P)
                x = self.regressors.ld_score[rows, None] / self.regressors.n_common * n
                w = used.astype(np.float64)
                if first is not None and second is not None and cross is not None:
                    w /= self._variance(rows, n1, n2, n, first, second, cross, mean_n)
                wx = w * x
                of_chunk = (w.sum(axis=0), wx.sum(axis=0), (wx * x).sum(axis=0))
                sums[block] += (*of_chunk, (w * y).sum(axis=0), (wx * y).sum(axis=0))
        return sums

    def _variance(
        self,
        rows: slice,
        n1: NDArray[np.float64],
        n2: NDArray[np.float64],
        n: NDArray[np.float64],
        first: Line,
        second: Line,
        cross: Line,
        mean_n: NDArray[np.float64] | None,
    ) -> NDArray[np.float64]:
        """Variance of z_1 z_2 times how often what a variant tags is counted, (rows, P)."""
        ld_score = self.regressors.ld_score[rows, None]
        if mean_n is not None:
            ld_score = ld_score * n / mean_n
        # an LD score below 1 is noise: each variant tags itself
        ld_score = np.maximum(ld_score, 1) / self.regressors.n_common
        square1 = n1 * ld_score * np.clip(first.covariance, 0, 1) + first.intercept  # E z_1²
        square2 = n2 * ld_score * np.clip(second.covariance, 0, 1) + second.intercept
        both = n * ld_score * np.clip(cross.covariance, -1, 1) + cross.intercept  # E z_1 z_2
        overlap = np.maximum(self.regressors.weight_ld_score[rows, None], 1)
        return np.asarray((square1 * square2 + np.square(both)) * overlap)

    @staticmethod
    def _solve(sums: NDArray[np.float64], intercept: NDArray[Any] | float | None) -> Line:
        """The weighted line of sums (…, 5, P), with an intercept that is given or not."""
        w, wx, wxx, wy, wxy = np.moveaxis(sums, -2, 0)  # each (…, P)
        if intercept is not None:
            covariance = _ratio(wxy - intercept * wx, wxx)
            return Line(covariance, np.broadcast_to(intercept, covariance.shape).astype(np.float64))
        covariance = _ratio(w * wxy - wx * wy, w * wxx - wx * wx)
        return Line(covariance, _ratio(wy - covariance * wx, w))


def _chunks(start: int, stop: int, n_pairs: int) -> Iterator[slice]:
    size = max(1, CHUNK // n_pairs)
    for first in range(start, stop, size):
        yield slice(first, min(first + size, stop))


def _ratio(above: NDArray[np.float64], below: NDArray[np.float64]) -> NDArray[np.float64]:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(above / below)

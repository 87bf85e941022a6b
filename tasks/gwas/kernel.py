"""Linear association of all traits with blocks of variants, exact for missing genotypes.

The model is that of plink2 --glm: trait ~ covariates + dosage by least squares, and a person
without a genotype leaves that variant only. A trait with missing values is fitted among the people
who have it, whatever traits run beside it.

References
----------
Chang et al. 2015, doi:10.1186/s13742-015-0047-8; Frisch and Waugh 1933, doi:10.2307/1907330.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import DTypeLike, NDArray
from threadpoolctl import threadpool_limits

from axoloci.tasks.gwas.complete_case import STATUS_NAMES, TESTED, decode, regress

__all__ = ["STATUS_NAMES", "Association", "NullModel", "TraitGroup", "associate", "fit_null"]

Precision = Literal["float32", "float64"]
FEW_PEOPLE = 1000  # fits may be nearly perfect by chance; float32 would lose what is left of them
CPU_BLOCK, GPU_BLOCK = 256, 2048  # variants at once: a CPU's caches, a GPU's many cores
RANK_TOLERANCE = 1e-7  # of a covariate that the ones before it leave over


@dataclass(frozen=True)
class TraitGroup:
    """Traits that the same people have, adjusted for the covariates.

    Attributes
    ----------
    trait_index : (n_traits,)
        Positions among all traits.
    sample_index : (n_samples,) or None
        Positions among all people; None for everyone.
    q : float64, (n_samples, n_covariates)
        Orthonormal covariates, intercept included.
    y : float64, (n_samples, n_traits)
        Traits minus what the covariates explain, scaled so that y'y = n_samples.
    scale : float64, (n_traits,)
        y times scale is in units of the trait.
    """

    trait_index: NDArray[np.int64]
    sample_index: NDArray[np.int64] | None
    q: NDArray[np.float64]
    y: NDArray[np.float64]
    scale: NDArray[np.float64]

    @property
    def n_samples(self) -> int:
        """People who have these traits."""
        return len(self.y)


@dataclass(frozen=True)
class NullModel:
    """Traits on covariates alone: what is done once, before any genotype is read.

    Attributes
    ----------
    groups
        Traits by the people who have them; the largest group of people first.
    excluded : dict
        Position of each trait that cannot be tested, and why.
    trait_correlation : float64, (n_traits, n_traits)
        Correlation of the adjusted traits over the people who have both; NaN for excluded traits.
    n_samples, n_covariates, n_traits : int
        Rows, columns (intercept included) and traits that came in.
    """

    groups: list[TraitGroup]
    excluded: dict[int, str]
    trait_correlation: NDArray[np.float64]
    n_samples: int
    n_covariates: int
    n_traits: int

    @property
    def trait_residual_sd(self) -> NDArray[np.float64]:
        """Standard deviation of the adjusted traits, in units of the trait.

        √(residual sum of squares / n), where n counts the people who have the trait; NaN for
        excluded traits. float64, (n_traits,).
        """
        sd = np.full(self.n_traits, np.nan)
        for group in self.groups:
            sd[group.trait_index] = group.scale
        return sd


@dataclass(frozen=True)
class Association:
    """Results of one block of variants; everything is per effect allele.

    Attributes
    ----------
    n : int32, (n_variants,)
        People with a genotype, whatever their traits.
    effect_allele_frequency : float64, (n_variants,)
        Among them; NaN without any.
    n_by_group : int32, (n_variants, n_groups)
        People with a genotype and the traits of each group.
    beta, se : (n_variants, n_traits)
        Effect of one more effect allele and its standard error, in units of the trait; NaN where
        the variant cannot be tested.
    status : uint8, (n_variants,)
        Index into `STATUS_NAMES`; that of the first group where no trait could be tested.
    """

    n: NDArray[np.int32]
    effect_allele_frequency: NDArray[np.float64]
    n_by_group: NDArray[np.int32]
    beta: NDArray[Any]
    se: NDArray[Any]
    status: NDArray[np.uint8]


def fit_null(traits: NDArray[np.float64], covariates: NDArray[np.float64]) -> NullModel:
    """Adjust all traits for the covariates, by pattern of missing values.

    Parameters
    ----------
    traits : (n_samples, n_traits)
        NaN where missing.
    covariates : (n_samples, n_covariates)
        Of full rank, intercept included, none missing.

    Raises
    ------
    ValueError
        Covariates that are missing somewhere or collinear.
    """
    traits = np.asarray(traits, dtype=np.float64)
    covariates = np.asarray(covariates, dtype=np.float64)
    n_samples, n_traits = traits.shape
    n_covariates = covariates.shape[1]
    if len(covariates) != n_samples or not np.isfinite(covariates).all():
        raise ValueError("covariates need a finite value for each person")
    if _orthonormal(covariates) is None:
        raise ValueError(f"{n_covariates} covariates of {n_samples} people are collinear")

    present = np.isfinite(traits)
    patterns: dict[bytes, list[int]] = {}
    for k in range(n_traits):
        patterns.setdefault(np.packbits(present[:, k]).tobytes(), []).append(k)

    groups: list[TraitGroup] = []
    excluded: dict[int, str] = {}
    residual = np.zeros((n_samples, n_traits))  # unit length per trait, zeros where missing
    for members in patterns.values():
        people = np.flatnonzero(present[:, members[0]])
        q = _orthonormal(covariates[people]) if len(people) > n_covariates + 1 else None
        if q is None:
            few = len(people) <= n_covariates + 1
            why = (
                f"{len(people)} people have it, too few for {n_covariates} covariates"
                if few
                else f"the covariates are collinear among the {len(people)} people who have it"
            )
            excluded |= dict.fromkeys(members, why)
            continue
        y = traits[people][:, members]
        y = y - y.mean(axis=0)
        spread = np.sqrt(np.square(y).sum(axis=0))
        for _ in range(2):  # twice: the first pass leaves rounding of the size of what it removes
            y -= q @ (q.T @ y)
        length = np.sqrt(np.square(y).sum(axis=0))
        left = length > RANK_TOLERANCE * np.maximum(
            spread, np.abs(traits[people][:, members]).max(0)
        )
        why = "it is constant, or the covariates explain all of it"
        excluded |= {k: why for k, good in zip(members, left, strict=True) if not good}
        if not left.any():
            continue
        index, y, length = np.array(members)[left], y[:, left], length[left]
        residual[np.ix_(people, index)] = y / length
        groups.append(
            TraitGroup(
                trait_index=index,
                sample_index=None if len(people) == n_samples else people,
                q=q,
                y=y * (np.sqrt(len(people)) / length),
                scale=length / np.sqrt(len(people)),
            )
        )
    groups.sort(key=lambda group: (-group.n_samples, int(group.trait_index[0])))
    return NullModel(
        groups=groups,
        excluded=dict(sorted(excluded.items())),
        trait_correlation=_correlation(residual, present, list(excluded)),
        n_samples=n_samples,
        n_covariates=n_covariates,
        n_traits=n_traits,
    )


def associate(
    blocks: Iterable[NDArray[np.int8]],
    model: NullModel,
    *,
    device: str = "cpu",
    n_threads: int = 1,
    precision: Precision | None = None,
) -> Generator[Association, None, None]:
    """Test every trait against every variant of each block, in order.

    Each block is worked on by one thread; the results do not depend on their number.

    Parameters
    ----------
    blocks : iterable of int8, (n_variants, n_samples)
        Effect-allele counts of the people of `model`, negative where missing; best of
        `CPU_BLOCK` or `GPU_BLOCK` variants.
    model
        From `fit_null`.
    device
        "cpu", or a torch device such as "cuda".
    n_threads
        Blocks in work at once on the CPU.
    precision
        Of the products of genotypes and traits, and of the results; without it float32, or float64
        for less than `FEW_PEOPLE`.
    """
    if precision is None:
        precision = "float64" if model.n_samples < FEW_PEOPLE else "float32"
    regressions: list[_Regression] = [
        _CpuRegression(group, precision) if device == "cpu" else _torch(group, precision, device)
        for group in model.groups
    ]

    def work(dosage: NDArray[np.int8]) -> Association:
        return _test_block(dosage, model, regressions, np.dtype(precision))

    if device != "cpu":
        yield from map(work, blocks)
        return
    waiting: deque[Future[Association]] = deque()
    # one BLAS thread each: blocks run side by side, and rounding is the same for any number of them
    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(n_threads) as pool:
        try:
            for block in blocks:
                waiting.append(pool.submit(work, block))
                if len(waiting) > 2 * n_threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


class _Regression(Protocol):
    """Effects, standard errors, counts and status of a block: see `complete_case`."""

    def regress(
        self, dosage: NDArray[np.int8]
    ) -> tuple[NDArray[Any], NDArray[Any], NDArray[np.int32], NDArray[np.uint8]]: ...


class _CpuRegression:
    def __init__(self, group: TraitGroup, precision: DTypeLike) -> None:
        self.q = np.ascontiguousarray(group.q, dtype=precision)
        self.y = np.ascontiguousarray(group.y, dtype=precision)
        self.yq = np.concatenate([self.y, self.q], axis=1)  # (n_samples, n_traits + n_covariates)
        self.scale = group.scale

    def regress(
        self, dosage: NDArray[np.int8]
    ) -> tuple[NDArray[Any], NDArray[Any], NDArray[np.int32], NDArray[np.uint8]]:
        n_variants = len(dosage)
        counted = np.empty(dosage.shape, dtype=self.y.dtype)  # (V, N)
        counts = np.empty((n_variants, 3), dtype=np.int32)
        decode(dosage, counted, counts)
        products = counted @ self.yq  # (V, K + C)
        beta = np.empty((n_variants, self.y.shape[1]), dtype=self.y.dtype)
        se = np.empty_like(beta)
        status = np.empty(n_variants, dtype=np.uint8)
        regress(dosage, counts, products, self.q, self.y, self.scale, beta, se, status)
        return beta, se, counts, status


def _torch(group: TraitGroup, precision: Precision, device: str) -> _Regression:
    from axoloci.tasks.gwas.complete_case_torch import TorchRegression

    return TorchRegression(group.q, group.y.astype(precision), group.scale, device)


def _test_block(
    dosage: NDArray[np.int8], model: NullModel, regressions: list[_Regression], dtype: np.dtype[Any]
) -> Association:
    """All groups of traits against one block."""
    n_variants = len(dosage)
    beta = np.full((n_variants, model.n_traits), np.nan, dtype=dtype)
    se = np.full_like(beta, np.nan)
    n_by_group = np.zeros((n_variants, len(model.groups)), dtype=np.int32)
    status = np.full(n_variants, TESTED, dtype=np.uint8)
    counts = None
    for i, (group, regression) in enumerate(zip(model.groups, regressions, strict=True)):
        people = group.sample_index
        part = dosage if people is None else np.ascontiguousarray(dosage[:, people])
        effect, error, part_counts, part_status = regression.regress(part)
        beta[:, group.trait_index], se[:, group.trait_index] = effect, error
        n_by_group[:, i] = part.shape[1] - part_counts[:, 0]
        status = part_status if i == 0 else np.where(part_status == TESTED, TESTED, status)
        if people is None:
            counts = part_counts
    if counts is None:  # no trait that everyone has
        counts = np.stack([(dosage < 0).sum(1), (dosage == 1).sum(1), (dosage == 2).sum(1)], axis=1)
    n = model.n_samples - counts[:, 0]
    alleles = counts[:, 1] + 2.0 * counts[:, 2]
    frequency = np.divide(alleles, 2.0 * n, out=np.full(n_variants, np.nan), where=n > 0)
    return Association(n.astype(np.int32), frequency, n_by_group, beta, se, status)


def _orthonormal(covariates: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """Orthonormal basis of the columns, or None if they are collinear."""
    columns = np.concatenate(
        [covariates[:, :1], covariates[:, 1:] - covariates[:, 1:].mean(0)], axis=1
    )
    length = np.sqrt(np.square(columns).sum(axis=0))
    if (
        not (length > 1e-10 * np.abs(covariates).max(axis=0)).all()
        or len(columns) < columns.shape[1]
    ):
        return None
    q, r = np.linalg.qr(columns / length)
    return None if np.abs(np.diag(r)).min() <= RANK_TOLERANCE else q


def _correlation(
    residual: NDArray[np.float64], present: NDArray[np.bool_], excluded: list[int]
) -> NDArray[np.float64]:
    """Correlation over the people who have both traits; residuals have mean 0 and unit length."""
    product = residual.T @ residual  # (K, K)
    length = np.square(residual).T @ present.astype(np.float64)  # of trait j where trait k is there
    norm = np.sqrt(length * length.T)
    correlation: NDArray[np.float64] = np.divide(
        product, norm, out=np.zeros_like(product), where=norm > 0
    )
    correlation = np.clip((correlation + correlation.T) / 2, -1, 1)
    np.fill_diagonal(correlation, 1.0)
    correlation[excluded, :] = np.nan
    correlation[:, excluded] = np.nan
    return correlation

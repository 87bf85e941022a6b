"""Linear association of all traits with blocks of variants, exact for missing genotypes.

The model is that of plink2 --glm: trait ~ covariates + dosage by least squares, and a person
without a genotype leaves that variant only. A trait with missing values is fitted among the people
who have it, whatever traits run beside it.

References
----------
Chang et al. 2015, doi:10.1186/s13742-015-0047-8; Frisch and Waugh 1933, doi:10.2307/1907330.
"""

from __future__ import annotations

import logging
import sys
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields
from itertools import count
from threading import local
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from axoloci.errors import InputError
from axoloci.io.genotypes import PackedCalls
from axoloci.tasks.gwas.complete_case import (
    CONSTANT_SPREAD,
    MAX_VIF,
    STATUS_NAMES,
    TESTED,
    TOO_FEW,
    CpuRegression,
    Fit,
    centred_sums,
    middles,
)
from axoloci.tasks.gwas.null_model import (
    NullModel,
    TraitGroup,
    correlation,
    fit_null,
    untestable,
)
from axoloci.tasks.gwas.variant_qc import KEPT, N_MISSING, TOTAL, VariantFilter

__all__ = [
    "STATUS_NAMES",
    "TESTED",
    "Association",
    "Consumer",
    "NullModel",
    "TraitGroup",
    "associate",
    "block_variants",
    "blocks_at_once",
    "correlation",
    "fit_null",
    "untestable",
]

log = logging.getLogger("axoloci")

Precision = Literal["float32", "float64"]
FEW_PEOPLE = 1000  # fits may be nearly perfect by chance; float32 would lose what is left of them
CPU_BLOCK, GPU_BLOCK = 256, 8192  # variants at once: a CPU's caches, a GPU's many cores
BLOCK_GENOTYPES = 5_200_000  # a CPU's last cache holds a few such blocks
GPU_STREAMS = 3  # blocks in work at once on a GPU: one is copied there, one back
GPU_BYTES = 24  # of memory a genotype of a block takes at its peak
GPU_RESULT_BYTES = 100  # likewise a result: a dozen float64 of each variant and trait
GPU_SHARE = 0.5  # of a GPU's free memory that the blocks in work take together


@dataclass(frozen=True)
class Block:
    """What a consumer sees of a block.

    Attributes
    ----------
    centred : (n_variants, n_samples)
        Counts of the effect allele less their mean, to 1/256, and 0 where missing: a numpy array,
        or torch's on a GPU.
    products : (n_variants, n_columns)
        `centred` times the consumer's columns, likewise.
    rows : int64, (n_variants,)
        Places of the variants among all; see `starts` of `associate`.
    factors : (n_samples, n_tested + n_covariates or more)
        Columns of the traits, `NullModel.y`, and of the orthonormal covariates, likewise.
    left : float64, (n_variants,)
        Sum of squares of `centred` that the covariates do not explain; 0 where that is too little
        for a test.
    """

    centred: Any
    products: Any
    rows: NDArray[np.int64]
    factors: Any
    left: NDArray[np.float64]


@dataclass(frozen=True)
class Consumer:
    """Something else that is computed from the same reading of the genotypes.

    Attributes
    ----------
    columns : (n_samples, n_columns)
        Multiplied with the genotypes in one product with the traits: random probes, permuted
        traits.
    see
        Called once with each block, by several threads at once and in any order; what it gives is
        in `Association.seen`. It does not see variants that are left out.
    """

    columns: NDArray[np.floating]
    see: Callable[[Block], Any]


@dataclass(frozen=True)
class Association:
    """Results of one block of variants; everything is per effect allele.

    Attributes
    ----------
    left_out : uint8, (n_variants of the block,)
        Index into `variant_qc.REASON_NAMES`; what follows is of the n_variants that are kept.
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
    seen : list of lists
        What each consumer gave: one value, more where a GPU had to take the block in pieces.
    """

    left_out: NDArray[np.uint8]
    n: NDArray[np.int32]
    effect_allele_frequency: NDArray[np.float64]
    n_by_group: NDArray[np.int32]
    beta: NDArray[Any]
    se: NDArray[Any]
    status: NDArray[np.uint8]
    seen: list[list[Any]]


class Regression(Protocol):
    """A model on one device: see `complete_case.CpuRegression`."""

    def running(self) -> AbstractContextManager[Any]:
        """What a thread works within."""

    def load(self, dosage: Any) -> Any:
        """A block on the device."""

    def summarize(self, dosage: Any) -> NDArray[np.float64]:
        """As `variant_qc.summarize`."""

    def take(self, dosage: Any, chosen: NDArray[np.bool_]) -> Any:
        """Some of the variants."""

    def regress(self, dosage: Any, moments: NDArray[np.float64]) -> Fit:
        """All traits against the variants."""


def default_precision(n_samples: int) -> Precision:
    """Precision that loses nothing of the results' six digits."""
    return "float64" if n_samples < FEW_PEOPLE else "float32"


def block_variants(device: str, n_samples: int, n_traits: int) -> int:
    """Variants of a block that is worked on fastest, and for which there is memory."""
    if device.startswith("cuda"):
        import torch

        free, _ = torch.cuda.mem_get_info(device)
        of_variant = GPU_BYTES * max(n_samples, 1) + GPU_RESULT_BYTES * n_traits
        fitting = int(GPU_SHARE * int(free) / GPU_STREAMS / of_variant)
        return max(CPU_BLOCK, min(GPU_BLOCK, fitting))
    fitting = 1 << int(np.log2(max(BLOCK_GENOTYPES / max(n_samples, 1), 1)))
    return max(CPU_BLOCK // 2, min(2 * CPU_BLOCK, fitting))


def blocks_at_once(devices: Sequence[str], n_threads: int) -> int:
    """Blocks that `associate` holds at most, in work or with their results."""
    return 3 * _n_workers(devices, n_threads) + 1


def _n_workers(devices: Sequence[str], n_threads: int) -> int:
    return n_threads if tuple(devices) == ("cpu",) else GPU_STREAMS * len(devices)


def associate(
    blocks: Iterable[NDArray[Any] | PackedCalls],
    model: NullModel,
    *,
    devices: Sequence[str] = ("cpu",),
    n_threads: int = 1,
    precision: Precision | None = None,
    variant_filter: VariantFilter | None = None,
    copies: float = 2.0,
    consumers: Sequence[Consumer] = (),
    starts: Iterable[int] | None = None,
) -> Generator[Association, None, None]:
    """Test every trait against every variant of each block, in order.

    Each block is worked on by one thread; the results do not depend on their number.

    Parameters
    ----------
    blocks : iterable of int8 or float32, (n_variants, n_samples)
        Effect-allele counts of the people of `model`, 0 to 2 and whole where int8, negative where
        missing; or packed ones, which are read here. Best of `block_variants`.
    model
        From `fit_null`.
    devices
        "cpu", or torch devices such as "cuda:0" and "cuda:1", which share the blocks; "torch:cpu"
        is what a GPU does, done by torch on the CPU.
    n_threads
        Blocks in work at once on the CPU.
    precision
        Of the products of genotypes and traits, and of the results; without it
        `default_precision`.
    variant_filter
        Which variants are left out; without it none.
    copies
        That people have of the chromosome, 2 or 1.
    consumers
        What else is computed of the same blocks.
    starts
        Place of the first variant of each block among all, for consumers; without it they follow
        each other from 0 on.
    """
    dtype = np.dtype(precision or default_precision(model.n_samples))
    columns = [consumer.columns for consumer in consumers]
    extra = np.concatenate(columns, axis=1) if columns else None
    on_cpu = tuple(devices) == ("cpu",)
    regressions: list[Regression] = (
        [CpuRegression(model, dtype, extra)]
        if on_cpu
        else [_torch(model, dtype, device.removeprefix("torch:"), extra) for device in devices]
    )
    n_workers = _n_workers(devices, n_threads)
    limits = variant_filter or VariantFilter()
    turn, of_thread, memory = count(), local(), _Memory()

    def work(start: int, dosage: NDArray[Any] | PackedCalls) -> Association:
        if not hasattr(of_thread, "regression"):  # threads take the devices in turn, and keep them
            of_thread.regression = regressions[next(turn) % len(regressions)]
        regression: Regression = of_thread.regression
        with regression.running():
            return memory.run(
                lambda first, part: _test_block(
                    first, part, model, regression, limits, copies, consumers
                ),
                *(start, dosage),
            )

    waiting: deque[Future[Association]] = deque()
    # one BLAS thread each: blocks run side by side, and rounding is the same for any number of them
    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(n_workers) as pool:
        try:
            for start, block in _placed(blocks, starts):
                waiting.append(pool.submit(work, start, block))
                if len(waiting) > 2 * n_workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _placed(
    blocks: Iterable[NDArray[Any] | PackedCalls], starts: Iterable[int] | None
) -> Iterator[tuple[int, NDArray[Any] | PackedCalls]]:
    """Blocks with the place of their first variants."""
    if starts is not None:
        yield from zip(starts, blocks, strict=True)
        return
    start = 0
    for block in blocks:
        yield start, block
        start += len(block)


def _torch(
    model: NullModel, dtype: np.dtype[Any], device: str, extra: NDArray[Any] | None
) -> Regression:
    from axoloci.tasks.gwas.complete_case_torch import TorchRegression

    try:
        return TorchRegression(model, dtype, device, extra)
    except RuntimeError as error:
        if not _is_out_of_memory(error):
            raise
        n_samples, n_traits = model.y.shape
        raise InputError(
            f"{device}: the GPU has no memory for {n_traits} traits of {n_samples} people; give "
            "--traits-at-once a smaller number"
        ) from error


def _is_out_of_memory(error: RuntimeError) -> bool:
    """Whether torch says so; by its name, for without a GPU torch is not there."""
    return type(error).__name__ == "OutOfMemoryError"


class _Memory:
    """Blocks for which a GPU has no memory are tested in halves, and so is what follows.

    Attributes
    ----------
    most
        Variants at once, as far as is known.
    """

    def __init__(self) -> None:
        self.most = sys.maxsize

    def run(self, test: Callable[[int, Any], Association], start: int, dosage: Any) -> Association:
        """The whole block, whose first variant has the place `start`, or its halves."""
        half = -(-len(dosage) // 2)
        if len(dosage) <= self.most:
            try:
                return test(start, dosage)
            except RuntimeError as error:
                if not _is_out_of_memory(error) or len(dosage) < 2:
                    raise
            import torch

            torch.cuda.empty_cache()
            self.most = min(self.most, half)
            log.warning(
                "the GPU has no memory for a block of %d variants; from here on blocks are tested "
                "in pieces of at most %d",
                *(len(dosage), half),
            )
        first = self.run(test, start, dosage[:half])
        return _joined(first, self.run(test, start + half, dosage[half:]))


def _joined(first: Association, second: Association) -> Association:
    """Two blocks one below the other as one."""
    rows = {
        field.name: np.concatenate([getattr(first, field.name), getattr(second, field.name)])
        for field in fields(Association)
        if field.name != "seen"
    }
    return Association(**rows, seen=[a + b for a, b in zip(first.seen, second.seen, strict=True)])


def _test_block(
    start: int,
    block: NDArray[Any] | PackedCalls,
    model: NullModel,
    regression: Regression,
    variant_filter: VariantFilter,
    copies: float,
    consumers: Sequence[Consumer],
) -> Association:
    """All traits against one block."""
    dosage = regression.load(block)
    moments = regression.summarize(dosage)
    left_out = variant_filter.reasons(moments, model.n_samples, copies=copies)
    if left_out.any():
        dosage = regression.take(dosage, left_out == KEPT)
        moments = moments[left_out == KEPT]
    fit = regression.regress(dosage, moments)
    # column by column, as they are written: here the block is in the cache, later it is not
    shape = (len(moments), model.n_traits)
    beta, se = (np.full(shape, np.nan, dtype=fit.beta.dtype, order="F") for _ in range(2))
    beta[:, model.trait_index], se[:, model.trait_index] = fit.beta, fit.se
    n = model.n_samples - moments[:, N_MISSING]
    frequency = np.divide(moments[:, TOTAL], 2.0 * n, out=np.full(len(n), np.nan), where=n > 0)
    status = np.full(len(n), TOO_FEW, dtype=np.uint8)
    if model.groups:
        status = np.where((fit.status == TESTED).any(axis=1), TESTED, fit.status[:, 0])
    return Association(
        left_out,
        n.astype(np.int32),
        frequency,
        fit.n,
        beta,
        se,
        status.astype(np.uint8),
        seen=_seen(consumers, fit, moments, start + np.flatnonzero(left_out == KEPT)),
    )


def _seen(
    consumers: Sequence[Consumer],
    fit: Fit,
    moments: NDArray[np.float64],
    rows: NDArray[np.int64],
) -> list[list[Any]]:
    """What each consumer gives."""
    if not consumers:
        return []
    explained = fit.explained  # (V, n_covariates)
    if not isinstance(explained, np.ndarray):
        explained = explained.cpu().numpy()
    n_samples = fit.centred.shape[1]
    _, total, squares = centred_sums(moments, n_samples, middles(moments, n_samples)).T
    spread = squares - total**2 / n_samples
    left = squares - np.square(explained, dtype=np.float64).sum(axis=1)
    left[(left * MAX_VIF < spread) | (spread <= CONSTANT_SPREAD * squares)] = 0.0
    start, seen = 0, []
    for consumer in consumers:
        stop = start + consumer.columns.shape[1]
        products = fit.extra[:, start:stop]
        block = Block(fit.centred, products, rows, fit.factors, left)
        seen.append([consumer.see(block)])
        start = stop
    return seen

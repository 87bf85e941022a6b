"""The association of a study: from its genotypes to the parts of a store, in overlapping stages.

Threads test, each its own block, which of a `.bed` they also read and unpack; another thread reads
other formats; others write. What is in work at once is bounded: a few blocks a thread, and a few
parts.
"""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from axoloci.command import progress
from axoloci.covariates import design_matrix
from axoloci.errors import InputError
from axoloci.io.genotypes import Dosage, PackedCalls
from axoloci.io.loco import Loco
from axoloci.io.sumstats import Part, SumstatsWriter
from axoloci.tasks.gwas import kernel, variant_qc
from axoloci.tasks.gwas.inputs import Study
from axoloci.tasks.gwas.ploidy import Ploidy, ploidy_of
from axoloci.tasks.gwas.variant_qc import VariantFilter

log = logging.getLogger("axoloci")

THREADS_PER_WRITER = 3  # testing 128 traits takes about twice the time of writing them


@dataclass(frozen=True, eq=False)
class Analysis:
    """What the chromosomes of one kind are tested with.

    Attributes
    ----------
    ploidy
        Of these chromosomes.
    sample_index : int64, (n_samples,)
        Its people in the order of the genotypes.
    model
        Of all traits of the study.
    covariates
        Columns of the design, the intercept first.
    copies
        Of the chromosome, on average.
    se_scale : (n_traits,) or None
        What standard errors are multiplied by: that of a mixed model.
    """

    ploidy: Ploidy
    sample_index: NDArray[np.int64]
    model: kernel.NullModel
    covariates: list[str]
    copies: float
    se_scale: NDArray[np.float64] | None


class Analyses:
    """The analysis of each chromosome of a study.

    Parameters
    ----------
    study
        What is tested.
    predicted
        What the command ridge left of the traits; without it the traits themselves.

    Attributes
    ----------
    autosomes : Analysis
        That of diploid chromosomes without predictions.

    Raises
    ------
    InputError
        There are too few people for the covariates, or the predictions lack a person or a trait.
    """

    def __init__(self, study: Study, predicted: Loco | None) -> None:
        self._study, self._predicted = study, predicted
        self.autosomes = analysis_of(study, Ploidy.DIPLOID, study.trait_values, warns=True)
        excluded = self.autosomes.model.excluded
        self._tested = [k for k in range(len(study.traits)) if k not in excluded]
        self._names = [study.traits[k] for k in self._tested]
        self._by_key = {"": self.autosomes}
        for chromosome in study.source.variants["chromosome"].unique():
            key = self.key(chromosome)
            if predicted is not None:
                predicted.check(chromosome, study.people, self._names)
            if ploidy_of(chromosome) is not Ploidy.DIPLOID and key not in self._by_key:
                self._by_key[key] = self[chromosome]

    def __getitem__(self, chromosome: str) -> Analysis:
        """The analysis of a chromosome.

        With predictions that of an autosome is made anew each time: it is as large as the traits.
        """
        if (known := self._by_key.get(self.key(chromosome))) is not None:
            return known
        study, values, se_scale = self._study, self._study.trait_values, None
        if self._predicted is not None:
            values, se_scale = np.full_like(values, np.nan), np.ones(len(study.traits))
            found = self._predicted.residuals(chromosome, study.people, self._names)
            values[:, self._tested], se_scale[self._tested] = found
        return analysis_of(study, ploidy_of(chromosome), values, se_scale)

    def key(self, chromosome: str) -> str:
        """The same for chromosomes that share an analysis.

        With predictions an autosome's own, else one a kind.
        """
        ploidy = ploidy_of(chromosome)
        if ploidy is Ploidy.DIPLOID:
            return "" if self._predicted is None else chromosome
        return str(ploidy.value)


def analysis_of(
    study: Study,
    ploidy: Ploidy,
    values: NDArray[np.float64],
    se_scale: NDArray[np.float64] | None = None,
    *,
    warns: bool = False,
) -> Analysis:
    """What chromosomes of one ploidy are tested with.

    Parameters
    ----------
    study
        People, covariates, genotypes.
    ploidy
        Of the chromosomes.
    values : (n_samples, n_traits)
        Traits, or what is left of them.
    se_scale
        As in `Analysis`.
    warns
        Name the covariates that are left out, and refuse too few people.
    """
    source, people = study.source, study.people
    index = source.sample_index(people)
    sex = source.samples["sex"].to_numpy()[index]
    chosen = ploidy.people(sex)
    copies = ploidy.copies(sex[chosen])
    columns = ploidy.covariates(study.columns[chosen], sex[chosen])
    if ploidy is not Ploidy.DIPLOID:
        if len(columns) < len(people):
            log.info("%s: %d of %d people are tested", ploidy.value, len(columns), len(people))
        n_unknown = int((sex == 0).sum())
        if ploidy is not Ploidy.HAPLOID and n_unknown:
            log.warning(
                "%s: %d of %d people are of unknown sex and are left out there; give it in %s, "
                "where 1 is male and 2 female",
                *(ploidy.value, n_unknown, len(people), source.names_people),
            )
        if len(columns) < columns.shape[1] + 3:
            log.warning("%s: not tested, for %d people are too few", ploidy.value, len(columns))
            model = kernel.untestable(len(columns), values.shape[1])
            return Analysis(ploidy, index[chosen], model, [], copies, se_scale)
    matrix, names, left_out = design_matrix(columns)
    if warns:
        for name, why in left_out.items():
            log.warning("covariate %s is left out: it is %s", name, why)
        if len(people) < matrix.shape[1] + 2:
            raise InputError(f"{len(people)} people are too few for {matrix.shape[1]} covariates")
    model = kernel.fit_null(values[chosen], matrix)
    return Analysis(ploidy, index[chosen], model, names, copies, se_scale)


@dataclass(frozen=True)
class Tested:
    """The traits that are tested, of all traits of a study.

    Attributes
    ----------
    index
        Positions among all.
    names
        In the same order.
    own_n
        Names of those that some people lack.
    """

    index: list[int]
    names: list[str]
    own_n: list[str]


def write_parts(
    study: Study,
    analyses: Analyses,
    tested: Tested,
    parts: Sequence[Part],
    writer: SumstatsWriter,
    *,
    devices: Sequence[str],
    n_threads: int,
    precision: kernel.Precision | None,
    variant_filter: VariantFilter,
) -> None:
    """Test the variants of some parts and write these.

    Parameters
    ----------
    study, analyses, tested
        What is tested, with what, and which of its traits.
    parts
        In the order of the genotypes.
    writer
        Of the store.
    devices, n_threads, precision, variant_filter
        As in `kernel.associate`.
    """
    size = min(kernel.block_variants(device, len(study.people)) for device in devices)

    def results() -> Generator[tuple[Analysis, kernel.Association]]:
        for _, group in groupby(parts, key=lambda part: analyses.key(part.chromosome)):
            same = list(group)
            analysis = analyses[same[0].chromosome]
            found = kernel.associate(
                blocks(analysis, same),
                analysis.model,
                devices=devices,
                n_threads=n_threads,
                precision=precision,
                variant_filter=variant_filter,
                copies=analysis.copies,
            )
            with closing(found):  # so that its threads end with this generator
                for block in found:
                    yield analysis, block

    def blocks(analysis: Analysis, same: Sequence[Part]) -> Iterator[Dosage | PackedCalls]:
        for part in same:
            for start, stop in pieces(part, size):
                yield study.source.read_packed(start, stop, analysis.sample_index)

    n_writers = max(2, n_threads // THREADS_PER_WRITER)
    writing: deque[Future[None]] = deque()
    with closing(results()) as computed, ThreadPoolExecutor(n_writers) as pool:
        for part in progress(parts, "association", len(parts)):
            found = [next(computed) for _ in pieces(part, size)]
            if len(writing) == n_writers:
                writing.popleft().result()
            analysis, rows = found[0][0], [block for _, block in found]
            writing.append(pool.submit(_write, writer, part, study, analysis, tested, rows))
        for future in writing:
            future.result()


def pieces(part: Part, size: int) -> list[tuple[int, int]]:
    """Start and stop of the blocks of a part."""
    return [(start, min(start + size, part.stop)) for start in range(part.start, part.stop, size)]


def _write(
    writer: SumstatsWriter,
    part: Part,
    study: Study,
    analysis: Analysis,
    tested: Tested,
    rows: list[kernel.Association],
) -> None:
    """One part from the results of its blocks."""
    status = np.concatenate([row.status for row in rows])
    n = np.concatenate([row.n for row in rows])
    n_by_group = np.concatenate([row.n_by_group for row in rows])
    group_of = {
        study.traits[k]: i
        for i, group in enumerate(analysis.model.groups)
        if not group.is_whole
        for k in group.trait_index
    }
    left_out = np.concatenate([row.left_out for row in rows])
    counts = {
        **_counted(kernel.STATUS_NAMES, status),
        **_counted(variant_qc.REASON_NAMES, left_out),
    }
    counts.pop("kept")
    scale: float | NDArray[np.float64] = analysis.ploidy.effect_scale
    se_scale = scale if analysis.se_scale is None else scale * analysis.se_scale[tested.index]
    writer.write(
        part,
        study.source.variants.iloc[part.start : part.stop][left_out == variant_qc.KEPT],
        tested.names,
        np.concatenate([row.effect_allele_frequency for row in rows]),
        n,
        _joined([row.beta for row in rows], tested.index, scale),
        _joined([row.se for row in rows], tested.index, se_scale),
        n_covariates=len(analysis.covariates),
        n_by_trait={
            name: n_by_group[:, group_of[name]] if name in group_of else n for name in tested.own_n
        },
        counts=counts,
    )


def _joined(
    blocks: Sequence[NDArray[Any]], columns: list[int], scale: float | NDArray[np.float64]
) -> NDArray[np.floating]:
    """Some columns of all blocks, times a scale; without a copy more than it needs."""
    joined = np.concatenate(blocks)
    if len(columns) < joined.shape[1]:
        joined = np.asfortranarray(joined[:, columns])
    if np.any(scale != 1):
        joined *= np.asarray(scale, dtype=joined.dtype)
    return joined


def _counted(names: Sequence[str], codes: NDArray[np.uint8]) -> dict[str, int]:
    """How often each code occurs."""
    return dict(zip(names, map(int, np.bincount(codes, minlength=len(names))), strict=True))


def default_threads() -> int:
    """`OMP_NUM_THREADS`, of which the first number counts, or all cores."""
    wanted = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    given = int(wanted) if wanted.isdecimal() else 0
    return given or len(os.sched_getaffinity(0))


def devices_of(device: str) -> list[str]:
    """The CPU, or all GPUs that the process may use.

    Parameters
    ----------
    device
        "cpu", "cuda", or "auto": GPUs if torch is installed and finds one.

    Raises
    ------
    InputError
        "cuda" where torch finds no GPU.
    """
    if device == "cpu" or (device == "auto" and not Path("/dev/nvidiactl").exists()):
        return ["cpu"]  # without the seconds that importing torch takes
    try:
        import torch

        n_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    except ImportError:
        n_gpus = 0
    if device == "cuda" and not n_gpus:
        raise InputError("--device cuda: torch finds no GPU; use --device cpu or auto")
    return [f"cuda:{k}" for k in range(n_gpus)] or ["cpu"]

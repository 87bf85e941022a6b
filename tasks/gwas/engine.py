"""The association of a study: from its genotypes to the parts of a store, in overlapping stages.

Traits that memory does not hold are tested in groups, each in a reading of the genotypes of its
own.

Threads test, each its own block, which of a `.bed` they also read; another thread reads other
formats; others write. What is in work at once is bounded: a few blocks a thread, and a few parts.
"""

from __future__ import annotations

import logging
import os
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from axoloci.command import progress
from axoloci.covariates import design_matrix
from axoloci.errors import InputError
from axoloci.io.genotypes import Dosage, PackedCalls
from axoloci.io.loco import Loco
from axoloci.io.sumstats import Part, Piece, SumstatsWriter, TraitRange
from axoloci.tasks.gwas import kernel, variant_qc
from axoloci.tasks.gwas.inputs import Study
from axoloci.tasks.gwas.permutation import permutation_consumer
from axoloci.tasks.gwas.ploidy import Ploidy, ploidy_of
from axoloci.tasks.gwas.relationship import draw_probes, jackknife_cuts, probe_consumer, trace_sums
from axoloci.tasks.gwas.variant_qc import VariantFilter

log = logging.getLogger("axoloci")

THREADS_PER_WRITER = 3  # testing 128 traits takes about twice the time of writing them


@dataclass(frozen=True, eq=False)
class Design:
    """Who is tested on the chromosomes of one kind, adjusted for what.

    Attributes
    ----------
    ploidy
        Of these chromosomes.
    chosen : bool, (n_people of the study,)
        Who is tested.
    sample_index : int64, (n_samples,)
        These people in the order of the genotypes.
    matrix : float64, (n_samples, n_covariates), or None
        The intercept first; None where no one can be tested.
    covariates
        Names of its columns.
    copies
        Of the chromosome, on average.
    """

    ploidy: Ploidy
    chosen: NDArray[np.bool_]
    sample_index: NDArray[np.int64]
    matrix: NDArray[np.float64] | None
    covariates: list[str]
    copies: float


@dataclass(frozen=True, eq=False)
class Analysis:
    """What the chromosomes of one kind are tested with.

    Attributes
    ----------
    design
        People and covariates.
    model
        Of all traits of the study.
    se_scale : (n_traits,) or None
        What standard errors are multiplied by: that of a mixed model.
    """

    design: Design
    model: kernel.NullModel
    se_scale: NDArray[np.float64] | None


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


@dataclass(frozen=True, eq=False)
class Beside:
    """What is computed of autosomes beside the associations.

    Attributes
    ----------
    n_probes
        Random probes of the relationships, for heritability; may be 0.
    cuts : int64, (n_blocks,)
        From `jackknife_cuts`; empty without probes.
    stride
        One of so many variants is also tested with its people permuted; 0 for none.
    """

    n_probes: int
    cuts: NDArray[np.int64]
    stride: int

    @classmethod
    def of(cls, parts: Sequence[Part], n_probes: int, n_permuted: int) -> Beside:
        """That of a study.

        Parameters
        ----------
        parts
            All of it.
        n_probes, n_permuted
            Probes; variants that are permuted, about.
        """
        n_variants = sum(
            part.stop - part.start for part in parts if ploidy_of(part.chromosome) is Ploidy.DIPLOID
        )
        cuts = jackknife_cuts(parts) if n_probes else np.empty(0, np.int64)
        stride = -(-n_variants // n_permuted) if n_permuted else 0
        return cls(n_probes if n_variants else 0, cuts, stride)

    @property
    def is_any(self) -> bool:
        """Whether there are autosomes of which something is computed beside."""
        return bool(len(self.cuts) or self.stride)

    def consumers(self, analysis: Analysis, is_last: bool) -> list[kernel.Consumer]:
        """Of the blocks of an analysis; the probes ride with the last group of traits alone."""
        if analysis.design.ploidy is not Ploidy.DIPLOID:
            return []
        model = analysis.model
        found = [permutation_consumer(model, self.stride)] if self.stride else []
        if self.n_probes and is_last:
            found.append(probe_consumer(draw_probes(model.q, self.n_probes)))
        return found


class Analyses:
    """The analysis of each chromosome of a study.

    Parameters
    ----------
    study
        What is tested.
    tested
        Which of its traits.
    designs
        By ploidy, of all chromosomes of the study.
    predicted
        What the command ridge left of the traits; without it the traits themselves.
    autosomes
        The analysis of these without predictions, if it is there already.
    """

    def __init__(
        self,
        study: Study,
        tested: Tested,
        designs: Mapping[Ploidy, Design],
        predicted: Loco | None,
        autosomes: Analysis | None,
    ) -> None:
        self.study, self.tested = study, tested
        self._designs, self._predicted = designs, predicted
        self._kept = {} if predicted is not None or autosomes is None else {"": autosomes}

    def __getitem__(self, chromosome: str) -> Analysis:
        """The analysis of a chromosome.

        With predictions that of an autosome is made anew each time: it is as large as the traits.
        """
        key = self.key(chromosome)
        if key in self._kept:
            return self._kept[key]
        study, values, se_scale = self.study, self.study.trait_values, None
        if self._predicted is not None:
            index, names = self.tested.index, self.tested.names
            values, se_scale = np.full_like(values, np.nan), np.ones(len(study.traits))
            found = self._predicted.residuals(chromosome, study.people, names)
            values[:, index], se_scale[index] = found
        ploidy = ploidy_of(chromosome)
        made = analysis_of(self._designs[ploidy], values, se_scale)
        if self._predicted is None or ploidy is not Ploidy.DIPLOID:
            self._kept[key] = made
        return made

    def key(self, chromosome: str) -> str:
        """The same for chromosomes that share an analysis.

        With predictions an autosome's own, else one a kind.
        """
        ploidy = ploidy_of(chromosome)
        if ploidy is Ploidy.DIPLOID:
            return "" if self._predicted is None else chromosome
        return str(ploidy.value)


class TraitGroups:
    """All traits of a study, which are fitted and tested in groups if memory does not hold them.

    Of one group the models are kept, of several they are made anew when they are needed.

    Parameters
    ----------
    study
        What is tested.
    predicted
        What the command ridge left of the traits; without it the traits themselves.
    ranges
        The groups, from `trait_ranges`.

    Attributes
    ----------
    study
        As it came in.
    ranges
        Likewise.
    excluded : dict
        Names of the traits that cannot be tested, and why.
    tested : Tested
        The others.
    trait_residual_sd : float64, (n_tested,)
        As in `NullModel`.

    Raises
    ------
    InputError
        There are too few people for the covariates, or the predictions lack a person or a trait.
    """

    def __init__(self, study: Study, predicted: Loco | None, ranges: Sequence[TraitRange]) -> None:
        self.study, self.ranges = study, list(ranges)
        self._predicted = predicted
        self._designs = {Ploidy.DIPLOID: design_of(study, Ploidy.DIPLOID)}
        for chromosome in study.source.variants["chromosome"].unique():
            ploidy = ploidy_of(chromosome)
            if ploidy not in self._designs:
                self._designs[ploidy] = design_of(study, ploidy)
        self._autosomes: Analysis | None = None
        self.excluded: dict[str, str] = {}
        sd = np.full(len(study.traits), np.nan)
        for group in self.ranges:
            fitted = self._fitted(group)
            model, names = fitted.model, study.traits[group.start : group.stop]
            sd[group.start : group.stop] = model.trait_residual_sd
            self.excluded |= {names[k]: why for k, why in model.excluded.items()}
            if len(self.ranges) == 1:
                self._autosomes = fitted
        self.tested = _tested(study, self.excluded)
        self.trait_residual_sd = sd[self.tested.index]
        if predicted is not None:
            for chromosome in study.source.variants["chromosome"].unique():
                predicted.check(chromosome, study.people, self.tested.names)

    @property
    def null_model(self) -> kernel.NullModel:
        """That of autosomes, of the last group of traits, without predictions."""
        return self._fitted(self.ranges[-1]).model

    @property
    def covariates(self) -> list[str]:
        """Names of the covariates of autosomes, the intercept first."""
        return self._designs[Ploidy.DIPLOID].covariates

    def covariates_of(self, chromosome: str) -> list[str]:
        """Those of a chromosome; none where no one can be tested."""
        return self._designs[ploidy_of(chromosome)].covariates

    def analyses(self, group: TraitRange) -> Analyses:
        """Those of a group, for its association."""
        study = self._study_of(group)
        tested = _tested(study, self.excluded)
        return Analyses(study, tested, self._designs, self._predicted, self._autosomes)

    def own_people(self) -> dict[str, int]:
        """How many are tested on each chromosome that is no autosome, where any can be."""
        chromosomes = self.study.source.variants["chromosome"].unique()
        designs = {name: self._designs[ploidy_of(name)] for name in chromosomes}
        return {
            name: len(design.sample_index)
            for name, design in designs.items()
            if design.ploidy is not Ploidy.DIPLOID and design.matrix is not None
        }

    def trait_correlation(self, ploidy: Ploidy = Ploidy.DIPLOID) -> NDArray[np.float64]:
        """Correlation of the traits adjusted as for chromosomes of a kind, among their people.

        float64, (n_tested, n_tested); 0 with others of a trait that cannot be tested there.
        """
        found = np.eye(len(self.tested.index))
        place = np.full(len(self.study.traits), -1)
        place[self.tested.index] = np.arange(len(found))
        for k, one in enumerate(self.ranges):
            first = self._fitted(one, ploidy).model
            rows = place[one.start + first.trait_index]
            for other in self.ranges[k:]:
                second = first if other is one else self._fitted(other, ploidy).model
                columns = place[other.start + second.trait_index]
                block = kernel.correlation(first, second)
                found[np.ix_(rows, columns)] = block
                found[np.ix_(columns, rows)] = block.T
        return found

    def _fitted(self, group: TraitRange, ploidy: Ploidy = Ploidy.DIPLOID) -> Analysis:
        """The analysis of chromosomes of a kind, without predictions."""
        if self._autosomes is not None and ploidy is Ploidy.DIPLOID:
            return self._autosomes
        values = self.study.trait_values[:, group.start : group.stop]
        return analysis_of(self._designs[ploidy], values)

    def _study_of(self, group: TraitRange) -> Study:
        part = slice(group.start, group.stop)
        study = self.study
        return replace(study, traits=study.traits[part], trait_values=study.trait_values[:, part])


def _tested(study: Study, excluded: Mapping[str, str]) -> Tested:
    """The traits of a study but those that cannot be tested."""
    index = [k for k, name in enumerate(study.traits) if name not in excluded]
    return Tested(
        index,
        [study.traits[k] for k in index],
        own_n=[study.traits[k] for k in index if np.isnan(study.trait_values[:, k]).any()],
    )


def design_of(study: Study, ploidy: Ploidy) -> Design:
    """Who is tested on chromosomes of one ploidy, adjusted for what.

    Parameters
    ----------
    study
        People, covariates, genotypes.
    ploidy
        Of the chromosomes.

    Raises
    ------
    InputError
        There are too few people for the covariates, on autosomes.
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
            return Design(ploidy, chosen, index[chosen], None, [], copies)
    matrix, names, left_out = design_matrix(columns)
    if ploidy is Ploidy.DIPLOID:
        for name, why in left_out.items():
            log.warning("covariate %s is left out: it is %s", name, why)
        if len(people) < matrix.shape[1] + 2:
            raise InputError(f"{len(people)} people are too few for {matrix.shape[1]} covariates")
    return Design(ploidy, chosen, index[chosen], matrix, names, copies)


def analysis_of(
    design: Design, values: NDArray[np.float64], se_scale: NDArray[np.float64] | None = None
) -> Analysis:
    """What chromosomes of one ploidy are tested with.

    Parameters
    ----------
    design
        People and covariates.
    values : (n_people of the study, n_traits)
        Traits, or what is left of them.
    se_scale
        As in `Analysis`.
    """
    if design.matrix is None:
        model = kernel.untestable(len(design.sample_index), values.shape[1])
    else:
        model = kernel.fit_null(values[design.chosen], design.matrix)
    return Analysis(design, model, se_scale)


def write_parts(
    groups: TraitGroups,
    parts: Sequence[Part],
    writer: SumstatsWriter,
    beside: Beside,
    *,
    devices: Sequence[str],
    n_threads: int,
    precision: kernel.Precision | None,
    variant_filter: VariantFilter,
) -> None:
    """Test the variants of some parts and write these.

    Parameters
    ----------
    groups
        What is tested.
    parts
        In the order of the genotypes.
    writer
        Of the store.
    beside
        What else is computed.
    devices, n_threads, precision, variant_filter
        As in `kernel.associate`.
    """
    n_traits = max(group.stop - group.start for group in groups.ranges)
    size = min(
        kernel.block_variants(device, len(groups.study.people), n_traits) for device in devices
    )
    test = partial(
        kernel.associate,
        devices=devices,
        n_threads=n_threads,
        precision=precision,
        variant_filter=variant_filter,
    )
    for group in groups.ranges:
        what = "association"
        lacking = writer.lacking(parts, group)
        if len(groups.ranges) > 1 and lacking:
            n_all = len(groups.study.traits)
            what = f"traits {group.start + 1:,} to {group.stop:,} of {n_all:,}"
            log.info("%s", what)
        n_writers = max(2, n_threads // THREADS_PER_WRITER)
        _write_group(groups, group, lacking, writer, beside, size, n_writers, what, test)


def _write_group(
    groups: TraitGroups,
    group: TraitRange,
    parts: Sequence[Part],
    writer: SumstatsWriter,
    beside: Beside,
    size: int,
    n_writers: int,
    what: str,
    test: Callable[..., Generator[kernel.Association]],
) -> None:
    """Test a group of traits for some parts, by blocks of so many variants at most."""
    analyses = groups.analyses(group)

    def results() -> Generator[tuple[Analysis, kernel.Association]]:
        for _, members in groupby(parts, key=lambda part: analyses.key(part.chromosome)):
            same = list(members)
            analysis = analyses[same[0].chromosome]
            found = test(
                blocks(analysis.design, same),
                analysis.model,
                copies=analysis.design.copies,
                consumers=beside.consumers(analysis, group.is_last),
                starts=(start for part in same for start, _ in pieces(part, size, beside.cuts)),
            )
            with closing(found):  # so that its threads end with this generator
                for block in found:
                    yield analysis, block

    def blocks(design: Design, same: Sequence[Part]) -> Iterator[Dosage | PackedCalls]:
        for part in same:
            for start, stop in pieces(part, size, beside.cuts):
                yield groups.study.source.read_packed(start, stop, design.sample_index)

    writing: deque[Future[None]] = deque()
    with closing(results()) as computed, ThreadPoolExecutor(n_writers) as pool:
        for part in progress(parts, what, len(parts)):
            rows, kept = [], Kept()
            for start, _ in pieces(part, size, beside.cuts):
                analysis, block = next(computed)
                kept.add(bisect_right(beside.cuts, start) - 1, block, beside, group.is_last)
                rows.append(replace(block, seen=[]))
            if len(writing) == n_writers:
                writing.popleft().result()
            earlier = groups.ranges[:-1] if group.is_last else []
            writing.append(
                pool.submit(_write, writer, part, group, earlier, analyses, analysis, rows, kept)
            )
        for future in writing:
            future.result()


def pieces(part: Part, size: int, cuts: NDArray[np.int64] | None = None) -> list[tuple[int, int]]:
    """Start and stop of the blocks of a part; none goes across a cut."""
    cuts = np.empty(0, np.int64) if cuts is None else cuts
    inside = cuts[(cuts > part.start) & (cuts < part.stop)].tolist()
    return [
        (start, min(start + size, stop))
        for first, stop in pairwise([part.start, *inside, part.stop])
        for start in range(first, stop, size)
    ]


class Kept:
    """What the blocks of a part gave beside the associations, for a group of traits.

    Attributes
    ----------
    permuted
        t of permuted variants, (n_permuted, n_tested) each.
    related
        By block of the jackknife: sums of what `probe_consumer` saw.
    n_rows, n_tested
        By block of the jackknife: variants in the store, and those of them that could be tested.
    """

    def __init__(self) -> None:
        self.permuted: list[NDArray[np.float32]] = []
        self.related: dict[int, NDArray[np.float64]] = {}
        self.n_rows: dict[int, int] = {}
        self.n_tested: dict[int, int] = {}

    def add(self, number: int, block: kernel.Association, beside: Beside, is_last: bool) -> None:
        """Keep what a block gave, that is in so manieth block of the jackknife."""
        if not block.seen:
            return
        if beside.stride:
            self.permuted += block.seen[0]
        if beside.n_probes and is_last:
            self.n_rows[number] = self.n_rows.get(number, 0) + len(block.n)
            for n_tested, related in block.seen[-1]:
                self.n_tested[number] = self.n_tested.get(number, 0) + n_tested
                self.related[number] = self.related.get(number, 0.0) + related.astype(np.float64)


def kept_beside(
    writer: SumstatsWriter, groups: TraitGroups, beside: Beside
) -> dict[str, NDArray[Any]]:
    """`Sumstats.relationship` and `Sumstats.permuted` of what is kept beside the parts.

    Parameters
    ----------
    writer
        Of the store, all of whose parts are there.
    groups, beside
        As in `write_parts`.
    """
    n_blocks = len(beside.cuts)
    counts = {name: np.zeros(n_blocks, np.int64) for name in ("n_rows", "n_tested")}
    autosomal = [part for part in writer.parts if ploidy_of(part.chromosome) is Ploidy.DIPLOID]
    permuted = []
    for part in autosomal:
        kept = writer.read_beside(part)
        permuted.append(kept["permuted"])
        for name, total in counts.items():
            total[kept["block"]] += kept[name]
    found: dict[str, NDArray[Any]] = {"permuted": np.concatenate(permuted)} if beside.stride else {}
    if not beside.n_probes:
        return found
    q = groups.null_model.q

    def read() -> Iterator[tuple[int, NDArray[np.float32]]]:
        for part in autosomal:
            kept = writer.read_beside(part)
            yield from zip(kept["block"].tolist(), kept["related"], strict=True)

    sums = trace_sums(draw_probes(q, beside.n_probes), q, read, n_blocks)
    chromosomes = np.array(list(dict.fromkeys(part.chromosome for part in autosomal)))
    df = np.array(q.shape[0] - q.shape[1])
    return {**found, **counts, "chromosomes": chromosomes, "df": df, **sums}


def _write(
    writer: SumstatsWriter,
    part: Part,
    group: TraitRange,
    earlier: Sequence[TraitRange],
    analyses: Analyses,
    analysis: Analysis,
    rows: list[kernel.Association],
    kept: Kept,
) -> None:
    """One part, or a group's piece of it, from the results of its blocks."""
    study, tested, model = analyses.study, analyses.tested, analysis.model
    status = np.concatenate([row.status for row in rows])
    n = np.concatenate([row.n for row in rows])
    n_by_group = np.concatenate([row.n_by_group for row in rows])
    group_of = {
        study.traits[k]: i
        for i, same in enumerate(model.groups)
        if not same.is_whole
        for k in same.trait_index
    }
    scale: float | NDArray[np.float64] = analysis.design.ploidy.effect_scale
    se_scale = scale if analysis.se_scale is None else scale * analysis.se_scale[tested.index]
    results: dict[str, Any] = {
        "traits": tested.names,
        "n": n,
        "beta": _joined([row.beta for row in rows], tested.index, scale),
        "se": _joined([row.se for row in rows], tested.index, se_scale),
        "n_covariates": len(analysis.design.covariates),
        "n_by_trait": {
            name: n_by_group[:, group_of[name]] if name in group_of else n for name in tested.own_n
        },
    }
    n_people = model.groups[0].n_samples if model.groups else 0
    permuted = np.full((sum(map(len, kept.permuted)), model.n_traits), np.nan, dtype=np.float32)
    if kept.permuted:
        permuted[:, model.trait_index] = np.concatenate(kept.permuted)
    permuted = permuted[:, tested.index]
    if not group.is_last:
        writer.write_piece(
            part, group, **results, status=status, n_people=n_people, permuted=permuted
        )
        return
    others = [writer.read_piece(part, one) for one in earlier]
    left_out = np.concatenate([row.left_out for row in rows])
    counts = {
        **_counted(kernel.STATUS_NAMES, _status_of_all(status, n_people, others)),
        **_counted(variant_qc.REASON_NAMES, left_out),
    }
    counts.pop("kept")
    writer.write(
        part,
        study.source.variants.iloc[part.start : part.stop][left_out == variant_qc.KEPT],
        effect_allele_frequency=np.concatenate([row.effect_allele_frequency for row in rows]),
        **results,
        counts=counts,
        earlier=others,
        beside=None
        if not writer.keeps_beside
        else {
            "permuted": np.concatenate([*(piece.permuted for piece in others), permuted], axis=1),
            "block": np.array(list(kept.related), dtype=np.int64),
            "related": np.array(list(kept.related.values()), dtype=np.float32),
            "n_rows": np.array(list(kept.n_rows.values()), dtype=np.int64),
            "n_tested": np.array(list(kept.n_tested.values()), dtype=np.int64),
        },
    )


def _status_of_all(
    status: NDArray[np.uint8], n_people: int, earlier: Sequence[Piece]
) -> NDArray[np.uint8]:
    """What became of each variant: as `kernel.Association` has it of all traits together."""
    every = np.stack([*(piece.status for piece in earlier), status])
    most = np.argmax([*(piece.n_people for piece in earlier), n_people])
    return np.where((every == kernel.TESTED).any(axis=0), kernel.TESTED, every[most])


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

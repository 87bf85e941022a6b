"""What a study will need: time, memory and disk of each step, and what is missing.

Each function named `…_cost` states its formula and the constants measured for it: CPU seconds on
one core of an AMD EPYC, peak memory (MB) of one job, bytes of what one job leaves. They hold within
a factor of three where they were measured; far from there they are a guess.
"""

from __future__ import annotations

import math
import os
import shutil
import sys
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from axoloci.errors import InputError
from axoloci.io.atlas import read_atlas
from axoloci.io.genotype_files import genotype_set, n_variants
from axoloci.io.nifti import read_header, regridded
from axoloci.job import read_record
from axoloci.scans import Scan, find_scans
from axoloci.steps import Resources, installed_steps
from axoloci.study import StudyPaths, StudySettings
from axoloci.workflows.graph import group_programs
from axoloci.workflows.participant import PAGE, resources_of
from axoloci.workflows.participants import Cohort, read_outcomes, shown_template, steps_of

MAX_LATENTS, PEOPLE_PER_LATENT = 128, 15  # without n_latents in the study
MOST_COMPONENTS = 1024  # that a share of variance may ask for
STEPS, FEWEST_EPOCHS, MOST_EPOCHS = 1000, 6, 20  # of training, without epochs in the study
CHANNELS = 8  # with which training was measured
CHROMOSOMES = 22  # that a mixed model leaves out in turn
MOST_KEPT = 2 * 2**30  # bytes of the relationships that axoloci-gwas ridge keeps
LARGEST_PART = 64 * 2**20  # bytes of the store of summary statistics that are read at once
MOST_PEOPLE_EXACT = 5000  # principal components of more people are found by iteration


@dataclass(frozen=True)
class Cost:
    """What one job takes: CPU seconds, peak memory (MB), bytes of what it leaves."""

    seconds: float
    memory_mb: float
    n_bytes: float


def preprocess_cost(voxels: int, volumes: int) -> Cost:
    """Raw DWI to corrected DWI.

    1.3 s + 1.7e-6 s, 85 MB + 11 bytes and 3.5 bytes on disk a voxel and volume. Measured on scans
    of 0.4 and 57 million voxels times volumes: 2.1 and 99 s, 92 and 672 MB; 1.3 MB on disk, and 144
    of 41 million. Denoising adds a quarter to the time and a third to the memory, correction of
    distortion a seventh to the time.
    """
    n = voxels * volumes
    return Cost(1.3 + 1.7e-6 * n, 85 + 11e-6 * n, 3.5 * n)


def dti_cost(voxels: int, volumes: int) -> Cost:
    """Corrected DWI to maps of the tensor and of the kurtosis, by the defaults.

    1.4 s + 3.5e-8 s and 190 MB + 1.1 bytes a voxel and volume; 12 bytes on disk a voxel, a quarter
    of which are in the mask. Measured on scans of 0.4 and 82 million voxels times volumes: 1.4 and
    4.0 s, 192 and 273 MB, 0.5 and 4.9 MB on disk.
    """
    n = voxels * volumes
    return Cost(1.4 + 3.5e-8 * n, 190 + 1.1e-6 * n, 12.0 * voxels)


def normalize_cost(template_voxels: int) -> Cost:
    """FA map to the common space.

    1.3 s + 7e-6 s, 185 MB + 290 bytes and 12 bytes on disk a voxel of the template. Measured with
    templates of 41,000 and 903,000 voxels: 1.7 and 7.5 s, 197 and 450 MB, 0.5 and 10.4 MB on disk.
    """
    n = template_voxels
    return Cost(1.3 + 7e-6 * n, 185 + 290e-6 * n, 12.0 * n)


def pack_cost(template_voxels: int, people: int) -> Cost:
    """FA maps of all people to the cohort store, the common mask included.

    1.3 s, 1.9e-7 s a voxel of the template and 1.8e-8 s a voxel and person, for whom the file is
    read twice; 205 MB + 72 bytes a voxel; 0.35 bytes on disk a voxel and person. Measured with
    903,000 voxels and 1 or 90 people: 1.3 and 2.8 s, 266 and 285 MB, 0.3 and 25 MB on disk; with
    7.2 million and 1 or 6 people: 2.7 and 3.1 s, 725 MB, 2.0 and 11.6 MB; with 41,000 and 60 or
    150 people: 1.7 s, 205 MB, 1.0 and 2.7 MB.
    """
    n = template_voxels * people
    return Cost(
        1.3 + 1.9e-7 * template_voxels + 1.8e-8 * n, 205 + 72e-6 * template_voxels, 0.35 * n
    )


def train_cost(
    template_voxels: int, people: int, latents: int, epochs: int, channels: int, batch: int
) -> Cost:
    """Training of the encoder on a CPU.

    6 s + 7.5e-8 s a voxel of the template, person, epoch and channel of the finest level; 430 MB +
    34 bytes a voxel, person of a batch and channel. On disk 2 MB + 3 bytes a voxel and latent.
    Measured with 41,000 voxels, 60 or 150 people: 7.7 and 26 s, 455 and 542 MB; the published
    network with 903,000 voxels and batches of 2 or 4: 2.7 and 3.6 s a person and epoch, 2.4 and
    4.1 GB. A GPU was not measured.
    """
    work = template_voxels * people * epochs * channels
    memory = 430 + 34e-6 * template_voxels * batch * channels
    return Cost(
        6 + 7.5e-8 * work, memory, 2e6 * channels / CHANNELS + 3.0 * template_voxels * latents
    )


def epochs_for(people: int, batch: int) -> int:
    """Epochs of a training without `epochs` in the study; a tenth of the people is held out."""
    return min(MOST_EPOCHS, max(FEWEST_EPOCHS, math.ceil(STEPS / math.ceil(0.9 * people / batch))))


def fit_linear_cost(
    template_voxels: int, people: int, latents: int, by_variance: bool = False
) -> Cost:
    """Fit of the linear representation on a CPU.

    Ten passes, each with latents + 10 vectors, over a mask of 0.3 of the template's voxels. 3 s
    and, a voxel of the template, 1.3e-5 s for the bandwidth and, for each vector, 7e-7 s to smooth
    it + 4.5e-9 s a vector to make it orthogonal + 9e-10 s a person. 350 MB + 700 bytes a voxel of
    the template + five blocks of up to 256 people (1.3 GB at most) + the vectors of 10 passes (2
    GiB at most, or of 4 passes) and of 6 more for products. 4 bytes on disk a voxel of the mask and
    latent. Where a share of variance is asked for, nobody knows the components before: memory is
    that of 1,024, which is the most there are.
    Measured on one thread of a busy machine, without the start of the program, with masks of 3,100
    to 30,600 voxels and 100 to 1,000 people: 0.14 to 1.2 s, which is 1.6 to 2.4 times less, for the
    passes were 3 to 9; 257 to 382 MB. With a mask of 234,000 voxels only 16 maps were smoothed, by
    one bandwidth: 0.8 s, 646 MB; what is said of more people and voxels follows from the formula.
    """
    vectors, mask = latents + 10, 0.3 * template_voxels
    a_vector = 7e-7 + 4.5e-9 * vectors + 9e-10 * people  # s a voxel of the template
    a_pass = 4e-6 * mask * vectors  # MB
    blocks = min(1342, 20e-6 * mask * min(people, 256))
    basis = min(10 * a_pass, max(2147, 4 * a_pass)) + 6 * a_pass
    if by_variance:
        basis = 4e-6 * mask * min(people, MOST_COMPONENTS) + 9 * a_pass
    return Cost(
        3 + template_voxels * (1.3e-5 + vectors * a_vector),
        350 + 700e-6 * template_voxels + blocks + basis,
        4.0 * mask * latents,
    )


def encode_cost(template_voxels: int, people: int, latents: int) -> Cost:
    """FA maps to latents.

    2.8 s + 1.3e-7 s a voxel of the template and person; 350 MB + 1 kB a voxel; 8 bytes on disk a
    person and latent, and examples of 4 bytes a voxel. Measured as the training: 2.9 and 3.6 s, 363
    and 399 MB.
    """
    n = template_voxels * people
    return Cost(
        2.8 + 1.3e-7 * n,
        350 + 1e-3 * template_voxels,
        8.0 * people * latents + 4.0 * template_voxels,
    )


def pca_cost(people: int, variants: int) -> Cost:
    """Principal components of the genotypes.

    1.5 s + 3.4e-11 s and 190 MB + 28 bytes a pair of people (times variants, for the time).
    Measured with 1,000 and 4,000 people and 20,000 independent variants: 2.4 and 13 s, 258 and
    641 MB. From 5,000 people on, where it changes its method, the cost is taken to grow in
    proportion to their number.
    """
    pairs = people * min(people, MOST_PEOPLE_EXACT)
    return Cost(1.5 + 3.4e-11 * pairs * variants, 190 + 28e-6 * pairs, 120.0 * people)


def ridge_cost(people: int, variants: int, traits: int) -> Cost:
    """The mixed model of all traits, without each of 22 chromosomes in turn.

    A trait takes about 25 products with the relationship of the people for each chromosome, the
    choice of its parameters 60, the mean variance of the tests of each chromosome 3,600. Up to
    4,800 people the relationship is kept, and a product takes 4.2e-11 s a pair of people; beyond
    them the genotypes are read again for each, 8.4e-11 s a person and variant. 270 MB + 92 bytes a
    pair, where it is kept, + 24 bytes a person and product; 4 bytes on disk a person, trait and
    chromosome. Measured with 500 to 4,900 people, 2,000 to 20,000 variants and 4 to 128 traits: 2
    to 58 s, 300 to 720 MB.
    """
    n = CHROMOSOMES + 1  # and all of them
    products = CHROMOSOMES * (25 * traits + 3600) + 60 * (traits + 20)
    kept = 4 * n * people**2
    if kept <= MOST_KEPT:
        work = people**2 * (variants + products)
    else:
        work, kept = 2 * people * variants * products, 0
    columns = max(traits * n, 60 * CHROMOSOMES)
    return Cost(
        2.0 + 4.2e-11 * work,
        270 + 1e-6 * kept + 24e-6 * people * columns,
        4.0 * n * traits * (people + 2 * traits),
    )


def gwas_cost(people: int, variants: int, traits: int) -> Cost:
    """Association of all traits with all variants.

    2 s + 6e-11 s a person, variant and trait; 270 MB + 290 bytes a person and trait; 40 bytes on
    disk a variant and 7 more a trait. Measured with 60 to 5,000 people, 3,000 to 20,000 variants
    and 2 to 128 traits: 0.04 ms a variant of 5,000 people and 128 traits, 290 to 450 MB.
    """
    n = people * variants * traits
    return Cost(2.0 + 6e-11 * n, 270 + 290e-6 * people * traits, variants * (40 + 7.0 * traits))


def export_cost(variants: int) -> Cost:
    """Summary statistics of one trait as text.

    1.2 s + 1e-5 s and 22 bytes on disk a variant; 220 MB. Measured with 3,000 variants.
    """
    return Cost(1.2 + 1e-5 * variants, 220, 22.0 * variants)


def joint_cost(variants: int, traits: int) -> Cost:
    """Joint test of each variant over all traits.

    1.4 s + 2.4e-9 s a variant and pair of traits; 200 MB; 40 bytes on disk a variant. Measured with
    20,000 variants and 8 or 64 traits: 1.1 and 1.5 s, 175 and 203 MB.
    """
    return Cost(1.4 + 2.4e-9 * variants * traits**2, 200, 40.0 * variants)


def loci_cost(variants: int) -> Cost:
    """Lead variants, or their replication: 1.7 s + 1e-6 s a variant, 220 MB, 2 kB."""
    return Cost(1.7 + 1e-6 * variants, 220, 2000)


def signals_cost(people: int, traits: int) -> Cost:
    """More signals of 20 loci, a few thousand variants each."""
    return Cost(4.0 + 1e-6 * people * traits, 300 + 290e-6 * people * traits, 4000)


def heritability_cost(variants: int, traits: int) -> Cost:
    """Heritability and genetic correlation from the store, with a jackknife of 200 blocks."""
    squares = 200 * traits**2
    return Cost(2.0 + 1e-8 * variants * traits + 1e-7 * squares, 250 + 32e-6 * squares, 8 * squares)


def ldsc_cost(variants: int, traits: int, outside: Sequence[Path] = ()) -> Cost:
    """LD score regression of all traits and pairs, in 200 blocks, with texts of other studies.

    2 s, 5e-6 s a variant and 4e-8 s a variant and pair; 230 MB, 300 bytes a variant and 9 a variant
    and trait. Of a text, whose rows of about 50 bytes are taken to compress to a quarter, 2.8e-6 s
    and, of the longest, 400 bytes a row; 1e-6 s a variant and pair of texts. Measured with 200,000
    variants and 8 traits: 2.8 s and 306 MB, with one text of a million rows 5.6 s and 710 MB, with
    five 19 s and 729 MB; beside other work with 8 or 32 traits, and 800,000 variants and 16: 6.3,
    21 and 37 s, 304, 349 and 547 MB.
    """
    compressed = (".gz", ".bz2")
    rows = [
        path.stat().st_size * (4 if path.suffix in compressed else 1) / 50
        for path in outside
        if path.is_file()
    ]
    n_pairs = len(rows) * (len(rows) + 1) / 2
    seconds = 2.0 + 5e-6 * variants + 4e-8 * variants * traits**2
    seconds += 2.8e-6 * sum(rows) + 1e-6 * variants * n_pairs
    memory = 230 + 3e-4 * variants + 9e-6 * variants * traits + 4e-4 * max(rows, default=0.0)
    return Cost(seconds, memory, 1600.0 * (traits + len(rows)) ** 2)


def linearise_cost(voxels: int, latents: int) -> Cost:
    """The tangent of a decoder at the latents of a few people."""
    return Cost(3.0 + 2e-5 * voxels * latents, 600 + 1e-3 * voxels, 4.0 * voxels * latents)


def voxels_cost(template_voxels: int, latents: int) -> Cost:
    """Maps of about 20 lead variants.

    The basis, which three times over is held at once, is of 0.3 of the template's voxels. Measured
    without reading and writing, 20,000 voxels and 16 latents to 200,000 and 128: 0.06 to 1.3 s.
    """
    basis = 0.3 * template_voxels * latents
    return Cost(
        2.0 + 4e-6 * template_voxels + 5e-8 * basis,
        250 + 150e-6 * template_voxels + 12e-6 * basis,
        60.0 * template_voxels,
    )


def voxel_h2_cost(template_voxels: int, latents: int) -> Cost:
    """Map of the heritability, with a jackknife of 200 blocks: all pairs of latents in each voxel.

    5e-9 s a voxel of 0.3 of the template and pair; 13 kB a pair beside the basis. Measured without
    reading and writing, 100,000 voxels and 64 latents or 200,000 and 128: 2.2 and 15 s, 55 and
    180 MB.
    """
    maps = voxels_cost(template_voxels, latents)
    seconds = 2.0 + 4e-6 * template_voxels + 5e-9 * 0.3 * template_voxels * latents**2
    return Cost(seconds, maps.memory_mb + 13e-3 * latents**2, 6.0 * template_voxels)


def report_cost(people: int, variants: int, traits: int) -> Cost:
    """The page, for which the whole store is read.

    3.2 s, 2 ms a person, 2e-7 s a variant and 1.2e-7 s a variant and trait; 250 MB, 260 bytes a
    variant, 0.05 bytes a variant and trait, and 15 times the largest part of the store; 2 MB on
    disk. Measured with 60 and 150 people; with 100,000 variants and 8 or 32 traits, 300,000 and 32,
    and a million and 8, beside 1.5 s and 227 MB: 0.2, 0.4, 1.1 and 0.9 s, 31, 46, 146 and 267 MB.
    """
    part = min(LARGEST_PART, 8 * variants * traits / CHROMOSOMES)
    return Cost(
        3.2 + 2e-3 * people + (2e-7 + 1.2e-7 * traits) * variants,
        250 + (260e-6 + 5e-8 * traits) * variants + 15e-6 * part,
        2e6,
    )


def page_cost(voxels: int, template_voxels: int) -> Cost:
    """The page of one scan.

    0.5 s + 1.7e-7 s and 64 MB + 17 bytes a voxel of the scan and of the template; 0.7 MB on disk.
    Measured with 0.1 and 1.5 million voxels: 0.5 and 0.7 s, 66 and 90 MB, 0.6 and 0.8 MB on disk.
    """
    n = voxels + template_voxels
    return Cost(0.5 + 1.7e-7 * n, 64 + 17e-6 * n, 7e5)


def qc_cost(people: int) -> Cost:
    """The page of the quality of all scans.

    2.4 s + 1e-4 s, 185 MB + 2.2 kB and 0.2 MB + 120 bytes on disk a scan. Measured with 8 and
    50,000 scans: 2.4 and 7.2 s, 186 and 296 MB, 0.2 and 5.9 MB on disk.
    """
    return Cost(2.4 + 1e-4 * people, 185 + 2.2e-3 * people, 2e5 + 120.0 * people)


def asked_cost(asked: Resources) -> Cost:
    """A job that was not measured takes what its `step.toml` asks for; its disk is unknown."""
    return Cost(60 * asked.minutes, 1000 * asked.memory_gb, 0)


@dataclass
class StepPlan:
    """All jobs of one kind of a cohort: what is done, and what the others take.

    Attributes
    ----------
    cohort, job
        Which.
    n_jobs, n_done
        All jobs, and those that are finished.
    seconds
        CPU seconds of those that are not finished.
    memory_mb
        Peak memory of the largest job.
    n_bytes
        On disk when all are finished; `n_bytes_to_come` of them are not there yet.
    asked_gb
        Memory that a job asks for, by its `step.toml` or as a page.
    of_scans
        There is one a scan, and not one of the cohort.
    """

    cohort: str
    job: str
    asked_gb: float
    of_scans: bool = False
    n_jobs: int = 0
    n_done: int = 0
    seconds: float = 0.0
    longest: float = 0.0
    memory_mb: float = 0.0
    n_bytes: float = 0.0
    n_bytes_to_come: float = 0.0

    def add(self, cost: Cost, done: bool) -> None:
        """One more job."""
        self.n_jobs += 1
        self.n_done += done
        self.memory_mb = max(self.memory_mb, cost.memory_mb)
        self.n_bytes += cost.n_bytes
        if not done:
            self.seconds += cost.seconds
            self.longest = max(self.longest, cost.seconds)
            self.n_bytes_to_come += cost.n_bytes


@dataclass
class StudyPlan:
    """What a study needs.

    Attributes
    ----------
    steps
        One a kind of job.
    people, variants, latents
        By cohort; latents of all representations together, and traits count as latents.
    scan_shapes
        Number of scans by the shape of their images.
    missing
        Inputs that cannot be read, and programs that are not installed.
    free_bytes
        Free where the output will lie.
    """

    steps: list[StepPlan] = field(default_factory=list)
    people: dict[str, int] = field(default_factory=dict)
    variants: dict[str, int] = field(default_factory=dict)
    latents: dict[str, int] = field(default_factory=dict)
    scan_shapes: Counter[tuple[int, ...]] = field(default_factory=Counter)
    missing: list[str] = field(default_factory=list)
    free_bytes: int = 0

    def wall_seconds(self, n_procs: int) -> float:
        """Time on `n_procs` cores: scans side by side, the cohort's jobs in turn on one core."""
        of_scans = [step for step in self.steps if step.of_scans]
        side_by_side = sum(step.seconds for step in of_scans) / n_procs
        longest = sum(step.longest for step in of_scans)
        in_turn = sum(step.seconds for step in self.steps if not step.of_scans)
        return max(side_by_side, longest) + in_turn

    def memory_mb(self, n_procs: int) -> float:
        """Peak memory on `n_procs` cores."""
        of_scans = [step.memory_mb for step in self.steps if step.of_scans]
        others = [step.memory_mb for step in self.steps if not step.of_scans]
        return max([n_procs * max(of_scans, default=0.0), *others])


def plan_study(
    settings: StudySettings,
    env: str = "native",
    *,
    scans_of: Mapping[str, Sequence[Scan]] | None = None,
    shapes: Mapping[Path, tuple[int, ...]] | None = None,
) -> StudyPlan:
    """What a study needs, from the headers of its images and the size of its tables.

    Nothing is written. Inputs that cannot be read are named in `missing`, and what they would tell
    is left out of the sums.

    Parameters
    ----------
    settings, env
        As for `run_study`.
    scans_of
        Scans by cohort, where they were looked for already; other cohorts are passed over then.
    shapes
        Shapes of images whose headers were read already.
    """
    plan = StudyPlan(missing=_missing_programs())
    cohorts = settings.cohorts()
    programs = group_programs(settings)
    resources = {step.command: step.resources for step in installed_steps().values()}
    template = 0
    trained_latents: dict[str, int] = {}
    for name, cohort in cohorts.items():
        paths = StudyPaths(cohort.out)
        if scans_of is not None and name not in scans_of:
            continue
        try:
            scans = find_scans(cohort) if scans_of is None else scans_of[name]
        except (InputError, OSError) as error:
            plan.missing.append(str(error))
            continue
        try:
            template = template or _template_voxels(cohort, scans)
            if scans:
                _plan_scans(plan, name, cohort, scans, env, template, shapes or {})
                plan.people[name] = len({scan.sample_id for scan in scans})
                if not trained_latents:
                    trained_latents = _latents(cohort, plan.people[name])
                plan.latents[name] = sum(trained_latents.values())
            elif cohort.traits is not None:
                chosen = cohort.gwas.traits
                plan.people[name], n_traits = _size_of_table(cohort.traits, chosen)
                plan.latents[name] = len(chosen) or n_traits
                if cohort.keep is not None:
                    plan.people[name] = len(Cohort(cohort, []).people)
        except (InputError, OSError) as error:
            plan.missing.append(str(error))
            continue
        plan.variants[name] = _n_variants(plan, cohort) if name != "train" else 0
        for job, program in programs.get(name, {}).items():
            asked = resources[program]
            _plan_job(plan, name, job, cohort, template, paths, asked, trained_latents)
    if "" in programs and plan.people:
        own = StudyPaths(settings.out)
        for job, program in programs[""].items():
            asked = resources[program]
            _plan_job(plan, "", job, settings, template, own, asked, trained_latents)
    where = settings.out
    while not where.exists() and where != where.parent:
        where = where.parent
    plan.free_bytes = shutil.disk_usage(where).free
    return plan


def _latents(settings: StudySettings, people: int) -> dict[str, int]:
    """Latents of each representation that is learnt of so many people."""
    named = {"autoencoder": settings.encoder.decided.n_latents, "linear": settings.linear.n_latents}
    if (atlas := settings.atlas()) is not None:
        labels, _ = read_atlas(atlas)
        named["linear"] = len(np.unique(labels[labels > 0]))
    few = min(MAX_LATENTS, max(1, people // PEOPLE_PER_LATENT))
    return {name: named[name] or few for name in settings.representations()}


def _missing_programs() -> list[str]:
    """Commands of steps that are not installed."""
    search = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    lacking = [
        step.command
        for step in installed_steps().values()
        if step.name != "simulate" and shutil.which(step.command, path=search) is None
    ]
    return [f"{', '.join(lacking)}: not installed; pip install 'axoloci[all]'"] if lacking else []


def _shape(path: Path) -> tuple[int, ...]:
    """Shape of an image, from its header."""
    try:
        return tuple(int(n) for n in nib.load(path).shape)  # type: ignore[attr-defined]
    except Exception as error:  # nibabel raises many kinds for a damaged file
        raise InputError(f"{path}: its header cannot be read: {error}") from error


def _template_voxels(cohort: StudySettings, scans: Sequence[Scan]) -> int:
    """Voxels of the common space."""
    if cohort.start == "gwas":
        return 0
    if cohort.start == "encoder":
        return math.prod(_shape(scans[0].fa)) if scans[0].fa else 0
    return math.prod(template_grid(cohort)[0])


def template_grid(settings: StudySettings) -> tuple[tuple[int, ...], NDArray[np.float64]]:
    """Shape and affine (4, 4) of the space that maps are brought to, from the template's header.

    Raises
    ------
    InputError
        The template cannot be read.
    """
    header = read_header(shown_template(settings), 3)
    if settings.normalize.voxel_size is None:
        return header.shape, header.affine
    return regridded(header.shape, header.affine, settings.normalize.voxel_size)


def _plan_scans(
    plan: StudyPlan,
    name: str,
    cohort: StudySettings,
    scans: Sequence[Scan],
    env: str,
    template: int,
    shapes: Mapping[Path, tuple[int, ...]],
) -> None:
    """Add the jobs of a cohort's scans; a scan is done, or all of its jobs are to be run."""
    done = {o.scan for o in read_outcomes(scans, cohort, env) if o.status == "ok"}
    steps = {
        step: StepPlan(name, step, resources_of(step).memory_gb, of_scans=True)
        for step in steps_of(cohort)
    }
    for scan in scans:
        image = scan.dwi or scan.fa
        assert image is not None
        try:
            shape = shapes.get(image) or _shape(image)
        except InputError as error:
            plan.missing.append(str(error))
            continue
        plan.scan_shapes[shape] += 1
        voxels, volumes = math.prod(shape[:3]), shape[3] if len(shape) > 3 else 1
        costs = {
            "preprocess": preprocess_cost(voxels, volumes),
            "dti": dti_cost(voxels, volumes),
            "normalize": normalize_cost(template),
            PAGE: page_cost(voxels, template),
        }
        for step, planned in steps.items():
            cost = costs.get(step) or asked_cost(resources_of(step))
            planned.add(cost, scan.prefix in done)
    plan.steps += steps.values()


def _plan_job(
    plan: StudyPlan,
    name: str,
    job: str,
    cohort: StudySettings,
    template: int,
    paths: StudyPaths,
    asked: Resources,
    of_representations: Mapping[str, int],
) -> None:
    """Add one job of a cohort; one that was not measured takes what its `step.toml` asks for."""
    people = plan.people.get(name, sum(plan.people.values()))
    variants, latents = plan.variants.get(name, 0), plan.latents.get(name, 1)
    kind, _, which = job.partition("_")
    own = of_representations.get(which, latents)  # of one representation, else all that are tested
    # of a study of several cohorts the page shows the associations of the discovery
    of_report = (
        (variants, latents)
        if name
        else tuple(sizes.get("discovery", 1) for sizes in (plan.variants, plan.latents))
    )
    encoder = cohort.encoder.decided
    batch = encoder.batch_size or 10
    costs = {
        "pack": lambda: pack_cost(template, people),
        "train": lambda: (
            fit_linear_cost(template, people, own, cohort.linear.variance is not None)
            if which == "linear"
            else train_cost(
                template, people, own, encoder.epochs or epochs_for(people, batch),
                encoder.channels[0] if encoder.channels else CHANNELS, batch,
            )
        ),
        "encode": lambda: encode_cost(template, people, own),
        "pca": lambda: pca_cost(people, variants),
        "samples": lambda: pca_cost(people, variants),
        "ridge": lambda: ridge_cost(people, variants, latents),
        "gwas": lambda: gwas_cost(people, variants, latents),
        "export": lambda: export_cost(variants),
        "joint": lambda: joint_cost(variants, own),
        "loci": lambda: loci_cost(variants),
        "replicate": lambda: loci_cost(variants),
        "signals": lambda: signals_cost(people, own),
        "heritability": lambda: heritability_cost(variants, own),
        "ldsc": lambda: ldsc_cost(variants, own, cohort.genetics.outside),
        "linearise": lambda: linearise_cost(template, own),
        "voxels": lambda: voxels_cost(template, own),
        "voxelh2": lambda: voxel_h2_cost(template, own),
        "qc": lambda: qc_cost(people),
        "report": lambda: report_cost(people, *of_report),
    }  # fmt: skip
    cost = costs[kind]() if kind in costs else asked_cost(asked)
    done = read_record(paths.logs / "group" / f"{job}.json").get("exit_code") == 0
    step = StepPlan(name, job, asked.memory_gb)
    step.add(cost, done)
    plan.steps.append(step)


def _n_variants(plan: StudyPlan, cohort: StudySettings) -> int:
    """Variants of a cohort's genotypes; 0 where they cannot be counted."""
    if cohort.genotypes is None:
        plan.missing.append("'genotypes' is not named: the group stage needs them")
        return 0
    try:
        return n_variants(genotype_set(cohort.genotypes))
    except OSError as error:
        plan.missing.append(f"{error.filename}: {error.strerror}")
    except InputError as error:
        plan.missing.append(str(error))
    return 0


def _size_of_table(path: Path, traits: Collection[str] = ()) -> tuple[int, int]:
    """People and traits of a table; those of a Parquet file are not known without its reader."""
    if path.suffix == ".parquet":
        from axoloci.io.tables import read_traits

        table = read_traits(path, names=traits)
        return len(table), len(table.columns)
    with open(path, encoding="utf-8-sig") as file:
        columns = file.readline().split("\t")
        return sum(1 for line in file if line.strip()), max(1, len(columns) - 1)

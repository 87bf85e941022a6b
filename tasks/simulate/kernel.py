"""A cohort with a known truth: who the people are, what their genes do to tissue, their scans."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from axoloci.errors import InputError
from axoloci.io.gradients import B0_THRESHOLD
from axoloci.tasks.simulate import artefacts, scan
from axoloci.tasks.simulate import genotypes as geno
from axoloci.tasks.simulate.anatomy import S0_WHITE, Anatomy

N_SUBJECTS = 150
N_VARIANTS = 20_000
N_LOCI = 3
EFFECT = 0.04  # FA per copy of the effect allele; its sign is drawn
N_POPULATIONS = 1
FST = 0.1
ANCESTRY_EFFECT = 0.0  # FA per SD of the leading genotype PC
N_FAMILIES = 0
FAMILY_SIZE = 4  # father, mother, two children
MISSING_RATE = 0.005
VOXEL_SIZE = 5.0  # mm
N_DIRECTIONS = 8
N_B0 = 1
B_VALUE = 1000.0  # s/mm²
SNR = 30.0  # of white matter at b = 0
MOTION_MM, MOTION_DEG = 0.5, 0.5
SEED = 0

AGE_RANGE = (45.0, 80.0)  # years, of people who are not children of a simulated family
AGE_EFFECT = -0.0006  # FA per year
MALE_EFFECT = 0.004  # FA of men over women
SITES = ("A", "B")
SITE_EFFECT = 0.006  # FA of site B over site A
GLOBAL_SD, REGION_SD = 0.008, 0.012  # FA that nothing explains: shared by all regions, and of each
# Loci are planted in the larger regions: a locus of few voxels is lost among the others.
MIN_LOCUS_ML = 30.0


@dataclass(frozen=True)
class People:
    """Who is in the cohort.

    Attributes
    ----------
    sample_id, family_id, father, mother
        (n_samples,) as in the `.fam` file; "0" for a parent who is not in the cohort.
    male
        (n_samples,) bool.
    population
        (n_samples,) number of the simulated population; 0 for real genotypes.
    """

    sample_id: list[str]
    family_id: list[str]
    father: list[str]
    mother: list[str]
    male: NDArray[np.bool_]
    population: NDArray[np.int64]


@dataclass(frozen=True)
class Locus:
    """One planted variant and the region whose tissue it changes.

    Attributes
    ----------
    variant
        Row of the variant in the genotypes.
    frequency
        Of the effect allele in this cohort.
    region
        Index into the anatomy's names.
    effect
        FA per copy of the effect allele.
    """

    variant: int
    frequency: float
    region: int
    effect: float


@dataclass(frozen=True)
class Covariates:
    """What else is known of each person: (n_samples,) age in years, site number, ancestry score.

    The ancestry score is the leading principal component of the genotypes, SD 1.
    """

    age: NDArray[np.float64]
    site: NDArray[np.int64]
    ancestry: NDArray[np.float64]


@dataclass(frozen=True)
class Protocol:
    """How everyone is scanned.

    Attributes
    ----------
    bval, gradient
        (g,) s/mm²; (g, 3) unit vectors along the world's axes.
    snr
        Of white matter at b = 0; infinite for no noise.
    motion_mm, motion_deg
        Root mean square of the head's pose over the volumes.
    deformation_mm
        Root mean square of the individual displacement; 0 gives everyone the template's head.
    distortion_mm
        Largest displacement by susceptibility, along y; above 0 a b0 of reverse phase encoding is
        scanned as well.
    dropped_slices
        Share of the weighted volumes' slices whose signal drops out.
    ringing
        Whether the images are of a cropped k-space.
    """

    bval: NDArray[np.float64]
    gradient: NDArray[np.float64]
    snr: float = SNR
    motion_mm: float = MOTION_MM
    motion_deg: float = MOTION_DEG
    deformation_mm: float = scan.DEFORMATION_MM
    distortion_mm: float = 0.0
    dropped_slices: float = 0.0
    ringing: bool = False

    @property
    def sigma(self) -> float:
        """SD of the noise in the real and the imaginary part, in units of the signal."""
        return S0_WHITE / self.snr


@dataclass(frozen=True)
class Scan:
    """One person's scan and its truth.

    Attributes
    ----------
    dwi
        (x, y, z, g) float32.
    motion
        (g, 6) pose of each volume relative to the first, mm and radians.
    head
        Shape and place of the head.
    fields
        (X·Y·Z, 7) the person's tissue on the model's grid.
    dropped
        (m, 3) volume, slice and the share of its signal that is left.
    susceptibility
        The displacement of signal; None without distortion.
    reverse_b0
        (x, y, z) b0 of reverse phase encoding; None without distortion.
    reverse_motion
        (6,) its pose relative to volume 0.
    """

    dwi: NDArray[np.float32]
    motion: NDArray[np.float64]
    head: scan.Head
    fields: NDArray[np.float32]
    dropped: NDArray[np.float64]
    susceptibility: artefacts.Susceptibility | None = None
    reverse_b0: NDArray[np.float32] | None = None
    reverse_motion: NDArray[np.float64] | None = None


def streams(seed: int, n_samples: int) -> tuple[list[np.random.Generator], list[Any]]:
    """Independent random streams, so that no option shifts the numbers of another part.

    Returns
    -------
    (cohort, people)
        Generators for genotypes, missing calls, people, loci; one seed sequence per person.
    """
    *cohort, people = np.random.SeedSequence(seed).spawn(5)
    return [np.random.default_rng(part) for part in cohort], people.spawn(n_samples)


def simulate_people(
    n_samples: int, n_families: int, n_populations: int, rng: np.random.Generator
) -> People:
    """Draw the people: nuclear families first, then the unrelated; a family shares a population."""
    width = max(4, len(str(n_samples)))
    sample_id = [f"{number:0{width}d}" for number in range(1, n_samples + 1)]
    family_id, father, mother = list(sample_id), ["0"] * n_samples, ["0"] * n_samples
    male = rng.random(n_samples) < 0.5
    population = rng.integers(n_populations, size=n_samples)
    for family in range(n_families):
        first = FAMILY_SIZE * family
        male[first : first + 2] = True, False
        for member in range(first, first + FAMILY_SIZE):
            family_id[member] = sample_id[first]
            population[member] = population[first]
        for child in range(first + 2, first + FAMILY_SIZE):
            father[child], mother[child] = sample_id[first], sample_id[first + 1]
    return People(sample_id, family_id, father, mother, male, population)


def simulate_genotypes(
    people: People, n_variants: int, n_families: int, fst: float, rng: np.random.Generator
) -> tuple[geno.Variants, NDArray[np.int8]]:
    """Draw genotypes with blocks of linkage disequilibrium, populations and families.

    Returns
    -------
    (variants, dosage)
        (n_variants, n_samples) int8 copies of the effect allele, none missing.
    """
    variants, block = geno.simulate_variants(n_variants, rng)
    n_populations = int(people.population.max()) + 1
    frequency = geno.simulate_frequencies(block, n_populations, fst, rng)
    haplotypes = geno.simulate_haplotypes(block, frequency, people.population, rng)
    haplotypes = geno.add_families(haplotypes, variants, n_families, rng)
    return variants, haplotypes[:, ::2] + haplotypes[:, 1::2]


def drop_calls(
    dosage: NDArray[np.int8], missing_rate: float, rng: np.random.Generator
) -> NDArray[np.int8]:
    """Dosages with calls missing (−1) completely at random."""
    lost = rng.random(dosage.shape, dtype=np.float32) < missing_rate
    return np.where(lost, np.int8(-1), dosage)


def simulate_covariates(
    people: People, ancestry: NDArray[np.float64], rng: np.random.Generator
) -> Covariates:
    """Draw age and site; a child is 20 to 30 years younger than the younger parent."""
    age = np.round(rng.uniform(*AGE_RANGE, len(people.sample_id)), 1)
    site = rng.integers(len(SITES), size=len(age))
    younger = np.round(rng.uniform(20, 30, len(age)), 1)
    row = {sample: index for index, sample in enumerate(people.sample_id)}
    for child, parents in enumerate(zip(people.father, people.mother, strict=True)):
        known = [age[row[parent]] for parent in parents if parent in row]
        if known:
            age[child] = max(1.0, round(min(known) - younger[child], 1))
    return Covariates(age, site, ancestry)


def plant_loci(
    dosage: NDArray[np.int8],
    chromosome: NDArray[np.str_],
    pcs: NDArray[np.float64],
    anatomy: Anatomy,
    n_loci: int,
    effect: float,
    rng: np.random.Generator,
) -> list[Locus]:
    """Choose causal variants, and for each a region of its own and the sign of its effect.

    Raises
    ------
    InputError
        More loci than regions of white matter, or than autosomes with a common variant.
    """
    volume = anatomy.region_ml[:-1]
    by_size = np.argsort(-volume, kind="stable")
    if n_loci > len(by_size):
        raise InputError(
            f"{n_loci} loci need as many regions of white matter, the anatomy has {len(by_size)}; "
            "ask for fewer loci"
        )
    large = by_size[: max(n_loci, int((volume >= MIN_LOCUS_ML).sum()))]
    region = rng.choice(large, n_loci, replace=False)
    sign = rng.choice([-1.0, 1.0], n_loci)
    causal = geno.choose_causal(dosage, chromosome, pcs, n_loci, rng)
    frequency = geno.effect_allele_frequency(dosage[causal])
    return [
        Locus(int(v), float(f), int(r), float(s * effect))
        for v, f, r, s in zip(causal, frequency, region, sign, strict=True)
    ]


def fa_offsets(
    people: People,
    covariates: Covariates,
    dosage: NDArray[np.int8],
    loci: list[Locus],
    n_regions: int,
    ancestry_effect: float,
    rng: np.random.Generator,
) -> NDArray[np.float64]:
    """FA that each person's regions have above the template's.

    Covariates and ancestry act on all white matter alike, a locus on its region; all effects are
    centred, and a missing call counts as the mean.

    Parameters
    ----------
    dosage
        (n_variants, n_samples) int8.

    Returns
    -------
    (n_samples, n_regions)
    """
    n_samples = len(people.sample_id)
    shared = AGE_EFFECT * (covariates.age - np.mean(AGE_RANGE))
    shared += MALE_EFFECT * (people.male - 0.5)
    shared += SITE_EFFECT * (covariates.site - 0.5)
    shared += ancestry_effect * covariates.ancestry
    shared += GLOBAL_SD * rng.standard_normal(n_samples)
    offset = shared[:, None] + REGION_SD * rng.standard_normal((n_samples, n_regions))
    for locus in loci:
        copies = dosage[locus.variant].astype(np.float64)
        centred = np.where(copies < 0, 0, copies - 2 * locus.frequency)
        offset[:, locus.region] += locus.effect * centred
    return np.asarray(offset, dtype=np.float64)


def simulate_scan(
    anatomy: Anatomy,
    offset: NDArray[np.float64],
    protocol: Protocol,
    seed: np.random.SeedSequence,
) -> Scan:
    """Scan one person.

    Parameters
    ----------
    offset
        (n_regions,) FA of this person's regions above the template's.
    seed
        This person's own, so that nobody depends on the order of work.
    """
    shape_rng, motion_rng, noise_rng, reverse_rng, drop_rng = (
        np.random.default_rng(part) for part in seed.spawn(5)
    )
    fields = anatomy.with_fa_offset(offset)
    head = scan.random_head(anatomy, shape_rng, protocol.deformation_mm)
    motion = scan.random_motion(
        len(protocol.bval), protocol.motion_mm, protocol.motion_deg, motion_rng
    )
    field = None
    if protocol.distortion_mm:
        air = head.from_template(artefacts.air_places(anatomy))
        brain = head.from_template(scan.scan_points(anatomy)[anatomy.brain[::2, ::2, ::2].ravel()])
        field = artefacts.plant_susceptibility(anatomy, air, brain, protocol.distortion_mm)

    def acquire(
        bval: NDArray[np.float64],
        gradient: NDArray[np.float64],
        poses: NDArray[np.float64],
        polarity: int,
    ) -> NDArray[np.float32]:
        return scan.acquire(
            anatomy, fields, head, bval, gradient, poses, field, polarity, protocol.ringing
        )

    dwi = acquire(protocol.bval, protocol.gradient, motion, 1)
    dropped = np.zeros((0, 3))
    if protocol.dropped_slices:
        weighted = protocol.bval > B0_THRESHOLD
        dwi, dropped = artefacts.drop_slices(dwi, weighted, protocol.dropped_slices, drop_rng)
    if protocol.sigma > 0:
        dwi = scan.add_rician_noise(dwi, protocol.sigma, noise_rng)
    if field is None:
        return Scan(dwi, motion, head, fields, dropped)
    pose = scan.random_motion(2, protocol.motion_mm, protocol.motion_deg, reverse_rng)[1]
    reverse = acquire(np.zeros(1), np.zeros((1, 3)), pose[None], -1)[..., 0]
    if protocol.sigma > 0:
        reverse = scan.add_rician_noise(reverse, protocol.sigma, reverse_rng)
    return Scan(dwi, motion, head, fields, dropped, field, reverse, pose)

"""The command `axoloci-simulate`: a cohort with a known truth."""

from __future__ import annotations

import colorsys
import logging
import math
import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import starmap
from pathlib import Path
from typing import Any

import click
import numpy as np
from click.core import ParameterSource
from numpy.typing import NDArray

from axoloci import __version__
from axoloci.command import progress, step_group
from axoloci.errors import InputError
from axoloci.io.files import sha256, whole_file, write_json, write_text
from axoloci.io.gradients import (
    bvec_to_world,
    clean_gradients,
    gradient_problems,
    read_gradients,
    world_to_bvec,
    write_gradients,
)
from axoloci.io.nifti import read_nifti, write_nifti
from axoloci.tasks.simulate import anatomy as tissue
from axoloci.tasks.simulate import genotypes as geno
from axoloci.tasks.simulate import kernel, scan

log = logging.getLogger("axoloci")
main = step_group(__name__, "Simulate a cohort with planted loci, to test and to learn by.")

POSE = ("trans_x", "trans_y", "trans_z", "rot_x", "rot_y", "rot_z")
SIMULATED_ONLY = ("n_variants", "n_populations", "fst", "families", "missing_rate")
README = """Simulated by axoloci {version}: no person was scanned.

Each person has one diffusion scan, sub-<label>/dwi. What was planted is in ../truth.json.
"""


MAX_DISTORTION_MM = 15.0  # beyond, signal would fold
READOUT_S = 0.05
FIELD = "reverse0"  # that the scan and its reverse b0 tell, in the words of BIDS


@dataclass(frozen=True)
class Job:
    """What a worker needs to scan and write anyone."""

    bids: Path
    truth: Path | None
    anatomy: tissue.Anatomy
    protocol: kernel.Protocol
    dtype: str


@main.command()
@click.argument("out", type=click.Path(file_okay=False, path_type=Path))
@click.option("--n-subjects", type=click.IntRange(8), default=kernel.N_SUBJECTS, help="People.")
@click.option(
    "--n-variants",
    type=click.IntRange(1),
    default=kernel.N_VARIANTS,
    help="Simulated variants, in blocks of at most 10 over 22 autosomes.",
)
@click.option(
    "--n-loci",
    type=click.IntRange(0, 22),
    default=kernel.N_LOCI,
    help="Planted variants, each on its own chromosome and with its own region; 0 for none.",
)
@click.option(
    "--effect",
    type=click.FloatRange(0, 0.2),
    default=kernel.EFFECT,
    help="FA per copy of a planted variant's effect allele; its sign is drawn.",
)
@click.option(
    "--genotypes",
    type=click.Path(path_type=Path),
    help="Real genotypes, PLINK 1 PREFIX.bed/.bim/.fam: people are sampled from them and their "
    "structure is left in. Common variants that follow the leading PCs least are planted, as tests "
    "conditioned on the PCs have little power for the others.",
)
@click.option(
    "--anatomy",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Real scan (NIfTI, motion-corrected) whose tensor field replaces the built-in phantom.",
)
@click.option(
    "--anatomy-bval",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Its b-values, s/mm². [default: beside the scan]",
)
@click.option(
    "--anatomy-bvec",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Its b-vectors, FSL's convention. [default: beside the scan]",
)
@click.option(
    "--voxel-size",
    type=click.FloatRange(1, 20),
    default=kernel.VOXEL_SIZE,
    help="Of the scans, mm. Halving it multiplies time and disk by eight.",
)
@click.option(
    "--n-populations",
    type=click.IntRange(1, 20),
    default=kernel.N_POPULATIONS,
    help="Populations of the simulated genotypes.",
)
@click.option(
    "--fst",
    type=click.FloatRange(0, 0.5, min_open=True),
    default=kernel.FST,
    help="Differentiation of the simulated populations (Balding and Nichols).",
)
@click.option(
    "--ancestry-effect",
    type=click.FloatRange(-0.1, 0.1),
    default=kernel.ANCESTRY_EFFECT,
    help="FA of all white matter per SD of the leading genotype PC: a confounder.",
)
@click.option(
    "--families",
    type=click.IntRange(0),
    default=kernel.N_FAMILIES,
    help="Nuclear families of two parents and two children among the people.",
)
@click.option(
    "--missing-rate",
    type=click.FloatRange(0, 0.5),
    default=kernel.MISSING_RATE,
    help="Share of simulated genotype calls that are missing, at random.",
)
@click.option(
    "--n-directions",
    type=click.IntRange(6, 128),
    default=kernel.N_DIRECTIONS,
    help="Diffusion-weighted volumes, evenly spread.",
)
@click.option("--n-b0", type=click.IntRange(1, 32), default=kernel.N_B0, help="Unweighted volumes.")
@click.option(
    "--b-value",
    type=click.FloatRange(100, 5000),
    default=kernel.B_VALUE,
    help="Diffusion weighting, s/mm².",
)
@click.option(
    "--snr",
    type=click.FloatRange(0, min_open=True),
    default=kernel.SNR,
    help="Signal to noise ratio of white matter at b = 0; inf for no noise.",
)
@click.option(
    "--motion-mm",
    type=click.FloatRange(0, 20),
    default=kernel.MOTION_MM,
    help="Head motion: root mean square over the volumes along each axis, mm.",
)
@click.option(
    "--motion-deg",
    type=click.FloatRange(0, 30),
    default=kernel.MOTION_DEG,
    help="Head motion: root mean square over the volumes about each axis, degrees.",
)
@click.option(
    "--distortion-mm",
    type=click.FloatRange(0, MAX_DISTORTION_MM),
    default=0.0,
    help="Largest displacement by susceptibility, near the frontal sinus and the ear canals, along "
    "the phase-encoding axis (y); above 0 each person also has a b0 of reverse phase encoding, "
    "fmap/sub-*_dir-PA_epi.nii.gz.",
)
@click.option(
    "--dropped-slices",
    type=click.FloatRange(0, 0.5),
    default=0.0,
    help="Share of the weighted volumes' slices whose signal falls to a half or less.",
)
@click.option(
    "--ringing",
    is_flag=True,
    help="Acquire twice the voxels in plane and crop k-space, so that edges ring (Gibbs); five "
    "times slower.",
)
@click.option(
    "--dtype",
    type=click.Choice(["int16", "float32"]),
    help="Of the scans: int16 rounds the signal (white matter: 1000) as scanners do; float32 is "
    "exact. [default: int16, float32 without noise]",
)
@click.option(
    "--write-truth",
    is_flag=True,
    help="Also write each person's planted FA, warp and displacement, truth/sub-*_*.nii.gz.",
)
@click.option(
    "--seed",
    type=click.IntRange(0),
    default=kernel.SEED,
    help="Same seed and settings, same cohort, bit for bit.",
)
@click.option("--n-procs", type=click.IntRange(1), default=1, help="Processes; changes no result.")
@click.pass_context
def cohort(ctx: click.Context, /, out: Path, **options: Any) -> None:
    """Simulate a cohort into the new folder OUT.

    Writes raw scans (OUT/bids), genotypes (OUT/genotypes.bed, .bim, .fam), OUT/covariates.tsv, the
    noiseless FA of the unperturbed anatomy (OUT/template.nii.gz), OUT/regions.nii.gz, and what was
    planted: OUT/truth.json, written last, and the tables in OUT/truth: fa_offset.tsv (FA of each
    person's regions above the template's), head.tsv and motion.tsv (size and pose of the head, pose
    of each volume relative to the first; mm, and radians of the rotation Rz Ry Rx about the centre
    of the field of view, in RAS axes), with --dropped-slices dropped_slices.tsv (share of the
    signal that is left), with --distortion-mm distortion.tsv (displacement in the brain, pose of
    the reverse b0). Gradients are written as the scanner plays them out, in
    FSL's convention; images are LAS, so that no reader has to flip them.
    """
    given = [o for o in options if ctx.get_parameter_source(o) is ParameterSource.COMMANDLINE]
    _check(out, options, given)
    anatomy = _anatomy(options)
    people, variants, dosage, called, rngs, seeds = _genotypes(options)
    n_samples = len(people.sample_id)
    pcs = geno.leading_pcs(called)
    covariates = kernel.simulate_covariates(people, pcs[:, 0], rngs[2])
    autosome = np.array([name.removeprefix("chr") for name in variants.chromosome])
    loci = kernel.plant_loci(
        called, autosome, pcs, anatomy, options["n_loci"], options["effect"], rngs[3]
    )
    offset = kernel.fa_offsets(
        people, covariates, dosage, loci, len(anatomy.names), options["ancestry_effect"], rngs[3]
    )
    bval, gradient = scan.gradient_scheme(
        options["n_directions"], options["n_b0"], options["b_value"]
    )
    protocol = kernel.Protocol(
        bval,
        gradient,
        *(options[name] for name in ("snr", "motion_mm", "motion_deg")),
        **{name: options[name] for name in ("distortion_mm", "dropped_slices", "ringing")},
    )
    noiseless = math.isinf(options["snr"])
    dtype = options["dtype"] or ("float32" if noiseless else "int16")

    _write_genotypes(out / "genotypes", people, variants, called)
    _write_people(out, people, covariates)
    write_nifti(out / "template.nii.gz", anatomy.scan_fa, anatomy.scan_affine)
    write_nifti(out / "regions.nii.gz", anatomy.scan_region, anatomy.scan_affine)
    truth = out / "truth" if options["write_truth"] else None
    job = Job(out / "bids", truth, anatomy, protocol, dtype)
    work = [
        (sample, row, seed)
        for sample, row, seed in zip(people.sample_id, offset, seeds, strict=True)
    ]
    scans = _scan_all(job, work, options["n_procs"])
    made = list(progress(scans, "simulating scans", n_samples))
    _write_tables(out / "truth", people, covariates, anatomy, offset, made)
    _write_artefacts(out / "truth", people, protocol, made)
    write_json(out / "truth.json", _truth(options, dtype, anatomy, protocol, variants, loci))
    log.info("simulated %d people in %s", n_samples, out)


def _check(out: Path, options: dict[str, Any], given: list[str]) -> None:
    """Refuse options that contradict each other, before any work."""
    if out.exists() and any(out.iterdir()):
        raise InputError(f"{out}: the folder is not empty; name a new one, or remove it first")
    if options["genotypes"]:
        wrong = [f"--{name.replace('_', '-')}" for name in SIMULATED_ONLY if name in given]
        if wrong:
            raise InputError(
                f"{', '.join(wrong)}: only for simulated genotypes; drop it or --genotypes"
            )
    elif options["ancestry_effect"] and options["n_populations"] == 1:
        raise InputError(
            "--ancestry-effect needs ancestry: ask for --n-populations 2 or more, or give real "
            "--genotypes"
        )
    if kernel.FAMILY_SIZE * options["families"] > options["n_subjects"]:
        raise InputError(
            f"--families {options['families']}: each has {kernel.FAMILY_SIZE} people, more than "
            f"--n-subjects {options['n_subjects']}"
        )
    if not options["anatomy"] and (options["anatomy_bval"] or options["anatomy_bvec"]):
        raise InputError("--anatomy-bval and --anatomy-bvec need --anatomy")


def _anatomy(options: dict[str, Any]) -> tissue.Anatomy:
    """The phantom, or the tensor field of a real scan."""
    path = options["anatomy"]
    if path is None:
        return tissue.phantom(options["voxel_size"])
    stem = str(path).removesuffix(".gz").removesuffix(".nii")
    bval_path = options["anatomy_bval"] or Path(f"{stem}.bval")
    bvec_path = options["anatomy_bvec"] or Path(f"{stem}.bvec")
    bval, bvec = read_gradients(bval_path, bvec_path)
    dwi, affine = read_nifti(path, ndim=4)
    problems = gradient_problems(bval, bvec, dwi.shape[3])
    if problems:
        raise InputError(f"{bval_path}, {bvec_path}: {'; '.join(problems)}")
    bval, bvec = clean_gradients(bval, bvec)
    return tissue.from_scan(dwi, bval, bvec_to_world(bvec, affine), affine, options["voxel_size"])


def _genotypes(
    options: dict[str, Any],
) -> tuple[
    kernel.People,
    geno.Variants,
    NDArray[np.int8],
    NDArray[np.int8],
    list[np.random.Generator],
    list[Any],
]:
    """People and their genotypes: as they are (`dosage`), and as they are written (`called`)."""
    n_subjects = options["n_subjects"]
    rngs, seeds = kernel.streams(options["seed"], n_subjects)
    if options["genotypes"]:
        people, variants, dosage = _read_plink(options["genotypes"], n_subjects, rngs[0])
        return people, variants, dosage, dosage, rngs, seeds
    people = kernel.simulate_people(
        n_subjects, options["families"], options["n_populations"], rngs[2]
    )
    variants, dosage = kernel.simulate_genotypes(
        people, options["n_variants"], options["families"], options["fst"], rngs[0]
    )
    called = kernel.drop_calls(dosage, options["missing_rate"], rngs[1])
    return people, variants, dosage, called, rngs, seeds


def _read_plink(
    prefix: Path, n_subjects: int, rng: np.random.Generator
) -> tuple[kernel.People, geno.Variants, NDArray[np.int8]]:
    """A random sample of the people of PLINK 1 files, in file order."""
    from axoloci.io.genotypes import open_genotypes  # its libraries are slow to import

    source = open_genotypes(prefix)
    if n_subjects > source.n_samples:
        raise InputError(
            f"{prefix}.fam: {source.n_samples} people, fewer than --n-subjects {n_subjects}"
        )
    index = np.sort(rng.permutation(source.n_samples)[:n_subjects])
    people, table = source.samples.iloc[index], source.variants
    for sample in people.index:
        if not (sample.isascii() and sample.isalnum()):
            raise InputError(
                f"{prefix}.fam: IID {sample!r} cannot be a BIDS label; use letters and digits only"
            )
    variants = geno.Variants(
        table["chromosome"].to_numpy(str),
        table["base_pair_location"].to_numpy(),
        *(table[n].to_numpy(str) for n in ("variant_id", "effect_allele", "other_allele")),
    )
    dosage = source.read_calls(0, source.n_variants, index)
    dosage[dosage < 0] = -1  # missing
    sex = people["sex"].to_numpy()
    male = np.where(sex == 0, rng.random(n_subjects) < 0.5, sex == 1)
    iid, fid, father, mother = (list(people[n]) for n in ("iid", "fid", "father", "mother"))
    population = np.zeros(n_subjects, dtype=np.int64)
    return (
        kernel.People(iid, fid, father, mother, male, population),
        variants,
        dosage,
    )


def _write_genotypes(
    prefix: Path, people: kernel.People, variants: geno.Variants, dosage: NDArray[np.int8]
) -> None:
    """PLINK 1 files; A1 is the effect allele."""
    with whole_file(f"{prefix}.bed") as temporary, open(temporary, "wb") as file:
        file.write(geno.BED_MAGIC)
        for start in range(0, len(dosage), 4096):
            file.write(geno.pack_bed(dosage[start : start + 4096]).tobytes())
    bim = zip(
        *(variants.chromosome, variants.variant_id, variants.position),
        *(variants.effect_allele, variants.other_allele),
        strict=True,
    )
    write_text(f"{prefix}.bim", "".join(f"{c}\t{i}\t0\t{p}\t{e}\t{o}\n" for c, i, p, e, o in bim))
    sex = np.where(people.male, 1, 2)
    fam = zip(people.family_id, people.sample_id, people.father, people.mother, sex, strict=True)
    write_text(f"{prefix}.fam", "".join(f"{f}\t{i}\t{p}\t{m}\t{s}\t-9\n" for f, i, p, m, s in fam))


def _write_people(out: Path, people: kernel.People, covariates: kernel.Covariates) -> None:
    """covariates.tsv and the tables of the BIDS dataset."""
    sites = [kernel.SITES[site] for site in covariates.site]
    rows = list(zip(people.sample_id, covariates.age, people.male, sites, strict=True))
    table = "IID\tage\tsex\tsite\n" + "".join(f"{i}\t{a}\t{m:d}\t{s}\n" for i, a, m, s in rows)
    write_text(out / "covariates.tsv", table)
    table = "participant_id\tage\tsex\tsite\n"
    table += "".join(f"sub-{i}\t{a}\t{'M' if m else 'F'}\t{s}\n" for i, a, m, s in rows)
    bids = out / "bids"
    write_text(bids / "participants.tsv", table)
    write_json(
        bids / "participants.json",
        {
            "age": {"Description": "Age", "Units": "years"},
            "sex": {"Description": "Sex", "Levels": {"F": "female", "M": "male"}},
            "site": {"Description": "Scanner"},
        },
    )
    write_json(
        bids / "dataset_description.json",
        {
            "Name": "Simulated cohort with planted loci",
            "BIDSVersion": "1.10.0",
            "DatasetType": "raw",
            "GeneratedBy": [{"Name": "axoloci-simulate", "Version": __version__}],
        },
    )
    write_text(bids / "README", README.format(version=__version__))


_job: Job  # of this process


def _start(job: Job) -> None:
    global _job
    _job = job


@dataclass(frozen=True)
class Planted:
    """What a worker tells of one person's scan, as in `kernel.Scan`.

    `displaced` are the largest and the root mean square displacement in the brain, mm.
    """

    motion: NDArray[np.float64]
    head: scan.Head
    dropped: NDArray[np.float64]
    displaced: tuple[float, float] = (0.0, 0.0)
    reverse_motion: NDArray[np.float64] | None = None


def _scan(sample: str, offset: NDArray[np.float64], seed: np.random.SeedSequence) -> Planted:
    """Scan and write one person."""
    anatomy, protocol = _job.anatomy, _job.protocol
    made = kernel.simulate_scan(anatomy, offset, protocol, seed)
    affine = anatomy.scan_affine
    person = _job.bids / f"sub-{sample}"
    stem = person / "dwi" / f"sub-{sample}_dwi"
    _write_image(Path(f"{stem}.nii.gz"), made.dwi)
    bvec = world_to_bvec(protocol.gradient, affine)
    write_gradients(f"{stem}.bval", f"{stem}.bvec", protocol.bval, bvec)
    sidecar: dict[str, object] = {"Manufacturer": "axoloci", "SoftwareVersions": __version__}
    fa = (
        scan.true_fa(anatomy, made.fields, made.head) if _job.truth or made.susceptibility else None
    )
    displaced = (0.0, 0.0)
    if made.susceptibility is not None and made.reverse_b0 is not None:
        assert fa is not None
        field = made.susceptibility.field(scan.scan_points(anatomy))[0].reshape(anatomy.shape)
        brain = field[fa > 0]
        displaced = float(abs(brain).max()), float(np.sqrt((brain**2).mean()))
        encoding: dict[str, object] = {"TotalReadoutTime": READOUT_S, "B0FieldIdentifier": FIELD}
        reverse = person / "fmap" / f"sub-{sample}_dir-PA_epi"
        _write_image(Path(f"{reverse}.nii.gz"), made.reverse_b0)
        intended = f"bids::sub-{sample}/dwi/sub-{sample}_dwi.nii.gz"
        content = sidecar | encoding | {"PhaseEncodingDirection": "j", "IntendedFor": intended}
        write_json(f"{reverse}.json", content)
        sidecar |= encoding | {"PhaseEncodingDirection": "j-", "B0FieldSource": FIELD}
        if _job.truth is not None:
            name = _job.truth / f"sub-{sample}_displacement.nii.gz"
            write_nifti(name, field.astype(np.float32), affine)
    write_json(f"{stem}.json", sidecar)
    if _job.truth is not None:
        assert fa is not None
        write_nifti(_job.truth / f"sub-{sample}_fa.nii.gz", fa, affine)
        warp = scan.true_warp(anatomy, made.head)
        write_nifti(_job.truth / f"sub-{sample}_from-template_to-dwi_warp.nii.gz", warp, affine)
    return Planted(made.motion, made.head, made.dropped, displaced, made.reverse_motion)


def _write_image(path: Path, image: NDArray[np.float32]) -> None:
    """Signal in the type asked for."""
    values: NDArray[Any] = image
    if _job.dtype == "int16":
        values = np.clip(np.rint(image), 0, 32767).astype(np.int16)
    write_nifti(path, values, _job.anatomy.scan_affine)


def _scan_all(
    job: Job, work: list[tuple[str, NDArray[np.float64], Any]], n_procs: int
) -> Iterator[Planted]:
    """Scan everyone, in order."""
    if n_procs == 1:
        _start(job)
        yield from starmap(_scan, work)
        return
    # Spawned, as a fork of a process with BLAS threads may hang.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(n_procs, context, _start, (job,)) as pool:
        yield from pool.map(_scan, *zip(*work, strict=True), chunksize=4)


def _write_tables(
    folder: Path,
    people: kernel.People,
    covariates: kernel.Covariates,
    anatomy: tissue.Anatomy,
    offset: NDArray[np.float64],
    made: list[Planted],
) -> None:
    """The truth of each person: regional FA, head and motion."""
    fa = ["\t".join(("IID", "population", "ancestry", *anatomy.names))]
    head = ["\t".join(("IID", "scale", *POSE))]
    motion = ["\t".join(("IID", "volume", *POSE))]
    for row, (sample, planted) in enumerate(zip(people.sample_id, made, strict=True)):
        moved, shape = planted.motion, planted.head
        numbers = "\t".join(f"{x:.8f}" for x in (covariates.ancestry[row], *offset[row]))
        fa.append(f"{sample}\t{people.population[row]}\t{numbers}")
        head.append("\t".join([sample, *(f"{x:.8f}" for x in (shape.scale, *shape.pose))]))
        for volume, pose in enumerate(moved):
            motion.append("\t".join([sample, str(volume), *(f"{x:.8f}" for x in pose)]))
    for name, lines in (("fa_offset", fa), ("head", head), ("motion", motion)):
        write_text(folder / f"{name}.tsv", "\n".join(lines) + "\n")


def _write_artefacts(
    folder: Path, people: kernel.People, protocol: kernel.Protocol, made: list[Planted]
) -> None:
    """The truth of distortion and of dropped slices, where they were asked for."""
    if protocol.dropped_slices:
        lines = ["IID\tvolume\tslice\tsignal_left"]
        for sample, planted in zip(people.sample_id, made, strict=True):
            lines += [f"{sample}\t{v:.0f}\t{k:.0f}\t{left:.4f}" for v, k, left in planted.dropped]
        write_text(folder / "dropped_slices.tsv", "\n".join(lines) + "\n")
    if protocol.distortion_mm:
        lines = ["\t".join(("IID", "max_mm", "rms_mm", *(f"reverse_{name}" for name in POSE)))]
        for sample, planted in zip(people.sample_id, made, strict=True):
            assert planted.reverse_motion is not None
            numbers = (*planted.displaced, *planted.reverse_motion)
            lines.append("\t".join([sample, *(f"{x:.8f}" for x in numbers)]))
        write_text(folder / "distortion.tsv", "\n".join(lines) + "\n")


def _truth(
    options: dict[str, Any],
    dtype: str,
    anatomy: tissue.Anatomy,
    protocol: kernel.Protocol,
    variants: geno.Variants,
    loci: list[kernel.Locus],
) -> dict[str, Any]:
    """What was planted."""
    unsaid = ("seed", "n_procs", "write_truth")  # they change nothing that is planted
    settings = {name: options[name] for name in sorted(options) if name not in unsaid}
    settings["dtype"] = dtype
    settings["snr"] = None if math.isinf(options["snr"]) else options["snr"]
    inputs = {}
    if options["anatomy"]:
        inputs[options["anatomy"].name] = sha256(options["anatomy"])
    if options["genotypes"]:
        bed = Path(f"{options['genotypes']}.bed")
        inputs[bed.name] = sha256(bed)
    for name in ("genotypes", "anatomy", "anatomy_bval", "anatomy_bvec"):
        settings[name] = settings[name].name if settings[name] else None
    voxels = np.bincount(anatomy.scan_region.ravel(), minlength=len(anatomy.names) + 1)
    return {
        "format": "axoloci-truth",
        "format_version": 1,
        "axoloci_version": __version__,
        "seed": options["seed"],
        "settings": settings,
        "input_sha256": inputs,
        "loci": [
            {
                "variant_id": str(variants.variant_id[locus.variant]),
                "chromosome": str(variants.chromosome[locus.variant]),
                "base_pair_location": int(variants.position[locus.variant]),
                "effect_allele": str(variants.effect_allele[locus.variant]),
                "other_allele": str(variants.other_allele[locus.variant]),
                "effect_allele_frequency": locus.frequency,
                "region": anatomy.names[locus.region],
                "region_label": locus.region + 1,
                "fa_per_effect_allele": locus.effect,
            }
            for locus in loci
        ],
        "fa_effects": {
            "age_per_year": kernel.AGE_EFFECT,
            "male": kernel.MALE_EFFECT,
            f"site_{kernel.SITES[1]}": kernel.SITE_EFFECT,
            "ancestry_per_sd": options["ancestry_effect"],
            "global_sd": kernel.GLOBAL_SD,
            "region_sd": kernel.REGION_SD,
        },
        "noise_sigma": protocol.sigma,
        "regions": [
            {
                "label": label,
                "name": name,
                "colour": _colour(label),
                "n_voxels": int(voxels[label]),
                "volume_ml": round(float(anatomy.region_ml[label - 1]), 3),
            }
            for label, name in enumerate(anatomy.names, 1)
        ],
    }


def _colour(label: int) -> str:
    """A colour of its own for each label: hues a golden ratio apart."""
    rgb = colorsys.hsv_to_rgb(label * 0.618034 % 1, 0.65, 0.9)
    return "#" + "".join(f"{round(255 * part):02x}" for part in rgb)

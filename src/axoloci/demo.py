"""The demo: a simulated cohort, the whole study on it, and a comparison with its truth."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from numpy.typing import NDArray

from axoloci.environments import StepEnvironment, StepError, image_identity
from axoloci.io.files import write_json, write_text
from axoloci.io.genotypes import open_genotypes
from axoloci.io.nifti import read_nifti
from axoloci.study import StudyPaths, read_study
from axoloci.tasks.simulate.task import SimulateCohort
from axoloci.workflows.engine import study_lock, submit
from axoloci.workflows.study import representation_seconds, run_study, step_seconds

# A planted variant counts as found when a lead is this near or in LD with it.
NEAR_BP = 250_000
LD_R2 = 0.2

STUDY = """\
out = "{out}"
bids = "{cohort}/bids"
genotypes = "{cohort}/genotypes"
covariates = "{cohort}/covariates.tsv"

[normalize]
template = "{cohort}/template.nii.gz"

[encoder]
n_latents = 8
training_people = "keep"  # there are no others; what is planted is known

[linear]
n_latents = 8

[gwas]
n_pcs = 5
"""


def _r2(genotypes: NDArray[np.int8]) -> float:
    """Squared correlation of two variants' dosages (2, samples), missing ones (-9) left out."""
    both = (genotypes >= 0).all(axis=0)
    correlation = np.asarray(np.corrcoef(genotypes[:, both]))  # (2, 2)
    return float(correlation[0, 1] ** 2)


def compare(cohort: Path, results: Path) -> dict[str, Any]:
    """Compare the loci of a representation with the truth of the simulated cohort.

    Parameters
    ----------
    cohort
        Folder written by `axoloci simulate`.
    results
        Folder of the representation's results.

    Returns
    -------
    dict
        `planted` (ids), `found` (planted ids with a genome-wide significant lead within 250 kb or
        r² ≥ 0.2), `false_positive` (ids of the other leads).
    """
    truth = json.loads((cohort / "truth.json").read_text(encoding="utf-8"))
    loci = pd.read_csv(results / "loci.tsv", sep="\t", dtype={"chromosome": str})
    genotypes = open_genotypes(cohort / "genotypes")
    variants = genotypes.variants
    row_of = {variant: row for row, variant in enumerate(variants["variant_id"])}
    everyone = np.arange(len(genotypes.samples))
    found, explained = set(), set()
    for planted in truth["loci"]:
        same_chromosome = loci[loci["chromosome"] == str(planted["chromosome"])]
        for lead, position in zip(
            same_chromosome["variant_id"], same_chromosome["base_pair_location"], strict=True
        ):
            rows = [row_of[planted["variant_id"]], row_of[lead]]
            pair = np.vstack([genotypes.read_calls(row, row + 1, everyone) for row in rows])
            near = abs(position - planted["base_pair_location"]) <= NEAR_BP
            if near or _r2(pair) >= LD_R2:
                found.add(planted["variant_id"])
                explained.add(lead)
    planted_ids = [locus["variant_id"] for locus in truth["loci"]]
    return {
        "planted": planted_ids,
        "found": [variant for variant in planted_ids if variant in found],
        "false_positive": [lead for lead in loci["variant_id"] if lead not in explained],
    }


def voxel_peaks(cohort: Path, results: Path) -> dict[str, bool]:
    """Whether the map of each planted locus is strongest in the region that it changes.

    Parameters
    ----------
    cohort
        Folder written by `axoloci simulate`.
    results
        Folder of the representation's results.

    Returns
    -------
    dict
        By the planted variants that were found, through the lead that stands for each.
    """
    truth = json.loads((cohort / "truth.json").read_text(encoding="utf-8"))
    index = pd.read_csv(results / "voxels" / "index.tsv", sep="\t", dtype={"chromosome": str})
    labels, affine = read_nifti(cohort / "regions.nii.gz", ndim=3)
    found = {}
    for planted in truth["loci"]:
        near = index[
            (index["chromosome"] == str(planted["chromosome"]))
            & ((index["base_pair_location"] - planted["base_pair_location"]).abs() <= NEAR_BP)
        ]
        if near.empty:
            continue
        strongest = near.loc[near["peak_neg_log10_p"].idxmax()]
        peak = strongest[["peak_x", "peak_y", "peak_z"]].to_numpy(dtype=np.float64)
        voxel = np.rint(np.linalg.solve(affine[:3, :3], peak - affine[:3, 3])).astype(int)
        found[planted["variant_id"]] = bool(labels[tuple(voxel)] == planted["region_label"])
    return found


def _simulate(
    cohort: Path, paths: StudyPaths, *, n_subjects: int, seed: int, env: str, n_procs: int
) -> None:
    """Simulate the cohort, unless this very one is there already."""
    wanted = {
        "n_subjects": n_subjects,
        "seed": seed,
        "image": image_identity(env, "simulate"),
    }
    stamp = cohort.parent / "cohort.json"
    if stamp.exists() and json.loads(stamp.read_text(encoding="utf-8")) == wanted:
        return
    with study_lock(paths):
        stamp.unlink(missing_ok=True)
        if (cohort / "bids").is_dir():  # of a killed simulation, or of another seed
            shutil.rmtree(cohort)
        submit(
            SimulateCohort(
                out=str(cohort),
                n_subjects=n_subjects,
                seed=seed,
                n_procs=n_procs,
                image=wanted["image"],
            ),
            paths,
            environment=StepEnvironment(
                env,
                paths.logs / "simulate.log",
                writable=[cohort.parent],
                announce=True,
                always=True,
            ),
        )
    write_json(stamp, wanted)


def run_demo(out: Path, *, n_subjects: int, seed: int, env: str, n_procs: int) -> dict[str, Any]:
    """Simulate a cohort, run the study on it, and write `summary.json`.

    What it says of loci, inflation and voxels is of the first representation, the autoencoder;
    under `representations` it is of each.

    Parameters
    ----------
    out
        Folder for cohort, study and summary.
    n_subjects
        Simulated people.
    seed
        Seed of the simulation.
    env
        "native", "docker" or "singularity".
    n_procs
        Scans processed at the same time.

    Returns
    -------
    dict
        What `summary.json` holds.

    Raises
    ------
    StepError
        A step failed.
    """
    out = out.absolute()
    cohort, paths = out / "cohort", StudyPaths(out / "study")
    out.mkdir(parents=True, exist_ok=True)
    _simulate(cohort, paths, n_subjects=n_subjects, seed=seed, env=env, n_procs=n_procs)
    study = out / "study.toml"
    write_text(study, STUDY.format(out="study", cohort="cohort"))
    settings = read_study(study)

    def truth(results: Path) -> dict[str, int]:
        compared = compare(cohort, results)
        counted = {"planted": "n_planted", "found": "n_found", "false_positive": "n_false"}
        return {name: len(compared[key]) for key, name in counted.items()}

    result = run_study(settings, env=env, n_procs=n_procs, truth=truth)
    if result.group_error:
        raise StepError(result.group_error)
    seconds = representation_seconds(settings)
    compared, joint, peaks = {}, {}, {}
    for name in settings.representations():
        compared[name] = compare(cohort, paths.results(name))
        peaks[name] = voxel_peaks(cohort, paths.results(name))
        schema = pq.read_schema(paths.results(name) / "joint.parquet")
        joint[name] = json.loads(schema.metadata[b"axoloci"])
    first = next(iter(compared))
    summary = {
        "n_subjects": n_subjects,
        "seed": seed,
        **compared[first],
        "lambda_gc": joint[first]["lambda_gc"],
        "voxel_peak_in_region": peaks[first],
        "representations": {
            name: {
                "n_latents": len(joint[name]["traits"]),
                "found": compared[name]["found"],
                "false_positive": compared[name]["false_positive"],
                "lambda_gc": joint[name]["lambda_gc"],
                "voxel_peak_in_region": peaks[name],
                "seconds": seconds[name],
            }
            for name in compared
        },
        "failed": [outcome.scan for outcome in result.failed],
        "seconds": {row["step"]: row["seconds"] for row in step_seconds(settings)},
        "cpu_seconds": {row["step"]: row["cpu_seconds"] for row in step_seconds(settings)},
        "report": str(result.report),
    }
    write_json(out / "summary.json", summary)
    return summary

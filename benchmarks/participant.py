"""The whole participant chain on scans of UK Biobank's size, step by step, beside DIPY's parts.

A real head, scanned anew: 104 x 104 x 72 voxels of 2 mm, 5 b0, 50 directions of b = 1,000 and as
many of 2,000, SNR 20, some motion. Four such people go through the participants stage, by one
process and by two. DIPY's parts are linear in volumes and slices, and measured on some of them.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from axoloci.io.gradients import B0_THRESHOLD, read_gradients, world_to_bvec, write_gradients
from axoloci.io.nifti import read_nifti, write_nifti
from axoloci.tasks.simulate import anatomy as tissue
from axoloci.tasks.simulate import scan
from benchmarks.association import measure
from benchmarks.preprocess import BIN, SNR, person, run
from benchmarks.results_file import markdown_table, write_result

SHAPE = (104, 104, 72)
N_PEOPLE = 4
MOTION = 0.5  # mm and degrees, root mean square: a calm adult
MOST_CPU_MINUTES, LEAST_SPEEDUP, MOST_GB = 20, 1.8, 3.0
SOME_SLICES, SOME_VOLUMES = 24, 11
STEPS = ("preprocess", "dti", "normalize", "page")


def protocol() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """b-values (105,) and directions (105, 3) of the world, in mixed order."""
    bval, gradient = scan.gradient_scheme(50, 5, 1000.0)
    more, turned = scan.gradient_scheme(50, 0, 2000.0)
    turned = turned @ scan.rotation(np.array([0, 0, 0, 0.4, 0.7, 0.2])).T
    order = np.r_[0, 1 + np.random.default_rng(1).permutation(104)]
    return np.r_[bval, more][order], np.vstack([gradient, turned])[order]


def simulate(bids: Path, anatomy: tissue.Anatomy, seed: int) -> None:
    """One person's scan."""
    bval, gradient = protocol()
    rng = np.random.default_rng(seed)
    head = scan.random_head(anatomy, rng, 1.5)
    poses = scan.random_motion(len(bval), MOTION, MOTION, rng)
    seen = scan.acquire(anatomy, anatomy.fields, head, bval, gradient, poses)
    gap = np.array(SHAPE) - anatomy.shape  # to be added, or cut off where below 0
    low = gap // 2
    source = tuple(slice(max(-a, 0), max(-a, 0) + min(n, m))
                   for a, n, m in zip(low, SHAPE, anatomy.shape, strict=True))  # fmt: skip
    target = tuple(slice(max(a, 0), max(a, 0) + min(n, m))
                   for a, n, m in zip(low, SHAPE, anatomy.shape, strict=True))  # fmt: skip
    dwi = np.zeros((*SHAPE, len(bval)), dtype=np.float32)
    dwi[target] = seen[source]
    affine = anatomy.scan_affine.copy()
    affine[:3, 3] -= affine[:3, :3] @ low
    for v in range(len(bval)):
        dwi[..., v] = np.rint(scan.add_rician_noise(dwi[..., v], tissue.S0_WHITE / SNR, rng))
    stem = bids / f"sub-{seed}" / "dwi" / f"sub-{seed}_dwi"
    stem.parent.mkdir(parents=True)
    write_nifti(f"{stem}.nii.gz", dwi.astype(np.int16), affine)
    write_gradients(f"{stem}.bval", f"{stem}.bvec", bval, world_to_bvec(gradient, affine))


def throughput(folder: Path, n_procs: int) -> tuple[float, list[dict[str, dict[str, float]]]]:
    """Seconds of the participants stage, and each person's jobs."""
    out = folder / f"out-{n_procs}"
    shutil.rmtree(out, ignore_errors=True)
    study = folder / f"study-{n_procs}.toml"
    study.write_text(f'out = "{out}"\nbids = "{folder / "bids"}"\n')
    command = (BIN / "axoloci", "run", study, "--stage", "participants", "--n-procs", n_procs)
    begin = time.perf_counter()
    measure(list(map(str, command)), 1)
    seconds = time.perf_counter() - begin
    jobs = [
        {step: json.loads((log / f"{step}.json").read_text()) for step in STEPS}
        for log in sorted((out / "logs").glob("sub-*"))
    ]
    return seconds, jobs


def dipy_parts(folder: Path) -> dict[str, tuple[str, float]]:
    """CPU seconds of DIPY's commands, and the axoloci step that they would take the place of."""
    stem = folder / "bids/sub-0/dwi/sub-0_dwi"
    dwi, affine = read_nifti(f"{stem}.nii.gz", 4)
    bval, bvec = read_gradients(f"{stem}.bval", f"{stem}.bvec")
    few = np.r_[0, np.flatnonzero(bval > B0_THRESHOLD)[: SOME_VOLUMES - 1]]
    low = np.flatnonzero(bval < 1500)
    middle = slice((SHAPE[2] - SOME_SLICES) // 2, (SHAPE[2] + SOME_SLICES) // 2)
    parts = {
        "slab": (dwi[:, :, middle], np.arange(len(bval))),
        "few": (dwi, few),
        "low": (dwi, low),
    }
    for name, (volumes, some) in parts.items():
        write_nifti(folder / f"{name}.nii.gz", volumes[..., some], affine)
        table = (folder / f"{name}.bval", folder / f"{name}.bvec")
        write_gradients(*map(str, table), bval[some], bvec[some])
    mask = folder / "out-1/sub-0/dwi/sub-0_desc-brain_mask.nii.gz"
    tables = {name: (folder / f"{name}.bval", folder / f"{name}.bvec") for name in parts}
    by_slice, by_volume = SHAPE[2] / SOME_SLICES, len(bval) / SOME_VOLUMES
    commands: dict[str, tuple[str, float, list[object]]] = {
        "denoise_mppca": ("preprocess", by_slice, [folder / "slab.nii.gz"]),
        "gibbs_ringing": ("preprocess", by_volume, [folder / "few.nii.gz"]),
        "correct_motion": (
            "preprocess",
            (len(bval) - 1) / (SOME_VOLUMES - 1),  # the first is not registered
            [folder / "few.nii.gz", *tables["few"]],
        ),
        "median_otsu": ("preprocess", by_volume, [folder / "few.nii.gz", "--vol_idx", "0"]),
        "fit_dti": ("dti", 1.0, [folder / "low.nii.gz", *tables["low"], mask]),
    }
    found = {}
    for name, (step, factor, arguments) in commands.items():
        out = folder / f"dipy-{name}"
        cost = run([BIN / f"dipy_{name}", *arguments, "--out_dir", out], out)
        found[f"dipy_{name}"] = (step, cost.cpu_seconds * factor)
    return found


def main() -> None:
    """Run both, and write the tables."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(sys.argv[1] if len(sys.argv) > 1 and Path(sys.argv[1]).is_dir() else name)
        bids = folder / "bids"
        bids.mkdir(exist_ok=True)
        (bids / "dataset_description.json").write_text('{"Name": "x", "BIDSVersion": "1.10.0"}')
        anatomy = person(folder)
        for seed in range(N_PEOPLE):
            if not (bids / f"sub-{seed}").exists():
                simulate(bids, anatomy, seed)
        (one, jobs), (two, _) = (throughput(folder, n) for n in (1, 2))
        parts = dipy_parts(folder)

    def median(step: str, key: str) -> float:
        return float(np.median([person[step][key] for person in jobs]))

    rows: list[dict[str, object]] = []
    for step in STEPS:
        theirs = {name: cpu for name, (of, cpu) in parts.items() if of == step}
        rows.append(
            {
                "step": step,
                "CPU s": f"{median(step, 'cpu_seconds'):.0f}",
                "peak, GB": f"{median(step, 'max_rss_mb') / 1000:.2f}",
                "DIPY's commands, CPU s": ", ".join(f"{n} {c:.0f}" for n, c in theirs.items()),
            }
        )
    cpu = sum(median(step, "cpu_seconds") for step in STEPS)
    theirs = sum(cpu for _, cpu in parts.values())
    peak = max(median(step, "max_rss_mb") for step in STEPS) / 1000
    rows.append(
        {
            "step": "**all**",
            "CPU s": f"**{cpu:.0f}**",
            "peak, GB": f"**{peak:.2f}**",
            "DIPY's commands, CPU s": f"**{theirs:.0f}** ({theirs / cpu:.0f} times)",
        }
    )
    text = (
        f"{markdown_table(rows)}\nMedians of {N_PEOPLE} people, {cpu / 60:.1f} CPU-minutes each"
        f" (asked for: at most {MOST_CPU_MINUTES}). Of DIPY, denoising is measured on"
        f" {SOME_SLICES} of {SHAPE[2]} slices, unringing and motion on {SOME_VOLUMES} of 105"
        f" volumes, and multiplied; the fit on the 55 volumes below b = 1,500.\n\n"
        f"{N_PEOPLE} people: {one:.0f} s with one process, {two:.0f} s with two:"
        f" **{one / two:.2f} times** the throughput (asked for: {LEAST_SPEEDUP}).\n"
    )
    assert peak < MOST_GB, peak
    write_result("participant", "The participant chain on scans of UK Biobank's size", text)


if __name__ == "__main__":
    main()

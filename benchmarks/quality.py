"""Quality control of 20 people of whom 10 have planted faults: who is flagged, and by which rules.

Scans of a real anatomy are simulated, two of each fault: strong motion; slices that lost their
signal; b-vectors with a flipped axis; another brain (a water phantom, and a brain that nobody has);
b-values of other volumes. Then the participants stage is run as a user does. Every fault must be
flagged or refused by name, and no sound scan.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from axoloci.io.gradients import read_gradients, write_gradients
from axoloci.io.nifti import read_nifti, write_nifti
from benchmarks.results_file import markdown_table, write_result

ROOT = Path(__file__).parent.parent
DATA = Path(os.environ.get("AXOLOCI_TEST_DATA", ROOT.parent / "shared" / "data"))
ANATOMY = DATA / "dwi" / "mappertrac-sub-011591" / "sub-011591_dwi.nii.gz"
PROGRAM = Path(sys.executable).parent / "axoloci"
N_PEOPLE, N_OF_FAULT = 20, 2
PROTOCOL = ("--voxel-size", "3", "--n-directions", "30", "--n-b0", "3", "--snr", "20")
MOTION = {"sound": "0.3", "strong": "3"}  # mm and degrees, root mean square
DROPPED_VOLUMES, DROPPED_SLICES = 0.4, 0.4  # shares
WATER_MD, WATER_MM = 2.1e-3, 75.0  # of the phantom: mm²/s, radius

Scan = tuple[Path, Path, Path]  # image, b-values, b-vectors


def files_of(bids: Path, person: str) -> Scan:
    stem = bids / person / "dwi" / f"{person}_dwi"
    return Path(f"{stem}.nii.gz"), Path(f"{stem}.bval"), Path(f"{stem}.bvec")


def copy_scan(source: Scan, target: Scan) -> None:
    for old, new in zip(source, target, strict=True):
        shutil.copyfile(old, new)


def drop_slices(scan: Scan, rng: np.random.Generator) -> None:
    """Bring runs of slices of many volumes down to the noise."""
    dwi, affine = read_nifti(scan[0], ndim=4)
    bval, _ = read_gradients(scan[1], scan[2])
    noise = float(np.median(dwi[:3, :3, :3]))
    n_slices = round(DROPPED_SLICES * dwi.shape[2])
    weighted = np.flatnonzero(bval > 50)
    for volume in rng.choice(weighted, round(DROPPED_VOLUMES * len(weighted)), replace=False):
        first = int(rng.integers(0, dwi.shape[2] - n_slices))
        shape = (*dwi.shape[:2], n_slices)
        dwi[:, :, first : first + n_slices, volume] = rng.rayleigh(max(noise, 1) / 1.18, shape)
    write_nifti(scan[0], np.rint(dwi).astype(np.int16), affine)


def flip_gradients(scan: Scan, axis: int) -> None:
    bval, bvec = read_gradients(scan[1], scan[2])
    bvec[:, axis] *= -1
    write_gradients(scan[1], scan[2], bval, bvec)


def swap_bvals(scan: Scan, rng: np.random.Generator) -> None:
    """Give the b-values of the b0 volumes to others; all have a direction, as scanners write it."""
    bval, bvec = read_gradients(scan[1], scan[2])
    low = np.flatnonzero(bval <= 50)
    bvec[low] = bvec[rng.choice(np.flatnonzero(bval > 50), len(low), replace=False)]
    others = rng.choice(np.flatnonzero(bval > 50), len(low), replace=False)
    bval[low], bval[others] = bval[others], bval[low]
    write_gradients(scan[1], scan[2], bval, bvec)


def scan_water(scan: Scan, rng: np.random.Generator) -> None:
    """A ball of water in place of the head."""
    dwi, affine = read_nifti(scan[0], ndim=4)
    bval, _ = read_gradients(scan[1], scan[2])
    index = np.indices(dwi.shape[:3]).reshape(3, -1).T
    middle = (np.array(dwi.shape[:3]) - 1) / 2
    distance = np.linalg.norm((index - middle) @ affine[:3, :3].T, axis=1).reshape(dwi.shape[:3])
    signal = (distance < WATER_MM)[..., None] * 1500 * np.exp(-bval * WATER_MD)
    noise = rng.normal(0, 50, (2, *dwi.shape))
    dwi = np.hypot(signal + noise[0], noise[1])
    write_nifti(scan[0], np.rint(dwi).astype(np.int16), affine)


def simulate(out: Path, n_people: int, motion: str, *options: object) -> Path:
    """A simulated BIDS data set."""
    words = [PROGRAM, "simulate", out, "--n-subjects", n_people, "--n-variants", 10, *PROTOCOL,
             "--motion-mm", motion, "--motion-deg", motion, *options]  # fmt: skip
    subprocess.run(list(map(str, words)), check=True)
    return out / "bids"


def plant(folder: Path) -> tuple[Path, dict[str, str]]:
    """A data set of 20 people, and what was planted in whom."""
    anatomy = ("--anatomy", ANATOMY)
    bids = simulate(folder / "sound", N_PEOPLE, MOTION["sound"], *anatomy)
    moving = simulate(folder / "moving", 8, MOTION["strong"], "--seed", 1, *anatomy)
    nobody = simulate(folder / "nobody", 8, MOTION["sound"], "--seed", 2)
    people = sorted(path.name for path in bids.glob("sub-*"))
    others = [sorted(path.name for path in other.glob("sub-*")) for other in (moving, nobody)]
    rng = np.random.default_rng(0)
    faults: dict[str, list[Callable[[Scan], None]]] = {
        "strong motion": [
            lambda scan, k=k: copy_scan(files_of(moving, others[0][k]), scan) for k in range(2)
        ],
        "slice dropout": [lambda scan: drop_slices(scan, rng)] * 2,
        "flipped b-vectors": [lambda scan, k=k: flip_gradients(scan, k) for k in (0, 2)],
        "another brain": [
            lambda scan: scan_water(scan, rng),
            lambda scan: copy_scan(files_of(nobody, others[1][0]), scan),
        ],
        "swapped b-values": [lambda scan: swap_bvals(scan, rng)] * 2,
    }
    planted = {}
    names = iter(people[1::2])  # every second person
    for fault, doings in faults.items():
        for do in doings:
            person = next(names)
            do(files_of(bids, person))
            planted[person] = fault
    return bids, planted


def main() -> None:
    """Plant, run, count, write the table."""
    rows = []
    with tempfile.TemporaryDirectory() as name:
        bids, planted = plant(Path(name))
        out = Path(name, "out")
        started = time.monotonic()
        words = [PROGRAM, "run", "--bids", bids, "--out", out, "--stage", "participants"]
        done = subprocess.run([*map(str, words), "--n-procs", "1"], check=False)
        assert done.returncode in (0, 3), done.returncode
        seconds = time.monotonic() - started
        scans = pd.read_csv(out / "scans.tsv", sep="\t", na_values=["n/a"], index_col="scan")
        quality = pd.read_csv(out / "qc.tsv", sep="\t", na_values=["n/a"], index_col="scan")
        for person in sorted(scans.index, key=lambda one: (planted.get(one, "~"), one)):
            refused = scans["reason"].get(person) if scans["status"][person] == "failed" else ""
            flags = "" if refused else quality["flags"].fillna("")[person]
            found = f"refused: {str(refused)[-160:]}" if refused else flags
            left_out = "no" if scans["in_group"][person] == "yes" else "yes"
            told = {"scan": person, "planted": planted.get(person, "nothing")}
            rows.append({**told, "flagged by": found or "–", "left out": left_out})
        pages = [len(page.read_bytes()) for page in out.glob("sub-*/dwi/*_desc-qc_dwi.html")]
        body = markdown_table(rows) + (
            f"\nParticipants stage: {seconds:.0f} s on one process; pages of the scans: "
            f"{np.mean(pages) / 1e6:.1f} MB each; qc.html: "
            f"{(out / 'qc.html').stat().st_size / 1e6:.1f} MB.\n"
        )
        path = write_result("quality", "Who is flagged among 20 people, 10 with faults", body)
    missed = [row for row in rows if (row["planted"] != "nothing") != (row["flagged by"] != "–")]
    if missed:
        path.unlink()  # a result that is written down is one that holds
    assert not missed, missed


if __name__ == "__main__":
    main()

"""Quality control of 20 people of whom 10 have planted faults: who is flagged, and by which rules.

Scans of a real anatomy are simulated, two of each fault: strong motion; slices that lost their
signal; b-vectors with a flipped axis; another brain (a water phantom, and a brain that nobody has);
b-values of other volumes. Then the participants stage is run as a user does. Every fault must be
flagged or refused by name, and no sound scan.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.results_file import markdown_table, write_result

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from planted import (
    Scan,
    copy_scan,
    drop_slices,
    files_of,
    flip_gradients,
    scan_water,
    swap_bvals,
)

ROOT = Path(__file__).parent.parent
DATA = Path(os.environ.get("AXOLOCI_TEST_DATA", ROOT.parent / "shared" / "data"))
ANATOMY = DATA / "dwi" / "mappertrac-sub-011591" / "sub-011591_dwi.nii.gz"
PROGRAM = Path(sys.executable).parent / "axoloci"
N_PEOPLE = 20
PROTOCOL = ("--voxel-size", "3", "--n-directions", "30", "--n-b0", "3", "--snr", "20")
MOTION = {"sound": "0.3", "strong": "3"}  # mm and degrees, root mean square


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

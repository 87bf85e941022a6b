"""Quality control of 20 people of whom 10 have planted faults: who is flagged, and by which rules.

Scans of a real anatomy are simulated, two of each fault: strong motion; slices that lost their
signal; b-vectors with a flipped axis; another brain (a water phantom, and a brain that nobody has);
b-values of other volumes. Then the participants stage is run as a user does. Every fault must be
flagged or refused by name, and no sound scan. All of it anew with each of several seeds:

    python -m benchmarks.quality --folder FOLDER --seeds 0 1 2
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from axoloci.quality import FIGURES, LIMITS, derived_figures, number
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
PROTOCOL = ("--voxel-size", "4", "--n-directions", "30", "--n-b0", "3", "--snr", "20")
MOTION = {"sound": "0.3", "strong": "3"}  # mm and degrees, root mean square


def simulate(out: Path, n_people: int, motion: str, *options: object) -> Path:
    """A simulated BIDS data set; one that is there is left as it is."""
    words = [PROGRAM, "simulate", out, "--n-subjects", n_people, "--n-variants", 10,
             "--n-loci", 0, *PROTOCOL, "--motion-mm", motion,
             "--motion-deg", motion, *options]  # fmt: skip
    if not (out / "truth.json").exists():
        subprocess.run(list(map(str, words)), check=True)
    return out / "bids"


def correct_anatomy(folder: Path) -> Path:
    """The real scan without its own motion, which would be taken for anatomy."""
    made, stem = folder / "anatomy_desc-preproc_dwi.nii.gz", str(ANATOMY).removesuffix(".nii.gz")
    words = [PROGRAM.parent / "axoloci-preprocess", "run", "--dwi", ANATOMY,
             "--bval", f"{stem}.bval", "--bvec", f"{stem}.bvec",
             "--out", folder, "--prefix", "anatomy"]  # fmt: skip
    if not (folder / "anatomy_desc-preproc_dwi.json").exists():  # written last
        subprocess.run(list(map(str, words)), check=True)
    return made


def plant(folder: Path, seed: int, anatomy: Path) -> tuple[Path, dict[str, str]]:
    """A data set of 20 people, and what was planted in whom; one that is there is taken."""
    done = folder / "planted.json"  # written last
    if done.exists():
        return folder / "sound" / "bids", json.loads(done.read_text())
    seeds = [("--seed", 3 * seed + k) for k in range(3)]
    shutil.rmtree(folder / "sound", ignore_errors=True)  # may hold a part of the faults
    bids = simulate(folder / "sound", N_PEOPLE, MOTION["sound"], *seeds[0], "--anatomy", anatomy)
    moving = simulate(folder / "moving", 8, MOTION["strong"], *seeds[1], "--anatomy", anatomy)
    nobody = simulate(folder / "nobody", 8, MOTION["sound"], *seeds[2])
    people = sorted(path.name for path in bids.glob("sub-*"))
    others = [sorted(path.name for path in other.glob("sub-*")) for other in (moving, nobody)]
    rng = np.random.default_rng(seed)
    flipped = (seed % 3, (seed + 2) % 3)  # axes
    faults: dict[str, list[Callable[[Scan], None]]] = {
        "strong motion": [
            lambda scan, k=k: copy_scan(files_of(moving, others[0][k]), scan) for k in range(2)
        ],
        "slice dropout": [lambda scan: drop_slices(scan, rng)] * 2,
        "flipped b-vectors": [lambda scan, k=k: flip_gradients(scan, k) for k in flipped],
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
    done.write_text(json.dumps(planted))
    return bids, planted


def judge_cohort(folder: Path, seed: int, anatomy: Path) -> pd.DataFrame:
    """Plant, run, and read what was found: a row a scan, with its quality figures."""
    folder.mkdir(parents=True, exist_ok=True)
    bids, planted = plant(folder, seed, anatomy)
    out = folder / "out"
    words = [PROGRAM, "run", "--bids", bids, "--out", out, "--stage", "participants"]
    done = subprocess.run([*map(str, words), "--n-procs", "1"], check=False)
    assert done.returncode in (0, 3), done.returncode
    scans, quality = (
        pd.read_csv(out / name, sep="\t", na_values=["n/a"], index_col="scan")
        for name in ("scans.tsv", "qc.tsv")
    )
    found = scans[["in_group"]].join(quality)
    refused = scans["reason"].where(scans["status"] == "failed")
    refused = "refused: " + refused.str.replace(r"^.*\.(bval|bvec): ", "", regex=True)
    found["flagged by"] = refused.fillna(found["flags"]).fillna("–").astype(str)
    found["planted"] = [planted.get(scan, "nothing") for scan in found.index]
    found["seed"] = seed
    derived = [derived_figures(row) for row in found.to_dict("records")]
    return found.assign(**pd.DataFrame(derived, index=found.index))


def of_faults(found: pd.DataFrame) -> str:
    """Who is flagged, by which rules: all with faults, and sound ones that are flagged."""
    told = found[(found["planted"] != "nothing") | (found["flagged by"] != "–")]
    told = told.sort_values(["planted", "seed"], kind="stable").reset_index(names="scan")
    told["left out"] = np.where(told["in_group"] == "yes", "no", "yes")
    columns = ["planted", "seed", "scan", "flagged by", "left out"]
    return markdown_table(told[columns].to_dict("records"))


def of_figures(found: pd.DataFrame) -> str:
    """How far the figures of sound scans, and of those with faults, lie from the limits."""
    rows = []
    sound = found["planted"] == "nothing"
    for name, told in FIGURES.items():
        limits = {limit.level: limit.bounds for limit in LIMITS if limit.figure == name}
        if name not in found or not limits:
            continue
        values = found[name].map(number)
        ranges = [
            f"{told.text(of.min())} to {told.text(of.max())}"
            for of in (values[sound], values[~sound])
        ]
        rows.append(
            {
                "figure": told.label,
                "sound": ranges[0],
                "with faults": ranges[1],
                "look": limits.get("look", "–"),
                "exclude": limits.get("exclude", "–"),
            }
        )
    return markdown_table(rows)


def measure(folder: Path, seeds: Sequence[int]) -> None:
    """Run all seeds, count, write the tables."""
    anatomy = correct_anatomy(folder / "anatomy")
    found = pd.concat([judge_cohort(folder / f"seed{seed}", seed, anatomy) for seed in seeds])
    sound = found["planted"] == "nothing"
    flagged = found["flagged by"] != "–"
    pages = [len(page.read_bytes()) for page in folder.glob("seed*/out/sub-*/dwi/*_dwi.html")]
    of_all = [len(page.read_bytes()) for page in folder.glob("seed*/out/qc.html")]
    body = (
        f"{len(found)} simulated scans of a real anatomy, {N_PEOPLE} of each seed "
        f"(`{' '.join(PROTOCOL)}`, motion of {MOTION['sound']} mm and degrees): flagged are "
        f"{(flagged & ~sound).sum()} of {(~sound).sum()} with faults and {(flagged & sound).sum()} "
        f"of {sound.sum()} sound ones.\n\n{of_faults(found)}\n"
        "## Figures beside the absolute limits\n\nSmallest and largest; relative rules compare "
        f"the scans of a cohort with each other.\n\n{of_figures(found)}\n"
        f"Pages of the scans: {np.mean(pages) / 1e6:.1f} MB each; qc.html: "
        f"{max(of_all) / 1e6:.1f} MB.\n"
    )
    path = write_result("quality", "Who is flagged among people of whom half have faults", body)
    if (flagged == sound).any():
        path.unlink()  # a result that is written down is one that holds
    assert not (flagged == sound).any(), found.loc[flagged == sound, ["planted", "flagged by"]]


def main(arguments: Sequence[str] = ()) -> None:
    """Measure with all seeds."""
    parser = argparse.ArgumentParser(description="Quality control of planted faults.")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="One cohort each.")
    parser.add_argument("--folder", type=Path, help="Keeps what is made, and goes on with it.")
    options = parser.parse_args(arguments)
    if options.folder is not None:
        measure(options.folder, options.seeds)
        return
    with tempfile.TemporaryDirectory() as name:
        measure(Path(name), options.seeds)


if __name__ == "__main__":
    main(sys.argv[1:])

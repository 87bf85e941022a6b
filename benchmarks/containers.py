"""What containers cost: each step of a real scan natively, by podman or docker, by Apptainer."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from axoloci.engines import Engine, Job, find_engine
from axoloci.images import Image, locked_images
from axoloci.job import read_records
from axoloci.workflows.participant import STEPS
from benchmarks.results_file import markdown_table, write_result

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("AXOLOCI_TEST_DATA", ROOT.parent / "shared" / "data"))
SCAN = DATA / "dwi" / "mappertrac-sub-011591" / "sub-011591_dwi"
ENVIRONMENTS = ("native", "docker", "singularity")
REPEATS = 3
STARTS = 5
MOST = 1.15  # times native, for a participant's chain


def bids_folder(folder: Path) -> Path:
    """A data set of the one scan, by links."""
    dwi = folder / "bids" / "sub-1" / "dwi"
    dwi.mkdir(parents=True)
    about = '{"Name": "one scan", "BIDSVersion": "1.9.0"}'
    (folder / "bids" / "dataset_description.json").write_text(about)
    for extension in (".nii.gz", ".bval", ".bvec"):
        (dwi / f"sub-1_dwi{extension}").symlink_to(f"{SCAN}{extension}")
    return folder / "bids"


def run_chain(bids: Path, out: Path, env: str) -> dict[str, float]:
    """Run the scan in an environment: seconds of each step, and of the whole command."""
    axoloci = Path(sys.executable).parent / "axoloci"
    command = [axoloci, "run", "--bids", bids, "--out", out, "--stage", "participants"]
    started = time.monotonic()
    subprocess.run([*command, "--env", env], check=True, capture_output=True)
    seconds = {"command": time.monotonic() - started}
    return seconds | {record["job"]: record["seconds"] for record in read_records(out / "logs")}


def median_seconds(words: Sequence[str]) -> float:
    """Median time of a command."""
    seconds = []
    for _ in range(STARTS):
        started = time.monotonic()
        subprocess.run(words, check=True, capture_output=True, stdin=subprocess.DEVNULL)
        seconds.append(time.monotonic() - started)
    return statistics.median(seconds)


def start_and_import(engine: Engine, image: Image) -> tuple[float, float]:
    """Seconds to start a container that does nothing, and to import the step in it."""
    located = engine.locate(image)

    def taken(*command: str) -> float:
        with tempfile.TemporaryDirectory() as folder:
            name = f"axoloci-benchmark-{os.getpid()}"
            job = Job(name, command, [], Path("/"), {"TMPDIR": "/tmp", "HOME": folder})
            return median_seconds(engine.words(located, job))

    start = taken("true")
    return start, taken(f"axoloci-{image.step}", "--help") - start


def main() -> None:
    """Run the chain in turns, start the containers, write the tables."""
    found: dict[str, list[dict[str, float]]] = {env: [] for env in ENVIRONMENTS}
    with tempfile.TemporaryDirectory() as folder:
        bids = bids_folder(Path(folder))
        for repeat in range(REPEATS):
            for env in ENVIRONMENTS:
                found[env].append(run_chain(bids, Path(folder, f"{env}-{repeat}"), env))
    median = {
        env: {key: statistics.median(run[key] for run in runs) for key in runs[0]}
        for env, runs in found.items()
    }
    rows, images = [], locked_images()
    for step in STEPS:
        row = {"step": step, "native, s": f"{median['native'][step]:.2f}"}
        for env in ENVIRONMENTS[1:]:
            engine = find_engine(env)
            start, load = start_and_import(engine, images[step])
            row |= {
                f"{engine.name}, s": f"{median[env][step]:.2f}",
                f"{engine.name} start, s": f"{start:.2f}",
                f"import in {engine.name}, s": f"{load:.2f}",
            }
        rows.append(row)
    chains = {env: sum(median[env][step] for step in STEPS) for env in ENVIRONMENTS}
    ratios = {env: chains[env] / chains["native"] for env in ENVIRONMENTS}
    wholes = {env: median[env]["command"] / median["native"]["command"] for env in ENVIRONMENTS}
    totals = [
        {
            "environment": env,
            "steps, s": f"{chains[env]:.1f}",
            "times native": f"{ratios[env]:.3f}",
            "whole command, s": f"{median[env]['command']:.1f}",
            "times native ": f"{wholes[env]:.3f}",
        }
        for env in ENVIRONMENTS
    ]
    write_result(
        "containers",
        "What containers cost: a real scan from raw DWI to FA in the common space",
        f"The mappertrac scan, {REPEATS} runs of each environment in turns, medians; a thread "
        f"a step. Bar: {MOST} times native.\n\n{markdown_table(totals)}\n{markdown_table(rows)}",
    )
    assert max(ratios.values()) <= MOST, ratios

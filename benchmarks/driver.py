"""What the driver itself costs: 5,000 scans whose steps are replaced by stubs.

The stubs write small files of the right names, so that everything but the arithmetic is done:
workflows, digests, records, outcomes, tables. Time and memory a scan must not grow with their
number.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

import axoloci
from axoloci.io.nifti import write_nifti
from benchmarks.results_file import markdown_table, write_result

N_SCANS = 5000
N_PROCS = 2
STUB = """#!/bin/bash
while [ $# -gt 0 ]; do
  case $1 in --out) out=$2;; --prefix) prefix=$2;; esac; shift
done
stem=$out/$prefix
for name in {images}; do cp {image} "$stem$name"; done
for name in {texts}; do echo '{about}' > "$stem$name"; done
"""
ABOUT = json.dumps(  # what the tables and the methods section read
    {
        "Settings": {
            **{"already_preprocessed": False, "mask": "made"},
            **{"method": "WLS", "max_bval": 1500, "voxel_size": 2},
        },
        "shells": [{"bval": 1000, "n_volumes": 1}],
    }
)
MAPS = ("fa", "md", "ad", "rd", "mode", "decfa", "bzero", "residual")
STEPS = {
    "preprocess": (
        ("_desc-preproc_dwi.nii.gz", "_desc-brain_mask.nii.gz"),
        ("_desc-preproc_dwi.bval", "_desc-preproc_dwi.bvec", "_desc-preproc_dwi.json"),
    ),
    "dti": (
        (
            *(f"_model-tensor_param-{name}_dwimap.nii.gz" for name in MAPS),
            "_model-tensor_desc-implausible_mask.nii.gz",
        ),
        ("_model-tensor_dwimap.json",),
    ),
    "normalize": (
        (
            "_space-template_model-tensor_param-fa_dwimap.nii.gz",
            "_from-template_to-dwi_warp.nii.gz",
        ),
        ("_from-template_to-dwi_xfm.txt", "_space-template_registration.json"),
    ),
}


def main() -> None:
    """Run the participants stage on stubs and write the table."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        environment = _stubs(folder)
        _scans(folder)
        command = [str(folder / "bin" / "python"), "-c", "from axoloci.cli import main; main()"]
        command += ["run", "--scans", str(folder / "scans.tsv"), "--out", str(folder / "out")]
        command += ["--stage", "participants", "--n-procs", str(N_PROCS)]
        first = _watch(command, environment, folder / "out")
        started = time.monotonic()
        subprocess.run(command, env=environment, check=True, stderr=subprocess.DEVNULL)
        again = time.monotonic() - started
    write_result(
        "driver",
        f"The driver on {N_SCANS:,} scans whose steps are stubs, {N_PROCS} processes",
        markdown_table(first)
        + f"\nThe same command again, when all is done: {1000 * again / N_SCANS:.1f} ms a scan.\n",
    )


def _stubs(folder: Path) -> dict[str, str]:
    """Programs of the steps that only write files; the variables under which they are found."""
    programs = folder / "bin"
    programs.mkdir()
    image = folder / "image.nii.gz"
    write_nifti(image, np.full((2, 2, 2), 0.5, np.float32), np.eye(4))
    (programs / "python").symlink_to(Path(sys.executable).resolve())
    for step, (images, texts) in STEPS.items():
        program = programs / f"axoloci-{step}"
        names = {"images": " ".join(images), "texts": " ".join(texts)}
        program.write_text(STUB.format(image=image, about=ABOUT, **names))
        program.chmod(0o755)
    shutil.copy(Path(sys.executable).parent / "axoloci-report", programs)
    packages = [str(Path(axoloci.__file__).parent.parent), *filter(None, sys.path)]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(packages), "OMP_NUM_THREADS": "1"}


def _scans(folder: Path) -> None:
    """A table of scans, each with files of its own."""
    rows = ["participant_id\tdwi\tbval\tbvec"]
    raw = folder / "raw"
    raw.mkdir()
    # b0 and six directions: what the preflight takes for a DWI
    vectors = np.array(
        [[0, 0, 0], [1, 1, 0], [1, -1, 0], [0, 1, 1], [0, 1, -1], [1, 0, 1], [1, 0, -1]]
    )
    np.savetxt(raw / "dwi.bval", [[0] + 6 * [1000]], fmt="%d")
    np.savetxt(raw / "dwi.bvec", (vectors / np.sqrt(2)).T, fmt="%.6f")
    image = folder / "dwi.nii.gz"
    write_nifti(image, np.full((2, 2, 2, len(vectors)), 100, np.float32), np.eye(4))
    for number in range(N_SCANS):
        os.link(image, raw / f"{number}.nii.gz")
        rows.append(f"{number:05d}\traw/{number}.nii.gz\traw/dwi.bval\traw/dwi.bvec")
    (folder / "scans.tsv").write_text("\n".join(rows) + "\n")


def _watch(command: list[str], environment: dict[str, str], out: Path) -> list[dict[str, str]]:
    """Seconds and memory of the driver and its workers at each fifth of the scans."""
    process = subprocess.Popen(command, env=environment)
    states, rows = out / "work" / "scans", []
    last, before = time.monotonic(), 0
    while process.poll() is None:
        time.sleep(0.5)
        done = len(os.listdir(states)) if states.is_dir() else 0
        if done - before >= N_SCANS // 5 or (done == N_SCANS and done > before):
            now = time.monotonic()
            driver, workers = _memory(process.pid)
            rows.append(
                {
                    "scans done": f"{done:,}",
                    "ms a scan": f"{1000 * (now - last) / (done - before):.1f}",
                    "driver, MB": f"{driver:.0f}",
                    "largest worker, MB": f"{workers:.0f}",
                }
            )
            last, before = now, done
    assert process.returncode == 0, process.returncode
    return rows


def _memory(pid: int) -> tuple[float, float]:
    """Resident memory of a process and of its largest child, MB."""

    def resident(of: int) -> float:
        try:
            text = Path(f"/proc/{of}/statm").read_text()
        except OSError:  # it has ended
            return 0.0
        return int(text.split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6

    tasks = Path(f"/proc/{pid}/task").iterdir()
    children = [c for task in tasks for c in (task / "children").read_text().split()]
    return resident(pid), max((resident(int(child)) for child in children), default=0.0)


if __name__ == "__main__":
    main()

"""The preflight of 50,000 people: seconds and memory, for a BIDS data set and for a table of scans.

Images are tiny, so this is what finding and reading many small files costs, not their volume.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nibabel as nib
import numpy as np

from benchmarks.results_file import markdown_table, write_result

N_PEOPLE = 50_000
N_VARIANTS = 1_000
N_COVARIATES = 20
N_VOLUMES = 33
MAX_SECONDS, MAX_GB = 60, 2


def write_cohort(folder: Path, n_people: int) -> None:
    """A BIDS data set, a table of the same scans, genotypes and covariates."""
    rng = np.random.default_rng(1)
    bids = folder / "bids"
    bids.mkdir(parents=True)
    (bids / "dataset_description.json").write_text('{"Name": "many", "BIDSVersion": "1.9.0"}')
    bvec = rng.normal(size=(3, N_VOLUMES))
    bvec /= np.linalg.norm(bvec, axis=0)
    bvec[:, :3] = 0
    bval = np.where(np.arange(N_VOLUMES) < 3, 0, 1000)
    image = folder / "one.nii.gz"
    nib.save(
        nib.Nifti1Image(np.zeros((6, 6, 6, N_VOLUMES), np.int16), np.diag([2, 2, 2, 1])), image
    )
    texts = {
        ".nii.gz": image.read_bytes(),
        ".bval": " ".join(map(str, bval)).encode(),
        ".bvec": "\n".join(" ".join(f"{x:.6f}" for x in row) for row in bvec).encode(),
        ".json": b'{"Manufacturer": "Siemens", "EchoTime": 0.09}',
    }
    names = [f"{number:06d}" for number in range(n_people)]
    scans = ["participant_id\tdwi\tbval\tbvec"]
    for name in names:
        dwi = bids / f"sub-{name}" / "dwi"
        dwi.mkdir(parents=True)
        for extension, text in texts.items():
            (dwi / f"sub-{name}_dwi{extension}").write_bytes(text)
        stem = f"bids/sub-{name}/dwi/sub-{name}_dwi"
        scans.append(f"{name}\t{stem}.nii.gz\t{stem}.bval\t{stem}.bvec")
    (folder / "scans.tsv").write_text("\n".join(scans) + "\n")
    (folder / "g.bed").write_bytes(b"\x6c\x1b\x01" + bytes(-(-n_people // 4) * N_VARIANTS))
    (folder / "g.bim").write_text(
        "".join(f"1\trs{i}\t0\t{i + 1}\tA\tC\n" for i in range(N_VARIANTS))
    )
    (folder / "g.fam").write_text(
        "".join(f"{n} {n} 0 0 {i % 2 + 1} -9\n" for i, n in enumerate(names))
    )
    values = rng.normal(size=(n_people, N_COVARIATES))
    header = "\t".join(["IID", *(f"c{k}" for k in range(N_COVARIATES)), "site"])
    rows = [
        "\t".join([n, *(f"{x:.6f}" for x in v), f"s{i % 20}"])
        for i, (n, v) in enumerate(zip(names, values, strict=True))
    ]
    (folder / "covariates.tsv").write_text("\n".join([header, *rows]) + "\n")


def main() -> None:
    """Write the cohort, check it by either source, write the table."""
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_cohort(folder, N_PEOPLE)
        for source in ("bids", "scans"):
            where = folder / ("bids" if source == "bids" else "scans.tsv")
            command = [
                str(Path(sys.executable).parent / "axoloci"),
                *("check", f"--{source}", str(where), "--genotypes", str(folder / "g")),
                *("--covariates", str(folder / "covariates.tsv"), "--out", str(folder / "out")),
            ]
            started = time.monotonic()
            done = subprocess.run(command, capture_output=True, text=True)
            seconds = time.monotonic() - started
            # No disk holds what such a cohort would become; nothing else may be wrong.
            problems = [line for line in done.stdout.splitlines() if line.startswith("problem: ")]
            assert all("are needed, most of them by" in line for line in problems), done.stdout
            assert done.returncode == (1 if problems else 0), done.stdout + done.stderr
            peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
            # A figure that is written down is one that holds.
            assert seconds < MAX_SECONDS, seconds
            assert peak < MAX_GB, peak
            rows.append(
                {
                    "source": source,
                    "people": N_PEOPLE,
                    "seconds": f"{seconds:.0f}",
                    "largest process, GB": f"{peak:.2f}",
                }
            )
    write_result(
        "preflight",
        f"The preflight of {N_PEOPLE:,} people, {N_VOLUMES} volumes a scan",
        markdown_table(rows),
    )

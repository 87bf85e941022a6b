"""A hundred kills, ten full disks and a hundred harmed files of a study of 20 people (as root)."""

from __future__ import annotations

import random
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

from benchmarks.results_file import markdown_table, write_result

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from faults import fill_disk, harm, kill_driver, made_files, mount_small, results
from support import axoloci, write_study

N_KILLS = 100
N_HARMED = 100
N_SIZES = 10


def main() -> None:
    """Break the study, let it finish, and compare its results with an uninterrupted one."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cohort = folder / "cohort"
        axoloci(
            *("simulate", cohort, "--n-subjects", 20, "--n-variants", 3000, "--seed", 5),
            *("--n-procs", 2),
        )
        studies = {}
        for kind in ("calm", "killed"):
            (folder / kind).mkdir()
            studies[kind] = write_study(folder / kind, cohort)
        axoloci("run", studies["calm"], "--n-procs", 2)
        expected = results(folder / "calm" / "out")
        kill_driver(studies["killed"], N_KILLS, seconds=12, seed=1)
        out = folder / "killed" / "out"
        axoloci("run", studies["killed"], "--n-procs", 2)
        assert results(out) == expected
        rng = random.Random(2)
        files = [path for path in made_files(out) if path.stat().st_size and path.suffix != ".html"]
        disk = folder / "disk"
        disk.mkdir()
        sizes: list[str] = []

        def small_disk(size: str) -> Path:
            mount_small(disk, size, again=bool(sizes))
            sizes.append(size)
            return disk

        try:
            filled = fill_disk(
                small_disk, cohort, sum(map(len, expected.values())), n_sizes=N_SIZES
            )
            assert results(filled.parent / "out") == expected
        finally:
            subprocess.run(["umount", "--lazy", str(disk)], check=False)
        harmed = Counter(harm(path, rng) for path in rng.sample(files, N_HARMED))
        axoloci("run", studies["killed"], "--n-procs", 2)
        assert results(out) == expected
    rows = [
        {"fault": "a full disk", "tried": N_SIZES, "survived": N_SIZES},
        {
            "fault": "kill -9 of the driver at a random moment",
            "tried": N_KILLS,
            "survived": N_KILLS,
        },
        *(
            {"fault": f"{kind} a finished file", "tried": n, "survived": n}
            for kind, n in sorted(harmed.items())
        ),
    ]
    write_result(
        "faults",
        "Faults: the same command finishes with the bytes of an uninterrupted run",
        markdown_table(rows)
        + "\nSurvived: nothing partial was taken, and after the next run of the same command every "
        "result had the bytes of an uninterrupted run.\n",
    )


if __name__ == "__main__":
    main()

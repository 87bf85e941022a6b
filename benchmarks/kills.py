"""Kill -9 of the association and of the ridge: the same command then ends in the same bytes."""

from __future__ import annotations

import math
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.results_file import markdown_table, write_result

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from agreement import make_study
from support import contents

N_KILLS = 10  # at random moments
N_AIMED = 3  # at each moment that is waited for

Moment = Callable[[Path], bool]  # whether it has come, by what is in the folder


def written(name: str) -> Moment:
    """A file is being written."""
    return lambda out: any((out / name).parent.glob(f".*.tmp.{Path(name).name}"))


def there(name: str) -> Moment:
    """A file is there."""
    return lambda out: (out / name).exists()


@dataclass
class After:
    """So many seconds after a moment."""

    moment: Moment
    seconds: float = math.inf
    came: float = math.nan

    def __call__(self, out: Path) -> bool:
        """Whether they have passed."""
        if math.isnan(self.came) and self.moment(out):
            self.came = time.monotonic()
        return time.monotonic() - self.came >= self.seconds


@dataclass(frozen=True)
class Case:
    """A command, the size of its data, and when it is killed."""

    name: str
    command: tuple[str, ...]
    n_samples: int
    missing: float
    n_chromosomes: int
    begins: Moment  # then something is there that may be harmed
    moments: dict[str, Moment]

    def make(self, folder: Path) -> list[str]:
        """Make the data; the command, all but the folder that it writes to."""
        chromosomes = tuple(map(str, range(1, self.n_chromosomes + 1)))
        strengths = tuple(range(40, 40 + 5 * self.n_chromosomes, 5))  # a trait of hits each
        genotypes = make_study(
            *(folder, self.n_samples, 500, self.missing),
            chromosomes=chromosomes,
            strengths=strengths,
        )
        tables = ["--traits", str(folder / "t.tsv"), "--covariates", str(folder / "c.tsv")]
        module = [sys.executable, "-m", "axoloci.tasks.gwas.cli", *self.command]
        return [*module, "--genotypes", str(genotypes), *tables, "--threads", "2", "--out"]


ASSOCIATE = ("associate", "--device", "cpu")
OF_PARTS = {
    "while a part is written": written("chr12/part-00000.parquet"),
    "when the last part is there": there("chr22/part-00000.json"),
    "while the hits are written": written("hits.tsv"),
    "when the summary is there": there("sumstats.json"),
}
OF_FILES = {
    "while a file is written": written("chr3.parquet"),
    "when the last file is there": there("all.parquet"),
}
PLANNED = there("plan.json")
CASES = (
    Case(
        *("associate, nothing missing", (*ASSOCIATE, "--complete-traits")),
        *(1000, 0.0, 22, PLANNED, OF_PARTS),
    ),
    Case(
        *("associate, genotypes and traits missing", ASSOCIATE),
        *(1000, 0.02, 22, PLANNED, OF_PARTS),
    ),
    Case(
        *("ridge, genotypes and traits missing", ("ridge",)),
        *(300, 0.02, 4, lambda _: True, OF_FILES),
    ),
)


def is_killed(command: list[str], out: Path, comes: Moment) -> bool:
    """Start the command and kill it at a moment; False if it ended before."""
    shutil.rmtree(out, ignore_errors=True)
    with subprocess.Popen([*command, str(out)], stderr=subprocess.DEVNULL) as process:
        while process.poll() is None and not comes(out):
            time.sleep(0.0002)
        process.kill()
    if process.returncode > 0:
        raise SystemExit(f"{' '.join(command)} {out}: exit code {process.returncode}")
    return process.returncode < 0


def survive(
    command: list[str], out: Path, expected: dict[str, bytes], moment: Callable[[], Moment]
) -> None:
    """Kill it, run it again, and compare all files."""
    while not is_killed(command, out, moment()):
        pass
    subprocess.run([*command, str(out)], check=True, stderr=subprocess.DEVNULL)
    found = contents(out)
    other = {name for name in found.keys() | expected if found.get(name) != expected.get(name)}
    if other:
        raise SystemExit(f"{' '.join(command)} {out}: other than without a kill: {sorted(other)}")


def kills_of(case: Case, folder: Path) -> list[dict[str, object]]:
    """All kills of one case: a row a kind of moment."""
    command, out = case.make(folder), folder / "killed"
    is_killed(command, folder / "calm", lambda _: False)  # compiles once, then cached
    watch = After(case.begins)
    is_killed(command, folder / "calm", watch)
    seconds = time.monotonic() - watch.came
    expected, rng = contents(folder / "calm"), random.Random(1)
    kinds: dict[str, tuple[int, Callable[[], Moment]]] = {
        f"at random, within {seconds:.1f} s": (
            N_KILLS,
            lambda: After(case.begins, rng.uniform(0, seconds)),
        )
    }
    kinds |= {name: (N_AIMED, lambda m=moment: m) for name, moment in case.moments.items()}
    for n, moment in kinds.values():
        for _ in range(n):
            survive(command, out, expected, moment)
    return [
        {"command": case.name, "killed": name, "times": n, "same bytes": n}
        for name, (n, _) in kinds.items()
    ]


def main() -> None:
    """Break all cases and write the table."""
    with tempfile.TemporaryDirectory() as name:
        rows = [
            row
            for number, case in enumerate(CASES)
            for row in kills_of(case, Path(name) / str(number))
        ]
    write_result(
        "kills",
        "Kill -9 of the association: the same command ends in the bytes of an uninterrupted run",
        f"{markdown_table(rows)}\nSame bytes: all files of the store, and none besides.\n",
    )


if __name__ == "__main__":
    main()

"""What the benchmarks of the association share: made-up studies, and how commands are measured.

A time per variant is the slope between two runs, on few and on many variants, so that start-up
(imports, tables, the null model) is apart from it.
"""

from __future__ import annotations

import math
import os
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

N_DRAWN = 2000  # variants that differ; longer files repeat them, which no program can tell
MISSING = -9
N_COVARIATES = 15


def draw_genotypes(n_samples: int, missing: float = 0.0) -> NDArray[np.int8]:
    """Independent variants of 5 to 50% frequency; a share of the genotypes is missing.

    Returns
    -------
    int8, (N_DRAWN, n_samples)
        Effect-allele counts, `MISSING` where there is none.
    """
    rng = np.random.default_rng(0)
    dosage = np.empty((N_DRAWN, n_samples), dtype=np.int8)
    for row, frequency in zip(dosage, rng.uniform(0.05, 0.5, N_DRAWN), strict=True):
        alleles = rng.random((2, n_samples), dtype=np.float32) < frequency
        row[:] = alleles.sum(axis=0)
        row[rng.random(n_samples, dtype=np.float32) < missing] = MISSING
    return dosage


def write_genotypes(prefix: Path, dosage: NDArray[np.int8], n_variants: int) -> None:
    """Write a PLINK 1 set of so many variants, which repeats the rows of `dosage`."""
    codes = np.full(256, 1, dtype=np.uint8)  # missing
    codes[:3] = 3, 2, 0
    code = codes[dosage.view(np.uint8)]
    quads = np.pad(code, ((0, 0), (0, -code.shape[1] % 4))).reshape(len(code), -1, 4)
    packed = np.bitwise_or.reduce(quads << np.array([0, 2, 4, 6], dtype=np.uint8), axis=2)
    with open(prefix.with_suffix(".bed"), "wb") as bed:
        bed.write(b"\x6c\x1b\x01")
        for start in range(0, n_variants, len(packed)):
            bed.write(packed[: n_variants - start].tobytes())
    with open(prefix.with_suffix(".bim"), "w") as bim:
        bim.writelines(f"1\trs{i}\t0\t{i + 1}\tA\tC\n" for i in range(n_variants))
    with open(prefix.with_suffix(".fam"), "w") as fam:
        fam.writelines(f"0\t{person}\t0\t0\t0\t-9\n" for person in _people(dosage.shape[1]))


def write_normals(path: Path, n_samples: int, n_columns: int) -> None:
    """Write a table of standard normal columns that are named for the file: TSV, or Parquet."""
    rng = np.random.default_rng(list(path.name.encode()))  # no two tables are alike
    table = pd.DataFrame(rng.normal(size=(n_samples, n_columns)).astype(np.float32))
    table = table.add_prefix(path.stem)
    if path.suffix == ".parquet":
        table.insert(0, "sample_id", _people(n_samples))
        table.to_parquet(path, index=False)
    else:
        table.insert(0, "#IID", _people(n_samples))
        table.to_csv(path, sep="\t", index=False)


def _people(n_samples: int) -> list[str]:
    return [f"i{i}" for i in range(n_samples)]


def associate(
    genotypes: Path, traits: Path, covariates: Path, out: Path, *options: str, threads: int
) -> list[str]:
    """Command of axoloci, into a folder that is emptied first."""
    shutil.rmtree(out, ignore_errors=True)
    return [
        *(sys.executable, "-m", "axoloci.tasks.gwas.cli", "associate"),
        *("--genotypes", str(genotypes), "--traits", str(traits)),
        *("--covariates", str(covariates), "--out", str(out)),
        *("--threads", str(threads), *options),
    ]


@dataclass(frozen=True)
class Measured:
    """What a command took.

    Attributes
    ----------
    seconds, cpu_seconds
        On the wall's clock, and of the processor.
    peak_gb
        Of the resident memory of its largest process.
    """

    seconds: float
    peak_gb: float
    cpu_seconds: float


def measure(command: Sequence[str], threads: int, limit: float = math.inf) -> Measured:
    """Run a command whose libraries know of so many threads.

    Raises
    ------
    TimeoutError
        It was still running after `limit` seconds.
    SystemExit
        It failed.
    """
    of_threads = dict.fromkeys(("OMP_NUM_THREADS", "MRTRIX_NTHREADS"), str(threads))
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with tempfile.TemporaryFile() as said:
        begin = time.perf_counter()
        process = subprocess.Popen(
            command, stdout=said, stderr=said, env={**os.environ, **of_threads}
        )
        ended, peaks = threading.Event(), [0.0]

        def watch() -> None:
            while not ended.wait(0.05):
                peaks.append(_peak(process.pid))
                if time.perf_counter() - begin > limit:
                    process.kill()

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            process.wait()
            seconds = time.perf_counter() - begin
        finally:
            ended.set()
            watcher.join()
            process.kill()  # one that runs on, because this was interrupted
        if process.returncode and seconds > limit:
            raise TimeoutError(f"{' '.join(command)}: stopped after {limit:.0f} s")
        if process.returncode:
            said.seek(0)
            raise SystemExit(f"{' '.join(command)}\n{said.read().decode()}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Measured(seconds, max(peaks) / 1e9, cpu_seconds)


def _peak(pid: int) -> float:
    """Largest resident memory so far of a process or of one that it has started, bytes.

    Not ru_maxrss, in which that of the process that it was forked from lives on.
    """
    folder = Path(f"/proc/{pid}")
    with suppress(OSError):  # it has ended
        own = re.findall(r"VmHWM:\s*(\d+) kB", (folder / "status").read_text())
        started = (folder / "task" / str(pid) / "children").read_text().split()
        return max([*(1024.0 * int(kb) for kb in own), *map(_peak, map(int, started))], default=0.0)
    return 0.0


def median_of(runs: Sequence[Measured]) -> Measured:
    """Medians of the times, and the largest peak."""
    return Measured(
        statistics.median(run.seconds for run in runs),
        max(run.peak_gb for run in runs),
        statistics.median(run.cpu_seconds for run in runs),
    )


@dataclass(frozen=True)
class Line:
    """Time of a command as a line: start-up in seconds, and milliseconds a variant."""

    start: float
    slope: float


def line(few: int, many: int, seconds_few: float, seconds_many: float) -> Line:
    """The line through two runs.

    Raises
    ------
    SystemExit
        More variants took no longer: the machine was busy, or there are too few of them.
    """
    slope = (seconds_many - seconds_few) / (many - few)
    if slope <= 0:
        raise SystemExit(
            f"{many:,} variants took {seconds_many:.2f} s, {few:,} took {seconds_few:.2f} s: run "
            "it on an idle machine, or with more variants"
        )
    return Line(seconds_few - slope * few, 1000 * slope)


def bare_product(n_samples: int, n_traits: int, threads: int) -> float:
    """Milliseconds a variant of genotypes times traits in float32, by numpy's BLAS."""
    rng = np.random.default_rng(0)
    genotypes = rng.integers(0, 3, (1024, n_samples)).astype(np.float32)
    traits = rng.normal(size=(n_samples, n_traits)).astype(np.float32)
    with threadpool_limits(threads):
        seconds = [_seconds(lambda: genotypes @ traits) for _ in range(7)]
    return 1000 * statistics.median(seconds) / len(genotypes)


def _seconds(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin

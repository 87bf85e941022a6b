"""Association of many people on a GPU, beside the least time that its bus and its products take.

The command is run on few variants and on all; the slope between the two is the time per variant,
start-up apart. Floors are measured on the same machine: the packed genotypes of all variants over
the bus, from pinned memory, and genotypes times traits in float32 on the device. The genotypes are
in the page cache. How exact float32 is, is seen beside the same command with float64.

With `--device cpu` the same is run without a GPU; for a trial, `--people 2000 --variants 20000`.
Genotypes and results are in TMPDIR: 13 GB, and up to 17 GB for 2,048 traits.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from axoloci.io.sumstats import read_sumstats
from benchmarks.association import (
    N_COVARIATES,
    N_DRAWN,
    Measured,
    associate,
    draw_genotypes,
    line,
    measure,
    median_of,
    write_genotypes,
    write_normals,
)
from benchmarks.results_file import markdown_table, write_result

REPEATS = 3
AIM = 2.0  # times the larger floor
MAX_DIFFERENCE = 1e-5  # of z
GEMM_VARIANTS = 2048  # of the product that is timed


@dataclass
class Traits:
    """What is known of one number of traits."""

    n_traits: int
    few: list[Measured] = field(default_factory=list)
    many: list[Measured] = field(default_factory=list)
    written_gb: float = 0.0
    difference: float = float("nan")  # largest of z, float32 − float64
    longest: float = 0.0  # seconds of a turn


class Benchmark:
    """All runs on one machine, in one folder."""

    def __init__(self, folder: Path, options: argparse.Namespace) -> None:
        self.folder, self.options = folder, options
        self.few, self.many = options.variants // 20, options.variants
        self.end: float = time.monotonic() + 60 * options.minutes
        self.traits = [Traits(n) for n in options.traits]
        dosage = draw_genotypes(options.people, options.missing)
        for n_variants in (N_DRAWN, self.few, self.many):
            write_genotypes(self._genotypes(n_variants), dosage, n_variants)
        self.read_rate = read_through(self._genotypes(self.many).with_suffix(".bed"))
        write_normals(folder / "c.tsv", options.people, N_COVARIATES)
        for one in self.traits:
            write_normals(self._traits(one), options.people, one.n_traits)
        self.bus_rate = bus_rate(options.device)
        self.product = {
            n: product_seconds(options.device, options.people, n) for n in options.traits
        }
        torch.cuda.empty_cache()  # the command finds the device as if nobody was there

    def run(self) -> None:
        """Take turns as long as there is time; the result is written after each."""
        try:
            for turn in range(REPEATS):
                for one in self.traits:
                    if self.left() < 1.1 * one.longest:
                        continue
                    if turn == 0:
                        self.compare(one)  # the first of them compiles what is cached from then on
                    self.turn(one)
                    self.write()
        except TimeoutError as error:
            print(error, file=sys.stderr)
            self.write()

    def turn(self, one: Traits) -> None:
        """Few and all variants once."""
        begin = time.monotonic()
        few, many = self._run(one, self.few), self._run(one, self.many)
        one.longest = max(one.longest, time.monotonic() - begin)
        one.few.append(few)
        one.many.append(many)
        files = self._out().rglob("*.parquet")
        one.written_gb = sum(file.stat().st_size for file in files) / 1e9

    def compare(self, one: Traits) -> None:
        """Results of the drawn variants beside those of float64."""
        self._run(one, N_DRAWN)
        z = scores(self._out())
        self._run(one, N_DRAWN, "--precision", "float64")
        exact = scores(self._out())
        assert z.shape == exact.shape == (N_DRAWN, one.n_traits)
        assert np.isfinite(exact).all()
        one.difference = float(np.abs(z - exact).max())

    def write(self) -> None:
        """The table as far as it is known."""
        packed_gb = self.many * -(-self.options.people // 4) / 1e9
        bus = packed_gb / self.bus_rate
        rows = []
        for one in self.traits:
            if not one.many:
                continue
            few, many = median_of(one.few), median_of(one.many)
            time_of = line(self.few, self.many, few.seconds, many.seconds)
            pass_seconds = time_of.slope * self.many / 1000
            product = self.product[one.n_traits] * self.many
            floor = max(bus, product)
            rows.append(
                {
                    "traits": f"{one.n_traits:,}",
                    "runs": len(one.many),
                    "seconds": f"{many.seconds:.1f}",
                    "start-up s": f"{time_of.start:.1f}",
                    "all variants s": f"{pass_seconds:.2f}",
                    "bus floor s": f"{bus:.2f}",
                    "product floor s": f"{product:.2f}",
                    "÷ larger floor": f"{pass_seconds / floor:.1f} (aim {AIM:g})",
                    "written GB": f"{one.written_gb:.1f}",
                    "peak GB": f"{many.peak_gb:.1f}",
                    "max abs. Δz": f"{one.difference:.1e} (bar {MAX_DIFFERENCE:.0e})",
                }
            )
        late = ", ".join(f"{one.n_traits:,}" for one in self.traits if not one.many)
        name = "CPU" if self.options.device == "cpu" else torch.cuda.get_device_name()
        write_result(
            "gwas_gpu",
            f"Association of {self.many:,} variants and {self.options.people:,} people: {name}",
            f"torch {torch.__version__}, {self.options.threads} threads, {N_COVARIATES} "
            f"covariates, {self.options.missing:.0%} of the genotypes missing; median of the runs, "
            f"which took turns. The .bed ({packed_gb:.1f} GB) was in the page cache, which one "
            f"thread reads at {self.read_rate:.1f} GB/s; the bus takes {self.bus_rate:.1f} GB/s "
            "from pinned memory. 'All variants' is the slope from "
            f"{self.few:,} variants on, start-up apart, the writing of the store included. Δz is "
            f"that of float32 to float64, of {N_DRAWN:,} variants.\n\n"
            f"{markdown_table(rows)}" + (f"\nNot done in time: {late} traits.\n" if late else ""),
        )

    def left(self) -> float:
        """Seconds until the end."""
        return self.end - time.monotonic()

    def _run(self, one: Traits, n_variants: int, *more: str) -> Measured:
        threads = self.options.threads
        command = associate(
            *(self._genotypes(n_variants), self._traits(one), self.folder / "c.tsv", self._out()),
            *("--device", self.options.device, *more),
            threads=threads,
        )
        return measure(command, threads, self.left())

    def _genotypes(self, n_variants: int) -> Path:
        return self.folder / f"g{n_variants}"

    def _traits(self, one: Traits) -> Path:
        return self.folder / f"t{one.n_traits}.parquet"

    def _out(self) -> Path:
        return self.folder / "sumstats"


def scores(store: Path) -> NDArray[np.float64]:
    """The z of all results, (n_variants, n_traits)."""
    blocks = read_sumstats(store).blocks()
    return np.concatenate([block.beta.astype(np.float64) / block.se for block in blocks])


def read_through(path: Path) -> float:
    """GB/s of one thread that reads a file the second time, when it is in the page cache."""
    for _ in range(2):
        begin = time.perf_counter()
        with open(path, "rb", buffering=0) as file:
            buffer = bytearray(2**24)
            while file.readinto(buffer):
                pass
    return path.stat().st_size / 1e9 / (time.perf_counter() - begin)


def bus_rate(device: str) -> float:
    """GB/s from pinned memory to the device; within memory where that is the CPU."""
    host = torch.ones(2**28, dtype=torch.uint8, pin_memory=device != "cpu")
    there = torch.empty_like(host, device=device)
    return len(host) / 1e9 / median_seconds(device, lambda: there.copy_(host, non_blocking=True))


def product_seconds(device: str, people: int, n_traits: int) -> float:
    """Seconds a variant of genotypes times traits in float32."""
    dosage = torch.randint(0, 3, (GEMM_VARIANTS, people), device=device).float()
    traits = torch.randn(people, n_traits, device=device)
    return median_seconds(device, lambda: dosage @ traits) / GEMM_VARIANTS


def median_seconds(device: str, work: Callable[[], object]) -> float:
    """Median time of work on a device."""
    seconds = []
    for _ in range(11):
        begin = time.perf_counter()
        work()
        if device != "cpu":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - begin)
    return statistics.median(seconds[1:])


def main(arguments: Sequence[str] = ()) -> None:
    """Run all and write the table."""
    parser = argparse.ArgumentParser(description="Association of many people on a GPU.")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--people", type=int, default=50_000)
    parser.add_argument("--variants", type=int, default=1_000_000)
    parser.add_argument("--traits", type=int, nargs="+", default=[128, 512, 2048])
    parser.add_argument("--missing", type=float, default=0.0, help="Share of the genotypes.")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--minutes", type=float, default=8.5, help="No run goes on after these.")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as name:
        Benchmark(Path(name), options).run()


if __name__ == "__main__":
    main(sys.argv[1:])

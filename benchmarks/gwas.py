"""Association beside plink2 and tensorQTL: the same data, the same threads, taking turns.

axoloci and plink2 are run as commands on few and on many variants; the slope between the two is the
time per variant, start-up apart. axoloci writes its store, plink2 its text. The time of the bare
matrix product (genotypes in float32 times traits) says how much of axoloci's is anything else.

plink2 is run as it comes, and with one BLAS thread for each of its own threads, which some builds
are much faster with; it is compared by the faster of the two. Another build is compared by being
the first `plink2` of PATH.

tensorQTL gets its genotypes as a table in memory and leaves its results there. The environment
variable TENSORQTL_PYTHON names a Python that has it; without it one is set up by pip, and deleted.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import venv
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np

from benchmarks.association import (
    N_COVARIATES,
    Line,
    Measured,
    associate,
    bare_product,
    draw_genotypes,
    line,
    measure,
    median_of,
    write_genotypes,
    write_normals,
)
from benchmarks.results_file import markdown_table, write_result

N_TRAITS = 128
THREADS = 2
TENSORQTL = "1.0.10"
AXOLOCI, PLINK2, PLINK2_ONE_BLAS, BESIDE = "axoloci", "plink2", "plink2, BLAS 1", "tensorQTL"
MAX_GB = 1.5
PEERS = ["plink2", "tensorqtl"]

Counts = tuple[int, int]  # few and many variants
Command = Callable[[Path, int], list[str]]


@dataclass(frozen=True)
class Goal:
    """A figure that is asked for, and the better one that is aimed at."""

    bar: float
    aim: float

    def beside(self, figure: float) -> str:
        """A figure with what it is held against."""
        return f"{figure:.1f} (bar {self.bar:g}, aim {self.aim:g})"


@dataclass(frozen=True)
class Size:
    """People, share of missing genotypes, variants for each program, and what is asked for."""

    people: int
    missing: float
    axoloci: Counts
    plink2: Counts
    ratio: Goal  # plink2 ÷ axoloci
    product: Goal | None = None  # axoloci ÷ bare product


SIZES = (
    Size(20_000, 0.00, (20_000, 120_000), (250, 1_500), Goal(30, 50), Goal(2.2, 1.6)),
    Size(20_000, 0.01, (10_000, 60_000), (50, 300), Goal(90, 150), Goal(5, 3)),
    Size(5_000, 0.00, (50_000, 400_000), (1_000, 10_000), Goal(12, 20)),
    Size(5_000, 0.01, (40_000, 240_000), (200, 1_200), Goal(45, 80)),
)
BESIDE_PEOPLE = 5_000
BESIDE_COUNTS = {AXOLOCI: (50_000, 400_000), BESIDE: (5_000, 50_000)}


def plink2(folder: Path, n_variants: int) -> list[str]:
    return [
        *("plink2", "--bfile", str(folder / f"g{n_variants}"), "--glm", "hide-covar"),
        *("--pheno", str(folder / "t.tsv"), "--covar", str(folder / "c.tsv")),
        *("--covar-variance-standardize", "--threads", str(THREADS)),
        *("--out", str(folder / "plink2")),
    ]


def plink2_one_blas(folder: Path, n_variants: int) -> list[str]:
    return ["env", "OPENBLAS_NUM_THREADS=1", *plink2(folder, n_variants)]


def axoloci(threads: int) -> Command:
    def command(folder: Path, n_variants: int) -> list[str]:
        tables = folder / "t.tsv", folder / "c.tsv", folder / "sumstats"
        return associate(folder / f"g{n_variants}", *tables, "--device", "cpu", threads=threads)

    return command


def tensorqtl(python: Path) -> Command:
    program = Path(__file__).with_name("tensorqtl_trans.py")

    def command(folder: Path, n_variants: int) -> list[str]:
        files = (folder / name for name in ("g.npy", "t.tsv", "c.tsv"))
        return [str(python), str(program), *map(str, files), str(n_variants)]

    return command


@contextmanager
def study(people: int, missing: float, counts: Sequence[int]) -> Iterator[Path]:
    """A folder with the genotypes of each number of variants, traits and covariates."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        dosage = draw_genotypes(people, missing)
        np.save(folder / "g.npy", dosage)
        for n_variants in set(counts):
            write_genotypes(folder / f"g{n_variants}", dosage, n_variants)
        write_normals(folder / "t.tsv", people, N_TRAITS)
        write_normals(folder / "c.tsv", people, N_COVARIATES)
        yield folder


@dataclass(frozen=True)
class Program:
    """What a program took: its time as a line, and the peak of its memory."""

    line: Line
    peak_gb: float


def take_turns(
    folder: Path,
    people: int,
    commands: Mapping[str, Command],
    counts: Mapping[str, Counts],
    threads: int,
    repeats: int,
) -> tuple[dict[str, Program], float]:
    """Each program by name, and the bare product in milliseconds a variant."""
    measure(commands[AXOLOCI](folder, counts[AXOLOCI][0]), threads)  # compiles once, then cached
    runs: dict[tuple[str, int], list[Measured]] = {}
    products = []
    for _ in range(repeats):
        for name, command in commands.items():
            for n_variants in counts[name]:
                run = measure(command(folder, n_variants), threads)
                runs.setdefault((name, n_variants), []).append(run)
        products.append(bare_product(people, N_TRAITS, threads))
    programs = {}
    for name in commands:
        few, many = (median_of(runs[name, n_variants]) for n_variants in counts[name])
        time = line(*counts[name], few.seconds, many.seconds)
        programs[name] = Program(time, many.peak_gb)
    return programs, statistics.median(products)


def beside_plink2(size: Size, repeats: int) -> list[dict[str, str]]:
    """One row a program."""
    commands = {AXOLOCI: axoloci(THREADS), PLINK2: plink2, PLINK2_ONE_BLAS: plink2_one_blas}
    counts = {AXOLOCI: size.axoloci, PLINK2: size.plink2, PLINK2_ONE_BLAS: size.plink2}
    with study(size.people, size.missing, [*size.axoloci, *size.plink2]) as folder:
        programs, product = take_turns(folder, size.people, commands, counts, THREADS, repeats)
    best = min(programs[name].line.slope for name in (PLINK2, PLINK2_ONE_BLAS))
    rows = []
    for name, program in programs.items():
        slope, ours = program.line.slope, name == AXOLOCI
        ratio, share = best / slope, slope / product
        peak = f"{program.peak_gb:.2f}"
        rows.append(
            {
                "people": f"{size.people:,}",
                "missing": f"{size.missing:.0%}",
                "program": name,
                "ms per variant": f"{slope:.4f}",
                "start-up s": f"{program.line.start:.1f}",
                "peak GB": f"{peak} (bar {MAX_GB})" if ours else peak,
                "plink2 ÷ it": size.ratio.beside(ratio) if ours else f"{ratio:.1f}",
                "it ÷ bare product": (
                    size.product.beside(share) if ours and size.product else f"{share:.1f}"
                ),
            }
        )
    return rows


def beside_tensorqtl(people: int, repeats: int, python: Path) -> list[dict[str, str]]:
    """One row a program, on one thread."""
    commands = {AXOLOCI: axoloci(1), BESIDE: tensorqtl(python)}
    with study(people, 0.0, BESIDE_COUNTS[AXOLOCI]) as folder:
        programs, _ = take_turns(folder, people, commands, BESIDE_COUNTS, 1, repeats)
    best = programs[BESIDE].line.slope
    return [
        {
            "people": f"{people:,}",
            "program": name,
            "ms per variant": f"{program.line.slope:.4f}",
            "start-up s": f"{program.line.start:.1f}",
            "peak GB": f"{program.peak_gb:.2f}",
            "tensorQTL ÷ it": f"{best / program.line.slope:.1f}",
        }
        for name, program in programs.items()
    ]


@contextmanager
def tensorqtl_python() -> Iterator[Path]:
    """A Python that has tensorQTL: that of TENSORQTL_PYTHON, or one that pip sets up."""
    if "TENSORQTL_PYTHON" in os.environ:
        yield Path(os.environ["TENSORQTL_PYTHON"])
        return
    with tempfile.TemporaryDirectory() as name:
        venv.create(name, with_pip=True)
        python = Path(name) / "bin" / "python"
        torch = version("torch").split("+")[0]  # a build for the CPU only if pip finds one
        wanted = [f"tensorqtl=={TENSORQTL}", "pandas-plink", f"torch=={torch}"]
        subprocess.run([python, "-m", "pip", "install", "--quiet", *wanted], check=True)
        yield python


def main(arguments: Sequence[str] = ()) -> None:
    """Compare at each size and write the tables."""
    parser = argparse.ArgumentParser(description="Association beside plink2 and tensorQTL.")
    parser.add_argument("--repeats", type=int, default=5, help="Runs of each program and size.")
    parser.add_argument("--people", type=int, nargs="+", help="Only sizes of so many people.")
    parser.add_argument("--beside", choices=PEERS, nargs="+", default=PEERS, help="Only these.")
    options = parser.parse_args(arguments)
    first = (
        f"Median of {options.repeats} runs, taking turns. Time per variant is the slope between "
        "two numbers of variants; start-up is apart.\n\n"
    )
    title = f"{N_TRAITS} traits, {N_COVARIATES} covariates"
    if "plink2" in options.beside:
        build = subprocess.run(["plink2", "--version"], capture_output=True, text=True, check=True)
        sizes = [size for size in SIZES if options.people is None or size.people in options.people]
        rows = [row for size in sizes for row in beside_plink2(size, options.repeats)]
        write_result(
            "gwas",
            f"Association beside plink2: {title}",
            f"{first}{THREADS} threads; {build.stdout.strip()}, as it comes and with one BLAS "
            "thread for each of its threads; ratios are to the faster of the two. axoloci writes "
            f"Parquet, plink2 text.\n\n{markdown_table(rows)}",
        )
    if "tensorqtl" in options.beside:
        with tensorqtl_python() as python:
            rows = beside_tensorqtl(BESIDE_PEOPLE, options.repeats, python)
        write_result(
            "gwas_tensorqtl",
            f"Association beside tensorQTL: {title}",
            f"{first}One thread, no missing genotypes; tensorQTL {TENSORQTL} (map_trans, all "
            "results, small batches, which are faster) has its genotypes in memory as a table and "
            "leaves its results there, axoloci reads a .bed and writes Parquet. tensorQTL puts the "
            "mean where a genotype is missing, in place of leaving the person out, and calculates "
            "all p-values; axoloci those of the strongest trait of each variant, for the others "
            f"follow from effect and standard error.\n\n{markdown_table(rows)}",
        )


if __name__ == "__main__":
    main(sys.argv[1:])

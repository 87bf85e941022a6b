"""Heritability and genetic correlation by the commands, on cohorts with planted ones.

Each cohort has new genotypes, effects and noise: unlinked variants, all of them causal, four
traits. The first two have heritability 0.4 and genetic correlation 0.6; the third 0.4, and a
genetic correlation of 0 with both; the fourth none. Two covariates explain a tenth of each trait.

A bias is small if the mean of all cohorts is within three of its own standard errors of the truth.
An interval is the estimate ± 1.96 standard errors of the jackknife.

What it costs: the association of 128 traits with 15 covariates on two threads, with and without
random probes, and with permuted genotypes besides; the slope between few and many variants, so that
start-up is apart. Medians of runs that take turns. What permuted variants add does not grow with
the genome: as many of them are taken of any. Bytes are those of the genotypes that the association
reads.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from click import Command
from numpy.typing import NDArray

from axoloci.tasks.genetics.cli import main as genetics
from axoloci.tasks.gwas.cli import main as gwas
from benchmarks.association import (
    N_COVARIATES,
    Line,
    associate,
    draw_genotypes,
    line,
    measure,
    median_of,
    write_genotypes,
    write_normals,
)
from benchmarks.results_file import markdown_table, write_result

N_COHORTS, N_SAMPLES, N_VARIANTS = 100, 2000, 4000
THREADS, N_TRAITS, N_RUNS = 2, 128, 7
SIZES = ((5000, 100_000, 600_000), (20_000, 30_000, 180_000))  # people, few and many variants
NOTHING = "nothing"
KEPT: dict[str, tuple[str, ...]] = {
    NOTHING: ("--n-probes", "0", "--n-permuted", "0"),
    "8 probes": ("--n-permuted", "0"),
    "8 probes, 20,000 permuted variants": (),
}
TRAITS = ("a", "b", "c", "none")
H2 = np.array([0.4, 0.4, 0.4, 0.0])
RG = np.array([[1.0, 0.6, 0.0, 0.0], [0.6, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0], [0.0] * 3 + [1.0]])
RE = np.array([[1.0, 0.2, 0.2, 0.2], [0.2, 1.0, 0.2, 0.2], [0.2, 0.2, 1.0, 0.2], [0.2] * 3 + [1.0]])


def simulate(folder: Path, seed: int) -> tuple[object, ...]:
    """Files of a cohort; what the association needs as options."""
    rng = np.random.default_rng(seed)
    frequency = rng.uniform(0.05, 0.5, (N_VARIANTS, 1))
    dosage = rng.binomial(2, frequency, (N_VARIANTS, N_SAMPLES)).astype(np.int8)
    write_genotypes(folder / "g", dosage, N_VARIANTS)
    g = (dosage - 2 * frequency) / np.sqrt(2 * frequency * (1 - frequency))  # (M, N)
    effects = _normals(rng, N_VARIANTS, RG) * np.sqrt(H2 / N_VARIANTS)  # (M, K)
    y = g.T @ effects + _normals(rng, N_SAMPLES, RE) * np.sqrt(1 - H2)  # (N, K)
    covariates = rng.normal(size=(N_SAMPLES, 2))
    y += covariates @ np.full((2, len(TRAITS)), np.sqrt(1 / 18))
    people = (folder / "g.fam").read_text().split("\n")[:-1]
    ids = [line.split()[1] for line in people]
    for name, columns, values in (
        ("traits", TRAITS, y),
        ("covariates", ("age", "size"), covariates),
    ):
        table = pd.DataFrame(values, columns=list(columns))
        table.insert(0, "IID", ids)
        table.to_csv(folder / f"{name}.tsv", sep="\t", index=False)
    return (
        *("--genotypes", folder / "g", "--traits", folder / "traits.tsv"),
        *("--covariates", folder / "covariates.tsv"),
    )


def _normals(
    rng: np.random.Generator, n: int, correlation: NDArray[np.float64]
) -> NDArray[np.float64]:
    return np.asarray(rng.normal(size=(n, len(correlation))) @ np.linalg.cholesky(correlation).T)


def run(command: Command, *words: object) -> None:
    """A command in this process."""
    command.main([str(word) for word in words], standalone_mode=False)


def estimate(seed: int) -> dict[str, tuple[float, float]]:
    """Estimates and standard errors of one cohort, by name."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run(gwas, "associate", *simulate(folder, seed), "--out", folder / "s")
        run(genetics, "heritability", "--sumstats", folder / "s", "--out", folder)
        h2 = pd.read_csv(folder / "heritability.tsv", sep="\t", na_values="n/a")
        rg = pd.read_csv(folder / "genetic_correlation.tsv", sep="\t", na_values="n/a")
    found = {f"h2 of {row.trait}": (row.h2, row.h2_se) for row in h2.itertuples()}
    for row in rg.itertuples():
        if "none" not in (row.trait_1, row.trait_2):
            found[f"rg of {row.trait_1} and {row.trait_2}"] = (row.rg, row.rg_se)
    return found


@dataclass(frozen=True)
class Cost:
    """What an association took.

    Attributes
    ----------
    line
        Time by variants.
    seconds
        Of the many variants.
    bytes_read
        Of their genotypes.
    """

    line: Line
    seconds: float
    bytes_read: int


def cost(n_samples: int, few: int, many: int) -> tuple[dict[str, Cost], int]:
    """Costs of associations by what they keep besides, and the size of the genotypes."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        dosage = draw_genotypes(n_samples)
        for n_variants in (few, many):
            write_genotypes(folder / str(n_variants), dosage, n_variants)
        write_normals(folder / "y.parquet", n_samples, N_TRAITS)
        write_normals(folder / "c.tsv", n_samples, N_COVARIATES)

        def command(n_variants: int, options: tuple[str, ...]) -> list[str]:
            files = (folder / str(n_variants), folder / "y.parquet", folder / "c.tsv")
            return associate(*files, folder / "out", *options, threads=THREADS)

        runs = [
            {
                (kept, n): measure(command(n, options), THREADS)
                for kept, options in KEPT.items()
                for n in (few, many)
            }
            for _ in range(N_RUNS)
        ]
        seconds = {key: median_of([run[key] for run in runs]).seconds for key in runs[0]}
        found = {
            kept: Cost(
                line(few, many, seconds[kept, few], seconds[kept, many]),
                seconds[kept, many],
                bytes_read(command(many, options)),
            )
            for kept, options in KEPT.items()
        }
        return found, (folder / f"{many}.bed").stat().st_size


def bytes_read(command: list[str]) -> int:
    """Bytes of the `.bed` that the association by `python -m` of a module reads."""
    program = (
        "import runpy, sys\n"
        "from axoloci.io.genotypes import PackedCalls\n"
        "read, sizes = PackedCalls.read, []\n"
        "def counted(calls):\n"
        "    packed = read(calls)\n"
        "    sizes.append(packed.nbytes)\n"
        "    return packed\n"
        "PackedCalls.read = counted\n"
        "module = sys.argv.pop(1)\n"
        "try: runpy.run_module(module, run_name='__main__', alter_sys=True)\n"
        "finally: print(sum(sizes))"
    )
    _, _, module, *words = command
    done = subprocess.run(
        [sys.executable, "-c", program, module, *words],
        check=True,
        capture_output=True,
        text=True,
    )
    return int(done.stdout.split()[-1])


def cost_rows() -> list[dict[str, object]]:
    """A row for each size and for what the association keeps besides."""
    rows: list[dict[str, object]] = []
    for size in SIZES:
        costs, bed = cost(*size)
        plain = costs[NOTHING]
        for kept, found in costs.items():
            rows.append(
                {
                    "people": f"{size[0]:,}",
                    "kept besides": kept,
                    "ms a variant": f"{found.line.slope:.4f}",
                    "time added": f"{found.line.slope / plain.line.slope - 1:+.0%}",
                    "s in all": f"{found.seconds:.1f} for {size[2]:,} variants",
                    "bytes read, of the .bed's": f"{found.bytes_read / bed:.2f}",
                }
            )
    return rows


def main() -> None:
    """Simulate, estimate, compare, write."""
    cohorts = [estimate(seed) for seed in range(N_COHORTS)]
    truth = {f"h2 of {name}": h2 for name, h2 in zip(TRAITS, H2, strict=True)}
    truth |= {"rg of a and b": 0.6, "rg of a and c": 0.0, "rg of b and c": 0.0}
    rows, failures = [], []
    for name, planted in truth.items():
        values, ses = np.array([cohort[name] for cohort in cohorts]).T
        sd = values.std(ddof=1)
        bias = (values.mean() - planted) / (sd / np.sqrt(len(values)))
        covered = float((np.abs(values - planted) < 1.96 * ses).mean())
        width = ses.mean() / sd
        rows.append(
            {
                "": name,
                "planted": f"{planted:g}",
                "mean": f"{values.mean():.4f}",
                "SD": f"{sd:.4f}",
                "bias, standard errors of the mean": f"{bias:+.2f}",
                "mean SE of the jackknife": f"{ses.mean():.4f}",
                "its share of SD": f"{width:.2f}",
                "intervals that cover": f"{covered:.0%}",
            }
        )
        if not (abs(bias) < 3 and covered >= 0.9 and width <= 2):
            failures.append(name)
    body = (
        f"{__doc__.split(chr(10), 2)[2].strip()}\n\n{len(cohorts)} cohorts of {N_SAMPLES:,} people "
        f"and {N_VARIANTS:,} variants. Bars: bias under 3, at least 90% of the intervals cover, "
        f"mean SE at most twice the SD.\n\n{markdown_table(rows)}\n"
        + (f"Missed: {', '.join(failures)}.\n" if failures else "All bars are met.\n")
        + f"\nWhat it costs (bar: 15% for the probes):\n\n{markdown_table(cost_rows())}"
    )
    write_result("heritability", "Heritability and genetic correlation of planted ones", body)
    if failures:
        sys.exit(f"missed: {', '.join(failures)}")


if __name__ == "__main__":
    main()

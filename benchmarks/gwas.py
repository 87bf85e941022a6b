"""Association beside plink2: the same files, the same threads, taking turns.

Both are run as commands on few and on many variants; the slope between the two is the time per
variant, start-up apart. axoloci writes its store, plink2 its text. The time of the bare matrix
product (genotypes in float32 times traits) says how much of axoloci's is anything else.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

from benchmarks.results_file import markdown_table, write_result

SIZES = ((5000, 0.0), (5000, 0.01))  # people, share of missing genotypes
REPEATS = 3
UNIQUE = 2000  # variants drawn; longer files repeat them, which no program can tell
COUNTS = {"axoloci": (10_000, 50_000), "plink2": (500, 2500)}


def make_study(
    folder: Path, n_samples: int, n_traits: int, n_covariates: int, missing: float
) -> None:
    """Genotype sets of all sizes, traits and covariates."""
    rng = np.random.default_rng(0)
    frequency = rng.uniform(0.05, 0.5, UNIQUE)
    packed = []
    for p in frequency:
        dosage = rng.binomial(2, p, n_samples)
        code = np.array([3, 2, 0], dtype=np.uint8)[dosage]
        code[rng.random(n_samples) < missing] = 1
        quads = np.pad(code, (0, -n_samples % 4)).reshape(-1, 4)
        packed.append((quads << np.array([0, 2, 4, 6], dtype=np.uint8)).sum(1).astype(np.uint8))
    body = np.stack(packed).tobytes()
    people = [f"i{i}" for i in range(n_samples)]
    for n_variants in sorted({n for counts in COUNTS.values() for n in counts}):
        prefix = folder / f"g{n_variants}"
        whole = body * -(-n_variants // UNIQUE)
        prefix.with_suffix(".bed").write_bytes(
            b"\x6c\x1b\x01" + whole[: n_variants * (len(body) // UNIQUE)]
        )
        prefix.with_suffix(".bim").write_text(
            "".join(f"1\trs{i}\t0\t{i + 1}\tA\tC\n" for i in range(n_variants))
        )
        prefix.with_suffix(".fam").write_text("".join(f"0\t{p}\t0\t0\t0\t-9\n" for p in people))
    for name, n_columns in (("t", n_traits), ("c", n_covariates)):
        table = pd.DataFrame(rng.normal(size=(n_samples, n_columns))).add_prefix(name)
        table.insert(0, "#IID", people)
        table.to_csv(folder / f"{name}.tsv", sep="\t", index=False)


def axoloci(folder: Path, n_variants: int, threads: int) -> list[str]:
    out = folder / "sumstats"
    shutil.rmtree(out, ignore_errors=True)
    command = [sys.executable, "-m", "axoloci.tasks.gwas.cli", "associate", "--device", "cpu"]
    command += ["--genotypes", str(folder / f"g{n_variants}"), "--traits", str(folder / "t.tsv")]
    command += ["--covariates", str(folder / "c.tsv"), "--threads", str(threads)]
    return [*command, "--out", str(out)]


def plink2(folder: Path, n_variants: int, threads: int) -> list[str]:
    command = ["plink2", "--bfile", str(folder / f"g{n_variants}"), "--glm", "hide-covar"]
    command += ["--pheno", str(folder / "t.tsv"), "--covar", str(folder / "c.tsv")]
    command += ["--covar-variance-standardize", "--threads", str(threads)]
    return [*command, "--out", str(folder / "plink2")]


def measure(command: list[str]) -> tuple[float, float]:
    """Seconds, and peak memory in GB."""
    begin = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert process.stderr is not None
    message = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)}\n{message.decode()}")
    return time.perf_counter() - begin, usage.ru_maxrss / 1e6


def bare_product(n_samples: int, n_traits: int, threads: int) -> float:
    """Milliseconds per variant of genotypes times traits in float32."""
    rng = np.random.default_rng(0)
    genotypes = rng.integers(0, 3, (1024, n_samples)).astype(np.float32)
    traits = rng.normal(size=(n_samples, n_traits)).astype(np.float32)
    seconds = []
    with threadpool_limits(threads):
        for _ in range(7):
            begin = time.perf_counter()
            _ = genotypes @ traits
            seconds.append(time.perf_counter() - begin)
    return statistics.median(seconds) / len(genotypes) * 1000


def compare(
    samples: int, missing: float, traits: int = 128, covariates: int = 15, threads: int = 2
) -> list[dict[str, object]]:
    """Both tools on the same files, in turns: one row a tool."""
    tools: dict[str, Callable[[Path, int, int], list[str]]] = {"axoloci": axoloci, "plink2": plink2}
    runs: dict[tuple[str, int], list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_study(folder, samples, traits, covariates, missing)
        measure(axoloci(folder, COUNTS["axoloci"][0], threads))  # compiles once, then cached
        products = []
        for _ in range(REPEATS):
            for tool, command in tools.items():
                for n in COUNTS[tool]:
                    runs.setdefault((tool, n), []).append(measure(command(folder, n, threads)))
            products.append(bare_product(samples, traits, threads))
    product = statistics.median(products)
    slope, start = {}, {}
    for tool in tools:
        few, many = COUNTS[tool]
        t_few, t_many = (statistics.median(t for t, _ in runs[tool, n]) for n in (few, many))
        slope[tool] = (t_many - t_few) / (many - few) * 1000
        start[tool] = t_few - slope[tool] * few / 1000
    return [
        {
            "people": samples,
            "missing": f"{missing:.0%}",
            "program": tool,
            "ms per variant": f"{slope[tool]:.4f}",
            "start-up s": f"{start[tool]:.1f}",
            "peak GB": f"{max(gb for _, gb in runs[tool, COUNTS[tool][1]]):.2f}",
            "plink2 ÷ it": f"{slope['plink2'] / slope[tool]:.1f}",
            "it ÷ bare product": f"{slope[tool] / product:.1f}",
        }
        for tool in tools
    ]


def main() -> None:
    """Compare at each size and write the table."""
    build = subprocess.run(["plink2", "--version"], capture_output=True, text=True).stdout.strip()
    rows = [row for samples, missing in SIZES for row in compare(samples, missing)]
    write_result(
        "gwas",
        "Association beside plink2: 128 traits, 15 covariates, 2 threads",
        f"{build}; median of {REPEATS} runs, taking turns.\n\n{markdown_table(rows)}",
    )


if __name__ == "__main__":
    main()

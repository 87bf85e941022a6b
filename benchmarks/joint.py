"""Tests of all traits at once, by the commands: their error without an effect, and their power.

Null: unlinked variants and 64 correlated traits of people, new ones for each seed; a quarter of the
traits have heavy tails (Student's t with 5 degrees of freedom). An error is right if it is within
the 99.9% interval of a binomial count. The F test is of traits and of an invertible mixture of
them, in float64.

Power: of variants that explain 1.2% of one trait (sparse), as much in all of eight traits
(pleiotropic), or 4% of a combination of all traits (dense), tested at p < 5e-8; "best trait" is the
smallest p of all traits times their number.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from numpy.typing import NDArray
from scipy import stats

from axoloci.io.sumstats import read_sumstats
from axoloci.tasks.genetics.cli import main as genetics
from axoloci.tasks.gwas.cli import main as gwas
from benchmarks.association import write_genotypes
from benchmarks.heritability import run
from benchmarks.results_file import markdown_table, write_result

N_SEEDS, N_VARIANTS, N_SAMPLES, N_TRAITS = 6, 10_000, 2000, 64
N_LOCI = 100  # of each kind
LEVELS = (0.05, 0.01, 0.001)
TESTS = {"F": "neg_log10_p", "MOSTest": "neg_log10_p_mostest", "minP": "neg_log10_p_minp"}
EXPLAINED = {"sparse": 0.012, "pleiotropic": 0.012, "dense": 0.04}  # share of a variance
SIGNIFICANT = -np.log10(5e-8)


def draw(rng: np.random.Generator) -> tuple[NDArray[np.int8], NDArray[np.float64]]:
    """Genotypes (n_variants, n_samples) and correlated traits (n_samples, n_traits)."""
    frequency = rng.uniform(0.05, 0.5, (N_VARIANTS, 1))
    dosage = rng.binomial(2, frequency, (N_VARIANTS, N_SAMPLES)).astype(np.int8)
    sources = rng.normal(size=(N_SAMPLES, N_TRAITS))
    heavy = N_TRAITS // 4
    sources[:, :heavy] = rng.standard_t(5, (N_SAMPLES, heavy)) / np.sqrt(5 / 3)
    shared = sources @ (rng.normal(size=(N_TRAITS, N_TRAITS)) / np.sqrt(N_TRAITS))
    return dosage, (sources + shared) / np.sqrt(2)


def plant(
    rng: np.random.Generator, dosage: NDArray[np.int8], traits: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Traits to which the first variants add, `N_LOCI` of each kind."""
    planted = traits.copy()
    root = np.linalg.cholesky(np.corrcoef(traits.T))
    for k, (kind, explained) in enumerate(EXPLAINED.items()):
        for locus in range(N_LOCI):
            g = dosage[k * N_LOCI + locus].astype(np.float64)
            g = (g - g.mean()) / g.std()
            effect = np.zeros(N_TRAITS)
            if kind == "sparse":
                effect[rng.integers(N_TRAITS)] = 1
            elif kind == "pleiotropic":
                some = rng.choice(N_TRAITS, 8, replace=False)
                effect[some] = rng.normal(size=8)
                effect /= np.linalg.norm(effect)
            else:
                effect = root @ rng.normal(size=N_TRAITS)
                effect /= np.linalg.norm(effect)
            planted += np.outer(g, effect * np.sqrt(explained))
    return planted


def tested(folder: Path, traits: NDArray[np.float64], name: str, precision: str) -> pd.DataFrame:
    """The joint tests of traits; with `best`, −log10 of Bonferroni's p of the best trait."""
    ids = [line.split()[1] for line in (folder / "g.fam").read_text().split("\n")[:-1]]
    table = pd.DataFrame(traits).add_prefix("y")
    table.insert(0, "sample_id", ids)
    table.to_parquet(folder / f"{name}.parquet", index=False)
    store, out = folder / name, folder / f"{name}_joint.parquet"
    run(
        *(gwas, "associate", "--genotypes", folder / "g", "--traits", folder / f"{name}.parquet"),
        *("--precision", precision, "--out", store),
    )
    run(
        *(genetics, "joint", "--sumstats", store, "--out", out),
        *("--also", "mostest", "--also", "minp"),
    )
    found = pq.read_table(out).to_pandas()
    best = [pq.read_table(store / part["name"]) for part in read_sumstats(store).info["parts"]]
    strongest = np.concatenate([part["neg_log10_p_max"].to_numpy() for part in best])
    return found.assign(best=strongest - np.log10(N_TRAITS))


def main() -> None:
    """Simulate, test, count, write."""
    null, planted, remix = [], [], 0.0
    for seed in range(N_SEEDS):
        rng = np.random.default_rng(seed)
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            dosage, traits = draw(rng)
            write_genotypes(folder / "g", dosage, len(dosage))
            null.append(tested(folder, traits, "null", "float32"))
            planted.append(tested(folder, plant(rng, dosage, traits), "planted", "float32"))
            if seed == 0:
                mixture = rng.normal(size=(N_TRAITS, N_TRAITS))
                ours = tested(folder, traits, "exact", "float64")["neg_log10_p"]
                mixed = tested(folder, traits @ mixture, "mixed", "float64")["neg_log10_p"]
                remix = float(np.abs(ours - mixed).max())
    errors, missed = [], []
    pooled = pd.concat(null)
    for test, column in TESTS.items():
        row: dict[str, object] = {"test": test}
        for level in LEVELS:
            count = int((pooled[column] > -np.log10(level)).sum())
            low, high = stats.binom.interval(0.999, len(pooled), level)
            row[f"at {level:g} ({low / len(pooled):.5f} to {high / len(pooled):.5f})"] = (
                f"{count / len(pooled):.5f}"
            )
            if not low <= count <= high:
                missed.append(f"{test} at {level:g}")
        errors.append(row)
    if remix >= 1e-6:
        missed.append("remix")
    power = []
    for k, kind in enumerate(EXPLAINED):
        of_kind = pd.concat([found.iloc[k * N_LOCI : (k + 1) * N_LOCI] for found in planted])
        power.append(
            {"loci": kind}
            | {
                test: f"{(of_kind[column] > SIGNIFICANT).mean():.1%}"
                for test, column in {**TESTS, "best trait": "best"}.items()
            }
        )
    body = (
        f"{(__doc__ or '').split(chr(10), 2)[2].strip()}\n\n{N_SEEDS} seeds of {N_VARIANTS:,} "
        f"variants, {N_SAMPLES:,} people, {N_TRAITS} traits.\n\nShare of {len(pooled):,} null "
        "variants with p below a level (in brackets its 99.9% interval):\n\n"
        f"{markdown_table(errors)}\n"
        f"The F test of a mixture of the traits: −log10 p differs by at most {remix:.1e} (bar "
        f"1e-6).\n\nShare of {N_SEEDS * N_LOCI} planted loci of each kind that are found:\n\n"
        f"{markdown_table(power)}\n"
        + (f"Missed: {', '.join(missed)}.\n" if missed else "All bars are met.\n")
    )
    write_result("joint", "Joint tests: error and power", body)
    if missed:
        sys.exit(f"missed: {', '.join(missed)}")


if __name__ == "__main__":
    main()

"""The mixed model in families: its type-1 error, and its power beside plain regression.

Parents and two or three sibs are made by dropping the alleles of founders through meioses, with
crossovers. Traits have causal variants on the first half of the autosomes; the variants of the
other half and of X, in linkage equilibrium, are tests of nothing. Rates are given with the interval
that holds 99.9% of the rates of as many independent tests at the nominal level.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from axoloci.io.sumstats import Sumstats, read_sumstats
from benchmarks.results_file import markdown_table, write_result

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from plink_files import write_plink

N_COHORTS = 3
N_FAMILIES = 500
N_AUTOSOMES, N_VARIANTS = 20, 250  # variants of each chromosome; X has twice as many
N_CAUSAL = N_AUTOSOMES // 2  # chromosomes
MORGANS = 1.5
N_TRAITS = 30  # of each kind, in each cohort
KINDS = {  # heritability, and the share of people who lack the trait
    "h² 0": (0.0, 0.0),
    "h² 0.25": (0.25, 0.0),
    "h² 0.5": (0.5, 0.0),
    "h² 0.8": (0.8, 0.0),
    "h² 0.5, 40% lack it": (0.5, 0.4),
}
PLANTED = 0.01  # of the trait's variance, by one variant of each causal chromosome
LEVELS = (0.05, 1e-3, 1e-4)
GENOME_WIDE = 5e-8
MIXED, PLAIN, UNRELATED = "mixed model", "plain, all people", "plain, parents only"


def meioses(
    parents: NDArray[np.int8], crossover: NDArray[np.float64], rng: np.random.Generator
) -> NDArray[np.int8]:
    """One haplotype of each parent, (n_variants, n); parents are (n_variants, n, 2)."""
    switches = rng.random(parents.shape[:2]) < crossover[:, None]
    strand = np.cumsum(switches, axis=0) % 2
    return np.take_along_axis(parents, strand[..., None], axis=2)[..., 0]


def families(
    rng: np.random.Generator,
) -> tuple[NDArray[np.int8], list[str], NDArray[np.int64]]:
    """Dosages (n_variants, n_people), chromosomes, and sexes: the parents come first.

    Sons have X of their mother alone, which counts twice.
    """
    n_variants = np.array([*[N_VARIANTS] * N_AUTOSOMES, 2 * N_VARIANTS])
    first = np.cumsum(n_variants) - n_variants
    chromosome = [*map(str, range(1, N_AUTOSOMES + 1)), "X"]
    crossover = np.repeat((1 - np.exp(-2 * MORGANS / n_variants)) / 2, n_variants)
    crossover[first] = 0.5
    n_total = n_variants.sum()
    on_x = np.arange(n_total) >= first[-1]
    frequency = rng.uniform(0.05, 0.5, (n_total, 1, 1))
    father, mother = (
        (rng.random((n_total, N_FAMILIES, 2)) < frequency).astype(np.int8) for _ in range(2)
    )
    father[on_x, :, 1] = father[on_x, :, 0]
    family = np.repeat(np.arange(N_FAMILIES), np.where(np.arange(N_FAMILIES) % 2, 3, 2))
    sex = rng.integers(1, 3, len(family))
    maternal = meioses(mother[:, family], crossover, rng)
    paternal = meioses(father[:, family], crossover, rng)
    paternal[np.ix_(on_x, sex == 1)] = maternal[np.ix_(on_x, sex == 1)]
    dosage = np.concatenate([father.sum(axis=2), mother.sum(axis=2), maternal + paternal], axis=1)
    sexes = np.concatenate([np.repeat([1, 2], N_FAMILIES), sex])
    return dosage.astype(np.int8), list(np.repeat(chromosome, n_variants)), sexes


def make_traits(
    dosage: NDArray[np.int8], planted: NDArray[np.int64], rng: np.random.Generator
) -> pd.DataFrame:
    """Traits of all kinds, of variance 1: planted and polygenic effects, and noise."""
    n_people = dosage.shape[1]
    causal = dosage[: N_CAUSAL * N_VARIANTS]
    x = (causal - causal.mean(axis=1, keepdims=True)) / causal.std(axis=1, keepdims=True)
    columns = {}
    for kind, (h2, lacking) in KINDS.items():
        effects = rng.normal(size=(len(x), N_TRAITS))
        effects[planted] = 0
        polygenic = x.T @ effects
        polygenic /= polygenic.std(axis=0)
        of_planted = min(h2, PLANTED * len(planted))
        y = np.sqrt(of_planted / len(planted)) * x[planted].sum(axis=0)[:, None]
        y = y + np.sqrt(h2 - of_planted) * polygenic
        y = y + np.sqrt(1 - h2) * rng.normal(size=y.shape)
        y[rng.random(n_people) < lacking] = np.nan
        columns |= {f"{kind}_{k}".replace(" ", "_"): y[:, k] for k in range(N_TRAITS)}
    table = pd.DataFrame(columns)
    table.insert(0, "IID", [f"i{i}" for i in range(n_people)])
    return table


def gwas(*arguments: object) -> None:
    command = [sys.executable, "-m", "axoloci.tasks.gwas.cli", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stderr}")


def p_values(store: Sumstats, trait: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """P and the χ² of one degree of freedom that has it, of all variants in file order."""
    neg_log10_p = store.trait(trait)["neg_log10_p"].to_numpy()
    p = np.power(10.0, -neg_log10_p)
    return p, stats.chi2.isf(p, 1)


def analyse(folder: Path, seed: int) -> list[pd.DataFrame]:
    """Results of one cohort: a table (kind, analysis, place, p, χ²) a trait and analysis."""
    rng = np.random.default_rng(seed)
    dosage, chromosome, sex = families(rng)
    planted = np.arange(N_CAUSAL) * N_VARIANTS + N_VARIANTS // 2
    write_plink(folder / "g", dosage, chromosome, sex=list(sex))
    make_traits(dosage, planted, rng).to_csv(folder / "t.tsv", sep="\t", index=False, na_rep="NA")
    covariates = pd.DataFrame({"age": rng.uniform(40, 70, len(sex)), "sex": sex})
    covariates.insert(0, "IID", [f"i{i}" for i in range(len(sex))])
    covariates.to_csv(folder / "c.tsv", sep="\t", index=False)
    (folder / "parents.txt").write_text("".join(f"i{i}\n" for i in range(2 * N_FAMILIES)))
    inputs = ["--genotypes", folder / "g", "--traits", folder / "t.tsv"]
    inputs += ["--covariates", folder / "c.tsv"]
    gwas("ridge", *inputs, "--out", folder / "loco")
    stores = {
        MIXED: ["--loco", folder / "loco"],
        PLAIN: [],
        UNRELATED: ["--keep", folder / "parents.txt"],
    }
    place = np.full(len(chromosome), "causal chromosomes", dtype=object)
    place[N_CAUSAL * N_VARIANTS :] = "autosomes"
    place[N_AUTOSOMES * N_VARIANTS :] = "X"
    place[planted] = "planted"
    tables = []
    for number, (analysis, options) in enumerate(stores.items()):
        path = folder / f"s{number}"
        gwas("associate", *inputs, *options, "--device", "cpu", "--out", path)
        store = read_sumstats(path)
        for kind in KINDS:
            for k in range(N_TRAITS):
                p, chi2 = p_values(store, f"{kind}_{k}".replace(" ", "_"))
                tables.append(
                    pd.DataFrame(
                        {"kind": kind, "analysis": analysis, "place": place, "p": p, "chi2": chi2}
                    )
                )
    return tables


def type_1_error(results: pd.DataFrame) -> list[dict[str, object]]:
    """A row for each kind, place without effects, and analysis."""
    rows = []
    null = results[results["place"].isin(["autosomes", "X"])]
    null = null.assign(
        analysis=pd.Categorical(null["analysis"], (MIXED, PLAIN, UNRELATED)),
        kind=pd.Categorical(null["kind"], KINDS),
    )
    groups = null.groupby(["place", "analysis", "kind"], observed=True)
    for (place, analysis, kind), tests in groups:
        row: dict[str, object] = {"variants": place, "traits": kind, "analysis": analysis}
        row |= {"tests": f"{len(tests):,}", "mean χ²": f"{tests['chi2'].mean():.3f}"}
        row["λ"] = f"{tests['chi2'].median() / stats.chi2.median(1):.3f}"
        for level in LEVELS:
            low, high = stats.binom.interval(0.999, len(tests), level)
            found = int((tests["p"] < level).sum())
            n = len(tests)
            row[f"at {level:g}"] = f"{found / n:.3g} ({low / n:.3g} to {high / n:.3g})"
            # At no heritability the estimate, which cannot be negative, is too large on average.
            if analysis == MIXED:
                assert found <= high, row
                assert found >= low or KINDS[kind][0] == 0, row
        rows.append(row)
    return rows


def power(results: pd.DataFrame) -> list[dict[str, object]]:
    """A row for each kind with effects, of all analyses."""
    rows = []
    planted = results[results["place"] == "planted"]
    for kind, tests in planted.groupby("kind", sort=False):
        if KINDS[kind][0] == 0:
            continue
        row: dict[str, object] = {"traits": kind, "effects": ""}
        share = {}
        for analysis, own in tests.groupby("analysis", sort=False):
            row["effects"] = f"{len(own):,}"
            share[analysis] = (own["p"] < GENOME_WIDE).mean()
            row[analysis] = f"{share[analysis]:.1%} (χ² {own['chi2'].mean():.1f})"
        assert share[MIXED] > share[UNRELATED], row
        rows.append(row)
    return rows


def main() -> None:
    """Simulate, analyse, and write the tables."""
    tables = []
    for seed in range(N_COHORTS):
        with tempfile.TemporaryDirectory() as name:
            tables += analyse(Path(name), seed)
    results = pd.concat(tables, ignore_index=True)
    n_people = 2 * N_FAMILIES + int(2.5 * N_FAMILIES)
    write_result(
        "families",
        "The mixed model in families: type-1 error and power",
        f"{N_COHORTS} cohorts of {N_FAMILIES} families, {n_people:,} people: two parents, two or "
        f"three sibs. {N_AUTOSOMES} autosomes of {N_VARIANTS} variants, and X; {N_TRAITS} traits "
        "of each kind a cohort. In brackets the interval that holds 99.9% of the rates of as many "
        "independent tests.\n\n"
        f"## Type-1 error\n\n{markdown_table(type_1_error(results))}\n"
        f"## Power\n\nEffects of {PLANTED:.0%} of the variance found at p < {GENOME_WIDE:g}, and "
        "their mean χ², which is inflated in plain regression on all people.\n\n"
        f"{markdown_table(power(results))}",
    )


if __name__ == "__main__":
    main()

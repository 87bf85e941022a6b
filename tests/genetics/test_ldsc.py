"""LD score regression: planted heritabilities and correlations, and the program LDSC."""

from __future__ import annotations

import hashlib
import json
import logging
import re
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner, Result
from numpy.typing import NDArray
from plink_files import write_plink

from axoloci.io.genotypes import open_genotypes
from axoloci.io.sumstats import VARIANT_COLUMNS, SumstatsWriter, plan_parts, read_sumstats
from axoloci.tasks.genetics import ldsc as kernel
from axoloci.tasks.genetics.cli import main
from axoloci.tasks.genetics.commands.ld_scores import read_ld_scores
from axoloci.tasks.genetics.commands.ldsc import HERITABILITY_COLUMNS, PAIR_COLUMNS
from axoloci.tasks.genetics.commands.ldsc_statistics import (
    Finder,
    Statistics,
    allele_signs,
    check_alleles,
    shared,
)
from axoloci.tasks.genetics.heritability import jackknife_se
from axoloci.tasks.genetics.ld_scores import ld_scores, standardise

N, M = 2000, 4000
BLOCK = 40  # variants in disequilibrium
TRAITS = ["a", "b", "c"]
H2 = np.array([0.5, 0.4, 0.0])
RG = 0.6  # of a and b
RESIDUAL = 0.5  # correlation of what a and b do not inherit


def genotypes(rng: np.random.Generator, n: int, shift: NDArray[np.float64]) -> NDArray[np.int8]:
    """Genotypes (M, n) in disequilibrium within blocks, weak or strong; common variants.

    `shift` (M, 1) moves the frequencies of a population.
    """
    rho = np.tile(np.linspace(0.5, 0.99, 10), M // BLOCK // 10)[:, None]  # of each block
    threshold = np.random.default_rng(5).uniform(-1, 1, (M, 1)) + shift
    dosage = np.zeros((M, n), dtype=np.int8)
    for _ in range(2):  # haplotypes
        latent = rng.standard_normal((M // BLOCK, BLOCK, n), dtype=np.float32)
        for k in range(1, BLOCK):
            latent[:, k] = rho * latent[:, k - 1] + np.sqrt(1 - rho**2) * latent[:, k]
        dosage += latent.reshape(M, n) < threshold
    return dosage


def statistics(x: NDArray[np.float32], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """t (M, K) of each variant with each trait."""
    y = (y - y.mean(axis=0)) / y.std(axis=0)
    r = x.astype(np.float64) @ y / len(y)
    return np.asarray(r * np.sqrt((len(y) - 2) / (1 - r**2)))


@dataclass
class Simulated:
    """A panel's LD scores, a cohort's genotypes and traits."""

    ld_score: NDArray[np.float64]
    dosage: NDArray[np.int8]
    x: NDArray[np.float32]
    y: NDArray[np.float64]

    @property
    def regressors(self) -> kernel.Regressors:
        """With a block of the jackknife for each block in disequilibrium."""
        edges = kernel.block_edges(M, M // BLOCK)
        return kernel.Regressors(self.ld_score, self.ld_score, M, edges)


def traits(
    x: NDArray[np.float32], rng: np.random.Generator, n_replicates: int = 1
) -> NDArray[np.float64]:
    """The three traits (N, n_replicates, 3), with other effects in each replicate."""
    effects = rng.standard_normal((M, n_replicates, 3)) * np.sqrt(H2 / M)
    residual = rng.standard_normal((N, n_replicates, 3)) * np.sqrt(1 - H2)
    for part, correlation in ((effects, RG), (residual, RESIDUAL)):
        own = np.sqrt(1 - correlation**2) * part[..., 1]
        scale = part[..., 1].std() / part[..., 0].std()
        part[..., 1] = correlation * scale * part[..., 0] + own
    inherited = x.T.astype(np.float64) @ effects.reshape(M, -1)  # (N, replicates · 3)
    return inherited.reshape(residual.shape) + residual


@pytest.fixture(scope="module")
def simulated() -> Simulated:
    rng = np.random.default_rng(1)
    panel = standardise(genotypes(rng, 1000, np.zeros((M, 1)))).genotypes
    of_block = [panel[start : start + 100] for start in range(0, M, 100)]
    # a window of a block: there is no other disequilibrium
    place = np.arange(M) + 1000 * (np.arange(M) // BLOCK)
    ld_score = ld_scores(of_block, place, 100)
    dosage = genotypes(rng, N, np.zeros((M, 1)))
    x = standardise(dosage).genotypes
    return Simulated(ld_score, dosage, x, traits(x, rng)[:, 0])


def numbers(n: int = N) -> NDArray[np.float64]:
    return np.full((M, 1), float(n))


@pytest.mark.parametrize("options", [{}, {"two_step": None}, {"intercept": 1.0}])
def test_heritability__is_unbiased_and_its_error_is_right(
    simulated: Simulated, options: dict[str, float | None]
) -> None:
    n_replicates = 50
    y = traits(simulated.x, np.random.default_rng(4), n_replicates)
    z = statistics(simulated.x, y.reshape(N, -1))
    found = kernel.heritability(z, numbers(), simulated.regressors, **options)  # type: ignore
    h2 = found.line.covariance.reshape(n_replicates, 3)
    assert (np.abs(h2.mean(axis=0) - H2) < 3 * h2.std(axis=0) / np.sqrt(n_replicates)).all()
    assert found.line.intercept.mean() == pytest.approx(1, abs=0.03)
    se = found.covariance_se.reshape(n_replicates, 3).mean(axis=0)
    np.testing.assert_allclose(se, h2.std(axis=0), rtol=0.35)
    np.testing.assert_allclose(found.mean, np.square(z).mean(axis=0))


def test_heritability__one_trait_does_not_depend_on_others(simulated: Simulated) -> None:
    z = statistics(simulated.x, simulated.y)
    z[5, 0] = np.nan  # a variant that one of them lacks
    together = kernel.heritability(z, numbers(), simulated.regressors)
    for k in range(3):
        alone = kernel.heritability(z[:, k : k + 1], numbers(), simulated.regressors)
        np.testing.assert_allclose(
            alone.line.covariance, together.line.covariance[k], rtol=1e-12, atol=1e-14
        )
        np.testing.assert_allclose(alone.covariance_se, together.covariance_se[k], rtol=1e-12)
    assert together.n_variants.tolist() == [M - 1, M, M]


def test_heritability__stratification_goes_into_the_intercept(simulated: Simulated) -> None:
    """Half the people have other frequencies, whatever the disequilibrium, and another mean."""
    rng = np.random.default_rng(2)
    shift = rng.normal(0, 0.08, (M, 1))
    dosage = np.hstack([genotypes(rng, N // 2, side * shift) for side in (-1, 1)])
    x = standardise(dosage).genotypes
    y = rng.standard_normal((N, 1)) + np.repeat([0, 0.5], N // 2)[:, None]
    z = statistics(x, y)
    found = kernel.heritability(z, numbers(), simulated.regressors)
    assert found.mean > 1.3
    assert found.line.intercept > 1.2
    assert found.line.intercept > 1 + 4 * found.intercept_se
    assert np.abs(found.line.covariance) < 3 * found.covariance_se
    fixed = kernel.heritability(z, numbers(), simulated.regressors, intercept=1.0)
    assert fixed.line.covariance > 5 * fixed.covariance_se  # what it would be taken for


def test_genetic_covariance__overlap_of_people_does_not_bias_it(simulated: Simulated) -> None:
    """Everybody is in both studies, and what is not inherited is correlated too."""
    n_replicates = 40
    replicates = traits(simulated.x, np.random.default_rng(6), n_replicates)
    found: dict[str, list[NDArray[np.float64]]] = {"free": [], "known": [], "no overlap": []}
    intercepts, phenotypic, rg = [], [], []
    for y in np.moveaxis(replicates, 1, 0):
        z = statistics(simulated.x, y)
        h2 = kernel.heritability(z, numbers(), simulated.regressors, intercept=1.0)
        arguments = z[:, :1], z[:, 1:], numbers(), numbers(), h2[:1], h2[1:], simulated.regressors
        phenotypic.append(np.corrcoef(y.T)[0, 1:])
        for name, intercept in (("free", None), ("known", phenotypic[-1]), ("no overlap", 0.0)):
            covariance = kernel.genetic_covariance(*arguments, intercept=intercept)
            found[name].append(covariance.line.covariance)
            if name == "free":
                intercepts.append(covariance.line.intercept)
            if name == "known":
                rg.append(kernel.genetic_correlation(covariance, h2[:1], h2[1:])[0][0])
    planted = np.array([RG * np.sqrt(H2[0] * H2[1]), 0])
    for name in ("free", "known"):
        error = np.std(found[name], axis=0) / np.sqrt(n_replicates)
        assert (np.abs(np.mean(found[name], axis=0) - planted) < 3 * error).all()
    assert np.mean(phenotypic, axis=0)[0] > 0.5
    np.testing.assert_allclose(np.mean(intercepts, axis=0), np.mean(phenotypic, axis=0), atol=0.06)
    assert np.mean(found["no overlap"], axis=0)[0] > planted[0] + 0.1
    assert np.mean(rg) == pytest.approx(RG, abs=3 * np.std(rg) / np.sqrt(n_replicates) + 0.02)


def test_genetic_correlation__is_nan_where_a_heritability_is_not_positive() -> None:
    def estimate(value: float, left_out: list[float]) -> kernel.Regression:
        line = kernel.Line(np.array([value]), np.array([1.0]))
        blocks = kernel.Line(np.array(left_out)[:, None], np.ones((len(left_out), 1)))
        return kernel.Regression(line, blocks, np.array([1.0]), np.array([100]))

    half, quarter = estimate(0.5, [0.5, 0.4]), estimate(0.25, [0.25, 0.1])
    rg, rg_se = kernel.genetic_correlation(quarter, half, half)
    np.testing.assert_allclose([rg[0], rg_se[0]], [0.5, 0.125])
    for bad in (estimate(-0.1, [-0.1, -0.2]), estimate(0, [0, 0])):
        assert np.isnan(kernel.genetic_correlation(quarter, half, bad)).all()
    rg, rg_se = kernel.genetic_correlation(quarter, estimate(0.01, [0.1, -0.1]), half)
    assert np.isfinite(rg).all()
    assert np.isnan(rg_se).all()


def test_leave_out_large__by_the_number_of_people() -> None:
    z = np.array([[9.0, 9.0], [8.0, np.nan], [-20.0, 10.1]], dtype=np.float32)
    n_large = kernel.leave_out_large(z, np.array([[1000.0, 100_000.0]]))
    assert n_large.tolist() == [2, 1]
    np.testing.assert_array_equal(np.isnan(z), [[True, False], [False, True], [True, True]])


@pytest.mark.parametrize("folder", ["published", "numbers"])
def test_heritability_and_correlation__are_those_of_ldsc(
    simulated: Simulated, tool: Callable[[str], str], tmp_path: Path, folder: str
) -> None:
    """Also where the number of people differs between variants and studies."""
    z = np.round(statistics(simulated.x, simulated.y), 6)
    rng = np.random.default_rng(3)
    n = np.full((M, 3), float(N))
    if folder == "numbers":
        n = np.round(n * rng.uniform([0.9, 0.5, 1], [1, 0.6, 1], (M, 3)))
    ids = [f"rs{k}" for k in range(M)]
    rows = pd.DataFrame({"CHR": 1, "SNP": ids, "BP": range(1, M + 1), "L2": simulated.ld_score})
    rows.to_csv(tmp_path / "p.l2.ldscore.gz", sep="\t", index=False)
    (tmp_path / "p.l2.M_5_50").write_text(f"{M}\n")
    for k, name in enumerate(TRAITS[:2]):
        rows = pd.DataFrame({"SNP": ids, "A1": "A", "A2": "C", "N": n[:, k], "Z": z[:, k]})
        rows.to_csv(tmp_path / f"{name}.gz", sep="\t", index=False)

    def ldsc(*arguments: str) -> str:
        files = ("--ref-ld", "p", "--w-ld", "p", "--out", "o")
        command = [tool("ldsc.py"), *arguments, *files]
        subprocess.run(command, check=True, capture_output=True, cwd=tmp_path)
        return (tmp_path / "o.log").read_text()

    def said(log: str, *names: str) -> list[list[float]]:
        """Values and standard errors behind a name."""
        number = r"(-?[\d.e-]+)"
        return [
            [float(value) for value in found]
            for name in names
            for found in re.findall(rf"^{name}: {number} \({number}\)", log, flags=re.MULTILINE)
        ]

    def pair(value: NDArray[np.float64], se: NDArray[np.float64]) -> list[float]:
        return [float(value[0]), float(se[0])]

    ld_score = simulated.ld_score
    regressors = kernel.Regressors(ld_score, ld_score, M, kernel.block_edges(M))
    one = kernel.heritability(z[:, :1], n[:, :1], regressors)
    ours = [
        pair(one.line.covariance, one.covariance_se),
        pair(one.line.intercept, one.intercept_se),
    ]
    theirs = said(ldsc("--h2", "a.gz"), "Total Observed scale h2", "Intercept")
    np.testing.assert_allclose(ours, theirs, atol=1e-3)

    fixed = kernel.heritability(z[:, :1], n[:, :1], regressors, intercept=1.0)
    ours = [pair(fixed.line.covariance, fixed.covariance_se)]
    theirs = said(ldsc("--h2", "a.gz", "--no-intercept"), "Total Observed scale h2")
    np.testing.assert_allclose(ours, theirs, atol=1e-3)

    h2 = kernel.heritability(z[:, :2], n[:, :2], regressors, two_step=None)
    covariance = kernel.genetic_covariance(
        *(z[:, :1], z[:, 1:2], n[:, :1], n[:, 1:2], h2[:1], h2[1:], regressors)
    )
    ours = [
        pair(h2.line.covariance[:1], h2.covariance_se[:1]),
        pair(h2.line.covariance[1:], h2.covariance_se[1:]),
        pair(covariance.line.covariance, covariance.covariance_se),
        pair(h2.line.intercept[:1], h2.intercept_se[:1]),
        pair(h2.line.intercept[1:], h2.intercept_se[1:]),
        pair(covariance.line.intercept, covariance.intercept_se),
        pair(*kernel.genetic_correlation(covariance, h2[:1], h2[1:])),
    ]
    names = ("Total Observed scale h2", "Total Observed scale gencov", "Intercept")
    theirs = said(ldsc("--rg", "a.gz,b.gz"), *names, "Genetic Correlation")
    np.testing.assert_allclose(ours, theirs, atol=1e-3)


# --- the command --------------------------------------------------------------------------------


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory, simulated: Simulated) -> Path:
    """The cohort's store, and LD scores of itself."""
    folder = tmp_path_factory.mktemp("study")
    position = 1 + 1000 * np.arange(M) + 2_000_000 * (np.arange(M) // BLOCK)
    chromosomes = ["1"] * (M // 2) + ["2"] * (M // 2)
    write_plink(folder / "g", simulated.dosage, chromosomes, position.tolist())
    arguments = ("--genotypes", folder / "g", "--window-kb", 100, "--out", folder / "l.parquet")
    assert run("ld-scores", *arguments).exit_code == 0
    dosage = simulated.dosage - simulated.dosage.mean(axis=1, keepdims=True)  # (M, N)
    y = simulated.y - simulated.y.mean(axis=0)
    y[:, 1] *= 10  # in other units
    gg = np.square(dosage).sum(axis=1)[:, None]
    beta = dosage @ y / gg  # (M, K)
    se = np.sqrt((np.square(y).sum(axis=0) - beta**2 * gg) / (N - 2) / gg)
    beta[7] = se[7] = np.nan  # a variant that was not tested
    variants = open_genotypes(folder / "g").variants
    parts = plan_parts(variants["chromosome"], 3)
    writer = SumstatsWriter(folder / "sumstats", {"test": 1}, parts)
    for part in parts:
        rows = slice(part.start, part.stop)
        writer.write(
            part,
            variants.iloc[rows][VARIANT_COLUMNS],
            TRAITS,
            simulated.dosage[rows].mean(axis=1) / 2,
            np.full(part.stop - part.start, N, dtype=np.int32),
            beta[rows],
            se[rows],
            n_covariates=1,
        )
    people = [f"i{i}" for i in range(N)]
    writer.finish(TRAITS, people, np.corrcoef(y.T), y.std(axis=0), {"n_covariates": 1})
    return folder


def ldsc(study: Path, out: Path, *more: object) -> Result:
    given = ("--ld-scores", study / "l.parquet", "--sumstats", study / "sumstats", "--out", out)
    return run("ldsc", *given, "--n-blocks", 100, *more)


def tables(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    return tuple(  # type: ignore[return-value]
        pd.read_csv(folder / f"{name}.tsv", sep="\t", na_values="n/a")
        for name in ("heritability", "genetic_correlation")
    )


@pytest.fixture(scope="module")
def results(study: Path) -> Path:
    result = ldsc(study, study / "ldsc")
    assert result.exit_code == 0, result.output
    return study / "ldsc"


def test_ldsc__gives_what_the_kernel_gives_of_the_same_statistics(
    study: Path, results: Path, simulated: Simulated
) -> None:
    h2, rg = tables(results)
    assert h2.columns.tolist() == list(HERITABILITY_COLUMNS)
    assert rg.columns.tolist() == list(PAIR_COLUMNS)
    told = run("ldsc", "--help").output
    assert all(f"\n    {name}  " in told for name in HERITABILITY_COLUMNS | PAIR_COLUMNS)
    assert h2["trait"].tolist() == TRAITS
    assert h2["n"].tolist() == [N] * 3
    assert h2["n_variants"].tolist() == [M - 1] * 3
    z = np.delete(statistics(simulated.x, simulated.y), 7, axis=0)
    ld_score = read_ld_scores(study / "l.parquet").table["ld_score"].drop(7).to_numpy()
    edges = kernel.block_edges(M - 1, 100)
    regressors = kernel.Regressors(ld_score, ld_score, M, edges)
    found = kernel.heritability(z, np.full((M - 1, 1), N), regressors)
    np.testing.assert_allclose(h2["h2"], found.line.covariance, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(h2["h2_se"], found.covariance_se, rtol=1e-3)
    np.testing.assert_allclose(h2["intercept"], found.line.intercept, rtol=1e-4)
    chi2 = np.square(z)
    np.testing.assert_allclose(h2["mean_chi2"], chi2.mean(axis=0), rtol=1e-4)
    np.testing.assert_allclose(h2["lambda_gc"], np.median(chi2, axis=0) / 0.4549, rtol=1e-3)
    assert rg[["trait_1", "trait_2"]].to_numpy().tolist() == [["a", "b"], ["a", "c"], ["b", "c"]]
    assert np.abs(rg["rg"][0] - RG) < 3 * rg["rg_se"][0]
    phenotypic = np.corrcoef(simulated.y.T)[0, 1]
    assert rg["phenotypic_correlation"][0] == pytest.approx(phenotypic)
    assert json.loads((results / "ldsc.json").read_text())["n_blocks"] == 100


def test_ldsc__writes_the_matrix_in_units_of_the_traits(
    results: Path, simulated: Simulated
) -> None:
    _, rg = tables(results)
    with np.load(results / "genetic_covariance.npz") as stored:
        genetic, left_out = stored["genetic"], stored["leave_one_out"]
        assert stored["traits"].tolist() == TRAITS
        scale = np.array([1, 10, 1])
        expected = np.cov(simulated.y.T, ddof=0) * np.outer(scale, scale)
        np.testing.assert_allclose(stored["phenotypic"], expected, rtol=1e-6)
        # as the commands that make maps of it want it
        assert (int(stored["format_version"]), str(stored["transformed"])) == (1, "")
    np.testing.assert_array_equal(genetic, genetic.T)
    assert left_out.shape == (100, 3, 3)
    assert genetic[0, 1] / np.sqrt(genetic[0, 0] * genetic[1, 1]) == pytest.approx(rg["rg"][0])
    of_blocks = left_out[:, 0, 1] / np.sqrt(left_out[:, 0, 0] * left_out[:, 1, 1])
    assert jackknife_se(of_blocks[:, None])[0] == pytest.approx(rg["rg_se"][0])


def test_ldsc__writes_the_same_bytes_again(study: Path, results: Path, tmp_path: Path) -> None:
    assert ldsc(study, tmp_path / "again").exit_code == 0
    for name in ("heritability.tsv", "genetic_correlation.tsv", "genetic_covariance.npz"):
        assert (tmp_path / "again" / name).read_bytes() == (results / name).read_bytes()


def outside(study: Path, trait: str, path: Path) -> pd.DataFrame:
    """A trait of the store as another study's text, alleles swapped and of the other strand."""
    from axoloci.io.sumstats import read_sumstats

    found = read_sumstats(study / "sumstats").trait(trait).dropna()
    rows = pd.DataFrame(
        {
            "SNP": found["variant_id"],
            "A1": "A",
            "A2": "C",
            "N": found["n"],
            "Z": found["beta"] / found["se"],
        }
    )
    kinds = np.arange(len(rows)) % 4
    rows.loc[kinds == 1, ["A1", "A2", "Z"]] = rows.loc[kinds == 1, ["A2", "A1", "Z"]].to_numpy()
    rows.loc[kinds == 1, "Z"] *= -1
    rows.loc[kinds == 2, ["A1", "A2"]] = "T", "G"
    rows.loc[kinds == 3, ["A1", "A2"]] = "G", "T"
    rows.loc[kinds == 3, "Z"] *= -1
    rows.to_csv(path, sep="\t", index=False)
    return rows


def test_ldsc__takes_traits_of_other_studies_for_the_same_alleles(
    study: Path, results: Path, tmp_path: Path
) -> None:
    """A trait of the store as text: its correlations are those within the store."""
    outside(study, "b", tmp_path / "height.txt")
    rows = outside(study, "a", tmp_path / "weight.x.txt").drop(columns="N")
    rows.sample(frac=1, random_state=0).to_csv(tmp_path / "weight.x.txt", sep="\t", index=False)
    files = ("--with", tmp_path / "height.txt", "--with", tmp_path / "weight.x.txt")
    result = ldsc(study, tmp_path / "out", "--traits", "a", *files)
    assert result.exit_code == 1
    assert f"no number of people for {M - 1} of {M - 1} variants, such as rs0" in result.output
    assert "--n weight=NUMBER" in result.output
    result = ldsc(study, tmp_path / "out", "--traits", "a", *files, "--n", f"weight={N}")
    assert result.exit_code == 0, result.output
    h2, rg = tables(tmp_path / "out")
    h2_within, rg_within = tables(results)
    assert h2["trait"].tolist() == ["a", "height", "weight"]
    np.testing.assert_allclose(h2["h2"], h2_within["h2"][[0, 1, 0]], rtol=1e-4)
    pairs = [["a", "height"], ["a", "weight"], ["height", "weight"]]
    assert rg[["trait_1", "trait_2"]].to_numpy().tolist() == pairs
    np.testing.assert_allclose(rg["rg"][[0, 2]], rg_within["rg"][[0, 0]], rtol=1e-3)
    assert rg["rg"][1] == pytest.approx(1, abs=0.01)  # with itself
    np.testing.assert_allclose(rg["rg_se"][[0, 2]], rg_within["rg_se"][[0, 0]], rtol=1e-3)
    with np.load(tmp_path / "out" / "genetic_covariance.npz") as stored:
        assert stored["phenotypic"][1, 1] == 1
        assert np.isnan(stored["phenotypic"][0, 1])
        assert np.isfinite(stored["genetic"]).all()
        assert np.isfinite(stored["leave_one_out"]).all()


def as_fastgwa(study: Path, path: Path) -> pd.DataFrame:
    """Trait b of the store, spread over the genome, in the columns of fastGWA."""
    found = read_sumstats(study / "sumstats").trait("b").dropna()
    names = {
        "chromosome": "CHR",
        "variant_id": "SNP",
        "base_pair_location": "POS",
        "effect_allele": "A1",
        "other_allele": "A2",
        "n": "N",
        "effect_allele_frequency": "AF1",
        "beta": "BETA",
        "se": "SE",
    }
    rows = found.rename(columns=names)[[*names.values()]]
    rows.to_csv(path, sep="\t", index=False)
    return rows


def test_ldsc__exchanged_alleles_are_seen_by_their_frequency(
    study: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "height.fastGWA"
    rows = as_fastgwa(study, path)
    given = ("--traits", "a", "--with", path)
    with caplog.at_level(logging.WARNING, logger="axoloci"):
        assert ldsc(study, tmp_path / "out", *given).exit_code == 0
        assert "frequency" not in caplog.text
        swapped = rows.rename(columns={"A1": "A2", "A2": "A1"})[rows.columns]
        half = pd.concat([swapped[::2], rows[1::2]])
        half.to_csv(path, sep="\t", index=False)
        assert ldsc(study, tmp_path / "out", *given).exit_code == 0
    assert "height.fastGWA fits the other allele in" in caplog.text
    swapped.to_csv(path, sep="\t", index=False)
    result = ldsc(study, tmp_path / "out", *given)
    assert result.exit_code == 1
    assert "height.fastGWA looks like that of the other allele" in " ".join(result.output.split())


def test_check_alleles__tells_what_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    places = pd.DataFrame({"chromosome": "1", "base_pair_location": range(4), "variant_id": "."})

    def of(*pairs: str) -> Statistics:
        alleles = np.array([list(pair) for pair in pairs], dtype=object)
        ones = np.ones((4, 1), dtype=np.float32)
        return Statistics(np.arange(4), ones, ones, alleles, ones[:, 0] / 2, 4)

    ours, theirs = of("AG", "AT", "CG", "AG"), of("GA", "AT", "GC", "AT")
    with caplog.at_level(logging.INFO, logger="axoloci"):
        check_alleles(ours, theirs, Finder(places, Path("l"), False), ("ours", "theirs"))
    told = "theirs: of 4 variants that ours has too, correlations leave out 2 of the alleles A/T or"
    assert told in caplog.text
    assert "and 1 of other alleles there" in caplog.text
    assert len(shared(theirs, ours)[0].rows) == 1


def test_allele_signs__of_every_flip() -> None:
    cases = {"AG AG": 1, "AG GA": -1, "AG TC": 1, "AG CT": -1, "AT AT": 0, "CG GC": 0, "AG AC": 0}
    pairs = [[list(word) for word in case.split()] for case in cases]
    first, second = np.array(pairs, dtype=object).transpose(1, 0, 2)
    assert allele_signs(first, second).tolist() == list(cases.values())
    indel = np.array([["AT", "A"]], dtype=object)
    assert allele_signs(indel, indel[:, ::-1]).tolist() == [-1]


def test_ldsc__refuses_ld_scores_of_other_variants_or_another_build(
    study: Path, tmp_path: Path
) -> None:
    def published(names: list[str], shift: int | NDArray[np.int64]) -> Path:
        table = read_ld_scores(study / "l.parquet").table
        rows = pd.DataFrame(
            {
                "CHR": table["chromosome"],
                "SNP": names,
                "BP": table["base_pair_location"] + shift,
                "L2": table["ld_score"],
            }
        )
        rows.to_csv(tmp_path / "p.l2.ldscore.gz", sep="\t", index=False)
        (tmp_path / "p.l2.M_5_50").write_text(f"{M}\n")
        return tmp_path / "p"

    ids = read_ld_scores(study / "l.parquet").table["variant_id"].tolist()
    out = tmp_path / "out"
    other = published([f"1:{name}" for name in ids], 0)
    result = ldsc(study, out, "--ld-scores", other)
    assert result.exit_code == 1
    assert f"0 of {M} variants are among the {M} LD scores" in result.output
    assert "as 1:rs0 there" in result.output
    moved = published(ids, 5)
    result = ldsc(study, out, "--ld-scores", moved)
    assert result.exit_code == 1
    assert f"{M} of {M} variants have another position" in result.output
    assert not out.exists()
    assert ldsc(study, out, "--ld-scores", moved, "--other-build").exit_code == 0
    np.testing.assert_allclose(tables(out)[0]["h2"], tables(study / "ldsc")[0]["h2"], rtol=1e-6)
    few = published(ids, np.where(np.arange(M) % 50, 0, 5))  # more than one in a hundred
    result = ldsc(study, out, "--ld-scores", few)
    assert f"{-(-M // 50)} of {M} variants have another position" in result.output


def test_ldsc__uses_fewer_blocks_for_few_variants_and_gives_no_correlation_without_heritability(
    study: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    table = read_ld_scores(study / "l.parquet").table.iloc[:1000]
    rng = np.random.default_rng(0)
    rows = pd.DataFrame({"SNP": table["variant_id"], "A1": "A", "A2": "C", "N": N})
    # the more disequilibrium, the smaller: a heritability below 0
    rows["Z"] = rng.choice([-1, 1], len(rows)) * (2 - 0.5 * table["ld_score"].rank(pct=True))
    rows.to_csv(tmp_path / "none.txt", sep="\t", index=False)
    result = ldsc(study, tmp_path / "out", "--with", tmp_path / "none.txt")
    assert result.exit_code == 0, result.output
    assert "1000 variants of none are too few for 100 blocks of the jackknife: 50" in caplog.text
    assert re.search("whose heritability is not above 0, such as .*none", caplog.text)
    h2, rg = tables(tmp_path / "out")
    assert h2["h2"][3] < 0
    assert rg[rg["trait_2"] == "none"][["rg", "rg_se", "neg_log10_p"]].isna().all(axis=None)
    assert np.isfinite(rg["rg"][0])


def test_ldsc__warns_of_correlations_with_a_weak_heritability(
    study: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    table = read_ld_scores(study / "l.parquet").table
    rows = pd.DataFrame({"SNP": table["variant_id"], "A1": "A", "A2": "C", "N": N})
    rows["Z"] = np.random.default_rng(1).standard_normal(len(rows)) * (
        1 + 0.05 * table["ld_score"].rank(pct=True)
    )
    rows.to_csv(tmp_path / "weak.txt", sep="\t", index=False)
    out = tmp_path / "out"
    result = ldsc(study, out, "--traits", "a,b", "--with", tmp_path / "weak.txt")
    assert result.exit_code == 0, result.output
    h2 = tables(out)[0].set_index("trait")
    assert 0 < h2["h2"]["weak"] < 2 * h2["h2_se"]["weak"]
    assert "2 of 3 genetic correlations are of a trait whose heritability is below 2" in caplog.text


def test_ldsc__names_an_n_of_no_trait_and_a_name_that_is_taken(study: Path, tmp_path: Path) -> None:
    outside(study, "b", tmp_path / "a.txt")
    result = ldsc(study, tmp_path / "out", "--with", tmp_path / "a.txt")
    assert "there is a trait a already" in result.output
    result = ldsc(study, tmp_path / "out", "--n", "height=5")
    assert "--n height: no trait of --with has this name" in result.output
    result = ldsc(study, tmp_path / "out", "--n", "height")
    assert "give the trait and its people" in result.output


def test_ldsc__names_traits_that_hardly_any_variant_is_left_of(study: Path, tmp_path: Path) -> None:
    result = ldsc(study, tmp_path / "out", "--max-chi2", 1e-6)
    assert result.exit_code == 1
    told = " ".join(result.output.split())
    assert f"a, b, c: of {M} variants {M} have an LD score, {M - 1} of these a statistic" in told
    assert "are left with χ² not too large; 200 are needed at least: raise --max-chi2" in told


def test_ldsc__tells_at_which_step_variants_were_lost(study: Path, tmp_path: Path) -> None:
    def told(*more: object) -> str:
        result = ldsc(study, tmp_path / "out", *more)
        assert result.exit_code == 1
        return " ".join(result.output.split())

    rare = rf"of {M} LD scores {M} have an id of their own, and \d+ of these a frequency"
    assert re.search(rare, told("--min-maf", 0.5))
    path = tmp_path / "few.txt"
    rows = outside(study, "b", path)
    rows.iloc[:150].to_csv(path, sep="\t", index=False)
    few = told("--with", path)
    assert f"150 of 150 variants are among the {M} LD scores" in few
    assert "give the statistics of the whole genome" in few
    rows.assign(A1="A", A2="T").to_csv(path, sep="\t", index=False)
    n = M - 1
    fit = f"of {n} variants {n} have an LD score, {n} of these are in a, b, c too, and 0 of these"
    assert fit in told("--with", path)


def test_ldsc__with_known_intercepts(study: Path, results: Path, tmp_path: Path) -> None:
    outside(study, "b", tmp_path / "height.txt")
    options = ("--fixed-intercept", "--with", tmp_path / "height.txt")
    assert ldsc(study, tmp_path / "out", *options).exit_code == 0
    h2, rg = tables(tmp_path / "out")
    assert h2["intercept"].tolist() == [1] * 4
    assert h2[["ratio", "ratio_se"]].isna().all(axis=None)
    assert np.isfinite(tables(results)[0]["ratio"][0])
    about = json.loads((tmp_path / "out" / "ldsc.json").read_text())
    digest = hashlib.sha256((tmp_path / "height.txt").read_bytes()).hexdigest()
    of_height = {"trait": "height", "file": "height.txt", "sha256": digest, "n": None}
    assert about["with"] == [of_height]
    assert (about["sumstats"], about["traits"]) == ("sumstats", TRAITS)
    assert about["ld_scores"] == "l.parquet"
    assert (h2["h2_se"][:3] < tables(results)[0]["h2_se"]).all()
    of_study = rg["trait_2"] != "height"
    np.testing.assert_allclose(
        rg["intercept"][of_study], rg["phenotypic_correlation"][of_study], rtol=1e-6
    )
    assert (rg["intercept"][~of_study] == 0).all()


def test_ldsc__refuses_more_traits_than_memory_holds(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two traits: float32 statistics and people, and 100 matrices of two by two in float64."""
    limit = "axoloci.tasks.genetics.commands.ldsc.MAX_GB"
    of_two = 2 * M * 4 * 2 + 100 * 2 * 2 * 8
    names = ",".join(read_sumstats(study / "sumstats").traits[:2])
    monkeypatch.setattr(limit, (of_two + 1) / 1e9)
    assert ldsc(study, tmp_path / "out", "--traits", names).exit_code == 0
    monkeypatch.setattr(limit, (of_two - 1) / 1e9)
    result = ldsc(study, tmp_path / "out", "--traits", names)
    assert result.exit_code == 1
    assert "2 traits at once need more than" in result.output
    assert "and 1 traits do not" in " ".join(result.output.split())

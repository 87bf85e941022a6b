"""The whole-genome ridge: its formulas, what it predicts, and what it takes off a trait."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray
from plink_files import gemma_loco, unpack, write_plink
from scipy.stats import spearmanr

from axoloci.io.loco import read_loco
from axoloci.io.sumstats import Sumstats, read_sumstats
from axoloci.tasks.gwas import engine, mixed_model
from axoloci.tasks.gwas.cli import main


def gwas(*arguments: object) -> None:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output + repr(result.exception)


def test_standardize__has_unit_variance_and_nothing_of_the_covariates() -> None:
    rng = np.random.default_rng(0)
    dosage = rng.integers(0, 3, (30, 200)).astype(np.int8)
    dosage[rng.random(dosage.shape) < 0.05] = -9
    dosage[4], dosage[5] = 1, -9
    q = np.linalg.qr(np.column_stack([np.ones(200), rng.normal(size=(200, 3))]))[0]
    x = mixed_model.standardize(dosage, q.astype(np.float32))
    assert x.shape == (28, 200)
    np.testing.assert_allclose(x @ q, 0, atol=1e-4)
    np.testing.assert_allclose(np.square(x).sum(axis=1), 196, rtol=1e-5)


def relationship(n_samples: int, n_variants: int, seed: int) -> NDArray[np.float32]:
    """Of people in groups that are alike."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n_variants, n_samples)) + 0.7 * np.repeat(
        rng.normal(size=(n_variants, n_samples // 10)), 10, axis=1
    )
    x = (x - x.mean(axis=1, keepdims=True)) / x.std(axis=1, keepdims=True)
    return (x.T @ x / n_variants).astype(np.float32)


def adjusted(values: NDArray[np.float64]) -> NDArray[np.float32]:
    return np.asarray(values - values.mean(axis=0), dtype=np.float32)


def test_solve__is_the_solution() -> None:
    k = relationship(300, 2000, seed=1)
    b = adjusted(np.random.default_rng(2).normal(size=(300, 4)))
    h = np.array([0.001, 0.3, 0.7, 0.999])
    found = mixed_model.solve(lambda x: k @ x, b, h)
    guess = mixed_model.solve(lambda x: k @ x, b, h, start=found)
    for column in range(4):
        v = h[column] * k.astype(float) + (1 - h[column]) * np.eye(300)
        expected = np.linalg.solve(v, b[:, column])
        for x in (found, guess):
            error = np.linalg.norm(x[:, column] - expected) / np.linalg.norm(expected)
            assert error < 1e-3
    with pytest.raises(ArithmeticError, match="after 300 steps"):
        mixed_model.solve(lambda x: np.full_like(x, np.nan), b, h)


def test_lanczos__gives_quadratic_forms() -> None:
    k = relationship(300, 2000, seed=3)
    b = adjusted(np.random.default_rng(4).normal(size=(300, 3)))
    found = mixed_model.lanczos(lambda x: k @ x, b)
    np.testing.assert_allclose(found.weights.sum(axis=1), 1, rtol=1e-5)
    values, vectors = np.linalg.eigh(k.astype(float))
    z = vectors.T @ b
    for h in (0.05, 0.5, 0.95):
        v = (h * values + 1 - h)[:, None]
        np.testing.assert_allclose(found.inverse(h), (z**2 / v).sum(axis=0), rtol=1e-4)
        np.testing.assert_allclose(found.log(h), (z**2 * np.log(v)).sum(axis=0), rtol=1e-3)
    np.testing.assert_allclose(
        found[1:].inverse(np.array([0.2, 0.4])),
        [found.inverse(0.2)[1], found.inverse(0.4)[2]],
    )


def test_heritability__is_that_of_restricted_maximum_likelihood() -> None:
    k = relationship(500, 1500, seed=5)
    rng = np.random.default_rng(6)
    values, vectors = np.linalg.eigh(k.astype(float))
    h = np.array([0.1, 0.5, 0.8])
    root = np.sqrt(h * np.maximum(values, 0)[:, None] + 1 - h)
    y = adjusted(vectors @ (root * rng.normal(size=(500, 3))))
    probes = adjusted(rng.normal(size=(500, 200)))
    found = mixed_model.heritability(
        mixed_model.lanczos(lambda x: k @ x, y), mixed_model.lanczos(lambda x: k @ x, probes)
    )
    z, grid = vectors.T @ y, np.linspace(0.005, 0.995, 199)
    rest = np.abs(vectors.sum(axis=0)) < 1e-3  # without the mean
    for column in range(3):
        v = grid[:, None] * values[rest] + 1 - grid[:, None]
        likelihood = 499 * np.log((z[rest, column] ** 2 / v).sum(axis=1)) + np.log(v).sum(axis=1)
        assert found[column] == pytest.approx(grid[np.argmin(likelihood)], abs=0.04)


def families(n_families: int, n_variants: int, seed: int) -> NDArray[np.int8]:
    """Dosages of sibs in fours."""
    rng = np.random.default_rng(seed)
    frequency = rng.uniform(0.1, 0.5, (n_variants, 1, 1))
    parents = rng.random((2, 2, n_variants, n_families, 1)) < frequency  # parent, haplotype
    pick = rng.integers(0, 2, (2, n_variants, n_families, 4))
    got = [np.where(pick[p] == 0, parents[p, 0], parents[p, 1]) for p in range(2)]
    return (got[0].astype(np.int8) + got[1]).reshape(n_variants, -1)


@pytest.fixture(scope="module")
def related(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sibs, a heritable trait, one that some lack, and a table of chromosomes with X."""
    folder = tmp_path_factory.mktemp("related")
    rng = np.random.default_rng(5)
    dosage = families(150, 1200, seed=5)
    chromosome = [str(1 + v // 300) for v in range(1200)]
    effects = rng.normal(size=(1200, 2)) * (np.arange(1200)[:, None] >= 300)  # none on 1
    z = (dosage - dosage.mean(1, keepdims=True)) / dosage.std(1, keepdims=True)
    genetic = z.T @ effects
    genetic /= genetic.std(0)
    traits = np.sqrt(0.8) * genetic + np.sqrt(0.2) * rng.normal(size=genetic.shape)
    table = pd.DataFrame(traits * 7 + 40, columns=["a", "b"])
    table.loc[::11, "b"] = np.nan
    table.insert(0, "IID", [f"i{i}" for i in range(600)])
    table.to_csv(folder / "t.tsv", sep="\t", index=False, na_rep="NA")
    write_plink(folder / "g", dosage, chromosome, sex=list(rng.integers(1, 3, 600)))
    return folder


def test_ridge__takes_the_inflation_of_relatives_off(related: Path, tmp_path: Path) -> None:
    inputs = ("--genotypes", related / "g", "--traits", related / "t.tsv")
    gwas("ridge", *inputs, "--out", tmp_path / "loco")
    files = ("all", "chr1", "chr2", "chr3", "chr4")
    assert sorted(path.name for path in (tmp_path / "loco").iterdir()) == [
        *(f"{name}.{kind}" for name in files for kind in ("correlation.npy", "parquet")),
        "loco.json",
    ]
    store = read_loco(tmp_path / "loco")
    assert store.traits == ["a", "b"]
    assert min(store.info["h2"]) > 0.3
    people = [f"i{i}" for i in range(600)]
    residuals, se_scale = store.residuals("2", people, ["b", "a"])
    assert np.isnan(residuals[::11, 0]).all()
    assert np.isfinite(residuals[:, 1]).all()
    assert ((se_scale > 0.5) & (se_scale < 2)).all()
    for one, other in zip(
        store.residuals("X", people, ["a"]), store.residuals("all", people, ["a"]), strict=True
    ):
        np.testing.assert_array_equal(one, other)
    gwas("associate", *inputs, "--device", "cpu", "--out", tmp_path / "plain")
    gwas(
        "associate",
        *inputs,
        "--device",
        "cpu",
        "--out",
        tmp_path / "s",
        "--loco",
        tmp_path / "loco",
    )
    inflation = {}
    for name in ("plain", "s"):
        result = read_sumstats(tmp_path / name).trait("a", "1")  # without an effect there
        inflation[name] = np.median(np.square(result["beta"] / result["se"])) / 0.4549
    assert inflation["plain"] > 1.2, inflation
    assert 0.8 < inflation["s"] < 1.1, inflation


def test_ridge__tests_of_nothing_are_right_in_families(tmp_path: Path) -> None:
    """On an autosome and on X, of traits that all have and of those that some lack."""
    rng = np.random.default_rng(8)
    n_families, n_each, n_traits = 150, 300, 40
    sex = np.tile([1, 1, 2, 2], n_families)
    autosomal = families(n_families, 3 * n_each, seed=8)
    frequency = rng.uniform(0.1, 0.5, (n_each, 1))
    shape = (n_each, n_families)
    father = np.repeat(rng.random(shape) < frequency, 4, axis=1)
    mother = [np.repeat(rng.random(shape) < frequency, 4, axis=1) for _ in range(2)]
    maternal = np.where(rng.integers(0, 2, father.shape), *mother).astype(np.int8)
    on_x = maternal + np.where(sex == 1, maternal, father)
    dosage = np.concatenate([autosomal, on_x]).astype(np.int8)
    write_plink(
        tmp_path / "g", dosage, list(np.repeat(["1", "2", "3", "X"], n_each)), sex=list(sex)
    )
    causal = autosomal[: 2 * n_each]
    z = (causal - causal.mean(1, keepdims=True)) / causal.std(1, keepdims=True)
    genetic = z.T @ rng.normal(size=(len(z), 2 * n_traits)) / np.sqrt(len(z))
    traits = np.sqrt(0.7) * genetic + np.sqrt(0.3) * rng.normal(size=genetic.shape)
    lacking = rng.random(4 * n_families) < 0.6
    traits[np.ix_(lacking, np.arange(n_traits, 2 * n_traits))] = np.nan
    table = pd.DataFrame(traits).add_prefix("t")
    table.insert(0, "IID", [f"i{i}" for i in range(len(table))])
    table.to_csv(tmp_path / "t.tsv", sep="\t", index=False, na_rep="NA")
    inputs = ("--genotypes", tmp_path / "g", "--traits", tmp_path / "t.tsv")
    gwas("ridge", *inputs, "--out", tmp_path / "loco")
    associate = ("associate", *inputs, "--device", "cpu")
    gwas(*associate, "--loco", tmp_path / "loco", "--out", tmp_path / "mixed")
    gwas(*associate, "--out", tmp_path / "plain")
    mixed, plain = (read_sumstats(tmp_path / name) for name in ("mixed", "plain"))
    for chromosome in ("3", "X"):  # 3 has variants without an effect, as X has
        for columns, tolerance in ((slice(n_traits), 0.04), (slice(n_traits, None), 0.06)):
            assert mean_chi2(mixed, chromosome, columns) == pytest.approx(1, abs=tolerance)
            assert mean_chi2(plain, chromosome, columns) > 1.15


def mean_chi2(store: Sumstats, chromosome: str, traits: slice) -> float:
    [block] = store.blocks(chromosome)
    return float(np.square(block.beta[:, traits].astype(np.float64) / block.se[:, traits]).mean())


def test_ridge__on_mice_is_the_mixed_model_of_gemma(
    data_dir: Path, tmp_path: Path, tool: Callable[[str], str]
) -> None:
    folder = data_dir / "genotypes" / "mouse-hs1940"
    prefix = unpack(folder, "mouse_hs1940", tmp_path / "mouse")
    fam = pd.read_csv(f"{prefix}.fam", sep=r"\s+", header=None, dtype=str)
    pheno = pd.read_csv(folder / "mouse_hs1940.pheno.txt.gz", sep=r"\s+", header=None)
    table = pd.DataFrame({"IID": fam[1], "cd8": pheno[0]})
    table.to_csv(tmp_path / "t.tsv", sep="\t", index=False, na_rep="NA")
    inputs = ("--genotypes", prefix, "--traits", tmp_path / "t.tsv", "--min-maf", 0.01)
    gwas("ridge", *inputs, "--out", tmp_path / "loco")
    gwas("associate", *inputs, "--loco", tmp_path / "loco", "--out", tmp_path / "s")
    chromosomes = ["1", "17", "19"]
    theirs = gemma_loco(tool("gemma"), tmp_path, prefix, pheno[0], chromosomes)
    result = read_sumstats(tmp_path / "s").trait("cd8").set_index("variant_id")
    ours = result.reindex(theirs.index)
    chi2 = np.square(ours["beta"] / ours["se"])
    assert spearmanr(chi2, theirs["chi2"], nan_policy="omit").statistic > 0.95
    assert chi2.median() / theirs["chi2"].median() == pytest.approx(1, abs=0.1)
    known = theirs["ps"] > 0
    for name in chromosomes[:2]:
        here = known & (theirs["chr"] == name)
        leads = [theirs.loc[values[here].idxmax(), "ps"] for values in (chi2, theirs["chi2"])]
        assert abs(leads[0] - leads[1]) < 5_000_000
    assert chi2.max() > 100


def test_ridge__says_that_a_model_is_not_solved(
    related: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mixed_model, "MAX_ITERATIONS", 2)
    inputs = ("--genotypes", related / "g", "--traits", related / "t.tsv")
    arguments = ("ridge", *inputs, "--out", tmp_path / "loco")
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == 1
    assert "the mixed model is not solved (conjugate gradients: after 2 steps" in result.output
    assert not (tmp_path / "loco").exists()


def test_analyses__hold_the_predictions_of_one_autosome_at_a_time(
    related: Path, tmp_path: Path
) -> None:
    """They are as large as the traits, each."""
    inputs = ("--genotypes", related / "g", "--traits", related / "t.tsv")
    gwas("ridge", *inputs, "--out", tmp_path / "loco")
    alive: list[weakref.ref[engine.Analysis]] = []
    most = 0

    def counted(*arguments: Any, **settings: Any) -> engine.Analysis:
        nonlocal most
        made = analysis_of(*arguments, **settings)
        alive.append(weakref.ref(made))
        most = max(most, sum(one() is not None for one in alive))
        return made

    analysis_of = engine.analysis_of
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "analysis_of", counted)
        gwas("associate", *inputs, "--loco", tmp_path / "loco", "--out", tmp_path / "s")
    assert len(alive) == 5  # without predictions, and of four chromosomes
    assert most <= 4  # the first, that of the tests, and those of parts that are being written


def test_associate__tests_some_of_the_traits_of_ridge(related: Path, tmp_path: Path) -> None:
    inputs = ("--genotypes", related / "g", "--traits", related / "t.tsv")
    gwas("ridge", *inputs, "--out", tmp_path / "both")
    gwas("ridge", *inputs, "--trait", "a", "--out", tmp_path / "a")
    assert read_loco(tmp_path / "a").traits == ["a"]
    mixed = (*inputs, "--loco", tmp_path / "both")
    gwas("associate", *mixed, "--out", tmp_path / "all")
    gwas("associate", *mixed, "--trait", "b", "--out", tmp_path / "some")
    some, every = read_sumstats(tmp_path / "some"), read_sumstats(tmp_path / "all")
    assert (some.traits, every.traits) == (["b"], ["a", "b"])
    for name in ("beta", "se"):
        np.testing.assert_allclose(some.trait("b")[name], every.trait("b")[name], rtol=1e-5)
    words = ["associate", *inputs, "--loco", tmp_path / "a", "--out", tmp_path / "x"]
    result = CliRunner().invoke(main, list(map(str, words)))
    assert result.exit_code == 1
    assert "has nothing of the traits b, of a alone; fit all that are tested" in result.output


def renamed(related: Path, out: Path, names: dict[str, str]) -> Path:
    """The genotypes with other names of chromosomes."""
    for suffix in (".bed", ".fam"):
        out.with_name(out.name + suffix).write_bytes((related / f"g{suffix}").read_bytes())
    table = pd.read_csv(related / "g.bim", sep="\t", header=None, dtype=str)
    table[0] = table[0].map(names)
    table.to_csv(f"{out}.bim", sep="\t", header=False, index=False)
    return out


def test_associate__chromosomes_by_number_are_those_by_letter(
    related: Path, tmp_path: Path
) -> None:
    letters = {"1": "chr1", "2": "chr2", "3": "X", "4": "XY"}
    numbers = {"1": "01", "2": "2", "3": "23", "4": "25"}
    traits = ("--traits", related / "t.tsv")
    results = {}
    for name, chromosomes in (("letters", letters), ("numbers", numbers)):
        genotypes = ("--genotypes", renamed(related, tmp_path / name, chromosomes))
        if name == "letters":
            gwas("ridge", *genotypes, *traits, "--out", tmp_path / "loco")
        out = tmp_path / f"of_{name}"
        gwas("associate", *genotypes, *traits, "--loco", tmp_path / "loco", "--out", out)
        results[name] = read_sumstats(out).trait("b").drop(columns="chromosome")
    pd.testing.assert_frame_equal(results["numbers"], results["letters"])
    store = read_loco(tmp_path / "loco")
    people = [f"i{i}" for i in range(600)]
    by_letter, by_number, others = (store.residuals(n, people, ["a"])[0] for n in ("X", "23", "9"))
    np.testing.assert_array_equal(by_letter, by_number)
    assert not np.array_equal(by_letter, others)


def test_associate__says_that_more_people_were_fitted(
    related: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    inputs = ("--genotypes", related / "g", "--traits", related / "t.tsv")
    gwas("ridge", *inputs, "--out", tmp_path / "loco")
    (tmp_path / "keep.txt").write_text("".join(f"i{i}\n" for i in range(400)))
    mixed = ("associate", *inputs, "--loco", tmp_path / "loco", "--out")
    gwas(*mixed, tmp_path / "all")
    assert "more than are tested" not in caplog.text
    gwas(*mixed, tmp_path / "some", "--keep", tmp_path / "keep.txt")
    assert "is of 200 people more than are tested (400), such as i400: standard" in caplog.text


def test_associate__a_trait_that_some_lack_was_fitted_without_them(
    related: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    traits = pd.read_csv(related / "t.tsv", sep="\t", dtype={"IID": str})
    traits.loc[500:, "b"] = np.nan
    traits.to_csv(tmp_path / "t.tsv", sep="\t", index=False, na_rep="NA")
    inputs = ("--genotypes", related / "g", "--traits", tmp_path / "t.tsv")
    gwas("ridge", *inputs, "--out", tmp_path / "loco")
    mixed = ("associate", *inputs, "--trait", "b", "--loco", tmp_path / "loco")
    gwas(*mixed, "--out", tmp_path / "s")
    assert read_sumstats(tmp_path / "s").n_samples == traits["b"].notna().sum() < 500
    assert "more than are tested" not in caplog.text
    arguments = [*mixed, "--complete-traits", "--out", tmp_path / "c"]
    result = CliRunner().invoke(main, list(map(str, arguments)))
    assert result.exit_code == 1
    assert "--complete-traits chooses people by them" in result.output


def test_associate__names_a_store_of_other_people_traits_or_settings(
    related: Path, tmp_path: Path
) -> None:
    table = pd.read_csv(related / "t.tsv", sep="\t")
    table[["IID", "a"]].iloc[:500].to_csv(tmp_path / "some.tsv", sep="\t", index=False)
    genotypes = ("--genotypes", related / "g")
    gwas("ridge", *genotypes, "--traits", tmp_path / "some.tsv", "--out", tmp_path / "loco")
    arguments = ["associate", *genotypes, "--loco", tmp_path / "loco", "--out", tmp_path / "s"]
    for columns, words in (
        (["IID", "a"], "lacks 100 of 600 people, such as 'i500', 'i501', 'i502'; fit them too"),
        (["IID", "b"], "has nothing of the traits b"),
    ):
        table[columns].to_csv(tmp_path / "t.tsv", sep="\t", index=False, na_rep="NA")
        more = ["--traits", tmp_path / "t.tsv"]
        result = CliRunner().invoke(main, [str(word) for word in (*arguments, *more)])
        assert result.exit_code == 1
        assert words in result.output
    # the traits come from the store, so another treatment here would silently be without effect
    more = ["--traits", tmp_path / "some.tsv", "--keep", tmp_path / "some.tsv"]
    table[["IID", "a"]].iloc[:500].eval("a = -a").to_csv(tmp_path / "t.tsv", sep="\t", index=False)
    others = ["--traits", tmp_path / "t.tsv", *more[2:]]
    for options, words in (
        (
            [*more, "--rank-normal", "values"],
            "with no --rank-normal, and here is --rank-normal 'values'",
        ),
        ([*more, "--model", "1"], "with no --model, and here is --model '1'; give ridge and"),
        (others, "made from other files by --traits; give ridge and"),
    ):
        result = CliRunner().invoke(main, [str(word) for word in (*arguments, *options)])
        assert result.exit_code == 1
        assert words in " ".join(result.output.split())
    assert not (tmp_path / "s").exists()
    (tmp_path / "loco" / "chr1.parquet").write_bytes(b"")
    result = CliRunner().invoke(main, [str(word) for word in (*arguments, *more)])
    assert "missing or changed since it was written" in result.output

"""Haseman-Elston regression against the dense relationship matrix and planted heritabilities."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result
from numpy.typing import NDArray
from plink_files import write_plink

from axoloci.errors import InputError
from axoloci.io.sumstats import read_sumstats
from axoloci.tasks.genetics.cli import main as genetics
from axoloci.tasks.genetics.commands.heritability import HERITABILITY_COLUMNS, PAIR_COLUMNS
from axoloci.tasks.genetics.commands.joint import ALSO_COLUMNS, JOINT_COLUMNS
from axoloci.tasks.genetics.covariance_file import read_covariance
from axoloci.tasks.genetics.heritability import (
    GeneticCovariance,
    genetic_correlation,
    genetic_covariance,
    heritability,
    jackknife_se,
    relationship_traces,
)
from axoloci.tasks.genetics.permutation_tests import fit_min_p, fit_mostest, min_p, mostest
from axoloci.tasks.genetics.voxel_genetics import voxel_heritability
from axoloci.tasks.gwas.cli import main as gwas

N, M, K = 500, 3000, 3
TRAITS = ["one", "two", "none"]


def run(command: object, *words: object) -> Result:
    return CliRunner().invoke(command, [str(word) for word in words])


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """2% of the genotypes missing, X beside two autosomes, a covariate; with its store."""
    folder = tmp_path_factory.mktemp("heritability")
    rng = np.random.default_rng(3)
    dosage = rng.binomial(2, rng.uniform(0.1, 0.5, (M, 1)), (M, N)).astype(np.int8)
    dosage[11] = 1  # constant
    g = (dosage - dosage.mean(axis=1, keepdims=True)) / (dosage.std(axis=1, keepdims=True) + 1e-9)
    effects = rng.normal(size=(M, 2)) @ np.array([[1.0, 0.7], [0.0, 0.7]])
    y = rng.normal(size=(N, K)) * np.sqrt([0.2, 0.2, 1.0])
    y[:, :2] += np.sqrt(0.8) * (g.T @ effects) / np.sqrt(M)
    age = rng.normal(size=N)
    y += age[:, None]
    dosage[rng.random(dosage.shape) < 0.02] = -9
    np.savez(folder / "truth.npz", dosage=dosage, y=y, age=age)
    chromosome = ["1"] * 1000 + ["X"] * 200 + ["2"] * (M - 1200)
    write_plink(folder / "g", dosage, chromosome, sex=[1, 2] * (N // 2))
    ids = [f"i{i}" for i in range(N)]
    pd.DataFrame(y, columns=TRAITS).assign(IID=ids)[["IID", *TRAITS]].to_csv(
        folder / "y.tsv", sep="\t", index=False
    )
    pd.DataFrame({"IID": ids, "age": age}).to_csv(folder / "c.tsv", sep="\t", index=False)
    associate(folder, "s")
    return folder


def associate(folder: Path, out: str, *more: object) -> Result:
    done = run(
        *(gwas, "associate", "--genotypes", folder / "g", "--traits", folder / "y.tsv"),
        *("--covariates", folder / "c.tsv", "--out", folder / out, "--threads", 1, *more),
    )
    assert done.exit_code == 0, done.output
    return done


def dense(folder: Path) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Autosomal genotypes (M', N), traits (N, K) less the covariate, and the projection (N, N)."""
    truth = np.load(folder / "truth.npz")
    q, _ = np.linalg.qr(np.column_stack([np.ones(N), truth["age"]]))
    project = np.eye(N) - q @ q.T
    autosomal = np.r_[:1000, 1200:M]
    calls = truth["dosage"][autosomal]
    mean = np.ma.masked_less(calls, 0).mean(axis=1, keepdims=True)
    g = np.where(calls < 0, mean.filled(0), calls) @ project
    return g[np.square(g).sum(axis=1) > 1e-6], project @ truth["y"], project


def test_relationship_traces__are_those_of_the_dense_matrix(study: Path) -> None:
    g, _, _ = dense(study)
    x = g / np.linalg.norm(g, axis=1, keepdims=True)
    found = read_sumstats(study / "s").relationship
    assert found["n_tested"].sum() == len(x) == found["n_rows"].sum() - 1
    whole, without = relationship_traces(found)
    assert whole == pytest.approx(np.square(x.T @ x).sum(), rel=0.02)
    left = x[found["n_tested"][0] :]
    ratio = np.square(left.T @ left).sum() / np.square(x.T @ x).sum()
    assert without[0] / whole == pytest.approx(ratio, rel=0.002)


def haseman_elston(
    y: NDArray[np.float64], kinship: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Genetic covariance of columns of y, and what else they share, by the normal equations.

    Products of pairs of people, those with themselves among them, on kinship and identity, all in
    the space that the covariates leave, of as many dimensions as y has rows.
    """
    n = len(y)
    normal = np.array([[np.square(kinship).sum(), kinship.trace()], [kinship.trace(), n]])
    found = np.linalg.solve(normal, np.stack([(y.T @ kinship @ y).ravel(), (y.T @ y).ravel()]))
    genetic, rest = found.reshape(2, y.shape[1], y.shape[1])
    return genetic, rest


def test_voxel_heritability__with_probes_of_every_direction_is_exact() -> None:
    """√ν times an orthonormal basis of what the covariates leave: then tr A² has no noise."""
    n_people, n_covariates, m, k, n_voxels, n_blocks = 60, 4, 300, 3, 7, 20
    nu = n_people - n_covariates
    rng = np.random.default_rng(8)
    covariates = rng.normal(size=(n_people, n_covariates))
    rest = np.linalg.svd(covariates)[0][:, n_covariates:]  # (n_people, ν) orthonormal
    dosage = rng.binomial(2, 0.3, (m, n_people)) @ rest
    x = dosage / np.linalg.norm(dosage, axis=1, keepdims=True)  # (m, ν)
    y = rest.T @ rng.normal(size=(n_people, k)) + x.T @ rng.normal(size=(m, k)) / 3  # (ν, k)
    blocks = [one.T @ one for one in np.split(x, n_blocks)]  # A_b, (ν, ν)
    whole = np.sum(blocks, axis=0)
    w = np.sqrt(nu) * np.linalg.qr(rng.normal(size=(nu, nu)))[0]  # a column a probe
    relationship = {
        "first": np.array([(w * (a @ w)).sum(axis=0) for a in blocks]),
        "own": np.array([np.square(a @ w).sum(axis=0) for a in blocks]),
        "cross": np.array([((whole @ w) * (a @ w)).sum(axis=0) for a in blocks]),
        "squares": np.square(w).sum(axis=0),
        "df": np.array(nu),
        "n_tested": np.full(n_blocks, m // n_blocks),
    }
    trace, without = relationship_traces(relationship)
    assert trace == pytest.approx(np.trace(whole @ whole), rel=1e-12)
    left = [np.square(whole - a).sum() for a in blocks]
    np.testing.assert_allclose(without, left, rtol=1e-12)
    length = np.linalg.norm(y, axis=0)
    r = (x @ y / length).reshape(n_blocks, -1, k)  # partial correlations, by block
    scores = np.einsum("bjk,bjl->bkl", r, r)
    correlation, sd = y.T @ y / np.outer(length, length), length / np.sqrt(nu)
    covariance = genetic_covariance(scores, relationship["n_tested"], correlation, sd, relationship)
    basis = rng.normal(size=(k, n_voxels))
    voxels = y @ basis  # (ν, n_voxels)
    h2, se = voxel_heritability(covariance, basis)

    def dense(a: NDArray[np.float64], of: int) -> NDArray[np.float64]:
        """Of each voxel, with the relationship ν A / M of M variants."""
        genetic, other = haseman_elston(voxels, nu / of * a)
        share = np.diag(genetic) / np.diag(genetic + other)
        np.testing.assert_allclose(np.diag(genetic + other), np.square(voxels).sum(axis=0) / nu)
        return np.asarray(share)

    np.testing.assert_allclose(h2, dense(whole, m), rtol=1e-10, atol=1e-10)
    left_out = np.array([dense(whole - a, m - m // n_blocks) for a in blocks])
    spread = np.square(left_out - left_out.mean(axis=0)).sum(axis=0)
    expected = np.sqrt((n_blocks - 1) / n_blocks * spread)
    np.testing.assert_allclose(se, expected, rtol=1e-10, atol=1e-10)
    assert np.abs(h2).max() > 0.1


def test_heritability__is_haseman_elston_of_the_dense_matrix(study: Path, tmp_path: Path) -> None:
    """Regression of products of pairs of people on their relationship, by its normal equations."""
    done = run(genetics, "heritability", "--sumstats", study / "s", "--out", tmp_path)
    assert done.exit_code == 0, done.output
    g, y, project = dense(study)
    x = g / np.linalg.norm(g, axis=1, keepdims=True)
    nu = N - 2
    kinship = nu / len(x) * (x.T @ x)
    normal = np.array([[np.square(kinship).sum(), kinship.trace()], [kinship.trace(), nu]])
    products = [np.einsum("nk,nm,ml->kl", y, matrix, y) for matrix in (kinship, project)]
    genetic = np.einsum("i,ikl->kl", np.linalg.inv(normal)[0], np.array(products))
    expected = np.diag(genetic) / (np.square(y).sum(axis=0) / nu)
    table = pd.read_csv(tmp_path / "heritability.tsv", sep="\t")
    assert table["trait"].tolist() == TRAITS
    # apart by the noise of eight probes, and by missing genotypes
    np.testing.assert_allclose(table["h2"], expected, atol=0.03 * np.abs(expected).max() + 0.01)
    file = read_covariance(tmp_path / "genetic_covariance.npz")
    covariance = file.covariance
    assert (file.traits, file.transformed) == (TRAITS, "")
    pairs = pd.read_csv(tmp_path / "genetic_correlation.tsv", sep="\t", na_values="n/a")
    assert (pairs["trait_1"][0], pairs["trait_2"][0]) == ("one", "two")
    sd = np.sqrt(np.diag(genetic)[:2])
    assert pairs["rg"][0] == pytest.approx(genetic[0, 1] / sd[0] / sd[1], abs=0.03)
    np.testing.assert_allclose(
        covariance.phenotypic, y.T @ y / N, rtol=1e-5, atol=1e-5 * np.square(y).mean()
    )
    assert table.columns.tolist() == list(HERITABILITY_COLUMNS)
    assert pairs.columns.tolist() == list(PAIR_COLUMNS)
    told = run(genetics, "heritability", "--help").output
    assert all(f"\n    {name}  " in told for name in HERITABILITY_COLUMNS | PAIR_COLUMNS)
    about = json.loads((tmp_path / "heritability.json").read_text())
    assert about["n_probes"] == 8
    assert about["n_variants"] == len(g)


def test_heritability__covers_what_was_planted(
    study: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run(genetics, "heritability", "--sumstats", study / "s", "--out", tmp_path)
    assert "2 of 3 genetic correlations are of a trait whose heritability is below 2" in caplog.text
    table = pd.read_csv(tmp_path / "heritability.tsv", sep="\t").set_index("trait")
    z = (table["h2"] - pd.Series({"one": 0.8, "two": 0.8, "none": 0.0})) / table["h2_se"]
    assert (z.abs() < 3).all()
    assert table.loc["one", "h2"] > 3 * table.loc["one", "h2_se"]


def test_associate__probes_do_not_change_the_results(study: Path) -> None:
    associate(study, "plain", "--n-probes", 0, "--n-permuted", 0)
    stores = [read_sumstats(study / name) for name in ("s", "plain")]
    for name in TRAITS:
        ours, theirs = (store.trait(name) for store in stores)
        np.testing.assert_allclose(ours["beta"], theirs["beta"], rtol=1e-9)
    with pytest.raises(InputError, match="--n-probes 8"):
        _ = stores[1].relationship
    with pytest.raises(InputError, match="--n-permuted 20000"):
        _ = stores[1].permuted
    assert not (study / "plain" / "beside.npz").exists()


def test_associate__permuted_statistics_have_the_traits_correlation(study: Path) -> None:
    store = read_sumstats(study / "s")
    t = store.permuted
    assert t.shape == (M - 200, K)
    t = t[np.isfinite(t).all(axis=1)]
    assert len(t) == M - 200 - 1  # the constant one
    assert np.square(t).mean() == pytest.approx(1, abs=0.06)  # although two are heritable
    np.testing.assert_allclose(np.corrcoef(t.T), store.trait_correlation, atol=0.07)


def test_associate__a_killed_run_keeps_the_same_beside_it(study: Path) -> None:
    """A part is made again when what was kept beside it is gone; the end is the same."""
    associate(study, "killed", "--plan-only")
    for name in ("1", "X", "2"):
        associate(study, "killed", "--chromosome", name)
    lost = study / "killed" / "chr2" / "part-00000.beside.npz"
    lost.unlink()
    associate(study, "killed")
    assert not lost.exists()
    ours, theirs = ((study / name / "beside.npz").read_bytes() for name in ("s", "killed"))
    assert ours == theirs


def test_heritability__of_a_trait_that_some_lack(study: Path, tmp_path: Path) -> None:
    table = pd.read_csv(study / "y.tsv", sep="\t")
    table.loc[:9, "two"] = np.nan
    table.to_csv(tmp_path / "y.tsv", sep="\t", index=False, na_rep="NA")
    for name in ("g.bed", "g.bim", "g.fam", "c.tsv"):
        (tmp_path / name).symlink_to(study / name)
    associate(tmp_path, "s")
    words = ("heritability", "--sumstats", tmp_path / "s", "--out", tmp_path)
    done = run(genetics, *words, "--traits", "one,two")
    assert done.exit_code == 1
    assert "some people lack two" in done.output
    assert run(genetics, *words).exit_code == 0
    assert pd.read_csv(tmp_path / "heritability.tsv", sep="\t")["trait"].tolist() == ["one", "none"]


def test_heritability__missing_genotypes_do_not_look_like_it(tmp_path: Path) -> None:
    """Correlations of fewer people are larger by chance."""
    rng = np.random.default_rng(5)
    dosage = rng.binomial(2, 0.3, (3000, 300)).astype(np.int8)
    dosage[rng.random(dosage.shape) < 0.05] = -9
    write_plink(tmp_path / "g", dosage)
    table = pd.DataFrame(rng.normal(size=(300, 40))).add_prefix("y")
    table.insert(0, "IID", [f"i{i}" for i in range(300)])
    table.to_csv(tmp_path / "y.tsv", sep="\t", index=False)
    run(
        *(gwas, "associate", "--genotypes", tmp_path / "g", "--traits", tmp_path / "y.tsv"),
        *("--out", tmp_path / "s", "--threads", 1),
    )
    done = run(genetics, "heritability", "--sumstats", tmp_path / "s", "--out", tmp_path)
    assert done.exit_code == 0, done.output
    h2 = pd.read_csv(tmp_path / "heritability.tsv", sep="\t")["h2"]
    assert abs(h2.mean()) < 3.5 * h2.std() / np.sqrt(len(h2))


def test_associate__permuted_statistics_of_traits_that_some_lack(
    study: Path, tmp_path: Path
) -> None:
    table = pd.read_csv(study / "y.tsv", sep="\t")
    table.loc[: N // 3, "none"] = np.nan
    table.to_csv(tmp_path / "y.tsv", sep="\t", index=False, na_rep="NA")
    for name in ("g.bed", "g.bim", "g.fam", "c.tsv"):
        (tmp_path / name).symlink_to(study / name)
    associate(tmp_path, "s")
    t = read_sumstats(tmp_path / "s").permuted[:, 2]
    assert np.nanmean(np.square(t)) == pytest.approx(1, abs=0.08)


def test_jackknife_se__of_a_mean_is_its_standard_error() -> None:
    x = np.random.default_rng(0).normal(size=40)
    without = (x.sum() - x) / 39
    truth = x.std(ddof=1) / np.sqrt(40)
    assert jackknife_se(without) == pytest.approx(truth, rel=1e-12)
    of_two = np.column_stack([np.append(without, np.nan), np.full(41, np.nan)])  # (41, 2)
    assert np.isnan(jackknife_se(of_two)).all()
    np.testing.assert_allclose(jackknife_se(of_two, skip_missing=True), [truth, np.nan])


def test_genetic_correlation__is_not_defined_without_heritability() -> None:
    genetic = np.array([[0.4, 0.1, 0.1], [0.1, 0.4, 0.1], [0.1, 0.1, -0.01]])
    covariance = GeneticCovariance(genetic, np.eye(3), np.repeat(genetic[None], 20, axis=0))
    found = genetic_correlation(covariance)
    assert found.value[0, 1] == pytest.approx(0.25)
    assert np.isnan(found.value[:, 2]).all()
    np.testing.assert_allclose(heritability(covariance).value, [0.4, 0.4, -0.01])


def test_heritability__too_few_variants(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    write_plink(tmp_path / "g", rng.binomial(2, 0.3, (300, 100)).astype(np.int8))
    pd.DataFrame({"IID": [f"i{i}" for i in range(100)], "a": rng.normal(size=100)}).to_csv(
        tmp_path / "y.tsv", sep="\t", index=False
    )
    run(
        *(gwas, "associate", "--genotypes", tmp_path / "g", "--traits", tmp_path / "y.tsv"),
        *("--out", tmp_path / "s", "--rank-normal", "values", "--winsorize", 4),
    )
    done = run(genetics, "heritability", "--sumstats", tmp_path / "s", "--out", tmp_path)
    assert done.exit_code == 1
    assert "too few autosomal variants" in done.output
    words = ("--sumstats", tmp_path / "s", "--out", tmp_path, "--if-possible")
    assert run(genetics, "heritability", *words).exit_code == 0
    assert len(pd.read_csv(tmp_path / "heritability.tsv", sep="\t")) == 0
    assert read_covariance(tmp_path / "genetic_covariance.npz").traits == []
    # what the association did to the traits is handed on
    transformed = read_covariance(tmp_path / "genetic_covariance.npz").transformed
    assert transformed == "--winsorize and --rank-normal"


def test_joint__also_tests_by_the_permuted_genotypes(study: Path, tmp_path: Path) -> None:
    store, out = study / "s", tmp_path / "joint.parquet"
    also = ("--also", "minp", "--also", "mostest")
    done = run(genetics, "joint", "--sumstats", store, "--traits", "none,one", *also, "--out", out)
    assert done.exit_code == 0, done.output
    table = pd.read_parquet(out)
    about = json.loads(pq.read_schema(out).metadata[b"axoloci"])
    assert list(about["also"]) == ["minp", "mostest"]
    assert about["also"]["minp"]["n_effective_tests"] == pytest.approx(2, rel=0.1)
    opened = read_sumstats(store)
    frames = [opened.trait(name) for name in ("none", "one")]
    t = np.stack([frame["beta"] / frame["se"] for frame in frames], axis=1)
    own = np.stack([frame["neg_log10_p"] for frame in frames], axis=1)
    permuted = opened.permuted[:, [2, 0]]
    correlation = opened.trait_correlation[np.ix_([2, 0], [2, 0])]
    expected = {
        "mostest": mostest(t, fit_mostest(permuted, correlation)),
        "minp": min_p(own.max(axis=1), fit_min_p(permuted, N - 3)),
    }
    tested = np.isfinite(table["neg_log10_p"])
    assert tested.sum() > M - 10
    assert table.columns.tolist() == list(JOINT_COLUMNS | ALSO_COLUMNS)
    told = run(genetics, "joint", "--help").output
    assert all(f"\n    {name}  " in told for name in table)
    for name, values in expected.items():
        ours = table[f"neg_log10_p_{name}"]
        np.testing.assert_allclose(ours[tested], values[tested], rtol=2e-3, atol=1e-3)
        assert ours[~tested].isna().all()


def test_joint__also_needs_permuted_genotypes_and_traits_of_the_same_people(
    study: Path, tmp_path: Path
) -> None:
    associate(study, "unpermuted", "--n-permuted", 0)
    words = ("--also", "minp", "--out", tmp_path / "joint.parquet")
    done = run(genetics, "joint", "--sumstats", study / "unpermuted", *words)
    assert done.exit_code == 1
    assert "--n-permuted 20000" in done.output
    table = pd.read_csv(study / "y.tsv", sep="\t")
    table.loc[:9, "two"] = np.nan
    table.to_csv(tmp_path / "y.tsv", sep="\t", index=False, na_rep="NA")
    for name in ("g.bed", "g.bim", "g.fam", "c.tsv"):
        (tmp_path / name).symlink_to(study / name)
    associate(tmp_path, "s")
    for more in (words, words[2:]):  # also without other tests: its p would be far too small
        done = run(genetics, "joint", "--sumstats", tmp_path / "s", "--traits", "one,two", *more)
        assert done.exit_code == 1
        assert "some lack two" in done.output

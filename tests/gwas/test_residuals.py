"""`axoloci-gwas residuals`, beside least squares by statsmodels and the store of associate."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from click.testing import CliRunner, Result
from numpy.typing import NDArray
from plink_files import write_plink
from scipy import stats

from axoloci.errors import InputError
from axoloci.io.residuals import read_residuals
from axoloci.io.sumstats import read_sumstats
from axoloci.tasks.gwas.cli import main
from axoloci.tasks.gwas.residuals import dosage_residuals

N, N_VARIANTS = 90, 12


def gwas(*arguments: object, fails: bool = False) -> Result:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert (result.exit_code != 0) == fails, result.output + repr(result.exception)
    return result


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """People of whom some lack a genotype, a trait or a covariate; the tables are shuffled."""
    folder = tmp_path_factory.mktemp("study")
    rng = np.random.default_rng(0)
    dosage = rng.binomial(2, 0.4, (N_VARIANTS, N)).astype(np.int8)
    dosage[3, :5] = -9
    write_plink(folder / "g", dosage, ["1"] * 6 + ["2"] * 4 + ["X"] * 2, sex=[1, 2] * (N // 2))
    ids = [f"i{i}" for i in range(N)]
    covariates = pd.DataFrame({"IID": ids, "age": rng.uniform(40, 80, N)})
    covariates["site"] = rng.choice(["north", "south"], N)
    covariates.loc[8, "age"] = np.nan
    age = covariates["age"].fillna(60) / 20
    traits = pd.DataFrame({"IID": ids, "flat": 1.0})
    traits["b"], traits["a"] = rng.normal(size=N) + age, rng.normal(size=N) - 3 * age
    traits.loc[20:30, "b"] = np.nan
    for name, table in (("t", traits), ("c", covariates)):
        shuffled = table.sample(frac=1, random_state=1)
        shuffled.to_csv(folder / f"{name}.tsv", sep="\t", index=False, na_rep="NA")
    pd.DataFrame(
        {
            "locus": [1],
            "chromosome": ["2"],
            "base_pair_location": [1007],
            "variant_id": ["rs7"],
            "effect_allele": ["A"],
            "other_allele": ["C"],
        }
    ).to_csv(folder / "loci.tsv", sep="\t", index=False)
    return folder


def inputs(folder: Path, *more: object) -> tuple[object, ...]:
    tables = ("--traits", folder / "t.tsv", "--covariates", folder / "c.tsv")
    return ("--genotypes", folder / "g", *tables, *more)


def tables_of(folder: Path, people: list[str]) -> tuple[pd.DataFrame, NDArray[np.float64]]:
    """Traits of some people and the design of their covariates."""
    traits, covariates = (
        pd.read_csv(folder / f"{name}.tsv", sep="\t").set_index("IID").loc[people] for name in "tc"
    )
    design = np.column_stack([covariates["age"], covariates["site"] == "north"]).astype(float)
    return traits, sm.add_constant(design)


def test_residuals__of_traits_are_those_of_least_squares(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    files = ("--out", tmp_path / "r.parquet", "--dosages", tmp_path / "d.parquet")
    gwas("residuals", *inputs(folder), *files)
    found = read_residuals(tmp_path / "r.parquet", "traits")
    assert found.names == ["b", "a"]  # as in the table; one that is constant is left out
    assert found.sample_id == [f"i{i}" for i in range(N) if i != 8]
    traits, design = tables_of(folder, found.sample_id)
    for name, left in zip(found.names, found.left.T, strict=True):
        has = traits[name].notna().to_numpy()
        truth = sm.OLS(traits[name][has].to_numpy(), design[has]).fit().resid
        np.testing.assert_allclose(left[has], truth, atol=1e-10)
        assert np.isnan(left[~has]).all()
    assert "trait flat is left out" in caplog.text
    assert "not for sharing" in caplog.text
    assert not (tmp_path / "d.parquet").exists()  # of no variants
    none = folder / "no_loci.tsv"
    none.write_text((folder / "loci.tsv").read_text().splitlines()[0] + "\n")
    gwas("residuals", *inputs(folder), "--loci", none, *files)  # a study without loci goes on
    assert read_residuals(tmp_path / "d.parquet", "dosages").left.shape == (N - 1, 0)


def test_residuals__without_variants_leave_the_dosages_of_an_earlier_run(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    dosages, other = tmp_path / "d.parquet", tmp_path / "other.parquet"
    files = ("--out", tmp_path / "r.parquet", "--dosages", dosages)
    gwas("residuals", *inputs(folder), "--variant", "rs2", *files)
    of_earlier = dosages.read_bytes()
    assert "earlier run" not in caplog.text
    gwas("residuals", *inputs(folder), *files)
    assert dosages.read_bytes() == of_earlier
    assert f"{dosages} is of an earlier run and was not written again" in caplog.text
    caplog.clear()
    pd.DataFrame({"mine": [1.0]}).to_parquet(other)  # of the user
    gwas("residuals", *inputs(folder), *files[:2], "--dosages", other)
    assert other.exists()
    assert "earlier run" not in caplog.text


def test_residuals__are_of_the_ranks_that_associate_tests(folder: Path, tmp_path: Path) -> None:
    chosen = inputs(folder, "--rank-normal", "values", "--trait", "a", "--model", "site")
    files = ("--out", tmp_path / "r.parquet", "--dosages", tmp_path / "d.parquet")
    gwas("residuals", *chosen, *files)
    gwas("associate", *chosen, "--device", "cpu", "--out", tmp_path / "s")
    found, store = read_residuals(tmp_path / "r.parquet", "traits"), read_sumstats(tmp_path / "s")
    assert found.sample_id == store.sample_id
    np.testing.assert_allclose(found.left.std(axis=0), store.trait_residual_sd)
    traits, design = tables_of(folder, found.sample_id)
    scores = stats.norm.ppf((stats.rankdata(traits["a"]) - 0.5) / len(traits))
    left = sm.OLS(scores, design[:, [0, 2]]).fit().resid
    assert np.corrcoef(found.left[:, 0], left)[0, 1] > 0.999


def test_residuals__of_dosages_give_the_effects_of_the_store(folder: Path, tmp_path: Path) -> None:
    """Frisch, Waugh and Lovell: both residuals have the slope of the whole regression."""
    chosen = ("--variant", "rs2", "--variant", "rs11", "--loci", folder / "loci.tsv")
    files = ("--out", tmp_path / "r.parquet", "--dosages", tmp_path / "d.parquet")
    gwas("residuals", *inputs(folder), *chosen, *files)
    gwas("associate", *inputs(folder), "--device", "cpu", "--out", tmp_path / "s")
    dosages = read_residuals(tmp_path / "d.parquet", "dosages")
    traits = read_residuals(tmp_path / "r.parquet", "traits")
    assert dosages.names == ["rs2", "rs7"]  # rs11 is on X
    assert [row["base_pair_location"] for row in dosages.about["variants"]] == [1002, 1007]
    assert dosages.about["covariates"][0] == "intercept"
    g, y = dosages.left, traits.left[:, traits.names.index("a")]
    slope = g.T @ y / np.square(g).sum(axis=0)
    store = read_sumstats(tmp_path / "s").trait("a").set_index("variant_id")
    np.testing.assert_allclose(slope, store.loc[dosages.names, "beta"], rtol=1e-5)


def test_residuals__take_na_as_the_id_and_allele_of_a_lead(folder: Path, tmp_path: Path) -> None:
    for ending in ("bed", "fam"):
        (tmp_path / f"g.{ending}").write_bytes((folder / f"g.{ending}").read_bytes())
    variants, loci = ((folder / name).read_text() for name in ("g.bim", "loci.tsv"))
    (tmp_path / "g.bim").write_text(variants.replace("rs7\t0\t1007\tA", "NA\t0\t1007\tNA"))
    (tmp_path / "loci.tsv").write_text(loci.replace("rs7\tA", "NA\tNA"))
    files = ("--out", tmp_path / "r.parquet", "--dosages", tmp_path / "d.parquet")
    of = inputs(folder)[2:]
    gwas("residuals", "--genotypes", tmp_path / "g", *of, "--loci", tmp_path / "loci.tsv", *files)
    assert read_residuals(tmp_path / "d.parquet", "dosages").names == ["NA"]


def test_dosage_residuals__take_the_mean_for_missing_genotypes() -> None:
    rng = np.random.default_rng(2)
    design = sm.add_constant(rng.normal(size=(50, 3)))
    dosage = rng.binomial(2, 0.3, (2, 50)).astype(np.int8)
    dosage[1, 4:9] = -9
    found = dosage_residuals(dosage, np.linalg.qr(design)[0])
    filled = dosage.astype(float)
    filled[1, 4:9] = dosage[1][dosage[1] >= 0].mean()
    for row, left in zip(filled, found.T, strict=True):
        np.testing.assert_allclose(left, sm.OLS(row, design).fit().resid, atol=1e-12)


@pytest.mark.parametrize(
    ("chosen", "said"),
    [
        (("--variant", "rs77"), "no variant rs77; did you mean 'rs7'?"),
        (("--variant", "9:77"), "no variant 9:77; its ids look like 'rs0', 'rs1', 'rs2'"),
        (("--loci", "t.tsv"), "no column chromosome"),
        (("--loci", "wrong.tsv"), "lacks 1 lead variants"),
        (("--trait", "flat"), "no trait can be tested"),
        (("--dosages", "r.parquet"), "--out and --dosages are both"),
    ],
)
def test_residuals__bad_input(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    chosen: tuple[str, str],
    said: str,
) -> None:
    wrong = (folder / "loci.tsv").read_text().replace("1007", "1008")
    (folder / "wrong.tsv").write_text(wrong)
    option, value = chosen
    value = str(folder / value) if option == "--loci" else value
    monkeypatch.chdir(tmp_path)
    done = gwas("residuals", *inputs(folder), "--out", "r.parquet", option, value, fails=True)
    assert said in done.output
    assert not list(tmp_path.glob("*.parquet"))


def test_read_residuals__refuses_other_tables(folder: Path, tmp_path: Path) -> None:
    files = ("--out", tmp_path / "r.parquet", "--dosages", tmp_path / "d.parquet")
    gwas("residuals", *inputs(folder), *files)
    with pytest.raises(InputError, match="residuals of traits, not of dosages"):
        read_residuals(tmp_path / "r.parquet", "dosages")
    pd.DataFrame({"sample_id": ["i1"], "a": [1.0]}).to_parquet(tmp_path / "other.parquet")
    for path in (tmp_path / "other.parquet", folder / "t.tsv"):
        with pytest.raises(InputError, match="not a table of axoloci-gwas residuals"):
            read_residuals(path, "traits")

"""Replication: the composite from correlations is the regression of the composite itself."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from click.testing import CliRunner, Result
from numpy.typing import NDArray
from scipy import stats
from statsmodels.stats.proportion import proportion_confint

from axoloci.errors import InputError
from axoloci.io.sumstats import SumstatsWriter, plan_parts, read_sumstats
from axoloci.io.sumstats_text import write_sumstats_text
from axoloci.joint_test import partial_correlation
from axoloci.tasks.genetics.cli import main
from axoloci.tasks.genetics.commands.replicate import REPLICATION_COLUMNS
from axoloci.tasks.genetics.replication import (
    combined_correlation,
    rate_interval,
    replicate,
    sign_test,
)


def cohort(n: int, effect: float, seed: int) -> tuple[NDArray, NDArray, NDArray]:
    """Genotype, covariates with the intercept, four correlated traits of which two are changed."""
    rng = np.random.default_rng(seed)
    covariates = np.column_stack([np.ones(n), rng.normal(size=(n, 2))])
    genotype = rng.binomial(2, 0.4, n) + 0.1 * covariates[:, 1]
    traits = rng.normal(size=(n, 4)) @ np.random.default_rng(0).normal(size=(4, 4))
    traits += covariates[:, 1:] @ rng.normal(size=(2, 4))
    traits[:, :2] += effect * genotype[:, None] * np.array([1.0, -2.0])
    return genotype, covariates, traits * (1 + seed)  # each cohort has its own variances


def summary(
    genotype: NDArray, covariates: NDArray, traits: NDArray
) -> tuple[NDArray, NDArray, NDArray, int]:
    """Partial correlations (1, K), correlation and SD of the adjusted traits, df."""
    design = np.column_stack([covariates, genotype])
    fits = [sm.OLS(trait, design).fit() for trait in traits.T]
    beta = np.array([[fit.params[-1] for fit in fits]])
    se = np.array([[fit.bse[-1] for fit in fits]])
    df = int(fits[0].df_resid)
    adjusted = traits - covariates @ np.linalg.lstsq(covariates, traits, rcond=None)[0]
    r = partial_correlation(beta, se, np.full(beta.shape, df))
    return r, np.corrcoef(adjusted.T), adjusted.std(axis=0), df


def test_combined_correlation__is_the_regression_of_the_composite() -> None:
    first, second = cohort(400, 0.4, 1), cohort(300, 0.4, 2)
    r1, c1, s1, _ = summary(*first)
    r2, c2, s2, df = summary(*second)
    r = combined_correlation(r1, c1, s1, r2, c2, s2)
    found = replicate(r, np.array([df]))
    genotype, covariates, traits = second
    composite = traits @ (np.linalg.solve(c1, r1[0]) / s1)
    fit = sm.OLS(composite, np.column_stack([covariates, genotype])).fit()
    expected = -stats.t.logsf(fit.tvalues[-1], df) / np.log(10)
    np.testing.assert_allclose(found.neg_log10_p, [expected], rtol=1e-9)
    assert found.replicated.all()


def test_replicate__one_trait_is_its_one_sided_t_test() -> None:
    r = np.array([[0.2], [-0.2], [0.2]])
    again = np.array([[0.25], [-0.25], [-0.25]])
    one = np.ones((1, 1))
    combined = combined_correlation(r, one, one[0], again, one, one[0])
    found = replicate(combined, np.full(3, 98))
    t = 0.25 * np.sqrt(98 / (1 - 0.25**2))
    p = stats.t.sf(np.array([t, t, -t]), 98)
    np.testing.assert_allclose(found.neg_log10_p, -np.log10(p), rtol=1e-9)
    assert found.replicated.tolist() == [True, True, False]


def test_replicate__null_is_uniform() -> None:
    first = cohort(300, 0.3, 1)
    r1, c1, s1, _ = summary(*first)
    p = []
    for seed in range(2, 302):
        r2, c2, s2, df = summary(*cohort(80, 0.0, seed))
        r = combined_correlation(r1, c1, s1, r2, c2, s2)
        p.append(10 ** -replicate(r, np.array([df])).neg_log10_p[0])
    assert stats.kstest(p, "uniform").pvalue > 0.01


def test_replicate__what_is_absent_is_not_counted() -> None:
    eye, sd = np.eye(2), np.ones(2)
    r = np.array([[0.3, 0.0], [0.3, 0.0]])
    again = np.array([[0.21, 0.0], [np.nan, np.nan]])
    df = np.array([98, np.nan])
    found = replicate(combined_correlation(r, eye, sd, again, eye, sd), df)
    assert np.isnan(found.neg_log10_p).tolist() == [False, True]
    assert found.replicated.tolist() == [True, False]  # the level is not halved: one was tested


def test_replicate__the_threshold_can_be_given() -> None:
    r = np.array([0.3, 0.15, -0.3])
    p = stats.t.sf(0.15 * np.sqrt(98 / (1 - 0.15**2)), 98)
    assert replicate(r, np.full(3, 98)).p_threshold == pytest.approx(0.05 / 3)
    assert replicate(r, np.full(3, 98)).replicated.tolist() == [True, False, False]
    assert replicate(r, np.full(3, 98), p * 1.01).replicated.tolist() == [True, True, False]
    assert replicate(r, np.full(3, 98), p * 0.99).replicated.tolist() == [True, False, False]


def test_rate_interval__is_that_of_statsmodels() -> None:
    for n_replicated, n_tested in ((0, 5), (3, 7), (90, 90)):
        truth = proportion_confint(n_replicated, n_tested, method="wilson")
        assert rate_interval(n_replicated, n_tested) == pytest.approx(truth)
    assert rate_interval(0, 0) == (0, 1)


def test_combined_correlation__dependent_traits_are_refused() -> None:
    with pytest.raises(InputError, match="linearly dependent"):
        combined_correlation(
            *(np.ones((1, 2)) / 3, np.ones((2, 2)), np.ones(2)),
            *(np.ones((1, 2)) / 3, np.eye(2), np.ones(2)),
        )


def test_sign_test__is_the_binomial_one() -> None:
    assert sign_test(np.array([1.0, 1, 1, np.nan])) == pytest.approx(0.125)
    assert sign_test(np.array([np.nan])) == 1.0


COLUMNS = ["chromosome", "base_pair_location", "variant_id", "effect_allele", "other_allele"]
LEADS = pd.DataFrame(
    [
        ("1", 100, "rs1", "A", "G"),
        ("1", 200, "rs2", "A", "C"),
        ("2", 300, "rs3", "A", "T"),
        ("2", 400, "rs4", "C", "G"),
        ("X", 500, "rs5", "AT", "A"),
        ("X", 600, "rs6", "A", "G"),
    ],
    columns=COLUMNS,
)
FREQUENCY = np.array([0.2, 0.3, 0.2, 0.46, 0.1, 0.3])
BETA = np.array([1.0, 2, -2, 2, 1, 2])


def write_store(
    path: Path, variants: pd.DataFrame, beta: NDArray, frequency: NDArray, correlation: float = 0
) -> None:
    """A store of two traits, height and weight, of 200 people; the second has no effects."""
    parts = plan_parts(variants["chromosome"], 2)
    writer = SumstatsWriter(path, {"test": 1}, parts)
    values = np.column_stack([beta, np.zeros(len(beta))])
    for part in parts:
        rows = slice(part.start, part.stop)
        n = np.full(part.stop - part.start, 200, dtype=np.int32)
        se = np.full((len(n), 2), 0.3)
        own = variants.iloc[rows]
        traits = ["height", "weight"]
        writer.write(part, own, traits, frequency[rows], n, values[rows], se, n_covariates=1)
    people = [f"i{i}" for i in range(200)]
    between = np.array([[1, correlation], [correlation, 1]])
    writer.finish(traits, people, between, np.ones(2), {"n_covariates": 1})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Leads; a discovery; a replication with every flip and without the last lead."""
    LEADS.assign(locus=range(1, 7), neg_log10_p=9.0).to_csv(
        tmp_path / "loci.tsv", sep="\t", index=False
    )
    write_store(tmp_path / "first", LEADS, BETA, FREQUENCY)
    again = LEADS.copy()
    again.loc[0, ["effect_allele", "other_allele"]] = "G", "A"  # swapped
    again.loc[1, ["effect_allele", "other_allele"]] = "G", "T"  # both
    again.loc[4, ["effect_allele", "other_allele"]] = "A", "AT"  # swapped
    beta = BETA * [-1, -1, -1, 1, -1, 1]  # rs3 by its frequency counts the other allele
    f = np.where(beta == BETA, FREQUENCY, 1 - FREQUENCY)
    write_store(tmp_path / "second", again.iloc[:5], beta[:5], f[:5])
    return tmp_path


def run(folder: Path, first: str, second: str, *more: object) -> Result:
    given = ["replicate", "--loci", folder / "loci.tsv", "--discovery", folder / first]
    given += ["--replication", folder / second, "--out", folder / "out.tsv", *more]
    return CliRunner().invoke(main, [str(word) for word in given])


T = {1: 1 / 0.3, 2: 2 / 0.3}


def expected_p(df: int) -> list[float]:
    """−log10 p of the leads: all of the discovery's direction; rs4 ambiguous, rs6 absent."""
    t = np.array([T[1], T[2], T[2], np.nan, T[1], np.nan])
    return list(-np.log10(stats.t.sf(t, df)))


def test_replicate__of_stores_follows_every_flip(folder: Path) -> None:
    result = run(folder, "first", "second", "--traits", "height")
    assert result.exit_code == 0, result.output
    table = pd.read_csv(folder / "out.tsv", sep="\t")
    np.testing.assert_allclose(table["neg_log10_p"], expected_p(198), rtol=1e-4)
    has = [0, 1, 2, 4]
    np.testing.assert_allclose(table["effect_allele_frequency"][has], FREQUENCY[has], rtol=1e-5)
    assert table["replicated"].isna().tolist() == [False, False, False, True, False, True]
    summary = json.loads((folder / "out.json").read_text())
    assert (summary["n_tested"], summary["n_replicated"]) == (4, 4)
    assert summary["replication_rate"] == 1
    assert summary["replication_rate_ci"] == pytest.approx(rate_interval(4, 4))
    assert (summary["n_by_why_absent"], summary["p_sign_test"]) == (
        {"palindromic": 1, "not there": 1},
        1 / 16,
    )
    assert run(folder, "first", "second", "--p-threshold", 1e-6).exit_code == 0
    summary = json.loads((folder / "out.json").read_text())
    assert (summary["n_replicated"], summary["p_threshold"]) == (2, 1e-6)
    given = ("--traits", "height", "--palindromic-frequency", 0.5)
    assert run(folder, "first", "second", *given).exit_code == 0
    assert pd.read_csv(folder / "out.tsv", sep="\t")["r"][3] > 0


def test_replicate__says_why_a_lead_is_not_tested(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Of rs1 the alleles are others, of rs2 there is no result; rs4 and rs6 as in the fixture."""
    again = LEADS.iloc[:5].copy()
    again.loc[0, "other_allele"] = "T"
    beta = np.where(again["variant_id"] == "rs2", np.nan, BETA[:5])
    write_store(folder / "third", again, beta, FREQUENCY[:5])
    assert run(folder, "first", "third", "--traits", "height").exit_code == 0
    table = pd.read_csv(folder / "out.tsv", sep="\t", keep_default_na=False)
    why = ["other alleles", "not tested", "n/a", "palindromic", "n/a", "not there"]
    assert table["why_absent"].tolist() == why
    assert "4 of 6 lead variants cannot be tested" in caplog.text
    assert "other alleles: 1" in caplog.text
    assert table.columns.tolist() == list(REPLICATION_COLUMNS)
    told = CliRunner().invoke(main, ["replicate", "--help"]).output
    assert all(f"\n    {name}  " in told for name in REPLICATION_COLUMNS)


def test_replicate__warns_of_loci_of_another_run(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One trait's joint p is its own two-sided p."""
    leads = LEADS.assign(locus=range(1, 7))
    leads["neg_log10_p"] = -np.log10(2 * stats.t.sf(np.abs(BETA) / 0.3, 198))
    leads.to_csv(folder / "loci.tsv", sep="\t", index=False)
    assert run(folder, "first", "second", "--traits", "height").exit_code == 0
    assert "another run" not in caplog.text
    leads.loc[3, "neg_log10_p"] *= 1.1
    leads.to_csv(folder / "loci.tsv", sep="\t", index=False)
    assert run(folder, "first", "second", "--traits", "height").exit_code == 0
    assert "−log10 p of 1 of 6 leads" in caplog.text
    assert "rs4 has" in caplog.text
    assert run(folder, "first", "second").exit_code == 0  # of both traits, so that all differ
    assert "−log10 p of 6 of 6 leads" in caplog.text


def test_replicate__without_a_joint_test_does_not_compare_the_loci(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Traits so alike that the joint test refuses them; the replication does without it."""
    write_store(folder / "alike", LEADS, BETA, FREQUENCY, correlation=1 - 1e-11)
    result = run(folder, "alike", "second")
    assert result.exit_code == 0, result.output
    assert "another run" not in caplog.text
    run(folder, "first", "second")
    assert "another run" in caplog.text


def test_replicate__compares_no_signal_that_is_given_others(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """rs3 and rs4 lie nearby: of the first lead of each p is that of the stronger alone."""
    p = -np.log10(2 * stats.t.sf(np.abs(BETA) / 0.3, 198))
    leads = LEADS.assign(locus=range(1, 7), round=[1, 0, 0, 0, 0, 1], neg_log10_p=p)
    leads.loc[[0, 3, 5], "neg_log10_p"] = 3.0, p[3] - 4, 90.0
    leads.to_csv(folder / "loci.tsv", sep="\t", index=False)
    assert run(folder, "first", "second", "--traits", "height").exit_code == 0
    assert "another run" not in caplog.text
    leads.loc[1, "neg_log10_p"] *= 1.1
    leads.to_csv(folder / "loci.tsv", sep="\t", index=False)
    assert run(folder, "first", "second", "--traits", "height").exit_code == 0
    assert "−log10 p of 1 of 6 leads" in caplog.text
    assert "rs2 has" in caplog.text


def test_replicate__says_that_a_strand_is_unclear(folder: Path) -> None:
    """rs1 is A/G: at a site of several alleles T/C may be it; A/T is not."""
    flipped = LEADS.iloc[[0, 0]].assign(variant_id=["a", "b"], effect_allele="T")
    for others, why in ((["C", "G"], "strand unclear"), (["A", "G"], "other alleles")):
        write_store(folder / why, flipped.assign(other_allele=others), BETA[:2], FREQUENCY[:2])
        assert run(folder, "first", why, "--traits", "height").exit_code == 0
        table = pd.read_csv(folder / "out.tsv", sep="\t", keep_default_na=False)
        assert table["why_absent"][0] == why


@pytest.mark.parametrize("text_format", [None, "ldsc"])
def test_replicate__a_variant_of_two_rows_has_one_answer(
    folder: Path, text_format: str | None
) -> None:
    """Also with its alleles the other way round; by place, and in a text without one by id."""
    second = "second"
    if text_format:
        write_sumstats_text(
            folder / "second.gz", read_sumstats(folder / second).trait("height"), text_format
        )
        second = "second.gz"
    assert run(folder, "first", second, "--traits", "height").exit_code == 0
    once = pd.read_csv(folder / "out.tsv", sep="\t", keep_default_na=False)
    alleles = {"effect_allele": "other_allele", "other_allele": "effect_allele"}
    twice = pd.concat([LEADS, LEADS, LEADS.rename(columns=alleles)])
    twice.to_csv(folder / "loci.tsv", sep="\t", index=False)
    result = run(folder, "first", second, "--traits", "height")
    assert result.exit_code == 0, result.output
    table = pd.read_csv(folder / "out.tsv", sep="\t", keep_default_na=False)
    assert (once["why_absent"] == "n/a").sum() == 4
    for name in ("why_absent", "n", "r"):
        assert table[name].tolist() == once[name].tolist() * 3
    turned = pd.to_numeric(table["effect_allele_frequency"], errors="coerce")[12:18]
    straight = pd.to_numeric(once["effect_allele_frequency"], errors="coerce")
    np.testing.assert_allclose(turned, 1 - straight, rtol=1e-5)


def test_replicate__a_variant_of_two_rows_counts_once(folder: Path) -> None:
    pd.concat([LEADS, LEADS]).to_csv(folder / "loci.tsv", sep="\t", index=False)
    assert run(folder, "first", "second", "--traits", "height").exit_code == 0
    told = json.loads((folder / "out.json").read_text())
    assert (told["n_leads"], told["n_tested"], told["n_replicated"]) == (6, 4, 4)
    assert told["p_threshold"] == pytest.approx(0.05 / 4)
    assert told["p_sign_test"] == 1 / 16
    assert told["n_by_why_absent"] == {"palindromic": 1, "not there": 1}
    assert len(pd.read_csv(folder / "out.tsv", sep="\t")) == 12


def told_p(beta: NDArray = BETA) -> NDArray:
    """Two-sided −log10 p of the leads' own trait in the discovery."""
    return np.asarray(-np.log10(2 * stats.t.sf(np.abs(beta) / 0.3, 198)))


def test_replicate__takes_the_traits_beside_the_loci(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "axoloci")
    LEADS.assign(neg_log10_p=told_p()).to_csv(folder / "loci.tsv", sep="\t", index=False)
    (folder / "loci.json").write_text(json.dumps({"traits": ["height"]}))
    result = run(folder, "first", "second")
    assert result.exit_code == 0, result.output
    assert "another run" not in caplog.text
    assert "tested by height alone (loci.json)\n" in caplog.text
    told = json.loads((folder / "out.json").read_text())
    assert (told["traits"], told["traits_from"]) == (["height"], "loci.json")
    p = pd.read_csv(folder / "out.tsv", sep="\t")["neg_log10_p_discovery_traits"]
    np.testing.assert_allclose(p, told_p(), rtol=1e-4)
    assert run(folder, "first", "second", "--traits", "*").exit_code == 0
    told = json.loads((folder / "out.json").read_text())
    assert (told["traits"], told["traits_from"]) == (["height", "weight"], "--traits")
    assert "tested by 2 traits (--traits), not by the 1 of loci.json" in caplog.text
    assert "another run" not in caplog.text
    (folder / "loci.json").write_text(json.dumps({"traits": ["size"]}))
    said = " ".join(run(folder, "first", "second").output.split())
    assert "no trait size, which is of these loci by loci.json" in said


@pytest.mark.parametrize("noted", [True, False])
def test_replicate__a_text_tests_one_trait_of_a_joint_test(
    folder: Path, caplog: pytest.LogCaptureFixture, noted: bool
) -> None:
    """The fixture's joint p are not those of height, which has its own column."""
    caplog.set_level("INFO", "axoloci")
    if noted:
        (folder / "loci.json").write_text(json.dumps({"traits": ["height", "weight"]}))
    for name in ("first", "second"):
        trait = read_sumstats(folder / name).trait("height")
        write_sumstats_text(folder / f"{name}.gz", trait, "gwas-ssf")
    pairs = {("first", "second.gz"): True, ("first.gz", "second.gz"): False}
    for (first, second), with_store in pairs.items():
        more = ("--traits", "height") if with_store else ()
        assert run(folder, first, second, *more).exit_code == 0
        table = pd.read_csv(folder / "out.tsv", sep="\t")
        assert (table["neg_log10_p_discovery"] == 9).all()
        np.testing.assert_allclose(table["neg_log10_p_discovery_traits"], told_p(), rtol=1e-3)
    assert "not those of the joint test" not in caplog.text
    assert "tested by height alone (--traits)" in caplog.text
    assert (", not by the 2 of loci.json" in caplog.text) == noted


def test_replicate__warns_of_exchanged_alleles(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Of A/T and C/G the frequency tells the strand; the others it shows to be exchanged."""
    alleles = {"effect_allele": "other_allele", "other_allele": "effect_allele"}
    write_store(folder / "third", LEADS.rename(columns=alleles), BETA, FREQUENCY)
    assert run(folder, "first", "third", "--traits", "height").exit_code == 0
    assert "frequencies of 4 leads fit the other allele" in caplog.text
    assert "first: rs1, rs2, rs5, rs6;" in caplog.text
    caplog.clear()
    assert run(folder, "first", "second", "--traits", "height").exit_code == 0
    assert "fit the other allele" not in caplog.text


@pytest.mark.parametrize("given", ["locus", "round"])
def test_replicate__goes_on_without_loci(folder: Path, given: str) -> None:
    nothing = LEADS.iloc[:0].assign(**{given: [], "neg_log10_p": []})
    nothing.to_csv(folder / "loci.tsv", sep="\t", index=False)
    trait = read_sumstats(folder / "second").trait("height")
    write_sumstats_text(folder / "second.gz", trait, "ldsc")
    for second in ("second", "second.gz"):
        result = run(folder, "first", second, "--traits", "height")
        assert result.exit_code == 0, result.output
        assert json.loads((folder / "out.json").read_text())["n_tested"] == 0


def test_replicate__takes_na_as_the_id_of_a_lead(folder: Path) -> None:
    leads = LEADS[:1].assign(variant_id="NA")
    leads.to_csv(folder / "loci.tsv", sep="\t", index=False)
    write_store(folder / "one", leads, BETA[:1], FREQUENCY[:1])
    result = run(folder, "one", "one", "--traits", "height")
    assert result.exit_code == 0, result.output
    assert (folder / "out.tsv").read_text().splitlines()[1].startswith("1\t1\t100\tNA\tA\tG\t")


@pytest.mark.parametrize("text_format", ["gwas-ssf", "plink2", "ldsc"])
def test_replicate__a_text_stands_for_either_study(folder: Path, text_format: str) -> None:
    for name in ("first", "second"):
        trait = read_sumstats(folder / name).trait("height")
        write_sumstats_text(folder / f"{name}.gz", trait, text_format)
    for first, second in (
        ("first", "second.gz"),
        ("first.gz", "second"),
        ("first.gz", "second.gz"),
    ):
        more = () if first == "first.gz" and second == "second.gz" else ("--traits", "height")
        result = run(folder, first, second, *more)
        assert result.exit_code == 0, result.output
        table = pd.read_csv(folder / "out.tsv", sep="\t")
        # LDSC's z is the normal score of p, here taken for a t of 198 degrees of freedom
        tolerance = 0.1 if text_format == "ldsc" and second == "second.gz" else 1e-4
        np.testing.assert_allclose(table["neg_log10_p"], expected_p(198), rtol=tolerance)
        assert json.loads((folder / "out.json").read_text())["n_samples"] == 200


def test_replicate__bad_input_is_told(folder: Path) -> None:
    def told(*arguments: object) -> str:
        result = run(folder, *arguments)  # type: ignore[arg-type]
        assert result.exit_code == 1
        return " ".join(result.output.split())

    text = "SNP\tA1\tA2\tN\tZ\n" + "".join(f"rs{k}\tA\tG\tNA\t5\n" for k in (1, 6, 7))
    (folder / "noname").write_text(text)
    assert "holds 2 traits, and the text" in told("first", "noname")
    height = ("--traits", "height")
    assert "n is missing for 3 of 3 variants; give it by --replication-n" in told(
        "first", "noname", *height
    )
    assert run(folder, "first", "noname", *height, "--replication-n", 102).exit_code == 0
    table = pd.read_csv(folder / "out.tsv", sep="\t")
    assert table["n"][0] == 102
    assert table["neg_log10_p"][0] == pytest.approx(-np.log10(stats.t.sf(5, 100)), rel=1e-5)
    lifted = LEADS.assign(base_pair_location=LEADS["base_pair_location"] + 50)
    write_store(folder / "lifted", lifted, BETA, FREQUENCY)
    assert "6 variants, such as rs1, have another position" in told("first", "lifted", *height)
    LEADS.drop(columns="other_allele").to_csv(folder / "loci.tsv", sep="\t", index=False)
    assert "no column other_allele; give the table of axoloci-genetics loci" in told(
        "first", "second"
    )

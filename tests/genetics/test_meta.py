"""Meta-analysis: by hand, by statsmodels, and of stores and text with planted effects."""

from __future__ import annotations

import gzip
import json
import logging
from pathlib import Path

import mpmath
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result
from numpy.typing import NDArray
from scipy import stats
from statsmodels.stats.meta_analysis import combine_effects

from axoloci.io.outside_sumstats import read_outside
from axoloci.io.sumstats import VARIANT_COLUMNS, SumstatsWriter, plan_parts, read_sumstats
from axoloci.io.sumstats_text import write_sumstats_text
from axoloci.tasks.genetics.cli import main
from axoloci.tasks.genetics.commands.meta import META_COLUMNS
from axoloci.tasks.genetics.meta import combine_studies

TRAITS = ["latent_000", "latent_001", "latent_002"]


def test_combine_studies__by_hand() -> None:
    """Effects 1, 2 and 4 with standard errors 1, 1/2 and 1: weights 1, 4 and 1."""
    found = combine_studies(np.array([1.0, 2, 4]), np.array([1.0, 0.5, 1]))
    assert found.beta == pytest.approx(13 / 6, abs=1e-14)
    assert found.se == pytest.approx(1 / 6**0.5, abs=1e-14)
    q = (1 - 13 / 6) ** 2 + 4 * (2 - 13 / 6) ** 2 + (4 - 13 / 6) ** 2
    assert found.q == pytest.approx(q, abs=1e-13)
    assert found.i2 == pytest.approx((q - 2) / q, abs=1e-13)
    assert 10**-found.neg_log10_q_p == pytest.approx(np.exp(-q / 2), abs=1e-13)  # χ² with 2 df
    z = 13 / 6 * 6**0.5
    assert 10**-found.neg_log10_p == pytest.approx(2 * stats.norm.sf(z), rel=1e-10)
    assert (found.n_studies, found.tau2) == (3, 0)


def test_combine_studies__random_effects_by_hand() -> None:
    """τ² = (Q − 2) / (6 − 18/6); then weights 1 / (se² + τ²)."""
    found = combine_studies(np.array([1.0, 2, 4]), np.array([1.0, 0.5, 1]), "random")
    tau2 = (found.q - 2) / 3
    weights = 1 / (np.array([1, 0.25, 1]) + tau2)
    assert found.tau2 == pytest.approx(tau2, abs=1e-14)
    assert found.beta == pytest.approx(weights @ [1, 2, 4] / weights.sum(), abs=1e-13)
    assert found.se == pytest.approx(weights.sum() ** -0.5, abs=1e-13)


def test_combine_studies__is_that_of_statsmodels() -> None:
    rng = np.random.default_rng(0)
    beta = rng.normal(0, 2, (5, 3, 4))  # (n_studies, n_variants, n_traits)
    se = rng.uniform(0.2, 2, beta.shape)
    fixed, random = (combine_studies(beta, se, model) for model in ("fixed", "random"))
    for place in np.ndindex(3, 4):
        with np.errstate(invalid="ignore"):  # of variances below 0, see below
            truth = combine_effects(beta[:, *place], se[:, *place] ** 2, method_re="dl")
        of_fixed = truth.mean_effect_fe, truth.sd_eff_w_fe
        # statsmodels does not cut τ² off at 0, DerSimonian and Laird do
        of_random = (truth.mean_effect_re, truth.sd_eff_w_re) if truth.tau2 > 0 else of_fixed
        for found, (mean, sd) in ((fixed, of_fixed), (random, of_random)):
            np.testing.assert_allclose(found.beta[place], mean, rtol=0, atol=1e-10)
            np.testing.assert_allclose(found.se[place], sd, rtol=0, atol=1e-10)
            np.testing.assert_allclose(found.q[place], truth.q, rtol=0, atol=1e-10)
            np.testing.assert_allclose(found.i2[place], max(0, truth.i2), rtol=0, atol=1e-10)
        assert random.tau2[place] == pytest.approx(max(0, truth.tau2), abs=1e-10)
        p = truth.test_homogeneity().pvalue
        assert 10 ** -fixed.neg_log10_q_p[place] == pytest.approx(p, rel=1e-9)
    assert (random.tau2 > 0).any()
    assert (random.tau2 == 0).any()


def test_combine_studies__what_a_study_lacks_does_not_count() -> None:
    beta = np.array([[1.0, 1.0, np.nan, 1.0], [3.0, np.nan, np.nan, 9.0]])
    se = np.array([[1.0, 1.0, np.nan, 1.0], [1.0, 1.0, np.nan, 0.0]])
    for model in ("fixed", "random"):
        found = combine_studies(beta, se, model)
        assert found.n_studies.tolist() == [2, 1, 0, 1]
        assert found.beta[[1, 3]].tolist() == [1, 1]
        assert found.se[[1, 3]].tolist() == [1, 1]
        for of_two in (found.q, found.i2, found.neg_log10_q_p, found.tau2):
            assert np.isfinite(of_two).tolist() == [True, False, False, False]
        assert np.isnan([found.beta[2], found.se[2], found.neg_log10_p[2]]).all()
        assert found.beta[0] == 2


def test_combine_studies__no_p_underflows() -> None:
    n_studies = 6
    beta = np.array([100.0, -100, 100, -100, 100, 90])
    found = combine_studies(beta, np.ones(n_studies))
    with mpmath.workdps(50):
        tail = mpmath.gammainc(2.5, mpmath.mpf(float(found.q)) / 2, regularized=True)
        truth = float(-mpmath.log10(tail))
    assert truth > 5000
    assert found.neg_log10_q_p == pytest.approx(truth, rel=1e-12)
    found = combine_studies(np.full(n_studies, 100.0), np.ones(n_studies))
    assert found.neg_log10_p == pytest.approx(
        -stats.norm.logsf(100 * 6**0.5) / np.log(10), rel=1e-4
    )
    assert (found.i2, found.neg_log10_q_p) == (0, 0)


def test_combine_studies__heterogeneity_is_uniform_without_any() -> None:
    rng = np.random.default_rng(1)
    se = rng.uniform(0.5, 1, (4, 2000))
    found = combine_studies(0.3 + se * rng.normal(size=se.shape), se)
    assert stats.kstest(10**-found.neg_log10_q_p, "uniform").pvalue > 0.01
    z = (found.beta - 0.3) / found.se
    assert stats.kstest(z, "norm").pvalue > 0.01


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["meta", *(str(argument) for argument in arguments)])


def write_store(
    path: Path,
    variants: pd.DataFrame,
    beta: NDArray,
    se: NDArray,
    people: str,
    traits: list[str] = TRAITS,
    n_by_trait: dict[str, NDArray] | None = None,
) -> None:
    """A store in float64; `variants` holds frequency and n too."""
    parts = plan_parts(variants["chromosome"], 20_000)  # which makes parts of 256 variants
    writer = SumstatsWriter(path, {"test": str(path)}, parts, precision="float64")
    own_n = n_by_trait or {}
    for part in parts:
        rows = slice(part.start, part.stop)
        writer.write(
            part,
            variants.iloc[rows][VARIANT_COLUMNS],
            traits,
            variants["effect_allele_frequency"].to_numpy()[rows],
            variants["n"].to_numpy(np.int32)[rows],
            beta[rows],
            se[rows],
            n_covariates=1,
            n_by_trait={name: n[rows] for name, n in own_n.items()},
        )
    ids = [f"{people}{i}" for i in range(5)]
    k = len(traits)
    about = {"n_covariates": 1, "traits_with_missing": list(own_n)}
    writer.finish(traits, ids, np.eye(k), np.ones(k), about)


Study = tuple[pd.DataFrame, NDArray, NDArray]


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Study]]:
    """Stores a, b and c of the same 900 variants, each without some; b is swapped, c on the other
    strand. The arrays returned are of all variants for the same allele, NaN where one is lacking.
    """
    folder = tmp_path_factory.mktemp("three")
    rng = np.random.default_rng(0)
    m = 900
    sites = pd.DataFrame(
        {
            "chromosome": ["1"] * 600 + ["X"] * 300,
            "base_pair_location": np.r_[:600, :300] * 50 + 10,
            "variant_id": [f"rs{k}" for k in range(m)],
            "effect_allele": rng.choice(["A", "T"], m),
            "other_allele": rng.choice(["G", "C"], m),
        }
    )
    other_strand = {"A": "T", "T": "A", "C": "G", "G": "C"}
    studies = []
    for name in "abc":
        beta, se = rng.normal(size=(m, 3)), rng.uniform(0.2, 2, (m, 3))
        f, n = rng.uniform(0.1, 0.9, m).astype(np.float32), rng.integers(100, 900, m)
        has = rng.random(m) < 0.8
        own = sites.assign(effect_allele_frequency=f, n=n)
        written, sign = own.copy(), 1
        if name == "b":
            written[["effect_allele", "other_allele"]] = own[["other_allele", "effect_allele"]]
            written["effect_allele_frequency"], sign = 1 - f, -1
        if name == "c":
            for column in ("effect_allele", "other_allele"):
                written[column] = own[column].map(other_strand)
            written["chromosome"] = own["chromosome"].replace("X", "23")
        write_store(folder / name, written[has], sign * beta[has], se[has], name)
        own.loc[~has, ["effect_allele_frequency", "n"]] = np.nan
        beta[~has] = se[~has] = np.nan
        studies.append((own, beta, se))
    return folder, studies


@pytest.mark.parametrize("model", ["fixed", "random"])
def test_meta__of_stores_is_that_of_their_arrays(
    three: tuple[Path, list[Study]], tmp_path: Path, model: str
) -> None:
    folder, studies = three
    given = [word for name in "abc" for word in ("--study", folder / name)]
    result = run(*given, "--model", model, "--out", tmp_path / "m.parquet")
    assert result.exit_code == 0, result.output
    table = pd.read_parquet(tmp_path / "m.parquet")
    beta, se = (np.stack([study[k] for study in studies]) for k in (1, 2))
    any_has = np.isfinite(beta).any(axis=(0, 2))
    sites = studies[0][0][any_has]
    assert table["variant_id"].tolist() == sites["variant_id"].tolist()
    assert table["base_pair_location"].tolist() == sites["base_pair_location"].tolist()
    n = np.stack([study[0]["n"] for study in studies])
    for k, trait in enumerate(TRAITS):
        has = np.isfinite(beta[:, any_has, k])  # (n_studies, n_variants)
        assert table[f"n_studies_{trait}"].tolist() == has.sum(axis=0).tolist()
        assert table[f"n_{trait}"].tolist() == np.where(has, n[:, any_has], 0).sum(axis=0).tolist()
    f = np.stack([study[0]["effect_allele_frequency"] for study in studies])
    n, f = n[:, any_has], f[:, any_has]
    mean_f = np.nansum(n * f, axis=0) / np.nansum(n, axis=0)
    in_first = np.isfinite(beta[0, any_has, 0])
    # without the first study, another's effect allele may stand
    turned = table["effect_allele"].to_numpy() == sites["other_allele"].to_numpy()
    assert not turned[in_first].any()
    assert turned[~in_first].any()
    np.testing.assert_allclose(
        table["effect_allele_frequency"], np.where(turned, 1 - mean_f, mean_f), rtol=1e-5
    )
    truth = combine_studies(beta[:, any_has], se[:, any_has], model)
    for k, trait in enumerate(TRAITS):
        sign = np.where(turned, -1, 1)
        np.testing.assert_allclose(table[f"beta_{trait}"], sign * truth.beta[:, k], rtol=1e-12)
        for column in ("se", "neg_log10_p", "q", "neg_log10_q_p", "i2"):
            expected = getattr(truth, column)[:, k]
            np.testing.assert_allclose(table[f"{column}_{trait}"], expected, rtol=1e-9, atol=1e-12)
        assert (f"tau2_{trait}" in table) == (model == "random")
    of_first = [c for c in table if not c.endswith(tuple(TRAITS[1:]))]
    named = [name for name in META_COLUMNS if name != "tau2" or model == "random"]
    assert [column.removesuffix(f"_{TRAITS[0]}") for column in of_first] == named
    told = run("--help").output
    assert all(f"\n    {name}  " in told for name in META_COLUMNS)
    summary = json.loads((tmp_path / "m.json").read_text())
    assert (summary["model"], summary["studies"]) == (model, ["a", "b", "c"])
    assert summary["n_variants"] == any_has.sum()
    noted = json.loads(pq.read_schema(tmp_path / "m.parquet").metadata[b"axoloci"])
    assert (noted["format"], noted["traits"]) == ("axoloci-meta", TRAITS)


def test_meta__a_store_with_a_text_and_text_out(
    three: tuple[Path, list[Study]], tmp_path: Path
) -> None:
    folder, _ = three
    write_sumstats_text(tmp_path / "b.gz", read_sumstats(folder / "b").trait(TRAITS[1]), "plink2")
    texts = ("--study", folder / "a", "--study", tmp_path / "b.gz", "--traits", TRAITS[1])
    stores = ("--study", folder / "a", "--study", folder / "b", "--traits", TRAITS[1])
    for given, out in ((texts, "t.tsv.gz"), (texts, "t.parquet"), (stores, "s.parquet")):
        result = run(*given, "--out", tmp_path / out)
        assert result.exit_code == 0, result.output
    of_stores = pd.read_parquet(tmp_path / "s.parquet")
    of_texts = pd.read_parquet(tmp_path / "t.parquet")
    assert list(of_stores.columns) == list(of_texts.columns)
    for column in ("beta", "se", "neg_log10_p", "i2"):
        np.testing.assert_allclose(of_texts[column], of_stores[column], rtol=1e-4, atol=1e-5)
    again = read_outside(tmp_path / "t.tsv.gz")
    for column in ("variant_id", "n", "effect_allele"):
        assert again[column].tolist() == of_texts[column].tolist()
    for column in ("beta", "se", "neg_log10_p"):
        np.testing.assert_allclose(again[column], of_texts[column], rtol=1e-6)
    lines = gzip.decompress((tmp_path / "t.tsv.gz").read_bytes()).decode().splitlines()
    assert lines[0].startswith("chromosome\tbase_pair_location\tvariant_id\teffect_allele\t")
    assert sum(line.startswith("chromosome") for line in lines) == 1
    of_one = next(line.split("\t") for line in lines[1:] if line.split("\t")[7] == "1")
    assert of_one[-3:] == ["n/a"] * 3  # no heterogeneity of one study
    assert all(len(word.lstrip("-0.").replace(".", "")) <= 7 for word in of_one[8:10])


def test_meta__its_text_is_read_by_replicate_and_ldsc(
    three: tuple[Path, list[Study]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder, _ = three
    trait = ("--traits", TRAITS[0])
    given = ("--study", folder / "b", "--study", folder / "c", *trait)
    result = run(*given, "--out", tmp_path / "meta.tsv")
    assert result.exit_code == 0, result.output
    with caplog.at_level(logging.INFO, logger="axoloci"):
        assert run(*given[:4], "--out", tmp_path / "meta.parquet").exit_code == 0
    assert "write one trait as text (--traits NAME --out NAME.tsv.gz)" in caplog.text

    combined = read_outside(tmp_path / "meta.tsv")
    sites = read_sumstats(folder / "a").trait(TRAITS[0])
    leads = sites[sites["variant_id"].isin(combined["variant_id"])].iloc[:3]
    leads[VARIANT_COLUMNS].to_csv(tmp_path / "loci.tsv", sep="\t", index=False)
    given = ("--loci", tmp_path / "loci.tsv", "--discovery", folder / "a", *trait)
    out = tmp_path / "replication.tsv"
    invoke = ("replicate", *given, "--replication", tmp_path / "meta.tsv", "--out", out)
    result = CliRunner().invoke(main, [str(word) for word in invoke])
    assert result.exit_code == 0, result.output
    tested = pd.read_csv(out, sep="\t", na_values="n/a")
    expected = combined.set_index("variant_id")["n"][leads["variant_id"]]
    assert tested["n"].tolist() == expected.tolist()
    assert np.isfinite(tested["neg_log10_p"]).all()

    autosomal = sites[sites["chromosome"] == "1"]
    scores = autosomal[["chromosome", "variant_id", "base_pair_location"]].assign(
        L2=np.random.default_rng(0).uniform(1, 50, len(autosomal))
    )
    scores.columns = ["CHR", "SNP", "BP", "L2"]
    scores.to_csv(tmp_path / "p.l2.ldscore.gz", sep="\t", index=False)
    (tmp_path / "p.l2.M_5_50").write_text("1000\n")
    given = ("--ld-scores", tmp_path / "p", "--sumstats", folder / "a", *trait)
    invoke = ("ldsc", *given, "--with", tmp_path / "meta.tsv", "--out", tmp_path / "ldsc")
    result = CliRunner().invoke(main, [str(word) for word in invoke])
    assert result.exit_code == 0, result.output
    h2 = pd.read_csv(tmp_path / "ldsc" / "heritability.tsv", sep="\t", na_values="n/a")
    assert h2["trait"].tolist() == [TRAITS[0], "meta"]
    n_shared = combined["variant_id"].isin(autosomal["variant_id"]).sum()
    assert h2["n_variants"][1] + h2["n_large_chi2"][1] == n_shared


def test_meta__counts_the_people_and_studies_of_each_trait(tmp_path: Path) -> None:
    """Of the study b the last trait is not tested at rs0, and lacked by 40 people at rs1."""
    sites = pd.DataFrame(
        {
            **{"chromosome": "1", "base_pair_location": [10, 20], "variant_id": ["rs0", "rs1"]},
            **{"effect_allele": "A", "other_allele": "G", "effect_allele_frequency": 0.5, "n": 100},
        }
    )
    beta, se = np.ones((2, 2, 3)), np.ones((2, 2, 3))  # study, variant, trait
    beta[1, 0, 2] = se[1, 0, 2] = np.nan
    write_store(tmp_path / "a", sites, beta[0], se[0], "a")
    own_n = {TRAITS[2]: np.array([0, 60], dtype=np.int32)}
    write_store(tmp_path / "b", sites, beta[1], se[1], "b", n_by_trait=own_n)
    given = ("--study", tmp_path / "a", "--study", tmp_path / "b", "--out")
    for names in (TRAITS, TRAITS[2:]):
        result = run(*given, tmp_path / "m.parquet", "--traits", ",".join(names))
        assert result.exit_code == 0, result.output
        table = pd.read_parquet(tmp_path / "m.parquet")
        suffix = f"_{TRAITS[2]}" if len(names) > 1 else ""
        assert table[f"n{suffix}"].tolist() == [100, 160]
        assert table[f"n_studies{suffix}"].tolist() == [1, 2]
        if len(names) > 1:
            assert table[f"n_{TRAITS[0]}"].tolist() == [200, 200]
            assert table[f"n_studies_{TRAITS[0]}"].tolist() == [2, 2]
            assert "n" not in table


def test_meta__palindromic_variants_by_frequency(tmp_path: Path) -> None:
    header = "chromosome\tbase_pair_location\teffect_allele\tother_allele\tbeta\tstandard_error\t"
    header += "effect_allele_frequency\tn\n"
    (tmp_path / "a").write_text(header + "1\t9\tA\tT\t1\t1\t0.2\t10\n1\t19\tC\tG\t1\t1\t0.45\t10\n")
    (tmp_path / "b").write_text(header + "1\t9\tA\tT\t-3\t1\t0.9\t30\n1\t19\tC\tG\t3\t1\t0.4\tNA\n")
    given = ("--study", tmp_path / "a", "--study", tmp_path / "b", "--out", tmp_path / "m.parquet")
    assert run(*given).exit_code == 0
    table = pd.read_parquet(tmp_path / "m.parquet")
    assert table["beta"].tolist() == [2, 1]
    assert table["effect_allele_frequency"][0] == pytest.approx((0.2 * 10 + 0.1 * 30) / 40)
    assert table["n_studies"].tolist() == [2, 1]
    counts = json.loads((tmp_path / "m.json").read_text())["variants_of_study"][1]
    assert counts == {"strand_flipped_and_swapped": 1, "ambiguous": 1}
    assert run(*given, "--palindromic-frequency", 0.5).exit_code == 0
    table = pd.read_parquet(tmp_path / "m.parquet")
    assert table["beta"].tolist() == [2, 2]
    assert table["n"].isna().tolist() == [False, True]


def test_meta__a_study_with_half_of_its_alleles_exchanged_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Told once for all chromosomes, each of which has too few variants to be judged."""
    rng = np.random.default_rng(0)
    a = pd.DataFrame(
        {
            "chromosome": np.repeat(np.arange(1, 9), 20),
            "base_pair_location": np.tile(np.arange(1, 21) * 10**6, 8),
            "effect_allele": "A",
            "other_allele": "G",
            "beta": rng.normal(size=160),
            "standard_error": 1,
            "effect_allele_frequency": rng.uniform(0.05, 0.3, 160),
            "rsid": [f"rs{k}" for k in range(160)],
            "n": 100,
        }
    )
    b = a.copy()
    b.loc[::2, ["effect_allele", "other_allele"]] = "G", "A"
    for name, table in (("a", a), ("b", b)):
        table.to_csv(tmp_path / name, sep="\t", index=False)
    given = ("--study", tmp_path / "a", "--study", tmp_path / "b", "--out", tmp_path / "m.parquet")
    with caplog.at_level(logging.WARNING, logger="axoloci"):
        assert run(*given).exit_code == 0
    assert caplog.text.count("fits the other allele") == 1
    told = "fits the other allele in 80 of 160 variants (50 %) of the same alleles in the studies"
    assert told in caplog.text
    assert "such as rs0, rs2, rs4;" in caplog.text


def test_meta__bad_input_is_told(
    three: tuple[Path, list[Study]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder, studies = three

    def told(*arguments: object) -> str:
        result = run(*arguments, "--out", tmp_path / "m.parquet")
        assert result.exit_code != 0
        assert not (tmp_path / "m.parquet").exists()
        return " ".join(result.output.split())

    a = ("--study", folder / "a")
    assert "give --study at least twice" in told(*a)
    assert "a --study is given twice" in told(*a, *a)
    sites, beta, se = studies[1]
    has = np.isfinite(beta[:, 0])
    moved = sites[has].assign(base_pair_location=sites["base_pair_location"] + 7)
    write_store(tmp_path / "lifted", moved, beta[has], se[has], "d")
    assert "different genome builds" in told(*a, "--study", tmp_path / "lifted")
    nameless = moved.assign(variant_id=".")
    write_store(tmp_path / "nameless", nameless, beta[has], se[has], "d")
    assert "none of its variants is in another study" in told(*a, "--study", tmp_path / "nameless")
    write_store(tmp_path / "other", sites[has], beta[has, :1], se[has, :1], "d", ["height"])
    assert "none of its traits is in all" in told(*a, "--study", tmp_path / "other")
    ldsc = tmp_path / "l.sumstats"
    ldsc.write_text("SNP\tA1\tA2\tN\tZ\nrs1\tA\tG\t5\t2\n")
    assert "by --traits, such as latent_000" in told(*a, "--study", ldsc)
    one = (*a, "--traits", TRAITS[0])
    assert "has no positions and no effects" in told(*one, "--study", ldsc)
    ssf = "chromosome\tbase_pair_location\teffect_allele\tother_allele\tbeta\tp_value\n"
    (tmp_path / "p").write_text(ssf + "1\t10\tA\tG\t1\t0.1\n")
    assert "1 of 1 variants have no beta or no standard" in told(*one, "--study", tmp_path / "p")
    result = run(*a, "--study", folder / "b", "--out", tmp_path / "m.tsv")
    assert "text holds one trait, and these are 3" in " ".join(result.output.split())
    with caplog.at_level(logging.WARNING, logger="axoloci"):
        write_store(tmp_path / "same", sites[has], beta[has], se[has], "a")
        given = (*a, "--study", tmp_path / "same", "--out", tmp_path / "m.parquet")
        assert run(*given).exit_code == 0
    assert "5 people of the same id, such as a0, are in both" in caplog.text

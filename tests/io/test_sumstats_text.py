"""Summary statistics as the text of other programs, read by these where they can be had."""

from __future__ import annotations

import gzip
import subprocess
from collections.abc import Callable
from pathlib import Path

import mpmath
import numpy as np
import pandas as pd
import pytest
from plink_files import write_plink
from scipy.stats import norm

from axoloci.errors import InputError
from axoloci.io.sumstats_text import FORMATS, p_text, write_sumstats_text
from axoloci.statistics import z_score


@pytest.fixture
def results() -> pd.DataFrame:
    """As `Sumstats.trait` gives them: a hit beyond the smallest float, a row without a result."""
    rng = np.random.default_rng(0)
    n = 40
    table = pd.DataFrame(
        {
            "chromosome": ["2"] * 10 + ["1"] * 25 + ["X"] * 5,
            "base_pair_location": rng.permutation(n) + 1000,
            "variant_id": [f"rs{i}" for i in range(n)],
            "effect_allele": "A",
            "other_allele": "C",
            "effect_allele_frequency": rng.uniform(0, 1, n),
            "n": 5000,
            "beta": rng.normal(size=n),
            "se": rng.uniform(0.1, 0.3, n),
        }
    )
    table["neg_log10_p"] = -np.log10(2 * norm.sf(np.abs(table["beta"] / table["se"])))
    table.loc[12, "neg_log10_p"] = 1234.5
    table.loc[3, ["beta", "se", "neg_log10_p"]] = np.nan
    return table


def test_p_text__holds_what_float_does_not() -> None:
    values = np.array([0.0, 0.30103, 7.3, 299.99, 1234.5, 3000.25])
    for text, value in zip(p_text(values), values, strict=True):
        assert mpmath.log10(mpmath.mpf(text)) == pytest.approx(-value, abs=1e-5)
    assert list(p_text(np.array([0.0, 12.0]))) == ["1e+00", "1e-12"]


def test_z_score__is_the_normal_quantile_and_goes_on_beyond_it() -> None:
    p = np.array([1.0, 0.5, 1e-3, 1e-100, 1e-300])
    np.testing.assert_allclose(z_score(-np.log10(p)), norm.isf(p / 2), rtol=1e-10)
    [z] = z_score(np.array([3000.0]))
    with mpmath.workdps(30):
        back = -mpmath.log10(mpmath.erfc(mpmath.mpf(z) / mpmath.sqrt(2)))
    assert float(back) == pytest.approx(3000, rel=1e-10)


@pytest.mark.parametrize("text_format", FORMATS)
def test_write_sumstats_text__a_row_for_each_result(
    results: pd.DataFrame, tmp_path: Path, text_format: str
) -> None:
    counts = write_sumstats_text(tmp_path / "t.gz", results, text_format)
    assert counts["written"] == 39
    assert counts["without_result"] == 1
    table = pd.read_csv(tmp_path / "t.gz", sep=FORMATS[text_format].separator)
    assert len(table) == 39
    assert not table.isna().all().any() or text_format == "regenie"  # whose EXTRA is NA
    first = (tmp_path / "t.gz").read_bytes()
    write_sumstats_text(tmp_path / "t.gz", results, text_format)
    assert (tmp_path / "t.gz").read_bytes() == first
    write_sumstats_text(tmp_path / "t", results, text_format)
    assert (tmp_path / "t").read_bytes() == gzip.decompress(first)


@pytest.mark.parametrize("text_format", FORMATS)
def test_write_sumstats_text__a_perfect_fit_is_counted_and_left_out(
    results: pd.DataFrame, tmp_path: Path, text_format: str
) -> None:
    results.loc[7, ["se", "neg_log10_p"]] = 0.0, np.inf
    counts = write_sumstats_text(tmp_path / "t", results, text_format)
    assert (counts["perfect_fit"], counts["written"]) == (1, 38)
    assert "inf" not in (tmp_path / "t").read_text()


def test_write_sumstats_text__columns_of_plink2(results: pd.DataFrame, tmp_path: Path) -> None:
    write_sumstats_text(tmp_path / "t", results, "plink2")
    table = pd.read_csv(tmp_path / "t", sep="\t", dtype={"P": str}).set_index("ID")
    own = results.dropna().set_index("variant_id").loc[table.index]
    assert list(table["#CHROM"].unique()) == ["2", "1", "X"]  # in the order of the genotypes
    assert table.groupby("#CHROM")["POS"].is_monotonic_increasing.all()
    assert (table["ALT"] == "A").all()
    assert (table["REF"] == "C").all()
    np.testing.assert_allclose(table["T_STAT"], own["beta"] / own["se"], rtol=1e-6)
    np.testing.assert_allclose(table["LOG10_P"], own["neg_log10_p"], rtol=1e-6)
    assert table.loc["rs12", "P"].endswith("e-1235")


def test_write_sumstats_text__plink_clumps_it(
    results: pd.DataFrame, tmp_path: Path, tool: Callable[[str], str]
) -> None:
    rng = np.random.default_rng(1)
    results = results.sort_values(["chromosome", "base_pair_location"], ignore_index=True)
    results["variant_id"] = [f"rs{i}" for i in range(len(results))]  # as those of the genotypes
    dosage = rng.integers(0, 3, (len(results), 100)).astype(np.int8)
    chromosome, position = list(results["chromosome"]), list(results["base_pair_location"])
    write_plink(tmp_path / "g", dosage, chromosome, position)
    write_sumstats_text(tmp_path / "t", results, "plink2")
    command = [tool("plink1.9"), "--bfile", tmp_path / "g", "--clump", tmp_path / "t"]
    command += ["--clump-snp-field", "ID", "--clump-field", "P", "--clump-p1", "1e-4"]
    subprocess.run([*command, "--out", tmp_path / "c"], check=True, capture_output=True)
    found = pd.read_csv(tmp_path / "c.clumped", sep=r"\s+")
    strong = results.loc[results["neg_log10_p"] > 4, "variant_id"]
    assert set(found["SNP"]) == set(strong)  # no two are in linkage disequilibrium
    assert results["neg_log10_p"].max() > 1000


def test_write_sumstats_text__an_index_finds_a_region(
    results: pd.DataFrame, tmp_path: Path
) -> None:
    import pysam

    for text_format in ("gwas-ssf", "plink2", "regenie"):
        path = tmp_path / f"{text_format}.gz"
        if text_format == "regenie":  # blanks do not part fields for tabix
            with pytest.raises(
                InputError, match="has no index; with one, the format is gwas-ssf or"
            ):
                write_sumstats_text(path, results, text_format, tabix=True)
            continue
        write_sumstats_text(path, results, text_format, tabix=True)
        assert sorted(tmp_path.iterdir()) == sorted({*tmp_path.iterdir()} - {*tmp_path.glob(".*")})
        with pysam.TabixFile(str(path)) as indexed:
            rows = list(indexed.fetch("1", 1009, 1020))
        here = results[results["chromosome"] == "1"]
        assert len(rows) == here["base_pair_location"].between(1010, 1020).sum() > 0
        plain = tmp_path / "plain"
        write_sumstats_text(plain, results, text_format)
        assert gzip.decompress(path.read_bytes()) == plain.read_bytes()
    with pytest.raises(
        InputError, match=r"t\.tsv: with an index, the name of the text ends in \.gz"
    ):
        write_sumstats_text(tmp_path / "t.tsv", results, "plink2", tabix=True)


def test_write_sumstats_text__columns_of_ldsc_and_regenie(
    results: pd.DataFrame, tmp_path: Path
) -> None:
    own = results.dropna().set_index("variant_id")
    write_sumstats_text(tmp_path / "l", results, "ldsc")
    table = pd.read_csv(tmp_path / "l", sep="\t").set_index("SNP").loc[own.index]
    assert (np.sign(table["Z"]) == np.sign(own["beta"])).all()
    assert table["P"].between(1e-300, 1).all()
    np.testing.assert_allclose(
        np.abs(table["Z"]), z_score(own["neg_log10_p"].to_numpy()), rtol=1e-6
    )
    write_sumstats_text(tmp_path / "r", results, "regenie")
    table = pd.read_csv(tmp_path / "r", sep=" ").set_index("ID").loc[own.index]
    np.testing.assert_allclose(table["LOG10P"], own["neg_log10_p"], rtol=1e-6)
    assert (table["ALLELE1"] == own["effect_allele"]).all()
    assert (table["TEST"] == "ADD").all()

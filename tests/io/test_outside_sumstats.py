"""Summary statistics of other programs: each format by hand, by our writer, and by plink2."""

from __future__ import annotations

import bz2
import gzip
import logging
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import mpmath
import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from plink_files import write_plink
from scipy.stats import norm
from scipy.stats import t as student_t

from axoloci.errors import InputError
from axoloci.io.outside_sumstats import COLUMNS, read_outside
from axoloci.io.sumstats_text import FORMATS, write_sumstats_text

SSF = (
    "chromosome\tbase_pair_location\teffect_allele\tother_allele\tbeta\tstandard_error\t"
    "effect_allele_frequency\tp_value\trsid\tn\n"
    "1\t100\ta\tG\t0.2\t0.1\t0.3\t0.0455\trs1\t500\n"
    "23\t1e+05\tAT\tA\t-0.3\t0.1\t0.6\t0.0027\t#NA\t#NA\n"
)
PLINK2 = (
    "#CHROM\tPOS\tID\tREF\tALT\tA1\tA1_FREQ\tTEST\tOBS_CT\tBETA\tSE\tT_STAT\tP\tERRCODE\n"
    "1\t100\trs1\tG\tA\tA\t0.3\tADD\t500\t0.2\t0.1\t2\t0.0455\t.\n"
    "1\t100\trs1\tG\tA\tA\t0.3\tAGE\t500\t9\t0.1\t90\t1e-9\t.\n"
    "23\t100000\t.\tAT\tA\tAT\t0.6\tADD\t400\t-0.3\t0.1\t-3\t0.0027\t.\n"
    "2\t7\trs9\tG\tC\tC\t0.5\tADD\t400\tNA\tNA\tNA\tNA\tCONST_ALLELE\n"
)
REGENIE = (
    "CHROM GENPOS ID ALLELE0 ALLELE1 A1FREQ INFO N TEST BETA SE CHISQ LOG10P EXTRA\n"
    "1 100 rs1 G A 0.3 1 500 ADD 0.2 0.1 4 1.342 NA\n"
    "23 100000 rs2 A AT 0.6 0.9 400 ADD -0.3 0.1 9 2.569 NA\n"
)
FASTGWA = (
    "CHR\tSNP\tPOS\tA1\tA2\tN\tAF1\tBETA\tSE\tP\n"
    "1\trs1\t100\tA\tG\t500\t0.3\t0.2\t0.1\t0.0455\n"
    "23\trs2\t100000\tAT\tA\t400\t0.6\t-0.3\t0.1\t0.0027\n"
)
SAIGE = (
    "CHR\tPOS\tMarkerID\tAllele1\tAllele2\tAC_Allele2\tAF_Allele2\tMissingRate\tBETA\tSE\tTstat\t"
    "var\tp.value\tN\n"
    "1\t100\trs1\tG\tA\t300\t0.3\t0\t0.2\t0.1\t20\t100\t0.0455\t500\n"
    "X\t100000\trs2\tA\tAT\t480\t0.6\t0\t-0.3\t0.1\t-30\t100\t0.0027\t400\n"
)
GEMMA = (
    "chr\trs\tps\tn_mis\tn_obs\tallele1\tallele0\taf\tbeta\tse\tp_wald\n"
    "1\trs1\t100\t0\t500\tA\tG\t0.3\t0.2\t0.1\t0.0455\n"
    "23\trs2\t100000\t100\t400\tAT\tA\t0.6\t-0.3\t0.1\t0.0027\n"
)
LDSC = "SNP\tA1\tA2\tN\tZ\nrs1\tA\tG\t500\t2\nrs2\tC\tA\t400\t-3\nrs3\t\t\t\t\n"


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    "text",
    [SSF, PLINK2, REGENIE, FASTGWA, SAIGE, GEMMA],
    ids=["gwas-ssf", "plink2", "regenie", "fastgwa", "saige", "gemma"],
)
def test_read_outside__each_format_by_hand(tmp_path: Path, text: str) -> None:
    table = read_outside(write(tmp_path / "t", text))
    assert tuple(table.columns) == COLUMNS
    assert table["chromosome"].tolist() == ["1", "X"]
    assert table["base_pair_location"].tolist() == [100, 100_000]
    assert table["base_pair_location"].dtype == np.int64
    assert table["variant_id"][0] == "rs1"
    assert table["effect_allele"].tolist() == ["A", "AT"]
    assert table["other_allele"].tolist() == ["G", "A"]
    assert table["effect_allele_frequency"].tolist() == [0.3, 0.6]
    assert table["n"][0] == 500
    assert table["beta"].tolist() == [0.2, -0.3]
    assert table["se"].tolist() == [0.1, 0.1]
    np.testing.assert_allclose(table["z"], [2, -3])
    np.testing.assert_allclose(table["neg_log10_p"], -np.log10(2 * norm.sf([2, 3])), rtol=1e-3)


def test_read_outside__what_is_missing_is_nan(tmp_path: Path) -> None:
    ssf = read_outside(write(tmp_path / "t", SSF))
    assert ssf.loc[1, ["variant_id", "n"]].isna().all()
    assert read_outside(write(tmp_path / "t", PLINK2))["variant_id"].isna().tolist() == [0, 1]
    ldsc = read_outside(write(tmp_path / "t", LDSC))
    assert ldsc[["chromosome", "base_pair_location", "beta", "se"]].isna().all(axis=None)
    assert ldsc["z"].tolist() == [2, -3]
    np.testing.assert_allclose(ldsc["neg_log10_p"], -np.log10(2 * norm.sf([2, 3])), rtol=1e-12)


def test_read_outside__rows_without_a_result_are_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="axoloci"):
        assert len(read_outside(write(tmp_path / "t", LDSC))) == 2
    assert "1 rows without a result are left out" in caplog.text


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, bytes])
def test_read_outside__compressed_or_plain(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    halves = SSF.encode()[:200], SSF.encode()[200:]
    (tmp_path / "t").write_bytes(b"".join(map(pack, halves)))  # in blocks, as bgzip writes
    pd.testing.assert_frame_equal(
        read_outside(tmp_path / "t"), read_outside(write(tmp_path / "plain", SSF))
    )


def test_read_outside__words_in_quotation_marks(tmp_path: Path) -> None:
    """As R writes them."""
    lines = [
        "\t".join(word if word[0].isdigit() or word[0] == "-" else f'"{word}"' for word in row)
        for row in (line.split("\t") for line in SSF.splitlines())
    ]
    pd.testing.assert_frame_equal(
        read_outside(write(tmp_path / "quoted", "\n".join(lines))),
        read_outside(write(tmp_path / "plain", SSF)),
    )


@pytest.mark.parametrize("text_format", FORMATS)
def test_read_outside__gives_back_what_was_written(tmp_path: Path, text_format: str) -> None:
    rng = np.random.default_rng(0)
    n = 60
    results = pd.DataFrame(
        {
            "chromosome": ["1"] * 30 + ["2"] * 20 + ["X"] * 10,
            "base_pair_location": np.arange(n) * 1000 + 5,
            "variant_id": [f"rs{i}" for i in range(n)],
            "effect_allele": rng.choice(["A", "G", "CT"], n),
            "other_allele": "C",
            "effect_allele_frequency": rng.uniform(0, 1, n),
            "n": rng.integers(100, 5000, n),
            "beta": rng.normal(size=n),
            "se": rng.uniform(0.1, 0.3, n),
        }
    )
    z = results["beta"] / results["se"]
    results["neg_log10_p"] = -(norm.logsf(np.abs(z)) + np.log(2)) / np.log(10)
    write_sumstats_text(tmp_path / "t.gz", results, text_format)
    table = read_outside(tmp_path / "t.gz")
    for name in ("variant_id", "effect_allele", "other_allele", "n"):
        assert table[name].tolist() == results[name].tolist()
    np.testing.assert_allclose(table["neg_log10_p"], results["neg_log10_p"], rtol=1e-5)
    np.testing.assert_allclose(table["z"], z, rtol=1e-5)
    if text_format != "ldsc":
        for name in ("chromosome", "base_pair_location"):
            assert table[name].tolist() == results[name].tolist()
        np.testing.assert_allclose(table["beta"], results["beta"], rtol=1e-6)


def test_read_outside__reads_what_plink2_writes(tmp_path: Path, tool: Callable[[str], str]) -> None:
    rng = np.random.default_rng(1)
    n, m = 300, 40
    dosage = rng.binomial(2, rng.uniform(0.1, 0.9, (m, 1)), (m, n)).astype(np.int8)
    write_plink(tmp_path / "g", dosage, ["1"] * 20 + ["2"] * 20)
    y = rng.normal(size=n) + 40 * dosage[3]  # p far below the smallest float64
    rows = "".join(f"f{i}\ti{i}\t{y[i]:.9g}\t{age}\n" for i, age in enumerate(rng.normal(size=n)))
    (tmp_path / "y.txt").write_text("#FID\tIID\ty\tage\n" + rows)
    of_people = ["--pheno", tmp_path / "y.txt", "--pheno-name", "y"]
    of_people += ["--covar", tmp_path / "y.txt", "--covar-name", "age"]
    command = [tool("plink2"), "--bfile", tmp_path / "g", *of_people, "--glm", "allow-no-covars"]
    more = ["cols=+a1freq", "--out", tmp_path / "r"]
    subprocess.run([*command, *more], check=True, capture_output=True)
    table = read_outside(tmp_path / "r.y.glm.linear")
    assert table["variant_id"].tolist() == [f"rs{i}" for i in range(m)]
    assert set(table["chromosome"]) == {"1", "2"}
    frequency = dosage[:20].mean(axis=1) / 2
    counts_a = (table["effect_allele"][:20] == "A").to_numpy()
    assert (table["other_allele"] != table["effect_allele"]).all()
    np.testing.assert_allclose(
        table["effect_allele_frequency"][:20],
        np.where(counts_a, frequency, 1 - frequency),
        atol=1e-5,
    )
    assert table["neg_log10_p"][3] > 310
    subprocess.run([*command, "log10", *more], check=True, capture_output=True)
    as_log = read_outside(tmp_path / "r.y.glm.linear")
    np.testing.assert_allclose(table["neg_log10_p"], as_log["neg_log10_p"], rtol=1e-4, atol=1e-5)


def test_read_outside__p_does_not_underflow(tmp_path: Path) -> None:
    words = ["5e-1072", "3.25E-310", "1e-20", "0.5", "1"]
    rows = "".join(f"1\t{k}\tA\tG\t-1\t{word}\n" for k, word in enumerate(words, start=1))
    header = "chromosome\tbase_pair_location\teffect_allele\tother_allele\tbeta\tp_value\n"
    table = read_outside(write(tmp_path / "t", header + rows))
    truth = [float(-mpmath.log10(mpmath.mpf(word))) for word in words]
    np.testing.assert_allclose(table["neg_log10_p"], truth, rtol=1e-12, atol=1e-15)
    assert (table["z"] <= 0).all()
    with mpmath.workdps(30):
        z = mpmath.mpf(float(table["z"][0]))
        back = -mpmath.log10(mpmath.erfc(-z / mpmath.sqrt(2)))
    assert float(back) == pytest.approx(truth[0], rel=1e-10)


def test_read_outside__log10_p_goes_before_p(tmp_path: Path) -> None:
    text = PLINK2.replace("\tP\t", "\tLOG10_P\t").replace("0.0455", "1.342").replace("0.0027", "3")
    assert read_outside(write(tmp_path / "t", text))["neg_log10_p"].tolist() == [1.342, 3]


def test_read_outside__odds_ratios_become_logarithms(tmp_path: Path) -> None:
    text = PLINK2.replace("\tBETA\tSE\t", "\tOR\tLOG(OR)_SE\t").replace("-0.3", "0.5")
    table = read_outside(write(tmp_path / "t", text))
    np.testing.assert_allclose(table["beta"], np.log([0.2, 0.5]))
    np.testing.assert_allclose(table["z"], np.log([0.2, 0.5]) / 0.1)


def test_read_outside__an_odds_ratio_where_beta_is_missing(tmp_path: Path) -> None:
    text = SSF.replace("p_value", "p_value\todds_ratio").replace("\trs1", "\tNA\trs1")
    text = text.replace("-0.3\t0.1\t0.6\t0.0027", f"NA\t0.1\t0.6\t0.0027\t{np.exp(-0.3)}")
    assert read_outside(write(tmp_path / "t", text))["beta"].tolist() == [0.2, pytest.approx(-0.3)]


def test_read_outside__p_where_its_logarithm_is_missing(tmp_path: Path) -> None:
    text = SSF.replace("p_value", "p_value\tneg_log_10_p_value").replace("0.0455", "NA\t1.342")
    table = read_outside(write(tmp_path / "t", text.replace("0.0027", "0.0027\tNA")))
    assert table["neg_log10_p"].tolist() == [1.342, pytest.approx(-np.log10(0.0027))]


@pytest.mark.parametrize("text", [SSF, PLINK2, FASTGWA, SAIGE])
def test_read_outside__a_missing_p_is_no_result(tmp_path: Path, text: str) -> None:
    """The program withheld it; without a column of p it is computed."""
    table = read_outside(write(tmp_path / "t", text.replace("0.0027", "NA")))
    assert table["beta"].tolist() == [0.2]
    renamed = re.sub("\t(p_value|P|p.value)\\b", "\tno_p", text)
    table = read_outside(write(tmp_path / "t", renamed))
    np.testing.assert_allclose(table["neg_log10_p"], -np.log10(2 * norm.sf([2, 3])))
    with pytest.raises(InputError, match="leave out a column of p that is empty"):
        read_outside(write(tmp_path / "t", text.replace("0.0027", "NA").replace("0.0455", "NA")))


def test_read_outside__zero_p_is_computed_or_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    zero = SSF.replace("-0.3\t0.1\t0.6\t0.0027", "-30\t0.1\t0.6\t0.0")
    with caplog.at_level(logging.WARNING, logger="axoloci"):
        table = read_outside(write(tmp_path / "t", zero))
    assert table["neg_log10_p"][1] == pytest.approx(-norm.logsf(300) / np.log(10), rel=1e-4)
    assert "p is 0 in 1 rows" in caplog.text
    without = "\n".join(
        "\t".join(line.split("\t")[:5] + line.split("\t")[6:]) for line in zero.split("\n")
    )
    with pytest.raises(InputError, match=r"t: row 3: p is 0, .* give −log10 p, or beta and sta"):
        read_outside(write(tmp_path / "t", without))


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("\tAT\tA\t", "\tAT\t\t", "row 3: an allele is missing"),
        ("\ta\tG\t", "\tg\tG\t", r"row 2 \(rs1\): effect and other allele are the same"),
        ("-0.3\t0.1", "-0.3\t0", "row 3: the standard error is not above 0"),
        ("0.1\t0.3\t", "0.1\t1.3\t", "row 2 .*the frequency is not between 0 and 1"),
        ("0.0027", "1.5", "row 3: p is not between 0 and 1"),
        ("0.0027", "-1", "row 3: p is not between 0 and 1"),
        ("0.0027", "small", "row 3: 'small' is not a p"),
        ("rs1\t500", "rs1\t0", "row 2 .*n is not above 0"),
        ("1e+05", "1000.5", "row 3: no chromosome or no whole position"),
        ("1e+05", "NA", "row 3: no chromosome or no whole position"),
        ("1e+05", "far", "row 3, column 'base_pair_location': 'far' is not a number"),
        ("0.3\t0.0455", "0.3\t0.4\t0.0455", "row 2: has not 10 fields"),
        ("standard_error", "stderr", "no"),
    ],
)
def test_read_outside__faults_name_row_and_cure(
    tmp_path: Path, old: str, new: str, told: str
) -> None:
    assert old in SSF
    path = write(tmp_path / "t", SSF.replace(old, new))
    if new == "stderr":  # beta and p are enough
        assert read_outside(path)["se"].isna().all()
        return
    with pytest.raises(InputError, match=told) as error:
        read_outside(path)
    assert str(path) in str(error.value)


def test_read_outside__all_faults_are_told_at_once(tmp_path: Path) -> None:
    text = SSF.replace("-0.3\t0.1", "-0.3\t0").replace("\ta\tG\t", "\t\tG\t")
    with pytest.raises(InputError) as error:
        read_outside(write(tmp_path / "t", text))
    assert len(error.value.problems) == 2


def with_p(beta: NDArray, se: NDArray | float, p: NDArray) -> str:
    """GWAS-SSF of one variant a row."""
    header = "chromosome\tbase_pair_location\teffect_allele\tother_allele\tbeta\tstandard_error\t"
    values = enumerate(zip(beta, np.broadcast_to(se, len(beta)), p, strict=True), start=1)
    rows = (f"1\t{k}\tA\tG\t{b:.4g}\t{s:.4g}\t{own:.3g}\n" for k, (b, s, own) in values)
    return header + "p_value\n" + "".join(rows)


SPREADS = pytest.mark.parametrize("spread", [1, 5], ids=["null", "associated"])


@SPREADS
def test_read_outside__p_of_other_laws_and_corrections(tmp_path: Path, spread: float) -> None:
    rng = np.random.default_rng(0)
    t = rng.normal(0, spread, 400)
    p = 2 * norm.sf(np.abs(t))
    se = rng.uniform(0.002, 0.01, 400)
    none_in_bulk = np.copysign(12 + np.abs(t), t)
    right = {
        "few people": (0.1 * t, 0.1, 2 * student_t.sf(np.abs(t), 10)),
        "only hits of few people": (none_in_bulk, 1, 2 * student_t.sf(np.abs(none_in_bulk), 50)),
        "a floor": (np.where(np.arange(400) < 80, 40, t), 1, np.maximum(p, 1e-16)),
        "genomic control": (0.1 * t, 0.1, 2 * norm.sf(np.abs(t) / np.sqrt(2.5))),
        "three decimals": (t * se, se.round(3), p),
        "another test of some": (0.1 * t, 0.1, np.where(np.arange(400) % 10 == 0, 1e-9, p)),
    }
    for name, columns in right.items():
        assert len(read_outside(write(tmp_path / name, with_p(*columns)))) == 400


@SPREADS
def test_read_outside__p_that_contradicts_the_effect(tmp_path: Path, spread: float) -> None:
    rng = np.random.default_rng(0)
    t = rng.normal(0, spread, 400)
    p = np.maximum(2 * norm.sf(np.abs(t)), 1e-300)
    told = "p is not that .* rows compared .* an odds ratio, .* leave out the column of p"
    wrong = {
        "odds ratios": (np.exp(0.1 * t), 0.1, p),
        "odds ratios of rising alleles": (np.exp(0.1 * np.abs(t)), 0.1, p),
        "p of another trait": (0.1 * t, 0.1, rng.permuted(p)),
        "effects of another trait": (rng.permuted(t), 1, p),
        "a deviation for se": (0.1 * t, 2, p),
        "effect and se exchanged": (np.full(400, 0.1), np.abs(0.1 * t), p),
        "p of one side": (t, 1, np.maximum(norm.sf(t), 1e-300)),
    }
    for name, columns in wrong.items():
        with pytest.raises(InputError, match=told):
            read_outside(write(tmp_path / name, with_p(*columns)))


@SPREADS
def test_read_outside__p_of_another_scale_is_told(
    tmp_path: Path, spread: float, caplog: pytest.LogCaptureFixture
) -> None:
    """Columns that are off by a factor in all rows, and genomic control as it is usual."""
    rng = np.random.default_rng(0)
    t = rng.normal(0, spread, 2000)
    p = 2 * norm.sf(np.abs(t))
    natural = with_p(0.1 * t, 0.1, -np.log(p)).replace("p_value", "neg_log_10_p_value")
    texts = {
        "ln p": (natural, "smaller"),
        "se twice": (with_p(0.1 * t, 0.2, p), "smaller"),
        "se halved": (with_p(0.1 * t, 0.05, p), "larger"),
        "far genomic control": (with_p(t, 1, 2 * norm.sf(np.abs(t) / np.sqrt(2.5))), "larger"),
        "genomic control": (with_p(t, 1, 2 * norm.sf(np.abs(t) / np.sqrt(1.7))), None),
        "deflated": (with_p(t, 1, 2 * norm.sf(np.abs(t) / np.sqrt(0.7))), None),
        "few people": (with_p(t, 1, 2 * student_t.sf(np.abs(t), 30)), None),
    }
    for name, (text, told) in texts.items():
        caplog.clear()
        with caplog.at_level(logging.WARNING, logger="axoloci"):
            assert len(read_outside(write(tmp_path / name, text))) == 2000
        assert len(caplog.messages) == (told is not None), (name, caplog.text)
        if told:
            assert f"{name}: p are {told} than the effect and its standard error say" in caplog.text
            assert "median ratio of z" in caplog.text


def test_read_outside__a_variant_that_occurs_twice(tmp_path: Path) -> None:
    again = SSF + "1\t100\tG\tA\t0.2\t0.1\t0.3\t0.04\trs7\t500\n"  # alleles in another order
    with pytest.raises(InputError, match=r"row 4 \(rs7\): chromosome, position and alleles occur"):
        read_outside(write(tmp_path / "t", again))
    third = SSF + "1\t100\tA\tC\t0.2\t0.1\t0.3\t0.04\trs1\t500\n"  # a third allele is no fault
    assert len(read_outside(write(tmp_path / "t", third))) == 3
    moved = SSF + "".join(f"1\t{k}\tA\tC\t0.2\t0.1\t0.3\t0.04\trs1\t5\n" for k in range(5, 10))
    with pytest.raises(InputError, match=r"rows 4 \(rs1\), .* and 2 more: .* at another position"):
        read_outside(write(tmp_path / "t", moved))
    with pytest.raises(InputError, match=r"row 5 \(rs1\): the variant id occurs more than once"):
        read_outside(write(tmp_path / "t", LDSC + "rs1\tA\tG\t500\t2\n"))


def test_read_outside__other_columns_are_told_what_is_needed(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"no known format: SNP, P; the nearest, LDSC, also needs A1"
    ):
        read_outside(write(tmp_path / "t", "SNP\tP\nrs1\t0.1\n"))
    no_other = SSF.replace("other_allele", "ref")
    with pytest.raises(InputError, match="nearest, GWAS-SSF, also needs other_allele; add them"):
        read_outside(write(tmp_path / "t", no_other))
    metal = "MarkerName\tAllele1\tAllele2\tEffect\tStdErr\tP-value\nrs1\ta\tg\t0\t1\t1\n"
    told = (
        "also needs chromosome, base_pair_location, effect_allele, other_allele; for GWAS-SSF "
        "rename MarkerName to rsid, Allele1 to effect_allele, Allele2 to other_allele, Effect to "
        "beta, StdErr to standard_error, P-value to p_value and add chromosome, base_pair_location"
    )
    with pytest.raises(InputError, match=told):
        read_outside(write(tmp_path / "t", metal))
    either = "SNP CHR BP Allele1 Allele2 BETA SE p.value\n"  # of which is not told
    told = "having seen which of Allele1 and Allele2 the effect is of, that to effect_allele and"
    with pytest.raises(InputError, match=rf"p\.value to p_value, and, {told}") as error:
        read_outside(write(tmp_path / "t", either))
    assert "Allele1 to" not in str(error.value)
    with pytest.raises(InputError, match=r"fastGWA without an effect .* BETA, and SE or P"):
        read_outside(write(tmp_path / "t", FASTGWA.replace("BETA", "B")))
    with pytest.raises(InputError, match="run it without --no-split"):
        read_outside(write(tmp_path / "t", "CHROM GENPOS ID BETA.Y1 BETA.Y2\n1 1 rs1 0 0\n"))
    cut = "\n".join("\t".join(line.split("\t")[:4]) for line in SSF.split("\n"))
    with pytest.raises(InputError, match="without an effect and its test; it needs beta or odds"):
        read_outside(write(tmp_path / "t", cut))
    only_covariates = "\n".join(PLINK2.split("\n")[::2][:2]) + "\n"
    with pytest.raises(InputError, match="no row of the additive test"):
        read_outside(write(tmp_path / "t", only_covariates))


@pytest.mark.parametrize(
    ("header", "told"),
    [
        (
            "CHR SNP POS A1 A2 N BETA SE P",
            "nearest, fastGWA, also needs AF1; for GWAS-SSF rename CHR to chromosome, SNP to rsid, "
            "POS to base_pair_location, N to n, BETA to beta, SE to standard_error, P to p_value, "
            "and, having seen which of A1 and A2 the effect is of, that to effect_allele and the "
            "other to other_allele, or give",
        ),
        (
            "SNP A1 A2 N OR P",
            "nearest, LDSC, also needs Z, the effect of A1 by its standard error, which LDSC's "
            "munge_sumstats.py adds; for GWAS-SSF rename SNP to rsid, N to n, OR to odds_ratio, P "
            "to p_value, and, having seen which of A1 and A2 the effect is of, that to "
            "effect_allele and the other to other_allele and add chromosome, base_pair_location",
        ),
        ("SNP A1 A2 N BETA P", "munge_sumstats.py adds; for GWAS-SSF rename SNP to rsid, N to n, "),
        (
            "chr rs ps n_miss allele1 allele0 beta se p_wald p_lrt",
            "nearest, GEMMA, also needs af; for GWAS-SSF rename chr to chromosome, rs to rsid, ps "
            "to base_pair_location, se to standard_error, p_wald to p_value, and, having seen "
            "which of allele1 and allele0 the effect is of",
        ),
    ],
    ids=["fastgwa", "odds", "munge", "gemma"],
)
def test_read_outside__other_columns_are_told_how_to_rename(
    tmp_path: Path, header: str, told: str
) -> None:
    with pytest.raises(InputError, match=re.escape(told)):
        read_outside(write(tmp_path / "t", header + "\n"))


def test_read_outside__gemma_of_a_mixed_model_has_no_n(tmp_path: Path) -> None:
    mixed = GEMMA.replace("n_mis\tn_obs", "n_miss\tlogl_H1")
    table = read_outside(write(tmp_path / "t", mixed))
    assert table["n"].isna().all()
    assert table["effect_allele"].tolist() == ["A", "AT"]


def test_read_outside__files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        read_outside(tmp_path / "none")
    rng = np.random.default_rng(0)
    rows = "".join(
        f"1\t{k}\tA\tG\t{beta}\t0.1\t0.5\t0.5\trs{k}\t9\n" for k, beta in enumerate(rng.random(999))
    )
    (tmp_path / "cut.gz").write_bytes(gzip.compress((SSF + rows).encode())[:-2000])
    with pytest.raises(InputError, match=r"cut\.gz: cannot be unpacked to its end"):
        read_outside(tmp_path / "cut.gz")
    (tmp_path / "t.zip").write_bytes(b"PK\x03\x04")
    with pytest.raises(InputError, match="unpack it"):
        read_outside(tmp_path / "t.zip")

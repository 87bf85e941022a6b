"""Genotype files: read as plink2 reads them, faults named."""

from __future__ import annotations

import itertools
import struct
import subprocess
from collections.abc import Callable
from math import comb
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from plink_files import split_by_chromosome, unpack, write_plink

from axoloci.errors import InputError
from axoloci.io.genotype_files import (
    count_variants,
    genotype_problems,
    genotype_set,
    n_variants,
    read_pgen_header,
)
from axoloci.io.genotypes import MISSING, PackedCalls, open_genotypes
from axoloci.io.variant_choice import VariantChoice


@pytest.fixture
def dosage() -> NDArray[np.int8]:
    """7 variants of 10 people (not a multiple of four), with missing genotypes."""
    rng = np.random.default_rng(0)
    values = rng.integers(0, 3, size=(7, 10)).astype(np.int8)
    values[rng.random(values.shape) < 0.2] = -9
    return values


@pytest.fixture
def prefix(tmp_path: Path, dosage: NDArray[np.int8]) -> Path:
    write_plink(tmp_path / "set.v1", dosage)
    return tmp_path / "set.v1"


def test_read__blocks_and_people(prefix: Path, dosage: NDArray[np.int8]) -> None:
    source = open_genotypes(prefix)
    assert (source.n_variants, source.n_samples) == dosage.shape
    np.testing.assert_array_equal(source.read(0, 7), dosage)
    np.testing.assert_array_equal(source.read(2, 5, [1, 4, 9]), dosage[2:5, [1, 4, 9]])
    np.testing.assert_array_equal(source.read(2, 5, [9, 0, 4]), dosage[2:5, [9, 0, 4]])
    np.testing.assert_array_equal(source.read(1, 3, range(9, -1, -1)), dosage[1:3, ::-1])
    np.testing.assert_array_equal(source.read(6, 7), dosage[6:7])
    assert source.read(3, 3).shape == (0, 10)
    assert source.read(3, 5, []).shape == (2, 0)
    assert source.read(0, 1).dtype == np.int8
    for start, stop, people in ((0, 8, None), (0, 1, [10]), (0, 1, [-1]), (0, 1, [2, 2])):
        with pytest.raises(IndexError):
            source.read(start, stop, people)


def test_select_variants__as_if_there_were_no_others(
    prefix: Path, dosage: NDArray[np.int8]
) -> None:
    source = open_genotypes(prefix)
    source.select_variants(np.array([False, True, True, False, True, True, True]))
    chosen = dosage[[1, 2, 4, 5, 6]]
    assert list(source.variants["variant_id"]) == ["rs1", "rs2", "rs4", "rs5", "rs6"]
    np.testing.assert_array_equal(source.read(0, 5), chosen)
    np.testing.assert_array_equal(source.read(2, 5, [7, 1]), chosen[2:, [7, 1]])
    source.select_variants(np.array([True, False, True, True, False]))
    np.testing.assert_array_equal(source.read(0, 3), chosen[[0, 2, 3]])
    assert source.n_variants == 3


def test_sample_index__is_the_place_of_each_person(prefix: Path) -> None:
    source = open_genotypes(prefix)
    np.testing.assert_array_equal(source.sample_index(["i9", "i0", "i4"]), [9, 0, 4])
    with pytest.raises(InputError, match=r"v1\.fam: lacks 2 of 3 people, such as 'i10', '4'; give"):
        source.sample_index(["i10", "i4", "4"])


def test_open_genotypes__path_of_the_bed(prefix: Path, dosage: NDArray[np.int8]) -> None:
    source = open_genotypes(f"{prefix}.bed")
    np.testing.assert_array_equal(source.read(0, 7), dosage)
    assert [path.suffix for path in source.files] == [".bed", ".bim", ".fam"]


def test_open_genotypes__tables(prefix: Path) -> None:
    Path(f"{prefix}.bim").write_text(
        "chr1 rs1 0 100 A C\n1 . 0 -5 0 G\n01 rs3 0.5 3 AT A\nX NA 0 7 A C\n"
        "MT rs5 0 8 A C\nchrX rs6 0 9 A C\n26 rs7 0 4000000 A NA\n"
    )
    rows = Path(f"{prefix}.fam").read_text().splitlines()
    rows[0] = "1_3 007 p1 0 2 1.5"
    rows[1] = "f1 1e5 0 0 3 -9"
    Path(f"{prefix}.fam").write_text("\n".join(rows))
    source = open_genotypes(prefix)
    assert list(source.variants["chromosome"]) == ["1", "1", "1", "X", "MT", "X", "26"]
    assert list(source.variants["variant_id"])[:4] == ["rs1", ".", "rs3", "NA"]
    assert list(source.variants["effect_allele"])[:3] == ["A", "0", "AT"]
    assert list(source.variants["other_allele"])[-1] == "NA"
    assert list(source.variants["base_pair_location"])[-1] == 4_000_000
    assert list(source.samples.iloc[0]) == ["1_3", "007", "p1", "0", 2]
    assert list(source.samples.iloc[1]) == ["f1", "1e5", "0", "0", 0]


def test_open_genotypes__counts_the_allele_that_plink2_calls_alt(
    prefix: Path, dosage: NDArray[np.int8], tool: Callable[[str], str]
) -> None:
    subprocess.run(
        [tool("plink2"), "--bfile", prefix, "--freq", "--nonfounders", "--out", prefix],
        check=True,
        capture_output=True,
    )
    theirs = pd.read_csv(f"{prefix}.afreq", sep="\t")
    source = open_genotypes(prefix)
    ours = source.read(0, 7).astype(float)
    ours[ours < 0] = np.nan
    assert list(theirs["ALT"]) == list(source.variants["effect_allele"])
    np.testing.assert_allclose(np.nanmean(ours, axis=1) / 2, theirs["ALT_FREQS"], rtol=1e-5)


def test_open_genotypes__mice_keep_negative_positions_and_wide_fam(
    data_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = data_dir / "genotypes" / "mouse-hs1940"
    source = open_genotypes(unpack(folder, "mouse_hs1940", tmp_path / "mouse"))
    assert (source.n_variants, source.n_samples) == (12226, 1940)
    assert "1926 variants have a negative position; they are kept" in caplog.text
    parents = ["H2.3:C5.2(3)", "H2.3:G2.2(3)"]
    assert source.samples.iloc[0].tolist() == ["1_3", "A048005080", *parents, 2]


def replace(path: Path, old: bytes, new: bytes) -> None:
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new, 1))


@pytest.mark.parametrize(
    ("suffix", "old", "new", "message"),
    [
        (".bed", b"\x6c\x1b", b"\x1f\x8b", r"set\.v1\.bed: not a PLINK 1 bed .* 1f 8b"),
        (".bed", b"\x6c\x1b\x01", b"\x6c\x1b\x00", "person by person"),
        (".bed", b"\x6c\x1b\x01", b"\x6c\x1b\x01\x00", "25 bytes, but 7 variants .* need 24"),
        (
            ".fam",
            b"f3\ti3",
            b"f2\ti2",
            r"v1\.fam: row 4: the IID 'i2' occurs twice in one family, first in row 3; ",
        ),
        (
            ".fam",
            b"f3\ti3",
            b"f2\tsub-i2",
            "'i2' occurs twice in one family, first in row 3, for sub- before an id",
        ),
        (".fam", b"i3\t0", b"NA\t0", "row 4: the IID is missing"),
        (
            ".fam",
            b"f0\t",
            b"a a 0 0 0 0\nb b 0 0 0 0\nc c 0 0 0 0\n" + b"f0\t",
            "7 variants .* of 13 people",
        ),
        (".fam", b"i2\t0\t0", b"i2\t0", r"row 3 has 5 fields, expected 6 \(FID IID"),
        (".bim", b"rs4\t0\t1004", b"rs4\t1004", r"bim: row 5 has 5 fields, expected 6"),
        (".bim", b"1\trs4\t0\t1004\tA\tC\n", b"", "6 variants .* holds 7 variants"),
        (".bim", b"1004", b"1004.5", "positions must be whole numbers"),
        (".bim", b"1004", b"x", "positions must be whole numbers"),
    ],
)
def test_open_genotypes__names_faults(
    prefix: Path, suffix: str, old: bytes, new: bytes, message: str
) -> None:
    replace(Path(f"{prefix}{suffix}"), old, new)
    with pytest.raises(InputError, match=message):
        open_genotypes(f"{prefix}.bed")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b"A\tC\n1\trs90000\t", b"A\n1\trs90000\tC\t", "row 90000 has 5 fields, expected 6"),
        (b"\n1\trs90000\t0\t90000", b" \n1 rs90000 0\f-", "row 90001: the position is '-'"),
        (b"rs90000\t0\t90000", b"rs90000\t0\t9OOOO", "row 90001: the position is '9OOOO'"),
        (b"rs90000\t0\t90000", b"rs90000\t0\t-90-00", "row 90001: the position is '-90-00'"),
        (b"\n1\trs90000\t0\t90000", b"\n\n\n  1 rs90000 0 -90000\r", None),
    ],
    ids=["field moved to the next row", "sign alone", "letter", "sign within", "blank lines"],
)
def test_genotype_problems__of_a_row_far_below(
    tmp_path: Path, old: bytes, new: bytes, message: str | None
) -> None:
    n = 100_000
    (tmp_path / "g.fam").write_text("f i 0 0 0 0\n")
    (tmp_path / "g.bed").write_bytes(b"\x6c\x1b\x01" + bytes(n))
    rows = "".join(f"1\trs{k}\t0\t{k}\tA\tC\n" for k in range(n))
    (tmp_path / "g.bim").write_text(rows.removesuffix("\n"))
    assert genotype_problems(genotype_set(tmp_path / "g")) == []
    replace(tmp_path / "g.bim", old, new)
    problems = genotype_problems(genotype_set(tmp_path / "g"))
    if message is None:
        assert problems == []
    else:
        (problem,) = (found for found in problems if "row" in found)
        assert message in problem


def test_genotype_problems__are_named_all_at_once(prefix: Path) -> None:
    replace(Path(f"{prefix}.bed"), b"\x6c\x1b", b"xx")
    replace(Path(f"{prefix}.bim"), b"1004", b"1e3")
    replace(Path(f"{prefix}.fam"), b"f3\ti3", b"f2\ti2")
    problems = genotype_problems(genotype_set(f"{prefix}.bed"))
    assert len(problems) == 3
    assert "row 4: the IID 'i2' occurs twice" in problems[0]
    assert "bim: row 5: the position is '1e3'" in problems[1]
    assert "not a PLINK 1 bed" in problems[2]
    with pytest.raises(InputError) as caught:
        open_genotypes(f"{prefix}.bed")
    assert caught.value.problems == tuple(problems)


def test_read_people__without_the_prefix_of_bids(tmp_path: Path) -> None:
    (tmp_path / "a.fam").write_bytes(b"\xef\xbb\xbfsub-1 sub-01 0 0 0 0\r\n2 02 0 0 0 0\r\n")
    assert list(genotype_set(tmp_path / "a").people["iid"]) == ["01", "02"]


def test_read_people__of_one_iid_in_two_families(prefix: Path) -> None:
    replace(Path(f"{prefix}.fam"), b"f3\ti3", b"f3\ti2")
    source = open_genotypes(prefix)
    assert list(source.samples.index[:5]) == ["i0", "i1", "f2 i2", "f3 i2", "i4"]
    assert list(source.samples["iid"][2:4]) == ["i2", "i2"]
    np.testing.assert_array_equal(source.sample_index(["f3 i2", "i9"]), [3, 9])


def test_open_genotypes__names_a_file_that_is_not_there(prefix: Path) -> None:
    Path(f"{prefix}.fam").unlink()
    with pytest.raises(InputError, match=r"set\.v1\.fam: no such file"):
        open_genotypes(prefix)
    with pytest.raises(InputError, match=r"nothing\.bed: no such file"):
        open_genotypes("nothing")


@pytest.mark.parametrize(
    ("name", "mend"),
    [
        ("g.vcf.gz", "plink2 --vcf g.vcf.gz --make-pgen makes the second of it"),
        ("g.fam", "give the name before the suffix"),
        ("g_chr{chrom}", "one file a chromosome is named by {chromosome} in place of its number"),
    ],
)
def test_open_genotypes__says_what_to_give_instead(name: str, mend: str) -> None:
    with pytest.raises(InputError) as caught:
        open_genotypes(name)
    assert str(caught.value).startswith(f"{name}.bed: no such file; genotypes are a .bed with")
    assert str(caught.value).endswith(mend)


def test_open_genotypes__names_an_empty_table(prefix: Path) -> None:
    Path(f"{prefix}.bim").write_text("")
    with pytest.raises(InputError, match="the file has no rows"):
        open_genotypes(prefix)


def test_count_variants__names_are_those_of_the_variants(tmp_path: Path) -> None:
    dosage = np.zeros((5, 4), np.int8)
    write_plink(tmp_path / "g", dosage, ["chr2", "Chr2", "X", "1", "NA"])
    counts = count_variants(genotype_set(tmp_path / "g"))
    assert counts == {"2": 2, "X": 1, "1": 1, "0": 1}
    assert list(counts) == list(open_genotypes(tmp_path / "g").variants["chromosome"].unique())


def test_variant_choice__counts_as_the_genotypes_choose(tmp_path: Path) -> None:
    write_plink(tmp_path / "g", np.zeros((6, 4), np.int8), ["2", "2", "chr2", "X", "X", "1"])
    (tmp_path / "in.txt").write_text("rs0\nrs1\nrs2\nrs5\nrs77\n")
    (tmp_path / "out.tsv").write_text("#CHROM\tID\n2\trs1\n")
    choice = VariantChoice(("2:1001-1002", "1"), tmp_path / "in.txt", tmp_path / "out.tsv")
    source = open_genotypes(tmp_path / "g")
    assert np.flatnonzero(choice.of(source.variants, source.path)).tolist() == [2, 5]
    assert choice.count(genotype_set(tmp_path / "g")) == {"2": 1, "1": 1}
    nothing = VariantChoice(("X:1-2",))
    with pytest.raises(InputError, match=r"g\.bed: no variant is left of 6"):
        nothing.count(genotype_set(tmp_path / "g"))
    assert VariantChoice().is_all
    assert not choice.is_all


# --- one file a chromosome ------------------------------------------------------------------------


@pytest.fixture
def split(tmp_path: Path, dosage: NDArray[np.int8]) -> Path:
    """Seven variants of chromosomes 10, 2 and X, in one file each; the pattern of these."""
    write_plink(tmp_path / "whole", dosage, ["10"] * 3 + ["2"] + ["X"] * 3)
    pattern = tmp_path / "by chr [v3]" / "ukb_c{chromosome}_b0"
    pattern.parent.mkdir()
    split_by_chromosome(tmp_path / "whole", pattern)
    return pattern


def test_open_genotypes__one_file_a_chromosome(
    split: Path, dosage: NDArray[np.int8], caplog: pytest.LogCaptureFixture
) -> None:
    split.with_name("ukb_call_b0.bed").touch()  # no chromosome
    source = open_genotypes(split)
    expected = dosage[[3, 0, 1, 2, 4, 5, 6]]  # in the order of the chromosomes
    assert [path.name for path in source.files[::3]] == [
        f"ukb_c{name}_b0.bed" for name in ("2", "10", "X")
    ]
    assert "no file of chromosome 1, 3, 4, 5, 6, 7, 8, 9; what is there is read" in caplog.text
    assert list(source.variants["chromosome"]) == ["2"] + ["10"] * 3 + ["X"] * 3
    np.testing.assert_array_equal(source.read(0, 7), expected)
    np.testing.assert_array_equal(source.read(0, 3, [9, 1]), expected[:3, [9, 1]])
    np.testing.assert_array_equal(source.read(2, 2), expected[:0])
    np.testing.assert_array_equal(source.read_calls_at([0, 3, 6], [2, 5]), expected[::3, [2, 5]])
    for rows in ([3, 0], [1, 1], [0, 7], [-1]):
        with pytest.raises(IndexError):
            source.read_calls_at(rows)
    within = source.read_packed(1, 4)
    alone = open_genotypes(source.files[3]).read_packed(0, 3)
    assert isinstance(within, PackedCalls)
    assert isinstance(alone, PackedCalls)
    np.testing.assert_array_equal(within.read(), alone.read())
    np.testing.assert_array_equal(source.read_packed(0, 4), expected[:4])  # across two files
    source.select_variants(np.array([True, False, True, True, True, False, False]))
    np.testing.assert_array_equal(source.read(0, 4), expected[[0, 2, 3, 4]])
    genotypes = genotype_set(f"{split}.bed")
    assert n_variants(genotypes) == 7
    assert count_variants(genotypes) == {"2": 1, "10": 3, "X": 3}


def test_open_genotypes__whole_numbers_and_dosages_together(
    split: Path, imputed: tuple[Path, NDArray[np.float32]], tool: Callable[[str], str]
) -> None:
    """Of one file the genotypes are whole numbers, of the other they are not."""
    prefix, values = imputed
    calls = prefix.with_name("c1")
    plink2(tool, "--pfile", prefix, "--make-pgen", "erase-dosage", "--out", calls)
    for suffix in (".pgen", ".pvar", ".psam"):
        prefix.with_suffix(suffix).rename(prefix.with_name(f"c2{suffix}"))
    source = open_genotypes(prefix.with_name("c{chromosome}.pgen"))
    assert source.dtype == np.float32
    one, two = open_genotypes(calls), open_genotypes(prefix.with_name("c2"))
    assert one.dtype == np.int8
    np.testing.assert_array_equal(source.read(0, 18), np.vstack([one.read(0, 9), two.read(0, 9)]))
    np.testing.assert_array_equal(source.read(9, 18) == MISSING, values == MISSING)


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("10_b0.fam", b"f9\ti9\t0\t0\t0\t-9\n", b"", r"c10_b0\.fam: other .*: 9, there 10; "),
        ("X_b0.fam", b"f3\ti3", b"f3\tj3", r"other people than in .*c2_b0\.fam: person 4 has the "),
        ("X_b0.fam", b"f3\ti3", b"e3\ti3", "person 4 has the FID 'e3', there 'f3'; give all"),
        ("X_b0.fam", b"i3\t0\t0\t0", b"i3\t0\t0\t2", "the sex '2', there '0'"),
        ("X_b0.fam", b"f0", b"f10 i10 0 0 0 0\nf11 i11 0 0 0 0\nf0", "than in .*: 12, there 10; "),
    ],
)
def test_open_genotypes__names_faults_of_a_chromosome(
    split: Path, name: str, old: bytes, new: bytes, message: str
) -> None:
    replace(split.with_name(f"ukb_c{name}"), old, new)
    with pytest.raises(InputError, match=message):
        open_genotypes(split)


def test_open_genotypes__names_what_a_pattern_lacks(split: Path) -> None:
    split.with_name("ukb_cX_b0.bim").unlink()
    split.with_name("ukb_c2_b0.fam").unlink()
    problems = genotype_problems(genotype_set(split))
    assert len(problems) == 2
    assert "ukb_c2_b0.fam: no such file" in problems[0]
    assert "ukb_cX_b0.bim: no such file" in problems[1]
    with pytest.raises(InputError, match=r"\{chromosome\}\.bgen: no such file; in a name, \{chrom"):
        open_genotypes(split.with_name("{chromosome}.bgen"))
    for name in ("23", "chr2"):
        for suffix in (".bed", ".bim", ".fam"):
            split.with_name(f"ukb_c{name}_b0{suffix}").touch()
        with pytest.raises(InputError, match=rf"ukb_c{name}_b0.* are of the same chromosome"):
            open_genotypes(split)
        split.with_name(f"ukb_c{name}_b0.bed").unlink()


# --- PLINK 2 and BGEN ----------------------------------------------------------------------------

VCF = """\
##fileformat=VCFv4.2
##contig=<ID=1>
##FORMAT=<ID=GT,Number=1,Type=String,Description="Genotype">
##FORMAT=<ID=DS,Number=1,Type=Float,Description="Dosage">
#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\tFORMAT\t{people}
{rows}
"""


def plink2(tool: Callable[[str], str], *options: object) -> None:
    command = [tool("plink2"), *map(str, options), "--threads", "1"]
    subprocess.run(command, check=True, capture_output=True)


def write_vcf(path: Path, genotypes: list[list[str]], alleles: list[tuple[str, str]]) -> None:
    """Rows of GT or GT:DS; the format is that of the first entry."""
    kind = "GT:DS" if ":" in genotypes[0][0] else "GT"
    rows = [
        "\t".join(["1", str(100 + i), f"rs{i}", *alleles[i], ".", ".", ".", kind, *row])
        for i, row in enumerate(genotypes)
    ]
    people = "\t".join(f"p{i}" for i in range(len(genotypes[0])))
    path.write_text(VCF.format(people=people, rows="\n".join(rows)))


@pytest.fixture
def imputed(tmp_path: Path, tool: Callable[[str], str]) -> tuple[Path, NDArray[np.float32]]:
    """PLINK 2 files of fractional dosages, some missing, and what they should be."""
    rng = np.random.default_rng(1)
    values = np.round(rng.uniform(0, 2, size=(9, 13)), 3).astype(np.float32)
    missing = rng.random(values.shape) < 0.1
    rows = [
        [
            "./.:." if m else f"{('0/0', '0/1', '1/1')[round(v)]}:{v}"
            for v, m in zip(*of, strict=True)
        ]
        for of in zip(values.tolist(), missing, strict=True)
    ]
    write_vcf(tmp_path / "imputed.vcf", rows, [("C", "A")] * len(rows))
    plink2(
        tool,
        *("--vcf", tmp_path / "imputed.vcf", "dosage=DS", "--make-pgen"),
        *("--out", tmp_path / "imputed"),
    )
    values[missing] = MISSING
    return tmp_path / "imputed", values


def test_read__whole_numbers_of_plink2(
    prefix: Path, dosage: NDArray[np.int8], tool: Callable[[str], str]
) -> None:
    for packed in ([], ["vzs"]):
        out = prefix.with_name("of2" + "".join(packed))
        plink2(tool, "--bfile", prefix, "--make-pgen", *packed, "--out", out)
        source = open_genotypes(f"{out}.pgen")
        assert source.dtype == np.int8
        np.testing.assert_array_equal(source.read(0, 7), dosage)
        np.testing.assert_array_equal(source.read(2, 5, [9, 0, 4]), dosage[2:5, [9, 0, 4]])
        assert list(source.variants["effect_allele"].unique()) == ["A"]
        pd.testing.assert_frame_equal(source.variants, open_genotypes(f"{prefix}.bed").variants)
        assert list(source.samples["iid"]) == [f"i{i}" for i in range(10)]
        assert list(source.samples["fid"]) == [f"f{i}" for i in range(10)]
        assert n_variants(genotype_set(out)) == 7
        assert count_variants(genotype_set(out)) == {"1": 7}
        assert VariantChoice(("1",)).count(genotype_set(out)) == {"1": 7}


def test_read__dosages_of_plink2(imputed: tuple[Path, NDArray[np.float32]]) -> None:
    prefix, values = imputed
    source = open_genotypes(prefix)
    assert source.dtype == np.float32
    ours = source.read(0, 9)
    np.testing.assert_array_equal(ours == MISSING, values == MISSING)
    np.testing.assert_allclose(ours, values, atol=2**-15)  # PLINK 2 keeps 1/16384
    np.testing.assert_array_equal(source.read(3, 5, [12, 0]), ours[3:5, [12, 0]])


def test_read__each_of_several_alternative_alleles(
    tmp_path: Path, tool: Callable[[str], str]
) -> None:
    rows = [
        ["0/0", "0/1", "1/1", "./."],
        ["0/2", "1/2", "2/2", "0/1"],
        ["0/0", "0/1", "3/1", "2/0"],
        ["1/1", "0/0", "0/1", "1/1"],
    ]
    alleles = [("C", "A"), ("C", "A,G"), ("C", "A,G,T"), ("G", "T")]
    write_vcf(tmp_path / "m.vcf", rows, alleles)
    plink2(tool, "--vcf", tmp_path / "m.vcf", "--make-pgen", "--out", tmp_path / "m")
    source = open_genotypes(tmp_path / "m")
    assert list(source.variants["variant_id"]) == ["rs0", "rs1", "rs1", "rs2", "rs2", "rs2", "rs3"]
    assert list(source.variants["effect_allele"]) == ["A", "A", "G", "A", "G", "T", "T"]
    assert list(source.variants["other_allele"]) == ["C"] * 6 + ["G"]
    expected = [
        [0, 1, 2, -9],
        [0, 1, 0, 1],
        [1, 1, 2, 0],
        [0, 1, 1, 0],
        [0, 0, 0, 1],
        [0, 0, 1, 0],
        [2, 0, 1, 2],
    ]
    np.testing.assert_array_equal(source.read(0, 7), expected)
    np.testing.assert_array_equal(source.read(2, 4, [3, 0]), np.array(expected)[2:4, [3, 0]])
    source.select_variants(source.variants["effect_allele"].to_numpy() == "T")
    np.testing.assert_array_equal(source.read(0, 2), np.array(expected)[5:])
    assert count_variants(genotype_set(tmp_path / "m")) == {"1": 7}


@pytest.mark.parametrize("bits", [8, 16])
def test_read__dosages_of_bgen(
    imputed: tuple[Path, NDArray[np.float32]], tool: Callable[[str], str], bits: int
) -> None:
    prefix, values = imputed
    out = prefix.with_name("of_bgen")
    options = ["--export", "bgen-1.2", f"bits={bits}", "ref-first"]
    plink2(tool, "--pfile", prefix, *options, "--out", out)
    source = open_genotypes(f"{out}.bgen")
    ours = source.read(0, 9)
    np.testing.assert_array_equal(ours == MISSING, values == MISSING)
    # PLINK 2 keeps 1/16384, and each of two probabilities is rounded
    np.testing.assert_allclose(ours, values, atol=2**-15 + 2 / (2**bits - 1))
    np.testing.assert_array_equal(source.read(3, 5, [12, 0]), ours[3:5, [12, 0]])
    pd.testing.assert_frame_equal(source.variants, open_genotypes(f"{prefix}.pgen").variants)
    assert list(source.samples["iid"]) == [f"p{i}" for i in range(13)]
    calls = np.where(np.abs(ours - np.round(ours)) <= 0.1, np.round(ours), MISSING)
    np.testing.assert_array_equal(source.read_calls(0, 9), calls)
    source.select_variants(np.arange(9) % 2 == 0)
    np.testing.assert_array_equal(source.read(1, 3), ours[[2, 4]])
    Path(f"{out}.sample").unlink()
    if genotype_set(out).parts[0].samples is None:  # it names its people itself
        assert list(open_genotypes(out).samples["iid"]) == [f"p{i}" for i in range(13)]


Weights = list[int] | None  # of 255, the last left out; None is missing


def write_bgen(
    path: Path, variants: list[tuple[str, list[str], bool, list[tuple[int, Weights]]]]
) -> None:
    """BGEN 1.2 of 8 bits by its specification, not compressed: the people p0, p1, …

    Each variant has a chromosome, alleles, whether it is phased, and of each person the ploidy and
    the probabilities as they are stored.
    """

    def text(word: str, length: str = "<H") -> bytes:
        return struct.pack(length, len(word)) + word.encode()

    body = b""
    for i, (chromosome, alleles, phased, people) in enumerate(variants):
        ploidies = [ploidy for ploidy, _ in people]
        block = struct.pack("<IHBB", len(people), len(alleles), min(ploidies), max(ploidies))
        block += bytes(ploidy | (0x80 if w is None else 0) for ploidy, w in people)
        block += bytes([phased, 8])
        for ploidy, weights in people:
            n_alone = len(alleles) - 1
            n_stored = ploidy * n_alone if phased else comb(ploidy + n_alone, n_alone) - 1
            assert weights is None or len(weights) == n_stored
            block += bytes(n_stored if weights is None else weights)
        body += text(f"v{i}") + text(f"rs{i}") + text(chromosome)
        body += struct.pack("<IH", 100 + i, len(alleles))
        body += b"".join(text(allele, "<I") for allele in alleles)
        body += struct.pack("<I", len(block)) + block
    n_samples = len(variants[0][3])
    names = b"".join(text(f"p{k}") for k in range(n_samples))
    names = struct.pack("<II", 8 + len(names), n_samples) + names
    header = struct.pack("<III", 20, len(variants), n_samples) + b"bgen"
    header += struct.pack("<I", 2 << 2 | 1 << 31)  # layout 2, with the names of people
    path.write_bytes(struct.pack("<I", 20 + len(names)) + header + names + body)


def random_genotype(
    rng: np.random.Generator, n_alleles: int, phased: bool, ploidy: int
) -> tuple[list[int], NDArray[np.float64]]:
    """Probabilities as BGEN stores them, and the expected copies of each allele."""
    if phased:
        kinds = [(allele,) for allele in range(n_alleles)]
    else:  # 00, 01, 11, 02, 12, 22
        pairs = itertools.combinations_with_replacement(range(n_alleles), ploidy)
        kinds = sorted(pairs, key=lambda alleles: alleles[::-1])
    stored: list[int] = []
    copies = np.zeros(n_alleles)
    for _ in range(ploidy if phased else 1):
        weights = rng.multinomial(255, rng.dirichlet(np.ones(len(kinds))))
        stored += weights[:-1].tolist()
        for alleles, weight in zip(kinds, weights, strict=True):
            np.add.at(copies, list(alleles), weight / 255)
    return stored, copies


@pytest.mark.parametrize("phased", [False, True])
@pytest.mark.parametrize("alleles", [["A", "C"], ["A", "C", "G"], ["A", "C", "G", "T"]])
@pytest.mark.parametrize("ploidies", ["1212121", "1111111", "2222222", "0201212", "0000000"])
def test_read__bgen_of_any_ploidy(
    tmp_path: Path, phased: bool, alleles: list[str], ploidies: str
) -> None:
    rng = np.random.default_rng(3)
    people: list[tuple[int, Weights]] = []
    expected = []
    for k, ploidy in enumerate(map(int, ploidies)):
        stored, copies = random_genotype(rng, len(alleles), phased, ploidy)
        is_missing = k in (2, 3) or ploidy == 0
        # of no chromosome there is no genotype, whether the file says missing or not
        people.append((ploidy, None if k in (2, 3) else stored))
        expected.append(copies[1:] * 0 + MISSING if is_missing else copies[1:] * 2 / ploidy)
    write_bgen(tmp_path / "x.bgen", [("X", alleles, phased, people)])
    source = open_genotypes(tmp_path / "x.bgen")
    assert list(source.variants["effect_allele"]) == alleles[1:]
    np.testing.assert_allclose(source.read(0, len(alleles) - 1), np.transpose(expected), atol=1e-6)
    some = source.read(0, len(alleles) - 1, [6, 1])
    np.testing.assert_allclose(some, np.transpose(expected)[:, [6, 1]], atol=1e-6)


def test_read__bgen_of_who_has_none_of_the_last_allele(tmp_path: Path) -> None:
    """What is left of 1 for it is a little less than 0 in float32, and no missing genotype."""
    none: list[tuple[int, Weights]] = [(2, [n, 255 - n, 0, 0, 0]) for n in range(256)]
    haploid: list[tuple[int, Weights]] = [(1, [n, 255 - n]) for n in range(256)]
    variants = [("X", ["A", "C", "G"], False, none + haploid)]
    write_bgen(tmp_path / "x.bgen", variants)
    dosage = open_genotypes(tmp_path / "x.bgen").read(0, 2)
    assert dosage.min() == 0
    np.testing.assert_allclose(dosage[1], 0, atol=1e-6)


@pytest.mark.parametrize("phased", [False, True])
def test_read__haploid_bgen_as_plink2(
    tmp_path: Path, tool: Callable[[str], str], phased: bool
) -> None:
    rng = np.random.default_rng(4)
    variants: list[tuple[str, list[str], bool, list[tuple[int, Weights]]]] = []
    for _ in range(5):
        genotypes = [random_genotype(rng, 2, phased, 1 + k % 2)[0] for k in range(8)]
        people = [(1 + k % 2, None if k > 5 else stored) for k, stored in enumerate(genotypes)]
        variants.append(("X", ["A", "C"], phased, people))
    write_bgen(tmp_path / "x.bgen", variants)
    rows = [f"p{k} p{k} 0 {1 + k % 2}" for k in range(8)]
    (tmp_path / "x.sample").write_text("\n".join(["ID_1 ID_2 missing sex", "0 0 0 D", *rows, ""]))
    files = ("--bgen", tmp_path / "x.bgen", "ref-first", "--sample", tmp_path / "x.sample")
    plink2(tool, *files, "--make-pgen", "--out", tmp_path / "p")
    theirs = open_genotypes(tmp_path / "p.pgen").read(0, 5)
    np.testing.assert_allclose(open_genotypes(tmp_path / "x.bgen").read(0, 5), theirs, atol=2e-4)


@pytest.mark.parametrize("phased", [False, True])
@pytest.mark.parametrize("alleles", [["A", "C"], ["A", "C", "G"]])
def test_read__names_a_variant_of_three_copies(
    tmp_path: Path, phased: bool, alleles: list[str]
) -> None:
    rng = np.random.default_rng(5)
    people: list[tuple[int, Weights]] = [
        (ploidy, random_genotype(rng, len(alleles), phased, ploidy)[0]) for ploidy in (1, 2, 3)
    ]
    variants = [("2", alleles, phased, people[:2] * 2), ("2", alleles, phased, people + people[:1])]
    write_bgen(tmp_path / "x.bgen", variants)
    source = open_genotypes(tmp_path / "x.bgen")
    source.read(0, 1)
    words = r"x\.bgen: variant rs1 at 2:101: has genotypes of 3 copies, .*; make the file again"
    with pytest.raises(InputError, match=words):
        source.read(0, source.n_variants)


def test_read__names_a_variant_that_is_damaged(tmp_path: Path) -> None:
    write_bgen(tmp_path / "x.bgen", [("2", ["A", "C"], False, [(2, [1, 2]), (2, [3, 4])])])
    content = bytearray((tmp_path / "x.bgen").read_bytes())
    content[-5] = 32  # bits a probability
    (tmp_path / "x.bgen").write_bytes(content)
    source = open_genotypes(tmp_path / "x.bgen")
    with pytest.raises(InputError, match=r"x\.bgen: variant rs0 at 2:100: .*; make the file again"):
        source.read(0, 1)


def test_genotype_set__a_name_of_several_sets(prefix: Path) -> None:
    Path(f"{prefix}.pgen").touch()
    with pytest.raises(InputError, match=r"several sets \(\.bed, \.pgen\); give one"):
        genotype_set(prefix)
    assert genotype_set(f"{prefix}.bed").format == "PLINK 1"


def test_read_people__columns_of_a_psam(tmp_path: Path) -> None:
    psam = tmp_path / "a.psam"
    (tmp_path / "a.pgen").touch()
    psam.write_text("##x\n#IID\tPAT\tMAT\tSEX\nsub-1\t0\t2\tF\n2\t0\t0\tNA\n")
    people = genotype_set(tmp_path / "a").people
    assert people.to_numpy().tolist() == [["0", "1", "0", "2", 2], ["0", "2", "0", "0", 0]]
    psam.write_text("#FID IID SEX\n1 2\n")
    with pytest.raises(InputError, match=r"row 2 has 2 fields, expected 3 \(FID IID SEX\)"):
        _ = genotype_set(tmp_path / "a").people
    psam.write_text("#FID SEX\n1 2\n")
    with pytest.raises(InputError, match="no column IID"):
        _ = genotype_set(tmp_path / "a").people
    psam.write_text("f 1 0 0 2 -9\n")  # as a .fam
    assert genotype_set(tmp_path / "a").people.to_numpy().tolist() == [["f", "1", "0", "0", 2]]


def test_open_genotypes__columns_of_plink2_in_any_order(
    imputed: tuple[Path, NDArray[np.float32]],
) -> None:
    prefix, _ = imputed
    pvar = prefix.with_suffix(".pvar")
    expected = open_genotypes(prefix).variants
    rows = [row.split() for row in pvar.read_text().splitlines() if not row.startswith("##")]
    place = rows[0].index("POS")
    moved = [[*row[:place], *row[place + 1 :], row[place]] for row in rows]
    pvar.write_text("".join("\t".join(row) + "\n" for row in moved))
    pd.testing.assert_frame_equal(open_genotypes(prefix).variants, expected)
    moved[4][-1] = "1x"
    pvar.write_text("".join("\t".join(row) + "\n" for row in moved))
    with pytest.raises(InputError, match=r"pvar: row 5: the position is '1x'"):
        open_genotypes(prefix)


def test_open_genotypes__names_faults_of_plink2(imputed: tuple[Path, NDArray[np.float32]]) -> None:
    prefix, _ = imputed
    pgen, psam, pvar = (prefix.with_suffix(s) for s in (".pgen", ".psam", ".pvar"))
    whole = pgen.read_bytes()
    header = read_pgen_header(pgen)
    assert (header.n_variants, header.n_samples, header.has_dosages) == (9, 13, True)
    assert header.n_bytes == len(whole)
    pgen.write_bytes(whole[:-1])
    with pytest.raises(InputError, match=rf"cut off: .* records end at {len(whole)}"):
        open_genotypes(prefix)
    pgen.write_bytes(whole[:25])
    with pytest.raises(InputError, match="cut off within its header"):
        open_genotypes(prefix)
    pgen.write_bytes(b"x" + whole)
    with pytest.raises(InputError, match="not a PLINK 2 file"):
        open_genotypes(prefix)
    pgen.write_bytes(whole)
    rows = psam.read_text().splitlines(keepends=True)
    psam.write_text("".join(rows[:-1]))
    with pytest.raises(InputError, match=r"holds 13 people, .*imputed\.psam 12"):
        open_genotypes(prefix)
    psam.write_text("".join(rows))
    rows = pvar.read_text().splitlines(keepends=True)
    pvar.write_text("".join(rows[:-1]))
    with pytest.raises(InputError, match=r"holds 9 variants, .*imputed\.pvar 8"):
        open_genotypes(prefix)
    pvar.write_text("".join(rows[:-1]) + "1\tx\trs\tC\tA\n")
    with pytest.raises(InputError, match=r"pvar: row .*: the position is 'x'"):
        open_genotypes(prefix)


def test_open_genotypes__names_faults_of_bgen(
    imputed: tuple[Path, NDArray[np.float32]], tool: Callable[[str], str]
) -> None:
    prefix, _ = imputed
    out = prefix.with_name("b")
    plink2(tool, "--pfile", prefix, "--export", "bgen-1.1", "--out", out)
    with pytest.raises(InputError, match=r"b\.bgen: BGEN of layout 1; only BGEN 1\.2"):
        open_genotypes(out)
    plink2(tool, "--pfile", prefix, "--export", "bgen-1.2", "--out", out)
    sample, bgen = Path(f"{out}.sample"), Path(f"{out}.bgen")
    rows = sample.read_text().splitlines(keepends=True)
    sample.write_text("".join(rows[:-1]))
    with pytest.raises(InputError, match=r"holds 13 people, .*b\.sample 12"):
        open_genotypes(out)
    sample.write_text("".join(rows))
    bgen.write_bytes(bgen.read_bytes()[:-20])
    with pytest.raises(InputError, match=r"b\.bgen: .*cut off"):
        open_genotypes(out)
    bgen.write_bytes(b"nothing of the kind, and long enough to be looked at")
    with pytest.raises(InputError, match="not a BGEN file"):
        open_genotypes(out)

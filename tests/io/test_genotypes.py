"""Genotype files: read as plink2 reads them, faults named."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from plink_files import unpack, write_plink

from axoloci.errors import InputError
from axoloci.io.genotypes import (
    count_variants,
    genotype_problems,
    open_genotypes,
    read_people,
)


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
    assert list(source.variants["chromosome"]) == ["1", "1", "01", "X", "MT", "X", "26"]
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
            b"i3\t0",
            b"i2\t0",
            r"v1\.fam: row 4: the IID 'i2' occurs twice, first in row 3; ",
        ),
        (
            ".fam",
            b"i3\t0",
            b"sub-i2\t0",
            "'i2' occurs twice, first in row 3, for sub- before an id",
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


def test_genotype_problems__are_named_all_at_once(prefix: Path) -> None:
    replace(Path(f"{prefix}.bed"), b"\x6c\x1b", b"xx")
    replace(Path(f"{prefix}.bim"), b"1004", b"1e3")
    replace(Path(f"{prefix}.fam"), b"i3\t0", b"i2\t0")
    problems = genotype_problems(Path(f"{prefix}.bed"))
    assert len(problems) == 3
    assert "bim: row 5: the position is '1e3'" in problems[0]
    assert "not a PLINK 1 bed" in problems[1]
    assert "row 4: the IID 'i2' occurs twice" in problems[2]
    with pytest.raises(InputError) as caught:
        open_genotypes(f"{prefix}.bed")
    assert caught.value.problems == tuple(problems)


def test_read_people__without_the_prefix_of_bids(tmp_path: Path) -> None:
    (tmp_path / "a.fam").write_bytes(b"\xef\xbb\xbfsub-1 sub-01 0 0 0 0\r\n2 02 0 0 0 0\r\n")
    assert read_people(tmp_path / "a.fam") == ["01", "02"]


def test_open_genotypes__names_a_file_that_is_not_there(prefix: Path) -> None:
    Path(f"{prefix}.fam").unlink()
    with pytest.raises(InputError, match=r"set\.v1\.fam: no such file"):
        open_genotypes(prefix)
    with pytest.raises(InputError, match=r"nothing\.bed: no such file"):
        open_genotypes("nothing")


def test_open_genotypes__names_an_empty_table(prefix: Path) -> None:
    Path(f"{prefix}.bim").write_text("")
    with pytest.raises(InputError, match="the file has no rows"):
        open_genotypes(prefix)


def test_count_variants__names_are_those_of_the_variants(tmp_path: Path) -> None:
    dosage = np.zeros((5, 4), np.int8)
    write_plink(tmp_path / "g", dosage, ["chr2", "Chr2", "X", "1", "NA"])
    counts = count_variants(tmp_path / "g.bim")
    assert counts == {"2": 2, "X": 1, "1": 1, "0": 1}
    assert list(counts) == list(open_genotypes(tmp_path / "g").variants["chromosome"].unique())

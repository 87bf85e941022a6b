"""What `axoloci-gwas` says of bad input, and what it leaves behind: nothing, or whole files."""

from __future__ import annotations

import logging
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner, Result
from plink_files import write_plink

from axoloci.io.sumstats import read_sumstats
from axoloci.io.sumstats_text import FORMATS
from axoloci.tasks.gwas.cli import main

N_SAMPLES, N_VARIANTS, N_TRAITS = 60, 90, 40


def gwas(*arguments: object, fails: bool = False) -> Result:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert (result.exit_code != 0) == fails, result.output + repr(result.exception)
    return result


def associate(folder: Path, *more: object, fails: bool = False) -> Result:
    inputs = ("--genotypes", folder / "g", "--traits", folder / "t.tsv", "--device", "cpu")
    return gwas("associate", *inputs, "--out", folder / "s", *more, fails=fails)


def contents(path: Path) -> dict[str, bytes]:
    return {str(f.relative_to(path)): f.read_bytes() for f in path.rglob("*") if f.is_file()}


def table(folder: Path, name: str, **columns: object) -> Path:
    ids = [f"i{i}" for i in range(N_SAMPLES)]
    path = folder / name
    pd.DataFrame({"IID": ids, **columns}).to_csv(path, sep="\t", index=False, na_rep="NA")
    return path


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """Genotypes on three chromosomes and many traits."""
    rng = np.random.default_rng(0)
    dosage = rng.integers(0, 3, (N_VARIANTS, N_SAMPLES)).astype(np.int8)
    chromosome = ["1"] * 30 + ["2"] * 40 + ["X"] * 20
    write_plink(tmp_path / "g", dosage, chromosome, sex=list(rng.integers(1, 3, N_SAMPLES)))
    values = rng.normal(size=(N_TRAITS, N_SAMPLES))
    table(tmp_path, "t.tsv", **{f"t{k}": values[k] for k in range(N_TRAITS)})
    return tmp_path


@contextmanager
def largest_file(n_bytes: int) -> Iterator[None]:
    """No file can grow beyond it, as on a full disk or with a quota."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_associate__a_full_disk_is_named_and_the_run_goes_on_after(study: Path) -> None:
    associate(study)
    whole = contents(study / "s")
    (study / "s").rename(study / "whole")
    sizes = {name: len(part) for name, part in whole.items() if name.endswith(".parquet")}
    largest = max(sizes, key=lambda name: sizes[name])
    assert largest == "chr2/part-00000.parquet"
    with largest_file(sizes[largest] - 1):
        said = associate(study, "--threads", 1, fails=True).stderr
    assert said.startswith(f"Error: {study}/s/{largest}: ")
    assert "File too large; make room, and run the same command again" in said
    left = contents(study / "s")
    assert largest not in left
    assert "chr1/part-00000.parquet" in left
    assert "sumstats.json" not in left
    assert not [name for name in left if ".tmp." in name]
    associate(study)
    assert contents(study / "s") == whole


def test_associate__variants_of_one_id_are_kept_apart(study: Path) -> None:
    bim = study / "g.bim"
    text = bim.read_text()
    for number in (5, 31):
        text = text.replace(f"\trs{number}\t", "\trs4\t")
    bim.write_text(text)
    associate(study)
    results = read_sumstats(study / "s").trait("t3")
    same = results[results["variant_id"] == "rs4"]
    assert list(same.index) == [4, 5, 31]
    assert same["beta"].nunique() == 3
    for format_ in FORMATS:
        out = study / f"{format_}.tsv"
        options = ("--trait", "t3", "--format", format_, "--out", out)
        gwas("export", "--sumstats", study / "s", *options)
        written = out.read_text().splitlines()[1:]
        assert sum("rs4" in line.split() for line in written) == 3


def test_associate__negative_positions_are_kept_and_said_once(
    study: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bim = study / "g.bim"
    bim.write_text(bim.read_text().replace("\t1004\t", "\t-7\t").replace("\t1005\t", "\t-6\t"))
    associate(study)
    assert caplog.text.count("g.bim: 2 variants have a negative position; they are kept") == 1
    assert caplog.text.count("negative position") == 1
    results = read_sumstats(study / "s").trait("t0")
    assert list(results["base_pair_location"][3:7]) == [1003, -7, -6, 1006]
    assert results["beta"][3:7].notna().all()


def test_associate__a_variant_without_variation_is_a_row_without_numbers(study: Path) -> None:
    dosage = np.tile(np.arange(N_SAMPLES) % 3, (4, 1)).astype(np.int8)
    dosage[1], dosage[2] = 2, -9
    write_plink(study / "g", dosage)
    associate(study)
    store = read_sumstats(study / "s")
    assert store.trait("t0")["beta"].isna().tolist() == [False, True, True, False]
    assert store.trait("t0")["se"].isna().tolist() == [False, True, True, False]
    counts = {name: n for name, n in store.info["variants"].items() if n}
    assert counts == {"tested": 2, "monomorphic": 1, "too_few_genotypes": 1}


def test_associate__says_which_traits_are_left_out(
    study: Path, caplog: pytest.LogCaptureFixture
) -> None:
    value, nothing = np.arange(N_SAMPLES) % 7, np.full(N_SAMPLES, np.nan)
    table(study, "t.tsv", flat=np.ones(N_SAMPLES), sound=value, nothing=nothing)
    associate(study)
    assert "two values" not in caplog.text
    assert "trait flat is left out: it is constant" in caplog.text
    assert "trait nothing is left out: " in caplog.text
    assert read_sumstats(study / "s").traits == ["sound"]
    case = np.where(value < 1, np.nan, 1 + (value > 4))
    table(study, "t.tsv", sound=value, case=case)
    associate(study, "--replace")
    assert "two values: 1 traits, case; taken for quantities" in caplog.text


def test_associate__covariates_are_told(study: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="axoloci")
    age = np.arange(N_SAMPLES) % 11
    sites = ["b", "c", "b", "a"] * (N_SAMPLES // 4)
    path = table(study, "c.tsv", age=age, site=sites, months=12 * age, one=np.ones(N_SAMPLES))
    associate(study, "--covariates", path)
    assert "covariate site: 3 levels, reference 'b'" in caplog.text
    assert "covariate months is left out: it is a combination of intercept, age" in caplog.text
    assert "covariate one is left out: it is constant" in caplog.text
    names = ["intercept", "age", "site=a", "site=c"]
    assert read_sumstats(study / "s").info["covariates"] == names


def test_associate__words_that_are_no_categories(study: Path) -> None:
    path = table(study, "c.tsv", who=[f"P. {k}" for k in range(N_SAMPLES)])
    said = associate(study, "--covariates", path, fails=True).stderr
    assert f"covariate who: {N_SAMPLES} levels among {N_SAMPLES} people, such as 'P. 0'" in said
    assert not (study / "s").exists()


def test_associate__more_covariates_than_people(study: Path) -> None:
    columns = np.random.default_rng(1).normal(size=(N_SAMPLES + 5, N_SAMPLES))
    path = table(study, "c.tsv", **{f"c{k}": column for k, column in enumerate(columns)})
    said = associate(study, "--covariates", path, fails=True).stderr
    assert f"{N_SAMPLES} people are too few for {N_SAMPLES} covariates" in said
    assert not (study / "s").exists()


def test_associate__unknown_people_of_a_list_are_named(
    study: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (study / "keep").write_text("".join(f"f{i} i{i}\n" for i in range(50)) + "f9 I9\nx nobody\n")
    associate(study, "--keep", study / "keep")
    assert f"{study}/keep: 2 people, I9, nobody are not in {study}/g.bed; 'I9' and 'i9'" in (
        caplog.text
    )
    assert read_sumstats(study / "s").n_samples == 50
    (study / "keep").write_text("f1 j1\n")
    said = associate(study, "--keep", study / "keep", "--replace", fails=True).stderr
    assert "no id shared by" in said


@pytest.mark.parametrize("chromosome", ["X", "Y", "MT"])
def test_associate__says_how_many_are_of_unknown_sex(
    study: Path, caplog: pytest.LogCaptureFixture, chromosome: str
) -> None:
    dosage = np.random.default_rng(0).choice([0, 2], (5, N_SAMPLES)).astype(np.int8)
    sex = [0, 0, 0] + [1, 1, 2] * 19
    write_plink(study / "g", dosage, [chromosome] * 5, sex=sex)
    associate(study)
    said = f"{chromosome}: 3 of 60 people are of unknown sex and are left out there; give it in"
    assert (f"{said} {study}/g.fam" in caplog.text) == (chromosome != "MT")
    n_tested = {"X": 57, "Y": 38, "MT": 60}[chromosome]
    assert (read_sumstats(study / "s").trait("t0")["n"] == n_tested).all()


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("g.bed", b"\x6c\x1b", b"\x1f\x8b", "g.bed: not a PLINK 1 bed file"),
        ("g.bed", b"\x6c\x1b\x01", b"\x6c\x1b\x00", "g.bed: stored person by person; plink1.9"),
        ("g.bed", b"\x6c\x1b\x01", b"\x6c\x1b\x01\x00", "need 1353; it holds 90.0667 variants"),
        ("g.bim", b"rs4\t0\t", b"rs4\t", "g.bim: row 5 has 5 fields, expected 6"),
        ("g.fam", b"f7\ti7\t0", b"f7\ti7", "g.fam: row 8 has 5 fields, expected 6"),
        ("t.tsv", b"i7\t", b"i7", f"t.tsv: row 9 has {N_TRAITS} fields, the header {N_TRAITS + 1}"),
        ("t.tsv", b"i7\t", b"i6\t", "t.tsv: row 9: the IID 'i6' occurs twice, first in row 8"),
        ("t.tsv", b"i7\t", b"i7\tx", "t.tsv: row 9, column 't0': 'x"),
    ],
)
def test_associate__names_the_file_and_makes_nothing(
    study: Path, name: str, old: bytes, new: bytes, message: str
) -> None:
    content = (study / name).read_bytes()
    assert old in content
    (study / name).write_bytes(content.replace(old, new, 1))
    assert message in " ".join(associate(study, fails=True).stderr.split())
    assert not (study / "s").exists()

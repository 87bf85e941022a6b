"""LD scores against a dense computation and the program LDSC."""

from __future__ import annotations

import gzip
import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result
from numpy.typing import NDArray
from plink_files import write_plink

from axoloci.errors import InputError
from axoloci.tasks.genetics.cli import main
from axoloci.tasks.genetics.commands.ld_scores import read_ld_scores
from axoloci.tasks.genetics.ld_scores import ld_scores, standardise

N = 120


@pytest.fixture(scope="module")
def dosage() -> NDArray[np.int8]:
    """Genotypes (300, N) in disequilibrium with their neighbours; some are missing."""
    rng = np.random.default_rng(0)
    dosage = rng.binomial(2, 0.3, (300, N)).astype(np.int8)
    for variant in range(1, 300):
        copies = rng.random(N) < 0.7
        dosage[variant, copies] = dosage[variant - 1, copies]
    dosage[rng.random(dosage.shape) < 0.02] = -9
    return dosage


@pytest.fixture(scope="module")
def position() -> NDArray[np.int64]:
    rng = np.random.default_rng(1)
    return np.sort(rng.choice(1_000_000, 300, replace=False)) + 1


def dense(
    dosage: NDArray[np.int8], position: NDArray[np.float64], window: float
) -> NDArray[np.float64]:
    """The definition, of all pairs at once."""
    x = np.where(dosage < 0, np.nan, dosage.astype(float))
    x = np.where(np.isnan(x), np.nanmean(x, axis=1, keepdims=True), x)
    r2 = np.square(np.corrcoef(x))
    unbiased = r2 - (1 - r2) / (x.shape[1] - 2)
    return np.where(np.abs(position[:, None] - position) <= window, unbiased, 0).sum(axis=1)


@pytest.mark.parametrize("window", [1.0, 30_000.0, 250_000.0, 2e6])
@pytest.mark.parametrize("block", [7, 64, 300])
def test_ld_scores__are_those_of_a_dense_computation(
    dosage: NDArray[np.int8], position: NDArray[np.int64], window: float, block: int
) -> None:
    genotypes = standardise(dosage).genotypes
    blocks = (genotypes[start : start + block] for start in range(0, 300, block))
    found = ld_scores(blocks, position, window)
    np.testing.assert_allclose(found, dense(dosage, position, window), atol=1e-4)


def test_ld_scores__are_one_without_disequilibrium_whatever_the_number_of_people() -> None:
    """The bias of r² in a sample, 1/N of each of 2,000 variants, is taken off."""
    rng = np.random.default_rng(2)
    for n in (100, 400):
        genotypes = standardise(rng.binomial(2, 0.4, (2000, n)).astype(np.int8)).genotypes
        found = ld_scores([genotypes], np.arange(2000), 1e9)
        assert found.mean() == pytest.approx(1, abs=0.3)  # the bias would make it 1 + 2000 / n


def test_standardise__leaves_a_missing_genotype_at_the_mean_and_counts_the_rarer_allele() -> None:
    dosage = np.array([[0, 2, 2, -9], [1, 1, 1, 1], [-9, -9, -9, -9]], dtype=np.int8)
    found = standardise(dosage)
    assert found.genotypes[0, 3] == 0
    assert np.square(found.genotypes[0]).mean() == pytest.approx(1)
    assert found.genotypes[1:].tolist() == [[0] * 4, [0] * 4]
    np.testing.assert_allclose(found.maf, [1 / 3, 0.5, np.nan])


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["ld-scores", *map(str, arguments)])


@pytest.fixture(scope="module")
def panel(
    tmp_path_factory: pytest.TempPathFactory,
    dosage: NDArray[np.int8],
    position: NDArray[np.int64],
) -> Path:
    """PLINK files of two autosomes and X; one variant does not vary."""
    folder = tmp_path_factory.mktemp("panel")
    of_file = dosage.copy()
    of_file[17] = 0
    chromosomes = ["1"] * 100 + ["2"] * 150 + ["X"] * 50
    write_plink(folder / "panel", of_file, chromosomes, position.tolist())
    assert run("--genotypes", folder / "panel", "--out", folder / "l.parquet").exit_code == 0
    return folder


def test_ld_scores__of_a_file_are_of_each_autosome(
    panel: Path, dosage: NDArray[np.int8], position: NDArray[np.int64]
) -> None:
    table = pd.read_parquet(panel / "l.parquet").set_index("variant_id")
    assert len(table) == 249
    assert "rs17" not in table.index
    of_first = np.delete(np.arange(100), 17)
    truth = dense(dosage[of_first], position[of_first], 1e6)
    np.testing.assert_allclose(table["ld_score"][:99], truth, atol=1e-4)
    truth = dense(dosage[100:250], position[100:250], 1e6)
    np.testing.assert_allclose(table["ld_score"][99:], truth, atol=1e-4)
    about = json.loads(pq.read_schema(panel / "l.parquet").metadata[b"axoloci"])
    assert (about["n_samples"], about["n_variants"]) == (N, 249)
    assert read_ld_scores(panel / "l.parquet").n_common == (table["maf"] > 0.05).sum()


def test_ld_scores__of_some_people(panel: Path, dosage: NDArray[np.int8], tmp_path: Path) -> None:
    (tmp_path / "keep").write_text("".join(f"f{i} i{i}\n" for i in range(20, 100)))
    arguments = ("--keep", tmp_path / "keep", "--window-kb", 50, "--out", tmp_path / "l.parquet")
    result = run("--genotypes", panel / "panel", *arguments)
    assert result.exit_code == 0, result.output
    table = pd.read_parquet(tmp_path / "l.parquet")
    second = table[table["chromosome"] == "2"]
    places = second["base_pair_location"].to_numpy()
    truth = dense(dosage[100:250, 20:100], places, 50_000)
    np.testing.assert_allclose(second["ld_score"], truth, atol=1e-4)


def test_ld_scores__in_centimorgan(panel: Path, dosage: NDArray[np.int8], tmp_path: Path) -> None:
    for suffix in (".bed", ".fam", ".bim"):
        (tmp_path / f"p{suffix}").write_bytes((panel / f"panel{suffix}").read_bytes())
    arguments = ("--genotypes", tmp_path / "p", "--window-cm", 0.1, "--out", tmp_path / "l.parquet")
    result = run(*arguments)
    assert result.exit_code == 1
    assert "has no genetic map" in result.output
    rows = [line.split() for line in (tmp_path / "p.bim").read_text().splitlines()]
    centimorgan = np.sqrt(np.arange(300))
    for row, place in zip(rows, centimorgan, strict=True):
        row[2] = repr(float(place))
    (tmp_path / "p.bim").write_text("".join("\t".join(row) + "\n" for row in rows))
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    table = pd.read_parquet(tmp_path / "l.parquet")
    truth = dense(dosage[100:250], centimorgan[100:250], 0.1)
    np.testing.assert_allclose(table["ld_score"][99:], truth, atol=1e-4)


@pytest.mark.parametrize(
    ("chromosome", "position", "row"), [("1 1 1", "5 9 7", 3), ("1 2 1", "5 6 7", 3)]
)
def test_ld_scores__refuses_unsorted_variants(
    tmp_path: Path, chromosome: str, position: str, row: int
) -> None:
    dosage = np.random.default_rng(0).binomial(2, 0.5, (3, 60)).astype(np.int8)
    write_plink(tmp_path / "p", dosage, chromosome.split(), [int(p) for p in position.split()])
    result = run("--genotypes", tmp_path / "p", "--out", tmp_path / "l.parquet")
    assert result.exit_code == 1
    assert f"from row {row} on (rs2)" in " ".join(result.output.split())
    assert not (tmp_path / "l.parquet").exists()


def test_ld_scores__refuses_too_few_people_and_no_autosome(tmp_path: Path) -> None:
    dosage = np.random.default_rng(0).binomial(2, 0.5, (3, 60)).astype(np.int8)
    write_plink(tmp_path / "x", dosage, ["X"] * 3)
    assert "no variant of an autosome" in run("--genotypes", tmp_path / "x").output
    write_plink(tmp_path / "few", dosage[:, :20])
    assert "20 people are too few" in run("--genotypes", tmp_path / "few").output


# under Python 3 it writes text into a file of bytes, and ends when it counts variants after that
LDSC = """
import gzip, runpy, sys
opened = gzip.open
gzip.open = lambda name, mode="rb": opened(name, mode.replace("b", "t"))
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_ld_scores__are_those_of_ldsc(
    dosage: NDArray[np.int8],
    position: NDArray[np.int64],
    tool: Callable[[str], str],
    tmp_path: Path,
) -> None:
    """Its windows are rounded to chunks of variants: with chunks of one they are not."""
    write_plink(tmp_path / "panel", dosage, position=position.tolist())
    program = Path(tool("ldsc.py")).resolve()
    files = ("--bfile", tmp_path / "panel", "--out", tmp_path / "theirs")
    window = ("--ld-wind-kb", 100, "--chunk-size", 1, "--yes-really")
    command = [program.parent / "python", "-c", LDSC, program, "--l2", *files, *window]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert "Writing LD Scores for 300 SNPs" in done.stdout, done.stderr
    ours = tmp_path / "ours.parquet"
    result = run("--genotypes", tmp_path / "panel", "--window-kb", 100, "--out", ours)
    assert result.exit_code == 0, result.output
    theirs = pd.read_csv(tmp_path / "theirs.l2.ldscore.gz", sep="\t")
    both = pd.read_parquet(ours).merge(theirs, left_on="variant_id", right_on="SNP")
    assert len(both) == 300
    np.testing.assert_allclose(both["ld_score"], both["L2"], atol=1e-3)  # it prints 3 decimals


def write_published(folder: Path, chromosome: int, name: str, columns: str = "L2") -> None:
    """A file as they are published: one chromosome, three variants."""
    rows = "".join(f"{chromosome}\trs{chromosome}{k}\t{k + 1}\t1.5\n" for k in range(3))
    content = f"CHR\tSNP\tBP\t{columns}\n{rows}"
    (folder / f"{name}{chromosome}.l2.ldscore.gz").write_bytes(gzip.compress(content.encode()))
    (folder / f"{name}{chromosome}.l2.M_5_50").write_text(f"{chromosome}00\n")


def test_read_ld_scores__of_published_files_in_the_order_of_chromosomes(tmp_path: Path) -> None:
    for chromosome in (10, 2, 1):
        write_published(tmp_path, chromosome, "eur.")
    for path in (tmp_path, tmp_path / "eur."):
        found = read_ld_scores(path)
        assert found.n_common == 1300
        assert found.table["chromosome"].unique().tolist() == ["1", "2", "10"]
        assert found.table["variant_id"].tolist()[:3] == ["rs10", "rs11", "rs12"]


def test_read_ld_scores__refuses_what_it_cannot_be_sure_of(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no LD scores"):
        read_ld_scores(tmp_path / "nothing")
    (tmp_path / "table.tsv").write_text("a\n")
    with pytest.raises(InputError, match="not a table of axoloci-genetics ld-scores"):
        read_ld_scores(tmp_path / "table.tsv")
    write_published(tmp_path, 1, "a.")
    write_published(tmp_path, 1, "b.")
    with pytest.raises(InputError, match="several kinds"):
        read_ld_scores(tmp_path)
    write_published(tmp_path, 1, "b.", columns="codingL2")
    (tmp_path / "b.1.l2.M_5_50").write_text("3 4\n")
    with pytest.raises(InputError, match=r"must hold the number of variants .* holds '3 4'"):
        read_ld_scores(tmp_path / "b.")
    (tmp_path / "b.1.l2.M_5_50").unlink()
    with pytest.raises(
        InputError, match=r"b\.1\.l2\.M_5_50: no such file; .* LDSC \(--l2\) writes"
    ):
        read_ld_scores(tmp_path / "b.")
    (tmp_path / "b.1.l2.M_5_50").write_text("3\n")
    (tmp_path / "b.1.l2.ldscore.gz").write_bytes(b"\x1f\x8b damaged")
    with pytest.raises(InputError, match="damaged"):
        read_ld_scores(tmp_path / "b.")
    content = b"CHR SNP BP baseL2 codingL2\n1 rs1 5 1 1\n"
    (tmp_path / "b.1.l2.ldscore.gz").write_bytes(gzip.compress(content))
    with pytest.raises(InputError, match="several annotations"):
        read_ld_scores(tmp_path / "b.")

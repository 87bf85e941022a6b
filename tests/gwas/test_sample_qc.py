"""Quality of people against plink2 and plink1.9, and against faults that were planted."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner, Result
from numpy.typing import NDArray
from plink_files import unpack, write_plink

from axoloci.io.genotypes import open_genotypes
from axoloci.tasks.gwas import sample_qc
from axoloci.tasks.gwas.cli import main


def plink(program: str, prefix: Path, *options: str) -> None:
    command = [program, "--bfile", str(prefix), "--out", str(prefix), "--threads", "1", *options]
    subprocess.run(command, check=True, capture_output=True)


def samples(*arguments: object, fails: bool = False) -> Result:
    result = CliRunner().invoke(main, ["samples", *map(str, arguments)])
    assert (result.exit_code != 0) == fails, result.output + repr(result.exception)
    return result


def tables(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The two tables, people by IID; n/a stays n/a."""
    read = {"sep": "\t", "keep_default_na": False}
    qc = pd.read_csv(folder / "samples_qc.tsv", index_col="IID", **read)
    return qc, pd.read_csv(folder / "related.tsv", **read)


def run(prefix: Path, folder: Path, *more: object) -> tuple[pd.DataFrame, pd.DataFrame]:
    out = ("--out", folder / "samples_qc.tsv", "--related", folder / "related.tsv")
    samples("--genotypes", prefix, *out, *more)
    return tables(folder)


def in_blocks(dosage: NDArray[np.int8], size: int = 50) -> Iterator[NDArray[np.int8]]:
    for start in range(0, len(dosage), size):
        yield dosage[start : start + size]


def of_people(dosage: NDArray[np.int8]) -> Callable[[NDArray[np.int64]], Any]:
    return lambda people: in_blocks(dosage[:, people])


def assert_equal_to_print(ours: NDArray[np.float64], printed: NDArray[np.float64]) -> None:
    """To 1e-6 of the quantity or half of plink2's sixth digit."""
    np.testing.assert_allclose(ours, printed, rtol=5.1e-6, atol=0)
    np.testing.assert_allclose(ours, printed, rtol=1e-6, atol=5.1e-7)


# --- heterozygosity ---


def test_heterozygosity__equals_plink2(
    tmp_path: Path, data_dir: Path, tool: Callable[[str], str]
) -> None:
    """957 people of 11 populations; then the first 60, of whom some lack much."""
    prefix = unpack(data_dir / "genotypes" / "hapmap3-957", "data", tmp_path / "hapmap")
    source = open_genotypes(prefix)
    autosomal = source.variants["chromosome"].isin([str(c) for c in range(1, 23)]).to_numpy()
    everyone = source.read(0, source.n_variants)
    sparse = everyone[:, :60].copy()
    sparse[np.random.default_rng(0).random(sparse.shape) < np.linspace(0, 0.6, 60)] = -9
    sparse[:20] = 0
    write_plink(tmp_path / "sparse", sparse, list(source.variants["chromosome"]))
    for dosage, name in ((everyone, "hapmap"), (sparse, "sparse")):
        plink(tool("plink2"), tmp_path / name, "--het", "small-sample", "--missing", "--autosome")
        theirs = pd.read_csv(tmp_path / f"{name}.het", sep="\t")
        n = dosage.shape[1]
        missing_rate, f = sample_qc.heterozygosity(in_blocks(dosage[autosomal]), n)
        assert_equal_to_print(f, theirs["F"].to_numpy())
        lacking = pd.read_csv(tmp_path / f"{name}.smiss", sep="\t")["F_MISS"]
        np.testing.assert_allclose(missing_rate, lacking, rtol=5.1e-6)


def test_heterozygosity__without_information() -> None:
    """Everybody the same, one person, no one's genotype, no variant."""
    rate, f = sample_qc.heterozygosity([np.zeros((5, 3), np.int8)], 3)
    assert rate.tolist() == [0, 0, 0]
    assert np.isnan(f).all()
    rate, f = sample_qc.heterozygosity([np.array([[1], [0], [-9]], np.int8)], 1)
    assert rate[0] == pytest.approx(1 / 3)
    assert f[0] == pytest.approx(0)
    rate, f = sample_qc.heterozygosity([np.array([[1, -9], [2, -9]], np.int8)], 2)
    assert rate.tolist() == [0, 1]
    assert np.isnan(f[1])
    rate, f = sample_qc.heterozygosity([], 2)
    assert np.isnan([rate, f]).all()


def test_kernels__refuse_blocks_of_other_people() -> None:
    block = np.zeros((3, 4), np.int8)
    with pytest.raises(ValueError, match=r"shape \(3, 4\) for 5 people"):
        sample_qc.heterozygosity([block], 5)
    with pytest.raises(ValueError, match="for 5 people"):
        sample_qc.x_inbreeding([block], [1] * 5)
    with pytest.raises(ValueError, match="for 5 people"):
        list(sample_qc.related_pairs(lambda people: [block], 5))


# --- sex ---


def x_dosage(
    rng: np.random.Generator, male: NDArray[np.bool_], n_variants: int
) -> NDArray[np.int8]:
    """Genotypes on X: men 0 or 2."""
    p = rng.uniform(0.05, 0.5, n_variants)[:, None]
    one, other = rng.random((2, n_variants, len(male))) < p
    return np.where(male, 2 * one, one.astype(int) + other).astype(np.int8)


@pytest.mark.parametrize("name", ["X", "23"])
def test_x_inbreeding__equals_plink19(
    tmp_path: Path, tool: Callable[[str], str], name: str
) -> None:
    """Sexes swapped or unknown, genotypes missing, men heterozygous by error."""
    rng = np.random.default_rng(0)
    male = np.arange(80) % 2 == 0
    dosage = x_dosage(rng, male, 600)
    dosage[(rng.random(dosage.shape) < 0.02) & male] = 1
    dosage[rng.random(dosage.shape) < 0.03] = -9
    dosage[3], dosage[4] = 0, -9
    sex = np.where(male, 1, 2)
    sex[[5, 8]] = 3 - sex[[5, 8]]
    sex[10:20] = 0
    places = range(5_000_000, 5_000_600)
    write_plink(tmp_path / "g", dosage, [name] * 600, places, sex.tolist())
    plink(tool("plink1.9"), tmp_path / "g", "--check-sex")
    theirs = pd.read_csv(tmp_path / "g.sexcheck", sep=r"\s+")
    f = sample_qc.x_inbreeding(in_blocks(dosage), sex)
    np.testing.assert_allclose(f, theirs["F"], atol=1e-4)
    np.testing.assert_array_equal(sample_qc.genetic_sex(f), theirs["SNPSEX"])
    assert (theirs["SNPSEX"] == np.where(male, 1, 2)).mean() > 0.9


def test_x_inbreeding__real_x(tmp_path: Path, data_dir: Path, tool: Callable[[str], str]) -> None:
    """75 variants, too few unless asked for."""
    prefix = unpack(data_dir / "genotypes" / "hapmap3-957", "data", tmp_path / "hapmap")
    source = open_genotypes(prefix)
    plink(tool("plink1.9"), prefix, "--check-sex")
    theirs = pd.read_csv(f"{prefix}.sexcheck", sep=r"\s+")["F"]
    rows = np.flatnonzero(source.variants["chromosome"] == "23")
    dosage = source.read(rows[0], rows[-1] + 1)
    sex = source.samples["sex"]
    np.testing.assert_allclose(
        sample_qc.x_inbreeding([dosage], sex, min_variants=1), theirs, atol=1e-4
    )
    assert np.isnan(sample_qc.x_inbreeding([dosage], sex)).all()
    assert np.isnan(sample_qc.x_inbreeding([], [1, 2])).all()


# --- spread ---


def test_robust_deviation__outliers_do_not_hide() -> None:
    rng = np.random.default_rng(0)
    values = np.append(rng.normal(5, 2, 10_000), [105, np.nan])
    deviation = sample_qc.robust_deviation(values)
    assert deviation[-2] == pytest.approx(50, rel=0.03)
    assert np.isnan(deviation[-1])
    assert np.nanstd(deviation[:-2]) == pytest.approx(1, abs=0.03)
    assert np.isnan(sample_qc.robust_deviation(values[:19])).all()  # too few
    assert np.isnan(sample_qc.robust_deviation(np.append(np.ones(30), 9))).all()  # no spread


def test_pc_distance__is_the_mahalanobis_distance() -> None:
    rng = np.random.default_rng(0)
    pcs = rng.normal(size=(5000, 3)) * [1, 0.01, 100]
    pcs[7] = [9, 0, 0]
    distance, largest = sample_qc.pc_distance(pcs)
    expected = np.sqrt(np.square(pcs / [1, 0.01, 100]).sum(axis=1))
    np.testing.assert_allclose(distance, expected, rtol=0.1, atol=0.1)
    assert np.flatnonzero(largest > 6).tolist() == [7]
    flat, _ = sample_qc.pc_distance(np.column_stack([pcs, np.zeros(5000)]))
    np.testing.assert_array_equal(flat, distance)  # a component without spread says nothing
    assert np.isnan(sample_qc.pc_distance(pcs[:3])).all()
    assert np.isnan(sample_qc.pc_distance(pcs[:, :0])).all()


# --- kinship ---


@pytest.mark.parametrize("missing", [0.0, 0.04])
@pytest.mark.parametrize("tile", [2048, 37])
def test_related_pairs__equal_plink2(
    tmp_path: Path,
    tool: Callable[[str], str],
    monkeypatch: pytest.MonkeyPatch,
    missing: float,
    tile: int,
) -> None:
    """Every pair above -1, over few variants so that the kinships differ; in one tile and in three.

    Some variants are complete; one person has no genotype and one no heterozygous one.
    """
    monkeypatch.setattr(sample_qc, "TILE", tile)
    monkeypatch.setattr(sample_qc, "BLOCK_VARIANTS", 120)
    rng = np.random.default_rng(1)
    dosage = rng.binomial(2, rng.uniform(0.05, 0.5, 700)[:, None], (700, 90)).astype(np.int8)
    dosage[:, 40] = dosage[:, 3]
    dosage[:, 5] = 2 * (dosage[:, 5] // 2)
    gone = rng.random(dosage.shape) < missing
    gone[300:] &= rng.random(90) < 0.3
    dosage[gone] = -9
    if missing:
        dosage[:, 70] = -9
    write_plink(tmp_path / "g", dosage)
    columns = "cols=id,nsnp,kinship"
    plink(tool("plink2"), tmp_path / "g", "--make-king-table", columns)
    theirs = pd.read_csv(tmp_path / "g.kin0", sep="\t").rename(columns={"#IID1": "IID1"})
    theirs = theirs[np.isfinite(theirs["KINSHIP"])]
    places = theirs[["IID1", "IID2"]].map(lambda name: int(name[1:])).to_numpy()
    expected = pd.DataFrame(np.sort(places, axis=1), columns=["first", "second"])
    expected[["kinship", "n_variants"]] = theirs[["KINSHIP", "NSNP"]].to_numpy()
    expected = expected[expected["kinship"] > -1].sort_values(["first", "second"])

    parts = list(sample_qc.related_pairs(of_people(dosage), 90, min_kinship=-1))
    assert len(parts) == sample_qc.n_tile_pairs(90) == (1 if tile == 2048 else 6)
    found = pd.concat(pd.DataFrame(part._asdict()) for part in parts)
    found = found.sort_values(["first", "second"]).reset_index(drop=True)
    pd.testing.assert_frame_equal(
        found, expected.astype(found.dtypes).reset_index(drop=True), check_exact=False, atol=1e-5
    )
    assert len(found) > 3500
    both = (found["first"] == 3) & (found["second"] == 40)
    assert found.loc[both, "kinship"].item() == pytest.approx(0.5)


def test_related_pairs__of_several_ancestries(
    tmp_path: Path, data_dir: Path, tool: Callable[[str], str]
) -> None:
    """957 founders of 11 populations: the relatives that plink2 finds."""
    prefix = unpack(data_dir / "genotypes" / "hapmap3-957", "data", tmp_path / "hapmap")
    qc, related = run(prefix, tmp_path)
    assert (qc["sex_genetic"] == "n/a").all()
    source = open_genotypes(prefix)
    autosomal = source.variants["chromosome"].isin([str(c) for c in range(1, 23)]).to_numpy()
    dosage = source.read(0, source.n_variants)[autosomal]
    options = ("cols=id,nsnp,kinship", "--king-table-filter", "0.0442", "--autosome")
    plink(tool("plink2"), prefix, "--make-king-table", *options)
    theirs = pd.read_csv(f"{prefix}.kin0", sep="\t")
    [ours] = sample_qc.related_pairs(of_people(dosage), 957)
    order = np.argsort(ours.kinship)
    np.testing.assert_allclose(ours.kinship[order], np.sort(theirs["KINSHIP"]), atol=1e-5)
    close = {
        frozenset(pair) for pair in theirs[theirs["KINSHIP"] > 0.1][["#IID1", "IID2"]].to_numpy()
    }
    found = related[related["kinship"] > 0.1][["IID1", "IID2"]].to_numpy()
    assert {frozenset(pair) for pair in found} == close != set()


def test_related_pairs__reads_two_tiles_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sample_qc, "TILE", 10)
    dosage = np.random.default_rng(0).binomial(2, 0.4, (50, 34)).astype(np.int8)
    asked: list[list[int]] = []

    def read(people: NDArray[np.int64]) -> Any:
        asked.append(people.tolist())
        return in_blocks(dosage[:, people])

    list(sample_qc.related_pairs(read, 34))
    assert len(asked) == sample_qc.n_tile_pairs(34) == 10
    assert max(map(len, asked)) == 20
    assert all(people == sorted(set(people)) for people in asked)


def test_related_pairs__without_information() -> None:
    for dosage in (np.zeros((5, 3), np.int8), np.full((5, 3), -9, np.int8), np.zeros((0, 3))):
        [pairs] = sample_qc.related_pairs(of_people(dosage.astype(np.int8)), 3)
        assert len(pairs.first) == 0
    [pairs] = sample_qc.related_pairs(of_people(np.ones((5, 1), np.int8)), 1)
    assert len(pairs.kinship) == 0


def test_chance_kinship__is_above_all_unrelated_pairs() -> None:
    """The standard deviation of unrelated pairs is 1/√M."""
    rng = np.random.default_rng(0)
    dosage = rng.binomial(2, rng.uniform(0.01, 0.5, 2000)[:, None], (2000, 400)).astype(np.int8)
    [pairs] = sample_qc.related_pairs(of_people(dosage), 400, min_kinship=-9)
    assert pairs.kinship.std() == pytest.approx(2000**-0.5, rel=0.05)
    assert sample_qc.chance_kinship(2000) == pytest.approx(5 * 2000**-0.5)
    assert pairs.kinship.max() < sample_qc.chance_kinship(2000)


# --- the command, on planted faults ---

N_FOUNDERS, N_AUTOSOMAL, N_X = 150, 13_500, 400
CHILD, SIB_1, SIB_2, COPY, FOREIGN, MIXED, EMPTY = range(N_FOUNDERS, N_FOUNDERS + 7)
N_PEOPLE = N_FOUNDERS + 7
SWAPPED = (20, 31)  # a man and a woman


def planted() -> tuple[NDArray[np.int8], list[int]]:
    """Dosages and reported sexes of founders, even ones male, and the seven people above."""
    rng = np.random.default_rng(4)
    p = rng.uniform(0.1, 0.5, N_AUTOSOMAL)[:, None, None]
    alleles = (rng.random((N_AUTOSOMAL, N_FOUNDERS + 2, 2)) < p).astype(np.int8)

    def child(mother: int, father: int) -> NDArray[np.int8]:
        rows = np.arange(N_AUTOSOMAL)
        passed = [alleles[rows, who, rng.integers(0, 2, len(rows))] for who in (mother, father)]
        return np.asarray(sum(passed), dtype=np.int8)

    founders = alleles.sum(axis=2, dtype=np.int8)
    foreign = rng.binomial(2, rng.uniform(0.1, 0.9, N_AUTOSOMAL))
    one, other = founders[:, -1], founders[:, -2]  # two people outside the study, in one tube
    mixed = np.where(one == other, one, 1)
    added = [child(0, 1), child(2, 3), child(2, 3), founders[:, 7], foreign, mixed]
    autosomal = np.column_stack([founders[:, :N_FOUNDERS], *added, np.full(N_AUTOSOMAL, -9)])
    male = np.arange(N_PEOPLE) % 2 == 0
    male[COPY] = male[7]
    x = x_dosage(rng, male, N_X)
    x[:, EMPTY] = -9
    dosage = np.concatenate([autosomal, x]).astype(np.int8)
    dosage[:, 60][rng.random(len(dosage)) < 0.12] = -9
    sex = np.where(male, 1, 2)
    sex[list(SWAPPED)] = 3 - sex[list(SWAPPED)]
    sex[40] = 0
    return dosage, sex.tolist()


def places() -> list[int]:
    return [*range(1000, 1000 + N_AUTOSOMAL), *range(5_000_000, 5_000_000 + N_X)]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, NDArray[np.int8]]:
    folder = tmp_path_factory.mktemp("planted")
    dosage, sex = planted()
    chromosome = ["1"] * 7000 + ["2"] * (N_AUTOSOMAL - 7000) + ["X"] * N_X
    write_plink(folder / "g", dosage, chromosome, places(), sex)
    return folder, dosage


def test_samples__finds_what_was_planted(
    study: tuple[Path, NDArray[np.int8]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder, _ = study
    pcs, keep = tmp_path / "pcs.tsv", tmp_path / "keep.tsv"
    unrelated = [i for i in range(N_PEOPLE) if i not in (CHILD, SIB_1, SIB_2, COPY)]
    keep.write_text("IID\n" + "".join(f"i{i}\n" for i in unrelated))
    arguments = ["pca", "--genotypes", folder / "g", "--n-pcs", 1, "--keep", keep, "--out", pcs]
    assert CliRunner().invoke(main, [str(argument) for argument in arguments]).exit_code == 0
    qc, related = run(folder / "g", tmp_path, "--pcs", pcs)
    assert list(qc.index) == [f"i{i}" for i in range(N_PEOPLE)]
    flags = {i: set(qc.loc[f"i{i}", "flags"].split(",")) - {"n/a"} for i in range(N_PEOPLE)}

    assert {i for i in flags if "sex_mismatch" in flags[i]} == set(SWAPPED)
    assert qc.loc["i20", ["sex_reported", "sex_genetic"]].tolist() == ["female", "male"]
    assert qc.loc["i40", ["sex_reported", "sex_genetic"]].tolist() == ["unknown", "male"]
    assert {i for i in flags if "missing_rate" in flags[i]} == {60, EMPTY}
    assert float(qc.loc["i60", "missing_rate"]) == pytest.approx(0.12, abs=0.02)
    assert {i for i in flags if "ancestry" in flags[i]} - {MIXED} == {FOREIGN}
    assert "heterozygosity" in flags[MIXED]
    assert float(qc.loc[f"i{MIXED}", "heterozygosity_f"]) < -0.2
    empty = qc.loc[f"i{EMPTY}"]
    assert float(empty["missing_rate"]) == 1
    assert empty[["heterozygosity_f", "x_f", "sex_genetic"]].tolist() == ["n/a"] * 3

    pairs = {
        (int(row.IID1[1:]), int(row.IID2[1:])): float(row.kinship) for row in related.itertuples()
    }
    # a mixture is close to everyone: its own flag says why
    pure = {pair: kinship for pair, kinship in pairs.items() if MIXED not in pair}
    family = {(0, CHILD), (1, CHILD), (SIB_1, SIB_2)}
    family |= {(parent, sib) for parent in (2, 3) for sib in (SIB_1, SIB_2)}
    assert pure.keys() == family | {(7, COPY)}
    for pair in family:
        assert pure[pair] == pytest.approx(0.25, abs=0.03)
    assert pure[7, COPY] == pytest.approx(0.5)
    expected = {i for pair in pure for i in pair} | {MIXED}
    assert {i for i in flags if "related" in flags[i]} == expected
    assert sum(MIXED in pair for pair in pairs) > 100
    assert "genotypes of one may explain: 15" in caplog.text

    assert f"missing_rate: 2 people, i60, i{EMPTY}" in caplog.text
    assert "sex_mismatch: 2 people, i20, i31" in caplog.text
    assert f"duplicates or identical twins: 1 pairs, i7 and i{COPY}" in caplog.text
    assert "by chance unrelated pairs" not in caplog.text


def test_samples__pseudo_autosomal_regions_say_nothing_of_sex(
    study: tuple[Path, NDArray[np.int8]], tmp_path: Path
) -> None:
    """Men heterozygous at either end of X, and on the chromosome XY, stay men."""
    folder, dosage = study
    rng = np.random.default_rng(0)
    ends = rng.binomial(2, 0.5, (300, N_PEOPLE)).astype(np.int8)
    chromosome = ["1"] * 2000 + ["X"] * (N_X + 200) + ["XY"] * 100
    place = [*range(2000), *places()[N_AUTOSOMAL:]]
    place += [*range(2_700_000, 2_700_100), *range(154_931_000, 154_931_100), *range(100)]
    fam = pd.read_csv(folder / "g.fam", sep="\t", header=None)
    rows = np.concatenate([dosage[:2000], dosage[N_AUTOSOMAL:], ends])
    write_plink(tmp_path / "g", rows, chromosome, place, fam[4].tolist())
    qc, _ = run(tmp_path / "g", tmp_path)
    (tmp_path / "whole").mkdir()
    whole, _ = run(folder / "g", tmp_path / "whole", "--kinship", "0.2")
    pd.testing.assert_series_equal(qc["x_f"], whole["x_f"])


def test_samples__of_the_people_kept_without_x(
    study: tuple[Path, NDArray[np.int8]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The figures of a part of the cohort are those of the part alone; too few variants: said."""
    _, dosage = study
    write_plink(tmp_path / "all", dosage[:900])
    write_plink(tmp_path / "part", dosage[:900, 10:50])
    (tmp_path / "keep.tsv").write_text("IID\n" + "".join(f"i{i}\n" for i in range(49, 9, -1)))
    qc, related = run(tmp_path / "all", tmp_path, "--keep", tmp_path / "keep.tsv")
    assert "the sex of no one is checked: 0 variants on X" in caplog.text
    assert "common independent variants are few: pairs count as relatives" in caplog.text
    assert set(qc["sex_genetic"]) == {"n/a"} == set(qc["pc_distance"])
    part, part_related = run(tmp_path / "part", tmp_path)
    np.testing.assert_array_equal(qc.to_numpy(), part.to_numpy())
    np.testing.assert_array_equal(related["kinship"], part_related["kinship"])
    assert qc.index[0] == "i10"
    assert list(related.columns) == ["IID1", "IID2", "kinship", "n_variants"]


@pytest.mark.parametrize("value", [0, 1, -9])
def test_samples__one_person(tmp_path: Path, value: int) -> None:
    """Monomorphic, heterozygous and missing variants alike; a table with a header, no pair."""
    write_plink(tmp_path / "g", np.full((30, 1), value, np.int8))
    qc, related = run(tmp_path / "g", tmp_path)
    assert qc.loc["i0", "flags"] == ("missing_rate" if value < 0 else "n/a")
    assert len(related) == 0
    assert list(related.columns)[:2] == ["IID1", "IID2"]


def test_samples__few_people_are_not_called_relatives(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Unrelated ones, whose kinship over variants that are independent in them is far above 0."""
    rng = np.random.default_rng(0)
    dosage = rng.binomial(2, rng.uniform(0.05, 0.5, 4000)[:, None], (4000, 5)).astype(np.int8)
    write_plink(tmp_path / "g", dosage, [str(1 + k // 200) for k in range(4000)])
    qc, related = run(tmp_path / "g", tmp_path)
    assert set(qc["flags"]) == {"n/a"}
    assert len(related) == 0
    assert "5 people are few: from 20 on heterozygosity is judged and relatives" in caplog.text


def test_samples__people_without_components(
    study: tuple[Path, NDArray[np.int8]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _, dosage = study
    write_plink(tmp_path / "g", dosage[:300, :50])
    rows = [f"i{i}\t{np.sin(i):.3f}\t{np.cos(i):.3f}" for i in range(49)]
    rows[4] = "i4\t90\t0"
    (tmp_path / "pcs.tsv").write_text("\n".join(["IID\tPC1\tPC2", *rows]) + "\n")
    qc, _ = run(tmp_path / "g", tmp_path, "--pcs", tmp_path / "pcs.tsv")
    assert "no components: 1 people, i49" in caplog.text
    assert qc.loc["i49", "pc_distance"] == "n/a"
    assert list(qc.index[qc["flags"].str.contains("ancestry")]) == ["i4"]
    assert float(qc.loc["i4", "pc_distance"]) > 50


@pytest.mark.parametrize(
    ("chromosome", "pcs", "message"),
    [
        ("X", "", "no variant on the chromosomes 1 to 22"),
        ("1", "IID\tPC1\ni1\tmuch\n", "column 'PC1' holds words; a table of components needs"),
        ("1", "IID\ni1\n", "no column besides the ids"),
        ("1", "IID\tPC1\nx\t1\n", "no id shared by the genotypes and"),
    ],
)
def test_samples__names_faults(tmp_path: Path, chromosome: str, pcs: str, message: str) -> None:
    write_plink(tmp_path / "g", np.ones((4, 3), np.int8), [chromosome] * 4)
    (tmp_path / "pcs.tsv").write_text(pcs)
    more = ("--pcs", tmp_path / "pcs.tsv") if pcs else ()
    out = ("--out", tmp_path / "o.tsv", "--related", tmp_path / "r.tsv")
    result = samples("--genotypes", tmp_path / "g", *out, *more, fails=True)
    assert message in " ".join(result.stderr.split())
    assert not (tmp_path / "o.tsv").exists()

"""Traits that memory does not hold: tested in groups, with the results of one group."""

from __future__ import annotations

import logging
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from plink_files import write_plink
from support import contents

from axoloci.errors import InputError
from axoloci.io import sumstats
from axoloci.io.sumstats import SumstatsWriter, TraitRange, read_sumstats, trait_ranges
from axoloci.tasks.gwas import engine, memory
from axoloci.tasks.gwas.cli import main

N_SAMPLES, N_VARIANTS = 240, 90
TRAITS = ["few", "a", "gappy", "b", "flat", "gappy_too", "c", "hit"]
ABOUT = ("n_samples", "n_covariates", "n_covariates_of_chromosome", "covariates", "traits")
ABOUT += ("traits_with_missing", "traits_excluded", "n_variants", "variants", "genotypes", "inputs")


class Killed(BaseException):
    """In place of a signal."""


def gwas(*arguments: object) -> None:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output + repr(result.exception)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> tuple[object, ...]:
    """Two autosomes and X; patterns of missing traits, of which the first has the fewest people."""
    folder = tmp_path_factory.mktemp("study")
    rng = np.random.default_rng(0)
    dosage = rng.binomial(2, rng.uniform(0.1, 0.5, N_VARIANTS)[:, None], (N_VARIANTS, N_SAMPLES))
    dosage = dosage.astype(np.int8)
    dosage[20] = rng.binomial(2, 0.4, N_SAMPLES)
    dosage[rng.random(dosage.shape) < 0.02] = -9
    dosage[7] = 0  # tested of no trait
    dosage[8], dosage[8, :40] = 0, -9  # likewise, and no one who has the first trait has it
    dosage[9, 40:] = 0  # tested of any trait, but not of all
    chromosomes = ["1"] * 40 + ["2"] * 30 + ["X"] * 20
    write_plink(folder / "g", dosage, chromosomes, sex=list(rng.integers(1, 3, N_SAMPLES)))
    traits = pd.DataFrame(rng.normal(size=(N_SAMPLES, len(TRAITS))), columns=TRAITS)
    traits.loc[40:, "few"] = np.nan
    traits.loc[11:30, ["gappy", "gappy_too"]] = np.nan
    traits["flat"] = 3.0
    traits["b"] += 0.5 * traits["a"]
    traits["hit"] += 2 * np.maximum(dosage[20], 0)
    traits.insert(0, "IID", [f"i{i}" for i in range(N_SAMPLES)])
    traits.to_csv(folder / "t.tsv", sep="\t", index=False, na_rep="NA")
    covariates = pd.DataFrame({"IID": traits["IID"], "age": rng.uniform(20, 80, N_SAMPLES)})
    covariates.to_csv(folder / "c.tsv", sep="\t", index=False)
    tables = ("--traits", folder / "t.tsv", "--covariates", folder / "c.tsv")
    return ("--genotypes", folder / "g", *tables, "--threads", 1)


def associate(study: tuple[object, ...], out: Path, *more: object) -> None:
    gwas("associate", *study, "--device", "cpu", "--out", out, *more)


def assert_alike(one: Path, other: Path) -> None:
    """Two stores hold the same; floats differ by rounding at most."""
    names = {str(file.relative_to(one)) for file in one.rglob("*") if file.is_file()}
    assert names == {str(file.relative_to(other)) for file in other.rglob("*") if file.is_file()}
    stores = [read_sumstats(path) for path in (one, other)]
    for name in (*ABOUT, "plan_sha256", "samples"):
        assert stores[0].info[name] == stores[1].info[name], name
    for name in {name for name in names if name.endswith(".parquet")}:
        ours, theirs = (pq.read_table(path / name) for path in (one, other))
        assert ours.schema.equals(theirs.schema, check_metadata=True)
        pd.testing.assert_frame_equal(ours.to_pandas(), theirs.to_pandas(), rtol=1e-6, atol=1e-9)
    for name in {name for name in names if name.endswith(".npy")}:
        np.testing.assert_allclose(np.load(one / name), np.load(other / name), atol=1e-12)
    if (one / "beside.npz").exists():
        np.testing.assert_allclose(*(store.permuted for store in stores), rtol=1e-4, atol=1e-5)
        relationships = [store.relationship for store in stores]
        for name, values in relationships[0].items():
            if name == "chromosomes":
                assert values.tolist() == relationships[1][name].tolist()
                continue
            np.testing.assert_allclose(values, relationships[1][name], rtol=1e-6, err_msg=name)
    np.testing.assert_allclose(*(store.trait_residual_sd for store in stores), rtol=1e-12)
    hits = [pd.read_csv(path / "hits.tsv", sep="\t") for path in (one, other)]
    assert len(hits[0])
    pd.testing.assert_frame_equal(*hits, rtol=1e-5)


@pytest.mark.parametrize(
    ("at_once", "more"),
    [(3, ()), (1, ()), (4, ("--min-maf", 0.2)), (3, ("--precision", "float64"))],
)
def test_associate__groups_of_traits_give_the_same_store(
    study: tuple[object, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    at_once: int,
    more: tuple[object, ...],
) -> None:
    monkeypatch.setattr(sumstats, "PART_VARIANTS", 25)
    associate(study, tmp_path / "whole", *more)
    associate(study, tmp_path / "groups", "--traits-at-once", at_once, *more)
    assert_alike(tmp_path / "whole", tmp_path / "groups")
    counts = read_sumstats(tmp_path / "groups").info["variants"]
    if not more:
        assert (counts["monomorphic"], counts["too_few_genotypes"]) == (2, 0)


def test_associate__groups_of_traits_of_a_mixed_model(
    study: tuple[object, ...], tmp_path: Path
) -> None:
    gwas("ridge", *study, "--out", tmp_path / "loco")
    loco = ("--loco", tmp_path / "loco")
    associate(study, tmp_path / "whole", *loco)
    associate(study, tmp_path / "groups", *loco, "--traits-at-once", 3)
    assert_alike(tmp_path / "whole", tmp_path / "groups")


def test_associate__says_which_traits_it_tests(
    study: tuple[object, ...],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    caplog.set_level(logging.INFO, logger="axoloci")
    associate(study, tmp_path / "whole")
    assert "groups" not in caplog.text
    monkeypatch.setattr(memory, "traits_at_once", lambda *_: 3)
    associate(study, tmp_path / "s")
    assert "8 traits in 3 groups (memory holds 3 at once)" in caplog.text
    assert "traits 3 to 5 of 8" in caplog.text
    assert caplog.text.count("trait flat is left out") == 2
    assert caplog.text.count("X: ") == 0  # nothing is said once a group
    associate(study, tmp_path / "own", "--traits-at-once", 7)
    assert "8 traits in 2 groups (--traits-at-once 7)" in caplog.text


def test_associate__one_chromosome_at_a_time_in_groups(
    study: tuple[object, ...], tmp_path: Path
) -> None:
    """Processes may even hold different numbers of traits."""
    associate(study, tmp_path / "whole")
    associate(study, tmp_path / "s", "--plan-only", "--traits-at-once", 2)
    for chromosome, at_once in (("X", 3), ("1", 100), ("2", 2)):
        associate(study, tmp_path / "s", "--chromosome", chromosome, "--traits-at-once", at_once)
        assert len(list((tmp_path / "s" / f"chr{chromosome}").iterdir())) == 3
    associate(study, tmp_path / "s", "--traits-at-once", 5)
    assert_alike(tmp_path / "whole", tmp_path / "s")


def killed(study: tuple[object, ...], out: Path, at_once: int, after: int) -> list[str]:
    """A run that is killed after so many pieces; which are there."""
    write, pieces = SumstatsWriter.write_piece, count()

    def mortal(*arguments: Any, **more: Any) -> None:
        if next(pieces) >= after:
            raise Killed
        write(*arguments, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SumstatsWriter, "write_piece", mortal)
        with pytest.raises(Killed):
            associate(study, out, "--traits-at-once", at_once)
    return sorted(str(file.relative_to(out)) for file in out.rglob("*.piece-*.parquet"))


@pytest.mark.parametrize("after", [2, 3, 4])
def test_associate__goes_on_at_a_piece(
    study: tuple[object, ...], tmp_path: Path, after: int
) -> None:
    associate(study, tmp_path / "calm", "--traits-at-once", 3)
    there = killed(study, tmp_path / "s", 3, after)
    assert len(there) == after
    assert there[0] == "chr1/part-00000.piece-0-2.parquet"
    tested = []
    write = SumstatsWriter.write_piece

    def counted(writer: SumstatsWriter, part: Any, group: TraitRange, **more: Any) -> None:
        tested.append(part.piece_name(group))
        write(writer, part, group, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SumstatsWriter, "write_piece", counted)
        associate(study, tmp_path / "s", "--traits-at-once", 3)
    assert not set(there) & set(tested)
    assert len(there) + len(tested) == 2 * 3  # of three parts, all groups but the last
    assert contents(tmp_path / "s") == contents(tmp_path / "calm")


@pytest.mark.parametrize("free", [8, 3, 2])
def test_associate__goes_on_in_the_groups_it_was_begun_in(
    study: tuple[object, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int
) -> None:
    """Whether more memory is free than before, or a little less."""
    associate(study, tmp_path / "calm", "--traits-at-once", 3)
    there = killed(study, tmp_path / "s", 3, 4)
    before = {name: (tmp_path / "s" / name).stat().st_mtime_ns for name in there}
    monkeypatch.setattr(memory, "traits_at_once", lambda *_: free)
    monkeypatch.setattr(memory, "SLACK", 1.5)
    finish = SumstatsWriter.read_piece
    read: dict[str, int] = {}

    def seen(writer: SumstatsWriter, part: Any, group: TraitRange) -> Any:
        name = part.piece_name(group)
        read[name] = (writer.path / name).stat().st_mtime_ns
        return finish(writer, part, group)

    monkeypatch.setattr(SumstatsWriter, "read_piece", seen)
    associate(study, tmp_path / "s")
    assert before.items() <= read.items()  # not made again
    assert contents(tmp_path / "s") == contents(tmp_path / "calm")


def test_associate__says_that_smaller_groups_begin_anew(
    study: tuple[object, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    associate(study, tmp_path / "calm", "--traits-at-once", 2)
    assert killed(study, tmp_path / "s", 4, 2)
    monkeypatch.setattr(memory, "traits_at_once", lambda *_: 2)
    associate(study, tmp_path / "s")
    assert "were begun with 4 traits at once, and now there are to be 2" in caplog.text
    assert contents(tmp_path / "s") == contents(tmp_path / "calm")


def test_read_piece__that_another_process_joined(
    study: tuple[object, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = SumstatsWriter.read_piece

    def too_late(writer: SumstatsWriter, part: Any, group: TraitRange) -> Any:
        (writer.path / part.piece_name(group)).unlink()
        return read(writer, part, group)

    monkeypatch.setattr(SumstatsWriter, "read_piece", too_late)
    arguments = [*study, "--device", "cpu", "--out", tmp_path / "s", "--traits-at-once", 3]
    result = CliRunner().invoke(main, ["associate", *map(str, arguments)])
    assert result.exit_code == 1
    assert "as if another process tests chromosome 1 too" in result.output


@pytest.mark.parametrize(("at_once", "as_with"), [(2, 2), (4, 3), (8, 3)])
def test_associate__goes_on_with_groups_that_are_asked_for(
    study: tuple[object, ...], tmp_path: Path, at_once: int, as_with: int
) -> None:
    """Smaller ones are made anew; with larger ones what is there would be lost."""
    associate(study, tmp_path / "calm", "--traits-at-once", as_with)
    assert killed(study, tmp_path / "s", 3, 5)
    associate(study, tmp_path / "s", "--traits-at-once", at_once)
    assert contents(tmp_path / "s") == contents(tmp_path / "calm")


def test_associate__replaces_pieces_and_makes_damaged_ones_again(
    study: tuple[object, ...], tmp_path: Path
) -> None:
    associate(study, tmp_path / "calm", "--traits-at-once", 3)
    there = killed(study, tmp_path / "s", 3, 4)
    piece = tmp_path / "s" / there[0]
    content = bytearray(piece.read_bytes())
    content[len(content) // 2] ^= 1
    piece.write_bytes(content)
    (tmp_path / "s" / there[1]).with_suffix(".json").unlink()
    associate(study, tmp_path / "s", "--traits-at-once", 3)
    assert contents(tmp_path / "s") == contents(tmp_path / "calm")
    killed(study, tmp_path / "r", 3, 4)
    others = ("--min-maf", 0.1)
    associate(study, tmp_path / "r", *others, "--replace")
    associate(study, tmp_path / "new", *others)
    assert contents(tmp_path / "r") == contents(tmp_path / "new")


def test_associate__groups_hold_one_model_or_two_at_a_time(
    study: tuple[object, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    widths = []
    analysis_of = engine.analysis_of

    def seen(design: engine.Design, values: Any, *more: Any) -> engine.Analysis:
        widths.append(values.shape[1])
        return analysis_of(design, values, *more)

    monkeypatch.setattr(engine, "analysis_of", seen)
    associate(study, tmp_path / "s", "--traits-at-once", 2)
    assert set(widths) == {2}


@pytest.mark.parametrize(
    ("n_traits", "most", "edges"),
    [
        (8, 8, [0, 8]),
        (8, 100, [0, 8]),
        (8, 3, [0, 2, 5, 8]),
        (20_000, 4096, [0, 4000, 8000, 12_000, 16_000, 20_000]),
        (2, 1, [0, 1, 2]),
    ],
)
def test_trait_ranges__are_as_few_and_as_equal_as_may_be(
    n_traits: int, most: int, edges: list[int]
) -> None:
    found = trait_ranges(n_traits, most)
    assert [group.start for group in found] == edges[:-1]
    assert [group.stop for group in found] == edges[1:]
    assert [group.is_last for group in found] == [False] * (len(found) - 1) + [True]


def test_fitting_traits__by_the_host_or_the_smallest_gpu() -> None:
    gb = 10**9
    fitting = memory.fitting_traits
    # half of 48 GB, at 48 bytes a value
    assert fitting(50_000, 0, "float32", 48 * gb, []) == 10_000
    assert fitting(100_000, 0, "float32", 48 * gb, []) == 5_000
    # results in work: as many as people, of half the size
    assert fitting(50_000, 50_000, "float32", 48 * gb, []) == 6_666
    assert fitting(50_000, 50_000, "float64", 48 * gb, []) == 5_000
    # two fifths of 24 GB at 12 bytes a value, and of 12 GB
    assert fitting(100_000, 0, "float32", 1000 * gb, [24 * gb]) == 8_000
    assert fitting(100_000, 0, "float32", 1000 * gb, [24 * gb, 12 * gb]) == 4_000
    assert fitting(100_000, 0, "float64", 1000 * gb, [24 * gb]) == 6_000
    assert fitting(10**9, 0, "float32", gb, []) == 1


def test_traits_at_once__refuses_what_would_not_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "free_memory", lambda: 10**9)
    words = r"of 2000 traits of 900000 people, so little memory holds \d+ at once \(memory: 1\.0 GB"
    with pytest.raises(InputError, match=words):
        memory.traits_at_once(900_000, 2000, ["cpu"], 2, None)
    assert memory.traits_at_once(900_000, 5, ["cpu"], 2, None) >= 5
    assert memory.traits_at_once(9_000, 2000, ["cpu"], 2, None) > 100

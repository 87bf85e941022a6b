"""What the encoder reads: whose maps are of use, and tables of people."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from axoloci.errors import InputError
from axoloci.io.cohort import Cohort, read_cohort
from axoloci.io.packing import write_cohort
from axoloci.tasks.encoder import inputs

IDS = [f"{number:02d}" for number in range(1, 31)]


def cohort(tmp_path: Path, constant: tuple[int, ...] = ()) -> Cohort:
    """A store of 30 people; the maps of some have one value."""
    rows = np.random.default_rng(0).random((30, 24))
    rows[list(constant)] = 0.5
    path = tmp_path / "c.zarr"
    write_cohort(path, IDS, rows.__getitem__, np.ones((2, 3, 4), dtype=bool), np.eye(4))
    return read_cohort(path)


def harm(store: Cohort, row: int) -> None:
    """Turn a bit of somebody's stored map."""
    (shard,) = (path for path in (store.path / "fa" / "c").rglob("*") if path.is_file())
    content = bytearray(shard.read_bytes())
    index = np.frombuffer(content[-(30 * 16 + 4) : -4], dtype="<u8").reshape(30, 2)
    content[int(index[row].sum()) - 9] ^= 1
    shard.write_bytes(bytes(content))


def test_sound_cohort__leaves_out_and_names_the_damaged_and_the_constant(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = cohort(tmp_path, constant=(3, 8))
    harm(store, 20)
    sound = inputs.sound_cohort(store)
    assert sound.sample_id == tuple(name for name in IDS if name not in ("04", "09", "21"))
    assert "the stored maps of 1 people are damaged, who are left out: 21;" in caplog.text
    assert "the maps of 2 people have one value in the whole mask, who are left out: 04, 09" in (
        caplog.text
    )
    with pytest.raises(InputError, match="no stored map can be used"):
        inputs.sound_cohort(store.subset([3, 8, 20]))


def test_watched__tells_how_many_maps_were_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="axoloci")
    store = cohort(tmp_path)
    rows = inputs.watched(store, "latents")
    np.testing.assert_array_equal(rows(np.array([4, 2])), store.rows([4, 2]))
    assert caplog.text == ""  # ten seconds are not over
    monkeypatch.setattr("axoloci.command.TOLD_EVERY", -1.0)
    rows(np.arange(7))
    assert "latents, 30 people: maps read: 9" in caplog.text


def test_sound_cohort__tells_how_long_the_check_took_where_it_took_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="axoloci")
    store = cohort(tmp_path)
    assert inputs.sound_cohort(store) is store
    assert caplog.text == ""
    monkeypatch.setattr(inputs, "LONG_CHECK", -1.0)
    inputs.sound_cohort(store)
    assert "30 maps were checked in 0 s" in caplog.text


def test_draw_people__draws_others_for_those_of_no_use_and_reads_nobody_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = np.random.default_rng(7).permutation(30)
    store = cohort(tmp_path, constant=(int(order[2]),))
    harm(store, int(order[0]))
    harm(store, int(order[6]))  # drawn for those, and of no use either
    read: list[int] = []
    stored = type(store._shards).read

    def watched(shards: Any, row: int) -> Any:
        read.append(row)
        return stored(shards, row)

    monkeypatch.setattr(type(store._shards), "read", watched)
    drawn = inputs.draw_people(store, 6, seed=7)
    assert drawn.sample_id == tuple(IDS[k] for k in order[[1, 3, 4, 5, 7, 8]])
    assert sorted(read) == sorted(order[:9].tolist())
    everyone = inputs.draw_people(store, 500, seed=7)
    assert everyone.sample_id == tuple(IDS[k] for k in order if k not in order[[0, 2, 6]])


def test_draw_people__needs_two(tmp_path: Path) -> None:
    store = cohort(tmp_path, constant=tuple(range(1, 30)))
    with pytest.raises(InputError, match="the maps of 1 people can be used, at least 2"):
        inputs.draw_people(store, 5, seed=0)


def test_read_repeats__names_the_row_that_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "pairs.tsv"
    path.write_text("first\tsecond\n01\t02\n03\told\n")
    assert inputs.read_repeats(path, {*IDS, "old"}) == [("01", "02"), ("03", "old")]
    with pytest.raises(InputError, match=r"pairs.tsv: row 3: 'old' is neither in the cohort"):
        inputs.read_repeats(path, IDS)
    path.write_text("first\tsecond\n01\t01\n")
    with pytest.raises(InputError, match="row 2: '01' is paired with itself"):
        inputs.read_repeats(path, IDS)
    path.write_text("one\tsecond\n01\t02\n")
    with pytest.raises(InputError, match="has no columns 'first' and 'second'"):
        inputs.read_repeats(path, IDS)


def test_read_covariates__are_of_those_who_have_all_in_the_order_of_the_cohort(
    tmp_path: Path,
) -> None:
    path = tmp_path / "c.tsv"
    path.write_text("IID\tage\tsite\n05\t50\tb\n02\t20\ta\n03\tNA\ta\n99\t9\ta\n")
    table = inputs.read_covariates(path, cohort(tmp_path))
    assert list(table.index) == ["02", "05"]
    np.testing.assert_array_equal(table.to_numpy(), [[20, 1, 0], [50, 0, 1]])
    store, maps = tmp_path / "s.zarr", np.random.default_rng(1).random((3, 24))
    ids = ["05_ses-1", "02_ses-2", "05_ses-2"]
    write_cohort(store, ids, maps.__getitem__, np.ones((2, 3, 4), dtype=bool), np.eye(4))
    path.write_text("IID\tage\n05\t50\n02_ses-2\t22\n02\t20\n")
    of_sessions = inputs.read_covariates(path, read_cohort(store))
    assert of_sessions.age.to_dict() == {"05_ses-1": 50, "02_ses-2": 22, "05_ses-2": 50}
    path.write_text("IID\tage\n99\t9\n")
    with pytest.raises(InputError, match=r"nobody of .* has all its columns"):
        inputs.read_covariates(path, cohort(tmp_path))

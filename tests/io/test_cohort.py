"""The cohort store: what goes in comes out, and whatever is wrong is named."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from axoloci.errors import InputError
from axoloci.io import cohort as store
from axoloci.io.cohort import read_cohort, write_cohort

IDS = [f"{number:04d}" for number in range(1, 12)]
AFFINE = np.diag([2.0, 2.0, 2.5, 1.0])


@pytest.fixture
def mask() -> NDArray[np.bool_]:
    return np.random.default_rng(1).random((6, 7, 5)) < 0.6


@pytest.fixture
def rows(mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    return np.random.default_rng(2).random((len(IDS), int(mask.sum())), dtype=np.float32)


@pytest.fixture
def path(
    tmp_path: Path,
    mask: NDArray[np.bool_],
    rows: NDArray[np.float32],
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """A store of 11 people in shards of 4."""
    monkeypatch.setattr(store, "SHARD_BYTES", 4 * 2 * int(mask.sum()))
    write_cohort(
        tmp_path / "c.zarr", IDS, iter(rows), mask, AFFINE, [{"sample_id": IDS[0], "name": "a.nii"}]
    )
    return tmp_path / "c.zarr"


def shards(path: Path) -> list[Path]:
    """Files of the maps, in the order of the rows."""
    return sorted(file for file in (path / "fa" / "c").rglob("*") if file.is_file())


def test_write_cohort__comes_back_within_the_stated_error(
    path: Path, mask: NDArray[np.bool_], rows: NDArray[np.float32]
) -> None:
    cohort = read_cohort(path)
    assert cohort.sample_id == tuple(IDS)
    assert (cohort.n_samples, cohort.n_voxels) == rows.shape
    assert cohort.rows().dtype == np.float32
    assert np.abs(cohort.rows() - rows).max() <= 2.5e-4
    np.testing.assert_array_equal(cohort.mask, mask)
    np.testing.assert_array_equal(cohort.affine, AFFINE)
    assert cohort.source[0]["name"] == "a.nii"
    assert len(shards(path)) == 3  # 4 + 4 + 3 people


def test_write_cohort__is_byte_for_byte_repeatable(
    path: Path, mask: NDArray[np.bool_], rows: NDArray[np.float32]
) -> None:
    again = path.with_name("again.zarr")
    write_cohort(again, IDS, iter(rows), mask, AFFINE, [{"sample_id": IDS[0], "name": "a.nii"}])
    files = [file.relative_to(path) for file in path.rglob("*") if file.is_file()]
    assert len(files) >= 6
    for file in files:
        assert (path / file).read_bytes() == (again / file).read_bytes()


def test_rows__follows_any_order_of_the_index(path: Path, rows: NDArray[np.float32]) -> None:
    index = [9, 0, 5, 5, 1]
    np.testing.assert_array_equal(read_cohort(path).rows(index), rows.astype(np.float16)[index])
    assert read_cohort(path).rows([]).shape == (0, rows.shape[1])
    with pytest.raises(IndexError):
        read_cohort(path).rows([11])


def test_volumes__puts_rows_back_into_the_mask(path: Path, mask: NDArray[np.bool_]) -> None:
    cohort = read_cohort(path)
    volumes = cohort.volumes([3, 1])
    assert volumes.shape == (2, *mask.shape)
    assert not volumes[:, ~mask].any()
    np.testing.assert_array_equal(volumes[:, mask], cohort.rows([3, 1]))


def test_batches__gives_everybody_once_and_the_same_order_for_one_seed(path: Path) -> None:
    cohort = read_cohort(path)
    first = list(cohort.batches(4, seed=7))
    assert [len(index) for index, _ in first] == [4, 4, 3]
    order = np.concatenate([index for index, _ in first])
    assert sorted(order) == list(range(11))
    assert list(order) != sorted(order)
    for (index, rows), (again, _) in zip(first, cohort.batches(4, seed=7), strict=True):
        np.testing.assert_array_equal(index, again)
        np.testing.assert_array_equal(rows, cohort.rows(index))
    some = np.concatenate([index for index, _ in cohort.batches(2, seed=7, index=[2, 8, 10])])
    assert sorted(some) == [2, 8, 10]


def test_rows__names_the_person_whose_bytes_are_damaged(path: Path) -> None:
    shard = shards(path)[1]  # people 4 to 7
    data = bytearray(shard.read_bytes())
    index = np.frombuffer(data[-(4 * 16 + 4) : -4], dtype="<u8").reshape(4, 2)  # offset, length
    data[int(index[2].sum()) - 20] ^= 1  # one bit, inside the third map of the shard
    shard.write_bytes(data)
    cohort = read_cohort(path)
    with pytest.raises(InputError, match=r"map of 0007 is damaged"):
        cohort.rows()
    assert cohort.rows([0, 4, 5, 7]).shape[0] == 4  # its neighbours stay readable


def test_rows__names_the_people_of_a_lost_or_truncated_shard(path: Path) -> None:
    last = shards(path)[2]
    last.write_bytes(last.read_bytes()[:50])
    with pytest.raises(InputError, match="0009, 0010, 0011 is damaged or missing"):
        read_cohort(path).rows()
    last.unlink()
    with pytest.raises(InputError, match="0009, 0010, 0011 is damaged or missing"):
        read_cohort(path).rows()


def test_write_cohort__refuses_what_cannot_be_stored(
    tmp_path: Path, mask: NDArray[np.bool_], rows: NDArray[np.float32]
) -> None:
    path = tmp_path / "new.zarr"
    twice = [*IDS[:-1], IDS[0]]
    with pytest.raises(InputError, match="more than once: 0001"):
        write_cohort(path, twice, iter(rows), mask, AFFINE)
    with pytest.raises(InputError, match="not empty"):
        write_cohort(path, IDS, iter(rows), np.zeros_like(mask), AFFINE)
    with pytest.raises(InputError, match="10 maps for 11"):
        write_cohort(path, IDS, iter(rows[:10]), mask, AFFINE)
    with pytest.raises(InputError, match="more maps than the 10"):
        write_cohort(path, IDS[:10], iter(rows), mask, AFFINE)
    with pytest.raises(InputError, match="0001 has shape"):
        write_cohort(path, IDS, iter(rows[:, 1:]), mask, AFFINE)
    for bad in (np.nan, 7e4):
        broken = rows.copy()
        broken[4, 3] = bad
        with pytest.raises(InputError, match="map of 0005: 1 voxels"):
            write_cohort(path, IDS, iter(broken), mask, AFFINE)
    assert list(tmp_path.iterdir()) == []  # nothing half-made is left


def test_write_cohort__replaces_a_store_but_no_other_folder(
    path: Path, mask: NDArray[np.bool_], rows: NDArray[np.float32]
) -> None:
    with pytest.raises(InputError):
        write_cohort(path, IDS, iter(rows[:3]), mask, AFFINE)
    assert read_cohort(path).n_samples == 11  # the old one stands until a new one is whole
    write_cohort(path, IDS[:3], iter(rows[:3]), mask, AFFINE)
    assert read_cohort(path).n_samples == 3
    other = path.with_name("photos")
    other.mkdir()
    with pytest.raises(InputError, match="not a cohort store"):
        write_cohort(other, IDS, iter(rows), mask, AFFINE)


def test_read_cohort__refuses_other_folders_newer_formats_and_a_damaged_mask(path: Path) -> None:
    with pytest.raises(InputError, match="not a cohort store"):
        read_cohort(path.parent)
    header = json.loads((path / "zarr.json").read_text())
    for key, value, message in (
        ("format_version", 2, "newer than 1; update axoloci"),
        ("mask_sha256", "0" * 64, "mask is damaged"),
    ):
        changed = {**header, "attributes": {**header["attributes"], key: value}}
        (path / "zarr.json").write_text(json.dumps(changed))
        with pytest.raises(InputError, match=message):
            read_cohort(path)

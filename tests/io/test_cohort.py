"""The cohort store: what goes in comes out, and whatever is wrong is named."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import logging
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from numpy.typing import NDArray
from support import contents
from zarr.codecs import Crc32cCodec, ZstdCodec

from axoloci.errors import InputError
from axoloci.io import cohort as cohort_module
from axoloci.io import packing
from axoloci.io.cohort import Checked, Faults, check_cohort, read_cohort
from axoloci.io.packing import write_cohort

IDS = [f"{number:04d}" for number in range(1, 12)]
AFFINE = np.diag([2.0, 2.0, 2.5, 1.0])
SOURCE = [{"sample_id": name, "name": f"{name}.nii", "sha256": "0" * 64} for name in IDS]
NONE = Faults(damaged=(), constant=())

Mask = NDArray[np.bool_]
Rows = NDArray[np.float32]


@pytest.fixture
def mask() -> Mask:
    return np.random.default_rng(1).random((6, 7, 5)) < 0.6


@pytest.fixture
def rows(mask: Mask) -> Rows:
    return np.random.default_rng(2).random((len(IDS), int(mask.sum())), dtype=np.float32)


@pytest.fixture(autouse=True)
def _shards_of_four(mask: Mask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "SHARD_BYTES", 4 * 2 * int(mask.sum()))


@pytest.fixture
def path(tmp_path: Path, mask: Mask, rows: Rows) -> Path:
    """A store of 11 people in shards of 4."""
    write_cohort(tmp_path / "c.zarr", IDS, rows.__getitem__, mask, AFFINE, SOURCE)
    return tmp_path / "c.zarr"


@pytest.fixture
def version_1(tmp_path: Path, mask: Mask, rows: Rows) -> Path:
    """A store as version 1 of the format was written, by zarr-python."""
    path = tmp_path / "old.zarr"
    group = zarr.create_group(path)
    codecs = (ZstdCodec(level=1), Crc32cCodec())
    group.create_array("mask", data=mask.astype(np.uint8), chunks=mask.shape, compressors=codecs)
    maps = group.create_array(
        "fa",
        shape=rows.shape,
        dtype="float16",
        chunks=(1, rows.shape[1]),
        shards=(4, rows.shape[1]),
        compressors=codecs,
        fill_value=np.nan,
    )
    maps[:] = rows.astype(np.float16)
    new = tmp_path / "new.zarr"
    write_cohort(new, IDS, rows.__getitem__, mask, AFFINE, SOURCE)
    later = ("row_sha256", "max_error", "scale")
    attributes = {k: v for k, v in zarr.open_group(new).attrs.items() if k not in later}
    group.attrs.update({**attributes, "format_version": 1})
    return path


def shards(path: Path) -> list[Path]:
    """Files of the maps, in the order of the rows."""
    return sorted(file for file in (path / "fa" / "c").rglob("*") if file.is_file())


def harm_map_of_0007(shard: Path) -> None:
    """Turn one bit inside the third map of the second shard, which has the people 5 to 8."""
    data = bytearray(shard.read_bytes())
    index = np.frombuffer(data[-(4 * 16 + 4) : -4], dtype="<u8").reshape(4, 2)  # offset, length
    data[int(index[2].sum()) - 20] ^= 1
    shard.write_bytes(data)


def truncate(shard: Path) -> None:
    shard.write_bytes(shard.read_bytes()[:-30])


def harm_index(shard: Path) -> None:
    data = bytearray(shard.read_bytes())
    data[-10] ^= 1
    shard.write_bytes(data)


FAULTS = [
    (harm_map_of_0007, ["0007"]),
    (truncate, ["0005", "0006", "0007", "0008"]),
    (harm_index, ["0005", "0006", "0007", "0008"]),
    (Path.unlink, ["0005", "0006", "0007", "0008"]),
    (lambda shard: shard.write_bytes(b""), ["0005", "0006", "0007", "0008"]),
]


# --- what goes in comes out -----------------------------------------------------------------------


def test_write_cohort__comes_back_within_the_stated_error(
    path: Path, mask: Mask, rows: Rows
) -> None:
    cohort = read_cohort(path)
    assert cohort.sample_id == tuple(IDS)
    assert (cohort.n_samples, cohort.n_voxels) == rows.shape
    assert cohort.rows().dtype == np.float32
    assert np.abs(cohort.rows() - rows).max() == pytest.approx(cohort.max_error)
    assert cohort.max_error <= 2.5e-4
    np.testing.assert_array_equal(cohort.mask, mask)
    np.testing.assert_array_equal(cohort.affine, AFFINE)
    assert cohort.source == tuple(SOURCE)
    assert len(shards(path)) == 3  # 4 + 4 + 3 people


def test_write_cohort__uint8_is_within_half_a_step_of_each_map(
    tmp_path: Path, mask: Mask, rows: Rows
) -> None:
    rows = rows * np.linspace(1e-3, 7, len(rows), dtype=np.float32)[:, None] - 1
    rows[3] = 0.25  # a map of one value
    write_cohort(tmp_path / "u.zarr", IDS, rows.__getitem__, mask, AFFINE, dtype="uint8")
    cohort = read_cohort(tmp_path / "u.zarr")
    assert cohort.dtype == np.uint8
    error = np.abs(cohort.rows() - rows)
    assert (error <= np.ptp(rows, axis=1)[:, None] / 510 + 1e-6).all()
    assert error.max() == pytest.approx(cohort.max_error)
    assert error[-1].max() > 7 / 510 * 0.9  # the bound is met: nothing finer was stored
    group = zarr.open_group(tmp_path / "u.zarr", mode="r")
    factor, offset = np.array(group.attrs["scale"]).T  # as the docstring says
    by_hand = np.asarray(group["fa"][:]) * factor[:, None] + offset[:, None]
    np.testing.assert_allclose(cohort.rows(), by_hand, atol=1e-6)
    np.testing.assert_array_equal(cohort.subset([9, 2]).rows(), cohort.rows([9, 2]))


def test_write_cohort__shards_are_what_zarr_would_write_and_read(path: Path, rows: Rows) -> None:
    maps: Any = zarr.open_group(path, mode="r")["fa"]
    np.testing.assert_array_equal(maps[:], rows.astype(np.float16))
    again = zarr.create_array(
        path.with_name("z.zarr"),
        shape=maps.shape,
        dtype=maps.dtype,
        chunks=maps.chunks,
        shards=maps.shards,
        compressors=maps.compressors,
        fill_value=np.nan,
    )
    again[:] = rows.astype(np.float16)
    made = contents(path.with_name("z.zarr") / "c")
    assert len(made) == 3
    assert made == contents(path / "fa" / "c")


def test_write_cohort__is_byte_for_byte_repeatable(path: Path, mask: Mask, rows: Rows) -> None:
    again = path.with_name("again.zarr")
    write_cohort(again, IDS, rows.__getitem__, mask, AFFINE, SOURCE)
    assert len(contents(path)) >= 6
    assert contents(path) == contents(again)
    assert sorted(file.name for file in path.parent.iterdir()) == ["again.zarr", "c.zarr"]


def test_read_cohort__reads_version_1(version_1: Path, path: Path, rows: Rows) -> None:
    old, new = read_cohort(version_1), read_cohort(path)
    np.testing.assert_array_equal(old.rows(), new.rows())
    assert (old.content_sha256, old.row_sha256) == (new.content_sha256, ())
    assert check_cohort(old) == NONE
    harm_map_of_0007(shards(version_1)[1])
    assert check_cohort(read_cohort(version_1)).damaged == ("0007",)
    few = old.without(["0007"])
    assert few.n_samples == 10
    assert few.content_sha256 not in (old.content_sha256, old.without(["0008"]).content_sha256)


def test_rows__follows_any_order_of_the_index(path: Path, rows: Rows) -> None:
    cohort, index = read_cohort(path), [9, 0, 5, 5, 1]
    expected = rows.astype(np.float16)[index]
    np.testing.assert_array_equal(cohort.rows(index), expected)
    half = cohort.rows(index, dtype=np.float16)
    assert half.dtype == np.float16
    np.testing.assert_array_equal(half, expected)
    out = np.zeros((5, rows.shape[1]), dtype=np.float32)
    assert cohort.rows(index, out=out) is out
    np.testing.assert_array_equal(out, expected)
    assert cohort.rows([]).shape == (0, rows.shape[1])
    with pytest.raises(IndexError):
        cohort.rows([11])
    with pytest.raises(ValueError, match="out has shape"):
        cohort.rows([1], out=out)


def test_volumes__puts_rows_back_into_the_mask(path: Path, mask: Mask) -> None:
    cohort = read_cohort(path)
    volumes = cohort.volumes([3, 1])
    assert volumes.shape == (2, *mask.shape)
    assert not volumes[:, ~mask].any()
    np.testing.assert_array_equal(volumes[:, mask], cohort.rows([3, 1]))


# --- people and batches ---------------------------------------------------------------------------


def test_subset__is_what_a_store_of_these_people_would_be(
    path: Path, mask: Mask, rows: Rows
) -> None:
    cohort, some = read_cohort(path), [7, 2, 3]
    few = cohort.subset(some)
    only = path.with_name("only.zarr")
    chosen = rows[some]
    write_cohort(
        *(only, [IDS[k] for k in some], chosen.__getitem__, mask, AFFINE),
        [SOURCE[k] for k in some],
    )
    alone = read_cohort(only)
    for name in ("sample_id", "source", "row_sha256", "content_sha256", "n_samples", "n_voxels"):
        assert getattr(few, name) == getattr(alone, name)
    np.testing.assert_array_equal(few.rows([2, 0]), alone.rows([2, 0]))
    assert few.content_sha256 != cohort.content_sha256
    assert few.subset([1]).sample_id == ("0003",)
    assert cohort.subset(range(11)) is cohort


def test_without__leaves_people_out_and_refuses_strangers(path: Path) -> None:
    cohort = read_cohort(path)
    left = cohort.without(["0007", "0001"])
    assert left.sample_id == tuple(name for name in IDS if name not in ("0007", "0001"))
    np.testing.assert_array_equal(left.rows(), cohort.rows([1, 2, 3, 4, 5, 7, 8, 9, 10]))
    with pytest.raises(InputError, match="has no 0099 to leave out"):
        cohort.without(["0007", "0099"])


# --- damage ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("harm", "people"), FAULTS)
def test_check_cohort__names_the_damaged_who_can_be_left_out(
    path: Path, harm: Callable[[Path], object], people: list[str]
) -> None:
    sound = read_cohort(path).rows()
    assert check_cohort(read_cohort(path)) == NONE
    harm(shards(path)[1])
    cohort = read_cohort(path)
    with pytest.raises(InputError, match=f"map of {', '.join(people)} is damaged or missing"):
        cohort.rows()
    assert check_cohort(cohort) == Faults(damaged=tuple(people), constant=())
    left = cohort.without(people)
    kept = [k for k, name in enumerate(IDS) if name not in people]
    np.testing.assert_array_equal(left.rows(), sound[kept])
    assert check_cohort(left) == NONE


def test_check_cohort__names_a_map_that_is_another_s(path: Path) -> None:
    first, second = shards(path)[:2]
    first.write_bytes(second.read_bytes())  # whole, with sound checksums
    read_cohort(path).rows()
    assert check_cohort(read_cohort(path)).damaged == tuple(IDS[:4])


@pytest.mark.parametrize("dtype", packing.DTYPES)
def test_check_cohort__tells_maps_of_one_value_from_damaged_ones(
    tmp_path: Path, mask: Mask, rows: Rows, dtype: str
) -> None:
    rows[2], rows[9] = 0.25, 0.0
    rows[9, ::2] = -0.0  # one value all the same
    rows[4, :-1] = 0.25  # constant but for the last voxel
    path = tmp_path / "flat.zarr"
    write_cohort(path, IDS, rows.__getitem__, mask, AFFINE, dtype=dtype)
    assert check_cohort(read_cohort(path)) == Faults(damaged=(), constant=("0003", "0010"))
    truncate(shards(path)[0])  # holds at least the first four people
    faults = check_cohort(read_cohort(path))
    assert set(faults.damaged) >= set(IDS[:4])
    assert "0003" not in faults.constant


def test_check_cohort__is_watched_map_by_map(path: Path) -> None:
    told = []

    def watch(checked: Iterable[Checked], n_maps: int) -> Iterator[Checked]:
        for each in checked:
            told.append((each, n_maps))
            yield each

    harm_map_of_0007(shards(path)[1])
    assert check_cohort(read_cohort(path), watch).damaged == ("0007",)
    assert told == [((name == "0007", False), 11) for name in IDS]


@pytest.mark.parametrize("fails", ["open", "pread"])
def test_check_cohort__takes_a_file_system_that_does_not_answer_for_no_damage(
    path: Path, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    cohort = read_cohort(path)

    def stale(*_: object, **__: object) -> int:
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    for read in (check_cohort, type(cohort).rows):
        with monkeypatch.context() as patch:
            patch.setattr(os, fails, stale)
            message = r"fa/c/0/0: cannot be read \(Stale file handle\).* try again"
            with pytest.raises(InputError, match=message):
                read(cohort)
    assert check_cohort(cohort) == NONE  # it answers again


def test_check_cohort__takes_a_store_that_went_away_for_no_damage(path: Path) -> None:
    cohort = read_cohort(path)
    path.rename(path.with_name("elsewhere.zarr"))
    assert check_cohort(cohort) == NONE  # it is open
    shutil.rmtree(path.with_name("elsewhere.zarr"))
    with pytest.raises(InputError, match="moved or removed while it was read; start the command"):
        check_cohort(cohort)


def test_read_cohort__an_open_store_never_gives_the_maps_of_another(
    path: Path, mask: Mask, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    cohort, untouched = read_cohort(path), read_cohort(path)
    cohort.rows([0])  # the index of that shard is known, the others are not
    during: list[Rows] = []
    remove = shutil.rmtree

    def watched(folder: Path, **more: bool) -> None:
        if folder == cohort_module.older_store(path) and folder.exists():
            during.append(cohort.rows())  # both names are given
        remove(folder, **more)

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", watched)
        write_cohort(path, IDS[::-1], rows[::-1].__getitem__, mask, AFFINE)
    np.testing.assert_array_equal(during, [rows.astype(np.float16)])
    for opened in (cohort, untouched):
        for read in (opened.rows, lambda opened=opened: check_cohort(opened)):
            with pytest.raises(InputError, match="was packed again, moved or removed while it was"):
                read()
    np.testing.assert_array_equal(read_cohort(path).rows(), rows[::-1].astype(np.float16))

    def stale(*_: object, **__: object) -> int:  # as a network file system says it
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    monkeypatch.setattr(os, "open", stale)
    with pytest.raises(InputError, match="was packed again, moved or removed while it was"):
        cohort.rows()


def test_read_cohort__tells_a_store_that_is_packed_again_while_it_is_opened(
    path: Path, mask: Mask, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    opens = cohort_module.open_shards

    def later(array: Path) -> Any:
        write_cohort(path, IDS[::-1], rows[::-1].__getitem__, mask, AFFINE)
        return opens(array)

    monkeypatch.setattr(cohort_module, "open_shards", later)
    with pytest.raises(InputError, match="was packed again while it was opened; start the command"):
        read_cohort(path)


def test_read_cohort__closes_the_folder_with_the_last_reference(path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    cohorts = [read_cohort(path) for _ in range(5)]
    few = cohorts[0].subset([3])
    assert len(os.listdir("/proc/self/fd")) == before + 5
    cohorts.clear()
    assert len(os.listdir("/proc/self/fd")) == before + 1
    assert few.rows().shape[0] == 1
    del few
    assert len(os.listdir("/proc/self/fd")) == before


def test_read_cohort__an_open_store_is_not_handed_to_another_process(path: Path) -> None:
    with pytest.raises(TypeError, match="is open in this process"):
        pickle.dumps(read_cohort(path))


def test_write_cohort__refuses_what_cannot_be_stored(
    tmp_path: Path, mask: Mask, rows: Rows
) -> None:
    path = tmp_path / "new.zarr"
    twice = [*IDS[:-1], IDS[0]]
    with pytest.raises(InputError, match="more than once: 0001"):
        write_cohort(path, twice, rows.__getitem__, mask, AFFINE)
    with pytest.raises(InputError, match="not empty"):
        write_cohort(path, IDS, rows.__getitem__, np.zeros_like(mask), AFFINE)
    with pytest.raises(InputError, match="no maps"):
        write_cohort(path, [], rows.__getitem__, mask, AFFINE)
    with pytest.raises(InputError, match="0001 has shape"):
        write_cohort(path, IDS, lambda k: rows[k, 1:], mask, AFFINE)
    with pytest.raises(InputError, match="float16 or uint8, not as float64"):
        write_cohort(path, IDS, rows.__getitem__, mask, AFFINE, dtype="float64")
    for bad in (np.nan, 7e4):
        for dtype in packing.DTYPES:
            broken = rows.copy()
            broken[4, 3] = bad
            with pytest.raises(InputError, match="map of 0005: 1 voxels"):
                write_cohort(path, IDS, broken.__getitem__, mask, AFFINE, dtype=dtype)
    assert list(tmp_path.iterdir()) == []  # nothing half-made is left


def test_write_cohort__replaces_a_store_but_no_other_folder(
    path: Path, mask: Mask, rows: Rows
) -> None:
    with pytest.raises(InputError):
        write_cohort(path, IDS, lambda k: rows[k, 1:], mask, AFFINE)
    assert read_cohort(path).n_samples == 11  # the old one stands until a new one is whole
    write_cohort(path, IDS[:3], rows.__getitem__, mask, AFFINE)
    assert read_cohort(path).n_samples == 3
    other = path.with_name("photos")
    other.mkdir()
    with pytest.raises(InputError, match="not a cohort store"):
        write_cohort(other, IDS, rows.__getitem__, mask, AFFINE)


def test_read_cohort__refuses_other_folders_newer_formats_and_a_damaged_mask(path: Path) -> None:
    with pytest.raises(InputError, match="not a cohort store"):
        read_cohort(path.parent)
    header = json.loads((path / "zarr.json").read_text())
    for key, value, message in (
        ("format_version", 3, "newer than 2; update axoloci"),
        ("mask_sha256", "0" * 64, "mask is damaged"),
        ("measure", "md", "cannot be read"),
    ):
        changed = {**header, "attributes": {**header["attributes"], key: value}}
        (path / "zarr.json").write_text(json.dumps(changed))
        with pytest.raises(InputError, match=message):
            read_cohort(path)


# --- interrupted packing --------------------------------------------------------------------------

KILLED = """
import json, sys, time
import numpy as np
from axoloci.io import packing

about = json.loads(sys.argv[1])
rows, mask = np.load(about["rows"]), np.load(about["mask"])
packing.SHARD_BYTES = 4 * 2 * int(mask.sum())

def row(k):
    if k >= about["stops"]:
        time.sleep(60)
    return rows[k]

packing.write_cohort(
    about["path"], about["ids"], row, mask, np.array(about["affine"]), about["source"],
    versions=about["ids"], file_digest=lambda k: about["source"][k]["sha256"],
)
"""


def pack_in_another_process(
    path: Path,
    mask: Mask,
    rows: Rows,
    source: list[dict[str, str]],
    first: str = "",
    stops: int = 10**6,
) -> subprocess.Popen[bytes]:
    """Start a packing that waits at row `stops`, after the code of `first`."""
    np.save(path.with_name("rows.npy"), rows)
    np.save(path.with_name("mask.npy"), mask)
    ids = [about["sample_id"] for about in source]
    about = {
        **{"path": str(path), "ids": ids, "affine": AFFINE.tolist()},
        **{"source": source, "stops": stops},
        **{name: str(path.with_name(f"{name}.npy")) for name in ("rows", "mask")},
    }
    return subprocess.Popen([sys.executable, "-c", first + KILLED, json.dumps(about)])


def kill_in_third_shard(
    path: Path, mask: Mask, rows: Rows, source: list[dict[str, str]], stops: int
) -> Path:
    """Pack in another process that waits at row `stops`, and end it by kill -9 when two shards are
    whole; the folder that is left."""
    partial = path.with_name(f".{path.name}.partial")
    with pack_in_another_process(path, mask, rows, source, stops=stops) as process:
        deadline = time.monotonic() + 60
        while len(list(partial.glob("whole/[0-9]*.json"))) < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        with pytest.raises(InputError, match="another process packs it"):
            write_cohort(path, IDS, rows.__getitem__, mask, AFFINE)
        process.send_signal(signal.SIGKILL)
    assert len(list(partial.glob("whole/[0-9]*.json"))) == 2
    return partial


def test_write_cohort__goes_on_after_kill_9(path: Path, mask: Mask, rows: Rows) -> None:
    killed = path.with_name("killed.zarr")
    partial = kill_in_third_shard(killed, mask, rows, SOURCE, stops=9)
    assert not killed.exists()
    whole = {k: os.stat(partial / f"store/fa/c/{k}/0") for k in range(2)}
    read: list[int] = []

    def row(k: int) -> Rows:
        read.append(k)
        return rows[k]

    write_cohort(killed, IDS, row, mask, AFFINE, SOURCE, versions=IDS)
    assert sorted(read) == [8, 9, 10]  # those of the third shard alone
    for k, before in whole.items():
        after = os.stat(killed / f"fa/c/{k}/0")
        assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert contents(killed) == contents(path)
    assert not list(path.parent.glob(".*"))


def test_write_cohort__goes_on_after_a_bad_map_and_packs_changed_ones_again(
    path: Path, mask: Mask, rows: Rows, caplog: pytest.LogCaptureFixture
) -> None:
    broken, read = path.with_name("b.zarr"), []

    def row(k: int) -> Rows:
        read.append(k)
        if k == 9 and len(read) < 12:
            raise InputError("0010.nii: truncated")
        return rows[k]

    with pytest.raises(InputError, match=r"0010.nii: truncated"):
        write_cohort(broken, IDS, row, mask, AFFINE, SOURCE, versions=IDS)
    assert not broken.exists()
    read[:] = [-1] * 12
    versions = [*IDS[:1], "another", *IDS[2:]]  # the map of 0002 changed
    with caplog.at_level(logging.WARNING):
        write_cohort(broken, IDS, row, mask, AFFINE, SOURCE, versions=versions)
    assert "1 whole shards are of other maps" in caplog.text
    assert sorted(read[12:]) == [0, 1, 2, 3, 8, 9, 10]
    assert contents(broken) == contents(path)


@pytest.mark.parametrize("change", ["mask", "dtype", "people", "truncated shard"])
def test_write_cohort__takes_nothing_of_another_packing(
    path: Path, mask: Mask, rows: Rows, change: str
) -> None:
    def fails(k: int) -> Rows:
        if k >= 8:
            raise InputError("stop")
        return rows[k]

    left = path.with_name("left.zarr")
    with suppress(InputError):
        write_cohort(left, IDS, fails, mask, AFFINE, SOURCE, versions=IDS)
    partial = path.with_name(".left.zarr.partial")
    assert len(list(partial.glob("whole/*.json"))) == 2
    ids, dtype, other = IDS, "float16", mask
    if change == "mask":
        other = np.roll(mask, 1)
    elif change == "dtype":
        dtype = "uint8"
    elif change == "people":
        ids = IDS[:3]
    else:
        truncate(partial / "store/fa/c/1/0")
    fresh = path.with_name("fresh.zarr")
    for out, versions in ((left, IDS), (fresh, [])):
        write_cohort(
            *(out, ids, rows.__getitem__, other, AFFINE, SOURCE),
            dtype=dtype,
            versions=versions[: len(ids)],
        )
    assert contents(left) == contents(fresh)


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK, errno.EIO])
def test_write_cohort__goes_on_without_locks_and_says_so(
    path: Path,
    mask: Mask,
    rows: Rows,
    number: int,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def no_lock(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", no_lock)
    other = path.with_name("other.zarr")
    if number == errno.EIO:  # is another matter
        with pytest.raises(OSError, match="Input/output error"):
            write_cohort(other, IDS, rows.__getitem__, mask, AFFINE, SOURCE)
        return
    write_cohort(other, IDS, rows.__getitem__, mask, AFFINE, SOURCE)
    assert f"other.zarr: its file system has no locks (flock: {os.strerror(number)})" in caplog.text
    assert contents(other) == contents(path)
    assert not list(path.parent.glob(".*"))


# --- a store that is packed again -----------------------------------------------------------------


def source_of(rows: Rows, ids: list[str]) -> list[dict[str, str]]:
    """What names the files of some maps, whose digest is that of the map."""
    return [
        {"sample_id": name, "name": f"{name}.nii", "sha256": hashlib.sha256(row).hexdigest()}
        for name, row in zip(ids, rows, strict=True)
    ]


def pack(
    path: Path, rows: Rows, mask: Mask, ids: list[str] = IDS, dtype: str = "float16", **more: Any
) -> list[int]:
    """Pack maps with the digests of their files; the rows that were asked for."""
    source, read = source_of(rows, ids), []

    def row(k: int) -> Rows:
        read.append(k)
        return rows[k]

    named = [{**about, "sha256": ""} for about in source]
    write_cohort(
        *(path, ids, row, mask, more.pop("affine", AFFINE), named),
        dtype=dtype,
        file_digest=lambda k: source[k]["sha256"],
        **more,
    )
    return sorted(read)


@pytest.mark.parametrize("dtype", packing.DTYPES)
def test_write_cohort__packs_only_the_maps_that_the_older_store_has_not(
    tmp_path: Path, mask: Mask, rows: Rows, dtype: str
) -> None:
    rows *= np.linspace(0.5, 1, len(rows), dtype=np.float32)[:, None]
    rows[10] *= 50  # of all the largest error
    path, fresh = tmp_path / "c.zarr", tmp_path / "fresh.zarr"
    assert pack(path, rows, mask, dtype=dtype) == list(range(11))
    largest = read_cohort(path).max_error
    # 0011 is gone, 0003 has another map, 0012 is new, and the order is another one
    people = [9, 8, 7, 6, 5, 4, 3, 2, 1, 0, 10]
    ids = [*(IDS[k] for k in people[:10]), "0012"]
    again = rows[people]
    again[7] = again[7] ** 2
    again[10] = again[10] / 100
    assert pack(path, again, mask, ids, dtype) == [7, 10]
    assert pack(fresh, again, mask, ids, dtype) == list(range(11))
    assert contents(path) == contents(fresh)
    assert read_cohort(path).max_error < largest / 10
    assert check_cohort(read_cohort(path)).damaged == ()
    assert np.abs(read_cohort(path).rows() - again).max() <= 1 / 510 + 1e-6
    assert list(tmp_path.glob(".*")) == []


def test_write_cohort__renamed_people_keep_their_maps(
    tmp_path: Path, mask: Mask, rows: Rows
) -> None:
    path, ids = tmp_path / "c.zarr", [f"UK{name}" for name in IDS]
    pack(path, rows, mask)
    assert pack(path, rows, mask, ids) == []
    assert read_cohort(path).sample_id == tuple(ids)
    assert [about["name"] for about in read_cohort(path).source] == [f"{k}.nii" for k in ids]


@pytest.mark.parametrize(
    ("harm", "people"),
    [*FAULTS, (lambda shard: shutil.copy(shard.parents[1] / "0" / "0", shard), IDS[4:8])],
)
def test_write_cohort__tells_and_packs_damaged_maps_of_the_older_store(
    tmp_path: Path,
    mask: Mask,
    rows: Rows,
    harm: Callable[[Path], object],
    people: list[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    path = tmp_path / "c.zarr"
    pack(path, rows, mask)
    sound = contents(path)
    harm(shards(path)[1])
    with caplog.at_level(logging.WARNING):
        assert pack(path, rows, mask) == [IDS.index(name) for name in people]
    assert contents(path) == sound
    told = [name for name in IDS if f"stored map of {name} is damaged or missing" in caplog.text]
    assert told == people


@pytest.mark.parametrize("change", ["mask", "dtype", "measure", "affine", "format", "array"])
def test_write_cohort__takes_nothing_of_a_store_of_another_kind(
    tmp_path: Path, mask: Mask, rows: Rows, change: str, caplog: pytest.LogCaptureFixture
) -> None:
    path, fresh = tmp_path / "c.zarr", tmp_path / "fresh.zarr"
    pack(path, rows, mask)
    more: dict[str, Any] = {}
    if change == "mask":
        mask = np.roll(mask, 1)
    elif change == "format":  # of a store that an older axoloci wrote
        header = json.loads((path / "zarr.json").read_text())
        del header["attributes"]["row_error"]
        (path / "zarr.json").write_text(json.dumps(header))
    elif change == "array":
        (path / "fa" / "zarr.json").write_text("{")
    else:
        more = {"dtype": "uint8", "measure": "md", "affine": 2 * AFFINE}
        more = {change: more[change]}
    with caplog.at_level(logging.INFO):
        assert pack(path, rows, mask, **more) == list(range(11))
    told = "cannot be read" if change == "array" else f"the older store has another {change}"
    assert told in caplog.text
    pack(fresh, rows, mask, **more)
    assert contents(path) == contents(fresh)


def test_write_cohort__killed_while_it_appends_loses_neither_store_nor_progress(
    tmp_path: Path, mask: Mask, rows: Rows
) -> None:
    path, fresh = tmp_path / "c.zarr", tmp_path / "fresh.zarr"
    pack(path, rows, mask)
    older, ids = contents(path), [*reversed(IDS), "0012"]
    again = np.concatenate([rows[::-1], rows[:1] / 2])
    partial = kill_in_third_shard(path, mask, again, source_of(again, ids), stops=11)
    assert contents(path) == older
    whole = [os.stat(partial / f"store/fa/c/{k}/0") for k in range(2)]
    assert pack(path, again, mask, ids, versions=ids) == [11]
    after = [os.stat(path / f"fa/c/{k}/0") for k in range(2)]
    assert [(s.st_ino, s.st_mtime_ns) for s in after] == [(s.st_ino, s.st_mtime_ns) for s in whole]
    pack(fresh, again, mask, ids)
    assert contents(path) == contents(fresh)
    assert not list(tmp_path.glob(".*"))


KILLED_AS_IT_REPLACES = """
import os, signal

rename = os.rename

def rename_and_die(source, target):
    rename(source, target)
    os.kill(os.getpid(), signal.SIGKILL)

os.rename = rename_and_die
"""


def test_write_cohort__killed_between_the_two_names_leaves_the_older_store_to_be_found(
    tmp_path: Path, mask: Mask, rows: Rows, caplog: pytest.LogCaptureFixture
) -> None:
    path, more, ids = tmp_path / "c.zarr", np.concatenate([rows, rows[:1] / 2]), [*IDS, "0012"]
    pack(path, rows, mask)
    older = contents(path)
    killed = pack_in_another_process(path, mask, more, source_of(more, ids), KILLED_AS_IT_REPLACES)
    assert killed.wait() == -signal.SIGKILL
    assert (path.exists(), contents(tmp_path / ".c.zarr.old")) == (False, older)
    command = f"mv {tmp_path}/.c.zarr.old {path}"
    with pytest.raises(InputError, match=f"store again, or take the older one: {command}$"):
        read_cohort(path)
    with pytest.raises(InputError, match="is not a cohort store"):
        read_cohort(tmp_path / "d.zarr")
    others = np.concatenate([more, rows[:1] / 3])
    with caplog.at_level(logging.INFO):  # of another table: the older maps are taken nevertheless
        assert pack(path, others, mask, [*ids, "0013"]) == [11, 12]
    assert "the older store is back" in caplog.text
    assert read_cohort(path).n_samples == 13
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("content", [None, "{"])
def test_write_cohort__a_store_without_its_zarr_json_is_packed_anew(
    path: Path, mask: Mask, rows: Rows, caplog: pytest.LogCaptureFixture, content: str | None
) -> None:
    write_cohort(path, IDS, rows.__getitem__, mask, AFFINE, SOURCE)
    whole = contents(path)
    (path / "zarr.json").unlink()
    if content is not None:
        (path / "zarr.json").write_text(content)
    write_cohort(path, IDS, rows.__getitem__, mask, AFFINE, SOURCE)
    assert contents(path) == whole
    assert "packed anew" in caplog.text


def test_restore_older__takes_no_store_that_is_removed_by_half(
    path: Path, mask: Mask, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    older = path.with_name(".c.zarr.old")

    def killed(folder: Path, **_: bool) -> None:
        if folder == older and folder.exists():
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", killed)
        with suppress(KeyboardInterrupt):
            write_cohort(path, IDS, rows.__getitem__, mask, AFFINE, SOURCE)
    assert older.exists()
    shutil.rmtree(path)
    packing.restore_older(path)
    assert not path.exists()
    write_cohort(path, IDS, rows.__getitem__, mask, AFFINE, SOURCE)
    assert read_cohort(path).n_samples == len(IDS)
    assert not older.exists()


@pytest.mark.parametrize("dtype", packing.DTYPES)
def test_write_cohort__shows_the_maps_that_it_takes_over_too(
    tmp_path: Path, mask: Mask, rows: Rows, dtype: str
) -> None:
    rows[3, : rows.shape[1] // 2] = 0
    seen: dict[int, Rows] = {}
    for _ in range(2):
        seen.clear()
        packed = pack(tmp_path / "c.zarr", rows, mask, dtype=dtype, inspect=seen.__setitem__)
        assert sorted(seen) == list(range(len(IDS)))
        np.testing.assert_allclose([seen[k] for k in range(len(IDS))], rows, atol=1 / 510)
        assert np.count_nonzero(seen[3] == 0) >= rows.shape[1] // 2
    assert packed == []

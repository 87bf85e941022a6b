"""Rows of a Zarr v3 array, one a chunk and many a file (a shard), read and written by threads.

Any reader of Zarr reads these files. They are read here without zarr-python, which takes longer for
a row at a time (how much: `benchmarks/store.py`). A shard holds its chunks, one after
another, then 16 bytes a chunk (where it begins and how long it is, little-endian uint64) and the
CRC-32C of those; a chunk is a compressed row and the CRC-32C of its compressed bytes.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, NoReturn

import google_crc32c
import numpy as np
import zarr
from numcodecs import blosc, zstd  # type: ignore[import-untyped]
from numpy.typing import NDArray
from zarr.codecs import BloscCodec, Crc32cCodec

from axoloci.io.ahead import map_ahead
from axoloci.io.files import leftovers, whole_file, write_json

log = logging.getLogger("axoloci")

# Of FA at 1 mm the low byte of a float16 is noise and the high one is not. Apart they take a third
# less than as they are, where zstd alone takes a sixth less and longer to unpack, and LZ4 of single
# bits a quarter less. As they are, rows would be unpacked several times as fast, but a disk that
# all use gives fewer of them, and two cores unpack more than a GPU encodes: benchmarks/store.py has
# the figures. Blocks of a megabyte, for smaller ones compress less.
_LEVEL, _BLOCK = 1, 2**20
_EMPTY = 2**64 - 1  # where and how long a chunk is that was not written
_Decompress = Callable[[Any, Any], Any]
_DECOMPRESS: dict[str, _Decompress] = {"blosc": blosc.decompress, "zstd": zstd.decompress}


class DamagedError(Exception):
    """Bytes of a shard are not those that were written."""


def create_rows(
    group: zarr.Group, name: str, shape: tuple[int, int], dtype: str, rows_per_shard: int
) -> None:
    """Describe an array whose rows `write_shards` packs; nothing is written of them."""
    floating = np.issubdtype(np.dtype(dtype), np.floating)
    group.create_array(
        name,
        shape=shape,
        dtype=dtype,
        chunks=(1, shape[1]),
        shards=(rows_per_shard, shape[1]),
        compressors=(
            BloscCodec(
                typesize=np.dtype(dtype).itemsize,
                cname="zstd",
                clevel=_LEVEL,
                shuffle="shuffle",
                blocksize=_BLOCK,
            ),
            Crc32cCodec(),
        ),
        fill_value=np.nan if floating else 0,
    )


def shard_path(array: Path, shard: int) -> Path:
    """File of a shard in the folder of an array."""
    return array / "c" / str(shard) / "0"


def pack_row(row: NDArray[Any]) -> bytes:
    """Chunk of a row."""
    packed: bytes = blosc.compress(row, b"zstd", _LEVEL, blosc.SHUFFLE, _BLOCK)
    return packed + _crc32c(packed)


def write_shards(
    array: Path,
    records: Path,
    n_rows: int,
    rows_per_shard: int,
    pack: Callable[[int], tuple[bytes, dict[str, Any]]],
    versions: Sequence[str] | None,
    watch: Callable[[Iterable[Any], int], Iterable[Any]],
) -> list[dict[str, Any]]:
    """Write the shards of an array that are not whole yet.

    Parameters
    ----------
    array
        Folder of the array.
    records
        Folder of what is known of whole shards: one JSON file each, written after the shard.
    n_rows, rows_per_shard
        Rows of the array and of a file.
    pack
        Gives the chunk of a row (`pack_row`) and what is to be known of it, fit for JSON. It is
        called by several threads.
    versions
        [shape: (n_rows,)] Changes when a row does; shards of other rows are written again. Without
        it all are.
    watch
        Goes through the rows as they are packed, whose number is given.

    Returns
    -------
    list
        [shape: (n_rows,)] What is known of each row.
    """
    records.mkdir(parents=True, exist_ok=True)
    members = [
        range(first, min(n_rows, first + rows_per_shard))
        for first in range(0, n_rows, rows_per_shard)
    ]
    keys = [
        hashlib.sha256(repr([versions[row] for row in rows]).encode()).hexdigest()
        if versions
        else ""
        for rows in members
    ]
    known = _whole_shards(array, records, keys)
    todo = [shard for shard in range(len(members)) if shard not in known]
    if known:
        log.info("packing goes on after %d of %d shards", len(known), len(members))
    to_pack = [row for shard in todo for row in members[shard]]
    with closing(map_ahead(pack, to_pack)) as packed:
        watched = iter(watch(packed, len(to_pack)))
        for shard in todo:
            path, about = shard_path(array, shard), []
            with _shard_file(path, rows_per_shard) as add:
                for chunk, said in islice(watched, len(members[shard])):
                    add(chunk)
                    about.append(said)
            known[shard] = {"key": keys[shard], "n_bytes": path.stat().st_size, "rows": about}
            write_json(_record(records, shard), known[shard])
        next(watched, None)  # lets it tell the end
    return [about for shard in range(len(members)) for about in known[shard]["rows"]]


def _whole_shards(array: Path, records: Path, keys: Sequence[str]) -> dict[int, dict[str, Any]]:
    """Records of the shards that need not be written again; the other files are removed."""
    known, n_stale = {}, 0
    for path in (*leftovers(records), *array.glob("c/*/.[0-9]*.tmp.*")):
        path.unlink()
    for path in sorted(records.glob("*.json")):
        shard, record = int(path.stem), json.loads(path.read_bytes())
        file = shard_path(array, shard)
        is_there = file.exists() and file.stat().st_size == record["n_bytes"]
        if is_there and shard < len(keys) and record["key"] == keys[shard] != "":
            known[shard] = record
        else:
            n_stale += 1
            path.unlink()
    for folder in array.glob("c/*"):
        if int(folder.name) not in known:
            shutil.rmtree(folder)
    if n_stale:
        log.warning("%s: %d whole shards are of other maps and are written again", array, n_stale)
    return known


def _record(records: Path, shard: int) -> Path:
    return records / f"{shard}.json"


@contextmanager
def _shard_file(path: Path, rows_per_shard: int) -> Iterator[Callable[[bytes], None]]:
    """A shard, whole or not there, to which chunks are added; the last one may have fewer."""
    index: list[tuple[int, int]] = []
    with whole_file(path) as temporary, open(temporary, "wb") as file:

        def add(chunk: bytes) -> None:
            index.append((file.tell(), len(chunk)))
            file.write(chunk)

        yield add
        index += [(_EMPTY, _EMPTY)] * (rows_per_shard - len(index))
        stored = np.array(index, dtype="<u8").tobytes()
        file.write(stored + _crc32c(stored))


class _OpenFolder:
    """A folder by a descriptor: what gets its name later is never taken for it.

    The descriptor is closed with the last reference to this. A forked process has its own.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        weakref.finalize(self, os.close, self._descriptor)
        self._status = os.fstat(self._descriptor)

    def open(self, name: Path) -> int:
        """Descriptor of a file below this folder, for reading."""
        return os.open(name, os.O_RDONLY, dir_fd=self._descriptor)

    def is_replaced(self) -> bool:
        """Whether its name is that of another folder by now, or of none."""
        try:
            return not os.path.samestat(os.stat(self.path), self._status)
        except FileNotFoundError:
            return True
        except OSError:  # the file system does not answer
            return False

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"{self.path}: is open in this process; open it anew in the other one")


@dataclass(frozen=True)
class Shards:
    """An array on disk whose rows are read one by one, in any order and by many threads.

    They are those of the array that was opened: where another one takes its place, reading goes on
    as long as the files are there, and then fails.

    Attributes
    ----------
    path
        Folder of the array.
    shape
        Rows and columns.
    dtype
        Of the stored values.
    rows_per_shard
        Rows in a file.
    codec
        How a chunk is compressed.
    """

    path: Path
    shape: tuple[int, int]
    dtype: np.dtype[Any]
    rows_per_shard: int
    codec: str
    _folder: _OpenFolder = field(repr=False)
    _indexes: dict[int, NDArray[np.uint64]] = field(default_factory=dict, repr=False)

    def is_replaced(self) -> bool:
        """Whether another array is at `path` by now, or none."""
        return self._folder.is_replaced()

    def read(self, row: int) -> NDArray[Any]:
        """A row as it is stored, `[dtype, shape: (n_columns,)]`.

        Raises
        ------
        DamagedError
            Its bytes or those of the shard's index are not those that were written.
        OSError
            The shard is not there or cannot be read.
        """
        return self.unpack(self.chunk(row))

    def chunk(self, row: int) -> bytes:
        """Chunk of a row, its checksum not yet compared; raises as `read` does."""
        shard, in_shard = divmod(row, self.rows_per_shard)
        descriptor = self._folder.open(shard_path(Path(), shard))
        try:
            if shard not in self._indexes:
                self._indexes[shard] = self._read_index(descriptor)
            start, n_bytes = (int(n) for n in self._indexes[shard][in_shard])
            if start == _EMPTY:
                raise DamagedError("it was never written")
            return _read_exactly(descriptor, n_bytes, start)
        finally:
            os.close(descriptor)

    def unpack(self, chunk: bytes) -> NDArray[Any]:
        """Row of a chunk, `[dtype, shape: (n_columns,)]`.

        Raises
        ------
        DamagedError
            Its bytes are not those that were written.
        """
        stored = np.empty(self.shape[1], dtype=self.dtype)
        try:
            _DECOMPRESS[self.codec](_unchanged(chunk), stored)
        except (RuntimeError, ValueError) as error:  # of the codecs
            raise DamagedError(str(error)) from error
        return stored

    def _read_index(self, descriptor: int) -> NDArray[np.uint64]:
        """Where each chunk of a shard begins and how long it is, (rows_per_shard, 2)."""
        n_bytes = 16 * self.rows_per_shard + 4
        start = os.fstat(descriptor).st_size - n_bytes
        if start < 0:
            raise DamagedError("the file is truncated")
        stored = _unchanged(_read_exactly(descriptor, n_bytes, start))
        return stored.view("<u8").reshape(self.rows_per_shard, 2)


def open_shards(path: Path) -> Shards:
    """Open an array of `create_rows`, or of an older version that compressed by zstd.

    Raises
    ------
    ValueError, KeyError, TypeError, OSError
        It is none.
    """
    folder = _OpenFolder(path)
    with open(folder.open(Path("zarr.json")), "rb") as file:
        about = json.load(file)
    (sharding,) = about["codecs"]
    inner = [codec["name"] for codec in sharding["configuration"]["codecs"]]
    n_rows, n_columns = about["shape"]
    rows_per_shard, width = about["chunk_grid"]["configuration"]["chunk_shape"]
    if (
        (inner[:1], inner[2:]) != (["bytes"], ["crc32c"])
        or inner[1] not in _DECOMPRESS
        or sharding["configuration"]["chunk_shape"] != [1, n_columns]
        or sharding["configuration"].get("index_location", "end") != "end"
        or width != n_columns
    ):
        raise ValueError(f"its chunks are not single rows, or its codecs {inner} are others")
    dtype = np.dtype(about["data_type"]).newbyteorder("<")
    return Shards(path, (n_rows, n_columns), dtype, rows_per_shard, inner[1], folder)


def _crc32c(content: bytes | NDArray[np.uint8]) -> bytes:
    return int(google_crc32c.value(content)).to_bytes(4, "little")


def _unchanged(stored: bytes) -> NDArray[np.uint8]:
    """What is before the CRC-32C at the end, which must be right."""
    content = np.frombuffer(stored, dtype=np.uint8)[:-4]
    if _crc32c(content) != stored[-4:]:
        raise DamagedError("the checksum differs")
    return content


def _read_exactly(descriptor: int, n_bytes: int, start: int) -> bytes:
    """Bytes of a file, as many as asked for."""
    stored = os.pread(descriptor, n_bytes, start)
    if len(stored) < max(n_bytes, 5):
        raise DamagedError("the file is truncated")
    return stored

"""Packing the maps of all people into a cohort store (`axoloci.io.cohort`).

An interrupted packing goes on after its last whole shard. Where a store is packed again with more,
fewer or other people, the maps that it holds already are taken from it as they are stored.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import Crc32cCodec, ZstdCodec

from axoloci.errors import InputError
from axoloci.io.cohort import (
    FORMAT,
    FORMAT_VERSION,
    content_digest,
    decode,
    group_attributes,
    mask_digest,
    older_store,
    row_digest,
)
from axoloci.io.shards import DamagedError, create_rows, open_shards, pack_row, write_shards

log = logging.getLogger("axoloci")

SHARD_BYTES = 128 * 2**20  # uncompressed: what a killed packing reads again
DTYPES = ("float16", "uint8")
"""Types that maps are stored as; float16 has the values of FA (0 to 1) within 2.5e-4, uint8 any
map's within 1/510 of its range (0.002 for FA) in two thirds of the bytes."""

_NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK)
"""Errors of file systems without `flock`, such as Lustre mounted without that option."""


def write_cohort(
    path: str | os.PathLike[str],
    sample_id: Sequence[str],
    rows: Callable[[int], NDArray[Any]],
    mask: NDArray[Any],
    affine: NDArray[np.float64],
    source: Sequence[dict[str, str]] = (),
    measure: str = "fa",
    dtype: str = "float16",
    versions: Sequence[str] = (),
    file_digest: Callable[[int], str] | None = None,
    inspect: Callable[[int, NDArray[Any]], None] = lambda row, values: None,
    watch: Callable[[Iterable[Any], int], Iterable[Any]] = lambda packed, _: packed,
) -> None:
    """Write a cohort store, whole or not at all; a few maps are in memory at a time.

    While it is written its shards are in a hidden folder beside it, from which the next call takes
    those that are whole and of the same maps. The store is the same bytes either way.

    Parameters
    ----------
    path
        Folder to make; an older cohort store there is replaced once the new one is complete, and
        can be read until then.
    sample_id
        [shape: (n_samples,)] Who each row is.
    rows
        Gives the map of row i inside the mask, C order, `[shape: (n_voxels,)]`. It is called by
        several threads, and only for maps of shards that are not whole yet and that the older
        store does not have.
    mask
        [bool, shape: (x, y, z)] Voxels to keep.
    affine
        [float64, shape: (4, 4)] Voxel to world, mm.
    source
        [shape: (n_samples,)] Per person a dict of `sample_id`, `name` and `sha256` of the map's
        file, which `file_digest` fills in.
    measure
        What the maps hold; also the name of the array.
    dtype
        One of `DTYPES`. float16: relative error at most 2^-11, absolute at most 2.5e-4 for values
        from 0 to 1. uint8: each map scaled from its lowest to its highest value, error at most
        1/510 of that range.
    versions
        [shape: (n_samples,)] What changes when a row does, such as the digest of its file. Without
        it nothing is kept of an interrupted packing.
    file_digest
        Gives the SHA-256 of the file of row i; called as `rows`, before it. A map that the older
        store has of such a file, of the same measure, dtype, mask and affine, is taken from there
        as it is stored, and `rows(i)` is not called; one that is damaged there is told, and packed
        anew. Without it all maps are.
    inspect
        Is given i and the map of row i, `[shape: (n_voxels,)]`, as it is packed or as the older
        store has it, to tell what is odd about it. It is called as `rows`.
    watch
        Goes through the maps as they are packed, whose number is given, to tell how far it is.

    Raises
    ------
    InputError
        Empty mask, duplicated ids, a row of another length, values that are not finite or too
        large for float16, `path` is something other than a cohort store, or another process packs
        it now.
    """
    path = Path(path)
    restore_older(path)
    mask = np.asarray(mask, dtype=bool)
    n_samples, n_voxels = len(sample_id), int(mask.sum())
    if path.exists() and group_attributes(path).get("format") != FORMAT:
        if not (path / "mask" / "zarr.json").is_file():
            raise InputError(f"{path}: exists and is not a cohort store; choose another name")
        log.warning("%s: is a cohort store whose zarr.json is gone or damaged; packed anew", path)
        shutil.rmtree(path)
    if mask.ndim != 3 or n_voxels == 0:
        raise InputError(
            f"mask of shape {mask.shape} has {n_voxels} voxels; it must be 3D and not empty"
        )
    if n_samples == 0:
        raise InputError(f"{path}: no maps to store")
    if len(set(sample_id)) < n_samples:
        twice = sorted(name for name, n in Counter(sample_id).items() if n > 1)
        raise InputError(
            f"sample_id occurs more than once: {', '.join(twice[:10])}; keep one map a person"
        )
    if dtype not in DTYPES:
        raise InputError(f"{path}: maps are stored as {' or '.join(DTYPES)}, not as {dtype}")

    taken: list[str] = []

    def pack(row: int) -> tuple[bytes, dict[str, Any]]:
        """Chunk of a map, and what is to be known of it."""
        digest = file_digest(row) if file_digest else ""
        named = {**source[row], **({"sha256": digest} if digest else {})} if source else {}
        known = older(digest) if older else None
        if known:
            taken.append(sample_id[row])
            chunk, about, values = known
        else:
            values = np.asarray(rows(row))
            chunk, about = _pack_map(values, n_voxels, dtype, sample_id[row])
        inspect(row, values)
        return chunk, {**about, "source": named}

    rows_per_shard = max(1, min(n_samples, SHARD_BYTES // (np.dtype(dtype).itemsize * n_voxels)))
    partial = path.with_name(f".{path.name}.partial")
    kind = f"{FORMAT_VERSION} {measure} {dtype} {mask_digest(mask)}"
    keys = [f"{kind} {who}" for who in zip(sample_id, versions, strict=True)] if versions else None
    with _only_packer(path):
        older = _stored_maps(path, measure, dtype, mask, affine) if file_digest else None
        partial.mkdir(exist_ok=True)
        try:
            maps = write_shards(
                partial / "store" / measure,
                partial / "whole",
                n_samples,
                rows_per_shard,
                pack,
                keys,
                watch,
            )
            if taken:
                log.info("%s: %d maps are taken from the older store", path, len(taken))
            digests = [about["sha256"] for about in maps]
            attributes = {
                "format": FORMAT,
                "format_version": FORMAT_VERSION,
                "measure": measure,
                "shape": list(mask.shape),
                "affine": np.asarray(affine, dtype=np.float64).tolist(),
                "sample_id": list(sample_id),
                "mask_sha256": mask_digest(mask),
                "content_sha256": content_digest(digests),
                "row_sha256": digests,
                "row_error": [about["error"] for about in maps],
                "max_error": max(about["error"] for about in maps),
                "scale": [about["scale"] for about in maps if about["scale"]],
                "source": [about["source"] for about in maps if about["source"]],
            }
            _describe(partial / "store", attributes, mask, dtype, rows_per_shard)
            _publish(partial / "store", path)
        except BaseException:
            if versions and (whole := len(list((partial / "whole").glob("*.json")))):
                log.info(
                    "%s: %d shards are whole; the same command goes on after them", path, whole
                )
            else:
                shutil.rmtree(partial)
            raise
        shutil.rmtree(partial)


def restore_older(path: Path) -> None:
    """Give an older store its name back, if a packing was killed when a new one was to have it.

    Raises
    ------
    InputError
        Another process packs it now.
    """
    older = older_store(path)
    if path.exists() or group_attributes(older).get("format") != FORMAT:
        return
    with _only_packer(path):
        if not path.exists():
            os.rename(older, path)
            log.warning("%s: the older store is back; its replacement was interrupted", path)


@contextmanager
def _only_packer(path: Path) -> Iterator[None]:
    """Keep other processes from packing the store as long as the block runs.

    A file system without locks keeps nobody from it, which is told: an error would leave those who
    may not mount it otherwise without a store.
    """
    lock = path.with_name(f".{path.name}.lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(lock, "a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            ours = os.fstat(file.fileno()).st_ino == os.stat(lock).st_ino
        except (BlockingIOError, FileNotFoundError):  # or the other one has just removed it
            ours = False
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            log.warning(
                "%s: its file system has no locks (flock: %s), so nothing keeps two commands from "
                "packing it at the same time, which spoils it: start no other one before this ends",
                *(path, error.strerror),
            )
            ours = True
        if not ours:
            raise InputError(f"{path}: another process packs it; wait until that has ended")
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)  # without locks another one may have removed it


def _stored_maps(
    path: Path, measure: str, dtype: str, mask: NDArray[np.bool_], affine: NDArray[np.float64]
) -> Callable[[str], tuple[bytes, dict[str, Any], NDArray[np.float32]] | None] | None:
    """Look-up of the sound maps of a store by the SHA-256 of their files.

    Returns
    -------
    function or None
        Gives the chunk of a map and what is known of it, as `_pack_map`, and its values
        (n_voxels,); None for a map that the store does not have or that is damaged there. None
        instead of the function if there is no store, or it has other voxels or values; why is told.
    """
    attributes = group_attributes(path)
    if not attributes:
        return None
    try:
        shards = open_shards(path / attributes["measure"])
        is_same = {
            "format": attributes["format_version"] == FORMAT_VERSION and "row_error" in attributes,
            "measure": attributes["measure"] == measure,
            "dtype": shards.dtype == np.dtype(dtype),
            "mask": attributes["mask_sha256"] == mask_digest(mask),
            "affine": np.allclose(attributes["affine"], affine, atol=1e-3),
        }
        row_of = {about["sha256"]: row for row, about in enumerate(attributes["source"])}
    except (ValueError, KeyError, TypeError, OSError) as error:
        log.warning("%s: the older store cannot be read (%s); all maps are packed", path, error)
        return None
    if not all(is_same.values()):
        others = ", ".join(what for what, same in is_same.items() if not same)
        log.info("%s: the older store has another %s; all maps are packed", path, others)
        return None
    scales = np.array(attributes["scale"]) if attributes["scale"] else None

    def stored_map(file_digest: str) -> tuple[bytes, dict[str, Any], NDArray[np.float32]] | None:
        row = row_of.get(file_digest)
        if row is None:
            return None
        scale, expected = None if scales is None else scales[row], attributes["row_sha256"][row]
        try:
            chunk = shards.chunk(row)
            stored = shards.unpack(chunk)
            if row_digest(stored, scale) != expected:
                raise DamagedError("it is another one")
        except (DamagedError, OSError) as error:
            log.warning(
                "%s: the stored map of %s is damaged or missing (%s); it is packed anew",
                *(path, attributes["sample_id"][row], error),
            )
            return None
        values = decode(stored, scale, np.empty(stored.shape, dtype=np.float32))
        return chunk, _about_map(expected, scale, attributes["row_error"][row]), values

    return stored_map


def _pack_map(
    values: NDArray[Any], n_voxels: int, dtype: str, name: str
) -> tuple[bytes, dict[str, Any]]:
    """Chunk of a map (n_voxels,), and what is to be known of it."""
    if values.shape != (n_voxels,):
        raise InputError(f"map of {name} has shape {values.shape}, the mask has {n_voxels} voxels")
    stored, scale = _encode(values, dtype, name)
    again = decode(stored, scale, np.empty(n_voxels, dtype=np.float32))
    error = float(np.abs(again - values).max())
    return pack_row(stored), _about_map(row_digest(stored, scale), scale, error)


def _about_map(
    sha256: str, scale: NDArray[np.float64] | None, error: float
) -> dict[str, str | list[float] | float | None]:
    return {
        "sha256": sha256,
        "scale": None if scale is None else scale.tolist(),
        "error": error,
    }


def _encode(
    row: NDArray[Any], dtype: str, name: str
) -> tuple[NDArray[Any], NDArray[np.float64] | None]:
    """One map as it is stored, and factor and offset (2,) of uint8; refused if it cannot be."""
    with np.errstate(over="ignore"):
        stored = row.astype("<f2")
    n_bad = int((~np.isfinite(stored)).sum())
    if n_bad:
        raise InputError(
            f"map of {name}: {n_bad} voxels inside the mask are NaN, infinite or beyond 65504; "
            "mend the map or leave that person out"
        )
    if dtype == "float16":
        return stored, None
    low, high = float(row.min()), float(row.max())
    factor = (high - low) / 255 or 1.0
    return np.rint((row - low) / factor).astype(np.uint8), np.array([factor, low])


def _describe(
    store: Path,
    attributes: dict[str, Any],
    mask: NDArray[np.bool_],
    dtype: str,
    rows_per_shard: int,
) -> None:
    """Make a group of Zarr of a folder that has only the shards, and flush what is new to disk."""
    measure = attributes["measure"]
    for leftover in (store / "zarr.json", store / measure / "zarr.json"):  # of a killed process
        leftover.unlink(missing_ok=True)
    shutil.rmtree(store / "mask", ignore_errors=True)
    group = zarr.create_group(store)
    group.create_array(
        "mask",
        data=mask.astype(np.uint8),
        chunks=mask.shape,
        compressors=(ZstdCodec(level=1), Crc32cCodec()),
    )
    shape = len(attributes["sample_id"]), int(mask.sum())
    create_rows(group, measure, shape, dtype, rows_per_shard)
    group.attrs.update(attributes)
    for file in (*store.glob("*.json"), *store.glob("*/*.json"), *store.glob("mask/c/**/*")):
        if file.is_file():
            with open(file, "rb+") as stream:
                os.fsync(stream.fileno())


def _publish(store: Path, path: Path) -> None:
    """Give a finished store its name; one that has it goes."""
    older = older_store(path)
    _remove(older)  # of a killed process
    if path.exists():
        os.rename(path, older)  # a folder cannot be renamed onto another that is not empty
    os.rename(store, path)
    _remove(older)


def _remove(store: Path) -> None:
    """Remove a store; what a killed process leaves of it is none that could be restored."""
    with suppress(OSError):
        (store / "zarr.json").unlink()
    shutil.rmtree(store, ignore_errors=True)

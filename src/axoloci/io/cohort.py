"""The cohort store: the maps of all people on one grid, in one Zarr v3 group.

Only voxels inside the mask are kept, as float16. One person is one chunk (zstd, then a CRC-32C of
the compressed bytes) and many people are one file (a shard), so that a random batch costs one
short read a person and 50,000 people make a few thousand files, not 50,000.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import zarr
from numpy.typing import ArrayLike, NDArray
from zarr.codecs import Crc32cCodec, ZstdCodec

from axoloci.errors import InputError

FORMAT = "axoloci-cohort"
FORMAT_VERSION = 1
SHARD_BYTES = 128 * 2**20  # uncompressed: one shard is held in memory while the store is written


@dataclass(frozen=True)
class Cohort:
    """A cohort store that is open for reading; maps are read only when asked for.

    Attributes
    ----------
    path
        Folder of the store.
    sample_id
        Who each row is; the order is frozen.
    mask
        [bool, shape: (x, y, z)] Voxels that are kept.
    affine
        [float64, shape: (4, 4)] Voxel to world, mm.
    measure
        What the maps hold, such as `fa`.
    mask_sha256, content_sha256
        Digest of the mask; digest of all rows in their order.
    source
        Per person `sample_id`, and `name` and `sha256` of the map's file.
    """

    path: Path
    sample_id: tuple[str, ...]
    mask: NDArray[np.bool_]
    affine: NDArray[np.float64]
    measure: str
    mask_sha256: str
    content_sha256: str
    source: tuple[dict[str, str], ...]
    _maps: Any  # zarr.Array (n_samples, n_voxels) float16

    @property
    def n_samples(self) -> int:
        """Number of people."""
        return len(self.sample_id)

    @property
    def n_voxels(self) -> int:
        """Number of voxels inside the mask."""
        return int(self._maps.shape[1])

    def rows(self, index: ArrayLike | None = None) -> NDArray[np.float32]:
        """Maps of some people, masked voxels in C order.

        Parameters
        ----------
        index
            [int, shape: (m,)] Rows; everybody by default.

        Returns
        -------
        [float32, shape: (m, n_voxels)]

        Raises
        ------
        InputError
            A map's stored bytes are damaged or missing: names the people.
        """
        wanted = np.arange(self.n_samples) if index is None else np.asarray(index, dtype=np.int64)
        if wanted.ndim != 1 or (
            wanted.size and not 0 <= wanted.min() <= wanted.max() < self.n_samples
        ):
            raise IndexError(f"rows must be a list of numbers from 0 to {self.n_samples - 1}")
        rows = np.empty((wanted.size, self.n_voxels), dtype=np.float32)
        damaged = []
        for row, place in zip(wanted.tolist(), rows, strict=True):
            try:
                place[:] = self._maps[row]  # row by row: ten times faster than Zarr's fancy index
            except Exception:  # the codecs and stores of Zarr raise many kinds
                place[:] = np.nan
            if not np.isfinite(place).all():  # a missing shard reads as NaN
                damaged.append(self.sample_id[row])
        if damaged:
            raise InputError(
                f"{self.path}: the stored map of {', '.join(damaged[:10])}"
                f"{f' and {len(damaged) - 10} more' if len(damaged) > 10 else ''} is damaged or "
                "missing; store the cohort again, or leave them out"
            )
        return rows

    def volumes(self, index: ArrayLike | None = None) -> NDArray[np.float32]:
        """Maps of some people on the full grid, zero outside the mask.

        Parameters
        ----------
        index
            [int, shape: (m,)] Rows; everybody by default.

        Returns
        -------
        [float32, shape: (m, x, y, z)]
        """
        rows = self.rows(index)
        volumes = np.zeros((len(rows), *self.mask.shape), dtype=np.float32)
        volumes[:, self.mask] = rows  # (m, x, y, z)
        return volumes

    def batches(
        self, batch_size: int, seed: int | np.random.Generator, index: ArrayLike | None = None
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        """Everybody once, in random order and in batches; the last one may be smaller.

        Parameters
        ----------
        batch_size
            People a batch.
        seed
            Seed or generator of the order.
        index
            [int, shape: (m,)] Rows to draw from; everybody by default.

        Yields
        ------
        (index, rows)
            [int64, shape: (b,)] rows of the store; [float32, shape: (b, n_voxels)] their maps.
        """
        pool = np.arange(self.n_samples) if index is None else np.asarray(index, dtype=np.int64)
        order = np.random.default_rng(seed).permutation(pool)
        for start in range(0, len(order), batch_size):
            batch = order[start : start + batch_size]
            yield batch, self.rows(batch)


def mask_digest(mask: NDArray[Any]) -> str:
    """Hexadecimal SHA-256 of a mask's grid and voxels."""
    digest = hashlib.sha256(repr(tuple(int(n) for n in mask.shape)).encode())
    digest.update(np.ascontiguousarray(mask, dtype=np.uint8).tobytes())
    return digest.hexdigest()


def write_cohort(
    path: str | os.PathLike[str],
    sample_id: Sequence[str],
    rows: Iterable[NDArray[Any]],
    mask: NDArray[Any],
    affine: NDArray[np.float64],
    source: Sequence[dict[str, str]] = (),
    measure: str = "fa",
) -> None:
    """Write a cohort store, whole or not at all; one shard of maps is in memory at a time.

    Parameters
    ----------
    path
        Folder to make; an older cohort store there is replaced once the new one is complete.
    sample_id
        [shape: (n_samples,)] Who each row is.
    rows
        n_samples arrays of shape (n_voxels,): the map inside the mask, C order, stored as float16
        (absolute error at most 2.5e-4 for values from 0 to 1).
    mask
        [bool, shape: (x, y, z)] Voxels to keep.
    affine
        [float64, shape: (4, 4)] Voxel to world, mm.
    source
        Per person a dict of `sample_id`, `name` and `sha256` of the map's file. It is read after
        the last row, so the iterator behind `rows` may fill it.
    measure
        What the maps hold; also the name of the array.

    Raises
    ------
    InputError
        Empty mask, duplicated ids, too few or too many rows, a row of another length, values that
        are not finite or too large for float16, or `path` is something other than a cohort store.
    """
    path = Path(path)
    mask = np.asarray(mask, dtype=bool)
    n_samples, n_voxels = len(sample_id), int(mask.sum())
    if path.exists() and _attributes(path).get("format") != FORMAT:
        raise InputError(f"{path}: exists and is not a cohort store; choose another name")
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

    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{os.getpid()}.tmp.{path.name}")
    shutil.rmtree(temporary, ignore_errors=True)  # of a killed process that had our number
    try:
        group = zarr.create_group(temporary)
        codecs = (ZstdCodec(level=1), Crc32cCodec())
        group.create_array(
            "mask", data=mask.astype(np.uint8), chunks=mask.shape, compressors=codecs
        )
        n_rows = max(1, min(n_samples, SHARD_BYTES // (2 * n_voxels)))  # a shard
        maps = group.create_array(
            measure,
            shape=(n_samples, n_voxels),
            dtype="float16",
            chunks=(1, n_voxels),
            shards=(n_rows, n_voxels),
            compressors=codecs,
            fill_value=np.nan,  # what a missing shard reads as: never mistaken for data
        )
        content = hashlib.sha256()
        shard = np.empty((n_rows, n_voxels), dtype="<f2")
        n_done = 0
        for row in rows:
            if n_done == n_samples:
                raise InputError(f"{path}: more maps than the {n_samples} sample_ids")
            in_shard = n_done % n_rows
            shard[in_shard] = _checked(row, n_voxels, sample_id[n_done])
            content.update(hashlib.sha256(shard[in_shard].tobytes()).digest())
            n_done += 1
            if in_shard == n_rows - 1 or n_done == n_samples:
                maps[n_done - in_shard - 1 : n_done] = shard[: in_shard + 1]
        if n_done < n_samples:
            raise InputError(f"{path}: {n_done} maps for {n_samples} sample_ids")
        group.attrs.update(
            {
                "format": FORMAT,
                "format_version": FORMAT_VERSION,
                "measure": measure,
                "shape": list(mask.shape),
                "affine": np.asarray(affine, dtype=np.float64).tolist(),
                "sample_id": list(sample_id),
                "mask_sha256": mask_digest(mask),
                "content_sha256": content.hexdigest(),
                "source": list(source),
            }
        )
        _publish(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def read_cohort(path: str | os.PathLike[str]) -> Cohort:
    """Open a cohort store; the maps stay on disk.

    Raises
    ------
    InputError
        Not a cohort store, of a newer format, or its mask is damaged.
    """
    path = Path(path)
    attributes = _attributes(path)
    if attributes.get("format") != FORMAT:
        raise InputError(f"{path}: is not a cohort store; make one with axoloci-normalize store")
    if attributes["format_version"] > FORMAT_VERSION:
        raise InputError(
            f"{path}: format_version {attributes['format_version']} is newer than "
            f"{FORMAT_VERSION}; update axoloci"
        )
    measure, sample_id = attributes["measure"], tuple(attributes["sample_id"])
    try:
        group = zarr.open_group(path, mode="r")
        maps: Any = group[measure]
        mask = np.asarray(cast(Any, group["mask"])[:], dtype=bool)
    except Exception as error:  # as in `Cohort.rows`
        raise InputError(f"{path}: cannot be read: {error}; store the cohort again") from error
    if mask_digest(mask) != attributes["mask_sha256"] or maps.shape != (len(sample_id), mask.sum()):
        raise InputError(f"{path}: the mask is damaged; store the cohort again")
    return Cohort(
        path=path,
        sample_id=sample_id,
        mask=mask,
        affine=np.array(attributes["affine"], dtype=np.float64),
        measure=measure,
        mask_sha256=attributes["mask_sha256"],
        content_sha256=attributes["content_sha256"],
        source=tuple(attributes["source"]),
        _maps=maps,
    )


def _attributes(path: Path) -> dict[str, Any]:
    """Attributes of the Zarr v3 group at `path`, read without Zarr; empty if it is none."""
    try:
        attributes: dict[str, Any] = json.loads((path / "zarr.json").read_bytes())["attributes"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return attributes


def _checked(row: NDArray[Any], n_voxels: int, name: str) -> NDArray[np.float16]:
    """One map as float16, refused if that would not hold it."""
    row = np.asarray(row)
    if row.shape != (n_voxels,):
        raise InputError(f"map of {name} has shape {row.shape}, the mask has {n_voxels} voxels")
    with np.errstate(over="ignore"):
        stored = row.astype("<f2")
    n_bad = int((~np.isfinite(stored)).sum())
    if n_bad:
        raise InputError(
            f"map of {name}: {n_bad} voxels inside the mask are NaN, infinite or beyond 65504; "
            "mend the map or leave that person out"
        )
    return stored


def _publish(temporary: Path, path: Path) -> None:
    """Flush a finished folder to disk and give it its name."""
    for file in temporary.rglob("*"):
        if file.is_file():
            with open(file, "rb+") as stream:
                os.fsync(stream.fileno())
    older = path.with_name(f".{os.getpid()}.old.{path.name}")
    if path.exists():
        os.rename(path, older)  # a folder cannot be renamed onto another that is not empty
    os.rename(temporary, path)
    shutil.rmtree(older, ignore_errors=True)

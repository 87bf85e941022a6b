"""The cohort store: the maps of all people on one grid, in one Zarr v3 group.

Only voxels inside the mask are kept, as float16, or as uint8 scaled for each map: the group's
attribute `scale` has a factor and an offset a person, value = factor x stored + offset. One person
is one chunk (compressed, then a CRC-32C of the compressed bytes) and many people are one file (a
shard), so that a random batch costs one short read a person and 50,000 people make a few thousand
files, not 50,000. `axoloci.io.packing` writes it.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import zarr
from numpy.typing import ArrayLike, DTypeLike, NDArray

from axoloci.errors import InputError
from axoloci.io.ahead import map_ahead
from axoloci.io.shards import DamagedError, Shards, open_shards, shard_path

FORMAT = "axoloci-cohort"
FORMAT_VERSION = 2  # 1: zstd alone, float16 alone, no row_sha256

Checked = tuple[bool, bool]
"""Whether a map is damaged, and whether it has one value alone."""


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
    row_sha256
        Per person the digest of the stored map; empty in stores of format version 1.
    max_error
        The most by which a stored value of the store differs from that of its map; NaN in stores of
        format version 1.
    """

    path: Path
    sample_id: tuple[str, ...]
    mask: NDArray[np.bool_]
    affine: NDArray[np.float64]
    measure: str
    mask_sha256: str
    content_sha256: str
    source: tuple[dict[str, str], ...]
    row_sha256: tuple[str, ...]
    max_error: float
    _shards: Shards
    _stored_row: NDArray[np.int64]  # (n_samples,) of the store
    _scale: NDArray[np.float64] | None  # (n_samples, 2) factor and offset of uint8

    @property
    def n_samples(self) -> int:
        """Number of people."""
        return len(self.sample_id)

    @property
    def n_voxels(self) -> int:
        """Number of voxels inside the mask."""
        return self._shards.shape[1]

    @property
    def dtype(self) -> np.dtype[Any]:
        """What the maps are stored as."""
        return self._shards.dtype

    def rows(
        self,
        index: ArrayLike | None = None,
        dtype: DTypeLike = np.float32,
        out: NDArray[Any] | None = None,
    ) -> NDArray[Any]:
        """Maps of some people, masked voxels in C order, read by several threads.

        Parameters
        ----------
        index
            [int, shape: (m,)] Rows; everybody by default.
        dtype
            float32; or float16, which takes half the memory and, of a store of float16, half the
            time.
        out
            [shape: (m, n_voxels)] Array to read into, instead of a new one of `dtype`.

        Returns
        -------
        [float32 or float16, shape: (m, n_voxels)]

        Raises
        ------
        InputError
            A map's stored bytes are damaged or missing: names the people. Or the file system cannot
            read them now, which says nothing about them; or the store was packed again since it was
            opened, and the older one is removed.
        """
        wanted = np.arange(self.n_samples) if index is None else np.asarray(index, dtype=np.int64)
        if wanted.ndim != 1 or (
            wanted.size and not 0 <= wanted.min() <= wanted.max() < self.n_samples
        ):
            raise IndexError(f"rows must be a list of numbers from 0 to {self.n_samples - 1}")
        rows = np.empty((wanted.size, self.n_voxels), dtype) if out is None else out
        if rows.shape != (wanted.size, self.n_voxels):
            raise ValueError(f"out has shape {rows.shape}, not {(wanted.size, self.n_voxels)}")

        def read(place: int) -> str:
            """Fill a row of the result; why it could not be read."""
            try:
                decode(*self._stored(int(wanted[place])), rows[place])
            except DamagedError as error:
                return str(error)
            return ""

        why = list(map_ahead(read, range(wanted.size)))
        damaged = [row for row, reason in zip(wanted.tolist(), why, strict=True) if reason]
        if damaged:
            raise InputError(
                f"{self.path}: the stored map of "
                f"{', '.join(self.sample_id[row] for row in damaged[:10])}"
                f"{f' and {len(damaged) - 10} more' if len(damaged) > 10 else ''} is damaged or "
                f"missing ({next(filter(None, why))}); store the cohort again, or leave them out"
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

    def subset(self, index: ArrayLike) -> Cohort:
        """The same store with some of its people, in the order of their rows here.

        Parameters
        ----------
        index
            [int, shape: (m,)] Rows.
        """
        rows = np.asarray(index, dtype=np.int64)
        if np.array_equal(rows, np.arange(self.n_samples)):
            return self
        digests = tuple(self.row_sha256[row] for row in rows) if self.row_sha256 else ()
        known = f"{self.content_sha256} {rows.tolist()}"  # what tells it from others in version 1
        return replace(
            self,
            sample_id=tuple(self.sample_id[row] for row in rows),
            content_sha256=(
                content_digest(digests) if digests else hashlib.sha256(known.encode()).hexdigest()
            ),
            source=tuple(self.source[row] for row in rows) if self.source else (),
            row_sha256=digests,
            _stored_row=self._stored_row[rows],
            _scale=None if self._scale is None else self._scale[rows],
        )

    def without(self, sample_id: Collection[str]) -> Cohort:
        """The same store less some of its people, such as those of `check_cohort`.

        Raises
        ------
        InputError
            Somebody is not in the store.
        """
        unknown = sorted(set(sample_id) - set(self.sample_id))
        if unknown:
            raise InputError(f"{self.path}: has no {', '.join(unknown[:10])} to leave out")
        left_out = set(sample_id)
        return self.subset([k for k, name in enumerate(self.sample_id) if name not in left_out])

    def _stored(self, row: int) -> tuple[NDArray[Any], NDArray[np.float64] | None]:
        """A map as it is stored, and its factor and offset (2,) if it is scaled.

        Raises
        ------
        DamagedError
            It is not what was written, or not there.
        InputError
            Its file cannot be read now, as when a network file system does not answer, or another
            store is there by now.
        """
        stored_row = int(self._stored_row[row])
        try:
            stored = self._shards.read(stored_row)
        except OSError as error:
            if self._shards.is_replaced():
                raise InputError(
                    f"{self.path}: was packed again, moved or removed while it was read; start the "
                    "command again"
                ) from error
            path = shard_path(self._shards.path, stored_row // self._shards.rows_per_shard)
            if isinstance(error, FileNotFoundError):
                raise DamagedError(f"{path} is not there") from error
            raise InputError(
                f"{path}: cannot be read ({error.strerror or error}), which says nothing about the "
                "maps in it; see that its file system answers and try again"
            ) from error
        return stored, None if self._scale is None else self._scale[row]


@dataclass(frozen=True)
class Faults:
    """People of a cohort whose maps cannot be used, by their sample_id.

    Attributes
    ----------
    damaged
        Their maps are not what was stored, or missing.
    constant
        Their maps have one value in the whole mask.
    """

    damaged: tuple[str, ...]
    constant: tuple[str, ...]


def check_cohort(
    cohort: Cohort,
    watch: Callable[[Iterable[Checked], int], Iterable[Checked]] = lambda checked, _: checked,
) -> Faults:
    """Read all maps of a cohort and compare them with the digests of when they were stored.

    Stores of format version 1 have no digests: there the checksums of the compressed maps tell.

    Parameters
    ----------
    cohort
        The people whose maps are read.
    watch
        Goes through what is found map by map, with the number of maps, such as
        `axoloci.command.progress`.

    Raises
    ------
    InputError
        The file system cannot read a map now.
    """

    def check(row: int) -> Checked:
        try:
            stored, scale = cohort._stored(row)
        except DamagedError:
            return True, False
        known = cohort.row_sha256[row] if cohort.row_sha256 else None
        return known not in (None, row_digest(stored, scale)), _is_constant(stored)

    found = list(watch(map_ahead(check, range(cohort.n_samples)), cohort.n_samples))
    return Faults(
        damaged=tuple(cohort.sample_id[k] for k, (damaged, _) in enumerate(found) if damaged),
        constant=tuple(
            cohort.sample_id[k]
            for k, (damaged, constant) in enumerate(found)
            if constant and not damaged
        ),
    )


def _is_constant(stored: NDArray[Any]) -> bool:
    """Whether a stored map (n_voxels,) has one value; its beginning mostly tells, in no time."""
    return all(bool((part == stored[0]).all()) for part in (stored[:1000], stored))


def read_cohort(path: str | os.PathLike[str]) -> Cohort:
    """Open a cohort store; the maps stay on disk.

    Raises
    ------
    InputError
        Not a cohort store, of a newer format, or its mask is damaged; it is packed again just now,
        or that was killed.
    """
    path = Path(path)
    attributes = group_attributes(path)
    if not path.exists() and group_attributes(older_store(path)).get("format") == FORMAT:
        raise InputError(
            f"{path}: is not there, as the command that packed it again was killed when the new "
            "store was to take the place of the older one; run that axoloci-normalize store again, "
            f"or take the older one: mv {shlex.quote(str(older_store(path)))} "
            f"{shlex.quote(str(path))}"
        )
    if attributes.get("format") != FORMAT:
        raise InputError(f"{path}: is not a cohort store; make one with axoloci-normalize store")
    if attributes["format_version"] > FORMAT_VERSION:
        raise InputError(
            f"{path}: format_version {attributes['format_version']} is newer than "
            f"{FORMAT_VERSION}; update axoloci"
        )
    measure, sample_id = attributes["measure"], tuple(attributes["sample_id"])
    try:
        shards = open_shards(path / measure)
        mask = np.asarray(cast(Any, zarr.open_group(path, mode="r")["mask"])[:], dtype=bool)
    except Exception as error:  # the codecs and stores of Zarr raise many kinds
        raise InputError(f"{path}: cannot be read: {error}; store the cohort again") from error
    n_samples, n_voxels = len(sample_id), int(mask.sum())
    if mask_digest(mask) != attributes["mask_sha256"] or shards.shape != (n_samples, n_voxels):
        raise InputError(f"{path}: the mask is damaged; store the cohort again")
    if group_attributes(path) != attributes:  # ids of the one would name the maps of the other
        raise InputError(f"{path}: was packed again while it was opened; start the command again")
    return Cohort(
        path=path,
        sample_id=sample_id,
        mask=mask,
        affine=np.array(attributes["affine"], dtype=np.float64),
        measure=measure,
        mask_sha256=attributes["mask_sha256"],
        content_sha256=attributes["content_sha256"],
        source=tuple(attributes["source"]),
        row_sha256=tuple(attributes.get("row_sha256", ())),
        max_error=attributes.get("max_error", np.nan),
        _shards=shards,
        _stored_row=np.arange(n_samples),
        _scale=np.array(attributes["scale"]) if attributes.get("scale") else None,
    )


def mask_digest(mask: NDArray[Any]) -> str:
    """Hexadecimal SHA-256 of a mask's grid and voxels."""
    digest = hashlib.sha256(repr(tuple(int(n) for n in mask.shape)).encode())
    digest.update(np.ascontiguousarray(mask, dtype=np.uint8).tobytes())
    return digest.hexdigest()


def older_store(path: Path) -> Path:
    """Where the store of `path` is while a new one takes its name."""
    return path.with_name(f".{path.name}.old")


def group_attributes(path: Path) -> dict[str, Any]:
    """Attributes of the Zarr v3 group at `path`, read without Zarr; empty if it is none."""
    try:
        attributes: dict[str, Any] = json.loads((path / "zarr.json").read_bytes())["attributes"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return attributes


def decode(
    stored: NDArray[Any], scale: NDArray[np.float64] | None, values: NDArray[Any]
) -> NDArray[Any]:
    """Fill `values` (n_voxels,) with a map as it was."""
    if scale is None:
        values[:] = stored
    else:
        factor, offset = scale.astype(np.float32)
        value_of = np.arange(256, dtype=np.float32) * factor + offset  # (256,)
        np.take(value_of.astype(values.dtype), stored, out=values, mode="clip")
    return values


def row_digest(stored: NDArray[Any], scale: NDArray[np.float64] | None) -> str:
    """Hexadecimal SHA-256 of a stored map."""
    digest = hashlib.sha256(stored.data)
    if scale is not None:
        digest.update(scale.astype("<f8").tobytes())
    return digest.hexdigest()


def content_digest(row_sha256: Sequence[str]) -> str:
    """Hexadecimal SHA-256 of all rows in their order."""
    return hashlib.sha256(b"".join(map(bytes.fromhex, row_sha256))).hexdigest()

"""NIfTI images: read with their faults named, written whole."""

from __future__ import annotations

import gzip
import math
import os
import re
import shlex
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import nibabel as nib
import numpy as np
from isal import igzip, isal_zlib
from numpy.typing import DTypeLike, NDArray

from axoloci.errors import InputError
from axoloci.io.files import whole_file

_DAMAGE: tuple[type[Exception], ...]
_DAMAGE = (OSError, EOFError, ValueError, zlib.error, isal_zlib.error)  # type: ignore[assignment]
"""What reading a truncated or damaged file raises."""

VOXEL_MM = (0.01, 100.0)
"""Sizes of a voxel (mm) beyond which an affine must be in another unit."""


def read_nifti(
    path: str | os.PathLike[str],
    ndim: int,
    dtype: DTypeLike = np.float32,
    within: NDArray[np.bool_] | None = None,
) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """Read an image and its affine.

    Parameters
    ----------
    path
        `.nii` or `.nii.gz` file.
    ndim
        Number of dimensions that the image must have.
    dtype
        Type of the returned array; the header's scaling is applied.
    within
        [bool, shape: that of the image] Voxels that must be finite, all by default; an image of
        another shape must be finite everywhere.

    Returns
    -------
    (data, affine)
        `ndim`-dimensional array of `dtype`; (4, 4) voxel-to-world matrix in mm.

    Raises
    ------
    InputError
        Not a NIfTI image, truncated, of another number of dimensions, or not finite.
    """
    try:
        image: Any = nib.load(path)
        shape = image.shape
    except (
        nib.filebasedimages.ImageFileError,
        nib.spatialimages.HeaderDataError,
        OSError,
        EOFError,
        zlib.error,
    ) as error:
        raise InputError(f"{path}: cannot be read as a NIfTI image: {error}") from error
    if len(shape) != ndim or 0 in shape:
        raise InputError(f"{path}: expected a {ndim}D image, found shape {shape}")
    _check_type(path, image.get_data_dtype())
    affine = _sound_affine(path, image.affine)
    try:
        data = _voxels(Path(path), image, dtype)
    except _DAMAGE as error:
        raise InputError(
            f"{path}: the image data cannot be read, the file may be truncated or damaged: {error}"
        ) from error
    if np.issubdtype(data.dtype, np.floating) and not np.isfinite(data).all():
        bad = ~np.isfinite(data)
        n_bad = int((bad & within if within is not None and within.shape == shape else bad).sum())
        if not n_bad:
            return data, affine
        raise InputError(f"{path}: {n_bad} values are NaN or infinite; replace or mask them first")
    return data, affine


@dataclass(frozen=True)
class Header:
    """What an image's header says.

    Attributes
    ----------
    shape
        Voxels along each axis, then volumes.
    affine
        [float64, shape: (4, 4)] Voxel to world, mm.
    dtype
        Type of the stored values.
    slope, inter
        Of the scaling: value = slope x stored + inter.
    oriented
        Whether a qform or sform tells where the image lies; else the affine is a guess.
    """

    shape: tuple[int, ...]
    affine: NDArray[np.float64]
    dtype: np.dtype[Any]
    slope: float = 1.0
    inter: float = 0.0
    oriented: bool = True


def scan_prefix(path: str | os.PathLike[str]) -> str:
    """First part of the names of what is made of an image: its name less what tells its kind.

    >>> scan_prefix("raw/sub-01_ses-2_dwi.nii.gz")
    'sub-01_ses-2'
    >>> scan_prefix("sub-01_model-tensor_param-fa_dwimap.nii.gz")
    'sub-01'
    >>> scan_prefix("8000_DTI_PA-ALL_20d.nii")
    '8000_DTI_PA-ALL_20d'
    """
    name = Path(path).name.removesuffix(".gz").removesuffix(".nii")
    words = re.sub(r"_(dwi|dwimap)$", "", name).split("_")
    kept = [word for word in words if not re.match(r"(desc|model|param|space)-", word)]
    return "_".join(kept) or name


_START = 4096  # bytes of a file that hold its header, compressed or not
_GZIP = b"\x1f\x8b"
_KINDS: dict[int, Any] = {348: nib.Nifti1Header, 540: nib.Nifti2Header}  # by their size in bytes


def read_header(path: str | os.PathLike[str], *ndim: int) -> Header:
    """Read an image's header and see whether its file can be whole, but for the voxels.

    The size of a `.nii` must hold them. A `.nii.gz` ends with the size of what it holds; only where
    that differs, because the file is cut off or made of several members, all of it is read.

    Parameters
    ----------
    path
        `.nii` or `.nii.gz` file.
    ndim
        Numbers of dimensions that the image may have.

    Raises
    ------
    InputError
        Empty, not a NIfTI image, truncated, or of another number of dimensions.
    """
    path = Path(path)
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            start = file.read(_START)
            file.seek(max(size - 4, 0))
            stated = int.from_bytes(file.read(4), "little")
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    block = _first_bytes(path, start)
    kind = _KINDS.get(int.from_bytes(block[:4], "little")) or _KINDS.get(
        int.from_bytes(block[:4], "big")
    )
    if kind is None or len(block) < kind.sizeof_hdr or not kind.may_contain_header(block):
        raise InputError(f"{path}: cannot be read as a NIfTI image: it has no NIfTI header")
    try:
        header = kind(block[: kind.sizeof_hdr], check=False)
        shape = tuple(int(n) for n in header.get_data_shape())
        dtype = header.get_data_dtype()
        affine = np.asarray(header.get_best_affine(), dtype=np.float64)
        n_bytes = int(header["vox_offset"]) + dtype.itemsize * math.prod(shape)
        slope, inter = header.get_slope_inter()
        oriented = bool(header["sform_code"] > 0 or header["qform_code"] > 0)
    except (nib.spatialimages.HeaderDataError, ValueError, KeyError, OverflowError) as error:
        raise InputError(f"{path}: cannot be read as a NIfTI image: {error}") from error
    if len(shape) not in ndim or min(shape, default=0) < 1:
        wanted = " or ".join(f"{n}D" for n in ndim)
        raise InputError(f"{path}: expected a {wanted} image, found shape {shape}")
    compressed = path.suffix == ".gz"
    whole = stated == n_bytes % 2**32 if compressed else size >= n_bytes
    if compressed and not whole:
        size = _uncompressed_size(path)
        whole = size >= n_bytes
    if not whole:
        raise InputError(
            f"{path}: truncated: it holds {size} bytes, and an image of shape {shape} has "
            f"{n_bytes}; copy it again"
        )
    _check_type(path, dtype)
    # nibabel gives no slope where the header says to leave the values as they are
    slope, inter = (1.0, 0.0) if slope is None else (float(slope), float(inter))
    return Header(shape, _sound_affine(path, affine), dtype, slope, inter, oriented)


def _first_bytes(path: Path, start: bytes) -> bytes:
    """The first bytes of an image, uncompressed."""
    if not start:
        raise InputError(f"{path}: the file is empty; copy it again")
    if start.startswith((b"/annex/objects/", b"version https://git-lfs")):
        raise InputError(
            f"{path}: holds a pointer instead of an image; fetch it, in a DataLad data set by: "
            f"datalad get {shlex.quote(str(path))}"
        )
    if path.suffix != ".gz":
        if start.startswith(_GZIP):
            raise InputError(f"{path}: is compressed by gzip; name it .nii.gz")
        return start
    if not start.startswith(_GZIP):
        raise InputError(f"{path}: cannot be read as a NIfTI image: it is not compressed by gzip")
    try:
        return zlib.decompressobj(wbits=31).decompress(start, 1024)
    except zlib.error as error:
        raise InputError(f"{path}: cannot be read as a NIfTI image: {error}") from error


def _uncompressed_size(path: Path) -> int:
    """Bytes that a gzip file holds; all of it is read."""
    size = 0
    try:
        with igzip.open(path) as file:
            while chunk := file.read1(2**20):  # which gives what is left of a truncated one
                size += len(chunk)
    except _DAMAGE as error:
        raise InputError(
            f"{path}: truncated or damaged after {size} bytes: {error}; copy it again"
        ) from error
    return size


def _check_type(path: str | os.PathLike[str], dtype: np.dtype[Any]) -> None:
    if dtype.kind not in "iuf":
        raise InputError(
            f"{path}: its values are of the type {dtype}, not plain numbers; give the magnitude"
        )


def _sound_affine(path: str | os.PathLike[str], affine: NDArray[Any]) -> NDArray[np.float64]:
    affine = np.asarray(affine, dtype=np.float64)
    if not np.isfinite(affine).all():
        raise InputError(f"{path}: the affine is not finite; write a sound one:\n{affine}")
    size = np.linalg.norm(affine[:3, :3], axis=0)  # (3,) mm
    if abs(np.linalg.det(affine[:3, :3])) <= 1e-6 * size.prod():
        raise InputError(f"{path}: the affine is singular; write a sound one:\n{affine}")
    if not ((size >= VOXEL_MM[0]) & (size <= VOXEL_MM[1])).all():
        raise InputError(
            f"{path}: voxels of {' x '.join(f'{mm:g}' for mm in size)} mm by the affine, which must"
            " be in mm, not in m or µm"
        )
    return affine


def _voxels(path: Path, image: Any, dtype: DTypeLike) -> NDArray[Any]:
    """An image's data; of a compressed file all is read, for its checksum is at the end."""
    if path.suffix != ".gz":
        return np.asarray(image.dataobj, dtype=dtype)
    with igzip.open(path) as file:  # in half of gzip's time
        data = np.asarray(type(image).from_stream(file).dataobj, dtype=dtype)
        _read_on(file)
    return data


def _read_on(file: IO[bytes]) -> None:
    while file.read(2**20):
        pass


def read_volumes(path: str | os.PathLike[str]) -> Iterator[NDArray[np.float32]]:
    """Volumes of a 4D image one by one, so that memory holds one at a time.

    Parameters
    ----------
    path
        `.nii` or `.nii.gz` file whose header is sound (`read_header`).

    Yields
    ------
    volume
        (x, y, z), Fortran order; the header's scaling is applied. What is not finite stays so.

    Raises
    ------
    InputError
        Truncated or damaged.
    """
    path = Path(path)
    image: Any = nib.load(path)
    proxy = image.dataobj
    n_bytes = proxy.dtype.itemsize * math.prod(proxy.shape[:3])
    try:
        with igzip.open(path) if path.suffix == ".gz" else open(path, "rb") as file:
            file.read(proxy.offset)
            for _ in range(proxy.shape[3]):
                stored = np.frombuffer(file.read(n_bytes), proxy.dtype)
                volume = stored.reshape(proxy.shape[:3], order="F").astype(np.float32)
                if (proxy.slope, proxy.inter) != (1, 0):
                    volume = volume * np.float32(proxy.slope) + np.float32(proxy.inter)
                yield volume
            _read_on(file)
    except _DAMAGE as error:
        raise InputError(
            f"{path}: the image data cannot be read, the file may be truncated or damaged: {error}"
        ) from error


def same_grid(
    path: str | os.PathLike[str],
    shape: tuple[int, ...],
    affine: NDArray[np.float64],
    reference: str | os.PathLike[str],
    within: NDArray[np.bool_] | None = None,
) -> NDArray[np.float32]:
    """Read an image that must lie on the grid of another one.

    Parameters
    ----------
    path
        3D image.
    shape, affine
        (x, y, z) and (4, 4) of the grid, mm.
    reference
        The file that has this grid, for the message.
    within
        [bool, shape: (x, y, z)] Voxels that must be finite; all by default.

    Returns
    -------
    data
        (x, y, z).

    Raises
    ------
    InputError
        As `read_nifti`; or another shape, or an affine that differs by more than 0.001.
    """
    data, own = read_nifti(path, ndim=3, within=within)
    check_grid(path, data.shape, own, shape, affine, reference)
    return data


def regridded(
    shape: tuple[int, ...], affine: NDArray[np.float64], voxel_size: float
) -> tuple[tuple[int, ...], NDArray[np.float64]]:
    """Shape and affine (4, 4) of a grid with cubic voxels of another size, mm.

    The field of view keeps its outer edges, to the next whole voxel.

    >>> regridded((10, 9, 8), np.diag([2.0, 2, 2, 1]), 4.0)[0]
    (5, 5, 4)
    """
    scale = voxel_size / np.linalg.norm(affine[:3, :3], axis=0)  # (3,) old voxels a new one
    new_shape = tuple(int(n) for n in np.maximum(1, np.ceil(np.array(shape) / scale - 1e-6)))
    to_old = np.diag([*scale, 1.0])
    to_old[:3, 3] = (scale - 1) / 2  # outer edges of the first voxels together
    return new_shape, affine @ to_old


def check_grid(
    path: str | os.PathLike[str],
    own_shape: tuple[int, ...],
    own: NDArray[np.float64],
    shape: tuple[int, ...],
    affine: NDArray[np.float64],
    reference: str | os.PathLike[str],
) -> None:
    """Compare the grid of an image with that of another one, as `same_grid` does.

    Raises
    ------
    InputError
        Another shape, or an affine that differs by more than 0.001.
    """
    if own_shape != tuple(shape):
        raise InputError(
            f"{path}: grid {own_shape}, but {reference} has {tuple(shape)};"
            " resample it to that grid"
        )
    if not np.allclose(own, affine, atol=1e-3):
        corners = np.array(list(np.ndindex(2, 2, 2))) * (np.array(shape) - 1)  # (8, 3) voxels
        gap = corners @ (own - affine)[:3, :3].T + (own - affine)[:3, 3]
        raise InputError(
            f"{path}: its affine puts voxels up to {np.linalg.norm(gap, axis=1).max():.3g} mm away"
            f" from those of {reference}; resample it to that grid"
        )


def write_nifti(
    path: str | os.PathLike[str], data: NDArray[Any], affine: NDArray[np.float64]
) -> None:
    """Write an image as `data`'s own type, `affine` in sform and qform, whole or not at all.

    Compressed quickly: a file is written once and read once. Of what is not 0 the digits are noise,
    in which a search for repeats (level 1 and more) finds nothing; runs alone take half its time.
    """
    image: Any = nib.Nifti1Image(data, affine)
    image.set_sform(affine, code=1)
    image.set_qform(affine, code=1)
    image.header.set_xyzt_units("mm", "sec")
    if data.dtype.kind == "f":
        image.header.set_slope_inter(1.0, 0.0)
    with whole_file(path) as temporary:
        if Path(path).name.endswith(".gz"):
            with open(temporary, "wb") as raw, gzip.GzipFile("", "wb", 1, raw, mtime=0) as file:
                file.compress = zlib.compressobj(1, zlib.DEFLATED, -15, strategy=zlib.Z_RLE)
                image.file_map["image"].fileobj = file
                image.to_file_map()
        else:
            nib.save(image, temporary)

"""NIfTI images: read with their faults named, written whole."""

from __future__ import annotations

import gzip
import os
import zlib
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import DTypeLike, NDArray

from axoloci.errors import InputError
from axoloci.io.files import whole_file


def read_nifti(
    path: str | os.PathLike[str], ndim: int, dtype: DTypeLike = np.float32
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
    except (nib.filebasedimages.ImageFileError, OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path}: cannot be read as a NIfTI image: {error}") from error
    if len(shape) != ndim or 0 in shape:
        raise InputError(f"{path}: expected a {ndim}D image, found shape {shape}")
    try:
        data = _voxels(Path(path), image, dtype)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise InputError(
            f"{path}: the image data cannot be read, the file may be truncated or damaged: {error}"
        ) from error
    affine = np.asarray(image.affine, dtype=np.float64)
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-6:
        raise InputError(f"{path}: the affine is singular or not finite:\n{affine}")
    if np.issubdtype(data.dtype, np.floating) and not np.isfinite(data).all():
        n_bad = int((~np.isfinite(data)).sum())
        raise InputError(f"{path}: {n_bad} values are NaN or infinite; replace or mask them first")
    return data, affine


def _voxels(path: Path, image: Any, dtype: DTypeLike) -> NDArray[Any]:
    """An image's data; of a compressed file all is read, for its checksum is at the end."""
    if path.suffix != ".gz":
        return np.asarray(image.dataobj, dtype=dtype)
    with gzip.open(path) as file:
        data = np.asarray(type(image).from_stream(file).dataobj, dtype=dtype)
        while file.read(2**20):
            pass
    return data


def same_grid(
    path: str | os.PathLike[str],
    shape: tuple[int, ...],
    affine: NDArray[np.float64],
    reference: str | os.PathLike[str],
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

    Returns
    -------
    data
        (x, y, z).

    Raises
    ------
    InputError
        As `read_nifti`; or another shape, or an affine that differs by more than 0.001.
    """
    data, own = read_nifti(path, ndim=3)
    if data.shape != tuple(shape):
        raise InputError(
            f"{path}: grid {data.shape}, but {reference} has {tuple(shape)};"
            " resample it to that grid"
        )
    if not np.allclose(own, affine, atol=1e-3):
        corners = np.array(list(np.ndindex(2, 2, 2))) * (np.array(shape) - 1)  # (8, 3) voxels
        gap = corners @ (own - affine)[:3, :3].T + (own - affine)[:3, 3]
        raise InputError(
            f"{path}: its affine puts voxels up to {np.linalg.norm(gap, axis=1).max():.3g} mm away"
            f" from those of {reference}; resample it to that grid"
        )
    return data


def write_nifti(
    path: str | os.PathLike[str], data: NDArray[Any], affine: NDArray[np.float64]
) -> None:
    """Write an image as `data`'s own type, `affine` in sform and qform, whole or not at all.

    Compression level 1: written once and read once, a file is not worth the time of level 9.
    """
    image: Any = nib.Nifti1Image(data, affine)
    image.set_sform(affine, code=1)
    image.set_qform(affine, code=1)
    image.header.set_xyzt_units("mm", "sec")
    if data.dtype.kind == "f":
        image.header.set_slope_inter(1.0, 0.0)
    with whole_file(path) as temporary:
        if Path(path).name.endswith(".gz"):
            with nib.openers.Opener(str(temporary), "wb", compresslevel=1) as file:
                image.file_map["image"].fileobj = file
                image.to_file_map()
        else:
            nib.save(image, temporary)

"""One scan as it lies in its files, and everything that is wrong with it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from axoloci.errors import InputError
from axoloci.io.gradients import clean_gradients, gradient_problems, read_gradients
from axoloci.io.nifti import read_nifti, same_grid
from axoloci.tasks.preprocess import check


@dataclass(frozen=True)
class Scan:
    """One scan without faults.

    Attributes
    ----------
    dwi
        [float32, shape: (x, y, z, g)] Signal.
    bval
        [float64, shape: (g,)] s/mm².
    bvec
        [float64, shape: (g, 3)] FSL's directions, unit vectors or 0 0 0.
    affine
        [float64, shape: (4, 4)] Voxel to world, mm.
    mask
        [bool, shape: (x, y, z)] The brain, where a mask was given.
    """

    dwi: NDArray[np.float32]
    bval: NDArray[np.float64]
    bvec: NDArray[np.float64]
    affine: NDArray[np.float64]
    mask: NDArray[np.bool_] | None = None


def read_scan(
    dwi: Path, bval: Path, bvec: Path, mask: Path | None = None
) -> tuple[Scan | None, list[str]]:
    """Read a scan and find everything that is wrong with it.

    Parameters
    ----------
    dwi
        4D NIfTI image.
    bval, bvec
        FSL's gradient table.
    mask
        3D image on the grid of `dwi`.

    Returns
    -------
    (scan, problems)
        No scan if there are problems, one sentence each.
    """
    problems = []
    data, affine, brain = None, None, None
    bvals, bvecs = None, None
    try:
        data, affine = read_nifti(dwi, ndim=4)
        problems += check.image_problems(data)
    except InputError as error:
        problems.append(str(error).removeprefix(f"{dwi}: "))
    try:
        bvals, bvecs = read_gradients(bval, bvec)
        problems += gradient_problems(bvals, bvecs, None if data is None else data.shape[3])
    except InputError as error:
        problems.append(str(error))
    if mask is not None:
        try:
            if data is None or affine is None:
                brain, _ = read_nifti(mask, ndim=3)
            else:
                brain = same_grid(mask, data.shape[:3], affine, dwi)
            if not (brain > 0).any():
                problems.append(f"the mask {mask} is empty")
        except InputError as error:
            problems.append(str(error))
    if problems or data is None or affine is None or bvals is None or bvecs is None:
        return None, problems
    bvals, bvecs = clean_gradients(bvals, bvecs)
    return Scan(data, bvals, bvecs, affine, None if brain is None else brain > 0), problems

"""Acquisitions of one person beside each other: likeness of FA, angles between main directions."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from axoloci import registration
from axoloci.io.gradients import B0_THRESHOLD, bvec_to_world, clean_gradients, read_gradients
from axoloci.io.nifti import read_nifti
from axoloci.tasks.dti import kernel

Matrix = NDArray[np.float64]
Volume = NDArray[np.float32]

CANON = (
    *("3000_DTI_PA-ortho", "4000_DTI_AP-ortho", "8000_DTI_PA-ALL_20d"),
    *("9000_SAG_DTI_PA-ortho", "14000_DTI_PA-ortho-HT"),
)
UIH = ("6_dti_tra_dir16_PA_SaveBySlc", "9_dti_tra_dir16_AP_SaveBySlc")
"""Each scanner's scans of one person; the first two have reverse phase encoding.

The third scan of the UIH, series 12, seems to be of another: it was acquired before series 6 and 9,
and its ventricles are larger.
"""

HIGH_FA = 0.4
TURNS = (-20.0, 0.0, 20.0)
"""Degrees about each axis from which the coarse registration starts."""


@dataclass(frozen=True)
class Fitted:
    """A scan's b0, FA and brain (x, y, z), and its main directions in the world (x, y, z, 3)."""

    b0: Volume
    fa: Volume
    direction: Volume
    brain: NDArray[np.bool_]
    affine: Matrix

    @property
    def mean_fa(self) -> float:
        """Of the brain."""
        return float(self.fa[self.brain].mean())

    @property
    def centre(self) -> Matrix:
        """Of the brain, (3,) mm in the world."""
        middle = np.argwhere(self.brain).mean(axis=0)
        return np.asarray(self.affine[:3, :3] @ middle + self.affine[:3, 3])


def fit(stem: object, brain: str | Path, fwhm: float = 0.0, method: str = kernel.METHOD) -> Fitted:
    """Fit the tensor as `axoloci-dti fit` does, which writes no directions.

    Parameters
    ----------
    stem
        The scan's three files without their extensions.
    brain
        Mask on its grid.
    fwhm
        Full width at half maximum (mm) of a Gaussian that blurs the volumes before.
    method
        One of `kernel.METHODS`.
    """
    dwi, affine = read_nifti(f"{stem}.nii.gz", 4)
    if fwhm > 0:
        sigma = fwhm / 2.3548 / np.linalg.norm(affine[:3, :3], axis=0)
        dwi = ndimage.gaussian_filter(dwi, (*sigma, 0))
    bval, bvec = clean_gradients(*read_gradients(f"{stem}.bval", f"{stem}.bvec"))
    b0 = np.ascontiguousarray(dwi[..., bval <= B0_THRESHOLD].mean(axis=-1))
    inside = read_nifti(brain, 3)[0] > 0
    near = ndimage.binary_dilation(inside, iterations=3) & (b0 > 0)  # what interpolation reaches
    maps = kernel.fit_tensor(dwi, bval, bvec_to_world(bvec, affine), near, method)
    return Fitted(b0, maps.fa, maps.evec, inside, affine)


def register(fixed: Fitted, moving: Fitted) -> Matrix:
    """Rigid matrix (4, 4) from the fixed world to the moving one by FA in the brain, mm."""

    def align(spacing: float, fwhm: float, start: Matrix) -> registration.Alignment:
        (a, a_affine), (b, b_affine) = (
            registration.downsample(np.where(x.brain, x.fa, np.float32(0)), x.affine, spacing, fwhm)
            for x in (fixed, moving)
        )
        inside, _ = registration.downsample(
            fixed.brain.astype(np.float32), fixed.affine, spacing, fwhm
        )
        return registration.align(a, b, a_affine, b_affine, inside > 0.1, start)

    turns = {tuple(turn * (np.arange(3) == axis)) for axis in range(3) for turn in TURNS}
    starts = [
        registration.about(
            registration.rotation_matrix(np.deg2rad(turn)),
            moving.centre - fixed.centre,
            fixed.centre,
        )
        for turn in sorted(turns)
    ]
    coarse = max((align(8, 8, start) for start in starts), key=lambda one: one.similarity)
    return align(0, 3, align(4, 5, coarse.matrix).matrix).matrix


def common_brain(fixed: Fitted, moving: Fitted, matrix: Matrix) -> NDArray[np.bool_]:
    """Voxels (x, y, z) of the fixed scan that are brain in both."""
    share = registration.resample(
        *(moving.brain.astype(np.float32), moving.affine, matrix),
        *(fixed.fa.shape, fixed.affine, 1),
    )
    return fixed.brain & (share > 0.5)


def compare(
    fixed: Fitted, moving: Fitted, matrix: Matrix, brain: NDArray[np.bool_]
) -> dict[str, float]:
    """How alike two scans are.

    Parameters
    ----------
    fixed, moving
        The scans.
    matrix
        (4, 4) rigid, from the fixed world to the moving one, mm.
    brain
        (x, y, z) voxels of the fixed scan that are looked at.

    Returns
    -------
    `correlation` of FA; `median` and `95%` of the angles (degrees) between the main directions
    where both FA are above `HIGH_FA`; the number of these `voxels`.
    """
    grid = fixed.fa.shape
    fa = registration.resample(moving.fa, moving.affine, matrix, grid, fixed.affine, 1)
    voxel = np.linalg.inv(moving.affine) @ matrix @ fixed.affine
    index = np.rint(np.moveaxis(np.indices(grid), 0, -1) @ voxel[:3, :3].T + voxel[:3, 3])
    index = np.clip(index.astype(int), 0, np.array(moving.fa.shape) - 1)
    direction = moving.direction[tuple(np.moveaxis(index, -1, 0))]  # nearest: they have no sign
    direction = direction @ registration.nearest_rotation(matrix)  # back to the fixed world
    high = brain & (fixed.fa > HIGH_FA) & (fa > HIGH_FA)
    cosine = abs((fixed.direction[high] * direction[high]).sum(axis=-1))
    angle = np.degrees(np.arccos(np.minimum(cosine, 1)))
    return {
        "correlation": float(np.corrcoef(fixed.fa[brain], fa[brain])[0, 1]),
        "median": float(np.median(angle)),
        "95%": float(np.percentile(angle, 95)),
        "voxels": int(high.sum()),
    }


def b0_likeness(fixed: Fitted, moving: Fitted, matrix: Matrix, brain: NDArray[np.bool_]) -> float:
    """Correlation of the b0s in a brain (x, y, z), rigidly registered from `matrix` on."""
    affines = fixed.affine, moving.affine
    found = registration.align(fixed.b0, moving.b0, *affines, brain, matrix).matrix
    b0 = registration.resample(moving.b0, moving.affine, found, fixed.b0.shape, fixed.affine, 1)
    return float(np.corrcoef(fixed.b0[brain], b0[brain])[0, 1])

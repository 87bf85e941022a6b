"""Hemispheric asymmetry of white matter: how the mean FA of the two sides differs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

THRESHOLD = 0.2
"""FA below which a voxel is hardly white matter."""


@dataclass(frozen=True)
class Asymmetry:
    """White matter of the two sides.

    Attributes
    ----------
    left, right
        Mean FA above the threshold.
    n_left, n_right
        Voxels above the threshold.
    """

    left: float
    right: float
    n_left: int
    n_right: int

    @property
    def index(self) -> float:
        """(L − R) / (L + R), −1 to 1: above 0 where the left side has the higher FA."""
        return (self.left - self.right) / (self.left + self.right)


def sides(
    shape: tuple[int, ...], affine: NDArray[np.float64]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Voxels on the left and on the right of the plane x = 0 of the world.

    Parameters
    ----------
    shape
        (x, y, z) voxels.
    affine
        (4, 4) voxel to world, mm; x grows to the right, as in NIfTI's spaces.

    Returns
    -------
    (left, right)
        (x, y, z); a voxel whose centre is on the plane is on neither side.
    """
    i, j, k = np.indices(shape, sparse=True)
    x = affine[0, 0] * i + affine[0, 1] * j + affine[0, 2] * k + affine[0, 3]  # (x, y, z) mm
    return x < -1e-6, x > 1e-6


def measure_asymmetry(
    fa: NDArray[np.float32], affine: NDArray[np.float64], threshold: float = THRESHOLD
) -> Asymmetry:
    """Mean FA of the white matter of each side.

    Parameters
    ----------
    fa
        (x, y, z) finite, 0 to 1, in a space whose plane x = 0 parts the hemispheres.
    affine
        (4, 4) voxel to world, mm.
    threshold
        FA above which a voxel counts as white matter.

    Raises
    ------
    ValueError
        A side has no such voxel.
    """
    found = {}
    for name, side in zip(("left", "right"), sides(fa.shape, affine), strict=True):
        white_matter = fa[side & (fa > threshold)]  # (n,)
        if not white_matter.size:
            raise ValueError(f"no voxel of the {name} side is above {threshold:g}")
        found[name] = (float(white_matter.mean(dtype=np.float64)), int(white_matter.size))
    (left, n_left), (right, n_right) = found["left"], found["right"]
    return Asymmetry(left, right, n_left, n_right)

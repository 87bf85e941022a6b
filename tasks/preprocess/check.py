"""Faults of one diffusion-weighted scan that its voxels tell."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def image_problems(dwi: NDArray[np.float32]) -> list[str]:
    """What keeps the volumes of a scan from being used.

    Parameters
    ----------
    dwi
        (x, y, z, g) finite signal.

    Returns
    -------
    problems
        One sentence each; volumes are counted from 0.
    """
    problems = []
    if min(dwi.shape[:3]) < 5:
        problems.append(
            f"the volumes have {dwi.shape[:3]} voxels; at least 5 along each axis are needed"
        )
    low, high = dwi.min(axis=(0, 1, 2)), dwi.max(axis=(0, 1, 2))  # (g,)
    if (flat := np.flatnonzero(low == high)).size:
        problems.append(
            f"volume{'s' * (flat.size > 1)} {', '.join(map(str, flat[:10]))}"
            f"{f' and {flat.size - 10} more' if flat.size > 10 else ''}: all voxels have the same"
            " value; drop them from the image, the bval and the bvec file"
        )
    return problems

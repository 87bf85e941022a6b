"""The computation of the step STEP_NAME: arrays in, numbers out; no files."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

THRESHOLD = 0.2
"""FA below which a voxel is hardly white matter."""


def mean_above(fa: NDArray[np.float32], threshold: float = THRESHOLD) -> tuple[float, int]:
    """Mean of an FA map where it is above a threshold.

    Parameters
    ----------
    fa
        (x, y, z) finite, 0 to 1; above the threshold somewhere.
    threshold
        FA.

    Returns
    -------
    (mean, n_voxels)
        Mean FA of the voxels above the threshold, and their number.
    """
    inside = fa[fa > threshold]  # (n,)
    assert inside.size, "no voxel is above the threshold"
    return float(inside.mean(dtype=np.float64)), int(inside.size)

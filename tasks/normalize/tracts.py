"""Mean FA of the labels of an atlas."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

MIN_SHARE = 0.5
"""Share of a label that a map must cover for the label to have a mean."""


def labels_at(
    atlas: NDArray[np.int32], affine: NDArray[np.float64], world: NDArray[np.floating]
) -> NDArray[np.int32]:
    """Label of the nearest voxel of an atlas at each place, 0 outside it.

    Parameters
    ----------
    atlas
        (x', y', z') labels, 0 for none.
    affine
        (4, 4) voxel to world, mm.
    world
        (x, y, z, 3) in the atlas's space, mm.
    """
    to_voxel = np.linalg.inv(affine)
    voxel = np.moveaxis(world @ to_voxel[:3, :3].T + to_voxel[:3, 3], -1, 0)
    found: NDArray[np.int32] = ndimage.map_coordinates(
        atlas, voxel, np.int32, order=0, mode="constant"
    )
    return found


def label_means(
    fa: NDArray[np.float32],
    labels: NDArray[np.int32],
    numbers: NDArray[np.int32],
    weight: NDArray[np.float32],
) -> NDArray[np.float64]:
    """Weighted mean FA (n,) of each label over the voxels that a map has.

    Parameters
    ----------
    fa, labels, weight
        (x, y, z) each; FA is 0 where the scan has nothing.
    numbers
        (n,) the labels that are wanted; NaN where the map has less than `MIN_SHARE` of their
        weight.
    """
    inside = labels > 0
    label, value, w = labels[inside], fa[inside], weight[inside].astype(np.float64)
    size = int(max(label.max(initial=0), numbers.max())) + 1
    whole = np.bincount(label, w, size)[numbers]
    covered = np.bincount(label, w * (value > 0), size)[numbers]
    total = np.bincount(label, w * value, size)[numbers]
    mean = np.full(len(numbers), np.nan)
    known = (covered > MIN_SHARE * whole) & (covered > 0)
    mean[known] = total[known] / covered[known]
    return mean

"""Mean FA of the labels of an atlas."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

MIN_SHARE = 0.5
"""Share of a label that a map must cover for the label to have a mean."""


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

"""Projection of FA onto a skeleton, after TBSS (doi:10.1016/j.neuroimage.2006.02.024).

The skeleton runs through the middle of the tracts of the mean FA. To each of its voxels comes a
person's highest FA along the line across the tract: who is a little off there is still compared in
the middle. The paper's other search below the corpus callosum, for the cingulum, is left out.
"""

from __future__ import annotations

from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

THRESHOLD = 0.2
"""Mean FA below which the skeleton ends: grey matter and thin tracts that people do not share."""

OFF_CENTRE = 0.1
"""Distance (voxels) of the centre of gravity of FA from a voxel, from which on it points across the
tract; nearer, the curvature of FA does."""

SEARCH_FWHM_MM = 20.0
"""Width of the weight that favours near maxima, as in the paper."""

MAX_SEARCH_MM = 10.0
"""Farthest place of a maximum."""

# One of each pair of opposite neighbours: (13, 3) voxels.
_AXES = np.array(
    [step for step in product((-1, 0, 1), repeat=3) if step > (0, 0, 0)], dtype=np.intp
)


def _shifted(image: NDArray[np.float32], step: NDArray[np.intp]) -> NDArray[np.float32]:
    """Image (x, y, z) of which each voxel shows its neighbour at `step` (3,); 0 beyond the edge."""
    padded = np.pad(image, 1)
    box = tuple(slice(1 + s, 1 + s + n) for s, n in zip(step, image.shape, strict=True))
    return padded[box]


def across(mean: NDArray[np.float32], voxel: NDArray[np.float64]) -> NDArray[np.int8]:
    """Which way leads across the tract: an index into 13 axes for each voxel (x, y, z).

    Where the centre of gravity of the neighbourhood lies off the voxel, the way leads there; on the
    ridge of a tract, along the steepest fall of FA to both sides. The commonest way of the 27
    neighbours, weighted by FA, is taken.

    Parameters
    ----------
    mean
        (x, y, z) mean FA.
    voxel
        (3,) size, mm.
    """
    length = np.linalg.norm(_AXES * voxel, axis=1)  # (13,) mm
    unit = _AXES * voxel / length[:, None]  # (13, 3)
    mass = ndimage.uniform_filter(mean, 3, mode="constant") * 27
    centre = np.zeros((*mean.shape, 3), dtype=np.float32)  # mm off the voxel
    fall = np.zeros((*mean.shape, len(_AXES)), dtype=np.float32)
    for k, step in enumerate(_AXES):
        ahead, behind = _shifted(mean, step), _shifted(mean, -step)
        centre += (ahead - behind)[..., None] * (step * voxel).astype(np.float32)
        fall[..., k] = (2 * mean - ahead - behind) / length[k] ** 2
    centre /= np.maximum(mass, 1e-6)[..., None]
    toward = np.abs(centre @ unit.T.astype(np.float32)).argmax(axis=-1)
    off = np.linalg.norm(centre, axis=-1) > OFF_CENTRE * voxel.min()
    axis = np.where(off, toward, fall.argmax(axis=-1))
    votes = [ndimage.uniform_filter(mean * (axis == k), 3, mode="constant") for k in range(13)]
    return np.asarray(np.argmax(votes, axis=0), dtype=np.int8)


def skeletonize(
    mean: NDArray[np.float32], axis: NDArray[np.int8], threshold: float = THRESHOLD
) -> NDArray[np.bool_]:
    """Voxels (x, y, z) whose mean FA is above both neighbours across the tract, and a threshold."""
    ridge = np.zeros(mean.shape, dtype=bool)
    for k, step in enumerate(_AXES):
        # of two equal neighbours one stays
        highest = (mean > _shifted(mean, step)) & (mean >= _shifted(mean, -step))
        ridge |= (axis == k) & highest
    return ridge & (mean > threshold)


def search_lines(
    skeleton: NDArray[np.bool_], axis: NDArray[np.int8], voxel: NDArray[np.float64]
) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """Where each voxel of the skeleton looks for its maximum, to both sides across the tract.

    A line ends where it leaves the grid, where it comes nearer to another part of the skeleton
    (the distance to the skeleton no longer grows), or after `MAX_SEARCH_MM`.

    Parameters
    ----------
    skeleton, axis
        (x, y, z) each.
    voxel
        (3,) size, mm.

    Returns
    -------
    (index, weight)
        (n, m) flat index of each place, beginning with the voxel itself; (n, m) weight by distance,
        0 for places that are not searched.
    """
    distance = ndimage.distance_transform_edt(~skeleton, voxel).astype(np.float32)
    start = np.argwhere(skeleton)  # (n, 3)
    step = _AXES[axis[skeleton].astype(np.intp)]  # (n, 3)
    stride = np.linalg.norm(step * voxel, axis=1)  # (n,) mm
    sigma = SEARCH_FWHM_MM / 2.3548
    n_steps = int(MAX_SEARCH_MM / voxel.min())
    index = np.repeat(np.flatnonzero(skeleton)[:, None], 2 * n_steps + 1, axis=1)
    weight = np.zeros(index.shape, dtype=np.float32)
    weight[:, 0] = 1
    column = 1
    for sign in (-1, 1):
        going, last = np.ones(len(start), dtype=bool), np.zeros(len(start), dtype=np.float32)
        for k in range(1, n_steps + 1):
            place = start + sign * k * step
            inside = ((place >= 0) & (place < skeleton.shape)).all(axis=1)
            flat = np.ravel_multi_index(tuple(place.T), skeleton.shape, mode="clip")
            here = distance.ravel()[flat]
            going &= inside & (here > last) & (k * stride <= MAX_SEARCH_MM)
            index[going, column] = flat[going]
            weight[going, column] = np.exp(-0.5 * (k * stride[going] / sigma) ** 2)
            last, column = here, column + 1
    return index, weight


def project(
    fa: NDArray[np.float32],
    skeleton: NDArray[np.bool_],
    lines: tuple[NDArray[np.intp], NDArray[np.float32]],
) -> NDArray[np.float32]:
    """A person's FA on the skeleton (x, y, z), 0 elsewhere.

    Parameters
    ----------
    fa
        (x, y, z) in the template's space.
    skeleton
        (x, y, z).
    lines
        From `search_lines`. The place of the highest weighted FA gives its FA as it is.
    """
    index, weight = lines
    values = fa.ravel()[index]  # (n, m)
    best = (values * weight).argmax(axis=1)
    projected = np.zeros_like(fa)
    projected[skeleton] = values[np.arange(len(values)), best]
    return projected

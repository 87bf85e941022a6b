"""Slices that lost signal, because the head moved while they were weighted: found and replaced.

A slice is compared with what the other volumes of its shell predict for it, where it was taken
(doi:10.1016/j.neuroimage.2016.06.058).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from axoloci import registration
from axoloci.tasks.preprocess.prediction import MIN_VOLUMES, prediction_weights

OUTLIER_Z = -4.0
"""Standard score below which a slice has lost signal."""

MIN_LOSS = 0.05
"""Share of its signal that such a slice lacks at least: in a clean scan 4 SD are nothing."""

CERTAIN_LOSS = 0.5
"""Share of its signal that no sound slice lacks, whatever the spread: many lost slices spoil the
predictions of others, and widen it."""

IN_PLANE_MM = 4.0
"""Voxel spacing and smoothing within slices, for the comparison."""

MIN_AREA = 0.1
"""Share of the largest slice's brain area below which a slice has too little to compare."""

NEAR_SLICES = 2
"""A volume gives nothing to slices that lie this near to one that it lost itself."""


def slice_scores(
    dwi: NDArray[np.float32],
    affine: NDArray[np.float64],
    mask: NDArray[np.bool_],
    matrices: NDArray[np.float64],
    bvec: NDArray[np.float64],
    shell: NDArray[np.intp],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """How far the mean signal of each slice lies from its prediction.

    Slices are planes of the third axis, as scanners store them.

    Parameters
    ----------
    dwi
        (x, y, z, g).
    affine
        (4, 4) voxel to world, mm.
    mask
        (x, y, z) brain in the common space of the volumes.
    matrices
        (g, 4, 4) common world to the world of each volume, mm.
    bvec
        (g, 3) unit vectors.
    shell
        (n,) volumes of one shell, n > 1.

    Returns
    -------
    (loss, score)
        (z, n) relative difference to the prediction, less than 0 where signal is missing; the same
        in standard deviations of the slice's own over the volumes. NaN where there is no brain.
    """
    spacing = np.array([IN_PLANE_MM, IN_PLANE_MM, 0.0])

    def small(image: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
        return registration.downsample(image, affine, spacing, spacing)

    inside, grid = small(mask.astype(np.float32))
    shape = inside.shape
    volumes = [small(dwi[..., v])[0] for v in shell]
    aligned = np.stack(
        [
            registration.resample(volume, grid, matrices[v], shape, grid, order=1)
            for volume, v in zip(volumes, shell, strict=True)
        ]
    )  # (n, x', y', z)
    predicted = np.tensordot(prediction_weights(bvec[shell]), aligned, 1).astype(np.float32)
    loss = np.empty((shape[2], len(shell)))
    area = np.empty_like(loss)
    for i, v in enumerate(shell):
        back = np.linalg.inv(matrices[v])
        expected = registration.resample(predicted[i], grid, back, shape, grid, order=1)
        brain = registration.resample(inside, grid, back, shape, grid, order=1) > 0.5
        wanted = (expected * brain).sum(axis=(0, 1))  # (z,)
        found = (volumes[i] * brain).sum(axis=(0, 1))
        area[:, i] = brain.sum(axis=(0, 1))
        loss[:, i] = np.divide(found - wanted, wanted, out=np.zeros(len(wanted)), where=wanted > 0)
    loss[area < MIN_AREA * area.max()] = np.nan
    with np.errstate(invalid="ignore"):
        centre = _median(loss)
        spread = 1.4826 * _median(abs(loss - centre))  # (z, 1)
        typical = np.sqrt(np.nanmean(spread**2))
        # a few volumes tell a slice's own spread badly: half of it is that of all slices
        score = (loss - centre) / np.sqrt((spread**2 + typical**2) / 2 + 1e-12)
    return loss, score


def _median(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Median of each row (z, 1) over what is a number; NaN of a row that has none."""
    known = ~np.isnan(values).all(axis=1)
    median = np.full((len(values), 1), np.nan)
    median[known, 0] = np.nanmedian(values[known], axis=1)
    return median


def is_outlier(loss: NDArray[np.float64], score: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which slices (z, n) have lost signal."""
    return np.asarray((score <= OUTLIER_Z) & (loss <= -MIN_LOSS) | (loss <= -CERTAIN_LOSS))


def replace_slices(
    dwi: NDArray[np.float32],
    affine: NDArray[np.float64],
    matrices: NDArray[np.float64],
    bvec: NDArray[np.float64],
    shell: NDArray[np.intp],
    lost: NDArray[np.bool_],
) -> None:
    """Put predictions in place of lost slices, where these were taken.

    Parameters
    ----------
    dwi
        (x, y, z, g); changed in place.
    affine, matrices, bvec, shell
        As in `slice_scores`.
    lost
        (z, n) slices to be replaced.
    """
    shape = dwi.shape[:3]
    near = ndimage.maximum_filter1d(lost, 2 * NEAR_SLICES + 1, axis=0)  # (z, n)
    plane = np.indices(shape[:2]).reshape(2, -1)  # (2, x y)
    to_voxel = np.linalg.inv(affine)
    for k, i in np.argwhere(lost):
        voxels = np.vstack([plane, np.full((1, plane.shape[1]), k), np.ones((1, plane.shape[1]))])
        common = np.linalg.inv(matrices[shell[i]]) @ affine @ voxels  # (4, x y) mm
        givers = ~near[k]
        givers[i] = False
        if np.count_nonzero(givers) < MIN_VOLUMES - 1:
            givers = ~lost[k]  # of many lost slices, what is left
            givers[i] = False
        chosen = np.concatenate([shell[[i]], shell[givers]])
        weights = prediction_weights(bvec[chosen])[0, 1:]
        slab = np.zeros(plane.shape[1], dtype=np.float32)
        for v, weight in zip(chosen[1:], weights, strict=True):
            place = (to_voxel @ matrices[v] @ common)[:3]
            slab += np.float32(weight) * ndimage.map_coordinates(
                dwi[..., v], place, np.float32, order=1, mode="nearest"
            )
        dwi[:, :, k, shell[i]] = np.maximum(slab, 0).reshape(shape[:2])

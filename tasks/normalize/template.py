"""A cohort's own template: the mean of its people's maps in the mean of their shapes.

Maps are averaged in the space that lies in the middle of all people (doi:10.1006/cviu.1999.0815,
doi:10.1016/j.neuroimage.2009.09.062): the mean of the stretches is taken off the affines, the mean
displacement off the deformations.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import linalg, ndimage

from axoloci.registration import about

TRIM = 0.1
"""Share of the lowest and of the highest values of a voxel that its mean leaves out: a lesion or a
slice of one person is none of the cohort's."""

MIN_COVERAGE = 0.5
"""Share of the people who must have a voxel for the template to have it."""


def without_mean_stretch(
    affines: Sequence[NDArray[np.float64]], centre: NDArray[np.float64]
) -> list[NDArray[np.float64]]:
    """Affines from a space in which the people's size and shape are, on average, their own.

    Turns and shifts of single people are not averaged: how they lay in the scanner is no shape.

    Parameters
    ----------
    affines
        (4, 4) each, from the old space's world to a person's, mm.
    centre
        (3,) point of the old space that keeps its place, mm.

    Returns
    -------
    affines
        (4, 4) each, from the new space's world. Its stretches multiply to 1, on average.
    """
    # A = R U with a rotation R and a stretch U; the mean of stretches is that of their logarithms
    logs = [linalg.logm(linalg.polar(affine[:3, :3])[1]).real for affine in affines]
    mean = linalg.expm(np.mean(logs, axis=0))
    to_old = about(np.linalg.inv(mean), np.zeros(3), centre)
    return [np.asarray(affine @ to_old) for affine in affines]


def inverse(displacement: NDArray[np.float32], affine: NDArray[np.float64]) -> NDArray[np.float32]:
    """Field v of y = x + u(x) <=> x = y + v(y), by fixed-point steps (doi:10.1118/1.2816107).

    Parameters
    ----------
    displacement
        (x, y, z, 3) u, mm, smooth: its derivative is below 1.
    affine
        (4, 4) voxel to world, mm.
    """
    inverted = np.zeros_like(displacement)
    for _ in range(20):
        inverted = -displaced(displacement, inverted, affine)
    return inverted


def displaced(
    field: NDArray[np.float32], displacement: NDArray[np.float32], affine: NDArray[np.float64]
) -> NDArray[np.float32]:
    """A field (x, y, z, 3) where a displacement (x, y, z, 3), mm, leads; linear, held at edges."""
    shift = np.moveaxis(displacement @ np.linalg.inv(affine[:3, :3]).T, -1, 0)
    where = np.indices(field.shape[:3], dtype=np.float32) + shift
    found = [
        ndimage.map_coordinates(field[..., k], where, np.float32, order=1, mode="nearest")
        for k in range(3)
    ]
    return np.stack(found, axis=-1)


def from_mean_shape(
    displacement: NDArray[np.float32],
    to_old: NDArray[np.float32],
    affine: NDArray[np.float64],
) -> NDArray[np.float32]:
    """A person's displacement (x, y, z, 3), mm, from a template that took the mean shape.

    Parameters
    ----------
    displacement
        (x, y, z, 3) from the template before, mm.
    to_old
        (x, y, z, 3) from the new template to the one before: the `inverse` of the people's mean
        displacement, mm. The results of all people have the mean 0.
    affine
        (4, 4) voxel to world of both, mm.
    """
    return to_old + displaced(displacement, to_old, affine)


def average(maps: Sequence[NDArray[np.float32]]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Trimmed mean of maps, over the people who have a voxel, and their share.

    Parameters
    ----------
    maps
        (x, y, z) each, 0 where a scan has nothing; they may lie on disk (`numpy.memmap`): one plane
        of each is in memory at a time.

    Returns
    -------
    (mean, coverage)
        (x, y, z) each; the mean is 0 where fewer than `MIN_COVERAGE` have the voxel.
    """
    mean = np.zeros(maps[0].shape, dtype=np.float32)
    coverage = np.zeros_like(mean)
    for plane in range(len(mean)):
        values = np.stack([image[plane] for image in maps])  # (n, y, z)
        n = (values > 0).sum(axis=0)
        values = np.sort(values, axis=0)[::-1]  # those without the voxel come last
        trimmed = (TRIM * n).astype(int)
        rank = np.arange(len(maps))[:, None, None]
        kept = (rank >= trimmed) & (rank < n - trimmed)
        total = np.where(kept, values, 0).sum(axis=0, dtype=np.float64)
        trimmed_mean = total / np.maximum(n - 2 * trimmed, 1)
        coverage[plane] = n / len(maps)
        mean[plane] = np.where(coverage[plane] >= MIN_COVERAGE, trimmed_mean, 0)
    return mean, coverage


def sharpness(
    template: NDArray[np.float32], affine: NDArray[np.float64], mask: NDArray[np.bool_]
) -> float:
    """Mean squared gradient of a map (x, y, z) in a mask, 1/mm²: the more, the sharper."""
    slopes = np.stack(list(np.gradient(template, axis=(0, 1, 2))), axis=-1)
    gradient = slopes[mask] @ np.linalg.inv(affine[:3, :3])  # (n, 3)
    return float((gradient.astype(np.float64) ** 2).sum(axis=1).mean())

"""Pictures of one scan: its brain mask, and its maps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from axoloci.tasks.report import kernel
from axoloci.tasks.report.pictures import Slice, picture_grid, slice_size

PLANES = (("axial", 2), ("coronal", 1), ("sagittal", 0))
OUTLINE = "#ffb000"


def cropped(mask: NDArray[np.bool_], *volumes: NDArray[Any]) -> list[NDArray[Any]]:
    """Volumes cut to the box of a mask with some room, so that a brain fills its picture.

    Parameters
    ----------
    mask
        [bool, shape: (x, y, z)]
    volumes
        [shape: (x, y, z) or (x, y, z, colours)]
    """
    box = []
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        inside = np.flatnonzero(mask.any(axis=others))
        first, last = (inside[0], inside[-1]) if inside.size else (0, mask.shape[axis] - 1)
        room = 2 + (last - first) // 20
        box.append(slice(max(0, first - room), last + room + 1))
    return [volume[tuple(box)] for volume in volumes]


def outlined_brain(
    image: NDArray[Any], mask: NDArray[np.bool_], voxel: Sequence[float], label: str, n: int = 6
) -> Image.Image:
    """An image in three planes with the outline of a mask.

    Parameters
    ----------
    image
        [float, shape: (x, y, z)] Right, anterior, superior axes.
    mask
        [bool, shape: (x, y, z)]
    voxel
        Voxel size, mm.
    label, n
        What it is, and slices a plane.
    """
    inside = image[mask] if mask.any() else image.ravel()
    white = max(float(np.percentile(inside, 99)), 1e-6)
    rows = [
        [
            Slice(
                kernel.cut(image, axis, at),
                slice_size(mask.shape, voxel, axis),
                span=(0.0, white),
                outlines=((kernel.cut(mask, axis, at), OUTLINE),),
            )
            for at in kernel.through_brain(mask, axis, n)
        ]
        for _, axis in PLANES
    ]
    return picture_grid(rows, [f"{label}\n{plane}" for plane, _ in PLANES])


@dataclass(frozen=True)
class Map:
    """One row of a mosaic: values with the range that they span, or RGB."""

    label: str
    volume: NDArray[Any]  # (x, y, z) or (x, y, z, 3), right, anterior, superior axes
    span: tuple[float, float] = (0.0, 1.0)
    outlines: tuple[tuple[NDArray[np.bool_], str], ...] = ()  # (x, y, z) each


def mosaic(maps: Sequence[Map], mask: NDArray[np.bool_], voxel: Sequence[float]) -> Image.Image:
    """Maps of one grid in rows, cut to the brain: five axial slices, one coronal, one sagittal."""
    (brain,) = cropped(mask, mask)
    slices = kernel.choose_slices(brain)
    rows = []
    for one in maps:
        volume, *outlines = cropped(mask, one.volume, *(outline for outline, _ in one.outlines))
        lines = list(zip(outlines, (colour for _, colour in one.outlines), strict=True))
        rows.append(
            [
                Slice(
                    kernel.cut(volume, *at),
                    slice_size(brain.shape, voxel, at[0]),
                    span=one.span,
                    outlines=tuple((kernel.cut(line, *at), colour) for line, colour in lines),
                )
                for at in slices
            ]
        )
    return picture_grid(rows, [one.label for one in maps])

"""Pictures of what a latent means: its map in colours over the mean map."""

from __future__ import annotations

from collections.abc import Sequence

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

HEIGHT = 160  # pixels of a section
LABEL_WIDTH = 150
FAINT = 0.25  # share of the strongest value below which a voxel shows no colour
MORE, LESS = np.array([230, 60, 30]), np.array([40, 110, 230])


def overlays(
    mean: NDArray[np.float32],
    maps: Sequence[NDArray[np.float32]],
    labels: Sequence[str],
    affine: NDArray[np.float64],
    unit: str,
) -> Image.Image:
    """A row a map: a sagittal, a coronal and an axial section through its strongest voxel.

    Red is more and blue less of what the maps hold, as strong as the colour is: full colour is the
    strongest value, which is written beside, and below a quarter of it there is none. Left is left,
    as the letter L says.

    Parameters
    ----------
    mean
        [float32, shape: (x, y, z)] What is shown in grey, 0 outside the mask.
    maps
        [float32, shape: (x, y, z)] each.
    labels
        What is written beside each.
    affine
        [float64, shape: (4, 4)] Voxel to world, mm.
    unit
        Of the maps.
    """
    orientation = nib.orientations.io_orientation(affine)
    grey = nib.orientations.apply_orientation(mean, orientation)
    grey = grey / max(float(np.percentile(mean[mean != 0], 99.5)), 1e-12)
    voxel = np.linalg.norm(affine[:3, :3], axis=0)[np.argsort(orientation[:, 0])]
    rows = []
    for each, label in zip(maps, labels, strict=True):
        turned = nib.orientations.apply_orientation(each, orientation)
        strongest = max(float(np.abs(turned).max()), 1e-12)
        place = np.unravel_index(np.abs(turned).argmax(), turned.shape)
        peak = np.unravel_index(np.abs(each).argmax(), each.shape)
        where = nib.affines.apply_affine(affine, peak)  # (3,) mm
        at = ", ".join(f"{mm:.0f}" for mm in where)
        row = [_label(f"{label}\n{each[peak]:+.2g} {unit}\nat {at} mm\n(full colour)")]
        row += [
            _section(
                np.take(grey, place[axis], axis).T[::-1],
                np.take(turned, place[axis], axis).T[::-1] / strongest,
                np.delete(voxel, axis),
                "L" if axis else "",  # not in the sagittal one
            )
            for axis in range(3)
        ]
        rows.append(np.hstack(row))
    width = max(row.shape[1] for row in rows)
    padded = [np.pad(row, ((0, 0), (0, width - row.shape[1]), (0, 0))) for row in rows]
    return Image.fromarray(np.vstack(padded))


def _section(
    grey: NDArray[np.floating],
    colour: NDArray[np.floating],
    voxel: NDArray[np.float64],
    letter: str,
) -> NDArray[np.uint8]:
    """A section (height, width) in grey, with what is in colour (-1 to 1) over it.

    The letter stands at its left.
    """
    strength = np.clip((np.abs(colour) - FAINT) / (1 - FAINT), 0, 1)[..., None]  # (h, w, 1)
    base = 255 * np.clip(grey, 0, 1)[..., None] * np.ones(3)  # (h, w, 3)
    hue = np.where(colour[..., None] > 0, MORE, LESS)
    shown = np.where(strength > 0, (1 - strength) * base * 0.6 + hue * (0.4 + 0.6 * strength), base)
    image = Image.fromarray(shown.clip(0, 255).astype(np.uint8))
    width = round(HEIGHT * grey.shape[1] * voxel[0] / (grey.shape[0] * voxel[1]))
    image = image.resize((width, HEIGHT), Image.Resampling.NEAREST)
    ImageDraw.Draw(image).text((3, HEIGHT // 2 - 6), letter, fill="white")
    return np.asarray(image)


def _label(label: str) -> NDArray[np.uint8]:
    """What a row is, in white on black."""
    image = Image.new("RGB", (LABEL_WIDTH, HEIGHT))
    ImageDraw.Draw(image).multiline_text((8, HEIGHT // 2 - 20), label, fill="white")
    return np.asarray(image)

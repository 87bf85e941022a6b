"""Faults of the image of one diffusion-weighted scan, whatever its gradients."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from axoloci.io.gradients import name_volumes
from axoloci.io.nifti import Header

BYTES_AT_LEAST = 3e8
"""Memory that the step takes whatever the scan: libraries, and maps of one volume."""

BYTES_PER_VALUE = 12
"""Memory of the step for each voxel of each volume, of which 4 are the scan itself."""

MIN_TRANSFORMED = 32
"""Voxels along an axis below which its k-space tells too little."""

MAX_EMPTY = 0.01
"""Power of the outer k-space over that further in, below which nothing was acquired there: 0.05 and
more in real scans, 0.002 and less in those that scanners filled with zeros."""

MIN_VOXELS = 5
"""Along each axis."""

MAX_NEGATIVE = 0.05
"""Share of all signal that may be negative: interpolation undershoots, a magnitude does not."""

MAX_CLIPPED = 0.005
"""Share of a volume's voxels that may have the scan's largest value."""

MAX_SHEAR = 0.02
"""Cosine of the angle between two axes of an image; an affine that is rounded has less."""


def memory_needed(shape: tuple[int, ...]) -> int:
    """Bytes that the step takes at its peak for a scan of this shape (x, y, z, g)."""
    return int(BYTES_AT_LEAST + BYTES_PER_VALUE * math.prod(shape))


def affine_problems(affine: NDArray[np.float64]) -> list[str]:
    """What keeps an affine (4, 4) from giving gradients a direction in the image."""
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    cosine = abs(axes.T @ axes - np.eye(3)).max()
    if cosine <= MAX_SHEAR:
        return []
    return [
        "the affine is sheared: two axes of the image meet at"
        f" {math.degrees(math.acos(cosine)):.0f}° instead of 90°; give the scan as it was acquired,"
        " not resampled by an affine"
    ]


def image_problems(dwi: NDArray[np.float32], header: Header | None = None) -> list[str]:
    """What keeps the volumes of a scan from being used.

    Parameters
    ----------
    dwi
        (x, y, z, g) finite signal.
    header
        Of the file, if faults of what it stores are to be found.

    Returns
    -------
    problems
        One sentence each; volumes are counted from 0.
    """
    problems = []
    if min(dwi.shape[:3]) < MIN_VOXELS:
        problems.append(
            f"the volumes have {dwi.shape[:3]} voxels; at least {MIN_VOXELS} along each axis are"
            " needed"
        )
    low, high = dwi.min(axis=(0, 1, 2)), dwi.max(axis=(0, 1, 2))  # (g,)
    if (low == high).any():
        problems.append(
            f"{name_volumes(low == high)}: all voxels have the same value; drop them from the"
            " image, the bval and the bvec file"
        )
    if problems:
        return problems
    if header is not None and header.dtype == np.int16:
        half = abs(header.slope) * 2**14  # of what int16 reaches
        if low.min() < -half and high.max() > half:
            return [
                f"{np.count_nonzero(dwi < -half)} values from {low.min():g} beside others up to"
                f" {high.max():g}: values above 32767 were stored as int16 and became negative;"
                " convert the scan anew to uint16 or float32"
            ]
    signal = np.array([np.abs(volume).sum(dtype=np.float64) for volume in dwi.T])  # (g,)
    positive = np.array([volume.sum(dtype=np.float64) for volume in dwi.T])
    negative = (signal - positive) / 2 / signal
    if negative.max() > MAX_NEGATIVE:
        problems.append(
            f"{name_volumes(negative > MAX_NEGATIVE)}: negative values are"
            f" {100 * negative.max():.0f}% of the signal; give the magnitude, unscaled and without"
            " subtraction"
        )
    top = np.array([np.count_nonzero(volume == high.max()) for volume in dwi.T])
    clipped = top / dwi[..., 0].size
    if clipped.max() > MAX_CLIPPED:
        problems.append(
            f"{name_volumes(clipped > MAX_CLIPPED)}: {100 * clipped.max():.1f}% of the voxels have"
            f" the scan's largest value, {high.max():g}: the signal is clipped; convert or export"
            " the scan anew"
        )
    return problems


def interpolated_axes(b0: NDArray[np.float32]) -> list[int]:
    """In-plane axes along which a scanner has filled k-space up with zeros, to finer voxels.

    Noise reaches as far as k-space was acquired: beyond it, there is next to no power.

    Parameters
    ----------
    b0
        (x, y, z) as it was acquired.
    """
    quarter = b0.shape[2] // 4
    middle = b0[:, :, quarter : b0.shape[2] - quarter].astype(np.float64)
    found = []
    for axis in (0, 1):
        if b0.shape[axis] < MIN_TRANSFORMED:
            continue
        lines = np.moveaxis(middle, axis, -1) * np.hanning(b0.shape[axis])
        power = (abs(np.fft.rfft(lines)) ** 2).mean(axis=(0, 1))
        place = np.linspace(0, 1, len(power))  # 1 is the highest frequency
        inner = power[(place > 0.3) & (place <= 0.45)].mean()
        if inner > 0 and power[place > 0.8].mean() < MAX_EMPTY * inner:
            found.append(axis)
    return found

"""Whether an image of reverse phase encoding goes with a scan, by their headers and sidecars."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from axoloci.errors import InputError
from axoloci.io.gradients import B0_THRESHOLD
from axoloci.io.nifti import Header, read_header
from axoloci.io.sidecars import AXES, PhaseEncoding, read_phase_encoding

MAX_TURN_DEGREES = 10.0
"""Angle by which the axes of a reverse pair may differ: the head was not turned much in between."""

USUAL_READOUT_S = (0.005, 0.2)
"""Readout times (s) that scanners have; what lies beyond, up to `sidecars.READOUT_S`, is told."""

MAX_READOUT_RATIO = 2.0
"""Of the readout times of a pair: its images are made to have the same."""


@dataclass(frozen=True)
class Reverse:
    """What headers and sidecars tell of an image of reverse phase encoding.

    Attributes
    ----------
    header
        Of the image.
    own, other
        Phase encoding of the scan and of the image.
    voxel_mm
        Size along the phase encoding of the scan's voxels and of the image's, mm.
    """

    header: Header
    own: PhaseEncoding
    other: PhaseEncoding
    voxel_mm: tuple[float, float]

    @property
    def readout_ratio(self) -> float | None:
        """Displacement (mm) of the image's signal over that of the scan's by the same field.

        None where the readout time of one of them is not told.
        """
        return readout_ratio(self.own, self.other, self.voxel_mm)

    @property
    def odd_readout(self) -> str:
        """What is odd about the readout times; empty if nothing is, or they are not told."""
        times = [each.readout_time for each in (self.own, self.other) if each.readout_time]
        shortest, longest = USUAL_READOUT_S
        if len(times) == 2 and max(times) > MAX_READOUT_RATIO * min(times):
            what = "those of a pair are alike"
        elif any(not shortest <= time <= longest for time in times):
            what = f"usual are {shortest:g} to {longest:g} s"
        else:
            return ""
        told = " and ".join(f"{time:g} s" for time in times)
        return f"readout times of the scan and of its reverse b0, where told, are {told}; {what}"


def check_reverse(
    dwi: Path,
    affine: NDArray[np.float64],
    own: PhaseEncoding | None,
    path: Path,
    sidecar: Path | None,
) -> Reverse:
    """Find out whether an image goes with a scan as its reverse b0, its voxels left aside.

    Parameters
    ----------
    dwi
        File of the scan, for messages.
    affine
        [float64, shape: (4, 4)] Voxel to world of the scan, mm.
    own
        Phase encoding of the scan.
    path
        3D or 4D image that begins with a b0.
    sidecar
        JSON with its phase encoding; without it that is taken for the scan's, reversed.

    Raises
    ------
    InputError
        The image is the scan, is not whole or does not begin with a b0, the phase encoding of the
        scan is not told, or that of the image is not its reverse.
    """
    if path.resolve() == dwi.resolve():
        raise InputError(
            f"{path}: is the scan itself, not its reverse; give an image of the opposite phase"
            " encoding, or none"
        )
    if own is None:
        raise InputError(
            f"{path}: the axis of phase encoding of {dwi} is not told; give its sidecar (json) with"
            " PhaseEncodingDirection"
        )
    told = read_phase_encoding(sidecar) if sidecar is not None else None
    other = told or PhaseEncoding(own.axis, 0)
    header = read_header(path, 3, 4)
    angle = angle_between(affine, own, header.affine, other)
    if angle > MAX_TURN_DEGREES:
        raise InputError(
            f"{path}: its phase encoding runs at {angle:.0f}° to that of {dwi}, more than"
            f" {MAX_TURN_DEGREES:g}°: the two lie otherwise in the scanner, or have other axes;"
            " give an image that lies as the scan does, or none"
        )
    if not is_reverse(affine, own, header.affine, other):
        raise InputError(
            f"{sidecar or path}: its phase encoding ({told or AXES[other.axis]}) is not the reverse"
            f" of that of {dwi} ({own}); give an image of the opposite direction, or none"
        )
    bval = path.with_name(path.name.removesuffix(".gz").removesuffix(".nii") + ".bval")
    if len(header.shape) == 4 and bval.is_file() and not begins_with_b0(bval):
        raise InputError(
            f"{path}: its first volume is no b0 (b <= {B0_THRESHOLD:g} s/mm²) by {bval}; give an"
            " image that begins with a b0, or none"
        )
    size = (step_mm(affine, own.axis), step_mm(header.affine, other.axis))
    return Reverse(header, own, other, size)


def angle_between(
    affine: NDArray[np.float64],
    own: PhaseEncoding,
    other_affine: NDArray[np.float64],
    other: PhaseEncoding,
) -> float:
    """Degrees, 0 to 90, between the axes of two phase encodings in the world; see `is_reverse`."""
    return float(np.rad2deg(np.arccos(min(1.0, abs(_cosine(affine, own, other_affine, other))))))


def _cosine(
    affine: NDArray[np.float64],
    own: PhaseEncoding,
    other_affine: NDArray[np.float64],
    other: PhaseEncoding,
) -> float:
    """Of the angle between the two axes in the world, in the order of the voxels."""
    one, two = affine[:3, own.axis], other_affine[:3, other.axis]
    return float(one @ two) / (step_mm(affine, own.axis) * step_mm(other_affine, other.axis))


def is_reverse(
    affine: NDArray[np.float64],
    own: PhaseEncoding,
    other_affine: NDArray[np.float64],
    other: PhaseEncoding,
) -> bool:
    """Whether two phase encodings are opposite in the world, or of one axis if no sign is told.

    Parameters
    ----------
    affine, other_affine
        [float64, shape: (4, 4)] Voxel to world, mm.
    own, other
        The phase encodings, by the axes of the voxels.

    >>> turned = np.diag([1.0, -1, 1, 1])
    >>> is_reverse(np.eye(4), PhaseEncoding(1, 1), turned, PhaseEncoding(1, 1))
    True
    """
    pair = (affine, own, other_affine, other)
    return angle_between(*pair) <= MAX_TURN_DEGREES and own.sign * other.sign * _cosine(*pair) <= 0


def step_mm(affine: NDArray[np.float64], axis: int) -> float:
    """Size of a voxel along one of its axes, mm."""
    return float(np.linalg.norm(affine[:3, axis]))


def readout_ratio(
    own: PhaseEncoding | None, other: PhaseEncoding | None, voxel_mm: tuple[float, float]
) -> float | None:
    """As `Reverse` has it."""
    if own is None or other is None or not own.readout_time or not other.readout_time:
        return None
    return other.readout_time * voxel_mm[1] / (own.readout_time * voxel_mm[0])


def begins_with_b0(bval: Path) -> bool:
    """Whether the first b-value of a table is that of a b0; one that cannot be read tells none."""
    try:
        return float(bval.read_text().split()[0].replace(",", ".")) <= B0_THRESHOLD
    except (IndexError, OSError, ValueError):
        return False

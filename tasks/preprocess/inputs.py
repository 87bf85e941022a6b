"""One scan as it lies in its files, and everything that is wrong with it."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from axoloci import registration
from axoloci.errors import InputError
from axoloci.gradient_check import (
    Frame,
    Voxels,
    explained_variance,
    table_problems,
    voxels_inside,
)
from axoloci.io.gradients import (
    B0_THRESHOLD,
    TENSOR_BVAL,
    clean_gradients,
    count_directions,
    find_shells,
    gradient_mends,
    gradient_problems,
    read_gradients,
    select_volumes,
    tensor_condition,
)
from axoloci.io.nifti import Header, read_header, read_nifti, same_grid
from axoloci.io.reverse import Reverse, check_reverse
from axoloci.io.sidecars import AXES, PhaseEncoding, read_phase_encoding
from axoloci.memory import free_memory
from axoloci.tasks.preprocess import check
from axoloci.tasks.preprocess.chain import ReversePair

log = logging.getLogger("axoloci")

MIN_COVER = 0.95
"""Share of the head that a reverse b0 must show: what lies beyond its edge is not known."""


@dataclass(frozen=True)
class Scan:
    """One scan without faults.

    Attributes
    ----------
    dwi
        [float32, shape: (x, y, z, g)] Signal.
    bval
        [float64, shape: (g,)] s/mm².
    bvec
        [float64, shape: (g, 3)] FSL's directions, unit vectors or 0 0 0.
    affine
        [float64, shape: (4, 4)] Voxel to world, mm.
    mask
        [bool, shape: (x, y, z)] The brain, where a mask was given.
    phase_encoding
        Where a sidecar was given that tells it.
    """

    dwi: NDArray[np.float32]
    bval: NDArray[np.float64]
    bvec: NDArray[np.float64]
    affine: NDArray[np.float64]
    mask: NDArray[np.bool_] | None = None
    phase_encoding: PhaseEncoding | None = None

    @cached_property
    def voxels(self) -> Voxels:
        """The voxels that tell of the gradients."""
        shape, n_volumes = self.dwi.shape[:3], self.dwi.shape[3]
        signal = self.dwi.reshape(-1, n_volumes, order="F")
        return voxels_inside(signal, np.arange(len(signal)), shape, np.arange(n_volumes), self.mask)


@dataclass
class Found:
    """What could be read of a scan, and what is wrong with it.

    Attributes
    ----------
    header, dwi, bval, bvec, mask, phase_encoding
        As in `Scan`; None where they could not be read or were not given. The gradient table is as
        its files have it.
    problems
        One sentence each, with the file.
    """

    header: Header | None = None
    dwi: NDArray[np.float32] | None = None
    bval: NDArray[np.float64] | None = None
    bvec: NDArray[np.float64] | None = None
    mask: NDArray[np.bool_] | None = None
    phase_encoding: PhaseEncoding | None = None
    problems: list[str] = field(default_factory=list)

    @property
    def scan(self) -> Scan | None:
        """The scan, if nothing is wrong with it."""
        if self.problems or self.header is None or self.dwi is None:
            return None
        if self.bval is None or self.bvec is None:
            return None
        bval, bvec = clean_gradients(self.bval, self.bvec)
        return Scan(self.dwi, bval, bvec, self.header.affine, self.mask, self.phase_encoding)


def read_scan(
    dwi: Path, bval: Path, bvec: Path, mask: Path | None = None, sidecar: Path | None = None
) -> tuple[Scan | None, list[str]]:
    """Read a scan, and find everything that is wrong with it (`look_at`).

    Returns
    -------
    (scan, problems)
        No scan if there are problems, one sentence each.
    """
    found = look_at(dwi, bval, bvec, mask, sidecar)
    return found.scan, found.problems


def look_at(
    dwi: Path, bval: Path, bvec: Path, mask: Path | None = None, sidecar: Path | None = None
) -> Found:
    """Read as much of a scan as can be read, and find everything that is wrong with it.

    What is mended is said in the log.

    Parameters
    ----------
    dwi
        4D NIfTI image.
    bval, bvec
        FSL's gradient table.
    mask
        3D image on the grid of `dwi`.
    sidecar
        JSON with the phase encoding.
    """
    found = Found()
    _read_image(found, dwi)
    _read_table(found, bval, bvec)
    if mask is not None:
        _read_mask(found, mask, dwi)
    if sidecar is not None:
        try:
            found.phase_encoding = read_phase_encoding(sidecar)
        except InputError as error:
            found.problems += error.problems
    scan = found.scan
    if scan is not None:
        found.problems += table_problems(scan.voxels, scan.bval, scan.bvec, (bval, bvec))
    return found


@dataclass(frozen=True)
class ReverseB0:
    """A b0 of reverse phase encoding without faults.

    Attributes
    ----------
    told
        What headers and sidecars tell of it.
    cover
        Share of the scan's head that it shows.
    pair
        What correction takes.
    """

    told: Reverse
    cover: float
    pair: ReversePair

    def __str__(self) -> str:
        grid = " x ".join(map(str, self.told.header.shape[:3]))
        ratio = self.told.readout_ratio
        displaced = "the same in mm" if ratio is None else f"{ratio:.3g} times the scan's"
        return (
            f"{grid}, phase encoding {self.told.other}, shows {self.cover:.1%} of the head,"
            f" displacement {displaced}"
        )


def read_reverse(scan: Scan, dwi: Path, path: Path, sidecar: Path | None) -> ReverseB0:
    """Read the b0 of reverse phase encoding that goes with a scan.

    Parameters
    ----------
    scan
        With its phase encoding.
    dwi
        File of the scan, for messages.
    path
        3D or 4D image that begins with a b0; one on another grid is resampled to that of the scan.
    sidecar
        JSON with its phase encoding; without it that is taken for the scan's, reversed.

    Raises
    ------
    InputError
        As `check_reverse`; the image is empty, a volume of the scan, or does not show its head.
    """
    found = check_reverse(dwi, scan.affine, scan.phase_encoding, path, sidecar)
    if len(found.header.shape) == 3:
        b0, affine = read_nifti(path, 3)
    else:
        volumes, affine = read_nifti(path, 4)
        b0 = np.ascontiguousarray(volumes[..., 0])
    if b0.min() == b0.max():
        raise InputError(
            f"{path}: all voxels of the b0 have the same value; give another image, or none"
        )
    if any(np.array_equal(b0, scan.dwi[..., v]) for v in np.flatnonzero(scan.bval <= B0_THRESHOLD)):
        raise InputError(
            f"{path}: is the same image as a b0 of {dwi}, not its reverse; give an image of the"
            " opposite phase encoding, or none"
        )
    if (cover := _cover(scan, b0.shape, affine)) < MIN_COVER:
        raise InputError(
            f"{path}: shows {cover:.1%} of the head of {dwi}; give an image that shows"
            f" {MIN_COVER:.0%} or more of it, or none"
        )
    if found.odd_readout:
        log.warning(
            "%s: %s; correct TotalReadoutTime in the sidecar where it is wrong",
            *(path, found.odd_readout),
        )
    own_mm, other_mm = found.voxel_mm
    if found.readout_ratio is None and not np.isclose(own_mm, other_mm, rtol=0.01):
        log.warning(
            "%s: voxels of %.3g mm along the phase encoding, those of %s of %.3g mm, and the"
            " readout time is not told of both; displacements are taken to be the same in mm; give"
            " TotalReadoutTime in both sidecars",
            *(path, other_mm, dwi, own_mm),
        )
    shape = scan.dwi.shape[:3]
    if b0.shape != shape or not np.allclose(affine, scan.affine, atol=1e-3):
        b0 = registration.resample(b0, affine, np.eye(4), shape, scan.affine)
    assert scan.phase_encoding is not None
    ratio = 1.0 if found.readout_ratio is None else found.readout_ratio
    return ReverseB0(found, cover, ReversePair(b0, scan.phase_encoding.axis, ratio))


def _cover(scan: Scan, shape: tuple[int, ...], affine: NDArray[np.float64]) -> float:
    """Share of a scan's head, the voxels brighter than its mean b0, in another image's view."""
    b0 = scan.dwi[..., scan.bval <= B0_THRESHOLD].mean(axis=-1)
    head = np.argwhere(b0 > b0.mean())  # (n, 3) voxels
    world = head @ scan.affine[:3, :3].T + scan.affine[:3, 3]  # (n, 3) mm
    return float(registration.in_view(world, shape, affine).mean())


def _read_image(found: Found, dwi: Path) -> None:
    try:
        found.header = read_header(dwi, 4)
        problems = check.affine_problems(found.header.affine)
        needed, free = check.memory_needed(found.header.shape), free_memory()
        if needed > free:
            problems.append(
                f"a scan of shape {found.header.shape} takes {needed / 1e9:.1f} GB of memory and"
                f" {free / 1e9:.1f} GB are free; ask for more, or end other programs"
            )
        else:
            found.dwi, _ = read_nifti(dwi, ndim=4)
            problems += check.image_problems(found.dwi, found.header)
        if not found.header.oriented:
            log.warning(
                "%s: has neither qform nor sform; taken to run to the left, the front and up: left"
                " and right may be exchanged",
                dwi,
            )
        found.problems += [f"{dwi}: {text}" for text in problems]
    except InputError as error:
        found.problems += error.problems


def _read_table(found: Found, bval: Path, bvec: Path) -> None:
    try:
        found.bval, found.bvec = read_gradients(bval, bvec)
    except InputError as error:
        found.problems += error.problems
        return
    n_volumes = None if found.header is None else found.header.shape[3]
    problems = gradient_problems(found.bval, found.bvec, n_volumes)
    found.problems += [f"{bval}, {bvec}: {text}" for text in problems]
    if not problems:
        for text in gradient_mends(found.bval, found.bvec):
            log.warning("%s: %s", bvec, text)


def _read_mask(found: Found, mask: Path, dwi: Path) -> None:
    try:
        if found.header is None:
            values, _ = read_nifti(mask, ndim=3)
        else:
            values = same_grid(mask, found.header.shape[:3], found.header.affine, dwi)
        found.mask = values > 0
        if not found.mask.any():
            found.problems.append(f"{mask}: the mask is empty; leave it out to have one made")
    except InputError as error:
        found.problems += error.problems


def interpolated_axes(scan: Scan) -> list[str]:
    """Axes (i, j) along which the scanner interpolated the image; `check.interpolated_axes`."""
    first = int(np.flatnonzero(scan.bval <= B0_THRESHOLD)[0])
    return [AXES[axis] for axis in check.interpolated_axes(scan.dwi[..., first])]


def describe(found: Found, frame: Frame | None, reverse: ReverseB0 | None = None) -> list[str]:
    """Lines that sum a scan up for a reader.

    Parameters
    ----------
    found
        The scan.
    frame
        Of its gradients, if that could be looked for.
    reverse
        The b0 of reverse phase encoding, if one was given and has no fault.
    """
    facts: list[tuple[str, str]] = []
    if found.header is not None:
        facts += _of_header(found.header)
    if found.dwi is not None:
        low, high = float(found.dwi.min()), float(found.dwi.max())
        n_high = np.count_nonzero(found.dwi == found.dwi.max())
        facts.append(("signal", f"{low:g} to {high:g}, the largest in {n_high} voxels"))
    if found.scan is not None:
        facts += _of_table(found.scan)
        explained = explained_variance(found.scan.voxels, found.scan.bval, found.scan.bvec)
        if explained is not None:
            share = f"explain {explained:.2f} of the signal's variance between volumes"
            facts.append(("directions", share))
    if frame is not None:
        verdict = "another, see below" if frame.is_wrong else frame.verdict
        sure = f"{frame.margin:.1f} standard errors above the next"
        facts.append(("gradient frame", f"{verdict}: coherence {frame.index.max():.4f}, {sure}"))
    if found.scan is not None:
        axes = interpolated_axes(found.scan)
        told_axes = f"along {' and '.join(axes)}; see --unring" if axes else "none found"
        facts.append(("interpolation", told_axes))
    told = found.phase_encoding
    facts.append(("phase encoding", "not told" if told is None else str(told)))
    if reverse is not None:
        facts.append(("reverse b0", str(reverse)))
    if found.header is not None:
        needed = check.memory_needed(found.header.shape) / 1e9
        facts.append(("memory", f"{needed:.1f} GB needed, {free_memory() / 1e9:.1f} GB free"))
    return [f"{name:<16}{text}" for name, text in facts]


def _of_header(header: Header) -> list[tuple[str, str]]:
    *grid, n_volumes = header.shape
    size = np.linalg.norm(header.affine[:3, :3], axis=0)  # (3,) mm
    axes = "".join(nib.aff2axcodes(header.affine))
    straightest = abs(header.affine[:3, :3] / size).max(axis=0).min()
    angle = np.degrees(np.arccos(min(straightest, 1.0)))
    scaling = (
        ""
        if (header.slope, header.inter) == (1, 0)
        else (f", times {header.slope:g} plus {header.inter:g}")
    )
    return [
        ("image", f"{' x '.join(map(str, grid))}, {n_volumes} volumes, {header.dtype}{scaling}"),
        ("voxels", f"{' x '.join(f'{mm:.3g}' for mm in size)} mm"),
        ("orientation", axes + (f", oblique by {angle:.0f}°" if angle >= 1 else "")),
    ]


def _of_table(scan: Scan) -> list[tuple[str, str]]:
    shells = []
    for shell in find_shells(scan.bval):
        b = scan.bval[shell]
        span = f" ({b.min():.5g} to {b.max():.5g})" if np.ptp(b) > 0 else ""
        shells.append(f"{len(shell)} of b = {b.mean():.0f}{span}")
    fit = select_volumes(scan.bval, scan.bvec)
    used = scan.bvec[fit][scan.bval[fit] > B0_THRESHOLD]
    return [
        ("b-values", ", ".join(shells) + " s/mm²"),
        (
            "tensor fit",
            f"{len(fit)} volumes of b <= {max(TENSOR_BVAL, scan.bval[fit].max()):.0f},"
            f" {count_directions(used)} directions, condition number {tensor_condition(used):.3g}",
        ),
    ]

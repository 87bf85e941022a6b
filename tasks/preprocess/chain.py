"""The parts of preprocessing, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from axoloci.io.gradients import B0_THRESHOLD, find_shells
from axoloci.tasks.preprocess import denoise, kernel
from axoloci.tasks.preprocess.distortion import Field, estimate_field, likeness
from axoloci.tasks.preprocess.gibbs import remove_ringing
from axoloci.tasks.preprocess.prediction import MIN_VOLUMES
from axoloci.tasks.preprocess.signal_quality import neighbour_correlation, signal_to_noise

MARGIN_MM = 10.0
"""Margin around the brain that is denoised: motion brings it there in other volumes."""

MIN_PAIR_CORRELATION = 0.8
"""Correlation of two b0s of one head, of opposite phase encoding, once distortion is undone."""

Track = Callable[[range, str], Iterable[int]]
"""Goes through the parts of a named work, and may tell how far it is."""


@dataclass(frozen=True)
class ReversePair:
    """A b0 of reverse phase encoding.

    Attributes
    ----------
    b0
        [float32, shape: (x, y, z)] On the grid of the scan.
    axis
        Of the phase encoding of both: 0, 1 or 2.
    readout_ratio
        Its readout time over that of the scan.
    """

    b0: NDArray[np.float32]
    axis: int
    readout_ratio: float = 1.0


@dataclass(frozen=True)
class Corrected:
    """One scan after preprocessing.

    Attributes
    ----------
    dwi
        [float32, shape: (x, y, z, g)] Signal.
    bvec
        [float64, shape: (g, 3)] FSL's directions, turned with the head.
    mask
        [bool, shape: (x, y, z)] Brain.
    motion
        What was corrected; None if it was not looked for.
    field
        Susceptibility displacement that was corrected; None without a reverse b0, or if it does not
        bring the two together.
    pair_correlation
        Of the scan's b0 and the reverse one, before and after correction.
    steps
        What was done, in order: eddy currents only where some were found.
    sigma
        Median standard deviation of the noise in the brain, where it was estimated.
    uncovered
        Share of the brain that some volume does not hold, for the head moved.
    neighbour_correlation_raw, neighbour_correlation
        [float64, shape: (g,)] Before and after; NaN for b0s.
    snr
        Signal to noise of b0s and contrast to noise of shells, afterwards; see `signal_to_noise`.
    """

    dwi: NDArray[np.float32]
    bvec: NDArray[np.float64]
    mask: NDArray[np.bool_]
    motion: kernel.Motion | None
    field: Field | None
    pair_correlation: tuple[float, float] | None
    steps: list[str]
    sigma: float | None
    uncovered: float
    neighbour_correlation_raw: NDArray[np.float64]
    neighbour_correlation: NDArray[np.float64]
    snr: list[dict[str, float]]


def preprocess(
    dwi: NDArray[np.float32],
    bval: NDArray[np.float64],
    bvec: NDArray[np.float64],
    affine: NDArray[np.float64],
    mask: NDArray[np.bool_] | None = None,
    reverse: ReversePair | None = None,
    *,
    denoised: bool = False,
    unringed: bool = True,
    aligned: bool = True,
    track: Track = lambda items, _: items,
) -> Corrected:
    """Correct one scan.

    Parameters
    ----------
    dwi
        (x, y, z, g) signal, not negative; changed in place.
    bval, bvec
        (g,) s/mm²; (g, 3) FSL's directions, sound and cleaned.
    affine
        (4, 4) voxel to world, mm.
    mask
        (x, y, z) brain; found if not given.
    reverse
        A b0 of reverse phase encoding, from which susceptibility distortion is corrected.
    denoised, unringed, aligned
        Which parts are wanted: thermal noise (of `denoise.MIN_VOLUMES` or more), Gibbs ringing,
        head motion with eddy currents and lost slices.
    track
        See `Track`.
    """
    weighted = bval > B0_THRESHOLD
    shells = find_shells(bval)
    telling = np.where(weighted[:, None], bvec, 0.0)  # b0s may have directions, of no meaning
    large = any(len(shell) >= MIN_VOLUMES for shell in shells[1:])

    def find_brain(volumes: NDArray[np.float32]) -> NDArray[np.bool_]:
        if mask is not None:
            return mask
        b0, mean = volumes[..., ~weighted].mean(axis=-1), volumes[..., weighted].mean(axis=-1)
        return kernel.brain_mask(b0, mean, affine)

    brain = find_brain(dwi)
    raw = neighbour_correlation(dwi, telling, shells, brain)
    steps, sigma, motion = [], None, None
    if denoised and dwi.shape[3] >= denoise.MIN_VOLUMES:
        voxel = np.linalg.norm(affine[:3, :3], axis=0)
        wide = ndimage.distance_transform_edt(~brain, voxel) <= MARGIN_MM
        dwi, noise = denoise.denoise(dwi, wide, lambda items: track(items, "denoising"))
        denoise.remove_noise_floor(dwi, noise)
        sigma = float(np.median(noise[brain])) if brain.any() else None
        steps.append("denoising")
    if unringed:
        for v in track(range(dwi.shape[3]), "unringing"):
            slices = remove_ringing(np.ascontiguousarray(dwi[..., v].transpose(2, 0, 1)))
            dwi[..., v] = np.maximum(slices, 0).transpose(1, 2, 0)
        steps.append("unringing")
    if aligned:
        motion = kernel.estimate_motion(dwi, bval, telling, affine, brain)
        steps += ["lost slices replaced", "motion"] if large else ["motion"]
        if motion.eddy_shift.any() or motion.eddy_displacement().any():
            steps.append("eddy currents")
    placed = motion or kernel.no_motion(dwi.shape[2:], affine, brain)
    field, pair_correlation = None, None
    covered = np.ones(brain.shape, dtype=bool)
    if reverse is not None:
        forward = kernel.mean_aligned(dwi, affine, placed.matrices, shells[0])
        field = estimate_field(forward, reverse.b0, affine, reverse.axis, reverse.readout_ratio)
        pair = (forward, reverse.b0, reverse.readout_ratio)
        pair_correlation = likeness(field, *pair, brain)
        if pair_correlation[1] > max(pair_correlation[0], MIN_PAIR_CORRELATION):
            steps.append("susceptibility distortion")
        else:  # of another head, or of another contrast: no field explains it
            field = None
    if aligned or field is not None:
        bvec, covered = kernel.correct_motion(dwi, bvec, affine, placed, field)
        telling = np.where(weighted[:, None], bvec, 0.0)
    uncovered = 1 - float(covered[brain].mean()) if brain.any() else 0.0
    brain = find_brain(dwi) & covered
    return Corrected(
        dwi=dwi,
        bvec=bvec,
        mask=brain,
        motion=motion,
        field=field,
        pair_correlation=pair_correlation,
        steps=steps,
        sigma=sigma,
        neighbour_correlation_raw=raw,
        uncovered=uncovered,
        neighbour_correlation=neighbour_correlation(dwi, telling, shells, brain),
        snr=signal_to_noise(dwi, bval, telling, shells, brain),
    )

"""Faults of scans that quality control must find: what they do to the files of a BIDS data set."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np

from axoloci.io.gradients import read_gradients, write_gradients
from axoloci.io.nifti import read_nifti, write_nifti

DROPPED_VOLUMES, DROPPED_SLICES = 0.3, 0.3  # shares
WATER_MD, WATER_MM = 2.1e-3, 75.0  # of the phantom: mm²/s, radius

Scan = tuple[Path, Path, Path]  # image, b-values, b-vectors


def files_of(bids: Path, person: str) -> Scan:
    """The files of a person's only scan."""
    stem = bids / person / "dwi" / f"{person}_dwi"
    return Path(f"{stem}.nii.gz"), Path(f"{stem}.bval"), Path(f"{stem}.bvec")


def copy_scan(source: Scan, target: Scan) -> None:
    """Put another scan in the place of one."""
    for old, new in zip(source, target, strict=True):
        shutil.copyfile(old, new)


def drop_slices(scan: Scan, rng: np.random.Generator) -> None:
    """Bring runs of slices of many volumes down to the noise."""
    dwi, affine = read_nifti(scan[0], ndim=4)
    bval, _ = read_gradients(scan[1], scan[2])
    noise = float(np.median(dwi[:3, :3, :3]))
    n_slices = round(DROPPED_SLICES * dwi.shape[2])
    weighted = np.flatnonzero(bval > 50)
    for volume in rng.choice(weighted, round(DROPPED_VOLUMES * len(weighted)), replace=False):
        first = int(rng.integers(0, dwi.shape[2] - n_slices))
        shape = (*dwi.shape[:2], n_slices)
        dwi[:, :, first : first + n_slices, volume] = rng.rayleigh(max(noise, 1) / 1.18, shape)
    write_nifti(scan[0], np.rint(dwi).astype(np.int16), affine)


def flip_gradients(scan: Scan, axis: int) -> None:
    """Change the sign of one row of the b-vectors."""
    bval, bvec = read_gradients(scan[1], scan[2])
    bvec[:, axis] *= -1
    write_gradients(scan[1], scan[2], bval, bvec)


def swap_bvals(scan: Scan, rng: np.random.Generator) -> None:
    """Give the b-values of the b0 volumes to others; all have a direction, as scanners write it."""
    bval, bvec = read_gradients(scan[1], scan[2])
    low = np.flatnonzero(bval <= 50)
    bvec[low] = bvec[rng.choice(np.flatnonzero(bval > 50), len(low), replace=False)]
    others = rng.choice(np.flatnonzero(bval > 50), len(low), replace=False)
    bval[low], bval[others] = bval[others], bval[low]
    write_gradients(scan[1], scan[2], bval, bvec)


def scan_water(scan: Scan, rng: np.random.Generator) -> None:
    """A ball of water in place of the head."""
    dwi, affine = read_nifti(scan[0], ndim=4)
    bval, _ = read_gradients(scan[1], scan[2])
    index = np.indices(dwi.shape[:3]).reshape(3, -1).T
    middle = (np.array(dwi.shape[:3]) - 1) / 2
    distance = np.linalg.norm((index - middle) @ affine[:3, :3].T, axis=1).reshape(dwi.shape[:3])
    signal = (distance < WATER_MM)[..., None] * 1500 * np.exp(-bval * WATER_MD)
    noise = rng.normal(0, 50, (2, *dwi.shape))
    dwi = np.hypot(signal + noise[0], noise[1])
    write_nifti(scan[0], np.rint(dwi).astype(np.int16), affine)

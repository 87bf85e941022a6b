"""`axoloci-normalize --self-test`: the shipped template, moved by a known affine, comes back."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from axoloci.io.nifti import read_nifti
from axoloci.registration import about, resample
from axoloci.tasks.normalize.kernel import register, regrid


def self_test() -> None:
    """Register the template at 6 mm, stretched and shifted, to itself."""
    fa, affine = read_nifti(Path(__file__).parent / "MNI_FA_2mm.nii.gz", ndim=3)
    fa, affine = regrid(fa, affine, 6.0)
    truth = about(np.diag([1.08, 0.95, 1.0]), np.array([6.0, -9.0, 5.0]), np.zeros(3))
    inverse = np.asarray(np.linalg.inv(truth), dtype=np.float64)
    moved = resample(fa, affine, inverse, fa.shape, affine, 1)
    found = register(moved, affine, fa, affine)
    inside = np.argwhere(fa > 0.2) @ affine[:3, :3].T + affine[:3, 3]  # (n, 3) mm
    wrong = inside @ (found.affine - truth)[:3, :3].T + (found.affine - truth)[:3, 3]
    error = float(np.median(np.linalg.norm(wrong, axis=1)))
    assert error < 2, f"the affine is {error:.1f} mm off"
    assert found.similarity["warp"] > 0.95, f"similarity {found.similarity['warp']:.2f}"

"""`axoloci-preprocess --self-test`: a shift between volumes that is known."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from axoloci.tasks.preprocess.kernel import correct_motion, estimate_motion


def self_test() -> None:
    """Find the shift of one of four volumes, and take it back."""
    rng = np.random.default_rng(0)
    shape, voxel = (20, 24, 20), 3.0  # mm
    grid = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij"))
    mask = np.square(grid).sum(axis=0) < 0.6
    texture = ndimage.gaussian_filter(rng.normal(size=shape), 1.5)
    head = 500 * ndimage.gaussian_filter(mask.astype(float), 1) * (1 + texture / texture.std() / 3)
    shift = np.array([0.6, -0.4, 0.3])  # voxels
    volumes = [head, head, ndimage.shift(head, shift, order=3), head]
    dwi = np.clip(np.stack(volumes, axis=-1), 0, None).astype(np.float32)
    affine = np.diag([voxel, voxel, voxel, 1.0])
    bval, bvec = np.zeros(4), np.zeros((4, 3))
    motion = estimate_motion(dwi, bval, bvec, affine, mask)
    centre = np.append(motion.centre, 1)
    found = (motion.matrices @ centre)[:, :3] - motion.centre  # (4, 3) mm
    wrong = np.linalg.norm(found[2] - found[0] - voxel * shift)
    assert wrong < 0.3, f"a shift of {voxel * shift} mm was found to be {found[2]} mm"
    before = np.abs(dwi[..., 2] - dwi[..., 0])[mask].mean()
    correct_motion(dwi, bvec, affine, motion)
    after = np.abs(dwi[..., 2] - dwi[..., 0])[mask].mean()
    assert after < before / 3, f"volumes differ by {after:.1f} after and {before:.1f} before"

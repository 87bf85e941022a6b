"""`axoloci-asymmetry --self-test`: a map whose asymmetry is known."""

from __future__ import annotations

import numpy as np

from axoloci_asymmetry.kernel import measure_asymmetry


def self_test() -> None:
    """FA 0.6 on the left and 0.4 on the right, as an index: 0.2 / 1.0."""
    fa = np.zeros((5, 2, 2), np.float32)
    fa[:2], fa[2], fa[3:] = 0.4, 0.9, 0.6  # the voxel in the middle is on neither side
    affine = np.diag([-2.0, 2, 2, 1])
    affine[0, 3] = 4  # the first voxel is 4 mm to the right
    found = measure_asymmetry(fa, affine)
    assert abs(found.index - 0.2) < 1e-6, f"index {found.index:.6f} instead of 0.2"
    assert found.n_left == found.n_right == 8, f"{found.n_left} and {found.n_right} voxels"

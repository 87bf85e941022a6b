"""`axoloci-STEP_NAME --self-test`: a map whose mean is known."""

from __future__ import annotations

import numpy as np

from STEP_PACKAGE.kernel import mean_above


def self_test() -> None:
    """Two voxels of three are above 0.2, and their mean is 0.5."""
    fa = np.array([0.1, 0.4, 0.6], np.float32).reshape(3, 1, 1)
    mean, n_voxels = mean_above(fa, 0.2)
    assert n_voxels == 2, f"{n_voxels} voxels instead of 2"
    assert abs(mean - 0.5) < 1e-6, f"mean {mean:.6f} instead of 0.5"

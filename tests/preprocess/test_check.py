"""What the voxels of a scan tell about it."""

from __future__ import annotations

import numpy as np

from axoloci.tasks.preprocess import check


def test_image_problems__named() -> None:
    dwi = np.random.default_rng(0).random((6, 6, 6, 14)).astype(np.float32)
    assert check.image_problems(dwi) == []
    dwi[..., [2, 5]] = 7
    (problem,) = check.image_problems(dwi)
    assert problem.startswith("volumes 2, 5: all voxels have the same value")
    assert "at least 5 along each axis" in check.image_problems(dwi[:4])[0]
    dwi[:] = 0
    assert "and 4 more" in check.image_problems(dwi)[0]

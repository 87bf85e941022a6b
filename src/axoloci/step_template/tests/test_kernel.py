"""The computation, on maps whose result is known."""

from __future__ import annotations

import numpy as np
import pytest

from STEP_PACKAGE.kernel import THRESHOLD, mean_above


def test_mean_above__counts_what_is_above_and_nothing_else() -> None:
    fa = np.zeros((4, 5, 6), np.float32)
    fa[0] = THRESHOLD  # not above
    fa[1], fa[2] = 0.4, 0.6
    mean, n_voxels = mean_above(fa)
    assert mean == pytest.approx(0.5)
    assert n_voxels == 2 * 5 * 6
    assert mean_above(fa, 0.5) == (pytest.approx(0.6), 30)

"""Asymmetry of maps whose sides are known."""

from __future__ import annotations

import numpy as np
import pytest

from axoloci_asymmetry.kernel import measure_asymmetry, sides

RAS = np.array([[2.0, 0, 0, -5], [0, 2, 0, 0], [0, 0, 2, 0], [0, 0, 0, 1]])
LAS = np.diag([-1.0, 1, 1, 1]) @ RAS  # the same voxels, stored from right to left


def two_sides(first: float, second: float) -> np.ndarray:
    """A map of 6 × 4 × 4 voxels, one FA in each half, with noise below the threshold."""
    fa = np.random.default_rng(0).uniform(0, 0.19, (6, 4, 4)).astype(np.float32)
    fa[:3, :2], fa[3:, :2] = first, second
    return fa


@pytest.mark.parametrize(("affine", "sign"), [(RAS, 1), (LAS, -1)])
def test_measure_asymmetry__left_is_where_the_affine_says(affine: np.ndarray, sign: int) -> None:
    found = measure_asymmetry(two_sides(0.6, 0.4), affine)
    assert found.index == pytest.approx(sign * 0.2, abs=1e-6)
    assert found.n_left == found.n_right == 24


def test_measure_asymmetry__a_mirrored_map_has_the_opposite_index() -> None:
    fa = np.random.default_rng(1).uniform(0, 1, (6, 4, 4)).astype(np.float32)
    one, other = measure_asymmetry(fa, RAS), measure_asymmetry(fa[::-1], RAS)
    assert one.index == pytest.approx(-other.index, abs=1e-9)
    assert (one.left, one.n_left) == (other.right, other.n_right)


def test_measure_asymmetry__a_side_without_white_matter_is_named() -> None:
    with pytest.raises(ValueError, match=r"no voxel of the right side is above 0\.2"):
        measure_asymmetry(two_sides(0.5, 0.1), RAS)


def test_sides__follow_a_rotated_affine_and_leave_out_the_plane() -> None:
    left, right = sides((5, 5, 5), np.array([[0, 1, 0, -2], [1, 0, 0, 0], [0, 0, 1, 0], [0] * 4]))
    assert left[:, :2].all()
    assert right[:, 3:].all()
    assert left.sum() == right.sum() == 50

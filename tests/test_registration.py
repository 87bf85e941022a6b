"""Registration: planted matrices come back, formulas hold."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation

from axoloci import registration

AFFINE = np.array([[-2.0, 0, 0, 40], [0, 2, 0, -44], [0, 0, 2.5, -38], [0, 0, 0, 1]])
SHAPE = (40, 44, 32)


def blobs(matrix: NDArray[np.float64] | None = None) -> NDArray[np.float32]:
    """Smooth random head whose value at world x is that of the unmoved one at `matrix`⁻¹ x."""
    rng = np.random.default_rng(0)
    index = np.moveaxis(np.indices(SHAPE), 0, -1) @ AFFINE[:3, :3].T + AFFINE[:3, 3]
    if matrix is not None:
        back = np.linalg.inv(matrix)
        index = index @ back[:3, :3].T + back[:3, 3]
    image = np.zeros(SHAPE)
    for centre, width in zip(rng.normal(0, 12, (25, 3)), rng.uniform(6, 10, 25), strict=True):
        image += np.exp(-((index - centre) ** 2).sum(-1) / (2 * width**2))
    return image.astype(np.float32)


FIXED = blobs()
MASK = FIXED > 0.2


def rigid() -> NDArray[np.float64]:
    turn = registration.rotation_matrix(np.array([0.05, -0.03, 0.06]))
    return registration.about(turn, np.array([2.0, -1.5, 1.0]), np.array([3.0, 2.0, 1.0]))


def affine() -> NDArray[np.float64]:
    matrix = rigid()
    matrix[:3, :3] = matrix[:3, :3] @ (
        np.eye(3) + 0.04 * np.array([[1, 0.5, 0], [0, -1, 0], [0, 0.5, 1]])
    )
    return matrix


def shift() -> NDArray[np.float64]:
    return registration.about(np.eye(3), np.array([2.0, -1.5, 1.0]), np.zeros(3))


def worst(found: NDArray[np.float64], truth: NDArray[np.float64]) -> float:
    """Largest distance over the head, mm."""
    points = np.argwhere(MASK) @ AFFINE[:3, :3].T + AFFINE[:3, 3]
    gap = points @ (found - truth)[:3, :3].T + (found - truth)[:3, 3]
    return float(np.linalg.norm(gap, axis=1).max())


@pytest.mark.parametrize("order", [1, 3])
@pytest.mark.parametrize(("dof", "truth"), [(3, shift()), (6, rigid()), (12, affine())])
def test_align__planted_matrix(dof: int, truth: NDArray[np.float64], order: int) -> None:
    found = registration.align(FIXED, blobs(truth), AFFINE, AFFINE, MASK, dof=dof, order=order)
    assert worst(found.matrix, truth) < 0.2
    assert worst(np.eye(4), truth) > 2
    assert found.similarity > 0.99


def test_align__between_contrasts() -> None:
    """Mutual information aligns an image with its inverted, curved contrast."""
    moving = (3 - blobs(rigid())) ** 2
    found = registration.align(
        FIXED, moving, AFFINE, AFFINE, MASK, criterion=registration.mutual_information
    )
    assert worst(found.matrix, rigid()) < 0.5


def test_align__never_ends_less_alike_than_it_began() -> None:
    """Noise leads each step astray; halving keeps the start where nothing is better."""
    rng = np.random.default_rng(0)
    fixed = rng.random(SHAPE).astype(np.float32)
    found = registration.align(fixed, fixed, AFFINE, AFFINE, MASK)
    assert found.similarity == pytest.approx(1)
    assert worst(found.matrix, np.eye(4)) < 0.01
    start = rigid()
    voxel = np.linalg.inv(AFFINE) @ start @ AFFINE
    at_start = ndimage.affine_transform(fixed, voxel[:3, :3], voxel[:3, 3], order=1, mode="mirror")
    points = np.argwhere(MASK) @ voxel[:3, :3].T + voxel[:3, 3]
    inside = ((points >= 0) & (points <= np.array(SHAPE) - 1)).all(axis=1)
    before = np.corrcoef(fixed[MASK][inside], at_start[MASK][inside])[0, 1]
    assert registration.align(fixed, fixed, AFFINE, AFFINE, MASK, start).similarity >= before - 1e-4


def test_align__no_overlap_and_flat_images_give_no_similarity() -> None:
    away = registration.about(np.eye(3), np.array([500.0, 0, 0]), np.zeros(3))
    assert registration.align(FIXED, FIXED, AFFINE, AFFINE, MASK, away).similarity == 0
    flat = np.ones(SHAPE, np.float32)
    assert registration.align(flat, FIXED, AFFINE, AFFINE, MASK).similarity == 0


def test_align__refuses_other_degrees_of_freedom() -> None:
    with pytest.raises(ValueError, match="dof must be 3, 6 or 12, not 9"):
        registration.align(FIXED, FIXED, AFFINE, AFFINE, MASK, dof=9)


def test_correlation__is_pearsons() -> None:
    a, b = np.random.default_rng(0).normal(size=(2, 100))
    b += a
    similarity, slope, _ = registration.correlation(a, b)
    assert similarity == pytest.approx(np.corrcoef(a, b)[0, 1])
    # the negative half squared error falls as the fit's residual says
    assert np.allclose(slope @ (a - a.mean()), 0, atol=1e-9)


def test_mutual_information__is_large_for_copies_and_small_for_strangers() -> None:
    a, b = np.random.default_rng(0).normal(size=(2, 20_000))
    alike = registration.mutual_information(a, -(a**3) / 30 - a)[0]
    strange = registration.mutual_information(a, b)[0]
    # two normal variables of correlation r share -log(1 - r²) / 2
    half = registration.mutual_information(a, a + b)[0]
    assert strange < 0.05
    assert half == pytest.approx(-0.5 * np.log(0.5), rel=0.15)
    assert alike > 3 * half


def test_rotation_matrix__is_scipys() -> None:
    for vector in ([0.0, 0, 0], [1e-9, 0, 0], [0.3, -0.2, 1.0], [0, 3.0, 0]):
        matrix = registration.rotation_matrix(np.array(vector))
        assert np.allclose(matrix, Rotation.from_rotvec(vector).as_matrix(), atol=1e-12)
        assert np.allclose(registration.rotation_vector(matrix), vector, atol=1e-9)


def test_nearest_rotation__of_a_stretched_and_a_mirrored_matrix() -> None:
    turn = Rotation.from_rotvec([0.3, -0.2, 0.5]).as_matrix()
    stretch = np.array([[1.1, 0.1, 0], [0.1, 0.9, 0], [0, 0, 1.2]])
    assert np.allclose(registration.nearest_rotation(turn @ stretch), turn)
    found = registration.nearest_rotation(np.diag([-2.0, 2, 2]))
    assert np.linalg.det(found) == pytest.approx(1)


def test_downsample__keeps_world_coordinates() -> None:
    small, small_affine = registration.downsample(FIXED, AFFINE, 8.0, 8.0)
    assert small.shape == (10, 11, 11)
    # 2.5 mm x 3 = 7.5 mm along z
    assert np.allclose(np.linalg.norm(small_affine[:3, :3], axis=0), [8, 8, 7.5])
    assert np.allclose(small_affine[:3, 3], AFFINE[:3, 3])
    same, _ = registration.downsample(FIXED, AFFINE, 0.0, 0.0)
    assert np.array_equal(same, FIXED)


def test_resample__identity_and_a_planted_motion() -> None:
    same = registration.resample(FIXED, AFFINE, np.eye(4), SHAPE, AFFINE)
    assert np.allclose(same, FIXED, atol=1e-5)
    back = registration.resample(blobs(rigid()), AFFINE, rigid(), SHAPE, AFFINE)
    core = (slice(6, -6),) * 3  # beyond the edge the nearest voxel counts
    assert abs(back - FIXED)[core].max() < 0.01


def test_in_view__holds_all_of_the_outer_voxels() -> None:
    affine = np.diag([2.0, 3.0, 4.0, 1.0])
    affine[:3, 3] = 10, 20, 30
    world = np.array([[10.0, 20, 30], [9.1, 18.6, 28.1], [28.9, 20, 30], [29.1, 20, 30]])
    assert list(registration.in_view(world, (10, 10, 10), affine)) == [True, True, True, False]


def test_reorient_vectors__turns_with_the_head() -> None:
    """A rotated head's directions come back to the template's; shears and sizes do not lengthen."""
    turn = Rotation.from_rotvec([0, 0, np.deg2rad(30)]).as_matrix()
    own = np.array([1.0, 0, 0])
    grid = np.moveaxis(np.indices((9, 9, 9)), 0, -1) * 2.0 - 8.0  # template world, mm
    warp = (1.2 * grid @ turn.T).astype(np.float32)
    template = np.diag([2.0, 2, 2, 1])
    template[:3, 3] = -8
    vectors = np.broadcast_to((turn @ own).astype(np.float32), (21, 21, 21, 3))
    scan = np.diag([1.0, 1, 1, 1])
    scan[:3, 3] = -10
    found = registration.reorient_vectors(np.array(vectors), scan, warp, template)
    norm = np.linalg.norm(found, axis=-1)
    inside = norm > 0
    assert 0.3 < inside.mean() < 1  # the corners lie outside the scan
    assert np.allclose(found[inside], own, atol=1e-5)

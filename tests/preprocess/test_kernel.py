"""Brain mask, motion and eddy currents against planted truth."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from axoloci import registration
from axoloci.io.gradients import world_to_bvec
from axoloci.tasks.dti.kernel import fit_tensor
from axoloci.tasks.preprocess import eddy, kernel
from axoloci.tasks.simulate import kernel as simulation
from axoloci.tasks.simulate import scan
from axoloci.tasks.simulate.anatomy import Anatomy, phantom

N_DIRECTIONS = 12


@dataclass(frozen=True)
class Planted:
    """A simulated scan, its truth, and what was estimated from it."""

    anatomy: Anatomy
    scan: simulation.Scan
    bval: NDArray[np.float64]
    bvec: NDArray[np.float64]
    brain: NDArray[np.bool_]
    mask: NDArray[np.bool_]
    motion: kernel.Motion

    @property
    def affine(self) -> NDArray[np.float64]:
        return self.anatomy.scan_affine

    @property
    def rotations(self) -> NDArray[np.float64]:
        return np.array([scan.rotation(pose) for pose in self.scan.motion])

    def errors(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Error of each volume's shift of the brain's centre, mm, and of its rotation, degrees."""
        centre = self.motion.centre
        place = self.rotations @ centre + self.scan.motion[:, :3]  # (g, 3)
        found = self.motion.matrices[:, :3, :3] @ centre + self.motion.matrices[:, :3, 3]
        turn = np.swapaxes(self.motion.rotations, 1, 2) @ self.rotations
        angle = [np.linalg.norm(registration.rotation_vector(r)) for r in turn]
        return np.linalg.norm(found - place, axis=1), np.rad2deg(angle)


def planted(voxel_size: float, motion: float, seed: int) -> Planted:
    anatomy = phantom(voxel_size)
    bval, gradient = scan.gradient_scheme(N_DIRECTIONS, 2, 1000.0)
    protocol = simulation.Protocol(bval, gradient, 30.0, motion, motion, 4.0)
    none = np.zeros(len(anatomy.names))
    found = simulation.simulate_scan(anatomy, none, protocol, np.random.SeedSequence(seed))
    affine, weighted = anatomy.scan_affine, bval > 50
    bvec = world_to_bvec(gradient, affine)
    b0, dwi = (found.dwi[..., v].mean(axis=-1) for v in (~weighted, weighted))
    mask = kernel.brain_mask(b0, dwi, affine)
    brain = scan.true_fa(anatomy, anatomy.fields, found.head) > 0
    estimate = kernel.estimate_motion(found.dwi, bval, bvec, affine, mask)
    return Planted(anatomy, found, bval, bvec, brain, mask, estimate)


@pytest.fixture(scope="module")
def moving() -> Planted:
    return planted(2.5, 1.0, 5)


@pytest.fixture(scope="module")
def still() -> Planted:
    return planted(4.0, 0.0, 4)


def test_estimate_motion__planted_motion_is_recovered(moving: Planted) -> None:
    shift, angle = moving.errors()
    assert np.median(shift) < 0.4
    assert np.median(angle) < 0.4
    unmoved = np.linalg.norm(moving.scan.motion[:, :3], axis=1)
    assert np.median(unmoved) > 1.2  # what would stay without


def test_estimate_motion__still_heads_stay(still: Planted) -> None:
    shift, angle = still.errors()
    assert shift.max() < 0.2
    assert np.median(angle) < 0.5
    assert (still.motion.eddy_displacement() < 0.5).all()


def test_estimate_motion__volume_zero_is_not_touched(moving: Planted) -> None:
    assert np.array_equal(moving.motion.matrices[0], np.eye(4))


def moved(matrices: NDArray[np.float64], rotations: NDArray[np.float64]) -> kernel.Motion:
    """Motion about the world's origin, without eddy currents."""
    still = kernel.no_motion((3, len(matrices)), np.eye(4), np.ones((3, 3, 3), dtype=bool))
    return dataclasses.replace(still, matrices=matrices, rotations=rotations, centre=np.zeros(3))


def test_correct_motion__rotates_the_directions_with_the_head(moving: Planted) -> None:
    dwi = moving.scan.dwi[..., :4].copy()
    turn = moving.rotations[:4]
    exact = moved(np.array([registration.about(r, np.zeros(3), np.zeros(3)) for r in turn]), turn)
    bvec, _ = kernel.correct_motion(dwi, moving.bvec[:4], moving.affine, exact)
    # the head turned by R sees the gradient g as Rᵀg; the LAS scan's axes are those of the world
    # but for x, which runs to the left
    left = np.diag([-1.0, 1.0, 1.0])
    truth = [left @ r.T @ left @ g for r, g in zip(turn, moving.bvec[:4], strict=True)]
    assert np.allclose(bvec, truth, atol=1e-6)
    assert abs(bvec - moving.bvec[:4]).max() > 0.005


def fa_error(planted: Planted, dwi: NDArray[np.float32], bvec: NDArray[np.float64]) -> float:
    """Mean error of FA in white matter."""
    truth = scan.true_fa(planted.anatomy, planted.scan.fields, planted.scan.head)
    maps = fit_tensor(dwi, planted.bval, bvec, planted.brain)
    white = ndimage.binary_erosion(planted.brain, iterations=2)
    return float(abs(maps.fa - truth)[white].mean())


def test_correct_motion__fa_comes_closer_to_the_truth(moving: Planted) -> None:
    before = fa_error(moving, moving.scan.dwi, moving.bvec)
    dwi = moving.scan.dwi.copy()
    bvec, covered = kernel.correct_motion(dwi, moving.bvec, moving.affine, moving.motion)
    after = fa_error(moving, dwi, bvec)
    assert after < 0.8 * before
    assert covered[moving.brain].mean() > 0.95
    assert dwi.min() >= 0


def test_brain_mask__covers_the_brain(moving: Planted, still: Planted) -> None:
    for each in (moving, still):
        overlap = 2 * (each.mask & each.brain).sum() / (each.mask.sum() + each.brain.sum())
        assert overlap > 0.9


def test_brain_mask__a_thin_object_is_kept() -> None:
    image = np.random.default_rng(0).random((40, 40, 40)) / 10
    image[8:32, 8:32, 18:24] = 10  # mm
    mask = kernel.brain_mask(image.astype(np.float32), image.astype(np.float32), np.eye(4))
    truth = image > 5
    assert 2 * (mask & truth).sum() / (mask.sum() + truth.sum()) > 0.9


def test_framewise_displacement__by_hand() -> None:
    """Translations by 1 and 2 mm, then 0.01 rad: 3 mm, then 50 x 0.01 mm."""
    matrices = np.tile(np.eye(4), (3, 1, 1))
    matrices[1:, :3, 3] = [1, 2, 0]
    rotations = np.tile(np.eye(3), (3, 1, 1))
    rotations[2] = registration.rotation_matrix(np.array([0, 0, 0.01]))
    matrices[2, :3, :3] = rotations[2]
    motion = moved(matrices, rotations)
    assert np.allclose(motion.framewise_displacement(), [0, 3, 0.5], atol=1e-6)
    assert np.allclose(motion.parameters()[2], [1, 2, 0, 0, 0, 0.01], atol=1e-8)


def poses(parameters: NDArray[np.float64], centre: NDArray[np.float64]) -> NDArray[np.float64]:
    """Matrices of translations of a centre (mm) and rotation vectors (radians)."""
    return np.array(
        [registration.about(registration.rotation_matrix(p[3:]), p[:3], centre) for p in parameters]
    )


def test_settle__motion_that_looks_like_contrast_is_taken_out() -> None:
    """Of a slow drift, with a jump, under motion that follows a direction's second harmonic."""
    _, direction = scan.gradient_scheme(40, 4, 1000.0)
    direction = direction[np.r_[0, 1 + np.random.default_rng(0).permutation(43)]]
    shell = np.flatnonzero(direction.any(axis=1))
    centre = np.array([1.0, 2.0, 3.0])
    drift = np.zeros((44, 6))
    drift[:, 1] = np.linspace(0, 2, 44)
    drift[20:, 4] = 0.02
    false = np.zeros((44, 6))
    false[shell, 2] = direction[shell, 0] * direction[shell, 1]
    false[shell, 3] = 0.01 * (direction[shell, 2] ** 2 - 1 / 3)
    false[shell] -= false[shell].mean(axis=0)

    found = poses(drift + false, centre)
    still = np.tile(np.eye(3), (44, 1, 1))
    kernel._settle(found, still, centre, direction, [shell])
    assert abs(found - poses(drift, centre))[:, :3, :3].max() < 0.002
    places = (found - poses(drift, centre)) @ np.append(centre, 1)
    assert abs(places).max() < 0.1
    assert abs(false[:, 2]).max() > 0.4
    spiral = np.zeros((40, 3))  # from pole to pole: neighbours in time are neighbours
    spiral[:, 2] = np.linspace(-1, 1, 40)
    spiral[:, 0] = np.sqrt(1 - spiral[:, 2] ** 2)
    slow = np.zeros((40, 6))
    slow[:, 2] = spiral[:, 2] ** 2
    given = poses(slow, centre)
    kernel._settle(given, still[:40], centre, spiral, [np.arange(40)])
    assert np.allclose(given, poses(slow, centre))


def test_join__shells_that_seem_to_jump_come_together() -> None:
    """As far as the head is still otherwise; the shifts of eddy currents stay."""
    _, direction = scan.gradient_scheme(40, 4, 1000.0)
    direction = direction[np.r_[0, 1 + np.random.default_rng(0).permutation(43)]]
    shell = np.flatnonzero(direction.any(axis=1))
    centre = np.array([1.0, 2.0, 3.0])
    rng = np.random.default_rng(1)
    walk = np.cumsum(rng.standard_normal((44, 6)) * np.repeat([0.03, 0.0005], 3), axis=0)
    walk[shell, 1] += 0.5 * direction[shell, 0]
    wrong = walk.copy()
    wrong[shell] += [0.1, -0.2, 0.2, 0.003, 0, 0]
    still = np.tile(np.eye(3), (44, 1, 1))

    def left(step: float) -> float:
        """Share of the error that stays where the head also moves at random."""
        moves = rng.standard_normal((44, 6)) * np.repeat([step, step / 50], 3)
        found, truth = (poses(motion + moves, centre) for motion in (wrong, walk))
        kernel._join(found, still, centre, direction, [shell])
        gap = (found - truth) @ np.append(centre, 1)
        off = gap[shell].mean(axis=0) - np.delete(gap, shell, axis=0).mean(axis=0)
        return float(np.linalg.norm(off) / np.linalg.norm([0.1, 0.2, 0.2]))

    assert left(0.0) < 0.2
    assert 0.5 < left(3.0) < 1.5
    wrong[shell, 0] += 1.0  # more than a registration errs: the head moved then
    found, truth = (poses(motion, centre) for motion in (wrong, walk))
    kernel._join(found, still, centre, direction, [shell])
    assert ((found - truth) @ np.append(centre, 1))[shell, 0].mean() > 0.85


def test_eddy_displacement__by_hand() -> None:
    stretch = np.tile(np.eye(3), (2, 1, 1))
    stretch[1, 1, 1] = 1.02  # 2% of 50 mm
    still = kernel.no_motion((3, 2), np.eye(4), np.ones((3, 3, 3), dtype=bool))
    motion = dataclasses.replace(still, stretch=stretch)
    assert np.allclose(motion.eddy_displacement(), [0, 1])
    assert np.allclose(still.eddy_displacement(), 0)


def test_eddy_stretch__a_planted_shear_is_found() -> None:
    """Shear along y and scale of y that follow the gradient, under rotations that do not."""
    _, direction = scan.gradient_scheme(20, 0, 1000.0)
    rng = np.random.default_rng(0)
    truth = np.tile(np.eye(3), (20, 1, 1))
    truth[:, 1, :] += direction @ rng.normal(0, 0.01, (3, 3))
    turn = [registration.rotation_matrix(0.002 * v) for v in rng.normal(size=(20, 3))]
    shift = np.zeros((20, 3))
    shift[:, 1] = direction @ [1.0, 0.5, -0.7]
    found = eddy.eddy_stretch(np.array(turn) @ truth, shift, direction)
    assert abs(found - truth).max() < 0.002
    assert abs(truth - np.eye(3)).max() > 0.01


def test_eddy_stretch__nothing_where_nothing_follows_the_gradient() -> None:
    _, direction = scan.gradient_scheme(20, 0, 1000.0)
    rng = np.random.default_rng(0)
    linear = np.eye(3) + rng.normal(0, 0.01, (20, 3, 3))
    found = eddy.eddy_stretch(linear, rng.normal(size=(20, 3)), direction)
    assert np.array_equal(found, np.tile(np.eye(3), (20, 1, 1)))
    few = eddy.eddy_stretch(linear[:7], np.zeros((7, 3)), direction[:7])
    assert np.array_equal(few, np.tile(np.eye(3), (7, 1, 1)))


def test_eddy_shift__what_follows_the_gradient_is_no_motion() -> None:
    """Eddy currents move along y, the head along all axes; FD is that of the head."""
    _, direction = scan.gradient_scheme(20, 0, 1000.0)
    rng = np.random.default_rng(1)
    head = rng.normal(0, 0.2, (20, 3))
    eddies = np.zeros((20, 3))
    eddies[:, 1] = direction @ [1.0, 2.0, -1.5]
    found = eddy.eddy_shift(head + eddies, direction)
    assert abs(found - eddies).max() < 0.3
    assert not found[:, [0, 2]].any()

    def displacement(shift: NDArray[np.float64], told: NDArray[np.float64]) -> float:
        matrices = np.tile(np.eye(4), (20, 1, 1))
        matrices[:, :3, 3] = shift
        motion = moved(matrices, np.tile(np.eye(3), (20, 1, 1)))
        told_motion = dataclasses.replace(motion, eddy_shift=told)
        return float(told_motion.framewise_displacement().mean())

    truth = displacement(head, np.zeros((20, 3)))
    assert displacement(head + eddies, found) == pytest.approx(truth, rel=0.15)
    assert displacement(head + eddies, np.zeros((20, 3))) > 2 * truth


def test_eddy_shift__motion_stays_motion() -> None:
    _, direction = scan.gradient_scheme(20, 0, 1000.0)
    head = np.random.default_rng(1).normal(size=(20, 3))
    assert not eddy.eddy_shift(head, direction).any()
    assert not eddy.eddy_shift(direction[:7], direction[:7]).any()  # too few to tell


def test_estimate_motion__lost_slices_move_no_volume(still: Planted) -> None:
    """A third of the slices of some volumes is noise: they are found, and no volume goes astray."""
    rng = np.random.default_rng(0)
    dwi = still.scan.dwi.copy()
    slices = np.flatnonzero(still.mask.any(axis=(0, 1)))
    n = len(slices) // 3
    dropped = np.zeros((dwi.shape[2], dwi.shape[3]), dtype=bool)
    for volume, first in ((4, 2), (9, n)):
        taken = slices[first : first + n]
        noise = rng.rayleigh(30, (*dwi.shape[:2], n))
        dwi[:, :, taken, volume] = noise.astype(np.float32)
        dropped[taken, volume] = True
    found = kernel.estimate_motion(dwi, still.bval, still.bvec, still.affine, still.mask)
    assert found.lost[dropped].mean() > 0.9
    assert np.linalg.norm(found.parameters()[:, :3], axis=1).max() < 0.5

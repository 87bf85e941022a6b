"""Slices without signal are found and replaced, and no others."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray

from axoloci.io.gradients import world_to_bvec
from axoloci.tasks.preprocess import kernel
from axoloci.tasks.preprocess.outliers import is_outlier, replace_slices, slice_scores
from axoloci.tasks.simulate import kernel as simulation
from axoloci.tasks.simulate import scan
from axoloci.tasks.simulate.anatomy import phantom


@dataclass(frozen=True)
class Dropped:
    """A scan with slices of no signal, and the same scan whole."""

    dwi: NDArray[np.float32]
    whole: NDArray[np.float32]
    lost: NDArray[np.bool_]
    bval: NDArray[np.float64]
    bvec: NDArray[np.float64]
    affine: NDArray[np.float64]
    mask: NDArray[np.bool_]

    @property
    def shell(self) -> NDArray[np.intp]:
        return np.flatnonzero(self.bval > 50)


def drop(motion: float, seed: int) -> Dropped:
    anatomy = phantom(4.0)
    bval, gradient = scan.gradient_scheme(24, 2, 1000.0)
    protocol = simulation.Protocol(bval, gradient, 20.0, motion, motion, 4.0)
    none = np.zeros(len(anatomy.names))
    found = simulation.simulate_scan(anatomy, none, protocol, np.random.SeedSequence(seed))
    rng = np.random.default_rng(seed)
    lost = (rng.random((anatomy.shape[2], len(bval))) < 0.03) & (bval > 50)
    dwi = found.dwi * np.where(lost, rng.uniform(0, 0.7, lost.shape), 1).astype(np.float32)
    bvec = world_to_bvec(gradient, anatomy.scan_affine)
    b0, mean = (dwi[..., v].mean(axis=-1) for v in (bval < 50, bval > 50))
    mask = kernel.brain_mask(b0, mean, anatomy.scan_affine)
    return Dropped(dwi, found.dwi, lost, bval, bvec, anatomy.scan_affine, mask)


@pytest.fixture(scope="module")
def still() -> Dropped:
    return drop(0.0, 1)


def test_slice_scores__lost_slices_are_found_and_no_others(still: Dropped) -> None:
    stay = np.tile(np.eye(4), (len(still.bval), 1, 1))
    loss, score = slice_scores(still.dwi, still.affine, still.mask, stay, still.bvec, still.shell)
    lost = still.lost[:, still.shell]
    known = ~np.isnan(score)
    assert lost[known].sum() > 15
    assert np.array_equal(is_outlier(loss, score)[known], lost[known])
    assert not is_outlier(loss, score)[~known].any()
    whole = slice_scores(still.whole, still.affine, still.mask, stay, still.bvec, still.shell)
    assert not is_outlier(*whole).any()


def test_is_outlier__half_of_the_signal_is_lost_whatever_the_spread() -> None:
    loss, score = np.array([[-0.9, -0.3, -0.3, -0.04]]), np.array([[-3.5, -3.5, -4.5, -4.5]])
    assert is_outlier(loss, score).tolist() == [[True, False, True, False]]


def test_replace_slices__the_signal_comes_back(still: Dropped) -> None:
    stay = np.tile(np.eye(4), (len(still.bval), 1, 1))
    dwi = still.dwi.copy()
    replace_slices(dwi, still.affine, stay, still.bvec, still.shell, still.lost[:, still.shell])
    assert np.array_equal(dwi.transpose(2, 3, 0, 1)[~still.lost],
                          still.dwi.transpose(2, 3, 0, 1)[~still.lost])  # fmt: skip
    brain = still.mask[..., None] & still.lost
    before = np.abs(still.dwi - still.whole)[brain].mean()
    assert np.abs(dwi - still.whole)[brain].mean() < 0.25 * before


def test_estimate_motion__finds_lost_slices_of_a_moving_head() -> None:
    scanned = drop(0.7, 2)
    dwi = scanned.dwi.copy()
    motion = kernel.estimate_motion(dwi, scanned.bval, scanned.bvec, scanned.affine, scanned.mask)
    known = ~np.isnan(motion.score)
    assert (motion.lost & scanned.lost & known).sum() >= 0.9 * (scanned.lost & known).sum() > 10
    assert (motion.lost & ~scanned.lost).sum() <= 2
    assert np.array_equal(dwi.transpose(2, 3, 0, 1)[~motion.lost],
                          scanned.dwi.transpose(2, 3, 0, 1)[~motion.lost])  # fmt: skip
    assert motion.lost.shape == motion.score.shape == (scanned.dwi.shape[2], len(scanned.bval))

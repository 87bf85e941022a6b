"""What a scanner adds to an image besides noise: susceptibility distortion, dropout, ringing.

Air in the frontal sinus and the ear canals bends the magnetic field, and echo-planar imaging takes
the change of frequency for a place: signal moves along the phase-encoding axis, here the world's y,
and piles up or thins out by the Jacobian. The opposite phase encoding moves it the other way.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import signal

from axoloci.tasks.simulate.anatomy import Anatomy

# Of the air: place as a share of the brain's half extents along x, y, z from its centre, peak of
# the displacement relative to the sinus's, and width (sigma) as a share of the mean half extent.
AIR = (
    ((0.0, 0.75, -0.45), 1.0, 0.27),
    ((-0.7, 0.0, -0.5), 0.6, 0.22),
    ((0.7, 0.0, -0.5), 0.6, 0.22),
)
PHASE = 1  # axis of the world, and of the scan's voxels, along which signal is displaced
N_STEPS = 25  # of the inverse; each shortens the error by the slope, 0.6 at the largest distortion
MAX_KEPT = 0.5  # of the signal of a dropped slice


@dataclass(frozen=True)
class Susceptibility:
    """Displacement of a scan's signal along y, fixed to the head.

    Attributes
    ----------
    centre
        (k, 3) places of the air, mm, in the person's scan at volume 0.
    peak, width
        (k,) mm; largest displacement and sigma of each.
    offset
        mm, taken off everywhere: a scanner is tuned to the frequency of most of the brain.
    """

    centre: NDArray[np.float64]
    peak: NDArray[np.float64]
    width: NDArray[np.float64]
    offset: float = 0.0

    def field(
        self, points: NDArray[np.floating]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(n,) displacement in mm at (n, 3) points of undistorted space; (n, 3) its gradient."""
        value, gradient = np.full(len(points), -self.offset), np.zeros((len(points), 3))
        for centre, peak, width in zip(self.centre, self.peak, self.width, strict=True):
            away = (points - centre) / width
            bump = peak * np.exp(-0.5 * (away**2).sum(axis=1))
            value += bump
            gradient -= (bump / width)[:, None] * away
        return value, gradient

    def undistorted(
        self,
        points: NDArray[np.floating],
        shift: NDArray[np.float64],
        turn: NDArray[np.float64],
        polarity: int,
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Where the signal at each point of an image comes from, and what it is multiplied by.

        Parameters
        ----------
        points
            (n, 3) mm.
        shift, turn
            (3,) mm and (3, 3): the head's pose relative to volume 0; the field moves with it.
        polarity
            1 for the scan's own phase encoding, -1 for the reverse one.
        """
        place = np.array(points, dtype=np.float64)
        for _ in range(N_STEPS):
            value, gradient = self.field((place - shift) @ turn)
            place[:, PHASE] = points[:, PHASE] - polarity * value
        slope = gradient @ turn[PHASE]
        return place.astype(np.float32), (1 / (1 + polarity * slope)).astype(np.float32)


def plant_susceptibility(
    anatomy: Anatomy, air: NDArray[np.float64], brain: NDArray[np.float64], distortion_mm: float
) -> Susceptibility:
    """The field of a head whose largest displacement is `distortion_mm`, towards the back.

    Parameters
    ----------
    air
        (k, 3) places of `AIR` in the person's scan, mm.
    brain
        (n, 3) points of the brain there: half of them are displaced to the front, half to the back.
    """
    peak = -distortion_mm * np.array([relative for _, relative, _ in AIR])
    width = np.array([share for *_, share in AIR]) * brain_box(anatomy)[1].mean()
    field = Susceptibility(air, peak, width)
    return Susceptibility(air, peak, width, float(np.median(field.field(brain)[0])))


def brain_box(anatomy: Anatomy) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Centre (3,) and half extents (3,) of the brain, mm."""
    corner = [np.flatnonzero(anatomy.brain.any(axis=others))[[0, -1]] for others in _OTHERS]
    ends = np.array(corner).T @ anatomy.affine[:3, :3].T + anatomy.affine[:3, 3]  # (2, 3)
    return ends.mean(axis=0), np.abs(np.diff(ends, axis=0)[0]) / 2


_OTHERS = ((1, 2), (0, 2), (0, 1))


def air_places(anatomy: Anatomy) -> NDArray[np.float64]:
    """(k, 3) template points of `AIR`, mm."""
    centre, half = brain_box(anatomy)
    return np.asarray(centre + half * np.array([place for place, *_ in AIR]))


def truncate(fine: NDArray[np.float32]) -> NDArray[np.float32]:
    """Crop the k-space of an image (2x, 2y, z) of half the voxel size to (x, y, z).

    The sharp end of k-space rings beside edges (Gibbs). Voxel i keeps the place of voxel 2i.
    """
    for axis in (0, 1):
        fine = signal.resample(fine, fine.shape[axis] // 2, axis=axis)
    return np.abs(fine)


def drop_slices(
    dwi: NDArray[np.float32], weighted: NDArray[np.bool_], share: float, rng: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Let the signal of some slices of weighted volumes fall, as motion during readout does.

    Parameters
    ----------
    dwi
        (x, y, z, g) without noise.
    weighted
        (g,).
    share
        Of the slices that hold any signal.

    Returns
    -------
    (dwi, dropped)
        (x, y, z, g); (m, 3) volume, slice and the share of the signal that is left.
    """
    slices, volumes = np.nonzero(dwi.any(axis=(0, 1)) & weighted)
    chosen = np.flatnonzero(rng.random(len(slices)) < share)
    kept = rng.uniform(0, MAX_KEPT, len(chosen))
    factor = np.ones(dwi.shape[2:], dtype=np.float32)
    factor[slices[chosen], volumes[chosen]] = kept
    return dwi * factor, np.column_stack([volumes[chosen], slices[chosen], kept])

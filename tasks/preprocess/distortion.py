"""Susceptibility distortion, from two b0 images of opposite phase encoding.

Echo-planar imaging displaces signal along the phase-encoding axis by the local change of the
magnetic field, and the opposite phase encoding displaces it the other way. The field d is the one
whose undoing makes both images alike (doi:10.1016/S1053-8119(03)00336-7),

    forward(x + d e) (1 + d') = reverse(M x - s d e) (1 - s d'),

where e is the axis, M the head's motion between the two images, s the ratio of their readout times,
and the factors with d' (the slope along e) keep the sum of the signal. Field and motion are found
together by Gauss-Newton steps from coarse to fine; a barrier keeps both factors above 0
(doi:10.1088/0031-9155/57/18/5715), so that the displacement can be inverted.

The pair leaves one number open: a uniform displacement looks like a shift of the head. It is set so
that half of the head is displaced each way, as scanners are tuned to most of the signal.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import cast

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.sparse.linalg import LinearOperator, cg

from axoloci import registration

Array = NDArray[np.float64]

LEVELS_MM = ((8.0, 10.0), (4.0, 6.0), (4.0, 4.0), (0.0, 2.5))
"""Voxel spacing and smoothing (full width at half maximum), from coarse to fine; 0: no coarser."""

STIFFNESS = 1.0
"""Weight (mm²) of the displacement's mean squared Laplacian beside the mean squared difference of
the images, whose mean in the head is 1. In a real head with planted fields 0.3 to 3 do as well."""

BARRIER = 0.1
"""Weight of the mean of v⁴ / (1 - v²), v the slope along the axis: next to none below 0.3."""

MAX_SLOPE = 0.9
"""Of displacement along the axis: a step beyond is halved."""

MAX_STEPS, MAX_HALVINGS = 8, 4
TOLERANCE_MM = 0.02
"""A level ends when the root mean square of a step of the displacement is below."""

MAX_CG, CG_TOLERANCE = 40, 0.03
"""Of the conjugate gradients in a step: an inexact step is as good as an exact one."""


@dataclass(frozen=True)
class Field:
    """Susceptibility displacement of a scan.

    Attributes
    ----------
    displacement
        [float32, shape: (x, y, z)] Where the scan's signal lies, mm along `axis` from its place in
        undistorted space; on the grid of the scan and with the head of the forward image.
    axis
        [float64, shape: (3,)] Unit vector of the phase encoding in the world, along the voxels'
        order.
    affine
        [float64, shape: (4, 4)] Voxel to world, mm.
    reverse_matrix
        [float64, shape: (4, 4)] The head's motion: world of the forward to that of the reverse
        image, mm.
    """

    displacement: NDArray[np.float32]
    axis: Array
    affine: Array
    reverse_matrix: Array

    def sampling(self, matrix: Array, factor: float = 1.0) -> tuple[Array, Array]:
        """Where to sample a volume for each undistorted voxel, and by what to multiply it there.

        The head moves and takes the field along, but the displacement stays along the scanner's
        axis: the signal of a point x lies at M x + factor d(x) e. So motion, eddy currents and
        distortion are undone by one interpolation.

        Parameters
        ----------
        matrix
            (4, 4) world of the forward image to the volume's world, mm: `Motion.matrices[v]`.
        factor
            1 for volumes with the forward image's phase encoding, minus the ratio of the readout
            times for the reverse one's.

        Returns
        -------
        (place, gain)
            (3, x, y, z) voxels of the volume; (x, y, z) determinant of that map, above 0.
        """
        shift = factor * self.displacement.astype(np.float64)
        voxel = np.linalg.inv(self.affine) @ matrix @ self.affine
        along = np.linalg.inv(self.affine)[:3, :3] @ self.axis  # (3,) voxels a mm
        place = _places(voxel, shift.shape) + along[:, None, None, None] * shift
        slopes = np.stack(list(np.gradient(shift, axis=(0, 1, 2))))  # (3, x, y, z) a voxel
        gain = 1 + np.tensordot(np.linalg.inv(voxel[:3, :3]) @ along, slopes, 1)
        return place, np.linalg.det(matrix[:3, :3]) * gain

    def apply(
        self, volume: NDArray[np.float32], matrix: Array, factor: float = 1.0, order: int = 3
    ) -> NDArray[np.float32]:
        """A volume (x, y, z) in undistorted space; see `sampling`, `registration.resample`."""
        place, gain = self.sampling(matrix, factor)
        moved = ndimage.map_coordinates(volume, place, np.float32, order, "nearest")
        return np.asarray(moved * gain, dtype=np.float32)


def likeness(
    field: Field,
    forward: NDArray[np.float32],
    reverse: NDArray[np.float32],
    readout_ratio: float,
    brain: NDArray[np.bool_],
) -> tuple[float, float]:
    """Correlation in the brain of two b0s of opposite phase encoding, before and after correction.

    Parameters
    ----------
    forward, reverse
        (x, y, z), as in `estimate_field`.
    brain
        (x, y, z).
    """
    motion_alone = replace(field, displacement=np.zeros_like(field.displacement))

    def correlation(of: Field) -> float:
        one = of.apply(forward, np.eye(4), order=1)[brain]
        other = of.apply(reverse, field.reverse_matrix, -readout_ratio, order=1)[brain]
        return float(np.corrcoef(one, other)[0, 1])

    return correlation(motion_alone), correlation(field)


def _places(voxel: Array, shape: tuple[int, ...]) -> Array:
    """(3, x, y, z) places of a grid's voxels under the (4, 4) matrix `voxel`."""
    grid = np.indices(shape, sparse=True)
    return np.stack([row[3] + sum(row[k] * grid[k] for k in range(3)) for row in voxel[:3]])


def estimate_field(
    forward: NDArray[np.float32],
    reverse: NDArray[np.float32],
    affine: Array,
    axis: int,
    readout_ratio: float = 1.0,
) -> Field:
    """Displacement by susceptibility, and the head's motion between the two images.

    Parameters
    ----------
    forward, reverse
        (x, y, z) b0s of the scan and of opposite phase encoding, on one grid: the mean of several
        once these are aligned.
    affine
        (4, 4) voxel to world, mm.
    axis
        Of the phase encoding: 0, 1 or 2.
    readout_ratio
        Readout time of the reverse image over that of the forward one.
    """
    pair = [image / np.float32(max(_head_mean(image), 1e-30)) for image in (forward, reverse)]
    matrix = np.eye(4)
    displacement: Array = np.zeros((2, 2, 2))
    small_affine = affine
    for spacing, fwhm in LEVELS_MM:
        before = small_affine
        (f, small_affine), (r, _) = (
            registration.downsample(image, affine, spacing, fwhm) for image in pair
        )
        start = registration.resample(
            displacement.astype(np.float32), before, np.eye(4), f.shape, small_affine, order=1
        )
        level = _Level(f, r, small_affine, axis, readout_ratio)
        displacement, matrix = level.centre(*level.descend(start.astype(np.float64), matrix))
    return Field(displacement.astype(np.float32), level.axis, affine, matrix)


def _head_mean(image: NDArray[np.float32]) -> float:
    """Mean over voxels above the mean: those of the head."""
    return float(image[image >= image.mean()].mean())


class _Level:
    """The pair of images at one spacing, and the steps there."""

    def __init__(
        self,
        forward: NDArray[np.float32],
        reverse: NDArray[np.float32],
        affine: Array,
        phase: int,
        ratio: float,
    ) -> None:
        self.affine, self.phase, self.ratio = affine, phase, ratio
        self.shape = forward.shape
        self.size = np.linalg.norm(affine[:3, :3], axis=0)  # (3,) mm
        self.axis = affine[:3, phase] / self.size[phase]
        self.step = np.zeros((3, 1, 1, 1))  # voxels a mm along the axis
        self.step[phase] = 1 / self.size[phase]
        self.points = _places(affine, self.shape)  # (3, x, y, z) mm
        self.middle = self.points.mean(axis=(1, 2, 3))
        self.points -= self.middle[:, None, None, None]
        self.splines = [ndimage.spline_filter(image, 3, np.float32) for image in (forward, reverse)]
        self.forward_slope = np.gradient(forward, axis=phase) / self.size[phase]  # a mm
        self.reverse_slopes = np.tensordot(  # (3, x, y, z) a mm of the world
            np.linalg.inv(affine[:3, :3]).T, np.stack(list(np.gradient(reverse, axis=(0, 1, 2)))), 1
        ).astype(np.float32)

    def slope(self, d: Array) -> Array:
        """Change along the axis, mm a mm; wrong at both ends, where it is not used.

        Antisymmetric: its transpose is its negative.
        """
        kernel = np.array([-0.5, 0, 0.5]) / self.size[self.phase]
        return cast(Array, ndimage.correlate1d(d, kernel, self.phase, mode="constant"))

    def laplacian(self, d: Array) -> Array:
        """Symmetric, with free ends."""
        total = np.zeros(self.shape)
        for k, h in enumerate(self.size):
            total += ndimage.correlate1d(d, np.array([1.0, -2, 1]) / h**2, k, mode="nearest")
        return total

    def look(self, d: Array, matrix: Array) -> _View:
        """Both images without displacement and motion."""
        voxel = np.linalg.inv(self.affine) @ matrix @ self.affine
        places = (
            _places(np.eye(4), self.shape) + self.step * d,
            _places(voxel, self.shape) - self.ratio * self.step * d,
        )
        limit = np.array(self.shape)[:, None, None, None] - 1
        inside = np.ones(self.shape, dtype=bool)
        for place in places:
            inside &= ((place >= 0) & (place <= limit)).all(axis=0)
        np.moveaxis(inside, self.phase, 0)[[0, -1]] = False
        f, r = (
            ndimage.map_coordinates(spline, place, np.float64, 3, "nearest", prefilter=False)
            for spline, place in zip(self.splines, places, strict=True)
        )
        slope = self.slope(d)
        residual = (f * (1 + slope) - r * (1 - self.ratio * slope)) * inside
        barrier = (slope**4 / (1 - slope**2)).mean()
        energy = (residual**2).sum() / max(1, inside.sum()) + BARRIER * barrier
        energy += STIFFNESS * (self.laplacian(d) ** 2).mean()
        if max(1.0, self.ratio) * abs(slope).max() > MAX_SLOPE:
            energy = np.inf
        return _View(places, inside, f, r, slope, residual, float(energy))

    def solve(self, d: Array, matrix: Array, view: _View) -> tuple[Array, Array]:
        """Gauss-Newton step of the displacement (x, y, z), and of the motion (6,), mm and rad."""
        turn, s = matrix[:3, :3], self.ratio
        at_forward, at_reverse = view.places
        near = {"order": 1, "mode": "nearest"}
        df = ndimage.map_coordinates(self.forward_slope, at_forward, np.float64, **near)
        dr = [
            ndimage.map_coordinates(g, at_reverse, np.float64, **near) for g in self.reverse_slopes
        ]
        less = 1 - s * view.slope
        along = np.tensordot(self.axis, np.stack(dr), 1)
        a = (df * (1 + view.slope) + s * along * less) * view.inside  # by the displacement
        b = (view.forward + s * view.reverse) * view.inside  # by its slope
        pull = np.tensordot(turn.T, np.stack(dr), 1) * less * view.inside  # (3, x, y, z)
        p = -np.concatenate([pull, np.cross(self.points, pull, axis=0)])  # (6, x, y, z)

        n, share = d.size, d.size / max(1, view.inside.sum())
        v2 = view.slope**2
        bend = BARRIER * v2 * (6 - 3 * v2 + v2**2) / (1 - v2) ** 3  # half the second derivative
        push = BARRIER * view.slope**3 * (2 - v2) / (1 - v2) ** 2  # half the first
        scale = np.sqrt(share * (p**2).sum(axis=(1, 2, 3))) + 1e-12  # (6,)
        p = p / scale[:, None, None, None]

        def split(x: Array) -> tuple[Array, Array]:
            return x[:n].reshape(self.shape), x[n:]

        def normal(x: Array) -> Array:
            field, motion = split(x)
            rise = self.slope(field)
            change = share * (a * field + b * rise + np.tensordot(motion, p, 1))
            of_field = a * change - self.slope(b * change + bend * rise)
            of_field += STIFFNESS * self.laplacian(self.laplacian(field))
            return np.concatenate([of_field.ravel(), np.tensordot(p, change, 3)])

        e = share * view.residual
        gradient = a * e - self.slope(b * e + push)
        gradient += STIFFNESS * self.laplacian(self.laplacian(d))
        right = -np.concatenate([gradient.ravel(), np.tensordot(p, e, 3)])
        h2 = 1 / self.size**2
        diagonal = share * (a**2 + b**2 * h2[self.phase] / 2) + bend * h2[self.phase] / 2
        diagonal += STIFFNESS * (4 * h2.sum() ** 2 + 2 * (h2**2).sum())
        inverse = np.concatenate([1 / diagonal.ravel(), np.ones(6)])
        size = (n + 6, n + 6)
        x, _ = cg(
            LinearOperator(size, matvec=normal, dtype=np.float64),
            right,
            rtol=CG_TOLERANCE,
            maxiter=MAX_CG,
            M=LinearOperator(size, matvec=lambda x: inverse * x, dtype=np.float64),
        )
        field, motion = split(x)
        return field, motion / scale

    def descend(self, d: Array, matrix: Array) -> tuple[Array, Array]:
        """Displacement and motion after the steps of this level."""
        view = self.look(d, matrix)
        for _ in range(MAX_STEPS):
            step, motion = self.solve(d, matrix, view)
            for _ in range(MAX_HALVINGS):
                new = matrix @ registration.about(
                    registration.rotation_matrix(motion[3:]), motion[:3], self.middle
                )
                there = self.look(d + step, new)
                if there.energy < view.energy:
                    break
                step, motion = 0.5 * step, 0.5 * motion
            else:
                break
            d, matrix, view = d + step, new, there
            if np.sqrt((step**2).mean()) < TOLERANCE_MM:
                break
        return d, matrix

    def centre(self, d: Array, matrix: Array) -> tuple[Array, Array]:
        """The same images explained by a displacement whose median in the head is 0."""
        view = self.look(d, matrix)
        head = view.forward + view.reverse
        c = float(np.median(d[head >= head.mean()]))
        shift = np.eye(4)
        shift[:3, 3] = -c * self.axis
        moved = ndimage.shift(d, c * self.step.ravel(), order=1, mode="nearest") - c
        back = np.eye(4)
        back[:3, 3] = -c * self.ratio * self.axis
        return moved, back @ matrix @ shift


@dataclass(frozen=True)
class _View:
    """Both images at the points of undistorted space, each (x, y, z).

    `places` are the voxels (3, x, y, z) sampled in either; `inside` is true where both hold the
    point; the images are not modulated, the residual is.
    """

    places: tuple[Array, Array]
    inside: NDArray[np.bool_]
    forward: Array
    reverse: Array
    slope: Array
    residual: Array
    energy: float

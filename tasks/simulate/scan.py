"""One scan of one head: gradient scheme, pose and motion, diffusion signal, Rician noise.

Frames: a *template* point is a place in the anatomy; a *reference* point is where it lies in the
person's scan at volume 0; a volume's own pose moves it on. All are RAS mm, and rotations turn about
the centre of the field of view. Pose and motion turn the fibres with the head; the individual
deformation moves them without turning. The scanner's gradients stay as they are: motion correction
has to turn them.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from axoloci.tasks.simulate.anatomy import COLUMN, ROW, TWICE, Anatomy, fractional_anisotropy
from axoloci.tasks.simulate.artefacts import Susceptibility, truncate

DEFORMATION_MM = 1.5  # root mean square of the individual displacement along each axis
HEAD_SCALE_SD = 0.03
HEAD_POSE_MM, HEAD_POSE_DEG = 3.0, 3.0  # SD of how the head lies in the scanner
# Cosines of up to three half waves over the field of view: smooth, and cheap at any point.
N_WAVES = 4
_WAVE = np.indices((N_WAVES,) * 3)  # (3, 4, 4, 4) half waves along x, y, z
WAVE_SD = np.where(_WAVE.sum(axis=0) > 0, 1.0 / (1.0 + (_WAVE**2).sum(axis=0)), 0)


@dataclass(frozen=True)
class Head:
    """How one person's head differs from the template in shape, size and place.

    Attributes
    ----------
    coefficient
        (4, 4, 4, 3) mm; displacement along x, y, z of each product of three cosine waves.
    scale
        Size relative to the template.
    pose
        (6,) translation x, y, z in mm and rotation about x, y, z in radians.
    half_fov
        (3,) mm.
    """

    coefficient: NDArray[np.float64]
    scale: float
    pose: NDArray[np.float64]
    half_fov: NDArray[np.float64]

    def displacement(self, points: NDArray[np.floating]) -> NDArray[np.float32]:
        """(n, 3) displacement in mm at (n, 3) points."""
        phase = (np.pi * (points / (2 * self.half_fov) + 0.5)).astype(np.float32)
        x, y, z = np.cos(phase.T[:, :, None] * np.arange(N_WAVES, dtype=np.float32))  # (n, 4) each
        xy = (x[:, :, None] * y[:, None]).reshape(-1, 1, N_WAVES**2)  # (n, 1, 16)
        along_z = z @ self.coefficient.astype(np.float32).transpose(2, 0, 1, 3).reshape(N_WAVES, -1)
        return np.asarray((xy @ along_z.reshape(-1, N_WAVES**2, 3))[:, 0])

    def to_template(self, reference: NDArray[np.floating]) -> NDArray[np.float32]:
        """(n, 3) template points of (n, 3) reference points."""
        turn = (rotation(self.pose) / self.scale).astype(np.float32)  # x @ R is Rᵀ x
        head = (reference - self.pose[:3].astype(np.float32)) @ turn
        return np.asarray(head + self.displacement(head), dtype=np.float32)

    def from_template(self, template: NDArray[np.floating]) -> NDArray[np.float64]:
        """(n, 3) reference points of (n, 3) template points: the inverse, by fixed-point steps."""
        head: NDArray[np.floating] = template
        for _ in range(15):
            head = template - self.displacement(head)
        return np.asarray(self.scale * head @ rotation(self.pose).T + self.pose[:3])


def random_head(
    anatomy: Anatomy, rng: np.random.Generator, deformation_mm: float = DEFORMATION_MM
) -> Head:
    """Draw a head; `deformation_mm` scales shape, size and pose alike (0: the template itself)."""
    relative = deformation_mm / DEFORMATION_MM
    mean_square = 0.5 ** (_WAVE > 0).sum(axis=0)  # of a product of cosines over the field of view
    spread = deformation_mm / np.sqrt((WAVE_SD**2 * mean_square).sum())
    pose = rng.standard_normal(6) * np.repeat([HEAD_POSE_MM, np.deg2rad(HEAD_POSE_DEG)], 3)
    extent = np.abs(np.diag(anatomy.scan_affine)[:3]) * anatomy.shape
    return Head(
        coefficient=spread * WAVE_SD[..., None] * rng.standard_normal((*WAVE_SD.shape, 3)),
        scale=float(1 + relative * HEAD_SCALE_SD * rng.standard_normal()),
        pose=relative * pose,
        half_fov=extent / 2,
    )


def rotation(pose: NDArray[np.floating]) -> NDArray[np.float64]:
    """(3, 3) rotation Rz Ry Rx of a pose; a point x moves to R x + t."""
    (cx, cy, cz), (sx, sy, sz) = np.cos(pose[3:]), np.sin(pose[3:])
    rx = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    ry = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    rz = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    return np.asarray(rz @ ry @ rx)


def random_motion(
    n_volumes: int, motion_mm: float, motion_deg: float, rng: np.random.Generator
) -> NDArray[np.float64]:
    """A random walk of the head from volume to volume.

    Returns
    -------
    (n_volumes, 6) poses in mm and radians: 0 at volume 0, and of the wanted root mean square over
    the volumes on average.
    """
    steps = rng.standard_normal((n_volumes, 6))
    steps[0] = 0
    size = np.repeat([motion_mm, np.deg2rad(motion_deg)], 3) * np.sqrt(2 / max(n_volumes - 1, 1))
    return np.asarray(np.cumsum(steps, axis=0) * size)


def _spread_directions(n_directions: int, n_starts: int = 4) -> NDArray[np.float64]:
    """See `gradient_scheme`; the best of several descents, the same ones at every call."""
    rng = np.random.default_rng(0)
    v = rng.standard_normal((n_starts, n_directions, 3))
    v /= np.linalg.norm(v, axis=2, keepdims=True)
    for step in np.geomspace(0.3, 1e-3, 200):
        force, energy = np.zeros_like(v), np.zeros(n_starts)
        for sign in (-1, 1):  # each axis repels the others and their antipodes
            gap = v[:, :, None] - sign * v[:, None]  # (n_starts, n, n, 3)
            distance = np.linalg.norm(gap, axis=3)
            distance[:, range(n_directions), range(n_directions)] = np.inf
            force += (gap / distance[..., None] ** 3).sum(axis=2)
            energy += (1 / distance).sum(axis=(1, 2))
        force -= (force * v).sum(axis=2, keepdims=True) * v  # along the sphere
        longest = np.linalg.norm(force, axis=2).max(axis=1)[:, None, None]
        v = v + step / np.sqrt(n_directions) * force / longest
        v /= np.linalg.norm(v, axis=2, keepdims=True)
    return np.asarray(v[energy.argmin()])


def gradient_scheme(
    n_directions: int, n_b0: int, b_value: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """b0 volumes first, then one shell of evenly spread directions.

    The directions minimise the electrostatic energy of axes (Jones et al., DOI
    10.1002/(SICI)1522-2594(199909)42:3<515::AID-MRM14>3.0.CO;2-Q).

    Returns
    -------
    (bval, gradient)
        (g,) s/mm²; (g, 3) unit vectors in the world's axes, 0 for b0.
    """
    bval = np.repeat([0.0, b_value], [n_b0, n_directions])
    return bval, np.vstack([np.zeros((n_b0, 3)), _spread_directions(n_directions)])


def scan_points(anatomy: Anatomy, in_plane: int = 1) -> NDArray[np.float32]:
    """(n, 3) world coordinates in mm of the scan's voxels, in C order.

    `in_plane` divides the voxels along x and y.
    """
    x, y, z = anatomy.shape
    index = np.indices((in_plane * x, in_plane * y, z)).reshape(3, -1).T
    affine = anatomy.scan_affine @ np.diag([1 / in_plane, 1 / in_plane, 1, 1])
    return np.asarray(index @ affine[:3, :3].T + affine[:3, 3], dtype=np.float32)


def sample(
    anatomy: Anatomy, fields: NDArray[np.float32], template: NDArray[np.float32]
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Trilinear values of a person's fields at template points.

    Parameters
    ----------
    fields
        (X·Y·Z, 7) of this person (`Anatomy.with_fa_offset`).
    template
        (n, 3) mm.

    Returns
    -------
    (inside, values)
        (m,) indices of the points at or beside tissue; (m, 7) signal and tensor there.
    """
    to_voxel = np.linalg.inv(anatomy.affine).astype(np.float32)
    voxel = template @ to_voxel[:3, :3].T + to_voxel[:3, 3]
    # Points of the scan's own grid fall on voxels of the model: no rounding may blend neighbours.
    nearest = np.rint(voxel)
    voxel = np.where(np.abs(voxel - nearest) < 1e-4, nearest, voxel)
    floor = np.floor(voxel)
    corner = floor.astype(np.int64)
    size = np.array(anatomy.s0.shape)
    stride = np.array([size[1] * size[2], size[2], 1])
    fits = (corner >= 0) & (corner < size - 1)  # (n, 3)
    within = fits[:, 0] & fits[:, 1] & fits[:, 2]
    near = anatomy.support.ravel()[np.where(within, corner @ stride, 0)]
    inside = np.flatnonzero(within & near)
    flat, above = corner[inside] @ stride, (voxel - floor)[inside]
    share = np.stack([1 - above, above])  # (2, m, 3) of the lower and the upper neighbour
    values = np.zeros((len(inside), 7), dtype=np.float32)
    for i, j, k in product((0, 1), repeat=3):
        weight = share[i, :, 0] * share[j, :, 1] * share[k, :, 2]
        corner_values = np.take(fields, flat + int(stride @ (i, j, k)), axis=0)  # (m, 7)
        values += weight[:, None] * corner_values
    return inside, values


def acquire(
    anatomy: Anatomy,
    fields: NDArray[np.float32],
    head: Head,
    bval: NDArray[np.float64],
    gradient: NDArray[np.float64],
    motion: NDArray[np.float64],
    susceptibility: Susceptibility | None = None,
    polarity: int = 1,
    ringing: bool = False,
) -> NDArray[np.float32]:
    """The scan of one person without noise.

    Volume v sees the head at its own pose, so that tissue meets the gradient as if it were turned
    back by the pose: S = S0 exp(−b gᵀRDRᵀg). Each volume samples the continuous model once, and
    each distorted one where its signal comes from.

    Parameters
    ----------
    fields
        (X·Y·Z, 7) of this person.
    bval, gradient
        (g,) s/mm²; (g, 3) unit vectors along the world's axes, as the scanner plays them out.
    motion
        (g, 6) pose of each volume relative to the first.
    susceptibility, polarity
        The displacement, and 1 for the scan's own phase encoding, -1 for the reverse one.
    ringing
        Whether each volume is acquired with twice the voxels in plane and its k-space cropped.

    Returns
    -------
    (x, y, z, g) float32.
    """
    points = scan_points(anatomy, 2 if ringing else 1)
    turn = rotation(head.pose)
    nx, ny, nz = anatomy.shape
    dwi = np.zeros((nx, ny, nz, len(bval)), dtype=np.float32)
    sampled: tuple[NDArray[np.int64], NDArray[np.float32]] | None = None
    piled: NDArray[np.float32] = np.ones(len(points), dtype=np.float32)
    for volume, pose in enumerate(motion):
        moved = rotation(pose)
        if sampled is None or (pose != motion[volume - 1]).any():
            place = points
            if susceptibility is not None:
                place, piled = susceptibility.undistorted(points, pose[:3], moved, polarity)
            reference = (place - pose[:3].astype(np.float32)) @ moved.astype(np.float32)
            sampled = sample(anatomy, fields, head.to_template(reference))
        inside, values = sampled
        g = gradient[volume] @ moved @ turn  # the gradient in the template's axes
        weight = bval[volume] * g[ROW] * g[COLUMN] * TWICE
        image = np.zeros(len(points), dtype=np.float32)
        image[inside] = values[:, 0] * np.exp(-(values[:, 1:] @ weight))
        image *= piled
        dwi[..., volume] = (
            truncate(image.reshape(2 * nx, 2 * ny, nz)) if ringing else image.reshape(nx, ny, nz)
        )
    return dwi


def true_fa(anatomy: Anatomy, fields: NDArray[np.float32], head: Head) -> NDArray[np.float32]:
    """(x, y, z) FA of the tissue in each voxel of the person's scan at volume 0; 0 in air."""
    inside, values = sample(anatomy, fields, head.to_template(scan_points(anatomy)))
    fa = np.zeros(int(np.prod(anatomy.shape)), dtype=np.float32)
    fa[inside] = np.where(values[:, 0] > 0, fractional_anisotropy(values[:, 1:]), 0)
    return fa.reshape(anatomy.shape)


def true_warp(anatomy: Anatomy, head: Head) -> NDArray[np.float32]:
    """(x, y, z, 3) world mm in the person's scan of each voxel of the template."""
    return head.from_template(scan_points(anatomy)).astype(np.float32).reshape(*anatomy.shape, 3)


def add_rician_noise(
    dwi: NDArray[np.float32], sigma: float, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Magnitude of the signal plus complex Gaussian noise of SD `sigma` in each part.

    Gudbjartsson and Patz, DOI 10.1002/mrm.1910340618.
    """
    noise = np.float32(sigma) * rng.standard_normal((2, *dwi.shape), dtype=np.float32)
    return np.asarray(np.hypot(dwi + noise[0], noise[1]))

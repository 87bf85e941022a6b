"""Rigid and affine registration by Gauss-Newton steps, for head motion and for templates.

The fixed image's voxels are the points; a matrix takes their world coordinates to the moving
image's world. Each step solves the problem linearised over the fixed image's gradients (the
inverse compositional form, doi:10.1023/B:VISI.0000011205.11775.fd) and is halved until the images
look more alike.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

MIN_OVERLAP = 0.3
"""Fraction of the fixed points that must fall inside the moving image."""

MAX_ITERATIONS = 30
TOLERANCE_MM = 0.005
"""Steps stop when no point of the head moves further than this."""

HEAD_RADIUS_MM = 50.0
"""Distance at which a rotation is counted in mm, as in framewise displacement
(doi:10.1016/j.neuroimage.2011.10.018)."""

Criterion = Callable[
    [NDArray[np.float64], NDArray[np.float64]],
    tuple[float, NDArray[np.float64], NDArray[np.float64]],
]


@dataclass(frozen=True)
class Alignment:
    """What `align` found.

    Attributes
    ----------
    matrix
        [float64, shape: (4, 4)] Fixed world to moving world, mm.
    similarity
        The criterion's value over the overlap of both images; 0 if they overlap too little.
    """

    matrix: NDArray[np.float64]
    similarity: float


def downsample(
    image: NDArray[np.float32],
    affine: NDArray[np.float64],
    spacing: float | NDArray[np.float64],
    fwhm: float | NDArray[np.float64],
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Smooth an image and keep every k-th voxel of each axis.

    Parameters
    ----------
    image
        (x, y, z).
    affine
        (4, 4) voxel to world, mm.
    spacing
        Distance between the kept voxels, mm, or (3,) along each axis; never below the image's own.
    fwhm
        Full width at half maximum of the Gaussian, mm, or (3,) along each axis.

    Returns
    -------
    (image, affine)
        Float32, contiguous; first voxels coincide.
    """
    voxel = np.linalg.norm(affine[:3, :3], axis=0)  # (3,) mm
    step = np.maximum(1, np.rint(spacing / voxel)).astype(int)
    smooth = ndimage.gaussian_filter(
        image, fwhm / 2.3548 / voxel, output=np.float32, mode="nearest", truncate=3.0
    )
    small = np.ascontiguousarray(smooth[:: step[0], :: step[1], :: step[2]])
    return small, affine @ np.diag([*step, 1.0])


def correlation(
    fixed: NDArray[np.float64], moving: NDArray[np.float64]
) -> tuple[float, NDArray[np.float64], NDArray[np.float64]]:
    """Likeness of paired values (n,) of one contrast, after the best scale and offset.

    Returns
    -------
    (similarity, slope, curvature)
        Pearson's correlation; first derivative (n,) of the squared error's negative half by each
        fixed value, and its expected second one.
    """
    f, m = fixed - fixed.mean(), moving - moving.mean()
    ff, mm, fm = f @ f, m @ m, f @ m
    gain = fm / max(ff, 1e-30)
    slope = gain * (m - gain * f)
    return float(fm / np.sqrt(max(ff * mm, 1e-30))), slope, np.full(len(f), gain**2)


def mutual_information(
    fixed: NDArray[np.float64], moving: NDArray[np.float64], n_bins: int = 32
) -> tuple[float, NDArray[np.float64], NDArray[np.float64]]:
    """Likeness of paired values (n,) of two contrasts (doi:10.1109/42.563664).

    Returns
    -------
    (similarity, slope, curvature)
        Mutual information in nats; derivative (n,) of each pair's share by its fixed value; its
        square, whose mean is the expected second derivative (Fisher's information).
    """
    f, width = _bins(fixed, n_bins)
    m, _ = _bins(moving, n_bins)
    i, j = f.astype(np.intp), m.astype(np.intp)
    di, dj = f - i, m - j
    pair = i * (n_bins + 2) + j
    joint = np.zeros((n_bins + 2) ** 2)
    for step_i, step_j, weight in (
        (0, 0, (1 - di) * (1 - dj)),
        (0, 1, (1 - di) * dj),
        (1, 0, di * (1 - dj)),
        (1, 1, di * dj),
    ):
        joint += np.bincount(pair + step_i * (n_bins + 2) + step_j, weight, joint.size)
    joint = ndimage.gaussian_filter(joint.reshape(n_bins + 2, n_bins + 2), 1.0, mode="nearest")
    joint = (joint + 1e-3) / (joint + 1e-3).sum()
    log_ratio = np.log(joint / (joint.sum(1)[:, None] * joint.sum(0)[None, :]))
    # linear between the bins of both values, as the histogram was filled
    rise = np.diff(log_ratio, axis=0, append=log_ratio[-1:]).ravel()
    slope = (rise[pair] * (1 - dj) + rise[pair + 1] * dj) / width
    return float((joint * log_ratio).sum()), slope, slope**2


def _bins(value: NDArray[np.float64], n_bins: int) -> tuple[NDArray[np.float64], float]:
    """Position of each value among bins between the 0.5 and 99.5 percentile; a bin's width."""
    low, high = np.quantile(value, [0.005, 0.995])
    width = max(float(high - low) / (n_bins - 1), 1e-30)
    return np.clip((value - low) / width, 0, n_bins - 1e-6), width


def align(
    fixed: NDArray[np.float32],
    moving: NDArray[np.float32],
    fixed_affine: NDArray[np.float64],
    moving_affine: NDArray[np.float64],
    mask: NDArray[np.bool_],
    initial: NDArray[np.float64] | None = None,
    dof: int = 6,
    criterion: Criterion = correlation,
    order: int = 1,
) -> Alignment:
    """Matrix that brings the fixed image's points to where the moving image looks most alike.

    Parameters
    ----------
    fixed, moving
        (x, y, z) images, smoothed to the size of the displacement looked for.
    fixed_affine, moving_affine
        (4, 4) voxel to world, mm.
    mask
        (x, y, z) of the fixed image: the points that count.
    initial
        (4, 4) fixed world to moving world, mm, to start from.
    dof
        3 translation, 6 rigid, 12 affine.
    criterion
        `correlation` for images of one contrast, `mutual_information` between contrasts.
    order
        Interpolation of the moving image: 1 linear, 3 cubic spline, five times slower and less
        biased where voxels are as large as the smoothing.
    """
    matrix = np.eye(4) if initial is None else np.array(initial, dtype=np.float64)
    points = np.argwhere(mask) @ fixed_affine[:3, :3].T + fixed_affine[:3, 3]  # (n, 3) mm
    centre = points.mean(axis=0)
    value = fixed[mask].astype(np.float64)  # (n,)
    jacobian = _jacobian(fixed, fixed_affine, mask, points - centre, dof)  # (n, dof)
    to_voxel = np.linalg.inv(moving_affine)
    limit = np.array(moving.shape)[:, None] - 1
    diagonal = np.diag_indices(dof)
    spline = ndimage.spline_filter(moving, order, np.float32) if order > 1 else moving

    best, delta = Alignment(matrix, -np.inf), np.zeros(dof)
    for _ in range(MAX_ITERATIONS):
        voxel = to_voxel @ matrix
        place = voxel[:3, :3] @ points.T + voxel[:3, 3:]  # (3, n) voxels
        inside = ((place >= 0) & (place <= limit)).all(axis=0)
        if inside.mean() < MIN_OVERLAP:
            return Alignment(matrix, 0.0) if best.similarity == -np.inf else best
        found = ndimage.map_coordinates(
            spline, place[:, inside], np.float64, order, "mirror", prefilter=False
        )
        similarity, slope, curvature = criterion(value[inside], found)
        if similarity > best.similarity:
            best = Alignment(matrix, similarity)
            j = jacobian[inside]
            normal = j.T @ (curvature[:, None] * j)
            scale = np.trace(normal)
            if not scale > 0:  # a flat image has no gradient to follow
                return Alignment(matrix, 0.0)
            normal[diagonal] += 1e-6 * normal[diagonal] + 1e-12 * scale
            delta = np.asarray(np.linalg.solve(normal, j.T @ slope), dtype=np.float64)
        else:  # the linearised problem led astray: half the way
            delta = 0.5 * delta
        if abs(delta[:3]).sum() + HEAD_RADIUS_MM * abs(delta[3:]).max(initial=0) < TOLERANCE_MM:
            break
        matrix = np.asarray(best.matrix @ np.linalg.inv(_matrix(delta, centre)))
    return best


def _jacobian(
    fixed: NDArray[np.float32],
    affine: NDArray[np.float64],
    mask: NDArray[np.bool_],
    offset: NDArray[np.float64],
    dof: int,
) -> NDArray[np.float64]:
    """Change of the fixed image at each point (n) for each parameter (dof)."""
    slopes = np.gradient(fixed, axis=(0, 1, 2))
    gradient = np.stack([np.asarray(g)[mask] for g in slopes], axis=1)  # (n, 3) a voxel
    gradient = np.asarray(gradient @ np.linalg.inv(affine[:3, :3]))  # (n, 3) a mm
    if dof == 3:
        return gradient
    if dof == 6:
        return np.concatenate([gradient, np.cross(offset, gradient)], axis=1)
    if dof == 12:
        linear = gradient[:, :, None] * offset[:, None, :]  # (n, 3, 3)
        return np.concatenate([gradient, linear.reshape(-1, 9)], axis=1)
    raise ValueError(f"dof must be 3, 6 or 12, not {dof}")


def _matrix(delta: NDArray[np.float64], centre: NDArray[np.float64]) -> NDArray[np.float64]:
    """Parameters of one step, about `centre`, as a (4, 4) matrix."""
    linear = np.eye(3)
    if len(delta) == 6:
        linear = rotation_matrix(delta[3:])
    elif len(delta) == 12:
        linear = linear + delta[3:].reshape(3, 3)
    return about(linear, delta[:3], centre)


def about(
    linear: NDArray[np.float64], translation: NDArray[np.float64], centre: NDArray[np.float64]
) -> NDArray[np.float64]:
    """(4, 4) matrix of x -> linear (x - centre) + centre + translation."""
    matrix = np.eye(4)
    matrix[:3, :3] = linear
    matrix[:3, 3] = centre + translation - linear @ centre
    return matrix


def rotation_matrix(vector: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rotation (3, 3) about the axis `vector` (3,) by its length in radians (Rodrigues)."""
    angle = float(np.linalg.norm(vector))
    x, y, z = vector
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]], dtype=np.float64)
    sine = np.sinc(angle / np.pi)  # sin(angle) / angle
    cosine = 0.5 * np.sinc(angle / (2 * np.pi)) ** 2  # (1 - cos(angle)) / angle²
    rotation: NDArray[np.float64] = np.eye(3) + sine * cross + cosine * cross @ cross
    return rotation


def rotation_vector(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """Axis times angle in radians (3,) of a rotation (3, 3) below 180 degrees."""
    axis = 0.5 * np.array(
        [matrix[2, 1] - matrix[1, 2], matrix[0, 2] - matrix[2, 0], matrix[1, 0] - matrix[0, 1]]
    )
    sine = float(np.linalg.norm(axis))
    angle = np.arctan2(sine, 0.5 * (np.trace(matrix) - 1))
    return axis * (angle / sine) if sine > 1e-12 else axis


def nearest_rotation(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rotation (3, 3) of an affine's linear part (finite strain, doi:10.1109/42.963816)."""
    left, _, right = np.linalg.svd(matrix[:3, :3])
    flip = np.diag([1.0, 1.0, np.sign(np.linalg.det(left @ right))])
    rotation: NDArray[np.float64] = left @ flip @ right
    return rotation


def resample(
    moving: NDArray[np.float32],
    moving_affine: NDArray[np.float64],
    matrix: NDArray[np.float64],
    shape: tuple[int, int, int],
    affine: NDArray[np.float64],
    order: int = 3,
) -> NDArray[np.float32]:
    """A moving image on another grid, interpolated once.

    Parameters
    ----------
    moving
        (x, y, z).
    moving_affine, affine
        (4, 4) voxel to world of the moving image and of the wanted grid, mm.
    matrix
        (4, 4) world of the wanted grid to the moving image's world, mm.
    shape
        Of the wanted grid.
    order
        1 linear, 3 cubic spline. Beyond the edge the nearest voxel counts.
    """
    voxel = np.linalg.inv(moving_affine) @ matrix @ affine
    resampled: NDArray[np.float32] = ndimage.affine_transform(
        moving, voxel[:3, :3], voxel[:3, 3], shape, np.float32, order=order, mode="nearest"
    )
    return resampled


def in_view(
    world: NDArray[np.floating], shape: tuple[int, ...], affine: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """Whether points lie within the voxels of an image.

    Parameters
    ----------
    world
        (..., 3) coordinates, mm.
    shape
        (x, y, z) of the image.
    affine
        (4, 4) voxel to world of the image, mm.

    Returns
    -------
    in_view
        (...)
    """
    to_voxel = np.linalg.inv(affine)
    place = world @ to_voxel[:3, :3].T + to_voxel[:3, 3]
    # a thousandth of a voxel for affines that are rounded
    within = (place > -0.501) & (place < np.array(shape) - 0.499)
    return np.asarray(within.all(axis=-1))


def reorient_vectors(
    vectors: NDArray[np.float32],
    affine: NDArray[np.float64],
    warp: NDArray[np.float32],
    warp_affine: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Main directions of a scan in the template's space (doi:10.1109/42.963816).

    The nearest voxel's vector is taken, because the mean of two directions without a sign is
    none, and turned by the inverse of the warp's local Jacobian.

    Parameters
    ----------
    vectors
        (x, y, z, 3) unit vectors in the scan's world axes.
    affine
        (4, 4) voxel to world of the scan, mm.
    warp
        (x', y', z', 3) world coordinates (mm) in the scan's space of each template voxel.
    warp_affine
        (4, 4) voxel to world of the template, mm.

    Returns
    -------
    vectors
        (x', y', z', 3) unit vectors in the template's world axes; 0 where the scan has none.
    """
    to_voxel = np.linalg.inv(affine)
    index = np.rint(warp @ to_voxel[:3, :3].T + to_voxel[:3, 3]).astype(np.intp)
    limit = np.array(vectors.shape[:3]) - 1
    inside = ((index >= 0) & (index <= limit)).all(axis=-1)
    found = vectors[tuple(np.moveaxis(np.clip(index, 0, limit), -1, 0))] * inside[..., None]
    slopes = np.gradient(warp, axis=(0, 1, 2))
    jacobian = np.stack(list(slopes), axis=-1)  # (..., 3, 3) mm a voxel
    jacobian = jacobian @ np.linalg.inv(warp_affine[:3, :3])
    turned = np.linalg.solve(jacobian, found[..., None])[..., 0]
    norm = np.linalg.norm(turned, axis=-1, keepdims=True)
    return np.asarray(np.divide(turned, norm, out=np.zeros_like(turned), where=norm > 0))

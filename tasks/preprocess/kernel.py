"""Brain mask, head motion, linear eddy currents and lost slices of one diffusion-weighted scan.

Motion within a volume is left alone but for the signal that it costs: FSL's eddy treats it, and
what that has corrected passes through.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from axoloci import registration
from axoloci.gradient_check import otsu_threshold
from axoloci.io.gradients import bvec_to_world, find_shells, world_to_bvec
from axoloci.tasks.preprocess.distortion import Field
from axoloci.tasks.preprocess.eddy import eddy_shift, eddy_stretch
from axoloci.tasks.preprocess.outliers import (
    is_outlier,
    replace_slices,
    slice_scores,
)
from axoloci.tasks.preprocess.prediction import MIN_VOLUMES, prediction_weights

OTSU_FRACTION = 0.85
"""Share of Otsu's threshold above which a voxel counts as head; 1 cuts the brain stem."""

OPENING_MM = 6.0
"""Bridges to skin and eyes that are thinner than twice this are cut."""

CLOSING_MM = 6.0
"""Gaps in the mask that are narrower than twice this are closed."""

SPACINGS_MM = (8.0, 4.0)
"""Voxel spacing and smoothing, from coarse to fine, of the motion estimate."""

PASSES = 2
"""Times that all volumes are aligned at each spacing."""

MARGIN_MM = 12.0
"""Margin around the brain where b0 and diffusion-weighted images are compared."""

SENSITIVITY_MM = 20.0
"""Scale (sigma) of the intensity that is taken for the coil's sensitivity."""

MAX_POINTS = 100_000
"""Points that two shells are compared at; six parameters do not need more."""

MIN_SETTLED = 20
"""Volumes of a shell below which their order in time tells nothing of them (`_settle`, `_join`)."""

CONTRAST_ERROR_MM = 0.1
"""Error that is expected of a registration between two shells, along each axis."""

MIN_MIXED_DEGREES = 45.0
"""Mean angle between directions that follow each other, in a table that mixes them: 57 at random.
"""

MAX_AVERAGED = 16
"""Volumes of a shell whose mean is compared with that of another: more tell nothing new."""

RIM = 0.1
"""Share of a smoothed mask above which a voxel counts for motion: the brain's edge tells most."""


@dataclass(frozen=True)
class Motion:
    """Head motion of a scan, and the eddy currents' stretch.

    Attributes
    ----------
    matrices
        [float64, shape: (g, 4, 4)] World of the first b0 to the world of each volume, mm: the
        head's rotation and shift, then the stretch.
    rotations
        [float64, shape: (g, 3, 3)] The head's rotation alone.
    stretch
        [float64, shape: (g, 3, 3)] The eddy currents' alone, about `centre`; the identity where
        none was found.
    eddy_shift
        [float64, shape: (g, 3)] Part of the shifts that is the eddy currents', mm; 0 where none was
        found.
    centre
        [float64, shape: (3,)] Centre of the brain, mm: rotations are about it.
    score
        [float64, shape: (z, g)] Signal of each slice against its prediction, in standard deviations
        (`outliers.slice_scores`); NaN where that is not known.
    lost
        [bool, shape: (z, g)] Slices that had lost signal.
    """

    matrices: NDArray[np.float64]
    rotations: NDArray[np.float64]
    stretch: NDArray[np.float64]
    eddy_shift: NDArray[np.float64]
    centre: NDArray[np.float64]
    score: NDArray[np.float64]
    lost: NDArray[np.bool_]

    def parameters(self) -> NDArray[np.float64]:
        """Translation of the brain's centre (mm) and rotation vector (radians), (g, 6)."""
        return _parameters(self.matrices, self.centre, self.rotations)

    def framewise_displacement(self) -> NDArray[np.float64]:
        """Displacement (g,) of the head between neighbouring volumes, mm; 0 for the first.

        Sum of the absolute changes of translation and, on a sphere of 50 mm, of rotation
        (doi:10.1016/j.neuroimage.2011.10.018), without the shifts by eddy currents, which follow
        the gradients and not the head.
        """
        moved = self.parameters()
        moved[:, :3] -= self.eddy_shift
        change = abs(np.diff(moved, axis=0))  # (g - 1, 6)
        fd = change[:, :3].sum(axis=1) + registration.HEAD_RADIUS_MM * change[:, 3:].sum(axis=1)
        return np.concatenate([[0.0], fd])

    def eddy_displacement(self) -> NDArray[np.float64]:
        """Largest displacement (g,) by the stretch at 50 mm from the brain's centre, mm."""
        change = np.linalg.norm(self.stretch - np.eye(3), ord=2, axis=(1, 2))
        return np.asarray(registration.HEAD_RADIUS_MM * change)


def brain_mask(
    b0: NDArray[np.float32], dwi: NDArray[np.float32], affine: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """Brain of one scan from the sum of its mean b0 and its mean diffusion-weighted image.

    The b0 shows the fluid around the brain, the diffusion-weighted image has no eyes and little
    skin: their sum, each scaled by its own median, needs less mending than either. It is
    median-filtered and cut at Otsu's threshold (doi:10.1109/TSMC.1979.4310076); the largest piece
    after an opening is kept, closed and filled.

    Parameters
    ----------
    b0, dwi
        (x, y, z) mean images.
    affine
        (4, 4) voxel to world, mm.

    Returns
    -------
    mask
        (x, y, z).
    """
    voxel = np.linalg.norm(affine[:3, :3], axis=0)  # (3,) mm
    image = sum(x / np.median(x[x > otsu_threshold(x)]) for x in (b0, dwi))
    image = ndimage.median_filter(np.minimum(image, np.percentile(image, 99)), 3)
    head = image > OTSU_FRACTION * otsu_threshold(image)

    core = ndimage.distance_transform_edt(head, voxel) > OPENING_MM
    label, n = ndimage.label(core)
    if n == 0:  # a slab or a small object: nothing is that thick
        label, n = ndimage.label(head)
        core = head
    core = label == np.argmax(np.bincount(label[core], minlength=2))
    reach = OPENING_MM + voxel.max() / 2  # undo the erosion, to the nearest voxel
    brain = head & (ndimage.distance_transform_edt(~core, voxel) <= reach)

    grown = ndimage.distance_transform_edt(~brain, voxel) <= CLOSING_MM
    brain |= ndimage.distance_transform_edt(grown, voxel) > CLOSING_MM
    filled: NDArray[np.bool_] = ndimage.binary_fill_holes(brain)
    return filled


def estimate_motion(
    dwi: NDArray[np.float32],
    bval: NDArray[np.float64],
    bvec: NDArray[np.float64],
    affine: NDArray[np.float64],
    mask: NDArray[np.bool_],
) -> Motion:
    """Rigid head motion between the volumes of a scan, the eddy currents' stretch, lost slices.

    Volumes are registered to what the other volumes of their shell predict, from coarse to fine;
    then each shell's mean to that of the next lower b-value. Shifts by eddy currents are undone
    with the motion, and told apart from it afterwards. Slices that lost signal are replaced by
    their prediction at first and at each level, so that they neither move their volume nor others.

    Parameters
    ----------
    dwi
        (x, y, z, g); lost slices are replaced in place.
    bval
        (g,) s/mm².
    bvec
        (g, 3) unit vectors.
    affine
        (4, 4) voxel to world, mm.
    mask
        (x, y, z) brain, roughly.
    """
    shells = find_shells(bval)
    settled = [shell for shell in shells[1:] if len(shell) >= MIN_SETTLED]
    motion = no_motion(dwi.shape[2:], affine, mask)
    matrices, stretch, centre = motion.matrices, motion.stretch, motion.centre
    acquired: dict[tuple[int, int], NDArray[np.float32]] = {}  # what lost slices held

    def find_lost() -> None:
        for (k, v), slab in acquired.items():
            dwi[:, :, k, v] = slab
        acquired.clear()
        motion.lost[:] = False
        for shell in shells[1:]:  # only diffusion weighting makes motion lose signal
            if len(shell) >= MIN_VOLUMES:
                lost = _replace_lost(dwi, affine, mask, motion, bvec, shell, acquired)
                motion.lost[:, shell] = lost

    find_lost()  # at once: a volume that lost much of its signal would go astray
    for spacing in SPACINGS_MM if dwi.shape[3] > 1 else ():
        share, small_affine = registration.downsample(
            mask.astype(np.float32), affine, spacing, spacing
        )
        inside = share > RIM
        for shell in shells:
            if len(shell) == 1:
                continue
            small = {
                v: registration.downsample(dwi[..., v], affine, spacing, spacing)[0]
                for v in shell.tolist()
            }
            for _ in range(PASSES):
                _align_shell(small, small_affine, inside, matrices, bvec)
            if spacing == SPACINGS_MM[-1] and shell is not shells[0]:
                stretch[shell] = _stretch(small, small_affine, inside, matrices, bvec, centre)
                _align_shell(small, small_affine, inside, matrices, bvec)
        _settle(matrices, stretch, centre, bvec, settled)
        find_lost()

    voxel = np.linalg.norm(affine[:3, :3], axis=0)
    head = ndimage.distance_transform_edt(~mask, voxel) <= MARGIN_MM
    lower, to_shell = mean_aligned(dwi, affine, matrices, shells[0]), np.eye(4)
    for shell in shells[1:]:
        upper = mean_aligned(dwi, affine, matrices, shell)
        between = align_contrasts(upper, lower, affine, mask, head)
        to_shell = np.linalg.inv(between) @ to_shell  # b0 world to the shell's world
        matrices[shell] = matrices[shell] @ to_shell
        lower = upper

    _join(matrices, stretch, centre, bvec, settled)
    first = matrices[shells[0][0]].copy()
    matrices[:] = matrices @ np.linalg.inv(first)
    matrices[shells[0][0]] = np.eye(4)  # exactly: that volume is not interpolated
    motion.rotations[:] = np.linalg.inv(stretch) @ matrices[:, :3, :3]
    axes = registration.nearest_rotation(affine)  # the image's axes in the world
    for shell in shells[1:]:
        shift = motion.parameters()[shell, :3] @ axes
        motion.eddy_shift[shell] = eddy_shift(shift, bvec[shell]) @ axes.T
    return motion


def _replace_lost(
    dwi: NDArray[np.float32],
    affine: NDArray[np.float64],
    mask: NDArray[np.bool_],
    motion: Motion,
    bvec: NDArray[np.float64],
    shell: NDArray[np.intp],
    acquired: dict[tuple[int, int], NDArray[np.float32]],
) -> NDArray[np.bool_]:
    """Replace the lost slices of a shell, of which `acquired` keeps what they held; (z, n)."""
    loss, motion.score[:, shell] = slice_scores(dwi, affine, mask, motion.matrices, bvec, shell)
    lost = is_outlier(loss, motion.score[:, shell])
    for k, i in np.argwhere(lost):
        acquired[int(k), int(shell[i])] = dwi[:, :, k, shell[i]].copy()
    replace_slices(dwi, affine, motion.matrices, bvec, shell, lost)
    return lost


def _settle(
    matrices: NDArray[np.float64],
    stretch: NDArray[np.float64],
    centre: NDArray[np.float64],
    bvec: NDArray[np.float64],
    shells: list[NDArray[np.intp]],
) -> None:
    """Take out of `matrices` what a registration to predictions leaves open.

    Motion that changes with the direction as contrast does (by the second-order harmonics) looks
    like contrast to a prediction, and is hardly found. Such motion would jump from volume to
    volume, if neighbours in time have distant directions: of all motion that fits the registration
    as well, that with the least change from volume to volume is taken. Where directions follow in
    order, such motion cannot be told from a slow one of the head.
    """
    even, free = [], []  # motion that looks like contrast; what else may jump
    for shell in shells:
        cosine = abs((bvec[shell][1:] * bvec[shell][:-1]).sum(axis=1))
        if np.degrees(np.arccos(np.minimum(cosine, 1))).mean() < MIN_MIXED_DEGREES:
            continue
        x, y, z = bvec[shell].T
        even += [
            _column(len(matrices), shell, value - value.mean())
            for value in (x * y, x * z, y * z, x * x - y * y, 2 * z * z - x * x - y * y)
        ]
        free += [_column(len(matrices), shell, value) for value in (np.ones(len(shell)), x, y, z)]
    _calm(matrices, stretch, centre, even, free)


def _join(
    matrices: NDArray[np.float64],
    stretch: NDArray[np.float64],
    centre: NDArray[np.float64],
    bvec: NDArray[np.float64],
    shells: list[NDArray[np.intp]],
) -> None:
    """Let the shells follow each other in time.

    Mutual information between contrasts is off by some tenths of a voxel: then the head seems to
    jump at each change of the b-value. What these jumps tell counts for as much as there are many,
    and as the head is still otherwise.
    """
    apart, free = [], []
    for shell in shells:
        apart.append(_column(len(matrices), shell, np.ones(len(shell))))
        free += [_column(len(matrices), shell, value) for value in bvec[shell].T]  # eddy currents
    _calm(matrices, stretch, centre, apart, free, CONTRAST_ERROR_MM)


def _column(n: int, shell: NDArray[np.intp], value: NDArray[np.float64]) -> NDArray[np.float64]:
    """A number a volume (n,): `value` in a shell, 0 elsewhere."""
    column = np.zeros(n)
    column[shell] = value
    return column


def _calm(
    matrices: NDArray[np.float64],
    stretch: NDArray[np.float64],
    centre: NDArray[np.float64],
    doubtful: list[NDArray[np.float64]],
    free: list[NDArray[np.float64]],
    error_mm: float = np.inf,
) -> None:
    """Take out of the motion those multiples of columns (g,) that make it jump between volumes.

    Parameters
    ----------
    doubtful
        Courses of what may be wrong.
    free
        Courses of what may jump; they stay.
    error_mm
        By how much the former may be expected to be wrong (rotations 50 mm from the centre).
    """
    if not doubtful:
        return
    rigid = [
        np.linalg.inv(registration.about(s, np.zeros(3), centre)) @ m
        for s, m in zip(stretch, matrices, strict=True)
    ]
    mm = np.repeat([1.0, registration.HEAD_RADIUS_MM], 3)
    parameters = _parameters(np.stack(rigid), centre) * mm  # (g, 6)
    columns = np.stack(doubtful + free, axis=1)
    change, steps = np.diff(columns, axis=0), np.diff(parameters, axis=0)
    expected = np.eye(len(doubtful), columns.shape[1]) / error_mm
    for k in range(6):
        weight = np.ones(len(steps))
        for _ in range(10):  # absolute values in place of squares: a head that jumps may do so
            rows = np.concatenate([weight[:, None] * change, expected])
            values = np.concatenate([weight * steps[:, k], np.zeros(len(expected))])
            beta = np.linalg.lstsq(rows, values, rcond=None)[0]
            left = abs(steps[:, k] - change @ beta)
            scale = np.median(left) / np.log(2) + 1e-6  # of Laplace's distribution, mm
            weight = 1 / np.sqrt(scale * (left + 0.2 * scale))
        wrong = np.clip(beta[: len(doubtful)], -2 * error_mm, 2 * error_mm)  # beyond, it is true
        parameters[:, k] -= columns[:, : len(doubtful)] @ wrong
    for v, (moved, s) in enumerate(zip(parameters / mm, stretch, strict=True)):
        turn = registration.about(registration.rotation_matrix(moved[3:]), moved[:3], centre)
        matrices[v] = registration.about(s, np.zeros(3), centre) @ turn


def _parameters(
    matrices: NDArray[np.float64],
    centre: NDArray[np.float64],
    rotations: NDArray[np.float64] | None = None,
) -> NDArray[np.float64]:
    """Translation of the centre (mm) and rotation vector (radians), (g, 6)."""
    moved = matrices[:, :3, :3] @ centre + matrices[:, :3, 3]
    turns = matrices[:, :3, :3] if rotations is None else rotations
    rotation = [registration.rotation_vector(r) for r in turns]
    return np.concatenate([moved - centre, np.stack(rotation)], axis=1)


def align_contrasts(
    fixed: NDArray[np.float32],
    moving: NDArray[np.float32],
    affine: NDArray[np.float64],
    mask: NDArray[np.bool_],
    head: NDArray[np.bool_],
) -> NDArray[np.float64]:
    """Rigid matrix (4, 4) between the mean images of two shells, by mutual information.

    Both are divided by the smooth part of the fixed one, the coil's sensitivity for the most part.
    The last step is taken without smoothing: blurred fluid between brain and skull looks like
    brain in a b0 only, and drags the image upwards.

    Parameters
    ----------
    fixed, moving
        (x, y, z) means of the higher and of the lower b-value.
    affine
        (4, 4) voxel to world, mm.
    mask, head
        (x, y, z) brain; brain with a margin.
    """
    sigma = SENSITIVITY_MM / np.linalg.norm(affine[:3, :3], axis=0)
    weight = ndimage.gaussian_filter(mask.astype(np.float32), sigma)
    sensitivity = ndimage.gaussian_filter(fixed * mask, sigma) / np.maximum(weight, 1e-3)
    sensitivity = np.maximum(sensitivity, 0.2 * np.median(sensitivity[mask]))
    matrix = np.eye(4)
    for spacing, fwhm in ((SPACINGS_MM[0], SPACINGS_MM[0]), (0.0, 0.0)):
        a, small_affine = registration.downsample(fixed / sensitivity, affine, spacing, fwhm)
        b, _ = registration.downsample(moving / sensitivity, affine, spacing, fwhm)
        inside, _ = registration.downsample(head.astype(np.float32), affine, spacing, 0.0)
        stride = max(1, round((np.count_nonzero(inside) / MAX_POINTS) ** (1 / 3)))
        points = np.zeros(inside.shape, dtype=bool)
        points[::stride, ::stride, ::stride] = inside[::stride, ::stride, ::stride] > 0
        matrix = registration.align(
            a,
            b,
            small_affine,
            small_affine,
            points,
            matrix,
            criterion=registration.mutual_information,
            order=3,
        ).matrix
    return matrix


def mean_aligned(
    dwi: NDArray[np.float32],
    affine: NDArray[np.float64],
    matrices: NDArray[np.float64],
    shell: NDArray[np.intp],
) -> NDArray[np.float32]:
    """Mean of a shell's volumes (x, y, z), aligned, of a few spread over time if there are many.

    By cubic splines: linear interpolation blurs the fluid of a b0, and misleads its alignment.
    """
    some = shell[np.linspace(0, len(shell) - 1, min(len(shell), MAX_AVERAGED)).astype(int)]
    shape = dwi.shape[:3]
    total = np.zeros(shape, dtype=np.float32)
    for v in some:
        total += registration.resample(dwi[..., v], affine, matrices[v], shape, affine)
    return total / np.float32(len(some))


def no_motion(
    shape: tuple[int, ...], affine: NDArray[np.float64], mask: NDArray[np.bool_]
) -> Motion:
    """Motion of a scan whose volumes lie on each other already; `shape` is (slices, volumes)."""
    n_volumes = shape[1]
    return Motion(
        matrices=np.tile(np.eye(4), (n_volumes, 1, 1)),
        rotations=np.tile(np.eye(3), (n_volumes, 1, 1)),
        stretch=np.tile(np.eye(3), (n_volumes, 1, 1)),
        eddy_shift=np.zeros((n_volumes, 3)),
        centre=_centre(mask, affine),
        score=np.full(shape, np.nan),
        lost=np.zeros(shape, dtype=bool),
    )


def _centre(mask: NDArray[np.bool_], affine: NDArray[np.float64]) -> NDArray[np.float64]:
    """Centre of a mask (3,) in world space, mm."""
    centre: NDArray[np.float64] = affine[:3, :3] @ np.argwhere(mask).mean(axis=0) + affine[:3, 3]
    return centre


def _align_shell(
    volumes: dict[int, NDArray[np.float32]],
    affine: NDArray[np.float64],
    mask: NDArray[np.bool_],
    matrices: NDArray[np.float64],
    bvec: NDArray[np.float64],
    dof: int = 6,
) -> None:
    """Improve `matrices` in place: each volume against what the others of its shell predict."""
    weights = prediction_weights(bvec[list(volumes)])  # (n, n)

    def moved(v: int) -> NDArray[np.float32]:
        shape = volumes[v].shape
        return registration.resample(volumes[v], affine, matrices[v], shape, affine, order=1)

    aligned = {v: moved(v) for v in volumes}
    for (v, volume), weight in zip(volumes.items(), weights, strict=True):
        predicted = np.zeros_like(volume)
        for u, share in zip(volumes, weight.astype(np.float32), strict=True):
            predicted += share * aligned[u]
        matrices[v] = registration.align(
            predicted, volume, affine, affine, mask, matrices[v], dof
        ).matrix
        aligned[v] = moved(v)  # at once, or two volumes would chase each other


def _stretch(
    volumes: dict[int, NDArray[np.float32]],
    affine: NDArray[np.float64],
    mask: NDArray[np.bool_],
    matrices: NDArray[np.float64],
    bvec: NDArray[np.float64],
    centre: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Put the eddy currents' stretch of a shell into `matrices`; returns it (n, 3, 3)."""
    shell = list(volumes)
    free = matrices.copy()
    # Against the plain mean: volumes of like directions are distorted alike, and a prediction from
    # these would hide it. What contrast feigns is even in the gradient, and so not taken up.
    _align_shell(volumes, affine, mask, free, np.zeros_like(bvec), dof=12)
    axes = registration.nearest_rotation(affine)  # the image's axes in the world
    shift = free[shell, :3, :3] @ centre + free[shell, :3, 3] - centre  # (n, 3)
    along = eddy_stretch(axes.T @ free[shell, :3, :3] @ axes, shift @ axes, bvec[shell])
    stretch: NDArray[np.float64] = axes @ along @ axes.T
    for v, linear in zip(shell, stretch, strict=True):
        matrices[v] = registration.about(linear, np.zeros(3), centre) @ matrices[v]
    return stretch


def correct_motion(
    dwi: NDArray[np.float32],
    bvec: NDArray[np.float64],
    affine: NDArray[np.float64],
    motion: Motion,
    field: Field | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Bring all volumes to the first b0, undistorted where the field is known, interpolated once.

    Quintic splines: cubic ones smooth the noise, and with it lower FA, twice as much.

    Parameters
    ----------
    dwi
        (x, y, z, g); replaced in place, because a scan fills much of the memory.
    bvec
        (g, 3) FSL's directions.
    affine
        (4, 4) voxel to world, mm.
    motion
        From `estimate_motion`.
    field
        Susceptibility displacement, with the head of the first b0.

    Returns
    -------
    (bvec, covered)
        (g, 3) directions turned with the head; (x, y, z) voxels that every volume holds.
    """
    shape = dwi.shape[:3]
    covered = np.ones(shape, dtype=bool)
    grid = np.indices(shape, dtype=np.float32, sparse=True)
    to_voxel = np.linalg.inv(affine)
    for v, matrix in enumerate(motion.matrices):
        if field is not None:
            found, gain = field.sampling(matrix)
            place = list(found)
            volume = ndimage.map_coordinates(dwi[..., v], found, np.float32, 5, "nearest")
            volume *= gain
        elif np.array_equal(matrix, np.eye(4)):
            continue
        else:
            voxel = to_voxel @ matrix @ affine
            place = [row[3] + sum(row[k] * grid[k] for k in range(3)) for row in voxel[:3]]
            volume = registration.resample(dwi[..., v], affine, matrix, shape, affine, order=5)
            # A stretched volume spreads the same signal over more space; rigid motion does not.
            volume *= np.float32(np.linalg.det(matrix[:3, :3]))
        dwi[..., v] = np.maximum(volume, 0)  # a spline undershoots beside a sharp edge
        for along, n in zip(place, shape, strict=True):
            covered &= (along > -0.5) & (along < n - 0.5)
    world = bvec_to_world(bvec, affine)  # (g, 3)
    turned = np.einsum("gji,gj->gi", motion.rotations, world)  # transposed: from volume to b0
    return world_to_bvec(turned, affine), covered

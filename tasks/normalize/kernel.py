"""Registration of one FA map to a template: affine, then diffeomorphic, interpolated once."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from dipy.align.imwarp import SymmetricDiffeomorphicRegistration
from dipy.align.metrics import CCMetric
from numpy.typing import NDArray
from scipy import ndimage

from axoloci import registration
from axoloci.io.nifti import regridded

TEMPLATE_MIN_FA = 0.05
"""Template voxels above this are brain: grey matter has 0.1 to 0.2, air 0."""

EROSION_MM = 3.0
"""Rim that is left out of the registration, of the map and of the template alike: noise and partial
air there. Of the map alone, the two edges would be laid upon each other, 3 mm off."""

AIR_FA = 0.01
"""At and below this a map holds nothing; fluid has 0.02 and more."""

SPACINGS_MM = (8.0, 4.0)
"""Voxel spacing and smoothing of the affine registration, from coarse to fine."""

TRUSTED_SIMILARITY = 0.8
"""Correlation with the template, at the coarse spacing, below which the header is not believed and
all 24 ways to turn the axes are tried: wrong ways reach 0.7, for a head is round."""

FIELD_SIGMA = 2.5
"""Smoothing (voxels) of each SyN update: less follows noise, more misses what is one person's own
(benchmarks/results/registration.md)."""

COARSEST_MM = 8.0
"""SyN's coarsest level has about this voxel size, whatever the template's own."""

COARSE_ITERATIONS, FINEST_ITERATIONS = 10, 5
"""SyN iterations a level."""

MARGIN = 4
"""Voxels around the brain that are deformed with it."""

WHITE_MATTER_FA = 0.25
"""FA above this is white matter, where overlap is counted."""

MIN_COVERAGE = 0.95
"""Share of the cohort that must have a voxel for it to be in the group's mask."""


@dataclass(frozen=True)
class Normalized:
    """One FA map in the template's space.

    Attributes
    ----------
    fa
        [float32, shape: (x, y, z)] On the template's grid, 0 where the scan has nothing.
    affine
        [float64, shape: (4, 4)] Template world to DWI world, mm.
    warp
        [float32, shape: (x, y, z, 3)] World coordinates (mm) in the DWI's space of each voxel of
        the template: affine and deformation together.
    jacobian
        [float32, shape: (x, y, z)] Volume of each place in the scan over that in the template,
        head size apart: determinant of the deformation without the affine; 0 and less is a fold.
    similarity
        Pearson's correlation with the template inside the brain: `header` (before), `affine`,
        `warp`.
    dice
        Overlap with the template, 2 |A ∩ B| / (|A| + |B|): of the `brain`, of the `white_matter`.
    share_in_view
        Of the template's brain, what lies in the field of view of the scan by the affine.
    """

    fa: NDArray[np.float32]
    affine: NDArray[np.float64]
    warp: NDArray[np.float32]
    jacobian: NDArray[np.float32]
    similarity: dict[str, float]
    dice: dict[str, float]
    share_in_view: float


def register(
    fa: NDArray[np.float32],
    fa_affine: NDArray[np.float64],
    template: NDArray[np.float32],
    template_affine: NDArray[np.float64],
) -> Normalized:
    """Bring an FA map to a template (SyN with cross-correlation, doi:10.1016/j.media.2007.06.004).

    Parameters
    ----------
    fa
        (x, y, z) fractional anisotropy, 0 outside the brain.
    fa_affine, template_affine
        (4, 4) voxel to world, mm.
    template
        (x', y', z') fractional anisotropy, 0 outside the brain.
    """
    brain = template > TEMPLATE_MIN_FA
    affine = align_affine(fa, fa_affine, template, template_affine)
    displacement = deform_map(fa, fa_affine, affine, template, template_affine)
    warp = place(displacement, affine, template_affine)
    header = registration.resample(fa, fa_affine, np.eye(4), template.shape, template_affine, 1)
    linear = registration.resample(fa, fa_affine, affine, template.shape, template_affine, 1)
    warped = sample(fa, fa_affine, warp)
    similarity = {
        name: similarity_to(template, image)
        for name, image in (("header", header), ("affine", linear), ("warp", warped))
    }
    overlap = {
        "brain": dice(warped > 0, brain),
        "white_matter": dice(
            brain & (warped > WHITE_MATTER_FA), brain & (template > WHITE_MATTER_FA)
        ),
    }
    # by the affine: the warp draws what is cut off towards the edge of the scan
    places = place(np.zeros_like(displacement), affine, template_affine)[brain]
    seen = float(registration.in_view(places, fa.shape, fa_affine).mean())
    volume = jacobian(displacement, template_affine)
    return Normalized(warped, affine, warp.astype(np.float32), volume, similarity, overlap, seen)


def deform_map(
    fa: NDArray[np.float32],
    fa_affine: NDArray[np.float64],
    affine: NDArray[np.float64],
    template: NDArray[np.float32],
    template_affine: NDArray[np.float64],
) -> NDArray[np.float32]:
    """Displacement (x', y', z', 3), mm, of the template's voxels before the affine is applied.

    Parameters
    ----------
    fa, fa_affine, template, template_affine
        As in `register`.
    affine
        (4, 4) template world to DWI world, mm.
    """
    still = np.zeros((*template.shape, 3), dtype=np.float32)
    moving = sample_brain(fa, fa_affine, place(still, affine, template_affine))
    return deform(core(moving, template_affine), core(template, template_affine), template_affine)


def place(
    displacement: NDArray[np.float32],
    affine: NDArray[np.float64],
    template_affine: NDArray[np.float64],
) -> NDArray[np.float64]:
    """World coordinates (x, y, z, 3), mm, in the DWI's space of each voxel of the template."""
    grid = world_grid(displacement.shape[:3], template_affine) + displacement
    return np.asarray(grid @ affine[:3, :3].T + affine[:3, 3])


def similarity_to(template: NDArray[np.float32], image: NDArray[np.float32]) -> float:
    """Pearson's correlation of an image with the template (x, y, z) inside the template's brain."""
    brain = template > TEMPLATE_MIN_FA
    return _correlation(image[brain], template[brain])


def dice(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    """Overlap of two masks (x, y, z): 1 if they are the same, 0 if they share nothing."""
    return 2 * int((a & b).sum()) / max(1, int(a.sum()) + int(b.sum()))


def jacobian(displacement: NDArray[np.float32], affine: NDArray[np.float64]) -> NDArray[np.float32]:
    """Determinant (x, y, z) of the derivative of x + u(x).

    Parameters
    ----------
    displacement
        (x, y, z, 3) u at each voxel, mm.
    affine
        (4, 4) voxel to world, mm.
    """
    slopes = np.gradient(displacement, axis=(0, 1, 2))
    derivative = np.stack(list(slopes), axis=-1) @ np.linalg.inv(affine[:3, :3])  # (x, y, z, 3, 3)
    return np.asarray(np.linalg.det(derivative + np.eye(3)), dtype=np.float32)


def _correlation(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """Pearson's correlation of paired values (n,); 0 if one is constant."""
    return registration.correlation(a.astype(np.float64), b.astype(np.float64))[0]


def core(image: NDArray[np.float32], affine: NDArray[np.float64]) -> NDArray[np.float32]:
    """A map (x, y, z) without its outer `EROSION_MM`; thinner things stay whole."""
    mask = ndimage.binary_fill_holes(image > AIR_FA)
    voxel = np.linalg.norm(affine[:3, :3], axis=0)
    inner = ndimage.distance_transform_edt(mask, voxel) > EROSION_MM
    return np.where(inner if inner.any() else mask, image, np.float32(0))


def align_affine(
    fa: NDArray[np.float32],
    fa_affine: NDArray[np.float64],
    template: NDArray[np.float32],
    template_affine: NDArray[np.float64],
    start: NDArray[np.float64] | None = None,
) -> NDArray[np.float64]:
    """Affine from template world to DWI world (4, 4), mm, by several starts.

    The header's orientation is tried first, with the centres of mass together and without, and
    nodded by 25 degrees; all 24 orientations only if none of these looks like the template.

    Parameters
    ----------
    fa, template, fa_affine, template_affine
        As in `register`.
    start
        (4, 4) affine that is to be improved, if there is one.
    """
    fa, template = core(fa, fa_affine), core(template, template_affine)
    brain = template > TEMPLATE_MIN_FA

    def level(spacing: float) -> functools.partial[registration.Alignment]:
        fixed, fixed_affine = registration.downsample(template, template_affine, spacing, spacing)
        moving, moving_affine = registration.downsample(fa, fa_affine, spacing, spacing)
        inside, _ = registration.downsample(
            brain.astype(np.float32), template_affine, spacing, spacing
        )
        return functools.partial(
            registration.align, fixed, moving, fixed_affine, moving_affine, inside > 0.1
        )

    if start is not None:
        return level(SPACINGS_MM[-1])(initial=start, dof=12).matrix
    there = _centre(template * brain, template_affine)
    here = _centre(fa, fa_affine)

    def turned(rotation: NDArray[np.float64]) -> NDArray[np.float64]:
        return registration.about(rotation, here - there, there)

    coarse = level(SPACINGS_MM[0])

    def best(starts: Iterable[NDArray[np.float64]]) -> registration.Alignment:
        found = (coarse(initial=start) for start in starts)
        return max(found, key=lambda alignment: alignment.similarity)

    nods = [registration.rotation_matrix(np.deg2rad([x, 0.0, 0.0])) for x in (0, -25, 25)]
    alignment = best([np.eye(4), *map(turned, nods)])
    if alignment.similarity < TRUSTED_SIMILARITY:
        other = best(map(turned, axis_rotations()))
        alignment = max(alignment, other, key=lambda a: a.similarity)
    for align in (coarse, *map(level, SPACINGS_MM[1:])):
        alignment = align(initial=alignment.matrix, dof=12)
    return alignment.matrix


def _centre(image: NDArray[np.float32], affine: NDArray[np.float64]) -> NDArray[np.float64]:
    """Centre of mass (3,) in world space, mm."""
    centre: NDArray[np.float64] = affine[:3, :3] @ ndimage.center_of_mass(image) + affine[:3, 3]
    return centre


def axis_rotations() -> list[NDArray[np.float64]]:
    """The 24 rotations (3, 3) that turn axes into axes; the identity first."""
    rotations = []
    for order in itertools.permutations(range(3)):
        for signs in itertools.product((1.0, -1.0), repeat=3):
            matrix = np.zeros((3, 3))
            matrix[range(3), order] = signs
            if np.linalg.det(matrix) > 0:
                rotations.append(matrix)
    return rotations


def deform(
    moving: NDArray[np.float32], fixed: NDArray[np.float32], affine: NDArray[np.float64]
) -> NDArray[np.float32]:
    """Displacement (x, y, z, 3), mm, from each voxel of `fixed` to its place in `moving`.

    Parameters
    ----------
    moving, fixed
        (x, y, z) on one grid.
    affine
        (4, 4) voxel to world, mm.
    """
    displacement = np.zeros((*fixed.shape, 3), dtype=np.float32)
    box = _box((fixed > 0) | (moving > 0))
    fixed, moving = np.ascontiguousarray(fixed[box]), np.ascontiguousarray(moving[box])
    boxed = affine.copy()
    boxed[:3, 3] += affine[:3, :3] @ [side.start for side in box]
    voxel = float(np.linalg.norm(affine[:3, :3], axis=0).min())
    radius = int(np.clip(round(8 / voxel), 2, 4))
    n_levels = max(2, round(np.log2(COARSEST_MM / voxel)) + 1)
    while n_levels > 1 and min(fixed.shape) / 2 ** (n_levels - 1) < 2 * radius + 2:
        n_levels -= 1  # the window of the cross-correlation must fit into the coarsest level
    syn = SymmetricDiffeomorphicRegistration(
        CCMetric(3, sigma_diff=FIELD_SIGMA, radius=radius),
        level_iters=[COARSE_ITERATIONS] * (n_levels - 1) + [FINEST_ITERATIONS],
    )
    syn.verbosity = 0  # DIPY's VerbosityLevels.NONE
    mapping = syn.optimize(fixed, moving, static_grid2world=boxed, moving_grid2world=boxed)
    # DIPY returns the inverse of its map, whose "forward" field leads from static to moving
    displacement[box] = mapping.get_forward_field()
    return displacement


def _box(mask: NDArray[np.bool_]) -> tuple[slice, ...]:
    """Smallest box around a mask and `MARGIN` voxels; no smaller than the grid allows."""
    voxels = np.argwhere(mask)
    low = np.maximum(voxels.min(axis=0) - MARGIN, 0)
    high = voxels.max(axis=0) + MARGIN + 1
    return tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))


def world_grid(shape: tuple[int, ...], affine: NDArray[np.float64]) -> NDArray[np.float64]:
    """World coordinates (x, y, z, 3), mm, of a grid's voxels."""
    index = np.moveaxis(np.indices(shape, dtype=np.float64), 0, -1)
    return index @ affine[:3, :3].T + affine[:3, 3]


def sample(
    image: NDArray[np.float32], affine: NDArray[np.float64], world: NDArray[np.floating]
) -> NDArray[np.float32]:
    """Values of an image at world coordinates (..., 3), mm; linear, 0 outside it."""
    to_voxel = np.linalg.inv(affine)
    voxel = world @ to_voxel[:3, :3].T + to_voxel[:3, 3]
    value: NDArray[np.float32] = ndimage.map_coordinates(
        image, np.moveaxis(voxel, -1, 0), np.float32, order=1, mode="constant"
    )
    return value


def sample_brain(
    image: NDArray[np.float32], affine: NDArray[np.float64], world: NDArray[np.floating]
) -> NDArray[np.float32]:
    """As `sample`, but air is nothing instead of 0: the brain keeps its values and its edge.

    Of FA that fades out towards air, the cohort's average would grow beyond its people.
    """
    has = image > AIR_FA
    share = sample(has.astype(np.float32), affine, world)
    value = sample(np.where(has, image, np.float32(0)), affine, world)
    return np.where(share >= 0.5, value / np.maximum(share, 0.5), np.float32(0))


def regrid(
    template: NDArray[np.float32], affine: NDArray[np.float64], voxel_size: float
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """A template with cubic voxels of another size, smoothed first where they are larger.

    Parameters
    ----------
    template
        (x, y, z).
    affine
        (4, 4) voxel to world, mm.
    voxel_size
        mm.

    Returns
    -------
    (template, affine)
        The field of view keeps its outer edges, to the next whole voxel.
    """
    shape, new_affine = regridded(template.shape, affine, voxel_size)
    to_old = np.linalg.inv(affine) @ new_affine
    scale = np.diag(to_old)[:3]  # (3,) old voxels a new one
    sigma = np.sqrt(np.maximum(scale**2 - 1, 0)) / 2.3548
    smooth = ndimage.gaussian_filter(template, sigma, mode="nearest")
    new = ndimage.affine_transform(
        smooth, scale, to_old[:3, 3], shape, np.float32, order=1, mode="constant"
    )
    return new, new_affine


def brain_of(
    template: NDArray[np.float32],
    template_affine: NDArray[np.float64],
    shape: tuple[int, ...],
    affine: NDArray[np.float64],
) -> NDArray[np.bool_]:
    """The template's brain on the grid of the maps.

    Parameters
    ----------
    template
        (x', y', z') fractional anisotropy, on the maps' grid or another one.
    shape
        (x, y, z) of the maps.
    affine, template_affine
        (4, 4) voxel to world of the maps and of the template, mm.
    """
    return sample(template, template_affine, world_grid(shape, affine)) > TEMPLATE_MIN_FA


def group_mask(
    coverage: NDArray[np.integer], n_samples: int, brain: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Voxels of the template's brain that nearly everybody has.

    Nobody is passed over in the count: a voxel that stays is FA of nearly all, and a 0 where a
    scan has nothing would be taken for FA. Who costs the others many voxels is to be left out by
    name, not by a rule.

    Parameters
    ----------
    coverage
        (x, y, z) number of people whose map is not 0.
    n_samples
        Number of people.
    brain
        (x, y, z) from `brain_of`.
    """
    mask: NDArray[np.bool_] = brain & (coverage >= MIN_COVERAGE * n_samples)
    return mask

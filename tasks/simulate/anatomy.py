"""The tissue that is scanned: water signal and diffusion tensor in named white matter regions.

A model lies on a grid of half the scan's voxel size in RAS millimetres; the origin of the world is
the centre of the field of view. Tensors are six numbers xx, xy, yy, xz, yz, zz in mm²/s along the
world's axes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from axoloci.errors import InputError
from axoloci.io.gradients import B0_THRESHOLD

PHANTOM_FOV_MM = (160.0, 200.0, 160.0)
BRAIN_SEMI_AXES_MM = (68.0, 86.0, 64.0)
MD_TISSUE, MD_CSF = 0.8e-3, 3.0e-3  # mm²/s
S0_WHITE, S0_GREY, S0_CSF = 1000.0, 1300.0, 2600.0
FA_TRACT, FA_WHITE, FA_GREY, FA_CSF = 0.6, 0.25, 0.1, 0.02
REST = "other_white_matter"  # the last region: no locus is planted in it
MIN_REGION_ML = 8.0
# A planted FA keeps the smallest eigenvalue above 5% of MD and the tensor away from a sphere.
MIN_EIGENVALUE, MIN_FA = 0.05, 0.02

# The tensor of a unit vector v is v[ROW] * v[COLUMN]; off-diagonal elements count twice in a norm.
ROW, COLUMN = np.array([0, 0, 1, 0, 1, 2]), np.array([0, 1, 1, 2, 2, 2])
TWICE = np.array([1, 2, 1, 2, 2, 1], dtype=np.float32)
IDENTITY = np.array([1, 0, 1, 0, 0, 1], dtype=np.float32)

# Curves of the tracts in mm (start, bend, end) and the radius; one tract may have several curves.
Curve = tuple[tuple[float, float, float], ...]
BODY: tuple[Curve, ...] = tuple(
    ((-38.0, y, 30.0), (0.0, y, 10.0), (38.0, y, 30.0)) for y in (-22.0, -11.0, 0.0, 11.0, 22.0)
)
COMMISSURAL: dict[str, tuple[float, tuple[Curve, ...]]] = {
    "corpus_callosum_genu": (11, (((-34, 60, 6), (0, 16, 4), (34, 60, 6)),)),
    "corpus_callosum_body": (7, BODY),
    "corpus_callosum_splenium": (11, (((-36, -62, 8), (0, -20, 8), (36, -62, 8)),)),
}
BILATERAL: dict[str, tuple[float, tuple[Curve, ...]]] = {  # the right one; x < 0 is the left
    "corticospinal_tract": (11, (((12, -14, -46), (22, -16, 4), (36, -12, 48)),)),
    "superior_longitudinal_fasciculus": (11, (((28, 42, 22), (46, 0, 30), (28, -46, 22)),)),
    "inferior_longitudinal_fasciculus": (11, (((26, 52, -14), (46, 0, -22), (26, -60, -10)),)),
    "cingulum": (9, (((11, 48, 20), (11, 0, 62), (11, -46, 22)),)),
}


@dataclass(frozen=True)
class Anatomy:
    """One head without pose, noise or individual differences.

    Attributes
    ----------
    s0
        (X, Y, Z) float32 signal without diffusion weighting, 0 in air.
    tensor
        (X, Y, Z, 6) float32, mm²/s.
    brain
        (X, Y, Z) bool; a real head has scalp and eyes beside it.
    region
        (X, Y, Z) uint8: 0 no white matter, k = `names[k - 1]`.
    names
        Names of the regions; the last is `other_white_matter`.
    affine
        (4, 4) voxel-to-world matrix of the model's grid, mm.
    shape
        Voxels of the scan: the model's grid at every second voxel.
    """

    s0: NDArray[np.float32]
    tensor: NDArray[np.float32]
    brain: NDArray[np.bool_]
    region: NDArray[np.uint8]
    names: tuple[str, ...]
    affine: NDArray[np.float64]
    shape: tuple[int, int, int]

    @property
    def scan_affine(self) -> NDArray[np.float64]:
        """(4, 4) voxel-to-world matrix of the scan, mm (LAS: no flip in its b-vectors)."""
        return np.asarray(self.affine @ np.diag([2.0, 2.0, 2.0, 1.0]))

    @property
    def scan_region(self) -> NDArray[np.uint8]:
        """(x, y, z) region at each voxel of the scan."""
        return self.region[::2, ::2, ::2]

    @property
    def scan_fa(self) -> NDArray[np.float32]:
        """(x, y, z) FA at each voxel of the scan, 0 outside the brain: the template."""
        fa = fractional_anisotropy(self.tensor[::2, ::2, ::2])
        return np.asarray(np.where(self.brain[::2, ::2, ::2], fa, np.float32(0)))

    @property
    def region_ml(self) -> NDArray[np.float64]:
        """(n_regions,) volume of each region in millilitres."""
        count = np.bincount(self.region.ravel(), minlength=len(self.names) + 1)[1:]
        return np.asarray(count * abs(np.linalg.det(self.affine[:3, :3])) / 1000)

    @cached_property
    def fields(self) -> NDArray[np.float32]:
        """(X·Y·Z, 7) signal and tensor, side by side so that one look-up reads all of a voxel."""
        fields = np.concatenate([self.s0[..., None], self.tensor], axis=3)  # (X, Y, Z, 7)
        return np.asarray(fields.reshape(-1, 7), dtype=np.float32)

    @cached_property
    def support(self) -> NDArray[np.bool_]:
        """(X, Y, Z) voxels at or beside tissue."""
        near = ndimage.binary_dilation(self.s0 > 0, np.ones((3, 3, 3)), iterations=2)
        return np.asarray(near, dtype=np.bool_)

    @cached_property
    def white(self) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.float32]]:
        """Of the white matter: (n,) flat indices, (n,) FA and (n,) largest FA that can be set."""
        index = np.flatnonzero(self.region)
        tensor = self.tensor.reshape(-1, 6)[index]
        return index, fractional_anisotropy(tensor), largest_fa(tensor)

    def with_fa_offset(self, offset: NDArray[np.float64]) -> NDArray[np.float32]:
        """The fields of a person whose regions differ in FA at the same mean diffusivity.

        Parameters
        ----------
        offset
            (n_regions,) FA added to each region.

        Returns
        -------
        (X·Y·Z, 7) float32, as `fields`.
        """
        index, fa, limit = self.white
        wanted = fa + offset.astype(np.float32)[self.region.ravel()[index] - 1]
        fields = self.fields.copy()
        tensor = self.tensor.reshape(-1, 6)[index]
        fields[index, 1:] = with_fa(tensor, np.clip(wanted, MIN_FA, limit))
        return fields


def mean_diffusivity(tensor: NDArray[np.float32]) -> NDArray[np.float32]:
    """A third of the trace of (..., 6) tensors."""
    return np.asarray((tensor[..., 0] + tensor[..., 2] + tensor[..., 5]) / 3)


def _split(tensor: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Isotropic and deviatoric part of (..., 6) tensors."""
    isotropic = mean_diffusivity(tensor)[..., None] * IDENTITY
    return isotropic, tensor - isotropic


def fractional_anisotropy(tensor: NDArray[np.float32]) -> NDArray[np.float32]:
    """FA of (..., 6) tensors; 0 where all are 0. DOI 10.1006/jmrb.1996.0086."""
    tensor = np.asarray(tensor, dtype=np.float64)
    deviator = _split(tensor)[1]
    total = (tensor**2) @ TWICE
    fa2 = np.divide(1.5 * (deviator**2) @ TWICE, total, out=np.zeros_like(total), where=total > 0)
    return np.asarray(np.sqrt(fa2), dtype=np.float32)


def with_fa(tensor: NDArray[np.float32], fa: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scale the deviatoric part of (n, 6) tensors so that FA is (n,) `fa`; MD and axes stay.

    With D = M + kA, M isotropic and A deviatoric, FA² = 3/2 k²|A|² / (|M|² + k²|A|²).
    """
    isotropic, deviator = _split(tensor)
    m2 = (isotropic**2) @ TWICE
    a2 = (deviator**2) @ TWICE
    k2 = np.divide(m2 * fa**2, a2 * (1.5 - fa**2), out=np.zeros_like(m2), where=a2 > 0)
    return np.asarray(isotropic + np.sqrt(k2)[:, None] * deviator)


def largest_fa(tensor: NDArray[np.float32]) -> NDArray[np.float32]:
    """FA at which the smallest eigenvalue of each (n, 6) tensor is 5% of its mean diffusivity."""
    isotropic, deviator = _split(tensor.astype(np.float64))
    matrix = np.zeros((len(tensor), 3, 3))
    matrix[:, ROW, COLUMN] = matrix[:, COLUMN, ROW] = deviator
    lowest = -np.linalg.eigvalsh(matrix)[:, :1]  # (n, 1) > 0 for every anisotropic tensor
    room = (1 - MIN_EIGENVALUE) * isotropic[:, :1]
    scale = np.divide(room, lowest, out=np.ones_like(room), where=lowest > 0)
    return fractional_anisotropy(isotropic + scale * deviator)


def _prolate(
    direction: NDArray[np.floating], fa: NDArray[np.floating], md: float
) -> NDArray[np.float32]:
    """(n, 6) tensors with one main axis along each of (n, 3) unit vectors."""
    outer = direction[:, ROW] * direction[:, COLUMN] - IDENTITY / 3
    k = np.sqrt(3 * md**2 * fa**2 / (2 / 3 * (1.5 - fa**2)))
    return np.asarray(md * IDENTITY + k[:, None] * outer, dtype=np.float32)


def half_grid(
    shape: tuple[int, int, int], voxel_size: float
) -> tuple[tuple[int, int, int], NDArray[np.float64]]:
    """Shape and affine of the model's grid for a LAS scan centred on the world's origin."""
    affine = np.diag([-voxel_size / 2, voxel_size / 2, voxel_size / 2, 1.0])
    affine[:3, 3] = np.array([1, -1, -1]) * voxel_size * (np.array(shape) - 1) / 2
    return (2 * shape[0], 2 * shape[1], 2 * shape[2]), affine


def phantom(voxel_size: float) -> Anatomy:
    """A brain of ellipsoids: CSF, folded cortex, deep grey matter, ventricles and eleven tracts.

    Parameters
    ----------
    voxel_size
        Of the scan, mm; the field of view is 160 × 200 × 160 mm.
    """
    shape = tuple(max(8, round(length / voxel_size)) for length in PHANTOM_FOV_MM)
    grid, affine = half_grid((shape[0], shape[1], shape[2]), voxel_size)
    index = np.indices(grid, dtype=np.float32).reshape(3, -1).T  # (n, 3)
    world = index @ affine[:3, :3].T.astype(np.float32) + affine[:3, 3].astype(np.float32)
    radius = np.linalg.norm(
        world / np.array(BRAIN_SEMI_AXES_MM, dtype=np.float32), axis=1
    )  # 1 on the surface
    distance = np.linalg.norm(world, axis=1)
    radial = world / np.maximum(distance, 1e-3)[:, None]

    # Sulci: the depth of the cortex varies along the surface, a little unlike on both sides.
    azimuth = np.arctan2(world[:, 1], world[:, 0] + 4)
    fold = 0.05 * np.sin(7 * azimuth) * np.cos(world[:, 2] / 9) + 0.02 * np.sin(world[:, 1] / 6)
    brain, cortex, white = radius < 1, radius < 0.94, radius < 0.80 + fold
    x, y, z = np.abs(world[:, 0]), world[:, 1], world[:, 2]
    ventricle = ((x - 10) / 6) ** 2 + ((y + 4) / 30) ** 2 + ((z - 6) / 8) ** 2 < 1
    nuclei = ((x - 21) / 9) ** 2 + ((y + 2) / 20) ** 2 + ((z + 4) / 11) ** 2 < 1

    s0 = np.where(brain, S0_CSF, 0.0)
    fa = np.full(len(world), FA_CSF)
    md = np.full(len(world), MD_CSF)
    for where, signal, anisotropy in (
        (cortex, S0_GREY, FA_GREY),
        (white, S0_WHITE, FA_WHITE),
        (nuclei, 0.9 * S0_GREY, FA_GREY),
    ):
        s0[where], fa[where], md[where] = signal, anisotropy, MD_TISSUE
    direction = radial
    names = [*COMMISSURAL, *(f"{name}_{side}" for name in BILATERAL for side in ("left", "right"))]
    region = np.where(white & ~nuclei, len(names) + 1, 0).astype(np.uint8)

    inside = np.flatnonzero(radius < 0.9)
    for label, name in enumerate(names, 1):
        thickness, curves = COMMISSURAL.get(name) or BILATERAL[name.rpartition("_")[0]]
        mirror = np.array([-1.0 if name.endswith("_left") else 1.0, 1, 1])
        for curve in curves:
            near, depth, tangent = _tube(world[inside], np.array(curve) * mirror, thickness)
            voxel = inside[near]
            # Where tracts cross, the first one keeps the voxel.
            free = (
                (region[voxel] == 0) | (region[voxel] == len(names) + 1) | (region[voxel] == label)
            )
            voxel, depth, tangent = voxel[free], depth[free], tangent[free]
            region[voxel], s0[voxel], md[voxel] = label, 0.95 * S0_WHITE, MD_TISSUE
            fa[voxel], direction[voxel] = FA_TRACT + 0.08 * depth, tangent
    s0[ventricle], fa[ventricle], md[ventricle], region[ventricle] = S0_CSF, FA_CSF, MD_CSF, 0
    tensor = _prolate(direction, fa, 1.0) * md[:, None]
    return Anatomy(
        s0=s0.reshape(grid).astype(np.float32),
        tensor=tensor.reshape(*grid, 6).astype(np.float32),
        brain=brain.reshape(grid),
        region=region.reshape(grid),
        names=(*names, REST),
        affine=affine,
        shape=(shape[0], shape[1], shape[2]),
    )


def _tube(
    world: NDArray[np.float32], curve: NDArray[np.float64], radius: float
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """Points within `radius` of a quadratic Bézier curve.

    Returns
    -------
    (near, depth, tangent)
        (n,) their indices; (n,) depth, 1 on the axis and 0 on the surface; (n, 3) direction.
    """
    t = np.linspace(0, 1, 60)[:, None]
    a, b, c = curve
    axis = (1 - t) ** 2 * a + 2 * t * (1 - t) * b + t**2 * c  # (60, 3)
    along = 2 * (1 - t) * (b - a) + 2 * t * (c - b)
    along /= np.linalg.norm(along, axis=1, keepdims=True)
    box = ((world > axis.min(axis=0) - radius) & (world < axis.max(axis=0) + radius)).all(axis=1)
    candidate = np.flatnonzero(box)
    gap = np.linalg.norm(world[candidate, None] - axis[None], axis=2)  # (n_box, 60)
    nearest = gap.argmin(axis=1)
    distance = gap[np.arange(len(candidate)), nearest]
    keep = distance < radius
    return candidate[keep], 1 - (distance[keep] / radius) ** 2, along[nearest[keep]]


def from_scan(
    dwi: NDArray[np.floating],
    bval: NDArray[np.float64],
    gradient: NDArray[np.float64],
    affine: NDArray[np.float64],
    voxel_size: float,
    max_bval: float = 1500.0,
) -> Anatomy:
    """The anatomy of a real scan: its signal and tensor field, smoothed to the new voxel size.

    The scan is smoothed by the variance that a larger voxel adds, resampled along the world's axes,
    and fitted by ordinary least squares of the logarithm of the signal (DOI
    10.1006/jmrb.1994.1037). The white matter (FA > 0.25) is divided by main direction, side and
    place, and the largest connected part of each becomes a region.

    Parameters
    ----------
    dwi
        (x, y, z, g) signal, free of motion.
    bval
        (g,) s/mm².
    gradient
        (g, 3) unit vectors in the world's axes.
    affine
        (4, 4) voxel-to-world matrix, mm.
    voxel_size
        Of the simulated scans, mm.
    max_bval
        Volumes beyond are left out: a tensor does not describe them.

    Raises
    ------
    InputError
        No b0, fewer than six directions, or no head in the image.
    """
    used = np.flatnonzero(bval <= max_bval)
    is_b0 = bval[used] <= B0_THRESHOLD
    g = np.where(is_b0[:, None], 0, gradient[used])
    design = np.column_stack(
        [np.ones(len(used)), -bval[used, None] * g[:, ROW] * g[:, COLUMN] * TWICE]
    )
    if not is_b0.any() or np.linalg.matrix_rank(design, tol=1e-3) < 7:
        raise InputError(
            f"--anatomy needs a b0 and six or more directions up to b = {max_bval:g} s/mm², found "
            f"{int(is_b0.sum())} b0 and {int((~is_b0).sum())} weighted volumes"
        )

    head, low, high = _head(dwi[..., used[is_b0]].mean(axis=3), affine)
    size = np.ceil((high - low + 10) / voxel_size).astype(int)  # 5 mm of air on each side
    shape = (int(size[0]), int(size[1]), int(size[2]))
    grid, model_affine = half_grid(shape, voxel_size)
    centred = model_affine.copy()
    centred[:3, 3] += (low + high) / 2
    to_source = np.linalg.inv(affine) @ centred  # model voxel -> voxel of the source
    points = np.indices(grid, dtype=np.float32).reshape(3, -1)
    source = (to_source[:3, :3] @ points + to_source[:3, 3:]).astype(np.float32)  # (3, n)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    sigma = np.sqrt(np.maximum(voxel_size**2 - spacing**2, 0) / 12) / spacing

    def resample(volume: NDArray[np.floating]) -> NDArray[np.float32]:
        smooth = ndimage.gaussian_filter(volume.astype(np.float32), sigma)
        return np.asarray(ndimage.map_coordinates(smooth, source, order=1), dtype=np.float32)

    inside = np.flatnonzero(resample(head) > 0.5)
    signal = np.stack([resample(dwi[..., volume])[inside] for volume in used])  # (g, n)
    floor = 0.01 * np.median(signal[is_b0])
    coefficient = np.linalg.pinv(design) @ np.log(np.maximum(signal, floor))  # (7, n)
    s0 = np.zeros(np.prod(grid), dtype=np.float32)
    tensor = np.tile(np.float32(MD_TISSUE) * IDENTITY, (len(s0), 1))
    s0[inside] = np.exp(coefficient[0])
    tensor[inside] = _positive(coefficient[1:].T)
    brain = _brain(s0.reshape(grid), voxel_size / 2)
    region, names = _parcellate(brain, tensor.reshape(*grid, 6), voxel_size / 2, model_affine)
    return Anatomy(
        s0=(s0 * (S0_WHITE / np.median(s0[region.ravel() > 0]))).reshape(grid),
        tensor=tensor.reshape(*grid, 6),
        brain=brain,
        region=region,
        names=names,
        affine=model_affine,
        shape=shape,
    )


def _head(
    b0: NDArray[np.floating], affine: NDArray[np.float64]
) -> tuple[NDArray[np.float32], NDArray[np.float64], NDArray[np.float64]]:
    """(x, y, z) mask of the head with scalp and eyes, and the corners of its box in world mm."""
    smooth = ndimage.gaussian_filter(b0.astype(np.float32), 1)
    bright = smooth > 0.08 * np.percentile(smooth, 98)
    label, n_parts = ndimage.label(bright)
    if n_parts == 0 or bright.mean() > 0.95:
        raise InputError("--anatomy: no head stands out from the background of the b0 image")
    largest = label == 1 + np.argmax(np.bincount(label.ravel())[1:])
    head = ndimage.binary_fill_holes(ndimage.binary_closing(largest, iterations=2))
    corner = np.argwhere(head) @ affine[:3, :3].T + affine[:3, 3]  # (n, 3)
    return head.astype(np.float32), corner.min(axis=0), corner.max(axis=0)


def _brain(s0: NDArray[np.float32], spacing: float) -> NDArray[np.bool_]:
    """(X, Y, Z) the largest bright part of the head after what is thinner than 16 mm is cut off."""
    bright = ndimage.binary_fill_holes(s0 > 0.35 * np.percentile(s0[s0 > 0], 75))
    core = ndimage.distance_transform_edt(bright, sampling=spacing) > 8
    label, n_parts = ndimage.label(core)
    if n_parts == 0:
        raise InputError("--anatomy: no brain found in the b0 image")
    largest = label == 1 + np.argmax(np.bincount(label.ravel())[1:])
    grown = ndimage.distance_transform_edt(~largest, sampling=spacing) <= 8
    return np.asarray(bright & grown, dtype=np.bool_)


def _positive(tensor: NDArray[np.float64]) -> NDArray[np.float32]:
    """(n, 6) tensors whose eigenvalues lie between 0.02e-3 and 4e-3 mm²/s."""
    matrix = np.zeros((len(tensor), 3, 3))
    matrix[:, ROW, COLUMN] = matrix[:, COLUMN, ROW] = tensor
    values, vectors = np.linalg.eigh(matrix)
    values = np.clip(values, 0.02e-3, 4e-3)
    rebuilt = np.einsum("nij,nj,nkj->nik", vectors, values, vectors)
    return np.asarray(rebuilt[:, ROW, COLUMN], dtype=np.float32)


def _parcellate(
    brain: NDArray[np.bool_],
    tensor: NDArray[np.float32],
    spacing: float,
    affine: NDArray[np.float64],
) -> tuple[NDArray[np.uint8], tuple[str, ...]]:
    """Divide the white matter by main direction, side and place.

    Returns
    -------
    (region, names)
        (X, Y, Z) labels; names such as `association_left_superior`.
    """
    inner = ndimage.distance_transform_edt(brain, sampling=spacing) > 6  # no noise of the edge
    white = inner & (fractional_anisotropy(tensor) > FA_WHITE) & (mean_diffusivity(tensor) < 1.1e-3)
    index = np.argwhere(white)
    if len(index) == 0:
        raise InputError("--anatomy: no white matter (FA > 0.25) in the tensor field of the scan")
    matrix = np.zeros((len(index), 3, 3))
    matrix[:, ROW, COLUMN] = matrix[:, COLUMN, ROW] = tensor[white]
    axis = np.abs(np.linalg.eigh(matrix)[1][:, :, 2]).argmax(axis=1)  # of the main direction
    world = index @ affine[:3, :3].T + affine[:3, 3]
    right, anterior, superior = (world > np.median(world, axis=0)).T
    side = np.where(right, "right", "left")
    front = np.where(anterior, "anterior", "posterior")
    level = np.where(superior, "superior", "inferior")

    systems = (
        ("commissural", front),
        ("association", np.char.add(np.char.add(side, "_"), level)),
        ("projection", np.char.add(np.char.add(side, "_"), front)),
    )
    region = np.zeros(brain.shape, dtype=np.uint8)
    names: list[str] = []
    for direction, (system, place) in enumerate(systems):
        for part in np.unique(place):
            member = np.zeros(brain.shape, dtype=bool)
            member[tuple(index[(axis == direction) & (place == part)].T)] = True
            label, n_parts = ndimage.label(member)
            if n_parts == 0:
                continue
            largest = label == 1 + np.argmax(np.bincount(label.ravel())[1:])
            if largest.sum() * spacing**3 / 1000 >= MIN_REGION_ML:
                names.append(f"{system}_{part}")
                region[largest] = len(names)
    region[white & (region == 0)] = len(names) + 1
    return region, (*names, REST)

"""FA-like maps of a small brain, made from eight factors that are known.

Intensity: a factor raises FA in a ball-like region. Shape: a factor bends a tract sideways, so that
each voxel near it is a curved function of the factor, which no few components can follow.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

GRID = (24, 28, 24)  # voxels
CENTRE = (np.array(GRID) - 1) / 2
N_FACTORS = 8
BACKGROUND, ON_TRACT = 0.2, 0.4  # FA, and what a tract adds at its middle
REGION = 3.0  # voxels, standard deviation of a Gaussian
INTENSITY = 0.08  # FA at the middle of a region, for one standard deviation of its factor
TRACT = 1.5  # voxels, standard deviation of a tract's profile
BEND = 2.5  # voxels sideways at a tract's middle, for one standard deviation of its factor
NOISE = 0.03  # FA, of a single voxel
TRACT_HEIGHTS = (5.0, 9.5, 14.0, 18.5)  # z; a tract runs along y and bends along x

# corners of a cube about the centre: the first four are no neighbours
CORNERS = np.array([[x, y, x * y * s] for s in (1, -1) for x in (-1, 1) for y in (-1, 1)])
REGION_CENTRES = CENTRE + CORNERS * (5, 6.5, 5)


def brain() -> NDArray[np.bool_]:
    """An ellipsoid within the grid, (x, y, z)."""
    places = np.stack(np.indices(GRID), axis=-1)
    return np.asarray((((places - CENTRE) / (CENTRE - 0.5)) ** 2).sum(axis=-1) < 1)


def _shares(places: NDArray[np.float64]) -> NDArray[np.float64]:
    """Share of each region's intensity at each place, (8, n_voxels)."""
    squared = ((places - REGION_CENTRES[:, None]) ** 2).sum(axis=-1)
    return np.asarray(np.exp(-squared / (2 * REGION**2)))


def _tract(places: NDArray[np.float64], height: float, bend: NDArray[np.float64]) -> NDArray:
    """Profile of a tract, 1 at its middle, for each bend in voxels, (n, n_voxels)."""
    x, y, z = places.T
    along = np.sin(np.pi * y / (GRID[1] - 1))  # 0 at both ends, 1 at the middle
    aside = x - CENTRE[0] - np.outer(bend, along)  # (n, n_voxels)
    return np.exp(-(aside**2 + (z - height) ** 2) / (2 * TRACT**2))


def planted_maps(
    factors: NDArray[np.float64],
    n_shapes: int,
    rng: np.random.Generator,
    *,
    effect: float = 1.0,
    noise: float = NOISE,
) -> NDArray[np.float32]:
    """Maps of people whose factors are known.

    Parameters
    ----------
    factors
        [float64, shape: (n, 8)] Standard normal: the intensities of regions, then shapes of tracts.
    n_shapes
        How many of the factors are shapes: 0 makes maps that are linear in the factors, 4 not.
    rng
        Of the noise.
    effect
        Factor of all effects, intensity and bend.
    noise
        Standard deviation of the noise of a voxel, FA.

    Returns
    -------
    [float32, shape: (n, n_voxels)] FA inside `brain()`, C order.
    """
    places = np.argwhere(brain()).astype(float)  # (n_voxels, 3)
    n_regions = N_FACTORS - n_shapes
    rows = BACKGROUND + noise * rng.standard_normal((len(factors), len(places)))
    rows += effect * INTENSITY * factors[:, :n_regions] @ _shares(places)[:n_regions]
    for tract, height in enumerate(TRACT_HEIGHTS):
        shape = n_regions + tract
        bend = effect * BEND * factors[:, shape] if tract < n_shapes else np.zeros(1)
        rows += ON_TRACT * _tract(places, height, bend)
    return rows.astype(np.float32)


def planted_regions(n_shapes: int) -> NDArray[np.bool_]:
    """Where each factor acts, (8, n_voxels).

    Of an intensity where it has half of its effect or more; of a shape where the tract, at half of
    its height or more, comes to lie for factors within two standard deviations.
    """
    places = np.argwhere(brain()).astype(float)
    bands = [
        (_tract(places, height, np.linspace(-2, 2, 41) * BEND) >= 0.5).any(axis=0)
        for height in TRACT_HEIGHTS[:n_shapes]
    ]
    return np.array([*(_shares(places)[: N_FACTORS - n_shapes] >= 0.5), *bands])

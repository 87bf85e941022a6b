"""What a latent means in the brain: how maps change with it, and in which regions of an atlas.

Maps come as rows: the voxels inside the cohort's mask, C order.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from torch import Tensor

from axoloci.errors import InputError
from axoloci.tasks.encoder.representation import in_parts

Decode = Callable[[Tensor], Tensor]
"""Latents (b, n_latents) -> maps (b, n_voxels)."""

PEOPLE_AT_ONCE = 16
ROUNDING = 1e-4  # of a change: spread below it is that of float32 differences
LATENTS_AT_ONCE = 8  # whose sums are held in memory; the maps without a change serve them all


@torch.inference_mode()
def perturb(
    decode: Decode, latents: NDArray[np.floating], index: NDArray[np.int64]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """What one standard deviation more of a latent adds to people's maps (PerDI of UDIP-FA).

    Parameters
    ----------
    decode
        Of a representation.
    latents
        [float, shape: (n_samples, n_latents)] Of the people whose maps are changed, 500 as
        published, more than one.
    index
        [int64, shape: (k,)] Latents that are changed, one at a time.

    Returns
    -------
    (effect, t)
        [float32, shape: (k, n_voxels)] mean change; [float32, shape: (k, n_voxels)] its paired t,
        0 where nothing changes. Changes are told apart to a ten-thousandth: where people change
        more alike, as they do in a linear representation, t is that of such a spread.

    References
    ----------
    Zhao et al., Nature Communications 2026.
    """
    codes = torch.from_numpy(np.asarray(latents, dtype=np.float32))  # (n, K)
    n, sd = len(codes), codes.std(dim=0)  # (K,)
    effects, ts, at_once = [], [], PEOPLE_AT_ONCE
    for first in range(0, len(index), LATENTS_AT_ONCE):
        group = index[first : first + LATENTS_AT_ONCE].tolist()
        total: list[Tensor] = []
        squares: list[Tensor] = []
        for start in range(0, n, PEOPLE_AT_ONCE):
            some = codes[start : start + PEOPLE_AT_ONCE]  # (b, K)
            before, at_once = in_parts(_on_cpu(decode), some, at_once)  # (b, n_voxels)
            for place, k in enumerate(group):
                more = some.clone()
                more[:, k] += sd[k]
                after, at_once = in_parts(_on_cpu(decode), more, at_once)
                change = (after - before).double()  # (b, n_voxels)
                if start == 0:
                    total.append(change.sum(dim=0))
                    squares.append(change.square().sum(dim=0))
                else:
                    total[place] += change.sum(dim=0)
                    squares[place] += change.square().sum(dim=0)
        for changed, squared in zip(total, squares, strict=True):
            mean = changed / n  # (n_voxels,)
            variance = (squared / n - mean.square()) * n / (n - 1)
            variance = torch.maximum(variance, (ROUNDING * mean).square())
            t = torch.where(mean == 0, 0.0, mean / (variance / n).sqrt())
            effects.append(mean.float().numpy())
            ts.append(t.float().numpy())
    return np.stack(effects), np.stack(ts)


def derivative(
    decode: Decode, latents: NDArray[np.floating], index: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Columns of the decoder's Jacobian: change of a map by a unit of a latent, mean over people.

    Of a linear representation it is the same for everybody: its basis. By forward-mode automatic
    differentiation.

    Parameters
    ----------
    decode
        Of a representation.
    latents
        [float, shape: (n_samples, n_latents)] Of the people at whose latents it is taken.
    index
        [int64, shape: (k,)] Which latents.

    Returns
    -------
    [float32, shape: (k, n_voxels)]
    """
    codes = torch.from_numpy(np.asarray(latents, dtype=np.float32))  # (n, K)
    maps, at_once = [], PEOPLE_AT_ONCE
    for direction in torch.eye(codes.shape[1])[index]:  # (K,)
        along = _on_cpu(_derivative_along(decode, direction))
        total = torch.zeros(())
        for start in range(0, len(codes), PEOPLE_AT_ONCE):
            some = codes[start : start + PEOPLE_AT_ONCE]  # (b, K)
            with torch.no_grad():
                change, at_once = in_parts(along, some, at_once)  # (b, n_voxels)
            total = total + change.double().sum(dim=0)
        maps.append((total / len(codes)).float().numpy())
    return np.stack(maps)


def _derivative_along(decode: Decode, direction: Tensor) -> Decode:
    """How maps (b, n_voxels) change with latents (b, K) in a direction (K,)."""
    return lambda codes: torch.func.jvp(decode, (codes,), (direction.expand_as(codes),))[1]


def _on_cpu(function: Decode) -> Decode:
    """The same function, whose results leave the GPU one part after the other."""
    return lambda codes: function(codes).cpu()


def smooth(
    rows: NDArray[np.float32],
    mask: NDArray[np.bool_],
    voxel_size: NDArray[np.float64],
    sigma: float,
) -> NDArray[np.float32]:
    """Gaussian smoothing of maps within a mask; what is outside does not count.

    Parameters
    ----------
    rows
        [float32, shape: (k, n_voxels)] Maps.
    mask
        [bool, shape: (x, y, z)] Voxels that a row holds.
    voxel_size
        [float64, shape: (3,)] mm.
    sigma
        Standard deviation of the kernel, mm.

    Returns
    -------
    [float32, shape: (k, n_voxels)]
    """
    widths = sigma / np.asarray(voxel_size)
    weight = gaussian_filter(mask.astype(np.float32), widths)[mask]  # (n_voxels,)
    smoothed = np.empty_like(rows)
    for row, place in zip(rows, smoothed, strict=True):
        volume = np.zeros(mask.shape, dtype=np.float32)
        volume[mask] = row
        place[:] = gaussian_filter(volume, widths)[mask] / weight
    return smoothed


@dataclass(frozen=True)
class Regions:
    """How strong maps are in the regions of an atlas.

    Attributes
    ----------
    label
        [int, shape: (r,)] Regions that have voxels in the mask.
    n_voxels
        [int, shape: (r,)] How many.
    strength
        [float64, shape: (k, r)] Mean absolute value of each map in each region.
    p
        [float64, shape: (k, r)] Share of places of the same size that are as strong.
    """

    label: NDArray[np.int64]
    n_voxels: NDArray[np.int64]
    strength: NDArray[np.float64]
    p: NDArray[np.float64]


def rank_regions(
    rows: NDArray[np.float32],
    labels: NDArray[np.integer],
    place: NDArray[np.floating],
    n_permutations: int = 1000,
    seed: int = 0,
) -> Regions:
    """Compare maps in an atlas's regions with the same maps at random places of the same size.

    A place is a voxel of the mask, drawn by chance, and those nearest to it: as compact as a region
    is, because maps are smooth, and voxels that are shuffled one by one would make every region
    stand out. Observed and random statistic are the same, the mean absolute value.

    Parameters
    ----------
    rows
        [float32, shape: (k, n_voxels)] Maps.
    labels
        [int, shape: (n_voxels,)] Region of each voxel, 0 for none.
    place
        [float, shape: (n_voxels, 3)] Where each voxel is, mm.
    n_permutations
        Random places; the smallest p is one over one more than these.
    seed
        Of the places.

    Returns
    -------
    Regions

    Raises
    ------
    InputError
        No region has a voxel.
    """
    label = np.unique(labels[labels > 0])
    if not len(label):
        raise InputError("the atlas has no region in the mask of the maps; is it in their space?")
    strength = np.abs(rows)  # (k, n_voxels)
    n_voxels = np.array([np.count_nonzero(labels == number) for number in label])  # (r,)
    observed = np.stack([strength[:, labels == n].mean(axis=1, dtype=np.float64) for n in label], 1)
    as_strong = np.ones(observed.shape)  # (k, r); the region itself is one of the places
    centres = np.random.default_rng(seed).integers(0, len(place), n_permutations)
    largest = int(n_voxels.max())
    for centre in centres:
        distance = ((place - place[centre]) ** 2).sum(axis=1)  # (n_voxels,)
        near = np.argpartition(distance, largest - 1)[:largest]
        near = near[np.argsort(distance[near], kind="stable")]
        sums = np.cumsum(strength[:, near], axis=1, dtype=np.float64)  # (k, largest)
        as_strong += sums[:, n_voxels - 1] / n_voxels >= observed
    return Regions(label, n_voxels, observed, as_strong / (n_permutations + 1))

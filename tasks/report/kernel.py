"""What the pictures show: thinned points, quantiles, slices, label places."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

KEEP_ABOVE = 3.0  # −log10 p from which every variant is drawn
GRID = (1800, 240)  # cells, across and up, of which the others keep one variant each

PLINK_CODES = {"23": "X", "24": "Y", "25": "XY", "26": "MT"}  # of human genomes


def order_chromosomes(names: Sequence[str]) -> list[str]:
    """Chromosomes by number, then X, Y, XY and MT, then others as they come."""
    last = {"X": 1, "Y": 2, "XY": 3, "M": 4, "MT": 4}
    unique = list(dict.fromkeys(names))

    def rank(name: str) -> tuple[int, int]:
        if re.fullmatch(r"\d+", name):
            return 0, int(name)
        return (1, last[name]) if name in last else (2, unique.index(name))

    return sorted(unique, key=rank)


def label_chromosomes(names: Sequence[str]) -> list[str]:
    """Names to show: X, Y, XY (pseudo-autosomal) and MT for PLINK's codes 23 to 26.

    A genome with a chromosome of a higher number is not human, and its names are left as they are.

    >>> label_chromosomes(["22", "23", "25", "26"]), label_chromosomes(["23", "38"])
    (['22', 'X', 'XY', 'MT'], ['23', '38'])
    """
    if any(name.isdigit() and int(name) > 26 for name in names):
        return list(names)
    return [PLINK_CODES.get(name, name) for name in names]


def place_variants(
    chromosome: NDArray[np.integer[Any]], position: NDArray[Any]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Places of variants on one axis along the genome, chromosome after chromosome.

    Parameters
    ----------
    chromosome
        [int, shape: (n_variants,)] Rank of the chromosome, from 0.
    position
        [shape: (n_variants,)] Base pairs.

    Returns
    -------
    (place, edges)
        [float64, shape: (n_variants,)]; [float64, shape: (n_chromosomes, 2)] start and end of each
        chromosome on that axis.
    """
    position = np.asarray(position, dtype=np.float64)
    n_chromosomes = int(chromosome.max()) + 1
    first, last = np.full(n_chromosomes, np.inf), np.full(n_chromosomes, -np.inf)
    np.minimum.at(first, chromosome, position)
    np.maximum.at(last, chromosome, position)
    length = np.where(last >= first, last - first, 0)  # (n_chromosomes,)
    gap = 0.012 * max(float(length.sum()), 1.0)
    start = np.concatenate([[0], np.cumsum(length + gap)[:-1]])
    place = start[chromosome] + position - first[chromosome]
    return place, np.stack([start, start + length], axis=1)


def thin_points(
    place: NDArray[np.float64], neg_log10_p: NDArray[Any], keep_above: float = KEEP_ABOVE
) -> NDArray[np.int64]:
    """Variants that a Manhattan plot needs: all with p < 1e-3, and one per pixel of the others.

    Parameters
    ----------
    place, neg_log10_p
        [float, shape: (n_variants,)] Without NaN.
    keep_above
        −log10 p from which every variant is kept: more than 3 where each p is the smallest of many.

    Returns
    -------
    [int64] Rows, ascending.
    """
    low = np.flatnonzero(neg_log10_p < keep_above)
    across = place[low] - (place.min() if place.size else 0)
    column = (across / max(float(across.max(initial=0)), 1e-12) * (GRID[0] - 1)).astype(np.int64)
    row = (neg_log10_p[low] / KEEP_ABOVE * GRID[1]).astype(np.int64)  # as high a pixel for any
    _, first = np.unique(column + GRID[0] * row, return_index=True)
    return np.sort(np.concatenate([low[first], np.flatnonzero(neg_log10_p >= keep_above)]))


def quantile_points(
    neg_log10_p: NDArray[Any], n_points: int = 2000
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Expected and observed quantiles of −log10 p, and the 95% band of each rank under the null.

    Parameters
    ----------
    neg_log10_p
        [float, shape: (n_variants,)] Without NaN.
    n_points
        About how many ranks; the top hundred are all kept.

    Returns
    -------
    (expected, observed, band)
        [float64, shape: (n,)] twice, largest first; [float64, shape: (n, 2)] low and high, for
        independent variants.
    """
    n = len(neg_log10_p)
    ordered = np.sort(np.asarray(neg_log10_p, dtype=np.float64))[::-1]
    rank = np.unique(np.round(np.geomspace(1, n, n_points)).astype(np.int64)) if n else np.empty(0)
    rank = np.union1d(rank, np.arange(1, min(n, 100) + 1)).astype(np.int64)
    expected = -np.log10((rank - 0.5) / n) if n else np.empty(0)
    return expected, ordered[rank - 1], null_band(rank, n)


def null_band(rank: NDArray[np.int64], n: int) -> NDArray[np.float64]:
    """The 95% band of −log10 p of some ranks among n independent variants without an effect.

    Parameters
    ----------
    rank
        [int64, shape: (n_ranks,)] From 1, the most significant, to n.
    n
        Variants.

    Returns
    -------
    [float64, shape: (n_ranks, 2)] Low and high.
    """
    from scipy import special  # takes longer to load than a scan's page, which needs slices alone

    # the p of a rank follows a beta distribution: (rank, n − rank + 1)
    low, high = (-np.log10(special.betaincinv(rank, n - rank + 1, tail)) for tail in (0.975, 0.025))
    return np.stack([low, high], axis=1)


def spread_labels(
    place: NDArray[np.float64], distance: float, low: float, high: float
) -> NDArray[np.float64]:
    """Places of labels along one axis: as near their points as a smallest distance allows.

    Parameters
    ----------
    place
        [float64, shape: (n,)] Of the points, ascending.
    distance
        Smallest distance of neighbours; made smaller if they would not all fit.
    low, high
        Range to stay within.

    Returns
    -------
    [float64, shape: (n,)] Ascending.
    """
    n = len(place)
    distance = min(distance, (high - low) / max(n - 1, 1))
    steps = distance * np.arange(n)
    # Neighbours that would collide move as one group around their mean (isotonic regression).
    groups: list[tuple[float, int]] = []
    for value in np.asarray(place, dtype=np.float64) - steps:
        groups.append((float(value), 1))
        while len(groups) > 1 and groups[-2][0] > groups[-1][0]:
            (before, m), (after, k) = groups[-2:]
            groups[-2:] = [((before * m + after * k) / (m + k), m + k)]
    settled = np.repeat([g[0] for g in groups], [g[1] for g in groups]) if n else np.empty(0)
    return np.asarray(np.clip(settled, low, high - steps[-1] if n else high) + steps)


def choose_slices(mask: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Slices that show a brain: five axial, one coronal, one sagittal beside the midline.

    Parameters
    ----------
    mask
        [bool, shape: (x, y, z)] Right, anterior, superior axes.

    Returns
    -------
    list of (axis, index)
    """
    wanted = [*((2, share) for share in (0.28, 0.4, 0.52, 0.64, 0.76)), (1, 0.5), (0, 0.45)]
    slices = []
    for axis, share in wanted:
        others = tuple(other for other in range(3) if other != axis)
        inside = np.flatnonzero(mask.any(axis=others))
        first, last = (inside[0], inside[-1]) if inside.size else (0, mask.shape[axis] - 1)
        slices.append((axis, round(float(first + share * (last - first)))))
    return slices


def cut(volume: NDArray[Any], axis: int, index: int) -> NDArray[Any]:
    """One slice of a volume as a picture: rows go down, left of the person is left.

    Parameters
    ----------
    volume
        [shape: (x, y, z) or (x, y, z, colours)] Right, anterior, superior axes.
    axis, index
        Which slice.

    Returns
    -------
    [shape: (rows, columns) or (rows, columns, colours)] Anterior or superior at the top.
    """
    return np.flipud(np.swapaxes(np.take(volume, index, axis=axis), 0, 1))


def through_brain(mask: NDArray[np.bool_], axis: int, n: int) -> list[int]:
    """Slices across an axis at even steps through a brain, its ends left out.

    Parameters
    ----------
    mask
        [bool, shape: (x, y, z)]
    axis, n
        Across which axis, and how many.
    """
    others = tuple(other for other in range(3) if other != axis)
    inside = np.flatnonzero(mask.any(axis=others))
    first, last = (inside[0], inside[-1]) if inside.size else (0, mask.shape[axis] - 1)
    return [round(float(at)) for at in np.linspace(first, last, n + 2)[1:-1]]

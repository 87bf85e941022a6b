"""Clusters of voxels that a variant changes, and how large they get by chance: a wild bootstrap.

The covariates leave the residuals E of the r traits that stand for the maps, and g of the variant's
dosages. A resample changes the signs s of all residuals of a person together, so that each person
keeps the variance, and the voxels their correlation, that they have: the test stays right where
people differ in variance, along with the variant or not, and where residuals are not normal. Its
effects on the traits are (s∘g)'E / g'g, for all resamples one product of matrices, and those on the
voxels the same through B.

The residuals are those without the variant: what is resampled has no effect of it. The signs undo
that E is adjusted for the covariates, so g is adjusted too, and the resampled sum of squares is
less by what the covariates explain of s∘E: the share p / n on average over the signs, and this
average stands for it. The rest of it is the same in every resample, signs squared being 1.

A cluster is judged by its size alone, in voxels, and so in mm³: how strong the effect is in it, its
peak's own p tells.

References
----------
Wu 1986, doi:10.1214/aos/1176350142; Davidson and Flachaire 2008,
doi:10.1016/j.jeconom.2008.08.003; sizes of clusters: Friston et al. 1994,
doi:10.1002/hbm.460010306; of components of maps: Fang et al. 2026, doi:10.1038/s41467-026-69816-z.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse, stats
from scipy.sparse.csgraph import connected_components

CLUSTER_P = 1e-5  # two-sided, of a voxel of a cluster
N_BOOTSTRAPS = 1000
CONNECTIVITY = 26  # voxels that share a corner; 18: an edge, 6: a face
CHUNK_VOXELS = 2**22  # of resampled maps that are made at once: 16 MiB
CHUNK_SIGNS = 2**24  # likewise of signs, one a person


def neighbours(mask: NDArray[np.bool_], connectivity: int = CONNECTIVITY) -> NDArray[np.int32]:
    """The voxels beside each voxel of a mask, each pair once.

    Parameters
    ----------
    mask
        [bool, shape: (x, y, z)]
    connectivity
        Voxels that are beside one: 6, 18 or 26.

    Returns
    -------
    [int32, shape: (n_voxels, connectivity / 2)] Places among the voxels of the mask, in its order;
    -1 where the neighbour is outside.
    """
    place = np.full(tuple(size + 2 for size in mask.shape), -1, dtype=np.int32)  # with a margin
    inner = place[1:-1, 1:-1, 1:-1]
    inner[mask] = np.arange(mask.sum(), dtype=np.int32)
    farthest = {6: 1, 18: 2, 26: 3}[connectivity]  # axes along which a neighbour may differ
    steps = np.indices((3, 3, 3)).reshape(3, -1).T - 1  # (27, 3)
    steps = steps[14:]  # after the middle one: the others are these backwards
    steps = steps[np.abs(steps).sum(axis=1) <= farthest]
    index = np.argwhere(mask) + 1  # (n_voxels, 3)
    found = np.stack([place[tuple((index + step).T)] for step in steps], axis=1)
    assert found.shape == (mask.sum(), connectivity // 2)
    return found


@dataclass(frozen=True, eq=False)
class Clusters:
    """Voxels beyond a threshold, and the cluster of each; the signs of a cluster are equal.

    Attributes
    ----------
    map_index, voxel : int64, (n_beyond,)
        Which map, in order, and which voxel.
    label : int64, (n_beyond,)
        Number of the cluster, from 0 on, over all maps.
    n_clusters
        Of all maps.
    """

    map_index: NDArray[np.int64]
    voxel: NDArray[np.int64]
    label: NDArray[np.int64]
    n_clusters: int


def find_clusters(
    maps: NDArray[np.floating], threshold: float, neighbour: NDArray[np.int32]
) -> Clusters:
    """Connected voxels above a threshold, or below its negative, in many maps at once.

    The voxels beyond the threshold, few of all, are the nodes of one graph. Two clusters of
    opposite signs stay two where they touch.

    Parameters
    ----------
    maps
        [shape: (n_maps, n_voxels)] NaN is in no cluster.
    threshold
        Positive.
    neighbour
        From `neighbours`.
    """
    n_voxels = maps.shape[1]
    beyond = np.flatnonzero(np.abs(maps) > threshold)  # increasing
    map_index, voxel = np.divmod(beyond, n_voxels)
    if not len(beyond):
        return Clusters(map_index, voxel, beyond, 0)
    positive = maps.ravel()[beyond] > 0
    beside = neighbour[voxel]  # (n_beyond, n_neighbours)
    wanted = np.where(beside >= 0, map_index[:, None] * n_voxels + beside, -1)
    place = np.minimum(np.searchsorted(beyond, wanted), len(beyond) - 1)
    joined = (beyond[place] == wanted) & (positive[place] == positive[:, None])
    one, step = np.nonzero(joined)
    pairs = (np.ones(len(one), dtype=bool), (one, place[one, step]))
    graph = sparse.coo_array(pairs, shape=(len(beyond), len(beyond)))
    n_clusters, label = connected_components(graph, directed=False)
    return Clusters(map_index, voxel, label.astype(np.int64), int(n_clusters))


def largest_clusters(
    scores: NDArray[np.float32],
    basis: NDArray[np.float32],
    threshold: float,
    neighbour: NDArray[np.int32],
) -> NDArray[np.int64]:
    """Voxels of the largest cluster, positive or negative, of maps that are products.

    Parameters
    ----------
    scores
        [float32, shape: (n_maps, r)]
    basis
        [float32, shape: (r, n_voxels)] The maps are scores times basis, made a few at a time.
    threshold, neighbour
        As for `find_clusters`.

    Returns
    -------
    [int64, shape: (n_maps,)] 0 of a map without any.
    """
    largest = np.zeros(len(scores), dtype=np.int64)
    at_once = max(1, CHUNK_VOXELS // basis.shape[1])
    for start in range(0, len(scores), at_once):
        maps = scores[start : start + at_once] @ basis  # (at_once, n_voxels)
        found = find_clusters(maps, threshold, neighbour)
        size = np.bincount(found.label, minlength=found.n_clusters)
        np.maximum.at(largest, start + found.map_index, size[found.label])
    return largest


def critical_correlation(p: float, df: float) -> float:
    """The partial correlation that is beyond its threshold where Student's t is.

    Parameters
    ----------
    p
        Two-sided.
    df
        Residual degrees of freedom.
    """
    t = stats.t.isf(p / 2, df)
    return float(t / np.sqrt(df + t**2))


def correlation_basis(
    basis: NDArray[np.floating],
    variances: NDArray[np.float64],
    n_samples: int,
    n_covariates: int,
) -> NDArray[np.float32]:
    """What resampled scores are multiplied by to give partial correlations with the voxels.

    Columns of B over the roots of the resampled sums of squares, b'E'Eb (1 − p / n).

    Parameters
    ----------
    basis
        [shape: (r, n_voxels)] B.
    variances
        [float64, shape: (n_voxels,)] b'E'Eb, from `voxel_variances`.
    n_samples, n_covariates
        n, and p with the intercept.

    Returns
    -------
    [float32, shape: (r, n_voxels)] 0 at voxels that do not vary.
    """
    squares = variances * (1 - n_covariates / n_samples)
    with np.errstate(divide="ignore"):
        scale = np.where(squares > 0, 1 / np.sqrt(squares), 0)
    return np.asarray(basis * scale, dtype=np.float32)


def resampled_scores(
    dosage: NDArray[np.float64], residuals: NDArray[np.float64], n_bootstraps: int, seed: int
) -> NDArray[np.float32]:
    """Scores of a variant where the signs of all residuals of a person are drawn anew.

    Parameters
    ----------
    dosage
        [float64, shape: (n_samples,)] g, adjusted for the covariates.
    residuals
        [float64, shape: (n_samples, r)] E.
    n_bootstraps
        How many.
    seed
        The same signs for each variant.

    Returns
    -------
    [float32, shape: (n_bootstraps, r)] (s∘g)'E / √(g'g).
    """
    rng = np.random.default_rng(seed)
    weighted = (residuals * (dosage / np.linalg.norm(dosage))[:, None]).astype(np.float32)
    scores = np.empty((n_bootstraps, residuals.shape[1]), dtype=np.float32)
    at_once = max(1, CHUNK_SIGNS // len(dosage))
    for start in range(0, n_bootstraps, at_once):
        shape = (min(at_once, n_bootstraps - start), len(dosage))
        signs = (2 * rng.integers(0, 2, shape, dtype=np.int8) - 1).astype(np.float32)
        scores[start : start + at_once] = signs @ weighted  # (at_once, r)
    return scores


def family_wise_p(
    sizes: NDArray[np.int64], largest_of_chance: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Share of resamples, with the data as one of them, whose largest cluster is as large.

    Few resamples may have a cluster at all: one of any size then has a small p. Equal sizes count
    against it, so that p errs to the safe side.

    Parameters
    ----------
    sizes
        [int64, shape: (n_clusters,)] Voxels.
    largest_of_chance
        [int64, shape: (n_bootstraps,)] From `largest_clusters`.

    Returns
    -------
    [float64, shape: (n_clusters,)]
    """
    ordered = np.sort(largest_of_chance)
    as_large = len(ordered) - np.searchsorted(ordered, sizes)
    return np.asarray((1 + as_large) / (1 + len(ordered)))

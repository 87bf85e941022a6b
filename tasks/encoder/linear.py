"""Linear representation of FA maps: smoothing, principal components, tract means.

Principal components of smoothed maps, after RVGA; without smoothing they are plain PCA, and means
of an atlas's tracts are the simplest of all. Maps come as rows: the voxels inside the cohort's
mask, C order, in their own units.

References
----------
RVGA: Fang et al. 2026, Computation and resource efficient genome-wide association analysis for
large-scale imaging studies, Nature Communications, doi:10.1038/s41467-026-69816-z.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from axoloci.errors import InputError
from axoloci.tasks.encoder.kernel import bounding_box
from axoloci.tasks.encoder.representation import (
    Rows,
    held_out,
    latents_for,
    read_ahead,
)

CUT = 4.0  # bandwidths along an axis, beyond which a weight is 0
CANDIDATES = (0.5, 1, 2, 3, 5, 10)  # times N^(-1/(4 + 3)) voxels
FLAT = 1e-13  # of the widest spread of a voxel's neighbours: less is rounding, they lie in a plane
GCV_PEOPLE = 50  # whose maps choose the bandwidth; each has as many residuals as voxels
SMOOTHED_AT_ONCE = 16  # maps
BLOCK_PEOPLE = 256  # read at once: enough that products, not memory, take the time
BLOCK_BYTES = 2**28  # that one block of people may take in float32; five are held at a time
BASIS_BYTES = 2**31  # that the vectors of all passes may take before they are compressed,
BASIS_BLOCKS = 3  # or the components and so many passes' vectors beyond, if these are more
CHUNK_VOXELS = 8192  # summed in float32, the sums in float64: rounding stays that of short sums
OVERSAMPLING = 10  # vectors a pass beyond the components wanted
TOLERANCE = 5e-6  # radians between the components' space and the exact one
MAX_PASSES = 12  # for each block of components: without a gap no more would find its place
SMALLEST = 1e-7  # of the largest variance: what float32 products leave of nothing
NOTHING = 1e-6  # of the largest variance: a component below it is rounding, not people
N_PROBES = 32  # random maps from which the variance beyond the components is known
MOST_COMPONENTS = 1024  # that a share of variance may ask for


@dataclass(frozen=True)
class Config:
    """What is fitted and how: one config and one cohort give one model."""

    n_latents: int = 0  # 0: as many as the autoencoder would have (`latents_for`)
    variance: float = 0.0  # share of the smoothed maps' variance to keep instead; 0: by n_latents
    bandwidth: float | None = None  # mm; empty: by generalised cross-validation; 0: plain PCA
    validation_fraction: float = 0.1  # people held out to measure the reconstruction
    seed: int = 0  # of the held-out people, the people that choose the bandwidth, and the PCA


def bandwidths(n_voxels: int, voxel_size: tuple[float, float, float]) -> NDArray[np.float64]:
    """Bandwidths to choose from: {0.5, 1, 2, 3, 5, 10}·N^(−1/7) voxels.

    The unit is a voxel's edge, the cube root of its volume: in units of the whole image the
    smallest candidate would smooth over five voxels. Below a quarter of a voxel no neighbour is
    within 4 bandwidths.

    Parameters
    ----------
    n_voxels
        Voxels inside the mask.
    voxel_size
        Edges of a voxel, mm.

    Returns
    -------
    [float64, shape: (6,)] mm

    >>> bandwidths(200_000, (2.0, 2.0, 2.0)).round(2)
    array([0.17, 0.35, 0.7 , 1.05, 1.75, 3.5 ])
    """
    edge = float(np.prod(voxel_size)) ** (1 / 3)
    return np.asarray(np.array(CANDIDATES) * n_voxels ** (-1 / 7) * edge)


def _along(axis: int, weights: Tensor, volumes: Tensor) -> Tensor:
    """Multiply one axis of volumes (b, x, y, z) by a matrix of weights (to, from)."""
    if axis == 0:
        return (weights @ volumes.flatten(2)).view(volumes.shape)  # (b, x, y·z)
    return weights @ volumes if axis == 1 else volumes @ weights.T


class Smoother:
    """Local-linear Gaussian smoothing of maps, S: at each voxel a weighted line through its own.

    The weight of a neighbour at distances d along the axes is exp(−d'd / 2h²), cut at 4 bandwidths
    h along each axis, and only voxels inside the mask count. The value at a voxel is the intercept
    of the weighted regression of the map on d, so a linear trend is kept, at the border too. Sums
    over neighbours are products of a matrix for each axis, not of N × N.

    Parameters
    ----------
    mask
        [bool, shape: (x, y, z)] Voxels that a row holds.
    voxel_size
        Edges of a voxel, mm.
    bandwidth
        h, mm; where 4 h reach no neighbour, and at 0, maps stay as they are.
    device
        `cpu` or `cuda`.
    dtype
        Of the maps.
    """

    def __init__(
        self,
        mask: NDArray[np.bool_],
        voxel_size: tuple[float, float, float],
        bandwidth: float,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        inside = torch.from_numpy(np.ascontiguousarray(mask[bounding_box(mask)]))  # (x, y, z)
        self.bandwidth = bandwidth
        self.is_identity = bandwidth * CUT < min(voxel_size)
        self.trace = float(inside.sum())
        if self.is_identity:
            return
        # moments[axis][p]: weights times the p-th power of the distance in bandwidths
        moments = []
        for n, size in zip(inside.shape, voxel_size, strict=True):
            place = torch.arange(n, dtype=torch.float64) * (size / bandwidth)
            distance = place[None, :] - place[:, None]  # (n, n): to, from
            near = distance.abs() <= CUT * (1 + 1e-12)
            weight = torch.exp(-(distance**2) / 2) * near
            moments.append([weight * distance**power for power in range(3)])

        def total(*powers: int) -> Tensor:
            """Sum over neighbours of weight · dx^p · dy^q · dz^r, (N,)."""
            volumes = inside[None].double()
            for axis, power in enumerate(powers):
                volumes = _along(axis, moments[axis][power], volumes)
            return volumes[0, inside]

        unit = torch.eye(3, dtype=torch.int64)
        first = torch.stack([total(*unit[a].tolist()) for a in range(3)], dim=1)  # (N, 3)
        second = torch.stack(
            [total(*(unit[a] + unit[b]).tolist()) for a in range(3) for b in range(3)], dim=1
        ).view(-1, 3, 3)
        # the regression's intercept: first row of the inverse of its 4 × 4 normal equations, whose
        # slopes are 0 along directions without neighbours
        slope = torch.linalg.pinv(second, rtol=FLAT, hermitian=True) @ first[:, :, None]
        slope = slope[:, :, 0]  # (N, 3)
        own = 1 / (total(0, 0, 0) - (first * slope).sum(dim=1))  # (N,) the weight of a voxel itself
        self.trace = float(own.sum())
        row = torch.cat((own[:, None], -own[:, None] * slope), dim=1)  # (N, 4)
        self._row = row.T.contiguous().to(device, dtype)  # (4, N)
        self._inside = inside.to(device)
        self._moments = [[m.to(device, dtype) for m in axis[:2]] for axis in moments]

    def apply(self, rows: Tensor) -> Tensor:
        """Smooth each map: rows (b, N) -> (b, N)."""
        return self._in_parts(rows, self._apply)

    def adjoint(self, rows: Tensor) -> Tensor:
        """Multiply by the transpose of S: rows (b, N) -> (b, N)."""
        return self._in_parts(rows, self._adjoint)

    def _in_parts(self, rows: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
        """A few maps at a time: each is several volumes for a while."""
        if self.is_identity:
            return rows
        return torch.cat([change(part) for part in torch.split(rows, SMOOTHED_AT_ONCE)])

    def _volumes(self, rows: Tensor) -> Tensor:
        """Rows (b, N) -> volumes (b, x, y, z), 0 outside the mask."""
        volumes = rows.new_zeros(len(rows), *self._inside.shape)
        volumes[:, self._inside] = rows
        return volumes

    def _apply(self, rows: Tensor) -> Tensor:
        (x0, x1), (y0, y1), (z0, z1) = self._moments
        volumes = self._volumes(rows)  # (b, x, y, z), as all below
        in_x, in_x1 = _along(0, x0, volumes), _along(0, x1, volumes)
        in_xy, in_xy1, in_x1y = _along(1, y0, in_x), _along(1, y1, in_x), _along(1, y0, in_x1)
        sums = (
            *(_along(2, z0, in_xy), _along(2, z0, in_x1y)),
            *(_along(2, z0, in_xy1), _along(2, z1, in_xy)),
        )
        out = torch.zeros_like(rows)
        for weight, total in zip(self._row, sums, strict=True):
            out += weight * total[:, self._inside]
        return out

    def _adjoint(self, rows: Tensor) -> Tensor:
        (x0, x1), (y0, y1), (z0, z1) = self._moments
        own, x, y, z = (self._volumes(weight * rows) for weight in self._row)  # (b, x, y, z)
        in_z = _along(2, z0.T, own) + _along(2, z1.T, z)
        in_yz = _along(1, y0.T, in_z) + _along(1, y1.T, _along(2, z0.T, y))
        in_yz1 = _along(1, y0.T, _along(2, z0.T, x))
        volumes = _along(0, x0.T, in_yz) + _along(0, x1.T, in_yz1)
        return volumes[:, self._inside]


@dataclass(frozen=True)
class Candidate:
    """How well one bandwidth predicts."""

    bandwidth: float  # mm
    trace: float  # of S, as a share of the voxels; 1: every voxel by itself
    error: float  # mean squared difference of map and smoothed map
    gcv: float  # error / (1 - trace)²; nan without smoothing, which predicts nothing


def cross_validate(
    rows: Rows,
    index: NDArray[np.int64],
    mask: NDArray[np.bool_],
    voxel_size: tuple[float, float, float],
    device: str = "cpu",
) -> tuple[list[Candidate], float]:
    """Choose the bandwidth of smoothing by generalised cross-validation.

    GCV = mean |y − Sy|² / (1 − tr S / N)², the mean over voxels and people: the error with which
    a voxel is predicted from the others.

    Parameters
    ----------
    rows
        Gives the maps of some people, (b, n_voxels).
    index
        [int64, shape: (n,)] Places of the people to use; their maps are read once and held in
        memory for all candidates.
    mask
        [bool, shape: (x, y, z)] Voxels that a row holds.
    voxel_size
        Edges of a voxel, mm.
    device
        `cpu` or `cuda`.

    Returns
    -------
    (candidates, bandwidth)
        All candidates, and the one with the lowest GCV, mm; 0 if none reaches a neighbour.
    """
    n_voxels = int(mask.sum())
    maps = torch.from_numpy(rows(index))  # (n, n_voxels)
    candidates = []
    for bandwidth in bandwidths(n_voxels, voxel_size).tolist():
        smoother = Smoother(mask, voxel_size, bandwidth, device)
        squared = 0.0
        for part in torch.split(maps, SMOOTHED_AT_ONCE):
            y = part.to(device)  # (b, n_voxels)
            squared += float((y - smoother.apply(y)).double().square().sum())
        error, share = squared / (len(index) * n_voxels), smoother.trace / n_voxels
        gcv = float("nan") if smoother.is_identity else error / (1 - share) ** 2
        candidates.append(Candidate(bandwidth, share, error, gcv))
    smoothing = [one for one in candidates if one.gcv == one.gcv]
    chosen = min(smoothing, key=lambda one: one.gcv).bandwidth if smoothing else 0.0
    return candidates, chosen


@dataclass(frozen=True)
class Components:
    """Leading principal components of smoothed maps, and how exact they are."""

    mean: NDArray[np.float32]  # (n_voxels,) of the maps, not smoothed
    basis: NDArray[np.float32]  # (r, n_voxels) rows of unit length, the largest entry positive
    variance: NDArray[np.float64]  # (r,) of the smoothed maps along each, decreasing
    residual: NDArray[np.float64]  # (r,) length of covariance · component - variance · component
    total_variance: float  # of the smoothed maps
    effective_rank: float  # (Σλ)² / Σλ² over all components
    angle: float  # radians: the space of the components is at most that far from the exact one
    n_settled: int  # leading components whose own space is within TOLERANCE of the exact one
    n_passes: int  # over all maps

    @property
    def singular_values(self) -> NDArray[np.float64]:
        """Of the smoothed, centred maps divided by √(n - 1), (r,)."""
        return np.sqrt(self.variance)


def _inner(a: Tensor, b: Tensor) -> Tensor:
    """Products of rows (l, N) with rows (m, N), long sums in float64: (l, m)."""
    total = torch.zeros(len(a), len(b), dtype=torch.float64, device=a.device)
    for start in range(0, a.shape[1], CHUNK_VOXELS):
        chunk = slice(start, start + CHUNK_VOXELS)
        total += a[:, chunk].float() @ b[:, chunk].float().T
    return total


def _subtract(rows: Tensor, coefficients: Tensor, basis: Tensor) -> None:
    """Take coefficients · basis from rows, in place: (l, N), (l, m), (m, N)."""
    for start in range(0, rows.shape[1], CHUNK_VOXELS):
        chunk = slice(start, start + CHUNK_VOXELS)
        rows[:, chunk] -= coefficients.float() @ basis[:, chunk].float()


def _orthonormal(rows: Tensor, smallest: float) -> Tensor:
    """Orthonormal rows that span those given, without directions shorter than `smallest`."""
    values, vectors = torch.linalg.eigh(rows @ rows.T)  # (l,), (l, l)
    kept = values > smallest**2
    mixed: Tensor = (vectors[:, kept] / values[kept].sqrt()).T @ rows  # (l or fewer, N)
    return mixed


def _refuse_infinite(index: NDArray[np.int64], sums: Tensor) -> None:
    """Name the people whose maps have sums (b,) that are not finite."""
    finite = sums.isfinite().cpu().numpy()
    if not finite.all():
        raise InputError(
            "maps with values that are not finite: rows "
            f"{', '.join(map(str, index[~finite][:10]))} of the cohort, counted from 0; leave "
            "these people out"
        )


def people_at_once(n_voxels: int) -> int:
    """Maps that are read at once: 256, or as many as take 256 MiB in float32.

    >>> people_at_once(200_000), people_at_once(1_800_000)
    (256, 37)
    """
    return max(1, min(BLOCK_PEOPLE, BLOCK_BYTES // (4 * n_voxels)))


def _batches(index: NDArray[np.int64], n_voxels: int) -> list[NDArray[np.int64]]:
    """People in blocks that memory has room for, in turn."""
    n = people_at_once(n_voxels)
    return [index[start : start + n] for start in range(0, len(index), n)]


class _Covariance:
    """Covariance of maps, C, as a product with vectors that reads every map once.

    Parameters
    ----------
    rows, index
        Gives the maps of some people; which people.
    mean
        [shape: (N,)] Near the mean map; the first pass makes it exact.
    """

    def __init__(self, rows: Rows, index: NDArray[np.int64], mean: Tensor) -> None:
        self._rows, self._index = rows, index
        self.mean = mean.double()
        self.n_passes = 0

    def _blocks(self, index: NDArray[np.int64]) -> Iterator[tuple[NDArray[np.int64], Tensor]]:
        """Places of some people, and their maps less the mean map, (b, N)."""
        mean = self.mean.float()
        batches = _batches(index, len(mean))
        buffer = mean.new_empty(len(batches[0]), len(mean))  # new memory at each block costs time
        blocks = read_ahead(self._rows, batches, mean.device)
        for batch, x in zip(batches, blocks, strict=True):
            yield batch, torch.sub(x, mean, out=buffer[: len(batch)])

    def begin(self, index: NDArray[np.int64], mixture: Tensor) -> Tensor:
        """Mixtures (l, n) of the maps of some people less their mean, (l, N); keeps that mean."""
        mixed = torch.zeros(len(mixture), len(self.mean), device=self.mean.device)
        total = torch.zeros_like(self.mean)
        weights = iter(torch.split(mixture, people_at_once(len(self.mean)), dim=1))
        for batch, x in self._blocks(index):
            sums = x.sum(dim=1, dtype=torch.float64)  # (b,)
            _refuse_infinite(batch, sums)
            mixed += next(weights) @ x
            total += x.sum(dim=0)
        shift = total / len(index)  # (N,)
        _subtract(mixed, mixture.sum(dim=1, keepdim=True), shift[None])
        self.mean += shift
        return mixed

    def times(self, vectors: Tensor) -> Tensor:
        """Vectors (l, N) · C -> (l, N) in float64."""
        n = len(self._index)
        shape = (len(vectors) + 1, len(self.mean))  # the last row sums the maps
        product = torch.zeros(shape, dtype=torch.float64, device=self.mean.device)
        for index, x in self._blocks(self._index):
            scores = _inner(vectors, x)  # (l, b)
            _refuse_infinite(index, scores.sum(dim=0))
            scores = torch.cat((scores, scores.new_ones(1, len(index)))).float()
            for start in range(0, shape[1], CHUNK_VOXELS):
                chunk = slice(start, start + CHUNK_VOXELS)
                product[:, chunk] += scores @ x[:, chunk]
        shift = product[-1] / n  # (N,) from the mean that was used to that of all maps
        product = product[:-1]
        _subtract(product, n * _inner(vectors, shift[None]), shift[None])
        self.mean += shift
        self.n_passes += 1
        return product.div_(n - 1)


class _Subspace:
    """Orthonormal vectors that grow by blocks, and the covariance of maps along them."""

    def __init__(self) -> None:
        self.blocks: list[Tensor] = []  # (l, N) each
        self.covariance = torch.zeros(0, 0, dtype=torch.float64)  # (m, m)

    def __len__(self) -> int:
        return sum(map(len, self.blocks))

    def add(self, block: Tensor, product: Tensor) -> None:
        """Take up vectors (l, N), and take what lies in the space from C times them, in place."""
        self.blocks.append(block)
        coefficients = self.take_from(product)  # (l, m)
        n = len(block)
        bordered = nn.functional.pad(self.covariance.to(block.device), (0, n, 0, n))  # (m, m)
        bordered[-n:] = coefficients
        bordered[:, -n:] = coefficients.T
        self.covariance = (bordered + bordered.T) / 2

    def inner(self, rows: Tensor) -> Tensor:
        """Products of rows (l, N) with the vectors, (l, m)."""
        return torch.cat([_inner(rows, block) for block in self.blocks], dim=1)

    def take_from(self, rows: Tensor) -> Tensor:
        """Make rows (l, N) orthogonal to the vectors, in place; what is taken, (l, m)."""
        taken = []
        for block in self.blocks:
            taken.append(_inner(rows, block))
            _subtract(rows, taken[-1], block)
        return torch.cat(taken, dim=1)

    def mixture(self, mixing: Tensor) -> Tensor:
        """Mixtures (m, k) of the vectors, (k, N)."""
        first = self.blocks[0]
        mixed = torch.zeros(mixing.shape[1], first.shape[1], device=first.device)
        parts = torch.split(mixing, list(map(len, self.blocks)))
        for block, part in zip(self.blocks, parts, strict=True):
            _subtract(mixed, -part.T, block)
        return mixed

    def compress(self, values: Tensor, mixing: Tensor) -> None:
        """Keep only eigenvectors of the covariance: (k,) their values, (m, k)."""
        self.blocks = [self.mixture(mixing)]
        self.covariance = torch.diag(values)


def principal_components(
    rows: Rows,
    index: NDArray[np.int64],
    n_voxels: int,
    n_components: int,
    smoother: Smoother | None = None,
    *,
    variance: float = 0.0,
    seed: int = 0,
    device: str = "cpu",
) -> Components:
    """Leading eigenvectors of the covariance S C S' of smoothed maps, by block Krylov iteration.

    Each pass reads every map once, a block of people at a time and the next ones ahead, and
    multiplies the covariance by a block of vectors; smoothing is applied to these vectors, not to
    the maps. The components are taken from all vectors so far (Rayleigh–Ritz), and passes end when
    their space is within 5e-6 of the exact one by Davis and Kahan's bound, with the gap as it is
    among the vectors so far, or after 12. Where a share of variance is asked for, the components
    are as many as have it among those vectors, which is never too few, and the passes go on with
    them: at most 12 for each `n_components` + 10.

    Memory: with V = (n_components + 10) · n_voxels · 4 bytes, a pass adds V to the vectors. Before
    they are more than 2 GiB, or than 4 V if that is more, they are compressed to the leading
    n_components + 10 (a thick restart); where a share of variance is asked for, only once it is
    reached, to the components found and 10, and 3 V beyond these in place of 4 V. The peak is about
    max(2 GiB, 4 V), the vectors; + 6 V,
    three blocks of products in float64; + 400 n_voxels bytes, the random maps below; + 1.3 GiB,
    five blocks of people: 11 GiB for 128 components of 1.8 million voxels, however many people.

    The sum of all variances, and of their squares, is exact for the space of these vectors; what
    is beyond is measured with 32 random maps (Hutchinson's estimator): good to a percent or so of
    that part, and nothing of it is left where all n - 1 components are found.

    Parameters
    ----------
    rows
        Gives the maps of some people, (b, n_voxels).
    index
        [int64, shape: (n,)] Places of the people to use.
    n_voxels
        Voxels of a map.
    n_components
        r, fewer than people; where `variance` is given, vectors of a pass less 10.
    smoother
        S; no smoothing if not given.
    variance
        Share of the smoothed maps' variance that the components are to keep, by as few as do; 0:
        `n_components` of them.
    seed
        Of the first vectors: random mixtures of maps.
    device
        `cpu` or `cuda`.

    Returns
    -------
    Components

    Raises
    ------
    InputError
        As many components as people or voxels; maps that are not finite, or all the same; a share
        of variance that 1,024 components do not reach.

    References
    ----------
    Musco and Musco 2015, arXiv:1504.05477; Meyer et al. 2021, doi:10.1137/1.9781611976496.16; Wu
    and Simon 2000, doi:10.1137/S0895479898334605 (thick restart).
    """
    n, r = len(index), n_components
    if not 0 < r < min(n, n_voxels + 1):
        raise InputError(
            f"{r} components of {n} people with {n_voxels} voxels; at most "
            f"{min(n - 1, n_voxels)} can be found"
        )
    rng = np.random.default_rng(seed)
    most = min(n - 1, n_voxels, MOST_COMPONENTS if variance else r)
    width = min(r + OVERSAMPLING, n - 1, n_voxels)
    some = np.sort(rng.choice(index, min(n, max(width + 1, BLOCK_PEOPLE)), replace=False))
    near = torch.from_numpy(rows(some[:1])[0]).to(device)  # (N,)
    covariance = _Covariance(rows, index, near.nan_to_num(0.0, 0.0, 0.0))

    def times(vectors: Tensor) -> Tensor:
        """S C S' times vectors (l, N), float64."""
        if smoother is None:
            return covariance.times(vectors)
        return smoother.apply(covariance.times(smoother.adjoint(vectors)).float()).double()

    mixture = rng.standard_normal((width, len(some)), dtype=np.float32)
    start = covariance.begin(some, torch.from_numpy(mixture).to(device))  # (width, N)
    start = smoother.apply(start) if smoother else start
    size = float(start.double().square().sum().sqrt())
    block = _orthonormal(start.double(), SMALLEST * size).float()
    if not len(block):
        raise InputError("all maps are the same: there is nothing to represent")
    signs = rng.integers(0, 2, (N_PROBES, n_voxels), dtype=np.int8)
    probes = torch.from_numpy(signs).to(device).float() * 2 - 1  # (p, N)
    del start, signs

    product = times(torch.cat((block, probes)))
    product, of_probes = product[: len(block)], product[len(block) :].clone()
    space = _Subspace()
    along, of_along = probes.new_zeros(2, N_PROBES, 0).double()  # products with the space, (p, m)
    while True:
        space.add(block, product)
        along = torch.cat((along, _inner(probes, block)), dim=1)  # (p, m)
        of_along = torch.cat((of_along, _inner(of_probes, block)), dim=1)  # (p, m)
        values, mixing = (part.flip(-1) for part in torch.linalg.eigh(space.covariance))
        largest = float(values[0])  # they decrease
        if not largest > 0:
            raise InputError("all maps are the same: there is nothing to represent")
        # of the probes, outside the space: z'Cz less what any part in the space adds
        beyond_space = (probes * of_probes).sum() - 2 * (along * of_along).sum()
        beyond_space += (along * (along @ space.covariance)).sum()
        total = float(values.sum()) + max(0.0, float(beyond_space)) / N_PROBES
        enough = True
        if variance:
            reached = values.cumsum(dim=0) >= variance * total  # (m,)
            fewest = int(reached.int().argmax()) + 1 if bool(reached.any()) else len(values)
            r, enough = min(fewest, most), bool(reached[:most].any())
        # of a component: what its product has beyond the space
        beyond = product @ product.T  # (l, l)
        last = mixing[-len(block) :]  # (l, m)
        error = (last * (beyond @ last)).sum(dim=0).clamp(min=0)  # (m,)
        gap = values - nn.functional.pad(values[1:], (0, 1))  # (m,) to the next; 0 after the last
        angles = (error.cumsum(dim=0).sqrt() / gap.clamp(min=1e-30 * largest)).clamp(max=np.pi / 2)
        found_all = float(beyond.trace()) <= (SMALLEST * largest) ** 2 * len(block)
        angle = float(angles[r - 1]) if len(angles) >= r else np.pi / 2
        done = found_all or (angle <= TOLERANCE and (enough or r == most))
        n_blocks = -(-(r if enough else most) // width)  # of vectors, that the components fill
        if done or covariance.n_passes >= MAX_PASSES * n_blocks:
            break
        block = _orthonormal(product, SMALLEST * largest)
        space.take_from(block)  # a second time: what the first left of it was made longer
        block = _orthonormal(block, 0.5).float()
        if not len(block):
            break
        del product
        keep = max(width, r + OVERSAMPLING)
        room = max(BASIS_BYTES // (4 * n_voxels), keep + BASIS_BLOCKS * width)
        if len(space) + len(block) > room:
            leading = mixing[:, :keep]  # (m, k)
            space.compress(values[:keep], leading)
            along, of_along = along @ leading, of_along @ leading  # (p, k)
        product = times(block)
    rank = int((values > NOTHING * largest).sum())
    if rank < r:
        raise InputError(
            f"the maps of {n} people differ in {rank} directions only; ask for at most that many "
            f"components, not {r}"
        )
    if not enough:
        raise InputError(
            f"{r} components keep {float(values[:r].sum()) / total:.0%} of the variance, not the "
            f"{variance:.0%} asked for; ask for less or smooth more"
        )

    space.take_from(of_probes)
    _subtract(of_probes, along[:, -len(product) :], product)
    squares = float(values.square().sum() + 2 * beyond.trace())
    squares += float(of_probes.square().sum()) / N_PROBES
    settled = (angles[:r] <= TOLERANCE).nonzero()  # (k, 1)
    found = space.mixture(mixing[:, :r])  # (r, N)
    found *= found.gather(1, found.abs().argmax(dim=1, keepdim=True)).sign()
    return Components(
        covariance.mean.float().cpu().numpy(),
        found.cpu().numpy(),
        values[:r].cpu().numpy(),
        error[:r].sqrt().cpu().numpy(),
        total,
        total**2 / squares,
        angle,
        int(settled[-1]) + 1 if len(settled) else 0,
        covariance.n_passes,
    )


class Linear(nn.Module):
    """Latents that are linear in a map, and the map that is nearest to them.

    Parameters
    ----------
    mask
        [bool, shape: (x, y, z)] Voxels that a row holds.
    mean
        [float32, shape: (n_voxels,)] Mean map.
    basis
        [float32, shape: (r, n_voxels)] What one more of a latent adds to a map.
    covariance
        [float64, shape: (r, r)] Of the latents of the people in training.
    voxel_sd
        [float32, shape: (n_voxels,)] Standard deviation of each voxel over the people in training.
    weights
        [float32, shape: (r, n_voxels)] What a map is multiplied by to give its latents; the basis
        itself if not given.
    latent_mean
        [float32, shape: (r,)] Latents of the mean map; 0 if not given.
    """

    mask: Tensor
    mean: Tensor
    basis: Tensor
    covariance: Tensor
    voxel_sd: Tensor
    latent_mean: Tensor
    weights: Tensor | None

    def __init__(
        self,
        mask: NDArray[np.bool_],
        mean: NDArray[np.float32],
        basis: NDArray[np.float32],
        covariance: NDArray[np.float64],
        voxel_sd: NDArray[np.float32],
        weights: NDArray[np.float32] | None = None,
        latent_mean: NDArray[np.float32] | None = None,
    ) -> None:
        super().__init__()
        self.register_buffer("mask", torch.from_numpy(mask))
        self.register_buffer("mean", torch.from_numpy(mean))
        self.register_buffer("basis", torch.from_numpy(basis))
        self.register_buffer("covariance", torch.from_numpy(covariance))
        self.register_buffer("voxel_sd", torch.from_numpy(voxel_sd))
        self.register_buffer("weights", None if weights is None else torch.from_numpy(weights))
        latent_mean = np.zeros(len(basis), np.float32) if latent_mean is None else latent_mean
        self.register_buffer("latent_mean", torch.from_numpy(latent_mean))

    @property
    def n_latents(self) -> int:
        """Latents a person."""
        return len(self.basis)

    @property
    def mean_rows(self) -> Tensor:
        """The mean map, (n_voxels,)."""
        return self.mean

    def scaled(self, maps: Tensor) -> Tensor:
        """Maps as they are: components are in their units."""
        return maps.float()

    def unscaled(self, rows: Tensor, maps: Tensor) -> Tensor:
        """Maps as they are."""
        return rows

    def encode_rows(self, rows: Tensor) -> Tensor:
        """Maps (b, n_voxels) -> latents (b, r)."""
        weights = self.basis if self.weights is None else self.weights  # (r, n_voxels)
        return (rows - self.mean) @ weights.T + self.latent_mean

    def decode_rows(self, latents: Tensor) -> Tensor:
        """Latents (b, r) -> maps (b, n_voxels)."""
        return self.mean + (latents - self.latent_mean) @ self.basis

    def forward(self, rows: Tensor) -> Tensor:
        """Maps (b, n_voxels) -> their reconstructions, same shape."""
        return self.decode_rows(self.encode_rows(rows))


@torch.inference_mode()
def encode_and_measure(
    model: Linear, rows: Rows, index: NDArray[np.int64]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Latents of people, and how much their voxels vary, of one reading of the maps.

    Parameters
    ----------
    model
        Its mask is that of the rows; its mean map that of these people.
    rows
        Gives the maps of some people, (b, n_voxels).
    index
        [int64, shape: (n,)] Places of the people, two or more.

    Returns
    -------
    (latents, voxel_sd)
        [float32, shape: (n, r)]; [float32, shape: (n_voxels,)] standard deviation, with the divisor
        n - 1, in units of the maps.
    """
    latents = np.empty((len(index), model.n_latents), dtype=np.float32)
    squares = torch.zeros(len(model.mean), dtype=torch.float64, device=model.mean.device)
    start = 0
    for x in read_ahead(rows, _batches(index, len(model.mean)), model.mean.device):
        latents[start : start + len(x)] = model.encode_rows(x).cpu().numpy()
        squares += (x - model.mean).square().sum(dim=0, dtype=torch.float64)
        start += len(x)
    return latents, (squares / (len(index) - 1)).sqrt().float().cpu().numpy()


@torch.inference_mode()
def reconstruction_correlation(
    model: Linear, rows: Rows, index: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Correlation over voxels of map and reconstruction, both less the mean map.

    With the mean map left in, any reconstruction would correlate highly.

    Parameters
    ----------
    model
        Its mask is that of the rows.
    rows
        Gives the maps of some people, (b, n_voxels).
    index
        [int64, shape: (n,)] Places of the people.

    Returns
    -------
    [float64, shape: (n,)]
    """
    correlation = np.empty(len(index))
    batches = _batches(index, len(model.mean))
    start = 0
    for x in read_ahead(rows, batches, model.mean.device):  # (b, n_voxels)
        pair = [maps - model.mean for maps in (x, model(x))]
        a, b = (maps - maps.mean(dim=1, keepdim=True) for maps in pair)
        r = (a * b).sum(dim=1) / (a.norm(dim=1) * b.norm(dim=1))
        correlation[start : start + len(x)] = r.cpu().numpy()
        start += len(x)
    return correlation


@dataclass(frozen=True)
class Fit:
    """A linear representation, and how it came about."""

    model: Linear
    bandwidth: float  # mm; 0: no smoothing
    candidates: list[Candidate]  # empty where the bandwidth was given
    components: Components
    variance_kept: NDArray[np.float64]  # (r,) share of the smoothed maps' variance, summed up
    reconstruction: NDArray[np.float64]  # (n_validation,) correlation of people held out
    train_index: NDArray[np.int64]
    validation_index: NDArray[np.int64]


def fit(
    rows: Rows,
    person: NDArray[np.int64],
    mask: NDArray[np.bool_],
    voxel_size: tuple[float, float, float],
    config: Config,
    device: str = "cpu",
) -> Fit:
    """Fit principal components of smoothed maps.

    Latents are the products of maps, less the mean map and not smoothed, with the components, so
    that what holds for the latents holds for voxels by the components alone.

    Parameters
    ----------
    rows
        Gives the maps of some people, (b, n_voxels).
    person
        [int64, shape: (n_samples,)] Number of each map's person; nobody is in training with one map
        and held out with another.
    mask
        [bool, shape: (x, y, z)] Voxels that a row holds.
    voxel_size
        Edges of a voxel, mm.
    config
        What to fit.
    device
        `cpu` or `cuda`.

    Returns
    -------
    Fit

    Raises
    ------
    InputError
        Too few people, maps that are not finite or all the same, or a share of variance that
        1,024 components do not reach.
    """
    train, validation = held_out(person, config.validation_fraction, config.seed)
    most = min(len(train) - 1, int(mask.sum()))
    if most < 1:
        raise InputError(
            f"{len(train)} people to fit to ({len(validation)} are held out); at least 2 are needed"
        )
    candidates: list[Candidate] = []
    bandwidth = config.bandwidth
    if bandwidth is None:
        chosen = np.random.default_rng(config.seed).permutation(train)[:GCV_PEOPLE]
        candidates, bandwidth = cross_validate(rows, np.sort(chosen), mask, voxel_size, device)
    smoother = Smoother(mask, voxel_size, bandwidth, device) if bandwidth else None
    n_voxels = int(mask.sum())
    r = min(config.n_latents or latents_for(len(person)), most)
    components = principal_components(
        *(rows, train, n_voxels, r, smoother),
        variance=config.variance,
        seed=config.seed,
        device=device,
    )
    r = len(components.variance)
    kept = np.cumsum(components.variance) / components.total_variance  # (r,)
    unknown = np.zeros(n_voxels, dtype=np.float32)  # until the maps are read for the last time
    model = Linear(mask, components.mean, components.basis, np.eye(r), unknown).to(device)
    latents, voxel_sd = encode_and_measure(model, rows, train)  # (n_train, r), (n_voxels,)
    model.voxel_sd.copy_(torch.from_numpy(voxel_sd))
    model.covariance.copy_(torch.from_numpy(np.atleast_2d(np.cov(latents, rowvar=False))))
    correlation = reconstruction_correlation(model, rows, validation)
    return Fit(*(model, bandwidth, candidates, components, kept, correlation, train, validation))


def tract_means(
    rows: Rows,
    index: NDArray[np.int64],
    mask: NDArray[np.bool_],
    labels: NDArray[np.int32],
    device: str = "cpu",
) -> Linear:
    """Representation by the means of an atlas's tracts, the simplest there is.

    Parameters
    ----------
    rows
        Gives the maps of some people, (b, n_voxels).
    index
        [int64, shape: (n,)] Places of the people in training: maps are decoded by the least squares
        regression of their maps on their means.
    mask
        [bool, shape: (x, y, z)] Voxels that a row holds.
    labels
        [int32, shape: (x, y, z)] Tract of each voxel, 0 for none.
    device
        `cpu` or `cuda`.

    Returns
    -------
    Linear
        One latent a label, in increasing order.

    Raises
    ------
    InputError
        No labels, a label that has no voxel in the mask, or fewer people than labels.
    """
    numbers = np.unique(labels[labels > 0])
    inside = labels[mask]  # (n_voxels,)
    missing = np.setdiff1d(numbers, inside)
    if not len(numbers):
        raise InputError("the atlas has no labels: all its voxels are 0")
    if len(missing):
        raise InputError(
            f"labels {', '.join(map(str, missing))} of the atlas have no voxel among the "
            f"{int(mask.sum())} of the mask; check that it is in the space of the cohort's maps"
        )
    if len(index) <= len(numbers):
        raise InputError(f"{len(index)} people are too few to fit {len(numbers)} tract means")
    weights = (inside == numbers[:, None]).astype(np.float32)  # (r, n_voxels)
    weights /= weights.sum(axis=1, keepdims=True)
    vectors = torch.from_numpy(weights).to(device)
    covariance = _Covariance(rows, index, torch.from_numpy(rows(index[:1])[0]).to(device))
    with_maps = covariance.times(vectors)  # (r, n_voxels) covariance of means and voxels
    between = with_maps @ vectors.double().T  # (r, r)
    basis = torch.linalg.pinv(between, hermitian=True) @ with_maps
    mean = covariance.mean.float()
    model = Linear(
        mask,
        mean.cpu().numpy(),
        basis.float().cpu().numpy(),
        between.cpu().numpy(),
        np.zeros(len(inside), dtype=np.float32),
        weights,
        (vectors @ mean).cpu().numpy(),
    ).to(device)
    model.voxel_sd.copy_(torch.from_numpy(encode_and_measure(model, rows, index)[1]))
    return model

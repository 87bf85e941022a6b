"""What the autoencoder and the linear representation have in common: how maps are read and encoded.

Maps come as rows: the voxels inside the cohort's mask, C order.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from axoloci.errors import InputError
from axoloci.io.ahead import map_ahead
from axoloci.statistics import robust_z

Rows = Callable[[NDArray[np.int64]], NDArray[np.floating[Any]]]
"""Gives the maps of some people, (b, n_voxels), by their places in the cohort."""

ENCODE_BATCH = 16  # people encoded at once; the latents hardly depend on it (1e-6)
N_AHEAD = 2  # batches that are read while another is computed
PEOPLE_PER_LATENT = 15
MANY_SPREADS = 5.0  # robust standard deviations, which no one of 50,000 sound people reaches

log = logging.getLogger("axoloci")


class Representation(Protocol):
    """Maps to latents and back.

    A representation sees maps on a scale of its own: z-scored, or as they are.
    """

    @property
    def n_latents(self) -> int:
        """Latents a person."""

    @property
    def mean_rows(self) -> Tensor:
        """The mean map, scaled, (n_voxels,)."""

    def scaled(self, maps: Tensor) -> Tensor:
        """Maps in their own units (b, n_voxels) -> as the representation sees them."""

    def unscaled(self, rows: Tensor, maps: Tensor) -> Tensor:
        """Scaled maps (b, n_voxels) -> in the units of these maps of the same people."""

    def encode_rows(self, rows: Tensor) -> Tensor:
        """Scaled maps (b, n_voxels) -> latents (b, n_latents)."""

    def decode_rows(self, latents: Tensor) -> Tensor:
        """Latents (b, n_latents) -> scaled maps (b, n_voxels)."""


def latents_for(n_samples: int) -> int:
    """Latents that a cohort supports: the published 128, in a small one one per 15 people.

    More would describe single people, and cost the joint test its degrees of freedom.

    >>> latents_for(50_000), latents_for(150)
    (128, 10)
    """
    return max(1, min(128, n_samples // PEOPLE_PER_LATENT))


def held_out(
    person: NDArray[np.int64], fraction: float, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Whose maps are in training and whose are held out: the same for every representation.

    All maps of a person are on one side, or what is held out would have been seen.

    Parameters
    ----------
    person
        [int64, shape: (n_samples,)] Number of each map's person.
    fraction
        Share of the people to hold out, at least one of them.
    seed
        Of the draw.

    Returns
    -------
    (train_index, validation_index)
        [int64] Places of maps, in ascending order.
    """
    first = np.unique(person, return_index=True)[1]  # (n_people,)
    people = person[np.sort(first)]  # in the order of their first maps
    n_validation = max(1, round(fraction * len(people)))
    drawn = np.random.default_rng(seed).permutation(len(people))[:n_validation]
    out = np.isin(person, people[drawn])  # (n_samples,)
    return np.flatnonzero(~out), np.flatnonzero(out)


def zscore(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Standardise each map over its voxels.

    Parameters
    ----------
    rows
        [shape: (b, n_voxels)] Maps inside the mask, none of them constant.

    Returns
    -------
    (z, moments)
        [float32, shape: (b, n_voxels)] mean 0 and variance 1 a row; [float32, shape: (b, 2)] mean
        and standard deviation of each map.
    """
    rows = rows.float()
    variance, mean = torch.var_mean(rows, dim=1, correction=0)  # (b,), (b,)
    moments = torch.stack((mean, variance.sqrt()), dim=1)  # (b, 2)
    return (rows - moments[:, :1]) / moments[:, 1:], moments


def read_ahead(
    rows: Rows, batches: Sequence[NDArray[np.int64]], device: torch.device
) -> Iterator[Tensor]:
    """Read batches of maps in a thread, the next ones while the caller computes with one.

    Parameters
    ----------
    rows
        Gives the maps of some people, (b, n_voxels).
    batches
        [int64, shape: (b,)] each: places of people.
    device
        Where the maps go; to a GPU they are copied while it computes.

    Yields
    ------
    [shape: (b, n_voxels)] The maps of each batch, in turn.
    """

    def read(index: NDArray[np.int64]) -> Tensor:
        maps = torch.from_numpy(rows(index))
        return maps.pin_memory() if device.type == "cuda" else maps

    for maps in map_ahead(read, batches, n_threads=1, n_ahead=N_AHEAD):
        yield maps.to(device, non_blocking=True)


def in_parts(function: Callable[[Tensor], Tensor], rows: Tensor, size: int) -> tuple[Tensor, int]:
    """Apply a function to as many rows at a time as the device's memory holds.

    Parameters
    ----------
    function
        Rows (b, ...) -> rows (b, ...), of each row by itself.
    rows
        [shape: (n, ...)]
    size
        Rows at a time; halved until they fit.

    Returns
    -------
    (results, size)
        [shape: (n, ...)]; the rows at a time that fit, for the next call.

    Raises
    ------
    InputError
        Not even one fits.
    """
    fits = size
    while True:
        try:
            results = torch.cat([function(part) for part in torch.split(rows, fits)])
            break
        except torch.OutOfMemoryError as error:
            if min(fits, len(rows)) == 1:
                raise InputError(
                    "the GPU's memory does not hold what one map takes; free it of other programs, "
                    "or choose --device cpu"
                ) from error
        # after the clause, for within it the error holds the tensors that are to be freed
        fits = min(fits, len(rows)) // 2
        torch.cuda.empty_cache()
    if fits < size:
        log.info("the GPU's memory does not hold %d maps: going on with %d at once", size, fits)
    return results, fits


@dataclass(frozen=True)
class Encoded:
    """Latents of people, and how well their maps are made again from them.

    `r2` is of z-scored maps, those made again too: all representations are on one scale, and none
    gains by a person's mean and spread.
    """

    latents: NDArray[np.float32]  # (n_samples, n_latents)
    mse: NDArray[np.float64]  # (n_samples,) mean squared error of the map as the model sees it
    zscored_mse: NDArray[np.float64]  # (n_samples,) the same of z-scored maps
    r2: NDArray[np.float64]  # (n_samples,) 1 - error / distance from the model's mean map


@torch.inference_mode()
def encode_maps(
    model: Representation, rows: Rows, index: NDArray[np.int64], batch_size: int = ENCODE_BATCH
) -> Encoded:
    """Encode people.

    Parameters
    ----------
    model
        A fitted representation of maps of the same voxels.
    rows
        Gives the maps of some people, (b, n_voxels), none of them constant.
    index
        [int64, shape: (n_samples,)] Who is encoded.
    batch_size
        People at once; fewer where the GPU's memory does not hold them.

    Returns
    -------
    Encoded
    """
    mean = zscore(model.mean_rows[None])[0]  # (1, n_voxels)

    def encode(maps: Tensor) -> Tensor:
        """Maps (b, n_voxels) -> latents, two errors, distance from the mean (b, n_latents + 3)."""
        seen, truth = model.scaled(maps), zscore(maps)[0]  # (b, n_voxels)
        code = model.encode_rows(seen)  # (b, n_latents)
        again = model.decode_rows(code)  # (b, n_voxels)
        pairs = ((seen, again), (truth, zscore(again)[0]), (truth, mean))
        squares = [(a - b).square().mean(dim=1) for a, b in pairs]  # (b,) each
        return torch.column_stack((code, *squares))

    latents = np.empty((len(index), model.n_latents), dtype=np.float32)
    squares = np.empty((len(index), 3))
    places = [slice(at, at + batch_size) for at in range(0, len(index), batch_size)]
    maps_of = read_ahead(rows, [index[place] for place in places], mean.device)
    at_once = batch_size
    for place, maps in zip(places, maps_of, strict=True):
        encoded, at_once = in_parts(encode, maps, at_once)
        values = encoded.cpu().numpy()  # (b, n_latents + 3)
        latents[place], squares[place] = values[:, :-3], values[:, -3:]
    mse, error, distance = squares.T
    return Encoded(latents, mse, error, 1 - error / distance)


@torch.inference_mode()
def reconstruct(model: Representation, maps: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
    """Maps made again from their latents, in the maps' own units.

    Parameters
    ----------
    model
        A fitted representation.
    maps
        [shape: (b, n_voxels)] Maps inside the mask, none of them constant.

    Returns
    -------
    [float32, shape: (b, n_voxels)]
    """
    given = torch.from_numpy(maps).to(model.mean_rows)

    def made_again(part: Tensor) -> Tensor:
        return model.unscaled(model.decode_rows(model.encode_rows(model.scaled(part))), part)

    again, _ = in_parts(made_again, given, len(given))
    return np.asarray(again.cpu().numpy(), dtype=np.float32)


def spread(rows: Rows, index: NDArray[np.int64], device: torch.device) -> float:
    """How far people's z-scored maps are from their mean map: mean square over voxels and people.

    The error of a representation is judged by it.

    Parameters
    ----------
    rows
        Gives the maps of some people, (b, n_voxels), none of them constant.
    index
        [int64, shape: (n,)] Who.
    device
        That sums.

    Returns
    -------
    float
        Divided by n - 1, for the mean map is theirs.
    """
    batches = [index[at : at + ENCODE_BATCH] for at in range(0, len(index), ENCODE_BATCH)]
    total: Tensor | float = 0.0
    for maps in read_ahead(rows, batches, device):
        total = total + zscore(maps)[0].sum(dim=0, dtype=torch.float64)  # (n_voxels,)
    n, mean = len(index), torch.as_tensor(total) / len(index)
    # each z-scored map has mean square 1
    return float((1 - mean.square().mean()) * n / (n - 1))


def outliers(error: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Whose reconstruction error stands out from the others'.

    Errors are skewed, so that their logarithms are compared.

    Parameters
    ----------
    error
        [float64, shape: (n_samples,)] Mean squared error of each map.

    Returns
    -------
    [bool, shape: (n_samples,)]

    >>> outliers(np.array([0.10, 0.11, 0.09, 0.12, 0.30, 0.10]))
    array([False, False, False, False,  True, False])
    """
    return robust_z(np.log(np.maximum(error, np.finfo(np.float64).tiny))) > MANY_SPREADS

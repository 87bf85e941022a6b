"""LD scores: how much linkage disequilibrium each variant has with all others near it."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

WINDOW_KB = 1000.0
COMMON_MAF = 0.05  # of a variant that counts in M_5_50


@dataclass(frozen=True)
class Standardised:
    """Genotypes of some variants with mean 0 and variance 1.

    Attributes
    ----------
    genotypes
        [float32, shape: (n_variants, n_samples)] 0 where missing; all 0 of a variant that does not
        vary.
    maf
        [float64, shape: (n_variants,)] Minor allele frequency; NaN where nobody has a genotype.
    """

    genotypes: NDArray[np.float32]
    maf: NDArray[np.float64]


def standardise(dosage: NDArray[Any]) -> Standardised:
    """Genotypes with mean 0 and variance 1, a missing one in the place of the mean.

    Parameters
    ----------
    dosage
        [int8 or float32, shape: (n_variants, n_samples)] Counts of an allele, from 0 to 2, negative
        where missing.
    """
    known = dosage >= 0  # (B, N)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.where(known, dosage, 0).sum(axis=1, dtype=np.float64) / known.sum(axis=1)  # (B,)
        centred = np.where(known, dosage - mean[:, None], 0)  # (B, N)
        sd = np.sqrt(np.square(centred).mean(axis=1))  # (B,)
        scaled = np.where(sd[:, None] > 0, centred / sd[:, None], 0)
    return Standardised(scaled.astype(np.float32), np.minimum(mean, 2 - mean) / 2)


def ld_scores(
    blocks: Iterable[NDArray[np.float32]], position: NDArray[Any], window: float
) -> NDArray[np.float64]:
    """LD scores of the variants of one chromosome, in one pass over their genotypes.

    The LD score of variant j is Σ r²_jk over all variants k within the window, j itself included;
    each r² is less its bias in a sample, r² − (1 − r²) / (N − 2). As many blocks are held as the
    window spans.

    Parameters
    ----------
    blocks
        [float32, shape: (n, n_samples)] Standardised genotypes of consecutive variants.
    position
        [shape: (n_variants,)] Of all of them, increasing; in the unit of the window.
    window
        Largest distance.

    Returns
    -------
    [float64, shape: (n_variants,)]

    References
    ----------
    doi:10.1038/ng.3211
    """
    position = np.asarray(position, dtype=np.float64)
    assert (np.diff(position) >= 0).all()
    scores = np.zeros(len(position))
    held: deque[tuple[int, NDArray[np.float32]]] = deque()  # first variant, genotypes
    start = 0
    for block in blocks:
        rows = slice(start, start + len(block))
        while held and position[held[0][0] + len(held[0][1]) - 1] < position[start] - window:
            held.popleft()
        scores[rows] += _unbiased_r2(block, block, position[rows], position[rows], window).sum(0)
        for first, earlier in held:
            before = slice(first, first + len(earlier))
            r2 = _unbiased_r2(earlier, block, position[before], position[rows], window)
            scores[before] += r2.sum(axis=1)
            scores[rows] += r2.sum(axis=0)
        held.append((start, block))
        start = rows.stop
    assert start == len(position)
    return scores


def _unbiased_r2(
    first: NDArray[np.float32],
    second: NDArray[np.float32],
    first_position: NDArray[np.float64],
    second_position: NDArray[np.float64],
    window: float,
) -> NDArray[np.float64]:
    """r² of each pair of variants less its bias, (len(first), len(second)); 0 beyond the window."""
    n_samples = first.shape[1]
    r2: NDArray[np.float64] = np.square((first @ second.T).astype(np.float64) / n_samples)
    # a variant that does not vary has no disequilibrium, and so no bias of it
    r2 -= (1 - r2) / (n_samples - 2) * np.outer(first.any(axis=1), second.any(axis=1))
    if second_position[-1] - first_position[0] > window:
        r2[np.abs(first_position[:, None] - second_position) > window] = 0
    return r2

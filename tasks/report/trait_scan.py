"""All traits of a store in one pass: what a Manhattan and a quantile plot of each of them need.

Held in memory are the strongest trait of each variant, and of each trait its strongest variants and
counts of the others.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

from axoloci.io.sumstats import SumstatsBlock, neg_log10_p

TAIL = 3.0
"""|t| from which each result is kept as it is."""

BINS_PER_UNIT = 100
"""Of |t| below: a count a bin."""

N_RANKS = 200
"""Of a trait's quantiles; its ten most significant variants are all among them."""


@dataclass(frozen=True)
class TraitScan:
    """The results of several traits, condensed.

    Attributes
    ----------
    names
        Chromosomes in the order in which they occur.
    chromosome
        [int16, shape: (n_variants,)] Index into `names`; variants without any result are left out.
    position
        [int64, shape: (n_variants,)] Base pairs.
    neg_log10_p
        [float32, shape: (n_variants,)] Of the strongest trait.
    strongest
        [int16, shape: (n_variants,)] Which trait that is.
    counts
        [int64, shape: (n_traits, n_bins)] Variants by |t| below `TAIL`.
    tails
        Of each trait −log10 p of the other variants, [float64, shape: (n,)], largest first.
    df
        Degrees of freedom, the median over variants.
    hits
        [int64, shape: (n_traits,)] Variants of at least the −log10 p that was asked for.
    lead
        Of each trait the name of its most significant variant, "" where nothing was tested.
    lead_neg_log10_p
        [float64, shape: (n_traits,)] Of that variant; NaN where nothing was tested.
    """

    names: list[str]
    chromosome: NDArray[np.int16]
    position: NDArray[np.int64]
    neg_log10_p: NDArray[np.float32]
    strongest: NDArray[np.int16]
    counts: NDArray[np.int64]
    tails: list[NDArray[np.float64]]
    df: float
    hits: NDArray[np.int64]
    lead: list[str]
    lead_neg_log10_p: NDArray[np.float64]


def scan_traits(blocks: Iterable[SumstatsBlock], columns: Sequence[int], line: float) -> TraitScan:
    """Condense the results of some traits, block by block.

    Parameters
    ----------
    blocks
        Parts of a store.
    columns
        Places of the traits in the store.
    line
        −log10 p from which variants are hits.

    Returns
    -------
    TraitScan
    """
    n_traits, n_bins = len(columns), round(TAIL * BINS_PER_UNIT)
    which = list(columns)
    names: dict[str, int] = {}
    counts, hits = np.zeros((n_traits, n_bins), dtype=np.int64), np.zeros(n_traits, dtype=np.int64)
    # with any degrees of freedom, a p as small takes a |t| as large as of a normal variable
    least = min(TAIL, float(special.ndtri(1 - 10**-line / 2)))
    tails: list[list[NDArray[np.float64]]] = [[] for _ in which]
    best, lead = np.full(n_traits, -1.0), [""] * n_traits
    lead_p = np.full(n_traits, np.nan)
    chromosome, position, strength, strongest = [], [], [], []
    degrees = []
    for block in blocks:
        with np.errstate(divide="ignore", invalid="ignore"):
            t = np.abs(block.beta[:, which] / block.se[:, which])  # (m, n_traits)
        df = block.df[:, which]
        known = np.isfinite(t)
        bins = np.where(known, np.minimum(t * BINS_PER_UNIT, n_bins), n_bins).astype(np.int64)
        offset = np.arange(n_traits) * (n_bins + 1)
        counted = np.bincount((bins + offset).ravel(), minlength=n_traits * (n_bins + 1))
        counts += counted.reshape(n_traits, n_bins + 1)[:, :n_bins]
        row, trait = np.nonzero(known & ((bins == n_bins) | (t >= least)))
        p = neg_log10_p(t[row, trait], df[row, trait])
        hits += np.bincount(trait[p >= line], minlength=n_traits)
        in_tail = bins[row, trait] == n_bins
        row, trait, p = row[in_tail], trait[in_tail], p[in_tail]
        for k in np.unique(trait):
            tails[k].append(p[trait == k])
        # by p where it is known: people, and with them the degrees of freedom, may differ by trait
        score = np.where(known, t, -1.0)
        score[row, trait] = TAIL + p
        top = score.argmax(axis=0)  # (n_traits,)
        for k in np.flatnonzero(score[top, np.arange(n_traits)] > best):
            best[k] = score[top[k], k]
            lead[k] = str(block.variants["variant_id"].iat[top[k]])
            lead_p[k] = neg_log10_p(t[top[k], k], df[top[k], k])
        first = score.argmax(axis=1)  # (m,)
        rows = np.flatnonzero(known.any(axis=1))
        first = first[rows]
        chromosome.append(np.full(len(rows), names.setdefault(block.chromosome, len(names))))
        position.append(block.variants["base_pair_location"].to_numpy()[rows])
        strength.append(neg_log10_p(t[rows, first], df[rows, first]))
        strongest.append(first)
        degrees.append(df[rows, first])
    return TraitScan(
        list(names),
        _joined(chromosome).astype(np.int16),
        _joined(position).astype(np.int64),
        _joined(strength).astype(np.float32),
        _joined(strongest).astype(np.int16),
        counts,
        [np.sort(_joined(parts))[::-1] for parts in tails],
        float(np.median(_joined(degrees))) if _joined(degrees).size else float("nan"),
        hits,
        lead,
        lead_p,
    )


def trait_quantiles(scan: TraitScan, trait: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Expected and observed quantiles of a trait's −log10 p.

    Below `TAIL` they are those of the counts, to a hundredth of a standard error.

    Parameters
    ----------
    scan, trait
        Which one.

    Returns
    -------
    (expected, observed)
        [float64, shape: (n,)] each, largest first.
    """
    tail, counts = scan.tails[trait], scan.counts[trait]
    n = len(tail) + int(counts.sum())
    if n == 0:
        return np.empty(0), np.empty(0)
    rank = np.union1d(
        np.arange(1, min(n, 10) + 1), np.round(np.geomspace(1, n, N_RANKS)).astype(np.int64)
    )
    above = len(tail) + np.cumsum(counts[::-1])[::-1] - counts  # variants beyond each bin
    # within a bin its variants lie at even steps
    which = np.searchsorted(-above, -rank, side="right")  # the first bin with fewer beyond it
    which = np.minimum(which, len(counts) - 1)
    share = (rank - 0.5 - above[which]) / np.maximum(counts[which], 1)
    t = (which + 1 - np.clip(share, 0, 1)) / BINS_PER_UNIT
    observed = neg_log10_p(t, scan.df)
    in_tail = rank <= len(tail)
    observed[in_tail] = tail[rank[in_tail] - 1]
    return -np.log10((rank - 0.5) / n), observed


def _joined(parts: Sequence[NDArray[Any]]) -> NDArray[Any]:
    return np.concatenate(parts) if parts else np.empty(0)

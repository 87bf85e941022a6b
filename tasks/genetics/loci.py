"""Clumps and loci: which variants stand for one signal, and which signals for one place.

The rules are those of plink 1.9's `--clump`: r² of two variants is that of their haplotypes at
maximum likelihood, and a clump is what its index variant takes first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from axoloci.io.genotype_files import canonical_chromosome

INDEX_P = 5e-8
SECONDARY_P = 0.01
MIN_R2 = 0.1
WINDOW_KB = 250.0
MERGE_KB = 250.0
BLOCK = 256  # variants held as float32 at a time
MALE = 1  # as in PLINK's tables


@dataclass(frozen=True)
class Clump:
    """One index variant and the variants it stands for.

    Attributes
    ----------
    index
        Row of the index variant.
    members
        Rows of the others, ascending.
    """

    index: int
    members: tuple[int, ...]


@dataclass(frozen=True)
class Locus:
    """Clumps that lie together on one chromosome.

    Attributes
    ----------
    lead
        Row of the variant with the smallest p.
    leads
        Rows of the index variants of all clumps, smallest p first.
    members
        Rows of all variants of all clumps, leads included, by position.
    start, end
        First and last position, base pairs.
    """

    lead: int
    leads: tuple[int, ...]
    members: tuple[int, ...]
    start: int
    end: int


def clump_variants(
    neg_log10_p: NDArray[Any],
    chromosome: NDArray[Any],
    position: NDArray[Any],
    read: Callable[[NDArray[np.int64]], NDArray[np.int8]],
    index_p: float = INDEX_P,
    secondary_p: float = SECONDARY_P,
    min_r2: float = MIN_R2,
    window_kb: float = WINDOW_KB,
    sex: NDArray[np.int8] | None = None,
) -> list[Clump]:
    """Clumps of associated variants, as plink 1.9's `--clump` forms them.

    From the smallest p upwards, each variant that no clump has taken opens one, and takes what is
    free, on its chromosome, within the window and in linkage disequilibrium with it. Of equal p the
    first in the order of the rows comes first. Only the limit of an index variant's p includes the
    limit itself.

    Parameters
    ----------
    neg_log10_p, chromosome, position
        [shape: (n_variants,)] Of variants up to the larger of the two limits of p at least;
        position in base pairs.
    read
        Rows, ascending, to their genotypes [int8, shape: (rows, n_samples)]: 0, 1, 2, and −9 where
        missing.
    index_p
        Largest p of an index variant.
    secondary_p
        Limit of the p of members, which are below it.
    min_r2
        Limit of r² with the index variant, above which a variant is taken.
    window_kb
        Limit of the distance from the index variant, below which a variant is taken, thousands of
        base pairs.
    sex
        [int8, shape: (n_samples,)] 1 male, 2 female, 0 unknown, by which people count on X and Y
        (`copies_of`); None: everyone counts alike on all chromosomes.

    Returns
    -------
    list of Clump
        Smallest index p first.

    References
    ----------
    doi:10.1086/519795
    """
    neg_log10_p = np.asarray(neg_log10_p, dtype=np.float64)
    position = np.asarray(position, dtype=np.int64)
    free = np.ones(len(position), dtype=bool)
    opens = np.flatnonzero(neg_log10_p >= -np.log10(index_p))
    clumps = []
    for index in opens[np.argsort(-neg_log10_p[opens], kind="stable")].tolist():
        if not free[index]:
            continue
        free[index] = False
        near = np.flatnonzero(
            free
            & (chromosome == chromosome[index])
            & (np.abs(position - position[index]) < 1000 * window_kb)
        )
        rows = np.union1d(near, [index])
        genotypes = read(rows)  # (rows, N)
        copies = None if sex is None else copies_of(str(chromosome[index]), sex)
        r2 = haplotype_r2(genotypes[np.searchsorted(rows, index)], genotypes, copies)  # (rows,)
        like_index = rows[(r2 > min_r2) & (rows != index)]
        free[like_index] = False  # whatever their p, or one of `secondary_p` would open a clump
        members = like_index[neg_log10_p[like_index] > -np.log10(secondary_p)]
        clumps.append(Clump(index, tuple(members.tolist())))
    return clumps


def merge_clumps(
    clumps: Sequence[Clump],
    chromosome: NDArray[Any],
    position: NDArray[Any],
    merge_kb: float = MERGE_KB,
) -> list[Locus]:
    """Loci: clumps whose spans lie within a distance of each other, joined.

    Parameters
    ----------
    clumps
        Smallest index p first.
    chromosome, position
        [shape: (n_variants,)] Of the rows that the clumps name.
    merge_kb
        Largest gap between two clumps of one locus, thousands of base pairs.

    Returns
    -------
    list of Locus
        In the order of the first variant rows of their chromosomes, then by position.
    """
    position = np.asarray(position, dtype=np.int64)
    first_row = {name: row for row, name in reversed(list(enumerate(np.asarray(chromosome))))}
    spans = []
    for rank, clump in enumerate(clumps):
        rows = np.array([clump.index, *clump.members])
        where = first_row[chromosome[clump.index]]
        spans.append((where, position[rows].min(), position[rows].max(), rank))
    groups: list[tuple[int, int, int, list[int]]] = []  # chromosome, start, end, ranks of clumps
    for where, start, end, rank in sorted(spans):
        if groups and groups[-1][0] == where and start - groups[-1][2] <= 1000 * merge_kb:
            before = groups[-1]
            groups[-1] = (where, before[1], max(before[2], end), [*before[3], rank])
        else:
            groups.append((where, start, end, [rank]))
    loci = []
    for _, start, end, ranks in groups:
        leads = [clumps[rank].index for rank in sorted(ranks)]
        members = {row for rank in ranks for row in (clumps[rank].index, *clumps[rank].members)}
        ordered = sorted(members, key=lambda row: (position[row], row))
        loci.append(Locus(leads[0], tuple(leads), tuple(ordered), int(start), int(end)))
    return loci


def copies_of(chromosome: str, sex: NDArray[np.int8]) -> NDArray[np.int8]:
    """Haplotypes that each person has of a chromosome, as plink 1.9 counts them for r².

    On X men have one, and people of unknown sex two, as women; on Y only men have one. The
    pseudo-autosomal regions under a name of their own are as other chromosomes; so are
    mitochondria, for there everyone counts alike.

    Parameters
    ----------
    chromosome
        Its name, without "chr".
    sex
        [int8, shape: (n_samples,)] 1 male, 2 female, 0 unknown.

    Returns
    -------
    [int8, shape: (n_samples,)]
    """
    name = canonical_chromosome(chromosome)
    of_men, of_others = {"X": (1, 2), "Y": (1, 0)}.get(name, (2, 2))
    return np.where(sex == MALE, of_men, of_others).astype(np.int8)


def haplotype_r2(
    index: NDArray[np.int8],
    genotypes: NDArray[np.int8],
    copies: NDArray[np.int8] | None = None,
) -> NDArray[np.float64]:
    """Squared correlation of the haplotypes of one variant with others, at maximum likelihood.

    In Hardy-Weinberg equilibrium only people heterozygous at both variants hide their phase; the
    likelihood of the one free haplotype frequency is stationary at the roots of a cubic, of which
    the best within its bounds is taken. Each pair uses the people with both genotypes.

    Parameters
    ----------
    index
        [int8, shape: (n_samples,)] Genotypes 0, 1, 2, and −9 where missing.
    genotypes
        [int8, shape: (n_variants, n_samples)]
    copies
        [int8, shape: (n_samples,)] Haplotypes that a person has, from `copies_of`; None: two each.
        A person of one has the genotype 0 or 2 of it, and counts as missing where it is 1.

    Returns
    -------
    [float64, shape: (n_variants,)] NaN where one of the two does not vary.

    References
    ----------
    doi:10.1186/1471-2105-8-428
    """
    if copies is None:
        copies = np.full(len(index), 2, dtype=np.int8)
    index_is = (index == np.arange(3)[:, None]).astype(np.float32).T  # (N, 3)
    index_is *= copies[:, None] / np.float32(2)
    index_is[copies == 1, 1] = 0
    counts = np.empty((len(genotypes), 3, 3))  # people by genotype of the variant, of the index
    for start in range(0, len(genotypes), BLOCK):
        block = genotypes[start : start + BLOCK]
        for state in range(3):
            has = block == state  # (block, N)
            if state == 1:
                has &= copies == 2
            counts[start : start + BLOCK, state] = has.astype(np.float32) @ index_is
    with np.errstate(invalid="ignore", divide="ignore"):
        total = 2 * counts.sum(axis=(1, 2))  # (M,) haplotypes
        p = (2 * counts[:, 0].sum(axis=1) + counts[:, 1].sum(axis=1)) / total
        q = (2 * counts[:, :, 0].sum(axis=1) + counts[:, :, 1].sum(axis=1)) / total
        both = counts[:, 1, 1] / total  # share of haplotypes in the unknown phase, of either kind
        known = (2 * counts[:, 0, 0] + counts[:, 0, 1] + counts[:, 1, 0]) / total
        # x = frequency of the haplotype 0-0:  (x − known)(x·x22 + x12·x21) = both·x·x22
        u = 1 - p - q
        varies = (total > 0) & (p * (1 - p) > 0) & (q * (1 - q) > 0)
        monic = np.stack(
            [
                (u - p - q - 2 * known - both) / 2,
                (p * q - known * (u - p - q) - both * u) / 2,
                -known * p * q / 2,
            ],
            axis=1,
        )  # (M, 3): x³ + m0 x² + m1 x + m2
        monic[~varies] = 0
        companion = np.zeros((len(counts), 3, 3))
        companion[:, 1, 0] = companion[:, 2, 1] = 1
        companion[:, :, 2] = -monic[:, ::-1]
        x = np.linalg.eigvals(companion).real  # (M, 3); a complex pair's real part never wins
        x = np.concatenate([x, np.stack([known, known + both], axis=1)], axis=1)
        x = np.clip(x, known[:, None], (known + both)[:, None])  # (M, 5)
        best = np.take_along_axis(
            x, np.argmax(_log_likelihood(x, p, q, known, both), axis=1)[:, None], axis=1
        )[:, 0]
        r2 = np.square(best - p * q) / (p * (1 - p) * q * (1 - q))
    return np.where(varies, r2, np.nan)


def _log_likelihood(
    x: NDArray[Any],
    p: NDArray[np.float64],
    q: NDArray[np.float64],
    known: NDArray[np.float64],
    both: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Mean log-likelihood of haplotype frequencies `x` (M, candidates), given the alleles'."""
    p, q, known, both = (value[:, None] for value in (p, q, known, both))
    x12, x21, x22 = p - x, q - x, 1 - p - q + x

    def part(share: NDArray[np.float64], frequency: NDArray[np.float64]) -> NDArray[np.float64]:
        positive = np.maximum(frequency, 1e-300)  # a frequency of 0 of something seen: very bad
        return np.where(share > 1e-12, share * np.log(positive), 0.0)

    return (
        part(known, x)
        + part(p - known - both, x12)
        + part(q - known - both, x21)
        + part(1 - p - q + known, x22)
        + part(both, x * x22 + x12 * x21)
    )

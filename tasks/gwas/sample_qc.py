"""Quality of each person's genotypes: missing, heterozygosity, sex by X, ancestry, relatives.

Nothing is removed here: these are figures, and what to do about them is for whoever knows the
study. Regions of X are those of the human genome.

Cost for N people and M variants: everything but kinship is one reading of the genotypes and holds
one block of them. Kinship takes N²/2 · M multiplications where no genotype is missing, four times
that where some are, and holds two tiles of `TILE` people at a time, whatever N is.

References
----------
Manichaikul et al. 2010, doi:10.1093/bioinformatics/btq559 (kinship); Purcell et al. 2007,
doi:10.1086/519795 (heterozygosity, sex); Leys et al. 2013, doi:10.1016/j.jesp.2013.03.013 (robust
deviations).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from axoloci.statistics import robust_z

MAX_MISSING = 0.05  # share of a person's autosomal genotypes
MAX_HETEROZYGOSITY_SD = 5.0  # robust SD of F: chance alone takes 1 person in 2 million so far
MAX_PC_SD = 6.0  # robust SD along a component: that of smartpca
MAX_FEMALE_F, MIN_MALE_F = 0.2, 0.8
MIN_X_VARIANTS = 100  # polymorphic ones; with fewer a woman's F varies by more than 0.1 by chance
# X between the pseudo-autosomal regions, in whichever of NCBI36, GRCh37 and GRCh38 they reach
# furthest: men have two alleles of what lies outside, and the build need not be known
X_START, X_STOP = 2_781_479, 154_584_238
MIN_KINSHIP = 0.0442  # 2^-4.5: between the third degree and the fourth
MIN_DUPLICATE_KINSHIP = 0.354  # 2^-1.5: between duplicates (or identical twins) and first degree
KINSHIP_SDS = 5.0  # by chance one pair of unrelated people in 3 million is further out
# A robust SD of fewer says nothing. Nor does a kinship: variants that are uncorrelated in a handful
# of people are no sample of all variants. Among 5 unrelated people all pairs have a kinship of 0.43
# there, among 8 one of 0.1 on average, from 10 on of 0 (simulated, 20,000 independent variants).
MIN_PEOPLE = 20
TILE = 2048  # people: a product of that size is as fast as a larger one, and holds 16 MB
BLOCK_VARIANTS = 1024  # in one product

Blocks = Iterable[NDArray[np.int8]]


class Pairs(NamedTuple):
    """Pairs of relatives.

    Attributes
    ----------
    first, second : int64, (n_pairs,)
        Positions of the people; first < second.
    kinship : float64, (n_pairs,)
        0.5 for duplicates, 0.25 for parents, children and siblings.
    n_variants : int64, (n_pairs,)
        Variants of which both have a genotype.
    """

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    kinship: NDArray[np.float64]
    n_variants: NDArray[np.int64]


def heterozygosity(
    blocks: Blocks, n_samples: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Missing genotypes and excess of homozygous ones, person by person.

    F = 1 - heterozygous / expected, over the genotypes that a person has. A variant with allele
    frequency p among n people adds 2p(1-p)·2n/(2n-1) to what is expected (Nei's correction for a
    small sample, as in plink2 --het small-sample). Contamination makes F negative, inbreeding
    positive; a cohort of several ancestries spreads it.

    Parameters
    ----------
    blocks : iterable of int8, (n_variants, n_samples)
        Autosomal dosages 0, 1, 2; negative where missing.
    n_samples
        People.

    Returns
    -------
    (missing_rate, f)
        float64 (n_samples,) each. The rate is NaN without variants, F without polymorphic
        genotypes.

    Raises
    ------
    ValueError
        A block of another number of people.
    """
    n_variants = 0
    n_missing, n_het = np.zeros(n_samples, dtype=np.int64), np.zeros(n_samples, dtype=np.int64)
    expected = np.zeros(n_samples)
    for dosage in blocks:
        _check(dosage, n_samples)
        called, het = dosage >= 0, dosage == 1  # (V, N)
        n_alleles = 2 * called.sum(axis=1)  # (V,)
        p = (het.sum(axis=1) + 2 * (dosage == 2).sum(axis=1)) / np.maximum(n_alleles, 1)
        rate = 2 * p * (1 - p) * n_alleles / np.maximum(n_alleles - 1, 1)
        n_variants += len(dosage)
        n_missing += len(dosage) - called.sum(axis=0)
        n_het += het.sum(axis=0)
        expected += rate @ called.astype(np.float64)
    missing_rate = n_missing / n_variants if n_variants else np.full(n_samples, np.nan)
    return missing_rate, _inbreeding(n_het, expected)


def x_inbreeding(
    blocks: Blocks, sex: ArrayLike, *, min_variants: int = MIN_X_VARIANTS
) -> NDArray[np.float64]:
    """Excess of homozygous genotypes on X: near 1 in men, near 0 in women.

    F = 1 - heterozygous / expected, where a variant of allele frequency p adds 2p(1-p), as in
    plink1.9 --check-sex. For the frequency a man counts one allele, and none where he is
    heterozygous; people of unknown sex count as women.

    Parameters
    ----------
    blocks : iterable of int8, (n_variants, n_samples)
        Dosages on X without the pseudo-autosomal regions, men 0 or 2; negative where missing.
    sex : (n_samples,)
        As reported: 1 male, 2 female, 0 unknown.
    min_variants
        Polymorphic genotypes that a person needs.

    Returns
    -------
    float64, (n_samples,)
        NaN with fewer.

    Raises
    ------
    ValueError
        A block of another number of people.
    """
    male = np.asarray(sex) == 1
    n_samples = len(male)
    n_called, n_het = np.zeros(n_samples, dtype=np.int64), np.zeros(n_samples, dtype=np.int64)
    expected = np.zeros(n_samples)
    for dosage in blocks:
        _check(dosage, n_samples)
        called, het, two = dosage >= 0, dosage == 1, dosage == 2  # (V, N)
        n_alleles = 2 * called[:, ~male].sum(axis=1) + (called & ~het)[:, male].sum(axis=1)
        n_counted = (
            het[:, ~male].sum(axis=1) + 2 * two[:, ~male].sum(axis=1) + two[:, male].sum(axis=1)
        )
        p = n_counted / np.maximum(n_alleles, 1)  # (V,)
        polymorphic = (p > 0) & (p < 1)
        n_called += called[polymorphic].sum(axis=0)
        n_het += het.sum(axis=0)
        expected += 2 * p * (1 - p) @ called.astype(np.float64)
    f = _inbreeding(n_het, expected)
    f[n_called < min_variants] = np.nan
    return f


def genetic_sex(f: ArrayLike) -> NDArray[np.int8]:
    """Sex from the F of X: female below `MAX_FEMALE_F`, male above `MIN_MALE_F`.

    Parameters
    ----------
    f : (n_samples,)
        From `x_inbreeding`.

    Returns
    -------
    int8, (n_samples,)
        1 male, 2 female, 0 between or NaN.

    Examples
    --------
    >>> genetic_sex([0.95, -0.1, 0.5, float("nan")])
    array([1, 2, 0, 0], dtype=int8)
    """
    values = np.asarray(f, dtype=np.float64)
    return np.select([values > MIN_MALE_F, values < MAX_FEMALE_F], [1, 2], 0).astype(np.int8)


def robust_deviation(values: ArrayLike) -> NDArray[np.float64]:
    """Distance from the median in robust standard deviations, where these say something.

    Parameters
    ----------
    values : (n_samples,)
        NaN where missing.

    Returns
    -------
    float64, (n_samples,)
        NaN where missing; everywhere if fewer than `MIN_PEOPLE` have a value, or more than half of
        them the same.
    """
    deviation = robust_z(values)
    furthest = np.nanmax(np.abs(deviation), initial=0)  # 0 or infinite without spread
    enough = np.isfinite(deviation).sum() >= MIN_PEOPLE
    return deviation if enough and 0 < furthest < math.inf else np.full_like(deviation, np.nan)


def pc_distance(pcs: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Distance of each person from the middle of the cohort, over principal components.

    The root of the summed squares of the robust deviations, a Mahalanobis distance for components
    that are uncorrelated (principal components are). Without outliers its square is about χ² with
    as many degrees of freedom as components.

    Parameters
    ----------
    pcs : (n_samples, n_pcs)
        In any unit; NaN where missing.

    Returns
    -------
    (distance, largest)
        float64 (n_samples,) each, in robust standard deviations: over all components, and along
        the one where the person is furthest out; NaN where `robust_deviation` has none.
    """
    deviation = np.abs(
        np.column_stack([robust_deviation(column) for column in pcs.T])
        if pcs.shape[1]
        else np.full((len(pcs), 1), np.nan)
    )
    usable = ~np.isnan(deviation).all(axis=0)  # a component without spread tells nothing
    if not usable.any():
        return np.full(len(pcs), np.nan), np.full(len(pcs), np.nan)
    deviation = deviation[:, usable]
    return np.sqrt(np.square(deviation).sum(axis=1)), deviation.max(axis=1)


def chance_kinship(n_variants: int) -> float:
    """Kinship that unrelated pairs do not reach by chance.

    Among M common independent variants the kinship of unrelated people varies with a standard
    deviation of 1/√M; `KINSHIP_SDS` of them are allowed for.

    Examples
    --------
    >>> round(chance_kinship(12797), 4)
    0.0442
    """
    return KINSHIP_SDS / math.sqrt(max(1, n_variants))


def n_tile_pairs(n_samples: int) -> int:
    """Number of results that `related_pairs` yields."""
    n_tiles = -(-n_samples // TILE)
    return n_tiles * (n_tiles + 1) // 2


def related_pairs(
    read: Callable[[NDArray[np.int64]], Blocks],
    n_samples: int,
    *,
    min_kinship: float = MIN_KINSHIP,
) -> Iterator[Pairs]:
    """Pairs of relatives by KING-robust, which allows for several ancestries.

    kinship = 1/2 - Σ (g_i - g_j)² / (4 min(h_i, h_j)), over the variants of which both have a
    genotype; h counts a person's heterozygous ones there. With x = g - 1 (0 where missing) and m
    (1 where missing) all of it follows from the products x'x, h'm and m'm, because x² = 1 - h.

    People are taken in tiles of `TILE`, pair by pair, and the genotypes are read once a pair:
    about 0.3 GB in all, and N²/2 · M multiplications, four times that where genotypes are missing.

    Parameters
    ----------
    read
        Given positions of people (increasing), a new iterator over their dosages (n_variants, n);
        the same variants, autosomal, common and not in linkage disequilibrium, each time. At most
        2^24 variants.
    n_samples
        People.
    min_kinship
        Pairs above it are yielded.

    Yields
    ------
    Pairs
        Of two tiles, `n_tile_pairs` times. A pair of which one has no heterozygous genotype has no
        kinship and is left out.

    Raises
    ------
    ValueError
        A block of another number of people.

    References
    ----------
    Manichaikul et al. 2010, doi:10.1093/bioinformatics/btq559.
    """
    tiles = [np.arange(at, min(at + TILE, n_samples)) for at in range(0, n_samples, TILE)]
    for a, left in enumerate(tiles):
        for right in tiles[a:]:
            same = right is left
            people = left if same else np.concatenate([left, right])
            kinship, n_variants = _kinship(read(people), len(left), 0 if same else len(right))
            found = kinship > min_kinship  # NaN is not
            if same:
                found = np.triu(found, 1)
            i, j = np.nonzero(found)
            yield Pairs(left[i], right[j], kinship[i, j], n_variants[i, j].astype(np.int64))


def _kinship(
    blocks: Blocks, n_left: int, n_right: int
) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    """Kinship and number of shared variants, (n_left, n_right); `n_right` 0: left with itself."""
    same = n_right == 0
    shape = (n_left, n_left if same else n_right)
    # float32 counts exactly up to 2^24
    xx, hm, mh, mm = (np.zeros(shape, dtype=np.float32) for _ in range(4))
    n_het, n_missing = (np.zeros(n_left + n_right, dtype=np.float32) for _ in range(2))
    n_total = 0
    for dosage in _gathered(blocks, n_left + n_right):
        missing, het = dosage < 0, dosage == 1  # (V, people)
        n_total += len(dosage)
        n_het += het.sum(axis=0)
        n_missing += missing.sum(axis=0)
        x = np.where(missing, 0, dosage - 1).astype(np.float32)
        x1, x2 = x[:, :n_left], x if same else x[:, n_left:]
        xx += x1.T @ x2
        some = missing.any(axis=1)  # variants of which no genotype is missing need no correction
        if some.any():
            m, h = missing[some].astype(np.float32), het[some].astype(np.float32)
            m1, m2 = m[:, :n_left], m if same else m[:, n_left:]
            h1, h2 = h[:, :n_left], h if same else h[:, n_left:]
            hm += h1.T @ m2
            if not same:
                mh += m1.T @ h2
            mm += m1.T @ m2
    if same:
        mh = hm.T
    here, there = slice(None, n_left), slice(None) if same else slice(n_left, None)
    het1 = n_het[here, None] - hm  # of the left one, where the right one has a genotype too
    het2 = n_het[None, there] - mh
    n_variants = n_total - n_missing[here, None] - n_missing[None, there] + mm
    difference = 2 * n_variants - het1 - het2 - 2 * xx  # Σ (g_i - g_j)²
    fewer = np.minimum(het1, het2).astype(np.float64)
    ratio = np.divide(difference, 4 * fewer, out=np.full(shape, np.nan), where=fewer > 0)
    return 0.5 - ratio, n_variants


def _gathered(blocks: Blocks, n_samples: int) -> Iterator[NDArray[np.int8]]:
    """Blocks joined until they are worth a matrix product."""
    waiting: list[NDArray[np.int8]] = []
    for dosage in blocks:
        _check(dosage, n_samples)
        waiting.append(dosage)
        if sum(map(len, waiting)) >= BLOCK_VARIANTS:
            yield np.concatenate(waiting)
            waiting = []
    if waiting:
        yield np.concatenate(waiting)


def _inbreeding(n_het: NDArray[np.int64], expected: NDArray[np.float64]) -> NDArray[np.float64]:
    """F = (homozygous - expected) / (genotypes - expected); NaN where nothing is expected."""
    f = np.full(len(n_het), np.nan)
    some = expected > 0
    f[some] = 1 - n_het[some] / expected[some]
    return f


def _check(dosage: NDArray[np.int8], n_samples: int) -> None:
    if dosage.ndim != 2 or dosage.shape[1] != n_samples:
        raise ValueError(f"a block of shape {dosage.shape} for {n_samples} people")

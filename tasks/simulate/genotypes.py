"""Genotypes with linkage disequilibrium, populations and families; PLINK 1's packing.

`dosage` is (n_variants, n_samples) int8: copies of the effect allele, −1 where missing.
A haplotype array is (n_variants, 2 n_samples) int8; columns 2i and 2i + 1 belong to sample i.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaincinv, ndtri

from axoloci.errors import InputError

# Lengths of chromosomes 1–22 in megabases, GRCh38.
AUTOSOME_MB = (
    *(249.0, 242.2, 198.3, 190.2, 181.5, 170.8, 159.3, 145.1, 138.4, 133.8, 135.1),
    *(133.3, 114.4, 107.0, 102.0, 90.3, 83.3, 80.4, 58.6, 64.4, 46.7, 50.8),
)
BED_MAGIC = b"\x6c\x1b\x01"  # of a variant-major .bed file
MAX_BLOCK = 10  # variants in one block of linkage disequilibrium
BLOCK_CORRELATION = 0.95  # of the latent normals of neighbours: r² of about 0.6 between them
BLOCK_STEP_BP = 4000  # between neighbours in a block
# Below 5% a variant of 150 people has fewer than 15 copies and no test of it is calibrated.
MAF_RANGE = (0.05, 0.5)
CAUSAL_MAF = 0.3
MAX_CAUSAL_MISSING = 0.05
# Strand-ambiguous pairs (A/T, C/G) are left out, as arrays do.
ALLELE_PAIRS = np.array(
    [list(pair) for pair in ("AC", "AG", "CA", "CT", "GA", "GT", "TC", "TG")], dtype="U1"
)


@dataclass(frozen=True)
class Variants:
    """Coordinates and alleles of the variants, in file order.

    Attributes
    ----------
    chromosome
        (n_variants,) str.
    position
        (n_variants,) base pairs.
    variant_id, effect_allele, other_allele
        (n_variants,) str; `dosage` counts the effect allele.
    """

    chromosome: NDArray[np.str_]
    position: NDArray[np.int64]
    variant_id: NDArray[np.str_]
    effect_allele: NDArray[np.str_]
    other_allele: NDArray[np.str_]

    def __len__(self) -> int:
        """Number of variants."""
        return len(self.position)


def simulate_variants(
    n_variants: int, rng: np.random.Generator
) -> tuple[Variants, NDArray[np.int64]]:
    """Place variants in blocks over the 22 autosomes.

    Blocks of 1 to `MAX_BLOCK` variants, each a few kilobases long, lie at nearly even distances, so
    that at 20,000 variants no two blocks are closer than 250 kb.

    Returns
    -------
    (variants, block)
        The variants by chromosome and position; (n_variants,) number of each one's block.
    """
    length_mb = np.array(AUTOSOME_MB)
    ends = np.round(n_variants * np.cumsum(length_mb) / length_mb.sum()).astype(np.int64)
    counts = np.diff(ends, prepend=0)
    position, block, n_before = [], [], 0
    for count, megabases in zip(counts, AUTOSOME_MB, strict=True):
        if count == 0:
            continue
        sizes = rng.integers(1, MAX_BLOCK + 1, count)
        n_blocks = int(np.searchsorted(np.cumsum(sizes), count)) + 1
        of = np.repeat(np.arange(count), sizes)[:count]  # (count,) block within the chromosome
        within = np.arange(count) - np.searchsorted(of, of)  # (count,) rank within the block
        gap = megabases * 1e6 / n_blocks
        start = gap * (np.arange(n_blocks) + 0.1 + 0.4 * rng.random(n_blocks))
        position.append((start[of] + within * min(BLOCK_STEP_BP, 0.04 * gap)).astype(np.int64))
        block.append(of + n_before)
        n_before += n_blocks
    base_pair = np.concatenate(position)
    chromosome = np.repeat(np.arange(1, 23), counts).astype("U2")
    effect, other = ALLELE_PAIRS[rng.integers(len(ALLELE_PAIRS), size=n_variants)].T
    identity = np.array(
        [
            f"{c}:{p}:{o}:{e}"
            for c, p, o, e in zip(chromosome, base_pair, other, effect, strict=True)
        ]
    )
    return Variants(chromosome, base_pair, identity, effect, other), np.concatenate(block)


def simulate_frequencies(
    block: NDArray[np.int64], n_populations: int, fst: float, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Draw allele frequencies of each population around an ancestral one (Balding and Nichols).

    The variants of a block share their drift, as linked variants do; each one's frequency is
    Beta(p(1 − F)/F, (1 − p)(1 − F)/F) about its ancestral frequency p. DOI 10.1007/BF01441146.

    Returns
    -------
    (n_populations, n_variants) frequencies of the effect allele.
    """
    n_blocks = int(block[-1]) + 1
    base = rng.uniform(*MAF_RANGE, n_blocks)[block]
    ancestral = np.clip(base * np.exp(0.1 * rng.standard_normal(len(block))), *MAF_RANGE)
    if n_populations == 1:
        return np.asarray(ancestral[None], dtype=np.float64)
    quantile = rng.random((n_populations, n_blocks))[:, block]
    spread = (1 - fst) / fst
    drifted = betaincinv(ancestral * spread, (1 - ancestral) * spread, quantile)
    return np.asarray(drifted, dtype=np.float64)


def simulate_haplotypes(
    block: NDArray[np.int64],
    frequency: NDArray[np.float64],
    population: NDArray[np.int64],
    rng: np.random.Generator,
) -> NDArray[np.int8]:
    """Draw haplotypes: linked within a block, independent between blocks.

    An allele is a normal variable below the quantile of its frequency; the normals of a block form
    an autoregressive chain of correlation `BLOCK_CORRELATION`.

    Parameters
    ----------
    block
        (n_variants,) ascending block numbers.
    frequency
        (n_populations, n_variants) frequency of the effect allele.
    population
        (n_samples,) population of each person.

    Returns
    -------
    (n_variants, 2 n_samples) int8, 1 = effect allele.
    """
    n_variants, n_haplotypes = len(block), 2 * len(population)
    threshold = ndtri(frequency).astype(np.float32)  # (n_populations, n_variants)
    of = np.repeat(population, 2)  # (n_haplotypes,)
    within = np.arange(n_variants) - np.searchsorted(block, block)
    haplotypes = np.empty((n_variants, n_haplotypes), dtype=np.int8)
    starts = np.flatnonzero(within == 0)[::500]  # some 2,750 variants in memory at once
    for start, stop in zip(starts, [*starts[1:], n_variants], strict=True):
        normal = rng.standard_normal((stop - start, n_haplotypes), dtype=np.float32)
        for rank in range(1, MAX_BLOCK):
            rows = np.flatnonzero(within[start:stop] == rank)
            normal[rows] *= np.float32(np.sqrt(1 - BLOCK_CORRELATION**2))
            normal[rows] += np.float32(BLOCK_CORRELATION) * normal[rows - 1]
        haplotypes[start:stop] = normal < threshold[of, start:stop].T
    return haplotypes


def transmit(
    parent: NDArray[np.int8], variants: Variants, rng: np.random.Generator
) -> NDArray[np.int8]:
    """Pass one recombined haplotype of a parent on (Haldane's map, 1 cM per megabase).

    Parameters
    ----------
    parent
        (n_variants, 2) haplotypes of one person.

    Returns
    -------
    (n_variants,) int8.
    """
    new_chromosome = np.append(True, variants.chromosome[1:] != variants.chromosome[:-1])
    morgan = np.diff(variants.position, prepend=0) * 1e-8
    recombine = np.where(new_chromosome, 0.5, (1 - np.exp(-2 * np.abs(morgan))) / 2)
    side = np.cumsum(rng.random(len(variants)) < recombine) % 2
    return np.asarray(parent[np.arange(len(variants)), side])


def add_families(
    haplotypes: NDArray[np.int8], variants: Variants, n_families: int, rng: np.random.Generator
) -> NDArray[np.int8]:
    """Turn samples 4f … 4f + 3 into a nuclear family: father, mother and two children.

    Returns
    -------
    (n_variants, 2 n_samples) int8: a copy in which the children carry their parents' haplotypes.
    """
    haplotypes = haplotypes.copy()
    for family in range(n_families):
        column = 8 * family
        for child in (column + 4, column + 6):
            for side, parent in enumerate((column, column + 2)):
                parental = haplotypes[:, parent : parent + 2]
                haplotypes[:, child + side] = transmit(parental, variants, rng)
    return haplotypes


def standardized(dosage: NDArray[np.int8]) -> NDArray[np.float32]:
    """Centre and scale each variant over its called people; missing calls become 0, the mean.

    Returns
    -------
    (n_variants, n_samples) float32; a variant without variation is all 0.
    """
    called = dosage >= 0
    n_called = np.maximum(called.sum(axis=1, keepdims=True), 1)
    mean = np.where(called, dosage, 0).sum(axis=1, keepdims=True) / n_called
    centred = np.where(called, dosage - mean, 0)
    scale = np.sqrt((centred**2).sum(axis=1, keepdims=True) / n_called)
    scaled = np.divide(centred, scale, out=np.zeros_like(centred), where=scale > 0)
    return np.asarray(scaled, dtype=np.float32)


def effect_allele_frequency(dosage: NDArray[np.int8]) -> NDArray[np.float64]:
    """Frequency of the effect allele among the called; 0 where nobody is called."""
    called = dosage >= 0
    copies = np.where(called, dosage, 0).sum(axis=1)
    return np.asarray(copies / np.maximum(2 * called.sum(axis=1), 1), dtype=np.float64)


def leading_pcs(dosage: NDArray[np.int8], n_pcs: int = 10) -> NDArray[np.float64]:
    """Leading principal components of the common variants (Price et al., DOI 10.1038/ng1847).

    Returns
    -------
    (n_samples, n_pcs) of mean 0 and SD 1, each with its sign such that the skew is positive;
    fewer columns if there are fewer people.
    """
    n_samples = dosage.shape[1]
    relatedness = np.zeros((n_samples, n_samples))
    for start in range(0, len(dosage), 4096):
        part = dosage[start : start + 4096]
        frequency = effect_allele_frequency(part)
        scaled = standardized(part[np.minimum(frequency, 1 - frequency) >= MAF_RANGE[0]])
        relatedness += scaled.T @ scaled
    vectors = np.linalg.eigh(relatedness)[1][:, ::-1][:, : min(n_pcs, n_samples - 1)]
    vectors = vectors - vectors.mean(axis=0)
    pcs = vectors / vectors.std(axis=0)
    return np.asarray(pcs * np.where((pcs**3).sum(axis=0) < 0, -1, 1), dtype=np.float64)


def choose_causal(
    dosage: NDArray[np.int8],
    chromosome: NDArray[np.str_],
    pcs: NDArray[np.float64],
    n_loci: int,
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    """Choose causal variants: common, on different autosomes, least correlated with the PCs.

    A variant that follows ancestry loses its power once the test conditions on the PCs, so that
    each chromosome offers only its tenth of the common variants with the smallest R² on them.

    Returns
    -------
    (n_loci,) ascending variant indices.

    Raises
    ------
    InputError
        Fewer autosomes than loci carry a common variant.
    """
    frequency = effect_allele_frequency(dosage)
    common = np.minimum(frequency, 1 - frequency) >= CAUSAL_MAF
    common &= (dosage < 0).mean(axis=1) <= MAX_CAUSAL_MISSING
    pools = []
    for name in map(str, range(1, 23)):
        index = np.flatnonzero(common & (chromosome == name))
        if len(index) == 0:
            continue
        basis = np.linalg.qr(pcs)[0]  # (n_samples, n_pcs) orthonormal
        r2 = ((standardized(dosage[index]) @ basis) ** 2).sum(axis=1) / dosage.shape[1]
        pools.append(index[np.argsort(r2, kind="stable")[: -(-len(index) // 10)]])
    if n_loci > len(pools):
        raise InputError(
            f"{n_loci} loci need as many autosomes with a variant of minor allele frequency "
            f"{CAUSAL_MAF} or more, found {len(pools)}; ask for fewer loci or more variants"
        )
    chosen = rng.choice(len(pools), n_loci, replace=False)
    return np.sort([int(rng.choice(pools[pool])) for pool in chosen]).astype(np.int64)


def pack_bed(dosage: NDArray[np.int8]) -> NDArray[np.uint8]:
    """Pack dosages as the body of a PLINK 1 `.bed` file (variant-major, A1 = effect allele).

    Returns
    -------
    (n_variants, ⌈n_samples / 4⌉) bytes; `BED_MAGIC` precedes them in the file.
    """
    n_variants, n_samples = dosage.shape
    code = np.zeros((n_variants, -(-n_samples // 4) * 4), dtype=np.uint8)
    # PLINK's codes: 00 two copies of A1, 01 missing, 10 one copy, 11 none.
    code[:, :n_samples] = np.array([3, 2, 0, 1], dtype=np.uint8)[dosage]  # −1 takes the last
    quads = code.reshape(n_variants, -1, 4) << np.array([0, 2, 4, 6], dtype=np.uint8)
    return np.asarray(np.bitwise_or.reduce(quads, axis=2), dtype=np.uint8)

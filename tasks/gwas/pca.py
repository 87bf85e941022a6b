"""Principal components of the genotypes, from variants thinned by linkage disequilibrium."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np
from numpy.typing import NDArray
from scipy import linalg

N_PCS = 10
MIN_MAF = 0.01
MAX_MISSING = 0.1  # share of people
MAX_R2 = 0.2
WINDOW = 200  # kept variants before, on the same chromosome, that a variant is compared with
EXACT_SAMPLES = 5000  # up to here: eigenvectors of the whole relationship matrix
N_ITERATIONS = 10  # of the subspace beyond
OVERSAMPLING = 20
BLOCK_VARIANTS = 1024  # in one product

Blocks = Iterable[NDArray[np.int8]]


def standardize(dosage: NDArray[np.int8]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Genotypes as (g - 2p) / sqrt(2p(1-p)), zero where missing.

    Parameters
    ----------
    dosage : (n_variants, n_samples)
        0, 1, 2; negative where missing.

    Returns
    -------
    (standardized, usable)
        float32 (n_variants, n_samples); bool (n_variants,): common and complete enough. The rows of
        variants that are not usable are zero.
    """
    missing = dosage < 0
    n = dosage.shape[1] - missing.sum(axis=1)  # (V,)
    p = np.where(missing, 0, dosage).sum(axis=1) / np.maximum(2 * n, 1)
    usable = (np.minimum(p, 1 - p) >= MIN_MAF) & (n >= (1 - MAX_MISSING) * dosage.shape[1])
    scale = np.where(usable, 1 / np.sqrt(np.maximum(2 * p * (1 - p), 1e-12)), 0)
    standardized = (dosage - (2 * p)[:, None].astype(np.float32)) * scale[:, None].astype(
        np.float32
    )
    standardized[missing] = 0
    return standardized.astype(np.float32), usable


def thin(blocks: Iterable[tuple[str, NDArray[np.int8]]]) -> NDArray[np.bool_]:
    """Choose variants, in file order, none of which has r² above `MAX_R2` with one chosen near it.

    Parameters
    ----------
    blocks
        Chromosome and dosages (n_variants, n_samples) of each block; no block spans chromosomes.

    Returns
    -------
    bool, (all variants,)
    """
    kept: list[NDArray[np.bool_]] = []
    window = np.empty((0, 0), dtype=np.float32)  # rows of unit length, of the variants kept last
    current: str | None = None
    for chromosome, dosage in blocks:
        x, usable = standardize(dosage)
        x -= x.mean(axis=1, keepdims=True)
        x /= np.maximum(np.sqrt(np.square(x).sum(axis=1, keepdims=True)), 1e-12)
        if chromosome != current:
            current, window = chromosome, np.empty((0, x.shape[1]), dtype=np.float32)
        n_before = len(window)
        near = np.concatenate([window, x])
        linked = np.square(x @ near.T) > MAX_R2  # (V, window + V)
        chosen = np.concatenate([np.ones(n_before, dtype=bool), np.zeros(len(x), dtype=bool)])
        recent = list(range(n_before))  # places in `near`
        for v in np.flatnonzero(usable):
            if not linked[v, recent[-WINDOW:]].any():
                chosen[n_before + v] = True
                recent.append(n_before + int(v))
        kept.append(chosen[n_before:])
        window = near[recent[-WINDOW:]]
    return np.concatenate(kept) if kept else np.empty(0, dtype=bool)


def genotype_pcs(
    blocks: Callable[[], Blocks], n_samples: int, n_pcs: int, *, seed: int = 0
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Leading eigenvectors of the genetic relationship matrix.

    Exact up to `EXACT_SAMPLES` people; beyond, randomised subspace iteration, which reads the
    genotypes `N_ITERATIONS` times and holds no people-by-people matrix.

    Parameters
    ----------
    blocks
        A new iterator over dosages (n_variants, n_samples) each time it is called.
    n_samples, n_pcs
        People; components.
    seed
        Of the first subspace.

    Returns
    -------
    (pcs, eigenvalues)
        float64 (n_samples, n_pcs), columns of unit length whose largest entry is positive;
        (n_pcs,), in decreasing order.

    Raises
    ------
    ValueError
        More components than people or than usable variants.

    References
    ----------
    Price et al. 2006, doi:10.1038/ng1847; Halko et al. 2011, doi:10.1137/090771806.
    """
    if not 0 < n_pcs < n_samples:
        raise ValueError(f"{n_pcs} components of {n_samples} people")
    if n_samples <= EXACT_SAMPLES:
        grm = np.zeros((n_samples, n_samples))
        n_variants = 0
        for x in _usable(blocks()):
            grm += x.T @ x
            n_variants += len(x)
        if n_variants:
            values, vectors = linalg.eigh(
                grm / n_variants, subset_by_index=[n_samples - n_pcs, n_samples - 1]
            )
    else:
        rng = np.random.default_rng(seed)
        width = min(n_pcs + OVERSAMPLING, n_samples)
        basis = rng.standard_normal((n_samples, width)).astype(np.float32)
        for _ in range(N_ITERATIONS):
            basis = np.linalg.qr(basis)[0]
            image = np.zeros((n_samples, width))  # the relationship matrix times the basis
            n_variants = 0
            for x in _usable(blocks()):
                image += x.T @ (x @ basis)
                n_variants += len(x)
            image /= max(n_variants, 1)
            small = basis.T @ image
            values, inner = np.linalg.eigh((small + small.T) / 2)
            vectors = basis @ inner[:, -n_pcs:]
            values = values[-n_pcs:]
            basis = image.astype(np.float32)
    if n_variants < n_pcs:
        raise ValueError(f"{n_pcs} components of {n_variants} usable variants")
    pcs = np.asarray(vectors[:, ::-1], dtype=np.float64)
    largest = pcs[np.abs(pcs).argmax(axis=0), np.arange(n_pcs)]
    return pcs * np.sign(largest), np.asarray(values[::-1], dtype=np.float64)


def _usable(blocks: Blocks) -> Iterator[NDArray[np.float32]]:
    """Standardised usable variants, gathered to blocks that are worth a matrix product."""
    gathered: list[NDArray[np.float32]] = []
    for dosage in blocks:
        x, usable = standardize(dosage)
        gathered.append(x[usable])
        if sum(map(len, gathered)) >= BLOCK_VARIANTS:
            yield np.concatenate(gathered)
            gathered = []
    if gathered:
        yield np.concatenate(gathered)

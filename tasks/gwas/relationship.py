"""What heritability needs of the genotypes beside the associations, from the same reading of them.

Let x_j be the genotypes of variant j less what the covariates explain, and A = Σ_j x_j x_j' /
x_j'x_j the relationships of the people, whose trace is the number of variants. Haseman and Elston's
regression needs tr A². Random probes W give it: of each block b of variants A_b W is kept, for
tr A² = E[w'A²w], and that of all blocks but one for its jackknife.

References
----------
Haseman and Elston 1972, doi:10.1007/BF01066731; random probes: Wu and Sankararaman 2018,
doi:10.1093/bioinformatics/bty253.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from axoloci.io.sumstats import Part
from axoloci.tasks.gwas.kernel import Block, Consumer
from axoloci.tasks.gwas.ploidy import Ploidy, ploidy_of

N_PROBES = 8  # as fast as fewer: products come in multiples of 8 columns
N_BLOCKS = 200  # of the jackknife, at most
BLOCK_VARIANTS = 128  # at least, in a block of the jackknife
SEED = 20_260_000


def draw_probes(q: NDArray[np.float64], n_probes: int) -> NDArray[np.float64]:
    """Random signs less what the covariates explain; always the same.

    Parameters
    ----------
    q : (n_samples, n_covariates)
        Orthonormal covariates.
    n_probes
        Columns.

    Returns
    -------
    float64, (n_samples, n_probes)
    """
    signs = np.random.default_rng(SEED).choice([-1.0, 1.0], (len(q), n_probes))
    return np.asarray(signs - q @ (q.T @ signs))


def probe_consumer(probes: NDArray[np.float64]) -> Consumer:
    """Sees of each block how many variants can be tested, and of them Σ_j c_j (c_j'W) / x_j'x_j.

    With c_j the centred genotypes; float32, (n_probes, n_samples). Less what the covariates explain
    it is A_b W.

    Parameters
    ----------
    probes : (n_samples, n_probes)
        From `draw_probes`.
    """

    def see(block: Block) -> tuple[int, NDArray[np.float32]]:
        tested = block.left > 0  # (V,)
        weight = np.divide(1.0, block.left, out=np.zeros(len(tested)), where=tested)
        g = block.centred  # (V, n_samples)
        if isinstance(g, np.ndarray):
            found = (block.products.T * weight.astype(g.dtype)) @ g  # (n_probes, n_samples)
        else:
            found = ((block.products.T * g.new_tensor(weight)) @ g).cpu().numpy()
        return int(tested.sum()), found.astype(np.float32, copy=False)

    return Consumer(probes, see)


def jackknife_cuts(parts: Sequence[Part]) -> NDArray[np.int64]:
    """Variants with which a block of the jackknife begins: of autosomes, of equal sizes.

    Parameters
    ----------
    parts
        All of the study, in the order of the genotypes.

    Returns
    -------
    int64, (n_blocks,)
        Ascending; empty without autosomes.
    """
    autosomal = [part for part in parts if ploidy_of(part.chromosome) is Ploidy.DIPLOID]
    variants = np.concatenate(
        [np.empty(0, np.int64), *(np.arange(part.start, part.stop) for part in autosomal)]
    )
    n_blocks = max(1, min(N_BLOCKS, len(variants) // BLOCK_VARIANTS))
    return variants[np.arange(n_blocks) * len(variants) // n_blocks] if len(variants) else variants


def trace_sums(
    probes: NDArray[np.float64],
    q: NDArray[np.float64],
    read: Callable[[], Iterable[tuple[int, NDArray[Any]]]],
    n_blocks: int,
) -> dict[str, NDArray[np.float64]]:
    """What tr A², and that without each block, follow from.

    Parameters
    ----------
    probes : (n_samples, n_probes)
        From `draw_probes`.
    q : (n_samples, n_covariates)
        Orthonormal covariates.
    read
        Number of a block of the jackknife and what `probe_consumer` saw there, (n_probes,
        n_samples); the pieces of a block follow each other. Called twice.
    n_blocks
        Of the jackknife.

    Returns
    -------
    dict
        float64, by block and probe: `first` w'A_b w, `own` w'A_b²w, `cross` w'A A_b w, each
        (n_blocks, n_probes); and `squares` w'w, (n_probes,).
    """

    def related() -> Iterator[tuple[int, NDArray[np.float64]]]:
        for number, pieces in groupby(read(), key=itemgetter(0)):
            total = np.zeros(probes.T.shape)  # (n_probes, n_samples)
            for _, piece in pieces:
                total += piece
            yield number, total - (total @ q) @ q.T

    whole = np.zeros(probes.T.shape)
    for _, of_block in related():
        whole += of_block
    sums = {name: np.zeros((n_blocks, len(whole))) for name in ("first", "own", "cross")}
    for number, of_block in related():
        for name, other in (("first", probes.T), ("own", of_block), ("cross", whole)):
            sums[name][number] = np.einsum("pn,pn->p", of_block, other)
    return {**sums, "squares": np.square(probes).sum(axis=0)}

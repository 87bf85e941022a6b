"""Statistics of permuted genotypes, the null of MOSTest and minP, from the same reading of them.

Traits and covariates stay together, so that what the traits share among each other is kept, and
what they share with the genotypes is not.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from axoloci.tasks.gwas.kernel import Block, Consumer, NullModel

N_PERMUTED = 20_000
SEED = 20_260_001


def permutation_consumer(model: NullModel, stride: int) -> Consumer:
    """Sees t of all traits with every so many variants, once people are permuted.

    float32, (n_permuted, n_tested), of the columns of `model.y`; NaN where a variant has no result.
    Which variants they are follows from their places alone. A missing genotype counts as the mean,
    and people who lack a trait as any others.

    Parameters
    ----------
    model
        From `fit_null`.
    stride
        One of so many variants is permuted.
    """
    n_samples, n_tested = model.y.shape
    n_factors = n_tested + model.q.shape[1]
    order = np.random.default_rng(SEED).permutation(n_samples)
    n_of_trait = np.concatenate(
        [np.empty(0), *(np.full(len(g.trait_index), g.n_samples) for g in model.groups)]
    )
    df = n_of_trait - model.q.shape[1] - 1  # (n_tested,)
    squares_of_trait = n_of_trait * (n_of_trait / n_samples)  # y'y, of as many of the genotypes

    def see(block: Block) -> NDArray[np.float32]:
        chosen = np.flatnonzero(block.rows % stride == 0)
        g = block.centred[chosen][:, order]  # (v, n_samples)
        products, squares = g @ block.factors[:, :n_factors], (g * g).sum(1)
        if not isinstance(g, np.ndarray):
            products, squares = products.cpu().numpy(), squares.cpu().numpy()
        left = squares - np.square(products[:, n_tested:]).sum(axis=1)  # (v,)
        left = np.where(block.left[chosen] > 0, left, np.nan)
        r = products[:, :n_tested] / np.sqrt(np.outer(left, squares_of_trait))
        return np.asarray(r * np.sqrt(df / (1 - r * r)), dtype=np.float32)

    return Consumer(np.empty((n_samples, 0)), see)

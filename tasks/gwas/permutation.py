"""Statistics of permuted genotypes, the null of MOSTest and minP, from the same reading of them.

Traits and covariates stay together, so that what the traits share among each other is kept, and
what they share with the genotypes is not.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from axoloci.tasks.gwas.kernel import Block, Consumer, NullModel

N_PERMUTED = 20_000
SEED = 20_260_001


def permutation_consumer(model: NullModel, stride: int) -> Consumer:
    """Sees t of all traits with every so many variants of a block, once people are permuted.

    float32, (n_permuted, n_tested), of the columns of `model.y`; variants without a result are left
    out. A missing genotype counts as the mean.

    Parameters
    ----------
    model
        From `fit_null`.
    stride
        One of so many variants of a block is permuted.
    """
    n_samples, n_tested = model.y.shape
    # traits and covariates in another order of the people: the same as genotypes in another one
    order = np.random.default_rng(SEED).permutation(n_samples)
    factors = np.concatenate([model.y, model.q], axis=1)[order]  # (n_samples, K + C)
    n_of_trait = np.concatenate(
        [np.empty(0), *(np.full(len(g.trait_index), g.n_samples) for g in model.groups)]
    )
    df = n_of_trait - model.q.shape[1] - 1  # (n_tested,)
    on_device: dict[str, Any] = {}

    def see(block: Block) -> NDArray[np.float32]:
        rows = np.arange(0, len(block.left), stride)
        some = block.centred[rows[block.left[rows] > 0]]  # (v, n_samples)
        is_numpy = isinstance(some, np.ndarray)
        device = "" if is_numpy else str(some.device)
        if device not in on_device:
            own = factors.astype(some.dtype) if is_numpy else some.new_tensor(factors)
            on_device[device] = own
        products, squares = some @ on_device[device], (some * some).sum(1)
        if not is_numpy:
            products, squares = products.cpu().numpy(), squares.cpu().numpy()
        left = squares - np.square(products[:, n_tested:]).sum(axis=1)  # (v,)
        r = products[:, :n_tested] / np.sqrt(np.outer(left, n_of_trait))  # y'y = n
        return np.asarray(r * np.sqrt(df / (1 - r * r)), dtype=np.float32)

    return Consumer(np.empty((n_samples, 0)), see)

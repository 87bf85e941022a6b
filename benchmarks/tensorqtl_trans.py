"""tensorQTL's trans mapping of genotypes in memory, on one thread; `gwas.py` says what for.

Run by the Python of an environment that has tensorQTL:
`python tensorqtl_trans.py GENOTYPES.npy TRAITS.tsv COVARIATES.tsv N_VARIANTS`. The rows of the
genotypes are repeated. All results come back as tables in memory; nothing is written.
"""

from __future__ import annotations

import sys

import numpy as np
import pandas as pd
import torch
from tensorqtl import trans

BATCH = 250  # variants that fit the caches: up to twice as fast as with its own 20,000


def main(genotypes: str, traits: str, covariates: str, n_variants: int) -> None:
    torch.set_num_threads(1)
    trait, covariate = (pd.read_csv(path, sep="\t", index_col=0) for path in (traits, covariates))
    drawn = np.load(genotypes)  # (n_drawn, n_samples)
    dosage = np.tile(drawn, (-(-n_variants // len(drawn)), 1))[:n_variants]
    frame = pd.DataFrame(dosage, [f"rs{i}" for i in range(n_variants)], columns=trait.index)
    p, beta, se, frequency = trans.map_trans(
        *(frame, trait.T, covariate),
        return_sparse=False,
        maf_threshold=0,
        batch_size=BATCH,
        verbose=False,
    )
    assert p.shape == beta.shape == se.shape == (n_variants, trait.shape[1])
    assert len(frequency) == n_variants


if __name__ == "__main__":
    dosage, trait, covariate, count = sys.argv[1:]
    main(dosage, trait, covariate, int(count))

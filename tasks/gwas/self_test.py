"""`axoloci-gwas --self-test`: the regression against ordinary least squares."""

from __future__ import annotations

import numpy as np

from axoloci.tasks.gwas.kernel import associate, fit_null


def self_test() -> None:
    """Compare effects and standard errors of 20 variants on 3 traits, some genotypes missing."""
    rng = np.random.default_rng(0)
    dosage = rng.binomial(2, 0.3, (20, 200)).astype(np.int8)  # (n_variants, n_samples)
    covariates = np.column_stack([np.ones(200), rng.normal(size=(200, 2))])
    traits = rng.normal(size=(200, 3)) + 0.5 * dosage[:3].T
    dosage[10:, :7] = -9
    (found,) = associate([dosage], fit_null(traits, covariates), precision="float64")
    for variant, calls in enumerate(dosage):
        known = calls >= 0
        design = np.column_stack([calls, covariates])[known]
        beta, rss, *_ = np.linalg.lstsq(design, traits[known], rcond=None)
        inverse = np.linalg.inv(design.T @ design)
        se = np.sqrt(inverse[0, 0] * rss / (known.sum() - design.shape[1]))
        assert np.allclose(found.beta[variant], beta[0], rtol=1e-6), f"effect of variant {variant}"
        assert np.allclose(found.se[variant], se, rtol=1e-6), f"standard error of {variant}"

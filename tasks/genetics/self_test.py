"""`axoloci-genetics --self-test`: the joint test against the regression of the variant."""

from __future__ import annotations

import numpy as np

from axoloci.joint_test import joint_test, whiten_traits


def self_test() -> None:
    """Compare R² of 5 variants with 4 correlated traits with that of the reversed regression."""
    rng = np.random.default_rng(0)
    g = rng.binomial(2, 0.3, (150, 5)).astype(np.float64)  # (n_samples, n_variants)
    y = rng.normal(size=(150, 4)) @ rng.normal(size=(4, 4)) + g[:, :1]
    g, y = g - g.mean(axis=0), y - y.mean(axis=0)
    gg, yy = np.square(g).sum(axis=0), np.square(y).sum(axis=0)
    beta = g.T @ y / gg[:, None]
    df = 150 - 2
    se = np.sqrt((yy - beta**2 * gg[:, None]) / df / gg[:, None])
    correlation = y.T @ y / np.sqrt(np.outer(yy, yy))
    whitening = whiten_traits(correlation, ["a", "b", "c", "d"])
    found = joint_test(beta, se, np.full(beta.shape, df), df, whitening)
    explained = y @ np.linalg.lstsq(y, g, rcond=None)[0]
    truth = np.square(explained).sum(axis=0) / gg
    assert np.allclose(found.r2, truth, rtol=1e-9), f"R² {found.r2} instead of {truth}"

"""`axoloci-dti --self-test`: a tensor whose FA and mean diffusivity are known."""

from __future__ import annotations

import numpy as np

from axoloci.tasks.dti.kernel import fit_tensor


def self_test() -> None:
    """Fit the signal of a tensor with eigenvalues 1.7, 0.3 and 0.3 µm²/ms."""
    values = np.array([1.7e-3, 0.3e-3, 0.3e-3])  # mm²/s along x, y, z
    half = np.sqrt(0.5)
    axes = np.vstack([np.eye(3), half * np.array([[1, 1, 0], [1, 0, 1], [0, 1, 1]])])
    bvec = np.vstack([np.zeros(3), axes, axes * [-1, 1, 1]])  # (13, 3)
    bval = np.where(bvec.any(axis=1), 1000.0, 0.0)
    signal = 1000 * np.exp(-bval * (bvec**2 @ values))  # (13,)
    dwi = np.tile(signal, (2, 2, 2, 1)).astype(np.float32)
    maps = fit_tensor(dwi, bval, bvec, np.ones((2, 2, 2), dtype=bool))
    fa = 1.4 / np.sqrt(1.7**2 + 2 * 0.3**2)  # of λ₂ = λ₃: (λ₁ − λ₂) / √(λ₁² + 2λ₂²)
    assert np.allclose(maps.fa, fa, atol=1e-4), f"FA {maps.fa.max():.4f} instead of {fa:.4f}"
    assert np.allclose(maps.md, values.mean(), rtol=1e-3), "mean diffusivity"

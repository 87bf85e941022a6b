"""`axoloci-simulate --self-test`: the signal of a simulated scan by its definition."""

from __future__ import annotations

import numpy as np

from axoloci.tasks.simulate.anatomy import COLUMN, ROW, TWICE, phantom
from axoloci.tasks.simulate.kernel import Protocol, simulate_scan


def self_test() -> None:
    """Scan a phantom of 16 mm voxels without motion and noise, and fit its tensors again."""
    anatomy = phantom(16.0)
    half = np.sqrt(0.5)
    axes = np.vstack([np.eye(3), half * np.array([[1, 1, 0], [1, 0, 1], [0, 1, 1]])])
    gradient = np.vstack([np.zeros(3), axes])  # (7, 3)
    bval = np.where(gradient.any(axis=1), 1000.0, 0.0)
    protocol = Protocol(bval, gradient, np.inf, 0.0, 0.0, 0.0)
    none = np.zeros(len(anatomy.names))
    dwi = simulate_scan(anatomy, none, protocol, np.random.SeedSequence(0)).dwi
    brain = anatomy.s0[::2, ::2, ::2] > 0
    decay = np.log(dwi[brain][:, :1] / dwi[brain][:, 1:]) / 1000  # (n, 6) of gᵀDg
    tensor = np.linalg.solve(axes[:, ROW] * axes[:, COLUMN] * TWICE, decay.T).T
    truth = anatomy.tensor[::2, ::2, ::2][brain]
    assert np.allclose(tensor, truth, atol=1e-8), "tensors are not those of the phantom"
    assert np.allclose(dwi[brain][:, 0], anatomy.s0[::2, ::2, ::2][brain]), "signal at b = 0"

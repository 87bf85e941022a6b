"""Predictions of a volume from the others of its shell."""

from __future__ import annotations

import numpy as np

from axoloci.tasks.preprocess.prediction import prediction_weights
from axoloci.tasks.simulate import scan


def test_prediction_weights__recover_a_second_order_signal() -> None:
    """A contrast gᵀMg of the direction is predicted far better than by the others' mean."""
    _, directions = scan.gradient_scheme(20, 0, 1000.0)
    weights = prediction_weights(directions)
    assert np.allclose(np.diag(weights), 0)
    assert np.allclose(weights.sum(axis=1), 1, atol=1e-3)
    matrix = np.diag([1.0, -0.5, 0.2])
    value = 5 + np.einsum("gi,ij,gj->g", directions, matrix, directions)
    mean = (value.sum() - value) / (len(value) - 1)
    assert np.std(weights @ value - value) < 0.2 * np.std(mean - value)


def test_prediction_weights__b0s_are_predicted_by_their_mean() -> None:
    weights = prediction_weights(np.zeros((4, 3)))
    assert np.allclose(weights, (1 - np.eye(4)) / 3, atol=1e-3)

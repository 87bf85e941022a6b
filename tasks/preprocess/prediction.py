"""What the other volumes of a shell predict for each one."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

MIN_VOLUMES = 8
"""Volumes of a shell below which they do not predict each other well enough."""

NOISE_VARIANCE = 0.5
"""Of the signal's change with direction, in its prediction: larger values tend to the mean."""

FREE_MEAN = 1e3
"""Prior variance of the mean signal, against 1 for its change with direction."""


def prediction_weights(bvec: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weights (n, n) by which the other volumes of a shell predict each one.

    A Gaussian process over the sphere (doi:10.1016/j.neuroimage.2015.07.067) whose covariance has
    a free mean and the second-order harmonics: a tissue's contrast changes with the direction, and
    against the plain mean of the others that would look like motion. Without directions, and with
    few of them, the weights tend to the mean.

    Parameters
    ----------
    bvec
        (n, 3) unit vectors, n > 1; all 0 for b0s.
    """
    cosine = bvec @ bvec.T
    covariance = FREE_MEAN + 0.5 * (3 * cosine**2 - 1)  # Legendre's second polynomial
    weights = np.zeros_like(covariance)
    for v in range(len(bvec)):
        others = np.arange(len(bvec)) != v
        known = covariance[np.ix_(others, others)] + NOISE_VARIANCE * np.eye(len(bvec) - 1)
        weights[v, others] = np.linalg.solve(known, covariance[others, v])
    return weights

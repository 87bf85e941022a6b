"""How good a representation is: reconstruction, stability, repeatability, what covariates explain.

Latents come as (n_samples, n_latents) arrays whose rows are people.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from axoloci.errors import InputError

DEPENDENT = 1e-10  # of the largest singular value: a column below it is a mixture of others


def canonical_correlations(x: ArrayLike, y: ArrayLike) -> NDArray[np.float64]:
    """Correlations of the best matching mixtures of two sets of variables, largest first.

    Two latent spaces that differ by a rotation, a scale or a shift have all of them 1.

    Parameters
    ----------
    x, y
        [float, shape: (n_samples, p)], [float, shape: (n_samples, q)] Of the same people.

    Returns
    -------
    [float64, shape: (min(rank of x, rank of y),)]

    Raises
    ------
    InputError
        Too few people: with n_samples - 1 variables in both together any sets match.

    References
    ----------
    Hotelling 1936, doi:10.1093/biomet/28.3-4.321; by QR and SVD, Björck and Golub 1973,
    doi:10.1090/S0025-5718-1973-0348991-3.
    """
    sides = [_orthonormal(values) for values in (x, y)]  # (n, rank) each
    n, ranks = len(sides[0]), sum(side.shape[1] for side in sides)
    if len(sides[1]) != n:
        raise ValueError(f"{n} and {len(sides[1])} people")
    if ranks >= n - 1:
        raise InputError(
            f"{n} people are too few to compare {' and '.join(str(s.shape[1]) for s in sides)} "
            f"latents: any would match; at least {ranks + 2} are needed"
        )
    return np.linalg.svd(sides[0].T @ sides[1], compute_uv=False).clip(0, 1)


def _orthonormal(values: ArrayLike) -> NDArray[np.float64]:
    """Orthonormal columns (n, rank) that span the centred ones of an array (n, p)."""
    centred = np.asarray(values, dtype=np.float64)
    centred = centred - centred.mean(axis=0)
    # of one length, so that a latent's unit does not decide
    centred /= np.maximum(np.linalg.norm(centred, axis=0), np.finfo(np.float64).tiny)
    left, singular, _ = np.linalg.svd(centred, full_matrices=False)
    return np.asarray(left[:, singular > DEPENDENT * max(singular[0], 1e-300)])


def intraclass_correlation(first: ArrayLike, second: ArrayLike) -> NDArray[np.float64]:
    """Agreement of two sessions of the same people: ICC(2,1) of each latent.

    Two-way random effects, absolute agreement, single measurement: a shift between the sessions,
    as of another scanner, counts against it.

    Parameters
    ----------
    first, second
        [float, shape: (n_samples, n_latents)] One session of each person.

    Returns
    -------
    [float64, shape: (n_latents,)] 1 where sessions agree, 0 where they are like other people's.

    Raises
    ------
    InputError
        Fewer than three people.

    References
    ----------
    Shrout and Fleiss 1979, doi:10.1037/0033-2909.86.2.420.
    """
    sessions = np.stack([np.asarray(s, dtype=np.float64) for s in (first, second)], axis=1)
    n, k, _ = sessions.shape  # (n, 2, n_latents)
    if n < 3:
        raise InputError(f"{n} people with two sessions; at least 3 are needed")
    grand = sessions.mean(axis=(0, 1))
    people, session = sessions.mean(axis=1), sessions.mean(axis=0)  # (n, K), (2, K)
    between = k * ((people - grand) ** 2).sum(axis=0) / (n - 1)
    shift = n * ((session - grand) ** 2).sum(axis=0) / (k - 1)
    rest = sessions - people[:, None] - session + grand
    error = (rest**2).sum(axis=(0, 1)) / ((n - 1) * (k - 1))
    return np.asarray(
        (between - error) / (between + (k - 1) * error + k * (shift - error) / n), dtype=np.float64
    )


def variance_explained(latents: ArrayLike, covariates: ArrayLike) -> NDArray[np.float64]:
    """Share of each latent's variance that covariates explain: adjusted R² of its regression.

    Parameters
    ----------
    latents
        [float, shape: (n_samples, n_latents)]
    covariates
        [float, shape: (n_samples, p)] Without an intercept, which is added.

    Returns
    -------
    [float64, shape: (n_latents,)] Around 0, and below it by chance, where they explain nothing.

    Raises
    ------
    InputError
        As many covariates as people.
    """
    y = np.asarray(latents, dtype=np.float64)
    y = y - y.mean(axis=0)
    basis = _orthonormal(covariates)  # (n, p)
    n, p = basis.shape
    if n - p - 1 < 1:
        raise InputError(f"{p} covariates of {n} people leave no degrees of freedom")
    unexplained = 1 - ((basis.T @ y) ** 2).sum(axis=0) / (y**2).sum(axis=0)
    return np.asarray(1 - unexplained * (n - 1) / (n - p - 1), dtype=np.float64)

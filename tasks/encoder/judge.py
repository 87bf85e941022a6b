"""How good a representation is: reconstruction, stability, repeatability, what covariates explain.

Latents come as (n_samples, n_latents) arrays whose rows are people.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from axoloci.errors import InputError

FEWEST_PEOPLE = 20  # more than the variables of a figure: of a correlation over fewer people the
# standard error is up to a quarter, and a figure says little
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
        Fewer than `FEWEST_PEOPLE` people more than variables in both sets together: with one more
        any sets match.

    References
    ----------
    Hotelling 1936, doi:10.1093/biomet/28.3-4.321; by QR and SVD, Björck and Golub 1973,
    doi:10.1090/S0025-5718-1973-0348991-3.
    """
    (n, p), (n_other, q) = np.shape(x), np.shape(y)
    if n_other != n:
        raise ValueError(f"{n} and {n_other} people")
    _demand(n, p + q, f"to compare {p} and {q} latents")
    return np.linalg.svd(_orthonormal(x).T @ _orthonormal(y), compute_uv=False).clip(0, 1)


def correlation_by_chance(n_samples: int, p: int, q: int) -> float:
    """Root mean square of the canonical correlations of sets that have nothing in common.

    Of any sets of full rank, over all ways in which the people of one can be shuffled.

    Parameters
    ----------
    n_samples
        People.
    p, q
        Variables in each set.

    >>> round(correlation_by_chance(276, 128, 128), 2)
    0.68
    """
    return float(np.sqrt(max(p, q) / (n_samples - 1)))


def _demand(n: int, n_variables: int, for_what: str) -> None:
    """Refuse too few people for a figure with so many variables."""
    if n < n_variables + FEWEST_PEOPLE:
        raise InputError(
            f"{n} people are too few {for_what}; at least {n_variables + FEWEST_PEOPLE} are needed"
        )


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
        Fewer than `FEWEST_PEOPLE` people.

    References
    ----------
    Shrout and Fleiss 1979, doi:10.1037/0033-2909.86.2.420.
    """
    sessions = np.stack([np.asarray(s, dtype=np.float64) for s in (first, second)], axis=1)
    n, k, _ = sessions.shape  # (n, 2, n_latents)
    _demand(n, 0, "with two sessions to tell how far these agree")
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
        Fewer than `FEWEST_PEOPLE` people more than covariates.
    """
    n, n_covariates = np.shape(covariates)
    _demand(n, n_covariates, f"to tell what {n_covariates} covariates explain")
    y = np.asarray(latents, dtype=np.float64)
    y = y - y.mean(axis=0)
    basis = _orthonormal(covariates)  # (n, rank)
    unexplained = 1 - ((basis.T @ y) ** 2).sum(axis=0) / (y**2).sum(axis=0)
    return np.asarray(1 - unexplained * (n - 1) / (n - basis.shape[1] - 1), dtype=np.float64)

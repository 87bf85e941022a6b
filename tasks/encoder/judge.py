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
CONSTANT = 1e-12  # of a column's norm: what subtracting the mean leaves below it is rounding


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
        Fewer than `FEWEST_PEOPLE` people more than the ranks of both sets together: with one more
        any sets match.

    References
    ----------
    Hotelling 1936, doi:10.1093/biomet/28.3-4.321; by QR and SVD, Björck and Golub 1973,
    doi:10.1090/S0025-5718-1973-0348991-3.
    """
    one, other = _orthonormal(x), _orthonormal(y)  # (n, rank of x), (n, rank of y)
    (n, p), (n_other, q) = one.shape, other.shape
    if n_other != n:
        raise ValueError(f"{n} and {n_other} people")
    _demand(n, p + q, f"to compare {p} and {q} latents")
    return np.linalg.svd(one.T @ other, compute_uv=False).clip(0, 1)


def root_mean_square(correlations: ArrayLike) -> float:
    """Of canonical correlations, how alike two sets are in one number; NaN of none.

    Not their mean, of which nobody can tell in closed form what it is by chance.
    """
    squares = np.square(correlations)
    return float(np.sqrt(squares.mean())) if squares.size else float("nan")


def correlation_by_chance(x: ArrayLike, y: ArrayLike) -> float:
    """Root mean square of canonical correlations if the sets had nothing in common.

    It is that over all ways in which the people of one set can be shuffled: the squares come to
    rank of x times rank of y, divided by n_samples - 1, whatever the distributions.

    Parameters
    ----------
    x, y
        [float, shape: (n_samples, p)], [float, shape: (n_samples, q)] Of the same people.

    >>> two = np.random.default_rng(0).standard_normal((2, 276, 128))
    >>> round(correlation_by_chance(*two), 2)
    0.68
    """
    one, other = _orthonormal(x), _orthonormal(y)
    return float(np.sqrt(max(one.shape[1], other.shape[1]) / (len(one) - 1)))


def _demand(n: int, n_variables: int, for_what: str) -> None:
    """Refuse too few people for a figure with so many variables."""
    if n < n_variables + FEWEST_PEOPLE:
        raise InputError(
            f"{n} people are too few {for_what}; at least {n_variables + FEWEST_PEOPLE} are needed"
        )


def _orthonormal(values: ArrayLike) -> NDArray[np.float64]:
    """Orthonormal columns (n, rank) that span the centred ones of an array (n, p)."""
    centred = _centred(values)
    # of one length, so that a latent's unit does not decide
    centred /= np.maximum(np.linalg.norm(centred, axis=0), np.finfo(np.float64).tiny)
    left, singular, _ = np.linalg.svd(centred, full_matrices=False)
    return np.asarray(left[:, singular > DEPENDENT * singular.max(initial=1e-300)])


def _centred(values: ArrayLike) -> NDArray[np.float64]:
    """Columns of an array (n, p) less their means; exactly zero where they are constant."""
    columns = np.asarray(values, dtype=np.float64)
    centred = columns - columns.sum(axis=0) / max(1, len(columns))
    left = np.linalg.norm(centred, axis=0)  # (p,)
    centred[:, left <= CONSTANT * np.linalg.norm(columns, axis=0)] = 0
    return np.asarray(centred)


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
    [float64, shape: (n_latents,)] Around 0, and below it by chance, where they explain nothing;
    NaN of a latent that is the same in everybody.

    Raises
    ------
    InputError
        Fewer than `FEWEST_PEOPLE` people more than independent covariates: a level that nobody has,
        or that follows from the others, is none.
    """
    basis = _orthonormal(covariates)  # (n, rank)
    n, rank = basis.shape
    _demand(n, rank, f"to tell what {rank} independent covariates explain")
    y = _centred(latents)  # (n, n_latents)
    total = (y**2).sum(axis=0)  # (n_latents,)
    total[total == 0] = np.nan
    unexplained = 1 - ((basis.T @ y) ** 2).sum(axis=0) / total
    return np.asarray(1 - unexplained * (n - 1) / (n - rank - 1), dtype=np.float64)

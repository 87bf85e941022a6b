"""Traits on covariates alone: what is done once, before any genotype is read."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

RANK_TOLERANCE = 1e-7  # of a covariate that the ones before it leave over


@dataclass(frozen=True)
class TraitGroup:
    """Traits that the same people have.

    Attributes
    ----------
    trait_index : (n_traits,)
        Positions among all traits.
    columns
        Where they are in `NullModel.y`.
    has : bool, (n_samples,)
        Who has them.
    gram : float64, (n_covariates, n_covariates)
        Q'Q over these people; the identity if they are all.
    """

    trait_index: NDArray[np.int64]
    columns: slice
    has: NDArray[np.bool_]
    gram: NDArray[np.float64]

    @cached_property
    def n_samples(self) -> int:
        """People who have these traits."""
        return int(self.has.sum())

    @cached_property
    def is_whole(self) -> bool:
        """Whether everyone has them."""
        return bool(self.has.all())


@dataclass(frozen=True)
class NullModel:
    """Traits adjusted for covariates among the people who have each.

    Attributes
    ----------
    q : float64, (n_samples, n_covariates)
        Orthonormal covariates, that of the intercept first.
    y : float64, (n_samples, n_tested)
        Traits minus what the covariates explain, scaled so that y'y is the number of people who
        have the trait; 0 for those who lack it. Q'y = 0 over all people, therefore.
    scale : float64, (n_tested,)
        y times scale is in units of the trait.
    groups
        Traits by the people who have them; the largest group of people first.
    excluded : dict
        Position of each trait that cannot be tested, and why.
    n_traits
        How many came in.
    """

    q: NDArray[np.float64]
    y: NDArray[np.float64]
    scale: NDArray[np.float64]
    groups: list[TraitGroup]
    excluded: dict[int, str]
    n_traits: int

    @property
    def n_samples(self) -> int:
        """People who came in."""
        return len(self.q)

    @cached_property
    def trait_index(self) -> NDArray[np.int64]:
        """Position among all traits of each column of `y`, (n_tested,)."""
        return np.concatenate([np.empty(0, np.int64), *(g.trait_index for g in self.groups)])

    @property
    def trait_residual_sd(self) -> NDArray[np.float64]:
        """Standard deviation of the adjusted traits, in units of the trait.

        √(residual sum of squares / n), where n counts the people who have the trait; NaN for
        excluded traits. float64, (n_traits,).
        """
        sd = np.full(self.n_traits, np.nan)
        sd[self.trait_index] = self.scale
        return sd


def fit_null(traits: NDArray[np.float64], covariates: NDArray[np.float64]) -> NullModel:
    """Adjust all traits for the covariates, by pattern of missing values.

    Parameters
    ----------
    traits : (n_samples, n_traits)
        NaN where missing.
    covariates : (n_samples, n_covariates)
        Of full rank, the intercept first, none missing.

    Raises
    ------
    ValueError
        Covariates that are missing somewhere or collinear.
    """
    traits = np.asarray(traits, dtype=np.float64)
    covariates = np.asarray(covariates, dtype=np.float64)
    n_samples, n_traits = traits.shape
    n_covariates = covariates.shape[1]
    if len(covariates) != n_samples or not np.isfinite(covariates).all():
        raise ValueError("covariates need a finite value for each person")
    whole_q = _orthonormal(covariates)
    if whole_q is None:
        raise ValueError(f"{n_covariates} covariates of {n_samples} people are collinear")

    present = np.isfinite(traits)
    patterns: dict[bytes, list[int]] = {}
    for k in range(n_traits):
        patterns.setdefault(np.packbits(present[:, k]).tobytes(), []).append(k)

    adjusted = np.zeros((n_samples, n_traits))
    scale = np.full(n_traits, np.nan)
    excluded: dict[int, str] = {}
    found: list[tuple[int, NDArray[np.int64], NDArray[np.bool_]]] = []
    for same in patterns.values():
        members = np.array(same)
        has = present[:, members[0]]
        n = int(has.sum())
        q = whole_q
        if n < n_samples:
            own = _orthonormal(covariates[has]) if n > n_covariates + 1 else None
            if own is None:
                why = (
                    f"{n} people have it, too few for {n_covariates} covariates"
                    if n <= n_covariates + 1
                    else f"the covariates are collinear among the {n} people who have it"
                )
                excluded |= dict.fromkeys(same, why)
                continue
            q = own
        elif n <= n_covariates + 1:
            why = f"{n} people have it, too few for {n_covariates} covariates"
            excluded |= dict.fromkeys(same, why)
            continue
        y = traits[np.ix_(has, members)]
        largest = np.abs(y).max(axis=0)
        y -= y.mean(axis=0)
        spread = np.sqrt(np.square(y).sum(axis=0))
        for _ in range(2):  # twice: the first pass leaves rounding of the size of what it removes
            y -= q @ (q.T @ y)
        length = np.sqrt(np.square(y).sum(axis=0))
        left = length > RANK_TOLERANCE * np.maximum(spread, largest)
        why = "it is constant, or the covariates explain all of it"
        excluded |= {k: why for k, good in zip(same, left, strict=True) if not good}
        if not left.any():
            continue
        index = members[left]
        scale[index] = length[left] / np.sqrt(n)
        adjusted[np.ix_(has, index)] = y[:, left] / scale[index]
        found.append((n, index, has))
    found.sort(key=lambda group: (-group[0], int(group[1][0])))

    groups = []
    start = 0
    for n, index, has in found:
        gram = np.eye(n_covariates) if n == n_samples else whole_q[has].T @ whole_q[has]
        groups.append(TraitGroup(index, slice(start, start + len(index)), has, gram))
        start += len(index)
    order = np.concatenate([np.empty(0, np.int64), *(group.trait_index for group in groups)])
    return NullModel(
        q=whole_q,
        y=np.take(adjusted, order, axis=1),  # in C order, as the regressions take it
        scale=scale[order],
        groups=groups,
        excluded=dict(sorted(excluded.items())),
        n_traits=n_traits,
    )


def untestable(n_samples: int, n_traits: int) -> NullModel:
    """A model of people who are too few to test any trait."""
    return NullModel(
        q=np.zeros((n_samples, 0)),
        y=np.zeros((n_samples, 0)),
        scale=np.zeros(0),
        groups=[],
        excluded=dict.fromkeys(range(n_traits), f"{n_samples} people are too few"),
        n_traits=n_traits,
    )


def _orthonormal(covariates: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """Orthonormal basis of the columns, or None if they are collinear."""
    columns = np.concatenate(
        [covariates[:, :1], covariates[:, 1:] - covariates[:, 1:].mean(0)], axis=1
    )
    length = np.sqrt(np.square(columns).sum(axis=0))
    if (
        not (length > 1e-10 * np.abs(covariates).max(axis=0)).all()
        or len(columns) < columns.shape[1]
    ):
        return None
    q, r = np.linalg.qr(columns / length)
    return None if np.abs(np.diag(r)).min() <= RANK_TOLERANCE else q


def correlation(one: NullModel, other: NullModel) -> NDArray[np.float64]:
    """Correlation of the adjusted traits of two models over the people who have both.

    Parameters
    ----------
    one, other
        Of the same people and covariates; may be the same model.

    Returns
    -------
    float64, (n_tested of one, n_tested of other)
        Of the columns of `NullModel.y`; 0 where no one has both.
    """
    product = one.y.T @ other.y
    # adjusted traits have mean 0, and 0 if missing
    norm = np.sqrt(_squares(one, other) * _squares(other, one).T)
    found: NDArray[np.float64] = np.divide(
        product, norm, out=np.zeros_like(product), where=norm > 0
    )
    if one is other:
        found = (found + found.T) / 2
        np.fill_diagonal(found, 1.0)
    return np.clip(found, -1, 1, out=found)


def _squares(one: NullModel, other: NullModel) -> NDArray[np.float64]:
    """Sum of squares of each trait of one over the people who have each trait of the other."""
    has = np.array([group.has for group in other.groups], dtype=np.float64)  # (n_groups, n_samples)
    of_group = np.repeat(np.arange(len(has)), [len(group.trait_index) for group in other.groups])
    squares: NDArray[np.float64] = np.square(one.y).T @ has.reshape(len(has), len(one.y)).T
    return squares[:, of_group]

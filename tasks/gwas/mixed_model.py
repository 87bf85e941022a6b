"""Mixed models of many traits by products with genotypes alone: no matrix of people by people.

A trait is y = g + e with variances h K and (1 − h) I, up to a scale, where K = X'X / M is the
relationship of the people by M standardised variants. All that is needed of V = h K + (1 − h) I
comes from products K b: the solution of V x = b by conjugate gradients, and b'f(V)b for any f by
the quadrature that Lanczos' method gives, for all h from the same products.

References
----------
Loh et al. 2015, doi:10.1038/ng.3190 (conjugate gradients for V); Ubaru et al. 2017,
doi:10.1137/16M1104974 (quadrature and the determinant); Svishcheva et al. 2012,
doi:10.1038/ng.2410 (GRAMMAR-Gamma).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import linalg, optimize

Product = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""K times the columns of (n_samples, n_columns)."""

TOLERANCE = 1e-5  # of the residual, relative to the right side
MAX_ITERATIONS = 300
N_STEPS = 60  # of Lanczos' method
MIN_H, MAX_H = 0.001, 0.999


def standardize(
    dosage: NDArray[np.int8] | NDArray[np.float32], q: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Genotypes adjusted for covariates, of unit variance; those that are missing at the mean.

    Parameters
    ----------
    dosage : (n_variants, n_samples)
        0 to 2; negative where missing.
    q : (n_samples, n_covariates)
        Orthonormal covariates, intercept included.

    Returns
    -------
    float32, (n_variants that vary, n_samples)
    """
    missing = dosage < 0
    x = np.where(missing, 0, dosage).astype(np.float32)
    n = np.maximum(x.shape[1] - missing.sum(axis=1), 1)  # (V,)
    mean = x.sum(axis=1) / n
    x -= mean[:, None].astype(np.float32)
    x[missing] = 0
    x -= (x @ q) @ q.T
    length = np.sqrt(np.square(x).sum(axis=1, dtype=np.float64))
    varies = length > 1e-3 * np.sqrt(x.shape[1])
    scale = np.sqrt(x.shape[1] - q.shape[1]) / length[varies]
    return np.asarray(x[varies] * scale[:, None].astype(np.float32))


def solve(
    product: Product,
    b: NDArray[np.float32],
    h: NDArray[np.float64],
    *,
    start: NDArray[np.float32] | None = None,
    tolerance: float = TOLERANCE,
) -> NDArray[np.float32]:
    """V⁻¹ b, for each column with its own h, by conjugate gradients.

    Parameters
    ----------
    product
        K times columns.
    b : (n_samples, n_columns)
        Adjusted for the covariates, as K is.
    h : (n_columns,)
        Share of the variance that K explains.
    start : (n_samples, n_columns), optional
        A guess.
    tolerance
        Of the length of b − V x, relative to that of b.

    Raises
    ------
    ArithmeticError
        It does not converge.
    """
    share = h.astype(np.float32)
    length = np.sqrt(_dot(b, b))
    x = np.zeros_like(b) if start is None else start.copy()
    r = b.copy() if start is None else b - (share * product(x) + (1 - share) * x)
    p, squares = r.copy(), _dot(r, r)
    for _ in range(MAX_ITERATIONS):
        if (np.sqrt(squares) <= tolerance * length).all():
            return x
        applied = share * product(p) + (1 - share) * p
        curvature = _dot(p, applied)
        step = np.divide(squares, curvature, out=np.zeros_like(squares), where=curvature > 0)
        x += step.astype(np.float32) * p
        r -= step.astype(np.float32) * applied
        before, squares = squares, _dot(r, r)
        turn = np.divide(squares, before, out=np.zeros_like(squares), where=before > 0)
        p = r + turn.astype(np.float32) * p
    worst = float((np.sqrt(squares) / length).max())
    raise ArithmeticError(
        f"conjugate gradients: after {MAX_ITERATIONS} steps {worst:.1e} of a trait is left"
    )


@dataclass(frozen=True)
class Quadrature:
    """b'f(K)b of some columns: the squared length of b times Σ weight f(node).

    Attributes
    ----------
    nodes, weights : float64, (n_columns, n_steps)
        Weights sum to 1.
    squares : float64, (n_columns,)
        b'b.
    """

    nodes: NDArray[np.float64]
    weights: NDArray[np.float64]
    squares: NDArray[np.float64]

    def inverse(self, h: float | NDArray[np.float64]) -> NDArray[np.float64]:
        """b'V⁻¹b, (n_columns,); `h` one number or one a column."""
        share = np.broadcast_to(np.asarray(h, dtype=np.float64), self.squares.shape)[:, None]
        return np.asarray(
            self.squares * (self.weights / (share * self.nodes + 1 - share)).sum(axis=1)
        )

    def __getitem__(self, columns: Any) -> Quadrature:
        """Of some of the columns."""
        return Quadrature(self.nodes[columns], self.weights[columns], self.squares[columns])

    def log(self, h: float) -> NDArray[np.float64]:
        """b'log(V)b, (n_columns,)."""
        return np.asarray(
            self.squares * (self.weights * np.log(h * self.nodes + 1 - h)).sum(axis=1)
        )


def lanczos(product: Product, b: NDArray[np.float32], n_steps: int = N_STEPS) -> Quadrature:
    """Quadrature of each column by Lanczos' method, all columns side by side.

    Parameters
    ----------
    product
        K times columns.
    b : (n_samples, n_columns)
        Adjusted for the covariates, as K is.
    n_steps
        Products; b'f(K)b is exact for polynomials of degree 2 n_steps − 1.
    """
    n_steps = min(n_steps, len(b) - 1)
    squares = _dot(b, b)
    n_columns = b.shape[1]
    alpha, beta = np.zeros((n_columns, n_steps)), np.zeros((n_columns, n_steps))
    before = np.zeros_like(b)
    q: NDArray[np.float32] = np.asarray(b / np.sqrt(squares), dtype=np.float32)
    length = np.zeros(n_columns)
    for k in range(n_steps):
        z = product(q) - length.astype(np.float32) * before
        alpha[:, k] = _dot(q, z)
        z -= alpha[:, k].astype(np.float32) * q
        length = np.sqrt(_dot(z, z))
        beta[:, k] = length
        before, q = q, np.zeros_like(z)
        np.divide(z, length.astype(np.float32), out=q, where=length > 1e-6)
    nodes, weights = np.zeros_like(alpha), np.zeros_like(alpha)
    for column in range(n_columns):
        values, vectors = linalg.eigh_tridiagonal(alpha[column], beta[column, :-1])
        nodes[column], weights[column] = np.maximum(values, 0), np.square(vectors[0])
    return Quadrature(nodes, weights, squares)


def heritability(traits: Quadrature, probes: Quadrature) -> NDArray[np.float64]:
    """The h of each trait that makes it most probable (REML).

    Parameters
    ----------
    traits, probes
        From `lanczos`; probes are adjusted noise of the people who have the traits.

    Returns
    -------
    float64, (n_traits,)
        Between `MIN_H` and `MAX_H`.
    """

    def log_determinant(h: float) -> float:
        """Of V, for each free dimension."""
        return float((probes.log(h) / probes.squares).mean())

    found = np.empty(len(traits.squares))
    for k in range(len(found)):
        own = traits[k : k + 1]

        def minus_log_likelihood(h: float, own: Quadrature = own) -> float:
            return float(np.log(own.inverse(h)[0])) + log_determinant(h)

        grid = np.array([MIN_H, *np.linspace(0.05, 0.95, 19), MAX_H])
        values = [minus_log_likelihood(float(h)) for h in grid]
        best = int(np.argmin(values))
        low, high = grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)]
        result = optimize.minimize_scalar(
            minus_log_likelihood, bounds=(low, high), method="bounded", options={"xatol": 1e-4}
        )
        found[k] = result.x
    return found


def score_correlation(
    solved: NDArray[np.float32], shared: NDArray[np.float32]
) -> NDArray[np.float64]:
    """Correlation of the statistics of several traits for a variant without an effect.

    The statistic of a trait is x'p, with p = V⁻¹y by its own V. Among people whose relationship is
    K, variants x without an effect have the covariance K, so the statistics have p'Kp. Traits that
    relatives share, and those that they do not, are correlated in other ways: neither y'y nor p'p
    would do.

    Parameters
    ----------
    solved : (n_samples, n_traits)
        p of each trait.
    shared : (n_samples, n_traits)
        K p.

    Returns
    -------
    float64, (n_traits, n_traits)
    """
    covariance = solved.T.astype(np.float64) @ shared.astype(np.float64)  # (T, T)
    covariance = (covariance + covariance.T) / 2
    sd = np.sqrt(np.diag(covariance))
    correlation = covariance / sd / sd[:, None]
    np.fill_diagonal(correlation, 1.0)
    return np.asarray(correlation)


def _dot(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float64]:
    """Column by column, in float64."""
    return np.asarray(np.einsum("nk,nk->k", a, b, dtype=np.float64))

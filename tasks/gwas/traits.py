"""Transformations of traits before the association."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from axoloci.tasks.gwas.null_model import fit_null

BLOM = 3 / 8


def winsorize(traits: NDArray[np.float64], n_sd: float) -> NDArray[np.float64]:
    """Draw values in that are farther from the mean than some standard deviations.

    Parameters
    ----------
    traits : (n_samples, n_traits)
        NaN where missing; a trait of less than two people stays as it is.
    n_sd
        The distance that values are drawn in to, in standard deviations of the trait before.

    Returns
    -------
    float64, (n_samples, n_traits)
    """
    several = np.isfinite(traits).sum(axis=0) > 1
    drawn = traits.copy()
    mean, sd = np.nanmean(traits[:, several], axis=0), np.nanstd(traits[:, several], axis=0, ddof=1)
    drawn[:, several] = np.clip(traits[:, several], mean - n_sd * sd, mean + n_sd * sd)
    return drawn


def rank_normal(traits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Values in the order of the old ones, distributed normally: Blom's scores.

    Parameters
    ----------
    traits : (n_samples, n_traits)
        NaN where missing. Equal values share the mean of their ranks.

    Returns
    -------
    float64, (n_samples, n_traits)
        Φ⁻¹((rank − 3/8) / (n + 1/4)).

    References
    ----------
    Blom 1958, Statistical Estimates and Transformed Beta-Variables; Beasley et al. 2009,
    doi:10.1007/s10519-009-9281-0.
    """
    from scipy import special, stats

    ranks = stats.rankdata(traits, axis=0, nan_policy="omit")
    n = np.isfinite(traits).sum(axis=0)
    scores = special.ndtri((ranks - BLOM) / (n + 1 - 2 * BLOM))
    return np.asarray(np.where(np.isfinite(traits), scores, np.nan))


def residuals(traits: NDArray[np.float64], covariates: NDArray[np.float64]) -> NDArray[np.float64]:
    """What the covariates leave of each trait among the people who have it.

    Parameters
    ----------
    traits : (n_samples, n_traits)
        NaN where missing.
    covariates : (n_samples, n_covariates)
        Of full rank, the intercept first.

    Returns
    -------
    float64, (n_samples, n_traits)
        0 of a trait that is constant, that the covariates explain, or that too few people have.
    """
    model = fit_null(traits, covariates)
    # of a trait that cannot be tested nothing is left: the ranks of rounding would look like one
    left = np.where(np.isfinite(traits), 0.0, np.nan)
    left[:, model.trait_index] += model.y * model.scale
    return left

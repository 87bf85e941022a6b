"""Transformations of traits."""

from __future__ import annotations

import numpy as np
import statsmodels.api as sm
from scipy import stats

from axoloci.tasks.gwas.null_model import fit_null
from axoloci.tasks.gwas.traits import rank_normal, residuals, winsorize


def test_winsorize__draws_in_only_what_is_far() -> None:
    rng = np.random.default_rng(0)
    traits = rng.normal(size=(500, 2))
    traits[3, 0], traits[4, 0], traits[5, 1] = 50, -50, np.nan
    found = winsorize(traits, 4)
    mean, sd = traits[:, 0].mean(), traits[:, 0].std(ddof=1)
    np.testing.assert_allclose(found[3:5, 0], [mean + 4 * sd, mean - 4 * sd])
    near = np.abs(traits - np.nanmean(traits, 0)) <= 4 * np.nanstd(traits, 0, ddof=1)
    np.testing.assert_array_equal(found[near], traits[near])
    assert np.isnan(found[5, 1])
    few = np.array([[np.nan, 7.0], [np.nan, np.nan]])  # no one has the first, one the second
    np.testing.assert_array_equal(winsorize(few, 4), few)


def test_rank_normal__keeps_order_ties_and_what_is_missing() -> None:
    rng = np.random.default_rng(1)
    traits = rng.exponential(size=(1001, 2))
    traits[::10, 1] = np.nan
    traits[1:4, 0] = 0.5
    found = rank_normal(traits)
    np.testing.assert_array_equal(np.isnan(found), np.isnan(traits))
    assert len(set(found[1:4, 0])) == 1
    for k in range(2):
        has = np.isfinite(traits[:, k])
        order = np.argsort(traits[has, k], kind="stable")
        assert (np.diff(found[has, k][order]) >= 0).all()
        assert stats.shapiro(found[has, k]).pvalue > 0.9
    # of three people: ±Φ⁻¹(0.625 / 3.25) and 0
    np.testing.assert_allclose(
        rank_normal(np.array([[7.0], [np.nan], [1.0], [2.0]]))[[0, 2, 3], 0],
        [0.869424, -0.869424, 0],
        atol=1e-6,
    )


def test_residuals__are_those_of_least_squares_among_the_people_who_have_the_trait() -> None:
    rng = np.random.default_rng(2)
    covariates = np.column_stack([np.ones(80), rng.normal(size=(80, 3))])
    traits = rng.normal(size=(80, 3)) + covariates @ rng.normal(size=(4, 3))
    traits[::9, 1] = np.nan
    found = residuals(traits, covariates)
    for k in range(3):
        has = np.isfinite(traits[:, k])
        np.testing.assert_allclose(
            found[has, k], sm.OLS(traits[has, k], covariates[has]).fit().resid
        )
        assert np.isnan(found[~has, k]).all()


def test_residuals__of_nothing_but_rounding_are_0() -> None:
    """Else --rank-normal residuals makes a trait of the ranks of rounding errors."""
    rng = np.random.default_rng(3)
    covariates = np.column_stack([np.ones(300), rng.normal(size=(300, 3))])
    traits = np.column_stack(
        [np.full(300, 5.1), covariates @ [1.0, 2.0, 3.0, 4.0], rng.normal(size=300)]
    )
    traits[::7, 1] = np.nan
    found = residuals(traits, covariates)
    np.testing.assert_array_equal(found[:, :2], np.where(np.isnan(traits[:, :2]), np.nan, 0))
    assert list(fit_null(rank_normal(found), covariates).excluded) == [0, 1]

"""Replication: the composite from correlations is the regression of the composite itself."""

from __future__ import annotations

import numpy as np
import pytest
import statsmodels.api as sm
from numpy.typing import NDArray
from scipy import stats

from axoloci.errors import InputError
from axoloci.tasks.genetics.kernel import partial_correlation
from axoloci.tasks.genetics.replication import combined_correlation, replicate, sign_test


def cohort(n: int, effect: float, seed: int) -> tuple[NDArray, NDArray, NDArray]:
    """Genotype, covariates with the intercept, four correlated traits of which two are changed."""
    rng = np.random.default_rng(seed)
    covariates = np.column_stack([np.ones(n), rng.normal(size=(n, 2))])
    genotype = rng.binomial(2, 0.4, n) + 0.1 * covariates[:, 1]
    traits = rng.normal(size=(n, 4)) @ np.random.default_rng(0).normal(size=(4, 4))
    traits += covariates[:, 1:] @ rng.normal(size=(2, 4))
    traits[:, :2] += effect * genotype[:, None] * np.array([1.0, -2.0])
    return genotype, covariates, traits * (1 + seed)  # each cohort has its own variances


def summary(
    genotype: NDArray, covariates: NDArray, traits: NDArray
) -> tuple[NDArray, NDArray, NDArray, int]:
    """Partial correlations (1, K), correlation and SD of the adjusted traits, df."""
    design = np.column_stack([covariates, genotype])
    fits = [sm.OLS(trait, design).fit() for trait in traits.T]
    beta = np.array([[fit.params[-1] for fit in fits]])
    se = np.array([[fit.bse[-1] for fit in fits]])
    df = int(fits[0].df_resid)
    adjusted = traits - covariates @ np.linalg.lstsq(covariates, traits, rcond=None)[0]
    r = partial_correlation(beta, se, np.full(beta.shape, df))
    return r, np.corrcoef(adjusted.T), adjusted.std(axis=0), df


def test_combined_correlation__is_the_regression_of_the_composite() -> None:
    first, second = cohort(400, 0.4, 1), cohort(300, 0.4, 2)
    r1, c1, s1, _ = summary(*first)
    r2, c2, s2, df = summary(*second)
    r = combined_correlation(r1, c1, s1, r2, c2, s2)
    found = replicate(r, np.array([df]))
    genotype, covariates, traits = second
    composite = traits @ (np.linalg.solve(c1, r1[0]) / s1)
    fit = sm.OLS(composite, np.column_stack([covariates, genotype])).fit()
    expected = -stats.t.logsf(fit.tvalues[-1], df) / np.log(10)
    np.testing.assert_allclose(found.neg_log10_p, [expected], rtol=1e-9)
    assert found.replicated.all()


def test_replicate__one_trait_is_its_one_sided_t_test() -> None:
    r = np.array([[0.2], [-0.2], [0.2]])
    again = np.array([[0.25], [-0.25], [-0.25]])
    one = np.ones((1, 1))
    combined = combined_correlation(r, one, one[0], again, one, one[0])
    found = replicate(combined, np.full(3, 98))
    t = 0.25 * np.sqrt(98 / (1 - 0.25**2))
    p = stats.t.sf(np.array([t, t, -t]), 98)
    np.testing.assert_allclose(found.neg_log10_p, -np.log10(p), rtol=1e-9)
    assert found.replicated.tolist() == [True, True, False]


def test_replicate__null_is_uniform() -> None:
    first = cohort(300, 0.3, 1)
    r1, c1, s1, _ = summary(*first)
    p = []
    for seed in range(2, 302):
        r2, c2, s2, df = summary(*cohort(80, 0.0, seed))
        r = combined_correlation(r1, c1, s1, r2, c2, s2)
        p.append(10 ** -replicate(r, np.array([df])).neg_log10_p[0])
    assert stats.kstest(p, "uniform").pvalue > 0.01


def test_replicate__what_is_absent_is_not_counted() -> None:
    eye, sd = np.eye(2), np.ones(2)
    r = np.array([[0.3, 0.0], [0.3, 0.0]])
    again = np.array([[0.21, 0.0], [np.nan, np.nan]])
    df = np.array([98, np.nan])
    found = replicate(combined_correlation(r, eye, sd, again, eye, sd), df)
    assert np.isnan(found.neg_log10_p).tolist() == [False, True]
    assert found.replicated.tolist() == [True, False]  # the level is not halved: one was tested


def test_combined_correlation__dependent_traits_are_refused() -> None:
    with pytest.raises(InputError, match="linearly dependent"):
        combined_correlation(
            *(np.ones((1, 2)) / 3, np.ones((2, 2)), np.ones(2)),
            *(np.ones((1, 2)) / 3, np.eye(2), np.ones(2)),
        )


def test_sign_test__is_the_binomial_one() -> None:
    assert sign_test(np.array([1.0, 1, 1, np.nan])) == pytest.approx(0.125)
    assert sign_test(np.array([np.nan])) == 1.0

"""Meta-analysis: by hand, by statsmodels, and of stores and text with planted effects."""

from __future__ import annotations

import mpmath
import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.meta_analysis import combine_effects

from axoloci.tasks.genetics.meta import combine_studies


def test_combine_studies__by_hand() -> None:
    """Effects 1, 2 and 4 with standard errors 1, 1/2 and 1: weights 1, 4 and 1."""
    found = combine_studies(np.array([1.0, 2, 4]), np.array([1.0, 0.5, 1]))
    assert found.beta == pytest.approx(13 / 6, abs=1e-14)
    assert found.se == pytest.approx(1 / 6**0.5, abs=1e-14)
    q = (1 - 13 / 6) ** 2 + 4 * (2 - 13 / 6) ** 2 + (4 - 13 / 6) ** 2
    assert found.q == pytest.approx(q, abs=1e-13)
    assert found.i2 == pytest.approx((q - 2) / q, abs=1e-13)
    assert 10**-found.neg_log10_q_p == pytest.approx(np.exp(-q / 2), abs=1e-13)  # χ² with 2 df
    z = 13 / 6 * 6**0.5
    assert 10**-found.neg_log10_p == pytest.approx(2 * stats.norm.sf(z), rel=1e-10)
    assert (found.n_studies, found.tau2) == (3, 0)


def test_combine_studies__random_effects_by_hand() -> None:
    """τ² = (Q − 2) / (6 − 18/6); then weights 1 / (se² + τ²)."""
    found = combine_studies(np.array([1.0, 2, 4]), np.array([1.0, 0.5, 1]), "random")
    tau2 = (found.q - 2) / 3
    weights = 1 / (np.array([1, 0.25, 1]) + tau2)
    assert found.tau2 == pytest.approx(tau2, abs=1e-14)
    assert found.beta == pytest.approx(weights @ [1, 2, 4] / weights.sum(), abs=1e-13)
    assert found.se == pytest.approx(weights.sum() ** -0.5, abs=1e-13)


def test_combine_studies__is_that_of_statsmodels() -> None:
    rng = np.random.default_rng(0)
    beta = rng.normal(0, 2, (5, 3, 4))  # (n_studies, n_variants, n_traits)
    se = rng.uniform(0.2, 2, beta.shape)
    fixed, random = (combine_studies(beta, se, model) for model in ("fixed", "random"))
    for place in np.ndindex(3, 4):
        with np.errstate(invalid="ignore"):  # of variances below 0, see below
            truth = combine_effects(beta[:, *place], se[:, *place] ** 2, method_re="dl")
        of_fixed = truth.mean_effect_fe, truth.sd_eff_w_fe
        # statsmodels does not cut τ² off at 0, DerSimonian and Laird do
        of_random = (truth.mean_effect_re, truth.sd_eff_w_re) if truth.tau2 > 0 else of_fixed
        for found, (mean, sd) in ((fixed, of_fixed), (random, of_random)):
            np.testing.assert_allclose(found.beta[place], mean, rtol=0, atol=1e-10)
            np.testing.assert_allclose(found.se[place], sd, rtol=0, atol=1e-10)
            np.testing.assert_allclose(found.q[place], truth.q, rtol=0, atol=1e-10)
            np.testing.assert_allclose(found.i2[place], max(0, truth.i2), rtol=0, atol=1e-10)
        assert random.tau2[place] == pytest.approx(max(0, truth.tau2), abs=1e-10)
        p = truth.test_homogeneity().pvalue
        assert 10 ** -fixed.neg_log10_q_p[place] == pytest.approx(p, rel=1e-9)
    assert (random.tau2 > 0).any()
    assert (random.tau2 == 0).any()


def test_combine_studies__what_a_study_lacks_does_not_count() -> None:
    beta = np.array([[1.0, 1.0, np.nan, 1.0], [3.0, np.nan, np.nan, 9.0]])
    se = np.array([[1.0, 1.0, np.nan, 1.0], [1.0, 1.0, np.nan, 0.0]])
    for model in ("fixed", "random"):
        found = combine_studies(beta, se, model)
        assert found.n_studies.tolist() == [2, 1, 0, 1]
        assert found.beta[[1, 3]].tolist() == [1, 1]
        assert found.se[[1, 3]].tolist() == [1, 1]
        for of_two in (found.q, found.i2, found.neg_log10_q_p, found.tau2):
            assert np.isfinite(of_two).tolist() == [True, False, False, False]
        assert np.isnan([found.beta[2], found.se[2], found.neg_log10_p[2]]).all()
        assert found.beta[0] == 2


def test_combine_studies__no_p_underflows() -> None:
    n_studies = 6
    beta = np.array([100.0, -100, 100, -100, 100, 90])
    found = combine_studies(beta, np.ones(n_studies))
    with mpmath.workdps(50):
        tail = mpmath.gammainc(2.5, mpmath.mpf(float(found.q)) / 2, regularized=True)
        truth = float(-mpmath.log10(tail))
    assert truth > 5000
    assert found.neg_log10_q_p == pytest.approx(truth, rel=1e-12)
    found = combine_studies(np.full(n_studies, 100.0), np.ones(n_studies))
    assert found.neg_log10_p == pytest.approx(
        -stats.norm.logsf(100 * 6**0.5) / np.log(10), rel=1e-4
    )
    assert (found.i2, found.neg_log10_q_p) == (0, 0)


def test_combine_studies__heterogeneity_is_uniform_without_any() -> None:
    rng = np.random.default_rng(1)
    se = rng.uniform(0.5, 1, (4, 2000))
    found = combine_studies(0.3 + se * rng.normal(size=se.shape), se)
    assert stats.kstest(10**-found.neg_log10_q_p, "uniform").pvalue > 0.01
    z = (found.beta - 0.3) / found.se
    assert stats.kstest(z, "norm").pvalue > 0.01

"""MOSTest and minP against simulation, chi-squared and independent tests."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from axoloci.errors import InputError
from axoloci.tasks.genetics.permutation_tests import fit_min_p, fit_mostest, min_p, mostest

K = 12


@pytest.fixture(scope="module")
def correlation() -> np.ndarray:
    rng = np.random.default_rng(0)
    loadings = rng.normal(size=(K, 2 * K))
    return np.corrcoef(loadings)


def test_fit_mostest__normal_statistics_have_a_chi_squared_null(correlation: np.ndarray) -> None:
    rng = np.random.default_rng(1)
    t = rng.multivariate_normal(np.zeros(K), correlation, 40_000)
    null = fit_mostest(t[:20_000], correlation, variance_kept=1.0)
    assert null.shape * null.scale == pytest.approx(K, rel=0.01)
    assert null.scale == pytest.approx(2, rel=0.05)
    np.testing.assert_allclose(
        null.whitening @ correlation @ null.whitening.T, np.eye(K), atol=1e-10
    )
    found = mostest(t[20_000:], null)
    expected = -stats.chi2(K).logsf(np.square(t[20_000:] @ null.whitening.T).sum(axis=1))
    np.testing.assert_allclose(found, expected / np.log(10), atol=0.15, rtol=0.05)
    assert (found > 2).mean() == pytest.approx(0.01, abs=0.0025)


def test_fit_mostest__raises_small_eigenvalues() -> None:
    correlation = np.corrcoef(np.random.default_rng(2).normal(size=(4, 30)))
    tied = np.block([[correlation, correlation[:, :1]], [correlation[:1], np.ones((1, 1))]])
    t = np.random.default_rng(3).multivariate_normal(np.zeros(5), tied, 2000)
    null = fit_mostest(t, tied)
    raised = np.linalg.eigvalsh(np.linalg.inv(null.whitening.T @ null.whitening))
    assert raised[0] > 0.1  # of traits that are linearly dependent, 0


def test_mostest__is_finite_where_p_is_no_float64(correlation: np.ndarray) -> None:
    t = np.random.default_rng(4).multivariate_normal(np.zeros(K), correlation, 2000)
    null = fit_mostest(t, correlation)
    (found,) = mostest(np.full((1, K), 60.0), null)
    assert 300 < found < np.inf


def test_fit_min_p__independent_tests_count_in_full() -> None:
    t = np.random.default_rng(5).standard_t(50, (20_000, K))
    null = fit_min_p(t, 50)
    assert null.n_effective == pytest.approx(K, rel=0.06)
    observed = np.array([0.5, 2.0, 6.0])
    sidak = -np.log10(-np.expm1(K * np.log1p(-(10.0**-observed))))
    np.testing.assert_allclose(min_p(observed, null), sidak, atol=0.25)


def test_fit_min_p__equal_traits_count_once() -> None:
    t = np.repeat(np.random.default_rng(6).normal(size=(20_000, 1)), K, axis=1)
    assert fit_min_p(t, 1e6).n_effective == pytest.approx(1, rel=0.05)


def test_min_p__has_the_nominal_error(correlation: np.ndarray) -> None:
    t = np.random.default_rng(7).multivariate_normal(np.zeros(K), correlation, 80_000)
    null = fit_min_p(t[:20_000], 1e6)
    observed = -np.log10(2 * stats.norm.sf(np.abs(t[20_000:]).max(axis=1)))
    found = min_p(observed, null)
    for level in (0.05, 0.01):
        low, high = stats.binom.interval(0.9999, len(found), level)
        assert low < (found > -np.log10(level)).sum() < high


def test_min_p__goes_on_smoothly_beyond_float64() -> None:
    null = fit_min_p(np.random.default_rng(8).normal(size=(2000, K)), 1e6)
    below, above = min_p(np.array([299.999, 300.001]), null)
    assert above - below == pytest.approx(0.002 * null.a, rel=1e-3)
    assert min_p(np.array([5000.0]), null) == pytest.approx(above + 4699.999 * null.a, rel=1e-9)
    assert np.isnan(min_p(np.array([np.nan]), null)).all()


def test_fit__too_few_permuted_variants() -> None:
    t = np.zeros((1500, K))
    t[600:, 3] = np.nan
    with pytest.raises(InputError, match=r"600 permuted variants .* --n-permuted"):
        fit_min_p(t, 100)

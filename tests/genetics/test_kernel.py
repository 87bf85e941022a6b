"""The joint test: against regression, mpmath, and planted truth."""

from __future__ import annotations

import mpmath
import numpy as np
import pytest
import statsmodels.api as sm
from numpy.typing import NDArray
from scipy import stats

from axoloci.errors import InputError
from axoloci.joint_test import JointResult, joint_test, neg_log10_p, whiten_traits
from axoloci.tasks.genetics import kernel

Arrays = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]


def associate(
    genotypes: NDArray[np.float64], traits: NDArray[np.float64], covariates: NDArray[np.float64]
) -> Arrays:
    """Textbook regression of each trait on each variant: beta, se (M, K), correlation (K, K)."""
    q = np.linalg.qr(covariates)[0]
    y = traits - q @ (q.T @ traits)  # (N, K)
    g = genotypes - q @ (q.T @ genotypes)  # (N, M)
    gg = np.square(g).sum(axis=0)[:, None]  # (M, 1)
    beta = g.T @ y / gg
    df = len(y) - covariates.shape[1] - 1
    se = np.sqrt((np.square(y).sum(axis=0) - beta**2 * gg) / df / gg)
    return beta, se, cosine(y)


def cosine(y: NDArray[np.float64]) -> NDArray[np.float64]:
    unit = y / np.linalg.norm(y, axis=0)
    return np.asarray(unit.T @ unit)


def study(n: int, m: int, k: int, seed: int) -> Arrays:
    """Genotypes (n, m), correlated traits (n, k), covariates with intercept (n, 4)."""
    rng = np.random.default_rng(seed)
    genotypes = rng.binomial(2, rng.uniform(0.05, 0.5, m), (n, m)).astype(np.float64)
    traits = rng.standard_normal((n, k)) @ rng.standard_normal((k, k))
    covariates = np.column_stack([np.ones(n), rng.standard_normal((n, 3))])
    return genotypes, traits, covariates


def joint(
    genotypes: NDArray[np.float64], traits: NDArray[np.float64], covariates: NDArray[np.float64]
) -> JointResult:
    beta, se, correlation = associate(genotypes, traits, covariates)
    names = [f"t{i}" for i in range(traits.shape[1])]
    return joint_test(
        beta,
        se,
        np.full(beta.shape, len(traits) - covariates.shape[1] - 1),
        len(traits) - covariates.shape[1] - 1,
        whiten_traits(correlation, names),
    )


def test_joint_test__equals_regression_of_genotype_on_covariates_and_traits() -> None:
    genotypes, traits, covariates = study(n=120, m=12, k=6, seed=1)
    traits += 0.8 * genotypes[:, :1]  # one strong signal beside eleven null variants
    result = joint(genotypes, traits, covariates)
    tested = np.eye(10)[4:]  # the six traits, behind four covariates
    for i, g in enumerate(genotypes.T):
        truth = sm.OLS(g, np.column_stack([covariates, traits])).fit().f_test(tested)
        assert result.f[i] == pytest.approx(truth.fvalue, rel=1e-9)
        assert result.neg_log10_p[i] == pytest.approx(-np.log10(truth.pvalue), rel=1e-9)


def test_joint_test__does_not_change_under_an_invertible_remix_of_the_traits() -> None:
    genotypes, traits, covariates = study(n=300, m=50, k=16, seed=2)
    remix = np.random.default_rng(3).standard_normal((16, 16))
    before, after = (
        joint(genotypes, traits, covariates),
        joint(genotypes, traits @ remix, covariates),
    )
    np.testing.assert_allclose(after.neg_log10_p, before.neg_log10_p, rtol=1e-6)
    np.testing.assert_allclose(after.f, before.f, rtol=1e-6)


def test_joint_test__is_calibrated_under_the_null() -> None:
    p = []
    for seed in range(4):  # few people, many traits: where a χ² approximation fails
        genotypes, traits, covariates = study(n=100, m=5000, k=20, seed=10 + seed)
        p.append(10 ** -joint(genotypes, traits, covariates).neg_log10_p)
    # Traits are shared by the variants of a seed, the genotypes are independent given them
    pooled = np.concatenate(p)  # (20000,)
    for level in (0.05, 0.01, 1e-3):
        low, high = stats.binom.ppf([0.0005, 0.9995], pooled.size, level)
        assert low <= (pooled < level).sum() <= high
    assert kernel.lambda_gc(-np.log10(pooled)) == pytest.approx(1, abs=0.05)


def test_joint_test__stays_within_float32_error_on_a_float32_store() -> None:
    genotypes, traits, covariates = study(n=400, m=40, k=8, seed=4)
    beta, se, correlation = associate(genotypes, traits, covariates)
    whitening = whiten_traits(correlation, list("abcdefgh"))
    df = np.full(beta.shape, 395)
    exact = joint_test(beta, se, df, 395, whitening)
    stored = joint_test(beta.astype(np.float32), se.astype(np.float32), df, 395, whitening)
    np.testing.assert_allclose(stored.neg_log10_p, exact.neg_log10_p, rtol=1e-4, atol=1e-6)


def test_joint_test__gives_nan_where_a_trait_was_not_tested() -> None:
    genotypes, traits, covariates = study(n=80, m=3, k=2, seed=5)
    beta, se, correlation = associate(genotypes, traits, covariates)
    beta[1, 0] = se[1, 0] = np.nan
    whitening = whiten_traits(correlation, ["a", "b"])
    result = joint_test(beta, se, np.full(beta.shape, 75), 75, whitening)
    assert np.isfinite(result.neg_log10_p).tolist() == [True, False, True]
    assert not result.too_few.any()


def test_joint_test__leaves_out_variants_that_too_many_people_lack() -> None:
    df = np.repeat([[149], [144], [143], [3], [0]], 8, axis=1)  # 8 (1/df − 1/149) ≤ 0.002: 144
    beta, se = np.full((5, 8), 0.1), np.ones((5, 8))
    result = joint_test(beta, se, df, 149, np.eye(8))
    assert np.isfinite(result.neg_log10_p).tolist() == [True, True, False, False, False]
    assert result.too_few.tolist() == [False, False, True, True, True]


def test_joint_test__is_calibrated_with_missing_genotypes_up_to_that_limit() -> None:
    n, m, k, n_seen = 150, 20_000, 8, 145
    rng = np.random.default_rng(11)
    traits = rng.standard_normal((n, k)) @ rng.standard_normal((k, k))
    traits -= traits.mean(axis=0)
    genotypes = rng.binomial(2, 0.3, (m, n)).astype(np.float64)
    seen = np.argsort(rng.random((m, n)), axis=1) < n_seen  # (M, N), 145 people in each row
    g = (genotypes - (genotypes * seen).sum(axis=1, keepdims=True) / n_seen) * seen
    yy = seen @ traits**2 - (seen @ traits) ** 2 / n_seen  # (M, K) among those who have it
    gg = np.square(g).sum(axis=1, keepdims=True)
    beta, df = g @ traits / gg, n_seen - 2
    se = np.sqrt((yy - beta**2 * gg) / df / gg)
    whitening = whiten_traits(cosine(traits), list("abcdefgh"))
    p = 10 ** -joint_test(beta, se, np.full(beta.shape, df), n - 2, whitening).neg_log10_p
    assert np.isfinite(p).all()
    for level in (0.05, 0.01, 1e-3):
        low, high = stats.binom.ppf([0.0005, 0.9995], m, level)
        assert low <= (p < level).sum() <= high


def test_joint_test__refuses_more_traits_than_people_allow() -> None:
    with pytest.raises(InputError, match="8 traits cannot be tested jointly with 6"):
        joint_test(np.ones((1, 8)), np.ones((1, 8)), np.full((1, 8), 6), 6, np.eye(8))


def test_joint_test__refuses_effects_that_do_not_belong_to_the_correlation() -> None:
    whitening = whiten_traits(np.array([[1, -0.9], [-0.9, 1]]), ["a", "b"])
    with pytest.raises(InputError, match="joint R² above 1"):
        joint_test(np.ones((1, 2)), np.full((1, 2), 0.05), np.full((1, 2), 500), 500, whitening)


def test_whiten_traits__inverts_the_correlation() -> None:
    correlation = cosine(np.random.default_rng(6).standard_normal((30, 7)))
    whitening = whiten_traits(correlation, list("abcdefg"))
    np.testing.assert_allclose(whitening.T @ whitening @ correlation, np.eye(7), atol=1e-10)


def test_whiten_traits__names_linearly_dependent_traits() -> None:
    y = np.random.default_rng(7).standard_normal((50, 4))
    y[:, 3] = y[:, 0] - y[:, 2]
    with pytest.raises(
        InputError, match=r"linearly dependent.*: (?=.*\ba\b)(?=.*\bc\b)(?=.*\bd\b)"
    ):
        whiten_traits(cosine(y), ["a", "unrelated", "c", "d"])


@pytest.mark.parametrize("n_traits", [1, 8, 128, 2048])
@pytest.mark.parametrize("df2", [37, 1000, 50_000])
def test_neg_log10_p__equals_mpmath_far_beyond_underflow(n_traits: int, df2: int) -> None:
    r2 = np.array([1e-6, 0.01, 0.3, 0.9, 1 - 1e-9])
    mpmath.mp.dps = 60
    mpmath.mp.prec = 400
    truth = []
    for value in r2:
        x, a, b = 1 - mpmath.mpf(value), mpmath.mpf(df2) / 2, mpmath.mpf(n_traits) / 2
        if (1 - value) < a / (a + b):  # the tail itself: a series that converges there
            log_front = a * mpmath.log(x) + b * mpmath.log(1 - x) - mpmath.log(a)
            log_beta = mpmath.loggamma(a) + mpmath.loggamma(b) - mpmath.loggamma(a + b)
            series = mpmath.hyp2f1(a + b, 1, a + 1, x, maxterms=10**6)
            log_p = log_front - log_beta + mpmath.log(series)
        else:
            upper = stats.beta.logcdf(value, n_traits / 2, df2 / 2)  # p near 1
            log_p = mpmath.log1p(-mpmath.exp(mpmath.mpf(float(upper))))
        truth.append(float(-log_p / mpmath.log(10)))
    result = neg_log10_p(r2, n_traits, df2)
    np.testing.assert_allclose(result, truth, rtol=1e-9, atol=1e-12)


def test_neg_log10_p__is_the_two_sided_t_test_for_one_trait() -> None:
    t, df = np.array([0.0, 0.5, 2.0, 8.0, -8.0]), 60
    result = neg_log10_p(t**2 / (t**2 + df), 1, df)
    np.testing.assert_allclose(result, -np.log10(2 * stats.t.sf(np.abs(t), df)), rtol=1e-10)


def test_neg_log10_p__does_not_jump_where_logarithms_take_over() -> None:
    r2 = np.linspace(0.3, 0.5, 20_000)
    step = np.diff(neg_log10_p(r2, 64, 3000))  # runs through 250
    assert np.abs(np.diff(step)).max() < 1e-5


def test_lambda_gc__is_the_inflation_of_the_median() -> None:
    chi2 = 1.3 * stats.chi2.ppf(np.linspace(0, 1, 10_001)[1:-1], 1)
    observed = np.append(-np.log10(stats.chi2.sf(chi2, 1)), np.nan)
    assert kernel.lambda_gc(observed) == pytest.approx(1.3, rel=1e-6)

"""Figures by which representations are judged, beside those of statsmodels."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from statsmodels.formula.api import ols
from statsmodels.multivariate.cancorr import CanCorr

from axoloci.errors import InputError
from axoloci.tasks.encoder.judge import (
    canonical_correlations,
    intraclass_correlation,
    variance_explained,
)


def test_canonical_correlations__equal_those_of_statsmodels() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((80, 3))
    y = x @ rng.standard_normal((3, 5)) * 0.5 + rng.standard_normal((80, 5))
    expected = CanCorr(y - y.mean(axis=0), x - x.mean(axis=0)).cancorr
    np.testing.assert_allclose(canonical_correlations(x, y), expected, atol=1e-10)


def test_canonical_correlations__ignore_rotation_scale_shift_and_repeated_columns() -> None:
    rng = np.random.default_rng(1)
    x = rng.standard_normal((60, 4))
    mixed = 3 + x @ rng.standard_normal((4, 4)) * 100
    np.testing.assert_allclose(canonical_correlations(x, mixed), np.ones(4), atol=1e-10)
    twice = np.column_stack((mixed, mixed[:, 0]))
    np.testing.assert_allclose(canonical_correlations(x, twice), np.ones(4), atol=1e-10)
    unlike = canonical_correlations(x, rng.standard_normal((60, 2)))
    assert unlike.shape == (2,)
    assert unlike.max() < 0.6


def test_canonical_correlations__refuse_too_few_people() -> None:
    x = np.random.default_rng(2).standard_normal((9, 8))
    with pytest.raises(InputError, match=r"9 people are too few to compare 4 and 4 .* 10 are"):
        canonical_correlations(x[:, :4], x[:, 4:])


def test_intraclass_correlation__follows_from_statsmodels_analysis_of_variance() -> None:
    rng = np.random.default_rng(3)
    sessions = rng.standard_normal((12, 1)) + 0.6 * rng.standard_normal((12, 2)) + [0, 0.4]
    table = pd.DataFrame(
        [(person, k, sessions[person, k]) for person in range(12) for k in range(2)],
        columns=["person", "session", "latent"],
    )
    anova = sm.stats.anova_lm(ols("latent ~ C(person) + C(session)", table).fit())
    between, shift, error = anova["sum_sq"] / anova["df"]
    expected = (between - error) / (between + error + 2 * (shift - error) / 12)
    found = intraclass_correlation(sessions[:, :1], sessions[:, 1:])
    np.testing.assert_allclose(found, [expected], rtol=1e-10)


def test_intraclass_correlation__is_the_planted_share_of_variance_and_counts_a_shift() -> None:
    rng = np.random.default_rng(3)
    person = rng.standard_normal((20_000, 2))
    noise = rng.standard_normal((2, 20_000, 2)) * [0.5, 1.0]
    found = intraclass_correlation(person + noise[0], person + noise[1])
    np.testing.assert_allclose(found, [0.8, 0.5], atol=0.01)
    moved = intraclass_correlation(person + noise[0], person + noise[1] + 1.0)
    np.testing.assert_allclose(moved, [1 / (1.25 + 0.5), 1 / 2.5], atol=0.01)
    with pytest.raises(InputError, match="2 people with two sessions"):
        intraclass_correlation(person[:2], person[:2])


def test_variance_explained__equals_adjusted_r2_of_statsmodels() -> None:
    rng = np.random.default_rng(4)
    covariates = rng.standard_normal((50, 3))
    latents = covariates @ rng.standard_normal((3, 4)) + rng.standard_normal((50, 4))
    expected = [sm.OLS(y, sm.add_constant(covariates)).fit().rsquared_adj for y in latents.T]
    np.testing.assert_allclose(variance_explained(latents, covariates), expected, atol=1e-12)
    again = np.column_stack((covariates, covariates[:, 0] - covariates[:, 1]))  # says nothing new
    np.testing.assert_allclose(variance_explained(latents, again), expected, atol=1e-12)
    with pytest.raises(InputError, match="4 covariates of 5 people"):
        variance_explained(latents[:5], rng.standard_normal((5, 4)))

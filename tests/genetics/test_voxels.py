"""Effects on voxels from those on components, beside the regression of each voxel."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from axoloci.tasks.genetics import voxels
from axoloci.tasks.genetics.voxels import (
    VoxelScan,
    mixed_voxel_effects,
    own_variances,
    voxel_effects,
    voxel_neg_log10_p,
    voxel_variances,
)

N_PEOPLE, N_VOXELS, N_VARIANTS = 60, 25, 7
Floats = NDArray[np.float64]


@pytest.fixture
def maps() -> Floats:
    """Maps of fewer voxels than people, (n_people, n_voxels)."""
    rng = np.random.default_rng(3)
    return rng.standard_normal((N_PEOPLE, N_VOXELS)) @ rng.standard_normal((N_VOXELS, N_VOXELS))


@pytest.fixture
def covariates() -> Floats:
    rng = np.random.default_rng(4)
    return np.column_stack([np.ones(N_PEOPLE), rng.standard_normal((N_PEOPLE, 3))])


@pytest.fixture
def dosage() -> Floats:
    return np.random.default_rng(5).binomial(2, 0.4, (N_PEOPLE, N_VARIANTS)).astype(np.float64)


def regressed(y: Floats, dosage: Floats, covariates: Floats) -> tuple[Floats, Floats]:
    """Least squares of each column of y on covariates and each variant: beta, se (m, k)."""
    beta, se = np.empty((2, dosage.shape[1], y.shape[1]))
    for row, g in enumerate(dosage.T):
        design = np.column_stack([covariates, g])
        inverse = np.linalg.inv(design.T @ design)
        found = inverse @ design.T @ y
        residual = y - design @ found
        variance = np.square(residual).sum(axis=0) / (len(y) - design.shape[1])
        beta[row], se[row] = found[-1], np.sqrt(inverse[-1, -1] * variance)
    return beta, se


def residual_products(y: Floats, covariates: Floats) -> Floats:
    rest = y - covariates @ np.linalg.lstsq(covariates, y, rcond=None)[0]
    return np.asarray(rest.T @ rest)


@pytest.mark.parametrize(
    ("dtype", "bound"), [(np.float64, 1e-6), (np.float32, 1e-5)], ids=["float64", "store"]
)
def test_voxel_effects__of_all_components_equal_regression_of_each_voxel(
    maps: Floats, dosage: Floats, covariates: Floats, dtype: type, bound: float
) -> None:
    centred = maps - maps.mean(axis=0)
    basis = np.linalg.svd(centred, full_matrices=False)[2]  # (r, n_voxels), all of them
    traits = centred @ basis.T
    beta, se = (each.astype(dtype) for each in regressed(traits, dosage, covariates))
    df = np.full(N_VARIANTS, N_PEOPLE - covariates.shape[1] - 1)
    sums = residual_products(traits, covariates)
    found = voxel_effects(beta, se, df, sums, basis)
    expected = regressed(maps, dosage, covariates)
    assert np.abs(found[0] / found[1] - expected[0] / expected[1]).max() < bound
    np.testing.assert_allclose(found[1], expected[1], rtol=1e-5)


def test_voxel_effects__of_few_components_are_those_of_the_projected_maps(
    maps: Floats, dosage: Floats, covariates: Floats
) -> None:
    centred = maps - maps.mean(axis=0)
    basis = np.linalg.svd(centred, full_matrices=False)[2][:6]
    traits = centred @ basis.T
    sums = residual_products(traits, covariates)
    df = np.full(N_VARIANTS, N_PEOPLE - covariates.shape[1] - 1)
    found = voxel_effects(*regressed(traits, dosage, covariates), df, sums, basis)
    expected = regressed(traits @ basis, dosage, covariates)
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-8, atol=1e-12)
    np.testing.assert_allclose(found[1], expected[1], rtol=1e-8)
    known = voxel_variances(sums, basis)
    np.testing.assert_allclose(known, np.diag(residual_products(traits @ basis, covariates)))
    again = voxel_effects(*regressed(traits, dosage, covariates), df, sums, basis, known)
    np.testing.assert_array_equal(again, found)


def test_own_variances__are_the_residual_sums_of_squares_of_the_voxels(maps: Floats) -> None:
    """Of the people of the components, with the intercept alone: then nothing is approximate."""
    centred = maps - maps.mean(axis=0)
    basis = np.linalg.svd(centred, full_matrices=False)[2][:6]
    traits = centred @ basis.T
    voxel_sd = maps.std(axis=0, ddof=1)
    known = voxel_variances(traits.T @ traits, basis)
    found = own_variances(known, voxel_sd, N_PEOPLE, 1)
    np.testing.assert_allclose(found, np.square(centred).sum(axis=0), rtol=1e-10)
    assert (found > 1.5 * known).mean() > 0.5
    np.testing.assert_array_equal(own_variances(known, voxel_sd / 100, N_PEOPLE, 1), known)


def test_voxel_effects__a_perfect_fit_and_a_variant_without_a_test(maps: Floats) -> None:
    """Rounding must not make a negative variance, and NaN stays NaN."""
    dosage = np.random.default_rng(6).binomial(2, 0.5, (N_PEOPLE, 1)).astype(np.float64)
    ones = np.ones((N_PEOPLE, 1))
    traits = np.column_stack([3 * dosage[:, 0], -2 * dosage[:, 0]])
    beta, se = regressed(traits, dosage, ones)
    df = np.array([N_PEOPLE - 2])
    sums = residual_products(traits, ones)
    effect, error = voxel_effects(beta, 0 * se, df, sums, np.eye(2))
    np.testing.assert_allclose(effect, [[3, -2]])
    np.testing.assert_allclose(error, 0, atol=1e-7)
    effect, error = voxel_effects(beta * np.nan, se, df, sums, np.eye(2))
    assert np.isnan(effect).all()
    assert np.isnan(error).all()


def test_mixed_voxel_effects__have_the_law_of_combined_statistics() -> None:
    """β of traits drawn from their law: those of voxels have the standard errors that are told."""
    rng = np.random.default_rng(7)
    r, n_draws = 4, 20_000
    load = rng.standard_normal((r, r))
    covariance = load @ load.T + np.eye(r)
    sd = np.sqrt(np.diag(covariance))
    basis = rng.standard_normal((r, 6))
    drawn = rng.multivariate_normal(np.zeros(r), covariance, n_draws)
    correlation = covariance / sd / sd[:, None]
    effect, error = mixed_voxel_effects(drawn[:2], np.stack([sd, 2 * sd]), correlation, basis)
    np.testing.assert_allclose(effect, drawn[:2] @ basis)
    np.testing.assert_allclose(error[0], (drawn @ basis).std(axis=0), rtol=0.03)
    np.testing.assert_allclose(error[1], 2 * error[0])
    inflation = np.linspace(1, 9, 6)
    noisy = mixed_voxel_effects(drawn[:2], np.stack([sd, 2 * sd]), correlation, basis, inflation)
    np.testing.assert_array_equal(noisy[0], effect)
    np.testing.assert_allclose(noisy[1], error * np.sqrt(inflation))


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("at_once", [4, 16_384])
@pytest.mark.parametrize("wider", [0.0, 1.2], ids=["projection", "voxel"])
def test_voxel_scan__gives_what_all_products_give(
    maps: Floats,
    covariates: Floats,
    monkeypatch: pytest.MonkeyPatch,
    dtype: type,
    at_once: int,
    wider: float,
) -> None:
    """Of many variants, at a threshold which some pairs are on either side of; one is untested."""
    monkeypatch.setattr(voxels, "AT_ONCE", at_once)
    dosage = np.random.default_rng(8).binomial(2, 0.4, (N_PEOPLE, 300)).astype(np.float64)
    basis = np.linalg.svd(maps - maps.mean(axis=0), full_matrices=False)[2][:6]
    basis[:, 3] = 0  # a voxel that does not vary
    traits = maps @ basis.T
    sums = residual_products(traits, covariates)
    beta, se = (each.astype(dtype) for each in regressed(traits, dosage, covariates))
    beta[5] = se[5] = np.nan
    df = np.full(len(beta), N_PEOPLE - covariates.shape[1] - 1)
    voxel_sd = wider * maps.std(axis=0)
    variances = own_variances(voxel_variances(sums, basis), voxel_sd, N_PEOPLE, 4)
    effect, error = voxel_effects(beta, se, df, sums, basis, variances)
    expected = voxel_neg_log10_p(effect, error, df)
    threshold = float(np.nanquantile(expected, 0.98))
    scan = VoxelScan(sums, basis, variances, 10**-threshold)
    rows = scan.passing(beta, se, df)
    assert set(np.nonzero(expected >= threshold)[0]) <= set(rows.tolist())
    assert 0 < len(rows) < 280  # the others need no product
    found = np.zeros(expected.shape)
    for hits in scan.hits(beta[rows], se[rows], df[rows]):
        found[rows[hits.variant], hits.voxel] = hits.neg_log10_p
        np.testing.assert_allclose(hits.beta, effect[rows[hits.variant], hits.voxel])
        np.testing.assert_allclose(hits.se, error[rows[hits.variant], hits.voxel])
    beyond = np.nan_to_num(expected) >= threshold * (1 - 1e-12)
    np.testing.assert_allclose(found, np.where(beyond, expected, 0.0), rtol=1e-9)
    assert (found[:, 3] == 0).all()

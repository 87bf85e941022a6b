"""The linear representation beside dense matrices, scipy's SVD and planted truths."""

from __future__ import annotations

import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import linalg
from scipy.ndimage import gaussian_filter

from axoloci.errors import InputError
from axoloci.tasks.encoder import linear
from axoloci.tasks.encoder.linear import Config, Linear, Smoother
from axoloci.tasks.encoder.representation import encode_maps

VOXEL = (2.0, 1.5, 1.0)  # mm
CUBE = (1.0, 1.0, 1.0)


def patchy_mask(shape: tuple[int, int, int] = (7, 6, 8)) -> NDArray[np.bool_]:
    """Scattered voxels, some of them alone: the worst that a regression can meet."""
    return np.random.default_rng(0).random(shape) < 0.6


def dense_smoother(
    mask: NDArray[np.bool_], bandwidth: float, voxel_size: tuple[float, float, float] = VOXEL
) -> NDArray[np.float64]:
    """S, one weighted regression a voxel."""
    places = np.argwhere(mask) * voxel_size
    rows = []
    for own in places:
        d = places - own
        near = (np.abs(d) <= 4 * bandwidth + 1e-12).all(axis=1)
        root = np.sqrt(np.exp(-(d**2).sum(axis=1) / (2 * bandwidth**2)) * near)
        design = np.column_stack((np.ones(len(d)), d / bandwidth))
        rows.append(np.linalg.pinv(design * root[:, None], rcond=1e-7)[0] * root)
    return np.stack(rows)


def planted(
    n_samples: int, mask: NDArray[np.bool_], noise: float = 0.03
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Maps of five smooth factors, each less than the one before, and the factors."""
    rng = np.random.default_rng(1)
    white = rng.standard_normal((5, *mask.shape))
    patterns = np.stack([gaussian_filter(one, 1.5)[mask] for one in white])  # (5, N)
    patterns /= np.abs(patterns).max(axis=1, keepdims=True)
    factors = rng.standard_normal((n_samples, 5)) * np.linspace(0.2, 0.1, 5)
    mean = 0.4 + 0.1 * np.sin(np.arange(mask.sum()))
    rows = mean + factors @ patterns + noise * rng.standard_normal((n_samples, mask.sum()))
    return rows.astype(np.float32), factors


def largest_angle(a: NDArray[np.float32], b: NDArray[np.float64]) -> float:
    """Radians between the spaces of rows."""
    return float(linalg.subspace_angles(a.T.astype(np.float64), b.T).max())


@pytest.mark.parametrize("bandwidth", [0.3, 1.0, 2.0, 9.0])
def test_smoother__equals_the_dense_local_linear_matrix(bandwidth: float) -> None:
    mask = patchy_mask()
    smoother = Smoother(mask, VOXEL, bandwidth, dtype=torch.float64)
    truth = dense_smoother(mask, bandwidth)
    unit = torch.eye(int(mask.sum()), dtype=torch.float64)
    np.testing.assert_allclose(smoother.apply(unit).T, truth, rtol=0, atol=1e-12)
    np.testing.assert_allclose(smoother.adjoint(unit), truth, rtol=0, atol=1e-12)
    assert smoother.trace == pytest.approx(np.trace(truth), abs=1e-10)


def test_smoother__keeps_a_linear_trend_at_the_border_too() -> None:
    mask = np.random.default_rng(0).random((9, 10, 8)) < 0.9
    trend = torch.from_numpy(np.argwhere(mask) @ [0.3, -0.2, 0.5] + 1.0)[None]
    smoother = Smoother(mask, CUBE, 1.5, dtype=torch.float64)
    np.testing.assert_allclose(smoother.apply(trend), trend, atol=1e-12)


def test_smoother__adjoint_moves_to_the_other_side_of_a_product() -> None:
    mask = patchy_mask((12, 11, 9))
    smoother = Smoother(mask, VOXEL, 2.0, dtype=torch.float64)
    a, b = torch.from_numpy(np.random.default_rng(2).standard_normal((2, 20, mask.sum())))
    left = (smoother.apply(a) * b).sum(dim=1)
    np.testing.assert_allclose(left, (a * smoother.adjoint(b)).sum(dim=1), rtol=1e-10)


@pytest.mark.parametrize("bandwidth", [0.0, 0.24])
def test_smoother__is_the_identity_where_it_reaches_no_neighbour(bandwidth: float) -> None:
    mask = patchy_mask()
    smoother = Smoother(mask, VOXEL, bandwidth)
    rows = torch.rand(3, int(mask.sum()))
    assert smoother.is_identity
    assert smoother.trace == mask.sum()
    assert torch.equal(smoother.apply(rows), rows)
    assert torch.equal(smoother.adjoint(rows), rows)
    assert not Smoother(mask, VOXEL, 0.25).is_identity


def test_bandwidths__scale_with_the_voxel() -> None:
    coarse, fine = linear.bandwidths(1000, (2.0, 2.0, 2.0)), linear.bandwidths(1000, CUBE)
    np.testing.assert_allclose(coarse, 2 * fine)
    np.testing.assert_allclose(fine / 1000 ** (-1 / 7), [0.5, 1, 2, 3, 5, 10])


def test_cross_validate__scores_by_the_formula_and_comes_near_the_best_smoothing() -> None:
    mask = np.ones((14, 13, 12), dtype=bool)
    rows, _ = planted(30, mask, noise=0.1)
    truth, _ = planted(30, mask, noise=0)
    candidates, chosen = linear.cross_validate(rows.__getitem__, np.arange(30), mask, CUBE)
    assert np.isnan(candidates[0].gcv)  # no neighbour in reach
    dense = dense_smoother(mask, candidates[2].bandwidth, CUBE)
    error = np.square(rows - rows @ dense.T).mean()
    gcv = error / (1 - np.trace(dense) / mask.sum()) ** 2
    assert candidates[2].gcv == pytest.approx(gcv, rel=1e-4)
    # which candidate is nearest to the maps without noise, and whether the chosen one is as good
    missed = {}
    for one in candidates:
        smooth = Smoother(mask, CUBE, one.bandwidth).apply(torch.from_numpy(rows))
        missed[one.bandwidth] = float((smooth - torch.from_numpy(truth)).square().mean())
    assert missed[chosen] <= 1.3 * min(missed.values())
    assert missed[chosen] < 0.8 * missed[candidates[0].bandwidth]


def test_cross_validate__is_zero_where_no_candidate_reaches_a_neighbour(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(linear, "CANDIDATES", (0.1, 0.2))
    mask = patchy_mask()
    rows, _ = planted(4, mask)
    assert linear.cross_validate(rows.__getitem__, np.arange(4), mask, CUBE)[1] == 0


def assert_is_of_scipys_svd(found: linear.Components, x: NDArray[np.float64], rel: float) -> None:
    """Components are the first right singular vectors of centred maps; sums of all are near."""
    _, singular, vectors = linalg.svd(x, full_matrices=False)
    variance, r = singular**2 / (len(x) - 1), len(found.basis)
    assert largest_angle(found.basis, vectors[:r]) < 1e-5
    np.testing.assert_allclose(found.variance, variance[:r], rtol=1e-5)
    assert found.total_variance == pytest.approx(variance.sum(), rel=rel)
    rank = variance.sum() ** 2 / np.square(variance).sum()
    assert found.effective_rank == pytest.approx(rank, rel=2 * rel)


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many vectors the search for components holds, pass by pass."""
    counts: list[int] = []
    add = linear._Subspace.add

    def counted(space: linear._Subspace, block: torch.Tensor, product: torch.Tensor) -> None:
        add(space, block, product)
        counts.append(len(space))

    monkeypatch.setattr(linear._Subspace, "add", counted)
    return counts


@pytest.mark.parametrize("n_samples", [40, 700])  # one block of people; three
@pytest.mark.parametrize("bandwidth", [0.0, 1.5])
def test_principal_components__equal_scipys_svd(n_samples: int, bandwidth: float) -> None:
    mask = patchy_mask((10, 9, 8))
    rows, _ = planted(n_samples, mask)
    index = np.arange(0, n_samples - 1)  # not everybody
    smoother = Smoother(mask, VOXEL, bandwidth)
    found = linear.principal_components(rows.__getitem__, index, int(mask.sum()), 5, smoother)
    x = rows[index].astype(np.float64)
    x -= x.mean(axis=0)
    if bandwidth:
        x = x @ dense_smoother(mask, bandwidth).T
    assert_is_of_scipys_svd(found, x, rel=0.01)
    assert found.angle < 1e-5
    np.testing.assert_allclose(found.singular_values**2, found.variance)
    np.testing.assert_allclose(found.mean, rows[index].mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(found.basis @ found.basis.T, np.eye(5), atol=1e-5)


def test_principal_components__residuals_and_angle_say_how_exact_they_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(linear, "MAX_PASSES", 1)
    monkeypatch.setattr(linear, "OVERSAMPLING", 1)
    mask = patchy_mask((10, 9, 8))
    rows, _ = planted(300, mask, noise=0.1)
    found = linear.principal_components(rows.__getitem__, np.arange(300), int(mask.sum()), 5)
    x = rows.astype(np.float64) - rows.mean(axis=0, dtype=np.float64)
    covariance = x.T @ x / 299
    missing = found.basis @ covariance - found.variance[:, None] * found.basis
    np.testing.assert_allclose(found.residual, np.linalg.norm(missing, axis=1), rtol=1e-3)
    angle = largest_angle(found.basis, linalg.svd(x, full_matrices=False)[2][:5])
    assert 1e-3 < angle <= found.angle


def test_principal_components__all_of_them_keep_all_variance() -> None:
    rng = np.random.default_rng(3)
    rows = rng.standard_normal((30, 200)).astype(np.float32)
    found = linear.principal_components(rows.__getitem__, np.arange(30), 200, 29)
    variance = rows.astype(np.float64).var(axis=0, ddof=1).sum()
    assert found.variance.sum() == pytest.approx(variance, rel=1e-5)
    assert found.total_variance == pytest.approx(variance, rel=1e-5)


def test_principal_components__repeat_to_the_bit_with_a_seed() -> None:
    mask = patchy_mask()
    rows, _ = planted(60, mask)
    first, again, other = (
        linear.principal_components(rows.__getitem__, np.arange(60), int(mask.sum()), 4, seed=seed)
        for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first.basis, again.basis)
    np.testing.assert_allclose(first.basis, other.basis, atol=1e-4)  # signs are the same too


def test_principal_components__name_what_is_wrong() -> None:
    def find(rows: NDArray[np.float32], n_components: int) -> None:
        index = np.arange(len(rows))
        linear.principal_components(rows.__getitem__, index, rows.shape[1], n_components)

    rng = np.random.default_rng(0)
    rows = rng.standard_normal((20, 50)).astype(np.float32)
    with pytest.raises(InputError, match=r"20 components of 20 people.* at most 19"):
        find(rows, 20)
    with pytest.raises(InputError, match="all maps are the same"):
        find(np.repeat(rows[:1], 5, axis=0), 2)
    with pytest.raises(InputError, match="all maps are the same"):
        find(np.zeros((5, 50), dtype=np.float32), 2)
    with pytest.raises(InputError, match="differ in 3 directions only"):
        find(np.tile(rows[:4], (5, 1)), 6)
    rows[[3, 7], 8] = np.nan
    with pytest.raises(InputError, match="not finite: rows 3, 7 "):
        find(rows, 2)


def test_held_out__is_a_split_that_follows_from_the_seed() -> None:
    train, validation = linear.held_out(np.arange(103), 0.1, 4)
    assert len(validation) == 10
    np.testing.assert_array_equal(np.sort(np.concatenate((train, validation))), np.arange(103))
    assert all(np.all(np.diff(part) > 0) for part in (train, validation))
    assert not np.array_equal(validation, linear.held_out(np.arange(103), 0.1, 5)[1])
    assert len(linear.held_out(np.arange(3), 0.1, 0)[1]) == 1


def test_held_out__keeps_the_maps_of_a_person_on_one_side() -> None:
    person = np.random.default_rng(0).permutation(np.repeat([7, 3, 12, 5, 40, 1, 9, 8, 2, 6], 3))
    train, validation = linear.held_out(person, 0.2, 1)
    assert len(validation) == 6
    assert len(set(person[validation])) == 2
    assert not set(person[train]) & set(person[validation])
    # who has one map each is drawn as if all were told apart by their places
    again = linear.held_out(np.arange(10)[::-1], 0.2, 1)[1]
    np.testing.assert_array_equal(linear.held_out(np.arange(10), 0.2, 1)[1], again)


def test_fit__recovers_planted_factors_of_people_held_out() -> None:
    mask = patchy_mask((12, 11, 10))
    rows, factors = planted(200, mask)
    found = linear.fit(rows.__getitem__, np.arange(200), mask, CUBE, Config(n_latents=5))
    assert found.bandwidth > 0
    latents = encode_maps(found.model, rows.__getitem__, np.arange(200)).latents
    train, held_out = found.train_index, found.validation_index
    design = np.column_stack((np.ones(200), latents))
    fitted = design @ np.linalg.lstsq(design[train], factors[train], rcond=None)[0]
    for k in range(5):
        assert np.corrcoef(fitted[held_out, k], factors[held_out, k])[0, 1] > 0.97
    covariance = np.cov(latents[train], rowvar=False)
    np.testing.assert_allclose(found.model.covariance, covariance, rtol=1e-4, atol=1e-6)
    assert found.variance_kept[-1] > 0.9
    assert np.all(np.diff(found.variance_kept) > 0)


def test_fit__reconstructs_people_held_out_as_well_as_it_says() -> None:
    mask = patchy_mask()
    rows, _ = planted(80, mask)
    found = linear.fit(
        rows.__getitem__, np.arange(80), mask, CUBE, Config(n_latents=4, bandwidth=0.0)
    )
    train, held_out = found.train_index, found.validation_index
    mean = rows[train].mean(axis=0)
    vectors = linalg.svd(rows[train] - mean, full_matrices=False)[2][:4]
    x = rows[held_out] - mean
    again = x @ vectors.T @ vectors
    for number, truth, guess in zip(found.reconstruction, x, again, strict=True):
        assert number == pytest.approx(np.corrcoef(truth, guess)[0, 1], abs=1e-4)
    encoded = encode_maps(found.model, rows.__getitem__, held_out)
    squared = np.square(x - again)
    np.testing.assert_allclose(encoded.mse, squared.mean(axis=1), rtol=1e-3)


def test_fit__keeps_the_fewest_components_that_have_the_share_of_variance() -> None:
    mask = patchy_mask()
    rows, _ = planted(100, mask)
    config = Config(n_latents=1, variance=0.8, bandwidth=0.0)
    found = linear.fit(rows.__getitem__, np.arange(100), mask, CUBE, config)
    x = rows[found.train_index].astype(np.float64)
    share = np.cumsum(linalg.svdvals(x - x.mean(axis=0)) ** 2)
    share /= share[-1]
    assert found.model.n_latents == 1 + int(np.argmax(share >= 0.8))
    np.testing.assert_allclose(found.variance_kept, share[: found.model.n_latents], rtol=0.01)
    assert len(found.components.variance) == found.model.n_latents


def test_principal_components__hold_few_vectors_beyond_a_share_of_variance(
    monkeypatch: pytest.MonkeyPatch, held: list[int]
) -> None:
    monkeypatch.setattr(linear, "BASIS_BYTES", 1)
    rng = np.random.default_rng(2)
    along = np.linspace(2, 1, 150)[:, None] ** 4 * rng.standard_normal((150, 900))  # no gap
    maps = (rng.standard_normal((400, 150)) @ along).astype(np.float32)
    found = linear.principal_components(maps.__getitem__, np.arange(400), 900, 5, variance=0.8)
    exact = linalg.svdvals(maps - maps.mean(axis=0)) ** 2
    share = np.cumsum(exact) / exact.sum()
    r = len(found.variance)
    assert abs(r - 1 - int(np.argmax(share >= 0.8))) <= 1  # the sum of all is an estimate
    np.testing.assert_allclose(found.variance, exact[:r] / 399, rtol=1e-3)
    assert (
        40 < r < max(held) <= r + 10 + 4 * 15
    )  # 3 passes' vectors beyond, and the pass that crosses it


def test_fit__says_when_a_share_of_variance_is_out_of_reach(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(linear, "MOST_COMPONENTS", 4)
    mask = patchy_mask()
    rows, _ = planted(60, mask, noise=0.2)
    with pytest.raises(InputError, match=r"4 components keep \d+% .* not the 95% asked for"):
        linear.fit(
            rows.__getitem__, np.arange(60), mask, CUBE, Config(variance=0.95, bandwidth=0.0)
        )
    with pytest.raises(InputError, match="at least 2 are needed"):
        linear.fit(rows.__getitem__, np.arange(2), mask, CUBE, Config())


def test_fit__smoothing_finds_more_of_what_people_share() -> None:
    """Why smoothing is there: with few people and much noise, plain components are noise."""
    mask = patchy_mask((14, 13, 12))
    rows, _ = planted(60, mask, noise=0.3)
    truth, _ = planted(60, mask, noise=0)
    explained = []
    for bandwidth in (None, 0.0):
        config = replace(Config(n_latents=5), bandwidth=bandwidth)
        found = linear.fit(rows.__getitem__, np.arange(60), mask, CUBE, config)
        x = truth[found.validation_index] - truth.mean(axis=0)
        inside = x @ found.components.basis.T
        explained.append(np.square(inside).sum() / np.square(x).sum())
    smoothed, plain = explained
    assert smoothed > plain + 0.1


def test_linear__keeps_its_answers_through_its_state() -> None:
    mask = patchy_mask()
    rows, _ = planted(50, mask)
    labels = np.where(mask, np.arange(mask.size).reshape(mask.shape) % 3 + 1, 0).astype(np.int32)
    for model in (
        linear.fit(rows.__getitem__, np.arange(50), mask, CUBE, Config(n_latents=3)).model,
        linear.tract_means(rows.__getitem__, np.arange(50), mask, labels),
    ):
        state = model.state_dict()
        empty = [torch.zeros_like(state[name]).numpy() for name in ("mask", "mean", "basis")]
        weights = torch.zeros_like(state["weights"]).numpy() if "weights" in state else None
        again = Linear(*empty, np.zeros((3, 3)), np.zeros_like(empty[1]), weights)
        again.load_state_dict(state)
        assert torch.equal(again.voxel_sd, model.voxel_sd)
        x = torch.from_numpy(rows[:4])
        assert torch.equal(again(x), model(x))
        assert again.encode_rows(x).shape == (4, 3)


@pytest.mark.parametrize("bandwidth", [0.0, 1.5])
def test_fit__knows_how_much_each_voxel_varies_in_training(
    bandwidth: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    mask = patchy_mask()
    rows, _ = planted(90, mask, noise=0.1)
    monkeypatch.setattr(linear, "BLOCK_BYTES", 4 * rows.shape[1] * 7)  # blocks of 7 people
    config = Config(n_latents=4, bandwidth=bandwidth)
    found = linear.fit(rows.__getitem__, np.arange(90), mask, CUBE, config)
    expected = rows[found.train_index].astype(np.float64).std(axis=0, ddof=1)
    np.testing.assert_allclose(found.model.voxel_sd, expected, rtol=1e-5)


def test_tract_means__are_means_and_decode_by_regression() -> None:
    mask = patchy_mask()
    rows, _ = planted(120, mask)
    bounds = [(0, 3, 7), (3, 5, 2), (5, 7, 9)]
    labels = np.zeros(mask.shape, dtype=np.int32)
    for first, last, number in bounds:
        labels[first:last, :4] = number  # the rest of the mask is in no tract
    index = np.arange(20, 120)
    model = linear.tract_means(rows.__getitem__, index, mask, labels)
    latents = model.encode_rows(torch.from_numpy(rows)).numpy()
    means = np.stack([rows[:, labels[mask] == n].mean(axis=1) for n in (2, 7, 9)], axis=1)
    np.testing.assert_allclose(latents, means, rtol=1e-5)
    design = np.column_stack((np.ones(120), means))
    truth = design @ np.linalg.lstsq(design[index], rows[index], rcond=None)[0]
    np.testing.assert_allclose(model.decode_rows(torch.from_numpy(latents)), truth, atol=1e-4)
    np.testing.assert_allclose(model.covariance, np.cov(means[index], rowvar=False), rtol=1e-4)
    np.testing.assert_allclose(model.voxel_sd, rows[index].std(axis=0, ddof=1), rtol=1e-4)


def test_tract_means__name_what_is_wrong_with_an_atlas() -> None:
    mask = patchy_mask()
    rows, _ = planted(10, mask)
    labels = np.where(mask, 1, 5).astype(np.int32)
    index = np.arange(10)
    with pytest.raises(InputError, match="labels 5 of the atlas have no voxel"):
        linear.tract_means(rows.__getitem__, index, mask, labels)
    with pytest.raises(InputError, match="no labels"):
        linear.tract_means(rows.__getitem__, index, mask, np.zeros_like(labels))
    with pytest.raises(InputError, match="1 people are too few to fit 1 tract means"):
        linear.tract_means(rows.__getitem__, index[:1], mask, np.ones_like(labels))


def test_principal_components__hold_one_block_of_people_at_a_time() -> None:
    asked: list[int] = []
    rows, _ = planted(700, patchy_mask())

    def some(index: NDArray[np.int64]) -> NDArray[np.float32]:
        asked.append(len(index))
        return rows[index]

    found = linear.principal_components(some, np.arange(700), rows.shape[1], 3)
    assert max(asked) == linear.BLOCK_PEOPLE
    assert sum(asked) == 700 * found.n_passes + linear.BLOCK_PEOPLE + 1  # whom it begins with


def test_fit__reads_fewer_people_at_a_time_where_maps_are_large(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[int] = []
    mask = patchy_mask()
    rows, _ = planted(90, mask)
    monkeypatch.setattr(linear, "BLOCK_BYTES", 4 * rows.shape[1] * 7 + 3)

    def some(index: NDArray[np.int64]) -> NDArray[np.float32]:
        asked.append(len(index))
        return rows[index]

    small = linear.fit(some, np.arange(90), mask, CUBE, Config(n_latents=3, bandwidth=0.0))
    assert max(asked) == 7
    monkeypatch.undo()
    large = linear.fit(some, np.arange(90), mask, CUBE, Config(n_latents=3, bandwidth=0.0))
    np.testing.assert_allclose(small.components.basis, large.components.basis, atol=1e-5)
    np.testing.assert_allclose(small.reconstruction, large.reconstruction, atol=1e-5)


def test_principal_components__read_the_next_people_in_a_thread() -> None:
    rows, _ = planted(700, patchy_mask())
    readers: list[int] = []

    def some(index: NDArray[np.int64]) -> NDArray[np.float32]:
        readers.append(threading.get_ident())
        return rows[index]

    linear.principal_components(some, np.arange(700), rows.shape[1], 3)
    assert threading.get_ident() not in readers[1:]  # after the one map that it begins with


@pytest.mark.parametrize("bandwidth", [0.0, 1.5])
def test_principal_components__equal_scipys_svd_where_the_basis_is_compressed(
    bandwidth: float, monkeypatch: pytest.MonkeyPatch, held: list[int]
) -> None:
    monkeypatch.setattr(linear, "BASIS_BYTES", 0)
    monkeypatch.setattr(linear, "BASIS_BLOCKS", 1)
    monkeypatch.setattr(linear, "OVERSAMPLING", 2)
    mask = patchy_mask((10, 9, 8))
    rows, _ = planted(300, mask, noise=0.1)
    smoother = Smoother(mask, VOXEL, bandwidth)
    found = linear.principal_components(
        rows.__getitem__, np.arange(300), int(mask.sum()), 5, smoother
    )
    x = rows - rows.mean(axis=0, dtype=np.float64)
    if bandwidth:
        x = x @ dense_smoother(mask, bandwidth).T
    assert found.n_passes > 2  # so that it was compressed
    assert max(held) == 2 * 7
    assert_is_of_scipys_svd(found, x, rel=0.02)


def test_principal_components__tell_how_many_of_them_are_settled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(linear, "MAX_PASSES", 4)
    mask = patchy_mask((10, 9, 8))
    rows, _ = planted(300, mask)  # five factors; what comes after them is noise
    found = linear.principal_components(rows.__getitem__, np.arange(300), int(mask.sum()), 8)
    assert found.n_passes == 4
    assert found.n_settled == 5
    assert found.angle > linear.TOLERANCE
    truth = linalg.svd(rows - rows.mean(axis=0, dtype=np.float64), full_matrices=False)[2]
    assert largest_angle(found.basis[:5], truth[:5]) < linear.TOLERANCE
    assert largest_angle(found.basis, truth[:8]) > linear.TOLERANCE


def test_principal_components__find_a_share_of_variance_with_one_set_of_vectors() -> None:
    asked: list[int] = []
    mask = patchy_mask((10, 9, 8))
    rows, _ = planted(300, mask)

    def some(index: NDArray[np.int64]) -> NDArray[np.float32]:
        asked.append(len(index))
        return rows[index]

    found = linear.principal_components(some, np.arange(300), int(mask.sum()), 1, variance=0.8)
    singular, vectors = linalg.svd(rows - rows.mean(axis=0, dtype=np.float64), full_matrices=False)[
        1:
    ]
    share = np.cumsum(singular**2) / np.square(singular).sum()
    r = 1 + int(np.argmax(share >= 0.8))
    assert r > 2
    assert len(found.basis) == r
    assert largest_angle(found.basis, vectors[:r]) < 1e-5
    assert found.n_passes <= linear.MAX_PASSES
    assert sum(asked) == 300 * found.n_passes + 256 + 1  # no pass is made again


def test_principal_components__a_share_may_need_more_components_than_a_pass_has_vectors(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(linear, "OVERSAMPLING", 2)
    rng = np.random.default_rng(5)
    patterns = linalg.qr(rng.standard_normal((400, 20)), mode="economic")[0].T
    rows = rng.standard_normal((200, 20)) @ patterns  # 20 components that are nearly alike
    rows = (rows + 0.01 * rng.standard_normal((200, 400))).astype(np.float32)
    found = linear.principal_components(rows.__getitem__, np.arange(200), 400, 1, variance=0.9)
    singular = linalg.svdvals(rows - rows.mean(axis=0, dtype=np.float64))
    share = np.cumsum(singular**2) / np.square(singular).sum()
    r = 1 + int(np.argmax(share >= 0.9))
    assert len(found.variance) == r > 10
    np.testing.assert_allclose(found.variance, singular[:r] ** 2 / 199, rtol=1e-4)


def test_cross_validate__reads_each_map_once() -> None:
    asked: list[int] = []
    mask = patchy_mask()
    rows, _ = planted(40, mask)

    def some(index: NDArray[np.int64]) -> NDArray[np.float32]:
        asked.extend(index.tolist())
        return rows[index]

    linear.cross_validate(some, np.arange(3, 40), mask, CUBE)
    assert sorted(asked) == list(range(3, 40))

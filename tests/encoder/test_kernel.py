"""The autoencoder: shapes, loss, training that can be repeated, and a planted truth."""

from __future__ import annotations

import copy
import json
import math
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch.nn import functional as F  # noqa: N812

from axoloci.errors import InputError
from axoloci.tasks.encoder import kernel, representation
from axoloci.tasks.encoder.kernel import (
    UDIP_FA,
    Autoencoder,
    Config,
    Training,
    halved_by_axis,
)
from axoloci.tasks.encoder.linear import Linear
from axoloci.tasks.encoder.representation import Encoded, encode_maps, reconstruct

SHAPE = (12, 13, 11)
SMALL = Config(n_latents=4, channels=(4, 8), epochs=3, batch_size=8)


def ball() -> NDArray[np.bool_]:
    """A mask that leaves a margin of one voxel or more."""
    grid = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in SHAPE), indexing="ij"))
    return np.asarray((grid**2).sum(axis=0) < 0.8)


def planted(
    n_samples: int, seed: int, noise: float = 0.02
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Maps inside `ball()` in which three regions vary on their own, and by how much.

    The factor has a standard deviation of 0.03 in about 60 voxels, `noise` is that of a voxel.
    """
    rng = np.random.default_rng(seed)
    places = np.argwhere(ball())  # (n_voxels, 3)
    mean = 0.4 + 0.1 * np.sin(places @ [0.5, 0.3, 0.7])
    factors = rng.standard_normal((n_samples, 3))
    centres = np.array([[4, 6, 5], [8, 4, 5], [7, 9, 6]])
    region = np.linalg.norm(places[:, None] - centres, axis=2) < 2.5  # (n_voxels, 3)
    rows = mean + 0.03 * factors @ region.T + noise * rng.standard_normal((n_samples, len(places)))
    return rows.astype(np.float32), factors


def train(rows: NDArray[np.float32], config: Config, n_epochs: int | None = None) -> Training:
    training = Training(rows.__getitem__, np.arange(len(rows)), ball(), config)
    for _ in range(config.epochs if n_epochs is None else n_epochs):
        training.run_epoch()
    return training


def zscored(rows: NDArray[np.float32]) -> torch.Tensor:
    return representation.zscore(torch.from_numpy(rows))[0]


def encode(model: Autoencoder, rows: NDArray[np.float32], batch_size: int = 16) -> Encoded:
    return encode_maps(model, rows.__getitem__, np.arange(len(rows)), batch_size)


def weights(training: Training) -> dict[str, torch.Tensor]:
    return training.model.state_dict()


def share_explained(y: NDArray[np.float64], latents: NDArray[np.float32]) -> float:
    """R² of y on latents."""
    design = np.column_stack((np.ones(len(latents)), latents))
    residual = y - design @ np.linalg.lstsq(design, y, rcond=None)[0]
    return float(1 - residual.var() / y.var())


def test_autoencoder__has_the_published_shapes_and_size() -> None:
    mask = np.ones((182, 218, 182), dtype=bool)
    with torch.device("meta"):
        model = Autoencoder(UDIP_FA, mask)
        x = torch.empty(2, 1, 182, 218, 182)
        assert model.features(x).shape == (2, 256 * 12 * 14 * 12)
        assert model.encode(x).shape == (2, 128)
        assert model(x).shape == x.shape
    assert model.grids[-1] == (12, 14, 12)

    def block(n_in: int, n_out: int) -> int:  # two convolutions, two batch norms
        return 27 * n_out * (n_in + n_out) + 2 * 2 * n_out

    n_bottom = 256 * 12 * 14 * 12
    expected = (
        block(1, 16) + block(16, 32) + block(32, 64) + block(64, 128) + block(128, 256)
        + 128 * n_bottom + 128 + 128 * n_bottom + n_bottom
        + sum(8 * 2 * c * c + c + block(c, c) for c in (128, 64, 32, 16))
        + 16 + 1
    )  # fmt: skip
    assert sum(p.numel() for p in model.parameters()) == expected == 137_695_665


@settings(max_examples=15, deadline=None)
@given(
    shape=st.tuples(*[st.integers(4, 15)] * 3),
    n_levels=st.integers(1, 3),
    crop=st.booleans(),
    seed=st.integers(0, 99),
)
def test_autoencoder__mirrors_any_grid(
    shape: tuple[int, int, int], n_levels: int, crop: bool, seed: int
) -> None:
    mask = np.random.default_rng(seed).random(shape) < 0.5
    mask[0, 0, 0] = mask[-1, -1, -1] = True  # so that the box is the grid
    model = Autoencoder(Config(n_latents=3, channels=(2, 3, 4)[:n_levels], crop=crop), mask)
    rows = np.random.default_rng(seed).standard_normal((2, int(mask.sum()))).astype(np.float32)
    x = model.volumes(torch.from_numpy(rows))
    assert x.shape == (2, 1, *shape)
    np.testing.assert_array_equal(x[:, 0].numpy()[:, mask], rows)
    assert not x[:, 0].numpy()[:, ~mask].any()
    assert model.encode(x).shape == (2, 3)
    assert model(x).shape == x.shape
    assert model.grids[-1] == tuple(math.ceil(n / 2 ** (n_levels - 1)) for n in shape)


def test_autoencoder__crops_the_margin_and_keeps_the_voxels_order() -> None:
    mask = np.zeros((9, 8, 10), dtype=bool)
    mask[2:7, 1:6, 3:9] = np.random.default_rng(0).random((5, 5, 6)) < 0.7
    mask[2, 1, 3] = mask[6, 5, 8] = True
    model = Autoencoder(replace(SMALL, channels=(2,)), mask)
    assert model.grids == [(5, 5, 6)]
    rows = np.arange(mask.sum(), dtype=np.float32)[None]
    full = np.zeros(mask.shape, dtype=np.float32)
    full[mask] = rows[0]
    np.testing.assert_array_equal(model.volumes(torch.from_numpy(rows))[0, 0], full[2:7, 1:6, 3:9])


def test_grids_for__refuses_a_grid_too_small_and_names_it() -> None:
    with pytest.raises(InputError, match=r"the grid 7×30×30 is too small for 4 levels.*at most 3"):
        kernel.grids_for((7, 30, 30), (2, 4, 8, 16))
    with pytest.raises(InputError, match=r"the grid 8×8×8 is too small for 4 levels.*at most 3"):
        kernel.grids_for((8, 8, 8), (2, 4, 8, 16))  # one voxel: no moments of one map
    assert kernel.grids_for((8, 9, 8), (2, 4, 8, 16))[-1] == (1, 2, 1)


@pytest.mark.parametrize(
    ("shape", "channels"),
    [
        ((182, 218, 182), (16, 32, 64, 128, 256)),
        ((91, 109, 91), (8, 16, 32, 64)),
        ((32, 40, 32), (8, 16, 32)),
        ((12, 12, 12), (8,)),
        ((5, 50, 50), (8,)),
    ],
)
def test_channels_for__follows_from_the_grid(
    shape: tuple[int, int, int], channels: tuple[int, ...]
) -> None:
    assert kernel.channels_for(shape) == channels
    kernel.grids_for(shape, channels)  # and the grid is not too small for it


def test_masked_loss__equals_its_formula_and_ignores_what_is_outside() -> None:
    rng = np.random.default_rng(0)
    x, again = rng.standard_normal((2, 3, 1, 4, 5, 6))
    mask = rng.random((4, 5, 6)) < 0.5
    expected = np.mean([((a - b)[0][mask] ** 2).mean() for a, b in zip(x, again, strict=True)])
    arguments = [torch.from_numpy(array) for array in (x, again, mask)]
    assert kernel.masked_loss(*arguments).item() == pytest.approx(expected, rel=1e-12)
    x[:, :, ~mask], again[:, :, ~mask] = 7.0, -1e6  # the tensors share this memory
    assert kernel.masked_loss(*arguments).item() == pytest.approx(expected, rel=1e-12)
    inside = tuple(np.argwhere(mask)[0])
    again[(0, 0, *inside)] += 1.0
    assert kernel.masked_loss(*arguments).item() != pytest.approx(expected, rel=1e-6)


def test_zscore__standardises_each_map_and_can_be_undone() -> None:
    rows = planted(5, seed=1)[0] * np.array([[1.0], [2], [3], [4], [5]], dtype=np.float32)
    z, moments = (t.numpy() for t in representation.zscore(torch.from_numpy(rows)))
    np.testing.assert_allclose(z.mean(axis=1), 0, atol=1e-5)
    np.testing.assert_allclose(z.std(axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(z * moments[:, 1:] + moments[:, :1], rows, rtol=1e-5)


def test_training__starts_from_the_mean_map_of_its_people_alone() -> None:
    rows, _ = planted(30, seed=2)
    training = Training(rows.__getitem__, np.arange(30), ball(), replace(SMALL, pca_share=0.0))
    split = (training.train_index, training.validation_index)
    assert sorted(np.concatenate(split)) == list(range(30))
    assert len(training.validation_index) == 3
    model = training.model
    z = zscored(rows).numpy()[training.train_index]
    np.testing.assert_allclose(model.mean[0, 0, model.inside], z.mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(model.rows(model.voxel_sd)[0], z.std(axis=0, ddof=1), rtol=1e-4)
    spread = np.sqrt(((z - z.mean(axis=0)) ** 2).mean())
    assert model.scale.item() == pytest.approx(spread, rel=1e-5)
    x = model.volumes(zscored(rows[:2]))
    torch.testing.assert_close(model(x), model.mean.expand_as(x))


def test_training__starts_with_the_principal_components_of_the_maps() -> None:
    rows, _ = planted(30, seed=2)
    training = Training(rows.__getitem__, np.arange(30), ball(), SMALL)
    model = training.model.eval()
    z = zscored(rows).numpy()
    mean = z[training.train_index].mean(axis=0)
    known = z[training.train_index] - mean  # (27, n_voxels)
    with torch.no_grad():
        latents = model.encode_rows(torch.from_numpy(z)).numpy()
        again = model.rows(model(model.volumes(torch.from_numpy(z)))).numpy()
    started = latents[:, :3]  # three in four
    # the way back is the regression of the maps on these latents
    by_latents = np.linalg.lstsq(started[training.train_index], known, rcond=None)[0]
    np.testing.assert_allclose(again, mean + started @ by_latents, atol=1e-3)
    # a ridge regression from random features: near the scores, those of people unseen too
    unseen = zscored(planted(60, seed=4)[0]).numpy()
    with torch.no_grad():
        guess = model.encode_rows(torch.from_numpy(unseen)).numpy()
    scores = (unseen - mean) @ np.linalg.svd(known, full_matrices=False)[2][:3].T
    for k in range(3):  # as many as regions that vary
        assert abs(np.corrcoef(scores[:, k], guess[:, k])[0, 1]) > 0.9


def test_training__finds_planted_factors_in_people_it_never_saw() -> None:
    rows, _ = planted(60, seed=3)
    unseen, factors = planted(60, seed=4)
    training = train(rows, replace(SMALL, epochs=12, batch_size=5))
    encoded = encode(training.model, unseen)
    for k in range(3):
        assert share_explained(factors[:, k], encoded.latents) > 0.9
    shuffled = np.random.default_rng(5).permutation(60)
    assert share_explained(factors[:, 0], encoded.latents[shuffled]) < 0.3
    # of the distance from the mean map, regions make about 0.03² · 180 of 0.02² · 600 + that
    assert 0.25 < np.median(encoded.r2) < 0.6
    losses = [epoch.train_loss for epoch in training.history]
    assert losses[-1] < 0.8 * training.model.scale.item() ** 2


@pytest.mark.parametrize("seed", [0, 1])
def test_training__finds_factors_that_are_a_small_part_of_the_variance(seed: int) -> None:
    rows, factors = planted(100, seed=12, noise=0.08)
    shared = rows - rows.mean(axis=0)
    design = np.column_stack((np.ones(100), factors))
    left = shared - design @ np.linalg.lstsq(design, shared, rcond=None)[0]
    assert 1 - (left**2).sum() / (shared**2).sum() < 0.15  # of the variance is signal
    training = train(rows, Config(n_latents=6, channels=(4, 8, 16), seed=seed))
    training.finish()
    encoded = encode(training.model, rows)
    for k in range(3):  # six principal components of the maps have 0.84 to 0.89
        assert share_explained(factors[:, k], encoded.latents) > 0.6
    assert encoded.r2[training.train_index].mean() > 0.05  # the mean map alone makes 0


def test_training__ends_with_the_weights_best_on_the_people_held_out() -> None:
    rows, _ = planted(24, seed=13)
    training = train(rows, replace(SMALL, learning_rate=0.05, epochs=4))
    losses = [epoch.validation_loss for epoch in training.history]
    assert training.finish() == (training.best_epoch, training.best_loss)
    start = Training(rows.__getitem__, np.arange(24), ball(), training.config).validation_loss()
    assert training.best_loss == min(start, *losses)
    assert training.best_epoch == int(np.argmin([start, *losses]))
    assert training.best_epoch < 4  # such steps are too long: the last epoch is not the best
    assert training.validation_loss() == training.best_loss


def test_training__leaves_out_latents_that_change_no_map() -> None:
    rows, _ = planted(30, seed=5)
    training = train(rows, replace(SMALL, n_latents=6, pca_share=1.0), n_epochs=1)
    model = training.model
    with torch.no_grad():  # two latents that nothing comes of, though they are large themselves
        for k in (1, 4):
            model.components[k] = 0
            model.from_latents.weight[:, k] *= 1e-9
            model.to_latents.weight[k] *= 50
            model.to_latents.bias[k] = 1e3
        training.best_weights = {name: w.clone() for name, w in model.learnt().items()}
    before = encode(model, rows)
    training.finish()
    assert training.model.n_latents == training.model.config.n_latents == 4
    after = encode(training.model, rows)
    np.testing.assert_allclose(after.latents, before.latents[:, [0, 2, 3, 5]], rtol=1e-5)
    np.testing.assert_allclose(after.mse, before.mse, rtol=1e-3)
    same = Training(rows.__getitem__, np.arange(30), ball(), replace(SMALL, drop_unused=False))
    same.finish()
    assert same.model.n_latents == SMALL.n_latents


def test_training__knows_what_the_mean_map_would_cost() -> None:
    rows, _ = planted(30, seed=5)
    training = Training(rows.__getitem__, np.arange(30), ball(), SMALL)
    z = zscored(rows)
    squares = (z[training.validation_index] - z[training.train_index].mean(dim=0)).square()
    assert training.mean_map_loss() == pytest.approx(float(squares.mean()), rel=1e-4)


def test_training__fixes_the_moments_of_batch_norm() -> None:
    rows, _ = planted(24, seed=14)
    start = Training(rows.__getitem__, np.arange(24), ball(), SMALL)
    before = {name: tensor.clone() for name, tensor in weights(start).items()}
    start.run_epoch()
    moments = [name for name in before if "running_" in name]
    assert moments
    for name in moments:
        assert torch.equal(before[name], weights(start)[name])
    assert not torch.equal(before["to_map.weight"], weights(start)["to_map.weight"])


def test_training__of_one_seed_is_the_same_to_the_bit_and_of_another_is_not() -> None:
    rows, _ = planted(24, seed=6)
    torch.manual_seed(1)
    first = train(rows, SMALL)
    torch.manual_seed(2)  # the state of the global generator must not matter
    again, other = train(rows, SMALL), train(rows, replace(SMALL, seed=1))
    assert first.history == again.history
    for name, tensor in weights(first).items():
        assert torch.equal(tensor, weights(again)[name])
    assert not torch.equal(weights(first)["to_map.weight"], weights(other)["to_map.weight"])


def test_training__taken_up_again_equals_one_that_never_stopped() -> None:
    rows, _ = planted(24, seed=7)
    config = replace(SMALL, epochs=4, plateau_patience=0, learning_rate=0.5)
    whole = train(rows, config)
    assert len({epoch.learning_rate for epoch in whole.history}) > 1  # the schedule took part
    half = train(rows, config, n_epochs=2).state_dict()
    rest = Training(rows.__getitem__, np.arange(24), ball(), config)
    rest.load_state_dict(half)
    rest.run_epoch()
    rest.run_epoch()
    assert rest.history == whole.history
    for name, tensor in weights(whole).items():
        assert torch.equal(tensor, weights(rest)[name])


def test_training__stopped_in_mid_epoch_equals_one_that_never_stopped() -> None:
    rows, _ = planted(24, seed=7)
    whole = train(rows, replace(SMALL, batch_size=5))
    half = Training(rows.__getitem__, np.arange(24), ball(), replace(SMALL, batch_size=5))
    kept = {}

    def stop_at_epoch_2_step_3() -> None:
        if (len(half.history), half.step) == (1, 3):
            kept.update(copy.deepcopy(half.state_dict()))
            raise KeyboardInterrupt

    half.run_epoch(stop_at_epoch_2_step_3)
    with pytest.raises(KeyboardInterrupt):
        half.run_epoch(stop_at_epoch_2_step_3)
    rest = Training(rows.__getitem__, np.arange(24), ball(), replace(SMALL, batch_size=5))
    rest.load_state_dict(kept)
    steps_left = []
    rest.run_epoch(lambda: steps_left.append(rest.step))
    assert steps_left == [4, 5]  # of 22 people in batches of 5
    rest.run_epoch()
    assert rest.history == whole.history
    for name, tensor in weights(whole).items():
        assert torch.equal(tensor, weights(rest)[name])


def test_training__in_two_processes_equals_one(tmp_path: Path) -> None:
    rows, _ = planted(25, seed=7)  # 22 in training: the last batch of 1 leaves a process none
    config = replace(SMALL, batch_size=7)
    np.savez(tmp_path / "given.npz", rows=rows, mask=ball(), config=json.dumps(asdict(config)))
    program = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2"]
    port = ["--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0"]
    worker = Path(__file__).with_name("train_together.py")
    run = subprocess.run([*program, *port, worker, tmp_path], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    one = Training(rows.__getitem__, np.arange(len(rows)), ball(), config)
    start = {name: tensor.clone() for name, tensor in weights(one).items()}
    for epoch in range(1, config.epochs + 1):
        one.run_epoch()
        first, second = (torch.load(tmp_path / f"{rank}_{epoch}.pt") for rank in (0, 1))
        for name, tensor in weights(one).items():
            assert torch.equal(first["model"][name], second["model"][name])
            if epoch == 1 and name not in one.model.learnt():
                torch.testing.assert_close(first["model"][name], tensor, rtol=1e-3, atol=1e-4)
            elif epoch == 1:  # training amplifies rounding: later epochs are compared by their loss
                apart = (first["model"][name] - tensor).norm()  # Adam makes a step of the rounding
                assert apart <= 0.05 * (tensor - start[name]).norm(), name  # of a gradient of 0
        assert first["history"] == second["history"]
        loss = first["history"][-1]["validation_loss"]
        assert loss == pytest.approx(one.history[-1].validation_loss, rel=1e-4)


@pytest.mark.parametrize("config", [SMALL, replace(UDIP_FA, channels=(4, 8), n_latents=4)])
def test_training__that_computes_twice_what_it_does_not_keep_is_the_same(config: Config) -> None:
    rows, _ = planted(24, seed=7)
    config = replace(config, batch_size=8)
    kept, anew = (train(rows, replace(config, recompute=r), n_epochs=1) for r in (False, True))
    for name, tensor in weights(kept).items():
        assert torch.equal(tensor, weights(anew)[name]), name


def test_training__in_bfloat16_learns_the_same() -> None:
    rows, factors = planted(60, seed=3)
    latents = [
        encode(train(rows, replace(SMALL, precision=precision)).model, rows).latents
        for precision in ("float32", "bfloat16")
    ]
    assert not np.array_equal(*latents)
    for k in range(3):
        exact, reduced = (share_explained(factors[:, k], each) for each in latents)
        assert reduced == pytest.approx(exact, abs=0.02)


def test_training__ends_early_when_the_people_held_out_gain_nothing() -> None:
    rows, _ = planted(24, seed=13)
    config = replace(SMALL, learning_rate=0.05, epochs=30, stop_patience=2)
    training = Training(rows.__getitem__, np.arange(24), ball(), config)
    while not training.finished:
        training.run_epoch()
    assert len(training.history) == training.best_epoch + 2 < 30


def test_training__ends_early_where_the_last_weights_count_too() -> None:
    rows, _ = planted(24, seed=13)
    config = replace(SMALL, learning_rate=0.5, epochs=30, stop_patience=2, keep_best=False)
    training = Training(rows.__getitem__, np.arange(24), ball(), config)
    while not training.finished:
        training.run_epoch()
    assert len(training.history) == training.best_epoch + 2 < 30
    last = {name: tensor.clone() for name, tensor in weights(training).items()}
    assert training.finish() == (len(training.history), training.history[-1].validation_loss)
    for name, tensor in weights(training).items():
        assert torch.equal(tensor, last[name])


def test_training__says_which_batch_fits_into_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, _ = planted(24, seed=7)
    training = Training(rows.__getitem__, np.arange(24), ball(), SMALL)
    forward = training._forward.forward

    def limited(x: torch.Tensor) -> torch.Tensor:
        if len(x) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(x)  # type: ignore[no-any-return]

    monkeypatch.setattr(training._forward, "forward", limited)
    with pytest.raises(InputError, match=r"a batch of 8 does not fit .*; 2 fits: .* 2, or --recom"):
        training.run_epoch()


def test_training__says_which_batch_fits_where_its_start_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows, _ = planted(24, seed=7)
    encode = Autoencoder.features

    def limited(model: Autoencoder, x: torch.Tensor) -> torch.Tensor:
        if len(x) > 5:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return encode(model, x)

    monkeypatch.setattr(Autoencoder, "features", limited)
    with pytest.raises(InputError, match=r"a batch of 8 does not fit .*; 4 fits: .* 4, or --recom"):
        Training(rows.__getitem__, np.arange(24), ball(), SMALL)


@pytest.mark.parametrize("mean", [True, False])
def test_halved_by_axis__equals_pooling_and_its_way_back(mean: bool) -> None:
    generator = torch.Generator().manual_seed(5)
    h = torch.randn(2, 3, 7, 8, 5, dtype=torch.float64, generator=generator)
    pool = F.avg_pool3d if mean else F.max_pool3d
    expected, own = h.clone().requires_grad_(), h.clone().requires_grad_()
    pooled, halved = pool(expected, 2, ceil_mode=True), halved_by_axis(own, mean)
    torch.testing.assert_close(halved, pooled)
    weight = torch.randn(pooled.shape, dtype=torch.float64, generator=generator)
    (pooled * weight).sum().backward()
    (halved * weight).sum().backward()
    torch.testing.assert_close(own.grad, expected.grad)


def test_training__stops_when_it_diverges_and_keeps_its_last_good_history() -> None:
    rows, _ = planted(24, seed=8)
    training = Training(rows.__getitem__, np.arange(24), ball(), replace(SMALL, learning_rate=1e30))
    with pytest.raises(InputError, match=r"diverged in epoch 1.*learning rate below 1e"):
        training.run_epoch()
    assert training.history == []
    with pytest.raises(InputError, match="diverged"):  # nothing that is kept is of this state
        training.state_dict()


def test_training__refuses_fewer_people_than_a_batch() -> None:
    rows, _ = planted(8, seed=9)
    with pytest.raises(InputError, match=r"7 people to train on .* fewer than a batch of 8"):
        Training(rows.__getitem__, np.arange(8), ball(), SMALL)


def test_training__refuses_one_person_and_maps_that_are_all_the_same() -> None:
    rows, _ = planted(8, seed=9)
    config = replace(SMALL, batch_size=0)
    with pytest.raises(InputError, match=r"1 people to train on \(1 are held out\); at least 2"):
        Training(rows.__getitem__, np.arange(2), ball(), config)
    with pytest.raises(InputError, match="all maps are the same"):
        Training(np.tile(rows[:1], (8, 1)).__getitem__, np.arange(8), ball(), config)


def test_training__holds_out_people_with_all_their_maps() -> None:
    rows, _ = planted(24, seed=9)
    person = np.repeat(np.arange(12), 2)
    training = Training(rows.__getitem__, person, ball(), SMALL)
    assert len(training.validation_index) == 2  # of one of twelve people
    assert not set(person[training.train_index]) & set(person[training.validation_index])


@pytest.mark.parametrize(("n_people", "expected"), [(4, 3), (24, 10)])
def test_training__few_people_are_one_batch(n_people: int, expected: int) -> None:
    rows, _ = planted(n_people, seed=9)
    training = train(rows, replace(SMALL, batch_size=0), n_epochs=1)
    assert training.config.batch_size == expected
    assert np.isfinite(training.history[0].validation_loss)


def test_training__of_the_published_kind_needs_no_mean_map() -> None:
    rows, _ = planted(24, seed=10)
    config = replace(UDIP_FA, channels=(4, 8), n_latents=4, batch_size=4, epochs=2)
    training = train(rows, config)
    assert training.model.grids[0] == SHAPE  # nothing cropped
    assert training.history[1].train_loss < training.history[0].train_loss


def test_folded__encodes_and_decodes_as_the_network_it_is_of() -> None:
    rows, _ = planted(24, seed=11)
    model = train(rows, replace(UDIP_FA, channels=(4, 8), n_latents=4, batch_size=8), 1).model
    exact, fast = (encode(each, rows) for each in (model, model.folded()))
    np.testing.assert_allclose(fast.latents, exact.latents, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(fast.r2, exact.r2, rtol=1e-3, atol=1e-5)
    assert model.folded().to_latents.weight is model.to_latents.weight


def test_read_ahead__gives_all_batches_in_turn_and_passes_errors_on() -> None:
    rows, _ = planted(9, seed=11)
    batches = [np.array(each) for each in ([3, 1], [8], [], [0, 0, 2], [5])]
    cpu = torch.device("cpu")
    given = list(representation.read_ahead(rows.__getitem__, batches[:2], cpu))
    assert [len(batch) for batch in given] == [2, 1]
    whole = [np.array(each, dtype=np.int64) for each in batches]
    for batch, maps in zip(
        whole, representation.read_ahead(rows.__getitem__, whole, cpu), strict=True
    ):
        np.testing.assert_array_equal(maps, rows[batch])

    def damaged(index: NDArray[np.int64]) -> NDArray[np.float32]:
        if 8 in index:
            raise InputError("the map of 8 is damaged")
        return rows[index]

    maps_of = representation.read_ahead(damaged, whole, cpu)
    np.testing.assert_array_equal(next(maps_of), rows[[3, 1]])
    with pytest.raises(InputError, match="the map of 8 is damaged"):
        next(maps_of)


def test_encode_maps__reports_the_errors_of_its_own_reconstructions() -> None:
    rows, _ = planted(24, seed=11)
    model = train(rows, SMALL).model
    encoded = encode(model, rows)
    z, moments = (t.numpy() for t in representation.zscore(torch.from_numpy(rows)))
    again = (reconstruct(model, rows) - moments[:, :1]) / moments[:, 1:]
    np.testing.assert_allclose(encoded.mse, ((z - again) ** 2).mean(axis=1), rtol=1e-3)
    np.testing.assert_allclose(encode(model, rows, 5).latents, encoded.latents, atol=1e-4)


def test_encode_maps__r2_is_on_one_scale_for_all_representations() -> None:
    rows, _ = planted(24, seed=11)
    model = train(rows, SMALL).model
    basis = np.linalg.svd(rows - rows.mean(axis=0), full_matrices=False)[2][:3]
    linear = Linear(ball(), rows.mean(axis=0), basis, np.eye(3), rows.std(axis=0))
    index = np.arange(4, 24)
    maps = rows[index]

    def standard(each: NDArray[np.floating]) -> NDArray[np.floating]:
        return np.asarray((each - each.mean(axis=1)[:, None]) / each.std(axis=1)[:, None])

    truth = standard(maps)
    spread = representation.spread(rows.__getitem__, index, torch.device("cpu"))
    assert spread == pytest.approx(truth.var(axis=0, ddof=1).mean(), rel=1e-5)
    projected = rows.mean(axis=0) + (maps - rows.mean(axis=0)) @ basis.T @ basis
    for each, again in ((model, reconstruct(model, maps)), (linear, projected)):
        found = encode_maps(each, rows.__getitem__, index)
        error = ((truth - standard(again)) ** 2).mean(axis=1)  # (20,)
        np.testing.assert_allclose(found.zscored_mse, error, rtol=1e-3)
        distance = ((truth - standard(each.mean_rows[None].numpy())) ** 2).mean(axis=1)
        np.testing.assert_allclose(found.r2, 1 - error / distance, atol=1e-4)

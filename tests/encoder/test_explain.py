"""What latents mean: maps of a known decoder, and regions that stand out or do not."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import stats
from scipy.ndimage import gaussian_filter
from torch import Tensor

from axoloci.errors import InputError
from axoloci.tasks.encoder import explain
from axoloci.tasks.encoder.kernel import Autoencoder, Config

BASIS = torch.from_numpy(np.random.default_rng(0).standard_normal((3, 50)).astype(np.float32))


def bent(latents: Tensor) -> Tensor:
    """A decoder that is not linear: latent 1 acts by its square, and more where latent 0 is."""
    mixed = torch.stack(
        (latents[:, 0], latents[:, 1] ** 2 + latents[:, 0] * latents[:, 1], latents[:, 2]), dim=1
    )
    return mixed @ BASIS


def people(n: int = 40) -> NDArray[np.float64]:
    return np.random.default_rng(1).standard_normal((n, 3)) * [1.0, 2.0, 0.5] + [0, 1, 0]


def test_perturb__equals_scipys_paired_t_of_the_changed_maps() -> None:
    latents = people()
    effect, t = explain.perturb(bent, latents, np.array([1, 0]))
    codes = torch.from_numpy(latents.astype(np.float32))
    for row, k in enumerate((1, 0)):
        more = codes.clone()
        more[:, k] += codes[:, k].std()
        before, after = (bent(each).double().numpy() for each in (codes, more))
        np.testing.assert_allclose(effect[row], (after - before).mean(axis=0), rtol=1e-4, atol=1e-5)
        expected = stats.ttest_rel(after, before).statistic
        np.testing.assert_allclose(t[row], expected, rtol=1e-3)


def test_perturb__of_a_linear_decoder_adds_its_basis_to_everyone() -> None:
    latents = people()
    effect, t = explain.perturb(lambda z: z @ BASIS, latents, np.array([2]))
    sd = latents[:, 2].std(ddof=1)
    np.testing.assert_allclose(effect[0], sd * BASIS[2].numpy(), rtol=1e-4, atol=1e-5)
    # without spread but for rounding: the same large t everywhere, which can be smoothed
    np.testing.assert_allclose(np.abs(t), np.sqrt(40) / explain.ROUNDING, rtol=1e-3)


def test_derivative__equals_differences_of_a_bent_decoder_and_the_basis_of_a_linear_one() -> None:
    latents = people()
    found = explain.derivative(bent, latents, np.arange(3))
    slope = (2 * latents[:, 1] + latents[:, 0]).mean()  # of latent 1's term
    np.testing.assert_allclose(found[1], slope * BASIS[1].numpy(), rtol=1e-4, atol=1e-5)
    linear = explain.derivative(lambda z: z @ BASIS, latents, np.arange(3))
    np.testing.assert_allclose(linear, BASIS.numpy(), rtol=1e-6, atol=1e-7)


def test_derivative__goes_through_an_autoencoder() -> None:
    torch.manual_seed(0)
    model = Autoencoder(Config(n_latents=2, channels=(2, 4)), np.ones((6, 6, 6), bool)).eval()
    torch.nn.init.normal_(model.to_map.weight)
    latents = np.random.default_rng(0).standard_normal((5, 2)).astype(np.float32)
    found = explain.derivative(model.decode_rows, latents, np.array([1]))[0]
    step = np.array([0, 1e-2], dtype=np.float32)
    with torch.no_grad():
        up, down = (model.decode_rows(torch.from_numpy(latents + s)) for s in (step, -step))
    differences = ((up - down) / 2e-2).mean(dim=0).numpy()
    assert np.corrcoef(found, differences)[0, 1] > 0.999


def test_perturb_and_derivative__go_on_with_fewer_people_where_memory_is_short(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, logger="axoloci")
    sizes = []

    def greedy(latents: Tensor) -> Tensor:
        sizes.append(len(latents))
        if len(latents) > 5:
            raise torch.OutOfMemoryError
        return bent(latents)

    latents, index = people(), np.array([1, 0])
    whole = (*explain.perturb(bent, latents, index), explain.derivative(bent, latents, index))
    parts = (*explain.perturb(greedy, latents, index), explain.derivative(greedy, latents, index))
    for one, other in zip(whole, parts, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
    told = "the GPU's memory does not hold 16 maps: going on with 4 at once"
    assert [record.getMessage() for record in caplog.records] == [told] * 2  # once each
    assert sum(size > 5 for size in sizes) == 2 * 2  # 16 and 8 are tried once each


def test_smooth__keeps_what_is_constant_and_takes_nothing_from_outside() -> None:
    mask = np.zeros((12, 12, 12), dtype=bool)
    mask[3:9, 2:10, 4:8] = True
    rows = np.stack((np.ones(mask.sum()), np.arange(mask.sum()))).astype(np.float32)
    smoothed = explain.smooth(rows, mask, np.array([2.0, 2.0, 2.0]), sigma=3.0)
    np.testing.assert_allclose(smoothed[0], 1, rtol=1e-5)
    assert smoothed[1].std() < rows[1].std()
    assert (smoothed[1] >= 0).all()


def atlas(mask: NDArray[np.bool_], place: NDArray[np.int64]) -> NDArray[np.int64]:
    """Eight regions: one in each corner of the grid's octants, half an octant large."""
    octant = (place >= np.array(mask.shape) // 2) @ [1, 2, 4]  # (n_voxels,)
    centre = np.array([[(o >> k) & 1 for k in range(3)] for o in range(8)]) * 10 + 5
    near = np.linalg.norm(place - centre[octant], axis=1) < 3.5
    return np.where(near, octant + 1, 0)


def test_rank_regions__finds_the_planted_region() -> None:
    mask = np.ones((20, 20, 20), dtype=bool)
    place = np.argwhere(mask)
    labels = atlas(mask, place)
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((2, len(place))).astype(np.float32)
    rows[0, labels == 3] -= 1.5
    rows[1, labels == 8] += 1.5
    found = explain.rank_regions(rows, labels, place, n_permutations=300)
    assert list(found.label) == list(range(1, 9))
    np.testing.assert_array_equal(found.n_voxels, np.bincount(labels)[1:])
    assert (found.strength.argmax(axis=1) == [2, 7]).all()
    assert (found.p.argmin(axis=1) == [2, 7]).all()
    assert found.p[0, 2] < 0.02
    np.testing.assert_allclose(found.strength[0, 4], np.abs(rows[0, labels == 5]).mean(), rtol=1e-6)


def test_rank_regions__is_calibrated_for_smooth_maps() -> None:
    mask = np.ones((20, 20, 20), dtype=bool)
    place = np.argwhere(mask)
    labels = atlas(mask, place)
    rng = np.random.default_rng(1)
    noise = rng.standard_normal((150, 20, 20, 20))
    rows = np.stack([gaussian_filter(n, 1.5, mode="wrap").ravel() for n in noise])
    found = explain.rank_regions(rows.astype(np.float32), labels, place, n_permutations=200)
    # eight regions of a map are nearly independent: 1200 of them, at most 4 standard errors
    for level in (0.05, 0.2):
        assert abs((found.p <= level).mean() - level) < 4 * np.sqrt(level * (1 - level) / 1200)


def test_rank_regions__refuses_an_atlas_of_another_space() -> None:
    rows, place = np.ones((1, 8), np.float32), np.argwhere(np.ones((2, 2, 2)))
    with pytest.raises(InputError, match="no region in the mask"):
        explain.rank_regions(rows, np.zeros(8, np.int64), place)

"""What representations share: batches that fit the memory."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from torch import Tensor

from axoloci.errors import InputError
from axoloci.tasks.encoder.linear import Linear
from axoloci.tasks.encoder.representation import (
    encode_maps,
    in_parts,
    reconstruct,
)

MASK = np.ones((4, 5, 6), dtype=bool)
ROWS = np.random.default_rng(0).random((37, MASK.sum())).astype(np.float32)


class Greedy(Linear):
    """A representation for whose decoding the memory holds some maps at a time alone."""

    most = 100
    sizes: tuple[int, ...] = ()

    def decode_rows(self, latents: Tensor) -> Tensor:
        self.sizes += (len(latents),)
        if len(latents) > self.most:
            raise torch.OutOfMemoryError
        return super().decode_rows(latents)


def greedy(most: int) -> Greedy:
    basis = np.linalg.svd(ROWS - ROWS.mean(axis=0), full_matrices=False)[2][:3]
    model = Greedy(MASK, ROWS.mean(axis=0), basis, np.eye(3), ROWS.std(axis=0))
    model.most = most
    return model


@pytest.mark.parametrize("most", [1, 3, 15])
def test_encode_maps__goes_on_with_fewer_where_memory_is_short(
    most: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="axoloci")
    model, index = greedy(most), np.arange(5, 37)  # two whole batches
    expected = encode_maps(greedy(100), ROWS.__getitem__, index)
    assert caplog.text == ""
    found = encode_maps(model, ROWS.__getitem__, index)
    for name in ("latents", "mse", "zscored_mse", "r2"):
        one, other = getattr(found, name), getattr(expected, name)
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)
    fits = {1: 1, 3: 2, 15: 8}[most]
    told = f"the GPU's memory does not hold 16 maps: going on with {fits} at once"
    assert [record.getMessage() for record in caplog.records] == [told]
    too_many = [size for size in model.sizes if size > most]
    assert too_many == [16, 8, 4, 2][: len(too_many)]  # each is tried once, in the first batch


def test_reconstruct__goes_on_with_fewer_where_memory_is_short() -> None:
    again = [reconstruct(model, ROWS[:4]) for model in (greedy(100), greedy(3))]
    np.testing.assert_allclose(again[1], again[0], rtol=1e-5)


def test_in_parts__names_what_to_do_where_not_one_map_fits() -> None:
    with pytest.raises(InputError, match=r"does not hold what one map takes.*--device cpu"):
        encode_maps(greedy(0), ROWS.__getitem__, np.arange(3))


def test_in_parts__keeps_the_order_and_remembers_what_fits() -> None:
    rows = torch.arange(11.0)[:, None]

    def double(part: Tensor) -> Tensor:
        if len(part) > 2:
            raise torch.OutOfMemoryError
        return 2 * part

    found, size = in_parts(double, rows, 16)
    np.testing.assert_array_equal(found, 2 * rows)
    assert size == 2

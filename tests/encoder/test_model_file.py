"""Which maps a model takes for those it knows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from axoloci.errors import InputError
from axoloci.io.cohort import Cohort, read_cohort
from axoloci.io.packing import write_cohort
from axoloci.tasks.encoder.linear import Linear
from axoloci.tasks.encoder.model_file import Model, check_scale, read_model, write_model

MASK = np.ones((5, 6, 7), dtype=bool)


def store(path: Path, rows: NDArray[np.float64]) -> Cohort:
    ids = [f"{path.stem}{k}" for k in range(len(rows))]
    write_cohort(path, ids, rows.__getitem__, MASK, np.eye(4))
    return read_cohort(path)


def maps(mean: float, spread: float, seed: int) -> NDArray[np.float64]:
    """Maps (12, n_voxels) of a measure."""
    return mean + spread * np.random.default_rng(seed).standard_normal((12, MASK.sum()))


def model_of(tmp_path: Path, rows: NDArray[np.float64]) -> Model:
    """A model that was fitted on maps."""
    cohort = store(tmp_path / "known.zarr", rows)
    mean = rows.mean(axis=0)
    linear = Linear(MASK, mean, rows[:1] - mean, np.eye(1), rows.std(axis=0))
    index = np.arange(len(rows))
    write_model(
        *(tmp_path / "m.safetensors", "linear", linear, {}, cohort, index[:11], index[11:], {})
    )
    return read_model(tmp_path / "m.safetensors")


@pytest.mark.parametrize("mean", [0.0, 0.02, -0.3, -5.0, 0.45, 6.0])
def test_check_scale__takes_another_scanner_of_any_measure(tmp_path: Path, mean: float) -> None:
    model = model_of(tmp_path, maps(mean, 0.2, seed=0))
    for k, (shift, stretch) in enumerate([(0.0, 1.0), (0.05, 1.1), (-0.05, 0.9)]):
        other = store(tmp_path / f"{k}.zarr", maps(mean + shift, 0.2 * stretch, seed=1))
        check_scale(model, other, tmp_path / "m.safetensors")


@pytest.mark.parametrize(
    ("mean", "ours", "spread", "differs"),
    [
        (0.45, 45.0, 20.0, "mean"),  # percent
        (0.0, 0.0, 20.0, "spread"),
        (0.0, 0.0, 0.002, "spread"),
        (0.0, 1.0, 0.2, "mean"),  # all values one more
        (-0.3, 0.3, 0.2, "mean"),  # of the other sign
        (-5.0, -50.0, 2.0, "mean"),
    ],
)
def test_check_scale__refuses_other_units(
    tmp_path: Path, mean: float, ours: float, spread: float, differs: str
) -> None:
    model = model_of(tmp_path, maps(mean, 0.2, seed=0))
    other = store(tmp_path / "other.zarr", maps(ours, spread, seed=1))
    with pytest.raises(InputError, match=rf"other.zarr: the {differs} of maps is .*differently"):
        check_scale(model, other, tmp_path / "m.safetensors")

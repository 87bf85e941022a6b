"""The Pydra tasks of encoder speak the command's language."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from axoloci.study import REPRESENTATIONS
from axoloci.tasks.encoder import model_file
from axoloci.tasks.encoder.task import EncodeFa, FitLinear, LinearizeEncoder, TrainEncoder


@pytest.fixture
def cohort(tmp_path: Path) -> Path:
    """A folder that has a store's manifest; the command line is only parsed."""
    path = tmp_path / "cohort.zarr"
    path.mkdir()
    (path / "zarr.json").write_text("{}")
    return path


def test_train_encoder__every_field_is_an_option(
    cohort: Path, parsed: Callable[[Any], dict[str, Any]]
) -> None:
    task = TrainEncoder(
        cohort=cohort,
        udip_fa=True,
        n_latents=5,
        channels="4,8",
        epochs=3,
        batch_size=7,
        learning_rate=0.01,
        seed=9,
        precision="bfloat16",
        recompute=True,
        compile=True,
        deterministic=True,
        tensorboard="curves",
        threads=3,
        checkpoint="c.pt",
        out="m.safetensors",
        history="h.tsv",
        image="x",
    )
    params = parsed(task)
    assert params["n_latents"] == 5
    assert tuple(params["channels"]) == (4, 8)
    assert params["batch_size"] == 7
    assert params["learning_rate"] == 0.01
    assert params["seed"] == 9
    assert params["threads"] == 3
    assert params["checkpoint"] == Path("c.pt")
    assert params["precision"] == "bfloat16"
    assert params["tensorboard"] == Path("curves")
    flags = ("udip_fa", "recompute", "compiled", "deterministic")
    assert all(params[flag] for flag in flags)
    left_out = parsed(TrainEncoder(cohort=cohort, out="m", history="h", image="x"))
    assert not any(left_out[flag] for flag in flags)


def test_fit_linear__every_field_is_an_option(
    cohort: Path, nifti: Callable[..., Path], parsed: Callable[[Any], dict[str, Any]]
) -> None:
    numbers = {"n_latents": 5, "variance": 0.8, "bandwidth": 3.0, "seed": 9, "threads": 3}
    task = FitLinear(cohort=cohort, out="m.safetensors", history="h.tsv", image="x", **numbers)
    params = parsed(task)
    assert {name: params[name] for name in numbers} == numbers
    assert params["atlas"] is None
    assert (params["out"], params["history"]) == (Path("m.safetensors"), Path("h.tsv"))
    atlas = nifti("atlas.nii.gz", 2, 2, 2)
    task = FitLinear(cohort=cohort, atlas=atlas, out="m", history="h", image="x")
    assert parsed(task)["atlas"] == atlas


def test_encode_fa__every_field_is_an_option(
    cohort: Path, tmp_path: Path, parsed: Callable[[Any], dict[str, Any]]
) -> None:
    (tmp_path / "m.safetensors").write_bytes(b"")
    task = EncodeFa(
        cohort=cohort,
        model=tmp_path / "m.safetensors",
        training_people="drop",
        threads=3,
        out="l.parquet",
        quality="q.tsv",
        examples="e.npz",
        image="x",
    )
    params = parsed(task)
    assert params["training_people"] == "drop"
    assert params["threads"] == 3
    assert params["out"] == Path("l.parquet")
    assert params["quality"] == Path("q.tsv")
    assert params["examples"] == Path("e.npz")


def test_linearize_encoder__every_field_is_an_option(
    tmp_path: Path, parsed: Callable[[Any], dict[str, Any]]
) -> None:
    for name in ("m.safetensors", "latents.parquet"):
        (tmp_path / name).write_bytes(b"")
    task = LinearizeEncoder(
        model=tmp_path / "m.safetensors",
        latents=tmp_path / "latents.parquet",
        n_people=9,
        threads=3,
        out="l.safetensors",
        image="x",
    )
    params = parsed(task)
    assert params["model_path"] == tmp_path / "m.safetensors"
    assert params["latents_path"] == tmp_path / "latents.parquet"
    assert (params["n_people"], params["threads"]) == (9, 3)
    assert params["out"] == Path("l.safetensors")


def test_latents__are_called_what_a_study_takes_them_for() -> None:
    assert model_file.LATENT_NAMES == REPRESENTATIONS

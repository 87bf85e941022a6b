"""The command line of the encoder: what it writes, what it refuses, how it goes on."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from click.testing import CliRunner, Result
from numpy.typing import NDArray
from safetensors import safe_open

from axoloci.io.cohort import read_cohort
from axoloci.io.files import sha256
from axoloci.io.packing import write_cohort
from axoloci.tasks.encoder import kernel
from axoloci.tasks.encoder.cli import main

IDS = [f"{number:04d}" for number in range(1, 21)]
SMALL = ("--n-latents", "3", "--channels", "2,4", "--epochs", "3", "--batch-size", "6")


def mask(seed: int = 0) -> NDArray[np.bool_]:
    return np.random.default_rng(seed).random((8, 9, 7)) < 0.7


def store(path: Path, inside: NDArray[np.bool_], seed: int = 1, constant: bool = False) -> Path:
    rng = np.random.default_rng(seed)
    mean = rng.random(int(inside.sum()))
    rows = 0.4 + 0.2 * mean + 0.05 * rng.standard_normal((len(IDS), len(mean)))
    if constant:
        rows[4] = 0.5
    write_cohort(path, IDS, rows.__getitem__, inside, np.diag([2.0, 2.0, 2.0, 1.0]))
    return path


@pytest.fixture
def cohort(tmp_path: Path) -> Path:
    return store(tmp_path / "cohort.zarr", mask())


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def train(cohort: Path, out: Path, *more: object) -> Result:
    files = ("--out", out, "--history", out.with_suffix(".tsv"))
    return run("train", "--cohort", cohort, *files, "--device", "cpu", *SMALL, *more)


def encode(cohort: Path, model: Path, to: Path) -> Result:
    return run(
        *("encode", "--cohort", cohort, "--model", model, "--out", to / "latents.parquet"),
        *("--quality", to / "quality.tsv", "--examples", to / "examples.npz", "--threads", 1),
    )


def header(model: Path) -> dict[str, dict[str, object]]:
    with safe_open(model, framework="np") as file:
        content: dict[str, dict[str, object]] = json.loads(file.metadata()["axoloci"])
    return content


def test_train_and_encode__write_what_the_next_steps_read(cohort: Path, tmp_path: Path) -> None:
    model = tmp_path / "model.safetensors"
    assert train(cohort, model).exit_code == 0
    about = header(model)
    assert about["config"]["channels"] == [2, 4]
    assert about["shape"] == [8, 9, 7]
    assert about["mask_sha256"] == read_cohort(cohort).mask_sha256
    assert about["training"]["n_train"] == 18
    history = pd.read_csv(tmp_path / "model.tsv", sep="\t")
    assert list(history) == ["epoch", "train_loss", "validation_loss", "learning_rate"]
    assert list(history.epoch) == [1, 2, 3]

    result = encode(cohort, model, tmp_path)
    assert result.exit_code == 0, result.output
    assert result.stdout == ""
    table = pq.read_table(tmp_path / "latents.parquet")
    assert table.column_names == ["sample_id", "latent_000", "latent_001", "latent_002"]
    assert table["sample_id"].to_pylist() == IDS
    assert {str(kind) for kind in table.schema.types[1:]} == {"float"}
    identity = json.loads(table.schema.metadata[b"axoloci"])
    assert identity["model_sha256"] == sha256(model)
    quality = pd.read_csv(tmp_path / "quality.tsv", sep="\t", dtype={"sample_id": str})
    assert list(quality) == ["sample_id", "reconstruction_mse", "reconstruction_r2"]
    assert list(quality.sample_id) == IDS
    assert (quality.reconstruction_mse > 0).all()
    with np.load(tmp_path / "examples.npz") as examples:
        assert list(examples["sample_id"]) == ["0001", "0007", "0013", "0020"]
        original = read_cohort(cohort).volumes([0, 6, 12, 19])
        np.testing.assert_array_equal(examples["original"], original)
        assert examples["reconstruction"].shape == (4, 8, 9, 7)
        assert not examples["reconstruction"][:, ~mask()].any()
        closeness = np.corrcoef(
            examples["reconstruction"][:, mask()].mean(0), original[:, mask()][0]
        )
        assert closeness[0, 1] > 0.5  # in the maps' own units, near the mean map


def test_train_and_encode__are_byte_for_byte_repeatable(cohort: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        assert train(cohort, tmp_path / name / "model.safetensors").exit_code == 0
        assert encode(cohort, tmp_path / name / "model.safetensors", tmp_path / name).exit_code == 0
    files = sorted(file.name for file in (tmp_path / "a").iterdir())
    assert len(files) == 5
    for name in files:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name


def test_train__killed_and_started_again_makes_the_same_model(
    cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="axoloci")
    assert train(cohort, tmp_path / "whole.safetensors").exit_code == 0
    checkpoint = ("--checkpoint", tmp_path / "checkpoint.pt")
    run_epoch = kernel.Training.run_epoch

    def killed_in_epoch_3(training: kernel.Training) -> kernel.Epoch:
        if len(training.history) == 2:
            raise SystemExit(137)
        return run_epoch(training)

    with monkeypatch.context() as patch:
        patch.setattr(kernel.Training, "run_epoch", killed_in_epoch_3)
        assert train(cohort, tmp_path / "again.safetensors", *checkpoint).exit_code == 137
    assert not (tmp_path / "again.safetensors").exists()
    assert train(cohort, tmp_path / "again.safetensors", *checkpoint).exit_code == 0
    assert "going on after epoch 2" in caplog.text
    for suffix in (".safetensors", ".tsv"):
        whole, again = ((tmp_path / name).with_suffix(suffix) for name in ("whole", "again"))
        assert whole.read_bytes() == again.read_bytes()


def test_train__does_not_go_on_from_a_checkpoint_of_something_else(
    cohort: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out, checkpoint = tmp_path / "model.safetensors", tmp_path / "checkpoint.pt"
    assert train(cohort, out, "--checkpoint", checkpoint).exit_code == 0
    other = store(tmp_path / "other.zarr", mask(), seed=2)
    for arguments, what in (
        ((cohort, out, "--seed", 1), "config"),
        ((other, out), "content_sha256"),
        ((cohort, out, "--threads", torch.get_num_threads() + 1), "threads"),
    ):
        n_threads = torch.get_num_threads()
        caplog.clear()
        assert train(*arguments, "--checkpoint", checkpoint).exit_code == 0
        assert f"of another {what}: training from the start" in caplog.text
        torch.set_num_threads(n_threads)
        assert train(cohort, out, "--checkpoint", checkpoint).exit_code == 0
    first = out.read_bytes()
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    assert train(cohort, out, "--checkpoint", checkpoint).exit_code == 0
    assert "cannot be read" in caplog.text
    assert out.read_bytes() == first


def test_train__does_not_go_on_from_a_checkpoint_of_another_image(
    cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="axoloci")
    arguments = (cohort, tmp_path / "m.safetensors", "--checkpoint", tmp_path / "checkpoint.pt")
    for image, message in (
        ("sha256:a", ""),
        ("sha256:a", "going on after epoch 3"),
        ("sha256:b", "of another image: training from the start"),
        (None, "of another image: training from the start"),
    ):
        caplog.clear()
        if image is None:
            monkeypatch.delenv("AXOLOCI_IMAGE")
        else:
            monkeypatch.setenv("AXOLOCI_IMAGE", image)
        assert train(*arguments).exit_code == 0
        assert message in caplog.text


def test_train__names_the_people_and_the_threads_in_the_models_header(
    cohort: Path, tmp_path: Path
) -> None:
    n_threads = torch.get_num_threads()
    assert train(cohort, tmp_path / "m.safetensors", "--threads", 1).exit_code == 0
    torch.set_num_threads(n_threads)
    about = header(tmp_path / "m.safetensors")["training"]
    trained, held_out = about["train_sample_id"], about["validation_sample_id"]
    assert sorted([*trained, *held_out]) == IDS  # nobody twice, nobody left out
    assert (len(trained), len(held_out)) == (18, 2)
    kept = kernel.Training(
        read_cohort(cohort).rows, 20, mask(), kernel.Config(n_latents=3, channels=(2, 4))
    )
    assert trained == [IDS[row] for row in kept.train_index]
    assert about["threads"] == 1


def test_train__takes_the_published_settings_where_none_is_given(
    cohort: Path, tmp_path: Path
) -> None:
    assert train(cohort, tmp_path / "m.safetensors", "--udip-fa").exit_code == 0
    config = header(tmp_path / "m.safetensors")["config"]
    assert config["center"] is False
    assert config["learning_rate"] == kernel.UDIP_FA.learning_rate
    assert (config["channels"], config["epochs"]) == ([2, 4], 3)  # those were given


def test_encode__refuses_maps_that_are_not_the_models(cohort: Path, tmp_path: Path) -> None:
    model = tmp_path / "model.safetensors"
    assert train(cohort, model).exit_code == 0
    for inside, what in ((mask(seed=3), "mask_sha256"), (mask()[:, :8], "shape")):
        other = store(tmp_path / "other.zarr", inside)
        result = encode(other, model, tmp_path)
        assert result.exit_code == 1
        assert f"other.zarr: its {what} is" in result.output
    assert not (tmp_path / "latents.parquet").exists()


def test_encode__refuses_files_that_are_no_model(cohort: Path, tmp_path: Path) -> None:
    model = tmp_path / "model.safetensors"
    assert train(cohort, model).exit_code == 0
    content = model.read_bytes()
    newer = content.replace(b'\\"format_version\\": 1', b'\\"format_version\\": 2')
    for damaged, message in (
        (content[:-50], "cannot be read"),
        (newer, "newer than 1; update axoloci"),
        (content.replace(b"axoloci-encoder", b"another-encoder"), "is not a model of"),
    ):
        assert damaged != content
        model.write_bytes(damaged)
        result = encode(cohort, model, tmp_path)
        assert result.exit_code == 1
        assert message in result.output


def test_train__names_what_is_wrong_with_maps_and_options(cohort: Path, tmp_path: Path) -> None:
    flat = store(tmp_path / "flat.zarr", mask(), constant=True)
    result = train(flat, tmp_path / "m.safetensors")
    assert result.exit_code == 1
    assert "the map of 0005 has one value in the whole mask" in result.output
    result = train(cohort, tmp_path / "m.safetensors", "--channels", "2,4,8,16")
    assert result.exit_code == 1
    assert "too small for 4 levels" in result.output
    result = train(cohort, tmp_path / "m.safetensors", "--batch-size", 19)
    assert result.exit_code == 1
    assert "fewer than a batch of 19" in result.output
    for bad in (("--channels", "2;4"), ("--channels", "0"), ("--learning-rate", "0")):
        assert train(cohort, tmp_path / "m.safetensors", *bad).exit_code == 2
    assert not (tmp_path / "m.safetensors").exists()

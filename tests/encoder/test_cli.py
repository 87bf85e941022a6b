"""The command line of the encoder: what it writes, what it refuses, how it goes on."""

from __future__ import annotations

import json
import logging
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import safetensors.torch
import torch
from click.testing import CliRunner, Result
from numpy.typing import NDArray
from PIL import Image
from safetensors import safe_open

from axoloci.io.cohort import check_cohort, read_cohort
from axoloci.io.files import sha256
from axoloci.io.nifti import read_nifti, write_nifti
from axoloci.io.packing import write_cohort
from axoloci.tasks.encoder import cli, kernel, linear
from axoloci.tasks.encoder.cli import main
from axoloci.tasks.encoder.representation import held_out

IDS = [f"{number:04d}" for number in range(1, 21)]
SMALL = ("--n-latents", "3", "--channels", "2,4", "--epochs", "3", "--batch-size", "6")


def mask(seed: int = 0) -> NDArray[np.bool_]:
    return np.random.default_rng(seed).random((8, 9, 7)) < 0.7


def store(
    path: Path,
    inside: NDArray[np.bool_],
    seed: int = 1,
    constant: bool = False,
    ids: Sequence[str] = IDS,
    unit: float = 1.0,
    affine: Sequence[float] = (2.0, 2.0, 2.0, 1.0),
) -> Path:
    rng = np.random.default_rng(seed)
    mean = rng.random(int(inside.sum()))
    rows = 0.4 + 0.2 * mean + 0.05 * rng.standard_normal((len(IDS), len(mean)))
    if constant:
        rows[4] = 0.5
    write_cohort(path, ids, (unit * rows).__getitem__, inside, np.diag(affine))
    return path


def damage(cohort: Path) -> str:
    """Spoil the stored map of somebody in the middle, who is returned."""
    (shard,) = (path for path in (cohort / "fa" / "c").rglob("*") if path.is_file())
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 0xFF
    shard.write_bytes(bytes(content))
    (who,) = check_cohort(read_cohort(cohort)).damaged
    return who


@pytest.fixture
def cohort(tmp_path: Path) -> Path:
    return store(tmp_path / "cohort.zarr", mask())


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def train(cohort: Path, out: Path, *more: object) -> Result:
    files = ("--out", out, "--history", out.with_suffix(".tsv"))
    return run("train", "--cohort", cohort, *files, "--device", "cpu", *SMALL, *more)


def fit_linear(cohort: Path, out: Path, *more: object) -> Result:
    files = ("--out", out, "--history", out.with_suffix(".tsv"))
    return run("fit-linear", "--cohort", cohort, *files, "--device", "cpu", *more)


def encode(cohort: Path, model: Path, to: Path, training_people: str = "keep") -> Result:
    return run(
        *("encode", "--cohort", cohort, "--model", model, "--out", to / "latents.parquet"),
        *("--quality", to / "quality.tsv", "--examples", to / "examples.npz", "--threads", 1),
        *("--training-people", training_people),
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
    assert list(quality) == [
        *("sample_id", "reconstruction_mse", "reconstruction_r2", "outlier", "in_training"),
    ]
    assert list(quality.sample_id) == IDS
    trained = header(model)["training"]["train_sample_id"]
    assert list(quality.sample_id[quality.in_training == 1]) == trained
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
    assert len(files) == 6
    for name in files:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name


def test_train__in_slower_and_smaller_ways_makes_the_same_model(
    cohort: Path, tmp_path: Path
) -> None:
    assert train(cohort, tmp_path / "plain.safetensors").exit_code == 0
    plain = safetensors.torch.load_file(tmp_path / "plain.safetensors")
    try:
        for option in ("--deterministic", "--recompute"):
            assert train(cohort, tmp_path / "other.safetensors", option).exit_code == 0
            other = safetensors.torch.load_file(tmp_path / "other.safetensors")
            assert all(torch.equal(plain[name], other[name]) for name in plain)
    finally:
        torch.use_deterministic_algorithms(False)
    assert train(cohort, tmp_path / "other.safetensors", "--precision", "bfloat16").exit_code == 0
    assert header(tmp_path / "other.safetensors")["config"]["precision"] == "bfloat16"
    other = safetensors.torch.load_file(tmp_path / "other.safetensors")
    assert not torch.equal(plain["to_latents.weight"], other["to_latents.weight"])


def test_train__killed_and_started_again_makes_the_same_model(
    cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="axoloci")
    assert train(cohort, tmp_path / "whole.safetensors").exit_code == 0
    checkpoint = ("--checkpoint", tmp_path / "checkpoint.pt")
    run_epoch = kernel.Training.run_epoch

    def killed_in_epoch_3(training: kernel.Training, *given: Any) -> kernel.Epoch:
        if len(training.history) == 2:
            raise SystemExit(137)
        return run_epoch(training, *given)

    with monkeypatch.context() as patch:
        patch.setattr(kernel.Training, "run_epoch", killed_in_epoch_3)
        assert train(cohort, tmp_path / "again.safetensors", *checkpoint).exit_code == 137
    assert not (tmp_path / "again.safetensors").exists()
    assert train(cohort, tmp_path / "again.safetensors", *checkpoint).exit_code == 0
    assert "going on after epoch 2" in caplog.text
    for suffix in (".safetensors", ".tsv"):
        whole, again = ((tmp_path / name).with_suffix(suffix) for name in ("whole", "again"))
        assert whole.read_bytes() == again.read_bytes()


def test_train__killed_in_mid_epoch_goes_on_within_it(
    cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="axoloci")
    assert train(cohort, tmp_path / "whole.safetensors").exit_code == 0
    monkeypatch.setattr(cli, "CHECKPOINT_SECONDS", 0.0)
    take_step = kernel.Training._step

    def killed_in_epoch_2(training: kernel.Training, *given: Any) -> torch.Tensor:
        if (len(training.history), training.step) == (1, 2):
            raise SystemExit(137)
        return take_step(training, *given)

    again = ("--checkpoint", tmp_path / "checkpoint.pt")
    with monkeypatch.context() as patch:
        patch.setattr(kernel.Training, "_step", killed_in_epoch_2)
        assert train(cohort, tmp_path / "again.safetensors", *again).exit_code == 137
    assert train(cohort, tmp_path / "again.safetensors", *again).exit_code == 0
    assert "going on after epoch 1 and 2 steps of the next" in caplog.text
    for suffix in (".safetensors", ".tsv"):
        one, other = ((tmp_path / name).with_suffix(suffix) for name in ("whole", "again"))
        assert one.read_bytes() == other.read_bytes()


def test_train__draws_curves_for_tensorboard(cohort: Path, tmp_path: Path) -> None:
    result = train(cohort, tmp_path / "m.safetensors", "--tensorboard", tmp_path / "curves")
    assert result.exit_code == 0, result.output
    (events,) = (tmp_path / "curves").iterdir()
    drawn = list(read_events(events))
    history = pd.read_csv(tmp_path / "m.tsv", sep="\t")
    for tag, column in (("loss/training", "train_loss"), ("loss/held_out", "validation_loss")):
        points = [(step, value) for name, step, value in drawn if name == tag]
        assert [step for step, _ in points] == [1, 2, 3]
        np.testing.assert_allclose([value for _, value in points], history[column], rtol=1e-6)


def read_events(path: Path) -> Iterator[tuple[str, int, float]]:
    """Scalars of a TensorBoard file: records of length, checksum, protocol buffer, checksum."""
    from tensorboardX.proto.event_pb2 import Event

    content = path.read_bytes()
    place = 0
    while place < len(content):
        length = int.from_bytes(content[place : place + 8], "little")
        event = Event.FromString(content[place + 12 : place + 12 + length])
        place += 12 + length + 4
        for value in event.summary.value:
            yield value.tag, event.step, value.simple_value


def test_train__in_two_processes_writes_one_model(cohort: Path, tmp_path: Path) -> None:
    damaged = damage(cohort)
    assert train(cohort, tmp_path / "one.safetensors").exit_code == 0
    program = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2"]
    step = ["--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0", "-m", "axoloci.tasks.encoder.cli"]
    files = ("--out", tmp_path / "two.safetensors", "--history", tmp_path / "two.tsv")
    files += ("--checkpoint", tmp_path / "checkpoint.pt")
    command = (*program, *step, "train", "--cohort", cohort, *files, "--device", "cpu", *SMALL)
    run = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stderr.count(f"left out: {damaged}") == 1
    assert run.stderr.count("training on 17 maps") == 1
    assert header(tmp_path / "two.safetensors")["training"]["n_processes"] == 2
    one, two = (pd.read_csv(tmp_path / f"{name}.tsv", sep="\t") for name in ("one", "two"))
    np.testing.assert_allclose(two.validation_loss, one.validation_loss, rtol=1e-4)
    before = sha256(tmp_path / "two.safetensors")
    run = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stderr.count("going on after epoch 3") == 1
    assert sha256(tmp_path / "two.safetensors") == before


def test_train__does_not_go_on_from_a_checkpoint_of_something_else(
    cohort: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out, checkpoint = tmp_path / "model.safetensors", tmp_path / "checkpoint.pt"
    assert train(cohort, out, "--checkpoint", checkpoint).exit_code == 0
    other = store(tmp_path / "other.zarr", mask(), seed=2)
    for arguments, what in (
        ((cohort, out, "--seed", 1), "seed 0 → 1"),
        ((cohort, out, "--epochs", 2), "3 epochs are done → 2"),
        ((other, out), "content_sha256"),
        ((cohort, out, "--threads", torch.get_num_threads() + 1), "threads"),
    ):
        n_threads = torch.get_num_threads()
        caplog.clear()
        assert train(*arguments, "--checkpoint", checkpoint).exit_code == 0
        assert f"is of another training ({what}" in caplog.text
        assert f"kept as {checkpoint}.old, training from the start" in caplog.text
        torch.set_num_threads(n_threads)
        assert train(cohort, out, "--checkpoint", checkpoint).exit_code == 0
    first = out.read_bytes()
    damaged = checkpoint.read_bytes()[:1000]
    checkpoint.write_bytes(damaged)
    assert train(cohort, out, "--checkpoint", checkpoint).exit_code == 0
    assert f"{checkpoint} is damaged; kept as" in caplog.text
    assert Path(f"{checkpoint}.old").read_bytes() == damaged
    assert out.read_bytes() == first


@pytest.mark.parametrize("learn", [train, fit_linear])
def test_train__holds_out_people_with_all_their_sessions(
    tmp_path: Path, learn: Callable[..., Result]
) -> None:
    ids = [f"{k:02d}_ses-{session}" for k in range(10) for session in (1, 2)]
    sessions = store(tmp_path / "s.zarr", mask(), ids=ids)
    assert learn(sessions, tmp_path / "m.safetensors").exit_code == 0
    about = header(tmp_path / "m.safetensors")["training"]
    trained, held_out = (
        {name.split("_")[0] for name in about[f"{kind}_sample_id"]}  # type: ignore[attr-defined]
        for kind in ("train", "validation")
    )
    assert len(held_out) == 1
    assert not trained & held_out


def test_train__goes_on_where_more_epochs_are_asked_for(cohort: Path, tmp_path: Path) -> None:
    models = [tmp_path / f"{name}.safetensors" for name in ("more", "whole")]
    for epochs in (2, 4):
        result = train(cohort, models[0], "--epochs", epochs, "--checkpoint", tmp_path / "c.pt")
        assert result.exit_code == 0, result.output
    assert train(cohort, models[1], "--epochs", 4).exit_code == 0
    assert models[0].read_bytes() == models[1].read_bytes()


def test_train__says_when_it_learnt_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    noise = np.random.default_rng(0).random((20, int(mask().sum())))
    write_cohort(tmp_path / "n.zarr", IDS, noise.__getitem__, mask(), np.eye(4))
    assert train(tmp_path / "n.zarr", tmp_path / "m.safetensors").exit_code == 0
    assert "no better than their mean map does" in caplog.text


def test_train__refuses_outputs_before_it_begins(cohort: Path, tmp_path: Path) -> None:
    table = tmp_path / "mine.tsv"
    table.write_text("precious\n")
    result = train(cohort, tmp_path / "m.safetensors", "--checkpoint", table)
    assert result.exit_code == 1
    assert f"{table} is no checkpoint; give another --checkpoint" in result.output
    assert table.read_text() == "precious\n"
    same = tmp_path / "m.safetensors"
    result = train(cohort, same, "--checkpoint", same)
    assert f"--out and --checkpoint are both {same}; give each a file of its own" in result.output
    result = train(cohort, table / "m.safetensors")
    assert f"--out {table / 'm.safetensors'}: {table} is no folder" in result.output


def test_train__does_not_go_on_from_a_checkpoint_of_another_image(
    cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="axoloci")
    arguments = (cohort, tmp_path / "m.safetensors", "--checkpoint", tmp_path / "checkpoint.pt")
    for image, message in (
        ("sha256:a", ""),
        ("sha256:a", "going on after epoch 3"),
        ("sha256:b", "(image sha256:a → sha256:b); kept as"),
        (None, "(image sha256:b → None); kept as"),
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
        read_cohort(cohort).rows, np.arange(20), mask(), kernel.Config(n_latents=3, channels=(2, 4))
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
    for inside, given, message in (
        (mask(seed=3), {}, "its mask_sha256 is"),
        (mask()[:, :8], {}, "its shape is"),
        (mask(), {"affine": (2.0, 2.0, 2.5, 1.0)}, "its affine is"),
        (mask(), {"unit": 100.0}, "the mean of maps is 49.*: the maps are scaled differently"),
    ):
        other = store(tmp_path / "other.zarr", inside, **given)  # type: ignore[arg-type]
        result = encode(other, model, tmp_path)
        assert result.exit_code == 1
        assert re.search(rf"other.zarr: {message}", result.output), result.output
    assert not (tmp_path / "latents.parquet").exists()


def test_encode__refuses_the_people_the_model_was_trained_on_unless_told(
    cohort: Path, tmp_path: Path
) -> None:
    model = tmp_path / "model.safetensors"
    assert train(cohort, model).exit_code == 0
    some = [*IDS[:5], *(f"new{k}" for k in range(15))]
    other = store(tmp_path / "other.zarr", mask(), seed=3, ids=some)
    result = encode(other, model, tmp_path, "refuse")
    assert result.exit_code == 1
    told = "was trained on 4 of its 20 people and saw 1 more, held out of training; keep them by"
    assert told in " ".join(result.output.split())
    assert not (tmp_path / "latents.parquet").exists()
    for choice, expected in (("drop", some[5:]), ("keep", some)):
        assert encode(other, model, tmp_path, choice).exit_code == 0
        table = pq.read_table(tmp_path / "latents.parquet")
        assert table["sample_id"].to_pylist() == expected
        assert list(pd.read_csv(tmp_path / "quality.tsv", sep="\t").sample_id) == expected
    result = encode(cohort, model, tmp_path, "drop")
    assert result.exit_code == 1
    told = "was trained on 18 of its 20 people and saw 2 more, held out of training: nobody is left"
    assert told in " ".join(result.output.split())


def test_encode__names_whose_map_is_made_again_badly(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rng = np.random.default_rng(0)
    n = int(mask().sum())
    region = rng.standard_normal(n)
    rows = 0.4 + 0.05 * rng.standard_normal((20, 1)) * region + 0.01 * rng.random((20, n))
    unseen = held_out(np.arange(20), 0.1, 0)[1][0]
    rows[unseen] = 0.4 + 0.2 * rng.standard_normal(n)
    write_cohort(tmp_path / "c.zarr", IDS, rows.__getitem__, mask(), np.eye(4))
    model = tmp_path / "model.safetensors"
    assert fit_linear(tmp_path / "c.zarr", model, "--n-latents", 1, "--bandwidth", 0).exit_code == 0
    assert encode(tmp_path / "c.zarr", model, tmp_path).exit_code == 0
    quality = pd.read_csv(tmp_path / "quality.tsv", sep="\t", dtype={"sample_id": str})
    assert list(quality.sample_id[quality.outlier == 1]) == [IDS[unseen]]
    assert f"{IDS[unseen]}: the reconstruction error stands out" in caplog.text


def test_fit_linear__makes_a_model_that_encodes_as_its_components_say(
    cohort: Path, tmp_path: Path
) -> None:
    model = tmp_path / "model.safetensors"
    assert fit_linear(cohort, model, "--n-latents", 3, "--bandwidth", 0).exit_code == 0
    assert header(model)["kind"] == "linear"
    history = pd.read_csv(tmp_path / "model.tsv", sep="\t")
    assert list(history) == ["component", "variance", "variance_kept"]
    assert list(history.component) == [f"component_{k:03d}" for k in range(3)]
    result = encode(cohort, model, tmp_path)
    assert result.exit_code == 0, result.output
    table = pq.read_table(tmp_path / "latents.parquet").to_pandas()
    assert list(table)[1:] == list(history.component)
    trained = [IDS.index(name) for name in header(model)["training"]["train_sample_id"]]  # type: ignore[attr-defined]
    maps = read_cohort(cohort).rows().astype(np.float64)
    centred = maps - maps[trained].mean(axis=0)
    _, singular, basis = np.linalg.svd(centred[trained], full_matrices=False)
    np.testing.assert_allclose(history.variance, singular[:3] ** 2 / 17, rtol=1e-4)
    found = table.iloc[:, 1:].to_numpy()
    expected = centred @ basis[:3].T
    signs = np.sign((found * expected).sum(axis=0))
    np.testing.assert_allclose(found, signs * expected, atol=1e-4)


@pytest.mark.parametrize(
    ("n_passes", "settled"), [(linear.MAX_PASSES, True), (1, False)], ids=["all", "one pass"]
)
def test_fit_linear__tells_calmly_how_far_the_components_are_settled(
    n_passes: int,
    settled: bool,
    cohort: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(linear, "MAX_PASSES", n_passes)
    monkeypatch.setattr(linear, "OVERSAMPLING", 1)
    model = tmp_path / "model.safetensors"
    with caplog.at_level("INFO", logger="axoloci"):
        assert fit_linear(cohort, model, "--n-latents", 3, "--bandwidth", 0).exit_code == 0
    about = header(model)["training"]
    found = about["subspace_angle"] <= linear.TOLERANCE  # type: ignore[operator]
    assert found == settled == (about["n_settled"] == 3)
    assert 1 <= about["n_passes"] <= n_passes  # type: ignore[operator]
    told = [record for record in caplog.records if "components are settled" in record.getMessage()]
    assert [record.levelname for record in told] == ([] if settled else ["INFO"])
    assert "| subspace_angle |" in (tmp_path / "model.md").read_text()


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--n-latents", 2, "--variance", 0.5), "--n-latents and --variance"),
        (("--atlas", "ATLAS", "--n-latents", 2), "--atlas goes without --n-latents"),
        (("--atlas", "ATLAS", "--variance", 0.5), "--atlas goes without --variance"),
        (("--atlas", "ATLAS", "--bandwidth", 0), "--atlas goes without --bandwidth"),
    ],
)
def test_fit_linear__refuses_options_that_would_be_ignored(
    options: tuple[object, ...], named: str, cohort: Path, tmp_path: Path
) -> None:
    atlas = tmp_path / "atlas.nii.gz"
    atlas.write_bytes(b"")  # refused before it is read
    filled = [atlas if option == "ATLAS" else option for option in options]
    result = fit_linear(cohort, tmp_path / "model.safetensors", *filled)
    assert result.exit_code == 2
    assert named in result.output
    assert not (tmp_path / "model.safetensors").exists()


def test_models__have_a_card_for_people(cohort: Path, tmp_path: Path) -> None:
    assert train(cohort, tmp_path / "a.safetensors").exit_code == 0
    assert fit_linear(cohort, tmp_path / "b.safetensors", "--variance", "0.5").exit_code == 0
    for name, first in (("a", "# Convolutional autoencoder"), ("b", "# Linear representation")):
        card = (tmp_path / f"{name}.md").read_text()
        assert card.startswith(f"{first} of FA maps")
        assert "maps of 18 people without labels; 2 people were held out" in card
        assert "8×9×7 voxels of 2 × 2 × 2 mm" in card
        assert "0001" not in card  # no one's name
    kept = header(tmp_path / "b.safetensors")["training"]["variance_kept"]
    assert 0.5 <= kept < 0.7  # type: ignore[operator]


def test_encode__refuses_files_that_are_no_model(cohort: Path, tmp_path: Path) -> None:
    model = tmp_path / "model.safetensors"
    assert train(cohort, model).exit_code == 0
    content = model.read_bytes()
    newer, older = (
        content.replace(b'\\"format_version\\": 4', b'\\"format_version\\": %d' % version)
        for version in (5, 3)
    )
    for damaged, message in (
        (content[:-50], "cannot be read"),
        (newer, "newer than 4; update axoloci"),
        (older, "older than 4; train the model again"),
        (content.replace(b"axoloci-encoder", b"another-encoder"), "is not a model of"),
    ):
        assert damaged != content
        model.write_bytes(damaged)
        result = encode(cohort, model, tmp_path)
        assert result.exit_code == 1
        assert message in result.output


def test_train__names_what_is_wrong_with_options(cohort: Path, tmp_path: Path) -> None:
    result = train(cohort, tmp_path / "m.safetensors", "--channels", "2,4,8,16")
    assert result.exit_code == 1
    assert "too small for 4 levels" in result.output
    result = train(cohort, tmp_path / "m.safetensors", "--batch-size", 19)
    assert result.exit_code == 1
    assert "fewer than a batch of 19" in result.output
    for bad in (("--channels", "2;4"), ("--channels", "0"), ("--learning-rate", "0")):
        assert train(cohort, tmp_path / "m.safetensors", *bad).exit_code == 2
    assert not (tmp_path / "m.safetensors").exists()


def planted(
    path: Path, n: int = 60, ids: str = "p", seed: int = 0
) -> tuple[Path, NDArray[np.float64], NDArray[np.intp]]:
    """A store of maps in which two halves of a box vary, by which factors, and the halves."""
    rng = np.random.default_rng(seed)
    inside = np.ones((8, 9, 7), dtype=bool)
    half = (np.argwhere(inside)[:, 0] >= 4).astype(np.intp)  # (n_voxels,)
    factors = rng.standard_normal((n, 2))
    base = 0.4 + 0.1 * np.sin(np.arange(len(half)))
    rows = (
        base + 0.02 * (factors * [1.5, 0.7])[:, half] + 0.01 * rng.standard_normal((n, len(half)))
    )
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    write_cohort(path, [f"{ids}{k}" for k in range(n)], rows.__getitem__, inside, affine)
    return path, factors, half


@pytest.mark.parametrize("kind", ["linear", "autoencoder"])
def test_explain__shows_where_in_the_brain_a_latent_is(tmp_path: Path, kind: str) -> None:
    cohort, factors, half = planted(tmp_path / "c.zarr")
    model = tmp_path / "m.safetensors"
    options = ("--n-latents", 2)
    if kind == "linear":
        assert fit_linear(cohort, model, *options, "--bandwidth", 0).exit_code == 0
    else:
        more = ("--channels", "4,8", "--epochs", 2, "--history", tmp_path / "h.tsv")
        result = run("train", "--cohort", cohort, "--out", model, *more, *options)
        assert result.exit_code == 0, result.output
    assert encode(cohort, model, tmp_path).exit_code == 0
    latents = pq.read_table(tmp_path / "latents.parquet").to_pandas().iloc[:, 1:]
    labels = np.zeros((8, 9, 7), dtype=np.float32)
    labels[:4], labels[4:] = 3, 5
    write_nifti(tmp_path / "atlas.nii.gz", labels, np.diag([2.0, 2.0, 2.0, 1.0]))
    (tmp_path / "names.txt").write_text("3 left half\n5 right half\n")
    out = tmp_path / "explained"
    result = run(
        *("explain", "--cohort", cohort, "--model", model, "--out", out, "--permutations", 50),
        *("--atlas", tmp_path / "atlas.nii.gz", "--names", tmp_path / "names.txt"),
    )
    assert result.exit_code == 0, result.output
    effect, affine = read_nifti(out / "effect.nii.gz", ndim=4)
    assert effect.shape == (8, 9, 7, 2)
    np.testing.assert_array_equal(affine, np.diag([2.0, 2.0, 2.0, 1.0]))
    derivative, _ = read_nifti(out / "derivative.nii.gz", ndim=4)
    assert (out / "effect_t.nii.gz").exists() == (kind == "autoencoder")
    table = pd.read_csv(out / "latents.tsv", sep="\t")
    assert list(table.latent) == list(latents)
    strongest = np.abs(effect).max(axis=(0, 1, 2)).argmax()
    for k, name in enumerate(latents):
        if kind == "autoencoder" and k != strongest:
            continue  # z-scored maps differ by one thing: how unlike the halves are
        # where the factors that the latent follows act, its maps are as the regression says
        slopes = np.polyfit(latents[name], factors * [1.5, 0.7], 1)[0]  # of the two factors
        expected = slopes[half] - slopes[half].mean() * (kind == "autoencoder")
        for maps in (effect[..., k].ravel(), derivative[..., k].ravel()):
            cosine = maps @ expected / np.linalg.norm(maps) / np.linalg.norm(expected)
            assert cosine > 0.8
    regions = pd.read_csv(out / "regions.tsv", sep="\t")
    assert set(regions.region) == {"left_half", "right_half"}
    with Image.open(out / "latents.png") as picture:
        assert picture.size[1] == 2 * 160
    wrong = run("explain", "--cohort", cohort, "--model", model, "--out", out, "--latent", "x")
    assert wrong.exit_code == 1
    assert "has no 'x'; known:" in wrong.output
    for k, name in enumerate(table.latent):
        peak = np.abs(effect[..., k]).max()
        assert abs(table.peak_effect[k]) == pytest.approx(peak, rel=1e-5), name
    wrong = run(
        *("explain", "--cohort", cohort, "--model", model, "--out", out),
        *("--names", tmp_path / "names.txt"),
    )
    assert wrong.exit_code == 2
    assert "--names are those of an --atlas" in wrong.output


def test_commands__leave_out_people_whose_maps_have_one_value(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    flat, model = store(tmp_path / "flat.zarr", mask(), constant=True), tmp_path / "m.safetensors"
    others = [name for name in IDS if name != "0005"]
    for learn in (train, fit_linear):
        caplog.clear()
        assert learn(flat, model).exit_code == 0
        assert "one value in the whole mask, who are left out: 0005" in caplog.text
        about = header(model)["training"]
        assert sorted([*about["train_sample_id"], *about["validation_sample_id"]]) == others  # type: ignore[misc]
    assert encode(flat, model, tmp_path).exit_code == 0
    assert pq.read_table(tmp_path / "latents.parquet")["sample_id"].to_pylist() == others
    quality = pd.read_csv(tmp_path / "quality.tsv", sep="\t", dtype={"sample_id": str})
    assert list(quality.sample_id) == IDS  # it tells who could not be encoded
    assert list(quality.sample_id[quality.reconstruction_r2.isna()]) == ["0005"]
    assert (quality.outlier.isna() == (quality.sample_id == "0005")).all()
    out = tmp_path / "explained"
    result = run(
        "explain", "--cohort", flat, "--model", model, "--out", out, "--latent", "component_000"
    )
    assert result.exit_code == 0, result.output


def test_encode__reads_only_the_maps_of_those_it_encodes(cohort: Path, tmp_path: Path) -> None:
    model = tmp_path / "model.safetensors"
    assert fit_linear(cohort, model, "--n-latents", 1).exit_code == 0
    some = [f"sub-{IDS[0]}_ses-2", *IDS[1:5], *(f"new{k}" for k in range(15))]
    other = store(tmp_path / "other.zarr", mask(), seed=3, ids=some)
    (shard,) = (path for path in (other / "fa" / "c").rglob("*") if path.is_file())
    content = bytearray(shard.read_bytes())
    index = np.frombuffer(content[-(20 * 16 + 4) : -4], dtype="<u8").reshape(20, 2)
    content[int(index[2].sum()) - 9] ^= 1  # of somebody in training
    shard.write_bytes(bytes(content))
    assert check_cohort(read_cohort(other)).damaged == (IDS[2],)
    result = encode(other, model, tmp_path, "drop")
    assert result.exit_code == 0, result.output
    # another session of somebody in training is left out as well
    assert pq.read_table(tmp_path / "latents.parquet")["sample_id"].to_pylist() == some[5:]


def test_commands__leave_out_people_whose_stored_maps_are_damaged(
    cohort: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = tmp_path / "model.safetensors"
    assert train(cohort, model).exit_code == 0
    damage(cohort)
    assert encode(cohort, model, tmp_path).exit_code == 0
    who = pq.read_table(tmp_path / "latents.parquet")["sample_id"].to_pylist()
    (damaged,) = set(IDS) - set(who)
    assert f"the stored maps of 1 people are damaged, who are left out: {damaged}" in caplog.text
    assert train(cohort, tmp_path / "again.safetensors").exit_code == 0
    about = header(tmp_path / "again.safetensors")["training"]
    assert damaged not in [*about["train_sample_id"], *about["validation_sample_id"]]  # type: ignore[misc]

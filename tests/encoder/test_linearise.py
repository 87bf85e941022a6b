"""The tangent of a decoder, beside finite differences and a decoder that is linear."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner, Result
from numpy.typing import NDArray
from safetensors import safe_open

from axoloci.io.bases import Basis, read_basis
from axoloci.io.cohort import read_cohort
from axoloci.io.files import sha256
from axoloci.io.packing import write_cohort
from axoloci.io.tables import write_latents
from axoloci.tasks.encoder.cli import main
from axoloci.tasks.encoder.linear import Linear
from axoloci.tasks.encoder.linearise import linear_share, tangent
from axoloci.tasks.encoder.model_file import read_model

N_PEOPLE = 20


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small autoencoder, trained for a moment."""
    folder = tmp_path_factory.mktemp("model")
    rng = np.random.default_rng(0)
    mask = rng.random((8, 9, 7)) < 0.7
    maps = 0.4 + 0.1 * rng.standard_normal((N_PEOPLE, int(mask.sum())))
    ids = [f"{number:04d}" for number in range(N_PEOPLE)]
    write_cohort(folder / "cohort.zarr", ids, maps.__getitem__, mask, np.diag([2.0, 2, 2, 1]))
    path = folder / "model.safetensors"
    done = run(
        *("train", "--cohort", folder / "cohort.zarr", "--out", path, "--device", "cpu"),
        *("--history", folder / "history.tsv", "--threads", 1, "--n-latents", 3),
        *("--channels", "2,4", "--epochs", 4, "--batch-size", 5, "--learning-rate", 0.02),
    )
    assert done.exit_code == 0, done.output
    return path


def linearised(model: Path, out: Path, *more: object) -> Basis:
    done = run("linearise", "--model", model, "--out", out, "--device", "cpu", *more)
    assert done.exit_code == 0, done.output + repr(done.exception)
    return read_basis(out)


def differences(model: Path, points: NDArray[np.float32]) -> NDArray[np.float64]:
    """Mean over points of central differences of the decoder, in float64, (r, n_voxels)."""
    network = read_model(model).representation.double()
    step, rows = 1e-5, []
    with torch.no_grad():
        for k in range(points.shape[1]):
            away = torch.zeros(points.shape[1], dtype=torch.float64)
            away[k] = step
            up, down = (
                network.decode_rows(torch.from_numpy(points).double() + way)
                for way in (away, -away)
            )
            rows.append(((up - down) / (2 * step)).mean(dim=0).numpy())
    return np.stack(rows)


def test_linearise__equals_differences_of_the_decoder_at_the_mean_map(
    model: Path, tmp_path: Path
) -> None:
    found = linearised(model, tmp_path / "l.safetensors")
    network = read_model(model).representation
    with torch.no_grad():
        point = network.encode_rows(network.mean_rows[None])
        decoded = network.decode_rows(point)[0].numpy()
    expected = differences(model, point.numpy())
    assert np.abs(found.basis - expected).max() < 1e-4 * np.abs(expected).max()
    np.testing.assert_allclose(found.mean + point.numpy()[0] @ found.basis, decoded, atol=1e-5)
    assert found.linearised
    assert found.latents == read_model(model).latent_names
    cohort, trained = read_cohort(model.parent / "cohort.zarr"), read_model(model).trained
    maps = cohort.rows(np.flatnonzero([name in trained for name in cohort.sample_id]))
    z = (maps - maps.mean(axis=1)[:, None]) / maps.std(axis=1)[:, None]
    np.testing.assert_allclose(found.voxel_sd, z.std(axis=0, ddof=1), rtol=1e-4)


def test_linearise__of_people_is_the_mean_over_them(model: Path, tmp_path: Path) -> None:
    latents = np.random.default_rng(1).standard_normal((7, 3)).astype(np.float32)
    names, ids = read_model(model).latent_names, [f"i{k}" for k in range(7)]
    write_latents(tmp_path / "latents.parquet", ids, latents, names, sha256(model))
    out = tmp_path / "l.safetensors"
    found = linearised(model, out, "--latents", tmp_path / "latents.parquet", "--n-people", 3)
    chosen = latents[[0, 3, 6]]
    expected = differences(model, chosen)
    assert np.abs(found.basis - expected).max() < 1e-4 * np.abs(expected).max()
    with torch.no_grad():
        maps = read_model(model).representation.decode_rows(torch.from_numpy(chosen)).numpy()
    at = chosen.mean(axis=0)
    np.testing.assert_allclose(found.mean + at @ found.basis, maps.mean(axis=0), atol=1e-5)


def test_linearise__tells_no_person_s_id_or_map(model: Path, tmp_path: Path) -> None:
    latents = np.random.default_rng(1).standard_normal((4, 3)).astype(np.float32)
    names, ids = read_model(model).latent_names, [f"participant{k}" for k in range(4)]
    path, out = tmp_path / "latents.parquet", tmp_path / "l.safetensors"
    write_latents(path, ids, latents, names, sha256(model))
    linearised(model, out, "--latents", path)
    assert b"participant" not in out.read_bytes()
    with safe_open(out, framework="numpy") as file:
        about = json.loads(file.metadata()["axoloci"])
    assert (about["n_people"], about["latents_sha256"]) == (4, sha256(path))
    given = ("linearise", "--model", model, "--out", tmp_path / "one.safetensors")
    done = run(*given, "--latents", path, "--n-people", 1)
    assert done.exit_code == 2
    assert "1 is not in the range x>=2" in done.output
    write_latents(path, ids[:1], latents[:1], names, sha256(model))
    done = run(*given, "--latents", path)
    assert done.exit_code == 1
    assert "1 people have all latents, and 2 are needed" in done.output
    assert not (tmp_path / "one.safetensors").exists()


def test_linearise__names_missing_latents_and_refuses_a_linear_model(
    model: Path, tmp_path: Path
) -> None:
    table = pd.DataFrame({"sample_id": ["a"], "latent_000": [0.0], "latent_001": [0.0]})
    table.to_parquet(tmp_path / "few.parquet", index=False)
    given = ("linearise", "--model", model, "--out", tmp_path / "l.safetensors")
    done = run(*given, "--latents", tmp_path / "few.parquet")
    assert done.exit_code == 1
    assert "no column 'latent_002'" in done.output
    path = tmp_path / "linear.safetensors"
    cohort = ("--cohort", model.parent / "cohort.zarr", "--out", path, "--device", "cpu")
    assert run("fit-linear", *cohort, "--history", tmp_path / "h.tsv").exit_code == 0
    done = run("linearise", "--model", path, "--out", tmp_path / "l.safetensors")
    assert done.exit_code == 1
    assert "is linear already" in done.output


def test_tangent__of_a_linear_decoder_is_its_basis_and_the_whole_of_it() -> None:
    rng = np.random.default_rng(2)
    mean, basis = rng.random(12, np.float32), rng.random((3, 12), np.float32)
    linear = Linear(np.ones((3, 2, 2), bool), mean, basis, np.eye(3), np.ones_like(mean))
    latents = rng.standard_normal((5, 3)).astype(np.float32)
    found = tangent(linear.decode_rows, latents)
    np.testing.assert_allclose(found[1], basis, rtol=1e-6)
    np.testing.assert_allclose(found[0], (mean + latents @ basis).mean(axis=0), rtol=1e-6)
    share = linear_share(linear.decode_rows, latents, *found, latents.mean(axis=0))
    assert share == pytest.approx(1, abs=1e-6)


def test_linear_share__falls_where_the_decoder_bends() -> None:
    latents = np.random.default_rng(3).standard_normal((400, 1)).astype(np.float32)
    latents -= latents.mean()

    def bent(codes: torch.Tensor) -> torch.Tensor:
        return codes + 0.5 * codes**2

    mean, basis = tangent(bent, latents)
    share = linear_share(bent, latents, mean, basis, latents.mean(axis=0))
    z = latents[:, 0]
    expected = 1 - np.var(0.5 * z**2) / np.var(z + 0.5 * z**2)
    assert share == pytest.approx(expected, abs=1e-4)
    assert share < 0.8

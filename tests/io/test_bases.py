"""Bases of representations, read without torch, beside what torch decodes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from axoloci.errors import InputError
from axoloci.io.bases import ZSCORE, read_basis, write_linearised
from axoloci.io.nifti import write_nifti
from axoloci.io.packing import write_cohort
from axoloci.tasks.encoder.cli import main
from axoloci.tasks.encoder.model_file import read_model

SHAPE, N_PEOPLE = (6, 5, 4), 30
AFFINE = np.array([[-2.0, 0, 0, 9], [0, 2, 0, -7], [0, 0, 2, 5], [0, 0, 0, 1]])


def run(*arguments: object) -> None:
    done = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert done.exit_code == 0, done.output + repr(done.exception)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Maps of 30 people, and what was fitted to them: smoothed and plain components, means."""
    path = tmp_path_factory.mktemp("bases")
    rng = np.random.default_rng(0)
    mask = rng.random(SHAPE) < 0.8
    maps = 0.4 + 0.1 * rng.standard_normal((N_PEOPLE, int(mask.sum())))
    ids = [f"{number:04d}" for number in range(N_PEOPLE)]
    write_cohort(path / "cohort.zarr", ids, maps.__getitem__, mask, AFFINE)
    labels = np.zeros(SHAPE, dtype=np.int16)
    labels[:3], labels[3:] = 1, 2
    write_nifti(path / "labels.nii.gz", labels, AFFINE)
    for name, options in (
        ("smoothed", ("--n-latents", 3, "--bandwidth", 2)),
        ("plain", ("--n-latents", 4, "--bandwidth", 0)),
        ("means", ("--atlas", path / "labels.nii.gz")),
    ):
        fitted = ("--out", path / f"{name}.safetensors", "--history", path / f"{name}.tsv")
        cohort = ("--cohort", path / "cohort.zarr", "--device", "cpu")
        run("fit-linear", *cohort, *fitted, *options)
    return path


def encoded(folder: Path, name: str) -> NDArray[np.float64]:
    """Latents as `axoloci-encoder encode` writes them, (n_people, r)."""
    out = folder / f"{name}.parquet"
    run(
        *("encode", "--cohort", folder / "cohort.zarr", "--model", folder / f"{name}.safetensors"),
        *("--out", out, "--quality", folder / "q.tsv", "--examples", folder / "e.npz"),
        *("--training-people", "keep", "--device", "cpu"),
    )
    return pd.read_parquet(out).drop(columns="sample_id").to_numpy(np.float64)


@pytest.mark.parametrize("name", ["smoothed", "plain", "means"])
def test_read_basis__mean_and_basis_decode_the_latents_that_encode_writes(
    folder: Path, name: str
) -> None:
    basis = read_basis(folder / f"{name}.safetensors")
    latents = encoded(folder, name)
    model = read_model(folder / f"{name}.safetensors")
    with torch.no_grad():
        expected = model.representation.decode_rows(torch.from_numpy(latents).float()).numpy()
    np.testing.assert_allclose(basis.mean + latents @ basis.basis, expected, atol=2e-6)
    assert basis.latents == model.latent_names
    assert (basis.unit, basis.linearised) == ("fa", False)
    np.testing.assert_array_equal(basis.affine, AFFINE)
    volume = basis.volume(basis.basis[0])
    np.testing.assert_array_equal(volume[basis.mask], basis.basis[0])
    assert not volume[~basis.mask].any()
    first = np.argwhere(basis.mask)[0]
    np.testing.assert_allclose(basis.world()[0], AFFINE[:3, :3] @ first + AFFINE[:3, 3])


def test_read_basis__needs_no_torch(folder: Path) -> None:
    program = (
        "import sys; sys.modules['torch'] = None\n"
        "from axoloci.io.bases import read_basis\n"
        f"print(read_basis({str(folder / 'plain.safetensors')!r}).basis.shape[0])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.split() == ["4"], done.stderr


def test_write_linearised__is_read_as_one_and_is_no_model_to_encode_by(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    mask = rng.random(SHAPE) < 0.5
    mean, basis = (rng.random(shape, np.float32) for shape in (mask.sum(), (2, mask.sum())))
    at = np.array([0.5, -1], np.float32)
    sd = rng.random(mask.sum(), np.float32)
    arrays = {"mask": mask, "mean": mean, "basis": basis, "latent_mean": at, "voxel_sd": sd}
    for name in ("a", "b"):
        path = tmp_path / f"{name}.safetensors"
        write_linearised(path, arrays, AFFINE, ["x", "y"], {"model": "m"})
    assert (tmp_path / "a.safetensors").read_bytes() == path.read_bytes()
    found = read_basis(path)
    np.testing.assert_array_equal(found.mask, mask)
    np.testing.assert_array_equal(found.basis, basis)
    np.testing.assert_array_equal(found.voxel_sd, sd)
    np.testing.assert_allclose(found.mean + at.astype(float) @ basis, mean, atol=1e-6)
    assert (found.latents, found.unit, found.linearised) == (["x", "y"], ZSCORE, True)
    with pytest.raises(InputError, match="is not a model of axoloci-encoder"):
        read_model(path)


def test_read_basis__refuses_what_is_none(folder: Path, tmp_path: Path) -> None:
    weights = load_file(folder / "plain.safetensors")
    about = {"format": "axoloci-encoder", "format_version": 4, "kind": "autoencoder"}
    for change, words in (
        ({}, "linearise it by axoloci-encoder linearise"),
        ({"format": "another"}, "is not a model of axoloci-encoder"),
        ({"format_version": 2}, "format_version 2 instead of 4"),
    ):
        path = tmp_path / "model.safetensors"
        save_file(weights, path, {"axoloci": json.dumps({**about, **change})})
        with pytest.raises(InputError, match=words):
            read_basis(path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(InputError, match="cannot be read as a safetensors model"):
        read_basis(path)

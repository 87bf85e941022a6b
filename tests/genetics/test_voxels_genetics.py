"""Heritability and genetic correlation of voxels, beside estimates of each voxel itself."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from numpy.typing import NDArray
from safetensors.numpy import save_file

from axoloci.io.bases import read_basis
from axoloci.io.nifti import read_nifti
from axoloci.tasks.genetics import voxel_genetics
from axoloci.tasks.genetics.cli import main
from axoloci.tasks.genetics.covariance_file import read_covariance, write_covariance
from axoloci.tasks.genetics.heritability import GeneticCovariance
from axoloci.tasks.genetics.voxel_genetics import (
    voxel_genetic_correlation,
    voxel_heritability,
)

N, M, R, N_BLOCKS = 120, 200, 5, 10
SHAPE = (4, 3, 3)
Floats = NDArray[np.float64]


def haseman_elston(y: Floats, kinship: Floats) -> Floats:
    """Genetic covariance of columns of y: the least squares of their products on the kinship."""
    n = len(y)
    apart = kinship - np.trace(kinship) / n * np.eye(n)
    return np.asarray(y.T @ apart @ y / np.square(apart).sum())


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Latents of people with a kinship, their genetic covariance with one more trait, a model."""
    folder = tmp_path_factory.mktemp("genetics")
    rng = np.random.default_rng(2)
    z = rng.standard_normal((N, M))
    kinships = [z @ z.T / M]
    for block in np.split(np.arange(M), N_BLOCKS):
        rest = np.delete(z, block, axis=1)
        kinships.append(rest @ rest.T / rest.shape[1])
    effects = rng.standard_normal((M, R + 1)) @ rng.standard_normal((R + 1, R + 1))
    traits = z @ effects / np.sqrt(M) + 0.8 * rng.standard_normal((N, R + 1))
    traits -= traits.mean(axis=0)
    names = [f"component_{k:03d}" for k in range(R)]
    genetic, *left_out = (haseman_elston(traits, kinship) for kinship in kinships)
    order = np.array([R, *range(R)])  # the other trait comes first in the file
    both = np.ix_(order, order)
    covariance = GeneticCovariance(
        genetic[both], (traits.T @ traits / N)[both], np.array(left_out)[:, *both]
    )
    write_covariance(folder / "genetic_covariance.npz", ["height", *names], covariance, "")
    mask = rng.random(SHAPE) < 0.8
    basis = rng.standard_normal((R, int(mask.sum()))).astype(np.float32)
    about = {"format": "axoloci-encoder", "format_version": 4, "kind": "linear", "measure": "fa"}
    about["affine"] = np.diag([2.0, 2, 2, 1]).tolist()
    nothing = np.zeros(basis.shape[1], np.float32)
    maps = traits[:, :R] @ basis
    voxel_sd = (maps.std(axis=0) * rng.uniform(0.5, 2, basis.shape[1])).astype(np.float32)
    zeros = {"mean": nothing, "latent_mean": np.zeros(R, np.float32)}
    weights = {"mask": mask, "basis": basis, "voxel_sd": voxel_sd, **zeros}
    save_file(weights, folder / "model.safetensors", {"axoloci": json.dumps(about)})
    np.savez(folder / "data.npz", maps=maps, height=traits[:, R], kinships=np.array(kinships))
    return folder


def run(study: Path, command: str, out: Path, *more: object) -> Result:
    given = ("--genetic-covariance", study / "genetic_covariance.npz")
    model = ("--model", study / "model.safetensors", "--out", out)
    return CliRunner().invoke(main, [command, *map(str, (*given, *model, *more))])


def image(study: Path, path: Path) -> Floats:
    """Values of the voxels inside the mask."""
    volume, _ = read_nifti(path, ndim=3, within=np.zeros(SHAPE, bool))
    inside = read_basis(study / "model.safetensors").mask
    return np.asarray(volume[inside], dtype=np.float64)


def jackknife(estimates: Floats) -> Floats:
    """By pseudo-values: their standard deviation over the root of their number."""
    whole, left_out = estimates[0], estimates[1:]
    pseudo = len(left_out) * whole - (len(left_out) - 1) * left_out
    return np.asarray(pseudo.std(axis=0, ddof=1) / np.sqrt(len(left_out)))


@pytest.mark.parametrize("noise_of", ["projection", "voxel"])
def test_voxel_h2__equals_haseman_elston_regression_of_each_voxel(
    study: Path, tmp_path: Path, noise_of: str
) -> None:
    result = run(study, "voxel-h2", tmp_path, "--noise-of", noise_of)
    assert result.exit_code == 0, result.output
    with np.load(study / "data.npz") as data:
        maps, kinships = data["maps"], data["kinships"]
    variance = np.square(maps).mean(axis=0)  # (n_voxels,)
    if noise_of == "voxel":
        own = np.square(read_basis(study / "model.safetensors").voxel_sd.astype(np.float64))
        assert (own > variance).any()
        assert (own < variance).any()
        variance = np.maximum(variance, own)
    direct = (
        np.array([[haseman_elston(y[:, None], k)[0, 0] for y in maps.T] for k in kinships])
        / variance
    )  # (n_blocks + 1, n_voxels)
    found = image(study, tmp_path / "voxel_h2.nii.gz")
    np.testing.assert_allclose(found, direct[0], rtol=1e-5)
    se = image(study, tmp_path / "voxel_h2_se.nii.gz")
    np.testing.assert_allclose(se, jackknife(direct), rtol=1e-5)
    about = json.loads((tmp_path / "voxel_h2.json").read_text())
    assert about["n_blocks"] == N_BLOCKS
    assert about["median_h2"] == pytest.approx(np.median(direct[0]))
    assert about["linearised"] is False
    assert about["noise_of"] == noise_of


@pytest.mark.parametrize("seed", ["voxel", "mm", "trait"])
def test_voxel_rg__equals_that_of_the_maps_themselves(
    study: Path, tmp_path: Path, seed: str
) -> None:
    with np.load(study / "data.npz") as data:
        maps, kinships, height = data["maps"], data["kinships"], data["height"]
    grid = np.argwhere(read_basis(study / "model.safetensors").mask)
    place = grid[4]
    name, other = "_".join(map(str, place)), maps[:, 4]
    options = {
        "voxel": ("--seed-voxel", ",".join(map(str, place))),
        "mm": ("--seed-mm", ",".join(str(2 * x + 0.4) for x in place)),
        "trait": ("--with-trait", "height"),
    }[seed]
    if seed == "trait":
        name, other = "height", height
    result = run(study, "voxel-rg", tmp_path, *options)
    assert result.exit_code == 0, result.output
    both = np.column_stack([other, maps])
    direct = []
    for kinship in kinships:
        g = haseman_elston(both, kinship)
        with np.errstate(invalid="ignore"):
            direct.append(g[0, 1:] / np.sqrt(g[0, 0] * np.diag(g)[1:]))
    expected = np.array(direct)
    found = image(study, tmp_path / f"voxel_rg_{name}.nii.gz")
    undefined = np.isnan(expected).any(axis=0)
    assert undefined.mean() < 0.5
    np.testing.assert_allclose(
        found, np.where(undefined, np.nan, expected[0]), rtol=1e-4, atol=1e-6
    )
    se = image(study, tmp_path / f"voxel_rg_{name}_se.nii.gz")
    np.testing.assert_allclose(se, jackknife(expected), rtol=1e-3, atol=1e-6)
    if seed != "trait":
        assert found[4] == pytest.approx(1, abs=1e-6)


def test_voxel_rg__says_what_a_seed_lacks(study: Path, tmp_path: Path) -> None:
    result = run(study, "voxel-rg", tmp_path, "--seed-voxel", "9,0,0")
    assert "voxel 9,0,0, outside the grid of (4, 3, 3)" in result.output
    outside = np.argwhere(~read_basis(study / "model.safetensors").mask)[0]
    result = run(study, "voxel-rg", tmp_path, "--seed-voxel", ",".join(map(str, outside)))
    assert "outside the mask of the model; the nearest inside is --seed-voxel" in result.output
    result = run(study, "voxel-rg", tmp_path, "--with-trait", "heigth")
    assert "no trait 'heigth'; did you mean 'height'?" in result.output
    result = run(study, "voxel-rg", tmp_path)
    assert result.exit_code == 2
    assert "give one of --seed-voxel, --seed-mm and --with-trait" in result.output
    result = run(study, "voxel-rg", tmp_path, "--seed-voxel", "1,2")
    assert "'1,2' is not a place such as 45,60,32" in result.output
    assert list(tmp_path.iterdir()) == []


def test_voxel_h2__names_latents_that_are_lacking(study: Path, tmp_path: Path) -> None:
    with np.load(study / "genetic_covariance.npz") as file:
        arrays = dict(file)
    arrays["traits"] = np.array(["height", *(f"latent_{k:03d}" for k in range(R))])
    np.savez(tmp_path / "other.npz", **arrays)
    more = ("--genetic-covariance", tmp_path / "other.npz")
    result = run(study, "voxel-h2", tmp_path / "out", *more)
    assert result.exit_code == 1
    assert "lacks 5 of the 5 latents" in result.output
    (tmp_path / "other.npz").write_bytes(b"no archive")
    result = run(study, "voxel-h2", tmp_path / "out", *more)
    assert "no genetic covariances" in result.output


def test_voxel_heritability__of_a_voxel_that_does_not_vary_is_nan() -> None:
    rng = np.random.default_rng(3)
    basis = rng.standard_normal((3, 4))
    basis[:, 2] = 0
    left_out = np.eye(3) + 0.1 * rng.standard_normal((6, 3, 1)) * np.eye(3)
    h2, se = voxel_heritability(GeneticCovariance(0.5 * np.eye(3), np.eye(3), left_out), basis)
    np.testing.assert_allclose(h2[[0, 1, 3]], 0.5)
    assert np.isnan(h2).tolist() == np.isnan(se).tolist() == [False, False, True, False]


def test_voxel_genetic_correlation__is_nan_where_a_heritability_is_not_positive() -> None:
    genetic = np.diag([1.0, -0.5])
    left_out = np.stack([genetic] * 5)
    covariance = GeneticCovariance(genetic, np.eye(2), left_out)
    basis = np.array([[1.0, 0.0, 1.0], [0.0, 1.0, 0.1]])
    rg, se = voxel_genetic_correlation(covariance, np.array([1.0, 0.0]), basis)
    assert rg[0] == pytest.approx(1)
    assert se[0] == pytest.approx(0)
    assert np.isnan(rg).tolist() == np.isnan(se).tolist() == [False, True, False]
    rg, _ = voxel_genetic_correlation(covariance, np.array([0.0, 1.0]), basis)
    assert np.isnan(rg).all()
    left_out[3, 0, 0] = -0.1  # a block without which the seed's own is not positive
    rg, _ = voxel_genetic_correlation(covariance, np.array([1.0, 0.0]), basis)
    assert np.isnan(rg).all()


def test_voxel_heritability__memory_is_bounded_whatever_the_number_of_traits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    r, n_voxels, budget = 60, 2_000, 2**20
    rng = np.random.default_rng(4)
    basis = rng.standard_normal((r, n_voxels))
    genetic = np.cov(rng.standard_normal((r, 3 * r)))
    left_out = genetic * rng.uniform(0.9, 1.1, (2, 1, 1))
    covariance = GeneticCovariance(genetic, np.eye(r), left_out)
    monkeypatch.setattr(voxel_genetics, "PRODUCTS_BYTES", budget)
    tracemalloc.start()
    h2, _ = voxel_heritability(covariance, basis)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 2 * budget  # 44 MB of products of 1,024 voxels
    direct = np.einsum("rv,rs,sv->v", basis, genetic, basis, optimize=True)
    np.testing.assert_allclose(h2, direct / np.square(basis).sum(axis=0), rtol=1e-9)


def test_voxel_h2__if_possible_deletes_maps_of_an_earlier_run(study: Path, tmp_path: Path) -> None:
    assert run(study, "voxel-h2", tmp_path / "out").exit_code == 0
    none = np.empty((0, 0))
    write_covariance(tmp_path / "none.npz", [], GeneticCovariance(none, none, none[None]), "")
    more = ("--genetic-covariance", tmp_path / "none.npz", "--if-possible")
    result = run(study, "voxel-h2", tmp_path / "out", *more)
    assert result.exit_code == 0, result.output
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("command", [("voxel-h2",), ("voxel-rg", "--with-trait", "height")])
def test_voxel_h2_and_rg__refuse_transformed_latents_and_other_versions(
    study: Path, tmp_path: Path, command: tuple[str, ...]
) -> None:
    name, *more = command
    given = (*more, "--genetic-covariance", tmp_path / "other.npz")
    found = read_covariance(study / "genetic_covariance.npz")
    write_covariance(tmp_path / "other.npz", found.traits, found.covariance, "--rank-normal")
    result = run(study, name, tmp_path / "out", *given)
    assert result.exit_code == 1
    assert "transformed before the association (--rank-normal)" in result.output
    assert "associate the latents as they are, and estimate" in result.output
    with np.load(study / "genetic_covariance.npz") as file:
        old = {key: array for key, array in file.items() if key != "format_version"}
    np.savez(tmp_path / "other.npz", **old)
    result = run(study, name, tmp_path / "out", *given)
    assert result.exit_code == 1
    assert "format_version 0 instead of 1; make it again" in result.output
    assert not (tmp_path / "out").exists()

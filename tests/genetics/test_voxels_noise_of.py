"""Standard errors of voxels with what a fitted model leaves out of them, beside regression."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from click.testing import CliRunner, Result
from numpy.typing import NDArray
from plink_files import write_plink
from scipy import ndimage, stats

from axoloci.io.bases import read_basis
from axoloci.io.cohort import read_cohort
from axoloci.io.nifti import read_nifti
from axoloci.io.packing import write_cohort
from axoloci.tasks.encoder.cli import main as encoder
from axoloci.tasks.genetics.cli import main as genetics
from axoloci.tasks.gwas.cli import main as gwas

N, N_VARIANTS, N_VOXELS = 300, 30, 200
CORNER = 6  # from which on the sum of a voxel's indices is out of the corner
N_TRAINING = 300  # of others, whose maps make the components called "others"
SHAPE = (8, 8, 7)
AFFINE = np.diag([2.0, 2.0, 2.0, 1.0])
MODELS = {
    "plain": ("--n-latents", 5, "--bandwidth", 0),
    "smoothed": ("--n-latents", 5, "--bandwidth", 2),
    "all": ("--n-latents", N_VOXELS, "--bandwidth", 0),
    "others": ("--n-latents", 60, "--bandwidth", 0),
}
Floats = NDArray[np.float64]


def run(command: object, *arguments: object) -> Result:
    return CliRunner().invoke(command, [str(word) for word in arguments])  # type: ignore[arg-type]


def done(command: object, *arguments: object) -> None:
    result = run(command, *arguments)
    assert result.exit_code == 0, result.output + repr(result.exception)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Smooth maps with more noise than that; models of them or of others', and associations.

    The first variant is in a corner of the maps, the others are in none.
    """
    folder = tmp_path_factory.mktemp("noise_of")
    rng = np.random.default_rng(0)
    mask = np.zeros(SHAPE, dtype=bool)
    mask.ravel()[:N_VOXELS] = True
    dosage = rng.binomial(2, 0.3, (N_VARIANTS, N)).astype(np.int8)
    n_all = N + N_TRAINING
    smooth = ndimage.gaussian_filter(rng.standard_normal((n_all, *SHAPE)), (0, 2, 2, 2))
    maps = (smooth / smooth.std())[:, mask] + 1.5 * rng.standard_normal((n_all, N_VOXELS))
    maps[:N, np.argwhere(mask).sum(axis=1) < CORNER] += 1.2 * dosage[0][:, None]
    maps = 0.5 + 0.05 * maps
    covariates = rng.standard_normal((N, 2))
    ids = [f"i{k}" for k in range(N)]
    write_plink(folder / "g", dosage)
    table = pd.DataFrame(covariates, columns=["a", "b"]).assign(IID=ids)
    table.to_csv(folder / "c.tsv", sep="\t", index=False)
    write_cohort(folder / "cohort.zarr", ids, maps[:N].__getitem__, mask, AFFINE)
    others = [f"o{k}" for k in range(N_TRAINING)]
    write_cohort(folder / "others.zarr", others, maps[N:].__getitem__, mask, AFFINE)
    stored = read_cohort(folder / "cohort.zarr").rows(np.arange(N))  # rounded
    np.savez(folder / "data.npz", maps=stored, covariates=covariates, dosage=dosage)
    for name, options in MODELS.items():
        model, latents = folder / f"{name}.safetensors", folder / f"{name}.parquet"
        cohort = ("--cohort", folder / "cohort.zarr", "--device", "cpu")
        training = ("--cohort", folder / "others.zarr") if name == "others" else cohort
        history = ("--history", folder / "h.tsv")
        done(encoder, "fit-linear", *training, "--out", model, *history, *options)
        beside = ("--quality", folder / "q.tsv", "--examples", folder / "e.npz")
        keep = ("--training-people", "keep")
        done(encoder, "encode", *cohort, "--model", model, "--out", latents, *beside, *keep)
        done(
            gwas,
            *("associate", "--genotypes", folder / "g", "--traits", latents, "--threads", 1),
            *("--covariates", folder / "c.tsv", "--device", "cpu", "--precision", "float64"),
            *("--out", folder / name),
        )
    return folder


def regressed(study: Path, step: int = 10) -> tuple[Floats, Floats]:
    """β and se (n_variants, n_voxels / step) of the voxels themselves, by statsmodels."""
    with np.load(study / "data.npz") as data:
        maps, dosage, covariates = data["maps"].astype(float), data["dosage"], data["covariates"]
    fits = [
        [sm.OLS(y, sm.add_constant(np.column_stack([g, covariates]))).fit() for y in maps.T[::step]]
        for g in dosage
    ]
    return tuple(  # type: ignore[return-value]
        np.array([[getattr(fit, name)[1] for fit in row] for row in fits])
        for name in ("params", "bse")
    )


def mapped(study: Path, out: Path, name: str, noise_of: str) -> tuple[Floats, Floats, Floats]:
    """β, se and −log10 p of all variants, (n_variants, n_voxels) each."""
    variants = [word for k in range(N_VARIANTS) for word in ("--variant", f"rs{k}")]
    given = ("--sumstats", study / name, "--model", study / f"{name}.safetensors")
    done(genetics, "voxels", *given, *variants, "--noise-of", noise_of, "--out", out)
    mask = read_basis(study / f"{name}.safetensors").mask
    beta, se, neg_log10_p = (
        np.array(
            [
                read_nifti(out / f"rs{k}_{kind}.nii.gz", ndim=3)[0][mask].astype(np.float64)
                for k in range(N_VARIANTS)
            ]
        )
        for kind in ("beta", "se", "neg_log10_p")
    )
    return beta, se, neg_log10_p


@pytest.mark.parametrize("name", ["plain", "smoothed"])
def test_voxels__noise_of_voxel_is_that_of_the_regression_of_the_voxel(
    study: Path, tmp_path: Path, name: str
) -> None:
    beta, se, neg_log10_p = mapped(study, tmp_path / "v", name, "voxel")
    projected = mapped(study, tmp_path / "p", name, "projection")
    np.testing.assert_array_equal(beta, projected[0])
    expected = regressed(study)[1]  # (n_variants, n_voxels / 10)
    # one in ten people was not in training; the planted effect is not all in the projection
    off = (se[:, ::10] / expected - 1)[1:]
    assert np.sqrt(np.square(off).mean()) < 0.03
    assert np.abs(off).max() < 0.08
    assert abs(off.mean()) < 0.01
    assert np.median(projected[1][:, ::10] / expected) < 0.7
    assert (neg_log10_p <= projected[2]).all()
    p = 2 * stats.t.sf(np.abs(beta / se), N - 4)
    np.testing.assert_allclose(neg_log10_p, -np.log10(p), rtol=1e-4, atol=1e-6)
    # of the variants without an effect: p of the voxels' noise errs to the safe side
    assert np.mean(neg_log10_p[1:] > -np.log10(0.05)) < 0.02
    assert np.square(beta / se)[1:].mean() < 0.6 < np.square(beta / projected[1])[1:].mean()
    assert neg_log10_p[0].max() > 5  # the planted effect is found nevertheless
    about = json.loads((tmp_path / "v" / "rs1.json").read_text())
    assert about["noise_of"] == "voxel"
    assert about["of"] == "maps that 5 latents make, against the noise of the voxels themselves"
    assert about["exact"] is False
    assert about["relative_error_of_se_by_missing"] == 0
    assert "the variance of a voxel is that of the people in" in about["approximate_because"][0]
    assert pd.read_csv(tmp_path / "v" / "index.tsv", sep="\t")["noise_of"].eq("voxel").all()
    about = json.loads((tmp_path / "p" / "rs1.json").read_text())
    assert (about["noise_of"], about["exact"]) == ("projection", True)


def test_voxels__noise_of_voxel_has_no_bias_for_others_than_those_in_training(
    study: Path, tmp_path: Path
) -> None:
    """Many components of few people fit these far better than others."""
    _, se, _ = mapped(study, tmp_path, "others", "voxel")
    off = se[1:, ::5] / regressed(study, 5)[1][1:] - 1
    mask = read_basis(study / "others.safetensors").mask
    off = off[:, (np.argwhere(mask).sum(axis=1) >= CORNER)[::5]]  # where both vary alike
    assert abs(off.mean()) < 0.02
    # two standard deviations, of 270 and of 300 people, are estimates each
    assert np.sqrt(np.square(off).mean()) < 1.5 * np.sqrt(1 / (2 * 270) + 1 / (2 * N))


def test_voxels__of_all_components_nothing_is_left_out(study: Path, tmp_path: Path) -> None:
    beta, se, _ = mapped(study, tmp_path / "v", "all", "voxel")
    projected = mapped(study, tmp_path / "p", "all", "projection")
    np.testing.assert_array_equal(beta, projected[0])
    np.testing.assert_array_equal(se, projected[1])
    np.testing.assert_allclose(se[:, ::10], regressed(study)[1], rtol=1e-5)
    about = json.loads((tmp_path / "v" / "rs1.json").read_text())
    assert (about["noise_of"], about["exact"]) == ("both", True)


def test_voxel_scan__noise_of_voxel_gives_the_pairs_of_the_maps(
    study: Path, tmp_path: Path
) -> None:
    _, se, neg_log10_p = mapped(study, tmp_path / "v", "plain", "voxel")
    given = ("--sumstats", study / "plain", "--model", study / "plain.safetensors")
    threshold = ("--p-threshold", 1e-3, "--noise-of", "voxel")
    done(genetics, "voxel-scan", *given, *threshold, "--out", tmp_path / "s")
    pairs = pd.read_parquet(tmp_path / "s" / "pairs.parquet")
    assert len(pairs) == (neg_log10_p >= 3).sum() > 5
    variant = pairs["variant_id"].str[2:].astype(int)
    mask = read_basis(study / "plain.safetensors").mask
    place = np.zeros(mask.shape, dtype=int)
    place[mask] = np.arange(N_VOXELS)
    voxel = place[pairs["voxel_i"], pairs["voxel_j"], pairs["voxel_k"]]
    np.testing.assert_allclose(pairs["se"], se[variant, voxel], rtol=1e-6)
    np.testing.assert_allclose(pairs["neg_log10_p"], neg_log10_p[variant, voxel], rtol=1e-6)
    assert json.loads((tmp_path / "s" / "voxel_scan.json").read_text())["noise_of"] == "voxel"


def test_voxels__noise_of_voxel_of_a_mixed_model_grows_with_the_voxel(
    study: Path, tmp_path: Path
) -> None:
    shutil.copytree(study / "plain", tmp_path / "plain")
    shutil.copy(study / "plain.safetensors", tmp_path)
    settings = tmp_path / "plain" / "sumstats.json"
    about = json.loads(settings.read_text())
    about |= {"mixed_model": True}
    about["trait_correlation_of_chromosome"] = {"1": about["trait_correlation"]}
    settings.write_text(json.dumps(about))
    beta, se, _ = mapped(tmp_path, tmp_path / "v", "plain", "voxel")
    projected = mapped(tmp_path, tmp_path / "p", "plain", "projection")
    np.testing.assert_array_equal(beta, projected[0])
    # as a regression of the same traits, but for what the variant itself explains
    np.testing.assert_allclose(se[1:], mapped(study, tmp_path / "o", "plain", "voxel")[1][1:], 0.03)
    assert (se > 1.1 * projected[1]).all()

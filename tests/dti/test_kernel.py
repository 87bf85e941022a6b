"""The tensor fit against DIPY, MRtrix, NumPy and planted tensors."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from dipy.core.gradients import gradient_table
from dipy.reconst.dki import DiffusionKurtosisModel
from dipy.reconst.dti import TensorModel, design_matrix
from dipy.reconst.msdki import MeanDiffusionKurtosisModel
from numpy.typing import NDArray

from axoloci.io.gradients import world_to_bvec, write_gradients
from axoloci.io.nifti import write_nifti
from axoloci.tasks.dti import kernel
from axoloci.tasks.simulate.scan import gradient_scheme

SHAPE = (4, 5, 3)
BVAL, BVEC = gradient_scheme(12, 2, 1000.0)


def tensors(seed: int = 0) -> NDArray[np.float64]:
    """(60, 3, 3) tensors of any orientation, eigenvalues 0.2 to 2.5 µm²/ms."""
    rng = np.random.default_rng(seed)
    axes = np.linalg.qr(rng.normal(size=(60, 3, 3)))[0]
    values = rng.uniform(0.2e-3, 2.5e-3, (60, 3))
    return np.einsum("nij,nj,nkj->nik", axes, values, axes)


def signal(
    tensor: NDArray[np.float64],
    bval: NDArray[np.float64] = BVAL,
    bvec: NDArray[np.float64] = BVEC,
    noise: float = 0.0,
) -> NDArray[np.float32]:
    s = 1000 * np.exp(-bval * np.einsum("gi,nij,gj->ng", bvec, tensor, bvec))
    s = abs(s + noise * np.random.default_rng(1).normal(size=s.shape))
    return s.reshape(*SHAPE, len(bval)).astype(np.float32)


EVERYWHERE = np.ones(SHAPE, dtype=bool)


def test_fit_tensor__planted_tensors_come_back() -> None:
    tensor = tensors()
    maps = kernel.fit_tensor(signal(tensor), BVAL, BVEC, EVERYWHERE)
    low, middle, high = np.linalg.eigvalsh(tensor).T  # mm²/s
    md = (low + middle + high) / 3
    fa = np.sqrt(1.5 * ((low - md) ** 2 + (middle - md) ** 2 + (high - md) ** 2)) / np.sqrt(
        low**2 + middle**2 + high**2
    )
    for found, truth in (
        (maps.fa, fa),
        (maps.md * 1e3, md * 1e3),
        (maps.ad * 1e3, high * 1e3),
        (maps.rd * 1e3, (low + middle) / 2 * 1e3),
    ):
        assert np.allclose(found.ravel(), truth, atol=1e-4)
    main = np.linalg.eigh(tensor)[1][:, :, 2]
    assert (abs((maps.evec.reshape(-1, 3) * main).sum(axis=1)) > 0.999).all()
    assert maps.n_implausible == 0


@pytest.mark.parametrize("method", ["OLS", "WLS", "NLLS", "RESTORE"])
def test_fit_tensor__equals_dipy(method: str) -> None:
    dwi = signal(tensors(), noise=20.0) + 20
    maps = kernel.fit_tensor(dwi, BVAL, BVEC, EVERYWHERE, method, sigma=20.0)
    table = gradient_table(BVAL, bvecs=BVEC, b0_threshold=50)
    options = {"sigma": 20.0} if method == "RESTORE" else {}
    fit = TensorModel(table, fit_method=method, return_S0_hat=True, **options).fit(dwi)
    assert np.allclose(maps.fa, fit.fa, atol=1e-6)
    for name in ("md", "ad", "rd"):
        assert np.allclose(getattr(maps, name), getattr(fit, name), rtol=1e-5, atol=1e-9)
    assert np.allclose(maps.mode, fit.mode, atol=2e-3)  # rounding at near-isotropic tensors
    assert np.allclose(maps.s0, fit.S0_hat, rtol=1e-5)
    raised = (fit.evals < 1e-8).any(axis=-1)  # of which DIPY predicts
    left = dwi - fit.predict(table)
    residual = np.sqrt((left**2).mean(axis=-1)) / fit.S0_hat
    assert np.allclose(maps.residual[~raised], residual[~raised], rtol=1e-4)
    assert raised.sum() == maps.reasons["eigenvalue_not_positive"]
    main = (maps.evec * fit.evecs[..., 0]).sum(axis=-1)
    apart = fit.evals[..., 0] > 1.05 * fit.evals[..., 1]
    assert (abs(main[apart]) > 1 - 1e-6).all()


@pytest.mark.parametrize(("method", "reweightings"), [("OLS", 0), ("IWLS", 2)])
def test_fit_tensor__equals_mrtrix(
    tmp_path: Path, tool: Callable[[str], str], method: str, reweightings: int
) -> None:
    # MRtrix3 3.0.3 reweights by what was predicted, as IWLS here; its -iter 1 does not
    affine = np.diag([-2.0, 2.0, 2.0, 1.0])
    dwi = signal(tensors(), noise=20.0) + 20
    write_nifti(tmp_path / "dwi.nii", dwi, affine)
    bvec = world_to_bvec(BVEC, affine)
    write_gradients(tmp_path / "a.bval", tmp_path / "a.bvec", BVAL, bvec)
    dwi_of, dt = tmp_path / "dwi.nii", tmp_path / "dt.nii"
    fit = [tool("dwi2tensor"), "-ols", "-iter", str(reweightings), dwi_of, dt]
    fit += ["-fslgrad", tmp_path / "a.bvec", tmp_path / "a.bval"]
    names = {"fa": "fa", "md": "adc", "ad": "ad", "rd": "rd"}
    wanted = [x for ours, its in names.items() for x in (f"-{its}", tmp_path / f"{ours}.nii")]
    for command in (fit, [tool("tensor2metric"), dt, *wanted]):
        subprocess.run([*command, "-quiet", "-nthreads", "0"], check=True)
    maps = kernel.fit_tensor(dwi, BVAL, np.round(bvec, 6), EVERYWHERE, method)  # as in the file
    found = {name: nib.load(tmp_path / f"{name}.nii").get_fdata() for name in names}
    plausible = ~maps.implausible  # MRtrix does not raise negative eigenvalues
    assert plausible.mean() > 0.8
    assert np.allclose(maps.fa[plausible], found.pop("fa")[plausible], atol=1e-6)
    for name, values in found.items():
        assert np.allclose(getattr(maps, name)[plausible], values[plausible], rtol=1e-5), name


@pytest.mark.parametrize("scale", [1e-4, 1e4])
def test_fit_tensor__the_unit_of_the_signal_does_not_matter(scale: float) -> None:
    dwi = signal(tensors(), noise=20.0)
    dwi[0, 0, 0, 5] = 0
    maps, other = (
        kernel.fit_tensor((dwi * f).astype(np.float32), BVAL, BVEC, EVERYWHERE) for f in (1, scale)
    )
    assert np.allclose(maps.fa, other.fa, atol=1e-5)
    assert maps.n_implausible == other.n_implausible > 0
    assert np.allclose(maps.s0 * scale, other.s0, rtol=1e-4)
    assert np.allclose(maps.residual, other.residual, atol=1e-5)


def test_fit_tensor__mode_of_tensors_by_hand() -> None:
    values = [(1.7, 0.3, 0.3), (1.2, 1.2, 0.3), (1.5, 1.0, 0.5), (1.0, 1.0, 1.0)]
    tensor = np.tile(np.stack([np.diag(v) for v in values]) * 1e-3, (15, 1, 1))
    maps = kernel.fit_tensor(signal(tensor), BVAL, BVEC, EVERYWHERE)
    mode = maps.mode.reshape(15, 4)
    assert np.allclose(mode[:, :3], [1, -1, 0], atol=1e-2)  # linear, planar, between
    assert np.isfinite(mode).all()
    assert np.allclose(maps.s0, 1000, rtol=1e-4)
    assert np.allclose(maps.residual, 0, atol=1e-5)


def test_fit_tensor__residual_is_the_noise() -> None:
    maps = kernel.fit_tensor(signal(tensors(), noise=20.0), BVAL, BVEC, EVERYWHERE, "NLLS")
    left = np.sqrt((maps.residual**2).mean())  # 7 of 14 degrees of freedom are fitted
    assert left == pytest.approx(20 / 1000 * np.sqrt(7 / 14), rel=0.1)


@pytest.fixture(scope="module")
def struck() -> tuple[NDArray, NDArray, NDArray, NDArray]:
    """b-values, directions, true FA, and signal lost in 3 volumes of 30 in every third voxel."""
    bval, bvec = gradient_scheme(30, 2, 1000.0)
    tensor = tensors()
    low, middle, high = np.linalg.eigvalsh(tensor).T
    fa = np.sqrt(
        ((high - middle) ** 2 + (high - low) ** 2 + (middle - low) ** 2)
        / (2 * (low**2 + middle**2 + high**2))
    )
    dwi = signal(tensor, bval, bvec, noise=20.0).reshape(60, -1)
    rng = np.random.default_rng(2)
    for voxel in dwi[::3]:
        voxel[rng.integers(2, 32, 3)] *= 0.3
    return bval, bvec, fa, dwi


def test_fit_tensor__restore_withstands_lost_volumes(struck: tuple[NDArray, ...]) -> None:
    bval, bvec, fa, dwi = struck
    error = {}
    for method in ("WLS", "RESTORE"):
        maps = kernel.fit_tensor(dwi, bval, bvec, method=method)
        error[method] = np.sqrt(np.mean((maps.fa - fa)[::3] ** 2))
    assert error["RESTORE"] < 0.5 * error["WLS"]
    assert maps.sigma == pytest.approx(20, rel=0.2)


def test_estimate_sigma__is_that_of_the_noise() -> None:
    bval, bvec = gradient_scheme(30, 2, 1000.0)
    dwi = signal(tensors(), bval, bvec, noise=20.0).reshape(60, -1)
    design = design_matrix(gradient_table(bval, bvecs=bvec, b0_threshold=50))
    assert kernel.estimate_sigma(np.maximum(dwi, 1), design) == pytest.approx(20, rel=0.1)


def test_eigen__is_numpys() -> None:
    rng = np.random.default_rng(0)
    values = [(1.7, 0.3, 0.3), (1.2, 1.2, 0.3), (1, 1, 1), (0, 0, 0), (2, 1, -1), (1 + 1e-9, 1, 1)]
    axes = np.linalg.qr(rng.normal(size=(50, 1, 3, 3)))[0]
    axes[0] = np.eye(3)
    any_way = np.einsum("nvij,vj,nvkj->nvik", axes, values, axes).reshape(-1, 3, 3)
    tensor = np.concatenate([any_way * 1e-3, np.diag([0.3, 0.4, 1.7])[None], tensors()])
    evals, evecs = kernel.eigen(tensor[:, [0, 1, 1, 2, 2, 2], [0, 0, 1, 0, 1, 2]])
    assert np.allclose(evals, np.linalg.eigvalsh(tensor)[:, ::-1], rtol=0, atol=1e-15)
    assert np.allclose(tensor @ evecs, evecs * evals[:, None], rtol=0, atol=1e-15)
    assert np.allclose(evecs.transpose(0, 2, 1) @ evecs, np.eye(3), atol=1e-14)


@pytest.mark.parametrize(("method", "reweightings"), [("OLS", 0), ("WLS", 1)])
def test_fit_linear__is_a_fit_method_of_dipy(method: str, reweightings: int) -> None:
    table = gradient_table(BVAL, bvecs=BVEC, b0_threshold=50)
    dwi = signal(tensors(), noise=20.0) + 20
    theirs = TensorModel(table, fit_method=method).fit(dwi)
    ours = TensorModel(table, fit_method=kernel.fit_linear, reweightings=reweightings).fit(dwi)
    assert np.allclose(ours.evals, theirs.evals, rtol=1e-5, atol=1e-12)
    assert np.allclose(ours.quadratic_form, theirs.quadratic_form, rtol=1e-5, atol=1e-9)


def test_solve_tensor__chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = kernel.fit_tensor(signal(tensors(), noise=20.0), BVAL, BVEC, EVERYWHERE)
    monkeypatch.setattr(kernel, "CHUNK", 7)
    parts = kernel.fit_tensor(signal(tensors(), noise=20.0), BVAL, BVEC, EVERYWHERE)
    assert np.allclose(whole.fa, parts.fa, atol=1e-7)


def test_fit_tensor__counts_what_is_implausible() -> None:
    tensor = np.tile(np.diag([1.0e-3, 0.8e-3, 0.6e-3]), (60, 1, 1))
    tensor[3] = np.diag([1.5e-3, 1.0e-3, -0.3e-3])  # signal rises along z
    tensor[10] = np.diag([4.4e-3, 4.2e-3, 3.6e-3])  # MD above 4e-3
    dwi = signal(tensor)
    dwi.reshape(60, -1)[20, 5] = 0
    maps = kernel.fit_tensor(dwi, BVAL, BVEC, EVERYWHERE)
    assert maps.n_implausible == 3
    assert np.flatnonzero(maps.implausible).tolist() == [3, 10, 20]
    assert maps.reasons == {
        "signal_below_floor": 1,
        "eigenvalue_not_positive": 1,
        "md_above_limit": 1,
        "not_finite": 0,
    }
    dwi.reshape(60, -1)[3] = dwi.reshape(60, -1)[4]
    assert kernel.fit_tensor(dwi, BVAL, BVEC, EVERYWHERE).n_implausible == 2


@pytest.mark.parametrize("method", kernel.METHODS)
def test_fit_tensor__finite_whatever_the_signal(method: str) -> None:
    dwi = np.random.default_rng(0).choice([0.0, 1e-30, 1.0, 1e6], (*SHAPE, 14)).astype(np.float32)
    dwi[0, 0, 0] = 0
    maps = kernel.fit_tensor(dwi, BVAL, BVEC, EVERYWHERE, method)
    for name in ("fa", "md", "ad", "rd", "mode", "s0", "residual", "evec"):
        assert np.isfinite(getattr(maps, name)).all(), name
    assert maps.fa.min() >= 0
    assert maps.fa.max() <= 1
    assert maps.n_implausible > 30


def test_fit_tensor__zero_outside_the_mask() -> None:
    mask = np.random.default_rng(0).random(SHAPE) < 0.5
    dwi = signal(tensors(), noise=20.0)
    maps = kernel.fit_tensor(dwi, BVAL, BVEC, mask)
    assert (maps.fa[~mask] == 0).all()
    assert (maps.fa[mask] > 0).all()
    assert np.allclose(maps.fa[mask], kernel.fit_tensor(dwi, BVAL, BVEC, EVERYWHERE).fa[mask])


def two_shells(low: float, n_low: int, high: float) -> tuple[NDArray, NDArray]:
    b1, g1 = gradient_scheme(n_low, 2, low)
    b2, g2 = gradient_scheme(12, 0, high)
    return np.r_[b1, b2], np.vstack([g1, g2])


@pytest.fixture(scope="module")
def kurtic() -> tuple[NDArray, NDArray, NDArray, NDArray, NDArray]:
    """b-values, directions, signal (60, g), diffusivity and kurtosis of isotropic voxels."""
    b1, g1 = gradient_scheme(20, 2, 1000.0)
    b2, g2 = gradient_scheme(20, 0, 2000.0)
    bval, bvec = np.r_[b1, b2], np.vstack([g1, g2])
    rng = np.random.default_rng(0)
    d, k = rng.uniform(0.5e-3, 1.2e-3, (60, 1)), rng.uniform(0.2, 1.2, (60, 1))
    return bval, bvec, 1000 * np.exp(-bval * d + (bval * d) ** 2 * k / 6), d[:, 0], k[:, 0]


@pytest.mark.parametrize(("kind", "name"), [("msdki", "msk"), ("dki", "mk")])
def test_fit_kurtosis__planted_kurtosis_comes_back(
    kurtic: tuple[NDArray, ...], kind: str, name: str
) -> None:
    bval, bvec, dwi, d, k = kurtic
    maps, n_implausible = kernel.fit_kurtosis(dwi.astype(np.float32), bval, bvec, kind)
    assert np.allclose(maps[name], k, atol=2e-3)
    assert n_implausible == 0
    if kind == "msdki":
        assert np.allclose(maps["msd"], d, rtol=1e-4)


def test_fit_kurtosis__equals_dipy(kurtic: tuple[NDArray, ...]) -> None:
    bval, bvec, dwi, *_ = kurtic
    b3, g3 = gradient_scheme(10, 1, 3000.0)  # more shells than coefficients: weights matter
    bval, bvec = np.r_[bval, b3], np.vstack([bvec, g3])
    rng = np.random.default_rng(1)
    dwi = np.hstack([dwi, 0.5 * dwi[:, -11:]]) + 10 * rng.normal(size=(60, len(bval)))
    dwi = abs(dwi).astype(np.float32)
    table = gradient_table(bval, bvecs=bvec, b0_threshold=50)
    mean = MeanDiffusionKurtosisModel(table).fit(dwi.astype(float))
    maps, n_implausible = kernel.fit_kurtosis(dwi, bval, bvec)
    assert np.allclose(maps["msd"], mean.msd, rtol=1e-5)
    assert np.allclose(maps["msk"], mean.msk, rtol=1e-4, atol=1e-5)
    assert n_implausible == ((mean.msk < 0) | (mean.msk > kernel.MAX_KURTOSIS)).sum()
    whole = DiffusionKurtosisModel(table, fit_method="WLS").fit(dwi)
    maps, _ = kernel.fit_kurtosis(dwi, bval, bvec, "dki")
    assert np.allclose(maps["mk"], whole.mk(), atol=1e-5)
    assert np.allclose(maps["ak"], whole.ak(), atol=1e-5)


@pytest.mark.parametrize("kind", ["msdki", "dki"])
def test_fit_kurtosis__finite_whatever_the_signal(kurtic: tuple[NDArray, ...], kind: str) -> None:
    bval, bvec, *_ = kurtic
    dwi = np.random.default_rng(0).choice([0.0, 1e-30, 1.0, 1e6], (60, len(bval)))
    dwi[0] = 1
    maps, n_implausible = kernel.fit_kurtosis(dwi.astype(np.float32), bval, bvec, kind)
    assert all(np.isfinite(values).all() for values in maps.values())
    assert n_implausible > 0 or kind == "dki"  # which DIPY draws in


def test_kurtosis_volumes__shells() -> None:
    bval, bvec = two_shells(1000, 12, 2000)
    bval[-1] = 2010
    assert len(kernel.kurtosis_volumes(bval, bvec)[0]) == 26
    trace = two_shells(1000, 3, 2000)  # three directions have no mean of all
    for wanted in (two_shells(1000, 12, 1000), two_shells(1000, 12, 5000), trace):
        index, problem = kernel.kurtosis_volumes(*wanted)
        assert not len(index)
        assert "two shells up to b = 3000, found 1" in problem
    index, problem = kernel.kurtosis_volumes(bval, bvec, "dki")
    assert not len(index)
    assert re.search(r"tell \d+ of the 22 coefficients .* takes 15 directions", problem)

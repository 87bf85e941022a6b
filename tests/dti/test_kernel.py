"""The tensor fit against DIPY, MRtrix, NumPy and planted tensors."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from dipy.core.gradients import gradient_table
from dipy.reconst.dti import TensorModel
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


@pytest.mark.parametrize("method", ["WLS", "OLS"])
def test_fit_tensor__equals_dipy(method: str) -> None:
    dwi = signal(tensors(), noise=20.0) + 20
    maps = kernel.fit_tensor(dwi, BVAL, BVEC, EVERYWHERE, method)
    table = gradient_table(BVAL, bvecs=BVEC, b0_threshold=50)
    fit = TensorModel(table, fit_method=method).fit(dwi)
    assert np.allclose(maps.fa, fit.fa, atol=1e-6)
    for name in ("md", "ad", "rd"):
        assert np.allclose(getattr(maps, name), getattr(fit, name), rtol=1e-5, atol=1e-9)


def test_fit_tensor__ols_equals_mrtrix(tmp_path: Path, tool: Callable[[str], str]) -> None:
    affine = np.diag([-2.0, 2.0, 2.0, 1.0])
    dwi = signal(tensors(), noise=20.0) + 20
    write_nifti(tmp_path / "dwi.nii", dwi, affine)
    bvec = world_to_bvec(BVEC, affine)
    write_gradients(tmp_path / "a.bval", tmp_path / "a.bvec", BVAL, bvec)
    quiet = ("-quiet", "-nthreads", "0")
    fsl = ("-fslgrad", tmp_path / "a.bvec", tmp_path / "a.bval")
    subprocess.run(
        [
            tool("dwi2tensor"),
            *quiet,
            "-ols",
            "-iter",
            "0",
            *fsl,
            tmp_path / "dwi.nii",
            tmp_path / "dt.nii",
        ],
        check=True,
    )
    subprocess.run(
        [
            tool("tensor2metric"),
            *quiet,
            tmp_path / "dt.nii",
            "-fa",
            tmp_path / "fa.nii",
            "-adc",
            tmp_path / "md.nii",
            "-ad",
            tmp_path / "ad.nii",
        ],
        check=True,
    )
    maps = kernel.fit_tensor(dwi, BVAL, bvec, EVERYWHERE, "OLS")
    plausible = maps.fa < 0.99  # MRtrix does not raise negative eigenvalues
    assert plausible.mean() > 0.8
    fa, md, ad = (nib.load(tmp_path / f"{name}.nii").get_fdata() for name in ("fa", "md", "ad"))
    assert np.allclose(maps.fa[plausible], fa[plausible], atol=1e-5)
    assert np.allclose(maps.md[plausible], md[plausible], rtol=1e-4)
    assert np.allclose(maps.ad[plausible], ad[plausible], rtol=1e-4)


def test_solve_tensor__eigenvalues_are_numpys() -> None:
    table = gradient_table(BVAL, bvecs=BVEC, b0_threshold=50)
    design = TensorModel(table).design_matrix
    y = signal(tensors(), noise=10.0).reshape(60, -1) + 10
    parameters, _ = kernel.solve_tensor(design, y, weighted=False)
    lower = np.linalg.lstsq(design, np.log(y.astype(float)).T, rcond=None)[0].T  # (60, 7)
    tensor = lower[:, [0, 1, 3, 1, 2, 4, 3, 4, 5]].reshape(-1, 3, 3)
    values = np.maximum(np.linalg.eigvalsh(tensor)[:, ::-1], -1e-6 / design.min())
    assert np.allclose(parameters[:, :3], values, rtol=1e-8, atol=1e-12)


def test_solve_tensor__chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = kernel.fit_tensor(signal(tensors(), noise=20.0), BVAL, BVEC, EVERYWHERE)
    monkeypatch.setattr(kernel, "CHUNK", 7)
    parts = kernel.fit_tensor(signal(tensors(), noise=20.0), BVAL, BVEC, EVERYWHERE)
    assert np.allclose(whole.fa, parts.fa, atol=1e-7)


def test_fit_tensor__counts_what_is_implausible() -> None:
    tensor = np.tile(np.diag([1.0e-3, 0.8e-3, 0.6e-3]), (60, 1, 1))
    tensor[3] = np.diag([1.5e-3, 1.0e-3, -0.3e-3])  # signal rises along z
    tensor[10] = np.diag([5e-3, 4.6e-3, 4.4e-3])  # MD above 4e-3
    dwi = signal(tensor)
    dwi.reshape(60, -1)[20, 5] = 0
    maps = kernel.fit_tensor(dwi, BVAL, BVEC, EVERYWHERE)
    assert maps.n_implausible == 3
    dwi.reshape(60, -1)[3] = dwi.reshape(60, -1)[4]
    assert kernel.fit_tensor(dwi, BVAL, BVEC, EVERYWHERE).n_implausible == 2


def test_fit_tensor__finite_whatever_the_signal() -> None:
    dwi = np.random.default_rng(0).choice([0.0, 1e-30, 1.0, 1e6], (*SHAPE, 14)).astype(np.float32)
    dwi[0, 0, 0] = 0
    maps = kernel.fit_tensor(dwi, BVAL, BVEC, EVERYWHERE)
    for name in ("fa", "md", "ad", "rd", "evec"):
        assert np.isfinite(getattr(maps, name)).all(), name
    assert maps.fa.min() >= 0
    assert maps.fa.max() <= 1


def test_fit_tensor__zero_outside_the_mask() -> None:
    mask = np.random.default_rng(0).random(SHAPE) < 0.5
    dwi = signal(tensors(), noise=20.0)
    maps = kernel.fit_tensor(dwi, BVAL, BVEC, mask)
    assert (maps.fa[~mask] == 0).all()
    assert (maps.fa[mask] > 0).all()
    assert np.allclose(maps.fa[mask], kernel.fit_tensor(dwi, BVAL, BVEC, EVERYWHERE).fa[mask])

"""The command line of the tensor fit: what it writes and what it refuses."""

from __future__ import annotations

import json
import logging
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from click.testing import CliRunner, Result
from numpy.typing import NDArray

from axoloci.io.files import sha256
from axoloci.io.gradients import read_gradients, world_to_bvec, write_gradients
from axoloci.io.nifti import read_nifti, write_nifti
from axoloci.tasks.dti.cli import main
from axoloci.tasks.simulate.scan import gradient_scheme

AFFINE = np.diag([-2.0, 2.0, 2.0, 1.0])
TENSOR = np.diag([1.7e-3, 0.3e-3, 0.3e-3])
S0 = 500.0
MD = 2.3e-3 / 3
FA = 1.4e-3 / np.sqrt(1.7e-3**2 + 2 * 0.3e-3**2)


def write_scan(
    folder: Path,
    *bvalues: float,
    affine: NDArray[np.float64] = AFFINE,
    kind: type = np.float32,
    n: int = 12,
) -> Path:
    """One b0, `n` directions a shell (1000 s/mm²), fibres from left to right, nothing at x = 0."""
    folder.mkdir(parents=True, exist_ok=True)
    shells = [gradient_scheme(n, int(i == 0), b) for i, b in enumerate(bvalues or (1000.0,))]
    bval, bvec = (np.concatenate(part) for part in zip(*shells, strict=True))
    s = S0 * np.exp(-bval * np.einsum("gi,ij,gj->g", bvec, TENSOR, bvec))
    dwi = np.tile(s.astype(kind), (6, 6, 6, 1))
    dwi[0] = 0
    write_nifti(folder / "dwi.nii.gz", dwi, affine)
    write_gradients(folder / "a.bval", folder / "a.bvec", bval, world_to_bvec(bvec, affine))
    return folder


def write_mask(path: Path, mask: NDArray[np.bool_], affine: NDArray[np.float64] = AFFINE) -> Path:
    write_nifti(path, mask.astype(np.uint8), affine)
    return path


def fit(folder: Path, *more: object) -> Result:
    inputs = ("--dwi", folder / "dwi.nii.gz", "--bval", folder / "a.bval")
    outputs = ("--bvec", folder / "a.bvec", "--out", folder / "out", "--prefix", "sub-01")
    return CliRunner().invoke(main, [str(x) for x in ("fit", *inputs, *outputs, *more)])


def test_fit__maps_and_figures(tmp_path: Path) -> None:
    write_scan(tmp_path)
    done = fit(tmp_path, "--method", "OLS")
    assert done.exit_code == 0, done.output
    stem = tmp_path / "out" / "sub-01_model-tensor"
    truths = {"fa": FA, "md": MD, "ad": 1.7e-3, "rd": 0.3e-3, "mode": 1, "bzero": S0}
    for name, truth in truths.items():
        image, affine = read_nifti(f"{stem}_param-{name}_dwimap.nii.gz", ndim=3)
        assert np.allclose(affine, AFFINE)
        assert (image[0] == 0).all()
        assert np.allclose(image[1:], truth, rtol=1e-3), name
    description = json.loads(Path(f"{stem}_dwimap.json").read_text())
    assert description["n_volumes_used"] == 13
    assert description["n_voxels"] == 180
    assert description["n_implausible_voxels"] == 0
    assert description["Maps"].keys() == {*truths, "residual", "decfa"}
    residual, _ = read_nifti(f"{stem}_param-residual_dwimap.nii.gz", ndim=3)
    assert residual.max() < 1e-4
    assert description["mean_fa"] == pytest.approx(FA, abs=1e-4)
    assert description["median_md"] == pytest.approx(MD, rel=1e-3)
    assert description["shells"] == [
        {"bval": 0.0, "n_volumes": 1},
        {"bval": 1000.0, "n_volumes": 12},
    ]


def test_fit__provenance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AXOLOCI_IMAGE", "axoloci/dti@sha256:1")
    write_scan(tmp_path)
    assert fit(tmp_path, "--method", "OLS").exit_code == 0
    description = json.loads((tmp_path / "out/sub-01_model-tensor_dwimap.json").read_text())
    assert description["Software"]["Code"] == "axoloci/dti@sha256:1"
    assert description["Command"] == (
        "axoloci-dti fit --dwi dwi.nii.gz --bval a.bval --bvec a.bvec --method OLS --prefix sub-01"
    )
    assert description["Sources"][0] == {
        "Name": "dwi.nii.gz",
        "SHA256": sha256(tmp_path / "dwi.nii.gz"),
    }
    assert [source["Name"] for source in description["Sources"]] == [
        "dwi.nii.gz",
        "a.bval",
        "a.bvec",
    ]


def test_fit__equal_bytes_in_another_folder(tmp_path: Path) -> None:
    folders = [write_scan(tmp_path / name) for name in ("a", "b/c")]
    for folder in folders:
        assert fit(folder).exit_code == 0
    first, second = ({p.name: p.read_bytes() for p in (f / "out").iterdir()} for f in folders)
    assert len(first) == 10
    assert first == second


def test_fit__only_high_shells_are_used_and_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_scan(tmp_path, 3000.0)
    with caplog.at_level(logging.WARNING):
        done = fit(tmp_path)
    assert done.exit_code == 0, done.output
    assert "b = 3000 is used as well" in caplog.text


def test_fit__mask(tmp_path: Path) -> None:
    write_scan(tmp_path)
    mask = np.zeros((6, 6, 6), dtype=bool)
    mask[:3] = True
    assert fit(tmp_path, "--mask", write_mask(tmp_path / "m.nii.gz", mask)).exit_code == 0
    fa, _ = read_nifti(tmp_path / "out/sub-01_model-tensor_param-fa_dwimap.nii.gz", ndim=3)
    assert np.array_equal(np.unique(np.nonzero(fa)[0]), [1, 2])


def test_fit__refuses_a_mask_on_another_grid(tmp_path: Path) -> None:
    write_scan(tmp_path)
    mask = np.ones((6, 6, 6), dtype=bool)
    moved = AFFINE.copy()
    moved[0, 3] = 2
    done = fit(tmp_path, "--mask", write_mask(tmp_path / "m.nii.gz", mask, moved))
    assert done.exit_code == 1
    assert "m.nii.gz: its affine puts voxels up to 2 mm away" in done.output
    done = fit(tmp_path, "--mask", write_mask(tmp_path / "m.nii.gz", mask[1:]))
    assert "m.nii.gz: grid (5, 6, 6)" in done.output
    rounded = AFFINE + 1e-4  # another program's rounding
    rounded[3] = AFFINE[3]
    assert fit(tmp_path, "--mask", write_mask(tmp_path / "m.nii.gz", mask, rounded)).exit_code == 0


def test_fit__refuses_an_empty_mask_and_a_bad_table(tmp_path: Path) -> None:
    write_scan(tmp_path)
    empty = write_mask(tmp_path / "m.nii.gz", np.zeros((6, 6, 6), dtype=bool))
    assert "no voxel to fit" in fit(tmp_path, "--mask", empty).output
    (tmp_path / "a.bval").write_text("0 1000\n")
    done = fit(tmp_path)
    assert done.exit_code == 1
    assert "the image has 13 volumes and the bval file 2 b-values" in done.output


# the image's axes run to the back, up and left, and are tilted
TILTED = np.array([[0.2, 0.1, -2, 9], [-2, 0.3, -0.2, 8], [0.3, 2, 0.1, 7], [0, 0, 0, 1]])


@pytest.mark.parametrize("affine", [AFFINE, np.diag([2.0, 2, 2, 1]), TILTED])
def test_fit__colours_are_of_the_scanners_axes(tmp_path: Path, affine: NDArray) -> None:
    assert fit(write_scan(tmp_path, affine=affine)).exit_code == 0
    path = tmp_path / "out/sub-01_model-tensor_param-decfa_dwimap.nii.gz"
    colour, _ = read_nifti(path, ndim=4)
    assert np.allclose(colour[1:], [FA, 0, 0], atol=2e-3)  # red: from left to right


def test_fit__colours_are_mrtrixs(tmp_path: Path, tool: Callable[[str], str]) -> None:
    write_scan(tmp_path, affine=TILTED)
    dwi = 100 + np.random.default_rng(0).integers(0, 900, (6, 6, 6, 13))
    write_nifti(tmp_path / "dwi.nii.gz", dwi.astype(np.int16), TILTED)
    assert fit(tmp_path, "--method", "OLS").exit_code == 0
    colour, _ = read_nifti(tmp_path / "out/sub-01_model-tensor_param-decfa_dwimap.nii.gz", ndim=4)
    wild, _ = read_nifti(tmp_path / "out/sub-01_model-tensor_desc-implausible_mask.nii.gz", ndim=3)
    gradients = ["-fslgrad", tmp_path / "a.bvec", tmp_path / "a.bval"]
    first = ["dwi2tensor", "-ols", "-iter", "0", *gradients, "dwi.nii.gz", "dt.nii"]
    for name, *words in (first, ["tensor2metric", "dt.nii", "-vector", "v.nii"]):
        subprocess.run([tool(name), *words, "-quiet"], cwd=tmp_path, check=True)
    vector, _ = read_nifti(tmp_path / "v.nii", ndim=4)  # times FA, in the scanner's axes
    assert (wild == 0).sum() > 20
    assert np.allclose(colour[wild == 0], abs(vector)[wild == 0], atol=1e-4)


@pytest.mark.parametrize("method", ["IWLS", "NLLS", "RESTORE"])
def test_fit__methods(tmp_path: Path, method: str) -> None:
    assert fit(write_scan(tmp_path), "--method", method).exit_code == 0
    stem = tmp_path / "out/sub-01_model-tensor"
    fa, _ = read_nifti(f"{stem}_param-fa_dwimap.nii.gz", ndim=3)
    assert np.allclose(fa[1:], FA, atol=1e-3)
    parameters = json.loads(Path(f"{stem}_dwimap.json").read_text())["Model"]["Parameters"]
    assert parameters["FitMethod"] == ("IWLS" if method == "IWLS" else "NLLS")
    assert parameters["OutlierRejectionMethod"] == ("RESTORE" if method == "RESTORE" else "none")
    assert ("RESTORESigma" in parameters) == (method == "RESTORE")
    assert parameters.get("Iterations") == (2 if method == "IWLS" else None)


def test_fit__sigma_is_of_restore(tmp_path: Path) -> None:
    done = fit(write_scan(tmp_path), "--sigma", 5)
    assert done.exit_code == 1
    assert "--sigma is of RESTORE, and the method is WLS" in done.output
    assert fit(tmp_path, "--sigma", 5, "--method", "RESTORE").exit_code == 0
    description = json.loads((tmp_path / "out/sub-01_model-tensor_dwimap.json").read_text())
    assert description["Model"]["Parameters"]["RESTORESigma"] == 5


@pytest.mark.parametrize("kind", ["msdki", "dki"])
def test_fit__kurtosis_of_two_shells(tmp_path: Path, kind: str) -> None:
    write_scan(tmp_path, 1000.0, 2000.0, 3000.0, n=16)
    assert fit(tmp_path, "--kurtosis", kind).exit_code == 0
    stem = tmp_path / f"out/sub-01_model-{kind}"
    description = json.loads(Path(f"{stem}_dwimap.json").read_text())
    assert [shell["n_volumes"] for shell in description["shells"]] == [1, 16, 16, 16]
    for name in description["Maps"]:
        values, _ = read_nifti(f"{stem}_param-{name}_dwimap.nii.gz", ndim=3)
        assert (values[0] == 0).all()
        if name == "mk":  # of one tensor
            assert abs(values[1:]).max() < 0.01
        if name == "msk":  # of the mean over directions of one that is not isotropic
            assert values[1:].min() > 0.1
    tensor = json.loads((tmp_path / "out/sub-01_model-tensor_dwimap.json").read_text())
    assert tensor["n_volumes_used"] == 17
    for folder, words in (("none", ("--kurtosis", "none")), ("one", ())):
        write_scan(tmp_path / folder, *((1000.0, 2000.0) if words else (1000.0,)))
        assert fit(tmp_path / folder, *words).exit_code == 0
        assert not list((tmp_path / folder / "out").glob("*dki*"))


def test_fit__tells_what_it_leaves_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_scan(tmp_path)
    with caplog.at_level(logging.INFO):
        assert fit(tmp_path).exit_code == 0
    assert "no kurtosis: it takes two shells up to b = 3000, found 1" in caplog.text
    assert "no mask: the 180 voxels whose b0 is not 0 are fitted" in caplog.text


def test_fit__implausible_voxels_are_counted_and_marked(tmp_path: Path) -> None:
    write_scan(tmp_path)
    dwi, affine = read_nifti(tmp_path / "dwi.nii.gz", ndim=4)
    dwi[2, 3, 4, 7] = 0
    dwi[3, 3, 3, 1:] *= 1.5  # rises
    write_nifti(tmp_path / "dwi.nii.gz", dwi, affine)
    assert fit(tmp_path).exit_code == 0
    marked, _ = read_nifti(tmp_path / "out/sub-01_model-tensor_desc-implausible_mask.nii.gz", 3)
    assert np.argwhere(marked).tolist() == [[2, 3, 4], [3, 3, 3]]
    description = json.loads((tmp_path / "out/sub-01_model-tensor_dwimap.json").read_text())
    assert description["n_implausible_voxels"] == 2
    reasons = description["implausible_voxels"]
    assert reasons["signal_below_floor"] == 1
    assert reasons["eigenvalue_not_positive"] >= 1


def test_fit__without_prefix_and_by_slopes(tmp_path: Path) -> None:
    write_scan(tmp_path, kind=np.uint16)
    image = nib.load(tmp_path / "dwi.nii.gz")
    scaled = nib.Nifti1Image(np.asarray(image.dataobj) * np.uint16(100), image.affine)
    scaled.header.set_slope_inter(0.5, 0)  # up to 50,000, which int16 does not hold
    nib.save(scaled, tmp_path / "scan_dwi.nii.gz")
    arguments = ["fit", "--dwi", tmp_path / "scan_dwi.nii.gz", "--bval", tmp_path / "a.bval"]
    arguments += ["--bvec", tmp_path / "a.bvec", "--out", tmp_path / "out"]
    assert CliRunner().invoke(main, [str(x) for x in arguments]).exit_code == 0
    s0, _ = read_nifti(tmp_path / "out/scan_model-tensor_param-bzero_dwimap.nii.gz", ndim=3)
    assert np.allclose(s0[1:], S0 * 50, rtol=0.01)


def test_fit__refuses_values_that_are_not_finite(tmp_path: Path) -> None:
    write_scan(tmp_path)
    dwi, affine = read_nifti(tmp_path / "dwi.nii.gz", ndim=4)
    dwi[0, 0, 0, 5], dwi[4, 4, 4, 6] = np.nan, np.inf
    write_nifti(tmp_path / "dwi.nii.gz", dwi, affine)
    done = fit(tmp_path)
    assert done.exit_code == 1
    assert "dwi.nii.gz: volume 5: 1 values are NaN or infinite" in done.output
    mask = np.ones((6, 6, 6), dtype=bool)
    mask[0, 0, 0] = mask[4, 4, 4] = False
    assert fit(tmp_path, "--mask", write_mask(tmp_path / "m.nii.gz", mask)).exit_code == 0


@pytest.mark.parametrize("fault", ["no b0", "b of 1", "b of 1e9", "5 directions", "1 direction"])
def test_fit__refuses_tables_that_give_no_tensor(tmp_path: Path, fault: str) -> None:
    write_scan(tmp_path)
    bval, bvec = gradient_scheme(12, 1, 1000.0)
    if fault == "no b0":
        bval[0], bvec[0], words = 1000, bvec[1], "no b0: the smallest b-value is 1000"
    elif fault == "b of 1":
        bval, words = bval / 1000, "the largest b-value is 1: no volume is diffusion-weighted"
    elif fault == "b of 1e9":
        bval, words = bval * 1e6, "the largest b-value is 1e+09: b-values must be in s/mm²"
    else:
        n = int(fault[0])
        bvec[1:] = np.resize(bvec[1 : n + 1], (12, 3))
        words = f"a tensor needs at least 6 different directions, found {n}"
    write_gradients(tmp_path / "a.bval", tmp_path / "a.bvec", bval, bvec)
    done = fit(tmp_path)
    assert done.exit_code == 1
    assert words in done.output
    assert not (tmp_path / "out").exists()


def test_fit__tells_what_it_mends(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_scan(tmp_path, 500.0, 1000.0)
    bval, bvec = read_gradients(tmp_path / "a.bval", tmp_path / "a.bvec")
    length = np.sqrt(bval / 1000)[:, None]  # as scanners write them that tell one b-value
    write_gradients(tmp_path / "a.bval", tmp_path / "a.bvec", 1000.0 * (bval > 0), bvec * length)
    with caplog.at_level(logging.WARNING):
        assert fit(tmp_path).exit_code == 0
    assert "a.bvec: b = 1000 for all volumes and directions of length" in caplog.text
    fa, _ = read_nifti(tmp_path / "out/sub-01_model-tensor_param-fa_dwimap.nii.gz", ndim=3)
    assert np.allclose(fa[1:], FA, atol=2e-3)


def planted_scan(folder: Path, order: NDArray[np.intp], *, of: str) -> Path:
    """Fibres in all directions, 21 volumes of which the first is a b0.

    The b-values or the directions (`of`) are written in this order.
    """
    folder.mkdir(parents=True, exist_ok=True)
    bval, gradient = gradient_scheme(20, 1, 1000.0)
    rng = np.random.default_rng(0)
    fibre = rng.normal(size=(10, 10, 10, 3))
    fibre /= np.linalg.norm(fibre, axis=-1, keepdims=True)
    along = np.einsum("xyzi,gi->xyzg", fibre, gradient) ** 2
    dwi = S0 * np.exp(-bval * (0.3e-3 + 1.4e-3 * along))
    dwi += rng.normal(0, 5, dwi.shape)
    affine = np.diag([-5.0, 5.0, 5.0, 1.0])  # 125 ml
    write_nifti(folder / "dwi.nii.gz", dwi.astype(np.float32), affine)
    if of == "bvec":
        gradient = gradient[order]
    else:
        bval = bval[order]
        gradient[bval > 0] = gradient[1:]
    write_gradients(folder / "a.bval", folder / "a.bvec", bval, world_to_bvec(gradient, affine))
    return folder


@pytest.mark.parametrize(
    ("of", "message"),
    [
        ("bvec", r"a\.bvec: the directions explain .* when moved by -1 among the weighted"),
        ("bval", r"a\.bval: signal does not fall with the b-value: volumes? 0 labelled weighted"),
    ],
)
def test_fit__gradients_of_other_volumes_are_refused(tmp_path: Path, of: str, message: str) -> None:
    in_order = np.arange(21)
    moved = np.r_[0, 20, 1:20] if of == "bvec" else np.r_[1, 0, 2:21]
    done = fit(planted_scan(tmp_path / "sound", in_order, of=of))
    assert done.exit_code == 0, done.output
    about = json.loads((tmp_path / "sound/out/sub-01_model-tensor_dwimap.json").read_text())
    assert about["gradient_frame"].keys() == {"best", "index", "margin"}
    refused = fit(planted_scan(tmp_path / "moved", moved, of=of))
    assert refused.exit_code == 1
    assert re.search(message, refused.output)
    assert not (tmp_path / "moved/out").exists()
    assert fit(tmp_path / "moved", "--no-check").exit_code == 0


def test_fit__gradients_of_one_tract_are_not_judged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        assert fit(write_scan(tmp_path)).exit_code == 0
    assert "of 1 ml the gradients are not judged" in caplog.text
    about = json.loads((tmp_path / "out/sub-01_model-tensor_dwimap.json").read_text())
    assert "gradient_frame" not in about

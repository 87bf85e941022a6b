"""The command line of the tensor fit: what it writes and what it refuses."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from numpy.typing import NDArray

from axoloci.io.files import sha256
from axoloci.io.gradients import world_to_bvec, write_gradients
from axoloci.io.nifti import read_nifti, write_nifti
from axoloci.tasks.dti.cli import main
from axoloci.tasks.simulate.scan import gradient_scheme

AFFINE = np.diag([-2.0, 2.0, 2.0, 1.0])
TENSOR = np.diag([1.7e-3, 0.3e-3, 0.3e-3])
MD = 2.3e-3 / 3
FA = 1.4e-3 / np.sqrt(1.7e-3**2 + 2 * 0.3e-3**2)


def write_scan(folder: Path, bvalue: float = 1000.0) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    bval, bvec = gradient_scheme(12, 1, bvalue)
    s = 500 * np.exp(-bval * np.einsum("gi,ij,gj->g", bvec, TENSOR, bvec))
    dwi = np.tile(s.astype(np.float32), (6, 6, 6, 1))
    dwi[0] = 0
    write_nifti(folder / "dwi.nii.gz", dwi, AFFINE)
    write_gradients(folder / "a.bval", folder / "a.bvec", bval, world_to_bvec(bvec, AFFINE))
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
    for name, truth in {"fa": FA, "md": MD, "ad": 1.7e-3, "rd": 0.3e-3}.items():
        image, affine = read_nifti(f"{stem}_param-{name}_dwimap.nii.gz", ndim=3)
        assert np.allclose(affine, AFFINE)
        assert (image[0] == 0).all()
        assert np.allclose(image[1:], truth, rtol=1e-3), name
    description = json.loads(Path(f"{stem}_dwimap.json").read_text())
    assert description["n_volumes_used"] == 13
    assert description["n_voxels"] == 180
    assert description["n_implausible_voxels"] == 0
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
    assert len(first) == 5
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

"""The command line of preprocessing: files, figures, refusals."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from click.testing import CliRunner, Result
from numpy.typing import NDArray

from axoloci.io.gradients import read_gradients, world_to_bvec, write_gradients
from axoloci.io.nifti import read_nifti, write_nifti
from axoloci.quality import PAIR_UNFIT
from axoloci.tasks.preprocess import kernel
from axoloci.tasks.preprocess.cli import main
from axoloci.tasks.simulate import kernel as simulation
from axoloci.tasks.simulate import scan
from axoloci.tasks.simulate.anatomy import phantom

NAMES = {"dwi": "dwi.nii.gz", "bval": "a.bval", "bvec": "a.bvec"}


@pytest.fixture(scope="module")
def simulated() -> tuple[NDArray[np.float32], NDArray[np.float64], NDArray, NDArray]:
    anatomy = phantom(8.0)
    bval, gradient = scan.gradient_scheme(8, 1, 1000.0)
    protocol = simulation.Protocol(bval, gradient, 30.0, 0.5, 0.5, 4.0)
    none = np.zeros(len(anatomy.names))
    found = simulation.simulate_scan(anatomy, none, protocol, np.random.SeedSequence(0))
    return found.dwi, anatomy.scan_affine, bval, gradient


Simulated = tuple[NDArray[np.float32], NDArray[np.float64], NDArray, NDArray]


def write_scan(folder: Path, simulated: Simulated) -> Path:
    dwi, affine, bval, gradient = simulated
    folder.mkdir(parents=True, exist_ok=True)
    write_nifti(folder / "dwi.nii.gz", dwi, affine)
    write_gradients(folder / "a.bval", folder / "a.bvec", bval, world_to_bvec(gradient, affine))
    return folder


def call(command: str, folder: Path, *more: object) -> Result:
    inputs = [x for option, name in NAMES.items() for x in (f"--{option}", folder / name)]
    out = ("--out", folder / "out", "--prefix", "sub-01") if command == "run" else ()
    return CliRunner().invoke(main, [str(x) for x in (command, *inputs, *out, *more)])


def test_run__files_and_figures(tmp_path: Path, simulated: Simulated) -> None:
    write_scan(tmp_path, simulated)
    done = call("run", tmp_path)
    assert done.exit_code == 0, done.output
    stem = tmp_path / "out" / "sub-01_desc-preproc_dwi"
    dwi, affine = read_nifti(f"{stem}.nii.gz", ndim=4)
    assert dwi.shape == simulated[0].shape
    assert np.allclose(affine, simulated[1])
    bval, bvec = read_gradients(f"{stem}.bval", f"{stem}.bvec")
    assert np.array_equal(bval, simulated[2])
    assert np.allclose(np.linalg.norm(bvec[1:], axis=1), 1, atol=1e-5)
    mask, _ = read_nifti(tmp_path / "out/sub-01_desc-brain_mask.nii.gz", ndim=3)
    lines = (tmp_path / "out/sub-01_desc-motion_timeseries.tsv").read_text().splitlines()
    assert lines[0].split("\t") == [
        *("volume", "trans_x", "trans_y", "trans_z", "rot_x", "rot_y", "rot_z"),
        *("framewise_displacement", "n_outlier_slices", "eddy_x", "eddy_y", "eddy_z"),
        *("neighbour_correlation_raw", "neighbour_correlation"),
    ]
    assert len(lines) == 10
    slices = (tmp_path / "out/sub-01_desc-slices_timeseries.tsv").read_text().splitlines()
    assert slices[0].split("\t") == ["slice", *(f"volume_{v}" for v in range(9))]
    assert len(slices) == 1 + dwi.shape[2]
    qc = json.loads(Path(f"{stem}.json").read_text())
    assert qc["n_volumes"] == 9
    assert qc["n_b0"] == 1
    assert qc["shells"] == [{"bval": 0.0, "n_volumes": 1}, {"bval": 1000.0, "n_volumes": 8}]
    assert qc["mask_ml"] == pytest.approx(mask.sum() * 8**3 / 1000, abs=0.1)
    fd = [float(line.split("\t")[7]) for line in lines[1:]]
    assert qc["mean_framewise_displacement"] == pytest.approx(np.mean(fd), abs=1e-3)
    assert qc["max_framewise_displacement"] == pytest.approx(max(fd), abs=1e-3)
    assert {"n_eddy_corrected_volumes", "mean_eddy_displacement", "max_eddy_displacement"} <= {*qc}
    assert "eddy currents" in qc["Description"]
    assert [step["name"] for step in qc["steps"]] == [
        *("unringing", "lost slices replaced", "motion"),
    ]
    assert qc["n_eddy_corrected_volumes"] == 0
    assert qc["gradient_frame"]["best"] == "as given"
    assert (qc["n_outlier_slices"], qc["distortion"]) == (0, "no reverse-phase b0")
    assert qc["neighbour_correlation"] > qc["neighbour_correlation_raw"] > 0.5
    assert qc["Command"].startswith("axoloci-preprocess run --dwi dwi.nii.gz")
    assert str(tmp_path) not in json.dumps(qc)


def test_run__equal_bytes_in_another_folder(tmp_path: Path, simulated: Simulated) -> None:
    folders = [write_scan(tmp_path / name, simulated) for name in ("a", "b/c")]
    for folder in folders:
        assert call("run", folder).exit_code == 0
    first, second = ({p.name: p.read_bytes() for p in (f / "out").iterdir()} for f in folders)
    assert len(first) == 7
    assert first == second


def test_run__already_preprocessed_keeps_the_volumes(tmp_path: Path, simulated: Simulated) -> None:
    write_scan(tmp_path, simulated)
    assert call("run", tmp_path, "--already-preprocessed").exit_code == 0
    stem = tmp_path / "out" / "sub-01_desc-preproc_dwi"
    assert np.array_equal(read_nifti(f"{stem}.nii.gz", ndim=4)[0], simulated[0])
    assert Path(f"{stem}.bvec").read_bytes() == (tmp_path / "a.bvec").read_bytes()
    qc = json.loads(Path(f"{stem}.json").read_text())
    assert "max_framewise_displacement" not in qc
    assert "as they were given" in qc["Description"]
    assert "--already-preprocessed" in qc["Command"]


def test_run__eddy_currents_that_are_found_are_a_step(
    tmp_path: Path, simulated: Simulated, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_scan(tmp_path, simulated)
    estimate = kernel.estimate_motion

    def with_eddy_currents(*arguments: Any) -> kernel.Motion:
        motion = estimate(*arguments)
        return dataclasses.replace(motion, eddy_shift=motion.eddy_shift + 0.5)

    monkeypatch.setattr(kernel, "estimate_motion", with_eddy_currents)
    assert call("run", tmp_path, "--no-unring").exit_code == 0
    qc = json.loads((tmp_path / "out/sub-01_desc-preproc_dwi.json").read_text())
    assert qc["steps"][-1] == {"name": "eddy currents"}


def test_run__a_reverse_b0_corrects_distortion(tmp_path: Path, simulated: Simulated) -> None:
    """Of a scan without distortion, next to none is found; wrong pairs are refused."""
    write_scan(tmp_path, simulated)
    dwi, affine = simulated[:2]
    reverse = tmp_path / "reverse.nii.gz"
    write_nifti(reverse, 1.01 * dwi[..., 0], affine)
    (tmp_path / "a.json").write_text('{"PhaseEncodingDirection": "j-", "TotalReadoutTime": 0.05}')
    (tmp_path / "r.json").write_text('{"PhaseEncodingDirection": "j", "TotalReadoutTime": 0.05}')
    told = ("--json", tmp_path / "a.json")
    pair = (*told, "--reverse-b0", reverse)
    done = call("run", tmp_path, *pair, "--reverse-json", tmp_path / "r.json")
    assert done.exit_code == 0, done.output
    qc = json.loads((tmp_path / "out/sub-01_desc-preproc_dwi.json").read_text())
    assert qc["distortion"] == "corrected"
    assert qc["mean_distortion"] < 0.5
    assert qc["steps"][-1] == {"name": "susceptibility distortion"}
    assert 0.9 < qc["pair_correlation_raw"] < qc["pair_correlation"] + 0.01
    centre = np.linalg.inv(affine)[:3] @ [*qc["centre_mm"], 1]
    assert (abs(centre - np.array(dwi.shape[:3]) / 2) < 3).all()  # voxels
    assert len(qc["Sources"]) == 6
    refused = call("run", tmp_path, *pair, "--reverse-json", tmp_path / "a.json")
    assert "(j-, 0.05 s) is not the reverse of that of" in refused.output
    assert "give its sidecar" in call("run", tmp_path, "--reverse-b0", reverse).output
    kept = call("run", tmp_path, *pair, "--already-preprocessed")
    assert "of no use with --already-preprocessed" in kept.output
    checked = call("check", tmp_path, *pair, "--reverse-json", tmp_path / "a.json")
    assert "is not the reverse of" in checked.output
    (line,) = (
        line
        for line in call("check", tmp_path, *pair).output.splitlines()
        if line.startswith("reverse b0")
    )
    assert "phase encoding j, direction not told, no readout time, shows 100.0% of the" in line
    write_nifti(reverse, dwi[..., 0], affine)
    for path, same in (
        (reverse, "is the same image as a b0 of"),
        (tmp_path / "dwi.nii.gz", "is the scan"),
    ):
        for command in ("run", "check"):
            found = call(command, tmp_path, *told, "--reverse-b0", path)
            assert found.exit_code == 1
            assert same in found.output


def test_run__an_image_whose_axes_were_exchanged(tmp_path: Path, simulated: Simulated) -> None:
    write_scan(tmp_path, simulated)
    (tmp_path / "a.json").write_text('{"PhaseEncodingDirection": "k"}')
    told = ("--json", tmp_path / "a.json")
    assert "phase encoding runs along k, across" in call("run", tmp_path, *told).output
    assert call("run", tmp_path, *told, "--already-preprocessed").exit_code == 0


def test_run__parts_may_be_left_out(tmp_path: Path, simulated: Simulated) -> None:
    write_scan(tmp_path, simulated)
    assert call("run", tmp_path, "--no-motion", "--no-unring", "--no-denoise").exit_code == 0
    stem = tmp_path / "out" / "sub-01_desc-preproc_dwi"
    assert np.array_equal(read_nifti(f"{stem}.nii.gz", ndim=4)[0], simulated[0])
    qc = json.loads(Path(f"{stem}.json").read_text())
    assert qc["steps"] == []
    # what was not looked for is not told as none
    assert not {"mean_framewise_displacement", "n_outlier_slices", "outlier_z"} & qc.keys()
    lines = (tmp_path / "out/sub-01_desc-motion_timeseries.tsv").read_text().splitlines()
    assert lines[0] == "volume\tneighbour_correlation_raw\tneighbour_correlation"
    assert not (tmp_path / "out/sub-01_desc-slices_timeseries.tsv").exists()


def test_run__negative_values_are_counted_and_zeroed(tmp_path: Path, simulated: Simulated) -> None:
    dwi = simulated[0].copy()
    dwi[0, 0, 0, :3] = -5
    write_scan(tmp_path, (dwi, *simulated[1:]))
    assert call("run", tmp_path, "--already-preprocessed").exit_code == 0
    stem = tmp_path / "out" / "sub-01_desc-preproc_dwi"
    assert read_nifti(f"{stem}.nii.gz", ndim=4)[0].min() == 0
    assert json.loads(Path(f"{stem}.json").read_text())["n_negative_values"] == 3


def write_mask(path: Path, mask: NDArray[np.bool_], affine: NDArray[np.float64]) -> Path:
    write_nifti(path, mask.astype(np.uint8), affine)
    return path


def test_run__a_given_mask_is_kept(tmp_path: Path, simulated: Simulated) -> None:
    write_scan(tmp_path, simulated)
    mask = simulated[0][..., 0] > 100
    given = write_mask(tmp_path / "m.nii.gz", mask, simulated[1])
    assert call("run", tmp_path, "--mask", given, "--already-preprocessed").exit_code == 0
    found, _ = read_nifti(tmp_path / "out/sub-01_desc-brain_mask.nii.gz", ndim=3)
    assert np.array_equal(found > 0, mask)


def test_check__sums_a_sound_scan_up(tmp_path: Path, simulated: Simulated) -> None:
    (tmp_path / "a.json").write_text('{"PhaseEncodingDirection": "j-", "TotalReadoutTime": 0.05}')
    done = call("check", write_scan(tmp_path, simulated), "--json", tmp_path / "a.json")
    assert done.exit_code == 0, done.output
    for line in (
        "image           20 x 25 x 20, 9 volumes, float32",
        "voxels          8 x 8 x 8 mm",
        "orientation     LAS",
        "b-values        1 of b = 0, 8 of b = 1000 s/mm²",
        "tensor fit      9 volumes of b <= 1500, 8 directions, condition number ",
        "gradient frame  as given: coherence 0.0",
        "phase encoding  j-, 0.05 s",
        "memory          0.3 GB needed, ",
    ):
        assert f"\n{line}" in f"\n{done.output}"


def test_check__lists_everything(tmp_path: Path, simulated: Simulated) -> None:
    dwi = simulated[0].copy()
    dwi[..., 3] = 1
    write_scan(tmp_path, (dwi, *simulated[1:]))
    (tmp_path / "a.bval").write_text("0 1000\n")
    moved = simulated[1].copy()
    moved[2, 3] += 3
    given = write_mask(tmp_path / "m.nii.gz", dwi[..., 0] > 100, moved)
    done = call("check", tmp_path, "--mask", given)
    assert done.exit_code == 1
    for words in (
        "volume 3: all voxels have the same value",
        "the image has 9 volumes and the bval file 2 b-values",
        "m.nii.gz: its affine puts voxels up to 3 mm away",
    ):
        assert words in done.output
    assert call("run", tmp_path, "--mask", given).exit_code == 1
    empty = write_mask(tmp_path / "m.nii.gz", dwi[..., 0] > 1e9, simulated[1])
    assert "m.nii.gz: the mask is empty" in call("check", tmp_path, "--mask", empty).output


def test_run__refusals_by_words(tmp_path: Path, simulated: Simulated) -> None:
    write_scan(tmp_path, simulated)
    dwi, affine = simulated[:2]
    path = tmp_path / "dwi.nii.gz"
    for bad, words in (
        (dwi[..., 0], "expected a 4D image, found shape"),
        (dwi[..., None], "expected a 4D image, found shape"),
        (np.where(dwi == dwi.max(), np.float32(np.nan), dwi), "1 values are NaN or infinite"),
    ):
        nib.save(nib.Nifti1Image(bad, affine), path)
        done = call("run", tmp_path)
        assert done.exit_code == 1
        assert words in done.output
    write_nifti(path, dwi, affine)
    path.write_bytes(path.read_bytes()[:-5000])
    assert "truncated or damaged after" in call("run", tmp_path).output
    assert not (tmp_path / "out").exists()


def test_run__a_reverse_b0_of_another_head_is_not_believed(
    tmp_path: Path, simulated: Simulated, caplog: pytest.LogCaptureFixture
) -> None:
    write_scan(tmp_path, simulated)
    dwi, affine = simulated[:2]
    other = np.random.default_rng(0).uniform(0, 2000, dwi.shape[:3]).astype(np.float32)
    write_nifti(tmp_path / "reverse.nii.gz", other, affine)
    (tmp_path / "a.json").write_text('{"PhaseEncodingDirection": "j-"}')
    given = ("--json", tmp_path / "a.json", "--reverse-b0", tmp_path / "reverse.nii.gz")
    done = call("run", tmp_path, *given, "--no-motion", "--no-unring")
    assert done.exit_code == 0, done.output
    qc = json.loads((tmp_path / "out/sub-01_desc-preproc_dwi.json").read_text())
    assert qc["distortion"] == PAIR_UNFIT
    assert "is it a b0 of the same head?" in caplog.text
    assert "mean_distortion" not in qc
    corrected, _ = read_nifti(tmp_path / "out/sub-01_desc-preproc_dwi.nii.gz", ndim=4)
    assert np.array_equal(corrected, dwi)


def test_run__directions_of_b0s_mean_nothing(tmp_path: Path, simulated: Simulated) -> None:
    """Scanners write unit vectors beside b = 5."""
    write_scan(tmp_path, simulated)
    assert call("run", tmp_path).exit_code == 0
    plain = json.loads((tmp_path / "out/sub-01_desc-preproc_dwi.json").read_text())
    bvec = np.loadtxt(tmp_path / "a.bvec")
    bvec[:, simulated[2] <= 50] = [[0.6], [0.8], [0]]
    np.savetxt(tmp_path / "a.bvec", bvec)
    assert call("run", tmp_path).exit_code == 0
    qc = json.loads((tmp_path / "out/sub-01_desc-preproc_dwi.json").read_text())
    for figure in ("snr", "cnr", "neighbour_correlation", "mean_framewise_displacement"):
        assert qc[figure] == plain[figure]


def test_run__a_reverse_b0_may_lie_on_another_grid(tmp_path: Path, simulated: Simulated) -> None:
    """Stored the other way round and with finer voxels, it is the same image."""
    write_scan(tmp_path, simulated)
    dwi, affine = simulated[:2]
    fine = np.repeat(dwi[:, ::-1, :, 0], 2, axis=1)
    turned = affine @ np.diag([1, -0.5, 1, 1])
    turned[:3, 3] += affine[:3, 1] * (dwi.shape[1] - 0.75)
    write_nifti(tmp_path / "reverse.nii.gz", fine, turned)
    (tmp_path / "a.json").write_text('{"PhaseEncodingDirection": "j-", "TotalReadoutTime": 0.05}')
    (tmp_path / "r.json").write_text('{"PhaseEncodingDirection": "j-", "TotalReadoutTime": 0.1}')
    told = ("--json", tmp_path / "a.json", "--reverse-json", tmp_path / "r.json")
    assert call("run", tmp_path, *told, "--reverse-b0", tmp_path / "reverse.nii.gz").exit_code == 0
    qc = json.loads((tmp_path / "out/sub-01_desc-preproc_dwi.json").read_text())
    assert qc["mean_distortion"] < 0.5
    assert qc["pair_correlation_raw"] > 0.9

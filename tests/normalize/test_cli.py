"""The command line of normalisation: what it writes, what the cohort store refuses."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from numpy.typing import NDArray
from scipy import ndimage

from axoloci.io.cohort import read_cohort
from axoloci.io.files import sha256
from axoloci.io.nifti import read_nifti, write_nifti
from axoloci.tasks.normalize.cli import main
from axoloci.tasks.simulate.anatomy import phantom

ANATOMY = phantom(10.0)
FA, AFFINE = ANATOMY.scan_fa, ANATOMY.scan_affine


def call(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def register(folder: Path, *more: object) -> Result:
    folder.mkdir(parents=True, exist_ok=True)
    write_nifti(folder / "fa.nii.gz", FA, AFFINE)
    write_nifti(folder / "t.nii.gz", FA, AFFINE)
    inputs = ("--fa", folder / "fa.nii.gz", "--template", folder / "t.nii.gz")
    return call("register", *inputs, "--out", folder / "out", "--prefix", "sub-01", *more)


def test_register__files_and_figures(tmp_path: Path) -> None:
    done = register(tmp_path)
    assert done.exit_code == 0, done.output
    out = tmp_path / "out"
    fa, affine = read_nifti(
        out / "sub-01_space-template_model-tensor_param-fa_dwimap.nii.gz", ndim=3
    )
    warp, _ = read_nifti(out / "sub-01_from-template_to-dwi_warp.nii.gz", ndim=4)
    assert np.allclose(affine, AFFINE)
    to_voxel = np.linalg.inv(AFFINE)
    voxel = np.moveaxis(warp @ to_voxel[:3, :3].T + to_voxel[:3, 3], -1, 0)
    by_hand = ndimage.map_coordinates(FA, voxel, order=1, mode="constant")
    assert np.allclose(fa, by_hand, atol=1e-3)
    matrix = np.loadtxt(out / "sub-01_from-template_to-dwi_xfm.txt")
    qc = json.loads((out / "sub-01_space-template_registration.json").read_text())
    assert qc["head_scale"] == pytest.approx(np.linalg.det(matrix[:3, :3]), abs=1e-4)
    assert set(qc["similarity"]) == {"header", "affine", "warp"}
    assert [source["Name"] for source in qc["Sources"]] == ["fa.nii.gz", "t.nii.gz"]
    assert qc["Sources"][1]["SHA256"] == sha256(tmp_path / "t.nii.gz")


def test_register__equal_bytes_in_another_folder(tmp_path: Path) -> None:
    folders = [tmp_path / "a", tmp_path / "b" / "c"]
    for folder in folders:
        assert register(folder, "--voxel-size", 10).exit_code == 0
    first, second = ({p.name: p.read_bytes() for p in (f / "out").iterdir()} for f in folders)
    assert len(first) == 4
    assert first == second


def test_register__a_map_unlike_the_template_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    noise = np.random.default_rng(0).random(FA.shape).astype(np.float32)
    write_nifti(tmp_path / "noise.nii.gz", noise, AFFINE)
    with caplog.at_level(logging.WARNING):
        done = register(tmp_path, "--fa", tmp_path / "noise.nii.gz")
    assert done.exit_code == 0, done.output
    assert "look at the map" in caplog.text


@pytest.mark.parametrize(
    ("image", "words"), [(0 * FA, "no voxel above 0"), (1000 * FA, "FA lies between 0 and 1")]
)
def test_register__refuses_what_is_no_fa(
    tmp_path: Path, image: NDArray[np.float32], words: str
) -> None:
    write_nifti(tmp_path / "bad.nii.gz", image, AFFINE)
    done = register(tmp_path, "--fa", tmp_path / "bad.nii.gz")
    assert done.exit_code == 1
    assert words in done.output


def test_register__refuses_what_is_no_template(tmp_path: Path) -> None:
    write_nifti(tmp_path / "bad.nii.gz", 100 * FA, AFFINE)
    done = register(tmp_path, "--template", tmp_path / "bad.nii.gz")
    assert "an FA template is needed" in done.output


def write_maps(folder: Path, n: int = 4) -> list[list[str]]:
    """Maps of n people on the template's grid, and the rows of their table."""
    rng = np.random.default_rng(0)
    write_nifti(folder / "t.nii.gz", FA, AFFINE)
    rows = []
    for k in range(1, n + 1):
        image = (FA * rng.uniform(0.9, 1.1, FA.shape)).clip(0, 1).astype(np.float32)
        write_nifti(folder / f"{k}.nii.gz", image, AFFINE)
        rows.append([f"{k:04d}", f"{k}.nii.gz", sha256(folder / f"{k}.nii.gz")])
    return rows


def store(folder: Path, rows: list[list[str]], *more: object, digests: bool = True) -> Result:
    table = [["sample_id", "path", "sha256"], *rows]
    lines = ("\t".join(row if digests else row[:2]) for row in table)
    (folder / "maps.tsv").write_text("\n".join(lines) + "\n")
    files = ("--maps", folder / "maps.tsv", "--template", folder / "t.nii.gz")
    return call("store", *files, "--out", folder / "cohort.zarr", *more)


@pytest.mark.parametrize("digests", [True, False])
def test_store__holds_the_maps(tmp_path: Path, digests: bool) -> None:
    done = store(tmp_path, write_maps(tmp_path), digests=digests)
    assert done.exit_code == 0, done.output
    cohort = read_cohort(tmp_path / "cohort.zarr")
    assert list(cohort.sample_id) == ["0001", "0002", "0003", "0004"]
    image, _ = read_nifti(tmp_path / "3.nii.gz", ndim=3)
    assert np.array_equal(cohort.mask, FA > 0.05)
    assert np.allclose(cohort.rows(np.array([2]))[0], image[cohort.mask], atol=2.5e-4)


def test_store__a_given_mask(tmp_path: Path) -> None:
    mask = np.zeros(FA.shape, np.uint8)
    mask[8, 10, 8] = 1
    write_nifti(tmp_path / "m.nii.gz", mask, AFFINE)
    assert store(tmp_path, write_maps(tmp_path), "--mask", tmp_path / "m.nii.gz").exit_code == 0
    assert read_cohort(tmp_path / "cohort.zarr").n_voxels == 1
    write_nifti(tmp_path / "m.nii.gz", 0 * mask, AFFINE)
    done = store(tmp_path, write_maps(tmp_path), "--mask", tmp_path / "m.nii.gz")
    assert "no voxel is left in the mask" in done.output


def test_store__the_voxels_of_another_store(tmp_path: Path) -> None:
    mask = np.zeros(FA.shape, np.uint8)
    mask[8, 10, 7:9] = 1
    write_nifti(tmp_path / "m.nii.gz", mask, AFFINE)
    first = tmp_path / "first"
    first.mkdir()
    assert store(first, write_maps(first), "--mask", tmp_path / "m.nii.gz").exit_code == 0
    like = ("--like", first / "cohort.zarr")
    assert store(tmp_path, write_maps(tmp_path), *like).exit_code == 0
    assert np.array_equal(read_cohort(tmp_path / "cohort.zarr").mask, mask > 0)
    done = store(tmp_path, write_maps(tmp_path), *like, "--mask", tmp_path / "m.nii.gz")
    assert "--mask and --like" in done.output


def test_store__a_map_with_holes_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = write_maps(tmp_path)
    write_nifti(tmp_path / "m.nii.gz", (FA > 0.05).astype(np.uint8), AFFINE)
    holes = FA.copy()
    holes[: FA.shape[0] // 2] = 0
    write_nifti(tmp_path / "2.nii.gz", holes, AFFINE)
    with caplog.at_level(logging.WARNING):
        done = store(tmp_path, rows, "--mask", tmp_path / "m.nii.gz", digests=False)
    assert done.exit_code == 0, done.output
    assert "2.nii.gz: the map covers" in caplog.text


def test_store__who_costs_the_others_half_of_the_mask_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = write_maps(tmp_path)
    with caplog.at_level(logging.WARNING):
        assert store(tmp_path, rows).exit_code == 0
    assert caplog.text == ""
    whole = int((FA > 0.05).sum())
    half = FA.copy()
    half[: FA.shape[0] // 2] = 0
    left = int((half > 0.05).sum())
    write_nifti(tmp_path / "2.nii.gz", half, AFFINE)
    with caplog.at_level(logging.WARNING):
        assert store(tmp_path, rows, digests=False).exit_code == 0
    assert f"2.nii.gz: the map of 0002 covers {100 * left / whole:.0f}% of the" in caplog.text
    lost = f"the common mask has {left} voxels, and {whole - left} fewer than without 0002;"
    assert lost in caplog.text


def test_store__refuses_a_map_that_changed(tmp_path: Path) -> None:
    rows = write_maps(tmp_path)
    write_nifti(tmp_path / "3.nii.gz", FA, AFFINE)
    done = store(tmp_path, rows)
    assert done.exit_code == 1
    assert "the map of 0003 changed since it was made" in done.output
    assert not (tmp_path / "cohort.zarr").exists()


def test_store__refuses_another_grid(tmp_path: Path) -> None:
    rows = write_maps(tmp_path)
    moved = AFFINE.copy()
    moved[1, 3] += 1
    write_nifti(tmp_path / "2.nii.gz", FA, moved)
    assert "2.nii.gz: its affine puts voxels up to 1 mm" in store(tmp_path, rows).output
    write_nifti(tmp_path / "2.nii.gz", FA[1:], AFFINE)
    assert "2.nii.gz: grid (15, 20, 16)" in store(tmp_path, rows).output


def test_store__names_every_fault_of_the_table(tmp_path: Path) -> None:
    rows = write_maps(tmp_path)
    rows += [["0001", "1.nii.gz", ""], ["0009", "9.nii.gz", ""], ["", "1.nii.gz", ""]]
    done = store(tmp_path, rows)
    assert done.exit_code == 1
    for words in (
        "line 6: sample_id 0001 occurs twice",
        "line 7: 9.nii.gz of 0009 is not there",
        "line 8: sample_id or path is empty",
    ):
        assert words in done.output
    assert "no maps" in store(tmp_path, []).output
    (tmp_path / "maps.tsv").write_text("person\tfile\n1\t2\n")
    done = call("store", "--maps", tmp_path / "maps.tsv", "--out", tmp_path / "cohort.zarr")
    assert "needs the columns sample_id and path" in done.output

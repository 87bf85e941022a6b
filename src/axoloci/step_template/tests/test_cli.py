"""The command: what it writes, what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from axoloci.io.nifti import write_nifti
from click.testing import CliRunner, Result

from STEP_PACKAGE.cli import main


def measure(folder: Path, *more: str) -> Result:
    given = ("--fa", str(folder / "fa.nii.gz"), "--out", str(folder), "--prefix", "sub-01")
    return CliRunner().invoke(main, ["measure", *given, *more])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    fa = np.linspace(0, 0.9, 27, dtype=np.float32).reshape(3, 3, 3)
    write_nifti(tmp_path / "fa.nii.gz", fa, np.diag([2.0, 2, 2, 1]))
    return tmp_path


def test_measure__writes_the_numbers_of_the_map(folder: Path) -> None:
    done = measure(folder, "--threshold", "0.85")
    assert done.exit_code == 0, done.output
    about = json.loads((folder / "sub-01_desc-STEP_LABEL_figures.json").read_text())
    assert about["n_voxels"] == 2
    assert about["mean"] == pytest.approx(0.9 * (25 + 26) / 2 / 26, abs=1e-5)
    assert about["Settings"] == {"threshold": 0.85}
    assert [source["Name"] for source in about["Sources"]] == ["fa.nii.gz"]


def test_measure__a_map_below_the_threshold_is_named(folder: Path) -> None:
    done = measure(folder, "--threshold", "0.95")
    assert done.exit_code == 1
    assert f"{folder / 'fa.nii.gz'}: no voxel is above 0.95" in done.output


def test_self_test__passes() -> None:
    done = CliRunner().invoke(main, ["--self-test"])
    assert done.exit_code == 0, done.output
    assert "axoloci-STEP_NAME: self-test passed" in done.output

"""The command: what it writes, what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from axoloci.io.nifti import write_nifti
from click.testing import CliRunner, Result

from axoloci_asymmetry import self_test
from axoloci_asymmetry.cli import main


def measure(folder: Path, *more: str) -> Result:
    given = ("--fa", str(folder / "fa.nii.gz"), "--out", str(folder), "--prefix", "sub-01")
    return CliRunner().invoke(main, ["measure", *given, *more])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A map of FA 0.6 on the left and 0.4 on the right."""
    fa = np.full((4, 3, 3), 0.6, np.float32)
    fa[2:] = 0.4
    affine = np.diag([2.0, 2, 2, 1])
    affine[0, 3] = -3
    write_nifti(tmp_path / "fa.nii.gz", fa, affine)
    return tmp_path


def test_measure__writes_the_figures_of_both_sides(folder: Path) -> None:
    done = measure(folder)
    assert done.exit_code == 0, done.output
    about = json.loads((folder / "sub-01_desc-asymmetry_figures.json").read_text())
    assert {key: about[key] for key in ("index", "left_fa", "right_fa", "n_left", "n_right")} == {
        "index": 0.2,
        "left_fa": 0.6,
        "right_fa": 0.4,
        "n_left": 18,
        "n_right": 18,
    }
    assert about["Settings"] == {"threshold": 0.2}


def test_measure__a_map_below_the_threshold_is_named(folder: Path) -> None:
    done = measure(folder, "--threshold", "0.5")
    assert done.exit_code == 1
    assert f"{folder / 'fa.nii.gz'}: no voxel of the right side is above 0.5" in done.output


def test_self_test__passes_and_fails_where_the_kernel_is_wrong(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    done = CliRunner().invoke(main, ["--self-test"])
    assert done.exit_code == 0, done.output
    assert "axoloci-asymmetry: self-test passed" in done.output
    right = self_test.measure_asymmetry
    monkeypatch.setattr(self_test, "measure_asymmetry", lambda fa, at: right(fa[::-1], at))
    done = CliRunner().invoke(main, ["--self-test"])
    assert done.exit_code == 1
    assert "self-test failed" in done.output

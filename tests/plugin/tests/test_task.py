"""The Pydra task speaks the command's language."""

from __future__ import annotations

import shlex
from pathlib import Path

import numpy as np
from axoloci.io.nifti import write_nifti

from axoloci_asymmetry.cli import main
from axoloci_asymmetry.task import MeasureAsymmetry


def test_measure_asymmetry__every_field_is_an_option(tmp_path: Path) -> None:
    write_nifti(tmp_path / "fa.nii.gz", np.zeros((2, 2, 2), np.float32), np.eye(4))
    task = MeasureAsymmetry(
        fa_template=tmp_path / "fa.nii.gz",
        threshold=0.3,
        prefix="sub-01",
        out_dir=str(tmp_path / "out"),
        image="x",
    )
    program, name, *arguments = shlex.split(task.cmdline)
    assert program == "axoloci-asymmetry"
    params = main.commands[name].make_context(name, arguments).params
    assert params["fa"] == tmp_path / "fa.nii.gz"
    assert params["threshold"] == 0.3
    assert params["prefix"] == "sub-01"

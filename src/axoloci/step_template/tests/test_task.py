"""The Pydra task speaks the command's language."""

from __future__ import annotations

import shlex
from pathlib import Path

import numpy as np
from axoloci.io.nifti import write_nifti

from STEP_PACKAGE.cli import main
from STEP_PACKAGE.task import STEP_TASK


def test_STEP_LABEL__every_field_is_an_option(tmp_path: Path) -> None:
    write_nifti(tmp_path / "fa.nii.gz", np.zeros((2, 2, 2), np.float32), np.eye(4))
    task = STEP_TASK(
        fa=tmp_path / "fa.nii.gz",
        threshold=0.3,
        prefix="sub-01",
        out_dir=str(tmp_path / "out"),
        image="x",
    )
    program, name, *arguments = shlex.split(task.cmdline)
    assert program == "axoloci-STEP_NAME"
    params = main.commands[name].make_context(name, arguments).params
    assert params["fa"] == tmp_path / "fa.nii.gz"
    assert params["threshold"] == 0.3
    assert params["prefix"] == "sub-01"

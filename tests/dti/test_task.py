"""The Pydra task of dti speaks the command's language."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from axoloci.tasks.dti.task import FitDti


def test_fit_dti__every_field_is_an_option(
    tmp_path: Path, nifti: Callable[..., Path], parsed: Callable[[Any], dict[str, Any]]
) -> None:
    for name in ("x.bval", "x.bvec"):
        (tmp_path / name).write_text("0 1000\n")
    task = FitDti(
        dwi=nifti("a.nii.gz", 2, 2, 2, 2),
        bval=tmp_path / "x.bval",
        bvec=tmp_path / "x.bvec",
        mask=nifti("m.nii.gz", 2, 2, 2),
        max_bval=1200.0,
        method="RESTORE",
        sigma=20.0,
        kurtosis="dki",
        prefix="sub-01",
        out_dir=str(tmp_path / "out"),
        image="x",
    )
    params = parsed(task)
    assert params["max_bval"] == 1200.0
    assert params["method"] == "RESTORE"
    assert params["sigma"] == 20.0
    assert params["kurtosis"] == "dki"
    assert params["mask"] == tmp_path / "m.nii.gz"

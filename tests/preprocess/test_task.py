"""The Pydra task of preprocess speaks the command's language."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from axoloci.tasks.preprocess.task import PreprocessDwi


@pytest.mark.parametrize("switched", [True, False])
def test_preprocess_dwi__every_field_is_an_option(
    tmp_path: Path,
    nifti: Callable[..., Path],
    parsed: Callable[[Any], dict[str, Any]],
    switched: bool,
) -> None:
    for name in ("x.bval", "x.bvec", "x.json"):
        (tmp_path / name).write_text("0 1000\n")
    task = PreprocessDwi(
        dwi=nifti("a b.nii.gz", 2, 2, 2, 2),
        bval=tmp_path / "x.bval",
        bvec=tmp_path / "x.bvec",
        mask=nifti("m.nii", 2, 2, 2),
        json=tmp_path / "x.json",
        reverse_b0=nifti("r.nii.gz", 2, 2, 2),
        reverse_json=tmp_path / "x.json",
        denoise=switched,
        unring=not switched,
        motion=switched,
        already_preprocessed=switched,
        prefix="sub-01",
        out_dir=str(tmp_path / "out"),
        image="x",
    )
    params = parsed(task)
    assert params["dwi"] == tmp_path / "a b.nii.gz"
    assert params["mask"] == tmp_path / "m.nii"
    assert params["sidecar"] == params["reverse_json"] == tmp_path / "x.json"
    assert params["reverse_b0"] == tmp_path / "r.nii.gz"
    assert [params[name] for name in ("denoise", "unring", "motion")] == [
        *(switched, not switched, switched)
    ]
    assert params["already_preprocessed"] is switched
    assert params["prefix"] == "sub-01"

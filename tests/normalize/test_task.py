"""The Pydra tasks of normalize speak the command's language."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from axoloci.tasks.normalize.task import PackCohort, RegisterFa


def test_register_fa__every_field_is_an_option(
    tmp_path: Path, nifti: Callable[..., Path], parsed: Callable[[Any], dict[str, Any]]
) -> None:
    task = RegisterFa(
        fa=nifti("fa.nii.gz", 2, 2, 2),
        template=nifti("t.nii", 2, 2, 2),
        voxel_size=3.0,
        prefix="sub-01",
        out_dir=str(tmp_path),
        image="x",
    )
    params = parsed(task)
    assert params["template"] == tmp_path / "t.nii"
    assert params["voxel_size"] == 3.0


def test_pack_cohort__every_field_is_an_option(
    tmp_path: Path, nifti: Callable[..., Path], parsed: Callable[[Any], dict[str, Any]]
) -> None:
    (tmp_path / "maps.tsv").write_text("sample_id\tpath\n")
    task = PackCohort(
        maps=tmp_path / "maps.tsv",
        template=nifti("t.nii.gz", 2, 2, 2),
        dtype="uint8",
        out=str(tmp_path / "c.zarr"),
        image="x",
    )
    params = parsed(task)
    assert params["maps"] == tmp_path / "maps.tsv"
    assert params["dtype"] == "uint8"
    assert params["out"] == tmp_path / "c.zarr"

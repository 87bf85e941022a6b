"""The Pydra tasks of report speak the command's language."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from axoloci.tasks.report.task import MakeQcPage, MakeReport, MakeScanPage


def test_make_report__every_field_is_an_option(
    tmp_path: Path, parsed: Callable[[Any], dict[str, Any]]
) -> None:
    (tmp_path / "i.json").write_text("{}")
    params = parsed(
        MakeReport(inputs_file=tmp_path / "i.json", out="r.html", shareable=True, image="x")
    )
    assert params["inputs"] == tmp_path / "i.json"
    assert params["out"] == Path("r.html")
    assert params["shareable"] is True
    assert parsed(MakeReport(inputs_file=tmp_path / "i.json"))["shareable"] is False


def test_make_scan_page__every_field_is_an_option(
    tmp_path: Path, nifti: Callable[..., Path], parsed: Callable[[Any], dict[str, Any]]
) -> None:
    (tmp_path / "d.json").write_text("{}")
    task = MakeScanPage(
        corrected_qc=tmp_path / "d.json",
        template=nifti("template.nii.gz", 2, 2, 2),
        acquisition=["EchoTime=0.09", "Manufacturer=A B"],
        prefix="sub-1",
        out_dir=str(tmp_path),
    )
    params = parsed(task)
    assert params["folder"] == tmp_path
    assert params["prefix"] == "sub-1"
    assert params["template"] == tmp_path / "template.nii.gz"
    assert params["acquisition"] == ("EchoTime=0.09", "Manufacturer=A B")
    assert "d.json" not in task.cmdline  # the command finds it by its name


def test_make_qc_page__every_field_is_an_option(
    tmp_path: Path, parsed: Callable[[Any], dict[str, Any]]
) -> None:
    for name in ("qc.tsv", "scans.tsv"):
        (tmp_path / name).write_text("scan\n")
    task = MakeQcPage(
        qc=tmp_path / "qc.tsv", scans=tmp_path / "scans.tsv", pages=True, title="T", out="q.html"
    )
    params = parsed(task)
    assert params == {
        "qc": tmp_path / "qc.tsv",
        "scans": tmp_path / "scans.tsv",
        "pages": True,
        "title": "T",
        "out": Path("q.html"),
    }

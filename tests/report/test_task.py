"""The Pydra task of report speaks the command's language."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from axoloci.tasks.report.task import MakeReport


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

"""`axoloci-report group` on made-up tables of quality figures."""

from __future__ import annotations

import json
import re
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from axoloci.quality import FRAME_WHY, LIMITS, PAIR_WHY, RELATIVE, figure_of
from axoloci.tasks.report.cli import main

ODD = "</script><b>x"  # a scanner


def write_tables(folder: Path, n: int = 40) -> tuple[Path, Path]:
    """Sound scans but for three."""
    rng = np.random.default_rng(0)
    qc = pd.DataFrame(
        {
            "scan": [f"sub-{k:06d}_ses-1" for k in range(n)],
            "sample_id": [f"{k:06d}" for k in range(n)],
            "flags": "",
            "mean_framewise_displacement": rng.normal(1, 0.1, n),
            "mean_fa": rng.normal(0.25, 0.01, n),
            "similarity_warp": rng.normal(0.86, 0.01, n),
            "n_voxels": 1e5,
            "n_implausible_voxels": 1000,
            "snr_b0": rng.normal(20, 1, n),
            "cnr_b3000": rng.normal(2, 0.1, n),
            "cnr_b1000": rng.normal(3, 0.1, n),
            "gradient_frame_best": "as given",
            "scanner": ODD,
        }
    )
    qc.loc[3, "gradient_frame_best"] = "flip x"
    qc.loc[5, "mean_fa"] = 0.33
    qc.loc[6, "snr_b0"] = np.nan
    scans = qc[["scan", "sample_id"]].assign(status="ok", excluded="n/a")
    scans.loc[3, "excluded"] = "by rule: gradients: flip x"
    scans.loc[9, "excluded"] = "by user: <asleep>"
    scans.loc[n] = ["sub-x", "x", "failed", "n/a"]
    for name, table in (("qc", qc), ("scans", scans)):
        table.to_csv(folder / f"{name}.tsv", sep="\t", index=False, na_rep="n/a")
    return folder / "qc.tsv", folder / "scans.tsv"


def make(folder: Path, *options: str, n: int = 40) -> str:
    qc, scans = write_tables(folder, n)
    words = ["group", "--qc", str(qc), "--scans", str(scans), "--out", str(folder / "qc.html")]
    done = CliRunner().invoke(main, [*words, *options])
    assert done.exit_code == 0, done.output
    return (folder / "qc.html").read_text()


@pytest.fixture(scope="module")
def html(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make(tmp_path_factory.mktemp("qc"), "--pages", "--title", "Cohort <A>")


def data_of(html: str) -> dict[str, Any]:
    """What the page's script draws."""
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', html, re.DOTALL)
    assert found is not None
    content: dict[str, Any] = json.loads(found[1])
    return content


def test_group__holds_every_scan_with_its_flags(html: str) -> None:
    data = data_of(html)
    assert len(data["scans"]) == len(data["levels"]) == 40
    assert {k: level for k, level in enumerate(data["levels"]) if level} == {
        3: "exclude",
        5: "look",
    }
    assert data["flags"]["3"] == "gradients: flip x"
    assert data["flags"]["5"].startswith("mean FA 0.330 (others 0.25")
    assert data["excluded"] == {"3": "by rule: gradients: flip x", "9": "by user: <asleep>"}
    assert data["scanners"] == [ODD]
    columns = {column["label"]: column for column in data["columns"]}
    assert columns["mean FA"]["flagged"] == [5]
    assert columns["implausible voxels, %"]["values"] == [1.0] * 40
    assert columns["SNR at b = 0"]["values"][6] is None
    shells = [label for label in columns if label.startswith(("SNR", "CNR"))]
    assert shells == ["SNR at b = 0", "CNR at b = 1000", "CNR at b = 3000"]


def test_group__counts_what_is_flagged_and_left_out(html: str) -> None:
    tiles = re.findall(r"<li><b>(.*?)</b>(.*?)<small>(.*?)</small>", html)
    assert tiles[:4] == [
        ("40", "scans with figures", ""),
        ("1", "wrong by a rule", ""),
        ("1", "to be looked at", ""),
        ("2", "left out of the group", "1 by rule, 1 by the user"),
    ]


def test_group__states_every_rule(html: str) -> None:
    text = unescape(html)
    for limit in LIMITS:
        assert f"<td>{limit.bounds}</td>" in text
        assert limit.why in text
        assert limit.source in text
    for why in (FRAME_WHY, PAIR_WHY):
        assert why in text
    for rule in RELATIVE:
        assert figure_of(rule.figure).label in text


def test_group__needs_no_network_and_escapes(html: str) -> None:
    assert "Cohort &lt;A&gt;" in html
    assert ODD not in html
    assert not re.search(r"https?://|@import|url\(", html)


def test_group__links_pages_only_where_they_are_made(html: str, tmp_path: Path) -> None:
    assert data_of(html)["pages"] is True
    assert data_of(make(tmp_path))["pages"] is False


def test_group__of_few_or_no_scans(tmp_path: Path) -> None:
    html = make(tmp_path, n=12)
    assert "Distributions" in html
    (tmp_path / "qc.tsv").write_text("scan\tsample_id\tflags\n")
    words = ["group", "--qc", str(tmp_path / "qc.tsv"), "--out", str(tmp_path / "qc.html")]
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 0, done.output
    assert data_of((tmp_path / "qc.html").read_text())["scans"] == []


def test_group__fifty_thousand_scans_fit(tmp_path: Path) -> None:
    html = make(tmp_path, n=50_000)
    assert len(html.encode()) < 15e6
    assert html.count("<tr>") < 100  # rows are drawn when they are looked at


def test_group__refuses_another_table(tmp_path: Path) -> None:
    (tmp_path / "qc.tsv").write_text("people\n1\n")
    done = CliRunner().invoke(main, ["group", "--qc", str(tmp_path / "qc.tsv")])
    assert done.exit_code == 1
    assert "has no column scan" in done.output

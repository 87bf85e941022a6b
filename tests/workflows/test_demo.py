"""The demo finds what was planted, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path

from support import axoloci


def test_demo__finds_the_planted_loci(tmp_path: Path) -> None:
    axoloci("demo", tmp_path / "demo", "--n-procs", 2)
    summary = json.loads((tmp_path / "demo" / "summary.json").read_text())
    print(json.dumps(summary, indent=2))
    assert len(summary["planted"]) == 3
    assert summary["found"] == summary["planted"]
    assert summary["false_positive"] == []
    assert summary["failed"] == []
    assert 0.9 < summary["lambda_gc"] < 1.1
    assert list(summary["representations"]) == ["autoencoder", "linear"]
    assert summary["representations"]["linear"]["n_latents"] == 8
    # a quarter of the autoencoder's starts at random, and is left out where it changes no map
    assert 6 <= summary["representations"]["autoencoder"]["n_latents"] <= 8
    for own in summary["representations"].values():
        assert own["found"] == summary["planted"]
        assert own["false_positive"] == []
        assert 0.9 < own["lambda_gc"] < 1.1
        assert own["seconds"] > 0
        # the map of each locus, out of the associations of the latents, is strongest where it acts
        assert own["voxel_peak_in_region"] == dict.fromkeys(summary["planted"], True)
    page = (tmp_path / "demo" / "study" / "report.html").read_text()
    assert page.count("3 of 3") == 2  # the planted loci of each representation
    for part in ("Heritability", "Genetics of voxels"):
        assert f">{part}<" in page
    assert 100_000 < (tmp_path / "demo" / "study" / "report.html").stat().st_size < 15e6

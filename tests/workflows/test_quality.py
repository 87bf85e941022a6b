"""Planted faults go through the participants stage: the rules find them, and sound scans pass."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from planted import files_of, scan_water, swap_bvals
from support import axoloci, write_study

from axoloci.workflows.exclusion import read_exclusions

SOUND, WATER, SWAPPED = range(3)


def test_run__wrong_data_are_found_and_sound_ones_pass(cohort: Path, tmp_path: Path) -> None:
    faulty = tmp_path / "cohort"
    shutil.copytree(cohort, faulty, ignore=shutil.ignore_patterns("truth"))
    people = sorted(path.name for path in (faulty / "bids").glob("sub-*"))
    for person in people[3:]:
        shutil.rmtree(faulty / "bids" / person)
    rng = np.random.default_rng(0)
    scan_water(files_of(faulty / "bids", people[WATER]), rng)
    swap_bvals(files_of(faulty / "bids", people[SWAPPED]), rng)
    study = write_study(tmp_path, faulty)
    done = axoloci("run", study, "--stage", "participants", check=False)
    out = tmp_path / "out"
    scans = pd.read_csv(out / "scans.tsv", sep="\t", na_values="n/a", index_col="scan")
    quality = pd.read_csv(out / "qc.tsv", sep="\t", na_values="n/a", index_col="scan")
    print(quality.T.to_string())
    excluded = read_exclusions(out / "exclude.tsv")
    assert scans["in_group"][people[SOUND]] == "yes"
    assert pd.isna(quality["flags"][people[SOUND]])
    assert people[WATER] in excluded
    assert "median MD 2." in excluded[people[WATER]].reason
    page = out / people[WATER] / "dwi" / f"{people[WATER]}_desc-qc_dwi.html"
    assert "The data are wrong by a rule" in page.read_text()
    assert f"{people[WATER]} is left out of the group by rule: " in done.stderr
    # b-values of other volumes are refused or flagged: neither gets into the group unseen
    refused = scans["status"][people[SWAPPED]] == "failed"
    assert refused or quality["flags"][people[SWAPPED]].startswith(("exclude", "look"))


def test_run__a_reverse_b0_is_found_and_used(tmp_path: Path) -> None:
    cohort = tmp_path / "cohort"
    people = ("--n-subjects", 8, "--n-variants", 10)
    axoloci("simulate", cohort, *people, "--distortion-mm", 10, "--motion-mm", 0.1)
    study = write_study(tmp_path, cohort)
    first = sorted(path.name for path in (cohort / "bids").glob("sub-*"))[0]
    only = ("--stage", "participants", "--participant-label", first)
    folder = tmp_path / "out" / first / "dwi"

    def figures(*table: str) -> dict[str, Any]:
        study.write_text("\n".join([whole, "[preprocess]", *table]))
        axoloci("run", study, *only)
        return dict(json.loads((folder / f"{first}_desc-preproc_dwi.json").read_text()))

    whole = study.read_text()
    qc = figures()
    assert qc["distortion"] == "corrected"
    assert qc["pair_correlation"] > qc["pair_correlation_raw"] + 0.02
    assert "_epi.nii.gz" in str(qc["Sources"])
    left = figures("distortion = false", "unring = false", "motion = false")
    assert left["distortion"] == "no reverse-phase b0"
    # where no motion was looked for, no figure of it is given
    assert left["steps"] == []
    assert "max_framewise_displacement" not in left

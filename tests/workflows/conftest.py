"""A small simulated cohort, made once for all tests of the workflows."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from support import N_PEOPLE, axoloci, write_study


@pytest.fixture(scope="session")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """N_PEOPLE simulated people with 3,000 variants; tests must not change it."""
    path = tmp_path_factory.mktemp("simulated") / "cohort"
    axoloci(
        *("simulate", path, "--n-subjects", N_PEOPLE, "--n-variants", 3000),
        *("--seed", 5, "--n-procs", 2),
    )
    return path


@pytest.fixture
def study(tmp_path: Path, cohort: Path) -> Path:
    """A study file in a folder with a space in its name."""
    folder = tmp_path / "a study"
    folder.mkdir()
    return write_study(folder, cohort)


@pytest.fixture(scope="session")
def faulty_study(tmp_path_factory: pytest.TempPathFactory, cohort: Path) -> Path:
    """A study file whose cohort has one truncated scan and one with a b-value too few."""
    folder = tmp_path_factory.mktemp("with a fault")
    faulty = folder / "cohort"
    shutil.copytree(cohort, faulty)
    victim = sorted(faulty.glob("bids/sub-*/dwi/*_dwi.nii.gz"))[3]
    victim.write_bytes(victim.read_bytes()[:5000])
    bval = sorted(faulty.glob("bids/sub-*/dwi/*_dwi.bval"))[7]
    bval.write_text(" ".join(bval.read_text().split()[:-1]))
    return write_study(folder, faulty)

"""The Pydra task of simulate speaks the command's language."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from axoloci.tasks.simulate.task import SimulateCohort


def test_simulate_cohort__every_field_is_an_option(
    tmp_path: Path, parsed: Callable[[Any], dict[str, Any]]
) -> None:
    task = SimulateCohort(
        out=str(tmp_path / "c"),
        n_subjects=40,
        n_variants=1000,
        n_loci=2,
        seed=3,
        n_procs=2,
        image="x",
    )
    params = parsed(task)
    assert params["out"] == tmp_path / "c"
    assert params["n_subjects"] == 40
    assert params["n_variants"] == 1000
    assert params["n_loci"] == 2
    assert params["seed"] == 3
    assert params["n_procs"] == 2

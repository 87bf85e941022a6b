"""A process that dies at any moment: the same command then ends with the bytes of a calm run."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from agreement import make_study
from click.testing import CliRunner
from faults import DEAD
from support import contents

from axoloci.tasks.gwas.cli import main


class Dead(BaseException):
    """In place of kill -9: no handler of an error stops it, and nothing is changed after it."""


@contextmanager
def death_before(step: int) -> Iterator[None]:
    """Die right before a rename or deletion, counted from 0: then what is on the disk changes."""
    steps = count()

    def mortal(change: Callable[..., None]) -> Callable[..., None]:
        def die_or_change(path: Any, *more: Any, **options: Any) -> None:
            if os.path.lexists(path) and next(steps) >= step:
                raise Dead
            change(path, *more, **options)

        return die_or_change

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "getpid", lambda: DEAD)  # whoever goes on has another number
        patch.setattr(os, "replace", mortal(os.replace))
        patch.setattr(os, "unlink", mortal(os.unlink))
        yield


def survives(run: Callable[[Path], None], folder: Path) -> int:
    """Die before each step in turn, and go on; how many steps there are."""
    run(folder / "calm")
    expected = contents(folder / "calm")
    for step in count():
        out = folder / f"died{step}"
        try:
            with death_before(step):
                run(out)
        except Dead:
            run(out)
        else:
            return step
        assert contents(out).keys() == expected.keys()
        assert contents(out) == expected
    raise AssertionError


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """Two autosomes and X; genotypes and traits are missing here and there."""
    folder = tmp_path_factory.mktemp("study")
    genotypes = make_study(
        folder, 200, 30, 0.02, strengths=(40,), chromosomes=("1", "2", "X"), seed=1
    )
    tables = ("--traits", folder / "t.tsv", "--covariates", folder / "c.tsv", "--threads", 1)
    return tuple(map(str, ("--genotypes", genotypes, *tables)))


def gwas(*arguments: object) -> None:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output + repr(result.exception)


def test_associate__death_before_any_step_changes_nothing(
    inputs: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(out: Path) -> None:
        gwas("associate", *inputs, "--device", "cpu", "--out", out)

    # plan; 3 parts, what is kept beside them and their records; correlation of all and on X, what
    # is kept beside, people, hits, summary; 3 records and what was beside their parts deleted
    assert survives(run, tmp_path) == 1 + 3 * 3 + 6 + 3 * 2


def test_associate__death_before_any_step_of_a_group_of_traits_changes_nothing(
    inputs: tuple[str, ...], tmp_path: Path
) -> None:
    def run(out: Path) -> None:
        gwas("associate", *inputs, "--device", "cpu", "--traits-at-once", 2, "--out", out)

    # plan, groups; 3 parts, each of one piece and its record, of what is kept beside, the whole and
    # its record; piece and record deleted; correlation of all and on X, what is kept beside,
    # people, hits; groups deleted; summary; 3 records and what was beside their parts deleted
    assert survives(run, tmp_path) == 2 + 3 * (2 + 3 + 2) + 7 + 3 * 2


def test_ridge__death_before_any_step_changes_nothing(
    inputs: tuple[str, ...], tmp_path: Path
) -> None:
    def run(out: Path) -> None:
        gwas("ridge", *inputs, "--out", out)

    # residuals and correlation of chromosomes 1, 2 and X, and of all; the summary
    assert survives(run, tmp_path) == 9


def test_ridge__death_of_a_second_run_leaves_no_finished_store(
    inputs: tuple[str, ...], tmp_path: Path
) -> None:
    out = ("--out", tmp_path / "loco")
    gwas("ridge", *inputs, *out)
    with pytest.raises(Dead), death_before(2):
        gwas("ridge", *inputs, "--seed", 1, *out)
    more = ("--loco", tmp_path / "loco", "--out", tmp_path / "s")
    result = CliRunner().invoke(main, ["associate", *inputs, *map(str, more)])
    assert result.exit_code == 1
    assert "not a finished store" in result.output

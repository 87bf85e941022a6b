"""What the command says at the end of a run."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest
from support import BIN

from axoloci import cli
from axoloci.study import StudyPaths
from axoloci.workflows.participants import Outcome
from axoloci.workflows.study import StudyResult


def test_run__a_failure_is_named_with_its_log_and_how_to_run_it_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    failed = Outcome("sub-1", "1", "failed", "no b0", "logs/sub-1")
    result = StudyResult((failed,), False, (), None, "")
    monkeypatch.setattr("axoloci.workflows.study.run_study", lambda *_, **__: result)
    with pytest.raises(SystemExit) as end:
        cli.main(["run", "--bids", "b", "--out", "o", "--env", "docker"])
    said = capsys.readouterr().err
    assert end.value.code == cli.EXIT_WITH_NAMED_FAILURES
    out = StudyPaths(tmp_path / "o").out
    assert f"failed: sub-1: no b0 (log: {out / 'logs' / 'sub-1'})" in said
    assert "run --bids b --out o --env docker --stage participants --participant-label 1" in said
    assert "report:" not in said


@pytest.mark.parametrize("command", [("steps",), ("run", "--help")])
def test_main__a_closed_pipe_ends_it_quietly(command: tuple[str, ...]) -> None:
    reading, writing = os.pipe()
    os.close(reading)  # as `| head` does when it has seen enough
    with open(writing, "w") as closed:
        done = subprocess.run(
            [str(BIN / "axoloci"), *command], stdout=closed, stderr=subprocess.PIPE, text=True
        )
    assert (done.returncode, done.stderr) == (-signal.SIGPIPE, "")

"""What the command says at the end of a run."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest
from support import BIN, axoloci

from axoloci import cli
from axoloci.study import StudyPaths
from axoloci.workflows.participants import Outcome
from axoloci.workflows.study import StudyResult


@pytest.mark.parametrize("door", ["bids", "preprocessed", "fa-common"])
def test_run__a_failure_is_named_with_its_log_and_how_to_run_it_alone(
    door: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    failed = Outcome("sub-1", "1", "failed", "no b0", "logs/sub-1")
    result = StudyResult((failed,), False, (), None, "")
    monkeypatch.setattr("axoloci.workflows.study.run_study", lambda *_, **__: result)
    with pytest.raises(SystemExit) as end:
        cli.main(["run", f"--{door}", "b", "--out", "o", "--env", "docker"])
    said = capsys.readouterr().err
    assert end.value.code == cli.EXIT_WITH_NAMED_FAILURES
    out = StudyPaths(tmp_path / "o").out
    assert f"failed: sub-1: no b0 (log: {out / 'logs' / 'sub-1'})" in said
    words = "b --out o --env docker --stage participants --participant-label 1"
    assert f"run --{door} {words}" in said
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


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("--memory-gb", 0.000001, "is not in the range x>=0.1"),
        ("--cpus", len(os.sched_getaffinity(0)) + 1, "is not in the range 0.01<=x<="),
    ],
)
def test_run__limits_that_no_engine_could_keep_are_refused(
    option: str, value: float, words: str
) -> None:
    done = axoloci("run", "study.toml", "--env", "docker", option, value, check=False)
    assert done.returncode == 2
    assert words in done.stderr


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("apptainer", "'apptainer' is chosen by --env singularity"),
        ("podman", "'podman' is chosen by --env docker"),
        ("slurm", "'slurm' is not one of 'native', 'docker', 'singularity'"),
    ],
)
def test_run__an_environment_by_another_name(name: str, words: str) -> None:
    done = axoloci("run", "study.toml", "--env", name, check=False)
    assert done.returncode == 2
    assert words in done.stderr


def test_run__limits_without_containers_are_said_to_be_none(tmp_path: Path) -> None:
    study = tmp_path / "study.toml"
    study.write_text('out = "out"\nbids = "none"\n')
    words = "the steps run natively: without a limit"
    assert words in axoloci("run", study, "--cpus", 1, check=False).stderr
    assert words not in axoloci("run", study, check=False).stderr

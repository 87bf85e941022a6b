"""Kills, damaged files, full disks: nothing partial is taken, and the same command finishes."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pytest
from faults import (
    die_on_sub_2,
    fail_or_hang,
    fill_disk,
    hang,
    harm,
    kill_driver,
    made_files,
    mount_small,
    results,
)
from support import BIN, axoloci, write_study

from axoloci.scans import Scan
from axoloci.study import StudySettings
from axoloci.workflows import participants


@pytest.fixture(scope="module")
def uninterrupted(cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Results of a study that nothing happened to."""
    study = write_study(tmp_path_factory.mktemp("calm"), cohort)
    axoloci("run", study, "--n-procs", 2)
    return results(study.parent / "out")


def assert_same(first: dict[str, bytes], second: dict[str, bytes]) -> None:
    assert first.keys() == second.keys()
    assert [name for name in first if first[name] != second[name]] == []


@pytest.fixture(scope="module")
def survivor(
    cohort: Path, uninterrupted: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A study whose driver was killed ten times at random moments, and then left to finish."""
    study = write_study(tmp_path_factory.mktemp("killed"), cohort)
    kill_driver(study, n_kills=10, seconds=12, seed=1)
    axoloci("run", study, "--n-procs", 2)
    return study


def test_run__ten_kills_at_random_moments_change_nothing(
    survivor: Path, uninterrupted: dict[str, bytes]
) -> None:
    assert_same(results(survivor.parent / "out"), uninterrupted)


def test_run__a_hundred_harmed_files_are_noticed_and_made_again(
    survivor: Path, uninterrupted: dict[str, bytes]
) -> None:
    out, rng = survivor.parent / "out", random.Random(2)
    files = [path for path in made_files(out) if path.stat().st_size and path.suffix != ".html"]
    assert len(files) >= 100
    done = [harm(path, rng) for path in rng.sample(files, 100)]
    assert {"flip", "truncate", "delete"} == set(done)
    axoloci("run", survivor, "--n-procs", 2)
    assert_same(results(out), uninterrupted)


def test_run__state_that_cannot_be_read_is_made_again(
    survivor: Path, uninterrupted: dict[str, bytes]
) -> None:
    out = survivor.parent / "out"
    for number, path in enumerate(sorted((out / "logs").rglob("*.json"))[:30]):
        path.write_bytes((b"", path.read_bytes()[:40], b"[]")[number % 3])
    for path in sorted((out / "work" / "scans").glob("*.json"))[:4]:
        path.write_bytes(path.read_bytes()[:20])
    axoloci("run", survivor, "--n-procs", 2)
    assert_same(results(out), uninterrupted)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """`small_disk("2m")`: a folder on a file system of that size; again to change the size."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = False

    def mount(size: str) -> Path:
        nonlocal mounted
        try:
            mount_small(folder, size, again=mounted)
        except subprocess.CalledProcessError as error:
            reason = f"no small file system can be mounted here: {error.stderr.strip()}"
            if os.environ.get("CI") and os.geteuid() == 0:
                pytest.fail(f"{reason}; run the container with the capability SYS_ADMIN")
            pytest.skip(f"{reason}; run the tests as root")
        mounted = True
        return folder

    yield mount
    if mounted:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_run__a_full_disk_at_three_sizes(
    cohort: Path, small_disk: Callable[[str], Path], uninterrupted: dict[str, bytes]
) -> None:
    """Each size fills up at another write; the disk grows, and the same command goes on."""
    study = fill_disk(small_disk, cohort, sum(map(len, uninterrupted.values())), n_sizes=3)
    assert_same(results(study.parent / "out"), uninterrupted)


@pytest.mark.parametrize(
    ("limit", "words"),
    [
        ("ulimit -f 20", "File too large"),  # blocks of 1024 bytes: as a quota does
        ("ulimit -v 300000", "axoloci-dti"),  # KiB; the step says it in its libraries' words
    ],
)
def test_run__a_step_that_meets_a_limit_is_named(
    cohort: Path, tmp_path: Path, limit: str, words: str
) -> None:
    study = write_study(tmp_path, cohort)
    programs = tmp_path / "programs"  # the driver looks for steps beside its own interpreter
    programs.mkdir()
    for program in BIN.glob("axoloci-*"):
        (programs / program.name).symlink_to(program)
    (programs / "axoloci-dti").unlink()
    (programs / "axoloci-dti").write_text(
        f'#!/bin/bash\n{limit}\nexec "{BIN / "axoloci-dti"}" "$@"\n'
    )
    (programs / "axoloci-dti").chmod(0o755)
    (programs / "python").symlink_to(Path(sys.executable).resolve())
    label = min(path.name for path in (cohort / "bids").glob("sub-*"))
    arguments = ["run", str(study), "--stage", "participants", "--participant-label", label]
    done = subprocess.run(
        [programs / "python", "-c", "from axoloci.cli import main; main()", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    assert done.returncode == 1, done.stderr
    assert f"failed: {label}: axoloci-dti" in done.stderr
    assert words in done.stderr
    assert not list((tmp_path / "out").rglob("*_model-tensor_*"))
    axoloci(*arguments)
    scans = pd.read_csv(tmp_path / "out" / "scans.tsv", sep="\t")
    assert set(scans[scans["status"] == "ok"]["scan"]) == {label}


def test_run_participants__a_scan_whose_process_dies_costs_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = StudySettings(out=tmp_path, fa_common=tmp_path)
    scans = [Scan(f"sub-{number}", f"{number}") for number in range(6)]
    monkeypatch.setattr(participants, "run_scan", die_on_sub_2)
    participants.run_participants(scans, settings, "native", n_procs=2)
    outcomes = participants.read_outcomes(scans, settings, "native")
    failed = [outcome for outcome in outcomes if outcome.status == "failed"]
    assert [outcome.scan for outcome in failed] == ["sub-2"]
    assert "its process was killed 2 times" in failed[0].reason
    assert sum(outcome.status == "ok" for outcome in outcomes) == 5


def test_run_participants__a_full_disk_ends_all_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    settings = StudySettings(out=tmp_path, bids=tmp_path)
    scans = [Scan(f"sub-{number}", f"{number}") for number in range(6)]
    monkeypatch.setattr(participants, "run_scan", fail_or_hang)
    with pytest.raises(OSError, match="No space left"):
        participants.run_participants(scans, settings, "native", n_procs=2)
    assert multiprocessing.active_children() == []
    assert "stopping" in caplog.text
    assert sorted(path.name for path in tmp_path.glob("sub-*")) == ["sub-0", "sub-1"]
    assert not list(tmp_path.rglob("*.tmp.*"))


def test_run_participants__ctrl_c_is_quick_and_leaves_no_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    settings = StudySettings(out=tmp_path, bids=tmp_path)
    scans = [Scan(f"sub-{number}", f"{number}") for number in range(6)]
    monkeypatch.setattr(participants, "run_scan", hang)
    pressed = []

    def press() -> None:
        while len(list(tmp_path.glob("*.at_work"))) < 2:
            time.sleep(0.05)
        pressed.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGINT)

    # one of several processes of pytest leaves SIGINT to the first of them
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    threading.Thread(target=press, daemon=True).start()
    try:
        with pytest.raises(KeyboardInterrupt):
            participants.run_participants(scans, settings, "native", n_procs=2)
    finally:
        signal.signal(signal.SIGINT, before)
    assert time.monotonic() - pressed[0] < 2
    assert "stopping" in caplog.text
    assert multiprocessing.active_children() == []
    assert len(list(tmp_path.glob("*.at_work"))) == 2

"""The lock of a study, and what a killed driver leaves behind."""

from __future__ import annotations

import errno
import fcntl
import os
import platform
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from faults import DEAD
from fileformats.generic import File
from pydra.compose import shell, workflow

from axoloci.engines import folders_of
from axoloci.environments import StepEnvironment, StepError
from axoloci.errors import InputError
from axoloci.study import StudyPaths
from axoloci.workflows import engine
from axoloci.workflows.engine import followed, is_locked, study_lock, submit, work_started


@pytest.fixture
def paths(tmp_path: Path) -> StudyPaths:
    return StudyPaths(tmp_path / "out")


def leave_lock(paths: StudyPaths, host: str, age: float) -> Path:
    """A lock file as a driver leaves it that was killed `age` seconds after its last sign."""
    paths.work.mkdir(parents=True)
    lock = paths.work / "lock"
    lock.write_text(f"{host} 123\n")
    when = time.time() - age
    os.utime(lock, (when, when))
    return lock


def test_study_lock__one_driver_at_a_time(paths: StudyPaths) -> None:
    assert not is_locked(paths)
    with study_lock(paths):
        code = (
            "from pathlib import Path\n"
            "from axoloci.study import StudyPaths\n"
            "from axoloci.workflows.engine import is_locked, study_lock\n"
            f"paths = StudyPaths(Path({str(paths.out)!r}))\n"
            "assert is_locked(paths)\n"
            "with study_lock(paths): pass\n"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert "another axoloci is working on this study" in done.stderr
        assert f"process {os.getpid()} on {platform.node()}" in done.stderr
    assert not is_locked(paths)
    with study_lock(paths):
        pass


def test_study_lock__a_killed_driver_of_this_host_is_noticed_at_once(paths: StudyPaths) -> None:
    leave_lock(paths, platform.node(), 0)
    assert not is_locked(paths)
    with study_lock(paths):
        pass


def test_study_lock__a_dead_driver_of_another_host_within_120_s(paths: StudyPaths) -> None:
    leave_lock(paths, "gone", engine.STALE_SECONDS + 1)
    assert engine.STALE_SECONDS + engine.HEARTBEAT_SECONDS <= 120
    assert not is_locked(paths)
    with study_lock(paths):
        pass


def test_study_lock__a_live_driver_of_another_host_is_respected(paths: StudyPaths) -> None:
    leave_lock(paths, "elsewhere", engine.HEARTBEAT_SECONDS)
    assert is_locked(paths)
    with pytest.raises(InputError, match="process 123 on elsewhere"), study_lock(paths):
        pass


def test_is_locked__for_who_may_only_read(
    paths: StudyPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(**_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(paths.work))

    monkeypatch.setattr(engine.tempfile, "NamedTemporaryFile", forbidden)
    leave_lock(paths, "elsewhere", engine.HEARTBEAT_SECONDS)
    assert is_locked(paths)
    os.utime(paths.work / "lock", (0, 0))
    assert not is_locked(paths)


def elsewhere(paths: StudyPaths, part: str, words: str) -> str:
    """What another process says that locks a part of the study; empty if it could."""
    code = (
        "from pathlib import Path\n"
        "from axoloci.study import StudyPaths\n"
        "from axoloci.workflows.engine import is_locked, study_lock\n"
        f"paths = StudyPaths(Path({str(paths.out)!r}))\n"
        f"with study_lock(paths, {part!r}): {words}\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    return done.stderr


def test_study_lock__parts_go_together_and_not_with_a_driver(paths: StudyPaths) -> None:
    with study_lock(paths, "scans-1"):
        assert is_locked(paths)
        assert elsewhere(paths, "scans-2", "pass") == ""
        assert "is working on its part scans-1" in elsewhere(paths, "scans-1", "pass")
        assert "is working on its part scans-1" in elsewhere(paths, "", "pass")
    with study_lock(paths):
        assert "is working on this study" in elsewhere(paths, "scans-1", "pass")
    assert not is_locked(paths)
    assert elsewhere(paths, "", "pass") == ""


def test_study_lock__a_part_of_another_host(paths: StudyPaths) -> None:
    with study_lock(paths, "scans-1"):
        pass
    lock = paths.work / "locks" / "scans-1"
    lock.write_text("elsewhere 123\n2026-01-01T00:00:00.000+00:00\n")
    assert is_locked(paths)
    assert work_started(paths).startswith("2026-01-01")
    for part in ("", "scans-1"):
        with (
            pytest.raises(InputError, match="process 123 on elsewhere"),
            study_lock(paths, part, patience=0),
        ):
            pass
    with study_lock(paths, "scans-2", patience=0):
        pass
    os.utime(lock, (0, 0))
    for part in ("", "scans-1"):
        with study_lock(paths, part, patience=0):
            pass


def test_study_lock__halves_of_a_killed_driver_go(paths: StudyPaths) -> None:
    (paths.work / "scans").mkdir(parents=True)
    halves = [folder / f".{DEAD}.tmp.a" for folder in (paths.out, paths.work, paths.work / "scans")]
    for half in halves:
        half.touch()
    store, own = paths.out / f".{DEAD}.tmp.b.zarr", paths.out / f".{os.getpid()}.tmp.a"
    store.mkdir()
    own.touch()
    with study_lock(paths, "scans-1"):
        assert all(half.exists() for half in halves)  # the driver may be at work on them
    with study_lock(paths):
        assert not any(half.exists() for half in (*halves, store))
        assert own.exists()


def test_study_lock__a_part_leaves_the_caches_of_others(paths: StudyPaths) -> None:
    (paths.cache / "of another").mkdir(parents=True)
    with study_lock(paths, "scans-1"):
        assert paths.cache.exists()


def test_study_lock__a_look_at_it_is_not_in_the_way(paths: StudyPaths) -> None:
    """`is_locked` holds the lock for a moment; a driver that begins just then waits for it."""
    with study_lock(paths):
        pass
    with open(paths.work / "lock") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        threading.Timer(0.3, fcntl.flock, (file, fcntl.LOCK_UN)).start()
        with study_lock(paths):
            pass


def test_study_lock__shows_that_it_lives(
    paths: StudyPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "HEARTBEAT_SECONDS", 0.05)
    with study_lock(paths):
        lock = paths.work / "lock"
        os.utime(lock, (0, 0))
        deadline = time.monotonic() + 10
        while lock.stat().st_mtime == 0 and time.monotonic() < deadline:
            time.sleep(0.02)
        assert lock.stat().st_mtime > 0


def test_study_lock__a_failed_sign_of_life_is_not_the_last(
    paths: StudyPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "HEARTBEAT_SECONDS", 0.02)
    real, n_failed = os.utime, 0

    def stale(path: Path, *times: Any) -> None:
        nonlocal n_failed
        n_failed += 1
        if n_failed < 3:
            raise OSError(errno.ESTALE, "Stale file handle")
        real(path, *times)

    with study_lock(paths):
        lock = paths.work / "lock"
        real(lock, (0, 0))
        monkeypatch.setattr(os, "utime", stale)
        deadline = time.monotonic() + 10
        while lock.stat().st_mtime == 0 and time.monotonic() < deadline:
            time.sleep(0.02)
        assert lock.stat().st_mtime > 0


def test_study_lock__a_look_at_the_lock_stops_no_driver(paths: StudyPaths) -> None:
    leave_lock(paths, platform.node(), 0)
    with open(paths.work / "lock") as look:
        fcntl.flock(look, fcntl.LOCK_SH)
        threading.Timer(0.2, fcntl.flock, (look, fcntl.LOCK_UN)).start()
        with study_lock(paths):
            assert is_locked(paths)


def test_study_lock__the_clock_of_this_machine_does_not_matter(
    paths: StudyPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave_lock(paths, "elsewhere", 0)
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + 3600)
    assert is_locked(paths)


def test_study_lock__clears_what_a_killed_driver_left(paths: StudyPaths) -> None:
    parts = (paths, StudyPaths(paths.out / "discovery"))
    for part in parts:
        hashes = part.work / "hashes"
        hashes.mkdir(parents=True)
        (part.cache / "old").mkdir(parents=True)
        (hashes / "a.lock").write_text("")
        (hashes / "half").write_text("")
        (hashes / "whole").write_text("digest")
    with study_lock(paths):
        for part in parts:
            assert not part.cache.exists()
            assert [path.name for path in (part.work / "hashes").iterdir()] == ["whole"]
    assert paths.work.stat().st_mode & 0o077 == 0


def test_followed__links_lead_to_their_file_but_into_an_annex(tmp_path: Path) -> None:
    plain = tmp_path / "scan.nii.gz"
    plain.write_bytes(b"")
    annexed = tmp_path / ".git" / "annex" / "objects" / "key.nii.gz"
    annexed.parent.mkdir(parents=True)
    annexed.write_bytes(b"")
    (tmp_path / "a.nii.gz").symlink_to(plain)
    (tmp_path / "b.nii.gz").symlink_to(annexed)
    assert followed(tmp_path / "a.nii.gz") == plain
    assert followed(tmp_path / "b.nii.gz") == tmp_path / "b.nii.gz"
    assert followed(plain) == plain


def test_followed__links_into_an_annex_lead_on_from_where_their_folder_lies(tmp_path: Path) -> None:
    store = tmp_path / "store" / ".git" / "annex"
    store.mkdir(parents=True)
    (store / "key.nii.gz").touch()
    (tmp_path / "store" / "sub-1").mkdir()
    (tmp_path / "store" / "sub-1" / "a.nii.gz").symlink_to("../.git/annex/key.nii.gz")
    (tmp_path / "bids").mkdir()
    (tmp_path / "bids" / "sub-1").symlink_to(tmp_path / "store" / "sub-1")
    found = followed(tmp_path / "bids" / "sub-1" / "a.nii.gz")
    assert found == tmp_path / "store" / "sub-1" / "a.nii.gz"
    assert folders_of([found]) == {tmp_path / "store" / "sub-1", store}
    assert followed(None) is None


@shell.define
class Copy(shell.Task["Copy.Outputs"]):
    """Copies a file."""

    executable = ["cp", "--preserve"]

    source: File = shell.arg(argstr="", position=1, help="file")
    out: str = shell.arg(argstr="", position=2, help="copy")

    class Outputs(shell.Outputs):
        """The copy."""

        copy: File = shell.out(callable=lambda inputs, cache_dir: inputs["out"], help="copy")


@workflow.define(outputs=["last"])
def copies(source: File, folder: str, bad: list[str]) -> File:
    """One file is copied to a, a to b, and the source to c, and c to d."""

    def add(name: str, of: Any) -> Any:
        out = Path(folder, "nowhere" if name in bad else "", name)
        where = StepEnvironment("native", Path(folder, "logs", f"{name}.log"))
        return workflow.add(Copy(source=of, out=str(out)), name=name, environment=where).copy

    add("b", add("a", source))
    return add("d", add("c", source))


@pytest.mark.parametrize(
    ("bad", "made", "words"),
    [
        (["a"], {"c", "d"}, "nowhere/a'"),
        (["c"], {"a", "b"}, "nowhere/c'"),
        (["a", "d"], {"c"}, "nowhere/a'.*; one more job failed too"),
        (["b", "c"], {"a"}, "nowhere/[bc]'.*; one more job failed too"),
    ],
)
def test_submit__what_needs_nothing_of_a_failed_job_goes_on(
    paths: StudyPaths, tmp_path: Path, bad: list[str], made: set[str], words: str
) -> None:
    (tmp_path / "s").write_text("s")
    folder = tmp_path / "copies"
    folder.mkdir()
    task = copies(source=tmp_path / "s", folder=str(folder), bad=bad)
    with pytest.raises(StepError, match=words) as caught:
        submit(task, paths)
    assert caught.value.exit_code == 1
    assert {path.name for path in folder.iterdir()} == made | {"logs"}

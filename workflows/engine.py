"""The thin layer over Pydra: one study's cache, its locks, and running a task in it."""

from __future__ import annotations

import fcntl
import os
import platform
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

from pydra.engine.submitter import Submitter

from axoloci.errors import InputError
from axoloci.study import COHORTS, StudyPaths

HEARTBEAT_SECONDS = 20.0
"""How often a driver shows in its lock file that it lives."""

PATIENCE_SECONDS = 1.0
"""For how long a driver tries to take the lock."""

STALE_SECONDS = 100.0
"""Age of the last sign of life at which the driver of another host counts as dead."""


@contextmanager
def study_lock(paths: StudyPaths) -> Iterator[None]:
    """Only one driver works on a study.

    The operating system frees the lock of a driver that was killed. Some network file systems keep
    such locks to one host, so the file also holds a sign of life, by the file server's clock: a
    driver of another host counts as dead after `STALE_SECONDS` without one.

    Under the lock Pydra's cache, and the locks in it, can only be those of a killed run: they are
    removed.

    Raises
    ------
    InputError
        Another driver holds the lock.
    """
    paths.work.mkdir(parents=True, exist_ok=True)
    paths.work.chmod(0o700)  # it names the people
    lock = paths.work / "lock"
    with open(lock, "a+") as file:
        _take(file, paths, lock)
        host, here = lock.read_text().partition(" ")[0], platform.node()
        if host and host != here and _age(lock) < STALE_SECONDS:
            raise _held(paths, lock)
        file.truncate(0)
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        file.write(f"{here} {os.getpid()}\n{now}\n")
        file.flush()
        ended = threading.Event()

        def show_life() -> None:
            while not ended.wait(HEARTBEAT_SECONDS):
                with suppress(OSError):  # of a network file system: the next sign may succeed
                    os.utime(lock)

        threading.Thread(target=show_life, daemon=True).start()
        try:
            _clear(paths)
            yield
        finally:
            ended.set()
            file.truncate(0)


def _take(file: TextIO, paths: StudyPaths, lock: Path) -> None:
    """Take the lock; one who only looks at it (`is_locked`) holds it for a moment."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            return fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise _held(paths, lock) from None
            time.sleep(0.02)


def _clear(paths: StudyPaths) -> None:
    """Remove what a killed driver left: Pydra's cache, and locks and halves of its digests.

    The folders of all cohorts are cleared: they have no lock of their own.
    """
    for own in (paths, *(StudyPaths(paths.out / cohort) for cohort in COHORTS)):
        shutil.rmtree(own.cache, ignore_errors=True)
        for file in (own.work / "hashes").glob("*"):
            if file.suffix == ".lock" or file.stat().st_size == 0:
                file.unlink()


def _held(paths: StudyPaths, lock: Path) -> InputError:
    host, _, process = lock.read_text().partition("\n")[0].partition(" ")
    return InputError(
        f"{paths.out}: another axoloci is working on this study (process {process or '?'} on "
        f"{host or '?'}); a driver that died is noticed within {STALE_SECONDS:.0f} s"
    )


def _age(path: Path) -> float:
    """Seconds since a file was touched, by the clock of the file system that it lies on."""
    with tempfile.NamedTemporaryFile(dir=path.parent) as now:
        return Path(now.name).stat().st_mtime - path.stat().st_mtime


def is_locked(paths: StudyPaths) -> bool:
    """Whether a driver works on the study now."""
    lock = paths.work / "lock"
    if not lock.exists():
        return False
    with open(lock) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        host = lock.read_text().partition(" ")[0]
    return bool(host) and host != platform.node() and _age(lock) < STALE_SECONDS


def driver_started(paths: StudyPaths) -> str:
    """When the driver that works on the study began (ISO 8601, UTC); empty if none does."""
    if not is_locked(paths):
        return ""
    lines = (paths.work / "lock").read_text().splitlines()
    return lines[1] if len(lines) > 1 else ""


def followed(path: Path | None) -> Path | None:
    """Where a link leads, for Pydra remembers a file's digest by the time of the link.

    Links into a git-annex stay: they change with their content, and the names behind them are none.
    """
    if path is None or not path.is_symlink():
        return path
    target = path.resolve()
    return path if "annex" in target.parts or target.suffix != path.suffix else target


def prepare_pydra(paths: StudyPaths) -> None:
    """Let Pydra remember the digests of files in the study's folder for work."""
    os.environ["NO_ET"] = "1"  # Pydra must not call home for its newest version
    os.environ["PYDRA_HASH_CACHE"] = str(paths.work / "hashes")


def submit(task: Any, paths: StudyPaths, *, environment: Any = None) -> Any:
    """Run one Pydra task or workflow in this process, its jobs one after another.

    The parallelism of axoloci is over scans, one process each, so that a failed scan costs no
    other and each is finished before the next begins.

    Parameters
    ----------
    task
        Pydra task or workflow.
    paths
        Of the study in whose folder for work Pydra's cache lies, for as long as this task runs.
    environment
        Where a single task runs; the nodes of a workflow have their own.

    Returns
    -------
    Outputs of the task. Its errors are raised as they are.
    """
    prepare_pydra(paths)
    paths.cache.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(dir=paths.cache) as cache,
        Submitter(
            cache_root=cache, worker="debug", clean_stale_locks=False, environment=environment
        ) as submitter,
    ):
        return submitter(task, raise_errors=True).outputs

"""The thin layer over Pydra: one study's cache, its locks, and running a task in it."""

from __future__ import annotations

import fcntl
import os
import platform
import random
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
from pydra.workers.debug import DebugWorker

from axoloci.environments import StepError
from axoloci.errors import InputError
from axoloci.job import remove_halves
from axoloci.study import COHORTS, StudyPaths

HEARTBEAT_SECONDS = 20.0
"""How often a process shows in its lock file that it lives."""

STALE_SECONDS = 100.0
"""Age of the last sign of life at which a process of another host counts as dead."""

CACHE_VARIABLE = "AXOLOCI_CACHE"
"""Environment variable: folder for Pydra's cache in place of the study's, which is shared."""

HASHES_VARIABLE = "PYDRA_HASH_CACHE"
"""Environment variable: folder in which Pydra remembers the digests of files."""


@contextmanager
def study_lock(paths: StudyPaths, part: str = "", patience: float = 1.0) -> Iterator[None]:
    """Only one driver works on a study, or several processes each on a part of its own.

    The operating system frees the lock of a process that was killed. Some network file systems keep
    such locks to one host, so each lock file also holds a sign of life, by the file server's clock:
    a process of another host counts as dead after `STALE_SECONDS` without one.

    Where a driver begins, no one else is at work: Pydra's cache, and the locks in it, can only be
    those of a killed run, and are removed.

    Parameters
    ----------
    paths
        Of the study.
    part
        Name of the part that this process works on, a file name; without it the whole study.
    patience
        Seconds for which it waits for those that are in the way. A look at the lock is in the way
        for a moment, and a process of another host that was killed for `STALE_SECONDS`.

    Raises
    ------
    InputError
        Another process works on the study or on the same part.
    """
    paths.work.mkdir(parents=True, exist_ok=True)
    paths.work.chmod(0o700)  # it names the people
    lock = _part_locks(paths) / part if part else _driver_lock(paths)
    lock.parent.mkdir(exist_ok=True)
    deadline = time.monotonic() + patience
    with open(lock, "a+") as file:
        while rival := _rival(paths, lock, file):
            if time.monotonic() > deadline:
                raise _held(paths, rival)
            # not in step with a rival that steps back for this one
            time.sleep(random.uniform(0.05, 0.1) * max(1.0, patience / 10))
        ended = threading.Event()

        def show_life() -> None:
            while not ended.wait(HEARTBEAT_SECONDS):
                with suppress(OSError):  # of a network file system: the next sign may succeed
                    os.utime(lock)

        threading.Thread(target=show_life, daemon=True).start()
        try:
            if not part:
                _clear(paths)
            yield
        finally:
            ended.set()
            file.truncate(0)


def _driver_lock(paths: StudyPaths) -> Path:
    return paths.work / "lock"


def _part_locks(paths: StudyPaths) -> Path:
    return paths.work / "locks"


def _rival(paths: StudyPaths, lock: Path, file: TextIO) -> Path | None:
    """Take a lock, or name the lock file that is in the way.

    It is announced before the others are looked at, so that of two that start at once at least one
    sees the other.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return lock
    if _shows_life_elsewhere(lock):
        return lock
    file.truncate(0)
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    file.write(f"{platform.node()} {os.getpid()}\n{now}\n")
    file.flush()
    driver = _driver_lock(paths)
    others = _part_locks(paths).glob("*") if lock == driver else [driver]
    rival = next(filter(_is_held, others), None)
    if rival is not None:
        file.truncate(0)
        fcntl.flock(file, fcntl.LOCK_UN)
    return rival


def _clear(paths: StudyPaths) -> None:
    """Remove what a killed driver left: Pydra's cache, and halves of files.

    Of its digests also the locks. Halves of a job's files go when that job is run again.

    The folders of all cohorts are cleared: they have no lock of their own.
    """
    for own in (paths, *(StudyPaths(paths.out / cohort) for cohort in COHORTS)):
        shutil.rmtree(own.cache, ignore_errors=True)
        for folder in (own.out, own.work, own.work / "scans"):
            remove_halves(folder, spare_living=True)
        for file in (own.work / "hashes").glob("*"):
            if file.suffix == ".lock" or file.stat().st_size == 0:
                file.unlink()


def _held(paths: StudyPaths, lock: Path) -> InputError:
    host, _, process = lock.read_text().partition("\n")[0].partition(" ")
    what = "this study" if lock == _driver_lock(paths) else f"its part {lock.name}"
    return InputError(
        f"{paths.out}: another axoloci is working on {what} (process {process or '?'} on "
        f"{host or '?'}); one that died is noticed within {STALE_SECONDS:.0f} s"
    )


def _age(path: Path) -> float:
    """Seconds since a file was touched, by the clock of the file system that it lies on.

    Who may only read there has this machine's clock.
    """
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent) as file:
            now = Path(file.name).stat().st_mtime
    except OSError:
        now = time.time()
    return now - path.stat().st_mtime


def _shows_life_elsewhere(lock: Path) -> bool:
    """Whether a process of another host holds a lock."""
    host = lock.read_text().partition(" ")[0]
    return bool(host) and host != platform.node() and _age(lock) < STALE_SECONDS


def _is_held(lock: Path) -> bool:
    """Whether a process works under a lock file now."""
    try:
        with open(lock) as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return _shows_life_elsewhere(lock)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False


def is_locked(paths: StudyPaths) -> bool:
    """Whether a process works on the study or on a part of it now."""
    return any(map(_is_held, (_driver_lock(paths), *_part_locks(paths).glob("*"))))


def work_started(paths: StudyPaths) -> str:
    """When the oldest process that works on the study began (ISO 8601, UTC); empty if none does."""
    begun = []
    for lock in filter(_is_held, (_driver_lock(paths), *_part_locks(paths).glob("*"))):
        begun += lock.read_text().splitlines()[1:2]
    return min(begun, default="")


def followed(path: Path | None) -> Path | None:
    """Where a link leads, for Pydra remembers a file's digest by the time of the link.

    Links into a git-annex stay: they change with their content, and the names behind them are none.
    Their folder is followed, from which they lead on: a container knows no links of folders.
    """
    if path is None or not path.is_symlink():
        return path
    target = path.resolve()
    if "annex" in target.parts or target.suffix != path.suffix:
        return path.parent.resolve() / path.name
    return target


def prepare_pydra(paths: StudyPaths) -> Path:
    """Say where Pydra remembers the digests of files; the folder for its cache is returned.

    Both lie in the study's folder for work, or where `CACHE_VARIABLE` says: Pydra waits for ever
    for a lock that a killed process left in its digests, and while other processes work on the
    study no one can clear them.
    """
    os.environ["NO_ET"] = "1"  # Pydra must not call home for its newest version
    own = os.environ.get(CACHE_VARIABLE)
    os.environ[HASHES_VARIABLE] = str(Path(own, "hashes") if own else paths.work / "hashes")
    cache = Path(own) if own else paths.cache
    cache.mkdir(mode=0o700, parents=True, exist_ok=True)
    return cache


class InTurn(DebugWorker):  # type: ignore[misc]
    """Runs jobs one after another; where one fails, those that need nothing of it go on."""

    _plugin_name = "debug"

    def __init__(self) -> None:
        super().__init__()
        self.failed: list[StepError] = []

    def run(self, job: Any, rerun: bool = False) -> Any:
        """Run a job; that its step failed is kept for later."""
        try:
            return super().run(job, rerun)
        except StepError as error:
            self.failed.append(error)
            return None


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
    Outputs of the task.

    Raises
    ------
    StepError
        Some steps failed; the message is that of the first.
    """
    worker = InTurn()
    with (
        tempfile.TemporaryDirectory(dir=prepare_pydra(paths)) as cache,
        Submitter(
            cache_root=cache, worker=worker, clean_stale_locks=False, environment=environment
        ) as submitter,
    ):
        try:
            outputs = submitter(task, raise_errors=True).outputs
        except RuntimeError:  # Pydra's, of a workflow in which jobs failed
            if not worker.failed:
                raise
    if not worker.failed:
        return outputs
    first, *others = worker.failed
    if not others:
        raise first
    more = "one more job" if len(others) == 1 else f"{len(others)} more jobs"
    raise StepError(f"{first}; {more} failed too", first.exit_code)

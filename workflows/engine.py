"""The thin layer over Pydra: one study's cache, its locks, and running a task in it."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pydra.engine.submitter import Submitter

from axoloci.errors import InputError
from axoloci.study import StudyPaths


@contextmanager
def study_lock(paths: StudyPaths) -> Iterator[None]:
    """Only one driver works on a study; the operating system frees the lock of a killed one.

    Under the lock three kinds of left-overs are removed from Pydra's cache: its lock files, which
    can only be those of a killed run; the folders of failed jobs, which would be taken as failed
    again; and the results of workflows, which know nothing of their jobs' files, so that the jobs
    decide each time.

    Raises
    ------
    InputError
        Another driver holds the lock.
    """
    paths.work.mkdir(parents=True, exist_ok=True)
    paths.cache.mkdir(mode=0o700, exist_ok=True)
    with open(paths.work / "lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"{paths.out}: another axoloci is working on this study") from None
        for lock in paths.cache.glob("*.lock"):
            lock.unlink()
        failed = [error.parent for error in paths.cache.glob("*/_error.pklz")]
        for folder in {*failed, *paths.cache.glob("workflow-*")}:
            shutil.rmtree(folder)
        yield


def submit(task: Any, paths: StudyPaths, *, environment: Any = None, rerun: bool = False) -> Any:
    """Run one Pydra task or workflow in this process, its jobs one after another.

    The parallelism of axoloci is over scans, one process each, so that a failed scan costs no
    other and each is finished before the next begins.

    Parameters
    ----------
    task
        Pydra task or workflow.
    paths
        Of the study whose cache is used.
    environment
        Where a single task runs; the nodes of a workflow have their own.
    rerun
        Run also what is in the cache.

    Returns
    -------
    Outputs of the task. Its errors are raised as they are.
    """
    os.environ["NO_ET"] = "1"  # Pydra must not call home for its newest version
    os.environ["PYDRA_HASH_CACHE"] = str(paths.work / "hashes")
    with Submitter(
        cache_root=paths.cache, worker="debug", clean_stale_locks=False, environment=environment
    ) as submitter:
        return submitter(task, raise_errors=True, rerun=rerun).outputs

"""Free space in the folder of a study, without costing a resume what it needs."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from axoloci.errors import InputError
from axoloci.job import HALF, lives, read_record, remove_output
from axoloci.study import StudyPaths
from axoloci.workflows.engine import is_locked, study_lock
from axoloci.workflows.records import cohort_paths

log = logging.getLogger("axoloci")

CORRECTED = "_desc-preproc_dwi.nii.gz"


@dataclass
class Freed:
    """What one kind of file held, or would free."""

    what: str
    n_files: int = 0
    n_bytes: int = 0
    # record and file of corrected volumes, else the file or folder alone
    paths: list[tuple[Path | None, Path]] = field(default_factory=list)

    def add(self, path: Path, record: Path | None = None) -> None:
        """Count a file, or a folder with all that lies in it."""
        files = [p for p in path.rglob("*") if p.is_file()] if path.is_dir() else [path]
        self.n_files += len(files)
        self.n_bytes += sum(file.lstat().st_size for file in files)
        self.paths.append((record, path))


def clean_study(out: Path, *, intermediates: bool = False, dry_run: bool = False) -> list[Freed]:
    """Remove what no resume of a study needs.

    Parameters
    ----------
    out
        Folder of the study.
    intermediates
        Remove also the corrected volumes of finished scans. Their job records say so; they are
        made again only if the tensor fit must be run again.
    dry_run
        Only say what would be removed.

    Returns
    -------
    list of Freed
        One a kind of file.

    Raises
    ------
    InputError
        A driver works on the study, or nothing of a study lies there.
    """
    cohorts = cohort_paths(out)
    # a cohort's own folder is locked by the driver of the study that it belongs to
    for paths in (StudyPaths(out), StudyPaths(out.absolute().parent)):
        if is_locked(paths):
            raise InputError(f"{paths.out}: axoloci is working on this study; wait for its end")
    found = [_caches(cohorts.values()), _temporary_files(out)]
    if intermediates:
        found.append(_corrected_volumes(cohorts.values()))
    if dry_run:
        return found
    with study_lock(StudyPaths(out)):
        for kind in found:
            for record, path in kind.paths:
                if record is not None:
                    remove_output(record, path)
                elif path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink(missing_ok=True)
    return found


def _caches(cohorts: Iterable[StudyPaths]) -> Freed:
    """Pydra's cache, which lasts for one run, and locks and halves of its digests."""
    freed = Freed("Pydra's cache of killed runs")
    for paths in cohorts:
        if paths.cache.exists():
            freed.add(paths.cache)
        for file in (paths.work / "hashes").glob("*"):
            if file.suffix == ".lock" or file.stat().st_size == 0:
                freed.add(file)
    return freed


def _temporary_files(out: Path) -> Freed:
    """Halves of files, left by processes that are dead."""
    freed = Freed("files that killed jobs left half written")
    for folder, folders, files in os.walk(out):
        for name in (*folders, *files):
            half = HALF.fullmatch(name)
            if half and not lives(int(half[1])):
                freed.add(Path(folder, name))
        folders[:] = [name for name in folders if not HALF.fullmatch(name)]
    return freed


def _corrected_volumes(cohorts: Iterable[StudyPaths]) -> Freed:
    """Corrected volumes of the scans that are finished.

    Records name files by absolute paths: those of a study that was copied name the original's,
    which are left alone.
    """
    freed, elsewhere, n_read = Freed("corrected volumes of finished scans"), [], 0
    for paths in cohorts:
        own = paths.out.resolve()
        for state in sorted((paths.work / "scans").glob("*.json")):
            record = paths.logs / state.stem / "preprocess.json"
            fitted = read_record(record.with_name("dti.json"))
            if read_record(state).get("status") != "ok" or fitted.get("exit_code") != 0:
                continue
            if _is_read_elsewhere(record.parent, fitted):
                n_read += 1
                continue
            for name in read_record(record).get("outputs", {}):
                if not name.endswith(CORRECTED) or not Path(name).is_file():
                    continue
                if Path(name).parent.resolve().is_relative_to(own):
                    freed.add(Path(name), record)
                else:
                    elsewhere.append(name)
    if n_read:
        log.warning("kept: corrected volumes of %d scans, which a step from outside reads", n_read)
    if elsewhere:
        log.warning(
            "left alone: %d corrected volumes that lie outside of the study, as of one that was "
            "copied or moved, such as %s; run it where it lies now, then clean again",
            *(len(elsewhere), elsewhere[0]),
        )
    return freed


def _is_read_elsewhere(logs: Path, fitted: Mapping[str, Any]) -> bool:
    """Whether another job of a scan than the tensor fit reads its corrected volumes."""
    volumes = fitted.get("inputs", {}).get("dwi")
    others = (f for f in logs.glob("*.json") if f.stem not in ("preprocess", "dti"))
    return any(volumes in read_record(file).get("inputs", {}).values() for file in others)

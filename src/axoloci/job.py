"""The record of a job: what it was given, what it made, and whether it can be skipped.

Pydra would take a result from its cache though the files had been cut off or replaced since, and
unpickle whatever lies there. So its caches last for one run only, and the record beside a job's log
decides: a job is skipped when its inputs, its code and every file that it made are what they were.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Set
from pathlib import Path
from typing import Any

from fileformats.generic import FileSet
from pydra.utils.general import get_fields

from axoloci.io.files import sha256, write_json

HALF = re.compile(r"\.(\d+)\.tmp\.(.+)")
"""A file that is being written: the number of the process, and the name that it will take."""


def reason_to_run(record: Mapping[str, Any], inputs: Mapping[str, str]) -> str:
    """Why a job cannot be skipped; empty if it can.

    Parameters
    ----------
    record
        What is known of the job's last run; empty if nothing.
    inputs
        Digest of each of its inputs now.
    """
    if not record:
        return "first run"
    if "exit_code" not in record:
        return "it was stopped last time"
    if record["exit_code"] != 0:
        return "it failed last time"
    before = record["inputs"]
    changed = [name for name in inputs if inputs[name] != before.get(name)]
    changed += [name for name in before if name not in inputs]
    if "image" in changed:
        return "its code changed"
    if "inputs_file" in changed:  # which names all that the report shows
        return "its inputs changed"
    if changed:
        return f"{', '.join(sorted(changed))} changed"
    return next(filter(None, (damage(Path(f), was) for f, was in record["outputs"].items())), "")


def file_state(path: Path) -> dict[str, int]:
    """What differs between a file and another that took its place, without reading it.

    Size and time of modification alone are kept by `cp -p`, `rsync` and archives.
    """
    state = path.stat()
    return {
        "size": state.st_size,
        "mtime_ns": state.st_mtime_ns,
        "ctime_ns": state.st_ctime_ns,
        "inode": state.st_ino,
    }


def fingerprint(path: Path) -> dict[str, Any]:
    """State and SHA-256 of a file."""
    return {**file_state(path), "sha256": sha256(path)}


def damage(path: Path, was: Mapping[str, Any]) -> str:
    """What is wrong with a finished file; empty if it is what it was.

    The content is read only if the file's state differs, or is not known in full, as git does.
    """
    try:
        state = file_state(path)
        if state["size"] != was.get("size", state["size"]):
            return f"{path} has {state['size']} bytes, and had {was['size']}"
        if not state.items() <= was.items() and sha256(path) != was["sha256"]:
            return f"{path} was changed"
    except OSError:
        return f"{path} was removed to free space" if was.get("removed") else f"{path} is gone"
    return ""


def read_record(path: Path) -> dict[str, Any]:
    """A job's record; empty if there is none that can be read."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def read_records(logs: Path) -> Iterator[dict[str, Any]]:
    """Job records under a log folder, sorted by path, each with its `log`.

    One at a time: those of 50,000 scans together are more than a gigabyte.
    """
    for path in sorted(logs.rglob("*.json")):
        if not HALF.fullmatch(path.name) and (record := read_record(path)):
            yield {**record, "log": str(path.with_suffix(".log"))}


def was_killed(exit_code: int | None) -> bool:
    """Whether the kernel killed a command, most often for memory; none is of one that never ended.

    137 is what a container makes of it.
    """
    return exit_code in (None, -9, 137)


def was_removed(record: Mapping[str, Any]) -> bool:
    """Whether files of a finished job were removed on purpose, and are not there again."""
    outputs = record.get("outputs", {})
    return any(was.get("removed") and not Path(file).exists() for file, was in outputs.items())


def without_removed(record: Mapping[str, Any]) -> dict[str, Any]:
    """A job's record as if it had never made the files that were removed on purpose."""
    kept = {f: was for f, was in record.get("outputs", {}).items() if not was.get("removed")}
    return {**record, "outputs": kept}


def remove_output(record_file: Path, output: Path) -> None:
    """Remove a file that a finished job has made, and mark it as removed in the job's record.

    The record is written first: a file that is marked and still there does no harm.
    """
    record = read_record(record_file)
    record["outputs"][str(output)]["removed"] = True
    write_json(record_file, record)
    output.unlink(missing_ok=True)


def input_digests(task: Any) -> dict[str, str]:
    """Digest of each input of a Pydra task that is set."""
    _, digests = task._compute_hashes()
    return {name: str(digests[name]) for name in digests if name != "Outputs"}


def input_files(job: Any) -> list[Path]:
    """The files and folders that a Pydra job is given, as its command finds them."""
    values = (job.inputs[field.name] for field in get_fields(job.task))
    flat = (one for value in values for one in (value if isinstance(value, list) else [value]))
    given = (one for one in flat if isinstance(one, FileSet))
    # of genotypes Pydra knows one file of three
    return [Path(path) for one in given for path in getattr(one, "files_read", one.fspaths)]


def output_paths(job: Any) -> list[Path]:
    """The files and folders that a job makes, without those that it need not and did not make."""
    paths = (
        field.callable(job.inputs, job.cache_dir)
        for field in get_fields(job.task.Outputs)
        if callable(getattr(field, "callable", None))
    )
    return [Path(path) for path in paths if path is not None]


def made_files(job: Any) -> list[Path]:
    """The files that a finished job has made, those within folders too."""
    return sorted(
        file
        for path in output_paths(job)
        for file in (path.rglob("*") if path.is_dir() else [path])
        if file.is_file()
    )


def lives(process: int) -> bool:
    """Whether a process of this machine lives."""
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def remove_halves(
    folder: Path, names: Set[str] | None = None, *, spare_living: bool = False
) -> None:
    """Remove what killed processes have left half written in a folder.

    Parameters
    ----------
    folder
        Where they were at work.
    names
        Of the files and folders that were to be; all without it.
    spare_living
        Leave those whose process lives: a step may also be run by hand. In a container processes
        have other numbers than here.
    """
    for path in folder.glob(".*.tmp.*"):
        half = HALF.fullmatch(path.name)
        if half is None or not (names is None or half[2] in names):
            continue
        if spare_living and lives(int(half[1])):
            continue
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)

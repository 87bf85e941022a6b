"""Files that are either whole or not there: temporary name, fsync, rename."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from axoloci.errors import InputError

DISK_IS_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # or the user's share of it is


@contextmanager
def whole_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary path beside `path` that takes its name only if the block succeeds.

    The temporary name keeps all suffixes of `path`, because writers choose a format by them. An
    `OSError` of the temporary file is one of `path`, the only name that the user knows; so is a
    full disk, of which some libraries do not say the file.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{os.getpid()}.tmp.{path.name}")
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        nameless = error.filename is None and error.errno in DISK_IS_FULL
        if nameless or str(error.filename) == str(temporary):
            error.filename = str(path)
        raise
    finally:
        with suppress(OSError):  # where nothing may be written it is not there
            temporary.unlink()


def leftovers(folder: str | os.PathLike[str]) -> list[Path]:
    """Files in a folder, but not in those below, that killed processes were writing."""
    return list(Path(folder).glob(".[0-9]*.tmp.*"))


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write `text` as UTF-8, whole or not at all."""
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | os.PathLike[str], content: Mapping[str, Any]) -> None:
    """Write `content` as indented JSON, whole or not at all. NaN is refused: it is not JSON."""
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def unreadable(path: Path) -> str:
    """Why a file cannot be read and what to do; empty if it can be opened."""
    if path.is_file():
        return "" if os.access(path, os.R_OK) else f"{path}: no permission to read it"
    if path.is_dir():
        return f"{path}: is a folder, not a file"
    if path.is_symlink():
        return (
            f"{path}: a link to {os.readlink(path)}, which is not there; in a DataLad data set "
            f"fetch it by: datalad get {shlex.quote(str(path))}"
        )
    return f"{path}: no such file"


def sha256(path: str | os.PathLike[str]) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_outputs(outputs: Mapping[str, Path | None]) -> None:
    """Refuse outputs before the work that makes them.

    Parameters
    ----------
    outputs
        File or folder of each option; None where the option was not given.

    Raises
    ------
    InputError
        Two of them are one file, or a folder cannot be written to.
    """
    options: dict[Path, str] = {}
    for option, path in outputs.items():
        if path is None:
            continue
        other = options.setdefault(path.resolve(), option)
        if other != option:
            raise InputError(f"{other} and {option} are both {path}; give each a file of its own")
        folder = next(parent for parent in path.resolve().parents if parent.exists())
        if not folder.is_dir() or not os.access(folder, os.W_OK):
            raise InputError(f"{option} {path}: {folder} is no folder that can be written to")

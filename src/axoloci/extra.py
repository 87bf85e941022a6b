"""Steps from outside in a study: what a table `[extra.NAME]` may say, and the files it names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, get_args

from fileformats.core import FileSet
from pydra.utils.general import get_fields

from axoloci.errors import InputError, nearest
from axoloci.io.files import unreadable
from axoloci.steps import load_task
from axoloci.study import whole_path

GIVEN = ("prefix", "out_dir", "image")
"""Fields of a task that axoloci fills in, never a study."""

_OF_PYDRA = ("executable", "append_args")

Tables = Mapping[str, Mapping[str, Any]]


def task_fields(name: str) -> dict[str, Any]:
    """Pydra's fields of a step's task that the scan or a study can fill in, by name.

    Raises
    ------
    InputError
        The step is not installed, or has no task of single scans.
    """
    fields = get_fields(load_task(name))
    return {field.name: field for field in fields if field.name not in (*GIVEN, *_OF_PYDRA)}


def _is_file(field: Any) -> bool:
    """Whether a field takes files."""
    kinds = get_args(field.type) or (field.type,)  # `File | None`, `list[File]`
    return any(isinstance(kind, type) and issubclass(kind, FileSet) for kind in kinds)


def whole_paths(tables: Tables, folder: Path) -> dict[str, dict[str, Any]]:
    """Tables of outside steps whose relative paths start at a folder.

    A step that is not installed keeps its table: the preflight names the fault.
    """
    whole = {}
    for name, table in tables.items():
        try:
            files = {key for key, field in task_fields(name).items() if _is_file(field)}
        except InputError:
            files = set()

        def resolve(value: Any) -> Any:
            if isinstance(value, list):
                return [resolve(one) for one in value]
            is_text = isinstance(value, str)
            return str(whole_path(value, folder)) if is_text else value

        whole[name] = {k: resolve(v) if k in files else v for k, v in table.items()}
    return whole


def named_files(tables: Tables) -> Iterable[Path]:
    """The files that tables of outside steps name, in their order."""
    for name, table in tables.items():
        for key, field in task_fields(name).items():
            if _is_file(field) and key in table:
                values = table[key] if isinstance(table[key], list) else [table[key]]
                yield from map(Path, values)


def table_problems(name: str, table: Mapping[str, Any]) -> list[str]:
    """What is wrong with the table of an outside step, and with a task that cannot be run by it.

    Raises
    ------
    InputError
        The step is not installed, or has no task of single scans.
    """
    task, fields = load_task(name), task_fields(name)
    known = {field.name for field in get_fields(task)}
    problems = [
        f"its task has no field '{key}', which axoloci fills in for every scan"
        for key in GIVEN
        if key not in known
    ]
    for key, value in table.items():
        if key in GIVEN:
            problems.append(f"'{key}' is filled in by axoloci; leave it out")
        elif key not in fields:
            problems.append(f"unknown key 'extra.{name}.{key}'; {nearest(key, fields)}")
        else:
            problems += [f"'{key}': {why}" for why in _value_problems(task, key, value)]
    return problems


def _value_problems(task: Any, key: str, value: Any) -> list[str]:
    """Why a field of a task cannot have a value."""
    if _is_file(get_fields(task)[key]):
        paths = map(Path, value if isinstance(value, list) else [str(value)])
        lacking = [why for path in paths if not path.is_dir() and (why := unreadable(path))]
        if lacking:
            return lacking
    try:
        task(**{key: value})
    except Exception as error:  # of whatever kind, for the task is another's
        return [" ".join(str(error).split())]
    return []

"""Entry points -> steps: what is installed, ours or a third party's.

A step is a package that holds `step.toml`, named by an entry point of the group
`axoloci.steps`, such as `dti = "axoloci.tasks.dti"`. A step from outside brings what its image is
made of in its own folder `container`.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import tomllib
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from importlib.metadata import EntryPoint, PackageNotFoundError, entry_points, version
from importlib.resources import files
from importlib.resources.abc import Traversable
from importlib.util import resolve_name
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from pydantic import ValidationError

from axoloci.errors import InputError, nearest
from axoloci.study import Section

GROUP = "axoloci.steps"
# Libraries of the driver that steps compute with too.
SHARED = ("nibabel", "numpy")
# Folder of an outside step's package: what its image is made of.
CONTAINER = "container"
# Extra of a step that shares the extra of others.
EXTRAS = dict.fromkeys(("preprocess", "dti", "normalize"), "dwi")


class Resources(Section):
    """What one job of a step asks of a machine."""

    cpus: int
    memory_gb: float
    minutes: float
    gpu: bool


class Step(Section):
    """The metadata of one step, as in its `step.toml`.

    Attributes
    ----------
    name, summary
        What it is called, and what it does in one line.
    command
        Its program, axoloci-NAME.
    image
        Name of its image, without registry.
    reference
        DOI of the method; empty if there is none.
    resources
        Of one job.
    task
        Class in its module `task` that a study runs for each scan by `[extra.NAME]`; the steps of
        axoloci have their places in the workflows instead.
    """

    name: str
    summary: str
    command: str
    image: str
    reference: str
    resources: Resources
    task: str | None = None


def _load(name: str, package: str) -> Step:
    """Read `step.toml` out of a step's package."""
    source = files(package).joinpath("step.toml")
    try:
        step = Step.model_validate(tomllib.loads(source.read_text(encoding="utf-8")))
    except (OSError, tomllib.TOMLDecodeError, ValidationError) as error:
        raise InputError(f"step '{name}': {source} is not a step description: {error}") from error
    if step.name != name:
        raise InputError(f"step '{name}': {source} describes '{step.name}'")
    if step.command != f"axoloci-{name}":
        raise InputError(f"step '{name}': {source}: its command must be 'axoloci-{name}'")
    return step


@cache
def installed_steps() -> dict[str, Step]:
    """All steps by name, in alphabetical order.

    Raises
    ------
    InputError
        A step's package has no valid `step.toml`, or two packages offer the same name.
    """
    found: dict[str, Step] = {}
    for point in _entry_points():
        if point.name in found:
            raise InputError(f"step '{point.name}' is offered by two packages; uninstall one")
        found[point.name] = _load(point.name, point.value)
    return found


def load_task(name: str) -> Any:
    """The Pydra task of a step that a study runs for each scan by `[extra.NAME]`.

    Raises
    ------
    InputError
        No such step is installed, it has no task of single scans, or that cannot be imported.
    """
    point = _entry_point(name)
    task = installed_steps()[name].task
    if task is None:
        raise InputError(
            f"the step '{name}' cannot be added to a study: its step.toml names no 'task'"
        )
    module = f"{point.value}.task"
    try:
        return getattr(importlib.import_module(module), task)
    except (ImportError, AttributeError) as error:
        raise InputError(f"step '{name}': no task {task} in {module}: {error}") from error


def is_outside(name: str) -> bool:
    """Whether a step comes from another package than axoloci."""
    return _root(step_package(name)) != "axoloci"


def step_package(name: str) -> str:
    """The import package of an installed step."""
    return _entry_point(name).value


def step_version(name: str) -> str:
    """Version of the distribution that a step came with."""
    point = _entry_point(name)
    return point.dist.version if point.dist else "unknown"


def step_licence(name: str) -> str:
    """Licence of the distribution that a step came with (SPDX); empty if it states none."""
    point = _entry_point(name)
    stated = point.dist.metadata.get_all("License-Expression") if point.dist else None
    return stated[0] if stated else ""


def container_folder(name: str) -> Path:
    """Where requirements and locks of a step's image lie."""
    if is_outside(name):
        return Path(str(files(step_package(name)))) / CONTAINER
    return Path(str(files("axoloci"))) / "containers" / name


def step_files(name: str) -> dict[str, Traversable]:
    """The files that a step's command consists of, by their path from the import root.

    They are the step's own folder but for what only the driver reads (`task.py`, `step.toml`,
    `container`), and every module of axoloci, or of the package that the step is part of, that
    these import.
    """
    package = step_package(name)
    found = dict(_own_files(files(package), package.replace(".", "/")))
    for driven in ("task.py", "step.toml"):
        found.pop(f"{package.replace('.', '/')}/{driven}", None)
    roots = {"axoloci", _root(package)}
    todo = [path for path in found if path.endswith(".py")]
    while todo:
        importer = todo.pop()
        parent = importer.rpartition("/")[0].replace("/", ".")
        for module in _imported(found[importer].read_text(encoding="utf-8"), parent):
            root, *parts = module.split(".")
            path = f"{module.replace('.', '/')}.py"
            if root not in roots or not parts or path in found:
                continue
            source = files(root).joinpath(*path.split("/")[1:])
            if source.is_file():
                found[path] = source
                todo.append(path)
    return found


def _own_files(folder: Traversable, place: str) -> Iterator[tuple[str, Traversable]]:
    """The files of a step's folder and of the folders in it, by path."""
    for entry in folder.iterdir():
        path = f"{place}/{entry.name}"
        if entry.is_file():
            yield path, entry
        elif entry.name not in (CONTAINER, "__pycache__"):
            yield from _own_files(entry, path)


def _root(package: str) -> str:
    return package.partition(".")[0]


@cache
def code_digest(name: str) -> str:
    """SHA-256 over the code that decides a step's result when it runs natively.

    It holds the step's files and the versions of the libraries that the step asks for: a changed
    step runs again and an unchanged one does not.
    """
    digest = hashlib.sha256()
    for path, file in sorted(step_files(name).items()):
        digest.update(path.encode() + b"\0" + file.read_bytes())
    for library, found in sorted(_libraries(_entry_point(name))):
        digest.update(f"{library} {found}\n".encode())
    return digest.hexdigest()


def _entry_point(name: str) -> EntryPoint:
    """The entry point of an installed step.

    Raises
    ------
    InputError
        There is none of this name.
    """
    if name not in installed_steps():
        raise InputError(f"no step '{name}' is installed; {nearest(name, installed_steps())}")
    (point,) = (point for point in _entry_points() if point.name == name)
    return point


@cache
def _entry_points() -> list[EntryPoint]:
    """The entry points of all steps; to find them, Python reads about all that is installed."""
    return sorted(entry_points(group=GROUP))


@cache
def _imported(source: str, package: str) -> set[str]:
    """Modules that a module of a package imports, those of functions too; some are no modules."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            module = resolve_name("." * node.level + (node.module or ""), package)
            names |= {module, *(f"{module}.{alias.name}" for alias in node.names)}
    return names


def _libraries(point: EntryPoint) -> set[tuple[str, str]]:
    """Names and versions of what the distribution of a step requires for it."""
    if point.dist is None:
        return set()
    wanted = {EXTRAS.get(point.name, point.name)}
    outside = _root(point.value) != "axoloci"
    found, todo = set(), list(point.dist.requires or ())
    for text in todo:
        requirement = Requirement(text)
        applies = requirement.marker is None or any(
            requirement.marker.evaluate({"extra": extra}) for extra in ("", *wanted)
        )
        if applies and requirement.name == point.dist.name:  # an extra that takes up others
            wanted |= requirement.extras
            todo += [t for t in point.dist.requires or () if "extra ==" in t and t not in todo]
        elif applies and (requirement.marker or requirement.name in SHARED or outside):
            with suppress(PackageNotFoundError):
                found.add((requirement.name, version(requirement.name)))
    # its modules that the step imports are among the step's files
    return {(name, number) for name, number in found if name != "axoloci"}

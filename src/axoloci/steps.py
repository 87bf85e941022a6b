"""Entry points -> steps: what is installed, ours or a third party's.

A step is a package that holds `step.toml`, named by an entry point of the group
`axoloci.steps`, such as `dti = "axoloci.tasks.dti"`.
"""

from __future__ import annotations

import ast
import hashlib
import tomllib
from contextlib import suppress
from functools import cache
from importlib.metadata import EntryPoint, PackageNotFoundError, entry_points, version
from importlib.resources import files
from importlib.resources.abc import Traversable

from packaging.requirements import Requirement
from pydantic import ValidationError

from axoloci.errors import InputError
from axoloci.study import Section

GROUP = "axoloci.steps"
# Libraries of the driver that steps compute with too.
SHARED = ("nibabel", "numpy")
# Extra of a step that shares the extra of others.
EXTRAS = dict.fromkeys(("preprocess", "dti", "normalize"), "dwi")


class Resources(Section):
    """What one job of a step asks of a machine."""

    cpus: int
    memory_gb: float
    minutes: float
    gpu: bool


class Step(Section):
    """The metadata of one step, as in its `step.toml`."""

    name: str
    summary: str
    command: str
    image: str
    reference: str
    resources: Resources


def _load(name: str, package: str) -> Step:
    """Read `step.toml` out of a step's package."""
    source = files(package).joinpath("step.toml")
    try:
        step = Step.model_validate(tomllib.loads(source.read_text(encoding="utf-8")))
    except (OSError, tomllib.TOMLDecodeError, ValidationError) as error:
        raise InputError(f"step '{name}': {source} is not a step description: {error}") from error
    if step.name != name:
        raise InputError(f"step '{name}': {source} describes '{step.name}'")
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
    for point in sorted(entry_points(group=GROUP)):
        if point.name in found:
            raise InputError(f"step '{point.name}' is offered by two packages; uninstall one")
        found[point.name] = _load(point.name, point.value)
    return found


def step_files(name: str) -> dict[str, Traversable]:
    """The files that a step's command consists of, by their path from the import root.

    They are the step's own folder but for what only the driver reads (`task.py`, `step.toml`), and
    every module of axoloci that these import.
    """
    package = _entry_point(name).value
    found = {
        f"{package.replace('.', '/')}/{entry.name}": entry
        for entry in files(package).iterdir()
        if entry.is_file() and entry.name not in ("task.py", "step.toml")
    }
    todo = [file for path, file in found.items() if path.endswith(".py")]
    while todo:
        for module in _imported(todo.pop().read_text(encoding="utf-8")):
            path = f"{module.replace('.', '/')}.py"
            source = files("axoloci").joinpath(*path.split("/")[1:])
            if path not in found and source.is_file():
                found[path] = source
                todo.append(source)
    return found


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
    """The entry point of an installed step."""
    (point,) = (point for point in entry_points(group=GROUP) if point.name == name)
    return point


@cache
def _imported(source: str) -> set[str]:
    """Modules of axoloci that a module imports, those of functions too."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return {name for name in names if name.startswith("axoloci.")}


def _libraries(point: EntryPoint) -> set[tuple[str, str]]:
    """Names and versions of what the distribution of a step requires for it."""
    if point.dist is None:
        return set()
    wanted = {EXTRAS.get(point.name, point.name)}
    found, todo = set(), list(point.dist.requires or ())
    for text in todo:
        requirement = Requirement(text)
        applies = requirement.marker is None or any(
            requirement.marker.evaluate({"extra": extra}) for extra in ("", *wanted)
        )
        if applies and requirement.name == point.dist.name:  # an extra that takes up others
            wanted |= requirement.extras
            todo += [t for t in point.dist.requires or () if "extra ==" in t and t not in todo]
        elif applies and (requirement.marker or requirement.name in SHARED):
            with suppress(PackageNotFoundError):
                found.add((requirement.name, version(requirement.name)))
    return found

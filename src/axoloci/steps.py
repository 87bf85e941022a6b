"""Entry points -> steps: what is installed, ours or a third party's.

A step is a package that holds `step.toml`, named by an entry point of the group
`axoloci.steps`, such as `dti = "axoloci.tasks.dti"`.
"""

from __future__ import annotations

import hashlib
import tomllib
from functools import cache
from importlib.metadata import entry_points
from importlib.resources import files

from pydantic import ValidationError

from axoloci.errors import InputError
from axoloci.study import Section

GROUP = "axoloci.steps"


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


@cache
def code_digest(name: str) -> str:
    """SHA-256 over the code that decides a step's result when it runs natively.

    It holds the step's own folder but for its Pydra task, and the code shared by all steps, so
    that a changed step runs again and an unchanged one does not.
    """
    (point,) = (point for point in entry_points(group=GROUP) if point.name == name)
    sources = [
        *(entry for entry in files(point.value).iterdir() if entry.name != "task.py"),
        *files("axoloci.io").iterdir(),
        files("axoloci").joinpath("registration.py"),
    ]
    digest = hashlib.sha256()
    for source in sorted((entry for entry in sources if entry.is_file()), key=str):
        digest.update(source.name.encode() + b"\0" + source.read_bytes())
    return digest.hexdigest()

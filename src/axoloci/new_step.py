"""`axoloci new-step`: a small working step for the user to replace, with its package and tests.

The files lie in `step_template`, readable as they are; the words in `_words` are filled in.
"""

from __future__ import annotations

import keyword
import re
from collections.abc import Iterator
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

import click

from axoloci.errors import InputError
from axoloci.io.files import write_text
from axoloci.steps import CONTAINER, installed_steps

_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
TAKEN = ("base", "check")  # the image of all images; jobs of a cluster
LONGEST = 24  # letters of a name: lines of code with it are no longer than others

ADD = """Add to {tree}/pyproject.toml:
    under [project.scripts]: axoloci-{name} = "axoloci.tasks.{name}.cli:main"
    under [project.entry-points."axoloci.steps"]: {name} = "axoloci.tasks.{name}"
    under [project.optional-dependencies]: an extra {name} with what the step imports
Then: ruff check --fix && make setup && make lock && axoloci images build {name} --lock
tests/test_layout.py and tests/test_self_test.py say what is still lacking."""


@click.command(name="new-step")
@click.argument("name")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=".",
    help="Folder in which the package, axoloci-NAME, is made.",
)
@click.option(
    "--source-tree",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="For contributors: write into this source tree of axoloci instead, as one of its steps.",
)
def new_step(name: str, out: Path, source_tree: Path | None) -> None:
    """Make a step of your own: a package with command, task, image and tests that works as it is.

    It measures the mean of an FA map above a threshold, until you put your computation in place of
    that. NAME is of small letters, digits and hyphens. Nothing is overwritten.
    """
    if not _NAME.fullmatch(name) or len(name) > LONGEST:
        raise InputError(
            f"'{name}': a step's name has at most {LONGEST} small letters, digits and single "
            "hyphens, and begins with a letter, such as cortical-fa"
        )
    if name in TAKEN or name.endswith("-cuda") or keyword.iskeyword(name):
        raise InputError(f"'{name}': means something else already; choose another name")
    if name in installed_steps():
        raise InputError(f"'{name}' is an installed step (axoloci steps lists all); choose another")
    if source_tree is None:
        made = write_package(name, out)
        click.echo(f"wrote {made}\n")
        click.echo((made / "README.md").read_text(encoding="utf-8").partition("## Next\n\n")[2])
        return
    for folder in write_into_tree(name, source_tree):
        click.echo(f"wrote {folder}")
    click.echo(ADD.format(name=name, tree=source_tree))


def write_package(name: str, out: Path) -> Path:
    """Write a step as a package of its own; its folder is returned.

    Raises
    ------
    InputError
        The folder is there already.
    """
    folder = out / f"axoloci-{name}"
    words = _words(name, f"axoloci_{name.replace('-', '_')}")
    _write({folder / path: text for path, text in _filled(words)}, [folder])
    return folder


def write_into_tree(name: str, tree: Path) -> list[Path]:
    """Write a step into a source tree of axoloci; the new folders are returned.

    Raises
    ------
    InputError
        It is no such tree, one of the folders is there already, or the name has a hyphen.
    """
    if "-" in name:
        raise InputError(f"'{name}': steps of axoloci are named as their folders, without hyphens")
    if not (tree / "tasks").is_dir() or not (tree / "containers").is_dir():
        raise InputError(f"{tree}: is no source tree of axoloci (no folders tasks, containers)")
    folders = {
        f"src/axoloci.tasks.{name}/{CONTAINER}/": tree / "containers" / name,
        f"src/axoloci.tasks.{name}/": tree / "tasks" / name,
        "tests/test_": tree / "tests" / name,  # what all tests share, the tree has
    }
    texts = {}
    for path, text in _filled(_words(name, f"axoloci.tasks.{name}")):
        inside = next((folder for start, folder in folders.items() if path.startswith(start)), None)
        if inside is not None:
            texts[inside / path.rpartition("/")[2]] = text
    _write(texts, list(folders.values()))
    return list(folders.values())


def _words(name: str, package: str) -> dict[str, str]:
    """What is filled in: in BIDS a label has no hyphens."""
    task = "".join(word.capitalize() for word in ("measure", *name.split("-")))
    label = name.replace("-", "")
    return {"STEP_NAME": name, "STEP_PACKAGE": package, "STEP_LABEL": label, "STEP_TASK": task}


def _filled(words: dict[str, str]) -> Iterator[tuple[str, str]]:
    """Path and text of each file of the template."""
    for path, file in _files(files("axoloci").joinpath("step_template")):
        text = file.read_text(encoding="utf-8")
        for word, value in words.items():
            path, text = path.replace(word, value), text.replace(word, value)
        yield path, text


def _files(folder: Traversable, place: str = "") -> Iterator[tuple[str, Traversable]]:
    for entry in folder.iterdir():
        if entry.is_file():
            yield place + entry.name, entry
        elif entry.name != "__pycache__":  # pip compiles what it installs
            yield from _files(entry, f"{place}{entry.name}/")


def _write(texts: dict[Path, str], folders: list[Path]) -> None:
    """Write files into new folders."""
    for folder in folders:
        if folder.exists():
            raise InputError(f"{folder}: is there already, and nothing is overwritten")
    for path, text in texts.items():
        write_text(path, text)

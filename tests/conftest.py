"""Fixtures that all tests share: where the test data lie, where outside programs are."""

from __future__ import annotations

import importlib
import os
import shlex
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import ROOT

from axoloci.engines import Engine, find_engine
from axoloci.errors import InputError
from axoloci.images import locked_images
from axoloci.io.nifti import write_nifti

os.environ["NO_ET"] = "1"  # Pydra must not call home

IN_CI = os.environ.get("CI", "") not in ("", "0", "false")


def _missing(what: str, mend: str) -> None:
    """Skip with the reason and its cure; in CI nothing may be missing, so fail there."""
    if IN_CI:
        pytest.fail(f"{what}; {mend}")
    pytest.skip(f"{what}; {mend}")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whole studies first: they take the longest, and begun last, one core would wait for them."""
    items.sort(key=lambda item: "workflows" not in item.path.parts)


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Folder of real scans, templates and genotypes, outside the repository."""
    path = Path(os.environ.get("AXOLOCI_TEST_DATA", ROOT.parent / "shared" / "data"))
    if not path.is_dir():
        _missing(f"no test data at {path}", "set AXOLOCI_TEST_DATA to their folder")
    return path


@pytest.fixture(scope="session")
def tool() -> Callable[[str], str]:
    """`tool("plink2")`: the path of an outside program, or a skip that says how to install it."""

    def find(name: str) -> str:
        path = shutil.which(name)
        if path is None:
            _missing(f"{name} is not installed", "install it by: sudo make system")
        assert path is not None
        return path

    return find


@pytest.fixture(scope="session")
def engine_of() -> Callable[[str], Engine]:
    """`engine_of("docker")`: an engine of that kind that has all images, or a skip."""

    @cache
    def find(kind: str) -> Engine:
        try:
            engine = find_engine(kind)
            for image in locked_images().values():
                engine.locate(image)
        except InputError as error:
            _missing(str(error), "engines: sudo make system; images: make images")
        return engine

    return find


@pytest.fixture
def parsed() -> Callable[[Any], dict[str, Any]]:
    """`parsed(task)`: what the step's command understands of a Pydra task's command line."""

    def parse(task: Any) -> dict[str, Any]:
        program, subcommand, *arguments = shlex.split(task.cmdline)
        step = program.removeprefix("axoloci-")
        command = importlib.import_module(f"axoloci.tasks.{step}.cli").main.commands[subcommand]
        return dict(command.make_context(subcommand, arguments).params)

    return parse


@pytest.fixture
def nifti(tmp_path: Path) -> Callable[..., Path]:
    """`nifti(name, *shape)`: a small image of zeros."""

    def make(name: str, *shape: int) -> Path:
        write_nifti(tmp_path / name, np.zeros(shape, np.float32), np.eye(4))
        return tmp_path / name

    return make

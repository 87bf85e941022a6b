"""Examples in docstrings are true."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import axoloci

MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(axoloci.__path__, "axoloci.")
    if not module.ispkg and ".containers." not in module.name
)


@pytest.mark.parametrize("name", MODULES)
def test_docstrings__examples_are_true(name: str) -> None:
    assert doctest.testmod(importlib.import_module(name)).failed == 0

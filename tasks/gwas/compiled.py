"""Functions that numba compiles."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
from numba.core import event

log = logging.getLogger("axoloci")

Function = TypeVar("Function", bound=Callable[..., Any])


class _Announcement(event.Listener):
    """Says once a process that functions of axoloci are compiled, for it takes seconds."""

    def __init__(self) -> None:
        self._is_made = False

    def on_start(self, event: event.Event) -> None:
        """A function is compiled, which lies on no disk yet."""
        dispatcher = event.data["dispatcher"]
        if self._is_made or not dispatcher.py_func.__module__.startswith(f"{__package__}."):
            return
        self._is_made = True
        folder = dispatcher.stats.cache_path
        log.info(
            "compiling for this machine, about 10 s: %s",
            f"kept in {folder}"
            if folder
            else "for this run alone, unless NUMBA_CACHE_DIR names a folder to keep it in",
        )

    def on_end(self, event: event.Event) -> None:
        """It is compiled."""


event.register("numba:compile", _Announcement())  # type: ignore[no-untyped-call]


def compiled(function: Function) -> Function:
    """Compile by numba without the GIL; kept on disk where a folder for that can be written."""
    options: dict[str, Any] = {"nogil": True, "fastmath": {"contract", "reassoc", "nsz"}}
    try:
        return cast(Function, numba.njit(cache=True, **options)(function))
    except RuntimeError:  # no folder for the cache: a read-only image without a home
        return cast(Function, numba.njit(**options)(function))

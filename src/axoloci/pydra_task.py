"""What the Pydra tasks of all steps share: where outputs lie, and what enters the cache key."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

IMAGE_HELP = (
    "identity of the code that runs the step: the image's digest, or that of the native code; "
    "it enters the cache key and is not part of the command line"
)
OUT_HELP = "folder for the outputs; without it the job's own folder in the cache"
PREFIX_HELP = "BIDS name of the scan without its suffix, such as sub-01_run-1"


def made(template: str) -> Callable[[dict[str, Any], Path], Path]:
    """The path of an output, from the values of a task's inputs.

    Parameters
    ----------
    template
        Path with input names in braces, such as "{out_dir}/{prefix}_dwi.nii.gz"; a relative one
        starts at the job's own folder.
    """

    def resolve(inputs: dict[str, Any], cache_dir: Path) -> Path:
        return Path(cache_dir, template.format_map(inputs))

    return resolve


def made_with(template: str, *names: str) -> Callable[[dict[str, Any], Path], Path | None]:
    """As `made`, of an output that is written only where one of some inputs is given.

    A file of that name may be there without them, of another run.
    """
    path = made(template)

    def resolve(inputs: dict[str, Any], cache_dir: Path) -> Path | None:
        given = any(inputs[name] is not None and inputs[name] != [] for name in names)
        return path(inputs, cache_dir) if given else None

    return resolve


def if_made(template: str) -> Callable[[dict[str, Any], Path], Path | None]:
    """As `made`, of an output that need not be there."""
    path = made(template)

    def resolve(inputs: dict[str, Any], cache_dir: Path) -> Path | None:
        there = path(inputs, cache_dir)
        return there if there.exists() else None

    return resolve

"""Build hook: a tree whose import links are broken fails instead of giving an empty wheel."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

LINKED = {
    "tasks": "*/step.toml",
    "workflows": "*.py",
    "containers": "*/requirements.in",
}


class LinkedFolders(BuildHookInterface):  # type: ignore[type-arg]
    """Checks that the linked folders of the package are really there."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called by the builder before a wheel or source distribution is made."""
        for name, pattern in LINKED.items():
            link = Path(self.root, "src", "axoloci", name)
            if not link.is_dir() or not any(link.glob(pattern)):
                raise FileNotFoundError(
                    f"{link} does not lead to the folder {name}/ (no {pattern} in it): this source "
                    "tree lost its links, as a zip archive or a checkout without symbolic links "
                    "does. Clone it with git, or use `git config core.symlinks true`."
                )

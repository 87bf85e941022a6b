"""Memory that a process may still take."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path


def free_memory(root: Path = Path("/")) -> int:
    """Bytes that the process may still take: of the machine's, and of its control groups'.

    Parameters
    ----------
    root
        Of the file system.
    """
    lines = (root / "proc/meminfo").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in lines)
    return min(int(fields["MemAvailable"].split()[0]) * 1024, *_left_by_groups(root), 2**63)


def _left_by_groups(root: Path) -> Iterator[int]:
    """What each control group of the process leaves of its limit, in version 1 and 2."""
    names = root / "proc/self/cgroup"
    for line in names.read_text().splitlines() if names.is_file() else ():
        _, controllers, name = line.split(":", 2)
        if controllers == "":
            mount, files = "", ("memory.max", "memory.current", "")
        elif "memory" in controllers.split(","):
            mount = "memory"
            files = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_")
        else:
            continue
        top = root / "sys/fs/cgroup" / mount
        own = top / name.strip("/")
        for folder in (own, *own.parents):  # a limit holds for all groups below
            if not folder.is_relative_to(top):
                break
            left = _left(folder, *files)
            if left is not None:
                yield left


def _left(folder: Path, limit: str, used: str, prefix: str) -> int | None:
    """Limit less use, in which files that are cached do not count; None if nothing is known."""
    try:
        most, taken = (folder / limit).read_text().strip(), int((folder / used).read_text())
        lines = (folder / "memory.stat").read_text().splitlines()
        stat = dict(line.split() for line in lines)
        cached = sum(int(stat.get(f"{prefix}{kind}_file", 0)) for kind in ("inactive", "active"))
        return None if most == "max" else max(0, int(most) - taken + cached)
    except (OSError, ValueError):  # in a container the groups above it are not there
        return None

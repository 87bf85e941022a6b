"""How a measured result is written down: with its command, machine and date."""

from __future__ import annotations

import datetime
import os
import platform
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from axoloci import __version__

RESULTS = Path(__file__).parent / "results"


def machine() -> str:
    """Processor, cores, memory and system in one line."""
    processor = re.search(r"model name\s*:\s*(.*)", Path("/proc/cpuinfo").read_text())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{processor[1] if processor else platform.processor()}, "
        f"{len(os.sched_getaffinity(0))} cores, {memory:.0f} GiB, "
        f"{platform.system()} {platform.machine()}, Python {platform.python_version()}"
    )


def markdown_table(rows: Sequence[Mapping[str, object]]) -> str:
    """Rows as a Markdown table; columns are the keys of the first."""
    lines = [list(rows[0]), ["---"] * len(rows[0]), *(list(row.values()) for row in rows)]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines) + "\n"


def write_result(name: str, title: str, body: str) -> Path:
    """Write `results/<name>.md`."""
    program = Path(sys.argv[0])
    module = "benchmarks" if program.stem == "__main__" else f"benchmarks.{program.stem}"
    command = shlex.join(["python", "-m", module, *sys.argv[1:]])
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.md"
    path.write_text(
        f"# {title}\n\n"
        f"- command: `{command}` (axoloci {__version__})\n"
        f"- machine: {machine()}\n"
        f"- date: {datetime.date.today().isoformat()}\n\n{body}"
    )
    print(path.read_text())
    return path

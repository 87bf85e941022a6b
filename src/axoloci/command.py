"""What every `axoloci` command line shares: errors without tracebacks, logging, threads."""

from __future__ import annotations

import atexit
import importlib
import importlib.metadata
import logging
import os
import platform
import resource
import shlex
import signal
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from resource import RUSAGE_CHILDREN, RUSAGE_SELF
from typing import Any, TypeVar

import click

from axoloci import __version__
from axoloci.errors import InputError
from axoloci.io.files import DISK_IS_FULL, sha256, write_json

log = logging.getLogger("axoloci")

Item = TypeVar("Item")

HELP_WIDTH = 76  # of click's 80 columns, without its indents

TOLD_EVERY = 10.0  # seconds between two lines of a log on how far work is

DRIVEN = "AXOLOCI_DRIVEN"
"""Environment variable of a command that a driver runs in a container, where it cannot see it.

It names the file for the command's CPU seconds and peak memory. The driver holds the other end of
standard input, so that its end is that of the driver.
"""


class StepGroup(click.Group):
    """A command group that turns `InputError` into one readable line and exit code 1."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the chosen command; an `InputError` becomes click's own error message."""
        logging.basicConfig(
            stream=sys.stderr,
            level=logging.WARNING,
            format="%(asctime)s %(message)s",
            datefmt="%H:%M:%S",
        )
        log.setLevel(logging.INFO)  # libraries only when they warn
        if DRIVEN in os.environ:
            threading.Thread(target=_end_with_driver, daemon=True).start()
            atexit.register(_write_usage, Path(os.environ[DRIVEN]))
        try:
            return super().invoke(ctx)
        except InputError as error:
            raise click.ClickException(str(error)) from error
        except BrokenPipeError:  # as of `| head`: end as every program does, by the signal
            signal.signal(signal.SIGPIPE, signal.SIG_DFL)
            signal.raise_signal(signal.SIGPIPE)
        except OSError as error:  # such as a full disk
            if error.filename is None and error.errno is None:
                raise
            where = f"{error.filename}: " if error.filename else ""
            mend = "; make room, and run the same command again"
            raise click.ClickException(
                f"{where}{error.strerror or error}{mend if error.errno in DISK_IS_FULL else ''}"
            ) from error


def columns_help(**tables: Mapping[str, str]) -> str:
    """What the columns of tables mean, for the end of a command's help.

    Parameters
    ----------
    tables
        By the name of the option that names the file: each column, and what it holds in which unit.

    Returns
    -------
    str
        For `click.command(epilog=...)`; the first line of each keeps click from joining the rows.

    >>> print(columns_help(out={"n": "People."}).replace(chr(8), "<b>"))
    <b>
    Columns of --out:
      n  People.
    """
    texts = []
    for name, columns in tables.items():
        wide = max(map(len, columns)) + 4
        rows = [
            textwrap.fill(
                meaning,
                HELP_WIDTH,
                initial_indent=f"  {column}".ljust(wide),
                subsequent_indent=" " * wide,
            )
            for column, meaning in columns.items()
        ]
        texts.append("\n".join(["\b", f"Columns of --{name}:", *rows]))
    return "\n\n".join(texts)


def _end_with_driver() -> None:
    """End this process when the driver has ended: engines leave its container running."""
    while os.read(0, 4096):  # not sys.stdin, whose lock Python takes when it ends
        pass
    os._exit(1)


def _write_usage(path: Path) -> None:
    """Write what this process has used: outside of its container nobody can measure it."""
    own, children = (resource.getrusage(who) for who in (RUSAGE_SELF, RUSAGE_CHILDREN))
    seconds = sum(usage.ru_utime + usage.ru_stime for usage in (own, children))
    peak = max(own.ru_maxrss, children.ru_maxrss) / 1024
    write_json(path, {"cpu_seconds": seconds, "max_rss_mb": peak})


def command_group(program: str, summary: str) -> StepGroup:
    """The click group behind a command.

    Parameters
    ----------
    program
        Name of the command.
    summary
        One sentence for `--help`.
    """
    group = StepGroup(
        name=program,
        help=summary,
        context_settings={"help_option_names": ["-h", "--help"], "show_default": True},
    )
    return click.version_option(__version__, prog_name=program)(group)


def step_group(module: str, summary: str) -> StepGroup:
    """The click group behind the command `axoloci-<step>` of a step, named as its package.

    The step of the package `axoloci_my_step` is `my-step`.

    Its `--self-test` runs `self_test()` of the module of that name beside the command's, which
    raises `AssertionError` unless the step's computation comes to what is known.

    Parameters
    ----------
    module
        `__name__` of the module that defines the command.
    summary
        One sentence for `--help`.
    """
    package = module.rpartition(".")[0]
    name = package.rpartition(".")[2].removeprefix("axoloci_").replace("_", "-")
    group = command_group(f"axoloci-{name}", summary)

    def run(context: click.Context, _: click.Parameter, wanted: bool) -> None:
        if not wanted or context.resilient_parsing:
            return
        try:
            importlib.import_module(f"{package}.self_test").self_test()
        except AssertionError as error:
            raise click.ClickException(f"self-test failed: {error}") from error
        click.echo(f"axoloci-{name}: self-test passed")
        for library, version in loaded_versions().items():
            click.echo(f"{library} {version}")
        context.exit()

    return click.option(
        "--self-test",
        is_flag=True,
        is_eager=True,
        expose_value=False,
        callback=run,
        help="Compute on tiny data with a known result, show versions, and exit.",
    )(group)


prefix_option = click.option(
    "--prefix",
    help="First part of all names, such as sub-01_ses-1; taken from the image's name if not given.",
)
"""Of commands that make several files of one scan (`axoloci.io.nifti.scan_prefix`)."""


def loaded_versions() -> dict[str, str]:
    """Versions of axoloci, Python, and the libraries that are loaded now."""
    modules = {name.partition(".")[0] for name in sys.modules}
    packages = importlib.metadata.packages_distributions()
    libraries = {library for name in modules for library in packages.get(name, ())}
    return {
        "axoloci": __version__,
        "Python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in sorted(libraries - {"axoloci"})},
    }


def progress(items: Iterable[Item], what: str, total: int) -> Iterator[Item]:
    """Go through items with a bar on a terminal's stderr, a log line every ten seconds elsewhere.

    Parameters
    ----------
    items
        What is worked on.
    what
        Name of the work.
    total
        Number of items.
    """
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import track

        yield from track(items, description=what, total=total, console=Console(stderr=True))
        return
    last = time.monotonic()
    for done, item in enumerate(items, start=1):
        yield item
        if time.monotonic() - last > TOLD_EVERY:
            last = time.monotonic()
            log.info("%s: %d of %d", what, done, total)


def tally(what: str) -> Callable[[int], None]:
    """Count work whose amount nobody knows before: the log tells it every ten seconds.

    Parameters
    ----------
    what
        Is counted.

    Returns
    -------
    Callable
        To be told how much was done since the last call.
    """
    last, done = time.monotonic(), 0

    def add(more: int) -> None:
        nonlocal last, done
        done += more
        if time.monotonic() - last > TOLD_EVERY:
            last = time.monotonic()
            log.info("%s: %d", what, done)

    return add


def provenance(inputs: Sequence[Path]) -> dict[str, Any]:
    """What made an output: program, command, inputs; for the JSON beside it.

    Files go by their names and the output folder is left out: equal inputs give equal bytes
    wherever they lie.

    Parameters
    ----------
    inputs
        Files that the running command has read.

    Returns
    -------
    fields
        `Software` (Name, Version, Code: the container image, or ""), `Command` (the options that
        were given), `Sources` (Name and SHA256 of each input).
    """
    context = click.get_current_context()
    command = [str(context.find_root().command.name), str(context.command.name)]
    for option in context.command.params:
        value = context.params.get(str(option.name))
        source = context.get_parameter_source(str(option.name))
        is_folder = isinstance(option.type, click.Path) and not option.type.file_okay
        if source is None or source.name.startswith("DEFAULT") or is_folder:
            continue
        if value is not False:
            command.append(option.opts[0])
        if not isinstance(value, bool):
            command.append(value.name if isinstance(value, Path) else str(value))
    return {
        "Software": {
            "Name": "axoloci",
            "Version": __version__,
            "Code": os.environ.get("AXOLOCI_IMAGE", ""),
        },
        "Command": shlex.join(command),
        "Sources": [{"Name": path.name, "SHA256": sha256(path)} for path in inputs],
    }

"""What every `axoloci` command line shares: errors without tracebacks, logging, threads."""

from __future__ import annotations

import logging
import sys
from typing import Any

import click

from axoloci import __version__
from axoloci.errors import InputError

log = logging.getLogger("axoloci")


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
        try:
            return super().invoke(ctx)
        except InputError as error:
            raise click.ClickException(str(error)) from error


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


def step_group(name: str, summary: str) -> StepGroup:
    """The click group behind the command `axoloci-<name>` of a step, named as its folder."""
    return command_group(f"axoloci-{name}", summary)

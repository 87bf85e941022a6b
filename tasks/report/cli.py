"""`axoloci-report`: the study on one page."""

from __future__ import annotations

import logging
from pathlib import Path

import click

from axoloci.command import step_group
from axoloci.io.files import write_text
from axoloci.tasks.report.inputs import read_inputs
from axoloci.tasks.report.page import make_page

log = logging.getLogger("axoloci")

main = step_group(__name__, "One page of what went into a study, what failed and what was found.")


@main.command()
@click.option(
    "--inputs",
    required=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="JSON that names what to show; only `title` must be there.",
)
@click.option(
    "--out", type=click.Path(path_type=Path), default="report.html", help="Self-contained HTML."
)
@click.option(
    "--shareable",
    is_flag=True,
    help="Show group results only: no ids, no maps or numbers of single people, no paths, and "
    "counts below 5 as <5.",
)
def make(inputs: Path, out: Path, shareable: bool) -> None:
    """Make the page. It needs no network, and what is not there yet is said to be missing."""
    html = make_page(read_inputs(inputs), shareable=shareable)
    write_text(out, html)
    log.info("%s: %.1f MB", out, len(html.encode()) / 1e6)


if __name__ == "__main__":
    main()

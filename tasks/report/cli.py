"""`axoloci-report`: pages of a scan, of the quality of all, and of the study."""

from __future__ import annotations

import logging
from pathlib import Path

import click

from axoloci.command import step_group
from axoloci.io.files import write_text

log = logging.getLogger("axoloci")

main = step_group(
    __name__, "Pages: one scan, the quality of all, what went into a study and what was found."
)


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
    from axoloci.tasks.report.inputs import read_inputs
    from axoloci.tasks.report.page import make_page

    html = make_page(read_inputs(inputs), shareable=shareable)
    write_text(out, html)
    log.info("%s: %.1f MB", out, len(html.encode()) / 1e6)


@main.command()
@click.option(
    "--folder",
    required=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Where the derivatives of the scan lie, and the page will.",
)
@click.option("--prefix", required=True, help="How their names begin, such as sub-01_ses-1.")
@click.option(
    "--template",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="FA template to show beside the registered map.",
)
@click.option(
    "--acquisition", multiple=True, metavar="KEY=VALUE", help="Scanner and sequence, to be shown."
)
def scan(folder: Path, prefix: str, template: Path | None, acquisition: tuple[str, ...]) -> None:
    """Make the page of one scan, PREFIX_desc-qc_dwi.html, of what the steps have left of it.

    It shows what was done, motion, slices, signal to noise ratio, brain mask, maps and registration
    as far as they are there, and the rules that the scan breaks.
    """
    from axoloci.tasks.report.scan_page import make_scan_page

    html = make_scan_page(folder, prefix, template=template, acquisition=acquisition)
    write_text(folder / f"{prefix}_desc-qc_dwi.html", html)


@main.command()
@click.option(
    "--qc",
    required=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Table of quality figures, one row a scan (qc.tsv of a study).",
)
@click.option(
    "--scans",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Table of scans, which says what is left out of the group (scans.tsv of a study).",
)
@click.option("--pages", is_flag=True, help="Link the pages of the scans, which lie beside it.")
@click.option("--title", default="Study", help="Name of the study.")
@click.option(
    "--out", type=click.Path(path_type=Path), default="qc.html", help="Self-contained HTML."
)
def group(qc: Path, scans: Path | None, pages: bool, title: str, out: Path) -> None:
    """Make the page of all scans: which rules each breaks, distributions, and the rules."""
    from axoloci.tasks.report.qc_page import make_qc_page

    html = make_qc_page(qc, scans=scans, pages=pages, title=title)
    write_text(out, html)
    log.info("%s: %.1f MB", out, len(html.encode()) / 1e6)


if __name__ == "__main__":
    main()

"""The jobs of a study as a table and as a picture in time."""

from __future__ import annotations

import html
import io
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from axoloci.errors import InputError
from axoloci.io.files import whole_file, write_text
from axoloci.workflows.records import GROUP

GAP = 0.04
"""Share of the working time from which on an idle time is cut out of the picture."""

PAUSE = 30.0
"""Seconds between two jobs of a scan up to which they are drawn side by side."""

SLACK = 0.5
"""Seconds by which jobs of one lane may seem to overlap: starts and ends have two clocks."""

# Steps of a scan in the order of the work, then the jobs of the cohort.
COLOURS = {
    "preprocess": "#3b5875",
    "dti": "#2f7f79",
    "normalize": "#93a9bf",
    "pack": "#b08d57",
    "train": "#7a4f8f",
    "encode": "#b79ac8",
    "pca": "#8a9a5b",
    "samples": "#c3cfa0",
    "gwas": "#d98c3f",
    "export": "#f0d9b5",
    "joint": "#e6bf6a",
    "loci": "#8c5a3c",
    "signals": "#a9746e",
    "heritability": "#5b6fa8",
    "ldsc": "#8796c4",
    "linearise": "#d2c1de",
    "voxels": "#4f9d8f",
    "voxelh2": "#9fc7bf",
    "replicate": "#5f7f3f",
    "report": "#66717d",
}
OTHER = "#b5bcc4"
FORMATS = (".svg", ".png", ".html")


def pack_lanes(
    start: NDArray[np.float64], end: NDArray[np.float64], owner: Sequence[str]
) -> NDArray[np.int64]:
    """Put jobs that overlap in time into different lanes, with few lanes.

    Jobs that an owner has without a pause lie side by side in one lane.

    Parameters
    ----------
    start, end
        [float64, shape: (n_jobs,)] Times, seconds; `start` ascends.
    owner
        [length: n_jobs] Whom each job belongs to, such as a scan.

    Returns
    -------
    lane
        [int64, shape: (n_jobs,)] From 0.

    Examples
    --------
    >>> pack_lanes(np.array([0.0, 0.0, 1.0, 1.0]), np.array([1.0, 1.0, 2.0, 2.0]), "abba").tolist()
    [0, 1, 1, 0]
    """
    block = np.zeros(len(start), dtype=np.int64)  # of each job
    spans: list[list[float]] = []  # start and end of each block
    last: dict[str, int] = {}
    for job, (begins, ends, who) in enumerate(zip(start, end, owner, strict=True)):
        known = last.get(who)
        if known is None or begins - spans[known][1] > PAUSE:
            known = last[who] = len(spans)
            spans.append([begins, ends])
        spans[known][1] = max(ends, spans[known][1])
        block[job] = known
    free: list[float] = []  # since when each lane is free
    lane = np.zeros(len(spans), dtype=np.int64)
    for k, (begins, ends) in enumerate(spans):
        lane[k] = next((n for n, since in enumerate(free) if since <= begins + SLACK), len(free))
        if lane[k] == len(free):
            free.append(0.0)
        free[lane[k]] = ends
    return lane[block]


def without_idle(
    start: NDArray[np.float64], end: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], list[tuple[float, float]]]:
    """Times with the long idle times cut out, as between a run and its resumption.

    Parameters
    ----------
    start, end
        [float64, shape: (n_jobs,)] Seconds; `start` ascends.

    Returns
    -------
    start, end
        [float64, shape: (n_jobs,)] Seconds from the first start, without the idle times.
    cuts
        Place and length of each idle time that was cut out, seconds.

    Examples
    --------
    >>> start, end = np.array([5.0, 1000.0]), np.array([15.0, 1010.0])
    >>> begins, ends, cuts = without_idle(start, end)
    >>> begins.tolist(), ends.tolist(), cuts
    ([0.0, 10.0], [10.0, 20.0], [(10.0, 985.0)])
    """
    before = np.maximum.accumulate(end)
    idle = np.concatenate([[0.0], np.maximum(0.0, start[1:] - before[:-1])])  # before each job
    worked = float(before[-1] - start[0] - idle.sum())
    cut = np.where(idle > GAP * worked, idle, 0.0)
    shift = start[0] + np.cumsum(cut)
    places = np.flatnonzero(cut)
    cuts = [(float(start[k] - shift[k]), float(cut[k])) for k in places]
    return start - shift, end - shift, cuts


def timeline(rows: Sequence[Mapping[str, Any]]) -> Any:
    """Matplotlib's figure of the jobs in time: scans packed into lanes, the cohort's jobs above.

    Parameters
    ----------
    rows
        From `records.read_jobs`. Jobs without an end are left out.

    Raises
    ------
    InputError
        Matplotlib is not installed, or no job has ended.
    """
    try:
        from matplotlib.collections import PolyCollection
        from matplotlib.patches import Patch

        from axoloci.tasks.report.document import ACCENT, INK, MUTED
        from axoloci.tasks.report.figures import empty_figure
    except ImportError as error:
        raise InputError("the timeline needs matplotlib: pip install 'axoloci[report]'") from error

    ended = [row for row in rows if row["seconds"] != "" and row["started"]]
    if not ended:
        raise InputError("no job has ended yet: there is nothing to draw")
    begins = np.array([datetime.fromisoformat(row["started"]).timestamp() for row in ended])
    order = np.argsort(begins, kind="stable")
    ended = [ended[k] for k in order]
    begins = begins[order]
    ends = begins + np.array([float(row["seconds"]) for row in ended])
    start, end, cuts = without_idle(begins, ends)
    of_group = np.array([row["scan"] == GROUP for row in ended])
    lane = np.zeros(len(ended), dtype=np.int64)
    n_lanes = {}
    for group in (False, True):
        here = np.flatnonzero(of_group == group)
        names = [f"{ended[k]['cohort']}/{ended[k]['scan']}" for k in here]
        lane[here] = pack_lanes(start[here], end[here], names)
        n_lanes[group] = int(lane[here].max(initial=-1)) + 1
    room = 1 if n_lanes[False] and n_lanes[True] else 0  # between scans and cohort
    lane[of_group] += n_lanes[False] + room
    n_all = n_lanes[False] + room + n_lanes[True]

    total = float(end.max())
    unit, name = next(
        ((size, name) for size, name in ((86400, "days"), (3600, "hours"), (60, "minutes"))
         if total > 2 * size),
        (1, "seconds"),
    )  # fmt: skip
    width = np.maximum(end - start, total / 3000) / unit  # a short job is seen as a line
    left, low, high = start / unit, lane + 0.08, lane + 0.92
    corners = np.stack(
        [
            np.stack([left, low], 1),
            np.stack([left, high], 1),
            np.stack([left + width, high], 1),
            np.stack([left + width, low], 1),
        ],
        axis=1,
    )
    assert corners.shape == (len(ended), 4, 2)

    figure = empty_figure(11, 1.6 + min(9.0, max(1.4, 0.26 * n_all)))
    axes = figure.subplots()
    steps = np.array([_kind(row["step"]) for row in ended])
    failed = np.array([row["exit_code"] != 0 for row in ended])
    many = len(ended) > 2000  # as pixels then: an SVG of 10,000 shapes is slow to show
    keys = []
    for step in [*(s for s in COLOURS if s in steps), *sorted(set(steps) - COLOURS.keys())]:
        here = steps == step
        colour = COLOURS.get(str(step), OTHER)
        axes.add_collection(
            PolyCollection(list(corners[here & ~failed]), facecolor=colour, linewidth=0,
                           rasterized=many)
        )  # fmt: skip
        spent = sum(float(row["cpu_seconds"] or 0) for row, own in zip(ended, here, strict=True)
                    if own)  # fmt: skip
        keys.append(Patch(color=colour, label=f"{step} ×{here.sum():,}, {_duration(spent)} CPU"))
    if failed.any():
        axes.add_collection(
            PolyCollection(list(corners[failed]), facecolor=ACCENT, linewidth=0, rasterized=many,
                           zorder=3)
        )  # fmt: skip
        keys.append(Patch(color=ACCENT, label=f"failed ×{failed.sum():,}"))
    labelled = -total
    for place, length in cuts:
        axes.axvline(place / unit, color=MUTED, linewidth=0.8, linestyle=(0, (2, 2)))
        if place - labelled < 0.08 * total:  # labels would lie over each other
            continue
        labelled = place
        axes.text(
            place / unit, n_all, f" {_duration(length)} idle", color=MUTED, fontsize=8, va="bottom"
        )
    axes.set_xlim(0, 1.005 * total / unit)
    axes.set_ylim(0, n_all)
    bands = [(0, n_lanes[False], "scans"), (n_lanes[False] + room, n_lanes[True], "cohort")]
    shown = [(low + n / 2, name) for low, n, name in bands if n]
    axes.set_yticks([y for y, _ in shown], [text for _, text in shown])
    axes.tick_params(axis="y", length=0, labelcolor=INK)
    axes.spines["left"].set_visible(False)
    left_out = ", idle times left out" if cuts else ""
    axes.set_xlabel(f"Time from the first job ({name}{left_out})")
    figure.legend(handles=keys, loc="outside lower center", ncols=4, fontsize=8.5)
    return figure


def _kind(step: str) -> str:
    """The name under which a job is drawn: exports are alike, and so are pages."""
    return "report" if step.startswith("report") else step.partition("_")[0]


def _duration(seconds: float) -> str:
    """A length of time in its largest unit."""
    for size, name in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.1f} {name}"
    return f"{seconds:.0f} s"


def write_timeline(rows: Sequence[Mapping[str, Any]], path: Path, title: str) -> None:
    """Write the picture of the jobs as SVG, PNG or a page (HTML) with the figures of each step.

    Raises
    ------
    InputError
        Another ending than `FORMATS`, matplotlib is not installed, or no job has ended.
    """
    if path.suffix not in FORMATS:
        raise InputError(f"{path}: the timeline is written as {', '.join(FORMATS)}")
    figure = timeline(rows)
    import matplotlib as mpl

    with mpl.rc_context({"svg.hashsalt": "axoloci"}):  # equal jobs give equal bytes
        if path.suffix != ".html":
            with whole_file(path) as temporary:
                metadata = {"Date": None} if path.suffix == ".svg" else None
                figure.savefig(temporary, dpi=150, metadata=metadata)
            return
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", dpi=150, metadata={"Date": None})
    picture = buffer.getvalue()
    picture = picture[picture.index("<svg") :]
    write_text(path, _page(rows, picture, title))


def _page(rows: Sequence[Mapping[str, Any]], picture: str, title: str) -> str:
    """The picture and a table of the steps, on one page without outside parts."""
    steps: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        steps.setdefault(_kind(row["step"]), []).append(row)
    known = [*(s for s in COLOURS if s in steps), *sorted(steps.keys() - COLOURS.keys())]
    lines = []
    for step in known:
        ended = [row for row in steps[step] if row["seconds"] != ""]
        seconds = [float(row["seconds"]) for row in ended] or [0.0]
        memory = max([float(row["max_rss_mb"]) for row in ended] or [0.0])
        figures = (
            f"{len(steps[step]):,}",
            f"{sum(row['exit_code'] not in (0, '') for row in steps[step]):,}",
            f"{np.median(seconds):,.1f}",
            f"{max(seconds):,.1f}",
            f"{sum(float(row['cpu_seconds']) for row in ended) / 3600:,.2f}",
            f"{memory:,.0f}",
        )
        cells = "".join(f"<td>{text}</td>" for text in figures)
        lines.append(f"<tr><th>{html.escape(step)}</th>{cells}</tr>")
    heads = ("jobs", "failed", "median s", "longest s", "CPU hours", "peak MB")
    head = "".join(f"<th>{text}</th>" for text in ("step", *heads))
    name = html.escape(title)
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{name}</title><style>'
        "body{font:15px/1.5 system-ui,sans-serif;color:#1f2933;max-width:1100px;margin:2rem auto;"
        "padding:0 1rem}svg{width:100%;height:auto}table{border-collapse:collapse}"
        "th,td{padding:.2rem .9rem .2rem 0;text-align:right}th:first-child{text-align:left}"
        "tr{border-bottom:1px solid #d8dde3}</style></head>"
        f"<body><h1>{name}</h1>{picture}<table><tr>{head}</tr>{''.join(lines)}</table>"
        "</body></html>\n"
    )

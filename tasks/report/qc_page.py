"""The page of the quality of all scans of a cohort: what is flagged, and by which rules."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from axoloci.quality import (
    FEWEST,
    FIGURES,
    FRAME,
    FRAME_MARGIN,
    FRAME_WHY,
    LIMITS,
    OUTLIER_Z,
    PAIR_UNFIT,
    PAIR_WHY,
    RELATIVE,
    REVERSE,
    ROBUST,
    Flag,
    derived_figures,
    figure_of,
    is_of_shell,
    judge,
    level_of,
    number,
)
from axoloci.tasks.report import figures
from axoloci.tasks.report.document import Cell, Picture, Table, picture, plural, render
from axoloci.tasks.report.inputs import read_tsv

SIGNIFICANT = 5  # digits of a figure in the page; qc.tsv has all
RULE_SENTENCE = (
    f"Absolute limits hold for every scan; relative ones compare it with those of the same scanner "
    f"and shells, where these are {FEWEST} or more: farther than {OUTLIER_Z:g} robust standard "
    "deviations (1.4826 × median absolute deviation) from their median, and by more than a "
    "difference that matters."
)


@dataclass(frozen=True)
class Judged:
    """Quality figures of the scans of a cohort, and the rules that each breaks.

    Attributes
    ----------
    table
        As `qc.tsv` has it, with the figures that follow from others.
    names
        Figures that some scan has, in the order of `FIGURES`, then those by shell.
    flags
        One list a scan.
    """

    table: pd.DataFrame
    names: list[str]
    flags: list[list[Flag]]

    def values(self, name: str) -> NDArray[np.float64]:
        """A figure of each scan, NaN where it is missing."""
        return np.asarray(pd.to_numeric(self.table[name], errors="coerce"), dtype=np.float64)

    def flagged(self, name: str) -> NDArray[np.bool_]:
        """Scans that break a rule on a figure."""
        return np.array([any(flag.figure == name for flag in own) for own in self.flags], bool)

    def count(self, level: str | None = None) -> int:
        """Scans whose gravest flag is of a level; of any without it."""
        levels = [level_of(own) for own in self.flags]
        return sum(found is not None if level is None else found == level for found in levels)

    def histograms(self) -> Picture | None:
        """Distributions of the figures, with the flagged scans marked; none of few scans."""
        names = [name for name in self.names if np.isfinite(self.values(name)).sum() > 2]
        if len(self.table) <= 2 or not names:
            return None
        labels = [figure_of(name).label for name in names]
        return picture(
            figures.distributions(
                [self.values(name) * figure_of(name).factor for name in names],
                labels,
                [self.flagged(name) for name in names],
            ),
            f"Histograms of {', '.join(labels)}.",
            "Each figure over all scans; red marks are scans that break a rule on it.",
        )


def judged(path: Path) -> Judged:
    """Read a table of quality figures and ask the rules.

    Raises
    ------
    InputError
        It is no such table.
    """
    table = read_tsv(path, "qc")
    rows: list[dict[str, Any]] = [
        {str(key): value for key, value in row.items()} for row in table.to_dict("records")
    ]
    for row in rows:
        row |= derived_figures(row)
    for name in {key for row in rows for key in row} - set(table.columns):
        table[name] = [row.get(name) for row in rows]
    of_shells = [name for name in map(str, table) if is_of_shell(name)]
    of_shells.sort(key=lambda name: number(name.partition("_b")[2]))
    names = [
        name
        for name in (*FIGURES, *of_shells)
        if name in table and pd.to_numeric(table[name], errors="coerce").notna().any()
    ]
    return Judged(table, names, judge(rows))


@dataclass
class QcPage:
    """All that the template shows."""

    title: str
    data: str  # JSON that may stand between the tags of a script
    tiles: list[tuple[str, str, str]] = field(default_factory=list)
    sentence: str = ""
    limits: Table | None = None
    relative: Table | None = None
    picture: Picture | None = None


def make_qc_page(qc: Path, *, scans: Path | None = None, pages: bool = False, title: str) -> str:
    """The page as HTML; usable for 50,000 scans, for only the rows on the screen are drawn.

    Parameters
    ----------
    qc
        Table of quality figures.
    scans
        Table of scans, which says what of them is left out of the group.
    pages
        Whether each scan has a page, to be linked.
    title
        Name of the study.

    Raises
    ------
    InputError
        A table is not what it should be.
    """
    found = judged(qc)
    excluded: dict[str, str] = {}
    page = QcPage(title, "{}")
    n = len(found.table)
    page.tiles.append((f"{n:,}", f"{plural(n, 'scan')} with figures", ""))
    page.tiles.append((f"{found.count('exclude'):,}", "wrong by a rule", ""))
    page.tiles.append((f"{found.count('look'):,}", "to be looked at", ""))
    if scans is not None:
        table = read_tsv(scans, "scans")
        if "excluded" in table:
            told = table[table["excluded"].notna()]
            excluded = dict(zip(told["scan"], told["excluded"].astype(str), strict=True))
        by_rule = sum(reason.startswith("by rule") for reason in excluded.values())
        remark = f"{by_rule:,} by rule, {len(excluded) - by_rule:,} by the user"
        page.tiles.append((f"{len(excluded):,}", "left out of the group", remark))
        if n_failed := int((table["status"] == "failed").sum()):
            page.tiles.append((f"{n_failed:,}", "failed", "named in report.html"))
    page.sentence = RULE_SENTENCE
    page.limits, page.relative = limit_table(), relative_table()
    page.picture = found.histograms()
    page.data = _as_script(_rows_of(found, excluded, pages))
    return render("qc_page.html.jinja", page=page)


def limit_table() -> Table:
    """The absolute rules."""
    rows = [
        [
            Cell(figure_of(limit.figure).label, kind="name"),
            Cell(limit.bounds),
            Cell(limit.level, kind="flag" if limit.level == "exclude" else ""),
            Cell(limit.why, kind="text"),
            Cell(limit.source, kind="path"),
        ]
        for limit in LIMITS
    ]
    frame = "others better by {} " + f"{FRAME_MARGIN:g} SE"
    for words in (
        ("gradients' frame", frame.format("≥"), "exclude", FRAME_WHY, FRAME),
        ("gradients' frame", frame.format("<"), "look", FRAME_WHY, FRAME),
        ("distortion", PAIR_UNFIT, "look", PAIR_WHY, REVERSE),
    ):
        kinds = ("name", "", "flag" if words[2] == "exclude" else "", "text", "path")
        rows.append([Cell(text, kind=kind) for text, kind in zip(words, kinds, strict=True)])
    head = ["figure", "flagged", "level", "what it means", "of the figure: DOI"]
    return Table(head, rows, len(rows))


def relative_table() -> Table:
    """The relative rules."""
    sides = {"high": "above", "low": "below", "both": "above or below"}
    rows = [
        [
            Cell(figure_of(rule.figure).label, kind="name"),
            Cell(f"{sides[rule.side]} the median by {OUTLIER_Z:g} SD and "
                 f"{figure_of(rule.figure).factor * rule.least:g}"),
        ]
        for rule in RELATIVE
    ]  # fmt: skip
    return Table(["figure", f"to be looked at (DOI {ROBUST})"], rows, len(rows))


def _rows_of(found: Judged, excluded: dict[str, str], pages: bool) -> dict[str, Any]:
    """What the page's script draws: one list a column."""
    scanner = found.table.get("scanner")
    words = [] if scanner is None else sorted({str(one) for one in scanner.dropna()})
    code = {word: k for k, word in enumerate(words)}
    columns = []
    for name in found.names:
        told, values = figure_of(name), found.values(name)
        columns.append(
            {
                "label": told.label,
                "decimals": told.decimals,
                "values": [
                    float(f"{told.factor * value:.{SIGNIFICANT}g}") if np.isfinite(value) else None
                    for value in values
                ],
                "flagged": np.flatnonzero(found.flagged(name)).tolist(),
            }
        )
    return {
        "pages": pages,
        "scans": list(map(str, found.table["scan"])),
        "levels": [level_of(own) or "" for own in found.flags],
        "flags": {k: "; ".join(f.text for f in own) for k, own in enumerate(found.flags) if own},
        "excluded": {k: excluded[s] for k, s in enumerate(found.table["scan"]) if s in excluded},
        "scanners": words,
        "scanner": None if scanner is None else [code.get(str(one), -1) for one in scanner],
        "columns": columns,
    }


def _as_script(content: Any) -> str:
    """JSON that may stand between the tags of a script."""
    text = json.dumps(content, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.replace("<", "\\u003c").replace("\u2028", " ").replace("\u2029", " ")

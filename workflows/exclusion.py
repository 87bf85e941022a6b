"""The list of scans that are left out of the group: written by the rules, edited by the user.

Rows of the rules are written anew by each run. A row by which the user says anything else (`no`
where the rules say `yes`, a scan that they do not name, `user` in the last column) is the user's:
it is kept, and counts more than any rule.
"""

from __future__ import annotations

import csv
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from axoloci.errors import InputError, nearest, raise_all
from axoloci.io.files import write_text
from axoloci.quality import Flag, level_of

COLUMNS = ("scan", "exclude", "reason", "by")
RULE, USER = "rule", "user"
NOTHING = ("", "n/a")


@dataclass(frozen=True)
class Entry:
    """What the list says of one scan."""

    exclude: bool
    reason: str = ""
    by: str = RULE

    def __str__(self) -> str:
        return f"by {self.by}: {self.reason}" if self.reason else f"by {self.by}"


def read_exclusions(path: Path, known: Collection[str] | None = None) -> dict[str, Entry]:
    """The list, by scan; nothing if there is none.

    Parameters
    ----------
    path
        Table `scan`, `exclude` (yes or no) and, if wanted, `reason` and `by`, separated by tabs.
    known
        The study's scans, where they are known. Rows of the rules on others are passed over.

    Raises
    ------
    InputError
        No such table, unknown or repeated scans, other words than yes and no: all at once.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from error
    reader = csv.DictReader(text.splitlines(), delimiter="\t", restval="")
    columns = reader.fieldnames or ()
    if not set(COLUMNS[:2]) <= set(columns):
        raise InputError(
            f"{path}: needs the columns {', '.join(COLUMNS)}, separated by tabs; found "
            f"{', '.join(columns) or 'nothing'}. Mend it, or remove it to have it written anew"
        )
    entries: dict[str, Entry] = {}
    problems = []
    for row in reader:
        where = f"{path}, line {reader.line_num}"
        scan, exclude, reason, by = (" ".join((row.get(name) or "").split()) for name in COLUMNS)
        if not any((scan, exclude, reason, by)):
            continue
        is_rule = by.lower() == RULE and exclude.lower() == "yes"
        if not exclude and " " in scan:
            problems.append(f"{where}: '{scan}' is one field; separate the columns by tabs")
        elif exclude.lower() not in ("yes", "no"):
            problems.append(f"{where}: exclude is '{exclude}'; write yes or no")
        elif by.lower() not in (RULE, USER, *NOTHING):
            problems.append(f"{where}: by is '{by}'; write user")
        elif scan in entries:
            problems.append(f"{where}: '{scan}' is there twice; keep one row")
        elif known is None or scan in known:
            reason = "" if reason in NOTHING else reason
            entries[scan] = Entry(exclude.lower() == "yes", reason, RULE if is_rule else USER)
        elif not is_rule:  # a scan that a rule named may have gone from the data since
            problems.append(f"{where}: no scan '{scan}' in this study; {nearest(scan, known)}")
    raise_all(problems, f"{path}: the list of excluded scans has faults:")
    return entries


def updated_exclusions(
    entries: Mapping[str, Entry], flags: Mapping[str, Iterable[Flag]], *, by_rule: bool
) -> dict[str, Entry]:
    """The list after the rules were asked again: the user's rows, and those of the rules.

    Parameters
    ----------
    entries
        The list as it is.
    flags
        Of each finished scan, the rules that it breaks.
    by_rule
        Whether rules may exclude.
    """
    kept = {scan: entry for scan, entry in entries.items() if entry.by == USER}
    if by_rule:
        for scan, own in flags.items():
            wrong = [flag.text for flag in own if flag.level == level_of(own) == "exclude"]
            if wrong:
                kept.setdefault(scan, Entry(True, "; ".join(wrong)))
    return dict(sorted(kept.items()))


def write_exclusions(path: Path, entries: Mapping[str, Entry]) -> None:
    """Write the list if it says something else than before."""
    rows = [COLUMNS]
    for scan, entry in entries.items():
        reason = entry.reason.replace('"', "'")  # which tables of tabs do without
        rows.append((scan, "yes" if entry.exclude else "no", reason or "n/a", entry.by))
    text = "".join("\t".join(row) + "\n" for row in rows)
    if not path.exists() or path.read_text(encoding="utf-8-sig") != text:
        write_text(path, text)

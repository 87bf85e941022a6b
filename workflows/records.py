"""What lies in the folder of a study: its cohorts, how each scan and job stands, what each cost.

Everything here only reads, so it may be asked while a driver works.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from axoloci.errors import InputError
from axoloci.job import read_records
from axoloci.study import COHORTS, StudyPaths
from axoloci.workflows.engine import work_started
from axoloci.workflows.participants import Outcome, mark_excluded, read_rows

GROUP = "group"
"""Folder of the logs of the jobs that are not of one scan."""

COLUMNS = (
    "cohort", "scan", "step", "started", "seconds", "cpu_seconds", "max_rss_mb", "exit_code",
    "why", "code",
)  # fmt: skip
"""Of the table of jobs."""

KEPT = ("job", "log", "started", "exit_code", "reason")
"""Of a job record, what its state is told from."""

JOB_STATES = ("done", "running", "failed", "stopped", "not run")


@dataclass(frozen=True)
class JobState:
    """How one job stands."""

    job: str
    status: str  # one of JOB_STATES
    reason: str = ""
    log: str = ""


@dataclass(frozen=True)
class CohortState:
    """How one cohort of a study stands.

    Attributes
    ----------
    name
        "train", "discovery" or "replication"; "" for what belongs to the whole study.
    scans
        How each scan ended or stands: "ok", "failed", "running" or "not run".
    jobs
        The jobs that are not of one scan.
    """

    name: str
    scans: tuple[Outcome, ...]
    jobs: tuple[JobState, ...]


def cohort_paths(out: Path) -> dict[str, StudyPaths]:
    """The folders of a study's cohorts by name; "" is the study's own, where they are several.

    Raises
    ------
    InputError
        Nothing of a study lies there.
    """
    several = {name: StudyPaths(out / name) for name in COHORTS if (out / name / "logs").is_dir()}
    own = StudyPaths(out)
    if not several and not (own.work.is_dir() or own.logs.is_dir()):
        raise InputError(f"{out}: not the output of a study (no folder 'work', no folder 'logs')")
    return {**several, "": own} if several else {"discovery": own}


def read_jobs(out: Path) -> list[dict[str, Any]]:
    """One row a job of a study, by the time at which it was started; `COLUMNS` are its keys.

    A record tells of a job's last run. What is not known, because the job was killed or still
    runs, is an empty text.
    """
    rows = []
    for name, paths in cohort_paths(out).items():
        for record in read_records(paths.logs):
            known = {
                "cohort": name or "study",
                "scan": Path(record["log"]).parent.name,
                "step": record.get("job", ""),
                "code": record.get("image", ""),
            }
            rows.append({key: known.get(key, record.get(key, "")) for key in COLUMNS})
    return sorted(rows, key=lambda row: (row["started"], row["cohort"], row["scan"], row["step"]))


def reasons_since(out: Path, since: str) -> list[tuple[str, str, int]]:
    """Step, reason and number of the jobs that were run since a time, in the order of the work.

    Names of scans and folders are left out of a reason, so that equal ones are counted together.
    """
    counts: Counter[tuple[str, str]] = Counter()
    for row in read_jobs(out):
        if row["started"] >= since:
            words = [word.rpartition("/")[2] for word in row["why"].split()]
            counts[row["step"], " ".join(words).replace(row["scan"], "*")] += 1
    return [(step, why, number) for (step, why), number in counts.items()]


def study_state(
    out: Path,
    scans: dict[str, list[Outcome]] | None = None,
    jobs: dict[str, list[str]] | None = None,
) -> list[CohortState]:
    """How the cohorts of a study stand now.

    Parameters
    ----------
    out
        Folder of the study.
    scans
        By cohort, what is known of each scan by `participants.read_outcomes`; without it, by the
        table and the states in the folder, which know no scan that was never begun.
    jobs
        By cohort, names of the jobs that are to be run beside those of the scans.

    Raises
    ------
    InputError
        Nothing of a study lies there, or it is another's.
    """
    work = StudyPaths(out).work
    if work.is_dir() and not os.access(work, os.R_OK | os.X_OK):
        raise InputError(
            f"{work}: no permission to read it, for it names the people; how the study stands can "
            "be told to its owner only"
        )
    begun = work_started(StudyPaths(out))
    folders = {"": StudyPaths(out)} if scans is not None else cohort_paths(out)
    if scans is not None:
        several = set(scans) != {"discovery"}
        folders = {name: StudyPaths(out / name if several else out) for name in scans}
        folders |= {"": StudyPaths(out)} if several else {}
    states = []
    for name, paths in folders.items():
        records = [
            {key: record[key] for key in KEPT if key in record}
            for record in read_records(paths.logs)
        ]
        at_work = {
            Path(record["log"]).parent.name
            for record in records
            if "exit_code" not in record and begun and record.get("started", "") >= begun
        }
        known = _outcomes(paths) if scans is None else scans.get(name, [])
        if scans is None:  # those that the first run of a study works on
            names = {outcome.scan for outcome in known}
            known += [
                Outcome(scan, scan.partition("_")[0].removeprefix("sub-"), "not run")
                for scan in sorted({Path(r["log"]).parent.name for r in records} - {GROUP} - names)
            ]
        outcomes = tuple(
            replace(outcome, status="running", reason="") if outcome.scan in at_work else outcome
            for outcome in known
        )
        of_group = [record for record in records if Path(record["log"]).parent.name == GROUP]
        own = _jobs(of_group, (jobs or {}).get(name, ()), begun)
        if outcomes or own:
            states.append(CohortState(name, outcomes, own))
    return states


def _outcomes(paths: StudyPaths) -> list[Outcome]:
    """Scans in a study's folder: the states are newer than the table, which knows all scans."""
    found: dict[str, Outcome] = {}
    if paths.scans.exists():
        for row in read_rows(paths.scans):
            values: dict[str, Any] = {
                key: "" if value == "n/a" else value for key, value in row.items()
            }
            values.pop("in_group", None)
            found[row["scan"]] = Outcome(**values)
    for file in sorted((paths.work / "scans").glob("*.json")):
        try:
            outcome = Outcome(**json.loads(file.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):  # being replaced, or damaged
            continue
        known = found.get(outcome.scan)
        # that it must be run again for its settings, only the table knows
        if known is None or known.status != "not run" or not known.reason:
            found[outcome.scan] = outcome
    return mark_excluded(list(found.values()), paths)


def _jobs(
    records: Iterable[dict[str, Any]], wanted: Sequence[str], begun: str
) -> tuple[JobState, ...]:
    """States of the jobs that are not of one scan; `begun` is empty where no one works."""
    states = {}
    for record in records:
        name, log = record.get("job", ""), record["log"]
        if "exit_code" not in record:
            now = bool(begun) and record.get("started", "") >= begun
            states[name] = JobState(name, "running" if now else "stopped", "", log)
        elif record["exit_code"] == 0:
            states[name] = JobState(name, "done", "", log)
        else:
            states[name] = JobState(name, "failed", record.get("reason", "see its log"), log)
    named = [states.pop(name, JobState(name, "not run")) for name in wanted]
    return (*named, *(states.values() if not wanted else ()))

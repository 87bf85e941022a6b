"""The whole study: participants -> group -> report."""

from __future__ import annotations

import csv
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from axoloci import __version__
from axoloci.errors import InputError
from axoloci.images import (
    StepError,
    check_environment,
    environment,
    image_identity,
    read_records,
)
from axoloci.io.files import write_json
from axoloci.scans import Scan, find_bids_scans, read_scan_table
from axoloci.study import StudyPaths, StudySettings, step_settings
from axoloci.tasks.report.task import MakeReport
from axoloci.workflows.engine import study_lock, submit
from axoloci.workflows.group import Group
from axoloci.workflows.participants import (
    Outcome,
    choose_scans,
    read_outcomes,
    run_participants,
    write_scan_tables,
    write_table,
)
from axoloci.workflows.provenance import package_versions, study_facts, write_crate

log = logging.getLogger("axoloci")

BIDS_VERSION = "1.9.0"
ID_COLUMNS = ("IID", "participant_id", "sample_id")


@dataclass(frozen=True)
class StudyResult:
    """What a run of a study leaves behind.

    Attributes
    ----------
    outcomes
        Of every scan of the study.
    attempted
        Names of the scans that this run processed, or found processed.
    scans
        Table of the outcomes.
    report
        The page; `StudyPaths.shareable` lies beside it if it was asked for.
    group_error
        Why the group stage failed; empty if it did not.
    """

    outcomes: tuple[Outcome, ...]
    attempted: frozenset[str]
    scans: Path
    report: Path
    group_error: str

    @property
    def failed(self) -> tuple[Outcome, ...]:
        """The scans that failed, each with its reason."""
        return tuple(outcome for outcome in self.outcomes if outcome.status == "failed")


def find_scans(settings: StudySettings, participants: Sequence[str] = ()) -> list[Scan]:
    """The scans that a study names, in its data set or in its table."""
    if settings.bids is not None:
        return find_bids_scans(settings.bids, participants)
    assert settings.scans is not None
    return read_scan_table(settings.scans, participants)


def check_study(settings: StudySettings, env: str, stage: str) -> None:
    """Stop before any work when an input is missing; all of them are named at once.

    Raises
    ------
    InputError
        Inputs that are missing, or an environment that is not available.
    """
    check_environment(env)
    problems = []
    if settings.genotypes is None and stage != "participants":
        problems.append("'genotypes' is missing: the group stage needs PLINK 1 genotypes")
    needed = {
        "normalize.template": settings.normalize.template,
        "covariates": settings.covariates,
        **{
            f"genotypes ({extension})": Path(f"{settings.genotypes}{extension}")
            for extension in (".bed", ".bim", ".fam")
            if settings.genotypes is not None
        },
    }
    problems += [
        f"{name}: {path} does not exist"
        for name, path in needed.items()
        if path is not None and not path.is_file()
    ]
    if problems:
        raise InputError("\n  ".join(["the study cannot start:", *problems]))


def _people_of_tables(settings: StudySettings) -> dict[Path, set[str]]:
    """Ids in the genotypes and in the covariate table, whose columns are checked."""
    people = {}
    if settings.genotypes is not None:
        fam = Path(f"{settings.genotypes}.fam")
        with open(fam, encoding="utf-8-sig") as file:
            people[fam] = {fields[1] for line in file if len(fields := line.split()) > 1}
    if settings.covariates is not None:
        with open(settings.covariates, encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file, delimiter="\t")
            columns = [name.lstrip("#") for name in rows.fieldnames or ()]
            rows.fieldnames = columns
            id_column = next((name for name in ID_COLUMNS if name in columns), None)
            if id_column is None:
                raise InputError(
                    f"{settings.covariates}: no column {' or '.join(ID_COLUMNS)}; "
                    f"found {', '.join(columns) or 'nothing'} (columns are separated by tabs)"
                )
            unknown = set(settings.gwas.covariates or ()) - set(columns)
            if unknown:
                raise InputError(
                    f"{settings.covariates}: no column {', '.join(sorted(unknown))}, "
                    f"which 'gwas.covariates' names; found {', '.join(columns)}"
                )
            people[settings.covariates] = {
                (row[id_column] or "").removeprefix("sub-") for row in rows
            }
    return people


def check_people(scans: Sequence[Scan], settings: StudySettings) -> None:
    """Stop before any work when a table shares no person with the scans.

    Raises
    ------
    InputError
        No id is shared, with examples of both; or a column of the covariates is missing.
    """
    scanned = {scan.sample_id for scan in scans}
    shared = set(scanned)
    for path, people in _people_of_tables(settings).items():
        if not scanned & people:
            raise InputError(
                f"no person is both scanned and in {path}: the scans are of "
                f"{', '.join(sorted(scanned)[:3])}, …; the file has "
                f"{', '.join(sorted(people)[:3])}, …; "
                "its IID must be the participant label without 'sub-'"
            )
        shared &= people
    log.info("%d people are scanned, %d of them are in all tables", len(scanned), len(shared))


def describe_dataset(settings: StudySettings) -> None:
    """Write `dataset_description.json`, which makes the output a BIDS derivative data set."""
    write_json(
        settings.out / "dataset_description.json",
        {
            "Name": f"axoloci: {settings.out.name}",
            "BIDSVersion": BIDS_VERSION,
            "DatasetType": "derivative",
            "GeneratedBy": [{"Name": "axoloci", "Version": __version__}],
        },
    )


def run_group(outcomes: Sequence[Outcome], settings: StudySettings, env: str, n_procs: int) -> None:
    """Run the group workflow on the people whose scans are finished.

    Raises
    ------
    InputError
        Fewer people than `min_participants`.
    StepError
        A step of the group failed.
    """
    paths = StudyPaths(settings.out)
    chosen = choose_scans(outcomes)
    if len(chosen) < settings.min_participants:
        raise InputError(
            f"{len(chosen)} people have a finished scan, and min_participants is "
            f"{settings.min_participants}: see {paths.scans}"
        )
    maps = paths.work / "maps.tsv"
    write_table(
        maps,
        [
            {
                "sample_id": outcome.sample_id,
                "path": str(paths.out / outcome.fa),
                "sha256": outcome.fa_sha256,
            }
            for outcome in chosen
        ],
    )
    paths.group.mkdir(exist_ok=True)
    # Pydra trusts its cache even when an output is gone: then all of the group is made again.
    state = paths.work / "group.json"
    sizes = json.loads(state.read_text(encoding="utf-8")) if state.exists() else {}
    lost = [
        name
        for name, size in sizes.items()
        if not (paths.group / name).is_file() or (paths.group / name).stat().st_size != size
    ]
    if lost:
        log.warning("%s is missing or not whole; the group is run again", paths.group / lost[0])
        state.unlink()
    submit(
        Group(
            maps=maps,
            genotypes=Path(f"{settings.genotypes}.bed"),
            out_dir=str(paths.group),
            work_dir=str(paths.work),
            log_dir=str(paths.logs / "group"),
            covariates=[settings.covariates] if settings.covariates else None,
            template=settings.normalize.template,
            settings=step_settings(settings),
            n_pcs=settings.gwas.n_pcs,
            export=list(settings.gwas.export),
            threads=n_procs,
            env=env,
        ),
        paths,
        rerun=bool(lost),
    )
    write_json(
        state,
        {
            str(path.relative_to(paths.group)): path.stat().st_size
            for path in sorted(paths.group.rglob("*"))
            if path.is_file()
        },
    )


def step_seconds(paths: StudyPaths) -> list[dict[str, Any]]:
    """Jobs, seconds, CPU seconds and peak memory (MB) of each step, from the job records."""
    steps: dict[str, dict[str, Any]] = {}
    for record in read_records(paths.logs):
        if "seconds" not in record:  # killed before it ended
            continue
        zeros = {"jobs": 0, "seconds": 0.0, "cpu_seconds": 0.0, "max_rss_mb": 0.0}
        row = steps.setdefault(record["job"], {"step": record["job"], **zeros})
        row["jobs"] += 1
        row["seconds"] = round(row["seconds"] + record["seconds"], 3)
        row["cpu_seconds"] = round(row["cpu_seconds"] + record["cpu_seconds"], 3)
        row["max_rss_mb"] = max(row["max_rss_mb"], record["max_rss_mb"])
    return list(steps.values())


def make_report(
    settings: StudySettings,
    scans: Sequence[Scan],
    outcomes: Sequence[Outcome],
    env: str,
    *,
    shareable: bool = False,
) -> None:
    """Make the report of whatever the study has so far.

    Parameters
    ----------
    settings
        The study.
    scans, outcomes
        Of the study, in the same order.
    env
        "native", "docker" or "singularity".
    shareable
        Make also the page without individual-level data, from the same inputs.
    """
    paths = StudyPaths(settings.out)
    seconds = paths.work / "seconds.tsv"
    write_table(seconds, step_seconds(paths))
    parts = {
        "scans": paths.scans,
        "qc": paths.qc,
        "seconds": seconds,
        "cohort": paths.group / "cohort.zarr",
        "history": paths.group / "history.tsv",
        "quality": paths.group / "quality.tsv",
        "examples": paths.group / "examples.npz",
        "joint": paths.group / "joint.parquet",
        "loci": paths.group / "loci.tsv",
    }
    inputs = paths.work / "report.json"
    write_json(
        inputs,
        {
            "title": settings.out.name,
            "out_dir": str(paths.out),
            "study_settings": settings.model_dump(mode="json", exclude_none=True),
            "versions": package_versions(env),
            "facts": study_facts(scans, outcomes, paths),
            **{name: str(path) for name, path in parts.items() if path.exists()},
        },
    )
    image = image_identity(env, "report")
    pages = {paths.report: False, **({paths.shareable: True} if shareable else {})}
    for page, shared in pages.items():
        submit(
            MakeReport(inputs_file=inputs, out=str(page), shareable=shared, image=image),
            paths,
            environment=environment(env, paths.logs / "group" / f"{page.stem}.log", announce=True),
            rerun=True,  # the tables that it names may have changed under the same names
        )
    if not shareable:
        paths.shareable.unlink(missing_ok=True)  # one of an earlier run would be out of date


def run_study(
    settings: StudySettings,
    *,
    env: str = "native",
    n_procs: int = 1,
    stage: str = "all",
    participants: Sequence[str] = (),
    shareable: bool = False,
) -> StudyResult:
    """Run a study, or go on with one.

    Parameters
    ----------
    settings
        The study.
    env
        "native", "docker" or "singularity".
    n_procs
        Scans that are processed at the same time; threads of the group's jobs.
    stage
        "participants", "group" (with the scans that are finished) or "all".
    participants
        Labels of the people to process; empty for all. The group takes all that are finished.
    shareable
        Make also the report without individual-level data.

    Returns
    -------
    StudyResult
        Outcome of each scan, the report, and why the group stage failed if it did.

    Raises
    ------
    InputError
        The study cannot start.
    """
    check_study(settings, env, stage)
    paths = StudyPaths(settings.out)
    scans = find_scans(settings)
    attempted = find_scans(settings, participants) if participants else scans
    check_people(scans, settings)
    group_error = ""
    with study_lock(paths):
        log.info("%s: %d scans", paths.out, len(scans))
        describe_dataset(settings)
        if stage in ("participants", "all"):
            run_participants(attempted, settings, env, n_procs)
        outcomes = read_outcomes(scans, settings, env)
        write_scan_tables(scans, outcomes, paths)
        if stage in ("group", "all"):
            try:
                run_group(outcomes, settings, env, n_procs)
            except (InputError, StepError) as error:
                group_error = str(error)
        make_report(settings, scans, outcomes, env, shareable=shareable)
        write_crate(settings, paths, scans, outcomes, env)
    return StudyResult(
        tuple(outcomes),
        frozenset(scan.prefix for scan in attempted),
        paths.scans,
        paths.report,
        group_error,
    )

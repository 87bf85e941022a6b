"""The whole study: participants -> group -> report."""

from __future__ import annotations

import csv
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
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
from axoloci.io.files import write_json, write_text
from axoloci.io.tables import read_table, read_traits
from axoloci.scans import find_scans
from axoloci.study import MADE_COVARIATES, StudyPaths, StudySettings, step_settings
from axoloci.tasks.report.task import MakeReport
from axoloci.workflows.engine import followed, study_lock, submit
from axoloci.workflows.group import Group, Training
from axoloci.workflows.participants import (
    Cohort,
    Outcome,
    choose_scans,
    read_outcomes,
    read_rows,
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
    failed
        The scans that failed, each with its reason; logs are relative to the study's folder.
    all_failed
        None of the scans of this run is finished.
    scans
        Tables of all scans, one a cohort.
    report
        The page; `StudyPaths.shareable` lies beside it if it was asked for.
    group_error
        Why the group stage failed; empty if it did not.
    """

    failed: tuple[Outcome, ...]
    all_failed: bool
    scans: tuple[Path, ...]
    report: Path
    group_error: str


def check_study(settings: StudySettings, env: str, stage: str) -> None:
    """Stop before any work when an input is missing; all of them are named at once.

    Raises
    ------
    InputError
        Inputs that are missing, or an environment that is not available.
    """
    check_environment(env)
    problems = []
    needed = {f"normalize.{key}": getattr(settings.normalize, key) for key in ("template", "mask")}
    for name, cohort in settings.cohorts().items():
        if name == "train":
            continue
        where = f"[{name}] " if settings.train or settings.replication else ""
        if cohort.genotypes is None and stage != "participants":
            problems.append(f"{where}'genotypes' is missing: the group stage needs PLINK 1 files")
        needed |= {
            f"{where}{key}": getattr(cohort, key) for key in ("covariates", "keep", "traits")
        }
        needed |= {
            f"{where}genotypes ({extension})": Path(f"{cohort.genotypes}{extension}")
            for extension in (".bed", ".bim", ".fam")
            if cohort.genotypes is not None
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
            made = {n for n, doors in MADE_COVARIATES.items() if settings.start in doors}
            unknown = set(settings.gwas.covariates or ()) - set(columns) - made
            if unknown:
                raise InputError(
                    f"{settings.covariates}: no column {', '.join(sorted(unknown))}, "
                    f"which 'gwas.covariates' names; found {', '.join(columns)}"
                )
            people[settings.covariates] = {
                (row[id_column] or "").removeprefix("sub-") for row in rows
            }
    return people


def check_people(cohorts: Mapping[str, Cohort], settings: StudySettings) -> None:
    """Stop before any work when tables share no person with the scans, or cohorts share people.

    Raises
    ------
    InputError
        No id is shared, with examples of both; a column of the covariates is missing; people of
        the discovery also train the encoder (unless that is allowed) or replicate.
    """
    for name, cohort in cohorts.items():
        if name != "train":  # who trains the encoder needs neither genotypes nor covariates
            _check_tables(cohort)
    people = {name: cohort.people for name, cohort in cohorts.items()}
    both = people.get("train", set()) & people["discovery"]
    if both and not settings.allow_train_in_discovery:
        raise InputError(
            f"{len(both)} people are in [train] and in [discovery], such as "
            f"{', '.join(sorted(both)[:3])}; keep them apart with 'keep', or allow it with "
            "allow_train_in_discovery = true"
        )
    again = people.get("replication", set()) & people["discovery"]
    if again:
        raise InputError(
            f"{len(again)} people are in [discovery] and in [replication], such as "
            f"{', '.join(sorted(again)[:3])}; a replication needs other people: keep them apart "
            "with 'keep'"
        )


def _check_tables(cohort: Cohort) -> None:
    """Each table of a cohort shares people with its scans or traits."""
    first = str(cohort.settings.traits or "the scans")
    shared = set(cohort.people)
    for path, people in _people_of_tables(cohort.settings).items():
        if not cohort.people & people:
            raise InputError(
                f"no person is both in {first} and in {path}: {first} are of "
                f"{', '.join(sorted(cohort.people)[:3])}, …; the file has "
                f"{', '.join(sorted(people)[:3])}, …; "
                "its IID must be the participant label without 'sub-'"
            )
        shared &= people
    log.info("%d people in %s, %d of them in all tables", len(cohort.people), first, len(shared))


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


def write_maps(outcomes: Sequence[Outcome], settings: StudySettings) -> Path:
    """Write the table of the maps that the cohort is made of.

    Raises
    ------
    InputError
        Fewer people than `min_participants`.
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
    return maps


def made_covariates(settings: StudySettings) -> Path | None:
    """Table of those covariates of the study that the steps themselves have made, if any."""
    paths = StudyPaths(settings.out)
    names = [name for name in settings.gwas.covariates or () if name in MADE_COVARIATES]
    if settings.covariates is not None:
        names = [name for name in names if name not in read_table(settings.covariates)]
    if not names:
        return None
    quality = {row["scan"]: row for row in read_rows(paths.qc)}
    rows = [
        {"sample_id": row["sample_id"], **{name: quality[row["scan"]][name] for name in names}}
        for row in read_rows(paths.scans)
        if row["in_group"] == "yes"
    ]
    table = paths.work / "covariates.tsv"
    write_table(table, rows)
    return table


def _kept_traits(settings: StudySettings) -> Path | None:
    """The table of traits, of the people in `keep` only."""
    if settings.traits is None or settings.keep is None:
        return settings.traits
    traits = read_traits(settings.traits)
    kept = traits[traits.index.isin(read_table(settings.keep).index)]
    path = StudyPaths(settings.out).work / "traits.tsv"
    write_text(path, kept.to_csv(sep="\t", na_rep="NA", lineterminator="\n"))
    return path


def train_encoder(maps: Path, settings: StudySettings, env: str, n_procs: int) -> None:
    """Pack the maps of a cohort and train the encoder on them.

    Raises
    ------
    StepError
        A step failed.
    """
    paths = StudyPaths(settings.out)
    paths.group.mkdir(parents=True, exist_ok=True)
    submit(
        Training(
            maps=maps,
            out_dir=str(paths.group),
            work_dir=str(paths.work),
            log_dir=str(paths.logs / "group"),
            template=followed(settings.normalize.template),
            mask=followed(settings.normalize.mask),
            settings=step_settings(settings),
            threads=n_procs,
            env=env,
        ),
        paths,
    )


def run_group(
    maps: Path | None,
    settings: StudySettings,
    env: str,
    n_procs: int,
    *,
    trained: StudyPaths | None,
    discovery: StudyPaths | None,
) -> None:
    """Run the association of a cohort, and look for loci or test those of the discovery.

    Parameters
    ----------
    maps
        Table of its maps; none if it has traits.
    settings
        The cohort.
    env, n_procs
        As for `run_study`.
    trained
        Cohort whose encoder is used.
    discovery
        Cohort whose loci are tested; without it loci are looked for.

    Raises
    ------
    StepError
        A step failed.
    """
    paths = StudyPaths(settings.out)
    paths.group.mkdir(parents=True, exist_ok=True)
    model: dict[str, Any] = {}
    if trained is not None:
        store = trained.group / "cohort.zarr"
        model = {"model": trained.group / "model.safetensors"}
        model["cohort" if trained == paths else "like"] = store
    found: dict[str, Any] = {}
    if discovery is not None:
        found["discovery"] = discovery.group / "sumstats"
        found["discovery_loci"] = discovery.group / "loci.tsv"
    tables = [table for table in (settings.covariates, made_covariates(settings)) if table]
    submit(
        Group(
            genotypes=Path(f"{settings.genotypes}.bed"),
            out_dir=str(paths.group),
            log_dir=str(paths.logs / "group"),
            maps=maps,
            traits=_kept_traits(settings),
            covariates=tables or None,
            settings=step_settings(settings),
            n_pcs=settings.gwas.n_pcs,
            export=list(settings.gwas.export),
            threads=n_procs,
            env=env,
            **model,
            **found,
        ),
        paths,
    )


def step_seconds(settings: StudySettings) -> list[dict[str, Any]]:
    """Jobs, seconds, CPU seconds and peak memory (MB) of each step, from the job records."""
    steps: dict[str, dict[str, Any]] = {}
    folders = {cohort.out: None for cohort in (*settings.cohorts().values(), settings)}
    for record in (r for out in folders for r in read_records(StudyPaths(out).logs)):
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
    cohorts: Mapping[str, Cohort],
    settings: StudySettings,
    env: str,
    *,
    group: str,
    shareable: bool = False,
) -> Path:
    """Make the report of what the study has so far; its loci are those of the discovery.

    Parameters
    ----------
    cohorts
        The cohorts by name.
    settings
        The study.
    env
        "native", "docker" or "singularity".
    group
        Why there are no results of the group stage that belong to these scans; empty if there are.
    shareable
        Make also the page without individual-level data, from the same inputs.
    """
    paths, discovery = StudyPaths(settings.out), cohorts["discovery"]
    found = discovery.paths.group
    seconds = paths.work / "seconds.tsv"
    write_table(seconds, step_seconds(settings))
    parts = {"seconds": seconds}
    if discovery.outcomes:
        parts |= {"scans": discovery.paths.scans, "qc": discovery.paths.qc}
    if not group:  # else they would be of other people or settings
        parts |= {
            "cohort": found / "cohort.zarr",
            "history": cohorts.get("train", discovery).paths.group / "history.tsv",
            "quality": found / "quality.tsv",
            "examples": found / "examples.npz",
            "samples_qc": found / "samples_qc.tsv",
            "joint": found / "joint.parquet",
            "loci": found / "loci.tsv",
        }
        if "replication" in cohorts:
            parts["replication"] = cohorts["replication"].paths.group / "replication.tsv"
    inputs = paths.work / "report.json"
    write_json(
        inputs,
        {
            "title": settings.out.name,
            "out_dir": str(paths.out),
            "study_settings": settings.model_dump(mode="json", exclude_none=True),
            "versions": package_versions(env),
            "group": group,
            "facts": study_facts(discovery, with_group=not group),
            **{name: str(path) for name, path in parts.items() if path.exists()},
        },
    )
    image = image_identity(env, "report")
    pages = {paths.report: False, **({paths.shareable: True} if shareable else {})}
    for page, shared in pages.items():
        log_file = paths.logs / "group" / f"{page.stem}.log"
        submit(
            MakeReport(inputs_file=inputs, out=str(page), shareable=shared, image=image),
            paths,
            # the tables that it names may have changed under the same names
            environment=environment(env, log_file, announce=True, always=True),
        )
    if not shareable:
        paths.shareable.unlink(missing_ok=True)  # one of an earlier run would be out of date
    return paths.report


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
        What failed, the report, and why the group stage failed if it did.

    Raises
    ------
    InputError
        The study cannot start.
    """
    check_study(settings, env, stage)
    paths = StudyPaths(settings.out)
    cohorts = {
        name: Cohort(cohort, find_scans(cohort)) for name, cohort in settings.cohorts().items()
    }
    check_people(cohorts, settings)
    wanted = {label.removeprefix("sub-") for label in participants}
    unknown = wanted - {scan.sample_id for cohort in cohorts.values() for scan in cohort.scans}
    if unknown:
        raise InputError(f"no scan of {', '.join(sorted(unknown))}")
    attempted = []
    with study_lock(paths):
        for cohort in cohorts.values():
            describe_dataset(cohort.settings)
            if cohort.settings.start == "gwas":
                continue
            chosen = [scan for scan in cohort.scans if not wanted or scan.sample_id in wanted]
            if stage in ("participants", "all"):
                log.info("%s: %d scans", cohort.paths.out, len(chosen))
                run_participants(chosen, cohort.settings, env, n_procs)
            cohort.outcomes = read_outcomes(cohort.scans, cohort.settings, env)
            write_scan_tables(cohort.scans, cohort.outcomes, cohort.settings)
            names = {scan.prefix for scan in chosen}
            attempted += [outcome for outcome in cohort.outcomes if outcome.scan in names]
        group_error = ""
        if stage in ("group", "all"):
            try:
                _run_groups(cohorts, env, n_procs)
            except (InputError, StepError) as error:
                group_error = str(error)
        group = f"The group stage failed: {group_error}" if group_error else ""
        if stage == "participants":
            group = "The group stage was not run."
        report = make_report(cohorts, settings, env, group=group, shareable=shareable)
        for cohort in cohorts.values():
            write_crate(cohort, env)
    failed = [
        replace(outcome, log=str(cohort.paths.out.relative_to(paths.out) / outcome.log))
        for cohort in cohorts.values()
        for outcome in cohort.outcomes
        if outcome.status == "failed"
    ]
    return StudyResult(
        tuple(failed),
        bool(attempted) and all(outcome.status == "failed" for outcome in attempted),
        tuple(cohort.paths.scans for cohort in cohorts.values() if cohort.outcomes),
        report,
        group_error,
    )


def _run_groups(cohorts: Mapping[str, Cohort], env: str, n_procs: int) -> None:
    """Train, look for loci, replicate: each cohort in its turn."""
    maps = {
        name: write_maps(cohort.outcomes, cohort.settings)
        for name, cohort in cohorts.items()
        if cohort.settings.start != "gwas"
    }
    trained = None
    if maps:
        teacher = "train" if "train" in cohorts else "discovery"
        train_encoder(maps[teacher], cohorts[teacher].settings, env, n_procs)
        trained = cohorts[teacher].paths
    discovery = None
    for name in ("discovery", "replication"):
        if name in cohorts:
            chosen = cohorts[name].settings
            run_group(maps.get(name), chosen, env, n_procs, trained=trained, discovery=discovery)
            discovery = cohorts[name].paths

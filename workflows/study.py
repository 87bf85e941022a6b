"""The whole study: participants -> group -> report."""

from __future__ import annotations

import fcntl
import json
import logging
import multiprocessing
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydra.engine.submitter import Submitter
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from axoloci import __version__
from axoloci.errors import InputError
from axoloci.images import (
    StepError,
    check_environment,
    die_with_parent,
    environment,
    image_identity,
    read_records,
)
from axoloci.io.files import sha256, write_json, write_text
from axoloci.scans import Scan, find_bids_scans, read_scan_table
from axoloci.study import StudyPaths, StudySettings
from axoloci.tasks.report.task import MakeReport
from axoloci.workflows.group import Group
from axoloci.workflows.participant import Participant

log = logging.getLogger("axoloci")

# Settings of the study that are not options of a step's command.
NOT_OPTIONS = {"normalize": {"template"}, "gwas": {"covariates", "n_pcs", "export"}}

BIDS_VERSION = "1.9.0"

QC_FILES = (
    "desc-preproc_dwi.json",
    "model-tensor_dwimap.json",
    "space-template_registration.json",
)


@dataclass(frozen=True)
class Outcome:
    """How one scan ended."""

    scan: str
    sample_id: str
    status: str  # "ok", "failed" or "not run"
    reason: str = ""
    log: str = ""
    fa: str = ""  # FA in the common space, relative to the study's folder
    fa_sha256: str = ""


@dataclass(frozen=True)
class StudyResult:
    """What a run of a study leaves behind."""

    outcomes: tuple[Outcome, ...]
    scans: Path
    report: Path | None

    @property
    def failed(self) -> tuple[Outcome, ...]:
        """The scans that failed, each with its reason."""
        return tuple(outcome for outcome in self.outcomes if outcome.status == "failed")


def step_settings(settings: StudySettings) -> dict[str, dict[str, Any]]:
    """Options of each step's command that the study names, as plain values."""
    chosen = {}
    for step in ("preprocess", "dti", "normalize", "encoder", "gwas", "genetics"):
        section = getattr(settings, step)
        chosen[step] = section.model_dump(
            mode="json", exclude_defaults=True, exclude=NOT_OPTIONS.get(step)
        )
    if channels := chosen["encoder"].get("channels"):
        chosen["encoder"]["channels"] = ",".join(map(str, channels))
    if settings.gwas.covariates is not None:
        pcs = [f"PC{number}" for number in range(1, settings.gwas.n_pcs + 1)]
        chosen["gwas"]["covariate"] = [*settings.gwas.covariates, *pcs]
    return chosen


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
    needed: dict[str, Path | None] = {"normalize.template": settings.normalize.template}
    if stage != "participants":
        if settings.genotypes is None:
            problems.append("'genotypes' is missing: the group stage needs PLINK 1 genotypes")
        needed["covariates"] = settings.covariates
    if settings.genotypes is not None:
        prefix = settings.genotypes
        needed.update(
            {f"genotypes ({ext})": Path(f"{prefix}{ext}") for ext in (".bed", ".bim", ".fam")}
        )
    problems += [
        f"{name}: {path} does not exist"
        for name, path in needed.items()
        if path is not None and not path.is_file()
    ]
    if problems:
        raise InputError("\n  ".join(["the study cannot start:", *problems]))


def check_people(scans: Sequence[Scan], genotypes: Path) -> None:
    """Stop before any work when no person has both a scan and genotypes.

    Raises
    ------
    InputError
        No id is shared; examples of both are shown.
    """
    fam = Path(f"{genotypes}.fam")
    with open(fam, encoding="utf-8-sig") as file:
        genotyped = {fields[1] for line in file if len(fields := line.split()) > 1}
    scanned = {scan.sample_id for scan in scans}
    both = len(scanned & genotyped)
    if not both:
        raise InputError(
            f"no person has both a scan and genotypes: the scans are of "
            f"{', '.join(sorted(scanned)[:3])}, …; {fam} has {', '.join(sorted(genotyped)[:3])}, …; "
            "the IID must be the participant label without 'sub-'"
        )
    log.info("%d people have a scan, %d genotypes, %d both", len(scanned), len(genotyped), both)


@contextmanager
def study_lock(paths: StudyPaths) -> Iterator[None]:
    """Only one driver works on a study; the operating system frees the lock of a killed one.

    Under the lock, Pydra's own lock files can only be left-overs of a killed run, and the folders
    of failed jobs would be taken as failed again: both are removed.
    """
    paths.work.mkdir(parents=True, exist_ok=True)
    paths.cache.mkdir(mode=0o700, exist_ok=True)
    with open(paths.work / "lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"{paths.out}: another axoloci is working on this study") from None
        for stale in paths.cache.glob("*.lock"):
            stale.unlink()
        for error in paths.cache.glob("*/_error.pklz"):
            shutil.rmtree(error.parent)
        yield


def submit(task: Any, paths: StudyPaths, *, rerun: bool = False, environment: Any = None) -> Any:
    """Run one Pydra task or workflow in this process, its jobs one after another.

    The parallelism of axoloci is over scans, one process each, so that a failed scan costs no
    other and each is finished before the next begins.
    """
    os.environ["NO_ET"] = "1"  # Pydra must not call home for its newest version
    os.environ["PYDRA_HASH_CACHE"] = str(paths.work / "hashes")
    with Submitter(
        cache_root=paths.cache, worker="debug", clean_stale_locks=False, environment=environment
    ) as submitter:
        return submitter(task, raise_errors=True, rerun=rerun).outputs


def run_scan(scan: Scan, settings: StudySettings, env: str) -> Outcome:
    """Run the participant workflow of one scan; a failure is an outcome, not an exception."""
    paths = StudyPaths(settings.out)
    out_dir, log_dir = paths.out / scan.folder, paths.logs / scan.prefix
    fa = scan.folder / f"{scan.prefix}_space-template_model-tensor_param-fa_dwimap.nii.gz"
    state = paths.work / "scans" / f"{scan.prefix}.json"
    before = json.loads(state.read_text()) if state.exists() else None
    # Pydra trusts its cache even when an output was removed: the map itself decides.
    lost = before is not None and before["fa"] != "" and not (paths.out / fa).is_file()
    out_dir.mkdir(parents=True, exist_ok=True)
    try:
        submit(
            Participant(
                dwi=scan.dwi,
                bval=scan.bval,
                bvec=scan.bvec,
                mask=scan.mask,
                prefix=scan.prefix,
                out_dir=str(out_dir),
                log_dir=str(log_dir),
                template=settings.normalize.template,
                settings=step_settings(settings),
                env=env,
            ),
            paths,
            rerun=lost,
        )
        outcome = Outcome(
            scan.prefix,
            scan.sample_id,
            "ok",
            log=str(log_dir.relative_to(paths.out)),
            fa=str(fa),
            fa_sha256=sha256(paths.out / fa),
        )
    except Exception as error:
        # Whatever went wrong with one scan, the others go on: the reason is kept and shown.
        reason = str(error) if isinstance(error, StepError) else f"{type(error).__name__}: {error}"
        outcome = Outcome(
            scan.prefix,
            scan.sample_id,
            "failed",
            reason=" ".join(reason.split()),
            log=str(log_dir.relative_to(paths.out)),
        )
    write_json(state, asdict(outcome))
    return outcome


def read_outcomes(scans: Iterable[Scan], paths: StudyPaths) -> list[Outcome]:
    """What is known of each scan, also of those that were not run."""
    outcomes = []
    for scan in scans:
        state = paths.work / "scans" / f"{scan.prefix}.json"
        outcomes.append(
            Outcome(**json.loads(state.read_text(encoding="utf-8")))
            if state.exists()
            else Outcome(scan.prefix, scan.sample_id, "not run")
        )
    return outcomes


def run_participants(
    scans: Sequence[Scan], settings: StudySettings, env: str, n_procs: int
) -> list[Outcome]:
    """Run all scans, `n_procs` at a time, with progress on standard error."""
    outcomes = []
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[failed]} failed"),
        TimeElapsedColumn(),
        TextColumn("left:"),
        TimeRemainingColumn(),
    )
    with (
        ProcessPoolExecutor(
            n_procs,
            # Workers must not inherit the driver's threads, and must not outlive it.
            mp_context=multiprocessing.get_context("spawn"),
            initializer=die_with_parent,
        ) as pool,
        Progress(*columns, console=console, disable=not console.is_terminal) as progress,
    ):
        bar = progress.add_task("participants", total=len(scans), failed=0)
        futures = {pool.submit(run_scan, scan, settings, env): scan for scan in scans}
        n_failed = 0
        every = max(1, len(scans) // 20)
        for n_done, future in enumerate(as_completed(futures), start=1):
            outcome = future.result()
            outcomes.append(outcome)
            if outcome.status == "failed":
                n_failed += 1
                log.warning("%s failed: %s", outcome.scan, outcome.reason)
            progress.update(bar, advance=1, failed=n_failed)
            if not console.is_terminal and (n_done % every == 0 or n_done == len(scans)):
                log.info("participants: %d of %d, %d failed", n_done, len(scans), n_failed)
    return sorted(outcomes, key=lambda outcome: outcome.scan)


def _write_table(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write rows as TSV; columns are the union of their keys, in order of appearance."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    lines = ["\t".join(columns)]
    lines += ["\t".join(str(row.get(key, "n/a")) for key in columns) for row in rows]
    write_text(path, "\n".join(lines) + "\n")


def quality_figures(description: dict[str, Any]) -> dict[str, float]:
    """Numbers among a step's own keys, nested ones joined by an underscore.

    Keys with a capital letter are BIDS metadata.
    """
    figures = {}
    for key, value in description.items():
        if isinstance(value, dict) and key.islower():
            figures |= {f"{key}_{name}": number for name, number in value.items()}
        elif isinstance(value, int | float):
            figures[key] = value
    return figures


def write_scan_tables(
    scans: Sequence[Scan], outcomes: Sequence[Outcome], paths: StudyPaths
) -> None:
    """Write `scans.tsv` (status and reason) and `qc.tsv` (figures of each finished scan)."""
    _write_table(
        paths.scans,
        [{key: value or "n/a" for key, value in asdict(outcome).items()} for outcome in outcomes],
    )
    rows = []
    for scan, outcome in zip(scans, outcomes, strict=True):
        if outcome.status != "ok":
            continue
        figures: dict[str, Any] = {"scan": scan.prefix, "sample_id": scan.sample_id}
        for name in QC_FILES:
            content = json.loads(
                (paths.out / scan.folder / f"{scan.prefix}_{name}").read_text(encoding="utf-8")
            )
            figures |= quality_figures(content)
        rows.append(figures)
    _write_table(paths.qc, rows)


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


def choose_scans(outcomes: Iterable[Outcome]) -> list[Outcome]:
    """One finished scan a person: the first by name, as sessions and runs are numbered."""
    chosen: dict[str, Outcome] = {}
    for outcome in sorted(outcomes, key=lambda outcome: outcome.scan):
        if outcome.status == "ok":
            chosen.setdefault(outcome.sample_id, outcome)
    return list(chosen.values())


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
    _write_table(
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
    )


def step_seconds(paths: StudyPaths) -> list[dict[str, Any]]:
    """Jobs, seconds, CPU seconds and peak memory of each step, from the job records."""
    steps: dict[str, dict[str, Any]] = {}
    for record in read_records(paths.logs):
        row = steps.setdefault(
            record["job"],
            {"step": record["job"], "jobs": 0, "seconds": 0.0, "cpu_seconds": 0.0, "max_rss_mb": 0},
        )
        row["jobs"] += 1
        row["seconds"] = round(row["seconds"] + record["seconds"], 3)
        row["cpu_seconds"] = round(row["cpu_seconds"] + record["cpu_seconds"], 3)
        row["max_rss_mb"] = max(row["max_rss_mb"], record["max_rss_mb"])
    return list(steps.values())


def make_report(settings: StudySettings, env: str) -> Path:
    """Make the report of whatever the study has so far."""
    paths = StudyPaths(settings.out)
    seconds = paths.work / "seconds.tsv"
    _write_table(seconds, step_seconds(paths))
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
            "versions": {
                "axoloci": __version__,
                **{name: version(name) for name in ("pydra", "numpy", "nibabel")},
            },
            **{name: str(path) for name, path in parts.items() if path.exists()},
        },
    )
    submit(
        MakeReport(inputs_file=inputs, out=str(paths.report), image=image_identity(env, "report")),
        paths,
        environment=environment(env, paths.logs / "group" / "report.log", announce=True),
        rerun=True,  # the tables that it names may have changed under the same names
    )
    return paths.report


def run_study(
    settings: StudySettings,
    *,
    env: str = "native",
    n_procs: int = 1,
    stage: str = "all",
    participants: Sequence[str] = (),
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

    Returns
    -------
    StudyResult
        Outcome of each scan, and the report.

    Raises
    ------
    InputError
        The study cannot start, or too few people are left for the group.
    StepError
        A step of the group failed.
    """
    check_study(settings, env, stage)
    paths = StudyPaths(settings.out)
    scans = find_scans(settings)
    if settings.genotypes is not None:
        check_people(scans, settings.genotypes)
    with study_lock(paths):
        log.info("%s: %d scans", paths.out, len(scans))
        describe_dataset(settings)
        if stage in ("participants", "all"):
            chosen = find_scans(settings, participants) if participants else scans
            run_participants(chosen, settings, env, n_procs)
        outcomes = read_outcomes(scans, paths)
        write_scan_tables(scans, outcomes, paths)
        report = None
        if stage in ("group", "all"):
            run_group(outcomes, settings, env, n_procs)
            report = make_report(settings, env)
    return StudyResult(tuple(outcomes), paths.scans, report)

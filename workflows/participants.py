"""All scans of a study, one process each: what was made of each, and what failed."""

from __future__ import annotations

import csv
import hashlib
import json
import logging
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from functools import cache, cached_property
from importlib.resources import files
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import pandas as pd
from pydra.utils.general import get_fields
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from axoloci.environments import StepError, die_with_parent, image_identity
from axoloci.errors import InputError, raise_all
from axoloci.extra import named_files, task_fields
from axoloci.io.files import sha256, write_json, write_text
from axoloci.io.genotype_files import genotype_set
from axoloci.io.nifti import read_header, read_nifti
from axoloci.io.tables import read_ids
from axoloci.job import (
    damage,
    fingerprint,
    input_digests,
    read_record,
    reason_to_run,
    remove_halves,
    was_removed,
    without_removed,
)
from axoloci.quality import derived_figures, judge, quality_figures
from axoloci.scans import TOLD_BY, Scan, scan_faults
from axoloci.steps import load_task
from axoloci.study import StudyPaths, StudySettings, step_settings
from axoloci.tasks.dti.task import FitDti
from axoloci.tasks.normalize.task import RegisterFa
from axoloci.tasks.preprocess.task import PreprocessDwi
from axoloci.tasks.report.task import MakeScanPage
from axoloci.workflows.engine import followed, prepare_pydra, submit
from axoloci.workflows.exclusion import (
    RULE,
    read_exclusions,
    updated_exclusions,
    write_exclusions,
)
from axoloci.workflows.participant import PAGE, STEPS, Participant, shared_inputs

log = logging.getLogger("axoloci")

TASKS: dict[str, Any] = {
    **{"preprocess": PreprocessDwi, "dti": FitDti, "normalize": RegisterFa},
    PAGE: MakeScanPage,
}
SHIPPED_TEMPLATE = Path(str(files("axoloci.tasks.normalize"))).resolve() / "MNI_FA_2mm.nii.gz"
MAX_FA = 1.3  # interpolation overshoots a little
SAY_SECONDS = 15.0  # between two lines of progress in a log
GRACE_SECONDS = 1.0  # in which steps may end by themselves when a run is stopped
SAID = 20  # excluded scans that are named in the log; the list has all
TRIES = 2  # of a scan whose worker process is killed


@dataclass(frozen=True)
class Outcome:
    """How one scan ended."""

    scan: str
    sample_id: str
    status: str  # "ok", "failed" or "not run"
    reason: str = ""
    log: str = ""  # folder of its logs, relative to the study's folder
    fa: str = ""  # FA in the common space, relative to the study's folder
    fa_sha256: str = ""
    fa_state: dict[str, int] = field(default_factory=dict)  # `job.file_state` of the same file
    made_by: str = ""  # digest of settings, template and code
    excluded: str = ""  # why the group does without it, by `exclude.tsv`


@dataclass
class Cohort:
    """One cohort of a study in a run of it.

    Attributes
    ----------
    settings
        The cohort as a study of its own.
    scans
        Its scans; none if it enters with traits.
    outcomes
        How each scan ended, in the order of the scans; empty before that is known.
    """

    settings: StudySettings
    scans: list[Scan]
    outcomes: list[Outcome] = field(default_factory=list)

    @property
    def paths(self) -> StudyPaths:
        """Where its parts lie."""
        return StudyPaths(self.settings.out)

    @cached_property
    def people(self) -> set[str]:
        """Who belongs to it."""
        traits, keep = self.settings.traits, self.settings.keep
        if traits is None:
            return {scan.sample_id for scan in self.scans}
        known = genotyped_people(self.settings)
        people = set(read_ids(traits, known))
        return people if keep is None else people & set(read_ids(keep, known))


def genotyped_people(settings: StudySettings) -> pd.DataFrame | None:
    """People of a cohort's genotypes, with whom its tables are matched.

    None if there are none, or if they have faults, which the check names.
    """
    try:
        return None if settings.genotypes is None else genotype_set(settings.genotypes).people
    except (InputError, OSError):
        return None


def chain_of(settings: StudySettings) -> tuple[str, ...]:
    """The steps of axoloci that a scan goes through, by the door at which it enters."""
    return STEPS[STEPS.index(settings.start) :] if settings.start in STEPS else ()


def steps_of(settings: StudySettings) -> tuple[str, ...]:
    """The jobs of a scan: the steps that it goes through, those from outside, its page."""
    page = (PAGE,) if settings.qc.pages else ()
    return (*decisive_steps(settings), *page) if chain_of(settings) else ()


def decisive_steps(settings: StudySettings) -> tuple[str, ...]:
    """The steps that decide what is made of a scan; its page only shows that."""
    chain = chain_of(settings)
    return (*chain, *settings.extra) if chain else ()


def shown_template(settings: StudySettings) -> Path:
    """The FA template to which scans are registered."""
    return settings.normalize.template or SHIPPED_TEMPLATE


def recipe(settings: StudySettings, env: str) -> str:
    """Digest of all that decides what is made of a scan: settings, template and code."""
    template = settings.normalize.template
    chosen = step_settings(settings)
    decisive = {
        "start": settings.start,
        "settings": {step: chosen[step] for step in decisive_steps(settings)},
        "distortion": settings.preprocess.corrects_distortion,
        "template": sha256(template) if template else None,
        "files": [sha256(file) for file in named_files(settings.extra)],
        "images": [image_identity(env, step) for step in decisive_steps(settings)],
    }
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()


def _state_file(prefix: str, paths: StudyPaths) -> Path:
    return paths.work / "scans" / f"{prefix}.json"


def write_outcome(outcome: Outcome, paths: StudyPaths) -> None:
    """Keep how a scan ended."""
    write_json(_state_file(outcome.scan, paths), asdict(outcome))


def _read_state(scan: Scan, paths: StudyPaths) -> Outcome | None:
    """The outcome of an earlier run, if there was one."""
    try:
        return Outcome(**json.loads(_state_file(scan.prefix, paths).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):  # none, or one that cannot be trusted
        return None


def first_step(scan: Scan, settings: StudySettings, env: str) -> str:
    """The step at which a scan begins in this run.

    It is that of its door, unless its corrected volumes were removed to free space
    (`axoloci clean --intermediates`): Pydra refuses a job whose files are gone. Such a scan begins
    at `normalize` while correction and tensor fit need not be run; if one of them must, or a step
    from outside reads the volumes, these count as lost, and both are run.
    """
    paths = StudyPaths(settings.out)
    logs, out_dir = paths.logs / scan.prefix, paths.out / scan.folder
    corrected, fitted = (read_record(logs / f"{step}.json") for step in ("preprocess", "dti"))
    if settings.start != "preprocess" or not was_removed(corrected):
        return settings.start
    if any("dwi" in task_fields(name).keys() - table for name, table in settings.extra.items()):
        return settings.start
    prepare_pydra(paths)
    chosen = step_settings(settings)

    def shared(step: str) -> dict[str, Any]:
        return shared_inputs(step, scan.prefix, str(out_dir), chosen, env)

    correction = PreprocessDwi(
        **{name: followed(file) for name, file in _raw_files(scan, settings).items()},
        **shared("preprocess"),
    )
    if reason_to_run(without_removed(corrected), input_digests(correction)):
        return settings.start
    made = _derivatives(scan, settings)
    fit = FitDti(bval=made["bval"], bvec=made["bvec"], mask=made["mask"], **shared("dti"))
    # the volumes that are gone are those that were fitted: nothing before them has changed
    volumes = {"dwi": fitted.get("inputs", {}).get("dwi", "")}
    if reason_to_run(fitted, input_digests(fit) | volumes):
        return settings.start
    return "normalize"


def _raw_files(scan: Scan, settings: StudySettings) -> dict[str, Path | None]:
    """The files with which a scan enters as DWI."""
    paired = settings.start == "preprocess" and settings.preprocess.corrects_distortion
    return scan.raw_files(paired)


def _derivatives(scan: Scan, settings: StudySettings) -> dict[str, Path]:
    """What correction and tensor fit leave of a scan, but for the corrected volumes."""
    stem = StudyPaths(settings.out).out / scan.folder / scan.prefix
    return {
        **{name: Path(f"{stem}_desc-preproc_dwi.{name}") for name in ("bval", "bvec")},
        "mask": Path(f"{stem}_desc-brain_mask.nii.gz"),
        "corrected_qc": Path(f"{stem}_desc-preproc_dwi.json"),
        "tensor_qc": Path(f"{stem}_model-tensor_dwimap.json"),
        **{
            name: Path(f"{stem}_model-tensor_param-{name}_dwimap.nii.gz")
            for name in ("fa", "md", "ad", "rd")
        },
    }


def run_scan(scan: Scan, settings: StudySettings, env: str) -> Outcome:
    """Run the participant workflow of one scan; a failure is an outcome, not an exception."""
    paths = StudyPaths(settings.out)
    out_dir, log_dir = paths.out / scan.folder, paths.logs / scan.prefix
    about: dict[str, Any] = {"scan": scan.prefix, "sample_id": scan.sample_id}
    about |= {"made_by": recipe(settings, env)}
    try:
        paired = settings.preprocess.corrects_distortion
        raise_all(scan_faults(scan, settings.start, paired), f"{scan.prefix}: files are missing")
        if settings.start in STEPS:
            for image, ndim in ((scan.dwi, 4), (scan.fa, 3)):
                if image is not None:  # else Pydra refuses the file, in words of its own
                    read_header(image, ndim)
            out_dir.mkdir(parents=True, exist_ok=True)
            start, pages = first_step(scan, settings, env), settings.qc.pages
            files: Mapping[str, Path | None] = {**_raw_files(scan, settings), "fa": scan.fa}
            if start != settings.start:
                files = _derivatives(scan, settings)
            submit(
                Participant(
                    start=start,
                    **{name: followed(file) for name, file in files.items()},
                    prefix=scan.prefix,
                    out_dir=str(out_dir),
                    log_dir=str(log_dir),
                    template=followed(settings.normalize.template),
                    shown_template=followed(shown_template(settings) if pages else None),
                    acquisition=[f"{key}={value}" for key, value in scan.acquisition.items()],
                    settings=step_settings(settings),
                    extra=list(settings.extra),
                    env=env,
                ),
                paths,
            )
            fa = scan.folder / f"{scan.prefix}_space-template_model-tensor_param-fa_dwimap.nii.gz"
        else:
            assert scan.fa is not None
            check_map(scan.fa)
            fa = scan.fa
        state = fingerprint(paths.out / fa)
        checksum = state.pop("sha256")
        outcome = Outcome(status="ok", fa=str(fa), fa_sha256=checksum, fa_state=state, **about)
    except Exception as error:
        # Whatever went wrong with one scan, the others go on: the reason is kept and shown.
        known = isinstance(error, (StepError, InputError))
        reason = str(error) if known else f"{type(error).__name__}: {error}"
        outcome = Outcome(status="failed", reason=" ".join(reason.split()), **about)
    if log_dir.is_dir():
        outcome = replace(outcome, log=str(log_dir.relative_to(paths.out)))
    write_outcome(outcome, paths)
    return outcome


def check_map(path: Path) -> None:
    """Refuse a map in the common space that cannot be FA.

    Raises
    ------
    InputError
        It cannot be read, or its values are not those of FA.
    """
    image, _ = read_nifti(path, ndim=3)
    if not (image > 0).any() or image.min() < 0 or image.max() > MAX_FA:
        raise InputError(
            f"{path}: values from {image.min():g} to {image.max():g}; FA lies between 0 and 1"
        )


def read_outcomes(scans: Iterable[Scan], settings: StudySettings, env: str) -> list[Outcome]:
    """What is known of each scan.

    One that was made with other settings or code is not run; one whose map or quality figures are
    not what they were failed. `exclude.tsv` says which are left out of the group.

    Raises
    ------
    InputError
        That list has faults.
    """
    paths, made_by = StudyPaths(settings.out), recipe(settings, env)
    outcomes = []
    for scan in scans:
        outcome = _read_state(scan, paths)
        if outcome is None:
            outcome = Outcome(scan.prefix, scan.sample_id, "not run")
        elif outcome.made_by != made_by:
            reason = "made with other settings or another version; run the participants again"
            outcome = Outcome(scan.prefix, scan.sample_id, "not run", reason)
        elif outcome.status == "ok" and (harm := _harm(scan, outcome, settings)):
            reason = f"{harm}: it was damaged after it was made; run the participants again"
            outcome = replace(outcome, status="failed", reason=reason)
        outcomes.append(outcome)
    return mark_excluded(outcomes, paths)


def mark_excluded(outcomes: Sequence[Outcome], paths: StudyPaths) -> list[Outcome]:
    """Outcomes with what `exclude.tsv` says of them.

    Raises
    ------
    InputError
        The list has faults; that it names others, who knows all scans of the study must say.
    """
    reasons = {
        scan: str(entry) for scan, entry in read_exclusions(paths.exclude).items() if entry.exclude
    }
    return [replace(outcome, excluded=reasons.get(outcome.scan, "")) for outcome in outcomes]


def _harm(scan: Scan, outcome: Outcome, settings: StudySettings) -> str:
    """What is wrong with the files of a finished scan that the cohort needs; empty if nothing."""
    fa = StudyPaths(settings.out).out / outcome.fa
    if harm := damage(fa, {**outcome.fa_state, "sha256": outcome.fa_sha256}):
        return harm
    files = (quality_file(scan, step, settings) for step in steps_of(settings))
    return next((f"{file} cannot be read" for file in files if file and not read_record(file)), "")


@cache
def _quality_output(step: str) -> Callable[[dict[str, Any], Path], Path] | None:
    """The path of the output `qc` of a step's task, from its inputs; none if it has no such."""
    task = TASKS.get(step) or load_task(step)
    (output,) = [f for f in get_fields(task.Outputs) if f.name == "qc"] or [None]
    return getattr(output, "callable", None)


def quality_file(scan: Scan, step: str, settings: StudySettings) -> Path | None:
    """The quality figures that a step writes of a scan; none if it writes none."""
    output, out_dir = _quality_output(step), StudyPaths(settings.out).out / scan.folder
    given = {**settings.extra.get(step, {}), "prefix": scan.prefix, "out_dir": str(out_dir)}
    return output(given, Path()) if output else None


def _figures(scan: Scan, step: str, settings: StudySettings) -> dict[str, Any]:
    """Quality figures of a scan; those of a step from outside have its name before theirs."""
    file = quality_file(scan, step, settings)
    figures = quality_figures(read_record(file)) if file else {}
    if step in STEPS:
        return figures
    return {f"{step.replace('-', '_')}_{name}": value for name, value in figures.items()}


class _Lane:
    """One worker process of a thread; a death costs no scan but the one that it worked on."""

    def __init__(self, stopping: threading.Event) -> None:
        self.pool: ProcessPoolExecutor | None = None
        self.scan: Scan | None = None  # that it works on
        self.stopping = stopping

    def run(self, scan: Scan, settings: StudySettings, env: str) -> Outcome:
        """Run one scan; a process that was killed is replaced and the scan tried once more."""
        self.scan = scan
        for _ in range(TRIES):
            if self.pool is None:
                # Workers must not inherit the driver's threads, and must not outlive it.
                self.pool = ProcessPoolExecutor(
                    1,
                    multiprocessing.get_context("spawn"),
                    initializer=die_with_parent,
                    initargs=(os.getpid(),),
                )
            try:
                return self.pool.submit(run_scan, scan, settings, env).result()
            except BrokenProcessPool:
                self.close()
                if self.stopping.is_set():
                    raise
                log.warning("%s: its process was killed", scan.prefix)
        paths = StudyPaths(settings.out)
        outcome = Outcome(
            scan.prefix,
            scan.sample_id,
            "failed",
            f"its process was killed {TRIES} times; is there enough memory?",
            str((paths.logs / scan.prefix).relative_to(paths.out)),
            made_by=recipe(settings, env),
        )
        write_outcome(outcome, paths)
        return outcome

    def close(self) -> None:
        """End the process."""
        if self.pool is not None:
            self.pool.shutdown()
            self.pool = None


def _in_processes(
    scans: Sequence[Scan], settings: StudySettings, env: str, n_procs: int
) -> Generator[Outcome]:
    """Outcomes as they come, from `n_procs` processes; none of these outlives it."""
    waiting: SimpleQueue[Scan] = SimpleQueue()
    done: SimpleQueue[Outcome | BaseException] = SimpleQueue()
    stopping = threading.Event()
    for scan in scans:
        waiting.put(scan)
    lanes = [_Lane(stopping) for _ in range(min(n_procs, len(scans)))]

    def work(lane: _Lane) -> None:
        try:
            while not stopping.is_set():
                done.put(lane.run(waiting.get_nowait(), settings, env))
        except Empty:
            pass
        except BaseException as error:  # such as a full disk: the driver must hear of it
            done.put(error)
        finally:
            lane.close()

    threads = [threading.Thread(target=work, args=(lane,), daemon=True) for lane in lanes]
    for thread in threads:
        thread.start()
    try:
        for _ in scans:
            outcome = done.get()
            if isinstance(outcome, BaseException):
                raise outcome
            yield outcome
        for thread in threads:
            thread.join()
    except BaseException:
        stopping.set()
        log.warning("stopping")
        _end(threads)
        for lane in lanes:
            if lane.scan is not None:
                _remove_halves(lane.scan, StudyPaths(settings.out))
        raise


def _end(threads: Sequence[threading.Thread]) -> None:
    """End the lanes: after a moment in which their steps may end by themselves, their processes."""
    deadline = time.monotonic() + GRACE_SECONDS
    while any(thread.is_alive() for thread in threads):
        if time.monotonic() > deadline:
            for process in multiprocessing.active_children():
                process.kill()  # and with it, its step
        for thread in threads:
            thread.join(0.05)


def _remove_halves(scan: Scan, paths: StudyPaths) -> None:
    """Remove what a killed step of a scan has left half written."""
    for folder in (paths.out / scan.folder, paths.logs / scan.prefix):
        remove_halves(folder)


def run_participants(
    scans: Sequence[Scan], settings: StudySettings, env: str, n_procs: int
) -> None:
    """Run all scans, `n_procs` at a time, with progress on standard error."""
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
    n_failed, said = 0, time.monotonic()
    with (
        Progress(*columns, console=console, disable=not console.is_terminal) as progress,
        closing(_in_processes(scans, settings, env, n_procs)) as outcomes,
    ):
        bar = progress.add_task("scans", total=len(scans), failed=0)
        for n_done, outcome in enumerate(outcomes, start=1):
            if outcome.status == "failed":
                n_failed += 1
                log.warning("%s failed: %s", outcome.scan, outcome.reason)
            progress.update(bar, advance=1, failed=n_failed)
            now = time.monotonic()
            if not console.is_terminal and (now - said > SAY_SECONDS or n_done == len(scans)):
                said = now
                log.info("scans: %d of %d, %d failed", n_done, len(scans), n_failed)


def choose_scans(outcomes: Iterable[Outcome]) -> list[Outcome]:
    """One usable scan a person: the first finished one that is not excluded, in their order."""
    chosen: dict[str, Outcome] = {}
    for outcome in outcomes:
        if outcome.status == "ok" and not outcome.excluded:
            chosen.setdefault(outcome.sample_id, outcome)
    return list(chosen.values())


def write_table(path: Path, rows: Sequence[dict[str, Any]], first: Sequence[str] = ()) -> None:
    """Write rows as TSV; columns are `first`, then the rows' keys in order of appearance."""
    columns = list(dict.fromkeys([*first, *(key for row in rows for key in row)]))
    lines = ["\t".join(columns)]
    lines += ["\t".join(str(row.get(key, "n/a")) for key in columns) for row in rows]
    write_text(path, "\n".join(lines) + "\n")


def read_rows(path: Path) -> list[dict[str, str]]:
    """Rows of a table written by `write_table`."""
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


def _scanner(scan: Scan) -> dict[str, str]:
    """Scanner and site as covariates, where a sidecar tells."""
    told = scan.acquisition
    texts = {
        name: " ".join(str(told[key]) for key in keys if key in told)
        for name, keys in TOLD_BY.items()
    }
    return {name: text for name, text in texts.items() if text}


def figure_rows(
    scans: Sequence[Scan], outcomes: Sequence[Outcome], settings: StudySettings
) -> list[dict[str, Any]]:
    """Quality figures of each finished scan, with the rules that it breaks."""
    rows = []
    for scan, outcome in zip(scans, outcomes, strict=True):
        if outcome.status == "ok":
            row: dict[str, Any] = {"scan": scan.prefix, "sample_id": scan.sample_id, "flags": ""}
            for step in decisive_steps(settings):
                row |= _figures(scan, step, settings)
            rows.append({**row, **derived_figures(row), **scan.acquisition, **_scanner(scan)})
    for row, flags in zip(rows, judge(rows), strict=True):
        row["flags"] = flags
    return rows


def write_scan_tables(
    scans: Sequence[Scan], outcomes: Sequence[Outcome], settings: StudySettings
) -> list[Outcome]:
    """Write `scans.tsv`, `qc.tsv` and `exclude.tsv`.

    `scans.tsv` has status and reason of each scan, `qc.tsv` the quality figures of each finished
    one and the rules that it breaks. `exclude.tsv` names those that are left out of the group;
    `in_group` in `scans.tsv` says which of the others of a person the cohort is made of.

    Returns
    -------
    The outcomes with what `exclude.tsv` now says.

    Raises
    ------
    InputError
        The user's `exclude.tsv` has faults.
    """
    paths = StudyPaths(settings.out)
    figures = figure_rows(scans, outcomes, settings)
    entries = updated_exclusions(
        read_exclusions(paths.exclude, {scan.prefix for scan in scans}),
        {row["scan"]: row["flags"] for row in figures},
        by_rule=settings.qc.exclude,
    )
    write_exclusions(paths.exclude, entries)
    outcomes = mark_excluded(outcomes, paths)
    chosen = {outcome.scan for outcome in choose_scans(outcomes)}
    rows = []
    for outcome in outcomes:
        row: dict[str, Any] = {key: value or "n/a" for key, value in asdict(outcome).items()}
        del row["fa_state"]
        rows.append({**row, "in_group": "yes" if outcome.scan in chosen else "no"})
    write_table(paths.scans, rows)
    told = [{**row, "flags": "; ".join(map(str, row["flags"]))} for row in figures]
    write_table(paths.qc, told, first=("scan", "sample_id", "flags"))
    return outcomes


def say_excluded(outcomes: Iterable[Outcome], paths: StudyPaths) -> None:
    """Say in the log which scans the group does without."""
    excluded = [outcome for outcome in outcomes if outcome.excluded]
    for outcome in excluded[:SAID]:
        log.warning("%s is left out of the group %s", outcome.scan, outcome.excluded)
    if excluded:
        by_rule = sum(outcome.excluded.startswith(f"by {RULE}") for outcome in excluded)
        log.warning(
            "left out of the group: %d scans by rule, %d by the user; %s lists them, and what you "
            "write there counts",
            *(by_rule, len(excluded) - by_rule, paths.exclude),
        )

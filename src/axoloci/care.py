"""The commands that look after a study: init, plan, submit, status, trace, graph, clean.

Each only reads and writes files; what it computes lies in `axoloci.workflows` and is imported when
the command is run, so that `axoloci --help` stays quick.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from axoloci.engines import PROGRAMS
from axoloci.environments import KINDS, chosen_environment
from axoloci.errors import InputError
from axoloci.study import DOORS, Section, StudyPaths, StudySettings, read_study

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from axoloci.workflows.cluster import StageView
    from axoloci.workflows.participants import Outcome
    from axoloci.workflows.records import CohortState

EXIT_NOT_ALL = 3
SHOWN = 20  # failures named on the screen
PLACEHOLDER = "STUDY.toml"  # in commands that are suggested
STUDY_OPTIONS = {
    **dict.fromkeys(DOORS, ""),
    "genotypes": "",
    "covariates": "all columns are used",
    "out": "",
}
"""Keys of the study file that are options of `axoloci run` as well, with what their help adds."""
ENCODER_OPTION = "training_people"  # the key of its [encoder] that is one


class StudyFile(click.Path):
    """The path of a study file; the shell completes names that end in .toml, and folders."""

    def __init__(self, **options: Any) -> None:
        super().__init__(path_type=Path, **options)

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Study files and folders that begin as what was typed."""
        from click.shell_completion import CompletionItem

        folder, _, beginning = incomplete.rpartition("/")
        where = Path(folder or ("/" if incomplete.startswith("/") else ".")).expanduser()
        try:
            entries = sorted(where.iterdir())
        except OSError:
            return []
        found = []
        for entry in entries:
            hidden = entry.name.startswith(".") and not beginning
            if not entry.name.startswith(beginning) or hidden:
                continue
            name = f"{folder}/{entry.name}" if "/" in incomplete else entry.name
            if entry.is_dir():
                found.append(CompletionItem(f"{name}/"))
            elif entry.suffix == ".toml":
                found.append(CompletionItem(name))
        return found


def option_of(key: str) -> str:
    """The option that stands for a key of the study file."""
    return f"--{key.replace('_', '-')}"


def key_help(key: str, more: str = "", of: type[Section] = StudySettings) -> str:
    """Help of an option that stands for a key of the study file, or of a table in it."""
    text = of.model_fields[key].description or ""
    return f"{text[0].upper()}{text[1:]}{f'; {more}' if more else ''}."


def run_alone(words: Sequence[str], sample_id: str) -> str:
    """The command that processes one person only.

    Parameters
    ----------
    words
        What names the study to `axoloci run`: a study file, or options.
    sample_id
        The person's label.
    """
    one = ("--stage", "participants", "--participant-label", sample_id)
    return shlex.join(["axoloci", "run", *words, *one])


def _words_of(out: Path) -> list[str] | None:
    """The options that name the study of a folder to `axoloci run`, if they say all of it."""
    try:
        known = json.loads(StudyPaths(out).report_inputs.read_text(encoding="utf-8"))
        settings = StudySettings.model_validate(known["study_settings"])
    except (OSError, ValueError, KeyError, TypeError):  # no report yet, or that of another version
        return None
    named = settings.model_dump(mode="json", exclude_defaults=True)
    named |= named.pop("encoder", {})
    told = {*STUDY_OPTIONS, ENCODER_OPTION}
    if settings.out.resolve() != out.resolve() or not named.keys() <= told:
        return None
    return [word for key, value in named.items() for word in (option_of(key), value)]


def size(n_bytes: float) -> str:
    """A number of bytes in its largest decimal unit."""
    for unit, name in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if n_bytes >= unit:
            return f"{n_bytes / unit:.1f} {name}"
    return f"{n_bytes:.0f} bytes"


def duration(seconds: float) -> str:
    """A length of time in its largest unit."""
    for unit, name in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 1.5 * unit:
            return f"{seconds / unit:.1f} {name}"
    return f"{seconds:.0f} s"


def show_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table; columns whose name begins with a blank are numbers, set to the right."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for column in columns:
        right = column.startswith(" ")
        table.add_column(column.strip(), justify="right" if right else "left", no_wrap=right)
    for row in rows:
        table.add_row(*row)
    console = Console(markup=False, highlight=False, soft_wrap=False)
    if not console.is_terminal:
        console.width = 200  # a file is not cut at a terminal's edge
    with console.capture() as text:  # rich has an end of its own for a closed pipe
        console.print(table)
    click.echo(text.get(), nl=False)


def output_of(_: click.Context, __: click.Parameter, study: Path) -> Path:
    """The output folder of a study, which is named itself or by its study file."""
    return study if study.is_dir() else read_study(study).out


study_or_out = partial(click.argument, type=StudyFile(exists=True), metavar="STUDY.toml|OUT")
out_argument = study_or_out("out", callback=output_of)


class Environment(click.Choice[str]):
    """Where steps run; who names an engine's program is told the name of its kind."""

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """One of `KINDS`."""
        for kind, programs in PROGRAMS.items():
            if value in programs and value not in KINDS:
                self.fail(f"'{value}' is chosen by --env {kind}", param, ctx)
        return super().convert(value, param, ctx)


env_option = click.option(
    "--env",
    type=Environment(KINDS),
    help="Where the steps run: native (programs of this machine), or one pinned image a step. "
    "Without it as in the study's last run, at first native.",
)
study_argument = click.argument("study", type=StudyFile(dir_okay=False), metavar="STUDY.toml")


@click.command()
@click.argument(
    "folder", type=click.Path(path_type=Path, file_okay=False, exists=True), default="."
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    default="study.toml",
    help="Study file to write; one that is there is never overwritten.",
)
@click.option(
    "--slurm",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write also a profile of a Slurm cluster, for axoloci submit.",
)
def init(folder: Path, out: Path, slurm: Path | None) -> None:
    """Write a study file for the data in FOLDER, with all keys, their defaults and units.

    It looks for BIDS data sets with raw DWI, corrected DWI or FA maps by the names of BIDS
    derivatives, genotypes and tables of people, a few folders deep. Of several it takes the
    first, of tables of people that which alone has a column age or sex, as covariates; the others
    are in comments. Look at the file before you run it.

    Exit codes: 0 written and complete, 3 written, but something is missing.
    """
    from axoloci.io.files import write_text
    from axoloci.study_file import find_data, profile_text, study_text

    for option, file in (("--out", out), ("--slurm", slurm)):
        if file is not None and file.exists():
            raise InputError(
                f"{file}: is there already, and is not overwritten; name another by {option}"
            )
    found = find_data(folder)
    if slurm is not None:
        write_text(slurm, profile_text())
    write_text(out, study_text(found, out.absolute().parent))
    for line in found.notes:
        click.echo(f"found: {line}", err=True)
    for line in found.missing:
        click.echo(f"missing: {line}", err=True)
    click.echo(f"wrote {out}; next: {shlex.join(['axoloci', 'plan', str(out)])}", err=True)
    if found.missing:
        sys.exit(EXIT_NOT_ALL)


@click.command()
@study_or_out("study")
@env_option
def status(study: Path, env: str | None) -> None:
    """Say what of a study is done, running, failed or not run.

    STUDY.toml is a study file, OUT its output folder. The study file knows all scans and jobs, and
    whether finished scans still fit the settings; the folder alone knows what was begun. Jobs of
    the cohort stand as they were last run. Of a study that was submitted to Slurm it says what
    Slurm knows too. It only reads, so it may be asked while the study is run.

    Exit codes: 0 all is done or under way, 3 something failed or is left to run.
    """
    from axoloci.workflows.records import study_state

    behind: list[str] = []
    if study.is_dir():
        out, words = study, _words_of(study) or [PLACEHOLDER]
        cohorts = study_state(out)
    else:
        from axoloci.scans import find_scans
        from axoloci.workflows.graph import group_jobs
        from axoloci.workflows.participants import read_outcomes
        from axoloci.workflows.study import groups_behind

        settings = read_study(study)
        out, words = settings.out, [str(study)]
        env = chosen_environment(env, out)
        scans = {
            name: read_outcomes(find_scans(cohort), cohort, env)
            for name, cohort in settings.cohorts().items()
        }
        cohorts = study_state(out, scans, group_jobs(settings))
        behind = groups_behind(settings, scans)
    from axoloci.workflows.cluster import cluster_state
    from axoloci.workflows.engine import is_locked
    from axoloci.workflows.submission import was_submitted

    locked = is_locked(StudyPaths(out))
    stages: list[StageView] = []
    if was_submitted(out):
        try:
            stages, ended = cluster_state(out)
        except InputError as error:  # of another version; the rest can be told all the same
            click.echo(f"warning: nothing is told of its jobs in Slurm: {error}")
        else:
            cohorts = [_with_reasons(cohort, ended.get(cohort.name, {})) for cohort in cohorts]
    under_way = locked or any(stage.running or stage.waiting for stage in stages)
    click.echo(f"{out}: {'a driver is working on it' if locked else 'no driver is working on it'}")
    rows, failed, open_ends = [], [], 0
    for cohort in cohorts:
        kinds = [
            ("scans", [s.status for s in cohort.scans]),
            ("jobs", [j.status for j in cohort.jobs]),
        ]
        for kind, found in kinds:
            if found:
                counts = {name: found.count(name) for name in set(found)}
                done = counts.get("ok", 0) + counts.get("done", 0)
                stopped = counts.get("stopped", 0) + counts.get("not run", 0)
                open_ends += stopped
                numbers = (done, counts.get("running", 0), counts.get("failed", 0), stopped)
                rows.append((cohort.name or "study", kind, *map(str, numbers)))
        for outcome in cohort.scans:
            if outcome.status == "failed":
                where = StudyPaths(out / cohort.name if cohort.name and len(cohorts) > 1 else out)
                log = f"{where.out / outcome.log}" if outcome.log else ""
                failed.append(
                    (outcome.scan, outcome.reason, log, run_alone(words, outcome.sample_id))
                )
        for job in cohort.jobs:
            if job.status == "failed":
                again = shlex.join(["axoloci", "run", *words, "--stage", "group"])
                failed.append((job.job, job.reason, job.log, again))
    show_table(("cohort", "what", " done", " running", " failed", " not run"), rows)
    if stages:
        click.echo()
        _show_stages(stages)
    for cohort in cohorts:
        waiting = [j for j in cohort.jobs if j.status != "done"]
        if waiting:
            states = ", ".join(f"{job.job} ({job.status})" for job in waiting)
            click.echo(f"{cohort.name or 'study'}, still to do: {states}")
    for cohort in cohorts:
        if excluded := [scan for scan in cohort.scans if scan.excluded]:
            click.echo(_excluded_line(cohort.name, excluded))
    for name in behind:
        click.echo(f"{name}: the group stage was run with other scans; the next run makes it anew")
    for name, reason, log, again in failed[:SHOWN]:
        log_line = f"\n  log: {log}" if log else ""  # it failed before anything was run
        click.echo(f"failed: {name}: {reason}{log_line}\n  alone: {again}")
    if len(failed) > SHOWN:
        click.echo(f"and {len(failed) - SHOWN} more failed: see scans.tsv")
    if failed and study.is_dir() and words == [PLACEHOLDER]:
        click.echo(f"{PLACEHOLDER} stands for the study's own file, which this folder cannot name")
    for stage in stages:
        for reason in stage.failed[:SHOWN]:
            click.echo(f"failed in Slurm: {stage.name}: {reason}\n  logs: {out / 'slurm' / 'logs'}")
    if failed or any(stage.failed for stage in stages) or (open_ends and not under_way):
        sys.exit(EXIT_NOT_ALL)


def _excluded_line(cohort: str, excluded: Sequence[Outcome]) -> str:
    """How many scans the group does without, and why the first ones."""
    by_rule = sum(scan.excluded.startswith("by rule") for scan in excluded)
    named = "".join(f"\n  {scan.scan}: {scan.excluded}" for scan in excluded[:SHOWN])
    more = f"\n  and {len(excluded) - SHOWN} more" if len(excluded) > SHOWN else ""
    return (
        f"{cohort or 'study'}, left out of the group by exclude.tsv: {by_rule} scans by rule, "
        f"{len(excluded) - by_rule} by the user{named}{more}"
    )


def _with_reasons(cohort: CohortState, ended: Mapping[str, Outcome]) -> CohortState:
    """A cohort with what Slurm knows of scans that have no result."""
    scans = (
        ended.get(scan.scan, scan) if scan.status in ("failed", "not run") else scan
        for scan in cohort.scans
    )
    return replace(cohort, scans=tuple(scans))


def _show_stages(stages: Iterable[StageView]) -> None:
    """Table of the stages in Slurm."""
    rows = []
    for stage in stages:
        n_failed = stage.n_elements - stage.done - stage.running - stage.waiting
        numbers = (stage.done, stage.running, n_failed, stage.waiting)
        rows.append((stage.name, " ".join(map(str, stage.jobs)), *map(str, numbers)))
    show_table(("stage", "Slurm jobs", " done", " running", " failed", " waiting"), rows)


profile_option = click.option(
    "--profile",
    type=StudyFile(dir_okay=False),
    help="Profile of the cluster (TOML): account, partitions, memory, time; axoloci init --slurm "
    "writes one with all keys.",
)
dry_run_option = click.option(
    "--dry-run",
    is_flag=True,
    help="Write the scripts and say the sbatch commands; submit nothing.",
)


@click.command()
@study_argument
@profile_option
@env_option
@click.option(
    "--n-procs",
    type=click.IntRange(min=1),
    default=lambda: len(os.sched_getaffinity(0)),
    show_default="all cores",
    help="Processes that look at the data before they are submitted.",
)
@dry_run_option
def submit(study: Path, profile: Path | None, env: str | None, n_procs: int, dry_run: bool) -> None:
    """Run a study on a Slurm cluster.

    Checks the study, writes its scripts into OUT/slurm and submits them: an array over the scans,
    the cohort's jobs with an array over the chromosomes, the report; each after the one before.
    What runs out of memory or time is submitted again with more, as often as the profile allows.
    Nothing has to stay logged in: axoloci status tells how it stands, axoloci resubmit takes up
    what failed. The same command again does the whole study again, and skips what is finished.
    Without --profile the one of the last time holds.
    """
    from axoloci.slurm_profile import Profile, read_profile
    from axoloci.workflows.cluster import submit_study
    from axoloci.workflows.submission import last_profile

    settings = read_study(study)
    cluster = read_profile(profile) if profile else last_profile(settings.out)
    if cluster is None:
        cluster = Profile()
    elif profile is None:
        click.echo("as last time: the profile of the cluster (--profile names another)", err=True)
    env = chosen_environment(env, settings.out)
    _say_submitted(
        submit_study(settings, cluster, env=env, n_procs=n_procs, dry_run=dry_run), study, dry_run
    )


@click.command()
@study_argument
@profile_option
@dry_run_option
def resubmit(study: Path, profile: Path | None, dry_run: bool) -> None:
    """Submit again what of a submitted study is not finished.

    Of the array over the scans only the elements with such scans, then what depends on them.
    Without --profile the one of the last time holds.
    """
    from axoloci.slurm_profile import read_profile
    from axoloci.workflows.cluster import resubmit_study

    cluster = read_profile(profile) if profile else None
    _say_submitted(resubmit_study(read_study(study), cluster, dry_run=dry_run), study, dry_run)


def _say_submitted(lines: Sequence[str], study: Path, dry_run: bool) -> None:
    """What was submitted, or would be."""
    for line in lines:
        click.echo(line)
    if not lines:
        click.echo("everything is finished; nothing is submitted", err=True)
    elif not dry_run:
        next_command = shlex.join(["axoloci", "status", str(study)])
        click.echo(f"submitted {len(lines)} jobs; how they stand: {next_command}", err=True)


@click.command(hidden=True)
@click.argument("out", type=click.Path(path_type=Path, file_okay=False, exists=True), metavar="OUT")
@click.argument("stage")
@click.argument("jobs", type=int, nargs=-1)
@click.option(
    "--element", type=click.IntRange(min=0), help="Number within the array, if the stage is one."
)
@click.option("--n-procs", type=click.IntRange(min=1), default=1, help="Cores of the job.")
@click.option(
    "--check", is_flag=True, help="Look at how the Slurm jobs JOBS of the stage ended, as above."
)
def job(
    out: Path, stage: str, jobs: tuple[int, ...], element: int | None, n_procs: int, check: bool
) -> None:
    """Do one job of a study that was submitted to Slurm; the scripts in OUT/slurm call this.

    With --check it does no work of the study: it submits again what was killed for memory or time,
    or says what failed and lets the next stage begin.

    Exit codes: 0 done (scans that fail by name do not count), 1 failed, 137 the kernel killed a
    step.
    """
    from axoloci.workflows.cluster import check_stage, run_job

    if check:
        sys.exit(check_stage(out.absolute(), stage, jobs))
    sys.exit(run_job(out.absolute(), stage, element, n_procs))


@click.command()
@out_argument
@click.option(
    "--out",
    "table",
    type=click.Path(path_type=Path, dir_okay=False),
    help="File for the table (TSV), in place of the screen.",
)
@click.option(
    "--timeline",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Picture of the jobs in time (.svg, .png or .html; needs matplotlib). Idle times between "
    "runs are left out; from 2,000 jobs on, the bars of an SVG are pixels.",
)
def trace(out: Path, table: Path | None, timeline: Path | None) -> None:
    """Tell what each job of a study took: a table with one row a job, and a picture.

    STUDY.toml is a study file, OUT its output folder.

    Columns: cohort, scan ("group": a job of the cohort), step, started (UTC), seconds of wall
    clock and of CPU, peak memory of its largest process (MB), exit code, why it was run, version
    of its code. Only the last run of a job is known. The table names people.
    """
    from axoloci.workflows.participants import write_table
    from axoloci.workflows.records import COLUMNS, read_jobs
    from axoloci.workflows.trace import write_timeline

    rows = read_jobs(out)
    if table is not None:
        write_table(table, rows, first=COLUMNS)
        click.echo(f"table: {table} ({len(rows)} jobs)", err=True)
    if timeline is not None:
        write_timeline(rows, timeline, f"Jobs of {out.absolute().name}")
        click.echo(f"timeline: {timeline}", err=True)
    if table is None and timeline is None:
        click.echo("\t".join(COLUMNS))
        for row in rows:
            click.echo("\t".join(str(row[column]) for column in COLUMNS))


@click.command()
@study_argument
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="File: .mmd for Mermaid text, .dot for graphviz's, .svg for a picture (needs the program "
    "'dot' of graphviz).",
)
def graph(study: Path, out: Path | None) -> None:
    """Draw the workflow of a study: cohorts, where their data enter, steps, files between them.

    Without --out, Mermaid text goes to the screen; GitHub and GitLab show it as a picture. The
    data need not be there; if they are, scans are counted.
    """
    from axoloci.io.files import write_text
    from axoloci.scans import find_scans
    from axoloci.workflows.graph import as_dot, as_mermaid, draw, study_graph

    settings = read_study(study)
    n_scans = {}
    for name, cohort in settings.cohorts().items():
        try:
            n_scans[name] = len(find_scans(cohort))
        except InputError:  # the picture does not need the data
            continue
    made = study_graph(settings, n_scans)
    if out is None:
        click.echo(as_mermaid(made), nl=False)
        return
    writers = {".mmd": as_mermaid, ".dot": as_dot, ".svg": draw}
    if out.suffix not in writers:
        raise InputError(f"{out}: a graph is written as {', '.join(writers)}")
    write_text(out, writers[out.suffix](made))


@click.command()
@out_argument
@click.option(
    "--intermediates",
    is_flag=True,
    help="Remove also the corrected DWI of finished scans, most of a study's space (3 to 4 bytes a "
    "voxel and volume). Results stay; but if the tensor fit must be run again (other settings, "
    "another version), the correction must be run again as well.",
)
@click.option("--dry-run", is_flag=True, help="Only say what would be removed.")
def clean(out: Path, intermediates: bool, dry_run: bool) -> None:
    """Free space in the output folder of a study.

    STUDY.toml is a study file, OUT its output folder. Removes what no resume needs: Pydra's cache
    of killed runs, and files that killed jobs left half written. Refused while the study is run.
    """
    from axoloci.workflows.clean import clean_study

    found = clean_study(out, intermediates=intermediates, dry_run=dry_run)
    for kind in found:
        click.echo(f"{kind.what}: {kind.n_files} files, {size(kind.n_bytes)}")
    total = sum(kind.n_bytes for kind in found)
    click.echo(f"{'would free' if dry_run else 'freed'}: {total} bytes ({size(total)})")


@click.command()
@study_argument
@click.option(
    "--n-procs",
    type=click.IntRange(min=1),
    default=lambda: len(os.sched_getaffinity(0)),
    show_default="all cores",
    help="Scans processed at the same time: more cost memory, fewer cost time.",
)
@env_option
def plan(study: Path, n_procs: int, env: str | None) -> None:
    """Say what a study will need: time, memory and disk of each step; and what is missing.

    From the headers of the images (voxels × volumes), the number of people, variants and latents,
    and constants measured on one machine: right within a factor of three at best. Time is of what
    is left to do, on CPUs; disk is of all. Scans count as done while they fit the settings, jobs of
    the cohort as they were last run, though a setting that changed may make them run again. Nothing
    is written.

    Exit codes: 0 nothing is missing, 3 an input or a program is.
    """
    from axoloci.workflows.plan import plan_study

    settings = read_study(study)
    found = plan_study(settings, chosen_environment(env, settings.out))
    for name, people in found.people.items():
        counts = [f"{people:,} people", f"{found.latents[name]:,} latents"]
        if name in found.variants and name != "train":
            counts.append(f"{found.variants[name]:,} variants")
        click.echo(f"{name}: {', '.join(counts)}")
    for shape, number in found.scan_shapes.most_common(5):
        click.echo(f"{number:,} scans of {' × '.join(map(str, shape))} voxels")
    if len(found.scan_shapes) > 5:
        click.echo(f"and scans of {len(found.scan_shapes) - 5} other shapes")
    show_table(
        ("cohort", "job", " jobs", " done", " CPU to do", " memory a job", " step asks", " disk"),
        [
            (
                step.cohort or "study",
                step.job,
                f"{step.n_jobs:,}",
                f"{step.n_done:,}",
                duration(step.seconds),
                size(step.memory_mb * 1e6),
                size(step.asked_gb * 1e9),
                size(step.n_bytes),
            )
            for step in found.steps
        ],
    )
    memory, to_come = found.memory_mb(n_procs) * 1e6, sum(s.n_bytes_to_come for s in found.steps)
    click.echo(f"time left with {n_procs} processes: {duration(found.wall_seconds(n_procs))}")
    click.echo(f"memory at its peak: {size(memory)}")
    click.echo(f"disk still needed: {size(to_come)} ({size(found.free_bytes)} are free)")
    if to_come > found.free_bytes:
        found.missing.append(f"{settings.out}: {size(to_come - found.free_bytes)} of disk")
    corrected = sum(step.n_bytes for step in found.steps if step.job == "preprocess")
    if corrected:
        click.echo(
            f"of the disk, {size(corrected)} are corrected DWI, "
            "which `axoloci clean --intermediates` frees"
        )
    for problem in found.missing:
        click.echo(f"missing: {problem}")
    if found.missing:
        sys.exit(EXIT_NOT_ALL)


COMMANDS = (init, plan, submit, resubmit, job, status, trace, graph, clean)

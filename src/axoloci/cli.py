"""The `axoloci` command: check, run, demo, simulate, steps; others of `care`, `image_commands`."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from axoloci.care import (
    COMMANDS,
    ENCODER_OPTION,
    STUDY_OPTIONS,
    StudyFile,
    env_option,
    key_help,
    option_of,
    run_alone,
    show_table,
)
from axoloci.command import StepGroup, command_group
from axoloci.environments import CPU_LIMIT, MEMORY_LIMIT, StepError, chosen_environment
from axoloci.errors import InputError
from axoloci.image_commands import images
from axoloci.new_step import new_step
from axoloci.steps import installed_steps
from axoloci.study import (
    EncoderSettings,
    StudyPaths,
    StudySettings,
    parse_settings,
    read_study,
)

if TYPE_CHECKING:
    from axoloci.workflows.study import StudyResult

EXIT_FAILED = 1
EXIT_WITH_NAMED_FAILURES = 3
SHOWN = 20  # failures named on the screen; the table of scans holds all

main: StepGroup = command_group(
    "axoloci", "From raw diffusion MRI and genotypes to summary statistics."
)

n_procs_option = click.option(
    "--n-procs",
    type=click.IntRange(min=1),
    default=lambda: len(os.sched_getaffinity(0)),
    show_default="all cores",
    help="Scans processed at the same time (one core each); threads of the group's jobs.",
)


for _command in (*COMMANDS, images, new_step):
    main.add_command(_command)


def _finish(result: StudyResult, paths: StudyPaths, words: Sequence[str]) -> None:
    """Say where the results are, name what failed, and end with the exit code for it."""
    if result.report is not None:
        click.echo(f"report: {result.report}", err=True)
    for outcome in result.failed[:SHOWN]:
        where = f" (log: {(paths.out / outcome.log).absolute()})" if outcome.log else ""
        click.echo(f"failed: {outcome.scan}: {outcome.reason}{where}", err=True)
        click.echo(f"  alone: {run_alone(words, outcome.sample_id)}", err=True)
    if len(result.failed) > SHOWN:
        click.echo(
            f"and {len(result.failed) - SHOWN} more: see {', '.join(map(str, result.scans))}",
            err=True,
        )
    if result.group_error:
        raise click.ClickException(f"{result.group_error}\nlogs: {paths.logs.absolute()}")
    if result.failed:
        sys.exit(EXIT_FAILED if result.all_failed else EXIT_WITH_NAMED_FAILURES)


def _say_why(out: Path, begun: str) -> None:
    """Say which jobs were run since a time, and why."""
    from axoloci.workflows.records import reasons_since

    for step, why, number in reasons_since(out, begun):
        times = f" ({number} jobs)" if number > 1 else ""
        click.echo(f"why: {step}: {why}{times}", err=True)


def study_options(command: Callable[..., None]) -> Callable[..., None]:
    """The study, by its file or by options for the common case; `chosen_study` reads them."""
    path = click.Path(path_type=Path)
    options = (
        click.argument("study", required=False, type=StudyFile(dir_okay=False)),
        *(
            click.option(option_of(key), type=path, help=key_help(key, more))
            for key, more in STUDY_OPTIONS.items()
        ),
        click.option(
            option_of(ENCODER_OPTION),
            type=click.Choice(["refuse", "keep", "drop"]),
            help=key_help(ENCODER_OPTION, of=EncoderSettings),
        ),
        env_option,
        n_procs_option,
        click.option(
            "--stage",
            type=click.Choice(["participants", "group", "all"]),
            default="all",
            help="Scans one by one, the cohort with the scans that are finished, or both.",
        ),
        click.option(
            "--participant-label",
            "participants",
            multiple=True,
            help="Process this person only, with or without 'sub-'; may be repeated. With --stage "
            "participants the report stays as it is.",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


def chosen_study(study: Path | None, **options: Path | str | None) -> StudySettings:
    """The study that the arguments of a command name."""
    given = {name: str(value) for name, value in options.items() if value is not None}
    if study is None:
        if "out" not in given:
            raise click.UsageError("name a study file, or give at least --bids and --out")
        content: dict[str, Any] = dict(given)
        if ENCODER_OPTION in given:
            content["encoder"] = {ENCODER_OPTION: content.pop(ENCODER_OPTION)}
        return parse_settings(content, "command line", Path.cwd())
    if given:
        raise click.UsageError(
            f"a study file says where things lie: {option_of(next(iter(given)))} goes without one"
        )
    return read_study(study)


@main.command()
@study_options
@click.option(
    "--shareable",
    is_flag=True,
    help="Write also report-shareable.html: group results only, no ids, no maps of single people, "
    "no paths, counts below 5 hidden.",
)
@click.option(
    "--why",
    is_flag=True,
    help="Say at the end why each job was run, such as a setting that changed; the jobs of scans "
    "are counted by step and reason.",
)
@click.option(
    "--memory-gb",
    type=click.FloatRange(min=0.1),  # less than Python takes, and engines round to none
    envvar=MEMORY_LIMIT,
    help="Memory that the container of a step may take, GB: one that takes more is killed, and its "
    "scan fails by name. Not natively.",
)
@click.option(
    "--cpus",
    type=click.FloatRange(min=0.01, max=len(os.sched_getaffinity(0))),  # as Apptainer has it
    envvar=CPU_LIMIT,
    help="CPU cores that the container of a step may use, at most those that are here. Not "
    "natively, where --n-procs decides.",
)
def run(
    study: Path | None,
    env: str | None,
    n_procs: int,
    stage: str,
    participants: tuple[str, ...],
    shareable: bool,
    why: bool,
    memory_gb: float | None,
    cpus: float | None,
    **options: Path | str | None,
) -> None:
    """Run a study from raw DWI and genotypes to summary statistics and report.

    STUDY is a study file (TOML); for the common case the options below do without one. The same
    command goes on with a study that was stopped.

    Exit codes: 0 all done, 1 failed, 2 wrong usage, 3 done but for the scans that are named.
    """
    settings = chosen_study(study, **options)
    env = chosen_environment(env, settings.out)
    limits = ((MEMORY_LIMIT, memory_gb), (CPU_LIMIT, cpus))
    # the processes that work on scans inherit it
    os.environ |= {name: str(limit) for name, limit in limits if limit is not None}
    if env == "native" and (memory_gb or cpus):
        click.echo(
            "warning: --memory-gb and --cpus limit containers, and the steps run natively: "
            "without a limit",
            err=True,
        )

    from axoloci.workflows.study import run_study

    begun = datetime.now(UTC).isoformat(timespec="milliseconds")
    try:
        result = run_study(
            settings,
            env=env,
            n_procs=n_procs,
            stage=stage,
            participants=participants,
            shareable=shareable,
        )
    except StepError as error:  # of the report, when the disk is full say
        raise click.ClickException(str(error)) from error
    except KeyboardInterrupt:
        raise click.ClickException("stopped; the same command goes on from here") from None
    paths = StudyPaths(settings.out)
    if shareable and result.report is not None:
        click.echo(f"report to share: {paths.shareable}", err=True)
    if why:
        _say_why(settings.out, begun)
    given = [(name, str(value)) for name, value in options.items() if value is not None]
    words = [str(study)] if study else [w for name, text in given for w in (option_of(name), text)]
    _finish(result, paths, [*words, *(("--env", env) if env != "native" else ())])


@main.command()
@study_options
@click.option(
    "--read-all",
    is_flag=True,
    help="Read all images in full, not their headers only: finds damage within, takes hours where "
    "there are many.",
)
def check(
    study: Path | None,
    env: str | None,
    n_procs: int,
    stage: str,
    participants: tuple[str, ...],
    read_all: bool,
    **options: Path | str | None,
) -> None:
    """List everything that is wrong with a study before it is run; nothing is written.

    `axoloci run` looks for the same and stops for what concerns the whole study; a scan with a
    fault of its own fails by name, and the others go on.

    Exit codes: 0 nothing found (but warnings), 1 problems, 2 wrong usage.
    """
    settings = chosen_study(study, **options)

    from axoloci.workflows.preflight import check as preflight

    found = preflight(
        settings,
        env=chosen_environment(env, settings.out),
        stage=stage,
        n_procs=n_procs,
        participants=participants,
        read_all=read_all,
    )
    for line in found.counts:
        click.echo(line)
    for line in found.warnings:
        click.echo(f"warning: {line}")
    for scan, problems in found.scan_problems.items():
        for line in problems:
            click.echo(f"scan {scan}: {line}")
    for line in found.problems:
        click.echo(f"problem: {line}")
    click.echo(
        f"{len(found.problems)} problems of the study, {len(found.scan_problems)} scans with "
        f"problems, {len(found.warnings)} warnings"
    )
    if found.n_problems:
        sys.exit(EXIT_FAILED)


@main.command()
@click.argument("out", type=click.Path(path_type=Path, file_okay=False), default="axoloci-demo")
@click.option("--n-subjects", type=click.IntRange(min=30), default=150, help="Simulated people.")
@click.option("--seed", type=click.IntRange(min=0), default=1, help="Seed of the simulation.")
@env_option
@n_procs_option
def demo(out: Path, n_subjects: int, seed: int, env: str | None, n_procs: int) -> None:
    """Simulate a cohort, run the whole study on it and compare with the planted truth.

    Writes OUT/cohort, OUT/study and OUT/summary.json.
    """
    try:
        from axoloci.demo import run_demo
    except ImportError as error:
        raise InputError(f"{error}: the demo runs all steps; pip install 'axoloci[all]'") from error
    try:
        summary = run_demo(
            out, n_subjects=n_subjects, seed=seed, env=env or "native", n_procs=n_procs
        )
    except StepError as error:
        raise click.ClickException(f"{error}\nlogs: {out / 'study' / 'logs'}") from error
    for name, own in summary["representations"].items():
        click.echo(
            f"{name}: planted loci found: {len(own['found'])} of {len(summary['planted'])}, false "
            f"leads: {len(own['false_positive'])}, lambda_GC: {own['lambda_gc']:.3f}",
            err=True,
        )
    click.echo(f"report: {summary['report']}", err=True)


@main.command(
    context_settings={"ignore_unknown_options": True, "help_option_names": []},
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def simulate(arguments: tuple[str, ...]) -> None:
    """Simulate a cohort with a known truth; the same as `axoloci-simulate cohort`."""
    program = shutil.which(
        "axoloci-simulate",
        path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
    )
    if program is None:
        raise InputError("axoloci-simulate is not installed: pip install 'axoloci[simulate]'")
    sys.exit(subprocess.call([program, "cohort", *arguments]))


@main.command()
def steps() -> None:
    """List the steps that are installed, ours and third parties'."""
    show_table(
        ("step", "command", "image", "summary"),
        [(one.name, one.command, one.image, one.summary) for one in installed_steps().values()],
    )

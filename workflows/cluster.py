"""A study on a Slurm cluster: its jobs as scripts, and what becomes of those that are killed.

No driver waits. What is to be done is frozen under `work/slurm` when it is submitted: settings,
profile, the list of scans. One array works on the scans, then come the parts of the group stage, in
which another array takes a chromosome each, and the report. After each of these stages a small job,
the check, looks at how it ended: it submits again what ran out of memory or time, and lets the next
stage wait for that; or it says what failed and lets the next stage begin.
"""

from __future__ import annotations

import logging
import math
import os
import platform
import pwd
import re
import shlex
import signal
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from axoloci import slurm
from axoloci.environments import StepError, environment_problems, last_words
from axoloci.errors import InputError
from axoloci.images import IMAGES_VARIABLE, sif_folder
from axoloci.io.files import write_json, write_text
from axoloci.io.genotype_files import count_variants, genotype_set
from axoloci.io.variant_choice import VariantChoice
from axoloci.job import read_record, read_records, was_killed
from axoloci.scans import Scan
from axoloci.slurm import JobState
from axoloci.slurm_profile import Profile, table_of
from axoloci.study import StudyPaths, StudySettings
from axoloci.workflows.engine import CACHE_VARIABLE, STALE_SECONDS, study_lock
from axoloci.workflows.participant import PAGE
from axoloci.workflows.participants import (
    Cohort,
    Outcome,
    read_outcomes,
    recipe,
    run_participants,
    write_outcome,
)
from axoloci.workflows.plan import StepPlan, plan_study
from axoloci.workflows.preflight import check
from axoloci.workflows.provenance import write_crate, write_whole_crate
from axoloci.workflows.slurm_scripts import CHECK, write_scripts
from axoloci.workflows.study import (
    begin,
    groups_behind,
    make_report,
    prepare_group,
    run_group_part,
    take_stock,
)
from axoloci.workflows.submission import (
    Attempt,
    Cost,
    Ended,
    Request,
    Stage,
    StageState,
    Submission,
    as_json,
    forget_submission,
    own_study,
    read_scans,
    read_state,
    read_submission,
    scan_line,
    state_folder,
    submitted_jobs,
    write_state,
)

log = logging.getLogger("axoloci")

MOST_ELEMENTS = 1000  # of an array, where the profile leaves it open: Slurm's own limit
PATIENCE = STALE_SECONDS + 20  # for a driver or another job that died
ENDED = (-signal.SIGTERM, 128 + signal.SIGTERM)  # exit codes of a step whose job Slurm ends
NEVER_BEGAN = "before it began"
CHAIN = "chain"  # lock of those that submit jobs and look at how they ended: one at a time


# --- submitting ---------------------------------------------------------------------------------


def submit_study(
    settings: StudySettings, profile: Profile, *, env: str, n_procs: int, dry_run: bool
) -> list[str]:
    """Check a study, freeze it, write its scripts and submit them.

    Parameters
    ----------
    settings
        The study.
    profile
        The cluster.
    env
        "native", "docker" or "singularity".
    n_procs
        Processes that read headers.
    dry_run
        Write the scripts, submit nothing.

    Returns
    -------
    The sbatch commands, as lines of shell.

    Raises
    ------
    InputError
        The study cannot start, it is being worked on, or Slurm refuses a job.
    """
    paths = StudyPaths(settings.out)
    profile = with_images(profile, env)
    # whether there is a GPU, the nodes must say
    gwas = settings.gwas.model_copy(update={"device": None})
    found = check(
        settings.model_copy(update={"gwas": gwas}),
        env=env,
        n_procs=n_procs,
        loads_engine=bool(profile.slurm.setup),
    )
    found.stop()
    found.log()
    submission = freeze(settings, profile, env, {n: c.scans for n, c in found.cohorts.items()})
    with own_study(paths):
        if dry_run and submitted_jobs(paths):
            raise InputError(
                f"{paths.out}: was submitted, and a dry run would forget how its jobs ended; "
                "axoloci resubmit --dry-run says what is left of it"
            )
        begin(found, paths, env)
        folder = state_folder(paths)
        forget_submission(paths)
        lines = [scan_line(name, scan) for name, c in found.cohorts.items() for scan in c.scans]
        write_text(folder / "scans.jsonl", "".join(f"{line}\n" for line in lines))
        write_json(folder / "submission.json", as_json(submission))
        write_scripts(submission)
    return _submit(submission, [(stage, None) for stage in submission.stages()], dry_run)


def with_images(profile: Profile, env: str) -> Profile:
    """A profile that names the folder of SIF files, which is the one that is looked at from here.

    Jobs know nothing of the shell that submits them, nor of its `AXOLOCI_IMAGES`.
    """
    if env != "singularity":
        return profile
    if profile.slurm.images is not None:
        os.environ[IMAGES_VARIABLE] = str(profile.slurm.images)
    own = profile.slurm.model_copy(update={"images": sif_folder().absolute()})
    return profile.model_copy(update={"slurm": own})


def freeze(
    settings: StudySettings, profile: Profile, env: str, scans: Mapping[str, Sequence[Scan]]
) -> Submission:
    """What a submission keeps.

    Raises
    ------
    InputError
        The study and the profile contradict each other.
    """
    plan = plan_study(settings, env)
    n_scans = sum(map(len, scans.values()))
    submission = Submission(
        settings=settings,
        profile=profile,
        env=env,
        costs={_cost_key(step): _cost(step) for step in plan.steps},
        n_scans=n_scans,
        scans_per_element=profile.slurm.scans_per_element
        or max(1, math.ceil(n_scans / MOST_ELEMENTS)),
        chromosomes={
            name: _chromosomes(cohort)
            for name, cohort in settings.cohorts().items()
            if name != "train" and cohort.genotypes is not None
        },
    )
    _check_profile(submission)
    return submission


def _chromosomes(cohort: StudySettings) -> dict[str, int]:
    """Variants that are tested of each chromosome, but for what their genotypes tell."""
    assert cohort.genotypes is not None
    genotypes, gwas = genotype_set(cohort.genotypes), cohort.gwas
    choice = VariantChoice(gwas.region, gwas.extract, gwas.exclude)
    return count_variants(genotypes) if choice.is_all else choice.count(genotypes)


def _cost_key(step: StepPlan) -> str:
    return f"{'' if step.job == 'report' else step.cohort}/{step.job}"


def _cost(step: StepPlan) -> Cost:
    return Cost(memory_mb=step.memory_mb, seconds=step.longest)


def _check_profile(submission: Submission) -> None:
    on_gpu = any(s.request.gpu for s in submission.stages() if s.action == "associate")
    without = submission.without_cuda()
    if submission.settings.gwas.device == "cuda" and not on_gpu:
        raise InputError(
            "'gwas.device' of the study is 'cuda', but "
            + (
                "no image with CUDA is pinned for the association: "
                "axoloci images build gwas-cuda --lock"
                if "gwas" in without
                else "the profile gives the association no GPU: set gpu = true in its [steps.gwas]"
            )
        )
    if without:
        log.warning(
            "%s: will compute on CPUs, for no image with CUDA is pinned; axoloci images build %s "
            "--lock makes one",
            *(", ".join(without), " ".join(f"{step}-cuda" for step in without)),
        )


def _submit(
    submission: Submission, wanted: Sequence[tuple[Stage, Sequence[int] | None]], dry_run: bool
) -> list[str]:
    """Submit a chain of stages, all elements of each or some; the commands as lines of shell."""
    folder, said = submission.paths.slurm, []
    sent: list[int] = []

    def send(name: str, script: Path, arguments: Sequence[str], **options: str | None) -> str:
        command = slurm.sbatch_command(script, arguments, options=options)
        variable = re.sub(r"\W", "_", name)
        # what is a variable to the shell stays one
        words = [w if re.fullmatch(r"[\w=:-]*\$\w+", w) else shlex.quote(w) for w in command]
        said.append(f"{variable}=$({' '.join(words)})")
        if dry_run:
            return f"${variable}"
        sent.append(slurm.submit_job(command))
        return str(sent[-1])

    if not dry_run:
        _check_array_sizes(wanted)
    previous = ""
    try:
        with study_lock(submission.paths, CHAIN):
            for stage, elements in wanted:
                chosen = range(len(stage.elements) or 1) if elements is None else elements
                jobs = []
                if chosen:
                    after = "afterany" if stage.action == "report" else "afterok"
                    throttle = submission.profile.slurm.max_array_running
                    some = stage.elements and elements is not None
                    jobs.append(
                        send(
                            stage.name,
                            folder / stage.script,
                            (),
                            dependency=f"{after}:{previous}" if previous else None,
                            array=f"{slurm.write_elements(chosen)}%{throttle}" if some else None,
                            **{"kill-on-invalid-dep": "yes"},
                        )
                    )
                    if not dry_run:
                        attempt = Attempt(
                            job=sent[-1], elements=tuple(chosen), request=stage.request
                        )
                        write_state(submission, stage, StageState(attempts=(attempt,)))
                previous = send(
                    f"check_{stage.name}",
                    folder / CHECK,
                    (stage.name, *jobs),
                    dependency=f"afterany:{jobs[0]}" if jobs else None,
                )
                if not dry_run:
                    state = read_state(submission, stage)
                    checks = (*state.checks, sent[-1])
                    write_state(submission, stage, state.model_copy(update={"checks": checks}))
    except BaseException:  # Ctrl-C too
        slurm.cancel(sent)  # half a chain is of no use
        raise
    return said


def _check_array_sizes(wanted: Iterable[tuple[Stage, Sequence[int] | None]]) -> None:
    most = slurm.max_array_size()
    for stage, _ in wanted:
        if len(stage.elements) > most:
            raise InputError(
                f"{stage.name}: {len(stage.elements)} elements, and Slurm takes {most} in an "
                "array: raise scans_per_element in the profile"
            )


def resubmit_study(settings: StudySettings, profile: Profile | None, *, dry_run: bool) -> list[str]:
    """Submit again what of a submitted study is not finished.

    Parameters
    ----------
    settings
        The study, unchanged.
    profile
        The cluster, if other than before.
    dry_run
        Write the scripts, submit nothing.

    Returns
    -------
    The sbatch commands, as lines of shell; none if all is finished.

    Raises
    ------
    InputError
        It was not submitted, or is another study by now, or is being worked on.
    """
    submission = read_submission(settings.out)
    if as_json(submission.settings) != as_json(settings):
        raise InputError(
            f"{settings.out}: the study file says other things than when it was submitted; run "
            "axoloci submit again, which keeps what still holds"
        )
    if profile is not None:
        update = {"profile": with_images(profile, submission.env)}
        submission = submission.model_copy(update=update)
        _check_profile(submission)
    with own_study(submission.paths):
        write_json(state_folder(submission.paths) / "submission.json", as_json(submission))
        write_scripts(submission)
        wanted = _unfinished(submission)
    return _submit(submission, wanted, dry_run) if wanted else []


def _unfinished(submission: Submission) -> list[tuple[Stage, list[int] | None]]:
    """Stages that are not done, and those that follow; of an array the elements that are not."""
    wanted: list[tuple[Stage, list[int] | None]] = []
    for stage in submission.stages():
        state = read_state(submission, stage)
        if stage.action == "participants":
            found = _outcomes(submission, read_scans(submission))
            elements = _unfinished_elements(submission, found)
            if elements or not state.done or groups_behind(submission.settings, found):
                wanted.append((stage, elements))
        elif wanted:  # what it works on may change
            wanted.append((stage, None))
        elif not state.done:
            bad = [element for element, end in state.ended.items() if end.state != "COMPLETED"]
            wanted.append((stage, bad or None))
    return wanted


def _unfinished_elements(
    submission: Submission, found: Mapping[str, Sequence[Outcome]]
) -> list[int]:
    """Elements with a scan that is not finished."""
    size = submission.scans_per_element
    # in the order of the frozen list, which goes by cohort
    ok = [outcome.status == "ok" for outcomes in found.values() for outcome in outcomes]
    return sorted({number // size for number, is_ok in enumerate(ok) if not is_ok})


def _outcomes(
    submission: Submission, scans: Mapping[str, Sequence[Scan]]
) -> dict[str, list[Outcome]]:
    cohorts = submission.settings.cohorts()
    return {
        name: read_outcomes(own, cohorts[name], submission.env)
        for name, own in scans.items()
        if own
    }


# --- inside a job -------------------------------------------------------------------------------


@contextmanager
def _own_cache(submission: Submission, part: str) -> Iterator[None]:
    """A cache for Pydra that no other job knows, on the node's own disk if there is a scratch."""
    paths = submission.paths
    paths.cache.mkdir(mode=0o700, parents=True, exist_ok=True)
    where = None if submission.profile.slurm.scratch else paths.cache
    with tempfile.TemporaryDirectory(dir=where, prefix=f"{part}-") as cache:
        os.environ[CACHE_VARIABLE] = cache
        try:
            yield
        finally:
            del os.environ[CACHE_VARIABLE]


def run_job(out: Path, name: str, element: int | None, n_procs: int) -> int:
    """Do one job of a submitted study: a stage that is no array, or an element of one.

    Parameters
    ----------
    out
        Folder of the study.
    name
        Of the stage.
    element
        Number within the array.
    n_procs
        Scans at the same time; threads of a job of the cohort.

    Returns
    -------
    Exit code: 0, 1 with the reason in the log, or `slurm.KILLED`. Scans that fail by name do not
    count.

    Raises
    ------
    InputError
        No such stage or element.
    """
    submission = read_submission(out)
    stage = submission.stage(name)
    if (element is None) == bool(stage.elements):
        raise InputError(
            f"{name}: has elements 0 to {len(stage.elements) - 1}; name one by --element"
            if stage.elements
            else f"{name}: is no array; leave out --element"
        )
    if element is not None and not 0 <= element < len(stage.elements):
        raise InputError(f"{name}: no element {element}; the last is {len(stage.elements) - 1}")
    part = name if element is None else f"{name}-{element}"
    ended = state_folder(submission.paths) / "ended" / f"{part}.json"
    job = os.environ.get("SLURM_ARRAY_JOB_ID") or os.environ.get("SLURM_JOB_ID", "")
    ended.unlink(missing_ok=True)
    reason, code = "", 1
    try:
        with (
            study_lock(submission.paths, part, patience=PATIENCE),
            _own_cache(submission, part),
        ):
            # what the submitting machine has, a node may lack: that is no fault of the scans
            if lacking := environment_problems(submission.env, stage.steps):
                raise InputError(f"node {platform.node()}: {'; '.join(lacking)}")
            code = _do(submission, stage, element, n_procs)
    except (InputError, OSError, StepError) as error:
        reason = str(error)
        if isinstance(error, StepError) and error.exit_code and was_killed(error.exit_code):
            code = slurm.KILLED
        log.error("%s", reason)
    write_json(ended, {"job": job, "exit_code": code, "reason": reason})
    return code


def _do(submission: Submission, stage: Stage, element: int | None, n_procs: int) -> int:
    """The work of a job."""
    settings, env = submission.run_settings(), submission.env
    if stage.action == "participants":
        return _run_scans(submission, read_scans(submission, element), n_procs)
    if stage.action == "report":
        return _report(submission)
    chromosome = None if element is None else stage.elements[element]
    cohort = stage.cohort or "discovery"
    run_group_part(settings, cohort, stage.action, env, n_procs, chromosome)
    return 0


def _run_scans(submission: Submission, scans: Mapping[str, Sequence[Scan]], n_procs: int) -> int:
    """The scans of one element."""
    cohorts = submission.settings.cohorts()
    for name, own in scans.items():
        if own:
            run_participants(own, cohorts[name], submission.env, n_procs)
    killed = [
        outcome.scan
        for name, outcomes in _outcomes(submission, scans).items()
        for outcome in outcomes
        if outcome.status == "failed" and was_killed(_last_exit(cohorts[name], outcome))
    ]
    return slurm.KILLED if killed else 0


def _last_exit(settings: StudySettings, outcome: Outcome) -> int | None:
    """Exit code of the step that a scan came to; none if that never ended."""
    records = read_records(StudyPaths(settings.out).logs / outcome.scan)
    last = max(records, key=lambda record: record.get("started", ""), default={"exit_code": 0})
    code: int | None = last.get("exit_code")
    return code


def _cohorts(submission: Submission) -> dict[str, Cohort]:
    """The cohorts as they stand, their tables written."""
    scans = read_scans(submission)
    cohorts = {n: Cohort(c, scans[n]) for n, c in submission.run_settings().cohorts().items()}
    for cohort in cohorts.values():
        if cohort.settings.start != "gwas":
            take_stock(cohort, submission.env)
    return cohorts


def _report(submission: Submission) -> int:
    """The report and the crates."""
    cohorts, env = _cohorts(submission), submission.env
    errors = [
        f"{stage.name}: {state.error}"
        for stage in submission.stages()
        if (state := read_state(submission, stage)).error
    ]
    group = f"The group stage failed: {errors[0]}" if errors else ""
    make_report(cohorts, submission.run_settings(), env, group=group)
    for cohort in cohorts.values():
        write_crate(cohort, env)
    write_whole_crate(submission.settings, env)
    return 0


# --- the check ----------------------------------------------------------------------------------


def check_stage(out: Path, name: str, jobs: Sequence[int]) -> int:
    """Look at how the jobs of a stage ended: submit some again, or say what failed.

    Parameters
    ----------
    out
        Folder of the study.
    name
        Of the stage.
    jobs
        Numbers of its jobs that have ended.

    Returns
    -------
    Exit code: 0 if the next stage may begin, or waits for another check; 1 if it cannot.
    """
    submission = read_submission(out)
    stage = submission.stage(name)
    with study_lock(submission.paths, CHAIN, patience=PATIENCE):
        state = _with_ends(submission, stage, read_state(submission, stage), jobs)
        again = to_repeat(state, jobs, submission.profile)
        try:
            if _repeat(submission, stage, state, again):
                return 0
        except InputError as error:
            log.error("not submitted again: %s", error)
        why = _conclude(submission, stage, state)
        update = {"done": not why, "error": why}
        write_state(submission, stage, state.model_copy(update=update))
    if why:
        log.error("%s", why)
    return 1 if why else 0


def _with_ends(
    submission: Submission, stage: Stage, state: StageState, jobs: Sequence[int]
) -> StageState:
    """What is known of a stage, with how some of its jobs ended."""
    found = slurm.job_states(jobs)
    attempts, ended = list(state.attempts), dict(state.ended)
    for job in jobs:
        if job not in {attempt.job for attempt in attempts}:  # submitted by hand
            own = sorted(element or 0 for number, element in found if number == job)
            elements = tuple(own or range(len(stage.elements) or 1))
            attempts.append(Attempt(job=job, elements=elements, request=stage.request))
    for attempt in attempts:
        if attempt.job in jobs:
            for element in attempt.elements:
                key = (attempt.job, element if stage.elements else None)
                ended[element] = _end(submission, stage, key, found.get(key))
    return state.model_copy(update={"attempts": tuple(attempts), "ended": ended})


def _end(
    submission: Submission, stage: Stage, key: tuple[int, int | None], state: JobState | None
) -> Ended:
    """How a job ended: what Slurm knows, with its own words where it failed by itself."""
    job, element = key
    part = stage.name if element is None else f"{stage.name}-{element}"
    own = read_record(state_folder(submission.paths) / "ended" / f"{part}.json")
    if own.get("job") != str(job):
        own = {}
    number = f"{job}" if element is None else f"{job}_{element}"
    log_file = submission.paths.slurm / "logs" / f"{stage.name}-{number}.log"
    if state is None and not own and not log_file.exists():
        # Slurm keeps no record of an element that is cancelled while it waits
        return Ended(state="CANCELLED", reason=NEVER_BEGAN)
    if state is None:
        code = own.get("exit_code")
        known = "UNKNOWN" if code is None else "FAILED" if code else "COMPLETED"
        return Ended(state=known, exit_code=code or 0, reason=own.get("reason", ""))
    reason = state.reason
    if state.state == "FAILED":
        said = own.get("reason") or _last_words(log_file)
        reason = " ".join(said.split())
    return Ended(state=state.state, exit_code=state.exit_code, reason=reason, node=state.node)


def _last_words(log_file: Path) -> str:
    try:
        said = log_file.read_text("utf-8", "replace")
    except OSError:
        return "it left no log"
    return last_words(said)


def to_repeat(
    state: StageState, jobs: Sequence[int], profile: Profile
) -> list[tuple[Request, list[int]]]:
    """Elements that are worth another try, with what to ask for, within the profile's bound."""
    found: list[tuple[Request, list[int]]] = []
    for element in sorted(state.ended):
        tries = state.tries(element)
        end = state.ended[element]
        lacks = JobState(0, None, end.state, end.exit_code).lacks
        recent = bool(tries) and tries[-1].job in jobs
        if not lacks or not recent or len(tries) > profile.slurm.retries:
            continue
        request = tries[-1].request.grown(lacks, profile.slurm.retry_factor)
        alike = next((own for other, own in found if other == request), None)
        if alike is None:
            found.append((request, [element]))
        else:
            alike.append(element)
    return found


def _repeat(
    submission: Submission,
    stage: Stage,
    state: StageState,
    again: Sequence[tuple[Request, Sequence[int]]],
) -> bool:
    """Submit some elements again, and let what waits for this check wait for another one.

    Returns
    -------
    Whether any of them will be tried again: Slurm refuses, say, memory that no node has.
    """
    folder, attempts = submission.paths.slurm, list(state.attempts)
    throttle = submission.profile.slurm.max_array_running
    numbers: list[int] = []
    try:
        for request, elements in again:
            some = f"{slurm.write_elements(elements)}%{throttle}" if stage.elements else None
            options = {"mem": f"{request.memory_mb}M", "time": str(request.minutes), "array": some}
            command = slurm.sbatch_command(folder / stage.script, options=options)
            try:
                numbers.append(slurm.submit_job(command))
            except InputError as error:  # that costs the others nothing
                log.error("not submitted again: %s", error)
                continue
            attempts.append(Attempt(job=numbers[-1], elements=tuple(elements), request=request))
            log.info(
                "%s: submitted again with %d MB and %d min: job %d, elements %s",
                *(stage.name, request.memory_mb, request.minutes, numbers[-1]),
                slurm.write_elements(elements),
            )
        if not numbers:
            return False
        words = [*map(str, numbers)]
        options = {"dependency": ":".join(["afterany", *words])}
        following = slurm.submit_job(
            slurm.sbatch_command(folder / CHECK, [stage.name, *words], options=options)
        )
        numbers.append(following)
        this = os.environ.get("SLURM_JOB_ID", "")
        if this:
            for job, dependency in slurm.waiting_for(int(this)).items():
                slurm.wait_instead(job, re.sub(rf":{this}\b", f":{following}", dependency))
    except InputError:
        slurm.cancel(numbers)
        raise
    update = {"attempts": tuple(attempts), "checks": (*state.checks, following)}
    write_state(submission, stage, state.model_copy(update=update))
    return True


def _conclude(submission: Submission, stage: Stage, state: StageState) -> str:
    """What is to be done when no job of a stage is to come; why the next cannot begin, if so."""
    if stage.action != "participants":
        bad = [e for e, end in sorted(state.ended.items()) if end.state != "COMPLETED"]
        named = [
            f"{stage.elements[e]}: {in_words(stage, state, e)}"
            if stage.elements
            else in_words(stage, state, e)
            for e in bad
        ]
        return "; ".join(named)
    for name, outcome in killed_scans(submission, stage, state):
        write_outcome(outcome, StudyPaths(submission.settings.cohorts()[name].out))
    try:
        prepare_group(_cohorts(submission))
    except InputError as error:
        return str(error)
    return ""


def killed_scans(
    submission: Submission, stage: Stage, state: StageState
) -> Iterator[tuple[str, Outcome]]:
    """Scans that have no result because of how their element ended: cohort and outcome."""
    bad = [e for e, end in sorted(state.ended.items()) if end.state != "COMPLETED"]
    if not bad:
        return
    cohorts, size = submission.settings.cohorts(), submission.scans_per_element
    scans = read_scans(submission)
    known = {
        (name, outcome.scan): outcome
        for name, outcomes in _outcomes(submission, scans).items()
        for outcome in outcomes
    }
    keys = [(name, scan.prefix) for name, own in scans.items() for scan in own]
    recipes = {name: recipe(cohorts[name], submission.env) for name, own in scans.items() if own}
    for element in bad:
        reason = in_words(stage, state, element)
        for name, prefix in keys[element * size : (element + 1) * size]:
            outcome = known[name, prefix]
            if outcome.status == "ok" or _failed_by_itself(cohorts[name], outcome):
                continue
            paths = StudyPaths(cohorts[name].out)
            logs = str((paths.logs / prefix).relative_to(paths.out))
            yield (
                name,
                replace(outcome, status="failed", reason=reason, log=logs, made_by=recipes[name]),
            )


def _failed_by_itself(settings: StudySettings, outcome: Outcome) -> bool:
    """Whether a scan failed, and not because its job was ended."""
    code = _last_exit(settings, outcome)
    return outcome.status == "failed" and not was_killed(code) and code not in ENDED


def in_words(stage: Stage, state: StageState, element: int) -> str:
    """Why an element has no result, with Slurm's word for it and the mend."""
    end, tries = state.ended[element], state.tries(element)
    request = tries[-1].request if tries else stage.request
    times = f" in {len(tries)} tries" if len(tries) > 1 else ""
    tables = " or ".join(f"[{table_of(step)}]" for step in stage.jobs if step != PAGE)
    lacks = JobState(0, None, end.state, end.exit_code).lacks
    word = end.state if end.state != "FAILED" else f"exit {end.exit_code}"
    if lacks == "memory":
        why = f"out of memory{times}, the last with {request.memory_mb} MB"
        mend = f"raise memory_gb of {tables} in the profile"
    elif lacks == "time":
        why = f"over its time limit{times}, the last of {request.minutes} min"
        mend = f"raise minutes of {tables} in the profile"
    elif end.reason == "DependencyNeverSatisfied":
        why, mend = "not begun, for the stage before it failed", "mend that, then axoloci resubmit"
    elif end.state == "CANCELLED":
        why = f"cancelled {_by_whom(end.reason)}".rstrip()
        mend = "axoloci resubmit takes it up again"
    elif lacks == "node":
        why, mend = f"its node {end.node or '?'} failed{times}", "axoloci resubmit tries it again"
    elif end.state == "UNKNOWN":
        why = "it ended without a word, and Slurm knows no more of it"
        mend = "axoloci resubmit tries it again"
    else:
        why, mend = end.reason, "mend that, then axoloci resubmit"
    return f"{why} (Slurm: {word}); {mend}"


def _by_whom(reason: str) -> str:
    """Who cancelled a job, by name; `reason` is "by" and the number of the user."""
    if reason == NEVER_BEGAN:
        return reason
    number = reason.removeprefix("by ")
    if not number.isdigit():
        return f"({reason})" if reason else ""
    try:
        return f"by {pwd.getpwuid(int(number)).pw_name} (uid {number})"
    except KeyError:
        return f"by uid {number}"


# --- status -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class StageView:
    """How a stage stands: numbers of its elements, and reasons of those that failed."""

    name: str
    jobs: tuple[int, ...]
    n_elements: int
    done: int
    running: int
    waiting: int
    failed: tuple[str, ...]


def cluster_state(out: Path) -> tuple[list[StageView], dict[str, dict[str, Outcome]]]:
    """How the stages of a submitted study stand, by Slurm as well.

    Returns
    -------
    stages
        In their order; those that were not submitted are left out.
    scans
        By cohort and name, the scans that have no result because their element was killed or
        cancelled, with the reason.
    """
    submission = read_submission(out)
    stages = submission.stages()
    states = {stage.name: read_state(submission, stage) for stage in stages}
    found = slurm.job_states(submitted_jobs(submission.paths))
    views: list[StageView] = []
    scans: dict[str, dict[str, Outcome]] = {}
    for stage in stages:
        state = states[stage.name]
        if not state.attempts:
            continue
        counts = {"running": 0, "waiting": 0}
        ended: dict[int, Ended] = {}
        for element in sorted({e for attempt in state.attempts for e in attempt.elements}):
            job = state.tries(element)[-1].job
            key = (job, element if stage.elements else None)
            now = found.get(key)
            if now is not None and not now.ended:
                counts["running" if now.state in slurm.RUNNING else "waiting"] += 1
            elif now is None and element in state.ended:
                ended[element] = state.ended[element]
            elif not slurm.is_here():  # nobody can say whether it is still to come
                counts["waiting"] += 1
            else:
                ended[element] = _end(submission, stage, key, now)
        state = state.model_copy(update={"ended": ended})
        bad = [e for e, end in ended.items() if end.state != "COMPLETED"]
        of_scans = stage.action == "participants"  # each scan is named with its reason
        reasons = tuple(
            (f"{stage.elements[e]}: " if stage.elements else "") + in_words(stage, state, e)
            for e in bad
        )
        views.append(
            StageView(
                stage.name,
                tuple(attempt.job for attempt in state.attempts),
                len(ended) + sum(counts.values()),
                len(ended) - len(bad),
                counts["running"],
                counts["waiting"],
                (*_lost_check(state, found), *(() if of_scans else reasons)),
            )
        )
        if of_scans:
            for name, outcome in killed_scans(submission, stage, state):
                scans.setdefault(name, {})[outcome.scan] = outcome
    return views, scans


def _lost_check(state: StageState, found: slurm.States) -> tuple[str, ...]:
    """Why no job has looked at how a stage ended, if that is so: the next stages never begin."""
    end = found.get((state.checks[-1], None)) if state.checks else None
    if end is None or not end.ended or end.state == "COMPLETED" or state.done or state.error:
        return ()
    key = {"memory": "memory_gb", "time": "minutes"}.get(end.lacks)
    more = f"raise {key} of [steps.check] in the profile, then " if key else ""
    return (f"its check was lost (Slurm: {end.state}); {more}axoloci resubmit goes on",)

"""What is frozen when a study is submitted to Slurm, and what is kept of its jobs.

work/slurm/submission.json   settings, profile, environment
work/slurm/scans.jsonl       the scans, one a line; element k takes the k-th so many lines
work/slurm/STAGE.json        job numbers of a stage, and how they ended
work/slurm/ended/            how each job ended in its own words, should Slurm not know any more
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from axoloci import slurm
from axoloci.environments import lacks_cuda
from axoloci.errors import InputError
from axoloci.io.files import write_json
from axoloci.job import read_record
from axoloci.scans import FILES, Scan
from axoloci.slurm_profile import Profile
from axoloci.study import Section, StudyPaths, StudySettings
from axoloci.workflows.engine import study_lock
from axoloci.workflows.graph import group_parts, group_programs
from axoloci.workflows.participant import PAGE, resources_of, step_of
from axoloci.workflows.participants import steps_of

CONCLUDING = (  # jobs that follow the association
    *("export", "joint", "loci", "replicate", "signals", "heritability", "ldsc"),
    *("linearise", "voxels", "voxelh2"),
)
OVERHEAD_MB = 500  # of axoloci itself, beside the steps that it runs
WORKER_MB = 200  # of each of its processes that work on a scan
MEMORY_MARGIN, TIME_MARGIN = 2.0, 4.0  # over the plan, which is right within a factor of three
START_MINUTES = 5.0  # of a job whose time nobody has named


class Request(Section):
    """What a job asks of Slurm: MB, minutes, cores."""

    memory_mb: int
    minutes: int
    cpus: int
    gpu: bool = False
    partition: str | None = None

    def grown(self, lacks: str, factor: float) -> Request:
        """With more of what it lacked."""
        memory = self.memory_mb * (factor if lacks == "memory" else 1)
        minutes = self.minutes * (factor if lacks == "time" else 1)
        update = {"memory_mb": math.ceil(memory), "minutes": math.ceil(minutes)}
        return self.model_copy(update=update)


class Stage(Section):
    """A link of the chain: a job, or an array of them, that is checked before the next begins."""

    number: int
    action: str  # "participants", a part of the group stage, or "report"
    cohort: str  # whose part of the group stage it is; empty for the study
    elements: tuple[str, ...]  # what each element of an array works on; none: it is no array
    jobs: tuple[str, ...]  # the steps whose resources it takes, and the page of a scan
    request: Request

    @property
    def name(self) -> str:
        """As scripts, logs and locks are named."""
        return "_".join(filter(None, (self.cohort, self.action)))

    @property
    def steps(self) -> tuple[str, ...]:
        """The steps that it runs."""
        return tuple(dict.fromkeys(map(step_of, self.jobs)))

    @property
    def script(self) -> str:
        """File name of its script."""
        return f"{self.number}_{self.name}.sh"


class Cost(Section):
    """What the plan says of one job: MB and seconds."""

    memory_mb: float
    seconds: float


class Submission(Section):
    """What is frozen when a study is submitted."""

    settings: StudySettings
    profile: Profile
    env: str
    costs: dict[str, Cost]  # of "cohort/job"
    n_scans: int
    scans_per_element: int
    chromosomes: dict[str, dict[str, int]]  # by cohort: variants of each

    @property
    def paths(self) -> StudyPaths:
        """Where the study lies."""
        return StudyPaths(self.settings.out)

    def stages(self) -> list[Stage]:
        """The chain, in its order."""
        programs = group_programs(self.settings)
        several = set(self.settings.cohorts()) != {"discovery"}
        planned: list[tuple[str, str, tuple[str, ...]]] = []
        n_elements = math.ceil(self.n_scans / self.scans_per_element)
        if n_elements:
            planned.append(("participants", "", tuple(map(str, range(n_elements)))))
        for cohort, part in group_parts(self.settings, in_parts=True):
            elements = tuple(self.chromosomes[cohort]) if part == "associate" else ()
            planned.append((part, cohort, elements))
        planned.append(("report", "", ()))
        found = []
        for number, (action, cohort, elements) in enumerate(planned, start=1):
            jobs = self._jobs(action, cohort, programs)
            found.append(
                Stage(
                    number=number,
                    action=action,
                    cohort=cohort if several else "",
                    elements=elements,
                    jobs=tuple(dict.fromkeys(step for step, _, _ in jobs)),
                    request=self._request(action, jobs),
                )
            )
        return found

    def stage(self, name: str) -> Stage:
        """The stage of a name.

        Raises
        ------
        InputError
            There is none.
        """
        stages = {stage.name: stage for stage in self.stages()}
        if name not in stages:
            raise InputError(f"no stage '{name}'; there are {', '.join(stages)}")
        return stages[name]

    def _jobs(
        self, action: str, cohort: str, programs: Mapping[str, Mapping[str, str]]
    ) -> list[tuple[str, Cost, bool]]:
        """Step and cost of each job of a stage, and whether its time counts.

        The page of a scan stands for itself: `[steps.report]` of the profile is for the study's.
        """
        nothing = Cost(memory_mb=0, seconds=0)
        if action == "participants":  # an element may be of any cohort
            costs: dict[str, Cost] = {}
            for name, settings in self.settings.cohorts().items():
                for job in steps_of(settings):
                    old, new = costs.get(job, nothing), self.costs.get(f"{name}/{job}", nothing)
                    costs[job] = Cost(
                        memory_mb=max(old.memory_mb, new.memory_mb),
                        seconds=max(old.seconds, new.seconds),
                    )
            return [(job, cost, True) for job, cost in costs.items()]
        if action == "report":
            return [("report", self.costs.get("/report", nothing), True)]
        trains = (cohort, "train") in group_parts(self.settings)
        planned = "plan" if self.settings.gwas.mixed_model else "prepare"
        found = []
        for job, program in programs[cohort].items():
            kind = job.partition("_")[0]
            parts = {
                "pack": ("train" if trains else "prepare",),
                "train": ("train",),
                **dict.fromkeys(("encode", "pca", "samples"), ("prepare",)),
                "ridge": ("ridge",),
                "gwas": (planned, "associate", "conclude"),
                **dict.fromkeys(CONCLUDING, ("conclude",)),
            }.get(kind, ())
            if action in parts:
                cost = self.costs.get(f"{cohort}/{job}", nothing)
                if action == "associate":
                    variants = self.chromosomes[cohort].values()
                    largest = max(variants) / sum(variants)
                    cost = cost.model_copy(update={"seconds": cost.seconds * largest})
                counts = kind != "gwas" or action == "associate"
                found.append((program.removeprefix("axoloci-"), cost, counts))
        return found

    def _request(self, action: str, jobs: Iterable[tuple[str, Cost, bool]]) -> Request:
        """What a stage of these jobs, which run one after another, asks for."""
        cluster = self.profile.slurm
        memory, minutes, cpus = 0.0, 0.0, 1
        gpu, named, partition = False, True, None
        for step, cost, counts in jobs:
            own = self.profile.request(step)
            asks = resources_of(step)
            memory = max(
                memory,
                1000 * own.memory_gb
                if own.memory_gb
                else max(1000 * asks.memory_gb, MEMORY_MARGIN * cost.memory_mb),
            )
            if counts:
                named = named and (step == PAGE or own.minutes is not None)
                minutes += own.minutes or TIME_MARGIN * cost.seconds / 60
            of_scans = action == "participants"
            cpus = max(cpus, own.cpus or (1 if of_scans else asks.cpus))
            on_gpu = action != "ridge" and self._wants_gpu(step)
            gpu = gpu or (on_gpu and not lacks_cuda(self.env, step))
            partition = partition or own.partition
        overhead = OVERHEAD_MB
        if action == "participants":
            memory, overhead = memory * cpus, overhead + WORKER_MB * cpus
            minutes *= math.ceil(self.scans_per_element / cpus)
        return Request(
            memory_mb=math.ceil(memory + overhead),
            minutes=math.ceil(minutes + (0 if named else START_MINUTES)),
            cpus=cpus,
            gpu=gpu,
            partition=partition or (cluster.gpu_partition if gpu else None) or cluster.partition,
        )

    def _wants_gpu(self, step: str) -> bool:
        """Whether the profile gives a step a GPU."""
        own = self.profile.request(step).gpu
        if own is not None:
            return own
        return resources_of(step).gpu and self.profile.slurm.gpu_partition is not None

    def without_cuda(self) -> list[str]:
        """Steps that the profile gives a GPU in vain, for the images that they have."""
        steps = dict.fromkeys(step for stage in self.stages() for step in stage.steps)
        return [step for step in steps if self._wants_gpu(step) and lacks_cuda(self.env, step)]

    def run_settings(self) -> StudySettings:
        """The study as the jobs run it: all of one association on one kind of device."""
        if self.settings.gwas.device in ("cpu", "cuda"):
            return self.settings
        on_gpu = any(s.request.gpu for s in self.stages() if s.action == "associate")
        gwas = self.settings.gwas.model_copy(update={"device": "cuda" if on_gpu else "cpu"})
        return self.settings.model_copy(update={"gwas": gwas})


class Attempt(Section):
    """One submission of some elements of a stage; a job that is no array is element 0."""

    job: int
    elements: tuple[int, ...]
    request: Request


class Ended(Section):
    """How an element ended, in Slurm's words or its own."""

    state: str
    exit_code: int = 0
    reason: str = ""
    node: str = ""


class StageState(Section):
    """What has become of a stage."""

    attempts: tuple[Attempt, ...] = ()
    checks: tuple[int, ...] = ()
    ended: dict[int, Ended] = {}
    done: bool = False
    error: str = ""

    def tries(self, element: int) -> list[Attempt]:
        """The attempts at an element."""
        return [attempt for attempt in self.attempts if element in attempt.elements]


def state_folder(paths: StudyPaths) -> Path:
    """Where all of this is kept."""
    return paths.work / "slurm"


def was_submitted(out: Path) -> bool:
    """Whether a study has been submitted to Slurm."""
    return (state_folder(StudyPaths(out)) / "submission.json").is_file()


def submitted_jobs(paths: StudyPaths) -> list[int]:
    """Numbers of all jobs of the last submission, which may be of another version of axoloci."""
    records = (read_record(file) for file in sorted(state_folder(paths).glob("*.json")))
    return [
        number
        for record in records
        for number in (*(a["job"] for a in record.get("attempts", ())), *record.get("checks", ()))
    ]


def refuse_if_queued(paths: StudyPaths) -> None:
    """Stop if jobs of the last submission are still to come.

    Raises
    ------
    InputError
        They are; says how to end them.
    """
    states = slurm.job_states(submitted_jobs(paths))
    queued = {job for (job, _), state in states.items() if not state.ended}
    if queued:
        numbers = " ".join(map(str, sorted(queued)))
        raise InputError(
            f"{paths.out}: jobs of this study are still in Slurm's queue; wait for them, or end "
            f"them by: scancel {numbers}"
        )


@contextmanager
def own_study(paths: StudyPaths) -> Iterator[None]:
    """Lock a study of which no job is to come.

    Raises
    ------
    InputError
        Another process works on it, or jobs are in Slurm's queue.
    """
    refuse_if_queued(paths)  # says more than the lock of a job that runs already
    with study_lock(paths):
        refuse_if_queued(paths)  # none was submitted in between
        yield


def forget_submission(paths: StudyPaths) -> None:
    """Keep nothing of the last submission; none of its jobs may be to come."""
    shutil.rmtree(state_folder(paths), ignore_errors=True)


def read_submission(out: Path) -> Submission:
    """What was frozen when a study was submitted.

    Raises
    ------
    InputError
        It was not, or by another version.
    """
    file = state_folder(StudyPaths(out)) / "submission.json"
    if not file.is_file():
        raise InputError(f"{out}: was not submitted to Slurm yet; axoloci submit does that")
    try:
        return Submission.model_validate_json(file.read_text(encoding="utf-8"))
    except ValidationError as error:
        raise InputError(
            f"{file}: is of another version of axoloci; run axoloci submit again: {error}"
        ) from error


def last_profile(out: Path) -> Profile | None:
    """The profile of a study's last submission, of another version too; none if there was none.

    Raises
    ------
    InputError
        This version cannot read it.
    """
    file = state_folder(StudyPaths(out)) / "submission.json"
    kept = read_record(file).get("profile")
    try:
        return Profile.model_validate(kept) if kept else None
    except ValidationError as error:
        raise InputError(
            f"{file}: its profile is of another version of axoloci; name one by --profile: {error}"
        ) from error


def as_json(model: Section) -> dict[str, Any]:
    """The keys of a model that were set: which ones a cohort names is part of its meaning."""
    content: dict[str, Any] = model.model_dump(mode="json", exclude_unset=True)
    return content


def scan_line(cohort: str, scan: Scan) -> str:
    """A scan of a cohort as a line of JSON."""
    values = {k: str(v) if isinstance(v, Path) else v for k, v in asdict(scan).items()}
    return json.dumps({"cohort": cohort, **values}, ensure_ascii=False)


def _read_scan_line(line: str) -> tuple[str, Scan]:
    """Cohort and scan of a line."""
    values = json.loads(line)
    cohort = values.pop("cohort")
    files = {name: Path(values[name]) for name in FILES if values[name] is not None}
    return cohort, Scan(**{**values, **files})


def read_scans(submission: Submission, element: int | None = None) -> dict[str, list[Scan]]:
    """The frozen scans by cohort, those of one element or all."""
    size = submission.scans_per_element
    first = 0 if element is None else element * size
    last = None if element is None else first + size
    found: dict[str, list[Scan]] = {name: [] for name in submission.settings.cohorts()}
    if submission.n_scans:
        with open(state_folder(submission.paths) / "scans.jsonl", encoding="utf-8") as file:
            for cohort, scan in map(_read_scan_line, islice(file, first, last)):
                found[cohort].append(scan)
    return found


def read_state(submission: Submission, stage: Stage) -> StageState:
    """What has become of a stage; nothing if it was not submitted."""
    record = read_record(state_folder(submission.paths) / f"{stage.name}.json")
    return StageState.model_validate(record)


def write_state(submission: Submission, stage: Stage, state: StageState) -> None:
    """Keep what has become of a stage."""
    file = state_folder(submission.paths) / f"{stage.name}.json"
    write_json(file, state.model_dump(mode="json"))

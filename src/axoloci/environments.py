"""The environment layer: where and how the command of a step is run.

A step's identity (`image_identity`) is one of the inputs of every task. Natively it is the digest
of the step's code.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache, partial
from pathlib import Path
from typing import IO, Any, ClassVar

import attrs
from pydra.environments import base

from axoloci.command import DRIVEN
from axoloci.engines import (
    ARITHMETIC,
    VISIBLE_GPUS,
    Engine,
    Mount,
    find_engine,
    folders_of,
    has_gpu,
)
from axoloci.engines import Job as ContainerJob
from axoloci.errors import InputError
from axoloci.images import Image, MissingSifError, locked_images, make_sifs, sif_folder
from axoloci.io.files import write_json
from axoloci.job import (
    fingerprint,
    input_digests,
    input_files,
    made_files,
    output_paths,
    read_record,
    reason_to_run,
    remove_halves,
)
from axoloci.steps import code_digest, container_folder, installed_steps
from axoloci.study import COHORTS, StudyPaths

logger = logging.getLogger("axoloci")

KINDS = ("native", "docker", "singularity")

# Libraries that would otherwise start one thread a core in every one of many processes.
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMBA_NUM_THREADS",
    "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS",
)

MEMORY_LIMIT, CPU_LIMIT = "AXOLOCI_MEMORY_GB", "AXOLOCI_CPUS"
"""Environment variables: what the container of a step may take, GB and cores."""

USAGE_FILE = "axoloci-usage.json"

NOT_STARTED = 127
"""Exit code in the record of a command that could not be started, as shells have it."""

OURS = "$ "
"""What those lines of a log begin with that the environment has added: the command, its end."""


class StepError(RuntimeError):
    """The command of a step ended with an error; the message holds its last words.

    Attributes
    ----------
    exit_code
        Of the command; none if it could not be started.
    """

    def __init__(self, message: str, exit_code: int | None = None) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def chosen_environment(env: str | None, out: Path) -> str:
    """The environment that is asked for, or that of a study's last run, or "native".

    Who goes on with a study of weeks must not have to remember it: another environment is another
    version of every step.
    """
    if env is not None:
        return env
    with suppress(OSError):
        before = StudyPaths(out).env.read_text(encoding="utf-8")
        return before if before in KINDS else "native"
    return "native"


def pinned_image(step: str) -> Image:
    """The image in which a step is run; that with CUDA where one is pinned and there is a GPU.

    Raises
    ------
    InputError
        None is pinned.
    """
    images = locked_images()
    for name in (f"{step}-cuda", step) if has_gpu() else (step,):
        if name in images:
            return images[name]
    raise InputError(f"no image is pinned for the step '{step}'; run it with --env native")


def lacks_cuda(kind: str, step: str) -> bool:
    """Whether a step that can use a GPU computes on a CPU, for its image with CUDA is not pinned.

    Steps without torch have one image for both.
    """
    has_variant = (container_folder(step) / "torch-cuda.lock").is_file()
    return kind != "native" and has_variant and f"{step}-cuda" not in locked_images()


def image_identity(kind: str, step: str) -> str:
    """What a result of `step` depends on beside its inputs: its pinned image, or its code.

    Docker and Singularity run the same images, so going from one to the other runs nothing again.

    Raises
    ------
    InputError
        No image is pinned for the step.
    """
    if kind == "native":
        return f"native:{code_digest(step)}"
    return pinned_image(step).config_digest


@cache
def _located(kind: str, step: str) -> str:
    """The pinned image of a step, as the engine calls it; SIF files are found without one."""
    engine = Engine(kind, "") if kind == "singularity" else find_engine(kind)
    return engine.locate(pinned_image(step))


def environment_problems(
    kind: str, steps: Iterable[str], *, loads_engine: bool = False
) -> list[str]:
    """What keeps an environment from running some steps: no engine, no image, another image.

    Parameters
    ----------
    kind
        One of `KINDS`.
    steps
        Their names.
    loads_engine
        They run in jobs that load their engine first: here it may be missing.
    """
    if kind == "native":
        return []
    try:
        find_engine(kind)
    except InputError as error:
        if not loads_engine:
            return [str(error)]
        if kind == "docker":  # its images only it knows
            return []
    problems, without = [], []
    for step in steps:
        try:
            _located(kind, step)
        except MissingSifError:
            without.append(pinned_image(step).name)
        except InputError as error:
            problems.append(str(error))
    if without:
        mend = make_sifs(without, sif_folder())
        problems.append(f"{sif_folder()}: lacks SIF files of pinned images; make them: {mend}")
    return list(dict.fromkeys(problems))


def memory_limit(kind: str) -> float | None:
    """What the container of a step may take, GB; none if there is no limit, or no container."""
    limit = os.environ.get(MEMORY_LIMIT)
    return float(limit) if limit and kind != "native" else None


def die_with_parent(parent: int) -> None:
    """Ask Linux to kill this process when its parent dies, so that a killed run leaves none.

    Parameters
    ----------
    parent
        The parent's process number. If it died before it could be asked for, this process ends.
    """
    if sys.platform == "linux":
        PR_SET_PDEATHSIG = 1
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)


def last_words(text: str) -> str:
    """The line of a log that says why a command failed: click's own, else the last one."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    lines = [line for line in lines if not line.startswith(OURS)]
    for number, line in enumerate(lines):
        if line.startswith("Error: "):
            return " ".join([line.removeprefix("Error: "), *lines[number + 1 : number + 4]])
    return lines[-1] if lines else "it wrote no message"


@dataclass(frozen=True)
class Ended:
    """How a command ended, and what it took."""

    exit_code: int  # that of the command; minus the signal that killed it
    output: str
    cpu_seconds: float
    max_rss_mb: float


@attrs.define
class StepEnvironment(base.Environment):  # type: ignore[misc]
    """Runs a step's command, with one log and one job record.

    Parameters
    ----------
    kind
        "native": on this machine; "docker", "singularity": in the step's pinned image.
    log
        File for the command's standard error. The job record beside it (`.json`) holds the
        command, its exit code, seconds, CPU seconds, peak memory, the digests of its inputs, and
        size and checksum of what it made.
    threads
        Threads that the command's libraries may use.
    writable, readable
        Folders that a container sees beside those of the job's inputs.
    announce
        Say in the driver's log when the command starts and ends.
    always
        Run the command also if nothing has changed.
    """

    kind: str
    log: Path
    threads: int = 1
    writable: Sequence[str | Path] = ()
    readable: Sequence[str | Path] = ()
    announce: bool = False
    always: bool = False
    _plugin_name: ClassVar[str] = "axoloci"

    def execute(self, job: Any) -> dict[str, Any]:
        """Run the command of a Pydra job if it must be; a non-zero exit raises `StepError`."""
        command = [str(word) for word in job.task._command_args(values=job.inputs)]
        record_file = self.log.with_suffix(".json")
        inputs = input_digests(job.task)
        before = read_record(record_file)
        why = reason_to_run(before, inputs)
        if not (why or self.always):
            os.utime(record_file)  # when it was last found to be finished: see `finished_jobs`
            return {"return_code": 0, "stdout": "", "stderr": ""}

        self.log.parent.mkdir(parents=True, exist_ok=True)
        record = {
            "job": self.log.stem,
            "why": why or "it is run each time",
            "image": job.inputs.get("image", ""),
            "command": command,
            "inputs": inputs,
            "started": datetime.now(UTC).isoformat(timespec="milliseconds"),
        }
        write_json(record_file, record)
        if self.announce:
            logger.info("%s: %s %s (%s)", self._name, *command[:2], record["why"])
        started = time.monotonic()
        with open(self.log, "wb") as log:
            log.write(f"{OURS}{shlex.join(command)}\n".encode())
            log.flush()
            try:
                if self.kind == "native":
                    ended = self._run_natively(command, record["image"], log)
                else:
                    left = bool(before) and "exit_code" not in before
                    ended = self._run_in_container(command, job, log, left=left)
            except (InputError, StepError) as error:  # no engine, no image
                # a record without a code is of a job that was killed
                record |= {"exit_code": NOT_STARTED, "reason": str(error)}
                write_json(record_file, record)
                raise
        record |= {
            "exit_code": ended.exit_code,
            "seconds": round(time.monotonic() - started, 3),
            "cpu_seconds": round(ended.cpu_seconds, 3),
            "max_rss_mb": round(ended.max_rss_mb, 1),
        }
        with open(self.log, "ab") as log:
            cost = f"{record['seconds']:.1f} s, {record['max_rss_mb']:.0f} MB"
            log.write(f"{OURS}exit {ended.exit_code} after {cost}\n".encode())
        if ended.exit_code == 0:
            # of killed runs; not before this one, for a container may outlive its driver a while
            for path in (record_file, *output_paths(job)):
                remove_halves(path.parent, {path.name})
            record["outputs"] = {str(path): fingerprint(path) for path in made_files(job)}
        else:
            record["reason"] = self._reason(ended.exit_code)
        write_json(record_file, record)
        if ended.exit_code != 0:
            if self.announce:
                logger.error("%s: failed after %.0f s", self._name, record["seconds"])
            raise StepError(f"{command[0]} {command[1]}, {record['reason']}", ended.exit_code)
        if self.announce:
            logger.info("%s: done in %.0f s", self._name, record["seconds"])
        return {"return_code": 0, "stdout": ended.output, "stderr": ""}

    def _reason(self, exit_code: int) -> str:
        """Why the command failed; what it said before a signal killed it is not why."""
        if exit_code > 0:
            said = last_words(self.log.read_text(encoding="utf-8", errors="replace"))
            return f"exit {exit_code}: {said}"
        killed = f"killed by {signal.Signals(-exit_code).name}"
        limit = memory_limit(self.kind)
        if exit_code == -signal.SIGKILL and limit is not None:
            killed += f": out of memory: over the limit of {limit:g} GB (--memory-gb)"
        return killed

    @property
    def _name(self) -> str:
        """The job, with its cohort where a study has several: OUT/COHORT/logs/group/JOB.log."""
        cohort = self.log.absolute().parent.parent.parent.name
        return f"[{cohort}] {self.log.stem}" if cohort in COHORTS else self.log.stem

    def _run_natively(self, command: Sequence[str], image: str, log: IO[bytes]) -> Ended:
        # Pydra's job runs in a folder of its own, and the user's PATH may lack our environment.
        search = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
        program = shutil.which(command[0], path=search)
        if program is None:
            raise StepError(f"{command[0]} is not installed: pip install 'axoloci[all]'")
        return _run([program, *command[1:]], log, {**os.environ, **self._variables(image)})

    def _run_in_container(
        self, command: Sequence[str], job: Any, log: IO[bytes], *, left: bool
    ) -> Ended:
        """Run a command in its image; `left`: a killed driver may have left its container."""
        (step,) = (step for step in installed_steps().values() if step.command == command[0])
        engine = find_engine(self.kind)
        located = _located(self.kind, step.name)
        own = Path(job.cache_dir)
        scratch = own / "tmp"  # an engine's own /tmp may be memory, and small
        scratch.mkdir(exist_ok=True)
        writable = {own, *map(Path, self.writable)}
        readable = {  # below a folder that is written to, a mount of its own would be read-only
            folder
            for folder in folders_of(input_files(job)) | set(map(Path, self.readable))
            if not any(folder.is_relative_to(place) for place in writable)
        }
        name = f"axoloci-{hashlib.sha256(str(self.log.absolute()).encode()).hexdigest()[:32]}"
        if left:
            engine.remove(name)
        cpus = os.environ.get(CPU_LIMIT)
        words = engine.words(
            located,
            ContainerJob(
                name=name,
                command=command,
                mounts=[
                    *(Mount(folder, writable=True) for folder in writable),
                    *(Mount(folder) for folder in readable),
                ],
                folder=own,
                variables={
                    **self._variables(job.inputs.get("image", "")),
                    **{n: os.environ[n] for n in (VISIBLE_GPUS, *ARITHMETIC) if n in os.environ},
                    "PYTHONNOUSERSITE": "1",
                    "TMPDIR": str(scratch),
                    DRIVEN: str(scratch / USAGE_FILE),
                },
                memory_gb=memory_limit(self.kind),
                cpus=float(cpus) if cpus else None,
                gpu=has_gpu() and (step.resources.gpu or pinned_image(step.name).variant == "cuda"),
            ),
        )
        ended = _run(words, log, dict(os.environ), stdin=subprocess.PIPE)
        # how engines tell that a signal ended the command
        killed = ended.exit_code - 128 in set(signal.Signals)
        code = 128 - ended.exit_code if killed else ended.exit_code
        usage = read_record(scratch / USAGE_FILE)  # the engine's own process knows nothing of it
        return Ended(
            code,
            ended.output,
            usage.get("cpu_seconds", ended.cpu_seconds),
            usage.get("max_rss_mb", ended.max_rss_mb),
        )

    def _variables(self, image: str) -> dict[str, str]:
        """Environment variables of the command: threads, and the identity of its code."""
        threads = dict.fromkeys(THREAD_VARIABLES, str(self.threads))
        return {**threads, "AXOLOCI_IMAGE": image}


def _run(
    words: Sequence[str],
    log: IO[bytes],
    variables: Mapping[str, str],
    stdin: int = subprocess.DEVNULL,
) -> Ended:
    """Run a command that dies with this process."""
    process = subprocess.Popen(
        words,
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=log,
        env=variables,
        preexec_fn=partial(die_with_parent, os.getpid()),
    )
    assert process.stdout is not None
    # Pydra would decode strictly, and one stray byte would cost the result.
    output = process.stdout.read().decode("utf-8", errors="replace")
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    process.stdout.close()
    if process.stdin is not None:
        process.stdin.close()
    return Ended(
        process.returncode, output, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024
    )

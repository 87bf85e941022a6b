"""The environment layer: where and how the command of a step is run.

A step's identity (`image_identity`) is one of the inputs of every task. Natively it is the digest
of the step's code.
"""

from __future__ import annotations

import ctypes
import logging
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import attrs
from pydra.environments import base

from axoloci.errors import InputError
from axoloci.io.files import write_json
from axoloci.job import fingerprint, input_digests, made_files, read_record, reason_to_run
from axoloci.steps import code_digest, installed_steps
from axoloci.study import COHORTS

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

OURS = "$ "
"""What those lines of a log begin with that the environment has added: the command, its end."""


class StepError(RuntimeError):
    """The command of a step ended with an error; the message holds its last words."""


def check_environment(kind: str) -> None:
    """Stop before any work if steps cannot be run in environment `kind`.

    Raises
    ------
    InputError
        The environment is not available, and what to use instead.
    """
    if kind != "native":
        lacking = [step.image for step in installed_steps().values()]
        raise InputError(
            f"--env {kind}: there are no pinned images yet for {', '.join(lacking)}; "
            "use --env native"
        )


def image_identity(kind: str, step: str) -> str:
    """What a result of `step` depends on beside its inputs: the code of its environment."""
    check_environment(kind)
    return f"native:{code_digest(step)}"


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


@attrs.define
class NativeEnvironment(base.Environment):  # type: ignore[misc]
    """Runs a step's command on this machine, with one log and one job record.

    Parameters
    ----------
    log
        File for the command's standard error. The job record beside it (`.json`) holds the
        command, its exit code, seconds, CPU seconds, peak memory, the digests of its inputs, and
        size and checksum of what it made.
    threads
        Threads that the command's libraries may use.
    announce
        Say in the driver's log when the command starts and ends.
    always
        Run the command also if nothing has changed.
    """

    log: Path
    threads: int = 1
    announce: bool = False
    always: bool = False
    _plugin_name: ClassVar[str] = "axoloci-native"

    def execute(self, job: Any) -> dict[str, Any]:
        """Run the command of a Pydra job if it must be; a non-zero exit raises `StepError`."""
        command = job.task._command_args(values=job.inputs)
        # Pydra's job runs in a folder of its own, and the user's PATH may lack our environment.
        search = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
        program = shutil.which(command[0], path=search)
        if program is None:
            raise StepError(f"{command[0]} is not installed: pip install 'axoloci[all]'")
        record_file = self.log.with_suffix(".json")
        inputs = input_digests(job.task)
        why = reason_to_run(read_record(record_file), inputs)
        if not (why or self.always):
            return {"return_code": 0, "stdout": "", "stderr": ""}

        self.log.parent.mkdir(parents=True, exist_ok=True)
        record = {
            "job": self.log.stem,
            "why": why or "it is run each time",
            "image": job.inputs.get("image", ""),
            "command": [str(word) for word in command],
            "inputs": inputs,
            "started": datetime.now(UTC).isoformat(timespec="milliseconds"),
        }
        write_json(record_file, record)
        if self.announce:
            logger.info("%s: %s %s (%s)", self._name, *command[:2], record["why"])
        started = time.monotonic()
        with open(self.log, "wb") as log:
            log.write(f"{OURS}{shlex.join(record['command'])}\n".encode())
            log.flush()
            process = subprocess.Popen(
                [program, *command[1:]],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                env=self._variables(os.environ, record["image"]),
                preexec_fn=partial(die_with_parent, os.getpid()),
            )
            assert process.stdout is not None
            # Pydra would decode strictly, and one stray byte would cost the result.
            output = process.stdout.read().decode("utf-8", errors="replace")
            _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        record |= {
            "exit_code": process.returncode,
            "seconds": round(time.monotonic() - started, 3),
            "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 3),
            "max_rss_mb": round(usage.ru_maxrss / 1024, 1),
        }
        with open(self.log, "ab") as log:
            cost = f"{record['seconds']:.1f} s, {record['max_rss_mb']:.0f} MB"
            log.write(f"{OURS}exit {process.returncode} after {cost}\n".encode())
        if process.returncode == 0:
            record["outputs"] = {str(path): fingerprint(path) for path in made_files(job)}
        write_json(record_file, record)
        if process.returncode != 0:
            reason = last_words(self.log.read_text(encoding="utf-8", errors="replace"))
            cause = (
                f"killed by {signal.Signals(-process.returncode).name}"
                if process.returncode < 0
                else f"exit {process.returncode}"
            )
            raise StepError(f"{command[0]} {command[1]}, {cause}: {reason}")
        if self.announce:
            logger.info("%s: done in %.0f s", self._name, record["seconds"])
        return {"return_code": 0, "stdout": output, "stderr": ""}

    @property
    def _name(self) -> str:
        """The job, with its cohort where a study has several: OUT/COHORT/logs/group/JOB.log."""
        cohort = self.log.absolute().parent.parent.parent.name
        return f"[{cohort}] {self.log.stem}" if cohort in COHORTS else self.log.stem

    def _variables(self, inherited: Mapping[str, str], image: str) -> dict[str, str]:
        """Environment variables of the command: threads, and the identity of its code."""
        threads = dict.fromkeys(THREAD_VARIABLES, str(self.threads))
        return {**inherited, **threads, "AXOLOCI_IMAGE": image}


def environment(
    kind: str, log: Path, threads: int = 1, *, announce: bool = False, always: bool = False
) -> NativeEnvironment:
    """The Pydra environment in which one job is run.

    Parameters
    ----------
    kind
        "native", "docker" or "singularity".
    log
        File for the job's standard error; its record is written beside it.
    threads
        Threads that the job may use.
    announce
        Say in the driver's log when the job starts and ends.
    always
        Run the job also if nothing has changed.
    """
    check_environment(kind)
    return NativeEnvironment(log, threads, announce, always)

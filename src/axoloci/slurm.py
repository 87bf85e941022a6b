"""Slurm's own commands: submitting jobs, and asking how they stand and how they ended."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from axoloci.errors import InputError

KILLED = 137
"""Exit code of `axoloci job` when the kernel killed a step, most often for memory: 128 + SIGKILL,
as shells and containers have it."""

WAITING = ("PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "RESV_DEL_HOLD", "SUSPENDED")
RUNNING = ("RUNNING", "COMPLETING", "SIGNALING", "STAGE_OUT", "STOPPED", "RESIZING")
# What is worth another try, by what it needs more of: nothing where a node was at fault.
MEND = {
    "OUT_OF_MEMORY": "memory",
    "TIMEOUT": "time",
    "NODE_FAIL": "node",
    "BOOT_FAIL": "node",
    "PREEMPTED": "node",
}
SACCT_COLUMNS = ("JobID", "State", "ExitCode", "Reason", "NodeList")


@dataclass(frozen=True)
class JobState:
    """How a job, or an element of an array, stands or ended.

    Attributes
    ----------
    job
        Number of the job, or of the array.
    element
        Number within the array; none of a job that is no array.
    state
        Slurm's word, such as "TIMEOUT".
    exit_code
        Of the script.
    reason
        Why it waits or ended, in Slurm's words; "by 1000" of a cancelled one names the user.
    node
        Where it ran.
    """

    job: int
    element: int | None
    state: str
    exit_code: int = 0
    reason: str = ""
    node: str = ""

    @property
    def ended(self) -> bool:
        """Whether nothing of it is to come."""
        return self.state not in (*WAITING, *RUNNING)

    @property
    def lacks(self) -> str:
        """What another try needs more of: "memory", "time", "node" (another one) or nothing."""
        if self.state == "FAILED" and self.exit_code == KILLED:
            return "memory"
        return MEND.get(self.state, "")


States = dict[tuple[int, int | None], JobState]


def sbatch_command(
    script: Path, arguments: Sequence[str] = (), *, options: Mapping[str, str | None]
) -> list[str]:
    """The command that submits a script; options without a value are left out."""
    given = [f"--{name}={value}" for name, value in options.items() if value]
    return ["sbatch", "--parsable", *given, str(script), *arguments]


def submit_job(command: Sequence[str]) -> int:
    """Run an sbatch command.

    Returns
    -------
    Number of the job.

    Raises
    ------
    InputError
        Slurm refuses the job, in its words.
    """
    done = _run(command)
    if done.returncode != 0:
        said = " ".join(done.stderr.replace("sbatch: error: ", "").split())
        raise InputError(f"Slurm refuses {command[-1]}: {said}\n  ({shlex.join(command)})")
    return int(done.stdout.split(";")[0])  # of several clusters the name follows


def _run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, capture_output=True, text=True, errors="replace")
    except FileNotFoundError:
        raise InputError(
            f"{command[0]}: not found; run this where Slurm's commands are, or write the scripts "
            "alone by --dry-run"
        ) from None


def cancel(jobs: Iterable[int]) -> None:
    """Take jobs out of the queue."""
    _run(["scancel", *map(str, jobs)])


def max_array_size() -> int:
    """Elements that Slurm takes in one array."""
    found = re.search(
        r"^MaxArraySize\s*=\s*(\d+)", _run(["scontrol", "show", "config"]).stdout, re.M
    )
    return int(found[1]) if found else 1001


def waiting_for(job: int) -> dict[int, str]:
    """Jobs in the queue that wait for a job: their number and dependency.

    Raises
    ------
    InputError
        Slurm does not answer: that none waits would be wrong to think.
    """
    done = _run(["squeue", "--noheader", "--states=PENDING", "--format=%F|%E"])
    if done.returncode != 0:
        raise InputError(f"squeue does not say what waits for job {job}: {done.stderr.strip()}")
    found = {}
    for line in done.stdout.splitlines():
        number, _, dependency = line.partition("|")
        if re.search(rf":{job}\b", dependency):
            found[int(number)] = re.sub(r"\(\w+\)", "", dependency)
    return found


def wait_instead(job: int, dependency: str) -> None:
    """Let a job in the queue wait for others than it did."""
    done = _run(["scontrol", "update", f"JobId={job}", f"Dependency={dependency}"])
    if done.returncode != 0:
        raise InputError(f"job {job} cannot wait for {dependency}: {done.stderr.strip()}")


def is_here() -> bool:
    """Whether Slurm can be asked from this machine."""
    return shutil.which("scontrol") is not None


def job_states(jobs: Sequence[int]) -> States:
    """How jobs and elements of arrays stand, by number.

    From the accounting, and from the controller, which knows the last minutes without any; those
    that neither knows any more are left out.
    """
    if not jobs or not is_here():
        return {}
    numbers = ",".join(map(str, jobs))
    columns = f"--format={','.join(SACCT_COLUMNS)}"
    asked = ["sacct", "--allocations", "--noheader", "--parsable2", f"--jobs={numbers}", columns]
    states = parse_sacct(_run(asked).stdout) if shutil.which("sacct") else {}
    # accounting, which names who cancelled a job, lags: of elements it may not know all
    ended = {key: state for key, state in states.items() if state.ended}
    for job in jobs:
        shown = _run(["scontrol", "--oneliner", "show", "job", str(job)]).stdout
        states |= parse_scontrol(shown)
    return states | ended


def parse_sacct(text: str) -> States:
    """Rows of `sacct --parsable2` with `SACCT_COLUMNS`."""
    states: States = {}
    for line in text.splitlines():
        values = line.split("|")
        if len(values) != len(SACCT_COLUMNS):
            continue
        number, state, exit_code, reason, node = values
        word, _, by = state.partition(" ")  # "CANCELLED by 1000"
        reason = by or ("" if reason == "None" else reason)
        _add(states, number, word, exit_code, reason, node)
    return states


def parse_scontrol(text: str) -> States:
    """Lines of `scontrol --oneliner show job`."""
    states: States = {}
    for line in text.splitlines():
        # the only value that may hold spaces is that of a path, and none is asked for here
        values = dict(word.split("=", 1) for word in line.split() if "=" in word)
        if "JobId" not in values:
            continue
        number = values["JobId"]
        if "ArrayTaskId" in values:
            number = f"{values['ArrayJobId']}_{values['ArrayTaskId']}"
        reason = values.get("Reason", "")
        _add(
            states,
            number,
            values["JobState"],
            values.get("ExitCode", "0:0"),
            "" if reason == "None" else reason,
            values.get("NodeList", ""),
        )
    return states


def _add(states: States, number: str, state: str, exit_code: str, reason: str, node: str) -> None:
    """One row; one that stands for several elements of an array becomes several."""
    job, _, elements = number.partition("_")
    for element in parse_elements(elements) if elements else [None]:
        states[int(job), element] = JobState(
            *(int(job), element, state, _shell_code(exit_code), reason),
            node="" if node in ("None assigned", "(null)") else node,
        )


def _shell_code(text: str) -> int:
    """Slurm's "exit code:signal" as a shell has it: 128 and the signal."""
    code, _, signal = text.partition(":")
    return 128 + int(signal) if signal not in ("", "0") else int(code or 0)


def parse_elements(text: str) -> list[int]:
    """Numbers of elements as Slurm writes them: "3", "[0-2,7%20]", "1-9:4"."""
    numbers: list[int] = []
    for piece in text.strip("[]").partition("%")[0].split(","):
        span, _, step = piece.partition(":")
        first, _, last = span.partition("-")
        if first.isdigit():
            numbers += range(int(first), int(last or first) + 1, int(step or 1))
    return numbers


def write_elements(numbers: Iterable[int]) -> str:
    """Numbers of elements for sbatch: "0-2,7"."""
    spans: list[list[int]] = []
    for number in sorted(set(numbers)):
        if spans and number == spans[-1][1] + 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in spans)

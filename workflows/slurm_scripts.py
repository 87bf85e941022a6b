"""The scripts of a study's Slurm jobs: to be read, and to be run by hand as well."""

from __future__ import annotations

import math
import os
import shlex
import sys

from axoloci.engines import ARITHMETIC, VISIBLE_GPUS
from axoloci.images import IMAGES_VARIABLE
from axoloci.io.files import write_text
from axoloci.workflows.submission import Request, Stage, Submission

CHECK = "check.sh"
SAID = {
    "participants": "Scans one by one: a faulty one costs no other.",
    "train": "The cohort store, and the representations learnt of it.",
    "prepare": "Latents, genotype components, sample quality; the plan of the association.",
    "ridge": "The mixed model of all traits.",
    "plan": "The plan of the association.",
    "associate": "The association, one chromosome an element.",
    "conclude": "The association as a whole, and what follows from it.",
    "report": "The report, whatever failed before.",
}


def write_scripts(submission: Submission) -> None:
    """Write one script a stage, and that of the checks, into the study's folder `slurm`."""
    folder = submission.paths.slurm
    (folder / "logs").mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.sh"):
        old.unlink()
    for stage in submission.stages():
        write_text(folder / stage.script, _stage_script(submission, stage))
    write_text(folder / CHECK, _check_script(submission))


def _head(name: str, log_file: str, request: Request, submission: Submission) -> list[str]:
    """Options of sbatch."""
    cluster = submission.profile.slurm
    options = {
        "job-name": f"axoloci-{name}",
        "chdir": str(submission.paths.slurm),
        "output": f"logs/{log_file}.log",
        "mem": f"{request.memory_mb}M",
        "time": str(request.minutes),
        "cpus-per-task": str(request.cpus),
        "partition": request.partition,
        "account": cluster.account,
        "gres": cluster.gres if request.gpu else None,
        "export": "NONE",  # nothing of the shell that submits
    }
    lines = [f"--{name}={shlex.quote(value)}" for name, value in options.items() if value]
    return [f"#SBATCH {line}" for line in [*lines, "--no-requeue", *cluster.extra]]


def _body(
    submission: Submission, request: Request, arguments: str, *, runs_steps: bool = True
) -> list[str]:
    """What every job does; one that runs no steps needs neither images nor scratch."""
    cluster = submission.profile.slurm
    program = shlex.join([sys.executable, "-m", "axoloci", "job"])
    out = shlex.quote(str(submission.paths.out))
    # another job's GPU is none of ours, though a node may show it
    hidden = [] if request.gpu else [f"export {VISIBLE_GPUS}="]
    lines = [
        "set -eo pipefail",
        *cluster.setup,  # files of others, such as /etc/profile, use variables that are not set
        "set -u",
        "export NO_ET=1 PYTHONUTF8=1",
        # numbers are rounded as where the study was submitted
        *(
            f"export {name}={shlex.quote(os.environ[name])}"
            for name in ARITHMETIC
            if name in os.environ
        ),
        *hidden,
    ]
    if cluster.images is not None and runs_steps:
        lines += [
            f"export {IMAGES_VARIABLE}={shlex.quote(str(cluster.images))}",
            f'if [ ! -d "${IMAGES_VARIABLE}" ]; then',
            f'  echo "Error: node $(hostname) has no folder of images ${IMAGES_VARIABLE}" >&2',
            "  exit 1",
            "fi",
        ]
    if cluster.scratch is not None and runs_steps:
        lines += [
            f'scratch="{cluster.scratch}"',
            'if ! TMPDIR=$(mktemp -d "$scratch/axoloci.XXXXXX"); then',
            '  echo "Error: node $(hostname) has no place for temporary files in $scratch" >&2',
            "  exit 1",
            "fi",
            "export TMPDIR",
            "trap 'rm -rf \"$TMPDIR\"' EXIT",
        ]
    return [*lines, f"{program} {out} {arguments}"]


def _stage_script(submission: Submission, stage: Stage) -> str:
    file = shlex.quote(str(submission.paths.slurm / stage.script))
    cpus = '--n-procs "${SLURM_CPUS_PER_TASK:-1}"'
    lines = ["#!/bin/bash", f"# {SAID[stage.action]}", "# Written by `axoloci submit`."]
    if stage.elements:
        what = f"scans {submission.scans_per_element} an element, by work/slurm/scans.jsonl"
        if stage.action == "associate":
            # a .bim may hold anything: on this one line it stays a comment
            what = "chromosomes in this order: " + " ".join(" ".join(stage.elements).split())
        last = len(stage.elements) - 1
        lines += [
            f"# Elements: {what}",
            f"# By hand: sbatch --array=0 {file}",
            f"#      or: SLURM_ARRAY_TASK_ID=0 bash {file}",
            *_head(stage.name, f"{stage.name}-%A_%a", stage.request, submission),
            f"#SBATCH --array=0-{last}%{submission.profile.slurm.max_array_running}",
        ]
        arguments = f'{stage.name} --element "${{SLURM_ARRAY_TASK_ID:?names the element}}" {cpus}'
    else:
        lines += [
            f"# By hand: sbatch {file}, or: bash {file}",
            *_head(stage.name, f"{stage.name}-%j", stage.request, submission),
        ]
        arguments = f"{stage.name} {cpus}"
    return "\n".join([*lines, "", *_body(submission, stage.request, arguments)]) + "\n"


def _check_script(submission: Submission) -> str:
    own = submission.profile.steps.check
    request = Request(
        memory_mb=math.ceil(1000 * own.memory_gb),
        minutes=math.ceil(own.minutes),
        cpus=1,
        partition=own.partition or submission.profile.slurm.partition,
    )
    lines = [
        "#!/bin/bash",
        "# Looks at how the jobs of a stage ended; submits again what ran out of memory or time.",
        "# Written by `axoloci submit`.",
        f"# By hand: bash {CHECK} STAGE [JOB...]",
        *_head("check", "check-%j", request, submission),
        "",
        *_body(submission, request, '"$1" --check "${@:2}"', runs_steps=False),
    ]
    return "\n".join(lines) + "\n"

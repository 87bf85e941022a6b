"""Container engines: which is there, which of its images is the pinned one, how a command is run.

A container sees the folders of a job's inputs (read-only) and those that the job writes to, under
the same paths as outside, and no network.
"""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from axoloci.errors import InputError
from axoloci.images import Image, checked_sif

NVIDIA = Path("/dev/nvidiactl")
VISIBLE_GPUS = "CUDA_VISIBLE_DEVICES"
"""Environment variable: GPUs that this process may use; empty: none. Clusters set it for a job."""

ARITHMETIC = (
    *("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE", "NPY_DISABLE_CPU_FEATURES"),
    *("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA"),
)
"""Environment variables by which people pin how processors round, so that unlike ones agree."""

PROGRAMS = {"docker": ("podman", "docker"), "singularity": ("apptainer", "singularity")}


@dataclass(frozen=True)
class Mount:
    """A folder of the host inside a container, under the same path."""

    folder: Path
    writable: bool = False

    def option(self) -> str:
        """As the engines' option `--mount` takes it; commas and quotes are those of CSV."""
        fields = ["type=bind", f"source={self.folder}", f"target={self.folder}"]
        text = io.StringIO()
        csv.writer(text, lineterminator="").writerow(fields + ([] if self.writable else ["ro"]))
        return text.getvalue()


@dataclass(frozen=True)
class Job:
    """A command and what its container is given.

    Attributes
    ----------
    name
        Of the container, unique on the machine: a killed driver leaves it behind.
    command
        Words of the command.
    mounts
        Folders; the longest path wins where one lies in another.
    folder
        The command's working folder.
    variables
        Environment variables.
    memory_gb, cpus
        Limits; none if not given.
    gpu
        Hand on the machine's GPUs.
    """

    name: str
    command: Sequence[str]
    mounts: Iterable[Mount]
    folder: Path
    variables: Mapping[str, str]
    memory_gb: float | None = None
    cpus: float | None = None
    gpu: bool = False

    @property
    def mount_options(self) -> list[str]:
        """Outer folders first: engines mount them in the order given."""
        ordered = sorted(set(self.mounts), key=lambda mount: mount.folder)
        return [word for mount in ordered for word in ("--mount", mount.option())]


@dataclass(frozen=True)
class Engine:
    """A container engine of this machine.

    Attributes
    ----------
    kind
        "docker" (docker, podman) or "singularity" (apptainer, singularity).
    program
        Path of its program.
    rootless
        It runs without root's rights.
    """

    kind: str
    program: str
    rootless: bool = False

    @property
    def name(self) -> str:
        """Name of its program."""
        return Path(self.program).name

    def locate(self, image: Image) -> str:
        """What this engine calls the pinned image: its id, or the path of its SIF.

        Raises
        ------
        InputError
            It is not there, or another image goes by its name; says what to do.
        """
        if self.kind == "singularity":
            return str(checked_sif(image))
        mend = f"run `axoloci images build {image.name}`, or `axoloci images pull {image.name}`"
        if self.name == "docker":  # these put it into podman's store
            target = f"docker-daemon:{image.reference}:latest"
            mend += f", and `podman push {image.config_digest} {target}`"
        known = self._ask("image", "inspect", image.config_digest)
        if known is None:
            # A store that keeps manifests names an image by its manifest: the layers tell.
            known = self._ask("image", "inspect", image.reference)
            if known is None:
                raise InputError(f"{self.name} has no image {image.reference}: {mend}")
        found = known[0]
        if found["RootFS"]["Layers"] != list(image.diff_ids):
            raise InputError(
                f"{image.reference} of {self.name} is {found['Id']}, and the pinned one is "
                f"{image.config_digest}: {mend}"
            )
        return str(found["Id"])

    def fetch(self, image: Image, source: str) -> None:
        """Pull an image from a registry, under the name by which it is looked for here.

        Parameters
        ----------
        image
            The pinned image.
        source
            Its address, with a tag or a digest.

        Raises
        ------
        InputError
            It cannot be had, or is another image than the pinned one.
        """
        for words in (
            ("pull", "--quiet", source),
            ("tag", source, image.tag if self.name == "podman" else f"{image.reference}:latest"),
        ):
            done = subprocess.run([self.program, *words], capture_output=True, text=True)
            if done.returncode:
                reason = (done.stderr.strip().splitlines() or ["no answer"])[-1]
                raise InputError(f"{self.name} {words[0]} {source}: {reason}")
        try:
            self.locate(image)
        except InputError as error:
            raise InputError(
                f"{source}: is another image than the pinned {image.config_digest}; "
                f"build it here: axoloci images build {image.name}"
            ) from error

    def words(self, located: str, job: Job) -> list[str]:
        """The whole command that runs a job in a located image."""
        if self.kind == "singularity":
            return self._singularity(located, job)
        return self._docker(located, job)

    def remove(self, name: str) -> None:
        """Remove the container that a killed driver has left, if there is one."""
        if self.kind == "docker":
            subprocess.run([self.program, "rm", "--force", name], capture_output=True, check=False)

    def _docker(self, located: str, job: Job) -> list[str]:
        words = [self.program, "run", "-i", "--rm", "--name", job.name, "--pull=never"]
        words += ["--network=none", "--read-only", "--workdir", str(job.folder)]
        if Path("/tmp") not in {mount.folder for mount in job.mounts}:  # no place twice
            words += ["--tmpfs", "/tmp"]
        words += job.mount_options
        if self.rootless and self.name == "podman":
            words.append("--userns=keep-id")
        if self.rootless and self.name == "docker":
            words.append("--user=0:0")  # whom it shows as root is the caller
        else:
            words.append(f"--user={os.getuid()}:{os.getgid()}")
        if not self.rootless:  # data are often shared by a group
            words += [f"--group-add={group}" for group in os.getgroups()]
        if job.memory_gb is not None:
            words.append(f"--memory={round(job.memory_gb * 1024)}m")
        if job.cpus is not None:
            words.append(f"--cpus={job.cpus:g}")
        if job.gpu:
            podman = self.name == "podman"
            words += ["--device", "nvidia.com/gpu=all"] if podman else ["--gpus", "all"]
        for name, value in job.variables.items():
            words += ["--env", f"{name}={value}"]
        return [*words, located, *job.command]

    def _singularity(self, located: str, job: Job) -> list[str]:
        words = [self.program, "--silent", "exec", "--containall", "--cleanenv", "--no-home"]
        words += ["--net", "--network", "none"]
        words += ["--pwd", str(job.folder), *job.mount_options]
        if job.memory_gb is not None:
            words += ["--memory", f"{round(job.memory_gb * 1024)}M"]
        if job.cpus is not None:
            words += ["--cpus", f"{job.cpus:g}"]
        if job.gpu:
            words.append("--nv")
        for name, value in job.variables.items():
            words += ["--env", f"{name}={value}"]
        return [*words, located, *job.command]

    def _ask(self, *words: str) -> Any:
        """The engine's answer, which is JSON; none if it has no such thing."""
        done = subprocess.run([self.program, *words], capture_output=True, check=False)
        return json.loads(done.stdout) if done.returncode == 0 else None


@cache
def find_engine(kind: str) -> Engine:
    """The engine of this machine.

    Raises
    ------
    InputError
        There is none that works; says what each that is there has answered.
    """
    refusals = []
    for name in PROGRAMS[kind]:
        program = shutil.which(name)
        if program is None:
            continue
        if kind == "singularity":
            return Engine(kind, program, os.getuid() != 0)
        asked = "{{json .Host.Security.Rootless}}" if name == "podman" else "{{json .}}"
        done = subprocess.run(
            [program, "info", "--format", asked], capture_output=True, text=True, check=False
        )
        if done.returncode == 0:
            answer = json.loads(done.stdout)
            if name == "docker" and isinstance(answer, dict):
                answer = "name=rootless" in answer.get("SecurityOptions", ())
            return Engine(kind, program, bool(answer))
        refusals.append(f"{name}: {(done.stderr.strip().splitlines() or ['no answer'])[-1]}")
    names = " nor ".join(PROGRAMS[kind])
    if not refusals:
        raise InputError(
            f"--env {kind}: neither {names} is installed. On a cluster load it first, such as by "
            "`module load`; for jobs of Slurm name that line in 'setup' of the profile. To install "
            "it: `sudo make system` on Debian, elsewhere as podman.io or apptainer.org say. "
            "--env native does without"
        )
    raise InputError(
        f"--env {kind}: {'; '.join(refusals)}. Is the daemon running, and may you use it (on many "
        "systems by the group docker)?"
    )


def has_gpu() -> bool:
    """Whether this machine has an NVIDIA GPU with its driver, and we may use it."""
    return NVIDIA.exists() and os.environ.get(VISIBLE_GPUS) != ""


def folders_of(files: Iterable[Path]) -> set[Path]:
    """Folders that must be mounted so that files are found, also at the end of their links."""
    found = set()
    for file in files:
        found |= {file.parent, file.resolve().parent}
        hop = file
        while hop.is_symlink():  # a link to a link: each must be there
            hop = hop.parent / hop.readlink()
            found.add(Path(os.path.normpath(hop)).parent)
    return found

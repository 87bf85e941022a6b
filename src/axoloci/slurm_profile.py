"""What a study asks of a Slurm cluster: the profile, a TOML file of its own.

Every key is described here and nowhere else. A profile belongs to a cluster, not to a study.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, field_validator

from axoloci.errors import nearest, raise_all
from axoloci.steps import installed_steps
from axoloci.study import Section, read_toml, validated, whole_path

# What axoloci writes into its scripts itself.
RESERVED = (
    "--array", "--chdir", "--cpus-per-task", "--dependency", "--export", "--job-name", "--mem",
    "--output", "--time", "--wait",
)  # fmt: skip


class SlurmSettings(Section):
    """`[slurm]`: the cluster."""

    account: str | None = Field(None, description="account that is charged (sbatch --account)")
    partition: str | None = Field(
        None, description="partition of all jobs that name no other; without it Slurm's default"
    )
    gpu_partition: str | None = Field(
        None,
        description="partition of the jobs that use a GPU; without it a job asks for one only if "
        "its step has gpu = true",
    )
    gres: str = Field("gpu:1", description="what a job that uses a GPU asks for (sbatch --gres)")
    max_array_running: int = Field(
        200, ge=1, description="elements of an array that run at the same time"
    )
    scans_per_element: int | None = Field(
        None,
        ge=1,
        description="scans that one element of the array works on; without it as many as make at "
        "most 1,000 elements",
    )
    scratch: str | None = Field(
        None,
        description="folder on a node's own disk for temporary files, such as /local/$USER; the "
        "node's shell fills in its variables",
    )
    images: Path | None = Field(
        None,
        description="folder of container images that all nodes see; a job stops without it; that "
        "of AXOLOCI_IMAGES or of your cache if not given",
    )
    retries: int = Field(
        2,
        ge=0,
        le=10,
        description="times that a job is submitted again after it ran out of memory or time, or "
        "its node failed",
    )
    retry_factor: float = Field(
        2.0, gt=1, le=10, description="by which memory or time grows with each of them"
    )
    extra: tuple[str, ...] = Field(
        (), description="further options of sbatch for all jobs, such as --qos=long"
    )
    setup: tuple[str, ...] = Field(
        (),
        description="lines of shell that each job runs first, such as module load apptainer; a job "
        "knows nothing of the shell that submitted it",
    )

    @field_validator("extra")
    @classmethod
    def _are_options(cls, extra: tuple[str, ...]) -> tuple[str, ...]:
        for option in extra:
            if not option.startswith("--") or "\n" in option:
                raise ValueError(f"'{option}' is no option of the form --name=value")
            if option.partition("=")[0] in RESERVED:
                raise ValueError(f"'{option}' is set by axoloci itself")
        return extra


class StepRequest(Section):
    """What one job of a step asks for; what is left out comes from `axoloci plan`."""

    memory_gb: float | None = Field(
        None,
        gt=0,
        description="memory, GB; without it what step.toml says, or twice what the plan says",
    )
    minutes: float | None = Field(
        None, gt=0, description="time, minutes; without it four times what the plan says"
    )
    cpus: int | None = Field(
        None,
        ge=1,
        description="cores: threads of a job of the cohort; of an element of the array, scans at "
        "the same time, each with the memory above",
    )
    gpu: bool | None = Field(
        None,
        description="whether it uses a GPU; without it, if step.toml says so and there is a "
        "gpu_partition; in containers only by a pinned image with CUDA",
    )
    partition: str | None = Field(None, description="partition, if not that of [slurm]")


class CheckRequest(Section):
    """The jobs that look at how others ended, and write the tables of scans."""

    memory_gb: float = Field(2.0, gt=0, description="memory, GB")
    minutes: float = Field(30.0, gt=0, description="time, minutes")
    partition: str | None = Field(None, description="partition, if not that of [slurm]")


class StepRequests(Section):
    """`[steps.NAME]`: the jobs of each step."""

    preprocess: StepRequest = StepRequest()
    dti: StepRequest = StepRequest()
    normalize: StepRequest = StepRequest()
    encoder: StepRequest = StepRequest()
    gwas: StepRequest = StepRequest()
    genetics: StepRequest = StepRequest()
    report: StepRequest = StepRequest()
    check: CheckRequest = CheckRequest()


class Profile(Section):
    """A whole profile."""

    slurm: SlurmSettings = SlurmSettings()
    steps: StepRequests = StepRequests()
    extra: dict[str, StepRequest] = Field(
        {}, description="[extra.NAME]: the jobs of the step NAME from outside, with the same keys"
    )

    def request(self, step: str) -> StepRequest:
        """What the jobs of a step ask for, one from outside too."""
        own: StepRequest = getattr(self.steps, step, None) or self.extra.get(step, StepRequest())
        return own


def table_of(step: str) -> str:
    """The table of a profile that a step's jobs have."""
    return f"steps.{step}" if step in StepRequests.model_fields else f"extra.{step}"


def read_profile(path: Path) -> Profile:
    """Read a profile.

    Raises
    ------
    InputError
        Not readable, not TOML, unknown keys and steps (with the nearest known one) or wrong values.
    """
    profile = validated(Profile, read_toml(path, "a profile of a Slurm cluster"), str(path))
    known = installed_steps()
    raise_all(
        [
            f"{path}: 'extra.{name}': no such step is installed; {nearest(name, known)}"
            for name in profile.extra
            if name not in known
        ],
        f"{path}:",
    )
    if (images := profile.slurm.images) is not None:
        slurm = profile.slurm.model_copy(update={"images": whole_path(images, path.parent)})
        profile = profile.model_copy(update={"slurm": slurm})
    return profile

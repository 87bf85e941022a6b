"""One study: its inputs, its settings, where things lie.

A study file is TOML; every key is described here and nowhere else. Settings of the steps are
optional: what a study leaves out, the step's own default decides.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from axoloci.errors import InputError


class Section(BaseModel):
    """A table of the study file: unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class PreprocessSettings(Section):
    """`[preprocess]`: raw DWI to corrected DWI and brain mask."""

    already_preprocessed: bool = Field(
        False, description="keep the volumes as they are, such as those of FSL's eddy"
    )


class DtiSettings(Section):
    """`[dti]`: the tensor fit."""

    max_bval: float | None = Field(
        None, gt=0, description="largest b-value fitted, s/mm²; higher shells are left out"
    )
    method: Literal["WLS", "OLS"] | None = Field(None, description="fit method")


class NormalizeSettings(Section):
    """`[normalize]`: FA maps in a common space."""

    template: Path | None = Field(
        None, description="FA template image; without it the shipped MNI template at 2 mm"
    )
    voxel_size: float | None = Field(
        None, gt=0, description="voxel size of the common space, mm; without it the template's own"
    )


class EncoderSettings(Section):
    """`[encoder]`: the autoencoder of the FA maps."""

    n_latents: int | None = Field(None, ge=1, description="number of latent phenotypes")
    channels: tuple[int, ...] | None = Field(
        None, description="feature channels of each resolution level, finest first"
    )
    epochs: int | None = Field(None, ge=1, description="passes over the training people")
    batch_size: int | None = Field(None, ge=2, description="people a training step")
    learning_rate: float | None = Field(None, gt=0, description="Adam's first step size")
    seed: int | None = Field(None, ge=0, description="seed of weights, split and shuffling")
    threads: int = Field(
        1,
        ge=1,
        description="CPU threads; another number rounds differently and so gives another, equally "
        "good model, which is why --n-procs does not decide it",
    )


class GwasSettings(Section):
    """`[gwas]`: association of all latents with all variants."""

    covariates: tuple[str, ...] | None = Field(
        None, description="columns of the covariate table to use; without it all of them"
    )
    categorical: tuple[str, ...] = Field(
        (), description="numeric columns that are categories (text columns always are)"
    )
    n_pcs: int = Field(10, ge=0, description="genotype principal components used as covariates")
    device: Literal["auto", "cpu", "cuda"] | None = Field(
        None, description="where the arithmetic is done"
    )
    export: tuple[str, ...] = Field(
        (), description="traits also written as GWAS-SSF text, such as latent_000"
    )


class GeneticsSettings(Section):
    """`[genetics]`: joint test and loci."""

    p_threshold: float | None = Field(
        None, gt=0, lt=1, description="p of the joint test that makes a lead variant"
    )
    clump_r2: float | None = Field(
        None, gt=0, lt=1, description="LD above which a variant belongs to a lead"
    )
    clump_kb: float | None = Field(None, gt=0, description="farthest distance to a lead, kb")


class StudySettings(Section):
    """A whole study file."""

    out: Path = Field(description="folder for everything that is made; it is created")
    bids: Path | None = Field(None, description="BIDS data set with raw DWI")
    scans: Path | None = Field(
        None, description="table participant_id, dwi, bval, bvec[, mask] in place of `bids`"
    )
    genotypes: Path | None = Field(None, description="PLINK 1 prefix of .bed, .bim, .fam")
    covariates: Path | None = Field(
        None, description="table with IID and one column a covariate (TSV)"
    )
    min_participants: int = Field(
        20, ge=2, description="fewest people with whom the group stage is run"
    )
    preprocess: PreprocessSettings = PreprocessSettings()
    dti: DtiSettings = DtiSettings()
    normalize: NormalizeSettings = NormalizeSettings()
    encoder: EncoderSettings = EncoderSettings()
    gwas: GwasSettings = GwasSettings()
    genetics: GeneticsSettings = GeneticsSettings()


def _known_keys(model: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """Names allowed in the table of the study file in which `location` lies."""
    for name in location[:-1]:
        annotation = model.model_fields[str(name)].annotation
        assert isinstance(annotation, type)
        assert issubclass(annotation, BaseModel)
        model = annotation
    return list(model.model_fields)


def parse_settings(content: Mapping[str, Any], source: str, folder: Path) -> StudySettings:
    """Settings from parsed TOML or from the command line.

    Parameters
    ----------
    content
        Keys as in the study file.
    source
        Name used in messages, such as the file's path.
    folder
        Relative paths start here.

    Raises
    ------
    InputError
        Unknown keys (with the nearest known one), wrong types, inputs that contradict each other.
        All problems are listed at once.
    """
    try:
        settings = StudySettings.model_validate(content)
    except ValidationError as error:
        problems = []
        for problem in error.errors():
            key = ".".join(str(part) for part in problem["loc"])
            if problem["type"] == "extra_forbidden":
                known = _known_keys(StudySettings, problem["loc"])
                nearest = difflib.get_close_matches(str(problem["loc"][-1]), known, n=1, cutoff=0.4)
                hint = f"did you mean '{nearest[0]}'?" if nearest else f"known: {', '.join(known)}"
                problems.append(f"unknown key '{key}'; {hint}")
            else:
                problems.append(f"'{key}': {problem['msg']}")
        raise InputError("\n  ".join([f"{source}:", *problems])) from error
    if (settings.bids is None) == (settings.scans is None):
        raise InputError(f"{source}: name either 'bids' or 'scans', the source of the raw DWI")

    if settings.gwas.covariates and settings.covariates is None:
        raise InputError(f"{source}: 'gwas.covariates' names columns, but 'covariates' no table")

    def resolve(path: Path | None) -> Path | None:
        return None if path is None else Path(folder, path.expanduser()).absolute()

    return settings.model_copy(
        update={
            **{
                name: resolve(getattr(settings, name))
                for name in ("out", "bids", "scans", "covariates")
            },
            "genotypes": resolve(
                settings.genotypes.with_suffix("")
                if settings.genotypes and settings.genotypes.suffix == ".bed"
                else settings.genotypes
            ),
            "normalize": settings.normalize.model_copy(
                update={"template": resolve(settings.normalize.template)}
            ),
        }
    )


def read_study(path: Path) -> StudySettings:
    """Read a study file; relative paths in it start at its own folder.

    Raises
    ------
    InputError
        Not readable, not TOML, or not a study (see `parse_settings`).
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"{path}: cannot be read as a study file (TOML): {error}") from error
    return parse_settings(content, str(path), path.parent)


# Settings of the study that are not options of a step's command.
NOT_OPTIONS = {"normalize": {"template"}, "gwas": {"covariates", "n_pcs", "export"}}


def step_settings(settings: StudySettings) -> dict[str, dict[str, Any]]:
    """Options of each step's command that the study names, as plain values."""
    chosen = {}
    for step in ("preprocess", "dti", "normalize", "encoder", "gwas", "genetics"):
        section = getattr(settings, step)
        values = section.model_dump(mode="json", exclude=NOT_OPTIONS.get(step))
        chosen[step] = {key: value for key, value in values.items() if value not in (None, [])}
    if channels := chosen["encoder"].get("channels"):
        chosen["encoder"]["channels"] = ",".join(map(str, channels))
    if settings.gwas.covariates is not None:
        pcs = [f"PC{number}" for number in range(1, settings.gwas.n_pcs + 1)]
        chosen["gwas"]["covariate"] = [*settings.gwas.covariates, *pcs]
    return chosen


@dataclass(frozen=True)
class StudyPaths:
    """Where the parts of a study lie under its output folder."""

    out: Path

    @property
    def work(self) -> Path:
        """State that resume needs: Pydra's cache and hashes, checkpoints."""
        return self.out / "work"

    @property
    def cache(self) -> Path:
        """Pydra's cache. It holds pickles, so only its owner may write or read it."""
        return self.work / "pydra"

    @property
    def logs(self) -> Path:
        """One log and one job record a step, in one folder a scan and one for the group."""
        return self.out / "logs"

    @property
    def group(self) -> Path:
        """Results of the cohort: store, model, latents, summary statistics, loci."""
        return self.out / "group"

    @property
    def scans(self) -> Path:
        """Table of all scans with status and reason."""
        return self.out / "scans.tsv"

    @property
    def qc(self) -> Path:
        """Table of quality figures, one row a scan."""
        return self.out / "qc.tsv"

    @property
    def report(self) -> Path:
        """The report page."""
        return self.out / "report.html"

    @property
    def shareable(self) -> Path:
        """The report page without individual-level data."""
        return self.out / "report-shareable.html"

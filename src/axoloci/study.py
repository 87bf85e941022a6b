"""One study: its inputs, its settings, where things lie.

A study file is TOML; every key is described here and nowhere else. Settings of the steps are
optional: what a study leaves out, the step's own default decides.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from axoloci.errors import InputError, nearest
from axoloci.io.gradients import B0_THRESHOLD, MAX_BVAL

Model = TypeVar("Model", bound=BaseModel)


class Section(BaseModel):
    """A table of a TOML file: unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class PreprocessSettings(Section):
    """`[preprocess]`: raw DWI to corrected DWI and brain mask."""

    already_preprocessed: bool = Field(
        False, description="keep the volumes as they are, such as those of FSL's eddy"
    )
    denoise: bool = Field(
        False,
        description="take out thermal noise, by which FA gets smoother and lower; not of images "
        "that the scanner interpolated",
    )
    unring: bool = Field(
        True, description="take out Gibbs ringing; not of images that the scanner interpolated"
    )
    motion: bool = Field(
        True, description="correct head motion and eddy currents, replace slices that lost signal"
    )
    distortion: bool = Field(
        True,
        description="correct susceptibility distortion where there is a b0 of reverse phase "
        "encoding",
    )

    @property
    def finds_motion(self) -> bool:
        """Whether motion is looked for."""
        return self.motion and not self.already_preprocessed

    @property
    def corrects_distortion(self) -> bool:
        """Whether a reverse b0 is of use."""
        return self.distortion and not self.already_preprocessed


class DtiSettings(Section):
    """`[dti]`: the tensor fit."""

    max_bval: float | None = Field(
        None,
        gt=B0_THRESHOLD,
        le=MAX_BVAL,
        description="largest b-value fitted, s/mm²; higher shells are left out",
    )
    method: Literal["OLS", "WLS", "IWLS", "NLLS", "RESTORE"] | None = Field(
        None,
        description="fit method; NLLS, and RESTORE, which leaves out outliers, take a minute each",
    )
    kurtosis: Literal["msdki", "dki", "none"] | None = Field(
        None,
        description="mean kurtosis of scans of two shells or more: msdki costs next to nothing, "
        "dki, the whole kurtosis tensor, some minutes a scan",
    )


class NormalizeSettings(Section):
    """`[normalize]`: FA maps in a common space."""

    template: Path | None = Field(
        None, description="FA template image; without it the shipped MNI template at 2 mm"
    )
    mask: Path | None = Field(
        None,
        description="image of the voxels to keep, in the common space; without it those of the "
        "template's brain that nearly all people cover",
    )
    voxel_size: float | None = Field(
        None,
        ge=0.5,
        le=10,
        description="voxel size of the common space, mm; without it the template's own",
    )
    dtype: Literal["float16", "uint8"] | None = Field(
        None,
        description="how the cohort's store holds FA: float16 within 2.5e-4, uint8 within 0.002 in "
        "two thirds of the disk and of the time to read",
    )


class QcSettings(Section):
    """`[qc]`: quality control of the scans (rules and limits: OUT/qc.html)."""

    pages: bool = Field(True, description="make a page of pictures and figures of each scan")
    exclude: bool = Field(
        True,
        description="scans whose data are wrong by a rule (another brain, wrong gradients, failed "
        "registration, hardly a still volume) are left out of the group; OUT/exclude.tsv names "
        "them, and what you write there is obeyed either way",
    )


# What the published autoencoder (`udip_fa`) has where a study names nothing else.
UDIP_FA = {
    "n_latents": 128,
    "channels": (16, 32, 64, 128, 256),
    "epochs": 100,
    "batch_size": 36,
}

# What makes phenotypes of the FA maps, and what the columns of its table begin with.
REPRESENTATIONS = {"autoencoder": "latent", "linear": "component"}


class EncoderSettings(Section):
    """`[encoder]`: which phenotypes are learnt of the FA maps, and the autoencoder."""

    representations: tuple[Literal["autoencoder", "linear"], ...] = Field(
        ("autoencoder", "linear"),
        min_length=1,
        description="what makes the phenotypes: the autoencoder, the linear representation "
        "(principal components of smoothed maps, [linear]), or both, each tested and reported for "
        "itself; both cost one reading of the genotypes",
    )
    training_people: Literal["refuse", "keep", "drop"] = Field(
        "refuse",
        description="what becomes of people of the association on whose maps the phenotypes were "
        "learnt: refuse stops, until you have chosen; keep tests them too (the learning sees no "
        "genotypes, so it makes no false associations, but reconstruction and power are judged on "
        "people whom the model has seen); drop leaves them out, which needs other people in "
        "[train]",
    )
    udip_fa: bool = Field(
        False,
        description="the published network and training (UDIP-FA: 128 latents, channels 16 to 256, "
        "100 epochs, batches of 36) in place of the defaults, but for the keys that are set here; "
        "meant for 1 mm, thousands of people and a GPU",
    )
    n_latents: int | None = Field(None, ge=1, description="number of latent phenotypes")
    channels: tuple[Annotated[int, Field(ge=1)], ...] | None = Field(
        None, description="feature channels of each resolution level, finest first"
    )
    epochs: int | None = Field(
        None,
        ge=1,
        description="passes over the training people; without it 6 to 20, as many as make 1,000 "
        "steps",
    )
    batch_size: int | None = Field(None, ge=2, description="people a training step")
    learning_rate: float | None = Field(None, gt=0, description="Adam's first step size")
    seed: int | None = Field(None, ge=0, description="seed of weights, split and shuffling")
    precision: Literal["float32", "bfloat16"] | None = Field(
        None,
        description="of products in training: bfloat16 takes about half the time and memory where "
        "the device has it; without it bfloat16 on such a GPU, else float32",
    )
    recompute: bool = Field(
        False,
        description="keep less in memory and compute it again, a third more time, for batches that "
        "do not fit",
    )
    compile: bool = Field(
        False,
        description="fuse operations by torch.compile, which needs a C++ compiler and so no "
        "container: minutes before the first step, less time for each",
    )
    deterministic: bool = Field(
        False,
        description="on a GPU, only algorithms that repeat to the bit, which are slower; on a CPU "
        "training always repeats",
    )
    tensorboard: bool = Field(
        False,
        description="draw the losses for TensorBoard while it trains, in "
        "OUT/group/autoencoder/tensorboard; switched later, it trains again",
    )
    threads: int = Field(
        1,
        ge=1,
        description="CPU threads; another number rounds differently and so gives another, equally "
        "good model, which is why --n-procs does not decide it",
    )

    @field_validator("representations")
    @classmethod
    def _are_different(cls, representations: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(representations)) < len(representations):
            raise ValueError("one is named twice")
        return representations

    @property
    def decided(self) -> EncoderSettings:
        """These settings, with what `udip_fa` decides of those that are left out."""
        left_out = {key: value for key, value in UDIP_FA.items() if getattr(self, key) is None}
        return self.model_copy(update=left_out) if self.udip_fa else self


class LinearSettings(Section):
    """`[linear]`: the linear representation of the FA maps."""

    n_latents: int | None = Field(None, ge=1, description="number of components")
    variance: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="share of the smoothed maps' variance to keep, in place of a number of "
        "components",
    )
    bandwidth: float | None = Field(
        None,
        ge=0,
        description="standard deviation of the kernel that smooths the maps, mm; without it chosen "
        "from the maps (GCV)",
    )
    atlas: Path | None = Field(
        None,
        description="image of labels in the common space, mm: the representation is the mean FA of "
        "each label, one component a label in the order of their numbers, in place of principal "
        "components",
    )
    seed: int | None = Field(
        None, ge=0, description="seed of the people held out, and of those who choose the bandwidth"
    )

    @model_validator(mode="after")
    def _has_one_size(self) -> LinearSettings:
        if self.n_latents is not None and self.variance is not None:
            raise ValueError("n_latents and variance both tell how many components; keep one")
        return self

    @model_validator(mode="after")
    def _has_one_kind(self) -> LinearSettings:
        of_components = ("n_latents", "variance", "bandwidth")
        named = [key for key in of_components if getattr(self, key) is not None]
        if self.atlas is not None and named:
            raise ValueError(
                "atlas makes one component a label, of maps that are not smoothed; leave out "
                f"{' and '.join(named)}, or atlas"
            )
        return self


class GwasSettings(Section):
    """`[gwas]`: association of all latents, or traits of a table, with all variants."""

    traits: tuple[str, ...] = Field(
        (), description="columns of the table of traits that are tested; without it all of them"
    )
    covariates: tuple[str, ...] | None = Field(
        None,
        description="columns of the covariate table to use; without it all of them, [] is none",
    )
    model: str | None = Field(
        None,
        min_length=1,
        description="covariates as a formula, in place of `covariates`, such as age + age**2 + "
        "sex*age + C(site) + PC1:PC10: a*b is both and their product, C(a) takes numbers as "
        "categories, PC1:PC10 are ten columns",
    )
    categorical: tuple[str, ...] = Field(
        (), description="numeric columns that are categories (text columns always are)"
    )
    n_pcs: int = Field(
        10,
        ge=0,
        description="genotype principal components used as covariates; a `model` names those that "
        "it uses, PC1 to the last",
    )
    mixed_model: bool = Field(
        False,
        description="take off each trait what the genome but the tested chromosome predicts: for "
        "people who are related, or of several ancestries",
    )
    mixed_model_extract: Path | None = Field(
        None,
        description="list of the variants that predict, such as 200,000 to 500,000 independent "
        "ones; without it all that are common and well genotyped (axoloci-gwas ridge --help)",
    )
    region: tuple[str, ...] = Field(
        (), description="test only these chromosomes, or positions of them such as 7:100000-250000"
    )
    extract: Path | None = Field(
        None, description="test only the variants of this list: one id a line, or a column ID"
    )
    exclude: Path | None = Field(None, description="list of variants that are not tested")
    min_maf: float | None = Field(
        None, ge=0, le=0.5, description="smallest minor allele frequency of a variant"
    )
    min_mac: float | None = Field(
        None,
        ge=0,
        description="smallest number of minor alleles; from about 20 on p-values are safe",
    )
    max_missing: float | None = Field(
        None, ge=0, le=1, description="largest share of people without a genotype of a variant"
    )
    min_hwe_p: float | None = Field(
        None, ge=0, le=1, description="smallest p of Hardy-Weinberg equilibrium, such as 1e-15"
    )
    min_info: float | None = Field(
        None, ge=0, description="smallest quality of imputation, such as 0.3"
    )
    winsorize: float | None = Field(
        None, gt=0, description="draw traits in to so many standard deviations from their mean"
    )
    rank_normal: Literal["values", "residuals"] | None = Field(
        None,
        description="normal scores of the ranks of the traits, or of what covariates leave of them",
    )
    complete_traits: bool | None = Field(
        None,
        description="leave out people who lack a trait, so that all traits are tested jointly; "
        "without it the joint test is of the traits that no one lacks",
    )
    device: Literal["auto", "cpu", "cuda"] | None = Field(
        None, description="where the arithmetic is done"
    )
    export: tuple[str, ...] = Field(
        (), description="traits also written as text for other programs, such as latent_000"
    )
    export_format: Literal["gwas-ssf", "plink2", "regenie", "ldsc"] = Field(
        "gwas-ssf", description="what that text is like; the GWAS Catalog takes gwas-ssf"
    )

    @field_validator("model")
    @classmethod
    def _is_formula(cls, model: str | None) -> str | None:
        try:
            _variables(model or "")
        except InputError as error:
            raise ValueError(str(error)) from error
        return model

    @property
    def pcs(self) -> tuple[str, ...]:
        """Names of the components that are made on the way."""
        return tuple(f"PC{number}" for number in range(1, self.n_pcs + 1))

    @property
    def key(self) -> str:
        """The key that names the covariates."""
        return "covariates" if self.model is None else "model"

    @property
    def variant_lists(self) -> dict[str, Path]:
        """Files that name variants, by key."""
        keys = ("extract", "exclude", "mixed_model_extract")
        return {key: path for key in keys if (path := getattr(self, key)) is not None}

    @property
    def transforms(self) -> list[str]:
        """Keys that change the values of the traits before they are tested."""
        return [key for key in ("winsorize", "rank_normal") if getattr(self, key) is not None]

    @property
    def columns(self) -> tuple[str, ...] | None:
        """Covariates that are named, the components that are made apart; None means all."""
        if self.model is None:
            return self.covariates
        return tuple(name for name in _variables(self.model) if name not in self.pcs)


def _variables(formula: str) -> list[str]:
    """Names in a formula; only what a study names is imported."""
    if not formula:
        return []
    from axoloci.covariates import formula_variables

    return formula_variables(formula)


class GeneticsSettings(Section):
    """`[genetics]`: joint test, loci, and what follows from them."""

    p_threshold: float | None = Field(
        None, gt=0, lt=1, description="p of the joint test that makes a lead variant"
    )
    clump_r2: float | None = Field(
        None, gt=0, lt=1, description="LD above which a variant belongs to a lead"
    )
    clump_kb: float | None = Field(None, gt=0, description="farthest distance to a lead, kb")
    also: tuple[Literal["minp", "mostest"], ...] = Field(
        (), description="joint tests beside the F test, by permuted genotypes: minp, mostest"
    )
    genes: Path | None = Field(
        None,
        description="table of genes, chromosome, start, end, gene (TSV): the nearest of each locus",
    )
    reference: Path | None = Field(
        None,
        description="genotypes of a panel, whose linkage disequilibrium is taken for the loci in "
        "place of the study's own, given as `genotypes` is",
    )
    ld_scores: Path | None = Field(
        None,
        description="LD scores of a panel, of axoloci-genetics ld-scores or a folder of published "
        "ones: heritability by LD score regression too, with its intercept",
    )
    outside: tuple[Path, ...] = Field(
        (),
        description="summary statistics of other studies as text, one trait each, named by the "
        "file up to its first dot: their genetic correlation with the latents, by `ld_scores`",
    )
    outside_n: dict[str, Annotated[int, Field(gt=0)]] = Field(
        {}, description="people of traits of `outside` whose files do not say n: {height = 253000}"
    )
    other_build: bool = Field(
        False,
        description="let positions differ: LD scores or outside statistics are of another genome "
        "build than the study, and variants are matched by id alone",
    )
    signals: bool = Field(
        True, description="look for more signals in each locus, adjusted for its lead variants"
    )
    heritability: bool = Field(
        True, description="SNP heritability and genetic correlation of the latents"
    )
    voxels: bool = Field(
        True, description="map what each locus changes, and the heritability of each voxel"
    )
    noise_of: Literal["voxel", "projection"] = Field(
        "voxel",
        description="whose noise p and heritability in maps are of: voxel, or projection, of the "
        "maps that the latents make, where p is far smaller if latents are few",
    )

    @property
    def ldsc(self) -> bool:
        """Whether there is LD score regression."""
        return self.ld_scores is not None

    @property
    def files(self) -> dict[str, Path]:
        """Files and folders that the loci are looked for with and what follows them, by key."""
        keys = ("genes", "reference", "ld_scores")
        return {key: path for key in keys if (path := getattr(self, key)) is not None}


class Inputs(Section):
    """Where a cohort's data lie: one source of images or traits, genotypes, covariates."""

    bids: Path | None = Field(None, description="raw DWI: a BIDS data set")
    scans: Path | None = Field(
        None, description="raw DWI: table participant_id, dwi, bval, bvec[, mask]"
    )
    preprocessed: Path | None = Field(
        None,
        description="corrected DWI: table participant_id, dwi, bval, bvec, mask, or a folder of "
        "BIDS derivatives (QSIPrep's, axoloci's)",
    )
    fa: Path | None = Field(
        None,
        description="FA maps in the scans' own spaces: table participant_id, fa, a folder of BIDS "
        "derivatives, or a pattern such as maps/{participant_id}_FA.nii.gz",
    )
    fa_common: Path | None = Field(
        None, description="FA maps in one common space: given as `fa` is"
    )
    traits: Path | None = Field(
        None, description="table of traits, one row a person (TSV or Parquet): no images at all"
    )
    genotypes: Path | None = Field(
        None,
        description="PLINK 1 (.bed), PLINK 2 (.pgen) or BGEN (.bgen), with or without the suffix; "
        "a pattern such as ukb_chr{chromosome}.bgen where each chromosome has a file",
    )
    covariates: Path | None = Field(
        None, description="table with IID and one column a covariate (TSV)"
    )
    keep: Path | None = Field(
        None, description="table with IID: only these people belong to the cohort"
    )

    @property
    def sources(self) -> list[str]:
        """Names of the sources that are given; a cohort has one."""
        return [name for name in DOORS if getattr(self, name) is not None]

    @property
    def start(self) -> str:
        """The step at which the data enter."""
        return DOORS[self.sources[0]]

    @property
    def made_covariates(self) -> set[str]:
        """Covariates that are made on the way, if the study names them."""
        return {name for name, sources in MADE_COVARIATES.items() if self.sources[0] in sources}


FOLLOWING = ("signals", "heritability", "ldsc", "voxels")
# Step at which a cohort's data enter, by the source that it names.
DOORS = {
    "bids": "preprocess",
    "scans": "preprocess",
    "preprocessed": "dti",
    "fa": "normalize",
    "fa_common": "encoder",
    "traits": "gwas",
}
COHORTS = ("train", "discovery", "replication")

# Columns of qc.tsv that may be named as covariates, and the sources of which they are made.
MADE_COVARIATES = {
    "head_scale": ("bids", "scans", "preprocessed", "fa"),
    "mean_framewise_displacement": ("bids", "scans"),
    "scanner": ("bids",),  # a table of scans has no sidecars
    "site": ("bids",),
}


class StudySettings(Inputs):
    """A whole study file."""

    out: Path = Field(description="folder for everything that is made; it is created")
    title: str | None = Field(
        None, description="name of the study in its report; without it that of its folder"
    )
    min_participants: int = Field(
        20, ge=2, description="fewest people with whom the group stage is run"
    )
    train: Inputs | None = Field(
        None, description="of whose maps the phenotypes are learnt, if not of the discovery's"
    )
    discovery: Inputs | None = Field(None, description="in whom loci are looked for")
    replication: Inputs | None = Field(None, description="in whom the loci found are tested again")
    preprocess: PreprocessSettings = PreprocessSettings()
    dti: DtiSettings = DtiSettings()
    normalize: NormalizeSettings = NormalizeSettings()
    qc: QcSettings = QcSettings()
    encoder: EncoderSettings = EncoderSettings()
    linear: LinearSettings = LinearSettings()
    gwas: GwasSettings = GwasSettings()
    genetics: GeneticsSettings = GeneticsSettings()
    extra: dict[str, dict[str, Any]] = Field(
        {},
        description="[extra.NAME]: the installed step NAME is run for each scan after the others; "
        "its keys are fields of the step's task",
    )

    def cohorts(self) -> dict[str, StudySettings]:
        """Each cohort as a study of its own, by name.

        What a cohort's table leaves out, the top of the file says. A study of one cohort is that
        cohort, `discovery`; of several, each has a folder of its name under `out`.
        """
        given = {name: getattr(self, name) for name in COHORTS}
        alone = not (self.train or self.replication)
        cohorts = {}
        for name in COHORTS:
            own: Inputs | None = given[name]
            if own is None and name != "discovery":
                continue
            update = dict.fromkeys(COHORTS)
            if own is not None:
                if own.sources:  # instead of the source at the top
                    update |= dict.fromkeys(DOORS)
                update |= {key: getattr(own, key) for key in own.model_fields_set}
            if not alone:
                update["out"] = self.out / name
            cohorts[name] = self.model_copy(update=update)
        return cohorts

    def teacher(self) -> str:
        """The cohort that trains the encoder; empty where traits are given."""
        cohorts = self.cohorts()
        name = "train" if "train" in cohorts else "discovery"
        return "" if cohorts[name].start == "gwas" else name

    def representations(self) -> tuple[str, ...]:
        """What makes the phenotypes; none where traits are given."""
        return self.encoder.representations if self.teacher() else ()

    @property
    def follows(self) -> list[str]:
        """What follows the association and its loci, by keys of `[genetics]`.

        What a mixed model leaves of the traits is no phenotype of its own: neither is its
        heritability estimated, nor are more variants added to it. Of transformed latents voxels are
        no combinations.
        """
        impossible = {"signals", "heritability"} if self.gwas.mixed_model else set()
        impossible |= {"voxels"} if self.gwas.transforms else set()
        return [
            name for name in FOLLOWING if name not in impossible and getattr(self.genetics, name)
        ]

    def atlas(self) -> Path | None:
        """The atlas whose labels make the linear representation, if they do."""
        return self.linear.atlas if "linear" in self.representations() else None


def _known_keys(model: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """Names allowed in the table of a model's file in which `location` lies."""
    names = iter(location[:-1])
    for name in names:
        annotation = model.model_fields[str(name)].annotation
        kinds = get_args(annotation) or (annotation,)  # `Inputs | None` has two
        (model,) = (
            kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)
        )
        if get_origin(annotation) is dict:  # tables of names that are free
            next(names)
    return list(model.model_fields)


def validated(model: type[Model], content: Mapping[str, Any], source: str) -> Model:
    """Parsed TOML as a model of its keys.

    Raises
    ------
    InputError
        Unknown keys (with the nearest known one) and wrong types, all at once; `source` names the
        file.
    """
    try:
        return model.model_validate(content)
    except ValidationError as error:
        problems = []
        for problem in error.errors():
            key, given = ".".join(map(str, problem["loc"])), problem["input"]
            if problem["type"] == "extra_forbidden":
                known = _known_keys(model, problem["loc"])
                hint = nearest(str(problem["loc"][-1]), known)
                problems.append(f"unknown key '{key}'; {hint}")
            elif problem["type"] == "tuple_type" and isinstance(given, str | int | float):
                problems.append(f"'{key}': write a list: {json.dumps([given], ensure_ascii=False)}")
            else:
                found = "" if problem["type"] == "missing" else f", found {given!r}"
                problems.append(f"'{key}': {problem['msg']}{found}")
        raise InputError(f"{source}:", problems) from error


def read_toml(path: Path, what: str) -> dict[str, Any]:
    """The content of a TOML file; `what` it is goes into the message.

    Raises
    ------
    InputError
        Not readable or not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        is_syntax = isinstance(error, tomllib.TOMLDecodeError)
        hint = '; text stands in quotes, as in key = "text"' if is_syntax else ""
        raise InputError(f"{path}: cannot be read as {what} (TOML): {error}{hint}") from error


def whole_path(path: str | Path, folder: Path) -> Path:
    """An absolute path without `..`, which containers do not know; relative ones start at a folder.

    Links that a `..` comes after are followed, others stay.
    """
    whole = Path()
    for part in Path(folder, Path(path).expanduser()).absolute().parts:
        whole = whole.resolve().parent if part == ".." else whole / part
    return whole


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
    settings = validated(StudySettings, content, source)
    problems = _contradictions(settings)
    if problems:
        raise InputError(f"{source}:", problems)

    def resolve(path: Path | None) -> Path | None:
        return None if path is None else whole_path(path, folder)

    def resolved(inputs: Inputs) -> dict[str, Path | None]:
        paths = {name: resolve(getattr(inputs, name)) for name in Inputs.model_fields}
        return {name: path for name, path in paths.items() if path is not None}

    cohorts = {name: getattr(settings, name) for name in COHORTS}
    return settings.model_copy(
        update={
            "out": resolve(settings.out),
            **_whole_extra(settings, folder),
            **resolved(settings),
            **{
                name: inputs.model_copy(update=resolved(inputs))
                for name, inputs in cohorts.items()
                if inputs is not None
            },
            "normalize": settings.normalize.model_copy(
                update={
                    name: resolve(getattr(settings.normalize, name))
                    for name in ("template", "mask")
                }
            ),
            "linear": settings.linear.model_copy(update={"atlas": resolve(settings.linear.atlas)}),
            "gwas": settings.gwas.model_copy(
                update={name: resolve(path) for name, path in settings.gwas.variant_lists.items()}
            ),
            "genetics": settings.genetics.model_copy(
                update={name: resolve(path) for name, path in settings.genetics.files.items()}
                | {"outside": tuple(map(resolve, settings.genetics.outside))}
            ),
        }
    )


def _whole_extra(settings: StudySettings, folder: Path) -> dict[str, Any]:
    """The tables of outside steps with whole paths; only what a study names is imported."""
    if not settings.extra:
        return {}
    from axoloci.extra import whole_paths  # which knows steps, and these the study's sections

    return {"extra": whole_paths(settings.extra, folder)}


def not_made(names: Iterable[str], cohort: Inputs) -> str:
    """A clause on those of some covariates that are made on the way, but not of such a cohort."""
    return "".join(
        f"; '{name}' is made on the way only of cohorts by {' or '.join(MADE_COVARIATES[name])}"
        for name in sorted(names)
        if name in MADE_COVARIATES and name not in cohort.made_covariates
    )


def beyond_pcs(names: Iterable[str], n_pcs: int) -> str:
    """A clause on names that look like components, of which fewer are made."""
    beyond = [name for name in sorted(names) if re.fullmatch(r"PC\d+", name)]
    return f"; components are made as far as n_pcs = {n_pcs} in [gwas] says" if beyond else ""


def _contradictions(settings: StudySettings) -> list[str]:
    """What is missing or excludes each other in settings that are of the right types."""
    problems = []
    for name in ("", *COHORTS):
        inputs = getattr(settings, name) if name else settings
        if inputs is not None and len(inputs.sources) > 1:
            named = " and ".join(f"'{source}'" for source in inputs.sources)
            problems.append(
                f"{f'[{name}]: ' if name else ''}{named}: a cohort has one source; keep one of "
                "these keys, and put scans of several places into one table of 'scans'"
            )
    if problems:
        return problems
    cohorts, gwas = settings.cohorts(), settings.gwas
    for name, cohort in cohorts.items():
        where = f"[{name}]: " if len(cohorts) > 1 else ""
        if not cohort.sources:
            problems.append(f"{where}name the source of the data, one of {', '.join(DOORS)}")
        elif name != "train":
            made = cohort.made_covariates & set(gwas.columns or ())  # only these
            for key, names in ((gwas.key, gwas.columns), ("categorical", gwas.categorical)):
                columns = set(names or ()) - made
                if cohort.covariates is None and columns:
                    problems.append(
                        f"{where}'gwas.{key}' names columns, but 'covariates' no table: "
                        f"{', '.join(sorted(columns))}{not_made(columns, cohort)}"
                        f"{beyond_pcs(columns, gwas.n_pcs)}"
                    )
    if problems:
        return problems
    if len({cohort.start == "gwas" for cohort in cohorts.values()}) > 1:
        problems.append("'traits' of one cohort and images of another cannot be compared")
    elif "train" in cohorts and cohorts["train"].start == "gwas":
        problems.append("[train]: 'traits' train no encoder; name images")
    made_by_motion = "mean_framewise_displacement"
    if made_by_motion in (gwas.columns or ()) and not settings.preprocess.finds_motion:
        problems.append(
            f"'gwas.{gwas.key}' names {made_by_motion}, and [preprocess] looks for no motion; "
            "leave one of them out"
        )
    unused = set(gwas.categorical) - set(gwas.columns or ())
    if gwas.columns is not None and unused:
        problems.append(
            f"'gwas.categorical' names {', '.join(sorted(unused))}, which 'gwas.{gwas.key}' does "
            "not; add it there or leave it out here"
        )
    if gwas.model is not None and gwas.covariates is not None:
        problems.append(
            "'gwas.model' and 'gwas.covariates' both name the covariates; keep one of them"
        )
    if gwas.mixed_model_extract is not None and not gwas.mixed_model:
        problems.append("'gwas.mixed_model_extract' is of use with mixed_model = true only")
    problems += _of_no_ldsc(settings.genetics)
    if cohorts["discovery"].start != "gwas":
        problems += _impossible_exports(settings)
        if settings.encoder.training_people == "drop" and settings.train is None:
            problems.append(
                "'encoder.training_people' is \"drop\", and the people of the association train "
                "the encoder, so that nobody is left: name other people in [train], or choose "
                '"keep"'
            )
        if gwas.traits:
            problems.append(
                "'gwas.traits' names columns of a table of traits, and this study makes its "
                "traits, the latents, all of which are tested; leave it out"
            )
    elif gwas.traits and (others := [n for n in gwas.export if n not in gwas.traits]):
        problems.append(
            f"'gwas.export' names {', '.join(others)}, which 'gwas.traits' does not; add it there "
            "or leave it out here"
        )
    return problems


def _of_no_ldsc(genetics: GeneticsSettings) -> list[str]:
    """Outside traits that cannot be correlated with."""
    if not (genetics.outside or genetics.outside_n):
        return []
    if not genetics.ldsc:
        return ["'genetics.outside' is correlated with by LD scores; name 'genetics.ld_scores'"]
    from axoloci.io.outside_sumstats import trait_name  # only what a study names is imported

    names = [trait_name(path) for path in genetics.outside]
    problems = [
        f"'genetics.outside' has several files of a trait {name}, its name up to the first dot; "
        "rename one"
        for name in dict.fromkeys(names)
        if names.count(name) > 1
    ]
    if unknown := [name for name in genetics.outside_n if name not in names]:
        problems.append(
            f"'genetics.outside_n' names {', '.join(unknown)}, which no file of 'genetics.outside' "
            f"is named by up to its first dot: {', '.join(names) or 'there is none'}"
        )
    return problems


def _impossible_exports(settings: StudySettings) -> list[str]:
    """Traits to export that no representation makes."""
    numbers = {
        "autoencoder": settings.encoder.decided.n_latents,
        "linear": settings.linear.n_latents,
    }
    made = {REPRESENTATIONS[name]: numbers[name] for name in settings.encoder.representations}
    there = " and ".join(
        f"{word}_000{'' if number is None else f' to {word}_{number - 1:03d}'}"
        for word, number in made.items()
    )
    problems = []
    for name in settings.gwas.export:
        word, _, digits = name.rpartition("_")
        exists = word in made and digits.isdecimal() and digits == f"{int(digits):03d}"
        last = made.get(word)
        if not exists or (last is not None and int(digits) >= last):
            problems.append(
                f"'gwas.export': there will be no trait '{name}'; the latents are {there}"
            )
    return problems


def read_study(path: Path) -> StudySettings:
    """Read a study file; relative paths in it start at its own folder.

    Raises
    ------
    InputError
        Not readable, not TOML, or not a study (see `parse_settings`).
    """
    return parse_settings(read_toml(path, "a study file"), str(path), path.parent)


# Settings of the study that are not options of a step's command.
NOT_OPTIONS = {
    "preprocess": {"distortion"},
    "normalize": {"template", "mask", "dtype"},
    "encoder": {"representations", "training_people", "tensorboard"},
    "linear": {"atlas"},
    "gwas": {
        *("traits", "covariates", "n_pcs", "extract", "exclude", "mixed_model"),
        *("mixed_model_extract", "export", "export_format"),
    },
    "genetics": {
        *("also", "genes", "reference", "ld_scores", "outside", "outside_n", "other_build"),
        *("signals", "heritability", "voxels", "noise_of"),
    },
}
# Options of the association that the search for more signals of a locus does not have.
ONLY_OF_ASSOCIATION = {"device", "precision", "traits_at_once"}
# Options of the association that its mixed model shares: which variants predict, it says itself.
OF_MIXED_MODEL = (
    *("trait", "covariate", "model", "categorical"),
    *("complete_traits", "winsorize", "rank_normal"),
)


def step_settings(settings: StudySettings) -> dict[str, dict[str, Any]]:
    """Options of each step's command that the study names, as plain values.

    Those of the mixed model, a job of its own within the step gwas, stand under `mixed_model`,
    which is there only if the study has one. Those of the step encoder stand under `encoder` (the
    autoencoder), `linear` and `encode`, those of the cohort's store under `pack`; those of the
    joint test under `joint`, of the search for more signals of each locus under `signals`, of LD
    score regression under `ldsc`, of the maps of voxels under `voxels`.
    """
    chosen: dict[str, dict[str, Any]] = {name: dict(own) for name, own in settings.extra.items()}
    for step in ("preprocess", "dti", "normalize", "encoder", "linear", "gwas", "genetics"):
        section = getattr(settings, step)
        values = section.model_dump(mode="json", exclude=NOT_OPTIONS.get(step))
        chosen[step] = {key: value for key, value in values.items() if value not in (None, [])}
    chosen["dti"]["check"] = settings.start != "preprocess"  # which makes the same checks
    if channels := chosen["encoder"].get("channels"):
        chosen["encoder"]["channels"] = ",".join(map(str, channels))
    threads = {"threads": settings.encoder.threads}
    chosen["linear"] |= threads
    dtype = settings.normalize.dtype
    chosen["pack"] = {} if dtype is None else {"dtype": dtype}
    chosen["encode"] = {"training_people": settings.encoder.training_people, **threads}
    gwas = chosen["gwas"]
    if settings.gwas.traits:
        gwas["trait"] = list(settings.gwas.traits)
    named = settings.gwas.covariates
    if named is not None and (names := [*named, *settings.gwas.pcs]):
        gwas["covariate"] = names
    if settings.gwas.mixed_model:
        chosen["mixed_model"] = {key: gwas[key] for key in OF_MIXED_MODEL if key in gwas}
    chosen["joint"] = {"also": list(settings.genetics.also)} if settings.genetics.also else {}
    people = [f"{name}={n}" for name, n in settings.genetics.outside_n.items()]
    chosen["ldsc"] = {"people": people} if people else {}
    if settings.genetics.other_build:
        chosen["ldsc"]["other_build"] = True
    chosen["voxels"] = {"noise_of": settings.genetics.noise_of}
    chosen["signals"] = {key: gwas[key] for key in gwas if key not in ONLY_OF_ASSOCIATION}
    if settings.genetics.p_threshold is not None:
        chosen["signals"]["p_threshold"] = settings.genetics.p_threshold
    return chosen


@dataclass(frozen=True)
class StudyPaths:
    """Where the parts of a study lie under its output folder."""

    out: Path

    @property
    def work(self) -> Path:
        """State that resume needs: outcomes, hashes, checkpoints; Pydra's cache during a run."""
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
        """Results of the cohort: store, summary statistics, and a folder a representation."""
        return self.out / "group"

    def results(self, representation: str) -> Path:
        """Model, latents, joint test and loci of a representation; of traits ("") the group's."""
        return self.group / representation

    @property
    def group_maps(self) -> Path:
        """Table of the maps that the group was last made of."""
        return self.work / "maps.tsv"

    @property
    def report_inputs(self) -> Path:
        """What the report was last made of, the study's settings among it (JSON)."""
        return self.work / "report.json"

    @property
    def env(self) -> Path:
        """Where the steps were last run: one of `environments.KINDS`."""
        return self.work / "env"

    @property
    def slurm(self) -> Path:
        """Scripts and logs of the study's Slurm jobs."""
        return self.out / "slurm"

    @property
    def scans(self) -> Path:
        """Table of all scans with status and reason."""
        return self.out / "scans.tsv"

    @property
    def qc(self) -> Path:
        """Table of quality figures, one row a scan."""
        return self.out / "qc.tsv"

    @property
    def exclude(self) -> Path:
        """List of scans that are left out of the group; the user edits it."""
        return self.out / "exclude.tsv"

    @property
    def maps(self) -> Path:
        """Table of the maps that the group is to be made of, one row a person."""
        return self.out / "maps.tsv"

    @property
    def qc_page(self) -> Path:
        """Page of the quality of all scans."""
        return self.out / "qc.html"

    @property
    def report(self) -> Path:
        """The report page."""
        return self.out / "report.html"

    @property
    def shareable(self) -> Path:
        """The report page without individual-level data."""
        return self.out / "report-shareable.html"

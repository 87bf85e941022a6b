"""What a study has done: facts for its methods section, and a Workflow Run RO-Crate of its run.

Both say only what outputs, manifests and job records say. A part that did not run is in neither.
"""

from __future__ import annotations

import json
import re
import struct
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from itertools import product
from pathlib import Path
from typing import Any

from rocrate.model.contextentity import ContextEntity
from rocrate.rocrate import ROCrate

from axoloci import __version__
from axoloci.extra import named_files
from axoloci.io.files import sha256, write_json, write_text
from axoloci.io.genotype_files import genotype_set
from axoloci.job import read_record, read_records
from axoloci.scans import LABEL, Scan
from axoloci.steps import installed_steps, is_outside, step_version
from axoloci.study import Inputs, StudyPaths, StudySettings
from axoloci.workflows.exclusion import RULE, USER
from axoloci.workflows.participants import (
    Cohort,
    Outcome,
    chain_of,
    choose_scans,
    quality_file,
    steps_of,
)

CRATE = "ro-crate-metadata.json"
CODE = "workflow"  # folder of the study that keeps the workflows' own code
CHEAP = 2**29  # bytes: larger files are known by their size and time, for a digest takes seconds
PROFILES = (
    ("https://w3id.org/ro/wfrun/process/0.5", "Process Run Crate", "0.5"),
    ("https://w3id.org/ro/wfrun/workflow/0.5", "Workflow Run Crate", "0.5"),
    ("https://w3id.org/ro/wfrun/provenance/0.5", "Provenance Run Crate", "0.5"),
    ("https://w3id.org/workflowhub/workflow-ro-crate/1.0", "Workflow RO-Crate", "1.0"),
)
WORKFLOW_PROFILE = "https://bioschemas.org/profiles/ComputationalWorkflow/1.0-RELEASE"
RUN_TERMS = "https://w3id.org/ro/terms/workflow-run/context"
NO_LICENCE = (
    "No licence is stated. The results come from data of people; whoever holds these data decides "
    "who may use them."
)
# Outputs of the study by path: what each is, whether it has a row a person, the job that made it.
OUTPUTS: dict[str, tuple[str, bool, str]] = {
    "scans.tsv": ("Status of each scan and SHA-256 of its FA map", True, ""),
    "qc.tsv": ("Quality figures of each scan, and the rules that it breaks", True, ""),
    "exclude.tsv": ("Scans that are left out of the group, by rule or by the user", True, ""),
    "maps.tsv": ("The FA map of each person of the group", True, ""),
    "qc.html": ("The quality of all scans on one page", True, "qc"),
    "group/pcs.tsv": ("Genotype principal components of each person", True, "pca"),
    "group/samples_qc.tsv": ("Quality of each person's genotypes", True, "samples"),
    "group/related.tsv": ("Pairs of relatives by their genotypes", True, "samples"),
    "group/sumstats/sumstats.json": (
        "Manifest of the summary statistics, with the SHA-256 of each of their parts",
        False,
        "gwas",
    ),
    "report.html": ("The report", True, "report"),
    "report-shareable.html": (
        "The report without individual-level data",
        False,
        "report-shareable",
    ),
}
# Those of a representation, in the folder of its name; of traits, what follows the association.
RESULTS: dict[str, tuple[str, bool, str]] = {
    "model.safetensors": ("The model of the maps", False, "train"),
    "model.md": ("Card of the model, for people", False, "train"),
    "history.tsv": ("Loss by epoch, or variance by component", False, "train"),
    "latents.parquet": ("Latents of each person", True, "encode"),
    "quality.tsv": ("Reconstruction of each person's map", True, "encode"),
    "examples.npz": ("Maps of a few people and their reconstructions", True, "encode"),
    "joint.parquet": ("Joint test of all latents or traits, one row a variant", False, "joint"),
    "loci.tsv": ("Loci of the joint test", False, "loci"),
    "loci.json": ("Settings of the loci", False, "loci"),
    "regions.parquet": ("The variants about each locus", False, "loci"),
    "signals.tsv": ("Signals of each locus, each given those before it", False, "signals"),
    "heritability.tsv": ("SNP heritability of each latent or trait", False, "heritability"),
    "genetic_correlation.tsv": ("Genetic correlation of each pair", False, "heritability"),
    "genetic_covariance.npz": ("Genetic covariances, with their jackknife", False, "heritability"),
    "ldsc/heritability.tsv": ("SNP heritability by LD score regression", False, "ldsc"),
    "ldsc/genetic_correlation.tsv": ("Genetic correlation by LD score regression", False, "ldsc"),
    "ldsc/genetic_covariance.npz": ("Genetic covariances of this, with jackknife", False, "ldsc"),
    "ldsc/ldsc.json": ("Settings of the LD score regression", False, "ldsc"),
    "linearised.safetensors": ("The tangent of the decoder", False, "linearise"),
    "voxels/index.tsv": ("Where each locus changes the maps most", False, "voxels"),
    "voxel_h2.nii.gz": ("SNP heritability of each voxel", False, "voxelh2"),
    "voxel_h2_se.nii.gz": ("Its standard error", False, "voxelh2"),
    "replication.tsv": ("Lead variants of the discovery, tested again", False, "replicate"),
    "replication.json": ("Summary of the replication", False, "replicate"),
}
FOLDERS = {  # made by many jobs or in many files: each stands for all that lies in it
    "group/cohort.zarr/": ("FA of all people, masked voxels (Zarr)", "pack"),
    "group/autoencoder/tensorboard/": ("Losses as TensorBoard reads them", "train_autoencoder"),
    "group/loco/": ("What the mixed model leaves of each trait, by chromosome", "ridge"),
    "group/sumstats/": ("β and SE of each latent, Parquet, one folder a chromosome", "gwas"),
    "logs/": ("One log and one job record a step", ""),
}
OF_REPORT = (  # results of each representation that its page shows
    *("history.tsv", "quality.tsv", "examples.npz", "joint.parquet", "loci.tsv", "regions.parquet"),
    *("signals.tsv", "heritability.tsv", "genetic_correlation.tsv", "voxels/index.tsv"),
    *("ldsc/heritability.tsv", "ldsc/genetic_correlation.tsv"),
    *("voxel_h2.nii.gz", "voxel_h2_se.nii.gz"),
)
# Outputs that a job reads; {of} is the folder of its representation, * that of any, {basis} what
# the representation adds to maps: its model, or the tangent of that.
USES = {
    "dti": ("#maps",),
    "normalize": ("#maps",),
    "page": ("#maps",),
    "pack": ("#maps",),
    "train": ("group/cohort.zarr/",),
    "encode": ("group/cohort.zarr/", "group/{of}model.safetensors"),
    "samples": ("group/pcs.tsv",),
    "ridge": ("group/*/latents.parquet", "group/pcs.tsv"),
    "gwas": ("group/*/latents.parquet", "group/pcs.tsv", "group/loco/"),
    "export": ("group/sumstats/",),
    "joint": ("group/sumstats/",),
    "loci": ("group/{of}joint.parquet", "group/sumstats/"),
    "replicate": ("group/sumstats/",),
    "signals": ("group/{of}loci.tsv", "group/{of}latents.parquet", "group/pcs.tsv"),
    "heritability": ("group/sumstats/",),
    "ldsc": ("group/sumstats/",),
    "linearise": ("group/{of}model.safetensors", "group/{of}latents.parquet"),
    "voxels": ("group/sumstats/", "group/{of}loci.tsv", "group/{basis}"),
    "voxelh2": ("group/{of}genetic_covariance.npz", "group/{basis}"),
    "qc": ("scans.tsv", "qc.tsv"),
    "report": (
        "scans.tsv",
        "qc.tsv",
        *("group/cohort.zarr/", "group/samples_qc.tsv", "group/sumstats/"),
        *(f"group/{name}" for name in OF_REPORT),
        *(f"group/*/{name}" for name in OF_REPORT),
    ),
}
OF_MODELS = ("encode", "linearise", "voxels", "voxelh2")  # jobs that are given one
# Inputs of a job that another cohort of the study has made, by the option of its command.
FROM_OTHERS = (
    *((job, "--model", "", "The model of the maps") for job in OF_MODELS),
    ("replicate", "--loci", "", "Loci of the discovery"),
    (
        *("replicate", "--discovery", "sumstats.json"),
        "Manifest of the discovery's summary statistics",
    ),
)
VARIANT_LISTS = (  # keys of the study file, the jobs that read each, what it is
    ("extract", ("gwas", "signals"), "Variants that are tested"),
    ("exclude", ("gwas", "signals"), "Variants that are not tested"),
    ("mixed_model_extract", ("ridge",), "Variants that predict in the mixed model"),
)
OF_TRAINING = (
    *("n_train", "n_validation", "epochs_trained", "weights_of_epoch"),
    *("bandwidth_mm", "variance_kept", "effective_rank", "atlas"),
)
CHOICES = (  # of the association that its methods tell
    *("winsorize", "rank_normal"),
    *("min_maf", "min_mac", "max_missing", "min_hwe_p", "min_info"),
)
MEDIA = {
    ".json": "application/json",
    ".html": "text/html",
    ".tsv": "text/tab-separated-values",
    ".parquet": "application/vnd.apache.parquet",
    ".py": "text/x-python",
    ".gz": "application/gzip",
    ".fam": "text/plain",
    ".bim": "text/plain",
    ".pvar": "text/plain",
    ".psam": "text/plain",
    ".sample": "text/plain",
}
BINARY = "application/octet-stream"
PACKAGES = ("pydra", "numpy", "nibabel")  # of the driver
STEP_PACKAGES = ("dipy", "scipy", "torch", "zarr", "pyarrow", "pandas", "pgenlib", "bgen", "numba")


def package_versions(env: str) -> dict[str, str]:
    """Versions of axoloci and of what it rests on, as they are installed now.

    Parameters
    ----------
    env
        "native", "docker" or "singularity"; the steps' packages are this machine's only natively.
    """
    versions = {"axoloci": __version__}
    for name in (*PACKAGES, *(STEP_PACKAGES if env == "native" else ())):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:  # of a step that is not installed here
            continue
    return versions


def study_facts(cohort: Cohort, jobs: Collection[str]) -> dict[str, Any]:
    """What the outputs of a cohort say about how they were made.

    Settings are read from the descriptions beside the outputs, so that they are those that were
    used, defaults included.

    Parameters
    ----------
    cohort
        The cohort.
    jobs
        Those of the group stage whose results belong to these scans, as `group_jobs` names them.

    Returns
    -------
    facts
        `scans` (finished, people) and, of what ran, `preprocess`, `dti`, `normalize`, `outside`,
        `cohort`, `encoder`, `linear`, `gwas`, `mixed_model`, `loci`; JSON. Lengths in mm, b-values
        in s/mm².
    """
    paths = cohort.paths
    chosen = {outcome.scan for outcome in choose_scans(cohort.outcomes)}
    used = [scan for scan in cohort.scans if scan.prefix in chosen]
    facts: dict[str, Any] = {}
    if cohort.scans:
        facts["scans"] = {
            "finished": sum(outcome.status == "ok" for outcome in cohort.outcomes),
            "people": len(chosen),
            "excluded": {
                by: sum(outcome.excluded.startswith(f"by {by}") for outcome in cohort.outcomes)
                for by in (RULE, USER)
            },
        }
    if used:
        facts |= _scan_facts(used, cohort.settings)
    store = paths.group / "cohort.zarr" / "zarr.json"
    if "pack" in jobs and store.is_file():
        about = _read(store)["attributes"]
        affine = about["affine"]
        facts["cohort"] = {
            "people": len(about["sample_id"]),
            "voxel_size": [
                round(sum(affine[row][axis] ** 2 for row in range(3)) ** 0.5, 4)
                for axis in range(3)
            ],
        }
    for name in cohort.settings.representations():
        # of another cohort, where that trained the encoder
        given = _given_to(paths, f"encode_{name}", "--model")
        model = given or paths.results(name) / "model.safetensors"
        if f"encode_{name}" in jobs and model.is_file():
            about = _read_model(model)
            training = about.get("training", {})
            facts["encoder" if name == "autoencoder" else name] = {
                **about["config"],
                **{key: training[key] for key in OF_TRAINING if key in training},
            }
    sumstats = paths.group / "sumstats" / "sumstats.json"
    if "gwas" in jobs and sumstats.is_file():
        plan = _read(sumstats.with_name("plan.json"))["plan"]
        facts["gwas"] = _gwas_facts(_read(sumstats), plan)
        if plan.get("loco") is not None:
            about = _read(paths.group / "loco" / "loco.json")
            facts["mixed_model"] = {"n_variants": about["n_variants"], "h2": about["h2"]}
    # the settings of the loci are the same for all representations
    for name in cohort.settings.representations() or ("",):
        job, loci = f"loci_{name}" if name else "loci", paths.results(name) / "loci.json"
        if job in jobs and loci.is_file():
            facts["loci"] = _read(loci)
    return facts


def _scan_facts(used: Sequence[Scan], settings: StudySettings) -> dict[str, Any]:
    """Of the scans that the cohort is made of; their settings are the same, their data are not."""
    facts: dict[str, Any] = {}
    for step in chain_of(settings):
        files_of_scans = (quality_file(scan, step, settings) for scan in used)
        descriptions = [_read(file) for file in files_of_scans if file]
        chosen = descriptions[0]["Settings"]
        if step == "preprocess":
            ran = Counter(one["name"] for about in descriptions for one in about["steps"])
            facts[step] = {
                "steps": {
                    name: "all" if count == len(descriptions) else "some"
                    for name, count in ran.items()
                },
                "slices_replaced": any(
                    about.get("n_outlier_slices", 0) > 0 for about in descriptions
                ),
                "already_preprocessed": chosen["already_preprocessed"],
                "masks": sorted({about["Settings"]["mask"] for about in descriptions}),
                "eddy_corrected": any(
                    about["n_eddy_corrected_volumes"] > 0 for about in descriptions
                ),
            }
        elif step == "dti":
            highest = chosen["max_bval"] + 25
            facts[step] = {
                "method": chosen["method"],
                "max_bval": chosen["max_bval"],
                "higher_shells": any(
                    about["shells"][-1]["bval"] > highest for about in descriptions
                ),
            }
        else:
            facts[step] = {"voxel_size": chosen["voxel_size"]}
    if settings.extra:
        known = installed_steps()
        facts["outside"] = {
            name: {
                "version": step_version(name),
                "summary": known[name].summary,
                "reference": known[name].reference,
            }
            for name in settings.extra
        }
    return facts


def _gwas_facts(about: Mapping[str, Any], plan: Mapping[str, Any]) -> dict[str, Any]:
    """Of the association, from the manifest of its store and from its plan."""
    names = [name for name in about["covariates"] if name != "intercept"]
    pcs = [name for name in names if re.fullmatch(r"PC\d+", name)]
    if "pcs.tsv" not in about["inputs"]:
        pcs = []  # such names are the user's own columns then
    others = [name for name in names if name not in pcs]
    # a category has one column a level, "site=A"; only the columns' names are told
    categorical = list(dict.fromkeys(name.split("=")[0] for name in others if "=" in name))
    return {
        "people": about["n_samples"],
        "n_traits": len(about["traits"]),
        "n_variants": about["n_variants"],
        "n_tested": about["variants"]["tested"],
        "covariates": [name for name in others if "=" not in name],
        "categorical": categorical,
        "n_pcs": len(pcs),
        "model": plan.get("formula"),
        "chosen": [key for key in ("region", "extract", "exclude") if plan.get(key)],
        **{key: plan[key] for key in CHOICES if key in plan},  # of an older image it has fewer
    }


def _given_to(paths: StudyPaths, job: str, option: str) -> Path | None:
    """What the command of a job of the cohort was given by an option, from its record."""
    command = read_record(paths.logs / "group" / f"{job}.json").get("command", [])
    return Path(command[command.index(option) + 1]) if option in command else None


def _read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def _read_model(path: Path) -> dict[str, Any]:
    """What the header of a model says; read by hand, because the driver has no safetensors."""
    with open(path, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
    about: dict[str, Any] = json.loads(header["__metadata__"]["axoloci"])
    return about


def write_crate(cohort: Cohort, env: str) -> Path:
    """Write `ro-crate-metadata.json`: a Provenance Run Crate of a cohort as it is now.

    People are not listed one by one: `scans.tsv` stands for their files. Actions are kinds of
    jobs, not jobs. Files above 512 MiB and the genotypes' `.bed` are known by their size and time
    of modification, all others by their SHA-256. Apart from times, equal studies give equal bytes.

    Parameters
    ----------
    cohort
        The cohort; its folder `workflow` receives the code of the workflows.
    env
        "native", "docker" or "singularity".

    Returns
    -------
    The file that was written.
    """
    settings, paths = cohort.settings, cohort.paths
    scans, outcomes = cohort.scans, cohort.outcomes
    crate = _Crate(settings, paths, env)
    crate.describe_root(outcomes)
    inputs = crate.add_inputs(len(scans))
    outputs = crate.add_outputs()
    crate.add_run({scan.prefix for scan in scans}, inputs, outputs)
    return crate.write()


def write_whole_crate(settings: StudySettings, env: str) -> Path | None:
    """Write the crate of a study of several cohorts, whose parts are the crates of these.

    Parameters
    ----------
    settings
        The whole study.
    env
        "native", "docker" or "singularity".

    Returns
    -------
    The file that was written; none for a study of one cohort, which has its own crate there.
    """
    cohorts = settings.cohorts()
    if all(cohort.out == settings.out for cohort in cohorts.values()):
        return None
    paths = StudyPaths(settings.out)
    crate = _Crate(settings, paths, env)
    crate.describe_root([])
    root = crate.crate.root_dataset
    root["description"] = (
        f"A study of several cohorts: {', '.join(cohorts)}. Each has a folder and a crate of its "
        "own, with its inputs, commands and results."
    )
    for name, cohort in cohorts.items():
        if (cohort.out / CRATE).is_file():
            about = {"name": f"The cohort '{name}'", "subjectOf": {"@id": f"{name}/{CRATE}"}}
            crate.crate.add_dataset(dest_path=f"{name}/", properties=about)
            crate.add_file(
                cohort.out / CRATE, f"Crate of the cohort '{name}'", identifier=f"{name}/{CRATE}"
            )
    outputs = crate.add_outputs()
    crate.add_run(set(), {}, outputs)
    return crate.write()


class _Crate:
    """A crate under construction."""

    def __init__(self, settings: StudySettings, paths: StudyPaths, env: str) -> None:
        self.settings, self.paths, self.env = settings, paths, env
        self.several = bool(settings.train or settings.replication)  # not of one cohort
        self.crate = ROCrate(version="1.1")  # the version that the profiles 0.5 extend
        self.crate.metadata.extra_contexts.append(RUN_TERMS)
        self.crate.metadata["conformsTo"] = [
            {"@id": "https://w3id.org/ro/crate/1.1"},
            {"@id": PROFILES[-1][0]},
        ]
        self.known: dict[str, Any] = {}  # entities by id

    def write(self) -> Path:
        """Write the file."""
        target = self.paths.out / CRATE
        content = self.crate.metadata.generate()
        content["@graph"] = [
            {name: _unwrap(value) for name, value in entity.items()} for entity in content["@graph"]
        ]
        write_json(target, content)
        return target

    def add(self, entity_id: str, kind: str, /, **properties: Any) -> Any:
        """A contextual entity; without a value a property is left out."""
        if entity_id not in self.known:
            given = {name: value for name, value in properties.items() if value not in (None, [])}
            entity = ContextEntity(self.crate, entity_id, properties={"@type": kind, **given})
            self.known[entity_id] = self.crate.add(entity)
        return self.known[entity_id]

    def describe_root(self, outcomes: Iterable[Outcome]) -> None:
        """Name, description and profiles."""
        states = [outcome.status for outcome in outcomes]
        root = self.crate.root_dataset
        root["name"] = self.settings.title or f"axoloci: {self.settings.out.name}"
        root["description"] = (
            "From raw diffusion MRI and genotypes to summary statistics: "
            f"{len(states)} scans, {states.count('ok')} finished, {states.count('failed')} failed."
            " Individual-level files (sub-*) are described by scans.tsv and not listed. Files"
            f" above {CHEAP // 2**20} MiB and the .bed are given by size and time of modification,"
            " the others by SHA-256."
        )
        root["license"] = self.add(
            "#licence", "CreativeWork", name="No licence is stated", description=NO_LICENCE
        )
        root["conformsTo"] = [
            self.add(url, "CreativeWork", name=name, version=number)
            for url, name, number in PROFILES
        ]

    def add_file(
        self, path: Path, name: str, *, identifier: str, digest: bool = True, **more: Any
    ) -> Any:
        """A file with its size, and its digest, or its time where a digest is not cheap."""
        state = path.stat()
        properties: dict[str, Any] = {
            "name": name,
            "contentSize": str(state.st_size),
            "encodingFormat": MEDIA.get(path.suffix, BINARY),
            **more,
        }
        if digest and state.st_size <= CHEAP:
            properties["sha256"] = sha256(path)
        else:
            properties["dateModified"] = _iso(state.st_mtime)
        if "://" in identifier:
            return self.crate.add_file(identifier, properties=properties)
        return self.crate.add_file(dest_path=identifier, properties=properties)

    def add_inputs(self, n_scans: int) -> dict[str, list[Any]]:
        """What the study was given; by the job that reads it."""
        given = self.settings
        inputs: dict[str, list[Any]] = {}
        ends = [f"_{name}" for name in given.representations()] or [""]

        def give(path: Path, name: str, *jobs: str, digest: bool = True) -> None:
            uri = path.absolute().as_uri()
            if path.is_file():
                entity = self.add_file(path, name, identifier=uri, digest=digest)
            elif path.is_dir():
                entity = self.crate.add_dataset(f"{uri}/", properties={"name": name})
            else:  # genotypes are not needed to process the scans
                return
            for job in jobs:
                for end in ends if job in ("loci", "signals", "ldsc") else ("",):
                    inputs.setdefault(f"{job}{end}", []).append(entity)

        def give_genotypes(prefix: Path, of: str, *jobs: str) -> None:
            for part in genotype_set(prefix).parts:
                for path, name in (
                    (part.data, "Genotypes"),
                    (part.variants, "Variants"),
                    (part.samples, "People"),
                ):
                    if path is not None:
                        give(path, f"{name}{of}", *jobs, digest=path != part.data)

        (source,) = given.sources
        first = "pack" if given.start == "encoder" else given.start
        where: Path = getattr(given, source)
        about = f"{n_scans} scans; not listed one by one" if n_scans else None
        if where.is_dir():
            uri = f"{where.absolute().as_uri()}/"
            inputs[first] = [
                self.crate.add_dataset(
                    uri, properties={"name": f"Data of the cohort: {source}", "description": about}
                )
            ]
        else:  # a table; a pattern of file names is told by the settings
            give(where, f"Data of the cohort: {source}", first)
        if given.keep is not None:
            give(given.keep, "People of the cohort: nobody else belongs to it", first)
        for name, table in given.extra.items():
            for file in named_files({name: table}):
                give(file, f"Input of the step {name}: {file.name}", name)
        if given.normalize.template is not None:
            give(given.normalize.template, "FA template", "normalize", "pack")
        if given.normalize.mask is not None:
            give(given.normalize.mask, "Voxels that are kept", "pack")
        if (atlas := given.atlas()) is not None:
            give(atlas, "Atlas of the linear representation", "train_linear")
        for (kind, option, part, name), end in product(FROM_OTHERS, ends):
            path = _given_to(self.paths, job := f"{kind}{end}", option)
            if path is not None and not path.is_relative_to(self.paths.out):
                give(path / part, name, job)
        if given.covariates is not None:
            give(given.covariates, "Covariates", "ridge", "gwas", "signals")
        for key, jobs, name in VARIANT_LISTS:
            if (path := given.gwas.variant_lists.get(key)) is not None:
                give(path, name, *jobs)
        if given.genetics.genes is not None:
            give(given.genetics.genes, "Genes", "loci")
        if given.genetics.ld_scores is not None:
            give(given.genetics.ld_scores, "LD scores", "ldsc")
        for file in given.genetics.outside:
            give(file, f"Summary statistics of another study: {file.name}", "ldsc")
        panel = given.genetics.reference
        if panel is not None:
            give_genotypes(panel, " of the reference panel", "loci")
        if given.genotypes is not None:
            of_all = ("pca", "samples", "ridge", "gwas", "signals")
            give_genotypes(given.genotypes, "", *of_all, *(["loci"] if panel is None else []))
        return inputs

    def outputs(self) -> dict[str, tuple[str, bool, str]]:
        """Outputs by path, with what each is, whether it has a row a person, and its job."""
        known = dict(OUTPUTS)
        for of in self.settings.representations() or ("",):
            for name, (what, individual, job) in RESULTS.items():
                said, end = (f"{what} ({of})", f"_{of}") if of else (what, "")
                known[str(Path("group", of, name))] = (said, individual, f"{job}{end}")
        return known

    def used(self, job: str) -> list[str]:
        """Outputs that a job of the cohort reads, by path."""
        kind, _, of = job.removesuffix("-shareable").partition("_")  # export_latent_000
        all_of = self.settings.representations()
        folder = f"{of}/" if of in all_of else ""
        basis = f"{folder}{'linearised' if of == 'autoencoder' else 'model'}.safetensors"
        names = []
        for name in USES.get(kind, ("#maps",) if job in self.settings.extra else ()):
            own = [name.replace("*", one) for one in all_of] if "*" in name else [name]
            names += [one.replace("{of}", folder).replace("{basis}", basis) for one in own]
        return names

    def add_outputs(self) -> dict[str, list[Any]]:
        """What the study has made so far; by the job that made it."""
        made: dict[str, list[Any]] = {}
        for name, (what, individual, job) in self.outputs().items():
            path = self.paths.out / name
            if path.is_file():
                entity = self.add_file(path, what, identifier=name)
                if individual:
                    entity["description"] = "Individual-level data: not for sharing."
                made.setdefault(job, []).append(entity)
        form = self.settings.gwas.export_format
        for trait in self.settings.gwas.export:
            path = self.paths.group / f"{trait}.{form}.tsv.gz"
            if path.is_file():
                name = str(path.relative_to(self.paths.out))
                about = f"Summary statistics of {trait} as {form} text"
                entity = self.add_file(path, about, identifier=name)
                made.setdefault(f"export_{trait}", []).append(entity)
        for name, (what, job) in FOLDERS.items():
            if (self.paths.out / name).is_dir():
                folder = self.crate.add_dataset(dest_path=name, properties={"name": what})
                made.setdefault(job, []).append(folder)
        if self.several:  # the cohorts have them
            return made
        maps = self.add(
            "#maps",
            "Collection",
            name="Derivatives of each scan, sub-*/dwi",
            description="Corrected DWI, tensor maps, FA in the common space. Not listed one by "
            "one; scans.tsv has a row and the SHA-256 of the FA map of each.",
        )
        for step in steps_of(self.settings):
            made.setdefault(step, []).append(maps)
        return made

    def add_workflow(self) -> Any:
        """The code that orchestrated the run, copied into the study; its main file."""
        source = files("axoloci.workflows")
        names = ("study.py", "participants.py", "participant.py", "group.py")
        language = self.add(
            "#pydra-language",
            "ComputerLanguage",
            name="Pydra",
            url="https://pydra.readthedocs.io",
            version=version("pydra"),
        )
        main_only: dict[str, Any] = {
            "@type": ["File", "SoftwareSourceCode", "ComputationalWorkflow", "HowTo"],
            "programmingLanguage": {"@id": language.id},
            "conformsTo": {"@id": WORKFLOW_PROFILE},
        }
        parts: list[Any] = []
        for name in names:
            copy = self.paths.out / CODE / name
            write_text(copy, source.joinpath(name).read_text(encoding="utf-8"))
            parts.append(
                self.add_file(
                    copy,
                    f"Workflow of axoloci {__version__}: {copy.stem}",
                    identifier=f"{CODE}/{name}",
                    **({} if parts else main_only),
                )
            )
        main = parts[0]
        self.crate.mainEntity = main
        return main

    def add_run(
        self, prefixes: set[str], inputs: Mapping[str, list[Any]], outputs: Mapping[str, list[Any]]
    ) -> None:
        """The workflow, its steps, and the run of each."""
        main = self.add_workflow()
        software = self.add(
            "#axoloci",
            "SoftwareApplication",
            name="axoloci",
            version=__version__,
            softwareVersion=__version__,
            softwareRequirements=[
                self.add(
                    f"#package-{name}", "SoftwareApplication", name=name, softwareVersion=number
                )
                for name, number in package_versions(self.env).items()
                if name != "axoloci"
            ],
        )
        engine = self.add(
            "#pydra",
            "SoftwareApplication",
            name="Pydra",
            softwareVersion=version("pydra"),
            url="https://pydra.readthedocs.io",
        )
        tools, steps, controls, spans = [], [], [], []
        for position, (job, records) in enumerate(self.records(prefixes).items(), start=1):
            tool = self.tool(records[0])
            action = self.action(job, records, tool, software)
            made_before = [found for name in self.used(job) if (found := self.crate.get(name))]
            if read := [*inputs.get(job, []), *made_before]:
                action["object"] = read
            if job in outputs:
                action["result"] = outputs[job]
            step = self.add(
                f"#step-{job}", "HowToStep", name=job, position=str(position), workExample=tool
            )
            controls.append(
                self.add(
                    f"#control-{job}",
                    "ControlAction",
                    name=f"Orchestration of {job}",
                    instrument=step,
                    object=action,
                )
            )
            tools.append(tool)
            steps.append(step)
            spans += [span for record in records if (span := _span(record))]
        main["hasPart"] = _unique(tools)
        main["step"] = steps
        every = [entity for entities in inputs.values() for entity in entities]
        results = [entity for entities in outputs.values() for entity in entities]
        run = self.add(
            "#run",
            "CreateAction",
            name=f"Run of {self.settings.title or self.settings.out.name}",
            instrument=main,
            agent=software,
            object=[*_unique(every), *self.setting_values()],
            result=_unique(results),
            startTime=_iso(min(start for start, _ in spans)) if spans else None,
            endTime=_iso(max(end for _, end in spans)) if spans else None,
        )
        self.add(
            "#orchestration",
            "OrganizeAction",
            name=f"Orchestration by Pydra {version('pydra')}",
            instrument=engine,
            agent=software,
            object=controls,
            result=run,
        )
        self.crate.root_dataset["mentions"] = [
            self.known["#orchestration"],
            run,
            *(control["object"] for control in controls),
        ]

    def records(self, prefixes: set[str]) -> dict[str, list[dict[str, Any]]]:
        """Job records by kind, in the order of the work; those of earlier settings are left out."""
        steps = () if self.several else steps_of(self.settings)
        ends = [f"_{name}" for name in self.settings.representations()] or [""]
        group = ["pack", *(f"{job}{end}" for job in ("train", "encode") for end in ends)]
        group += ["pca"] if self.settings.gwas.n_pcs else []
        group += ["samples", *(["ridge"] if self.settings.gwas.mixed_model else []), "gwas"]
        group += [f"export_{trait}" for trait in self.settings.gwas.export]
        follows = [
            job
            for name, jobs in (
                ("signals", ("signals",)),
                ("heritability", ("heritability",)),
                ("ldsc", ("ldsc",)),
                ("voxels", ("linearise", "voxels", "voxelh2")),
            )
            if name in self.settings.follows
            for job in jobs
        ]
        group += [f"{job}{end}" for end in ends for job in ("joint", "loci", *follows, "replicate")]
        group += ["qc", "report"]
        group += ["report-shareable"] if self.paths.shareable.exists() else []
        kinds: dict[str, list[dict[str, Any]]] = {name: [] for name in (*steps, *group)}
        for record in read_records(self.paths.logs):
            folder = Path(record["log"]).parent.name
            job = record["job"]
            allowed = group if folder == "group" else steps if folder in prefixes else ()
            if job in allowed:
                kinds[job].append(record)
        return {name: records for name, records in kinds.items() if records}

    def tool(self, record: Mapping[str, Any]) -> Any:
        """The command of a step, with the code that stands behind it."""
        program, command = record["command"][:2]
        name = program.removeprefix("axoloci-")
        step = installed_steps().get(name)  # a third party's may have gone since
        return self.add(
            f"#{program}-{command}",
            "SoftwareApplication",
            name=f"{program} {command}",
            description=step.summary if step else None,
            softwareVersion=step_version(name) if step and is_outside(name) else __version__,
            citation=self.add(
                f"https://doi.org/{step.reference}",
                "ScholarlyArticle",
                name=f"doi:{step.reference}",
            )
            if step and step.reference
            else None,
        )

    def action(
        self, job: str, records: Sequence[Mapping[str, Any]], tool: Any, software: Any
    ) -> Any:
        """All runs of one kind of job."""
        codes = [record["exit_code"] for record in records if "exit_code" in record]
        n_failed = len(records) - codes.count(0)
        spans = [span for record in records if (span := _span(record))]
        state = "FailedActionStatus" if n_failed == len(records) else "CompletedActionStatus"
        exits = ", ".join(f"{codes.count(code)} × {code}" for code in sorted(set(codes)))
        unfinished = len(records) - len(codes)
        usage = (  # name, unit, amount
            ("cpu_seconds", "SEC", round(sum(r.get("cpu_seconds", 0) for r in records), 1)),
            ("max_rss_mb", "MebiBYTE", max(r.get("max_rss_mb", 0) for r in records)),
        )
        return self.add(
            f"#job-{job}",
            "CreateAction",
            name=f"{job}: {len(records)} {'job' if len(records) == 1 else 'jobs'}",
            description=self.command(records),
            instrument=tool,
            agent=software,
            startTime=_iso(min(start for start, _ in spans)) if spans else None,
            endTime=_iso(max(end for _, end in spans)) if spans else None,
            actionStatus=f"http://schema.org/{state}",
            error=f"{n_failed} of {len(records)} jobs failed" if n_failed else None,
            identifier=sorted({record["image"] for record in records if record.get("image")}),
            additionalProperty=[
                self.value(f"#job-{job}-n", "jobs", len(records)),
                self.value(
                    f"#job-{job}-exit",
                    "exit codes",
                    exits + (f", {unfinished} killed" if unfinished else ""),
                ),
            ],
            resourceUsage=[
                self.value(
                    f"#job-{job}-{name}",
                    name,
                    amount,
                    propertyID=name,
                    unitCode=f"https://qudt.org/vocab/unit/{unit}",
                )
                for name, unit, amount in usage
            ],
        )

    def value(self, identifier: str, name: str, value: Any, **more: Any) -> Any:
        """A named value."""
        return self.add(identifier, "PropertyValue", name=name, value=str(value), **more)

    def command(self, records: Sequence[Mapping[str, Any]]) -> str:
        """The command line of a kind of job: what differs from scan to scan by its option's name.

        Paths in the study are relative to it, others are known by their names.
        """
        one_by_one = Path(records[0]["log"]).parent.name != "group"
        words: list[str] = []
        option = ""
        for word in records[0]["command"]:
            if word.startswith("--"):
                option = word
                words.append(word)
            elif one_by_one and ("/" in word or option == "--prefix"):
                words.append(f"<{option.removeprefix('--')}>")
            elif word.startswith(f"{self.paths.out}/"):
                words.append(str(Path(word).relative_to(self.paths.out)))
            else:
                words.append(Path(word).name if word.startswith("/") else word)
        return " ".join(words)

    def setting_values(self) -> list[Any]:
        """Each setting that the study names, defaults of the study file included."""
        values = []
        sections = self.settings.model_dump(mode="json", exclude_none=True)
        for section, content in sections.items():
            named = content.items() if isinstance(content, dict) else [("", content)]
            for name, value in named:
                key = f"{section}.{name}" if name else section
                images = {"normalize.template", "normalize.mask", "linear.atlas"}
                files = {"out", *images, *Inputs.model_fields}
                if key not in files or LABEL in str(value):  # files are the inputs of the run
                    values.append(self.value(f"#setting-{key}", key, json.dumps(value)))
        return values


def _unwrap(value: Any) -> Any:
    """A list of one as that one, as RO-Crate wants it."""
    return value[0] if isinstance(value, list) and len(value) == 1 else value


def _unique(entities: Iterable[Any]) -> list[Any]:
    return list({entity.id: entity for entity in entities}.values())


def _span(record: Mapping[str, Any]) -> tuple[float, float] | None:
    """Start and end of a job, seconds since 1970; none of a job that was killed or is older."""
    if "started" not in record or "seconds" not in record:
        return None
    started = datetime.fromisoformat(record["started"])
    ended = started + timedelta(seconds=record["seconds"])
    return started.timestamp(), ended.timestamp()


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, tz=UTC).isoformat(timespec="seconds")

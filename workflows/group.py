"""The cohort: FA maps -> latents -> association -> loci, or their replication."""

from pathlib import Path
from typing import Any

from fileformats.generic import File
from pydra.compose import workflow

from axoloci.environments import StepEnvironment, image_identity
from axoloci.formats import CohortStore, GenotypeData, Nifti, SumstatsStore
from axoloci.tasks.encoder.task import EncodeFa, TrainEncoder
from axoloci.tasks.genetics.task import FindLoci, ReplicateLoci, RunJointTest
from axoloci.tasks.gwas.task import (
    CheckSamples,
    ComputePcs,
    ExportSumstats,
    FitMixedModel,
    PrepareGwas,
    RunGwas,
)
from axoloci.tasks.normalize.task import PackCohort


@workflow.define(outputs=["model"])
def Training(
    maps: File,
    readable: list[str],
    out_dir: str,
    work_dir: str,
    log_dir: str,
    template: Nifti | None = None,
    mask: Nifti | None = None,
    settings: dict[str, dict[str, Any]] = {},  # noqa: B006 - Pydra copies defaults
    threads: int = 1,
    env: str = "native",
) -> File:
    """From the FA maps of a cohort to an encoder of them.

    Parameters
    ----------
    maps
        Table sample_id, path, sha256 of the FA maps, one row a person.
    readable
        Folders of the maps, which a container must see.
    out_dir
        Folder for the results: `cohort.zarr`, `model.safetensors`, `history.tsv`.
    work_dir
        Folder for what a killed job needs to go on.
    log_dir
        Folder for one log and one job record a step.
    template, mask
        FA template, without it the shipped one; voxels to keep instead of its brain.
    settings
        Settings by step; what is left out, the step decides.
    threads
        CPU threads of each job; the jobs run one after another.
    env
        "native", "docker" or "singularity".

    Returns
    -------
    File
        The model.
    """

    def add(name: str, task: Any) -> Any:
        where = StepEnvironment(
            *(env, Path(log_dir, f"{name}.log"), threads),
            writable=[out_dir, work_dir],
            readable=readable,
            announce=True,
        )
        return workflow.add(task, name=name, environment=where)

    packed = add(
        "pack",
        PackCohort(
            maps=maps,
            template=template,
            mask=mask,
            out=str(Path(out_dir, "cohort.zarr")),
            image=image_identity(env, "normalize"),
        ),
    )
    trained = add(
        "train",
        TrainEncoder(
            cohort=packed.cohort,
            checkpoint=str(Path(work_dir, "encoder.pt")),
            history=str(Path(out_dir, "history.tsv")),
            **settings.get("encoder", {}),
            out=str(Path(out_dir, "model.safetensors")),
            image=image_identity(env, "encoder"),
        ),
    )
    return trained.model


@workflow.define(outputs=["table"])
def Group(
    genotypes: GenotypeData,
    out_dir: str,
    log_dir: str,
    maps: File | None = None,
    readable: list[str] = [],  # noqa: B006 - Pydra copies defaults
    cohort: CohortStore | None = None,
    model: File | None = None,
    like: CohortStore | None = None,
    traits: File | None = None,
    discovery: SumstatsStore | None = None,
    discovery_loci: File | None = None,
    covariates: list[File] | None = None,
    extract: File | None = None,
    exclude: File | None = None,
    mixed_model_extract: File | None = None,
    settings: dict[str, dict[str, Any]] = {},  # noqa: B006
    n_pcs: int = 0,
    export: list[str] = [],  # noqa: B006
    export_format: str = "gwas-ssf",
    threads: int = 1,
    env: str = "native",
    part: str = "all",
    chromosome: str | None = None,
) -> File:
    """From FA maps and their encoder, or from traits, to loci or the replication of loci.

    On a cluster it is run in parts: "prepare" (all up to the association), "associate" (one
    chromosome, several at once), "conclude" (the association as a whole, of which nothing is left
    to compute but what holds for all chromosomes, and what follows from it). With a mixed model
    there are two more before "associate": "ridge" (which fits it) and "plan" (of the store of the
    association, else the end of "prepare").

    Parameters
    ----------
    genotypes
        PLINK 1, PLINK 2 or BGEN genotypes.
    out_dir
        Folder for the results.
    log_dir
        Folder for one log and one job record a step.
    maps
        Table sample_id, path, sha256 of the FA maps, one row a person.
    readable
        Folders of the maps, which a container must see.
    cohort
        Cohort store of the maps; without it they are packed.
    model, like
        The encoder, and the cohort store that it was trained on.
    traits
        Table of traits, in place of maps.
    discovery, discovery_loci
        Summary statistics and loci of another cohort, which are tested in this one.
    covariates
        Tables of covariates.
    extract, exclude, mixed_model_extract
        Lists of variants: those that are tested, that are not, and that predict in a mixed model.
    settings
        Settings by step; what is left out, the step decides. `mixed_model`, even if empty, asks
        for a mixed model.
    n_pcs
        Genotype principal components used as covariates.
    export, export_format
        Traits whose summary statistics are also written as text, and the format.
    threads
        CPU threads of each job; the jobs run one after another.
    env
        "native", "docker" or "singularity".
    part
        "all", "prepare", "ridge", "plan", "associate" or "conclude".
    chromosome
        The one that is associated.

    Returns
    -------
    File
        Table of loci or of their replication; of an earlier part the plan of the association, or
        before it the quality of the genotypes or the manifest of the mixed model. Everything else
        lies in `out_dir`.
    """

    def add(name: str, task: Any, always: bool = False) -> Any:
        where = StepEnvironment(
            *(env, Path(log_dir, f"{name}.log"), threads),
            writable=[out_dir],
            readable=readable,
            announce=True,
            always=always,
        )
        return workflow.add(task, name=name, environment=where)

    def shared(step: str, out: str) -> dict[str, Any]:
        return {"out": str(Path(out_dir, out)), "image": image_identity(env, step)}

    prepares = part in ("all", "prepare")
    if traits is None and prepares:
        if cohort is None:
            packing = PackCohort(maps=maps, like=like, **shared("normalize", "cohort.zarr"))
            cohort = add("pack", packing).cohort
        encoded = add(
            "encode",
            EncodeFa(
                cohort=cohort,
                model=model,
                quality=str(Path(out_dir, "quality.tsv")),
                examples=str(Path(out_dir, "examples.npz")),
                threads=settings["encoder"]["threads"],
                **shared("encoder", "latents.parquet"),
            ),
        )
        tested_traits = encoded.latents
    else:
        tested_traits = Path(out_dir, "latents.parquet") if traits is None else traits
    people = maps if traits is None else traits
    pcs = Path(out_dir, "pcs.tsv") if n_pcs else None
    if n_pcs and prepares:
        # The components describe the people of the association, so only these are used.
        pcs = add(
            "pca",
            ComputePcs(genotypes=genotypes, n_pcs=n_pcs, keep=people, **shared("gwas", "pcs.tsv")),
        ).pcs
    mixed_model = settings.get("mixed_model")
    if prepares:
        checked = add(
            "samples",
            CheckSamples(
                genotypes=genotypes,
                keep=people,
                pcs=pcs,
                related=str(Path(out_dir, "related.tsv")),
                **shared("gwas", "samples_qc.tsv"),
            ),
        )

    if mixed_model is not None and part == "prepare":
        return checked.samples_qc

    inputs = {
        "genotypes": genotypes,
        "traits": tested_traits,
        "covariates": covariates,
        "pcs": pcs,
    }
    loco = None if mixed_model is None else Path(out_dir, "loco")
    if mixed_model is not None and part in ("all", "ridge"):
        fitting = FitMixedModel(
            extract=mixed_model_extract, **inputs, **mixed_model, **shared("gwas", "loco")
        )
        fitted = add("ridge", fitting)
        loco = fitted.loco
        if part == "ridge":
            return fitted.manifest
    association = {
        **inputs,
        "extract": extract,
        "exclude": exclude,
        "loco": loco,
        **settings.get("gwas", {}),
        **shared("gwas", "sumstats"),
    }
    # the store itself knows what of it is there, so its parts are looked at each time
    if part in ("prepare", "plan"):
        prepared = PrepareGwas(plan_only=True, replace=True, **association)
        return add("gwas_plan", prepared, always=True).plan
    if part == "associate":
        tested = PrepareGwas(chromosome=chromosome, **association)
        return add(f"gwas_chr{chromosome}", tested, always=True).plan
    associated = add("gwas", RunGwas(replace=True, **association))
    for trait in export:
        add(
            f"export_{trait}",
            ExportSumstats(
                sumstats=associated.sumstats,
                trait=trait,
                format=export_format,
                **shared("gwas", f"{trait}.{export_format}.tsv.gz"),
            ),
        )
    if discovery is not None:
        replicated = add(
            "replicate",
            ReplicateLoci(
                loci=discovery_loci,
                discovery=discovery,
                replication=associated.sumstats,
                **shared("genetics", "replication.tsv"),
            ),
        )
        return replicated.table
    tested = add(
        "joint", RunJointTest(sumstats=associated.sumstats, **shared("genetics", "joint.parquet"))
    )
    found = add(
        "loci",
        FindLoci(
            joint=tested.joint,
            sumstats=associated.sumstats,
            genotypes=genotypes,
            **settings.get("genetics", {}),
            **shared("genetics", "loci.tsv"),
        ),
    )
    return found.loci

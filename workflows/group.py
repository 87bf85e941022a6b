"""The cohort: FA maps -> latents -> association -> loci, or their replication.

Each representation of the maps has its own model, latents, joint test and loci, in a folder and in
jobs of its name; all of their latents are tested in one reading of the genotypes.
"""

from pathlib import Path
from typing import Any

from fileformats.generic import File
from pydra.compose import workflow

from axoloci.environments import StepEnvironment, image_identity
from axoloci.formats import CohortStore, GenotypeData, LdScoreFolder, Nifti, SumstatsStore
from axoloci.study import REPRESENTATIONS
from axoloci.tasks.encoder.task import EncodeFa, FitLinear, LinearizeEncoder, TrainEncoder
from axoloci.tasks.genetics.task import (
    EstimateHeritability,
    FindLoci,
    MapHeritability,
    MapVoxels,
    ReplicateLoci,
    RunJointTest,
    RunLdsc,
)
from axoloci.tasks.gwas.task import (
    CheckSamples,
    ComputePcs,
    ConditionLoci,
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
    representations: list[str],
    out_dir: str,
    work_dir: str,
    log_dir: str,
    template: Nifti | None = None,
    mask: Nifti | None = None,
    atlas: Nifti | None = None,
    tensorboard: bool = False,
    settings: dict[str, dict[str, Any]] = {},  # noqa: B006 - Pydra copies defaults
    threads: int = 1,
    env: str = "native",
) -> File:
    """From the FA maps of a cohort to the models of its representations.

    Parameters
    ----------
    maps
        Table sample_id, path, sha256 of the FA maps, one row a person.
    readable
        Folders of the maps, which a container must see.
    representations
        "autoencoder", "linear" or both.
    out_dir
        Folder for the results: `cohort.zarr`, and for each representation a folder, which is there,
        with `model.safetensors` and `history.tsv`.
    work_dir
        Folder for what a killed job needs to go on.
    log_dir
        Folder for one log and one job record a step.
    template, mask
        FA template, without it the shipped one; voxels to keep instead of its brain.
    atlas
        Labels whose means are the linear representation, in place of principal components.
    tensorboard
        Draw the losses of the autoencoder, in the folder `tensorboard` beside its model.
    settings
        Settings by step; what is left out, the step decides.
    threads
        CPU threads of each job; the jobs run one after another.
    env
        "native", "docker" or "singularity".

    Returns
    -------
    File
        The model, of several the last.
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
            **settings.get("pack", {}),
        ),
    )
    for name in representations:
        files = {
            "history": str(Path(out_dir, name, "history.tsv")),
            "out": str(Path(out_dir, name, "model.safetensors")),
            "image": image_identity(env, "encoder"),
        }
        if name == "autoencoder":
            training = TrainEncoder(
                cohort=packed.cohort,
                checkpoint=str(Path(work_dir, "encoder.pt")),
                tensorboard=str(Path(out_dir, name, "tensorboard")) if tensorboard else None,
                **settings.get("encoder", {}),
                **files,
            )
        else:
            training = FitLinear(
                cohort=packed.cohort, atlas=atlas, **settings.get("linear", {}), **files
            )
        trained = add(f"train_{name}", training)
    return trained.model


@workflow.define(outputs=["table"])
def Group(
    genotypes: GenotypeData,
    out_dir: str,
    log_dir: str,
    maps: File | None = None,
    readable: list[str] = [],  # noqa: B006 - Pydra copies defaults
    cohort: CohortStore | None = None,
    autoencoder: File | None = None,
    linear: File | None = None,
    like: CohortStore | None = None,
    traits: File | None = None,
    discovery: SumstatsStore | None = None,
    discovery_loci: File | None = None,
    discovery_linear_loci: File | None = None,
    covariates: list[File] | None = None,
    extract: File | None = None,
    exclude: File | None = None,
    mixed_model_extract: File | None = None,
    genes: File | None = None,
    reference: GenotypeData | None = None,
    ld_scores: File | LdScoreFolder | None = None,
    outside: list[File] | None = None,
    follows: list[str] = [],  # noqa: B006
    settings: dict[str, dict[str, Any]] = {},  # noqa: B006
    n_pcs: int = 0,
    export: list[str] = [],  # noqa: B006
    export_format: str = "gwas-ssf",
    threads: int = 1,
    env: str = "native",
    part: str = "all",
    chromosome: str | None = None,
) -> File:
    """From FA maps and their models, or from traits, to loci or the replication of loci.

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
        Folder for the results, with a folder for each representation.
    log_dir
        Folder for one log and one job record a step.
    maps
        Table sample_id, path, sha256 of the FA maps, one row a person.
    readable
        Folders of the maps, which a container must see.
    cohort
        Cohort store of the maps; without it they are packed.
    autoencoder, linear
        Models of the representations that the study has.
    like
        Cohort store that they were trained on.
    traits
        Table of traits, in place of maps.
    discovery
        Summary statistics of another cohort, whose loci are tested in this one.
    discovery_loci, discovery_linear_loci
        Its loci by the autoencoder or by traits, and by the linear representation.
    covariates
        Tables of covariates.
    extract, exclude, mixed_model_extract
        Lists of variants: those that are tested, that are not, and that predict in a mixed model.
    genes, reference
        Table of genes; genotypes of a panel, for linkage disequilibrium. Both of the loci.
    ld_scores, outside
        LD scores of a panel; summary statistics of other studies as text. Both of "ldsc".
    follows
        What follows the association and its loci: "signals", "heritability", "ldsc", "voxels".
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
        Table of loci or of their replication, of the last representation; of an earlier part the
        plan of the association, or before it the quality of the genotypes or the manifest of the
        mixed model. Everything else lies in `out_dir`.
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
    models = {
        name: model
        for name, model in (("autoencoder", autoencoder), ("linear", linear))
        if model is not None
    }
    if traits is not None:
        tables = [traits]
    elif prepares:
        if cohort is None:
            packing = PackCohort(
                maps=maps,
                like=like,
                **settings.get("pack", {}),
                **shared("normalize", "cohort.zarr"),
            )
            cohort = add("pack", packing).cohort
        tables = [
            add(
                f"encode_{name}",
                EncodeFa(
                    cohort=cohort,
                    model=model,
                    quality=str(Path(out_dir, name, "quality.tsv")),
                    examples=str(Path(out_dir, name, "examples.npz")),
                    **settings.get("encode", {}),
                    **shared("encoder", f"{name}/latents.parquet"),
                ),
            ).latents
            for name, model in models.items()
        ]
    else:
        tables = [Path(out_dir, name, "latents.parquet") for name in models]
    tested_traits = dict(zip(("traits", "traits_beside"), tables, strict=False))
    table_of = dict(zip(models or ("",), tables, strict=True))
    # whom the encoding drops is not in the association
    dropped = settings.get("encode", {}).get("training_people") == "drop"
    people = tables[0] if traits is not None or dropped else maps
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

    adjusted = {"genotypes": genotypes, "covariates": covariates, "pcs": pcs}
    inputs = {**adjusted, **tested_traits}
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
    for name in models or ("",):  # of traits there is one result, without a name
        end = f"_{name}" if name else ""
        of = {"traits": f"{REPRESENTATIONS[name]}_*"} if name else {}
        if discovery is not None:
            result = add(
                f"replicate{end}",
                ReplicateLoci(
                    loci=discovery_linear_loci if name == "linear" else discovery_loci,
                    discovery=discovery,
                    replication=associated.sumstats,
                    **of,
                    **shared("genetics", str(Path(name, "replication.tsv"))),
                ),
            ).table
            continue
        tested = add(
            f"joint{end}",
            RunJointTest(
                sumstats=associated.sumstats,
                **of,
                **settings.get("joint", {}),
                **shared("genetics", str(Path(name, "joint.parquet"))),
            ),
        )
        result = add(
            f"loci{end}",
            FindLoci(
                joint=tested.joint,
                sumstats=associated.sumstats,
                **({"genotypes": genotypes} if reference is None else {"reference": reference}),
                genes=genes,
                regions=str(Path(out_dir, name, "regions.parquet")),
                **settings.get("genetics", {}),
                **shared("genetics", str(Path(name, "loci.tsv"))),
            ),
        ).loci
        if "signals" in follows:
            conditioning = ConditionLoci(
                traits=table_of[name],
                **adjusted,
                loci=result,
                extract=extract,
                exclude=exclude,
                **settings.get("signals", {}),
                **shared("gwas", str(Path(name, "signals.tsv"))),
            )
            add(f"signals{end}", conditioning)
        estimated = None
        if "heritability" in follows:
            estimated = add(
                f"heritability{end}",
                EstimateHeritability(
                    sumstats=associated.sumstats,
                    if_possible=True,
                    **of,
                    **shared("genetics", name),
                ),
            )
        if "ldsc" in follows:
            regressing = RunLdsc(
                sumstats=associated.sumstats,
                ld_scores=ld_scores,
                outside=outside,
                **of,
                **settings.get("ldsc", {}),
                **shared("genetics", str(Path(name, "ldsc"))),
            )
            add(f"ldsc{end}", regressing)
        if "voxels" in follows and name:
            basis = models[name]
            if name == "autoencoder":
                linearising = LinearizeEncoder(
                    model=basis,
                    latents=table_of[name],
                    threads=settings.get("encode", {}).get("threads"),
                    **shared("encoder", str(Path(name, "linearised.safetensors"))),
                )
                basis = add(f"linearise{end}", linearising).linearised
            mapping = MapVoxels(
                sumstats=associated.sumstats,
                model=basis,
                loci=result,
                **settings.get("voxels", {}),
                **shared("genetics", str(Path(name, "voxels"))),
            )
            add(f"voxels{end}", mapping)
            if estimated is not None:
                of_voxels = MapHeritability(
                    genetic_covariance=estimated.covariance,
                    model=basis,
                    **settings.get("voxels", {}),
                    if_possible=True,
                    **shared("genetics", name),
                )
                add(f"voxelh2{end}", of_voxels)
    return result

"""The cohort: FA maps -> latents -> association -> loci."""

from pathlib import Path
from typing import Any

from fileformats.generic import File
from pydra.compose import workflow

from axoloci.formats import Nifti, PlinkBed
from axoloci.images import environment, image_identity
from axoloci.tasks.encoder.task import EncodeFa, TrainEncoder
from axoloci.tasks.genetics.task import FindLoci, RunJointTest
from axoloci.tasks.gwas.task import ComputePcs, ExportSumstats, RunGwas
from axoloci.tasks.normalize.task import PackCohort


@workflow.define(outputs=["loci"])
def Group(
    maps: File,
    genotypes: PlinkBed,
    out_dir: str,
    work_dir: str,
    log_dir: str,
    covariates: list[File] | None = None,
    template: Nifti | None = None,
    settings: dict[str, dict[str, Any]] = {},  # noqa: B006 - Pydra copies defaults
    n_pcs: int = 0,
    export: list[str] = [],  # noqa: B006
    threads: int = 1,
    env: str = "native",
) -> File:
    """From the FA maps of a cohort to the loci of their latents.

    Parameters
    ----------
    maps
        Table sample_id, path, sha256 of the FA maps, one row a person.
    genotypes
        PLINK 1 genotypes.
    out_dir
        Folder for the results.
    work_dir
        Folder for what a killed job needs to go on.
    log_dir
        Folder for one log and one job record a step.
    covariates
        Tables of covariates.
    template
        FA template; without it the shipped one.
    settings
        Settings by step; what is left out, the step decides.
    n_pcs
        Genotype principal components used as covariates.
    export
        Traits whose summary statistics are also written as GWAS-SSF text.
    threads
        CPU threads of each job; the jobs run one after another.
    env
        "native", "docker" or "singularity".

    Returns
    -------
    File
        Table of loci; everything else lies in `out_dir`.
    """

    def add(name: str, task: Any) -> Any:
        where = environment(env, Path(log_dir, f"{name}.log"), threads, announce=True)
        return workflow.add(task, name=name, environment=where)

    def shared(step: str, out: str) -> dict[str, Any]:
        return {"out": str(Path(out_dir, out)), "image": image_identity(env, step)}

    packed = add(
        "pack",
        PackCohort(
            maps=maps,
            template=template,
            **shared("normalize", "cohort.zarr"),
        ),
    )
    trained = add(
        "train",
        TrainEncoder(
            cohort=packed.cohort,
            checkpoint=str(Path(work_dir, "encoder.pt")),
            history=str(Path(out_dir, "history.tsv")),
            **settings.get("encoder", {}),
            **shared("encoder", "model.safetensors"),
        ),
    )
    encoded = add(
        "encode",
        EncodeFa(
            cohort=packed.cohort,
            model=trained.model,
            quality=str(Path(out_dir, "quality.tsv")),
            examples=str(Path(out_dir, "examples.npz")),
            threads=settings["encoder"]["threads"],
            **shared("encoder", "latents.parquet"),
        ),
    )
    pcs = None
    if n_pcs:
        # The components describe the people of the association, so only these are used.
        pcs = add(
            "pca",
            ComputePcs(genotypes=genotypes, n_pcs=n_pcs, keep=maps, **shared("gwas", "pcs.tsv")),
        ).pcs
    associated = add(
        "gwas",
        RunGwas(
            genotypes=genotypes,
            traits=encoded.latents,
            covariates=covariates,
            pcs=pcs,
            replace=True,
            **settings.get("gwas", {}),
            **shared("gwas", "sumstats"),
        ),
    )
    for trait in export:
        add(
            f"export_{trait}",
            ExportSumstats(
                sumstats=associated.sumstats,
                trait=trait,
                **shared("gwas", f"{trait}.gwas-ssf.tsv.gz"),
            ),
        )
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

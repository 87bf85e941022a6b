"""The Pydra tasks of the step gwas."""

from fileformats.generic import File
from pydra.compose import shell

from axoloci.formats import GenotypeData, LocoStore, SumstatsStore
from axoloci.pydra_task import IMAGE_HELP, made, made_with


@shell.define
class ComputePcs(shell.Task["ComputePcs.Outputs"]):
    """Principal components of the genotypes, for use as covariates."""

    executable = ["axoloci-gwas", "pca"]

    genotypes: GenotypeData = shell.arg(
        argstr="--genotypes", help="PLINK 1, PLINK 2 or BGEN genotypes"
    )
    n_pcs: int | None = shell.arg(argstr="--n-pcs", default=None, help="number of components")
    keep: File | None = shell.arg(
        argstr="--keep", default=None, help="table of the people to use; without it all"
    )
    out: str = shell.arg(argstr="--out", default="pcs.tsv", help="table IID, PC1, …")
    image: str = shell.arg(argstr=None, default="", help=IMAGE_HELP)

    class Outputs(shell.Outputs):
        """Components of each person."""

        pcs: File = shell.out(callable=made("{out}"), help="table IID, PC1, …")


@shell.define
class CheckSamples(shell.Task["CheckSamples.Outputs"]):
    """Quality of each person's genotypes, and pairs of relatives."""

    executable = ["axoloci-gwas", "samples"]

    genotypes: GenotypeData = shell.arg(
        argstr="--genotypes", help="PLINK 1, PLINK 2 or BGEN genotypes"
    )
    keep: File | None = shell.arg(
        argstr="--keep", default=None, help="table of the people to look at; without it all"
    )
    pcs: File | None = shell.arg(
        argstr="--pcs", default=None, help="table of genotype principal components"
    )
    max_missing: float | None = shell.arg(
        argstr="--max-missing", default=None, help="share of genotypes that may be missing"
    )
    max_heterozygosity_sd: float | None = shell.arg(
        argstr="--max-heterozygosity-sd", default=None, help="robust SD of F from the median"
    )
    max_pc_sd: float | None = shell.arg(
        argstr="--max-pc-sd", default=None, help="robust SD from the median along any component"
    )
    kinship: float | None = shell.arg(
        argstr="--kinship", default=None, help="pairs above are relatives"
    )
    out: str = shell.arg(argstr="--out", default="samples_qc.tsv", help="table, one row a person")
    related: str = shell.arg(
        argstr="--related", default="related.tsv", help="table, one row a pair of relatives"
    )
    image: str = shell.arg(argstr=None, default="", help=IMAGE_HELP)

    class Outputs(shell.Outputs):
        """Figures and flags of each person, pairs of relatives."""

        samples_qc: File = shell.out(callable=made("{out}"), help="table, one row a person")
        related_pairs: File = shell.out(
            callable=made("{related}"), help="table IID1, IID2, kinship, n_variants"
        )


class AnalysisInputs:
    """The fields of all tasks that fit traits to genotypes."""

    genotypes: GenotypeData = shell.arg(
        argstr="--genotypes", help="PLINK 1, PLINK 2 or BGEN genotypes"
    )
    traits: File = shell.arg(argstr="--traits", help="table of traits, one row a person")
    traits_beside: File | None = shell.arg(
        argstr="--traits", default=None, help="second table of traits, such as of other latents"
    )
    trait: list[str] | None = shell.arg(
        argstr="--trait ...", default=None, help="traits to use; without it all"
    )
    covariates: list[File] | None = shell.arg(
        argstr="--covariates ...", default=None, help="tables of covariates"
    )
    pcs: File | None = shell.arg(
        argstr="--covariates", default=None, help="table of genotype principal components"
    )
    covariate: list[str] | None = shell.arg(
        argstr="--covariate ...", default=None, help="columns to use; without it all"
    )
    model: str | None = shell.arg(
        argstr="--model", default=None, help="covariates as a formula, in place of `covariate`"
    )
    categorical: list[str] | None = shell.arg(
        argstr="--categorical ...", default=None, help="numeric columns that are categories"
    )
    keep: File | None = shell.arg(
        argstr="--keep", default=None, help="table of the people to use; without it all"
    )
    remove: File | None = shell.arg(
        argstr="--remove", default=None, help="table of people to leave out"
    )
    region: list[str] | None = shell.arg(
        argstr="--region ...", default=None, help="chromosomes, or positions such as 7:1000-2000"
    )
    extract: File | None = shell.arg(
        argstr="--extract", default=None, help="list of the variants to use; without it all"
    )
    exclude: File | None = shell.arg(
        argstr="--exclude", default=None, help="list of variants to leave out"
    )
    min_maf: float | None = shell.arg(
        argstr="--min-maf", default=None, help="smallest minor allele frequency"
    )
    min_mac: float | None = shell.arg(
        argstr="--min-mac", default=None, help="smallest number of minor alleles"
    )
    max_missing: float | None = shell.arg(
        argstr="--max-missing", default=None, help="share of people who may lack the genotype"
    )
    min_hwe_p: float | None = shell.arg(
        argstr="--min-hwe-p", default=None, help="smallest p of Hardy-Weinberg equilibrium"
    )
    min_info: float | None = shell.arg(
        argstr="--min-info", default=None, help="smallest quality of imputation"
    )
    winsorize: float | None = shell.arg(
        argstr="--winsorize", default=None, help="standard deviations that traits are drawn in to"
    )
    rank_normal: str | None = shell.arg(
        argstr="--rank-normal", default=None, help="normal scores of ranks: values or residuals"
    )
    complete_traits: bool = shell.arg(
        argstr="--complete-traits", default=False, help="leave out people who lack a trait"
    )
    threads: int | None = shell.arg(
        argstr="--threads", default=None, help="CPU threads; without it those of the environment"
    )
    image: str = shell.arg(argstr=None, default="", help=IMAGE_HELP)


@shell.define
class FitMixedModel(AnalysisInputs, shell.Task["FitMixedModel.Outputs"]):
    """The mixed model of all traits: what the genome but one chromosome predicts, taken off."""

    executable = ["axoloci-gwas", "ridge"]

    seed: int | None = shell.arg(
        argstr="--seed", default=None, help="of the noise that shares of variance rest on"
    )
    out: str = shell.arg(argstr="--out", default="loco", help="folder of the store")

    class Outputs(shell.Outputs):
        """The store."""

        loco: LocoStore = shell.out(
            callable=made("{out}"), help="what is left of each trait, by chromosome"
        )
        manifest: File = shell.out(callable=made("{out}/loco.json"), help="shares of variance")


@shell.define
class RunGwas(AnalysisInputs, shell.Task["RunGwas.Outputs"]):
    """Association of all traits with all variants in one reading of the genotypes."""

    executable = ["axoloci-gwas", "associate"]

    loco: LocoStore | None = shell.arg(
        argstr="--loco", default=None, help="from `FitMixedModel`, of the same people and traits"
    )
    device: str | None = shell.arg(argstr="--device", default=None, help="auto, cpu or cuda")
    precision: str | None = shell.arg(
        argstr="--precision", default=None, help="of arithmetic and store: float32 or float64"
    )
    traits_at_once: int | None = shell.arg(
        argstr="--traits-at-once",
        default=None,
        help="most traits that are tested together; without it as many as memory holds",
    )
    n_probes: int | None = shell.arg(
        argstr="--n-probes", default=None, help="random probes, for heritability"
    )
    n_permuted: int | None = shell.arg(
        argstr="--n-permuted", default=None, help="variants that are permuted, for MOSTest and minP"
    )
    out: str = shell.arg(argstr="--out", default="sumstats", help="folder of the store")
    replace: bool = shell.arg(
        argstr="--replace",
        default=False,
        help="delete the results of other inputs or settings in that folder first",
    )

    class Outputs(shell.Outputs):
        """The store."""

        sumstats: SumstatsStore = shell.out(callable=made("{out}"), help="summary statistics")


@shell.define
class PrepareGwas(RunGwas):
    """A part of the association: the plan of the store, or one chromosome of it.

    `RunGwas` with the same inputs finishes the store.
    """

    plan_only: bool = shell.arg(
        argstr="--plan-only", default=False, help="prepare the store, test nothing"
    )
    chromosome: str | None = shell.arg(
        argstr="--chromosome", default=None, help="the one whose variants are tested"
    )

    class Outputs(shell.Outputs):
        """The plan; what else is in an unfinished store, other processes may be writing."""

        plan: File = shell.out(callable=made("{out}/plan.json"), help="what decides the content")


@shell.define
class ComputeResiduals(AnalysisInputs, shell.Task["ComputeResiduals.Outputs"]):
    """What the covariates leave of the traits: a value for each person, not for sharing."""

    executable = ["axoloci-gwas", "residuals"]

    variant: list[str] | None = shell.arg(
        argstr="--variant ...", default=None, help="variants whose dosages are adjusted as well"
    )
    loci: File | None = shell.arg(
        argstr="--loci", default=None, help="table of loci, whose lead variants are as well"
    )
    out: str = shell.arg(argstr="--out", default="residuals.parquet", help="table of the traits")
    dosages: str = shell.arg(
        argstr="--dosages", default="dosages.parquet", help="table of the variants"
    )

    class Outputs(shell.Outputs):
        """One row a person."""

        residuals: File = shell.out(callable=made("{out}"), help="traits less their covariates")
        adjusted_dosages: File | None = shell.out(
            callable=made_with("{dosages}", "variant", "loci"),
            help="likewise the variants, if any is named",
        )


@shell.define
class ConditionLoci(AnalysisInputs, shell.Task["ConditionLoci.Outputs"]):
    """The independent signals of each locus: its lead, and what is left given it."""

    executable = ["axoloci-gwas", "condition"]

    loci: File = shell.arg(
        argstr="--loci", help="table of loci, found with the same people, traits and covariates"
    )
    window_kb: float | None = shell.arg(
        argstr="--window-kb", default=None, help="how far beyond a locus variants are tested, kb"
    )
    p_threshold: float | None = shell.arg(
        argstr="--p-threshold", default=None, help="p below which a further signal is one"
    )
    out: str = shell.arg(argstr="--out", default="signals.tsv", help="table of signals")

    class Outputs(shell.Outputs):
        """One row a signal."""

        signals: File = shell.out(callable=made("{out}"), help="in the order they were found")


@shell.define
class ExportSumstats(shell.Task["ExportSumstats.Outputs"]):
    """Summary statistics of one trait as text, for other programs."""

    executable = ["axoloci-gwas", "export"]

    sumstats: SumstatsStore = shell.arg(argstr="--sumstats", help="summary statistics")
    trait: str = shell.arg(argstr="--trait", help="name of the trait")
    format: str | None = shell.arg(
        argstr="--format", default=None, help="gwas-ssf, plink2, regenie or ldsc"
    )
    out: str = shell.arg(argstr="--out", default="sumstats.tsv.gz", help="text file")
    tabix: bool = shell.arg(
        argstr="--tabix", default=False, help="compress in blocks and write an index beside it"
    )
    image: str = shell.arg(argstr=None, default="", help=IMAGE_HELP)

    class Outputs(shell.Outputs):
        """The text."""

        text: File = shell.out(callable=made("{out}"), help="one row a variant")

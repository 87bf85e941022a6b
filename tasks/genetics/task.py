"""The Pydra tasks of the step genetics."""

from fileformats.generic import Directory, File
from pydra.compose import shell

from axoloci.formats import GenotypeData, LdScoreFolder, Nifti, SumstatsStore
from axoloci.pydra_task import IMAGE_HELP, if_made, made


@shell.define
class RunJointTest(shell.Task["RunJointTest.Outputs"]):
    """Exact joint test of each variant over all traits."""

    executable = ["axoloci-genetics", "joint"]

    sumstats: SumstatsStore = shell.arg(argstr="--sumstats", help="summary statistics")
    traits: str | None = shell.arg(
        argstr="--traits", default=None, help="traits to test together, such as latent_*"
    )
    also: list[str] | None = shell.arg(
        argstr="--also ...", default=None, help="other tests: mostest, minp"
    )
    out: str = shell.arg(argstr="--out", default="joint.parquet", help="table of the test")
    image: str = shell.arg(argstr=None, default="", help=IMAGE_HELP)

    class Outputs(shell.Outputs):
        """One row a variant."""

        joint: File = shell.out(callable=made("{out}"), help="R², F, −log10 p")


@shell.define
class EstimateHeritability(shell.Task["EstimateHeritability.Outputs"]):
    """SNP heritability of traits, and genetic correlation of each pair."""

    executable = ["axoloci-genetics", "heritability"]

    sumstats: SumstatsStore = shell.arg(argstr="--sumstats", help="summary statistics")
    traits: str | None = shell.arg(
        argstr="--traits", default=None, help="traits to estimate, such as latent_*"
    )
    if_possible: bool = shell.arg(
        argstr="--if-possible", default=False, help="empty tables where nothing can be estimated"
    )
    out: str = shell.arg(argstr="--out", default="heritability", help="folder of the tables")
    image: str = shell.arg(argstr=None, default="", help=IMAGE_HELP)

    class Outputs(shell.Outputs):
        """Tables, and the covariances that maps of voxels are made of."""

        table: File = shell.out(
            callable=made("{out}/heritability.tsv"), help="h² and its standard error"
        )
        correlation: File = shell.out(
            callable=made("{out}/genetic_correlation.tsv"), help="one row a pair of traits"
        )
        covariance: File = shell.out(
            callable=made("{out}/genetic_covariance.npz"), help="genetic covariances"
        )


@shell.define
class FindLoci(shell.Task["FindLoci.Outputs"]):
    """Loci of the joint test: lead variants and what is in LD with them."""

    executable = ["axoloci-genetics", "loci"]

    joint: File = shell.arg(argstr="--joint", help="table of the joint test")
    sumstats: SumstatsStore = shell.arg(argstr="--sumstats", help="summary statistics")
    genotypes: GenotypeData | None = shell.arg(
        argstr="--genotypes", default=None, help="genotypes of the study, for LD"
    )
    reference: GenotypeData | None = shell.arg(
        argstr="--reference", default=None, help="genotypes of a panel instead, for LD"
    )
    p_threshold: float | None = shell.arg(
        argstr="--p-threshold", default=None, help="p that makes a lead variant"
    )
    secondary_p: float | None = shell.arg(
        argstr="--secondary-p", default=None, help="p below which a variant belongs to a lead"
    )
    clump_r2: float | None = shell.arg(
        argstr="--clump-r2", default=None, help="LD above which a variant belongs to a lead"
    )
    clump_kb: float | None = shell.arg(
        argstr="--clump-kb", default=None, help="limit of the distance to a lead, kb"
    )
    merge_kb: float | None = shell.arg(
        argstr="--merge-kb", default=None, help="largest gap between clumps of one locus, kb"
    )
    genes: File | None = shell.arg(
        argstr="--genes", default=None, help="table of genes: chromosome, start, end, gene"
    )
    regions: str = shell.arg(
        argstr="--regions", default="regions.parquet", help="table for regional pictures"
    )
    region_kb: float | None = shell.arg(
        argstr="--region-kb", default=None, help="how far regions reach beyond a locus, kb"
    )
    out: str = shell.arg(argstr="--out", default="loci.tsv", help="table of loci")
    image: str = shell.arg(argstr=None, default="", help=IMAGE_HELP)

    class Outputs(shell.Outputs):
        """One row a locus, and the variants about each."""

        loci: File = shell.out(callable=made("{out}"), help="lead variants")
        region_variants: File = shell.out(
            callable=made("{regions}"), help="−log10 p of variants, r² with the lead"
        )


@shell.define
class ReplicateLoci(shell.Task["ReplicateLoci.Outputs"]):
    """Lead variants of one cohort tested in another."""

    executable = ["axoloci-genetics", "replicate"]

    loci: File = shell.arg(argstr="--loci", help="loci of the discovery")
    discovery: SumstatsStore | File = shell.arg(
        argstr="--discovery", help="its summary statistics, or text of one trait"
    )
    replication: SumstatsStore | File = shell.arg(
        argstr="--replication", help="summary statistics of the same traits in other people"
    )
    traits: str | None = shell.arg(
        argstr="--traits", default=None, help="traits whose loci these are, such as latent_*"
    )
    p_threshold: float | None = shell.arg(
        argstr="--p-threshold", default=None, help="largest p of a lead that is replicated"
    )
    palindromic_frequency: float | None = shell.arg(
        argstr="--palindromic-frequency",
        default=None,
        help="largest frequency at which A/T and C/G leads are tested",
    )
    replication_n: int | None = shell.arg(
        argstr="--replication-n", default=None, help="people in a replication that does not tell"
    )
    out: str = shell.arg(argstr="--out", default="replication.tsv", help="table, one row a locus")
    image: str = shell.arg(argstr=None, default="", help=IMAGE_HELP)

    class Outputs(shell.Outputs):
        """One row a locus."""

        table: File = shell.out(callable=made("{out}"), help="directed test of each lead")


@shell.define
class MapVoxels(shell.Task["MapVoxels.Outputs"]):
    """Effects of lead variants on every voxel, out of the associations of the latents."""

    executable = ["axoloci-genetics", "voxels"]

    sumstats: SumstatsStore = shell.arg(argstr="--sumstats", help="summary statistics")
    model: File = shell.arg(argstr="--model", help="linear representation, or a linearised one")
    loci: File = shell.arg(argstr="--loci", help="loci, whose lead variants are mapped")
    traits: str | None = shell.arg(
        argstr="--traits", default=None, help="traits that are the latents, such as component_*"
    )
    noise_of: str | None = shell.arg(
        argstr="--noise-of", default=None, help="whose noise p is of: projection or voxel"
    )
    atlas: Nifti | None = shell.arg(
        argstr="--atlas", default=None, help="labels whose means are tested too"
    )
    out: str = shell.arg(argstr="--out", default="voxels", help="folder of the maps")
    image: str = shell.arg(argstr=None, default="", help=IMAGE_HELP)

    class Outputs(shell.Outputs):
        """Maps of β, se and −log10 p a variant."""

        maps: Directory = shell.out(callable=made("{out}"), help="maps")
        index: File = shell.out(callable=made("{out}/index.tsv"), help="where each is strongest")


@shell.define
class ScanVoxels(shell.Task["ScanVoxels.Outputs"]):
    """All variants with all voxels: the pairs beyond a threshold."""

    executable = ["axoloci-genetics", "voxel-scan"]

    sumstats: SumstatsStore = shell.arg(argstr="--sumstats", help="summary statistics")
    model: File = shell.arg(argstr="--model", help="linear representation, or a linearised one")
    traits: str | None = shell.arg(
        argstr="--traits", default=None, help="traits that are the latents, such as component_*"
    )
    noise_of: str | None = shell.arg(
        argstr="--noise-of", default=None, help="whose noise p is of: projection or voxel"
    )
    p_threshold: float | None = shell.arg(
        argstr="--p-threshold", default=None, help="largest p of a pair"
    )
    max_pairs: int | None = shell.arg(
        argstr="--max-pairs", default=None, help="more pairs are an error"
    )
    out: str = shell.arg(argstr="--out", default="voxel_scan", help="folder of table and maps")
    image: str = shell.arg(argstr=None, default="", help=IMAGE_HELP)

    class Outputs(shell.Outputs):
        """Pairs, and maps of how many and how strong."""

        pairs: File = shell.out(callable=made("{out}/pairs.parquet"), help="one row a pair")
        n_variants: File = shell.out(
            callable=made("{out}/n_variants.nii.gz"), help="variants of each voxel"
        )
        strongest: File = shell.out(
            callable=made("{out}/max_neg_log10_p.nii.gz"), help="strongest of each voxel"
        )


@shell.define
class MapHeritability(shell.Task["MapHeritability.Outputs"]):
    """SNP heritability of every voxel, out of the genetic covariance of the latents."""

    executable = ["axoloci-genetics", "voxel-h2"]

    genetic_covariance: File = shell.arg(
        argstr="--genetic-covariance", help="genetic covariance of the latents"
    )
    model: File = shell.arg(argstr="--model", help="linear representation, or a linearised one")
    noise_of: str | None = shell.arg(
        argstr="--noise-of",
        default=None,
        help="of whose variance: voxel or projection",
    )
    if_possible: bool = shell.arg(
        argstr="--if-possible", default=False, help="no maps where nothing was estimated"
    )
    out: str = shell.arg(argstr="--out", default=".", help="folder of the maps")
    image: str = shell.arg(argstr=None, default="", help=IMAGE_HELP)

    class Outputs(shell.Outputs):
        """Heritability and its standard error, if they could be estimated."""

        h2: File | None = shell.out(callable=if_made("{out}/voxel_h2.nii.gz"), help="heritability")
        se: File | None = shell.out(
            callable=if_made("{out}/voxel_h2_se.nii.gz"), help="standard error"
        )


@shell.define
class MapGeneticCorrelation(shell.Task["MapGeneticCorrelation.Outputs"]):
    """Genetic correlation of every voxel with a seed voxel, or with a trait."""

    executable = ["axoloci-genetics", "voxel-rg"]

    genetic_covariance: File = shell.arg(
        argstr="--genetic-covariance", help="genetic covariance of the latents, and of other traits"
    )
    model: File = shell.arg(argstr="--model", help="linear representation, or a linearised one")
    seed_voxel: str | None = shell.arg(
        argstr="--seed-voxel", default=None, help="voxel of the model's grid, such as 45,60,32"
    )
    seed_mm: str | None = shell.arg(
        argstr="--seed-mm", default=None, help="place in the maps' space, mm, in its stead"
    )
    with_trait: str | None = shell.arg(
        argstr="--with-trait", default=None, help="trait of the covariance, in its stead"
    )
    out: str = shell.arg(argstr="--out", default="voxel_rg", help="folder of the maps")
    image: str = shell.arg(argstr=None, default="", help=IMAGE_HELP)

    class Outputs(shell.Outputs):
        """The correlation and its standard error, named after the seed."""

        maps: Directory = shell.out(callable=made("{out}"), help="maps")


@shell.define
class InferClusters(shell.Task["InferClusters.Outputs"]):
    """Clusters of voxels that variants change, by a wild bootstrap."""

    executable = ["axoloci-genetics", "clusters"]

    sumstats: SumstatsStore = shell.arg(argstr="--sumstats", help="summary statistics")
    model: File = shell.arg(argstr="--model", help="linear representation, or a linearised one")
    residuals: File = shell.arg(
        argstr="--residuals", help="traits less their covariates, of `ComputeResiduals`"
    )
    dosages: File = shell.arg(argstr="--dosages", help="likewise the variants")
    variant: list[str] | None = shell.arg(
        argstr="--variant ...", default=None, help="variants to look at; without it all"
    )
    traits: str | None = shell.arg(
        argstr="--traits", default=None, help="traits that are the latents, such as component_*"
    )
    noise_of: str | None = shell.arg(
        argstr="--noise-of", default=None, help="whose noise p is of: projection or voxel"
    )
    n_bootstraps: int | None = shell.arg(
        argstr="--n-bootstraps", default=None, help="resamples of each variant"
    )
    cluster_p: float | None = shell.arg(
        argstr="--cluster-p", default=None, help="p that makes a voxel one of a cluster"
    )
    connectivity: str | None = shell.arg(
        argstr="--connectivity", default=None, help="voxels beside one: 6, 18 or 26"
    )
    seed: int | None = shell.arg(argstr="--seed", default=None, help="of the signs that are drawn")
    out: str = shell.arg(argstr="--out", default="clusters", help="folder of table and images")
    image: str = shell.arg(argstr=None, default="", help=IMAGE_HELP)

    class Outputs(shell.Outputs):
        """One row a cluster, and one image a variant."""

        clusters: File = shell.out(callable=made("{out}/clusters.tsv"), help="table of clusters")
        images: Directory = shell.out(callable=made("{out}"), help="where the clusters are")


@shell.define
class ComputeLdScores(shell.Task["ComputeLdScores.Outputs"]):
    """LD scores of a panel's variants."""

    executable = ["axoloci-genetics", "ld-scores"]

    genotypes: GenotypeData = shell.arg(
        argstr="--genotypes", help="PLINK 1, PLINK 2 or BGEN genotypes of a panel"
    )
    keep: File | None = shell.arg(
        argstr="--keep", default=None, help="table of the people to use; without it all"
    )
    window_kb: float | None = shell.arg(
        argstr="--window-kb", default=None, help="farthest variant that counts, kb"
    )
    window_cm: float | None = shell.arg(
        argstr="--window-cm", default=None, help="the same in centimorgan"
    )
    out: str = shell.arg(argstr="--out", default="ld_scores.parquet", help="table of LD scores")
    image: str = shell.arg(argstr=None, default="", help=IMAGE_HELP)

    class Outputs(shell.Outputs):
        """One row a variant."""

        ld_scores: File = shell.out(callable=made("{out}"), help="LD scores")


@shell.define
class RunLdsc(shell.Task["RunLdsc.Outputs"]):
    """Heritability and genetic correlation by LD score regression."""

    executable = ["axoloci-genetics", "ldsc"]

    ld_scores: File | LdScoreFolder = shell.arg(
        argstr="--ld-scores", help="table of LD scores, or the folder of published ones"
    )
    sumstats: SumstatsStore = shell.arg(argstr="--sumstats", help="summary statistics")
    traits: str | None = shell.arg(
        argstr="--traits", default=None, help="traits to look at, such as latent_*"
    )
    outside: list[File] | None = shell.arg(
        argstr="--with ...", default=None, help="summary statistics of other studies as text"
    )
    people: list[str] | None = shell.arg(
        argstr="--n ...", default=None, help="people of those that do not say it, TRAIT=NUMBER"
    )
    min_maf: float | None = shell.arg(
        argstr="--min-maf", default=None, help="least frequency of a variant"
    )
    max_chi2: float | None = shell.arg(
        argstr="--max-chi2", default=None, help="largest χ² of a variant that is used"
    )
    fixed_intercept: bool = shell.arg(
        argstr="--fixed-intercept", default=False, help="take the intercepts as known"
    )
    other_build: bool = shell.arg(
        argstr="--other-build", default=False, help="match by id, positions may differ"
    )
    n_blocks: int | None = shell.arg(
        argstr="--n-blocks", default=None, help="blocks of the jackknife"
    )
    out: str = shell.arg(argstr="--out", default="ldsc", help="folder of the results")
    image: str = shell.arg(argstr=None, default="", help=IMAGE_HELP)

    class Outputs(shell.Outputs):
        """Tables, and the covariances that maps of voxels are made of."""

        table: File = shell.out(
            callable=made("{out}/heritability.tsv"), help="h², intercept and their errors"
        )
        correlation: File = shell.out(
            callable=made("{out}/genetic_correlation.tsv"), help="one row a pair of traits"
        )
        covariance: File = shell.out(
            callable=made("{out}/genetic_covariance.npz"), help="genetic covariances"
        )


@shell.define
class RunMetaAnalysis(shell.Task["RunMetaAnalysis.Outputs"]):
    """Effects of several studies combined by the inverse of their variances."""

    executable = ["axoloci-genetics", "meta"]

    study: list[SumstatsStore | File] = shell.arg(
        argstr="--study ...", help="summary statistics of each study, or text of one trait"
    )
    traits: str | None = shell.arg(
        argstr="--traits", default=None, help="traits to combine, such as latent_*"
    )
    model: str | None = shell.arg(argstr="--model", default=None, help="fixed or random effects")
    palindromic_frequency: float | None = shell.arg(
        argstr="--palindromic-frequency",
        default=None,
        help="largest frequency at which A/T and C/G variants are matched",
    )
    out: str = shell.arg(argstr="--out", default="meta.parquet", help="table of the combination")
    image: str = shell.arg(argstr=None, default="", help=IMAGE_HELP)

    class Outputs(shell.Outputs):
        """One row a variant."""

        table: File = shell.out(callable=made("{out}"), help="effects, errors, heterogeneity")

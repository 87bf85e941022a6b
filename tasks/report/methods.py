"""The methods section of a study as text with references, from what its outputs say was done.

Each sentence needs its fact: what is not among the facts is not claimed. References are to methods
that ran; each DOI was checked against its title.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

REFERENCES = {
    "andersson": "Andersson JLR, Sotiropoulos SN. Non-parametric representation and prediction of "
    "single- and multi-shell diffusion-weighted MRI data using Gaussian processes. NeuroImage "
    "2015;122:166–176. doi:10.1016/j.neuroimage.2015.07.067",
    "andersson-slices": "Andersson JLR, Graham MS, Zsoldos E, Sotiropoulos SN. Incorporating "
    "outlier detection and replacement into a non-parametric framework for movement and distortion "
    "correction of diffusion MR images. NeuroImage 2016;141:556–572. "
    "doi:10.1016/j.neuroimage.2016.06.058",
    "andersson-field": "Andersson JLR, Skare S, Ashburner J. How to correct susceptibility "
    "distortions in spin-echo echo-planar images: application to diffusion tensor imaging. "
    "NeuroImage 2003;20:870–888. doi:10.1016/S1053-8119(03)00336-7",
    "ruthotto": "Ruthotto L, Kugel H, Olesch J, et al. Diffeomorphic susceptibility artifact "
    "correction of diffusion-weighted magnetic resonance images. Physics in Medicine and Biology "
    "2012;57:5715–5731. doi:10.1088/0031-9155/57/18/5715",
    "veraart-noise": "Veraart J, Novikov DS, Christiaens D, Ades-Aron B, Sijbers J, Fieremans E. "
    "Denoising of diffusion MRI using random matrix theory. NeuroImage 2016;142:394–406. "
    "doi:10.1016/j.neuroimage.2016.08.016",
    "cordero": "Cordero-Grande L, Christiaens D, Hutter J, Price AN, Hajnal JV. Complex "
    "diffusion-weighted image estimation via matrix recovery under general noise models. "
    "NeuroImage 2019;200:391–404. doi:10.1016/j.neuroimage.2019.06.039",
    "gudbjartsson": "Gudbjartsson H, Patz S. The Rician distribution of noisy MRI data. Magnetic "
    "Resonance in Medicine 1995;34:910–914. doi:10.1002/mrm.1910340618",
    "kellner": "Kellner E, Dhital B, Kiselev VG, Reisert M. Gibbs-ringing artifact removal based "
    "on local subvoxel-shifts. Magnetic Resonance in Medicine 2016;76:1574–1581. "
    "doi:10.1002/mrm.26054",
    "otsu": "Otsu N. A threshold selection method from gray-level histograms. IEEE Transactions on "
    "Systems, Man, and Cybernetics 1979;9:62–66. doi:10.1109/TSMC.1979.4310076",
    "basser": "Basser PJ, Mattiello J, LeBihan D. Estimation of the effective self-diffusion "
    "tensor from the NMR spin echo. Journal of Magnetic Resonance, Series B 1994;103:247–254. "
    "doi:10.1006/jmrb.1994.1037",
    "veraart": "Veraart J, Sijbers J, Sunaert S, Leemans A, Jeurissen B. Weighted linear least "
    "squares estimation of diffusion MRI parameters: strengths, limitations, and pitfalls. "
    "NeuroImage 2013;81:335–346. doi:10.1016/j.neuroimage.2013.05.028",
    "chang-l": "Chang LC, Jones DK, Pierpaoli C. RESTORE: robust estimation of tensors by outlier "
    "rejection. Magnetic Resonance in Medicine 2005;53:1088–1095. doi:10.1002/mrm.20426",
    "dipy": "Garyfallidis E, Brett M, Amirbekian B, et al. Dipy, a library for the analysis of "
    "diffusion MRI data. Frontiers in Neuroinformatics 2014;8:8. doi:10.3389/fninf.2014.00008",
    "avants": "Avants BB, Epstein CL, Grossman M, Gee JC. Symmetric diffeomorphic image "
    "registration with cross-correlation: evaluating automated labeling of elderly and "
    "neurodegenerative brain. Medical Image Analysis 2008;12:26–41. "
    "doi:10.1016/j.media.2007.06.004",
    "patel": "Patel K, Xie Z, Yuan H, et al. Unsupervised deep representation learning enables "
    "phenotype discovery for genetic association studies of brain imaging. Communications Biology "
    "2024;7:414. doi:10.1038/s42003-024-06096-7",
    "zhao": "Zhao X, et al. Genetic architecture of white matter microstructure captured by "
    "unsupervised deep representation learning of fractional anisotropy maps. Nature "
    "Communications 2026.",
    "fang": "Fang et al. (RVGA). Nature Communications 2026. doi:10.1038/s41467-026-69816-z",
    "golub": "Golub GH, Heath M, Wahba G. Generalized cross-validation as a method for choosing a "
    "good ridge parameter. Technometrics 1979;21:215–223. doi:10.1080/00401706.1979.10489751",
    "price": "Price AL, Patterson NJ, Plenge RM, Weinblatt ME, Shadick NA, Reich D. Principal "
    "components analysis corrects for stratification in genome-wide association studies. Nature "
    "Genetics 2006;38:904–909. doi:10.1038/ng1847",
    "chang": "Chang CC, Chow CC, Tellier LCAM, Vattikuti S, Purcell SM, Lee JJ. Second-generation "
    "PLINK: rising to the challenge of larger and richer datasets. GigaScience 2015;4:7. "
    "doi:10.1186/s13742-015-0047-8",
    "loh": "Loh PR, Tucker G, Bulik-Sullivan BK, et al. Efficient Bayesian mixed-model analysis "
    "increases association power in large cohorts. Nature Genetics 2015;47:284–290. "
    "doi:10.1038/ng.3190",
    "svishcheva": "Svishcheva GR, Axenovich TI, Belonogova NM, van Duijn CM, Aulchenko YS. Rapid "
    "variance components-based method for whole-genome association analysis. Nature Genetics "
    "2012;44:1166–1170. doi:10.1038/ng.2410",
    "beasley": "Beasley TM, Erickson S, Allison DB. Rank-based inverse normal transformations are "
    "increasingly used, but are they merited? Behavior Genetics 2009;39:580–595. "
    "doi:10.1007/s10519-009-9281-0",
    "hotelling-t": "Hotelling H. The generalization of Student's ratio. Annals of Mathematical "
    "Statistics 1931;2:360–378. doi:10.1214/aoms/1177732979",
    "hotelling": "Hotelling H. Relations between two sets of variates. Biometrika "
    "1936;28:321–377. doi:10.1093/biomet/28.3-4.321",
    "devlin": "Devlin B, Roeder K. Genomic control for association studies. Biometrics "
    "1999;55:997–1004. doi:10.1111/j.0006-341X.1999.00997.x",
    "purcell": "Purcell S, Neale B, Todd-Brown K, et al. PLINK: a tool set for whole-genome "
    "association and population-based linkage analyses. American Journal of Human Genetics "
    "2007;81:559–575. doi:10.1086/519795",
    "gaunt": "Gaunt TR, Rodríguez S, Day INM. Cubic exact solutions for the estimation of pairwise "
    "haplotype frequencies: implications for linkage disequilibrium analyses and a web tool "
    "'CubeX'. BMC Bioinformatics 2007;8:428. doi:10.1186/1471-2105-8-428",
    "van-der-meer": "van der Meer D, Frei O, Kaufmann T, et al. Understanding the genetic "
    "determinants of the brain with MOSTest. Nature Communications 2020;11:3512. "
    "doi:10.1038/s41467-020-17368-1",
    "haseman": "Haseman JK, Elston RC. The investigation of linkage between a quantitative trait "
    "and a marker locus. Behavior Genetics 1972;2:3–19. doi:10.1007/BF01066731",
    "wu": "Wu Y, Sankararaman S. A scalable estimator of SNP heritability for biobank-scale data. "
    "Bioinformatics 2018;34:i187–i194. doi:10.1093/bioinformatics/bty253",
    "bulik-sullivan": "Bulik-Sullivan BK, Loh PR, Finucane HK, et al. LD Score regression "
    "distinguishes confounding from polygenicity in genome-wide association studies. Nature "
    "Genetics 2015;47:291–295. doi:10.1038/ng.3211",
    "bulik-sullivan-rg": "Bulik-Sullivan B, Finucane HK, Anttila V, et al. An atlas of genetic "
    "correlations across human diseases and traits. Nature Genetics 2015;47:1236–1241. "
    "doi:10.1038/ng.3406",
    "pydra": "Jarecka D, Goncalves M, Markiewicz CJ, et al. Pydra: a flexible and lightweight "
    "dataflow engine for scientific analyses. Proceedings of the 19th Python in Science Conference "
    "2020. doi:10.25080/Majora-342d178e-012",
}
PACKAGES = {  # whose version is told where a part ran that rests on it
    "dti": ("dipy", "DIPY"),
    "encoder": ("torch", "PyTorch"),
    "linear": ("torch", "PyTorch"),
}
OWN_SOLVER = " with a solver of axoloci"
FITS = {  # words, reference, and whose solver; as `axoloci-dti fit --method` names them
    "OLS": ("ordinary linear least squares", "", OWN_SOLVER),
    "WLS": ("weighted linear least squares", "veraart", OWN_SOLVER),
    "IWLS": ("linear least squares, weighted anew twice", "veraart", OWN_SOLVER),
    "NLLS": ("non-linear least squares", "", ""),
    "RESTORE": ("non-linear least squares without outliers (RESTORE)", "chang-l", ""),
}


@dataclass(frozen=True)
class Methods:
    """A methods section.

    Attributes
    ----------
    paragraphs
        With numbers of references in brackets.
    references
        In the order of their numbers, from 1.
    """

    paragraphs: tuple[str, ...]
    references: tuple[str, ...]

    @property
    def text(self) -> str:
        """All of it as plain text, to be copied; empty where nothing is told."""
        if not self.paragraphs:
            return ""
        listed = [f"[{number}] {entry}" for number, entry in enumerate(self.references, start=1)]
        return "\n\n".join(
            [*self.paragraphs, *(["\n".join(["References", *listed])] * bool(listed))]
        )


def methods_text(
    facts: Mapping[str, Mapping[str, Any]], versions: Mapping[str, str] | None = None
) -> Methods:
    """The methods section of a study.

    Parameters
    ----------
    facts
        By part: `scans`, `preprocess`, `dti`, `normalize`, `outside`, `cohort`, `encoder`,
        `linear`, `gwas`, `mixed_model`, `joint`, `loci`, `heritability`, `ldsc`, `signals`,
        `voxels`, as `axoloci.workflows.provenance.study_facts`, the joint test and
        `axoloci.tasks.report.genetics_inputs.genetics_facts` give them; `lambda_gc` of the joint
        test and `replication` by representation, where there are several. Lengths in mm,
        b-values in s/mm², distances along the genome in kb.
    versions
        Of packages; without them no version is told.

    Returns
    -------
    Text and references; empty where there are no facts of a part that ran.
    """
    cited: list[str] = []

    def cite(*names: str) -> str:
        """Numbers of references in the order in which they first occur."""
        for name in names:
            if name not in cited:
                cited.append(name)
        return f"[{', '.join(str(cited.index(name) + 1) for name in names)}]"

    imaging = [
        *_preprocessing(facts, cite),
        *_tensor(facts, cite),
        *_normalization(facts, cite),
        *_outside(facts),
        *_quality(facts),
    ]
    representation = _representation(facts, cite)
    genetics = [
        *_association(facts, cite),
        *_joint_test(facts, cite),
        *_loci(facts, cite),
        *_replication(facts, cite),
    ]
    later = [*_heritability(facts, cite), *_voxels(facts, cite)]
    every = (imaging, representation, genetics, later)
    parts = [" ".join(sentences) for sentences in every if sentences]
    if parts:
        parts.append(_software(facts, versions or {}, cite))
    return Methods(tuple(parts), tuple(REFERENCES[name] for name in cited))


def trait_word(facts: Mapping[str, Mapping[str, Any]]) -> str:
    """What was tested: "latent" where a representation made them, "trait" where the user gave them.

    >>> trait_word({"joint": {"traits": ["latent_000"]}}), trait_word({"gwas": {"n_traits": 3}})
    ('latent', 'trait')
    """
    names = facts.get("joint", {}).get("traits", [])
    learned = {"encoder", "linear"} & facts.keys() or any(
        name.startswith(("latent_", "component_")) for name in names
    )
    return "latent" if learned else "trait"


def _quality(facts: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """That scans were left out; how many is not said, for a shared page tells no few."""
    told = facts.get("scans", {}).get("excluded", {})
    reasons = []
    if told.get("rule"):
        reasons.append(
            "whose figures lay beyond fixed limits (motion, replaced slices, frame of the "
            "gradients, mean FA and diffusivity, similarity to the template)"
        )
    if told.get("user"):
        reasons.append("that were judged unusable by eye")
    return [f"Scans {' and those '.join(reasons)} were left out."] if reasons else []


def _preprocessing(facts: Mapping[str, Mapping[str, Any]], cite: Any) -> list[str]:
    done = facts.get("preprocess")
    if done is None:
        return []
    if done["already_preprocessed"]:
        sentences = [
            "Diffusion-weighted volumes had been corrected before and entered as they were, "
            "negative values set to 0."
        ]
    else:
        sentences = _correction(done, cite)
    made = (
        "from the b = 0 and diffusion-weighted images by median filtering and Otsu's threshold "
        f"{cite('otsu')}"
        if "made" in done["masks"]
        else ""
    )
    if made and "given" in done["masks"]:
        sentences.append(f"Brain masks, where none was given, were made {made}.")
    elif made:
        sentences.append(f"Brain masks were made {made}.")
    else:
        sentences.append("Brain masks were given.")
    return sentences


def _correction(done: Mapping[str, Any], cite: Any) -> list[str]:
    """What was done to raw volumes, in its order."""
    steps = done["steps"]  # name to "all" or "some" scans
    sentences = []
    if "denoising" in steps:
        of = " of scans of 30 volumes or more" if steps["denoising"] == "some" else ""
        sentences.append(
            f"Thermal noise{of} was removed by MP-PCA {cite('veraart-noise', 'cordero')}, and the "
            f"bias of its magnitude {cite('gudbjartsson')}."
        )
    if "unringing" in steps:
        sentences.append(f"Gibbs ringing was removed by local sub-voxel shifts {cite('kellner')}.")
    if "motion" in steps:
        sentences.append(
            "Head motion was corrected by one rigid transform a volume: each volume was registered "
            "to what the other volumes of its shell predict by a Gaussian process over the sphere "
            f"{cite('andersson')}, and the gradient directions were rotated accordingly."
        )
    if done["slices_replaced"]:
        sentences.append(
            "Slices whose signal fell below such a prediction were replaced by it "
            f"{cite('andersson-slices')}."
        )
    if done["eddy_corrected"]:
        sentences.append(
            "Scale and shears by eddy currents along one axis, linear in the diffusion gradient, "
            "were corrected where the gradients explained them."
        )
    if "susceptibility distortion" in steps:
        where = (
            ", where there was one of reverse phase encoding; that of other scans was not"
            if steps["susceptibility distortion"] == "some"
            else ""
        )
        sentences.append(
            "Susceptibility distortion was corrected by the field that makes b = 0 images of "
            f"opposite phase encoding alike {cite('andersson-field', 'ruthotto')}{where}."
        )
    else:
        sentences.append("Susceptibility distortion was not corrected.")
    return sentences


def _tensor(facts: Mapping[str, Mapping[str, Any]], cite: Any) -> list[str]:
    done = facts.get("dti")
    if done is None:
        return []
    tensor = cite("basser")  # first, for it is named first
    method, source, solver = FITS[done["method"]]
    told = f"{method} {cite(source)}" if source else method
    sentences = [
        f"The diffusion tensor {tensor} was fitted by {told} through DIPY's tensor model "
        f"{cite('dipy')}{solver} to volumes with b ≤ {done['max_bval']:g} s/mm², and fractional "
        "anisotropy (FA) was computed from it."
    ]
    if done.get("higher_shells"):
        sentences.append(
            "Where these shells did not determine a tensor, the next higher one was added."
        )
    return sentences


def _normalization(facts: Mapping[str, Mapping[str, Any]], cite: Any) -> list[str]:
    done = facts.get("normalize")
    if done is None:
        return []
    cohort = facts.get("cohort", {})
    size = cohort.get("voxel_size") or [done["voxel_size"]] * bool(done.get("voxel_size"))
    voxels = f" with voxels of {_size(size)} mm" if size else ""
    sentences = [
        f"FA maps were brought to a template{voxels} by an affine transform, then by symmetric "
        f"diffeomorphic registration (SyN) with cross-correlation {cite('avants')}, and "
        "interpolated once."
    ]
    if cohort:
        sentences.append(f"The cohort has FA maps of {cohort['people']:,} people, one scan each.")
    return sentences


def _outside(facts: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Steps of other packages: what they say of themselves."""
    sentences = []
    for name, step in facts.get("outside", {}).items():
        source = f", doi:{step['reference']}" if step["reference"] else ""
        sentences.append(
            f"Each scan was also given to the step {name} {step['version']}, which is not part of "
            f"axoloci ({step['summary']}{source})."
        )
    return sentences


def _representation(facts: Mapping[str, Mapping[str, Any]], cite: Any) -> list[str]:
    sentences = _autoencoder(facts.get("encoder"), cite)
    return [*sentences, *_linear(facts.get("linear"), cite, " as well" * bool(sentences))]


def _linear(done: Mapping[str, Any] | None, cite: Any, also: str) -> list[str]:
    """The linear representation, from the settings and the training of its model."""
    if done is None:
        return []
    if atlas := done.get("atlas"):
        return [f"FA was described linearly{also}, by its mean in each label of the atlas {atlas}."]
    source = cite("fang")  # first, for it is named first
    width = done["bandwidth_mm"]
    by = f", chosen by generalised cross-validation {cite('golub')}" * (done["bandwidth"] is None)
    smoothed = (
        f"smoothed by local-linear regression with a Gaussian kernel of {width:.3g} mm (standard "
        f"deviation{by})"
        if width
        else "taken without smoothing"
    )
    people = f" of {done['n_train']:,} people" if done.get("n_train") else ""
    return [
        f"A linear representation after RVGA {source} was learned without labels{also}: FA "
        f"maps{people} were {smoothed}, and the principal components that keep "
        f"{100 * done['variance_kept']:.1f}% of their variance (effective rank "
        f"{done['effective_rank']:.1f}) are its latents."
    ]


def _autoencoder(done: Mapping[str, Any] | None, cite: Any) -> list[str]:
    """The autoencoder, from the settings and the training of its model."""
    if done is None:
        return []
    people = (
        f" on {done['n_train']:,} people, with {done['n_validation']:,} held out,"
        if done.get("n_train") and done.get("n_validation")
        else ""
    )
    levels = "–".join(str(n) for n in done["channels"])
    sentences = [
        "Latent phenotypes were learned without labels by a three-dimensional convolutional "
        f"autoencoder (channels {levels}) after UDIP-FA {cite('zhao', 'patel')}: FA maps, z-scored "
        f"within the mask, were encoded by {done['n_latents']:,} "
        f"{'latent' if done['n_latents'] == 1 else 'latents'}.",
        f"It was trained{people} for {done['epochs_trained']:,} "
        f"{'epoch' if done['epochs_trained'] == 1 else 'epochs'} with Adam (first step size "
        f"{done['learning_rate']:g}, {done['batch_size']:,} people a step, seed {done['seed']}).",
    ]
    if done.get("mean_pool") is False:  # as --udip-fa has it
        sentences.append(
            "As published, grids were halved by the maximum, batch normalization followed each "
            "batch, and the first weights were random."
        )
    if done.get("precision") == "bfloat16":
        sentences.append("Products were computed in bfloat16.")
    if done.get("pca_share"):
        sentences.append(
            f"{done['pca_share']:.0%} of the latents started as principal components of the maps."
        )
    if done.get("keep_best"):
        sentences.append(
            f"The weights after epoch {done['weights_of_epoch']}, with the lowest loss of the "
            "people held out, were kept."
        )
    return sentences


def _association(facts: Mapping[str, Mapping[str, Any]], cite: Any) -> list[str]:
    done = facts.get("gwas")
    if done is None:
        return []
    adjusted = [*done["covariates"], *(f"{name} (categorical)" for name in done["categorical"])]
    if done["n_pcs"]:
        plural = "component" if done["n_pcs"] == 1 else "components"
        adjusted.append(f"{done['n_pcs']} genotype principal {plural}")
    for_what = f"adjusted for {_list(adjusted)}" if adjusted else "without covariates"
    if done.get("model"):
        for_what = f"adjusted for the terms {done['model']}"
    word = trait_word(facts)
    mixed = facts.get("mixed_model")
    by = "linear regression" if mixed is None else "linear regression of a mixed model's residuals"
    sentences = [
        *_transformed(done, word, cite),
        f"Each of {done['n_traits']:,} {word}{'' if done['n_traits'] == 1 else 's'} was "
        f"tested for additive association with {done['n_tested']:,} variants in "
        f"{done['people']:,} people by {by}, the model of plink2 {cite('chang')}, "
        f"{for_what}; people without a genotype were left out of that variant"
        + ("" if word == "latent" else ", and those without a trait out of that trait")
        + ".",
        *_left_out_variants(done),
    ]
    if mixed is not None:
        sentences.append(
            "Relatives and ancestry were accounted for by a linear mixed model: for each "
            f"chromosome, what {mixed['n_variants']:,} variants of the other autosomes predict was "
            f"taken off, with shares of variance by restricted maximum likelihood {cite('loh')} "
            "and the mean variance of random variants in place of that of each "
            f"{cite('svishcheva')}."
        )
    if done["n_pcs"]:
        sentences.append(
            "Principal components were those of common, independent autosomal variants "
            f"{cite('price')}."
        )
    return sentences


def _transformed(done: Mapping[str, Any], word: str, cite: Any) -> list[str]:
    """What was done to the traits before."""
    sentences = []
    if done.get("winsorize"):
        sentences.append(
            f"Values of a {word} farther than {done['winsorize']:g} standard deviations from its "
            "mean were drawn in to that distance."
        )
    if done.get("rank_normal"):
        of_what = "its values" if done["rank_normal"] == "values" else "what covariates left of it"
        sentences.append(
            f"Each {word} was replaced by the normal scores of the ranks of {of_what} "
            f"{cite('beasley')}."
        )
    return sentences


def _left_out_variants(done: Mapping[str, Any]) -> list[str]:
    """By what limits variants were left out, and whether others were never asked for."""
    limits = [
        text.format(done[key])
        for key, text, nothing in (
            ("min_maf", "a minor allele frequency below {:g}", 0),
            ("min_mac", "fewer than {:g} minor alleles", 0),
            ("max_missing", "a share of people without a genotype above {:g}", 1),
            ("min_hwe_p", "p of Hardy-Weinberg equilibrium below {:g}", 0),
            ("min_info", "a quality of imputation below {:g}", 0),
        )
        if done.get(key, nothing) != nothing
    ]
    sentences = []
    if done.get("chosen"):
        sentences.append("Only variants of chosen regions or lists were tested.")
    if limits:
        sentences.append(f"Variants with {_list(limits, 'or')} were left out.")
    return sentences


def _joint_test(facts: Mapping[str, Mapping[str, Any]], cite: Any) -> list[str]:
    done = facts.get("joint")
    if done is None:
        return []
    count = f" of {done['n_tested']:,} variants" if done.get("n_tested") else ""
    word = trait_word(facts)
    if done.get("mixed_model"):
        test = (
            f"Hotelling's T²{count} {cite('hotelling-t')}, with the correlation of the {word}s' "
            "statistics among the relatives analysed"
        )
    else:
        test = f"the exact F test of the canonical R²{count} {cite('hotelling')}"
    inflation = done.get("lambda_gc")
    several = isinstance(inflation, Mapping)
    which = f"The {word}s of each representation" if several else f"All {word}s"
    sentences = [
        f"{which} were tested jointly by {test}, which does not change when the {word}s are "
        "remixed."
    ]
    if word == "trait":  # latents are never missing
        sentences.append(
            "Where people lack some traits, the correlation of two traits was that of the people "
            "who have both, the degrees of freedom were those of the trait with the fewest people, "
            "and variants for which traits or genotypes of too many people are missing were not "
            "tested jointly."
        )
    if "mostest" in done.get("also", {}):
        sentences.append(
            f"They were also tested by MOSTest {cite('van-der-meer')}, with a gamma distribution "
            "fitted to the statistics of permuted genotypes as null."
        )
    if "minp" in done.get("also", {}):
        sentences.append(
            f"The smallest p over {word}s was tested too, with a beta distribution fitted to that "
            "of permuted genotypes as null."
        )
    if inflation is not None:
        by_name = inflation if several else {"": inflation}
        told = _list(
            [
                f"λ = {value:.3f}{f' ({name})' if name else ''}"
                for name, value in by_name.items()
                if value is not None
            ]
        )
        sentences.append(
            f"Genomic inflation of the joint test was {told} "
            f"{cite('devlin')}; test statistics were not corrected by it."
        )
    return sentences


def _loci(facts: Mapping[str, Mapping[str, Any]], cite: Any) -> list[str]:
    done = facts.get("loci")
    if done is None:
        return []
    people = "the people of a reference panel" if done.get("reference") else "the people analysed"
    return [
        f"Lead variants (p ≤ {power(done['p_threshold'])}) were found by clumping as in PLINK "
        f"{cite('purcell')} (r² > {done['clump_r2']:g} within {done['clump_kb']:g} kb, "
        f"p < {power(done['secondary_p'])} of the variants that belong to a lead), with r² of "
        f"haplotype frequencies at maximum likelihood {cite('gaunt')} in {people}; "
        f"clumps at most {done['merge_kb']:g} kb apart were joined to loci.",
        *[
            "At each locus its leads were added as covariates one after the other, and the joint "
            "test repeated, until no variant was left below that p."
        ]
        * ("signals" in facts),
    ]


def _replication(facts: Mapping[str, Mapping[str, Any]], cite: Any) -> list[str]:
    done = facts.get("replication")
    if done is None:
        return []
    word = trait_word(facts)
    by_name = {"": done} if "n_samples" in done else done  # or one of each representation
    done = next(iter(by_name.values()))
    told = _list(
        [
            f"{one['n_replicated']:,} of {one['n_tested']:,} replicated{f' ({name})' * bool(name)}"
            for name, one in by_name.items()
        ]
    )
    return [
        f"Each lead variant was tested in {done['n_samples']:,} other people by the combination of "
        f"{word}s that it changed in the discovery (the regression of the genotype on the {word}s "
        "there), one-sided in the direction of the discovery, at a family-wise error rate of 0.05 "
        f"(Bonferroni): {told}."
    ]


def _heritability(facts: Mapping[str, Mapping[str, Any]], cite: Any) -> list[str]:
    """SNP heritability and genetic correlation, by either estimator."""
    word = trait_word(facts)
    sentences = []
    done = facts.get("heritability")
    if done is not None:
        pairs = f" and genetic correlations of all pairs of {word}s" * bool(done["pairs"])
        probes = f" {done['n_probes']:,}" if done.get("n_probes") else ""
        blocks = f" over {done['n_blocks']:,} blocks of variants" if done.get("n_blocks") else ""
        sentences.append(
            f"SNP heritabilities{pairs} were estimated by Haseman–Elston regression "
            f"{cite('haseman')} from moments: the associations give the products of {word}s and "
            f"relationships, and{probes} random probes {cite('wu')} in the same reading of the "
            "genotypes the trace of the squared relationships. Standard errors are those of a "
            f"block jackknife{blocks}."
        )
    done = facts.get("ldsc")
    if done is not None:
        also = " also" * ("heritability" in facts)
        told = (
            f"SNP heritabilities were{also} estimated from summary statistics alone by LD score "
            f"regression with an intercept {cite('bulik-sullivan')}"
        )
        if done["pairs"]:
            told += (
                f", and genetic correlations by its cross-trait form {cite('bulik-sullivan-rg')}, "
                "whose intercept takes people that two studies share"
            )
        sentences.append(f"{told}.")
    return sentences


def _voxels(facts: Mapping[str, Mapping[str, Any]], cite: Any) -> list[str]:
    """Maps of voxels out of the statistics of the few traits."""
    done = facts.get("voxels")
    if done is None:
        return []
    what = [
        name
        for name, there in (
            ("effects of lead variants on each voxel", done["effects"]),
            ("the SNP heritability of each voxel", done["h2"]),
        )
        if there
    ]
    linear = "a linear representation's basis"
    if done.get("linearised"):
        linear += ", or the mean derivative of the autoencoder's decoder at some people's latents,"
    told, were = _list(what), "were" if done["effects"] else "was"
    return [
        f"{told[0].upper()}{told[1:]} {were} computed for the maps that the latents make, from "
        f"those of the latents and {linear} as in RVGA {cite('fang')}{_exactness(done)}."
    ]


def _exactness(done: Mapping[str, Any]) -> str:
    """Of how many maps of variants the standard errors are exact, as the end of a sentence."""
    n_maps, n_exact = done.get("n_maps", 0), done.get("n_exact", 0)
    why = f": {'; '.join(done['because'])}" if done.get("because") else ""
    if not done["effects"] or not n_maps:
        return ""
    if n_exact == n_maps:
        return ", with exact standard errors in place of its approximation"
    if not n_exact:
        return f"; standard errors are approximate{why}"
    return (
        f", with exact standard errors in place of its approximation for {n_exact:,} of {n_maps:,} "
        f"maps; those of the others are approximate{why}"
    )


def _software(
    facts: Mapping[str, Mapping[str, Any]], versions: Mapping[str, str], cite: Any
) -> str:
    named = [f"axoloci{_of(versions, 'axoloci')}"]
    named += dict.fromkeys(
        f"{label}{_of(versions, package)}"
        for part, (package, label) in PACKAGES.items()
        if part in facts and package in versions
    )
    run = ""
    if "pydra" in versions:
        run = f"; the workflow was run by Pydra {versions['pydra']} {cite('pydra')}"
    return f"Software: {_list(named)}{run}."


def _of(versions: Mapping[str, str], package: str) -> str:
    return f" {versions[package]}" if package in versions else ""


def _size(voxel: Sequence[float]) -> str:
    """One number where the voxel is a cube, three where it is not."""
    shown = [f"{length:g}" for length in voxel]
    return shown[0] if len(set(shown)) == 1 else " × ".join(shown)


def _list(items: Sequence[str], word: str = "and") -> str:
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} {word} {items[-1]}"


def power(p: float) -> str:
    """A p-value as people write it.

    >>> power(5e-8), power(0.00042839), power(0.01)
    ('5 × 10⁻⁸', '4.28 × 10⁻⁴', '0.01')
    """
    if p >= 1e-3:
        return f"{p:g}"
    number, power = f"{p:.2e}".split("e")
    raised = str(int(power)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"{float(number):g} × 10{raised}"

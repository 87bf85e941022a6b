"""The methods section follows the facts and claims nothing else."""

from __future__ import annotations

import copy
import re
from typing import Any

import pytest

from axoloci.tasks.report.methods import REFERENCES, methods_text, power

FACTS: dict[str, Any] = {
    "scans": {"finished": 29, "people": 29},
    "preprocess": {
        **{"already_preprocessed": False, "masks": ["made"]},
        "steps": dict.fromkeys(
            (
                *("denoising", "unringing", "lost slices replaced", "motion", "eddy currents"),
                "susceptibility distortion",
            ),
            "all",
        ),
        **{"slices_replaced": True, "eddy_corrected": True},
    },
    "dti": {"method": "WLS", "max_bval": 1500.0, "higher_shells": False},
    "normalize": {"voxel_size": None},
    "outside": {"lesions": {"version": "2.1", "summary": "Lesion load", "reference": "10.1/x"}},
    "cohort": {"people": 29, "voxel_size": [2.0, 2.0, 2.0]},
    "encoder": {
        **{"n_latents": 8, "channels": [8, 16], "epochs": 20, "learning_rate": 5e-4},
        **{"batch_size": 10, "seed": 3, "pca_share": 0.75, "keep_best": True},
        **{"n_train": 26, "n_validation": 3, "epochs_trained": 16, "weights_of_epoch": 6},
    },
    "gwas": {
        **{"people": 28, "n_traits": 8, "n_variants": 20000, "n_tested": 19500, "n_pcs": 10},
        **{"covariates": ["age", "sex"], "categorical": ["site"]},
    },
    "joint": {"n_tested": 19000, "lambda_gc": 1.0134},
    "loci": {
        **{"p_threshold": 5e-8, "secondary_p": 0.01, "clump_r2": 0.1},
        **{"clump_kb": 250.0, "merge_kb": 250.0},
    },
}
OF_RELATIVES = FACTS | {
    "gwas": FACTS["gwas"]
    | {"model": "age + sex*age + PC1:PC10", "winsorize": 4.0, "rank_normal": "residuals"}
    | {"chosen": ["extract"], "min_maf": 0.01, "min_mac": 0.0, "max_missing": 0.05},
    "mixed_model": {"n_variants": 300000, "h2": [0.2] * 8},
    "joint": FACTS["joint"] | {"mixed_model": True},
}
OF_BOTH = FACTS | {
    "linear": {
        **{"n_latents": 8, "bandwidth": None, "bandwidth_mm": 3.21, "variance_kept": 0.7512},
        **{"effective_rank": 12.34, "n_train": 26, "n_validation": 3},
    },
    "joint": FACTS["joint"] | {"lambda_gc": {"autoencoder": 1.0134, "linear": 0.9912}},
}
NOTHING_FOUND = {"slices_replaced": False, "eddy_corrected": False}
OF_TRACTS = FACTS | {"linear": {"n_latents": 0, "bandwidth": None, "atlas": "tracts.nii.gz"}}
OF_GENETICS = {name: FACTS[name] for name in ("encoder", "gwas", "loci")} | {
    "joint": FACTS["joint"] | {"also": {"mostest": {}, "minp": {}}},
    "signals": {},
    "heritability": {"pairs": True, "n_probes": 10, "n_blocks": 200},
    "ldsc": {"pairs": True},
    "voxels": {
        **{"effects": True, "h2": True, "linearised": True},
        **{"n_maps": 3, "n_exact": 3, "because": []},
    },
}
OTHERWISE = FACTS | {"dti": FACTS["dti"] | {"method": "RESTORE"}}
VERSIONS = {"axoloci": "0.1.0", "dipy": "1.12.1", "torch": "2.13.0", "pydra": "1.0a12"}
CLAIMS = {  # words that only the part of this name may bring
    "preprocess": (
        *("motion", "eddy", "Brain masks", "Gaussian process", "noise", "ringing"),
        *("Slices", "Susceptibility"),
    ),
    "dti": ("diffusion tensor", "b ≤", "DIPY"),
    "normalize": ("template", "SyN"),
    "outside": ("not part of axoloci", "lesions"),
    "encoder": ("autoencoder", "UDIP-FA", "epochs", "PyTorch"),
    "gwas": ("linear regression", "plink2", "genotype principal", "adjusted"),
    "joint": ("F test", "λ"),
    "loci": ("clump", "Lead variants"),
}


def told(versions: dict[str, str] = VERSIONS, /, **changes: dict[str, Any]) -> str:
    facts = copy.deepcopy(FACTS)
    for part, values in changes.items():
        facts[part] |= values
    return methods_text(facts, versions).text


def test_methods_text__tells_the_settings_that_were_used() -> None:
    text = told()
    for words in (
        "Thermal noise was removed by MP-PCA [1, 2], and the bias of its magnitude [3]. Gibbs",
        "Slices whose signal fell below such a prediction were replaced by it",
        "b = 0 images of opposite phase encoding alike",
        "weighted linear least squares",
        "with a solver of axoloci",
        "b ≤ 1500 s/mm²",
        "voxels of 2 mm",
        "the step lesions 2.1, which is not part of axoloci (Lesion load, doi:10.1/x)",
        "FA maps of 29 people",
        "on 26 people, with 3 held out, for 16 epochs",
        "The weights after epoch 6, with the lowest loss",
        "8 latents",
        "19,500 variants in 28 people",
        "adjusted for age, sex, site (categorical) and 10 genotype principal components",
        "19,000 variants",
        "λ = 1.013",
        "p ≤ 5 × 10⁻⁸",
        "axoloci 0.1.0, DIPY 1.12.1 and PyTorch 2.13.0",
        "Pydra 1.0a12",
    ):
        assert words in text


@pytest.mark.parametrize(
    ("changes", "there", "gone"),
    [
        ({"cohort": {"voxel_size": [1.0, 1.0, 1.5]}}, "voxels of 1 × 1 × 1.5 mm", "of 2 mm"),
        ({"gwas": {"n_pcs": 0}}, "age, sex and site (categorical);", "principal components were"),
        ({"gwas": {"n_pcs": 1}}, "1 genotype principal component;", "components;"),
        ({"gwas": {"categorical": []}}, "adjusted for age, sex and 10 genotype", "categorical"),
        (
            {"gwas": {"categorical": ["site", "scanner"], "covariates": []}},
            "for site (categorical), scanner (categorical) and 10",
            "for age",
        ),
        ({"gwas": {"covariates": [], "categorical": [], "n_pcs": 0}}, "without cov", "adjusted"),
        (
            {"preprocess": {"already_preprocessed": True}},
            "corrected before and entered as they were",
            "rigid transform",
        ),
        ({"preprocess": {"already_preprocessed": True}}, "masks were made", "eddy currents"),
        ({"preprocess": {"already_preprocessed": True}}, "masks were made", "usceptibility"),
        ({"preprocess": {"eddy_corrected": False}}, "rigid transform", "eddy currents"),
        ({"preprocess": {"slices_replaced": False}}, "rigid transform", "Slices"),
        (
            {"preprocess": {"steps": {"unringing": "all"}, **NOTHING_FOUND}},
            "Susceptibility distortion was not corrected.",
            "otion",
        ),
        (
            {"preprocess": {"steps": {"motion": "all"}, **NOTHING_FOUND}},
            "rigid transform",
            "noise",
        ),
        (
            {"preprocess": {"steps": {"denoising": "some"}, **NOTHING_FOUND}},
            "noise of scans of 30 volumes or more was removed",
            "inging",
        ),
        (
            {"preprocess": {"steps": {"susceptibility distortion": "some"}, **NOTHING_FOUND}},
            "where there was one of reverse phase encoding; that of other scans was not.",
            "not corrected.",
        ),
        ({"preprocess": {"masks": ["given"]}}, "Brain masks were given", "Otsu"),
        ({"preprocess": {"masks": ["given", "made"]}}, "where none was given", "were given"),
        ({"dti": {"method": "OLS"}}, "ordinary linear least squares", "parameters: strengths"),
        ({"dti": {"method": "IWLS"}}, "weighted anew twice", "ordinary"),
        ({"dti": {"method": "NLLS"}}, "by non-linear least squares through", "solver"),
        ({"dti": {"method": "RESTORE"}}, "without outliers (RESTORE) [", "solver"),
        ({"dti": {"max_bval": 1200.0, "higher_shells": True}}, "next higher one", "1500"),
        ({"encoder": {"pca_share": 0.0, "keep_best": False}}, "Adam", "were kept"),
        (
            {"encoder": {"mean_pool": False, "pca_share": 0.0}},
            "As published, grids were halved by the maximum",
            "started as",
        ),
        ({"encoder": {"precision": "bfloat16"}}, "computed in bfloat16.", "As published"),
        ({"joint": {"lambda_gc": None}}, "F test", "Genomic control"),
        ({"loci": {"p_threshold": 0.002}}, "p ≤ 0.002)", "5 × 10"),
    ],
)
def test_methods_text__follows_the_settings(
    changes: dict[str, dict[str, Any]], there: str, gone: str
) -> None:
    text = told(**changes)
    assert there in text
    assert gone not in text


def test_methods_text__tells_an_atlas_from_components() -> None:
    text = methods_text(OF_TRACTS, VERSIONS).text
    assert "linearly as well, by its mean in each label of the atlas tracts.nii.gz." in text
    assert "principal components that keep" not in text


@pytest.mark.parametrize("part", CLAIMS)
def test_methods_text__claims_no_part_that_did_not_run(part: str) -> None:
    facts = {name: values for name, values in FACTS.items() if name != part}
    text = methods_text(facts, VERSIONS).text
    others = methods_text(FACTS, VERSIONS).text
    body = text.split("References")[0]
    for words in CLAIMS[part]:
        assert words in others
        assert words not in body, words


@pytest.mark.parametrize("parts", [{}, {"scans": {"finished": 0, "people": 0}}])
def test_methods_text__is_empty_where_nothing_ran(parts: dict[str, Any]) -> None:
    assert methods_text(parts, VERSIONS).text == ""


def test_methods_text__numbers_each_reference_once_and_in_order() -> None:
    cited = set()
    for facts in (FACTS, OF_RELATIVES, OTHERWISE, OF_BOTH, OF_GENETICS):
        section = methods_text(facts, VERSIONS)
        body = " ".join(section.paragraphs)
        numbers = [int(n) for group in re.findall(r"\[([\d, ]+)\]", body) for n in group.split(",")]
        first = list(dict.fromkeys(numbers))
        assert first == list(range(1, len(section.references) + 1))
        cited |= set(section.references)
    assert cited == set(REFERENCES.values())  # all of them are of use


def test_methods_text__references_only_what_is_cited() -> None:
    only = methods_text({"dti": FACTS["dti"]}, {"axoloci": "0.1.0"})
    assert [entry.split()[0] for entry in only.references] == ["Basser", "Veraart", "Garyfallidis"]


def test_references__have_dois_but_for_those_that_are_not_known() -> None:
    lacking = [name for name, entry in REFERENCES.items() if "doi:10." not in entry]
    assert lacking == ["zhao"]
    dois = [re.search(r"doi:(\S+)", entry) for entry in REFERENCES.values()]
    assert all(not doi[1].endswith(".") for doi in dois if doi)


def test_methods_text__tells_no_version_that_it_was_not_given() -> None:
    assert "Software: axoloci." in methods_text({"dti": FACTS["dti"]}).text


def test_methods_text__tells_of_relatives_and_of_what_was_chosen() -> None:
    text = methods_text(OF_RELATIVES, VERSIONS).text
    for words in (
        "by linear regression of a mixed model's residuals",
        "adjusted for the terms age + sex*age + PC1:PC10; people without",
        "what 300,000 variants of the other autosomes predict",
        "farther than 4 standard deviations",
        "normal scores of the ranks of what covariates left of it",
        "Only variants of chosen regions or lists were tested.",
        "Variants with a minor allele frequency below 0.01 or a share of people without a genotype "
        "above 0.05 were left out.",
        "tested jointly by Hotelling's T² of 19,000 variants",
    ):
        assert words in text
        assert words not in told()
    assert "the exact F test" not in text
    assert "minor alleles" not in text


def test_methods_text__tells_of_each_representation() -> None:
    text = methods_text(OF_BOTH, VERSIONS).text
    for words in (
        "after RVGA [",
        "was learned without labels as well: FA maps of 26 people were smoothed by local-linear",
        "a Gaussian kernel of 3.21 mm (standard deviation, chosen by generalised cross-validation",
        "keep 75.1% of their variance (effective rank 12.3)",
        "The latents of each representation were tested jointly by",
        "was λ = 1.013 (autoencoder) and λ = 0.991 (linear)",
    ):
        assert words in text
        assert words not in told()
    assert text.count("PyTorch") == 1
    fixed = OF_BOTH["linear"] | {"bandwidth": 0.0, "bandwidth_mm": 0.0}
    text = methods_text({"linear": fixed}, VERSIONS).text
    assert "learned without labels: FA maps of 26 people were taken without smoothing" in text
    assert "PyTorch 2.13.0" in text


def test_methods_text__tells_how_missing_traits_were_treated() -> None:
    facts = {name: FACTS[name] for name in ("gwas", "joint", "loci")}
    text = methods_text(facts).text
    assert "and those without a trait out of that trait." in text
    assert "the correlation of two traits was that of the people who have both" in text
    assert "latent" not in text
    assert "have both" not in told()  # latents are never missing


def test_methods_text__tells_the_replication() -> None:
    done = {"n_samples": 1234, "n_tested": 6, "n_replicated": 3}
    text = methods_text({"replication": done}).text
    assert "tested in 1,234 other people" in text
    assert "(Bonferroni): 3 of 6 replicated." in text
    of_both = {"autoencoder": done, "linear": done | {"n_replicated": 4}}
    text = methods_text({"replication": of_both}).text
    assert "3 of 6 replicated (autoencoder) and 4 of 6 replicated (linear)." in text
    assert "replicated" not in methods_text({"loci": FACTS["loci"]}).text


def test_methods_text__says_by_what_scans_were_left_out() -> None:
    def told(**excluded: int) -> str:
        return methods_text({**FACTS, "scans": {"excluded": excluded}}).text

    assert "left out." not in told(rule=0, user=0)
    assert "Scans whose figures lay beyond fixed limits (motion," in told(rule=3, user=0)
    assert "template) and those that were judged unusable by eye were left out." in told(
        rule=3, user=1
    )
    assert not re.search(r"\b[31] scans", told(rule=3, user=1))


@pytest.mark.parametrize(
    ("part", "changes", "there", "gone"),
    [
        ("heritability", None, "by LD score regression", "Haseman"),
        ("heritability", {"pairs": False}, "SNP heritabilities were estimated by", "all pairs"),
        ("heritability", {"n_probes": None}, "and random probes", "10 random"),
        ("ldsc", None, "Haseman–Elston regression [", "LD score regression"),
        ("ldsc", {"pairs": False}, "LD score regression with an intercept [", "cross-trait"),
        ("signals", None, "were joined to loci", "added as covariates"),
        ("joint", {"also": {"minp": {}}}, "The smallest p over latents", "MOSTest"),
        ("joint", {"also": {}}, "exact F test", "permuted"),
        ("voxels", None, "Haseman", "voxel"),
        ("voxels", {"h2": False}, "Effects of lead variants on each voxel were", "ity of each"),
        ("voxels", {"effects": False}, "The SNP heritability of each voxel was", "exact standard"),
        ("voxels", {"linearised": False}, "a linear representation's basis", "mean derivative"),
        ("voxels", {"n_exact": 0, "because": ["a mixed model"]},
         "; standard errors are approximate: a mixed model.", "exact standard errors"),
        ("voxels", {"n_exact": 1, "because": ["a", "b"]},
         "errors in place of its approximation for 1 of 3 maps; those of the others are "
         "approximate: a; b.", "its approximation."),
        ("loci", {"reference": "panel.bed"}, "in the people of a reference panel",
         "in the people analysed"),
        ("loci", {"secondary_p": 0.001}, "p < 0.001 of the variants that belong", "p < 0.01 of"),
    ],
)  # fmt: skip
def test_methods_text__tells_the_genetics_that_was_done(
    part: str, changes: dict[str, Any] | None, there: str, gone: str
) -> None:
    every = methods_text(OF_GENETICS).text
    facts = {name: own for name, own in OF_GENETICS.items() if name != part}
    if changes is not None:
        facts[part] = OF_GENETICS[part] | changes
    text = methods_text(facts).text
    assert gone in every
    assert gone not in text
    assert there in text


def test_power__of_any_p() -> None:
    for p, said in (
        (5e-8, "5 × 10⁻⁸"),
        (4.28e-4, "4.28 × 10⁻⁴"),
        (1e-300, "1 × 10⁻³⁰⁰"),
        (0.05, "0.05"),
    ):
        assert power(p) == said

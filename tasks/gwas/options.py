"""The options that commands share: what is analysed, of whom, and adjusted for what."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from functools import wraps
from pathlib import Path
from typing import Any

import click

from axoloci.tasks.gwas.inputs import AnalysisInputs

GENOTYPES_HELP = (
    "PLINK 1 (.bed, .bim, .fam), PLINK 2 (.pgen, .pvar, .psam) or BGEN 1.2 (.bgen, .sample): path "
    "of the .bed, .pgen or .bgen, or the name before it. One file a chromosome is named by a "
    "pattern: ukb_chr{chromosome}.bgen is ukb_chr1.bgen to ukb_chrX.bgen, as far as they are there."
)
FILE = click.Path(exists=True, dir_okay=False, path_type=Path)

OPTIONS = (
    click.option(
        "--genotypes",
        required=True,
        type=click.Path(path_type=Path),
        help=GENOTYPES_HELP,
    ),
    click.option(
        "--traits",
        required=True,
        multiple=True,
        type=FILE,
        help="Table of traits: a column a trait, one row a person, separated by tabs, commas or "
        "blanks; missing values are NA. Or the encoder's latents (Parquet). Several times for "
        "several tables: the people are those in all of them. In all tables people "
        "are named by IID; where the genotypes have several of one IID, by FID and IID.",
    ),
    click.option(
        "--trait",
        multiple=True,
        help="Trait to use; several times for several. Without it all columns of all tables.",
    ),
    click.option(
        "--covariates",
        multiple=True,
        type=FILE,
        help="Table of covariates, as that of the traits; columns of words are categories. Several "
        "times for several tables. An intercept is always added.",
    ),
    click.option(
        "--covariate",
        multiple=True,
        help="Column to use; several times for several. Without it all columns of all tables.",
    ),
    click.option(
        "--model",
        "formula",
        default=None,
        help="Covariates as a formula, such as 'age + age**2 + sex*age + C(site) + PC1:PC10': a*b "
        "is both and their product, C(a) takes numbers as categories, PC1:PC10 are ten columns. In "
        "place of --covariate.",
    ),
    click.option(
        "--categorical",
        multiple=True,
        help="Numeric column that holds categories (site codes, say); several times for several. "
        "The most frequent level is the reference.",
    ),
    click.option(
        "--keep",
        type=FILE,
        default=None,
        help="Table or PLINK list of the people to use; without it all who are in all tables.",
    ),
    click.option(
        "--remove", type=FILE, default=None, help="Table or PLINK list of people to leave out."
    ),
    click.option(
        "--region",
        multiple=True,
        help="Use only the variants of a chromosome (7) or of positions of it, both included "
        "(7:100000-250000); several times for several.",
    ),
    click.option(
        "--extract",
        type=FILE,
        default=None,
        help="Use only the variants of a list: one id a line, or a table with a column ID.",
    ),
    click.option("--exclude", type=FILE, default=None, help="List of variants to leave out."),
    click.option(
        "--min-maf",
        type=click.FloatRange(0, 0.5),
        default=0.0,
        help="Leave out variants whose minor allele is rarer, as a share of all alleles.",
    ),
    click.option(
        "--min-mac",
        type=click.FloatRange(min=0),
        default=0.0,
        help="Leave out variants with fewer minor alleles. With fewer than about 20 the p-values "
        "of traits that are not normally distributed can be far off.",
    ),
    click.option(
        "--max-missing",
        type=click.FloatRange(0, 1),
        default=1.0,
        help="Leave out variants that a larger share of people has no genotype of.",
    ),
    click.option(
        "--min-hwe-p",
        type=click.FloatRange(0, 1),
        default=0.0,
        help="Leave out variants with a smaller p in the exact test of Hardy-Weinberg equilibrium, "
        "as genotyping errors have, such as 1e-15. Not tested on X, Y and mitochondria. In a "
        "cohort of several ancestries true variants fail it too.",
    ),
    click.option(
        "--min-info",
        type=click.FloatRange(min=0),
        default=0.0,
        help="Leave out imputed variants of a lower quality, such as 0.3: the variance of the "
        "dosages over that of genotypes in equilibrium (MaCH's r²). Not tested on X, Y and "
        "mitochondria.",
    ),
    click.option(
        "--winsorize",
        type=click.FloatRange(min=0, min_open=True),
        default=None,
        help="Draw trait values in to so many standard deviations from the mean, before all else.",
    ),
    click.option(
        "--rank-normal",
        type=click.Choice(["values", "residuals"]),
        default=None,
        help="Replace trait values by the normal scores of their ranks, or of the ranks of what "
        "the covariates leave of them (which stay in the model). Effects are then in standard "
        "deviations of the scores. For traits with heavy tails and rare variants.",
    ),
    click.option(
        "--complete-traits",
        is_flag=True,
        help="Leave out people who lack a trait, so that all traits are of the same people and can "
        "be tested jointly. Without it a person is left out of the traits that they lack.",
    ),
)


def analysis_inputs(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options, as one `inputs`."""

    @wraps(command)
    def with_inputs(**given: Any) -> None:
        mine = {field.name: given.pop(field.name) for field in fields(AnalysisInputs)}
        if mine["formula"] is not None and mine["covariate"]:
            raise click.UsageError("--model names the covariates; leave out --covariate")
        command(inputs=AnalysisInputs(**mine), **given)

    for option in reversed(OPTIONS):
        with_inputs = option(with_inputs)
    return with_inputs

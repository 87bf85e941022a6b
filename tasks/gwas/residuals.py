"""`axoloci-gwas residuals`: what the covariates leave of the traits, and of some variants."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from axoloci.errors import InputError
from axoloci.io.files import check_outputs
from axoloci.io.genotypes import MISSING, Genotypes
from axoloci.io.loci import read_loci
from axoloci.io.residuals import is_residuals, write_residuals
from axoloci.io.variants import VARIANT_COLUMNS, meant_id
from axoloci.tasks.gwas.engine import analysis_of, default_threads, design_of
from axoloci.tasks.gwas.inputs import AnalysisInputs, prepare
from axoloci.tasks.gwas.options import FILE, analysis_inputs
from axoloci.tasks.gwas.ploidy import Ploidy, ploidy_of

log = logging.getLogger("axoloci")


def dosage_residuals(dosage: NDArray[Any], q: NDArray[np.float64]) -> NDArray[np.float64]:
    """What the covariates leave of each variant, the mean standing for a missing genotype.

    Parameters
    ----------
    dosage
        [int8 or float32, shape: (n_variants, n_samples)] -9 where missing.
    q
        [float64, shape: (n_samples, n_covariates)] Orthonormal covariates, the intercept among
        them.

    Returns
    -------
    [float64, shape: (n_samples, n_variants)] In copies of the effect allele; NaN for a variant that
    no one has.
    """
    g = dosage.T.astype(np.float64)  # (n_samples, n_variants)
    there = g != MISSING
    n = there.sum(axis=0)  # (n_variants,)
    mean = np.where(n, np.where(there, g, 0).sum(axis=0) / np.maximum(n, 1), np.nan)
    g = np.where(there, g - mean, 0 * mean)
    for _ in range(2):  # twice: the first pass leaves rounding of the size of what it removes
        g -= q @ (q.T @ g)
    return g


@click.command()
@analysis_inputs
@click.option(
    "--variant",
    multiple=True,
    help="Id of a variant whose residual dosages are written as well; several times for several.",
)
@click.option(
    "--loci",
    type=FILE,
    default=None,
    help="Table of loci, whose lead variants are taken in addition to those of --variant.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default="residuals.parquet",
    help="Parquet table of the people analysed: sample_id, and each trait less what the covariates "
    "explain of it, in units of the trait.",
)
@click.option(
    "--dosages",
    type=click.Path(path_type=Path),
    default="dosages.parquet",
    help="Likewise of the variants of --variant and --loci, in copies of the effect allele; the "
    "mean stands for a missing genotype. Written with one of these options alone; without them "
    "a table of an earlier run is left as it is.",
)
@click.option(
    "--threads",
    type=click.IntRange(min=1),
    default=None,
    help="CPU threads; without it OMP_NUM_THREADS, or all cores where that is not set.",
)
def residuals(
    inputs: AnalysisInputs,
    variant: tuple[str, ...],
    loci: Path | None,
    out: Path,
    dosages: Path,
    threads: int | None,
) -> None:
    """Write what the covariates leave of the traits, for the people whom associate tests.

    Give it the options of associate: people, transforms and covariates are then the same. The
    tables are for axoloci-genetics clusters. THEY HOLD A VALUE FOR EACH PERSON: handle them as the
    traits and genotypes themselves, and do not share them as summary statistics may be.

    They are of the autosomes: where X is tested, sex is one more covariate.
    """
    asked = bool(variant) or loci is not None  # a table of loci may hold none
    check_outputs({"--out": out, "--dosages": dosages})
    study = prepare(inputs)
    chosen = _chosen_variants(study.source, variant, loci)
    with threadpool_limits(threads or default_threads(), user_api="blas"):
        fitted = analysis_of(design_of(study, Ploidy.DIPLOID), study.trait_values)
    model, about = fitted.model, {"covariates": fitted.design.covariates}
    for k, why in model.excluded.items():
        log.warning("trait %s is left out: %s", study.traits[k], why)
    order = np.argsort(model.trait_index)  # that of the traits; the model has them by people
    if not len(order):
        why = next(iter(model.excluded.values()))
        raise InputError(f"{inputs.named_traits}: no trait can be tested; {why}")
    tested = model.trait_index[order]
    names = [study.traits[k] for k in tested]
    adjusted = (model.y * model.scale)[:, order]  # (n_samples, n_tested)
    adjusted[np.isnan(study.trait_values[:, tested])] = np.nan
    dosage = np.empty((len(chosen), len(study.people)), dtype=study.source.dtype)
    for own, row in zip(dosage, chosen, strict=True):
        own[:] = study.source.read(row, row + 1, fitted.design.sample_index)[0]
    left = dosage_residuals(dosage, model.q)  # (n_samples, n_chosen)
    variants = study.source.variants.iloc[chosen]
    rows = variants[VARIANT_COLUMNS].to_dict("records")
    ids = variants["variant_id"].tolist()
    if asked:
        write_residuals(dosages, "dosages", study.people, ids, left, {**about, "variants": rows})
    write_residuals(out, "traits", study.people, names, adjusted, about)
    log.info(
        "%s: residuals of %d traits and %d variants of %d people, %d covariates with the "
        "intercept; a value for each person, not for sharing",
        *(
            f"{out}, {dosages}" if asked else out,
            len(names),
            len(ids),
            len(study.people),
            len(about["covariates"]),
        ),
    )
    if not asked and is_residuals(dosages, "dosages"):  # of other people or covariates perhaps
        log.warning("%s is of an earlier run and was not written again", dosages)


def _chosen_variants(source: Genotypes, ids: Sequence[str], loci: Path | None) -> NDArray[np.int64]:
    """Rows of the genotypes that are named by id or lead a locus, in the order of the genotypes.

    Raises
    ------
    InputError
        A variant is not there, or an id is of several.
    """
    variants = source.variants
    of_id = variants["variant_id"]
    absent = [name for name in ids if name not in set(of_id)]
    if absent:
        meant = meant_id(
            absent[0], pa.chunked_array([pa.array(of_id.to_numpy(object), pa.large_string())])
        )
        raise InputError(f"{source.path}: no variant {', '.join(absent)}; {meant}")
    chosen = of_id.isin(ids).to_numpy()
    if loci is not None:
        leads = read_loci(loci, VARIANT_COLUMNS)
        wanted = pd.MultiIndex.from_frame(leads[VARIANT_COLUMNS])
        there = pd.MultiIndex.from_frame(variants[VARIANT_COLUMNS])
        unknown = leads["variant_id"][~wanted.isin(there)].tolist()
        if unknown:
            raise InputError(
                f"{source.path}: lacks {len(unknown)} lead variants of {loci}, or has other "
                f"alleles or positions for them, such as {', '.join(unknown[:3])}; give the "
                "genotypes of the study"
            )
        chosen |= there.isin(wanted)
    repeated = of_id[chosen][of_id[chosen].duplicated()]
    if len(repeated):
        raise InputError(
            f"{source.path}: the id {repeated.iloc[0]} is of several variants; leave all but one "
            "out by --region or --exclude, or give each an id of its own"
        )
    rows = np.flatnonzero(chosen)
    diploid = [ploidy_of(name) is Ploidy.DIPLOID for name in variants["chromosome"].iloc[rows]]
    if not all(diploid):
        others = of_id.iloc[rows[~np.array(diploid)]].tolist()
        log.warning(
            "left out, for they are not on autosomes, and tested with other people or covariates: "
            "%s",
            ", ".join(others),
        )
        rows = rows[diploid]
    return rows

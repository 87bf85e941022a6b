"""`axoloci-genetics heritability`."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import click
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from axoloci import __version__
from axoloci.command import columns_help, progress
from axoloci.errors import InputError, NotPossibleError
from axoloci.io.files import write_json
from axoloci.io.sumstats import Sumstats, read_sumstats
from axoloci.io.tables import write_tsv
from axoloci.joint_test import partial_correlation
from axoloci.statistics import neg_log10_normal
from axoloci.tasks.genetics.commands.selection import (
    SUMSTATS,
    columns_of,
    complete_traits,
    named_traits,
    traits_option,
    transformed,
)
from axoloci.tasks.genetics.covariance_file import write_covariance
from axoloci.tasks.genetics.heritability import (
    FEWEST_SE,
    Estimate,
    GeneticCovariance,
    genetic_correlation,
    genetic_covariance,
    heritability,
)

log = logging.getLogger("axoloci")

MAX_GB = 8.0  # of the sums of all blocks; four times as much is held at once
HERITABILITY_COLUMNS = {
    "trait": "Its name.",
    "h2": "Share of the trait's variance, given the covariates, that the variants explain; by "
    "chance it may be below 0 or above 1.",
    "h2_se": "Its standard error, by the jackknife.",
    "neg_log10_p": "−log10 p of h2 = 0, two-sided, by the normal law.",
    "lambda_gc": "Genomic inflation of the trait's association; 1 without any.",
    "n": "People.",
    "n_variants": "Variants used.",
}
PAIR_COLUMNS = {
    "trait_1": "One trait; each pair is there once.",
    "trait_2": "The other one.",
    "rg": "Genetic correlation; not cut at −1 and 1. n/a where an h2 is not above 0.",
    "rg_se": "Its standard error, by the jackknife.",
    "neg_log10_p": "−log10 p of rg = 0, two-sided, by the normal law; not to be relied on where an "
    f"h2 is below {FEWEST_SE:g} h2_se.",
    "phenotypic_correlation": "Of the two traits given the covariates.",
}


@click.command(
    "heritability",
    epilog=columns_help(
        **{
            "out/heritability.tsv": HERITABILITY_COLUMNS,
            "out/genetic_correlation.tsv": PAIR_COLUMNS,
        }
    ),
)
@SUMSTATS
@traits_option("whose heritability and genetic correlation are estimated; without it all.")
@click.option(
    "--if-possible",
    is_flag=True,
    help="Write empty tables, and say why, in place of failing where the association is of too few "
    "variants or of a mixed model: for pipelines.",
)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default="heritability",
    help="Folder of heritability.tsv, one row a trait, genetic_correlation.tsv, one row a pair, "
    "genetic_covariance.npz, for maps of voxels, and a summary, heritability.json.",
)
def heritability_command(sumstats: Path, traits: str | None, if_possible: bool, out: Path) -> None:
    """SNP heritability of all traits, and genetic correlation of all pairs.

    Haseman and Elston's regression, from what the association kept of its one reading of the
    genotypes; standard errors by a block jackknife over the variants. It is of the variants tested,
    each counting alike however frequent, so rare ones are better left out of the association
    (--min-maf 0.01). People should be unrelated: relatives share more than variants.

    A genetic correlation needs two heritabilities that are well above 0: where one is below 2
    standard errors it may lie far beyond 1, and its p is not to be relied on. The log tells how
    many pairs these are.
    """
    store = read_sumstats(sumstats)
    names = (
        complete_traits(store, "the heritability")
        if traits is None
        else named_traits(store, traits)
    )
    columns = columns_of(store, names)
    lacked = [name for name in names if name in store.info.get("traits_with_missing", [])]
    if lacked:
        raise InputError(
            f"{sumstats}: some people lack {', '.join(lacked[:5])}, and the regression is of "
            "everybody: leave them out of --traits, run the association with --complete-traits, or "
            "use axoloci-genetics ldsc"
        )
    correlation = store.trait_correlation[np.ix_(columns, columns)]
    sd, n_blocks, n_probes = store.trait_residual_sd[columns], 0, 0
    try:
        relationship = store.relationship
        n_probes = relationship["first"].shape[1]
        scores, n_tested = _score_sums(store, columns, relationship)
        covariance = genetic_covariance(scores, n_tested, correlation, sd, relationship)
        n_blocks = len(scores)
    except NotPossibleError as error:
        if not if_possible:
            raise
        log.warning("heritability is not estimated: %s", error)
        names, columns, n_tested = [], [], np.zeros(1, np.int64)
        none = np.empty((0, 0))
        covariance = GeneticCovariance(none, none, none[None])
    h2, rg = heritability(covariance), genetic_correlation(covariance)
    table = pd.DataFrame(
        {
            "trait": names,
            "h2": h2.value,
            "h2_se": h2.se,
            "neg_log10_p": _neg_log10_p(h2),
            "lambda_gc": store.inflation()[columns],
            "n": store.n_samples,
            "n_variants": int(n_tested.sum()),
        }
    )
    write_tsv(out / "heritability.tsv", table)
    write_tsv(out / "genetic_correlation.tsv", _pairs(names, rg, covariance))
    warn_of_weak(h2.value, h2.se)
    write_covariance(out / "genetic_covariance.npz", names, covariance, transformed(store))
    write_json(
        out / "heritability.json",
        {
            "axoloci": __version__,
            "method": "Haseman-Elston regression, block jackknife",
            "sumstats": sumstats.name,
            "n_samples": store.n_samples,
            "n_variants": int(n_tested.sum()),
            "n_blocks": n_blocks,
            "n_probes": n_probes,
            "mean_h2": float(h2.value.mean()) if names else None,
        },
    )
    if not names:
        return
    log.info(
        "heritability of %d traits: mean %.3f, from %.3f to %.3f; mean standard error %.3f",
        *(len(names), h2.value.mean(), h2.value.min(), h2.value.max(), h2.se.mean()),
    )


def warn_of_weak(h2: NDArray[np.float64], se: NDArray[np.float64]) -> None:
    """Say of how many pairs of traits a heritability, (n_traits,), is hardly above 0."""
    n_traits, n_strong = len(h2), int((h2 >= FEWEST_SE * se).sum())
    n_pairs, n_of_strong = (n * (n - 1) // 2 for n in (n_traits, n_strong))
    if n_of_strong < n_pairs:
        log.warning(
            "%d of %d genetic correlations are of a trait whose heritability is below %g standard "
            "errors: they may lie far beyond 1, and their p is not to be relied on",
            *(n_pairs - n_of_strong, n_pairs, FEWEST_SE),
        )


def _score_sums(
    store: Sumstats, columns: list[int], relationship: dict[str, NDArray[Any]]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Σ r r' of the partial correlations by block of the jackknife, and of how many variants."""
    n_rows = relationship["n_rows"]
    gigabytes = len(n_rows) * len(columns) ** 2 * 8 / 1e9
    if gigabytes > MAX_GB:
        raise InputError(
            f"{store.path}: {len(columns)} traits at once need {4 * gigabytes:.0f} GB of memory; "
            "take fewer by --traits"
        )
    scores = np.zeros((len(n_rows), len(columns), len(columns)))
    n_tested = np.zeros(len(n_rows), dtype=np.int64)
    stops = np.cumsum(n_rows)  # (B,)
    chromosomes = set(relationship["chromosomes"].tolist())
    row = 0
    for block in progress(store.blocks(), "heritability", len(store.info["parts"])):
        if block.chromosome not in chromosomes:
            continue
        beta, se, df = (part[:, columns] for part in (block.beta, block.se, block.df))
        r = partial_correlation(beta, se, df)  # (V, K)
        # of fewer people, where some lack the genotype, chance makes larger ones
        r *= np.sqrt((df + 1) / float(relationship["df"]))
        first = int(np.searchsorted(stops, row, side="right"))
        last = int(np.searchsorted(stops, row + len(r) - 1, side="right"))
        for number in range(first, last + 1):
            start = max(int(stops[number] - n_rows[number]) - row, 0)
            part = r[start : int(stops[number]) - row]
            part = part[np.isfinite(part).all(axis=1)]
            scores[number] += part.T @ part
            n_tested[number] += len(part)
        row += len(r)
    return scores, n_tested


def _neg_log10_p(estimate: Estimate) -> NDArray[np.float64]:
    """Of the two-sided test that it is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return neg_log10_normal(estimate.value / estimate.se)


def _pairs(names: list[str], rg: Estimate, covariance: GeneticCovariance) -> pd.DataFrame:
    """Each pair of traits once."""
    first, second = np.triu_indices(len(names), 1)
    sd = np.sqrt(np.diag(covariance.phenotypic))
    phenotypic = covariance.phenotypic / np.outer(sd, sd)
    pairs = Estimate(rg.value[first, second], rg.se[first, second])
    return pd.DataFrame(
        {
            "trait_1": np.array(names, dtype=object)[first],
            "trait_2": np.array(names, dtype=object)[second],
            "rg": pairs.value,
            "rg_se": pairs.se,
            "neg_log10_p": _neg_log10_p(pairs),
            "phenotypic_correlation": phenotypic[first, second],
        }
    )

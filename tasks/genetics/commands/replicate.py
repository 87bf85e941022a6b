"""`axoloci-genetics replicate`."""

from __future__ import annotations

import logging
from pathlib import Path

import click
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from axoloci import __version__
from axoloci.errors import InputError
from axoloci.io.files import write_json, write_text
from axoloci.io.genotype_files import VARIANT_COLUMNS
from axoloci.io.sumstats import Sumstats, read_sumstats
from axoloci.tasks.genetics import kernel
from axoloci.tasks.genetics import replication as replication_kernel
from axoloci.tasks.genetics.commands.selection import columns_of, named_traits, traits_option

log = logging.getLogger("axoloci")


@click.command()
@click.option(
    "--loci",
    "loci_path",
    required=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Table of the discovery's loci; the lead variant of each is tested.",
)
@click.option(
    "--discovery",
    required=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of the discovery's summary statistics.",
)
@click.option(
    "--replication",
    required=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of the summary statistics of the same traits in other people.",
)
@traits_option("of which the loci are those; without it all of the discovery.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default="replication.tsv",
    help="Table, one row a locus; a summary goes beside it as .json.",
)
def replicate(
    loci_path: Path, discovery: Path, replication: Path, traits: str | None, out: Path
) -> None:
    """Test each lead variant in other people, by the combination of traits that it changed.

    The test is one-sided: an effect in the other direction does not replicate. Variants are matched
    by chromosome, position and alleles; where effect and other allele are swapped, so is the sign.
    """
    first, second = read_sumstats(discovery), read_sumstats(replication)
    leads = pd.read_csv(loci_path, sep="\t", dtype={"chromosome": str, "variant_id": str})
    names = first.traits if traits is None else named_traits(first, traits)
    columns_first, columns = columns_of(first, names), columns_of(second, names)
    r_first, _, _ = _correlations(first, leads, columns_first)
    r_second, df, frequency = _correlations(second, leads, columns)
    if len(leads) and np.isnan(r_first).all(axis=1).any():
        row = int(np.argmax(np.isnan(r_first).all(axis=1)))
        raise InputError(
            f"{discovery}: has no variant {leads['variant_id'][row]} of {loci_path}; give the "
            "summary statistics in which these loci were found"
        )
    r = _combined(first, second, columns_first, columns, leads["chromosome"], r_first, r_second)
    found = replication_kernel.replicate(r, df)
    table = leads[["locus", *VARIANT_COLUMNS]].assign(
        neg_log10_p_discovery=leads["neg_log10_p"],
        effect_allele_frequency=frequency,
        n=df + second.n_covariates_of(leads["chromosome"]) + 1,
        r=found.r,
        neg_log10_p=found.neg_log10_p,
        replicated=np.where(found.replicated, "yes", "no"),
    )
    tested = np.isfinite(found.neg_log10_p)
    table.loc[~tested, "replicated"] = "n/a"
    text = table.to_csv(
        sep="\t", index=False, float_format="%.7g", lineterminator="\n", na_rep="n/a"
    )
    write_text(out, text)
    absent = leads["variant_id"][~tested].tolist()
    if absent:
        log.warning(
            "%s: %d of %d lead variants cannot be tested, such as %s",
            *(replication, len(absent), len(leads), ", ".join(absent[:3])),
        )
    write_json(
        out.with_suffix(".json"),
        {
            "axoloci": __version__,
            "n_leads": len(leads),
            "n_tested": int(tested.sum()),
            "n_replicated": int(found.replicated.sum()),
            "p_threshold": replication_kernel.LEVEL / max(1, int(tested.sum())),
            "n_same_direction": int((found.r > 0).sum()),
            "p_sign_test": replication_kernel.sign_test(found.r),
            "n_samples": second.n_samples,
        },
    )
    log.info("%d of %d lead variants replicated", int(found.replicated.sum()), len(leads))


def _combined(
    first: Sumstats,
    second: Sumstats,
    columns_first: list[int],
    columns: list[int],
    chromosome: pd.Series,
    r_first: NDArray[np.float64],
    r_second: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Correlation (n,) of each lead with the discovery's combination of traits.

    The traits have the places `columns_first` in the first store and `columns` in the second.
    """
    if second.of_mixed_model:  # t/√df: only these have the correlation of its traits
        r_second = r_second / np.sqrt(np.maximum(1 - np.square(r_second), 1e-300))
    r = np.full(len(chromosome), np.nan)
    known = ~np.isnan(r_second).all(axis=1)
    names = chromosome.to_numpy(dtype=str)
    for name in np.unique(names[known]):
        rows = known & (names == name)
        r[rows] = replication_kernel.combined_correlation(
            r_first[rows],
            first.correlation_of(name)[np.ix_(columns_first, columns_first)],
            first.trait_residual_sd[columns_first],
            r_second[rows],
            second.correlation_of(name)[np.ix_(columns, columns)],
            second.trait_residual_sd[columns],
        )
    return r / np.sqrt(1 + np.square(r)) if second.of_mixed_model else r


def _correlations(
    store: Sumstats, leads: pd.DataFrame, columns: list[int]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Partial correlations (n, K) of the leads for their effect allele, smallest df, frequency.

    NaN where the store lacks the variant.
    """
    r = np.full((len(leads), len(columns)), np.nan)
    df, frequency = np.full(len(leads), np.nan), np.full(len(leads), np.nan)
    place = {
        (str(lead.chromosome), lead.base_pair_location, *sorted(alleles)): (row, alleles[0])
        for row, lead in enumerate(leads.itertuples())
        for alleles in [(str(lead.effect_allele), str(lead.other_allele))]
    }
    there = {part["chromosome"] for part in store.info["parts"]}
    for chromosome in sorted(there & set(leads["chromosome"])):
        for block in store.blocks(chromosome):
            near = block.variants["base_pair_location"].isin(leads["base_pair_location"])
            for i in np.flatnonzero(near):
                variant = block.variants.iloc[i]
                alleles = sorted((str(variant.effect_allele), str(variant.other_allele)))
                key = (str(variant.chromosome), variant.base_pair_location, *alleles)
                if key not in place:
                    continue
                row, effect_allele = place[key]
                sign = 1.0 if variant.effect_allele == effect_allele else -1.0
                beta, se, of_df = (
                    part[i : i + 1, columns] for part in (block.beta, block.se, block.df)
                )
                r[row] = sign * kernel.partial_correlation(beta, se, of_df)[0]
                df[row] = of_df.min()
                p = float(variant.effect_allele_frequency)
                frequency[row] = p if sign > 0 else 1 - p
    return r, df, frequency

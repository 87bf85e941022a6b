"""`axoloci-genetics loci`."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from axoloci import __version__
from axoloci.errors import InputError
from axoloci.io.files import write_json, write_text
from axoloci.io.genotype_files import VARIANT_COLUMNS
from axoloci.io.genotypes import Genotypes, open_genotypes
from axoloci.io.sumstats import Sumstats, read_sumstats
from axoloci.tasks.genetics import kernel
from axoloci.tasks.genetics import loci as clumping
from axoloci.tasks.genetics.commands.joint import read_about, read_associated
from axoloci.tasks.genetics.commands.selection import SUMSTATS, columns_of

log = logging.getLogger("axoloci")

READ_GAP = 64  # variants that are read and dropped sooner than a new read is begun


@click.command()
@click.option(
    "--joint",
    "joint_path",
    required=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Table of the joint test.",
)
@SUMSTATS
@click.option(
    "--genotypes",
    required=True,
    type=click.Path(path_type=Path),
    help="PLINK 1 bed/bim/fam of the study, for linkage disequilibrium among the people analysed: "
    "the .bed, or no suffix.",
)
@click.option(
    "--p-threshold",
    type=click.FloatRange(0, 1, min_open=True),
    default=clumping.INDEX_P,
    help="Largest p of a lead variant; 5e-8 is genome-wide significance.",
)
@click.option(
    "--secondary-p",
    type=click.FloatRange(0, 1, min_open=True),
    default=clumping.SECONDARY_P,
    help="Largest p of a variant that belongs to a lead.",
)
@click.option(
    "--clump-r2",
    type=click.FloatRange(0, 1),
    default=clumping.MIN_R2,
    help="Smallest r² with its lead. Smaller: fewer leads, less dependent on each other.",
)
@click.option(
    "--clump-kb",
    type=click.FloatRange(min=0),
    default=clumping.WINDOW_KB,
    help="Farthest distance to its lead, kb.",
)
@click.option(
    "--merge-kb",
    type=click.FloatRange(min=0),
    default=clumping.MERGE_KB,
    help="Largest gap between clumps of one locus, kb.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default="loci.tsv",
    help="Table, one row a locus; the settings go beside it as .json.",
)
def loci(
    joint_path: Path,
    sumstats: Path,
    genotypes: Path,
    p_threshold: float,
    secondary_p: float,
    clump_r2: float,
    clump_kb: float,
    merge_kb: float,
    out: Path,
) -> None:
    """Lead variants by clumping as in plink, joined to loci by distance, and their traits."""
    about = read_about(joint_path)
    store = read_sumstats(sumstats)
    source = open_genotypes(genotypes)
    people = np.sort(source.sample_index(store.sample_id))  # LD is theirs, not of all in the files
    candidates = read_associated(joint_path, max(p_threshold, secondary_p))
    associated = (candidates["neg_log10_p"] >= -np.log10(p_threshold)).any()
    if not associated:
        candidates = candidates.iloc[:0]
    chromosome = candidates["chromosome"].to_numpy()
    position = candidates["base_pair_location"].to_numpy()
    clumps = clumping.clump_variants(
        candidates["neg_log10_p"].to_numpy(),
        chromosome,
        position,
        _reader(source, people, candidates, joint_path),
        p_threshold,
        secondary_p,
        clump_r2,
        clump_kb,
    )
    merged = clumping.merge_clumps(clumps, chromosome, position, merge_kb)
    leads = candidates.iloc[[locus.lead for locus in merged]]
    traits = _traits_of(store, leads, about["traits"])
    ids = candidates["variant_id"].to_numpy()
    rows = [
        {
            "locus": number,
            "chromosome": lead.chromosome,
            "start": locus.start,
            "end": locus.end,
            **{name: getattr(lead, name) for name in VARIANT_COLUMNS[1:]},
            "effect_allele_frequency": lead.effect_allele_frequency,
            "n": lead.n,
            "neg_log10_p": lead.neg_log10_p,
            "joint_r2": lead.r2,
            "n_leads": len(locus.leads),
            "leads": ",".join(ids[list(locus.leads)]),
            "n_clumped": len(locus.members) - 1,
            "clumped": ",".join(ids[[row for row in locus.members if row != locus.lead]]),
            **of_lead,
        }
        for number, (locus, lead, of_lead) in enumerate(
            zip(merged, leads.itertuples(), traits, strict=True), start=1
        )
    ]
    table = pd.DataFrame(rows, columns=LOCI_COLUMNS)
    write_text(out, table.to_csv(sep="\t", index=False, float_format="%.7g", lineterminator="\n"))
    write_json(
        out.with_suffix(".json"),
        {
            "axoloci": __version__,
            "p_threshold": p_threshold,
            "secondary_p": secondary_p,
            "clump_r2": clump_r2,
            "clump_kb": clump_kb,
            "merge_kb": merge_kb,
            "trait_p_threshold": clumping.TRAIT_P / len(about["traits"]),
            "n_loci": len(merged),
            "n_leads": len(clumps),
            "joint": joint_path.name,
            "sumstats": sumstats.name,
            "genotypes": source.path.name,
            "n_samples_ld": len(people),
        },
    )
    log.info("%d loci, %d lead variants", len(merged), len(clumps))


LOCI_COLUMNS = [
    "locus",
    "chromosome",
    "start",
    "end",
    *VARIANT_COLUMNS[1:],
    "effect_allele_frequency",
    "n",
    "neg_log10_p",
    "joint_r2",
    "n_leads",
    "leads",
    "n_clumped",
    "clumped",
    "traits",
    "traits_beta",
    "traits_neg_log10_p",
]


def _reader(
    source: Genotypes, people: NDArray[np.int64], candidates: pd.DataFrame, joint_path: Path
) -> Callable[[NDArray[np.int64]], NDArray[np.int8]]:
    """From rows of `candidates` to the genotypes of `people`, read in runs of neighbours."""
    variants = source.variants
    near = variants[variants["base_pair_location"].isin(candidates["base_pair_location"])]
    near = near[~near.duplicated(VARIANT_COLUMNS)]
    keys = pd.MultiIndex.from_frame(near[VARIANT_COLUMNS])
    found = keys.get_indexer(pd.MultiIndex.from_frame(candidates[VARIANT_COLUMNS]))
    absent = candidates.loc[found < 0, "variant_id"].tolist()
    if absent:
        raise InputError(
            f"{source.path}: lacks {len(absent)} variants of {joint_path} or has other alleles or "
            f"positions for them, such as {', '.join(absent[:5])}; give the genotypes of the study"
        )
    rows_in_file = near.index.to_numpy()[found]

    def read(rows: NDArray[np.int64]) -> NDArray[np.int8]:
        wanted, back = np.unique(rows_in_file[rows], return_inverse=True)
        runs = np.split(wanted, np.flatnonzero(np.diff(wanted) > READ_GAP) + 1)
        blocks = [
            source.read_calls(int(run[0]), int(run[-1]) + 1, people)[run - run[0]] for run in runs
        ]
        return np.asarray(np.concatenate(blocks)[back], dtype=np.int8)

    return read


def _traits_of(store: Sumstats, leads: pd.DataFrame, names: Sequence[str]) -> list[dict[str, str]]:
    """Per lead variant the traits that carry it, with beta and −log10 p, smallest p first."""
    columns = columns_of(store, names)
    result: dict[tuple[Any, ...], dict[str, str]] = {}
    keys = list(leads[VARIANT_COLUMNS].itertuples(index=False, name=None))
    for chromosome in leads["chromosome"].unique():
        for block in store.blocks(chromosome):
            near = block.variants["base_pair_location"].isin(leads["base_pair_location"])
            for row in np.flatnonzero(near):
                key = tuple(block.variants[VARIANT_COLUMNS].iloc[row])
                if key not in keys or key in result:
                    continue
                beta, se, df = (
                    part[row : row + 1, columns] for part in (block.beta, block.se, block.df)
                )
                r = kernel.partial_correlation(beta, se, df)
                neg_log10_p = kernel.neg_log10_p(r * r, 1, df)[0]  # (K,)
                carry = clumping.carrying_traits(neg_log10_p)
                result[key] = {
                    "traits": ",".join(names[k] for k in carry),
                    "traits_beta": ",".join(f"{beta[0, k]:.6g}" for k in carry),
                    "traits_neg_log10_p": ",".join(f"{neg_log10_p[k]:.5g}" for k in carry),
                }
    lost = [key for key in keys if key not in result]
    if lost:
        raise InputError(
            f"{store.path}: has no variant {lost[0][2]}; the joint test is of another store"
        )
    return [result[key] for key in keys]

"""`axoloci-genetics loci`."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from axoloci import __version__
from axoloci.command import columns_help
from axoloci.errors import InputError
from axoloci.io.files import whole_file, write_json, write_text
from axoloci.io.genotype_files import canonical_chromosome
from axoloci.io.loci import TRAITS_MEANING, traits_of_variant
from axoloci.io.sumstats import Sumstats, read_sumstats
from axoloci.io.variants import VARIANT_COLUMNS, VARIANT_MEANING
from axoloci.joint_test import TRAIT_P, neg_log10_p, partial_correlation
from axoloci.tasks.genetics import loci as clumping
from axoloci.tasks.genetics.commands.joint import read_about, read_associated, read_regions
from axoloci.tasks.genetics.commands.panel import (
    Panel,
    open_reference,
    open_study,
    refuse_other_genotypes,
)
from axoloci.tasks.genetics.commands.selection import SUMSTATS, columns_of
from axoloci.tasks.genetics.genes import nearest_gene, possible_builds, read_genes

log = logging.getLogger("axoloci")

REGION_KB = 250.0  # to each side of a locus in its regional picture
REGIONS_SCHEMA = pa.schema(
    [
        ("locus", pa.int32()),
        ("chromosome", pa.string()),
        ("base_pair_location", pa.int64()),
        ("variant_id", pa.string()),
        ("neg_log10_p", pa.float64()),
        ("r2", pa.float64()),
    ]
)
LOCI_COLUMNS = {
    "locus": "Number, from 1 on, by chromosome and position.",
    "chromosome": VARIANT_MEANING["chromosome"],
    "start": "First position of all its clumps, base pairs.",
    "end": "Last position of all its clumps, base pairs.",
    "base_pair_location": "Position of the lead variant, base pairs, from 1 on.",
    "variant_id": "The lead: its variant with the smallest p.",
    "effect_allele": VARIANT_MEANING["effect_allele"],
    "other_allele": VARIANT_MEANING["other_allele"],
    "effect_allele_frequency": "0 to 1, among the people tested.",
    "n": "People with the lead's genotype.",
    "neg_log10_p": "−log10 p of the joint test of the lead.",
    "joint_r2": "Share of the lead's variance that all traits explain together, 0 to 1.",
    "n_leads": "Clumps of the locus, each with a lead.",
    "leads": "Ids of their leads, smallest p first, commas between them.",
    "n_clumped": "Other variants of the clumps: in linkage disequilibrium with a lead.",
    "clumped": "Their ids, by position; leads of further clumps are among them.",
    **TRAITS_MEANING,
}
GENE_COLUMNS = {
    "nearest_gene": "With --genes: gene nearest to the lead; n/a without any.",
    "nearest_gene_kb": "Its distance, thousands of base pairs; 0 within it.",
}
REGIONS_COLUMNS = {
    "locus": "Number of the locus, as in --out.",
    **{name: VARIANT_MEANING[name] for name in VARIANT_COLUMNS[:3]},
    "neg_log10_p": "−log10 p of the joint test.",
    "r2": "r² with the locus's lead, 0 to 1; NaN where it is not known.",
}


@click.command(
    epilog=columns_help(out=LOCI_COLUMNS | GENE_COLUMNS, regions=REGIONS_COLUMNS),
)
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
    default=None,
    type=click.Path(path_type=Path),
    help="Genotypes of the study (PLINK 1, PLINK 2 or BGEN), for linkage disequilibrium among the "
    "people analysed. This or --reference.",
)
@click.option(
    "--reference",
    default=None,
    type=click.Path(path_type=Path),
    help="Genotypes of a reference panel instead, such as 1000 Genomes of the study's ancestry and "
    "build; its founders count. What it lacks is left out, and told.",
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
    help="Limit of p, below which a variant belongs to a lead.",
)
@click.option(
    "--clump-r2",
    type=click.FloatRange(0, 1, max_open=True),
    default=clumping.MIN_R2,
    help="Limit of r² with its lead, above which it belongs to it. Smaller: fewer leads, less "
    "dependent on each other.",
)
@click.option(
    "--clump-kb",
    type=click.FloatRange(min=0),
    default=clumping.WINDOW_KB,
    help="Limit of the distance to its lead, kb.",
)
@click.option(
    "--merge-kb",
    type=click.FloatRange(min=0),
    default=clumping.MERGE_KB,
    help="Largest gap between clumps of one locus, kb.",
)
@click.option(
    "--genes",
    "genes_path",
    default=None,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Table of genes of the study's build, separated by tabs, with the header chromosome start "
    "end gene (positions from 1 on, both included), or plink's list of genes, these four columns "
    "without a header: adds the genes nearest to each lead.",
)
@click.option(
    "--regions",
    "regions_path",
    default=None,
    type=click.Path(path_type=Path),
    help="Parquet table of all variants in and about each locus, with r² to its lead: for regional "
    "pictures.",
)
@click.option(
    "--region-kb",
    type=click.FloatRange(min=0),
    default=REGION_KB,
    help="How far --regions reaches to each side of a locus, kb.",
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
    genotypes: Path | None,
    reference: Path | None,
    p_threshold: float,
    secondary_p: float,
    clump_r2: float,
    clump_kb: float,
    merge_kb: float,
    genes_path: Path | None,
    regions_path: Path | None,
    region_kb: float,
    out: Path,
) -> None:
    """Lead variants by clumping as in plink, joined to loci by distance, and their traits.

    A clump is what plink1.9 --clump finds with the same people; limits that a variant may not reach
    (p of members, r², kb) and ties are plink's. Variants that a reference panel lacks are in no
    clump, as in plink, however small their p: those that could be leads are told.
    """
    about = read_about(joint_path)
    store = read_sumstats(sumstats)
    candidates = read_associated(joint_path, max(p_threshold, secondary_p))
    genes = None if genes_path is None else _genes_of_build(genes_path, candidates, joint_path)
    if not (candidates["neg_log10_p"] >= -np.log10(p_threshold)).any():
        candidates = candidates.iloc[:0]
    panel = _panel(genotypes, reference, store)
    panel_rows = panel.rows_of(candidates)
    refuse_other_genotypes(panel, panel_rows, candidates, joint_path)
    lacking = candidates[panel_rows < 0]
    lost = lacking.loc[lacking["neg_log10_p"] >= -np.log10(p_threshold), "variant_id"].tolist()
    if lost:
        log.warning(
            "%s: lacks %d variants with p up to %g, which are in no clump, such as %s",
            *(panel.source.path, len(lost), p_threshold, ", ".join(lost[:5])),
        )
    candidates = candidates[panel_rows >= 0].reset_index(drop=True)
    panel_rows = panel_rows[panel_rows >= 0]
    chromosome = candidates["chromosome"].to_numpy()
    position = candidates["base_pair_location"].to_numpy()
    clumps = clumping.clump_variants(
        candidates["neg_log10_p"].to_numpy(),
        chromosome,
        position,
        lambda rows: panel.read(panel_rows[rows]),
        p_threshold,
        secondary_p,
        clump_r2,
        clump_kb,
        panel.sex,
    )
    merged = clumping.merge_clumps(clumps, chromosome, position, merge_kb)
    leads = candidates.iloc[[locus.lead for locus in merged]]
    table = _table_of(merged, candidates, _traits_of(store, leads, about["traits"]))
    if genes is not None:
        table = table.assign(**_nearest_genes(table, genes))
    write_text(out, table.to_csv(sep="\t", index=False, float_format="%.7g", lineterminator="\n"))
    if regions_path is not None:
        _write_regions(regions_path, joint_path, table, panel, region_kb)
    write_json(
        out.with_suffix(".json"),
        {
            "axoloci": __version__,
            "p_threshold": p_threshold,
            "secondary_p": secondary_p,
            "clump_r2": clump_r2,
            "clump_kb": clump_kb,
            "merge_kb": merge_kb,
            "trait_p_threshold": TRAIT_P / len(about["traits"]),
            "n_loci": len(merged),
            "n_leads": len(clumps),
            "mixed_model": store.of_mixed_model,
            "traits": about["traits"],
            "joint": joint_path.name,
            "sumstats": sumstats.name,
            "genotypes" if panel.of_study else "reference": panel.source.path.name,
            "n_samples_ld": len(panel.people),
            "not_in_reference": lost,
            "genes": None if genes_path is None else genes_path.name,
        },
    )
    log.info("%d loci, %d lead variants", len(merged), len(clumps))


def _table_of(
    merged: Sequence[clumping.Locus], candidates: pd.DataFrame, traits: Sequence[dict[str, str]]
) -> pd.DataFrame:
    """One row a locus, with `LOCI_COLUMNS`; `traits` are those of its lead."""
    leads = candidates.iloc[[locus.lead for locus in merged]]
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
    return pd.DataFrame(rows, columns=list(LOCI_COLUMNS))


def _panel(genotypes: Path | None, reference: Path | None, store: Sumstats) -> Panel:
    """Those of the two options."""
    if reference is not None and genotypes is None:
        return open_reference(reference)
    if genotypes is not None and reference is None:
        return open_study(genotypes, store.sample_id)
    raise click.UsageError("linkage disequilibrium is that of --genotypes or of --reference")


def _genes_of_build(path: Path, candidates: pd.DataFrame, joint_path: Path) -> pd.DataFrame:
    """The table of genes, which is of the study's chromosomes and build."""
    genes = read_genes(path)
    chromosome = candidates["chromosome"].map(canonical_chromosome)
    if len(candidates) and not chromosome.isin(genes["chromosome"]).any():
        raise InputError(
            f"{path}: has no gene on a chromosome of {joint_path}: there "
            f"{', '.join(chromosome.unique()[:5])}, here {', '.join(genes.chromosome.unique()[:5])}"
        )
    of_study = possible_builds(candidates.groupby(chromosome)["base_pair_location"].max().to_dict())
    of_genes = possible_builds(genes.groupby("chromosome")["end"].max().to_dict())
    if of_study and of_genes and not of_study & of_genes:
        raise InputError(
            f"{path}: its genes are of {of_genes.pop()}, and the variants of {joint_path} of "
            f"{of_study.pop()}, by how far they reach on the chromosomes; give genes of that build"
        )
    return genes


def _nearest_genes(leads: pd.DataFrame, genes: pd.DataFrame) -> dict[str, list[str]]:
    """`GENE_COLUMNS`: the genes nearest to each lead, and how far they are; n/a without one."""
    of_chromosome = dict(list(genes.groupby("chromosome")))
    names, distances = [], []
    for chromosome, position in zip(leads["chromosome"], leads["base_pair_location"], strict=True):
        near = of_chromosome.get(canonical_chromosome(chromosome))
        if near is None:
            names.append("n/a")
            distances.append("n/a")
            continue
        start, end = near["start"].to_numpy(), near["end"].to_numpy()
        nearest, distance = nearest_gene(position, start, end)
        names.append(",".join(dict.fromkeys(near["gene"].iloc[nearest])))
        distances.append(f"{distance / 1000:.7g}")
    return {"nearest_gene": names, "nearest_gene_kb": distances}


def _write_regions(
    path: Path, joint_path: Path, loci: pd.DataFrame, panel: Panel, region_kb: float
) -> None:
    """All tested variants in and about each locus, with r² to its lead: `REGIONS_COLUMNS`."""
    margin = round(1000 * region_kb)
    start, end = loci["start"] - margin, loci["end"] + margin
    regions = read_regions(joint_path, list(zip(loci["chromosome"], start, end, strict=True)))
    lead_rows = panel.rows_of(loci)
    with whole_file(path) as temporary, pq.ParquetWriter(temporary, REGIONS_SCHEMA) as writer:
        for locus, lead_row, region in zip(loci["locus"], lead_rows, regions, strict=True):
            rows = panel.rows_of(region)
            genotypes = panel.read(np.append(rows[rows >= 0], lead_row))  # (n_known + 1, N)
            copies = clumping.copies_of(region["chromosome"].iloc[0], panel.sex)
            r2 = np.full(len(region), np.nan)
            r2[rows >= 0] = clumping.haplotype_r2(genotypes[-1], genotypes[:-1], copies)
            frame = region.assign(locus=locus, r2=r2)
            writer.write_table(pa.Table.from_pandas(frame, REGIONS_SCHEMA, preserve_index=False))


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
                n, n_of_joint = block.variants["n"].iloc[row], leads["n"].iloc[keys.index(key)]
                if n != n_of_joint:
                    raise InputError(
                        f"{store.path}: {key[2]} has {n} people, in the joint test {n_of_joint}; "
                        "give the summary statistics that the joint test is of"
                    )
                beta, se, df = (
                    part[row : row + 1, columns] for part in (block.beta, block.se, block.df)
                )
                r = partial_correlation(beta, se, df)
                each = neg_log10_p(r * r, 1, df)[0]  # (K,)
                result[key] = traits_of_variant(names, beta[0], each)
    lost = [key for key in keys if key not in result]
    if lost:
        raise InputError(
            f"{store.path}: has no variant {lost[0][2]}; the joint test is of another store"
        )
    return [result[key] for key in keys]

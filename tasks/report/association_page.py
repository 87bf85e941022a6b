"""The sections on association: joint test, loci, replication, as sentences, tables and pictures."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from axoloci.io.sumstats import read_sumstats
from axoloci.io.variants import VARIANT_COLUMNS
from axoloci.tasks.report import figures, genetics_figures, kernel
from axoloci.tasks.report.content import MAX_ROWS, UNFINISHED, Page, Part
from axoloci.tasks.report.document import LAST, Cell, Table, number_cell, picture, plural
from axoloci.tasks.report.genetics_inputs import genetics_facts, read_settings
from axoloci.tasks.report.inputs import (
    Inputs,
    Joint,
    Results,
    read_joint,
    read_joint_about,
    read_threshold,
    read_tsv,
)
from axoloci.tasks.report.methods import power, trait_word
from axoloci.tasks.report.sharing import SMALLEST, say_count

SHOWN_LATENTS = 6
LEGEND_OF_LOCI = (
    " Place is that of the lead, base pairs; alleles: effect allele / other allele; frequency: of "
    "the effect allele; R²: the share of the lead's variance that all traits explain together; "
    "leads: variants of the locus that stand for a clump each, apart from each other by linkage "
    "disequilibrium (LD) or distance; in LD: the other variants of these clumps, further leads "
    "among them."
)
MIN_TO_COMPARE = 20  # people whom axoloci-gwas samples compares with each other


def facts_of(given: Inputs) -> dict[str, Mapping[str, Any]]:
    """What ran and how, with what its results tell: the joint test's inflation among others.

    Raises
    ------
    InputError
        Not a table of the joint test.
    """
    facts: dict[str, Mapping[str, Any]] = dict(given.facts or {})
    noted = {
        name: read_joint_about(own.joint)
        for name, own in given.parts.items()
        if own.joint is not None
    }
    if noted:
        facts["joint"] = dict(next(iter(noted.values())))
    facts = genetics_facts(given) | facts
    if len(noted) > 1:
        inflation = {name: about.get("lambda_gc") for name, about in noted.items()}
        facts["joint"] = {**facts["joint"], "lambda_gc": inflation}
    return facts


def add_association(page: Page, given: Inputs) -> None:
    """Manhattan and quantile plots of the joint test, and the loci, of each representation."""
    facts = facts_of(given)
    page.word = trait_word(facts)
    _add_people(page, given, facts)
    for name, own in given.parts.items():
        _add_results(page, page.parts[name], given, own, page.word)


def _add_results(page: Page, part: Part, given: Inputs, own: Results, word: str) -> None:
    """Plots of one joint test, and its loci; `word` is what was tested."""
    loci = read_tsv(own.loci, "loci") if own.loci is not None else None
    threshold = read_threshold(own.loci)
    reached = f"p\u00a0≤\u00a0{power(threshold)}"
    if own.joint is None:
        part.sentences["joint"] = UNFINISHED if given.group else "No joint test was given."
    else:
        joint = read_joint(own.joint)
        if joint.neg_log10_p.size == 0:
            part.sentences["joint"] = "The joint test has no variant that could be tested."
        else:
            _add_joint(page, part, joint, loci, threshold, word)
            if own.sumstats is not None:
                read = read_sumstats(own.sumstats).info.get("variants", {})
                part.sentences["joint"] += _left_out(read, joint)
    if loci is None:
        part.sentences["loci"] = UNFINISHED if given.group else "No table of loci was given."
        return
    page.tiles.append((f"{len(loci):,}", part.of(plural(len(loci), "locus", "loci")), reached))
    if loci.empty:
        part.sentences["loci"] = f"No variant reaches {reached}."
        return
    part.sentences["loci"] = (
        f"Lead variant of each locus, most significant first; {word}s are those with p < 0.05 "
        "divided by their number at the lead variant, ▲ where the effect allele raises them."
        + ("" if word == "latent" else " Each trait is tested in the people who have it.")
        + LEGEND_OF_LOCI
    )
    ordered = loci.sort_values("neg_log10_p", ascending=False, kind="stable")
    head = ["locus", "variant", "place", "nearest gene", "span, kb", "alleles", "frequency"]
    head += ["people", "−log₁₀ p", "R², %", "leads", "in LD", f"{word}s"]
    rows = [_locus_row(row, page.shareable) for row in ordered.head(MAX_ROWS).to_dict("records")]
    known = {"locus": "locus" in loci, "nearest gene": "nearest_gene" in loci}
    shown = [k for k, name in enumerate(head) if known.get(name, True)]
    part.loci = Table(
        [head[k] for k in shown],
        [[row[k] for k in shown] for row in rows],
        len(loci),
    )


def add_samples(page: Page, given: Inputs) -> None:
    """How many people's genotypes are flagged, by reason."""
    if given.samples_qc is None:
        return
    facts = given.facts or {}
    table = read_tsv(given.samples_qc, "samples_qc")
    flags = table["flags"].dropna().astype(str).str.split(",")
    counts = flags.explode().value_counts()
    if page.shareable:
        # The number checked would tell how few of those mapped were not; that of all flagged, how
        # few have a flag that is not told, or several flags.
        few = len(flags) < SMALLEST
        said = say_count(len(flags)) if few or len(counts) == 1 else f"{SMALLEST} or more"
        reasons = [] if few else [f"{say_count(n)} {flag}" for flag, n in counts.items()]
        page.sentences["samples"] = f"Genotypes were checked: {said} people flagged"
    else:
        reasons = [f"{n:,} {flag}" for flag, n in counts.items()]
        page.sentences["samples"] = (
            f"Genotypes of {len(table):,} people were checked: {len(flags):,} flagged"
        )
    page.sentences["samples"] += (
        (f" ({', '.join(reasons)})" if reasons else "")
        + ". Nobody was left out for it; samples_qc.tsv and related.tsv tell who, and a study's "
        "'keep' leaves people out."
    )
    unheeded = "related" in counts and "gwas" in facts and "mixed_model" not in facts
    if unheeded and not page.shareable:
        page.sentences["samples"] += (
            " Relatives were tested as if they were unrelated; mixed_model = true in [gwas] "
            "accounts for them."
        )
    if len(table) < MIN_TO_COMPARE:
        page.sentences["samples"] += (
            f" Heterozygosity, ancestry and relatives are not judged among fewer than "
            f"{MIN_TO_COMPARE} people."
        )


def add_replication(page: Page, given: Inputs) -> None:
    """The lead variants of each representation in other people."""
    for name, own in given.parts.items():
        if own.replication is not None:
            _add_replicated(page, page.parts[name], own.replication, own.loci)


def _add_replicated(page: Page, part: Part, replication: Path, loci: Path | None) -> None:
    """The lead variants of one representation in other people."""
    table = read_tsv(replication, "replication")
    if table.empty:
        return
    # a variant that leads two loci has a row for each, and counts once
    variants = table.drop_duplicates(["chromosome", "base_pair_location", "variant_id"])
    tested = variants[variants["replicated"].isin(["yes", "no"])]
    n_yes = int((tested["replicated"] == "yes").sum())
    said = f"{n_yes:,} of {len(tested):,}"
    page.tiles.append((said, part.of("lead variants replicated"), "one-sided, Bonferroni"))
    part.sentences["replication"] = (
        "Each lead variant was tested in other people by the combination of traits that it changed "
        f"in the discovery: {said} replicated{_directions(replication)}. The "
        "correlation r is above 0 where the direction is the discovery's."
    )
    part.replication = Table(
        ["variant", "place", "people", "r", "−log₁₀ p, one-sided", "replicated"],
        [
            [
                Cell(str(row["variant_id"]), kind="name"),
                Cell(f"{row['chromosome']}:{int(row['base_pair_location']):,}", kind="text"),
                number_cell(row["n"], 0),
                number_cell(row["r"], 3),
                number_cell(row["neg_log10_p"], 2),
                Cell(_replicated(row), kind="text"),
            ]
            for row in table.head(MAX_ROWS).to_dict("records")
        ],
        len(table),
    )
    if loci is not None:
        _add_scatter(part, table, read_tsv(loci, "loci"))


def _replicated(row: Mapping[Any, Any]) -> str:
    """Yes or no, or why a lead was not tested."""
    if not pd.isna(row["replicated"]):
        return str(row["replicated"])
    why = row.get("why_absent")
    return "–" if why is None or pd.isna(why) else f"– ({why})"


def _add_scatter(part: Part, table: pd.DataFrame, loci: pd.DataFrame) -> None:
    """Correlations of the leads with the traits in the discovery and in other people."""
    if "joint_r2" not in loci:
        return
    variant = [name for name in VARIANT_COLUMNS if name in table and name in loci]
    both = table.merge(loci[[*variant, "joint_r2"]], on=variant)
    both = both[np.isfinite(both["r"]) & (both["n"] > 2) & (both["joint_r2"] >= 0)]
    if both.empty:
        return
    discovery = np.sqrt(both["joint_r2"].to_numpy(np.float64))  # (n_leads,)
    r, n = both["r"].to_numpy(np.float64), both["n"].to_numpy(np.float64)
    se = np.sqrt((1 - np.minimum(r * r, 1)) / (n - 2))
    n_same = int((r > 0).sum())
    part.pictures["replication"] = picture(
        genetics_figures.replication(discovery, r, se, (both["replicated"] == "yes").to_numpy()),
        f"Correlation of {len(both):,} leads with the traits in other people against that in the "
        f"discovery: {n_same:,} in the same direction.",
        f"Each lead's correlation with its combination of traits: the discovery's, which chose the "
        f"combination and so is too high, against that of other people. Dashed line: equal. "
        f"{n_same:,} of {len(both):,} have the same direction.",
        wide=False,
    )


def _directions(replication: Path) -> str:
    """How many leads had the discovery's direction, as the summary beside the table tells."""
    beside = replication.with_suffix(".json")
    about = read_settings(beside) if beside.is_file() else {}
    if not {"n_same_direction", "p_sign_test"} <= about.keys():
        return ""
    return (
        f", {about['n_same_direction']:,} had the same direction (sign test, p\u00a0=\u00a0"
        f"{power(about['p_sign_test'])})"
    )


def _add_people(page: Page, given: Inputs, facts: Mapping[str, Mapping[str, Any]]) -> None:
    """The number of people in the association, or whose genotypes were checked.

    On a shared page it would tell, beside the number mapped, how few of them lack genotypes.
    """
    n = facts.get("gwas", {}).get("people")
    tested = any(own.joint is not None for own in given.parts.values())
    if n is None and tested and given.samples_qc is not None:
        n = len(read_tsv(given.samples_qc, "samples_qc"))
    if n is not None and not (page.shareable and page.images):
        said = say_count(n) if page.shareable else f"{n:,}"
        page.tiles.append((said, plural(n, "person", "people"), "in the association"))


def _add_joint(
    page: Page, part: Part, joint: Joint, loci: pd.DataFrame | None, threshold: float, word: str
) -> None:
    """Pictures and figures of a joint test with at least one variant."""
    reached = f"p\u00a0≤\u00a0{power(threshold)}"
    line = float(-np.log10(threshold))
    names = kernel.order_chromosomes(joint.names)
    rank = np.array([names.index(name) for name in joint.names])[joint.chromosome]
    place, edges = kernel.place_variants(rank, joint.position)
    kept = kernel.thin_points(place, joint.neg_log10_p)
    leads = []
    if loci is not None and not loci.empty:
        first = np.full(len(names), np.inf)
        np.minimum.at(first, rank, joint.position)
        ordered = loci.sort_values("neg_log10_p", ascending=False, kind="stable")
        for row in ordered.to_dict("records"):
            if row["chromosome"] in names:
                k = names.index(row["chromosome"])
                x = float(edges[k, 0] + row["base_pair_location"] - first[k])
                leads.append((x, float(row["neg_log10_p"]), str(row["variant_id"])))
    n = joint.neg_log10_p.size
    n_hits = int((joint.neg_log10_p >= line).sum())
    inflation = joint.about.get("lambda_gc")
    traits = len(joint.about.get("traits", []))
    of_traits = f" over {traits} {plural(traits, word)}" if traits else ""
    said = "" if inflation is None else f"inflation λ = {inflation:.3f}"
    page.tiles.append((f"{n:,}", part.of(f"{plural(n, 'variant')} tested"), said))
    test = "Exact F test of the canonical R²"
    if joint.about.get("mixed_model"):
        test = "Hotelling's T² of the statistics of a mixed model"
    part.sentences["joint"] = (
        f"{test} of each variant{of_traits}: {n:,} variants, {n_hits:,} "
        f"with {reached}{f', genomic {said}' if said else ''}."
    )
    more = len(leads) - figures.MAX_LABELS
    part.pictures["manhattan"] = picture(
        figures.manhattan(
            place[kept],
            rank[kept],
            joint.neg_log10_p[kept].astype(np.float64),
            edges,
            kernel.label_chromosomes(names),
            leads,
            line,
        ),
        f"Manhattan plot of the joint test: {n_hits:,} of {n:,} variants reach {reached}"
        + (f"; lead variants {', '.join(lead[2] for lead in leads[:8])}." if leads else "."),
        f"Joint test along the genome. Dashed line: p\u00a0=\u00a0{power(threshold)}"
        + ("; lead variants are named" if leads else "")
        + (f", the {figures.MAX_LABELS} most significant of {len(leads)}" if more > 0 else "")
        + ". Every variant with p\u00a0<\u00a010⁻³ is drawn; the others one per pixel.",
    )
    part.pictures["quantiles"] = picture(
        figures.quantiles(*kernel.quantile_points(joint.neg_log10_p)),
        f"Quantile-quantile plot of the joint test{f', {said}' if said else ''}.",
        "Quantiles against the null, with the 95% band of each rank for independent variants"
        + (f"; {said}." if said else "."),
        wide=False,
    )


def _left_out(read: Mapping[str, int], joint: Joint) -> str:
    """How many of the variants that were read have no joint test, and why.

    Parameters
    ----------
    read
        Variants of the association by what became of them, as in its manifest; `tested` is one.
    joint
        The joint test.
    """
    total, n = sum(read.values()), joint.neg_log10_p.size
    if "tested" not in read or total <= n:
        return ""
    why = {name: count for name, count in read.items() if name != "tested"}
    why["tested alone, but too few people for all traits at once"] = read["tested"] - n
    reasons = [f"{count:,} {name.replace('_', ' ')}" for name, count in why.items() if count > 0]
    return (
        f" The association read {total:,} variants; {total - n:,} have no joint test: "
        f"{', '.join(reasons)}."
    )


def _locus_row(row: Mapping[Any, Any], shareable: bool) -> list[Cell]:
    """One locus as cells; on a shared page no frequency that tells of fewer than 5 carriers."""
    position = int(row["base_pair_location"])
    start, end = row.get("start", position), row.get("end", position)
    alleles = f"{_clip(row.get('effect_allele', ''))} / {_clip(row.get('other_allele', ''))}"
    chromosome = str(row["chromosome"])
    frequency = number_cell(row.get("effect_allele_frequency"), 3)
    if shareable and {"effect_allele_frequency", "n"} <= row.keys():
        rarer = min(row["effect_allele_frequency"], 1 - row["effect_allele_frequency"])
        if round(2 * row["n"] * rarer) < SMALLEST:
            frequency = Cell(f"<{SMALLEST} copies", LAST, "number")
    place = 1e10 * (int(chromosome) if chromosome.isdigit() else 99) + position
    return [
        number_cell(row.get("locus"), 0),
        Cell(str(row["variant_id"]), kind="name"),
        Cell(f"{chromosome}:{position:,}", place),
        Cell(nearest_gene(row) or "–"),
        number_cell((end - start) / 1e3, 0),
        Cell(alleles),
        frequency,
        Cell(say_count(int(row["n"])), float(row["n"]) if row["n"] >= SMALLEST else LAST, "number")
        if shareable and "n" in row
        else number_cell(row.get("n"), 0),
        number_cell(row["neg_log10_p"], 1),
        Cell(f"{100 * row['joint_r2']:.3g}", float(row["joint_r2"]), "number")
        if "joint_r2" in row
        else Cell("–"),
        number_cell(row.get("n_leads"), 0),
        number_cell(row.get("n_clumped"), 0),
        carried_by(row),
    ]


def carried_by(row: Mapping[Any, Any]) -> Cell:
    """The traits that a lead variant changes by itself, with the direction and −log10 p of each."""
    names, betas, ps = (
        [part for part in str(row.get(column, "")).split(",") if part and part != "nan"]
        for column in ("traits", "traits_beta", "traits_neg_log10_p")
    )
    shown = [
        f"{re.sub('^(latent|component)_', '', name)} {'▼' if beta.startswith('-') else '▲'} "
        f"{float(p):.1f}"
        for name, beta, p in zip(names, betas, ps, strict=True)
    ]
    more = f", and {len(shown) - SHOWN_LATENTS} more" if len(shown) > SHOWN_LATENTS else ""
    said = ", ".join(shown[:SHOWN_LATENTS]) + more
    return Cell(said or "several, weakly", kind="text")


def _clip(allele: Any) -> str:
    return str(allele) if len(str(allele)) <= 6 else f"{str(allele)[:5]}…"


def nearest_gene(row: Mapping[Any, Any]) -> str:
    """Nearest gene and its distance; empty where none is known."""
    gene = row.get("nearest_gene")
    if gene is None or pd.isna(gene):
        return ""
    distance = row.get("nearest_gene_kb", np.nan)
    return f"{gene}" + ("" if pd.isna(distance) else f" ({distance:,.0f} kb)" if distance else "")

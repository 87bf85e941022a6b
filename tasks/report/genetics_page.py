"""The sections on genetics: single traits, regions, heritability, correlations and voxels."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.cluster import hierarchy
from scipy.spatial.distance import squareform

from axoloci.command import progress
from axoloci.errors import InputError
from axoloci.io.sumstats import read_sumstats
from axoloci.io.variants import VARIANT_COLUMNS
from axoloci.tasks.report import genetics_figures, kernel
from axoloci.tasks.report.association_page import carried_by, nearest_gene
from axoloci.tasks.report.content import MAX_ROWS, Page, Part
from axoloci.tasks.report.document import (
    LAST,
    Cell,
    Picture,
    Table,
    number_cell,
    photo_of_figure,
    picture,
    plural,
    to_ras,
    voxel_size,
)
from axoloci.tasks.report.genetics_inputs import (
    Correlations,
    read_correlations,
    read_heritability,
    read_map,
    read_regions,
    read_variant_map,
    traits_of_others,
)
from axoloci.tasks.report.inputs import (
    Inputs,
    Results,
    read_joint_about,
    read_threshold,
    read_tsv,
)
from axoloci.tasks.report.methods import power
from axoloci.tasks.report.sharing import SMALLEST, say_count
from axoloci.tasks.report.trait_scan import scan_traits, trait_quantiles

USELESS_SE = 0.3  # of a heritability, which is from 0 to 1
MAX_LOCI = 20  # of which pictures are drawn
MOST_CELLS = 150  # traits of a matrix whose values the page holds: 0.2 MB of them
MAP_FLOOR = 2.0  # −log10 p below which a voxel is not coloured


def add_traits(page: Page, given: Inputs) -> None:
    """Manhattan and quantile plots of the single traits of each representation."""
    for name, own in given.parts.items():
        if own.sumstats is not None:
            _add_traits(page.parts[name], own, page.word)


def _add_traits(part: Part, own: Results, word: str) -> None:
    """The traits of one representation, from one pass over the store."""
    assert own.sumstats is not None
    store = read_sumstats(own.sumstats)
    about = {} if own.joint is None else read_joint_about(own.joint)
    traits: list[str] = about.get("traits") or store.traits
    absent = sorted(set(traits) - set(store.traits))
    if absent:
        raise InputError(
            f"{own.sumstats}: has no trait {', '.join(absent[:3])}, of which {own.joint} is; give "
            "the store that the joint test is of"
        )
    columns = [store.traits.index(name) for name in traits]
    n_parts = len(store.info["parts"])
    threshold = read_threshold(own.loci)
    line = float(-np.log10(threshold))
    scan = scan_traits(progress(store.blocks(), "single traits", n_parts), columns, line)
    if scan.position.size == 0:
        part.sentences["traits"] = f"No variant could be tested for any {word}."
        return
    inflation, hits = store.inflation()[columns], scan.hits
    reached = f"p\u00a0≤\u00a0{power(threshold)}"
    part.sentences["traits"] = (
        f"Each of {len(traits):,} {plural(len(traits), word)} alone: {int((hits > 0).sum()):,} "
        f"have variants with {reached}; genomic inflation λ from {np.nanmin(inflation):.3f} to "
        f"{np.nanmax(inflation):.3f}, median {np.nanmedian(inflation):.3f}."
    )
    names = kernel.order_chromosomes(scan.names)
    rank = np.array([names.index(name) for name in scan.names])[scan.chromosome]
    place, edges = kernel.place_variants(rank, scan.position)
    kept = kernel.thin_points(
        place, scan.neg_log10_p, kernel.KEEP_ABOVE + float(np.log10(len(traits)))
    )
    top = sorted(range(len(traits)), key=lambda k: -np.nan_to_num(scan.lead_neg_log10_p[k]))
    part.pictures["traits"] = picture(
        genetics_figures.strongest_traits(
            place[kept],
            rank[kept],
            scan.neg_log10_p[kept].astype(np.float64),
            scan.strongest[kept],
            edges,
            kernel.label_chromosomes(names),
            traits,
            (line, line + float(np.log10(len(traits)))),
        ),
        f"Manhattan plot of the strongest {word} of each variant; the most significant are "
        + ", ".join(f"{scan.lead[k]} for {traits[k]}" for k in top[:4])
        + ".",
        f"Of each variant the {word} with the smallest p, coloured for the {word}s with the most "
        f"significant ones. Dashed line: p\u00a0=\u00a0{power(threshold)}; dotted line: that "
        f"divided by the number of {word}s.",
    )
    curves = [trait_quantiles(scan, k) for k in range(len(traits))]
    n = int(
        max(len(tail) + counts.sum() for tail, counts in zip(scan.tails, scan.counts, strict=True))
    )
    rank = np.unique(np.round(np.geomspace(1, n, 200)).astype(np.int64))
    expected, band = -np.log10((rank - 0.5) / n), kernel.null_band(rank, n)
    part.pictures["trait_quantiles"] = picture(
        genetics_figures.trait_quantiles(curves, (expected, band), inflation, traits),
        f"Quantile-quantile plot of each {word}, and its genomic inflation: λ from "
        f"{np.nanmin(inflation):.3f} to {np.nanmax(inflation):.3f}.",
        f"Left: quantiles of each {word} against the null, with the 95% band of each rank for "
        f"independent variants. Right: genomic inflation λ of each {word}.",
    )
    rows = [
        [
            Cell(traits[k], kind="name"),
            number_cell(inflation[k], 3),
            number_cell(hits[k], 0),
            Cell(scan.lead[k] or "–"),
            number_cell(scan.lead_neg_log10_p[k], 1),
        ]
        for k in top
    ]
    head = [word, "λ", f"variants with {reached}", "strongest variant", "its −log₁₀ p"]
    part.traits = Table(head, rows[:MAX_ROWS], len(rows))


def add_regions(page: Page, given: Inputs) -> None:
    """Pictures of the loci, and what is left at each given its leads."""
    for name, own in given.parts.items():
        part = page.parts[name]
        signals = None if own.signals is None else read_tsv(own.signals, "signals")
        if signals is not None:
            _add_signals(page, part, signals)
        if own.regions is not None and own.loci is not None:
            _add_regions(part, own, signals)


def _add_signals(page: Page, part: Part, signals: pd.DataFrame) -> None:
    """Table of the signals at each locus after conditioning."""
    n_loci = signals["locus"].nunique()
    several = int((signals.groupby("locus").size() > 1).sum())
    part.sentences["signals"] = (
        f"{len(signals):,} {plural(len(signals), 'signal')} at {n_loci:,} "
        f"{plural(n_loci, 'locus', 'loci')}, {several:,} of them with more than one: the joint "
        "test of each variant given all leads before it, until none is left."
    )
    tells_traits = "traits" in signals
    if tells_traits:
        part.sentences["signals"] += (
            f" {page.word.capitalize()}s are those with p < 0.05 divided by their number, given "
            "these leads too."
        )
    rows = []
    for row in signals.head(MAX_ROWS).to_dict("records"):
        people = number_cell(row.get("n"), 0)
        if page.shareable and "n" in row and row["n"] < SMALLEST:
            people = Cell(say_count(int(row["n"])), LAST, "number")
        rows.append(
            [
                number_cell(row["locus"], 0),
                number_cell(row["round"], 0),
                Cell(str(row["variant_id"]), kind="name"),
                Cell(f"{row['chromosome']}:{int(row['base_pair_location']):,}"),
                people,
                number_cell(row["neg_log10_p"], 1),
                number_cell(100 * row.get("joint_r2", np.nan), 2),
            ]
        )
        if tells_traits:
            rows[-1].append(carried_by(row) if np.isfinite(row["neg_log10_p"]) else Cell("–"))
    head = ["locus", "round", "variant", "place", "people", "−log₁₀ p given the leads", "R², %"]
    head += [f"{page.word}s"] if tells_traits else []
    part.signals = Table(head, rows, len(signals))


def _add_regions(part: Part, own: Results, signals: pd.DataFrame | None) -> None:
    """A picture a locus, of the most significant ones."""
    assert own.loci is not None
    assert own.regions is not None
    loci = read_tsv(own.loci, "loci")
    if "locus" not in loci or loci.empty:
        return
    shown = loci.sort_values("neg_log10_p", ascending=False, kind="stable").head(MAX_LOCI)
    found = read_regions(own.regions, [int(locus) for locus in shown["locus"]])
    line = float(-np.log10(read_threshold(own.loci)))
    for row in shown.to_dict("records"):
        rows, name = found[int(row["locus"])], str(row["variant_id"])
        lead = np.flatnonzero(is_variant(rows, row))
        if not len(lead):
            raise InputError(
                f"{own.regions}: locus {row['locus']} lacks its lead {name} of {own.loci}; make "
                "both by the same run of axoloci-genetics loci"
            )
        left = []
        if signals is not None:
            mine = signals[(signals["locus"] == row["locus"]) & ~is_variant(signals, row)]
            left = [
                (float(one["base_pair_location"]), f"round {one['round']:.0f}")
                for one in mine.to_dict("records")
            ]
        # of several alleles at one place, whose variants may have one name, that of the same p
        strength = rows["neg_log10_p"].to_numpy(np.float64)
        at = int(lead[np.argmin(np.abs(strength[lead] - row["neg_log10_p"]))])
        position = rows["base_pair_location"].to_numpy()
        gene = nearest_gene(row)
        figure = genetics_figures.region(
            position,
            strength,
            rows["r2"].to_numpy(np.float64),
            at,
            left,
            line,
            str(row["chromosome"]),
        )
        in_ld = int((rows["r2"] >= genetics_figures.LD_EDGES[-1]).sum()) - 1
        part.regions.append(
            picture(
                figure,
                f"Regional plot of locus {row['locus']}: {name} with −log10 p "
                f"{row['neg_log10_p']:.1f}, {len(rows):,} variants over "
                f"{np.ptp(position) / 1e3:,.0f} kb, {max(in_ld, 0):,} others with r² of 0.8 or "
                "more.",
                f"Locus {row['locus']}: {name}" + (f", nearest gene {gene}" if gene else ""),
                wide=False,
            )
        )
    more = len(loci) - len(shown)
    said = ["Diamond: lead variant; colour: r² with it, open circles where that is not known."]
    if signals is not None:
        said.append("Dotted lines: further signals given the lead, with their round.")
    if more > 0:
        said.append(f"The {MAX_LOCI} most significant loci; {more:,} others are in the tables.")
    part.sentences["regions"] = " ".join(said)


def is_variant(table: pd.DataFrame, variant: Mapping[Any, Any]) -> NDArray[np.bool_]:
    """Rows of a variant: alike in all of place, name and alleles that both tell.

    Its name alone would not do, for many variants of a file may be named ".".
    """
    same = np.ones(len(table), dtype=bool)
    for name in VARIANT_COLUMNS:
        if name in table and name in variant:
            same &= (table[name] == variant[name]).to_numpy()
    return same


def add_heritability(page: Page, given: Inputs) -> None:
    """Heritability of the traits of each representation."""
    for name, own in given.parts.items():
        table = read_heritability(own)
        if not table.empty:
            _add_heritability(page.parts[name], table, page.word, traits_of_others(own))


def _add_heritability(part: Part, table: pd.DataFrame, word: str, others: set[str]) -> None:
    """Bars and table of one representation, the most heritable trait first.

    The sentence sums up its own traits, without those of `others`, who are other studies.
    """
    estimates = [
        (label, *_values(table, value, f"{value}_se"))
        for label, value in (
            ("Haseman–Elston regression", "h2"),
            ("LD score regression", "h2_ldsc"),
        )
        if value in table
    ]
    order = np.argsort(-np.nan_to_num(estimates[0][1], nan=-np.inf), kind="stable")
    table = table.iloc[order]
    estimates = [(label, value[order], error[order]) for label, value, error in estimates]
    h2, se = estimates[0][1:]
    last = int(np.isfinite(h2).sum()) - 1
    is_own = ~table["trait"].isin(others).to_numpy()
    known = h2[np.isfinite(h2) & is_own]
    if not known.size:
        return
    n_clear = int((h2 > 1.96 * se)[is_own].sum())
    part.sentences["heritability"] = (
        f"SNP heritability of {known.size:,} {plural(known.size, word)}, {estimates[0][0]}: "
        f"mean h² {known.mean():.3f}, from {known[-1]:.3f} to {known[0]:.3f}; {n_clear:,} are more "
        "than 1.96 standard errors above 0."
        + (
            " λ and the intercept of LD score regression stand side by side: an intercept near 1 "
            "says that λ is polygenicity, not confounding."
            if "intercept" in table and "lambda_gc" in table
            else ""
        )
        + (
            f" The standard errors are about {error:.1f}: of so few people these figures, and the "
            "genetic correlations, tell nothing; heritability takes thousands."
            if (error := float(np.nanmedian(se[is_own]))) > USELESS_SE
            else ""
        )
    )
    names = table["trait"].tolist()
    part.pictures["heritability"] = picture(
        genetics_figures.heritability(names, estimates),
        f"Bars of SNP heritability with standard errors: highest for {names[0]} ({h2[0]:.2f} ± "
        f"{se[0]:.2f}), lowest for {names[last]} ({h2[last]:.2f} ± {se[last]:.2f}).",
        f"SNP heritability of each {word} ± standard error"
        + (", by both estimators." if len(estimates) > 1 else "."),
    )
    shown = {
        "h2": "h²",
        "h2_se": "SE",
        "h2_ldsc": "h², LDSC",
        "h2_ldsc_se": "SE, LDSC",
        "lambda_gc": "λ",
        "intercept": "intercept, LDSC",
        "intercept_se": "SE of the intercept",
    }
    columns = [name for name in shown if name in table]
    rows = [
        [Cell(str(row["trait"]), kind="name"), *(number_cell(row[name], 3) for name in columns)]
        for row in table.head(MAX_ROWS).to_dict("records")
    ]
    part.heritability = Table([word, *(shown[name] for name in columns)], rows, len(table))


def _values(
    table: pd.DataFrame, value: str, error: str
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Estimates and standard errors, NaN where there is none."""
    h2 = np.asarray(table[value], dtype=np.float64)
    se = np.asarray(table[error], dtype=np.float64) if error in table else np.full(len(h2), np.nan)
    return h2, se


def add_correlations(page: Page, given: Inputs) -> None:
    """Genetic correlations of the traits of each representation."""
    for name, own in given.parts.items():
        found = read_correlations(own)
        if found is not None:
            _add_correlations(page.parts[name], found)


def _add_correlations(part: Part, found: Correlations) -> None:
    """Matrix and table of one representation."""
    order = cluster_order(found.genetic)
    ordered = np.ix_(order, order)
    genetic, phenotypic = found.genetic[ordered], found.phenotypic[ordered]
    significant = found.significant[ordered]
    traits = [found.traits[k] for k in order]
    n_pairs, n_clear = len(found.table), int(np.triu(significant, 1).sum())
    part.sentences["correlations"] = (
        f"Genetic correlations of {n_pairs:,} {plural(n_pairs, 'pair')}, {n_clear:,} of them with "
        f"p < 0.05 divided by {n_pairs:,}. Estimates may lie beyond ±1; the picture ends there."
    )
    figure, box = genetics_figures.correlations(genetic, phenotypic, significant, traits)
    first = found.table.iloc[0]
    cells = (
        {
            "box": [round(edge, 4) for edge in box],
            "names": traits,
            "below": _rounded(genetic),
            "above": _rounded(phenotypic),
            "words": ["genetic correlation", "phenotypic correlation"],
        }
        if len(traits) <= MOST_CELLS
        else None
    )
    part.pictures["correlations"] = picture(
        figure,
        f"Matrix of genetic and phenotypic correlations of {len(traits):,} traits; the clearest "
        f"genetic one is that of {first['trait_1']} and {first['trait_2']}, {first['rg']:.2f}.",
        "Genetic correlations below the diagonal, phenotypic ones above it; dots: "
        f"p < 0.05/{n_pairs:,}. Traits are in the order of hierarchical clustering (average "
        "linkage) by the size of their genetic correlations, whatever the sign.",
        wide=False,
        cells="" if cells is None else json.dumps(cells, separators=(",", ":")),
    )
    part.correlations = Table(
        ["trait", "and trait", "genetic", "SE", "−log₁₀ p", "phenotypic"],
        [
            [
                Cell(row["trait_1"], kind="name"),
                Cell(row["trait_2"], kind="name"),
                *(number_cell(row[name], 3) for name in ("rg", "rg_se")),
                number_cell(row["neg_log10_p"], 2),
                number_cell(row["phenotypic_correlation"], 3),
            ]
            for row in found.table.head(MAX_ROWS).to_dict("records")
        ],
        n_pairs,
    )


def _rounded(matrix: NDArray[np.float64]) -> list[list[float | None]]:
    """Numbers with two decimals for JSON, none for NaN."""
    return [
        [round(value, 2) if np.isfinite(value) else None for value in row]
        for row in matrix.tolist()
    ]


def cluster_order(correlation: NDArray[np.float64]) -> NDArray[np.int64]:
    """An order in which traits of high correlation, of either sign, are neighbours.

    Parameters
    ----------
    correlation
        [float64, shape: (n, n)] Symmetric; NaN counts as 0.

    Returns
    -------
    [int64, shape: (n,)] Leaves of average-linkage clustering of 1 − |correlation|.
    """
    if len(correlation) < 3:
        return np.arange(len(correlation))
    distance = 1 - np.minimum(np.abs(np.nan_to_num(correlation)), 1)  # (n, n)
    np.fill_diagonal(distance, 0)
    tree = hierarchy.linkage(squareform(distance, checks=False), method="average")
    return np.asarray(hierarchy.leaves_list(tree), dtype=np.int64)


def add_voxels(page: Page, given: Inputs) -> None:
    """Maps of the leads' effects on voxels, and of the voxels' heritability."""
    for name, own in given.parts.items():
        part = page.parts[name]
        if own.voxels is not None:
            _add_variant_maps(page, part, own, _measure_of(page, name))
        if own.voxel_h2 is not None:
            measure = _measure_of(page, name)
            part.pictures["voxel_h2"] = _heritability_map(
                page, measure, own.voxel_h2, own.voxel_h2_se
            )


def _measure_of(page: Page, representation: str) -> str:
    """What the values of voxels are: an autoencoder makes maps that are z-scored each."""
    return f"z-scored {page.measure}" if representation == "autoencoder" else page.measure


def _add_variant_maps(page: Page, part: Part, own: Results, measure: str) -> None:
    """Three planes through the peak of each lead's map."""
    assert own.voxels is not None
    table = read_tsv(own.voxels / "index.tsv", "voxels")
    if page.shareable:
        enough = _carried_by_enough(own.loci)
        shareable = [bool(is_variant(enough, row).any()) for row in table.to_dict("records")]
        table = table[np.array(shareable, dtype=bool)]
    shown = table.head(MAX_LOCI)
    for _, row in shown.iterrows():
        found = read_variant_map(own.voxels, row)
        where = np.array([row[axis] for axis in ("peak_x", "peak_y", "peak_z")], dtype=np.float64)
        strength = float(abs(found.signed[found.peak]))
        told = ", ".join(f"{value:.0f}" for value in where).replace("-", "−")
        locus = "" if pd.isna(row["locus"]) else f"Locus {row['locus']:.0f}: "
        allele = str(row.get("effect_allele", "the effect allele"))[:16]
        figure = genetics_figures.voxel_planes(
            *_canonical(page, found.signed, found.affine, found.peak),
            voxel_size(found.affine),
            where.tolist(),
            label="−log₁₀ p, signed by the effect",
            signed=True,
            floor=MAP_FLOOR,
        )
        part.voxels.append(
            photo_of_figure(
                figure,
                f"Effect of {row['variant_id']} on {measure} in three planes through its "
                f"peak at ({told}) mm, −log10 p {strength:.1f}.",
                f"{locus}{row['variant_id']}; peak at ({told}) mm, −log₁₀ p "
                f"{strength:.1f}. Red: {allele} raises {measure}, blue: it lowers it.",
            )
        )
    more = len(table) - len(shown)
    part.sentences["voxels"] = (
        f"Effects of {len(table):,} lead {plural(len(table), 'variant')} on each voxel's "
        f"{measure}, in the maps that the latents make: {_whose_noise(table)}. Lines mark the "
        f"peak, voxels with −log₁₀ p below {MAP_FLOOR:g} are not coloured. Left of the picture is "
        "left of the person."
        + (
            " Z-scored: of each person's map its own mean is taken off, and it is divided by its "
            "own standard deviation, so that an effect here is relative to the rest of the map."
            if measure != page.measure
            else ""
        )
        + (
            " The decoder was taken as linear, by its mean derivative at some people's latents, so "
            "these maps are an approximation."
            if "linearised" in table and (table["linearised"] == "yes").any()
            else ""
        )
        + (f" The first {MAX_LOCI} are drawn; the folder has {more:,} others." if more > 0 else "")
    )


def _whose_noise(table: pd.DataFrame) -> str:
    """What p of maps is against, by their index."""
    if "noise_of" in table and table["noise_of"].isin(["voxel", "both"]).all():
        return "p is against the noise of the voxel itself"
    return "p is smaller than that of a voxel itself, whose noise the latents leave out"


def _carried_by_enough(loci: Path | None) -> pd.DataFrame:
    """Leads with so many copies of the rarer allele that a map of them is no single person's."""
    table = pd.DataFrame() if loci is None else read_tsv(loci, "loci")
    if not {"effect_allele_frequency", "n"} <= set(table.columns):
        return table.iloc[:0]
    frequency = table["effect_allele_frequency"]
    copies = (2 * table["n"] * np.minimum(frequency, 1 - frequency)).round()
    return table[copies >= SMALLEST]


def _canonical(
    page: Page, values: NDArray[np.float32], affine: NDArray[np.float64], peak: tuple[int, int, int]
) -> tuple[NDArray[Any] | None, NDArray[Any], tuple[int, int, int]]:
    """Background, values and the peak's voxel along right, anterior, superior axes."""
    background = None
    if page.background is not None:
        mean, own = page.background
        if mean.shape == values.shape and np.allclose(own, affine, atol=1e-3):
            background = to_ras(mean, own)
    marked = np.zeros(values.shape, dtype=np.uint8)
    marked[peak] = 1
    x, y, z = map(int, np.argwhere(to_ras(marked, affine))[0])
    return background, to_ras(values, affine), (x, y, z)


def _heritability_map(page: Page, measure: str, h2_file: Path, se_file: Path | None) -> Picture:
    """Three planes through the voxel of the highest h²."""
    h2, affine = read_map(h2_file)
    told = ""
    x, y, z = map(int, np.unravel_index(int(np.argmax(h2)), h2.shape))
    if se_file is not None:
        se, other = read_map(se_file)
        if se.shape != h2.shape or not np.allclose(affine, other):
            raise InputError(f"{h2_file} and {se_file} are of different grids")
        told = f" ± {se[x, y, z]:.2f}"
    where = (affine @ [x, y, z, 1])[:3]
    floor = 0.05 * float(h2.max())
    place = ", ".join(f"{value:.0f}" for value in where).replace("-", "−")
    figure = genetics_figures.voxel_planes(
        *_canonical(page, h2, affine, (x, y, z)),
        voxel_size(affine),
        where.tolist(),
        label="SNP heritability h²",
        signed=False,
        floor=floor,
    )
    return photo_of_figure(
        figure,
        f"Heritability of each voxel's {measure} in three planes through its highest value, "
        f"{h2[x, y, z]:.2f} at ({place}) mm.",
        f"SNP heritability h² of each voxel's {measure}, by way of the latents; the "
        f"highest is {h2[x, y, z]:.2f}{told} at "
        f"({place}) mm{' (± standard error there)' if told else ''}. It is the maximum over "
        f"{np.count_nonzero(h2):,} voxels, chosen for being high: an overestimate, and no finding "
        "by itself. "
        f"Values below {floor:.2g} are not coloured.",
    )

"""`axoloci-gwas condition`."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import click
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from axoloci import __version__
from axoloci.command import columns_help, progress
from axoloci.errors import InputError
from axoloci.io.files import write_json
from axoloci.io.loci import TRAITS_MEANING, read_loci, read_loci_settings, traits_of_variant
from axoloci.io.tables import write_tsv
from axoloci.io.variants import VARIANT_COLUMNS, VARIANT_MEANING
from axoloci.tasks.gwas import condition as conditioning
from axoloci.tasks.gwas import engine, kernel
from axoloci.tasks.gwas.inputs import AnalysisInputs, Study, examples, prepare
from axoloci.tasks.gwas.options import FILE, analysis_inputs
from axoloci.tasks.gwas.ploidy import Ploidy, ploidy_of
from axoloci.tasks.gwas.variant_qc import VariantFilter

log = logging.getLogger("axoloci")

SAME_P = 0.01
"""How far −log10 p of a lead may be from the table's, absolutely and as a share of it.

That much is left by statistics in float32 and the digits of the table.
"""
SIGNAL_COLUMNS = {
    "locus": "Number of the nearest locus of --loci.",
    "round": "0: its lead; then 1, 2, … in the order in which they were found.",
    **VARIANT_MEANING,
    "effect_allele_frequency": "0 to 1, among the people tested.",
    "n": "People with its genotype.",
    "neg_log10_p": "−log10 p of the joint test given all signals before it, here and nearby.",
    "joint_r2": "Share of the variant's variance that all traits explain together, given these, "
    "0 to 1.",
    **TRAITS_MEANING,  # given these signals, as the joint test
}


@click.command(epilog=columns_help(out=SIGNAL_COLUMNS))
@analysis_inputs
@click.option(
    "--loci",
    "loci_path",
    required=True,
    type=FILE,
    help="Table of axoloci-genetics loci, found with the same people, traits and covariates.",
)
@click.option(
    "--window-kb",
    type=click.FloatRange(min=0),
    default=conditioning.WINDOW_KB,
    help="How far to each side of a locus variants are tested, kb.",
)
@click.option(
    "--p-threshold",
    type=click.FloatRange(0, 1, min_open=True),
    default=conditioning.P_THRESHOLD,
    help="A further signal has a smaller p, given all signals before it.",
)
@click.option(
    "--threads",
    type=click.IntRange(min=1),
    default=None,
    help="CPU threads; without it OMP_NUM_THREADS, or all cores where that is not set.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default="signals.tsv",
    help="Table, one row an independent signal; the settings go beside it as .json.",
)
def condition(
    inputs: AnalysisInputs,
    loci_path: Path,
    window_kb: float,
    p_threshold: float,
    threads: int | None,
    out: Path,
) -> None:
    """Find the independent signals of each locus: its lead, and what is left beyond it.

    The lead becomes a covariate, all variants of the locus and about it are tested anew with all
    traits jointly, the strongest is the next signal, and so on until none is left. Loci whose
    windows overlap are adjusted for each other's leads, and what is found counts for the nearer.

    Give the options of axoloci-gwas associate, all tables of traits among them: people are those
    whom it tested. The traits are those of the joint test, by their names beside the table of loci.
    The joint p of the leads must be that of the table. Of a mixed model there is no conditional
    association.
    """
    loci, traits = _read_loci(loci_path)
    study = _with_complete_traits(_of_traits(prepare(inputs), traits, loci_path, inputs), inputs)
    loci["row"] = _rows_of(loci, loci_path, study)
    margin = round(1000 * window_kb)
    n_threads = threads or engine.default_threads()
    designs: dict[Ploidy, engine.Design] = {}
    groups = _groups(loci, margin)
    found = []
    for group in progress(groups, "conditional association", len(groups)):
        ploidy = ploidy_of(group["chromosome"].iloc[0])
        if ploidy not in designs:
            designs[ploidy] = engine.design_of(study, ploidy)
        signals = _signals_of(
            group, margin, study, designs[ploidy], p_threshold, inputs.limits, n_threads
        )
        _refuse_another_test(group, signals[0], loci_path, study)
        found.append(_table_of(signals, group, study.source.variants, study.traits))
    empty = pd.DataFrame(columns=list(SIGNAL_COLUMNS))
    table = pd.concat(found).sort_values(["locus", "round"]) if found else empty
    write_tsv(out, table)
    write_json(
        out.with_suffix(".json"),
        {
            "axoloci": __version__,
            "p_threshold": p_threshold,
            "window_kb": window_kb,
            "n_loci": len(loci),
            "n_signals": len(table),
            "n_samples": len(study.people),
            "traits": study.traits,
            "loci": loci_path.name,
            "genotypes": study.source.path.name,
        },
    )
    log.info("%d independent signals at %d loci", len(table), len(loci))


def _read_loci(path: Path) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Loci with number, place and lead, not of a mixed model; their traits, none if not noted."""
    whole = ["locus", "start", "end", "base_pair_location"]
    needed = [*whole, "neg_log10_p", *(name for name in VARIANT_COLUMNS if name not in whole)]
    table = read_loci(path, needed)
    about = read_loci_settings(path)
    if about.get("mixed_model"):
        raise InputError(
            f"{path}: these loci are of a mixed model (associate --loco), and conditional "
            "association is by linear regression, which does not account for relatives"
        )
    return table[needed], tuple(about["traits"])


def _of_traits(study: Study, wanted: Sequence[str], path: Path, inputs: AnalysisInputs) -> Study:
    """The study with the traits of the joint test alone, and all people; all, if none are noted."""
    if not wanted:
        return study
    absent = [name for name in wanted if name not in study.traits]
    if absent:
        raise InputError(
            f"{path}: its joint test is of {examples(absent, 'traits')} that {inputs.named_traits} "
            f"{'lacks or --trait does not name' if inputs.trait else 'lacks'}; give the options of "
            "axoloci-gwas associate"
        )
    columns = [study.traits.index(name) for name in wanted]
    return replace(study, traits=list(wanted), trait_values=study.trait_values[:, columns])


def _refuse_another_test(
    group: pd.DataFrame, first: conditioning.Signal, path: Path, study: Study
) -> None:
    """Raise where the strongest lead, which is given no other, is not as strong as in the table."""
    lead = group[group["row"] == first.row].iloc[0]
    expected = float(lead["neg_log10_p"])
    if abs(first.neg_log10_p - expected) <= SAME_P + SAME_P * expected:  # False of NaN
        return
    raise InputError(
        f"{path}: {lead['variant_id']} has −log10 p = {expected:.4g} there, and "
        f"{first.neg_log10_p:.4g} in the joint test of {len(study.traits)} traits and "
        f"{first.n} people here: traits, people or covariates are others; give the options of "
        "axoloci-gwas associate, and by --trait the traits of axoloci-genetics joint"
    )


def _with_complete_traits(study: Study, inputs: AnalysisInputs) -> Study:
    """The study without traits that are constant or that someone lacks."""
    table = pd.DataFrame(study.trait_values, columns=study.traits)
    varies = table.min() < table.max()
    for name in table.columns[~varies]:
        log.warning("trait %s is left out: it is constant", name)
    table = table.loc[:, varies]
    lacked = table.isna().any()
    if lacked.any():  # as the joint test leaves them out
        log.warning(
            "left out of the joint test, for some people lack them: %s",
            ", ".join(table.columns[lacked]),
        )
        table = table.loc[:, ~lacked]
    if table.empty:
        raise InputError(
            f"{inputs.named_traits}: no trait can be tested; each is constant, or lacked by "
            "someone: see --complete-traits"
        )
    return replace(study, traits=list(table.columns), trait_values=table.to_numpy())


def _rows_of(loci: pd.DataFrame, path: Path, study: Study) -> NDArray[np.int64]:
    """Row of each lead among the variants of the study."""
    source = study.source
    near = source.variants
    near = near[near["base_pair_location"].isin(loci["base_pair_location"])]
    near = near[~near.duplicated(VARIANT_COLUMNS)]
    keys = pd.MultiIndex.from_frame(near[VARIANT_COLUMNS])
    found = keys.get_indexer(pd.MultiIndex.from_frame(loci[VARIANT_COLUMNS]))
    absent = loci.loc[found < 0, "variant_id"].tolist()
    if absent:
        raise InputError(
            f"{source.path}: lacks {examples(absent, 'lead variants')} of {path}, or has other "
            "alleles or positions for them; give the genotypes in which these loci were found"
        )
    return near.index.to_numpy(np.int64)[found]


def _groups(loci: pd.DataFrame, margin: int) -> list[pd.DataFrame]:
    """Loci whose windows overlap, with `margin` base pairs to each side."""
    ordered = loci.sort_values(["chromosome", "start"])
    reach = ordered.groupby("chromosome")["end"].cummax().shift()  # of all loci before
    begins = (ordered["chromosome"] != ordered["chromosome"].shift()) | (
        ordered["start"] - margin > reach + margin
    )
    return [group for _, group in ordered.groupby(begins.cumsum())]


def _signals_of(
    group: pd.DataFrame,
    margin: int,
    study: Study,
    design: engine.Design,
    p_threshold: float,
    limits: VariantFilter,
    n_threads: int,
) -> list[conditioning.Signal]:
    """Those of the loci of a group, the leads first, strongest first."""
    chromosome = group["chromosome"].iloc[0]
    if design.matrix is None:
        raise InputError(
            f"chromosome {chromosome}: {len(design.sample_index)} people are too few to test it"
        )
    source, variants = study.source, study.source.variants
    first, last = group["start"].min() - margin, group["end"].max() + margin
    inside = (variants["chromosome"] == chromosome) & variants["base_pair_location"].between(
        first, last
    )
    return conditioning.independent_signals(
        lambda start, stop: source.read(start, stop, design.sample_index),
        _pieces(
            np.flatnonzero(inside),
            kernel.block_variants("cpu", len(design.sample_index), len(study.traits)),
        ),
        group.sort_values("neg_log10_p", ascending=False)["row"].tolist(),
        study.trait_values[design.chosen],
        design.matrix,
        study.traits,
        p_threshold=p_threshold,
        variant_filter=limits,
        copies=design.copies,
        n_threads=n_threads,
    )


def _pieces(rows: NDArray[np.int64], size: int) -> list[tuple[int, int]]:
    """Start and stop of runs of increasing rows, of at most so many each."""
    runs = np.split(rows, np.flatnonzero(np.diff(rows) > 1) + 1)
    return [
        (int(run[k]), int(run[min(k + size, len(run)) - 1]) + 1)
        for run in runs
        for k in range(0, len(run), size)
    ]


def _table_of(
    signals: Sequence[conditioning.Signal],
    group: pd.DataFrame,
    variants: pd.DataFrame,
    traits: Sequence[str],
) -> pd.DataFrame:
    """A row a signal, with `SIGNAL_COLUMNS`: of the nearest locus, in the rounds of that locus."""
    table = variants.iloc[[signal.row for signal in signals]][VARIANT_COLUMNS]
    position = table["base_pair_location"].to_numpy()[:, None]
    start, end = group["start"].to_numpy(), group["end"].to_numpy()
    distance = np.maximum(np.maximum(start - position, position - end), 0)  # (signals, loci)
    nearest = group["locus"].to_numpy()[distance.argmin(axis=1)]
    table = table.assign(
        locus=nearest,
        effect_allele_frequency=[signal.effect_allele_frequency for signal in signals],
        n=[signal.n for signal in signals],
        neg_log10_p=[signal.neg_log10_p for signal in signals],
        joint_r2=[signal.r2 for signal in signals],
    )
    carried = [traits_of_variant(traits, s.beta, s.trait_neg_log10_p) for s in signals]
    table[list(TRAITS_MEANING)] = pd.DataFrame(carried, table.index)
    return table.assign(round=table.groupby("locus").cumcount())[list(SIGNAL_COLUMNS)]

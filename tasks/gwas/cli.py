"""`axoloci-gwas`: genotype components, association, residuals, export."""

from __future__ import annotations

import logging
import os
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import click
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from axoloci import __version__
from axoloci.command import progress, step_group
from axoloci.errors import InputError
from axoloci.io.files import sha256, write_text
from axoloci.io.genotypes import Genotypes, open_genotypes
from axoloci.io.loco import Loco, read_loco, write_loco
from axoloci.io.sumstats import (
    Sumstats,
    SumstatsWriter,
    TraitRange,
    begun_ranges,
    plan_parts,
    read_sumstats,
    trait_ranges,
)
from axoloci.io.sumstats_text import FORMATS, p_text, write_sumstats_text
from axoloci.tasks.gwas import engine, kernel, memory, pca, sample_qc
from axoloci.tasks.gwas.commands.condition import condition
from axoloci.tasks.gwas.engine import Beside
from axoloci.tasks.gwas.inputs import (
    AnalysisInputs,
    examples,
    prepare,
    read_pcs,
    select_people,
)
from axoloci.tasks.gwas.loco import MAX_MISSING, MIN_MAF, fit_mixed
from axoloci.tasks.gwas.options import FILE, GENOTYPES_HELP, analysis_inputs
from axoloci.tasks.gwas.permutation import N_PERMUTED
from axoloci.tasks.gwas.ploidy import Ploidy, ploidy_of
from axoloci.tasks.gwas.relatedness import warn_of_relatives
from axoloci.tasks.gwas.relationship import N_PROBES
from axoloci.tasks.gwas.residuals import residuals

log = logging.getLogger("axoloci")

main = step_group(
    __name__, "Genome-wide association of all traits in one reading of the genotypes."
)
main.add_command(residuals)
main.add_command(condition)

MOST_NAMED = 6  # traits, in a line
SHARED_WITH_RIDGE = {  # fields of its inputs, by their options
    "formula": "--model",
    "covariate": "--covariate",
    "categorical": "--categorical",
    "winsorize": "--winsorize",
    "rank_normal": "--rank-normal",
}
SEX_NAMES = ("unknown", "male", "female")  # by their code in a .fam
Item = TypeVar("Item")


@main.command("pca")
@click.option(
    "--genotypes",
    required=True,
    type=click.Path(path_type=Path),
    help=GENOTYPES_HELP,
)
@click.option(
    "--n-pcs",
    type=click.IntRange(min=1),
    default=pca.N_PCS,
    help="Components; 10 to 20 describe the ancestry of most cohorts.",
)
@click.option("--keep", type=FILE, default=None, help="Table of the people to use; without it all.")
@click.option(
    "--out", type=click.Path(path_type=Path), default="pcs.tsv", help="Table IID, PC1, PC2, …"
)
def pca_command(genotypes: Path, n_pcs: int, keep: Path | None, out: Path) -> None:
    """Principal components of the genotypes, for use as covariates.

    Of common autosomal variants, thinned until no two neighbours have an r² above 0.2; from 5,000
    people on by a randomised iteration.
    """
    source = open_genotypes(genotypes)
    people = select_people(source, keep)
    index = source.sample_index(people)
    pieces = _autosomal_pieces(source)
    chosen = _independent(source, pieces, index)

    def blocks() -> Iterator[NDArray[np.int8]]:
        return _chosen_blocks(source, pieces, chosen, index)

    try:
        scores, values = pca.genotype_pcs(blocks, len(people), n_pcs)
    except ValueError as error:
        raise InputError(f"{source.path}: {error}; ask for fewer with --n-pcs") from error
    log.info("eigenvalues: %s", " ".join(f"{value:.4g}" for value in values))
    table = pd.DataFrame(scores, columns=[f"PC{k + 1}" for k in range(n_pcs)])
    _write_tsv(out, pd.concat([_ids(source, index), table], axis=1))
    log.info("components: %s", out)


@main.command()
@click.option(
    "--genotypes",
    required=True,
    type=click.Path(path_type=Path),
    help=GENOTYPES_HELP,
)
@click.option(
    "--keep",
    type=FILE,
    default=None,
    help="Table of the people to look at; without it all. Frequencies and medians are theirs.",
)
@click.option(
    "--pcs",
    type=FILE,
    default=None,
    help="Table of principal components, as the command pca writes it; without it no look at "
    "ancestry. Those of unrelated people (pca --keep): a family makes a component of its own.",
)
@click.option(
    "--max-missing",
    type=click.FloatRange(0, 1),
    default=sample_qc.MAX_MISSING,
    help="Share of a person's autosomal genotypes that may be missing.",
)
@click.option(
    "--max-heterozygosity-sd",
    type=click.FloatRange(min=0, min_open=True),
    default=sample_qc.MAX_HETEROZYGOSITY_SD,
    help="Robust standard deviations of F from the cohort's median, to either side. Lower finds "
    "weaker contamination, and people of a rarer ancestry with it.",
)
@click.option(
    "--max-pc-sd",
    type=click.FloatRange(min=0, min_open=True),
    default=sample_qc.MAX_PC_SD,
    help="Robust standard deviations from the cohort's median, along any component. Where a "
    "cohort has several ancestries, all people of the smaller ones may be beyond.",
)
@click.option(
    "--kinship",
    type=click.FloatRange(0, 0.5, min_open=True),
    default=sample_qc.MIN_KINSHIP,
    help="Pairs above are relatives: 0.0442 third degree, 0.0884 second, 0.177 first, 0.354 "
    "duplicates. With few variants the limit is higher, so that chance makes no relatives. Time "
    "grows with the square of the number of people; memory does not.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default="samples_qc.tsv",
    help="Table of figures and flags, one row a person; n/a where there is none.",
)
@click.option(
    "--related",
    type=click.Path(path_type=Path),
    default="related.tsv",
    help="Table IID1, IID2, kinship, n_variants of the pairs of relatives.",
)
def samples(
    genotypes: Path,
    keep: Path | None,
    pcs: Path | None,
    max_missing: float,
    max_heterozygosity_sd: float,
    max_pc_sd: float,
    kinship: float,
    out: Path,
    related: Path,
) -> None:
    """Check each person's genotypes: missing, contaminated, swapped, far from the others, related.

    A report: no one is left out. Flags are missing_rate, heterozygosity, sex_mismatch, ancestry and
    related, or n/a. Someone of mixed DNA (F far below the others) seems related to everyone: such
    pairs are in the table, and do not flag the other person. Frequencies are those of all people
    looked at, so in a cohort of several ancestries heterozygosity and sex are best judged one
    ancestry at a time (--keep). Genetic sex is female below an F of X of 0.2, male above 0.8;
    between them it is unknown, which is no mismatch. Among fewer than 20 people heterozygosity,
    ancestry and relatives are not judged.

    For N people and M independent common autosomal variants, kinship takes N²/2 × M multiplications
    (four times that where genotypes are missing), 0.4 GB, and one reading of the genotypes for each
    two tiles of 2,048 people. The rest holds a block of 256 variants: a few kB a person.
    """
    source = open_genotypes(genotypes)
    people = select_people(source, keep)
    index = source.sample_index(people)
    deviant = read_pcs(pcs, people, source)
    pieces = _autosomal_pieces(source)
    if not pieces:
        raise InputError(f"{source.path}: no variant on the chromosomes 1 to 22")

    missing_rate, f = sample_qc.heterozygosity(
        (
            source.read_calls(start, stop, index)
            for _, start, stop in progress(pieces, "heterozygosity", len(pieces))
        ),
        len(people),
    )
    sex = source.samples["sex"].to_numpy()[index]
    x_f = _x_inbreeding(source, index, sex)
    genetic = sample_qc.genetic_sex(x_f)
    pairs = _related(source, pieces, index, missing_rate <= max_missing, kinship)

    deviation = sample_qc.robust_deviation(f)
    mixed = deviation < -max_heterozygosity_sd
    # someone of mixed DNA seems related to everyone: that is no reason to flag everyone
    relatives = np.concatenate(
        [pairs.first[~mixed[pairs.second]], pairs.second[~mixed[pairs.first]]]
    )
    flagged = {
        "missing_rate": missing_rate > max_missing,
        "heterozygosity": np.abs(deviation) > max_heterozygosity_sd,
        "sex_mismatch": (sex > 0) & (genetic > 0) & (sex != genetic),
        "ancestry": deviant["largest"].to_numpy() > max_pc_sd,
        "related": np.isin(np.arange(len(people)), relatives),
    }
    for name, bad in flagged.items():
        if bad.any():
            log.warning(
                "%s: %s", name, examples([people[i] for i in np.flatnonzero(bad)], "people")
            )
    _warn_of_pairs(people, pairs, mixed)
    table = pd.DataFrame(
        {
            **_ids(source, index),
            "missing_rate": missing_rate,
            "heterozygosity_f": f,
            "x_f": x_f,
            "sex_reported": np.array(SEX_NAMES)[sex],
            "sex_genetic": np.where(np.isnan(x_f), "n/a", np.array(SEX_NAMES)[genetic]),
            "pc_distance": deviant["distance"].to_numpy(),
            "flags": [
                ",".join(name for name, bad in flagged.items() if bad[i]) or "n/a"
                for i in range(len(people))
            ],
        }
    )
    _write_tsv(related, _pair_table(source, index, pairs))
    _write_tsv(out, table)
    n_flagged = (table["flags"] != "n/a").sum()
    log.info("%d of %d people have a flag: %s; pairs: %s", n_flagged, len(people), out, related)


@main.command(
    "ridge", context_settings={"default_map": {"min_maf": MIN_MAF, "max_missing": MAX_MISSING}}
)
@analysis_inputs
@click.option(
    "--threads",
    type=click.IntRange(min=1),
    default=None,
    help="CPU threads; without it OMP_NUM_THREADS, or all cores where that is not set.",
)
@click.option("--seed", type=int, default=0, help="Of the noise that shares of variance rest on.")
@click.option(
    "--out", type=click.Path(path_type=Path), default="loco", help="Folder for associate --loco."
)
def ridge_command(inputs: AnalysisInputs, threads: int | None, seed: int, out: Path) -> None:
    """Fit the mixed model of all traits, for people who are related or of several ancestries.

    What all chromosomes but one predict is taken off each trait, for each chromosome in turn; give
    the folder to associate --loco, with the same traits, people and covariates. Traits are
    quantitative: those of two values are taken for quantities.

    Autosomes alone predict. Where X is to be tested in families, let the genotypes have it, so that
    standard errors are those of variants that are inherited as X is.

    200,000 to 500,000 common variants of good quality predict well enough; where there are more,
    name some by --extract. The limits of variants are of those that predict, and not of those that
    associate tests.

    The model is exact: conjugate gradients for what is left, quadrature for the shares of variance.
    (The two levels of regenie were tried, and are a poor stand-in among close relatives: a rank
    correlation of 0.54 with GEMMA's mixed model in outbred mice, against 0.98.)

    Time grows with people × variants × (traits + 150) × chromosomes, or, up to 4,800 people, with
    people² in place of people × variants. Memory holds six numbers of 4 bytes a person, trait and
    chromosome, and up to 2 GB of relationships. With 3,000 people, 20,000 variants and 16 traits it
    takes 36 s and 1.2 GB on one core.
    """
    study = prepare(inputs)
    with threadpool_limits(threads or engine.default_threads(), user_api="blas"):
        fit = fit_mixed(study, inputs.limits, seed)
    for name, h2 in zip(fit.traits, fit.h2, strict=True):
        log.info("%s: h² %.3f", name, h2)
    write_loco(
        out,
        study.people,
        fit.traits,
        fit.residuals,
        fit.se_scale,
        fit.trait_correlation,
        {
            "axoloci": __version__,
            "n_variants": fit.n_variants,
            "seed": seed,
            "h2": fit.h2.tolist(),
            "plan": inputs.plan(study.source),
        },
    )
    log.info("mixed model: %s, for axoloci-gwas associate --loco", out)


@main.command()
@analysis_inputs
@click.option(
    "--loco",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default=None,
    help="Folder of the command ridge, of the same traits and people or more, by the same options "
    "for traits and covariates: the association is that of a mixed model. For people who are "
    "related or of several ancestries.",
)
@click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    help="auto takes a GPU if torch finds one; all that CUDA_VISIBLE_DEVICES names share the work.",
)
@click.option(
    "--precision",
    type=click.Choice(["float32", "float64"]),
    default="float32",
    help="Of arithmetic and store. float32 keeps the six digits that plink2 prints (with fewer "
    "than 1,000 people the arithmetic is float64 all the same); float64, the reference, takes "
    "twice the time and the disk.",
)
@click.option(
    "--threads",
    type=click.IntRange(min=1),
    default=None,
    help="CPU threads; without it OMP_NUM_THREADS, or all cores where that is not set. The results "
    "do not depend on their number.",
)
@click.option(
    "--traits-at-once",
    type=click.IntRange(min=1),
    default=None,
    help="Most traits that are tested together; without it as many as memory holds, of this "
    "machine and of each GPU. Where there are more they are tested in groups, and each group reads "
    "the genotypes once more. Give it where several processes share the memory.",
)
@click.option(
    "--n-probes",
    type=click.IntRange(min=0),
    default=N_PROBES,
    help="Random probes of the relationships, from which heritability is estimated without another "
    "reading of the genotypes; 0 for none. The noise they add falls with their number, the time "
    "grows: 8 take about as long as 20 traits.",
)
@click.option(
    "--n-permuted",
    type=click.IntRange(min=0),
    default=N_PERMUTED,
    help="Variants, about, that are also tested with their people permuted, the null of MOSTest "
    "and minP; 0 for none.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default="sumstats",
    help="Folder of the store; a run that was killed goes on there.",
)
@click.option(
    "--replace",
    is_flag=True,
    help="Delete the results of other inputs or settings in that folder first.",
)
@click.option(
    "--plan-only",
    is_flag=True,
    help="Prepare the store for processes that work on one chromosome each, and test nothing.",
)
@click.option(
    "--chromosome",
    default=None,
    help="Test its variants only, in a store prepared by --plan-only; several processes may do so "
    "at once, each with a chromosome of its own. A last run without this option finishes the "
    "store, and tests what was left out.",
)
def associate(
    inputs: AnalysisInputs,
    loco: Path | None,
    device: str,
    precision: kernel.Precision,
    threads: int | None,
    traits_at_once: int | None,
    n_probes: int,
    n_permuted: int,
    out: Path,
    replace: bool,
    plan_only: bool,
    chromosome: str | None,
) -> None:
    """Test all traits against all variants by exact linear regression.

    Of relatives, or people of several ancestries, fit a mixed model first (ridge), and name its
    folder by --loco. Traits are quantitative: those of two values are taken for quantities.

    A person without a genotype is left out of that variant, one without a trait out of that trait.
    Effects are per copy of the effect allele, which is allele 1 of a .bim, ALT of a .pvar. On X men
    count as homozygous, sex is a covariate, and people of unknown sex are left out; on Y only men
    are tested, and effects there and of mitochondria are those of one copy: as plink2 does.
    """
    if chromosome is not None and (plan_only or replace):
        raise click.UsageError("--chromosome goes without --plan-only and --replace")
    study = prepare(inputs)
    source = study.source
    if chromosome is not None and chromosome not in set(source.variants["chromosome"]):
        there = ", ".join(source.variants["chromosome"].unique())
        raise InputError(f"{source.path}: no chromosome '{chromosome}'; it has {there}")
    own_plan = inputs.plan(source)
    predicted = None if loco is None else read_loco(loco)
    devices = engine.devices_of(device)
    n_threads = threads or engine.default_threads()
    # float32 becomes float64 where there are few people
    arithmetic: kernel.Precision | None = "float64" if precision == "float64" else None
    if predicted is not None and inputs.complete_traits:
        _check_complete(predicted, inputs.trait)
    plan = {
        "axoloci": __version__,
        "image": os.environ.get("AXOLOCI_IMAGE", ""),  # identity of the code, from the driver
        **own_plan,
        "loco": None if predicted is None else sha256(predicted.path / "loco.json"),
        "device": devices[0].partition(":")[0],
        "precision": precision,
        "n_probes": n_probes,
        "n_permuted": n_permuted,
    }
    n_traits = len(study.traits)
    most = traits_at_once or memory.traits_at_once(
        len(study.people), n_traits, devices, n_threads, arithmetic
    )
    slack = 1.0 if traits_at_once else memory.SLACK
    ranges = _trait_groups(begun_ranges(out, plan), n_traits, most, slack)
    groups = engine.TraitGroups(study, predicted, ranges)
    if predicted is not None:
        _check_loco(predicted, own_plan)
        _say_who_was_fitted(predicted, study.people, groups.tested.names)
    for name, why in groups.excluded.items():
        log.warning("trait %s is left out: %s", name, why)
    tested = groups.tested
    if not tested.names:
        why = next(iter(groups.excluded.values()))
        raise InputError(f"{inputs.named_traits}: no trait can be tested; {why}")

    parts = plan_parts(source.variants["chromosome"], len(tested.names))
    # of what a mixed model left of the traits neither is known
    beside = Beside.of(parts, n_probes, n_permuted) if predicted is None else Beside.of(parts, 0, 0)
    writer = SumstatsWriter(
        *(out, plan, parts, replace),
        joins=chromosome is not None,
        precision=precision,
        keeps_beside=beside.is_any,
    )
    pending = [] if plan_only else writer.pending(chromosome)
    if predicted is None and chromosome is None and (plan_only or pending):
        with threadpool_limits(n_threads, user_api="blas"):
            warn_of_relatives(study, len(tested.names))
    if plan_only:
        return
    wanted = [part for part in parts if chromosome in (None, part.chromosome)]
    if len(pending) < len(wanted):
        log.info("%d of %d parts are there already", len(wanted) - len(pending), len(wanted))
    log.info(
        "%d people, %d variants, %d traits, %d covariates with the intercept, %s",
        *(len(study.people), source.n_variants, len(tested.names), len(groups.covariates)),
        ", ".join(devices),
    )
    if len(ranges) > 1 and pending:
        held = f"--traits-at-once {most}" if traits_at_once else f"memory holds {most:,} at once"
        log.info(
            "%s traits in %d groups (%s): each reads the genotypes",
            *(f"{n_traits:,}", len(ranges), held),
        )
        writer.begin_groups(ranges)
    engine.write_parts(
        *(groups, pending, writer, beside),
        devices=devices,
        n_threads=n_threads,
        precision=arithmetic,
        variant_filter=inputs.limits,
    )
    if chromosome is not None:
        return

    writer.finish(
        tested.names,
        study.people,
        groups.trait_correlation(),
        groups.trait_residual_sd,
        {
            "n_covariates": len(groups.covariates),
            "n_covariates_of_chromosome": {
                name: len(groups.covariates_of(name))
                for name in dict.fromkeys(part.chromosome for part in parts)
                if ploidy_of(name) is not Ploidy.DIPLOID
            },
            "n_samples_of_chromosome": groups.own_people(),
            "mixed_model": predicted is not None,
            "covariates": groups.covariates,
            "traits_with_missing": tested.own_n,
            "traits_excluded": groups.excluded,
            "axoloci": __version__,
            "genotypes": [
                {"name": path.name, "size": path.stat().st_size} for path in source.files
            ],
            "inputs": [path.name for path in (*inputs.traits, *inputs.covariates)],
        },
        ((name, groups.trait_correlation(ploidy_of(name))) for name in groups.own_people())
        if predicted is None
        else (
            (name, predicted.trait_correlation(name, tested.names))
            for name in dict.fromkeys(part.chromosome for part in parts)
        ),
        beside=None
        if writer.has_beside or not beside.is_any
        else engine.kept_beside(writer, groups, beside),
    )
    _say_what_was_found(read_sumstats(out))


@main.command()
@click.option(
    "--sumstats",
    required=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of the store.",
)
@click.option("--trait", required=True, help="Name of the trait.")
@click.option(
    "--format",
    "format_",
    type=click.Choice(list(FORMATS)),
    default="gwas-ssf",
    help="gwas-ssf is what the GWAS Catalog takes; plink2 and regenie have the columns of these "
    "programs' results; ldsc is for munge_sumstats.py, where p-values below 1e-300 are 1e-300 and "
    "Z is exact.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default="sumstats.tsv.gz",
    help="Text file; gzip where the name ends in .gz.",
)
@click.option(
    "--tabix",
    is_flag=True,
    help="Compress in blocks (bgzip) and write an index (.tbi) beside it; of gwas-ssf and plink2.",
)
def export(sumstats: Path, trait: str, format_: str, out: Path, tabix: bool) -> None:
    """Write the results of one trait as text for other programs; p-values as −log10."""
    results = read_sumstats(sumstats).trait(trait)
    counts = write_sumstats_text(out, results, format_, tabix=tabix)
    n_written = counts.pop("written")
    others = [f"; {name.replace('_', ' ')}: {count:,}" for name, count in counts.items() if count]
    log.info("%s: %s variants%s", out, f"{n_written:,}", "".join(others))


def _trait_groups(
    begun: list[TraitRange], n_traits: int, most: int, slack: float
) -> list[TraitRange]:
    """The groups that a killed run began with, if they fit; else as few as may be."""
    wanted = trait_ranges(n_traits, most)
    if not begun:
        return wanted
    largest = max(group.stop - group.start for group in begun)
    if largest <= slack * most:
        return begun
    log.warning(
        "the results were begun with %d traits at once, and now there are to be %d: what was found "
        "of some of the traits is made again",
        *(largest, most),
    )
    return wanted


def _say_what_was_found(store: Sumstats) -> None:
    """What was tested and found, and where it lies."""
    counts = dict(store.info["variants"])
    n_tested = counts.pop("tested")
    others = [f"; {name.replace('_', ' ')}: {n:,}" for name, n in counts.items() if n]
    log.info("variants tested: %s%s", f"{n_tested:,}", "".join(others))
    inflation = pd.Series(store.inflation(), index=store.traits).dropna().sort_values()
    if len(inflation) > MOST_NAMED:
        ends = " to ".join(f"{inflation.iloc[k]:.3f} ({inflation.index[k]})" for k in (0, -1))
        log.info("λ: %s, median %.3f", ends, inflation.median())
    elif len(inflation):
        log.info("λ: %s", ", ".join(f"{value:.3f} ({name})" for name, value in inflation.items()))
    hits = pd.read_csv(
        store.path / "hits.tsv",
        sep="\t",
        usecols=["variant_id", "trait", "neg_log10_p"],
        dtype={"variant_id": str, "trait": str},
        keep_default_na=False,
    )
    if hits.empty:
        found = "none"
    else:
        first = hits.iloc[int(hits["neg_log10_p"].argmax())]
        [smallest] = p_text(np.array([first["neg_log10_p"]]))
        found = (
            f"{len(hits):,} results of {hits['trait'].nunique():,} traits, the smallest p "
            f"{smallest} of {first['trait']} at {first['variant_id']}"
        )
    log.info("p < 5e-8: %s", found)
    log.info("results: %s (p < 5e-8: hits.tsv; text by axoloci-gwas export)", store.path)


def _check_complete(predicted: Loco, traits: tuple[str, ...]) -> None:
    """Refuse other traits than ridge's where people are chosen by them."""
    if predicted.info["plan"].get("trait", []) != list(traits):
        raise InputError(
            f"{predicted.path}: made of other traits (--trait), and --complete-traits chooses "
            "people by them; give ridge and associate the same, or leave out --complete-traits"
        )


def _check_loco(predicted: Loco, plan: dict[str, Any]) -> None:
    """Refuse what ridge made of other tables, or with other settings, of traits and covariates.

    The traits that are tested are those that ridge left: the options for traits and covariates
    would have no effect on them.
    """
    made = predicted.info["plan"]
    for name, option in SHARED_WITH_RIDGE.items():
        if made[name] != plan[name]:
            theirs, ours = (
                f"{option} {shlex.join(value) if isinstance(value, list) else repr(value)}"
                if value
                else f"no {option}"
                for value in (made[name], plan[name])
            )
            raise InputError(
                f"{predicted.path}: made with {theirs}, and here is {ours}; give ridge and "
                "associate the same options"
            )
    for name in ("traits", "covariates"):
        if made[name] != plan[name]:
            raise InputError(
                f"{predicted.path}: made from other files by --{name}; give ridge and associate "
                "the same, and fewer people by --keep"
            )


def _say_who_was_fitted(predicted: Loco, people: list[str], traits: list[str]) -> None:
    """Warn of a mixed model of more people than are tested."""
    more = predicted.fitted_besides(people, traits)
    if more:
        log.warning(
            "%s: the mixed model is of %d people more than are tested (%d), such as %s: standard "
            "errors are as among all; for a model of these people alone, give ridge the same "
            "people (--keep)",
            *(predicted.path, len(more), len(people), more[0]),
        )


def _autosomal_pieces(source: Genotypes) -> list[tuple[str, int, int]]:
    """Blocks of the autosomes."""
    autosomes = _autosomes(source)
    parts = plan_parts(source.variants["chromosome"], 1)
    return [
        (part.chromosome, start, stop)
        for part in parts
        if part.chromosome in autosomes
        for start, stop in engine.pieces(part, kernel.CPU_BLOCK)
    ]


def _independent(
    source: Genotypes, pieces: list[tuple[str, int, int]], index: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Which variants of all pieces are common and not in linkage disequilibrium."""
    chosen = pca.thin(
        (name, source.read_calls(start, stop, index))
        for name, start, stop in progress(pieces, "thinning", len(pieces))
    )
    log.info("%d of %d autosomal variants are common and independent", chosen.sum(), len(chosen))
    return chosen


def _chosen_blocks(
    source: Genotypes,
    pieces: list[tuple[str, int, int]],
    chosen: NDArray[np.bool_],
    index: NDArray[np.int64],
) -> Iterator[NDArray[np.int8]]:
    """The chosen variants of all pieces, for the people at `index`."""
    offset = 0
    for _, start, stop in pieces:
        here = chosen[offset : offset + stop - start]
        offset += stop - start
        if here.any():
            yield source.read_calls(start, stop, index)[here]


def _x_inbreeding(
    source: Genotypes, index: NDArray[np.int64], sex: NDArray[np.int8]
) -> NDArray[np.float64]:
    """F of X without its pseudo-autosomal regions."""
    position = source.variants["base_pair_location"].to_numpy()
    specific = (position > sample_qc.X_START) & (position < sample_qc.X_STOP)
    parts = plan_parts(source.variants["chromosome"], 1)
    pieces = [
        piece
        for part in parts
        if ploidy_of(part.chromosome) is Ploidy.X
        for piece in engine.pieces(part, kernel.CPU_BLOCK)
    ]
    f = sample_qc.x_inbreeding(
        (source.read_calls(start, stop, index)[specific[start:stop]] for start, stop in pieces),
        sex,
    )
    if np.isnan(f).all():
        log.warning(
            "the sex of no one is checked: %d variants on X outside the pseudo-autosomal regions, "
            "%d polymorphic ones are needed",
            sum(specific[start:stop].sum() for start, stop in pieces),
            sample_qc.MIN_X_VARIANTS,
        )
    return f


def _related(
    source: Genotypes,
    pieces: list[tuple[str, int, int]],
    index: NDArray[np.int64],
    complete: NDArray[np.bool_],
    min_kinship: float,
) -> sample_qc.Pairs:
    """Pairs of relatives in the order of the people; none among too few to tell."""
    if len(index) < sample_qc.MIN_PEOPLE:
        log.warning(
            "%d people are few: from %d on heterozygosity is judged and relatives are looked for",
            *(len(index), sample_qc.MIN_PEOPLE),
        )
        empty = np.empty(0, dtype=np.int64)
        return sample_qc.Pairs(empty, empty, np.empty(0), empty)
    # those who lack much are no reason to leave out a variant
    chosen = np.zeros(sum(stop - start for _, start, stop in pieces), dtype=bool)
    if complete.any():
        chosen = _independent(source, pieces, index[complete])
    by_chance = sample_qc.chance_kinship(int(chosen.sum()))
    if by_chance > min_kinship:
        log.warning(
            "%d common independent variants are few: pairs count as relatives from a kinship of "
            "%.3f on, which unrelated ones do not reach by chance",
            *(chosen.sum(), by_chance),
        )
        min_kinship = by_chance
    found = sample_qc.related_pairs(
        lambda people: _chosen_blocks(source, pieces, chosen, index[people]),
        len(index),
        min_kinship=min_kinship,
    )
    tiles = list(progress(found, "kinship", sample_qc.n_tile_pairs(len(index))))
    first, second, kinship, n_variants = map(np.concatenate, zip(*tiles, strict=True))
    order = np.lexsort((second, first))
    return sample_qc.Pairs(first[order], second[order], kinship[order], n_variants[order])


def _ids(source: Genotypes, index: NDArray[np.int64], suffix: str = "") -> pd.DataFrame:
    """Columns that name people: IID, and FID before it where that is needed to tell them apart."""
    samples = source.samples
    names = ["iid"] if samples.index.equals(pd.Index(samples["iid"])) else ["fid", "iid"]
    table = samples[names].iloc[index].reset_index(drop=True)
    return table.set_axis([f"{name.upper()}{suffix}" for name in names], axis=1)


def _pair_table(
    source: Genotypes, index: NDArray[np.int64], pairs: sample_qc.Pairs
) -> pd.DataFrame:
    return pd.DataFrame(
        {
            **_ids(source, index[pairs.first], "1"),
            **_ids(source, index[pairs.second], "2"),
            "kinship": pairs.kinship,
            "n_variants": pairs.n_variants,
        }
    )


def _warn_of_pairs(people: list[str], pairs: sample_qc.Pairs, mixed: NDArray[np.bool_]) -> None:
    """The closest pairs by name: duplicates, others, and those that mean little."""
    same = pairs.kinship > sample_qc.MIN_DUPLICATE_KINSHIP
    doubtful = ~same & (mixed[pairs.first] | mixed[pairs.second])
    kinds = {
        "duplicates or identical twins": same,
        "other relatives": ~same & ~doubtful,
        "kinship that too many heterozygous genotypes of one may explain": doubtful,
    }
    for kind, members in kinds.items():
        order = np.flatnonzero(members)
        order = order[np.argsort(-pairs.kinship[order], kind="stable")]
        names = [f"{people[pairs.first[k]]} and {people[pairs.second[k]]}" for k in order]
        if names:
            log.warning("%s: %s", kind, examples(names, "pairs"))


def _write_tsv(path: Path, table: pd.DataFrame) -> None:
    write_text(path, table.to_csv(sep="\t", index=False, na_rep="n/a", float_format="%.9g"))


def _autosomes(source: Genotypes) -> set[str]:
    """Chromosomes with a number, from 1 to 22 (or fewer, as in mice: all numbers count)."""
    names = {name for name in source.variants["chromosome"].unique() if name.isdigit()}
    return {name for name in names if 1 <= int(name) <= 22}


if __name__ == "__main__":
    main()

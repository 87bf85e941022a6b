"""`axoloci-gwas`: genotype components, association, export."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import TypeVar

import click
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from axoloci import __version__
from axoloci.command import progress, step_group
from axoloci.covariates import design_matrix
from axoloci.errors import InputError
from axoloci.io.files import sha256, write_text
from axoloci.io.genotypes import Genotypes, open_genotypes
from axoloci.io.sumstats import (
    Part,
    SumstatsWriter,
    plan_parts,
    read_sumstats,
    write_gwas_ssf,
)
from axoloci.io.tables import match_samples, minus_nine_warnings, read_table, read_traits
from axoloci.tasks.gwas import kernel, pca, sample_qc

log = logging.getLogger("axoloci")

main = step_group(
    __name__, "Genome-wide association of all traits in one reading of the genotypes."
)

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
X_NAMES = ("X", "23")
SEX_NAMES = ("unknown", "male", "female")  # by their code in a .fam
Item = TypeVar("Item")


@main.command("pca")
@click.option(
    "--genotypes",
    required=True,
    type=click.Path(path_type=Path),
    help="PLINK 1 bed/bim/fam: path of the .bed, or without suffix.",
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
    """Principal components of the genotypes, for use as covariates."""
    source = open_genotypes(genotypes)
    people = _kept_people(source, keep)
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
    header = "\t".join(["IID", *(f"PC{k + 1}" for k in range(n_pcs))])
    rows = (
        "\t".join([p, *(f"{x:.9g}" for x in row)]) for p, row in zip(people, scores, strict=True)
    )
    write_text(out, "\n".join([header, *rows]) + "\n")


@main.command()
@click.option(
    "--genotypes",
    required=True,
    type=click.Path(path_type=Path),
    help="PLINK 1 bed/bim/fam: path of the .bed, or without suffix.",
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
    people = _kept_people(source, keep)
    index = source.sample_index(people)
    deviant = _read_pcs(pcs, people)
    pieces = _autosomal_pieces(source)
    if not pieces:
        raise InputError(f"{source.files[1]}: no variant on the chromosomes 1 to 22")

    missing_rate, f = sample_qc.heterozygosity(
        (
            source.read(start, stop, index)
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
            log.warning("%s: %s", name, _named([people[i] for i in np.flatnonzero(bad)], "people"))
    _warn_of_pairs(people, pairs, mixed, kinship)
    table = pd.DataFrame(
        {
            "IID": people,
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
    _write_tsv(related, _pair_table(people, pairs))
    _write_tsv(out, table)
    log.info("%d of %d people have a flag", (table["flags"] != "n/a").sum(), len(people))


@main.command()
@click.option(
    "--genotypes",
    required=True,
    type=click.Path(path_type=Path),
    help="PLINK 1 bed/bim/fam: path of the .bed, or without suffix.",
)
@click.option(
    "--traits",
    required=True,
    type=FILE,
    help="Table of traits (TSV), or the encoder's latents (Parquet).",
)
@click.option(
    "--covariates",
    multiple=True,
    type=FILE,
    help="Table of covariates; several times for several tables. An intercept is always added.",
)
@click.option(
    "--covariate",
    multiple=True,
    help="Column to use; several times for several. Without it all columns of all tables.",
)
@click.option(
    "--categorical",
    multiple=True,
    help="Numeric column that holds categories (site codes, say); columns of words always do.",
)
@click.option(
    "--complete-traits",
    is_flag=True,
    help="Leave out people who lack a trait, so that all traits are of the same people and can be "
    "tested jointly. Without it a person is left out of the traits that they lack.",
)
@click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    help="auto takes a GPU if torch finds one.",
)
@click.option(
    "--threads",
    type=click.IntRange(min=1),
    default=None,
    help="CPU threads; without it OMP_NUM_THREADS, or all cores where that is not set. The results "
    "do not depend on their number.",
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
    genotypes: Path,
    traits: Path,
    covariates: tuple[Path, ...],
    covariate: tuple[str, ...],
    categorical: tuple[str, ...],
    complete_traits: bool,
    device: str,
    threads: int | None,
    out: Path,
    replace: bool,
    plan_only: bool,
    chromosome: str | None,
) -> None:
    """Test all traits against all variants by exact linear regression.

    A person without a genotype is left out of that variant, one without a trait out of that trait.
    Effects are per copy of the effect allele, which is allele 1 of the .bim.
    """
    if chromosome is not None and (plan_only or replace):
        raise click.UsageError("--chromosome goes without --plan-only and --replace")
    source = open_genotypes(genotypes)
    if chromosome is not None and chromosome not in set(source.variants["chromosome"]):
        there = ", ".join(source.variants["chromosome"].unique())
        raise InputError(f"{source.files[1]}: no chromosome '{chromosome}'; it has {there}")
    trait_table = read_traits(traits)
    for warning in minus_nine_warnings(trait_table, traits):
        log.warning("%s", warning)
    covariate_table = _read_covariates(covariates, covariate, categorical)
    people = _shared_people(source, traits, trait_table, covariate_table, complete_traits)
    columns = pd.DataFrame(index=people) if covariate_table is None else covariate_table.loc[people]
    matrix, covariate_names, left_out = design_matrix(columns)
    for name, why in left_out.items():
        log.warning("covariate %s is left out: it is %s", name, why)
    if len(people) < matrix.shape[1] + 2:
        raise InputError(f"{len(people)} people are too few for {matrix.shape[1]} covariates")
    model = kernel.fit_null(trait_table.loc[people].to_numpy(np.float64), matrix)
    all_names = list(trait_table.columns)
    excluded = {all_names[k]: why for k, why in model.excluded.items()}
    for name, why in excluded.items():
        log.warning("trait %s is left out: %s", name, why)
    tested = [k for k in range(len(all_names)) if k not in model.excluded]
    if not tested:
        raise InputError(f"{traits}: no trait can be tested; {next(iter(excluded.values()))}")
    names = [all_names[k] for k in tested]
    # the group, if any, whose people differ from all: its traits have an n of their own
    group_of = {
        all_names[k]: i
        for i, group in enumerate(model.groups)
        if group.sample_index is not None
        for k in group.trait_index
    }

    device = _device(device)
    parts = plan_parts(source.variants["chromosome"], len(names))
    plan = {
        "axoloci": __version__,
        "image": os.environ.get("AXOLOCI_IMAGE", ""),  # identity of the code, from the driver
        "genotypes": _identity(source),
        "traits": sha256(traits),
        "covariates": [sha256(path) for path in covariates],
        "covariate": list(covariate),
        "categorical": sorted(categorical),
        "complete_traits": complete_traits,
        "device": device,
    }
    writer = SumstatsWriter(out, plan, parts, replace, joins=chromosome is not None)
    if plan_only:
        return
    wanted = [part for part in parts if chromosome in (None, part.chromosome)]
    pending = writer.pending(chromosome)
    if len(pending) < len(wanted):
        log.info("%d of %d parts are there already", len(wanted) - len(pending), len(wanted))
    log.info(
        "%d people, %d variants, %d traits, %d covariates, %s",
        *(len(people), source.n_variants, len(names), matrix.shape[1], device),
    )

    index = source.sample_index(people)
    size = kernel.CPU_BLOCK if device == "cpu" else kernel.GPU_BLOCK
    blocks = (
        source.read(start, stop, index)
        for part in pending
        for _, start, stop in _pieces(part, size)
    )
    results = kernel.associate(
        blocks, model, device=device, n_threads=threads or _default_threads()
    )
    # a part is written while the next one is computed
    with closing(results), ThreadPoolExecutor(1) as pool:
        writing: Future[None] | None = None
        for part in progress(pending, "association", len(pending)):
            rows = [next(results) for _ in _pieces(part, size)]
            if writing is not None:
                writing.result()
            writing = pool.submit(_write, writer, part, source, names, tested, group_of, rows)
        if writing is not None:
            writing.result()
    if chromosome is not None:
        return

    writer.finish(
        names,
        people,
        model.trait_correlation[np.ix_(tested, tested)],
        model.trait_residual_sd[tested],
        {
            "n_covariates": matrix.shape[1],
            "covariates": covariate_names,
            "traits_with_missing": [name for name in names if name in group_of],
            "traits_excluded": excluded,
            "axoloci": __version__,
            "genotypes": [
                {"name": path.name, "size": path.stat().st_size} for path in source.files
            ],
            "inputs": [path.name for path in (traits, *covariates)],
        },
    )


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
    type=click.Choice(["gwas-ssf"]),
    default="gwas-ssf",
    help="GWAS-SSF is what the GWAS Catalog takes.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default="sumstats.tsv.gz",
    help="Text file; gzip where the name ends in .gz.",
)
def export(sumstats: Path, trait: str, format_: str, out: Path) -> None:
    """Write the results of one trait as text for other programs; p-values as −log10."""
    del format_  # one so far
    counts = write_gwas_ssf(out, read_sumstats(sumstats).trait(trait))
    log.info(
        "%s", ", ".join(f"{name.replace('_', ' ')}: {count}" for name, count in counts.items())
    )


def _read_covariates(
    paths: Sequence[Path], wanted: Sequence[str], categorical: Sequence[str]
) -> pd.DataFrame | None:
    """All covariate tables side by side, for the people who are in all of them and lack nothing."""
    tables: dict[str, pd.DataFrame] = {}
    owner: dict[str, Path] = {}
    for path in paths:
        table = read_table(path, text=categorical)
        for name in table.columns:
            if name in owner and name in (wanted or table.columns):
                raise InputError(
                    f"the covariate '{name}' is in {owner[name]} and in {path}; name it once"
                )
            owner[name] = path
        used = [name for name in table.columns if not wanted or name in wanted]
        for warning in minus_nine_warnings(table[used], path):
            log.warning("%s", warning)
        tables[str(path)] = table
    unknown = [name for name in (*wanted, *categorical) if name not in owner]
    if unknown:
        raise InputError(
            f"no covariate {', '.join(unknown)}; the tables have {', '.join(owner) or 'none'}"
        )
    if not tables:
        return None
    if len(tables) > 1:
        match_samples({path: table.index for path, table in tables.items()})
    joined = pd.concat(tables.values(), axis=1, join="inner")
    joined = joined[[name for name in joined.columns if not wanted or name in wanted]]
    complete = joined.notna().all(axis=1)
    if not complete.all():
        log.warning("%d people have a missing covariate and are left out", (~complete).sum())
    return joined[complete]


def _shared_people(
    source: Genotypes,
    traits: Path,
    trait_table: pd.DataFrame,
    covariates: pd.DataFrame | None,
    complete: bool,
) -> list[str]:
    """People with genotypes, all covariates and a trait or more, in the order of the genotypes.

    If `complete`, with all traits that are neither constant nor missing for everyone.
    """
    sources = {str(source.path): source.samples["iid"], str(traits): trait_table.index}
    if covariates is not None:
        sources["the covariates"] = covariates.index
    people = match_samples(sources)
    own = trait_table.loc[people]
    has_trait = own.notna().any(axis=1).to_numpy()
    if not has_trait.any():
        raise InputError(f"{traits}: no one with genotypes and covariates has a trait")
    if complete:
        has_trait = own.loc[:, own.min() < own.max()].notna().all(axis=1).to_numpy()
        log.info("%d of %d people have all traits", has_trait.sum(), len(people))
        if not has_trait.any():
            raise InputError(f"{traits}: no one with genotypes and covariates has all traits")
    return [person for person, has in zip(people, has_trait, strict=True) if has]


def _write(
    writer: SumstatsWriter,
    part: Part,
    source: Genotypes,
    names: list[str],
    tested: list[int],
    group_of: dict[str, int],
    rows: list[kernel.Association],
) -> None:
    """One part from the results of its blocks."""
    status = np.concatenate([row.status for row in rows])
    n_by_group = np.concatenate([row.n_by_group for row in rows])
    counts = np.bincount(status, minlength=len(kernel.STATUS_NAMES))
    writer.write(
        part,
        source.variants.iloc[part.start : part.stop],
        names,
        np.concatenate([row.effect_allele_frequency for row in rows]),
        np.concatenate([row.n for row in rows]),
        np.concatenate([row.beta for row in rows])[:, tested],
        np.concatenate([row.se for row in rows])[:, tested],
        n_by_trait={name: n_by_group[:, i] for name, i in group_of.items()},
        counts=dict(zip(kernel.STATUS_NAMES, map(int, counts), strict=True)),
    )


def _pieces(part: Part, size: int) -> list[tuple[str, int, int]]:
    """Blocks of a part: chromosome, start, stop."""
    return [
        (part.chromosome, start, min(start + size, part.stop))
        for start in range(part.start, part.stop, size)
    ]


def _kept_people(source: Genotypes, keep: Path | None) -> list[str]:
    """All people of the genotypes, or those of a table, in the order of the genotypes."""
    people = list(source.samples["iid"])
    if keep is None:
        return people
    return match_samples({str(source.path): people, str(keep): read_table(keep).index})


def _autosomal_pieces(source: Genotypes) -> list[tuple[str, int, int]]:
    """Blocks of the autosomes."""
    autosomes = _autosomes(source)
    parts = plan_parts(source.variants["chromosome"], 1)
    return [
        piece for p in parts if p.chromosome in autosomes for piece in _pieces(p, kernel.CPU_BLOCK)
    ]


def _independent(
    source: Genotypes, pieces: list[tuple[str, int, int]], index: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Which variants of all pieces are common and not in linkage disequilibrium."""
    chosen = pca.thin(
        (name, source.read(start, stop, index))
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
            yield source.read(start, stop, index)[here]


def _read_pcs(path: Path | None, people: list[str]) -> pd.DataFrame:
    """How far each person is out: `distance` and `largest`, NaN where nothing is known."""
    nothing = pd.DataFrame({"distance": np.nan, "largest": np.nan}, index=people)
    if path is None:
        return nothing
    table = read_table(path)
    words = [str(name) for name, column in table.items() if column.dtype == object]
    if words or table.shape[1] == 0:
        found = f"column '{words[0]}' holds words" if words else "no column besides the ids"
        raise InputError(f"{path}: {found}; a table of components needs numbers")
    shared = match_samples({"the genotypes": people, str(path): table.index})
    if len(shared) < len(people):
        log.warning(
            "no components: %s",
            _named([p for p in people if p not in table.index], "people"),
        )
    distance, largest = sample_qc.pc_distance(table.loc[shared].to_numpy(np.float64))
    known = pd.DataFrame({"distance": distance, "largest": largest}, index=shared)
    return known.reindex(people)


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
        if part.chromosome.upper() in X_NAMES
        for piece in _pieces(part, kernel.CPU_BLOCK)
    ]
    f = sample_qc.x_inbreeding(
        (source.read(start, stop, index)[specific[start:stop]] for _, start, stop in pieces), sex
    )
    if np.isnan(f).all():
        log.warning(
            "the sex of no one is checked: %d variants on X outside the pseudo-autosomal regions, "
            "%d polymorphic ones are needed",
            sum(specific[start:stop].sum() for _, start, stop in pieces),
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


def _pair_table(people: list[str], pairs: sample_qc.Pairs) -> pd.DataFrame:
    names = np.array(people, dtype=object)
    return pd.DataFrame(
        {
            "IID1": names[pairs.first],
            "IID2": names[pairs.second],
            "kinship": pairs.kinship,
            "n_variants": pairs.n_variants,
        }
    )


def _warn_of_pairs(
    people: list[str], pairs: sample_qc.Pairs, mixed: NDArray[np.bool_], min_kinship: float
) -> None:
    """The closest pairs by name: duplicates, others, and those that mean little."""
    same = pairs.kinship > sample_qc.MIN_DUPLICATE_KINSHIP
    doubtful = ~same & (mixed[pairs.first] | mixed[pairs.second])
    kinds = {
        "duplicates or identical twins": same,
        f"other kinship above {min_kinship:g}": ~same & ~doubtful,
        "kinship that too many heterozygous genotypes of one may explain": doubtful,
    }
    for kind, members in kinds.items():
        order = np.flatnonzero(members)
        order = order[np.argsort(-pairs.kinship[order], kind="stable")]
        names = [f"{people[pairs.first[k]]} and {people[pairs.second[k]]}" for k in order]
        if names:
            log.warning("%s: %s", kind, _named(names, "pairs"))


def _named(names: Sequence[str], what: str) -> str:
    """Their number and the first of them."""
    return f"{len(names)} {what}, {'such as ' if len(names) > 3 else ''}{', '.join(names[:3])}"


def _write_tsv(path: Path, table: pd.DataFrame) -> None:
    write_text(path, table.to_csv(sep="\t", index=False, na_rep="n/a", float_format="%.9g"))


def _autosomes(source: Genotypes) -> set[str]:
    """Chromosomes with a number, from 1 to 22 (or fewer, as in mice: all numbers count)."""
    names = {name for name in source.variants["chromosome"].unique() if name.isdigit()}
    return {name for name in names if 1 <= int(name) <= 22}


def _identity(source: Genotypes) -> dict[str, str | int]:
    """What tells one genotype set from another without reading all of it.

    The tables by their digest; the bed by its size, the time of its last change, and 64 places of
    64 KiB spread evenly over it: the time tells of a change between the places, the places of one
    that kept the time.
    """
    bed, bim, fam = source.files
    stat = bed.stat()
    size, chunk = stat.st_size, 2**16
    digest = hashlib.sha256()
    with open(bed, "rb") as file:
        for place in np.linspace(0, max(size - chunk, 0), 64).astype(int):
            file.seek(int(place))
            digest.update(file.read(chunk))
    return {
        "bed": digest.hexdigest(),
        "size": size,
        "mtime_ns": stat.st_mtime_ns,
        "bim": sha256(bim),
        "fam": sha256(fam),
    }


def _default_threads() -> int:
    """`OMP_NUM_THREADS`, of which the first number counts, or all cores."""
    wanted = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    given = int(wanted) if wanted.isdecimal() else 0
    return given or len(os.sched_getaffinity(0))


def _device(device: str) -> str:
    """`auto` becomes a GPU if torch is installed and finds one."""
    if device == "cpu" or (device == "auto" and not Path("/dev/nvidiactl").exists()):
        return "cpu"  # without the seconds that importing torch takes
    try:
        import torch

        found = torch.cuda.is_available()
    except ImportError:
        found = False
    if device == "cuda" and not found:
        raise InputError("--device cuda: torch finds no GPU; use --device cpu or auto")
    return "cuda" if found else "cpu"


if __name__ == "__main__":
    main()

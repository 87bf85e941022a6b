"""`axoloci-genetics`: joint test of all traits, loci, replication."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path
from typing import Any

import click
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from axoloci import __version__
from axoloci.command import progress, step_group
from axoloci.errors import InputError
from axoloci.io.files import whole_file, write_json, write_text
from axoloci.io.genotype_files import VARIANT_COLUMNS
from axoloci.io.genotypes import Genotypes, open_genotypes
from axoloci.io.sumstats import Sumstats, read_sumstats
from axoloci.tasks.genetics import kernel
from axoloci.tasks.genetics import loci as kernel_loci
from axoloci.tasks.genetics import replication as kernel_replication

log = logging.getLogger("axoloci")

main = step_group(__name__, "From associations to genetics: joint test of all traits, loci.")

FORMAT = "axoloci-joint"
FORMAT_VERSION = 1
TEST = "exact F test of the canonical R2"
TEST_OF_MIXED_MODEL = "Hotelling's T2 of the statistics of a mixed model"
READ_GAP = 64  # variants that are read and dropped sooner than a new read is begun
JOINT_SCHEMA = pa.schema(
    [
        ("chromosome", pa.string()),
        ("base_pair_location", pa.int64()),
        ("variant_id", pa.string()),
        ("effect_allele", pa.string()),
        ("other_allele", pa.string()),
        ("effect_allele_frequency", pa.float32()),
        ("n", pa.int32()),
        ("r2", pa.float64()),
        ("f", pa.float64()),
        ("neg_log10_p", pa.float64()),
    ]
)
SUMSTATS = click.option(
    "--sumstats",
    required=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of the summary statistics.",
)


def _traits_option(use: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """The option that names traits; `use` says what for."""
    return click.option(
        "--traits",
        default=None,
        help="Names with commas between them, * for any letters, such as latent_*: the traits "
        f"{use}",
    )


@main.command()
@SUMSTATS
@_traits_option(
    "that are tested together; without it all that no one lacks. Few that matter have more power "
    "than many that do not."
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default="joint.parquet",
    help="Parquet table of the test, one row a variant.",
)
def joint(sumstats: Path, traits: str | None, out: Path) -> None:
    """Test each variant with all traits at once; remixing the traits changes nothing.

    The exact F test of the canonical R². Of a mixed model (axoloci-gwas associate --loco)
    Hotelling's T², with the correlation that the traits' statistics have among the relatives
    analysed: slightly conservative with very many traits.
    """
    store = read_sumstats(sumstats)
    names = _complete(store) if traits is None else _named(store, traits)
    columns = _columns(store, names)
    test = kernel.mixed_joint_test if store.of_mixed_model else kernel.joint_test

    @lru_cache(maxsize=1)
    def whitening(chromosome: str) -> NDArray[np.float64]:
        correlation = store.correlation_of(chromosome)
        return kernel.whiten_traits(correlation[np.ix_(columns, columns)], names)

    neg_log10_p = [np.empty(0, dtype=np.float32)]
    n_too_few = 0
    with (
        whole_file(out) as temporary,
        pq.ParquetWriter(
            temporary,
            JOINT_SCHEMA,
            store_schema=False,  # else what is noted at the end is not read as the schema's
            compression="zstd",
            compression_level=1,
            use_dictionary=["chromosome", "effect_allele", "other_allele"],
            use_byte_stream_split=["effect_allele_frequency", "r2", "f", "neg_log10_p"],
        ) as writer,
    ):
        for block in progress(store.blocks(), "joint test", len(store.info["parts"])):
            result = test(
                block.beta[:, columns],
                block.se[:, columns],
                block.df[:, columns],
                store.n_samples - store.n_covariates - 1,
                whitening(block.chromosome if store.of_mixed_model else ""),
            )
            frame = block.variants.assign(r2=result.r2, f=result.f, neg_log10_p=result.neg_log10_p)
            writer.write_table(pa.Table.from_pandas(frame, JOINT_SCHEMA, preserve_index=False))
            n_too_few += int(result.too_few.sum())
            neg_log10_p.append(result.neg_log10_p.astype(np.float32))
        pooled = np.concatenate(neg_log10_p)  # (n_variants,)
        tested = int(np.isfinite(pooled).sum())
        if not tested:
            raise InputError(_nothing_tested(store, names, n_too_few))
        inflation = kernel.lambda_gc(pooled)
        about = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "axoloci": __version__,
            "test": TEST_OF_MIXED_MODEL if store.of_mixed_model else TEST,
            "mixed_model": store.of_mixed_model,
            "traits": names,
            "n_covariates": store.n_covariates,
            "n_variants": len(pooled),
            "n_tested": tested,
            "n_too_few_people": n_too_few,
            "lambda_gc": inflation,
            "sumstats": sumstats.name,
        }
        writer.add_key_value_metadata({"axoloci": json.dumps(about, allow_nan=False)})
    if n_too_few:
        log.warning(
            "%d variants are not tested jointly: too many people lack them for %d traits",
            *(n_too_few, len(names)),
        )
    log.info(
        "%d of %d variants tested with %d traits, lambda_GC %.4f",
        *(tested, len(pooled), len(names), inflation),
    )


@main.command()
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
    default=kernel_loci.INDEX_P,
    help="Largest p of a lead variant; 5e-8 is genome-wide significance.",
)
@click.option(
    "--secondary-p",
    type=click.FloatRange(0, 1, min_open=True),
    default=kernel_loci.SECONDARY_P,
    help="Largest p of a variant that belongs to a lead.",
)
@click.option(
    "--clump-r2",
    type=click.FloatRange(0, 1),
    default=kernel_loci.MIN_R2,
    help="Smallest r² with its lead. Smaller: fewer leads, less dependent on each other.",
)
@click.option(
    "--clump-kb",
    type=click.FloatRange(min=0),
    default=kernel_loci.WINDOW_KB,
    help="Farthest distance to its lead, kb.",
)
@click.option(
    "--merge-kb",
    type=click.FloatRange(min=0),
    default=kernel_loci.MERGE_KB,
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
    about = _read_about(joint_path)
    store = read_sumstats(sumstats)
    source = open_genotypes(genotypes)
    people = np.sort(source.sample_index(store.sample_id))  # LD is theirs, not of all in the files
    candidates = _read_associated(joint_path, max(p_threshold, secondary_p))
    associated = (candidates["neg_log10_p"] >= -np.log10(p_threshold)).any()
    if not associated:
        candidates = candidates.iloc[:0]
    chromosome = candidates["chromosome"].to_numpy()
    position = candidates["base_pair_location"].to_numpy()
    clumps = kernel_loci.clump_variants(
        candidates["neg_log10_p"].to_numpy(),
        chromosome,
        position,
        _reader(source, people, candidates, joint_path),
        p_threshold,
        secondary_p,
        clump_r2,
        clump_kb,
    )
    merged = kernel_loci.merge_clumps(clumps, chromosome, position, merge_kb)
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
            "trait_p_threshold": kernel_loci.TRAIT_P / len(about["traits"]),
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


def _complete(store: Sumstats) -> list[str]:
    """The traits that no one lacks: a joint test is of the same people in all of them."""
    lacked = store.info.get("traits_with_missing", [])
    names = [name for name in store.traits if name not in lacked]
    if not names:
        raise InputError(
            f"{store.path}: each trait is lacked by someone, and the joint test needs traits of "
            "the same people: run the association again with --complete-traits, in a study by "
            "complete_traits = true in [gwas]"
        )
    if lacked:
        log.warning("left out of the joint test, for some people lack them: %s", ", ".join(lacked))
    return names


def _named(store: Sumstats, traits: str) -> list[str]:
    """The traits of a store that names with commas between them mean, in the order of these.

    Raises
    ------
    InputError
        No trait of the store is like a name with a *.
    """
    names: list[str] = []
    for word in map(str.strip, traits.split(",")):
        matching = [name for name in store.traits if fnmatchcase(name, word)]
        if "*" in word and not matching:
            raise InputError(
                f"{store.path}: no trait is like '{word}'; it has {', '.join(store.traits[:5])}"
                f"{', …' if len(store.traits) > 5 else ''}"
            )
        names += matching if "*" in word else [word]
    return names


def _columns(store: Sumstats, names: Sequence[str]) -> list[int]:
    """Places of the named traits in the store."""
    unknown = [name for name in names if name not in store.traits]
    if unknown or len(set(names)) < len(names):
        problem = f"no trait {', '.join(unknown)}" if unknown else "a trait is named twice"
        raise InputError(
            f"{store.path}: {problem}; it has {', '.join(store.traits[:5])}"
            f"{', …' if len(store.traits) > 5 else ''}"
        )
    return [store.traits.index(name) for name in names]


def _nothing_tested(store: Sumstats, names: Sequence[str], n_too_few: int) -> str:
    """Why no variant has a joint test, and what to do."""
    incomplete = [name for name in names if name in store.info.get("traits_with_missing", [])]
    if incomplete:
        return (
            f"{store.path}: the joint test needs traits of the same people, and some lack "
            f"{', '.join(incomplete)}; leave them out of --traits"
        )
    return (
        f"{store.path}: no variant can be tested jointly; {n_too_few} are missing in too many "
        f"people for {len(names)} traits: impute genotypes or choose fewer traits with --traits"
    )


def _read_about(path: Path) -> dict[str, Any]:
    """What the joint test noted about itself."""
    try:
        about: dict[str, Any] = json.loads(pq.read_schema(path).metadata[b"axoloci"])
        known = about["format"] == FORMAT
    except (OSError, pa.ArrowInvalid, KeyError, TypeError, ValueError):
        known = False
    if not known:
        raise InputError(f"{path}: not a table of axoloci-genetics joint; make one with it")
    if about["format_version"] > FORMAT_VERSION:
        raise InputError(
            f"{path}: format_version {about['format_version']} is newer than {FORMAT_VERSION}; "
            "update axoloci"
        )
    return about


def _read_associated(path: Path, p: float) -> pd.DataFrame:
    """Rows of the joint test with at most this p; one row group is in memory at a time."""
    frames = [JOINT_SCHEMA.empty_table().to_pandas()]
    file = pq.ParquetFile(path)
    for group in range(file.num_row_groups):
        frame = file.read_row_group(group).to_pandas()
        frames.append(frame[frame["neg_log10_p"] >= -np.log10(p)])
    found = [frame for frame in frames if len(frame)] or frames[:1]
    result: pd.DataFrame = pd.concat(found, ignore_index=True)
    return result


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
    columns = _columns(store, names)
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
                carry = kernel_loci.carrying_traits(neg_log10_p)
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


@main.command()
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
@_traits_option("of which the loci are those; without it all of the discovery.")
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
    names = first.traits if traits is None else _named(first, traits)
    columns_first, columns = _columns(first, names), _columns(second, names)
    r_first, _, _ = _correlations(first, leads, columns_first)
    r_second, df, frequency = _correlations(second, leads, columns)
    if len(leads) and np.isnan(r_first).all(axis=1).any():
        row = int(np.argmax(np.isnan(r_first).all(axis=1)))
        raise InputError(
            f"{discovery}: has no variant {leads['variant_id'][row]} of {loci_path}; give the "
            "summary statistics in which these loci were found"
        )
    r = _combined(first, second, columns_first, columns, leads["chromosome"], r_first, r_second)
    found = kernel_replication.replicate(r, df)
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
            "p_threshold": kernel_replication.LEVEL / max(1, int(tested.sum())),
            "n_same_direction": int((found.r > 0).sum()),
            "p_sign_test": kernel_replication.sign_test(found.r),
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
        r[rows] = kernel_replication.combined_correlation(
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


if __name__ == "__main__":
    main()

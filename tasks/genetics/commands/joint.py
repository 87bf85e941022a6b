"""`axoloci-genetics joint`, and its table as others read it."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from axoloci import __version__
from axoloci.command import columns_help, progress
from axoloci.errors import InputError
from axoloci.io.files import whole_file
from axoloci.io.sumstats import Sumstats, read_sumstats
from axoloci.io.variants import VARIANT_MEANING
from axoloci.joint_test import joint_test, neg_log10_p, partial_correlation, whiten_traits
from axoloci.tasks.genetics import kernel, permutation_tests
from axoloci.tasks.genetics.commands.selection import (
    SUMSTATS,
    columns_of,
    complete_traits,
    named_traits,
    traits_option,
)

log = logging.getLogger("axoloci")

FORMAT = "axoloci-joint"
FORMAT_VERSION = 1
TEST = "exact F test of the canonical R2"
TEST_OF_MIXED_MODEL = "Hotelling's T2 of the statistics of a mixed model"
ALSO = ("minp", "mostest")
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
JOINT_COLUMNS = {
    **VARIANT_MEANING,
    "effect_allele_frequency": "0 to 1, among the people tested.",
    "n": "People with its genotype.",
    "r2": "Share of the variant's variance that all traits explain together given the covariates, "
    "0 to 1: canonical R². Of a mixed model T² / (T² + degrees of freedom). NaN here and below "
    "where it cannot be tested.",
    "f": "F statistic with K and n − p − K degrees of freedom: K traits, p covariates with the "
    "intercept. Of a mixed model T² / K, with K and n − p − 1.",
    "neg_log10_p": "−log10 p of f.",
}
ALSO_COLUMNS = {
    "neg_log10_p_minp": "With --also minp: −log10 p of the smallest p of all traits.",
    "neg_log10_p_mostest": "With --also mostest: −log10 p of MOSTest.",
}


@click.command(epilog=columns_help(out=JOINT_COLUMNS | ALSO_COLUMNS))
@SUMSTATS
@traits_option(
    "that are tested together; without it all that no one lacks. Few that matter have more power "
    "than many that do not."
)
@click.option(
    "--also",
    type=click.Choice(sorted(ALSO)),
    multiple=True,
    help="Other tests of all traits at once, whose null is that of the permuted genotypes of the "
    "association: mostest, which assumes less of the traits' distribution, and minp, the smallest "
    "p of all traits. May be given twice; each adds a column neg_log10_p_<name>.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default="joint.parquet",
    help="Parquet table of the test, one row a variant.",
)
def joint(sumstats: Path, traits: str | None, also: tuple[str, ...], out: Path) -> None:
    """Test each variant with all traits at once; remixing the traits changes nothing.

    The exact F test of the canonical R². Of a mixed model (axoloci-gwas associate --loco)
    Hotelling's T², with the correlation that the traits' statistics have among the relatives
    analysed: slightly conservative with very many traits.
    """
    store = read_sumstats(sumstats)
    names = complete_traits(store) if traits is None else named_traits(store, traits)
    columns = columns_of(store, names)
    lacked = [name for name in names if name in store.info.get("traits_with_missing", [])]
    if lacked:  # the correlation of all traits would be of other people than their statistics
        raise InputError(
            f"{sumstats}: the joint test needs traits of the same people, and some lack "
            f"{', '.join(lacked[:5])}; leave them out of --traits, or run the association with "
            "--complete-traits"
        )
    test = kernel.mixed_joint_test if store.of_mixed_model else joint_test

    @lru_cache(maxsize=1)
    def whitening(chromosome: str) -> NDArray[np.float64]:
        correlation = store.correlation_of(chromosome)
        return whiten_traits(correlation[np.ix_(columns, columns)], names)

    df_all = store.n_samples - store.n_covariates - 1  # of autosomes
    others = _tests_by_permutation(store, columns, also, df_all)
    names_of_p = ["neg_log10_p", *(f"neg_log10_p_{name}" for name in others)]
    schema = JOINT_SCHEMA
    for name in names_of_p[1:]:
        schema = schema.append(pa.field(name, pa.float64()))
    found: dict[str, list[NDArray[np.float32]]] = {name: [] for name in names_of_p}
    n_too_few = 0
    with (
        whole_file(out) as temporary,
        pq.ParquetWriter(
            temporary,
            schema,
            store_schema=False,  # else what is noted at the end is not read as the schema's
            compression="zstd",
            compression_level=1,
            use_dictionary=["chromosome", "effect_allele", "other_allele"],
            use_byte_stream_split=["effect_allele_frequency", "r2", "f", *names_of_p],
        ) as writer,
    ):
        for block in progress(store.blocks(), "joint test", len(store.info["parts"])):
            beta, se, df = (part[:, columns] for part in (block.beta, block.se, block.df))
            result = test(
                *(beta, se, df, df_of_everybody(store, block.chromosome)),
                whitening(block.chromosome if store.has_own_correlation(block.chromosome) else ""),
            )
            frame = block.variants.assign(r2=result.r2, f=result.f, neg_log10_p=result.neg_log10_p)
            for name, other in others.items():
                frame[f"neg_log10_p_{name}"] = np.where(
                    result.too_few, np.nan, other.test(beta, se, df)
                )
            writer.write_table(pa.Table.from_pandas(frame, schema, preserve_index=False))
            n_too_few += int(result.too_few.sum())
            for name, values in found.items():
                values.append(frame[name].to_numpy(dtype=np.float32))
        pooled = {name: np.concatenate(values) for name, values in found.items()}  # (n_variants,)
        tested = int(np.isfinite(pooled["neg_log10_p"]).sum())
        if not tested:
            raise InputError(_nothing_tested(store, names, n_too_few))
        inflation = kernel.lambda_gc(pooled["neg_log10_p"])
        about = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "axoloci": __version__,
            "test": TEST_OF_MIXED_MODEL if store.of_mixed_model else TEST,
            "mixed_model": store.of_mixed_model,
            "traits": names,
            "n_covariates": store.n_covariates,
            "n_variants": len(pooled["neg_log10_p"]),
            "n_tested": tested,
            "n_too_few_people": n_too_few,
            "lambda_gc": inflation,
            "also": {
                name: {
                    **other.about,
                    "lambda_gc": kernel.lambda_gc(pooled[f"neg_log10_p_{name}"]),
                }
                for name, other in others.items()
            },
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
        *(tested, len(pooled["neg_log10_p"]), len(names), inflation),
    )


def df_of_everybody(store: Sumstats, chromosome: str) -> int:
    """Residual degrees of freedom of everybody who was tested on a chromosome."""
    n_covariates = store.n_covariates_of(pd.Series([chromosome]))[0]
    return int(store.n_people_of(chromosome) - n_covariates - 1)


class _PermutationTest(NamedTuple):
    """A test whose null is that of permuted genotypes, and what is told of it.

    Its `test` takes beta, se and df, (n_variants, n_traits), and gives −log10 p, (n_variants,).
    """

    test: Callable[..., NDArray[np.float64]]
    about: dict[str, float]


def _tests_by_permutation(
    store: Sumstats, columns: list[int], also: Sequence[str], df_all: int
) -> dict[str, _PermutationTest]:
    """The tests that are asked for, each with its null, in the order of `ALSO`."""
    if not also:
        return {}
    permuted = store.permuted[:, columns]
    tests: dict[str, _PermutationTest] = {}
    if "minp" in also:
        smallest = permutation_tests.fit_min_p(permuted, df_all)

        def min_p(beta: NDArray[Any], se: NDArray[Any], df: NDArray[Any]) -> NDArray[np.float64]:
            r = partial_correlation(beta, se, df)
            each = neg_log10_p(r * r, 1, df)  # (V, K)
            return permutation_tests.min_p(each.max(axis=1), smallest)

        about = {"a": smallest.a, "b": smallest.b, "n_effective_tests": smallest.n_effective}
        tests["minp"] = _PermutationTest(min_p, about)
    if "mostest" in also:
        null = permutation_tests.fit_mostest(
            permuted, store.trait_correlation[np.ix_(columns, columns)]
        )

        def mostest(beta: NDArray[Any], se: NDArray[Any], _: NDArray[Any]) -> NDArray[np.float64]:
            with np.errstate(divide="ignore", invalid="ignore"):
                t = np.asarray(beta, dtype=np.float64) / np.asarray(se, dtype=np.float64)
            return permutation_tests.mostest(t, null)

        tests["mostest"] = _PermutationTest(mostest, {"shape": null.shape, "scale": null.scale})
    return tests


def _nothing_tested(store: Sumstats, names: Sequence[str], n_too_few: int) -> str:
    """Why no variant has a joint test, and what to do."""
    return (
        f"{store.path}: no variant can be tested jointly; {n_too_few} are missing in too many "
        f"people for {len(names)} traits: impute genotypes or choose fewer traits with --traits"
    )


def read_about(path: Path) -> dict[str, Any]:
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


def read_associated(path: Path, p: float) -> pd.DataFrame:
    """Rows of the joint test with at most this p; one row group is in memory at a time."""
    frames = [JOINT_SCHEMA.empty_table().to_pandas()]
    file = pq.ParquetFile(path)
    for group in range(file.num_row_groups):
        frame = file.read_row_group(group).to_pandas()
        frames.append(frame[frame["neg_log10_p"] >= -np.log10(p)])
    found = [frame for frame in frames if len(frame)] or frames[:1]
    result: pd.DataFrame = pd.concat(found, ignore_index=True)
    return result


def read_regions(path: Path, ranges: Sequence[tuple[str, int, int]]) -> list[pd.DataFrame]:
    """Tested variants of some ranges: chromosome, first and last position.

    The table is read once; one row group is in memory at a time.
    """
    frames: list[list[pd.DataFrame]] = [[JOINT_SCHEMA.empty_table().to_pandas()] for _ in ranges]
    file = pq.ParquetFile(path)
    for group in range(file.num_row_groups):
        frame = file.read_row_group(group).to_pandas()
        frame = frame[frame["neg_log10_p"].notna()]
        there = set(frame["chromosome"].unique())
        for found, (chromosome, first, last) in zip(frames, ranges, strict=True):
            if chromosome in there:
                inside = frame["base_pair_location"].between(first, last)
                found.append(frame[inside & (frame["chromosome"] == chromosome)])
    return [
        pd.concat([part for part in found if len(part)] or found[:1], ignore_index=True)
        for found in frames
    ]

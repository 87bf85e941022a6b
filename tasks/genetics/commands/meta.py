"""`axoloci-genetics meta`."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import combinations
from pathlib import Path
from typing import Any, get_args

import click
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from axoloci import __version__
from axoloci.command import columns_help, progress
from axoloci.errors import InputError
from axoloci.io.files import check_outputs, whole_file, write_json
from axoloci.io.genotype_files import canonical_chromosome
from axoloci.io.outside_sumstats import FORMATS, read_outside
from axoloci.io.sumstats import Sumstats, read_sumstats
from axoloci.io.tables import tsv_text
from axoloci.io.variants import VARIANT_COLUMNS, VARIANT_MEANING
from axoloci.tasks.genetics import meta as kernel
from axoloci.tasks.genetics.commands.selection import (
    columns_of,
    named_traits,
    traits_option,
    warn_of_shared_people,
)
from axoloci.tasks.genetics.harmonise import CLEAR_FREQUENCY, Union, check_frequencies, unite

log = logging.getLogger("axoloci")

FORMAT = "axoloci-meta"
FORMAT_VERSION = 1
_SITE = [*VARIANT_COLUMNS, "effect_allele_frequency", "n"]
_COUNTS = ["n", "n_studies"]  # of each trait: people and studies that have an effect of it
_BLOCK_VALUES = 2**20  # effects of one study that are combined at once
_TEXT_NAMES = {"se": "standard_error", "neg_log10_p": "neg_log_10_p_value"}  # as in GWAS-SSF
META_COLUMNS = {  # as written of one trait to Parquet
    **VARIANT_MEANING,
    "effect_allele_frequency": "0 to 1: mean of the studies by their people.",
    "n": "People of the studies that have an effect.",
    "n_studies": "How many these are. No heterogeneity is known of one.",
    "beta": "Combined effect, in units of the trait per effect allele.",
    "se": "Its standard error; in text standard_error.",
    "neg_log10_p": "−log10 p of beta, two-sided, by the normal law; in text neg_log_10_p_value.",
    "q": "Cochran's Q: how far the studies' effects are apart.",
    "neg_log10_q_p": "−log10 p of Q by the χ² law with n_studies − 1 degrees of freedom; large "
    "where the studies disagree.",
    "i2": "I²: share of the variation between studies that is not sampling error, 0 to 1.",
    "tau2": "With --model random: variance of the effect between studies, in units of beta².",
}


@click.command(epilog=columns_help(out=META_COLUMNS))
@click.option(
    "--study",
    "paths",
    multiple=True,
    required=True,
    type=click.Path(exists=True, path_type=Path),
    help=f"Folder of a study's summary statistics, or text of one trait ({', '.join(FORMATS)}; "
    "plain, .gz or .bz2). Once for each study.",
)
@traits_option(
    "that are combined; without it all that the folders share. Beside a text it is one trait, that "
    "of the text."
)
@click.option(
    "--model",
    type=click.Choice(get_args(kernel.Model)),
    default=kernel.MODEL,
    help="fixed: one effect in all studies. random: effects that differ between studies "
    "(DerSimonian and Laird), with fewer findings where they do.",
)
@click.option(
    "--palindromic-frequency",
    type=click.FloatRange(0, 0.5),
    default=CLEAR_FREQUENCY,
    help="Largest frequency of the rarer allele at which variants of the alleles A/T and C/G are "
    "matched between studies; nearer to 0.5 nothing tells the strand, and they are left out.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default="meta.parquet",
    help="Parquet table, one row a variant; of one trait also text (GWAS-SSF), where the name ends "
    "in .tsv or .tsv.gz. A summary goes beside it as .json.",
)
def meta(
    paths: tuple[Path, ...],
    traits: str | None,
    model: kernel.Model,
    palindromic_frequency: float,
    out: Path,
) -> None:
    """Combine the effects of several studies, each weighted by the inverse of its variance.

    A variant that some studies lack is combined over the others. Effect alleles are those of the
    first study that has the variant. Cochran's Q and I² tell where studies disagree. Of several
    traits the columns from n on end in the trait's name, as beta_height.

    What comes of one trait as text is read again: by ldsc --with, replicate and meta. Of several
    traits run this once for each, with --traits. Joint tests, loci of several traits and maps of
    voxels need what a folder of summary statistics holds besides, the correlation of the traits,
    and take one folder: make them in each study, and test their loci in another by replicate.
    """
    if len(paths) < 2:
        raise click.UsageError("give --study at least twice: one study has nothing to combine")
    if len({path.resolve() for path in paths}) < len(paths):
        raise InputError("a --study is given twice; each counts once")
    summary = out.with_name(out.name.removesuffix(".gz")).with_suffix(".json")
    check_outputs({"--out": out, "the summary of --out": summary})
    studies, names = _open(paths, traits)
    is_text = out.name.endswith((".tsv", ".tsv.gz"))
    if is_text and len(names) > 1:
        raise InputError(
            f"--out {out}: text holds one trait, and these are {len(names)}; name one by --traits, "
            "or a .parquet file"
        )
    dtype = np.result_type(*(study.dtype for study in studies))
    schema = _schema(names, model, dtype, is_text)
    about = {
        "axoloci": __version__,
        "model": model,
        "palindromic_frequency": palindromic_frequency,
        "traits": names,
        "studies": [study.path.name for study in studies],
    }
    n_variants = n_shared = 0
    counts: list[dict[str, int]] = [{} for _ in studies]
    frequencies: list[list[pd.DataFrame]] = [[] for _ in studies]
    full_names = [str(study.path) for study in studies]
    chromosomes = list(dict.fromkeys(name for study in studies for name in study.chromosomes))
    with whole_file(out) as temporary, ExitStack() as stack:
        writer = _writer(stack, temporary, schema, is_text, about)
        for chromosome in progress(chromosomes, "meta-analysis", len(chromosomes)):
            tables = [study.variants(chromosome) for study in studies]
            union = unite(tables, palindromic_frequency, full_names)
            n_variants += len(union.variants)
            n_shared += int(((union.rows >= 0).sum(axis=0) > 1).sum())
            for own, more in zip(counts, union.counts, strict=True):
                own |= {name: own.get(name, 0) + number for name, number in more.items()}
            for regions, of_chromosome in zip(frequencies, union.frequencies, strict=True):
                regions.append(of_chromosome)
            size = max(1, _BLOCK_VALUES // len(names))
            for start in range(0, len(union.variants), size):
                block = slice(start, start + size)
                columns = _combined(
                    studies, tables, union, block, chromosome, len(names), model, dtype
                )
                writer.write_table(pa.Table.from_arrays(columns, schema=schema))
        if not n_shared:
            raise InputError(
                f"{paths[0]}: none of its variants is in another study with the same position and "
                "alleles; are the studies of one genome build?"
            )
        for name, regions in zip(full_names[1:], frequencies[1:], strict=True):
            check_frequencies(
                pd.concat(regions, ignore_index=True), ("the studies before it", name)
            )
    write_json(
        summary,
        about
        | {"n_variants": n_variants, "n_in_several_studies": n_shared, "variants_of_study": counts},
    )
    log.info(
        "%d variants, %d of them in several studies, %d traits",
        *(n_variants, n_shared, len(names)),
    )
    if not is_text:
        log.info(
            "%s is a table for other programs; for ldsc --with, replicate and meta write one trait "
            "as text (--traits NAME --out NAME.tsv.gz); joint tests, loci of several traits and "
            "maps of voxels take the folder of one study",
            out,
        )
    for path, own in zip(paths, counts, strict=True):
        if "ambiguous" in own:
            log.warning(
                "%s: %d A/T and C/G variants are left out, for nothing tells their strand",
                *(path, own["ambiguous"]),
            )


# --- the studies --------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Store:
    """The chosen traits of a store."""

    store: Sumstats
    traits: list[str]

    @property
    def path(self) -> Path:
        return self.store.path

    @cached_property
    def dtype(self) -> np.dtype[Any]:
        schema = pq.read_schema(self.path / self.store.info["parts"][0]["name"])
        dtype: np.dtype[Any] = np.dtype(
            schema.field(f"beta_{self.traits[0]}").type.to_pandas_dtype()
        )
        return dtype

    @cached_property
    def _parts(self) -> dict[str, list[dict[str, Any]]]:
        parts: dict[str, list[dict[str, Any]]] = {}
        for part in self.store.info["parts"]:
            parts.setdefault(canonical_chromosome(part["chromosome"]), []).append(part)
        return parts

    @property
    def chromosomes(self) -> list[str]:
        return list(self._parts)

    def variants(self, chromosome: str) -> pd.DataFrame:
        """Rows of `_SITE` in the order of the store."""
        if chromosome not in self._parts:
            return _no_variants()
        files = [self.path / part["name"] for part in self._parts[chromosome]]
        table = pa.concat_tables(pq.read_table(file, columns=_SITE) for file in files)
        rows: pd.DataFrame = table.to_pandas(ignore_metadata=True)
        return rows

    def effects(
        self, chromosome: str, rows: NDArray[np.int64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Beta, se and people, (n_rows, n_traits), of rows of `variants`."""
        parts = self._parts[chromosome]
        edges = np.cumsum([0, *(part["n_variants"] for part in parts)])
        of_part = np.searchsorted(edges, rows, side="right") - 1
        beta, se, n = np.empty((3, len(rows), len(self.traits)))
        for k in np.unique(of_part):
            here = of_part == k
            values = _effects_of(self.path / parts[k]["name"], tuple(self.traits))
            beta[here], se[here], n[here] = (of_all[rows[here] - edges[k]] for of_all in values)
        return beta, se, n


@lru_cache(maxsize=16)  # blocks of the union begin and end within parts
def _effects_of(file: Path, traits: tuple[str, ...]) -> list[NDArray[Any]]:
    """Beta, se and people of a part of a store, (n_variants, n_traits) each."""
    there = set(pq.read_schema(file).names)
    columns = [[f"{statistic}_{name}" for name in traits] for statistic in ("beta", "se")]
    # traits that some people lack have their own n
    columns.append([f"n_{name}" if f"n_{name}" in there else "n" for name in traits])
    table = pq.read_table(file, columns=sorted({name for names in columns for name in names}))
    return [np.stack([table[name].to_numpy() for name in names], axis=1) for names in columns]


@dataclass(frozen=True)
class _Text:
    """One trait of another program."""

    path: Path
    table: pd.DataFrame

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(np.float64)

    @cached_property
    def _rows(self) -> dict[str, NDArray[np.int64]]:
        names = self.table["chromosome"]
        groups = self.table.groupby(names, sort=False).indices
        return {str(name): np.asarray(rows) for name, rows in groups.items()}

    @property
    def chromosomes(self) -> list[str]:
        return list(self._rows)

    def variants(self, chromosome: str) -> pd.DataFrame:
        """Rows of `_SITE` in the order of the text."""
        if chromosome not in self._rows:
            return _no_variants()
        return self.table[_SITE].iloc[self._rows[chromosome]].reset_index(drop=True)

    def effects(
        self, chromosome: str, rows: NDArray[np.int64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Beta, se and people, (n_rows, 1), of rows of `variants`."""
        own = self._rows[chromosome][rows]
        columns = (self.table[name].to_numpy(np.float64)[own, None] for name in ("beta", "se", "n"))
        beta, se, n = columns
        return beta, se, n


_Study = _Store | _Text


def _no_variants() -> pd.DataFrame:
    """Of a chromosome that a study lacks."""
    numbers = {"base_pair_location": float, "effect_allele_frequency": float, "n": float}
    return pd.DataFrame({name: pd.Series(dtype=numbers.get(name, object)) for name in _SITE})


def _open(paths: Sequence[Path], traits: str | None) -> tuple[list[_Study], list[str]]:
    """The studies, and the traits that are combined."""
    stores = {path: read_sumstats(path) for path in paths if path.is_dir()}
    names: list[str] = []
    if stores:
        first = next(iter(stores.values()))
        if traits is not None:
            names = named_traits(first, traits)
        else:
            shared = set.intersection(*(set(store.traits) for store in stores.values()))
            names = [name for name in first.traits if name in shared]
        if not names:
            raise InputError(f"{first.path}: none of its traits is in all the other studies")
        for store in stores.values():
            columns_of(store, names)  # which says what a store lacks
    if len(stores) < len(paths):
        if len(names) > 1:
            raise InputError(
                "a text holds one trait, and the folders share several: name the one that it "
                f"belongs to by --traits, such as {names[0]}"
            )
        if traits is not None and not stores:
            raise InputError("--traits names traits of folders; these studies are texts of one")
    for one, other in combinations(stores.values(), 2):
        warn_of_shared_people(one, other, "combined errors are too small")
    studies = [_Store(stores[path], names) if path in stores else _text(path) for path in paths]
    return studies, names or ["trait"]


def _text(path: Path) -> _Text:
    """A text that can be combined."""
    table = read_outside(path)
    if table["base_pair_location"].isna().all():
        raise InputError(
            f"{path}: has no positions and no effects, as LDSC's format; give GWAS-SSF, plink2 or "
            "REGENIE"
        )
    lacking = int((table["beta"].isna() | table["se"].isna()).sum())
    if lacking:
        raise InputError(
            f"{path}: {lacking:,} of {len(table):,} variants have no beta or no standard error, by "
            "which studies are combined; give both, or remove such rows"
        )
    if table["n"].isna().any():
        log.warning(
            "%s: n is missing for %d variants; it will be for those in the result",
            *(path, int(table["n"].isna().sum())),
        )
    return _Text(path, table)


# --- the result ---------------------------------------------------------------------------------


def _statistics(model: kernel.Model) -> list[str]:
    """Columns of each trait."""
    columns = ["beta", "se", "neg_log10_p", "q", "neg_log10_q_p", "i2"]
    return [*columns, "tau2"] if model == "random" else columns


def _schema(
    names: Sequence[str], model: kernel.Model, dtype: np.dtype[Any], is_text: bool
) -> pa.Schema:
    """Columns of the variant, then of each trait; of one trait without its name."""
    types = {"base_pair_location": pa.int64(), "effect_allele_frequency": pa.float32()}
    of_variant = [*VARIANT_COLUMNS, "effect_allele_frequency"]
    fields = [pa.field(name, types.get(name, pa.string())) for name in of_variant]
    for name in names:
        suffix = f"_{name}" if len(names) > 1 else ""
        fields += [pa.field(f"{column}{suffix}", pa.int64()) for column in _COUNTS]
        for column in _statistics(model):
            written = _TEXT_NAMES.get(column, column) if is_text else column
            fields.append(pa.field(f"{written}{suffix}", pa.from_numpy_dtype(dtype)))
    return pa.schema(fields)


def _writer(
    stack: ExitStack, path: Path, schema: pa.Schema, is_text: bool, about: dict[str, Any]
) -> Any:
    """What writes tables of the schema, Parquet or text, and is closed with the stack."""
    if is_text:
        return _TextWriter(stack.enter_context(pa.output_stream(str(path))))  # .gz is compressed
    noted = {"format": FORMAT, "format_version": FORMAT_VERSION, **about}
    metadata = {"axoloci": json.dumps(noted, allow_nan=False)}
    words = [field.name for field in schema if field.type == pa.string()]
    numbers = [field.name for field in schema if pa.types.is_floating(field.type)]
    return stack.enter_context(
        pq.ParquetWriter(
            path,
            schema.with_metadata(metadata),
            compression="zstd",
            compression_level=1,
            use_dictionary=[name for name in words if name != "variant_id"],
            use_byte_stream_split=numbers,
        )
    )


class _TextWriter:
    """Writes tables of one schema below each other, as all tables of results are written."""

    def __init__(self, stream: pa.NativeFile) -> None:
        self._stream, self._has_header = stream, False

    def write_table(self, table: pa.Table) -> None:
        rows = table.to_pandas(types_mapper={pa.int64(): pd.Int64Dtype()}.get)  # n may be missing
        self._stream.write(tsv_text(rows, header=not self._has_header).encode())
        self._has_header = True


def _combined(
    studies: Sequence[_Study],
    tables: Sequence[pd.DataFrame],
    union: Union,
    block: slice,
    chromosome: str,
    n_traits: int,
    model: kernel.Model,
    dtype: np.dtype[Any],
) -> list[pa.Array]:
    """Columns of the result for some variants of a chromosome, in the order of the schema."""
    variants, rows, sign = union.variants.iloc[block], union.rows[:, block], union.sign[:, block]
    there = rows >= 0  # (n_studies, n_variants)
    beta, se, n = np.full((3, *rows.shape, n_traits), np.nan)
    frequency, n_genotyped = np.zeros((2, *rows.shape))
    for k, (study, table) in enumerate(zip(studies, tables, strict=True)):
        own, turned = rows[k, there[k]], sign[k, there[k]]
        if len(own):
            effect, error, people = study.effects(chromosome, own)  # (n_own, n_traits) each
            beta[k, there[k]], se[k, there[k]] = turned[:, None] * effect, error
            n[k, there[k]] = people
            f = table["effect_allele_frequency"].to_numpy(np.float64)[own]
            frequency[k, there[k]] = np.where(turned < 0, 1 - f, f)
            n_genotyped[k, there[k]] = table["n"].to_numpy(np.float64)[own]
    combined = kernel.combine_studies(beta, se, model)  # of (n_variants, n_traits) each
    n_combined = np.where(kernel.has_effect(beta, se), n, 0.0).sum(axis=0)  # NaN: unknown of one
    with np.errstate(invalid="ignore"):
        mean_frequency = (n_genotyped * frequency).sum(axis=0) / n_genotyped.sum(axis=0)
    return [
        *(
            pa.array(
                variants[name].to_numpy(),
                pa.int64() if name == "base_pair_location" else pa.string(),
                from_pandas=True,
            )
            for name in VARIANT_COLUMNS
        ),
        pa.array(mean_frequency.astype(np.float32), from_pandas=True),
        *(
            column
            for k in range(n_traits)
            for column in (
                pa.array(n_combined[:, k], from_pandas=True).cast(pa.int64()),
                pa.array(combined.n_studies[:, k]),
                *(
                    pa.array(getattr(combined, name)[:, k].astype(dtype), from_pandas=True)
                    for name in _statistics(model)
                ),
            )
        ),
    ]

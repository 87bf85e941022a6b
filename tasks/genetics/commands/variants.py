"""Single variants of a store: found by the columns that name them, read with their statistics."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from axoloci.errors import InputError, nearest
from axoloci.io.loci import read_loci
from axoloci.io.sumstats import Sumstats
from axoloci.io.variants import VARIANT_COLUMNS, meant_id

PLACE = re.compile(r"(?:chr)?([^:\s]+):(\d+)(?:[:_]([^:_\s]+)[:_]([^:_\s]+))?")
NEIGHBOURS = 3  # that are named where a position has no variant


@dataclass(frozen=True)
class WantedVariant:
    """A variant that is asked for: by its id, or by its place and perhaps its alleles.

    Attributes
    ----------
    name
        What messages call it.
    variant_id
        Its id, if the name is one.
    chromosome, position, alleles
        Where it lies, as far as known; the effect allele first.
    anywhere
        Whether the id is enough, wherever the variant lies.
    """

    name: str
    variant_id: str
    chromosome: str | None = None
    position: int | None = None
    alleles: tuple[str, ...] = ()
    anywhere: bool = True

    def ranks(self, variants: pd.DataFrame) -> NDArray[np.int8]:
        """How well variants fit, (n_variants,): 0 not at all; of several the highest is meant.

        The id counts before the order of the alleles, which tells apart variants of one place, but
        an id that reads as a place of another chromosome counts least: other chromosomes need not
        be looked at then.
        """
        by_id = (variants["variant_id"] == self.variant_id).to_numpy()
        on_chromosome = (variants["chromosome"] == self.chromosome).to_numpy()
        if self.chromosome is None:
            on_chromosome[:] = True
        by_place = np.zeros(len(variants), dtype=np.int8)
        here = (variants["base_pair_location"] == self.position).to_numpy()
        here &= on_chromosome
        for row in np.flatnonzero(here):
            own = (variants["effect_allele"].iloc[row], variants["other_allele"].iloc[row])
            if not self.alleles or own == self.alleles:
                by_place[row] = 3
            elif own == self.alleles[::-1]:
                by_place[row] = 2
        of_id = by_id * np.where(on_chromosome, 4, 1).astype(np.int8)
        fits = by_id | (by_place > 0) if self.anywhere else by_place > 0
        return np.where(fits, by_place + of_id, 0).astype(np.int8)


def wanted_variant(name: str) -> WantedVariant:
    """An id; if no variant has it, a place such as 7:117559590 or 7:117559590:A:C.

    >>> wanted_variant("chr7:1000:T:A").alleles
    ('T', 'A')
    """
    match = PLACE.fullmatch(name)
    if match is None:
        return WantedVariant(name, name)
    chromosome, position, *alleles = match.groups()
    known = tuple(allele for allele in alleles if allele)
    return WantedVariant(name, name, chromosome, int(position), known)


def placed_variant(of: Mapping[Any, Any]) -> WantedVariant:
    """The variant of a row with `VARIANT_COLUMNS`, which lies where the row says."""
    chromosome, position, variant_id, *alleles = (of[name] for name in VARIANT_COLUMNS)
    name = f"{chromosome}:{position} ({variant_id})"
    return WantedVariant(name, variant_id, chromosome, position, tuple(alleles), anywhere=False)


@dataclass(frozen=True)
class VariantStatistics:
    """Statistics of single variants.

    Attributes
    ----------
    variants
        Their columns, `VARIANT_COLUMNS`, effect_allele_frequency and n; one row a variant.
    beta, se
        [float64, shape: (n_variants, n_traits)]
    df
        [float64, shape: (n_variants,)]
    """

    variants: pd.DataFrame
    beta: NDArray[np.float64]
    se: NDArray[np.float64]
    df: NDArray[np.float64]


def read_variants(
    store: Sumstats, wanted: Sequence[WantedVariant], columns: Sequence[int]
) -> VariantStatistics:
    """Single variants, without reading the rest of a store.

    Parts of other chromosomes and positions are not opened where all places are known, as those of
    the leads of loci are, nor those of other chromosomes where all names read as places and are
    found; of the others the columns that name variants are read, and the statistics where one is
    found.

    Parameters
    ----------
    store
        Of summary statistics, in which nobody lacks the traits.
    wanted
        Which variants; one row each, in this order.
    columns
        Places of the traits.

    Raises
    ------
    InputError
        A variant is not in the store (the nearest are named), or several are called so.
    """
    of_variant = [*VARIANT_COLUMNS, "effect_allele_frequency", "n"]
    if not wanted:  # of a study without loci
        nothing = np.empty((0, len(columns)))
        return VariantStatistics(pd.DataFrame(columns=of_variant), nothing, nothing, nothing[:, 0])
    found: list[list[tuple[dict[str, Any], int]]] = [[] for _ in wanted]
    best = [1] * len(wanted)  # rank of what is found
    for parts in _likely_parts(store, wanted):
        for part, variants in _candidates(store, parts, wanted):
            for k, one in enumerate(wanted):
                ranks = one.ranks(variants)
                if ranks.max(initial=0) > best[k]:
                    best[k] = int(ranks.max())
                    found[k].clear()
                found[k] += [(part, int(row)) for row in np.flatnonzero(ranks == best[k])]
        if all(found):
            break
    for rows, one in zip(found, wanted, strict=True):
        if len(rows) != 1:
            raise InputError(_not_one(store, one, rows))
    frames: list[pd.DataFrame] = [pd.DataFrame()] * len(wanted)
    beta, se = np.empty((2, len(wanted), len(columns)))
    names = [store.traits[k] for k in columns]
    by_part: dict[str, list[tuple[int, int]]] = {}
    for k, [(part, row)] in enumerate(found):
        by_part.setdefault(part["name"], []).append((k, row))
    for name, places in by_part.items():
        statistics = [f"{kind}_{trait}" for kind in ("beta", "se") for trait in names]
        table = pq.read_table(store.path / name, columns=[*of_variant, *statistics])
        for k, row in places:
            own = table.slice(row, 1)
            frames[k] = own.select(of_variant).to_pandas(ignore_metadata=True)
            beta[k] = [own[f"beta_{trait}"][0].as_py() for trait in names]
            se[k] = [own[f"se_{trait}"][0].as_py() for trait in names]
    variants = pd.concat(frames, ignore_index=True)
    covariates = store.n_covariates_of(variants["chromosome"])
    return VariantStatistics(variants, beta, se, variants["n"].to_numpy() - covariates - 1.0)


def _likely_parts(
    store: Sumstats, wanted: Sequence[WantedVariant]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Parts of the chromosomes that the names tell, all where one tells none; and the others."""
    chromosomes = {one.chromosome for one in wanted}
    likely: list[dict[str, Any]] = []
    others: list[dict[str, Any]] = []
    for part in store.info["parts"]:
        first = None in chromosomes or part["chromosome"] in chromosomes
        (likely if first else others).append(part)
    return likely, others


def _candidates(
    store: Sumstats, parts: Sequence[dict[str, Any]], wanted: Sequence[WantedVariant]
) -> Iterator[tuple[dict[str, Any], pd.DataFrame]]:
    """Those of some parts that may hold one of the variants, and the columns that name variants."""
    places = {(one.chromosome, one.position) for one in wanted}
    all_known = not any(one.anywhere for one in wanted)
    for part in parts:
        own = [position for chromosome, position in places if chromosome == part["chromosome"]]
        if all_known and not own:
            continue
        file = pq.ParquetFile(store.path / part["name"])
        if all_known and not any(_may_hold(file, position) for position in own):
            continue
        yield part, file.read(columns=VARIANT_COLUMNS).to_pandas(ignore_metadata=True)


def _may_hold(file: pq.ParquetFile, position: int | None) -> bool:
    """Whether a position lies between the smallest and the largest of a part."""
    place = file.schema_arrow.get_field_index("base_pair_location")
    for group in range(file.num_row_groups):
        limits = file.metadata.row_group(group).column(place).statistics
        if position is None or limits is None or not limits.has_min_max:
            return True
        if limits.min <= position <= limits.max:
            return True
    return False


def _not_one(
    store: Sumstats, wanted: WantedVariant, rows: Sequence[tuple[dict[str, Any], int]]
) -> str:
    """Why a variant cannot be taken, and which may have been meant."""
    if rows:
        known = [
            pq.read_table(store.path / part["name"], columns=VARIANT_COLUMNS).slice(row, 1)
            for part, row in rows
        ]
        texts = [":".join(str(table[name][0]) for name in _PLACE_COLUMNS) for table in known]
        return (
            f"{store.path}: {len(rows)} variants are called {wanted.name}; name one of "
            f"{', '.join(texts[:10])}"
        )
    if wanted.position is None:
        return (
            f"{store.path}: no variant '{wanted.name}', by id or by place (CHROM:POS, such as "
            f"7:117559590); {meant_id(wanted.name, _ids(store))}"
        )
    chromosomes = list(dict.fromkeys(part["chromosome"] for part in store.info["parts"]))
    if wanted.chromosome not in chromosomes:
        return (
            f"{store.path}: no variant '{wanted.name}': none has this id, and it has no chromosome "
            f"'{wanted.chromosome}'; {nearest(str(wanted.chromosome), chromosomes)}"
        )
    tables = [
        pq.read_table(store.path / part["name"], columns=VARIANT_COLUMNS)
        for part in store.info["parts"]
        if part["chromosome"] == wanted.chromosome
    ]
    near = pd.concat([table.to_pandas(ignore_metadata=True) for table in tables])
    apart = (near["base_pair_location"] - wanted.position).abs()
    near = near.iloc[np.argsort(apart.to_numpy(), kind="stable")[:NEIGHBOURS]]
    shown = [
        f"{row.variant_id} ({':'.join(str(getattr(row, name)) for name in _PLACE_COLUMNS)})"
        for row in near.itertuples()
    ]
    return f"{store.path}: no variant '{wanted.name}'; nearest: {', '.join(shown)}"


_PLACE_COLUMNS = ["chromosome", "base_pair_location", "effect_allele", "other_allele"]


def _ids(store: Sumstats) -> pa.ChunkedArray:
    """Ids of all variants of a store."""
    files = [store.path / part["name"] for part in store.info["parts"]]
    tables = [pq.read_table(file, columns=["variant_id"]) for file in files]
    return pa.concat_tables(tables)["variant_id"]


def read_leads(path: Path) -> tuple[list[int], list[WantedVariant]]:
    """Numbers of the loci of a table, and the lead variant of each.

    Raises
    ------
    InputError
        As for `read_loci`.
    """
    table = read_loci(path, ["locus", *VARIANT_COLUMNS])
    return table["locus"].tolist(), [placed_variant(lead) for lead in table.to_dict("records")]

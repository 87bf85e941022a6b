"""Single variants of a store: found by the columns that name them, read with their statistics."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from axoloci.errors import InputError, nearest
from axoloci.io.genotype_files import VARIANT_COLUMNS
from axoloci.io.sumstats import Sumstats

PLACE = re.compile(r"(?:chr)?([^:\s]+):(\d+)(?:[:_]([^:_\s]+)[:_]([^:_\s]+))?")
MOST_ALIKE = 1000  # ids that a misspelt one is compared with
NEIGHBOURS = 3  # that are named where a position has no variant


@dataclass(frozen=True)
class WantedVariant:
    """A variant that is asked for: by its id, or by its place and perhaps its alleles.

    Attributes
    ----------
    name
        As it was given.
    chromosome, position, alleles
        Where it lies, as far as known; alleles in alphabetical order.
    """

    name: str
    chromosome: str | None = None
    position: int | None = None
    alleles: tuple[str, ...] = ()

    def matches(self, variants: pd.DataFrame) -> NDArray[np.bool_]:
        """Which of some variants of its chromosome it is, (n_variants,)."""
        by_id = (variants["variant_id"] == self.name).to_numpy()
        if self.position is None:
            return np.asarray(by_id)
        found = (variants["base_pair_location"] == self.position).to_numpy()
        found &= (variants["chromosome"] == self.chromosome).to_numpy()
        if self.alleles:
            for row in np.flatnonzero(found):
                own = (variants["effect_allele"].iloc[row], variants["other_allele"].iloc[row])
                found[row] = tuple(sorted(own)) == self.alleles
        return np.asarray(found | by_id)


def wanted_variant(name: str) -> WantedVariant:
    """An id, or a place such as 7:117559590 or 7:117559590:A:C.

    >>> wanted_variant("chr7:1000:T:A")
    WantedVariant(name='chr7:1000:T:A', chromosome='7', position=1000, alleles=('A', 'T'))
    """
    match = PLACE.fullmatch(name)
    if match is None:
        return WantedVariant(name)
    chromosome, position, *alleles = match.groups()
    known = tuple(sorted(allele for allele in alleles if allele))
    return WantedVariant(name, chromosome, int(position), known)


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

    Parts of other chromosomes and positions are not opened where all places are known; of the
    others the columns that name variants are read, and the statistics where one is found.

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
    for part, variants in _candidates(store, wanted):
        for rows, one in zip(found, wanted, strict=True):
            rows += [(part, int(row)) for row in np.flatnonzero(one.matches(variants))]
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


def _candidates(
    store: Sumstats, wanted: Sequence[WantedVariant]
) -> Iterator[tuple[dict[str, Any], pd.DataFrame]]:
    """Parts that may hold one of the variants, and the columns that name variants."""
    places = {(one.chromosome, one.position) for one in wanted}
    all_known = all(position is not None for _, position in places)
    for part in store.info["parts"]:
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
        meant = nearest(wanted.name, _alike(store, wanted.name))
        return f"{store.path}: no variant '{wanted.name}'; {meant}"
    chromosomes = list(dict.fromkeys(part["chromosome"] for part in store.info["parts"]))
    if wanted.chromosome not in chromosomes:
        return (
            f"{store.path}: no variant '{wanted.name}', for it has no chromosome "
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


def _alike(store: Sumstats, name: str) -> list[str]:
    """Ids that begin as one does, as far as any does."""
    files = [store.path / part["name"] for part in store.info["parts"]]
    ids = [pq.read_table(file, columns=["variant_id"])["variant_id"] for file in files]
    for length in range(len(name), -1, -1):
        begins = [pc.filter(column, pc.starts_with(column, name[:length])) for column in ids]
        if any(len(column) for column in begins):
            return [str(one) for column in begins for one in column[:MOST_ALIKE].to_pylist()][
                :MOST_ALIKE
            ]
    return []


def read_leads(path: Path) -> tuple[list[int], list[WantedVariant]]:
    """Numbers of the loci of a table, and the lead variant of each.

    Raises
    ------
    InputError
        It lacks such columns.
    """
    table = pd.read_csv(path, sep="\t", dtype={"chromosome": str, "variant_id": str})
    lacking = [name for name in ("locus", *VARIANT_COLUMNS) if name not in table]
    if lacking:
        raise InputError(
            f"{path}: no column {', '.join(lacking)}; give the table of axoloci-genetics loci"
        )
    leads = [
        WantedVariant(
            f"{lead['chromosome']}:{lead['base_pair_location']} ({lead['variant_id']})",
            lead["chromosome"],
            int(lead["base_pair_location"]),
            tuple(sorted((lead["effect_allele"], lead["other_allele"]))),
        )
        for lead in table.to_dict("records")
    ]
    return table["locus"].tolist(), leads

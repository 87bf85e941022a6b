"""The files that the commands read: who and what is taken of them."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from axoloci.covariates import (
    design_matrix,
    formula_columns,
    formula_variables,
    ordered_levels,
)
from axoloci.errors import InputError, nearest
from axoloci.io.files import sha256
from axoloci.io.genotypes import Genotypes, JoinedGenotypes, open_genotypes
from axoloci.io.tables import (
    alike_hint,
    match_samples,
    minus_nine_warnings,
    read_ids,
    read_table,
    read_traits,
)
from axoloci.io.variant_choice import VariantChoice
from axoloci.tasks.gwas import sample_qc, traits
from axoloci.tasks.gwas.variant_qc import VariantFilter

log = logging.getLogger("axoloci")


@dataclass(frozen=True)
class AnalysisInputs:
    """What is analysed, of whom, and adjusted for what; each is an option of the same name."""

    genotypes: Path
    traits: tuple[Path, ...]
    trait: tuple[str, ...]
    covariates: tuple[Path, ...]
    covariate: tuple[str, ...]
    formula: str | None
    categorical: tuple[str, ...]
    keep: Path | None
    remove: Path | None
    region: tuple[str, ...]
    extract: Path | None
    exclude: Path | None
    min_maf: float
    min_mac: float
    max_missing: float
    min_hwe_p: float
    min_info: float
    winsorize: float | None
    rank_normal: Literal["values", "residuals"] | None
    complete_traits: bool

    @property
    def named_traits(self) -> str:
        """The tables of traits as messages name them."""
        return ", ".join(map(str, self.traits))

    @property
    def variants(self) -> VariantChoice:
        """Regions and lists of variants."""
        return VariantChoice(self.region, self.extract, self.exclude)

    @property
    def limits(self) -> VariantFilter:
        """Limits of the variants."""
        return VariantFilter(
            self.min_maf, self.min_mac, self.max_missing, self.min_hwe_p, self.min_info
        )

    def plan(self, source: Genotypes) -> dict[str, Any]:
        """All of it by content, to tell whether a result is of the same inputs."""
        content = {
            name: _by_content(value) for name, value in asdict(self).items() if name != "genotypes"
        }
        return {"genotypes": identity(source), **content}


def _by_content(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_by_content(one) for one in value]
    return sha256(value) if isinstance(value, Path) else value


@dataclass(frozen=True)
class Study:
    """What the inputs hold.

    Attributes
    ----------
    source
        Genotypes of the chosen variants.
    people
        Who has genotypes, all covariates and a trait, in the order of the genotypes.
    traits
        Names.
    trait_values : float64, (n_samples, n_traits)
        Traits as they are tested; NaN where missing.
    columns : pandas.DataFrame, (n_samples, any)
        Covariates, without an intercept.
    """

    source: Genotypes
    people: list[str]
    traits: list[str]
    trait_values: NDArray[np.float64]
    columns: pd.DataFrame


def prepare(inputs: AnalysisInputs) -> Study:
    """Read all inputs but the genotypes themselves.

    Raises
    ------
    InputError
        A file is malformed, or no one is in all of them.
    """
    source = open_genotypes(inputs.genotypes)
    if not inputs.variants.is_all:
        n_before = source.n_variants
        source.select_variants(inputs.variants.of(source.variants, source.path))
        log.info("%d of %d variants are chosen", source.n_variants, n_before)
    table = read_trait_tables(inputs.traits, inputs.trait, source.samples)
    formula = inputs.formula
    used = inputs.covariate if formula is None else formula_variables(formula)
    tables = inputs.covariates if formula is None or used else ()  # a formula may need none
    covariates = read_covariates(tables, used, inputs.categorical, source.samples)
    people = shared_people(
        select_people(source, inputs.keep, inputs.remove),
        *(source, inputs.named_traits, table, covariates, inputs.complete_traits),
    )
    columns = pd.DataFrame(index=people) if covariates is None else covariates.loc[people]
    _say_levels(columns)
    if formula is not None:
        columns = formula_columns(formula, columns)
    values = table.loc[people].to_numpy(np.float64)
    names = [str(name) for name in table.columns]
    _warn_of_two_values(names, values)
    values = _transformed(values, columns, inputs.winsorize, inputs.rank_normal)
    return Study(source, people, names, values, columns)


def _warn_of_two_values(names: list[str], values: NDArray[np.float64]) -> None:
    """Say which traits may be cases and controls; `values` (n_samples, n_traits), NaN missing."""

    def n_values(rows: slice, k: int) -> int:
        column = values[rows, k]
        return len(np.unique(column[~np.isnan(column)]))

    few = [k for k in range(len(names)) if n_values(slice(1000), k) <= 2]  # most traits end here
    two = [names[k] for k in few if n_values(slice(None), k) == 2]
    if two:
        log.warning(
            "two values: %s; taken for quantities, for logistic models are out of scope",
            examples(two, "traits"),
        )


def _say_levels(columns: pd.DataFrame) -> None:
    """The levels of categories, of which there cannot be as many as people."""
    for name, values in columns.items():
        if values.dtype == object:
            levels = ordered_levels(values)
            if len(levels) > len(columns) / 2:
                raise InputError(
                    f"covariate {name}: {len(levels)} levels among {len(columns)} people, such as "
                    f"'{levels[0]}', as ids or dates have; name the covariates to use by "
                    "--covariate or --model"
                )
            log.info("covariate %s: %d levels, reference '%s'", name, len(levels), levels[0])


def _transformed(
    values: NDArray[np.float64],
    columns: pd.DataFrame,
    winsorize: float | None,
    rank_normal: Literal["values", "residuals"] | None,
) -> NDArray[np.float64]:
    """Traits as they are tested."""
    if winsorize is not None:
        values = traits.winsorize(values, winsorize)
    if rank_normal == "residuals":
        values = traits.residuals(values, design_matrix(columns)[0])
    if rank_normal is not None:
        values = traits.rank_normal(values)
    return values


def select_people(source: Genotypes, keep: Path | None, remove: Path | None = None) -> list[str]:
    """People of the genotypes, in their order: all, or those of a table, but those of another."""
    people = list(source.samples.index)
    if keep is not None:
        people = match_samples({str(source.path): people, str(keep): _named(keep, source)})
    if remove is not None:
        named = set(_named(remove, source))
        people = [person for person in people if person not in named]
        log.info("%d people are left without those of %s", len(people), remove)
    if not people:
        raise InputError(f"{remove}: names all people who would be used; no one is left")
    return people


def _named(path: Path, source: Genotypes) -> list[str]:
    """Who is named in a table or list; those without genotypes are said."""
    named = read_ids(path, source.samples)
    unknown = sorted(set(named).difference(source.samples.index))
    if unknown:
        hint = alike_hint(unknown, source.samples.index)
        log.warning(
            "%s: %s are not in %s%s",
            *(path, examples(unknown, "people"), source.path, f"; {hint}" if hint else ""),
        )
    return named


def read_trait_tables(
    paths: Sequence[Path], wanted: Sequence[str], people: pd.DataFrame
) -> pd.DataFrame:
    """All tables of traits side by side, for the people who are in all of them.

    Parameters
    ----------
    paths
        The tables.
    wanted
        Traits to use, whichever table they are in; without any all.
    people
        Those of the genotypes.

    Raises
    ------
    InputError
        A table is malformed, a trait is in two of them or in none, or no one is in all of them.
    """
    tables: dict[str, pd.DataFrame] = {}
    owner: dict[str, Path] = {}
    for path in paths:
        names = list(wanted)
        if wanted and len(paths) > 1:
            columns = read_table(path, people=people).columns
            names = [name for name in wanted if name in columns]
            if not names:
                raise InputError(f"{path}: has no trait {', '.join(wanted)}; leave it out")
        tables[str(path)] = table = read_traits(path, people, names)
        for name in map(str, table.columns):
            if name in owner:
                raise InputError(f"the trait '{name}' is in {owner[name]} and in {path}; rename it")
            owner[name] = path
        for warning in minus_nine_warnings(table, path):
            log.warning("%s", warning)
    if unknown := [name for name in wanted if name not in owner]:
        raise InputError(
            f"{', '.join(map(str, paths))}: no trait {', '.join(unknown)}; "
            f"{nearest(unknown[0], owner)}"
        )
    if len(tables) > 1:
        match_samples({path: table.index for path, table in tables.items()})
    joined: pd.DataFrame = pd.concat(tables.values(), axis=1, join="inner")
    return joined


def read_covariates(
    paths: Sequence[Path],
    wanted: Sequence[str],
    categorical: Sequence[str],
    people: pd.DataFrame,
) -> pd.DataFrame | None:
    """All covariate tables side by side, for the people who are in all of them and lack nothing.

    `people` are those of the genotypes.
    """
    tables: dict[str, pd.DataFrame] = {}
    owner: dict[str, Path] = {}
    for path in paths:
        table = read_table(path, categorical, people)
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
        names = ", ".join(unknown)
        if not paths:
            raise InputError(f"no covariate {names}: no table is named by --covariates")
        raise InputError(
            f"{', '.join(map(str, paths))}: no covariate {names}; {nearest(unknown[0], owner)}"
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


def shared_people(
    people: Sequence[str],
    source: Genotypes,
    traits: str,
    trait_table: pd.DataFrame,
    covariates: pd.DataFrame | None,
    complete: bool,
) -> list[str]:
    """People with genotypes, all covariates and a trait or more, in the order of the genotypes.

    If `complete`, with all traits that are neither constant nor missing for everyone. `traits`
    names the tables of these.
    """
    sources = {str(source.path): people, traits: trait_table.index}
    if covariates is not None:
        sources["the covariates"] = covariates.index
    people = match_samples(sources)
    own = trait_table.loc[people]
    has_trait = own.notna().any(axis=1).to_numpy()
    if not has_trait.all():
        log.info("%d people have no trait and are left out", (~has_trait).sum())
    if not has_trait.any():
        raise InputError(f"{traits}: no one with genotypes and covariates has a trait")
    if complete:
        has_trait = own.loc[:, own.min() < own.max()].notna().all(axis=1).to_numpy()
        log.info("%d of %d people have all traits", has_trait.sum(), len(people))
        if not has_trait.any():
            raise InputError(f"{traits}: no one with genotypes and covariates has all traits")
    return [person for person, has in zip(people, has_trait, strict=True) if has]


def read_pcs(path: Path | None, people: list[str], source: Genotypes) -> pd.DataFrame:
    """How far each person is out: `distance` and `largest`, NaN where nothing is known."""
    nothing = pd.DataFrame({"distance": np.nan, "largest": np.nan}, index=people)
    if path is None:
        return nothing
    table = read_table(path, people=source.samples)
    words = [str(name) for name, column in table.items() if column.dtype == object]
    if words or table.shape[1] == 0:
        found = f"column '{words[0]}' holds words" if words else "no column besides the ids"
        raise InputError(f"{path}: {found}; a table of components needs numbers")
    shared = match_samples({"the genotypes": people, str(path): table.index})
    if len(shared) < len(people):
        log.warning(
            "no components: %s",
            examples([p for p in people if p not in table.index], "people"),
        )
    distance, largest = sample_qc.pc_distance(table.loc[shared].to_numpy(np.float64))
    known = pd.DataFrame({"distance": distance, "largest": largest}, index=shared)
    return known.reindex(people)


def identity(source: Genotypes) -> dict[str, Any]:
    """What tells one genotype set from another without reading all of it.

    The tables by their digest; the genotypes by their size, the time of their last change, and 64
    places of 64 KiB spread evenly over them: the time tells of a change between the places, the
    places of one that kept the time.
    """
    if isinstance(source, JoinedGenotypes):
        return {"parts": [identity(part) for part in source.parts]}
    data, *tables = source.files
    stat = data.stat()
    size, chunk = stat.st_size, 2**16
    digest = hashlib.sha256()
    with open(data, "rb") as file:
        for place in np.linspace(0, max(size - chunk, 0), 64).astype(int):
            file.seek(int(place))
            digest.update(file.read(chunk))
    content = {data.suffix.removeprefix("."): digest.hexdigest()}
    content |= {table.suffix.removeprefix("."): sha256(table) for table in tables}
    return {"size": size, "mtime_ns": stat.st_mtime_ns, **content}


def examples(names: Sequence[str], what: str) -> str:
    """Their number and the first of them."""
    return f"{len(names)} {what}, {'such as ' if len(names) > 3 else ''}{', '.join(names[:3])}"

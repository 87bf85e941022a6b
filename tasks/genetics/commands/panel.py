"""Genotypes that linkage disequilibrium is that of: the study's, or a reference panel's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from axoloci.errors import InputError
from axoloci.io.genotype_files import canonical_chromosome
from axoloci.io.genotypes import Genotypes, open_genotypes
from axoloci.io.variants import VARIANT_COLUMNS
from axoloci.tasks.genetics.harmonise import is_of_other_build

READ_GAP = 64  # variants that are read and dropped sooner than a new read is begun


@dataclass(frozen=True)
class Panel:
    """Genotypes of some people.

    Attributes
    ----------
    source
        Where they are read.
    people
        [int64, shape: (n_people,)] Positions in file order, ascending.
    of_study
        Whether variants are those of the study: they have its ids and effect alleles then.
    """

    source: Genotypes
    people: NDArray[np.int64]
    of_study: bool

    @property
    def sex(self) -> NDArray[np.int8]:
        """Of each person [shape: (n_people,)]: 1 male, 2 female, 0 unknown."""
        return self.source.samples["sex"].to_numpy(np.int8)[self.people]

    def rows_of(self, variants: pd.DataFrame) -> NDArray[np.int64]:
        """Row of each variant among those of `source`, −1 where there is none.

        In a reference panel by chromosome, position and alleles, in either order: which allele is
        counted does not change r².

        Parameters
        ----------
        variants
            With `VARIANT_COLUMNS`.

        Returns
        -------
        [int64, shape: (n_variants,)]
        """
        near = self.source.variants
        near = near[near["base_pair_location"].isin(variants["base_pair_location"])]
        key = pd.MultiIndex.from_frame if self.of_study else _either_order
        keys = key(near[VARIANT_COLUMNS])
        first = ~keys.duplicated()
        found = keys[first].get_indexer(key(variants[VARIANT_COLUMNS]))
        return np.append(near.index.to_numpy(np.int64)[first], -1)[found]

    def read(self, rows: NDArray[np.int64]) -> NDArray[np.int8]:
        """Genotypes of the variants at some rows of `source`, in runs of neighbours.

        Returns
        -------
        [int8, shape: (n_rows, n_people)] 0, 1, 2, and −9 where missing.
        """
        wanted, back = np.unique(rows, return_inverse=True)
        runs = np.split(wanted, np.flatnonzero(np.diff(wanted) > READ_GAP) + 1)
        blocks = [
            self.source.read_calls(int(run[0]), int(run[-1]) + 1, self.people)[run - run[0]]
            for run in runs
        ]
        return np.asarray(np.concatenate(blocks)[back], dtype=np.int8)


def open_study(path: Path, sample_id: Sequence[str]) -> Panel:
    """The study's genotypes, of the people analysed."""
    source = open_genotypes(path)
    return Panel(source, np.sort(source.sample_index(sample_id)), of_study=True)


def open_reference(path: Path) -> Panel:
    """A reference panel, of its founders: those whose parents are both unknown, as in plink."""
    source = open_genotypes(path)
    parents = source.samples[["father", "mother"]]
    people = np.flatnonzero((parents == "0").all(axis=1))
    if not len(people):
        raise InputError(f"{source.names_people}: everyone has parents; a panel needs founders")
    return Panel(source, people, of_study=False)


def refuse_other_genotypes(
    panel: Panel, rows: NDArray[np.int64], variants: pd.DataFrame, table: Path
) -> None:
    """Raise where genotypes are not those of the study, or a panel is not of its build.

    Parameters
    ----------
    panel
        The genotypes.
    rows
        [int64, shape: (n_variants,)] From `Panel.rows_of`.
    variants
        Associated variants, with `VARIANT_COLUMNS`.
    table
        Where they are from.

    Raises
    ------
    InputError
        The study's genotypes lack a variant; a panel has none, or other positions for them.
    """
    path = panel.source.path
    absent = variants.loc[rows < 0, "variant_id"].tolist()
    if panel.of_study:
        if absent:
            raise InputError(
                f"{path}: lacks {len(absent)} variants of {table} or has other alleles or "
                f"positions for them, such as {', '.join(absent[:5])}; give the genotypes of the "
                "study"
            )
        return
    theirs = panel.source.variants
    theirs = theirs[theirs["variant_id"].isin(variants["variant_id"])]
    unique = theirs.drop_duplicates("variant_id", keep=False)
    same_id = variants.merge(unique, on="variant_id", suffixes=("", "_panel"))
    moved = same_id[same_id["base_pair_location"] != same_id["base_pair_location_panel"]]
    if is_of_other_build(len(moved), len(same_id) - len(moved)):
        first = moved.iloc[0]
        raise InputError(
            f"{path}: {len(moved)} of the {len(same_id)} variants that it and {table} have by id "
            f"have other positions, such as {first.variant_id} at "
            f"{first.chromosome_panel}:{first.base_pair_location_panel}, and not at "
            f"{first.chromosome}:{first.base_pair_location}: it is of another build of the genome; "
            "give a panel of the study's build"
        )
    if len(absent) == len(variants) > 0:
        place = ["chromosome", "base_pair_location"]
        here = pd.MultiIndex.from_frame(variants[place])
        n_placed = int(here.isin(pd.MultiIndex.from_frame(panel.source.variants[place])).sum())
        why = (
            f"it has {n_placed} of their positions, with other alleles: it may be of the other "
            "strand"
            if n_placed
            else "it has none of their positions: it is of another build of the genome, or of "
            "other chromosomes"
        )
        raise InputError(
            f"{path}: has 0 of {len(variants)} associated variants of {table} by chromosome, "
            f"position and alleles; {why}"
        )


def _either_order(variants: pd.DataFrame) -> pd.MultiIndex:
    """Chromosome, position, and alleles in alphabetical order."""
    alleles = np.sort(variants[["effect_allele", "other_allele"]].to_numpy(dtype=str), axis=1)
    chromosome = variants["chromosome"].map(canonical_chromosome)
    return pd.MultiIndex.from_arrays(
        [chromosome, variants["base_pair_location"], alleles[:, 0], alleles[:, 1]]
    )

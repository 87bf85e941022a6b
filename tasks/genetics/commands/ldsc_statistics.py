"""Statistics of a study, or of an outside one, of the variants that have an LD score."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from axoloci.command import progress
from axoloci.errors import InputError
from axoloci.io.outside_sumstats import read_outside, trait_name
from axoloci.io.sumstats import Sumstats
from axoloci.tasks.genetics.harmonise import (
    COMPLEMENT,
    check_frequencies,
    is_of_other_build,
    regions_of_frequencies,
)

log = logging.getLogger("axoloci")

FEWEST_VARIANTS = 200  # of a regression
PLACE = ["chromosome", "base_pair_location"]


@dataclass(frozen=True)
class Statistics:
    """Statistics of variants that have an LD score.

    Attributes
    ----------
    rows
        [int64, shape: (n_variants,)] Of the table of LD scores, ascending.
    z
        [float32, shape: (n_variants, n_traits)] NaN where not tested.
    n
        [float32, shape: (n_variants, 1 or n_traits)] People.
    alleles
        [object, shape: (n_variants, 2)] Effect and other allele.
    frequency
        [float32, shape: (n_variants,)] Of the effect allele; NaN where unknown.
    n_read
        Variants of the study or text, with an LD score or without.
    """

    rows: NDArray[np.int64]
    z: NDArray[np.float32]
    n: NDArray[np.float32]
    alleles: NDArray[np.object_]
    frequency: NDArray[np.float32]
    n_read: int

    def take(self, chosen: NDArray[np.int64]) -> Statistics:
        """Of some variants; the same arrays where they are all of them."""
        if len(chosen) == len(self.rows):
            return self
        return Statistics(
            *(self.rows[chosen], self.z[chosen], self.n[chosen]),
            *(self.alleles[chosen], self.frequency[chosen], self.n_read),
        )


class Finder:
    """Finds variants among those that have an LD score.

    Parameters
    ----------
    table
        chromosome, base_pair_location, variant_id of each LD score; ids are unique.
    name
        Of the LD scores, for messages.
    other_build
        Positions may differ.
    """

    def __init__(self, table: pd.DataFrame, name: Path, other_build: bool) -> None:
        self.table, self.name, self.other_build = table, name, other_build
        self.by_id = pd.Index(table["variant_id"])
        self.position = table["base_pair_location"].to_numpy(np.int64)
        self.chromosome = table["chromosome"].to_numpy(dtype=object)

    def find(self, variants: pd.DataFrame) -> tuple[NDArray[np.int64], int]:
        """Rows of the LD scores of some variants, and how many were at another position.

        By id, and without ids by chromosome and position. −1 where there is none.
        """
        if variants["variant_id"].isna().all():
            alone = np.flatnonzero(~self.table[PLACE].duplicated(keep=False))
            by_place = pd.MultiIndex.from_frame(self.table[PLACE].iloc[alone])
            found = by_place.get_indexer(pd.MultiIndex.from_frame(variants[PLACE]))
            return np.where(found < 0, -1, alone[found]), 0
        rows = self.by_id.get_indexer(variants["variant_id"]).astype(np.int64)
        position = variants["base_pair_location"].to_numpy(np.float64)  # NaN of LDSC's format
        placed = (rows >= 0) & (position > 0) & (self.position[rows] > 0)
        moved = placed & (
            (position != self.position[rows])
            | (variants["chromosome"].to_numpy(dtype=object) != self.chromosome[rows])
        )
        if not self.other_build:
            rows[moved] = -1
        return rows, int(moved.sum())

    def check(self, source: Path, n_variants: int, n_found: int, n_moved: int) -> None:
        """Refuse statistics of which too few were found.

        Raises
        ------
        InputError
            Many are at another position, or hardly any has an LD score.
        """
        if not self.other_build and is_of_other_build(n_moved, n_found):
            raise InputError(
                f"{source}: {n_moved} of {n_found + n_moved} variants have another position in "
                f"{self.name}: one of them is of another genome build; give LD scores of the same "
                "one, or --other-build to match by id alone, in a study other_build = true in "
                "[genetics]"
            )
        if n_moved:
            log.warning(
                "%s: %d of %d variants have another position in %s; %s",
                *(source, n_moved, n_found + n_moved * (not self.other_build), self.name),
                "matched by id all the same" if self.other_build else "left out",
            )
        if n_found < FEWEST_VARIANTS:
            example = self.table["variant_id"].iloc[:1].tolist()
            cure = (
                f"both must name variants alike, as {', '.join(example)} there"
                if n_variants >= FEWEST_VARIANTS
                else "give the statistics of the whole genome instead of chosen variants"
            )
            raise InputError(
                f"{source}: {n_found} of {n_variants} variants are among the {len(self.table)} LD "
                f"scores of {self.name}, and {FEWEST_VARIANTS} are needed at least; {cure}"
            )
        log.info("%s: %d of %d variants have an LD score", source, n_found, n_variants)


def read_study(store: Sumstats, columns: list[int], finder: Finder) -> Statistics:
    """Statistics of some traits of a store, block by block; only of variants with an LD score."""
    common_n = not store.info.get("traits_with_missing")
    pieces: list[NDArray[np.float32]] = []
    rows, n, alleles, frequency = [], [], [], []
    n_moved = 0
    for block in progress(store.blocks(), "statistics", len(store.info["parts"])):
        places, of_block_moved = finder.find(block.variants)
        n_moved += of_block_moved
        at = np.flatnonzero(places >= 0)
        chosen = np.ix_(at, np.array(columns))
        beta, se = block.beta[chosen], block.se[chosen]
        with np.errstate(divide="ignore", invalid="ignore"):
            z = beta / se  # (rows, K)
        infinite = np.argwhere(np.isinf(z))
        if len(infinite):
            variant, trait = infinite[0]
            raise InputError(
                f"{store.path}: variant {block.variants['variant_id'].iloc[at[variant]]} fits "
                f"{store.traits[columns[trait]]} without an error; leave out that trait, which is "
                "made of a genotype"
            )
        n_covariates = store.n_covariates_of(block.variants["chromosome"])
        df = block.df[at, :1] if common_n else block.df[chosen]
        rows.append(places[at])
        pieces.append(z.astype(np.float32))
        n.append((df + n_covariates[at, None] + 1).astype(np.float32))
        alleles.append(_alleles(block.variants.iloc[at]))
        frequency.append(_frequency(block.variants.iloc[at]))
    all_rows = np.concatenate(rows)
    finder.check(store.path, store.n_variants, len(all_rows), n_moved)
    order = np.argsort(all_rows, kind="stable")
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    sorted_z = np.empty((len(order), len(columns)), dtype=np.float32)  # (M, K)
    stop = len(order)
    while pieces:  # so that no more than one part is held twice
        piece = pieces.pop()
        sorted_z[rank[stop - len(piece) : stop]] = piece
        stop -= len(piece)
    return _unique(
        Statistics(
            *(all_rows[order], sorted_z, np.concatenate(n)[order], np.concatenate(alleles)[order]),
            *(np.concatenate(frequency)[order], store.n_variants),
        ),
        store.path,
    )


def read_other(path: Path, n: float | None, finder: Finder) -> Statistics:
    """Statistics of another study's trait out of text; `n` people where it does not say it."""
    table = read_outside(path)
    places, n_moved = finder.find(table)
    at = np.flatnonzero(places >= 0)
    finder.check(path, len(table), len(at), n_moved)
    at = at[np.argsort(places[at], kind="stable")]
    chosen = table.iloc[at]
    people = chosen["n"].to_numpy(np.float64)
    if n is not None:
        people = np.where(np.isnan(people), n, people)
    unknown = ~(people > 0)
    if unknown.any():
        name = chosen["variant_id"].iloc[int(np.argmax(unknown))]
        raise InputError(
            f"{path}: has no number of people for {int(unknown.sum())} of {len(at)} variants, such "
            f"as {name}; give it by --n {trait_name(path)}=NUMBER, in a study by outside_n in "
            "[genetics]"
        )
    z = chosen["z"].to_numpy(np.float64)
    if np.isinf(z).any():
        name = chosen["variant_id"].iloc[int(np.argmax(np.isinf(z)))]
        raise InputError(f"{path}: variant {name} has an infinite statistic; leave it out")
    return _unique(
        Statistics(
            places[at],
            z.astype(np.float32)[:, None],
            people.astype(np.float32)[:, None],
            _alleles(chosen),
            _frequency(chosen),
            len(table),
        ),
        path,
    )


def shared(first: Statistics, others: Statistics) -> tuple[Statistics, Statistics]:
    """Both of the same variants, and the first's statistics for the effect alleles of the others.

    Alleles are the same or swapped, of the same strand or of the other one. What does not fit is
    left out, and what reads alike on both strands (A and T, C and G), for nobody knows which it is.
    """
    _, of_first, of_others = np.intersect1d(
        first.rows, others.rows, assume_unique=True, return_indices=True
    )
    sign = allele_signs(first.alleles[of_first], others.alleles[of_others])
    use = (sign != 0) & np.isfinite(first.z[of_first]).all(axis=1)
    chosen = first.take(of_first[use])
    turned = replace(chosen, z=chosen.z * sign[use, None])
    return turned, others.take(of_others[use])


def check_alleles(
    study: Statistics, other: Statistics, finder: Finder, names: tuple[str, str]
) -> None:
    """Tell which variants of both `shared` leaves out, and compare the frequencies of the rest.

    Parameters
    ----------
    study, other
        Of the study and of an outside trait.
    finder
        Of the LD scores.
    names
        Of study and outside trait, for messages.

    Raises
    ------
    InputError
        Frequencies are of the other allele in one of them.
    """
    both, of_study, of_other = np.intersect1d(
        study.rows, other.rows, assume_unique=True, return_indices=True
    )
    alleles, alleles_2 = study.alleles[of_study], other.alleles[of_other]
    sign = allele_signs(alleles, alleles_2)
    palindromic = is_palindromic(alleles) & is_palindromic(alleles_2)
    log.info(
        "%s: of %d variants that %s has too, correlations leave out %d of the alleles A/T or C/G, "
        "which read alike on both strands, and %d of other alleles there",
        *(names[1], len(both), names[0]),
        *(int(palindromic.sum()), int(((sign == 0) & ~palindromic).sum())),
    )
    f, f_2 = study.frequency[of_study], other.frequency[of_other]
    f_2 = np.where(sign < 0, 1 - f_2, np.where(sign > 0, f_2, np.nan))
    check_frequencies(regions_of_frequencies(finder.table.iloc[both], f, f_2), names)


def allele_signs(first: NDArray[np.object_], second: NDArray[np.object_]) -> NDArray[np.float32]:
    """What makes statistics for the alleles of `first` those for the alleles of `second`.

    Parameters
    ----------
    first, second
        [object, shape: (n, 2)] Effect and other allele.

    Returns
    -------
    [float32, shape: (n,)] 1, −1 where effect and other allele are swapped, 0 where they are others
    or read alike on both strands.
    """
    flipped = np.array([[COMPLEMENT.get(a, "") for a in pair] for pair in first], dtype=object)
    flipped = flipped.reshape(-1, 2)
    same = (first == second).all(axis=1) | (flipped == second).all(axis=1)
    swapped = (first[:, ::-1] == second).all(axis=1) | (flipped[:, ::-1] == second).all(axis=1)
    return np.asarray(same.astype(np.float32) - swapped.astype(np.float32))


def is_palindromic(alleles: NDArray[np.object_]) -> NDArray[np.bool_]:
    """Whether effect and other allele, [object, shape: (n, 2)], are each other's complement."""
    return np.array([COMPLEMENT.get(effect) == other for effect, other in alleles], dtype=bool)


def _frequency(variants: pd.DataFrame) -> NDArray[np.float32]:
    return variants["effect_allele_frequency"].to_numpy(np.float32)


def _alleles(variants: pd.DataFrame) -> NDArray[np.object_]:
    return variants[["effect_allele", "other_allele"]].to_numpy(dtype=object)


def _unique(statistics: Statistics, source: Path) -> Statistics:
    """Without variants that occur more than once."""
    rows = statistics.rows
    again = np.zeros(len(rows) + 1, dtype=bool)
    again[1:-1] = rows[1:] == rows[:-1]
    repeated = again[1:] | again[:-1]
    if repeated.any():
        log.warning(
            "%s: %d variants have an id that is there more than once; left out",
            *(source, int(repeated.sum())),
        )
    return statistics.take(np.flatnonzero(~repeated))

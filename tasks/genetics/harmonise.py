"""Variants of two tables brought to the same effect alleles: swapped, other strand, palindromic.

A variant is known by its position and alleles. Either allele may count in either table, and either
strand may be named: A/G is G/A, T/C and C/T. Of a palindromic pair, A/T and C/G, the letters do not
tell the strand, but the frequency does where it is clearly below or above one half in both.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from axoloci.errors import InputError
from axoloci.io.genotype_files import canonical_chromosome

log = logging.getLogger("axoloci")

CLEAR_FREQUENCY = 0.42
"""Palindromic alleles are told apart where the rarer one has at most this frequency in both."""
MOST_MOVED = 0.01
"""Share of the variants at another position under the same id, above which builds differ."""
FEWEST_FREQUENCIES = 50
"""Matched variants by which frequencies of two tables are compared."""
FEWEST_REGIONS = 20
"""Regions of `REGION` in which these must lie for a refusal. Between ancestries the variants of one
haplotype, even an inversion of some Mb, may all be more frequent together, and look turned."""
REGION = 1e6
"""bp; about as far as linkage reaches in most of the genome."""
CLOSE_FREQUENCIES = 0.1
"""Difference below which frequencies of two tables are of the same people or like ones."""
TURNED_SHARE = 0.7
"""Mean difference from one minus a frequency as a share of that from it as given, below which they
are turned: of turned frequencies up to 0.65 at F_ST 0.25, of others 1.5 and more."""
FAR_FREQUENCIES = 0.2
"""Difference above which one frequency is not that of the same allele of like people."""
MOST_TURNED = 0.03
"""Share of the variants with a frequency far off and close to that of the other allele, above which
rows may be turned; each region counts once."""
MOST_TURNED_OF_FAR = 0.25
"""The same of those with a frequency far off, for these are many between ancestries. In simulated
populations of F_ST 0.05 to 0.2, as of continents, it is 0.15; among like people 0.9 and more where
3 % of the rows are turned; 0.28 at F_ST 0.15 where 30 % are."""
COMPLEMENT = {"A": "T", "T": "A", "C": "G", "G": "C"}
"""Of each base, the one on the other strand."""

_WORDS = ["chromosome", "variant_id", "effect_allele", "other_allele"]
_NUMBERS = ["base_pair_location", "effect_allele_frequency"]


class Match(IntEnum):
    """What became of a variant of the second table.

    The last three are left out.
    """

    SAME = 0
    """The alleles of the first table."""
    SWAPPED = 1
    """Effect and other allele in each other's place: sign and frequency turned."""
    STRAND_FLIPPED = 2
    """The alleles of the other strand."""
    STRAND_FLIPPED_AND_SWAPPED = 3
    """Both."""
    AMBIGUOUS = 4
    """Palindromic, and the frequencies do not tell the strand."""
    INCOMPATIBLE = 5
    """Other alleles at the same position."""
    ABSENT = 6
    """Not in the first table."""


@dataclass(frozen=True)
class Harmonised:
    """Which variants of two tables are the same.

    Attributes
    ----------
    first, second
        [int64, shape: (n_pairs,)] Rows of the two tables, in the order of the first.
    sign
        [float64, shape: (n_pairs,)] 1 or −1: what the effects of the second are multiplied by to
        be of the first's effect allele; its frequency f becomes 1 − f where −1.
    match
        [uint8, shape: (n_second,)] `Match` of each variant of the second table.
    """

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    sign: NDArray[np.float64]
    match: NDArray[np.uint8]

    @property
    def counts(self) -> dict[str, int]:
        """Variants of the second table by what became of them; zeros are left out."""
        numbers = np.bincount(self.match, minlength=len(Match))
        return {kind.name.lower(): int(numbers[kind]) for kind in Match if numbers[kind]}


def harmonise(
    first: pd.DataFrame,
    second: pd.DataFrame,
    clear_frequency: float | None = CLEAR_FREQUENCY,
    names: tuple[str, str] = ("the first table", "the second table"),
) -> Harmonised:
    """Match the variants of two tables by position and alleles, or by id if one has no positions.

    Strands are looked at only of single bases, and only where neither table has a second variant at
    the position: insertions, deletions and sites of several alleles are matched by their letters.

    Parameters
    ----------
    first, second
        chromosome, base_pair_location, variant_id, effect_allele, other_allele and
        effect_allele_frequency of each variant; alleles in capitals. Positions NaN where there are
        none, frequencies where unknown.
    clear_frequency
        Palindromic alleles are matched where the frequency is at most this, or at least one minus
        it, in both tables; 0.5 matches all. None: both tables are of one strand, so that letters
        alone decide.
    names
        Of the tables, for an error.

    Raises
    ------
    InputError
        Of the variants, more than one and more than `MOST_MOVED` have another position in the
        other table under the same id: the tables are of different genome builds. Or one minus the
        frequencies of one table differ from those of the other less than half as much as these
        themselves, and this over many regions: those of one table are of the other allele. In few
        it is only logged, and so are single variants, where they are many.

    References
    ----------
    Hartwig et al. 2016, doi:10.1093/ije/dyx028: palindromic alleles by frequency.
    """
    found = _matched(first, second, clear_frequency, names)
    check_frequencies(_frequencies(first, second, found), names)
    return found


def _matched(
    first: pd.DataFrame,
    second: pd.DataFrame,
    clear_frequency: float | None,
    names: tuple[str, str],
) -> Harmonised:
    """The same before frequencies are compared."""
    by_position = all(table["base_pair_location"].notna().any() for table in (first, second))
    left, right = _keys(first, second) if by_position else _id_keys(first, second)
    rows = pd.DataFrame({"key": left, "first": np.arange(len(first))})[left >= 0]
    rows_2 = pd.DataFrame({"key": right, "second": np.arange(len(second))})[right >= 0]
    pairs = rows.merge(rows_2, on="key")  # (n_candidates, 3)
    i, j = pairs["first"].to_numpy(), pairs["second"].to_numpy()
    if by_position:
        _check_build(first, second, i, j, names)
    match = np.full(len(second), Match.ABSENT, dtype=np.uint8)
    if not len(pairs):
        return Harmonised(i, j, np.empty(0), match)
    alone = (np.bincount(i)[i] == 1) & (np.bincount(j)[j] == 1)  # no second variant there
    columns = ["effect_allele", "other_allele", "effect_allele_frequency"]
    kind = _kinds(first[columns].iloc[i], second[columns].iloc[j], alone, clear_frequency)
    np.minimum.at(match, j, kind)  # the best of the candidates
    good = np.flatnonzero(kind < Match.AMBIGUOUS)
    good = good[np.argsort(kind[good], kind="stable")]
    good = good[~pd.Series(i[good]).duplicated().to_numpy()]  # a variant that a table has twice
    good = good[~pd.Series(j[good]).duplicated().to_numpy()]
    good = good[np.argsort(i[good], kind="stable")]
    matched = np.zeros(len(second), dtype=bool)
    matched[j[good]] = True
    match[~matched & (match < Match.AMBIGUOUS)] = Match.INCOMPATIBLE
    turned = (kind[good] == Match.SWAPPED) | (kind[good] == Match.STRAND_FLIPPED_AND_SWAPPED)
    sign = np.where(turned, -1.0, 1.0)  # (n_pairs,)
    return Harmonised(i[good], j[good], sign, match)


@dataclass(frozen=True)
class Union:
    """The variants that any of several tables has.

    Attributes
    ----------
    variants
        Columns that `harmonise` needs, (n_variants,) rows by position, each as the first table has
        it that holds the variant.
    rows
        [int64, shape: (n_tables, n_variants)] Row of each table, −1 where it lacks the variant.
    sign
        [float64, shape: (n_tables, n_variants)] As in `Harmonised`; NaN where it lacks the variant.
    counts
        Of each table, its variants by what became of them (`Harmonised.counts`): those that the
        tables before lack are "absent" or "incompatible", and are added.
    frequencies
        Of each table, how they compare with those of the tables before (`regions_of_frequencies`).
    """

    variants: pd.DataFrame
    rows: NDArray[np.int64]
    sign: NDArray[np.float64]
    counts: list[dict[str, int]]
    frequencies: list[pd.DataFrame]


def unite(
    tables: Sequence[pd.DataFrame],
    clear_frequency: float | None = CLEAR_FREQUENCY,
    names: Sequence[str] = (),
) -> Union:
    """Bring the variants of several tables, of one chromosome, to the effect alleles of the first.

    Variants that the tables before lack are added, but not palindromic ones that cannot be told.
    Frequencies of the other allele are refused as by `harmonise`; whether to warn of them all
    chromosomes tell (`check_frequencies`).

    Parameters
    ----------
    tables
        As for `harmonise`, all with positions.
    clear_frequency
        As for `harmonise`.
    names
        Of the tables, for an error.

    Raises
    ------
    InputError
        As `harmonise`.
    """
    names = names or [f"table {k}" for k in range(1, len(tables) + 1)]
    variants = _needed(tables[0].iloc[:0])
    rows = np.empty((0, 0), dtype=np.int64)
    sign = np.empty((0, 0))
    counts, frequencies = [], []
    for name, table in zip(names, tables, strict=True):
        found = _matched(variants, table, clear_frequency, (names[0], name))
        counts.append(found.counts)
        frequencies.append(_frequencies(variants, table, found))
        _refuse_frequencies(frequencies[-1], (names[0], name))
        added = np.flatnonzero(np.isin(found.match, (Match.ABSENT, Match.INCOMPATIBLE)))
        own_rows = np.full(len(variants) + len(added), -1, dtype=np.int64)
        own_sign = np.full(len(own_rows), np.nan)
        own_rows[found.first], own_sign[found.first] = found.second, found.sign
        own_rows[len(variants) :], own_sign[len(variants) :] = added, 1.0
        wider = ((0, 0), (0, len(added)))
        rows = np.vstack([np.pad(rows, wider, constant_values=-1), own_rows])
        sign = np.vstack([np.pad(sign, wider, constant_values=np.nan), own_sign])
        variants = pd.concat([variants, _needed(table.iloc[added])], ignore_index=True)
    order = np.argsort(variants["base_pair_location"].to_numpy(), kind="stable")
    ordered = variants.iloc[order].reset_index(drop=True)
    return Union(ordered, rows[:, order], sign[:, order], counts, frequencies)


def is_of_other_allele(
    frequency: NDArray[np.floating], frequency_2: NDArray[np.floating]
) -> NDArray[np.bool_]:
    """Whether the frequencies of an allele in two studies clearly are of different alleles.

    Near 0.5 they tell nothing.

    Parameters
    ----------
    frequency, frequency_2
        (n_variants,) of what each study holds for the same allele; NaN where it does not tell.

    Returns
    -------
    bool, (n_variants,)
        False of NaN.
    """
    fits_other = np.abs(frequency - (1 - frequency_2)) < CLOSE_FREQUENCIES
    return np.asarray(fits_other & (np.abs(frequency - frequency_2) > FAR_FREQUENCIES))


def regions_of_frequencies(
    variants: pd.DataFrame, f: NDArray[np.floating], f_2: NDArray[np.floating]
) -> pd.DataFrame:
    """Frequencies in two tables compared, summed up in each region of `REGION`.

    Parameters
    ----------
    variants
        chromosome, base_pair_location and variant_id of variants that both tables have.
    f, f_2
        [shape: (n_variants,)] Frequency of one allele in either table, NaN where not compared.

    Returns
    -------
    pandas.DataFrame
        One row a region: n, compared variants; as_given and turned, mean difference of f from f_2
        and from 1 − f_2; n_far, variants whose f is far from f_2; n_turned, those of them
        whose f is close to 1 − f_2; examples, up to three of these.
    """
    known = np.isfinite(f) & np.isfinite(f_2)
    rows, f, f_2 = variants[known], f[known].astype(float), f_2[known].astype(float)
    as_given, turned = np.abs(f - f_2), np.abs(f - (1 - f_2))
    is_far = as_given > FAR_FREQUENCIES
    fits_other = is_of_other_allele(f, f_2)
    names = np.full(len(rows), None, dtype=object)
    names[fits_other] = _names(rows[fits_other])
    table = pd.DataFrame(
        {
            "chromosome": rows["chromosome"].to_numpy(),
            "region": rows["base_pair_location"].to_numpy(np.float64) // REGION,
            "as_given": as_given,
            "turned": turned,
            "is_far": is_far,
            "fits_other": fits_other,
            "name": names,
        }
    )
    return (
        table.groupby(["chromosome", "region"], dropna=False, sort=False)
        .agg(
            n=("turned", "size"),
            as_given=("as_given", "mean"),
            turned=("turned", "mean"),
            n_far=("is_far", "sum"),
            n_turned=("fits_other", "sum"),
            examples=("name", lambda names: names.dropna().head(3).tolist()),
        )
        .reset_index()
    )


def check_frequencies(regions: pd.DataFrame, names: tuple[str, str]) -> None:
    """Refuse frequencies that are of the other allele in one of two tables; warn of single ones.

    Parameters
    ----------
    regions
        Of `regions_of_frequencies`.
    names
        Of the tables.

    Raises
    ------
    InputError
        They look turned on average, in many regions. In few this is only logged.
    """
    _refuse_frequencies(regions, names)
    n = int(regions["n"].sum())
    if n < FEWEST_FREQUENCIES:
        return
    if _look_turned(regions):
        log.warning("%s; people of another ancestry can do that in so few", _looks(regions, names))
        return
    # linked variants count once
    share, far = ((regions[name] / regions["n"]).mean() for name in ("n_turned", "n_far"))
    n_places = int((regions["n_turned"] > 0).sum())
    # in few of many regions these are haplotypes
    is_local = n_places < min(FEWEST_REGIONS, len(regions) / 2)
    if share <= max(MOST_TURNED, MOST_TURNED_OF_FAR * far) or is_local:
        return
    n_turned = int(regions["n_turned"].sum())
    log.warning(
        "effect_allele_frequency of %s fits the other allele in %s of %s variants (%.0f %%) of the "
        "same alleles in %s, such as %s; look there whether effect and other allele are exchanged "
        "in some rows, which turns their effects, or the frequency is always that of the rarer "
        "allele",
        *(names[1], f"{n_turned:,}", f"{n:,}", 100 * n_turned / n, names[0]),
        ", ".join([name for own in regions["examples"] for name in own][:3]),
    )


def is_of_other_build(n_moved: int, n_same: int) -> bool:
    """Whether tables are of different genome builds, by how many ids have moved.

    Parameters
    ----------
    n_moved, n_same
        Variants with another position under the same id, and those with the same.
    """
    return n_moved > max(1, MOST_MOVED * (n_moved + n_same))  # one may be a merged id


def _needed(table: pd.DataFrame) -> pd.DataFrame:
    """The columns that are matched, of the same types whatever a table has."""
    return table[[*_WORDS, *_NUMBERS]].astype(
        dict.fromkeys(_WORDS, object) | dict.fromkeys(_NUMBERS, float)
    )


def _keys(first: pd.DataFrame, second: pd.DataFrame) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """A number for each chromosome and position, −1 where unknown."""
    codes, names = pd.factorize(_both(first["chromosome"], second["chromosome"]))
    canonical, _ = pd.factorize(
        np.array([canonical_chromosome(str(name)) for name in names], dtype=object)
    )
    chromosome = np.where(codes >= 0, np.append(canonical, -1)[codes], -1)
    position = np.concatenate(
        [table["base_pair_location"].to_numpy(np.float64) for table in (first, second)]
    )
    known = (chromosome >= 0) & (position > 0)
    key = np.full(len(codes), -1, dtype=np.int64)
    key[known] = chromosome[known] * 2**40 + position[known].astype(np.int64)
    return key[: len(first)], key[len(first) :]


def _both(*columns: pd.Series) -> NDArray[Any]:
    """Columns one after the other; those without a value may be of another type."""
    return np.concatenate([column.to_numpy(dtype=object) for column in columns])


def _id_keys(
    first: pd.DataFrame, second: pd.DataFrame
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """A number for each id, −1 where there is none."""
    ids = _both(first["variant_id"], second["variant_id"])
    ids[ids == "."] = None
    codes, _ = pd.factorize(ids)
    return codes[: len(first)], codes[len(first) :]


def _check_build(
    first: pd.DataFrame,
    second: pd.DataFrame,
    i: NDArray[np.int64],
    j: NDArray[np.int64],
    names: tuple[str, str],
) -> None:
    """Refuse tables in which many ids lie at other positions; rows i and j share positions."""
    apart = []
    for table, rows in ((first, i), (second, j)):
        alone = np.ones(len(table), dtype=bool)
        alone[rows] = False
        placed = alone & (table["base_pair_location"] > 0).to_numpy()
        ids = table["variant_id"][placed]
        apart.append(pd.Index(ids[ids.notna() & (ids != ".")].unique()))
    moved = apart[0].intersection(apart[1], sort=False)
    n_same = len(np.unique(j))
    if is_of_other_build(len(moved), n_same):
        raise InputError(
            f"{names[1]}: {len(moved):,} variants, such as {moved[0]}, have another position than "
            f"in {names[0]}, and {n_same:,} have the same: they are of different genome builds; "
            "lift one over to the build of the other"
        )


def _frequencies(first: pd.DataFrame, second: pd.DataFrame, found: Harmonised) -> pd.DataFrame:
    """Frequencies of matched variants compared, those of palindromic alleles left out."""
    own, own_2 = first.iloc[found.first], second.iloc[found.second]
    f, f_2 = (table["effect_allele_frequency"].to_numpy(np.float64) for table in (own, own_2))
    # of palindromic alleles the sign itself is by the frequency
    palindromic = own["effect_allele"].map(COMPLEMENT) == own["other_allele"]
    f_2 = np.where(found.sign < 0, 1 - f_2, f_2)
    f_2[palindromic.to_numpy()] = np.nan
    placed = own if first["base_pair_location"].notna().any() else own_2
    return regions_of_frequencies(placed, f, f_2)


def _names(variants: pd.DataFrame) -> NDArray[np.object_]:
    """Ids, and of variants without one the position."""
    ids = variants["variant_id"]
    places = variants["chromosome"].astype(str) + ":" + variants["base_pair_location"].astype(str)
    return ids.where(ids.notna() & (ids != "."), places).to_numpy(dtype=object)


def _look_turned(regions: pd.DataFrame) -> bool:
    """Whether all frequencies of one table look like those of the other allele.

    In many regions by the smaller mean difference alone: between ancestries even frequencies of the
    same allele differ by 0.15 and more on average. In few these must be close, too.
    """
    if regions["n"].sum() < FEWEST_FREQUENCIES:
        return False
    # each region once, for its variants are more or less frequent together
    as_given, turned = regions["as_given"].mean(), regions["turned"].mean()
    is_close = len(regions) >= FEWEST_REGIONS or turned < CLOSE_FREQUENCIES
    return bool(is_close and turned < TURNED_SHARE * as_given)


def _looks(regions: pd.DataFrame, names: tuple[str, str]) -> str:
    as_given, turned = regions["as_given"].mean(), regions["turned"].mean()
    return (
        f"effect_allele_frequency of {names[1]} looks like that of the other allele: from that of "
        f"{names[0]} it differs by {as_given:.2f} on average, one minus it by {turned:.2f}, over "
        f"{regions['n'].sum():,} variants of the same alleles in {len(regions):,} regions of 1 Mb"
    )


def _refuse_frequencies(regions: pd.DataFrame, names: tuple[str, str]) -> None:
    """Refuse what looks turned in many regions."""
    if len(regions) >= FEWEST_REGIONS and _look_turned(regions):
        raise InputError(
            f"{_looks(regions, names)}; in the table that is wrong, which may be the other one, "
            "write 1 minus the frequency, or exchange the alleles if its effects are of the other "
            "one too"
        )


def _kinds(
    first: pd.DataFrame,
    second: pd.DataFrame,
    alone: NDArray[np.bool_],
    clear_frequency: float | None,
) -> NDArray[np.uint8]:
    """`Match` of variants at one position, row by row of two tables of as many rows."""
    n = len(first)
    names = ("effect_allele", "other_allele")
    codes, alleles = pd.factorize(
        _both(*(table[name] for table in (first, second) for name in names))
    )
    number = {allele: code for code, allele in enumerate(alleles)}
    # of each allele the code of its base on the other strand; −2 where there is none
    complement = np.array([number.get(COMPLEMENT.get(a, ""), -2) for a in alleles], dtype=np.int64)
    effect, other, effect_2, other_2 = codes.reshape(4, n)
    same = (effect == effect_2) & (other == other_2)
    swapped = (effect == other_2) & (other == effect_2)
    kind = np.full(n, Match.INCOMPATIBLE, dtype=np.uint8)
    kind[swapped], kind[same] = Match.SWAPPED, Match.SAME
    if clear_frequency is None:
        return kind
    may_flip = alone & ~same & ~swapped
    flipped, other_flipped = complement[effect_2], complement[other_2]
    kind[may_flip & (effect == flipped) & (other == other_flipped)] = Match.STRAND_FLIPPED
    kind[may_flip & (effect == other_flipped) & (other == flipped)] = (
        Match.STRAND_FLIPPED_AND_SWAPPED
    )
    palindromic = alone & (complement[effect] == other) & (same | swapped)
    f = first["effect_allele_frequency"].to_numpy(np.float64)
    f_2 = second["effect_allele_frequency"].to_numpy(np.float64)
    # the effect alleles are one if both are the rarer or both the more frequent one
    turned = (f < 0.5) != (f_2 < 0.5)
    kind[palindromic & same & turned] = Match.STRAND_FLIPPED_AND_SWAPPED
    kind[palindromic & swapped & ~turned] = Match.STRAND_FLIPPED
    clear = _is_clear(f, clear_frequency) & _is_clear(f_2, clear_frequency)
    kind[palindromic & ~clear] = Match.AMBIGUOUS
    return kind


def _is_clear(frequency: NDArray[np.float64], limit: float) -> NDArray[np.bool_]:
    return np.asarray(np.minimum(frequency, 1 - frequency) <= limit)

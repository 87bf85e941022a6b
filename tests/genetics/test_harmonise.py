"""Alleles of two tables: every flip by hand, and a planted one in simulated people."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pandas as pd
import pytest

from axoloci.errors import InputError
from axoloci.tasks.genetics.harmonise import Match, harmonise, is_of_other_allele, unite


def table(*rows: tuple[Any, ...]) -> pd.DataFrame:
    """Rows of chromosome, position, effect and other allele, frequency, and perhaps an id."""
    names = ["chromosome", "base_pair_location", "effect_allele", "other_allele"]
    made = pd.DataFrame(
        [(*row, None)[:6] for row in rows],
        columns=[*names, "effect_allele_frequency", "variant_id"],
    )
    return made.astype({"variant_id": object})


# alleles and frequency of either table, what they are, and the sign
BY_HAND = [
    ("AG", 0.2, "AG", 0.3, Match.SAME, 1),
    ("AG", 0.2, "GA", 0.7, Match.SWAPPED, -1),
    ("AG", 0.2, "TC", 0.3, Match.STRAND_FLIPPED, 1),
    ("AG", 0.2, "CT", 0.7, Match.STRAND_FLIPPED_AND_SWAPPED, -1),
    ("AC", 0.5, "TG", 0.5, Match.STRAND_FLIPPED, 1),  # frequencies do not matter here
    ("AC", 0.5, "GT", np.nan, Match.STRAND_FLIPPED_AND_SWAPPED, -1),
    ("AG", 0.2, "AC", 0.2, Match.INCOMPATIBLE, 0),
    ("AG", 0.2, "GG", 0.2, Match.INCOMPATIBLE, 0),
    ("AG", 0.2, "AT", 0.2, Match.INCOMPATIBLE, 0),
    # palindromic, by letters the same: rare with rare, rare with frequent
    ("AT", 0.2, "AT", 0.3, Match.SAME, 1),
    ("AT", 0.2, "AT", 0.8, Match.STRAND_FLIPPED_AND_SWAPPED, -1),
    ("CG", 0.9, "CG", 0.7, Match.SAME, 1),
    ("CG", 0.9, "CG", 0.1, Match.STRAND_FLIPPED_AND_SWAPPED, -1),
    # by letters swapped
    ("AT", 0.2, "TA", 0.8, Match.SWAPPED, -1),
    ("AT", 0.2, "TA", 0.3, Match.STRAND_FLIPPED, 1),
    ("GC", 0.9, "CG", 0.1, Match.SWAPPED, -1),
    ("GC", 0.9, "CG", 0.8, Match.STRAND_FLIPPED, 1),
    # not told by the frequency
    ("AT", 0.45, "AT", 0.2, Match.AMBIGUOUS, 0),
    ("AT", 0.2, "AT", 0.55, Match.AMBIGUOUS, 0),
    ("AT", 0.2, "TA", np.nan, Match.AMBIGUOUS, 0),
    ("AT", 0.42, "AT", 0.585, Match.STRAND_FLIPPED_AND_SWAPPED, -1),
]


@pytest.mark.parametrize(("pair", "f", "pair_2", "f_2", "match", "sign"), BY_HAND)
def test_harmonise__every_flip_by_hand(
    pair: str, f: float, pair_2: str, f_2: float, match: Match, sign: int
) -> None:
    found = harmonise(table(("1", 9, *pair, f)), table(("1", 9, *pair_2, f_2)))
    assert found.match.tolist() == [match]
    assert found.sign.tolist() == ([sign] if sign else [])
    assert found.counts == {match.name.lower(): 1}


def test_harmonise__insertions_and_deletions_by_their_letters() -> None:
    first = table(("1", 9, "AT", "A", 0.2), ("1", 19, "A", "AT", 0.2), ("1", 29, "TA", "T", 0.2))
    second = table(("1", 9, "AT", "A", 0.2), ("1", 19, "AT", "A", 0.8), ("1", 29, "AT", "A", 0.2))
    found = harmonise(first, second)
    assert found.match.tolist() == [Match.SAME, Match.SWAPPED, Match.INCOMPATIBLE]
    assert found.sign.tolist() == [1, -1]


def test_harmonise__sites_of_several_alleles_by_their_letters() -> None:
    """At 1:9 A/G and A/C: the strand of T/C cannot be known there, nor that of A/T by frequency."""
    first = table(("1", 9, "A", "G", 0.2), ("1", 9, "A", "C", 0.1), ("1", 9, "A", "T", 0.1))
    second = table(("1", 9, "C", "A", 0.9), ("1", 9, "A", "G", 0.2), ("1", 9, "A", "T", 0.8))
    found = harmonise(first, second)
    assert found.first.tolist() == [0, 1, 2]
    assert found.second.tolist() == [1, 0, 2]
    assert found.sign.tolist() == [1, -1, 1]
    assert harmonise(first, table(("1", 9, "T", "C", 0.2))).counts == {"incompatible": 1}


def test_harmonise__one_strand_leaves_letters_to_decide() -> None:
    first = table(("1", 9, "A", "T", 0.5), ("1", 19, "A", "T", 0.2), ("1", 29, "A", "G", 0.2))
    second = table(("1", 9, "T", "A", np.nan), ("1", 19, "A", "T", 0.9), ("1", 29, "T", "C", 0.2))
    found = harmonise(first, second, None)
    assert found.match.tolist() == [Match.SWAPPED, Match.SAME, Match.INCOMPATIBLE]
    assert harmonise(first, second, 0.5).counts == {
        "strand_flipped": 1,
        "strand_flipped_and_swapped": 1,
        "ambiguous": 1,
    }


def test_harmonise__chromosomes_by_number_or_letter_and_what_is_absent() -> None:
    first = table(("23", 9, "A", "G", 0.2), ("2", 9, "A", "G", 0.2), ("1", 0, "A", "G", 0.2))
    second = table(("1", 9, "A", "G", 0.2), ("X", 9, "A", "G", 0.2), ("1", 0, "A", "G", 0.2))
    found = harmonise(first, second)
    assert found.match.tolist() == [Match.ABSENT, Match.SAME, Match.ABSENT]  # 0 is no position
    assert (found.first.tolist(), found.second.tolist()) == ([0], [1])
    assert harmonise(first, second.iloc[:0]).counts == {}


def test_harmonise__a_variant_twice_is_matched_once() -> None:
    twice = table(("1", 9, "A", "G", 0.2), ("1", 9, "G", "A", 0.8))
    found = harmonise(twice.iloc[:1], twice)
    assert found.match.tolist() == [Match.SAME, Match.INCOMPATIBLE]
    assert found.second.tolist() == [0]


def test_harmonise__by_id_where_one_has_no_positions() -> None:
    first = table(("1", 9, "A", "G", 0.2, "rs1"), ("1", 8, "A", "C", 0.2, "rs2"))
    second = table(
        (np.nan, np.nan, "C", "A", 0.8, "rs2"),
        (np.nan, np.nan, "A", "G", 0.2, "rs7"),
        (np.nan, np.nan, "A", "G", 0.2, None),
    )
    found = harmonise(first, second)
    assert (found.first.tolist(), found.second.tolist()) == ([1], [0])
    assert found.sign.tolist() == [-1]
    assert found.match.tolist() == [Match.SWAPPED, Match.ABSENT, Match.ABSENT]


def test_harmonise__another_build_is_refused_with_the_number() -> None:
    rows = [("1", 1000 * k, "A", "G", 0.2, f"rs{k}") for k in range(1, 301)]
    first = table(*rows)
    moved = first.assign(base_pair_location=first["base_pair_location"] + 17)
    with pytest.raises(
        InputError, match=r"^b\.tsv: 300 variants, such as rs1, .* in a\.tsv, and 0"
    ):
        harmonise(first, moved, names=("a.tsv", "b.tsv"))
    few = first.copy()
    few.loc[:1, "base_pair_location"] += 17  # as ids that were merged
    assert harmonise(first, few).counts == {"same": 298, "absent": 2}
    unknown = moved.assign(variant_id=".")
    assert harmonise(first.assign(variant_id="."), unknown).counts == {"absent": 300}


def test_harmonise__frequencies_of_the_other_allele_are_refused() -> None:
    rng = np.random.default_rng(0)
    f = rng.uniform(0.05, 0.95, 60)
    first = table(*((str(1 + k % 2), 10**6 * k, "A", "G", own) for k, own in enumerate(f, 1)))
    drifted = np.clip(f + rng.normal(0, 0.08, 60), 0, 1)  # as of another country
    second = first.assign(effect_allele_frequency=drifted)
    swapped = second.rename(
        columns={"effect_allele": "other_allele", "other_allele": "effect_allele"}
    ).assign(effect_allele_frequency=1 - drifted)
    for right in (second, swapped):
        wrong = right.assign(effect_allele_frequency=1 - right["effect_allele_frequency"])
        assert len(harmonise(first, right).first) == 60
        told = "frequency of b looks like .* of a it .* over 60 variants .* in 60 regions of 1 Mb"
        with pytest.raises(InputError, match=told):
            harmonise(first, wrong, names=("a", "b"))
        assert len(harmonise(first, wrong.iloc[:49]).first) == 49  # too few to tell
    unrelated = first.assign(effect_allele_frequency=rng.uniform(0.05, 0.95, 60))
    assert len(harmonise(first, unrelated).first) == 60


def test_harmonise__a_haplotype_of_another_ancestry_is_not_refused(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Frequencies of 5 Mb in linkage that are 1 minus those of the first, as of an inversion."""
    rng = np.random.default_rng(0)
    linked = rng.choice([0.25, 0.75], 500)  # of one haplotype or the other
    first = table(*(("8", 10**4 * k, "A", "G", f) for k, f in enumerate(linked, 1)))
    second = first.assign(effect_allele_frequency=1 - linked)
    with caplog.at_level(logging.WARNING, logger="axoloci"):
        assert len(harmonise(first, second, names=("a", "b")).first) == 500
    assert "frequency of b looks like" in caplog.text
    assert "in 6 regions of 1 Mb; people of another ancestry can do that" in caplog.text
    caplog.clear()
    around = rng.uniform(0.05, 0.95, 30)  # elsewhere the frequencies agree
    more = table(*(("8", 10**6 * k, "A", "G", f) for k, f in enumerate(around, 20)))
    assert len(harmonise(pd.concat([first, more]), pd.concat([second, more])).first) == 530
    assert not caplog.text


def test_harmonise__rows_with_exchanged_alleles_are_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A tenth of the rows with the alleles in each other's place and the frequency as it was."""
    rng = np.random.default_rng(0)
    f = rng.uniform(0.05, 0.3, 1000)
    first = table(*(("1", 10**5 * k, "A", "G", own, f"rs{k}") for k, own in enumerate(f, 1)))
    second = first.copy()
    rows = np.arange(7, 1000, 10)
    second.loc[rows, ["effect_allele", "other_allele"]] = "G", "A"
    with caplog.at_level(logging.WARNING, logger="axoloci"):
        assert len(harmonise(first, second, names=("a", "b")).first) == 1000
        told = (
            "effect_allele_frequency of b fits the other allele in 100 of 1,000 variants (10 %) of "
            "the same alleles in a, such as rs8, rs18, rs28; look there"
        )
        assert told in caplog.text
        caplog.clear()
        few = second.copy()
        few.loc[rows[20:]] = first.loc[rows[20:]]
        harmonise(first, few)
        assert not caplog.text


def test_harmonise__people_of_another_continent_are_not_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Two populations of F_ST 0.15 by Balding and Nichols; in half of the rows exchanged, told."""
    rng = np.random.default_rng(0)
    f = rng.uniform(0.05, 0.95, 4000)
    drift = (1 - 0.15) / 0.15
    f_1, f_2 = rng.beta(f * drift, (1 - f) * drift, (2, 4000))
    first = table(*(("1", 10**5 * k, "A", "G", own) for k, own in enumerate(f_1, 1)))
    second = first.assign(effect_allele_frequency=f_2)
    with caplog.at_level(logging.WARNING, logger="axoloci"):
        harmonise(first, second)
        assert not caplog.text
        second.loc[::2, "effect_allele_frequency"] = 1 - f_2[::2]
        harmonise(first, second)
    assert "fits the other allele in" in caplog.text
    assert "such as 1:" in caplog.text


@pytest.mark.parametrize("f_st", [0.1, 0.2])
def test_harmonise__frequencies_of_the_other_allele_in_another_continent_are_refused(
    f_st: float,
) -> None:
    """All frequencies of one of two populations turned, by Balding and Nichols."""
    rng = np.random.default_rng(0)
    f = rng.uniform(0.05, 0.95, 3000)
    drift = (1 - f_st) / f_st
    f_1, f_2 = rng.beta(f * drift, (1 - f) * drift, (2, 3000))
    first = table(*(("1", 10**5 * k, "A", "G", own) for k, own in enumerate(f_1, 1)))
    assert len(harmonise(first, first.assign(effect_allele_frequency=f_2)).first) == 3000
    with pytest.raises(InputError, match="looks like that of the other allele"):
        harmonise(first, first.assign(effect_allele_frequency=1 - f_2))


def test_harmonise__finds_what_was_planted() -> None:
    """Many variants with a random flip each: pairs, signs and kinds are those planted."""
    rng = np.random.default_rng(0)
    n = 2000
    complement = {"A": "T", "T": "A", "C": "G", "G": "C"}
    alleles = rng.permuted(np.tile(list("ACGT"), (n, 1)), axis=1)[:, :2]
    frequency = rng.uniform(0.05, 0.4, n)
    first = table(
        *(
            ("7", 10 * k + 5, *pair, f)
            for k, (pair, f) in enumerate(zip(alleles, frequency, strict=True))
        )
    )
    planted = rng.integers(0, 4, n)
    rows = []
    for k in range(n):
        effect, other = alleles[k]
        f = frequency[k]
        if planted[k] in (Match.SWAPPED, Match.STRAND_FLIPPED_AND_SWAPPED):
            effect, other, f = other, effect, 1 - f
        if planted[k] in (Match.STRAND_FLIPPED, Match.STRAND_FLIPPED_AND_SWAPPED):
            effect, other = complement[effect], complement[other]
        rows.append(("7", 10 * k + 5, effect, other, f))
    order = rng.permutation(n)
    found = harmonise(first, table(*(rows[k] for k in order)))
    assert found.first.tolist() == list(range(n))
    assert (order[found.second] == np.arange(n)).all()
    assert (found.match == planted[order]).all()
    assert (found.sign == np.where(planted % 2 == 1, -1, 1)).all()


def test_unite__each_variant_once_by_position() -> None:
    tables = [
        table(("1", 20, "A", "G", 0.2), ("1", 30, "A", "T", 0.2)),
        table(("1", 10, "A", "C", 0.2), ("1", 20, "G", "A", 0.8), ("1", 30, "A", "T", 0.5)),
        table(("1", 10, "T", "G", 0.3), ("1", 20, "A", "C", 0.1), ("1", 40, "A", "C", np.nan)),
    ]
    found = unite(tables)
    assert found.variants["base_pair_location"].tolist() == [10, 20, 20, 30, 40]
    assert found.variants["other_allele"].tolist() == ["C", "G", "C", "T", "C"]
    assert found.rows.tolist() == [[-1, 0, -1, 1, -1], [0, 1, -1, -1, -1], [0, -1, 1, -1, 2]]
    nan = np.nan
    np.testing.assert_array_equal(
        found.sign, [[nan, 1, nan, 1, nan], [1, -1, nan, nan, nan], [1, nan, 1, nan, 1]]
    )
    assert found.counts == [
        {"absent": 2},
        {"swapped": 1, "ambiguous": 1, "absent": 1},
        {"strand_flipped": 1, "incompatible": 1, "absent": 1},
    ]


def test_is_of_other_allele__only_where_it_is_clear() -> None:
    first = np.array([0.2, 0.2, 0.45, 0.2, np.nan, 0.9])
    second = np.array([0.82, 0.25, 0.55, 0.65, 0.8, 0.1])
    assert is_of_other_allele(first, second).tolist() == [True, False, False, False, False, True]

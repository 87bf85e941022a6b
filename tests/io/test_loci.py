"""Tables of loci."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from axoloci.errors import InputError
from axoloci.io.loci import read_loci, read_loci_settings

HEADER = (
    "locus\tchromosome\tbase_pair_location\tvariant_id\teffect_allele\tother_allele\tneg_log10_p\n"
)
COLUMNS = HEADER.split()


def test_read_loci__keeps_na_as_a_name_and_an_allele(tmp_path: Path) -> None:
    path = tmp_path / "loci.tsv"
    path.write_text(HEADER + "1\t01\t1000\tNA\tNA\tT\t9.5\n2\tX\t12\tnull\tA\tnan\tn/a\n")
    table = read_loci(path, COLUMNS)
    assert table[["chromosome", "variant_id", "effect_allele", "other_allele"]].to_numpy().tolist()[
        0
    ] == ["01", "NA", "NA", "T"]
    assert table["variant_id"].tolist() == ["NA", "null"]
    assert table["other_allele"].tolist() == ["T", "nan"]
    assert table["base_pair_location"].tolist() == [1000, 12]
    np.testing.assert_array_equal(table["neg_log10_p"], [9.5, np.nan])
    path.write_text(HEADER)
    assert read_loci(path, COLUMNS)["base_pair_location"].dtype == np.int64


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "cannot be read as a table"),
        ("locus\tchromosome\n1\t1\n", "no column base_pair_location, variant_id"),
        (
            HEADER + "1\t1\t7\ta\tA\tC\t9\n2\t1\t1.5\tb\tA\tC\t9\n",
            "row 3: base_pair_location is 1.5",
        ),
        (HEADER + "1\t1\tNA\ta\tA\tC\t9\n", "row 2: base_pair_location is nan, no whole number"),
        (HEADER + "one\t1\t7\ta\tA\tC\t9\n", "row 2: locus is one, no whole number"),
    ],
)
def test_read_loci__says_what_is_wrong(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "loci.tsv"
    path.write_text(text)
    with pytest.raises(InputError, match=said):
        read_loci(path, COLUMNS)


def test_read_loci_settings__are_those_beside_the_table(tmp_path: Path) -> None:
    path, beside = tmp_path / "loci.tsv", tmp_path / "loci.json"
    assert read_loci_settings(path) == {"traits": []}
    beside.write_text('{"traits": ["a", "b"], "mixed_model": true}')
    assert read_loci_settings(path) == {"traits": ["a", "b"], "mixed_model": True}
    for text, said in (("{", "cannot be read as JSON"), ("[]", "expected a JSON object")):
        beside.write_text(text)
        with pytest.raises(InputError, match=said):
            read_loci_settings(path)

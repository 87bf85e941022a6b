"""Who is who: by the IID alone, or by FID and IID where IIDs repeat."""

from __future__ import annotations

import logging
from pathlib import Path

import pandas as pd
import pytest

from axoloci.errors import InputError
from axoloci.io.people import match_people, sample_ids
from axoloci.io.tables import read_ids, read_table, read_traits


def of_genotypes(*pairs: tuple[str, str]) -> pd.DataFrame:
    table = pd.DataFrame(pairs, columns=["fid", "iid"], dtype=object)
    return table.set_index(sample_ids(table["fid"], table["iid"]))


@pytest.fixture
def people() -> pd.DataFrame:
    """Of IID 1 there are two people; 2 and 3 are unique, 3 without a family."""
    return of_genotypes(("a", "1"), ("b", "1"), ("a", "2"), ("0", "3"))


def write(folder: Path, text: str) -> Path:
    path = folder / "t.tsv"
    path.write_text(text)
    return path


def test_sample_ids__are_both_only_where_iids_repeat(people: pd.DataFrame) -> None:
    assert list(people.index) == ["a 1", "b 1", "2", "3"]
    assert list(of_genotypes(("sub-a", "1"), ("a", "1")).index) == ["a 1", "a 1"]


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (("a", "1"), "a 1"),
        (("sub-b", "1"), "b 1"),
        (("c", "1"), "c 1"),  # someone else
        (("a", "2"), "2"),
        ((None, "2"), "2"),
        (("c", "3"), "3"),  # no family there: nothing contradicts
        (("c", "9"), "9"),
        ((None, "a 1"), "a 1"),  # the id itself, as axoloci writes it
    ],
)
def test_match_people__of_one_row(
    people: pd.DataFrame, row: tuple[str | None, str], expected: str
) -> None:
    found = match_people(pd.Series([row[1]]), pd.Series([row[0]], dtype=object), people)
    assert list(found.sample_id) == [expected]
    assert not found.ambiguous.any()
    assert not found.contradicts.any()


def test_match_people__those_whom_the_genotypes_have_once_and_the_table_twice() -> None:
    """The FID tells which of the two it is; without genotypes both keep theirs."""
    iid, fid = pd.Series(["1", "1", "2", "2"]), pd.Series(["a", "b", "c", "c"])
    known = of_genotypes(("b", "1"), ("c", "2"))
    assert list(match_people(iid, fid, known).sample_id) == ["a 1", "1", "2", "2"]
    assert list(match_people(iid, fid, None).sample_id) == ["a 1", "b 1", "2", "2"]


def test_read_table__is_matched_by_both(tmp_path: Path, people: pd.DataFrame) -> None:
    path = write(tmp_path, "#FID\tIID\tx\nb\t1\t5\na\t2\t6\na\t1\t7\n")
    table = read_traits(path, people)
    assert table["x"].to_dict() == {"b 1": 5, "2": 6, "a 1": 7}
    back = write(tmp_path, table.to_csv(sep="\t"))  # with the ids in one column
    pd.testing.assert_frame_equal(read_traits(back, people), table)


def test_read_table__names_who_is_ambiguous(tmp_path: Path, people: pd.DataFrame) -> None:
    message = r"t\.tsv: row 3: no FID, and the genotypes have people .* under the IID '1': give the"
    for text in ("IID\tx\n2\t5\n1\t6\n", "FID\tIID\tx\na\t2\t5\n0\t1\t6\n"):
        with pytest.raises(InputError, match=message):
            read_table(write(tmp_path, text), people=people)
    assert list(read_table(write(tmp_path, "IID\tx\n2\t5\n3\t6\n"), people=people).index) == [
        "2",
        "3",
    ]
    with pytest.raises(InputError, match="row 3: the FID and IID 'a 1' occurs twice, first in row"):
        read_table(write(tmp_path, "FID\tIID\tx\na\t1\t5\na\t1\t6\n"), people=people)


def test_read_table__says_who_has_another_family(
    tmp_path: Path, people: pd.DataFrame, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, logger="axoloci")
    table = read_table(write(tmp_path, "FID\tIID\tx\nz\t2\t5\nz\t3\t6\n"), people=people)
    assert list(table.index) == ["2", "3"]
    assert "1 people have another FID than in the genotypes, such as '2': 'z', and 'a'" in (
        caplog.text
    )


def test_read_ids__lists_of_plink(tmp_path: Path, people: pd.DataFrame) -> None:
    assert read_ids(write(tmp_path, "b 1\nx 2\n0 3\n"), people) == ["b 1", "2", "3"]
    assert read_ids(write(tmp_path, "#FID IID\nb 1\na 2\n"), people) == ["b 1", "2"]
    assert read_ids(write(tmp_path, "2\n3\n"), people) == ["2", "3"]
    with pytest.raises(InputError, match=r"t\.tsv: row 2: no FID, and .* under the IID '1'"):
        read_ids(write(tmp_path, "2\n1\n"), people)

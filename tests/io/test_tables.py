"""Tables of people: every header that is in use, faults named by row and column."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from axoloci.errors import InputError
from axoloci.io.tables import (
    alike_hint,
    alike_ids,
    match_samples,
    minus_nine_warnings,
    read_ids,
    read_table,
    read_traits,
    write_latents,
    write_tsv,
)


def write(folder: Path, text: str, name: str = "t.tsv") -> Path:
    path = folder / name
    path.write_bytes(text.encode())
    return path


@pytest.mark.parametrize(
    "text",
    [
        "#FID\tIID\tage\tsite\nf\t01\t7\ta\nf\t02\tNA\tn/a\n",
        "FID IID age site\nf 01 7 a\nf  02 NaN .\n",
        "IID\tage\tsite\n01\t7.0\ta\n02\t\t\n",
        "#IID\tage\tsite\n01\t7.0\ta\n02\t\t\n\n",
        "participant_id\tage\tsite\nsub-01\t7e0\ta\n02\tn/a\tNA\n",
        "sample_id\tage\tsite\n01\t 7\ta \n02\tna\t.\n",
        "\ufeffIID\tage\tsite\r\n01\t7\ta\r\n02\tNA\tNA\r\n",
        "age\tIID\tsite\n7\t01\ta\nNA\t02\tNA",
        "eid,age,site\n01,7,a\n02,,\n",
        '"fid" "Iid" "age" "site"\n"f" "01" 7 "a"\n"f"  "02" NA NA\n',
        "IID\tparticipant_id\tage\tsite\n01\tx\t7\ta\n02\ty\tNA\tNA\n",
    ],
)
def test_read_table__headers_in_use(tmp_path: Path, text: str) -> None:
    table = read_table(write(tmp_path, text))
    assert table.index.name == "sample_id"
    assert list(table.index) == ["01", "02"]
    assert list(table.columns) == ["age", "site"]
    assert table["age"].dtype == np.float64
    assert table["age"].iloc[0] == 7
    assert np.isnan(table["age"].iloc[1])
    assert list(table["site"]) == ["a", None]


def test_read_table__text_keeps_codes(tmp_path: Path) -> None:
    path = write(tmp_path, "IID\tsite\tage\n1\t01\t5\n2\t1\t6\n3\tA\t7\n4\t\t8\n")
    table = read_table(path, text=["site", "absent"])
    assert list(table["site"]) == ["01", "1", "A", None]
    assert list(table["age"]) == [5, 6, 7, 8]


def test_read_table__quotation_marks_are_no_part_of_a_value(tmp_path: Path) -> None:
    table = read_table(write(tmp_path, 'IID,note\n1,"a, b"\n2,b\n'))
    assert list(table["note"]) == ["a, b", "b"]


@pytest.mark.parametrize(
    "text",
    ["f 1\nf  02\n", "1\nsub-02\n", "#FID IID\nf 1\nf 02\n", "iid\tx\ty\n1\t2\t3\n02\t1\t1\n"],
)
def test_read_ids__headers_are_not_needed(tmp_path: Path, text: str) -> None:
    assert read_ids(write(tmp_path, text)) == ["1", "02"]


def test_read_ids__other_columns_may_hold_anything(tmp_path: Path) -> None:
    assert read_ids(write(tmp_path, "IID\tsite\n1\t12\n2\tM12\n3\tinf\n")) == ["1", "2", "3"]


def test_read_ids__names_faults(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"t\.tsv: row 2 has not 2 fields as the first row has"):
        read_ids(write(tmp_path, "f 1\n2\n"))
    with pytest.raises(InputError, match="no such file"):
        read_ids(tmp_path / "none.tsv")
    with pytest.raises(InputError, match="no column of ids"):
        read_ids(write(tmp_path, "a b c\n1 2 3\n"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("IID\ta\n1\t2\n1\t3\n", r"t\.tsv: row 3: the IID '1' occurs twice, first in row 2$"),
        (
            "participant_id\ta\n2\t2\nsub-1\t2\n1\t3\n",
            "row 4: the participant_id '1' occurs twice, first in row 3, for sub- before an id is "
            "ignored",
        ),
        ("IID\ta\n1\t2\n2\t3\t4\n", "row 3 has 3 fields, the header 2"),
        ("IID\ta\tb\n1\t2\t3\n2\t3\n", "row 3 has 2 fields, the header 3"),
        ("IID\ta\n1\t2\n\n2\t3\n", "row 3 has 1 fields, the header 2"),
        ("IID a\n1 2\n2 3 4\n", "row 3 has 3 fields, the header 2"),
        ("IID\ta\n1\t2\nNA\t3\n", "row 3: no IID"),
        ("ID\ta\n1\t2\n", "no column of ids; .* found ID, a"),
        ("IID\ta\ta\n1\t2\t3\n", "the column 'a' occurs twice"),
        ("f1 i1 0 0 1 1\nf2 i2 0 0 2 1\n", "no column of ids; its header needs one of IID"),
        ("IID,a\n1,2,5\n", "row 2 has 3 fields, the header 2"),
        ('IID\ta\n1\t"x\n', "row 2 has a quotation mark without its other one"),
        ("IID;age of scan;b\n1;2,5;3\n", "separated by semicolons; tables are separated by tabs"),
        ("IID\ta\n", "a header and at least one row"),
        ("", "a header and at least one row"),
        ("IID\ta\n1\t2\n2\t3,5\n", r"row 3, column 'a': '3,5' has a decimal comma"),
        ("IID\ta\n1\t2\n2\tx3\n", r"row 3, column 'a': 'x3' among numbers"),
        ("IID\ta\n1\t2\n2\t-inf\n", r"row 3, column 'a': an infinite number"),
    ],
)
def test_read_table__names_faults(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_table(write(tmp_path, text))


def test_read_table__names_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        read_table(tmp_path / "none.tsv")
    (tmp_path / "latin.tsv").write_bytes(b"IID\ta\n1\t\xe9\n")
    with pytest.raises(InputError, match=r"latin\.tsv: not UTF-8"):
        read_table(tmp_path / "latin.tsv")
    (tmp_path / "t.tsv.gz").write_bytes(gzip.compress(b"IID\ta\n1\t2\n"))
    with pytest.raises(InputError, match=r"t\.tsv\.gz: compressed by gzip; unpack it first"):
        read_table(tmp_path / "t.tsv.gz")
    (tmp_path / "t.xlsx").write_bytes(b"PK\x03\x04")
    with pytest.raises(InputError, match=r"t\.xlsx: a zip archive, as spreadsheets are; save"):
        read_table(tmp_path / "t.xlsx")
    with pytest.raises(InputError, match="cannot be read as Parquet"):
        read_table(write(tmp_path, "IID\n1\n", "t.parquet"))


def test_read_traits__are_numbers(tmp_path: Path) -> None:
    fault = "row 3, column 'b': 'x' is not a number; .* remove the column"
    with pytest.raises(InputError, match=fault):
        read_traits(write(tmp_path, "IID\ta\tb\n1\t2\tNA\n2\t3\tx\n"))
    with pytest.raises(InputError, match="no column besides the ids"):
        read_traits(write(tmp_path, "FID\tIID\n1\t2\n"))


@pytest.mark.parametrize("separator", ["\t", ",", " ", "parquet"])
def test_read_traits__of_choice_whatever_the_others_hold(tmp_path: Path, separator: str) -> None:
    table = pd.DataFrame({"FID": ["f", "f"], "IID": ["i1", "i2"], "a.b": [1.5, 2], "a": ["x", "y"]})
    table["c"] = [3.0, np.nan]
    path = tmp_path / "t.parquet"
    if separator == "parquet":
        table.to_parquet(path)
    else:
        path = write(tmp_path, table.to_csv(sep=separator, index=False, na_rep="NA"))
    found = read_traits(path, names=["c", "a.b"])
    expected = table[["a.b", "c"]].set_axis(pd.Index(["i1", "i2"], name="sample_id"))
    pd.testing.assert_frame_equal(found, expected)
    with pytest.raises(InputError, match=r"'x' is not a number; .* name those to test"):
        read_traits(path)
    with pytest.raises(InputError, match=r"t\..*: no column 'a.c'; did you mean 'a.b'\?"):
        read_traits(path, names=["a.c"])
    with pytest.raises(InputError, match=r"no column 'IID'; known: a\.b, a, c"):
        read_traits(path, names=["IID"])


def test_minus_nine__is_a_value_and_is_said(tmp_path: Path) -> None:
    path = write(tmp_path, "IID\ta\tb\tsite\n1\t-9\t1\t-9\n2\t3\t2\tx\n3\t-9.0\t3\ty\n")
    table = read_table(path, text=["site"])
    assert list(table["a"]) == [-9, 3, -9]
    assert minus_nine_warnings(table, path) == [
        f"{path}: column '{name}' holds -9 for {n} of 3 people, which counts as a value like "
        "others; write NA where it means missing"
        for name, n in (("a", 2), ("site", 1))
    ]
    assert minus_nine_warnings(table.loc[["2"]], path) == []


def test_write_latents__are_read_back(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    latents = np.random.default_rng(0).normal(size=(3, 2)).astype(np.float32)
    names = ["latent_000", "latent_001"]
    write_latents(tmp_path / "latents.parquet", ["0003", "1", "x"], latents, names, "abc")
    table = read_traits(tmp_path / "latents.parquet")
    assert list(table.index) == ["0003", "1", "x"]
    assert list(table.columns) == names
    np.testing.assert_array_equal(table.to_numpy(), latents.astype(np.float64))
    schema = pq.read_schema(tmp_path / "latents.parquet")
    assert schema.metadata[b"axoloci"] == (
        b'{"format": "axoloci-latents", "format_version": 1, "model_sha256": "abc"}'
    )
    first = (tmp_path / "latents.parquet").read_bytes()
    write_latents(tmp_path / "latents.parquet", ["0003", "1", "x"], latents, names, "abc")
    assert (tmp_path / "latents.parquet").read_bytes() == first
    assert [path.name for path in tmp_path.iterdir()] == ["latents.parquet"]


def test_write_latents__refuses_what_is_not_a_table(tmp_path: Path) -> None:
    for ids, values in (
        (["a"], np.ones((2, 1))),
        (["a", "a"], np.ones((2, 1))),
        (["a", "b"], np.array([[1.0], [np.nan]])),
    ):
        with pytest.raises(ValueError, match="latents"):
            write_latents(tmp_path / "x.parquet", ids, values, ["latent_000"], "")
    assert not (tmp_path / "x.parquet").exists()


def test_read_traits__refuses_newer_latents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from axoloci.io import tables

    monkeypatch.setattr(tables, "LATENTS_VERSION", 2)
    write_latents(tmp_path / "l.parquet", ["a"], np.ones((1, 1)), ["latent_000"], "")
    monkeypatch.undo()
    with pytest.raises(InputError, match="format version 2; this axoloci reads up to 1"):
        read_traits(tmp_path / "l.parquet")


def test_match_samples__order_of_the_first(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", logger="axoloci"):
        shared = match_samples({"a.fam": list("dcba"), "t.tsv": list("abdx"), "c.tsv": list("dbz")})
    assert shared == ["d", "b"]
    assert "4 in a.fam, 4 in t.tsv, 3 in c.tsv; 2 in all of them" in caplog.text


def test_match_samples__shows_ids_of_both_sides() -> None:
    message = r"no id shared by a\.fam and t\.tsv; first ids there '1', '2', here '01', '02', '03'"
    with pytest.raises(InputError, match=message):
        match_samples({"a.fam": ["1", "2"], "t.tsv": ["01", "02", "03", "04"]})
    for ours, theirs in ((["a", "b"], ["f_a", "f_b"]), (["f_a", "f_b"], ["a", "c"])):
        with pytest.raises(InputError, match="'f_a' is FID_IID of 'a', or so it seems: write the"):
            match_samples({"a.fam": ours, "t.tsv": theirs})


def test_read_table__says_that_fid_and_iid_are_swapped(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    people = pd.DataFrame({"fid": ["f1", "f2", "c"], "iid": ["a", "b", "c"]}, index=["a", "b", "c"])
    read_table(write(tmp_path, "FID\tIID\tx\nf1\ta\t1\nf2\tnobody\t2\n"), people=people)
    assert "swapped" not in caplog.text
    read_table(write(tmp_path, "FID\tIID\tx\na\tf1\t1\nb\tf2\t2\nc\tc\t3\n"), people=people)
    assert "FID and IID seem to be swapped: the FID of 2 people, such as 'a'" in caplog.text


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(order=st.permutations(range(6)))
def test_read_table__order_of_rows_is_free(tmp_path: Path, order: list[int]) -> None:
    rows = [f"p{i}\t{i / 3}\t{'ab'[i % 2]}" for i in range(6)]
    straight = read_table(write(tmp_path, "\n".join(["IID\tx\ts", *rows])))
    shuffled = read_table(write(tmp_path, "\n".join(["IID\tx\ts", *(rows[i] for i in order)])))
    pd.testing.assert_frame_equal(shuffled.loc[straight.index], straight)


def test_read_table__names_all_faults_at_once(tmp_path: Path) -> None:
    text = "IID\ta\tb\tc\n1\t2\t3\tx\n1\t3,5\t4\ty\n1\t3\tz\tx\n"
    with pytest.raises(InputError) as caught:
        read_table(write(tmp_path, text))
    assert len(caught.value.problems) == 3
    message = str(caught.value)
    assert "row 3: the IID '1' occurs twice, first in row 2 (and 1 more such rows)" in message
    assert "row 3, column 'a': '3,5' has a decimal comma" in message
    assert "row 4, column 'b': 'z' among numbers" in message


@pytest.mark.parametrize(
    ("ours", "theirs", "pairs"),
    [
        (["0001"], ["1"], [("0001", "1")]),
        (["AB1"], ["ab1"], [("AB1", "ab1")]),
        (["UKB-01"], ["ukb_1"], [("UKB-01", "ukb_1")]),
        (["a10"], ["a1"], []),
        (["100"], ["1"], []),
        (["0"], ["00"], [("0", "00")]),
        (["1", "01"], ["1", "x"], []),  # one has its own partner
    ],
)
def test_alike_ids__differ_in_padding_case_and_marks(
    ours: list[str], theirs: list[str], pairs: list[tuple[str, str]]
) -> None:
    assert alike_ids(ours, theirs) == pairs
    assert ("may be the same people" in alike_hint(ours, theirs)) == bool(pairs)


def test_match_samples__shows_pairs_that_look_alike() -> None:
    with pytest.raises(InputError, match="'0001' and '1', '0002' and '2' may be the same people"):
        match_samples({"a.fam": ["0001", "0002"], "t.tsv": ["1", "2"]})


def test_write_tsv__seven_digits_and_na(tmp_path: Path) -> None:
    table = pd.DataFrame({"trait": ["a", "b"], "h2": [1 / 3, np.nan]}, index=[5, 7])
    write_tsv(tmp_path / "t.tsv", table)
    assert (tmp_path / "t.tsv").read_bytes() == b"trait\th2\na\t0.3333333\nb\tn/a\n"

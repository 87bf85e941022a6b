"""Tables of people: traits, covariates and latents, matched by their ids."""

from __future__ import annotations

import csv
import io
import json
import logging
import os
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from axoloci.errors import InputError, nearest, raise_all
from axoloci.io.files import whole_file, write_text
from axoloci.io.people import match_people

log = logging.getLogger("axoloci")

LATENTS_FORMAT = "axoloci-latents"
LATENTS_VERSION = 1
ID_COLUMNS = ("IID", "participant_id", "sample_id", "eid")  # in any case; UK Biobank has eid
_PACKED = {  # by their first bytes
    b"\x1f\x8b": "compressed by gzip; unpack it first (gunzip)",
    b"PK": "a zip archive, as spreadsheets are; save the table as tab-separated text",
}
_MISSING = {"", "na", "nan", "n/a", "."}  # compared in lower case


def read_table(
    path: str | os.PathLike[str],
    text: Collection[str] = (),
    people: pd.DataFrame | None = None,
    columns: Collection[str] | None = None,
) -> pd.DataFrame:
    """Read a table of people.

    Parquet, or text with a header, separated by what separates the header: tabs, commas or blanks.
    The ids are the first of `IID`, `participant_id`, `sample_id` and `eid` that there is, without a
    `sub-` before them; the others of these are no columns. A column `FID` tells people of the same
    IID apart (see `axoloci.io.people`). Missing values are empty, NA, NaN, n/a or a dot. Quotation
    marks around a value are none of it.

    Parameters
    ----------
    path
        The table.
    text
        Columns to keep as text though they may look like numbers; they need not be there.
    people
        Those of the genotypes (`Genotypes.samples`), if the table is to be matched with them.
    columns
        Those to read besides the ids, whatever the others hold; None is all. They stay in the order
        of the table.

    Returns
    -------
    pandas.DataFrame
        Indexed by `sample_id` (strings, each once). Columns of numbers are float64 with NaN where
        missing; the others are strings with None where missing.

    Raises
    ------
    InputError
        No id column or none of a name in `columns`, an id that occurs twice or is of several people
        of the genotypes, a ragged row, a column that mixes numbers and words, an infinite number:
        with file, row and column.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    read = _read_parquet if path.suffix == ".parquet" else _read_text
    raw = read(path, columns)
    names = pd.Index([str(name) for name in raw.columns])

    by_name = {name.casefold(): name for name in names}
    id_columns = [by_name[name.casefold()] for name in ID_COLUMNS if name.casefold() in by_name]
    if not id_columns:
        raise InputError(
            f"{path}: no column of ids; its header needs one of {', '.join(ID_COLUMNS)}, found "
            f"{', '.join(names[:5])}"
        )
    if names.duplicated().any():
        raise InputError(f"{path}: the column '{names[names.duplicated()][0]}' occurs twice")
    raw.columns = names
    id_column = id_columns[0]
    iids = raw[id_column].astype(str).str.strip().str.removeprefix("sub-")
    fids = raw[by_name["fid"]] if "fid" in by_name else None
    ids, problems = _matched(path, id_column, iids, fids, people)
    empty = iids.str.lower().isin(_MISSING) | raw[id_column].isna()
    if empty.any():
        problems.append(f"{path}: {_row(path, empty)}: no {id_column}{_more(empty, 'rows')}")
    repeated = ids.duplicated() & ~empty
    if repeated.any():
        person = ids[repeated].iloc[0]
        same = ids == person
        prefixed = set(raw[id_column][same].astype(str).str.strip().str.startswith("sub-"))
        what = id_column if person == iids[repeated].iloc[0] else "FID and IID"
        problems.append(
            f"{path}: {_row(path, repeated)}: the {what} '{person}' occurs twice, first in "
            f"{_row(path, same)}"
            f"{', for sub- before an id is ignored' if len(prefixed) > 1 else ''}"
            f"{_more(repeated, 'rows')}"
        )
    values = {}
    for name in raw.columns:
        if name not in id_columns and name.casefold() != "fid":
            try:
                values[name] = _column(path, raw[name], name in text)
            except InputError as error:
                problems.append(str(error))
    raise_all(problems, f"{path}: the table has faults:")
    del raw  # of many traits each copy counts
    table = pd.DataFrame(values)
    table.index = pd.Index(ids.to_numpy(), name="sample_id")
    return table


def _matched(
    path: Path,
    id_column: str,
    iids: pd.Series,
    fids: pd.Series | None,
    people: pd.DataFrame | None,
    first_row: int | None = None,
) -> tuple[pd.Series, list[str]]:
    """Ids of the people of a table, and who cannot be told from another; contradictions are said.

    `first_row` is the number of the first row in the file.
    """
    ids, ambiguous, contradicts = match_people(iids, fids, people)
    if contradicts.any() and people is not None and fids is not None:
        person = iids[contradicts].iloc[0]
        family = people["fid"][(people["iid"] == person).to_numpy()].iloc[0]
        log.warning(
            "%s: %d people have another FID than in the genotypes, such as '%s': '%s', and '%s' "
            "there; they are matched by their IID alone, which is of one person",
            *(path, contradicts.sum(), person, fids[contradicts].iloc[0], family),
        )
    if people is not None and fids is not None:
        swapped = fids.astype(str).isin(people["iid"]) & ~iids.isin(people["iid"])
        if swapped.any():
            log.warning(
                "%s: FID and %s seem to be swapped: the FID of %d people, such as '%s', is an IID "
                "of the genotypes, and theirs is not",
                *(path, id_column, swapped.sum(), fids[swapped].iloc[0]),
            )
    problems = []
    if ambiguous.any():
        names = list(dict.fromkeys(iids[ambiguous]))
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        problems.append(
            f"{path}: {_row(path, pd.Series(ambiguous), first_row)}: no FID, and the genotypes "
            f"have people of several families under the {id_column} {_examples(names)}{more}: give "
            "the columns FID and IID, as in the genotypes"
        )
    return pd.Series(ids, index=iids.index), problems


def read_ids(path: str | os.PathLike[str], people: pd.DataFrame | None = None) -> list[str]:
    """Read who is named in a table of people, or in PLINK's own list: FID and IID without a header.

    What else a table holds does not matter.

    Parameters
    ----------
    path
        The table or list.
    people
        As for `read_table`.

    Raises
    ------
    InputError
        As `read_table`.
    """
    path = Path(path)
    if path.suffix == ".parquet" or not path.is_file():
        return list(read_table(path, people=people, columns=()).index)
    lines = _lines(path)
    first = [word.casefold() for word in lines[0].removeprefix("#").split()] if lines else []
    if not 1 <= len(first) <= 2 or {name.casefold() for name in ID_COLUMNS} & set(first):
        return list(read_table(path, people=people, columns=()).index)
    ragged = [n for n, line in enumerate(lines, start=1) if len(line.split()) != len(first)]
    if ragged:
        raise InputError(
            f"{path}: row {ragged[0]} has not {len(first)} fields as the first row has"
        )
    rows = [line.split() for line in lines]
    iids = pd.Series([row[-1].removeprefix("sub-") for row in rows], dtype=object)
    fids = pd.Series([row[0] for row in rows], dtype=object) if len(first) == 2 else None
    ids, problems = _matched(path, "IID", iids, fids, people, first_row=1)
    raise_all(problems, f"{path}:")
    return list(ids)


def read_traits(
    path: str | os.PathLike[str],
    people: pd.DataFrame | None = None,
    names: Collection[str] = (),
) -> pd.DataFrame:
    """Read a table of traits: every column is a number.

    Parameters
    ----------
    path
        The table.
    people
        As for `read_table`.
    names
        The traits to read; without any all.

    Returns
    -------
    pandas.DataFrame, (n_samples, n_traits)
        float64 indexed by `sample_id`, NaN where missing.

    Raises
    ------
    InputError
        As `read_table`; or there is no column of numbers, or a column of words.
    """
    table = read_table(path, people=people, columns=names or None)
    if table.shape[1] == 0:
        raise InputError(f"{path}: no column besides the ids; a table of traits needs numbers")
    for name, column in table.items():
        if column.dtype == object:
            bad = column.notna()
            raise InputError(
                f"{path}: {_row(Path(path), bad)}, column '{name}': '{column[bad].iloc[0]}' is not "
                "a number; traits are quantitative: remove the column from the table, or name "
                "those to test (--trait, or traits in [gwas] of a study)"
            )
    return table


def minus_nine_warnings(table: pd.DataFrame, path: str | os.PathLike[str]) -> list[str]:
    """What to say of a table with -9, missing to PLINK and a number to `read_table`.

    Parameters
    ----------
    table
        From `read_table` or `read_traits`, or some of its rows and columns.
    path
        The file that it was read from.

    Returns
    -------
    list of str
        One sentence a column that holds -9, with file, column, number of times and what to do.
    """
    counts = {name: int(column.isin([-9, "-9"]).sum()) for name, column in table.items()}
    return [
        f"{path}: column '{name}' holds -9 for {n:,} of {len(table):,} people, which counts as a "
        "value like others; write NA where it means missing"
        for name, n in counts.items()
        if n
    ]


def write_tsv(path: str | os.PathLike[str], table: pd.DataFrame) -> None:
    """Write a table of results, whole or not at all (`tsv_text`)."""
    write_text(path, tsv_text(table))


def tsv_text(table: pd.DataFrame, *, header: bool = True) -> str:
    """Text of a table of results, or of a part of it: seven digits, n/a where nothing is known."""
    text: str = table.to_csv(
        sep="\t",
        index=False,
        header=header,
        float_format="%.7g",
        lineterminator="\n",
        na_rep="n/a",
    )
    return text


def write_latents(
    path: str | os.PathLike[str],
    sample_id: Sequence[str],
    latents: ArrayLike,
    names: Sequence[str],
    model_sha256: str,
) -> None:
    """Write latents as Parquet, whole or not at all.

    Parameters
    ----------
    path
        A `.parquet` file.
    sample_id : (n_samples,)
        People, each once.
    latents : array-like, (n_samples, n_latents)
        Finite values.
    names : (n_latents,)
        Columns.
    model_sha256
        SHA-256 of the model that made them.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    values = np.asarray(latents)
    if values.ndim != 2 or len(values) != len(sample_id) or len(set(sample_id)) != len(sample_id):
        raise ValueError(f"{values.shape} latents of {len(sample_id)} people, or a person twice")
    if not np.isfinite(values).all():
        raise ValueError("latents that are not finite")
    columns = {"sample_id": pa.array(list(sample_id), pa.string())}
    columns |= {name: pa.array(values[:, k]) for k, name in enumerate(names)}
    identity = {
        "format": LATENTS_FORMAT,
        "format_version": LATENTS_VERSION,
        "model_sha256": model_sha256,
    }
    table = pa.table(columns).replace_schema_metadata({"axoloci": json.dumps(identity)})
    with whole_file(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def match_samples(sources: Mapping[str, Iterable[str]]) -> list[str]:
    """People whom all sources share, in the order of the first.

    Parameters
    ----------
    sources
        Name of each source (a file, say) and the ids in it.

    Raises
    ------
    InputError
        No one is shared; the message shows ids of both sides.
    """
    names = list(sources)
    shared = list(sources[names[0]])
    before = names[0]
    for name in names[1:]:
        there = set(sources[name])
        kept = [person for person in shared if person in there]
        if not kept:
            hint = (
                alike_hint(shared, there)
                or _joined_hint(shared, there)
                or "ids must be the same text, with leading zeros"
            )
            raise InputError(
                f"no id shared by {before} and {name}; first ids there {_examples(shared)}, "
                f"here {_examples(sources[name])}; {hint}"
            )
        shared, before = kept, f"{before} + {name}"
    counts = ", ".join(f"{len(list(ids))} in {name}" for name, ids in sources.items())
    log.info("people: %s; %d in all of them", counts, len(shared))
    return shared


def alike_ids(ours: Iterable[str], theirs: Iterable[str]) -> list[tuple[str, str]]:
    """Pairs of ids that differ only in leading zeros, case or punctuation.

    They may or may not be the same people, so nothing matches them but the user.

    >>> alike_ids(["0001", "AB1", "x"], ["1", "ab1", "y"])
    [('0001', '1'), ('AB1', 'ab1')]
    """

    def core(name: str) -> str:
        letters = re.sub(r"[\W_]", "", name.casefold())
        return re.sub(r"(?<!\d)0+(?=\d)", "", letters)

    ours, theirs = set(ours), set(theirs)
    by_core: dict[str, str] = {}
    for name in sorted(theirs - ours):
        by_core.setdefault(core(name), name)
    return [(name, by_core[core(name)]) for name in sorted(ours - theirs) if core(name) in by_core]


def alike_hint(ours: Iterable[str], theirs: Iterable[str]) -> str:
    """What to do about ids that look like each other; empty if none do."""
    pairs = alike_ids(ours, theirs)
    if not pairs:
        return ""
    shown = ", ".join(f"'{a}' and '{b}'" for a, b in pairs[:3])
    more = f" and {len(pairs) - 3} more" if len(pairs) > 3 else ""
    return (
        f"{shown}{more} may be the same people: ids are compared letter by letter, with case and "
        "leading zeros; write those of one file as in the other"
    )


def _joined_hint(ours: Iterable[str], theirs: Iterable[str]) -> str:
    """What to do about ids of one side that are FID_IID of the other; empty if none are."""
    ours, theirs = set(ours), set(theirs)
    for here, there in ((ours, theirs), (theirs, ours)):
        for name in sorted(there):
            iid = name.partition("_")[2]
            if iid in here:
                return f"'{name}' is FID_IID of '{iid}', or so it seems: write the IID alone"
    return ""


def _examples(ids: Iterable[str]) -> str:
    return ", ".join(f"'{person}'" for person in list(ids)[:3])


def _more(bad: pd.Series, what: str) -> str:
    """How many more there are than the one that is named."""
    n_more = int(bad.sum()) - 1
    return f" (and {n_more} more such {what})" if n_more else ""


def _row(path: Path, bad: pd.Series, first: int | None = None) -> str:
    """First row where `bad` holds, counted as an editor does: the header of a text is row 1."""
    if first is None:
        first = 1 if path.suffix == ".parquet" else 2
    return f"row {int(np.argmax(bad.to_numpy())) + first}"


def _chosen(path: Path, names: Sequence[str], columns: Collection[str] | None) -> list[int]:
    """Places of the columns that are read: the ids, and those that are named, or all."""
    ids = {name.casefold() for name in (*ID_COLUMNS, "FID")}
    others = [name for name in names if name.casefold() not in ids]
    unknown = [name for name in columns or () if name not in others]
    if unknown:
        raise InputError(f"{path}: no column {_examples(unknown)}; {nearest(unknown[0], others)}")
    return [
        place
        for place, name in enumerate(names)
        if columns is None or name in columns or name.casefold() in ids
    ]


def _read_parquet(path: Path, columns: Collection[str] | None) -> pd.DataFrame:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
        names = file.schema_arrow.names
        table = file.read([names[place] for place in _chosen(path, names, columns)])
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{path}: cannot be read as Parquet: {error}") from error
    identity = json.loads((table.schema.metadata or {}).get(b"axoloci", b"{}"))
    if identity.get("format") == LATENTS_FORMAT and identity["format_version"] > LATENTS_VERSION:
        raise InputError(
            f"{path}: latents of format version {identity['format_version']}; this axoloci reads "
            f"up to {LATENTS_VERSION}: install a newer one"
        )
    frame: pd.DataFrame = table.to_pandas(ignore_metadata=True)
    return frame


def _lines(path: Path) -> list[str]:
    """Lines of a text without the empty ones at its end."""
    with open(path, "rb") as file:
        packed = _PACKED.get(file.read(2))
    if packed:
        raise InputError(f"{path}: {packed}")
    try:
        content = path.read_text(encoding="utf-8-sig")  # drops a byte order mark, and \r of \r\n
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text: {error}") from error
    lines = content.split("\n")
    while lines and not lines[-1].strip():
        lines.pop()
    return lines


def _fields(line: str, separator: str | None) -> list[str]:
    """Fields of a line, those in quotation marks without them."""
    if '"' not in line:
        return line.split(separator)
    if separator is None:
        line, separator = " ".join(line.split()), " "
    return next(csv.reader([line], delimiter=separator))


def split_header(line: str) -> tuple[list[str], str | None]:
    """Names of the columns in the first line of a table, and what separates them; none: blanks."""
    separator = next((mark for mark in "\t," if mark in line), None)
    return [name.strip() for name in _fields(line.removeprefix("#"), separator)], separator


def _read_text(path: Path, columns: Collection[str] | None) -> pd.DataFrame:
    lines = _lines(path)
    if len(lines) < 2:
        raise InputError(
            f"{path}: a header and at least one row are needed, found {len(lines)} lines"
        )
    header, separator = split_header(lines[0])
    if header == ["sample_id"]:  # as axoloci writes them: an id may be "FID IID"
        separator = "\t"
    if separator is None and ";" in header[0]:
        raise InputError(
            f"{path}: separated by semicolons; tables are separated by tabs or commas: save it as "
            "tab-separated text"
        )
    open_marks = [number for number, line in enumerate(lines, start=1) if line.count('"') % 2]
    if open_marks:
        raise InputError(f"{path}: row {open_marks[0]} has a quotation mark without its other one")
    n_fields = [len(_fields(line, separator)) for line in lines[1:]]
    ragged = [number for number, n in enumerate(n_fields, start=2) if n != len(header)]
    if ragged:
        more = f" (and {len(ragged) - 1} more such rows)" if len(ragged) > 1 else ""
        raise InputError(
            f"{path}: row {ragged[0]} has {n_fields[ragged[0] - 2]} fields, the header "
            f"{len(header)}{more}"
        )
    places = _chosen(path, header, columns)
    return pd.read_csv(
        io.StringIO("\n".join(lines[1:])),
        sep=separator or r"\s+",
        header=None,
        usecols=places,
        dtype=str,
        keep_default_na=False,
        skip_blank_lines=False,
    ).set_axis([header[place] for place in places], axis=1)


def _column(path: Path, column: pd.Series, keep_text: bool) -> NDArray[np.float64] | pd.Series:
    """One column as float64, or as strings with None."""
    where = f"column '{column.name}'"
    if pd.api.types.is_numeric_dtype(column.dtype) and not keep_text:
        numbers = column.to_numpy(dtype=np.float64, na_value=np.nan)
        absent = np.isnan(numbers)
        words = np.zeros(len(numbers), dtype=bool)
        stripped = column
    else:
        stripped = column.astype(str).str.strip()
        absent = (column.isna() | stripped.str.lower().isin(_MISSING)).to_numpy()
        if keep_text:
            return stripped.astype(object).where(~absent, None).reset_index(drop=True)
        numbers = pd.to_numeric(stripped.where(~absent), errors="coerce").to_numpy(np.float64)
        words = np.isnan(numbers) & ~absent
    if words.any():
        first = str(stripped[words].iloc[0])
        row = _row(path, pd.Series(words))
        if re.fullmatch(r"[-+]?\d*,\d+([eE][-+]?\d+)?", first):
            raise InputError(
                f"{path}: {row}, {where}: '{first}' has a decimal comma; write a point"
            )
        if (~words & ~absent).any():
            raise InputError(
                f"{path}: {row}, {where}: '{first}' among numbers; write NA if it is missing, or "
                "name the column as categorical"
            )
        return stripped.astype(object).where(~absent, None).reset_index(drop=True)
    if np.isinf(numbers).any():
        raise InputError(
            f"{path}: {_row(path, pd.Series(np.isinf(numbers)))}, {where}: an infinite number"
        )
    return numbers

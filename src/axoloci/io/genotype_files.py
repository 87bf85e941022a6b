"""Which files a genotype set has, who and what is in them, and what is wrong with them.

All of it is seen without reading a genotype, and without the libraries that read them.
"""

from __future__ import annotations

import filecmp
import io
import os
import re
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO

import numpy as np
import pandas as pd

from axoloci.errors import InputError
from axoloci.io.files import unreadable
from axoloci.io.people import sample_ids

FORMATS = {".bed": "PLINK 1", ".pgen": "PLINK 2", ".bgen": "BGEN"}
FILES = "a .bed with .bim and .fam, a .pgen with .pvar and .psam, or a .bgen with .sample"
CHROMOSOME = "{chromosome}"  # in the name of a set of one file a chromosome
LAST_AUTOSOME = 22
CHROMOSOME_NAME = r"(?i:(?:chr)?(?:\d{1,2}|X|Y|XY|PAR[12]?|MT?))"  # that it may stand for
_ALIASES = {"23": "X", "24": "Y", "25": "XY", "26": "MT", "M": "MT"}
_NUMBERS = {"X": 23, "Y": 24, "XY": 25, "PAR": 25, "PAR1": 25, "PAR2": 25, "MT": 26}
_GLOB_MAGIC = re.compile(r"([*?\[])")

_TABLE_BYTES = 1 << 20  # of a table of variants at once
_PLINK_MAGIC = b"\x6c\x1b"
_PGEN_STANDARD = 0x10  # the layout that plink2 writes
_PGEN_BLOCK = 2**16  # variants of one block of its header
_PGEN_DOSAGE = 0x60  # bits of a record's type: it holds dosages
_FAM = ["fid", "iid", "father", "mother", "sex"]
PLACE = ("base_pair_location", "variant_id")
_PLACE_NAMES = {"chromosome": "CHROM", "base_pair_location": "POS", "variant_id": "ID"}
_BIM = ["CHROM", "ID", "CM", "POS", "ALT", "REF"]
_PSAM_NAMES = {"FID": "fid", "IID": "iid", "PAT": "father", "MAT": "mother", "SEX": "sex"}
_SEXES = {"1": 1, "2": 2, "M": 1, "F": 2, "m": 1, "f": 2, "male": 1, "female": 2}


@dataclass(frozen=True)
class GenotypeFiles:
    """One file of genotypes and its tables.

    Attributes
    ----------
    data
        `.bed`, `.pgen` or `.bgen`.
    samples
        Table of people: `.fam`, `.psam` or `.sample`; none of a BGEN file that names them itself.
    variants
        Table of variants: `.bim`, `.pvar` or `.pvar.zst`; none of BGEN, which holds them.
    first
        Those of another chromosome, of which the people should be the same.
    """

    data: Path
    samples: Path | None
    variants: Path | None
    first: GenotypeFiles | None = None

    @property
    def format(self) -> str:
        """A value of `FORMATS`."""
        return FORMATS[self.data.suffix]

    @property
    def files(self) -> list[Path]:
        """All of them, the genotypes first."""
        return [path for path in (self.data, self.variants, self.samples) if path is not None]

    @property
    def names_people(self) -> Path:
        """The file that names the people."""
        return self.samples or self.data

    @cached_property
    def people(self) -> pd.DataFrame:
        """One row a person in file order, as `Genotypes.samples`."""
        first = self.first
        if (
            (first and first.samples and self.samples)
            and first.samples.is_file()
            and filecmp.cmp(self.samples, first.samples, shallow=False)
        ):  # tables of half a million people take seconds to read
            return first.people
        return read_people(self)


@dataclass(frozen=True)
class GenotypeSet:
    """The files of one set of genotypes: of all chromosomes, or in one file a chromosome.

    Attributes
    ----------
    data
        `.bed`, `.pgen` or `.bgen`; a pattern with `CHROMOSOME` for one file a chromosome.
    parts
        The files, by chromosome; one where `data` is no pattern, or one that no file matches.
    """

    data: Path
    parts: tuple[GenotypeFiles, ...]

    @property
    def format(self) -> str:
        """A value of `FORMATS`."""
        return self.parts[0].format

    @property
    def files(self) -> list[Path]:
        """All of them, the genotypes of each part first."""
        return [path for part in self.parts for path in part.files]

    @property
    def names_people(self) -> Path:
        """The file that names the people; the first of several."""
        return self.parts[0].names_people

    @property
    def people(self) -> pd.DataFrame:
        """One row a person in file order, as `Genotypes.samples`."""
        return self.parts[0].people

    @property
    def absent(self) -> list[str]:
        """Autosomes without a file, up to the last that has one, where `data` is a pattern."""
        if CHROMOSOME not in str(self.data):
            return []
        there = {_order(part.data, self.data) for part in self.parts}
        numbers = {number for number, _ in there if number <= LAST_AUTOSOME}
        return [str(n) for n in range(1, max(numbers, default=0)) if n not in numbers]


def genotype_set(path: str | os.PathLike[str]) -> GenotypeSet:
    """The files of a set, by its `.bed`, `.pgen` or `.bgen`, or by the name before these.

    In it `CHROMOSOME` may stand for a number, X, Y, XY, PAR1, PAR2 or MT (leading zeros and "chr"
    included): the set is what is there. The files need not exist, but where several sets have the
    name, one must be chosen.

    Raises
    ------
    InputError
        Sets of several formats have the name, or two files are of one chromosome by their names.
    """
    path = Path(path)
    by_chromosome = CHROMOSOME in str(path)
    if path.suffix not in FORMATS:
        candidates = {s: path.with_name(path.name + s) for s in FORMATS}
        there = [
            suffix
            for suffix, file in candidates.items()
            if (_of_chromosomes(file) if by_chromosome else file.exists())
        ]
        if len(there) > 1:
            raise InputError(
                f"{path}: is a name of several sets ({', '.join(there)}); give one with its suffix"
            )
        path = candidates[(there or [".bed"])[0]]
    if not by_chromosome:
        return GenotypeSet(path, (_files_of(path),))
    found = _of_chromosomes(path) or [path]
    orders = [_order(file, path) for file in found]
    for file, order in zip(found[1:], orders[1:], strict=True):
        same = found[orders.index(order)]
        if same != file:
            raise InputError(
                f"{path}: {same} and {file} are of the same chromosome by their names; remove one"
            )
    first = _files_of(found[0])
    return GenotypeSet(path, (first, *(_files_of(file, first) for file in found[1:])))


def _files_of(path: Path, first: GenotypeFiles | None = None) -> GenotypeFiles:
    """A file of genotypes with its tables."""

    def beside(suffix: str) -> Path:
        return path.with_name(path.name.removesuffix(path.suffix) + suffix)

    if path.suffix == ".bed":
        return GenotypeFiles(path, beside(".fam"), beside(".bim"), first)
    if path.suffix == ".pgen":
        packed = beside(".pvar.zst")
        variants = packed if packed.exists() and not beside(".pvar").exists() else beside(".pvar")
        return GenotypeFiles(path, beside(".psam"), variants, first)
    names_people = path.is_file() and read_bgen_header(path).has_samples
    sample = beside(".sample")
    return GenotypeFiles(
        path, None if names_people and not sample.exists() else sample, None, first
    )


def _of_chromosomes(pattern: Path) -> list[Path]:
    """Files that a pattern stands for, by chromosome."""
    anchor = Path(pattern.anchor)
    glob = _GLOB_MAGIC.sub(r"[\1]", str(pattern.relative_to(anchor))).replace(CHROMOSOME, "*")
    matching = (file for file in anchor.glob(glob) if _match(file, pattern))
    return sorted(matching, key=lambda file: (_order(file, pattern), file))


def _match(file: Path, pattern: Path) -> re.Match[str] | None:
    """The chromosome that stands at all places of a pattern."""
    before, *after = map(re.escape, str(pattern).split(CHROMOSOME))
    rest = r"\1".join(after)
    return re.fullmatch(f"{before}({CHROMOSOME_NAME}){rest}", str(file))


def _order(file: Path, pattern: Path) -> tuple[int, str]:
    """Numbers first, then X, Y, the pseudo-autosomal regions and MT."""
    match = _match(file, pattern)
    name = match[1].upper().removeprefix("CHR").lstrip("0") if match else ""
    name = canonical_chromosome(name)
    return int(name) if name.isdigit() else _NUMBERS.get(name, 0), name


# --- people -------------------------------------------------------------------------------------


def read_people(genotypes: GenotypeFiles) -> pd.DataFrame:
    """People of a set.

    Returns
    -------
    pandas.DataFrame
        One row a person in file order, indexed by `sample_id` (see `axoloci.io.people`): `fid`,
        `iid` without "sub-", `father`, `mother` (strings, "0" if unknown), `sex` (int8: 1 male,
        2 female, 0 unknown).

    Raises
    ------
    InputError
        Not UTF-8 text, a malformed row, a person without an IID, or one who occurs twice.
    """
    path = genotypes.samples
    if path is None:
        path = genotypes.data
        table = pd.DataFrame({"iid": _bgen_samples(path)}, dtype=object)
    elif path.suffix == ".fam":
        table = _read_fam(path)
    elif path.suffix == ".psam":
        table = _read_psam(path)
    else:
        table = _read_sample(path)
    for name in _FAM:
        if name not in table:
            table[name] = "0"
    written = table["iid"].to_numpy()
    table["iid"] = table["iid"].str.removeprefix("sub-")  # as in every table of people
    table["sex"] = table["sex"].map(_SEXES).fillna(0).astype(np.int8)
    ids = sample_ids(table["fid"], table["iid"])
    _check_people(path, table["iid"], ids, written, table.index)
    return table[list(_FAM)].set_index(ids)


def _check_people(
    path: Path, iid: pd.Series, ids: pd.Index, written: np.ndarray, rows: pd.Index
) -> None:
    """Each has an id of its own; `rows` are line numbers in the file."""
    if (iid == "NA").any():
        number = rows[int(np.argmax(iid == "NA"))]
        raise InputError(f"{path}: row {number}: the IID is missing (NA)")
    twice = ids.duplicated()
    if not twice.any():
        return
    place = int(np.argmax(twice))
    first = int(np.argmax(ids == ids[place]))
    prefix = written[place] != written[first]
    n_more = int(twice.sum()) - 1
    raise InputError(
        f"{path}: row {rows[place]}: the IID '{iid.iloc[place]}' occurs twice in one family, first "
        f"in row {rows[first]}{', for sub- before an id is ignored' if prefix else ''}"
        f"{f' (and {n_more} more such rows)' if n_more else ''}; people are matched by IID, or by "
        "FID and IID, so each must be its own (plink2 --update-ids renames them)"
    )


def _read_fam(path: Path) -> pd.DataFrame:
    """People of a `.fam`: six fields, or more where each trait has one, all rows alike."""
    rows = list(_rows(path))
    if not rows:
        raise InputError(f"{path}: the file has no rows")
    expected = max(6, len(rows[0][1]))
    names = f"FID IID father mother sex trait{' and more' if expected > 6 else ''}"
    for number, fields in rows:
        if len(fields) != expected:
            raise InputError(
                f"{path}: row {number} has {len(fields)} fields, expected {expected} ({names})"
            )
    return _frame([(number, fields[:5]) for number, fields in rows], _FAM)


def _read_psam(path: Path) -> pd.DataFrame:
    """People of a `.psam`: columns by its header, or those of a `.fam`."""
    rows = [(number, fields) for number, fields in _rows(path) if not fields[0].startswith("##")]
    if not rows:
        raise InputError(f"{path}: the file has no rows")
    header = rows[0][1]
    if not header[0].startswith("#"):
        return _frame([(number, fields[:5]) for number, fields in rows], _FAM)
    names = [header[0].removeprefix("#"), *header[1:]]
    if "IID" not in names:
        raise InputError(f"{path}: no column IID; its header must begin with #FID or #IID")
    for number, fields in rows[1:]:
        if len(fields) != len(names):
            raise InputError(
                f"{path}: row {number} has {len(fields)} fields, expected {len(names)} "
                f"({' '.join(names)})"
            )
    return _frame(rows[1:], names).rename(columns=_PSAM_NAMES)


def _read_sample(path: Path) -> pd.DataFrame:
    """People of an Oxford `.sample`: two header rows, then ID_1 ID_2 and more."""
    rows = list(_rows(path))
    if len(rows) < 2 or not rows[0][1][0].upper().startswith("ID"):
        raise InputError(
            f"{path}: not a .sample file; its first row must be ID_1 ID_2 missing …, its second "
            "one the kinds of the columns (0 0 0 …)"
        )
    names = [name.lower() for name in rows[0][1]]
    for number, fields in rows[2:]:
        if len(fields) != len(names):
            raise InputError(
                f"{path}: row {number} has {len(fields)} fields, expected {len(names)} "
                f"({' '.join(rows[0][1])})"
            )
    table = _frame(rows[2:], names)
    ids = names[:2] if len(names) > 1 and names[1].startswith("id") else names[:1]
    table["iid"] = table[ids[-1]]
    table["fid"] = table[ids[0]]
    return table


def _frame(rows: list[tuple[int, list[str]]], names: list[str]) -> pd.DataFrame:
    """Rows of words as a table, by their line numbers."""
    return pd.DataFrame(
        [fields for _, fields in rows],
        columns=list(names),
        index=[n for n, _ in rows],
        dtype=object,
    )


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Line numbers from 1 and fields of the rows that are not empty."""
    try:
        with open(path, encoding="utf-8-sig") as file:
            for number, line in enumerate(file, start=1):
                if fields := line.split():
                    yield number, fields
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text: {error}") from error


# --- variants -----------------------------------------------------------------------------------


@contextmanager
def open_variants(path: Path) -> Iterator[IO[bytes]]:
    """A table of variants as bytes; that of PLINK 2 may be compressed by zstd."""
    if path.suffix != ".zst":
        with open(path, "rb") as plain:
            yield plain
        return
    import pyarrow as pa

    with io.BufferedReader(pa.input_stream(str(path), compression="zstd")) as packed:
        yield packed


def pvar_columns(path: Path) -> tuple[list[str], int]:
    """Names of the columns of a `.pvar`, and the number of lines before its first variant.

    Raises
    ------
    InputError
        A header without one of the five columns that are needed.
    """
    n_before = 0
    with open_variants(path) as file:
        for line in file:
            if not line.startswith(b"#"):
                # without a header the columns are those of a .bim, with or without the third
                short = [name for name in _BIM if name != "CM"]
                return (_BIM if len(line.split()) > 5 else short), n_before
            n_before += 1
            if not line.startswith(b"##"):
                names = line.decode(errors="replace").removeprefix("#").split()
                lacking = [n for n in ("CHROM", "POS", "ID", "REF", "ALT") if n not in names]
                if lacking:
                    raise InputError(f"{path}: its header lacks {', '.join(lacking)}")
                return names, n_before
    raise InputError(f"{path}: the file has no rows")


def n_variants(genotypes: GenotypeSet) -> int:
    """Variants of a set, by the size or header of its genotypes.

    Raises
    ------
    OSError
        A file is not there.
    InputError
        It is of another kind.
    """
    return sum(map(_n_variants, genotypes.parts))


def _n_variants(files: GenotypeFiles) -> int:
    if files.data.suffix == ".pgen":
        return read_pgen_header(files.data).n_variants
    if files.data.suffix == ".bgen":
        return read_bgen_header(files.data).n_variants
    with open(files.names_people, "rb") as file:
        n_samples = sum(1 for line in file if line.strip())
    n_bytes = -(-n_samples // 4)  # four people share a byte
    return (files.data.stat().st_size - 3) // max(1, n_bytes)


def count_variants(genotypes: GenotypeSet) -> dict[str, int]:
    """Rows of each chromosome, in file order; named as in `Genotypes.variants`.

    One row is one alternative allele. Of BGEN, which has no table of variants, the whole file is
    read through.
    """
    table = read_variant_places(genotypes, ("chromosome",))
    counts = table.groupby("chromosome", sort=False)["n_rows"].sum()
    return {str(name): int(n) for name, n in counts.items()}


def read_variant_places(
    genotypes: GenotypeSet, columns: Sequence[str] = ("chromosome", *PLACE)
) -> pd.DataFrame:
    """Where the variants of a set are, without the libraries that read the genotypes.

    Those of BGEN are needed all the same: it has no table of variants, and is read through.

    Parameters
    ----------
    genotypes
        The set.
    columns
        Some of those of `Genotypes.variants`.

    Returns
    -------
    pandas.DataFrame
        In file order: the columns, and `n_rows`, the number of alternative alleles, each of which
        is a row of `Genotypes.variants`.
    """
    tables = [_variant_places(part, columns) for part in genotypes.parts]
    return pd.concat(tables, ignore_index=True) if len(tables) > 1 else tables[0]


def _variant_places(files: GenotypeFiles, columns: Sequence[str]) -> pd.DataFrame:
    path = files.variants
    if path is None:
        from axoloci.io.genotypes import open_genotypes

        return open_genotypes(files.data).variants[[*columns]].assign(n_rows=1)
    names, n_before = (_BIM, 0) if path.suffix == ".bim" else pvar_columns(path)
    split = [] if path.suffix == ".bim" else ["ALT"]  # where a row may hold several
    place = {names.index(_PLACE_NAMES[name]): name for name in columns}
    place |= {names.index(name): name for name in split}
    with open_variants(path) as file:
        table = pd.read_csv(
            file,
            sep=r"\s+",
            header=None,
            skiprows=n_before,
            usecols=[*place],
            dtype={
                k: np.int64 if name == "base_pair_location" else str for k, name in place.items()
            },
        ).rename(columns=place)
    n_rows = table.pop("ALT").str.count(",") + 1 if split else 1
    return table.assign(chromosome=chromosome_names(table["chromosome"]), n_rows=n_rows)


def chromosome_names(column: pd.Series) -> pd.Series:
    """Names of chromosomes without "chr" and leading zeros; "0" where there is none."""
    column = column.fillna("0")
    names = {name: re.sub("(?i)^(?:chr)?0*(?=.)", "", name) for name in column.unique()}
    return column.map(names)


def canonical_chromosome(name: str) -> str:
    """The letters of a chromosome that PLINK also numbers, in capitals; others stay as they are.

    Parameters
    ----------
    name
        As in `Genotypes.variants`: without "chr".

    Examples
    --------
    >>> [canonical_chromosome(name) for name in ("23", "x", "24", "25", "26", "M", "7", "scaffold")]
    ['X', 'X', 'Y', 'XY', 'MT', 'MT', '7', 'scaffold']
    """
    letters = _ALIASES.get(name.upper(), name.upper())
    return letters if letters in _NUMBERS else name


# --- faults -------------------------------------------------------------------------------------


def genotype_problems(genotypes: GenotypeSet) -> list[str]:
    """Everything wrong with a set that is seen without reading its genotypes.

    Files that are not there, malformed rows, a person who occurs twice, genotypes of another kind,
    size or number than the tables say, other people than in the first of several files. One
    sentence each, with file and row.
    """
    first, *others = genotypes.parts
    problems = _problems(first)
    comparable = not problems
    for part in others:
        faults = _problems(part)
        problems += faults or (_other_people(part, first) if comparable else [])
    return list(dict.fromkeys(problems))  # the same table may lie beside each file


def _problems(files: GenotypeFiles) -> list[str]:
    """Those of one file and its tables."""
    problems = [fault for path in files.files if (fault := unreadable(path))]
    if problems and CHROMOSOME in str(files.data):
        return [
            f"{files.data}: no such file; in a name, {CHROMOSOME} stands for a number, X, Y, XY, "
            f"PAR1, PAR2 or MT; genotypes are {FILES}"
        ]
    if problems:
        if not any(path.exists() for path in files.files):
            problems = problems[:1]
        mend = _instead_of(files.data.with_suffix(""))
        return [f"{fault}; genotypes are {FILES}{mend}" for fault in problems]
    found: dict[str, int] = {}
    try:
        found["people"] = len(files.people)
    except InputError as error:
        problems.append(str(error))
    try:
        if files.variants is not None:
            found["variants"] = _count_rows(files.variants)
    except InputError as error:
        problems.append(str(error))
    check = {".bed": _check_bed, ".pgen": _check_pgen, ".bgen": _check_bgen}
    try:
        check[files.data.suffix](files, found.get("people"), found.get("variants"))
    except InputError as error:
        problems.append(str(error))
    return problems


def _instead_of(name: Path) -> str:
    """What to give in place of a name that is none of genotypes; empty if nothing is known."""
    if re.search(r"\.(vcf|bcf)(\.gz)?$", name.name):
        option = "bcf" if ".bcf" in name.suffixes else "vcf"
        return f"; plink2 --{option} {name} --make-pgen makes the second of it"
    if name.suffix in (".bim", ".fam", ".pvar", ".psam", ".sample"):
        return "; give the name before the suffix"
    if re.search(r"[*?]|\{.*\}|[#@]", name.name):
        return f"; one file a chromosome is named by {CHROMOSOME} in place of its number"
    return ""


def _other_people(files: GenotypeFiles, first: GenotypeFiles) -> list[str]:
    """Where the people of a chromosome are not those of the first one, in the same order."""
    mend = "give all files the same people in the same order, or analyse this one by itself"
    ours, theirs = files.people, first.people
    if ours is theirs:
        return []
    where = f"{files.names_people}: other people than in {first.names_people}"
    if len(ours) != len(theirs):
        return [f"{where}: {len(ours)}, there {len(theirs)}; {mend}"]
    for name, what in (("iid", "IID"), ("fid", "FID"), ("sex", "sex")):
        if (differ := ours[name].to_numpy() != theirs[name].to_numpy()).any():
            place = int(np.argmax(differ))
            return [
                f"{where}: person {place + 1} has the {what} '{ours[name].iloc[place]}', there "
                f"'{theirs[name].iloc[place]}'; {mend}"
            ]
    return []


def _count_rows(path: Path) -> int:
    """Rows of a table of variants, all of them with as many fields as the first."""
    if path.suffix == ".bim":
        names, n_before = _BIM, 0
    else:
        names, n_before = pvar_columns(path)
    position, expected, n_rows, number = names.index("POS"), len(names), 0, n_before
    with open_variants(path) as file:
        for _ in range(n_before):
            file.readline()
        while lines := file.readlines(_TABLE_BYTES):
            if _are_variants(b"".join(lines), expected, position):
                n_rows += len(lines)
                number += len(lines)
                continue
            for line in lines:
                number += 1
                fields = line.split()
                if len(fields) == expected:
                    n_rows += 1
                    if not fields[position].lstrip(b"-").isdigit():
                        raise InputError(
                            f"{path}: row {number}: the position is "
                            f"'{fields[position].decode(errors='replace')}'; positions must be "
                            "whole numbers"
                        )
                elif fields:
                    raise InputError(
                        f"{path}: row {number} has {len(fields)} fields, expected {expected} "
                        f"({' '.join(names)})"
                    )
    if n_rows == 0:
        raise InputError(f"{path}: the file has no rows")
    return n_rows


def _are_variants(rows: bytes, n_fields: int, position: int) -> bool:
    """Whether each row has so many fields, one of them a whole number; quick for many rows.

    Parameters
    ----------
    rows
        Whole lines.
    n_fields
        Expected.
    position
        Which of them is the number.
    """
    text = np.frombuffer(b"\n%b\n" % rows.removesuffix(b"\n"), dtype=np.uint8)
    is_space = text <= ord(" ")
    is_digit = (text >= ord("0")) & (text <= ord("9"))
    starts = np.flatnonzero(is_space[:-1] & ~is_space[1:]) + 1  # of fields
    ends = np.flatnonzero(text == ord("\n"))  # of rows; before the first stands one more
    if len(starts) != n_fields * (len(ends) - 1):
        return False
    first, last = starts[::n_fields], starts[n_fields - 1 :: n_fields]
    if (first < ends[:-1]).any() or (last > ends[1:]).any():
        return False
    start = starts[position::n_fields]
    after = np.append(starts, len(text))[position + 1 :: n_fields]  # the field that follows
    sign = text[start] == ord("-")
    others = np.flatnonzero(~is_space & ~is_digit)
    n_others = np.searchsorted(others, after) - np.searchsorted(others, start)
    return bool((is_digit[start + sign] & (n_others == sign)).all())


def _check_bed(genotypes: GenotypeFiles, n_samples: int | None, n_variants: int | None) -> None:
    """Magic number, order and, where the rows of its tables are known, size of a bed file."""
    bed = genotypes.data
    with open(bed, "rb") as file:
        magic = file.read(3)
    if magic[:2] != _PLINK_MAGIC:
        raise InputError(
            f"{bed}: not a PLINK 1 bed file (its first bytes are {magic[:2].hex(' ')}, not 6c 1b)"
        )
    if magic[2:] != b"\x01":
        raise InputError(
            f"{bed}: stored person by person; plink1.9 --bfile … --make-bed stores it by variant"
        )
    if n_samples is None or n_variants is None:
        return
    bytes_per_variant = -(-n_samples // 4)  # four people a byte
    expected, found = 3 + bytes_per_variant * n_variants, bed.stat().st_size
    if found != expected:
        whole = (found - 3) / bytes_per_variant
        raise InputError(
            f"{bed}: {found} bytes, but {n_variants} variants (.bim) of {n_samples} people (.fam) "
            f"need {expected}; it holds {whole:g} variants of that many people: the file is cut "
            "off, or the .bim or .fam is of another set"
        )


@dataclass(frozen=True)
class PgenHeader:
    """What the first bytes of a `.pgen` say.

    Attributes
    ----------
    n_variants, n_samples
        Its size.
    has_dosages
        Whether some genotypes are not whole numbers.
    n_bytes
        Size of the file by the lengths of all its records.
    """

    n_variants: int
    n_samples: int
    has_dosages: bool
    n_bytes: int


def read_pgen_header(path: Path) -> PgenHeader:
    """Size and kind of a `.pgen`, by the specification of the format.

    Raises
    ------
    InputError
        Another kind of file, or one that is cut off within its header.
    """
    with open(path, "rb") as file:
        head = file.read(12)
        if head[:2] != _PLINK_MAGIC or head[2:3] == b"\x01":
            raise InputError(
                f"{path}: not a PLINK 2 file (its first bytes are {head[:3].hex(' ')}, not 6c 1b "
                "and a number from 2 on)"
            )
        if head[2] != _PGEN_STANDARD:
            raise InputError(
                f"{path}: of a rare layout ({head[2]:#x}); plink2 --pfile … --make-pgen writes the "
                "usual one"
            )
        if len(head) < 12:
            raise InputError(f"{path}: is cut off: {len(head)} bytes")
        n_variants, n_samples, kind = struct.unpack("<IIB", head[3:])
        wide_types, n_length_bytes = bool(kind & 0x04), (kind & 0x03) + 1
        n_allele_bytes, has_flags = kind >> 4 & 0x03, kind >> 6 == 3
        n_blocks = -(-n_variants // _PGEN_BLOCK)
        starts = np.frombuffer(file.read(8 * n_blocks), dtype="<u8")
        has_dosages, last_bytes = False, 0
        for block in range(n_blocks):
            n = min(_PGEN_BLOCK, n_variants - block * _PGEN_BLOCK)
            types = np.frombuffer(file.read(n if wide_types else (n + 1) // 2), dtype=np.uint8)
            has_dosages |= wide_types and bool((types & _PGEN_DOSAGE).any())
            lengths = np.frombuffer(file.read(n * n_length_bytes), dtype=np.uint8)
            if len(lengths) < n * n_length_bytes or len(starts) < n_blocks:
                raise InputError(f"{path}: is cut off within its header")
            scale = 256 ** np.arange(n_length_bytes, dtype=np.int64)
            last_bytes = int((lengths.reshape(n, -1) @ scale).sum())
            file.seek(n * n_allele_bytes + (n + 7) // 8 * has_flags, 1)
    return PgenHeader(n_variants, n_samples, has_dosages, int(starts[-1]) + last_bytes)


def _check_pgen(genotypes: GenotypeFiles, n_samples: int | None, n_variants: int | None) -> None:
    """Numbers of people and variants, and size, of a pgen file."""
    pgen, header = genotypes.data, read_pgen_header(genotypes.data)
    for table, rows, n, what in (
        (genotypes.samples, n_samples, header.n_samples, "people"),
        (genotypes.variants, n_variants, header.n_variants, "variants"),
    ):
        if rows is not None and rows != n:
            raise InputError(
                f"{pgen}: holds {n} {what}, {table} {rows}: they are of two different sets"
            )
    if pgen.stat().st_size < header.n_bytes:
        raise InputError(
            f"{pgen}: is cut off: {pgen.stat().st_size} bytes, and its records end at "
            f"{header.n_bytes}"
        )


@dataclass(frozen=True)
class BgenHeader:
    """What the first bytes of a `.bgen` say.

    Attributes
    ----------
    n_variants, n_samples
        Its size.
    layout
        1 of BGEN 1.1, 2 of BGEN 1.2 and 1.3.
    has_samples
        Whether it names its people.
    length
        Bytes of the header, before the people.
    """

    n_variants: int
    n_samples: int
    layout: int
    has_samples: bool
    length: int


def read_bgen_header(path: Path) -> BgenHeader:
    """Size and layout of a `.bgen`.

    Raises
    ------
    InputError
        Another kind of file, or one that is cut off within its header.
    """
    with open(path, "rb") as file:
        head = file.read(20)
        if len(head) < 20:
            raise InputError(f"{path}: is cut off: {len(head)} bytes")
        _, length, n_variants, n_samples = struct.unpack("<4I", head[:16])
        if head[16:] not in (b"bgen", b"\0\0\0\0") or not 20 <= length < 2**20:
            raise InputError(f"{path}: not a BGEN file (it lacks the word 'bgen' at its 17th byte)")
        file.seek(length)  # the flags are the last of the header, which begins at byte 4
        (flags,) = struct.unpack("<I", file.read(4).ljust(4, b"\0"))
    return BgenHeader(n_variants, n_samples, flags >> 2 & 15, bool(flags >> 31), length)


def _bgen_samples(path: Path) -> list[str]:
    """Names of the people that a BGEN file holds."""
    header = read_bgen_header(path)
    names = []
    with open(path, "rb") as file:
        file.seek(4 + header.length + 8)  # past the size of the block and their number
        for _ in range(header.n_samples):
            (n_bytes,) = struct.unpack("<H", file.read(2).ljust(2, b"\0"))
            names.append(file.read(n_bytes).decode("utf-8", errors="replace"))
    return names


def _check_bgen(genotypes: GenotypeFiles, n_samples: int | None, n_variants: int | None) -> None:
    """Layout and number of people of a BGEN file."""
    header = read_bgen_header(genotypes.data)
    if header.layout != 2:
        raise InputError(
            f"{genotypes.data}: BGEN of layout {header.layout}; only BGEN 1.2 and 1.3 (layout 2) "
            "are read; qctool or plink2 --export bgen-1.2 converts it"
        )
    if n_samples is not None and n_samples != header.n_samples:
        raise InputError(
            f"{genotypes.data}: holds {header.n_samples} people, {genotypes.samples} {n_samples}: "
            "they are of two different sets"
        )

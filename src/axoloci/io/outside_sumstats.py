"""Summary statistics of one trait out of the text of other programs."""

from __future__ import annotations

import bz2
import gzip
import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from axoloci.errors import InputError, raise_all
from axoloci.io.files import unreadable
from axoloci.io.genotype_files import canonical_chromosome
from axoloci.statistics import neg_log10_normal, z_score

if TYPE_CHECKING:
    import pyarrow as pa

log = logging.getLogger("axoloci")

COLUMNS = (
    "chromosome",
    "base_pair_location",
    "variant_id",
    "effect_allele",
    "other_allele",
    "effect_allele_frequency",
    "n",
    "beta",
    "se",
    "neg_log10_p",
    "z",
)

_MISSING = ["", "NA", "#NA", "N/A", "n/a", "na", "NaN", "nan", "-nan", ".", "NULL"]
_COMPRESSIONS = {b"\x1f\x8b": "gzip", b"BZh": "bz2"}  # by the first bytes
_SMALLEST_P = 1e-300  # below, float64 loses digits and then all
_MOST_NAMED = 3
_BULK = 5  # −log10 p; where both are beyond, laws, corrections and floors of p differ
_MOST_TIMES = 2.0  # one normal score the other, and _MOST_BEYOND: genomic control gives √λ
_MOST_BEYOND = 0.3  # normal scores; effects of few digits
_MOST_CONTRADICTED = 0.2  # share of rows; of a shuffled column 0.4 and more are
_FEW_CONTRADICTED = 3  # rows that may differ in a short text
_MOST_MEDIAN_RATIO = 1.31  # of normal scores; above √1.7, of a usual genomic control
_NEAR_ZERO = 0.5  # normal scores, whose ratio is of their last digit
_FEWEST_SCORES = 50  # rows whose median ratio tells a scale
_MOST_COMPARED = 1_000_000  # rows whose p is compared with the effect; of more, evenly spread ones


class OutsideFormat(NamedTuple):
    """How a program names its columns.

    Attributes
    ----------
    needed
        Columns by which the format is known.
    names
        For each of our columns, and for `p`, `odds_ratio`, `test`, `reference`, `alternative`: the
        names it may have; of several in one file the first that is not missing counts.
    chromosomes
        Where its chromosomes are called otherwise than by PLINK.
    """

    needed: tuple[str, ...]
    names: Mapping[str, tuple[str, ...]]
    chromosomes: Mapping[str, str] = {}


FORMATS = {
    "GWAS-SSF": OutsideFormat(
        ("chromosome", "base_pair_location", "effect_allele", "other_allele"),
        {
            "chromosome": ("chromosome",),
            "base_pair_location": ("base_pair_location",),
            "variant_id": ("rsid", "rs_id", "variant_id"),
            "effect_allele": ("effect_allele",),
            "other_allele": ("other_allele",),
            "effect_allele_frequency": ("effect_allele_frequency",),
            "n": ("n",),
            "beta": ("beta",),
            "odds_ratio": ("odds_ratio",),
            "se": ("standard_error",),
            "neg_log10_p": ("neg_log_10_p_value",),
            "p": ("p_value",),
        },
        {"25": "MT"},
    ),
    "plink2": OutsideFormat(
        ("#CHROM", "POS", "ID", "A1"),
        {
            "chromosome": ("#CHROM",),
            "base_pair_location": ("POS",),
            "variant_id": ("ID",),
            "effect_allele": ("A1",),
            "other_allele": ("OMITTED",),
            "reference": ("REF",),
            "alternative": ("ALT",),
            "effect_allele_frequency": ("A1_FREQ",),
            "test": ("TEST",),
            "n": ("OBS_CT",),
            "beta": ("BETA",),
            "odds_ratio": ("OR",),
            "se": ("SE", "LOG(OR)_SE"),
            "neg_log10_p": ("LOG10_P", "NEG_LOG10_P"),
            "p": ("P",),
        },
    ),
    "REGENIE": OutsideFormat(
        ("CHROM", "GENPOS", "ID", "ALLELE0", "ALLELE1"),
        {
            "chromosome": ("CHROM",),
            "base_pair_location": ("GENPOS",),
            "variant_id": ("ID",),
            "effect_allele": ("ALLELE1",),
            "other_allele": ("ALLELE0",),
            "effect_allele_frequency": ("A1FREQ",),
            "test": ("TEST",),
            "n": ("N",),
            "beta": ("BETA",),
            "se": ("SE",),
            "neg_log10_p": ("LOG10P",),
        },
    ),
    "fastGWA": OutsideFormat(
        ("CHR", "SNP", "POS", "A1", "A2", "AF1"),
        {
            "chromosome": ("CHR",),
            "base_pair_location": ("POS",),
            "variant_id": ("SNP",),
            "effect_allele": ("A1",),
            "other_allele": ("A2",),
            "effect_allele_frequency": ("AF1",),
            "n": ("N",),
            "beta": ("BETA",),
            "se": ("SE",),
            "p": ("P",),
        },
    ),
    "SAIGE": OutsideFormat(
        ("CHR", "POS", "MarkerID", "Allele1", "Allele2", "AF_Allele2"),
        {
            "chromosome": ("CHR",),
            "base_pair_location": ("POS",),
            "variant_id": ("MarkerID",),
            "effect_allele": ("Allele2",),
            "other_allele": ("Allele1",),
            "effect_allele_frequency": ("AF_Allele2",),
            "n": ("N",),
            "beta": ("BETA",),
            "se": ("SE",),
            "p": ("p.value",),
        },
    ),
    "GEMMA": OutsideFormat(
        ("chr", "rs", "ps", "allele1", "allele0", "af"),
        {
            "chromosome": ("chr",),
            "base_pair_location": ("ps",),
            "variant_id": ("rs",),
            "effect_allele": ("allele1",),
            "other_allele": ("allele0",),
            "effect_allele_frequency": ("af",),
            "n": ("n_obs",),
            "beta": ("beta",),
            "se": ("se",),
            "p": ("p_wald", "p_lrt", "p_score"),
        },
    ),
    "LDSC": OutsideFormat(
        ("SNP", "A1", "A2", "Z"),
        {
            "variant_id": ("SNP",),
            "effect_allele": ("A1",),
            "other_allele": ("A2",),
            "effect_allele_frequency": ("FRQ",),
            "n": ("N",),
            "p": ("P",),
            "z": ("Z",),
        },
    ),
}
_TEXT = {"chromosome", "variant_id", "effect_allele", "other_allele", "test", "p"}
_TEXT |= {"reference", "alternative"}
_NAMED_BY_OTHERS = {
    "chr": "chromosome",
    "chrom": "chromosome",
    "#chrom": "chromosome",
    "bp": "base_pair_location",
    "pos": "base_pair_location",
    "position": "base_pair_location",
    "ps": "base_pair_location",
    "markername": "rsid",
    "snp": "rsid",
    "rs": "rsid",
    "eaf": "effect_allele_frequency",
    "n": "n",
    "beta": "beta",
    "effect": "beta",
    "b": "beta",
    "or": "odds_ratio",
    "stderr": "standard_error",
    "se": "standard_error",
    "p-value": "p_value",
    "p.value": "p_value",
    "pval": "p_value",
    "p": "p_value",
    "p_wald": "p_value",
    "p_lrt": "p_value",
    "p_score": "p_value",
}
"""Columns of other programs, in lower case, by their names in GWAS-SSF; no alleles, for the effect
is of the first in some programs and of the second in others."""
_NAMED_BY_METAL = {
    "allele1": "effect_allele",
    "allele2": "other_allele",
    "freq1": "effect_allele_frequency",
}
"""Those of METAL, which is known by MarkerName and Effect."""
_ALLELES = {"a0", "a1", "a2", "allele0", "allele1", "allele2"}


def trait_name(path: Path) -> str:
    """Name of an outside trait: that of its file up to the first dot."""
    return path.name.partition(".")[0]


def outside_columns(path: Path) -> set[str]:
    """Which of our columns a text has by its header.

    Raises
    ------
    InputError
        Not such a text, or of no known format; see `read_outside`.
    """
    header, _, _ = _header(path)
    names = FORMATS[_format_of(path, header)].names
    return {ours for ours, theirs in names.items() if set(theirs) & set(header)}


def read_outside(path: str | os.PathLike[str]) -> pd.DataFrame:
    """Read summary statistics of one trait: GWAS-SSF, plink2, REGENIE, fastGWA, SAIGE, GEMMA, LDSC.

    The format is known by its columns, the text plain or compressed by gzip or bzip2. Of plink2 and
    REGENIE only the additive test is read. Rows without a result are left out, and their number
    logged: those without an effect, and those without p where the text has a column of it. Where
    beta is missing it is the logarithm of the odds ratio. p does not underflow: where −log10 p is
    missing, the text of p is read by mantissa and exponent; a p of zero, or p without a column, is
    computed from beta and se by the normal law.

    p may differ from that of beta and se: one may be up to twice the other as normal scores, which
    lets pass p of Student's law, p corrected for inflation and effects of few digits; in a fifth of
    the rows they may differ more, and are not compared where both are below 1e-5. If in the median
    one is more than 1.31 times the other, as by genomic control of λ > 1.7, it is logged.

    Parameters
    ----------
    path
        The text.

    Returns
    -------
    pandas.DataFrame
        `COLUMNS`, one row a variant, in the order of the file. Words are str with NaN where
        missing, numbers float64 with NaN where missing, `base_pair_location` int64 unless the
        format has none. Chromosomes are without "chr", as X, Y, XY and MT; alleles in capitals. `z`
        is that of beta and se, else of p and the sign of beta.

    Raises
    ------
    InputError
        The columns are of no format; a row is ragged or has a word for a number; p is zero and
        cannot be computed, or not between 0 and 1; se is not positive; in many rows p is far from
        that of beta and se; an allele is missing or both are one; a frequency is not between 0
        and 1; a variant occurs twice, or an id at two positions. With file, row, variant and what
        to do; faults of several kinds at once.

    References
    ----------
    GWAS-SSF: Hayhurst et al. 2022, doi:10.1101/2022.07.15.500230. plink2: Chang et al. 2015,
    doi:10.1186/s13742-015-0047-8. REGENIE: Mbatchou et al. 2021, doi:10.1038/s41588-021-00870-7.
    fastGWA: Jiang et al. 2019, doi:10.1038/s41588-019-0530-8. SAIGE: Zhou et al. 2018,
    doi:10.1038/s41588-018-0184-y. GEMMA: Zhou and Stephens 2012, doi:10.1038/ng.2310; its allele1
    is the effect allele, and only its linear model (-lm) tells n. LDSC: Bulik-Sullivan et al. 2015,
    doi:10.1038/ng.3211.
    """
    path = Path(path)
    header, separator, compression = _header(path)
    name = _format_of(path, header)
    columns = _read_columns(path, FORMATS[name], header, separator, compression)
    row = np.arange(2, 2 + len(next(iter(columns.values()))))  # as an editor counts them
    if "test" in columns:
        additive = _objects(columns.pop("test")) == "ADD"
        if not additive.any():
            raise InputError(f"{path}: no row of the additive test (ADD in the column TEST)")
        columns, row = _taken(columns, additive), row[additive]
    # of ten million rows each copy counts: what is converted is let go
    numbers = {key: columns.pop(key).to_numpy() for key in [*columns] if key not in _TEXT}
    if "odds_ratio" in numbers:
        with np.errstate(divide="ignore", invalid="ignore"):
            _fill(numbers, "beta", np.log(numbers.pop("odds_ratio")))
    if "p" in columns:
        _fill(numbers, "neg_log10_p", _neg_log10(path, columns.pop("p"), row))

    usable = _has_result(path, name, numbers)
    if not usable.all():
        log.warning("%s: %d rows without a result are left out", path, int((~usable).sum()))
        columns, row = _taken(columns, usable), row[usable]
        numbers = {key: values[usable] for key, values in numbers.items()}
    if not len(row):
        raise InputError(
            f"{path}: no row with a result, an effect and its p; leave out a column of p that is "
            "empty: it is then computed from the effect and its standard error"
        )
    if "base_pair_location" in numbers:
        chromosomes = FORMATS[name].chromosomes
        columns["chromosome"] = _mapped(
            columns["chromosome"],
            lambda text: canonical_chromosome(
                chromosomes.get(_without_chr(text), _without_chr(text))
            ),
        )
    has_place = "base_pair_location" in numbers
    words = _with_alleles(columns)
    columns.clear()
    table = pd.DataFrame(index=pd.RangeIndex(len(row)))
    for column in COLUMNS:
        if column in words:
            table[column] = _objects(words.pop(column))
        else:
            lacking = pd.Series(np.nan, table.index, object if column in _TEXT else float)
            table[column] = numbers.pop(column, lacking)
    problems = _faults(table)
    _complete_p_and_z(path, table, problems)
    _check_unique(table, problems)
    raise_all(
        [f"{path}: {_first(bad, row, table)}: {what}" for what, bad in problems.items()],
        f"{path}: the summary statistics have faults:",
    )
    if has_place:
        table["base_pair_location"] = table["base_pair_location"].astype(np.int64)
    return table


# --- the text -----------------------------------------------------------------------------------


def _header(path: Path) -> tuple[list[str], str, str | None]:
    """Names of the columns, what separates them, and the compression."""
    if problem := unreadable(path):
        raise InputError(problem)
    with open(path, "rb") as file:
        magic = file.read(4)
    if magic[:2] == b"PK" or magic == b"\x28\xb5\x2f\xfd":
        raise InputError(f"{path}: compressed by zip or zstd; unpack it, or compress it by gzip")
    known = [name for first, name in _COMPRESSIONS.items() if magic.startswith(first)]
    compression = known[0] if known else None
    opener: Any = {"gzip": gzip.open, "bz2": bz2.open}.get(compression or "", open)
    try:
        with opener(path, "rb") as file:
            line = file.readline(1 << 20).decode("utf-8-sig").rstrip("\r\n")
    except (EOFError, OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: its first line is not text ({error}); is it whole?") from error
    separator = next((mark for mark in "\t ," if mark in line), "\t")
    header = [name.strip('"') for name in line.split(separator)]  # R quotes words
    repeated = [name for name in header if header.count(name) > 1]
    if repeated:
        raise InputError(f"{path}: the column '{repeated[0]}' occurs twice")
    return header, separator, compression


def _format_of(path: Path, header: list[str]) -> str:
    """The format whose columns these are."""
    for name, form in FORMATS.items():
        if set(form.needed) <= set(header):
            return name
    if {"CHROM", "GENPOS"} <= set(header) or any(name.startswith("BETA.Y") for name in header):
        raise InputError(
            f"{path}: REGENIE's results of several traits in one file; run it without --no-split"
        )
    there = set(header)
    known = there | set(_renamed(header).values())
    nearest = max(
        FORMATS,
        key=lambda name: len(known & set(FORMATS[name].needed)) / len(FORMATS[name].needed),
    )
    lacking = [name for name in FORMATS[nearest].needed if name not in there]
    if nearest == "LDSC" and lacking == ["Z"]:
        lacking = ["Z, the effect of A1 by its standard error, which LDSC's munge_sumstats.py adds"]
    others = "; ".join(
        f"{name}: {', '.join(form.needed)}" for name, form in FORMATS.items() if name != nearest
    )
    raise InputError(
        f"{path}: the columns are of no known format: {', '.join(header[:12])}"
        f"{', …' if len(header) > 12 else ''}; the nearest, {nearest}, also needs "
        f"{', '.join(lacking)}; {_renaming(header)}or give the columns of another format ({others}"
        "), each with effect, standard error and p"
    )


def _renamed(header: list[str]) -> dict[str, str]:
    """Columns that are those of GWAS-SSF by another name."""
    is_metal = {"markername", "effect"} <= {name.lower() for name in header}
    names = _NAMED_BY_OTHERS | (_NAMED_BY_METAL if is_metal else {})
    renamed: dict[str, str] = {}
    for name in header:
        ours = names.get(name.lower())
        if ours and ours not in header and ours not in renamed.values():  # the first of several
            renamed[name] = ours
    return renamed


def _renaming(header: list[str]) -> str:
    """What to rename and to add for GWAS-SSF."""
    renamed = _renamed(header)
    if not renamed:
        return "add them, "
    changes = ", ".join(f"{name} to {ours}" for name, ours in renamed.items())
    alleles = {"effect_allele", "other_allele"}
    there = {*header, *renamed.values()}
    either = [name for name in header if name.lower() in _ALLELES]
    if len(either) == 2 and not alleles & there:
        changes += f", and, having seen which of {' and '.join(either)} the effect is of, that to "
        changes += "effect_allele and the other to other_allele"
        there |= alleles
    absent = [name for name in FORMATS["GWAS-SSF"].needed if name not in there]
    adding = f" and add {', '.join(absent)}" if absent else ""
    return f"for GWAS-SSF rename {changes}{adding}, "


def _read_columns(
    path: Path, form: OutsideFormat, header: list[str], separator: str, compression: str | None
) -> dict[str, pa.ChunkedArray]:
    """Columns of the text by our names: strings, or float64."""
    import pyarrow as pa
    import pyarrow.compute as pc
    from pyarrow import csv

    there = {ours: [name for name in names if name in header] for ours, names in form.names.items()}
    there = {ours: names for ours, names in there.items() if names}
    types = {
        name: pa.string() if ours in _TEXT else pa.float64()
        for ours, names in there.items()
        for name in names
    }

    def read(use_threads: bool) -> pa.Table:
        with pa.input_stream(str(path), compression=compression) as stream:
            return csv.read_csv(
                stream,
                csv.ReadOptions(
                    use_threads=use_threads,
                    column_names=header,
                    skip_rows=1,
                    block_size=1 << 23,
                ),
                csv.ParseOptions(delimiter=separator),
                csv.ConvertOptions(
                    include_columns=list(types),
                    column_types=types,
                    null_values=_MISSING,
                    strings_can_be_null=True,
                ),
            )

    try:
        table = read(use_threads=True)
    except pa.ArrowInvalid:
        try:
            table = read(use_threads=False)  # only then the error tells the row
        except pa.ArrowInvalid as error:
            raise InputError(f"{path}: {_told(str(error), header)}") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be unpacked to its end ({error}); get it anew") from error
    return {
        ours: pc.coalesce(*(table[name] for name in names)) if len(names) > 1 else table[names[0]]
        for ours, names in there.items()
    }


def _told(error: str, header: list[str]) -> str:
    """An error of Arrow in words: row and column."""
    number, column = re.search(r"Row #(\d+)", error), re.search(r"CSV column #(\d+)", error)
    row = f"row {number[1]}" if number else "a row"
    if column is None:
        return f"{row}: has not {len(header)} fields as the header has"
    value = re.search(r"invalid value '(.*)'", error)
    return (
        f"{row}, column '{header[int(column[1])]}': '{value[1] if value else ''}' is not a "
        "number; write NA where it is missing"
    )


def _neg_log10(path: Path, p: pa.ChunkedArray, row: NDArray[np.int64]) -> NDArray[np.float64]:
    """−log10 of p as text; inf of zero, and of what is not between 0 and 1 below zero."""
    import pyarrow as pa
    import pyarrow.compute as pc

    try:
        values = pc.cast(p, pa.float64()).to_numpy()
    except pa.ArrowInvalid as error:
        for number, text in zip(row, p.to_pylist(), strict=True):
            if text is not None and not _is_number(text):
                raise InputError(
                    f"{path}: row {number}: '{text}' is not a p; write NA where it is missing"
                ) from error
        raise
    with np.errstate(divide="ignore", invalid="ignore"):
        result = np.asarray(-np.log10(values) + 0.0)  # + 0.0: no minus zero
    result[values < 0] = -1.0
    tiny = np.flatnonzero((values >= 0) & (values < _SMALLEST_P))
    for k, text in zip(tiny, p.take(pa.array(tiny)).to_pylist(), strict=True):
        mantissa, _, exponent = text.lower().partition("e")
        if float(mantissa) > 0:
            result[k] = -np.log10(float(mantissa)) - int(exponent or 0)
    return result


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _taken(
    columns: Mapping[str, pa.ChunkedArray], rows: NDArray[np.bool_]
) -> dict[str, pa.ChunkedArray]:
    import pyarrow as pa

    return {key: column.filter(pa.array(rows)) for key, column in columns.items()}


def _mapped(column: pa.ChunkedArray, change: Any) -> pa.ChunkedArray:
    """Words of a column changed; each different word once."""
    import pyarrow as pa

    coded = column.combine_chunks().dictionary_encode()
    if isinstance(coded, pa.ChunkedArray):
        coded = coded.combine_chunks()
    changed = pa.array([change(word) for word in coded.dictionary.to_pylist()], pa.string())
    return changed.take(coded.indices)


def _without_chr(name: str) -> str:
    return name[3:] if name[:3].lower() == "chr" else name


def _objects(column: Any) -> NDArray[np.object_]:
    """Words as str, NaN where missing; equal words are one object."""
    values = column.to_pandas().to_numpy(dtype=object)
    values[pd.isna(values)] = np.nan
    return np.asarray(values, dtype=object)


def _with_alleles(columns: Mapping[str, pa.ChunkedArray]) -> dict[str, Any]:
    """The columns of words, with both alleles in capitals."""
    import pyarrow.compute as pc

    words = {key: column for key, column in columns.items() if key in _TEXT}
    if {"reference", "alternative"} <= set(words):  # plink2: the other allele is the one not tested
        reference, alternative = words.pop("reference"), words.pop("alternative")
        several = pc.match_substring(alternative, ",")  # which one is the other, nobody knows
        is_reference = pc.equal(words["effect_allele"], reference)
        other = pc.if_else(is_reference, pc.if_else(several, None, alternative), reference)
        words["other_allele"] = pc.coalesce(words.get("other_allele", other), other)
    for name in ("effect_allele", "other_allele"):
        if name in words:
            words[name] = _mapped(words[name], str.upper)
    return words


# --- the numbers --------------------------------------------------------------------------------


def _fill(numbers: dict[str, Any], name: str, values: NDArray[np.float64]) -> None:
    """Take values where those of a column are missing, or for a column that is not there."""
    own = numbers.get(name)
    numbers[name] = values if own is None else np.where(np.isnan(own), values, own)


def _has_result(
    path: Path, name: str, numbers: Mapping[str, NDArray[np.float64]]
) -> NDArray[np.bool_]:
    """Rows with an effect and what tests it: p if there is a column of it, else standard error.

    A program that has a column of p and leaves one out withholds the result.
    """
    effect = numbers.get("z", numbers.get("beta"))
    test = numbers.get("neg_log10_p", numbers.get("se", numbers.get("z")))
    if effect is None or test is None:
        names = FORMATS[name].names
        effects = [*names["beta"], *names.get("odds_ratio", ())]
        tests = [*names["se"], *names.get("neg_log10_p", ()), *names.get("p", ())]
        raise InputError(
            f"{path}: {name} without an effect and its test; it needs {' or '.join(effects)}, and "
            f"{' or '.join(tests)}"
        )
    return np.isfinite(effect) & ~np.isnan(test)


def _faults(table: pd.DataFrame) -> dict[str, NDArray[np.bool_]]:
    """What is wrong, and in which rows."""
    effect, other = table["effect_allele"], table["other_allele"]
    missing = (effect.isna() | other.isna()).to_numpy()
    frequency = table["effect_allele_frequency"].to_numpy()
    faults = {
        "an allele is missing; give both, or remove such rows": missing,
        "effect and other allele are the same": ((effect == other) & ~missing).to_numpy(),
        "the standard error is not above 0; remove such rows": (table["se"] <= 0).to_numpy(),
        "the frequency is not between 0 and 1": (frequency < 0) | (frequency > 1),
        "n is not above 0; write NA where it is missing": (table["n"] <= 0).to_numpy(),
        "p is not between 0 and 1": (table["neg_log10_p"] < 0).to_numpy(),
    }
    if table["base_pair_location"].notna().any():
        position = table["base_pair_location"].to_numpy()
        nowhere = table["chromosome"].isna().to_numpy() | ~(position == np.floor(position))
        faults["no chromosome or no whole position; remove such rows"] = nowhere
    elif table["variant_id"].isna().any():
        faults["no variant id, by which alone this format knows a variant"] = (
            table["variant_id"].isna().to_numpy()
        )
    return {what: bad for what, bad in faults.items() if bad.any()}


def _complete_p_and_z(
    path: Path, table: pd.DataFrame, problems: dict[str, NDArray[np.bool_]]
) -> None:
    """Compute z from beta and se, else from p; p from z where it is missing or zero."""
    beta, se = table["beta"].to_numpy(), table["se"].to_numpy()
    neg_log10_p = table["neg_log10_p"].to_numpy().copy()
    z = table["z"].to_numpy().copy()
    with np.errstate(divide="ignore", invalid="ignore"):
        z = np.where(np.isnan(z), beta / se, z)
        of_p = np.isnan(z) & np.isfinite(neg_log10_p) & (neg_log10_p >= 0)
        z[of_p] = np.sign(beta[of_p]) * z_score(neg_log10_p[of_p])
    compared, given, of_effect = _scores_in_bulk(neg_log10_p, np.where(of_p, np.nan, z))
    differ = _contradicted(given, of_effect)
    ratio = _median_ratio(of_effect, given)
    if differ.any():
        contradicted = np.zeros(len(z), dtype=bool)
        contradicted[compared[differ]] = True
        k = int(np.argmax(contradicted))
        of_z = float(neg_log10_normal(z[k : k + 1])[0])
        problems[
            f"p is not that of the effect and its standard error in {int(differ.sum())} of "
            f"{len(compared)} rows compared (−log10 p is {neg_log10_p[k]:.3g} in the first, by its "
            f"effect {of_z:.3g}); columns are likely mislabelled, or beta is an odds ratio, whose "
            "logarithm is needed; if both are right, leave out the column of p: it is then computed"
        ] = contradicted
    elif max(ratio, 1 / ratio) > _MOST_MEDIAN_RATIO:
        log.warning(
            "%s: p are %s than the effect and its standard error say (median ratio of z %.2f, that "
            "of the effect by that of p): p are corrected by genomic control, or a column is of "
            "another scale",
            *(path, "larger" if ratio > 1 else "smaller", ratio),
        )
    zero = np.isposinf(neg_log10_p)
    hopeless = zero & ~np.isfinite(z)
    if hopeless.any():
        problems[
            "p is 0, smaller than what the program could write; give −log10 p, or beta and "
            "standard error, from which p is computed"
        ] = hopeless
    elif zero.any():
        log.warning(
            "%s: p is 0 in %d rows and was computed from the effect and its standard error",
            *(path, int(zero.sum())),
        )
    unknown = (zero | np.isnan(neg_log10_p)) & np.isfinite(z)
    neg_log10_p[unknown] = neg_log10_normal(z[unknown])
    table["neg_log10_p"], table["z"] = neg_log10_p, z


def _scores_in_bulk(
    neg_log10_p: NDArray[np.float64], z: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """Rows that have both p and z, one of them in the bulk, and the normal scores of either.

    Columns that are mislabelled are wrong there too.
    """
    both = np.flatnonzero(np.isfinite(neg_log10_p) & (neg_log10_p >= 0) & np.isfinite(z))
    both = both[:: max(1, -(-len(both) // _MOST_COMPARED))]
    both = both[np.minimum(neg_log10_p[both], neg_log10_normal(z[both])) < _BULK]
    return both, z_score(neg_log10_p[both]), np.abs(z[both])


def _contradicted(given: NDArray[np.float64], of_effect: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Where normal scores are far apart, if they are in many rows.

    In 20,000 simulated rows, without association and with much, none was far apart with p of
    Student's law at 10 and more degrees of freedom, by genomic control up to λ = 3, no smaller than
    1e-16, or with effects or standard errors of three decimals at a median of 0.003; 38% and more
    were with p or effects shuffled, p of one side, and odds ratios as effects. A natural logarithm
    of p in place of log10 is let pass, but its median ratio (`_median_ratio`) is far from 1.
    """
    smaller, larger = np.minimum(given, of_effect), np.maximum(given, of_effect)
    differ = larger > _MOST_TIMES * smaller + _MOST_BEYOND
    if differ.sum() <= max(_FEW_CONTRADICTED, _MOST_CONTRADICTED * len(given)):
        return np.zeros_like(differ)
    return np.asarray(differ)


def _median_ratio(scores: NDArray[np.float64], to: NDArray[np.float64]) -> float:
    """Median ratio of normal scores that are not near zero; 1 where there are few."""
    clear = np.minimum(scores, to) > _NEAR_ZERO
    return float(np.median(scores[clear] / to[clear])) if clear.sum() >= _FEWEST_SCORES else 1.0


def _check_unique(table: pd.DataFrame, problems: dict[str, NDArray[np.bool_]]) -> None:
    """Note variants that occur twice, and ids at two positions."""
    ids = table["variant_id"]
    again = ids.duplicated(keep=False) & ids.notna()
    if table["base_pair_location"].isna().all():
        if again.any():
            problems["the variant id occurs more than once; keep one row of each"] = (
                ids.duplicated() & again
            ).to_numpy()
        return
    code, _ = pd.factorize(table["chromosome"])
    place = pd.Series(code * float(2**40) + table["base_pair_location"])  # exact: below 2**53
    known = (table["base_pair_location"] > 0).to_numpy()
    shared = np.flatnonzero(place.duplicated(keep=False).to_numpy() & known)
    alleles = table[["effect_allele", "other_allele"]].iloc[shared].astype(str)
    first, second = alleles.to_numpy().T
    swapped = first > second
    same = pd.DataFrame(
        {
            "place": place.iloc[shared].to_numpy(),
            "first": np.where(swapped, second, first),
            "second": np.where(swapped, first, second),
        }
    ).duplicated()
    if same.any():
        bad = np.zeros(len(table), dtype=bool)
        bad[shared[same.to_numpy()]] = True
        problems[
            "chromosome, position and alleles occur more than once; keep one row of each variant"
        ] = bad
    rows = np.flatnonzero(again.to_numpy() & known)
    pairs = pd.DataFrame({"id": ids.iloc[rows].to_numpy(), "place": place.iloc[rows].to_numpy()})
    moved = ~pairs.duplicated() & pairs["id"].duplicated()
    if moved.any():
        bad = np.zeros(len(table), dtype=bool)
        bad[rows[moved.to_numpy()]] = True
        problems["the variant id occurs before at another position; each id has one"] = bad


def _first(bad: NDArray[np.bool_], row: NDArray[np.int64], table: pd.DataFrame) -> str:
    """The first rows where `bad` holds, and how many there are."""
    where = np.flatnonzero(bad)
    named = [
        f"{row[k]}" + ("" if pd.isna(name := table["variant_id"].iloc[k]) else f" ({name})")
        for k in where[:_MOST_NAMED]
    ]
    more = f" and {len(where) - len(named)} more" if len(where) > len(named) else ""
    return f"row{'s' if len(where) > 1 else ''} {', '.join(named)}{more}"

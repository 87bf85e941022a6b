"""Genotypes in place: PLINK 1 bed/bim/fam, read in blocks of variants."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from axoloci.errors import InputError, raise_all
from axoloci.io.files import unreadable

log = logging.getLogger("axoloci")

MISSING = -9  # value of a missing genotype in every block
_BED_MAGIC = b"\x6c\x1b"
_TABLE_FIELDS = {
    ".fam": "FID IID father mother sex trait",
    ".bim": "chromosome id cM position allele1 allele2",
}


class Genotypes:
    """A genotype file set: its people, its variants and blocks of dosages.

    Attributes
    ----------
    path : pathlib.Path
        The `.bed` file.
    samples : pandas.DataFrame
        One row per person in file order: `fid`, `iid`, `father`, `mother` (strings, "0" if
        unknown), `sex` (1 male, 2 female, 0 unknown).
    variants : pandas.DataFrame
        One row per variant in file order: `chromosome` (string, without a leading "chr"),
        `base_pair_location`, `variant_id`, `effect_allele` (allele 1 of the bim, its fifth column:
        the one that dosages count, whichever is rarer) and `other_allele`.
    """

    def __init__(self, path: Path, samples: pd.DataFrame, variants: pd.DataFrame) -> None:
        from pgenlib import PgenReader

        self.path = path
        self.samples = samples
        self.variants = variants
        self._reader = PgenReader(
            os.fsencode(path), raw_sample_ct=len(samples), variant_ct=len(variants)
        )
        self._subset: NDArray[np.uint32] | None = None

    @property
    def files(self) -> list[Path]:
        """The files of the set."""
        return [self.path.with_suffix(suffix) for suffix in (".bed", ".bim", ".fam")]

    @property
    def n_samples(self) -> int:
        """Number of people in the files."""
        return len(self.samples)

    @property
    def n_variants(self) -> int:
        """Number of variants in the files."""
        return len(self.variants)

    def sample_index(self, sample_id: Sequence[str]) -> NDArray[np.int64]:
        """Positions of people in file order, for `read`.

        Parameters
        ----------
        sample_id : (n,)
            People by their `iid`.

        Returns
        -------
        int64, (n,)
            In the order of `sample_id`.

        Raises
        ------
        InputError
            Some of them have no genotypes.
        """
        place = {iid: position for position, iid in enumerate(self.samples["iid"])}
        index = np.array([place.get(person, -1) for person in sample_id], dtype=np.int64)
        absent = np.flatnonzero(index < 0)
        if len(absent):
            examples = ", ".join(f"'{sample_id[i]}'" for i in absent[:3])
            raise InputError(
                f"{self.path.with_suffix('.fam')}: lacks {len(absent)} of {len(index)} people, "
                f"such as {examples}; give the genotypes of the study"
            )
        return index

    def read(
        self, start: int, stop: int, sample_index: ArrayLike | None = None
    ) -> NDArray[np.int8]:
        """Dosages of the variants `start` to `stop` (exclusive).

        Not for several threads at once: the reader behind it keeps a state.

        Parameters
        ----------
        start, stop
            Range of variants in file order.
        sample_index : array-like, (n,)
            Positions of people in file order, each once; fastest when increasing. Without it
            everyone.

        Returns
        -------
        dosage : int8, (stop - start, n)
            Count of `effect_allele`, `MISSING` (-9) where there is none.
        """
        if not 0 <= start <= stop <= self.n_variants:
            raise IndexError(f"variants {start}:{stop} of {self.n_variants}")
        subset = order = None
        n = self.n_samples
        if sample_index is not None:
            index = np.asarray(sample_index, dtype=np.int64)
            n = len(index)
            if n and (index.min() < 0 or index.max() >= self.n_samples):
                raise IndexError(f"people beyond 0:{self.n_samples} asked for")
            increasing, inverse = np.unique(index, return_inverse=True)
            if len(increasing) != n:
                raise IndexError("a person is asked for twice")
            if not np.array_equal(increasing, index):
                order = inverse
            if n != self.n_samples:
                subset = increasing.astype(np.uint32)
        dosage = np.empty((stop - start, n), dtype=np.int8)  # (variants, people)
        if dosage.size:
            self._select(subset)
            self._reader.read_range(start, stop, dosage)
        return dosage if order is None else np.ascontiguousarray(dosage[:, order])

    def _select(self, subset: NDArray[np.uint32] | None) -> None:
        """Tell the reader which people to decode, if that differs from last time."""
        same = (
            self._subset is subset
            if subset is None or self._subset is None
            else np.array_equal(subset, self._subset)
        )
        if not same:
            self._reader.change_sample_subset(subset)
            self._subset = subset


def open_genotypes(prefix: str | os.PathLike[str]) -> Genotypes:
    """Open a genotype file set and check that its files belong together.

    Parameters
    ----------
    prefix
        Path of the `.bed` file, or the same without its suffix.

    Raises
    ------
    InputError
        A file is not there, not a variant-major PLINK 1 bed, of another size than its bim and fam
        ask for, a table row is malformed, or a person occurs twice.
    """
    bed = Path(prefix)
    if bed.suffix != ".bed":
        bed = bed.with_name(bed.name + ".bed")
    bim, fam = bed.with_suffix(".bim"), bed.with_suffix(".fam")
    raise_all(genotype_problems(bed), f"{bed.with_suffix('')}: the genotypes have faults:")
    if _count_rows(fam)[1] == 6:
        samples, variants = _read_tables(bed, bim, fam)
    else:  # GEMMA's habit: one more column per trait, which pandas-plink would mistake for an index
        with tempfile.TemporaryDirectory() as folder:
            narrow = Path(folder) / fam.name
            with open(fam, "rb") as wide:
                narrow.write_bytes(b"".join(b" ".join(line.split()[:6]) + b"\n" for line in wide))
            samples, variants = _read_tables(bed, bim, narrow)

    n_negative = int((variants["base_pair_location"] < 0).sum())
    if n_negative:
        log.warning("%s: %d variants have a negative position; they are kept", bim, n_negative)
    return Genotypes(bed, samples, variants)


def genotype_problems(bed: Path) -> list[str]:
    """Everything wrong with a file set that is seen without reading its genotypes.

    Files that are not there, malformed rows, a person who occurs twice, a `.bed` of another kind or
    size. One sentence each, with file and row.
    """
    bim, fam = bed.with_suffix(".bim"), bed.with_suffix(".fam")
    problems = [fault for path in (bed, bim, fam) if (fault := unreadable(path))]
    if problems:
        return [
            f"{fault}; genotypes are a .bed, a .bim and a .fam of one name" for fault in problems
        ]
    rows = {}
    for path in (fam, bim):
        try:
            rows[path], _ = _count_rows(path)
        except InputError as error:
            problems.append(str(error))
    try:
        _check_bed(bed, rows.get(fam), rows.get(bim))
    except InputError as error:
        problems.append(str(error))
    if fam in rows:
        try:
            read_people(fam)
        except InputError as error:
            problems.append(str(error))
    return problems


def read_people(fam: Path) -> list[str]:
    """IIDs of a `.fam` in the order of its rows, without "sub-".

    Raises
    ------
    InputError
        Not UTF-8 text, a person without an IID, or one who occurs twice.
    """
    try:
        text = fam.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{fam}: not UTF-8 text: {error}") from error
    written = [fields[1] for row in text.split("\n") if (fields := row.split())]
    people = [name.removeprefix("sub-") for name in written]
    if "NA" in people:
        raise InputError(f"{fam}: row {people.index('NA') + 1}: the IID is missing (NA)")
    if len(set(people)) < len(people):
        row = int(np.argmax(pd.Series(people).duplicated().to_numpy())) + 1
        first = people.index(people[row - 1]) + 1
        prefix = written[row - 1] != written[first - 1]
        n_more = len(people) - len(set(people)) - 1
        raise InputError(
            f"{fam}: row {row}: the IID '{people[row - 1]}' occurs twice, first in row {first}"
            f"{', for sub- before an id is ignored' if prefix else ''}"
            f"{f' (and {n_more} more such rows)' if n_more else ''}; people are "
            "matched by IID, so each must be its own (plink2 --update-ids renames them)"
        )
    return people


def count_variants(bim: Path) -> dict[str, int]:
    """Variants of each chromosome of a `.bim`, in file order; named as in `Genotypes.variants`."""
    column = pd.read_csv(bim, sep=r"\s+", header=None, usecols=[0], dtype=str)[0]
    counts = _chromosomes(column).value_counts(sort=False)
    return {str(name): int(number) for name, number in counts.items()}


def _chromosomes(column: pd.Series) -> pd.Series:
    """Names of chromosomes as a `.bim` has them, without "chr"; "0" where there is none."""
    return column.fillna("0").str.replace(r"^chr", "", case=False, regex=True)


def _count_rows(path: Path) -> tuple[int, int]:
    """Rows and fields of a bim or fam; a bim has six fields, a fam six or more, all rows alike."""
    names = _TABLE_FIELDS[path.suffix].split()
    n_rows, expected = 0, len(names)
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            fields = line.split()
            n_fields = len(fields)
            if n_rows == 0 and path.suffix == ".fam":
                expected = max(n_fields, expected)
            if n_fields == expected:
                n_rows += 1
                if path.suffix == ".bim" and not fields[3].lstrip(b"-").isdigit():
                    raise InputError(
                        f"{path}: row {number}: the position is "
                        f"'{fields[3].decode(errors='replace')}'; positions must be whole numbers"
                    )
            elif n_fields:
                raise InputError(
                    f"{path}: row {number} has {n_fields} fields, expected {expected} "
                    f"({' '.join(names)}{' and more' if expected > len(names) else ''})"
                )
    if n_rows == 0:
        raise InputError(f"{path}: the file has no rows")
    return n_rows, expected


def _check_bed(bed: Path, n_samples: int | None, n_variants: int | None) -> None:
    """Magic number, order and, where the rows of its tables are known, size of a bed file."""
    with open(bed, "rb") as file:
        magic = file.read(3)
    if magic[:2] != _BED_MAGIC:
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


def _read_tables(bed: Path, bim: Path, fam: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """People and variants, by pandas-plink."""
    from pandas_plink import Chunk, read_plink1_bin

    try:  # the genotypes stay unread: they are a lazy array of one chunk
        table = read_plink1_bin(
            bed, bim, fam, verbose=False, chunk=Chunk(nsamples=None, nvariants=None)
        )
    except (ValueError, OverflowError) as error:
        raise InputError(
            f"{bim} or {fam}: {error}; positions must be whole numbers, sexes 0, 1 or 2"
        ) from error

    def text(name: str) -> pd.Series:
        return pd.Series(np.asarray(table[name]), dtype=object)

    samples = pd.DataFrame({name: text(name) for name in ("fid", "iid", "father", "mother")})
    samples = samples.fillna("0")
    samples["iid"] = samples["iid"].str.removeprefix("sub-")  # as in every table of people
    sex = pd.to_numeric(text("gender"), errors="coerce").fillna(0).astype(np.int8)
    samples["sex"] = sex.where(sex.isin([1, 2]), 0)

    variants = pd.DataFrame(
        {
            "chromosome": _chromosomes(text("chrom")),
            "base_pair_location": np.asarray(table["pos"], dtype=np.int64),
            "variant_id": text("snp").fillna("NA"),
            "effect_allele": text("a0").fillna("NA"),
            "other_allele": text("a1").fillna("NA"),
        }
    )
    return samples, variants

"""Genotypes in place: PLINK 1, PLINK 2 and BGEN sets, read in blocks of variants."""

from __future__ import annotations

import logging
import os
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from axoloci.errors import InputError, raise_all
from axoloci.io.genotype_files import (
    GenotypeFiles,
    GenotypeSet,
    chromosome_names,
    genotype_problems,
    genotype_set,
    open_variants,
    pvar_columns,
    read_bgen_header,
    read_pgen_header,
)
from axoloci.io.variants import VARIANT_COLUMNS

log = logging.getLogger("axoloci")

MAX_UNCERTAINTY = 0.1  # from a called genotype, as in plink2
BED_HEADER = 3  # bytes before the genotypes
MISSING = -9  # value of a missing genotype in every block

Dosage = NDArray[np.int8] | NDArray[np.float32]


@dataclass(frozen=True)
class PackedCalls:
    """Some variants of a `.bed`, to be read and unpacked by whoever uses them.

    Attributes
    ----------
    path
        The file.
    rows : int64, (n_variants,)
        Variants by their place in it.
    n_samples
        People in it.
    sample_index : int64, (n,) or None
        Those that are meant, in their order; None for everyone.
    """

    path: Path
    rows: NDArray[np.int64]
    n_samples: int
    sample_index: NDArray[np.int64] | None

    def __len__(self) -> int:
        """Number of variants."""
        return len(self.rows)

    def __getitem__(self, chosen: slice) -> PackedCalls:
        """Some of the variants."""
        return replace(self, rows=self.rows[chosen])

    def read(self) -> NDArray[np.uint8]:
        """The bytes; for any number of threads at once.

        Returns
        -------
        uint8, (n_variants, ⌈n_samples / 4⌉)
            Two bits a person, the first in the lowest: 0 two, 2 one, 3 no copies of allele 1, 1
            missing.
        """
        width = -(-self.n_samples // 4)
        packed = np.empty((len(self), width), dtype=np.uint8)
        edges = [0, *np.flatnonzero(np.diff(self.rows) != 1) + 1, len(self)]
        with open(self.path, "rb") as file:
            for start, stop in pairwise(edges):
                if start == stop:  # of no variants
                    continue
                file.seek(BED_HEADER + int(self.rows[start]) * width)
                if file.readinto(packed[start:stop].data) < (stop - start) * width:
                    raise InputError(f"{self.path}: has been cut off while it was read")
        return packed


class Genotypes(ABC):
    """A set of genotypes: its people, its variants and blocks of dosages.

    Attributes
    ----------
    path : pathlib.Path
        The `.bed`, `.pgen` or `.bgen` file, or the pattern of several.
    files : list of pathlib.Path
        All files of the set, the genotypes first.
    names_people : pathlib.Path
        The file that names the people, the first of several.
    samples : pandas.DataFrame
        One row per person in file order, indexed by `sample_id` (see `axoloci.io.people`): `fid`,
        `iid`, `father`, `mother` (strings, "0" if unknown), `sex` (1 male, 2 female, 0 unknown).
    variants : pandas.DataFrame
        One row per alternative allele in file order: `chromosome` (string, without a leading
        "chr"), `base_pair_location`, `variant_id`, `effect_allele` (the one that dosages count,
        whichever is rarer: allele 1 of a `.bim`, ALT of a `.pvar`, any but the first allele of
        BGEN) and `other_allele`. A variant of several alternative alleles has a row for each, in
        which all its other alleles count as the other one.
    dtype : numpy.dtype
        Of the blocks: int8 if all genotypes are whole numbers, else float32.
    """

    dtype: np.dtype[Any]

    def __init__(
        self, files: GenotypeFiles | GenotypeSet, samples: pd.DataFrame, variants: pd.DataFrame
    ) -> None:
        self.path = files.data
        self.files = files.files
        self.names_people = files.names_people
        self.samples = samples
        self.variants = variants
        self._rows: NDArray[np.int64] | None = None  # those of the files, where some are left out

    def select_variants(self, chosen: NDArray[np.bool_]) -> None:
        """Go on with some of the variants, as if the files had no others.

        Parameters
        ----------
        chosen : (n_variants,)
            Which rows of `variants` stay.
        """
        rows = np.flatnonzero(chosen)
        self._rows = rows if self._rows is None else self._rows[rows]
        self.variants = self.variants[chosen].reset_index(drop=True)

    @property
    def n_samples(self) -> int:
        """Number of people in the files."""
        return len(self.samples)

    @property
    def n_variants(self) -> int:
        """Number of rows in `variants`."""
        return len(self.variants)

    def sample_index(self, sample_id: Sequence[str]) -> NDArray[np.int64]:
        """Positions of people in file order, for `read`.

        Parameters
        ----------
        sample_id : (n,)
            People.

        Returns
        -------
        int64, (n,)
            In the order of `sample_id`.

        Raises
        ------
        InputError
            Some of them have no genotypes.
        """
        index = self.samples.index.get_indexer(pd.Index(sample_id, dtype=object)).astype(np.int64)
        absent = np.flatnonzero(index < 0)
        if len(absent):
            examples = ", ".join(f"'{sample_id[i]}'" for i in absent[:3])
            raise InputError(
                f"{self.names_people}: lacks {len(absent)} of {len(index)} people, "
                f"such as {examples}; give the genotypes of the study"
            )
        return index

    def read_calls(
        self, start: int, stop: int, sample_index: ArrayLike | None = None
    ) -> NDArray[np.int8]:
        """As `read`, but whole numbers: the called genotypes, or dosages close to one.

        Those farther than 0.1 from a whole number are missing.
        """
        return self._read(self._range(start, stop), sample_index, np.dtype(np.int8))

    def read_calls_at(
        self, rows: NDArray[np.int64], sample_index: ArrayLike | None = None
    ) -> NDArray[np.int8]:
        """As `read_calls`, of the variants at some rows of `variants`, in increasing order."""
        rows = np.asarray(rows, dtype=np.int64)
        if (np.diff(rows, prepend=-1, append=self.n_variants) <= 0).any():
            raise IndexError(f"rows that do not increase, or are beyond 0:{self.n_variants}")
        rows = rows if self._rows is None else self._rows[rows]
        return self._read(rows, sample_index, np.dtype(np.int8))

    def read(self, start: int, stop: int, sample_index: ArrayLike | None = None) -> Dosage:
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
        dosage : int8 or float32, (stop - start, n)
            Count of `effect_allele` from 0 to 2, `MISSING` (-9) where there is none. A haploid
            genotype counts twice.
        """
        return self._read(self._range(start, stop), sample_index, self.dtype)

    def read_packed(
        self, start: int, stop: int, sample_index: NDArray[np.int64] | None = None
    ) -> PackedCalls | Dosage:
        """As `read`, but left packed where the files are: whoever uses it reads and unpacks it."""
        found = self._in_bed(self._range(start, stop))
        if found is None:
            return self.read(start, stop, sample_index)
        everyone = sample_index is not None and np.array_equal(
            sample_index, np.arange(self.n_samples)
        )
        return PackedCalls(*found, self.n_samples, None if everyone else sample_index)

    def _range(self, start: int, stop: int) -> NDArray[np.int64]:
        """Rows of the files."""
        if not 0 <= start <= stop <= self.n_variants:
            raise IndexError(f"variants {start}:{stop} of {self.n_variants}")
        return np.arange(start, stop) if self._rows is None else self._rows[start:stop]

    def _read(
        self, rows: NDArray[np.int64], sample_index: ArrayLike | None, dtype: np.dtype[Any]
    ) -> NDArray[Any]:
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
        dosage = np.empty((len(rows), n), dtype=dtype)  # (variants, people)
        if dosage.size:
            self._fill(dosage, rows, subset)
        return dosage if order is None else np.ascontiguousarray(dosage[:, order])

    @abstractmethod
    def _fill(
        self, dosage: NDArray[Any], rows: NDArray[np.int64], subset: NDArray[np.uint32] | None
    ) -> None:
        """Read rows of the files of some people (positions in file order), or of all.

        Into int8 the called genotypes, else dosages. Rows increase.
        """

    def _in_bed(self, rows: NDArray[np.int64]) -> tuple[Path, NDArray[np.int64]] | None:
        """The `.bed` that holds rows of the files, and their places in it; None without one."""
        return None


class PlinkGenotypes(Genotypes):
    """PLINK 1 or PLINK 2, by pgenlib.

    Parameters
    ----------
    files, samples, variants
        As in `Genotypes`.
    row_alleles : (n_variants, 2), optional
        Variant in the file and its allele, of each row; needed where some variants have more than
        two alleles.
    has_dosages
        Whether some genotypes are not whole numbers.
    """

    def __init__(
        self,
        files: GenotypeFiles,
        samples: pd.DataFrame,
        variants: pd.DataFrame,
        row_alleles: NDArray[np.int64] | None = None,
        *,
        has_dosages: bool = False,
    ) -> None:
        from pgenlib import PgenReader

        super().__init__(files, samples, variants)
        self.dtype = np.dtype(np.float32 if has_dosages else np.int8)
        self._row_alleles = row_alleles
        settings: dict[str, Any] = {"variant_ct": len(variants)}
        if row_alleles is not None:
            n_alleles = 1 + np.bincount(row_alleles[:, 0])  # the reference one, and its rows
            settings = {
                "variant_ct": len(n_alleles),
                "allele_idx_offsets": np.cumsum([0, *n_alleles], dtype=np.uintp),
            }
        self._reader = PgenReader(os.fsencode(self.path), raw_sample_ct=len(samples), **settings)
        self._subset: NDArray[np.uint32] | None = None
        self._is_bed = files.format == "PLINK 1"

    def _in_bed(self, rows: NDArray[np.int64]) -> tuple[Path, NDArray[np.int64]] | None:
        return (self.path, rows) if self._is_bed else None

    def _fill(
        self, dosage: NDArray[Any], rows: NDArray[np.int64], subset: NDArray[np.uint32] | None
    ) -> None:
        self._select(subset)
        reader, whole = self._reader, dosage.dtype == np.int8
        if self._row_alleles is not None:
            read_one = reader.read if whole else reader.read_dosages
            for row, (variant, allele) in zip(dosage, self._row_alleles[rows], strict=True):
                read_one(variant, row, allele)
        elif _is_range(rows):
            read = reader.read_range if whole else reader.read_dosages_range
            read(rows[0], rows[-1] + 1, dosage)
        else:
            read = reader.read_list if whole else reader.read_dosages_list
            read(rows.astype(np.uint32), dosage)

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


def _is_range(rows: NDArray[np.int64]) -> bool:
    """Whether increasing rows are neighbours."""
    return len(rows) > 0 and bool(rows[-1] - rows[0] == len(rows) - 1)


class BgenGenotypes(Genotypes):
    """BGEN 1.2 or 1.3, by the library bgen."""

    dtype = np.dtype(np.float32)

    def __init__(self, files: GenotypeFiles, samples: pd.DataFrame) -> None:
        from bgen import BgenReader

        try:
            self._reader = BgenReader(files.data)
            rows = list(_bgen_rows(self._reader))
            end = self._reader[len(self._reader) - 1].next_variant_offset
        except (ValueError, IndexError, OSError) as error:
            raise InputError(f"{files.data}: is cut off or damaged: {error}") from error
        n_variants = read_bgen_header(files.data).n_variants
        if end > files.data.stat().st_size or len(self._reader) < n_variants:
            raise InputError(
                f"{files.data}: is cut off: it has {len(self._reader)} of {n_variants} variants, "
                "the last of them not whole"
            )
        self._row_alleles = np.array([row[:2] for row in rows], dtype=np.int64)
        variants = pd.DataFrame([row[2:] for row in rows], columns=VARIANT_COLUMNS)
        variants["chromosome"] = chromosome_names(variants["chromosome"])
        super().__init__(files, samples, variants)

    def _fill(
        self, dosage: NDArray[Any], rows: NDArray[np.int64], subset: NDArray[np.uint32] | None
    ) -> None:
        for row, (place, allele) in zip(dosage, self._row_alleles[rows], strict=True):
            variant = self._reader[int(place)]
            try:
                values = _allele_dosage(variant, allele)
            except ValueError as error:
                raise InputError(
                    f"{self.path}: variant {_bgen_name(variant)} at {variant.chrom}:{variant.pos}: "
                    f"{error}; make the file again without it (associate and ridge also leave it "
                    "out by --exclude)"
                ) from error
            if subset is not None:
                values = values[subset]
            if row.dtype == np.int8:
                call = np.round(values)
                values = np.where(np.abs(values - call) <= MAX_UNCERTAINTY, call, np.nan)
            # the last probability is what the others leave of 1, by rounding a little below 0 at
            # times, which would be missing
            row[:] = np.where(np.isnan(values), MISSING, np.maximum(values, 0))


def _bgen_rows(reader: Any) -> Iterator[tuple[int, int, str, int, str, str, str]]:
    """Place, allele, and what the table of variants says, of each alternative allele."""
    for place in range(len(reader)):
        variant = reader[place]
        name = _bgen_name(variant)
        reference, *others = variant.alleles
        for allele, effect in enumerate(others, start=1):
            yield place, allele, variant.chrom, variant.pos, name or "NA", effect, reference


def _bgen_name(variant: Any) -> str:
    """Its id in the table of variants."""
    return str(variant.rsid if variant.rsid not in ("", ".") else variant.varid)


def _allele_dosage(variant: Any, allele: int) -> NDArray[np.float32]:
    """Expected count of an allele from 0 to 2, NaN for who has no genotype or no such chromosome.

    Raises
    ------
    ValueError
        Someone has more than two copies of the chromosome, or the bytes are damaged.
    """
    ploidy = variant.ploidy  # (N,)
    if ploidy.max() > 2:
        raise ValueError(f"has genotypes of {ploidy.max()} copies, and those of 1 or 2 are read")
    if ploidy.max() == 0:
        return np.full(len(ploidy), np.nan, dtype=np.float32)
    is_diploid = ploidy == 2
    if len(variant.alleles) == 2:
        copies = variant.alt_dosage
    else:
        of_one, of_two = _several_alleles(variant, allele)
        copies = np.where(is_diploid, of_two, of_one)
    if is_diploid.all():
        return np.asarray(copies, dtype=np.float32)
    return np.select([is_diploid, ploidy == 1], [copies, 2 * copies], np.float32(np.nan))


def _several_alleles(
    variant: Any, allele: int
) -> tuple[NDArray[np.float32], NDArray[np.float32] | float]:
    """Expected copies of one of more than two alleles: as of haploid, and as of diploid people.

    Each is right for those who are so.
    """
    n_alleles, probabilities = len(variant.alleles), variant.probabilities
    of_one = probabilities[:, allele]  # the first haplotype, or the only one
    if probabilities.shape[1] == n_alleles:  # everyone is haploid
        return of_one, np.nan
    if variant.is_phased:  # one probability an allele, for each of two haplotypes in turn
        return of_one, of_one + probabilities[:, n_alleles + allele]
    # unordered pairs in the order 00, 01, 11, 02, 12, 22, …
    count = [(i, j).count(allele) for j in range(n_alleles) for i in range(j + 1)]
    return of_one, probabilities @ np.array(count, dtype=np.float32)


class JoinedGenotypes(Genotypes):
    """One file a chromosome, read as one set.

    Parameters
    ----------
    files
        All of them.
    parts
        The sets of each, of the same people in the same order.
    """

    def __init__(self, files: GenotypeSet, parts: Sequence[Genotypes]) -> None:
        variants = pd.concat([part.variants for part in parts], ignore_index=True)
        super().__init__(files, parts[0].samples, variants)
        self.parts = list(parts)
        self.dtype = np.result_type(*(part.dtype for part in parts))
        self._starts = np.cumsum([0, *(part.n_variants for part in parts)])

    def _fill(
        self, dosage: NDArray[Any], rows: NDArray[np.int64], subset: NDArray[np.uint32] | None
    ) -> None:
        of_part = self._of_part(rows)
        for number in np.unique(of_part):
            first, last = np.searchsorted(of_part, [number, number + 1])
            own = rows[first:last] - self._starts[number]
            self.parts[number]._fill(dosage[first:last], own, subset)

    def _in_bed(self, rows: NDArray[np.int64]) -> tuple[Path, NDArray[np.int64]] | None:
        numbers = np.unique(self._of_part(rows))
        if len(numbers) != 1:  # a block is of one chromosome, which is in one file
            return None
        number = int(numbers[0])
        return self.parts[number]._in_bed(rows - self._starts[number])

    def _of_part(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Which part each row is of; they increase, as rows do."""
        return np.searchsorted(self._starts, rows, side="right") - 1


def open_genotypes(path: str | os.PathLike[str]) -> Genotypes:
    """Open a genotype set and check that its files belong together.

    Parameters
    ----------
    path
        As for `genotype_set`: the `.bed`, `.pgen` or `.bgen` file, the name before these, or the
        pattern of one file a chromosome.

    Raises
    ------
    InputError
        A file is not there, of another kind or size than its tables ask for, a table row is
        malformed, a person occurs twice, or files of one pattern are of different people.
    """
    files = genotype_set(path)
    raise_all(genotype_problems(files), f"{files.data.with_suffix('')}: the genotypes have faults:")
    parts = [_open(part) for part in files.parts]
    source = parts[0] if len(parts) == 1 else JoinedGenotypes(files, parts)
    if files.absent:
        log.warning(
            "%s: no file of chromosome %s; what is there is read",
            *(files.data, ", ".join(files.absent)),
        )
    owner: dict[str, Path] = {}
    for part in parts:
        for name in part.variants["chromosome"].unique():
            if name in owner:
                log.warning(
                    "%s and %s both have variants of chromosome %s, and all of them are read",
                    *(owner[name], part.path, name),
                )
            owner[name] = part.path
    n_negative = int((source.variants["base_pair_location"] < 0).sum())
    if n_negative:
        named = files.parts[0].variants if len(parts) == 1 else None
        log.warning(
            "%s: %d variants have a negative position; they are kept",
            named or source.path,
            n_negative,
        )
    return source


def _open(files: GenotypeFiles) -> Genotypes:
    """One file of genotypes in which no fault was found."""
    if files.format == "BGEN":
        return BgenGenotypes(files, files.people)
    if files.format == "PLINK 2":
        assert files.variants is not None
        variants, row_alleles = _read_pvar(files.variants)
        has_dosages = read_pgen_header(files.data).has_dosages
        return PlinkGenotypes(files, files.people, variants, row_alleles, has_dosages=has_dosages)
    return PlinkGenotypes(files, *_read_plink1(files))


def _read_plink1(files: GenotypeFiles) -> tuple[pd.DataFrame, pd.DataFrame]:
    """People and variants, by pandas-plink."""
    from pandas_plink import Chunk, read_plink1_bin

    bed, bim, fam = files.files
    with tempfile.TemporaryDirectory() as folder:
        # GEMMA's .fam has one more column per trait, which pandas-plink would mistake for an index
        narrow = Path(folder) / "six.fam"
        people = files.people
        table = people.assign(trait="-9")
        table.to_csv(narrow, sep=" ", header=False, index=False)
        try:  # the genotypes stay unread: they are a lazy array of one chunk
            table = read_plink1_bin(
                bed, bim, narrow, verbose=False, chunk=Chunk(nsamples=None, nvariants=None)
            )
        except (ValueError, OverflowError) as error:
            raise InputError(
                f"{bim} or {fam}: {error}; positions must be whole numbers, sexes 0, 1 or 2"
            ) from error

    def text(name: str) -> pd.Series:
        return pd.Series(np.asarray(table[name]), dtype=object)

    variants = pd.DataFrame(
        {
            "chromosome": chromosome_names(text("chrom")),
            "base_pair_location": np.asarray(table["pos"], dtype=np.int64),
            "variant_id": text("snp").fillna("NA"),
            "effect_allele": text("a0").fillna("NA"),
            "other_allele": text("a1").fillna("NA"),
        }
    )
    return people, variants


def _read_pvar(path: Path) -> tuple[pd.DataFrame, NDArray[np.int64] | None]:
    """Variants of PLINK 2; if some have several alternative alleles, which one each row is of."""
    names, n_before = pvar_columns(path)
    wanted = ["CHROM", "POS", "ID", "REF", "ALT"]
    with open_variants(path) as file:
        table = pd.read_csv(
            file,
            sep=r"\s+",
            header=None,
            skiprows=n_before,
            names=names,
            usecols=wanted,
            dtype={name: str for name in wanted if name != "POS"} | {"POS": np.int64},
            keep_default_na=False,
        )
    row_alleles = None
    n_alternative = table["ALT"].str.count(",").to_numpy() + 1
    if (n_alternative > 1).any():
        allele = np.concatenate([np.arange(1, n + 1) for n in n_alternative])
        variant = np.repeat(np.arange(len(table)), n_alternative)
        row_alleles = np.stack([variant, allele], axis=1)
        alleles = table["ALT"].str.split(",").explode()
        table = table.loc[alleles.index].assign(ALT=alleles.to_numpy()).reset_index(drop=True)
    variants = pd.DataFrame(
        {
            "chromosome": chromosome_names(table["CHROM"]),
            "base_pair_location": table["POS"],
            "variant_id": table["ID"],
            "effect_allele": table["ALT"],
            "other_allele": table["REF"],
        }
    )
    return variants, row_alleles

"""The store of summary statistics: Parquet parts per chromosome, all traits side by side.

`plan.json`
    All that decides the content; a folder of another plan is not gone on with.
`chr<CHROMOSOME>/part-00000.parquet`
    A fixed range of variants: columns of the variant, `neg_log10_p_max` of the strongest trait,
    then beta and se of each. A part is whole or not there, so a run that was killed goes on at a
    part. Until the store is finished, `part-00000.json` beside it keeps its size and SHA-256.
    Traits that do not fit into memory come in groups: then `part-00000.piece-0-64.parquet` holds
    what the first 64 gave, with such a record of its own, until the last group joins all pieces.
`groups.json`
    Until then: where these groups begin and end.
`beside.npz`
    What the same reading of the genotypes gave besides (`Sumstats.relationship`,
    `Sumstats.permuted`); until then `part-00000.beside.npz` of each part, which holds random sums
    over the genotypes of each person.
`hits.tsv`
    A row for each variant and trait with p below 5e-8.
`samples.tsv`
    `sample_id` of the people analysed, in the order of the analysis.
`trait_correlation.npy`
    Correlation of the covariate-adjusted traits, float64. Their covariance is this times the
    `trait_residual_sd` of both traits.
`trait_correlation/chr<CHROMOSOME>.npy`
    Correlation of the traits' statistics for a variant there without an effect: of all chromosomes
    of a mixed model; else of X and Y, which have other people and covariates.
`sumstats.json`
    Written last: traits, `trait_residual_sd` (one number a trait, in units of the trait: the square
    root of the residual sum of squares on the covariates over n, where n counts the people who have
    the trait), sizes and counts, and the SHA-256 of every other file but the plan.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal
from zipfile import is_zipfile

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from axoloci.errors import InputError, NotPossibleError, nearest
from axoloci.io.files import leftovers, sha256, whole_file, write_json, write_text
from axoloci.io.variants import VARIANT_COLUMNS, parse_region
from axoloci.statistics import neg_log10_f_tail

FORMAT = "axoloci-sumstats"
FORMAT_VERSION = 1
PART_VARIANTS = 16_384  # most variants in a part
PART_BYTES = 64 * 2**20  # most bytes of beta and se in a part, held in memory at once
_FIRST_COLUMNS = [*VARIANT_COLUMNS, "effect_allele_frequency", "n"]
STRONGEST = "neg_log10_p_max"
_STATUS = "status"  # of a piece
_GROUPS = "groups.json"
_BESIDE = "beside.npz"
HIT_NEG_LOG10_P = float(-np.log10(5e-8))
HIT_COLUMNS = (*_FIRST_COLUMNS, "trait", "beta", "se", "neg_log10_p")
_OUR_FILES = re.compile(
    r"(plan|groups|sumstats)\.json|samples\.tsv|hits\.tsv|trait_correlation(/chr[^/]+)?\.npy"
    r"|beside\.npz|chr[^/]+/part-\d+((\.piece-\d+-\d+)?\.(parquet|json)|\.beside\.npz)"
    r"|(.+/)?\.\d+\.tmp\.[^/]+"
)


def neg_log10_p(t: ArrayLike, df: ArrayLike) -> NDArray[np.float64]:
    """−log10 of the two-sided p-value of Student's t, right far beyond the smallest float64.

    Parameters
    ----------
    t, df : array-like
        Statistic and degrees of freedom, of shapes that broadcast.

    Returns
    -------
    float64, as broadcast
        NaN where df is not positive or either is NaN.
    """
    degrees = np.asarray(df, dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.square(np.asarray(t, dtype=np.float64)) / degrees
    return neg_log10_f_tail(ratio, 1, degrees)


@dataclass(frozen=True)
class Part:
    """A range of variants in file order, of one chromosome, that becomes one file."""

    chromosome: str
    number: int
    start: int
    stop: int

    @property
    def name(self) -> str:
        """Path within the store."""
        return f"chr{self.chromosome}/part-{self.number:05d}.parquet"

    @property
    def record_name(self) -> str:
        """Path of its size and checksum within an unfinished store."""
        return f"chr{self.chromosome}/part-{self.number:05d}.json"

    @property
    def beside_name(self) -> str:
        """Path of what is kept beside it within an unfinished store."""
        return f"chr{self.chromosome}/part-{self.number:05d}.beside.npz"

    def piece_name(self, group: TraitRange) -> str:
        """Path of what a group of traits gave, until all have."""
        range_ = f"{group.start}-{group.stop}"
        return f"chr{self.chromosome}/part-{self.number:05d}.piece-{range_}.parquet"


@dataclass(frozen=True)
class TraitRange:
    """A range of the traits, which memory holds at once.

    Attributes
    ----------
    start, stop
        Its traits, of all of a table.
    is_last
        Whether no other follows.
    """

    start: int
    stop: int
    is_last: bool


def trait_ranges(n_traits: int, most: int) -> list[TraitRange]:
    """Cut the traits into as few groups as may be, of equal sizes but for one.

    Parameters
    ----------
    n_traits
        Of the table.
    most
        In a group.
    """
    n_groups = max(1, -(-n_traits // most))
    return _between([k * n_traits // n_groups for k in range(n_groups + 1)])


def begun_ranges(path: str | os.PathLike[str], plan: Mapping[str, Any]) -> list[TraitRange]:
    """The groups that a store of this plan was begun in; none if it is finished, or had but one."""
    record = _read_record(Path(path) / _GROUPS)
    return _between(record["edges"]) if record.get("plan_sha256") == _digest(plan) else []


def _between(edges: Sequence[int]) -> list[TraitRange]:
    return [TraitRange(start, stop, stop == edges[-1]) for start, stop in pairwise(edges)]


@dataclass(frozen=True)
class Piece:
    """What a group of traits gave for the variants of a part.

    Attributes
    ----------
    n_people
        Who have the traits that most people have.
    status : uint8, (n_variants,)
        What became of each variant.
    columns
        By name, in the order of the store.
    permuted : float32, (n_permuted, n_traits)
        As in `Sumstats.permuted`.
    """

    n_people: int
    status: NDArray[np.uint8]
    columns: dict[str, Any]
    permuted: NDArray[np.float32]


def plan_parts(chromosome: Sequence[str] | pd.Series, n_traits: int) -> list[Part]:
    """Cut the variants into parts: fixed ranges within each chromosome, smaller with many traits.

    Parameters
    ----------
    chromosome : (n_variants,)
        In file order.
    n_traits
        Traits in the store.
    """
    names = np.asarray(chromosome, dtype=object)
    if len(names) == 0:
        return []
    size = PART_VARIANTS
    while size > 256 and size * n_traits * 8 > PART_BYTES:
        size //= 2
    edges = [0, *map(int, np.flatnonzero(names[1:] != names[:-1]) + 1), len(names)]
    numbers: dict[str, int] = {}
    parts = []
    for begin, end in pairwise(edges):
        for start in range(begin, end, size):
            name = str(names[start])
            if not re.fullmatch(r"[\w.*:+-]+", name):
                raise InputError(
                    f"variant {start + 1}: the chromosome '{name}' cannot name a folder"
                )
            numbers[name] = numbers.get(name, -1) + 1
            parts.append(Part(name, numbers[name], start, min(start + size, end)))
    return parts


class SumstatsWriter:
    """Writes a store part by part; a folder of the same plan is gone on with.

    Parameters
    ----------
    path
        Folder of the store.
    plan
        All that decides the content (inputs, settings), as JSON. Without dates or machine names.
    parts
        From `plan_parts`.
    replace
        Delete a store of another plan first.
    joins
        Other processes write other parts of the store: it must have been planned before.
    precision
        Of `beta` and `se`.
    keeps_beside
        Whether something is kept beside each part (`write`), and in the end for all (`finish`).

    Raises
    ------
    InputError
        The folder holds results of another plan and `replace` is not set, or it holds files that
        are no store's.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        plan: Mapping[str, Any],
        parts: Sequence[Part],
        replace: bool = False,
        *,
        joins: bool = False,
        precision: Literal["float32", "float64"] = "float32",
        keeps_beside: bool = False,
    ) -> None:
        self.path = Path(path)
        self.precision = precision
        self.keeps_beside = keeps_beside
        self.parts = list(parts)
        self.plan_sha256 = _digest(plan)
        stored = self._stored_plan()
        if self.path.exists() and not self.path.is_dir():
            raise InputError(f"{self.path}: a file; the results need a folder of their own")
        there = set(self.path.iterdir()) if self.path.is_dir() else set()
        if stored is None and there - set(leftovers(self.path)):  # of a kill before the plan
            raise InputError(f"{self.path}: a folder with other files in it; choose another one")
        if joins and stored != self.plan_sha256:
            raise InputError(
                f"{self.path}: is not planned for these inputs and settings; run the same command "
                "with --plan-only and --replace first; to test some variants only, use --region"
            )
        if stored not in (None, self.plan_sha256):
            if not replace:
                raise InputError(
                    f"{self.path}: holds the results of other inputs or settings; choose another "
                    "folder, or --replace to delete them"
                )
            self._clear()
        if not joins:  # after the rest is gone, so that a deletion that was killed can go on
            content = {"plan_sha256": self.plan_sha256, "plan": dict(plan)}
            write_json(self.path / "plan.json", content)
        self._written: dict[str, dict[str, Any]] = {}
        self._counts: dict[str, dict[str, int]] = {}

    def _stored_plan(self) -> str | None:
        """Digest of the plan of the store in the folder; None if there is no store."""
        for name in ("plan.json", "sumstats.json"):
            content = _read_record(self.path / name)
            if "plan_sha256" in content:
                return str(content["plan_sha256"])
        return None

    def _clear(self) -> None:
        """Delete the store in the folder, all but its plan."""
        files = [file for file in self.path.rglob("*") if file.is_symlink() or not file.is_dir()]
        for file in files:
            if not _OUR_FILES.fullmatch(str(file.relative_to(self.path))):
                raise InputError(
                    f"{self.path}: not replaced, for {file} is not of a store; move it away or "
                    "choose another folder"
                )
        for file in sorted(files, key=lambda file: file.name == "sumstats.json"):
            if file.name != "plan.json":
                file.unlink()
        for folder in (*self.path.glob("chr*"), *self.path.glob("trait_correlation")):
            folder.rmdir()

    def pending(self, chromosome: str | None = None) -> list[Part]:
        """Parts that are not there, or not as they were written; of one chromosome or of all."""
        import pyarrow.parquet as pq

        finished = _read_record(self.path / "sumstats.json").get("parts", [])
        recorded = {record["name"]: record for record in finished}
        missing = []
        all_have_beside = not self.keeps_beside or self.has_beside
        for part in self.parts:
            if chromosome not in (None, part.chromosome):
                continue
            file = self.path / part.name
            # of the part itself first: it is the newer one where a finished store is mended
            record = _read_record(self.path / part.record_name) or recorded.get(part.name, {})
            has_beside = all_have_beside or is_zipfile(self.path / part.beside_name)
            if (
                not (file.is_file() and has_beside)
                or not self._describe(part).items() <= record.items()
            ):
                missing.append(part)
                continue
            self._written[part.name] = record
            metadata = pq.read_metadata(file).metadata
            self._counts[part.name] = json.loads(metadata[b"axoloci"])["counts"]
        return missing

    @property
    def has_beside(self) -> bool:
        """Whether what is kept beside all parts is there, as it was written."""
        entry = _read_record(self.path / "sumstats.json").get("beside")
        file = self.path / _BESIDE
        return entry is not None and file.is_file() and sha256(file) == entry["sha256"]

    def read_beside(self, part: Part) -> dict[str, NDArray[Any]]:
        """What is kept beside a part, which is there."""
        with np.load(self.path / part.beside_name) as arrays:
            return dict(arrays)

    def write(
        self,
        part: Part,
        variants: pd.DataFrame,
        traits: Sequence[str],
        effect_allele_frequency: NDArray[np.float64],
        n: NDArray[np.int32],
        beta: NDArray[np.floating],
        se: NDArray[np.floating],
        n_covariates: int,
        n_by_trait: Mapping[str, NDArray[np.int32]] | None = None,
        counts: Mapping[str, int] | None = None,
        earlier: Sequence[Piece] = (),
        beside: Mapping[str, NDArray[Any]] | None = None,
    ) -> None:
        """Write one part, whole or not at all.

        Parameters
        ----------
        part
            Which one.
        variants
            Its rows: `VARIANT_COLUMNS`.
        traits : (n_traits,)
            Names.
        effect_allele_frequency, n : (n_variants,)
            Among the people with a genotype; how many they are.
        beta, se : (n_variants, n_traits)
            NaN where not tested.
        n_covariates
            That these variants were tested with, the intercept included.
        n_by_trait
            For each trait with missing values: people with genotype and trait, (n_variants,).
        counts
            Variants by what became of them; `finish` adds them up.
        earlier
            What the groups of traits before `traits` gave; their files are deleted.
        beside
            Arrays that are kept until the store is finished.
        """
        import pyarrow as pa

        arrays: dict[str, Any] = {
            name: pa.array(
                variants[name].to_numpy(),
                pa.int64() if name == "base_pair_location" else pa.string(),
            )
            for name in VARIANT_COLUMNS
        }
        arrays["effect_allele_frequency"] = pa.array(effect_allele_frequency.astype(np.float32))
        arrays["n"] = pa.array(n.astype(np.int32))
        last = self._columns(traits, n, beta, se, n_covariates, n_by_trait or {})
        arrays |= _side_by_side([*(piece.columns for piece in earlier), last])
        if beside is not None:
            _write_arrays(self.path / part.beside_name, beside)
        metadata = {"axoloci": json.dumps({"counts": dict(counts or {})})}
        self._write_table(part.name, pa.table(arrays).replace_schema_metadata(metadata))
        self._counts[part.name] = dict(counts or {})
        self._written[part.name] = {**self._describe(part), "n_variants": len(variants)}
        write_json(self.path / part.record_name, self._written[part.name])
        if earlier:
            self._delete_pieces(f"{Path(part.name).stem}.piece-*", (self.path / part.name).parent)

    def begin_groups(self, ranges: Sequence[TraitRange]) -> None:
        """Keep which groups the traits come in, so that a killed run can go on with them."""
        edges = [0, *(group.stop for group in ranges)]
        write_json(self.path / _GROUPS, {"plan_sha256": self.plan_sha256, "edges": edges})

    def write_piece(
        self,
        part: Part,
        group: TraitRange,
        traits: Sequence[str],
        n: NDArray[np.int32],
        beta: NDArray[np.floating],
        se: NDArray[np.floating],
        n_covariates: int,
        n_by_trait: Mapping[str, NDArray[np.int32]],
        status: NDArray[np.uint8],
        n_people: int,
        permuted: NDArray[np.float32],
    ) -> None:
        """Write what a group of traits, but the last, gave for a part.

        Parameters
        ----------
        part, traits, n, beta, se, n_covariates, n_by_trait
            As for `write`; the traits are those of the group.
        group
            Which one.
        status, n_people, permuted
            As in `Piece`.
        """
        import pyarrow as pa

        columns = self._columns(traits, n, beta, se, n_covariates, n_by_trait)
        table = pa.table({_STATUS: pa.array(status), **columns})
        name = part.piece_name(group)
        metadata = {
            "n_people": str(n_people),
            "permuted": permuted.tobytes(),
            "permuted_shape": json.dumps(permuted.shape),
        }
        self._write_table(name, table.replace_schema_metadata(metadata))
        write_json(self._piece_record(name), self._describe_piece(name))

    def lacking(self, parts: Sequence[Part], group: TraitRange) -> list[Part]:
        """Parts that a group of traits is to be tested for.

        Parameters
        ----------
        parts
            That are not there, from `pending`.
        group
            The last one makes the parts themselves; of others there may be pieces, which count if
            they are as they were written.
        """
        if group.is_last:
            return list(parts)
        found = []
        for part in parts:
            name = part.piece_name(group)
            record = _read_record(self._piece_record(name))
            if not (self.path / name).is_file() or self._describe_piece(name) != record:
                found.append(part)
        return found

    def read_piece(self, part: Part, group: TraitRange) -> Piece:
        """What a group of traits gave for a part, of which it is not `lacking`.

        Raises
        ------
        InputError
            It is gone: another process works on the same part.
        """
        import pyarrow.parquet as pq

        file = self.path / part.piece_name(group)
        try:
            table = pq.read_table(file)
        except FileNotFoundError as error:
            raise InputError(
                f"{file}: is gone, as if another process tests chromosome {part.chromosome} too; "
                "one at a time can"
            ) from error
        columns = {name: table[name].combine_chunks() for name in table.column_names}
        status = columns.pop(_STATUS).to_numpy()
        about = table.schema.metadata
        shape = json.loads(about[b"permuted_shape"])
        permuted = np.frombuffer(about[b"permuted"], np.float32).reshape(shape)
        return Piece(int(about[b"n_people"]), status, columns, permuted)

    def _columns(
        self,
        traits: Sequence[str],
        n: NDArray[np.int32],
        beta: NDArray[np.floating],
        se: NDArray[np.floating],
        n_covariates: int,
        n_by_trait: Mapping[str, NDArray[np.int32]],
    ) -> dict[str, Any]:
        """The columns of some traits: their own n, `STRONGEST`, then beta and se of each."""
        import pyarrow as pa

        columns: dict[str, Any] = {
            f"n_{name}": pa.array(own_n.astype(np.int32)) for name, own_n in n_by_trait.items()
        }
        strongest = _strongest(traits, n, beta, se, n_covariates, n_by_trait)
        columns[STRONGEST] = pa.array(strongest.astype(np.float32))
        for k, name in enumerate(traits):
            for statistic, values in (("beta", beta), ("se", se)):
                columns[f"{statistic}_{name}"] = pa.array(
                    np.ascontiguousarray(values[:, k], dtype=self.precision)
                )
        return columns

    def _write_table(self, name: str, table: Any) -> None:
        """A file of the store, whole or not at all."""
        import pyarrow.parquet as pq

        names = table.column_names
        with whole_file(self.path / name) as temporary:
            pq.write_table(
                table,
                temporary,
                compression="zstd",
                compression_level=1,
                use_byte_stream_split=names[names.index(STRONGEST) + 1 :],
                use_dictionary=["chromosome", "effect_allele", "other_allele"],
                write_statistics=["chromosome", "base_pair_location"],
            )

    def _piece_record(self, name: str) -> Path:
        return (self.path / name).with_suffix(".json")

    def _describe_piece(self, name: str) -> dict[str, Any]:
        """What tells whether a piece is as it was written."""
        file = self.path / name
        return {"size": file.stat().st_size, "sha256": sha256(file)}

    def _delete_pieces(self, pattern: str, folder: Path) -> None:
        for file in folder.glob(pattern):
            file.unlink()

    def _describe(self, part: Part) -> dict[str, Any]:
        """What tells whether a part is as it was written."""
        file = self.path / part.name
        return {
            "name": part.name,
            "chromosome": part.chromosome,
            "size": file.stat().st_size,
            "sha256": sha256(file),
        }

    def finish(
        self,
        traits: Sequence[str],
        sample_id: Sequence[str],
        trait_correlation: NDArray[np.float64],
        trait_residual_sd: NDArray[np.float64],
        about: Mapping[str, Any],
        correlation_of_chromosome: Iterable[tuple[str, NDArray[np.float64]]] = (),
        beside: Mapping[str, NDArray[Any]] | None = None,
    ) -> None:
        """Write what holds for the whole store; `sumstats.json` last.

        Parameters
        ----------
        traits : (n_traits,)
            Names, in the order of the columns.
        sample_id : (n_samples,)
            People analysed, in the order of the analysis.
        trait_correlation : (n_traits, n_traits)
            Of the adjusted traits.
        trait_residual_sd : (n_traits,)
            Of the adjusted traits, in units of the trait: √(residual sum of squares / n), where n
            counts the people who have the trait.
        about
            What goes into `sumstats.json` besides: `n_covariates` (with the intercept), …
        correlation_of_chromosome
            By chromosome, where it is another: (n_traits, n_traits), of the traits' statistics for
            a variant without an effect. Of a mixed model it is another on each.
        beside
            Arrays of `beside.npz`; without them the file stays as it is.
        """
        counts: dict[str, int] = {}
        for part in self.parts:
            for name, value in self._counts[part.name].items():
                counts[name] = counts.get(name, 0) + value
        with whole_file(self.path / "trait_correlation.npy") as temporary:
            np.save(temporary, np.asarray(trait_correlation, dtype=np.float64))
        own = {}
        for chromosome, correlation in correlation_of_chromosome:
            name = f"trait_correlation/chr{chromosome}.npy"
            with whole_file(self.path / name) as temporary:
                np.save(temporary, np.asarray(correlation, dtype=np.float64))
            own[chromosome] = {"name": name, "sha256": sha256(self.path / name)}
        if beside is not None:
            _write_arrays(self.path / _BESIDE, beside)
        write_text(self.path / "samples.tsv", "\n".join(["sample_id", *sample_id]) + "\n")
        of_chromosome = about.get("n_covariates_of_chromosome", {})
        with (
            whole_file(self.path / "hits.tsv") as temporary,
            open(temporary, "w", encoding="utf-8") as file,
        ):
            file.write("\t".join(HIT_COLUMNS) + "\n")
            for part in self.parts:
                n_covariates = of_chromosome.get(part.chromosome, about["n_covariates"])
                found = _hits(self.path / part.name, traits, n_covariates, HIT_NEG_LOG10_P)
                if found is not None:
                    found.to_csv(file, sep="\t", header=False, index=False, float_format="%.6g")
        of_parts = {(self.path / part.name).parent for part in self.parts}
        for folder in of_parts:  # of a kill, or of a run that joined no pieces
            self._delete_pieces("part-*.piece-*", folder)
        (self.path / _GROUPS).unlink(missing_ok=True)
        for folder in (self.path, self.path / "trait_correlation", *of_parts):
            for stale in leftovers(folder):
                stale.unlink()
        content = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "traits": list(traits),
            "n_samples": len(sample_id),
            **about,
            "n_variants": sum(self._written[part.name]["n_variants"] for part in self.parts),
            "variants": counts,
            "plan_sha256": self.plan_sha256,
            "trait_residual_sd": np.asarray(trait_residual_sd, dtype=np.float64).tolist(),
            **{
                key: {"name": name, "sha256": sha256(self.path / name)}
                for key, name in (
                    ("trait_correlation", "trait_correlation.npy"),
                    ("samples", "samples.tsv"),
                    ("hits", "hits.tsv"),
                    *([("beside", _BESIDE)] if self.keeps_beside else []),
                )
            },
            **({"trait_correlation_of_chromosome": own} if own else {}),
            "parts": [self._written[part.name] for part in self.parts],
        }
        write_json(self.path / "sumstats.json", content)
        for part in self.parts:
            (self.path / part.record_name).unlink(missing_ok=True)
            (self.path / part.beside_name).unlink(missing_ok=True)


def _write_arrays(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """A .npz, whole or not at all."""
    named: dict[str, Any] = dict(arrays)
    with whole_file(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, **named)


def _side_by_side(groups: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The columns of groups of traits as those of one group."""
    import pyarrow as pa

    own_n: dict[str, Any] = {}
    statistics: dict[str, Any] = {}
    for columns in groups:
        names = list(columns)
        first = names.index(STRONGEST)
        own_n |= {name: columns[name] for name in names[:first]}
        statistics |= {name: columns[name] for name in names[first + 1 :]}
    strongest = np.fmax.reduce([columns[STRONGEST].to_numpy() for columns in groups])
    return {**own_n, STRONGEST: pa.array(strongest), **statistics}


def _strongest(
    traits: Sequence[str],
    n: NDArray[np.int32],
    beta: NDArray[np.floating],
    se: NDArray[np.floating],
    n_covariates: int,
    n_by_trait: Mapping[str, NDArray[np.int32]],
) -> NDArray[np.float64]:
    """Largest −log10 p of all traits, (n_variants,); NaN where none was tested."""
    with np.errstate(divide="ignore", invalid="ignore"):
        square = np.square(beta / se)
    if not n_by_trait:  # of the same degrees of freedom the largest t has the smallest p
        largest = np.fmax.reduce(square, axis=1, initial=np.nan)
        return neg_log10_p(np.sqrt(largest), n - n_covariates - 1.0)
    of_trait = np.stack([n_by_trait.get(name, n) for name in traits], axis=1)
    df = of_trait - n_covariates - 1.0
    with np.errstate(invalid="ignore", divide="ignore"):
        score = (df - 0.5) * np.log1p(square / df)  # nearly the square of the normal score
    best = np.nan_to_num(score, nan=-1.0).argmax(axis=1)[:, None]
    t, own_df = (np.take_along_axis(a, best, axis=1)[:, 0] for a in (np.sqrt(square), df))
    return neg_log10_p(t, own_df)


def _hits(
    file: Path, traits: Sequence[str], n_covariates: int, threshold: float
) -> pd.DataFrame | None:
    """Results of a part with −log10 p of the threshold or more, `HIT_COLUMNS`; None if none has."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    strongest = pq.read_table(file, columns=[STRONGEST])[STRONGEST]
    # the column is float32: what it rounds down by is looked at all the same
    rows = np.flatnonzero(pc.greater_equal(strongest, threshold * (1 - 1e-6)).to_numpy())
    if len(rows) == 0:
        return None
    table = pq.read_table(file).take(rows)
    variants = table.select(_FIRST_COLUMNS).to_pandas(ignore_metadata=True)
    there = set(table.column_names)

    def stack(columns: Iterable[str]) -> NDArray[Any]:
        return np.stack([table[name].to_numpy() for name in columns], axis=1)

    n = stack(f"n_{name}" if f"n_{name}" in there else "n" for name in traits)
    beta, se = (stack(f"{statistic}_{name}" for name in traits) for statistic in ("beta", "se"))
    with np.errstate(divide="ignore", invalid="ignore"):
        found = neg_log10_p(beta.astype(np.float64) / se, n - n_covariates - 1.0)
    variant, trait = np.nonzero(found >= threshold)
    if len(variant) == 0:
        return None
    hits: pd.DataFrame = variants.iloc[variant].assign(
        trait=np.asarray(traits, dtype=object)[trait],
        **{
            name: values[variant, trait]
            for name, values in (("n", n), ("beta", beta), ("se", se), ("neg_log10_p", found))
        },
    )
    return hits.reindex(columns=list(HIT_COLUMNS))


@dataclass(frozen=True)
class SumstatsBlock:
    """One part as arrays.

    Attributes
    ----------
    chromosome : str
        Its name.
    variants : pandas.DataFrame
        chromosome, base_pair_location, variant_id, effect_allele, other_allele,
        effect_allele_frequency, n.
    beta, se : float32 or float64, (n_variants, n_traits)
        NaN where not tested; of the precision of the association.
    df : float64, (n_variants, n_traits)
        Residual degrees of freedom, n − n_covariates − 1; a view of one column where no trait has
        missing values.
    """

    chromosome: str
    variants: pd.DataFrame
    beta: NDArray[np.floating]
    se: NDArray[np.floating]
    df: NDArray[np.float64]


class Sumstats:
    """A store, read by trait, by region or part by part.

    Attributes
    ----------
    path : pathlib.Path
        Its folder.
    info : dict
        `sumstats.json`.
    traits : list of str
        Names.
    n_samples, n_covariates, n_variants : int
        People, covariates with the intercept (of the autosomes), variants.
    trait_correlation : float64, (n_traits, n_traits)
        Correlation of the covariate-adjusted traits.
    of_mixed_model : bool
        Whether relatives were accounted for.
    trait_residual_sd : float64, (n_traits,)
        Standard deviation of the covariate-adjusted traits, in units of the trait: √(residual sum
        of squares / n), where n counts the people who have the trait.
    """

    def __init__(self, path: Path, info: dict[str, Any]) -> None:
        self.path = path
        self.info = info
        self.traits: list[str] = info["traits"]
        self.n_samples: int = info["n_samples"]
        self.n_covariates: int = info["n_covariates"]
        self.n_variants: int = info["n_variants"]
        self.trait_correlation: NDArray[np.float64] = np.load(
            self._checked(info["trait_correlation"])
        )
        self.trait_residual_sd = np.array(info["trait_residual_sd"], dtype=np.float64)
        self._own_correlation: dict[str, Any] = info.get("trait_correlation_of_chromosome", {})
        self.of_mixed_model = bool(info.get("mixed_model", self._own_correlation))
        self._own_people: dict[str, int] = info.get("n_samples_of_chromosome", {})
        self._own_n = set(info.get("traits_with_missing", []))
        self._covariates_by_name: dict[str, int] = info.get("n_covariates_of_chromosome", {})

    def __repr__(self) -> str:
        return (
            f"<Sumstats {self.path}: {self.n_variants:,} variants, {len(self.traits)} traits, "
            f"{self.n_samples:,} people>"
        )

    @cached_property
    def sample_id(self) -> list[str]:
        """People analysed, in the order of the analysis; read when first asked for."""
        file = self._checked(self.info["samples"])
        return file.read_text(encoding="utf-8").split("\n")[1:-1]

    @property
    def relationship(self) -> dict[str, NDArray[Any]]:
        """Of the people on autosomes, by block of the jackknife, from random probes w.

        With x_j what the covariates leave of the genotypes of variant j, A_b = Σ x_j x_j' / x_j'x_j
        over the tested variants of block b, and A that of all blocks.

        Returns
        -------
        dict
            `chromosomes`: those it is of. `n_rows`, `n_tested` (n_blocks,): their variants in the
            store, in its order, by block, and those of them that were tested. `first` w'A_b w,
            `own` w'A_b² w, `cross` w'A A_b w, each float64 (n_blocks, n_probes). `squares` w'w,
            (n_probes,). `df`: people less covariates.

        Raises
        ------
        NotPossibleError
            The association was run without probes.
        """
        arrays = self._beside()
        if "first" not in arrays:
            raise NotPossibleError(
                f"{self.path}: keeps nothing for heritability; run the association again with "
                "--n-probes 8 and without --loco, or use axoloci-genetics ldsc"
            )
        return {name: array for name, array in arrays.items() if name != "permuted"}

    @property
    def permuted(self) -> NDArray[np.float32]:
        """Statistics t of some variants with all traits, after a permutation of the people.

        Returns
        -------
        float32, (n_permuted, n_traits)
            NaN where not tested.

        Raises
        ------
        NotPossibleError
            The association was run without permuted genotypes.
        """
        arrays = self._beside()
        if "permuted" not in arrays:
            raise NotPossibleError(
                f"{self.path}: keeps no permuted genotypes; run the association again with "
                "--n-permuted 20000 and without --loco"
            )
        return arrays["permuted"]

    def _beside(self) -> dict[str, NDArray[Any]]:
        if "beside" not in self.info:
            return {}
        with np.load(self._checked(self.info["beside"])) as arrays:
            return dict(arrays)

    def has_own_correlation(self, chromosome: str) -> bool:
        """Whether `correlation_of` a chromosome is another than `trait_correlation`."""
        return self.of_mixed_model or chromosome in self._own_correlation

    def n_people_of(self, chromosome: str) -> int:
        """Who was tested on a chromosome; on X people of known sex, on Y men."""
        return self._own_people.get(chromosome, self.n_samples)

    def correlation_of(self, chromosome: str) -> NDArray[np.float64]:
        """Correlation of the traits' statistics for a variant without an effect.

        Parameters
        ----------
        chromosome
            On which it lies.

        Returns
        -------
        float64, (n_traits, n_traits)
            That of the chromosome, where it has its own, else `trait_correlation`.
        """
        if not self.has_own_correlation(chromosome):
            return self.trait_correlation
        return np.asarray(np.load(self._checked(self._own_correlation[chromosome])))

    def _checked(self, entry: Mapping[str, Any]) -> Path:
        """A file of the store that is as `sumstats.json` says."""
        file: Path = self.path / entry["name"]
        if not file.is_file() or sha256(file) != entry["sha256"]:
            raise InputError(
                f"{file}: missing or changed since it was written; run the same association again "
                "to mend it"
            )
        return file

    def trait(self, name: str, region: str | None = None) -> pd.DataFrame:
        """Results of one trait.

        Parameters
        ----------
        name
            The trait.
        region
            A chromosome ("7"), or a chromosome and positions, both included ("7:100000-250000").

        Returns
        -------
        pandas.DataFrame
            chromosome, base_pair_location, variant_id, effect_allele, other_allele,
            effect_allele_frequency, n, beta, se, neg_log10_p.

        Raises
        ------
        InputError
            No such trait or chromosome, or a malformed region.
        """
        import pyarrow.parquet as pq

        if name not in self.traits:
            raise InputError(f"{self.path}: no trait '{name}'; {nearest(name, self.traits)}")
        chromosome, first, last = parse_region(region)
        own_n = [f"n_{name}"] if name in self._own_n else []
        columns = [*_FIRST_COLUMNS, *own_n, f"beta_{name}", f"se_{name}"]
        frames = []
        for part in self._parts(chromosome):
            frame: pd.DataFrame = pq.read_table(
                self.path / part["name"], columns=columns
            ).to_pandas(ignore_metadata=True)
            position = frame["base_pair_location"]
            frames.append(
                frame if region is None else frame[(position >= first) & (position <= last)]
            )
        result = pd.concat(frames, ignore_index=True)
        if own_n:
            result["n"] = result.pop(own_n[0])
        result = result.rename(columns={f"beta_{name}": "beta", f"se_{name}": "se"})
        df = result["n"].to_numpy(np.float64) - self.n_covariates_of(result["chromosome"]) - 1
        with np.errstate(divide="ignore", invalid="ignore"):
            t = result["beta"].to_numpy(np.float64) / result["se"].to_numpy(np.float64)
        result["neg_log10_p"] = neg_log10_p(t, df)
        return result

    def hits(self, threshold: float = HIT_NEG_LOG10_P) -> pd.DataFrame:
        """Results of all traits from a −log10 p on, in the order of the genotypes.

        Only the parts that hold one are read. Those from 5e-8 on also stand in `hits.tsv`.

        Parameters
        ----------
        threshold
            Least −log10 p.

        Returns
        -------
        pandas.DataFrame
            chromosome, base_pair_location, variant_id, effect_allele, other_allele,
            effect_allele_frequency, n, trait, beta, se, neg_log10_p.
        """
        frames = []
        for part in self.info["parts"]:
            n_covariates = self._covariates_by_name.get(part["chromosome"], self.n_covariates)
            frames.append(_hits(self.path / part["name"], self.traits, n_covariates, threshold))
        found = [frame for frame in frames if frame is not None]
        empty = pd.DataFrame(columns=list(HIT_COLUMNS))
        return pd.concat(found, ignore_index=True) if found else empty

    def inflation(self, n_values: int = 2**23) -> NDArray[np.float64]:
        """Genomic inflation λ of each trait: its median t² over that of no association.

        Parameters
        ----------
        n_values
            Most results that are looked at: of more, those of some parts, evenly spread.

        Returns
        -------
        float64, (n_traits,)
            1 where nothing is associated; NaN where nothing was tested.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq
        from scipy import special

        parts = self.info["parts"]
        of_part = max(1, self.n_variants * len(self.traits) // len(parts))
        n_parts = min(len(parts), max(1, n_values // of_part))
        chosen = [parts[k] for k in np.linspace(0, len(parts) - 1, n_parts).astype(int)]
        table = pa.concat_tables(
            pq.read_table(
                self.path / part["name"],
                columns=[
                    *("chromosome", "n", *(f"n_{name}" for name in self._own_n)),
                    *(
                        f"{statistic}_{name}"
                        for name in self.traits
                        for statistic in ("beta", "se")
                    ),
                ],
            )
            for part in chosen
        )
        n_covariates = self.n_covariates_of(table["chromosome"].to_pandas())
        found = np.full(len(self.traits), np.nan)
        expected: dict[str, float] = {}  # by column: degrees of freedom hardly differ
        for k, name in enumerate(self.traits):
            beta, se = table[f"beta_{name}"].to_numpy(), table[f"se_{name}"].to_numpy()
            with np.errstate(divide="ignore", invalid="ignore"):
                square = np.square(beta / se)
            square = square[np.isfinite(square)]
            if len(square) == 0:
                continue
            of = f"n_{name}" if name in self._own_n else "n"
            if of not in expected:
                df = table[of].to_numpy() - n_covariates - 1
                expected[of] = special.stdtrit(np.median(df[df > 0]), 0.75) ** 2
            found[k] = np.median(square) / expected[of]
        return found

    def blocks(self, chromosome: str | None = None) -> Iterator[SumstatsBlock]:
        """The parts in file order, of one chromosome or of all."""
        for part in self._parts(chromosome):
            yield self._block(part)

    def _block(self, part: Mapping[str, Any]) -> SumstatsBlock:
        import pyarrow.parquet as pq

        table = pq.read_table(self.path / part["name"])

        def stack(statistic: str) -> NDArray[np.floating]:
            return np.stack([table[f"{statistic}_{k}"].to_numpy() for k in self.traits], axis=1)

        variants = table.select(_FIRST_COLUMNS).to_pandas(ignore_metadata=True)
        n = variants["n"].to_numpy(np.float64)
        n_covariates = self.n_covariates_of(variants["chromosome"])
        df = np.broadcast_to((n - n_covariates - 1)[:, None], (len(n), len(self.traits)))
        if self._own_n:
            df = df.copy()
            for k, name in enumerate(self.traits):
                if name in self._own_n:
                    df[:, k] = table[f"n_{name}"].to_numpy() - n_covariates - 1
        return SumstatsBlock(part["chromosome"], variants, stack("beta"), stack("se"), df)

    def n_covariates_of(self, chromosome: pd.Series) -> NDArray[np.float64]:
        """Covariates that variants were tested with: on X also sex, on Y those men differ in."""
        own = chromosome.map(self._covariates_by_name)
        return np.asarray(own.fillna(self.n_covariates), dtype=np.float64)

    def _parts(self, chromosome: str | None) -> list[dict[str, Any]]:
        parts = [part for part in self.info["parts"] if chromosome in (None, part["chromosome"])]
        if not parts:
            there = dict.fromkeys(part["chromosome"] for part in self.info["parts"])
            raise InputError(
                f"{self.path}: no chromosome '{chromosome}'; it has {', '.join(there)}"
            )
        return parts


def read_sumstats(path: str | os.PathLike[str]) -> Sumstats:
    """Open a store.

    Raises
    ------
    InputError
        Not a finished store, of a newer format, or with a part missing or of another size.
    """
    path = Path(path)
    final = path / "sumstats.json"
    if not final.is_file():
        unfinished = (path / "plan.json").is_file()
        raise InputError(
            f"{path}: the association has not finished; run the same command again to go on"
            if unfinished
            else f"{path}: not a store of summary statistics (no sumstats.json in it)"
        )
    info = json.loads(final.read_text())
    if info.get("format") != FORMAT:
        raise InputError(f"{final}: not of the format {FORMAT}")
    if info["format_version"] > FORMAT_VERSION:
        raise InputError(
            f"{final}: format version {info['format_version']}; this axoloci reads up to "
            f"{FORMAT_VERSION}: install a newer one"
        )
    for part in info["parts"]:
        file = path / part["name"]
        size = file.stat().st_size if file.is_file() else None
        if size != part["size"]:
            found = "is missing" if size is None else f"has {size} bytes, expected {part['size']}"
            raise InputError(f"{file}: {found}; run the same association again to mend it")
    return Sumstats(path, info)


def _digest(plan: Mapping[str, Any]) -> str:
    text = json.dumps(plan, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _read_record(path: Path) -> dict[str, Any]:
    """Content of a JSON file; empty if it is not there or not JSON."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}

"""What the page is made of: the JSON that names it, and its tables and arrays."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from axoloci.errors import InputError
from axoloci.io.nifti import read_nifti, same_grid

log = logging.getLogger("axoloci")

MISSING = ["", "n/a", "NA", "NaN", "nan"]
TABLES: dict[str, set[str]] = {  # and the columns that each needs
    "scans": {"scan", "status"},
    "qc": {"scan"},
    "history": set(),  # of epochs, of components or of labels
    "quality": {"sample_id", "reconstruction_r2", "in_training"},
    "loci": {"chromosome", "base_pair_location", "variant_id", "neg_log10_p"},
    "samples_qc": {"IID", "flags"},
    "replication": {"variant_id", "neg_log10_p", "replicated", "n", "r"},
    "seconds": {"step", "jobs", "seconds"},
    "signals": {
        *("locus", "round", "chromosome", "base_pair_location", "variant_id", "neg_log10_p"),
    },
    "heritability": {"trait", "h2", "h2_se"},
    "genetic_correlation": {"trait_1", "trait_2", "rg"},
    "voxels": {"locus", "variant_id", "prefix", "peak_x", "peak_y", "peak_z"},
}
NUMBERS = {  # columns that hold numbers where they are there
    *("h2", "h2_se", "h2_ldsc", "h2_ldsc_se", "lambda_gc", "intercept", "intercept_se"),
    *("rg", "rg_se", "phenotypic_correlation", "peak_x", "peak_y", "peak_z"),
    *("peak_neg_log10_p", "nearest_gene_kb", "joint_r2", "neg_log10_p", "r", "round"),
    *("base_pair_location", "n"),
}
NAMES = ("scan", "sample_id", "trait", "trait_1", "trait_2")  # somebody may be called NA


class Results(BaseModel):
    """Results of one representation of the maps, or of traits that were given."""

    model_config = ConfigDict(extra="forbid")

    # TSV: epoch, train_loss, validation_loss; or component, and variance_kept or label
    history: Path | None = None
    quality: Path | None = None  # TSV: sample_id, reconstruction_r2, in_training
    examples: Path | None = None  # NPZ: sample_id, original, reconstruction
    joint: Path | None = None  # Parquet: the joint test
    loci: Path | None = None  # TSV: the loci; their settings lie beside it as .json
    replication: Path | None = None  # TSV: the loci in other people; a summary lies beside it
    sumstats: Path | None = None  # store of summary statistics, for plots of single traits
    regions: Path | None = None  # Parquet: variants around each locus, with r² to its lead
    signals: Path | None = None  # TSV: what is left at each locus given its leads
    heritability: Path | None = None  # TSV: h² of each trait; its settings lie beside it
    genetic_correlation: Path | None = None  # TSV: a row a pair of traits
    ldsc: Path | None = None  # folder: the same two tables by LD score regression
    voxels: Path | None = None  # folder: index.tsv and maps of variants' effects
    voxel_h2: Path | None = None  # NIfTI: h² of each voxel,
    voxel_h2_se: Path | None = None  # and its standard error
    seconds_learnt: float | None = None  # seconds of learning and encoding
    n_planted: int | None = None  # of a simulated cohort: its loci,
    n_found: int | None = None  # those of them that were found,
    n_false: int | None = None  # and leads that stand for none

    def files(self, folder: Path) -> dict[str, Path]:
        """The files that are named, by field; relative paths start at a folder."""
        return {
            name: folder / value
            for name in type(self).model_fields
            if isinstance(value := getattr(self, name), Path)
        }


class Inputs(Results):
    """`inputs.json`. What is not named is left out of the page with a sentence.

    Paths are absolute or relative to the JSON file.
    """

    title: str
    representations: dict[str, Results] = {}  # by name; without any, those of the page itself
    out_dir: str | None = None  # where the study's results lie, to be read by people
    study_settings: dict[str, Any] | None = None
    versions: dict[str, str] | None = None
    facts: dict[str, dict[str, Any]] | None = None  # what ran and how, for the methods section
    scans: Path | None = None  # TSV: scan, sample_id, status (ok or failed), reason, log
    # tables of scans of the study's other cohorts, by name; the rest of the page is one cohort's
    other_scans: dict[str, Path] = {}
    qc: Path | None = None  # TSV: scan, sample_id, quality figures; one row a scan
    qc_page: str | None = None  # link to the page of the quality of all scans
    cohort: Path | None = None  # cohort store
    samples_qc: Path | None = None  # TSV: IID, quality of the genotypes, flags
    group: str = ""  # why the group stage is not finished
    seconds: Path | None = None  # TSV: step, jobs, seconds, cpu_seconds, max_rss_mb

    @property
    def parts(self) -> dict[str, Results]:
        """Results by representation; by no name where there is none."""
        return self.representations or {"": self}


def read_inputs(path: Path) -> Inputs:
    """Read `inputs.json` and check that all it names is there.

    Raises
    ------
    InputError
        Not such a file, or files that are not there: all of them at once.
    """
    try:
        inputs = Inputs.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, OSError) as error:
        if isinstance(error, ValidationError):
            problems = [f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()]
            raise InputError(f"{path}: {'; '.join(problems)}") from error
        raise InputError(f"{path}: cannot be read as JSON: {error}") from error
    others = {name: path.parent / value for name, value in inputs.other_scans.items()}
    named = inputs.files(path.parent)
    of_parts = {name: own.files(path.parent) for name, own in inputs.representations.items()}
    every = named | others
    for part, files in of_parts.items():
        every |= {f"{part}.{name}": file for name, file in files.items()}
    absent = [f"{name}: {file}" for name, file in every.items() if not file.exists()]
    if absent:
        raise InputError(f"{path}: no such file for {'; '.join(absent)}; leave it out or mend it")
    parts = {
        name: own.model_copy(update=of_parts[name]) for name, own in inputs.representations.items()
    }
    return inputs.model_copy(update={**named, "other_scans": others, "representations": parts})


def read_tsv(path: Path, kind: str) -> pd.DataFrame:
    """One of the tables, ids and chromosomes as text.

    Raises
    ------
    InputError
        It is no table, lacks columns, or has something else where numbers belong.
    """
    try:
        table: pd.DataFrame = pd.read_csv(
            path,
            sep="\t",
            dtype=dict.fromkeys(["chromosome", "variant_id", "nearest_gene"], str),
            converters=dict.fromkeys(NAMES, str),
            keep_default_na=False,
            na_values=MISSING,
        )
    except pd.errors.EmptyDataError:
        return pd.DataFrame(columns=sorted(TABLES[kind]))
    except (ValueError, OSError) as error:
        raise InputError(f"{path}: cannot be read as a table: {error}") from error
    lacking = TABLES[kind] - set(table.columns)
    if lacking:
        raise InputError(f"{path}: has no column {', '.join(sorted(lacking))}")
    for name in sorted(NUMBERS & set(table.columns)):
        _check_numbers(table[name], path)
    return table


def _check_numbers(column: pd.Series[Any], path: Path) -> None:
    """Raise InputError for a column that is not of finite numbers, or for a negative SE."""
    numbers = pd.to_numeric(column, errors="coerce").to_numpy(np.float64)
    wrong = column.notna().to_numpy() & ~np.isfinite(numbers)
    if str(column.name).endswith("_se"):
        wrong |= numbers < 0
    if wrong.any():
        row = int(np.argmax(wrong))
        raise InputError(
            f"{path}: row {row + 2}: {column.name} is '{column.iloc[row]}', which cannot be; mend "
            "it, or write n/a where it is not known"
        )


def read_threshold(loci: Path | None) -> float:
    """Largest p of a lead variant, from the settings beside the table of loci; 5e-8 without."""
    about = loci.with_suffix(".json") if loci is not None else None
    if about is None or not about.is_file():
        return 5e-8
    return float(json.loads(about.read_text(encoding="utf-8"))["p_threshold"])


@dataclass(frozen=True)
class LooseMaps:
    """Maps in the common space that no cohort store holds yet; read as one is.

    Attributes
    ----------
    sample_id
        The people who are looked at.
    files
        Their maps.
    mask
        [bool, shape: (x, y, z)] Voxels in which any of them is above 0: a picture's, not a group's.
    affine
        [shape: (4, 4)] Voxel to world, mm.
    n_people
        All people with a map, without those whose map could not be read.
    """

    sample_id: list[str]
    files: list[Path]
    mask: NDArray[np.bool_]
    affine: NDArray[np.float64]
    n_people: int
    measure: str = "fa"

    @property
    def n_samples(self) -> int:
        """Number of people who are looked at."""
        return len(self.files)

    @property
    def n_voxels(self) -> int:
        """Voxels in the mask."""
        return int(self.mask.sum())

    def volumes(self, people: NDArray[np.int64]) -> NDArray[np.float32]:
        """Maps of some people, (n, x, y, z)."""
        maps = np.empty((len(people), *self.mask.shape), dtype=np.float32)
        for row, volume in zip(people, maps, strict=True):
            volume[:] = same_grid(self.files[row], self.mask.shape, self.affine, self.files[0])
        return maps

    def rows(self, people: NDArray[np.int64]) -> NDArray[np.float32]:
        """Masked voxels of some people, (n, n_voxels)."""
        return self.volumes(people)[:, self.mask]


def find_maps(scans: Path, most: int) -> LooseMaps | None:
    """The finished maps that a table of scans names, at even steps through it.

    Maps that are gone, broken or on another grid than the first are left out, and said in the log.

    Parameters
    ----------
    scans
        Table of scans; paths of maps are relative to it.
    most
        Most maps to look at.

    Returns
    -------
    None if there is none that is above 0 anywhere.
    """
    table = read_tsv(scans, "scans")
    if table.empty or not {"sample_id", "fa", "in_group"} <= set(table.columns):
        return None
    table = table[(table["in_group"] == "yes") & table["fa"].notna()]
    looked_at = table.iloc[evenly(len(table), most)]
    people: list[str] = []
    files: list[Path] = []
    mask, affine = np.zeros((0, 0, 0), dtype=bool), np.eye(4)
    for person, name in zip(looked_at["sample_id"], looked_at["fa"], strict=True):
        file = scans.parent / name
        try:
            if files:
                volume = same_grid(file, mask.shape, affine, files[0])
            else:
                volume, affine = read_nifti(file, ndim=3)
                mask = np.zeros(volume.shape, dtype=bool)
        except (InputError, OSError) as error:
            log.warning("a map is not shown: %s", error)
            continue
        mask |= volume > 0
        people.append(person)
        files.append(file)
    if not mask.any():
        return None
    n_people = len(table) - (len(looked_at) - len(files))
    return LooseMaps(people, files, mask, affine, n_people)


def evenly(n: int, most: int) -> NDArray[np.int64]:
    """At most `most` of n rows, at even steps."""
    return np.unique(np.linspace(0, n - 1, min(n, most)).round().astype(np.int64))


@dataclass(frozen=True)
class Joint:
    """The joint test as a plot needs it, without the variants that could not be tested.

    Attributes
    ----------
    names
        Chromosomes in the order in which they occur.
    chromosome
        [int16, shape: (n_variants,)] Index into `names`.
    position
        [int64, shape: (n_variants,)] Base pairs.
    neg_log10_p
        [float32, shape: (n_variants,)]
    about
        What the test noted: `traits`, `lambda_gc`, `n_variants`, `n_tested`.
    """

    names: list[str]
    chromosome: NDArray[np.int16]
    position: NDArray[np.int64]
    neg_log10_p: NDArray[np.float32]
    about: dict[str, Any]


def read_joint(path: Path) -> Joint:
    """Read the joint test, one row group at a time.

    Raises
    ------
    InputError
        Not a table of the joint test.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = ["chromosome", "base_pair_location", "neg_log10_p"]
    names: dict[str, int] = {}
    parts: list[tuple[NDArray[np.int16], NDArray[np.int64], NDArray[np.float32]]] = []
    try:
        about = _noted(path)
        file = pq.ParquetFile(path)
        for group in range(file.num_row_groups):
            table = file.read_row_group(group, columns=columns)
            coded = table["chromosome"].combine_chunks().dictionary_encode()
            codes = [names.setdefault(name, len(names)) for name in coded.dictionary.to_pylist()]
            p = table["neg_log10_p"].to_numpy().astype(np.float32)
            good = np.isfinite(p)
            chromosome = np.array(codes, dtype=np.int16)[coded.indices.to_numpy()]
            position = table["base_pair_location"].to_numpy()
            parts.append((chromosome[good], position[good], p[good]))
    except (OSError, pa.ArrowException, KeyError, ValueError) as error:
        raise InputError(f"{path}: not a table of axoloci-genetics joint: {error}") from error
    empty = (np.empty(0, np.int16), np.empty(0, np.int64), np.empty(0, np.float32))
    chromosome, position, neg_log10_p = (
        np.concatenate(arrays) for arrays in zip(*(parts or [empty]), strict=True)
    )
    return Joint(list(names), chromosome, position, neg_log10_p, about)


def read_joint_about(path: Path) -> dict[str, Any]:
    """What the joint test noted: `traits`, `lambda_gc`, `n_variants`, `n_tested`.

    Raises
    ------
    InputError
        Not a table of the joint test.
    """
    import pyarrow as pa

    try:
        return _noted(path)
    except (OSError, pa.ArrowException, ValueError) as error:
        raise InputError(f"{path}: not a table of axoloci-genetics joint: {error}") from error


def _noted(path: Path) -> dict[str, Any]:
    import pyarrow.parquet as pq

    about: dict[str, Any] = json.loads((pq.read_schema(path).metadata or {}).get(b"axoloci", b"{}"))
    return about


def read_examples(path: Path) -> tuple[list[str], NDArray[Any], NDArray[Any]]:
    """People, their maps and the maps' reconstructions, each map (k, x, y, z).

    Raises
    ------
    InputError
        Not such a file.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            who, original, reconstruction = (
                arrays[name] for name in ("sample_id", "original", "reconstruction")
            )
    except (OSError, KeyError, ValueError) as error:
        raise InputError(f"{path}: not examples of axoloci-encoder: {error}") from error
    if original.ndim != 4 or original.shape != reconstruction.shape or len(who) != len(original):
        raise InputError(f"{path}: maps of shapes {original.shape} and {reconstruction.shape}")
    return [str(name) for name in who], original, reconstruction

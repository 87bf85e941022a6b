"""The store of summary statistics: Parquet parts per chromosome, all traits side by side.

`plan.json`
    All that decides the content; a folder of another plan is not gone on with.
`chr<CHROMOSOME>/part-00000.parquet`
    A fixed range of variants: columns of the variant, then beta and se of each trait. A part is
    whole or not there, so a run that was killed goes on at a part. Until the store is finished,
    `part-00000.json` beside it keeps its size and SHA-256.
`samples.tsv`
    `sample_id` of the people analysed, in the order of the analysis.
`trait_correlation.npy`
    Correlation of the covariate-adjusted traits, float64. Their covariance is this times the
    `trait_residual_sd` of both traits.
`sumstats.json`
    Written last: traits, `trait_residual_sd` (one number a trait, in units of the trait: the square
    root of the residual sum of squares on the covariates over n, where n counts the people who have
    the trait), sizes and counts, and the SHA-256 of every other file but the plan.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from axoloci.errors import InputError
from axoloci.io.files import sha256, whole_file, write_json, write_text
from axoloci.statistics import neg_log10_f_tail

FORMAT = "axoloci-sumstats"
FORMAT_VERSION = 1
PART_VARIANTS = 16_384  # most variants in a part
PART_BYTES = 64 * 2**20  # most bytes of beta and se in a part, held in memory at once
VARIANT_COLUMNS = [
    "chromosome",
    "base_pair_location",
    "variant_id",
    "effect_allele",
    "other_allele",
]
_FIRST_COLUMNS = [*VARIANT_COLUMNS, "effect_allele_frequency", "n"]
_OUR_FILES = re.compile(
    r"plan\.json|sumstats\.json|samples\.tsv|trait_correlation\.npy"
    r"|chr[^/]+/part-\d+\.(parquet|json)|(.+/)?\.\d+\.tmp\.[^/]+"
)
# From plink's names and numbers, where 25 and XY are the pseudo-autosomal region of X.
_SSF_CHROMOSOMES = {str(k): k for k in range(1, 25)} | {"X": 23, "XY": 23, "25": 23, "Y": 24}
_SSF_CHROMOSOMES |= dict.fromkeys(("26", "M", "MT"), 25)


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
    ) -> None:
        self.path = Path(path)
        self.parts = list(parts)
        text = json.dumps(plan, sort_keys=True, allow_nan=False)
        self.plan_sha256 = hashlib.sha256(text.encode()).hexdigest()
        stored = self._stored_plan()
        if stored is None and self.path.is_dir() and any(self.path.iterdir()):
            raise InputError(f"{self.path}: a folder with other files in it; choose another one")
        if joins and stored != self.plan_sha256:
            raise InputError(
                f"{self.path}: is not planned for these inputs and settings; run the same command "
                "with --plan-only and --replace first"
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
        for folder in self.path.glob("chr*"):
            folder.rmdir()

    def pending(self, chromosome: str | None = None) -> list[Part]:
        """Parts that are not there, or not as they were written; of one chromosome or of all."""
        import pyarrow.parquet as pq

        finished = _read_record(self.path / "sumstats.json").get("parts", [])
        recorded = {record["name"]: record for record in finished}
        missing = []
        for part in self.parts:
            if chromosome not in (None, part.chromosome):
                continue
            file = self.path / part.name
            # of the part itself first: it is the newer one where a finished store is mended
            record = _read_record(self.path / part.record_name) or recorded.get(part.name)
            if not file.is_file() or record != self._describe(part):
                missing.append(part)
                continue
            self._written[part.name] = record
            metadata = pq.read_metadata(file).metadata
            self._counts[part.name] = json.loads(metadata[b"axoloci"])["counts"]
        return missing

    def write(
        self,
        part: Part,
        variants: pd.DataFrame,
        traits: Sequence[str],
        effect_allele_frequency: NDArray[np.float64],
        n: NDArray[np.int32],
        beta: NDArray[np.floating],
        se: NDArray[np.floating],
        n_by_trait: Mapping[str, NDArray[np.int32]] | None = None,
        counts: Mapping[str, int] | None = None,
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
            NaN where not tested; kept as float32.
        n_by_trait
            For each trait with missing values: people with genotype and trait, (n_variants,).
        counts
            Variants by what became of them; `finish` adds them up.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        arrays: dict[str, Any] = {
            name: pa.array(
                variants[name].to_numpy(),
                pa.int64() if name == "base_pair_location" else pa.string(),
            )
            for name in VARIANT_COLUMNS
        }
        arrays["effect_allele_frequency"] = pa.array(effect_allele_frequency.astype(np.float32))
        arrays["n"] = pa.array(n.astype(np.int32))
        for name, own_n in (n_by_trait or {}).items():
            arrays[f"n_{name}"] = pa.array(own_n.astype(np.int32))
        floats = []
        for k, name in enumerate(traits):
            for statistic, values in (("beta", beta), ("se", se)):
                floats.append(f"{statistic}_{name}")
                arrays[floats[-1]] = pa.array(np.ascontiguousarray(values[:, k], dtype=np.float32))
        metadata = {"axoloci": json.dumps({"counts": dict(counts or {})})}
        table = pa.table(arrays).replace_schema_metadata(metadata)
        with whole_file(self.path / part.name) as temporary:
            pq.write_table(
                table,
                temporary,
                compression="zstd",
                compression_level=1,
                use_byte_stream_split=floats,
                use_dictionary=["chromosome", "effect_allele", "other_allele"],
                write_statistics=["chromosome", "base_pair_location"],
            )
        self._counts[part.name] = dict(counts or {})
        self._written[part.name] = self._describe(part)
        write_json(self.path / part.record_name, self._written[part.name])

    def _describe(self, part: Part) -> dict[str, Any]:
        """What tells whether a part is as it was written."""
        file = self.path / part.name
        return {
            "name": part.name,
            "chromosome": part.chromosome,
            "n_variants": part.stop - part.start,
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
        """
        counts: dict[str, int] = {}
        for part in self.parts:
            for name, value in self._counts[part.name].items():
                counts[name] = counts.get(name, 0) + value
        with whole_file(self.path / "trait_correlation.npy") as temporary:
            np.save(temporary, np.asarray(trait_correlation, dtype=np.float64))
        write_text(self.path / "samples.tsv", "\n".join(["sample_id", *sample_id]) + "\n")
        for stale in self.path.rglob(".*.tmp.*"):  # of runs that were killed
            stale.unlink()
        content = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "traits": list(traits),
            "n_samples": len(sample_id),
            **about,
            "n_variants": sum(part.stop - part.start for part in self.parts),
            "variants": counts,
            "plan_sha256": self.plan_sha256,
            "trait_residual_sd": np.asarray(trait_residual_sd, dtype=np.float64).tolist(),
            **{
                key: {"name": name, "sha256": sha256(self.path / name)}
                for key, name in (
                    ("trait_correlation", "trait_correlation.npy"),
                    ("samples", "samples.tsv"),
                )
            },
            "parts": [self._written[part.name] for part in self.parts],
        }
        write_json(self.path / "sumstats.json", content)
        for part in self.parts:
            (self.path / part.record_name).unlink(missing_ok=True)


@dataclass(frozen=True)
class SumstatsBlock:
    """One part as arrays.

    Attributes
    ----------
    variants : pandas.DataFrame
        chromosome, base_pair_location, variant_id, effect_allele, other_allele,
        effect_allele_frequency, n.
    beta, se : (n_variants, n_traits)
        NaN where not tested.
    df : float64, (n_variants, n_traits)
        Residual degrees of freedom, n − n_covariates − 1; a view of one column where no trait has
        missing values.
    """

    variants: pd.DataFrame
    beta: NDArray[np.float32]
    se: NDArray[np.float32]
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
        People, covariates with the intercept, variants.
    trait_correlation : float64, (n_traits, n_traits)
        Correlation of the covariate-adjusted traits.
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
        self.trait_correlation: NDArray[np.float64] = np.load(self._checked("trait_correlation"))
        self.trait_residual_sd = np.array(info["trait_residual_sd"], dtype=np.float64)
        self._own_n = set(info.get("traits_with_missing", []))

    @cached_property
    def sample_id(self) -> list[str]:
        """People analysed, in the order of the analysis; read when first asked for."""
        return self._checked("samples").read_text(encoding="utf-8").split("\n")[1:-1]

    def _checked(self, key: str) -> Path:
        """A file of the store that is as `sumstats.json` says."""
        file: Path = self.path / self.info[key]["name"]
        if not file.is_file() or sha256(file) != self.info[key]["sha256"]:
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
            raise InputError(
                f"{self.path}: no trait '{name}'; it has {', '.join(self.traits[:5])}"
                f"{', …' if len(self.traits) > 5 else ''}"
            )
        chromosome, first, last = _parse_region(region)
        own_n = [f"n_{name}"] if name in self._own_n else []
        columns = [*_FIRST_COLUMNS, *own_n, f"beta_{name}", f"se_{name}"]
        frames = []
        for file in self._files(chromosome):
            frame: pd.DataFrame = pq.read_table(file, columns=columns).to_pandas(
                ignore_metadata=True
            )
            position = frame["base_pair_location"]
            frames.append(
                frame if region is None else frame[(position >= first) & (position <= last)]
            )
        result = pd.concat(frames, ignore_index=True)
        if own_n:
            result["n"] = result.pop(own_n[0])
        result = result.rename(columns={f"beta_{name}": "beta", f"se_{name}": "se"})
        df = result["n"].to_numpy(np.float64) - self.n_covariates - 1
        with np.errstate(divide="ignore", invalid="ignore"):
            t = result["beta"].to_numpy(np.float64) / result["se"].to_numpy(np.float64)
        result["neg_log10_p"] = neg_log10_p(t, df)
        return result

    def blocks(self, chromosome: str | None = None) -> Iterator[SumstatsBlock]:
        """The parts in file order, of one chromosome or of all."""
        import pyarrow.parquet as pq

        for file in self._files(chromosome):
            table = pq.read_table(file)

            def stack(statistic: str, table: Any = table) -> NDArray[np.float32]:
                return np.stack([table[f"{statistic}_{k}"].to_numpy() for k in self.traits], axis=1)

            variants = table.select(_FIRST_COLUMNS).to_pandas(ignore_metadata=True)
            n = variants["n"].to_numpy(np.float64)
            df = np.broadcast_to(n[:, None] - self.n_covariates - 1, (len(n), len(self.traits)))
            if self._own_n:
                df = df.copy()
                for k, name in enumerate(self.traits):
                    if name in self._own_n:
                        df[:, k] = table[f"n_{name}"].to_numpy() - self.n_covariates - 1.0
            yield SumstatsBlock(variants, stack("beta"), stack("se"), df)

    def _files(self, chromosome: str | None) -> list[Path]:
        parts = [part for part in self.info["parts"] if chromosome in (None, part["chromosome"])]
        if not parts:
            there = dict.fromkeys(part["chromosome"] for part in self.info["parts"])
            raise InputError(
                f"{self.path}: no chromosome '{chromosome}'; it has {', '.join(there)}"
            )
        return [self.path / part["name"] for part in parts]


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


def write_gwas_ssf(path: str | os.PathLike[str], results: pd.DataFrame) -> dict[str, int]:
    """Write results of one trait as GWAS-SSF text (gzip where the name ends in .gz).

    Rows that the format cannot hold (no result, no position, chromosome beyond 1-22, X, Y, MT) are
    left out.

    Parameters
    ----------
    path
        Text file.
    results
        From `Sumstats.trait`.

    Returns
    -------
    dict
        Rows written and rows left out, by reason.

    References
    ----------
    Hayhurst et al. 2022, doi:10.1101/2022.07.15.500230.
    """
    chromosome = results["chromosome"].map(_SSF_CHROMOSOMES)
    # the first reason that holds counts
    reasons = {
        "without_result": results["neg_log10_p"].isna(),
        "without_position": results["base_pair_location"] <= 0,
        "other_chromosome": chromosome.isna(),
        "alleles_not_acgt": ~(
            results["effect_allele"].str.fullmatch("[ACGT]+")
            & results["other_allele"].str.fullmatch("[ACGT]+")
        ),
    }
    usable = pd.Series(True, index=results.index)
    counts = {}
    for reason, bad in reasons.items():
        counts[reason] = int((usable & bad).sum())
        usable &= ~bad
    rows, numbers = results[usable], chromosome[usable].astype(int)
    table = pd.DataFrame(
        {
            "chromosome": numbers,
            "base_pair_location": rows["base_pair_location"],
            "effect_allele": rows["effect_allele"],
            "other_allele": rows["other_allele"],
            "beta": rows["beta"],
            "standard_error": rows["se"],
            "effect_allele_frequency": rows["effect_allele_frequency"],
            "neg_log_10_p_value": rows["neg_log10_p"],
            "rsid": rows["variant_id"].where(rows["variant_id"].str.fullmatch(r"rs\d+"), "#NA"),
            "n": rows["n"],
        }
    ).sort_values(["chromosome", "base_pair_location"], kind="stable")
    text = table.to_csv(sep="\t", index=False, float_format="%.7g", lineterminator="\n").encode()
    with whole_file(path) as temporary:
        compressed = gzip.compress(text, compresslevel=6, mtime=0)
        temporary.write_bytes(compressed if Path(path).suffix == ".gz" else text)
    return {"written": len(table), **counts}


def _read_record(path: Path) -> dict[str, Any]:
    """Content of a JSON file; empty if it is not there or not JSON."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _parse_region(region: str | None) -> tuple[str | None, int, int]:
    """Chromosome, first and last position."""
    everything = 2**62
    if region is None:
        return None, -everything, everything
    match = re.fullmatch(r"(?:chr)?([^:]+)(?::([\d,]+)-([\d,]+))?", region)
    if match is None:
        raise InputError(f"region '{region}': write it as 7 or 7:100000-250000")
    chromosome, first, last = match.groups()
    if first is None:
        return chromosome, -everything, everything
    return chromosome, int(first.replace(",", "")), int(last.replace(",", ""))

"""`axoloci-genetics ld-scores`, and its table, or that of the program LDSC, as others read it."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import click
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from axoloci import __version__
from axoloci.command import progress
from axoloci.errors import InputError
from axoloci.io.files import whole_file
from axoloci.io.genotype_files import LAST_AUTOSOME, genotype_set
from axoloci.io.genotypes import Genotypes, open_genotypes
from axoloci.io.tables import read_ids
from axoloci.io.variants import VARIANT_COLUMNS
from axoloci.tasks.genetics import ld_scores as kernel

log = logging.getLogger("axoloci")

FORMAT = "axoloci-ld-scores"
FORMAT_VERSION = 1
SCHEMA = pa.schema(
    [
        ("chromosome", pa.string()),
        ("base_pair_location", pa.int64()),
        ("variant_id", pa.string()),
        ("effect_allele", pa.string()),
        ("other_allele", pa.string()),
        ("maf", pa.float32()),
        ("ld_score", pa.float64()),
    ]
)
BLOCK = 512  # variants read at a time
FEWEST_PEOPLE = 50  # of a panel: with fewer, r² is noise
LDSC_SUFFIX = ".l2.ldscore.gz"
_LDSC_NAMES = {"CHR": "chromosome", "BP": "base_pair_location", "SNP": "variant_id", "MAF": "maf"}
_AUTOSOMES = {str(k) for k in range(1, LAST_AUTOSOME + 1)}


@dataclass(frozen=True)
class LdScores:
    """LD scores of a panel.

    Attributes
    ----------
    table
        chromosome, base_pair_location, variant_id, ld_score, and maf where it is known.
    n_common
        Variants of the panel with a minor allele frequency above 0.05 (M_5_50).
    """

    table: pd.DataFrame
    n_common: float


@click.command("ld-scores")
@click.option(
    "--genotypes",
    required=True,
    type=click.Path(path_type=Path),
    help="PLINK 1, PLINK 2 or BGEN genotypes of a panel: people of the ancestry of those studied, "
    "without relatives. Missing ones count as the mean.",
)
@click.option(
    "--keep",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    default=None,
    help="Table of the people to use; without it all.",
)
@click.option(
    "--window-kb",
    type=click.FloatRange(min=0, min_open=True),
    default=kernel.WINDOW_KB,
    help="Farthest variant that counts, kb. Farther: more of the disequilibrium, and more noise.",
)
@click.option(
    "--window-cm",
    type=click.FloatRange(min=0, min_open=True),
    default=None,
    help="Instead in centimorgan, as the .bim has them; 1 is usual.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default="ld_scores.parquet",
    help="Parquet table, one row a variant.",
)
def ld_scores(
    genotypes: Path, keep: Path | None, window_kb: float, window_cm: float | None, out: Path
) -> None:
    """Compute LD scores of the autosomal variants of a panel, for axoloci-genetics ldsc.

    Of each variant the sum of r² with all within the window, each less its bias in a sample of this
    size. The genotypes are read once.
    """
    source = open_genotypes(genotypes)
    position = source.variants["base_pair_location"].to_numpy(np.float64)
    window = 1000 * window_kb
    if window_cm is not None:
        position, window = _centimorgan(genotypes), window_cm
    people = None if keep is None else source.sample_index(read_ids(keep, source.samples))
    n_samples = source.n_samples if people is None else len(people)
    if n_samples < FEWEST_PEOPLE:
        raise InputError(
            f"{source.names_people}: {n_samples} people are too few for LD scores; give a panel of "
            f"at least {FEWEST_PEOPLE}, better of several hundred"
        )
    ranges = _chromosomes(source, position)
    n_blocks = [-(-(stop - start) // BLOCK) for start, stop in ranges]
    maf = np.full(source.n_variants, np.nan)

    def read() -> Iterator[NDArray[np.float32]]:
        for start, stop in ranges:
            for first in range(start, stop, BLOCK):
                last = min(first + BLOCK, stop)
                block = kernel.standardise(source.read(first, last, people))
                maf[first:last] = block.maf
                yield block.genotypes

    blocks = progress(read(), "LD scores, blocks of variants", sum(n_blocks))
    tables = []
    for (start, stop), n_own in zip(ranges, n_blocks, strict=True):
        found = kernel.ld_scores(islice(blocks, n_own), position[start:stop], window)  # (n,)
        rows = source.variants.iloc[start:stop][VARIANT_COLUMNS]
        tables.append(rows.assign(maf=maf[start:stop], ld_score=found))
    table = pd.concat(tables, ignore_index=True)
    varies = (table["maf"] > 0).to_numpy()
    about = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "axoloci": __version__,
        "n_samples": n_samples,
        "window": f"{window_cm} cM" if window_cm is not None else f"{window_kb} kb",
        "n_variants": int(varies.sum()),
        "n_common": int((table["maf"] > kernel.COMMON_MAF).sum()),
    }
    if not about["n_common"]:
        raise InputError(f"{source.path}: no autosomal variant has a frequency above 0.05")
    content = pa.Table.from_pandas(table[varies], SCHEMA, preserve_index=False)
    content = content.replace_schema_metadata({"axoloci": json.dumps(about, allow_nan=False)})
    with whole_file(out) as temporary:
        pq.write_table(content, temporary, compression="zstd")
    n_other = source.n_variants - len(table)
    log.info(
        "LD scores of %d variants, %d of them common, mean %.2f; left out: %d that do not vary, "
        "%d of no autosome",
        *(about["n_variants"], about["n_common"], table["ld_score"][varies].mean()),
        *(int((~varies).sum()), n_other),
    )


def _centimorgan(genotypes: Path) -> NDArray[np.float64]:
    """Positions of the variants on the genetic map, from the third column of the .bim."""
    found = []
    for part in genotype_set(genotypes).parts:
        if part.format != "PLINK 1" or part.variants is None:
            raise InputError(
                f"{part.data}: centimorgan are read from a .bim; give PLINK 1 genotypes, or "
                "--window-kb"
            )
        column = pd.read_csv(part.variants, sep=r"\s+", header=None, usecols=[2], dtype=str)[2]
        values = pd.to_numeric(column, errors="coerce").to_numpy(np.float64)
        if not np.isfinite(values).all():
            row = int(np.argmin(np.isfinite(values)))
            raise InputError(f"{part.variants}: row {row + 1}: '{column[row]}' is no centimorgan")
        if not values.any():
            raise InputError(
                f"{part.variants}: has no genetic map, its third column is 0 throughout; add it "
                "(plink1.9 --cm-map), or give --window-kb"
            )
        found.append(values)
    return np.concatenate(found)


def _chromosomes(source: Genotypes, position: NDArray[np.float64]) -> list[tuple[int, int]]:
    """First and last row (exclusive) of each autosome, whose positions increase."""
    name = source.variants["chromosome"].to_numpy(dtype=str)
    edges = [0, *(np.flatnonzero(name[1:] != name[:-1]) + 1).tolist(), len(name)]
    ranges = [
        (start, stop)
        for start, stop in pairwise(edges)
        if start < stop and name[start] in _AUTOSOMES
    ]
    if not ranges:
        raise InputError(f"{source.path}: has no variant of an autosome, 1 to {LAST_AUTOSOME}")
    for start, stop in ranges:
        falls = start + 1 + np.flatnonzero(np.diff(position[start:stop]) < 0)
        again = stop + np.flatnonzero(name[stop:] == name[start])
        for row in [*falls[:1], *again[:1]]:
            raise InputError(
                f"{source.path}: the variants are not sorted by chromosome and position, as from "
                f"row {row + 1} on ({source.variants['variant_id'].iloc[row]}); sort them by "
                "plink2 --sort-vars"
            )
    return ranges


def read_ld_scores(path: Path) -> LdScores:
    """LD scores of this command, or those published for the program LDSC.

    Parameters
    ----------
    path
        The table of `axoloci-genetics ld-scores`; or the folder of files `*.l2.ldscore.gz` with
        `*.l2.M_5_50` beside them, or what their names begin with before the chromosome.

    Raises
    ------
    InputError
        Neither, or damaged, or of several annotations.
    """
    scores = _read_own(path) if path.is_file() else _read_ldsc(path)
    bad = ~np.isfinite(scores.table["ld_score"].to_numpy(np.float64))
    if bad.any():
        name = scores.table["variant_id"].to_numpy()[np.argmax(bad)]
        raise InputError(f"{path}: {int(bad.sum())} LD scores are no numbers, such as of {name}")
    return scores


def check_ld_scores(path: Path) -> None:
    """Refuse what `read_ld_scores` would, as far as names and headers tell.

    Raises
    ------
    InputError
        As `read_ld_scores`.
    """
    if path.is_file():
        _of_own(path)
    else:
        _published_files(path)


def _of_own(path: Path) -> dict[str, Any]:
    """What a table of this command says of itself."""
    try:
        about: dict[str, Any] = json.loads(pq.read_schema(path).metadata[b"axoloci"])
        known = about["format"] == FORMAT
    except (OSError, pa.ArrowInvalid, KeyError, TypeError, ValueError):
        known = False
    if not known:
        raise InputError(
            f"{path}: not a table of axoloci-genetics ld-scores; of LD scores published for LDSC "
            f"give the folder of the files *{LDSC_SUFFIX}"
        )
    if about["format_version"] > FORMAT_VERSION:
        raise InputError(
            f"{path}: format_version {about['format_version']} is newer than {FORMAT_VERSION}; "
            "update axoloci"
        )
    return about


def _read_own(path: Path) -> LdScores:
    n_common = float(_of_own(path)["n_common"])
    return LdScores(pq.read_table(path).to_pandas(), n_common)


def _published_files(path: Path) -> list[tuple[Path, Path]]:
    """LD scores and numbers of common variants, by chromosome."""
    folder, prefix = (path, "") if path.is_dir() else (path.parent, path.name)
    pattern = f"{prefix}*{LDSC_SUFFIX}"
    by_chromosome: dict[str, list[tuple[str, Path]]] = {}
    for file in folder.glob(pattern):
        begin = file.name.removesuffix(LDSC_SUFFIX)
        digits = begin[len(begin.rstrip("0123456789")) :]
        by_chromosome.setdefault(begin[: len(begin) - len(digits)], []).append((digits, file))
    if not by_chromosome:
        raise InputError(
            f"{path}: no LD scores: neither a table of axoloci-genetics ld-scores, nor files "
            f"{folder / pattern}"
        )
    if len(by_chromosome) > 1:
        names = ", ".join(f"{folder / name}" for name in sorted(by_chromosome)[:4])
        raise InputError(f"{path}: LD scores of several kinds; give what one begins with: {names}")
    (files,) = by_chromosome.values()
    found = []
    for _, file in sorted(files, key=lambda item: (len(item[0]), item[0])):
        counts = file.with_name(file.name.removesuffix(LDSC_SUFFIX) + ".l2.M_5_50")
        if not counts.is_file():
            raise InputError(
                f"{counts}: no such file; it holds the number of variants with a frequency above "
                f"0.05, and the program LDSC (--l2) writes it with {file.name}: get it from where "
                "these LD scores are from, or make LD scores by axoloci-genetics ld-scores, which "
                "needs no such file"
            )
        found.append((file, counts))
    return found


def _read_ldsc(path: Path) -> LdScores:
    tables, n_common = [], 0.0
    for file, counts in _published_files(path):
        tables.append(_read_ldsc_file(file))
        text = counts.read_text(encoding="utf-8", errors="replace").strip()
        try:
            n_common += float(text)
        except ValueError as error:
            raise InputError(
                f"{counts}: must hold the number of variants with a frequency above 0.05, and "
                f"holds '{text[:40]}'"
            ) from error
    return LdScores(pd.concat(tables, ignore_index=True), n_common)


def _read_ldsc_file(file: Path) -> pd.DataFrame:
    try:
        table = pd.read_csv(file, sep=r"\s+", dtype={"CHR": str, "SNP": str})
    except (OSError, EOFError, ValueError) as error:
        raise InputError(f"{file}: damaged: {error}") from error
    scores = [name for name in table.columns if name not in (*_LDSC_NAMES, "CM")]
    lacking = [name for name in ("CHR", "SNP", "BP") if name not in table.columns]
    if lacking or len(scores) != 1:
        raise InputError(
            f"{file}: has the columns {', '.join(table.columns[:8])}; needed are CHR, SNP, BP and "
            "one of LD scores: those of several annotations are of another model"
        )
    return table.rename(columns={**_LDSC_NAMES, scores[0]: "ld_score"}).drop(
        columns="CM", errors="ignore"
    )

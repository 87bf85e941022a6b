"""A user's table of genes: how it is read, and which gene is nearest to a variant."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from axoloci.errors import InputError
from axoloci.io.genotype_files import canonical_chromosome, chromosome_names

GENE_COLUMNS = ("chromosome", "start", "end", "gene")
CHROMOSOME_LENGTHS = {  # base pairs of 1 to 22, X and Y
    "GRCh37": (
        *(249_250_621, 243_199_373, 198_022_430, 191_154_276, 180_915_260, 171_115_067),
        *(159_138_663, 146_364_022, 141_213_431, 135_534_747, 135_006_516, 133_851_895),
        *(115_169_878, 107_349_540, 102_531_392, 90_354_753, 81_195_210, 78_077_248),
        *(59_128_983, 63_025_520, 48_129_895, 51_304_566, 155_270_560, 59_373_566),
    ),
    "GRCh38": (
        *(248_956_422, 242_193_529, 198_295_559, 190_214_555, 181_538_259, 170_805_979),
        *(159_345_973, 145_138_636, 138_394_717, 133_797_422, 135_086_622, 133_275_309),
        *(114_364_328, 107_043_718, 101_991_189, 90_338_345, 83_257_441, 80_373_285),
        *(58_617_616, 64_444_167, 46_709_983, 50_818_468, 156_040_895, 57_227_415),
    ),
}
_NAMES = (*map(str, range(1, 23)), "X", "Y")


def read_genes(path: Path) -> pd.DataFrame:
    """Read a table of genes.

    Text separated by tabs, with the columns chromosome (with or without "chr"), start, end (base
    pairs from 1 on, both included) and gene in its header; others are ignored. Or these four
    columns without a header, separated by blanks, as plink's lists of genes (glist-hg19) are.
    Either may be compressed, which the suffix tells (.gz, .bz2, .xz, .zst).

    Parameters
    ----------
    path
        The table.

    Returns
    -------
    pandas.DataFrame
        `GENE_COLUMNS`, one row a gene; chromosome and gene strings, start and end int64.

    Raises
    ------
    InputError
        The file is empty or no text, a column is not there, a position is no whole number, an end
        is before its start, or there is no gene.
    """
    of_plink = _is_list_of_plink(_first_cells(path))
    table = (
        pd.read_csv(path, sep=r"\s+", names=list(GENE_COLUMNS), dtype=str, keep_default_na=False)
        if of_plink
        else pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False)
    )
    lacking = [name for name in GENE_COLUMNS if name not in table]
    if lacking:
        raise InputError(
            f"{path}: no column {', '.join(lacking)}; a table of genes is separated by tabs and "
            f"has the header {' '.join(GENE_COLUMNS)}, or these columns alone and no header"
        )
    if table.empty:
        raise InputError(f"{path}: has no gene")
    places = table[["start", "end"]].apply(pd.to_numeric, errors="coerce").to_numpy(np.float64)
    wrong = ~((places >= 0) & (places == np.floor(places))).all(axis=1)
    if not wrong.any():
        wrong = places[:, 1] < places[:, 0]
    if wrong.any():
        row = int(np.argmax(wrong))
        gene, line = table.iloc[row], row + (1 if of_plink else 2)
        raise InputError(
            f"{path}: row {line}: start '{gene.start}' and end '{gene.end}' of {gene.gene} are "
            f"no range of positions ({int(wrong.sum())} such rows)"
        )
    return pd.DataFrame(
        {
            "chromosome": chromosome_names(table["chromosome"]).map(canonical_chromosome),
            "start": places[:, 0].astype(np.int64),
            "end": places[:, 1].astype(np.int64),
            "gene": table["gene"],
        }
    )


def _first_cells(path: Path) -> list[str]:
    """What blanks separate in the first line of a text, compressed or not."""
    try:
        line = pd.read_csv(
            path,
            sep=r"\s+",
            header=None,
            nrows=1,
            dtype=str,
            keep_default_na=False,
            quoting=csv.QUOTE_NONE,
        )
    except (EOFError, OSError, ValueError) as error:
        raise InputError(
            f"{path}: its first line cannot be read ({error}); give a table of genes, plain or "
            "compressed with the suffix of the compression"
        ) from error
    return [str(cell) for cell in line.iloc[0]]


def _is_list_of_plink(cells: list[str]) -> bool:
    """Whether the first line is a gene with its place, and no header."""
    return len(cells) == len(GENE_COLUMNS) and all(cell.isdecimal() for cell in cells[1:3])


def nearest_gene(
    position: int, start: NDArray[np.int64], end: NDArray[np.int64]
) -> tuple[NDArray[np.int64], int]:
    """Genes of one chromosome that are nearest to a position.

    Parameters
    ----------
    position
        Base pairs.
    start, end
        [int64, shape: (n_genes,)] First and last position of each gene, n_genes > 0.

    Returns
    -------
    (nearest, distance)
        The genes at the smallest distance, ascending: several where genes overlap; the distance to
        their nearer end in base pairs, 0 inside.
    """
    distance = np.maximum(np.maximum(start - position, position - end), 0)  # (n_genes,)
    return np.flatnonzero(distance == distance.min()), int(distance.min())


def possible_builds(last_position: Mapping[Any, int]) -> set[str]:
    """Builds of the human genome whose chromosomes reach as far as some positions do.

    Parameters
    ----------
    last_position
        Largest position on each chromosome, base pairs; others than 1 to 22, X and Y are ignored.

    Returns
    -------
    set of str
        Of GRCh37 and GRCh38; empty where it is neither.
    """
    return {
        build
        for build, lengths in CHROMOSOME_LENGTHS.items()
        if all(
            last_position.get(name, 0) <= length
            for name, length in zip(_NAMES, lengths, strict=True)
        )
    }

"""Tables and maps of the genetics step, checked as they are read."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from axoloci.errors import InputError
from axoloci.io.nifti import read_header, read_nifti
from axoloci.tasks.report.inputs import Inputs, Results, read_tsv

OF_HERITABILITY = ("n_probes", "n_blocks")  # settings that the methods section tells
OF_MAPS = ("exact", "linearised")  # columns that tell yes or no of each map
NOT_LINEAR = "the autoencoder's decoder is not linear"
HERITABILITY_COLUMNS = (
    *("trait", "h2", "h2_se", "lambda_gc", "h2_ldsc", "h2_ldsc_se", "intercept", "intercept_se"),
)
OF_PAIRS = ("rg_se", "neg_log10_p", "phenotypic_correlation")  # where they are known
REGION_COLUMNS = ("locus", "base_pair_location", "variant_id", "neg_log10_p", "r2")


def read_regions(path: Path, loci: Sequence[int]) -> dict[int, pd.DataFrame]:
    """Variants around some loci, by locus; without those that could not be tested.

    Raises
    ------
    InputError
        Not such a table, or r² outside 0 to 1.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table: pd.DataFrame = pq.read_table(
            path, columns=list(REGION_COLUMNS), filters=[("locus", "in", list(loci))]
        ).to_pandas()
    except (OSError, pa.ArrowException, KeyError, ValueError) as error:
        raise InputError(
            f"{path}: not a table of regions (columns {', '.join(REGION_COLUMNS)}): {error}"
        ) from error
    lacking = set(REGION_COLUMNS) - set(table.columns)
    if lacking:
        raise InputError(f"{path}: has no column {', '.join(sorted(lacking))}")
    wrong = (table["r2"] < 0) | (table["r2"] > 1 + 1e-6)
    if wrong.any():
        one = table[wrong].iloc[0]
        raise InputError(f"{path}: locus {one['locus']}: {one['variant_id']} has r² {one['r2']:g}")
    table = table[np.isfinite(table["neg_log10_p"])]
    return {locus: table[table["locus"] == locus] for locus in loci}


def read_heritability(own: Results) -> pd.DataFrame:
    """Heritability of each trait, that of LD score regression in columns of its own.

    Traits that have only the latter, as those of other studies, come last.

    Returns
    -------
    pandas.DataFrame
        trait, and as far as known h2, h2_se, lambda_gc, h2_ldsc, h2_ldsc_se, intercept,
        intercept_se; empty where there is no such table.

    Raises
    ------
    InputError
        A malformed table, or one that has a trait twice.
    """
    tables = []
    for file, renamed in (
        (own.heritability, {}),
        (
            None if own.ldsc is None else own.ldsc / "heritability.tsv",
            {"h2": "h2_ldsc", "h2_se": "h2_ldsc_se"},
        ),
    ):
        if file is None:
            continue
        table = read_tsv(file, "heritability")
        if table.empty:  # of too few variants, say
            continue
        if (twice := table["trait"][table["trait"].duplicated()]).size:
            raise InputError(f"{file}: the trait {twice.iloc[0]} occurs twice")
        known = [name for name in HERITABILITY_COLUMNS if name in table]
        tables.append(table[known].rename(columns=renamed).set_index("trait"))
    if not tables:
        return pd.DataFrame(columns=["trait"])
    both = tables[0]
    for other in tables[1:]:
        both = both.combine_first(other).reindex([*both.index, *other.index.difference(both.index)])
    return both.reset_index()


def traits_of_others(own: Results) -> set[str]:
    """Traits of other studies, as the settings of LD score regression tell."""
    if own.ldsc is None or not (beside := own.ldsc / "ldsc.json").is_file():
        return set()
    return {other["trait"] for other in read_settings(beside).get("with", [])}


@dataclass(frozen=True)
class Correlations:
    """Correlations of all pairs of traits as matrices.

    Attributes
    ----------
    traits
        In the order in which they occur.
    genetic, phenotypic
        [float64, shape: (n_traits, n_traits)] Symmetric, 1 on the diagonal, NaN where not known.
    significant
        [bool, shape: (n_traits, n_traits)] Genetic correlations with p < 0.05 over the number of
        pairs.
    table
        The pairs, the most significant first.
    """

    traits: list[str]
    genetic: NDArray[np.float64]
    phenotypic: NDArray[np.float64]
    significant: NDArray[np.bool_]
    table: pd.DataFrame


def read_correlations(own: Results) -> Correlations | None:
    """The pairs of traits; those that the association pass does not give by LD score regression.

    None where there is no such table, or no pair.

    Raises
    ------
    InputError
        Not such a table, a pair that is there twice, or a trait with itself.
    """
    found = []
    if own.genetic_correlation is not None:
        found.append(_read_pairs(own.genetic_correlation))
    if own.ldsc is not None:
        others = _read_pairs(own.ldsc / "genetic_correlation.tsv")
        there = {name for table in found for name in (*table["trait_1"], *table["trait_2"])}
        own_pair = others["trait_1"].isin(there) & others["trait_2"].isin(there)
        found.append(others[~own_pair])
    if not any(len(table) for table in found):
        return None
    table = pd.concat([table for table in found if len(table)], ignore_index=True)
    traits = list(dict.fromkeys(pd.concat([table["trait_1"], table["trait_2"]])))
    place = {name: k for k, name in enumerate(traits)}
    first, second = (
        table[name].map(place).to_numpy(np.int64) for name in ("trait_1", "trait_2")
    )  # (n_pairs,) each
    least = -np.log10(0.05 / len(table))

    def matrix(column: str, diagonal: float) -> NDArray[np.float64]:
        filled = np.full((len(traits), len(traits)), np.nan)
        filled[first, second] = filled[second, first] = table[column].to_numpy(np.float64)
        np.fill_diagonal(filled, diagonal)
        return filled

    ordered = table.sort_values("neg_log10_p", ascending=False, kind="stable")
    return Correlations(
        traits,
        matrix("rg", 1.0),
        matrix("phenotypic_correlation", 1.0),
        matrix("neg_log10_p", 0.0) >= least,
        ordered,
    )


def _read_pairs(path: Path) -> pd.DataFrame:
    """A table of pairs, all columns of it there, each pair once."""
    table = read_tsv(path, "genetic_correlation")
    for name in OF_PAIRS:
        if name not in table:
            table[name] = np.nan
    pairs = pd.DataFrame(np.sort(table[["trait_1", "trait_2"]].to_numpy(dtype=str), axis=1))
    for wrong, said in (
        (pairs[0] == pairs[1], "a trait is paired with itself"),
        (pairs.duplicated(), "the pair occurs twice"),
    ):
        if wrong.any():
            row = int(np.argmax(wrong))
            raise InputError(f"{path}: row {row + 2}: {' and '.join(pairs.iloc[row])}: {said}")
    return table[["trait_1", "trait_2", "rg", *OF_PAIRS]]


@dataclass(frozen=True)
class VariantMap:
    """A variant's effect on each voxel.

    Attributes
    ----------
    signed
        [float32, shape: (x, y, z)] −log10 p, below 0 where the effect allele lowers; 0 where
        nothing is known.
    affine
        [float64, shape: (4, 4)] Voxel to world, mm.
    peak
        Voxel of the peak.
    """

    signed: NDArray[np.float32]
    affine: NDArray[np.float64]
    peak: tuple[int, int, int]


def read_variant_map(folder: Path, row: pd.Series) -> VariantMap:
    """The maps of a row of `index.tsv`.

    Raises
    ------
    InputError
        A map that is not there or of another grid than the other, or a peak outside of it.
    """
    files = [folder / f"{row['prefix']}_{kind}.nii.gz" for kind in ("beta", "neg_log10_p")]
    absent = [str(file) for file in files if not file.is_file()]
    if absent:
        raise InputError(f"{folder / 'index.tsv'}: no such file {', '.join(absent)}")
    (beta, affine), (strength, other) = (read_map(file) for file in files)
    if beta.shape != strength.shape or not np.allclose(affine, other):
        raise InputError(f"{files[0]} and {files[1]} are of different grids")
    where = np.array([row[name] for name in ("peak_x", "peak_y", "peak_z")], dtype=np.float64)
    voxel = np.round(np.linalg.inv(affine) @ [*where, 1.0])[:3]
    if not (np.isfinite(voxel).all() and (voxel >= 0).all() and (voxel < beta.shape).all()):
        raise InputError(
            f"{folder / 'index.tsv'}: the peak of {row['variant_id']}, {where.tolist()} mm, lies "
            f"outside of {files[0].name}"
        )
    x, y, z = map(int, voxel)
    return VariantMap(np.sign(beta) * strength, affine, (x, y, z))


def read_map(path: Path) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """A map and its affine; voxels that are not finite, as outside of the mask, become 0.

    Raises
    ------
    InputError
        Not a NIfTI image of three dimensions.
    """
    volume, affine = read_nifti(path, ndim=3, within=np.zeros(read_header(path, 3).shape, bool))
    return np.nan_to_num(volume, nan=0.0, posinf=0.0, neginf=0.0), affine


def genetics_facts(given: Inputs) -> dict[str, dict[str, Any]]:
    """What the results of the genetics step say was done, for the methods section.

    Returns
    -------
    facts
        Of what is there, tables without a row not counted: `heritability` (`pairs`: with genetic
        correlations; settings of the estimator), `ldsc` (`pairs`), `signals`, and `voxels`
        (`effects`, `h2`, `linearised`; `n_maps`, `n_exact`: of those variants with exact standard
        errors; `because`: why those of others are approximate).

    Raises
    ------
    InputError
        Settings that are not JSON, or a malformed table.
    """
    facts: dict[str, dict[str, Any]] = {}
    for name, own in given.parts.items():
        if own.heritability is not None and _has_rows(own.heritability, "heritability"):
            beside = own.heritability.with_suffix(".json")
            about = read_settings(beside) if beside.is_file() else {}
            facts["heritability"] = {
                "pairs": own.genetic_correlation is not None
                and _has_rows(own.genetic_correlation, "genetic_correlation"),
                **{key: about[key] for key in OF_HERITABILITY if key in about},
            }
        if own.ldsc is not None:
            pairs = own.ldsc / "genetic_correlation.tsv"
            facts["ldsc"] = {"pairs": pairs.is_file() and _has_rows(pairs, "genetic_correlation")}
        if own.signals is not None:
            facts["signals"] = {}
        index = None if own.voxels is None else read_tsv(own.voxels / "index.tsv", "voxels")
        effects = index is not None and not index.empty
        if effects or own.voxel_h2 is not None:
            done = facts.setdefault(
                "voxels",
                {
                    **{"effects": False, "h2": False, "linearised": False},
                    **{"n_maps": 0, "n_exact": 0, "because": []},
                },
            )
            done["effects"] |= effects
            done["h2"] |= own.voxel_h2 is not None
            done["linearised"] |= name == "autoencoder"
            if own.voxels is not None and index is not None:
                _add_exactness(done, own.voxels, index)
    return facts


def _has_rows(path: Path, kind: str) -> bool:
    """Whether a table has any: one that is made wherever it can be may be empty."""
    return not read_tsv(path, kind).empty


def _add_exactness(done: dict[str, Any], folder: Path, index: pd.DataFrame) -> None:
    """How many of the maps in a folder have exact standard errors, and why others have not."""
    told = {name: index.get(name, pd.Series("", index.index)) == "yes" for name in OF_MAPS}
    done["linearised"] |= bool(told["linearised"].any())
    done["n_maps"] += len(index)
    done["n_exact"] += int((told["exact"] & ~told["linearised"]).sum())
    because = dict.fromkeys(done["because"])
    for prefix in index["prefix"][~told["exact"]]:
        if (beside := folder / f"{prefix}.json").is_file():
            because |= dict.fromkeys(read_settings(beside).get("approximate_because", []))
    if told["linearised"].any():
        because |= dict.fromkeys([NOT_LINEAR])
    done["because"] = list(because)


def read_settings(path: Path) -> dict[str, Any]:
    """A JSON object.

    Raises
    ------
    InputError
        The file holds something else.
    """
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path}: cannot be read as JSON: {error}") from error
    if not isinstance(about, dict):
        raise InputError(f"{path}: expected a JSON object")
    return about

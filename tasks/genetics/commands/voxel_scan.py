"""`axoloci-genetics voxel-scan`."""

from __future__ import annotations

import logging
from pathlib import Path

import click
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from axoloci import __version__
from axoloci.command import progress
from axoloci.errors import InputError
from axoloci.io.files import sha256, whole_file, write_json
from axoloci.io.nifti import write_nifti
from axoloci.tasks.genetics.commands.selection import SUMSTATS, traits_option
from axoloci.tasks.genetics.commands.voxel_model import (
    MODEL,
    NOISE_OF,
    known_noise,
    open_voxel_store,
    residual_squares,
)
from axoloci.tasks.genetics.loci import INDEX_P
from axoloci.tasks.genetics.voxels import VoxelHits, VoxelScan

log = logging.getLogger("axoloci")

MAX_PAIRS = 50_000_000
VARIANTS_AT_ONCE = 256
PAIR_SCHEMA = pa.schema(
    [
        ("chromosome", pa.string()),
        ("base_pair_location", pa.int64()),
        ("variant_id", pa.string()),
        ("effect_allele", pa.string()),
        ("other_allele", pa.string()),
        ("effect_allele_frequency", pa.float32()),
        ("n", pa.int32()),
        ("voxel_i", pa.int32()),
        ("voxel_j", pa.int32()),
        ("voxel_k", pa.int32()),
        ("beta", pa.float64()),
        ("se", pa.float64()),
        ("neg_log10_p", pa.float64()),
    ]
)
_WORDS = ["chromosome", "variant_id", "effect_allele", "other_allele"]


@click.command("voxel-scan")
@SUMSTATS
@MODEL
@traits_option("that are the latents of the model, in their order; without it those of its names.")
@NOISE_OF
@click.option(
    "--p-threshold",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=INDEX_P,
    help="Largest p of a pair of variant and voxel. For all voxels together divide 5e-8 by as many "
    "as are independent, at most the number of latents.",
)
@click.option(
    "--max-pairs",
    type=click.IntRange(min=1),
    default=MAX_PAIRS,
    help="Stop with an error at more pairs; each takes about 30 bytes.",
)
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), required=True, help="Folder."
)
def voxel_scan(
    sumstats: Path,
    model_path: Path,
    traits: str | None,
    noise_of: str,
    p_threshold: float,
    max_pairs: int,
    out: Path,
) -> None:
    """Test all variants with all voxels, and keep the pairs beyond a threshold.

    OUT/pairs.parquet: a row a pair, with the voxel's place in the grid from 0. n_variants.nii.gz
    and max_neg_log10_p.nii.gz: how many variants a voxel has, and its strongest. Variants whose
    joint R² with all latents is too small for any voxel are done by that alone, most of them where
    latents are few; the others take a product with all voxels. Nothing is approximate but what
    `axoloci-genetics voxels` says of single variants.
    """
    opened = open_voxel_store(sumstats, model_path, traits)
    store, basis = opened.store, opened.basis
    if store.of_mixed_model:
        raise InputError(
            f"{sumstats}: of a mixed model, whose latents have no common residuals to scan by; map "
            "the lead variants by axoloci-genetics voxels, or scan an association without --loco"
        )
    noise_of = known_noise(basis, noise_of)
    variances = residual_squares(opened, noise_of)  # (n_voxels,)
    scan = VoxelScan(opened.sums, basis.basis, variances, p_threshold)
    grid = np.argwhere(basis.mask).astype(np.int32)  # (n_voxels, 3)
    count = np.zeros(basis.n_voxels, dtype=np.int32)
    strongest = np.zeros(basis.n_voxels, dtype=np.float32)
    n_tested = n_multiplied = n_pairs = 0
    with (
        whole_file(out / "pairs.parquet") as temporary,
        pq.ParquetWriter(
            temporary,
            PAIR_SCHEMA,
            compression="zstd",
            compression_level=1,
            use_dictionary=[*_WORDS, "base_pair_location", "effect_allele_frequency", "n"],
            use_byte_stream_split=["beta", "se", "neg_log10_p"],
        ) as writer,
    ):
        for block in progress(store.blocks(), "voxel scan", len(store.info["parts"])):
            beta, se = block.beta[:, opened.columns], block.se[:, opened.columns]  # (m, r)
            df = block.df[:, opened.columns[0]]  # (m,): nobody lacks a latent
            passing = scan.passing(beta, se, df)
            n_tested += int(np.isfinite(beta).all(axis=1).sum())
            n_multiplied += len(passing)
            for start in range(0, len(passing), VARIANTS_AT_ONCE):
                rows = passing[start : start + VARIANTS_AT_ONCE]
                for hits in scan.hits(beta[rows], se[rows], df[rows]):
                    n_pairs += len(hits.variant)
                    if n_pairs > max_pairs:
                        raise InputError(_too_many(max_pairs, p_threshold, n_tested, store.path))
                    count += np.bincount(hits.voxel, minlength=len(count)).astype(np.int32)
                    np.maximum.at(strongest, hits.voxel, hits.neg_log10_p.astype(np.float32))
                    writer.write_table(_pairs(block.variants.iloc[rows], hits, grid))
    write_nifti(out / "n_variants.nii.gz", basis.volume(count), basis.affine)
    write_nifti(out / "max_neg_log10_p.nii.gz", basis.volume(strongest), basis.affine)
    write_json(
        out / "voxel_scan.json",
        {
            "axoloci": __version__,
            "noise_of": noise_of,
            "p_threshold": p_threshold,
            "n_voxels": basis.n_voxels,
            "n_tested": n_tested,
            "n_multiplied": n_multiplied,  # whose joint R² left a voxel possible
            "n_pairs": n_pairs,
            "unit": f"{basis.unit} per effect allele",
            "linearised": basis.linearised,
            "model": model_path.name,
            "model_sha256": sha256(model_path),
            "sumstats": sumstats.name,
        },
    )
    log.info(
        "%d pairs beyond p %.3g; %d of %d variants had to be multiplied with voxels",
        *(n_pairs, p_threshold, n_multiplied, n_tested),
    )


def _pairs(variants: pd.DataFrame, hits: VoxelHits, grid: NDArray[np.int32]) -> pa.Table:
    """Pairs as rows of the table."""
    frame = variants.iloc[hits.variant].reset_index(drop=True)
    i, j, k = grid[hits.voxel].T
    frame = frame.assign(
        voxel_i=i, voxel_j=j, voxel_k=k, beta=hits.beta, se=hits.se, neg_log10_p=hits.neg_log10_p
    )
    return pa.Table.from_pandas(frame, PAIR_SCHEMA, preserve_index=False)


def _too_many(max_pairs: int, p_threshold: float, n_tested: int, path: Path) -> str:
    return (
        f"{path}: more than {max_pairs:,} pairs have p up to {p_threshold:g}, within the first "
        f"{n_tested:,} variants; choose a smaller --p-threshold or a larger --max-pairs"
    )

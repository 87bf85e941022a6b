"""`axoloci-genetics voxels`."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from axoloci import __version__
from axoloci.command import progress
from axoloci.errors import InputError
from axoloci.io.atlas import labels_at, read_atlas, read_label_names
from axoloci.io.bases import Basis
from axoloci.io.files import sha256, write_json
from axoloci.io.nifti import write_nifti
from axoloci.io.tables import write_tsv
from axoloci.io.variants import VARIANT_COLUMNS
from axoloci.tasks.genetics import voxels as kernel
from axoloci.tasks.genetics.commands.selection import SUMSTATS, traits_option
from axoloci.tasks.genetics.commands.variants import (
    VariantStatistics,
    read_leads,
    read_variants,
    wanted_variant,
)
from axoloci.tasks.genetics.commands.voxel_model import (
    MODEL,
    NOISE_OF,
    NOISE_OF_VOXEL,
    VoxelStore,
    image_names,
    known_noise,
    open_voxel_store,
    residual_squares,
)

log = logging.getLogger("axoloci")

MAPS = ("beta", "se", "neg_log10_p")
MAPS_OF = {
    "projection": "maps that {} latents make",
    "voxel": "maps that {} latents make, against the noise of the voxels themselves",
    "both": "voxels, of which {} latents leave nothing out",
}
MIXED_MODEL = "a mixed model weighs people by the heritability of each latent, not of each voxel"
FEWER_PEOPLE = "some people lack the genotype: se has the residuals of everybody, in proportion"
MORE_COVARIATES = "the chromosome was tested with more covariates than the residuals are of"


@click.command()
@SUMSTATS
@MODEL
@click.option(
    "--variant",
    "names",
    multiple=True,
    help="Variant by its id, or, if none has this id, by its place, such as 7:117559590 or "
    "7:117559590:A:C, effect allele first; several times for several.",
)
@click.option(
    "--loci",
    "loci_path",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Table of axoloci-genetics loci: the lead variant of each.",
)
@traits_option("that are the latents of the model, in their order; without it those of its names.")
@NOISE_OF
@click.option(
    "--atlas",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Image of labels in the maps' space, mm: the effects on the means of its regions, in the "
    "maps that the latents make, are tested too, always against the noise of these.",
)
@click.option(
    "--names",
    "label_names",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Names of the labels of --atlas.",
)
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), required=True, help="Folder."
)
def voxels(
    sumstats: Path,
    model_path: Path,
    names: tuple[str, ...],
    loci_path: Path | None,
    traits: str | None,
    noise_of: str,
    atlas: Path | None,
    label_names: Path | None,
    out: Path,
) -> None:
    """Map the effect of variants on every voxel, out of the associations of the latents.

    For each variant OUT/<variant>_beta.nii.gz, _se and _neg_log10_p, on the grid of the model, in
    units of the maps per effect allele, and .json, which says of whom they are and whether anything
    is approximate. index.tsv: where each is strongest, mm. regions.tsv, with --atlas: the same of
    the means of regions, against the noise of the maps that the latents make. Of a model with as
    many components as voxels these are the regressions of the voxels; else effects are those on the
    maps that the model makes, and standard errors and p as --noise-of says.
    """
    if bool(names) == (loci_path is not None):
        raise click.UsageError("name variants by --variant, or give --loci")
    if label_names is not None and atlas is None:
        raise click.UsageError("--names are those of an --atlas, which is not given")
    opened = open_voxel_store(sumstats, model_path, traits)
    basis = opened.basis
    noise_of = known_noise(basis, noise_of)
    regions = None if atlas is None else _regions(atlas, label_names, basis)
    loci: Sequence[int | None]
    if loci_path is None:
        wanted = [wanted_variant(name) for name in dict.fromkeys(names)]
        loci = [None] * len(wanted)
    else:
        loci, wanted = read_leads(loci_path)
    found = read_variants(opened.store, wanted, opened.columns)
    variances = residual_squares(opened, noise_of)  # (n_voxels,)
    inflation = _inflation(opened, variances) if noise_of == "voxel" else None
    model = {"model": model_path.name, "model_sha256": sha256(model_path)}
    prefixes = image_names(found.variants, ["" if locus is None else f"{locus}_" for locus in loci])
    index, of_regions = [], []
    world = basis.world()  # (n_voxels, 3) mm
    again = found.variants.duplicated(VARIANT_COLUMNS).to_numpy()  # by its id and by its place
    for k, locus in enumerate(progress(loci, "voxel maps", len(loci))):
        if locus is None and again[k]:
            continue
        variant = found.variants.iloc[k]
        df = found.df[k : k + 1]
        maps = _maps(opened, found, k, basis.basis, variances, inflation)  # (n_voxels,) each
        prefix = prefixes[k]
        for name, row in zip(MAPS, maps, strict=True):
            image = basis.volume(row.astype(np.float32))
            write_nifti(out / f"{prefix}_{name}.nii.gz", image, basis.affine)
        about = _about(opened, variant, float(df[0]), noise_of)
        write_json(out / f"{prefix}.json", {**about, **model, "sumstats": sumstats.name})
        peak = int(np.argmax(maps[2]))
        index.append(
            {
                "locus": locus,
                **{name: variant[name] for name in VARIANT_COLUMNS},
                "n": variant["n"],
                "prefix": prefix,
                **dict(zip(("peak_x", "peak_y", "peak_z"), world[peak], strict=True)),
                "peak_beta": maps[0][peak],
                "peak_se": maps[1][peak],
                "peak_neg_log10_p": maps[2][peak],
                "noise_of": noise_of,
                "exact": "yes" if about["exact"] else "no",
                "linearised": "yes" if basis.linearised else "no",
            }
        )
        if regions is not None:
            table, columns = regions
            values = _maps(opened, found, k, columns, None, None)
            of_regions.append(
                table.assign(
                    **{"locus": locus, "variant_id": variant["variant_id"]},
                    noise_of="both" if noise_of == "both" else "projection",
                    **dict(zip(MAPS, values, strict=True)),
                )
            )
    write_tsv(out / "index.tsv", pd.DataFrame(index, columns=INDEX_COLUMNS))
    if regions is not None:
        rows = pd.concat(of_regions) if of_regions else pd.DataFrame(columns=REGION_COLUMNS)
        write_tsv(out / "regions.tsv", rows[REGION_COLUMNS])
        if noise_of == "voxel":
            log.warning(
                "%s: against the noise of the maps that the latents make, in which most noise of "
                "a region may be missing; those of voxels are against their own",
                out / "regions.tsv",
            )
    log.info("%s: maps of %d variants, %d voxels", out, len(index), basis.n_voxels)
    earlier = sorted(path.name for path in out.glob("*_beta.nii.gz"))
    earlier = [name for name in earlier if name.removesuffix("_beta.nii.gz") not in prefixes]
    if earlier:
        log.warning(
            "%s: maps of %d other variants, such as %s, are of an earlier run, not in index.tsv; "
            "delete them, or give this run a folder of its own",
            *(out, len(earlier), earlier[0]),
        )


INDEX_COLUMNS = [
    "locus",
    *VARIANT_COLUMNS,
    "n",
    "prefix",
    "peak_x",
    "peak_y",
    "peak_z",
    "peak_beta",
    "peak_se",
    "peak_neg_log10_p",
    "noise_of",
    "exact",
    "linearised",
]
REGION_COLUMNS = ["locus", "variant_id", "label", "region", "n_voxels", *MAPS, "noise_of"]


def _maps(
    opened: VoxelStore,
    found: VariantStatistics,
    k: int,
    basis: NDArray[np.floating],
    variances: NDArray[np.float64] | None,
    inflation: NDArray[np.float64] | None,
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """β, se and −log10 p of one variant on the columns of a basis, (n_columns,) each."""
    beta, se, df = (each[k : k + 1] for each in (found.beta, found.se, found.df))
    if np.isnan(beta).any():
        raise InputError(
            f"{opened.store.path}: {found.variants['variant_id'].iloc[k]} was not tested; name "
            "another variant"
        )
    if opened.store.of_mixed_model:
        chromosome = str(found.variants["chromosome"].iloc[k])
        correlation = opened.store.correlation_of(chromosome)
        own = correlation[np.ix_(opened.columns, opened.columns)]
        effect, error = kernel.mixed_voxel_effects(beta, se, own, basis, inflation)
    else:
        effect, error = kernel.voxel_effects(beta, se, df, opened.sums, basis, variances)
    return effect[0], error[0], kernel.voxel_neg_log10_p(effect, error, df)[0]


def _inflation(opened: VoxelStore, variances: NDArray[np.float64]) -> NDArray[np.float64]:
    """Variance of each voxel over that of its map, 1 where the map does not vary; (n_voxels,)."""
    of_map = kernel.voxel_variances(opened.sums, opened.basis.basis)
    return np.divide(variances, of_map, out=np.ones_like(of_map), where=of_map > 0)


def _about(opened: VoxelStore, variant: pd.Series, df: float, noise_of: str) -> dict[str, Any]:
    """What the maps of a variant are, and how far they are approximate."""
    store, basis = opened.store, opened.basis
    n = int(variant["n"])
    same_covariates = df == n - store.n_covariates - 1
    reasons = [
        reason
        for reason, holds in (
            (MIXED_MODEL, store.of_mixed_model),
            (FEWER_PEOPLE, n < store.n_samples and not store.of_mixed_model),
            (MORE_COVARIATES, not same_covariates and not store.of_mixed_model),
            (NOISE_OF_VOXEL, noise_of == "voxel"),
        )
        if holds
    ]
    error = float(kernel.se_error(np.array([n]), store.n_samples)[0])
    return {
        "axoloci": __version__,
        **{name: str(variant[name]) for name in VARIANT_COLUMNS if name != "base_pair_location"},
        "base_pair_location": int(variant["base_pair_location"]),
        "effect_allele_frequency": float(variant["effect_allele_frequency"]),
        "n": n,
        "n_samples": store.n_samples,
        "df": df,
        "unit": f"{basis.unit} per effect allele",
        "n_latents": len(basis.latents),
        "of": MAPS_OF[noise_of].format(len(basis.latents)),
        "noise_of": noise_of,
        "exact": not reasons,
        "approximate_because": reasons,
        "relative_error_of_se_by_missing": error,
        "linearised": basis.linearised,
    }


def _regions(
    atlas: Path, label_names: Path | None, basis: Basis
) -> tuple[pd.DataFrame, NDArray[np.float64]]:
    """Regions that have voxels of the maps, and their columns of the basis (r, n_regions)."""
    labels = labels_at(*read_atlas(atlas), basis.world())  # (n_voxels,)
    numbers, n_voxels = np.unique(labels[labels > 0], return_counts=True)
    if not len(numbers):
        raise InputError(
            f"{atlas}: no label has a voxel of the maps; bring it to the space of the maps"
        )
    known = {} if label_names is None else read_label_names(label_names)
    table = pd.DataFrame(
        {
            "label": numbers,
            "region": [known.get(int(number), f"label_{number}") for number in numbers],
            "n_voxels": n_voxels,
        }
    )
    return table, kernel.region_basis(basis.basis, labels, numbers)

"""`axoloci-genetics clusters`."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import click
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from axoloci import __version__
from axoloci.command import progress
from axoloci.errors import InputError, nearest
from axoloci.io.files import write_json, write_text
from axoloci.io.nifti import write_nifti
from axoloci.io.residuals import Residuals, read_residuals
from axoloci.io.sumstats import Sumstats
from axoloci.io.variants import VARIANT_COLUMNS
from axoloci.tasks.genetics import clusters as kernel
from axoloci.tasks.genetics.commands.selection import SUMSTATS, traits_option
from axoloci.tasks.genetics.commands.variants import (
    VariantStatistics,
    placed_variant,
    read_variants,
)
from axoloci.tasks.genetics.commands.voxel_model import (
    MODEL,
    NOISE_OF,
    VoxelStore,
    image_names,
    known_noise,
    open_voxel_store,
    residual_squares,
)
from axoloci.tasks.genetics.voxels import voxel_effects, voxel_neg_log10_p

log = logging.getLogger("axoloci")

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
MOST_OFF = 0.1  # standard errors, in root mean square: effects that are of the same data
SAME_SPREAD = 1e-3  # relative: residuals of other covariates or transforms differ by more
CLUSTER_COLUMNS = [
    *VARIANT_COLUMNS,
    *("cluster", "sign", "n_voxels", "volume_mm3"),
    *("peak_i", "peak_j", "peak_k", "peak_x", "peak_y", "peak_z"),
    *("peak_beta", "peak_neg_log10_p", "p_fwe"),
]


@click.command()
@SUMSTATS
@MODEL
@click.option(
    "--residuals",
    "residuals_path",
    required=True,
    type=FILE,
    help="Table of axoloci-gwas residuals, made by the options of the association.",
)
@click.option(
    "--dosages",
    "dosages_path",
    required=True,
    type=FILE,
    help="Its table of the variants (--variant, --loci).",
)
@click.option(
    "--variant",
    multiple=True,
    help="Id of a variant to look at; several times for several. Without it all of --dosages.",
)
@traits_option("that are the latents of the model, in their order; without it those of its names.")
@NOISE_OF
@click.option(
    "--n-bootstraps",
    type=click.IntRange(min=1),
    default=kernel.N_BOOTSTRAPS,
    help="Resamples of each variant. The smallest p is 1 / (1 + n); time and the precision of p "
    "grow with their number.",
)
@click.option(
    "--cluster-p",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=kernel.CLUSTER_P,
    help="Two-sided p of a voxel that makes it one of a cluster. Larger: wide and weak effects are "
    "found rather than narrow and strong ones, and the place is less certain.",
)
@click.option(
    "--connectivity",
    type=click.Choice(["6", "18", "26"]),
    default=str(kernel.CONNECTIVITY),
    help="Voxels that are beside one: those that share a face, an edge or a corner with it.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, help="Of the signs that are drawn.")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default="clusters",
    help="Folder.",
)
def clusters(
    sumstats: Path,
    model_path: Path,
    residuals_path: Path,
    dosages_path: Path,
    variant: tuple[str, ...],
    traits: str | None,
    noise_of: str,
    n_bootstraps: int,
    cluster_p: float,
    connectivity: str,
    seed: int,
    out: Path,
) -> None:
    """Clusters of voxels that a variant changes, with p for the whole image by a wild bootstrap.

    A cluster is of connected voxels with a p below --cluster-p and one direction of effect. Its
    p_fwe is the share of resamples in which chance makes a cluster as large, of either direction,
    anywhere in the image: below 0.05 it is found with a family-wise error of 5% for the variant.
    Of several variants each is a family of its own: to be wrong about none of them, divide 0.05 by
    their number. The size of a cluster is judged, and not how strong the effect is in it, for which
    peak_neg_log10_p stands beside it.

    The p of a voxel is against the noise that --noise-of names, in the data and in the resamples
    alike: of voxel, clusters are of voxels that the latents explain well; of projection, p_fwe is
    right for whether the variant changes the maps that the latents make, not for where it does.

    For people who are not related; where people lack the genotype the resamples take its mean.

    OUT/clusters.tsv has one row a cluster, clusters.json the settings. <variant>_clusters.nii.gz
    holds the number of each voxel's cluster, 0 in none, on the grid of the model.
    """
    opened = open_voxel_store(sumstats, model_path, traits)
    store, basis = opened.store, opened.basis
    if store.of_mixed_model:
        raise InputError(
            f"{sumstats}: of a mixed model, and relatives share what the bootstrap takes for "
            "chance; associate unrelated people without --loco for this"
        )
    residuals = read_residuals(residuals_path, "traits")
    dosages = read_residuals(dosages_path, "dosages")
    _check_people(residuals, residuals_path, store)
    _check_people(dosages, dosages_path, store)
    left = _left_of_traits(residuals, residuals_path, opened)  # (n_samples, r)
    chosen = _chosen(dosages, dosages_path, variant)
    variants = [dosages.about["variants"][k] for k in chosen]
    found = read_variants(store, [placed_variant(of) for of in variants], opened.columns)
    names = image_names(pd.DataFrame(variants, columns=VARIANT_COLUMNS), [""] * len(chosen))
    g = dosages.left[:, chosen]  # (n_samples, m)
    _check_dosages(g, found, left, dosages_path)

    # one scale for what is observed and what is resampled: whichever it is, the level is kept
    noise_of = known_noise(basis, noise_of)
    variances = residual_squares(opened, noise_of)  # (n_voxels,)
    standardised = kernel.correlation_basis(
        basis.basis, variances, store.n_samples, store.n_covariates
    )
    neighbour = kernel.neighbours(basis.mask, int(connectivity))
    tables = [pd.DataFrame(columns=CLUSTER_COLUMNS)]
    for row in progress(range(len(chosen)), "cluster inference", len(chosen)):
        limit = kernel.critical_correlation(cluster_p, found.df[row])
        observed, labels = _observed(opened, found, row, variances, limit, neighbour)
        if len(observed):
            scores = kernel.resampled_scores(g[:, row], left, n_bootstraps, seed)
            chance = kernel.largest_clusters(scores, standardised, limit, neighbour)
            observed["p_fwe"] = kernel.family_wise_p(observed["n_voxels"].to_numpy(), chance)
            tables.append(observed)
        image = out / f"{names[row]}_clusters.nii.gz"
        write_nifti(image, basis.volume(labels), basis.affine)
    table = pd.concat(tables[1:] or tables, ignore_index=True)
    text = table.to_csv(sep="\t", index=False, float_format="%.7g", lineterminator="\n")
    write_text(out / "clusters.tsv", text)
    significant = table["p_fwe"] < 0.05
    write_json(
        out / "clusters.json",
        {
            "axoloci": __version__,
            "n_bootstraps": n_bootstraps,
            "noise_of": noise_of,
            "cluster_p": cluster_p,
            "connectivity": int(connectivity),
            "seed": seed,
            "n_samples": store.n_samples,
            "n_voxels": basis.n_voxels,
            "n_components": len(basis.latents),
            "unit": basis.unit,
            "linearised": basis.linearised,
            "variants": [dosages.names[k] for k in chosen],
            "images": [f"{name}_clusters.nii.gz" for name in names],
            "n_clusters": len(table),
            "n_clusters_p_fwe_below_0.05": int(significant.sum()),
            "sumstats": sumstats.name,
            "model": model_path.name,
        },
    )
    log.info(
        "%d clusters of %d variants, %d with a family-wise p below 0.05",
        *(len(table), len(chosen), significant.sum()),
    )


def _check_people(table: Residuals, path: Path, store: Sumstats) -> None:
    """Refuse residuals of other people than those of the store."""
    if table.sample_id == store.sample_id:
        return
    ours, theirs = set(table.sample_id), set(store.sample_id)
    differing = sorted(ours ^ theirs)
    such = f", such as '{differing[0]}'" if differing else ""
    raise InputError(
        f"{path}: {len(ours)} people, and the association is of {len(theirs)}: {len(differing)} "
        f"are in one of them only{such}; run axoloci-gwas residuals with the options of associate "
        f"that made {store.path}"
    )


def _left_of_traits(residuals: Residuals, path: Path, opened: VoxelStore) -> NDArray[np.float64]:
    """Residuals of the model's latents (n_samples, r), in its order.

    Raises
    ------
    InputError
        A latent is not there, or its spread is another than in the store.
    """
    store = opened.store
    names = [store.traits[k] for k in opened.columns]
    absent = [name for name in names if name not in residuals.names]
    if absent:
        raise InputError(
            f"{path}: lacks {len(absent)} of the {len(names)} latents, such as {absent[0]}; "
            f"{nearest(absent[0], residuals.names)}"
        )
    left = residuals.left[:, [residuals.names.index(name) for name in names]]
    known = store.trait_residual_sd[opened.columns]  # (r,)
    off = np.abs(np.sqrt(np.square(left).mean(axis=0)) / known - 1)
    if not off.max() <= SAME_SPREAD:  # or someone lacks a latent
        worst = int(np.argmax(off))
        raise InputError(
            f"{path}: the residual standard deviation of {names[worst]} differs by "
            f"{off[worst]:.2g} of itself from that of {store.path}; run axoloci-gwas residuals "
            "with the same traits, transforms and covariates as associate"
        )
    return left


def _chosen(dosages: Residuals, path: Path, wanted: Sequence[str]) -> list[int]:
    """Columns of the variants that are named, or of all."""
    unknown = [name for name in wanted if name not in dosages.names]
    if unknown:
        raise InputError(
            f"{path}: no variant {', '.join(unknown)}; {nearest(unknown[0], dosages.names)}; it is "
            "written by axoloci-gwas residuals --variant"
        )
    return [k for k, name in enumerate(dosages.names) if not wanted or name in wanted]


def _check_dosages(
    g: NDArray[np.float64], found: VariantStatistics, left: NDArray[np.float64], path: Path
) -> None:
    """Refuse dosages (n_samples, m) whose effects on residuals (n_samples, r) are not the store's.

    Those of the other allele are, among others.
    """
    beta = g.T @ left / np.square(g).sum(axis=0)[:, None]  # (m, r)
    off = np.sqrt(np.square((beta - found.beta) / found.se).mean(axis=1))  # (m,)
    lacking = 1 - found.variants["n"].to_numpy() / len(g)  # shares of people with the mean
    wrong = ~(off < MOST_OFF + 2 * np.sqrt(lacking))
    if wrong.any():
        name = found.variants["variant_id"].iloc[int(np.argmax(wrong))]
        raise InputError(
            f"{path}: {name} has other effects on the residuals than in the association, or was "
            "not tested there; run axoloci-gwas residuals with the same genotypes, covariates and "
            "transforms as associate"
        )


def _observed(
    opened: VoxelStore,
    found: VariantStatistics,
    row: int,
    variances: NDArray[np.float64],
    limit: float,
    neighbour: NDArray[np.int32],
) -> tuple[pd.DataFrame, NDArray[np.int32]]:
    """Clusters of a variant, the largest first, and the number of each voxel's, 0 in none."""
    basis, df = opened.basis, found.df[row]
    beta, se = found.beta[[row]], found.se[[row]]  # (1, r)
    [effect], [error] = voxel_effects(
        beta, se, found.df[[row]], opened.sums, basis.basis, variances
    )  # (n_voxels,)
    length = np.hypot(effect, error * np.sqrt(df))
    correlation = np.divide(effect, length, out=np.zeros_like(effect), where=length > 0)
    beyond = kernel.find_clusters(correlation[None], limit, neighbour)
    size = np.bincount(beyond.label, minlength=beyond.n_clusters)
    order = np.argsort(-size, kind="stable")
    labels = np.zeros(basis.n_voxels, dtype=np.int32)
    labels[beyond.voxel] = 1 + np.argsort(order)[beyond.label]
    voxel_mm3 = abs(np.linalg.det(basis.affine[:3, :3]))
    index, world = np.argwhere(basis.mask), basis.world()  # (n_voxels, 3) both
    rows = []
    for number in range(1, beyond.n_clusters + 1):
        voxels = np.flatnonzero(labels == number)
        peak = voxels[np.argmax(np.abs(correlation[voxels]))]
        at = slice(peak, peak + 1)
        [[neg_log10_p]] = voxel_neg_log10_p(effect[None, at], error[None, at], found.df[[row]])
        rows.append(
            {
                **{name: found.variants[name].iloc[row] for name in VARIANT_COLUMNS},
                "cluster": number,
                "sign": "positive" if effect[peak] > 0 else "negative",
                "n_voxels": len(voxels),
                "volume_mm3": len(voxels) * voxel_mm3,
                **dict(zip(("peak_i", "peak_j", "peak_k"), index[peak], strict=True)),
                **dict(zip(("peak_x", "peak_y", "peak_z"), world[peak], strict=True)),
                "peak_beta": effect[peak],
                "peak_neg_log10_p": neg_log10_p,
            }
        )
    return pd.DataFrame(rows, columns=CLUSTER_COLUMNS), labels

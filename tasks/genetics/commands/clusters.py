"""`axoloci-genetics clusters`."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from axoloci import __version__
from axoloci.command import progress
from axoloci.errors import InputError, nearest
from axoloci.io.bases import Basis, read_basis
from axoloci.io.files import write_json, write_text
from axoloci.io.genotype_files import VARIANT_COLUMNS
from axoloci.io.nifti import write_nifti
from axoloci.io.residuals import Residuals, read_residuals
from axoloci.io.sumstats import Sumstats, neg_log10_p, read_sumstats
from axoloci.tasks.genetics import clusters as kernel
from axoloci.tasks.genetics.commands.selection import SUMSTATS, columns_of
from axoloci.tasks.genetics.voxels import voxel_effects

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


@dataclass(frozen=True, eq=False)
class _Association:
    """A variant as the store has it.

    Attributes
    ----------
    column
        Its place in the table of dosages.
    variant
        Its row: place, alleles, n.
    beta, se : float64, (r,)
        Of the latents.
    df
        Residual degrees of freedom.
    """

    column: int
    variant: pd.Series
    beta: NDArray[np.float64]
    se: NDArray[np.float64]
    df: float


@click.command()
@SUMSTATS
@click.option(
    "--model",
    "model_path",
    required=True,
    type=FILE,
    help="Linear representation whose components were associated, or a linearised one "
    "(.safetensors).",
)
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
    type=click.Path(path_type=Path),
    default="clusters.tsv",
    help="Table, one row a cluster; the settings go beside it as .json, and an image of each "
    "variant, of the numbers of its clusters and 0 elsewhere, as clusters_VARIANT.nii.gz.",
)
def clusters(
    sumstats: Path,
    model_path: Path,
    residuals_path: Path,
    dosages_path: Path,
    variant: tuple[str, ...],
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
    Many variants are as many families: with lead variants of a genome-wide test that is what is
    asked, and of a list of your own divide 0.05 by its length. Its size is judged, and not how
    strong the effect is in it, for which peak_neg_log10_p stands beside it.

    For people who are not related; where people lack the genotype the resamples take its mean.
    """
    store = read_sumstats(sumstats)
    if store.of_mixed_model:
        raise InputError(
            f"{sumstats}: of a mixed model, and relatives share what the bootstrap takes for "
            "chance; associate unrelated people without --loco for this"
        )
    basis = read_basis(model_path)
    residuals = read_residuals(residuals_path, "traits")
    dosages = read_residuals(dosages_path, "dosages")
    _check_people(residuals, residuals_path, store)
    _check_people(dosages, dosages_path, store)
    left = _traits_of(residuals, residuals_path, store, basis, model_path)  # (n_samples, r)
    chosen = _chosen(dosages, dosages_path, variant)
    found = _associations(store, basis, dosages, chosen)
    _check_dosages(dosages, dosages_path, found, left)

    sums = left.T @ left  # (r, r)
    standardised = kernel.correlation_basis(left, basis.basis, store.n_covariates)
    neighbour = kernel.neighbours(basis.mask, int(connectivity))
    tables = [pd.DataFrame(columns=CLUSTER_COLUMNS)]
    for one in progress(found, "cluster inference", len(found)):
        limit = kernel.critical_correlation(cluster_p, one.df)
        observed, labels = _observed(one, sums, limit, neighbour, basis)
        file_name = re.sub(r"[^\w.-]", "_", dosages.names[one.column])
        image = out.with_name(f"{out.stem}_{file_name}.nii.gz")
        write_nifti(image, basis.volume(labels), basis.affine)
        if observed.empty:
            continue
        scores = kernel.resampled_scores(dosages.left[:, one.column], left, n_bootstraps, seed)
        chance = kernel.largest_clusters(scores, standardised, limit, neighbour)
        observed["p_fwe"] = kernel.family_wise_p(observed["n_voxels"].to_numpy(), chance)
        tables.append(observed.assign(**{name: one.variant[name] for name in VARIANT_COLUMNS}))
    table = pd.concat(tables[1:] or tables, ignore_index=True)[CLUSTER_COLUMNS]
    write_text(out, table.to_csv(sep="\t", index=False, float_format="%.7g", lineterminator="\n"))
    significant = table["p_fwe"] < 0.05
    write_json(
        out.with_suffix(".json"),
        {
            "axoloci": __version__,
            "n_bootstraps": n_bootstraps,
            "cluster_p": cluster_p,
            "connectivity": int(connectivity),
            "seed": seed,
            "n_samples": store.n_samples,
            "n_voxels": basis.n_voxels,
            "n_components": len(basis.latents),
            "unit": basis.unit,
            "linearised": basis.linearised,
            "variants": [dosages.names[k] for k in chosen],
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


def _traits_of(
    residuals: Residuals, path: Path, store: Sumstats, basis: Basis, model_path: Path
) -> NDArray[np.float64]:
    """Residuals of the model's latents (n_samples, r), in its order.

    Raises
    ------
    InputError
        A latent is not there, some people lack it, or its spread is another than in the store.
    """
    absent = [name for name in basis.latents if name not in residuals.names]
    if absent:
        raise InputError(
            f"{path}: lacks {len(absent)} of the {len(basis.latents)} latents of {model_path}, "
            f"such as {absent[0]}; {nearest(absent[0], residuals.names)}"
        )
    left = residuals.left[:, [residuals.names.index(name) for name in basis.latents]]
    lacking = np.isnan(left).any(axis=1)
    if lacking.any():
        raise InputError(
            f"{path}: {lacking.sum()} people lack some latent, such as "
            f"'{residuals.sample_id[int(np.argmax(lacking))]}'; voxels are combinations of all: "
            "run the association and the residuals with --complete-traits"
        )
    known = store.trait_residual_sd[columns_of(store, basis.latents)]
    off = np.abs(np.sqrt(np.square(left).mean(axis=0)) / known - 1)
    if off.max() > SAME_SPREAD:
        worst = int(np.argmax(off))
        raise InputError(
            f"{path}: the residual standard deviation of {basis.latents[worst]} differs by "
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


def _associations(
    store: Sumstats, basis: Basis, dosages: Residuals, chosen: Sequence[int]
) -> list[_Association]:
    """The chosen variants of the table of dosages in the store.

    Raises
    ------
    InputError
        The store lacks a variant, or did not test it.
    """
    columns = columns_of(store, basis.latents)
    wanted = pd.DataFrame([dosages.about["variants"][k] for k in chosen])[VARIANT_COLUMNS]
    keys = pd.MultiIndex.from_frame(wanted)
    found: dict[int, _Association] = {}
    there = {part["chromosome"] for part in store.info["parts"]}
    for chromosome in sorted(there & set(wanted["chromosome"])):
        for block in store.blocks(chromosome):
            place = keys.get_indexer(pd.MultiIndex.from_frame(block.variants[VARIANT_COLUMNS]))
            for i in np.flatnonzero(place >= 0):
                beta, se = (each[i, columns].astype(np.float64) for each in (block.beta, block.se))
                if np.isfinite(beta).all():
                    found[place[i]] = _Association(
                        chosen[place[i]], block.variants.iloc[i], beta, se, block.df[i, columns[0]]
                    )
    absent = [name for k, name in enumerate(wanted["variant_id"]) if k not in found]
    if absent:
        raise InputError(
            f"{store.path}: lacks {len(absent)} of the {len(chosen)} variants or did not test "
            f"them, such as {', '.join(absent[:3])}; name the others by --variant"
        )
    return [found[k] for k in range(len(chosen))]


def _check_dosages(
    dosages: Residuals, path: Path, found: Sequence[_Association], left: NDArray[np.float64]
) -> None:
    """Refuse dosages whose effects on the latents, of residuals `left`, are not the store's."""
    for one in found:
        g = dosages.left[:, one.column]
        off = (g @ left / np.square(g).sum() - one.beta) / one.se  # (r,)
        lacking = 1 - one.variant["n"] / len(g)  # share of people, for whom there is the mean
        if not np.sqrt(np.square(off).mean()) < MOST_OFF + 2 * np.sqrt(lacking):
            raise InputError(
                f"{path}: {dosages.names[one.column]} has other effects on the residuals than in "
                "the association; run axoloci-gwas residuals with the same genotypes, covariates "
                "and transforms as associate"
            )


def _observed(
    one: _Association,
    sums: NDArray[np.float64],
    limit: float,
    neighbour: NDArray[np.int32],
    basis: Basis,
) -> tuple[pd.DataFrame, NDArray[np.int32]]:
    """Clusters of a variant, the largest first, and the number of each voxel's, 0 in none."""
    [effect], [error] = voxel_effects(
        one.beta[None], one.se[None], np.array([one.df]), sums, basis.basis
    )
    length = np.hypot(effect, error * np.sqrt(one.df))  # (n_voxels,)
    correlation = np.divide(effect, length, out=np.zeros_like(effect), where=length > 0)
    found = kernel.find_clusters(correlation[None], limit, neighbour)
    size = np.bincount(found.label, minlength=found.n_clusters)
    order = np.argsort(-size, kind="stable")
    labels = np.zeros(basis.n_voxels, dtype=np.int32)
    labels[found.voxel] = 1 + np.argsort(order)[found.label]
    voxel_mm3 = abs(np.linalg.det(basis.affine[:3, :3]))
    index = np.argwhere(basis.mask)  # (n_voxels, 3)
    rows = []
    for number in range(1, found.n_clusters + 1):
        voxels = np.flatnonzero(labels == number)
        peak = voxels[np.argmax(np.abs(correlation[voxels]))]
        x, y, z = basis.affine[:3, :3] @ index[peak] + basis.affine[:3, 3]
        with np.errstate(divide="ignore"):
            t = effect[peak] / error[peak]
        rows.append(
            {
                "cluster": number,
                "sign": "positive" if effect[peak] > 0 else "negative",
                "n_voxels": len(voxels),
                "volume_mm3": len(voxels) * voxel_mm3,
                **dict(zip(("peak_i", "peak_j", "peak_k"), index[peak], strict=True)),
                **{"peak_x": x, "peak_y": y, "peak_z": z},
                "peak_beta": effect[peak],
                "peak_neg_log10_p": neg_log10_p(t, one.df),
            }
        )
    return pd.DataFrame(rows), labels

"""Which representation a store's traits are of, and what its voxels need of the store."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from axoloci.errors import InputError
from axoloci.io.bases import Basis, read_basis
from axoloci.io.sumstats import Sumstats, read_sumstats
from axoloci.io.variants import VARIANT_COLUMNS
from axoloci.tasks.genetics.commands.selection import columns_of, named_traits, transformed
from axoloci.tasks.genetics.voxels import own_variances, voxel_variances

log = logging.getLogger("axoloci")

MODEL = click.option(
    "--model",
    "model_path",
    required=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Model of axoloci-encoder fit-linear whose latents the traits are, or what linearise "
    "made of an autoencoder: then the maps are those of a linearisation.",
)
NOISE_OF = click.option(
    "--noise-of",
    type=click.Choice(["voxel", "projection"]),
    default="voxel",
    show_default=True,
    help="What effects are compared with; they are those on the maps that the latents make with "
    "both. voxel: the variance of the voxel itself, that of the people in training, so that only "
    "voxels that the latents explain well stand out. projection: that of the maps that the latents "
    "make, which is exact, but where latents are few lacks most noise of a voxel: p is far smaller "
    "than that of the voxel, heritability larger, and peaks may lie elsewhere. A model with as "
    "many components as voxels leaves nothing out, and projection is taken.",
)
NOISE_OF_VOXEL = (
    "the variance of a voxel is that of the people in training, taken to vary as these people do, "
    "and what covariates explain of it is not taken off"
)


@dataclass(frozen=True)
class VoxelStore:
    """A store whose traits are the latents of a linear representation.

    Attributes
    ----------
    store, basis
        The summary statistics, and what the latents add to maps.
    columns
        Places of the latents in the store, (r,).
    sums
        [float64, shape: (r, r)] Sums of products of the traits' residuals on the covariates.
    """

    store: Sumstats
    basis: Basis
    columns: list[int]
    sums: NDArray[np.float64]


def open_voxel_store(sumstats: Path, model_path: Path, traits: str | None) -> VoxelStore:
    """A store and the model of its traits.

    Raises
    ------
    InputError
        The store lacks latents of the model, people lack some of them, or they were transformed
        before the association, so that voxels are no combinations of them.
    """
    store, basis = read_sumstats(sumstats), read_basis(model_path)
    names = basis.latents if traits is None else named_traits(store, traits)
    if len(names) != len(basis.latents):
        raise InputError(
            f"{sumstats}: {len(names)} traits by --traits '{traits}', but {model_path} has "
            f"{len(basis.latents)} latents; name one trait for each, in the order of the latents"
        )
    check_latents(names, store.traits, sumstats, model_path)
    incomplete = [name for name in names if name in store.info.get("traits_with_missing", [])]
    if incomplete:
        raise InputError(
            f"{sumstats}: some people lack {', '.join(incomplete[:5])}, and voxels need all "
            "latents of the same people; run the association again with --complete-traits"
        )
    check_untransformed(transformed(store), sumstats, "associate the latents as they are")
    columns = columns_of(store, names)
    sd = store.trait_residual_sd[columns]  # (r,)
    correlation = store.trait_correlation[np.ix_(columns, columns)]
    return VoxelStore(store, basis, columns, store.n_samples * correlation * sd * sd[:, None])


def known_noise(basis: Basis, noise_of: str) -> str:
    """Whose noise is taken: "both" where the projection leaves nothing out of a voxel."""
    if len(basis.basis) == basis.n_voxels:
        return "both"
    if noise_of == "projection":
        log.info(
            "what %d latents leave out of a voxel is not in its noise: p is smaller than that of "
            "the voxel itself, heritability larger, and the strongest voxel may lie elsewhere; "
            "--noise-of voxel has it in",
            len(basis.basis),
        )
    return noise_of


def residual_squares(opened: VoxelStore, noise_of: str) -> NDArray[np.float64]:
    """Residual sum of squares (n_voxels,) of the maps that the latents make, or of the voxels."""
    store, basis = opened.store, opened.basis
    variances = voxel_variances(opened.sums, basis.basis)
    if noise_of != "voxel":
        return variances
    return own_variances(variances, basis.voxel_sd, store.n_samples, store.n_covariates)


def check_latents(
    latents: Sequence[str], there: Sequence[str], path: Path, model_path: Path
) -> None:
    """Refuse a file that lacks latents of a model."""
    lacking = [name for name in latents if name not in there]
    if lacking:
        raise InputError(
            f"{path}: lacks {len(lacking)} of the {len(latents)} latents of {model_path}, such as "
            f"{lacking[0]}; it has {', '.join(there[:5])}{', …' if len(there) > 5 else ''}: give "
            "the model that made these"
        )


def check_untransformed(options: str, path: Path, advice: str) -> None:
    """Refuse what is of latents that were transformed, by `options`; "" if they were not."""
    if options:
        raise InputError(
            f"{path}: the latents were transformed before the association ({options}), so that "
            f"voxels are no combinations of them; {advice}"
        )


def file_name(text: str) -> str:
    """A text as part of a file's name: what is no letter, number, dot or hyphen becomes _."""
    return re.sub(r"[^\w.-]", "_", text)


def image_names(variants: pd.DataFrame, before: Sequence[str]) -> list[str]:
    """How the names of the images of some variants begin: by their ids.

    Parameters
    ----------
    variants
        (n_variants,) rows with `VARIANT_COLUMNS`. Where the ids of several make one name, as two
        that are "." do, chromosome, position and alleles come before the id.
    before
        (n_variants,) texts to begin by.

    Raises
    ------
    InputError
        Variants of one place and the same alleles have ids that make one name.
    """
    rows = list(variants[VARIANT_COLUMNS].astype(str).itertuples(index=False, name=None))
    short = [file_name(start + row[2]) for start, row in zip(before, rows, strict=True)]
    n_of_name = Counter(name for name, _ in set(zip(short, rows, strict=True)))
    names = [
        name
        if n_of_name[name] == 1
        else file_name(start + "_".join((row[0], row[1], row[3], row[4], row[2])))
        for name, start, row in zip(short, before, rows, strict=True)
    ]
    variant_of: dict[str, tuple[str, ...]] = {}
    for name, row in zip(names, rows, strict=True):
        if variant_of.setdefault(name, row) != row:
            raise InputError(
                f"the images of {':'.join(variant_of[name])} and {':'.join(row)} would both be "
                f"called {name}; ask for one of them at a time"
            )
    return names

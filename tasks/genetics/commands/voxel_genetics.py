"""`axoloci-genetics voxel-h2` and `voxel-rg`: maps out of a genetic covariance of latents."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from axoloci import __version__
from axoloci.errors import InputError, nearest
from axoloci.io.bases import Basis, read_basis
from axoloci.io.files import sha256, write_json
from axoloci.io.nifti import write_nifti
from axoloci.tasks.genetics import voxel_genetics as kernel
from axoloci.tasks.genetics.commands.voxel_model import (
    MODEL,
    NOISE_OF,
    check_latents,
    check_untransformed,
    file_name,
    known_noise,
)
from axoloci.tasks.genetics.covariance_file import read_covariance
from axoloci.tasks.genetics.heritability import GeneticCovariance

log = logging.getLogger("axoloci")

COVARIANCE = click.option(
    "--genetic-covariance",
    "covariance_path",
    required=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="genetic_covariance.npz of axoloci-genetics heritability or ldsc, of the model's latents.",
)
OUT = click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), required=True, help="Folder."
)


def read_latents_covariance(
    path: Path, latents: list[str], model_path: Path
) -> tuple[list[str], GeneticCovariance]:
    """Names and genetic covariances of traits, the latents of a model first.

    Raises
    ------
    InputError
        Not such a file, it lacks latents, or they were transformed before the association.
    """
    found = read_covariance(path)
    traits, covariance = found.traits, found.covariance
    check_latents(latents, traits, path, model_path)
    advice = "associate the latents as they are, and estimate their heritability again"
    check_untransformed(found.transformed, path, advice)
    order = [traits.index(name) for name in latents]
    order += [k for k in range(len(traits)) if k not in order]
    both = np.ix_(order, order)
    ordered = GeneticCovariance(
        covariance.genetic[both],
        covariance.phenotypic[both],
        np.stack([one[both] for one in covariance.leave_one_out]),
    )
    return [traits[k] for k in order], ordered


@click.command("voxel-h2")
@COVARIANCE
@MODEL
@NOISE_OF
@click.option(
    "--if-possible",
    is_flag=True,
    help="Where nothing was estimated (heritability --if-possible), say so, write nothing, and "
    "delete the maps of an earlier run.",
)
@OUT
def voxel_h2(
    covariance_path: Path, model_path: Path, noise_of: str, if_possible: bool, out: Path
) -> None:
    """Map the SNP heritability of every voxel, out of the genetic covariance of the latents.

    OUT/voxel_h2.nii.gz and voxel_h2_se.nii.gz, the standard error by block jackknife. They are
    estimates, which are below 0 here and there where the heritability is small: the genetic
    variance of the maps that the latents make, over the variance that --noise-of names. That of the
    voxel is of the people in training, what covariates explain in it: it is the share of all the
    variance of a voxel that is genetic and in the latents, less than its heritability given the
    covariates.
    """
    if if_possible and not read_covariance(covariance_path).traits:
        log.warning("%s: holds no trait, so there is no map of heritability", covariance_path)
        for name in _outputs("voxel_h2"):  # of an earlier association: no longer true
            (out / name).unlink(missing_ok=True)
        return
    basis = read_basis(model_path)
    _, covariance = read_latents_covariance(covariance_path, basis.latents, model_path)
    r = len(basis.latents)
    of_latents = GeneticCovariance(
        covariance.genetic[:r, :r],
        covariance.phenotypic[:r, :r],
        covariance.leave_one_out[:, :r, :r],
    )
    noise_of = known_noise(basis, noise_of)
    own = basis.voxel_sd if noise_of == "voxel" else None
    h2, se = kernel.voxel_heritability(of_latents, basis.basis, own)
    n_blocks = len(covariance.leave_one_out)
    about = {"n_blocks": n_blocks, "median_h2": _median(h2), "noise_of": noise_of}
    _write(out, "voxel_h2", (h2, se), basis, covariance_path, model_path, about)


@click.command("voxel-rg")
@COVARIANCE
@MODEL
@click.option("--seed-voxel", help="Voxel of the model's grid from 0, such as 45,60,32.")
@click.option("--seed-mm", help="Place in the maps' space, mm, such as -24,10,-30.5.")
@click.option(
    "--with-trait",
    help="Trait of the genetic covariance: a latent, or one from outside.",
)
@OUT
def voxel_rg(
    covariance_path: Path,
    model_path: Path,
    seed_voxel: str | None,
    seed_mm: str | None,
    with_trait: str | None,
    out: Path,
) -> None:
    """Map the genetic correlation of every voxel with a seed voxel or with a trait.

    OUT/voxel_rg_<seed>.nii.gz and voxel_rg_<seed>_se.nii.gz, the standard error by block jackknife;
    NaN where a heritability is not positive, with all variants or without a block of them.
    """
    if sum(given is not None for given in (seed_voxel, seed_mm, with_trait)) != 1:
        raise click.UsageError("give one of --seed-voxel, --seed-mm and --with-trait")
    basis = read_basis(model_path)
    traits, covariance = read_latents_covariance(covariance_path, basis.latents, model_path)
    direction = np.zeros(len(traits))
    about: dict[str, Any]
    if with_trait is not None:
        if with_trait not in traits:
            raise InputError(
                f"{covariance_path}: no trait '{with_trait}'; {nearest(with_trait, traits)}"
            )
        direction[traits.index(with_trait)] = 1
        seed, about = file_name(with_trait), {"with_trait": with_trait}
    else:
        voxel = _seed(basis, seed_voxel, seed_mm)
        row = int(np.flatnonzero((np.argwhere(basis.mask) == voxel).all(axis=1))[0])
        direction[: len(basis.latents)] = basis.basis[:, row]
        seed = "_".join(map(str, voxel))
        about = {"seed_voxel": list(voxel), "seed_mm": basis.world()[row].tolist()}
    own = float(direction @ covariance.genetic @ direction)
    if not own > 0:
        raise InputError(
            f"{covariance_path}: the heritability of the {'trait' if with_trait else 'seed'} "
            f"({seed}) is not positive, so that it has no genetic correlation; choose another one"
        )
    rg, se = kernel.voxel_genetic_correlation(covariance, direction, basis.basis)
    n_without = int(np.isnan(rg).sum())
    if n_without == len(rg):
        raise InputError(
            f"{covariance_path}: no voxel has a genetic correlation with {seed}: without one or "
            "another of the jackknife's blocks its heritability is not positive, or that of no "
            "voxel is; heritability takes thousands of people"
        )
    if n_without:
        log.warning("%d of %d voxels have no genetic correlation", n_without, len(rg))
    about["n_without_rg"] = n_without
    _write(out, f"voxel_rg_{seed}", (rg, se), basis, covariance_path, model_path, about)


def _seed(basis: Basis, seed_voxel: str | None, seed_mm: str | None) -> tuple[int, int, int]:
    """The voxel of the mask that is meant; of a place in mm the nearest one."""
    text = seed_voxel if seed_voxel is not None else str(seed_mm)
    try:
        numbers = np.array([float(number) for number in text.split(",")])
    except ValueError:
        numbers = np.empty(0)
    if numbers.shape != (3,):
        raise click.UsageError(f"'{text}' is not a place such as 45,60,32")
    if seed_voxel is None:
        numbers = np.linalg.solve(basis.affine[:3, :3], numbers - basis.affine[:3, 3])
    x, y, z = np.rint(numbers).astype(int).tolist()
    shape = basis.mask.shape
    if not all(0 <= place < n for place, n in zip((x, y, z), shape, strict=True)):
        raise InputError(f"the seed {text} is voxel {x},{y},{z}, outside the grid of {shape}")
    if not basis.mask[x, y, z]:
        inside = np.argwhere(basis.mask)
        near = inside[np.argmin(np.square(inside - (x, y, z)).sum(axis=1))]
        raise InputError(
            f"the seed {text} is voxel {x},{y},{z}, outside the mask of the model; the nearest "
            f"inside is --seed-voxel {','.join(map(str, near))}"
        )
    return x, y, z


def _write(
    out: Path,
    name: str,
    maps: tuple[NDArray[np.float64], NDArray[np.float64]],
    basis: Basis,
    covariance_path: Path,
    model_path: Path,
    about: dict[str, Any],
) -> None:
    """An estimate and its standard error as images, and what they are."""
    *of_maps, of_about = _outputs(name)
    for file, row in zip(of_maps, maps, strict=True):
        write_nifti(out / file, basis.volume(row.astype(np.float32)), basis.affine)
    write_json(
        out / of_about,
        {
            "axoloci": __version__,
            **about,
            "n_voxels": basis.n_voxels,
            "n_latents": len(basis.latents),
            "linearised": basis.linearised,
            "genetic_covariance": covariance_path.name,
            "model": model_path.name,
            "model_sha256": sha256(model_path),
        },
    )
    log.info("%s: %d voxels", out / f"{name}.nii.gz", basis.n_voxels)


def _outputs(name: str) -> tuple[str, str, str]:
    """Files of an estimate, of its standard error, and of what they are."""
    return f"{name}.nii.gz", f"{name}_se.nii.gz", f"{name}.json"


def _median(values: NDArray[np.float64]) -> float | None:
    """Median of what is finite, JSON."""
    finite = values[np.isfinite(values)]
    return float(np.median(finite)) if len(finite) else None

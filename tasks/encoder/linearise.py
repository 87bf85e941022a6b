"""The tangent of an autoencoder's decoder: maps as linear functions of latents, near the mean.

`axoloci-encoder linearise` writes it, so that what is known of the latents by association can be
told of voxels, as far as the decoder is linear.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import click
import numpy as np
import torch
from numpy.typing import NDArray

from axoloci import __version__
from axoloci.command import tally
from axoloci.errors import InputError
from axoloci.io.bases import write_linearised
from axoloci.io.files import sha256
from axoloci.io.tables import read_traits
from axoloci.tasks.encoder.explain import PEOPLE_AT_ONCE, Decode, derivative
from axoloci.tasks.encoder.inputs import chosen_device
from axoloci.tasks.encoder.kernel import Autoencoder
from axoloci.tasks.encoder.model_file import Model, read_model
from axoloci.tasks.encoder.representation import in_parts

N_PEOPLE = 8  # at whose latents the derivative is taken; time grows with them
FEWEST_PEOPLE = 2  # the mean map of a single person would be that person's own
N_CHECKED = 16  # people whose decoded maps tell how far the tangent is from the decoder

log = logging.getLogger("axoloci")


def tangent(
    decode: Decode, latents: NDArray[np.floating]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Mean map and mean Jacobian of a decoder over some latents.

    The Jacobian is by forward-mode differentiation, one latent at a time.

    Parameters
    ----------
    decode
        Of a representation.
    latents
        [float, shape: (n, r)] One or more people's.

    Returns
    -------
    (mean, basis)
        [float32, shape: (n_voxels,)] mean of the decoded maps;
        [float32, shape: (r, n_voxels)] change of a map by one more of each latent.
    """
    codes = torch.from_numpy(np.asarray(latents, dtype=np.float32))  # (n, r)
    basis = derivative(decode, latents, np.arange(codes.shape[1]))
    with torch.no_grad():
        total = torch.zeros(())
        for some in torch.split(codes, PEOPLE_AT_ONCE):
            maps, _ = in_parts(lambda part: decode(part).cpu(), some, PEOPLE_AT_ONCE)
            total = total + maps.double().sum(dim=0)  # (n_voxels,)
    return (total / len(codes)).float().numpy(), basis


def linear_share(
    decode: Decode,
    latents: NDArray[np.floating],
    mean: NDArray[np.floating],
    basis: NDArray[np.floating],
    latent_mean: NDArray[np.floating],
) -> float:
    """Share of the variance of decoded maps about their mean map that a tangent makes.

    Parameters
    ----------
    decode
        Of a representation.
    latents
        [float, shape: (n, r)] Of people.
    mean, basis
        From `tangent`.
    latent_mean
        [float, shape: (r,)] Mean of the latents that the tangent was taken at.

    Returns
    -------
    float
        1 where the decoder is linear; below 0 where the mean map is nearer than the tangent.
    """
    codes = np.asarray(latents, dtype=np.float32)
    with torch.no_grad():
        maps, _ = in_parts(lambda part: decode(part).cpu(), torch.from_numpy(codes), PEOPLE_AT_ONCE)
    apart = maps.numpy() - mean  # (n, n_voxels)
    rest = apart - (codes - latent_mean) @ basis
    return float(1 - np.square(rest, dtype=np.float64).sum() / np.square(apart).sum())


@click.command()
@click.option(
    "--model",
    "model_path",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    required=True,
    help="Autoencoder of axoloci-encoder train.",
)
@click.option(
    "--latents",
    "latents_path",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Latents of axoloci-encoder encode: the derivative is the mean over these people, and the "
    "log tells how linear the decoder is for them. Without it, that at the latents of the mean map "
    "of the training.",
)
@click.option(
    "--n-people",
    type=click.IntRange(min=FEWEST_PEOPLE),
    default=N_PEOPLE,
    help="People of --latents at whom the derivative is taken, evenly spread over the table; time "
    "grows with them. Two at least: the file holds the mean of their decoded maps, and is shared.",
)
@click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    help="Where to compute; auto is a GPU if there is one.",
)
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads; all cores by default.")
@click.option(
    "--out", type=click.Path(path_type=Path), required=True, help="Linearisation, .safetensors."
)
def linearise(
    model_path: Path,
    latents_path: Path | None,
    n_people: int,
    device: str,
    threads: int | None,
    out: Path,
) -> None:
    """Linearise an autoencoder's decoder, for axoloci-genetics voxels and its like.

    Maps made of it are approximate, and their files say so: a latent's effect on a map is taken to
    be the same for everybody. They are in units of z-scored maps, as the autoencoder makes them.
    """
    device = chosen_device(device, threads)
    model = read_model(model_path)
    autoencoder = model.representation
    if not isinstance(autoencoder, Autoencoder):
        raise InputError(f"{model_path}: is linear already; give it to axoloci-genetics as it is")
    autoencoder.config = replace(autoencoder.config, precision="float32")
    network = autoencoder.folded().on(device)
    made = tally(f"{network.n_latents} latents: maps made")

    def decode(codes: torch.Tensor) -> torch.Tensor:
        made(len(codes))
        return network.decode_rows(codes.to(network.mean.device))

    if latents_path is None:
        with torch.no_grad():
            points = network.encode_rows(network.mean_rows[None]).cpu().numpy()  # (1, r)
    else:
        points = _some_people(latents_path, model, n_people)
    mean, basis = tangent(decode, points)
    latent_mean = points.mean(axis=0, dtype=np.float64).astype(np.float32)  # (r,)
    share = None
    if latents_path is not None:
        share = linear_share(decode, points[:N_CHECKED], mean, basis, latent_mean)
        log.info("%.1f%% of the variance of decoded maps is linear in the latents", 100 * share)
    about = {
        "axoloci_version": __version__,
        "measure": model.about["measure"],
        "mask_sha256": model.about["mask_sha256"],
        "model": model_path.name,
        "model_sha256": sha256(model_path),
        "latents_sha256": None if latents_path is None else sha256(latents_path),
        # at whose latents; 0: at those of the mean map of the training
        "n_people": 0 if latents_path is None else len(points),
        "linear_share": share,
    }
    arrays = {
        "mask": autoencoder.mask.cpu().numpy(),
        "mean": mean,
        "basis": basis,
        "latent_mean": latent_mean,
        "voxel_sd": autoencoder.rows(autoencoder.voxel_sd)[0].cpu().numpy(),
    }
    write_linearised(out, arrays, np.array(model.about["affine"]), model.latent_names, about)
    log.info(
        "%s: %d latents, at those of %s",
        *(out, len(basis), f"{about['n_people']} people" if about["n_people"] else "the mean map"),
    )


def _some_people(path: Path, model: Model, n_people: int) -> NDArray[np.float32]:
    """Latents of some people of a table, (n, r)."""
    table = read_traits(path, names=model.latent_names)[model.latent_names].dropna()
    if len(table) < FEWEST_PEOPLE:
        raise InputError(
            f"{path}: {len(table)} people have all latents, and {FEWEST_PEOPLE} are needed at "
            "least; encode a larger cohort, or leave out --latents"
        )
    some = np.unique(np.linspace(0, len(table) - 1, n_people).astype(np.int64))
    return table.iloc[some].to_numpy(np.float32)

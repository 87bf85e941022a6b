"""Bases of linear representations, what one more of a latent adds to a map; read without torch.

The file is the model of `axoloci-encoder fit-linear`, or the linearisation of an autoencoder that
`axoloci-encoder linearise` makes. Maps come as rows: the voxels inside the mask, C order.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from axoloci.errors import InputError
from axoloci.io.files import whole_file

MODEL_FORMAT = "axoloci-encoder"
MODEL_VERSION = 4  # 3: no voxel_sd
LINEARISED_FORMAT = "axoloci-linearised"
LINEARISED_VERSION = 2  # 1: no voxel_sd
COMPONENT = "component"  # of a linear representation; its latents are component_000, …
ZSCORE = "z-score"  # unit of the maps that an autoencoder makes
ARRAYS = ("mask", "mean", "basis", "latent_mean", "voxel_sd")


@dataclass(frozen=True)
class Basis:
    """Maps as linear functions of latents, those that `axoloci-encoder encode` writes.

    map = mean + latents @ basis. Of principal components these are the maps projected on the
    components, smoothed or not; of tract means the maps that regression on the means predicts; of
    an autoencoder the tangent of its decoder.

    Attributes
    ----------
    mask
        [bool, shape: (x, y, z)] Voxels of a row.
    affine
        [float64, shape: (4, 4)] Voxel to world, mm.
    mean
        [float64, shape: (n_voxels,)] Map of a person whose latents are 0.
    basis
        [float32, shape: (r, n_voxels)] What one more of a latent adds to a map.
    latents
        Names of the latents, (r,).
    unit
        Of the maps: the measure, such as fa, or `ZSCORE`.
    linearised
        Whether it is the tangent of a representation that is not linear.
    voxel_sd
        [float32, shape: (n_voxels,)] Standard deviation of each voxel over the people in training,
        of which the maps that the latents make hold a part; in units of the maps.
    """

    mask: NDArray[np.bool_]
    affine: NDArray[np.float64]
    mean: NDArray[np.float64]
    basis: NDArray[np.float32]
    latents: list[str]
    unit: str
    linearised: bool
    voxel_sd: NDArray[np.float32]

    @property
    def n_voxels(self) -> int:
        """Voxels inside the mask."""
        return int(self.basis.shape[1])

    def volume(self, row: NDArray[Any]) -> NDArray[Any]:
        """Values of the voxels (n_voxels,) as an image (x, y, z), 0 outside the mask."""
        image = np.zeros(self.mask.shape, dtype=row.dtype)
        image[self.mask] = row
        return image

    def world(self) -> NDArray[np.float64]:
        """Where the voxels are, (n_voxels, 3) mm."""
        return np.argwhere(self.mask) @ self.affine[:3, :3].T + self.affine[:3, 3]


def read_basis(path: str | os.PathLike[str]) -> Basis:
    """Read the basis of a linear representation, or that of a linearised autoencoder.

    Raises
    ------
    InputError
        Not such a file, damaged, of another format, or of an autoencoder that is not linearised.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            about = json.loads((file.metadata() or {}).get("axoloci", "{}"))
            arrays = {name: file.get_tensor(name) for name in set(ARRAYS) & set(file.keys())}
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: cannot be read as a safetensors model: {error}") from error
    known = {MODEL_FORMAT: MODEL_VERSION, LINEARISED_FORMAT: LINEARISED_VERSION}
    found = about.get("format")
    if found not in known:
        raise InputError(
            f"{path}: is not a model of axoloci-encoder; give that of fit-linear, or of linearise"
        )
    if about["format_version"] != known[found]:
        raise InputError(
            f"{path}: format_version {about['format_version']} instead of {known[found]}; make it "
            "again with this version of axoloci"
        )
    linearised = found == LINEARISED_FORMAT
    if not linearised and about["kind"] != "linear":
        raise InputError(
            f"{path}: an autoencoder, whose maps are not linear in its latents; linearise it by "
            "axoloci-encoder linearise, and give what that writes"
        )
    mask, basis = arrays["mask"].astype(bool), arrays["basis"]  # (x, y, z), (r, n_voxels)
    return Basis(
        mask,
        np.array(about["affine"], dtype=np.float64),
        arrays["mean"].astype(np.float64) - arrays["latent_mean"] @ basis,
        basis,
        about["latents"] if linearised else [f"{COMPONENT}_{k:03d}" for k in range(len(basis))],
        ZSCORE if linearised else about["measure"],
        linearised,
        arrays["voxel_sd"],
    )


def write_linearised(
    path: Path,
    arrays: Mapping[str, NDArray[Any]],
    affine: NDArray[np.float64],
    latents: list[str],
    about: Mapping[str, Any],
) -> None:
    """Write the tangent of a representation that is not linear, as `read_basis` reads it.

    Parameters
    ----------
    path
        A `.safetensors` file.
    arrays
        Those of `ARRAYS`: mask [bool, shape: (x, y, z)], voxels of a row; latent_mean
        [float32, shape: (r,)], latents at which, or around which, the tangent is taken; mean
        [float32, shape: (n_voxels,)], the map there; basis [float32, shape: (r, n_voxels)], what
        one more of a latent adds to it; voxel_sd [float32, shape: (n_voxels,)], as in `Basis`.
    affine
        [float64, shape: (4, 4)] Voxel to world, mm.
    latents
        Names of the latents, (r,).
    about
        How it was made, JSON.
    """
    header = {
        "format": LINEARISED_FORMAT,
        "format_version": LINEARISED_VERSION,
        "affine": np.asarray(affine).tolist(),
        "latents": latents,
        **about,
    }
    contiguous = {name: np.ascontiguousarray(arrays[name]) for name in ARRAYS}
    with whole_file(path) as temporary:
        # one key: the order of several is not fixed, and equal inputs must make equal files
        temporary.write_bytes(save(contiguous, {"axoloci": json.dumps(header, sort_keys=True)}))

"""Command line `axoloci-STEP_NAME`."""

from __future__ import annotations

from pathlib import Path

import click
from axoloci.command import provenance, step_group
from axoloci.errors import InputError
from axoloci.io.files import write_json
from axoloci.io.nifti import read_nifti

from STEP_PACKAGE import kernel

main = step_group(__name__, "Mean of an FA map above a threshold.")


@main.command()
@click.option(
    "--fa",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    required=True,
    help="FA map, 3D NIfTI image.",
)
@click.option(
    "--threshold",
    type=click.FloatRange(0, 1, max_open=True),
    default=kernel.THRESHOLD,
    help="FA above which a voxel counts: a lower one lets in gray matter and noise.",
)
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), required=True)
@click.option("--prefix", required=True, help="First part of all names: sub-0001_ses-1, say.")
def measure(fa: Path, threshold: float, out: Path, prefix: str) -> None:
    """Measure the mean FA above a threshold."""
    image, _ = read_nifti(fa, ndim=3)
    if not (image > threshold).any():
        raise InputError(f"{fa}: no voxel is above {threshold:g}; lower the threshold")
    mean, n_voxels = kernel.mean_above(image, threshold)
    write_json(
        out / f"{prefix}_desc-STEP_LABEL_figures.json",
        {
            **provenance([fa]),
            "Settings": {"threshold": threshold},
            "mean": round(mean, 6),
            "n_voxels": n_voxels,
        },
    )

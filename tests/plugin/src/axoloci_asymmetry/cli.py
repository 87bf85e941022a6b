"""Command line `axoloci-asymmetry`."""

from __future__ import annotations

from pathlib import Path

import click
from axoloci.command import provenance, step_group
from axoloci.errors import InputError
from axoloci.io.files import write_json
from axoloci.io.nifti import read_nifti

from axoloci_asymmetry import kernel

main = step_group(__name__, "Hemispheric asymmetry of the white matter's FA.")


@main.command()
@click.option(
    "--fa",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    required=True,
    help="FA map in the common space, 3D NIfTI image.",
)
@click.option(
    "--threshold",
    type=click.FloatRange(0, 1, max_open=True),
    default=kernel.THRESHOLD,
    help="FA above which a voxel counts as white matter: a lower one lets in gray matter.",
)
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), required=True)
@click.option("--prefix", required=True, help="First part of all names: sub-0001_ses-1, say.")
def measure(fa: Path, threshold: float, out: Path, prefix: str) -> None:
    """Measure (L − R) / (L + R) of the mean FA on both sides of the plane x = 0."""
    image, affine = read_nifti(fa, ndim=3)
    try:
        found = kernel.measure_asymmetry(image, affine, threshold)
    except ValueError as error:
        raise InputError(f"{fa}: {error}; lower the threshold, or look at the map") from error
    write_json(
        out / f"{prefix}_desc-asymmetry_figures.json",
        {
            **provenance([fa]),
            "Settings": {"threshold": threshold},
            "index": round(found.index, 6),
            "left_fa": round(found.left, 6),
            "right_fa": round(found.right, 6),
            "n_left": found.n_left,
            "n_right": found.n_right,
        },
    )

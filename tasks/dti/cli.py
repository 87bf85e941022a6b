"""Command line `axoloci-dti`."""

from __future__ import annotations

import logging
from pathlib import Path

import click
import numpy as np

from axoloci.command import prefix_option, provenance, step_group
from axoloci.errors import InputError
from axoloci.io.files import write_json
from axoloci.io.gradients import (
    B0_THRESHOLD,
    TENSOR_BVAL,
    clean_gradients,
    find_shells,
    gradient_problems,
    read_gradients,
    select_volumes,
)
from axoloci.io.nifti import read_nifti, same_grid, scan_prefix, write_nifti
from axoloci.tasks.dti import kernel

log = logging.getLogger("axoloci")
main = step_group(__name__, "Diffusion tensor fit: corrected DWI to FA, MD, AD, RD.")

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@main.command()
@click.option("--dwi", type=_FILE, required=True, help="Corrected 4D NIfTI image.")
@click.option("--bval", type=_FILE, required=True, help="b-values, s/mm².")
@click.option("--bvec", type=_FILE, required=True, help="FSL directions, 3xN or Nx3.")
@click.option("--mask", type=_FILE, help="Voxels to fit; without it, all whose b0 is not 0.")
@click.option(
    "--max-bval",
    type=click.FloatRange(min=B0_THRESHOLD, min_open=True),
    default=TENSOR_BVAL,
    help="Highest shell of the fit, s/mm²: higher ones bias a tensor, fewer volumes make it noisy.",
)
@click.option(
    "--method",
    type=click.Choice(["WLS", "OLS"]),
    default=kernel.METHOD,
    help="Weighted or ordinary least squares; OLS is faster and noisier.",
)
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), required=True)
@prefix_option
def fit(
    dwi: Path,
    bval: Path,
    bvec: Path,
    mask: Path | None,
    max_bval: float,
    method: str,
    out: Path,
    prefix: str | None,
) -> None:
    """Fit a tensor to every voxel and write FA (0 to 1) and MD, AD, RD (mm²/s)."""
    prefix = prefix or scan_prefix(dwi)
    data, affine = read_nifti(dwi, ndim=4)
    bvals, bvecs = read_gradients(bval, bvec)
    problems = gradient_problems(bvals, bvecs, data.shape[3])
    if problems:
        raise InputError(f"{dwi}: " + "; ".join(problems))
    bvals, bvecs = clean_gradients(bvals, bvecs)

    b0 = data[..., bvals <= B0_THRESHOLD]
    inside = np.asarray((b0 > 0).any(axis=-1))  # (x, y, z)
    if mask is not None:
        inside &= same_grid(mask, data.shape[:3], affine, dwi) > 0
    if not inside.any():
        raise InputError(f"{mask or dwi}: no voxel to fit: the mask is empty or its b0 is 0")

    used = select_volumes(bvals, bvecs, max_bval)
    shells = [
        {"bval": round(float(bvals[used][s].mean()), 1), "n_volumes": len(s)}
        for s in find_shells(bvals[used])
    ]
    if shells[-1]["bval"] > max_bval + 25:
        log.warning(
            "%s: shells up to b = %g s/mm² give no tensor; b = %g is used as well, FA and MD will"
            " be lower than from b <= %g",
            dwi, max_bval, shells[-1]["bval"], max_bval,
        )  # fmt: skip
    if len(used) < len(bvals):
        data = data[..., used]
    maps = kernel.fit_tensor(data, bvals[used], bvecs[used], inside, method)

    for name in ("fa", "md", "ad", "rd"):
        path = out / f"{prefix}_model-tensor_param-{name}_dwimap.nii.gz"
        write_nifti(path, getattr(maps, name), affine)
    write_json(
        out / f"{prefix}_model-tensor_dwimap.json",
        {
            "Model": {
                "Description": "Diffusion tensor",
                "URL": "https://docs.dipy.org",
                "Parameters": {"FitMethod": method, "OutlierRejectionMethod": "none"},
            },
            **provenance([path for path in (dwi, bval, bvec, mask) if path is not None]),
            "Settings": {"max_bval": max_bval, "method": method, "min_signal": kernel.MIN_SIGNAL},
            "n_volumes_used": len(used),
            "shells": shells,
            "mean_fa": round(float(maps.fa[inside].mean(dtype=np.float64)), 5),
            "median_md": float(f"{np.median(maps.md[inside]):.4g}"),
            "n_voxels": int(inside.sum()),
            "n_implausible_voxels": maps.n_implausible,
        },
    )

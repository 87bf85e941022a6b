"""Command line `axoloci-dti`."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from axoloci.command import prefix_option, progress, provenance, step_group
from axoloci.errors import InputError, raise_all
from axoloci.gradient_check import gradient_frame, table_problems, voxels_inside
from axoloci.io.files import write_json
from axoloci.io.gradients import (
    B0_THRESHOLD,
    TENSOR_BVAL,
    bvec_to_world,
    clean_gradients,
    find_shells,
    gradient_mends,
    gradient_problems,
    read_gradients,
    select_volumes,
)
from axoloci.io.nifti import read_header, read_volumes, same_grid, scan_prefix, write_nifti
from axoloci.tasks.dti import kernel

log = logging.getLogger("axoloci")
main = step_group(__name__, "Diffusion tensor fit: corrected DWI to FA, MD, AD, RD and kurtosis.")

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)

DIPY = "https://docs.dipy.org"
MIN_JUDGED_ML = 100.0
"""Volume of the voxels from which on their gradients are judged: a single tract has one fibre."""
TENSOR_MAPS = {
    "fa": ("Fractional anisotropy", "1"),
    "md": ("Mean diffusivity", "mm^2/s"),
    "ad": ("Axial diffusivity: the largest eigenvalue", "mm^2/s"),
    "rd": ("Radial diffusivity: the mean of the two smaller eigenvalues", "mm^2/s"),
    "mode": ("Mode of the tensor, -1 (planar) to 1 (linear)", "1"),
    "bzero": ("Signal without diffusion weighting, as fitted", "arbitrary"),
    "residual": (
        "Root mean square over the fitted volumes of signal minus prediction, divided by bzero",
        "1",
    ),
}
COLOUR = {
    "Description": "FA times the main direction: red along right-left, green along front-back, "
    "blue along up-down",
    "Units": "1",
    "OrientationRepresentation": "dec",
    "ReferenceAxes": "xyz",
}
KURTOSIS_MODELS = {
    "msdki": "Kurtosis of the mean signal over the directions of a shell",
    "dki": "Diffusion kurtosis tensor",
}
KURTOSIS_MAPS = {
    "msk": ("Mean signal kurtosis", "1"),
    "msd": ("Mean signal diffusivity", "mm^2/s"),
    "mk": ("Mean kurtosis", "1"),
    "ak": ("Axial kurtosis", "1"),
    "rk": ("Radial kurtosis", "1"),
}


def _described(maps: dict[str, tuple[str, str]]) -> dict[str, dict[str, str]]:
    return {name: {"Description": what, "Units": unit} for name, (what, unit) in maps.items()}


def _shells(bval: NDArray[np.float64]) -> list[dict[str, float]]:
    """Mean b-value and number of volumes of each shell."""
    shells = find_shells(bval)
    return [{"bval": round(float(bval[s].mean()), 1), "n_volumes": len(s)} for s in shells]


def _read_signal(
    path: Path, index: NDArray[np.intp], inside: NDArray[np.bool_], is_b0: NDArray[np.bool_]
) -> tuple[NDArray[np.float32], NDArray[np.intp]]:
    """Signal of voxels in a mask whose b0 is not 0; no more of the image lies in memory.

    Parameters
    ----------
    path
        4D image.
    index
        Volumes.
    inside
        (x, y, z) mask.
    is_b0
        Of each of these volumes.

    Returns
    -------
    (signal, where)
        (volumes, n); (n,) indices of the voxels in the flattened grid, Fortran order.
    """
    where = np.flatnonzero(inside.ravel(order="F"))
    row = {int(volume): i for i, volume in enumerate(index)}
    signal = np.empty((len(index), len(where)), dtype=np.float32)
    for number, volume in enumerate(read_volumes(path)):
        if number in row:
            values = signal[row[number]]
            # without a check of each index, in a fifth of the time
            np.take(volume.ravel(order="F"), where, out=values, mode="clip")
            if not np.isfinite(values).all():
                n_bad = int((~np.isfinite(values)).sum())
                raise InputError(
                    f"{path}: volume {number}: {n_bad} values are NaN or infinite; replace them or "
                    "leave them out of the mask"
                )
    seen = (signal[is_b0] > 0).any(axis=0)
    return (signal, where) if seen.all() else (signal[:, seen], where[seen])


@main.command()
@click.option("--dwi", type=_FILE, required=True, help="Corrected 4D NIfTI image.")
@click.option("--bval", type=_FILE, required=True, help="b-values, s/mm².")
@click.option("--bvec", type=_FILE, required=True, help="FSL directions, 3xN or Nx3.")
@click.option("--mask", type=_FILE, help="Voxels to fit; without it, all whose b0 is not 0.")
@click.option(
    "--max-bval",
    type=click.FloatRange(min=B0_THRESHOLD, min_open=True),
    default=TENSOR_BVAL,
    help="Highest shell of the tensor, s/mm²: higher ones bias it, fewer volumes make it noisy. "
    "Where all shells are higher, the lowest is used.",
)
@click.option(
    "--method",
    type=click.Choice(kernel.METHODS),
    default=kernel.METHOD,
    help="Least squares of the logarithm: OLS without weights (noisier), WLS with, IWLS with "
    "weights found twice, as MRtrix3; or of the signal: NLLS, and RESTORE, which leaves out "
    "outliers. These take fifty times as long, a minute a scan.",
)
@click.option(
    "--sigma",
    type=click.FloatRange(min=0, min_open=True),
    help="Standard deviation of the noise for RESTORE, in the unit of the signal; without it that "
    "of what WLS leaves of the signal.",
)
@click.option(
    "--kurtosis",
    type=click.Choice(kernel.KURTOSES),
    default=kernel.KURTOSIS,
    help=f"Where two shells up to b = {kernel.MAX_KURTOSIS_BVAL:g} are there: msdki, of the "
    "shells' mean signals, in less than a second; dki, the whole tensor by DIPY, some minutes.",
)
@click.option(
    "--check/--no-check",
    default=True,
    help="Check that b-values and directions are those of the volumes, and in the image's frame, "
    "in half a second, where 100 ml or more are fitted; off for scans that axoloci-preprocess has "
    "checked.",
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
    sigma: float | None,
    kurtosis: str,
    check: bool,
    out: Path,
    prefix: str | None,
) -> None:
    """Fit a tensor to every voxel; write FA, MD, AD, RD, mode, colour FA, b0, residual, kurtosis.

    b-values and directions that are not those of their volumes are refused; directions in another
    frame than the image's, which leave FA as it is, are a warning.

    MD, AD and RD are in mm²/s. Voxels with values that no tissue has are kept, counted by reason
    and marked in the mask desc-implausible.
    """
    if sigma is not None and method != "RESTORE":
        raise InputError(f"--sigma is of RESTORE, and the method is {method}; leave one out")
    prefix = prefix or scan_prefix(dwi)
    header = read_header(dwi, 4)
    grid, affine = header.shape[:3], header.affine
    bvals, bvecs = read_gradients(bval, bvec)
    problems = gradient_problems(bvals, bvecs, header.shape[3])
    if problems:
        raise InputError(f"{dwi}: " + "; ".join(problems))
    for mend in gradient_mends(bvals, bvecs):
        log.warning("%s: %s", bvec, mend)
    bvals, bvecs = clean_gradients(bvals, bvecs)
    used = select_volumes(bvals, bvecs, max_bval)
    shells = _shells(bvals[used])
    if shells[-1]["bval"] > max_bval + 25:
        log.warning(
            "%s: shells up to b = %g s/mm² give no tensor; b = %g is used as well, FA and MD will"
            " be lower than from b <= %g",
            dwi, max_bval, shells[-1]["bval"], max_bval,
        )  # fmt: skip
    for_kurtosis = np.empty(0, dtype=np.intp)
    if kurtosis != "none":
        for_kurtosis, problem = kernel.kurtosis_volumes(bvals, bvecs, kurtosis)
        if problem:
            log.info("%s: no kurtosis: %s", dwi, problem)

    needed = np.concatenate([used, np.setdiff1d(for_kurtosis, used)])
    inside = np.ones(grid, dtype=bool) if mask is None else same_grid(mask, grid, affine, dwi) > 0
    signal, where = _read_signal(dwi, needed, inside, bvals[needed] <= B0_THRESHOLD)
    if not len(where):
        raise InputError(f"{mask or dwi}: no voxel to fit: the mask is empty or its b0 is 0")
    if mask is None:
        log.info("%s: no mask: the %d voxels whose b0 is not 0 are fitted", dwi, len(where))
    frame = None
    volume = len(where) * abs(np.linalg.det(affine[:3, :3])) / 1000
    if check and volume < MIN_JUDGED_ML:
        log.info("%s: of %.0f ml the gradients are not judged", dwi, volume)
    elif check:
        voxels = voxels_inside(signal.T, where, grid, needed, None if mask is None else inside)
        problems = table_problems(voxels, bvals, bvecs, (bval, bvec))
        raise_all(problems, f"{dwi}: the scan has faults:")
        frame = gradient_frame(voxels, bvals, bvecs, affine)
        if frame.warning:
            log.warning("%s: %s", bvec, frame.warning)
    bvecs = bvec_to_world(bvecs, affine)  # so that colours are of the scanner's axes

    def track(chunks: Sequence[int]) -> Iterable[int]:
        return progress(chunks, "voxels fitted, in parts", len(chunks))

    def write(values: NDArray[Any], name: str) -> None:
        image = np.zeros((inside.size, *values.shape[1:]), dtype=values.dtype, order="F")
        image[where] = values
        image = image.reshape(*grid, *values.shape[1:], order="F")
        write_nifti(out / f"{prefix}_model-{name}.nii.gz", image, affine)

    maps = kernel.fit_tensor(
        signal[: len(used)].T, bvals[used], bvecs[used], method=method, sigma=sigma, track=track
    )
    for name in TENSOR_MAPS:
        write(getattr(maps, "s0" if name == "bzero" else name), f"tensor_param-{name}_dwimap")
    write(maps.fa[:, None] * abs(maps.evec), "tensor_param-decfa_dwimap")
    write(maps.implausible.astype(np.uint8), "tensor_desc-implausible_mask")
    robust = method == "RESTORE"
    made_of = provenance([path for path in (dwi, bval, bvec, mask) if path is not None])
    write_json(
        out / f"{prefix}_model-tensor_dwimap.json",
        {
            "Model": {
                "Description": "Diffusion tensor",
                "URL": DIPY,
                "Parameters": {
                    "FitMethod": "NLLS" if robust else method,
                    "OutlierRejectionMethod": "RESTORE" if robust else "none",
                    **({"Iterations": kernel.REWEIGHTINGS[method]} if method == "IWLS" else {}),
                    **({"RESTORESigma": float(f"{maps.sigma:.4g}")} if maps.sigma else {}),
                },
            },
            "Maps": {**_described(TENSOR_MAPS), "decfa": COLOUR},
            **made_of,
            "Settings": {
                "max_bval": max_bval,
                "method": method,
                "kurtosis": kurtosis,
                "min_signal": kernel.MIN_SIGNAL,
                "voxels": "b0 > 0" if mask is None else "mask",
            },
            **({} if frame is None else {"gradient_frame": frame.figures()}),
            "n_volumes_used": len(used),
            "shells": shells,
            "mean_fa": round(float(maps.fa.mean(dtype=np.float64)), 5),
            "median_md": float(f"{np.median(maps.md):.4g}"),
            "median_residual": round(float(np.median(maps.residual)), 5),
            "n_voxels": len(where),
            "n_implausible_voxels": maps.n_implausible,
            "implausible_voxels": dict(maps.reasons),
        },
    )
    if not len(for_kurtosis):
        return
    rows = np.isin(needed, for_kurtosis)
    signal, volumes = (signal, needed) if rows.all() else (signal[rows], needed[rows])  # no copy
    found, n_implausible = kernel.fit_kurtosis(
        signal.T, bvals[volumes], bvecs[volumes], kurtosis, track
    )
    for name, values in found.items():
        write(values, f"{kurtosis}_param-{name}_dwimap")
    write_json(
        out / f"{prefix}_model-{kurtosis}_dwimap.json",
        {
            "Model": {
                "Description": KURTOSIS_MODELS[kurtosis],
                **({"URL": DIPY} if kurtosis == "dki" else {}),
                "Parameters": {"FitMethod": "WLS", "OutlierRejectionMethod": "none"},
            },
            "Maps": _described({name: KURTOSIS_MAPS[name] for name in found}),
            **made_of,
            "shells": _shells(bvals[for_kurtosis]),
            **{f"median_{name}": float(f"{np.median(v):.4g}") for name, v in found.items()},
            "n_voxels": len(where),
            "n_implausible_voxels": n_implausible,
        },
    )

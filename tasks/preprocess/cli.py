"""Command line `axoloci-preprocess`."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from axoloci.command import prefix_option, progress, provenance, step_group
from axoloci.errors import InputError, raise_all
from axoloci.gradient_check import gradient_frame
from axoloci.io.files import write_json, write_text
from axoloci.io.gradients import B0_THRESHOLD, find_shells, write_gradients
from axoloci.io.nifti import scan_prefix, write_nifti
from axoloci.quality import PAIR_UNFIT
from axoloci.tasks.preprocess.chain import MIN_PAIR_CORRELATION, Corrected, preprocess
from axoloci.tasks.preprocess.denoise import MIN_VOLUMES
from axoloci.tasks.preprocess.inputs import (
    ReverseB0,
    Scan,
    describe,
    interpolated_axes,
    look_at,
    read_reverse,
    read_scan,
)
from axoloci.tasks.preprocess.kernel import Motion
from axoloci.tasks.preprocess.outliers import OUTLIER_Z

log = logging.getLogger("axoloci")
main = step_group(
    __name__, "Raw diffusion MRI to corrected volumes, a brain mask and quality figures."
)

DESCRIPTION = {
    False: "Diffusion-weighted volumes after the steps named. Of motion: rigid, in mm and radians"
    " about centre_mm; eddy currents' scale and shears along one axis are undone where the"
    " gradients explain these, displacements by them are in mm at 50 mm from there; lost slices are"
    " replaced by prediction",
    True: "Diffusion-weighted volumes as they were given, negative values set to 0",
}
"""What was done to the volumes, by `already_preprocessed`."""

SLICES = 2  # axis across the slices, as scanners store them

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


def _inputs(command: Any) -> Any:
    """The options that name one scan and what tells its distortion."""
    for option in (
        click.option(
            "--reverse-json", type=_FILE, help="Its sidecar; opposite to the DWI's if not given."
        ),
        click.option(
            "--reverse-b0",
            type=_FILE,
            help="Image of reverse phase encoding that begins with a b0: susceptibility distortion"
            " is corrected. Needs --json. 15 CPU seconds for UK Biobank's size.",
        ),
        click.option(
            "--json", "sidecar", type=_FILE, help="Sidecar with the phase encoding (BIDS)."
        ),
        click.option("--mask", type=_FILE, help="Brain mask on the DWI's grid; made if not given."),
        click.option("--bvec", type=_FILE, required=True, help="FSL directions, 3xN or Nx3."),
        click.option("--bval", type=_FILE, required=True, help="b-values, s/mm²."),
        click.option("--dwi", type=_FILE, required=True, help="4D NIfTI image (x, y, z, volumes)."),
    ):
        command = option(command)
    return command


@main.command()
@_inputs
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), required=True)
@prefix_option
@click.option(
    "--denoise/--no-denoise",
    default=False,
    help="Thermal noise by MP-PCA, of 30 volumes or more; not for images that the scanner"
    " interpolated. FA gets smoother and lower: worth it for scans of much noise. 40 CPU seconds"
    " for UK Biobank's 105 volumes.",
)
@click.option(
    "--unring/--no-unring",
    default=True,
    help="Gibbs ringing by local sub-voxel shifts; not for images that the scanner interpolated."
    " 40 CPU seconds for UK Biobank's volumes.",
)
@click.option(
    "--motion/--no-motion",
    default=True,
    help="Head motion, eddy currents and slices that lost signal; the directions are turned with"
    " the head.",
)
@click.option(
    "--already-preprocessed",
    is_flag=True,
    help="Keep the volumes as they are (corrected by FSL's eddy, say; give its rotated bvecs):"
    " only check them, find the brain and copy.",
)
def run(
    dwi: Path,
    bval: Path,
    bvec: Path,
    mask: Path | None,
    sidecar: Path | None,
    reverse_b0: Path | None,
    reverse_json: Path | None,
    out: Path,
    prefix: str | None,
    denoise: bool,
    unring: bool,
    motion: bool,
    already_preprocessed: bool,
) -> None:
    """Take ringing, motion and lost slices out of a scan, and find the brain.

    Motion is rigid. Of the eddy currents, shifts are undone with it, and the scale and shears
    along one axis that follow the gradients linearly are undone (shells of 8 volumes or more).
    Susceptibility distortion is corrected where there is a b0 of reverse phase encoding. Higher
    orders of eddy currents and motion within a volume stay: FSL's eddy corrects these; give
    --already-preprocessed after it.
    """
    if already_preprocessed and reverse_b0 is not None:
        raise click.UsageError(
            "--reverse-b0 is of no use with --already-preprocessed, which keeps the volumes as they"
            " are; leave one of them out"
        )
    scan, problems = read_scan(dwi, bval, bvec, mask, sidecar)
    reverse = _reverse(scan, dwi, reverse_b0, reverse_json, problems)
    if not already_preprocessed:
        problems += _slice_problems(scan, sidecar)
    raise_all(problems, f"{dwi}: the scan has faults:")
    assert scan is not None
    data, bvals, affine = scan.dwi, scan.bval, scan.affine
    frame = gradient_frame(scan.voxels, bvals, scan.bvec, affine)
    if frame.warning:
        log.warning("%s: %s", bvec, frame.warning)
    interpolated = [] if already_preprocessed else interpolated_axes(scan)
    if interpolated and (unring or denoise):
        log.warning(
            "%s: was interpolated by the scanner along %s (its k-space is empty outside): neither"
            " unringing nor denoising is made for that; compare with --no-unring",
            *(dwi, " and ".join(interpolated)),
        )
    n_negative = int((data < 0).sum())
    if n_negative:
        log.warning("%s: %d negative values set to 0", dwi, n_negative)
        np.maximum(data, 0, out=data)
    corrected = preprocess(
        data,
        bvals,
        scan.bvec,
        affine,
        scan.mask,
        None if reverse is None else reverse.pair,
        denoised=denoise and not already_preprocessed,
        unringed=unring and not already_preprocessed,
        aligned=motion and not already_preprocessed,
        track=lambda items, what: progress(items, what, len(items)),
    )
    if not corrected.mask.any() and (mask is not None or corrected.uncovered > 0):
        raise InputError(
            f"{dwi}: no part of the brain is in the field of view of every volume; leave out those"
            " that moved far"
        )
    if not corrected.mask.any():
        raise InputError(f"{dwi}: no brain found; give one with --mask")
    if reverse is not None and corrected.field is None:
        assert corrected.pair_correlation is not None
        alike = corrected.pair_correlation[0] > MIN_PAIR_CORRELATION
        log.warning(
            "%s: no distortion brings it close to %s (correlation %.2f before and %.2f after),"
            " so none is corrected; is it %s?",
            *(reverse_b0, dwi, *corrected.pair_correlation),
            "of the same phase encoding, not the opposite" if alike else "a b0 of the same head",
        )
    if denoise and not already_preprocessed and "denoising" not in corrected.steps:
        log.warning("%s: fewer than %d volumes: not denoised", dwi, MIN_VOLUMES)

    prefix = prefix or scan_prefix(dwi)
    stem = out / f"{prefix}_desc-preproc_dwi"
    write_nifti(f"{stem}.nii.gz", corrected.dwi, affine)
    write_gradients(f"{stem}.bval", f"{stem}.bvec", bvals, corrected.bvec)
    write_nifti(out / f"{prefix}_desc-brain_mask.nii.gz", corrected.mask.astype(np.uint8), affine)
    _write_volumes(out / f"{prefix}_desc-motion_timeseries.tsv", corrected)
    if corrected.motion is not None:
        _write_slices(out / f"{prefix}_desc-slices_timeseries.tsv", corrected.motion.score)
    settings = {
        "already_preprocessed": already_preprocessed,
        "denoise": denoise,
        "unring": unring,
        "motion": motion,
        "mask": "given" if scan.mask is not None else "made",
    }
    files = (dwi, bval, bvec, mask, sidecar, reverse_b0, reverse_json)
    inputs = [path for path in files if path is not None]
    write_json(
        f"{stem}.json",
        {
            "Description": DESCRIPTION[already_preprocessed],
            **provenance(inputs),
            "Settings": settings,
            "n_negative_values": n_negative,
            "gradient_frame": frame.figures(),
            "interpolated_axes": interpolated,
            **_figures(corrected, bvals, affine),
        },
    )


def _reverse(
    scan: Scan | None,
    dwi: Path,
    path: Path | None,
    sidecar: Path | None,
    problems: list[str],
) -> ReverseB0 | None:
    """The reverse b0, if one is given; what is wrong with it joins the problems of the scan."""
    if scan is None or path is None:
        return None
    try:
        return read_reverse(scan, dwi, path, sidecar)
    except InputError as error:
        problems += error.problems
        return None


def _slice_problems(scan: Scan | None, sidecar: Path | None) -> list[str]:
    """A phase encoding across what is taken for the slices."""
    told = None if scan is None else scan.phase_encoding
    if told is None or told.axis != SLICES:
        return []
    return [
        f"{sidecar}: phase encoding runs along k, across the planes of the third axis, which are"
        " taken for the slices; give the image in the order of axes in which the scanner stored it"
    ]


def _write_volumes(path: Path, corrected: Corrected) -> None:
    """A row a volume: its motion, its lost slices, its likeness to its neighbour."""
    columns: dict[str, NDArray[Any]] = {}
    if corrected.motion is not None:
        motion = corrected.motion
        names = [f"{kind}_{axis}" for kind in ("trans", "rot") for axis in "xyz"]
        columns |= dict(zip(names, motion.parameters().T, strict=True))
        columns |= {
            "framewise_displacement": motion.framewise_displacement(),
            "n_outlier_slices": motion.lost.sum(axis=0),
        }
        # the part of the translations that is the eddy currents'
        columns |= {f"eddy_{axis}": motion.eddy_shift[:, k] for k, axis in enumerate("xyz")}
    columns |= {
        "neighbour_correlation_raw": corrected.neighbour_correlation_raw,
        "neighbour_correlation": corrected.neighbour_correlation,
    }
    rows = ["\t".join(["volume", *columns])]
    for v, values in enumerate(zip(*columns.values(), strict=True)):
        rows.append("\t".join([str(v), *map(_number, values)]))
    write_text(path, "\n".join(rows) + "\n")


def _write_slices(path: Path, score: NDArray[np.float64]) -> None:
    """A row a slice, a column a volume: standard score of the signal against its prediction."""
    rows = ["\t".join(["slice", *(f"volume_{v}" for v in range(score.shape[1]))])]
    rows += ["\t".join([str(k), *(f"{z:.2f}" for z in row)]) for k, row in enumerate(score)]
    write_text(path, "\n".join(rows).replace("nan", "n/a") + "\n")


def _number(value: float | np.integer) -> str:
    """A number of a table; BIDS writes n/a for none."""
    if isinstance(value, np.integer):
        return str(value)
    return "n/a" if np.isnan(value) else f"{value:.6f}"


def _figures(
    corrected: Corrected, bval: NDArray[np.float64], affine: NDArray[np.float64]
) -> dict[str, Any]:
    """What tells the quality of a scan."""
    figures = {
        "steps": [{"name": name} for name in corrected.steps],
        "n_volumes": len(bval),
        "n_b0": int((bval <= B0_THRESHOLD).sum()),
        "shells": [
            {"bval": round(float(bval[s].mean()), 1), "n_volumes": len(s)}
            for s in find_shells(bval)
        ],
        "mask_ml": round(
            float(corrected.mask.sum() * abs(np.linalg.det(affine[:3, :3])) / 1000), 1
        ),
        "share_not_covered": round(corrected.uncovered, 5),
        "distortion": "no reverse-phase b0",
        **{name: [one for one in corrected.snr if name in one] for name in ("snr", "cnr")},
    }
    if corrected.motion is not None:
        figures |= _of_motion(corrected.motion)
    if corrected.field is not None:
        moved = abs(corrected.field.displacement[corrected.mask])
        figures["mean_distortion"] = round(float(moved.mean(dtype=np.float64)), 3)
    if corrected.pair_correlation is not None:
        fits = corrected.field is not None
        figures["distortion"] = "corrected" if fits else PAIR_UNFIT
        for name, r in zip(("_raw", ""), corrected.pair_correlation, strict=True):
            if np.isfinite(r):
                figures[f"pair_correlation{name}"] = round(r, 5)
    if corrected.sigma is not None:
        figures["noise_sigma"] = round(corrected.sigma, 4)
    for name in ("neighbour_correlation_raw", "neighbour_correlation"):
        values = getattr(corrected, name)
        if not np.isnan(values).all():
            figures[name] = round(float(np.nanmean(values)), 5)
    return figures


def _of_motion(motion: Motion) -> dict[str, Any]:
    """Figures of the motion, and of lost slices where these could be looked for."""
    fd, eddy = motion.framewise_displacement(), motion.eddy_displacement()  # (g,) mm
    figures: dict[str, Any] = {
        "centre_mm": [round(float(x), 2) for x in motion.centre],
        "mean_framewise_displacement": round(float(fd.mean()), 4),
        "max_framewise_displacement": round(float(fd.max()), 4),
        "n_eddy_corrected_volumes": int((eddy > 0).sum()),
        "mean_eddy_displacement": round(float(eddy.mean()), 4),
        "max_eddy_displacement": round(float(eddy.max()), 4),
    }
    judged = np.isfinite(motion.score)  # (z, g)
    if judged.any():
        by_volume = motion.lost.sum(axis=0) / np.maximum(judged.sum(axis=0), 1)  # (g,)
        figures |= {
            "n_outlier_slices": int(motion.lost.sum()),
            "share_outlier_slices": round(float(motion.lost.sum() / judged.sum()), 6),
            "max_share_outlier_slices_of_a_volume": round(float(by_volume.max()), 4),
            "outlier_z": OUTLIER_Z,
        }
    return figures


@main.command()
@_inputs
def check(
    dwi: Path,
    bval: Path,
    bvec: Path,
    mask: Path | None,
    sidecar: Path | None,
    reverse_b0: Path | None,
    reverse_json: Path | None,
) -> None:
    """Sum a scan up and print everything that is wrong with it; exit code 1 if anything is.

    Gradients in another frame than the image's, which leave FA as it is, are a warning.
    """
    found = look_at(dwi, bval, bvec, mask, sidecar)
    scan, frame = found.scan, None
    reverse = _reverse(scan, dwi, reverse_b0, reverse_json, found.problems)
    found.problems += _slice_problems(scan, sidecar)
    if scan is not None:
        frame = gradient_frame(scan.voxels, scan.bval, scan.bvec, scan.affine)
    for line in describe(found, frame, reverse):
        click.echo(line)
    if frame is not None and frame.warning:
        click.echo(f"warning: {bvec}: {frame.warning}")
    for problem in found.problems:
        click.echo(problem)
    if found.problems:
        raise SystemExit(1)

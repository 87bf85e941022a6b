"""Command line `axoloci-preprocess`."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from axoloci.command import prefix_option, provenance, step_group
from axoloci.errors import InputError, raise_all
from axoloci.io.files import write_json, write_text
from axoloci.io.gradients import B0_THRESHOLD, find_shells, write_gradients
from axoloci.io.nifti import scan_prefix, write_nifti
from axoloci.tasks.preprocess import kernel
from axoloci.tasks.preprocess.check import gradient_frame
from axoloci.tasks.preprocess.inputs import describe, look_at, read_scan

log = logging.getLogger("axoloci")
main = step_group(
    __name__, "Raw diffusion MRI to motion-corrected volumes, a brain mask and quality figures."
)

DESCRIPTION = {
    False: "Diffusion-weighted volumes after correction of rigid head motion and of eddy currents'"
    " scale and shears along one axis, where the gradients explain these; eddy displacements are"
    " in mm at 50 mm from the brain's centre",
    True: "Diffusion-weighted volumes as they were given, negative values set to 0",
}
"""What was done to the volumes, by `already_preprocessed`."""

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


def _inputs(command: Any) -> Any:
    """The options that name one scan."""
    for option in (
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
    out: Path,
    prefix: str | None,
    already_preprocessed: bool,
) -> None:
    """Find the brain, correct head motion and turn the gradients with the head.

    Motion is rigid. Of the eddy currents, shifts are taken for motion, and the scale and shears
    along one axis that follow the gradients linearly are undone (shells of 8 volumes or more).
    Higher orders and susceptibility distortion stay: where a scan has what FSL's topup and eddy
    need, run these first and give --already-preprocessed.
    """
    scan, problems = read_scan(dwi, bval, bvec, mask)
    raise_all(problems, f"{dwi}: the scan has faults:")
    assert scan is not None
    data, bvals, bvecs, affine, brain = scan.dwi, scan.bval, scan.bvec, scan.affine, scan.mask
    weighted = bvals > B0_THRESHOLD
    n_negative = int((data < 0).sum())
    if n_negative:
        log.warning("%s: %d negative values set to 0", dwi, n_negative)
        np.maximum(data, 0, out=data)

    def find_brain() -> NDArray[np.bool_]:
        return kernel.brain_mask(
            data[..., ~weighted].mean(axis=-1), data[..., weighted].mean(axis=-1), affine
        )

    given = brain
    brain = find_brain() if given is None else given
    if already_preprocessed:
        motion = kernel.no_motion(data.shape[2:], affine, brain)
    else:
        motion = kernel.estimate_motion(data, bvals, bvecs, affine, brain)
        bvecs, covered = kernel.correct_motion(data, bvecs, affine, motion)
        brain = (find_brain() if given is None else given) & covered
    if not brain.any():
        raise InputError(f"{dwi}: no brain found; give one with --mask")

    fd, eddy = motion.framewise_displacement(), motion.eddy_displacement()  # (g,) mm
    prefix = prefix or scan_prefix(dwi)
    stem = out / f"{prefix}_desc-preproc_dwi"
    write_nifti(f"{stem}.nii.gz", data, affine)
    write_gradients(f"{stem}.bval", f"{stem}.bvec", bvals, bvecs)
    write_nifti(out / f"{prefix}_desc-brain_mask.nii.gz", brain.astype(np.uint8), affine)
    columns = ("trans_x", "trans_y", "trans_z", "rot_x", "rot_y", "rot_z")
    rows = ["\t".join(["volume", *columns, "framewise_displacement"])]
    for v, (row, d) in enumerate(zip(motion.parameters(), fd, strict=True)):
        rows.append("\t".join([str(v), *(f"{x:.6f}" for x in (*row, d))]))
    write_text(out / f"{prefix}_desc-motion_timeseries.tsv", "\n".join(rows) + "\n")
    shells = find_shells(bvals)
    write_json(
        f"{stem}.json",
        {
            "Description": DESCRIPTION[already_preprocessed],
            **provenance([path for path in (dwi, bval, bvec, mask) if path is not None]),
            "Settings": {
                "already_preprocessed": already_preprocessed,
                "spacings_mm": kernel.SPACINGS_MM,
                "mask": "given" if given is not None else "made",
            },
            "n_volumes": len(bvals),
            "n_b0": int((~weighted).sum()),
            "shells": [
                {"bval": round(float(bvals[s].mean()), 1), "n_volumes": len(s)} for s in shells
            ],
            "mask_ml": round(float(brain.sum() * abs(np.linalg.det(affine[:3, :3])) / 1000), 1),
            "mean_framewise_displacement": round(float(fd.mean()), 4),
            "max_framewise_displacement": round(float(fd.max()), 4),
            "n_eddy_corrected_volumes": int((eddy > 0).sum()),
            "mean_eddy_displacement": round(float(eddy.mean()), 4),
            "max_eddy_displacement": round(float(eddy.max()), 4),
            "n_negative_values": n_negative,
        },
    )


@main.command()
@_inputs
@click.option("--json", "sidecar", type=_FILE, help="Sidecar with the phase encoding (BIDS).")
def check(dwi: Path, bval: Path, bvec: Path, mask: Path | None, sidecar: Path | None) -> None:
    """Sum a scan up and print everything that is wrong with it; exit code 1 if anything is.

    Gradients in another frame than the image's, which leave FA as it is, are a warning.
    """
    found = look_at(dwi, bval, bvec, mask, sidecar)
    scan, frame = found.scan, None
    if scan is not None:
        frame = gradient_frame(scan.dwi, scan.bval, scan.bvec, scan.mask, scan.affine)
    for line in describe(found, frame):
        click.echo(line)
    if frame is not None and frame.is_wrong:
        click.echo(f"warning: {bvec}: {frame.warning}")
    for problem in found.problems:
        click.echo(problem)
    if found.problems:
        raise SystemExit(1)

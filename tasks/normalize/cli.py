"""Command line `axoloci-normalize`."""

from __future__ import annotations

import csv
import logging
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray

from axoloci.command import prefix_option, progress, provenance, step_group
from axoloci.errors import InputError
from axoloci.io.files import sha256, write_json, write_text
from axoloci.io.nifti import read_nifti, same_grid, scan_prefix, write_nifti

log = logging.getLogger("axoloci")
main = step_group(__name__, "FA maps in a common space, and the cohort store.")

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)

TEMPLATE = Path(__file__).parent / "MNI_FA_2mm.nii.gz"
"""TractSeg's FA template at 2 mm; TEMPLATE.md tells how it was made."""

PARTIAL = 0.9
"""Share of the brain, or of what most people's maps cover of it, below which a map is told."""

LOW_SIMILARITY = 0.5
"""Correlation with the template below which a registration deserves a look."""


@main.command()
@click.option("--fa", type=_FILE, required=True, help="FA map, 0 outside the brain.")
@click.option("--template", type=_FILE, help="FA template; MNI 2 mm (TractSeg's) if not given.")
@click.option(
    "--voxel-size",
    type=click.FloatRange(min=0.5, max=10),
    help="Voxel size of the output, mm; the template's own if not given. Halving it takes eight"
    " times the time and memory.",
)
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), required=True)
@prefix_option
def register(
    fa: Path, template: Path | None, voxel_size: float | None, out: Path, prefix: str | None
) -> None:
    """Bring an FA map to a template by an affine and a diffeomorphism, interpolated once."""
    from axoloci.tasks.normalize import kernel  # DIPY: `store` does without

    image, affine = read_nifti(fa, ndim=3)
    if not (image > 0).any():
        raise InputError(f"{fa}: no voxel above 0; was the tensor fitted inside a mask?")
    if image.max() > 1.001 or image.min() < 0:
        raise InputError(
            f"{fa}: values from {image.min():g} to {image.max():g}; FA lies between 0 and 1"
        )
    fixed, fixed_affine = _read_template(template or TEMPLATE)
    if voxel_size is not None:
        fixed, fixed_affine = kernel.regrid(fixed, fixed_affine, voxel_size)
    found = kernel.register(image, affine, fixed, fixed_affine)
    if found.similarity["warp"] < LOW_SIMILARITY:
        log.warning(
            "%s: correlation with the template is only %.2f after registration; look at the map",
            fa, found.similarity["warp"],
        )  # fmt: skip

    prefix = prefix or scan_prefix(fa)
    stem = out / f"{prefix}_space-template"
    write_nifti(f"{stem}_model-tensor_param-fa_dwimap.nii.gz", found.fa, fixed_affine)
    write_nifti(out / f"{prefix}_from-template_to-dwi_warp.nii.gz", found.warp, fixed_affine)
    write_text(
        out / f"{prefix}_from-template_to-dwi_xfm.txt",
        "".join(" ".join(f"{x:.9g}" for x in row) + "\n" for row in found.affine),
    )
    write_json(
        f"{stem}_registration.json",
        {
            "Description": "FA in the template's space; the affine and the warp lead from world"
            " coordinates (mm) of the template to those of the DWI",
            **provenance([fa, template or TEMPLATE]),
            "Settings": {"template": (template or TEMPLATE).name, "voxel_size": voxel_size},
            "similarity": {name: round(r, 5) for name, r in found.similarity.items()},
            "head_scale": round(float(np.linalg.det(found.affine[:3, :3])), 5),
        },
    )


@main.command()
@click.option(
    "--maps",
    type=_FILE,
    required=True,
    help="Table (TSV) with the columns sample_id and path; a map whose SHA-256 differs from that"
    " in a third one, sha256, is refused.",
)
@click.option("--template", type=_FILE, help="The template that the maps were registered to.")
@click.option(
    "--mask", type=_FILE, help="Voxels to keep, instead of the template's brain that people share."
)
@click.option(
    "--like",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Cohort store whose voxels are kept, so that its encoder can read this one.",
)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Cohort store (Zarr).")
def store(
    maps: Path, template: Path | None, mask: Path | None, like: Path | None, out: Path
) -> None:
    """Pack the maps of all people into one cohort store.

    Without --mask, a voxel is kept if the template's FA is above 0.05 there and 95% of the people
    have a value. Paths in the table are relative to the table. One map is in memory at a time.
    """
    from axoloci.io.cohort import read_cohort, write_cohort

    sample_id, paths, digests = _read_maps(maps)
    first, affine = read_nifti(paths[0], ndim=3)
    shape = first.shape
    if mask is not None and like is not None:
        raise InputError("--mask and --like both say which voxels are kept; give one")
    if like is not None:
        other = read_cohort(like)
        if other.mask.shape != shape or not np.allclose(other.affine, affine, atol=1e-3):
            raise InputError(f"{paths[0]}: is not on the grid of {like}")
        keep = other.mask
    elif mask is not None:
        keep = same_grid(mask, shape, affine, paths[0]) > 0
    else:
        keep = _group_mask(sample_id, paths, template or TEMPLATE, affine)
    if not keep.any():
        raise InputError(f"{mask or maps}: no voxel is left in the mask")
    source: list[dict[str, str]] = []

    def rows() -> Iterator[NDArray[np.float32]]:
        people = zip(sample_id, progress(paths, "store", len(paths)), digests, strict=True)
        for name, path, expected in people:
            digest = sha256(path)
            if expected and digest != expected.lower():
                raise InputError(
                    f"{path}: the map of {name} changed since it was made; register {name} again"
                )
            row = same_grid(path, shape, affine, paths[0])[keep]  # (n_voxels,)
            share = np.count_nonzero(row) / row.size
            if share < PARTIAL:
                log.warning("%s: the map covers %.0f%% of the mask", path, 100 * share)
            source.append({"sample_id": name, "name": path.name, "sha256": digest})
            yield row

    write_cohort(out, sample_id, rows(), keep, affine, source)
    log.info("%s: %d people, %d voxels", out, len(sample_id), int(keep.sum()))


def _read_template(path: Path) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """An FA template, refused where it cannot be one."""
    image, affine = read_nifti(path, ndim=3)
    if not 0.2 < image.max() < 1.5 or image.min() < 0:
        raise InputError(
            f"{path}: values from {image.min():g} to {image.max():g}; an FA template is needed"
        )
    return image, affine


def _read_maps(table: Path) -> tuple[list[str], list[Path], list[str]]:
    """Ids, paths and digests ("" if not given) of a table; every fault is named."""
    with open(table, newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file, delimiter="\t")
        if not {"sample_id", "path"} <= set(reader.fieldnames or ()):
            raise InputError(f"{table}: needs the columns sample_id and path, tab-separated")
        rows = [(row["sample_id"], row["path"], row.get("sha256") or "") for row in reader]
    if not rows:
        raise InputError(f"{table}: no maps")
    problems, seen = [], set()
    for line, (name, path, _) in enumerate(rows, start=2):
        if not name or not path:
            problems.append(f"line {line}: sample_id or path is empty")
        elif name in seen:
            problems.append(f"line {line}: sample_id {name} occurs twice; keep one map a person")
        elif not (table.parent / path).is_file():
            problems.append(f"line {line}: {path} of {name} is not there")
        seen.add(name)
    if problems:
        raise InputError(f"{table}: " + "; ".join(problems[:20]))
    names, paths, digests = (list(column) for column in zip(*rows, strict=True))
    return names, [table.parent / path for path in paths], digests


def _group_mask(
    sample_id: list[str], paths: list[Path], template: Path, affine: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """Voxels of the template's brain that nearly all maps cover; who costs the others is told."""
    from axoloci.tasks.normalize import kernel

    fixed, fixed_affine = _read_template(template)
    shape = read_nifti(paths[0], ndim=3)[0].shape

    def covered(path: Path) -> NDArray[np.bool_]:
        return np.not_equal(same_grid(path, shape, affine, paths[0]), 0)

    brain = kernel.brain_of(fixed, fixed_affine, shape, affine)
    coverage = np.zeros(shape, dtype=np.int64)
    shares = np.zeros(len(paths))  # of the template's brain
    for i, path in enumerate(progress(paths, "mask", len(paths))):
        voxels = covered(path)
        coverage += voxels
        shares[i] = int((voxels & brain).sum()) / max(1, int(brain.sum()))
    mask = kernel.group_mask(coverage, len(paths), brain)
    # a field of view without the cerebellum, shared by all, is no fault of anyone
    partial = np.flatnonzero(shares < PARTIAL * np.median(shares))
    if partial.size:
        others = coverage.copy()
        for k in partial:
            others -= covered(paths[k])
        without = kernel.group_mask(others, len(paths) - partial.size, brain)
        for k in partial:
            log.warning(
                "%s: the map of %s covers %.0f%% of the template's brain, most maps %.0f%%",
                *(paths[k], sample_id[k], 100 * shares[k], 100 * np.median(shares)),
            )
        log.warning(
            "the common mask has %d voxels, and %d fewer than without %s; to win them, name in "
            "'keep' only the others",
            *(mask.sum(), (without & ~mask).sum(), ", ".join(sample_id[k] for k in partial)),
        )
    return mask

"""Command line `axoloci-normalize`."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray

from axoloci.command import prefix_option, progress, provenance, step_group
from axoloci.errors import InputError
from axoloci.io.files import sha256, whole_file, write_json, write_text
from axoloci.io.nifti import read_nifti, same_grid, scan_prefix, write_nifti
from axoloci.tasks.normalize.inputs import (
    TEMPLATE,
    maps_below,
    read_fa,
    read_maps,
    read_template,
)

log = logging.getLogger("axoloci")
main = step_group(__name__, "FA maps in a common space, and the cohort store.")

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)

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
@click.option(
    "--jacobian",
    is_flag=True,
    help="Also write, for each voxel, the volume in the scan over that in the template, head size"
    " apart.",
)
@prefix_option
def register(
    fa: Path,
    template: Path | None,
    voxel_size: float | None,
    out: Path,
    jacobian: bool,
    prefix: str | None,
) -> None:
    """Bring an FA map to a template by an affine and a diffeomorphism, interpolated once.

    The JSON beside it tells how well: correlation with the template before, after the affine and
    after the warp; overlap of brain and of white matter (FA above 0.25); volume change by the warp
    alone, where a share of the brain that is folded should be 0; head size.
    """
    from axoloci.tasks.normalize import kernel  # DIPY: `store` does without

    image, affine = read_fa(fa)
    fixed, fixed_affine = read_template(template or TEMPLATE)
    if voxel_size is not None:
        fixed, fixed_affine = kernel.regrid(fixed, fixed_affine, voxel_size)
    found = kernel.register(image, affine, fixed, fixed_affine)
    if found.similarity["warp"] < LOW_SIMILARITY:
        log.warning(
            "%s: correlation with the template is only %.2f after registration; look at the map",
            fa, found.similarity["warp"],
        )  # fmt: skip

    if found.folded > 0:
        log.warning("%s: the warp folds in %.2g%% of the brain", fa, 100 * found.folded)

    prefix = prefix or scan_prefix(fa)
    stem = out / f"{prefix}_space-template"
    write_nifti(f"{stem}_model-tensor_param-fa_dwimap.nii.gz", found.fa, fixed_affine)
    write_nifti(out / f"{prefix}_from-template_to-dwi_warp.nii.gz", found.warp, fixed_affine)
    if jacobian:
        path = out / f"{prefix}_from-template_to-dwi_jacobian.nii.gz"
        write_nifti(path, found.jacobian, fixed_affine)
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
            "dice": {name: round(d, 5) for name, d in found.dice.items()},
            "jacobian": _jacobian_figures(found.jacobian[fixed > kernel.TEMPLATE_MIN_FA]),
        },
    )


@main.command("build-template")
@click.option(
    "--maps",
    type=click.Path(exists=True, path_type=Path),
    required=True,
    help="FA maps in the scans' own spaces: a table (TSV) with the columns sample_id and path, or a"
    " folder of BIDS derivatives such as that of a study.",
)
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), required=True)
@click.option(
    "--anchor",
    type=_FILE,
    help="FA template that gives grid, place and direction; MNI 2 mm (TractSeg's) if not given.",
)
@click.option(
    "--rounds",
    type=click.IntRange(min=1),
    default=4,
    help="Rounds of nonlinear averaging; more than four change little.",
)
@click.option(
    "--n-maps",
    type=click.IntRange(min=3),
    default=100,
    help="If there are more maps, so many by chance. Twenty make a sharp template; more make it"
    " less that of a few.",
)
@click.option("--seed", type=int, default=0, help="Of the choice of maps.")
@click.option("--n-procs", type=click.IntRange(min=1), default=1, help="People at a time.")
def build_template(
    maps: Path,
    out: Path,
    anchor: Path | None,
    rounds: int,
    n_maps: int,
    seed: int,
    n_procs: int,
) -> None:
    """Make a cohort's own FA template, in the mean of its people's shapes.

    It lies where the anchor lies, and its brain is as large as the cohort's on average. A map and
    round take about 10 s at 2 mm, a process 0.6 GB. Beside the template: the share of people who
    have each voxel, the way to the anchor (`axoloci-normalize tracts --warp`), figures, and a
    picture with a row a round. A killed run goes on when it is called again; a map that cannot be
    used is left out and named.
    """
    from axoloci.tasks.normalize import kernel
    from axoloci.tasks.normalize.build import TemplateBuilder, mosaic

    stem = out.name.removesuffix(".gz").removesuffix(".nii")
    if stem == out.name:
        raise InputError(f"{out}: name the template .nii.gz or .nii")
    found = maps_below(maps) if maps.is_dir() else dict(zip(*read_maps(maps)[:2], strict=True))
    names = list(found)
    if len(names) > n_maps:
        chosen = np.random.default_rng(seed).choice(len(names), n_maps, replace=False)
        names = [names[k] for k in sorted(chosen)]
        log.info("%d of %d maps are used", n_maps, len(found))
    used = {name: found[name] for name in names}
    fixed, affine = read_template(anchor or TEMPLATE)
    about = provenance([*used.values(), anchor or TEMPLATE])
    work = out.with_name(f"{stem}_work")
    made_of = {"Software": about["Software"], "Sources": about["Sources"], "people": names}
    builder = TemplateBuilder(used, fixed, affine, work, made_of, n_procs)
    stages = []
    for number, stage in enumerate(builder.stages(rounds)):
        stages.append(stage)
        log.info("%s: %s", f"round {number}" if number else "affine average", stage.figures)
        picture = mosaic([stage.image for stage in stages], affine)
        with whole_file(out.with_name(f"{stem}.png")) as temporary:
            temporary.write_bytes(picture)
    last = stages[-1]
    to_anchor = kernel.register(fixed, affine, last.image, affine).warp
    write_nifti(out.with_name(f"{stem}_from-template_to-anchor_warp.nii.gz"), to_anchor, affine)
    write_nifti(out.with_name(f"{stem}_coverage.nii.gz"), last.coverage, affine)
    write_json(
        out.with_name(f"{stem}.json"),
        {
            "Description": "FA template of a cohort; coverage is the share of its people who have a"
            " voxel, the warp leads from its world coordinates (mm) to those of the anchor",
            **about,
            "Settings": {"anchor": (anchor or TEMPLATE).name, "rounds": rounds},
            "stages": [
                {"stage": f"round {k}" if k else "affine", **stage.figures}
                for k, stage in enumerate(stages)
            ],
            "similarity": last.similarity,
            "left_out": last.left_out,
        },
    )
    write_nifti(out, last.image, affine)
    shutil.rmtree(work)
    log.info("%s: of %d people, %d left out", out, len(last.similarity), len(last.left_out))


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

    sample_id, paths, digests = read_maps(maps)
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


def _jacobian_figures(jacobian: NDArray[np.float32]) -> dict[str, float]:
    """What is told of the Jacobian determinants (n,) of the brain."""
    low, p1, median, p99 = (float(j) for j in np.percentile(jacobian, [0, 1, 50, 99]))
    folded = float((jacobian <= 0).mean())
    figures = {"min": low, "p1": p1, "p50": median, "p99": p99, "folded": folded}
    return {name: round(value, 5) for name, value in figures.items()}


def _group_mask(
    sample_id: list[str], paths: list[Path], template: Path, affine: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """Voxels of the template's brain that nearly all maps cover; who costs the others is told."""
    from axoloci.tasks.normalize import kernel

    fixed, fixed_affine = read_template(template)
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

"""Command line `axoloci-normalize`."""

from __future__ import annotations

import logging
import shlex
import shutil
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray

from axoloci.command import prefix_option, progress, provenance, step_group
from axoloci.errors import InputError
from axoloci.io.ahead import map_ahead
from axoloci.io.atlas import labels_at, read_atlas, read_label_names
from axoloci.io.files import sha256, whole_file, write_json, write_text
from axoloci.io.nifti import (
    check_grid,
    read_header,
    read_nifti,
    same_grid,
    scan_prefix,
    write_nifti,
)
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

IN_BRAIN = 0.5
"""Share of an atlas's labels that must lie where the maps have FA."""

LOW_SIMILARITY = 0.5
"""Correlation with the template below which a registration deserves a look."""

EXIT_WITH_NAMED_FAILURES = 3

_REGISTERED = (
    "Table (TSV) with the columns sample_id and path of maps in one space: a study has it as"
    " maps.tsv in its output folder."
)


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
    after the warp; overlap of brain and of white matter (FA above 0.25); the share of the
    template's brain in the scan's field of view; volume change by the warp alone, where a share of
    the brain that is folded should be 0; head size.
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

    volume = _jacobian_figures(found.jacobian[fixed > kernel.TEMPLATE_MIN_FA])
    if volume["folded"] > 0:
        log.warning("%s: the warp folds in %.2g%% of the brain", fa, 100 * volume["folded"])

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
            "share_in_view": round(found.share_in_view, 5),
            "jacobian": volume,
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
    default=3,
    help="Rounds of nonlinear averaging; more than three change little.",
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
    round take about 8 s at 2 mm, a process 0.5 GB. Beside the template: the share of people who
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
        shift = stage.figures.get("mean_displacement_mm", {"median": 0})["median"]
        log.info(
            "%s: similarity %.3f, mean displacement of %.2f mm taken off",
            *(
                f"round {number}" if number else "affine average",
                stage.figures["similarity"],
                shift,
            ),
        )
        picture = mosaic([stage.image for stage in stages], affine)
        with whole_file(out.with_name(f"{stem}.png")) as temporary:
            picture.save(temporary, format="png")
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
    type=click.Path(path_type=Path),
    help="Cohort store whose voxels are kept, so that its encoder can read this one.",
)
@click.option(
    "--dtype",
    type=click.Choice(("float16", "uint8")),
    default="float16",
    help="How maps are stored: float16 has FA within 2.5e-4, uint8 within 0.002 (1/510 of a map's"
    " range) in two thirds of the disk and time to read.",
)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Cohort store (Zarr).")
def store(
    maps: Path, template: Path | None, mask: Path | None, like: Path | None, dtype: str, out: Path
) -> None:
    """Pack the maps of all people into one cohort store.

    Without --mask, a voxel is kept if the template's FA is above 0.05 there and 95% of the people
    have a value. Paths in the table are relative to the table. A few maps are in memory at a time.
    A killed run goes on when it is called again, and reads only the maps that are not packed yet.

    Called again for more people, fewer or others, it takes what the store at --out holds of the
    same files (by SHA-256) and packs only the rest; at the end the new store, in the order of the
    table, replaces that one. This needs the same --dtype and the same voxels: the common mask
    changes with the people, so give --mask, or --like with that store itself. All files are still
    read for their SHA-256, and the whole store is written anew: at 50,000 people and 1 mm 0.26 TB
    are read and 0.1 TB written. Until the end both stores are on the disk.
    """
    from axoloci.io.cohort import group_attributes, mask_digest, read_cohort
    from axoloci.io.packing import restore_older, write_cohort

    sample_id, paths, digests = read_maps(maps)
    header = read_header(paths[0], 3)
    shape, affine = header.shape, header.affine
    if mask is not None and like is not None:
        raise InputError("--mask and --like both say which voxels are kept; give one")
    versions = [digest or _as_it_is(path) for path, digest in zip(paths, digests, strict=True)]
    kept = out.with_name(f".{out.name}.mask.npz")
    restore_older(out)
    if like is not None:
        other = read_cohort(like)
        check_grid(paths[0], shape, affine, other.mask.shape, other.affine, like)
        keep = other.mask
    elif mask is not None:
        keep = same_grid(mask, shape, affine, paths[0]) > 0
    else:
        keep = _kept_group_mask(kept, sample_id, paths, template or TEMPLATE, affine)
        if group_attributes(out).get("mask_sha256", mask_digest(keep)) != mask_digest(keep):
            log.warning(
                "%s: these people have another common mask than those of the store that is there, "
                "so all maps are packed anew; --like %s keeps its voxels and takes its maps over",
                *(out, shlex.quote(str(out))),
            )
    if not keep.any():
        raise InputError(f"{mask or maps}: no voxel is left in the mask")
    if dropped := set(group_attributes(out).get("sample_id", ())) - set(sample_id):
        log.warning(
            "%s: %d people of the store that is there are not in %s, and will not be in the new "
            "one: %s",
            *(out, len(dropped), maps, ", ".join(sorted(dropped)[:10])),
        )
    source = [
        {"sample_id": name, "name": path.name} for name, path in zip(sample_id, paths, strict=True)
    ]

    def file_digest(person: int) -> str:
        """SHA-256 of a person's map; refused if the table has another."""
        name, path, expected = sample_id[person], paths[person], digests[person]
        digest = sha256(path)
        if expected and digest != expected.lower():
            raise InputError(
                f"{path}: the map of {name} changed since it was made; register {name} again"
            )
        return digest

    def row(person: int) -> NDArray[np.float32]:
        """The map of a person in the mask, (n_voxels,); outside it there may be NaN."""
        return same_grid(paths[person], shape, affine, paths[0], keep)[keep]

    def tell_partial(person: int, values: NDArray[np.float32]) -> None:
        """Tell of a map (n_voxels,) that lacks much of the mask; what it lacks is 0."""
        share = np.count_nonzero(values) / values.size
        if share < PARTIAL:
            log.warning("%s: the map covers %.0f%% of the mask", paths[person], 100 * share)

    write_cohort(
        *(out, sample_id, row, keep, affine, source),
        dtype=dtype,
        versions=versions,
        file_digest=file_digest,
        inspect=tell_partial,
        watch=lambda packed, n_maps: progress(packed, "store", n_maps),
    )
    kept.unlink(missing_ok=True)
    log.info("%s: %d people, %d voxels", out, len(sample_id), int(keep.sum()))


@main.command("check-store")
@click.option("--cohort", type=click.Path(path_type=Path), required=True, help="Cohort store.")
def check_store(cohort: Path) -> None:
    """Read a whole cohort store and name the people whose maps are damaged or missing.

    Prints their sample_id, one a line; exit code 3 if there are any. The rest can be used: a
    damaged map stops only what reads it. Maps of one value, which axoloci-encoder leaves out, are
    no damage: the log names them.
    """
    from axoloci.io.cohort import check_cohort, read_cohort

    people = read_cohort(cohort)
    faults = check_cohort(people, lambda checked, n_maps: progress(checked, "check", n_maps))
    for name in faults.damaged:
        click.echo(name)
    if faults.constant:
        log.warning("%s: one value in the whole map of %s", cohort, ", ".join(faults.constant))
    log.info("%s: %d of %d maps are damaged", cohort, len(faults.damaged), people.n_samples)
    if faults.damaged:
        raise SystemExit(EXIT_WITH_NAMED_FAILURES)


@main.command()
@click.option("--maps", type=_FILE, required=True, help=_REGISTERED)
@click.option(
    "--mean",
    type=_FILE,
    help="FA map that the skeleton is drawn from; the maps' mean if not given.",
)
@click.option(
    "--threshold",
    type=click.FloatRange(min=0.0, max=1.0),
    default=0.2,
    help="Mean FA below which the skeleton ends.",
)
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), required=True)
def skeleton(maps: Path, mean: Path | None, threshold: float, out: Path) -> None:
    """Project FA onto the middle of the tracts, after TBSS (doi:10.1016/j.neuroimage.2006.02.024).

    Makes mean_fa.nii.gz, skeleton.nii.gz, a projected map of each person, and maps.tsv that names
    them; `axoloci-normalize store --maps OUT/maps.tsv --mask OUT/skeleton.nii.gz` packs them. FSL's
    own search for the cingulum below the corpus callosum is not among it.
    """
    from axoloci.tasks.normalize import skeleton as kernel

    sample_id, paths, _ = read_maps(maps)
    first, affine = read_fa(paths[0])
    if mean is not None:
        average = same_grid(mean, first.shape, affine, paths[0])
    else:
        total = np.zeros(first.shape)
        for path in progress(paths, "mean", len(paths)):
            total += same_grid(path, first.shape, affine, paths[0])
        average = (total / len(paths)).astype(np.float32)
    voxel = np.linalg.norm(affine[:3, :3], axis=0)
    axis = kernel.across(average, voxel)
    middle = kernel.skeletonize(average, axis, threshold)
    if not middle.any():
        raise InputError(f"{mean or maps}: no mean FA above {threshold:g}; lower --threshold")
    lines = kernel.search_lines(middle, axis, voxel)
    write_nifti(out / "mean_fa.nii.gz", average, affine)
    write_nifti(out / "skeleton.nii.gz", middle.astype(np.uint8), affine)
    rows = ["sample_id\tpath\tsha256"]
    for name, path in zip(sample_id, progress(paths, "skeleton", len(paths)), strict=True):
        fa = same_grid(path, first.shape, affine, paths[0])
        made = out / f"{name}_skeleton.nii.gz"
        write_nifti(made, kernel.project(fa, middle, lines), affine)
        rows.append(f"{name}\t{made.name}\t{sha256(made)}")
    write_text(out / "maps.tsv", "\n".join(rows) + "\n")
    log.info("%s: %d people, %d voxels of the skeleton", out, len(paths), int(middle.sum()))


@main.command()
@click.option("--maps", type=_FILE, required=True, help=_REGISTERED)
@click.option("--atlas", type=_FILE, required=True, help="Image of labels in the maps' space.")
@click.option(
    "--names",
    type=_FILE,
    help="Names of the labels: lines of a number and a name, as text, TSV, or FSL's XML.",
)
@click.option(
    "--warp",
    type=_FILE,
    help="The atlas is in another space, and this leads there: of a cohort's template, its"
    " ..._from-template_to-anchor_warp.nii.gz.",
)
@click.option(
    "--weight",
    type=_FILE,
    help="Image on the maps' grid that weights the voxels, such as a skeleton or a probability.",
)
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), required=True, help="TSV.")
def tracts(
    maps: Path, atlas: Path, names: Path | None, warp: Path | None, weight: Path | None, out: Path
) -> None:
    """Mean FA of each label of an atlas: a table with a row a person, fit for `traits`.

    A voxel has the label of the nearest voxel of the atlas, by their places in mm. Means are of the
    voxels that a map has; n/a where it has less than half of a label. The JSON beside the table
    tells how many voxels each label has. Mind the licence of the atlas; none comes with axoloci.
    """
    from axoloci.tasks.normalize import tracts as kernel
    from axoloci.tasks.normalize.kernel import world_grid

    sample_id, paths, _ = read_maps(maps)
    first, affine = read_fa(paths[0])
    if warp is None:
        place = world_grid(first.shape, affine)
    else:
        place, warp_affine = read_nifti(warp, ndim=4)
        check_grid(warp, place.shape[:3], warp_affine, first.shape, affine, paths[0])
    labelled, atlas_affine = read_atlas(atlas)
    if warp is None and (
        labelled.shape != first.shape or not np.allclose(atlas_affine, affine, atol=1e-3)
    ):
        log.info("%s: each voxel of the maps takes the label of the nearest one", atlas)
    labels = labels_at(labelled, atlas_affine, place)
    weights = np.ones(first.shape, dtype=np.float32)
    if weight is not None:
        weights = same_grid(weight, first.shape, affine, paths[0])
    called = read_label_names(names) if names else {}
    numbers = np.unique(labelled[labelled > 0])
    columns = [called.get(int(number), f"label_{number}") for number in numbers]
    n_voxels = np.bincount(labels[weights > 0], minlength=int(numbers.max()) + 1)[numbers]
    _warn_of_swapped_sides(atlas, labels, numbers, columns, place)
    lost = [column for column, n in zip(columns, n_voxels, strict=True) if n == 0]
    rows, covered = ["\t".join(("sample_id", *columns))], 0.0
    for name, path in zip(sample_id, progress(paths, "tracts", len(paths)), strict=True):
        fa = same_grid(path, first.shape, affine, paths[0])
        means = kernel.label_means(fa, labels, numbers, weights)
        covered += float((fa[labels > 0] > 0).mean()) if labels.any() else 0.0
        missing = [c for c, mean in zip(columns, means, strict=True) if np.isnan(mean)]
        if set(missing) - set(lost):
            told = ", ".join(sorted(set(missing) - set(lost))[:5])
            log.warning("%s: covers less than half of %d labels: %s", path, len(missing), told)
        rows.append("\t".join((name, *("n/a" if np.isnan(m) else f"{m:.5f}" for m in means))))
    if covered < IN_BRAIN * len(paths):
        raise InputError(
            f"{atlas}: only {covered / len(paths):.0%} of its labels lie in the brain of the maps; "
            "it is of another space: bring it there, or name the way to it by --warp"
        )
    if lost:
        log.warning("%s: no voxel of the maps has %s", atlas, ", ".join(lost))
    write_json(
        out.with_suffix(".json"),
        {
            "Description": "Mean FA of the labels of an atlas, one row a person",
            **provenance([atlas, *([names] if names else []), *([warp] if warp else []), *paths]),
            "labels": [
                {"label": int(number), "name": column, "n_voxels": int(n)}
                for number, column, n in zip(numbers, columns, n_voxels, strict=True)
            ],
        },
    )
    write_text(out, "\n".join(rows) + "\n")
    log.info("%s: %d people, %d labels", out, len(paths), len(columns))


def _warn_of_swapped_sides(
    atlas: Path,
    labels: NDArray[np.int32],
    numbers: NDArray[np.int32],
    columns: list[str],
    place: NDArray[np.floating],
) -> None:
    """Warn of an atlas whose right lies on the left: its header was turned, not its voxels."""
    sides = {"l": -1, "left": -1, "r": 1, "right": 1}
    wrong = named = 0
    for number, column in zip(numbers, columns, strict=True):
        side = [sides[word] for word in column.lower().split("_") if word in sides]
        where = labels == number
        if len(side) == 1 and where.any():
            named += 1
            wrong += bool(side[0] * place[where][:, 0].mean() < 0)
    if wrong > named / 2:
        log.warning(
            "%s: %d of %d labels that are named left or right lie on the other side (x > 0 is the "
            "right one): is the atlas swapped, or are its names?",
            *(atlas, wrong, named),
        )


def _jacobian_figures(jacobian: NDArray[np.float32]) -> dict[str, float]:
    """What is told of the Jacobian determinants (n,) of the brain."""
    low, p1, median, p99 = (float(j) for j in np.percentile(jacobian, [0, 1, 50, 99]))
    folded = float((jacobian <= 0).mean())
    figures = {"min": low, "p1": p1, "p50": median, "p99": p99, "folded": folded}
    return {name: round(value, 5) for name, value in figures.items()}


def _as_it_is(path: Path) -> str:
    """What changes when a file does, without reading it."""
    status = path.stat()
    return f"{path} {status.st_size} {status.st_mtime_ns}"


def _kept_group_mask(
    kept: Path,
    sample_id: list[str],
    paths: list[Path],
    template: Path,
    affine: NDArray[np.float64],
) -> NDArray[np.bool_]:
    """The group mask, kept in a file: all maps are read for it, and this run may be killed."""
    made_of = repr((sha256(template), *map(_as_it_is, paths)))
    if kept.exists():
        with np.load(kept) as found:
            if str(found["made_of"]) == made_of:
                mask: NDArray[np.bool_] = found["mask"]
                return mask
    mask = _group_mask(sample_id, paths, template, affine)
    with whole_file(kept) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, mask=mask, made_of=made_of)
    return mask


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
    for i, voxels in enumerate(progress(map_ahead(covered, paths), "mask", len(paths))):
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

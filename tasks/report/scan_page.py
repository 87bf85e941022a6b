"""The page of one scan: what was done with it, its quality figures, the pictures to judge it by."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from axoloci.errors import InputError
from axoloci.io.nifti import read_nifti, same_grid
from axoloci.quality import (
    DETAILS,
    FIGURES,
    LIMITS,
    Flag,
    absolute_flags,
    derived_figures,
    figure_of,
    is_of_shell,
    level_of,
    number,
    quality_figures,
    volume_faults,
)
from axoloci.tasks.report import charts, scan_figures
from axoloci.tasks.report.charts import Volumes
from axoloci.tasks.report.document import (
    Cell,
    Picture,
    Table,
    drawing,
    number_cell,
    photo,
    render,
    to_ras,
    voxel_size,
)
from axoloci.tasks.report.scan_figures import OUTLINE, Map

WHITE_MATTER = 0.3  # smoothed FA at which the outlines of white matter run
MAX_FA, MAX_MD = 0.8, 2e-3  # drawn white; MD in mm²/s
STEPS = {  # a description of each step, by the end of its name
    "preprocess": "desc-preproc_dwi.json",
    "dti": "model-tensor_dwimap.json",
    "normalize": "space-template_registration.json",
}
MISSING = ("", "n/a")
TILES = (
    *("mean_framewise_displacement", "share_outlier_slices", "neighbour_correlation"),
    *("mean_fa", "median_md", "similarity_warp"),
)
VERDICTS = {
    "exclude": "The data are wrong by a rule: the group does without them, unless exclude.tsv of "
    "the study says otherwise.",
    "look": "Somebody should look at this scan.",
    None: "All figures keep their limits; how they compare with other scans, qc.html of the study "
    "tells.",
}

Maps = tuple[NDArray[Any], NDArray[np.float64]]


@dataclass
class ScanPage:
    """All that the template shows."""

    prefix: str
    verdict: str = ""
    level: str = "good"
    flags: list[Flag] = field(default_factory=list)
    tiles: list[tuple[str, str]] = field(default_factory=list)  # figure, name with its unit
    acquisition: list[tuple[str, str]] = field(default_factory=list)
    done: list[tuple[str, str]] = field(default_factory=list)
    not_done: list[tuple[str, str]] = field(default_factory=list)
    volumes: Table | None = None
    figures: Table | None = None
    pictures: dict[str, Picture] = field(default_factory=dict)


class Scan:
    """The derivatives of one scan in a folder, by their names; all but one may be absent."""

    def __init__(self, folder: Path, prefix: str) -> None:
        self.folder, self.prefix = folder, prefix
        self.about = {step: self.read_json(name) for step, name in STEPS.items()}
        if not any(self.about.values()):
            raise InputError(
                f"{folder}: nothing of '{prefix}' (no {prefix}_{STEPS['preprocess']} and the like);"
                " name folder and prefix as the steps were given them"
            )
        self.figures: dict[str, Any] = {}
        for description in self.about.values():
            self.figures |= quality_figures(description)
        self.figures |= derived_figures(self.figures)

    def path(self, name: str) -> Path:
        """A file of the scan, whether it is there or not."""
        return self.folder / f"{self.prefix}_{name}"

    def read_json(self, name: str) -> dict[str, Any]:
        """A description; empty if there is none."""
        try:
            content = json.loads(self.path(name).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            raise InputError(f"{self.path(name)}: cannot be read as JSON: {error}") from error
        return content if isinstance(content, dict) else {}

    def read_map(self, name: str, ndim: int = 3) -> Maps | None:
        """A map of the tensor with its affine; none if there is none."""
        path = self.path(f"model-tensor_param-{name}_dwimap.nii.gz")
        return read_nifti(path, ndim) if path.exists() else None

    def read_table(self, name: str) -> dict[str, NDArray[np.float64]]:
        """Columns of a table of numbers, NaN where one is missing; empty if there is no table."""
        try:
            with self.path(name).open(encoding="utf-8", newline="") as lines:
                head, *rows = csv.reader(lines, delimiter="\t")
            values = np.array(
                [[math.nan if word in MISSING else float(word) for word in row] for row in rows]
            ).reshape(-1, len(head))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            raise InputError(f"{self.path(name)}: cannot be read as a table: {error}") from error
        return dict(zip(head, values.T, strict=True))

    def read_b0(self) -> Maps | None:
        """The first volume without weighting; where the volumes were removed, that of the fit.

        The fit knows nothing outside of the mask, and so not what the mask lacks.
        """
        path, bval = self.path("desc-preproc_dwi.nii.gz"), self.read_bval()
        if not path.exists() or bval is None:
            return self.read_map("bzero")
        image: Any = nib.load(path)
        volume = np.asarray(image.dataobj[..., int(np.argmin(bval))], dtype=np.float32)
        return volume, np.asarray(image.affine)

    def read_bval(self) -> NDArray[np.float64] | None:
        """b-values, s/mm²."""
        path = self.path("desc-preproc_dwi.bval")
        return np.loadtxt(path, ndmin=1) if path.exists() else None


def make_scan_page(
    folder: Path, prefix: str, *, template: Path | None = None, acquisition: Sequence[str] = ()
) -> str:
    """The page of a scan as HTML, from what lies in a folder under its prefix.

    Parameters
    ----------
    folder, prefix
        Where the derivatives lie, and how their names begin.
    template
        FA template to show beside the registered map.
    acquisition
        Scanner and sequence, as KEY=VALUE.

    Raises
    ------
    InputError
        Nothing of the scan is there, or a file is not what it should be.
    """
    scan = Scan(folder, prefix)
    page = ScanPage(prefix)
    _add_verdict(page, scan)
    _add_acquisition(page, scan, acquisition)
    _add_work(page, scan)
    _add_volumes(page, scan)
    _add_shells(page, scan)
    _add_maps(page, scan)
    _add_registration(page, scan, template)
    _add_figures(page, scan)
    return render("scan_page.html.jinja", page=page)


def _add_verdict(page: ScanPage, scan: Scan) -> None:
    """The rules that the scan breaks, and its main figures."""
    flags = absolute_flags(scan.figures)
    page.level = level_of(flags) or "good"
    page.verdict = VERDICTS[level_of(flags)]
    page.flags = flags
    for name in TILES:
        if math.isfinite(value := number(scan.figures.get(name))):
            told = figure_of(name)
            page.tiles.append((told.text(value), told.label))


def _add_acquisition(page: ScanPage, scan: Scan, acquisition: Sequence[str]) -> None:
    """Scanner, sequence, grid and shells."""
    page.acquisition += [
        (_words(key), value) for key, _, value in (one.partition("=") for one in acquisition)
    ]
    about = scan.about["preprocess"] or scan.about["dti"]
    if "n_volumes" in about:
        page.acquisition.append(("volumes", f"{about['n_volumes']:,}"))
    if shells := about.get("shells"):
        told = ", ".join(f"b = {s['bval']:.0f}: {s['n_volumes']}" for s in shells)
        page.acquisition.append(("volumes a shell (s/mm²)", told))
    if (fa := scan.path("model-tensor_param-fa_dwimap.nii.gz")).exists():
        image: Any = nib.load(fa)
        sizes = " × ".join(f"{size:.3g}" for size in image.header.get_zooms()[:3])
        page.acquisition += [
            ("voxels", " × ".join(map(str, image.shape))),
            ("voxel size", f"{sizes} mm"),
        ]


DISTORTION = "Susceptibility distortion"
OPTIONAL = {
    "denoise": ("denoising", "too few volumes"),
    "unring": ("unringing", "not done"),
    "motion": ("motion", "not done"),
}
"""Options of the correction: the part that each asks for, and why it may lack nevertheless."""


def _add_work(page: ScanPage, scan: Scan) -> None:
    """What was done with the scan, and what was not."""
    about, fit, registered = (scan.about[step] for step in STEPS)
    if not about:
        page.not_done.append(("Correction", "the scan entered after it"))
    elif about.get("Settings", {}).get("already_preprocessed"):
        page.not_done.append(("Correction", "the volumes were given as corrected, and kept"))
    else:
        steps = [str(step["name"]) for step in about.get("steps") or ()]
        told = ", ".join(step for step in steps if step.capitalize() != DISTORTION)
        page.done.append(("Correction", told or str(about.get("Description", ""))))
        for option, (part, lacking) in OPTIONAL.items():
            asked = about.get("Settings", {}).get(option)
            if asked is not None and part not in steps:
                page.not_done.append((part.capitalize(), lacking if asked else "not asked for"))
        distortion = about.get("distortion")
        if distortion == "corrected":
            page.done.append((DISTORTION, _distortion(about)))
        else:
            page.not_done.append((DISTORTION, str(distortion or "not corrected")))
    if fit:
        method = fit.get("Model", {}).get("Parameters", {}).get("FitMethod", "")
        used = fit.get("n_volumes_used")
        told = f"{method}, {used} volumes" if used else str(method)
        page.done.append(("Tensor fit", told))
    else:
        page.not_done.append(("Tensor fit", "the FA map was given"))
    if registered:
        chosen = registered.get("Settings", {})
        page.done.append(("Registration of FA", f"to {chosen.get('template', 'a template')}"))
    else:
        page.not_done.append(("Registration of FA", "not there yet"))
    # that of the fitted volumes counts, as among the figures
    if frame := {**about, **fit}.get("gradient_frame", {}).get("best"):
        page.done.append(("Check of the gradients' frame", str(frame)))


def _distortion(about: Mapping[str, Any]) -> str:
    """By how much distortion was corrected, and what that did to the pair of b0s."""
    told = "corrected"
    if (shift := about.get("mean_distortion")) is not None:
        told += f", on average by {shift:.2f} mm"
    before, after = (about.get(name) for name in ("pair_correlation_raw", "pair_correlation"))
    if before is not None and after is not None:
        told += f"; correlation of the two b0s {before:.3f} before, {after:.3f} after"
    return told


def _add_volumes(page: ScanPage, scan: Scan) -> None:
    """Traces of the volumes, and which of them one may do without."""
    motion = scan.read_table("desc-motion_timeseries.tsv")
    translation, rotation = ([f"{kind}_{axis}" for axis in "xyz"] for kind in ("trans", "rot"))
    if not {*translation, *rotation, "framewise_displacement"} <= set(motion):
        return
    displacement = motion["framewise_displacement"]
    n = len(displacement)
    if n == 0:
        return
    table = scan.read_table("desc-slices_timeseries.tsv")
    residuals = [column for name, column in table.items() if name.startswith("volume_")]
    carpet = np.stack(residuals, axis=1) if len(residuals) == n else None  # (slices, n)
    counts = motion.get("n_outlier_slices")
    judged = None if carpet is None else np.maximum(np.isfinite(carpet).sum(axis=0), 1)
    shares = None if counts is None or judged is None else counts / judged
    bval = scan.read_bval()
    volumes = Volumes(
        displacement=displacement,
        translation=np.stack([motion[name] for name in translation], axis=1),
        rotation=np.degrees(np.stack([motion[name] for name in rotation], axis=1)),
        bval=bval if bval is not None and len(bval) == n else None,
        correlation=motion.get("neighbour_correlation"),
        raw_correlation=motion.get("neighbour_correlation_raw"),
        carpet=carpet,
        outlier_z=scan.about["preprocess"].get("outlier_z"),
        outlier_share=shares,
    )
    limits = {
        "displacement": _look("mean_framewise_displacement", high=True),
        "correlation": _look("neighbour_correlation", high=False),
    }
    shown = ["framewise displacement", "translation", "rotation"]
    shown += ["correlation with neighbours"] * (volumes.correlation is not None)
    shown += ["slices against their prediction"] * (carpet is not None)
    n_framed = 0 if counts is None else int(np.nansum(counts))
    page.pictures["volumes"] = drawing(
        charts.volume_traces(volumes, limits),
        f"Traces over {n} volumes: {', '.join(shown)}. Mean framewise displacement "
        f"{displacement.mean():.2f} mm, largest {displacement.max():.2f} mm"
        + (f"; {n_framed} slices replaced." if counts is not None else "."),
        "Framewise displacement is that to the volume before (rotations at 50 mm). Shifts by eddy "
        "currents, which the translations hold, are not counted in it."
        + (" Each slice is compared with its prediction from the others." if carpet is not None
           else ""),
    )  # fmt: skip
    page.volumes = _volume_table(volumes)


def _look(figure: str, *, high: bool) -> float:
    """The limit of a figure from which on a scan is to be looked at."""
    (limit,) = (one for one in LIMITS if one.figure == figure and one.level == "look")
    at = limit.high if high else limit.low
    assert at is not None
    return at


def _volume_table(volumes: Volumes) -> Table:
    """The volumes that a study may do without, and why."""
    n = len(volumes.displacement)
    shares = np.full(n, np.nan) if volumes.outlier_share is None else volumes.outlier_share
    rows = []
    for volume in range(n):
        if why := volume_faults(float(volumes.displacement[volume]), float(shares[volume])):
            bval = None if volumes.bval is None else float(volumes.bval[volume])
            correlation = None if volumes.correlation is None else volumes.correlation[volume]
            rows.append(
                [
                    number_cell(volume, 0),
                    number_cell(bval, 0),
                    number_cell(float(volumes.displacement[volume]), 2),
                    number_cell(100 * float(shares[volume]), 0),
                    number_cell(None if correlation is None else float(correlation), 3),
                    Cell(why, kind="text"),
                ]
            )
    head = ["volume (from 0)", "b, s/mm²", "displacement, mm", "slices replaced, %",
            "correlation", "why"]  # fmt: skip
    return Table(head, rows, len(rows))


def _add_shells(page: ScanPage, scan: Scan) -> None:
    """Signal to noise ratio of b0s, contrast to noise ratio of shells."""
    shells = [
        (name, number(one.get("bval")), number(one.get(name)))
        for name in ("snr", "cnr")
        for one in scan.about["preprocess"].get(name) or ()
    ]
    shells = [(name, bval, ratio) for name, bval, ratio in shells if math.isfinite(ratio)]
    if shells:
        told = [f"{name.upper()} {ratio:.1f} at b = {bval:.0f}" for name, bval, ratio in shells]
        page.pictures["shells"] = drawing(
            charts.shell_bars(
                [f"b = {bval:.0f}" for _, bval, _ in shells], [ratio for *_, ratio in shells]
            ),
            f"Signal and contrast to noise ratio: {', '.join(told)}.",
            "b0: mean over standard deviation of the b0 volumes; weighted shells: contrast to "
            "noise, the spread that directions explain over what they do not.",
            wide=False,
        )


def _add_maps(page: ScanPage, scan: Scan) -> None:
    """Mask on the b0, and the maps of the tensor."""
    fa = scan.read_map("fa")
    if fa is None:
        return
    affine = fa[1]
    brain = scan.path("desc-brain_mask.nii.gz")
    inside = fa[0] > 0
    if brain.exists():
        inside = same_grid(brain, fa[0].shape, affine, brain) > 0
    mask, voxel = to_ras(inside, affine), voxel_size(affine)
    if (b0 := scan.read_b0()) is not None and b0[0].shape == inside.shape:
        image, outline = scan_figures.cropped(mask, to_ras(b0[0], affine), mask)
        page.pictures["mask"] = photo(
            scan_figures.outlined_brain(image, outline, voxel, "b0"),
            "The b0 in axial, coronal and sagittal slices with the outline of the brain mask.",
            "The brain mask (line) on the b0. It should hold all of the brain and little else.",
        )
    rows = []
    if (colour := scan.read_map("decfa", ndim=4)) is not None:
        rows.append(Map("colour FA", np.clip(to_ras(colour[0], affine) / MAX_FA, 0, 1)))
    rows.append(Map(f"FA\nwhite {MAX_FA:g}", to_ras(fa[0], affine), (0, MAX_FA)))
    if (md := scan.read_map("md")) is not None:
        rows.append(Map(f"MD\nwhite {MAX_MD:g}", to_ras(md[0], affine), (0, MAX_MD)))
    if (residual := scan.read_map("residual")) is not None:
        white = max(float(np.percentile(residual[0][inside], 99)), 1e-9)
        rows.append(Map(f"residual\nwhite {white:.2g}", to_ras(residual[0], affine), (0, white)))
    names = [row.label.partition("\n")[0] for row in rows]
    page.pictures["maps"] = photo(
        scan_figures.mosaic(rows, mask, voxel),
        f"Slices of {', '.join(names)} of this scan: five axial, one coronal, one sagittal.",
        "Maps in the scan's own space; left of the picture is left of the person."
        + (" Colour FA: red left–right, green front–back, blue up–down." if colour else ""),
    )


def _add_registration(page: ScanPage, scan: Scan, template: Path | None) -> None:
    """The registered FA beside the template, with the outlines of the template's white matter."""
    path = scan.path("space-template_model-tensor_param-fa_dwimap.nii.gz")
    if not path.exists():
        return
    fa, affine = read_nifti(path, ndim=3)
    rows = [Map("this scan", to_ras(fa, affine), (0, MAX_FA))]
    mask = rows[0].volume > 0
    if template is not None:
        fixed = to_ras(_on_grid(template, fa.shape, affine), affine)
        mask = fixed > 0.05 * fixed.max()
        line = _smooth(fixed) > WHITE_MATTER * min(1.0, float(fixed.max()))
        rows = [
            Map("template", fixed, (0, MAX_FA), ((line, OUTLINE),)),
            Map("this scan", rows[0].volume, (0, MAX_FA), ((line, OUTLINE),)),
            Map("this scan", rows[0].volume, (0, MAX_FA)),
        ]
    similarity = number(scan.figures.get("similarity_warp"))
    told = f" Correlation with the template: {similarity:.2f}." if math.isfinite(similarity) else ""
    beside = template is not None
    page.pictures["registration"] = photo(
        scan_figures.mosaic(rows, mask, voxel_size(affine)),
        f"FA in the common space{' beside the template' if beside else ''}, in slices.{told}",
        "FA in the common space."
        + (" Lines: outline of the template's white matter, the same on both." if beside else "")
        + told,
    )


def _smooth(volume: NDArray[Any]) -> NDArray[np.float32]:
    """A volume (x, y, z) smoothed by 1 voxel SD: twice along each axis by 1/4, 1/2, 1/4."""
    padded: NDArray[np.float32] = np.pad(volume.astype(np.float32), 1, mode="edge")
    for axis in (0, 0, 1, 1, 2, 2):
        sides = np.roll(padded, 1, axis) + np.roll(padded, -1, axis)
        padded = (padded / 2 + sides / 4).astype(np.float32)
    return padded[1:-1, 1:-1, 1:-1]


def _on_grid(
    path: Path, shape: tuple[int, ...], affine: NDArray[np.float64]
) -> NDArray[np.float32]:
    """An image on another grid, linearly interpolated."""
    image, own = read_nifti(path, ndim=3)
    if image.shape == shape and np.allclose(own, affine, atol=1e-3):
        return image
    from scipy import ndimage  # takes longer to load than all else of a page that can do without

    to_own = np.linalg.inv(own) @ affine
    return np.asarray(
        ndimage.affine_transform(image, to_own[:3, :3], to_own[:3, 3], shape, order=1)
    )


def _add_figures(page: ScanPage, scan: Scan) -> None:
    """Every quality figure with its limits."""
    broken = {flag.figure for flag in page.flags}
    limits: dict[str, dict[str, str]] = {}
    for limit in LIMITS:
        limits.setdefault(limit.figure, {})[limit.level] = limit.bounds
    rows = []
    named = {**FIGURES, **DETAILS}
    names = [name for name in named if name in scan.figures]
    for name in [*names, *(name for name in scan.figures if name not in names)]:
        value, told = scan.figures[name], figure_of(name)
        kind = "flag" if name in broken else "number"
        if isinstance(value, str):
            shown = Cell(value, kind=kind)
        elif name in named or is_of_shell(name):
            shown = Cell(told.text(float(value)), float(value), kind)
        else:
            shown = Cell(f"{value:,.6g}", float(value), kind)
        own = limits.get(name, {})
        bounds = [Cell(own.get(level, "")) for level in ("look", "exclude")]
        rows.append([Cell(told.label, kind="name"), shown, *bounds])
    page.figures = Table(["figure", "value", "to be looked at", "excluded"], rows, len(rows))


def _words(key: str) -> str:
    """A BIDS key as words: "EchoTime" is "echo time".

    >>> _words("ManufacturersModelName")
    'manufacturers model name'
    """
    parts = "".join(f" {letter.lower()}" if letter.isupper() else letter for letter in key)
    return parts.strip()

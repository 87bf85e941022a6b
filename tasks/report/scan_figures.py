"""The pictures of a scan's page, from arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from axoloci.tasks.report import kernel
from axoloci.tasks.report.figures import (
    ACCENT,
    MUTED,
    RULE,
    SECOND,
    TONES,
    Slice,
    empty_figure,
    picture_grid,
    slice_size,
)

AXES = ("x", "y", "z")
AXIS_COLOURS = (ACCENT, SECOND, TONES[0])
CARPET_Z = 6.0  # z-score at the ends of the carpet's colours
PLANES = (("axial", 2), ("coronal", 1), ("sagittal", 0))
OUTLINE, SECOND_OUTLINE = "#ffb000", "#4fc3f7"


@dataclass(frozen=True)
class Volumes:
    """What is known of each volume of a scan; what is not known is none.

    Attributes
    ----------
    bval
        [float, shape: (g,)] s/mm².
    displacement
        [float, shape: (g,)] Framewise displacement, mm.
    translation, rotation
        [float, shape: (g, 3)] mm, degrees.
    correlation, raw_correlation
        [float, shape: (g,)] With the volume of the nearest direction, as it is now and as it was.
    carpet
        [float, shape: (slices, g)] z-score of each slice's residual, NaN where there is none.
    outlier_z
        Below it, a slice was taken for an outlier.
    outlier_share
        [float, shape: (g,)] Share of each volume's slices that are outliers.
    """

    displacement: NDArray[np.float64]
    translation: NDArray[np.float64]
    rotation: NDArray[np.float64]
    bval: NDArray[np.float64] | None = None
    correlation: NDArray[np.float64] | None = None
    raw_correlation: NDArray[np.float64] | None = None
    carpet: NDArray[np.float64] | None = None
    outlier_z: float | None = None
    outlier_share: NDArray[np.float64] | None = None


def volume_traces(volumes: Volumes, limits: Mapping[str, float]) -> Figure:
    """Motion, correlation with neighbours and slices, one above the other, volume by volume.

    Parameters
    ----------
    volumes
        Of the scan.
    limits
        Of `displacement` (mm, of its mean) and `correlation`, drawn where they are in the picture.
    """
    n = len(volumes.displacement)
    panels = [("displacement", 1.0), ("translation", 1.0), ("rotation", 1.0)]
    if volumes.correlation is not None or volumes.raw_correlation is not None:
        panels.append(("correlation", 1.0))
    if volumes.carpet is not None:
        panels.append(("carpet", 2.0))
    heights = [height for _, height in panels]
    figure = empty_figure(11, 1.35 * sum(heights) + 0.5)
    grid = figure.subplots(len(panels), 1, sharex=True, height_ratios=heights, squeeze=False)[:, 0]
    at, draw = np.arange(n), dict(zip((name for name, _ in panels), grid, strict=True))
    _line(draw["displacement"], at, volumes.displacement, TONES[0])
    draw["displacement"].set_title("Framewise displacement, mm")
    draw["displacement"].set_ylim(0, 1.15 * max(1.0, float(np.nanmax(volumes.displacement))))
    _limit(draw["displacement"], limits.get("displacement"), "limit of the mean")
    for name, values, unit in (
        ("translation", volumes.translation, "mm"),
        ("rotation", volumes.rotation, "degrees"),
    ):
        for axis in range(3):
            _line(draw[name], at, values[:, axis], AXIS_COLOURS[axis], AXES[axis])
        draw[name].set_title(f"{name.capitalize()}, {unit}")
        draw[name].legend(ncols=3, loc="upper right", fontsize=8, borderaxespad=0)
        _least_span(draw[name], 0.5)
    if "correlation" in draw:
        for correlation, colour, label in (
            (volumes.raw_correlation, TONES[1], "raw"),
            (volumes.correlation, ACCENT, "processed"),
        ):
            if correlation is not None:
                _line(draw["correlation"], at, correlation, colour, label)
        draw["correlation"].set_title("Correlation with the volume of the nearest direction")
        draw["correlation"].legend(ncols=2, loc="lower right", fontsize=8, borderaxespad=0)
        _limit(draw["correlation"], limits.get("correlation"), "limit of the mean")
        draw["correlation"].set_ylim(top=1.0)
    if volumes.carpet is not None:
        _carpet(figure, draw["carpet"], volumes)
    if volumes.bval is not None:
        for volume in np.flatnonzero(volumes.bval <= volumes.bval.min() + 50):
            for axes in grid:
                axes.axvspan(volume - 0.5, volume + 0.5, color=RULE, alpha=0.55, linewidth=0,
                             zorder=0)  # fmt: skip
    grid[-1].set_xlabel("Volume (grey: b0)" if volumes.bval is not None else "Volume")
    grid[-1].set_xlim(-0.5, n - 0.5)
    return figure


def _line(axes: Axes, at: NDArray[Any], values: NDArray[Any], colour: str, label: str = "") -> None:
    """One trace; single values between missing ones stay visible."""
    axes.plot(at, values, color=colour, linewidth=1.1, marker=".", markersize=3, label=label)


def _limit(axes: Axes, limit: float | None, label: str) -> None:
    """A limit as a dashed line, where it lies in the picture."""
    low, high = axes.get_ylim()
    if limit is not None and low <= limit <= high:
        axes.axhline(limit, color=ACCENT, linewidth=0.8, linestyle=(0, (5, 4)))
        axes.annotate(label, (1, limit), xycoords=("axes fraction", "data"), fontsize=7.5,
                      color=ACCENT, ha="right", va="bottom")  # fmt: skip


def _least_span(axes: Axes, least: float) -> None:
    """An axis that does not blow up what is next to nothing, with room for its legend."""
    low, high = axes.get_ylim()
    span = max(high - low, 2 * least)
    middle = (low + high) / 2
    axes.set_ylim(middle - span / 2, middle + 0.75 * span)


def _carpet(figure: Figure, axes: Axes, volumes: Volumes) -> None:
    """Slices by volumes; outliers are framed."""
    assert volumes.carpet is not None
    carpet = volumes.carpet
    image = axes.imshow(
        np.ma.masked_invalid(carpet), cmap="RdBu_r", vmin=-CARPET_Z, vmax=CARPET_Z, aspect="auto",
        origin="lower", interpolation="nearest",
    )  # fmt: skip
    axes.set_facecolor(RULE)
    if volumes.outlier_z is not None:
        slices, places = np.nonzero(np.nan_to_num(carpet) <= volumes.outlier_z)
        axes.scatter(places, slices, marker="s", s=14, facecolors="none", edgecolors="black",
                     linewidths=0.7)  # fmt: skip
    axes.set_title("Slices against their prediction, robust z-score (framed: replaced)")
    axes.set_ylabel("Slice")
    axes.spines[["left", "bottom"]].set_visible(False)
    bar = figure.colorbar(image, ax=axes, location="right", fraction=0.02, pad=0.01)
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=7.5, color=MUTED)


def shell_bars(labels: Sequence[str], values: Sequence[float]) -> Figure:
    """Signal to noise ratio of each shell."""
    figure = empty_figure(5.2, 0.8 + 0.42 * len(labels))
    axes = figure.subplots()
    places = np.arange(len(labels))[::-1]
    axes.barh(places, values, height=0.62, color=TONES[1])
    for place, value in zip(places, values, strict=True):
        axes.annotate(f" {value:.1f}", (value, place), va="center", fontsize=9)
    axes.set_yticks(places, labels)
    axes.tick_params(axis="y", length=0)
    axes.set_xlim(0, 1.15 * max([1.0, *values]))
    axes.set_xlabel("SNR")
    return figure


def cropped(mask: NDArray[np.bool_], *volumes: NDArray[Any]) -> list[NDArray[Any]]:
    """Volumes cut to the box of a mask with some room, so that a brain fills its picture.

    Parameters
    ----------
    mask
        [bool, shape: (x, y, z)]
    volumes
        [shape: (x, y, z) or (x, y, z, colours)]
    """
    box = []
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        inside = np.flatnonzero(mask.any(axis=others))
        first, last = (inside[0], inside[-1]) if inside.size else (0, mask.shape[axis] - 1)
        room = 2 + (last - first) // 20
        box.append(slice(max(0, first - room), last + room + 1))
    return [volume[tuple(box)] for volume in volumes]


def outlined_brain(
    image: NDArray[Any], mask: NDArray[np.bool_], voxel: Sequence[float], label: str, n: int = 6
) -> Figure:
    """An image in three planes with the outline of a mask.

    Parameters
    ----------
    image
        [float, shape: (x, y, z)] Right, anterior, superior axes.
    mask
        [bool, shape: (x, y, z)]
    voxel
        Voxel size, mm.
    label, n
        What it is, and slices a plane.
    """
    inside = image[mask] if mask.any() else image.ravel()
    white = max(float(np.percentile(inside, 99)), 1e-6)
    rows = [
        [
            Slice(
                kernel.cut(image, axis, at),
                slice_size(mask.shape, voxel, axis),
                span=(0.0, white),
                outlines=((kernel.cut(mask, axis, at), OUTLINE),),
            )
            for at in kernel.through_brain(mask, axis, n)
        ]
        for _, axis in PLANES
    ]
    return picture_grid(rows, [f"{label}\n{plane}" for plane, _ in PLANES])


@dataclass(frozen=True)
class Map:
    """One row of a mosaic: values with the range that they span, or RGB."""

    label: str
    volume: NDArray[Any]  # (x, y, z) or (x, y, z, 3), right, anterior, superior axes
    span: tuple[float, float] = (0.0, 1.0)
    outlines: tuple[tuple[NDArray[np.bool_], str], ...] = ()  # (x, y, z) each


def mosaic(maps: Sequence[Map], mask: NDArray[np.bool_], voxel: Sequence[float]) -> Figure:
    """Maps of one grid in rows, cut to the brain: five axial slices, one coronal, one sagittal."""
    (brain,) = cropped(mask, mask)
    slices = kernel.choose_slices(brain)
    rows = []
    for one in maps:
        volume, *outlines = cropped(mask, one.volume, *(outline for outline, _ in one.outlines))
        lines = list(zip(outlines, (colour for _, colour in one.outlines), strict=True))
        rows.append(
            [
                Slice(
                    kernel.cut(volume, *at),
                    slice_size(brain.shape, voxel, at[0]),
                    span=one.span,
                    outlines=tuple((kernel.cut(line, *at), colour) for line, colour in lines),
                )
                for at in slices
            ]
        )
    return picture_grid(rows, [one.label for one in maps])

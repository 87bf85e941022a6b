"""The pictures of the study's page, from arrays, one function a picture; no screen is needed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from numpy.typing import NDArray
from PIL import Image

from axoloci.tasks.report import kernel
from axoloci.tasks.report.document import ACCENT, INK, MUTED, TONES
from axoloci.tasks.report.pictures import DIFFERENCE, GREY, Slice, picture_grid, slice_size

MAX_LABELS = 24
Bars = tuple[NDArray[np.int64], NDArray[np.float64]]  # counts (k,) and edges (k + 1,)
LINEAR_UP_TO = 20.0  # −log10 p above which the axis is compressed

mpl.rcParams.update(
    {
        "font.family": "sans-serif",
        "font.sans-serif": ["DejaVu Sans"],  # comes with matplotlib: the same picture everywhere
        "font.size": 9.5,
        "text.color": INK,
        "axes.edgecolor": MUTED,
        "axes.labelcolor": INK,
        "axes.linewidth": 0.8,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.titlesize": 10,
        "axes.titlelocation": "left",
        "xtick.color": MUTED,
        "ytick.color": MUTED,
        "legend.frameon": False,
    }
)


def manhattan(
    place: NDArray[np.float64],
    chromosome: NDArray[np.integer[Any]],
    neg_log10_p: NDArray[Any],
    edges: NDArray[np.float64],
    names: Sequence[str],
    leads: Sequence[tuple[float, float, str]] = (),
    line: float = -np.log10(5e-8),
) -> Figure:
    """Association along the genome.

    Parameters
    ----------
    place, chromosome, neg_log10_p
        [shape: (n_points,)] Thinned variants: place on the axis, rank of the chromosome.
    edges
        [float64, shape: (n_chromosomes, 2)] From `kernel.place_variants`.
    names
        Of the chromosomes.
    leads
        Place, −log10 p and name of the variants to label, most significant first.
    line
        −log10 p of a lead variant.
    """
    figure = empty_figure(11, 4.6 if leads else 3.9)
    axes = figure.subplots()
    significant = draw_genome(axes, place, chromosome, neg_log10_p, edges, names, line)
    axes.scatter(
        place[significant], neg_log10_p[significant], s=9, c=ACCENT, linewidths=0, rasterized=True
    )
    span = max(float(edges[:, 1].max()), 1.0)  # base pairs; one variant alone spans none
    chosen = sorted(leads[:MAX_LABELS])
    across = axes.get_xaxis_transform()  # x in data, y from 0 to 1
    texts = kernel.spread_labels(
        np.array([lead[0] for lead in chosen]), 0.026 * span, 0, 0.96 * span
    )
    for (x, y, name), x_text in zip(chosen, texts, strict=True):
        on_axis = axes.transData.transform((x, y))  # pixels
        y_share = float(axes.transAxes.inverted().transform(on_axis)[1])
        axes.plot(
            [x, x, x_text], [y_share + 0.015, 1.0, 1.05], transform=across,
            color=MUTED, linewidth=0.6, clip_on=False,
        )  # fmt: skip
        axes.text(
            x_text, 1.06, name if len(name) <= 18 else f"{name[:17]}…", transform=across,
            rotation=38, rotation_mode="anchor", ha="left", va="bottom", fontsize=8.5,
        )  # fmt: skip
    return figure


def draw_genome(
    axes: Axes,
    place: NDArray[np.float64],
    chromosome: NDArray[np.integer[Any]],
    neg_log10_p: NDArray[Any],
    edges: NDArray[np.float64],
    names: Sequence[str],
    line: float,
) -> NDArray[np.bool_]:
    """The axes of a Manhattan plot, its line, and the variants below that.

    Parameters
    ----------
    axes
        To draw on.
    place, chromosome, neg_log10_p, edges, names, line
        As for `manhattan`.

    Returns
    -------
    [bool, shape: (n_points,)] The variants from the line on, which are left to be drawn.
    """
    highest = max([line, *neg_log10_p[np.isfinite(neg_log10_p)]])
    significant = np.asarray(neg_log10_p >= line)
    for tone in (0, 1):
        here = ~significant & (chromosome % 2 == tone)
        axes.scatter(
            place[here], neg_log10_p[here], s=4, c=TONES[tone], linewidths=0, rasterized=True
        )
    axes.axhline(line, color=ACCENT, linewidth=0.8, linestyle=(0, (5, 4)))
    span = max(float(edges[:, 1].max()), 1.0)  # base pairs; one variant alone spans none
    axes.set_xlim(-0.012 * span, 1.012 * span)
    axes.set_ylim(0, 1.06 * highest)
    compress_axis(axes, highest)
    centres, width = edges.mean(axis=1), np.diff(edges, axis=1)[:, 0]
    half = [(0.0038 * len(name) + 0.001) * span for name in names]  # of a label at this size
    shown: list[int] = []
    for k in range(len(names)):
        if not shown or centres[k] - centres[shown[-1]] > half[k] + half[shown[-1]]:
            shown.append(k)
    axes.set_xticks(centres[shown], [names[k] for k in shown])
    axes.tick_params(axis="x", length=0)
    for start, end in edges[width > 0]:
        axes.plot([start, end], [0, 0], color=MUTED, linewidth=1.4, clip_on=False)
    axes.spines["bottom"].set_visible(False)
    axes.set_xlabel("Chromosome")
    axes.set_ylabel("−log₁₀ p")
    return significant


def compress_axis(axes: Axes, highest: float) -> None:
    """Make the axis of −log10 p logarithmic from 20 on, where it goes far beyond."""
    if highest <= 2 * LINEAR_UP_TO:
        return
    limits = axes.get_ylim()
    axes.set_yscale("function", functions=(_compress, _expand))
    marks = [0, 5, 10, 15, 20, 30, 50, 100, 200, 500, 1000, 2000, 5000]
    axes.set_yticks([mark for mark in marks if mark <= limits[1]])
    axes.set_ylim(limits)


def quantiles(
    expected: NDArray[np.float64], observed: NDArray[np.float64], band: NDArray[np.float64]
) -> Figure:
    """Quantiles of the joint test against the null; arrays from `kernel.quantile_points`."""
    figure = empty_figure(5.2, 4.6)
    axes = figure.subplots()
    axes.fill_between(expected, band[:, 0], band[:, 1], color=TONES[1], alpha=0.35, linewidth=0)
    limit = float(expected.max(initial=1)) * 1.04
    axes.plot([0, limit], [0, limit], color=MUTED, linewidth=0.9)
    axes.scatter(expected, observed, s=9, c=TONES[0], linewidths=0, rasterized=True, zorder=3)
    axes.set_xlim(0, limit)
    axes.set_ylim(0, 1.05 * max(limit, float(observed.max(initial=1))))
    compress_axis(axes, float(observed.max(initial=0)))
    axes.set_xlabel("Expected −log₁₀ p")
    axes.set_ylabel("Observed −log₁₀ p")
    return figure


def brains(
    volumes: NDArray[Any],
    labels: Sequence[str],
    white: Sequence[float],
    mask: NDArray[np.bool_],
    voxel: Sequence[float],
) -> Image.Image:
    """One row of slices a volume, grey, on black.

    Parameters
    ----------
    volumes
        [float, shape: (n_rows, x, y, z)] Right, anterior, superior axes.
    labels
        [shape: (n_rows,)]
    white
        [shape: (n_rows,)] The value that is drawn white; zero is black.
    mask
        [bool, shape: (x, y, z)]
    voxel
        Voxel size, mm.
    """
    slices = kernel.choose_slices(mask)
    rows = [
        [
            Slice(
                kernel.cut(volume, *at), slice_size(mask.shape, voxel, at[0]), span=(0.0, highest)
            )
            for at in slices
        ]
        for volume, highest in zip(volumes, white, strict=True)
    ]
    return picture_grid(rows, labels)


def examples(
    original: NDArray[Any],
    reconstruction: NDArray[Any],
    labels: Sequence[str],
    voxel: Sequence[float],
) -> Image.Image:
    """Original, reconstruction and difference of a few people, an axial and a sagittal slice.

    Parameters
    ----------
    original, reconstruction
        [float, shape: (n_rows, x, y, z)] Right, anterior, superior axes.
    labels
        [shape: (n_rows,)]
    voxel
        Voxel size, mm.
    """
    original = np.asarray(original, dtype=np.float32)
    difference = np.asarray(reconstruction, dtype=np.float32) - original
    mask = (original != 0).any(axis=0)
    slices = [kernel.choose_slices(mask)[k] for k in (2, 6)]  # axial, sagittal
    seen = np.abs(original[:, mask]) if mask.any() else np.ones(1)
    vmax = max(float(np.percentile(seen, 99.5)), 1e-6)
    limit = vmax / 4
    rows = []
    for row in range(len(original)):
        kinds: list[tuple[NDArray[Any], Sequence[str], tuple[float, float]]] = [
            (original[row], GREY, (0.0, vmax)),
            (reconstruction[row], GREY, (0.0, vmax)),
            (difference[row], DIFFERENCE, (-limit, limit)),
        ]
        rows.append(
            [
                Slice(kernel.cut(volume, *at), slice_size(mask.shape, voxel, at[0]), name, span)
                for at in slices
                for volume, name, span in kinds
            ]
        )
    heads = ["original", "reconstruction", f"difference ±{limit:.2g}"] * 2
    return picture_grid(rows, labels, heads)


def training(
    epoch: NDArray[Any],
    losses: dict[str, NDArray[Any]],
    r2: NDArray[Any] | None = None,
    bars: Bars | None = None,
) -> Figure:
    """Loss by epoch, and how well people's maps are reconstructed.

    Parameters
    ----------
    epoch
        [shape: (n_epochs,)]
    losses
        Name to [float, shape: (n_epochs,)]; the last one is the one to judge by.
    r2
        [float, shape: (n_samples,)] Reconstruction R² a person.
    bars
        Counts and edges of its histogram, in place of `r2`, on a page that is shared.
    """
    n_panels = int(bool(losses)) + int(r2 is not None or bars is not None)
    figure = empty_figure(5.5 * n_panels, 3.4)
    panels = list(np.atleast_1d(figure.subplots(1, n_panels)))
    if losses:
        axes = panels.pop(0)
        for (name, loss), colour in zip(losses.items(), (TONES[1], TONES[0]), strict=False):
            axes.plot(epoch, loss, color=colour, linewidth=1.6, label=name)
        name, judged = list(losses.items())[-1]
        if np.isfinite(judged).any():
            best = int(np.nanargmin(judged))
            axes.plot(epoch[best], judged[best], "o", color=ACCENT, markersize=5,
                      label=f"best: epoch {epoch[best]:g}, {judged[best]:.3g}")  # fmt: skip
        every = np.concatenate(list(losses.values()))
        every = every[np.isfinite(every)]
        if every.size and every.min() > 0 and every.max() > 8 * every.min():
            axes.set_yscale("log")
        axes.set_xlabel("Epoch")
        axes.set_ylabel("Loss")
        axes.legend()
    if panels:
        _reconstruction(panels[0], r2, bars)
    return figure


def components(
    kept: NDArray[Any], r2: NDArray[Any] | None = None, bars: Bars | None = None
) -> Figure:
    """Variance that the components keep, and how well people's maps are reconstructed.

    Parameters
    ----------
    kept
        [float, shape: (n_components,)] Share of the variance of the first so many together.
    r2, bars
        As for `training`.
    """
    figure = empty_figure(5.5 * (1 + int(r2 is not None or bars is not None)), 3.4)
    axes, *others = list(np.atleast_1d(figure.subplots(1, 1 + int(figure.get_figwidth() > 6))))
    axes.plot(np.arange(1, len(kept) + 1), 100 * kept, color=TONES[0], linewidth=1.6)
    axes.set_ylim(0, 100)
    axes.set_xlabel("Components")
    axes.set_ylabel("Variance kept, %")
    if others:
        _reconstruction(others[0], r2, bars)
    return figure


def _reconstruction(axes: Any, r2: NDArray[Any] | None, bars: Bars | None) -> None:
    """Histogram of reconstruction R² over people; its bars in their place on a shared page."""
    if r2 is not None:
        axes.hist(r2, bins=min(40, max(8, len(r2) // 6)), color=TONES[1], edgecolor="white")
        axes.axvline(float(np.median(r2)), color=ACCENT, linewidth=1.2)
        axes.set_title(f"median {np.median(r2):.3f}")
        axes.set_xlabel("Reconstruction R² of a person's map")
        axes.set_ylabel("People")
    elif bars is not None:
        _draw_bars(axes, bars)
        axes.set_xlabel("Reconstruction R² of people's maps")
        axes.set_ylabel("People")


def distributions(
    values: Sequence[NDArray[Any]], labels: Sequence[str], outliers: Sequence[NDArray[np.bool_]]
) -> Figure:
    """Histograms of quality figures side by side, outliers as marks.

    Parameters
    ----------
    values
        Per figure [float, shape: (n_scans,)], NaN where missing.
    labels
        Name and unit of each figure.
    outliers
        Per figure [bool, shape: (n_scans,)]
    """
    figure, grid = _panels(len(values))
    for axes, value, label, out in zip(grid, values, labels, outliers, strict=False):
        finite = value[np.isfinite(value)]
        axes.hist(finite, bins=min(30, max(6, len(finite) // 5)), color=TONES[1], edgecolor="white",
                  linewidth=0.4)  # fmt: skip
        if out.any():
            axes.plot(value[out], np.zeros(out.sum()), "v", color=ACCENT, markersize=6, zorder=5,
                      clip_on=False)  # fmt: skip
        _label_panel(axes, label)
    return figure


def shared_distributions(bars: Sequence[Bars], labels: Sequence[str]) -> Figure:
    """Histograms of quality figures side by side, from counts alone.

    Parameters
    ----------
    bars
        Per figure counts [int, shape: (k,)] and edges [float, shape: (k + 1,)].
    labels
        Name and unit of each figure.
    """
    figure, grid = _panels(len(bars))
    for axes, one, label in zip(grid, bars, labels, strict=False):
        _draw_bars(axes, one)
        _label_panel(axes, label)
    return figure


def _panels(n: int) -> tuple[Figure, list[Axes]]:
    """A figure of n small panels, at most four in a row."""
    n_columns = min(4, n)
    n_rows = -(-n // n_columns)
    figure = empty_figure(2.75 * n_columns, 2.1 * n_rows)
    grid = list(np.atleast_1d(figure.subplots(n_rows, n_columns)).ravel())
    for axes in grid[n:]:
        axes.set_axis_off()
    return figure, grid[:n]


def _draw_bars(axes: Axes, bars: Bars) -> None:
    """A histogram from its counts and edges; the axis spans all edges, those of empty bars too."""
    counts, edges = bars
    axes.bar(edges[:-1], counts, np.diff(edges), align="edge", color=TONES[1], edgecolor="white",
             linewidth=0.4)  # fmt: skip
    axes.set_xlim(edges[0], edges[-1])


def _label_panel(axes: Axes, label: str) -> None:
    """Title and few ticks of a small panel."""
    axes.set_title(label, fontsize=8.5)
    axes.tick_params(labelsize=7.5)
    axes.locator_params(axis="x", nbins=4)
    axes.locator_params(axis="y", nbins=4, integer=True)


def empty_figure(width: float, height: float) -> Figure:
    """An empty figure, inches, that keeps room around and between its panels."""
    layout = ConstrainedLayoutEngine(w_pad=0.14, h_pad=0.14, wspace=0.05, hspace=0.06)
    return Figure(figsize=(width, height), layout=layout)


def _compress(y: NDArray[np.float64]) -> NDArray[np.float64]:
    """Linear up to 20, logarithmic beyond, without a kink."""
    y = np.asarray(y, dtype=np.float64)
    beyond = LINEAR_UP_TO * (1 + np.log(np.maximum(y, LINEAR_UP_TO) / LINEAR_UP_TO))
    return np.where(y <= LINEAR_UP_TO, y, beyond)


def _expand(y: NDArray[np.float64]) -> NDArray[np.float64]:
    """Inverse of `_compress`."""
    y = np.asarray(y, dtype=np.float64)
    beyond = LINEAR_UP_TO * np.exp(np.clip(y / LINEAR_UP_TO - 1, 0, 100))
    return np.where(y <= LINEAR_UP_TO, y, beyond)

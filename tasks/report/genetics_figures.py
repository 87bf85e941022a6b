"""The pictures of single traits, regions, heritability, correlations and voxels, from arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.colors import LinearSegmentedColormap, ListedColormap
from matplotlib.figure import Figure
from numpy.typing import NDArray

from axoloci.tasks.report.document import ACCENT, INK, MUTED, RULE, SECOND, TONES
from axoloci.tasks.report.figures import compress_axis, draw_genome, empty_figure

MOST_NAMES = 40  # traits that are named along an axis
TRAIT_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Told apart with any colour vision (Okabe and Ito)."""

LD_EDGES = (0.2, 0.4, 0.6, 0.8)
LD_COLOURS = ("#bcc5cf", "#5ec962", "#21918c", "#3b528b", "#440154")  # darker with each class
SIGNED = LinearSegmentedColormap.from_list(
    "signed", ["#bfe3ff", "#3d8fd9", "#173a5c", "#5c1a17", "#e0523f", "#ffd9c7"]
)
SHARE = LinearSegmentedColormap.from_list("share", ["#4b1d6b", "#c8475d", "#f6d746"])
CORRELATION = LinearSegmentedColormap.from_list(
    "correlation", ["#2166ac", "#92c5de", "#f7f7f7", "#f4a582", "#b2182b"]
)


def strongest_traits(
    place: NDArray[np.float64],
    chromosome: NDArray[np.integer[Any]],
    neg_log10_p: NDArray[Any],
    trait: NDArray[np.integer[Any]],
    edges: NDArray[np.float64],
    names: Sequence[str],
    traits: Sequence[str],
    lines: tuple[float, float],
) -> Figure:
    """Association along the genome, of the strongest trait of each variant.

    Parameters
    ----------
    place, chromosome, neg_log10_p
        [shape: (n_points,)] Thinned variants: place on the axis, rank of the chromosome.
    trait
        [int, shape: (n_points,)] The strongest trait, as an index into `traits`.
    edges, names
        Of the chromosomes, as for `figures.manhattan`.
    traits
        Names; those with the most significant variants above the first line have a colour.
    lines
        −log10 p of one test of the genome, and of one a trait.
    """
    figure = empty_figure(11, 4.3)
    axes = figure.subplots()
    draw_genome(axes, place, chromosome, neg_log10_p, edges, names, lines[0])
    axes.axhline(lines[1], color=MUTED, linewidth=0.8, linestyle=(0, (1, 3)))
    above = neg_log10_p >= lines[0]
    found = np.unique(trait[above])
    strength = [neg_log10_p[above & (trait == k)].max() for k in found]
    shown = found[np.argsort(strength)[::-1]][: len(TRAIT_COLOURS)]
    style: dict[str, Any] = {"linewidths": 0, "rasterized": True, "zorder": 3}
    others = above & ~np.isin(trait, shown)
    for k, colour in zip(shown, TRAIT_COLOURS, strict=False):
        here = above & (trait == k)
        axes.scatter(place[here], neg_log10_p[here], s=11, c=colour, label=traits[k], **style)
    if others.any():
        axes.scatter(place[others], neg_log10_p[others], s=9, c=INK, label="others", **style)
    if len(shown):
        figure.legend(
            loc="outside upper left", ncols=7, handletextpad=0, columnspacing=1.0, markerscale=2.0
        )
    return figure


def trait_quantiles(
    curves: Sequence[tuple[NDArray[np.float64], NDArray[np.float64]]],
    band: tuple[NDArray[np.float64], NDArray[np.float64]],
    inflation: NDArray[np.float64],
    traits: Sequence[str],
) -> Figure:
    """Quantiles of all traits against the null, and the inflation λ of each.

    Parameters
    ----------
    curves
        Of each trait its expected and observed −log10 p, [float64, shape: (n,)] each.
    band
        Expected −log10 p [float64, shape: (n,)], and low and high of the null
        [float64, shape: (n, 2)].
    inflation
        [float64, shape: (n_traits,)] NaN where not known.
    traits
        Names.
    """
    figure = empty_figure(11, 4.3)
    left, right = figure.subplots(1, 2, width_ratios=[1, 1.25])
    expected, limits = band
    left.fill_between(expected, limits[:, 0], limits[:, 1], color=TONES[1], alpha=0.35, linewidth=0)
    for x, y in curves:
        left.plot(x, y, color=TONES[0], linewidth=0.9, alpha=max(0.25, 1 / len(curves) ** 0.5))
    end = 1.04 * float(expected.max(initial=1))
    left.plot([0, end], [0, end], color=ACCENT, linewidth=0.9)
    left.set_xlim(0, end)
    highest = max(end, *(float(y.max(initial=0)) for _, y in curves))
    left.set_ylim(0, 1.05 * highest)
    compress_axis(left, highest)
    left.set_xlabel("Expected −log₁₀ p")
    left.set_ylabel("Observed −log₁₀ p")
    right.axhline(1, color=ACCENT, linewidth=0.9)
    right.plot(np.arange(len(traits)), inflation, "o", color=TONES[0], markersize=4.5)
    far = float(np.nanmax(np.abs(inflation - 1), initial=0.0))
    right.set_ylim(1 - 1.15 * max(far, 0.05), 1 + 1.15 * max(far, 0.05))
    right.set_ylabel("Genomic inflation λ")
    _name_traits(right, traits)
    return figure


def region(
    position: NDArray[Any],
    neg_log10_p: NDArray[Any],
    r2: NDArray[Any],
    lead: int,
    signals: Sequence[tuple[float, str]] = (),
    line: float = -np.log10(5e-8),
    chromosome: str = "",
) -> Figure:
    """Association around a lead variant, coloured by linkage disequilibrium with it.

    Parameters
    ----------
    position, neg_log10_p, r2
        [shape: (n_variants,)] Base pairs; joint test; r² with the lead, NaN where not known.
    lead
        Row of the lead variant.
    signals
        Position and label of what is left given the lead.
    line
        −log10 p of a lead variant.
    chromosome
        Name, for the axis.
    """
    figure = empty_figure(4.8, 3.2)
    axes = figure.subplots()
    megabases = np.asarray(position, dtype=np.float64) / 1e6
    level = np.digitize(r2, LD_EDGES)  # (n_variants,) class of r²
    order = np.argsort(np.nan_to_num(r2, nan=-1.0), kind="stable")  # the highest on top
    known = np.isfinite(r2[order])
    colours = np.array(LD_COLOURS)[level[order[known]]]
    style: dict[str, Any] = {"s": 15, "linewidths": 0.5, "rasterized": True}
    dull = order[~known]
    axes.scatter(megabases[dull], neg_log10_p[dull], facecolors="none", edgecolors=MUTED, **style)
    axes.scatter(
        megabases[order[known]], neg_log10_p[order[known]], c=colours, edgecolors="white", **style
    )
    axes.scatter(
        megabases[lead], neg_log10_p[lead], s=70, marker="D", c=ACCENT, edgecolors="white", zorder=4
    )
    axes.axhline(line, color=ACCENT, linewidth=0.8, linestyle=(0, (5, 4)))
    top = 1.12 * max(line, float(np.max(neg_log10_p)))
    for where, label in signals:
        axes.plot([where / 1e6] * 2, [0, top], color=SECOND, linewidth=0.9, linestyle=(0, (1, 2)))
        axes.text(where / 1e6, top, label, color=SECOND, fontsize=8.5, ha="center", va="bottom")
    axes.set_ylim(0, top)
    axes.ticklabel_format(axis="x", useOffset=False)
    axes.locator_params(axis="x", nbins=5)
    axes.set_xlabel(f"Chromosome {chromosome}, Mb" if chromosome else "Mb")
    axes.set_ylabel("−log₁₀ p, joint test")
    edges = [0.0, *LD_EDGES, 1.0]
    scale = mpl.cm.ScalarMappable(
        mpl.colors.BoundaryNorm(edges, len(LD_COLOURS)), ListedColormap(LD_COLOURS)
    )
    bar = figure.colorbar(scale, ax=axes, fraction=0.035, pad=0.02, ticks=edges)
    bar.outline.set_visible(False)
    bar.ax.set_title("r²", fontsize=8.5, loc="center")
    bar.ax.tick_params(labelsize=7.5, length=0)
    return figure


def heritability(
    traits: Sequence[str],
    estimates: Sequence[tuple[str, NDArray[np.float64], NDArray[np.float64]]],
) -> Figure:
    """Heritability of each trait as bars, a bar an estimator, with standard errors.

    Parameters
    ----------
    traits
        Names, in the order of the picture.
    estimates
        Of each estimator its name, h² and standard error, [float64, shape: (n_traits,)], NaN where
        not known.
    """
    figure = empty_figure(11, 3.7)
    axes = figure.subplots()
    width = 0.82 / len(estimates)
    x = np.arange(len(traits))
    for k, ((name, h2, se), colour) in enumerate(
        zip(estimates, (TONES[0], "#d98a3d"), strict=False)
    ):
        known = np.isfinite(h2)
        at = x[known] + (k - (len(estimates) - 1) / 2) * width
        axes.bar(at, h2[known], width, color=colour, label=name, linewidth=0)
        axes.errorbar(
            at, h2[known], np.nan_to_num(se[known]), fmt="none", ecolor=INK,
            elinewidth=max(0.5, min(1.2, 40 / len(traits))),
        )  # fmt: skip
    axes.axhline(0, color=MUTED, linewidth=0.8)
    axes.spines["bottom"].set_visible(False)
    axes.set_ylabel("h² ± standard error")
    _name_traits(axes, traits)
    if len(estimates) > 1:
        figure.legend(loc="outside upper left", ncols=2)
    return figure


def correlations(
    genetic: NDArray[np.float64],
    phenotypic: NDArray[np.float64],
    significant: NDArray[np.bool_],
    traits: Sequence[str],
) -> tuple[Figure, tuple[float, float, float, float]]:
    """Genetic correlations below the diagonal, phenotypic ones above it.

    Parameters
    ----------
    genetic, phenotypic
        [float64, shape: (n_traits, n_traits)] In the order of the picture; NaN is left white.
    significant
        [bool, shape: (n_traits, n_traits)] Genetic correlations to be marked.
    traits
        Names.

    Returns
    -------
    (figure, box)
        `box`: left, top, right and bottom of the matrix as shares of the figure's width and height.
    """
    n = len(traits)
    shown = np.where(np.tri(n, dtype=bool), genetic, phenotypic)  # (n, n)
    np.fill_diagonal(shown, np.nan)
    figure = empty_figure(6.2, 5.6)
    axes = figure.subplots()
    image = axes.imshow(shown, cmap=CORRELATION, vmin=-1, vmax=1, interpolation="nearest")
    marked = np.argwhere(np.tri(n, k=-1, dtype=bool) & significant)
    size = max(0.4, min(14.0, (150 / n) ** 2 / 9))
    axes.scatter(marked[:, 1], marked[:, 0], s=size, c=INK, linewidths=0)
    axes.plot([-0.5, n - 0.5], [-0.5, n - 0.5], color=RULE, linewidth=1)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_ticks(range(n) if n <= MOST_NAMES else [])
        axis.set_tick_params(length=0, labelsize=max(5.5, min(9.0, 220 / n)))
    if n <= MOST_NAMES:
        axes.set_xticklabels(traits, rotation=90)
        axes.set_yticklabels(traits)
    axes.spines[["left", "bottom"]].set_visible(False)
    axes.set_title("above the diagonal: phenotypic;  below: genetic", fontsize=9, color=MUTED)
    bar = figure.colorbar(image, ax=axes, fraction=0.04, pad=0.02)
    bar.outline.set_visible(False)
    bar.set_label("Correlation")
    figure.draw_without_rendering()
    place = axes.get_position()
    return figure, (place.x0, 1 - place.y1, place.x1, 1 - place.y0)


def voxel_planes(
    background: NDArray[Any] | None,
    values: NDArray[Any],
    peak: tuple[int, int, int],
    voxel: Sequence[float],
    where: Sequence[float],
    *,
    label: str,
    signed: bool,
    floor: float,
) -> Figure:
    """Values of voxels in three planes through a peak, on black.

    Parameters
    ----------
    background
        [float, shape: (x, y, z)] Right, anterior, superior axes; grey behind the values.
    values
        [float, shape: (x, y, z)]
    peak
        Voxel, marked by lines.
    voxel
        Voxel size, mm.
    where
        Of the peak, mm.
    label
        Of the colour bar, with its unit.
    signed
        Colours of both signs; else from 0 up.
    floor
        Values below it, of either sign, are not drawn.
    """
    figure = empty_figure(11, 3.9)
    figure.set_facecolor("black")
    highest = max(float(np.abs(values).max()), floor, 1e-9)
    limits = (-highest, highest) if signed else (0.0, highest)
    planes = figure.subplots(1, 3)
    white = 1.0 if background is None else max(float(np.percentile(background, 99.5)), 1e-6)
    for axes, axis in zip(planes, (2, 1, 0), strict=True):
        across, up = (other for other in range(3) if other != axis)
        aspect = voxel[up] / voxel[across]
        if background is not None:
            grey = np.take(background, peak[axis], axis=axis).T
            axes.imshow(grey, cmap="gray", vmin=0, vmax=white, origin="lower", aspect=aspect,
                        interpolation="bilinear")  # fmt: skip
        drawn = np.take(values, peak[axis], axis=axis).T
        seen = (np.abs(drawn) if signed else drawn) >= floor
        image = axes.imshow(
            np.ma.masked_where(~seen, drawn), cmap=SIGNED if signed else SHARE, vmin=limits[0],
            vmax=limits[1], origin="lower", aspect=aspect, interpolation="nearest",
        )  # fmt: skip
        axes.set_facecolor("black")
        axes.axvline(peak[across], color="#e6e6e6", linewidth=0.6, alpha=0.8)
        axes.axhline(peak[up], color="#e6e6e6", linewidth=0.6, alpha=0.8)
        axes.set_axis_off()
        axes.set_title(
            f"{'xyz'[axis]} = {where[axis]:.0f} mm".replace("-", "−"), color="#e4e7eb", loc="center"
        )
    bar = figure.colorbar(image, ax=list(planes), fraction=0.025, pad=0.02)
    bar.outline.set_visible(False)
    bar.set_label(label, color="#e4e7eb")
    bar.ax.tick_params(colors="#c9d1d9", length=0)
    return figure


def replication(
    discovery: NDArray[np.float64], found: NDArray[np.float64], se: NDArray[np.float64],
    replicated: NDArray[np.bool_],
) -> Figure:  # fmt: skip
    """Correlation of each lead with the traits, in the discovery and in other people.

    Parameters
    ----------
    discovery, found
        [float64, shape: (n_leads,)] Above 0 in the direction of the discovery.
    se
        [float64, shape: (n_leads,)] Standard error of `found`.
    replicated
        [bool, shape: (n_leads,)]
    """
    figure = empty_figure(5.0, 4.4)
    axes = figure.subplots()
    end = 1.08 * max(float(discovery.max()), float((found + 2 * se).max()))
    low = min(0.0, 1.08 * float((found - 2 * se).min()))
    axes.axhline(0, color=MUTED, linewidth=0.8)
    axes.plot([0, end], [0, end], color=MUTED, linewidth=0.9, linestyle=(0, (5, 4)))
    for which, colour, face, name in (
        (replicated, ACCENT, ACCENT, "replicated"),
        (~replicated, TONES[0], "white", "not replicated"),
    ):
        if which.any():
            axes.errorbar(
                discovery[which], found[which], 1.96 * se[which], fmt="o", color=colour,
                markerfacecolor=face, markersize=5, elinewidth=0.8, label=name,
            )  # fmt: skip
    axes.set_xlim(0, end)
    axes.set_ylim(low, end)
    axes.set_xlabel("Correlation in the discovery")
    axes.set_ylabel("Correlation r in other people, 95% interval")
    axes.legend(loc="upper left")
    return figure


def _name_traits(axes: Any, traits: Sequence[str]) -> None:
    """Names along the axis where they fit, else how many there are."""
    axes.set_xlim(-0.7, len(traits) - 0.3)
    if len(traits) <= MOST_NAMES:
        axes.set_xticks(range(len(traits)), traits, rotation=90, fontsize=8)
        axes.tick_params(axis="x", length=0)
    else:
        axes.set_xticks([])
        axes.set_xlabel(f"{len(traits):,} traits")

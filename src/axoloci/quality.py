"""What quality figures of a scan mean: the rules by which it is flagged.

A rule holds for one figure. Absolute rules say what no scan of a living human brain should have;
relative ones compare a scan with those of its own scanner and shells. Two levels: `exclude`, the
data are wrong (another brain, wrong gradients, failed registration, hardly a still volume), and
`look`, a person should. The limits are wide on purpose: among thousands of sound scans a rule that
is right 99% of the time costs dozens.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from axoloci.statistics import robust_z

Level = Literal["exclude", "look"]

FEWEST = 10  # scans of one scanner and its shells; the spread of fewer says little
OUTLIER_Z = 4.0  # robust standard deviations: one in 16,000 of a normal distribution
FRAMES_UNFLAGGED = ("as given", "cannot be told", "", "n/a")  # words for the gradients' best frame
PAIR_UNFIT = "the reverse-phase b0 does not fit"  # what the figure `distortion` says then
FRAME_MARGIN = 2.0  # standard errors by which another frame must be better to be sure

POWER = "10.1016/j.neuroimage.2011.10.018"  # framewise displacement
EDDY_QC = "10.1016/j.neuroimage.2018.09.073"  # quality control of diffusion MRI by eddy's figures
REVERSE = "10.1016/S1053-8119(03)00336-7"  # distortion found by a pair of b0s made alike
OUTLIERS = "10.1016/j.neuroimage.2016.06.058"  # slices without signal, found and replaced
NEIGHBOURS = "10.1016/j.neuroimage.2019.116131"  # neighbouring DWI correlation
FRAME = "10.1016/j.media.2014.05.012"  # flipped and permuted gradients
TENSOR = "10.1006/jmrb.1996.0086"  # FA and mean diffusivity of tissue
ROBUST = "10.1016/j.jesp.2013.03.013"  # median and median absolute deviation
NORMALISED = "10.1016/j.neuroimage.2010.09.025"  # similarity and overlap of registered brains


@dataclass(frozen=True)
class Figure:
    """How a quality figure is told: label with its unit, factor to that unit, decimals."""

    label: str
    factor: float = 1
    decimals: int = 3

    def text(self, value: float) -> str:
        """A value in the unit of the label, without it."""
        return f"{value * self.factor:,.{self.decimals}f}"

    @property
    def name(self) -> str:
        """The label without its unit."""
        return self.label.partition(",")[0]

    @property
    def unit(self) -> str:
        """The unit with a blank before it; empty if there is none."""
        return self.label.partition(",")[2]


FIGURES: dict[str, Figure] = {
    "mean_framewise_displacement": Figure("mean motion, mm"),
    "max_framewise_displacement": Figure("max motion, mm", 1, 2),
    "share_outlier_slices": Figure("slices replaced, %", 100, 2),
    "neighbour_correlation_raw": Figure("neighbour correlation, raw"),
    "neighbour_correlation": Figure("neighbour correlation"),
    "mean_distortion": Figure("mean distortion, mm", 1, 2),
    "pair_correlation": Figure("correlation of the two b0s"),
    "share_not_covered": Figure("brain that some volume lacks, %", 100, 2),
    "mask_ml": Figure("brain mask, ml", 1, 0),
    "mean_fa": Figure("mean FA"),
    "median_md": Figure("median MD, 10⁻³ mm²/s", 1e3),
    "share_implausible_voxels": Figure("implausible voxels, %", 100, 2),
    "median_residual": Figure("median residual"),
    "similarity_warp": Figure("similarity to template"),
    "dice_brain": Figure("Dice overlap of brains"),
    "dice_white_matter": Figure("Dice overlap of white matter"),
    "share_in_view": Figure("template's brain in the field of view, %", 100, 1),
    "jacobian_folded": Figure("folded voxels (Jacobian ≤ 0), %", 100, 2),
    "head_scale": Figure("head scale"),
}
"""Figures that are told apart from the others, in their order."""

DETAILS: dict[str, Figure] = {
    "max_share_outlier_slices_of_a_volume": Figure(
        "slices replaced in the worst volume, %", 100, 1
    ),
    "mean_eddy_displacement": Figure("mean displacement by eddy currents, mm"),
    "max_eddy_displacement": Figure("max displacement by eddy currents, mm", 1, 2),
    "pair_correlation_raw": Figure("correlation of the two b0s before correction"),
    "noise_sigma": Figure("SD of the noise, units of the signal", 1, 2),
    "similarity_header": Figure("similarity to template before registration"),
    "similarity_affine": Figure("similarity to template after the affine"),
    "jacobian_min": Figure("smallest Jacobian, volume in scan / in template"),
    "jacobian_p1": Figure("1st percentile of Jacobian, volume in scan / in template"),
    "jacobian_p50": Figure("median Jacobian, volume in scan / in template"),
    "jacobian_p99": Figure("99th percentile of Jacobian, volume in scan / in template"),
}
"""Further figures of one scan, in their order; pages of many scans leave them out."""


def is_of_shell(name: str) -> bool:
    """Whether a figure is the signal to noise of b0s or the contrast to noise of a shell."""
    return name.startswith(("snr_b", "cnr_b"))


def figure_of(name: str) -> Figure:
    """How a figure is told; one that is not among `FIGURES` or `DETAILS` by its own name."""
    if is_of_shell(name):
        ratio, _, bval = name.partition("_b")
        return Figure(f"{ratio.upper()} at b = {bval}", 1, 1)
    return FIGURES.get(name) or DETAILS.get(name) or Figure(name.replace("_", " "), 1, 4)


@dataclass(frozen=True)
class Limit:
    """An absolute rule: a figure below `low` or above `high` is flagged.

    Attributes
    ----------
    figure, level
        Of what, and how grave it is.
    low, high
        In the figure's own unit; none where that side is harmless.
    why
        What such a value means.
    source
        DOI of the figure; the limits are axoloci's own.
    """

    figure: str
    level: Level
    low: float | None
    high: float | None
    why: str
    source: str

    def broken_by(self, value: float) -> bool:
        """Whether a value lies outside."""
        below = self.low is not None and value < self.low
        return below or (self.high is not None and value > self.high)

    @property
    def bounds(self) -> str:
        """What is flagged, in words: "< 0.05 or > 0.6"."""
        told = figure_of(self.figure)
        sides = (("<", self.low), (">", self.high))
        return " or ".join(f"{s} {told.factor * at:g}" for s, at in sides if at is not None)


LIMITS = (
    Limit(
        *("mean_framewise_displacement", "exclude", None, 10.0),
        "the head hardly lay still in any volume: what a volume misses cannot be made up",
        POWER,
    ),
    Limit(
        *("mean_framewise_displacement", "look", None, 3.0),
        "from volume to volume the head moved by a voxel or more: dropout and spin history stay",
        POWER,
    ),
    Limit(
        *("share_outlier_slices", "exclude", None, 0.25),
        "a quarter of the data are predictions of the rest",
        OUTLIERS,
    ),
    Limit(
        *("share_outlier_slices", "look", None, 0.05),
        "sound scans lose 0 to 2% of their slices",
        OUTLIERS,
    ),
    Limit(
        *("neighbour_correlation", "exclude", 0.2, None),
        "volumes of like directions have nothing in common: noise, or b-values of other volumes",
        NEIGHBOURS,
    ),
    Limit(
        *("neighbour_correlation", "look", 0.5, None),
        "volumes of like directions differ: noise, motion, dropout, or b-values of other volumes",
        NEIGHBOURS,
    ),
    Limit(
        *("pair_correlation", "look", 0.9, None),
        "the b0 of reverse phase encoding is unlike the scan's even when both are corrected: of "
        "another person, contrast or time, or the wrong direction",
        REVERSE,
    ),
    Limit(
        *("mask_ml", "look", 600, 2200),
        "no size of an adult brain: the mask holds too little or too much",
        EDDY_QC,
    ),
    Limit(
        *("share_not_covered", "look", None, 0.05),
        "some volume moved out of the field of view and takes part of the brain along: maps end "
        "where it ends",
        EDDY_QC,
    ),
    Limit(
        *("mean_fa", "exclude", 0.05, 0.6),
        "no brain has this mean FA: wrong gradients, noise, or no brain",
        TENSOR,
    ),
    Limit(
        *("mean_fa", "look", 0.10, 0.45),
        "few brains have this mean FA: noise, motion or a poor mask",
        TENSOR,
    ),
    Limit(
        *("median_md", "exclude", 2e-4, 1.8e-3),
        "no living brain has this diffusivity: b-values of another unit or of other volumes, a "
        "phantom",
        TENSOR,
    ),
    Limit(
        *("median_md", "look", 4.5e-4, 1.4e-3),
        "few living brains have this diffusivity: b-values, temperature, or a poor mask",
        TENSOR,
    ),
    Limit(
        *("share_implausible_voxels", "exclude", None, 0.3),
        "the tensor is no diffusion in a third of the brain: b-values of other volumes, or noise",
        TENSOR,
    ),
    Limit(
        *("share_implausible_voxels", "look", None, 0.08),
        "the tensor is no diffusion in many voxels: noise, dropout, misaligned volumes",
        TENSOR,
    ),
    Limit(
        *("similarity_warp", "exclude", 0.3, None),
        "the registered map is not like the template: the registration failed, or it is no brain",
        NORMALISED,
    ),
    Limit(
        *("similarity_warp", "look", 0.5, None),
        "the registered map is little like the template: a lesion, a poor map or registration",
        NORMALISED,
    ),
    Limit(
        *("dice_brain", "exclude", 0.5, None),
        "the registered brain does not cover the template's: the registration failed",
        NORMALISED,
    ),
    Limit(
        *("dice_brain", "look", 0.75, None),
        "the registered brain covers the template's in part: a field of view that is cut, or a "
        "poor mask or registration",
        NORMALISED,
    ),
    Limit(
        *("dice_white_matter", "look", 0.5, None),
        "white matter is not where the template's is: gradients of other volumes, a poor map or "
        "registration",
        NORMALISED,
    ),
    Limit(
        *("share_in_view", "look", 0.9, None),
        "the field of view ends within the brain; without the lowest cerebellum it holds more",
        NORMALISED,
    ),
    Limit(
        *("jacobian_folded", "look", None, 0.001),
        "the warp folds: the registration failed in places",
        NORMALISED,
    ),
    Limit(
        *("head_scale", "exclude", 0.3, 3.0),
        "the brain would have a third or three times the template's volume",
        NORMALISED,
    ),
    Limit(
        *("head_scale", "look", 0.5, 2.0),
        "the brain would have half or twice the template's volume",
        NORMALISED,
    ),
)
"""Absolute rules; of one figure the graver first."""

FRAME_WHY = (
    "main directions of neighbouring voxels agree better with other gradients: rotated maps and "
    "tracts would be wrong; mend the .bvec"
)


PAIR_WHY = (
    "no distortion brings the b0 of reverse phase encoding close to the scan's, so none is "
    "corrected: it is of another person, or of the scan's own direction"
)


@dataclass(frozen=True)
class Relative:
    """A relative rule: more than `OUTLIER_Z` robust standard deviations from scans of its kind.

    Attributes
    ----------
    figure
        Of what.
    side
        Whether large values are suspicious, small ones, or both.
    least
        Smallest distance from the median that counts, in the figure's own unit: scans that are all
        alike have no outliers.
    """

    figure: str
    side: Literal["high", "low", "both"]
    least: float


RELATIVE = (
    Relative("mean_framewise_displacement", "high", 0.75),
    Relative("share_outlier_slices", "high", 0.02),
    Relative("neighbour_correlation_raw", "low", 0.05),
    Relative("neighbour_correlation", "low", 0.05),
    Relative("mask_ml", "both", 300),
    Relative("mean_fa", "both", 0.04),
    Relative("median_md", "both", 1e-4),
    Relative("share_implausible_voxels", "high", 0.02),
    Relative("similarity_warp", "low", 0.08),
    Relative("dice_brain", "low", 0.05),
    Relative("dice_white_matter", "low", 0.08),
    Relative("head_scale", "both", 0.25),
)
RELATIVE_WHY = "unlike scans of the same scanner and shells"


@dataclass(frozen=True)
class Flag:
    """A rule that a scan has broken."""

    figure: str
    level: Level
    text: str  # figure, value and limit
    why: str  # what such a value means

    def __str__(self) -> str:
        return f"{self.level}: {self.text}"


def number(value: Any) -> float:
    """A figure as a number; NaN where it is none.

    >>> number("0.25"), number("n/a"), number(None)
    (0.25, nan, nan)
    """
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan


def quality_figures(description: Mapping[str, Any]) -> dict[str, Any]:
    """Numbers and words among a step's own keys, nested ones joined by an underscore.

    Keys with a capital letter are BIDS metadata. Of a list by shells each has its own figure, named
    by the b-value to the next hundred: scanners play out 995 and 1005 for 1000.

    >>> quality_figures({"Name": "a", "head": {"scale": 1.1}, "cnr": [{"bval": 995.0, "cnr": 2}]})
    {'head_scale': 1.1, 'cnr_b1000': 2}
    """
    figures: dict[str, Any] = {}
    for key, value in description.items():
        if not key.islower():
            continue
        if isinstance(value, Mapping):
            figures |= {f"{key}_{name}": one for name, one in value.items() if _is_plain(one)}
        elif isinstance(value, list):
            for shell in value:
                if isinstance(shell, Mapping) and len(shell) == 2 and "bval" in shell:
                    (one,) = (shell[name] for name in shell if name != "bval")
                    figures[f"{key}_b{100 * round(number(shell['bval']) / 100)}"] = one
        elif _is_plain(value):
            figures[key] = value
    return figures


def _is_plain(value: Any) -> bool:
    return isinstance(value, int | float | str) and not isinstance(value, bool)


def derived_figures(row: Mapping[str, Any]) -> dict[str, float]:
    """Figures that follow from those of the steps: shares, which compare scans of any size."""
    n_voxels = number(row.get("n_voxels"))
    if n_voxels > 0 and math.isfinite(bad := number(row.get("n_implausible_voxels"))):
        return {"share_implausible_voxels": round(bad / n_voxels, 6)}
    return {}


def absolute_flags(row: Mapping[str, Any]) -> list[Flag]:
    """Absolute rules that a scan breaks; of each figure the gravest.

    Parameters
    ----------
    row
        Its quality figures by name, as `qc.tsv` has them. What is missing breaks no rule.
    """
    flags: dict[str, Flag] = {}
    frame = row.get("gradient_frame_best")
    if isinstance(frame, str) and frame not in FRAMES_UNFLAGGED:
        unsure = number(row.get("gradient_frame_margin")) < FRAME_MARGIN
        level: Level = "look" if unsure else "exclude"
        flags["gradient_frame"] = Flag("gradient_frame", level, f"gradients: {frame}", FRAME_WHY)
    if row.get("distortion") == PAIR_UNFIT:
        pair = "pair_correlation"
        flags[pair] = Flag(pair, "look", f"distortion: {PAIR_UNFIT}", PAIR_WHY)
    for limit in LIMITS:
        value = number(row.get(limit.figure))
        if limit.figure not in flags and limit.broken_by(value):
            told = figure_of(limit.figure)
            text = f"{told.name} {told.text(value)}{told.unit} ({limit.bounds})"
            flags[limit.figure] = Flag(limit.figure, limit.level, text, limit.why)
    return list(flags.values())


def outliers(values: NDArray[Any], rule: Relative) -> NDArray[np.bool_]:
    """Scans that break a relative rule.

    Parameters
    ----------
    values
        [float, shape: (n_scans,)] The figure of scans of one kind; NaN is no outlier.
    rule
        The rule.

    Returns
    -------
    [bool, shape: (n_scans,)] None among fewer than `FEWEST` scans.
    """
    values = np.asarray(values, dtype=np.float64)
    if np.isfinite(values).sum() < FEWEST:
        return np.zeros(values.shape, dtype=bool)
    sign = {"high": 1, "low": -1, "both": 0}[rule.side]
    distance, z = values - np.nanmedian(values), robust_z(values)
    far = (z * sign, distance * sign) if sign else (np.abs(z), np.abs(distance))
    return np.asarray((np.nan_to_num(far[0]) > OUTLIER_Z) & (np.nan_to_num(far[1]) > rule.least))


def kind_of(row: Mapping[str, Any]) -> tuple[str, ...]:
    """Scanner and shells of a scan: scans of one kind are compared with each other."""
    shells = sorted(key for key in row if key.startswith("shells_b") and number(row[key]) > 0)
    scanner = row.get("scanner")
    return (scanner if isinstance(scanner, str) else "", *shells)


def judge(rows: Sequence[Mapping[str, Any]]) -> list[list[Flag]]:
    """The rules that each scan of a cohort breaks, the gravest first.

    Parameters
    ----------
    rows
        Of each scan its quality figures by name, as `qc.tsv` has them.

    Returns
    -------
    One list of flags a scan; of each figure one flag, an absolute one before a relative one.
    """
    flags = [absolute_flags(row) for row in rows]
    kinds: dict[tuple[str, ...], list[int]] = {}
    for place, row in enumerate(rows):
        kinds.setdefault(kind_of(row), []).append(place)
    for places in kinds.values():
        if len(places) < FEWEST:
            continue
        for rule in RELATIVE:
            values = np.array([number(rows[place].get(rule.figure)) for place in places])
            told = figure_of(rule.figure)
            for k in np.flatnonzero(outliers(values, rule)):
                own = flags[places[k]]
                if rule.figure not in {flag.figure for flag in own}:
                    usual = told.text(float(np.nanmedian(values)))
                    text = f"{told.name} {told.text(values[k])}{told.unit} (others {usual})"
                    own.append(Flag(rule.figure, "look", text, RELATIVE_WHY))
    return [sorted(own, key=lambda flag: flag.level) for own in flags]


def level_of(flags: Iterable[Flag]) -> Level | None:
    """The gravest level of some flags; none if there is no flag."""
    levels = {flag.level for flag in flags}
    return "exclude" if "exclude" in levels else "look" if levels else None


# Volumes that a study may do without: what is left of them is mostly prediction, or misplaced.
MAX_VOLUME_MOTION = 5.0  # mm, framewise displacement
MAX_VOLUME_OUTLIERS = 0.25  # share of its slices


def volume_faults(displacement: float, outlier_share: float) -> str:
    """Why a volume may be dropped; empty if it need not.

    Parameters
    ----------
    displacement
        Framewise displacement, mm.
    outlier_share
        Share of its slices that were replaced; NaN if it is not known.
    """
    faults = []
    if outlier_share > MAX_VOLUME_OUTLIERS:
        faults.append(f"{100 * outlier_share:.0f}% of its slices replaced")
    if displacement > MAX_VOLUME_MOTION:
        faults.append(f"moved by {displacement:.1f} mm")
    return ", ".join(faults)

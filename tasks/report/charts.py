"""Charts of one scan as SVG text: traces over its volumes, and noise ratios by shell.

The templates draw; here is what they place. A plotting library takes longer to load than a scan's
whole page takes to make.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageColor

from axoloci.tasks.report.document import ACCENT, INK, MUTED, RULE, SECOND, TONES, render
from axoloci.tasks.report.pictures import coloured

STYLE = {"ink": INK, "muted": MUTED, "rule": RULE, "accent": ACCENT, "bar": TONES[1]}
AXES = {"x": ACCENT, "y": SECOND, "z": TONES[0]}
CARPET = ("#2166ac", "#92c5de", "#f7f7f7", "#f4a582", "#b2182b")  # low to high
CARPET_Z = 6.0  # z-score at the ends of the carpet's colours

# All in pixels of a page that is wide enough.
WIDTH, LEFT, RIGHT, RIGHT_OF_CARPET = 1100, 58, 14, 52
TRACE, CARPET_HEIGHT, BETWEEN, BELOW = 92, 210, 46, 52  # heights


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


@dataclass(frozen=True)
class Line:
    """A trace: values, one a volume and NaN where it is missing, with colour and name."""

    values: NDArray[np.float64]
    colour: str
    label: str = ""


@dataclass(frozen=True)
class Panel:
    """Traces in one frame.

    Attributes
    ----------
    title, lines
        What is shown.
    low, high
        Range of the values.
    limit
        Drawn where it lies in that range.
    """

    title: str
    lines: Sequence[Line]
    low: float
    high: float
    limit: float | None = None

    def height(self, value: float) -> float:
        """Where a value lies, pixels from the top."""
        return TRACE * (self.high - value) / (self.high - self.low)

    @property
    def ticks(self) -> list[tuple[float, str]]:
        """Places and names of round values."""
        return [(self.height(at), name) for at, name in ticks(self.low, self.high, 4)]

    @property
    def limit_height(self) -> float | None:
        """Where the limit lies; none if it does not lie within."""
        inside = self.limit is not None and self.low <= self.limit <= self.high
        return self.height(self.limit) if inside and self.limit is not None else None

    def path(self, line: Line, step: float) -> str:
        """The trace as a path, broken where values are missing."""
        words, pen = [], "M"
        for volume, value in enumerate(line.values):
            if np.isfinite(value):
                words.append(f"{pen}{step * (volume + 0.5):.1f} {self.height(value):.1f}")
            pen = "L" if np.isfinite(value) else "M"
        return "".join(words)

    def dots(self, line: Line, step: float) -> str:
        """Its values as lines without length; single ones between missing ones stay visible."""
        return "".join(
            f"M{step * (volume + 0.5):.1f} {self.height(line.values[volume]):.1f}h0"
            for volume in np.flatnonzero(np.isfinite(line.values))
        )


def volume_traces(volumes: Volumes, limits: Mapping[str, float]) -> str:
    """Motion, correlation with neighbours and slices, one above the other, volume by volume.

    Parameters
    ----------
    volumes
        Of the scan.
    limits
        Of `displacement` (mm, of its mean) and `correlation`, drawn where they are in the picture.

    Returns
    -------
    SVG
    """
    n = len(volumes.displacement)
    panels = _panels(volumes, limits)
    width = WIDTH - LEFT - (RIGHT if volumes.carpet is None else RIGHT_OF_CARPET)
    step = width / n
    last = CARPET_HEIGHT if volumes.carpet is not None else TRACE
    above = len(panels) + (volumes.carpet is not None) - 1
    bval = np.full(n, np.inf) if volumes.bval is None else volumes.bval
    b0 = np.flatnonzero(bval <= min(bval) + 50) if np.isfinite(bval).all() else np.empty(0)
    stripes = [(f"{step * at:.1f}", f"{step:.1f}") for at in b0]
    return render(
        "volumes.svg.jinja",
        style=STYLE,
        place={
            **{"width": WIDTH, "left": LEFT, "plot": width, "trace": TRACE, "step": step},
            **{"above": BETWEEN - 14, "pitch": TRACE + BETWEEN},
            "height": BETWEEN - 14 + above * (TRACE + BETWEEN) + last + BELOW,
        },
        panels=panels,
        stripes=stripes,
        carpet=None if volumes.carpet is None else _carpet(volumes, volumes.carpet, step),
        ticks=[(step * (at + 0.5), name) for at, name in ticks(0, n - 1, 12, least=1)],
        x_label="Volume (grey: b0)" if stripes else "Volume",
    )


def _panels(volumes: Volumes, limits: Mapping[str, float]) -> list[Panel]:
    moved = volumes.displacement
    highest = 1.15 * max(1.0, float(moved.max(initial=0, where=np.isfinite(moved))))
    panels = [
        Panel(
            "Framewise displacement, mm",
            [Line(moved, TONES[0])],
            *(0.0, highest, limits.get("displacement")),
        )
    ]
    for name, values in (("Translation, mm", volumes.translation),
                         ("Rotation, degrees", volumes.rotation)):  # fmt: skip
        finite = values[np.isfinite(values)]
        middle = (finite.min() + finite.max()) / 2 if finite.size else 0.0
        half = max(0.5, 0.55 * float(np.ptp(finite))) if finite.size else 0.5
        lines = [Line(values[:, k], colour, axis) for k, (axis, colour) in enumerate(AXES.items())]
        panels.append(Panel(name, lines, middle - half, middle + half))
    lines = [
        Line(values, colour, label)
        for values, colour, label in (
            (volumes.raw_correlation, TONES[1], "raw"),
            (volumes.correlation, ACCENT, "processed"),
        )
        if values is not None
    ]
    if lines:
        lowest = min(float(np.nan_to_num(line.values, nan=1.0).min()) for line in lines)
        low = min(0.9, lowest - 0.05 * (1 - lowest))
        title = "Correlation with the volume of the nearest direction"
        panels.append(Panel(title, lines, low, 1.0, limits.get("correlation")))
    return panels


def _carpet(volumes: Volumes, carpet: NDArray[np.float64], step: float) -> dict[str, Any]:
    """Slices by volumes as pixels, the first slice below; outliers are framed."""
    pixels = coloured(np.nan_to_num(carpet), CARPET, (-CARPET_Z, CARPET_Z))
    pixels[~np.isfinite(carpet)] = ImageColor.getrgb(RULE)
    buffer = io.BytesIO()
    Image.fromarray(pixels[::-1]).save(buffer, format="png")
    n_slices = len(carpet)
    high = CARPET_HEIGHT / n_slices
    outliers = np.zeros(carpet.shape, dtype=bool)
    if volumes.outlier_z is not None:
        outliers = np.nan_to_num(carpet) <= volumes.outlier_z
    frames = "".join(
        f"M{step * at:.1f} {CARPET_HEIGHT - high * (level + 1):.1f}h{step:.1f}v{high:.1f}"
        f"h{-step:.1f}z"
        for level, at in np.argwhere(outliers)
    )
    return {
        "src": f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}",
        "height": CARPET_HEIGHT,
        "frames": frames,
        "ticks": [
            (CARPET_HEIGHT - high * (at + 0.5), name)
            for at, name in ticks(0, n_slices - 1, 5, least=1)
        ],
        "colours": [(k / (len(CARPET) - 1), one) for k, one in enumerate(CARPET)],
        "z": [
            (CARPET_HEIGHT * (1 - at / CARPET_Z) / 2, name)
            for at, name in ticks(-CARPET_Z, CARPET_Z, 6)
        ],
    }


def shell_bars(labels: Sequence[str], values: Sequence[float]) -> str:
    """Signal to noise ratio of the b0, contrast to noise ratio of each shell, as bars; SVG."""
    most = max([1.0, *values])
    return render("shells.svg.jinja", style=STYLE, bars=list(zip(labels, values, strict=True)),
                  most=most)  # fmt: skip


def ticks(low: float, high: float, n: int, least: float = 1e-9) -> list[tuple[float, str]]:
    """Round values within a range with their names, n + 1 at most.

    Steps are 1, 2 or 5 times a power of ten, and `least` or more.

    >>> [name for _, name in ticks(-0.07, 0.11, 4)], [name for _, name in ticks(0, 4, 12, least=1)]
    (['−0.05', '0.00', '0.05', '0.10'], ['0', '1', '2', '3', '4'])
    """
    smallest = max((high - low) / n, least) * (1 - 1e-9)
    power = math.floor(math.log10(smallest))
    step = next(k * 10.0**power for k in (1, 2, 5, 10) if k * 10.0**power >= smallest)
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [
        (k * step, f"{k * step:.{decimals}f}".replace("-", "−")) for k in range(first, last + 1)
    ]

"""Slices of brains in rows and columns on black, and values as colours.

Drawn by Pillow: a plotting library takes longer to load than a scan's whole page takes to make.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageColor, ImageDraw, ImageFont

WIDTH = 1650  # pixels of a grid of pictures
LINE = 2.2  # pixels, width of an outline
TEXT, TEXT_SIZE = "#c9d1d9", 19  # pixels
GREY = ("#000000", "#ffffff")
DIFFERENCE = ("#bfe3ff", "#3d8fd9", "#000000", "#e0523f", "#ffd9c7")
"""Black where nothing differs, as the surrounding."""


@dataclass(frozen=True)
class Slice:
    """A picture of a grid: grey or coloured values, or RGB, with outlines of masks on it.

    Attributes
    ----------
    picture
        [shape: (rows, columns) or (rows, columns, 3)]
    size
        Width and height, mm.
    colours, span
        Colours of the values at even steps and the range that they span; RGB spans 0 to 1.
    outlines
        [bool, shape: (rows, columns)] and the colour of each outline.
    """

    picture: NDArray[Any]
    size: tuple[float, float]
    colours: Sequence[str] = GREY
    span: tuple[float, float] = (0.0, 1.0)
    outlines: tuple[tuple[NDArray[np.bool_], str], ...] = ()


def picture_grid(
    rows: Sequence[Sequence[Slice]], labels: Sequence[str], heads: Sequence[str] = ()
) -> Image.Image:
    """Pictures on black in rows and columns, each in the middle of its cell.

    Parameters
    ----------
    rows
        Pictures, as many in each row.
    labels
        Of the rows, on their left.
    heads
        Of the columns, above them.
    """
    widths = [max(one.size[0] for one in column) for column in zip(*rows, strict=True)]  # mm
    heights = [max(one.size[1] for one in row) for row in rows]
    pictures = sum(widths)
    between = margin = 0.01 * pictures
    left, above = 0.12 * pictures, (0.035 if heads else 0.01) * pictures
    width = left + pictures + between * (len(widths) - 1) + margin
    height = above + sum(heights) + between * (len(rows) - 1) + margin
    scale = WIDTH / width  # pixels a mm
    grid = Image.new("RGB", (WIDTH, round(scale * height)))
    draw = ImageDraw.Draw(grid)
    top = above
    for row, label, row_height in zip(rows, labels, heights, strict=True):
        x, middle = left, top + row_height / 2
        for one, column_width in zip(row, widths, strict=True):
            w, h = one.size
            size = (max(1, round(scale * w)), max(1, round(scale * h)))
            place = (x + (column_width - w) / 2, middle - h / 2)
            grid.paste(_drawn(one, size), (round(scale * place[0]), round(scale * place[1])))
            x += column_width + between
        _write(draw, (0.015 * WIDTH, scale * middle), label, "lm")
        top += row_height + between
    x = left
    for head, column_width in zip(heads, widths, strict=False):
        _write(draw, (scale * (x + column_width / 2), scale * above / 2), head, "mm")
        x += column_width + between
    return grid


def slice_size(shape: Sequence[int], voxel: Sequence[float], axis: int) -> tuple[float, float]:
    """Width and height of a slice across `axis`, mm."""
    width, height = (shape[other] * voxel[other] for other in range(3) if other != axis)
    return width, height


def coloured(
    values: NDArray[Any], colours: Sequence[str], span: tuple[float, float]
) -> NDArray[np.uint8]:
    """Values as colours, linear between colours at even steps.

    Parameters
    ----------
    values
        [float, shape: (...)] Without NaN.
    colours
        Names or #rrggbb, two or more.
    span
        Values of the first and the last; beyond them their colours hold.

    Returns
    -------
    [uint8, shape: (..., 3)] RGB

    >>> coloured(np.array([-9.0, 0.5, 9]), GREY, (0, 1)).tolist()
    [[0, 0, 0], [127, 127, 127], [255, 255, 255]]
    """
    steps = np.linspace(*span, len(colours))
    channels = np.array([ImageColor.getrgb(one)[:3] for one in colours]).T  # (3, n_colours)
    return np.stack([np.interp(values, steps, one).astype(np.uint8) for one in channels], axis=-1)


def _drawn(one: Slice, size: tuple[int, int]) -> Image.Image:
    """A slice at its size in pixels, with its outlines."""
    if one.picture.ndim == 3:
        pixels = (255 * np.clip(one.picture, 0, 1)).astype(np.uint8)
    else:
        pixels = coloured(one.picture, one.colours, one.span)
    image = Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR)
    for mask, colour in one.outlines:
        image.paste(Image.new("RGB", size, colour), mask=_outline(mask, size))
    return image


def _outline(mask: NDArray[np.bool_], size: tuple[int, int]) -> Image.Image:
    """How much of each pixel the line along a mask's edge covers, 0 to 255."""
    inside = Image.fromarray(mask.astype(np.float32)).resize(size, Image.Resampling.BILINEAR)
    share = np.asarray(inside)  # (rows, columns), a half on the edge
    steps = np.gradient(np.pad(share, 1, mode="edge"))  # of a pixel
    steep = np.hypot(*steps)[1:-1, 1:-1]
    distance = np.abs(share - 0.5) / np.maximum(steep, 1e-6)  # pixels
    covered = np.clip(LINE / 2 + 0.5 - distance, 0, 1)
    return Image.fromarray((255 * covered).astype(np.uint8))


def _write(draw: ImageDraw.ImageDraw, at: tuple[float, float], text: str, anchor: str) -> None:
    draw.multiline_text(at, text, fill=TEXT, font=_font(), anchor=anchor)


@cache
def _font() -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which comes with matplotlib: the same picture everywhere."""
    spec = importlib.util.find_spec("matplotlib")  # does not load it
    assert spec is not None
    assert spec.origin is not None
    path = Path(spec.origin).parent / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf"
    return ImageFont.truetype(path, TEXT_SIZE, layout_engine=ImageFont.Layout.BASIC)

"""What all pages share: tables, pictures within the page, numbers as cells, the template engine."""

from __future__ import annotations

import base64
import io
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from numpy.typing import NDArray
from PIL import Image

from axoloci import __version__

if TYPE_CHECKING:  # a scan's page, made by the thousand, does without it
    from matplotlib.figure import Figure

INK, MUTED, RULE = "#1f2933", "#66717d", "#d8dde3"
TONES = ("#3b5875", "#93a9bf")  # neighbouring chromosomes
ACCENT, SECOND = "#c8475d", "#2f7f79"
DPI = 150
LAST = -1e308  # sorts what is missing below all numbers
TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


@dataclass(frozen=True)
class Picture:
    """A picture inside the page."""

    src: str
    alt: str
    caption: str
    wide: bool = True  # keeps its size on a narrow screen, where it scrolls
    cells: str = ""  # JSON: a matrix's place within it and its values, to be read by pointing


@dataclass(frozen=True)
class Cell:
    """A table cell: what is read, and what it is sorted by."""

    text: str
    sort: float | str = ""
    kind: str = ""  # number, flag, name, text


@dataclass(frozen=True)
class Table:
    """A table of the page."""

    head: list[str]
    rows: list[list[Cell]]
    total: int  # rows that there are, of which `rows` may be the first


def render(template: str, **content: Any) -> str:
    """A page or a drawing as text, from a template of this folder."""
    return TEMPLATES.get_template(template).render(version=__version__, **content)


def picture(
    figure: Figure, alt: str, caption: str, *, wide: bool = True, cells: str = ""
) -> Picture:
    """A matplotlib figure within the page, as PNG; the same bytes each time."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    return Picture(_src("png", buffer.getvalue()), alt, caption, wide, cells)


def photo_of_figure(figure: Figure, alt: str, caption: str) -> Picture:
    """A matplotlib figure that is mostly slices of a brain, as JPEG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI)
    return photo(Image.open(buffer).convert("RGB"), alt, caption)


def photo(image: Image.Image, alt: str, caption: str) -> Picture:
    """Slices of a brain within the page, as JPEG: a tenth of their PNG."""
    buffer = io.BytesIO()
    image.save(buffer, format="jpeg", quality=88)
    return Picture(_src("jpeg", buffer.getvalue()), alt, caption)


def drawing(svg: str, alt: str, caption: str, *, wide: bool = True) -> Picture:
    """An SVG within the page, sharp at any size."""
    return Picture(_src("svg+xml", svg.encode()), alt, caption, wide)


def _src(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"


def number_cell(value: Any, decimals: int, kind: str = "number") -> Cell:
    """A number, or a dash where there is none."""
    if value is None or not math.isfinite(value):
        return Cell("–", LAST, kind)
    return Cell(f"{value:,.{decimals}f}", float(value), kind)


def value_cell(value: Any) -> Cell:
    """Whatever a further column holds."""
    if isinstance(value, float | int | np.number) and not isinstance(value, bool):
        whole = math.isfinite(value) and float(value).is_integer()
        text = f"{value:,.0f}" if whole else number_cell(value, 4).text
        return Cell(text, float(value), "number")
    return Cell("–" if value is None else str(value))


def plural(n: int, one: str, many: str = "") -> str:
    """The word for n things."""
    return one if n == 1 else many or f"{one}s"


def duration(seconds: float) -> str:
    """Seconds as people say them."""
    if seconds < 120:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def to_ras(volume: NDArray[Any], affine: NDArray[np.float64]) -> NDArray[Any]:
    """A volume with its first three axes turned to right, anterior, superior."""
    turn = nib.io_orientation(affine)
    return np.asarray(nib.apply_orientation(volume, turn))


def voxel_size(affine: NDArray[np.float64]) -> list[float]:
    """Voxel size along right, anterior, superior, mm."""
    turn = nib.io_orientation(affine)
    sizes = np.linalg.norm(affine[:3, :3], axis=0)[np.argsort(turn[:, 0])]
    return [float(size) for size in sizes]

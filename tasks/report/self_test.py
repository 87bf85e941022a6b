"""`axoloci-report --self-test`: quantiles under the null, their picture, and a page."""

from __future__ import annotations

import io

import numpy as np

from axoloci.tasks.report.figures import quantiles
from axoloci.tasks.report.inputs import Inputs
from axoloci.tasks.report.kernel import quantile_points
from axoloci.tasks.report.page import make_page


def self_test() -> None:
    """Compare quantiles of evenly spread p with what is expected, draw them, write a page."""
    p = (np.arange(1000) + 0.5) / 1000
    expected, observed, band = quantile_points(-np.log10(p))
    assert np.allclose(expected, observed), "quantiles of evenly spread p are off the diagonal"
    picture = io.BytesIO()
    quantiles(expected, observed, band).savefig(picture, format="svg")
    assert picture.getvalue().rstrip().endswith(b"</svg>"), "no picture was drawn"
    assert "A study of nobody" in make_page(Inputs(title="A study of nobody")), "no page"

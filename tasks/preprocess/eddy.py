"""Distortion by eddy currents, as far as it is linear in the diffusion gradient.

A gradient induces currents that shift, shear and scale the image along the axis of phase encoding,
in proportion to the gradient and reversed with it. Head motion and the contrast of the volumes do
neither, so a regression of each volume's own stretch on its gradient takes the eddy currents and
little else. Shifts are found and undone by the rigid registration; here they are told from motion.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from axoloci.tasks.preprocess.prediction import MIN_VOLUMES

MIN_EXPLAINED = 0.5
"""Adjusted R² above which a stretch counts as an eddy current's."""


def eddy_stretch(
    linear: NDArray[np.float64], shift: NDArray[np.float64], direction: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Stretch of each volume along the axis of phase encoding.

    Parameters
    ----------
    linear
        (n, 3, 3) linear part of each volume's affine, along the image's axes.
    shift
        (n, 3) shift of the brain's centre along the image's axes, mm.
    direction
        (n, 3) unit gradients of one shell, in any fixed frame.

    Returns
    -------
    stretch
        (n, 3, 3) matrices that differ from the identity in one row, that of the axis of phase
        encoding; the identity where the gradients explain nothing.
    """
    n = len(linear)
    stretch = np.tile(np.eye(3), (n, 1, 1))
    if n < MIN_VOLUMES:
        return stretch
    _, scale, right = np.linalg.svd(linear)
    # linear = rotation @ symmetric; the symmetric part of a shear is half the shear
    symmetric = np.einsum("nji,nj,njk->nik", right, scale, right) - np.eye(3)  # (n, 3, 3)
    axis, _, _ = _phase_axis(shift, direction)
    row = symmetric[:, axis, :] * np.where(np.arange(3) == axis, 1, 2)  # (n, 3)
    part, share = _explained(row, direction)
    stretch[:, axis, :] += part * (share > MIN_EXPLAINED)
    return stretch


def eddy_shift(shift: NDArray[np.float64], direction: NDArray[np.float64]) -> NDArray[np.float64]:
    """Part of each volume's shift that is an eddy current's and no motion of the head.

    Parameters
    ----------
    shift, direction
        As in `eddy_stretch`.

    Returns
    -------
    eddy
        (n, 3) mm along the image's axes, 0 but for the axis of phase encoding; 0 where the
        gradients explain little.
    """
    eddy = np.zeros_like(shift)
    if len(shift) >= MIN_VOLUMES:
        axis, part, share = _phase_axis(shift, direction)
        eddy[:, axis] = part * (share > MIN_EXPLAINED)
    return eddy


def _phase_axis(
    shift: NDArray[np.float64], direction: NDArray[np.float64]
) -> tuple[int, NDArray[np.float64], float]:
    """Axis along which gradients shift the most; their part of that shift (n,); adjusted R²."""
    part, share = _explained(shift, direction)
    axis = int(np.argmax((part**2).sum(axis=0) * (share > 0)))
    return axis, part[:, axis], float(share[axis])


def _explained(
    value: NDArray[np.float64], direction: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Part of each column of `value` (n, k) that is odd in `direction` (n, 3); adjusted R² (k,)."""
    n = len(value)
    design = np.column_stack([np.ones(n), direction])  # (n, 4)
    beta = np.linalg.lstsq(design, value, rcond=None)[0]  # (4, k)
    residual = ((value - design @ beta) ** 2).sum(axis=0) / (n - 4)
    total = np.maximum(value.var(axis=0, ddof=1), 1e-30)
    part: NDArray[np.float64] = direction @ beta[1:]
    return part, 1 - residual / total

"""The diffusion tensor by DIPY, solved by batched normal equations."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
from dipy.core.gradients import gradient_table
from dipy.reconst.dti import TensorModel, eig_from_lo_tri
from numpy.typing import NDArray

from axoloci.io.gradients import B0_THRESHOLD

METHOD = "WLS"
"""Weighted least squares: the logarithm of a weak signal is noisier than that of a strong one."""

MIN_SIGNAL = 0.01
"""Signals below this fraction of the scan's median b0 are raised to it: 0 has no logarithm."""

MAX_MD = 4e-3
"""Mean diffusivity (mm²/s) that no tissue reaches; free water at body temperature has 3e-3."""

CHUNK = 8192
"""Voxels solved at once; more do not fit into the processor's cache."""


@dataclass(frozen=True)
class TensorMaps:
    """Maps of one scan, (x, y, z) float32, finite everywhere and 0 outside the mask.

    Attributes
    ----------
    fa
        Fractional anisotropy, 0 to 1.
    md, ad, rd
        Mean, axial and radial diffusivity, mm²/s.
    evec
        [shape: (x, y, z, 3)] Main direction in the frame of the directions that were given.
    n_implausible
        Voxels with an eigenvalue of 0 or below, MD above `MAX_MD`, or a signal raised to the floor.
    """

    fa: NDArray[np.float32]
    md: NDArray[np.float32]
    ad: NDArray[np.float32]
    rd: NDArray[np.float32]
    evec: NDArray[np.float32]
    n_implausible: int


def fit_tensor(
    dwi: NDArray[np.float32],
    bval: NDArray[np.float64],
    bvec: NDArray[np.float64],
    mask: NDArray[np.bool_],
    method: str = METHOD,
) -> TensorMaps:
    """Fit DIPY's tensor model inside a mask.

    Parameters
    ----------
    dwi
        (x, y, z, g) signal, finite.
    bval
        (g,) s/mm².
    bvec
        (g, 3) unit vectors; 0 0 0 for b0s.
    mask
        (x, y, z) voxels to fit, at least one.
    method
        `WLS` (weighted by the squared signal that OLS predicts,
        doi:10.1016/j.neuroimage.2013.05.028) or `OLS`.

    Returns
    -------
    maps
    """
    signal = dwi[mask]  # (n, g)
    floor = MIN_SIGNAL * float(np.median(signal[:, bval <= B0_THRESHOLD]))
    floor = max(floor, float(np.finfo(np.float32).tiny))
    low = (signal < floor).any(axis=1)  # (n,)
    gradients = gradient_table(bval, bvecs=bvec, b0_threshold=B0_THRESHOLD)
    model = TensorModel(
        gradients,
        fit_method=functools.partial(solve_tensor, weighted=method == "WLS"),
        min_signal=floor,
    )
    fit = model.fit(signal)
    raised = (fit.evals <= _smallest_diffusivity(model.design_matrix)).any(axis=1)  # (n,)
    bad = low | raised | (fit.md > MAX_MD)

    def volume(value: NDArray[np.float64]) -> NDArray[np.float32]:
        image = np.zeros(mask.shape + value.shape[1:], dtype=np.float32)
        image[mask] = value
        return image

    return TensorMaps(
        fa=volume(np.nan_to_num(fit.fa)),
        md=volume(np.nan_to_num(fit.md)),
        ad=volume(np.nan_to_num(fit.ad)),
        rd=volume(np.nan_to_num(fit.rd)),
        evec=volume(np.nan_to_num(fit.evecs[..., 0])),
        n_implausible=int(bad.sum()),
    )


def _smallest_diffusivity(design: NDArray[np.float64]) -> float:
    """DIPY's: eigenvalues below it (mm²/s), the negative ones among them, are raised to it."""
    return 1e-6 / -float(design.min())


def solve_tensor(
    design: NDArray[np.float64], signal: NDArray[np.float32], weighted: bool = True, **_: Any
) -> tuple[NDArray[np.float64], None]:
    """DIPY's fit method by normal equations, several times as fast as its pseudo-inverses.

    Parameters
    ----------
    design
        (g, 7) DIPY's design matrix: tensor elements, then the logarithm of S0.
    signal
        (n, g) positive.
    weighted
        Weight each logarithm by the squared signal that ordinary least squares predict.

    Returns
    -------
    (parameters, None)
        (n, 12) three eigenvalues and three eigenvectors a voxel, as DIPY's own fit methods do.
    """
    scale = abs(design).max(axis=0)  # columns of like size keep the normal equations accurate
    x = design / scale  # (g, 7)
    p = x.shape[1]
    rows, columns = np.triu_indices(p)
    products = x[:, rows] * x[:, columns]  # (g, 28)
    inverse = np.linalg.pinv(x)  # (7, g)
    lower = np.empty((len(signal), p))
    for start in range(0, len(signal), CHUNK):
        y = np.log(signal[start : start + CHUNK].astype(np.float64))  # (m, g)
        beta = y @ inverse.T  # (m, 7)
        if weighted:
            predicted = beta @ x.T  # (m, g)
            w = np.exp(2 * (predicted - predicted.max(axis=1, keepdims=True)))  # (m, g)
            normal = np.empty((len(y), p, p))
            normal[:, rows, columns] = normal[:, columns, rows] = w @ products  # (m, 28)
            beta = np.linalg.solve(normal, ((w * y) @ x)[..., None])[..., 0]  # (m, 7)
        lower[start : start + CHUNK] = beta
    return eig_from_lo_tri(lower / scale, min_diffusivity=_smallest_diffusivity(design)), None

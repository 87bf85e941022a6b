"""How good the signal of a scan is: likeness of neighbouring volumes, signal to noise."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from axoloci.tasks.preprocess.prediction import MIN_VOLUMES, prediction_weights

MIN_B0S = 3
"""b0s from which on their spread is taken for noise."""


def neighbour_correlation(
    dwi: NDArray[np.float32],
    bvec: NDArray[np.float64],
    shells: list[NDArray[np.intp]],
    mask: NDArray[np.bool_],
) -> NDArray[np.float64]:
    """Correlation of each weighted volume with that of the nearest direction in its shell.

    Motion, dropouts and distortion lower it (doi:10.1016/j.neuroimage.2019.116131).

    Parameters
    ----------
    dwi
        (x, y, z, g).
    bvec
        (g, 3) unit vectors; 0 0 0 for b0s.
    shells
        Volumes of each shell; b0s are passed over.
    mask
        (x, y, z) brain.

    Returns
    -------
    correlation
        (g,) over the brain; NaN for b0s and for a volume that is alone in its shell.
    """
    correlation = np.full(dwi.shape[3], np.nan)
    for shell in shells:
        if len(shell) < 2 or not bvec[shell].any():
            continue
        likeness = abs(bvec[shell] @ bvec[shell].T)
        np.fill_diagonal(likeness, -1)
        signal = {v: dwi[..., v][mask] for v in shell.tolist()}
        for v, near in zip(shell, shell[likeness.argmax(axis=1)], strict=True):
            correlation[v] = np.corrcoef(signal[int(v)], signal[int(near)])[0, 1]
    return correlation


def signal_to_noise(
    dwi: NDArray[np.float32],
    bval: NDArray[np.float64],
    bvec: NDArray[np.float64],
    shells: list[NDArray[np.intp]],
    mask: NDArray[np.bool_],
) -> list[dict[str, float]]:
    """Signal to noise of b0s, contrast to noise of shells, of aligned volumes.

    Of b0s the mean over their standard deviation; of a shell the spread over its directions that
    the other volumes predict, over the spread of what they do not
    (doi:10.1016/j.neuroimage.2018.09.073). Medians over the brain.

    Parameters
    ----------
    dwi, bvec, shells, mask
        As in `neighbour_correlation`.
    bval
        (g,) s/mm².

    Returns
    -------
    figures
        `bval` and `snr` of the b0s, `bval` and `cnr` of each shell, where these have volumes
        enough.
    """
    figures = []
    for shell in shells:
        weighted = bool(bvec[shell].any())
        if len(shell) < (MIN_VOLUMES if weighted else MIN_B0S):
            continue
        signal = dwi[mask][:, shell]  # (n, m)
        if weighted:
            predicted = signal @ prediction_weights(bvec[shell]).T.astype(np.float32)
            noise = (signal - predicted).std(axis=1)
            level = predicted.std(axis=1)
        else:
            noise, level = signal.std(axis=1, ddof=1), signal.mean(axis=1)
        ratio = np.divide(level, noise, out=np.zeros_like(level), where=noise > 0)
        name, value = "cnr" if weighted else "snr", round(float(np.median(ratio)), 3)
        figures.append({"bval": round(float(bval[shell].mean()), 1), name: value})
    return figures

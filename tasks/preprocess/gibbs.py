"""Gibbs ringing: ripples beside sharp edges, because a scan ends at a highest spatial frequency.

The ripples lie on the voxel grid as a wave that is sampled at its zeros or at its peaks, depending
on where the edge is. Around each voxel the image is therefore sampled anew at the sub-voxel shift
at which it oscillates least (doi:10.1002/mrm.26054).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import fft

N_SHIFTS = 10
"""Shifts to each side, up to half a voxel; with 8 and with 16 the error of FA is the same."""

WINDOW = 3
"""Differences to the left or right of a voxel over which oscillation is summed."""

MARGIN = WINDOW + 2


def remove_ringing(slices: NDArray[np.float32]) -> NDArray[np.float32]:
    """Slices without ringing along their two axes, the image's axes of acquisition.

    Of no use where the scanner interpolated the image to a finer grid, or left out a good part of
    k-space (partial Fourier): ripples are then wider than what is looked for.

    Parameters
    ----------
    slices
        (n, x, y).

    Returns
    -------
    (n, x, y) float32.
    """
    _, n_x, n_y = slices.shape
    # Ringing along x is told from that along y by filters that share out each frequency.
    cos_x = 1 + np.cos(2 * np.pi * fft.fftfreq(n_x))[:, None]
    cos_y = 1 + np.cos(2 * np.pi * fft.fftfreq(n_y))[None, :]
    total = cos_x + cos_y
    share = np.divide(cos_y, total, out=np.full_like(total, 0.5), where=total > 1e-12)
    spectrum = fft.fft2(slices)  # (n, x, y) complex64
    along_x = fft.ifft2(spectrum * share.astype(np.float32)).real
    along_y = slices - along_x
    filters = {n: _shift_matrices(n) for n in {n_x, n_y}}
    out = np.empty_like(slices)
    for x, y, o in zip(along_x, along_y, out, strict=True):
        lines = np.ascontiguousarray(x.T)
        o[:] = _least_oscillation(lines, filters[n_x]).T + _least_oscillation(y, filters[n_y])
    return out


def _shifts() -> NDArray[np.float64]:
    """Fractions of a voxel, 0 first, from small to large: of equal oscillation the least wins."""
    positive = np.arange(1, N_SHIFTS + 1) / (2 * N_SHIFTS)
    return np.concatenate([[0.0], np.stack([positive, -positive], axis=1).ravel()])


def _shift_matrices(n: int) -> NDArray[np.float32]:
    """Matrices (s, n, n + 2 MARGIN) that sample a periodic line of n voxels at each shift."""
    shifts = _shifts()
    frequency = fft.fftfreq(n) * n
    phase = np.exp(2j * np.pi * np.outer(shifts, frequency) / n)  # (s, n)
    if n % 2 == 0:
        phase[:, n // 2] = np.cos(np.pi * shifts)  # the highest frequency has no sign
    response = fft.ifft(phase, axis=1).real  # (s, n) of a single bright voxel
    place = np.arange(-MARGIN, n + MARGIN)[None, :] - np.arange(n)[:, None]
    return np.ascontiguousarray(response[:, place % n], dtype=np.float32)


def _least_oscillation(
    lines: NDArray[np.float32], filters: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Lines (m, n) sampled, voxel by voxel, at the shift of least oscillation to one side."""
    m, n = lines.shape
    here = slice(MARGIN, MARGIN + n)
    best = np.full((m, n), np.inf, dtype=np.float32)
    value = np.empty((m, n), dtype=np.float32)
    shifted = np.empty((m, n + 2 * MARGIN), dtype=np.float32)
    for shift, matrix in zip(_shifts(), filters, strict=True):
        np.matmul(lines, matrix, out=shifted)
        change = np.abs(np.diff(shifted, axis=1))  # change[:, k]: between k and k + 1
        window = change[:, : 1 - WINDOW] + change[:, 1 : 2 - WINDOW]
        window += change[:, WINDOW - 1 :]  # (m, n + 2 MARGIN - WINDOW), from voxel k to k + WINDOW
        # the voxel's own two differences are left out: it may lie on the edge that rings
        left = window[:, MARGIN - WINDOW - 1 : MARGIN - WINDOW - 1 + n]
        right = window[:, MARGIN + 1 : MARGIN + 1 + n]
        oscillation = np.minimum(left, right)
        better = oscillation < best
        np.copyto(best, oscillation, where=better)
        # back to the voxel's centre, between the shifted sample and its neighbour
        neighbour = (
            shifted[:, MARGIN - 1 : MARGIN - 1 + n]
            if shift > 0
            else (shifted[:, MARGIN + 1 : MARGIN + 1 + n])
        )
        back = np.float32(abs(shift))
        np.copyto(value, (1 - back) * shifted[:, here] + back * neighbour, where=better)
    return value

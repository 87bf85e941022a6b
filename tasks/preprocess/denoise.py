"""Thermal noise out of diffusion-weighted volumes, by what neighbouring voxels have in common.

In a small patch, the signal of all volumes is spanned by a few components; noise fills all of them
evenly, and its eigenvalues follow the law of Marchenko and Pastur. What lies within that law is
taken out (doi:10.1016/j.neuroimage.2016.08.016, with the estimate of the noise level of
doi:10.1016/j.neuroimage.2019.06.039). Patches overlap, and their results are averaged, those of few
components counting most (doi:10.1371/journal.pone.0073021).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray

MIN_VOLUMES = 30
"""Volumes below which the components of noise and of signal cannot be told apart."""


def denoise(
    dwi: NDArray[np.float32],
    mask: NDArray[np.bool_],
    track: Callable[[range], Iterable[int]] = iter,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Denoised volumes, and the noise that was found.

    The noise must be that of the scanner: independent between voxels and volumes, so before any
    interpolation. Patches are cubes with at least as many voxels as there are volumes; they lie
    half a patch apart.

    Parameters
    ----------
    dwi
        (x, y, z, g) magnitude signal.
    mask
        (x, y, z) voxels to denoise; the others stay.
    track
        Wraps the loop over the first axis, to show progress.

    Returns
    -------
    (dwi, sigma)
        (x, y, z, g); (x, y, z) standard deviation of the noise, 0 outside the mask.
    """
    width = patch_width(dwi.shape[3])
    step = max(1, width // 2)
    total = np.zeros_like(dwi)
    weights = np.zeros(mask.shape, dtype=np.float32)
    sigma = np.zeros(mask.shape, dtype=np.float32)
    starts = [_starts(n, width, step) for n in mask.shape]
    for i in track(range(len(starts[0]))):
        x = slice(starts[0][i], starts[0][i] + width)
        for j in starts[1]:
            y = slice(j, j + width)
            places = [k for k in starts[2] if mask[x, y, k : k + width].any()]
            if not places:
                continue
            slabs = [(x, y, slice(k, k + width)) for k in places]
            patches = np.stack([dwi[slab].reshape(-1, dwi.shape[3]) for slab in slabs])
            signal, noise, rank = denoise_patches(patches)
            for slab, s, n, r in zip(slabs, signal, noise, rank, strict=True):
                weight = np.float32(1 / (1 + r))
                total[slab] += weight * s.reshape(total[slab].shape)
                sigma[slab] += weight * n
                weights[slab] += weight
    outside = ~mask | (weights == 0)
    weights[outside] = 1
    total /= weights[..., None]
    total[outside] = dwi[outside]
    sigma /= weights
    sigma[outside] = 0
    return total, sigma


def patch_width(n_volumes: int) -> int:
    """Voxels along a patch's edge: the least odd number, from 5, whose cube is not below `n`."""
    width = 5
    while width**3 < n_volumes:
        width += 2
    return width


def _starts(n: int, width: int, step: int) -> list[int]:
    """First voxels of the patches along an axis of n; the last patch ends with the axis."""
    last = max(n - width, 0)
    return [*range(0, last, step), last]


def denoise_patches(
    patches: NDArray[np.float32],
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.intp]]:
    """Signal, noise level and number of components of patches.

    Parameters
    ----------
    patches
        (p, n, g) signal of n voxels in g volumes.

    Returns
    -------
    (signal, sigma, rank)
        (p, n, g); (p,) standard deviation of the noise; (p,) components that are kept.
    """
    _, n, g = patches.shape
    turned = patches.swapaxes(1, 2)
    wide = n < g  # the smaller side has all the eigenvalues that are not 0
    products = patches @ turned if wide else turned @ patches  # (p, m, m), m = min(n, g)
    value, vector = np.linalg.eigh(products / np.float32(max(n, g)))  # ascending
    sigma, rank = noise_level(value, max(n, g))
    signal = np.empty_like(patches)
    for patch, basis, r, out in zip(patches, vector, rank, signal, strict=True):
        kept = basis[:, basis.shape[1] - r :]  # (m, r)
        out[:] = kept @ (kept.T @ patch) if wide else (patch @ kept) @ kept.T
    return signal, sigma, rank


def noise_level(
    eigenvalues: NDArray[np.float32], n: int
) -> tuple[NDArray[np.float32], NDArray[np.intp]]:
    """Where the eigenvalues of noise end.

    For each number of noise components, the noise variance follows from their mean and, by the
    width of the law of Marchenko and Pastur, from their range; the largest number is taken for
    which the range is not too wide.

    Parameters
    ----------
    eigenvalues
        (p, m) of the covariance over the longer side, ascending.
    n
        Length of the longer side.

    Returns
    -------
    (sigma, rank)
        (p,) standard deviation of the noise; (p,) number of larger eigenvalues.
    """
    m = eigenvalues.shape[1]
    count = np.arange(1, m + 1)  # components of noise
    from_mean = np.cumsum(eigenvalues, axis=1) / count  # (p, m)
    ratio = count / (n - (m - count))  # the signal's components take freedom on both sides
    from_range = (eigenvalues - eigenvalues[:, :1]) / (4 * np.sqrt(ratio))
    noise = from_range <= from_mean  # (p, m); true for one component
    n_noise = m - np.argmax(noise[:, ::-1], axis=1)  # (p,)
    variance = np.take_along_axis(from_mean, n_noise[:, None] - 1, axis=1)[:, 0]
    return np.sqrt(np.maximum(variance, 0)).astype(np.float32), np.asarray(m - n_noise, np.intp)


def remove_noise_floor(dwi: NDArray[np.float32], sigma: NDArray[np.float32]) -> NDArray[np.float32]:
    """Denoised magnitudes without the bias of Rician noise (doi:10.1002/mrm.1910340618).

    Parameters
    ----------
    dwi
        (x, y, z, g) denoised; changed in place.
    sigma
        (x, y, z) standard deviation of the noise that was in it.
    """
    dwi *= dwi
    dwi -= (sigma * sigma)[..., None]
    np.maximum(dwi, 0, out=dwi)
    return np.sqrt(dwi, out=dwi)

"""Unringing of truncated k-space, and beside MRtrix3's mrdegibbs."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import fft

from axoloci.tasks.preprocess.gibbs import remove_ringing


def truncated(shape: tuple[int, int]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """A disc and a tilted square as a scanner sees them, and their voxels' means; (1, x, y)."""
    fine = 8
    x, y = np.meshgrid(*(np.linspace(-1, 1, n * fine) for n in shape), indexing="ij")
    image = 100.0 * (np.hypot(x, y) < 0.7) + 60.0 * (abs(x + 0.4 * y) + abs(y - 0.3 * x) < 0.35)
    spectrum = fft.fft2(image)
    for axis, n in enumerate(shape):
        kept = np.r_[0 : (n + 1) // 2, n * fine - n // 2 : n * fine]
        spectrum = np.take(spectrum, kept, axis)
        phase = np.exp(1j * np.pi * fft.fftfreq(n) * (fine - 1) / fine)  # to the voxels' centres
        spectrum = spectrum * np.expand_dims(phase, 1 - axis)
    scanned = fft.ifft2(spectrum).real / fine**2
    means = image.reshape(shape[0], fine, shape[1], fine).mean(axis=(1, 3))
    return scanned[None].astype(np.float32), means[None].astype(np.float32)


@pytest.mark.parametrize("shape", [(96, 96), (64, 75)])
def test_remove_ringing__ripples_fall_and_edges_stay(shape: tuple[int, int]) -> None:
    scanned, truth = truncated(shape)
    found = remove_ringing(scanned)
    flat = np.hypot(*np.gradient(truth[0])) == 0  # beside the edges
    assert flat.mean() > 0.5
    assert np.abs(found - truth)[0][flat].mean() < 0.4 * np.abs(scanned - truth)[0][flat].mean()
    assert np.abs(found - truth).mean() < 0.8 * np.abs(scanned - truth).mean()


def test_remove_ringing__a_flat_image_stays() -> None:
    flat = np.full((2, 20, 31), 7, dtype=np.float32)
    assert np.allclose(remove_ringing(flat), 7, atol=1e-4)


def test_remove_ringing__as_mrtrix3(tmp_path: Path, tool: Callable[[str], str]) -> None:
    rng = np.random.default_rng(0)
    slices = np.concatenate([truncated((96, 90))[0]] * 3)
    slices += rng.normal(0, 3, slices.shape).astype(np.float32)
    volume = np.ascontiguousarray(slices.transpose(1, 2, 0))
    nib.save(nib.Nifti1Image(volume, np.eye(4)), tmp_path / "in.nii")
    subprocess.run([tool("mrdegibbs"), "in.nii", "out.nii", "-quiet"], cwd=tmp_path, check=True)
    peer = nib.load(tmp_path / "out.nii").get_fdata(dtype=np.float32).transpose(2, 0, 1)
    found = remove_ringing(slices)
    assert np.corrcoef((found - slices).ravel(), (peer - slices).ravel())[0, 1] > 0.98
    assert np.abs(found - peer).mean() < 0.15 * np.abs(slices - peer).mean()

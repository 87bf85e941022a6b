"""MP-PCA against planted noise, and beside MRtrix3's dwidenoise."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from numpy.typing import NDArray

from axoloci.io.gradients import world_to_bvec
from axoloci.tasks.preprocess.chain import Corrected, preprocess
from axoloci.tasks.preprocess.denoise import denoise, noise_level, patch_width, remove_noise_floor
from axoloci.tasks.simulate import kernel as simulation
from axoloci.tasks.simulate import scan
from axoloci.tasks.simulate.anatomy import S0_WHITE, phantom

SNR = 15.0


@pytest.fixture(scope="module")
def scans() -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_]]:
    """A scan with noise, the same without, and the brain."""
    anatomy = phantom(4.0)
    bval, gradient = scan.gradient_scheme(60, 4, 1000.0)
    none = np.zeros(len(anatomy.names))
    noisy, clean = (
        simulation.simulate_scan(
            anatomy,
            none,
            simulation.Protocol(bval, gradient, snr, 0.0, 0.0, 0.0),
            np.random.SeedSequence(3),
        ).dwi
        for snr in (SNR, np.inf)
    )
    brain = scan.true_fa(anatomy, anatomy.fields, scan.random_head(anatomy, _rng(), 0.0)) > 0
    return noisy, clean, brain


def _rng() -> np.random.Generator:
    return np.random.default_rng(0)


def rms(difference: NDArray[np.float32], brain: NDArray[np.bool_]) -> float:
    return float(np.sqrt(np.mean(difference[brain] ** 2)))


def test_denoise__noise_falls_and_its_level_is_found(
    scans: tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_]],
) -> None:
    noisy, clean, brain = scans
    given = noisy.copy()
    found, sigma = denoise(noisy, brain)
    assert np.array_equal(noisy, given)
    assert rms(found - clean, brain) < 0.55 * rms(noisy - clean, brain)
    assert np.median(sigma[brain]) == pytest.approx(S0_WHITE / SNR, rel=0.05)
    assert np.array_equal(found[~brain], noisy[~brain])
    assert not sigma[~brain].any()


def test_preprocess__denoises_on_request(
    scans: tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_]],
) -> None:
    noisy, clean, brain = scans
    bval, gradient = scan.gradient_scheme(60, 4, 1000.0)
    affine = phantom(4.0).scan_affine
    bvec = world_to_bvec(gradient, affine)

    def corrected(denoised: bool) -> Corrected:
        given = noisy.copy()
        return preprocess(
            *(given, bval, bvec, affine, brain),
            denoised=denoised,
            unringed=False,
            aligned=False,
        )

    done, left = corrected(True), corrected(False)
    assert (done.steps, left.steps) == (["denoising"], [])
    assert left.sigma is None
    assert done.sigma == pytest.approx(S0_WHITE / SNR, rel=0.05)
    assert np.array_equal(left.dwi, noisy)
    assert rms(done.dwi - clean, brain) < 0.55 * rms(noisy - clean, brain)


def test_denoise__at_least_as_good_as_mrtrix3(
    scans: tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_]],
    tmp_path: Path,
    tool: Callable[[str], str],
) -> None:
    noisy, clean, brain = scans
    nib.save(nib.Nifti1Image(noisy, np.diag([4.0, 4.0, 4.0, 1.0])), tmp_path / "in.nii")
    subprocess.run(
        [tool("dwidenoise"), "in.nii", "out.nii", "-noise", "noise.nii", "-extent", "5", "-quiet"],
        cwd=tmp_path,
        check=True,
    )
    peer = nib.load(tmp_path / "out.nii").get_fdata(dtype=np.float32)
    found, sigma = denoise(noisy, brain)
    assert rms(found - clean, brain) < rms(peer - clean, brain)
    noise = nib.load(tmp_path / "noise.nii").get_fdata(dtype=np.float32)
    assert np.median(sigma[brain]) == pytest.approx(np.median(noise[brain]), rel=0.02)


def test_noise_level__of_noise_and_of_three_components() -> None:
    rng = np.random.default_rng(1)
    noise = rng.normal(0, 2.0, (50, 125, 40))
    signal = rng.normal(size=(50, 125, 3)) @ rng.normal(0, 20, (50, 3, 40))
    for data, rank in ((noise, 0), (noise + signal, 3)):
        values = np.linalg.eigvalsh(data.swapaxes(1, 2) @ data / 125).astype(np.float32)
        sigma, found = noise_level(values, 125)
        assert np.median(found) == rank
        assert np.median(sigma) == pytest.approx(2.0, rel=0.03)


def test_patch_width__has_voxels_for_all_volumes() -> None:
    assert [patch_width(n) for n in (30, 125, 126, 343, 344)] == [5, 5, 7, 7, 9]


def test_denoise__more_volumes_than_voxels_in_a_small_image() -> None:
    rng = np.random.default_rng(2)
    clean = np.outer(rng.random(5 * 4 * 3) + 1, rng.random(70) + 1).reshape(5, 4, 3, 70) * 100
    noisy = (clean + rng.normal(0, 5, clean.shape)).astype(np.float32)
    everywhere = np.ones((5, 4, 3), dtype=bool)
    found, _ = denoise(noisy, everywhere)
    assert rms(found - clean.astype(np.float32), everywhere) < 2


def test_remove_noise_floor__mean_of_rician_magnitudes() -> None:
    rng = np.random.default_rng(3)
    truth, sigma = 200.0, 40.0
    magnitude = np.hypot(truth + rng.normal(0, sigma, 10**6), rng.normal(0, sigma, 10**6)).mean()
    assert magnitude > truth + 3.5
    found = remove_noise_floor(
        np.full((1, 1, 1, 2), magnitude, np.float32), np.full((1, 1, 1), sigma, np.float32)
    )
    assert found == pytest.approx(truth, abs=0.5)
    low = remove_noise_floor(
        np.full((1, 1, 1, 1), 1, np.float32), np.full((1, 1, 1), 2, np.float32)
    )
    assert low == 0

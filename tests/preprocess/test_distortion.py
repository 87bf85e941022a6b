"""Susceptibility distortion: planted fields come back, real pairs come to agree."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from axoloci import registration
from axoloci.io.gradients import bvec_to_world, read_gradients
from axoloci.io.nifti import read_nifti
from axoloci.tasks.preprocess.distortion import Field, estimate_field
from axoloci.tasks.simulate import anatomy as tissue
from axoloci.tasks.simulate import artefacts, kernel, scan

SNR = 20.0
MOVED = np.r_[0.8, 1.2, -1.4, np.deg2rad([1.2, -1.0, 1.2])]  # 2 mm, 2 degrees


@dataclass(frozen=True)
class Pair:
    """Two simulated b0s and their truth on the scan's grid."""

    forward: np.ndarray
    reverse: np.ndarray
    still: np.ndarray  # undistorted, without noise
    displacement: np.ndarray
    brain: np.ndarray
    affine: np.ndarray
    matrix: np.ndarray


@pytest.fixture(scope="module")
def person(data_dir: Path) -> tissue.Anatomy:
    """A real head: turning the phantom, which is nearly round, changes too little."""
    stem = data_dir / "dwi" / "mappertrac-sub-011591" / "sub-011591_dwi"
    dwi, affine = read_nifti(f"{stem}.nii.gz", 4)
    bval, bvec = read_gradients(f"{stem}.bval", f"{stem}.bvec")
    some = slice(None, None, 7)
    gradient = bvec_to_world(bvec, affine)[some]
    return tissue.from_scan(dwi[..., some], bval[some], gradient, affine, 2.5)


def make_pair(anatomy: tissue.Anatomy, distortion_mm: float) -> Pair:
    head = scan.random_head(anatomy, np.random.default_rng(0))
    points = scan.scan_points(anatomy)
    brain = anatomy.brain[::2, ::2, ::2]
    field = artefacts.plant_susceptibility(
        anatomy,
        head.from_template(artefacts.air_places(anatomy)),
        head.from_template(points[brain.ravel()]),
        distortion_mm,
    )
    rng = np.random.default_rng(1)
    images = []
    for pose, susceptibility, polarity in (
        (np.zeros(6), field, 1),
        (MOVED, field, -1),
        (np.zeros(6), None, 1),
    ):
        image = scan.acquire(
            *(anatomy, anatomy.fields, head, np.zeros(1), np.zeros((1, 3)), pose[None]),
            susceptibility,
            polarity,
        )[..., 0]
        if susceptibility is not None:
            image = scan.add_rician_noise(image, tissue.S0_WHITE / SNR, rng)
        images.append(image)
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = scan.rotation(MOVED), MOVED[:3]
    displacement = field.field(points)[0].reshape(anatomy.shape)
    still = scan.true_fa(anatomy, anatomy.fields, head) > 0
    return Pair(*images, displacement, still, anatomy.scan_affine, matrix)


def error_mm(found: np.ndarray, wanted: np.ndarray, pair: Pair) -> float:
    """Largest distance between where two rigid matrices take the corners of a 10 cm cube."""
    corner = np.array(np.meshgrid(*[[-50, 50]] * 3)).reshape(3, -1)
    gap = (found - wanted)[:3, :3] @ corner + (found - wanted)[:3, 3:]
    return float(np.linalg.norm(gap, axis=0).max())


@pytest.fixture(scope="module")
def pair(person: tissue.Anatomy) -> Pair:
    return make_pair(person, 10.0)


@pytest.fixture(scope="module")
def found(pair: Pair) -> Field:
    return estimate_field(pair.forward, pair.reverse, pair.affine, artefacts.PHASE)


def test_estimate_field__planted_field_comes_back(pair: Pair, found: Field) -> None:
    planted, brain = pair.displacement, pair.brain
    error = np.abs(found.displacement - planted)
    displaced = brain & (np.abs(planted) > 1)
    assert displaced.sum() > 0.1 * brain.sum()
    assert np.abs(planted[brain]).max() > 5
    assert np.median(error[displaced]) < 0.5
    assert np.percentile(error[displaced], 95) < 1
    assert error[brain].mean() < np.abs(planted[brain]).mean() / 3


def test_estimate_field__image_is_nearer_to_the_truth(pair: Pair, found: Field) -> None:
    def error(image: np.ndarray) -> float:
        return float(np.sqrt(((image - pair.still)[pair.brain] ** 2).mean()))

    corrected = found.apply(pair.forward, np.eye(4))
    assert error(corrected) < 0.5 * error(pair.forward)
    _, gain = found.sampling(np.eye(4))
    assert gain.min() > 0.1
    assert error(corrected) < 0.9 * error(corrected / gain.astype(np.float32))  # it piled up


def test_estimate_field__motion_between_the_images_is_found(pair: Pair, found: Field) -> None:
    moved = error_mm(np.eye(4), pair.matrix, pair)
    assert moved > 2.5
    assert error_mm(found.reverse_matrix, pair.matrix, pair) < moved / 3
    reverse = found.apply(pair.reverse, found.reverse_matrix, -1.0)
    rigid = registration.resample(
        pair.reverse, pair.affine, pair.matrix, pair.brain.shape, pair.affine
    )
    forward = found.apply(pair.forward, np.eye(4))
    displaced = pair.brain & (np.abs(pair.displacement) > 1)
    before, after = (
        np.corrcoef(a[displaced], b[displaced])[0, 1]
        for a, b in ((pair.forward, rigid), (forward, reverse))
    )
    assert 1 - after < 0.4 * (1 - before)


def test_estimate_field__without_a_field_nothing_is_displaced(person: tissue.Anatomy) -> None:
    still = make_pair(person, 0.0)
    field = estimate_field(still.forward, still.reverse, still.affine, artefacts.PHASE)
    assert np.abs(field.displacement[still.brain]).mean() < 0.1
    assert np.percentile(np.abs(field.displacement[still.brain]), 95) < 0.2


@pytest.mark.parametrize("ratio", [0.5, 2.0])
def test_estimate_field__other_readout_time(ratio: float) -> None:
    # Two bands of signal, displaced by hand: no simulator in between.
    affine = np.diag([-3.0, 3, 3, 1])
    x, y, z = np.moveaxis(np.moveaxis(np.indices((24, 40, 24)), 0, -1) * 3.0, -1, 0)
    planted = 3 * np.exp(-((x - 36) ** 2 + (y - 60) ** 2 + (z - 36) ** 2) / 2 / 12**2)

    def image(place: np.ndarray) -> np.ndarray:
        ball = 1 / (1 + np.exp((x - 36) ** 2 / 100 + (place - 60) ** 2 / 200 - 4))
        return ball * (2 + np.sin(place / 5) * np.cos(x / 7) * np.cos(z / 6))

    def acquired(factor: float) -> np.ndarray:
        place = y.copy()
        for _ in range(30):  # the inverse of y + factor d(y)
            index = np.stack([x, place, z]) / 3
            place = y - factor * ndimage.map_coordinates(planted, index, order=3, mode="nearest")
        return (image(place) * np.gradient(place, 3.0, axis=1)).astype(np.float32)

    found = estimate_field(acquired(1.0), acquired(-ratio), affine, 1, ratio).displacement
    head = image(y) > 0.5
    planted -= np.median(planted[head])
    assert np.abs(found - planted)[head].mean() < 0.25 * np.abs(planted)[head].mean()


def test_estimate_field__noise_is_no_field_that_folds() -> None:
    rng = np.random.default_rng(0)
    forward, reverse = rng.random((2, 16, 20, 12), dtype=np.float32)
    field = estimate_field(forward, reverse, np.diag([2.0, 2.0, 3.0, 1]), 1)
    assert np.isfinite(field.displacement).all()
    assert field.sampling(np.eye(4))[1].min() > 0
    flat = estimate_field(np.ones_like(forward), np.ones_like(forward), np.eye(4), 0)
    assert (flat.displacement == 0).all()


def test_field__without_displacement_is_the_rigid_resampling() -> None:
    rng = np.random.default_rng(0)
    affine = np.diag([-2.0, 2.5, 3.0, 1])
    affine[:3, 3] = 10, -20, -5
    volume = rng.random((12, 10, 8), dtype=np.float32)
    matrix = registration.about(
        registration.rotation_matrix(np.array([0.05, -0.1, 0.02])), np.ones(3), np.zeros(3)
    )
    field = Field(np.zeros(volume.shape, np.float32), np.array([0.0, 1, 0]), affine, np.eye(4))
    expected = registration.resample(volume, affine, matrix, volume.shape, affine)
    np.testing.assert_allclose(field.apply(volume, matrix), expected, atol=1e-5)


def test_field__signal_is_kept_whatever_the_pose(pair: Pair) -> None:
    # The determinant is that of the map of places, of which differences tell by themselves.
    smooth = pair.displacement.astype(np.float32)
    field = Field(smooth, np.array([0.0, 1, 0]), pair.affine, np.eye(4))
    place, gain = field.sampling(pair.matrix)
    slopes = np.stack([np.stack(np.gradient(part)) for part in place])  # (3, 3, x, y, z)
    determinant = np.linalg.det(np.moveaxis(slopes, (0, 1), (-2, -1)))
    np.testing.assert_allclose(gain, determinant, atol=1e-6)


def test_distortion__corrected_fa_is_nearer_to_the_truth() -> None:
    anatomy = tissue.phantom(4.0)
    bval, gradient = scan.gradient_scheme(12, 1, 1000.0)
    protocol = kernel.Protocol(bval, gradient, 40.0, 0.0, 0.0, distortion_mm=8.0)
    none = np.zeros(len(anatomy.names))
    made = kernel.simulate_scan(anatomy, none, protocol, np.random.SeedSequence(0))
    truth = scan.true_fa(anatomy, made.fields, made.head)
    field = estimate_field(made.dwi[..., 0], made.reverse_b0, anatomy.scan_affine, artefacts.PHASE)
    corrected = np.stack([field.apply(v, np.eye(4)) for v in np.moveaxis(made.dwi, 3, 0)], axis=3)
    design = -bval[1:, None] * gradient[1:, tissue.ROW] * gradient[1:, tissue.COLUMN] * tissue.TWICE
    displaced = np.abs(made.susceptibility.field(scan.scan_points(anatomy))[0]) > 1
    region = (truth > 0.2) & displaced.reshape(anatomy.shape)
    assert region.sum() > 300

    def error(dwi: np.ndarray) -> float:
        signal = np.maximum(dwi[region], 1)
        tensor = np.linalg.lstsq(design, np.log(signal[:, 1:] / signal[:, :1]).T)[0].T
        fa = tissue.fractional_anisotropy(tensor.astype(np.float32))
        return float(np.sqrt(((fa - truth[region]) ** 2).mean()))

    assert error(corrected) < 0.8 * error(made.dwi)


@pytest.mark.parametrize(
    ("forward", "reverse", "before", "after"),
    [
        (
            "uih-ap-pa/9_dti_tra_dir16_AP_SaveBySlc",
            "uih-ap-pa/6_dti_tra_dir16_PA_SaveBySlc",
            0.80,
            0.98,
        ),
        ("canon-galan-paris/4000_DTI_AP-ortho", "canon-galan-paris/3000_DTI_PA-ortho", 0.55, 0.96),
    ],
)
def test_estimate_field__real_pairs_agree(
    data_dir: Path, forward: str, reverse: str, before: float, after: float
) -> None:
    images = []
    for name in (forward, reverse):
        dwi, affine = read_nifti(data_dir / "dwi" / f"{name}.nii.gz", 4)
        images.append(np.ascontiguousarray(dwi[..., 0]))
    a, b = images
    field = estimate_field(a, b, affine, 1)
    bright = sum(image > 0.5 * image[image > image.mean()].mean() for image in images) > 0
    corrected = field.apply(a, np.eye(4)), field.apply(b, field.reverse_matrix, -1.0)
    assert np.corrcoef(a[bright], b[bright])[0, 1] < before
    assert np.corrcoef(corrected[0][bright], corrected[1][bright])[0, 1] > after
    assert field.sampling(np.eye(4))[1].min() > 0

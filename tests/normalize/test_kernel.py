"""Registration to a template against planted affines and warps."""

from __future__ import annotations

from dataclasses import dataclass

import nibabel as nib
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from axoloci import registration
from axoloci.io.files import sha256
from axoloci.io.nifti import read_nifti
from axoloci.tasks.normalize import kernel
from axoloci.tasks.normalize.inputs import TEMPLATE
from axoloci.tasks.simulate.anatomy import phantom


@dataclass(frozen=True)
class Template:
    fa: NDArray[np.float32]
    affine: NDArray[np.float64]

    @property
    def brain(self) -> NDArray[np.bool_]:
        return self.fa > kernel.TEMPLATE_MIN_FA

    @property
    def grid(self) -> NDArray[np.float64]:
        return kernel.world_grid(self.fa.shape, self.affine)


@pytest.fixture(scope="module")
def template() -> Template:
    """The shipped template at 4 mm."""
    fa, affine = read_nifti(TEMPLATE, ndim=3)
    return Template(*kernel.regrid(fa, affine, 4.0))


def median_error(
    found: NDArray[np.floating], truth: NDArray[np.float64], where: NDArray[np.bool_]
) -> float:
    return float(np.median(np.linalg.norm(found - truth, axis=-1)[where]))


def test_align_affine__known_affine(template: Template) -> None:
    linear = registration.rotation_matrix(np.array([0.15, -0.1, 0.2])) @ np.diag([1.08, 0.95, 1.05])
    truth = registration.about(linear, np.array([6.0, -9.0, 5.0]), np.zeros(3))
    moving = registration.resample(
        template.fa, template.affine, np.linalg.inv(truth), template.fa.shape, template.affine, 1
    )
    found = kernel.align_affine(moving, template.affine, template.fa, template.affine)
    error = template.grid @ (found - truth)[:3, :3].T + (found - truth)[:3, 3]
    assert np.median(np.linalg.norm(error, axis=-1)[template.brain]) < 0.6
    assert np.linalg.det(found[:3, :3]) == pytest.approx(np.linalg.det(linear), rel=0.03)


@pytest.mark.parametrize("number", [5, 16])
def test_align_affine__a_header_with_turned_axes(template: Template, number: int) -> None:
    """The image is right, the header calls its axes by other names."""
    turn = kernel.axis_rotations()[number]
    wrong = registration.about(turn, np.zeros(3), np.zeros(3)) @ template.affine
    found = kernel.register(template.fa, wrong, template.fa, template.affine)
    assert found.similarity["header"] < 0.6
    assert found.similarity["affine"] > 0.95
    assert np.allclose(registration.nearest_rotation(found.affine), turn, atol=0.05)


def smooth_field(template: Template, mm: float) -> NDArray[np.float64]:
    rng = np.random.default_rng(1)
    field = np.stack(
        [ndimage.gaussian_filter(rng.normal(size=template.fa.shape), 5) for _ in "xyz"]
    )
    return np.moveaxis(field * mm / np.sqrt((field**2).sum(0).mean()), 0, -1)


def test_register__known_warp(template: Template) -> None:
    """The person's map is the template pulled through x + u(x); its inverse must come back."""
    u = smooth_field(template, 2.5)  # root mean square, mm
    moving = kernel.sample(template.fa, template.affine, template.grid + u)
    # y of the person with y + u(y) = x, by fixed-point steps
    to_voxel = np.linalg.inv(template.affine)
    y = template.grid
    for _ in range(20):
        voxel = np.moveaxis(y @ to_voxel[:3, :3].T + to_voxel[:3, 3], -1, 0)
        at_y = [
            ndimage.map_coordinates(u[..., k], voxel, order=1, mode="nearest") for k in range(3)
        ]
        y = template.grid - np.stack(at_y, axis=-1)
    found = kernel.register(moving, template.affine, template.fa, template.affine)
    core = ndimage.binary_erosion(template.brain)
    error = median_error(found.warp, y, core)
    assert error < 0.6
    assert median_error(template.grid, y, core) > 1.5
    assert found.similarity["warp"] > found.similarity["affine"] > 0.8
    assert found.similarity["warp"] > 0.95


def test_register__the_warp_leads_to_the_dwi(template: Template) -> None:
    """Sampling the map at the warp's coordinates by hand gives the output, on another grid too."""
    fa, affine = kernel.regrid(template.fa, template.affine, 5.0)
    affine = registration.about(np.eye(3), np.array([4.0, -3, 2]), np.zeros(3)) @ affine
    found = kernel.register(fa, affine, template.fa, template.affine)
    assert found.fa.shape == template.fa.shape
    assert found.warp.shape == (*template.fa.shape, 3)
    voxel = nib.affines.apply_affine(np.linalg.inv(affine), found.warp.astype(np.float64))
    by_hand = ndimage.map_coordinates(fa, np.moveaxis(voxel, -1, 0), order=1, mode="constant")
    assert np.allclose(found.fa, by_hand, atol=1e-3)
    assert np.allclose(found.affine[:3, 3], [4, -3, 2], atol=2)


def test_register__tells_a_field_of_view_that_is_cut(template: Template) -> None:
    """The warp draws the cut brain towards the template's ends; the share must not follow it."""
    height = template.affine[2, 3] + template.affine[2, 2] * np.arange(template.fa.shape[2])
    share = {}
    for name, low, high in (("whole", -99, 99), ("cerebellum cut", -52, 99), ("84 mm", -30, 54)):
        kept = np.flatnonzero((height >= low) & (height <= high))
        affine = template.affine.copy()
        affine[2, 3] = height[kept[0]]
        cut = np.ascontiguousarray(template.fa[:, :, kept])
        found = kernel.register(cut, affine, template.fa, template.affine)
        share[name] = found.share_in_view
        truth = template.brain[:, :, kept].sum() / template.brain.sum()
        assert found.share_in_view == pytest.approx(truth, abs=0.03)
    assert share["whole"] == pytest.approx(1, abs=0.005)
    assert share["cerebellum cut"] > 0.92
    assert share["84 mm"] < 0.87


def test_axis_rotations__are_24_different_ones() -> None:
    rotations = kernel.axis_rotations()
    assert len({r.tobytes() for r in rotations}) == 24
    assert all(np.linalg.det(r) == pytest.approx(1) for r in rotations)
    assert np.array_equal(rotations[0], np.eye(3))


def test_regrid__keeps_the_field_of_view() -> None:
    ramp = np.broadcast_to(np.arange(20, dtype=np.float32)[:, None, None], (20, 10, 10)) / 20
    affine = np.diag([-2.0, 2, 2, 1])
    new, new_affine = kernel.regrid(np.array(ramp), affine, 4.0)
    assert new.shape == (10, 5, 5)
    assert np.allclose(new_affine[:3, 3], [-1, 1, 1])  # centre of the first two voxels
    assert np.allclose(new[2:-2, 2, 2], ramp[:, 0, 0].reshape(10, 2).mean(1)[2:-2], atol=1e-3)
    assert np.linalg.norm(kernel.regrid(np.array(ramp), affine, 1.0)[1][:3, 0]) == 1


def test_register__a_coarse_phantom_with_few_voxels() -> None:
    anatomy = phantom(12.0)
    fa, affine = anatomy.scan_fa, anatomy.scan_affine
    found = kernel.register(fa, affine, fa, affine)
    assert found.similarity["warp"] > 0.99


def test_core__thin_things_stay() -> None:
    mask = np.zeros((20, 20, 20), dtype=bool)
    mask[5:15, 5:15, 9:11] = True
    assert np.array_equal(kernel.core(mask.astype(np.float32), np.eye(4)), mask)
    mask[5:15, 5:15, 5:15] = True
    assert kernel.core(mask.astype(np.float32), np.eye(4)).sum() == 4**3


def test_group_mask__brain_that_95_percent_have() -> None:
    template = np.zeros((5, 1, 1), np.float32)
    template[:, 0, 0] = [0.04, 0.06, 0.5, 0.5, 0.5]
    coverage = np.array([20, 20, 20, 19, 18]).reshape(5, 1, 1)
    brain = kernel.brain_of(template, np.eye(4), coverage.shape, np.eye(4))
    mask = kernel.group_mask(coverage, 20, brain)
    assert mask.ravel().tolist() == [False, True, True, True, False]


def test_template__is_what_its_page_says() -> None:
    page = (TEMPLATE.parent / "TEMPLATE.md").read_text()
    fa, affine = read_nifti(TEMPLATE, ndim=3)
    assert fa.shape == (91, 109, 91)
    assert np.allclose(abs(np.diag(affine)[:3]), 2)
    assert fa.min() == 0
    assert 0.8 < fa.max() <= 1
    assert sha256(TEMPLATE) in page


def test_jacobian__of_a_stretch_and_a_fold() -> None:
    affine = np.diag([-2.0, 2, 2, 1])
    world = kernel.world_grid((8, 8, 8), affine)
    stretch = (world * np.array([0.1, 0.2, -0.5])).astype(np.float32)
    assert np.allclose(kernel.jacobian(stretch, affine), 1.1 * 1.2 * 0.5, atol=1e-5)
    assert (kernel.jacobian((world * np.array([-1.5, 0, 0])).astype(np.float32), affine) < 0).all()


def test_dice__by_hand() -> None:
    a, b = np.zeros((2, 4, 4, 4), dtype=bool)
    assert kernel.dice(a, b) == 0
    a[0], b[0, :2] = True, True
    assert kernel.dice(a, b) == pytest.approx(2 * 8 / 24)


def test_sample_brain__the_edge_stays() -> None:
    image = np.zeros((8, 4, 4), np.float32)
    image[2:6] = 0.5
    world = kernel.world_grid(image.shape, np.eye(4)) + np.array([0.4, 0, 0])
    assert np.allclose(kernel.sample_brain(image, np.eye(4), world)[:, 1, 1], image[:, 1, 1])
    assert kernel.sample(image, np.eye(4), world)[1, 1, 1] == pytest.approx(0.2)


def test_register__a_rim_more_or_less_is_no_shape(template: Template) -> None:
    """A map whose mask is as the template's comes back unmoved: its rim is not pushed outwards."""
    found = kernel.register(template.fa, template.affine, template.fa, template.affine)
    assert median_error(found.warp, template.grid, template.brain) < 0.02
    assert np.linalg.det(found.affine) == pytest.approx(1, abs=2e-3)

"""What the voxels of a scan tell about it: range, order of the volumes, frame of the gradients."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from axoloci.gradient_check import (
    Frame,
    Voxels,
    direction_problems,
    explained_variance,
    frame_candidates,
    gradient_frame,
    otsu_threshold,
    signal_problems,
    voxels_inside,
)
from axoloci.io.gradients import (
    bvec_to_world,
    clean_gradients,
    read_gradients,
    world_to_bvec,
    write_gradients,
)
from axoloci.io.nifti import Header, read_header, read_nifti
from axoloci.tasks.preprocess import check
from axoloci.tasks.simulate import kernel as simulation
from axoloci.tasks.simulate import scan as simulated_scan
from axoloci.tasks.simulate.anatomy import phantom

CANON = ("3000_DTI_PA-ortho", "4000_DTI_AP-ortho", "8000_DTI_PA-ALL_20d",
         "9000_SAG_DTI_PA-ortho", "14000_DTI_PA-ortho-HT")  # fmt: skip
UIH = ("6_dti_tra_dir16_PA_SaveBySlc", "9_dti_tra_dir16_AP_SaveBySlc",
       "12_dti_tra_dir16_PA_rot_SaveBySlc")  # fmt: skip
REAL = (
    *(f"canon-galan-paris/{name}" for name in CANON),
    *(f"uih-ap-pa/{name}" for name in UIH),
    "mappertrac-sub-011591/sub-011591_dwi",
)


@dataclass(frozen=True)
class Scan:
    dwi: NDArray[np.float32]
    bval: NDArray[np.float64]
    bvec: NDArray[np.float64]
    affine: NDArray[np.float64]

    def frame(self, bvec: NDArray[np.float64] | None = None) -> Frame:
        bvec = self.bvec if bvec is None else bvec
        return gradient_frame(self.voxels(), self.bval, bvec, self.affine)

    def voxels(self, mask: NDArray[np.bool_] | None = None) -> Voxels:
        *grid, g = self.dwi.shape
        x, y, z = grid
        signal = self.dwi.reshape(-1, g, order="F")
        return voxels_inside(signal, np.arange(len(signal)), (x, y, z), np.arange(g), mask)

    def problems(self, bvec: NDArray[np.float64]) -> list[str]:
        """Problems with other directions."""
        return direction_problems(self.voxels(), self.bval, bvec)

    def signal_problems(self, bval: NDArray[np.float64]) -> list[str]:
        """Problems with other b-values."""
        return signal_problems(self.voxels(), bval)

    def in_order(self, order: NDArray[np.intp]) -> list[str]:
        """Problems with the directions of the weighted volumes in this order."""
        bvec, weighted = self.bvec.copy(), np.flatnonzero(self.bval > 50)
        bvec[weighted] = self.bvec[weighted[order]]
        return self.problems(bvec)


def simulated(
    n_directions: int,
    snr: float,
    b_value: float = 1000,
    n_b0: int = 1,
    motion: float = 1.0,
    dropped: float = 0.0,
) -> Scan:
    anatomy = phantom(4.0)
    bval, gradient = simulated_scan.gradient_scheme(n_directions, n_b0, b_value)
    protocol = simulation.Protocol(bval, gradient, snr, motion, motion, 4.0, dropped_slices=dropped)
    none = np.zeros(len(anatomy.names))
    found = simulation.simulate_scan(anatomy, none, protocol, np.random.SeedSequence(1))
    affine = anatomy.scan_affine
    return Scan(found.dwi, bval, world_to_bvec(gradient, affine), affine)


@pytest.fixture(scope="module")
def snr20() -> Scan:
    return simulated(20, 20.0, n_b0=3)


def real(data_dir: Path, name: str) -> Scan:
    stem = data_dir / "dwi" / name
    dwi, affine = read_nifti(f"{stem}.nii.gz", ndim=4)
    bval, bvec = clean_gradients(*read_gradients(f"{stem}.bval", f"{stem}.bvec"))
    return Scan(dwi, bval, bvec, affine)


# --- the image ------------------------------------------------------------------------------------


def noise(high: float = 1000) -> NDArray[np.float32]:
    return np.random.default_rng(0).uniform(1, high, (10, 10, 10, 14)).astype(np.float32)


def test_image_problems__named() -> None:
    dwi = noise()
    assert check.image_problems(dwi) == []
    dwi[..., [2, 5]] = 7
    (problem,) = check.image_problems(dwi)
    assert problem.startswith("volumes 2, 5: all voxels have the same value")
    assert "at least 5 along each axis" in check.image_problems(dwi[:4])[0]
    dwi[:] = 0
    assert "and 4 more" in check.image_problems(dwi)[0]


def test_image_problems__a_clipped_volume() -> None:
    dwi = noise()
    dwi[..., 3] = np.minimum(dwi[..., 3] * 1.05, dwi.max())
    (problem,) = check.image_problems(dwi)
    assert re.match(r"volume 3: 4\.\d% of the voxels have the scan's largest value", problem)
    dwi = noise()
    dwi[0, 0, :4, 3] = dwi.max()  # some bright voxels
    assert check.image_problems(dwi) == []


def test_image_problems__negative_values() -> None:
    dwi = noise()
    dwi[0, 0, :, 3] *= -0.5  # as of interpolation
    assert check.image_problems(dwi) == []
    dwi[:3, ..., 4] *= -1
    (problem,) = check.image_problems(dwi)
    assert re.match("volume 4: negative values are (28|29|30)% of the signal", problem)


def test_image_problems__unsigned_values_stored_as_signed() -> None:
    def header(dtype: type) -> Header:
        return Header((10, 10, 10, 14), np.eye(4), np.dtype(dtype))

    dwi = noise(60_000)
    assert check.image_problems(dwi, header(np.uint16)) == []
    wrapped = dwi.astype(np.uint16).astype(np.int16).astype(np.float32)
    (problem,) = check.image_problems(wrapped, header(np.int16))
    n = np.count_nonzero(wrapped < -(2**14))
    assert problem.startswith(f"{n} values from {wrapped.min():g} beside others up to 3")
    assert "convert the scan anew to uint16" in problem
    # a scan of more than half the range, by a slope and an intercept, is sound
    shifted = Header((10, 10, 10, 14), np.eye(4), np.dtype(np.int16), 1.0, 32768.0)
    assert check.image_problems(dwi, shifted) == []


def test_interpolated_axes__zeros_around_the_acquired_k_space() -> None:
    rng = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in (48, 40, 12)), indexing="ij"))
    b0 = np.where((grid**2).sum(axis=0) < 0.7, 900.0, 0) + 200 * np.sin(9 * grid[0] * grid[1])
    b0 = np.hypot(b0 + rng.normal(0, 40, b0.shape), rng.normal(0, 40, b0.shape))
    assert check.interpolated_axes(b0.astype(np.float32)) == []
    for axis, n in ((0, 64), (1, 80)):
        k_space = np.fft.fftshift(np.fft.fft(b0, axis=axis), axes=axis)
        margin = [(0, 0)] * 3
        margin[axis] = ((n - b0.shape[axis]) // 2,) * 2
        finer = abs(np.fft.ifft(np.fft.ifftshift(np.pad(k_space, margin), axes=axis), axis=axis))
        assert check.interpolated_axes(np.rint(finer).astype(np.float32)) == [axis]


@pytest.mark.parametrize(
    ("name", "axes"),
    [
        ("mappertrac-sub-011591/sub-011591_dwi", []),
        ("uih-ap-pa/6_dti_tra_dir16_PA_SaveBySlc", []),
        ("canon-galan-paris/3000_DTI_PA-ortho", [0]),
    ],
)
def test_interpolated_axes__of_real_scans(data_dir: Path, name: str, axes: list[int]) -> None:
    dwi, _ = read_nifti(data_dir / f"dwi/{name}.nii.gz", ndim=4)
    assert check.interpolated_axes(dwi[..., 0]) == axes


def test_affine_problems__a_sheared_one() -> None:
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    affine = np.eye(4)
    affine[:3, :3] = turn * [2, 2, 3.5]
    assert check.affine_problems(affine) == []
    affine[:3, 1] += 0.2 * affine[:3, 0]
    (problem,) = check.affine_problems(affine)
    assert "two axes of the image meet at 79° instead of 90°" in problem


def test_otsu_threshold__parts_two_levels() -> None:
    image = np.r_[np.full(300, 1.0), np.full(100, 9.0)].astype(np.float32)
    assert 1 < otsu_threshold(image) < 9


# --- b-values and directions of their volumes -----------------------------------------------------


@pytest.mark.parametrize("name", REAL)
def test_problems__none_in_real_scans(data_dir: Path, name: str) -> None:
    scan = real(data_dir, name)
    header = read_header(f"{data_dir / 'dwi' / name}.nii.gz", 4)
    assert check.affine_problems(scan.affine) == []
    assert check.image_problems(scan.dwi, header) == []
    assert scan.signal_problems(scan.bval) == []
    assert scan.problems(scan.bvec) == []


def test_signal_problems__exchanged_volumes_are_named(snr20: Scan) -> None:
    assert snr20.signal_problems(snr20.bval) == []
    bval = snr20.bval.copy()
    bval[[1, 7]] = bval[[7, 1]]
    (problem,) = snr20.signal_problems(bval)
    assert "volume 1 labelled weighted, but bright as a b0" in problem
    assert "volume 7 labelled b0, but dark as weighted ones" in problem
    bval = snr20.bval.copy()
    bval[7] = 0
    (problem,) = snr20.signal_problems(bval)
    assert "volume 7 labelled b0" in problem
    assert "bright" not in problem
    bval = snr20.bval.copy()
    bval[1] = 1000
    (problem,) = snr20.signal_problems(bval)
    assert "volume 1 labelled weighted, but bright as a b0" in problem


@pytest.mark.parametrize("seed", range(5))
def test_signal_problems__every_order_but_the_right_one(snr20: Scan, seed: int) -> None:
    order = np.random.default_rng(seed).permutation(len(snr20.bval))
    (problem,) = snr20.signal_problems(snr20.bval[order])
    bright = re.search(r"volumes? ([\d, ]+) labelled weighted", problem)
    named = {int(v) for v in bright[1].split(",")} if bright else set()
    assert named == set(range(3)) - set(np.flatnonzero(snr20.bval[order] == 0))


def two_shells() -> tuple[Scan, NDArray[np.float64]]:
    low, high = simulated(10, 20.0), simulated(10, 20.0, 2000)
    dwi = np.concatenate([low.dwi, high.dwi[..., 1:]], axis=-1)
    return Scan(dwi, np.r_[low.bval, high.bval[1:]], np.r_[low.bvec, high.bvec[1:]], low.affine)


def test_signal_problems__shells_that_are_exchanged() -> None:
    scan = two_shells()
    assert scan.signal_problems(scan.bval) == []
    bval = scan.bval.copy()
    bval[[3, 14]] = bval[[14, 3]]
    (problem,) = scan.signal_problems(bval)
    assert "volumes 3, 14 labelled weighted, but bright as those of another b-value" in problem


def test_signal_problems__dropouts_are_none(snr20: Scan) -> None:
    """A third of the slices of a volume lost, or all of one dimmed by 30%: for the correction."""
    scan = two_shells()
    dwi = scan.dwi.copy()
    dwi[:, :, ::3, 5] = 0
    dwi[..., 6] *= 0.7
    assert replace(scan, dwi=dwi).signal_problems(scan.bval) == []


def test_signal_problems__signal_that_does_not_fall(snr20: Scan) -> None:
    flat = np.repeat(snr20.dwi[..., :1], len(snr20.bval), axis=-1)
    (problem,) = replace(snr20, dwi=flat).signal_problems(snr20.bval)
    assert "at b = 1000 it is that of b = 0" in problem


@pytest.mark.parametrize("snr", [20.0, 8.0])
def test_direction_problems__another_order(snr: float) -> None:
    scan = simulated(20, snr)
    assert scan.in_order(np.arange(20)) == []
    for seed in range(5):
        (problem,) = scan.in_order(np.random.default_rng(seed).permutation(20))
        assert "they are of another scan or in another order" in problem
    (problem,) = scan.in_order(np.roll(np.arange(20), 2))
    assert "when moved by -2 among the weighted volumes" in problem
    (problem,) = scan.in_order(np.arange(20)[::-1])
    assert "when in reverse order" in problem


def test_direction_problems__another_scan(data_dir: Path) -> None:
    """Two scans of 16 directions: those of the one explain nothing in the other."""
    scan = real(data_dir, REAL[5])
    other = np.linalg.qr(np.random.default_rng(0).normal(size=(16, 3)))[0]
    bvec = np.vstack([np.zeros(3), other / np.linalg.norm(other, axis=1, keepdims=True)])
    (problem,) = scan.problems(bvec)
    assert "the directions explain 0.0" in problem
    assert "give the bvec file of this image" in problem


def test_direction_problems__do_not_depend_on_the_frame(snr20: Scan) -> None:
    turned = snr20.bvec[:, [1, 2, 0]] * [1, -1, 1]
    assert snr20.problems(turned) == []


def test_direction_problems__too_few_volumes_to_tell() -> None:
    assert simulated(8, 20.0).in_order(np.random.default_rng(0).permutation(8)) == []
    assert simulated(6, 20.0, n_b0=12).in_order(np.arange(6)) == []


# --- directions that are wrong in part ------------------------------------------------------------

MAPPERTRAC = REAL[-1]


def from_volume(
    scan: Scan, start: int, change: Callable[[NDArray[np.float64]], NDArray[np.float64]]
) -> list[str]:
    """Problems with directions that are changed from a weighted volume on."""
    bvec, tail = scan.bvec.copy(), np.flatnonzero(scan.bval > 50)[start:]
    bvec[tail] = change(scan.bvec[tail])
    return scan.problems(bvec)


@pytest.mark.parametrize(
    ("name", "start"), [(MAPPERTRAC, 40), (MAPPERTRAC, 52), (REAL[5], 10), (REAL[0], 7)]
)
def test_direction_problems__a_volume_lost_midway(data_dir: Path, name: str, start: int) -> None:
    scan = real(data_dir, name)
    first = int(np.flatnonzero(scan.bval > 50)[start])
    assert from_volume(scan, start, lambda g: g) == []
    for by, lost, many in ((1, "image", "table"), (-1, "table", "image")):
        (problem,) = from_volume(scan, start, lambda g, by=by: np.roll(g, by, axis=0))
        assert (
            f"when moved by {-by:+d} from volume {first} on: 1 volume is missing there in the"
            f" {lost}, or 1 too many in the {many}"
        ) in problem


@pytest.mark.parametrize(("name", "start"), [(MAPPERTRAC, 32), (REAL[5], 8)])
def test_direction_problems__merged_runs(data_dir: Path, name: str, start: int) -> None:
    scan = real(data_dir, name)
    first = int(np.flatnonzero(scan.bval > 50)[start])
    (problem,) = from_volume(scan, start, lambda g: g * [-1, 1, 1])
    assert (
        f"when those from volume {first} on are read as (-x, y, z): runs were merged whose"
        " directions are in different frames"
    ) in problem
    (problem,) = from_volume(scan, start, lambda g: g[:, [1, 0, 2]])
    assert f"when those from volume {first} on are read as (y, x, z)" in problem


@pytest.mark.parametrize(("name", "n"), [(MAPPERTRAC, 32), (MAPPERTRAC, 16)])
def test_direction_problems__some_volumes_have_those_of_others(
    data_dir: Path, name: str, n: int
) -> None:
    scan = real(data_dir, name)
    n_weighted = np.count_nonzero(scan.bval > 50)
    order, rng = np.arange(n_weighted), np.random.default_rng(0)
    chosen = rng.choice(n_weighted, n, replace=False)
    order[chosen] = rng.permutation(chosen)
    (problem,) = scan.in_order(order)
    assert "those of other volumes are clearly better for volumes" in problem
    assert "they are in another order; give the bvec file of this image" in problem


@pytest.mark.parametrize("n_directions", [12, 16, 30])
@pytest.mark.parametrize(
    ("snr", "motion", "dropped"), [(20.0, 3.0, 0.0), (20.0, 2.0, 0.15), (5.0, 1.0, 0.0)]
)
def test_direction_problems__none_of_sound_scans_that_are_poor(
    n_directions: int, snr: float, motion: float, dropped: float
) -> None:
    """Motion (root mean square, mm and degrees) of each volume for itself, slices lost, noise."""
    scan = simulated(n_directions, snr, motion=motion, dropped=dropped)
    assert scan.problems(scan.bvec) == []


def test_direction_problems__a_head_that_lies_elsewhere_from_midway(data_dir: Path) -> None:
    """All volumes differ then from those before, which no directions explain."""
    scan = real(data_dir, MAPPERTRAC)
    dwi = scan.dwi.copy()
    dwi[..., 35:] = np.roll(dwi[..., 35:], (2, 3, 1), axis=(0, 1, 2))
    assert replace(scan, dwi=dwi).problems(scan.bvec) == []


def test_direction_problems__are_quick(data_dir: Path) -> None:
    """Within 4 CPU seconds for 104 x 104 x 72 x 105, of which this scan has two thirds of the g."""
    scan = real(data_dir, MAPPERTRAC)
    start = time.process_time()
    assert scan.problems(scan.bvec) == []
    assert time.process_time() - start < 4


def test_direction_problems__several_shells_in_any_order() -> None:
    """The tensor is fitted to the lower shell; the higher come first, in between, or last."""
    low, high = simulated(20, 20.0, n_b0=2), simulated(20, 20.0, 2000, n_b0=2)
    b0, a, b = np.arange(2), np.arange(2, 22), np.arange(22, 42)
    between = np.r_[b[:3], np.stack([a[:17], b[3:]], axis=1).ravel(), a[17:]]
    dwi = np.concatenate([low.dwi, high.dwi[..., 2:]], axis=-1)
    bval, bvec = np.r_[low.bval, high.bval[2:]], np.r_[low.bvec, high.bvec[2:]]
    for weighted in (np.r_[b, a], between, np.r_[a, b]):
        order = np.r_[b0, weighted]
        scan = Scan(dwi[..., order], bval[order], bvec[order], low.affine)
        assert scan.problems(scan.bvec) == []
        one = scan.bvec.copy()
        one[np.flatnonzero(scan.bval == 1000)[0]] = [0.6, 0, 0.8]
        assert scan.problems(one) == []  # of a single volume nothing is said
        moved = scan.bvec.copy()
        moved[14:] = np.roll(scan.bvec[14:], 1, axis=0)
        (problem,) = scan.problems(moved)
        assert "when moved by -1 from volume" in problem


def test_voxels_inside__all_where_nothing_is_darker() -> None:
    signal = np.full((27, 7), 5, dtype=np.float32)
    assert len(voxels_inside(signal, np.arange(27), (3, 3, 3), np.arange(7)).rows) == 27


def test_explained_variance__of_right_and_wrong_directions(snr20: Scan) -> None:
    sound = explained_variance(snr20.voxels(), snr20.bval, snr20.bvec)
    wrong = snr20.bvec.copy()
    wrong[3:] = np.random.default_rng(0).permutation(wrong[3:])
    poor = explained_variance(snr20.voxels(), snr20.bval, wrong)
    assert sound is not None
    assert poor is not None
    assert poor < 0.3 < 0.7 < sound < 1
    six = simulated(6, 20.0)
    assert explained_variance(six.voxels(), six.bval, six.bvec) is None


# --- the frame of the gradients -------------------------------------------------------------------


def same(a: NDArray[np.float64], b: NDArray[np.float64]) -> bool:
    """Whether two matrices do the same to directions, which have no sign."""
    return bool(np.allclose(a, b) or np.allclose(a, -b))


def assert_all_are_found(scan: Scan, every: int = 1) -> None:
    given = scan.frame()
    assert given.best == 0, given.mend
    assert (given.mend, given.warning, given.is_wrong) == ("", "", False)
    assert given.margin > 2
    assert given.figures()["best"] == "as given"
    for planted in given.matrices[:24:every]:
        frame = scan.frame(scan.bvec @ planted)  # which `planted` undoes
        assert same(frame.matrices[frame.best], planted)
        assert frame.is_wrong == (not same(planted, np.eye(3)))
        assert np.isclose(frame.index.max(), given.index[0], rtol=1e-3)
        assert np.isclose(frame.margin, given.margin, rtol=0.02)


def test_frame_candidates__are_all_there_are() -> None:
    found = frame_candidates(np.diag([-2.0, 2, 2, 1]))
    assert found.shape == (24, 3, 3)
    assert np.array_equal(found[0], np.eye(3))
    assert sum(same(a, b) for a in found for b in found) == 24
    turned = np.eye(4)
    turned[:2, :2] = [[0.8, -0.6], [0.6, 0.8]]
    assert frame_candidates(turned).shape == (48, 3, 3)


@pytest.mark.parametrize("name", REAL)
def test_gradient_frame__every_fault_is_found_in_real_scans(data_dir: Path, name: str) -> None:
    # an index of turned directions is that of the given ones exactly: few have to be tried
    assert_all_are_found(real(data_dir, name), every=1 if name == REAL[5] else 7)


@pytest.mark.parametrize(("n_directions", "snr"), [(20, 20.0), (7, 20.0)])
def test_gradient_frame__every_fault_is_found_in_simulated_scans(
    n_directions: int, snr: float
) -> None:
    assert_all_are_found(simulated(n_directions, snr))


def test_gradient_frame__the_mend_mends(data_dir: Path) -> None:
    """What the words say, done to the bvec file."""
    scan = real(data_dir, REAL[0])
    given = scan.bvec[:, [1, 0, 2]] * [1, 1, -1]
    frame = scan.frame(given)
    assert frame.mend == (
        "write the rows of the bvec file in the order y x z, then change the sign of all of row 3"
        " (z) of the bvec file"
    )
    assert frame.mend in frame.warning
    assert frame.figures() == {
        "best": frame.mend,
        "index": pytest.approx(frame.index[0], abs=1e-5),
        "margin": pytest.approx(frame.margin, abs=0.01),
    }
    assert "FA and MD do not depend on it" in frame.warning
    rows = given.T[[1, 0, 2]]
    rows[2] *= -1
    assert scan.frame(rows.T).best == 0
    assert scan.frame(scan.bvec * [-1, 1, 1]).mend == (
        "change the sign of all of row 1 (x) of the bvec file"
    )


def test_gradient_frame__directions_of_the_scanners_axes(data_dir: Path) -> None:
    """In an oblique scan these are no permutation of the image's."""
    scan = real(data_dir, REAL[2])
    frame = scan.frame(bvec_to_world(scan.bvec, scan.affine))
    assert frame.is_wrong
    assert frame.mend == "turn its directions from the scanner's axes into the image's"
    dicom = bvec_to_world(scan.bvec, scan.affine) * [-1, -1, 1]  # to the left, the back and up
    assert scan.frame(dicom).mend == (
        "change the sign of all of row 3 (z) of the bvec file, then turn its directions from the"
        " scanner's axes into the image's"
    )


def test_gradient_frame__an_image_whose_first_axis_runs_right(data_dir: Path) -> None:
    """FSL's directions stay as they are when the image is mirrored; those of the voxels do not."""
    scan = real(data_dir, REAL[0])
    affine = scan.affine @ np.diag([-1.0, 1, 1, 1])
    affine[:3, 3] += scan.affine[:3, 0] * (scan.dwi.shape[0] - 1)
    assert np.linalg.det(affine) > 0
    mirrored = Scan(scan.dwi[::-1], scan.bval, scan.bvec, affine)
    assert mirrored.frame().best == 0
    assert mirrored.frame(scan.bvec * [-1, 1, 1]).mend == (
        "change the sign of all of row 1 (x) of the bvec file"
    )


def test_gradient_frame__nothing_to_tell_by() -> None:
    scan = simulated(7, 20.0)
    corner = np.indices(scan.dwi.shape[:3]).sum(axis=0) < 3
    nothing = gradient_frame(scan.voxels(corner), scan.bval, scan.bvec, scan.affine)
    assert (nothing.best, nothing.is_wrong, nothing.margin) == (0, False, 0)
    assert "the frame of the gradients cannot be told" in nothing.warning


def test_gradient_frame__noise_is_unclear() -> None:
    """Of hardly any voxels and hardly any signal, no frame is called wrong."""
    scan = simulated(6, 2.0, 3000)
    frame = scan.frame(scan.bvec[:, [1, 2, 0]])
    assert frame.margin < 1
    assert not frame.is_wrong
    assert "the frame of the gradients cannot be told" in frame.warning
    assert frame.figures()["best"] == "cannot be told"


def test_gradient_frame__is_quick(data_dir: Path) -> None:
    """Within 10 CPU seconds for 104 x 104 x 72 x 105, twice this scan."""
    scan = real(data_dir, REAL[-1])
    start = time.process_time()
    scan.frame()
    assert time.process_time() - start < 5


def test_gradient_frame__agrees_with_mrtrix(
    data_dir: Path, tool: Callable[[str], str], tmp_path: Path
) -> None:
    scan = real(data_dir, REAL[0])
    planted = scan.bvec[:, [1, 0, 2]] * [1, 1, -1]
    write_gradients(tmp_path / "a.bval", tmp_path / "a.bvec", scan.bval, planted)
    image = data_dir / "dwi" / f"{REAL[0]}.nii.gz"
    done = subprocess.run(
        [tool("dwigradcheck"), image, "-fslgrad", tmp_path / "a.bvec", tmp_path / "a.bval",
         "-number", "1000", "-nthreads", "1", "-scratch", tmp_path],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    rows = re.findall(r"[\d.]+ +(none|\d) +\((\d), (\d), (\d)\) +image", done.stderr)
    assert len(rows) == 24
    flip, *order = rows[0]  # the longest streamlines
    signs = [-1.0 if str(axis) == flip else 1.0 for axis in range(3)]
    theirs = np.diag(signs)[[int(axis) for axis in order]]
    frame = scan.frame(planted)
    assert same(frame.matrices[frame.best], theirs)

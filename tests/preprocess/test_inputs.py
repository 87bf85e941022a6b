"""Every trap of a raw scan: refused in words, or mended and said; what `check` prints of it.

Each trap is a function here, that spoils a sound scan, with the words of the answer. Those that are
no matter of reading a scan are tested elsewhere:

- libraries that do not rotate gradients with the head: `test_kernel.py`,
  `test_correct_motion__rotates_the_directions_with_the_head`
- single samples of 0, which have no logarithm: `tests/dti/test_kernel.py`,
  `test_fit_tensor__finite_whatever_the_signal`
- oblique and sagittal images, turned directions, other orders of volumes: `test_check.py`
- files that FSL's eddy made: `test_cli.py`, `test_run__already_preprocessed_keeps_the_volumes`
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray

from axoloci import registration
from axoloci.io.gradients import world_to_bvec, write_gradients
from axoloci.io.nifti import read_nifti, write_nifti
from axoloci.tasks.preprocess import inputs
from axoloci.tasks.preprocess.cli import main
from axoloci.tasks.simulate import kernel as simulation
from axoloci.tasks.simulate import scan as simulated_scan
from axoloci.tasks.simulate.anatomy import phantom


@dataclass
class Files:
    """A scan before and after it is written."""

    folder: Path
    dwi: NDArray[np.float32]
    affine: NDArray[np.float64]
    bval: NDArray[np.float64]
    bvec: NDArray[np.float64]
    more: list[str] = field(default_factory=list)  # options
    written: bool = False

    def write(self) -> None:
        write_gradients(self.folder / "a.bval", self.folder / "a.bvec", self.bval, self.bvec)
        write_nifti(self.folder / "a.nii.gz", self.dwi, self.affine)
        self.written = True

    def edit(self, name: str, change: Callable[[str], str]) -> None:
        if not self.written:
            self.write()
        (self.folder / name).write_text(change((self.folder / name).read_text()))

    def option(self, name: str, file: str) -> None:
        self.more += [name, str(self.folder / file)]

    def check(self) -> tuple[int, str]:
        """Exit code, and what is printed and logged."""
        if not self.written:
            self.write()
        names = {"dwi": "a.nii.gz", "bval": "a.bval", "bvec": "a.bvec"}
        words = [x for option, name in names.items() for x in (f"--{option}", self.folder / name)]
        done = CliRunner().invoke(main, ["check", *map(str, words), *self.more])
        return done.exit_code, done.output


@pytest.fixture(scope="module")
def sound() -> tuple[NDArray[np.float32], NDArray[np.float64], NDArray, NDArray]:
    anatomy = phantom(8.0)
    bval, gradient = simulated_scan.gradient_scheme(12, 2, 1000.0)
    protocol = simulation.Protocol(bval, gradient, 30.0, 0.5, 0.5, 4.0)
    none = np.zeros(len(anatomy.names))
    found = simulation.simulate_scan(anatomy, none, protocol, np.random.SeedSequence(0))
    affine = anatomy.scan_affine
    return found.dwi, affine, bval, world_to_bvec(gradient, affine)


@pytest.fixture
def files(tmp_path: Path, sound: tuple[NDArray[np.float32], ...]) -> Files:
    return Files(tmp_path, *(part.copy() for part in sound))


Trap = Callable[[Files], None]
REFUSED: dict[str, tuple[Trap, str]] = {}
MENDED: dict[str, tuple[Trap, str]] = {}


def refused(words: str) -> Callable[[Trap], None]:
    """Register a trap that is refused with these words."""
    return lambda trap: REFUSED.update({trap.__name__: (trap, words)})


def mended(words: str) -> Callable[[Trap], None]:
    """Register a trap that is mended, and what is printed or logged of it."""
    return lambda trap: MENDED.update({trap.__name__: (trap, words)})


# --- the gradient table ---------------------------------------------------------------------------


@refused("a.bval, {}/a.bvec: no b0: the smallest b-value is 1000, a volume with b <= 50")
def no_b0(files: Files) -> None:
    files.dwi, files.bval, files.bvec = files.dwi[..., 2:], files.bval[2:], files.bvec[2:]


@refused("a tensor needs at least 6 different directions, found 5")
def five_directions(files: Files) -> None:
    files.dwi, files.bval, files.bvec = files.dwi[..., :7], files.bval[:7], files.bvec[:7]


@refused("a tensor needs at least 6 different directions, found 1")
def one_direction_repeated(files: Files) -> None:
    files.bvec[2:] = [0, 0.6, 0.8]


@refused("the 12 directions lie too close to a plane or a cone to give a tensor (condition number")
def directions_on_a_cone(files: Files) -> None:
    angle = np.arange(12) * np.pi / 6
    files.bvec[2:] = np.column_stack([np.cos(angle), np.sin(angle), np.full(12, 0.6)])
    files.bvec[2:] /= np.hypot(1, 0.6)


@refused("the largest b-value is 1: no volume is diffusion-weighted; b-values must be in s/mm²")
def b_in_ms_per_square_micrometre(files: Files) -> None:
    files.bval /= 1000


@refused(
    "the largest b-value is 1e+09: b-values must be in s/mm²; divide those that are in s/m² by"
)
def b_in_s_per_square_metre(files: Files) -> None:
    files.bval *= 1e6


@refused("volume 3: the b-value is negative or not a number")
def a_negative_b_value(files: Files) -> None:
    files.bval[3] = -1000


@refused("volume 4: b > 50 s/mm² but the direction is 0 0 0; write its direction, or leave out")
def a_weighted_volume_without_direction(files: Files) -> None:
    files.bvec[4] = 0


@refused("volume 4: direction of length 0.5 to 0.5 instead of 1")
def a_direction_that_is_no_unit_vector(files: Files) -> None:
    files.bvec[4] /= 2


@refused("volume 5: the direction is not a number")
def a_direction_that_is_nan(files: Files) -> None:
    files.bvec[5, 1] = np.nan


@refused("the image has 14 volumes and the bval file 13 b-values; give the tables of this image")
def too_few_rows(files: Files) -> None:
    files.bval, files.bvec = files.bval[:-1], files.bvec[:-1]


@refused("14 b-values but 13 directions in the bvec file")
def tables_of_two_images(files: Files) -> None:
    files.bvec = files.bvec[:-1]


@refused("a.bval: expected one row or one column, found 3 rows of 14 values: these are directions")
def exchanged_tables(files: Files) -> None:
    files.write()
    (files.folder / "a.bval").rename(files.folder / "b")
    (files.folder / "a.bvec").rename(files.folder / "a.bval")
    (files.folder / "b").rename(files.folder / "a.bvec")


@refused("a.bvec: line 1 is not a row of numbers")
def a_table_of_words(files: Files) -> None:
    files.edit("a.bvec", lambda text: "x y z\n" + text)


@refused("a.bval: signal does not fall with the b-value: volume 0 labelled weighted, but bright as")
def exchanged_b_values(files: Files) -> None:
    files.bval[[0, 5]] = files.bval[[5, 0]]
    files.bvec[[0, 5]] = files.bvec[[5, 0]]


@refused("a.bvec: the directions explain ")
def directions_of_another_scan(files: Files) -> None:
    files.bvec[2:] = files.bvec[2:][np.random.default_rng(2).permutation(12)]


@mended("2 of b = 3 (0.001 to 5), 12 of b = 1000 s/mm²")
def b0s_that_are_not_quite_0(files: Files) -> None:
    files.bval[:2] = [0.001, 5]


@mended("14 volumes of b <= 1500, 12 directions, ")
def b0s_with_unit_vectors(files: Files) -> None:
    files.bvec[:2] = [[1, 0, 0], [0, 0, 1]]


@mended("12 of b = 1000 (990 to 1010) s/mm²")
def b_values_that_differ_a_little(files: Files) -> None:
    files.bval[2:] += np.tile([-10, 0, 5, 5, 10, -10], 2)


@mended("12 of b = 1000 s/mm²")
def decimal_commas(files: Files) -> None:
    for name in ("a.bval", "a.bvec"):
        files.edit(name, lambda text: text.replace(".", ","))


@mended("12 of b = 1000 s/mm²")
def columns_in_place_of_rows(files: Files) -> None:
    files.write()
    np.savetxt(files.folder / "a.bval", files.bval[:, None])
    np.savetxt(files.folder / "a.bvec", files.bvec)


@mended(
    "a.bvec: b = 2000 for all volumes and directions of length 0.707 to 1 are taken for b = 2000"
)
def lengths_that_encode_b_values(files: Files) -> None:
    files.bval[2:] = 2000
    files.bvec[2:8] *= np.sqrt(0.5)
    files.dwi[..., 8:] *= 0.6


@mended("a.bvec: the lengths of the directions repeat the b-values, and are set to 1")
def lengths_that_repeat_b_values(files: Files) -> None:
    files.bval[8:] = 2000
    files.bvec[2:8] *= np.sqrt(0.5)
    files.dwi[..., 8:] *= 0.6


@mended("warning: {}/a.bvec: main directions of neighbouring voxels agree better in another frame")
def directions_in_another_frame(files: Files) -> None:
    files.bvec = files.bvec[:, [1, 0, 2]]


# --- the image ------------------------------------------------------------------------------------


@refused("a.nii.gz: expected a 4D image, found shape (20, 25, 20)")
def one_volume(files: Files) -> None:
    files.dwi = files.dwi[..., 0]


@refused("a.nii.gz: the volumes have (20, 25, 4) voxels; at least 5 along each axis are needed")
def a_slab(files: Files) -> None:
    files.dwi = files.dwi[:, :, 8:12]


@refused("a.nii.gz: 1 values are NaN or infinite; replace or mask them first")
def nan(files: Files) -> None:
    files.dwi[3, 3, 3, 3] = np.nan


@refused("a.nii.gz: volume 7: all voxels have the same value; drop them from the image")
def an_empty_volume(files: Files) -> None:
    files.dwi[..., 7] = 0


@refused("a.nii.gz: volumes 0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 4 more: negative values are ")
def a_scan_with_its_mean_taken_off(files: Files) -> None:
    files.dwi -= files.dwi.mean(axis=(0, 1, 2))


@refused("of the voxels have the scan's largest value, 500: the signal is clipped")
def a_clipped_scan(files: Files) -> None:
    files.dwi = np.minimum(files.dwi, 500)


def times_40(files: Files, dtype: type) -> None:
    files.dwi *= np.float32(60_000) / files.dwi.max()
    files.write()
    write_nifti(files.folder / "a.nii.gz", files.dwi.astype(np.uint16).astype(dtype), files.affine)


@mended("14 volumes, uint16\n")
def uint16_above_32767(files: Files) -> None:
    times_40(files, np.uint16)


@refused("values above 32767 were stored as int16 and became negative; convert the scan anew")
def uint16_stored_as_int16(files: Files) -> None:
    times_40(files, np.int16)


@mended("14 volumes, int16, times 0.125 plus 3\n")
def a_slope_and_an_intercept(files: Files) -> None:
    files.write()
    image = nib.Nifti1Image(files.dwi, files.affine)
    image.header.set_data_dtype(np.int16)
    image.header.set_slope_inter(0.125, 3)
    nib.save(image, files.folder / "a.nii.gz")


@refused("a.nii.gz: its values are of the type complex64, not plain numbers; give the magnitude")
def complex_values(files: Files) -> None:
    files.write()
    nib.save(
        nib.Nifti1Image(files.dwi.astype(np.complex64), files.affine), files.folder / "a.nii.gz"
    )


@refused("a.nii.gz: truncated or damaged after ")
def a_truncated_image(files: Files) -> None:
    files.write()
    path = files.folder / "a.nii.gz"
    path.write_bytes(path.read_bytes()[:-5000])


@refused(
    "a.nii.gz: voxels of 0.008 x 0.008 x 0.008 mm by the affine, which must be in mm, not in m"
)
def voxels_in_metres(files: Files) -> None:
    files.affine[:3] /= 1000


@refused("a.nii.gz: the affine is sheared: two axes of the image meet at 79° instead of 90°")
def a_sheared_affine(files: Files) -> None:
    files.affine[0, 1] = 0.2 * files.affine[1, 1]


@mended("a.nii.gz: has neither qform nor sform; taken to run to the left, the front and up")
def no_orientation(files: Files) -> None:
    files.write()
    image = nib.Nifti1Image(files.dwi, files.affine)
    image.set_sform(None, code=0)
    image.set_qform(None, code=0)
    image.header.set_zooms((8, 8, 8, 1))
    nib.save(image, files.folder / "a.nii.gz")


# --- mask and sidecar -----------------------------------------------------------------------------


@refused("m.nii.gz: the mask is empty; leave it out to have one made")
def an_empty_mask(files: Files) -> None:
    write_nifti(files.folder / "m.nii.gz", np.zeros((20, 25, 20), np.uint8), files.affine)
    files.option("--mask", "m.nii.gz")


@refused("m.nii.gz: grid (20, 25, 19), but {}/a.nii.gz has (20, 25, 20); resample it to that grid")
def a_mask_of_another_grid(files: Files) -> None:
    write_nifti(files.folder / "m.nii.gz", np.ones((20, 25, 19), np.uint8), files.affine)
    files.option("--mask", "m.nii.gz")


@refused("a.json: PhaseEncodingDirection is 'AP'; it must be one of i, i-, j, j-, k, k-")
def a_phase_encoding_that_is_none(files: Files) -> None:
    (files.folder / "a.json").write_text(json.dumps({"PhaseEncodingDirection": "AP"}))
    files.option("--json", "a.json")


@mended("phase encoding  j, direction not told, no readout time")
def a_sidecar_without_direction(files: Files) -> None:
    (files.folder / "a.json").write_text(json.dumps({"PhaseEncodingAxis": "j"}))
    files.option("--json", "a.json")


# --- the reverse b0 -------------------------------------------------------------------------------


def give_reverse(
    files: Files, b0: NDArray[np.float32], affine: NDArray[np.float64], **told: float
) -> None:
    """An image of reverse phase encoding; `told` joins its sidecar and that of the scan."""
    write_nifti(files.folder / "r.nii.gz", 1.01 * b0, affine)  # the same would be refused
    for name, way in (("a.json", "j-"), ("r.json", "j")):
        (files.folder / name).write_text(json.dumps({"PhaseEncodingDirection": way, **told}))
    files.option("--json", "a.json")
    files.option("--reverse-json", "r.json")
    files.option("--reverse-b0", "r.nii.gz")


@refused("r.nii.gz: all voxels of the b0 have the same value; give another image, or none")
def an_empty_reverse_b0(files: Files) -> None:
    empty = np.zeros_like(files.dwi[..., :2])
    empty[..., 1] = files.dwi[..., 0]  # only the first volume counts
    give_reverse(files, empty, files.affine)


@refused("of the head of {}/a.nii.gz; give an image that shows 95% or more of it, or none")
def a_reverse_b0_of_half_the_head(files: Files) -> None:
    give_reverse(files, files.dwi[:, :, :10, 0], files.affine)


@refused("r.nii.gz: shows 0.0% of the head of {}/a.nii.gz; give")
def a_reverse_b0_beside_the_head(files: Files) -> None:
    affine = files.affine.copy()
    affine[2, 3] += 500
    give_reverse(files, files.dwi[..., 0], affine)


@mended("phase encoding  j-, no readout time")
def a_reverse_b0_without_the_air(files: Files) -> None:
    affine = files.affine.copy()
    affine[:3, 3] += affine[:3, 0]
    give_reverse(files, files.dwi[1:-1, :, :, 0], affine)


@refused("r.nii.gz: its first volume is no b0 (b <= 50 s/mm²) by {}/r.bval; give an image that")
def a_reverse_image_that_begins_weighted(files: Files) -> None:
    give_reverse(files, files.dwi[..., 1:4], files.affine)
    (files.folder / "r.bval").write_text("1000 0 1000\n")


@mended("phase encoding  j-, no readout time")
def a_reverse_image_that_begins_with_a_b0(files: Files) -> None:
    give_reverse(files, files.dwi[..., :3], files.affine)
    (files.folder / "r.bval").write_text("50 0 1000\n")


@refused("r.nii.gz: its phase encoding runs at 20° to that of {}/a.nii.gz, more than 10°: the two")
def a_reverse_b0_that_lies_oblique(files: Files) -> None:
    turn = np.eye(4)
    turn[:3, :3] = registration.rotation_matrix(np.deg2rad([20.0, 0, 0]))
    give_reverse(files, files.dwi[..., 0], turn @ files.affine, TotalReadoutTime=0.05)


@mended(
    "times of the scan and of its reverse b0, where told, are 0.05 s and 0.021 s; those of a pair"
)
def readout_times_that_differ(files: Files) -> None:
    give_reverse(files, files.dwi[..., 0], files.affine, TotalReadoutTime=0.05)
    told = {"PhaseEncodingDirection": "j", "TotalReadoutTime": 0.021}
    (files.folder / "r.json").write_text(json.dumps(told))


@mended("where told, are 0.3 s and 0.3 s; usual are 0.005 to 0.2 s; correct TotalReadoutTime in")
def odd_readout_times(files: Files) -> None:
    give_reverse(files, files.dwi[..., 0], files.affine, TotalReadoutTime=0.3)


def finer(files: Files) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """The b0 with voxels of half the size along the phase encoding."""
    affine = files.affine @ np.diag([1, 0.5, 1, 1])
    affine[:3, 3] -= affine[:3, 1] / 2
    return np.repeat(files.dwi[..., 0], 2, axis=1), affine


@mended(
    "{0}/r.nii.gz: voxels of 4 mm along the phase encoding, those of {0}/a.nii.gz of 8 mm, and the"
    " readout time is not told of both; displacements are taken to be the same in mm; give"
)
def finer_voxels_without_readout_time(files: Files) -> None:
    give_reverse(files, *finer(files))


@pytest.mark.parametrize(("told", "ratio"), [({}, 1.0), ({"TotalReadoutTime": 0.05}, 0.5)])
def test_read_reverse__readout_ratio_of_finer_voxels(
    files: Files, told: dict[str, float], ratio: float, caplog: pytest.LogCaptureFixture
) -> None:
    give_reverse(files, *finer(files), **told)
    files.write()
    names = ("a.nii.gz", "a.bval", "a.bvec")
    scan, _ = inputs.read_scan(
        *(files.folder / name for name in names), sidecar=files.folder / "a.json"
    )
    assert scan is not None
    paths = (files.folder / name for name in ("a.nii.gz", "r.nii.gz", "r.json"))
    reverse = inputs.read_reverse(scan, *paths)
    assert reverse.pair.readout_ratio == pytest.approx(ratio)
    assert ("displacements are taken" in caplog.text) == (not told)


@pytest.mark.parametrize("name", REFUSED)
def test_trap__is_refused_with_its_words(files: Files, name: str) -> None:
    trap, words = REFUSED[name]
    trap(files)
    code, output = files.check()
    assert words.format(files.folder) in output
    assert code == 1


@pytest.mark.parametrize("name", MENDED)
def test_trap__is_mended_and_said(
    files: Files, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    trap, words = MENDED[name]
    trap(files)
    code, output = files.check()
    assert words.format(files.folder) in output + caplog.text
    assert code == 0, output


def test_look_at__a_sound_scan(files: Files, caplog: pytest.LogCaptureFixture) -> None:
    files.write()
    scan, problems = inputs.read_scan(*(files.folder / n for n in ("a.nii.gz", "a.bval", "a.bvec")))
    assert problems == []
    assert scan is not None
    assert caplog.text == ""
    assert np.array_equal(scan.dwi, files.dwi)
    assert np.array_equal(scan.bval, files.bval)
    assert np.allclose(scan.bvec, files.bvec, atol=1e-5)
    assert scan.mask is None


def test_look_at__uint16_keeps_its_values(files: Files) -> None:
    times_40(files, np.uint16)
    assert read_nifti(files.folder / "a.nii.gz", ndim=4)[0].max() == 60_000


def test_look_at__memory_that_is_too_small(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    """Said before the image is read."""
    monkeypatch.setattr(inputs, "free_memory", lambda: 2 * 10**8)
    monkeypatch.setattr(inputs, "read_nifti", None)
    code, output = files.check()
    assert code == 1
    words = "a.nii.gz: a scan of shape (20, 25, 20, 14) takes 0.3 GB of memory and 0.2 GB are free"
    assert words in output


def test_check__several_faults_at_once(files: Files) -> None:
    files.dwi[..., 7] = 0
    files.bval[3] = -1
    files.option("--mask", "m.nii.gz")
    write_nifti(files.folder / "m.nii.gz", np.zeros((20, 25, 20), np.uint8), files.affine)
    code, output = files.check()
    assert code == 1
    for words in ("volume 7: all voxels", "volume 3: the b-value", "m.nii.gz: the mask is empty"):
        assert words in output
    assert output.startswith("image           20 x 25 x 20, 14 volumes, float32\n")

"""NIfTI images: what is read is what was written; faults are named."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from axoloci.errors import InputError
from axoloci.io.nifti import read_header, read_nifti, write_nifti

AFFINE = np.array([[-2.0, 0, 0.1, 30], [0, 2, 0, -20], [0.1, 0, 2, 5], [0, 0, 0, 1]])


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_write_nifti__is_read_alike_by_nibabel_and_by_us(tmp_path: Path, name: str) -> None:
    data = np.random.default_rng(1).normal(size=(4, 5, 6)).astype(np.float32)
    write_nifti(tmp_path / name, data, AFFINE)
    image = nib.load(tmp_path / name)
    assert image.get_data_dtype() == np.float32
    assert np.array_equal(np.asarray(image.dataobj), data)
    ours, affine = read_nifti(tmp_path / name, ndim=3)
    assert np.array_equal(ours, data)
    assert np.allclose(affine, AFFINE, atol=1e-6)


def test_write_nifti__same_bytes_each_time(tmp_path: Path) -> None:
    data = np.ones((3, 3, 3), np.int16)
    for name in ("a.nii.gz", "b.nii.gz"):
        write_nifti(tmp_path / name, data, AFFINE)
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()


def test_read_nifti__applies_the_scaling(tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.array([[[40000, 1]]], np.uint16), AFFINE)
    image.header.set_slope_inter(0.5, 1)
    nib.save(image, tmp_path / "a.nii")
    data, _ = read_nifti(tmp_path / "a.nii", ndim=3)
    assert data.ravel().tolist() == [20001.0, 1.5]


def test_read_nifti__faults_are_named(tmp_path: Path) -> None:
    (tmp_path / "text.nii.gz").write_text("no image")
    with pytest.raises(InputError, match=r"text\.nii\.gz: cannot be read as a NIfTI image"):
        read_nifti(tmp_path / "text.nii.gz", ndim=3)
    with pytest.raises(InputError, match="cannot be read"):
        read_nifti(tmp_path / "missing.nii.gz", ndim=3)

    noise = np.random.default_rng(1).normal(size=(20, 20, 20)).astype(np.float32)
    write_nifti(tmp_path / "whole.nii.gz", noise, AFFINE)
    content = (tmp_path / "whole.nii.gz").read_bytes()
    (tmp_path / "half.nii.gz").write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match="may be truncated"):
        read_nifti(tmp_path / "half.nii.gz", ndim=3)
    with pytest.raises(InputError, match="expected a 4D image, found shape"):
        read_nifti(tmp_path / "whole.nii.gz", ndim=4)

    noise[0, 0, :2] = np.nan
    write_nifti(tmp_path / "nan.nii.gz", noise, AFFINE)
    with pytest.raises(InputError, match="2 values are NaN"):
        read_nifti(tmp_path / "nan.nii.gz", ndim=3)


@pytest.mark.parametrize(
    ("affine", "words"),
    [
        (np.diag([0.0, 1, 1, 1]), "affine is singular"),
        (np.array([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]]), "is singular"),
        (np.diag([np.nan, 1, 1, 1]), "affine is not finite"),
        (np.diag([0.002, 0.002, 0.0025, 1]), "voxels of 0.002 x 0.002 x 0.0025 mm .* not in m or"),
        (np.diag([2000.0, 2000, 2000, 1]), "voxels of 2000 x 2000 x 2000 mm"),
    ],
)
def test_affine__faults_are_named(tmp_path: Path, affine: np.ndarray, words: str) -> None:
    image = nib.Nifti1Image(np.ones((3, 3, 3), np.int16), AFFINE)
    image.set_qform(AFFINE, code=0)
    for row, name in zip(affine, ("srow_x", "srow_y", "srow_z"), strict=False):
        image.header[name] = row
    image.header["sform_code"] = 1
    with open(tmp_path / "a.nii", "wb") as file:  # past nibabel's own checks
        file.write(image.header.binaryblock + bytes(4) + bytes(54))
    for read in (read_nifti, read_header):
        with pytest.raises(InputError, match=words):
            read(tmp_path / "a.nii", 3)


def test_scaling__that_cannot_be_is_named(tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.ones((3, 3, 3), np.int16), AFFINE)
    image.header["scl_slope"], image.header["scl_inter"] = 2.0, np.inf
    with open(tmp_path / "a.nii", "wb") as file:
        file.write(image.header.binaryblock + bytes(4) + bytes(54))
    for read in (read_nifti, read_header):
        with pytest.raises(InputError, match="cannot be read as a NIfTI image"):
            read(tmp_path / "a.nii", 3)


def test_read_header__type_scaling_and_orientation(tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.ones((3, 3, 3), np.uint16), AFFINE)
    image.header.set_slope_inter(0.5, 1)
    nib.save(image, tmp_path / "a.nii")
    header = read_header(tmp_path / "a.nii", 3)
    assert (header.dtype, header.slope, header.inter, header.oriented) == (np.uint16, 0.5, 1, True)
    image.set_sform(None, code=0)
    image.set_qform(None, code=0)
    image.header.set_slope_inter(None, None)
    with open(tmp_path / "a.nii", "wb") as file:
        file.write(image.header.binaryblock + bytes(4) + bytes(54))
    header = read_header(tmp_path / "a.nii", 3)
    assert (header.slope, header.inter, header.oriented) == (1, 0, False)


def test_read_nifti__complex_values_are_refused(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Image(np.ones((3, 3, 3), np.complex64), AFFINE), tmp_path / "a.nii")
    with pytest.raises(InputError, match=r"a\.nii: its values are of the type complex64"):
        read_nifti(tmp_path / "a.nii", ndim=3)
    with pytest.raises(InputError, match=r"a\.nii: its values are of the type complex64"):
        read_header(tmp_path / "a.nii", 3)


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("order", ["<", ">"])
def test_read_header__agrees_with_the_whole_image(
    tmp_path: Path, name: str, kind: type, order: str
) -> None:
    header = kind.header_class(endianness=order)
    image = kind(np.ones((4, 5, 6, 7), f"{order}f4"), AFFINE, header)
    nib.save(image, tmp_path / name)
    header = read_header(tmp_path / name, 4)
    data, affine = read_nifti(tmp_path / name, ndim=4)
    assert header.shape == data.shape == (4, 5, 6, 7)
    assert np.allclose(header.affine, affine)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.nii.gz", b"", "the file is empty; copy it again"),
        ("a.nii", b"", "the file is empty; copy it again"),
        ("a.nii", b"\x1f\x8b", r"is compressed by gzip; name it \.nii\.gz"),
        ("a.nii.gz", b"\x1f\x8b" + bytes(99), "cannot be read as a NIfTI image: "),
        ("a.nii.gz", bytes(400), "it is not compressed by gzip"),
        ("a.nii", bytes(400), "it has no NIfTI header"),
        ("a.nii", b"version https://git-lfs.github.com/spec/v1", "holds a pointer instead of an"),
        ("b c.nii", b"/annex/objects/MD5E-s1--0.nii", "by: datalad get '.*b c.nii'"),
        ("a.nii", (348).to_bytes(4, "little") + bytes(500), "it has no NIfTI header"),
    ],
)
def test_read_header__faults_are_named(
    tmp_path: Path, name: str, content: bytes, words: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=words):
        read_header(tmp_path / name, 3)


def test_read_header__every_cut_is_noticed(tmp_path: Path) -> None:
    noise = np.random.default_rng(1).normal(size=(10, 10, 10)).astype(np.float32)
    for name in ("a.nii", "a.nii.gz"):
        path = tmp_path / name
        write_nifti(path, noise, AFFINE)
        content = path.read_bytes()
        for kept in (1, 100, 350, 2000, len(content) - 1):
            path.write_bytes(content[:kept])
            with pytest.raises(InputError, match=name):
                read_header(path, 3)
    with pytest.raises(InputError, match="No such file"):
        read_header(tmp_path / "none.nii", 3)

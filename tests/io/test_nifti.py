"""NIfTI images: what is read is what was written; faults are named."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from axoloci.errors import InputError
from axoloci.io.nifti import read_nifti, write_nifti

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
    flat = nib.Nifti1Image(noise[:1], np.diag([1e-9, 1, 1, 1]))
    nib.save(flat, tmp_path / "flat.nii")
    with pytest.raises(InputError, match="affine is singular"):
        read_nifti(tmp_path / "flat.nii", ndim=3)

"""Volumes of an image one by one: the same as all at once, and no fault goes unseen."""

from __future__ import annotations

import gzip
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from axoloci.errors import InputError
from axoloci.io.nifti import read_nifti, read_volumes


def write(path: Path, kind: str = "<i2", slope: float = 1.0) -> Path:
    data = np.random.default_rng(0).integers(0, 30_000, (5, 4, 3, 6)).astype(kind)
    image = nib.Nifti1Image(data, np.diag([-2.0, 2, 2, 1]))
    image.header.set_data_dtype(kind)
    image.header.set_slope_inter(slope, 1.0 if slope != 1 else 0.0)
    nib.save(image, path)
    return path


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
@pytest.mark.parametrize(("kind", "slope"), [("<i2", 1), ("u2", 0.5), (">i2", 2), ("f4", 1)])
def test_read_volumes__are_those_of_the_image(
    tmp_path: Path, name: str, kind: str, slope: float
) -> None:
    path = write(tmp_path / name, kind, slope)
    whole, _ = read_nifti(path, ndim=4)
    volumes = list(read_volumes(path))
    assert [volume.shape for volume in volumes] == [(5, 4, 3)] * 6
    assert np.allclose(np.stack(volumes, axis=-1), whole, rtol=1e-6)


def test_read_volumes__gzip_of_several_members_and_padding(tmp_path: Path) -> None:
    raw = write(tmp_path / "a.nii").read_bytes()
    path = tmp_path / "b.nii.gz"
    path.write_bytes(gzip.compress(raw[:500]) + gzip.compress(raw[500:]) + bytes(600_000))
    assert len(list(read_volumes(path))) == 6


@pytest.mark.parametrize("damage", ["truncated", "checksum", "content"])
def test_read_volumes__refuses_damaged_files(tmp_path: Path, damage: str) -> None:
    path = write(tmp_path / "a.nii.gz")
    raw = bytearray(path.read_bytes())
    if damage == "truncated":
        raw = raw[:-50]
    else:
        raw[-6 if damage == "checksum" else len(raw) // 2] ^= 0xFF
    path.write_bytes(raw)
    with pytest.raises(InputError, match=r"a\.nii\.gz: .*truncated or damaged"):
        list(read_volumes(path))

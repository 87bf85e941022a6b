"""Real scans of three scanners go through the participants stage with default settings."""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from dipy.core.gradients import gradient_table
from dipy.reconst.dti import TensorModel
from numpy.typing import NDArray
from scipy import ndimage
from support import axoloci

CANON = ("3000_DTI_PA-ortho", "4000_DTI_AP-ortho", "8000_DTI_PA-ALL_20d",
         "9000_SAG_DTI_PA-ortho", "14000_DTI_PA-ortho-HT")  # fmt: skip
UIH = ("6_dti_tra_dir16_PA_SaveBySlc", "9_dti_tra_dir16_AP_SaveBySlc",
       "12_dti_tra_dir16_PA_rot_SaveBySlc")  # fmt: skip

# Mean FA in the mask and, where it is given, median MD (mm²/s): SOURCE.md beside each scan.
EXPECTED = {"mappertrac": (0.24, 8.2e-4), "canon": (0.27, 8.0e-4), "uih": (0.23, None)}


@pytest.fixture(scope="module")
def derivatives(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Output of `axoloci run --stage participants` on a BIDS data set that links to the scans."""
    root = tmp_path_factory.mktemp("real")
    bids = root / "bids"
    bids.mkdir()
    (bids / "dataset_description.json").write_text('{"Name": "real", "BIDSVersion": "1.9.0"}')
    sources = {"sub-mappertrac": data_dir / "dwi/mappertrac-sub-011591/sub-011591_dwi"}
    sources |= {
        f"sub-canon_run-{run}": data_dir / "dwi/canon-galan-paris" / name
        for run, name in enumerate(CANON, start=1)
    }
    sources |= {
        f"sub-uih_run-{run}": data_dir / "dwi/uih-ap-pa" / name
        for run, name in enumerate(UIH, start=1)
    }
    for prefix, stem in sources.items():
        folder = bids / prefix.split("_")[0] / "dwi"
        folder.mkdir(parents=True, exist_ok=True)
        for extension in (".nii.gz", ".bval", ".bvec"):
            (folder / f"{prefix}_dwi{extension}").symlink_to(f"{stem}{extension}")
    done = axoloci(
        *("run", "--bids", bids, "--out", root / "out", "--stage", "participants", "--n-procs", 2)
    )
    assert "failed:" not in done.stderr
    return root / "out"


def quality(derivatives: Path, person: str) -> pd.DataFrame:
    """Quality figures of a person's scans."""
    qc = pd.read_csv(derivatives / "qc.tsv", sep="\t")
    print(qc[["scan", "mean_fa", "median_md", "mask_ml", "similarity_warp"]].to_string())
    return qc[qc["sample_id"] == person]


@pytest.mark.parametrize(
    ("person", "n_scans"),
    [
        ("mappertrac", 1),
        pytest.param(
            "canon",
            5,
            marks=pytest.mark.xfail(
                strict=True,
                reason="SOURCE.md gives OLS of uncorrected volumes, whose misalignment by eddy "
                "currents and noise raise FA: 0.27 there, 0.237 to 0.247 once corrected",
            ),
        ),
        ("uih", 3),
    ],
)
def test_participants__mean_fa_is_that_of_the_scan(
    derivatives: Path, person: str, n_scans: int
) -> None:
    scans = quality(derivatives, person)
    assert len(scans) == n_scans
    assert (scans["mean_fa"] - EXPECTED[person][0]).abs().max() <= 0.03


@pytest.mark.parametrize("person", ["mappertrac", "canon"])
def test_participants__median_md_is_that_of_the_scan(derivatives: Path, person: str) -> None:
    md = EXPECTED[person][1]
    assert (quality(derivatives, person)["median_md"] / md - 1).abs().max() <= 0.15


def test_participants__derivatives_are_named_and_described(derivatives: Path) -> None:
    for prefix in ("sub-mappertrac", "sub-canon_run-5", "sub-uih_run-1"):
        folder = derivatives / prefix.split("_")[0] / "dwi"
        for name in ("fa", "md", "ad", "rd"):
            image = nib.load(folder / f"{prefix}_model-tensor_param-{name}_dwimap.nii.gz")
            assert np.isfinite(image.get_fdata()).all()
        description = json.loads((folder / f"{prefix}_model-tensor_dwimap.json").read_text())
        assert description["Model"]["Parameters"]["FitMethod"] == "WLS"
        common = nib.load(folder / f"{prefix}_space-template_model-tensor_param-fa_dwimap.nii.gz")
        assert common.shape == (91, 109, 91)
        assert np.allclose(nib.affines.voxel_sizes(common.affine), 2)


def world_directions(derivatives: Path, prefix: str) -> tuple[NDArray, NDArray, NDArray]:
    """Main eigenvectors of a scan by DIPY, in world axes; its FA; its affine."""
    folder = derivatives / prefix.split("_")[0] / "dwi"
    stem = str(folder / f"{prefix}_desc-preproc_dwi")
    image = nib.load(f"{stem}.nii.gz")
    gradients = gradient_table(np.loadtxt(f"{stem}.bval"), bvecs=np.loadtxt(f"{stem}.bvec").T)
    mask = nib.load(folder / f"{prefix}_desc-brain_mask.nii.gz").get_fdata() > 0
    fit = TensorModel(gradients, fit_method="WLS").fit(image.get_fdata(), mask=mask)
    vectors = fit.evecs[..., 0]  # (x, y, z, 3), FSL: first axis flipped when det > 0
    linear = image.affine[:3, :3]
    flip = np.diag([-1.0 if np.linalg.det(linear) > 0 else 1.0, 1, 1])
    rotation = linear / np.linalg.norm(linear, axis=0)
    return vectors @ (rotation @ flip).T, np.nan_to_num(fit.fa), image.affine


def directions_in_template(derivatives: Path, prefix: str) -> tuple[NDArray, NDArray]:
    """Main directions and FA of a scan on the template's grid, by the stored warp."""
    folder = derivatives / prefix.split("_")[0] / "dwi"
    vectors, fa, affine = world_directions(derivatives, prefix)
    warp_image = nib.load(folder / f"{prefix}_from-template_to-dwi_warp.nii.gz")
    warp = np.asarray(warp_image.dataobj, dtype=np.float64)  # (X, Y, Z, 3) mm in the scan
    voxels = np.moveaxis(nib.affines.apply_affine(np.linalg.inv(affine), warp), -1, 0)
    sampled_fa = ndimage.map_coordinates(fa, voxels, order=1)
    nearest = np.rint(voxels).astype(int)
    limits = np.array(fa.shape)[:, None, None, None] - 1
    inside = ((nearest >= 0) & (nearest <= limits)).all(axis=0)
    nearest = np.clip(nearest, 0, limits)
    sampled = vectors[nearest[0], nearest[1], nearest[2]]  # (X, Y, Z, 3)
    # A direction in the scan is the image of one in the template under the warp's Jacobian.
    spacing = nib.affines.voxel_sizes(warp_image.affine) * np.sign(np.diag(warp_image.affine)[:3])
    jacobian = np.stack(
        [np.gradient(warp, spacing[axis], axis=axis) for axis in range(3)], axis=-1
    )  # (X, Y, Z, 3 of the scan, 3 of the template)
    usable = inside & (np.abs(np.linalg.det(jacobian)) > 0.05)
    pulled = np.zeros_like(sampled)
    pulled[usable] = np.linalg.solve(jacobian[usable], sampled[usable][..., None])[..., 0]
    norm = np.linalg.norm(pulled, axis=-1, keepdims=True)
    return np.divide(pulled, norm, out=pulled, where=norm > 0), np.where(usable, sampled_fa, 0)


def test_participants__directions_of_one_brain_agree_after_registration(derivatives: Path) -> None:
    runs = [f"sub-canon_run-{run}" for run in range(1, 6)]
    maps = {prefix: directions_in_template(derivatives, prefix) for prefix in runs}
    for first, second in combinations(runs, 2):
        (a, fa_a), (b, fa_b) = maps[first], maps[second]
        both = (fa_a > 0.4) & (fa_b > 0.4)
        cosine = np.abs((a[both] * b[both]).sum(axis=-1)).clip(0, 1)
        angle = np.degrees(np.arccos(cosine))
        print(f"{first} {second}: {np.median(angle):.1f} deg, {both.sum()} voxels")
        assert both.sum() > 1000
        assert np.median(angle) < 12, (first, second)

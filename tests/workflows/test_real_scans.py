"""Real scans of three scanners go through the participants stage with default settings."""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from acquisitions import (
    CANON,
    UIH,
    Fitted,
    b0_likeness,
    common_brain,
    compare,
    fit,
    register,
)
from dipy.core.gradients import gradient_table
from dipy.reconst.dti import TensorModel
from numpy.typing import NDArray
from scipy import ndimage
from support import axoloci

from axoloci.tasks.dti import kernel
from axoloci.tasks.preprocess import cli as preprocess

# Mean FA in the mask and, where it is given, median MD (mm²/s): SOURCE.md beside each scan.
EXPECTED_FA = {"mappertrac": 0.24, "canon": 0.27, "uih": 0.23, "other": 0.23}
EXPECTED_MD = {"mappertrac": 8.2e-4, "canon": 8.0e-4}


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
    sources["sub-other"] = data_dir / "dwi/uih-ap-pa/12_dti_tra_dir16_PA_rot_SaveBySlc"
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


@pytest.mark.parametrize(("person", "n_scans"), [("mappertrac", 1), ("uih", 2), ("other", 1)])
def test_participants__mean_fa_is_that_of_the_scan(
    derivatives: Path, person: str, n_scans: int
) -> None:
    scans = quality(derivatives, person)
    assert len(scans) == n_scans
    assert (scans["mean_fa"] - EXPECTED_FA[person]).abs().max() <= 0.03


@pytest.mark.parametrize("person", ["mappertrac", "canon"])
def test_participants__median_md_is_that_of_the_scan(derivatives: Path, person: str) -> None:
    md = EXPECTED_MD[person]
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


def fit_run(derivatives: Path, number: int) -> Fitted:
    """A scan of the Canon person as the participants stage left it."""
    stem = derivatives / "sub-canon" / "dwi" / f"sub-canon_run-{number}"
    return fit(f"{stem}_desc-preproc_dwi", f"{stem}_desc-brain_mask.nii.gz")


def fit_acquired(
    derivatives: Path, data_dir: Path, number: int, method: str = kernel.METHOD
) -> Fitted:
    """The same as the scanner left it."""
    brain = derivatives / "sub-canon" / "dwi" / f"sub-canon_run-{number}_desc-brain_mask.nii.gz"
    return fit(data_dir / "dwi/canon-galan-paris" / CANON[number - 1], brain, method=method)


def test_participants__eddy_currents_and_ringing_had_raised_mean_fa(
    derivatives: Path, data_dir: Path
) -> None:
    """SOURCE.md's mean FA is that of uncorrected volumes by OLS, with false FA at the edges."""
    acquired = fit_acquired(derivatives, data_dir, 1, "OLS")
    assert abs(acquired.mean_fa - EXPECTED_FA["canon"]) <= 0.01
    corrected = quality(derivatives, "canon")["mean_fa"]
    assert corrected.max() <= acquired.mean_fa - 0.02
    assert np.ptp(corrected) <= 0.015


def test_participants__acquisitions_of_one_brain_are_more_alike_than_they_were(
    derivatives: Path, data_dir: Path
) -> None:
    runs = range(1, len(CANON) + 1)
    corrected = [fit_run(derivatives, number) for number in runs]
    acquired = [fit_acquired(derivatives, data_dir, number) for number in runs]
    for a, b in combinations(range(len(CANON)), 2):
        matrix = register(corrected[a], corrected[b])
        brain = common_brain(corrected[a], corrected[b], matrix)
        after = compare(corrected[a], corrected[b], matrix, brain)
        before = compare(acquired[a], acquired[b], register(acquired[a], acquired[b]), brain)
        print(f"{CANON[a]}, {CANON[b]}: {before} -> {after}")
        assert after["correlation"] >= 0.78
        assert after["correlation"] > before["correlation"] + 0.01
        assert after["median"] <= min(10, before["median"])


def test_preprocess__scans_of_reverse_phase_encoding_become_alike(
    derivatives: Path, data_dir: Path, tmp_path: Path
) -> None:
    likeness = {}
    stems = [data_dir / "dwi/uih-ap-pa" / name for name in UIH]
    folder = derivatives / "sub-uih" / "dwi"
    for which in ("default", "reverse b0"):
        fitted = []
        for number, (stem, other) in enumerate((stems, stems[::-1]), start=1):
            made = folder / f"sub-uih_run-{number}"
            if which == "reverse b0":
                made = tmp_path / f"run-{number}"
                options: list[object] = ["--prefix", made.name, "--out", tmp_path]
                options += ["--json", f"{stem}.json", "--reverse-b0", f"{other}.nii.gz"]
                for name, extension in (("dwi", "nii.gz"), ("bval", "bval"), ("bvec", "bvec")):
                    options += [f"--{name}", f"{stem}.{extension}"]
                preprocess.main(["run", *map(str, options)], standalone_mode=False)
            fitted.append(fit(f"{made}_desc-preproc_dwi", f"{made}_desc-brain_mask.nii.gz"))
        matrix = register(*fitted)
        brain = common_brain(*fitted, matrix)
        likeness[which] = {
            "b0": b0_likeness(*fitted, matrix, brain),
            **compare(*fitted, matrix, brain),
        }
    print(likeness)
    before, after = likeness["default"], likeness["reverse b0"]
    assert after["b0"] > before["b0"] + 0.05
    assert after["correlation"] > before["correlation"] + 0.02

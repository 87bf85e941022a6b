"""Preprocessing against a planted truth, beside DIPY's commands and MRtrix3's.

A real head (the motion-corrected scan of the test data), scanned anew at 2 mm with 6 b0 and 64
directions of b = 1,000: k-space of a finite extent, Rician noise of SNR 20, and once motion of up
to 3 mm and 3° with 2% of the slices lost, once none. Errors are those of FA in the white matter.

Each program runs as a user would run it, from files to files, on one core. A folder given as the
first word keeps all files, and what is found there is not made again. DIPY's Patch2Self needs
scikit-learn, and is left out without.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from axoloci import registration
from axoloci.io.gradients import (
    B0_THRESHOLD,
    bvec_to_world,
    find_shells,
    read_gradients,
    world_to_bvec,
    write_gradients,
)
from axoloci.io.nifti import read_header, read_nifti, write_nifti
from axoloci.tasks.preprocess import kernel, outliers
from axoloci.tasks.preprocess.chain import preprocess
from axoloci.tasks.simulate import anatomy as tissue
from axoloci.tasks.simulate import artefacts, scan
from benchmarks.association import Measured, measure
from benchmarks.results_file import markdown_table, write_result

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from acquisitions import HIGH_FA
from acquisitions import fit as fit_directions

ROOT = Path(__file__).parents[1]
DATA = Path(os.environ.get("AXOLOCI_TEST_DATA", ROOT.parent / "shared" / "data"))
BIN = Path(sys.executable).parent
REAL = DATA / "dwi/mappertrac-sub-011591/sub-011591_dwi"
VOXEL_MM, SNR = 2.0, 20.0
N_DIRECTIONS, N_B0, B_VALUE = 64, 6, 1000.0
MOST_MM, MOST_DEGREES, DROPPED = 3.0, 3.0, 0.02
MAX_SHIFT_MM, MAX_ANGLE = 0.2, 0.2
DEFAULT = "axoloci"


class Case:
    """One simulated scan: its files and its truth."""

    def __init__(self, folder: Path, moving: bool) -> None:
        self.folder, self.moving = folder / ("moving" if moving else "still"), moving
        self.stem = self.folder / "dwi"
        self.mask = self.folder / "mask.nii.gz"

    @property
    def files(self) -> list[str]:
        """Options of axoloci's commands that name the scan."""
        return [f"--{k}={self.stem}.{end}" for k, end in ENDS.items()]

    @property
    def tables(self) -> tuple[str, str]:
        """The gradient table."""
        return f"{self.stem}.bval", f"{self.stem}.bvec"

    def truth(self) -> dict[str, NDArray[Any]]:
        """What was planted."""
        return dict(np.load(self.folder / "truth.npz"))


ENDS = {"dwi": "nii.gz", "bval": "bval", "bvec": "bvec"}


def person(folder: Path) -> tissue.Anatomy:
    """The tensor field of the real head, its motion undone."""
    out = folder / "real"
    stem = out / "real_desc-preproc_dwi"
    if not Path(f"{stem}.json").exists():
        files = [f"--{k}={REAL}.{end}" for k, end in ENDS.items()]
        run([BIN / "axoloci-preprocess", "run", *files, "--out", out, "--prefix", "real"], out)
    dwi, affine = read_nifti(f"{stem}.nii.gz", 4)
    bval, bvec = read_gradients(f"{stem}.bval", f"{stem}.bvec")
    return tissue.from_scan(dwi, bval, bvec_to_world(bvec, affine), affine, VOXEL_MM)


def plant(case: Case, anatomy: tissue.Anatomy) -> None:
    """Write the scan and its truth."""
    bval, gradient = scan.gradient_scheme(N_DIRECTIONS, N_B0, B_VALUE)
    order = np.r_[0, 1 + np.random.default_rng(1).permutation(len(bval) - 1)]
    bval, gradient = bval[order], gradient[order]
    rng = np.random.default_rng(2)
    head = scan.random_head(anatomy, rng, 1.5)
    poses = np.zeros((len(bval), 6))
    if case.moving:  # in both the largest is that planted
        poses = scan.random_motion(len(bval), MOST_MM, MOST_DEGREES, rng)
        most = np.array([MOST_MM, np.deg2rad(MOST_DEGREES)])
        poses *= np.repeat(most / abs(poses.reshape(-1, 2, 3)).max(axis=(0, 2)), 3)
    dwi = scan.acquire(anatomy, anatomy.fields, head, bval, gradient, poses, ringing=True)
    dropped = np.zeros((0, 3))
    if case.moving:
        dwi, dropped = artefacts.drop_slices(dwi, bval > B0_THRESHOLD, DROPPED, rng)
    dwi = np.rint(scan.add_rician_noise(dwi, tissue.S0_WHITE / SNR, rng))
    fa = scan.true_fa(anatomy, anatomy.fields, head)
    place = head.to_template(scan.scan_points(anatomy)) - anatomy.affine[:3, 3]
    voxel = np.rint(place @ np.linalg.inv(anatomy.affine[:3, :3]).T).astype(int)
    inside = ((voxel >= 0) & (voxel < anatomy.region.shape)).all(axis=1)
    at = tuple(np.clip(voxel, 0, np.array(anatomy.region.shape) - 1).T)
    white = ((anatomy.region[at] > 0) & inside).reshape(anatomy.shape)
    brain = (anatomy.brain[at] & inside).reshape(anatomy.shape)
    case.folder.mkdir(parents=True)
    affine = anatomy.scan_affine
    write_nifti(f"{case.stem}.nii.gz", dwi.astype(np.int16), affine)
    write_gradients(*case.tables, bval, world_to_bvec(gradient, affine))
    write_nifti(case.mask, brain.astype(np.uint8), affine)
    truth = {"fa": fa, "white": white, "poses": poses, "dropped": dropped}
    np.savez(case.folder / "truth.npz", **truth, direction=main_direction(anatomy, head))


def main_direction(anatomy: tissue.Anatomy, head: scan.Head) -> NDArray[np.float32]:
    """Unit vectors (x, y, z, 3) in the world; 0 in air."""
    place = head.to_template(scan.scan_points(anatomy))
    inside, values = scan.sample(anatomy, anatomy.fields, place)
    tensor = np.zeros((len(values), 3, 3))
    for row, column, value in zip(tissue.ROW, tissue.COLUMN, values[:, 1:].T, strict=True):
        tensor[:, row, column] = tensor[:, column, row] = value
    direction = np.zeros((len(place), 3), dtype=np.float32)
    direction[inside] = np.linalg.eigh(tensor)[1][..., -1] @ scan.rotation(head.pose).T
    return direction.reshape(*anatomy.shape, 3)


def run(command: Sequence[object], out: Path) -> Measured:
    """Run a command that writes a folder, in which what it took is kept: it is not run again."""
    kept = out / "cost.json"
    if not kept.exists():
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir(parents=True)
        kept.write_text(json.dumps(asdict(measure(list(map(str, command)), 1))))
    return Measured(**json.loads(kept.read_text()))


# --- the chains: each leaves an FA map, and says what its commands took --------------------------


def axoloci(case: Case, name: str, *options: str, dwi: Path | None = None) -> list[Measured]:
    """The two commands of axoloci."""
    corrected = case.folder / f"{name}-preprocess"
    files = [f"--dwi={dwi}", *case.files[1:]] if dwi else case.files
    given = ("--prefix", "x", "--mask", case.mask)
    first = [BIN / "axoloci-preprocess", "run", *files, "--out", corrected, *given, *options]
    cost = run(first, corrected)
    return [cost, fit(case, name, corrected / "x_desc-preproc_dwi")]


def fit(case: Case, name: str, stem: Path) -> Measured:
    """Fit by axoloci of the corrected volumes `stem`.nii.gz, .bval and .bvec."""
    fitted = case.folder / name
    files = [f"--{key}={stem}.{end}" for key, end in ENDS.items()]
    out = ("--out", fitted, "--prefix", "x", "--mask", case.mask)
    cost = run([BIN / "axoloci-dti", "fit", *files, *out], fitted)
    shutil.copy(fitted / "x_model-tensor_param-fa_dwimap.nii.gz", fitted / "fa.nii.gz")
    return cost


def by_hand(case: Case, name: str, change: Callable[[Case, Path], None]) -> list[Measured]:
    """A fit by axoloci after something was done to its corrected scan, or to the scan itself."""
    folder = case.folder / f"{name}-preprocess"
    stem = folder / "x"
    if not Path(f"{stem}.bvec").exists():
        folder.mkdir()
        change(case, stem)
    return [fit(case, name, stem)]


def as_is(case: Case, stem: Path) -> None:
    """Nothing is done."""
    for end in ENDS.values():
        shutil.copy(f"{case.stem}.{end}", f"{stem}.{end}")


def other_bvecs(case: Case, stem: Path, direction: int) -> None:
    """Corrected volumes with directions that were not turned (0), or turned the wrong way (-1)."""
    corrected = case.folder / f"{DEFAULT}-preprocess/x_desc-preproc_dwi"
    for end in ENDS.values():
        shutil.copy(f"{corrected}.{end}", f"{stem}.{end}")
    bval, before = read_gradients(*case.tables)
    bvec = before
    if direction:
        motion = pd.read_csv(corrected.with_name("x_desc-motion_timeseries.tsv"), sep="\t")
        turns = motion[["rot_x", "rot_y", "rot_z"]].to_numpy()
        affine = read_header(case.mask, 3).affine
        world = bvec_to_world(before, affine)
        away = [
            registration.rotation_matrix(turn) @ v for turn, v in zip(turns, world, strict=True)
        ]
        bvec = world_to_bvec(np.array(away), affine)
    write_gradients(f"{stem}.bval", f"{stem}.bvec", bval, bvec)


def with_true_motion(case: Case, stem: Path) -> None:
    """The chain of axoloci, but motion and lost slices are known."""
    bval, bvec = read_gradients(*case.tables)
    dwi, affine = read_nifti(f"{case.stem}.nii.gz", 4)
    brain = read_nifti(case.mask, 3)[0] > 0
    truth = case.truth()
    motion = kernel.no_motion(dwi.shape[2:], affine, brain)
    for v, pose in enumerate(truth["poses"]):
        motion.rotations[v] = scan.rotation(pose)
        motion.matrices[v] = registration.about(motion.rotations[v], pose[:3], np.zeros(3))
    volume, slices = truth["dropped"][:, :2].astype(int).T
    motion.lost[slices, volume] = True
    dwi = preprocess(dwi, bval, bvec, affine, brain, aligned=False).dwi
    for shell in find_shells(bval)[1:]:
        lost = motion.lost[:, shell]
        outliers.replace_slices(dwi, affine, motion.matrices, bvec, shell, lost)
    bvec, _ = kernel.correct_motion(dwi, bvec, affine, motion)
    write_nifti(f"{stem}.nii.gz", dwi, affine)
    write_gradients(f"{stem}.bval", f"{stem}.bvec", bval, bvec)


def dipy(case: Case, rotated: bool = False) -> list[Measured]:
    """DIPY's commands with their defaults; that of motion does not turn the directions."""
    folders = [case.folder / f"dipy-{part}" for part in ("mppca", "gibbs", "motion")]
    costs, image = [], Path(f"{case.stem}.nii.gz")
    commands: list[tuple[str, tuple[str, ...]]] = [
        ("dipy_denoise_mppca", ()),
        ("dipy_gibbs_ringing", ()),
        ("dipy_correct_motion", case.tables),
    ]
    for folder, (program, tables) in list(zip(folders, commands, strict=True))[: 2 + case.moving]:
        costs.append(run([BIN / program, image, *tables, "--out_dir", folder], folder))
        image = _only_image(folder)
    fitted = case.folder / ("dipy-turned" if rotated else "dipy")
    bval, bvec = case.tables
    if rotated:
        bvec = f"{folders[2]}/turned.bvec"
        _turn_by_affines(case, folders[2] / "affine.txt", bvec)
    command = [BIN / "dipy_fit_dti", image, bval, bvec, case.mask, "--out_dir", fitted]
    return [*costs, run([*command, "--save_metrics", "fa"], fitted)]


def mrtrix(case: Case) -> list[Measured]:
    """MRtrix3's commands with their defaults."""
    folders = [case.folder / f"mrtrix-{part}" for part in ("denoise", "degibbs", "tensor")]
    denoised, unringed, tensor = (f / "x.mif" for f in folders)
    fitted = case.folder / "mrtrix"
    table = ("-fslgrad", f"{case.stem}.bvec", f"{case.stem}.bval")
    commands: list[tuple[list[object], Path]] = [
        (["dwidenoise", f"{case.stem}.nii.gz", denoised], folders[0]),
        (["mrdegibbs", denoised, unringed], folders[1]),
        (["dwi2tensor", unringed, tensor, *table, "-mask", case.mask], folders[2]),
        (["tensor2metric", tensor, "-fa", fitted / "fa.nii.gz"], fitted),
    ]
    return [run([*command, "-nthreads", "0", "-quiet"], folder) for command, folder in commands]


def _only_image(folder: Path) -> Path:
    (path,) = folder.glob("*.nii.gz")
    return path


def _turn_by_affines(case: Case, affines: Path, out: str) -> None:
    """Directions turned by DIPY's affines, which it writes row by row with two digits."""
    rows = np.loadtxt(affines).reshape(4, 4, -1)  # (4, 4, g) reference's world to the volume's
    affine = read_header(case.mask, 3).affine
    _, before = read_gradients(*case.tables)
    turned = [
        registration.nearest_rotation(rows[:3, :3, v]).T @ direction
        for v, direction in enumerate(bvec_to_world(before, affine))
    ]
    bval = f"{Path(out).with_suffix('.bval')}"
    write_gradients(
        bval, out, read_gradients(*case.tables)[0], world_to_bvec(np.array(turned), affine)
    )


# --- the tables ---------------------------------------------------------------------------------


def rows_of(case: Case) -> list[dict[str, object]]:
    """Run all chains; a row each."""
    made: dict[str, tuple[str, list[Measured]]] = {
        "nothing": ("nothing", by_hand(case, "nothing", as_is)),
        "**axoloci**": (DEFAULT, axoloci(case, DEFAULT)),
    }
    for folder, options in (
        ("denoise", ("--denoise",)),
        ("no-unring", ("--no-unring",)),
        ("denoise-no-unring", ("--denoise", "--no-unring")),
    ):
        made[" ".join(("axoloci", *options))] = (folder, axoloci(case, folder, *options))
    if importlib.util.find_spec("sklearn"):
        learned = case.folder / "patch2self"
        command = [BIN / "dipy_denoise_patch2self", f"{case.stem}.nii.gz", case.tables[0]]
        cost = run([*command, "--out_dir", learned], learned)
        of_learned = axoloci(case, "after-patch2self", dwi=_only_image(learned))
        made["DIPY's Patch2Self, then axoloci"] = ("after-patch2self", [cost, *of_learned])
    if case.moving:
        for name, folder, direction in (
            ("axoloci, directions not turned", "not-turned", 0),
            ("axoloci, directions turned the wrong way", "wrong-way", -1),
        ):
            change = partial(other_bvecs, direction=direction)
            made[name] = (folder, by_hand(case, folder, change))
        made["axoloci --no-motion"] = ("no-motion", axoloci(case, "no-motion", "--no-motion"))
        made["oracle: true motion and lost slices"] = (
            "oracle",
            by_hand(case, "oracle", with_true_motion),
        )
    else:
        made["MRtrix3"] = ("mrtrix", mrtrix(case))
    made["DIPY"] = ("dipy", dipy(case))
    if case.moving:
        made["DIPY, its directions turned by us"] = ("dipy-turned", dipy(case, rotated=True))

    truth = case.truth()
    maps = {
        name: read_nifti(case.folder / folder / "fa.nii.gz", 3)[0]
        for name, (folder, _) in made.items()
    }
    covered = case.folder / f"{DEFAULT}-preprocess/x_desc-brain_mask.nii.gz"
    seen = truth["white"] & (read_nifti(covered, 3)[0] > 0)  # in all volumes
    rows: list[dict[str, object]] = []
    for name, (folder, costs) in made.items():
        error = (maps[name] - truth["fa"])[seen]
        cpu = sum(cost.cpu_seconds for cost in costs)
        by_command = len(costs) > 1
        rows.append(
            {
                "chain": name,
                "RMSE of FA": f"{np.sqrt(np.mean(error**2)):.4f}",
                "mean error": f"{error.mean():+.4f}",
                "directions off, °": turned(case, folder),
                "CPU s": f"{cpu:.0f}" if by_command else "",
                "peak, GB": f"{max(cost.peak_gb for cost in costs):.1f}" if by_command else "",
            }
        )
    return rows


def turned(case: Case, name: str) -> str:
    """Angle by which main directions are turned as a whole, where FA is above `HIGH_FA`."""
    stems = [case.folder / f"{name}-preprocess" / stem for stem in ("x", "x_desc-preproc_dwi")]
    stem = next((stem for stem in stems if Path(f"{stem}.bvec").exists()), None)
    if stem is None or not case.moving:
        return ""
    truth, fitted = case.truth(), fit_directions(stem, case.mask)
    where = truth["white"] & (truth["fa"] > HIGH_FA)
    a, b = truth["direction"][where].astype(float), fitted.direction[where].astype(float)
    b *= np.sign((a * b).sum(axis=1))[:, None]
    u, _, v = np.linalg.svd(a.T @ b)  # the rotation that brings b to a
    return f"{np.rad2deg(np.linalg.norm(registration.rotation_vector(u @ v))):.2f}"


def motion_found(case: Case) -> str:
    """Errors of the motion found, in words."""
    stem = case.folder / f"{DEFAULT}-preprocess/x_desc-"
    table = pd.read_csv(f"{stem}motion_timeseries.tsv", sep="\t")
    about = json.loads(Path(f"{stem}preproc_dwi.json").read_text())
    centre, truth = np.array(about["centre_mm"]), case.truth()
    poses = truth["poses"]
    turns = np.stack([scan.rotation(pose) for pose in poses])
    shift = turns @ centre + poses[:, :3] - centre
    error = np.linalg.norm(table[["trans_x", "trans_y", "trans_z"]] - shift, axis=1)
    found = [registration.rotation_matrix(v) for v in table[["rot_x", "rot_y", "rot_z"]].to_numpy()]
    angle = [
        np.rad2deg(np.linalg.norm(registration.rotation_vector(a.T @ b)))
        for a, b in zip(found, turns, strict=True)
    ]
    z = pd.read_csv(f"{stem}slices_timeseries.tsv", sep="\t", index_col=0, na_values="n/a")
    planted = np.zeros(z.shape, dtype=bool)
    volume, slices = truth["dropped"][:, :2].astype(int).T
    planted[slices, volume] = True
    told = int((planted & z.notna().to_numpy()).sum())
    n_found = int(table["n_outlier_slices"].sum())
    hits = int(((z <= about["outlier_z"]).to_numpy() & planted).sum())
    return (
        f"Motion of {np.linalg.norm(poses[:, :3], axis=1).max():.1f} mm and"
        f" {np.rad2deg(np.linalg.norm(poses[:, 3:], axis=1)).max():.1f}° at most is found with a"
        f" median error of {np.median(error[1:]):.3f} mm (95%: {np.quantile(error[1:], 0.95):.3f})"
        f" and {np.median(angle[1:]):.3f}° ({np.quantile(angle[1:], 0.95):.3f}); asked for are"
        f" {MAX_SHIFT_MM} mm and {MAX_ANGLE}°. Of {told} slices that hold brain and were lost"
        f" {hits} were found; {n_found} were replaced.\n"
    )


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(sys.argv[1] if len(sys.argv) > 1 and Path(sys.argv[1]).is_dir() else name)
        anatomy = person(folder)
        parts = []
        for moving, title in ((True, "With motion and lost slices"), (False, "Without")):
            case = Case(folder, moving)
            if not case.folder.exists():
                plant(case, anatomy)
            parts.append(f"## {title}\n\n{markdown_table(rows_of(case))}")
            if moving:
                parts.append(motion_found(case))
        write_result("preprocess", "Preprocessing against the truth", "\n".join(parts))


if __name__ == "__main__":
    main()

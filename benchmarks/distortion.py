"""Susceptibility distortion: planted fields and real pairs, beside SyN along one axis and PyHySCO.

The planted pairs are b0s of a real head (2.5 mm, SNR 20) with a simulated field. antspyx and
PyHySCO are measured where they can be imported; neither is a dependency (PyHySCO is under the GPL).
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from axoloci import registration
from axoloci.io.gradients import bvec_to_world, read_gradients
from axoloci.io.nifti import read_nifti, write_nifti
from axoloci.tasks.preprocess.distortion import Field, estimate_field
from axoloci.tasks.simulate import anatomy as tissue
from axoloci.tasks.simulate import artefacts, scan
from benchmarks.results_file import markdown_table, write_result

DATA = Path(os.environ.get("AXOLOCI_TEST_DATA", Path(__file__).parent.parent / "../shared/data"))
REAL = {
    "UIH": (
        "uih-ap-pa/9_dti_tra_dir16_AP_SaveBySlc",
        "uih-ap-pa/6_dti_tra_dir16_PA_SaveBySlc",
    ),
    "Canon": ("canon-galan-paris/4000_DTI_AP-ortho", "canon-galan-paris/3000_DTI_PA-ortho"),
}
MOVED = np.r_[0.8, 1.2, -1.4, np.deg2rad([1.2, -1.0, 1.2])]  # 2 mm, 2 degrees
METHODS = {"axoloci": "axoloci", "antspyx": "ants", "PyHySCO": "EPI_MRI"}  # and their modules
AXIS = artefacts.PHASE


def by_axoloci(pair: dict[str, NDArray]) -> tuple[NDArray, NDArray]:
    """Displacement (x, y, z) in mm and motion (4, 4)."""
    field = estimate_field(pair["forward"], pair["reverse"], pair["affine"], AXIS)
    return field.displacement, field.reverse_matrix


def by_antspyx(pair: dict[str, NDArray]) -> tuple[NDArray, NDArray]:
    """Rigid, then SyN along the axis; half of the displacement between the two images is each's."""
    import ants

    size = np.linalg.norm(pair["affine"][:3, :3], axis=0)
    fixed, moving = (
        ants.from_numpy(pair[name], spacing=size.tolist()) for name in ("forward", "reverse")
    )
    rigid = ants.registration(fixed, moving, "Rigid", random_seed=1)
    transform = ants.read_transform(rigid["fwdtransforms"][0])
    linear, shift = np.split(transform.parameters, [9])
    matrix = registration.about(linear.reshape(3, 3), shift, transform.fixed_parameters)
    to_world = pair["affine"] @ np.diag([*1 / size, 1])
    syn = ants.registration(
        *(fixed, rigid["warpedmovout"], "SyNOnly"),
        syn_metric="CC",
        syn_sampling=3,
        reg_iterations=(100, 100, 50, 20),
        restrict_transformation=tuple(int(k == AXIS) for k in range(3)),
        random_seed=1,
    )
    half = -0.5 * ants.image_read(syn["fwdtransforms"][0]).numpy()[..., AXIS]
    displacement = half
    grid = np.indices(half.shape).astype(float)
    for _ in range(20):  # d(x) is told at x + d(x)
        place = grid.copy()
        place[AXIS] += displacement / size[AXIS]
        displacement = registration.ndimage.map_coordinates(half, place, order=1, mode="nearest")
    return displacement, to_world @ matrix @ np.linalg.inv(to_world)


def by_pyhysco(pair: dict[str, NDArray]) -> tuple[NDArray, NDArray]:
    """Its recommended settings; it knows of no motion, so that the true one is undone before."""
    import torch
    from EPI_MRI import EPIMRIDistortionCorrection as PyHySCO
    from optimization.GaussNewton import GaussNewton

    torch.set_num_threads(1)
    reverse = registration.resample(
        *(pair["reverse"], pair["affine"], pair["matrix"]), pair["reverse"].shape, pair["affine"]
    )
    with tempfile.TemporaryDirectory() as name:
        for file, image in (("a", pair["forward"]), ("b", reverse)):
            write_nifti(Path(name, f"{file}.nii.gz"), image, pair["affine"])
        data = PyHySCO.DataObject(
            f"{name}/a.nii.gz", f"{name}/b.nii.gz", AXIS + 1, device="cpu", dtype=torch.float32
        )
        loss = PyHySCO.EPIMRIDistortionCorrection(
            data, 300, 1e-4, regularizer=PyHySCO.myLaplacian3D, PC=PyHySCO.JacobiCG
        )
        optimizer = GaussNewton(loss, max_iter=50, verbose=False, path=f"{name}/out")
        optimizer.run_correction(loss.initialize(blur_result=True))
        optimizer.apply_correction()
        edges, _ = read_nifti(f"{name}/out-EstFieldMap.nii.gz", 3)  # between voxels
    centre = 0.5 * (np.delete(edges, 0, AXIS) + np.delete(edges, -1, AXIS))
    return centre, pair["matrix"]


@cache
def person() -> tissue.Anatomy:
    """A real head, of every seventh volume: only its b0 is looked at."""
    stem = DATA / "dwi/mappertrac-sub-011591/sub-011591_dwi"
    dwi, affine = read_nifti(f"{stem}.nii.gz", 4)
    bval, bvec = read_gradients(f"{stem}.bval", f"{stem}.bvec")
    some = slice(None, None, 7)
    gradient = bvec_to_world(bvec, affine)[some]
    return tissue.from_scan(dwi[..., some], bval[some], gradient, affine, 2.5)


def planted(distortion_mm: float) -> dict[str, NDArray]:
    """A simulated pair and its truth."""
    anatomy = person()
    head = scan.random_head(anatomy, np.random.default_rng(0))
    points = scan.scan_points(anatomy)
    field = artefacts.plant_susceptibility(
        anatomy,
        head.from_template(artefacts.air_places(anatomy)),
        head.from_template(points[anatomy.brain[::2, ::2, ::2].ravel()]),
        distortion_mm,
    )
    rng, images = np.random.default_rng(1), []
    for pose, polarity in ((np.zeros(6), 1), (MOVED, -1)):
        image = scan.acquire(
            *(anatomy, anatomy.fields, head, np.zeros(1), np.zeros((1, 3)), pose[None]),
            *(field, polarity),
        )[..., 0]
        images.append(scan.add_rician_noise(image, tissue.S0_WHITE / 20, rng))
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = scan.rotation(MOVED), MOVED[:3]
    return {
        "forward": images[0],
        "reverse": images[1],
        "affine": anatomy.scan_affine,
        "matrix": matrix,
        "displacement": field.field(points)[0].reshape(anatomy.shape),
        "brain": scan.true_fa(anatomy, anatomy.fields, head) > 0,
    }


def real(name: str) -> dict[str, NDArray]:
    """A real pair; its motion is that of a rigid registration."""
    (forward, affine), (reverse, _) = (
        read_nifti(DATA / "dwi" / f"{stem}.nii.gz", 4) for stem in REAL[name]
    )
    a, b = (np.ascontiguousarray(dwi[..., 0]) for dwi in (forward, reverse))
    head = (a > 0.5 * a[a > a.mean()].mean()) | (b > 0.5 * b[b > b.mean()].mean())
    matrix = registration.align(a, b, affine, affine, head).matrix
    return {"forward": a, "reverse": b, "affine": affine, "matrix": matrix, "brain": head}


def measured(method: str, pair: dict[str, NDArray], folder: Path) -> dict[str, object]:
    """A row of the table: what a method finds, in a process of its own."""
    np.savez(folder / "pair.npz", **pair)
    command = [sys.executable, "-m", "benchmarks.distortion", method, str(folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    environment["ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"] = "1"
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{method}: {done.stderr[-2000:]}")
    cost = json.loads(done.stdout.splitlines()[-1])
    found = np.load(folder / "found.npz")
    axis = pair["affine"][:3, AXIS] / np.linalg.norm(pair["affine"][:3, AXIS])
    field = Field(found["displacement"], axis, pair["affine"], found["matrix"])
    images = (
        field.apply(pair["forward"], np.eye(4)),
        field.apply(pair["reverse"], found["matrix"], -1.0),
    )
    brain = pair["brain"]
    row: dict[str, object] = {"method": method}
    if "displacement" in pair:
        error = field.displacement - pair["displacement"]
        error = abs(error - np.median(error[brain]))  # what a pair leaves open
        displaced = brain & (abs(pair["displacement"]) > 1)
        values = error[displaced] if displaced.any() else error[brain]
        row |= {
            "median error, mm": f"{np.median(values):.2f}",
            "95th percentile": f"{np.percentile(values, 95):.2f}",
            "mean, of uncorrected": f"{error[brain].mean():.2f} of "
            f"{abs(pair['displacement'])[brain].mean():.2f}",
        }
    return row | {
        "correlation of the two": f"{np.corrcoef(*(x[brain] for x in images))[0, 1]:.4f}",
        "least Jacobian": f"{field.sampling(np.eye(4))[1].min():.2f}",
        "CPU s": f"{cost['cpu']:.0f}",
        "peak, GB": f"{cost['gb']:.2f}",
    }


def work(method: str, folder: Path) -> None:
    """One method on the pair of a folder."""
    pair = dict(np.load(folder / "pair.npz"))
    estimate = {"axoloci": by_axoloci, "antspyx": by_antspyx, "PyHySCO": by_pyhysco}[method]
    before = resource.getrusage(resource.RUSAGE_SELF)
    displacement, matrix = estimate(pair)
    usage = resource.getrusage(resource.RUSAGE_SELF)
    np.savez(folder / "found.npz", displacement=displacement.astype(np.float32), matrix=matrix)
    cpu = usage.ru_utime + usage.ru_stime - before.ru_utime - before.ru_stime
    status = Path("/proc/self/status").read_text()
    peak = re.search(r"VmHWM:\s*(\d+) kB", status)  # that of getrusage is also the parent's
    assert peak is not None
    print(json.dumps({"cpu": cpu, "gb": int(peak[1]) / 1e6}))


def main() -> None:
    methods = [name for name, module in METHODS.items() if importlib.util.find_spec(module)]
    parts = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for title, pair in (
            ("Planted, 10 mm, the head moved by 2 mm and 2°", planted(10.0)),
            ("No field, the head moved by 2 mm and 2°", planted(0.0)),
            *((f"Real, {scanner}", real(scanner)) for scanner in REAL),
        ):
            rigid = registration.resample(
                *(pair["reverse"], pair["affine"], pair["matrix"]),
                *(pair["reverse"].shape, pair["affine"]),
            )
            before = np.corrcoef(pair["forward"][pair["brain"]], rigid[pair["brain"]])[0, 1]
            rows = [measured(method, pair, folder) for method in methods]
            shape = "×".join(map(str, pair["forward"].shape))
            head = f"## {title}\n\n{shape}; correlation with only the motion undone {before:.4f}.\n"
            parts.append(f"{head}\n{markdown_table(rows)}")
            print(parts[-1], flush=True)
    note = (
        "Errors are where more than 1 mm is planted (all of the brain without a field), after"
        " taking off a uniform shift. PyHySCO, which knows of no motion, is given the true one.\n\n"
    )
    write_result("distortion", "Susceptibility distortion", note + "\n".join(parts))


if __name__ == "__main__":
    if len(sys.argv) == 3:
        work(sys.argv[1], Path(sys.argv[2]))
    else:
        main()

"""Registration to a template against known warps, beside DIPY and ANTs.

Simulated people share the anatomy of a real scan at 2 mm (2.4 mm in the scanner) and differ by a
known smooth deformation, size, pose and FA. Twenty make the cohort's template; others, who did not,
are registered to it. ANTS_PYTHON names a Python that has antspyx; without it ANTs is left out.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from dipy.align import affine_registration
from dipy.align.imwarp import SymmetricDiffeomorphicRegistration
from dipy.align.metrics import CCMetric
from dipy.segment.mask import median_otsu
from numpy.typing import NDArray

from axoloci import registration
from axoloci.io.gradients import bvec_to_world, clean_gradients, read_gradients
from axoloci.io.nifti import read_nifti, write_nifti
from axoloci.tasks.normalize import kernel, template
from axoloci.tasks.normalize.build import TemplateBuilder
from axoloci.tasks.normalize.inputs import TEMPLATE, read_template
from axoloci.tasks.simulate import anatomy as tissue
from axoloci.tasks.simulate import scan
from axoloci.tasks.simulate.kernel import GLOBAL_SD, REGION_SD, Protocol, simulate_scan
from benchmarks.results_file import RESULTS, markdown_table, write_result

DWI = Path(os.environ.get("AXOLOCI_TEST_DATA", "../shared/data")) / "dwi"
REAL = DWI / "mappertrac-sub-011591" / "sub-011591_dwi.nii.gz"
OTHERS = (DWI / "canon-galan-paris" / "3000_DTI_PA-ortho.nii.gz",)
N_COHORT, N_NEW, N_BESIDE = 20, 5, 3
SNR, N_DIRECTIONS, N_B0 = 20.0, 30, 3
VOXEL_SIZE = 2.0
MEDIAN_MM, P95_MM, BIAS_MM = 0.5, 1.2, 0.1  # what is asked for

Volume = NDArray[np.float32]
Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class Person:
    """One simulated head, and its FA as it is and as it is fitted to a noisy scan."""

    head: scan.Head
    true: Path
    fitted: Path


@dataclass(frozen=True)
class Target:
    """A template that people are registered to."""

    path: Path
    image: Volume
    affine: Matrix

    @classmethod
    def of(cls, path: Path) -> Target:
        """The template of a file."""
        return cls(path, *read_template(path))

    @property
    def brain(self) -> NDArray[np.bool_]:
        """Voxels (x, y, z) that are compared."""
        return self.image > kernel.TEMPLATE_MIN_FA

    @property
    def white(self) -> NDArray[np.bool_]:
        """Within the brain's voxels (n,)."""
        return self.image[self.brain] > kernel.WHITE_MATTER_FA

    @property
    def points(self) -> Matrix:
        """(n, 3) of the brain, mm."""
        return kernel.world_grid(self.image.shape, self.affine)[self.brain]


Found = tuple[Matrix, float]  # (people, n, 3) places, CPU seconds a person
Method = Callable[[Path, Target], Matrix]  # (n, 3) places of the target's points in the scan, mm


def fit_fa(
    dwi: NDArray[np.floating], bval: Matrix, gradient: Matrix, mask: NDArray[np.bool_]
) -> Volume:
    """FA (x, y, z) by weighted least squares."""
    outer = gradient[:, tissue.ROW] * gradient[:, tissue.COLUMN] * tissue.TWICE
    design = np.column_stack([np.ones(len(bval)), -bval[:, None] * outer])  # (g, 7)
    signal = np.log(np.maximum(dwi[mask].astype(np.float64), 1.0))  # (n, g)
    weight = np.exp(2 * signal @ np.linalg.pinv(design).T @ design.T)
    normal = (weight @ (design[:, :, None] * design[:, None]).reshape(len(bval), -1)).reshape(
        -1, 7, 7
    )
    found = np.linalg.solve(normal, ((weight * signal) @ design)[..., None])[:, 1:, 0]
    fa = np.zeros(mask.shape, dtype=np.float32)
    fa[mask] = tissue.fractional_anisotropy(found.astype(np.float32)).clip(0, 1)
    return fa


def read_dwi(path: Path) -> tuple[Volume, Matrix, Matrix, Matrix]:
    """Volumes, affine, b-values, gradients in the world's axes of a scan."""
    stem = str(path).removesuffix(".nii.gz")
    dwi, affine = read_nifti(path, ndim=4)
    bval, bvec = clean_gradients(*read_gradients(f"{stem}.bval", f"{stem}.bvec"))
    return dwi, affine, bval, bvec_to_world(bvec, affine)


def simulate(folder: Path) -> tuple[tissue.Anatomy, list[Person]]:
    """The anatomy, and all people; their maps are written once."""
    dwi, affine, bval, gradient = read_dwi(REAL)
    anatomy = tissue.from_scan(dwi, bval, gradient, affine, VOXEL_SIZE)
    protocol = Protocol(
        *scan.gradient_scheme(N_DIRECTIONS, N_B0, 1000.0), SNR, motion_mm=0, motion_deg=0
    )
    points = scan.scan_points(anatomy)
    to_model = np.linalg.inv(anatomy.affine)
    people = []
    for number in range(N_COHORT + N_NEW):
        seed = np.random.SeedSequence([6, number])
        rng = np.random.default_rng(seed)
        true, fitted = (folder / f"{number:02d}_{kind}.nii.gz" for kind in ("true", "fitted"))
        offset = GLOBAL_SD * rng.standard_normal()
        offsets = offset + REGION_SD * rng.standard_normal(len(anatomy.names))
        if fitted.exists():
            head_rng = np.random.default_rng(seed.spawn(3)[0])  # as simulate_scan draws it
            people.append(Person(scan.random_head(anatomy, head_rng), true, fitted))
            continue
        made = simulate_scan(anatomy, offsets, protocol, seed)
        there = made.head.to_template(points) @ to_model[:3, :3].T + to_model[:3, 3]
        voxel = np.rint(there).astype(int)
        inside = ((voxel >= 0) & (voxel < anatomy.brain.shape)).all(axis=1)
        mask = np.zeros(len(points), dtype=bool)
        mask[inside] = anatomy.brain[tuple(voxel[inside].T)]
        mask = mask.reshape(anatomy.shape)
        fa = scan.true_fa(anatomy, made.fields, made.head) * mask
        write_nifti(true, fa.astype(np.float32), anatomy.scan_affine)
        noisy = fit_fa(made.dwi, protocol.bval, protocol.gradient, mask)
        write_nifti(fitted, noisy, anatomy.scan_affine)
        people.append(Person(made.head, true, fitted))
    return anatomy, people


@contextmanager
def cpu_seconds() -> Iterator[list[float]]:
    """CPU seconds of the block, its processes included."""

    def now() -> float:
        who = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
        return sum(u.ru_utime + u.ru_stime for u in map(resource.getrusage, who))

    taken: list[float] = []
    begin = now()
    yield taken
    taken.append(now() - begin)


def axoloci(fa: Path, target: Target) -> Matrix:
    found = kernel.register(*read_nifti(fa, ndim=3), target.image, target.affine)
    return found.warp[target.brain].astype(np.float64)


def affine_only(fa: Path, target: Target) -> Matrix:
    image, affine = read_nifti(fa, ndim=3)
    matrix = kernel.align_affine(image, affine, target.image, target.affine)
    return target.points @ matrix[:3, :3].T + matrix[:3, 3]


def dipy(fa: Path, target: Target) -> Matrix:
    """DIPY's affine and SyN with the settings that they come with."""
    image, affine = read_nifti(fa, ndim=3)
    _, matrix = affine_registration(
        image, target.image, moving_affine=affine, static_affine=target.affine
    )
    shape, grid = target.image.shape, target.affine
    moved = registration.resample(image, affine, matrix, shape, grid, 1)
    syn = SymmetricDiffeomorphicRegistration(CCMetric(3))
    syn.verbosity = 0
    mapping = syn.optimize(target.image, moved, static_grid2world=grid, moving_grid2world=grid)
    field = np.asarray(mapping.get_forward_field())
    return kernel.place(field, matrix, grid)[target.brain]


def ants(fa: Path, target: Target) -> Matrix:
    """ANTs' affine and SyN with the settings that antspyx gives them."""
    with tempfile.TemporaryDirectory() as name:
        points, out = Path(name) / "points.npy", Path(name) / "out.npy"
        np.save(points, target.points)
        program = Path(__file__).with_name("ants_syn.py")
        command = [os.environ["ANTS_PYTHON"], program, fa, target.path, points, out]
        threads = {"ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS": "1"}
        subprocess.run(list(map(str, command)), check=True, env=os.environ | threads)
        return np.asarray(np.load(out))


def place_all(
    method: Method, maps: Sequence[Path], target: Target, kept: Path | None = None
) -> Found:
    """Places in all maps; they may be kept in a file."""
    if kept is not None and kept.exists():
        with np.load(kept) as found:
            return found["places"], float(found["cpu"])
    with cpu_seconds() as taken:
        places = np.stack([method(fa, target) for fa in maps])
    cpu = taken[0] / len(maps)
    if kept is not None:
        np.savez(kept, places=places, cpu=cpu)
    return places, cpu


def errors_by_others(places: Matrix, people: Sequence[Person]) -> Matrix:
    """(people, n) mm between where a person's point is, and where the others say that it is.

    A template of a cohort has no truth of its own, but all people's places of one of its points
    must be one point of the anatomy. The mean of the others' tells which, and the person's known
    warp takes it to the scan. Their own errors are among it: by chance √(1 + 1/others) too much.
    """
    there = np.stack(
        [p.head.to_template(x.astype(np.float32)) for p, x in zip(people, places, strict=True)]
    )  # (people, n, 3) in the anatomy
    total = there.sum(axis=0)
    errors = []
    for k, person in enumerate(people):
        others = (total - there[k]) / (len(people) - 1)
        errors.append(np.linalg.norm(places[k] - person.head.from_template(others), axis=1))
    return np.array(errors)


def errors_of_known(places: Matrix, people: Sequence[Person], target: Target) -> Matrix:
    """(people, n) mm, where the template is the anatomy itself."""
    points = target.points.astype(np.float32)
    return np.array(
        [
            np.linalg.norm(x - person.head.from_template(points), axis=1)
            for x, person in zip(places, people, strict=True)
        ]
    )


def without_pose(places: Matrix, points: Matrix) -> Matrix:
    """Places (n, 3) of a template's points, the best turn and shift taken off (Kabsch)."""
    there, here = places.mean(axis=0), points.mean(axis=0)
    left, _, right = np.linalg.svd((places - there).T @ (points - here))
    turn = left @ np.diag([1, 1, np.linalg.det(left @ right)]) @ right
    return np.asarray((places - there) @ turn + here)


def row(name: str, errors: Matrix, target: Target, cpu: float) -> dict[str, str]:
    white = np.percentile(errors[:, target.white], [50, 95])
    brain = np.percentile(errors, [50, 95])
    worst = np.percentile(errors[:, target.white], 95, axis=1).max()
    return {
        "registration": name,
        "white matter: median mm": f"{white[0]:.2f}",
        "95%": f"{white[1]:.2f}",
        "worst person's 95%": f"{worst:.2f}",
        "brain: median mm": f"{brain[0]:.2f}",
        "95% ": f"{brain[1]:.2f}",
        "CPU s": f"{cpu:.1f}",
    }


def averages(places: Matrix, people: Sequence[Person], target: Target) -> list[dict[str, str]]:
    """The mean, the trimmed mean and the median of the cohort, as it is and with damaged maps."""

    def at(path: Path, x: Matrix) -> Volume:
        return kernel.sample(*read_nifti(path, ndim=3), x)

    truth = np.mean([at(p.true, x) for p, x in zip(people, places, strict=True)], axis=0)
    noisy = np.stack([at(p.fitted, x) for p, x in zip(people, places, strict=True)])  # (people, n)
    damaged = noisy.copy()
    low = target.points[:, 2] < np.median(target.points[:, 2])
    damaged[:2, low] = np.random.default_rng(0).random((2, int(low.sum())))

    def trimmed(values: Volume) -> Volume:
        return template.average([value[None, :, None] for value in values])[0].ravel()

    def mean(values: Volume) -> Volume:
        return np.asarray(values.mean(axis=0))

    def median(values: Volume) -> Volume:
        return np.asarray(np.median(values, axis=0))

    rows = []
    for name, average in (("mean", mean), ("trimmed mean (axoloci)", trimmed), ("median", median)):
        rmse = [
            float(np.sqrt(((average(values) - truth)[target.white] ** 2).mean()))
            for values in (noisy, damaged)
        ]
        rows.append(
            {
                f"average of {N_COHORT}": name,
                "RMSE of FA in white matter": f"{rmse[0]:.4f}",
                "two people noise in half of the brain": f"{rmse[1]:.4f}",
            }
        )
    return rows


def trade_off(people: Sequence[Person], target: Target, kept: Path) -> list[dict[str, str]]:
    """Smoothing and iterations of the deformation, on known warps and on real people."""
    if kept.exists():
        rows: list[dict[str, str]] = json.loads(kept.read_text())
        return rows
    mni = Target.of(TEMPLATE)
    real = []
    for path in (REAL, *OTHERS):
        dwi, affine, bval, gradient = read_dwi(path)
        _, mask = median_otsu(dwi[..., bval < 50].mean(axis=3), median_radius=2, numpass=1)
        real.append((fit_fa(dwi, bval, gradient, mask), affine))
    rows = []
    chosen = kernel.FIELD_SIGMA, kernel.COARSE_ITERATIONS, kernel.FINEST_ITERATIONS
    choices = [(sigma, *chosen[1:]) for sigma in (2.0, 2.5, 3.0, 4.0)]
    choices += [(2.5, 20, 10), (3.0, 20, 10)]
    for choice in choices:
        kernel.FIELD_SIGMA, kernel.COARSE_ITERATIONS, kernel.FINEST_ITERATIONS = choice
        places, cpu = place_all(axoloci, [p.fitted for p in people], target)
        errors = errors_of_known(places, people, target)[:, target.white]
        found = [kernel.register(fa, affine, mni.image, mni.affine) for fa, affine in real]
        rows.append(
            {
                "smoothing, voxels": f"{choice[0]:g}{' (axoloci)' if choice == chosen else ''}",
                "iterations, coarse and finest": f"{choice[1]}, {choice[2]}",
                "known warps: median mm": f"{np.median(errors):.2f}",
                "95%": f"{np.percentile(errors, 95):.2f}",
                "real people: correlation with MNI": ", ".join(
                    f"{f.similarity['warp']:.3f}" for f in found
                ),
                "their overlap of white matter": ", ".join(
                    f"{f.dice['white_matter']:.3f}" for f in found
                ),
                "smallest Jacobian": ", ".join(f"{f.jacobian[mni.brain].min():.2f}" for f in found),
                "CPU s": f"{cpu:.1f}",
            }
        )
    kernel.FIELD_SIGMA, kernel.COARSE_ITERATIONS, kernel.FINEST_ITERATIONS = chosen
    kept.write_text(json.dumps(rows))
    return rows


def build(people: Sequence[Person], folder: Path) -> tuple[Target, float]:
    """The cohort's template by the command, and its CPU seconds."""
    out, taken = folder / "cohort.nii.gz", folder / "seconds.json"
    if not taken.exists():
        rows = [f"{k:02d}\t{person.fitted.name}" for k, person in enumerate(people)]
        (folder / "maps.tsv").write_text("\n".join(["sample_id\tpath", *rows]) + "\n")
        command = [str(Path(sys.executable).parent / "axoloci-normalize"), "build-template"]
        with cpu_seconds() as seconds:
            files = ["--maps", str(folder / "maps.tsv"), "--out", str(out)]
            subprocess.run([*command, *files], check=True)
        taken.write_text(json.dumps(seconds[0]))
    return Target.of(out), float(json.loads(taken.read_text()))


def average_by_affines(people: Sequence[Person]) -> Volume:
    """What the cohort's template begins with."""
    maps = {str(k): person.fitted for k, person in enumerate(people)}
    with tempfile.TemporaryDirectory() as name:
        builder = TemplateBuilder(maps, *read_template(TEMPLATE), Path(name), {}, n_procs=1)
        return next(builder.stages(rounds=0)).image


def measure(folder: Path) -> None:
    begin = time.perf_counter()
    anatomy, people = simulate(folder)
    cohort, new = people[:N_COHORT], people[N_COHORT:]
    known = folder / "anatomy.nii.gz"
    write_nifti(known, anatomy.scan_fa, anatomy.scan_affine)
    made, build_seconds = build(cohort, folder)

    fitted, true = [p.fitted for p in new], [p.true for p in new]
    exact = Target.of(known)

    def places_of(name: str, method: Method, maps: Sequence[Path], target: Target) -> Found:
        kept = folder / f"{target.path.name.split('.')[0]}-{name.replace(' ', '-')}.npz"
        return place_all(method, maps, target, kept)

    def to_cohort(name: str, method: Method, maps: Sequence[Path]) -> dict[str, str]:
        places, cpu = places_of(name, method, maps, made)
        return row(name, errors_by_others(places, new), made, cpu)

    def to_anatomy(name: str, method: Method, maps: Sequence[Path]) -> dict[str, str]:
        places, cpu = places_of(name, method, maps[:N_BESIDE], exact)
        return row(name, errors_of_known(places, new[:N_BESIDE], exact), exact, cpu)

    rows = [
        to_cohort("affine only", affine_only, fitted),
        to_cohort("axoloci", axoloci, fitted),
        to_cohort("axoloci, FA without noise", axoloci, true),
    ]

    # the cohort's own people: is the template in their middle?
    places, _ = places_of("cohort", axoloci, [p.fitted for p in cohort], made)
    middle = np.mean([without_pose(place, made.points) for place in places], axis=0)
    bias = np.percentile(np.linalg.norm(middle - made.points, axis=1), [50, 95])

    about = json.loads((folder / "cohort.json").read_text())
    affine_average = average_by_affines(cohort)
    white = (kernel.core(made.image, made.affine) > 0) & (made.image > kernel.WHITE_MATTER_FA)
    blurred, sharp = (
        template.sharpness(image, made.affine, white) for image in (affine_average, made.image)
    )
    ratio = sharp / blurred
    stages = [
        {
            "stage": stage["stage"],
            "mean similarity": f"{stage['similarity']:.3f}",
            "mean displacement taken off, mm: median": (
                f"{stage['mean_displacement_mm']['median']:.2f}" if k else ""
            ),
            "95%": f"{stage['mean_displacement_mm']['p95']:.2f}" if k else "",
        }
        for k, stage in enumerate(about["stages"])
    ]
    (RESULTS / "registration.png").write_bytes((folder / "cohort.png").read_bytes())
    ours = next(r for r in rows if r["registration"] == "axoloci")
    median, p95 = float(ours["white matter: median mm"]), float(ours["95%"])
    smoothing = trade_off(new[:2], exact, folder / "trade-off.json")
    known_rows = [
        to_anatomy("affine only", affine_only, fitted),
        to_anatomy("axoloci", axoloci, fitted),
        to_anatomy("axoloci, FA without noise", axoloci, true),
        to_anatomy("DIPY's defaults", dipy, fitted),
    ]
    if "ANTS_PYTHON" in os.environ:
        known_rows.append(to_anatomy("ANTs SyN, defaults (mutual information)", ants, fitted))
    text = f"""\
{N_COHORT} simulated people make the cohort's template (fitted FA), {N_NEW} others are registered to
it. They share the anatomy of a real scan, at 2 mm, and differ by a smooth deformation (1.5 mm root
mean square along each axis), size (SD 3%), pose (3 mm, 3°) and FA. Fitted FA: {N_DIRECTIONS}
directions and {N_B0} b0 at SNR {SNR:g}, weighted least squares. One thread.

## To the cohort's template

A cohort's template has no truth of its own, but all people's places of one of its voxels must be
one point of the anatomy. The error is the distance, in the person's scan, to the point on which the
{N_NEW - 1} others agree on average, each led back by the known warp; their own errors are among it.

{markdown_table(rows)}
Asked for: median {MEDIAN_MM} mm and 95% {P95_MM} mm; axoloci's are {median:.2f} and {p95:.2f}.

## To the anatomy itself

The template is the noiseless FA from which everybody was made; each warp is known. The first
{N_BESIDE} of the {N_NEW} people. (ANTs with cross-correlation, as axoloci and DIPY have it, takes
more than 5 CPU minutes a person, and is not among them.)

{markdown_table(known_rows)}
## The template of {N_COHORT} people

FA gradient energy in white matter is {sharp:.5f} / mm², {ratio:.2f} times that of the affine
average ({blurred:.5f}). All {N_COHORT} people were registered to the template anew: the mean of
their places, each person's pose apart, is {bias[0]:.3f} mm off (median in the brain), {bias[1]:.2f}
mm (95%, at the edge); asked for: {BIAS_MM} mm. The command took {build_seconds / 60:.1f} CPU
minutes.

{markdown_table(stages)}
![The affine average and the template after each round](registration.png)

{markdown_table(averages(places, cohort, made))}
## Smoothing and iterations

Known warps are as smooth as the simulator makes them, and favour smoothing; of the real people
nothing is known, but detail that smoothing misses costs them likeness. Two people to the
anatomy's FA; the two scans of real people to the MNI template.

{markdown_table(smoothing)}
"""
    write_result("registration", "Registration to a template, beside DIPY and ANTs", text)
    print(f"{(time.perf_counter() - begin) / 60:.0f} minutes")
    assert median <= MEDIAN_MM, median
    assert p95 <= P95_MM, p95
    assert ratio > 1, ratio
    assert bias[0] < BIAS_MM, bias


def main(arguments: Sequence[str] = ()) -> None:
    """Measure and write the tables."""
    parser = argparse.ArgumentParser(description="Registration against known warps.")
    parser.add_argument("--folder", type=Path, help="Keeps what is made, and goes on with it.")
    options = parser.parse_args(arguments)
    if options.folder is not None:
        options.folder.mkdir(parents=True, exist_ok=True)
        measure(options.folder)
        return
    with tempfile.TemporaryDirectory() as name:
        measure(Path(name))


if __name__ == "__main__":
    main(sys.argv[1:])

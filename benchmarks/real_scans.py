"""Real scans: acquisitions of one person beside each other, as acquired and after preprocessing.

Nobody knows the truth of a real scan, but two acquisitions of one brain share it: what makes their
FA and their main directions more alike, by more than blurring does, brings both nearer to it.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from axoloci import registration
from axoloci.io.gradients import B0_THRESHOLD, read_gradients, write_gradients
from axoloci.io.nifti import read_header, read_nifti, write_nifti
from benchmarks.results_file import markdown_table, write_result

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from acquisitions import CANON, UIH, Fitted, b0_likeness, common_brain, compare, fit, register

DATA = Path(os.environ.get("AXOLOCI_TEST_DATA", Path(__file__).parent.parent / "../shared/data"))
PROGRAMS = Path(sys.executable).parent
REVERSES = {CANON[0]: CANON[1], CANON[1]: CANON[0], CANON[3]: CANON[1], CANON[4]: CANON[1],
            UIH[0]: UIH[1], UIH[1]: UIH[0]}  # fmt: skip
"""Scans whose phase encoding runs against each other along one axis of the scanner."""

RAW, DEFAULT, PAIR = "as acquired", "default set", "default set, reverse b0"
MOTIONLESS, RINGING, DENOISED = "without motion", "without unringing", "with denoising"
SETS: dict[str, tuple[str, ...]] = {
    RAW: ("--already-preprocessed",),
    DEFAULT: (),
    MOTIONLESS: ("--no-motion",),
    RINGING: ("--no-unring",),
    DENOISED: ("--denoise",),
}
BLURRED = ", blurred"
"""Controls: volumes blurred until the mean FA is that of the default set. Agreement rewards
blurring, so that a part has shown its worth only where it does more than that."""


@dataclass(frozen=True)
class Person:
    """A person's scans by name, and for each the files that it lies in, without extension."""

    title: str
    scans: Mapping[str, Path]
    sets: Sequence[str]


def run_preprocess(stem: Path, out: Path, options: Sequence[object]) -> float:
    """Preprocess one scan by the command; CPU seconds, of before if it was done before."""
    stamp = out / "cpu.json"
    if not stamp.exists():
        command: list[object] = [PROGRAMS / "axoloci-preprocess", "run", "--prefix", "scan"]
        command += ["--out", out, "--dwi", f"{stem}.nii.gz"]
        command += ["--bval", f"{stem}.bval", "--bvec", f"{stem}.bvec"]
        if Path(f"{stem}.json").exists():
            command += ["--json", f"{stem}.json"]
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            list(map(str, [*command, *options])), capture_output=True, text=True, env=environment
        )
        if done.returncode:
            raise SystemExit(f"{stem.name}: {done.stderr}")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        stamp.write_text(json.dumps(cpu))
    return float(json.loads(stamp.read_text()))


def output(folder: Path, name: str, parts: str) -> Path:
    """Where a scan after a set of parts lies."""
    path = folder / name / parts.replace(", ", "-").replace(" ", "-")
    path.mkdir(parents=True, exist_ok=True)
    return path


def fit_output(folder: Path, fwhm: float = 0.0) -> Fitted:
    """The tensor of what `run_preprocess` wrote."""
    mask = folder / "scan_desc-brain_mask.nii.gz"
    return fit(folder / "scan_desc-preproc_dwi", mask, fwhm)


def fit_blurred(folder: Path, mean_fa: float) -> Fitted:
    """The tensor of volumes blurred until the mean FA is at most that wanted."""
    low, high = 0.0, 12.0  # full width at half maximum, mm
    for _ in range(7):
        middle = (low + high) / 2
        low, high = (
            (middle, high) if fit_output(folder, middle).mean_fa > mean_fa else (low, middle)
        )
    return fit_output(folder, high)


def reverse_options(name: str, scans: Mapping[str, Path], folder: Path) -> list[object]:
    """The option that names the b0 of reverse phase encoding, brought to the scan's grid."""
    dwi, other_affine = read_nifti(f"{scans[REVERSES[name]]}.nii.gz", 4)
    header = read_header(f"{scans[name]}.nii.gz", 4)
    x, y, z, _ = header.shape
    # The grid alone is changed: where the head lay in the scanner, and with it the field, is kept.
    b0 = registration.resample(
        *(np.ascontiguousarray(dwi[..., 0]), other_affine, np.eye(4)),
        *((x, y, z), header.affine),
    )
    path = folder / "reverse_b0.nii.gz"
    write_nifti(path, np.maximum(b0, 0), header.affine)
    return ["--reverse-b0", path]


def halve(stem: Path, folder: Path) -> dict[str, Path]:
    """Two scans of every other b0 and every other direction of one, as if acquired apart."""
    dwi, affine = read_nifti(f"{stem}.nii.gz", 4)
    bval, bvec = read_gradients(f"{stem}.bval", f"{stem}.bvec")
    order = np.argsort(bval > B0_THRESHOLD, kind="stable")
    halves = {}
    for k, name in enumerate(("even", "odd")):
        chosen = np.sort(order[k::2])
        half = folder / "halves" / name
        half.parent.mkdir(parents=True, exist_ok=True)
        write_nifti(f"{half}.nii.gz", dwi[..., chosen], affine)
        write_gradients(f"{half}.bval", f"{half}.bvec", bval[chosen], bvec[chosen])
        halves[name] = half
    return halves


def fit_all(person: Person, folder: Path) -> tuple[dict[str, dict[str, Fitted]], dict[str, float]]:
    """Every scan after every set of parts, and the mean CPU seconds of a scan."""
    fitted: dict[str, dict[str, Fitted]] = {}
    cpu: dict[str, float] = {}
    for parts in person.sets:
        fitted[parts], seconds = {}, []
        for name, stem in person.scans.items():
            out = output(folder, name, parts)
            if parts.endswith(BLURRED):
                source = output(folder, name, parts.removesuffix(BLURRED))
                fitted[parts][name] = fit_blurred(source, fitted[DEFAULT][name].mean_fa)
            elif parts == PAIR and name not in REVERSES:
                fitted[parts][name] = fitted[DEFAULT][name]
            else:
                options = SETS.get(parts) or (
                    reverse_options(name, person.scans, out) if parts == PAIR else ()
                )
                seconds.append(run_preprocess(stem, out, options))
                fitted[parts][name] = fit_output(out)
        cpu[parts] = float(np.mean(seconds)) if seconds else np.nan
    return fitted, cpu


def measure_person(person: Person, folder: Path) -> str:
    """The tables of a person."""
    fitted, cpu = fit_all(person, folder)
    pairs = list(itertools.combinations(person.scans, 2))
    found: dict[str, list[dict[str, float]]] = {parts: [] for parts in person.sets}
    for a, b in pairs:
        matrix = {parts: register(fitted[parts][a], fitted[parts][b]) for parts in person.sets}
        brain = common_brain(fitted[DEFAULT][a], fitted[DEFAULT][b], matrix[DEFAULT])
        for parts in person.sets:
            both = fitted[parts][a], fitted[parts][b]
            of_pair = compare(*both, matrix[parts], brain)
            of_pair["b0"] = b0_likeness(*both, matrix[parts], brain)
            found[parts].append(of_pair)

    def short(name: str) -> str:
        return name.removesuffix("_SaveBySlc").replace("_", " ")

    columns = [parts for parts in (RAW, DEFAULT, PAIR) if parts in person.sets]
    by_pair = []
    for k, (a, b) in enumerate(pairs):
        row = {"pair": f"{short(a)}, {short(b)}"}
        for parts in columns:
            row[f"FA, {parts}"] = f"{found[parts][k]['correlation']:.3f}"
        for parts in columns:
            of_pair = found[parts][k]
            row[f"angle, {parts}"] = f"{of_pair['median']:.1f}° ({of_pair['95%']:.0f}°)"
        by_pair.append(row)
    by_set = []
    for parts in person.sets:
        of = {key: [one[key] for one in found[parts]] for key in found[parts][0]}
        mean_fa = [scan.mean_fa for scan in fitted[parts].values()]
        by_set.append(
            {
                "parts": parts,
                "FA correlation, mean": f"{np.mean(of['correlation']):.3f}",
                "least": f"{min(of['correlation']):.3f}",
                "median angle, mean": f"{np.mean(of['median']):.1f}°",
                "largest": f"{max(of['median']):.1f}°",
                "95% angle, mean": f"{np.mean(of['95%']):.0f}°",
                "voxels": f"{np.mean(of['voxels']):.0f}",
                "mean FA": f"{min(mean_fa):.3f} to {max(mean_fa):.3f}",
                "CPU s a scan": "" if np.isnan(cpu[parts]) else f"{cpu[parts]:.0f}",
            }
        )
    text = f"## {person.title}\n\n{markdown_table(by_pair)}\n{markdown_table(by_set)}"
    opposite = [
        {"b0s of reverse phase encoding": f"{short(a)}, {short(b)}"}
        | {parts: f"{found[parts][k]['b0']:.3f}" for parts in columns}
        for k, (a, b) in enumerate(pairs)
        if REVERSES.get(a) == b or REVERSES.get(b) == a
    ]
    if opposite:
        text += f"\n{markdown_table(opposite)}"
    print(text, flush=True)
    return text


def measure(folder: Path) -> None:
    """Measure all people and write the tables."""
    dwi = DATA / "dwi"
    several = (RAW, DEFAULT, PAIR, MOTIONLESS, RINGING, RAW + BLURRED, RINGING + BLURRED)
    people = (
        Person(
            "Canon Galan, 5 acquisitions of one person: 80×80×40, 3 mm, 1 b0 and 12 b = 1500",
            {name: dwi / "canon-galan-paris" / name for name in CANON},
            several,
        ),
        Person(
            "UIH, 2 acquisitions of one person: 64×64×20, 3.5×3.5×4.2 mm, 1 b0 and 16 b = 930",
            {name: dwi / "uih-ap-pa" / name for name in UIH},
            several,
        ),
        Person(
            "MaPPeRTrac, two halves of one scan: 96×96×63, 2.4 mm, 3 b0 and 32 b = 1000 each",
            halve(dwi / "mappertrac-sub-011591/sub-011591_dwi", folder),
            (*SETS, RAW + BLURRED, RINGING + BLURRED, DENOISED + BLURRED),
        ),
    )
    parts = [measure_person(person, folder) for person in people]
    write_result("real_scans", "Real scans: acquisitions of one person", NOTE + "\n".join(parts))


def main(arguments: Sequence[str] = ()) -> None:
    """Measure and write the tables."""
    parser = argparse.ArgumentParser(description="Acquisitions of one person beside each other.")
    parser.add_argument("--folder", type=Path, help="Keeps what is made, and goes on with it.")
    options = parser.parse_args(arguments)
    if options.folder is not None:
        options.folder.mkdir(parents=True, exist_ok=True)
        measure(options.folder)
        return
    with tempfile.TemporaryDirectory() as name:
        measure(Path(name))


NOTE = """\
Each scan went through `axoloci-preprocess run` with its default set, or with or without the part
named, and the fit of `axoloci-dti`. Two scans are registered rigidly by their FA, anew after each
set of parts and always by the same procedure. FA correlates in the brain that both have (masks of
the default set); angles are the median (95%) between main directions, turned with the registration,
where FA is above 0.4 in both.

Agreement rewards blurring. "Blurred" are controls: the volumes of the set named, blurred by a
Gaussian until the mean FA is that of the default set. A part whose gain blurring matches has shown
here that it does no harm, and no more.

Reverse b0: 3000 and 4000 take each other's, 6 and 9 as well; 9000 and 14000 take that of 4000,
resampled to their grids. 8000 has an oblique field of view and no b0 against its phase encoding: it
stays as it is by the default set, and distorted. Scans of one phase encoding are distorted much
alike: correction makes these a little less alike, and brings those of opposite ones together. UIH's
series 12 is left out: by its time and its ventricles it seems to be another person.

"""

if __name__ == "__main__":
    main(sys.argv[1:])

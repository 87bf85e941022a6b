"""The tensor fit beside MRtrix3 and DIPY: one scan of UK Biobank's size, taking turns.

104 x 104 x 72 voxels, 206,000 of them in the mask, 5 b0, 50 volumes of b = 1,000 and 50 of 2,000,
planted tensors, Rician noise of SNR 20. The programs are compared as commands, from files to files,
and DIPY's fit also within Python, where only the arithmetic counts.

Each has the same cores, one and then two: a cohort is computed a scan a core. axoloci-dti runs in
the environment of its image, made anew of the image's lock, and in the native one, in which DIPY's
import takes in whatever else is installed that it knows of, pandas among it.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable, Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

import axoloci
from axoloci.io.gradients import world_to_bvec, write_gradients
from axoloci.io.nifti import write_nifti
from axoloci.tasks.dti import kernel
from axoloci.tasks.simulate.scan import gradient_scheme
from benchmarks.association import Measured, measure, median_of
from benchmarks.results_file import markdown_table, write_result

SHAPE = (104, 104, 72)
N_VOXELS = 206_000
AFFINE = np.diag([-2.0, 2.0, 2.0, 1.0])
S0, SNR = 850.0, 20.0
MAX_FA_DIFFERENCE = 1e-6
MAX_DIPY_SHARE = 1 / 3
NAMES = {"fa": "fa", "md": "adc", "ad": "ad", "rd": "rd"}  # ours and MRtrix3's
BIN = Path(sys.executable).parent
ROOT = Path(__file__).parents[1]

Scan = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float32], NDArray[np.float64]]


def simulate(folder: Path) -> Scan:
    """Write the scan, whole and without b = 2,000.

    Returns
    -------
    b-values, directions and signals (n, g) of the latter, true FA (n,).
    """
    rng = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in SHAPE), indexing="ij"), axis=-1)
    radius = np.linalg.norm(grid / [0.78, 0.92, 0.92], axis=-1)
    mask = radius <= np.partition(radius, N_VOXELS, axis=None)[N_VOXELS]
    n = int(mask.sum())
    axes = np.linalg.qr(rng.normal(size=(n, 3, 3)))[0]
    values = rng.uniform(0.2e-3, 1.7e-3, (n, 3))
    tensor = np.einsum("nij,nj,nkj->nik", axes, values, axes)
    b1, g1 = gradient_scheme(50, 5, 1000.0)
    b2, g2 = gradient_scheme(50, 0, 2000.0)
    order = np.r_[0, 1 + rng.permutation(104)]  # shells are interleaved, as scanners do
    bval, bvec = np.r_[b1, b2][order], np.vstack([g1, g2])[order]
    dwi = np.zeros((*SHAPE, len(bval)), dtype=np.int16, order="F")
    for volume, b, direction in zip(np.moveaxis(dwi, 3, 0), bval, bvec, strict=True):
        clean = np.zeros(SHAPE)
        clean[mask] = S0 * np.exp(-b * np.einsum("i,nij,j->n", direction, tensor, direction))
        real, imaginary = S0 / SNR * rng.normal(size=(2, *SHAPE))
        volume[:] = np.hypot(clean + real, imaginary)
    low = bval < 1500
    for name, chosen in (("all", np.ones_like(low)), ("low", low)):
        write_nifti(folder / f"{name}.nii.gz", np.asfortranarray(dwi[..., chosen]), AFFINE)
        gradients = bval[chosen], world_to_bvec(bvec[chosen], AFFINE)
        write_gradients(folder / f"{name}.bval", folder / f"{name}.bvec", *gradients)
    write_nifti(folder / "mask.nii.gz", mask.astype(np.uint8), AFFINE)
    spread = ((values - values.mean(axis=1, keepdims=True)) ** 2).sum(axis=1)
    signal = np.maximum(dwi[mask][:, low], 1).astype(np.float32)
    return bval[low], bvec[low], signal, np.sqrt(1.5 * spread / (values**2).sum(axis=1))


def image_command(folder: Path) -> str:
    """axoloci-dti with the libraries of its image and no others."""
    venv.create(folder / "env", with_pip=True)
    python = folder / "env" / "bin" / "python"
    pip = [python, "-m", "pip", "--quiet", "install", "--no-deps", "--require-hashes", "-r"]
    subprocess.run([*pip, ROOT / "containers" / "dti" / "requirements.lock"], check=True)
    program = shlex.quote("from axoloci.tasks.dti.cli import main; main(prog_name='axoloci-dti')")
    return f"PYTHONPATH={Path(axoloci.__file__).parents[1]} {python} -c {program}"


def ours(command: str, name: str, check: str = "--no-check") -> str:
    """The fit of a scan, without the check of its gradients, which the others do not make."""
    scan = f"--dwi {name}.nii.gz --bval {name}.bval --bvec {name}.bvec --mask mask.nii.gz"
    return f"{command} fit {scan} {check} --prefix x --out axoloci"


def mrtrix(name: str, threads: int, extracted: bool = False) -> str:
    """dwi2tensor and tensor2metric of a scan; with `extracted`, of its volumes up to b = 1,000."""
    options = f"-quiet -force -nthreads {threads if threads > 1 else 0}"
    source = f"-fslgrad {name}.bvec {name}.bval {name}.nii.gz"
    words = []
    if extracted:
        words.append(f"dwiextract {options} -shells 0,1000 {source} low.mif")
        source = "low.mif"
    words.append(f"dwi2tensor {options} -mask mask.nii.gz {source} dt.mif")
    maps = " ".join(f"-{its} {ours}.nii.gz" for ours, its in NAMES.items())
    words.append(f"tensor2metric {options} -mask mask.nii.gz dt.mif {maps}")
    return " && ".join(words)


def dipy() -> str:
    return (
        f"{BIN / 'dipy_fit_dti'} low.nii.gz low.bval low.bvec mask.nii.gz --fit_method WLS "
        "--save_metrics fa md ad rd --force --out_dir dipy"
    )


def of_commands(
    folder: Path, image: str, truth: NDArray[np.float64], threads: int, repeats: int
) -> list[dict[str, str]]:
    """One row a command."""
    fa = folder / "fa.nii.gz"
    its = folder / "axoloci" / "x_model-tensor_param-fa_dwimap.nii.gz"
    programs = {
        ("all", "axoloci in its image's environment"): (ours(image, "all"), its),
        ("all", "the same, gradients checked"): (ours(image, "all", "--check"), its),
        ("all", "axoloci in the native environment"): (ours(str(BIN / "axoloci-dti"), "all"), its),
        ("all", "MRtrix3, dwiextract first"): (mrtrix("all", threads, extracted=True), fa),
        ("all", "MRtrix3, fits all volumes"): (mrtrix("all", threads), fa),
        ("low", "axoloci in its image's environment"): (ours(image, "low"), its),
        ("low", "MRtrix3"): (mrtrix("low", threads), fa),
        ("low", "DIPY"): (dipy(), folder / "dipy" / "fa.nii.gz"),
    }
    mask = np.asarray(nib.load(folder / "mask.nii.gz").dataobj) > 0
    runs: dict[tuple[str, str], list[Measured]] = {name: [] for name in programs}
    cpu: dict[tuple[str, str], list[float]] = {name: [] for name in programs}
    error = {}
    for _ in range(repeats):
        for name, (command, made) in programs.items():
            before = os.times()
            runs[name].append(measure(["bash", "-c", f"cd {folder} && {command}"], 1))
            after = os.times()
            user = after.children_user - before.children_user
            cpu[name].append(user + after.children_system - before.children_system)
            found = nib.load(made).get_fdata()[mask]
            error[name] = np.sqrt(np.nanmean((np.clip(found, 0, 1) - truth) ** 2))
    median = {name: median_of(of_one) for name, of_one in runs.items()}
    cpu_s = {name: statistics.median(of_one) for name, of_one in cpu.items()}
    first = {name[0]: name for name in reversed(programs)}
    return [
        {
            "volumes in the file": {"all": "105", "low": "55"}[name[0]],
            "command": name[1],
            "s": f"{one.seconds:.2f}",
            "CPU s": f"{cpu_s[name]:.2f}",
            "peak GB": f"{one.peak_gb:.2f}",
            "FA error (RMSE)": f"{error[name]:.4f}",
            "s ÷ axoloci's": f"{one.seconds / median[first[name[0]]].seconds:.2f}",
            "CPU s ÷ axoloci's": f"{cpu_s[name] / cpu_s[first[name[0]]]:.2f}",
        }
        for name, one in median.items()
    ]


def of_kernels(
    bval: NDArray[np.float64], bvec: NDArray[np.float64], signal: NDArray[np.float32], repeats: int
) -> list[dict[str, str]]:
    """One row a program: the fit and FA, MD, AD, RD of signals in memory."""
    from dipy.core.gradients import gradient_table
    from dipy.reconst.dti import TensorModel

    found = {}

    def with_axoloci() -> None:
        found["axoloci"] = kernel.fit_tensor(signal, bval, bvec)

    def with_dipy() -> None:
        table = gradient_table(bval, bvecs=bvec, b0_threshold=50)
        floor = kernel.signal_floor(signal, bval)
        fit = TensorModel(table, fit_method="WLS", min_signal=floor).fit(signal)
        found["DIPY"] = fit
        for name in NAMES:
            getattr(fit, name)

    def seconds(work: Callable[[], None]) -> float:
        begin = time.perf_counter()
        work()
        return time.perf_counter() - begin

    programs = {"axoloci": with_axoloci, "DIPY": with_dipy}
    runs: dict[str, list[float]] = {name: [] for name in programs}
    for _ in range(repeats):
        for name, work in programs.items():
            runs[name].append(seconds(work))
    median = {name: statistics.median(of_one) for name, of_one in runs.items()}
    plausible = ~found["axoloci"].implausible
    gap = abs(found["axoloci"].fa - found["DIPY"].fa)[plausible].max()
    assert gap <= MAX_FA_DIFFERENCE, gap
    share = median["axoloci"] / median["DIPY"]
    assert share <= MAX_DIPY_SHARE, share
    return [
        {
            "fit": f"{name}, WLS",
            "s": f"{of_one:.2f}",
            "it ÷ axoloci": f"{of_one / median['axoloci']:.1f}",
            "largest difference in FA": f"{gap:.1e} (bar {MAX_FA_DIFFERENCE:g})",
        }
        for name, of_one in median.items()
    ]


def main(arguments: Sequence[str] = ()) -> None:
    """Compare and write the tables."""
    parser = argparse.ArgumentParser(description="The tensor fit beside MRtrix3 and DIPY.")
    parser.add_argument("--repeats", type=int, default=5, help="Runs of each program.")
    parser.add_argument("--cores", type=int, nargs="+", default=[1, 2], help="Cores of each.")
    options = parser.parse_args(arguments)
    if shutil.which("dwi2tensor") is None:
        raise SystemExit("MRtrix3 is not installed; install it by: sudo make system")
    allowed = sorted(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as name:
        bval, bvec, signal, truth = simulate(Path(name))
        image = image_command(Path(name))
        tables = []
        try:
            for cores in options.cores:
                os.sched_setaffinity(0, allowed[:cores])
                rows = of_commands(Path(name), image, truth, cores, options.repeats)
                tables.append(f"## From files to files, cores: {cores}\n\n{markdown_table(rows)}")
            os.sched_setaffinity(0, allowed[:1])
            kernels = of_kernels(bval, bvec, signal, options.repeats)
        finally:
            os.sched_setaffinity(0, allowed)
    write_result(
        "tensor",
        "The tensor fit of a scan of UK Biobank's size",
        f"Median of {options.repeats} runs, taking turns. 104x104x72 voxels, {len(truth):,} in the "
        "mask, planted tensors, SNR 20. Asked for: MRtrix3 takes at least as long as "
        "axoloci of the same file, DIPY three times as long.\n\naxoloci fits volumes of b ≤ 1,500 "
        "and writes FA, MD, AD, RD, mode, colour FA, b0, residual and a mask of implausible voxels,"
        " of the file with b = 2,000 also MSD and MSK; the others write FA, MD, AD and RD. The "
        "planted signal is one exponential, which a real one is not up to b = 2,000: there all "
        "volumes give the best FA here. Gradients are checked unless axoloci-preprocess did so "
        "before; fibres fill the mask here, and a third of a head, which takes half as long. DIPY's"
        " import, which all of axoloci's fits go through, "
        "takes half a CPU second in the environment of the image, and more than one in the native "
        "one, where it takes in pandas and pytest. axoloci works in one thread, MRtrix3 in as "
        "many as cores; other work on the machine moves the seconds more than the CPU seconds.\n\n"
        + "\n".join(tables)
        + "\n"
        "## The arithmetic alone\n\nSignals in memory, 55 volumes, one core; DIPY's TensorModel "
        "with axoloci's solver and with its own; axoloci also computes mode, b0, residual and main "
        f"direction.\n\n{markdown_table(kernels)}",
    )


if __name__ == "__main__":
    main(sys.argv[1:])

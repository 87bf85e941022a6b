"""Principal components of maps that do not fit in memory, beside scikit-learn and scipy.

First on maps of which scipy can take the singular vectors, then on 20,000 maps of 200,000 voxels.
SKLEARN_PYTHON names a Python that has scikit-learn; without it scikit-learn is left out.
"""

from __future__ import annotations

import multiprocessing
import os
import re
import subprocess
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from statistics import median

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import linalg

from axoloci.tasks.encoder.linear import BLOCK_PEOPLE, Components, principal_components
from benchmarks.results_file import markdown_table, write_result

N_COMPONENTS = 128
SMALL, LARGE = (2_000, 20_000), (20_000, 200_000)  # people, voxels
NOISE = 0.03  # of a voxel, FA
WEAKEST, STRONGEST = 3, 300  # variance of components, times that of the strongest of the noise
PEER_BATCH, PEER_BATCHES = 250, 4  # of which the first is left out
MAX_ANGLE, MAX_GIB, MIN_RATIO = 1e-5, 4.0, 5.0


def write_maps(path: Path, n_people: int, n_voxels: int) -> None:
    """Maps of 128 factors and noise, float16, one after the other."""
    rng = np.random.default_rng(0)
    noise = NOISE**2 * (1 + np.sqrt(n_voxels / n_people)) ** 2  # largest variance of noise alone
    variance = noise * np.geomspace(STRONGEST, WEAKEST, N_COMPONENTS)
    patterns = rng.standard_normal((N_COMPONENTS, n_voxels), dtype=np.float32)
    patterns *= np.sqrt(variance / n_voxels).astype(np.float32)[:, None]
    with path.open("wb") as file:
        for start in range(0, n_people, BLOCK_PEOPLE):
            n = min(BLOCK_PEOPLE, n_people - start)
            maps = rng.standard_normal((n, N_COMPONENTS), dtype=np.float32) @ patterns
            maps += NOISE * rng.standard_normal((n, n_voxels), dtype=np.float32) + np.float32(0.4)
            maps.astype(np.float16).tofile(file)


def reader(path: Path, n_voxels: int) -> Callable[[NDArray[np.int64]], NDArray[np.float32]]:
    """Gives the maps of some people; plain reads, for pages of a mapped file count as memory."""
    file = os.open(path, os.O_RDONLY)

    def rows(index: NDArray[np.int64]) -> NDArray[np.float32]:
        half = np.empty((len(index), n_voxels), dtype=np.float16)
        for row, person in zip(half, index.tolist(), strict=True):
            os.preadv(file, [row], person * n_voxels * 2)
        return torch.from_numpy(half).float().numpy()  # six times as fast as numpy's

    return rows


def components(path: Path, n_people: int, n_voxels: int) -> tuple[Components, float, float]:
    """Of axoloci, in a process of its own: the components, seconds, peak memory in GiB."""
    torch.set_num_threads(1)
    begin = time.perf_counter()
    index = np.arange(n_people)
    found = principal_components(reader(path, n_voxels), index, n_voxels, N_COMPONENTS)
    seconds = time.perf_counter() - begin
    peak = re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())
    assert peak is not None
    return found, seconds, int(peak[1]) / 2**20


def apart(path: Path, size: tuple[int, int]) -> tuple[Components, float, float]:
    """`components` in a new process."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(components, path, *size).result()


def sklearn(path: Path, n_voxels: int, n_batches: int, out: Path) -> list[float]:
    """Seconds of each batch of scikit-learn's IncrementalPCA, on one thread."""
    program = Path(__file__).with_name("sklearn_pca.py")
    sizes = (n_voxels, N_COMPONENTS, PEER_BATCH, n_batches)
    command = [os.environ["SKLEARN_PYTHON"], program, path, *sizes, out]
    threads = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(
        list(map(str, command)), check=True, env=os.environ | threads, stdout=subprocess.PIPE
    )
    return [float(line) for line in done.stdout.split()]


def angle(found: NDArray[np.float32], truth: NDArray[np.float64]) -> float:
    """Largest angle between two spaces of rows, radians."""
    return float(linalg.subspace_angles(found.T.astype(np.float64), truth.T).max())


def accuracy(folder: Path) -> str:
    """Both beside scipy."""
    n_people, n_voxels = SMALL
    path = folder / "small"
    write_maps(path, *SMALL)
    found, seconds, _ = apart(path, SMALL)
    x = reader(path, n_voxels)(np.arange(n_people)).astype(np.float64)
    truth = linalg.svd(x - x.mean(axis=0), full_matrices=False)[2][:N_COMPONENTS]
    del x
    ours = angle(found.basis, truth)
    assert ours < MAX_ANGLE, ours
    rows = [{"program": "axoloci", "angle, radians": f"{ours:.1e}", "seconds": f"{seconds:.1f}"}]
    if "SKLEARN_PYTHON" in os.environ:
        times = sklearn(path, n_voxels, n_people // PEER_BATCH, folder / "small.npy")
        theirs = angle(np.load(folder / "small.npy"), truth)
        row = ("scikit-learn IncrementalPCA", f"{theirs:.1e}", f"{sum(times):.1f}")
        rows.append(dict(zip(rows[0], row, strict=True)))
    return (
        f"{n_people:,} people, {n_voxels:,} voxels, {N_COMPONENTS} components: the largest angle "
        f"between their space and that of scipy's singular vectors in float64.\n\n"
        f"{markdown_table(rows)}\n"
    )


def product_rate() -> float:
    """Floating-point operations a second of a large float32 product on one thread."""
    torch.set_num_threads(1)
    a = torch.randn(2048, 2048)
    times = []
    for _ in range(5):
        begin = time.perf_counter()
        a @ a
        times.append(time.perf_counter() - begin)
    return 2 * 2048**3 / min(times)


def main() -> None:
    """Compare accuracy, time and memory."""
    n_people, n_voxels = LARGE
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        text = accuracy(folder)
        path = folder / "large"
        write_maps(path, *LARGE)
        found, seconds, gib = apart(path, LARGE)
        peer = None
        if "SKLEARN_PYTHON" in os.environ:
            times = sklearn(path, n_voxels, PEER_BATCHES, folder / "large.npy")
            peer = median(times[1:]) * n_people / PEER_BATCH
    assert gib < MAX_GIB, gib
    assert found.angle < MAX_ANGLE, found.angle
    work = 4 * n_people * n_voxels * N_COMPONENTS * found.n_passes
    row = {
        "seconds axoloci": f"{seconds:.0f}",
        "passes": found.n_passes,
        "peak memory, GiB": f"{gib:.2f}",
        "angle, at most": f"{found.angle:.1e}",
        "share of the product rate": f"{work / seconds / product_rate():.0%}",
    }
    if peer is not None:
        assert peer >= MIN_RATIO * seconds, (peer, seconds)
        row |= {"seconds scikit-learn": f"{peer:.0f}", "ratio": f"{peer / seconds:.1f}"}
        note = (
            f"scikit-learn's IncrementalPCA: the median of {PEER_BATCHES - 1} batches of "
            f"{PEER_BATCH} people, times {n_people // PEER_BATCH}; each batch after the first does "
            "the same work. Its reading is left out, that of axoloci is not."
        )
    else:
        note = "scikit-learn is left out: set SKLEARN_PYTHON to a Python that has it."
    write_result(
        "pca",
        "Principal components of maps that do not fit in memory",
        f"One thread each; axoloci reads ahead in another. Maps of {N_COMPONENTS} factors and "
        "noise, as float16 in a file; the "
        f"weakest factor has {WEAKEST} times the variance of the strongest component of noise.\n\n"
        f"{text}{n_people:,} people, {n_voxels:,} voxels ({n_people * n_voxels * 4 / 2**30:.0f} "
        f"GiB in float32):\n\n{markdown_table([row])}\n{note} The angle is a bound by residuals "
        "(Davis and Kahan); the product rate is that of a large float32 product on one thread, "
        "and counts the products of a pass only.\n",
    )


if __name__ == "__main__":
    main()

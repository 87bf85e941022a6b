"""The cohort store at 1 mm: bytes a map, batches beside NIfTI files, more people, kill -9.

500 maps on 182 x 218 x 182 voxels: TractSeg's FA template of AXOLOCI_TEST_DATA, deformed smoothly,
with noise as smooth as that of scans at 2 mm that were interpolated once. They are on disk as
axoloci writes them (.nii.gz, float32), and are packed by `axoloci-normalize store`.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import nibabel as nib
import numpy as np
import zarr
from numcodecs import blosc, zstd
from numpy.typing import NDArray
from scipy import ndimage

from axoloci.io.ahead import N_THREADS, map_ahead
from axoloci.io.cohort import Cohort, check_cohort, read_cohort
from axoloci.io.nifti import read_nifti, regridded, write_nifti
from axoloci.io.shards import pack_row
from benchmarks.association import measure
from benchmarks.results_file import markdown_table, write_result

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from support import contents

DATA = Path(os.environ.get("AXOLOCI_TEST_DATA", "../shared/data"))
TEMPLATE = DATA / "templates" / "tractseg-fa" / "MNI_FA_template.nii.gz"
SHAPE = (182, 218, 182)
N_SHAPES = 10  # deformations; each map has noise of its own
BATCH, N_BATCHES, N_NIFTI_BATCHES = 16, 12, 3
N_EPOCHS = 3
ADDED = 0.1  # share of the people who join a store of the others
MIN_RATIO = 10.0  # of batches from the store and from NIfTI files
PEOPLE = 50_000

Image = NDArray[np.float32]


def anatomy() -> tuple[Image, NDArray[np.bool_], NDArray[np.float64]]:
    """FA template at 1 mm, its brain with what is hollow in it, and the affine."""
    image, affine = read_nifti(TEMPLATE, ndim=3)
    _, fine = regridded(image.shape, affine, 1.0)
    place = np.linalg.inv(affine) @ fine
    fa = ndimage.affine_transform(
        image, place[:3, :3], place[:3, 3], output_shape=SHAPE, order=1
    ).astype(np.float32)
    brain = ndimage.binary_fill_holes(ndimage.binary_closing(fa > 0.05, iterations=3))
    return fa, brain, fine


def simulate(folder: Path, numbers: Sequence[int]) -> None:
    """Write the maps of some people."""
    fa, brain, affine = anatomy()
    rng = np.random.default_rng([7, numbers[0]])
    noise = ndimage.gaussian_filter(rng.standard_normal(SHAPE, dtype=np.float32), 0.8)
    noise *= 0.03 / noise.std()
    grid = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij")).astype(np.float32)
    for k in numbers:
        if k % max(1, len(numbers) // N_SHAPES) == 0 or k == numbers[0]:
            wave = rng.uniform(0.02, 0.05, (3, 3)) @ grid.reshape(3, -1)  # (3, n) radians
            moved = grid + 3 * np.sin(wave).reshape(3, *SHAPE).astype(np.float32)
            shaped = ndimage.map_coordinates(fa, moved, order=1) + 0.08 * brain
        own = np.roll(noise, tuple(rng.integers(0, SHAPE)), axis=(0, 1, 2)) * rng.uniform(0.8, 1.2)
        image = np.where(brain, np.clip(shaped + own, 1e-3, 1), 0).astype(np.float32)
        write_nifti(folder / f"{k:04d}.nii.gz", image, affine)


def drop_from_memory(files: Sequence[Path]) -> None:
    """Let the next reading come from the disk."""
    for path in files:
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def seconds_of(action: Callable[[], object]) -> float:
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def read_through(files: Sequence[Path]) -> int:
    """Read files from end to end in large steps, by the threads of the store; their bytes."""
    buffers: SimpleQueue[bytearray] = SimpleQueue()
    for _ in range(N_THREADS):
        buffers.put(bytearray(8 * 2**20))

    def read(path: Path) -> int:
        buffer, total = buffers.get(), 0
        with open(path, "rb", buffering=0) as file:
            while n := file.readinto(buffer):
                total += n
        buffers.put(buffer)
        return total

    return sum(map_ahead(read, files))


def codecs(rows: NDArray[np.float16]) -> list[dict[str, str]]:
    """Bytes and time a map by each way to compress one, in one thread."""
    found = []
    for dtype, maps in (
        ("float16", rows),
        ("uint8", np.rint(rows.astype(np.float32) * 255).astype(np.uint8)),
    ):
        ways: dict[str, tuple[Callable[[Any], bytes], Callable[[Any, Any], Any]]] = {
            "none": (bytes, lambda packed, out: out.__setitem__(slice(None), packed)),
            "zstd 1": (lambda row: zstd.compress(row, 1), zstd.decompress),
            "LZ4 of shuffled bits": (
                lambda row: blosc.compress(row, b"lz4", 1, blosc.BITSHUFFLE, 0),
                blosc.decompress,
            ),
            "zstd 1 of shuffled bytes (the store's)": (
                lambda row: pack_row(row)[:-4],
                blosc.decompress,
            ),
        }
        with ThreadPoolExecutor(1) as thread:  # where Blosc uses one, too
            for name, (pack, unpack) in ways.items():
                write, read, n_bytes = [], [], 0
                for row in maps:
                    started = time.perf_counter()
                    packed = thread.submit(pack, row).result()
                    write.append(time.perf_counter() - started)
                    n_bytes += len(packed)
                    stored = np.frombuffer(packed, dtype=maps.dtype) if name == "none" else packed
                    out = np.zeros_like(row)
                    started = time.perf_counter()
                    thread.submit(unpack, stored, out).result()
                    read.append(time.perf_counter() - started)
                    assert np.array_equal(out, row), name
                found.append(
                    {
                        "values": dtype,
                        "compressed by": name,
                        "MB a map": f"{n_bytes / len(maps) / 1e6:.2f}",
                        "ms to pack": f"{1e3 * statistics.median(write):.1f}",
                        "ms to unpack": f"{1e3 * statistics.median(read):.1f}",
                    }
                )
    return found


def maps_a_second(
    read: Callable[[NDArray[np.int64]], object],
    files: Callable[[NDArray[np.int64]], Sequence[Path]],
    n_people: int,
    n_batches: int = N_BATCHES,
) -> dict[str, float]:
    """Median of maps a second in random batches, from the disk and from memory."""
    found = {}
    for state in ("disk", "memory"):
        rng, seconds = np.random.default_rng(3), []
        for _ in range(n_batches):
            batch = rng.choice(n_people, BATCH, replace=False)
            if state == "disk":
                drop_from_memory(files(batch))
            else:
                read(batch)
            seconds.append(seconds_of(lambda batch=batch: read(batch)))
        found[state] = BATCH / statistics.median(seconds)
    return found


def batches(
    paths: Sequence[Path], stores: dict[str, Path], brain: NDArray[np.bool_]
) -> tuple[list[dict[str, str]], float]:
    """Maps a second of each way to read random batches, and our ratio to NIfTI, at its worst."""

    def by_nibabel(k: int) -> Image:
        image: Any = nib.load(paths[k])
        return np.asarray(image.dataobj, dtype=np.float32)[brain]

    def by_axoloci(k: int) -> Image:
        return read_nifti(paths[k], ndim=3)[0][brain]

    def each(read: Callable[[int], Image], n_threads: int) -> Callable[[Any], Image]:
        def batch(index: Any) -> Image:
            with ThreadPoolExecutor(n_threads) as threads:
                return np.stack(list(threads.map(read, index)))

        return batch

    n, found = len(paths), {}
    cores = len(os.sched_getaffinity(0))
    for name, read in (
        ("NIfTI, nibabel, one thread", each(by_nibabel, 1)),
        (f"NIfTI, nibabel, {cores} threads", each(by_nibabel, cores)),
        (f"NIfTI, axoloci's reader, {cores} threads", each(by_axoloci, cores)),
    ):
        found[name] = maps_a_second(
            read, lambda index: [paths[k] for k in index], n, N_NIFTI_BATCHES
        )
    for dtype, path in stores.items():
        cohort, files = read_cohort(path), shards(path)
        maps: Any = zarr.open_group(path, mode="r")["fa"]
        if dtype == "float16":

            def rows_of_zarr(index: Any, maps: Any = maps) -> Image:
                return np.stack([maps[k] for k in index]).astype(np.float32)

            found["store of float16, zarr-python, row by row"] = maps_a_second(
                rows_of_zarr, lambda _, files=files: files, n
            )
        for wanted in ("float32", "float16"):
            buffer = np.empty((BATCH, cohort.n_voxels), dtype=wanted)
            found[f"**store of {dtype}, as {wanted}**"] = maps_a_second(
                lambda index, cohort=cohort, out=buffer: cohort.rows(index, out=out),
                lambda _, files=files: files,
                n,
            )
    peer = found["NIfTI, nibabel, one thread"]
    ours = found["**store of float16, as float32**"]
    rows = [
        {
            "random batches of 16": name,
            "maps/s, cold": f"{speed['disk']:.1f}",
            "ratio": f"{speed['disk'] / peer['disk']:.1f}",
            "maps/s, warm": f"{speed['memory']:.1f}",
            "ratio ": f"{speed['memory'] / peer['memory']:.1f}",
        }
        for name, speed in found.items()
    ]
    return rows, min(ours[state] / peer[state] for state in ours)


def shards(path: Path) -> list[Path]:
    return sorted(file for file in (path / "fa" / "c").rglob("*") if file.is_file())


def limits(path: Path) -> list[dict[str, str]]:
    """What reading a store through takes beside the disk and the memory."""
    cohort, files = read_cohort(path), shards(path)
    n_bytes = sum(file.stat().st_size for file in files)
    order = np.random.default_rng(5).permutation(cohort.n_samples)
    index = [order[k : k + BATCH] for k in range(0, len(order), BATCH)]
    buffers = [np.empty((BATCH, cohort.n_voxels), dtype=np.float16) for _ in range(3)]

    def read(numbered: tuple[int, NDArray[np.int64]]) -> None:
        number, rows = numbered
        cohort.rows(rows, out=buffers[number % len(buffers)][: len(rows)])

    def epoch() -> None:
        for _ in map_ahead(read, enumerate(index), n_threads=1, n_ahead=2):
            pass

    found = []
    for state in ("cold", "warm"):
        seconds: dict[str, list[float]] = {"through": [], "epoch": []}
        for _ in range(N_EPOCHS):
            for what, action in (("through", lambda: read_through(files)), ("epoch", epoch)):
                drop_from_memory(files) if state == "cold" else action()
                seconds[what].append(seconds_of(action))
        floor, ours = (statistics.median(each) for each in seconds.values())
        found.append(
            {
                "files": state,
                f"read through by {N_THREADS} threads, MB/s": f"{n_bytes / floor / 1e6:.0f}",
                "one epoch in random order, MB/s": f"{n_bytes / ours / 1e6:.0f}",
                "maps/s": f"{cohort.n_samples / ours:.0f}",
                "share of the limit": f"{floor / ours:.0%}",
            }
        )
    return found


def write_table(folder: Path, paths: Sequence[Path]) -> None:
    """Write the table of the maps that `command` packs."""
    lines = ["sample_id\tpath", *(f"{path.name[:4]}\t{path.name}" for path in paths)]
    (folder / "maps.tsv").write_text("\n".join(lines) + "\n")


def append(
    folder: Path, paths: Sequence[Path], packed_anew: float, expected: dict[str, bytes]
) -> tuple[list[dict[str, str]], str]:
    """How fast people join a store, beside other ways, and the share of the limit.

    Parameters
    ----------
    paths
        Of all maps; the last ones, a share of `ADDED`, are new.
    packed_anew
        Seconds that packing all of them took.
    expected
        Content of that store.
    """
    out, n_older = folder / "appended.zarr", round(len(paths) * (1 - ADDED))
    added = paths[n_older:]
    write_table(folder, paths[:n_older])
    measure(command(folder, out, "float16"), N_THREADS)
    write_table(folder, paths)
    needed = [*paths, *shards(out)]
    drop_from_memory(needed)
    floor = seconds_of(lambda: read_through(needed))
    drop_from_memory(needed)
    appended = measure(command(folder, out, "float16"), N_THREADS).seconds
    assert contents(out) == expected
    seconds = {
        "all packed anew": packed_anew,
        "**added to the store of the others**": appended,
        "written as NIfTI files by nibabel, one thread": len(added) * time_of_writing(added[:5]),
    }
    rows = [
        {
            f"{len(added)} people join {n_older}": name,
            "s": f"{took:.1f}",
            "people added a second": f"{len(added) / took:.2f}",
            "ratio": f"{packed_anew / took:.1f}",
        }
        for name, took in seconds.items()
    ]
    return rows, f"{floor:.1f} s, {floor / appended:.0%} of the time"


def time_of_writing(paths: Sequence[Path]) -> float:
    """Median seconds in which nibabel writes a map that is in memory."""
    seconds = []
    for path in paths:
        image = nib.Nifti1Image(*read_nifti(path, ndim=3))
        copy = path.with_name("copy.nii.gz")
        seconds.append(seconds_of(lambda image=image, copy=copy: nib.save(image, copy)))
        copy.unlink()
    return statistics.median(seconds)


def command(folder: Path, out: Path, dtype: str) -> list[str]:
    inputs = ["--maps", str(folder / "maps.tsv"), "--mask", str(folder / "brain.nii.gz")]
    program = str(Path(sys.executable).parent / "axoloci-normalize")
    return [program, "store", *inputs, "--dtype", dtype, "--out", str(out)]


def kill(packing: Sequence[str], out: Path, n_shards: int) -> list[Path]:
    """Start a packing and end it by kill -9 after so many shards; the whole ones."""
    partial = out.with_name(f".{out.name}.partial")
    with subprocess.Popen(packing, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None and len(list(partial.glob("whole/[0-9]*.json"))) < n_shards:
            time.sleep(0.01)
        time.sleep(1)  # the next one is under way
        process.send_signal(signal.SIGKILL)
    return [partial / f"store/fa/c/{path.stem}/0" for path in partial.glob("whole/[0-9]*.json")]


def after_kill(folder: Path, expected: dict[str, bytes]) -> str:
    """What a killed packing keeps."""
    out = folder / "killed.zarr"
    packing = command(folder, out, "float16")
    whole = kill(packing, out, 3)
    before = {path.parent.name: path.stat() for path in whole}
    seconds = measure(packing, N_THREADS).seconds
    for shard, status in before.items():
        now = (out / "fa" / "c" / shard / "0").stat()
        assert (now.st_ino, now.st_mtime_ns) == (status.st_ino, status.st_mtime_ns)
    assert contents(out) == expected
    return (
        f"Killed by kill -9 after {len(before)} of {len(shards(out))} shards, the same command took"
        f" {seconds:.0f} s more: it kept those (same inode and time of change), and the store is"
        " byte for byte the one that was never interrupted.\n"
    )


def main() -> None:
    """Simulate, pack, read, kill, write the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--people", type=int, default=500)
    n_people = parser.parse_args().people
    load = os.getloadavg()[0]
    _, brain, affine = anatomy()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_nifti(folder / "brain.nii.gz", brain.astype(np.uint8), affine)
        with ProcessPoolExecutor(2) as processes:
            halves = [list(range(k, n_people, 2)) for k in range(2)]
            list(processes.map(simulate, [folder] * 2, halves))
        paths = [folder / f"{k:04d}.nii.gz" for k in range(n_people)]
        write_table(folder, paths)

        stores, packed, seconds = {}, [], {}
        for dtype in ("float16", "uint8"):
            stores[dtype] = folder / f"{dtype}.zarr"
            drop_from_memory(paths)
            took = measure(command(folder, stores[dtype], dtype), N_THREADS)
            seconds[dtype] = took.seconds
            cohort = read_cohort(stores[dtype])
            checked = seconds_of(lambda cohort=cohort: check_cohort(cohort))
            n_bytes = sum(path.stat().st_size for path in shards(stores[dtype]))
            packed.append(store_row(cohort, n_bytes, took.seconds, took.peak_gb, checked))
        one = [time_of_nibabel(paths[k], brain) for k in range(0, n_people, max(1, n_people // 10))]
        float16 = read_cohort(stores["float16"])
        sample = float16.rows(range(0, n_people, max(1, n_people // 20)), dtype=np.float16)
        compressed = codecs(sample)
        speeds, ratio = batches(paths, stores, brain)
        floor = limits(stores["float16"])
        whole = contents(stores["float16"])
        joined, limit_of_joining = append(folder, paths, seconds["float16"], whole)
        killed = after_kill(folder, whole)
        nifti = sum(path.stat().st_size for path in paths) / n_people
        header = (stores["float16"] / "zarr.json").stat().st_size / n_people
        n_voxels, per_shard = float16.n_voxels, 128 * 2**20 // (2 * float16.n_voxels)
        mb = sum(path.stat().st_size for path in shards(stores["float16"])) / n_people / 1e6
    assert ratio >= MIN_RATIO, ratio  # a figure that is written down is one that holds
    write_result(
        "store",
        "The cohort store beside NIfTI files",
        f"{n_people} simulated FA maps of {' x '.join(map(str, SHAPE))} voxels, {n_voxels:,} in the"
        f" mask; a NIfTI file has {nifti / 1e6:.1f} MB. The load average by other"
        f" work was {load:.1f} when this began; times are those beside it.\n\n"
        + markdown_table(packed)
        + "\nPacking is `axoloci-normalize store --mask` from cold files, checksums of the files"
        f" included; nibabel alone reads a file in {statistics.median(one):.2f} s, one thread."
        f" The check is that of `axoloci-normalize check-store`.\n\n## Batches\n\n"
        + markdown_table(speeds)
        + f"\nMedians of {N_BATCHES} batches ({N_NIFTI_BATCHES} of NIfTI files), ratios to nibabel"
        f" in one thread; the store's rows are read by {N_THREADS} threads, the checksums compared."
        " Cold: out of the page cache, in memory of the disk's host perhaps. Asked for: at least"
        f" {MIN_RATIO:g} times nibabel; found: {ratio:.1f}.\n\n## The limit\n\n"
        + markdown_table(floor)
        + "\nBatches read ahead, float16 into buffers that are used again; the limit is the shards"
        f" read through by as many threads, {N_THREADS}, in steps of 8 MiB. Medians of {N_EPOCHS}"
        " readings, taken in turns.\n\n## Compression\n\n"
        + markdown_table(compressed)
        + f"\nMedians of {len(sample)} maps, one thread.\n\n## More people\n\n"
        + markdown_table(joined)
        + "\n`axoloci-normalize store` from cold files, for a store that is there already: the maps"
        " that it holds are known by the SHA-256 of their files, compared with their digests and"
        " taken as they are stored; the store is byte for byte the one that is packed anew."
        " nibabel's time is that of maps in memory. The limit, all files and the older shards read"
        f" through once by {N_THREADS} threads: "
        f"{limit_of_joining}.\n\n## kill -9\n\n{killed}" + f"\n## {PEOPLE:,} people, on paper\n\n"
        f"{PEOPLE * mb / 1e6:.2f} TB in {-(-PEOPLE // per_shard):,} files of {per_shard} people as"
        f" float16, and {PEOPLE * header / 1e6:.0f} MB of ids, digests and sources; as NIfTI files"
        f" {PEOPLE * nifti / 1e12:.2f} TB in {PEOPLE:,}.\n",
    )


def time_of_nibabel(path: Path, brain: NDArray[np.bool_]) -> float:
    def read() -> None:
        image: Any = nib.load(path)
        np.asarray(image.dataobj, dtype=np.float32)[brain]

    return seconds_of(read)


def store_row(
    cohort: Cohort, n_bytes: int, seconds: float, peak_gb: float, checked: float
) -> dict[str, str]:
    n = cohort.n_samples
    return {
        "store of": str(cohort.dtype),
        "MB a map": f"{n_bytes / n / 1e6:.2f}",
        "bytes a voxel": f"{n_bytes / n / cohort.n_voxels:.2f}",
        "largest error": f"{cohort.max_error:.1e}",
        "packing, s": f"{seconds:.0f}",
        "maps/s": f"{n / seconds:.1f}",
        "peak GB": f"{peak_gb:.2f}",
        "check, maps/s": f"{n / checked:.0f}",
    }


if __name__ == "__main__":
    main()

"""Training and encoding by the autoencoder, in volumes a second, beside plain eager float32.

The peer is the network as anyone would write it: PyTorch's own layers on the whole grid, float32,
one volume after the other in memory (not channels last), batch norm by itself. axoloci runs the
same network (the published one, with fewer channels where the grid is coarse), and its default one.
Each is run in a process of its own, all in turn, several times.

The limit is the device's: floating-point operations of the convolutions, counted by PyTorch, over
those that one large product of matrices reaches here in the same precision. On a GPU the grid is
that of 1 mm (182×218×182); `--voxels 1` asks for it on a CPU.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.flop_counter import FlopCounterMode

from axoloci.io.packing import write_cohort
from axoloci.tasks.encoder.kernel import UDIP_FA, Autoencoder, Config, Training, channels_for
from axoloci.tasks.encoder.representation import zscore
from benchmarks.results_file import markdown_table, write_result

ROUNDS = 3
N_LATENTS = 128
GRIDS = {1.0: (182, 218, 182), 2.0: (91, 109, 91)}  # by voxel size, mm
BATCH = {"cpu": 4, "cuda": 36}
STEPS = {"cpu": 3, "cuda": 20}
N_PEOPLE = 40  # in the store whose reading is timed
PLAIN = "plain eager float32, published network"
VARIANTS = {
    PLAIN: (UDIP_FA, "float32"),
    "axoloci, published network, float32": (UDIP_FA, "float32"),
    "axoloci, published network, bfloat16": (UDIP_FA, "bfloat16"),
    "axoloci, default network, float32": (Config(), "float32"),
    "axoloci, default network, bfloat16": (Config(), "bfloat16"),
}


def brain(shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """An ellipsoid as large as a brain in its field of view: a quarter of the voxels."""
    grid = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij", sparse=True)
    return np.asarray(sum(axis**2 for axis in grid) < 0.78**2)


def network(variant: str, shape: tuple[int, ...]) -> Autoencoder:
    """The network of a variant, with random weights."""
    config, precision = VARIANTS[variant]
    config = replace(config, n_latents=N_LATENTS, channels=channels_for(shape), precision=precision)
    torch.manual_seed(0)
    return Autoencoder(config, brain(shape))


def timed(work: Callable[[], object], n: int, device: str) -> float:
    """Seconds of one of n runs, in the median, after one that is not counted."""
    seconds = []
    for _ in range(n + 1):
        start = time.perf_counter()
        work()
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:])


def fastest_product(device: str, precision: str) -> float:
    """Floating-point operations a second of a large product of matrices."""
    n = 16384 if device == "cuda" else 4096
    kind = torch.bfloat16 if precision == "bfloat16" else torch.float32
    a, b = (torch.randn(n, n, device=device, dtype=kind) for _ in range(2))
    return 2 * n**3 / timed(lambda: a @ b, 5, device)


def operations(work: Callable[[], object]) -> float:
    """Floating-point operations, as PyTorch counts those of products and convolutions."""
    with FlopCounterMode(display=False) as counter:
        work()
    return float(counter.get_total_flops())


def run(variant: str, shape: tuple[int, ...], device: str) -> dict[str, float]:
    """Measure one variant: volumes a second, memory, and the share of the device's limit."""
    torch.backends.cudnn.benchmark = True
    model = network(variant, shape)
    plain = variant == PLAIN
    model = model.to(device) if plain else model.on(device)
    model.train()
    n = BATCH[device]
    rows = np.random.default_rng(0).standard_normal((n, int(model.voxels.numel())))
    maps = torch.from_numpy(rows.astype(np.float32)).to(device)
    x = model.volumes(zscore(maps)[0])
    optimizer = torch.optim.Adam(model.parameters(), fused=not plain)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        inside = model.inside
        squared = (x - model(x)).square() * inside
        (squared.sum() / (inside.sum() * n)).backward()
        optimizer.step()

    training = timed(step, STEPS[device], device)
    train_operations = operations(step)
    model.eval()
    encoder = model if plain else model.folded()

    @torch.inference_mode()
    def encode() -> None:
        encoder.encode(x)

    encoding = timed(encode, STEPS[device], device)
    limit = fastest_product(device, VARIANTS[variant][1])
    if device == "cuda":
        memory = torch.cuda.max_memory_allocated() / 1e9
    else:
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    return {
        "train": n / training,
        "encode": n / encoding,
        "memory": memory,
        "train_share": train_operations / training / limit,
        "encode_share": operations(encode) / encoding / limit,
        "gflop": train_operations / n / 1e9,
        "limit": limit / 1e9,
    }


def waiting(shape: tuple[int, ...], device: str) -> tuple[float, float]:
    """Share of a training's time in which it waits for maps of a store, and seconds an epoch."""
    mask = brain(shape)
    rng = np.random.default_rng(0)
    mean = rng.random(int(mask.sum()))
    rows = 0.4 + 0.2 * mean + 0.05 * rng.standard_normal((N_PEOPLE, len(mean)))
    ids = [f"{k:04d}" for k in range(N_PEOPLE)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "cohort.zarr")
        write_cohort(path, ids, rows.__getitem__, mask, np.eye(4))
        from axoloci.io.cohort import read_cohort

        cohort = read_cohort(path)
        config = Config(n_latents=N_LATENTS, batch_size=min(BATCH[device], N_PEOPLE // 2))
        training = Training(cohort.rows, np.arange(N_PEOPLE), mask, config, device)
        before, start = training.seconds_waiting, time.perf_counter()
        training.run_epoch()
        seconds = time.perf_counter() - start
    return (training.seconds_waiting - before) / seconds, seconds


def main() -> None:
    """Measure all variants in turn and write results/encoder.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--voxels", type=float, choices=sorted(GRIDS), help="voxel size, mm")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    given = parser.parse_args([] if sys.argv[0].endswith("__main__.py") else None)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    voxels = given.voxels or (1.0 if device == "cuda" else 2.0)
    shape = GRIDS[voxels]
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    if given.one:
        print(json.dumps(run(given.one, shape, device)))
        return
    measured: dict[str, list[dict[str, float]]] = {variant: [] for variant in VARIANTS}
    for _ in range(ROUNDS):
        for variant, runs in measured.items():
            command = [sys.executable, "-m", "benchmarks.encoder", "--one", variant]
            command += ["--voxels", str(voxels)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            runs.append(json.loads(done.stdout.splitlines()[-1]))
            print(variant, runs[-1], file=sys.stderr)
    middle = {
        variant: {key: statistics.median(r[key] for r in runs) for key in runs[0]}
        for variant, runs in measured.items()
    }
    plain = middle[PLAIN]
    rows: list[dict[str, Any]] = [
        {
            "network": variant,
            "training, volumes/s": f"{m['train']:.2f}",
            "÷ plain": f"{m['train'] / plain['train']:.2f}",
            "share of the limit": f"{m['train_share']:.0%}",
            "encoding, volumes/s": f"{m['encode']:.1f}",
            "÷ plain ": f"{m['encode'] / plain['encode']:.2f}",
            "share of the limit ": f"{m['encode_share']:.0%}",
            "peak GB": f"{m['memory']:.1f}",
            "GFLOP a volume, training": f"{m['gflop']:.0f}",
            "limit, GFLOP/s": f"{m['limit']:.0f}",
        }
        for variant, m in middle.items()
    ]
    share, seconds = waiting(shape, device)
    name = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    tf32 = torch.backends.cuda.matmul.allow_tf32 or torch.backends.cudnn.allow_tf32
    write_result(
        "encoder_gpu" if device == "cuda" else "encoder",
        "Training and encoding by the autoencoder",
        f"{name}, {torch.get_num_threads()} threads; PyTorch {torch.__version__}"
        f"{f', allow_tf32 {tf32}' if device == 'cuda' else ''}. Grid {'×'.join(map(str, shape))}, "
        f"{brain(shape).mean():.0%} of it in the mask, batches of {BATCH[device]}, "
        f"{N_LATENTS} latents, channels {', '.join(map(str, channels_for(shape)))}. Median of "
        f"{ROUNDS} processes, taking turns; each the median of {STEPS[device]} steps. The limit is "
        "a large product of matrices in the same precision, on the same threads. Peak memory is of "
        "the whole process, PyTorch's own half a GB with it.\n\n"
        + markdown_table(rows)
        + f"\nAn epoch of the default network over {N_PEOPLE} people of a cohort store took "
        f"{seconds:.1f} s, and {share:.1%} of it went by waiting for maps.\n",
    )


if __name__ == "__main__":
    main()

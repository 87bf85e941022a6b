"""How many traits memory holds at once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from axoloci.errors import InputError
from axoloci.memory import free_memory
from axoloci.tasks.gwas import kernel

HOST_SHARE = 0.5  # of the free memory that models and results take together
HOST_BYTES = 48  # of memory a trait value takes while its model is fitted and put to use
HOST_RESULT_BYTES = 24  # a result, waiting to be written; all of them twice in float64
GPU_SHARE = 0.4  # of a GPU's free memory; blocks take `kernel.GPU_SHARE`
SLACK = 1.25  # groups that are this much larger still fit: what is free changes from run to run
FEWEST = 16  # traits of a group: below, reading the genotypes again and again is no use
GPU_BYTES = {"float32": 12, "float64": 16}  # of which 8 are the exact value


def traits_at_once(
    n_samples: int,
    n_traits: int,
    devices: Sequence[str],
    n_threads: int,
    precision: kernel.Precision | None,
) -> int:
    """Most traits for which there is memory now, on this machine and each of its GPUs.

    Parameters
    ----------
    n_samples, n_traits
        People; traits in all.
    devices, n_threads, precision
        As in `kernel.associate`.

    Raises
    ------
    InputError
        There is memory for so few that a run would hardly end.
    """
    free = free_memory()
    gpus = [device for device in devices if device.startswith("cuda")]
    free_of_gpus = []
    if gpus:
        import torch

        free_of_gpus = [int(torch.cuda.mem_get_info(gpu)[0]) for gpu in gpus]
    block = min(kernel.block_variants(device, n_samples, 0) for device in devices)
    n_results = block * kernel.blocks_at_once(devices, n_threads)
    precision = precision or kernel.default_precision(n_samples)
    most = fitting_traits(n_samples, n_results, precision, free, free_of_gpus)
    if most < min(FEWEST, n_traits):
        there = zip(("memory", *gpus), (free, *free_of_gpus), strict=True)
        raise InputError(
            f"of {n_traits} traits of {n_samples} people, so little memory holds {most} at once ("
            f"{', '.join(f'{name}: {n / 1e9:.1f} GB free' for name, n in there)}); free some, or "
            "say by --traits-at-once how many to try"
        )
    return most


def fitting_traits(
    n_samples: int, n_results: int, precision: str, free: int, free_of_gpus: Sequence[int]
) -> int:
    """Most traits for which there is memory; at least one.

    Parameters
    ----------
    n_samples
        People.
    n_results
        Variants in work at once.
    precision
        Of the arithmetic.
    free, free_of_gpus
        Bytes, of the machine and of each GPU.
    """
    of_result = HOST_RESULT_BYTES * np.dtype(precision).itemsize // 4
    of_trait = HOST_BYTES * n_samples + of_result * n_results
    most = [HOST_SHARE * free / of_trait]
    most += [GPU_SHARE * gpu / (GPU_BYTES[precision] * n_samples) for gpu in free_of_gpus]
    return max(1, int(min(most)))

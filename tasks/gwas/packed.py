"""Genotypes of a `.bed` from two bits a person to numbers."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from axoloci.io.genotypes import MISSING, PackedCalls
from axoloci.tasks.gwas.compiled import compiled

# copies of allele 1 by the two bits of a person, and of the four people of a byte
_CALL = np.array([2, MISSING, 1, 0], dtype=np.int8)
_CALLS = np.stack([_CALL[(np.arange(256) >> shift) & 3] for shift in (0, 2, 4, 6)], axis=1)
_CALLS_AT_ONCE = np.ascontiguousarray(_CALLS).view(np.int32)[:, 0]


def unpack(block: PackedCalls) -> NDArray[np.int8]:
    """Read and unpack a block.

    Returns
    -------
    int8, (n_variants, n)
        Copies of allele 1 of the people of `sample_index`, or of everyone; `MISSING` without a
        genotype.
    """
    packed, index = block.read(), block.sample_index
    if index is not None and 4 * len(index) < block.n_samples:
        few = np.empty((len(packed), len(index)), dtype=np.int8)
        _unpack_some(packed, index, _CALL, few)
        return few
    quads = np.empty(packed.shape, dtype=np.int32)
    _unpack_all(packed, _CALLS_AT_ONCE, quads)
    calls = quads.view(np.int8)
    if index is None:
        return np.ascontiguousarray(calls[:, : block.n_samples])
    return np.take(calls, index, axis=1)


@compiled
def _unpack_all(
    packed: NDArray[np.uint8], calls: NDArray[np.int32], quads: NDArray[np.int32]
) -> None:
    n_variants, n_bytes = packed.shape
    for v in range(n_variants):
        for i in range(n_bytes):
            quads[v, i] = calls[packed[v, i]]


@compiled
def _unpack_some(
    packed: NDArray[np.uint8],
    index: NDArray[np.int64],
    call: NDArray[np.int8],
    few: NDArray[np.int8],
) -> None:
    n_variants, n = few.shape
    for v in range(n_variants):
        for i in range(n):
            few[v, i] = call[(packed[v, index[i] >> 2] >> (2 * (index[i] & 3))) & 3]

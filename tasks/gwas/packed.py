"""Genotypes of a `.bed` as they are, two bits a person: 0 two, 2 one, 3 no copies of allele 1.

Numbers would take 4 or 16 times the memory traffic.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from axoloci.io.genotypes import PackedCalls
from axoloci.tasks.gwas.compiled import compiled
from axoloci.tasks.gwas.variant_qc import moments_of_calls

_COPIES = np.array([2, -1, 1, 0], dtype=np.int8)  # by the two bits; negative where missing
_FIELD = 21  # bits of a count, three of which are a number
_AT_ONCE = 2**_FIELD // 4 - 1  # bytes whose people such a count can hold
_COUNTS = sum(
    (((np.arange(256) >> shift) & 3) == code).astype(np.int64) << place * _FIELD
    for shift in (0, 2, 4, 6)
    for place, code in enumerate((1, 2, 0))
)
"""Of the four people of a byte: how many lack a genotype, have one copy, have two."""


def read_calls(block: PackedCalls) -> NDArray[np.uint8]:
    """Read a block, of the people who are meant.

    Returns
    -------
    uint8, (n_variants, ⌈n / 4⌉)
        Two bits a person of `sample_index`, or everyone, the first in the lowest; no copies in what
        is left of the last byte.
    """
    packed, index = block.read(), block.sample_index
    n = block.n_samples if index is None else len(index)
    if index is not None:
        found = np.empty((len(packed), -(-n // 4)), dtype=np.uint8)
        _pick(packed, np.append(index, np.zeros(-n % 4, dtype=np.int64)), found)  # whole bytes
        packed = found
    if n % 4:
        packed[:, -1] |= np.uint8(0xFF << 2 * (n % 4) & 0xFF)
    return packed


@compiled
def _pick(packed: NDArray[np.uint8], index: NDArray[np.int64], found: NDArray[np.uint8]) -> None:
    for v in range(len(packed)):
        row = packed[v]
        for i in range(found.shape[1]):
            byte = 0
            for k in range(4):
                person = index[4 * i + k]
                byte |= ((row[person >> 2] >> (2 * (person & 3))) & 3) << (2 * k)
            found[v, i] = byte


def summarize(packed: NDArray[np.uint8], n_samples: int) -> NDArray[np.float64]:
    """As `variant_qc.summarize`.

    Parameters
    ----------
    packed
        From `read_calls`.
    n_samples
        People in it.
    """
    counts = np.zeros((3, len(packed)), dtype=np.int64)
    _count(packed, _COUNTS, counts)
    return moments_of_calls(n_samples, *counts)


@compiled
def _count(packed: NDArray[np.uint8], table: NDArray[np.int64], counts: NDArray[np.int64]) -> None:
    """Write how many people of each variant lack a genotype, have one copy, have two."""
    for v in range(len(packed)):
        row = packed[v]
        for start in range(0, len(row), _AT_ONCE):
            total = 0
            for byte in row[start : start + _AT_ONCE]:
                total += table[byte]
            for place in range(3):
                counts[place, v] += total >> place * _FIELD & (1 << _FIELD) - 1


@compiled
def centre(
    packed: NDArray[np.uint8],
    middle: NDArray[np.float64],
    centred: NDArray[Any],
    sums: NDArray[np.float64],
) -> None:
    """Write the copies less `middle` of each variant, 0 where missing.

    Parameters
    ----------
    packed
        From `read_calls`.
    middle : (n_variants,)
        What is subtracted.
    centred : (n_variants, n_samples), written
        Any float.
    sums
        From `complete_case.centred_sums`, which are exact of whole numbers and stay.
    """
    n_variants, n_samples = centred.shape
    pairs = np.empty((16, 2), dtype=centred.dtype)  # two people by their four bits
    for v in range(n_variants):
        row, out = packed[v], centred[v]
        for code in range(16):
            for k in range(2):
                copies = _COPIES[code >> 2 * k & 3]
                pairs[code, k] = copies - middle[v] if copies >= 0 else 0.0
        for i in range(n_samples // 4):
            low, high = pairs[row[i] & 15], pairs[row[i] >> 4]
            # all are read before the first is written, so that they are written at once
            first, second, third, fourth = low[0], low[1], high[0], high[1]
            out[4 * i], out[4 * i + 1] = first, second
            out[4 * i + 2], out[4 * i + 3] = third, fourth
        for i in range(n_samples - n_samples % 4, n_samples):
            out[i] = pairs[row[-1] >> (2 * (i & 3)) & 3, 0]


@compiled
def centre_some(
    packed: NDArray[np.uint8],
    people: NDArray[np.int64],
    middle: NDArray[np.float64],
    centred: NDArray[Any],
    sums: NDArray[np.float64],
) -> None:
    """As `centre` of some people, with how many are missing, sum and sum of squares of these."""
    for v in range(len(packed)):
        row, n_missing, total, squares = packed[v], 0, 0.0, 0.0
        for place in range(len(people)):
            person = people[place]
            copies = _COPIES[row[person >> 2] >> (2 * (person & 3)) & 3]
            known = copies - middle[v] if copies >= 0 else 0.0
            n_missing += int(copies < 0)
            total += known
            squares += known * known
            centred[v, place] = known
        sums[v, 0], sums[v, 1], sums[v, 2] = n_missing, total, squares


@compiled
def find_missing(
    packed: NDArray[np.uint8], starts: NDArray[np.int64], missing: NDArray[np.int32]
) -> None:
    """Write who lacks a genotype of each variant.

    Parameters
    ----------
    packed
        From `read_calls`.
    starts : (n_variants + 1,)
        Where the people of each variant begin in `missing`, and where they end.
    missing, written
    """
    for v in range(len(packed)):
        row, m = packed[v], starts[v]
        for i in range(len(row) if starts[v + 1] > m else 0):
            lacking = row[i] & ~(row[i] >> 1) & 0x55
            if lacking:
                for k in range(4):
                    if lacking >> 2 * k & 1:
                        missing[m] = 4 * i + k
                        m += 1

"""Genotypes as numbers, (n_variants, n_samples), negative where missing; see `packed`."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from axoloci.tasks.gwas.compiled import compiled


@compiled
def centre(
    dosage: NDArray[Any],
    middle: NDArray[np.float64],
    centred: NDArray[Any],
    sums: NDArray[np.float64],
) -> None:
    """Write the counts less `middle`, and of fractions the sums; as `packed.centre`."""
    n_variants, n_samples = dosage.shape
    for v in range(n_variants):
        row, out = dosage[v], centred[v]
        none, shift = out.dtype.type(0), out.dtype.type(middle[v])
        for i in range(n_samples):
            out[i] = out.dtype.type(row[i]) - shift if row[i] >= 0 else none
        if dosage.itemsize > 1:
            total = squares = 0.0
            for i in range(n_samples):
                value = np.float64(out[i])
                total += value
                squares += value * value
            sums[v, 1], sums[v, 2] = total, squares


@compiled
def centre_some(
    dosage: NDArray[Any],
    people: NDArray[np.int64],
    middle: NDArray[np.float64],
    centred: NDArray[Any],
    sums: NDArray[np.float64],
) -> None:
    """As `packed.centre_some`."""
    for v in range(len(dosage)):
        n_missing, total, squares = 0, 0.0, 0.0
        for place in range(len(people)):
            value = np.float64(dosage[v, people[place]])
            known = value - middle[v] if value >= 0 else 0.0
            n_missing += int(value < 0)
            total += known
            squares += known * known
            centred[v, place] = known
        sums[v, 0], sums[v, 1], sums[v, 2] = n_missing, total, squares


@compiled
def find_missing(
    dosage: NDArray[Any], starts: NDArray[np.int64], missing: NDArray[np.int32]
) -> None:
    """As `packed.find_missing`."""
    for v in range(len(dosage)):
        row, m = dosage[v], starts[v]
        for i in range(len(row) if starts[v + 1] > m else 0):
            if row[i] < 0:
                missing[m] = i
                m += 1

"""Covariates of every kind as one matrix of numbers."""

from __future__ import annotations

import logging

import numpy as np
import pandas as pd
from numpy.typing import NDArray

log = logging.getLogger("axoloci")


def design_matrix(
    covariates: pd.DataFrame,
) -> tuple[NDArray[np.float64], list[str], dict[str, str]]:
    """Covariates as columns of numbers, with an intercept.

    Numbers stay as they are. Words become one indicator per level but the most frequent one, the
    reference (the first in sorted order among equals). Columns that are constant or a combination
    of those before them are left out.

    Parameters
    ----------
    covariates : pandas.DataFrame, (n_samples, any)
        Columns of float64, or of strings; no value missing.

    Returns
    -------
    (matrix, names, left_out)
        float64 (n_samples, n_covariates), intercept first; the names of its columns; why each
        column that was left out is.
    """
    columns: dict[str, NDArray[np.float64]] = {"intercept": np.ones(len(covariates))}
    for name, values in covariates.items():
        if values.dtype != object:
            columns[str(name)] = values.to_numpy(dtype=np.float64)
            continue
        counts = values.value_counts()
        levels = sorted(counts.index)
        reference = min(levels, key=lambda level: (-counts[level], level))
        log.info("covariate %s: %d levels, reference '%s'", name, len(levels), reference)
        for level in levels:
            if level != reference:
                columns[f"{name}={level}"] = (values == level).to_numpy(np.float64)

    kept: list[str] = []
    left_out: dict[str, str] = {}
    basis = np.empty((len(covariates), 0))  # orthonormal: what the kept columns span
    for name, column in columns.items():
        centred = column - column.mean() if kept else column
        length = np.linalg.norm(centred)
        constant = kept and length <= 1e-10 * np.linalg.norm(column)
        residual = centred
        for _ in range(2):  # twice: once loses digits where columns are nearly collinear
            residual = residual - basis @ (basis.T @ residual)
        if constant or np.linalg.norm(residual) <= 1e-7 * length:
            left_out[name] = "constant" if constant else f"a combination of {', '.join(kept)}"
            continue
        kept.append(name)
        basis = np.column_stack([basis, residual / np.linalg.norm(residual)])
    return np.column_stack([columns[name] for name in kept]), kept, left_out

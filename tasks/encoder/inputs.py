"""What the encoder's commands read: a cohort store whose damaged maps are left out, and people."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from axoloci.errors import InputError
from axoloci.io.cohort import Cohort, check_cohort, read_cohort
from axoloci.io.tables import read_table
from axoloci.tasks.encoder.representation import Rows

log = logging.getLogger("axoloci")


def sound_cohort(path: Path) -> Cohort:
    """A cohort store without the people whose stored maps are damaged, who are named.

    All maps are read once for it, which costs little beside what follows.
    """
    cohort = read_cohort(path)
    damaged = check_cohort(cohort)
    if len(damaged) == cohort.n_samples:
        raise InputError(f"{path}: all stored maps are damaged; store the cohort again")
    if damaged:
        log.warning(
            "%s: the stored maps of %d people are damaged, who are left out: %s; store the cohort "
            "again to have them back",
            *(path, len(damaged), ", ".join(damaged)),
        )
    return cohort.without(damaged)


def rows_of(cohort: Cohort) -> Rows:
    """Reader of maps that names a person whose map cannot be z-scored."""

    def rows(index: NDArray[np.int64]) -> NDArray[np.float32]:
        maps = cohort.rows(index)
        constant = np.ptp(maps, axis=1) == 0
        if constant.any():
            who = ", ".join(cohort.sample_id[row] for row in index[constant])
            raise InputError(
                f"{cohort.path}: the map of {who} has one value in the whole mask; leave it out"
            )
        return maps

    return rows


def chosen_device(device: str, threads: int | None) -> str:
    """The device to use; sets the number of threads."""
    if threads is not None:
        torch.set_num_threads(threads)
    available = torch.cuda.is_available()
    if device == "cuda" and not available:
        raise InputError("no GPU that CUDA can use; choose --device cpu")
    return "cuda" if available and device != "cpu" else "cpu"


def read_covariates(path: Path, cohort: Cohort) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Covariates of the people of a cohort.

    Returns
    -------
    (index, covariates)
        [int64, shape: (m,)] places in the cohort of the people that have all of them; [float64,
        shape: (m, p)] their values, without an intercept.

    Raises
    ------
    InputError
        Fewer than three people have all covariates.
    """
    table = read_table(path).dropna().reindex(cohort.sample_id)
    index = np.flatnonzero(table.notna().all(axis=1))
    if len(index) < 3:
        raise InputError(f"{path}: {len(index)} people of {cohort.path} have all its columns")
    # words become one indicator a level
    return index, pd.get_dummies(table.iloc[index], dtype=np.float64).to_numpy(dtype=np.float64)


def read_repeats(path: Path, cohort: Cohort) -> NDArray[np.int64]:
    """Pairs of sessions of one person: a table of sample_ids, with columns `first` and `second`.

    Returns
    -------
    [int64, shape: (m, 2)] Places in the cohort.

    Raises
    ------
    InputError
        No such columns, or a session that is not in the cohort.
    """
    table = pd.read_csv(path, sep="\t", dtype=str)
    if not {"first", "second"} <= set(table.columns):
        raise InputError(f"{path}: has no columns 'first' and 'second', tab-separated")
    place = {name: row for row, name in enumerate(cohort.sample_id)}
    pairs = table[["first", "second"]].to_numpy()
    for row, pair in enumerate(pairs, start=2):
        for name in pair:
            if name not in place:
                raise InputError(f"{path}: row {row}: '{name}' is not in {cohort.path}")
    return np.array([[place[name] for name in pair] for pair in pairs], dtype=np.int64)

"""What the encoder's commands read: a cohort less the maps of no use, tables of people."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from axoloci.command import progress, tally
from axoloci.errors import InputError
from axoloci.io.cohort import Cohort, check_cohort
from axoloci.io.tables import read_table
from axoloci.tasks.encoder.representation import Rows
from axoloci.tasks.encoder.seen import person_of

LONG_CHECK = 3.0  # seconds; the log tells of a check of maps that takes longer

log = logging.getLogger("axoloci")


def sound_cohort(cohort: Cohort) -> Cohort:
    """A cohort without the people whose stored maps cannot be used, who are named.

    All its maps are read once for it: give it only the people who are used.

    Raises
    ------
    InputError
        Nobody is left.
    """
    faulty = faulty_people(cohort)
    if len(faulty) == cohort.n_samples:
        raise InputError(f"{cohort.path}: no stored map can be used; store the cohort again")
    return cohort.without(faulty)


def draw_people(cohort: Cohort, n_people: int, seed: int) -> Cohort:
    """Some people of a cohort by chance, in the order of the draw; all where there are fewer.

    Only their maps are checked; others are drawn for those that cannot be used, who are named.

    Raises
    ------
    InputError
        Fewer than two are left.
    """
    rest = np.random.default_rng(seed).permutation(cohort.n_samples)
    drawn: list[int] = []
    while len(drawn) < n_people and len(rest):
        some, rest = np.split(rest, [n_people - len(drawn)])
        faulty = faulty_people(cohort.subset(some))
        drawn += [k for k in some.tolist() if cohort.sample_id[k] not in faulty]
    if len(drawn) < 2:
        raise InputError(
            f"{cohort.path}: the maps of {len(drawn)} people can be used, at least 2 are needed; "
            "store the cohort again, or take one of more people"
        )
    return cohort.subset(drawn)


def faulty_people(cohort: Cohort) -> frozenset[str]:
    """Whose stored maps are damaged or of one value; the log names them. All maps are read."""
    start = time.monotonic()
    faults = check_cohort(cohort, lambda checked, n_maps: progress(checked, "check", n_maps))
    seconds = time.monotonic() - start
    if seconds > LONG_CHECK:
        log.info("%s: %d maps were checked in %.0f s", cohort.path, cohort.n_samples, seconds)
    if faults.damaged:
        log.warning(
            "%s: the stored maps of %d people are damaged, who are left out: %s; store the cohort "
            "again to have them back",
            *(cohort.path, len(faults.damaged), ", ".join(faults.damaged)),
        )
    if faults.constant:
        log.warning(
            "%s: the maps of %d people have one value in the whole mask, who are left out: %s; "
            "look at their maps",
            *(cohort.path, len(faults.constant), ", ".join(faults.constant)),
        )
    return frozenset((*faults.damaged, *faults.constant))


def watched(cohort: Cohort, what: str) -> Rows:
    """The rows of a cohort; the log tells from time to time how many maps were read so far."""
    add = tally(f"{what}, {cohort.n_samples} people: maps read")

    def rows(index: NDArray[np.int64]) -> NDArray[np.float32]:
        maps = cohort.rows(index)
        add(len(index))
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


def read_covariates(path: Path, cohort: Cohort) -> pd.DataFrame:
    """Covariates of the maps of a cohort: those under their sample_id, or else their person's.

    Returns
    -------
    pandas.DataFrame
        (m, p) float64 without an intercept, indexed by sample_id, in the order of the cohort.

    Raises
    ------
    InputError
        Nobody of the cohort has all covariates.
    """
    table = read_table(path).dropna()
    rows = {name: name if name in table.index else person_of(name) for name in cohort.sample_id}
    known = [name for name, row in rows.items() if row in table.index]
    table = table.loc[[rows[name] for name in known]].set_axis(known)
    if table.empty:
        raise InputError(
            f"{path}: nobody of {cohort.path} has all its columns; are its ids those of the store, "
            f"such as '{cohort.sample_id[0]}'?"
        )
    return pd.get_dummies(table, dtype=np.float64).astype(np.float64)  # words: a column a level


def read_repeats(path: Path, known: Collection[str]) -> list[tuple[str, str]]:
    """Pairs of sessions of one person: a table of sample_ids, with columns `first` and `second`.

    Parameters
    ----------
    path
        The table, tab-separated.
    known
        Everybody who may be named.

    Raises
    ------
    InputError
        No such columns, a session that nobody knows, or one that is paired with itself.
    """
    table = pd.read_csv(path, sep="\t", dtype=str)
    if not {"first", "second"} <= set(table.columns):
        raise InputError(f"{path}: has no columns 'first' and 'second', tab-separated")
    pairs = list(zip(table["first"], table["second"], strict=True))
    for row, (first, second) in enumerate(pairs, start=2):
        for name in (first, second):
            if name not in known:
                raise InputError(
                    f"{path}: row {row}: '{name}' is neither in the cohort store nor among the "
                    "people of a model; correct it, or leave the row out"
                )
        if first == second:
            raise InputError(f"{path}: row {row}: '{first}' is paired with itself")
    return pairs

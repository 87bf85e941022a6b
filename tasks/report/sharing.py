"""What may leave the group that holds the data: numbers of many people, and none of few.

A page to be shared shows only what is made here or is a result of the whole group. Text that a
program wrote about one scan is never shown, not even in part: it is sorted into kinds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

SMALLEST = 5
"""Fewest people that a number may be about."""

SPREAD = 3.0
"""Standard deviations on each side of the mean that a shared histogram spans."""

OTHER = "other reasons"

# Kinds of failure, and words of the commands' messages that tell them; the first that fits counts.
KINDS: dict[str, tuple[str, ...]] = {
    "not processed yet": ("not run", "made with other settings"),
    "killed, as when memory runs out": ("killed by", "were killed"),
    "image file truncated or unreadable": ("truncated", "cannot be read as a nifti"),
    "gradient table cannot be read": ("cannot be read as text", "row of numbers", "no numbers"),
    "b-values, directions and volumes do not match": ("b-values", "expected one row", "3 rows"),
    "directions do not determine a tensor": ("a tensor needs", "too close to a plane"),
    "directions are no unit vectors": ("direction of length", "the direction is 0 0 0"),
    "no b0 volume": ("no b0",),
    "volumes without signal": ("all voxels have the same",),
    "values that are not finite": ("nan or infinite",),
    "no brain found, or an empty mask": ("no brain", "the mask", "no voxel"),
    "grids of image and mask differ": ("resample it",),
    "image of the wrong shape": ("expected a", "voxels; at least"),
    "a step is not installed": ("is not installed",),
    "a file is missing": ("no such file", "does not exist", "filenotfound"),
    "no space or no permission": ("no space left", "permission denied"),
}


def say_count(n: int) -> str:
    """A number of people or scans; "<5" for 1 to 4.

    >>> say_count(0), say_count(3), say_count(12345)
    ('0', '<5', '12,345')
    """
    return f"<{SMALLEST}" if 0 < n < SMALLEST else f"{n:,}"


def kind_of_failure(reason: str) -> str:
    """The kind of a failure, in words that are the same for everybody.

    Parameters
    ----------
    reason
        As in `scans.tsv`; it may hold paths, names and numbers of one person.

    >>> kind_of_failure("axoloci-dti fit, killed by SIGKILL: /data/sub-07: slice 3")
    'killed, as when memory runs out'
    """
    text = reason.lower()
    return next((kind for kind, words in KINDS.items() if any(w in text for w in words)), OTHER)


def count_failures(reasons: Iterable[str]) -> tuple[list[tuple[str, int]], bool]:
    """Failures by kind; kinds of fewer than 5 are put together as other reasons.

    Returns
    -------
    (counts, exact)
        Kind and number, most frequent first, other reasons last; whether all numbers may be
        shown, and with them their sum. The rest of a sum would tell the number that is hidden.
    """
    counts = Counter(kind_of_failure(reason) for reason in reasons)
    shown = [(kind, n) for kind, n in counts.most_common() if n >= SMALLEST and kind != OTHER]
    rest = sum(counts.values()) - sum(n for _, n in shown)
    return [*shown, *([(OTHER, rest)] if rest else [])], rest == 0 or rest >= SMALLEST


def histogram(
    values: NDArray[Any], most: int = 30
) -> tuple[NDArray[np.int64], NDArray[np.float64]] | None:
    """Counts of a histogram in which no bar is about fewer than 5 people.

    Bars of 1 to 4 are set to 0. The span follows from mean and standard deviation, for its ends
    would else be the smallest and the largest value.

    Parameters
    ----------
    values
        [float, shape: (n,)] One a person or scan; what is not finite is left out.
    most
        Most bars.

    Returns
    -------
    (counts, edges)
        [int64, shape: (k,)] and [float64, shape: (k + 1,)]; None for fewer than 5 values, or where
        all are equal.
    """
    values = np.asarray(values, dtype=np.float64)
    values = values[np.isfinite(values)]
    if len(values) < SMALLEST or np.ptp(values) == 0:
        return None
    mean, half = float(values.mean()), SPREAD * float(values.std())
    n_bars = min(most, max(6, len(values) // 10))
    counts, edges = np.histogram(values, bins=n_bars, range=(mean - half, mean + half))
    return np.where(counts >= SMALLEST, counts, 0), edges


def summary(values: NDArray[Any]) -> tuple[int, float, float] | None:
    """Number, mean and standard deviation; no quantiles, for these are values of single people.

    Parameters
    ----------
    values
        [float, shape: (n,)] One a person or scan; what is not finite is left out.

    Returns
    -------
    (n, mean, sd), in the unit of `values`; None for fewer than 5.
    """
    values = np.asarray(values, dtype=np.float64)
    values = values[np.isfinite(values)]
    if len(values) < SMALLEST:
        return None
    return len(values), float(values.mean()), float(values.std(ddof=1))

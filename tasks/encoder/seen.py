"""Who is whom: which maps are sessions of one person, and whose person a model has seen."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

Pairs = Sequence[tuple[str, str]]
"""sample_ids of two sessions of one person each."""

ENTITIES = (
    *("ses", "sample", "task", "tracksys", "acq", "nuc", "voi", "ce", "trc", "stain", "rec", "dir"),
    *("run", "mod", "echo", "flip", "inv", "mt", "part", "proc", "hemi", "space", "split"),
    *("recording", "chunk", "seg", "res", "den", "label", "desc"),
)
"""Entities of BIDS by which images of one person differ."""

AFTER_PERSON = re.compile(rf"_(?:{'|'.join(ENTITIES)})-")


def person_of(sample_id: str) -> str:
    """The person in a sample_id: without `sub-` before it, and what BIDS writes after it.

    A study stores people by the label of their `sub-`, one scan each; ids with sessions are those
    of stores that were made of a table. A label of BIDS has no underscore, and ends at the first
    one; other ids may have some, and end where an entity such as `_ses-` or `_acq-` begins.

    >>> person_of("sub-01_acq-b_run-1"), person_of("01_ses-2"), person_of("01_b")
    ('01', '01', '01_b')
    """
    if sample_id.startswith("sub-"):
        return sample_id.removeprefix("sub-").partition("_")[0]
    return AFTER_PERSON.split(sample_id, maxsplit=1)[0]


def number_people(sample_id: Sequence[str], pairs: Pairs) -> NDArray[np.int64]:
    """Number the people behind sample_ids: equal numbers are one person.

    Parameters
    ----------
    sample_id
        Whose; may repeat.
    pairs
        Who is one person besides those whose ids say so, of any people.

    Returns
    -------
    [int64, shape: (n_samples,)]
    """
    n, m = len(sample_id), len(pairs)
    names = [*sample_id, *(first for first, _ in pairs), *(second for _, second in pairs)]
    known, code = np.unique([person_of(name) for name in names], return_inverse=True)  # (n + 2m,)
    links = (np.ones(m), (code[n : n + m], code[n + m :]))
    number = connected_components(coo_array(links, shape=2 * known.shape), directed=False)[1]
    return np.asarray(number[code[:n]], dtype=np.int64)


def is_seen(sample_id: Sequence[str], seen: Collection[str], pairs: Pairs) -> NDArray[np.bool_]:
    """Whose person is among those whom a model has seen, in the same or another session.

    Parameters
    ----------
    sample_id
        Who is asked for.
    seen
        sample_ids of the maps that the model has seen.
    pairs
        As for `number_people`.

    Returns
    -------
    [bool, shape: (n_samples,)]
    """
    number = number_people([*sample_id, *seen], pairs)  # (n_samples + n_seen,)
    return np.isin(number[: len(sample_id)], number[len(sample_id) :])


def first_of_each(number: NDArray[np.int64]) -> NDArray[np.int64]:
    """Places, ascending, at which each person's number comes first.

    >>> first_of_each(np.array([4, 4, 1, 4, 2]))
    array([0, 2, 4])
    """
    return np.sort(np.unique(number, return_index=True)[1])


def two_sessions(
    sample_id: Sequence[str], pairs: Pairs, number: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Places of two maps of each person who has them: the first pair, or else the first two maps.

    Parameters
    ----------
    sample_id
        Who is there.
    pairs
        Of any people; those of whom a session is not there are passed over.
    number
        [int64, shape: (n_samples,)] Person of each (`number_people`).

    Returns
    -------
    [int64, shape: (m, 2)]
    """
    place = {name: row for row, name in enumerate(sample_id)}
    both = [(place[a], place[b]) for a, b in pairs if a in place and b in place]
    order = np.argsort(number, kind="stable")  # maps of a person beside each other
    same = number[order[1:]] == number[order[:-1]]
    by_ids = np.column_stack((order[:-1], order[1:]))[same]  # (k, 2)
    rows = np.vstack((np.array(both, dtype=np.int64).reshape(-1, 2), by_ids))
    return rows[first_of_each(number[rows[:, 0]])]

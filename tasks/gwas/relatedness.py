"""A look at whether people are related, at a small share of the cost of their association.

Relatives make p-values of a plain regression too small. All pairs of a large cohort take too long
to look at on the way (the command samples does it), but where relatives matter there are many of
them: a few thousand people show it. These are taken as runs of neighbours, families together,
because relatives often stand beside each other in the files.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from axoloci.io.genotypes import Genotypes
from axoloci.tasks.gwas import pca, sample_qc
from axoloci.tasks.gwas.inputs import Study
from axoloci.tasks.gwas.sample_qc import Pairs

log = logging.getLogger("axoloci")

SHARE = 0.02  # of the multiplications of the association
MIN_PEOPLE, MAX_PEOPLE = 500, 3000
N_RUNS = 25  # of neighbours
VARIANTS_SHARE, MIN_VARIANTS, MAX_VARIANTS = 0.05, 4096, 10_240  # that are read
THINNING_PEOPLE = 1000  # enough to see linkage disequilibrium
BLOCK_VARIANTS = 256
MIN_KINSHIP = 0.0884  # 2^-3.5: between the second degree and the third, which hardly matter
MAX_CHANCE = 0.25  # with fewer variants not even siblings stand out
CHANCE_SDS = 6.0  # one pair of unrelated people in a billion is further out


def warn_of_relatives(study: Study, n_traits: int) -> None:
    """Say how many pairs are related among some of the people, and what to do about it.

    Parameters
    ----------
    study
        People and genotypes.
    n_traits
        That are tested: the look may cost a share of their association.
    """
    source = study.source
    index = source.sample_index(study.people)
    names = source.variants["chromosome"]
    numbers = pd.to_numeric(names, errors="coerce")
    rows = np.flatnonzero(numbers.between(1, 22))
    if len(index) < sample_qc.MIN_PEOPLE or not len(rows):
        return
    n_wanted = min(MAX_VARIANTS, max(MIN_VARIANTS, round(VARIANTS_SHARE * len(rows))))
    rows = rows[_evenly(len(rows), n_wanted)]
    affordable = math.isqrt(int(SHARE * len(index) * source.n_variants * n_traits / len(rows)))
    n_people = min(MAX_PEOPLE, max(MIN_PEOPLE, affordable), len(index))
    chosen = neighbours(source.samples["fid"].to_numpy()[index], n_people)
    pairs, n_variants = _related(source, rows, index[chosen])
    of = f"{len(chosen):,} of {len(index):,} people" if len(chosen) < len(index) else "the people"
    if pairs is None:
        log.info(
            "relatives are not looked for: %d common independent autosomal variants are too few",
            n_variants,
        )
    elif len(pairs.first):
        closest = int(np.argmax(pairs.kinship))
        first, second = (study.people[chosen[side[closest]]] for side in pairs[:2])
        log.warning(
            "relatives: %d pairs among %s looked at (%d variants), such as %s and %s (kinship "
            "%.2f): p-values may be too small; axoloci-gwas ridge and --loco allow for them, or "
            "leave people out by --remove (axoloci-gwas samples lists all pairs)",
            *(len(pairs.first), of, n_variants, first, second, pairs.kinship[closest]),
        )
    else:
        log.info("relatives: none among %s looked at (%d variants)", of, n_variants)


def neighbours(family: NDArray[np.object_], n: int) -> NDArray[np.int64]:
    """Some people in runs of neighbours, those of one family together.

    Parameters
    ----------
    family : (n_samples,)
        FID of each person; the order is that of the files.
    n
        How many people.

    Returns
    -------
    int64, (n,)
        Positions, increasing.

    Examples
    --------
    >>> neighbours(np.array(["a", "b", "a", "c"], dtype=object), 2)
    array([0, 2])
    """
    families, _ = pd.factorize(family)
    order = np.argsort(families, kind="stable")
    n_runs = min(N_RUNS, max(1, n // sample_qc.MIN_PEOPLE))
    # as many people of each run as it takes: n in all, at even distances
    ends = np.linspace(0, len(order), n_runs + 1).astype(int)[:-1]
    lengths = np.diff(np.linspace(0, n, n_runs + 1).astype(int))
    return np.sort(
        np.concatenate([order[at : at + k] for at, k in zip(ends, lengths, strict=True)])
    )


def _evenly(n: int, wanted: int) -> NDArray[np.int64]:
    """At most so many places of n, at even distances."""
    return np.unique(np.linspace(0, n - 1, min(n, wanted)).astype(np.int64))


def _related(
    source: Genotypes, rows: NDArray[np.int64], index: NDArray[np.int64]
) -> tuple[Pairs | None, int]:
    """Pairs of relatives and the number of variants that they rest on; none if these are few."""
    names = source.variants["chromosome"].to_numpy()[rows]
    starts = np.arange(0, len(rows), BLOCK_VARIANTS)
    dosage = np.concatenate(
        [source.read_calls_at(rows[at : at + BLOCK_VARIANTS], index) for at in starts]
    )  # (V, people)
    some = _evenly(len(index), THINNING_PEOPLE)
    edges = np.union1d(np.append(starts, len(rows)), np.flatnonzero(names[1:] != names[:-1]) + 1)
    dosage = dosage[pca.thin((names[a], dosage[a:b, some]) for a, b in pairwise(edges))]
    by_chance = CHANCE_SDS / math.sqrt(max(1, len(dosage)))
    if by_chance > MAX_CHANCE:
        return None, len(dosage)

    def blocks(people: NDArray[np.int64]) -> Iterator[NDArray[np.int8]]:
        for at in range(0, len(dosage), sample_qc.BLOCK_VARIANTS):
            yield dosage[at : at + sample_qc.BLOCK_VARIANTS][:, people]

    min_kinship = max(MIN_KINSHIP, by_chance)
    found = list(sample_qc.related_pairs(blocks, len(index), min_kinship=min_kinship))
    return Pairs(*(np.concatenate(column) for column in zip(*found, strict=True))), len(dosage)

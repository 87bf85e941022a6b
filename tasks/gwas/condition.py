"""Conditional association: the signals of a locus one after the other, until nothing is left.

Each round tests all variants with all traits jointly, adjusted for the covariates and the signals
found before; the strongest variant is the next signal. This is forward selection, as by GCTA-COJO,
but on the genotypes themselves.

References
----------
Yang et al. 2012, doi:10.1038/ng.2213.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from axoloci.io.genotypes import Dosage
from axoloci.joint_test import joint_test, neg_log10_p, partial_correlation, whiten_traits
from axoloci.tasks.gwas import kernel
from axoloci.tasks.gwas.variant_qc import KEPT, VariantFilter

P_THRESHOLD = 5e-8
WINDOW_KB = 500.0


@dataclass(frozen=True)
class Signal:
    """A variant given the signals before it.

    Attributes
    ----------
    row
        The variant.
    n
        People with its genotype.
    effect_allele_frequency
        Among them.
    r2
        Canonical R² with all traits; NaN where it could not be tested, as a variant that the
        signals before it explain.
    neg_log10_p
        Of the joint test; NaN likewise.
    beta
        [float64, shape: (n_traits,)] Effect on each trait, in its units per effect allele; NaN
        likewise.
    trait_neg_log10_p
        [float64, shape: (n_traits,)] Of each trait alone; NaN likewise.
    """

    row: int
    n: int
    effect_allele_frequency: float
    r2: float
    neg_log10_p: float
    beta: NDArray[np.float64]
    trait_neg_log10_p: NDArray[np.float64]


def independent_signals(
    read: Callable[[int, int], Dosage],
    pieces: Sequence[tuple[int, int]],
    leads: Sequence[int],
    traits: NDArray[np.float64],
    covariates: NDArray[np.float64],
    names: Sequence[str],
    *,
    p_threshold: float = P_THRESHOLD,
    variant_filter: VariantFilter | None = None,
    copies: float = 2.0,
    n_threads: int = 1,
) -> list[Signal]:
    """The leads, and what is associated beyond them, each given all signals before it.

    A signal becomes a covariate: its dosage, with the mean where it is missing, so that one which
    many lack leaves some of what it explains to its neighbours. What covariates explain by 99.9%
    is not tested (`kernel.associate`), and so no variant is found twice.

    Parameters
    ----------
    read
        Rows from a start to a stop to dosages [int8 or float32, shape: (stop - start, n_samples)]:
        0 to 2, negative where missing.
    pieces
        Start and stop of the ranges of rows that are tested, read a range at a time.
    leads
        Rows of the signals to begin with, in this order.
    traits
        [float64, shape: (n_samples, n_traits)] None missing, none constant.
    covariates
        [float64, shape: (n_samples, n_covariates)] Of full rank, the intercept first.
    names
        Of the traits, for errors.
    p_threshold
        The next signal's p is smaller.
    variant_filter, copies, n_threads
        As of `kernel.associate`; the filter spares the leads.

    Returns
    -------
    list of Signal
        The leads first.

    Raises
    ------
    InputError
        The traits are linearly dependent, or there are too few people for so many.
    """
    test = partial(_strongest, read, traits=traits, names=names, copies=copies, n_threads=n_threads)
    signals: list[Signal] = []
    for lead in leads:
        found = test([(lead, lead + 1)], covariates=covariates, variant_filter=None)
        dosage = read(lead, lead + 1)[0]
        if found is None:
            signals.append(_untested(lead, dosage, traits.shape[1]))
            continue
        signals.append(found)
        covariates = _with_dosage(covariates, dosage)
    while True:
        found = test(pieces, covariates=covariates, variant_filter=variant_filter)
        if found is None or found.neg_log10_p <= -np.log10(p_threshold):
            return signals
        signals.append(found)
        covariates = _with_dosage(covariates, read(found.row, found.row + 1)[0])


def _untested(row: int, dosage: Dosage, n_traits: int) -> Signal:
    """A lead that the signals before it explain."""
    known = dosage[dosage >= 0]
    none = np.full(n_traits, np.nan)
    return Signal(row, len(known), float(known.mean() / 2), np.nan, np.nan, none, none)


def _with_dosage(covariates: NDArray[np.float64], dosage: Dosage) -> NDArray[np.float64]:
    """Covariates and one variant, with its mean where it is missing."""
    known = dosage >= 0
    column = np.where(known, dosage, dosage[known].mean(dtype=np.float64))
    return np.column_stack([covariates, column])  # (n_samples, n_covariates + 1)


def _strongest(
    read: Callable[[int, int], Dosage],
    pieces: Sequence[tuple[int, int]],
    *,
    traits: NDArray[np.float64],
    covariates: NDArray[np.float64],
    names: Sequence[str],
    variant_filter: VariantFilter | None,
    copies: float,
    n_threads: int,
) -> Signal | None:
    """The variant with the smallest p of all that can be tested; None without one."""
    model = kernel.fit_null(traits, covariates)
    tested = [names[k] for k in model.trait_index]
    whitening = whiten_traits(kernel.correlation(model, model), tested)
    df_all = model.n_samples - covariates.shape[1] - 1
    blocks = kernel.associate(
        (read(start, stop) for start, stop in pieces),
        model,
        n_threads=n_threads,
        precision="float64",
        variant_filter=variant_filter,
        copies=copies,
    )
    found = None
    for (start, _), block in zip(pieces, blocks, strict=True):
        beta, se = block.beta[:, model.trait_index], block.se[:, model.trait_index]  # (V, K)
        df = np.broadcast_to(block.n[:, None] - covariates.shape[1] - 1.0, beta.shape)
        result = joint_test(beta, se, df, df_all, whitening)
        if not np.isfinite(result.neg_log10_p).any():
            continue
        best = int(np.nanargmax(result.neg_log10_p))
        if found is None or result.neg_log10_p[best] > found.neg_log10_p:
            every_beta, every_se, own_df = block.beta[best], block.se[best], df[best, 0]
            r = partial_correlation(every_beta, every_se, own_df)  # (n_traits,)
            found = Signal(
                start + int(np.flatnonzero(block.left_out == KEPT)[best]),
                int(block.n[best]),
                float(block.effect_allele_frequency[best]),
                float(result.r2[best]),
                float(result.neg_log10_p[best]),
                every_beta,
                neg_log10_p(r * r, 1, own_df),
            )
    return found

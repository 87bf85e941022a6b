"""What is known of a variant before any trait is looked at, and limits to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from axoloci.io.genotypes import MAX_UNCERTAINTY
from axoloci.tasks.gwas.compiled import compiled

# Columns of what `summarize` tells of each variant.
N_MISSING, TOTAL, SQUARES, CONSTANT, N_NONE, N_ONE, N_TWO = range(7)
N_MOMENTS = 7

KEPT, LOW_FREQUENCY, LOW_COUNT, MISSING, NOT_IN_EQUILIBRIUM, POORLY_IMPUTED = range(6)
REASON_NAMES = (
    "kept",
    "low_frequency",
    "low_minor_allele_count",
    "many_missing",
    "not_in_hardy_weinberg_equilibrium",
    "poorly_imputed",
)


def summarize(dosage: NDArray[Any]) -> NDArray[np.float64]:
    """Counts and sums of each variant over the people.

    Parameters
    ----------
    dosage : int8 or float32, (n_variants, n_samples)
        Counts of the effect allele, 0 to 2; negative where missing. Whole numbers are int8.

    Returns
    -------
    float64, (n_variants, N_MOMENTS)
        Of the effect allele: people without a genotype; sum and sum of squares of the others';
        whether (1) or not (0) all of these are equal; people who are called to have none, one and
        two, to which those of uncertain dosages do not belong.
    """
    if dosage.dtype == np.int8:
        counts = np.empty((3, len(dosage)), dtype=np.int64)
        _count_calls(dosage, counts)
        return moments_of_calls(dosage.shape[1], *counts)
    moments = np.empty((len(dosage), N_MOMENTS))
    _summarize_fractions(dosage, moments)
    return moments


def moments_of_calls(
    n_samples: int,
    n_missing: NDArray[np.int64],
    n_one: NDArray[np.int64],
    n_two: NDArray[np.int64],
) -> NDArray[np.float64]:
    """What `summarize` gives of whole numbers, by how many people have none, one or two."""
    n = n_samples - n_missing
    n_none = n - n_one - n_two
    moments = np.empty((len(n), N_MOMENTS))
    moments[:, N_MISSING] = n_missing
    moments[:, TOTAL] = n_one + 2 * n_two
    moments[:, SQUARES] = n_one + 4 * n_two
    moments[:, CONSTANT] = (n_none == n) | (n_one == n) | (n_two == n)
    moments[:, N_NONE], moments[:, N_ONE], moments[:, N_TWO] = n_none, n_one, n_two
    return moments


@compiled
def _count_calls(dosage: NDArray[Any], counts: NDArray[np.int64]) -> None:
    """Write how many people of each variant are missing, have one copy, have two."""
    n_variants, n_samples = dosage.shape
    for v in range(n_variants):
        row = dosage[v]
        n_missing = n_one = n_two = np.int32(0)
        for i in range(n_samples):
            n_missing += np.int32(row[i] < 0)
            n_one += np.int32(row[i] == 1)
            n_two += np.int32(row[i] == 2)
        counts[0, v], counts[1, v], counts[2, v] = n_missing, n_one, n_two


@compiled
def _summarize_fractions(dosage: NDArray[Any], moments: NDArray[np.float64]) -> None:
    n_variants, n_samples = dosage.shape
    for v in range(n_variants):
        row = dosage[v]
        n_missing = n_none = n_one = n_two = np.int32(0)
        total = squares = 0.0
        least, most = np.float32(3), np.float32(-1)
        for i in range(n_samples):
            value = row[i]
            there = value >= 0
            n_missing += np.int32(not there)
            n_none += np.int32(abs(value) <= MAX_UNCERTAINTY)
            n_one += np.int32(abs(value - np.float32(1)) <= MAX_UNCERTAINTY)
            n_two += np.int32(abs(value - np.float32(2)) <= MAX_UNCERTAINTY)
            known = np.float64(value if there else np.float32(0))
            total += known
            squares += known * known
            least = min(least, value if there else np.float32(3))
            most = max(most, value)
        moments[v, N_MISSING] = n_missing
        moments[v, TOTAL] = total
        moments[v, SQUARES] = squares
        moments[v, CONSTANT] = n_missing == n_samples or least == most
        moments[v, N_NONE] = n_none
        moments[v, N_ONE] = n_one
        moments[v, N_TWO] = n_two


@dataclass(frozen=True)
class VariantFilter:
    """Limits of the variants that are tested; what is 0 (or 1 for missing ones) limits nothing.

    Attributes
    ----------
    min_maf, min_mac
        Least frequency and least count of the minor allele.
    max_missing
        Largest share of people without a genotype.
    min_hwe_p
        Smallest p of the exact test of Hardy-Weinberg equilibrium.
    min_info
        Smallest variance of the dosage over that in Hardy-Weinberg equilibrium: MaCH's r².
    """

    min_maf: float = 0.0
    min_mac: float = 0.0
    max_missing: float = 1.0
    min_hwe_p: float = 0.0
    min_info: float = 0.0

    def reasons(
        self, moments: NDArray[np.float64], n_samples: int, *, copies: float = 2.0
    ) -> NDArray[np.uint8]:
        """Why each variant is left out.

        Parameters
        ----------
        moments : (n_variants, N_MOMENTS)
            From `summarize`.
        n_samples
            Of how many people.
        copies
            2 for a diploid chromosome, 1 for a haploid one. Where it is not 2 the last two limits,
            which are those of diploid genotypes, do not apply.

        Returns
        -------
        uint8, (n_variants,)
            Index into `REASON_NAMES`: the first that holds.
        """
        n = n_samples - moments[:, N_MISSING]  # (V,)
        with np.errstate(divide="ignore", invalid="ignore"):
            p = moments[:, TOTAL] / (2 * n)
        maf = np.nan_to_num(np.minimum(p, 1 - p))
        bad = {
            LOW_FREQUENCY: maf < self.min_maf,
            LOW_COUNT: maf * copies * n < self.min_mac * (1 - 1e-12),  # p is rounded
            MISSING: moments[:, N_MISSING] > self.max_missing * n_samples,
        }
        if copies == 2 and self.min_hwe_p > 0:
            called = (moments[:, kind] for kind in (N_NONE, N_ONE, N_TWO))
            bad[NOT_IN_EQUILIBRIUM] = hwe_p(*called) < self.min_hwe_p
        if copies == 2 and self.min_info > 0:
            bad[POORLY_IMPUTED] = imputation_r2(moments, n_samples) < self.min_info
        reasons = np.zeros(len(moments), dtype=np.uint8)
        for reason, here in bad.items():
            reasons[(reasons == KEPT) & here] = reason
        return reasons


def imputation_r2(moments: NDArray[np.float64], n_samples: int) -> NDArray[np.float64]:
    """Variance of the dosages over that of genotypes in Hardy-Weinberg equilibrium.

    Parameters
    ----------
    moments : (n_variants, N_MOMENTS)
        From `summarize`.
    n_samples
        Of how many people.

    Returns
    -------
    float64, (n_variants,)
        NaN where all genotypes are equal.

    References
    ----------
    Li et al. 2010, doi:10.1002/gepi.20533 (MaCH).
    """
    n = n_samples - moments[:, N_MISSING]
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = moments[:, TOTAL] / n
        r2 = (moments[:, SQUARES] / n - mean**2) / (mean * (2 - mean) / 2)
    return np.asarray(np.where(moments[:, CONSTANT] > 0, np.nan, r2))


def hwe_p(
    n_none: NDArray[np.float64], n_one: NDArray[np.float64], n_two: NDArray[np.float64]
) -> NDArray[np.float64]:
    """P of the exact test of Hardy-Weinberg equilibrium.

    The probability, given the alleles, of as many heterozygous people as there are, or of any
    number of them that is no more probable.

    Parameters
    ----------
    n_none, n_one, n_two : (n_variants,)
        People with no, one and two copies of an allele.

    Returns
    -------
    float64, (n_variants,)

    References
    ----------
    Wigginton et al. 2005, doi:10.1086/429864.
    """
    p = np.empty(len(n_one))
    _hwe_p(np.minimum(n_none, n_two), np.asarray(n_one), np.maximum(n_none, n_two), p)
    return p


@compiled
def _hwe_p(
    n_rare: NDArray[np.float64],
    n_one: NDArray[np.float64],
    n_common: NDArray[np.float64],
    p: NDArray[np.float64],
) -> None:
    """Sums the probabilities relative to the observed one, up and down from it."""
    for v in range(len(p)):
        rare, one, common = n_rare[v], n_one[v], n_common[v]
        total, tail = 1.0, 1.0
        # towards fewer heterozygous people: two of them become one of each homozygous kind
        weight, hets, rares, commons = 1.0, one, rare, common
        while hets > 1:
            weight *= hets * (hets - 1) / (4 * (rares + 1) * (commons + 1))
            hets, rares, commons = hets - 2, rares + 1, commons + 1
            total += weight
            if weight <= 1 + 1e-9:
                tail += weight
            if weight < 1e-20:  # of the observed one, which counts in full
                break
        weight, hets, rares, commons = 1.0, one, rare, common
        while rares > 0:
            weight *= 4 * rares * commons / ((hets + 2) * (hets + 1))
            hets, rares, commons = hets + 2, rares - 1, commons - 1
            total += weight
            if weight <= 1 + 1e-9:
                tail += weight
            if weight < 1e-20:  # of the observed one, which counts in full
                break
        p[v] = tail / total

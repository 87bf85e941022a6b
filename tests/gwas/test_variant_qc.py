"""What is known of variants, and the limits by which they are left out, against plink2."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from plink_files import write_plink

from axoloci.tasks.gwas import kernel, packed, variant_qc
from axoloci.tasks.gwas.variant_qc import VariantFilter, hwe_p, imputation_r2, summarize

N_SAMPLES, N_VARIANTS = 300, 200


@pytest.fixture
def dosage() -> NDArray[np.int8]:
    """Rare and common variants, some out of equilibrium, some with many missing genotypes."""
    rng = np.random.default_rng(0)
    frequency = rng.uniform(0, 1, (N_VARIANTS, 1)) ** 3
    values = rng.binomial(2, frequency, (N_VARIANTS, N_SAMPLES)).astype(np.int8)
    wrong = rng.random((N_VARIANTS, 1)) < 0.3
    values[wrong & (values == 1) & (rng.random(values.shape) < 0.8)] = 2
    values[rng.random(values.shape) < rng.choice([0, 0.02, 0.2], (N_VARIANTS, 1))] = -9
    return values


def plink2(tool: Callable[[str], str], prefix: Path, *options: object) -> None:
    command = [tool("plink2"), "--bfile", prefix, *map(str, options), "--nonfounders"]
    subprocess.run([*command, "--out", prefix], check=True, capture_output=True)


def test_hwe_p__is_that_of_plink2(
    dosage: NDArray[np.int8], tmp_path: Path, tool: Callable[[str], str]
) -> None:
    write_plink(tmp_path / "g", dosage)
    plink2(tool, tmp_path / "g", "--hardy")
    theirs = pd.read_csv(tmp_path / "g.hardy", sep="\t")
    moments = summarize(dosage)
    called = (variant_qc.N_NONE, variant_qc.N_ONE, variant_qc.N_TWO)
    np.testing.assert_allclose(hwe_p(*moments[:, called].T), theirs["P"], rtol=1e-5)
    assert theirs["P"].min() < 1e-20


def test_summarize__of_more_people_than_a_field_counts() -> None:
    """Three million people, a million of each of two genotypes and one without."""
    n = 3_000_001
    calls = np.repeat(np.array([[2], [1], [-9]], dtype=np.int8), n // 3 + 1, axis=1)
    dosage = np.stack([calls.ravel()[:n], np.full(n, 1, dtype=np.int8)])
    code = np.array([3, 2, 0], dtype=np.uint8)[np.maximum(dosage, 0)]
    code[dosage < 0] = 1
    padded = np.concatenate([code, np.full((2, -n % 4), 3, dtype=np.uint8)], axis=1)
    quads = padded.reshape(2, -1, 4) << np.array([0, 2, 4, 6], dtype=np.uint8)
    found = packed.summarize(quads.sum(axis=2).astype(np.uint8), n)
    np.testing.assert_array_equal(found, summarize(dosage))


def test_variant_filter__equilibrium_is_that_of_called_genotypes() -> None:
    """Uncertain dosages are no one's genotype: counted as none they would look like an error."""
    rng = np.random.default_rng(3)
    calls = rng.binomial(2, 0.4, (50, 1000)).astype(np.int8)
    uncertain = rng.random(calls.shape) < 0.3
    dosage = np.where(uncertain, 0.6, np.abs(calls - 0.05)).astype(np.float32)
    calls[uncertain] = -9
    called = (variant_qc.N_NONE, variant_qc.N_ONE, variant_qc.N_TWO)
    np.testing.assert_array_equal(summarize(dosage)[:, called], summarize(calls)[:, called])
    assert not VariantFilter(min_hwe_p=1e-6).reasons(summarize(dosage), 1000).any()


def test_hwe_p__of_many_people_and_of_none() -> None:
    """By the definition, with exact logarithms of factorials."""
    from scipy.special import gammaln

    none, one, two = 180_000.0, 40_000.0, 2_500.0
    rare = one + 2 * two
    hets = np.arange(rare % 2, rare + 1, 2)
    rares = (rare - hets) / 2
    commons = none + one + two - hets - rares
    log_weight = hets * np.log(2) - gammaln(rares + 1) - gammaln(hets + 1) - gammaln(commons + 1)
    weight = np.exp(log_weight - log_weight[hets == one])
    expected = weight[weight <= 1 + 1e-9].sum() / weight.sum()
    [found] = hwe_p(np.array([none]), np.array([one]), np.array([two]))
    assert found == pytest.approx(expected, rel=1e-8)
    assert hwe_p(np.zeros(1), np.zeros(1), np.zeros(1)).tolist() == [1]


@pytest.mark.parametrize(
    ("limits", "options"),
    [
        ({"min_maf": 0.05}, ("--maf", 0.05)),
        ({"min_mac": 20}, ("--mac", 20)),
        ({"max_missing": 0.05}, ("--geno", 0.05)),
        ({"min_hwe_p": 1e-4}, ("--hwe", 1e-4)),
        ({"min_info": 0.97}, ("--mach-r2-filter", 0.97, 99)),
        (
            {"min_maf": 0.01, "max_missing": 0.1, "min_hwe_p": 1e-10},
            ("--maf", 0.01, "--geno", 0.1, "--hwe", 1e-10),
        ),
    ],
)
def test_variant_filter__keeps_what_plink2_keeps(
    dosage: NDArray[np.int8],
    tmp_path: Path,
    tool: Callable[[str], str],
    limits: dict[str, float],
    options: tuple[object, ...],
) -> None:
    write_plink(tmp_path / "g", dosage)
    plink2(tool, tmp_path / "g", *options, "--write-snplist")
    theirs = (tmp_path / "g.snplist").read_text().split()
    reasons = VariantFilter(**limits).reasons(summarize(dosage), N_SAMPLES)
    assert [f"rs{v}" for v in np.flatnonzero(reasons == variant_qc.KEPT)] == theirs
    assert 20 < len(theirs) < N_VARIANTS - 20


def test_variant_filter__limits_of_diploids_spare_other_chromosomes(
    dosage: NDArray[np.int8],
) -> None:
    moments = summarize(dosage)
    strict = VariantFilter(min_hwe_p=1, min_info=5)
    assert not strict.reasons(moments, N_SAMPLES, copies=1).any()
    polymorphic = moments[:, variant_qc.CONSTANT] == 0
    assert strict.reasons(moments, N_SAMPLES)[polymorphic].all()
    count = np.minimum(moments[:, 1], 2 * (N_SAMPLES - moments[:, 0]) - moments[:, 1])
    half = VariantFilter(min_mac=30).reasons(moments, N_SAMPLES, copies=1)
    np.testing.assert_array_equal(half == variant_qc.LOW_COUNT, count < 60)


def test_imputation_r2__of_uncertain_dosages_is_below_one() -> None:
    called = np.random.default_rng(1).binomial(2, 0.3, (1, 100_000)).astype(np.float32)
    for share in (1.0, 0.5):  # of the way from the mean to the genotype
        dosage = np.float32(0.6) + np.float32(share) * (called - np.float32(0.6))
        [r2] = imputation_r2(summarize(dosage), 100_000)
        assert r2 == pytest.approx(share**2, rel=0.02)
    assert np.isnan(imputation_r2(summarize(np.ones((1, 9), np.float32)), 9)).all()


def test_associate__leaves_out_variants_and_changes_no_other(dosage: NDArray[np.int8]) -> None:
    rng = np.random.default_rng(2)
    traits = rng.normal(size=(N_SAMPLES, 3))
    traits[:30, 1] = np.nan
    model = kernel.fit_null(traits, np.ones((N_SAMPLES, 1)))
    limits = VariantFilter(min_maf=0.05, max_missing=0.1)
    [every] = kernel.associate([dosage], model)
    [some] = kernel.associate([dosage], model, variant_filter=limits)
    kept = some.left_out == variant_qc.KEPT
    assert not every.left_out.any()
    assert 20 < kept.sum() < N_VARIANTS - 20
    np.testing.assert_allclose(some.beta, every.beta[kept], rtol=1e-12)
    np.testing.assert_allclose(some.se, every.se[kept], rtol=1e-12)
    np.testing.assert_array_equal(some.n_by_group, every.n_by_group[kept])
    np.testing.assert_array_equal(some.status, every.status[kept])

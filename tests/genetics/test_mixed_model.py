"""The joint test and the replication of what a mixed model has left of the traits of relatives."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray
from plink_files import write_plink
from scipy import stats

from axoloci.io.loco import read_loco
from axoloci.io.sumstats import Sumstats, read_sumstats
from axoloci.joint_test import whiten_traits
from axoloci.tasks.genetics import kernel
from axoloci.tasks.genetics.cli import main as genetics
from axoloci.tasks.gwas.cli import main as gwas

N_FAMILIES, N_TRAITS, OF_CHROMOSOME, LEAD = 150, 8, 1500, 7


def run(command: object, *arguments: object) -> None:
    done = CliRunner().invoke(command, [str(word) for word in arguments])
    assert done.exit_code == 0, done.output + repr(done.exception)


def sibs(n_variants: int, rng: np.random.Generator) -> NDArray[np.int8]:
    """Dosages (n_variants, n_samples) of families of four children."""
    frequency = rng.uniform(0.1, 0.5, (n_variants, 1, 1))
    parents = rng.random((2, 2, n_variants, N_FAMILIES, 1)) < frequency  # parent, haplotype
    pick = rng.integers(0, 2, (2, n_variants, N_FAMILIES, 4))
    got = [np.where(pick[p] == 0, parents[p, 0], parents[p, 1]) for p in range(2)]
    return (got[0].astype(np.int8) + got[1]).reshape(n_variants, -1)


def _correlated(rng: np.random.Generator, sd: NDArray[np.float64]) -> NDArray[np.float64]:
    """What turns independent columns into correlated ones of these standard deviations."""
    load = rng.normal(size=(N_TRAITS, 2))
    covariance = load @ load.T + 0.03 * np.eye(N_TRAITS)
    scale = sd / np.sqrt(np.diag(covariance))
    return np.linalg.cholesky(covariance * scale * scale[:, None]).T


def study(folder: Path, seed: int) -> None:
    """Sibs, and traits that share other things among relatives than else.

    Chromosome 1 has one effect.
    """
    folder.mkdir()
    rng = np.random.default_rng(seed)
    dosage = sibs(4 * OF_CHROMOSOME, rng)
    z = (dosage - dosage.mean(1, keepdims=True)) / dosage.std(1, keepdims=True)
    of_traits = np.random.default_rng(0)  # the same in every cohort
    h2 = of_traits.uniform(0.2, 0.9, N_TRAITS)
    shared, own = (_correlated(of_traits, size) for size in (np.sqrt(h2), np.sqrt(1 - h2)))
    effects = rng.normal(size=(len(z), N_TRAITS)) @ shared / np.sqrt(3 * OF_CHROMOSOME)
    effects[:OF_CHROMOSOME] = 0
    traits = z.T @ effects + rng.normal(size=(z.shape[1], N_TRAITS)) @ own
    traits[:, :2] += 0.6 * z[LEAD, :, None] * np.array([1, -1])
    table = pd.DataFrame(traits, columns=[f"t{k}" for k in range(N_TRAITS)])
    table.insert(0, "IID", [f"i{i}" for i in range(len(table))])
    table.to_csv(folder / "t.tsv", sep="\t", index=False)
    chromosome = [str(1 + v // OF_CHROMOSOME) for v in range(len(z))]
    write_plink(folder / "g", dosage, chromosome)
    inputs = ("--genotypes", folder / "g", "--traits", folder / "t.tsv")
    run(gwas, "ridge", *inputs, "--out", folder / "loco")
    run(
        gwas,
        *("associate", *inputs, "--device", "cpu"),
        *("--loco", folder / "loco", "--out", folder / "s"),
    )


@pytest.fixture(scope="module")
def related(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("related")
    study(folder / "first", seed=1)
    study(folder / "second", seed=2)
    run(genetics, "joint", "--sumstats", folder / "first" / "s", "--out", folder / "joint.parquet")
    return folder


def mean_f(store: Sumstats, correlation: NDArray[np.float64]) -> float:
    """Of the joint test of chromosome 1 without the variant of the effect; 1 is expected."""
    whitening = whiten_traits(correlation, store.traits)
    results = [
        kernel.mixed_joint_test(block.beta, block.se, block.df, store.n_samples - 2, whitening).f
        for block in store.blocks("1")
    ]
    return float(np.delete(np.concatenate(results), LEAD).mean())


def test_joint__of_relatives_holds_its_level(related: Path) -> None:
    store = read_sumstats(related / "first" / "s")
    assert store.of_mixed_model
    own = store.correlation_of("1")
    np.testing.assert_array_equal(
        own, read_loco(related / "first" / "loco").trait_correlation("1", store.traits)
    )
    assert mean_f(store, own) == pytest.approx(1, abs=0.06)
    assert mean_f(store, store.trait_correlation) > 1.2  # that of the traits themselves
    table = pd.read_parquet(related / "joint.parquet")
    assert table["neg_log10_p"].idxmax() == LEAD
    whitening = whiten_traits(own, store.traits)
    first = next(store.blocks("1"))
    expected = kernel.mixed_joint_test(
        first.beta, first.se, first.df, store.n_samples - 2, whitening
    )
    np.testing.assert_array_equal(table["f"][: len(first.beta)], expected.f)
    about = json.loads(pq.read_schema(related / "joint.parquet").metadata[b"axoloci"])
    assert about["mixed_model"] is True
    assert about["test"] == "Hotelling's T2 of the statistics of a mixed model"


def test_replicate__of_relatives_finds_the_effect_again(related: Path) -> None:
    run(
        genetics,
        *("loci", "--joint", related / "joint.parquet", "--sumstats", related / "first" / "s"),
        *("--genotypes", related / "first" / "g", "--out", related / "loci.tsv"),
    )
    assert json.loads((related / "loci.json").read_text())["mixed_model"] is True
    run(
        genetics,
        *("replicate", "--loci", related / "loci.tsv", "--discovery", related / "first" / "s"),
        *("--replication", related / "second" / "s", "--out", related / "again.tsv"),
    )
    table = pd.read_csv(related / "again.tsv", sep="\t").set_index("variant_id")
    assert table.loc[f"rs{LEAD}", "replicated"] == "yes"
    assert 0 < table.loc[f"rs{LEAD}", "r"] < 1


def test_mixed_joint_test__of_one_trait_is_its_own_test() -> None:
    beta, se = np.array([[0.5], [0.0], [np.nan], [30.0]]), np.array([[0.1], [0.1], [0.1], [0.01]])
    result = kernel.mixed_joint_test(beta, se, np.full((4, 1), 98.0), 98, np.eye(1))
    expected = 2 * stats.t.sf(np.abs(beta[:2, 0] / se[:2, 0]), 98)
    np.testing.assert_allclose(10 ** -result.neg_log10_p[:2], expected, rtol=1e-9)
    assert np.isnan(result.neg_log10_p[2])
    assert result.r2[3] < 1
    assert np.isfinite(result.neg_log10_p[3])


def test_mixed_joint_test__does_not_change_under_a_remix_of_the_traits() -> None:
    rng = np.random.default_rng(3)
    t, mix = rng.normal(size=(50, 3)), rng.normal(size=(3, 3))
    correlation = np.corrcoef(rng.normal(size=(3, 40)))
    covariance = mix.T @ correlation @ mix
    sd = np.sqrt(np.diag(covariance))
    found = [
        kernel.mixed_joint_test(
            z, np.ones_like(z), np.full(z.shape, 90.0), 90, whiten_traits(r, list("abc"))
        ).neg_log10_p
        for z, r in ((t, correlation), (t @ mix / sd, covariance / sd / sd[:, None]))
    ]
    np.testing.assert_allclose(*found, rtol=1e-8)

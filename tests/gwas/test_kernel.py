"""The regression against statsmodels and itself; the components against plink2."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from plink_files import unpack, write_plink
from torch import OutOfMemoryError

from axoloci.covariates import design_matrix
from axoloci.errors import InputError
from axoloci.io.genotypes import PackedCalls, open_genotypes
from axoloci.tasks.gwas import complete_case_torch, kernel, pca, permutation
from axoloci.tasks.gwas.variant_qc import VariantFilter, summarize


def test_compiled__is_said_only_when_something_is(tmp_path: Path) -> None:
    code = (
        "import logging, numpy as np; logging.basicConfig(level=logging.INFO)\n"
        "from axoloci.tasks.gwas import packed\n"
        "packed.summarize(np.zeros((1, 4), dtype=np.uint8), 16)\n"
    )

    def said(folder: Path) -> str:
        environment = {**os.environ, "NUMBA_CACHE_DIR": str(folder)}
        command = [sys.executable, "-c", code]
        run = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
        return run.stderr

    assert said(tmp_path).count(f"compiling for this machine, about 10 s: kept in {tmp_path}") == 1
    assert "compiling" not in said(tmp_path)


def simulate(
    n_samples: int, n_variants: int, missing: float, seed: int = 0
) -> tuple[NDArray[np.int8], NDArray[np.float64], NDArray[np.float64]]:
    """Dosages (the first five rare, the sixth common and flipped), 3 traits, 6 covariates."""
    rng = np.random.default_rng(seed)
    frequency = rng.uniform(0.02, 0.5, n_variants)
    frequency[5] = 0.9
    dosage = rng.binomial(2, frequency[:, None], size=(n_variants, n_samples)).astype(np.int8)
    dosage[:5] = 0
    for row in dosage[:5]:
        row[rng.choice(n_samples, 5, replace=False)] = 1  # minor-allele count 5
    covariates = np.column_stack(
        [np.ones(n_samples), rng.normal(size=(n_samples, 4)), rng.random(n_samples) < 0.1]
    )
    traits = rng.normal(size=(n_samples, 3)) + covariates @ rng.normal(size=(6, 3))
    traits[:, 0] += 1.5 * dosage[10]
    traits[:, 1] += 40.0
    dosage[rng.random(dosage.shape) < missing] = -9
    return dosage, traits, covariates


def run(
    dosage: NDArray[np.int8] | NDArray[np.float32],
    traits: NDArray[np.float64],
    covariates: NDArray[np.float64],
    block: int = 100,
    **settings: object,
) -> kernel.Association:
    """All blocks as one result."""
    model = kernel.fit_null(traits, covariates)
    blocks = [dosage[i : i + block] for i in range(0, len(dosage), block)]
    return stacked(list(kernel.associate(blocks, model, **settings)))  # type: ignore[arg-type]


def stacked(rows: list[kernel.Association]) -> kernel.Association:
    """Blocks one below the other."""
    return kernel.Association(
        *(
            np.concatenate([getattr(row, name) for row in rows])
            for name in (
                *("left_out", "n", "effect_allele_frequency", "n_by_group", "beta", "se"),
                "status",
            )
        ),
        seen=[row.seen for row in rows],
    )


@pytest.mark.parametrize("missing", [0.0, 0.1])
@pytest.mark.parametrize("known", [1.0, 0.05])
def test_associate__equals_statsmodels_in_float64(missing: float, known: float) -> None:
    """Calls, and dosages that imputation leaves near the mean."""
    calls, traits, covariates = simulate(300, 40, missing, seed=3)
    traits[:50, 1] = np.nan
    dosage = calls if known == 1 else np.where(calls < 0, calls, 1.1 + known * (calls - 1.1))
    dosage = dosage.astype(np.int8 if known == 1 else np.float32)
    result = run(dosage, traits, covariates, precision="float64")
    for v in range(len(dosage)):
        for k in range(3):
            keep = (dosage[v] >= 0) & np.isfinite(traits[:, k])
            design = np.column_stack([dosage[v, keep], covariates[keep]])
            fit = sm.OLS(traits[keep, k], design).fit()
            beta, se = result.beta[v, k], result.se[v, k]
            np.testing.assert_allclose(beta, fit.params[0], rtol=1e-9, atol=1e-9 * fit.bse[0])
            np.testing.assert_allclose(se, fit.bse[0], rtol=1e-9)
            np.testing.assert_allclose(beta / se, fit.tvalues[0], rtol=1e-9, atol=1e-9)


def test_associate__keeps_what_is_left_of_a_nearly_perfect_fit() -> None:
    dosage, traits, covariates = simulate(30, 40, 0.0, seed=5)
    traits = traits[:, :1] * 1e-4 + dosage[:1].T  # one variant explains nearly all
    result = run(dosage, traits, covariates)
    fit = sm.OLS(traits[:, 0], np.column_stack([dosage[0], covariates])).fit()
    assert fit.rsquared > 1 - 1e-4
    np.testing.assert_allclose(result.se[0, 0], fit.bse[0], rtol=1e-6)


def some_missing(traits: NDArray[np.float64], seed: int) -> NDArray[np.float64]:
    """Traits of three more patterns: few lack one, most lack another, two are lacked together."""
    rng = np.random.default_rng(seed)
    more = traits[:, [0, 1, 2, 0]] + rng.normal(size=(len(traits), 4))
    more[rng.random(len(traits)) < 0.03, 0] = np.nan
    more[rng.random(len(traits)) < 0.7, 1] = np.nan
    more[np.ix_(rng.random(len(traits)) < 0.4, [2, 3])] = np.nan
    return np.concatenate([traits, more], axis=1)


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_associate__by_torch_equals_the_cpu(
    precision: kernel.Precision, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What runs on a GPU, run by torch on the CPU, in several gathers."""
    monkeypatch.setattr(complete_case_torch, "MAX_GATHERED", 20_000)
    dosage, traits, covariates = simulate(300, 60, 0.05, seed=1)
    dosage[20] = 1
    dosage[21] = -9
    dosage[22] = np.where(covariates[:, 5] == 1, -9, dosage[22])  # a covariate loses its people
    dosage[23] = covariates[:, 5]
    traits = some_missing(traits, seed=1)
    cpu = run(dosage, traits, covariates, precision=precision)
    assert cpu.status[20:24].tolist() == [1, 2, 3, 3]
    torch = run(dosage, traits, covariates, precision=precision, devices=["torch:cpu"])
    tolerance = 1e-9 if precision == "float64" else 2e-5
    np.testing.assert_array_equal(torch.status, cpu.status)
    np.testing.assert_array_equal(torch.n_by_group, cpu.n_by_group)
    np.testing.assert_array_equal(torch.n, cpu.n)
    np.testing.assert_array_equal(torch.effect_allele_frequency, cpu.effect_allele_frequency)
    np.testing.assert_allclose(
        torch.beta / torch.se, cpu.beta / cpu.se, rtol=tolerance, atol=tolerance
    )
    np.testing.assert_allclose(torch.se, cpu.se, rtol=tolerance)
    assert torch.beta.dtype == np.dtype(precision)


@pytest.mark.parametrize("device", ["cpu", "torch:cpu"])
@pytest.mark.parametrize("missing", [0.0, 0.05])
def test_associate__strong_effects_keep_their_digits_in_float32(
    device: str, missing: float
) -> None:
    """A variant explains 99.9% of a trait that all have, of one that some lack, and of dosages."""
    dosage, traits, covariates = simulate(2000, 40, missing, seed=4)
    noise = 0.02 * np.random.default_rng(4).normal(size=(2000, 2))
    traits[:, :2] = np.maximum(dosage[12], 0)[:, None] + noise
    traits[::9, 1] = np.nan
    fractions = np.where(dosage < 0, -9, 0.02 + 0.97 * dosage).astype(np.float32)
    for block in (dosage, fractions):
        found = run(block, traits, covariates, precision="float32", devices=[device])
        exact = run(block, traits, covariates, precision="float64")
        t, exact_t = found.beta / found.se, exact.beta / exact.se
        assert (missing > 0) or (np.abs(exact_t[12, :2]) > 700).all()
        np.testing.assert_allclose(t, exact_t, rtol=1e-5, atol=1e-4)
        np.testing.assert_allclose(found.se, exact.se, rtol=1e-5)


@pytest.mark.parametrize("device", ["cpu", "torch:cpu"])
@pytest.mark.parametrize("missing", [0.0, 0.02])
def test_associate__what_covariates_leave_of_a_variant_keeps_its_digits_in_float32(
    device: str, missing: float
) -> None:
    """1 to 10% of each variant, of a trait that all have and of one that some lack."""
    dosage, traits, covariates = simulate(3000, 40, missing, seed=6)
    rng = np.random.default_rng(6)
    own = rng.random(dosage.shape) < np.linspace(0.01, 0.1, 40)[:, None]
    like = rng.binomial(2, 0.4, 3000).astype(np.int8)
    dosage = np.where((dosage < 0) | own, dosage, like)
    covariates = np.column_stack([covariates, like])
    traits[:, 0] += like
    traits[::9, 1] = np.nan
    found = run(dosage, traits, covariates, precision="float32", devices=[device])
    exact = run(dosage, traits, covariates, precision="float64")
    assert (exact.status == 0).all()
    np.testing.assert_allclose(found.se, exact.se, rtol=2e-6)
    np.testing.assert_allclose(found.beta / found.se, exact.beta / exact.se, rtol=1e-5, atol=3e-5)


def test_torch_regression__sums_fractions_as_the_cpu() -> None:
    dosage, traits, covariates = simulate(300, 60, 0.05)
    model = kernel.fit_null(traits, covariates)
    side = complete_case_torch.TorchRegression(model, np.dtype("float32"), "cpu")
    np.testing.assert_array_equal(side.summarize(side.load(dosage)), summarize(dosage))
    fractions = np.where(dosage < 0, -9, dosage * 0.9 + 0.03).astype(np.float32)
    np.testing.assert_allclose(
        side.summarize(side.load(fractions)), summarize(fractions), rtol=1e-6
    )


@pytest.mark.parametrize("device", ["cpu", "torch:cpu"])
def test_associate__unpacks_what_a_bed_holds(device: str, tmp_path: Path) -> None:
    """Everyone, many in another order, few; all variants and some; 301 people fill no byte."""
    dosage, traits, covariates = simulate(301, 60, 0.05)
    write_plink(tmp_path / "g", dosage)
    source = open_genotypes(tmp_path / "g")
    order = np.random.default_rng(0).permutation(301)
    for chosen in (np.full(60, True), np.arange(60) % 3 > 0):
        source.select_variants(chosen)
        for index in (None, np.arange(301), order[:200], order[:70]):
            people = slice(None) if index is None else index
            model = kernel.fit_null(traits[people], covariates[people])
            packed = source.read_packed(0, source.n_variants, index)
            assert isinstance(packed, PackedCalls)
            plain = source.read(0, source.n_variants, index)
            results = [
                next(kernel.associate([block], model, devices=[device]))
                for block in (packed, plain)
            ]
            np.testing.assert_array_equal(results[0].beta, results[1].beta)
            np.testing.assert_array_equal(results[0].n, results[1].n)


def test_associate__goes_on_in_halves_where_a_gpu_has_no_memory(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    dosage, traits, covariates = simulate(300, 60, 0.05)
    whole = run(dosage, traits, covariates, devices=["torch:cpu"])
    regress = complete_case_torch.TorchRegression.regress

    def small_gpu(self: Any, g: Any, moments: NDArray[np.float64]) -> Any:
        if len(g) > 20:
            raise OutOfMemoryError("20 variants fill this GPU")
        return regress(self, g, moments)

    monkeypatch.setattr(complete_case_torch.TorchRegression, "regress", small_gpu)
    monkeypatch.setattr(kernel, "GPU_STREAMS", 1)  # the second block after the first
    seen = kernel.Consumer(np.ones((300, 1)), lambda block: len(block.centred))
    model = kernel.fit_null(traits, covariates)
    rows = list(kernel.associate([dosage] * 2, model, devices=["torch:cpu"], consumers=[seen]))
    for row in rows:
        np.testing.assert_allclose(row.beta, whole.beta, rtol=1e-6)
        np.testing.assert_array_equal(row.n, whole.n)
        assert row.seen == [[15, 15, 15, 15]]
    tried = [record.args for record in caplog.records]
    assert tried == [(60, 30), (30, 15)]  # and never again


def test_associate__a_gpu_without_memory_for_the_traits(monkeypatch: pytest.MonkeyPatch) -> None:
    dosage, traits, covariates = simulate(300, 60, 0.02)

    def full_gpu(*_: Any) -> None:
        raise OutOfMemoryError("the traits fill this GPU")

    monkeypatch.setattr(complete_case_torch.TorchRegression, "_to_device", full_gpu)
    words = rf"no memory for {traits.shape[1]} traits of 300 people; give --traits-at-once"
    with pytest.raises(InputError, match=words):
        run(dosage, traits, covariates, devices=["torch:cpu"])


@pytest.mark.parametrize("missing", [0.0, 0.05])
@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_associate__traits_that_people_lack_are_fitted_among_the_others(
    missing: float, precision: kernel.Precision
) -> None:
    """Each trait as if it were alone, with only the people who have it."""
    dosage, traits, covariates = simulate(900, 60, missing, seed=2)
    traits = some_missing(traits, seed=2)
    together = run(dosage, traits, covariates, precision=precision)
    model = kernel.fit_null(traits, covariates)
    group_of = {int(k): i for i, group in enumerate(model.groups) for k in group.trait_index}
    assert len(model.groups) == 4
    tolerance = 1e-9 if precision == "float64" else 2e-5
    for k in range(traits.shape[1]):
        has = np.isfinite(traits[:, k])
        alone = run(dosage[:, has], traits[has, k : k + 1], covariates[has], precision="float64")
        tested = alone.status == 0
        assert tested.sum() > 50
        np.testing.assert_array_equal(np.isfinite(together.beta[:, k]), tested)
        np.testing.assert_array_equal(together.n_by_group[:, group_of[k]], alone.n)
        np.testing.assert_allclose(
            (together.beta[:, k] / together.se[:, k])[tested],
            (alone.beta[:, 0] / alone.se[:, 0])[tested],
            rtol=tolerance,
            atol=tolerance,
        )
        np.testing.assert_allclose(
            together.se[tested, k], alone.se[tested, 0], rtol=max(tolerance, 1e-9)
        )


@pytest.mark.parametrize("devices", [["cpu"], ["torch:cpu", "torch:cpu"]])
def test_associate__consumers_ride_along(devices: list[str]) -> None:
    """The sums of METHODS for heritability: probes times the relationship, block by block."""
    dosage, traits, covariates = simulate(400, 90, 0.0)
    model = kernel.fit_null(traits, covariates)
    rng = np.random.default_rng(0)
    probes = rng.normal(size=(400, 5))
    probes -= model.q @ (model.q.T @ probes)
    probes_twice = kernel.Consumer(
        probes, lambda block: np.asarray(block.centred.T @ block.products)
    )
    permuted = kernel.Consumer(
        model.y[rng.permutation(400)], lambda block: np.asarray(block.products)
    )
    blocks = [dosage[i : i + 25] for i in range(0, 90, 25)]
    rows = list(
        kernel.associate(
            blocks,
            model,
            devices=devices,
            n_threads=2,
            precision="float64",
            consumers=[probes_twice, permuted],
        )
    )
    plain = run(dosage, traits, covariates, precision="float64", block=25)
    np.testing.assert_allclose(stacked(rows).beta, plain.beta, rtol=1e-12)
    centred = dosage - np.round(256 * dosage.mean(axis=1, keepdims=True)) / 256
    found = sum(once for row in rows for once in row.seen[0])
    np.testing.assert_allclose(found, centred.T @ (centred @ probes), rtol=1e-9)
    scores = np.concatenate([once for row in rows for once in row.seen[1]])
    np.testing.assert_allclose(scores, centred @ permuted.columns, rtol=1e-9, atol=1e-9)


def test_associate__which_variants_are_permuted_does_not_depend_on_blocks() -> None:
    """Nor on what is left out before them; so groups of traits can be put side by side."""
    dosage, traits, covariates = simulate(300, 90, 0.0)
    dosage[10] = 1
    model = kernel.fit_null(traits, covariates)
    found = []
    for size in (7, 32):
        blocks = [dosage[i : i + size] for i in range(0, 90, size)]
        rows = kernel.associate(
            blocks,
            model,
            precision="float64",
            variant_filter=VariantFilter(min_maf=0.1),
            consumers=[permutation.permutation_consumer(model, 4)],
            starts=range(1000, 1090, size),
        )
        found.append(np.concatenate([once for row in rows for once in row.seen[0]]))
    np.testing.assert_allclose(found[0], found[1], rtol=1e-5)
    assert 5 < len(found[0]) < 23


def test_associate__names_what_cannot_be_tested() -> None:
    dosage, traits, covariates = simulate(200, 30, 0.0)
    dosage[0], dosage[1], dosage[2], dosage[3] = 0, 1, 2, -9
    dosage[4] = covariates[:, 5]
    dosage[6, 5:] = -9
    result = run(dosage, traits, covariates)
    names = [kernel.STATUS_NAMES[s] for s in result.status]
    assert names[:4] == ["monomorphic", "monomorphic", "monomorphic", "too_few_genotypes"]
    assert names[4] == "collinear_with_covariates"
    assert names[6] == "too_few_genotypes"
    assert np.isnan(result.beta[[0, 1, 2, 3, 4, 6]]).all()
    assert np.isnan(result.se[[0, 1, 2, 3, 4, 6]]).all()
    assert np.isfinite(result.beta[7:]).all()
    assert result.n[[0, 3, 6]].tolist() == [200, 0, 5]
    assert result.effect_allele_frequency[:3].tolist() == [0, 0.5, 1]
    assert np.isnan(result.effect_allele_frequency[3])


def test_associate__a_trait_does_not_depend_on_its_neighbours() -> None:
    dosage, traits, covariates = simulate(400, 50, 0.02)
    traits[::7, 1] = np.nan
    together = run(dosage, traits, covariates)
    for k in range(3):
        alone = run(dosage, traits[:, [k]], covariates)
        np.testing.assert_allclose(alone.beta[:, 0], together.beta[:, k], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(alone.se[:, 0], together.se[:, k], rtol=1e-6)


def test_associate__threads_change_no_bit() -> None:
    dosage, traits, covariates = simulate(400, 300, 0.02)
    one = run(dosage, traits, covariates, block=37)
    three = run(dosage, traits, covariates, block=37, n_threads=3)
    np.testing.assert_array_equal(one.beta, three.beta)
    np.testing.assert_array_equal(one.se, three.se)


def test_associate__reads_only_a_few_blocks_ahead() -> None:
    """Memory is bounded by blocks, however many there are."""
    dosage, traits, covariates = simulate(100, 12, 0.0)
    n_read = 0

    def blocks() -> Iterator[NDArray[np.int8]]:
        nonlocal n_read
        for _ in range(1000):
            n_read += 1
            yield dosage

    results = kernel.associate(blocks(), kernel.fit_null(traits, covariates), n_threads=2)
    next(results)
    assert n_read <= 6
    results.close()


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(seed=st.integers(0, 2**32 - 1), missing=st.sampled_from([0.0, 0.05]))
def test_associate__order_of_people_and_allele_change_nothing(seed: int, missing: float) -> None:
    """Shuffling people leaves all as it was; counting the other allele turns only the sign."""
    dosage, traits, covariates = simulate(120, 20, missing, seed=seed)
    result = run(dosage, traits, covariates, precision="float64")
    order = np.random.default_rng(seed).permutation(120)
    shuffled = run(dosage[:, order], traits[order], covariates[order], precision="float64")
    np.testing.assert_allclose(shuffled.beta / shuffled.se, result.beta / result.se, atol=1e-8)
    swapped = run(
        np.where(dosage < 0, dosage, 2 - dosage).astype(np.int8),
        traits,
        covariates,
        precision="float64",
    )
    np.testing.assert_allclose(-swapped.beta, result.beta, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(swapped.se, result.se, rtol=1e-9)
    np.testing.assert_allclose(
        1 - swapped.effect_allele_frequency, result.effect_allele_frequency, rtol=1e-12
    )


def test_fit_null__leaves_out_traits_that_cannot_be_tested() -> None:
    _, traits, covariates = simulate(100, 12, 0.0)
    sex = (np.arange(100) < 50).astype(float)
    covariates = np.column_stack([covariates, sex])
    constant, combination, few, men = (traits[:, 0].copy() for _ in range(4))
    constant[:] = 7.1
    combination[:] = covariates @ np.arange(7.0)
    few[8:] = np.nan
    men[sex == 0] = np.nan  # sex is constant among those who have it
    model = kernel.fit_null(
        np.column_stack([traits, constant, combination, few, men, few * np.nan]), covariates
    )
    assert list(model.excluded) == [3, 4, 5, 6, 7]
    assert "constant" in model.excluded[3]
    assert "explain all" in model.excluded[4]
    assert "8 people have it" in model.excluded[5]
    assert "collinear among the 50" in model.excluded[6]
    assert [group.trait_index.tolist() for group in model.groups] == [[0, 1, 2]]
    residual = traits - covariates @ np.linalg.lstsq(covariates, traits, rcond=None)[0]
    correlation = kernel.correlation(model, model)
    np.testing.assert_allclose(correlation, np.corrcoef(residual.T), rtol=1e-10)


def test_fit_null__refuses_collinear_covariates() -> None:
    with pytest.raises(ValueError, match="collinear"):
        kernel.fit_null(np.ones((10, 1)), np.ones((10, 2)))


def test_fit_null__correlation_over_shared_people() -> None:
    rng = np.random.default_rng(0)
    traits = rng.multivariate_normal([0, 0], [[1, 0.6], [0.6, 1]], size=20_000)
    traits[:9000, 0] = np.nan
    traits[-9000:, 1] = np.nan
    model = kernel.fit_null(traits, np.ones((20_000, 1)))
    # 2,000 people have both
    assert kernel.correlation(model, model)[0, 1] == pytest.approx(0.6, abs=0.05)


def test_design_matrix__levels_and_reference() -> None:
    table = pd.DataFrame(
        {
            "age": [1.0, 2, 4, 8, 16, 32],
            "site": ["b", "a", "b", "c", "a", "b"],
            "code": ["1", "1", "2", "2", "1", "2"],
            "twice": [2.0, 4, 8, 16, 32, 64],
            "one": [5.0] * 6,
        }
    )
    matrix, names, left_out = design_matrix(table)
    assert names == ["intercept", "age", "site=a", "site=c", "code=2"]
    assert matrix[:, 2].tolist() == [0, 1, 0, 0, 1, 0]
    assert matrix[:, 4].tolist() == [0, 0, 1, 1, 0, 1]
    assert left_out["twice"].startswith("a combination of")
    assert left_out["one"] == "constant"


@pytest.mark.parametrize("exact", [True, False])
def test_genotype_pcs__equal_plink2(
    exact: bool,
    tmp_path: Path,
    data_dir: Path,
    tool: Callable[[str], str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """957 people of 11 populations, the same variants on both sides."""
    prefix = unpack(data_dir / "genotypes" / "hapmap3-957", "data", tmp_path / "hapmap")
    source = open_genotypes(prefix)
    if not exact:
        monkeypatch.setattr(pca, "EXACT_SAMPLES", 0)

    def blocks() -> Iterator[NDArray[np.int8]]:
        for start in range(0, 4000, 500):
            yield source.read(start, start + 500)

    pcs, values = pca.genotype_pcs(blocks, source.n_samples, 6)
    kept = np.concatenate([pca.standardize(block)[1] for block in blocks()])
    extract = tmp_path / "extract"
    extract.write_text("\n".join(source.variants["variant_id"].iloc[:4000][kept]))
    command = [tool("plink2"), "--bfile", prefix, "--extract", extract, "--pca", "6"]
    subprocess.run([*command, "--threads", "1", "--out", prefix], check=True, capture_output=True)
    theirs = pd.read_csv(f"{prefix}.eigenvec", sep="\t").filter(like="PC").to_numpy()
    their_values = np.loadtxt(f"{prefix}.eigenval")
    agreement = np.abs((pcs * theirs).sum(axis=0))  # both of unit length
    assert (agreement[:4] > 0.99).all(), agreement
    np.testing.assert_allclose(values[:4], their_values[:4], rtol=0.02)
    np.testing.assert_allclose(pcs.T @ pcs, np.eye(6), atol=1e-5)
    largest = np.abs(pcs).argmax(axis=0)
    assert (pcs[largest, np.arange(6)] > 0).all()
    if exact:
        again, _ = pca.genotype_pcs(blocks, source.n_samples, 6)
        np.testing.assert_array_equal(pcs, again)


def test_genotype_pcs__too_many_components() -> None:
    with pytest.raises(ValueError, match="5 components of 2 usable variants"):
        pca.genotype_pcs(lambda: [simulate(50, 12, 0.0)[0][6:8]], 50, 5)
    with pytest.raises(ValueError, match="50 components of 50 people"):
        pca.genotype_pcs(lambda: [], 50, 50)


def test_thin__leaves_no_linked_neighbours() -> None:
    """Copies of a variant go, across a block's edge too; another chromosome starts anew."""
    rng = np.random.default_rng(0)
    base = rng.binomial(2, 0.3, size=(40, 500)).astype(np.int8)
    noisy = np.where(rng.random((40, 500)) < 0.02, rng.binomial(2, 0.3, (40, 500)), base)
    dosage = np.empty((120, 500), dtype=np.int8)
    dosage[0::3], dosage[1::3], dosage[2::3] = base, noisy, 2 - base
    kept = pca.thin([("1", dosage[:50]), ("1", dosage[50:]), ("2", dosage)])
    assert kept.shape == (240,)
    np.testing.assert_array_equal(np.flatnonzero(kept[:120]), np.arange(0, 120, 3))
    np.testing.assert_array_equal(kept[120:], kept[:120])
    rare = np.zeros((3, 500), dtype=np.int8)
    rare[:, 0] = 1
    assert not pca.thin([("1", rare)]).any()

"""The regression against plink2, statsmodels and itself; the components against plink2."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from plink_files import plink2_glm, unpack, write_plink

from axoloci.covariates import design_matrix
from axoloci.io.genotypes import open_genotypes
from axoloci.tasks.gwas import kernel, pca
from axoloci.tasks.gwas.complete_case_torch import TorchRegression


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
    dosage: NDArray[np.int8],
    traits: NDArray[np.float64],
    covariates: NDArray[np.float64],
    block: int = 100,
    **settings: object,
) -> kernel.Association:
    """All blocks as one result."""
    model = kernel.fit_null(traits, covariates)
    blocks = [dosage[i : i + block] for i in range(0, len(dosage), block)]
    rows = list(kernel.associate(blocks, model, **settings))  # type: ignore[arg-type]
    return kernel.Association(
        *(
            np.concatenate([getattr(row, name) for row in rows])
            for name in ("n", "effect_allele_frequency", "n_by_group", "beta", "se", "status")
        )
    )


def assert_equal_to_plink2(
    result: kernel.Association,
    tables: dict[int, pd.DataFrame],
    variant_id: pd.Index,
    group_of: list[int],
) -> None:
    """|Δβ|/SE and |Δt| below 1e-4 (plus 1e-5 relative), n the same."""
    for k, table in tables.items():
        assert (table["A1"] == table["ALT"]).all()
        tested = table["BETA"].notna()
        rows = variant_id.get_indexer(table.index[tested])
        assert (rows >= 0).all()
        theirs = table[tested]
        beta, se = result.beta[rows, k].astype(float), result.se[rows, k].astype(float)
        assert not np.isnan(beta).any()
        assert (result.n_by_group[rows, group_of[k]] == theirs["OBS_CT"]).all()
        delta_beta = np.abs(beta - theirs["BETA"]) / theirs["SE"]
        delta_t = np.abs(beta / se - theirs["T_STAT"])
        allowed = 1e-4 + 1e-5 * theirs["T_STAT"].abs()
        assert (delta_beta < allowed).all()
        assert (delta_t < allowed).all()


@pytest.mark.parametrize("missing", [0.0, 0.01, 0.1])
def test_associate__equals_plink2(
    missing: float, tmp_path: Path, tool: Callable[[str], str]
) -> None:
    """Rare variants, a flipped one, a strong hit, covariates, and a trait with missing values."""
    dosage, traits, covariates = simulate(800, 600, missing)
    traits[::13, 2] = np.nan
    write_plink(tmp_path / "g", dosage)
    tables = plink2_glm(tool("plink2"), tmp_path / "g", traits, covariates)
    result = run(dosage, traits, covariates)
    assert_equal_to_plink2(
        result, tables, pd.Index([f"rs{i}" for i in range(600)]), group_of=[0, 0, 1]
    )
    assert result.se.shape == (600, 3)
    assert (np.abs(result.beta[10, 0] / result.se[10, 0])) > 10


def test_associate__equals_plink2_on_real_mice(
    tmp_path: Path, data_dir: Path, tool: Callable[[str], str]
) -> None:
    """Real traits with missing values; plink2 leaves out what has a negative position."""
    folder = data_dir / "genotypes" / "mouse-hs1940"
    source = open_genotypes(unpack(folder, "mouse_hs1940", tmp_path / "mouse"))
    pheno = pd.read_csv(folder / "mouse_hs1940.pheno.txt.gz", sep=r"\s+", header=None)
    traits = pheno[[0, 1, 2, 5]].to_numpy()  # the fourth is yes or no
    rng = np.random.default_rng(0)
    covariates = np.column_stack([np.ones(1940), rng.normal(size=(1940, 5))])
    tables = plink2_glm(tool("plink2"), tmp_path / "mouse", traits, covariates, "--chr-set", "19")
    result = run(source.read(0, source.n_variants), traits, covariates)
    groups = kernel.fit_null(traits, covariates).groups
    group_of = [next(i for i, g in enumerate(groups) if k in g.trait_index) for k in range(4)]
    assert_equal_to_plink2(result, tables, pd.Index(source.variants["variant_id"]), group_of)
    assert len(tables[0]) == 12226 - 1926


@pytest.mark.parametrize("missing", [0.0, 0.1])
def test_associate__equals_statsmodels_in_float64(missing: float) -> None:
    dosage, traits, covariates = simulate(300, 40, missing, seed=3)
    traits[:50, 1] = np.nan
    result = run(dosage, traits, covariates, precision="float64")
    for v in range(len(dosage)):
        for k in range(3):
            keep = (dosage[v] >= 0) & np.isfinite(traits[:, k])
            design = np.column_stack([dosage[v, keep], covariates[keep]])
            fit = sm.OLS(traits[keep, k], design).fit()
            np.testing.assert_allclose(
                result.beta[v, k], fit.params[0], rtol=1e-9, atol=1e-9 * fit.bse[0]
            )
            np.testing.assert_allclose(result.se[v, k], fit.bse[0], rtol=1e-9)


def test_associate__keeps_what_is_left_of_a_nearly_perfect_fit() -> None:
    dosage, traits, covariates = simulate(30, 40, 0.0, seed=5)
    traits = traits[:, :1] * 1e-4 + dosage[:1].T  # one variant explains nearly all
    result = run(dosage, traits, covariates)
    fit = sm.OLS(traits[:, 0], np.column_stack([dosage[0], covariates])).fit()
    assert fit.rsquared > 1 - 1e-4
    np.testing.assert_allclose(result.se[0, 0], fit.bse[0], rtol=1e-6)


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_torch_regression__equals_the_cpu(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What runs on a GPU, run by torch on the CPU, in several gathers."""
    from axoloci.tasks.gwas import complete_case_torch

    monkeypatch.setattr(complete_case_torch, "MAX_GATHERED", 20_000)
    dosage, traits, covariates = simulate(300, 60, 0.05, seed=1)
    dosage[20] = 1
    dosage[21] = -9
    dosage[22] = np.where(covariates[:, 5] == 1, -9, dosage[22])  # a covariate loses its people
    dosage[23] = covariates[:, 5]
    model = kernel.fit_null(traits, covariates)
    group = model.groups[0]
    torch_side = TorchRegression(group.q, group.y.astype(precision), group.scale, "cpu")
    beta, se, counts, status = torch_side.regress(dosage)
    cpu = run(dosage, traits, covariates, precision=precision)
    tolerance = 1e-9 if precision == "float64" else 2e-5
    np.testing.assert_array_equal(status, cpu.status)
    assert status[20:24].tolist() == [1, 2, 3, 3]
    np.testing.assert_allclose(beta / se, cpu.beta / cpu.se, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(se, cpu.se, rtol=tolerance)
    np.testing.assert_array_equal(300 - counts[:, 0], cpu.n)
    assert beta.dtype == np.dtype(precision)


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
    np.testing.assert_allclose(model.trait_correlation[:3, :3], np.corrcoef(residual.T), rtol=1e-10)
    assert np.isnan(model.trait_correlation[3:]).all()


def test_fit_null__refuses_collinear_covariates() -> None:
    with pytest.raises(ValueError, match="collinear"):
        kernel.fit_null(np.ones((10, 1)), np.ones((10, 2)))


def test_fit_null__correlation_over_shared_people() -> None:
    rng = np.random.default_rng(0)
    traits = rng.multivariate_normal([0, 0], [[1, 0.6], [0.6, 1]], size=20_000)
    traits[:9000, 0] = np.nan
    traits[-9000:, 1] = np.nan
    model = kernel.fit_null(traits, np.ones((20_000, 1)))
    assert model.trait_correlation[0, 1] == pytest.approx(0.6, abs=0.05)  # 2,000 people have both


def test_design_matrix__levels_and_reference(caplog: pytest.LogCaptureFixture) -> None:
    table = pd.DataFrame(
        {
            "age": [1.0, 2, 4, 8, 16, 32],
            "site": ["b", "a", "b", "c", "a", "b"],
            "code": ["1", "1", "2", "2", "1", "2"],
            "twice": [2.0, 4, 8, 16, 32, 64],
            "one": [5.0] * 6,
        }
    )
    with caplog.at_level("INFO", logger="axoloci"):
        matrix, names, left_out = design_matrix(table)
    assert names == ["intercept", "age", "site=a", "site=c", "code=2"]
    assert matrix[:, 2].tolist() == [0, 1, 0, 0, 1, 0]
    assert matrix[:, 4].tolist() == [0, 0, 1, 1, 0, 1]
    assert "reference 'b'" in caplog.text
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

"""The store of summary statistics, and p-values where float64 ends."""

from __future__ import annotations

import gzip
import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import mpmath
import numpy as np
import pandas as pd
import pytest
from scipy import stats

from axoloci.errors import InputError
from axoloci.io import sumstats
from axoloci.io.sumstats import (
    Part,
    SumstatsWriter,
    neg_log10_p,
    plan_parts,
    read_sumstats,
    trait_ranges,
)
from axoloci.io.sumstats_text import write_sumstats_text

CHROMOSOME = ["1"] * 5 + ["2"] * 3 + ["X"] * 2
TRAITS = ["height", "weight"]
PEOPLE = [f"i{i}" for i in range(1000)]


def exact(t: float, df: float) -> float:
    """−log10 of the two-sided p-value of t by mpmath, as long as it takes."""
    with mpmath.workdps(40):
        a, half = mpmath.mpf(df) / 2, mpmath.mpf(1) / 2
        x = df / (df + mpmath.mpf(t) ** 2)
        front = x**a * mpmath.sqrt(1 - x) / (a * mpmath.beta(a, half))
        return float(-mpmath.log10(front * mpmath.hyp2f1(a + half, 1, a + 1, x)))


@pytest.mark.parametrize("df", [1, 2, 3, 10, 143, 500, 5000, 50_000])
def test_neg_log10_p__equals_mpmath_to_1e_minus_3000(df: int) -> None:
    for target in (0.01, 0.3, 2, 7.3, 50, 289, 292, 1000, 3000):
        normal = np.sqrt(2 * np.log(10) * target)  # about the z of p = 10^-target
        t = np.sqrt(df * np.expm1(min(normal**2 / df, 700)))  # and the t
        assert neg_log10_p(t, df) == pytest.approx(exact(t, df), rel=1e-11), target
        assert neg_log10_p(-t, df) == neg_log10_p(t, df)


def test_neg_log10_p__equals_scipy() -> None:
    rng = np.random.default_rng(0)
    t = rng.normal(size=500) * 5
    df = rng.integers(1, 2000, size=500).astype(float)
    expected = -(stats.t.logsf(np.abs(t), df) + np.log(2)) / np.log(10)
    np.testing.assert_allclose(neg_log10_p(t, df), expected, rtol=1e-11, atol=1e-11)


def test_neg_log10_p__without_a_test() -> None:
    assert np.isnan(neg_log10_p([np.nan, 1.0, 1.0], [10, 0, np.nan])).all()
    assert neg_log10_p(np.ones((3, 2)), np.full((3, 1), 600)).shape == (3, 2)
    assert neg_log10_p(0.0, 20) == 0
    assert neg_log10_p(np.inf, 20) == np.inf


def test_plan_parts__within_chromosomes() -> None:
    assert plan_parts([*CHROMOSOME, "1"], 2) == [
        Part("1", 0, 0, 3),
        Part("1", 1, 3, 5),
        Part("2", 0, 5, 8),
        Part("X", 0, 8, 10),
        Part("1", 2, 10, 11),  # a chromosome that comes again
    ]
    assert Part("X", 12, 0, 1).name == "chrX/part-00012.parquet"
    assert plan_parts([], 2) == []
    with pytest.raises(InputError, match="'a/b' cannot name a folder"):
        plan_parts(["a/b"], 1)


def test_plan_parts__smaller_with_many_traits() -> None:
    n = 50_000
    sizes = {k: plan_parts(["1"] * n, k)[0].stop for k in (1, 128, 2048, 100_000)}
    assert sizes == {1: 16_384, 128: 16_384, 2048: 4096, 100_000: 256}


def results(
    part: Part, own_n: bool
) -> tuple[pd.DataFrame, dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Made-up results of the variants of one part, the same however they are cut."""
    index = np.arange(part.start, part.stop)
    variants = pd.DataFrame(
        {
            "chromosome": [CHROMOSOME[i] for i in index],
            "base_pair_location": 100 * index - 100,
            "variant_id": [f"rs{i}" if i != 4 else "." for i in index],
            "effect_allele": ["A"] * len(index),
            "other_allele": ["G"] * len(index),
        }
    )
    beta = np.sin(np.c_[index, index + 0.5]).astype(np.float32)
    beta[index == 6] = np.nan
    arrays = {
        "effect_allele_frequency": index / 20,
        "n": (1000 - index).astype(np.int32),
        "beta": beta,
        "se": np.where(np.isnan(beta), np.nan, 0.05).astype(np.float32),
    }
    return variants, arrays, {"weight": (900 - index).astype(np.int32)} if own_n else {}


@pytest.fixture(autouse=True)
def small_parts(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of three variants, but where their real size is the matter."""
    if "many_traits" not in request.node.name:
        monkeypatch.setattr(sumstats, "PART_VARIANTS", 3)


def make(
    path: Path,
    own_n: bool = False,
    stop_after: int | None = None,
    seed: int = 1,
    replace: bool = False,
    of_chromosome: dict[str, np.ndarray] | None = None,
) -> SumstatsWriter:
    parts = plan_parts(CHROMOSOME, 2)
    writer = SumstatsWriter(path, {"seed": seed}, parts, replace)
    for done, part in enumerate(writer.pending()):
        if done == stop_after:
            return writer
        variants, arrays, n_by_trait = results(part, own_n)
        n_nan = int(np.isnan(arrays["beta"][:, 0]).sum())
        counts = {"tested": len(variants) - n_nan, "monomorphic": n_nan}
        writer.write(
            part, variants, TRAITS, **arrays, n_covariates=3, n_by_trait=n_by_trait, counts=counts
        )
    about: dict[str, Any] = {"n_covariates": 3}
    if own_n:
        about["traits_with_missing"] = ["weight"]
    correlation, sd = np.array([[1, 0.5], [0.5, 1]]), np.array([7.1, 1 / 3])
    writer.finish(TRAITS, PEOPLE, correlation, sd, about, (of_chromosome or {}).items())
    return writer


def contents(path: Path) -> dict[str, bytes]:
    return {str(f.relative_to(path)): f.read_bytes() for f in path.rglob("*") if f.is_file()}


@pytest.mark.parametrize("own_n", [False, True])
def test_read_sumstats__gives_back_what_was_written(tmp_path: Path, own_n: bool) -> None:
    make(tmp_path / "s", own_n)
    store = read_sumstats(tmp_path / "s")
    assert store.traits == TRAITS
    assert (store.n_samples, store.n_covariates, store.n_variants) == (1000, 3, 10)
    assert store.info["variants"] == {"tested": 9, "monomorphic": 1}
    np.testing.assert_array_equal(store.trait_correlation, [[1, 0.5], [0.5, 1]])
    np.testing.assert_array_equal(store.trait_residual_sd, [7.1, 1 / 3])
    assert store.sample_id == PEOPLE
    assert pd.read_csv(tmp_path / "s" / "samples.tsv", sep="\t")["sample_id"].tolist() == PEOPLE
    for key, name in (("trait_correlation", "trait_correlation.npy"), ("samples", "samples.tsv")):
        digest = hashlib.sha256((tmp_path / "s" / name).read_bytes()).hexdigest()
        assert store.info[key] == {"name": name, "sha256": digest}

    variants, arrays, _ = results(Part("", 0, 0, 10), own_n)
    frame = store.trait("weight")
    pd.testing.assert_frame_equal(frame[list(variants.columns)], variants)
    n = 900 - np.arange(10) if own_n else arrays["n"]
    np.testing.assert_array_equal(frame["n"], n)
    np.testing.assert_array_equal(frame["beta"], arrays["beta"][:, 1])
    np.testing.assert_array_equal(frame["se"], arrays["se"][:, 1])
    t = arrays["beta"][:, 1].astype(float) / arrays["se"][:, 1]
    expected = -(stats.t.logsf(np.abs(t), n - 4) + np.log(2)) / np.log(10)
    np.testing.assert_allclose(frame["neg_log10_p"], expected, rtol=1e-6)

    blocks = list(store.blocks())
    assert [len(block.variants) for block in blocks] == [3, 2, 3, 2]
    np.testing.assert_array_equal(np.concatenate([b.beta for b in blocks]), arrays["beta"])
    np.testing.assert_array_equal(np.concatenate([b.se for b in blocks]), arrays["se"])
    df = np.concatenate([b.df for b in blocks])
    np.testing.assert_array_equal(df[:, 0], arrays["n"] - 4)
    np.testing.assert_array_equal(df[:, 1], n - 4)
    assert [len(block.variants) for block in store.blocks("X")] == [2]


def test_read_sumstats__of_a_mixed_model_each_chromosome_has_its_correlation(
    tmp_path: Path,
) -> None:
    own = {name: np.array([[1, r], [r, 1]]) for name, r in zip("12X", (0.1, 0.2, 0.3), strict=True)}
    make(tmp_path / "s", of_chromosome=own)
    store = read_sumstats(tmp_path / "s")
    assert store.of_mixed_model
    for name, correlation in own.items():
        np.testing.assert_array_equal(store.correlation_of(name), correlation)
    np.testing.assert_array_equal(store.trait_correlation, [[1, 0.5], [0.5, 1]])
    assert [block.chromosome for block in store.blocks()] == ["1", "1", "2", "X"]
    (tmp_path / "s" / "trait_correlation" / "chr2.npy").write_bytes(b"")
    with pytest.raises(InputError, match=r"chr2\.npy: missing or changed since"):
        store.correlation_of("2")
    make(tmp_path / "s", seed=2, replace=True)  # nothing of it stays
    make(tmp_path / "plain", seed=2)
    assert contents(tmp_path / "s") == contents(tmp_path / "plain")
    plain = read_sumstats(tmp_path / "s")
    assert not plain.of_mixed_model
    assert plain.correlation_of("2") is plain.trait_correlation


def test_trait__regions(tmp_path: Path) -> None:
    make(tmp_path / "s")
    store = read_sumstats(tmp_path / "s")
    assert list(store.trait("height", "1")["base_pair_location"]) == [-100, 0, 100, 200, 300]
    assert list(store.trait("height", "chr1:100-200")["variant_id"]) == ["rs2", "rs3"]
    assert list(store.trait("height", "X:1-1,000")["variant_id"]) == ["rs8", "rs9"]
    assert len(store.trait("height", "2:1-2")) == 0
    with pytest.raises(InputError, match="no chromosome '7'; it has 1, 2, X"):
        store.trait("height", "7")
    with pytest.raises(InputError, match="write it as 7 or 7:100000-250000"):
        store.trait("height", "7:1")
    with pytest.raises(InputError, match="no trait 'iq'; known: height, weight"):
        store.trait("iq")


def test_sumstats_writer__goes_on_at_a_part(tmp_path: Path) -> None:
    make(tmp_path / "whole")
    make(tmp_path / "s", stop_after=2)
    with pytest.raises(InputError, match="has not finished; run the same command again"):
        read_sumstats(tmp_path / "s")
    before = (tmp_path / "s" / "chr1" / "part-00000.parquet").stat().st_mtime_ns
    (tmp_path / "s" / "chr1" / ".17.tmp.part-00001.parquet").write_bytes(b"PAR1 half")
    writer = SumstatsWriter(tmp_path / "s", {"seed": 1}, plan_parts(CHROMOSOME, 2))
    assert [part.name for part in writer.pending()] == [
        "chr2/part-00000.parquet",
        "chrX/part-00000.parquet",
    ]
    make(tmp_path / "s")
    assert contents(tmp_path / "s") == contents(tmp_path / "whole")
    assert (tmp_path / "s" / "chr1" / "part-00000.parquet").stat().st_mtime_ns == before


def test_sumstats_writer__mends_a_broken_part(tmp_path: Path) -> None:
    make(tmp_path / "whole")
    make(tmp_path / "s")
    part = tmp_path / "s" / "chr1" / "part-00001.parquet"
    part.write_bytes(part.read_bytes()[:-10])
    with pytest.raises(InputError, match=r"part-00001\.parquet: has \d+ bytes, expected"):
        read_sumstats(tmp_path / "s")
    make(tmp_path / "s")
    assert contents(tmp_path / "s") == contents(tmp_path / "whole")
    part.unlink()
    with pytest.raises(InputError, match="is missing; run the same association again"):
        read_sumstats(tmp_path / "s")


@pytest.mark.parametrize("stop_after", [1, None])
def test_sumstats_writer__redoes_a_part_with_a_flipped_byte(
    tmp_path: Path, stop_after: int | None
) -> None:
    """In a run that was killed and in a finished store; the part still opens as Parquet."""
    make(tmp_path / "whole")
    make(tmp_path / "s", stop_after=stop_after)
    part = tmp_path / "s" / "chr1" / "part-00000.parquet"
    content = bytearray(part.read_bytes())
    content[len(content) // 2] ^= 1
    part.write_bytes(content)
    writer = SumstatsWriter(tmp_path / "s", {"seed": 1}, plan_parts(CHROMOSOME, 2))
    assert writer.pending()[0].name == "chr1/part-00000.parquet"
    make(tmp_path / "s")
    assert contents(tmp_path / "s") == contents(tmp_path / "whole")


def test_sumstats_writer__redoes_a_part_without_its_checksum(tmp_path: Path) -> None:
    make(tmp_path / "whole")
    make(tmp_path / "s", stop_after=2)
    (tmp_path / "s" / "chr1" / "part-00000.json").unlink()
    (tmp_path / "s" / "chr1" / "part-00001.json").write_text("{")
    writer = SumstatsWriter(tmp_path / "s", {"seed": 1}, plan_parts(CHROMOSOME, 2))
    assert len(writer.pending()) == 4
    make(tmp_path / "s")
    assert contents(tmp_path / "s") == contents(tmp_path / "whole")


@pytest.mark.parametrize("own_n", [False, True])
def test_sumstats_writer__joins_pieces_to_the_same_bytes(tmp_path: Path, own_n: bool) -> None:
    make(tmp_path / "whole", own_n)
    parts = plan_parts(CHROMOSOME, 2)
    writer = SumstatsWriter(tmp_path / "s", {"seed": 1}, parts)
    groups = trait_ranges(2, 1)
    for part in writer.pending():
        variants, arrays, n_by_trait = results(part, own_n)
        frequency = arrays.pop("effect_allele_frequency")
        status = np.isnan(arrays["beta"][:, 0]).astype(np.uint8)
        for k, group in enumerate(groups):
            assert writer.lacking([part], group) == [part]
            own: dict[str, Any] = {
                "traits": TRAITS[k : k + 1],
                "n": arrays["n"],
                "beta": arrays["beta"][:, [k]],
                "se": arrays["se"][:, [k]],
                "n_covariates": 3,
                "n_by_trait": {name: n for name, n in n_by_trait.items() if name == TRAITS[k]},
            }
            if group.is_last:
                piece = writer.read_piece(part, groups[0])
                assert piece.n_people == 990
                np.testing.assert_array_equal(piece.status, status)
                counts = {"tested": int((status == 0).sum()), "monomorphic": int(status.sum())}
                more = {"effect_allele_frequency": frequency, "counts": counts}
                writer.write(part, variants, **own, **more, earlier=[piece])
            else:
                none = np.empty((0, 1), dtype=np.float32)
                more = {"status": status, "n_people": 990, "permuted": none}
                writer.write_piece(part, group, **own, **more)
                assert writer.lacking([part], group) == []
                assert writer.lacking([part], replace(group, stop=2)) == [part]
    stale = tmp_path / "s" / "chr1" / "part-00000.piece-7-9.parquet"  # of a kill while deleting
    stale.write_bytes(b"PAR1")
    make(tmp_path / "s", own_n)
    assert contents(tmp_path / "s") == contents(tmp_path / "whole")


def test_sumstats_writer__refuses_another_plan(tmp_path: Path) -> None:
    make(tmp_path / "s", stop_after=1)
    with pytest.raises(InputError, match="results of other inputs or settings"):
        SumstatsWriter(tmp_path / "s", {"seed": 2}, plan_parts(CHROMOSOME, 2))


@pytest.mark.parametrize("stop_after", [1, None])
def test_sumstats_writer__replaces_a_store_of_another_plan(
    tmp_path: Path, stop_after: int | None
) -> None:
    make(tmp_path / "whole", seed=2)
    make(tmp_path / "s", stop_after=stop_after)
    (tmp_path / "s" / "chrY").mkdir()
    (tmp_path / "s" / "chrY" / "part-00000.parquet").write_bytes(b"of a chromosome of before")
    (tmp_path / "s" / "chr1" / ".17.tmp.part-00001.parquet").write_bytes(b"PAR1 half")
    make(tmp_path / "s", seed=2, replace=True)
    assert contents(tmp_path / "s") == contents(tmp_path / "whole")
    assert not (tmp_path / "s" / "chrY").exists()


def test_sumstats_writer__goes_on_where_nothing_needs_replacing(tmp_path: Path) -> None:
    make(tmp_path / "s", stop_after=2)
    before = (tmp_path / "s" / "chr1" / "part-00000.parquet").stat().st_mtime_ns
    make(tmp_path / "s", replace=True)
    assert (tmp_path / "s" / "chr1" / "part-00000.parquet").stat().st_mtime_ns == before


@pytest.mark.parametrize("replace", [False, True])
def test_sumstats_writer__leaves_other_files_alone(tmp_path: Path, replace: bool) -> None:
    (tmp_path / "other").mkdir()
    for name in ("thesis.doc", "plan.json"):  # a plan, but not ours
        (tmp_path / "other" / name).write_text('{"plan": "graduate"}')
        with pytest.raises(InputError, match="a folder with other files in it"):
            SumstatsWriter(tmp_path / "other", {}, [], replace)
    assert len(contents(tmp_path / "other")) == 2
    with pytest.raises(InputError, match=r"thesis\.doc: a file; the results need a folder"):
        SumstatsWriter(tmp_path / "other" / "thesis.doc", {}, [], replace)


def test_sumstats_writer__replaces_nothing_that_is_not_of_a_store(tmp_path: Path) -> None:
    make(tmp_path / "s")
    (tmp_path / "s" / "chr1" / "thesis.doc").write_text("")
    before = contents(tmp_path / "s")
    with pytest.raises(InputError, match=r"thesis\.doc is not of a store; move it away"):
        SumstatsWriter(tmp_path / "s", {"seed": 2}, [], replace=True)
    assert contents(tmp_path / "s") == before


def test_read_sumstats__names_faults(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a store of summary statistics"):
        read_sumstats(tmp_path)
    make(tmp_path / "s")
    final = tmp_path / "s" / "sumstats.json"
    info = json.loads(final.read_text())
    final.write_text(json.dumps(info | {"format_version": 2}))
    with pytest.raises(InputError, match="format version 2; this axoloci reads up to 1"):
        read_sumstats(tmp_path / "s")
    final.write_text(json.dumps(info | {"format": "x"}))
    with pytest.raises(InputError, match="not of the format axoloci-sumstats"):
        read_sumstats(tmp_path / "s")


def test_read_sumstats__names_files_that_changed(tmp_path: Path) -> None:
    make(tmp_path / "s")
    samples, correlation = tmp_path / "s" / "samples.tsv", tmp_path / "s" / "trait_correlation.npy"
    samples.write_text(samples.read_text().replace("i7\n", "i07\n"))
    store = read_sumstats(tmp_path / "s")
    with pytest.raises(InputError, match=r"samples\.tsv: missing or changed since"):
        _ = store.sample_id
    np.save(correlation, np.eye(2))
    with pytest.raises(InputError, match=r"trait_correlation\.npy: missing or changed since"):
        read_sumstats(tmp_path / "s")


def test_write_sumstats_text__gwas_ssf(tmp_path: Path) -> None:
    make(tmp_path / "s")
    frame = read_sumstats(tmp_path / "s").trait("height")
    frame.loc[9, "effect_allele"] = "<DEL>"
    counts = write_sumstats_text(tmp_path / "out.tsv.gz", frame)
    assert counts == {
        "written": 6,
        "without_result": 1,
        "perfect_fit": 0,
        "without_position": 2,
        "other_chromosome": 0,
        "alleles_not_acgt": 1,
    }
    with gzip.open(tmp_path / "out.tsv.gz", "rt") as file:
        lines = file.read().splitlines()
    # the order that the standard asks for; rsid and n may follow in any order
    assert lines[0].split("\t") == [
        *("chromosome", "base_pair_location", "effect_allele", "other_allele", "beta"),
        *("standard_error", "effect_allele_frequency", "neg_log_10_p_value", "rsid", "n"),
    ]
    rows = pd.read_csv(tmp_path / "out.tsv.gz", sep="\t", keep_default_na=False)
    assert list(rows["chromosome"]) == [1, 1, 1, 2, 2, 23]
    assert list(rows["rsid"]) == ["rs2", "rs3", "#NA", "rs5", "rs7", "rs8"]
    kept = frame.loc[[2, 3, 4, 5, 7, 8]]
    np.testing.assert_allclose(rows["neg_log_10_p_value"], kept["neg_log10_p"], rtol=1e-6)
    np.testing.assert_allclose(rows["beta"], kept["beta"], rtol=1e-6)
    first = (tmp_path / "out.tsv.gz").read_bytes()
    write_sumstats_text(tmp_path / "out.tsv.gz", frame)
    assert (tmp_path / "out.tsv.gz").read_bytes() == first
    write_sumstats_text(tmp_path / "out.tsv", frame)
    assert (tmp_path / "out.tsv").read_text().splitlines() == lines


@pytest.mark.parametrize("own_n", [False, True])
def test_hits__are_the_results_of_all_traits_from_a_threshold_on(
    tmp_path: Path, own_n: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sumstats, "HIT_NEG_LOG10_P", 40.0)
    make(tmp_path / "s", own_n=own_n)
    store = read_sumstats(tmp_path / "s")
    every = pd.concat([store.trait(name).assign(trait=name) for name in TRAITS])
    for threshold in (0.0, 40.0, 60.0, 1000.0):
        found = store.hits(threshold)
        expected = every[every["neg_log10_p"] >= threshold].sort_index(kind="stable")
        expected = expected[list(sumstats.HIT_COLUMNS)].reset_index(drop=True)
        assert len(found) == len(expected)
        if len(found):
            pd.testing.assert_frame_equal(found, expected, check_dtype=False)
    table = pd.read_csv(tmp_path / "s" / "hits.tsv", sep="\t", keep_default_na=False)
    assert list(table.columns) == list(sumstats.HIT_COLUMNS)
    assert 0 < len(table) == len(store.hits(40.0)) < len(every)
    np.testing.assert_allclose(table["neg_log10_p"], store.hits(40.0)["neg_log10_p"], rtol=1e-5)
    strongest = pd.concat(
        pd.read_parquet(tmp_path / "s" / part["name"]) for part in store.info["parts"]
    )[sumstats.STRONGEST]
    best = every.groupby(level=0)["neg_log10_p"].max()
    np.testing.assert_allclose(strongest.to_numpy(), best, rtol=1e-6)


@pytest.mark.parametrize("own_n", [False, True])
def test_inflation__is_the_median_over_that_of_no_association(tmp_path: Path, own_n: bool) -> None:
    make(tmp_path / "s", own_n=own_n)
    store = read_sumstats(tmp_path / "s")
    assert "10 variants, 2 traits, 1,000 people" in repr(store)
    for n_values, stop in ((100, 10), (1, 3)):
        results = [store.trait(name)[:stop] for name in TRAITS]
        expected = [
            ((rows["beta"] / rows["se"]) ** 2).median()
            / stats.f.ppf(0.5, 1, rows["n"].median() - 4)
            for rows in results
        ]
        np.testing.assert_allclose(store.inflation(n_values), expected, rtol=1e-4)

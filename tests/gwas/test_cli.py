"""`axoloci-gwas` as people run it: files in, files out."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner, Result
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from plink_files import write_plink
from scipy.stats import norm
from support import contents

from axoloci.errors import InputError
from axoloci.io import sumstats
from axoloci.io.sumstats import read_sumstats
from axoloci.io.sumstats_text import p_text
from axoloci.io.tables import write_latents
from axoloci.tasks.gwas import cli, engine, inputs, kernel
from axoloci.tasks.gwas.cli import main

N_SAMPLES, N_VARIANTS = 120, 400


def gwas(*arguments: object, fails: bool = False) -> Result:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert (result.exit_code != 0) == fails, result.output + repr(result.exception)
    return result


def make_study(folder: Path) -> dict[str, Any]:
    """Genotypes on three chromosomes, traits of which one has missing values, covariates."""
    rng = np.random.default_rng(0)
    dosage = rng.binomial(2, rng.uniform(0.1, 0.5, N_VARIANTS)[:, None], (N_VARIANTS, N_SAMPLES))
    dosage = dosage.astype(np.int8)
    dosage[rng.random(dosage.shape) < 0.01] = -9
    dosage[7] = 0
    sex = rng.integers(1, 3, N_SAMPLES)
    write_plink(folder / "g", dosage, ["1"] * 150 + ["2"] * 150 + ["X"] * 100, sex=list(sex))
    ids = [f"i{i}" for i in range(N_SAMPLES)]
    age, site = rng.uniform(20, 80, N_SAMPLES), rng.integers(1, 4, N_SAMPLES)
    traits = pd.DataFrame({"IID": ids, "a": rng.normal(size=N_SAMPLES), "b": age + dosage[20]})
    traits["b"] += rng.normal(size=N_SAMPLES)
    traits.loc[5:9, "b"] = np.nan
    traits["flat"] = 3.0
    covariates = pd.DataFrame({"participant_id": [f"sub-{i}" for i in ids], "age": age})
    covariates["site"] = site
    covariates["double_age"] = 2 * age
    covariates.loc[3, "age"] = np.nan
    traits.to_csv(folder / "t.tsv", sep="\t", index=False, na_rep="NA")
    covariates.to_csv(folder / "c.tsv", sep="\t", index=False, na_rep="n/a")
    return {"dosage": dosage, "sex": sex, "traits": traits, "covariates": covariates}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("study")
    return folder, make_study(folder)


def associate(folder: Path, out: Path, *more: object, fails: bool = False) -> Result:
    traits = () if "--traits" in more else ("--traits", folder / "t.tsv")
    inputs = ("--genotypes", folder / "g", *traits, "--device", "cpu")
    return gwas("associate", *inputs, "--out", out, *more, fails=fails)


def test_associate__complete_traits_are_those_of_the_people_who_have_all(
    study: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    folder, data = study
    traits = data["traits"].set_index("IID")
    # a constant trait is not tested, whoever lacks it
    traits["flat"] = np.where(np.arange(len(traits)) < 9, np.nan, 1.0)
    traits.to_csv(tmp_path / "all.tsv", sep="\t", na_rep="NA")
    complete = traits[traits[["a", "b"]].notna().all(axis=1)]
    assert 2 < len(complete) < len(traits)
    complete.to_csv(tmp_path / "complete.tsv", sep="\t", na_rep="NA")
    stores = {}
    for name, *flag in (("all", "--complete-traits"), ("complete",)):
        table = ("--traits", tmp_path / f"{name}.tsv")
        inputs = ("--genotypes", folder / "g", *table, "--device", "cpu")
        gwas("associate", *inputs, "--out", tmp_path / name, *flag)
        stores[name] = read_sumstats(tmp_path / name)
    assert stores["all"].info["traits_with_missing"] == []
    assert stores["all"].n_samples == len(complete)
    for one, other in zip(stores["all"].blocks(), stores["complete"].blocks(), strict=True):
        np.testing.assert_array_equal(one.beta, other.beta)
        np.testing.assert_array_equal(one.se, other.se)


def test_associate__several_tables_of_traits_are_one_of_the_people_in_all(
    study: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    folder, data = study
    traits = data["traits"].set_index("IID")
    order = np.random.default_rng(0).permutation(len(traits))
    traits[["b"]].iloc[order[5:]].to_csv(tmp_path / "b.tsv", sep="\t", na_rep="NA")
    traits[["a"]].to_csv(tmp_path / "a.tsv", sep="\t", na_rep="NA")
    kept = traits.loc[traits.index.isin(traits.index[order[5:]]), ["a", "b"]]
    kept.to_csv(tmp_path / "both.tsv", sep="\t", na_rep="NA")
    stores = []
    for name, *tables in (("one", "both.tsv"), ("two", "a.tsv", "b.tsv")):
        given = [word for table in tables for word in ("--traits", tmp_path / table)]
        inputs = ("--genotypes", folder / "g", *given, "--device", "cpu")
        gwas("associate", *inputs, "--out", tmp_path / name)
        stores.append(read_sumstats(tmp_path / name))
    assert stores[0].traits == stores[1].traits == ["a", "b"]
    assert stores[0].n_samples == stores[1].n_samples
    for one, other in zip(stores[0].blocks(), stores[1].blocks(), strict=True):
        np.testing.assert_array_equal(one.beta, other.beta)
        np.testing.assert_array_equal(one.se, other.se)
    twice = ("--genotypes", folder / "g", "--traits", tmp_path / "a.tsv")
    more = ("--traits", tmp_path / "both.tsv", "--out", tmp_path / "s")
    said = gwas("associate", *twice, *more, fails=True).output
    assert "the trait 'a' is in" in said
    more = ("--traits", tmp_path / "b.tsv", "--out", tmp_path / "s", "--trait", "a")
    said = gwas("associate", *twice, *more, fails=True).output
    assert "b.tsv: has no trait a; leave it out" in said
    said = gwas("associate", *twice, *more, "--trait", "b", "--trait", "c", fails=True).output
    assert "no trait c" in said


def test_associate__equals_the_kernel_on_the_same_people(
    study: tuple[Path, dict[str, Any]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder, data = study
    caplog.set_level("INFO", logger="axoloci")
    covariates = ("--covariates", folder / "c.tsv", "--categorical", "site")
    result = associate(folder, tmp_path / "s", *covariates, "--threads", 2)
    assert result.stdout == ""
    store = read_sumstats(tmp_path / "s")
    info = store.info
    assert store.traits == ["a", "b"]
    assert info["traits_excluded"].keys() == {"flat"}
    assert info["traits_with_missing"] == ["b"]
    assert (info["n_samples"], info["n_covariates"]) == (119, 4)
    assert info["covariates"][:2] == ["intercept", "age"]
    assert [name.startswith("site=") for name in info["covariates"]] == [False, False, True, True]
    assert info["variants"]["monomorphic"] == 1
    assert info["variants"]["tested"] == N_VARIANTS - 1
    assert [part["name"] for part in info["parts"]] == [
        f"chr{name}/part-00000.parquet" for name in ("1", "2", "X")
    ]
    assert "trait flat is left out: it is constant" in caplog.text
    assert "1 people have a missing covariate" in caplog.text
    assert "double_age is left out: it is a combination" in caplog.text
    assert "20" not in (key for key in info if "date" in key or "time" in key)

    keep = np.arange(N_SAMPLES) != 3
    site = data["covariates"]["site"].to_numpy()[keep]
    matrix = np.column_stack(
        [np.ones(119), data["covariates"]["age"][keep], site == 1, site == 2]
    ).astype(float)
    model = kernel.fit_null(data["traits"][["a", "b"]].to_numpy()[keep], matrix)
    [expected] = kernel.associate([data["dosage"][:300, keep]], model, precision="float64")
    for k, name in enumerate("ab"):
        frame = store.trait(name)[:300]  # the autosomes
        np.testing.assert_allclose(frame["beta"], expected.beta[:, k], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(frame["se"], expected.se[:, k], rtol=1e-5)
        np.testing.assert_array_equal(frame["n"], expected.n_by_group[:, k])
    np.testing.assert_allclose(
        frame["effect_allele_frequency"], expected.effect_allele_frequency, rtol=1e-6
    )
    assert frame["neg_log10_p"].idxmax() == 20
    correlation = kernel.correlation(model, model)
    np.testing.assert_allclose(store.trait_correlation, correlation, rtol=1e-6)
    assert store.sample_id == [f"i{i}" for i in np.flatnonzero(keep)]
    y = data["traits"][["a", "b"]].to_numpy()[keep]
    for k in range(2):  # √(residual sum of squares / n) of those who have the trait
        has = np.isfinite(y[:, k])
        left = np.linalg.lstsq(matrix[has], y[has, k])[1].item()
        assert store.trait_residual_sd[k] == pytest.approx(np.sqrt(left / has.sum()), rel=1e-9)


def test_associate__column_of_choice_and_several_tables(
    study: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    folder, _ = study
    gwas("pca", "--genotypes", folder / "g", "--n-pcs", 2, "--out", tmp_path / "pcs.tsv")
    tables = ("--covariates", folder / "c.tsv", "--covariates", tmp_path / "pcs.tsv")
    associate(folder, tmp_path / "s", *tables, "--covariate", "double_age", "--covariate", "PC2")
    assert read_sumstats(tmp_path / "s").info["covariates"] == ["intercept", "double_age", "PC2"]
    assert read_sumstats(tmp_path / "s").n_samples == N_SAMPLES  # the missing age is of no matter


def test_associate__traits_of_choice_are_as_among_all(
    study: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    folder, data = study
    table = data["traits"].assign(code="x")  # no trait, and not in the way
    table.to_csv(tmp_path / "t.tsv", sep="\t", index=False, na_rep="NA")
    more = ("--traits", tmp_path / "t.tsv", "--trait", "b")
    associate(folder, tmp_path / "one", *more)
    associate(folder, tmp_path / "all")
    one, every = read_sumstats(tmp_path / "one"), read_sumstats(tmp_path / "all")
    assert one.traits == ["b"]
    assert one.n_samples == N_SAMPLES - 5  # who lacks it is left out altogether
    for name in ("beta", "se"):
        np.testing.assert_allclose(one.trait("b")[name], every.trait("b")[name], rtol=1e-6)
    result = associate(folder, tmp_path / "one", *more, "--trait", "a", fails=True)
    assert "other inputs or settings" in result.output
    result = associate(folder, tmp_path / "x", "--trait", "bb", fails=True)
    assert "t.tsv: no column 'bb'; did you mean 'b'?" in result.output


def test_associate__says_that_minus_nine_is_a_value(
    study: tuple[Path, dict[str, Any]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder, data = study
    data["traits"].fillna(-9).to_csv(tmp_path / "t.tsv", sep="\t", index=False)
    data["covariates"].fillna(-9).to_csv(tmp_path / "c.tsv", sep="\t", index=False)
    arguments = ("--traits", tmp_path / "t.tsv", "--covariates", tmp_path / "c.tsv")
    associate(folder, tmp_path / "s", *arguments)
    assert "t.tsv: column 'b' holds -9 for 5 of 120 people" in caplog.text
    assert "c.tsv: column 'age' holds -9 for 1 of 120 people" in caplog.text


def test_associate__takes_latents(study: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    folder, _ = study
    latents = np.random.default_rng(0).normal(size=(60, 3)).astype(np.float32)
    names = ["latent_000", "latent_001", "latent_002"]
    people = [f"i{i}" for i in range(59, -1, -1)]
    write_latents(tmp_path / "l.parquet", people, latents, names, "sha")
    inputs = ("--genotypes", f"{folder / 'g'}.bed", "--traits", tmp_path / "l.parquet")
    gwas("associate", *inputs, "--out", tmp_path / "s")
    store = read_sumstats(tmp_path / "s")
    assert store.traits == names
    assert (store.n_samples, store.n_covariates) == (60, 1)
    np.testing.assert_allclose(store.trait_correlation, np.corrcoef(latents.T), atol=1e-6)
    sd = store.trait_residual_sd  # the definition that makes this the covariance
    covariance = store.trait_correlation * np.outer(sd, sd)
    np.testing.assert_allclose(covariance, np.cov(latents.T, bias=True), atol=1e-6)


@settings(
    max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(seed=st.integers(0, 1000), threads=st.integers(1, 7))
def test_associate__order_of_tables_and_threads_change_no_byte(
    study: tuple[Path, dict[str, Any]],
    tmp_path_factory: pytest.TempPathFactory,
    seed: int,
    threads: int,
) -> None:
    folder, data = study
    work = tmp_path_factory.mktemp("shuffled")
    covariates = ("--categorical", "site", "--threads", threads)
    associate(folder, work / "a", "--covariates", folder / "c.tsv", *covariates)
    for suffix in ("bed", "bim", "fam"):
        (work / f"g.{suffix}").write_bytes((folder / f"g.{suffix}").read_bytes())
    for name, file in (("traits", "t.tsv"), ("covariates", "c.tsv")):
        shuffled = data[name].sample(frac=1, random_state=seed)
        shuffled.to_csv(work / file, sep="\t", index=False, na_rep="NA")
    associate(work, work / "b", "--covariates", work / "c.tsv", *covariates[:2])
    first, second = contents(work / "a"), contents(work / "b")
    assert {name for name in first if first[name] != second[name]} == {"plan.json", "sumstats.json"}
    final = [json.loads(files["sumstats.json"]) for files in (first, second)]
    for info in final:
        del info["plan_sha256"]  # the only trace of the tables' order: their digests
    assert final[0] == final[1]


def test_associate__goes_on_after_a_kill(
    study: tuple[Path, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kill -9 once a part is there; the same command then ends in the same bytes."""
    folder, _ = study
    monkeypatch.setattr(sumstats, "PART_VARIANTS", 20)
    associate(folder, tmp_path / "whole")
    program = (
        "import time; from axoloci.io import sumstats; from axoloci.tasks.gwas.cli import main\n"
        "sumstats.PART_VARIANTS = 20\n"
        "write = sumstats.SumstatsWriter.write\n"
        "sumstats.SumstatsWriter.write = lambda *a, **k: (write(*a, **k), time.sleep(0.05))\n"
        "main()"
    )
    command = [sys.executable, "-c", program, "associate", "--device", "cpu"]
    command += ["--genotypes", str(folder / "g"), "--traits", str(folder / "t.tsv")]
    command += ["--out", str(tmp_path / "s")]
    first = tmp_path / "s" / "chr1" / "part-00001.parquet"
    noted = first.with_suffix(".json")  # written right after the part
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 60
        while not noted.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    assert not (tmp_path / "s" / "sumstats.json").exists()
    before = first.stat().st_mtime_ns
    associate(folder, tmp_path / "s")
    assert contents(tmp_path / "s") == contents(tmp_path / "whole")
    assert first.stat().st_mtime_ns == before
    associate(folder, tmp_path / "s")  # once more: nothing is left to do
    assert contents(tmp_path / "s") == contents(tmp_path / "whole")


def test_associate__one_chromosome_at_a_time_gives_the_same_bytes(
    study: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    folder, _ = study
    associate(folder, tmp_path / "whole")
    parts = tmp_path / "parts"
    associate(folder, parts, "--plan-only")
    for chromosome in ("X", "2"):
        associate(folder, parts, "--chromosome", chromosome)
    assert sorted(path.name for path in parts.glob("chr*")) == ["chr2", "chrX"]
    with pytest.raises(InputError, match="has not finished"):
        read_sumstats(parts)
    written = (parts / "chrX" / "part-00000.parquet").stat().st_mtime_ns
    associate(folder, parts)  # tests chromosome 1, which no one took
    assert (parts / "chrX" / "part-00000.parquet").stat().st_mtime_ns == written
    assert contents(parts) == contents(tmp_path / "whole")


def test_associate__a_chromosome_goes_into_a_store_planned_for_the_same_inputs(
    study: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    folder, _ = study
    result = associate(folder, tmp_path / "s", "--chromosome", "1", fails=True)
    assert "not planned for these inputs" in result.output
    associate(folder, tmp_path / "s")
    before = contents(tmp_path / "s")
    others = ("--covariates", folder / "c.tsv")
    result = associate(folder, tmp_path / "s", *others, "--chromosome", "1", fails=True)
    assert "not planned for these inputs" in result.output
    result = associate(folder, tmp_path / "s", "--chromosome", "3", fails=True)
    assert "no chromosome '3'; it has 1, 2, X" in result.output
    result = associate(folder, tmp_path / "s", "--chromosome", "1", "--replace", fails=True)
    assert result.exit_code == 2
    assert contents(tmp_path / "s") == before


def test_associate__a_broken_computation_leaves_no_store(
    study: tuple[Path, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _ = study

    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(sumstats.SumstatsWriter, "write", fail)
    result = associate(folder, tmp_path / "s", fails=True)
    assert "No space left on device" in result.stderr
    assert not (tmp_path / "s" / "sumstats.json").exists()


def test_associate__refuses_a_folder_of_other_settings(
    study: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    folder, _ = study
    associate(folder, tmp_path / "s")
    result = associate(folder, tmp_path / "s", "--covariates", folder / "c.tsv", fails=True)
    assert "holds the results of other inputs or settings" in result.stderr
    associate(folder, tmp_path / "s", "--covariates", folder / "c.tsv", "--replace")
    associate(folder, tmp_path / "new", "--covariates", folder / "c.tsv")
    assert contents(tmp_path / "s") == contents(tmp_path / "new")


def test_associate__refuses_the_results_of_changed_genotypes(tmp_path: Path) -> None:
    """Of a large bed a byte is changed that lies between the places that are read."""
    make_study(tmp_path)
    bed, variants = tmp_path / "g.bed", (tmp_path / "g.bim").read_text().splitlines()
    copies = 1000
    with open(bed, "ab") as file:
        file.write(bed.read_bytes()[3:] * (copies - 1))
    (tmp_path / "g.bim").write_text("\n".join(variants * copies) + "\n")
    source = cli.open_genotypes(bed)
    before = inputs.identity(source)
    with open(bed, "r+b") as file:
        file.seek(2**16 + 1000)
        byte = file.read(1)[0]
        file.seek(2**16 + 1000)
        file.write(bytes([byte ^ 0xFF]))
    after = inputs.identity(source)
    assert before["bed"] == after["bed"]
    assert before != after


def test_associate__refuses_the_results_of_other_code(
    study: tuple[Path, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _ = study
    monkeypatch.setenv("AXOLOCI_IMAGE", "sha256:1")
    associate(folder, tmp_path / "s")
    associate(folder, tmp_path / "s")
    monkeypatch.setenv("AXOLOCI_IMAGE", "sha256:2")
    result = associate(folder, tmp_path / "s", fails=True)
    assert "holds the results of other inputs or settings" in result.stderr


@pytest.mark.parametrize(
    ("variable", "options", "expected"),
    [
        ("3", (), 3),
        ("3,2", (), 3),
        ("3", ("--threads", 2), 2),
        ("", (), len(os.sched_getaffinity(0))),
        ("0", (), len(os.sched_getaffinity(0))),
    ],
)
def test_associate__threads_are_those_of_the_option_the_environment_or_the_machine(
    study: tuple[Path, dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    variable: str,
    options: tuple[object, ...],
    expected: int,
) -> None:
    asked = []
    inner = kernel.associate

    def spy(*args: Any, n_threads: int, **more: Any) -> Any:
        asked.append(n_threads)
        return inner(*args, n_threads=n_threads, **more)

    monkeypatch.setattr(kernel, "associate", spy)
    monkeypatch.setenv("OMP_NUM_THREADS", variable)
    associate(study[0], tmp_path / "s", *options)
    assert set(asked) == {expected}


@pytest.mark.parametrize(
    ("traits", "options", "message"),
    [
        ("IID\ta\n7\t1\n8\t2\n", (), "no id shared by .*g.bed and .*t.tsv; first ids there 'i0'"),
        ("IID\ta\ni1\t1\ni2\t2\n", (), "2 people are too few for 1 covariates"),
        ("IID\ta\ni1\tNA\n", (), "no one with genotypes and covariates has a trait"),
        ("IID\ta\n" + "".join(f"i{i}\t1\n" for i in range(9)), (), "no trait can be tested"),
        ("", ("--covariate", "age"), "no covariate age: no table is named by --covariates"),
        (
            "",
            ("--covariates", "C", "--covariate", "agee"),
            r"c\.tsv: no covariate agee; did you mean 'age'\?",
        ),
        ("", ("--covariates", "C", "--covariates", "C"), "the covariate 'age' is in .* and in"),
        ("", ("--covariates", "C", "--categorical", "sex"), "no covariate sex"),
    ],
)
def test_associate__names_faults(
    study: tuple[Path, dict[str, Any]],
    tmp_path: Path,
    traits: str,
    options: tuple[str, ...],
    message: str,
) -> None:
    folder, _ = study
    more = [folder / "c.tsv" if option == "C" else option for option in options]
    if traits:
        (tmp_path / "t.tsv").write_text(traits)
        more += ["--traits", tmp_path / "t.tsv"]
    result = associate(folder, tmp_path / "s", *more, fails=True)
    assert result.exit_code == 1
    flat = " ".join(result.stderr.split())
    assert pd.Series([flat]).str.contains(message).all(), flat
    assert not (tmp_path / "s").exists()


@pytest.mark.skipif(os.path.exists("/dev/nvidiactl"), reason="there is a GPU: nothing to refuse")
def test_associate__says_that_there_is_no_gpu(
    study: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    result = associate(study[0], tmp_path / "s", "--device", "cuda", fails=True)
    assert "torch finds no GPU; use --device cpu" in result.stderr


def test_associate__torch_writes_the_same_results(
    study: tuple[Path, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The way of a GPU from command to store, with torch on the CPU in its place."""
    associate(study[0], tmp_path / "cpu")
    monkeypatch.setattr(engine, "devices_of", lambda _: ["torch:cpu"])
    associate(study[0], tmp_path / "torch")
    for name in "ab":
        ours, theirs = (read_sumstats(tmp_path / run).trait(name) for run in ("cpu", "torch"))
        np.testing.assert_allclose(ours["beta"], theirs["beta"], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(ours["neg_log10_p"], theirs["neg_log10_p"], rtol=1e-4, atol=1e-4)


def test_associate__precision_of_arithmetic_and_store(
    study: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    folder, data = study
    model = kernel.fit_null(data["traits"][["a"]].to_numpy(), np.ones((len(data["traits"]), 1)))
    [expected] = kernel.associate([data["dosage"][:100]], model, precision="float64")
    for precision, tolerance in (("float64", 1e-13), ("float32", 1e-6)):
        associate(folder, tmp_path / precision, "--precision", precision)
        rows = read_sumstats(tmp_path / precision).trait("a").iloc[:100]
        assert rows["beta"].dtype == rows["se"].dtype == precision
        np.testing.assert_allclose(rows["beta"], expected.beta[:, 0], rtol=tolerance, atol=1e-7)
        np.testing.assert_allclose(rows["se"], expected.se[:, 0], rtol=tolerance)
    result = associate(folder, tmp_path / "float32", "--precision", "float64", fails=True)
    assert "other inputs or settings" in result.output


def test_pca__table_of_the_people_kept(study: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    folder, data = study
    (tmp_path / "keep.tsv").write_text("IID\n" + "".join(f"i{i}\n" for i in range(99, -1, -1)))
    out = ("--keep", tmp_path / "keep.tsv", "--out", tmp_path / "pcs.tsv")
    gwas("pca", "--genotypes", folder / "g", "--n-pcs", 3, *out)
    table = pd.read_csv(tmp_path / "pcs.tsv", sep="\t")
    assert list(table.columns) == ["IID", "PC1", "PC2", "PC3"]
    assert list(table["IID"]) == [f"i{i}" for i in range(100)]
    pcs = table.filter(like="PC").to_numpy()
    np.testing.assert_allclose(pcs.T @ pcs, np.eye(3), atol=1e-6)
    # variants of the autosomes alone are used: those of X may be anything
    changed = data["dosage"].copy()
    changed[300:] = 2 - np.maximum(changed[300:], 0)
    write_plink(tmp_path / "g", changed, ["1"] * 150 + ["2"] * 150 + ["X"] * 100)
    gwas("pca", "--genotypes", tmp_path / "g", "--n-pcs", 3, *out[:2], "--out", tmp_path / "2.tsv")
    assert (tmp_path / "2.tsv").read_bytes() == (tmp_path / "pcs.tsv").read_bytes()
    result = gwas("pca", "--genotypes", folder / "g", "--n-pcs", 500, fails=True)
    assert "500 components of 120 people; ask for fewer" in " ".join(result.stderr.split())


def test_export__writes_gwas_ssf(study: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    folder, _ = study
    associate(folder, tmp_path / "s")
    out = tmp_path / "a.tsv.gz"
    gwas("export", "--sumstats", tmp_path / "s", "--trait", "a", "--out", out)
    rows = pd.read_csv(out, sep="\t")
    frame = read_sumstats(tmp_path / "s").trait("a").dropna(subset=["beta"])
    assert len(rows) == N_VARIANTS - 1
    assert set(rows["chromosome"]) == {1, 2, 23}
    np.testing.assert_allclose(rows["neg_log_10_p_value"], frame["neg_log10_p"], rtol=1e-5)
    result = gwas("export", "--sumstats", tmp_path / "s", "--trait", "z", fails=True)
    assert "no trait 'z'; known: a, b" in result.stderr


def test_associate__chromosomes_that_no_one_can_be_tested_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    dosage = np.random.default_rng(0).integers(0, 3, (30, 60)).astype(np.int8)
    write_plink(tmp_path / "g", dosage, ["1"] * 10 + ["X"] * 10 + ["Y"] * 10)  # unknown sexes
    traits = pd.DataFrame({"IID": [f"i{i}" for i in range(60)], "a": np.arange(60) % 7})
    traits.to_csv(tmp_path / "t.tsv", sep="\t", index=False)
    associate(tmp_path, tmp_path / "s")
    result = read_sumstats(tmp_path / "s").trait("a")
    assert result["beta"].notna().tolist() == [True] * 10 + [False] * 20
    assert "X: not tested, for 0 people are too few" in caplog.text
    assert read_sumstats(tmp_path / "s").info["variants"]["too_few_genotypes"] == 20


def test_associate__people_and_variants_of_lists(
    study: tuple[Path, dict[str, Any]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder, _ = study
    (tmp_path / "keep").write_text("".join(f"f{i} i{i}\n" for i in range(100)))
    (tmp_path / "remove").write_text("#IID\ni5\ni6\nnobody\n")
    (tmp_path / "extract").write_text("#CHROM\tID\n1\trs12\n2\trs200\nX\trs310\n1\trs999\n")
    (tmp_path / "exclude").write_text("rs200\n")
    lists = [
        x
        for name in ("keep", "remove", "extract", "exclude")
        for x in ("--" + name, tmp_path / name)
    ]
    associate(folder, tmp_path / "s", *lists)
    assert "1 people, nobody are not in" in caplog.text
    assert "1 variants, rs999 are not in" in caplog.text
    store = read_sumstats(tmp_path / "s")
    assert store.n_samples == 98
    assert list(store.trait("a")["variant_id"]) == ["rs12", "rs310"]
    regions = ("--region", "2", "--region", "1:1010-1012", "--max-missing", 0.02, "--min-maf", 0.2)
    associate(folder, tmp_path / "r", *regions)
    found, every = read_sumstats(tmp_path / "r"), read_sumstats(tmp_path / "s")
    associate(folder, tmp_path / "all")
    every = read_sumstats(tmp_path / "all").trait("a").set_index("variant_id")
    some = found.trait("a").set_index("variant_id")
    assert set(some["chromosome"]) == {"1", "2"}
    assert some["effect_allele_frequency"].between(0.2, 0.8).all()
    assert found.n_variants == len(some) < 153
    counts = found.info["variants"]
    assert counts["low_frequency"] + counts["many_missing"] + counts["tested"] == 153
    np.testing.assert_allclose(some["beta"], every["beta"][some.index], rtol=1e-6)
    for options, words in (
        (("--region", "9"), "has no chromosome '9'; it has 1, 2, X"),
        (("--region", "1:9-5"), "region '1:9-5': ends before it begins"),
        (("--keep", "remove", "--remove", "remove"), "no one is left"),
        (("--region", "1:a-b"), "write it as 7 or 7:100000-250000"),
        (("--region", "1:,-,"), "write it as 7 or 7:100000-250000"),
        (
            ("--region", "1:1-2"),
            "no variant is left of 400 by 1:1-2; its first is rs0 at 1:1",
        ),
    ):
        files = [tmp_path / "remove" if option == "remove" else option for option in options]
        result = associate(folder, tmp_path / "w", *files, fails=True)
        assert words in " ".join(result.output.split())


def test_associate__a_formula_is_the_columns_that_it_makes(
    study: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    folder, data = study
    table = data["covariates"].dropna()
    made = table[["participant_id", "age"]].assign(
        square=table["age"] ** 2, b=(table["site"] == 2) * 1, c=(table["site"] == 3) * 1
    )
    made["product"] = made["age"] * made["b"]
    made["other"] = made["age"] * made["c"]
    made.to_csv(tmp_path / "made.tsv", sep="\t", index=False)
    formula = ("--model", "age**2 + C(site)*age")
    associate(folder, tmp_path / "f", "--covariates", folder / "c.tsv", *formula)
    associate(folder, tmp_path / "m", "--covariates", tmp_path / "made.tsv")
    found, expected = read_sumstats(tmp_path / "f"), read_sumstats(tmp_path / "m")
    assert found.n_covariates == expected.n_covariates == 7
    for name in ("a", "b"):
        ours, theirs = found.trait(name), expected.trait(name)
        np.testing.assert_allclose(ours["beta"], theirs["beta"], rtol=1e-5, atol=1e-8)
        np.testing.assert_allclose(ours["se"], theirs["se"], rtol=1e-5)
    associate(folder, tmp_path / "1", "--covariates", folder / "c.tsv", "--model", "1")
    nothing = read_sumstats(tmp_path / "1")
    assert nothing.n_covariates == 1
    assert nothing.n_samples > found.n_samples  # those who lack an age are not left out
    options = ("--covariates", folder / "c.tsv", "--model", "age", "--covariate", "age")
    assert "--model names" in associate(folder, tmp_path / "w", *options, fails=True).output
    options = ("--covariates", folder / "c.tsv", "--model", "height")
    assert "no covariate height" in associate(folder, tmp_path / "w", *options, fails=True).output


def test_associate__says_what_was_found(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="axoloci")
    rng = np.random.default_rng(0)
    dosage = rng.integers(0, 3, (40, 100)).astype(np.int8)
    dosage[7] = 1
    write_plink(tmp_path / "g", dosage, ["1"] * 40)
    values = rng.normal(size=(100, 8))
    values[:, 3] += 3 * dosage[5]
    table = pd.DataFrame(values, columns=[f"t{k}" for k in range(8)])
    table.insert(0, "IID", [f"i{i}" for i in range(100)])
    table.to_csv(tmp_path / "t.tsv", sep="\t", index=False)
    associate(tmp_path, tmp_path / "s")
    found = read_sumstats(tmp_path / "s")
    lowest, *_, highest = sorted(zip(found.inflation(), found.traits, strict=True))
    assert "variants tested: 39; monomorphic: 1" in caplog.text
    assert f"λ: {lowest[0]:.3f} ({lowest[1]}) to {highest[0]:.3f} ({highest[1]})" in caplog.text
    [smallest] = p_text(found.hits()["neg_log10_p"].to_numpy()[:1])
    said = f"p < 5e-8: 1 results of 1 traits, the smallest p {smallest[:4]}"
    assert said in caplog.text
    assert " of t3 at rs5" in caplog.text
    assert f"results: {tmp_path}/s" in caplog.text
    caplog.clear()
    table[["IID", "t0", "t1"]].to_csv(tmp_path / "t.tsv", sep="\t", index=False)
    associate(tmp_path, tmp_path / "nothing", "--min-mac", 1000)
    assert "variants tested: 0; low minor allele count: 40" in caplog.text
    associate(tmp_path, tmp_path / "two")
    assert "λ: " in caplog.text
    assert "p < 5e-8: none" in caplog.text


def test_associate__transforms_traits(study: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    folder, data = study
    covariates = ("--covariates", folder / "c.tsv", "--covariate", "age")
    associate(folder, tmp_path / "s", *covariates, "--rank-normal", "residuals", "--winsorize", 3)
    table = (
        data["traits"]
        .set_index("IID")
        .join(
            data["covariates"]
            .assign(IID=data["covariates"]["participant_id"].str[4:])
            .set_index("IID")
        )
    )
    table = table[table["age"].notna()]
    y = table["a"].clip(
        table["a"].mean() - 3 * table["a"].std(), table["a"].mean() + 3 * table["a"].std()
    )
    design = np.column_stack([np.ones(len(table)), table["age"]])
    rest = y - design @ np.linalg.lstsq(design, y)[0]
    scores = norm.ppf((rest.rank() - 0.375) / (len(rest) + 0.25))
    keep = np.flatnonzero(data["covariates"]["age"].notna())
    [expected] = kernel.associate(
        [data["dosage"][:300, keep]], kernel.fit_null(scores[:, None], design)
    )
    ours = read_sumstats(tmp_path / "s").trait("a")[:300]
    np.testing.assert_allclose(ours["beta"], expected.beta[:, 0], rtol=1e-5, atol=1e-8)

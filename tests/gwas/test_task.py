"""The Pydra tasks of gwas speak the command's language."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from axoloci.tasks.gwas.task import (
    CheckSamples,
    ComputePcs,
    ExportSumstats,
    PrepareGwas,
    RunGwas,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Files that exist; the command line is only parsed."""
    for name in ("g.bed", "g.bim", "g.fam", "c.tsv", "p.tsv", "t.parquet"):
        (tmp_path / name).write_text("")
    (tmp_path / "sumstats").mkdir()
    (tmp_path / "sumstats" / "sumstats.json").write_text("{}")
    return tmp_path


def test_compute_pcs__every_field_is_an_option(
    folder: Path, parsed: Callable[[Any], dict[str, Any]]
) -> None:
    task = ComputePcs(
        genotypes=folder / "g.bed", n_pcs=3, keep=folder / "c.tsv", out="o.tsv", image="x"
    )
    params = parsed(task)
    assert params["n_pcs"] == 3
    assert params["keep"] == folder / "c.tsv"


def test_check_samples__every_field_is_an_option(
    folder: Path, parsed: Callable[[Any], dict[str, Any]]
) -> None:
    numbers = {"max_missing": 0.1, "max_heterozygosity_sd": 4.0, "max_pc_sd": 7.0, "kinship": 0.09}
    task = CheckSamples(
        genotypes=folder / "g.bed",
        keep=folder / "c.tsv",
        pcs=folder / "p.tsv",
        out="o.tsv",
        related="r.tsv",
        image="x",
        **numbers,
    )
    params = parsed(task)
    assert {name: params[name] for name in numbers} == numbers
    assert (params["keep"], params["pcs"]) == (folder / "c.tsv", folder / "p.tsv")
    assert (params["out"], params["related"]) == (Path("o.tsv"), Path("r.tsv"))


def test_run_gwas__every_field_is_an_option(
    folder: Path, parsed: Callable[[Any], dict[str, Any]]
) -> None:
    task = RunGwas(
        genotypes=folder / "g.bed",
        traits=folder / "t.parquet",
        covariates=[folder / "c.tsv"],
        pcs=folder / "p.tsv",
        covariate=["age", "PC1"],
        categorical=["site"],
        device="cpu",
        out="s",
        replace=True,
        image="x",
    )
    params = parsed(task)
    assert list(params["covariates"]) == [folder / "c.tsv", folder / "p.tsv"]
    assert list(params["covariate"]) == ["age", "PC1"]
    assert list(params["categorical"]) == ["site"]
    assert params["device"] == "cpu"
    assert params["replace"] is True


def test_prepare_gwas__every_field_is_an_option(
    folder: Path, parsed: Callable[[Any], dict[str, Any]]
) -> None:
    inputs = {"genotypes": folder / "g.bed", "traits": folder / "t.parquet"}
    planned = parsed(PrepareGwas(plan_only=True, replace=True, **inputs))
    assert (planned["plan_only"], planned["replace"], planned["chromosome"]) == (True, True, None)
    tested = parsed(PrepareGwas(chromosome="X", **inputs))
    assert (tested["plan_only"], tested["replace"], tested["chromosome"]) == (False, False, "X")
    assert (tested["genotypes"], tested["traits"]) == (folder / "g.bed", folder / "t.parquet")


def test_export_sumstats__every_field_is_an_option(
    folder: Path, parsed: Callable[[Any], dict[str, Any]]
) -> None:
    task = ExportSumstats(
        sumstats=folder / "sumstats", trait="t", format="gwas-ssf", out="o.tsv.gz", image="x"
    )
    params = parsed(task)
    assert params["trait"] == "t"
    assert params["out"] == Path("o.tsv.gz")


def test_run_gwas__another_bim_is_another_input(folder: Path) -> None:
    task = {"traits": folder / "t.parquet", "image": "x"}
    before = RunGwas(genotypes=folder / "g.bed", **task)._checksum
    (folder / "g.bim").write_text("changed")
    assert RunGwas(genotypes=folder / "g.bed", **task)._checksum != before


def test_run_gwas__another_image_is_another_job(folder: Path) -> None:
    task = {"genotypes": folder / "g.bed", "traits": folder / "t.parquet"}
    digests = [RunGwas(image=image, **task)._checksum for image in ("a", "b", "b")]
    assert digests[0] != digests[1] == digests[2]

"""The Pydra tasks of gwas speak the command's language."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydra.utils.general import get_fields

from axoloci.tasks.gwas.cli import main
from axoloci.tasks.gwas.task import (
    CheckSamples,
    ComputePcs,
    ComputeResiduals,
    ConditionLoci,
    ExportSumstats,
    FitMixedModel,
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
    (tmp_path / "loco").mkdir()
    (tmp_path / "loco" / "loco.json").write_text("{}")
    return tmp_path


# What the tasks share that fit traits to genotypes: their choices, and files.
CHOICES = {
    "trait": ["height", "latent_000"],
    "model": "age + PC1:PC3",
    "categorical": ["site"],
    "region": ["7", "X:1-99"],
    "min_maf": 0.01,
    "min_mac": 20.0,
    "max_missing": 0.05,
    "min_hwe_p": 1e-9,
    "min_info": 0.3,
    "winsorize": 4.0,
    "rank_normal": "residuals",
    "complete_traits": True,
    "threads": 2,
}
FILES = {
    "genotypes": "g.bed",
    "traits": "t.parquet",
    "keep": "c.tsv",
    "remove": "p.tsv",
    "extract": "g.bim",
    "exclude": "g.fam",
}


def check_choices(folder: Path, params: dict[str, Any]) -> None:
    """The command was given all of them."""
    given = {"model" if k == "formula" else k: v for k, v in params.items()}
    for name, value in CHOICES.items():
        assert (list(given[name]) if isinstance(value, list) else given[name]) == value
    for name, file in FILES.items():
        assert given[name] == (folder / file if name != "traits" else (folder / file,))
    assert list(given["covariates"]) == [folder / "c.tsv", folder / "p.tsv"]


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


@pytest.mark.parametrize("task", [ComputeResiduals, FitMixedModel, RunGwas])
def test_tasks_of_traits__every_choice_is_an_option(
    task: type[Any], folder: Path, parsed: Callable[[Any], dict[str, Any]]
) -> None:
    files = {name: folder / file for name, file in FILES.items()}
    params = parsed(
        task(covariates=[folder / "c.tsv"], pcs=folder / "p.tsv", image="x", **files, **CHOICES)
    )
    check_choices(folder, params)


@pytest.mark.parametrize(
    "task",
    [
        *(CheckSamples, ComputePcs, ComputeResiduals, ConditionLoci),
        *(ExportSumstats, FitMixedModel, PrepareGwas),
    ],
)
def test_tasks__have_every_option_of_their_command(task: type[Any]) -> None:
    fields = {field.name: field for field in get_fields(task)}
    options = {field.argstr.split()[0] for field in fields.values() if field.argstr}
    command = main.commands[fields["executable"].default[1]]
    assert {param.opts[0] for param in command.params} == options


def test_fit_mixed_model__every_field_is_an_option(
    folder: Path, parsed: Callable[[Any], dict[str, Any]]
) -> None:
    task = FitMixedModel(
        genotypes=folder / "g.bed", traits=folder / "t.parquet", seed=3, out="l", image="x"
    )
    params = parsed(task)
    assert (params["seed"], params["out"]) == (3, Path("l"))


def test_compute_residuals__every_field_is_an_option(
    folder: Path, parsed: Callable[[Any], dict[str, Any]]
) -> None:
    task = ComputeResiduals(
        genotypes=folder / "g.bed",
        traits=folder / "t.parquet",
        variant=["rs1", "rs2"],
        loci=folder / "c.tsv",
        out="r.parquet",
        dosages="d.parquet",
        image="x",
    )
    params = parsed(task)
    assert (params["variant"], params["loci"]) == (("rs1", "rs2"), folder / "c.tsv")
    assert (params["out"], params["dosages"]) == (Path("r.parquet"), Path("d.parquet"))


def test_compute_residuals__dosages_only_where_variants_are_asked_for(folder: Path) -> None:
    """A table of that name in the folder may be of an earlier run."""
    outputs = {field.name: field for field in get_fields(ComputeResiduals.Outputs)}
    resolve = outputs["adjusted_dosages"].callable
    dosages = folder / "dosages.parquet"
    dosages.write_text("")
    inputs = {"dosages": "dosages.parquet", "variant": None, "loci": None}
    assert resolve(inputs, folder) is None
    assert resolve({**inputs, "variant": []}, folder) is None
    assert resolve({**inputs, "variant": ["rs1"]}, folder) == dosages
    assert resolve({**inputs, "loci": folder / "c.tsv"}, folder) == dosages


def test_run_gwas__every_field_is_an_option(
    folder: Path, parsed: Callable[[Any], dict[str, Any]]
) -> None:
    task = RunGwas(
        genotypes=folder / "g.bed",
        traits=folder / "t.parquet",
        covariate=["age", "PC1"],
        loco=folder / "loco",
        device="cpu",
        out="s",
        replace=True,
        image="x",
    )
    params = parsed(task)
    assert list(params["covariate"]) == ["age", "PC1"]
    assert params["loco"] == folder / "loco"
    assert params["device"] == "cpu"
    assert params["out"] == Path("s")
    assert params["replace"] is True


def test_prepare_gwas__every_field_is_an_option(
    folder: Path, parsed: Callable[[Any], dict[str, Any]]
) -> None:
    inputs = {"genotypes": folder / "g.bed", "traits": folder / "t.parquet"}
    planned = parsed(PrepareGwas(plan_only=True, replace=True, **inputs))
    assert (planned["plan_only"], planned["replace"], planned["chromosome"]) == (True, True, None)
    tested = parsed(PrepareGwas(chromosome="X", **inputs))
    assert (tested["plan_only"], tested["replace"], tested["chromosome"]) == (False, False, "X")
    assert (tested["genotypes"], tested["traits"]) == (folder / "g.bed", (folder / "t.parquet",))
    several = parsed(PrepareGwas(traits_beside=folder / "p.tsv", **inputs))
    assert several["traits"] == (folder / "t.parquet", folder / "p.tsv")


def test_condition_loci__every_field_is_an_option(
    folder: Path, parsed: Callable[[Any], dict[str, Any]]
) -> None:
    (folder / "loci.tsv").write_text("")
    files = {name: folder / file for name, file in FILES.items()}
    task = ConditionLoci(
        loci=folder / "loci.tsv",
        covariates=[folder / "c.tsv"],
        pcs=folder / "p.tsv",
        window_kb=100.0,
        p_threshold=1e-6,
        out="s.tsv",
        image="x",
        **files,
        **CHOICES,
    )
    params = parsed(task)
    check_choices(folder, params)
    assert params["loci_path"] == folder / "loci.tsv"
    assert (params["window_kb"], params["p_threshold"]) == (100.0, 1e-6)
    assert (params["threads"], params["out"]) == (2, Path("s.tsv"))


def test_export_sumstats__every_field_is_an_option(
    folder: Path, parsed: Callable[[Any], dict[str, Any]]
) -> None:
    task = ExportSumstats(
        sumstats=folder / "sumstats",
        trait="t",
        format="regenie",
        tabix=True,
        out="o.tsv.gz",
        image="x",
    )
    params = parsed(task)
    assert params["trait"] == "t"
    assert (params["format_"], params["tabix"]) == ("regenie", True)
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

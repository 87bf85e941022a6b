"""The Pydra tasks of genetics speak the command's language."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fileformats.generic import Directory
from pydra.utils.general import get_fields

from axoloci.tasks.genetics.cli import main
from axoloci.tasks.genetics.task import (
    ComputeLdScores,
    EstimateHeritability,
    FindLoci,
    InferClusters,
    MapGeneticCorrelation,
    MapHeritability,
    MapVoxels,
    ReplicateLoci,
    RunJointTest,
    RunLdsc,
    RunMetaAnalysis,
    ScanVoxels,
)

TASKS = [
    *(ComputeLdScores, EstimateHeritability, FindLoci, InferClusters, MapGeneticCorrelation),
    *(MapHeritability, MapVoxels, ReplicateLoci, RunJointTest, RunLdsc, RunMetaAnalysis),
    *(ScanVoxels,),
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Files that exist; the command line is only parsed."""
    for name in ("g.bed", "g.bim", "g.fam", "joint.parquet", "loci.tsv", "m.safetensors", "c.npz"):
        (tmp_path / name).write_text("")
    (tmp_path / "sumstats").mkdir()
    (tmp_path / "sumstats" / "sumstats.json").write_text("{}")
    return tmp_path


@pytest.mark.parametrize("task", TASKS)
def test_outputs__lie_within_no_file(task: Any) -> None:
    """A folder that is taken for a file fails a job that has done its work."""
    inputs = {field.name: field.name for field in get_fields(task)}
    outputs = [
        (field.callable(inputs, Path("here")), field.type)
        for field in get_fields(task.Outputs)
        if callable(getattr(field, "callable", None))
    ]
    files = [path for path, kind in outputs if path is not None and kind is not Directory]
    assert outputs
    assert not [path for path, _ in outputs if path is not None and set(path.parents) & set(files)]


def test_run_joint_test__every_field_is_an_option(
    folder: Path, parsed: Callable[[Any], dict[str, Any]]
) -> None:
    task = RunJointTest(
        sumstats=folder / "sumstats",
        traits="latent_*",
        also=["mostest", "minp"],
        out="j.parquet",
        image="x",
    )
    params = parsed(task)
    assert params["also"] == ("mostest", "minp")
    assert params["sumstats"] == folder / "sumstats"
    assert params["traits"] == "latent_*"
    assert params["out"] == Path("j.parquet")


def test_estimate_heritability__every_field_is_an_option(
    folder: Path, parsed: Callable[[Any], dict[str, Any]]
) -> None:
    task = EstimateHeritability(
        sumstats=folder / "sumstats", traits="a,b", if_possible=True, out="h", image="x"
    )
    params = parsed(task)
    assert params["traits"] == "a,b"
    assert params["if_possible"] is True
    assert params["out"] == Path("h")


def test_find_loci__every_field_is_an_option(
    folder: Path, parsed: Callable[[Any], dict[str, Any]]
) -> None:
    (folder / "genes.tsv").write_text("")
    numbers = {"p_threshold": 1e-6, "secondary_p": 0.02, "clump_r2": 0.3, "clump_kb": 100.0}
    numbers |= {"merge_kb": 50.0, "region_kb": 10.0}
    inputs = {"joint": folder / "joint.parquet", "sumstats": folder / "sumstats"}
    task = FindLoci(
        genotypes=folder / "g.bed",
        genes=folder / "genes.tsv",
        regions="r.parquet",
        out="l.tsv",
        image="x",
        **inputs,
        **numbers,
    )
    params = parsed(task)
    assert {name: params[name] for name in numbers} == numbers
    assert (params["genotypes"], params["reference"]) == (folder / "g.bed", None)
    assert params["genes_path"] == folder / "genes.tsv"
    assert (params["regions_path"], params["out"]) == (Path("r.parquet"), Path("l.tsv"))
    params = parsed(FindLoci(reference=folder / "g.bed", image="x", **inputs))
    assert (params["genotypes"], params["reference"]) == (None, folder / "g.bed")
    options = {field.argstr for field in get_fields(FindLoci) if field.argstr}
    assert {param.opts[0] for param in main.commands["loci"].params} == options


def test_replicate_loci__every_field_is_an_option(
    folder: Path, parsed: Callable[[Any], dict[str, Any]]
) -> None:
    (folder / "loci.tsv").write_text("")
    stores = {"discovery": folder / "sumstats", "replication": folder / "sumstats"}
    task = ReplicateLoci(
        loci=folder / "loci.tsv",
        **stores,
        traits="component_*",
        p_threshold=0.01,
        palindromic_frequency=0.4,
        replication_n=500,
        out="r.tsv",
        image="x",
    )
    params = parsed(task)
    assert params["traits"] == "component_*"
    assert params["loci_path"] == folder / "loci.tsv"
    assert params["discovery"] == params["replication"] == folder / "sumstats"
    assert (params["p_threshold"], params["palindromic_frequency"]) == (0.01, 0.4)
    assert params["replication_n"] == 500
    assert params["out"] == Path("r.tsv")


def test_map_voxels__every_field_is_an_option(
    folder: Path, nifti: Callable[..., Path], parsed: Callable[[Any], dict[str, Any]]
) -> None:
    given = {"sumstats": folder / "sumstats", "model": folder / "m.safetensors"}
    task = MapVoxels(
        **given,
        loci=folder / "loci.tsv",
        traits="component_*",
        atlas=nifti("atlas.nii.gz", 2, 2, 2),
        out="maps",
        image="x",
    )
    params = parsed(task)
    assert params["model_path"] == folder / "m.safetensors"
    assert params["loci_path"] == folder / "loci.tsv"
    assert params["traits"] == "component_*"
    assert params["atlas"].name == "atlas.nii.gz"
    assert params["out"] == Path("maps")


def test_scan_voxels__every_field_is_an_option(
    folder: Path, parsed: Callable[[Any], dict[str, Any]]
) -> None:
    given = {"sumstats": folder / "sumstats", "model": folder / "m.safetensors"}
    task = ScanVoxels(
        **given, traits="latent_*", p_threshold=1e-9, max_pairs=77, out="scan", image="x"
    )
    params = parsed(task)
    assert (params["p_threshold"], params["max_pairs"]) == (1e-9, 77)
    assert (params["traits"], params["out"]) == ("latent_*", Path("scan"))


def test_map_heritability__every_field_is_an_option(
    folder: Path, parsed: Callable[[Any], dict[str, Any]]
) -> None:
    task = MapHeritability(
        genetic_covariance=folder / "c.npz", model=folder / "m.safetensors", out="h2", image="x"
    )
    params = parsed(task)
    assert params["covariance_path"] == folder / "c.npz"
    assert params["model_path"] == folder / "m.safetensors"
    assert params["out"] == Path("h2")


@pytest.mark.parametrize(
    "seed", [{"seed_voxel": "4,5,6"}, {"seed_mm": "-24,10,-30.5"}, {"with_trait": "height"}]
)
def test_map_genetic_correlation__every_field_is_an_option(
    folder: Path, parsed: Callable[[Any], dict[str, Any]], seed: dict[str, str]
) -> None:
    task = MapGeneticCorrelation(
        genetic_covariance=folder / "c.npz",
        model=folder / "m.safetensors",
        out="rg",
        image="x",
        **seed,
    )
    params = parsed(task)
    assert params["covariance_path"] == folder / "c.npz"
    assert params["model_path"] == folder / "m.safetensors"
    assert {name: params[name] for name in seed} == seed
    assert params["out"] == Path("rg")


def test_infer_clusters__every_field_is_an_option(
    folder: Path, parsed: Callable[[Any], dict[str, Any]]
) -> None:
    files = {"model": "m.safetensors", "residuals": "r.parquet", "dosages": "d.parquet"}
    for name in files.values():
        (folder / name).write_text("")
    choices = {"traits": "component_*", "n_bootstraps": 99, "cluster_p": 1e-3, "seed": 3}
    task = InferClusters(
        sumstats=folder / "sumstats",
        variant=["rs1", "rs2"],
        connectivity="18",
        out="c",
        image="x",
        **{name: folder / file for name, file in files.items()},
        **choices,
    )
    params = parsed(task)
    assert {name: params[name] for name in choices} == choices
    assert {name: params[f"{name}_path"] for name in files} == {
        name: folder / file for name, file in files.items()
    }
    assert (params["variant"], params["connectivity"]) == (("rs1", "rs2"), "18")
    assert (params["sumstats"], params["out"]) == (folder / "sumstats", Path("c"))


def test_run_meta_analysis__every_field_is_an_option(
    folder: Path, parsed: Callable[[Any], dict[str, Any]]
) -> None:
    (folder / "other.tsv").write_text("")
    task = RunMetaAnalysis(
        study=[folder / "sumstats", folder / "other.tsv"],
        traits="latent_000",
        model="random",
        palindromic_frequency=0.4,
        out="m.parquet",
        image="x",
    )
    params = parsed(task)
    assert params["paths"] == (folder / "sumstats", folder / "other.tsv")
    assert (params["traits"], params["model"]) == ("latent_000", "random")
    assert params["palindromic_frequency"] == 0.4
    assert params["out"] == Path("m.parquet")


def test_compute_ld_scores__every_field_is_an_option(
    folder: Path, parsed: Callable[[Any], dict[str, Any]]
) -> None:
    (folder / "keep").write_text("")
    task = ComputeLdScores(
        genotypes=folder / "g.bed",
        keep=folder / "keep",
        window_kb=500.0,
        window_cm=0.5,
        out="l.parquet",
        image="x",
    )
    params = parsed(task)
    assert params["genotypes"] == folder / "g.bed"
    assert params["keep"] == folder / "keep"
    assert (params["window_kb"], params["window_cm"]) == (500, 0.5)
    assert params["out"] == Path("l.parquet")


def test_run_ldsc__every_field_is_an_option(
    folder: Path, parsed: Callable[[Any], dict[str, Any]]
) -> None:
    (folder / "published").mkdir()
    for name in ("l.parquet", "height.txt", "weight.txt"):
        (folder / name).write_text("")
    options = {
        "traits": "latent_*",
        "min_maf": 0.05,
        "max_chi2": 100.0,
        "fixed_intercept": True,
        "other_build": True,
        "n_blocks": 50,
    }
    for ld_scores in (folder / "l.parquet", folder / "published"):
        task = RunLdsc(
            ld_scores=ld_scores,
            sumstats=folder / "sumstats",
            outside=[folder / "height.txt", folder / "weight.txt"],
            people=["height=5", "weight=6"],
            **options,
            out="results",
            image="x",
        )
        params = parsed(task)
        assert params["ld_scores_path"] == ld_scores
        assert params["outside"] == (folder / "height.txt", folder / "weight.txt")
        assert params["people"] == ("height=5", "weight=6")
        assert {name: params[name] for name in options} == options
        assert params["out"] == Path("results")

"""A study with relatives in mind: a formula, limits of variants, a mixed model."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pandas as pd
import pytest
from faults import records
from rocrate.rocrate import ROCrate
from support import axoloci, write_trait_study

from axoloci.io.files import sha256
from axoloci.io.loco import read_loco
from axoloci.io.sumstats import read_sumstats

GWAS = """\
n_pcs = 2
model = "age + sex*age + PC1"
mixed_model = true
exclude = "exclude.txt"
region = ["1", "2", "3"]
min_mac = 4
rank_normal = "values"
export = ["weight"]
export_format = "regenie"
"""


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory, cohort: Path) -> Path:
    """A study of traits, run."""
    folder = tmp_path_factory.mktemp("mixed")
    file = write_trait_study(
        folder, cohort, height=lambda n: (7 * n) % 11 + n / 9, weight=lambda n: (5 * n) % 7 - n / 5
    )
    file.write_text(file.read_text().replace("n_pcs = 0\n", GWAS))
    bim = pd.read_csv(f"{cohort}/genotypes.bim", sep=r"\s+", header=None, dtype=str)
    on_first = bim[bim[0] == "1"]
    (folder / "exclude.txt").write_text("\n".join(on_first[1][:5]) + "\n")
    axoloci("run", file)
    return file


def test_run__the_association_is_that_of_the_mixed_model(study: Path) -> None:
    group = study.parent / "out" / "group"
    loco, store = read_loco(group / "loco"), read_sumstats(group / "sumstats")
    assert loco.traits == store.traits == ["height", "weight"]
    assert store.of_mixed_model
    plan = json.loads((group / "sumstats" / "plan.json").read_text())["plan"]
    assert plan["loco"] == sha256(group / "loco" / "loco.json")
    about = loco.info["plan"]
    for key in ("formula", "rank_normal"):
        assert about[key] == plan[key]
    assert (about["region"], about["exclude"], about["min_mac"]) == ([], None, 0)
    assert about["min_maf"] == 0.01
    assert {"age", "PC1"} <= set(store.info["covariates"])
    assert not {"PC2", "head_scale"} & set(store.info["covariates"])
    tested = store.trait("weight")
    assert set(tested["chromosome"]) == {"1", "2", "3"}
    excluded = (study.parent / "exclude.txt").read_text().split()
    assert not tested["variant_id"].isin(excluded).any()
    minor = tested["effect_allele_frequency"].clip(upper=1 - tested["effect_allele_frequency"])
    assert (2 * minor * tested["n"] > 3.99).all()
    assert (group / "weight.regenie.tsv.gz").is_file()
    assert len(pd.read_parquet(group / "joint.parquet")) == len(tested)


def test_run__tells_the_mixed_model_wherever_it_tells_of_jobs(study: Path) -> None:
    out = study.parent / "out"
    page = (out / "report.html").read_text()
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", "", page))
    assert "accounted for by a linear mixed model" in text
    assert "adjusted for the terms age + sex*age + PC1" in text
    assert "Variants with fewer than 4 minor alleles were left out." in text
    assert "Hotelling's T²" in text.replace("&#39;", "'")
    crate = ROCrate(out)
    assert crate.get("#job-ridge")["result"] == crate.get("group/loco/")
    assert crate.get("group/loco/") in crate.get("#job-gwas")["object"]
    read = [entity.id for entity in crate.get("#job-gwas")["object"]]
    assert (study.parent / "exclude.txt").as_uri() in read
    # pca, samples, ridge, gwas, export, joint, loci, report
    assert axoloci("status", study).stdout.split()[-5:] == ["jobs", "8", "0", "0", "0"]
    assert "ridge" in axoloci("plan", study).stdout
    graph = axoloci("graph", study).stdout
    assert 'discovery_ridge -->|"loco"| discovery_gwas' in graph
    axoloci("trace", study, "--timeline", out / "jobs.html")
    assert "ridge" in (out / "jobs.html").read_text()


def test_run__other_variants_to_test_leave_the_mixed_model_as_it_is(study: Path) -> None:
    before = records(study.parent / "out")
    study.write_text(study.read_text().replace("min_mac = 4", "min_mac = 5"))
    axoloci("run", study)
    after = records(study.parent / "out")
    changed = {Path(path).stem for path in after if after[path] != before.get(path)}
    assert changed == {"gwas", "export_weight", "joint", "loci", "report"}

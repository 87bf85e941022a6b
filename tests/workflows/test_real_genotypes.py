"""Real genotypes of eleven populations on the anatomy of a real scan."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from support import axoloci

from axoloci.demo import compare

N_SUBJECTS = 140

STUDY = """\
out = "out"
fa = "{cohort}/truth/sub-{{participant_id}}_fa.nii.gz"
genotypes = "{cohort}/genotypes"
covariates = "{cohort}/covariates.tsv"

[normalize]
template = "{cohort}/template.nii.gz"

[qc]
pages = false

[encoder]
representations = ["autoencoder"]
training_people = "keep"
n_latents = 8

[gwas]
n_pcs = 10
"""


@pytest.fixture(scope="module")
def study(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study with their PCs of the HapMap people's genotypes and of planted FA maps."""
    root = tmp_path_factory.mktemp("hapmap")
    source = data_dir / "genotypes/hapmap3-957"
    for name in ("data.bed", "data.bim"):
        with gzip.open(source / f"{name}.gz") as packed, open(root / name, "wb") as plain:
            shutil.copyfileobj(packed, plain)
    shutil.copy(source / "data.fam", root / "data.fam")
    axoloci(
        *("simulate", root / "cohort", "--genotypes", root / "data"),
        *("--anatomy", data_dir / "dwi/mappertrac-sub-011591/sub-011591_dwi.nii.gz"),
        *("--n-subjects", N_SUBJECTS, "--ancestry-effect", 0.02, "--seed", 1),
        *("--write-truth", "--n-procs", 2),
    )
    path = root / "study.toml"
    path.write_text(STUDY.format(cohort="cohort"))
    axoloci("run", path, "--n-procs", 2)
    return path


def lambda_gc(group: Path) -> float:
    """λ_GC of the joint test of a study."""
    metadata: dict[str, Any] = json.loads(
        pq.read_schema(group / "joint.parquet").metadata[b"axoloci"]
    )
    return float(metadata["lambda_gc"])


def test_run__structure_is_accounted_for_by_the_pcs(study: Path) -> None:
    group = study.parent / "out" / "group" / "autoencoder"
    summary = compare(study.parent / "cohort", group)
    assert summary["found"] == summary["planted"]
    assert summary["false_positive"] == []
    with_pcs = lambda_gc(group)
    assert 0.95 <= with_pcs <= 1.08

    study.write_text(study.read_text().replace("n_pcs = 10", "n_pcs = 0"))
    axoloci("run", study, "--stage", "group", "--n-procs", 2)
    without = lambda_gc(group)
    print(f"lambda_GC with PCs {with_pcs:.3f}, without {without:.3f}")
    assert without > 1.2

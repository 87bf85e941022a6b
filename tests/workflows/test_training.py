"""What a study asks of its representations is what is done: a few small maps, planted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pydra.engine.workflow import Workflow

from axoloci.io.cohort import read_cohort
from axoloci.io.files import sha256
from axoloci.io.nifti import write_nifti
from axoloci.study import StudyPaths, parse_settings
from axoloci.tasks.encoder.model_file import read_model
from axoloci.tasks.encoder.representation import encode_maps
from axoloci.workflows.group import Group
from axoloci.workflows.study import train_encoder

N_PEOPLE = 14
SHAPE = (16, 16, 16)
AFFINE = np.diag([2.0, 2, 2, 1])
ENCODER = {
    **{"n_latents": 2, "channels": [2, 4], "epochs": 2, "batch_size": 4},
    **{"precision": "bfloat16", "recompute": True, "deterministic": True, "tensorboard": True},
}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Maps whose three slabs of labels have a mean of their own in each person."""
    root = tmp_path_factory.mktemp("a study")
    rng = np.random.default_rng(1)
    labels = np.zeros(SHAPE, np.int16)
    for k, label in enumerate((2, 5, 9)):
        labels[4 * k : 4 * k + 4] = label
    write_nifti(root / "atlas.nii.gz", labels, AFFINE)
    write_nifti(root / "mask.nii.gz", np.ones(SHAPE, np.uint8), AFFINE)
    rows = ["sample_id\tpath\tsha256"]
    for person in range(N_PEOPLE):
        fa = rng.uniform(0.2, 0.7, SHAPE) + 0.02 * rng.standard_normal(10)[labels]
        write_nifti(path := root / f"{person}.nii.gz", fa.astype(np.float32), AFFINE)
        rows.append(f"p{person}\t{path}\t{sha256(path)}")
    (root / "maps.tsv").write_text("\n".join(rows) + "\n")
    return root


def trained(site: Path, **encoder: Any) -> dict[str, Any]:
    """Train by the study; the records of its jobs."""
    content = {
        **{"out": "out", "fa_common": "{participant_id}.nii.gz"},
        **{"normalize": {"mask": "mask.nii.gz", "dtype": "uint8"}},
        **{"encoder": {**ENCODER, **encoder}, "linear": {"atlas": "atlas.nii.gz"}},
    }
    settings = parse_settings(content, "test", site)
    paths = StudyPaths(settings.out)
    for name in settings.representations():
        paths.results(name).mkdir(parents=True, exist_ok=True)
    train_encoder(site / "maps.tsv", settings, "native", 1)
    return {
        path.stem: json.loads(path.read_text()) for path in (paths.logs / "group").glob("*.json")
    }


def test_group__packs_the_maps_of_other_people_alike() -> None:
    group = Group(out_dir="", log_dir="", settings={"pack": {"dtype": "uint8"}})
    lazy = ("genotypes", "maps", "like", "linear")
    jobs = {job.name: job for job in Workflow.construct(group, dont_cache=True, lazy=lazy).nodes}
    assert jobs["pack"]._task.dtype == "uint8"


def test_train_encoder__does_what_the_study_asks(site: Path) -> None:
    first = trained(site)
    group = site / "out" / "group"
    cohort = read_cohort(group / "cohort.zarr")
    assert cohort.dtype == np.uint8

    config = read_model(group / "autoencoder" / "model.safetensors").about["config"]
    assert {key: config[key] for key in ("precision", "recompute")} == {
        **{"precision": "bfloat16", "recompute": True},
    }
    command = first["train_autoencoder"]["command"]
    assert {"--recompute", "--deterministic"} <= set(command)
    assert not {"--udip-fa", "--compile"} & set(command)
    assert len(list((group / "autoencoder" / "tensorboard").iterdir())) == 1

    labels = np.repeat((2, 5, 9, 0), 4 * 16 * 16)  # of the voxels of a row
    maps = cohort.rows(np.arange(N_PEOPLE))
    expected = np.stack([maps[:, labels == label].mean(axis=1) for label in (2, 5, 9)], axis=1)
    model = read_model(group / "linear" / "model.safetensors")
    means = encode_maps(model.representation, cohort.rows, np.arange(N_PEOPLE)).latents
    np.testing.assert_allclose(means, expected, rtol=1e-5)
    history = pd.read_csv(group / "linear" / "history.tsv", sep="\t")
    assert history["label"].tolist() == [2, 5, 9]

    assert trained(site) == first  # nothing is done twice
    again = trained(site, precision="float32")  # and only what changed is done again
    assert again["train_autoencoder"]["why"] == "precision changed"
    assert {job: again[job] for job in ("pack", "train_linear")} == {
        job: first[job] for job in ("pack", "train_linear")
    }

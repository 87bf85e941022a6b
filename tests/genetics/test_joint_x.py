"""The joint test on X, where sex is a covariate and people of unknown sex are not tested."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from plink_files import write_plink

from axoloci.io.sumstats import read_sumstats
from axoloci.tasks.genetics.cli import main as genetics
from axoloci.tasks.gwas.cli import main as gwas

N, K, UNKNOWN = 400, 4, 60


def run(command: object, *words: object) -> None:
    done = CliRunner().invoke(command, [str(word) for word in words])
    assert done.exit_code == 0, done.output + repr(done.exception)


@pytest.mark.parametrize("at_once", [100, 3])
def test_joint__on_x_is_of_the_people_and_covariates_of_x(tmp_path: Path, at_once: int) -> None:
    """The regression of the variant on covariates, sex and traits, among people of known sex."""
    rng = np.random.default_rng(0)
    sex = np.where(np.arange(N) < UNKNOWN, 0, 1 + np.arange(N) % 2)
    really = 1 + np.arange(N) % 2
    dosage = rng.binomial(2, 0.4, (40, N)).astype(np.int8)
    dosage[20:, really == 1] = 2 * rng.binomial(1, 0.4, (20, (really == 1).sum()))
    write_plink(tmp_path / "g", dosage, ["1"] * 20 + ["X"] * 20, sex=sex.tolist())
    y = rng.normal(size=(N, K)) + np.outer(really, [2.0, -2.0, 1.0, 0.0])
    y[:, 1] += 0.5 * dosage[25]
    table = pd.DataFrame(y).add_prefix("y")
    table.insert(0, "IID", [f"i{i}" for i in range(N)])
    table.to_csv(tmp_path / "y.tsv", sep="\t", index=False)
    run(
        *(gwas, "associate", "--genotypes", tmp_path / "g", "--traits", tmp_path / "y.tsv"),
        *("--precision", "float64", "--traits-at-once", at_once, "--out", tmp_path / "s"),
    )
    run(genetics, "joint", "--sumstats", tmp_path / "s", "--out", tmp_path / "joint.parquet")
    found = pd.read_parquet(tmp_path / "joint.parquet")
    store = read_sumstats(tmp_path / "s")
    assert not store.of_mixed_model
    assert store.n_people_of("X") == N - UNKNOWN
    assert store.correlation_of("1") is store.trait_correlation
    known = sex > 0
    for people, columns, rows in (
        (np.full(N, True), [np.ones(N)], range(20)),
        (known, [np.ones(N), sex], range(20, 40)),
    ):
        q, _ = np.linalg.qr(np.stack(columns, axis=1)[people])
        left = [v - q @ (q.T @ v) for v in (dosage[:, people].T.astype(float), y[people])]
        explained = left[1] @ np.linalg.lstsq(left[1], left[0], rcond=None)[0]
        r2 = np.square(explained).sum(axis=0) / np.square(left[0]).sum(axis=0)
        np.testing.assert_allclose(found["r2"].to_numpy()[rows], r2[rows], rtol=1e-8)
        f = r2 / K / ((1 - r2) / (people.sum() - len(columns) - K))
        np.testing.assert_allclose(found["f"].to_numpy()[rows], f[rows], rtol=1e-8)

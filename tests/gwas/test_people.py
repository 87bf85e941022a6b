"""Whose genotypes, in which files: families that share IIDs, one file a chromosome, relatives."""

from __future__ import annotations

import logging
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner, Result
from numpy.typing import NDArray
from plink_files import split_by_chromosome, write_plink

from axoloci.io.sumstats import read_sumstats
from axoloci.io.tables import read_table
from axoloci.tasks.gwas import relatedness
from axoloci.tasks.gwas.cli import main

CHROMOSOMES = ["1"] * 40 + ["2"] * 60 + ["X"] * 20


def gwas(*arguments: object, fails: bool = False) -> Result:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert (result.exit_code != 0) == fails, result.output + repr(result.exception)
    return result


@pytest.fixture
def families(tmp_path: Path) -> tuple[Path, pd.DataFrame]:
    """Genotypes of 40 families whose members are called 1, 2 and 3; two traits, shuffled."""
    rng = np.random.default_rng(0)
    n = 120
    write_plink(tmp_path / "g", rng.integers(0, 3, (120, n)).astype(np.int8), CHROMOSOMES)
    people = pd.DataFrame(
        {"#FID": np.repeat([f"f{i}" for i in range(40)], 3), "IID": ["1", "2", "3"] * 40}
    )
    sex = rng.integers(1, 3, n)
    (tmp_path / "g.fam").write_text(
        "".join(f"{f} {i} 0 0 {s} -9\n" for (f, i), s in zip(people.to_numpy(), sex, strict=True))
    )
    traits = people.assign(a=rng.normal(size=n), b=rng.normal(size=n)).sample(
        frac=1, random_state=1
    )
    traits.to_csv(tmp_path / "t.tsv", sep="\t", index=False)
    covariates = people.assign(age=rng.normal(60, 8, n)).sample(frac=1, random_state=2)
    covariates.to_csv(tmp_path / "c.tsv", sep="\t", index=False)
    return tmp_path, traits


def test_associate__families_that_share_iids_as_plink2(
    families: tuple[Path, pd.DataFrame], tool: Callable[[str], str]
) -> None:
    folder, traits = families
    (folder / "remove").write_text("f0 1\nf7 3\n")
    lists = ("--covariates", folder / "c.tsv", "--remove", folder / "remove")
    inputs = ("--genotypes", folder / "g", "--traits", folder / "t.tsv")
    gwas("associate", *inputs, *lists, "--out", folder / "s", "--device", "cpu")
    store = read_sumstats(folder / "s")
    command = [tool("plink2"), "--bfile", folder / "g", "--pheno", folder / "t.tsv"]
    command += ["--covar", folder / "c.tsv", "--remove", folder / "remove", "--threads", "1"]
    command += ["--glm", "hide-covar", "omit-ref", "--covar-variance-standardize"]
    subprocess.run([*command, "--out", folder / "p"], check=True, capture_output=True)
    for name in ("a", "b"):
        ours = store.trait(name)
        theirs = pd.read_csv(folder / f"p.{name}.glm.linear", sep="\t")
        assert (ours["n"] == theirs["OBS_CT"]).all()
        assert ours["n"].max() == 118
        assert (np.abs(ours["beta"] - theirs["BETA"]) / theirs["SE"]).max() < 1e-4
    # the table without FID is refused, that of the pcs and the store's people is taken
    traits.drop(columns="#FID").drop_duplicates("IID").to_csv(
        folder / "i.tsv", sep="\t", index=False
    )
    inputs = ("--genotypes", folder / "g", "--traits", folder / "i.tsv")
    said = gwas("associate", *inputs, "--out", folder / "x", fails=True).stderr
    assert "row 2: no FID, and the genotypes have people of several families under the IID" in said
    gwas("pca", "--genotypes", folder / "g", "--n-pcs", 2, "--out", folder / "pcs.tsv")
    assert (folder / "pcs.tsv").read_text().startswith("FID\tIID\tPC1\tPC2\nf0\t1\t")
    more = ("--pcs", folder / "pcs.tsv", "--keep", folder / "s" / "samples.tsv")
    out = ("--out", folder / "q", "--related", folder / "r")
    gwas("samples", "--genotypes", folder / "g", *more, *out)
    assert len(read_table(folder / "q")) == 118
    assert (folder / "r").read_text().startswith("FID1\tIID1\tFID2\tIID2\tkinship")


def parts(path: Path) -> dict[str, bytes]:
    """Files of results, without what names the genotypes' files."""
    named = ("plan.json", "sumstats.json", "loco.json")
    files = (f for f in path.rglob("*") if f.is_file() and f.name not in named)
    return {str(file.relative_to(path)): file.read_bytes() for file in files}


def test_commands__one_file_a_chromosome_gives_the_same_bytes(
    families: tuple[Path, pd.DataFrame], tmp_path: Path
) -> None:
    folder, _ = families
    assert split_by_chromosome(folder / "g", folder / "chr{chromosome}.v1") == ["1", "2", "X"]
    for run, genotypes in (("whole", "g"), ("split", "chr{chromosome}.v1")):
        inputs = ("--genotypes", folder / genotypes)
        traits = ("--traits", folder / "t.tsv")
        out = tmp_path / run
        gwas("pca", *inputs, "--n-pcs", 2, "--out", out / "pcs.tsv")
        gwas("samples", *inputs, "--out", out / "q.tsv", "--related", out / "r.tsv")
        gwas("ridge", *inputs, *traits, "--out", out / "loco")
        gwas(
            "associate",
            *inputs,
            *traits,
            "--out",
            out / "s",
            "--loco",
            out / "loco",
            "--device",
            "cpu",
        )
    assert parts(tmp_path / "whole") == parts(tmp_path / "split")
    info = read_sumstats(tmp_path / "split" / "s").info
    assert [file["name"] for file in info["genotypes"]][::3] == [
        f"chr{name}.v1.bed" for name in ("1", "2", "X")
    ]
    # another file of one chromosome is another set of genotypes
    again = (*inputs, *traits, "--out", out / "s", "--loco", out / "loco", "--device", "cpu")
    gwas("associate", *again)
    bim = folder / "chr2.v1.bim"
    bim.write_text(bim.read_text().replace("rs50\t", "other\t"))
    assert "holds the results of other inputs" in gwas("associate", *again, fails=True).stderr


# --- relatives ------------------------------------------------------------------------------------


def siblings(n_alone: int, n_pairs: int, n_variants: int) -> NDArray[np.int8]:
    """Dosages of unrelated people, then of pairs of siblings: all first ones, all second ones."""
    rng = np.random.default_rng(1)
    p = rng.uniform(0.1, 0.5, (n_variants, 1))
    alone = rng.binomial(2, p, (n_variants, n_alone))
    parents = rng.random((2, 2, n_variants, n_pairs)) < p  # parent, haplotype
    pairs = []
    for _ in range(2):
        pick = rng.integers(0, 2, (2, n_variants, n_pairs)) == 0
        pairs.append(sum(np.where(pick[k], parents[k, 0], parents[k, 1]) * 1 for k in range(2)))
    return np.concatenate([alone, *pairs], axis=1).astype(np.int8)


def look(
    folder: Path, dosage: NDArray[np.int8], caplog: pytest.LogCaptureFixture, *more: object
) -> str:
    """What `associate` says of relatives."""
    n_variants, n = dosage.shape
    write_plink(folder / "g", dosage, [str(1 + 22 * v // n_variants) for v in range(n_variants)])
    trait = np.random.default_rng(2).normal(size=n)
    table = pd.DataFrame({"IID": [f"i{i}" for i in range(n)], "a": trait})
    table.to_csv(folder / "t.tsv", sep="\t", index=False)
    caplog.clear()
    caplog.set_level(logging.INFO, logger="axoloci")
    shutil.rmtree(folder / "s", ignore_errors=True)
    inputs = ("--genotypes", folder / "g", "--traits", folder / "t.tsv", "--device", "cpu")
    gwas("associate", *inputs, "--out", folder / "s", *more)
    return "\n".join(line for line in caplog.messages if line.startswith("relatives"))


def test_warn_of_relatives__counts_the_pairs(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    dosage = siblings(100, 15, 3000)
    said = look(tmp_path, dosage, caplog)
    assert said.startswith(
        "relatives: 15 pairs among the people looked at (3000 variants), such as"
    )
    assert "axoloci-gwas ridge and --loco" in said
    assert said in [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert look(tmp_path, dosage[:, :115], caplog).startswith("relatives: none among the people")
    assert look(tmp_path, dosage[:400], caplog).startswith("relatives are not looked for: 400 comm")
    assert look(tmp_path, dosage, caplog, "--plan-only") == said
    again = ("--genotypes", tmp_path / "g", "--traits", tmp_path / "t.tsv", "--device", "cpu")
    caplog.clear()
    gwas("associate", *again, "--out", tmp_path / "s", "--chromosome", 3)
    assert not any(line.startswith("relatives") for line in caplog.messages)


def test_warn_of_relatives__families_are_looked_at_together(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 300 people 100 are looked at; in file order no pair would be among them."""
    monkeypatch.setattr(relatedness, "MIN_PEOPLE", 100)
    monkeypatch.setattr(relatedness, "SHARE", 0)
    dosage = siblings(0, 150, 2000)
    assert look(tmp_path, dosage, caplog).startswith("relatives: none among 100 of 300 people")
    family = np.array([f"f{i % 150}" for i in range(300)], dtype=object)
    chosen = relatedness.neighbours(family, 100)
    assert len(set(chosen)) == 100
    assert len(set(family[chosen])) == 50

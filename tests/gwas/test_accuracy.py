"""The command beside plink2 and statsmodels: on simulated people, on real ones and on mice."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from agreement import (
    CHROMOSOMES,
    PLINK2_DIGITS,
    associate,
    difference,
    export_bgen,
    keep_dosages,
    make_geuvadis,
    make_study,
    of_axoloci,
    of_hits,
    of_plink2,
    of_statsmodels,
)
from plink_files import unpack

from axoloci.io.sumstats import read_sumstats

IN_FLOAT64, IN_FLOAT32 = 400, 1500  # people


def assert_equal(
    ours: pd.DataFrame, theirs: pd.DataFrame, digits: int | None = PLINK2_DIGITS
) -> None:
    found = difference(ours, theirs, digits=digits)
    assert found.is_allowed, found


@pytest.mark.parametrize(
    ("n_samples", "missing"),
    [
        (IN_FLOAT64, 0.0),
        (IN_FLOAT64, 0.05),
        (IN_FLOAT32, 0.0),
        (IN_FLOAT32, 0.01),
        (IN_FLOAT32, 0.1),
    ],
)
def test_associate__calls_as_plink2(
    n_samples: int, missing: float, tmp_path: Path, tool: Callable[[str], str]
) -> None:
    """Chromosomes of all kinds, rare variants, strong hits, covariates, a trait that some lack."""
    strengths = (300,) if n_samples == IN_FLOAT64 else (300, 1000)
    genotypes = make_study(
        tmp_path, n_samples, 50, missing, strengths=strengths, chromosomes=CHROMOSOMES
    )
    ours, theirs = of_axoloci(tmp_path, genotypes), of_plink2(tool("plink2"), tmp_path, genotypes)
    assert_equal(ours, theirs)
    frequency = (one.loc["far", "frequency"] for one in (ours, theirs))  # everyone has this trait
    pd.testing.assert_series_equal(*frequency, rtol=1e-5, check_dtype=False)
    assert (ours["neg_log10_p"].groupby("trait").max()[-len(strengths) :] > 250).all()


def test_associate__dosages_as_plink2(tmp_path: Path, tool: Callable[[str], str]) -> None:
    """Also those that are nearly the same for everyone, where float32 has few digits to lose."""
    genotypes = make_study(
        tmp_path, IN_FLOAT32, 40, 0.02, dosages=True, strengths=(300,), chromosomes=CHROMOSOMES
    )
    assert_equal(of_axoloci(tmp_path, genotypes), of_plink2(tool("plink2"), tmp_path, genotypes))


@pytest.mark.parametrize("bits", [8, 16])
def test_associate__dosages_of_bgen_as_statsmodels_and_plink2(
    bits: int, tmp_path: Path, tool: Callable[[str], str]
) -> None:
    """plink2 rounds dosages of BGEN to 1/16384; once they are, it has the same results."""
    pgen = make_study(
        tmp_path, IN_FLOAT32, 20, 0.02, dosages=True, strengths=(300,), chromosomes=CHROMOSOMES
    )
    bgen = export_bgen(tool("plink2"), pgen, bits)
    assert_equal(of_axoloci(tmp_path, bgen), of_statsmodels(tmp_path, bgen), digits=None)
    kept = keep_dosages(tool("plink2"), bgen)
    assert_equal(of_axoloci(tmp_path, kept), of_plink2(tool("plink2"), tmp_path, bgen))


def test_associate__mice_as_plink2(
    tmp_path: Path, data_dir: Path, tool: Callable[[str], str]
) -> None:
    """Real traits with missing values; plink2 leaves out what has a negative position."""
    folder = data_dir / "genotypes" / "mouse-hs1940"
    genotypes = unpack(folder, "mouse_hs1940", tmp_path / "mouse").with_suffix(".bed")
    people = pd.read_csv(tmp_path / "mouse.fam", sep=r"\s+", header=None, dtype=str)[[0, 1]]
    people.columns = ["#FID", "IID"]
    pheno = pd.read_csv(folder / "mouse_hs1940.pheno.txt.gz", sep=r"\s+", header=None)
    traits = pheno[[0, 1, 2, 5]].add_prefix("t")  # the fourth is yes or no
    covariates = pd.DataFrame(np.random.default_rng(0).normal(size=(1940, 5))).add_prefix("c")
    for name, table in (("t", traits), ("c", covariates)):
        table = pd.concat([people, table], axis=1)
        table.to_csv(tmp_path / f"{name}.tsv", sep="\t", index=False, na_rep="NA")
    theirs = of_plink2(tool("plink2"), tmp_path, genotypes, "--chr-set", 19)
    ours = of_axoloci(tmp_path, genotypes)
    assert len(ours) > len(theirs) > 4 * 9000
    assert_equal(ours.loc[ours.index.isin(theirs.index)], theirs)


def test_associate__expression_has_the_hits_of_plink2(
    tmp_path: Path, data_dir: Path, tool: Callable[[str], str]
) -> None:
    """All 364 genes of 373 Europeans and a tenth of the variants; `make verify` takes them all."""
    data = data_dir / "genotypes" / "geuvadis-chr22"
    genotypes = make_geuvadis(tmp_path, data, tool("plink2"), every=10)
    store = read_sumstats(associate(tmp_path, genotypes))
    assert len(store.traits) == 364
    ours = of_hits(store.hits(2))
    theirs = of_plink2(tool("plink2"), tmp_path, genotypes, "--pfilter", 0.01)
    for p in (1e-5, 5e-8):
        hits = [set(one.index[one["neg_log10_p"] >= -np.log10(p)]) for one in (ours, theirs)]
        assert hits[0] == hits[1]
        assert len(hits[0]) > 500
    table = pd.read_csv(store.path / "hits.tsv", sep="\t")
    assert set(zip(table["trait"], table["variant_id"], strict=True)) == hits[0]
    both = ours.index.intersection(theirs.index)
    assert len(both) > 40_000
    assert_equal(ours.loc[both], theirs.loc[both])

"""Conditional association: against full regressions with the leads as covariates."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner, Result
from numpy.typing import NDArray
from plink_files import write_plink
from scipy import stats

from axoloci.tasks.gwas.cli import main
from axoloci.tasks.gwas.commands.condition import SIGNAL_COLUMNS
from axoloci.tasks.gwas.condition import Signal, independent_signals

N, M, K = 500, 60, 3
NAMES = [f"latent_{k:03d}" for k in range(K)]
Study = tuple[NDArray[np.int8], NDArray[np.float64], NDArray[np.float64]]


def neg_log10_p(
    dosage: NDArray[Any], traits: NDArray[np.float64], covariates: NDArray[np.float64]
) -> float:
    """F test of all traits in the full regression of one genotype, of who has it."""
    known = dosage >= 0
    full = np.column_stack([covariates, traits])[known]
    rss = [
        float(np.linalg.lstsq(x, dosage[known].astype(float), rcond=None)[1][0])
        for x in (covariates[known], full)
    ]
    df = known.sum() - full.shape[1]
    f = (rss[0] - rss[1]) / traits.shape[1] / (rss[1] / df)
    return float(-stats.f.logsf(f, traits.shape[1], df) / np.log(10))


def filled(dosage: NDArray[Any]) -> NDArray[np.float64]:
    return np.where(dosage < 0, dosage[dosage >= 0].mean(), dosage).astype(np.float64)


def make_study(seed: int, effects: dict[int, float]) -> Study:
    """Genotypes (M, N) of one haplotype block after the other, traits (N, K), covariates (N, 3).

    Each 20 variants are in linkage disequilibrium. An effect is on all traits, in turn up and down.
    """
    rng = np.random.default_rng(seed)
    dosage = np.empty((M, N), dtype=np.int8)
    before = np.zeros((2, N), dtype=bool)
    for row in range(M):
        haplotypes = rng.random((2, N)) < 0.3
        if row % 20:
            haplotypes = np.where(rng.random((2, N)) < 0.9, before, haplotypes)
        before = haplotypes
        dosage[row] = haplotypes.sum(axis=0)
    covariates = np.column_stack([np.ones(N), rng.standard_normal((N, 2))])
    traits = rng.standard_normal((N, K)) @ rng.standard_normal((K, K)) + covariates[:, 1:2]
    for row, effect in effects.items():
        traits += effect * traits.std(axis=0) * dosage[row][:, None] * [1, -1, 1]
    return dosage, traits, covariates


def effects(
    dosage: NDArray[Any], traits: NDArray[np.float64], covariates: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Effect on each trait and −log10 p of its t test, by full regressions; none missing."""
    x = np.column_stack([covariates, dosage])
    df, inverse = len(x) - x.shape[1], np.linalg.inv(x.T @ x)
    coefficients = inverse @ x.T @ traits  # (n_covariates + 1, n_traits)
    variance = np.square(traits - x @ coefficients).sum(axis=0) / df
    t = coefficients[-1] / np.sqrt(variance * inverse[-1, -1])
    return coefficients[-1], -(stats.t.logsf(np.abs(t), df) + np.log(2)) / np.log(10)


def signals(study: Study, leads: list[int], **more: Any) -> list[Signal]:
    dosage, traits, covariates = study
    pieces = [(0, 25), (25, M)]
    return independent_signals(
        lambda start, stop: dosage[start:stop], pieces, leads, traits, covariates, NAMES, **more
    )


def forward(study: Study, lead: int, p_threshold: float) -> list[tuple[int, float]]:
    """Forward selection by full regressions; what a signal explains by 99.9% is not tested."""
    dosage, traits, covariates = study
    found = [(lead, neg_log10_p(dosage[lead], traits, covariates))]
    while True:
        covariates = np.column_stack([covariates, filled(dosage[found[-1][0]])])
        p = np.full(M, -np.inf)
        for row, own in enumerate(dosage):
            known = own >= 0
            rss = np.linalg.lstsq(covariates[known], own[known].astype(float), rcond=None)[1]
            if len(rss) and rss[0] > 1e-3 * known.sum() * own[known].var():
                p[row] = neg_log10_p(own, traits, covariates)
        if p.max() <= -np.log10(p_threshold):
            return found
        found.append((int(p.argmax()), float(p.max())))


@pytest.mark.parametrize("p_threshold", [5e-8, 0.05])
def test_independent_signals__are_those_of_full_regressions(p_threshold: float) -> None:
    """Two signals in one block, one beyond it; genotypes equal to the lead's are not tested."""
    study = make_study(1, {4: 0.5, 12: 0.4, 45: -0.5})
    study[0][50] = study[0][4]
    marginal = [neg_log10_p(own, *study[1:]) for own in study[0]]
    lead = int(np.argmax(marginal))
    truth = forward(study, lead, p_threshold)
    found = signals(study, [lead], p_threshold=p_threshold)
    assert len(truth) >= 3
    assert [signal.row for signal in found] == [row for row, _ in truth]
    np.testing.assert_allclose([signal.neg_log10_p for signal in found], [p for _, p in truth])
    assert {signal.n for signal in found} == {N}


def test_independent_signals__recovers_two_planted_ones_in_one_block() -> None:
    found = signals(make_study(2, {24: 0.6, 33: -0.6}), [24])
    assert [signal.row for signal in found] == [24, 33]


def test_independent_signals__of_one_planted_one_are_one_whatever_is_in_ld() -> None:
    study = make_study(3, {30: 0.6})
    p = np.array([neg_log10_p(own, *study[1:]) for own in study[0]])
    assert (p > -np.log10(5e-8)).sum() >= 5
    assert [signal.row for signal in signals(study, [30])] == [30]


def test_independent_signals__takes_the_mean_of_a_lead_where_it_is_missing() -> None:
    study = make_study(4, {24: 0.6, 33: -0.6})
    rng = np.random.default_rng(5)
    study[0][24, rng.random(N) < 0.02] = -9
    truth = forward(study, 24, 5e-8)
    found = signals(study, [24])
    assert [signal.row for signal in found] == [row for row, _ in truth] == [24, 33]
    assert [signal.n for signal in found] == [int((study[0][row] >= 0).sum()) for row in (24, 33)]
    # of the lead itself the traits' correlation is everybody's: nearly the truth
    assert found[0].neg_log10_p == pytest.approx(truth[0][1], rel=0.05)
    assert found[1].neg_log10_p == pytest.approx(truth[1][1], rel=1e-6)


def test_independent_signals__begins_with_all_leads_each_given_those_before() -> None:
    dosage, traits, covariates = study = make_study(6, {4: 0.6, 45: 0.6})
    dosage[50] = dosage[4]
    found = signals(study, [4, 45, 50])
    assert [signal.row for signal in found] == [4, 45, 50]
    given = np.column_stack([covariates, dosage[4]])
    assert found[1].neg_log10_p == pytest.approx(neg_log10_p(dosage[45], traits, given))
    assert np.isnan(found[2].neg_log10_p)  # the first one explains it
    beta, p = effects(dosage[45], traits, given)
    np.testing.assert_allclose(found[1].beta, beta)
    np.testing.assert_allclose(found[1].trait_neg_log10_p, p)
    assert np.isnan([found[2].beta, found[2].trait_neg_log10_p]).all()
    frequencies = [signal.effect_allele_frequency for signal in found]
    np.testing.assert_allclose(frequencies, dosage[[4, 45, 50]].mean(axis=1) / 2)


def run(folder: Path, *more: object) -> Result:
    inputs = ("--genotypes", folder / "g", "--traits", folder / "t.tsv", "--covariates")
    files = (folder / "c.tsv", "--loci", folder / "loci.tsv", "--out", folder / "signals.tsv")
    return CliRunner().invoke(main, [str(word) for word in ("condition", *inputs, *files, *more)])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A study of one chromosome, with signals at the rows 4, 12 and 45, and a table of two loci."""
    dosage, traits, covariates = make_study(1, {4: 0.5, 12: 0.4, 45: -0.5})
    write_plink(tmp_path / "g", dosage, position=list(range(1000, 61_000, 1000)))
    ids = pd.Index([f"i{i}" for i in range(N)], name="IID")
    pd.DataFrame(traits, ids, NAMES).assign(flat=1.0).to_csv(tmp_path / "t.tsv", sep="\t")
    pd.DataFrame(covariates[:, 1:], ids, ["a", "b"]).to_csv(tmp_path / "c.tsv", sep="\t")
    write_loci(tmp_path, [(1, 4), (2, 45)])
    return tmp_path


def write_loci(folder: Path, leads: list[tuple[int, int]], n_traits: int = K, **more: Any) -> None:
    """Each locus from two variants before its lead to two after it; p is of the first traits."""
    dosage, traits, covariates = make_study(1, {4: 0.5, 12: 0.4, 45: -0.5})
    rows = [
        {
            "locus": locus,
            "chromosome": "1",
            "start": 1000 * (row - 1),
            "end": 1000 * (row + 3),
            "base_pair_location": 1000 * (row + 1),
            "variant_id": f"rs{row}",
            "effect_allele": "A",
            "other_allele": "C",
            "neg_log10_p": neg_log10_p(dosage[row], traits[:, :n_traits], covariates),
        }
        for locus, row in leads
    ]
    columns = list(rows[0]) if rows else ["locus"]
    pd.DataFrame(rows, columns=columns).to_csv(folder / "loci.tsv", sep="\t", index=False)
    (folder / "loci.json").write_text(json.dumps(more))


def test_condition__gives_a_signal_to_the_nearer_locus_once(folder: Path) -> None:
    """The windows overlap: both leads are covariates of what is found beyond them."""
    result = run(folder, "--window-kb", 20)
    assert result.exit_code == 0, result.output
    study = make_study(1, {4: 0.5, 12: 0.4, 45: -0.5})
    truth = signals(study, [4, 45])
    table = pd.read_csv(folder / "signals.tsv", sep="\t")
    assert table.columns.tolist() == list(SIGNAL_COLUMNS)
    told = CliRunner().invoke(main, ["condition", "--help"]).output
    assert all(f"\n    {name}  " in told for name in SIGNAL_COLUMNS)
    assert table["locus"].tolist() == [1, 1, 2]
    assert table["round"].tolist() == [0, 1, 0]
    rows = [truth[k].row for k in (0, 2, 1)]
    assert len(truth) == 3
    assert table["variant_id"].tolist() == [f"rs{row}" for row in rows]
    expected = [truth[k].neg_log10_p for k in (0, 2, 1)]
    np.testing.assert_allclose(table["neg_log10_p"], expected, rtol=1e-6)
    beta, p = effects(study[0][4], *study[1:])  # of the first signal, which is given no other
    carried = [k for k in np.argsort(-p) if p[k] > -np.log10(0.05 / K)]
    assert carried
    first = table.iloc[0]
    assert first["traits"] == ",".join(NAMES[k] for k in carried)
    for column, truth_of in (("traits_beta", beta), ("traits_neg_log10_p", p)):
        values = [float(value) for value in str(first[column]).split(",")]
        np.testing.assert_allclose(values, truth_of[carried], rtol=1e-4)
    about = json.loads((folder / "signals.json").read_text())
    assert (about["n_loci"], about["n_signals"], about["traits"]) == (2, 3, NAMES)


def test_condition__looks_within_the_window_only(folder: Path) -> None:
    assert run(folder, "--window-kb", 1).exit_code == 0
    table = pd.read_csv(folder / "signals.tsv", sep="\t")
    assert table["variant_id"].tolist() == ["rs4", "rs45"]
    assert table["round"].tolist() == [0, 0]
    dosage, traits, covariates = make_study(1, {4: 0.5, 12: 0.4, 45: -0.5})
    alone = [neg_log10_p(dosage[row], traits, covariates) for row in (4, 45)]  # far apart: alone
    np.testing.assert_allclose(table["neg_log10_p"], alone, rtol=1e-6)


def test_condition__limits_of_variants_spare_the_leads(folder: Path) -> None:
    assert run(folder, "--window-kb", 20, "--min-maf", 0.5).exit_code == 0
    table = pd.read_csv(folder / "signals.tsv", sep="\t")
    assert table["variant_id"].tolist() == ["rs4", "rs45"]


def test_condition__of_no_locus_is_an_empty_table(folder: Path) -> None:
    full = pd.read_csv(folder / "loci.tsv", sep="\t")
    full.iloc[:0].to_csv(folder / "loci.tsv", sep="\t", index=False)
    result = run(folder)
    assert result.exit_code == 0, result.output
    assert len(pd.read_csv(folder / "signals.tsv", sep="\t")) == 0


def test_condition__leaves_out_traits_that_someone_lacks(folder: Path) -> None:
    """As the joint test does."""
    write_loci(folder, [(1, 4)], n_traits=2)
    table = pd.read_csv(folder / "t.tsv", sep="\t")
    table.loc[3, NAMES[2]] = np.nan
    table.to_csv(folder / "t.tsv", sep="\t", index=False, na_rep="NA")
    assert run(folder).exit_code == 0
    about = json.loads((folder / "signals.json").read_text())
    assert about["traits"] == NAMES[:2]


def test_condition__takes_the_traits_of_the_loci(folder: Path) -> None:
    """Of all traits but one, noted beside the table; --trait must name them."""
    write_loci(folder, [(1, 4)], n_traits=2, traits=NAMES[:2])
    assert run(folder).exit_code == 0
    assert json.loads((folder / "signals.json").read_text())["traits"] == NAMES[:2]
    result = run(folder, "--trait", NAMES[0])
    assert result.exit_code == 1
    assert "joint test is of 1 traits, latent_001 that" in " ".join(result.output.split())


def test_condition__takes_all_tables_of_the_association(folder: Path) -> None:
    """Of another table no trait is tested, but people are in both."""
    lacking = 20
    dosage, traits, covariates = make_study(1, {4: 0.5, 12: 0.4, 45: -0.5})
    write_loci(folder, [(1, 4)], traits=NAMES)
    loci = pd.read_csv(folder / "loci.tsv", sep="\t")
    of_both = neg_log10_p(dosage[4, lacking:], traits[lacking:], covariates[lacking:])
    loci.assign(neg_log10_p=of_both).to_csv(folder / "loci.tsv", sep="\t", index=False)
    ids = [f"i{i}" for i in range(lacking, N)]
    other = pd.DataFrame({"IID": ids, "component_000": covariates[lacking:, 1]})
    other.to_csv(folder / "other.tsv", sep="\t", index=False)
    result = run(folder, "--traits", folder / "other.tsv", "--window-kb", 1)
    assert result.exit_code == 0, result.output
    about = json.loads((folder / "signals.json").read_text())
    assert (about["traits"], about["n_samples"]) == (NAMES, N - lacking)
    table = pd.read_csv(folder / "signals.tsv", sep="\t")
    np.testing.assert_allclose(table["neg_log10_p"], of_both, rtol=1e-6)


def test_condition__refuses_other_traits_people_and_covariates(folder: Path) -> None:
    write_loci(folder, [(1, 4), (2, 45)])
    few = folder / "few.txt"
    few.write_text("".join(f"f{i}\ti{i}\n" for i in range(N - 60)))
    for more in (("--trait", NAMES[0]), ("--keep", few), ("--covariate", "b")):
        result = run(folder, *more)
        assert result.exit_code == 1, more
        assert re.search(r"rs\d+ has −log10 p = .* there, and", " ".join(result.output.split()))
        assert not (folder / "signals.tsv").exists()


def test_condition__takes_na_as_the_id_and_allele_of_a_lead(folder: Path) -> None:
    old, new = "1\trs4\t0\t5000\tA\tC\n", "1\tNA\t0\t5000\tNA\tC\n"
    variants = (folder / "g.bim").read_text()
    assert old in variants
    (folder / "g.bim").write_text(variants.replace(old, new))
    write_loci(folder, [(1, 4)])
    loci = (folder / "loci.tsv").read_text()
    (folder / "loci.tsv").write_text(loci.replace("rs4\tA", "NA\tNA"))
    result = run(folder)
    assert result.exit_code == 0, result.output
    first = (folder / "signals.tsv").read_text().splitlines()[1]
    assert first.startswith("1\t0\t1\t5000\tNA\tNA\tC")


def test_condition__refuses_what_it_cannot_test(folder: Path) -> None:
    def said(*more: object) -> str:
        result = run(folder, *more)
        assert result.exit_code == 1
        assert not (folder / "signals.tsv").exists()
        return " ".join(result.output.split())

    assert "lacks 1 lead variants, rs45 of" in said("--region", "1:1000-20000")
    write_loci(folder, [(1, 4)], mixed_model=True)
    assert "these loci are of a mixed model (associate --loco)" in said()
    write_loci(folder, [(1, 4)])
    (folder / "loci.tsv").write_text("locus\tchromosome\n1\t1\n")
    assert "no column start, end" in said()

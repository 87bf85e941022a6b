"""`axoloci-genetics` on a small study with two planted loci."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import statsmodels.api as sm
from click.testing import CliRunner, Result
from plink_files import write_plink
from scipy import stats

from axoloci.io.genotypes import open_genotypes
from axoloci.io.sumstats import VARIANT_COLUMNS, SumstatsWriter, plan_parts
from axoloci.tasks.genetics.cli import main
from axoloci.tasks.genetics.loci import haplotype_r2

N, K = 400, 4
TRAITS = [f"latent_{k:03d}" for k in range(K)]


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Genotypes of 400 people on two chromosomes, four traits, their store; loci at 20 and 70."""
    return make_study(tmp_path_factory.mktemp("study"), "2", None)


def make_study(folder: Path, second: str, sex: list[int] | None) -> Path:
    """A study as described above, its second chromosome of any name."""
    rng = np.random.default_rng(1)
    dosage = rng.binomial(2, 0.3, (100, N)).astype(np.int8)  # (M, N)
    for follower in (21, 22):  # in disequilibrium with the first locus
        copies = rng.random(N) < 0.8
        dosage[follower, copies] = dosage[20, copies]
    write_plink(folder / "genotypes", dosage, ["1"] * 50 + [second] * 50, sex=sex)
    y = rng.standard_normal((N, K))
    y[:, 0] += 0.7 * dosage[20]
    y[:, 2] -= 0.9 * dosage[70]
    y -= y.mean(axis=0)
    np.save(folder / "traits.npy", y)

    g = dosage - dosage.mean(axis=1, keepdims=True)  # (M, N)
    gg = np.square(g).sum(axis=1)[:, None]
    beta = g @ y / gg  # (M, K)
    se = np.sqrt((np.square(y).sum(axis=0) - beta**2 * gg) / (N - 2) / gg)
    beta[5] = se[5] = np.nan  # a variant that was not tested
    variants = open_genotypes(folder / "genotypes").variants
    parts = plan_parts(variants["chromosome"], K)
    writer = SumstatsWriter(folder / "sumstats", {"test": 1}, parts)
    for part in parts:
        rows = slice(part.start, part.stop)
        writer.write(
            part,
            variants.iloc[rows][VARIANT_COLUMNS],
            TRAITS,
            dosage[rows].mean(axis=1) / 2,
            np.full(part.stop - part.start, N, dtype=np.int32),
            beta[rows].astype(np.float32),
            se[rows].astype(np.float32),
            n_covariates=1,
        )
    people = [f"i{i}" for i in range(N)]
    writer.finish(TRAITS, people, np.corrcoef(y.T), y.std(axis=0), {"n_covariates": 1})
    result = run("joint", "--sumstats", folder / "sumstats", "--out", folder / "joint.parquet")
    assert result.exit_code == 0, result.output
    return folder


def test_joint__writes_the_regression_f_test_of_each_variant(study: Path) -> None:
    table = pd.read_parquet(study / "joint.parquet")
    genotypes = open_genotypes(study / "genotypes")
    dosage, y = genotypes.read(0, 100), np.load(study / "traits.npy")
    assert table["variant_id"].tolist() == genotypes.variants["variant_id"].tolist()
    for row in (0, 20, 70):
        fit = sm.OLS(dosage[row], sm.add_constant(y)).fit()
        assert table["f"][row] == pytest.approx(fit.fvalue, rel=1e-4)
        assert table["neg_log10_p"][row] == pytest.approx(-np.log10(fit.f_pvalue), rel=1e-4)
        assert table["r2"][row] == pytest.approx(fit.rsquared, rel=1e-4)
    assert np.flatnonzero(table["neg_log10_p"].isna()).tolist() == [5]


def test_joint__notes_inflation_and_traits_in_the_schema(study: Path) -> None:
    about = json.loads(pq.read_schema(study / "joint.parquet").metadata[b"axoloci"])
    p = 10 ** -pd.read_parquet(study / "joint.parquet")["neg_log10_p"].dropna()
    assert about["lambda_gc"] == pytest.approx(np.median(stats.chi2.isf(p, 1)) / 0.45494, rel=0.02)
    assert about["traits"] == TRAITS
    assert (about["n_variants"], about["n_tested"]) == (100, 99)


def test_joint__tests_a_subset_of_the_traits(study: Path, tmp_path: Path) -> None:
    chosen = f"{TRAITS[3]},{TRAITS[2]}"
    arguments = ("joint", "--sumstats", study / "sumstats", "--traits", chosen)
    assert run(*arguments, "--out", tmp_path / "joint.parquet").exit_code == 0
    table = pd.read_parquet(tmp_path / "joint.parquet")
    y = np.load(study / "traits.npy")[:, [2, 3]]
    dosage = open_genotypes(study / "genotypes").read(70, 71)[0]
    fit = sm.OLS(dosage, sm.add_constant(y)).fit()
    assert table["neg_log10_p"][70] == pytest.approx(-np.log10(fit.f_pvalue), rel=1e-4)
    assert table["neg_log10_p"][20] < 5  # its trait is not among them


@pytest.mark.parametrize("pattern", ["*_003", "latent_00*"])
def test_joint__a_star_stands_for_any_letters(study: Path, tmp_path: Path, pattern: str) -> None:
    names = TRAITS[3] if pattern == "*_003" else ",".join(TRAITS)
    for chosen, file in ((pattern, "star.parquet"), (names, "names.parquet")):
        arguments = ("joint", "--sumstats", study / "sumstats", "--traits", chosen)
        assert run(*arguments, "--out", tmp_path / file).exit_code == 0
    assert (tmp_path / "star.parquet").read_bytes() == (tmp_path / "names.parquet").read_bytes()


def test_joint__writes_the_same_bytes_again(study: Path, tmp_path: Path) -> None:
    again = tmp_path / "joint.parquet"
    assert run("joint", "--sumstats", study / "sumstats", "--out", again).exit_code == 0
    assert again.read_bytes() == (study / "joint.parquet").read_bytes()


def test_joint__names_an_unknown_trait(study: Path, tmp_path: Path) -> None:
    out = tmp_path / "j.parquet"
    result = run("joint", "--sumstats", study / "sumstats", "--traits", "height", "--out", out)
    assert result.exit_code == 1
    assert "no trait height" in result.output
    result = run("joint", "--sumstats", study / "sumstats", "--traits", "component_*", "--out", out)
    assert result.exit_code == 1
    assert "no trait is like 'component_*'; it has latent_000" in result.output
    assert not out.exists()


def joint_of(study: Path) -> tuple[object, ...]:
    return ("--joint", study / "joint.parquet", "--sumstats", study / "sumstats")


def loci(study: Path, out: Path, *more: object) -> Result:
    return run("loci", *joint_of(study), "--genotypes", study / "genotypes", "--out", out, *more)


def test_loci__finds_the_planted_loci_and_the_traits_that_carry_them(
    study: Path, tmp_path: Path
) -> None:
    result = loci(study, tmp_path / "loci.tsv")
    assert result.exit_code == 0, result.output
    table = pd.read_csv(tmp_path / "loci.tsv", sep="\t")
    assert table["variant_id"].tolist() == ["rs20", "rs70"]
    assert table["chromosome"].tolist() == [1, 2]
    assert table["traits"].tolist() == ["latent_000", "latent_002"]
    assert table["traits_beta"].tolist() == pytest.approx([0.7, -0.9], abs=0.2)
    assert set(table["clumped"][0].split(",")) >= {"rs21", "rs22"}
    assert table["start"][0] <= 1020 <= 1022 <= table["end"][0]
    y, dosage = np.load(study / "traits.npy"), open_genotypes(study / "genotypes").read(20, 21)[0]
    truth = sm.OLS(y[:, 0], sm.add_constant(dosage)).fit()
    assert float(table["traits_neg_log10_p"][0]) == pytest.approx(
        -np.log10(truth.pvalues[1]), rel=1e-4
    )
    fit = sm.OLS(dosage, sm.add_constant(y)).fit()
    assert table["joint_r2"][0] == pytest.approx(fit.rsquared, rel=1e-4)
    settings = json.loads((tmp_path / "loci.json").read_text())
    assert (settings["p_threshold"], settings["n_loci"]) == (5e-8, 2)
    assert settings["traits"] == TRAITS
    assert settings["mixed_model"] is False


def test_loci__takes_the_variants_of_the_genotypes_by_name_not_by_row(
    study: Path, tmp_path: Path
) -> None:
    """A file that lacks the first variants gives the same loci: rows are shifted, names are not."""
    dosage = open_genotypes(study / "genotypes").read(10, 100)
    write_plink(tmp_path / "less", dosage)
    bim = (study / "genotypes.bim").read_text().splitlines(keepends=True)
    (tmp_path / "less.bim").write_text("".join(bim[10:]))
    assert loci(study, tmp_path / "all.tsv").exit_code == 0
    result = loci(study, tmp_path / "less.tsv", "--genotypes", tmp_path / "less")
    secondary = pd.read_parquet(study / "joint.parquet")["neg_log10_p"][:10].max()
    assert secondary < 2  # none of the ten is needed
    assert result.exit_code == 0, result.output
    assert (tmp_path / "less.tsv").read_text() == (tmp_path / "all.tsv").read_text()


def test_loci__disequilibrium_is_that_of_the_people_analysed(study: Path, tmp_path: Path) -> None:
    """People who were not analysed, and another order of people, change nothing."""
    dosage = open_genotypes(study / "genotypes").read(0, 100)  # (M, N)
    rng = np.random.default_rng(2)
    strangers = rng.binomial(2, 0.3, (100, 2 * N)).astype(np.int8)  # no disequilibrium
    order = rng.permutation(3 * N)
    write_plink(tmp_path / "more", np.concatenate([dosage, strangers], axis=1)[:, order])
    (tmp_path / "more.bim").write_text((study / "genotypes.bim").read_text())
    fam = (tmp_path / "more.fam").read_text().splitlines(keepends=True)
    (tmp_path / "more.fam").write_text("".join(fam[i] for i in order))
    assert loci(study, tmp_path / "all.tsv").exit_code == 0
    result = loci(study, tmp_path / "more.tsv", "--genotypes", tmp_path / "more")
    assert result.exit_code == 0, result.output
    assert (tmp_path / "more.tsv").read_text() == (tmp_path / "all.tsv").read_text()
    assert json.loads((tmp_path / "more.json").read_text())["n_samples_ld"] == N
    # that of everybody would be another one
    everybody = np.concatenate([dosage, strangers], axis=1)
    r2_of_all = haplotype_r2(everybody[20], everybody[[22]])
    assert r2_of_all < 0.1 < haplotype_r2(dosage[20], dosage[[22]])


def test_loci__of_chromosome_x_counts_men_once(tmp_path: Path) -> None:
    sex = np.arange(N, dtype=np.int8) % 3
    folder = make_study(tmp_path, "X", sex.tolist())
    regions = tmp_path / "regions.parquet"
    result = loci(folder, tmp_path / "loci.tsv", "--regions", regions)
    assert result.exit_code == 0, result.output
    found = pd.read_parquet(regions)
    found = found[found["chromosome"] == "X"].set_index("variant_id")["r2"]
    dosage = open_genotypes(folder / "genotypes").read_calls(0, 100)
    rows = [int(name.removeprefix("rs")) for name in found.index]
    truth = haplotype_r2(dosage[70], dosage[rows], np.where(sex == 1, 1, 2).astype(np.int8))
    np.testing.assert_allclose(found, truth)
    largest = float(np.sort(found)[-2])  # but the lead's own
    everyone_alike = haplotype_r2(dosage[70], dosage[rows])
    assert not np.allclose(found, everyone_alike, atol=1e-3)
    for nudge in (-1e-6, 1e-6):
        limits = ("--clump-r2", largest + nudge, "--secondary-p", 1)
        assert loci(folder, tmp_path / "loci.tsv", *limits).exit_code == 0
        table = pd.read_csv(tmp_path / "loci.tsv", sep="\t", dtype={"chromosome": str})
        n_clumped = table.loc[table["chromosome"] == "X", "n_clumped"]
        assert n_clumped.tolist() == [int(nudge < 0)]


def test_loci__names_people_without_genotypes(study: Path, tmp_path: Path) -> None:
    write_plink(tmp_path / "few", open_genotypes(study / "genotypes").read(0, 100, range(N - 3)))
    (tmp_path / "few.bim").write_text((study / "genotypes.bim").read_text())
    result = loci(study, tmp_path / "loci.tsv", "--genotypes", tmp_path / "few")
    assert result.exit_code == 1
    assert "lacks 3 of 400 people, such as 'i397'" in " ".join(result.output.split())


def test_loci__refuses_other_genotypes(study: Path, tmp_path: Path) -> None:
    write_plink(tmp_path / "other", open_genotypes(study / "genotypes").read(0, 15))
    result = loci(study, tmp_path / "loci.tsv", "--genotypes", tmp_path / "other")
    assert result.exit_code == 1
    assert "rs20" in result.output
    assert "give the genotypes of the study" in result.output


def test_loci__writes_an_empty_table_where_nothing_is_found(study: Path, tmp_path: Path) -> None:
    result = loci(study, tmp_path / "loci.tsv", "--p-threshold", 1e-200)
    assert result.exit_code == 0, result.output
    table = pd.read_csv(tmp_path / "loci.tsv", sep="\t")
    assert len(table) == 0
    assert "variant_id" in table.columns


def test_loci__refuses_a_table_that_is_no_joint_test(study: Path, tmp_path: Path) -> None:
    pd.DataFrame({"a": [1]}).to_parquet(tmp_path / "other.parquet")
    result = loci(study, tmp_path / "loci.tsv", "--joint", tmp_path / "other.parquet")
    assert result.exit_code == 1
    assert "not a table of axoloci-genetics joint" in result.output


def test_loci__of_a_reference_are_those_of_the_study_if_it_is_the_study(
    study: Path, tmp_path: Path
) -> None:
    """Alleles the other way round, other ids, another order; people with parents do not count."""
    dosage = open_genotypes(study / "genotypes").read(0, 100)  # (M, N)
    strangers = np.random.default_rng(2).binomial(2, 0.3, (100, 2 * N)).astype(np.int8)
    order = np.random.default_rng(3).permutation(50)
    rows = np.concatenate([order, 50 + order])
    everybody = np.concatenate([dosage, strangers], axis=1)[rows]
    write_plink(tmp_path / "panel", 2 - everybody)
    bim = pd.read_csv(study / "genotypes.bim", sep="\t", header=None).iloc[rows]
    bim[1] = [f"panel{row}" for row in rows]
    bim[0] = "chr" + bim[0].astype(str)
    bim[[0, 1, 2, 3, 5, 4]].to_csv(tmp_path / "panel.bim", sep="\t", index=False, header=False)
    fam = pd.read_csv(tmp_path / "panel.fam", sep="\t", header=None, dtype=str)
    fam.loc[N:, [2, 3]] = ["i0", "i1"]
    fam.to_csv(tmp_path / "panel.fam", sep="\t", index=False, header=False)
    ours, theirs = tmp_path / "ours.tsv", tmp_path / "theirs.tsv"
    assert loci(study, ours, "--regions", tmp_path / "ours.parquet").exit_code == 0
    inputs = ("--reference", tmp_path / "panel", "--regions", tmp_path / "theirs.parquet")
    result = run("loci", *joint_of(study), *inputs, "--out", theirs)
    assert result.exit_code == 0, result.output
    assert theirs.read_text() == ours.read_text()
    one, other = (pd.read_parquet(tmp_path / f"{name}.parquet") for name in ("ours", "theirs"))
    pd.testing.assert_frame_equal(one, other, rtol=1e-9)
    about = json.loads(theirs.with_suffix(".json").read_text())
    assert (about["n_samples_ld"], about["not_in_reference"]) == (N, [])


def test_loci__leaves_out_what_a_reference_lacks_and_tells_it(
    study: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The lead of the first locus is not in the panel: the next best variant leads, as in plink."""
    dosage = open_genotypes(study / "genotypes").read(0, 100)
    kept = np.delete(np.arange(100), [20, 40])
    write_plink(tmp_path / "panel", dosage[kept])
    bim = (study / "genotypes.bim").read_text().splitlines(keepends=True)
    (tmp_path / "panel.bim").write_text("".join(bim[row] for row in kept))
    out = tmp_path / "loci.tsv"
    given = ("--reference", tmp_path / "panel", "--regions", tmp_path / "r.parquet", "--out", out)
    result = run("loci", *joint_of(study), *given)
    assert result.exit_code == 0, result.output
    assert "lacks 1 variants with p up to 5e-08, which are in no clump, such as rs20" in caplog.text
    assert json.loads(out.with_suffix(".json").read_text())["not_in_reference"] == ["rs20"]
    table = pd.read_csv(out, sep="\t")
    joint = pd.read_parquet(study / "joint.parquet").set_index("variant_id")["neg_log10_p"]
    assert table["variant_id"].tolist() == [joint[["rs21", "rs22"]].idxmax(), "rs70"]
    assert "rs20" not in ",".join(table["clumped"].fillna(""))
    regions = pd.read_parquet(tmp_path / "r.parquet").set_index("variant_id")
    assert regions.index[regions["r2"].isna()].tolist() == ["rs20", "rs40"]


def test_loci__refuses_a_reference_of_another_build(study: Path, tmp_path: Path) -> None:
    dosage = open_genotypes(study / "genotypes").read(0, 100)
    chromosome, place = ["1"] * 50 + ["2"] * 50, np.arange(1000, 1100)
    joint = pd.read_parquet(study / "joint.parquet")
    n = int((joint["neg_log10_p"] >= 2).sum())
    for shift, ids, said in (
        (60, "rs", f"{n} of the {n} variants that it and .* have by id have other positions"),
        (
            200,
            "x",
            f"has 0 of {n} associated variants .* none of their positions: .* another build",
        ),
    ):
        write_plink(tmp_path / "panel", dosage, chromosome, list(place + shift))
        bim = tmp_path / "panel.bim"
        bim.write_text(bim.read_text().replace("rs", ids))
        out = tmp_path / "loci.tsv"
        given = ("--reference", tmp_path / "panel", "--out", out)
        result = run("loci", *joint_of(study), *given)
        assert result.exit_code == 1
        assert re.search(said, " ".join(result.output.split())), result.output
        assert not out.exists()
    place[[20, 70]] += 500
    write_plink(tmp_path / "panel", dosage, chromosome, list(place))
    result = run("loci", *joint_of(study), *given)
    assert f"2 of the {n} variants that it and" in " ".join(result.output.split())
    write_plink(tmp_path / "panel", dosage, chromosome)
    bim.write_text(bim.read_text().replace("rs", "x").replace("\tA\t", "\tG\t"))
    result = run("loci", *joint_of(study), *given)
    assert f"it has {n} of their positions, with other alleles" in " ".join(result.output.split())


def test_loci__takes_one_source_of_disequilibrium(study: Path, tmp_path: Path) -> None:
    panel = ("--genotypes", study / "genotypes", "--reference", study / "genotypes")
    for given in ((), panel):
        result = run("loci", *joint_of(study), *given, "--out", tmp_path / "loci.tsv")
        assert result.exit_code == 2
        assert "--genotypes or of --reference" in result.output


def test_loci__names_the_genes_nearest_to_the_leads(study: Path, tmp_path: Path) -> None:
    """Leads at 1:1020 and 2:1070."""
    genes = tmp_path / "genes.tsv"
    genes.write_text(
        "gene\tchromosome\tstrand\tstart\tend\n"
        "FAR\tchr1\t+\t5000\t9000\nHERE\tchr1\t-\t1020\t1030\nOVER\tchr1\t+\t100\t1020\n"
        "NEAR\tchr2\t+\t2570\t2600\n"
    )
    result = loci(study, tmp_path / "loci.tsv", "--genes", genes)
    assert result.exit_code == 0, result.output
    table = pd.read_csv(tmp_path / "loci.tsv", sep="\t", keep_default_na=False)
    assert table["nearest_gene"].tolist() == ["HERE,OVER", "NEAR"]
    assert table["nearest_gene_kb"].tolist() == [0, 1.5]
    genes.write_text("chromosome\tstart\tend\tgene\n1\t10\t20\tONE\n")
    assert loci(study, tmp_path / "loci.tsv", "--genes", genes).exit_code == 0
    table = pd.read_csv(tmp_path / "loci.tsv", sep="\t", keep_default_na=False)
    assert table["nearest_gene"].tolist() == ["ONE", "n/a"]
    assert table["nearest_gene_kb"].tolist() == ["1", "n/a"]


def test_loci__refuses_genes_of_other_chromosomes(study: Path, tmp_path: Path) -> None:
    genes = tmp_path / "genes.tsv"
    genes.write_text("chromosome\tstart\tend\tgene\nX\t10\t20\tONE\n")
    result = loci(study, tmp_path / "loci.tsv", "--genes", genes)
    assert result.exit_code == 1
    assert "has no gene on a chromosome of" in " ".join(result.output.split())


def test_loci__regions_hold_all_tested_variants_with_r2_to_the_lead(
    study: Path, tmp_path: Path
) -> None:
    regions = tmp_path / "regions.parquet"
    given = ("--regions", regions, "--region-kb", 0.005)  # 5 base pairs
    assert loci(study, tmp_path / "loci.tsv", *given).exit_code == 0
    table, found = pd.read_csv(tmp_path / "loci.tsv", sep="\t"), pd.read_parquet(regions)
    joint = pd.read_parquet(study / "joint.parquet").dropna(subset="neg_log10_p")
    dosage = open_genotypes(study / "genotypes").read(0, 100)
    for locus in table.itertuples():
        inside = joint["base_pair_location"].between(locus.start - 5, locus.end + 5)
        truth = joint[inside & (joint["chromosome"] == str(locus.chromosome))]
        of_locus = found[found["locus"] == locus.locus].reset_index(drop=True)
        columns = ["chromosome", "base_pair_location", "variant_id", "neg_log10_p"]
        pd.testing.assert_frame_equal(of_locus[columns], truth[columns].reset_index(drop=True))
        lead = joint.index[joint["variant_id"] == locus.variant_id][0]
        r = np.corrcoef(dosage[lead], dosage[truth.index])[0, 1:]
        # in Hardy-Weinberg equilibrium that of the genotypes is nearly that of the haplotypes
        np.testing.assert_allclose(of_locus["r2"], r * r, atol=0.05)
        of_lead = of_locus.set_index("variant_id")["r2"][locus.variant_id]
        assert of_lead == pytest.approx(1, abs=1e-12)
    assert loci(study, tmp_path / "none.tsv", *given, "--p-threshold", 1e-200).exit_code == 0
    assert pd.read_parquet(regions).columns.tolist() == found.columns.tolist()
    told = run("loci", "--help").output
    assert all(f"\n    {name}  " in told for name in (*table.columns, *found.columns))
    assert len(pd.read_parquet(regions)) == 0


def test_replicate__follows_alleles_and_counts_what_is_absent(
    study: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The study in place of its own replication: with swapped alleles, without one variant."""
    loci = tmp_path / "loci.tsv"
    inputs = ("--sumstats", study / "sumstats", "--genotypes", study / "genotypes")
    done = run("loci", "--joint", study / "joint.parquet", *inputs, "--out", loci)
    assert done.exit_code == 0, done.output
    again = ("--discovery", study / "sumstats", "--replication", study / "sumstats")
    out = tmp_path / "replication.tsv"
    done = run("replicate", "--loci", loci, *again, "--out", out)
    assert done.exit_code == 0, done.output
    table = pd.read_csv(out, sep="\t")
    leads = pd.read_csv(loci, sep="\t")
    # The composite that was fitted to these very people: its r² is the joint test's.
    np.testing.assert_allclose(table["r"] ** 2, leads["joint_r2"], rtol=1e-4)
    assert (table["replicated"] == "yes").all()
    assert table["n"].tolist() == [N, N]
    assert "another run" not in caplog.text  # of several traits, with covariates

    swapped = leads.rename(
        columns={"effect_allele": "other_allele", "other_allele": "effect_allele"}
    )
    swapped.loc[1, "base_pair_location"] += 1_000_000
    swapped.to_csv(loci, sep="\t", index=False)
    done = run("replicate", "--loci", loci, *again, "--out", out)
    assert done.exit_code == 1
    assert f"has no variant {leads['variant_id'][1]}" in done.output
    swapped.iloc[:1].to_csv(loci, sep="\t", index=False)
    done = run("replicate", "--loci", loci, *again, "--out", out)
    turned = pd.read_csv(out, sep="\t")
    assert turned["r"][0] == pytest.approx(table["r"][0])
    assert turned["effect_allele_frequency"][0] == pytest.approx(
        1 - table["effect_allele_frequency"][0]
    )
    summary = json.loads((tmp_path / "replication.json").read_text())
    assert (summary["n_leads"], summary["n_replicated"], summary["n_same_direction"]) == (1, 1, 1)

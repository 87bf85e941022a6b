"""The study's page on planted results of the genetics step."""

from __future__ import annotations

import io
import json
import re
from html import unescape
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result
from PIL import Image
from scipy import stats

from axoloci.io.nifti import write_nifti
from axoloci.io.packing import write_cohort
from axoloci.io.sumstats import SumstatsBlock, SumstatsWriter, plan_parts, read_sumstats
from axoloci.tasks.report import association_page, genetics_figures, genetics_page
from axoloci.tasks.report.cli import main
from axoloci.tasks.report.genetics_inputs import NOT_LINEAR, genetics_facts
from axoloci.tasks.report.inputs import Inputs, Joint, Results
from axoloci.tasks.report.trait_scan import scan_traits, trait_quantiles

N = 1000  # people
N_LOCI = 23
SHAPE, AFFINE = (20, 24, 20), np.array([[-4.0, 0, 0, 40], [0, 4, 0, -60], [0, 0, 4, -30], [0] * 4])
AFFINE[3, 3] = 1
PEAK = (5, 15, 9)  # voxel
SIGN_TEST = 4.28e-4  # p of 19 in 22
INDEX = "locus\tvariant_id\tprefix\tpeak_x\tpeak_y\tpeak_z"


def write_genetics(
    folder: Path, n_traits: int = 8, n_variants: int = 4000, per_region: int = 300, seed: int = 0
) -> Path:
    """A study of latents with loci, regions, signals, h², rg, maps and replication; its inputs."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    traits = [f"latent_{k:03d}" for k in range(n_traits)]
    chromosome = np.sort(rng.integers(1, 23, n_variants))
    position = np.sort(rng.integers(1, 240_000_000, n_variants))
    variants = pd.DataFrame(
        {
            "chromosome": chromosome.astype(str),
            "base_pair_location": position,
            "variant_id": [f"rs{i}" for i in range(n_variants)],
            "effect_allele": "A",
            "other_allele": "G",
        }
    )
    z = rng.standard_normal((n_variants, n_traits))
    leads = np.linspace(50, n_variants - 50, N_LOCI).astype(int)
    z[leads, np.arange(N_LOCI) % min(5, n_traits)] = np.linspace(12, 6, N_LOCI)
    writer = SumstatsWriter(folder / "sumstats", {}, plan_parts(list(variants["chromosome"]), 8))
    for part in writer.parts:
        rows = slice(part.start, part.stop)
        n = np.full(part.stop - part.start, N)
        beta = (0.1 * z[rows]).astype(np.float32)
        se = np.full_like(beta, 0.1)
        writer.write(part, variants[rows], traits, n / 3000, n, beta, se, 5)
    people = [f"i{k}" for k in range(N)]
    writer.finish(traits, people, np.eye(n_traits), np.ones(n_traits), {"n_covariates": 5})

    strength = np.linspace(31, 8, N_LOCI)
    joint = variants.assign(neg_log10_p=-np.log10(rng.random(n_variants)))
    joint.loc[leads, "neg_log10_p"] = strength
    about = {"traits": traits, "lambda_gc": 1.01, "also": {"mostest": {}, "minp": {}}}
    table = pa.Table.from_pandas(joint, preserve_index=False)
    pq.write_table(
        table.replace_schema_metadata({"axoloci": json.dumps(about)}), folder / "joint.parquet"
    )
    loci = variants.iloc[leads].assign(
        locus=range(1, N_LOCI + 1),
        start=position[leads] - 60_000,
        end=position[leads] + 45_000,
        effect_allele_frequency=0.3,
        n=N,
        neg_log10_p=strength,
        joint_r2=np.linspace(0.09, 0.03, N_LOCI),
        n_leads=1,
        n_clumped=3,
        nearest_gene=["NUAK1", "n/a", "A,B", *["GENE"] * (N_LOCI - 3)],
        nearest_gene_kb=["12.4", "n/a", "0", *["3"] * (N_LOCI - 3)],
    )
    loci.to_csv(folder / "loci.tsv", sep="\t", index=False)

    regions = []
    for row in loci.to_dict("records"):
        offset = np.sort(rng.integers(-250_000, 250_000, per_region))
        offset[per_region // 2] = 0
        r2 = np.exp(-np.abs(offset) / 40_000) * rng.uniform(0.5, 1, per_region)
        r2[per_region // 2], r2[3] = 1, np.nan
        names = [f"{row['variant_id']}_{k}" for k in range(per_region)]
        names[per_region // 2] = row["variant_id"]
        p = np.nan_to_num(r2) * row["neg_log10_p"] + rng.exponential(0.43, per_region)
        p[per_region // 2], p[7] = row["neg_log10_p"], np.nan
        region = {"locus": row["locus"], "chromosome": row["chromosome"]}
        columns = {"variant_id": names, "neg_log10_p": p, "r2": r2}
        at = row["base_pair_location"] + offset
        regions.append(pd.DataFrame({**region, "base_pair_location": at, **columns}))
    pd.concat(regions).to_parquet(folder / "regions.parquet")
    signals = loci.assign(round=1)
    second = signals.head(1).assign(round=2, variant_id="rs_second", neg_log10_p=9.87)
    second["base_pair_location"] += 120_000
    told = {"traits": "latent_003,latent_001", "traits_beta": "-0.1,0.2"}
    second = second.assign(**told, traits_neg_log10_p="8.25,3.5")
    pd.concat([signals, second]).to_csv(folder / "signals.tsv", sep="\t", index=False)

    h2 = np.linspace(0.45, -0.02, n_traits)
    heritability = pd.DataFrame({"trait": traits, "h2": h2, "h2_se": 0.06})
    heritability["lambda_gc"] = 1.05 + 0.1 * h2
    heritability.to_csv(folder / "heritability.tsv", sep="\t", index=False)
    (folder / "heritability.json").write_text('{"n_probes": 10, "n_blocks": 200}')
    (folder / "ldsc").mkdir(exist_ok=True)
    by_ldsc = pd.DataFrame(
        {"trait": [*traits[::-1], "height"], "h2": [*(h2[::-1] * 0.9), 0.51], "h2_se": 0.09}
    )
    by_ldsc = by_ldsc.assign(lambda_gc=9.9, intercept=1.013, intercept_se=0.008)
    by_ldsc.to_csv(folder / "ldsc" / "heritability.tsv", sep="\t", index=False, na_rep="n/a")
    (folder / "ldsc" / "ldsc.json").write_text('{"with": [{"trait": "height"}]}')
    factor = rng.standard_normal((n_traits, 2))
    factor[: n_traits // 2, 0] += 3  # two groups of traits, far apart in the table
    covariance = factor @ factor.T + np.eye(n_traits)
    sd = np.sqrt(np.diag(covariance))
    correlation = covariance / np.outer(sd, sd)
    first, second_ = np.triu_indices(n_traits, 1)
    pairs = pd.DataFrame(
        {
            "trait_1": np.array(traits)[first],
            "trait_2": np.array(traits)[second_],
            "rg": correlation[first, second_],
            "rg_se": 0.1,
            "neg_log10_p": 5 * np.abs(correlation[first, second_]),
            "phenotypic_correlation": 0.3 * correlation[first, second_],
        }
    )
    pairs.to_csv(folder / "genetic_correlation.tsv", sep="\t", index=False)
    outside = pairs.head(1).assign(trait_2="height", rg=-0.777, phenotypic_correlation=np.nan)
    outside = pd.concat([outside, pairs.head(2).assign(rg=0.111)])  # known from the other table
    outside.to_csv(folder / "ldsc" / "genetic_correlation.tsv", sep="\t", index=False)

    grid = np.stack(np.meshgrid(*(np.linspace(-1, 1, k) for k in SHAPE), indexing="ij"))
    mask = (grid**2).sum(axis=0) < 0.9
    fa = (0.3 + 0.3 * np.exp(-((np.abs(grid[0]) - 0.3) ** 2) / 0.03))[mask]
    maps = np.clip(fa + rng.normal(0, 0.03, (12, mask.sum())), 0, 1).astype(np.float32)
    write_cohort(folder / "cohort.zarr", people[:12], maps.__getitem__, mask, AFFINE)
    place = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"))
    blob = np.exp(-((place - np.array(PEAK)[:, None, None, None]) ** 2).sum(axis=0) / 12) * mask
    blob[PEAK] = 1
    world = (AFFINE @ [*PEAK, 1])[:3]
    index = []
    for k in range(3):
        write_nifti(
            folder / "voxels" / f"map{k}_beta.nii.gz",
            np.where(mask, (-1) ** k * 0.01 * (blob - 0.05), np.nan).astype(np.float32),
            AFFINE,
        )
        strong = np.where(mask, 15 * blob + 0.1, np.nan).astype(np.float32)
        write_nifti(folder / "voxels" / f"map{k}_neg_log10_p.nii.gz", strong, AFFINE)
    for k, row in enumerate(loci.to_dict("records")):
        at = dict(zip(("peak_x", "peak_y", "peak_z"), world, strict=True))
        told = {"locus": row["locus"], "variant_id": row["variant_id"], "prefix": f"map{k % 3}"}
        index.append({**told, **at, "peak_neg_log10_p": 15.1, "effect_allele": "A"})
    pd.DataFrame(index).assign(linearised="no").to_csv(
        folder / "voxels" / "index.tsv", sep="\t", index=False
    )
    write_nifti(folder / "voxel_h2.nii.gz", (0.4 * blob).astype(np.float32), AFFINE)
    write_nifti(folder / "voxel_h2_se.nii.gz", np.full(SHAPE, 0.05, np.float32), AFFINE)

    replication = loci[["locus", *variants.columns]].assign(
        n=500, r=0.8 * np.sqrt(loci["joint_r2"]), neg_log10_p=4.0, replicated="yes"
    )
    replication.loc[replication.index[-3:], ["r", "replicated"]] = [-0.05, "no"]
    replication.loc[replication.index[0], ["r", "neg_log10_p"]] = np.nan  # not in the other cohort
    replication.loc[replication.index[0], "replicated"] = "n/a"
    replication["why_absent"] = ["not there", *["n/a"] * (N_LOCI - 1)]
    # the other cohort lacks the first
    said = {"n_tested": 22, "n_same_direction": 19, "p_sign_test": SIGN_TEST}
    (folder / "replication.json").write_text(json.dumps(said))
    replication.to_csv(folder / "replication.tsv", sep="\t", index=False, na_rep="n/a")

    names = {
        **{name: f"{name}.parquet" for name in ("joint", "regions")},
        **{name: f"{name}.tsv" for name in ("loci", "signals", "heritability", "replication")},
        "genetic_correlation": "genetic_correlation.tsv",
        **{name: name for name in ("sumstats", "ldsc", "voxels")},
        **{name: f"{name}.nii.gz" for name in ("voxel_h2", "voxel_h2_se")},
    }
    given = {"title": "Planted", "cohort": "cohort.zarr", "facts": {}, **names}
    (folder / "inputs.json").write_text(json.dumps(given))
    return folder / "inputs.json"


def make(inputs: Path, out: Path, *options: str) -> Result:
    return CliRunner().invoke(main, ["make", "--inputs", str(inputs), "--out", str(out), *options])


def made(inputs: Path, out: Path, *options: str) -> str:
    result = make(inputs, out, *options)
    assert result.exit_code == 0, result.output
    return out.read_text()


def with_only(inputs: Path, to: str, **values: Any) -> Path:
    """Other inputs beside the same files, which are told apart by name."""
    path = inputs.parent / to
    path.write_text(json.dumps({"title": "Some", **values}))
    return path


def rows_of(html: str, label: str) -> list[list[str]]:
    """Cells of a table of the page."""
    found = re.search(rf'aria-label="{label}".*?</table>', html, flags=re.DOTALL)
    assert found is not None
    return [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in found[0].split("<tr>")[2:]]


def pictures_of(html: str) -> list[str]:
    """Alternative texts."""
    return re.findall(r'<img src="data:image/[^"]+" alt="([^"]+)"', html)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_genetics(tmp_path_factory.mktemp("genetics"))


@pytest.fixture(scope="module")
def html(inputs: Path) -> str:
    return made(inputs, inputs.parent / "report.html")


def test_make__every_picture_has_alternative_text_and_needs_no_network(html: str) -> None:
    alts = pictures_of(html)
    assert len(alts) == html.count("<img ")
    # maps; joint and single traits: Manhattan, quantiles; regions; replication; h², rg; voxels
    assert len(alts) == 1 + 4 + genetics_page.MAX_LOCI + 1 + 2 + genetics_page.MAX_LOCI + 1
    assert min(map(len, alts)) > 40
    assert not re.search(r"https?://|@import|url\(", html)
    assert len(html.encode()) < 7e6  # with as many regions and maps as there may be: twice for two


def test_make__single_traits_tell_their_strongest_variant(html: str) -> None:
    rows = rows_of(html, "Single latents")
    assert [row[0] for row in rows[:5]] == [f"latent_{k:03d}" for k in range(5)]
    assert [row[2] for row in rows] == ["5", "5", "5", "4", "4", "0", "0", "0"]
    assert [row[3] for row in rows[:2]] == ["rs50", "rs227"]
    assert float(rows[0][4]) == pytest.approx(-np.log10(2 * stats.t.sf(12, N - 6)), abs=0.06)
    assert all(0.85 < float(row[1]) < 1.15 for row in rows)
    assert "most significant are rs50 for latent_000, rs227 for latent_001" in html


def test_make__single_traits_of_another_store_are_refused(inputs: Path, tmp_path: Path) -> None:
    table = pq.read_table(inputs.parent / "joint.parquet")
    about = {"axoloci": json.dumps({"traits": ["latent_000", "height"]})}
    pq.write_table(table.replace_schema_metadata(about), inputs.parent / "other.parquet")
    given = with_only(inputs, "other.json", joint="other.parquet", sumstats="sumstats")
    result = make(given, tmp_path / "r.html")
    assert result.exit_code == 1
    assert "has no trait height" in result.output


def test_make__draws_twenty_regions_and_tells_the_rest(html: str) -> None:
    alts = [alt for alt in pictures_of(html) if alt.startswith("Regional plot")]
    assert len(alts) == genetics_page.MAX_LOCI
    assert "locus 1: rs50 with −log10 p 31.0, 299 variants" in alts[0]  # one was not tested
    assert "The 20 most significant loci; 3 others are in the tables." in html
    assert "Locus 1: rs50, nearest gene NUAK1 (12 kb)<" in html
    assert "Locus 2: rs227<" in html
    assert [row[3] for row in rows_of(html, "Loci")[:3]] == ["NUAK1 (12 kb)", "–", "A,B"]


def test_make__signals_are_told_with_their_round(html: str) -> None:
    assert "24 signals at 23 loci, 1 of them with more than one" in html
    assert rows_of(html, "Signals after conditioning")[-1][:3] == ["1", "2", "rs_second"]
    assert rows_of(html, "Signals after conditioning")[-1][5] == "9.9"
    assert rows_of(html, "Signals after conditioning")[-1][-1] == "003 ▼ 8.2, 001 ▲ 3.5"


def test_make__heritability_of_both_estimators_side_by_side(html: str) -> None:
    rows = rows_of(html, "Heritability")
    assert rows[0] == ["latent_000", "0.450", "0.060", "0.405", "0.090", "1.095", "1.013", "0.008"]
    assert rows[-1][:5] == ["height", "–", "–", "0.510", "0.090"]
    assert rows[-2][0] == "latent_007"
    assert "highest for latent_000 (0.45 ± 0.06), lowest for latent_007 (-0.02 ± 0.06)" in html
    assert "SNP heritability of 8 latents, Haseman–Elston regression: mean h² 0.215" in html


def test_make__heritability_is_summed_up_without_traits_of_other_studies(
    inputs: Path, tmp_path: Path
) -> None:
    html = made(with_only(inputs, "ldsc.json", ldsc="ldsc"), tmp_path / "page.html")
    assert "SNP heritability of 8 traits, LD score regression: mean h² 0.193" in html
    assert rows_of(html, "Heritability")[0][:2] == ["height", "0.510"]


def test_make__correlations_are_clustered_and_can_be_read(inputs: Path, html: str) -> None:
    cells = json.loads(unescape(re.search(r'data-cells="([^"]+)"', html)[1]))  # type: ignore[index]
    names, below, above = cells["names"], cells["below"], cells["above"]
    assert sorted(names) == sorted([*(f"latent_{k:03d}" for k in range(8)), "height"])
    table = pd.read_csv(inputs.parent / "genetic_correlation.tsv", sep="\t")
    for row in table.to_dict("records"):
        i, j = names.index(row["trait_1"]), names.index(row["trait_2"])
        assert below[i][j] == pytest.approx(row["rg"], abs=0.0051)
        assert above[i][j] == pytest.approx(row["phenotypic_correlation"], abs=0.0051)
    assert below[names.index("height")][names.index("latent_000")] == -0.78
    assert above[names.index("height")][names.index("latent_000")] is None
    assert below[names.index("height")][names.index("latent_003")] is None
    left, top, right, bottom = cells["box"]
    assert 0 < left < right < 1
    assert 0 < top < bottom < 1
    assert "Genetic correlations of 29 pairs" in html  # of 28, and one of another study
    assert ["latent_000", "height", "-0.777"] in [r[:3] for r in rows_of(html, "Genetic corr.*?")]


def test_cluster_order__brings_groups_together_whatever_the_sign() -> None:
    rng = np.random.default_rng(1)
    group = np.arange(12) % 3
    sign = rng.choice([-1, 1], 12)
    correlation = np.where(group[:, None] == group, 0.8, 0.05) * np.outer(sign, sign)
    np.fill_diagonal(correlation, 1)
    correlation[0, 5] = correlation[5, 0] = np.nan
    ordered = group[genetics_page.cluster_order(correlation)]
    assert (np.diff(ordered) != 0).sum() == 2
    np.testing.assert_array_equal(genetics_page.cluster_order(np.eye(2)), [0, 1])


def test_correlations__box_is_where_the_matrix_is_drawn() -> None:
    """A red cell below the diagonal is red in the picture where the box says it is."""
    genetic = np.eye(4)
    genetic[3, 0] = genetic[0, 3] = 1
    figure, (left, top, right, bottom) = genetics_figures.correlations(
        genetic, np.eye(4), np.zeros((4, 4), dtype=bool), list("abcd")
    )
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    pixels = np.asarray(Image.open(buffer).convert("RGB")).astype(int)
    height, width = pixels.shape[:2]

    def colour(row: int, column: int) -> list[int]:
        x = left + (column + 0.5) / 4 * (right - left)
        y = top + (row + 0.5) / 4 * (bottom - top)
        return list(pixels[int(y * height), int(x * width)])

    np.testing.assert_allclose(colour(3, 0), [178, 24, 43], atol=2)
    np.testing.assert_allclose(colour(0, 3), [247, 247, 247], atol=2)


def test_make__maps_are_marked_at_their_peak(inputs: Path, html: str) -> None:
    alts = [alt for alt in pictures_of(html) if "three planes" in alt]
    assert len(alts) == genetics_page.MAX_LOCI + 1
    assert "The first 20 are drawn; the folder has 3 others." in html
    assert "rs50 on FA in three planes through its peak at (20, 0, 6) mm, −log10 p 15.1" in alts[0]
    assert "highest value, 0.40 at (20, 0, 6) mm" in alts[-1]
    assert "the highest is 0.40 ± 0.05" in html
    h2 = nib.load(inputs.parent / "voxel_h2.nii.gz").get_fdata()
    assert f"It is the maximum over {np.count_nonzero(h2):,} voxels" in html
    assert "z-scored FA" not in html.split('id="methods"')[0]
    assert "decoder" not in html.split('id="methods"')[0]


def test_make__maps_of_an_autoencoder_are_z_scored(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(genetics_page, "MAX_LOCI", 1)
    files = {"voxels": "voxels", "voxel_h2": "voxel_h2.nii.gz", "loci": "loci.tsv"}
    parts = dict.fromkeys(("autoencoder", "linear"), files)
    page = made(with_only(inputs, "parts.json", representations=parts), tmp_path / "p.html")
    alts = [alt for alt in pictures_of(page) if "three planes" in alt]
    assert ["z-scored FA" in alt for alt in alts] == [True, True, False, False]
    assert page.count("Z-scored: of each") == 1
    assert "in LD: the other variants of these clumps" in page


def test_left_out__adds_up_to_the_variants_read() -> None:
    joint = Joint(["1"], *(np.zeros(19_970, kind) for kind in (np.int16, np.int64, np.float32)), {})
    read = {"tested": 19_978, "monomorphic": 20, "low_frequency": 2, "too_few_genotypes": 0}
    assert association_page._left_out(read, joint) == (
        " The association read 20,000 variants; 30 have no joint test: 20 monomorphic, 2 low "
        "frequency, 8 tested alone, but too few people for all traits at once."
    )
    assert association_page._left_out({"tested": 19_970}, joint) == ""
    assert association_page._left_out({}, joint) == ""  # of an older store


def test_voxel_planes__colour_the_peak_in_all_planes_by_its_sign() -> None:
    values = np.zeros((10, 12, 14))
    values[7, 3, 9] = -20
    figure = genetics_figures.voxel_planes(
        np.ones(values.shape), values, (7, 3, 9), (1, 1, 1), (7, 3, 9), label="p", signed=True,
        floor=2,
    )  # fmt: skip
    planes = figure.axes[:3]
    assert [axes.get_title() for axes in planes] == ["z = 9 mm", "y = 3 mm", "x = 7 mm"]
    for axes, (across, up) in zip(planes, ((7, 3), (7, 9), (3, 9)), strict=True):
        drawn = axes.images[-1].get_array()
        assert drawn[up, across] == -20
        assert drawn.mask.sum() == drawn.size - 1
        assert axes.lines[0].get_xdata()[0] == across


def test_make__maps_of_an_image_turned_round_are_the_same(inputs: Path, tmp_path: Path) -> None:
    """Axes to the right in place of to the left, with the affine that says so."""
    folder = inputs.parent
    h2 = nib.load(folder / "voxel_h2.nii.gz").get_fdata().astype(np.float32)[::-1]
    turned = AFFINE.copy()
    turned[:3, 0], turned[0, 3] = [4, 0, 0], 40 - 4 * 19
    write_nifti(tmp_path / "turned.nii.gz", np.ascontiguousarray(h2), turned)
    sources = []
    for name in ("voxel_h2.nii.gz", str(tmp_path / "turned.nii.gz")):
        page = made(with_only(inputs, "turned.json", voxel_h2=name), tmp_path / "page.html")
        sources.append(re.findall(r'<img src="([^"]+)"', page))
    assert sources[0] == sources[1]
    assert len(sources[0]) == 1


def test_make__replication_leaves_out_what_was_not_tested(html: str) -> None:
    assert "Correlation of 22 leads with the traits in other people" in html
    assert "19 of 22 have the same direction" in html
    assert rows_of(html, "Replication")[0][3:] == ["–", "–", "– (not there)"]


def test_make__a_lead_of_two_loci_replicates_once(inputs: Path, tmp_path: Path) -> None:
    table = pd.read_csv(inputs.parent / "replication.tsv", sep="\t")
    again = table[table["replicated"] == "yes"].head(1).assign(locus=99)
    both = pd.concat([table, again])
    both.to_csv(tmp_path / "replication.tsv", sep="\t", index=False, na_rep="n/a")
    given = {"loci": "loci.tsv", "replication": str(tmp_path / "replication.tsv")}
    page = made(with_only(inputs, "twice.json", **given), tmp_path / "r.html")
    assert "19 of 22 replicated" in page
    assert len(rows_of(page, "Replication")) == N_LOCI + 1


def test_make__sign_test_is_that_of_the_replication(inputs: Path, tmp_path: Path) -> None:
    """Also where some of the leads are not in the table of loci that the page is given."""
    loci = pd.read_csv(inputs.parent / "loci.tsv", sep="\t")
    loci.head(8).to_csv(tmp_path / "loci.tsv", sep="\t", index=False)
    given = {"loci": str(tmp_path / "loci.tsv"), "replication": "replication.tsv"}
    page = made(with_only(inputs, "few.json", **given), tmp_path / "r.html")
    assert "7 of 7 have the same direction" in page
    said = "19 of 22 replicated, 19 had the same direction (sign test, p\u00a0=\u00a04.28 × 10⁻⁴)."
    assert said in page


def test_make__methods_tell_what_was_done(html: str) -> None:
    text = html.split('id="methods-text"')[1]
    for words in (
        "MOSTest", "smallest p over latents", "10 random probes", "jackknife over 200 blocks",
        "also estimated from summary statistics alone by LD score regression",
        "doi:10.1007/BF01066731", "doi:10.1093/bioinformatics/bty253", "doi:10.1038/ng.3211",
        "doi:10.1038/ng.3406", "doi:10.1038/s41467-026-69816-z", "doi:10.1038/s41467-020-17368-1",
    ):  # fmt: skip
        assert words in text


def test_make__empty_tables_are_no_heritability(inputs: Path, tmp_path: Path) -> None:
    """As `axoloci-genetics heritability --if-possible` leaves them."""
    (tmp_path / "h2.tsv").write_text("trait\th2\th2_se\tlambda_gc\n")
    (tmp_path / "h2.json").write_text('{"n_probes": 10, "n_blocks": 0}')
    (tmp_path / "rg.tsv").write_text("trait_1\ttrait_2\trg\n")
    (tmp_path / "voxels").mkdir()
    (tmp_path / "voxels" / "index.tsv").write_text(INDEX + "\n")
    empty = {"heritability": "h2.tsv", "genetic_correlation": "rg.tsv", "voxels": "voxels"}
    empty = {name: str(tmp_path / file) for name, file in empty.items()}
    page = made(with_only(inputs, "empty.json", facts={}, **empty), tmp_path / "r.html")
    for word in ("Heritability", "heritabilit", "Genetic", "voxel"):
        assert word not in page
    given = with_only(inputs, "empty.json", facts={}, ldsc="ldsc", **empty)
    page = made(given, tmp_path / "r.html")
    assert re.search(r"SNP heritability of 8 \w+, LD score regression", page)
    assert "Haseman" not in page
    assert "also estimated" not in page


def test_genetics_facts__tell_which_standard_errors_are_exact(tmp_path: Path) -> None:
    about = {"locus": 1, "variant_id": "rs1", "peak_x": 0, "peak_y": 0, "peak_z": 0}
    parts = {}
    for name, exact in (("linear", ["yes", "no", "no"]), ("autoencoder", ["yes"])):
        rows = [{**about, "prefix": f"m{k}", "exact": told} for k, told in enumerate(exact)]
        linearised = "yes" if name == "autoencoder" else "no"
        (tmp_path / name).mkdir()
        pd.DataFrame(rows).assign(linearised=linearised).to_csv(
            tmp_path / name / "index.tsv", sep="\t", index=False
        )
        parts[name] = Results(voxels=tmp_path / name)
    for k, reasons in ((1, ["x"]), (2, ["x", "y"])):
        (tmp_path / "linear" / f"m{k}.json").write_text(
            json.dumps({"approximate_because": reasons})
        )
    done = genetics_facts(Inputs(title="t", representations=parts))["voxels"]
    assert done == {
        **{"effects": True, "h2": False, "linearised": True, "n_maps": 4, "n_exact": 1},
        "because": ["x", "y", NOT_LINEAR],
    }


def test_is_variant__by_place_and_alleles_where_names_are_alike() -> None:
    names = ["chromosome", "base_pair_location", "variant_id", "effect_allele", "other_allele"]
    rows = [("1", 5, ".", "A", "G"), ("1", 9, ".", "A", "G"), ("1", 9, ".", "T", "G")]
    rows += [("2", 9, ".", "T", "G"), ("1", 9, "rs1", "T", "G")]
    table = pd.DataFrame(rows, columns=names)
    wanted = dict(zip(names, rows[2], strict=True))
    same = genetics_page.is_variant(table, {**wanted, "n": 7})
    assert same.tolist() == [False, False, True, False, False]
    same = genetics_page.is_variant(table[names[1:3]], wanted)
    assert same.tolist() == [False, True, True, True, False]


def test_make__marks_the_lead_where_names_are_alike(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Variants without names, and beside the lead another one at its place."""
    loci = pd.read_csv(inputs.parent / "loci.tsv", sep="\t").head(1).assign(variant_id=".")
    loci.to_csv(tmp_path / "loci.tsv", sep="\t", index=False)
    regions = pd.read_parquet(inputs.parent / "regions.parquet").query("locus == 1")
    lead = regions[regions["variant_id"] == "rs50"]
    regions = pd.concat([lead.assign(neg_log10_p=1.0, r2=0.0), regions]).assign(variant_id=".")
    regions.to_parquet(tmp_path / "regions.parquet")
    drawn: list[float] = []
    draw = genetics_figures.region

    def spy(position: Any, strength: Any, r2: Any, at: int, *others: Any) -> Any:
        drawn.append(float(strength[at]))
        return draw(position, strength, r2, at, *others)

    monkeypatch.setattr(genetics_figures, "region", spy)
    given = {name: str(tmp_path / file) for name, file in (
        ("loci", "loci.tsv"), ("regions", "regions.parquet"),
    )}  # fmt: skip
    made(with_only(inputs, "unnamed.json", **given), tmp_path / "r.html")
    assert drawn == [31.0]


def test_make__without_them_nothing_is_said_of_genetics(inputs: Path, tmp_path: Path) -> None:
    page = made(with_only(inputs, "none.json", loci="loci.tsv", facts={}), tmp_path / "r.html")
    for word in ("Heritability", "Genetic", "voxel", "Signals", "Regions", "#voxels", "probes"):
        assert word not in page
    assert pictures_of(page) == []


def test_make__shareable_shows_no_map_of_few_carriers(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loci = pd.read_csv(inputs.parent / "loci.tsv", sep="\t")
    loci.loc[1, "effect_allele_frequency"] = 2 / (2 * N)
    loci.to_csv(inputs.parent / "rare.tsv", sep="\t", index=False)
    given = with_only(inputs, "of_few.json", loci="rare.tsv", voxels="voxels")
    monkeypatch.setattr(genetics_page, "MAX_LOCI", 3)  # the rest is as quick to leave out
    for options, drawn in (
        ((), ["rs50", "rs227", "rs404"]),
        (("--shareable",), ["rs50", "rs404", "rs581"]),
    ):
        alts = pictures_of(made(given, tmp_path / "r.html", *options))
        assert [re.findall(r"rs\d+", alt)[0] for alt in alts] == drawn


def test_make__many_traits_are_drawn_without_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(genetics_page, "MOST_CELLS", 59)
    inputs = write_genetics(tmp_path, n_traits=60, n_variants=500, per_region=10)
    names = {"heritability": "heritability.tsv", "genetic_correlation": "genetic_correlation.tsv"}
    names |= {"sumstats": "sumstats", "joint": "joint.parquet", "ldsc": "ldsc"}
    page = made(with_only(inputs, "many.json", **names), tmp_path / "report.html")
    assert len(page.encode()) < 2e6
    assert 'data-cells="' not in page
    assert "The first 1,000 of 1,771 rows" in page  # pairs of 60 traits, and one more
    assert len(rows_of(page, "Single latents")) == 60


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("heritability", "trait\th2\na\t0.2\n", "has no column h2_se"),
        ("heritability", "trait\th2\th2_se\na\tlow\t0.1\n", "row 2: h2 is 'low'"),
        ("heritability", "trait\th2\th2_se\na\t0.1\t-0.1\n", "row 2: h2_se is '-0.1'"),
        ("heritability", "trait\th2\th2_se\na\t1\t1\na\t1\t1\n", "trait a occurs twice"),
        ("genetic_correlation", "trait_1\ttrait_2\trg\na\tb\t1\nb\ta\t1\n",
         "row 3: a and b: the pair occurs twice"),
        ("genetic_correlation", "trait_1\ttrait_2\trg\na\ta\t1\n", "paired with itself"),
        ("signals", "locus\tround\n1\t1\n", "has no column base_pair_location, chromosome"),
        ("voxels", f"{INDEX}\n1\trs1\tno\t0\t0\t0\n",
         "no such file .*no_beta.nii.gz"),
        ("voxels", f"{INDEX}\n1\trs50\tmap0\t999\t0\t0\n",
         "peak of rs50, .*lies outside"),
        ("voxel_h2", "not an image", "cannot be read as a NIfTI"),
        ("regions", "no table", "not a table of regions"),
    ],
)  # fmt: skip
def test_make__names_the_file_that_is_malformed(
    inputs: Path, tmp_path: Path, name: str, content: str, message: str
) -> None:
    file = tmp_path / {"voxel_h2": "h2.nii.gz", "voxels": "index.tsv"}.get(name, f"{name}.tsv")
    file.write_text(content)
    if name == "voxels":
        for map_ in (inputs.parent / "voxels").glob("*.nii.gz"):
            (tmp_path / map_.name).symlink_to(map_)
        file = tmp_path
    given = with_only(inputs, "wrong.json", **{"loci": "loci.tsv", name: str(file)})
    result = make(given, tmp_path / "r.html")
    assert result.exit_code == 1
    assert str(file) in result.output
    assert re.search(message, result.output), result.output


def test_make__regions_without_their_lead_are_refused(inputs: Path, tmp_path: Path) -> None:
    table = pd.read_parquet(inputs.parent / "regions.parquet")
    for changed, message in (
        (table[table["variant_id"] != "rs404"], "locus 3 lacks its lead rs404"),
        (table.assign(r2=table["r2"] * 2), "has r² "),
        (table.drop(columns="r2"), "r2"),
    ):
        changed.to_parquet(tmp_path / "regions.parquet")
        given = with_only(
            inputs, "wrong.json", loci="loci.tsv", regions=str(tmp_path / "regions.parquet")
        )
        result = make(given, tmp_path / "r.html")
        assert result.exit_code == 1
        assert message in result.output


def test_scan_traits__condenses_to_what_all_results_say(inputs: Path) -> None:
    store = read_sumstats(inputs.parent / "sumstats")
    scan = scan_traits(store.blocks(), [2, 6], line=-np.log10(0.05))
    p = np.stack([store.trait(store.traits[k])["neg_log10_p"].to_numpy() for k in (2, 6)])
    np.testing.assert_allclose(scan.neg_log10_p, p.max(axis=0), rtol=1e-6)
    np.testing.assert_array_equal(scan.strongest, p.argmax(axis=0))
    np.testing.assert_array_equal(scan.hits, (p >= -np.log10(0.05)).sum(axis=1))
    strict = scan_traits(store.blocks(), [2, 6], line=8)
    np.testing.assert_array_equal(strict.hits, (p >= 8).sum(axis=1))
    np.testing.assert_allclose(scan.lead_neg_log10_p, p.max(axis=1), rtol=1e-6)
    for k in range(2):
        ordered = np.sort(p[k])[::-1]
        expected, observed = trait_quantiles(scan, k)
        rank = np.round(10**-expected * p.shape[1] + 0.5).astype(int)
        np.testing.assert_allclose(observed, ordered[rank - 1], atol=0.012)
        assert scan.tails[k].size + scan.counts[k].sum() == p.shape[1]


def test_scan_traits__leaves_out_what_was_not_tested() -> None:
    """Traits of different people: the strongest is that of the smallest p, not of the largest t."""
    variants = pd.DataFrame({"variant_id": list("abc"), "base_pair_location": [1, 2, 3]})
    beta = np.array([[9.0, 8.0], [np.nan, np.nan], [0.5, np.nan]])
    df = np.array([[10.0, 500.0]] * 3)
    scan = scan_traits([SumstatsBlock("7", variants, beta, np.ones((3, 2)), df)], [0, 1], 8)
    np.testing.assert_array_equal(scan.position, [1, 3])
    np.testing.assert_array_equal(scan.strongest, [1, 0])
    exact = -np.log10(2 * stats.t.sf([8.0, 0.5], [500, 10]))
    np.testing.assert_allclose(scan.neg_log10_p, exact, rtol=1e-6)
    assert scan.lead == ["a", "a"]
    assert scan.counts.sum(axis=1).tolist() == [1, 0]


if __name__ == "__main__":
    import sys

    write_genetics(Path(sys.argv[1]), *map(int, sys.argv[2:]))

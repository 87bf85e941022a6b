"""Maps and scans of voxels, out of stores of `axoloci-gwas associate`, beside direct regression."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from click.testing import CliRunner, Result
from numpy.typing import NDArray
from plink_files import write_plink
from safetensors.numpy import save_file
from scipy import stats

from axoloci.errors import InputError
from axoloci.io.bases import read_basis, write_linearised
from axoloci.io.nifti import read_nifti, write_nifti
from axoloci.io.variants import VARIANT_COLUMNS
from axoloci.tasks.genetics.cli import main as genetics
from axoloci.tasks.genetics.commands.voxel_model import image_names
from axoloci.tasks.genetics.voxels import se_error
from axoloci.tasks.gwas.cli import main as gwas

N, N_VARIANTS, N_MISSING = 300, 60, 20  # the first variants lack 5% of the people
SHAPE = (5, 4, 4)
AFFINE = np.array([[-2.0, 0, 0, 9], [0, 2, 0, -7], [0, 0, 2, 5], [0, 0, 0, 1]])
FEW = 7
LOCI = "locus\tchromosome\tbase_pair_location\tvariant_id\teffect_allele\tother_allele\n"
Floats = NDArray[np.float64]


def run(command: Any, *arguments: object) -> Result:
    return CliRunner().invoke(command, [str(argument) for argument in arguments])


def done(command: Any, *arguments: object) -> None:
    result = run(command, *arguments)
    assert result.exit_code == 0, result.output + repr(result.exception)


def write_model(path: Path, mask: NDArray[np.bool_], mean: Floats, basis: Floats) -> None:
    about = {
        "format": "axoloci-encoder",
        "format_version": 4,
        "kind": "linear",
        "measure": "fa",
        "affine": AFFINE.tolist(),
    }
    sd = np.ones(len(mean))
    arrays = {"mean": mean, "basis": basis, "latent_mean": np.zeros(len(basis)), "voxel_sd": sd}
    weights = {name: array.astype(np.float32) for name, array in arrays.items()}
    save_file({"mask": mask, **weights}, path, {"axoloci": json.dumps(about)})


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """People with maps, all and few components of these, and their associations.

    Variant 40 has an effect at the voxels with x = 1.
    """
    folder = tmp_path_factory.mktemp("voxels")
    rng = np.random.default_rng(1)
    mask = rng.random(SHAPE) < 0.6
    grid, n_voxels = np.argwhere(mask), int(mask.sum())
    dosage = rng.binomial(2, 0.3, (N_VARIANTS, N)).astype(np.int8)
    smooth = np.exp(-np.square(grid[:, None] - grid).sum(axis=2) / 2)
    maps = 0.4 + 0.05 * rng.standard_normal((N, n_voxels)) @ np.linalg.cholesky(smooth).T
    maps[:, grid[:, 0] == 1] += 0.018 * dosage[40][:, None]
    dosage[:N_MISSING][rng.random((N_MISSING, N)) < 0.05] = -9
    write_plink(folder / "g", dosage, ["1"] * 30 + ["2"] * 30)
    ids = [f"i{k}" for k in range(N)]
    covariates = rng.standard_normal((N, 3))
    table = pd.DataFrame(covariates, columns=["a", "b", "c"]).assign(IID=ids)
    table.to_csv(folder / "c.tsv", sep="\t", index=False)
    mean = maps.mean(axis=0).astype(np.float32).astype(np.float64)
    components = np.linalg.svd(maps - mean, full_matrices=False)[2]
    np.savez(folder / "data.npz", maps=maps, covariates=covariates, dosage=dosage)
    for name, r, precision in (
        *(("all", n_voxels, kind) for kind in ("float64", "float32")),
        ("few", FEW, "float64"),
    ):
        basis = components[:r].astype(np.float32).astype(np.float64)
        write_model(folder / f"{name}.safetensors", mask, mean, basis)
        latents = (maps - mean) @ np.linalg.pinv(basis)  # (N, r), so that all of them are the maps
        names = [f"component_{k:03d}" for k in range(r)]
        traits = pd.DataFrame(latents, columns=names).assign(sample_id=ids)
        traits.to_parquet(folder / f"{name}.parquet", index=False)
        done(
            gwas,
            *("associate", "--genotypes", folder / "g", "--traits", folder / f"{name}.parquet"),
            *("--covariates", folder / "c.tsv", "--device", "cpu", "--threads", 1),
            *("--precision", precision, "--out", folder / f"{name}-{precision}"),
        )
    return folder


def regressed(y: Floats, dosage: NDArray[np.int8], covariates: Floats) -> tuple[Floats, Floats]:
    """β and se of a variant on each column of y, by statsmodels, of who has a genotype."""
    there = dosage >= 0
    design = sm.add_constant(np.column_stack([dosage, covariates])[there])
    fits = [sm.OLS(column[there], design).fit() for column in y.T]
    return np.array([fit.params[1] for fit in fits]), np.array([fit.bse[1] for fit in fits])


def truth(study: Path, variant: int, r: int | None = None) -> tuple[Floats, Floats]:
    """The same of the maps, or of those that r components make, with the basis as it is stored."""
    with np.load(study / "data.npz") as data:
        maps, dosage, covariates = data["maps"], data["dosage"], data["covariates"]
    if r is not None:
        basis = read_basis(study / "few.safetensors")
        latents = pd.read_parquet(study / "few.parquet").drop(columns="sample_id").to_numpy()
        maps = basis.mean + latents @ basis.basis.astype(np.float64)
    return regressed(maps, dosage[variant], covariates)


def mapped(study: Path, out: Path, name: str, store: str, *more: object) -> pd.DataFrame:
    done(
        genetics,
        *("voxels", "--sumstats", study / store, "--model", study / f"{name}.safetensors"),
        *("--noise-of", "projection", "--out", out, *more),
    )
    return pd.read_csv(out / "index.tsv", sep="\t")


def images(study: Path, out: Path, prefix: str) -> list[Floats]:
    """β, se and −log10 p of the voxels of the mask."""
    mask = read_basis(study / "all.safetensors").mask
    found = []
    for name in ("beta", "se", "neg_log10_p"):
        image, affine = read_nifti(out / f"{prefix}_{name}.nii.gz", ndim=3)
        np.testing.assert_array_equal(affine, AFFINE)
        assert not image[~mask].any()
        found.append(image[mask].astype(np.float64))
    return found


@pytest.mark.parametrize(("precision", "bound"), [("float64", 1e-6), ("float32", 1e-5)])
def test_voxels__of_all_components_are_the_regressions_of_the_voxels(
    study: Path, tmp_path: Path, precision: str, bound: float
) -> None:
    chosen = ("rs25", "rs40", "rs59")
    options = [word for name in chosen for word in ("--variant", name)]
    index = mapped(study, tmp_path, "all", f"all-{precision}", *options)
    assert index["variant_id"].tolist() == list(chosen)
    assert index["exact"].tolist() == ["yes"] * 3
    for name, row in zip(chosen, index.itertuples(), strict=True):
        beta, se, neg_log10_p = images(study, tmp_path, name)
        expected = truth(study, int(name[2:]))
        z = expected[0] / expected[1]
        assert np.abs(beta / se - z).max() < bound
        p = 2 * stats.t.sf(np.abs(z), N - 5)
        np.testing.assert_allclose(neg_log10_p, -np.log10(p), rtol=1e-4)
        assert row.peak_neg_log10_p == pytest.approx(neg_log10_p.max(), rel=1e-5)
        about = json.loads((tmp_path / f"{name}.json").read_text())
        assert (about["n"], about["df"], about["exact"]) == (N, N - 5, True)
        assert about["effect_allele"] == "A"
        assert about["relative_error_of_se_by_missing"] == 0
        assert (about["linearised"], about["unit"]) == (False, "fa per effect allele")
    basis = read_basis(study / "all.safetensors")
    where = np.linalg.solve(AFFINE, [*index.loc[1, ["peak_x", "peak_y", "peak_z"]], 1])[:3]
    assert basis.mask[tuple(np.rint(where).astype(int))]
    assert round(where[0]) == 1  # where the planted effect is


def test_voxels__of_few_components_are_the_regressions_of_their_maps(
    study: Path, tmp_path: Path
) -> None:
    mapped(study, tmp_path, "few", "few-float64", "--variant", "rs40")
    beta, se, _ = images(study, tmp_path, "rs40")
    expected = truth(study, 40, FEW)
    assert np.abs(beta / se - expected[0] / expected[1]).max() < 1e-6
    np.testing.assert_allclose(se, expected[1], rtol=1e-6)


def test_voxels__with_missing_genotypes_beta_is_exact_and_se_as_near_as_told(
    study: Path, tmp_path: Path
) -> None:
    options = [word for v in range(N_MISSING) for word in ("--variant", f"rs{v}")]
    index = mapped(study, tmp_path, "all", "all-float64", *options)
    assert set(index["exact"]) == {"no"}
    assert (index["n"] < N).all()
    ratios = []
    for variant in range(N_MISSING):
        beta, se, _ = images(study, tmp_path, f"rs{variant}")
        expected = truth(study, variant)
        np.testing.assert_allclose(beta, expected[0], rtol=1e-5, atol=1e-8)
        about = json.loads((tmp_path / f"rs{variant}.json").read_text())
        n = about["n"]
        assert about["of"] == f"voxels, of which {about['n_latents']} latents leave nothing out"
        told = about["relative_error_of_se_by_missing"]
        assert told == pytest.approx(float(se_error(np.array([n]), N)[0]))
        assert told == pytest.approx(np.sqrt((1 / n - 1 / N) / 2))
        assert "lack the genotype" in about["approximate_because"][0]
        ratios.append((se / expected[1] - 1) / told)
    assert 0.7 < np.sqrt(np.square(ratios).mean()) < 1.2
    assert np.abs(ratios).max() < 4.5


def test_voxels__regions_are_regressions_of_their_means(study: Path, tmp_path: Path) -> None:
    basis = read_basis(study / "all.safetensors")
    labels = np.zeros(SHAPE, dtype=np.int16)
    labels[:2], labels[2:] = 3, 8
    write_nifti(tmp_path / "labels.nii.gz", labels, AFFINE)
    (tmp_path / "names.tsv").write_text("3\tfront\n")
    options = ("--variant", "rs40", "--atlas", tmp_path / "labels.nii.gz")
    mapped(study, tmp_path, "all", "all-float64", *options, "--names", tmp_path / "names.tsv")
    table = pd.read_csv(tmp_path / "regions.tsv", sep="\t")
    assert table["region"].tolist() == ["front", "label_8"]
    with np.load(study / "data.npz") as data:
        maps, dosage, covariates = data["maps"], data["dosage"][40], data["covariates"]
    inside = labels[basis.mask]
    means = np.column_stack([maps[:, inside == number].mean(axis=1) for number in (3, 8)])
    beta, se = regressed(means, dosage, covariates)
    np.testing.assert_allclose(table["beta"], beta, rtol=1e-5)
    np.testing.assert_allclose(table["se"], se, rtol=1e-5)
    p = 2 * stats.t.sf(np.abs(beta / se), N - 5)
    np.testing.assert_allclose(table["neg_log10_p"], -np.log10(p), rtol=1e-5)
    assert table["n_voxels"].tolist() == [(inside == 3).sum(), (inside == 8).sum()]


def test_voxels__takes_variants_by_place_and_leads_of_loci(study: Path, tmp_path: Path) -> None:
    """All give the same bytes; the file of loci names the locus as well."""
    mapped(study, tmp_path / "id", "few", "few-float64", "--variant", "rs40")
    place = ("--variant", "chr2:1040:C:A")
    mapped(study, tmp_path / "place", "few", "few-float64", *place)
    lead = {"locus": 3, "chromosome": "2", "base_pair_location": 1040, "variant_id": "rs40"}
    table = pd.DataFrame([{**lead, "effect_allele": "A", "other_allele": "C"}])
    table.to_csv(tmp_path / "loci.tsv", sep="\t", index=False)
    loci = ("--loci", tmp_path / "loci.tsv")
    index = mapped(study, tmp_path / "loci", "few", "few-float64", *loci)
    assert index[["locus", "prefix"]].to_numpy().tolist() == [[3, "3_rs40"]]
    for name in ("beta", "se", "neg_log10_p"):
        file = f"rs40_{name}.nii.gz"
        one = (tmp_path / "id" / file).read_bytes()
        assert (tmp_path / "place" / file).read_bytes() == one
        assert (tmp_path / "loci" / f"3_{file}").read_bytes() == one
    table.iloc[:0].to_csv(tmp_path / "none.tsv", sep="\t", index=False)
    none = ("--loci", tmp_path / "none.tsv")
    assert mapped(study, tmp_path / "none", "few", "few-float64", *none).empty


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("rs400", "by place (CHROM:POS, such as 7:117559590); did you mean 'rs40'?"),
        ("1-1044", "no variant '1-1044', by id or by place (CHROM:POS, such as"),
        ("1-1044", "its ids look like 'rs0', 'rs1', 'rs2'"),
        ("2:1044:A:G", "no variant '2:1044:A:G'; nearest: rs44 (2:1044:A:C), rs43"),
        ("2:5000", "nearest: rs59 (2:1059:A:C), rs58"),
        ("5:1044", "it has no chromosome '5'"),
    ],
)
def test_voxels__names_the_nearest_of_a_variant_that_is_not_there(
    study: Path, tmp_path: Path, name: str, words: str
) -> None:
    given = ("--sumstats", study / "few-float64", "--model", study / "few.safetensors")
    result = run(genetics, "voxels", *given, "--out", tmp_path / "o", "--variant", name)
    assert result.exit_code == 1
    assert words in result.output
    assert not (tmp_path / "o").exists()


def test_voxels__of_leads_opens_the_parts_of_their_places_alone(
    study: Path, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    store.mkdir()
    for path in (study / "few-float64").rglob("*"):
        if path.is_file():
            copy = store / path.relative_to(study / "few-float64")
            copy.parent.mkdir(exist_ok=True)
            copy.write_bytes(path.read_bytes())
    (part,) = (store / "chr1").glob("*.parquet")
    part.write_bytes(b"0" * part.stat().st_size)
    given = ("voxels", "--sumstats", store, "--model", study / "few.safetensors")
    (tmp_path / "loci.tsv").write_text(LOCI + "1\t2\t1040\trs40\tA\tC\n")
    done(genetics, *given, "--loci", tmp_path / "loci.tsv", "--out", tmp_path / "maps")
    done(genetics, *given, "--variant", "2:1040", "--out", tmp_path / "place")


def test_voxels__refuses_a_model_of_other_traits_and_latents_that_were_transformed(
    study: Path, tmp_path: Path
) -> None:
    given = ("--model", study / "all.safetensors", "--out", tmp_path / "o", "--variant", "rs40")
    result = run(genetics, "voxels", "--sumstats", study / "few-float64", *given)
    assert result.exit_code == 1
    assert f"latents of {study / 'all.safetensors'}, such as component_007" in result.output
    done(
        gwas,
        *("associate", "--genotypes", study / "g", "--traits", study / "few.parquet"),
        *("--rank-normal", "values", "--device", "cpu", "--out", tmp_path / "ranks"),
    )
    given = ("--model", study / "few.safetensors", "--out", tmp_path / "o", "--variant", "rs40")
    result = run(genetics, "voxels", "--sumstats", tmp_path / "ranks", *given)
    assert result.exit_code == 1
    assert "transformed before the association (--rank-normal)" in result.output


def test_voxels__of_a_linearisation_are_marked(study: Path, tmp_path: Path) -> None:
    basis = read_basis(study / "few.safetensors")
    arrays = {
        **{"mask": basis.mask, "mean": basis.mean.astype(np.float32), "basis": basis.basis},
        **{"latent_mean": np.zeros(FEW, np.float32), "voxel_sd": basis.voxel_sd},
    }
    write_linearised(tmp_path / "tangent.safetensors", arrays, AFFINE, basis.latents, {})
    given = ("--sumstats", study / "few-float64", "--out", tmp_path / "maps")
    model = ("--model", tmp_path / "tangent.safetensors")
    done(genetics, "voxels", *given, *model, "--variant", "rs40")
    about = json.loads((tmp_path / "maps" / "rs40.json").read_text())
    assert (about["linearised"], about["unit"]) == (True, "z-score per effect allele")
    index = pd.read_csv(tmp_path / "maps" / "index.tsv", sep="\t")
    assert index["linearised"].tolist() == ["yes"]
    mapped(study, tmp_path / "same", "few", "few-float64", "--variant", "rs40")
    same = (tmp_path / "same" / "rs40_beta.nii.gz").read_bytes()
    assert (tmp_path / "maps" / "rs40_beta.nii.gz").read_bytes() == same


def test_voxel_scan__finds_all_pairs_beyond_the_threshold(study: Path, tmp_path: Path) -> None:
    given = ("--sumstats", study / "all-float64", "--model", study / "all.safetensors")
    done(genetics, "voxel-scan", *given, "--p-threshold", 1e-3, "--out", tmp_path)
    pairs = pd.read_parquet(tmp_path / "pairs.parquet")
    basis = read_basis(study / "all.safetensors")
    grid = np.argwhere(basis.mask)
    expected, p_of = set(), []
    for variant in range(N_MISSING, N_VARIANTS):
        beta, se = truth(study, variant)
        p = 2 * stats.t.sf(np.abs(beta / se), N - 5)
        p_of.append(p)
        expected |= {(f"rs{variant}", *map(int, grid[v])) for v in np.flatnonzero(p <= 1e-3)}
    whole = pairs[pairs["n"] == N]
    columns = ["variant_id", "voxel_i", "voxel_j", "voxel_k"]
    assert set(whole[columns].itertuples(index=False, name=None)) == expected
    assert len(expected) > 10
    strongest = np.min(p_of)
    assert whole["neg_log10_p"].max() == pytest.approx(-np.log10(strongest), rel=1e-8)
    count, _ = read_nifti(tmp_path / "n_variants.nii.gz", ndim=3)
    assert count.sum() == len(pairs)
    first = pairs.iloc[0]
    assert count[first.voxel_i, first.voxel_j, first.voxel_k] >= 1
    largest, _ = read_nifti(tmp_path / "max_neg_log10_p.nii.gz", ndim=3)
    by_voxel = pairs.groupby(columns[1:])["neg_log10_p"].max()
    for place, value in by_voxel.items():
        assert largest[place] == pytest.approx(value, rel=1e-6)
    assert largest.astype(bool).sum() == len(by_voxel)
    about = json.loads((tmp_path / "voxel_scan.json").read_text())
    assert about["n_tested"] == N_VARIANTS
    assert about["n_pairs"] == len(pairs)


def test_voxel_scan__too_many_pairs_are_an_error(study: Path, tmp_path: Path) -> None:
    given = ("--sumstats", study / "few-float64", "--model", study / "few.safetensors")
    more = ("--p-threshold", 0.5, "--max-pairs", 100, "--out", tmp_path)
    projection = ("--noise-of", "projection")
    result = run(genetics, "voxel-scan", *given, *more, *projection)
    assert result.exit_code == 1
    assert "more than 100 pairs have p up to 0.5" in result.output
    assert list(tmp_path.iterdir()) == []


def test_voxel_scan__has_the_degrees_of_freedom_of_the_latents(study: Path, tmp_path: Path) -> None:
    """A trait that half of the people lack comes first in the store."""
    traits = pd.read_parquet(study / "few.parquet")
    other = np.random.default_rng(5).standard_normal(N)
    other[: N // 2] = np.nan
    traits.insert(0, "other", other)
    traits.to_parquet(tmp_path / "t.parquet", index=False)
    done(
        gwas,
        *("associate", "--genotypes", study / "g", "--traits", tmp_path / "t.parquet"),
        *("--covariates", study / "c.tsv", "--device", "cpu", "--threads", 1),
        *("--precision", "float64", "--out", tmp_path / "store"),
    )
    tables = []
    for name, store in (("alone", study / "few-float64"), ("beside", tmp_path / "store")):
        given = ("--sumstats", store, "--model", study / "few.safetensors")
        out = tmp_path / name
        more = ("--p-threshold", 1e-2, "--noise-of", "projection")
        done(genetics, "voxel-scan", *given, *more, "--out", out)
        tables.append(pd.read_parquet(out / "pairs.parquet"))
    assert len(tables[0]) > 10
    pd.testing.assert_frame_equal(*tables, rtol=1e-9)


@pytest.fixture(scope="module")
def named(study: Path) -> Path:
    """The same people and latents; variants whose ids, places and alleles are easily confused."""
    with np.load(study / "data.npz") as data:
        dosage = data["dosage"][30:40]
    write_plink(study / "named", dosage)
    variants = [
        *("1 first 0 1000 A C", "1 second 0 1000 C A", "1 a:b 0 1002 A C", "1 a_b 0 1003 A C"),
        *("1 . 0 1004 A C", "1 . 0 1005 A C", "1 HLA_A*01:01 0 1006 P A"),
        *("1 NA 0 1007 NA C", "1 1:1000 0 1008 A C", "1 rs9 0 1009 A C"),
    ]
    lines = (variant.replace(" ", "\t") for variant in variants)
    (study / "named.bim").write_text("".join(f"{line}\n" for line in lines))
    done(
        gwas,
        *("associate", "--genotypes", study / "named", "--traits", study / "few.parquet"),
        *("--covariates", study / "c.tsv", "--device", "cpu", "--threads", 1),
        *("--precision", "float64", "--out", study / "named-store"),
    )
    return study


def test_voxels__tells_leads_of_one_place_apart_by_id_and_alleles(
    named: Path, tmp_path: Path
) -> None:
    rows = ("3\t1\t1000\tsecond\tC\tA", "4\t1\t1000\tfirst\tA\tC", "5\t1\t1000\tthird\tC\tA")
    rows += ("6\t1\t1000\tfirst\tC\tA", "7\t1\t1007\tNA\tNA\tC")
    (tmp_path / "loci.tsv").write_text(LOCI + "".join(f"{row}\n" for row in rows))
    index = mapped(named, tmp_path, "few", "named-store", "--loci", tmp_path / "loci.tsv")
    prefixes = ["3_second", "4_first", "5_second", "6_first", "7_NA"]
    assert index["prefix"].tolist() == prefixes
    beta = [images(named, tmp_path, prefix)[0] for prefix in prefixes]
    for found, variant in zip(beta, (31, 30, 31, 30, 37), strict=True):
        np.testing.assert_allclose(found, truth(named, variant, FEW)[0], rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize(
    ("name", "position"),
    [
        ("HLA_A*01:01", 1006),  # no place on a chromosome HLA_A*01
        ("1:1000", 1008),  # an id before it is a place
        ("chr1:1009", 1009),
        ("1:1009:C:A", 1009),
        ("1:1000:C:A", 1000),
        ("1:1000:A:C", 1000),
    ],
)
def test_voxels__a_name_is_an_id_first_and_a_place_if_none_has_it(
    named: Path, tmp_path: Path, name: str, position: int
) -> None:
    index = mapped(named, tmp_path, "few", "named-store", "--variant", name)
    assert index["base_pair_location"].tolist() == [position]
    if position == 1000:
        assert index["effect_allele"].tolist() == [name[7]]


def test_voxels__variants_whose_ids_make_one_name_have_images_each(
    named: Path, tmp_path: Path
) -> None:
    chosen = ("a:b", "a_b", "1:1004", "1:1005", "rs9")
    options = [word for name in chosen for word in ("--variant", name)]
    index = mapped(named, tmp_path, "few", "named-store", *options)
    prefixes = ["1_1002_A_C_a_b", "1_1003_A_C_a_b", "1_1004_A_C_.", "1_1005_A_C_.", "rs9"]
    assert index["prefix"].tolist() == prefixes
    for prefix, variant in zip(prefixes, (32, 33, 34, 35, 39), strict=True):
        beta, _, _ = images(named, tmp_path, prefix)
        np.testing.assert_allclose(beta, truth(named, variant, FEW)[0], rtol=1e-4, atol=1e-8)


def test_voxels__maps_of_an_earlier_run_are_told(
    named: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    mapped(named, tmp_path, "few", "named-store", "--variant", "rs9")
    both = ("--variant", "rs9", "--variant", "1:1009")
    assert len(mapped(named, tmp_path, "few", "named-store", *both)) == 1
    assert "earlier run" not in caplog.text
    index = mapped(named, tmp_path, "few", "named-store", "--variant", "a:b")
    assert "rs9" not in index["prefix"].tolist()
    assert "maps of 1 other variants, such as rs9_beta.nii.gz" in caplog.text


def test_image_names__of_variants_that_differ_in_a_sign_alone_are_refused() -> None:
    rows = [["1", 7, name, "A", "C"] for name in ("a:b", "a_b", "c")]
    variants = pd.DataFrame(rows, columns=VARIANT_COLUMNS)
    assert image_names(variants.iloc[1:], ["", ""]) == ["a_b", "c"]
    assert image_names(variants.iloc[:2], ["1_", "2_"]) == ["1_a_b", "2_a_b"]
    assert image_names(variants.iloc[[0, 0]], ["", ""]) == ["a_b", "a_b"]  # one variant
    with pytest.raises(InputError, match="would both be called 1_7_A_C_a_b"):
        image_names(variants, ["", "", ""])

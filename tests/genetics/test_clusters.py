"""Clusters beside scipy's, resamples beside regression of each voxel, a region that is planted."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from click.testing import CliRunner, Result
from numpy.typing import NDArray
from plink_files import write_plink
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from scipy import ndimage, stats
from support import contents

from axoloci.io.bases import read_basis
from axoloci.io.genotypes import open_genotypes
from axoloci.io.nifti import read_nifti
from axoloci.io.residuals import read_residuals, write_residuals
from axoloci.tasks.genetics import clusters as kernel
from axoloci.tasks.genetics.cli import main as genetics
from axoloci.tasks.genetics.voxels import own_variances, voxel_variances
from axoloci.tasks.gwas.cli import main as gwas

Floats = NDArray[np.float64]


@pytest.fixture
def mask() -> NDArray[np.bool_]:
    """A ball with holes that touches the edges of its grid."""
    distance = np.linalg.norm(
        np.indices((9, 11, 10)) - np.array([4, 5, 4.5])[:, None, None, None], axis=0
    )
    return (distance < 5.6) & (np.random.default_rng(0).random(distance.shape) > 0.1)


@pytest.mark.parametrize(("connectivity", "order"), [(6, 1), (18, 2), (26, 3)])
def test_find_clusters__are_those_of_scipy(
    mask: NDArray[np.bool_], connectivity: int, order: int
) -> None:
    rng = np.random.default_rng(1)
    maps = rng.normal(size=(6, mask.sum()))
    maps[4] = 0.1  # nothing there
    neighbour = kernel.neighbours(mask, connectivity)
    found = kernel.find_clusters(maps, 1.0, neighbour)
    n_clusters = 0
    for row, values in enumerate(maps):
        ours = np.full(mask.sum(), -1)
        of_map = found.map_index == row
        ours[found.voxel[of_map]] = found.label[of_map]
        for sign in (1, -1):
            image = np.zeros(mask.shape, dtype=bool)
            image[mask] = sign * values > 1
            theirs, n = ndimage.label(image, ndimage.generate_binary_structure(3, order))
            n_clusters += n
            pairs = set(zip(theirs[image].tolist(), ours[image[mask]].tolist(), strict=True))
            assert len(pairs) == n == len({label for _, label in pairs})
        np.testing.assert_array_equal(ours >= 0, np.abs(values) > 1)
    assert found.n_clusters == n_clusters > 12


def test_largest_clusters__of_products_whatever_is_made_at_once(
    mask: NDArray[np.bool_], monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(2)
    scores = rng.normal(size=(7, 5)).astype(np.float32)
    basis = rng.normal(size=(5, mask.sum())).astype(np.float32)
    neighbour = kernel.neighbours(mask, 6)
    truth = []
    for values in scores @ basis:
        sizes = [0]
        for sign in (1, -1):
            image = np.zeros(mask.shape, dtype=bool)
            image[mask] = sign * values > 3
            sizes += list(np.bincount(ndimage.label(image)[0].ravel())[1:])
        truth.append(max(sizes))
    assert 0 < min(truth) < max(truth)
    for at_once in (mask.sum() * 2, 1, 2**22):
        monkeypatch.setattr(kernel, "CHUNK_VOXELS", at_once)
        np.testing.assert_array_equal(kernel.largest_clusters(scores, basis, 3.0, neighbour), truth)
    assert kernel.largest_clusters(scores, basis, 1e6, neighbour).tolist() == [0] * 7


def regressed(y: Floats, design: Floats) -> Floats:
    """Student's t of the last column of a design in each column of y."""
    fits = [sm.OLS(column, design).fit() for column in y.T]
    return np.array([fit.tvalues[-1] for fit in fits])


@pytest.mark.parametrize("n_covariates", [0, 80])
def test_resampled_scores__give_the_t_of_each_resampled_voxel(n_covariates: int) -> None:
    """Without covariates exactly; with them but for the share they take of the resample."""
    n, r, n_voxels = 400, 6, 15
    rng = np.random.default_rng(3)
    covariates = rng.normal(size=(n, n_covariates))
    left = rng.standard_t(4, size=(n, r)) * rng.uniform(0.5, 2, (n, 1))
    g = rng.binomial(2, 0.3, n).astype(float)
    if n_covariates:
        q = np.linalg.qr(covariates)[0]
        left, g = left - q @ (q.T @ left), g - q @ (q.T @ g)
    basis = rng.normal(size=(r, n_voxels))
    basis[:, 3] = 0  # a voxel that does not vary
    scores = kernel.resampled_scores(g, left, 12, seed=5)
    variances = voxel_variances(left.T @ left, basis)
    correlation = scores @ kernel.correlation_basis(basis, variances, n, n_covariates)
    df = n - n_covariates - 1
    found = correlation * np.sqrt(df / (1 - correlation**2))  # t
    signs = 2.0 * np.random.default_rng(5).integers(0, 2, (12, n), dtype=np.int8) - 1
    others = np.delete(np.arange(n_voxels), 3)
    truth = np.stack(
        [
            regressed((s[:, None] * left) @ basis[:, others], np.column_stack([covariates, g]))
            for s in signs
        ]
    )
    assert (found[:, 3] == 0).all()
    bound = 0.1 if n_covariates else 1e-4
    np.testing.assert_allclose(found[:, others], truth, atol=bound, rtol=bound)
    slope = (found[:, others] * truth).sum() / np.square(truth).sum()
    assert abs(slope - 1) < 0.02  # 0.1 off, were the share of the covariates left out
    assert np.abs(truth).max() > 1.5


def test_critical_correlation__is_where_student_s_t_has_that_p() -> None:
    r = kernel.critical_correlation(1e-5, 97)
    x, e = np.random.default_rng(0).normal(size=(2, 99))
    x -= x.mean()
    e -= e.mean()
    x /= np.linalg.norm(x)
    e -= x * (x @ e)
    y = r * x + np.sqrt(1 - r**2) * e / np.linalg.norm(e)
    assert stats.pearsonr(x, y).pvalue == pytest.approx(1e-5, rel=1e-6)


def test_family_wise_p__counts_equal_sizes_and_the_data() -> None:
    chance = np.array([0, 0, 0, 2, 5, 5, 0, 0, 9])
    found = kernel.family_wise_p(np.array([1, 2, 5, 6, 9, 10]), chance)
    np.testing.assert_allclose(found, np.array([5, 5, 4, 2, 2, 1]) / 10)


@pytest.mark.parametrize("noise_of", ["projection", "voxel"])
def test_bootstrap__keeps_its_level_where_variance_goes_with_the_variant(noise_of: str) -> None:
    """Rarer people of a noisy site have other frequencies: shuffled residuals would be wrong."""
    n, grid, n_variants = 200, (10, 10, 10), 80
    rng = np.random.default_rng(7)
    noisy = np.arange(n) < 40
    images = rng.normal(size=(n, *grid))
    images = ndimage.gaussian_filter(images, (0, 1.5, 1.5, 1.5)).reshape(n, -1)
    images *= np.where(noisy, 3, 1)[:, None]
    site = np.column_stack([np.ones(n), noisy])
    q = np.linalg.qr(site)[0]
    basis = np.linalg.svd(images - images.mean(axis=0), full_matrices=False)[2][:15]
    left = images @ basis.T
    left -= q @ (q.T @ left)
    neighbour = kernel.neighbours(np.ones(grid, dtype=bool))
    variances = voxel_variances(left.T @ left, basis)
    if noise_of == "voxel":
        rest = images - images.mean(axis=0)
        variances = own_variances(variances, rest.std(axis=0), n, 2)
    standardised = kernel.correlation_basis(basis, variances, n, 2)
    observed = kernel.correlation_basis(basis, variances, n, 0)
    limit = kernel.critical_correlation(0.01, n - 3)
    rejected = 0
    for _ in range(n_variants):
        g = rng.binomial(2, np.where(noisy, 0.5, 0.1)).astype(float)
        g -= q @ (q.T @ g)
        scores = (g / np.linalg.norm(g)) @ left
        size = kernel.largest_clusters(scores[None].astype(np.float32), observed, limit, neighbour)
        chance = kernel.largest_clusters(
            kernel.resampled_scores(g, left, 99, 1), standardised, limit, neighbour
        )
        rejected += bool(size[0] and kernel.family_wise_p(size, chance)[0] <= 0.05)
    assert 0 < rejected <= stats.binom.ppf(0.999, n_variants, 0.05)


N, GRID, R = 300, (8, 9, 7), 20
AFFINE = np.diag([2.0, 2.0, 3.0, 1.0])


def run(command: object, *arguments: object) -> Result:
    return CliRunner().invoke(command, [str(word) for word in arguments])  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images in a corner of which rs2 adds, components, their store and residuals."""
    folder = tmp_path_factory.mktemp("study")
    rng = np.random.default_rng(4)
    dosage = rng.binomial(2, 0.4, (6, N)).astype(np.int8)
    dosage[1, :9] = -9
    write_plink(folder / "g", dosage)
    images = ndimage.gaussian_filter(rng.normal(size=(N, *GRID)), (0, 1, 1, 1))
    images /= images.std()
    images[:, :3, :3, :3] += 0.8 * dosage[2][:, None, None, None]
    mask = np.ones(GRID, dtype=bool)
    mask[-1] = False
    rows = images[:, mask]
    age = rng.uniform(40, 80, N)
    rows += age[:, None] / 20
    mean = rows.mean(axis=0)
    basis = np.linalg.svd(rows - mean, full_matrices=False)[2][:R].astype(np.float32)
    latents = (rows - mean) @ basis.T
    about = {
        "format": "axoloci-encoder",
        "format_version": 4,
        "kind": "linear",
        "measure": "fa",
        "affine": AFFINE.tolist(),
    }
    arrays = {"mask": mask, "mean": mean.astype(np.float32), "basis": basis}
    arrays |= {"latent_mean": np.zeros(R, np.float32), "voxel_sd": rows.std(axis=0, ddof=1)}
    arrays["voxel_sd"] = arrays["voxel_sd"].astype(np.float32)
    save_file(arrays, folder / "m.safetensors", {"axoloci": json.dumps(about)})
    people = [f"i{i}" for i in range(N)]
    table = pd.DataFrame(latents, columns=[f"component_{k:03d}" for k in range(R)])
    table.insert(0, "sample_id", people)
    table.to_parquet(folder / "t.parquet")
    covariates = pd.DataFrame({"IID": people, "age": age})
    covariates.to_csv(folder / "c.tsv", sep="\t", index=False)
    inputs = ("--genotypes", folder / "g", "--traits", folder / "t.parquet")
    inputs += ("--covariates", folder / "c.tsv")
    done = run(gwas, "associate", *inputs, "--device", "cpu", "--out", folder / "s")
    assert done.exit_code == 0, done.output
    variants = [word for name in ("rs1", "rs2", "rs4") for word in ("--variant", name)]
    (folder / "few.txt").write_text("".join(f"{person}\n" for person in people[5:]))
    others = {
        "": (),
        "few_": ("--keep", folder / "few.txt"),
        "raw_": ("--model", "age - age"),
        "some_": ("--trait", "component_003"),
    }
    for name, options in others.items():
        files = ("--out", folder / f"{name}r.parquet", "--dosages", folder / f"{name}d.parquet")
        done = run(gwas, "residuals", *inputs, *variants, *options, *files)
        assert done.exit_code == 0, done.output
    return folder


def clusters(study: Path, out: Path, *more: object, **other: str) -> Result:
    given = {"--sumstats": "s", "--model": "m.safetensors"}
    given |= {"--residuals": "r.parquet", "--dosages": "d.parquet"}
    given |= {f"--{option}": name for option, name in other.items()}
    words = [word for option, name in given.items() for word in (option, study / name)]
    words += ["--n-bootstraps", 199, "--noise-of", "projection"]
    return run(genetics, "clusters", *words, "--out", out, *more)


def test_clusters__finds_the_planted_region_and_nothing_else(study: Path, tmp_path: Path) -> None:
    done = clusters(study, tmp_path / "c", "--cluster-p", 1e-4)
    assert done.exit_code == 0, done.output
    table = pd.read_csv(tmp_path / "c" / "clusters.tsv", sep="\t")
    found = table[table["p_fwe"] < 0.05]
    assert found["variant_id"].tolist() == ["rs2"]
    [row] = found.to_dict("records")
    assert (row["sign"], row["p_fwe"], row["cluster"]) == ("positive", 1 / 200, 1)
    assert max(row["peak_i"], row["peak_j"], row["peak_k"]) <= 3
    assert [row[f"peak_{axis}"] for axis in "xyz"] == [
        2 * row["peak_i"],
        2 * row["peak_j"],
        3 * row["peak_k"],
    ]
    assert row["volume_mm3"] == 12 * row["n_voxels"]
    labels, affine = read_nifti(tmp_path / "c" / "rs2_clusters.nii.gz", ndim=3, dtype=np.int32)
    np.testing.assert_array_equal(affine, AFFINE)
    assert (labels == 1).sum() == row["n_voxels"] > 10
    assert (labels[:4, :4, :4] == 1).sum() > 0.8 * row["n_voxels"]
    images = {path.name for path in (tmp_path / "c").glob("*.nii.gz")}
    assert images == {f"{name}_clusters.nii.gz" for name in ("rs1", "rs2", "rs4")}
    about = json.loads((tmp_path / "c" / "clusters.json").read_text())
    assert (about["variants"], about["cluster_p"]) == (["rs1", "rs2", "rs4"], 1e-4)


def test_clusters__a_peak_is_the_regression_of_its_voxel(study: Path, tmp_path: Path) -> None:
    assert clusters(study, tmp_path / "c", "--variant", "rs2").exit_code == 0
    row = pd.read_csv(tmp_path / "c" / "clusters.tsv", sep="\t").iloc[0]
    table = pd.read_parquet(study / "t.parquet").drop(columns="sample_id").to_numpy()
    basis = read_basis(study / "m.safetensors")
    column = basis.volume(np.arange(basis.n_voxels))[row["peak_i"], row["peak_j"], row["peak_k"]]
    age = pd.read_csv(study / "c.tsv", sep="\t")["age"]
    design = np.column_stack([np.ones(N), age, open_genotypes(study / "g").read(2, 3)[0]])
    fit = sm.OLS(table @ basis.basis[:, column], design).fit()
    assert row["peak_beta"] == pytest.approx(fit.params[-1], rel=1e-4)
    assert row["peak_neg_log10_p"] == pytest.approx(-np.log10(fit.pvalues[-1]), rel=1e-4)


def test_clusters__noise_of_voxel_takes_the_noise_of_the_voxels(
    study: Path, tmp_path: Path
) -> None:
    """A smaller region, of a peak whose p is that of its own noise."""
    weights = load_file(study / "m.safetensors")
    noisy = weights["mask"].shape[0] // 2 > np.argwhere(weights["mask"])[:, 0]  # one side
    wide = 1.5 * weights["voxel_sd"]
    weights["voxel_sd"] = np.where(noisy, wide, 0).astype(np.float32)
    with safe_open(study / "m.safetensors", framework="numpy") as file:
        save_file(weights, study / "noisy.safetensors", file.metadata())
    given = ("--cluster-p", 1e-3, "--variant", "rs2")
    assert clusters(study, tmp_path / "p", *given).exit_code == 0
    voxel = (*given, "--noise-of", "voxel")
    done = clusters(study, tmp_path / "v", *voxel, model="noisy.safetensors")
    assert done.exit_code == 0, done.output
    tables = [pd.read_csv(tmp_path / name / "clusters.tsv", sep="\t") for name in "pv"]
    (of_map, of_voxel) = (table.iloc[0] for table in tables)
    assert 5 < of_voxel["n_voxels"] < of_map["n_voxels"]
    assert of_voxel["p_fwe"] == 1 / 200
    assert json.loads((tmp_path / "v" / "clusters.json").read_text())["noise_of"] == "voxel"
    basis = read_basis(study / "noisy.safetensors")
    place = basis.volume(np.arange(basis.n_voxels))
    column = place[of_voxel["peak_i"], of_voxel["peak_j"], of_voxel["peak_k"]]
    assert noisy[column]
    left = read_residuals(study / "r.parquet", "traits").left
    dosages = read_residuals(study / "d.parquet", "dosages")
    g = dosages.left[:, dosages.names.index("rs2")]
    y = left @ basis.basis[:, column].astype(np.float64)
    beta = g @ y / (g @ g)
    squares = (N - 2) * float(wide[column]) ** 2  # the intercept and age are the covariates
    assert squares > y @ y
    se = np.sqrt((squares / (g @ g) - beta**2) / (N - 3))
    assert of_voxel["peak_beta"] == pytest.approx(beta, rel=1e-4)
    p = 2 * stats.t.sf(abs(beta / se), N - 3)
    assert of_voxel["peak_neg_log10_p"] == pytest.approx(-np.log10(p), rel=1e-4)


def test_clusters__one_seed_gives_the_same_whichever_variants(study: Path, tmp_path: Path) -> None:
    lax = ("--cluster-p", 0.05, "--connectivity", 6)
    assert clusters(study, tmp_path / "all", *lax).exit_code == 0
    assert clusters(study, tmp_path / "again", *lax).exit_code == 0
    assert clusters(study, tmp_path / "one", *lax, "--variant", "rs4").exit_code == 0
    assert clusters(study, tmp_path / "other", *lax, "--seed", 1).exit_code == 0
    assert contents(tmp_path / "all") == contents(tmp_path / "again")
    tables = {
        name: pd.read_csv(tmp_path / name / "clusters.tsv", sep="\t")
        for name in ("all", "one", "other")
    }
    of_one = tables["all"][tables["all"]["variant_id"] == "rs4"].reset_index(drop=True)
    pd.testing.assert_frame_equal(of_one, tables["one"])
    assert len(of_one) > 1
    assert (tables["all"]["n_voxels"] == tables["other"]["n_voxels"]).all()
    assert (tables["all"]["p_fwe"] != tables["other"]["p_fwe"]).any()


def test_clusters__without_any_is_an_empty_table(study: Path, tmp_path: Path) -> None:
    done = clusters(study, tmp_path / "c", "--variant", "rs4", "--cluster-p", 1e-12)
    assert done.exit_code == 0, done.output
    table = pd.read_csv(tmp_path / "c" / "clusters.tsv", sep="\t")
    assert len(table) == 0
    assert "p_fwe" in table
    assert not read_nifti(tmp_path / "c" / "rs4_clusters.nii.gz", ndim=3)[0].any()
    dosages = read_residuals(study / "d.parquet", "dosages")
    given = ("dosages", dosages.sample_id, [], dosages.left[:, :0], {"variants": []})
    write_residuals(study / "none.parquet", *given)
    assert clusters(study, tmp_path / "n", dosages="none.parquet").exit_code == 0
    assert len(pd.read_csv(tmp_path / "n" / "clusters.tsv", sep="\t")) == 0


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"residuals": "few_r.parquet"}, "295 people, and the association is of 300: 5 are in one"),
        ({"dosages": "few_d.parquet"}, "such as 'i0'; run axoloci-gwas residuals with the options"),
        ({"residuals": "raw_r.parquet"}, "with the same traits, transforms and covariates"),
        ({"residuals": "some_r.parquet"}, "lacks 19 of the 20 latents"),
        ({"residuals": "d.parquet"}, "residuals of dosages, not of traits"),
        ({"dosages": "swapped.parquet"}, "rs1 has other effects on the residuals than in the"),
        ({"dosages": "unknown.parquet"}, "no variant '1:1001 (rs1)'; nearest"),
        ({"variant": "rs11"}, "no variant rs11; did you mean 'rs1'?"),
    ],
)
def test_clusters__refuses_what_does_not_belong_together(
    study: Path, tmp_path: Path, other: dict[str, str], said: str
) -> None:
    dosages = read_residuals(study / "d.parquet", "dosages")
    given = ("dosages", dosages.sample_id, dosages.names)
    swapped = dosages.left[:, [1, 0, 2]]
    write_residuals(study / "swapped.parquet", *given, swapped, dosages.about)
    variants = [{**row, "effect_allele": "T"} for row in dosages.about["variants"][:1]]
    about = {**dosages.about, "variants": variants + dosages.about["variants"][1:]}
    write_residuals(study / "unknown.parquet", *given, dosages.left, about)
    variant = ("--variant", other.pop("variant")) if "variant" in other else ()
    done = clusters(study, tmp_path / "c", *variant, **other)
    assert done.exit_code == 1
    assert said in done.output
    assert not list(tmp_path.iterdir())


def test_clusters__refuses_a_mixed_model(study: Path, tmp_path: Path) -> None:
    shutil.copytree(study / "s", tmp_path / "s")
    about = json.loads((tmp_path / "s" / "sumstats.json").read_text())
    about |= {"mixed_model": True}
    about["trait_correlation_of_chromosome"] = {"1": about["trait_correlation"]}
    (tmp_path / "s" / "sumstats.json").write_text(json.dumps(about))
    done = clusters(study, tmp_path / "c", sumstats=str(tmp_path / "s"))
    assert done.exit_code == 1
    assert "associate unrelated people without --loco" in done.output


def test_clusters__tells_variants_of_one_place_and_alike_names_apart(
    study: Path, tmp_path: Path
) -> None:
    """rs2 and rs4 lie at one place with swapped alleles; their ids make one name of a file."""
    for ending in ("bed", "fam"):
        shutil.copy(study / f"g.{ending}", tmp_path / f"g.{ending}")
    lines = (study / "g.bim").read_text().splitlines()
    lines[2], lines[4] = "1\ta:b\t0\t1002\tA\tC", "1\ta_b\t0\t1002\tC\tA"
    (tmp_path / "g.bim").write_text("\n".join(lines) + "\n")
    inputs = ("--genotypes", tmp_path / "g", "--traits", study / "t.parquet")
    inputs += ("--covariates", study / "c.tsv")
    done = run(gwas, "associate", *inputs, "--device", "cpu", "--out", tmp_path / "s")
    assert done.exit_code == 0, done.output
    (tmp_path / "loci.tsv").write_text(
        "locus\tchromosome\tbase_pair_location\tvariant_id\teffect_allele\tother_allele\n"
        "1\t1\t1002\ta:b\tA\tC\n2\t1\t1002\ta_b\tC\tA\n"
    )
    files = ("--out", tmp_path / "r.parquet", "--dosages", tmp_path / "d.parquet")
    done = run(gwas, "residuals", *inputs, "--loci", tmp_path / "loci.tsv", *files)
    assert done.exit_code == 0, done.output
    ours = {"sumstats": "s", "residuals": "r.parquet", "dosages": "d.parquet"}
    ours = {option: str(tmp_path / name) for option, name in ours.items()}
    done = clusters(study, tmp_path / "c", "--cluster-p", 1e-4, **ours)
    assert done.exit_code == 0, done.output
    about = json.loads((tmp_path / "c" / "clusters.json").read_text())
    names = ["1_1002_A_C_a_b_clusters.nii.gz", "1_1002_C_A_a_b_clusters.nii.gz"]
    assert (about["variants"], about["images"]) == (["a:b", "a_b"], names)
    table = pd.read_csv(tmp_path / "c" / "clusters.tsv", sep="\t")
    assert set(table.loc[table["p_fwe"] < 0.05, "variant_id"]) == {"a:b"}  # which is rs2
    first, second = (read_nifti(tmp_path / "c" / name, ndim=3)[0] for name in names)
    assert (first == 1).sum() > 10 > (second == 1).sum()

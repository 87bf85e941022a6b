"""The study's page on planted results of the genetics step."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

from axoloci.io.nifti import write_nifti
from axoloci.io.packing import write_cohort
from axoloci.io.sumstats import SumstatsWriter, plan_parts
from axoloci.tasks.report.cli import main

N = 1000  # people
N_LOCI = 23
SHAPE, AFFINE = (20, 24, 20), np.array([[-4.0, 0, 0, 40], [0, 4, 0, -60], [0, 0, 4, -30], [0] * 4])
AFFINE[3, 3] = 1
PEAK = (5, 15, 9)  # voxel
HELD = dict.fromkeys(("lambda_gc", "h2", "h2_se"))


def write_genetics(
    folder: Path, n_traits: int = 8, n_variants: int = 4000, per_region: int = 200, seed: int = 0
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
    for k, row in enumerate(loci.head(3).to_dict("records")):
        prefix = f"{row['locus']}_{row['variant_id']}"
        write_nifti(
            folder / "voxels" / f"{prefix}_beta.nii.gz",
            np.where(mask, (-1) ** k * 0.01 * (blob - 0.05), np.nan).astype(np.float32),
            AFFINE,
        )
        strong = np.where(mask, 15 * blob + 0.1, np.nan).astype(np.float32)
        write_nifti(folder / "voxels" / f"{prefix}_neg_log10_p.nii.gz", strong, AFFINE)
        at = dict(zip(("peak_x", "peak_y", "peak_z"), world, strict=True))
        told = {"locus": row["locus"], "variant_id": row["variant_id"], "prefix": prefix}
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


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_genetics(tmp_path_factory.mktemp("genetics"))


if __name__ == "__main__":
    import sys

    write_genetics(Path(sys.argv[1]), *map(int, sys.argv[2:]))

"""Associations beside those of plink2 and statsmodels, for the tests and for `make verify`.

All results are tables of one form, by trait and variant_id: frequency of the effect allele, n,
beta, se, t and neg_log10_p of the tests that were done. The frequency is that among all people for
axoloci, among those who have the trait for the others.
"""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import statsmodels.api as sm
from click.testing import CliRunner
from numpy.typing import NDArray
from pgenlib import PgenWriter
from plink_files import write_plink

from axoloci.io.genotypes import Genotypes, open_genotypes
from axoloci.io.sumstats import neg_log10_p, read_sumstats
from axoloci.tasks.gwas.cli import main

CHROMOSOMES = ("1", "X", "Y", "XY", "MT")
PLINK2_DIGITS = 6  # that it prints
N_RARE = 12  # variants whose minor allele is there five times
STRENGTHS = (300, 1000, 3000)  # −log10 p of the strongest variant of a trait each

# What two results may differ by: absolute, and relative; beta in standard errors.
BARS = {"beta": (1e-4, 0.0), "se": (0.0, 1e-5), "t": (1e-4, 1e-5), "neg_log10_p": (1e-4, 1e-5)}
FLOAT64_BARS = {"beta": (1e-9, 0.0), "se": (0.0, 1e-9), "t": (1e-9, 1e-9)}


# --- results -------------------------------------------------------------------------------------


def of_axoloci(folder: Path, genotypes: Path, *options: object) -> pd.DataFrame:
    """By the command `axoloci-gwas associate` of the tables in `folder`, where its store goes."""
    return of_store(associate(folder, genotypes, *options))


def associate(folder: Path, genotypes: Path, *options: object) -> Path:
    """The store of `axoloci-gwas associate` of the tables in `folder`."""
    out = folder / f"sumstats_{genotypes.name}"
    tables = ("--traits", folder / "t.tsv", "--covariates", folder / "c.tsv")
    arguments = ("associate", "--genotypes", genotypes, *tables, "--device", "cpu", "--out", out)
    result = CliRunner().invoke(main, [str(a) for a in (*arguments, *options)])
    assert result.exit_code == 0, result.output + repr(result.exception)
    return out


def of_store(path: Path) -> pd.DataFrame:
    """All of a store."""
    store = read_sumstats(path)
    frames = [store.trait(name).assign(trait=name) for name in store.traits]
    return of_hits(pd.concat(frames))


def of_hits(frame: pd.DataFrame) -> pd.DataFrame:
    """Results as a store hands them out, with their traits."""
    beta, se = (frame[name].astype(np.float64) for name in ("beta", "se"))
    frame = frame.rename(columns={"effect_allele_frequency": "frequency"})
    return _table(frame.assign(beta=beta, se=se, t=beta / se))


def of_plink2(plink2: str, folder: Path, genotypes: Path, *options: object) -> pd.DataFrame:
    """By `plink2 --glm` of the tables in `folder`."""
    stem = genotypes.with_suffix("")
    files = {
        ".bed": ("--bfile", stem),
        ".pgen": ("--pfile", stem),
        ".bgen": ("--bgen", genotypes, "ref-first", "--sample", f"{stem}.sample"),
    }[genotypes.suffix]
    tables = ("--no-psam-pheno", "--pheno", folder / "t.tsv", "--covar", folder / "c.tsv")
    glm = (
        "--covar-variance-standardize",
        "--glm",
        "hide-covar",
        "omit-ref",
        "log10",
        "cols=+a1freq",
    )
    out = folder / f"plink2_{genotypes.name}"
    run_plink2(plink2, *files, *tables, *glm, "--out", out, *options)
    names = {
        **{"ID": "variant_id", "A1_FREQ": "frequency", "OBS_CT": "n", "BETA": "beta"},
        **{"SE": "se", "T_STAT": "t", "LOG10_P": "neg_log10_p"},
    }
    frames = []
    for file in sorted(folder.glob(f"{out.name}.*.glm.linear")):
        trait = file.name.removeprefix(f"{out.name}.").removesuffix(".glm.linear")
        frame = pd.read_csv(file, sep="\t", dtype={"#CHROM": str})
        assert (frame["A1"] == frame["ALT"]).all()
        if len(frame):
            frames.append(frame.assign(trait=trait))
    return _table(pd.concat(frames).rename(columns=names))


def run_plink2(plink2: str, *options: object) -> None:
    """Run it on two threads."""
    command = [plink2, *map(str, options), "--threads", "2"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def of_statsmodels(folder: Path, genotypes: Path) -> pd.DataFrame:
    """By least squares in float64, one test at a time, of the genotypes as axoloci reads them."""
    source = open_genotypes(genotypes)
    traits, c = read_tables(folder, source)
    sex = source.samples["sex"].to_numpy()
    rows = []
    for chromosome, index in source.variants.groupby("chromosome", sort=False).indices.items():
        who, design, copies = np.ones(len(sex), dtype=bool), c, 1.0
        if chromosome == "X":
            who, design = sex > 0, np.column_stack([c, sex == 2])
        elif chromosome == "Y":
            who, copies = sex == 1, 2.0
        elif chromosome == "MT":
            copies = 2.0
        for v in index:
            g = source.read(v, v + 1)[0].astype(np.float64)
            for name, y in zip(traits, traits.to_numpy().T, strict=True):
                has = who & (g >= 0) & np.isfinite(y)
                if np.ptp(g[has]) == 0:
                    continue
                x = np.column_stack([g[has] / copies, design[has]])
                # of a mean far from zero its rounding is more than the bars of float64
                fit = sm.OLS(y[has] - y[has].mean(), x).fit()
                variant = source.variants["variant_id"].iloc[v]
                of_test = (g[has].mean() / 2, fit.nobs, fit.params[0], fit.bse[0], fit.df_resid)
                rows.append((name, variant, *of_test))
    names = ["trait", "variant_id", "frequency", "n", "beta", "se", "df"]
    table = pd.DataFrame(rows, columns=names)
    t = table["beta"] / table["se"]
    return _table(table.assign(t=t, neg_log10_p=neg_log10_p(t, table["df"])))


def read_tables(folder: Path, source: Genotypes) -> tuple[pd.DataFrame, NDArray[np.float64]]:
    """Traits and standardised covariates of a made study, the intercept first."""
    traits, covariates = (
        pd.read_csv(folder / name, sep="\t").set_index("IID").drop(columns="#FID")
        for name in ("t.tsv", "c.tsv")
    )
    people = source.samples["iid"]
    c = covariates.loc[people].to_numpy()
    return traits.loc[people], sm.add_constant((c - c.mean(axis=0)) / c.std(axis=0))


def _table(frame: pd.DataFrame) -> pd.DataFrame:
    table = frame.dropna(subset=["beta"]).set_index(["trait", "variant_id"])
    assert table.index.is_unique
    return table[["frequency", "n", "beta", "se", "t", "neg_log10_p"]]


# --- differences ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Difference:
    """What sets two results apart.

    Attributes
    ----------
    n_tests
        That both have.
    n_alone
        That only one of them has.
    n_other_n
        Whose numbers of people differ.
    largest
        By statistic, over all tests: |Δβ| and |ΔSE| over SE, |Δt|, |Δ−log10 p|.
    share
        Largest share of what is allowed.
    """

    n_tests: int
    n_alone: int
    n_other_n: int
    largest: dict[str, float]
    share: dict[str, float]

    @property
    def is_allowed(self) -> bool:
        """The same tests of the same people, and all within the bars."""
        same = self.n_alone == self.n_other_n == 0
        return same and bool(np.max(list(self.share.values())) <= 1)  # False for NaN


def difference(
    ours: pd.DataFrame,
    theirs: pd.DataFrame,
    bars: Mapping[str, tuple[float, float]] = BARS,
    digits: int | None = None,
) -> Difference:
    """Compare two results.

    Parameters
    ----------
    ours, theirs
        Tables of this module.
    bars
        Absolute and relative difference allowed; that of beta in standard errors.
    digits
        That `theirs` were printed with. A beta of so many digits is known to half a unit of its
        last, which is allowed on top; in the other bars there is room for it.
    """
    both = ours.index.intersection(theirs.index)
    a, b = ours.loc[both], theirs.loc[both]
    largest, share = {}, {}
    for name, (absolute, relative) in bars.items():
        unit = b["se"] if name in ("beta", "se") else 1.0
        delta = (a[name] - b[name]).abs() / unit
        allowed = absolute + relative * b[name].abs() / unit
        if name == "beta" and digits is not None:
            allowed += 0.5 * 10.0 ** (np.floor(np.log10(b[name].abs())) + 1 - digits) / unit
        largest[name] = float(delta.max(skipna=False))
        share[name] = float((delta / allowed).max(skipna=False))
    alone = len(ours.index.symmetric_difference(theirs.index))
    return Difference(len(both), alone, int((a["n"] != b["n"]).sum()), largest, share)


# --- data ----------------------------------------------------------------------------------------


def make_study(
    folder: Path,
    n_samples: int,
    n_variants: int,
    missing: float,
    *,
    dosages: bool = False,
    strengths: tuple[int, ...] = STRENGTHS,
    chromosomes: tuple[str, ...] = ("1",),
    seed: int = 0,
) -> Path:
    """Genotypes of each chromosome, traits (t.tsv) and covariates (c.tsv) of both sexes.

    Variants of all frequencies, the first `N_RARE` with a minor-allele count of about five, either
    allele being the rare one. Traits: one with a mean far from zero, one that a tenth lacks, a
    skewed one, and for each of `strengths` one that a variant of the first chromosome explains so
    well that −log10 p is about that.

    Parameters
    ----------
    missing
        Share of genotypes.
    dosages
        Fractions in PLINK 2's format, some well and some hardly imputed; else calls in PLINK 1's.

    Returns
    -------
    Path of the .bed or .pgen.
    """
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    sex = rng.choice([0, 1, 2], n_samples, p=[0.03, 0.47, 0.5])
    chromosome = np.repeat(chromosomes, n_variants)
    frequency = rng.uniform(0.02, 0.98, len(chromosome))
    dosage = rng.binomial(2, frequency[:, None], (len(chromosome), n_samples)).astype(np.float64)
    for v in range(N_RARE):
        dosage[v] = 0
        dosage[v, rng.choice(n_samples, 5, replace=False)] = 1
        if v % 2:
            dosage[v] = 2 - dosage[v]
    one_copy = np.isin(chromosome, ["X", "Y"])[:, None] & (sex == 1)
    one_copy = one_copy | (chromosome == "MT")[:, None]
    if not dosages:
        one_copy &= rng.random(dosage.shape) < 0.99  # a few calls are heterozygous all the same
    dosage[one_copy] -= dosage[one_copy] % 2
    if dosages:
        dosage = _imputed(dosage, rng)

    age = rng.uniform(20, 80, n_samples)
    covariates = pd.DataFrame(
        {
            "age": age,
            "age2": age**2,
            "batch": (rng.random(n_samples) < 0.03) * 1,
            **{f"PC{k}": rng.normal(size=n_samples) for k in range(1, 4)},
        }
    )
    z = (covariates - covariates.mean()) / covariates.std()
    by_covariates = z.to_numpy() @ rng.normal(0, 0.3, z.shape[1])
    noise = rng.normal(size=(n_samples, 3 + len(strengths)))
    traits = {
        "far": 4000 + by_covariates + noise[:, 0],
        "lacking": np.where(rng.random(n_samples) < 0.1, np.nan, by_covariates + noise[:, 1]),
        "skewed": np.exp(by_covariates + noise[:, 2]),
    }
    common = N_RARE + np.argsort(np.abs(frequency[N_RARE:n_variants] - 0.5))
    for k, strength in enumerate(strengths):
        g = dosage[common[k]] - dosage[common[k]].mean()
        explained = 1 - 10 ** (-2 * strength / n_samples)
        slope = np.sqrt(explained / (1 - explained)) / g.std()
        traits[f"strong{strength}"] = by_covariates + noise[:, 3 + k] + slope * g

    dosage[rng.random(dosage.shape) < missing] = -9
    ids = pd.DataFrame({"#FID": [f"f{i}" for i in range(n_samples)]})
    ids["IID"] = [f"i{i}" for i in range(n_samples)]
    for name, table in (("t", pd.DataFrame(traits)), ("c", covariates)):
        file = folder / f"{name}.tsv"
        pd.concat([ids, table], axis=1).to_csv(file, sep="\t", index=False, na_rep="NA")
    if not dosages:
        write_plink(folder / "g", dosage.astype(np.int8), list(chromosome), sex=list(sex))
        return folder / "g.bed"
    pgen = bytes(folder / "g.pgen")
    with PgenWriter(pgen, n_samples, len(dosage), False, dosage_present=True) as writer:
        writer.append_dosages_batch(dosage.astype(np.float32))
    variants = [f"{c}\t{1000 + v}\trs{v}\tC\tA" for v, c in enumerate(chromosome)]
    (folder / "g.pvar").write_text("\n".join(["#CHROM\tPOS\tID\tREF\tALT", *variants, ""]))
    people = ids.assign(SEX=np.array(["NA", "1", "2"])[sex])
    people.to_csv(folder / "g.psam", sep="\t", index=False)
    return folder / "g.pgen"


def _imputed(dosage: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """Expected counts: between the true one and the mean of the variant, with a little noise."""
    known = rng.choice([0.05, 0.5, 0.9, 0.99], len(dosage))[:, None]
    known[:N_RARE] = 0.99
    mean = dosage.mean(axis=1, keepdims=True)
    noise = rng.normal(0, 0.01, dosage.shape) * known
    return np.clip(known * dosage + (1 - known) * mean + noise, 0, 2)


def export_bgen(plink2: str, genotypes: Path, bits: int) -> Path:
    """Dosages of a .pgen as BGEN 1.2."""
    out = genotypes.with_name(f"{genotypes.stem}{bits}")
    export = ("--export", "bgen-1.2", f"bits={bits}", "ref-first")
    run_plink2(plink2, "--pfile", genotypes.with_suffix(""), *export, "--out", out)
    return out.with_suffix(".bgen")


def keep_dosages(plink2: str, bgen: Path) -> Path:
    """A .pgen of the dosages that plink2 makes of a BGEN file: it rounds them to 1/16384."""
    out = bgen.with_name(f"{bgen.stem}_kept")
    files = ("--bgen", bgen, "ref-first", "--sample", bgen.with_suffix(".sample"))
    run_plink2(plink2, *files, "--make-pgen", "--out", out)
    return out.with_suffix(".pgen")


def make_geuvadis(folder: Path, data: Path, plink2: str, every: int = 1) -> Path:
    """Dosages of chromosome 22, expression of its 364 genes, components and phase of the study.

    Parameters
    ----------
    data
        Folder of the data set.
    every
        Which variants: 10 takes every tenth.

    Returns
    -------
    Path of the .pgen.
    """
    out = folder / "g"
    vcf = ("--vcf", data / "genotypes.vcf.gz", "dosage=DS")
    run_plink2(plink2, *vcf, "--make-pgen", "--out", out)
    if every > 1:
        variants = open_genotypes(out).variants["variant_id"]
        (folder / "extract").write_text("\n".join(variants[::every]))
        thin = ("--extract", folder / "extract", "--make-pgen", "--out", folder / "thin")
        run_plink2(plink2, "--pfile", out, *thin)
        out = folder / "thin"
    genes = pd.read_csv(data / "phenotypes.bed.gz", sep="\t").set_index("TargetID").iloc[:, 3:].T
    genes.rename_axis("#IID").to_csv(folder / "t.tsv", sep="\t")
    covariates = pd.read_csv(data / "covariates.txt.gz", sep="\t", index_col=0).T
    covariates.rename_axis("#IID").to_csv(folder / "c.tsv", sep="\t")
    return out.with_suffix(".pgen")

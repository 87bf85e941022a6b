"""The digits of the association: beside plink2 and statsmodels, simulated and real.

The command runs as it does by itself, in float32 from 1,000 people on; statsmodels fits each test
in float64 and tells which of the two others is off. Where AXOLOCI_TEST_DATA (default
../shared/data) holds GEUVADIS, all its genes are tested on all variants of chromosome 22.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

from axoloci.io.genotypes import open_genotypes
from axoloci.io.sumstats import HIT_NEG_LOG10_P, read_sumstats
from axoloci.tasks.gwas import kernel
from benchmarks.results_file import markdown_table, write_result

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from agreement import (
    BARS,
    CHROMOSOMES,
    FLOAT64_BARS,
    N_RARE,
    PLINK2_DIGITS,
    STRENGTHS,
    Difference,
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
    read_tables,
)

ROOT = Path(__file__).parent.parent
MIN_INFO = 0.3  # that imputed variants are usually asked for
ONE_CHROMOSOME = (5000, 200)  # people, variants
FIVE_CHROMOSOMES = (2000, 50)  # people, variants of each
NAMES = {"beta": "Δβ ÷ SE", "se": "ΔSE ÷ SE", "t": "Δt", "neg_log10_p": "Δ−log10 p"}


def allowed(of: dict[str, tuple[float, float]]) -> str:
    """What is allowed, in words."""
    words = []
    for name, (absolute, relative) in of.items():
        parts = ((absolute, ""), (relative, " relative" if absolute else ""))
        words.append(f"{NAMES[name]} {' + '.join(f'{x:.0e}{unit}' for x, unit in parts if x)}")
    return ", ".join(words)


WORDS = f"""\
Largest difference of all tests, in brackets the largest share of what is allowed, which is:
{allowed(BARS)}; beside float64: {allowed(FLOAT64_BARS)}. plink2 prints
{PLINK2_DIGITS} digits, so its β is known to half a unit of the last, which is allowed on top: at
|t| = 100 up to 5e-4 SE. Of BGEN it keeps dosages to 1/16384, which
alone is more than the bars, and far more where imputation tells little: plink2 then differs from
both others, and agrees once axoloci is given the dosages that plink2 keeps.

Each set: {N_RARE} variants of a minor-allele count of about 5, others of all frequencies, either
allele the minor one; 6 covariates; traits with a mean of 4,000, with a tenth missing, skewed, and
with one variant each of −log10 p about {", ".join(map(str, STRENGTHS))}.
"""


def row(data: str, pair: str, found: Difference) -> dict[str, object]:
    """A row of the table: the largest differences, and the largest share of what is allowed."""
    return {
        "data": data,
        "compared": pair,
        "tests": found.n_tests,
        "n identical": "yes" if found.n_alone == found.n_other_n == 0 else "no",
        **{
            NAMES[name]: f"{largest:.0e} ({found.share[name]:.0%})"
            for name, largest in found.largest.items()
        },
        "within the bars": "yes" if found.is_allowed else "**no**",
    }


def in_float64(folder: Path, genotypes: Path) -> pd.DataFrame:
    """The kernel's results of the first chromosome in float64, without the store between."""
    source = open_genotypes(genotypes)
    source.select_variants((source.variants["chromosome"] == "1").to_numpy())
    traits, design = read_tables(folder, source)
    model = kernel.fit_null(traits.to_numpy(), design)
    block = source.read(0, source.n_variants)
    [found] = kernel.associate([block], model, precision="float64")
    variants = source.variants["variant_id"]
    index = pd.MultiIndex.from_product([traits.columns, variants], names=["trait", "variant_id"])
    table = pd.DataFrame({"beta": found.beta.T.ravel(), "se": found.se.T.ravel()}, index=index)
    for k, name in enumerate(traits):
        group = next(i for i, g in enumerate(model.groups) if k in g.trait_index)
        table.loc[name, "n"] = found.n_by_group[:, group]
    return table.assign(t=table["beta"] / table["se"]).dropna()


def of_study(plink2: str, name: str, folder: Path, genotypes: Path) -> list[dict[str, object]]:
    """One data set, three ways."""
    ours, theirs = of_axoloci(folder, genotypes), of_plink2(plink2, folder, genotypes)
    exact = of_statsmodels(folder, genotypes)
    rows = [
        row(name, "axoloci, plink2", difference(ours, theirs, digits=PLINK2_DIGITS)),
        row(name, "axoloci, statsmodels", difference(ours, exact)),
        row(name, "plink2, statsmodels", difference(exact, theirs, digits=PLINK2_DIGITS)),
    ]
    reference = in_float64(folder, genotypes)
    of_first = exact.loc[exact.index.isin(reference.index)]
    found = difference(reference, of_first, FLOAT64_BARS)
    float64 = row(name, "axoloci in float64, statsmodels", found)
    return [*rows, {name: float64.get(name, "") for name in rows[0]}]


def well_imputed(genotypes: Path) -> set[str]:
    """Variants of two copies whose dosages vary as much as `MIN_INFO` asks for."""
    source = open_genotypes(genotypes)
    source.select_variants(~source.variants["chromosome"].isin(["Y", "MT"]).to_numpy())
    dosage = source.read(0, source.n_variants).astype(np.float64)
    dosage[dosage < 0] = np.nan
    p = np.nanmean(dosage, axis=1) / 2
    info = np.nanvar(dosage, axis=1) / (2 * p * (1 - p))
    return set(source.variants["variant_id"][info >= MIN_INFO])


def of_simulated(plink2: str, folder: Path) -> list[dict[str, object]]:
    """All simulated sets."""
    rows = []
    for missing in (0.0, 0.01, 0.1):
        here = folder / f"calls{missing}"
        genotypes = make_study(here, *ONE_CHROMOSOME, missing)
        name = f"{ONE_CHROMOSOME[0]:,} people, calls, {missing:.0%} missing"
        rows += of_study(plink2, name, here, genotypes)
    size = f"{FIVE_CHROMOSOMES[0]:,} people, {' '.join(CHROMOSOMES)}, 2% missing"
    here = folder / "sexes"
    genotypes = make_study(here, *FIVE_CHROMOSOMES, 0.02, chromosomes=CHROMOSOMES)
    rows += of_study(plink2, f"{size}, calls", here, genotypes)
    here = folder / "dosages"
    genotypes = make_study(here, *FIVE_CHROMOSOMES, 0.02, dosages=True, chromosomes=CHROMOSOMES)
    rows += of_study(plink2, f"{size}, pgen of dosages", here, genotypes)
    for bits in (8, 16):
        name = f"{size}, bgen of {bits} bits"
        bgen = export_bgen(plink2, genotypes, bits)
        rows += of_study(plink2, name, here, bgen)
        theirs = of_plink2(plink2, here, bgen)
        well = [
            table[table.index.get_level_values("variant_id").isin(well_imputed(bgen))]
            for table in (of_axoloci(here, bgen), theirs)
        ]
        found = difference(*well, digits=PLINK2_DIGITS)
        rows.append(row(f"{name}: 1 X XY of INFO ≥ {MIN_INFO}", "axoloci, plink2", found))
        ours = of_axoloci(here, keep_dosages(plink2, bgen))
        found = difference(ours, theirs, digits=PLINK2_DIGITS)
        rows.append(row(name, "axoloci of the dosages that plink2 keeps, plink2", found))
    return rows


def of_geuvadis(plink2: str, folder: Path, data: Path) -> tuple[str, list[dict[str, object]]]:
    """The sets of hits in words, and the figures of the tests with p < 0.001."""
    genotypes = make_geuvadis(folder, data, plink2)
    store = read_sumstats(associate(folder, genotypes))
    ours = of_hits(store.hits(3))
    theirs = of_plink2(plink2, folder, genotypes, "--pfilter", 1e-3)
    words = []
    for name, threshold in (("1e-5", 5.0), ("5e-8", HIT_NEG_LOG10_P)):
        hits = [set(one.index[one["neg_log10_p"] >= threshold]) for one in (ours, theirs)]
        words.append(
            f"p ≤ {name}: {len(hits[0]):,} hits of axoloci, {len(hits[1]):,} of plink2, "
            f"{len(hits[0] ^ hits[1])} of one alone"
        )
    both = ours.index.intersection(theirs.index)
    found = difference(ours.loc[both], theirs.loc[both], digits=PLINK2_DIGITS)
    name = f"{store.n_samples} Europeans, {store.n_variants:,} variants, {len(store.traits)} genes"
    return "; ".join(words), [row(name, "axoloci, plink2 (p < 0.001)", found)]


def main() -> None:
    """Compare all data sets and write the table."""
    plink2 = shutil.which("plink2")
    if plink2 is None:
        raise SystemExit("plink2 is not installed; install it by: sudo make system")
    build = subprocess.run([plink2, "--version"], capture_output=True, text=True).stdout.strip()
    shared = Path(os.environ.get("AXOLOCI_TEST_DATA", ROOT.parent / "shared" / "data"))
    data = shared / "genotypes" / "geuvadis-chr22"
    with tempfile.TemporaryDirectory() as name:
        rows = of_simulated(plink2, Path(name))
        hits = f"Not compared: there is no {data.name} in AXOLOCI_TEST_DATA.\n"
        if data.is_dir():
            (Path(name) / "geuvadis").mkdir()
            words, more = of_geuvadis(plink2, Path(name) / "geuvadis", data)
            hits = f"{words}.\n\n{markdown_table(more)}"
    write_result(
        "accuracy",
        "Association: its digits beside those of plink2 and statsmodels",
        f"{build}. axoloci by its command in float32 and, where it says so, its kernel in float64 "
        f"(first chromosome); statsmodels in float64.\n\n{WORDS}\n{markdown_table(rows)}\n"
        f"## Expression of real genes (GEUVADIS)\n\n{hits}",
    )


if __name__ == "__main__":
    main()

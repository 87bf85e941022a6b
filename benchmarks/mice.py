"""The mixed model on related mice beside GEMMA's, all chromosomes left out in turn.

1,940 mice of a heterogeneous stock and a blood trait, CD8+ T cells (GEMMA's example). Plain
regression is hopeless there, for the mice are of few families.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import chi2, spearmanr

from axoloci.io.sumstats import read_sumstats
from benchmarks.results_file import markdown_table, write_result

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from plink_files import gemma_loco, unpack

ROOT = Path(__file__).parent.parent
TRAIT = 0  # CD8, the first column
GENOME_WIDE = 5e-8
MIN_SPEARMAN, MAX_LAMBDA_RATIO, MAX_DISTANCE = 0.9, 1.1, 5_000_000


def gwas(*arguments: object) -> float:
    """Seconds."""
    command = [sys.executable, "-m", "axoloci.tasks.gwas.cli", *map(str, arguments)]
    begin = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stderr}")
    return time.perf_counter() - begin


def inflation(values: pd.Series) -> float:
    return float(values.median() / chi2.median(1))


def lead_loci(both: pd.DataFrame) -> list[dict[str, object]]:
    """A row for each chromosome with a hit of GEMMA's: where each program has its strongest."""
    rows: list[dict[str, object]] = []
    threshold = chi2.isf(GENOME_WIDE, 1)
    placed = both[both["ps"] > 0]  # some have no position
    for chromosome, here in placed.groupby("chr", sort=False):
        theirs, ours = (here.loc[here[name].idxmax()] for name in ("gemma", "axoloci"))
        if theirs["gemma"] < threshold:
            continue
        distance = abs(int(theirs["ps"]) - int(ours["ps"]))
        assert distance <= MAX_DISTANCE, (chromosome, theirs, ours)
        rows.append(
            {
                "chromosome": chromosome,
                "GEMMA's lead": f"{theirs.name} (χ² {theirs['gemma']:.1f})",
                "axoloci's lead": f"{ours.name} (χ² {ours['axoloci']:.1f})",
                "distance, Mb": f"{distance / 1e6:.2f}",
            }
        )
    assert rows
    return rows


def main() -> None:
    """Run both on all chromosomes, and plain regression, and compare."""
    data = Path(os.environ.get("AXOLOCI_TEST_DATA", ROOT.parent / "shared" / "data"))
    source = data / "genotypes" / "mouse-hs1940"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prefix = unpack(source, "mouse_hs1940", folder / "mouse")
        people = pd.read_csv(f"{prefix}.fam", sep=r"\s+", header=None, dtype=str)[1]
        trait = pd.read_csv(source / "mouse_hs1940.pheno.txt.gz", sep=r"\s+", header=None)[TRAIT]
        table = pd.DataFrame({"IID": people, "cd8": trait})
        table.to_csv(folder / "t.tsv", sep="\t", index=False, na_rep="NA")
        inputs = ("--genotypes", prefix, "--traits", folder / "t.tsv", "--min-maf", 0.01)
        seconds = gwas("ridge", *inputs, "--out", folder / "loco")
        associate = ("associate", *inputs, "--device", "cpu")
        seconds += gwas(*associate, "--loco", folder / "loco", "--out", folder / "mixed")
        gwas(*associate, "--out", folder / "plain")
        results = {
            name: read_sumstats(folder / name).trait("cd8").set_index("variant_id")
            for name in ("mixed", "plain")
        }
        chromosomes = list(results["mixed"]["chromosome"].unique())
        begin = time.perf_counter()
        theirs = gemma_loco("gemma", folder, prefix, trait, chromosomes)
        gemma_seconds = time.perf_counter() - begin
    both = theirs[["chr", "ps", "chi2"]].rename(columns={"chi2": "gemma"})
    for name, column in (("mixed", "axoloci"), ("plain", "plain")):
        result = results[name].reindex(both.index)
        both[column] = np.square(result["beta"] / result["se"])
    compared = both.dropna()
    assert len(compared) > 0.99 * len(both), (len(compared), len(both))
    spearman = spearmanr(compared["gemma"], compared["axoloci"]).statistic
    factors = {name: inflation(compared[name]) for name in ("gemma", "axoloci", "plain")}
    ratio = factors["axoloci"] / factors["gemma"]
    assert spearman >= MIN_SPEARMAN, spearman
    assert 1 / MAX_LAMBDA_RATIO < ratio < MAX_LAMBDA_RATIO, factors
    figures = {
        "variants": f"{len(compared):,}",
        "Spearman of χ²": f"{spearman:.3f}",
        "λ GEMMA": f"{factors['gemma']:.3f}",
        "λ axoloci": f"{factors['axoloci']:.3f}",
        "λ plain regression": f"{factors['plain']:.2f}",
        "seconds GEMMA": f"{gemma_seconds:.0f}",
        "seconds axoloci": f"{seconds:.0f}",
    }
    write_result(
        "mice",
        "The mixed model on related mice beside GEMMA's",
        f"CD8+ T cells of {trait.notna().sum():,} mice, {len(chromosomes)} chromosomes, each left "
        f"out of the relationship in turn (gemma -lmm 1 -loco).\n\n{markdown_table([figures])}\n"
        f"Lead variants of the chromosomes with p < {GENOME_WIDE:g} by GEMMA:\n\n"
        f"{markdown_table(lead_loci(compared))}",
    )


if __name__ == "__main__":
    main()

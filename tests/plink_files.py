"""PLINK 1 files for tests: made, unpacked, and associated by GEMMA."""

from __future__ import annotations

import gzip
import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from axoloci.io.genotypes import open_genotypes


def write_plink(
    prefix: Path,
    dosage: NDArray[np.int8],
    chromosome: list[str] | None = None,
    position: Sequence[int] | None = None,
    sex: Sequence[int] | None = None,
) -> None:
    """A bed/bim/fam set of people i0, i1, …, effect allele A, other allele C.

    Without more: chromosome 1, positions from 1000 on, sexes unknown.
    """
    n_variants, n_samples = dosage.shape
    chromosome = chromosome or ["1"] * n_variants
    position = range(1000, 1000 + n_variants) if position is None else position
    sex = [0] * n_samples if sex is None else sex
    code = np.choose(np.where(dosage < 0, 3, dosage), [3, 2, 0, 1]).astype(np.uint8)
    code = np.pad(code, ((0, 0), (0, -n_samples % 4))).reshape(n_variants, -1, 4)
    packed = (code << np.array([0, 2, 4, 6], dtype=np.uint8)).sum(axis=2).astype(np.uint8)
    Path(f"{prefix}.bed").write_bytes(b"\x6c\x1b\x01" + packed.tobytes())
    Path(f"{prefix}.bim").write_text(
        "".join(f"{chromosome[i]}\trs{i}\t0\t{position[i]}\tA\tC\n" for i in range(n_variants))
    )
    Path(f"{prefix}.fam").write_text(
        "".join(f"f{i}\ti{i}\t0\t0\t{sex[i]}\t-9\n" for i in range(n_samples))
    )


def gemma_loco(
    gemma: str, folder: Path, prefix: Path, trait: pd.Series, chromosomes: list[str]
) -> pd.DataFrame:
    """GEMMA's mixed model of some chromosomes, each without itself in the relationship.

    It leaves a chromosome out only of genotypes in BIMBAM's format. Variants with a minor allele
    frequency of 0.01 or more; indexed by id, with a column chi2.
    """
    source = open_genotypes(prefix)
    dosage, variants = source.read_calls(0, source.n_variants), source.variants
    with open(folder / "geno", "w") as file:
        for row, variant in zip(dosage, variants.itertuples(), strict=True):
            values = ["NA" if value < 0 else str(value) for value in row]
            alleles = [variant.variant_id, variant.effect_allele, variant.other_allele]
            file.write(", ".join([*alleles, *values]) + "\n")
    columns = ["variant_id", "base_pair_location", "chromosome"]
    variants[columns].to_csv(folder / "anno", index=False, header=False)
    trait.to_csv(folder / "pheno", index=False, header=False, na_rep="NA")
    files = ["-g", "geno", "-p", "pheno", "-a", "anno", "-maf", "0.01", "-outdir", "."]
    tables = []
    for name in chromosomes:
        for options in (["-gk", "1", "-o", "k"], ["-lmm", "1", "-k", "k.cXX.txt", "-o", "l"]):
            command = [gemma, *files, *options, "-loco", name]
            subprocess.run(command, check=True, capture_output=True, cwd=folder)
        tables.append(pd.read_csv(folder / "l.assoc.txt", sep="\t", dtype={"chr": str}))
    table = pd.concat(tables).set_index("rs")
    assert set(table["chr"]) == set(chromosomes)
    return table.assign(chi2=np.square(table["beta"] / table["se"]))


def unpack(folder: Path, name: str, prefix: Path) -> Path:
    """`folder/name.{bed,bim,fam}`, compressed or not, as `prefix.{bed,bim,fam}`."""
    for suffix in (".bed", ".bim", ".fam"):
        compressed = folder / f"{name}{suffix}.gz"
        content = (
            gzip.decompress(compressed.read_bytes())
            if compressed.exists()
            else (folder / f"{name}{suffix}").read_bytes()
        )
        Path(f"{prefix}{suffix}").write_bytes(content)
    return prefix


def split_by_chromosome(prefix: Path, pattern: Path) -> list[str]:
    """A PLINK 1 set as one set a chromosome, which `{chromosome}` in the pattern stands for."""
    bed = Path(f"{prefix}.bed").read_bytes()[3:]
    rows = Path(f"{prefix}.bim").read_text().splitlines(keepends=True)
    fam = Path(f"{prefix}.fam").read_bytes()
    width = len(bed) // len(rows)
    chromosomes = list(dict.fromkeys(row.split()[0] for row in rows))
    for chromosome in chromosomes:
        own = [i for i, row in enumerate(rows) if row.split()[0] == chromosome]
        out = str(pattern).replace("{chromosome}", chromosome)
        packed = b"".join(bed[width * i : width * (i + 1)] for i in own)
        Path(f"{out}.bed").write_bytes(b"\x6c\x1b\x01" + packed)
        Path(f"{out}.bim").write_text("".join(rows[i] for i in own))
        Path(f"{out}.fam").write_bytes(fam)
    return chromosomes

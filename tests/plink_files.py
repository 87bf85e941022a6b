"""PLINK 1 files for tests: made, unpacked, and associated by plink2."""

from __future__ import annotations

import gzip
import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray


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


def plink2_glm(
    plink2: str,
    prefix: Path,
    traits: NDArray[np.float64],
    covariates: NDArray[np.float64],
    *options: str,
) -> dict[int, pd.DataFrame]:
    """`plink2 --glm` for the effect allele, one table a trait, indexed by variant id."""
    fam = pd.read_csv(Path(f"{prefix}.fam"), sep=r"\s+", header=None, dtype=str)
    ids = fam[[0, 1]].set_axis(["#FID", "IID"], axis=1)
    names = [f"t{k}" for k in range(traits.shape[1])]
    pheno = pd.concat([ids, pd.DataFrame(traits, columns=names)], axis=1)
    pheno.to_csv(Path(f"{prefix}.pheno"), sep="\t", index=False, na_rep="NA")
    covar = pd.concat([ids, pd.DataFrame(covariates[:, 1:]).add_prefix("c")], axis=1)
    covar.to_csv(Path(f"{prefix}.covar"), sep="\t", index=False)
    command = [plink2, "--bfile", prefix, "--glm", "hide-covar", "omit-ref", "--covar"]
    command += [Path(f"{prefix}.covar"), "--covar-variance-standardize", "--pheno"]
    command += [Path(f"{prefix}.pheno"), "--threads", "1", "--out", prefix, *options]
    subprocess.run(command, check=True, capture_output=True)
    return {
        k: pd.read_csv(f"{prefix}.{name}.glm.linear", sep="\t", index_col="ID")
        for k, name in enumerate(names)
    }


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

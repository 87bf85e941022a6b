"""How a chromosome is tested, by the copies that people have of it; the defaults of plink2 --glm.

On X a man's one copy counts like the two of a woman who has the allele twice, people of unknown sex
are left out, and sex is a covariate. On Y only men are tested. Effects on Y and of mitochondria are
of one copy; heterozygous calls there are half a copy.

References
----------
Chang et al. 2015, doi:10.1186/s13742-015-0047-8; Clayton 2008, doi:10.1093/biostatistics/kxn007.
"""

from __future__ import annotations

from enum import Enum

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from axoloci.io.genotype_files import canonical_chromosome

MALE, FEMALE = 1, 2  # as in PLINK's tables
SEX_COVARIATE = "SEX"  # its name where axoloci adds it

_BY_NAME = {"X": "X", "Y": "Y", "MT": "haploid"}


class Ploidy(Enum):
    """Copies that people have of a chromosome."""

    DIPLOID = "diploid"
    X = "X"
    Y = "Y"
    HAPLOID = "haploid"

    def people(self, sex: NDArray[np.int8]) -> NDArray[np.bool_]:
        """Who is tested. `sex` (n,): 1 male, 2 female, 0 unknown."""
        if self is Ploidy.Y:
            return np.equal(sex, MALE)
        if self is Ploidy.X:
            return np.isin(sex, (MALE, FEMALE))
        return np.ones(len(sex), dtype=bool)

    def covariates(self, columns: pd.DataFrame, sex: NDArray[np.int8]) -> pd.DataFrame:
        """Covariates of the people who are tested: on X with sex among them."""
        if self is Ploidy.X:
            return columns.assign(**{SEX_COVARIATE: np.equal(sex, FEMALE).astype(np.float64)})
        return columns

    def copies(self, sex: NDArray[np.int8]) -> float:
        """How many a person has, on average over the people who are tested."""
        if self is Ploidy.X:
            return float(np.where(sex == MALE, 1, 2).mean()) if len(sex) else 2.0
        return 2.0 / self.effect_scale

    @property
    def effect_scale(self) -> float:
        """Effects of a dosage from 0 to 2 times this are those of one copy."""
        return 2.0 if self in (Ploidy.Y, Ploidy.HAPLOID) else 1.0


def ploidy_of(chromosome: str) -> Ploidy:
    """That of a chromosome by PLINK's names; XY and PAR, the pseudo-autosomal regions, are diploid.

    Parameters
    ----------
    chromosome
        Its name, without "chr".
    """
    return Ploidy(_BY_NAME.get(canonical_chromosome(chromosome), "diploid"))

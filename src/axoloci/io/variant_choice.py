"""Which variants of a genotype set are analysed: those of regions and of lists."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from axoloci.errors import InputError
from axoloci.io.genotype_files import GenotypeSet, read_variant_places
from axoloci.io.variants import parse_region

log = logging.getLogger("axoloci")


@dataclass(frozen=True)
class VariantChoice:
    """Variants of any of the regions, in the list `extract` and not in `exclude`.

    What is empty or None leaves out nothing.
    """

    regions: tuple[str, ...] = ()
    extract: Path | None = None
    exclude: Path | None = None

    @property
    def is_all(self) -> bool:
        """Nothing is left out."""
        return not (self.regions or self.extract or self.exclude)

    def of(self, variants: pd.DataFrame, source: Path) -> NDArray[np.bool_]:
        """Which of some variants are chosen.

        Parameters
        ----------
        variants
            With `chromosome`, `base_pair_location` and `variant_id`.
        source
            Their file, for messages.

        Returns
        -------
        bool, (n_variants,)

        Raises
        ------
        InputError
            A malformed region, a chromosome that is not there, or no variant is left.
        """
        chosen = np.full(len(variants), not self.regions)
        there = list(variants["chromosome"].unique())
        for region in self.regions:
            chromosome, first, last = parse_region(region)
            if chromosome not in there:
                raise InputError(
                    f"region '{region}': {source} has no chromosome '{chromosome}'; it has "
                    f"{', '.join(there)}"
                )
            position = variants["base_pair_location"]
            chosen |= (variants["chromosome"] == chromosome) & position.between(first, last)
        for path, wanted in ((self.extract, True), (self.exclude, False)):
            if path is None:
                continue
            ids = read_variant_ids(path)
            unknown = sorted(ids - set(variants["variant_id"]))
            if unknown:
                log.warning(
                    "%s: %d variants, %s%s are not in %s",
                    *(path, len(unknown), "such as " if len(unknown) > 3 else ""),
                    *(", ".join(unknown[:3]), source),
                )
            chosen &= variants["variant_id"].isin(ids).to_numpy() == wanted
        if not chosen.any():
            limits = (*self.regions, self.extract, self.exclude)
            by = ", ".join(str(limit) for limit in limits if limit)
            example = "".join(
                f"; its first is {row.variant_id} at {row.chromosome}:{row.base_pair_location}"
                for row in variants[:1].itertuples()
            )
            raise InputError(f"{source}: no variant is left of {len(variants)} by {by}{example}")
        return np.asarray(chosen)

    def count(self, genotypes: GenotypeSet) -> dict[str, int]:
        """Chosen rows of each chromosome that has any, as `count_variants`.

        Raises
        ------
        InputError
            As for `of`.
        """
        table = read_variant_places(genotypes)
        chosen = table[self.of(table, genotypes.data)]
        counts = chosen.groupby("chromosome", sort=False)["n_rows"].sum()
        return {str(name): int(n) for name, n in counts.items()}


def read_variant_ids(path: Path) -> set[str]:
    """Ids of a list of variants: the first word of each line, or the column ID of a table.

    Raises
    ------
    InputError
        The list is empty.
    """
    rows = [line.split() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    rows = [row for row in rows if row and not row[0].startswith("##")]
    place = 0
    if rows and "ID" in rows[0]:
        place, rows = rows[0].index("ID"), rows[1:]
    rows = [row for row in rows if len(row) > place]
    if not rows:
        raise InputError(
            f"{path}: names no variant; give one id a line, or a table with a column ID"
        )
    return {row[place] for row in rows}

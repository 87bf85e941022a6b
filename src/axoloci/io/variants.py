"""What a variant is called in tables, and how places are written; without readers of genotypes."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from axoloci.errors import InputError, nearest

if TYPE_CHECKING:
    import pyarrow as pa

VARIANT_MEANING = {
    "chromosome": "Its name, without chr.",
    "base_pair_location": "Position of the variant, base pairs, from 1 on.",
    "variant_id": "As in the genotypes.",
    "effect_allele": "The allele that dosages count and effects are of.",
    "other_allele": "The other one.",
}
VARIANT_COLUMNS = list(VARIANT_MEANING)
MOST_ALIKE = 1000  # ids that a misspelt one is compared with
LEAST_ALIKE = 3  # letters that they begin with alike
EXAMPLES = 3  # ids that are named where none is like it


def meant_id(name: str, ids: pa.ChunkedArray) -> str:
    """What to say of an id that no variant has: the nearest, else what the ids look like.

    Compared are those that begin as it does, as far as any does: of millions, comparing all would
    take minutes.

    Parameters
    ----------
    name
        The id that is not there.
    ids
        [string, shape: (n_variants,)] Those of the variants.
    """
    import pyarrow.compute as pc

    for length in range(len(name), min(LEAST_ALIKE, len(name)) - 1, -1):
        alike = ids.filter(pc.starts_with(ids, name[:length]))
        if len(alike):
            return nearest(name, alike[:MOST_ALIKE].to_pylist())
    examples = (f"'{one}'" for one in ids[:EXAMPLES].to_pylist())
    return f"its ids look like {', '.join(examples)}"


def parse_region(region: str | None) -> tuple[str | None, int, int]:
    """Chromosome, first and last position of a region such as 7 or 7:100000-250000.

    Raises
    ------
    InputError
        It is written in another way.
    """
    everything = 2**62
    if region is None:
        return None, -everything, everything
    match = re.fullmatch(r"(?:chr)?([^:]+)(?::(\d[\d,]*)-(\d[\d,]*))?", region)
    if match is None:
        raise InputError(f"region '{region}': write it as 7 or 7:100000-250000")
    chromosome, first, last = match.groups()
    if first is None:
        return chromosome, -everything, everything
    begin, end = int(first.replace(",", "")), int(last.replace(",", ""))
    if end < begin:
        raise InputError(f"region '{region}': ends before it begins; write it as 7:100000-250000")
    return chromosome, begin, end

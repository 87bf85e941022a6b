"""What a variant is called in tables, and how places are written; without readers of genotypes."""

from __future__ import annotations

import re

from axoloci.errors import InputError

VARIANT_MEANING = {
    "chromosome": "Its name, without chr.",
    "base_pair_location": "Position of the variant, base pairs, from 1 on.",
    "variant_id": "As in the genotypes.",
    "effect_allele": "The allele that dosages count and effects are of.",
    "other_allele": "The other one.",
}
VARIANT_COLUMNS = list(VARIANT_MEANING)


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

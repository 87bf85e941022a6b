"""Tables of loci, as `axoloci-genetics loci` writes them, one row a locus with its lead variant."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from axoloci.errors import InputError

TEXT = ("chromosome", "variant_id", "effect_allele", "other_allele")
WHOLE = ("locus", "base_pair_location", "start", "end")


def read_loci(path: Path, columns: Sequence[str]) -> pd.DataFrame:
    """Read a table of loci.

    Names of variants and alleles are text as it stands: NA is one of them.

    Parameters
    ----------
    path
        Text with a header and tabs.
    columns
        That are needed.

    Returns
    -------
    pandas.DataFrame
        All columns. Those needed of `TEXT` are strings, of `WHOLE` int64.

    Raises
    ------
    InputError
        Not such a table, a column is lacking, or a place is no whole number.
    """
    try:
        table = pd.read_csv(path, sep="\t", converters=dict.fromkeys(TEXT, str))
    except ValueError as error:
        raise InputError(
            f"{path}: cannot be read as a table with tabs ({error}); give the table of "
            "axoloci-genetics loci"
        ) from error
    lacking = [name for name in columns if name not in table]
    if lacking:
        raise InputError(
            f"{path}: no column {', '.join(lacking)}; give the table of axoloci-genetics loci"
        )
    for name in (name for name in WHOLE if name in columns):
        number = pd.to_numeric(table[name], errors="coerce")
        wrong = number % 1 != 0  # NaN too
        if wrong.any():
            row = int(np.argmax(wrong))
            raise InputError(
                f"{path}: row {row + 2}: {name} is {table[name].iloc[row]}, no whole number; give "
                "the table of axoloci-genetics loci as it was written"
            )
        table[name] = number.astype(np.int64)
    return table

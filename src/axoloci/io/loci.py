"""Tables of loci, as `axoloci-genetics loci` writes them, one row a locus with its lead variant."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from axoloci.errors import InputError
from axoloci.joint_test import carrying_traits

TEXT = ("chromosome", "variant_id", "effect_allele", "other_allele")
WHOLE = ("locus", "base_pair_location", "start", "end")
TRAITS_MEANING = {
    "traits": "Traits that the variant changes (p < 0.05 / their number), smallest p first; may be "
    "empty.",
    "traits_beta": "Effect on each, in units of the trait per effect allele.",
    "traits_neg_log10_p": "−log10 p of each.",
}


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


def traits_of_variant(
    names: Sequence[str], beta: NDArray[np.float64], neg_log10_p: NDArray[np.float64]
) -> dict[str, str]:
    """The columns `TRAITS_MEANING` of one variant.

    Parameters
    ----------
    names
        Of all traits.
    beta, neg_log10_p
        [float64, shape: (n_traits,)] Of the variant with each; NaN where it could not be tested.

    >>> traits_of_variant(["a", "b"], np.array([0.5, -0.25]), np.array([1.0, 9.0]))
    {'traits': 'b', 'traits_beta': '-0.25', 'traits_neg_log10_p': '9'}
    """
    carry = carrying_traits(neg_log10_p)
    return {
        "traits": ",".join(names[k] for k in carry),
        "traits_beta": ",".join(f"{beta[k]:.6g}" for k in carry),
        "traits_neg_log10_p": ",".join(f"{neg_log10_p[k]:.5g}" for k in carry),
    }


def read_loci_settings(path: Path) -> dict[str, Any]:
    """Read what stands beside a table of loci or signals, as .json, on how they were found.

    Parameters
    ----------
    path
        Of the table.

    Returns
    -------
    dict
        "traits", the list of the names of those tested, is always there, and empty where they are
        not noted; nothing else is where there is no such file.

    Raises
    ------
    InputError
        The file is not a JSON object.
    """
    beside = path.with_suffix(".json")
    try:
        about = json.loads(beside.read_text(encoding="utf-8")) if beside.is_file() else {}
    except ValueError as error:
        raise InputError(f"{beside}: cannot be read as JSON: {error}") from error
    if not isinstance(about, dict):
        raise InputError(f"{beside}: expected a JSON object, as axoloci-genetics loci writes it")
    return about | {"traits": list(about.get("traits") or ())}

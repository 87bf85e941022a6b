"""Tables of what the covariates leave of traits or dosages: of each person, so not for sharing."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from axoloci.errors import InputError
from axoloci.io.files import whole_file

if TYPE_CHECKING:
    import pyarrow as pa

FORMAT = "axoloci-residuals"
FORMAT_VERSION = 1

Kind = Literal["traits", "dosages"]

_OF_ANOTHER_FILE = (OSError, KeyError, TypeError, ValueError)  # when it is read as one of ours


@dataclass(frozen=True, eq=False)
class Residuals:
    """A table of residuals.

    Attributes
    ----------
    sample_id : list of str
        People, in the order of the association.
    names : list of str
        Traits, or ids of variants.
    left : float64, (n_samples, n_columns)
        In units of the trait, or copies of the effect allele; NaN where the person lacks the trait.
    about : dict
        `covariates`; of dosages also `variants`, a row of the genotypes' table for each column.
    """

    sample_id: list[str]
    names: list[str]
    left: NDArray[np.float64]
    about: dict[str, Any]


def write_residuals(
    path: Path,
    kind: Kind,
    sample_id: Sequence[str],
    names: Sequence[str],
    left: NDArray[np.float64],
    about: Mapping[str, Any],
) -> None:
    """Write a table as Parquet, whole or not at all: `sample_id`, and a column a name.

    Parameters
    ----------
    path
        The file.
    kind
        What the columns are.
    sample_id, names, left, about
        As in `Residuals`.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {"sample_id": pa.array(list(sample_id), pa.string())}
    columns |= {name: pa.array(left[:, k]) for k, name in enumerate(names)}
    identity = {"format": FORMAT, "format_version": FORMAT_VERSION, "kind": kind, **about}
    table = pa.table(columns).replace_schema_metadata({"axoloci": json.dumps(identity)})
    with whole_file(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def is_residuals(path: Path, kind: Kind) -> bool:
    """Whether a file is a table of `write_residuals` of that kind; only its schema is read."""
    import pyarrow.parquet as pq

    try:
        return bool(_identity(pq.read_schema(path))["kind"] == kind)
    except _OF_ANOTHER_FILE:
        return False


def read_residuals(path: Path, kind: Kind) -> Residuals:
    """Read a table of `write_residuals`.

    Raises
    ------
    InputError
        Another file, of another kind or of a newer format.
    """
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
        about = _identity(table.schema)
    except _OF_ANOTHER_FILE as error:
        raise InputError(
            f"{path}: not a table of axoloci-gwas residuals; make one with it"
        ) from error
    if about["format_version"] > FORMAT_VERSION:
        raise InputError(
            f"{path}: format_version {about['format_version']} is newer than {FORMAT_VERSION}; "
            "update axoloci"
        )
    if about["kind"] != kind:
        raise InputError(
            f"{path}: holds residuals of {about['kind']}, not of {kind}; axoloci-gwas residuals "
            "writes one table of each (--out, --dosages)"
        )
    names = table.column_names[1:]
    left = np.empty((len(table), len(names)))
    for k, name in enumerate(names):
        left[:, k] = table[name].to_numpy()
    return Residuals(table["sample_id"].to_pylist(), names, left, about)


def _identity(schema: pa.Schema) -> dict[str, Any]:
    """What `write_residuals` tells of a table; one of `_OF_ANOTHER_FILE` if another wrote it."""
    about: dict[str, Any] = json.loads((schema.metadata or {})[b"axoloci"])
    if about["format"] != FORMAT:
        raise ValueError(about["format"])
    return about

"""`genetic_covariance.npz`: genetic covariances of traits as the commands hand them on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from axoloci.errors import InputError
from axoloci.io.files import whole_file
from axoloci.tasks.genetics.heritability import GeneticCovariance

FORMAT_VERSION = 1


@dataclass(frozen=True, eq=False)
class CovarianceFile:
    """What `genetic_covariance.npz` holds.

    Attributes
    ----------
    traits : list of str
        Names.
    covariance
        Theirs.
    transformed
        Options of the association that transformed the traits, such as --rank-normal; "" if none
        did. Combinations of transformed traits are not those of the traits themselves.
    """

    traits: list[str]
    covariance: GeneticCovariance
    transformed: str


def write_covariance(
    path: Path, traits: Sequence[str], covariance: GeneticCovariance, transformed: str
) -> None:
    """Write the covariances of traits.

    Parameters
    ----------
    path
        A .npz file of `format_version`, `traits`, `transformed`, `genetic`, `phenotypic`,
        `leave_one_out`.
    traits
        [n_traits] Names.
    covariance
        Theirs.
    transformed
        Options of the association that transformed the traits, or "".
    """
    with whole_file(path) as temporary, open(temporary, "wb") as file:
        np.savez(
            file,
            format_version=np.array(FORMAT_VERSION),
            traits=np.array(traits, dtype=str),
            transformed=np.array(transformed),
            genetic=covariance.genetic,
            phenotypic=covariance.phenotypic,
            leave_one_out=covariance.leave_one_out,
        )


def read_covariance(path: Path) -> CovarianceFile:
    """Read names and covariances of traits.

    Raises
    ------
    InputError
        Not such a file, or of another version of the format.
    """
    try:
        with np.load(path) as arrays:
            fields = {name: arrays[name] for name in ("genetic", "phenotypic", "leave_one_out")}
            covariance, traits = GeneticCovariance(**fields), arrays["traits"].tolist()
            version = int(arrays["format_version"]) if "format_version" in arrays else 0
            transformed = str(arrays["transformed"]) if "transformed" in arrays else ""
    except (OSError, KeyError, ValueError, BadZipFile) as error:
        raise InputError(
            f"{path}: no genetic covariances; make them with axoloci-genetics heritability or ldsc"
        ) from error
    if version != FORMAT_VERSION:
        raise InputError(
            f"{path}: format_version {version} instead of {FORMAT_VERSION}; make it again by "
            "axoloci-genetics heritability or ldsc of this version of axoloci"
        )
    return CovarianceFile(traits, covariance, transformed)

"""`genetic_covariance.npz`: genetic covariances of traits as the commands hand them on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from axoloci.errors import InputError
from axoloci.io.files import whole_file
from axoloci.tasks.genetics.heritability import GeneticCovariance


def write_covariance(path: Path, traits: Sequence[str], covariance: GeneticCovariance) -> None:
    """Write the covariances of traits.

    Parameters
    ----------
    path
        A .npz file of `traits`, `genetic`, `phenotypic`, `leave_one_out`.
    traits
        [n_traits] Names.
    covariance
        Theirs.
    """
    with whole_file(path) as temporary, open(temporary, "wb") as file:
        np.savez(
            file,
            traits=np.array(traits, dtype=str),
            genetic=covariance.genetic,
            phenotypic=covariance.phenotypic,
            leave_one_out=covariance.leave_one_out,
        )


def read_covariance(path: Path) -> tuple[list[str], GeneticCovariance]:
    """Read names and covariances of traits.

    Raises
    ------
    InputError
        Not such a file.
    """
    try:
        with np.load(path) as arrays:
            fields = {name: arrays[name] for name in ("genetic", "phenotypic", "leave_one_out")}
            return arrays["traits"].tolist(), GeneticCovariance(**fields)
    except (OSError, KeyError, ValueError, BadZipFile) as error:
        raise InputError(
            f"{path}: no genetic covariances; make them with axoloci-genetics heritability or ldsc"
        ) from error

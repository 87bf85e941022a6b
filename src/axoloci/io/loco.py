"""The store of a whole-genome ridge: what is left of each trait for the tests of a chromosome.

`chr<CHROMOSOME>.parquet`
    `sample_id`, then a column a trait, float32, NaN for who lacks it: what all other chromosomes
    leave, such that its regression on a variant has the effect of the mixed model.
    Of X, Y and mitochondria it is what all autosomes leave.
`all.parquet`
    What all autosomes leave, for chromosomes that were not among the genotypes of the fit.
`chr<CHROMOSOME>.correlation.npy`, `all.correlation.npy`
    Correlation of the traits' statistics for a variant of that chromosome without an effect,
    float64; rows and columns in the order of the traits.
`loco.json`
    Written last: traits, figures of the fit, and of each file the SHA-256 and `se_scale`, one
    number a trait: the standard error of that regression times this is that of the mixed model.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from axoloci.errors import InputError
from axoloci.io.files import leftovers, sha256, whole_file, write_json
from axoloci.io.genotype_files import canonical_chromosome

FORMAT = "axoloci-loco"
FORMAT_VERSION = 1
_TRAITS_AT_ONCE = 64  # that are read to see who has them
ALL = "all"


def write_loco(
    path: str | os.PathLike[str],
    sample_id: Sequence[str],
    traits: Sequence[str],
    residuals: Mapping[str, NDArray[np.float32]],
    se_scale: Mapping[str, NDArray[np.float64]],
    trait_correlation: Mapping[str, NDArray[np.float64]],
    about: Mapping[str, Any],
) -> None:
    """Write a store.

    Parameters
    ----------
    path
        Its folder; files of the same names in it are replaced.
    sample_id : (n_samples,)
        People.
    traits : (n_traits,)
        Names.
    residuals
        By name of the chromosome that is tested, and by `ALL`: (n_samples, n_traits).
    se_scale
        By the same names: (n_traits,).
    trait_correlation
        By the same names: (n_traits, n_traits).
    about
        What goes into `loco.json` besides.
    """
    path = Path(path)
    (path / "loco.json").unlink(missing_ok=True)  # not before all else is there
    files = {}
    for chromosome, values in residuals.items():
        stem = chromosome if chromosome == ALL else f"chr{chromosome}"
        name, correlation = f"{stem}.parquet", f"{stem}.correlation.npy"
        table = pd.DataFrame(values, columns=list(traits))
        table.insert(0, "sample_id", list(sample_id))
        with whole_file(path / name) as temporary:
            # residuals repeat no value, so a dictionary of them would only take room
            table.to_parquet(temporary, index=False, compression="zstd", use_dictionary=False)
        with whole_file(path / correlation) as temporary:
            np.save(temporary, trait_correlation[chromosome])
        files[chromosome] = {
            **_described(path / name),
            "se_scale": se_scale[chromosome].tolist(),
            "correlation": _described(path / correlation),
        }
    for stale in leftovers(path):
        stale.unlink()
    content = {"format": FORMAT, "format_version": FORMAT_VERSION, "traits": list(traits)}
    write_json(path / "loco.json", {**content, **about, "files": files})


def _described(file: Path) -> dict[str, str]:
    return {"name": file.name, "sha256": sha256(file)}


class Loco:
    """A store of a whole-genome ridge.

    Attributes
    ----------
    path : pathlib.Path
        Its folder.
    info : dict
        `loco.json`.
    traits : list of str
        Names.
    """

    def __init__(self, path: Path, info: dict[str, Any]) -> None:
        self.path = path
        self.info = info
        self.traits: list[str] = info["traits"]
        self._as_written: set[str] = set()  # files: they are large, and read for group after group

    def fitted_besides(self, sample_id: Sequence[str], traits: Sequence[str]) -> list[str]:
        """Other people than those of `sample_id` whose traits were fitted.

        Parameters
        ----------
        sample_id
            Who is tested.
        traits
            What of; who lacks all of them does not count.
        """
        file = self._checked(self._entry(ALL))
        people = pd.read_parquet(file, columns=["sample_id"])["sample_id"]
        more = ~people.isin(set(sample_id)).to_numpy()
        found = np.zeros(len(people), dtype=bool)
        for start in range(0, len(traits) if more.any() else 0, _TRAITS_AT_ONCE):
            values = pd.read_parquet(file, columns=list(traits[start : start + _TRAITS_AT_ONCE]))
            found |= more & values.notna().any(axis=1).to_numpy()
            if (found == more).all():
                break
        return list(people[found])

    def check(self, chromosome: str, sample_id: Sequence[str], traits: Sequence[str]) -> None:
        """See that `residuals` has what is asked for, without keeping any of it.

        Parameters
        ----------
        chromosome, sample_id, traits
            As for `residuals`.

        Raises
        ------
        InputError
            A trait or a person is not in the store, or a file of it was changed.
        """
        known = set(self.traits)
        unknown = [name for name in traits if name not in known]
        if unknown:
            raise InputError(
                f"{self.path}: has nothing of the traits {', '.join(unknown[:3])}, of "
                f"{', '.join(self.traits[:3])}{', …' if len(self.traits) > 3 else ''} alone; fit "
                "all that are tested (axoloci-gwas ridge), or name fewer by --trait"
            )
        file = self._checked(self._entry(chromosome))
        there = set(pd.read_parquet(file, columns=["sample_id"])["sample_id"])
        absent = [person for person in sample_id if person not in there]
        if absent:
            raise InputError(
                f"{self.path}: lacks {len(absent)} of {len(sample_id)} people, such as "
                f"{', '.join(map(repr, absent[:3]))}; fit them too (axoloci-gwas ridge), or leave "
                "them out (--keep, --remove)"
            )

    def residuals(
        self, chromosome: str, sample_id: Sequence[str], traits: Sequence[str]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """What is left of traits for the tests of a chromosome.

        Parameters
        ----------
        chromosome
            Its name, by letters or number (X is 23); of one that was not there in the fit, what all
            chromosomes leave.
        sample_id, traits
            Whose, and of what.

        Returns
        -------
        (residuals, se_scale)
            float64, (n_samples, n_traits), NaN for who lacks the trait; (n_traits,).

        Raises
        ------
        InputError
            As for `check`.
        """
        self.check(chromosome, sample_id, traits)
        entry = self._entry(chromosome)
        table = pd.read_parquet(self.path / entry["name"], columns=["sample_id", *traits])
        scale = dict(zip(self.traits, entry["se_scale"], strict=True))
        return (
            table.set_index("sample_id").loc[list(sample_id)].to_numpy(np.float64),
            np.array([scale[name] for name in traits]),
        )

    def trait_correlation(self, chromosome: str, traits: Sequence[str]) -> NDArray[np.float64]:
        """Correlation of the statistics of traits for a variant without an effect.

        Parameters
        ----------
        chromosome
            As for `residuals`.
        traits
            Of the store.

        Returns
        -------
        float64, (n_traits, n_traits)

        Raises
        ------
        InputError
            Its file was changed.
        """
        correlation = np.load(self._checked(self._entry(chromosome)["correlation"]))
        row_of = {name: row for row, name in enumerate(self.traits)}
        rows = [row_of[name] for name in traits]
        return np.asarray(correlation[np.ix_(rows, rows)])

    def _entry(self, chromosome: str) -> dict[str, Any]:
        files: dict[str, dict[str, Any]] = self.info["files"]
        # the genotypes of the fit and those that are tested may name X in two ways
        by_name = {canonical_chromosome(name): entry for name, entry in files.items()}
        return files.get(chromosome) or by_name.get(canonical_chromosome(chromosome), files[ALL])

    def _checked(self, entry: Mapping[str, Any]) -> Path:
        """A file of the store that is as `loco.json` says."""
        file: Path = self.path / entry["name"]
        if file.name not in self._as_written:
            if not file.is_file() or sha256(file) != entry["sha256"]:
                raise InputError(f"{file}: missing or changed since it was written; make it again")
            self._as_written.add(file.name)
        return file


def read_loco(path: str | os.PathLike[str]) -> Loco:
    """Open a store.

    Raises
    ------
    InputError
        Not a finished store, or one of a newer format.
    """
    path = Path(path)
    try:
        info = json.loads((path / "loco.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path}: not a finished store of a whole-genome ridge (no loco.json that can be "
            "read); make it with axoloci-gwas ridge"
        ) from error
    if info.get("format") != FORMAT or info["format_version"] > FORMAT_VERSION:
        raise InputError(f"{path}: of another format; make it again with this axoloci")
    return Loco(path, info)

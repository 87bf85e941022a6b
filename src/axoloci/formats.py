"""File formats as Pydra sees them: what an input is, and what makes it change.

Genotypes and stores are too large to be hashed by content at every run; the size and time of
their files, or the manifest inside a store, stand for them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fileformats.generic import Directory, File
from fileformats.medimage import Nifti1, NiftiGz

Nifti = Nifti1 | NiftiGz


class PlinkBed(File):  # type: ignore[misc]
    """A PLINK 1 `.bed` file with its `.bim` and `.fam`: the set is one input.

    Hashed by path, size and time of modification of the three.
    """

    ext = ".bed"

    def __bytes_repr__(self, cache: Any) -> Iterator[bytes]:
        yield f"{type(self).__name__}:".encode()
        for extension in (".bed", ".bim", ".fam"):
            path = self.fspath.with_suffix(extension)
            state = path.stat()
            yield f"{path}:{state.st_size}:{state.st_mtime_ns};".encode()


class _Store(Directory):  # type: ignore[misc]
    """A folder whose manifest, written last, holds the checksums of all that is in it."""

    manifest: str

    def __bytes_repr__(self, cache: Any) -> Iterator[bytes]:
        yield f"{type(self).__name__}:".encode()
        yield (self.fspath / self.manifest).read_bytes()


class CohortStore(_Store):
    """The cohort's maps: a Zarr group, see `axoloci.io.cohort`."""

    manifest = "zarr.json"


class SumstatsStore(_Store):
    """Summary statistics of all traits, see `axoloci.io.sumstats`."""

    manifest = "sumstats.json"

"""File formats as Pydra sees them: what an input is, and what makes it change.

Genotypes and stores are too large to be hashed by content at every run; the size and time of
their files, or the manifest inside a store, stand for them.
"""

from collections.abc import Iterator
from pathlib import Path

from fileformats.core import FileSet
from fileformats.generic import Directory, File
from fileformats.medimage import Nifti1, NiftiGz
from pydra.utils.hash import Cache, bytes_repr_fileset, register_serializer

from axoloci.io.genotype_files import CHROMOSOME, genotype_set
from axoloci.job import file_state

Nifti = Nifti1 | NiftiGz


class GenotypeData(File):
    """Genotypes with their tables of variants and people: the set is one input.

    So it is where it has one file a chromosome and its path is their pattern.
    """

    ext = ".bed"
    alternate_exts = (".pgen", ".bgen")
    _valid_class = True  # fileformats asks that formats live in its own namespace

    def _validate_fspaths(self) -> None:
        if not all(CHROMOSOME in str(path) for path in self.fspaths):  # a pattern is no file
            super()._validate_fspaths()

    @property
    def files_read(self) -> list[Path]:
        """All files of the set: each may be a link to another folder."""
        return genotype_set(self.fspath).files


class LdScoreFolder(Directory):
    """LD scores as they are published for the program LDSC; other files there do not count."""

    _valid_class = True

    @property
    def files_read(self) -> list[Path]:
        """All that may be read: each may be a link to another folder."""
        suffixes = ("*.l2.ldscore.gz", "*.l2.M_5_50")
        return sorted(file for suffix in suffixes for file in self.fspath.glob(suffix))


class CohortStore(Directory):
    """The cohort's maps: a Zarr group, see `axoloci.io.cohort`."""

    manifest = "zarr.json"
    _valid_class = True


class SumstatsStore(Directory):
    """Summary statistics of all traits, see `axoloci.io.sumstats`."""

    manifest = "sumstats.json"
    _valid_class = True


class LocoStore(Directory):
    """What a mixed model leaves of each trait, by chromosome, see `axoloci.io.loco`."""

    manifest = "loco.json"
    _valid_class = True


@register_serializer(FileSet)
def bytes_repr_files(files: FileSet, cache: Cache) -> Iterator[tuple[str, ...] | bytes]:
    """Pydra's own digest of the content, remembered by more than path and time of modification.

    A file that takes the place of another may have the other's time.
    """
    digested = bytes_repr_fileset(files, cache)
    next(digested)  # Pydra's key
    yield tuple(f"{path}:{file_state(path)}" for path in sorted(files.fspaths))
    yield from digested


@register_serializer(GenotypeData)
@register_serializer(LdScoreFolder)
def bytes_repr_set(files: GenotypeData | LdScoreFolder, cache: Cache) -> Iterator[bytes]:
    """Path, size and time of modification of all files of the set."""
    yield f"{type(files).__name__}:".encode()
    for path in files.files_read:
        state = path.stat()
        yield f"{path}:{state.st_size}:{state.st_mtime_ns};".encode()


@register_serializer(CohortStore)
@register_serializer(SumstatsStore)
@register_serializer(LocoStore)
def bytes_repr_store(
    store: CohortStore | SumstatsStore | LocoStore, cache: Cache
) -> Iterator[bytes]:
    """The manifest, which is written last and holds the checksums of all that is in the store."""
    yield f"{type(store).__name__}:".encode()
    yield (store.fspath / store.manifest).read_bytes()

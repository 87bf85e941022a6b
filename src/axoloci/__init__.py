"""axoloci: from raw diffusion MRI and genotypes to summary statistics."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("axoloci")
except PackageNotFoundError:  # imported from a source tree that is not installed
    __version__ = "0+unknown"

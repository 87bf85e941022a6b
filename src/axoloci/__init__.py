"""axoloci: from raw diffusion MRI and genotypes to summary statistics."""

__version__ = "0.1.0"

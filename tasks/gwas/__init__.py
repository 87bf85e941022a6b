"""Association of all traits with all variants in one reading of the genotypes."""

"""From associations to genetics: the joint test over all traits, and the loci it finds."""

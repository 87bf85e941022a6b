"""The commands of `axoloci-gwas` that have a module of their own."""

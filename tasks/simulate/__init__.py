"""Simulate a cohort with a known truth: raw DWI, genotypes, covariates and the planted loci."""

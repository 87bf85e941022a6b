"""Pydra workflows: one participant, the cohort, and the whole study."""

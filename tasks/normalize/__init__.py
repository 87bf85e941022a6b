"""Fractional anisotropy in a common space, person by person, and the cohort store of all."""

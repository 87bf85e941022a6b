"""Measurements behind the figures that the project claims."""

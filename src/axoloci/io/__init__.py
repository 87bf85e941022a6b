"""Readers and writers that several steps share."""

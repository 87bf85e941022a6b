"""The steps of axoloci: one folder each, the same files in each."""

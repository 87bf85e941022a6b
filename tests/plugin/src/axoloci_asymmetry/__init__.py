"""Hemispheric asymmetry of FA: a step of axoloci from outside."""

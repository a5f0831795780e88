"""Generators of parameters that were learned from checkpoints."""

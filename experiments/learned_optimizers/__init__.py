"""Experiments on learned optimizers."""

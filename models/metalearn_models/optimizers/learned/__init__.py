"""Learned optimizers, one file per algorithm."""

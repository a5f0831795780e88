"""Experiments on the shipped in-context classifier."""

"""Experiments on learned losses."""

"""Classifiers on real tables of the KEEL repository."""

"""Formulas: trees, their notation and their values."""

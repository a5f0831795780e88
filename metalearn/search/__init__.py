"""Searches over populations of candidates: halving, random search, shared weights, and how far to trust early ranks."""

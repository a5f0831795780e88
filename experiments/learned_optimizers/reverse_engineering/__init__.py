"""Reverse engineering of a learned optimizer (Maheswaranathan et al. 2021)."""

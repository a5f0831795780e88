"""Sparse networks: pruning, sparse training and truly sparse layers."""

"""Optimizers that precondition by curvature, and the algebra that they share."""

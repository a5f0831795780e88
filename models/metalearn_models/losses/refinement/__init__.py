"""Refinement of the coefficients of a loss by meta-gradients."""

"""Gradient descent on neurons against its rivals."""

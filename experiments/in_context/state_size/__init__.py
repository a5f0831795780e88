"""Accuracy against size of the state and against number of parameters."""

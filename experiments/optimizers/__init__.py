"""Optimizers made by hand: what they reach, what they cost, and their constants learned."""

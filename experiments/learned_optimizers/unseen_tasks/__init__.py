"""Learned optimizers beside tuned ones on tasks that no meta-training here has seen."""

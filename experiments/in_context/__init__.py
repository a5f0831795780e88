"""Experiments on in-context learners: when they memorise, when they learn to learn."""

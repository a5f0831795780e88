"""Learners: in-context learners, learners that train a network online, and reference learners."""

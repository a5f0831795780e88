"""Meta-training of in-context learners."""

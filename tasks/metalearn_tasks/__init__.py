"""What learners and optimizers learn from.

`datasets` loads classification data sets, `families` are distributions of tasks for learners, `objectives` are what
optimizers train on, and `systems` are inner loops with known answers, for gradient estimators.
"""

__all__ = ["datasets", "families", "objectives", "systems"]

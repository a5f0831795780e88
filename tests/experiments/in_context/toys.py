"""The toy of the tests that run an experiment from end to end: one learner and one shape of tasks for all of them."""

import dataclasses

from experiments.in_context.settings import small_config


def tiny_config(seed, steps, width=8, num_tasks=None):
    """`small_config` with a Transformer of one layer, 12 examples per sequence and evaluations of 2 x 2 sequences."""
    base = small_config(seed, steps, width, num_tasks)
    return dataclasses.replace(
        base, family=dataclasses.replace(base.family, length=12), batch=4, eval_tasks=2, eval_sequences=2,
        outer_optimizer=dataclasses.replace(base.outer_optimizer, warmup=0),
        learner=dataclasses.replace(base.learner, layers=1, heads=2),
    )  # fmt: skip

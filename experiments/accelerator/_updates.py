"""The update of learned optimizers beside Adam's, and the inner steps per second of PES."""

from __future__ import annotations

import time
from typing import Any

import jax
import optax

from experiments.learned_optimizers.cost import measure_costs
from metalearn.gradients import pes
from metalearn.outer import outer_loop
from metalearn_models.optimizers import make, mlp_optimizer, small_fc
from metalearn_tasks.datasets import load
from metalearn_tasks.objectives import mlp_classification, training_loop

__all__ = ["time_pes", "time_updates"]

RULES = ("small-fc", "star")


def time_updates(widths: tuple[int, ...], turns: int) -> list[dict[str, Any]]:
    """Time one update of each rule.

    Args:
        widths: of the two hidden layers, between 784 inputs and 10 outputs; one network per width.
        turns: see `measure_costs`.

    Returns:
        A row per network and optimizer: `parameters`, `optimizer`, `milliseconds`, `ratio` to `optax.adam`.
    """
    rows = []
    for width in widths:
        size, costs = measure_costs({name: make(name) for name in RULES}, width, turns)
        rows += [
            {"parameters": size, "optimizer": name, "milliseconds": cost.milliseconds, "ratio": cost.ratio}
            for name, cost in costs.items()
        ]
    return rows


def time_pes(pairs: tuple[int, ...], window: int, calls: int) -> list[dict[str, Any]]:
    """Time PES on two learned optimizers that train a perceptron 64-32-10 on digits, 64 examples per step.

    Args:
        pairs: antithetic pairs of an outer step; one row per number.
        window: inner steps per outer step.
        calls: outer steps that are timed; the fastest counts.

    Returns:
        A row per optimizer and number of pairs: `optimizer`, `pairs`, `rate`, inner steps per second over both signs of
        all pairs.
    """
    objective, data = mlp_classification(64, 32, 10, batch=64), load("digits").train
    rows = []
    for name, optimizer in (("MLP, 1,762 meta-parameters", mlp_optimizer()), ("small-fc, 197", small_fc())):
        for count in pairs:
            estimator = pes(training_loop(objective, optimizer, 1000), 0.01, count, window, stagger=True)
            init, step = outer_loop(estimator, optax.adam(1e-4))
            state = init(optimizer.init(jax.random.key(0)), data, jax.random.key(1))
            state, _ = jax.block_until_ready(step(state, data))
            best = float("inf")
            for _ in range(calls):
                began = time.perf_counter()
                state, _ = jax.block_until_ready(step(state, data))
                best = min(best, time.perf_counter() - began)
            rows.append({"optimizer": name, "pairs": count, "rate": 2 * count * window / best})
    return rows

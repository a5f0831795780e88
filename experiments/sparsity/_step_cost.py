"""What a sparse step costs over a dense one: LeNet-300-100, SGD with momentum, one change of connections per round.

    python -m experiments.sparsity._step_cost

Prints CPU time per step over that of the inner optimizer alone: the shortest and the median of several rounds of 100
steps that take turns. CPU time depends little on what else the machine does. "with due" is a loop that says when
connections change, by `update(..., due=...)`.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

from metalearn_models.networks import mlp
from metalearn_models.sparsity import apply_masks, rigl, set_rule, sparse, static

__all__ = ["measure"]


def measure(steps: int = 100, repeats: int = 10, batch: int = 128) -> dict[str, tuple[float, float]]:
    """CPU time per step of each training over that of the dense one: the shortest and the median of the rounds.

    Args:
        steps: steps per round, and from one change of connections to the next.
        repeats: rounds of each training.
        batch: examples per step.
    """
    inner = optax.chain(optax.add_decayed_weights(1e-4), optax.sgd(0.1, momentum=0.9))
    kinds = {"RigL": rigl(10**6, every=steps, start=0), "SET": set_rule(10**6, every=steps, start=0)}
    rounds = {"dense": _round(inner, steps, batch), "static": _round(sparse(inner, static()), steps, batch)}
    for name, rule in kinds.items():
        rounds[name] = _round(sparse(inner, rule), steps, batch)
        rounds[f"{name}, with due"] = _round(sparse(inner, rule), steps, batch, with_due=True)
    seconds: dict[str, list[float]] = {name: [] for name in rounds}
    for _ in range(repeats):
        for name, play in rounds.items():
            began = time.process_time()
            play()
            seconds[name].append(time.process_time() - began)
    dense = min(seconds["dense"]), statistics.median(seconds["dense"])
    return {name: (min(s) / dense[0], statistics.median(s) / dense[1]) for name, s in seconds.items()}


def _round(tx: Any, steps: int, batch: int, with_due: bool = False) -> Callable[[], Any]:
    """A round of training from its start, compiled."""
    network = mlp(784, (300, 100), 10)
    x, y = jax.random.normal(jax.random.key(1), (batch, 784)), jnp.arange(batch) % 10

    def loss(params: Any) -> Any:
        logits = jax.vmap(network.apply, (None, 0))(params, x)
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    def step(carry: Any, _: Any, **due: bool) -> tuple[Any, None]:
        params, state = carry
        with jax.numpy_dtype_promotion("standard"):  # optax relies on it
            updates, state = tx.update(jax.grad(loss)(params), state, params, **due)
        return (optax.apply_updates(params, updates), state), None

    @jax.jit
    def play(params: Any, state: Any) -> Any:
        if not with_due:
            return jax.lax.scan(step, (params, state), length=steps)[0]
        changed, _ = step((params, state), None, due=True)
        return jax.lax.scan(partial(step, due=False), changed, length=steps - 1)[0]

    params = network.init(jax.random.key(0))
    state = tx.init(params)
    if hasattr(state, "masks"):
        params = apply_masks(params, state.masks)
    jax.block_until_ready(play(params, state))
    return lambda: jax.block_until_ready(play(params, state))


if __name__ == "__main__":
    for name, (least, median) in measure().items():
        print(f"{name:<14} {least:.3f} (median {median:.3f})")

"""EvoMAL's evaluation of one candidate loss in JAX, timed part by part.

EvoMAL (Raymond, Chen, Xue, Zhang 2023, arXiv 2209.08907) trains the edge weights of a new tree by gradients through one
step of the network, tries the tree on the predictions of 100 examples, and trains a network with it.
"""

from __future__ import annotations

import statistics
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from metalearn_models.losses.formulas import Expr, evaluate, number_of_coefficients
from metalearn_models.losses.search.population import LossTask

__all__ = ["Work", "one_at_a_time"]


class Work(NamedTuple):
    """How much is done per candidate.

    Attributes:
        steps: training steps.
        refinements: gradients of the edge weights.
        filter_steps: steps on the predictions of 100 examples.
        batch: examples per step.
        repeats: how often each part is timed.
        seed: of coefficients, networks and batches.
    """

    steps: int
    refinements: int
    filter_steps: int
    batch: int
    repeats: int
    seed: int


def one_at_a_time(task: LossTask, expr: Expr, work: Work) -> tuple[dict[str, float], float]:
    """EvoMAL's evaluation of one candidate: refine, filter, train; each part compiled for this tree alone.

    Returns:
        Seconds of each part, with those of compiling under "compile", and the validation error.
    """
    xs, ys = jnp.asarray(task.train[0]), jax.nn.one_hot(task.train[1], task.outputs)
    valid_xs, valid_ys = jnp.asarray(task.valid[0]), jnp.asarray(task.valid[1])
    key = jax.random.key(work.seed)
    rule = optax.chain(optax.add_decayed_weights(5e-4), optax.sgd(0.01, momentum=0.9, nesterov=True))
    adam, of_predictions = optax.adam(1e-3), optax.adam(0.01)

    def loss(coefficients: Array, logits: Array, y: Array) -> Array:
        return evaluate(expr, coefficients, y, jax.nn.softmax(logits)).sum(-1).mean()

    def batch(key: Array) -> tuple[Array, Array]:
        chosen = jax.random.randint(key, (work.batch,), 0, len(xs))
        return xs[chosen], ys[chosen]

    def base_step(coefficients: Array, params: Any, state: Any, key: Array) -> tuple[Any, Any]:
        x, y = batch(key)
        gradient = jax.grad(lambda p: loss(coefficients, task.apply(p, x), y))(params)
        updates, state = rule.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    def refine(coefficients: Array, key: Array) -> Array:
        def step(carry: Any, key: Array) -> tuple[Any, None]:
            coefficients, state = carry
            keys = jax.random.split(key, 3)
            x, y = batch(keys[2])

            def outer(coefficients: Array) -> Array:
                params = task.init(keys[0])
                params, _ = base_step(coefficients, params, rule.init(params), keys[1])
                return optax.softmax_cross_entropy(task.apply(params, x), y).mean()

            updates, state = adam.update(jax.grad(outer)(coefficients), state)
            return (optax.apply_updates(coefficients, updates), state), None

        keys = jax.random.split(key, work.refinements)
        return jax.lax.scan(step, (coefficients, adam.init(coefficients)), keys)[0][0]

    def filtered(coefficients: Array, key: Array) -> Array:
        logits = task.apply(task.init(key), xs[:100])

        def step(carry: Any, _: None) -> tuple[Any, None]:
            logits, state = carry
            updates, state = of_predictions.update(jax.grad(loss, 1)(coefficients, logits, ys[:100]), state)
            return (optax.apply_updates(logits, updates), state), None

        start = (logits, of_predictions.init(logits))
        after = jax.lax.scan(step, start, None, length=work.filter_steps)[0][0]
        right = ys[:100].argmax(-1)
        return (logits.argmax(-1) != right).mean() - (after.argmax(-1) != right).mean()

    def fitness(coefficients: Array, key: Array) -> Array:
        params = task.init(key)

        def step(carry: Any, key: Array) -> tuple[Any, None]:
            params, state = carry
            return base_step(coefficients, params, state, key), None

        keys = jax.random.split(key, work.steps)
        params = jax.lax.scan(step, (params, rule.init(params)), keys)[0][0]
        return (task.apply(params, valid_xs).argmax(-1) != valid_ys).mean()

    coefficients = 1 + 1e-3 * jax.random.normal(key, (number_of_coefficients(expr),))
    seconds, out = {"compile": 0.0}, {}
    for name, part in (("refine", refine), ("filter", filtered), ("train", fitness)):
        began = time.perf_counter()
        with jax.numpy_dtype_promotion("standard"):  # optax relies on it
            compiled = jax.jit(part).lower(coefficients, key).compile()
        seconds["compile"] += time.perf_counter() - began
        seconds[f"compile {name}"] = time.perf_counter() - began
        walls = []
        for _ in range(work.repeats):
            began = time.perf_counter()
            out[name] = jax.block_until_ready(compiled(coefficients, key))
            walls.append(time.perf_counter() - began)
        seconds[name] = statistics.median(walls)
        coefficients = out["refine"]
    return seconds, float(out["train"])

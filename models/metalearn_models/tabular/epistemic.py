"""How unsure a classifier is of its own probabilities: the variance read from the updates along each view's context.

Fortini, Ng, Petrone, Rousseau and Wei 2026 (arXiv 2602.04596); the formula is in `metalearn.epistemic_variance`. A view
reads its rows one after the other, and every query is predicted after each of them. The orders of rows differ between
views, so the mean over views is one over orders.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from metalearn.learner import Signature
from metalearn_models.learners.library import learner_for
from metalearn_models.tabular._programs import programs
from metalearn_models.tabular.views import inputs_of

__all__ = ["variance_of_views"]

CHUNK = 32
"""The most rows of one call of the compiled function."""


def variance_of_views(
    learner: tuple[Signature, Any, Any],
    groups: Sequence[Any],
    labels: Int[np.ndarray, "M K"],
    z: Float[np.ndarray, "n k"],
) -> Float[np.ndarray, "n K"]:
    """The mean over views of the variances.

    Args:
        learner: signature, configuration and meta-parameters.
        groups: of views, with what each has read.
        labels: the output of each class, per view.
        z: reduced features of the queries.

    Raises:
        ValueError: there are more classes than outputs, so that classes share one.
        RuntimeError: this process is a fork of one in which a reader had run.
    """
    signature, config, theta = learner
    if labels.shape[1] > signature.outputs:
        raise ValueError(
            f"there are {labels.shape[1]} classes and the learner has {signature.outputs} outputs, which they share: a "
            "variance per class needs at most as many classes as outputs"
        )
    programs(signature, config)  # refuses a fork
    program = _compile(signature, config)
    found = []
    for group in groups:
        parts = []
        for i in range(0, len(z), CHUNK):
            rows = z[i : i + CHUNK]
            inputs = np.zeros((CHUNK, len(group.xs), signature.inputs), np.float32)
            inputs[: len(rows)] = inputs_of(group.projection, rows)
            parts.append(np.asarray(program(theta, group.xs, group.ys, inputs, group.used))[: len(rows)])
        found.append(np.concatenate(parts))
    by_view = np.concatenate(found, axis=1)[:, : len(labels)]  # the last group is filled up
    return np.take_along_axis(by_view, labels[None], axis=2).mean(1)


@functools.lru_cache(maxsize=8)
def _compile(signature: Signature, config: Any) -> Callable[..., Array]:
    learner = learner_for(signature, config)

    @jax.jit
    def variance(
        theta: Any,
        xs: Float[Array, "G n D"],
        ys: Int[Array, "G n"],
        queries: Float[Array, "N G D"],
        used: Bool[Array, "G C"],
    ) -> Float[Array, "N G C"]:
        def of_view(xs: Array, ys: Array, queries: Array, used: Array, key: Array) -> Array:
            def ask(state: Any) -> Array:
                logits = jax.vmap(lambda x: learner.predict(theta, state, x))(queries)
                return jax.nn.softmax(jnp.where(used[None], logits, -jnp.inf))

            def body(carry: tuple[Any, Array, Array], example: tuple[Array, Array, Array]) -> tuple[Any, None]:
                (state, before, total), (k, x, y) = carry, example
                state = learner.observe(theta, state, x, y)
                after = ask(state)
                return (state, after, total + jnp.square(k * (after - before))), None

            start = learner.start(theta, key)
            first = ask(start)
            k = jnp.arange(1, len(ys) + 1, dtype=jnp.float32)
            (_, _, total), _ = jax.lax.scan(body, (start, first, jnp.zeros_like(first)), (k, xs, ys))
            return total / len(ys) ** 2

        keys = jax.random.split(jax.random.key(0), len(ys))
        return jax.vmap(of_view, (0, 0, 1, 0, 0), 1)(xs, ys, queries, used, keys)

    return variance

"""The Transformer for tables as pure functions of its weights."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from metalearn_models.learners._dense import make_functional
from metalearn_models.tabular.transformer.config import TableTransformerConfig
from metalearn_models.tabular.transformer.network import Context, Memory, TableTransformer

__all__ = ["TableNetwork", "network"]


class TableNetwork(NamedTuple):
    """A learner of tables: four pure functions over batches of tables.

    Attributes:
        init: `(key) -> theta`.
        read: `(theta, context, chunk) -> memory`, what is kept of training rows, of which `chunk` are read at once.
        answer: `(theta, memory, xs[B, N, F]) -> log_probs[B, N, C]` of test rows, each by itself.
        run: `(theta, context, xs[B, N, F]) -> log_probs[B, N, C]`, both at once, for meta-training.
    """

    init: Callable[..., Any]
    read: Callable[..., Memory]
    answer: Callable[..., Array]
    run: Callable[..., Array]


@functools.lru_cache(maxsize=8)
def network(config: TableTransformerConfig) -> TableNetwork:
    """The learner of a configuration: one object for equal ones, so that `jax.jit` recognises it."""
    init, bind = make_functional(lambda rngs: TableTransformer(config, rngs))

    def read(theta: Any, context: Context, chunk: int) -> Memory:
        return bind(theta).read(jax.tree.map(jnp.asarray, context), chunk)

    def answer(theta: Any, memory: Memory, xs: Any) -> Float[Array, "B N C"]:
        return bind(theta).answer(memory, jnp.asarray(xs))

    def run(theta: Any, context: Context, xs: Any) -> Float[Array, "B N C"]:
        return bind(theta).run(jax.tree.map(jnp.asarray, context), jnp.asarray(xs))

    return TableNetwork(init, read, answer, run)

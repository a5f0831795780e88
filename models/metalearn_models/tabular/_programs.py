"""The compiled functions of a learner that `InContextClassifier` runs; one set of shapes, so each compiles once."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from metalearn.learner import Signature, predictions
from metalearn_models.learners.library import learner_for

__all__ = ["Programs", "programs", "refuse_fork"]


class Programs(NamedTuple):
    """The compiled functions of a learner.

    Attributes:
        read: `(theta, xs[G, T, D], ys[G, T], count) -> states`, the states after the first `count` examples.
        answer: `(theta, states, xs[N, G, D], used[G, C], count) -> log_probs[N, G, C]` of the first `count` queries.
        ask: `(theta, xs[N, V, T, D], ys[N, V, T], used[V, C], count) -> log_probs[N, V, C]` of the last example of each
            sequence, given those before it, for the first `count` queries.
    """

    read: Callable[..., Any]
    answer: Callable[..., Array]
    ask: Callable[..., Array]


def programs(signature: Signature, config: Any) -> Programs:
    """The compiled functions of the learner with this signature and configuration.

    Raises:
        RuntimeError: this process is a fork of one that had called this function.
    """
    refuse_fork()
    return _compile(signature, config)


def refuse_fork() -> None:
    """Refuse to go on in a fork of a process that had called this function.

    Raises:
        RuntimeError: this process is such a fork.
    """
    first = _first_process()
    if first != os.getpid():
        # The threads of the backend are not in the fork, and whoever waits for them waits forever.
        raise RuntimeError(
            f"process {os.getpid()} was forked from process {first} after InContextClassifier had run there, and JAX "
            "cannot be used in such a fork: start workers with multiprocessing.get_context('spawn') or joblib's loky, "
            "or use threads"
        )


@functools.cache
def _first_process() -> int:
    """The process that called this first. A fork inherits the answer, a process of its own does not."""
    return os.getpid()


@functools.lru_cache(maxsize=8)
def _compile(signature: Signature, config: Any) -> Programs:
    learner = learner_for(signature, config)

    @jax.jit
    def read(theta: Any, xs: Float[Array, "G T D"], ys: Int[Array, "G T"], count: Array) -> Any:
        def one(xs: Array, ys: Array, key: Array) -> Any:
            def body(i: Array, state: Any) -> Any:
                return learner.observe(theta, state, xs[i], ys[i])

            return jax.lax.fori_loop(0, count, body, learner.start(theta, key))

        return jax.vmap(one)(xs, ys, jax.random.split(jax.random.key(0), xs.shape[0]))

    def for_each(row: Callable[[Array], Array], xs: Array, used: Array, count: Array) -> Array:
        # Row by row: the same instructions whatever the other rows, so that a prediction cannot depend on them.
        def body(i: Array, out: Array) -> Array:
            return out.at[i].set(jax.nn.log_softmax(jnp.where(used, row(i), -jnp.inf)))

        return jax.lax.fori_loop(0, count, body, jnp.zeros((*xs.shape[:2], signature.outputs), jnp.float32))

    @jax.jit
    def answer(
        theta: Any, states: Any, xs: Float[Array, "N G D"], used: Bool[Array, "G C"], count: Array
    ) -> Float[Array, "N G C"]:
        def row(i: Array) -> Array:
            return jax.vmap(lambda state, x: learner.predict(theta, state, x))(states, xs[i])

        return for_each(row, xs, used, count)

    @jax.jit
    def ask(
        theta: Any, xs: Float[Array, "N V T D"], ys: Int[Array, "N V T"], used: Bool[Array, "V C"], count: Array
    ) -> Float[Array, "N V C"]:
        def row(i: Array) -> Array:
            return predictions(learner, theta, xs[i], ys[i], jax.random.key(0))[:, -1]

        return for_each(row, xs, used, count)

    return Programs(read, answer, ask)

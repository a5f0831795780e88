"""A learner that reads examples, scored on the testbed by the chain rule."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from experiments.epistemic._problems import Polyads, Problem
from metalearn.learner import Learner

ORDERS = 4
"""Random orders of the queries, for the spread of the joint prediction over orders."""


class ChainScores(NamedTuple):
    """Divergences of one problem per tau, the infinite ones, and the standard deviation over orders."""

    kl: Float[Array, "taus"]
    infinite: Int[Array, "taus"]
    spread: Float[Array, "taus"]


def score_by_chain_rule(learner: Learner, theta: Any, made: Problem, polyads: int, draws: int) -> ChainScores:
    """Read the examples of every problem, then predict and observe its queries one after the other.

    The context is read once per problem; every polyad continues from the state after it.

    Args:
        learner: a learner of the testbed's classes whose context holds the examples and the queries.
        theta: its meta-parameters.
        made: problems with two leading axes.
        polyads: pairs of places that are scored per problem, the first ones.
        draws: draws of the labels that are scored.
    """
    longest = made.xs.shape[-2] + max(queries.places.shape[-1] for queries in made.polyads)
    if longest > learner.signature.length:
        raise ValueError(
            f"examples and queries are {longest}, longer than the learner's context of {learner.signature.length}: "
            "meta-train with a larger --family.length, or take smaller --ratios"
        )

    def joint(state: Any, xs: Float[Array, "tau D"], ys: Int[Array, "tau"]) -> Float[Array, ""]:
        def body(state: Any, query: tuple[Array, Array]) -> tuple[Any, Array]:
            x, y = query
            found = jax.nn.log_softmax(learner.predict(theta, state, x).astype(jnp.float32))[y]
            return learner.observe(theta, state, x, y), found

        return jax.lax.scan(body, state, (xs, ys))[1].sum()

    def of_tau(state: Any, queries: Polyads) -> tuple[Array, Array, Array]:
        tau = queries.places.shape[-1]
        keys = jax.random.split(jax.random.key(3), ORDERS)
        orders = jnp.stack([jnp.arange(tau), *[jax.random.permutation(key, tau) for key in keys[1:]]])

        def of_polyad(anchors: Array, places: Array, labels: Array) -> Float[Array, "L O"]:
            xs = anchors[places]
            return jax.vmap(lambda ys: jax.vmap(lambda order: joint(state, xs[order], ys[order]))(orders))(labels)

        parts = (queries.anchors[:polyads], queries.places[:polyads], queries.labels[:polyads, :draws])
        found = jax.lax.map(lambda part: of_polyad(*part), parts, batch_size=10)  # [P, L, O]
        gap, possible = queries.truth[:polyads, :draws] - found[..., 0], jnp.isfinite(found[..., 0])
        return jnp.mean(gap, where=possible), (~possible).sum(), jnp.mean(found.std(-1), where=possible)

    def of_problem(problem: Problem) -> ChainScores:
        def read(state: Any, example: tuple[Array, Array]) -> tuple[Any, None]:
            return learner.observe(theta, state, *example), None

        state, _ = jax.lax.scan(read, learner.start(theta, jax.random.key(4)), (problem.xs, problem.ys))
        return ChainScores(*map(jnp.stack, zip(*[of_tau(state, q) for q in problem.polyads], strict=True)))

    flat = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), made)
    found = jax.jit(lambda flat: jax.lax.map(of_problem, flat))(flat)
    shape = made.knowledge.examples.shape
    return jax.tree.map(lambda leaf: leaf.reshape(*shape, -1), found)

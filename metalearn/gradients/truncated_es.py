"""Truncated evolution strategies: each window by itself, as if its initial state did not depend on theta.

The evolution-strategies counterpart of truncated backpropagation, with the same bias: as sigma goes to 0 it becomes
truncated backpropagation with the same window. The form is that of the code of Vicol, Metz & Sohl-Dickstein 2021
(arXiv 2112.13835): all particles of a pair start a window from the same state, which then advances at the mean theta.
An update costs three unrolls of the window.
"""

from __future__ import annotations

from typing import Any, NamedTuple, SupportsIndex

import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray

from metalearn.gradients._pairs import (
    advance,
    advance_clock,
    draw_noise,
    initial_states,
    make_population,
    metrics_of,
    sigma_at,
    start_states,
)
from metalearn.gradients.es import Sigma
from metalearn.gradients.estimator import Estimator, means_over_kept, with_typed_keys
from metalearn.gradients.noise import Noise, dense
from metalearn.gradients.shaping import Shaping
from metalearn.gradients.windows import Clock, Horizon, initial_clock, replace_ended, restart_ended
from metalearn.inner import InnerLoop

__all__ = ["TruncatedEsState", "truncated_es"]


class TruncatedEsState(NamedTuple):
    """Trajectories at the mean theta, one per task and pair.

    Attributes:
        clock: where each pair stands.
        inner: states [n, K, ...].
    """

    clock: Clock
    inner: Any


def truncated_es(
    loop: InnerLoop,
    sigma: Sigma,
    pairs: int,
    window: int,
    horizon: SupportsIndex | Horizon | None = None,
    *,
    noise: Noise = dense,
    tasks: int = 1,
    stagger: bool = True,
    shaping: Shaping | None = None,
) -> Estimator:
    """Evolution strategies within a window; biased. Arguments, metrics and errors as in `nres`."""
    pop = make_population(loop, sigma, pairs, window, horizon, noise, tasks, stagger, shaping)

    def init(theta: Any, data: Any, key: PRNGKeyArray) -> TruncatedEsState:
        return TruncatedEsState(initial_clock(pop.pairs, key), initial_states(pop, theta, data, key, ()))

    def grad(
        theta: Any, state: TruncatedEsState, data: Any, key: PRNGKeyArray, outer_step: Array
    ) -> tuple[Any, TruncatedEsState, dict[str, Array]]:
        done, clock = restart_ended(pop.cut, state.clock, key, outer_step)
        sigmas = jnp.broadcast_to(sigma_at(pop, outer_step), clock.t.shape)
        eps = draw_noise(pop, theta, clock, clock.t)

        def new() -> Any:
            return jax.tree.map(lambda a: a[:, 0], start_states(pop, theta, eps, sigmas, clock, data, signs=(0.0,)))

        inner = replace_ended(done, new, state.inner)
        inner, diffs = advance(pop, theta, eps, sigmas, inner, clock, data, signs=(1.0, -1.0, 0.0), shared_start=True)
        gradient = pop.noise.mean(eps, diffs.delta / sigmas.astype(diffs.delta.dtype))
        middle = jax.tree.map(lambda a: a[:, 2], inner)
        return (
            gradient,
            TruncatedEsState(advance_clock(pop, clock, diffs.finite), middle),
            metrics_of(diffs),
        )

    return with_typed_keys(Estimator(init, grad, pop.pairs, means_over_kept))

"""Truncated evolution strategies: each window on its own, as if what came before it were given.

The evolution-strategies counterpart of truncated backpropagation, with its bias: as sigma goes to 0 it is truncated
backpropagation with the same window. The form is the one of the code of Vicol, Metz & Sohl-Dickstein 2021
(arXiv 2112.13835): all particles of a pair start a window from one state, which then moves on at the mean theta, so an
update costs three unrolls of the window.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray

from metalearn.gradients._pairs import (
    advance,
    after_window,
    begin,
    blank_states,
    draw,
    finish,
    level,
    population,
    report,
)
from metalearn.gradients.es import Shaping, Sigma, as_it_is
from metalearn.gradients.estimator import Estimator
from metalearn.gradients.noise import Noise, dense
from metalearn.gradients.windows import Clock, Horizon, begun, renewed, stopped
from metalearn.inner import InnerLoop

__all__ = ["TruncatedEsState", "truncated_es"]


class TruncatedEsState(NamedTuple):
    """Trajectories at the mean theta, one for each task of each pair.

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
    horizon: int | Horizon | None = None,
    *,
    noise: Noise = dense,
    tasks: int = 1,
    stagger: bool = True,
    shaping: Shaping = as_it_is,
) -> Estimator:
    """Evolution strategies within a window; biased. Arguments, metrics and errors as `nres`."""
    pop = population(loop, sigma, pairs, window, horizon, noise, tasks, stagger, shaping)

    def init(theta: Any, data: Any, key: PRNGKeyArray) -> TruncatedEsState:
        return TruncatedEsState(stopped(pop.pairs, key), blank_states(pop, theta, data, key, ()))

    def grad(
        theta: Any, state: TruncatedEsState, data: Any, key: PRNGKeyArray, outer_step: Array
    ) -> tuple[Any, TruncatedEsState, dict[str, Array]]:
        done, clock = renewed(pop.cut, state.clock, key, outer_step)
        sigmas = jnp.broadcast_to(level(pop, outer_step), clock.t.shape)
        eps = draw(pop, theta, clock, clock.t)

        def fresh() -> Any:
            return jax.tree.map(lambda a: a[:, 0], begin(pop, theta, eps, sigmas, clock, data, signs=(0.0,)))

        inner = begun(done, fresh, state.inner)
        inner, shown = advance(pop, theta, eps, sigmas, inner, clock, data, signs=(1.0, -1.0, 0.0), shared_start=True)
        gradient = pop.noise.mean(eps, shown.delta / sigmas.astype(shown.delta.dtype))
        middle = jax.tree.map(lambda a: a[:, 2], inner)
        return gradient, TruncatedEsState(after_window(pop, clock, shown.finite), middle), report(shown)

    return Estimator(init, grad, pop.pairs, finish)

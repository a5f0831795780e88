"""Evolution strategies with the gradient of the window as control variate: PES-A and NRES-A.

PES with analytic gradient (PES-A): Vicol, Metz & Sohl-Dickstein 2021, arXiv 2112.13835. NRES-A is ours. Let p be the
gradient of the loss of a window by backpropagation, through a trajectory at the mean theta, which does not depend on
eps. Then

    g = p + mean of eps (delta - sigma eps . p) / sigma

has the expectation of NRES, since the mean of eps (eps . p) is p. The part of the loss that p explains adds no
variance. On a quadratic loss the trace of the covariance falls from (P + 1) |g|^2 to (P + 1) |g - p|^2, with p summed
over the windows. An update costs one more backward pass of the window and one more trajectory per task. There is no
`shaping` here: what p explains is in units of the loss, and could not be taken from a rank or a z-score.
"""

from __future__ import annotations

from typing import Any, NamedTuple, SupportsIndex

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from metalearn.gradients._pairs import (
    Population,
    advance,
    advance_clock,
    advance_unperturbed,
    draw_noise,
    initial_states,
    make_population,
    metrics_of,
    sigma_at,
    start_states,
)
from metalearn.gradients.es import EsState, Sigma, add_to_credit
from metalearn.gradients.estimator import Estimator, means_over_kept, with_typed_keys
from metalearn.gradients.noise import Noise, dense, inner_product, weighted_mean
from metalearn.gradients.windows import Clock, Horizon, initial_clock, replace_ended, restart_ended
from metalearn.inner import InnerLoop

__all__ = ["ControlledState", "nres_a", "pes_a"]


class ControlledState(NamedTuple):
    """Pairs, and the trajectories at the mean theta beside each.

    Attributes:
        pairs: see `EsState`; in PES-A the credit excludes the current perturbation.
        middle: states [n, K, ...] at the mean theta.
    """

    pairs: EsState
    middle: Any


def nres_a(
    loop: InnerLoop,
    sigma: Sigma,
    pairs: int,
    window: int,
    horizon: SupportsIndex | Horizon | None = None,
    *,
    noise: Noise = dense,
    tasks: int = 1,
    stagger: bool = True,
    trust: float = 1.0,
    clip: float = 1e3,
) -> Estimator:
    """NRES with the gradient of the window as control variate; the inner loop must be differentiable.

    Args:
        loop: the inner loop.
        sigma: as in `nres`; so are `pairs`, `window`, `horizon`, `noise`, `tasks` and `stagger`.
        pairs: antithetic pairs.
        window: steps per outer step.
        horizon: steps of a trajectory, or a schedule.
        noise: `dense` or `low_rank(r)`.
        tasks: trajectories per particle.
        stagger: spread the first lengths.
        trust: factor of p, from 0 (NRES) to 1. Use less than 1 if windows explain little of the whole trajectory.
        clip: largest norm of p. In chaos p explodes; the estimate is unbiased whatever p is clipped to.

    Returns:
        An estimator; see `nres`.

    Raises:
        ValueError: as `nres`, or `trust` or `clip` is negative.
    """
    pop = make_population(loop, sigma, pairs, window, horizon, noise, tasks, stagger, None)
    for name, value in {"trust": trust, "clip": clip}.items():
        if not value >= 0:
            raise ValueError(f"{name} must not be negative, got {value}")

    def init(theta: Any, data: Any, key: PRNGKeyArray) -> ControlledState:
        inner = initial_states(pop, theta, data, key, (2,))
        pairs_state = EsState(initial_clock(pop.pairs, key), inner, jnp.zeros(pop.pairs), ())
        return ControlledState(pairs_state, jax.tree.map(lambda a: a[:, 0], inner))

    def grad(
        theta: Any, state: ControlledState, data: Any, key: PRNGKeyArray, outer_step: Array
    ) -> tuple[Any, ControlledState, dict[str, Array]]:
        done, clock = restart_ended(pop.cut, state.pairs.clock, key, outer_step)
        sigma = jnp.where(done, sigma_at(pop, outer_step), state.pairs.sigma)
        eps = draw_noise(pop, theta, clock, 0)
        inner, middle = _start_new(pop, done, theta, eps, sigma, clock, data, state)
        inner, diffs = advance(pop, theta, eps, sigma, inner, clock, data)
        middle, p = advance_unperturbed(pop, theta, middle, clock, data)
        p = _clipped(p, trust, clip)
        rest = jnp.where(diffs.finite, diffs.delta - _explained_delta(pop, eps, sigma, p).astype(diffs.delta.dtype), 0)
        weighted = pop.noise.mean(eps, rest / sigma.astype(rest.dtype))
        gradient = jax.tree.map(jnp.add, _mean_over_finite(p, diffs.finite), weighted)
        pairs_state = EsState(advance_clock(pop, clock, diffs.finite), inner, sigma, ())
        return gradient, ControlledState(pairs_state, middle), metrics_of(diffs)

    return with_typed_keys(Estimator(init, grad, pop.pairs, means_over_kept))


def pes_a(
    loop: InnerLoop,
    sigma: Sigma,
    pairs: int,
    window: int,
    horizon: SupportsIndex | Horizon | None = None,
    *,
    noise: Noise = dense,
    tasks: int = 1,
    stagger: bool = True,
) -> Estimator:
    """PES that takes the influence of a window on its own loss from its gradient, and estimates only the later one.

    As in the paper's code, the share of the window itself is that of the loss, not of the smoothed loss. Arguments,
    metrics and errors as in `nres`. A pair with a non-finite gradient is left out like one with a non-finite loss.
    """
    pop = make_population(loop, sigma, pairs, window, horizon, noise, tasks, stagger, None)

    def init(theta: Any, data: Any, key: PRNGKeyArray) -> ControlledState:
        inner = initial_states(pop, theta, data, key, (2,))
        credit = jax.tree.map(lambda a: jnp.zeros((pop.pairs, *a.shape), a.dtype), theta)
        pairs_state = EsState(initial_clock(pop.pairs, key), inner, jnp.zeros(pop.pairs), credit)
        return ControlledState(pairs_state, jax.tree.map(lambda a: a[:, 0], inner))

    def grad(
        theta: Any, state: ControlledState, data: Any, key: PRNGKeyArray, outer_step: Array
    ) -> tuple[Any, ControlledState, dict[str, Array]]:
        done, clock = restart_ended(pop.cut, state.pairs.clock, key, outer_step)
        sigma = jnp.broadcast_to(sigma_at(pop, outer_step), done.shape)
        eps = draw_noise(pop, theta, clock, clock.t)
        inner, middle = _start_new(pop, done, theta, eps, sigma, clock, data, state)
        inner, diffs = advance(pop, theta, eps, sigma, inner, clock, data)
        middle, p = advance_unperturbed(pop, theta, middle, clock, data)
        finite = diffs.finite & _finite(p)
        diffs = diffs._replace(finite=finite)
        delta = jnp.where(finite, diffs.delta - _explained_delta(pop, eps, sigma, p).astype(diffs.delta.dtype), 0)
        before = jax.tree.map(lambda c: jax.vmap(jnp.where)(done, jnp.zeros_like(c), c), state.pairs.credit)
        gradient = jax.tree.map(jnp.add, _mean_over_finite(p, finite), weighted_mean(before, delta))
        credit = add_to_credit(pop, done, jnp.ones_like(done), eps, sigma, state.pairs.credit)
        pairs_state = EsState(advance_clock(pop, clock, finite), inner, sigma, credit)
        return gradient, ControlledState(pairs_state, middle), metrics_of(diffs)

    return with_typed_keys(Estimator(init, grad, pop.pairs, means_over_kept))


def _start_new(
    pop: Population, done: Array, theta: Any, eps: Any, sigma: Array, clock: Clock, data: Any, state: ControlledState
) -> tuple[Any, Any]:
    def new() -> tuple[Any, Any]:
        states = start_states(pop, theta, eps, sigma, clock, data, signs=(1.0, -1.0, 0.0))
        return jax.tree.map(lambda a: a[:, :2], states), jax.tree.map(lambda a: a[:, 2], states)

    return replace_ended(done, new, (state.pairs.inner, state.middle))


def _explained_delta(pop: Population, eps: Any, sigma: Float[Array, "n"], p: Any) -> Float[Array, "n"]:
    """Half the difference of the losses of each pair, as predicted by p."""
    return sigma * jax.vmap(pop.noise.dot)(eps, p).astype(sigma.dtype)


def _finite(p: Any) -> Bool[Array, "n"]:
    leaves = [jnp.isfinite(a).all(tuple(range(1, a.ndim))) for a in jax.tree.leaves(p)]
    return jnp.stack(leaves).all(0)


def _clipped(p: Any, trust: float, clip: float) -> Any:
    """The p of each pair with its norm clipped, times `trust`; 0 if it is not finite."""

    def one(p: Any, finite: Array) -> Any:
        p = jax.tree.map(lambda a: jnp.where(finite, a, 0), p)
        norm = jnp.sqrt(inner_product(p, p))
        scale = trust * jnp.minimum(1.0, clip / jnp.maximum(norm, jnp.finfo(norm.dtype).tiny))
        return jax.tree.map(lambda a: a * scale.astype(a.dtype), p)

    return jax.vmap(one)(p, _finite(p))


def _mean_over_finite(p: Any, finite: Bool[Array, "n"]) -> Any:
    """The mean over pairs, in which those that are not finite count 0."""
    return jax.tree.map(lambda a: jax.vmap(jnp.where)(finite, a, jnp.zeros_like(a)).mean(0), p)

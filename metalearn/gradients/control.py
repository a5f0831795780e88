"""Evolution strategies with the gradient of the window as control variate: PES-A and NRES-A.

PES with analytic gradient: Vicol, Metz & Sohl-Dickstein 2021, arXiv 2112.13835. NRES-A is our own: with p the
gradient of a window's loss by backpropagation through a trajectory at the mean theta, which does not depend on eps,

    g = p + mean of eps (delta - sigma eps . p) / sigma

has the expectation of NRES, since the mean of eps (eps . p) is p; what p explains of the loss costs no variance. On a
quadratic loss the trace of the covariance falls from (P + 1) |g|^2 to (P + 1) |g - p|^2, p summed over the windows.
An update costs one backward pass of the window and one more trajectory a task.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from metalearn.gradients._pairs import (
    Population,
    advance,
    after_window,
    at_mean,
    begin,
    blank_states,
    draw,
    finish,
    level,
    population,
    report,
)
from metalearn.gradients.es import EsState, Sigma, as_it_is, credited
from metalearn.gradients.estimator import Estimator
from metalearn.gradients.noise import Noise, dense, inner_product, weighted_mean
from metalearn.gradients.windows import Clock, Horizon, begun, renewed, stopped
from metalearn.inner import InnerLoop

__all__ = ["ControlledState", "nres_a", "pes_a"]


class ControlledState(NamedTuple):
    """Pairs, and beside each the trajectories at the mean theta.

    Attributes:
        pairs: see `EsState`; in PES-A the credit is without the current perturbation.
        middle: states [n, K, ...] at the mean theta.
    """

    pairs: EsState
    middle: Any


def nres_a(
    loop: InnerLoop,
    sigma: Sigma,
    pairs: int,
    window: int,
    horizon: int | Horizon | None = None,
    *,
    noise: Noise = dense,
    tasks: int = 1,
    stagger: bool = True,
    trust: float = 1.0,
    clip: float = 1e3,
) -> Estimator:
    """NRES with the window's gradient as control variate; the inner loop must be differentiable.

    Args:
        loop: the inner loop.
        sigma: as in `nres`, and so `pairs`, `window`, `horizon`, `noise`, `tasks`, `stagger`.
        pairs: antithetic pairs.
        window: steps an outer step.
        horizon: steps of a trajectory, or a schedule.
        noise: of the perturbations.
        tasks: trajectories a particle.
        stagger: spread the first lengths.
        trust: what p is multiplied by, from 0 (NRES) to 1. Less than 1 where windows explain little of the whole.
        clip: largest norm of p. In chaos p explodes; whatever it is clipped to, the estimate stays unbiased.

    Returns:
        An estimator; see `nres`.

    Raises:
        ValueError: as `nres`, or `trust` or `clip` is negative.
    """
    pop = population(loop, sigma, pairs, window, horizon, noise, tasks, stagger, as_it_is)
    for name, value in {"trust": trust, "clip": clip}.items():
        if not value >= 0:
            raise ValueError(f"{name} must not be negative, got {value}")

    def init(theta: Any, data: Any, key: PRNGKeyArray) -> ControlledState:
        inner = blank_states(pop, theta, data, key, (2,))
        pairs_state = EsState(stopped(pop.pairs, key), inner, jnp.zeros(pop.pairs), ())
        return ControlledState(pairs_state, jax.tree.map(lambda a: a[:, 0], inner))

    def grad(
        theta: Any, state: ControlledState, data: Any, key: PRNGKeyArray, outer_step: Array
    ) -> tuple[Any, ControlledState, dict[str, Array]]:
        done, clock = renewed(pop.cut, state.pairs.clock, key, outer_step)
        sigma = jnp.where(done, level(pop, outer_step), state.pairs.sigma)
        eps = draw(pop, theta, clock, 0)
        inner, middle = _begun(pop, done, theta, eps, sigma, clock, data, state)
        inner, shown = advance(pop, theta, eps, sigma, inner, clock, data)
        middle, p = at_mean(pop, theta, middle, clock, data)
        p = _tamed(p, trust, clip)
        rest = jnp.where(shown.finite, shown.delta - _explained(pop, eps, sigma, p).astype(shown.delta.dtype), 0)
        weighted = pop.noise.mean(eps, rest / sigma.astype(rest.dtype))
        gradient = jax.tree.map(jnp.add, _mean_of(p, shown.finite), weighted)
        pairs_state = EsState(after_window(pop, clock, shown.finite), inner, sigma, ())
        return gradient, ControlledState(pairs_state, middle), report(shown)

    return Estimator(init, grad, pop.pairs, finish)


def pes_a(
    loop: InnerLoop,
    sigma: Sigma,
    pairs: int,
    window: int,
    horizon: int | Horizon | None = None,
    *,
    noise: Noise = dense,
    tasks: int = 1,
    stagger: bool = True,
) -> Estimator:
    """PES in which a window's influence on its own loss is its gradient, and only the later influence is estimated.

    As in the paper's code: the window's own share is that of the loss itself, not of the smoothed one. Arguments,
    metrics and errors as `nres`. A pair whose gradient is not finite is left out like one whose loss is not.
    """
    pop = population(loop, sigma, pairs, window, horizon, noise, tasks, stagger, as_it_is)

    def init(theta: Any, data: Any, key: PRNGKeyArray) -> ControlledState:
        inner = blank_states(pop, theta, data, key, (2,))
        credit = jax.tree.map(lambda a: jnp.zeros((pop.pairs, *a.shape), a.dtype), theta)
        pairs_state = EsState(stopped(pop.pairs, key), inner, jnp.zeros(pop.pairs), credit)
        return ControlledState(pairs_state, jax.tree.map(lambda a: a[:, 0], inner))

    def grad(
        theta: Any, state: ControlledState, data: Any, key: PRNGKeyArray, outer_step: Array
    ) -> tuple[Any, ControlledState, dict[str, Array]]:
        done, clock = renewed(pop.cut, state.pairs.clock, key, outer_step)
        sigma = jnp.broadcast_to(level(pop, outer_step), done.shape)
        eps = draw(pop, theta, clock, clock.t)
        inner, middle = _begun(pop, done, theta, eps, sigma, clock, data, state)
        inner, shown = advance(pop, theta, eps, sigma, inner, clock, data)
        middle, p = at_mean(pop, theta, middle, clock, data)
        finite = shown.finite & _finite(p)
        shown = shown._replace(finite=finite)
        delta = jnp.where(finite, shown.delta - _explained(pop, eps, sigma, p).astype(shown.delta.dtype), 0)
        before = jax.tree.map(lambda c: jax.vmap(jnp.where)(done, jnp.zeros_like(c), c), state.pairs.credit)
        gradient = jax.tree.map(jnp.add, _mean_of(p, finite), weighted_mean(before, delta))
        credit = credited(pop, done, jnp.ones_like(done), eps, sigma, state.pairs.credit)
        pairs_state = EsState(after_window(pop, clock, finite), inner, sigma, credit)
        return gradient, ControlledState(pairs_state, middle), report(shown)

    return Estimator(init, grad, pop.pairs, finish)


def _begun(
    pop: Population, done: Array, theta: Any, eps: Any, sigma: Array, clock: Clock, data: Any, state: ControlledState
) -> tuple[Any, Any]:
    def fresh() -> tuple[Any, Any]:
        states = begin(pop, theta, eps, sigma, clock, data, signs=(1.0, -1.0, 0.0))
        return jax.tree.map(lambda a: a[:, :2], states), jax.tree.map(lambda a: a[:, 2], states)

    return begun(done, fresh, (state.pairs.inner, state.middle))


def _explained(pop: Population, eps: Any, sigma: Float[Array, "n"], p: Any) -> Float[Array, "n"]:
    """What p says half the difference of the losses of each pair is."""
    return sigma * jax.vmap(pop.noise.dot)(eps, p).astype(sigma.dtype)


def _finite(p: Any) -> Bool[Array, "n"]:
    leaves = [jnp.isfinite(a).reshape(a.shape[0], -1).all(-1) for a in jax.tree.leaves(p)]
    return jnp.stack(leaves).all(0)


def _tamed(p: Any, trust: float, clip: float) -> Any:
    """Each pair's p with its norm clipped, times `trust`; 0 where it is not finite."""

    def one(p: Any, finite: Array) -> Any:
        p = jax.tree.map(lambda a: jnp.where(finite, a, 0), p)
        norm = jnp.sqrt(inner_product(p, p))
        scale = trust * jnp.minimum(1.0, clip / jnp.maximum(norm, jnp.finfo(norm.dtype).tiny))
        return jax.tree.map(lambda a: a * scale.astype(a.dtype), p)

    return jax.vmap(one)(p, _finite(p))


def _mean_of(p: Any, finite: Bool[Array, "n"]) -> Any:
    """The mean over pairs, of which those that are not finite count 0."""
    return jax.tree.map(lambda a: jax.vmap(jnp.where)(finite, a, jnp.zeros_like(a)).mean(0), p)

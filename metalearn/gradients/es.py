"""Evolution strategies over windows: full, persistent, noise-reuse and everything between, in one loop.

PES: Vicol, Metz & Sohl-Dickstein 2021, arXiv 2112.13835. NRES: Li, Harrison, Sohl-Dickstein, Smith & Metz 2023,
arXiv 2304.12180, the same as ES-Single: Vicol 2023, arXiv 2304.11153. GPES is the family of both.

Two numbers define a member of the family: W, the steps of a window, and R, the steps between two draws of noise. The
perturbation of a pair is drawn again every R steps. The difference of its losses in a window is credited to the sum of
all perturbations that its trajectory has had.

    full ES   W = R = T            NRES   W < R = T
    PES       W = R < T            GPES   W < R < T

All are unbiased for the loss smoothed by the noise, at fixed theta. With one perturbation per trajectory (full ES,
NRES) the sum is that perturbation. It is drawn again from its key, and no array of the size of theta is kept.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, SupportsIndex

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from metalearn.gradients._pairs import (
    Population,
    advance,
    advance_clock,
    draw_noise,
    initial_states,
    make_population,
    metrics_of,
    sigma_at,
    start_states,
)
from metalearn.gradients.estimator import Estimator, means_over_kept, with_typed_keys
from metalearn.gradients.noise import Noise, dense, weighted_mean
from metalearn.gradients.shaping import Shaping
from metalearn.gradients.windows import Clock, Horizon, initial_clock, replace_ended, restart_ended
from metalearn.inner import InnerLoop

__all__ = ["EsState", "full_es", "gpes", "nres", "pes"]

Sigma = float | Callable[[Array], Any]


class EsState(NamedTuple):
    """Pairs in the middle of their trajectories, on the leading axis.

    Attributes:
        clock: where each pair stands.
        inner: states [n, 2, K, ...].
        sigma: the standard deviation of the perturbation of each pair.
        credit: the sum of eps / sigma over the trajectory; `()` if it follows from the key.
    """

    clock: Clock
    inner: Any
    sigma: Float[Array, "n"]
    credit: Any


def full_es(
    loop: InnerLoop,
    sigma: Sigma,
    pairs: int,
    horizon: SupportsIndex | Horizon | None = None,
    *,
    noise: Noise = dense,
    tasks: int = 1,
    shaping: Shaping | None = None,
) -> Estimator:
    """Evolution strategies over whole trajectories, new ones in each outer step.

    The parallel `run` of the loop is used if there is one. Arguments, metrics and errors as in `nres`.
    """
    pop = make_population(loop, sigma, pairs, None, horizon, noise, tasks, False, shaping)
    return _from_keys(pop)


def nres(
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
    """Noise-reuse evolution strategies: one perturbation per trajectory, one update per window.

    The default for trajectories of many windows: it has the least variance of the family in a single window, and keeps
    no array of the size of theta, which makes it the one to combine with `low_rank` noise. Do not use it for
    trajectories without an end: it would never leave the span of its first perturbations.

    Args:
        loop: the inner loop.
        sigma: standard deviation of the perturbations, or a schedule `(outer_step) -> float` that is evaluated whenever
            noise is drawn.
        pairs: antithetic pairs, n; 2 n K trajectories are under way at any time.
        window: steps per outer step, W; static.
        horizon: steps of a trajectory, or a schedule (`log_uniform_horizon`, `growing_horizon`); None: `loop.length`.
            Each window has the same weight, so the weight of a trajectory is its number of windows.
        noise: `dense` or `low_rank(r)`.
        tasks: trajectories per particle, K; with low-rank noise they share its products.
        stagger: spread the first lengths over the multiples of the window.
        shaping: an elementwise function of half the differences of the losses, such as `lambda d: jnp.clip(d, -1, 1)`;
            or `centred_ranks` or `z_scores`, of the losses of the whole population. Makes the estimate biased. None:
            the differences as they are.

    Returns:
        An estimator whose `batch` is `pairs`. The gradient is that of the mean loss per step. A pair with a non-finite
        loss is left out of the mean and starts a new trajectory; the metric `"dropped"` is the share of such pairs.

    Raises:
        ValueError: a number is not positive, there is no horizon, or the window is longer than the trajectory.
        TypeError: the horizon is not an integer.
    """
    return _from_keys(make_population(loop, sigma, pairs, window, horizon, noise, tasks, stagger, shaping))


def pes(
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
    """Persistent evolution strategies: new noise in each window, credited with all later losses of the trajectory.

    Better than `nres` for few windows of mostly local influence with all pairs in step; otherwise its variance grows
    with the number of windows. Keeps one array of the size of theta per pair. Arguments, metrics and errors as in
    `nres`.
    """
    pop = make_population(loop, sigma, pairs, window, horizon, noise, tasks, stagger, shaping)
    return _with_credit(pop, window)


def gpes(
    loop: InnerLoop,
    sigma: Sigma,
    pairs: int,
    window: int,
    resample: int,
    horizon: SupportsIndex | Horizon | None = None,
    *,
    noise: Noise = dense,
    tasks: int = 1,
    stagger: bool = True,
    shaping: Shaping | None = None,
) -> Estimator:
    """The general member of the family: one update per window, new noise every `resample` steps.

    Args:
        loop: the inner loop.
        sigma: standard deviation of the perturbations, or a schedule.
        pairs: antithetic pairs.
        window: steps per outer step; static.
        resample: steps between two draws of noise, R; a multiple of the window.
        horizon: steps of a trajectory, or a schedule.
        noise: `dense` or `low_rank(r)`.
        tasks: trajectories per particle.
        stagger: spread the first lengths.
        shaping: as in `nres`.

    Returns:
        An estimator; see `nres`.

    Raises:
        ValueError: as `nres`, or `resample` is not a positive multiple of the window.
    """
    pop = make_population(loop, sigma, pairs, window, horizon, noise, tasks, stagger, shaping)
    if resample < 1 or resample % window:
        raise ValueError(f"resample must be a positive multiple of the window of {window} steps, got {resample}")
    return _with_credit(pop, resample)


def _from_keys(pop: Population) -> Estimator:
    def init(theta: Any, data: Any, key: PRNGKeyArray) -> EsState:
        inner = initial_states(pop, theta, data, key, (2,))
        return EsState(initial_clock(pop.pairs, key), inner, jnp.zeros(pop.pairs), ())

    def grad(
        theta: Any, state: EsState, data: Any, key: PRNGKeyArray, outer_step: Array
    ) -> tuple[Any, EsState, dict[str, Array]]:
        done, clock = restart_ended(pop.cut, state.clock, key, outer_step)
        sigma = jnp.where(done, sigma_at(pop, outer_step), state.sigma)
        eps = draw_noise(pop, theta, clock, 0)
        inner = replace_ended(done, lambda: start_states(pop, theta, eps, sigma, clock, data), state.inner)
        inner, diffs = advance(pop, theta, eps, sigma, inner, clock, data)
        gradient = pop.noise.mean(eps, diffs.delta / sigma.astype(diffs.delta.dtype))
        return (
            gradient,
            EsState(advance_clock(pop, clock, diffs.finite), inner, sigma, ()),
            metrics_of(diffs),
        )

    return with_typed_keys(Estimator(init, grad, pop.pairs, means_over_kept, small_operations=True))


def _with_credit(pop: Population, resample: int) -> Estimator:
    def init(theta: Any, data: Any, key: PRNGKeyArray) -> EsState:
        inner = initial_states(pop, theta, data, key, (2,))
        credit = jax.tree.map(lambda a: jnp.zeros((pop.pairs, *a.shape), a.dtype), theta)
        return EsState(initial_clock(pop.pairs, key), inner, jnp.zeros(pop.pairs), credit)

    def grad(
        theta: Any, state: EsState, data: Any, key: PRNGKeyArray, outer_step: Array
    ) -> tuple[Any, EsState, dict[str, Array]]:
        done, clock = restart_ended(pop.cut, state.clock, key, outer_step)
        redraw = clock.t % resample == 0
        sigma = jnp.where(redraw, sigma_at(pop, outer_step), state.sigma)
        eps = draw_noise(pop, theta, clock, clock.t // resample)
        inner = replace_ended(done, lambda: start_states(pop, theta, eps, sigma, clock, data), state.inner)
        inner, diffs = advance(pop, theta, eps, sigma, inner, clock, data)
        credit = add_to_credit(pop, done, redraw, eps, sigma, state.credit)
        gradient = weighted_mean(credit, diffs.delta)
        return (
            gradient,
            EsState(advance_clock(pop, clock, diffs.finite), inner, sigma, credit),
            metrics_of(diffs),
        )

    return with_typed_keys(Estimator(init, grad, pop.pairs, means_over_kept, small_operations=True))


def add_to_credit(pop: Population, done: Array, redraw: Array, eps: Any, sigma: Float[Array, "n"], credit: Any) -> Any:
    """The sum of eps / sigma over each trajectory, including the perturbation of this window."""

    def leaf(eps: Array, credit: Array) -> Array:
        def one(done: Array, redraw: Array, scale: Array, eps: Array, credit: Array) -> Array:
            return jnp.where(done, 0, credit) + jnp.where(redraw, eps * scale.astype(eps.dtype), 0)

        return jax.vmap(one)(done, redraw, 1 / sigma, eps, credit)

    return jax.tree.map(leaf, jax.vmap(pop.noise.dense)(eps), credit)

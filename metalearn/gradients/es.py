"""Evolution strategies over windows: full, persistent, noise-reuse and all between, one loop.

PES: Vicol, Metz & Sohl-Dickstein 2021, arXiv 2112.13835. NRES: Li, Harrison, Sohl-Dickstein, Smith & Metz 2023,
arXiv 2304.12180, the same as ES-Single: Vicol 2023, arXiv 2304.11153. GPES: the family of both.

Two numbers make the family: W, the steps of a window, and R, the steps between two draws of noise. A pair's
perturbation is redrawn every R steps; the difference of its losses in a window is credited to the sum of all
perturbations its trajectory has known.

    full ES   W = R = T            NRES   W < R = T
    PES       W = R < T            GPES   W < R < T

All are unbiased for the loss smoothed by the noise, at fixed theta. With one perturbation a trajectory (full ES, NRES)
the sum is that perturbation, which its key gives again, and no array of the size of theta is kept.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from metalearn.gradients._pairs import (
    Population,
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
from metalearn.gradients.estimator import Estimator
from metalearn.gradients.noise import Noise, dense, weighted_mean
from metalearn.gradients.windows import Clock, Horizon, begun, renewed, stopped
from metalearn.inner import InnerLoop

__all__ = ["EsState", "full_es", "gpes", "nres", "pes"]

Shaping = Callable[[Float[Array, "n"]], Float[Array, "n"]]
Sigma = float | Callable[[Array], Any]


class EsState(NamedTuple):
    """Pairs in the middle of their trajectories, on the leading axis.

    Attributes:
        clock: where each stands.
        inner: states [n, 2, K, ...].
        sigma: the standard deviation its perturbation was drawn with.
        credit: sum of eps / sigma over the trajectory; `()` where the key gives it.
    """

    clock: Clock
    inner: Any
    sigma: Float[Array, "n"]
    credit: Any


def as_it_is(delta: Float[Array, "n"]) -> Float[Array, "n"]:
    """No shaping."""
    return delta


def full_es(
    loop: InnerLoop,
    sigma: Sigma,
    pairs: int,
    horizon: int | Horizon | None = None,
    *,
    noise: Noise = dense,
    tasks: int = 1,
    shaping: Shaping = as_it_is,
) -> Estimator:
    """Whole trajectories, new ones at each outer step. Arguments as `nres`; a loop's parallel `run` is used."""
    pop = population(loop, sigma, pairs, None, horizon, noise, tasks, False, shaping)
    return _from_keys(pop)


def nres(
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
    """Noise-reuse evolution strategies: one perturbation for a whole trajectory, an update every window.

    The default for trajectories of many windows: of the family it has the least variance in a single window, keeps no
    array of the size of theta, and so is the one to combine with `low_rank` noise. Not for trajectories without end:
    it would never leave the span of its first perturbations.

    Args:
        loop: the inner loop.
        sigma: standard deviation of the perturbations; may be a schedule `(outer_step) -> float`, followed whenever
            noise is drawn.
        pairs: antithetic pairs, n; 2 n K trajectories are on the way at any time.
        window: steps an outer step, W; static.
        horizon: steps of a trajectory, or a schedule of them (`log_uniform_horizon`, `growing_horizon`); by default
            the loop's own length. Each window weighs the same, so long trajectories weigh by their number of windows.
        noise: `dense` or `low_rank(r)`.
        tasks: trajectories each particle runs with its theta, K; with low-rank noise they share its products.
        stagger: spread the first lengths over the multiples of the window.
        shaping: of half the loss differences, elementwise, for example `lambda d: jnp.clip(d, -1, 1)`. Biased.

    Returns:
        An estimator whose `batch` is `pairs`. The gradient is that of the mean loss a step. A pair with a loss that
        is not finite is left out of the mean and starts a new trajectory; the metric `"dropped"` is their share.

    Raises:
        ValueError: a number is not positive, there is no horizon, or the window is longer than the trajectory.
    """
    return _from_keys(population(loop, sigma, pairs, window, horizon, noise, tasks, stagger, shaping))


def pes(
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
    """Persistent evolution strategies: new noise each window, credited with all later losses.

    Better than `nres` for few windows of mostly local influence, all pairs in step; its variance grows with the
    number of windows otherwise. Keeps an array of the size of theta a pair. Arguments as `nres`.
    """
    pop = population(loop, sigma, pairs, window, horizon, noise, tasks, stagger, shaping)
    return _with_credit(pop, window)


def gpes(
    loop: InnerLoop,
    sigma: Sigma,
    pairs: int,
    window: int,
    resample: int,
    horizon: int | Horizon | None = None,
    *,
    noise: Noise = dense,
    tasks: int = 1,
    stagger: bool = True,
    shaping: Shaping = as_it_is,
) -> Estimator:
    """The general member: an update every window, new noise every `resample` steps. Other arguments as `nres`.

    Raises:
        ValueError: as `nres`, or `resample` is no positive multiple of the window.
    """
    pop = population(loop, sigma, pairs, window, horizon, noise, tasks, stagger, shaping)
    if resample < 1 or resample % window:
        raise ValueError(f"noise is redrawn between windows: resample={resample} is no multiple of window={window}")
    return _with_credit(pop, resample)


def _from_keys(pop: Population) -> Estimator:
    def init(theta: Any, data: Any, key: PRNGKeyArray) -> EsState:
        inner = blank_states(pop, theta, data, key, (2,))
        return EsState(stopped(pop.pairs, key), inner, jnp.zeros(pop.pairs), ())

    def grad(
        theta: Any, state: EsState, data: Any, key: PRNGKeyArray, outer_step: Array
    ) -> tuple[Any, EsState, dict[str, Array]]:
        done, clock = renewed(pop.cut, state.clock, key, outer_step)
        sigma = jnp.where(done, level(pop, outer_step), state.sigma)
        eps = draw(pop, theta, clock, 0)
        inner = begun(done, lambda: begin(pop, theta, eps, sigma, clock, data), state.inner)
        inner, shown = advance(pop, theta, eps, sigma, inner, clock, data)
        gradient = pop.noise.mean(eps, shown.delta / sigma.astype(shown.delta.dtype))
        return gradient, EsState(after_window(pop, clock, shown.finite), inner, sigma, ()), report(shown)

    return Estimator(init, grad, pop.pairs, finish)


def _with_credit(pop: Population, resample: int) -> Estimator:
    def init(theta: Any, data: Any, key: PRNGKeyArray) -> EsState:
        inner = blank_states(pop, theta, data, key, (2,))
        credit = jax.tree.map(lambda a: jnp.zeros((pop.pairs, *a.shape), a.dtype), theta)
        return EsState(stopped(pop.pairs, key), inner, jnp.zeros(pop.pairs), credit)

    def grad(
        theta: Any, state: EsState, data: Any, key: PRNGKeyArray, outer_step: Array
    ) -> tuple[Any, EsState, dict[str, Array]]:
        done, clock = renewed(pop.cut, state.clock, key, outer_step)
        redraw = clock.t % resample == 0
        sigma = jnp.where(redraw, level(pop, outer_step), state.sigma)
        eps = draw(pop, theta, clock, clock.t // resample)
        inner = begun(done, lambda: begin(pop, theta, eps, sigma, clock, data), state.inner)
        inner, shown = advance(pop, theta, eps, sigma, inner, clock, data)
        credit = credited(pop, done, redraw, eps, sigma, state.credit)
        gradient = weighted_mean(credit, shown.delta)
        return gradient, EsState(after_window(pop, clock, shown.finite), inner, sigma, credit), report(shown)

    return Estimator(init, grad, pop.pairs, finish)


def credited(pop: Population, done: Array, redraw: Array, eps: Any, sigma: Float[Array, "n"], credit: Any) -> Any:
    """The sum of eps / sigma over each trajectory, this window's perturbation included."""

    def leaf(eps: Array, credit: Array) -> Array:
        def one(done: Array, redraw: Array, scale: Array, eps: Array, credit: Array) -> Array:
            return jnp.where(done, 0, credit) + jnp.where(redraw, eps * scale.astype(eps.dtype), 0)

        return jax.vmap(one)(done, redraw, 1 / sigma, eps, credit)

    return jax.tree.map(leaf, jax.vmap(pop.noise.dense)(eps), credit)

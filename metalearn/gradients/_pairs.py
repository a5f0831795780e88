"""Antithetic pairs: the window of steps that all evolution strategies share.

A pair is one perturbation eps of theta and two particles, at theta + sigma eps and at theta - sigma eps, on the same
tasks with the same randomness: whatever does not depend on theta cancels in the difference of their losses.

Shapes: n pairs, 2 signs, K tasks per pair, W steps; states are [n, 2, K, ...].
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, SupportsIndex

import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Bool, Float, Key, PRNGKeyArray

from metalearn.gradients._checks import check_loop
from metalearn.gradients.noise import Noise
from metalearn.gradients.shaping import Shaping, shape_differences
from metalearn.gradients.windows import (
    Clock,
    Horizon,
    Windows,
    at_least_float32,
    ends_with_windows,
    make_windows,
    placeholder_states,
    without_derivatives_beyond,
)
from metalearn.inner import InnerLoop, add_up_steps, over_rows, start

PLUS_MINUS = (1.0, -1.0)


class Population(NamedTuple):
    """The fixed part of an evolution strategy; use `make_population`, which checks.

    Attributes:
        loop: the inner loop.
        noise: the distribution of perturbations.
        sigma: `(outer_step) -> standard deviation`.
        pairs: n.
        tasks: K, trajectories per particle, all with the theta of the particle.
        cut: windows and horizon.
        shaping: of half the differences of the losses of the pairs; see `shaping`. None: they stay as they are.
    """

    loop: InnerLoop
    noise: Noise
    sigma: Callable[[Array], Any]
    pairs: int
    tasks: int
    cut: Windows
    shaping: Shaping | None


class Differences(NamedTuple):
    """Results of a window, for each pair.

    Attributes:
        delta: half the difference of the losses of the pair: sums over the window divided by W, means over tasks;
            shaped; 0 if not finite.
        finite: whether both losses of the pair are finite.
        loss: the mean over the steps, tasks and signs of the pair; 0 if not finite.
        aux: the same mean of each aux of the loop.
    """

    delta: Float[Array, "n"]
    finite: Bool[Array, "n"]
    loss: Float[Array, "n"]
    aux: dict[str, Float[Array, "n"]]


def make_population(
    loop: InnerLoop,
    sigma: float | Callable[[Array], Any],
    pairs: int,
    window: int | None,
    horizon: SupportsIndex | Horizon | None,
    noise: Noise,
    tasks: int,
    stagger: bool,
    shaping: Shaping | None,
) -> Population:
    """Fill in defaults, and refuse what does not fit.

    Raises:
        ValueError: sigma, pairs or tasks are not positive, or the windows do not fit; see `make_windows`.
    """
    if not callable(sigma):
        if not sigma > 0:
            raise ValueError(f"sigma, the standard deviation of the perturbations, must be positive, got {sigma}")
        level = float(sigma)
        sigma = lambda outer_step: level  # noqa: E731
    for name, value in {"pairs": pairs, "tasks": tasks}.items():
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    return Population(loop, noise, sigma, pairs, tasks, make_windows(loop, window, horizon, stagger), shaping)


def initial_states(pop: Population, theta: Any, data: Any, key: PRNGKeyArray, particles: tuple[int, ...]) -> Any:
    """States [n, *particles, K, ...] before the first trajectory, after `check_loop`."""
    shapes = check_loop(pop.loop, theta, data, key)
    return placeholder_states(shapes, (pop.pairs, *particles, pop.tasks), key)


def sigma_at(pop: Population, outer_step: Array) -> Float[Array, ""]:
    """Sigma at an outer step."""
    return jnp.asarray(pop.sigma(outer_step), jnp.result_type(float))


def draw_noise(pop: Population, theta: Any, clock: Clock, segment: Any) -> Any:
    """The perturbation of each pair, from the key of its trajectory and the number of the draw."""
    keys, _ = _keys(pop, clock.key)
    numbers = jnp.broadcast_to(jnp.asarray(segment, jnp.int32), clock.t.shape)
    return jax.vmap(lambda k, s: pop.noise.draw(theta, jax.random.fold_in(k, s)))(keys, numbers)


def start_states(
    pop: Population,
    theta: Any,
    eps: Any,
    sigma: Float[Array, "n"],
    clock: Clock,
    data: Any,
    signs: tuple[float, ...] = PLUS_MINUS,
) -> Any:
    """The states [n, signs, K, ...] at the start of the trajectories of `clock.key`."""
    _, keys = _keys(pop, clock.key)

    def particle(perturbed: Any, length: Array, keys: Key[Array, "K"]) -> Any:
        def f(theta: Any, length: Array, keys: Key[Array, "K"]) -> Any:
            return over_rows(lambda k: start(pop.loop, theta, data, k, length), pop.tasks)(keys)

        return pop.noise.apply(f, theta, perturbed, length, keys)

    perturbed = _perturbed(pop, theta, eps, sigma, signs)
    return _unflat(jax.vmap(particle)(perturbed, *_for_each(signs, (clock.length, keys))), len(signs))


def advance(
    pop: Population,
    theta: Any,
    eps: Any,
    sigma: Float[Array, "n"],
    inner: Any,
    clock: Clock,
    data: Any,
    signs: tuple[float, ...] = PLUS_MINUS,
    shared_start: bool = False,
) -> tuple[Any, Differences]:
    """Advance all particles by one window.

    Args:
        pop: the population.
        theta: meta-parameters, unperturbed.
        eps: perturbations, with the pairs on the leading axis.
        sigma: the standard deviation of each pair.
        inner: states [n, signs, K, ...], or [n, K, ...] with `shared_start`.
        clock: where the trajectories stand.
        data: passed on to the loop.
        signs: the signs of the particles of a pair; the first two are +1 and -1.
        shared_start: all particles of a pair start from the same state.

    Returns:
        The states after the window, and its results.
    """
    _, keys = _keys(pop, clock.key)

    def particle(perturbed: Any, inner: Any, t: Array, length: Array, keys: Key[Array, "K"]) -> Any:
        def f(theta: Any, inner: Any, t: Array, length: Array, keys: Key[Array, "K"]) -> Any:
            return _window(pop, theta, inner, t, length, keys, data)

        return pop.noise.apply(f, theta, perturbed, inner, t, length, keys)

    inner = _for_each(signs, inner) if shared_start else _flat(inner)
    perturbed = _perturbed(pop, theta, eps, sigma, signs)
    of_pair = _for_each(signs, (clock.t, clock.length, keys))
    inner, sums = _unflat(jax.vmap(particle)(perturbed, inner, *of_pair), len(signs))
    return inner, _differences(pop, clock, sums)


def advance_unperturbed(pop: Population, theta: Any, inner: Any, clock: Clock, data: Any) -> tuple[Any, Any]:
    """Advance one unperturbed trajectory per task by one window, for estimators that use its gradient.

    Args:
        pop: the population.
        theta: meta-parameters.
        inner: states [n, K, ...].
        clock: where the trajectories stand.
        data: passed on to the loop.

    Returns:
        The states after the window, and the gradient of the loss of each pair in the scale of `Differences.delta`:
        shaped like theta, with a leading axis n.
    """
    _, keys = _keys(pop, clock.key)

    def pair(inner: Any, t: Array, length: Array, keys: Key[Array, "K"]) -> tuple[Any, Any]:
        def objective(theta: Any) -> tuple[Array, Any]:
            after, sums = _window(pop, theta, inner, t, length, keys, data, differentiated=True)
            return _objective(pop, sums), after

        gradient, after = jax.grad(objective, has_aux=True)(theta)
        return after, gradient

    return jax.vmap(pair)(inner, clock.t, clock.length, keys)


def advance_clock(pop: Population, clock: Clock, finite: Bool[Array, "n"]) -> Clock:
    """The clock after the window. The trajectory of a pair that is not finite ends there."""
    return clock._replace(t=jnp.where(finite, clock.t + pop.cut.steps, clock.length))


def metrics_of(diffs: Differences) -> dict[str, Array]:
    """The metrics of a window: means over pairs, in which dropped pairs count 0 until `means_over_kept` corrects it."""
    kept = diffs.finite.astype(diffs.loss.dtype).mean()
    return {"loss": diffs.loss.mean(), **jax.tree.map(jnp.mean, diffs.aux), "kept": kept}


def _keys(pop: Population, keys: Key[Array, "n"]) -> tuple[Key[Array, "n"], Key[Array, "n K"]]:
    """The key of the noise of each pair, and the keys of its tasks."""
    split = jax.vmap(lambda k: jax.random.split(k, 1 + pop.tasks))(keys)
    return split[:, 0], split[:, 1:]


# Particles are computed on one flat axis [n signs]. Two nested axes would be two loops around every small operation,
# which takes twice as long if steps are cheap.


def _perturbed(pop: Population, theta: Any, eps: Any, sigma: Float[Array, "n"], signs: tuple[float, ...]) -> Any:
    def pair(eps: Any, sigma: Array) -> Any:
        return jax.vmap(lambda sign: pop.noise.particle(theta, eps, sign * sigma))(jnp.asarray(signs, sigma.dtype))

    return _flat(jax.vmap(pair)(eps, sigma))


def _for_each(signs: tuple[float, ...], tree: Any) -> Any:
    return jax.tree.map(lambda a: jnp.repeat(a, len(signs), axis=0), tree)


def _flat(tree: Any) -> Any:
    return jax.tree.map(lambda a: rearrange(a, "n signs ... -> (n signs) ..."), tree)


def _unflat(tree: Any, signs: int) -> Any:
    return jax.tree.map(lambda a: rearrange(a, "(n signs) ... -> n signs ...", signs=signs), tree)


def _window(
    pop: Population,
    theta: Any,
    inner: Any,
    t: Array,
    length: Array,
    keys: Key[Array, "K"],
    data: Any,
    differentiated: bool = False,
) -> tuple[Any, dict[str, Float[Array, "K"]]]:
    """K trajectories with the same theta: their states, and the sums of losses and aux over the valid steps."""
    loop, cut = pop.loop, pop.cut
    constant = cut.horizon.shortest == cut.horizon.longest
    valid = t + jnp.arange(cut.steps, dtype=jnp.int32) < length

    def total(values: Float[Array, "K W"]) -> Float[Array, "K"]:
        return jnp.where(jnp.broadcast_to(valid, values.shape), at_least_float32(values), 0).sum(-1)

    if loop.run is not None and constant and cut.steps == loop.length == cut.horizon.longest:
        inner, losses, aux = loop.run(theta, inner, jnp.int32(0), cut.steps, keys, data)
        return inner, {name: total(value) for name, value in {"loss": losses, **aux}.items()}
    # If no window goes beyond the end of its trajectory, masking would be the most expensive part of a cheap step.
    end = None if ends_with_windows(cut) else length
    if differentiated:
        loop = without_derivatives_beyond(loop, end)

    def one(s: Any, k: PRNGKeyArray) -> Any:
        return add_up_steps(loop, theta, s, t, cut.steps, end, k, data)

    inner, losses, aux = over_rows(one, pop.tasks)(inner, keys)
    return inner, {"loss": losses, **{name: total(value) for name, value in aux.items()}}


def _objective(pop: Population, sums: dict[str, Float[Array, "*B K"]]) -> Float[Array, "*B"]:
    # Divided by W instead of the valid steps, so that the windows of a trajectory add up to its loss.
    return sums["loss"].mean(-1) / pop.cut.steps


def _differences(pop: Population, clock: Clock, sums: dict[str, Float[Array, "n S K"]]) -> Differences:
    objective = _objective(pop, sums)
    finite = jnp.isfinite(objective[:, :2]).all(-1)
    delta = jnp.where(finite, shape_differences(pop.shaping, objective[:, :2], finite), 0)
    valid = jnp.minimum(clock.length - clock.t, pop.cut.steps).astype(delta.dtype)

    def mean(values: Float[Array, "n S K"]) -> Float[Array, "n"]:
        return jnp.where(finite, values[:, :2].mean((1, 2)) / valid.astype(values.dtype), 0)

    means = {name: mean(value) for name, value in sums.items()}
    return Differences(delta, finite, means.pop("loss"), means)

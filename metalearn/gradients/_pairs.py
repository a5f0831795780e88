"""Antithetic pairs: the window of steps that all evolution strategies share.

A pair is one perturbation eps of theta and two particles, at theta + sigma eps and at theta - sigma eps, on the same
tasks with the same randomness: whatever does not come from theta cancels in the difference of their losses.

Shapes: n pairs, 2 signs, K tasks a pair, W steps; states are [n, 2, K, ...].
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from metalearn.gradients._checks import check_loop
from metalearn.gradients.noise import Noise
from metalearn.gradients.windows import Clock, Horizon, Windows, accurate, blank, windows
from metalearn.inner import InnerLoop, add_up_steps, start

PLUS_MINUS = (1.0, -1.0)


class Population(NamedTuple):
    """The fixed part of an evolution strategy; made by `population`, which checks.

    Attributes:
        loop: the inner loop.
        noise: how theta is perturbed.
        sigma: `(outer_step) -> standard deviation`.
        pairs: n.
        tasks: K, trajectories a particle, all with the particle's theta.
        cut: windows and horizon.
        shaping: `(delta[n]) -> delta[n]`, applied to half the difference of a pair's losses.
    """

    loop: InnerLoop
    noise: Noise
    sigma: Callable[[Array], Any]
    pairs: int
    tasks: int
    cut: Windows
    shaping: Callable[[Float[Array, "n"]], Float[Array, "n"]]


class Differences(NamedTuple):
    """What a window of all pairs has shown.

    Attributes:
        delta: half the difference of a pair's losses, sums over the window divided by W, means over tasks; shaped;
            0 where not finite.
        finite: whether both losses of the pair were.
        loss: mean over the pair's steps, tasks and signs; 0 where not finite.
        aux: the loop's own numbers, likewise.
    """

    delta: Float[Array, "n"]
    finite: Bool[Array, "n"]
    loss: Float[Array, "n"]
    aux: dict[str, Float[Array, "n"]]


def population(
    loop: InnerLoop,
    sigma: float | Callable[[Array], Any],
    pairs: int,
    window: int | None,
    horizon: int | Horizon | None,
    noise: Noise,
    tasks: int,
    stagger: bool,
    shaping: Callable[[Float[Array, "n"]], Float[Array, "n"]],
) -> Population:
    """Fill in what a caller left open, and refuse what does not fit.

    Raises:
        ValueError: sigma, pairs or tasks are not positive, or the windows do not fit; see `windows`.
    """
    if not callable(sigma):
        if not sigma > 0:
            raise ValueError(f"sigma is the standard deviation of the perturbations and must be positive, got {sigma}")
        level = float(sigma)
        sigma = lambda outer_step: level  # noqa: E731
    for name, value in {"pairs": pairs, "tasks": tasks}.items():
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    return Population(loop, noise, sigma, pairs, tasks, windows(loop, window, horizon, stagger), shaping)


def blank_states(pop: Population, theta: Any, data: Any, key: PRNGKeyArray, particles: tuple[int, ...]) -> Any:
    """States [n, *particles, K, ...] before the first trajectory; refuses a loop that cannot work."""
    shapes = check_loop(pop.loop, theta, data, key)
    return blank(shapes, (pop.pairs, *particles, pop.tasks), key)


def level(pop: Population, outer_step: Array) -> Float[Array, ""]:
    """Sigma at an outer step."""
    return jnp.asarray(pop.sigma(outer_step), jnp.result_type(float))


def draw(pop: Population, theta: Any, clock: Clock, segment: Any) -> Any:
    """The perturbation of each pair, from its trajectory's key and the number of the draw."""
    keys, _ = _keys(pop, clock.key)
    numbers = jnp.broadcast_to(jnp.asarray(segment, jnp.int32), clock.t.shape)
    return jax.vmap(lambda k, s: pop.noise.draw(theta, jax.random.fold_in(k, s)))(keys, numbers)


def begin(
    pop: Population,
    theta: Any,
    eps: Any,
    sigma: Float[Array, "n"],
    clock: Clock,
    data: Any,
    signs: tuple[float, ...] = PLUS_MINUS,
) -> Any:
    """The states [n, signs, K, ...] at the beginning of the trajectories that `clock.key` names."""
    _, keys = _keys(pop, clock.key)

    def particle(perturbed: Any, keys: PRNGKeyArray) -> Any:
        def f(theta: Any, keys: PRNGKeyArray) -> Any:
            return jax.vmap(lambda k: start(pop.loop, theta, data, k))(keys)

        return pop.noise.apply(f, theta, perturbed, keys)

    perturbed = _perturbed(pop, theta, eps, sigma, signs)
    return _unflat(jax.vmap(particle)(perturbed, _for_each(signs, keys)), len(signs))


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
    """All particles one window on.

    Args:
        pop: the population.
        theta: meta-parameters, unperturbed.
        eps: perturbations, pairs on the leading axis.
        sigma: of each pair.
        inner: states [n, signs, K, ...], or [n, K, ...] with `shared_start`.
        clock: where the trajectories stand.
        data: passed on to the loop.
        signs: of the particles of a pair; the first two are +1 and -1.
        shared_start: all particles of a pair start from one state.

    Returns:
        The states after the window, and what it has shown.
    """
    _, keys = _keys(pop, clock.key)

    def particle(perturbed: Any, inner: Any, t: Array, length: Array, keys: PRNGKeyArray) -> Any:
        def f(theta: Any, inner: Any, t: Array, length: Array, keys: PRNGKeyArray) -> Any:
            return _window(pop, theta, inner, t, length, keys, data)

        return pop.noise.apply(f, theta, perturbed, inner, t, length, keys)

    inner = _for_each(signs, inner) if shared_start else _flat(inner)
    perturbed = _perturbed(pop, theta, eps, sigma, signs)
    of_pair = _for_each(signs, (clock.t, clock.length, keys))
    inner, sums = _unflat(jax.vmap(particle)(perturbed, inner, *of_pair), len(signs))
    return inner, _differences(pop, clock, sums)


def at_mean(pop: Population, theta: Any, inner: Any, clock: Clock, data: Any) -> tuple[Any, Any]:
    """One unperturbed trajectory a task one window on, for estimators that look at its gradient.

    Args:
        pop: the population.
        theta: meta-parameters.
        inner: states [n, K, ...].
        clock: where the trajectories stand.
        data: passed on to the loop.

    Returns:
        The states after the window, and the gradient of each pair's loss, scaled as `Differences.delta` is: shaped like
        theta, with a leading n.
    """
    _, keys = _keys(pop, clock.key)

    def pair(inner: Any, t: Array, length: Array, keys: PRNGKeyArray) -> tuple[Any, Any]:
        def objective(theta: Any) -> tuple[Array, Any]:
            after, sums = _window(pop, theta, inner, t, length, keys, data)
            return _objective(pop, sums), after

        gradient, after = jax.grad(objective, has_aux=True)(theta)
        return after, gradient

    return jax.vmap(pair)(inner, clock.t, clock.length, keys)


def after_window(pop: Population, clock: Clock, finite: Bool[Array, "n"]) -> Clock:
    """The clock after the window; a pair that was not finite ends its trajectory there."""
    return clock._replace(t=jnp.where(finite, clock.t + pop.cut.steps, clock.length))


def report(shown: Differences) -> dict[str, Array]:
    """The metrics of a window, means over pairs in which a dropped pair is 0; `finish` makes them right."""
    kept = shown.finite.astype(shown.loss.dtype).mean()
    return {"loss": shown.loss.mean(), **jax.tree.map(jnp.mean, shown.aux), "kept": kept}


def finish(gradient: Any, metrics: dict[str, Array]) -> tuple[Any, dict[str, Array]]:
    """From means over all pairs to means over those that were kept.

    To be applied after the mean over devices, so that the number of devices makes no difference. Without a single
    finite pair the gradient is 0 and the loss NaN.
    """
    kept = metrics["kept"]
    share = jnp.where(kept > 0, 1 / kept, 1)
    gradient = jax.tree.map(lambda g: g * share.astype(g.dtype), gradient)
    means = {name: value / kept for name, value in metrics.items() if name != "kept"}
    return gradient, {**means, "dropped": 1 - kept}


def _keys(pop: Population, keys: PRNGKeyArray) -> tuple[PRNGKeyArray, PRNGKeyArray]:
    split = jax.vmap(lambda k: jax.random.split(k, 1 + pop.tasks))(keys)
    return split[:, 0], split[:, 1:]


# Particles lie on one flat axis [n signs] while they are computed: two nested axes would be two loops around every
# small operation, which costs a factor of two where steps are cheap.


def _perturbed(pop: Population, theta: Any, eps: Any, sigma: Float[Array, "n"], signs: tuple[float, ...]) -> Any:
    def pair(eps: Any, sigma: Array) -> Any:
        return jax.vmap(lambda sign: pop.noise.scaled(theta, eps, sign * sigma))(jnp.asarray(signs, sigma.dtype))

    return _flat(jax.vmap(pair)(eps, sigma))


def _for_each(signs: tuple[float, ...], tree: Any) -> Any:
    return jax.tree.map(lambda a: jnp.repeat(a, len(signs), axis=0), tree)


def _flat(tree: Any) -> Any:
    return jax.tree.map(lambda a: a.reshape(a.shape[0] * a.shape[1], *a.shape[2:]), tree)


def _unflat(tree: Any, signs: int) -> Any:
    return jax.tree.map(lambda a: a.reshape(a.shape[0] // signs, signs, *a.shape[1:]), tree)


def _window(
    pop: Population, theta: Any, inner: Any, t: Array, length: Array, keys: PRNGKeyArray, data: Any
) -> tuple[Any, dict[str, Float[Array, "K"]]]:
    # K trajectories with one theta: states, and the sums of losses and aux over the valid steps.
    loop, cut = pop.loop, pop.cut
    constant = cut.horizon.shortest == cut.horizon.longest
    valid = t + jnp.arange(cut.steps, dtype=jnp.int32) < length

    def total(values: Float[Array, "K W"]) -> Float[Array, "K"]:
        return jnp.where(jnp.broadcast_to(valid, values.shape), accurate(values), 0).sum(-1)

    if loop.run is not None and constant and cut.steps == loop.length == cut.horizon.longest:
        inner, losses, aux = loop.run(theta, inner, jnp.int32(0), cut.steps, keys, data)
        return inner, {name: total(value) for name, value in {"loss": losses, **aux}.items()}
    # Where no window reaches past the end of its trajectory, masking would be the dearest part of a cheap step.
    end = None if constant and cut.horizon.longest % cut.steps == 0 else length
    run = jax.vmap(lambda s, k: add_up_steps(loop, theta, s, t, cut.steps, end, k, data))
    inner, losses, aux = run(inner, keys)
    return inner, {"loss": losses, **{name: total(value) for name, value in aux.items()}}


def _objective(pop: Population, sums: dict[str, Float[Array, "*B K"]]) -> Float[Array, "*B"]:
    # Divided by W and not by the valid steps, so that the windows of a trajectory add up to its loss.
    return sums["loss"].mean(-1) / pop.cut.steps


def _differences(pop: Population, clock: Clock, sums: dict[str, Float[Array, "n S K"]]) -> Differences:
    objective = _objective(pop, sums)
    finite = jnp.isfinite(objective[:, :2]).all(-1)
    delta = jnp.where(finite, pop.shaping((objective[:, 0] - objective[:, 1]) / 2), 0)
    valid = jnp.minimum(clock.length - clock.t, pop.cut.steps).astype(delta.dtype)

    def mean(values: Float[Array, "n S K"]) -> Float[Array, "n"]:
        return jnp.where(finite, values[:, :2].mean((1, 2)) / valid.astype(values.dtype), 0)

    means = {name: mean(value) for name, value in sums.items()}
    return Differences(delta, finite, means.pop("loss"), means)

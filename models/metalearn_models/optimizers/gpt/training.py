"""Training a generator: pairs of checkpoints of one run as an inner loop of one step, and an average of the weights.

A pair is a trajectory, so `metalearn.gradients.backprop` and the outer loop train a generator like anything else.

Shapes: R runs, S recorded steps, P parameters, T times of the noise process.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from metalearn.inner import InnerLoop
from metalearn_models.optimizers.gpt.diffusion import add_noise
from metalearn_models.optimizers.gpt.flow import between
from metalearn_models.optimizers.gpt.generator import SPREAD, Generator

__all__ = ["Averaged", "Pairs", "average_of", "measure_errors", "pairs_loop", "with_average"]


class Pairs(NamedTuple):
    """Checkpoints to draw pairs from.

    Attributes:
        params: in units of the network, see `Generator.scaled`.
        losses: what they are prompted by.
    """

    params: Float[Array, "R S P"]
    losses: Float[Array, "R S"]


def pairs_loop(generator: Generator, from_start: float = 0.5) -> InnerLoop:
    """The squared error of the predicted parameters, of a random pair and time.

    Args:
        generator: what is trained; theta is its Transformer.
        from_start: share of the pairs whose present checkpoint is the initialisation; it is uniform otherwise. The
            wished one is uniform among the later ones. Our choice: one jump from an initialisation is what is judged.
    """

    def init(theta: Any, data: Pairs, key: PRNGKeyArray) -> Array:
        del theta, data, key
        return jnp.zeros(())

    def step(
        theta: Any, state: Array, t: Array, key: PRNGKeyArray, data: Pairs
    ) -> tuple[Array, Array, dict[str, Array]]:
        del t
        draw, noise = jax.random.split(key)
        present, wished, losses = draw_pair(draw, data, from_start)
        return (
            state,
            jnp.mean(jnp.square(_predict_noised(generator, theta, present, wished, losses, noise) - wished)),
            {},
        )

    return InnerLoop(init, step, length=1)


def draw_pair(key: PRNGKeyArray, data: Pairs, from_start: float) -> tuple[Array, Array, Array]:
    """A present checkpoint, a later one of the same run, and both losses."""
    runs, snapshots = data.losses.shape
    keys = jax.random.split(key, 4)
    run = jax.random.randint(keys[0], (), 0, runs)
    first = jax.random.randint(keys[1], (), 0, snapshots - 1)
    first = jnp.where(jax.random.bernoulli(keys[2], from_start), 0, first)
    later = jax.random.randint(keys[3], (), first + 1, snapshots)
    return (
        data.params[run, first],
        data.params[run, later],
        jnp.stack([data.losses[run, first], data.losses[run, later]]),
    )


def _predict_noised(
    generator: Generator, theta: Any, present: Array, wished: Array, losses: Array, key: PRNGKeyArray
) -> Array:
    when, key = jax.random.split(key)
    noise = jax.random.normal(key, wished.shape, wished.dtype)
    if generator.config.method == "flow":
        time = jax.random.uniform(when)
        return generator.predict(theta, between(wished, SPREAD * noise, time), present, time, losses)
    number = jax.random.randint(when, (), 0, len(generator.schedule.kept))
    if generator.config.method == "regression":
        return generator.predict(theta, noise, present, jnp.float32(0), losses)
    kept = jnp.asarray(generator.schedule.kept, jnp.float32)[number]
    return generator.predict(theta, add_noise(wished, noise, kept), present, _share(number, generator), losses)


def measure_errors(
    generator: Generator, theta: Any, data: Pairs, key: PRNGKeyArray, points: int = 20, pairs: int = 256
) -> Float[Array, "T"]:
    """The mean squared error of the prediction at each time of the noise process, for variance "learned".

    Args:
        generator: of method "diffusion".
        theta: its weights.
        data: checkpoints that it was not trained on, if there are.
        key: random key.
        points: times at which it is measured; between them it is interpolated.
        pairs: pairs per time.
    """
    count = len(generator.schedule.kept)
    numbers = jnp.linspace(0, count - 1, points).astype(jnp.int32)

    def one(number: Array, key: PRNGKeyArray) -> Array:
        draw, noise = jax.random.split(key)
        present, wished, losses = draw_pair(draw, data, 1.0)
        kept = jnp.asarray(generator.schedule.kept, jnp.float32)[number]
        noisy = add_noise(wished, jax.random.normal(noise, wished.shape), kept)
        return jnp.mean(
            jnp.square(generator.predict(theta, noisy, present, _share(number, generator), losses) - wished)
        )

    keys = jax.random.split(key, pairs)
    measured = jax.lax.map(lambda number: jax.vmap(one, (None, 0))(number, keys).mean(), numbers)
    return jnp.interp(jnp.arange(count, dtype=jnp.float32), numbers.astype(jnp.float32), measured)


def _share(number: Array, generator: Generator) -> Array:
    """The time of a step of the noise process, in [0, 1]."""
    return number.astype(jnp.float32) / (len(generator.schedule.kept) - 1)


class Averaged(NamedTuple):
    """State of `with_average`.

    Attributes:
        inner: state of the optimizer.
        average: of the parameters.
        step: int32.
    """

    inner: Any
    average: Any
    step: Array


def with_average(optimizer: optax.GradientTransformation, decay: float = 0.999) -> optax.GradientTransformation:
    """The same optimizer, whose state also holds an exponential average of the parameters.

    Args:
        optimizer: any.
        decay: 0.9999 in the paper. During the first steps it is (1 + t) / (10 + t), if that is less, so that the
            initialisation is forgotten.

    Raises:
        ValueError: the decay is not in [0, 1).
    """
    if not 0 <= decay < 1:
        raise ValueError(f"decay must be in [0, 1), got {decay}")

    def init(params: Any) -> Averaged:
        return Averaged(optimizer.init(params), jax.tree.map(jnp.copy, params), jnp.int32(0))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Averaged]:
        if params is None:
            raise ValueError("with_average reads the parameters: call update(grads, state, params), got None")
        updates, inner = optimizer.update(updates, state.inner, params)
        new, rate = optax.apply_updates(params, updates), _rate(decay, state.step)
        average = jax.tree.map(lambda a, x: (rate * a + (1 - rate) * x).astype(a.dtype), state.average, new)
        return updates, Averaged(inner, average, state.step + 1)

    return optax.GradientTransformation(init, update)


def _rate(decay: float, step: Array) -> Array:
    t = step.astype(jnp.float32)
    return jnp.minimum(decay, (1 + t) / (10 + t))


def average_of(state: Any) -> Any:
    """The average that `with_average` keeps, found in the state of any chain of optimizers around it.

    Raises:
        ValueError: there is none.
    """
    found = [x for x in jax.tree.leaves(state, is_leaf=lambda x: isinstance(x, Averaged)) if isinstance(x, Averaged)]
    if not found:
        raise ValueError("this optimizer's state holds no average of the parameters: wrap it in with_average")
    return found[0].average

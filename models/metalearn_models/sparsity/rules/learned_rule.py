"""A learned rule: what is dropped and grown follows from small functions whose parameters can be meta-trained.

The scores to keep and to grow an entry are weighted sums of five features: the magnitude of the weight, of the dense
gradient and of its running mean, the age, and noise. SET, SNFS and RigL are points of this family, to the bit. Which
connections move has no gradient, so evolution strategies train it. The family is ours; its idea, to search for the rule
of growth, has no single source.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from metalearn_models.optimizers.contract import LearnedOptimizer
from metalearn_models.sparsity.contract import Masks, Rule
from metalearn_models.sparsity.masks import map_masks, random_scores
from metalearn_models.sparsity.rules.cycle import Cycle
from metalearn_models.sparsity.rules.drop_grow import Layer, drop_and_grow

__all__ = [
    "FEATURES",
    "Memory",
    "Topology",
    "learned_rule",
    "learned_topology",
    "rigl_theta",
    "set_theta",
    "snfs_theta",
]

FEATURES = ("weight", "gradient", "mean", "age", "noise")
"""Magnitudes of the weight, of the dense gradient and of its running mean, each over a power of two near its mean in
the layer; steps since the entry went on or off, over `every`; uniform noise in [0, 1)."""

DECAY = 0.9
"""Of the running mean, as the default of `snfs`."""

USUAL_EVERY = 100
"""Steps between two changes where theta says 0."""


class Topology(NamedTuple):
    """Meta-parameters of a learned rule; a change of .1 is a small one for each of them.

    Attributes:
        keep: weight of each feature in the score by which connections are kept.
        grow: weight of each feature in the score by which entries that are off grow.
        alpha: share of the connections that moves at first; read as if within [0, 1].
        every: steps between two changes are 100 * 2^every, rounded, at least 1.
        end: the time of the last change as a share of the training; read as if within [0, 1].
    """

    keep: Float[Array, "5"]
    grow: Float[Array, "5"]
    alpha: Float[Array, ""]
    every: Float[Array, ""]
    end: Float[Array, ""]


class Memory(NamedTuple):
    """What a learned rule remembers of a layer.

    Attributes:
        mean: the running mean of the dense gradient.
        age: steps since each entry went on or off.
    """

    mean: Float[Array, "*S"]
    age: Float[Array, "*S"]


def rigl_theta(alpha: float = 0.3, end: float = 0.75) -> Topology:
    """RigL, and nothing else; with `pauses=True` it is RigL to the bit."""
    return _theta("gradient", alpha, end)


def set_theta(alpha: float = 0.3, end: float = 0.75) -> Topology:
    """SET; with `pauses=False` to the bit."""
    return _theta("noise", alpha, end)


def snfs_theta(alpha: float = 0.3, end: float = 0.75) -> Topology:
    """SNFS; with `pauses=False` to the bit."""
    return _theta("mean", alpha, end)


def _theta(grow: str, alpha: float, end: float) -> Topology:
    one_hot = jnp.eye(len(FEATURES), dtype=jnp.float32)
    numbers = (jnp.asarray(x, jnp.float32) for x in (alpha, 0.0, end))
    return Topology(one_hot[FEATURES.index("weight")], one_hot[FEATURES.index(grow)], *numbers)


def learned_rule(theta: Topology, num_steps: Any, pauses: bool = False) -> Rule:
    """The rule of given meta-parameters.

    Args:
        theta: meta-parameters, which may be traced.
        num_steps: number of training steps; a number or a traced scalar.
        pauses: whether the inner optimizer waits while connections change, as in RigL.
    """
    every = jnp.maximum(jnp.round(USUAL_EVERY * jnp.exp2(theta.every)), 1.0).astype(jnp.int32)
    end = jnp.round(jnp.clip(theta.end, 0.0, 1.0) * jnp.asarray(num_steps, jnp.float32)).astype(jnp.int32)
    cycle = Cycle(end, every, jnp.clip(theta.alpha, 0.0, 1.0))

    def score(weights: Float[Array, "5"]) -> Callable[[Layer], Float[Array, "*S"]]:
        def total(layer: Layer) -> Float[Array, "*S"]:
            features = (
                _over_power_of_two(layer.weight, layer.mask),
                _over_power_of_two(layer.grad),
                _over_power_of_two(layer.memory.mean),
                layer.memory.age / every.astype(jnp.float32),
                random_scores(layer.key, layer.weight),
            )
            # A feature that does not count is left out, even where it is not finite.
            terms = [jnp.where(w == 0, 0.0, w * x) for w, x in zip(weights, features, strict=True)]
            return sum(terms[1:], terms[0])

        return total

    return drop_and_grow(
        "learned-topology",
        cycle,
        score(theta.keep),
        score(theta.grow),
        pauses=pauses,
        restart_regrown=True,
        init=_no_memory,
        watch=_watch,
        after=_restart_ages,
    )


def learned_topology(
    inner: Callable[[Any], optax.GradientTransformation],
    wrap: Callable[[optax.GradientTransformation, Rule], optax.GradientTransformationExtraArgs],
    pauses: bool = True,
) -> LearnedOptimizer:
    """Sparse training whose rule is theta, for the machinery that meta-trains learned optimizers.

        learned_topology(lambda num_steps: optax.adam(1e-3), lambda tx, rule: sparse(tx, rule, erk, 0.9))

    Args:
        inner: `(num_steps) -> optimizer`, of the weights.
        wrap: puts sparse training under a rule around it.
        pauses: whether the inner optimizer waits while connections change.

    Returns:
        A learned optimizer whose `init` is RigL with its usual constants, whatever the key. `transform` needs the
        number of steps.
    """

    def init(key: PRNGKeyArray) -> Topology:
        del key
        return rigl_theta()

    def transform(theta: Topology, num_steps: Any = None) -> optax.GradientTransformationExtraArgs:
        if num_steps is None:
            raise ValueError("a learned topology plans its last change: give transform the number of steps, got None")
        return wrap(inner(num_steps), learned_rule(theta, num_steps, pauses))

    return LearnedOptimizer(init, transform)


def _over_power_of_two(x: Float[Array, "*S"], among: Any = None) -> Float[Array, "*S"]:
    """Magnitudes over the power of two below their mean.

    The division is exact, so a score of one feature alone keeps its order and its ties.
    """
    size = jnp.abs(x).astype(jnp.float32)
    counted = size if among is None else jnp.where(among, size, 0.0)
    count = size.size if among is None else jnp.maximum(among.astype(jnp.float32).sum(), 1.0)
    mean = jnp.where(jnp.isfinite(counted), counted, 0.0).sum() / count
    exponent = jax.lax.bitcast_convert_type(mean, jnp.uint32) & jnp.uint32(0x7F800000)
    power = jax.lax.bitcast_convert_type(exponent, jnp.float32)
    return size / jnp.where((power > 0) & jnp.isfinite(power), power, 1.0)


def _no_memory(params: Any, masks: Masks) -> Any:
    return map_masks(lambda m, p: Memory(*(jnp.zeros_like(p, jnp.float32) for _ in range(2))), masks, params)


def _watch(memory: Any, grads: Any, masks: Masks) -> Any:
    decay = jnp.float32(DECAY)

    def watch(m: Array, g: Array, part: Memory) -> Memory:
        mean = jnp.where(jnp.isfinite(g), decay * part.mean + (1.0 - decay) * g.astype(jnp.float32), part.mean)
        return Memory(mean, part.age + 1.0)

    return map_masks(watch, masks, grads, memory)


def _restart_ages(memory: Any, dropped: Masks, fresh: Masks) -> Any:
    def restart(d: Array, f: Array, part: Memory) -> Memory:
        return Memory(part.mean, jnp.where(d | f, 0.0, part.age))

    return map_masks(restart, dropped, fresh, memory)

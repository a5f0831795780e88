"""The optimizers of the suite, each with seven learning rates at equal distances, of a length that is data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from metalearn_models import optimizers
from metalearn_models.optimizers.learned.compass import scale_by_compass

__all__ = ["FRESH", "ORTHOGONAL", "RATES", "RULES", "TRAINED", "Rule", "cosine", "make_rules"]

RATES = tuple(10 ** (k / 2) for k in range(-3, 4))
"""Factors on the middle rate: half decades, from 0.03 to 30 times."""

MIDDLE = 10**-2.5
"""Of Adam's kin: their sweep is 1e-4 to 1e-1."""


class Rule(NamedTuple):
    """An optimizer.

    Attributes:
        make: `(rate, steps) -> transformation`; both may be traced.
        middle: the rate in the middle of the sweep.
        default: what a user would take without tuning, one of the sweep; small-fc and STAR are taken as they are.
    """

    make: Callable[[Any, Any], Any]
    middle: float
    default: float


def cosine(rate: Any, steps: Any) -> Callable[[Any], Array]:
    """A schedule that falls from `rate` to 0 over `steps`; both may be traced."""

    def schedule(step: Any) -> Array:
        return rate * (0.5 + 0.5 * jnp.cos(jnp.pi * jnp.minimum(step / steps, 1.0)))

    return schedule


def _scaled(name: str) -> Callable[[Any, Any], Any]:
    """A learned optimizer whose updates are multiplied by the rate."""

    def make(rate: Any, steps: Any) -> Any:
        del steps
        trained = optimizers.read(name)
        return optax.chain(trained.optimizer.transform(trained.theta), optax.scale(rate))

    return make


def _compass(theta: Any, orthogonalise: bool) -> Callable[[Any, Any], Any]:
    def make(rate: Any, steps: Any) -> Any:
        direction = scale_by_compass(jax.tree.map(jnp.asarray, theta), orthogonalise)
        return optax.chain(direction, optax.scale_by_learning_rate(cosine(rate, steps)))

    return make


def _fresh_compass(orthogonalise: bool) -> Callable[[Any, Any], Any]:
    """Adam's direction with a length of 1 per tensor: what of compass is not learned."""
    return lambda rate, steps: _compass(optimizers.make("compass").init(jax.random.key(0)), orthogonalise)(rate, steps)


FRESH, ORTHOGONAL, TRAINED = "normalised Adam, cosine", "orthogonal Adam, cosine", "compass, cosine"

RULES: dict[str, Rule] = {
    "momentum, cosine": Rule(lambda rate, steps: optax.sgd(cosine(rate, steps), 0.9), 10 * MIDDLE, 1e-2),
    "Adam": Rule(lambda rate, steps: optax.adam(rate), MIDDLE, 1e-3),
    "AdamW, cosine": Rule(lambda rate, steps: optax.adamw(cosine(rate, steps)), MIDDLE, 1e-3),
    "NadamW, cosine": Rule(lambda rate, steps: optax.nadamw(cosine(rate, steps)), MIDDLE, 1e-3),
    "Muon, cosine": Rule(lambda rate, steps: optax.contrib.muon(cosine(rate, steps)), MIDDLE, 1e-3),
    "schedule-free AdamW": Rule(
        lambda rate, steps: optax.contrib.schedule_free_adamw(rate, warmup_steps=50), MIDDLE, 1e-3
    ),
    "STAR": Rule(_scaled("star-digits-500"), 1.0, 1.0),
    "small-fc": Rule(_scaled("small-fc-digits-500"), 1.0, 1.0),
    FRESH: Rule(_fresh_compass(False), MIDDLE, 1e-3),
    ORTHOGONAL: Rule(_fresh_compass(True), MIDDLE, 1e-3),
}
"""By name. "Cosine": the rate falls from its value to 0 over the training."""


def make_rules(weights: str | None) -> dict[str, Rule]:
    """All rules by name.

    Args:
        weights: the folder of a run of `metalearn train-optimizer compass`, or its file of weights. None: no compass
            that was meta-trained.

    Raises:
        RunError, FileNotFoundError, UnknownNameError: there are no such weights.
        ValueError: they are of another optimizer.
    """
    if weights is None:
        return RULES
    trained = optimizers.read(weights)
    if trained.name != "compass":
        raise ValueError(f"--weights must be those of compass, got those of {trained.name}")
    orthogonalise = trained.card["optimizer"]["settings"].get("orthogonalise", False)
    return RULES | {TRAINED: Rule(_compass(trained.theta, orthogonalise), MIDDLE, 1e-3)}

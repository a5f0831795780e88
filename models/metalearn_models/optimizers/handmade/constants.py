"""The constants of any optimizer as meta-parameters.

As in Metz et al. 2022 (arXiv 2203.11860), which learns those of SGD and Adam, theta holds the logarithm of what is
positive (learning rates, damping) and log(1 - decay) of what is a decay. A learned decay below 0 counts as 0.

Everything inside is float32, whatever the dtype of the parameters; updates have the dtype of the gradients. Gradients
are read as if they were at most 1e15 (`frame.LARGEST`), so that their squares have a mean. Evolution
strategies (NRES, PES) take the meta-gradients of any optimizer. Backpropagation gives NaN where the rule itself has no
derivative, such as the root of a mean square that is 0.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from metalearn_models.optimizers.contract import Differentiate, LearnedOptimizer, float32, loss_and_gradient
from metalearn_models.optimizers.frame import read_gradient, transformation
from metalearn_models.optimizers.learned.parts.constants import log_of_positive

__all__ = ["decode_constants", "encode_constants", "learn_constants"]

PREFIX, DECAY_PREFIX = "log_", "log_1_minus_"


def learn_constants(
    make: Callable[..., optax.GradientTransformation],
    positive: tuple[str, ...],
    decays: tuple[str, ...] = (),
    differentiate: Differentiate = loss_and_gradient,
) -> Callable[..., LearnedOptimizer]:
    """A factory of learned optimizers from a factory of optax transformations.

    Args:
        make: a function with a default for each argument; those that are learned may be traced scalars.
        positive: arguments whose logarithm is learned.
        decays: arguments from 0 to below 1, of which log(1 - decay) is learned.
        differentiate: what a training loop computes for the optimizer; see `LearnedOptimizer`.

    Returns:
        A function with the arguments of `make`, which are where a fresh theta begins. Arguments that are not learned
        stay what they are. Theta is a dict of scalars, `log_...` and `log_1_minus_...`.

    Raises:
        ValueError: `make` has no such argument. The function that is returned raises ValueError if a constant to begin
            from is out of its range.
    """
    known = inspect.signature(make).parameters
    missing = [name for name in (*positive, *decays) if name not in known]
    if missing:
        raise ValueError(f"constants to learn must be arguments of the optimizer ({', '.join(known)}), got {missing}")

    @functools.wraps(make)
    def factory(*args: Any, **settings: Any) -> LearnedOptimizer:
        bound = inspect.signature(make).bind(*args, **settings)
        bound.apply_defaults()
        constants = dict(bound.arguments)
        learned = {name: constants[name] for name in (*positive, *decays)}
        fixed = {name: x for name, x in constants.items() if name not in learned}
        fresh = encode_constants(learned, decays)

        def init(key: PRNGKeyArray) -> dict[str, Float[Array, ""]]:
            del key  # nothing is random here
            return fresh

        def transform(theta: Any, num_steps: Any = None) -> optax.GradientTransformationExtraArgs:
            del num_steps
            return _in_float32(theta, make(**fixed, **decode_constants(theta)))

        return LearnedOptimizer(init, transform, differentiate)

    return factory


def encode_constants(constants: Mapping[str, float], decays: tuple[str, ...] = ()) -> dict[str, Float[Array, ""]]:
    """Theta from the values of constants.

    Args:
        constants: by name.
        decays: names of those that are decays; all others must be positive.

    Raises:
        ValueError: a value is out of its range.
    """
    theta = {}
    for name, x in constants.items():
        if name in decays:
            if not 0 <= x < 1:
                raise ValueError(f"{name} must be from 0 to below 1, because log(1 - {name}) is learned, got {x}")
            theta[DECAY_PREFIX + name] = jnp.float32(math.log1p(-x))
        else:
            theta[PREFIX + name] = log_of_positive(name, x)
    return theta


def decode_constants(theta: Mapping[str, Float[Array, ""]]) -> dict[str, Float[Array, ""]]:
    """The values of constants from theta, by name."""
    constants = {}
    for name, x in theta.items():
        if name.startswith(DECAY_PREFIX):
            constants[name.removeprefix(DECAY_PREFIX)] = -jnp.expm1(jnp.minimum(float32(x), 0.0))
        else:
            constants[name.removeprefix(PREFIX)] = jnp.exp(float32(x))
    return constants


def _in_float32(theta: Any, inner: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    """The optimizer with a state and arithmetic of float32, and updates in the dtype of the gradients."""
    tx = optax.with_extra_args_support(inner)

    def start(params: optax.Params) -> Any:
        with jax.numpy_dtype_promotion("standard"):  # optax relies on it
            return jax.tree.map(_narrow, tx.init(jax.tree.map(float32, params)))

    def update(
        updates: optax.Updates, state: Any, params: optax.Params | None = None, **extra: Any
    ) -> tuple[optax.Updates, Any]:
        with jax.numpy_dtype_promotion("standard"):
            grads, params = jax.tree.map(read_gradient, updates), jax.tree.map(float32, params)
            new, after = tx.update(grads, state, params, **extra)
        after = jax.tree.map(lambda new, old: jnp.asarray(new, jnp.result_type(old)), after, state)
        return jax.tree.map(lambda u, g: u.astype(g.dtype), new, updates), after

    return transformation(theta, start, update)


def _narrow(x: Array) -> Array:
    """A part of a state, in float32 if it is real: optax has constants there that are float64 under x64."""
    return jnp.asarray(x, jnp.float32) if jnp.issubdtype(jnp.result_type(x), jnp.floating) else jnp.asarray(x)

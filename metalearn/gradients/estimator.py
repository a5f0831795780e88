"""The contract of all estimators of meta-gradients: two pure functions.

An estimator turns an inner loop into gradients of its expected loss with respect to `theta`. The trajectories of a
batch are on the leading axis of every leaf of its state, together with their global indices, from which all keys
derive. The outer loop can therefore split that axis over devices without the estimator knowing, and without changing a
number.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

__all__ = ["Estimator", "typed_key", "with_schedule", "with_typed_keys"]


class Estimator(NamedTuple):
    """A source of meta-gradients.

    Attributes:
        init: `(theta, data, key) -> state`; every leaf has the trajectories on its leading axis. It raises TypeError if
            theta is not a pytree of float arrays, or if the inner loop does not do what `InnerLoop` says.
        grad: `(theta, state, data, key, outer_step) -> (gradient, state, metrics)`; the gradient and each scalar in
            `metrics` (always `"loss"`) are means over the trajectories in `state`.
        batch: number of trajectories, the size of that leading axis.
        finish: `(gradient, metrics) -> (gradient, metrics)`, applied once to the means over all trajectories of all
            devices, for results that are not means themselves, such as ratios of means.
    """

    init: Callable[..., Any]
    grad: Callable[..., tuple[Any, Any, dict[str, Array]]]
    batch: int
    finish: Callable[..., tuple[Any, dict[str, Array]]] = lambda gradient, metrics: (gradient, metrics)


def typed_key(key: Any) -> Any:
    """A key as `jax.random.key` makes it. Raw keys of `jax.random.PRNGKey` are wrapped, with the same random numbers.

    Raises:
        TypeError: neither kind of key, or more than one.
    """
    if getattr(key, "shape", None) == () and jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        return key
    if getattr(key, "dtype", None) == jnp.uint32 and key.ndim == 1:
        return jax.random.wrap_key_data(key)
    raise TypeError(f"key must be one key, such as jax.random.key(0), got {key!r:.80}")


def with_typed_keys(estimator: Estimator) -> Estimator:
    """The same estimator, which takes raw keys too."""

    def init(theta: Any, data: Any, key: Any) -> Any:
        return estimator.init(theta, data, typed_key(key))

    def grad(theta: Any, state: Any, data: Any, key: Any, outer_step: Any) -> tuple[Any, Any, dict[str, Array]]:
        return estimator.grad(theta, state, data, typed_key(key), outer_step)

    return estimator._replace(init=init, grad=grad)


def with_schedule(estimator: Estimator, schedule: Callable[[Any, Array], Any]) -> Estimator:
    """An estimator whose data depend on the outer step, for curricula and annealed biases.

    Args:
        estimator: any estimator.
        schedule: `(data, outer_step) -> data`, traced inside the outer step; it must keep all shapes and dtypes.
    """

    def grad(theta: Any, state: Any, data: Any, key: Any, outer_step: Array) -> tuple[Any, Any, dict[str, Array]]:
        return estimator.grad(theta, state, schedule(data, outer_step), key, outer_step)

    return estimator._replace(grad=grad)

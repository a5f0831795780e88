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
from jaxtyping import Array, Float

from metalearn.inner import typed_key

__all__ = ["AXIS", "Estimator", "gather_trajectories", "means_over_kept", "with_schedule", "with_typed_keys"]

AXIS = "trajectories"
"""The axis of the mesh over which an outer loop splits trajectories."""


class Estimator(NamedTuple):
    """A source of meta-gradients.

    What the metric `"loss"` is the mean of, in all cases over trajectories and before any shaping:

        backprop                         the steps of whole trajectories, at theta
        truncated_backprop, rtrl, dodge  the steps of the window that are before the end of the trajectory, at theta
        full_es                          the steps of whole trajectories, at theta + eps and theta - eps
        nres, pes, gpes, truncated_es,   the same of the window; pairs that are not finite are left out
        nres_a, pes_a

    With a curriculum, steps that do not count yet are left out, whatever the estimator. So the losses of two estimators
    are comparable only for the same windows, and those of evolution strategies are of the smoothed loss. To compare
    two of them, score their theta, as `curve_scorer` does.

    Attributes:
        init: `(theta, data, key) -> state`; every leaf has the trajectories on its leading axis. It raises TypeError if
            theta is not a pytree of float arrays, or if the inner loop does not do what `InnerLoop` says.
        grad: `(theta, state, data, key, outer_step) -> (gradient, state, metrics)`; the gradient and each scalar in
            `metrics` (always `"loss"`) are means over the trajectories in `state`.
        batch: number of trajectories, the size of that leading axis.
        finish: `(gradient, metrics) -> (gradient, metrics)`, applied once to the means over all trajectories of all
            devices, for results that are not means themselves, such as ratios of means.
        small_operations: whether `grad` is many small operations and few matrix products, as the inner steps of
            evolution strategies are. The outer loop then has them compiled at a lower level of optimization on CPUs,
            which takes less time, with the same numbers up to rounding (`docs/scaling.md`).
    """

    init: Callable[..., Any]
    grad: Callable[..., tuple[Any, Any, dict[str, Array]]]
    batch: int
    finish: Callable[..., tuple[Any, dict[str, Array]]] = lambda gradient, metrics: (gradient, metrics)
    small_operations: bool = False


def with_typed_keys(estimator: Estimator) -> Estimator:
    """The same estimator, which takes raw keys too."""

    def init(theta: Any, data: Any, key: Any) -> Any:
        return estimator.init(theta, data, typed_key(key))

    def grad(theta: Any, state: Any, data: Any, key: Any, outer_step: Any) -> tuple[Any, Any, dict[str, Array]]:
        return estimator.grad(theta, state, data, typed_key(key), outer_step)

    return estimator._replace(init=init, grad=grad)


def means_over_kept(gradient: Any, metrics: dict[str, Array]) -> tuple[Any, dict[str, Array]]:
    """Turn means over all pairs into means over those that were kept.

    Apply it after the mean over devices, so that the number of devices makes no difference. Without any finite pair the
    gradient is 0 and the loss NaN.
    """
    kept = metrics["kept"]
    share = jnp.where(kept > 0, 1 / kept, 1)
    gradient = jax.tree.map(lambda g: g * share.astype(g.dtype), gradient)
    means = {name: value / kept for name, value in metrics.items() if name != "kept"}
    return gradient, {**means, "dropped": 1 - kept}


def gather_trajectories(values: Float[Array, "B *S"]) -> tuple[Float[Array, "N *S"], Any]:
    """The values of the trajectories of all devices, in the order of their global indices.

    Returns:
        The values, those of this device alone outside of an outer loop over a mesh, and the place of the first of this
        device's own among them.
    """
    try:
        device = jax.lax.axis_index(AXIS)
    except NameError:  # this is how JAX says that there is no such axis here
        return values, 0
    return jax.lax.all_gather(values, AXIS, tiled=True), device * len(values)


def with_schedule(estimator: Estimator, schedule: Callable[[Any, Array], Any]) -> Estimator:
    """An estimator whose data depend on the outer step, for curricula and annealed biases.

    Args:
        estimator: any estimator.
        schedule: `(data, outer_step) -> data`, traced inside the outer step; it must keep all shapes and dtypes.
    """

    def grad(theta: Any, state: Any, data: Any, key: Any, outer_step: Array) -> tuple[Any, Any, dict[str, Array]]:
        return estimator.grad(theta, state, schedule(data, outer_step), key, outer_step)

    return estimator._replace(grad=grad)

"""Sharpness-aware minimization (SAM): Foret, Kleiner, Mobahi, Neyshabur 2021 (arXiv 2010.01412), by optax.

The gradient is taken at the worst point nearby, `params + rho g / |g|`, and any optimizer makes its step of it. The
step needs a second gradient, which only the training loop can compute: `update` takes `grad_fn`, and `loss_and_grad_fn`
is the `differentiate` of a `LearnedOptimizer` whose training loop passes it on.

    tx = sam(optax.sgd(0.1, momentum=0.9), rho=0.05)
    grad_fn = lambda params, i: jax.grad(loss)(params, batch)  # i counts the points, from 0
    updates, state = tx.update(grads, state, params, grad_fn=grad_fn)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from metalearn_models.optimizers.handmade.first_order import Scalar

__all__ = ["loss_and_grad_fn", "sam", "sam_momentum"]


def sam(
    optimizer: optax.GradientTransformation, rho: Scalar = 0.05, axis: str | None = None
) -> optax.GradientTransformationExtraArgs:
    """`optax.contrib.sam` in its opaque mode, where a gradient of 0 does not become NaN.

    One update calls `grad_fn` once, and so costs two gradients. The optimizer inside gets no extra arguments.

    Args:
        optimizer: makes the step of the gradient at the worst point.
        rho: distance to that point. The default is the paper's from memory.
        axis: name of the mesh axis over which the second gradient is averaged, where `update` runs on every device of
            it with gradients that are averaged already. The devices then look at one common point. None: it is not
            averaged.

    Returns:
        The transformation. Its `update` needs params, and raises ValueError without `grad_fn`.
    """
    towards = optax.chain(_direction(), optax.sgd(rho))
    inner = optax.contrib.sam(optimizer, towards, opaque_mode=True, batch_axis_name=axis)

    def update(
        updates: Any, state: Any, params: Any = None, *, grad_fn: Any = None, **extra: Any
    ) -> tuple[optax.Updates, Any]:
        del extra
        if grad_fn is None or params is None:
            missing = "grad_fn" if grad_fn is None else "params"
            raise ValueError(
                "sam needs the gradient at a second point: call update(grads, state, params, grad_fn=lambda params, i: "
                f"jax.grad(loss)(params, batch)), got {missing}=None"
            )
        return inner.update(updates, state, params, grad_fn=grad_fn)

    return optax.GradientTransformationExtraArgs(inner.init, update)


def sam_momentum(
    learning_rate: Scalar = 1e-2, momentum: Scalar = 0.9, rho: Scalar = 0.05
) -> optax.GradientTransformationExtraArgs:
    """SAM around SGD with momentum, as in the paper.

    Args:
        learning_rate: factor on the sum of gradients.
        momentum: decay of the sum.
        rho: see `sam`.
    """
    return sam(optax.sgd(learning_rate, momentum), rho)


def loss_and_grad_fn(
    loss_fn: Callable[[Any], Float[Array, ""]],
) -> Callable[[Any, Any], tuple[Any, Any, dict[str, Any]]]:
    """The `differentiate` of optimizers that take gradients at points of their own, on the batch of the step."""

    def compute(params: Any, key: Any = None) -> tuple[Any, Any, dict[str, Any]]:
        del key
        loss, grads = jax.value_and_grad(loss_fn)(params)

        def grad_fn(other: Any, step: Any = 0) -> Any:
            del step
            # The optimizer may compute in another dtype, and know nothing of leaves without entries.
            leaves, tree = jax.tree.flatten(params)
            found = iter(jax.tree.leaves(other))
            full = [next(found).astype(jnp.result_type(x)) if jnp.size(x) else x for x in leaves]
            slopes = jax.tree.leaves(jax.grad(loss_fn)(tree.unflatten(full)))
            kept = iter([g for g, x in zip(slopes, leaves, strict=True) if jnp.size(x)])
            return jax.tree.map(lambda x: next(kept).astype(x.dtype) if jnp.size(x) else jnp.zeros_like(x), other)

        return loss, grads, {"grad_fn": grad_fn}

    return compute


def _direction() -> optax.GradientTransformation:
    """Updates of length 1; 0 stays 0, for which `optax.contrib.normalize` gives NaN."""

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        del params
        length = optax.tree.norm(updates)
        return jax.tree.map(lambda g: g / jnp.where(length > 0, length, 1).astype(g.dtype), updates), state

    return optax.GradientTransformation(optax.init_empty_state, update)

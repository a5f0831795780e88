"""Loss, gradients, and the inputs and output gradients of every layer, in one forward and one backward pass.

The function is traced to a jaxpr. Each matrix product and convolution of which a parameter is the kernel gets a zero
added to its result, and the gradient of this zero is the layer's output gradient. It therefore does not matter whether
the model is a Flax NNX module, a linen module or a plain function; the model is not changed.

    model, params = nnx.split(module)
    step = value_grad_and_statistics(lambda params, x, y: loss(nnx.merge(model, params)(x), y).mean())
    loss, grads, statistics = step(params, x, y)
    updates, state = tx.update(grads, state, params, statistics=statistics)

`statistics` is `{path: LayerStatistics}`, where `path` is `jax.tree_util.keystr` of the kernel's place in the
parameters; wrappers of optax, which may leave out or relabel parameters, keep these paths.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from jaxtyping import Array

from metalearn_models.optimizers.curvature.layers import KernelLayout, LayerStatistics
from metalearn_models.optimizers.curvature.tracing.perturbed import Unknown, check_unknown, gather, trace_function

__all__ = ["find_layers", "value_grad_and_statistics"]


def value_grad_and_statistics(
    loss_fn: Callable[..., Any], has_aux: bool = False, unknown: Unknown = "warn"
) -> Callable[..., tuple[Any, Any, dict[str, LayerStatistics]]]:
    """Make a function that gives loss, gradients and statistics of all layers.

    Matrix products and convolutions are followed through `jit`, `jax.checkpoint`, `vmap`, and through transposes,
    reshapes and conversions of the parameter. Not understood, and therefore named: a parameter of several products, one
    that is also used otherwise (weight decay belongs into the optimizer), products inside `scan`, `while`, `cond` or a
    function with custom derivatives, convolutions in groups, and parameters that are computed from others.

    Args:
        loss_fn: `(params, *args, **kwargs) -> loss`, a mean over the examples of a batch.
        has_aux: `loss_fn` returns `(loss, aux)`, as in `jax.value_and_grad`.
        unknown: parameters of two or more axes without statistics are named in a warning, in an error, or not at all.

    Returns:
        A function of the arguments of `loss_fn` that returns `(loss, grads, statistics)`, with `has_aux`
        `((loss, aux), grads, statistics)`. It can be jitted, vmapped, scanned and differentiated. It raises ValueError
        if `unknown` is "error" and a parameter has no statistics.

    Raises:
        UnknownNameError: `unknown` is none of the three.
    """
    check_unknown(unknown)

    def compute(params: Any, *args: Any, **kwargs: Any) -> tuple[Any, Any, dict[str, LayerStatistics]]:
        traced = trace_function(lambda p: loss_fn(p, *args, **kwargs), params, unknown)

        def scalar(params: Any, perturbations: Any) -> tuple[Array, tuple[Any, dict[str, Array]]]:
            result, inputs, _ = traced.evaluate(params, perturbations)
            loss, aux = result if has_aux else (result, None)
            return loss, (aux, inputs)

        (loss, (aux, inputs)), (grads, slopes) = jax.value_and_grad(scalar, (0, 1), has_aux=True)(params, traced.zeros)
        return (loss, aux) if has_aux else loss, grads, gather(traced.products, inputs, slopes, grads)

    return compute


def find_layers(loss_fn: Callable[..., Any], params: Any, *args: Any, **kwargs: Any) -> dict[str, KernelLayout]:
    """The layers that `value_grad_and_statistics` finds, without computing anything.

    Args:
        loss_fn: as there.
        params: its parameters, or their shapes.
        args: its other arguments.
        kwargs: its keyword arguments.

    Returns:
        `{path: layout}`, as the argument `layers` of the optimizers.
    """
    traced = trace_function(lambda p: loss_fn(p, *args, **kwargs), params, "ignore")
    return {path: product.layout for path, product in traced.products.items()}

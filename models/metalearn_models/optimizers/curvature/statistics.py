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

import typing
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Literal
from jaxtyping import Array

from metalearn._jax_versions import constants, open_jaxpr
from metalearn.costs.jaxprs import evaluate_equation
from metalearn.errors import unknown_name
from metalearn_models.optimizers.curvature._products import INLINED, Place, Product, find_products
from metalearn_models.optimizers.curvature.layers import KernelLayout, LayerStatistics

__all__ = ["find_layers", "value_grad_and_statistics"]

Unknown = typing.Literal["warn", "error", "ignore"]
"""What happens to parameters of two or more axes that are not the kernel of exactly one product."""


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
        A function of the arguments of `loss_fn` that returns `(loss, grads, statistics)`, or `((loss, aux), grads,
        statistics)`. It can be jitted, vmapped, scanned and differentiated. It raises ValueError if `unknown` is
        "error" and a parameter has no statistics.

    Raises:
        UnknownNameError: `unknown` is none of the three.
    """
    if unknown not in ("warn", "error", "ignore"):
        raise unknown_name("unknown", unknown, ("warn", "error", "ignore"))

    def compute(params: Any, *args: Any, **kwargs: Any) -> tuple[Any, Any, dict[str, LayerStatistics]]:
        perturbed, products, zeros = perturbed_function(lambda p: loss_fn(p, *args, **kwargs), params, unknown)

        def scalar(params: Any, zeros: Any) -> tuple[Array, tuple[Any, dict[str, Array]]]:
            result, inputs = perturbed(params, zeros)
            loss, aux = result if has_aux else (result, None)
            return loss, (aux, inputs)

        (loss, (aux, inputs)), (grads, slopes) = jax.value_and_grad(scalar, (0, 1), has_aux=True)(params, zeros)
        statistics = gather(products, inputs, slopes, grads)
        return (loss, aux) if has_aux else loss, grads, statistics

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
    _, _, products, _ = _trace(lambda p: loss_fn(p, *args, **kwargs), params)
    return {path: product.layout for path, product in products.items()}


def perturbed_function(
    function: Callable[[Any], Any], params: Any, unknown: str
) -> tuple[Any, dict[str, Product], Any]:
    """The same function with a value added to the result of each layer's product.

    Returns:
        perturbed: `(params, {path: value}) -> (result of function, {path: inputs})`.
        products: `{path: product}`.
        zeros: `{path: value}` with which nothing changes.
    """
    jaxpr, tree, products, places = _trace(function, params, unknown)

    def perturbed(params: Any, values: dict[str, Array]) -> tuple[Any, dict[str, Array]]:
        leaves = [jnp.asarray(x) for x in jax.tree.leaves(params)]
        given = _Given(places, products, values)
        results, inputs = _evaluate(open_jaxpr(jaxpr), constants(jaxpr), leaves, (), given)
        return jax.tree.unflatten(tree, results), inputs

    zeros = {path: jnp.zeros(product.result.shape, product.result.dtype) for path, product in products.items()}
    return perturbed, products, zeros


def gather(
    products: dict[str, Product], inputs: dict[str, Array], slopes: dict[str, Array], grads: Any
) -> dict[str, LayerStatistics]:
    """The statistics, from inputs and from the gradients of the perturbations."""
    gradients = {jax.tree_util.keystr(path): g for path, g in jax.tree_util.tree_leaves_with_path(grads)}
    statistics = {}
    for path, product in products.items():
        e = product.outputs(slopes[path])
        statistics[path] = LayerStatistics(inputs[path], e * e.shape[0], gradients[path], None, product.layout)
    return statistics


class _Given:
    """What the evaluation of a jaxpr needs to know of its products, and which equations call them."""

    def __init__(self, places: dict[Place, str], products: dict[str, Product], values: dict[str, Array]):
        self.places, self.products, self.values = places, products, values
        self.callers = {place[:i] for place in places for i in range(1, len(place))}


def _trace(function: Callable[[Any], Any], params: Any, unknown: str = "ignore") -> tuple[Any, Any, dict, dict]:
    jaxpr, result = jax.make_jaxpr(function, return_shape=True)(params)
    leaves = jax.tree_util.tree_leaves_with_path(params)
    shapes = {jax.tree_util.keystr(path): jnp.shape(x) for path, x in leaves}
    places, products, reasons = find_products(jaxpr, shapes)
    missed = [f"params{path} {list(shapes[path])}: {why}" for path, why in reasons.items() if len(shapes[path]) > 1]
    if missed and unknown != "ignore":
        message = "these parameters have no layer statistics: " + "; ".join(missed)
        if unknown == "error":
            raise ValueError(f'{message}. With unknown="warn" optimizers update them by their fallback')
        warnings.warn(message, stacklevel=3)
    return jaxpr, jax.tree.structure(result), products, places


def _evaluate(jaxpr: Any, consts: Any, arguments: list[Any], place: Place, given: _Given) -> tuple[list, dict]:
    """Evaluate a jaxpr with perturbed products; return its results and the inputs of its products."""
    values: dict[Any, Any] = dict(zip(jaxpr.constvars, consts, strict=True))
    values |= dict(zip(jaxpr.invars, arguments, strict=True))
    inputs: dict[str, Array] = {}

    def read(variable: Any) -> Any:
        return variable.val if isinstance(variable, Literal) else values[variable]

    for i, equation in enumerate(jaxpr.eqns):
        here = (*place, i)
        operands = [read(v) for v in equation.invars]
        if here in given.callers:
            results, found = _evaluate_call(equation, operands, here, given)
            inputs |= found
        else:
            results = evaluate_equation(jaxpr, equation, operands)
        if (path := given.places.get(here)) is not None:
            product = given.products[path]
            results = [results[0] + given.values[path]]
            inputs[path] = product.inputs(operands[product.operand])
        values |= dict(zip(equation.outvars, results, strict=True))
    return [read(v) for v in jaxpr.outvars], inputs


def _evaluate_call(equation: Any, operands: list[Any], place: Place, given: _Given) -> tuple[list, dict]:
    inner = equation.params[INLINED[equation.primitive.name]]

    def call(operands: list[Any], perturbations: dict[str, Array]) -> tuple[list, dict]:
        known = _Given(given.places, given.products, perturbations)
        return _evaluate(open_jaxpr(inner), constants(inner), operands, place, known)

    if "prevent_cse" in equation.params:  # what jax.checkpoint recomputes is still recomputed
        policy, prevent = equation.params["policy"], equation.params["prevent_cse"]
        call = jax.checkpoint(call, policy=policy, prevent_cse=prevent)
    return call(operands, given.values)

"""A traced function whose layers' outputs can be perturbed, and whose inputs and marked values can be seen."""

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
from metalearn_models.optimizers.curvature.layers import LayerStatistics
from metalearn_models.optimizers.curvature.tracing.products import INLINED, Place, Product, find_marks, find_products

__all__ = ["MARK", "Traced", "Unknown", "check_unknown", "gather", "trace_function"]

MARK = "metalearn.predicts "
"""Begins the names of values that a loss function marks as the parameters of its predictive distribution."""

Unknown = typing.Literal["warn", "error", "ignore"]
"""What happens to parameters of two or more axes that are not the kernel of exactly one product."""


class Traced(typing.NamedTuple):
    """A traced function of parameters.

    Attributes:
        evaluate: `(params, {path: perturbation of the layer's outputs}) -> (result, {path: inputs}, {place: marked
            value})`.
        products: `{path: product}`.
        zeros: `{path: perturbation}` with which the function is what it was.
        marks: `{place: name}` of the marked values.
    """

    evaluate: Callable[[Any, dict[str, Array]], tuple[Any, dict[str, Array], dict[Place, Array]]]
    products: dict[str, Product]
    zeros: dict[str, Array]
    marks: dict[Place, str]


def check_unknown(unknown: str) -> None:
    """Check the choice.

    Raises:
        UnknownNameError: it is none of the three.
    """
    if unknown not in typing.get_args(Unknown):
        raise unknown_name("unknown", unknown, typing.get_args(Unknown))


def trace_function(function: Callable[[Any], Any], params: Any, unknown: str) -> Traced:
    """Trace a function and find its layers.

    Raises:
        ValueError: a parameter has no statistics, and `unknown` is "error".
    """
    jaxpr, result = jax.make_jaxpr(function, return_shape=True)(params)
    leaves = jax.tree_util.tree_leaves_with_path(params)
    shapes = {jax.tree_util.keystr(path): jnp.shape(x) for path, x in leaves}
    places, products, reasons = find_products(jaxpr, shapes)
    marks = find_marks(jaxpr, MARK)
    missed = [f"params{path} {list(shapes[path])}: {why}" for path, why in reasons.items() if len(shapes[path]) > 1]
    if missed and unknown != "ignore":
        message = "these parameters have no layer statistics: " + "; ".join(missed)
        if unknown == "error":
            raise ValueError(f'{message}. With unknown="warn" optimizers update them by their fallback')
        warnings.warn(message, stacklevel=2)

    def evaluate(params: Any, perturbations: dict[str, Array]) -> tuple[Any, dict[str, Array], dict[Place, Array]]:
        given = _Given(places, products, marks, perturbations)
        arguments = [jnp.asarray(x) for x in jax.tree.leaves(params)]
        results, inputs, outputs = _evaluate(open_jaxpr(jaxpr), constants(jaxpr), arguments, (), given)
        return jax.tree.unflatten(jax.tree.structure(result), results), inputs, outputs

    zeros = {path: jnp.zeros(product.result.shape, product.result.dtype) for path, product in products.items()}
    return Traced(evaluate, products, zeros, marks)


def gather(
    products: dict[str, Product],
    inputs: dict[str, Array],
    slopes: dict[str, Array],
    grads: Any,
    columns: dict[str, Array] | None = None,
) -> dict[str, LayerStatistics]:
    """The statistics, from inputs and from the gradients of the perturbations.

    Args:
        products: by path.
        inputs: by path.
        slopes: gradients of the loss, a mean over examples, with respect to the perturbations.
        grads: gradients with respect to the parameters.
        columns: `[K, ...]`, those of single examples' scores, for the Fisher matrix.
    """
    gradients = {jax.tree_util.keystr(path): g for path, g in jax.tree_util.tree_leaves_with_path(grads)}
    statistics = {}
    for path, product in products.items():
        e = product.outputs(slopes[path])
        fisher = None if columns is None else jax.vmap(product.outputs)(columns[path])
        statistics[path] = LayerStatistics(inputs[path], e * e.shape[0], gradients[path], fisher, product.layout)
    return statistics


class _Given(typing.NamedTuple):
    """What the evaluation of a jaxpr needs to know of its products and marks."""

    places: dict[Place, str]
    products: dict[str, Product]
    marks: dict[Place, str]
    perturbations: dict[str, Array]

    def inside(self, place: Place) -> bool:
        """Whether the function that this equation calls has a product or a mark."""
        return any(len(p) > len(place) and p[: len(place)] == place for p in (*self.places, *self.marks))


def _evaluate(jaxpr: Any, consts: Any, arguments: list[Any], place: Place, given: _Given) -> tuple[list, dict, dict]:
    """Evaluate a jaxpr with perturbed products; return its results, the inputs of its products, and marked values."""
    values: dict[Any, Any] = dict(zip(jaxpr.constvars, consts, strict=True))
    values |= dict(zip(jaxpr.invars, arguments, strict=True))
    inputs: dict[str, Array] = {}
    outputs: dict[Place, Array] = {}

    def read(variable: Any) -> Any:
        return variable.val if isinstance(variable, Literal) else values[variable]

    for i, equation in enumerate(jaxpr.eqns):
        here = (*place, i)
        operands = [read(v) for v in equation.invars]
        if given.inside(here):
            results, found, marked = _evaluate_call(equation, operands, here, given)
            inputs |= found
            outputs |= marked
        else:
            results = evaluate_equation(jaxpr, equation, operands)
        if (path := given.places.get(here)) is not None:
            product = given.products[path]
            results = [results[0] + given.perturbations[path]]
            inputs[path] = product.inputs(jnp.asarray(operands[product.operand]))
        if here in given.marks:
            outputs[here] = results[0]
        values |= dict(zip(equation.outvars, results, strict=True))
    return [read(v) for v in jaxpr.outvars], inputs, outputs


def _evaluate_call(equation: Any, operands: list[Any], place: Place, given: _Given) -> tuple[list, dict, dict]:
    inner = equation.params[INLINED[equation.primitive.name]]

    def call(operands: list[Any], perturbations: dict[str, Array]) -> tuple[list, dict, dict]:
        known = given._replace(perturbations=perturbations)
        return _evaluate(open_jaxpr(inner), constants(inner), operands, place, known)

    if "prevent_cse" in equation.params:  # what jax.checkpoint recomputes is still recomputed
        call = jax.checkpoint(call, policy=equation.params["policy"], prevent_cse=equation.params["prevent_cse"])
    return call(operands, given.perturbations)

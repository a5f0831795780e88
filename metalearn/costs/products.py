"""Read the matrix products and convolutions of a function from its program, and which parameters each one multiplies.

A value that depends on the inputs is an activation. A value that depends on parameters and constants only, such as a
transposed, masked or concatenated kernel, is a weight, and stands for the parameters that it was computed from.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.extend.core import JaxprEqn, Literal

from metalearn._jax_versions import open_jaxpr, scan_operands
from metalearn.costs.jaxprs import inner_jaxprs

__all__ = ["Product", "count_products"]


class Product(NamedTuple):
    """A matrix product or a convolution, counted as often as it runs.

    Attributes:
        leaves: paths of the parameters that are its weight, such as "0/weight", in the order of the tree; empty for a
            product of two activations or of two weights.
        multiply_adds: multiplications, each with one addition.
    """

    leaves: tuple[str, ...]
    multiply_adds: int


class _Origin(NamedTuple):
    """What a value was computed from: whether from the inputs, and else from which parameters."""

    depends: bool = False
    leaves: frozenset[int] = frozenset()


class _Counted(NamedTuple):
    leaves: frozenset[int]
    multiply_adds: int


def count_products(function: Callable[..., Any], params: Any, *args: Any) -> tuple[Product, ...]:
    """The products of one call, in the order of the program.

    Args:
        function: `(params, *args)` if `params` has leaves, else `(*args)`; anything JAX can trace.
        params: a pytree of arrays or of `jax.ShapeDtypeStruct`; nothing is computed. `()`: no product has leaves.
        args: the inputs.

    Returns:
        One entry per product. The body of a scan counts as often as it runs, of the branches of a `cond` the most
        expensive one. Places where a convolution meets padding do not count. What is recomputed (remat) counts again.
        A function that is split over devices counts on each of them. Factorisations count nothing.

    Raises:
        ValueError: there are products in a `while_loop`, whose number of iterations is unknown, or in a Pallas kernel.
    """
    paths = [
        jax.tree_util.keystr(path, simple=True, separator="/")
        for path, _ in jax.tree_util.tree_leaves_with_path(params)
    ]
    jaxpr = jax.make_jaxpr(function)(*((params, *args) if paths else args))
    weights = [_Origin(leaves=frozenset([i])) for i in range(len(paths))]
    # Without parameters no origin is asked for. Then inputs may count as constants, and each loop is read once.
    inputs = [_Origin(depends=bool(paths))] * (len(open_jaxpr(jaxpr).invars) - len(paths))
    counted, _ = _walk(jaxpr, [*weights, *inputs])
    return tuple(Product(tuple(paths[i] for i in sorted(c.leaves)), c.multiply_adds) for c in counted)


def _walk(jaxpr: Any, origins: Sequence[_Origin]) -> tuple[list[_Counted], list[_Origin]]:
    """The products of a jaxpr whose arguments have these origins, and the origins of its results."""
    jaxpr = open_jaxpr(jaxpr)
    known: dict[Any, _Origin] = dict(zip(jaxpr.invars, origins, strict=True))
    counted: list[_Counted] = []

    def origin(var: Any) -> _Origin:
        return _Origin() if isinstance(var, Literal) else known.get(var, _Origin())

    for equation in jaxpr.eqns:
        found, results = _of_equation(equation, [origin(var) for var in equation.invars])
        counted += found
        known.update(zip(equation.outvars, results, strict=True))
    return counted, [origin(var) for var in jaxpr.outvars]


def _of_equation(equation: JaxprEqn, origins: list[_Origin]) -> tuple[list[_Counted], list[_Origin]]:
    name, params = equation.primitive.name, equation.params
    joined = [_join(origins)] * len(equation.outvars)
    if name in ("dot_general", "conv_general_dilated"):
        count = _of_product(equation) if name == "dot_general" else _of_convolution(equation)
        activations = sum(o.depends for o in origins)
        leaves = frozenset[int]().union(*(o.leaves for o in origins)) if activations == 1 else frozenset[int]()
        return [_Counted(leaves, count)], joined
    if name == "scan":
        return _of_scan(equation, origins)
    if name == "cond":
        branches = [_walk(branch, origins[1:]) for branch in params["branches"]]
        most = max((counted for counted, _ in branches), key=_total)
        return most, [_join([origins[0], *each]) for each in zip(*(results for _, results in branches), strict=True)]
    if name == "custom_linear_solve":  # the other functions are for its derivatives
        return _unattributed(params["jaxprs"].solve), joined
    inner = list(inner_jaxprs(equation))
    if name in ("while", "pallas_call"):
        if any(_total(_unattributed(body)) for body in inner):
            raise ValueError(
                f"a {name} contains matrix products, and its number of iterations is unknown: count the operations of "
                "its body, or give it a fixed length (jax.lax.scan, or fori_loop between two Python integers)"
            )
        return [], joined
    if len(inner) == 1 and len(inner[0].invars) == len(origins) and len(inner[0].outvars) == len(joined):
        counted, results = _walk(inner[0], origins)
    else:
        counted, results = [c for body in inner for c in _unattributed(body)], joined
    if name == "shard_map":
        devices = math.prod(params["mesh"].shape[axis] for axis in params["newly_manual_axes"])
        counted = [c._replace(multiply_adds=devices * c.multiply_adds) for c in counted]
    return counted, results


def _of_scan(equation: JaxprEqn, origins: list[_Origin]) -> tuple[list[_Counted], list[_Origin]]:
    consts, carry = scan_operands(equation)
    while True:  # until what is carried has the same origin before and after the body
        counted, results = _walk(equation.params["jaxpr"], origins)
        before = origins[consts : consts + carry]
        after = [_join(pair) for pair in zip(before, results[:carry], strict=True)]
        if after == before:
            break
        origins = [*origins[:consts], *after, *origins[consts + carry :]]
    length = equation.params["length"]
    return [c._replace(multiply_adds=length * c.multiply_adds) for c in counted], results


def _join(origins: Sequence[_Origin]) -> _Origin:
    """The origin of a value that is computed from values of these origins."""
    if any(o.depends for o in origins):
        return _Origin(depends=True)
    return _Origin(leaves=frozenset[int]().union(*(o.leaves for o in origins)))


def _unattributed(jaxpr: Any) -> list[_Counted]:
    return _walk(jaxpr, [_Origin()] * len(open_jaxpr(jaxpr).invars))[0]


def _total(counted: list[_Counted]) -> int:
    return sum(c.multiply_adds for c in counted)


def _of_product(equation: JaxprEqn) -> int:
    (contracted, _), _ = equation.params["dimension_numbers"]
    shape = _shape(equation.invars[0])
    return math.prod(_shape(equation.outvars[0])) * math.prod(shape[axis] for axis in contracted)


def _of_convolution(equation: JaxprEqn) -> int:
    params = equation.params
    image, kernel, result = params["dimension_numbers"]
    # The axes are (batch, feature, spatial...) for image and result, (output, input, spatial...) for the kernel.
    image_shape, kernel_shape, result_shape = (
        [_shape(var)[axis] for axis in axes]
        for var, axes in zip((*equation.invars, *equation.outvars), (image, kernel, result), strict=True)
    )
    per_axis = zip(
        image_shape[2:],
        kernel_shape[2:],
        result_shape[2:],
        params["window_strides"],
        params["padding"],
        params["lhs_dilation"],
        params["rhs_dilation"],
        strict=True,
    )
    return math.prod((*result_shape[:2], kernel_shape[1], *(_meetings(*axis) for axis in per_axis)))


def _meetings(
    size: int, taps: int, places: int, stride: int, padding: tuple[int, int], dilation: int, tap_dilation: int
) -> int:
    # How often a tap of the kernel meets an input along one axis, instead of padding or a zero between two inputs. The
    # number is the same for a convolution and for both of its derivatives.
    at = stride * np.arange(places)[:, None] + tap_dilation * np.arange(taps) - padding[0]
    return int(((at >= 0) & (at <= dilation * (size - 1)) & (at % dilation == 0)).sum())


def _shape(var: Any) -> tuple[int, ...]:
    return var.aval.shape

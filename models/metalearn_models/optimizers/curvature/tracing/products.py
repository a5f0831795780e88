"""Find the matrix products and convolutions of a jaxpr in which a parameter is the kernel."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import JaxprEqn, Literal
from jaxtyping import Array, Float

from metalearn._jax_versions import open_jaxpr
from metalearn_models.optimizers.curvature.layers import KernelLayout

__all__ = ["INLINED", "Place", "Product", "find_marks", "find_products"]

INLINED = {"jit": "jaxpr", "pjit": "jaxpr", "remat2": "jaxpr", "checkpoint": "jaxpr", "closed_call": "call_jaxpr"}
"""Equations that call one function once, and the parameter that holds it."""

UNCHANGED = ("convert_element_type", "copy", "copy_p", "sharding_constraint", "reduce_precision")
"""Equations whose result has the axes of their operand."""

Place = tuple[int, ...]
"""Number of an equation in its jaxpr, after those of the equations that call this jaxpr."""


class Product(NamedTuple):
    """One product with a kernel.

    Attributes:
        layout: how the kernel is a matrix.
        operand: which operand of the equation the inputs are.
        inputs: `(operand) -> [B, *P, m]`.
        outputs: `(gradient of the result) -> [B, *P, n]`.
        result: shape and dtype of the equation's result.
    """

    layout: KernelLayout
    operand: int
    inputs: Callable[[Array], Array]
    outputs: Callable[[Array], Array]
    result: jax.ShapeDtypeStruct


class _View(NamedTuple):
    """A variable that holds a parameter: per axis of the variable, the parameter's axes that are merged in it."""

    path: str
    shape: tuple[int, ...]
    groups: tuple[tuple[int, ...], ...]


@dataclass
class _Uses:
    products: dict[str, list[tuple[Place, Product]]] = field(default_factory=dict)
    others: dict[str, list[str]] = field(default_factory=dict)


def find_products(jaxpr: Any, shapes: dict[str, tuple[int, ...]]) -> tuple[dict[Place, str], dict[str, Product], dict]:
    """Follow parameters through a jaxpr to the products that they are kernels of.

    Args:
        jaxpr: its first arguments are the parameters.
        shapes: path and shape of each parameter, in the order of the arguments.

    Returns:
        places: equation -> path of its kernel.
        products: path -> product, for every parameter that has exactly one product and no other use.
        reasons: path -> why it has none, for all others.
    """
    uses = _Uses()
    views = [_View(path, shape, tuple((axis,) for axis in range(len(shape)))) for path, shape in shapes.items()]
    for view in _follow(open_jaxpr(jaxpr), views, (), uses):
        if view is not None:
            uses.others.setdefault(view.path, []).append("it is a result of the function")
    places, products, reasons = {}, {}, {}
    for path in shapes:
        found, others = uses.products.get(path, []), uses.others.get(path, [])
        if len(found) == 1 and not others:
            (place, product), *_ = found
            places[place], products[path] = path, product
        elif len(found) > 1:
            reasons[path] = f"it is the kernel of {len(found)} products"
        elif others:
            reasons[path] = ("beside its product, " if found else "") + ", ".join(dict.fromkeys(others))
        else:
            reasons[path] = "the function does not use it"
    return places, products, reasons


def find_marks(jaxpr: Any, prefix: str, place: Place = ()) -> dict[Place, str]:
    """The equations of `jax.ad_checkpoint.checkpoint_name` whose name begins with a prefix, and their names."""
    marks = {}
    for i, equation in enumerate(open_jaxpr(jaxpr).eqns):
        here, name = (*place, i), equation.primitive.name
        if name in INLINED:
            marks |= find_marks(equation.params[INLINED[name]], prefix, here)
        elif name == "name" and equation.params["name"].startswith(prefix):
            marks[here] = equation.params["name"]
    return marks


def _follow(jaxpr: Any, arguments: Sequence[_View | None], place: Place, uses: _Uses) -> list[_View | None]:
    """Note all uses of the arguments; return what the results hold of them."""
    views: dict[Any, _View] = {v: a for v, a in zip(jaxpr.invars, arguments, strict=False) if a is not None}

    def look(variable: Any) -> _View | None:
        return None if isinstance(variable, Literal) else views.get(variable)

    for i, equation in enumerate(jaxpr.eqns):
        held = [look(v) for v in equation.invars]
        if not any(held):
            continue
        here, name = (*place, i), equation.primitive.name
        if name in INLINED:
            inner = open_jaxpr(equation.params[INLINED[name]])
            results = _follow(inner, held, here, uses)
            views |= {v: r for v, r in zip(equation.outvars, results, strict=True) if r is not None}
            continue
        kernels = [view for view in held if view is not None]
        if len(held) == 1 and (view := _changed_view(equation, kernels[0])) is not None:
            views[equation.outvars[0]] = view
            continue
        for kernel in kernels:
            found = _product(equation, held) if len(kernels) == 1 else f"it meets another parameter in {name}"
            if isinstance(found, Product):
                uses.products.setdefault(kernel.path, []).append((here, found))
            else:
                uses.others.setdefault(kernel.path, []).append(found)
    return [look(v) for v in jaxpr.outvars]


def _changed_view(equation: JaxprEqn, view: _View) -> _View | None:
    """The view after a transposition, a reshape and the like; None if it is none of these."""
    name, params = equation.primitive.name, equation.params
    result = _aval(equation.outvars[0]).shape
    if name in UNCHANGED:
        return view
    if name == "transpose":
        return view._replace(groups=tuple(view.groups[axis] for axis in params["permutation"]))
    if name == "squeeze" or (name == "reshape" and params["dimensions"] is None):
        return _regroup(view, result)
    if name == "broadcast_in_dim" and math.prod(result) == math.prod(view.shape):
        return _regroup(view, result)
    return None


def _regroup(view: _View, shape: tuple[int, ...]) -> _View | None:
    """The view after a reshape that merges or separates whole axes of the parameter; None if it splits one."""
    axes, groups = [axis for group in view.groups for axis in group], []
    for size in shape:
        group, now = [], 1
        while now < size and axes:
            group.append(axes.pop(0))
            now *= view.shape[group[-1]]
        if now != size:
            return None
        groups.append(tuple(group))
    if any(view.shape[axis] != 1 for axis in axes) or (axes and not groups):
        return None
    if axes:  # what is left has size 1
        groups[-1] += tuple(axes)
    return view._replace(groups=tuple(groups))


def _product(equation: JaxprEqn, held: Sequence[_View | None]) -> Product | str:
    """The product that an equation with one kernel is, or why it is none."""
    name = equation.primitive.name
    if name == "dot_general":
        return _dense(equation, held)
    if name == "conv_general_dilated":
        return _convolution(equation, held)
    return f"it is used by {name}"


def _dense(equation: JaxprEqn, held: Sequence[_View | None]) -> Product | str:
    contracting, batched = equation.params["dimension_numbers"]
    if batched[0]:
        return "it is a batch of kernels in dot_general"
    side = 0 if held[0] is not None else 1
    kernel, other = held[side], _aval(equation.invars[1 - side]).shape
    assert kernel is not None
    summed, x_summed = contracting[side], contracting[1 - side]
    x_free = tuple(axis for axis in range(len(other)) if axis not in x_summed)
    rows = [axis for group in summed for axis in kernel.groups[group]]
    columns = [axis for i, group in enumerate(kernel.groups) if i not in summed for axis in group]
    positions = tuple(other[axis] for axis in x_free)

    def inputs(x: Array) -> Array:
        return _ordered(x.transpose(x_free + tuple(x_summed)), positions, rows, kernel.shape)

    def outputs(e: Array) -> Array:
        if side == 0:  # the kernel's axes come first in the result
            own = e.ndim - len(positions)
            e = e.transpose((*range(own, e.ndim), *range(own)))
        return _ordered(e, positions, columns, kernel.shape)

    return _made(equation, KernelLayout(kernel.shape, tuple(sorted(rows))), 1 - side, inputs, outputs)


def _convolution(equation: JaxprEqn, held: Sequence[_View | None]) -> Product | str:
    params, kernel = equation.params, held[1]
    if kernel is None:
        return "it is the image of conv_general_dilated"
    if params["feature_group_count"] != 1 or params["batch_group_count"] != 1:
        return "it is the kernel of a convolution in groups"
    spec = params["dimension_numbers"]
    out_axis, *in_axes = spec.rhs_spec  # outputs, inputs, space
    rows = [axis for group in in_axes for axis in kernel.groups[group]]
    columns = list(kernel.groups[out_axis])
    window = tuple(_aval(equation.invars[1]).shape[axis] for axis in spec.rhs_spec[2:])
    result = [_aval(equation.outvars[0]).shape[axis] for axis in spec.out_spec]
    positions = (result[0], *result[2:])

    def inputs(x: Array) -> Array:
        patches = jax.lax.conv_general_dilated_patches(
            x.transpose(spec.lhs_spec),
            window,
            params["window_strides"],
            params["padding"],
            params["lhs_dilation"],
            params["rhs_dilation"],
            precision=jax.lax.Precision.HIGHEST,
        )
        return _ordered(jnp.moveaxis(patches, 1, -1), positions, rows, kernel.shape)

    def outputs(e: Array) -> Array:
        return _ordered(jnp.moveaxis(e.transpose(spec.out_spec), 1, -1), positions, columns, kernel.shape)

    return _made(equation, KernelLayout(kernel.shape, tuple(sorted(rows))), 0, inputs, outputs)


def _made(equation: JaxprEqn, layout: KernelLayout, operand: int, inputs: Any, outputs: Any) -> Product:
    result = _aval(equation.outvars[0])
    return Product(layout, operand, inputs, outputs, jax.ShapeDtypeStruct(result.shape, result.dtype))


def _ordered(values: Array, positions: tuple[int, ...], axes: list[int], shape: tuple[int, ...]) -> Float[Array, "..."]:
    """Values of `positions` and then of the kernel's axes, as `[B, m]` or `[B, P, m]` with these axes ascending."""
    values = values.reshape(*positions, *(shape[axis] for axis in axes))
    order = [len(positions) + axes.index(axis) for axis in sorted(axes)]
    values = values.transpose((*range(len(positions)), *order))
    examples, *rest = positions or (1,)
    features = math.prod(shape[axis] for axis in axes)
    return values.reshape(examples, math.prod(rest), features) if rest else values.reshape(examples, features)


def _aval(variable: Any) -> Any:
    return variable.aval

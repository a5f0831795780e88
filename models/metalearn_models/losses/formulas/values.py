"""Values and gradients of formulas, finite everywhere.

Plain automatic differentiation of a formula does not stay finite: nested squares overflow, and the product of a slope
of 0 and an infinite one is NaN. Here every value, and every slope on its way down from the root, is clipped at every
node. The formulas are those of EvoMAL (Raymond, Chen, Xue, Zhang 2023, arXiv 2209.08907).
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from metalearn_models.losses.formulas.tree import LIMIT, OPERATORS, Const, Expr, Op, Var, number_of_coefficients, size

__all__ = ["evaluate"]


def _clip(x: Array) -> Array:
    """Clip to [-LIMIT, LIMIT]; NaN stays NaN."""
    return jnp.clip(x, -LIMIT, LIMIT)


def at_least_single(dtype: Any) -> Any:
    """`dtype` if it is a float type of at least 32 bits, else float32."""
    return dtype if jnp.issubdtype(dtype, jnp.floating) and jnp.finfo(dtype).bits >= 32 else jnp.float32


def evaluate(
    expr: Expr,
    coefficients: Float[ArrayLike, "E"] | None,
    y: ArrayLike,
    f: ArrayLike,
    log_f: ArrayLike | None = None,
) -> Float[Array, "..."]:
    """Evaluate a formula elementwise.

    The result is differentiable in the coefficients, y, f and log_f, to any order, in forward and reverse mode. A
    node's value is `clip(op(clip(c1 * value1), clip(c2 * value2)))`, where `clip` bounds the magnitude by `LIMIT`. The
    first derivative clips the slopes of every node in the same way, so value and gradient are finite for all finite
    inputs. Where nothing is clipped, both are those of the formula. NaN among the inputs gives NaN in both.

    Args:
        expr: the formula.
        coefficients: one per edge in prefix order; None: all 1.
        y: targets.
        f: predictions, in a shape that broadcasts with that of y.
        log_f: the logarithm of f if it is known more accurately than f (from `log_softmax`). It replaces every
            `log(f)` in the tree: `log|c| + log_f` instead of `log(max(|c f|, 1e-7))`. The values are equal where
            |c f| > 1e-7; below, the slope does not vanish.

    Returns:
        Values in the broadcast shape, in float32 or wider.

    Raises:
        ValueError: a wrong number of coefficients, or shapes that do not broadcast.
    """
    f = jnp.asarray(f)
    dtype = at_least_single(f.dtype)
    y = jnp.asarray(y)
    shape = jnp.broadcast_shapes(y.shape, f.shape)
    expected = number_of_coefficients(expr)
    if coefficients is None:
        c = jnp.ones(expected, dtype)
    else:
        c = jnp.asarray(coefficients, dtype)
        if c.shape != (expected,):
            raise ValueError(f"{expr!s:.200} has {expected} coefficients, one per edge; got shape {c.shape}")
    y, f = (jnp.broadcast_to(x.astype(dtype), shape) for x in (y, f))
    log_f = None if log_f is None else jnp.broadcast_to(jnp.asarray(log_f).astype(dtype), shape)
    return _evaluate(expr, c, y, f, log_f)


class _Step(NamedTuple):
    """One node of the forward sweep: its children's prefix indices, its clipped inputs, and its unclipped value."""

    node: Expr
    children: tuple[int, ...]
    inputs: tuple[Array, ...]
    raw: Array


def _is_log_of_f(node: Expr) -> bool:
    return node == Op("log", (Var("f"),))


def _sweep(expr: Expr, c: Array, y: Array, f: Array, log_f: Array | None) -> dict[int, _Step]:
    """The value of every node by prefix index, children before their parents."""
    steps: dict[int, _Step] = {}

    def visit(node: Expr, index: int) -> None:
        if isinstance(node, Var):
            steps[index] = _Step(node, (), (), y if node.name == "y" else f)
        elif isinstance(node, Const):
            steps[index] = _Step(node, (), (), jnp.full_like(f, node.value))
        elif log_f is not None and _is_log_of_f(node):
            # Clipped first: log_f may be -inf, and its product with a zero slope would be NaN.
            raw = OPERATORS["log"].function(c[index]) + _clip(log_f)
            steps[index] = _Step(node, (), (), raw)
        else:
            children, at = [], index + 1
            for arg in node.args:
                visit(arg, at)
                children.append(at)
                at += size(arg)
            inputs = tuple(_clip(c[child - 1] * _clip(steps[child].raw)) for child in children)
            steps[index] = _Step(node, tuple(children), inputs, OPERATORS[node.name].function(*inputs))

    visit(expr, 0)
    return steps


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _evaluate(expr: Expr, c: Array, y: Array, f: Array, log_f: Array | None) -> Array:
    return _clip(_sweep(expr, c, y, f, log_f)[0].raw)


def _slopes(expr: Expr, c: Array, y: Array, f: Array, log_f: Array | None) -> tuple[Array, Any]:
    """The value, and the partial derivatives by c (a list), y, f and log_f; None for an input that does not occur.

    Clipping the slopes is not linear, so it cannot be a differentiation rule of the single nodes. Hence this reverse
    sweep; the sum of partial derivatives times tangents in `_jvp` is linear.
    """
    steps = _sweep(expr, c, y, f, log_f)
    down: dict[int, Array] = {0: jnp.ones_like(f)}
    of_c: list[Array | None] = [None] * c.shape[0]
    total: dict[str, Array] = {}

    def within(x: Array, slope: Array) -> Array:
        return jnp.where(jnp.abs(x) <= LIMIT, slope, 0)

    for index in sorted(steps):  # parents before their children
        step = steps[index]
        slope = within(step.raw, down[index])
        if isinstance(step.node, Var):
            total[step.node.name] = _clip(total[step.node.name] + slope) if step.node.name in total else slope
        elif isinstance(step.node, Op) and not step.children:  # log(f), which log_f has replaced
            total["log_f"] = _clip(total["log_f"] + slope) if "log_f" in total else slope
            of_c[index] = slope * jax.grad(OPERATORS["log"].function)(c[index])
        elif isinstance(step.node, Op):
            _, pull = jax.vjp(OPERATORS[step.node.name].function, *step.inputs)
            for child, slope_in in zip(step.children, pull(slope), strict=True):
                value = _clip(steps[child].raw)
                slope_in = within(c[child - 1] * value, _clip(slope_in))
                of_c[child - 1] = _clip(slope_in * value)
                down[child] = _clip(slope_in * c[child - 1])
    return _clip(steps[0].raw), (of_c, total.get("y"), total.get("f"), total.get("log_f"))


@functools.partial(_evaluate.defjvp, symbolic_zeros=True)
def _jvp(expr: Expr, primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Array, Array]:
    c, y, f, log_f = primals
    value, (of_c, *of_inputs) = _slopes(expr, c, y, f, log_f)
    keep_nan = jnp.where(jnp.isnan(value), jnp.nan, 1.0).astype(value.dtype)  # maxima and clips have the slope 0 there
    out = jnp.zeros_like(value)
    if not _is_zero(tangents[0]):
        for i, slope in enumerate(of_c):
            if slope is not None:
                out = out + keep_nan * slope * tangents[0][i]
    for slope, tangent in zip(of_inputs, tangents[1:], strict=True):
        if slope is not None and not _is_zero(tangent):
            out = out + keep_nan * slope * tangent
    return value, out


def _is_zero(tangent: Any) -> bool:
    return isinstance(tangent, jax.custom_derivatives.SymbolicZero)

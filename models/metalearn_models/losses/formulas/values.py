"""Values and gradients of formulas, finite everywhere.

Plain autodiff through a formula does not stay finite: towers of `square` overflow, and a slope of 0 behind one of
infinity is NaN. Here every value and every slope that comes down from the root is clipped, node by node.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from metalearn_models.losses.formulas.tree import LIMIT, OPERATORS, Const, Expr, Op, Var, number_of_coefficients, size


def bounded(x: Array) -> Array:
    """Clip to [-LIMIT, LIMIT]; NaN stays NaN."""
    return jnp.clip(x, -LIMIT, LIMIT)


def at_least_single(dtype: Any) -> Any:
    """The dtype itself if it is a float of 32 bits or more, else float32."""
    return dtype if jnp.issubdtype(dtype, jnp.floating) and jnp.finfo(dtype).bits >= 32 else jnp.float32


def evaluate(
    expr: Expr,
    coefficients: Float[ArrayLike, "E"] | None,
    y: ArrayLike,
    f: ArrayLike,
    log_f: ArrayLike | None = None,
) -> Float[Array, "..."]:
    """The formula, element by element, differentiable in coefficients, y and f to any order and in both modes.

    A node's value is `bounded(op(bounded(c1 * value1), bounded(c2 * value2)))`. In the first derivative the slopes
    that come down from the root are bounded by `LIMIT` at every node in the same way, so value and gradient are
    finite for all finite inputs; where no bound is active both are those of the formula itself.

    Args:
        expr: the formula.
        coefficients: one for each edge in prefix order; None: all 1.
        y: targets.
        f: predictions, of a shape that broadcasts with that of y.
        log_f: log of f, where it is known better than f itself (`log_softmax`). Every `log(f)` in the tree is then
            `log|c| + log_f` instead of `log(max(|c f|, 1e-7))`: the same value where |c f| > 1e-7, and a slope that
            does not vanish below.

    Returns:
        Values in the broadcast shape, in float32 or wider.

    Raises:
        ValueError: wrong number of coefficients, or shapes that do not broadcast.
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
            raise ValueError(f"{expr!s:.200} has {expected} coefficients, one an edge; got shape {c.shape}")
    y, f = (jnp.broadcast_to(x.astype(dtype), shape) for x in (y, f))
    log_f = None if log_f is None else jnp.broadcast_to(jnp.asarray(log_f).astype(dtype), shape)
    return _evaluate(expr, c, y, f, log_f)


class _Step(NamedTuple):
    """A node met by the forward sweep: its children's prefix indices, what entered it, and what came out unclipped."""

    node: Expr
    children: tuple[int, ...]
    inputs: tuple[Array, ...]
    raw: Array


def _is_log_of_f(node: Expr) -> bool:
    return node == Op("log", (Var("f"),))


def _sweep(expr: Expr, c: Array, y: Array, f: Array, log_f: Array | None) -> dict[int, _Step]:
    """Every node's value by prefix index, children before their parents."""
    steps: dict[int, _Step] = {}

    def visit(node: Expr, index: int) -> None:
        if isinstance(node, Var):
            steps[index] = _Step(node, (), (), y if node.name == "y" else f)
        elif isinstance(node, Const):
            steps[index] = _Step(node, (), (), jnp.full_like(f, node.value))
        elif log_f is not None and _is_log_of_f(node):
            # bounded first: log_f may be -inf, whose slopes would be finite but whose products would not
            raw = OPERATORS["log"].function(c[index]) + bounded(log_f)
            steps[index] = _Step(node, (), (), raw)
        else:
            children, at = [], index + 1
            for arg in node.args:
                visit(arg, at)
                children.append(at)
                at += size(arg)
            inputs = tuple(bounded(c[child - 1] * bounded(steps[child].raw)) for child in children)
            steps[index] = _Step(node, tuple(children), inputs, OPERATORS[node.name].function(*inputs))

    visit(expr, 0)
    return steps


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _evaluate(expr: Expr, c: Array, y: Array, f: Array, log_f: Array | None) -> Array:
    return bounded(_sweep(expr, c, y, f, log_f)[0].raw)


def _slopes(expr: Expr, c: Array, y: Array, f: Array, log_f: Array | None) -> tuple[Array, Any]:
    """The value, and the partial derivatives for c (a list), y, f and log_f (None: none).

    A reverse sweep of its own, because bounding what comes down is no linear map and so no rule that autodiff could
    apply in each node; the sum of partial derivative times tangent in `_jvp` is one.
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
            total[step.node.name] = bounded(total[step.node.name] + slope) if step.node.name in total else slope
        elif isinstance(step.node, Op) and not step.children:  # the fused log(f)
            total["log_f"] = bounded(total["log_f"] + slope) if "log_f" in total else slope
            of_c[index] = slope * jax.grad(OPERATORS["log"].function)(c[index])
        elif isinstance(step.node, Op):
            _, pull = jax.vjp(OPERATORS[step.node.name].function, *step.inputs)
            for child, slope_in in zip(step.children, pull(slope), strict=True):
                value = bounded(steps[child].raw)
                slope_in = within(c[child - 1] * value, bounded(slope_in))
                of_c[child - 1] = bounded(slope_in * value)
                down[child] = bounded(slope_in * c[child - 1])
    return bounded(steps[0].raw), (of_c, total.get("y"), total.get("f"), total.get("log_f"))


@functools.partial(_evaluate.defjvp, symbolic_zeros=True)
def _jvp(expr: Expr, primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Array, Array]:
    c, y, f, log_f = primals
    value, (of_c, *of_inputs) = _slopes(expr, c, y, f, log_f)
    out = jnp.zeros_like(value)
    if not _is_zero(tangents[0]):
        for i, slope in enumerate(of_c):
            if slope is not None:
                out = out + slope * tangents[0][i]
    for slope, tangent in zip(of_inputs, tangents[1:], strict=True):
        if slope is not None and not _is_zero(tangent):
            out = out + slope * tangent
    return value, out


def _is_zero(tangent: Any) -> bool:
    return isinstance(tangent, jax.custom_derivatives.SymbolicZero)

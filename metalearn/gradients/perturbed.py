"""Evaluate a function of theta whose matrices carry a low-rank perturbation, without building the perturbed matrices.

"Evolution Strategies at the Hyperscale" (EGGROLL; Sarkar, Fellows, Duque, Letcher et al. 2025, arXiv 2511.16652):
every member of a population sees `W + A B^T` with thin A and B. In `x @ (W + A B^T) = x @ W + (x @ A) @ B^T` the first
product is the same for all members, so that a population costs little more than a batch of its size.

The paper's code needs models written for it. Here the function is any that JAX can trace: `apply_perturbed` traces it
and interprets its jaxpr, in which a perturbed matrix stays a `LowRank` for as long as it is only moved, reshaped,
cast, scaled or handed to a loop, and ends in a product, a convolution or a lookup. Any other use materialises it:
always right, only slower.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal
from jaxtyping import Array, Float

from metalearn._jax_versions import scan_operands

Rule = Callable[[JaxprEqn, list[Any]], list[Any] | None]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class LowRank:
    """The array `weight + sum_r left[..., r] right[..., r]`, kept in its parts.

    The axes of `weight` are those of `left` (rows) and then those of `right` (columns), at least one of each, so a
    kernel of any number of axes is a matrix to the perturbation. Scale and sign belong in one of the two factors.
    To evaluate many perturbations of one weight, `jax.vmap` with `LowRank(None, 0, 0)` in `in_axes`.

    Attributes:
        weight: the unperturbed array, [*rows, *columns].
        left: [*rows, rank].
        right: [*columns, rank].
    """

    weight: Float[Array, "..."]
    left: Float[Array, "*rows rank"]
    right: Float[Array, "*columns rank"]


def materialise(x: Any) -> Any:
    """The array that a `LowRank` stands for; anything else as it is."""
    return x.weight + _outer(x.left, x.right) if isinstance(x, LowRank) else x


def apply_perturbed(f: Callable[..., Any], theta: Any, *args: Any) -> Any:
    """Evaluate `f(theta, *args)` with the `LowRank` leaves of theta read as the arrays they stand for.

    Equal to `f` of the materialised theta up to rounding; in low precision closer to exact arithmetic, since a small
    perturbation is not rounded away against its weight. Traces `f` at every call: call it under `jax.jit`. It can be
    mapped and differentiated, by the parts of a `LowRank` as well. Where `f` has a derivative rule of its own
    (`jax.custom_jvp`, `jax.custom_vjp`) that rule is kept, and is given the materialised matrix.

    Args:
        f: any function that JAX can trace, of arrays.
        theta: pytree of arrays and `LowRank`.
        args: further arguments of `f`, pytrees of arrays, with no `LowRank` in them.

    Returns:
        What `f` returns.

    Raises:
        ValueError: when the parts of a `LowRank` do not fit each other.
    """
    paths, tree = jax.tree_util.tree_flatten_with_path(theta, is_leaf=_is_low_rank)
    leaves = [leaf for _, leaf in paths]
    for path, leaf in paths:
        if isinstance(leaf, LowRank):
            _check(jax.tree_util.keystr(path), leaf)
    abstract = [jax.eval_shape(materialise, leaf) if _is_low_rank(leaf) else leaf for leaf in leaves]
    closed, shapes = jax.make_jaxpr(lambda leaves, args: f(tree.unflatten(leaves), *args), return_shape=True)(
        abstract, args
    )
    results = _call(closed, [*leaves, *jax.tree.leaves(args)])
    return jax.tree.unflatten(jax.tree.structure(shapes), [materialise(r) for r in results])


def _is_low_rank(x: Any) -> bool:
    return isinstance(x, LowRank)


def _check(where: str, x: LowRank) -> None:
    shapes = f"theta{where}: weight {x.weight.shape}, left {x.left.shape}, right {x.right.shape}"
    if min(x.left.ndim, x.right.ndim) < 2 or x.left.shape[-1] != x.right.shape[-1]:
        raise ValueError(f"{shapes}; left must be [*rows, rank] and right [*columns, rank], of the same rank")
    if x.weight.shape != x.left.shape[:-1] + x.right.shape[:-1]:
        raise ValueError(f"{shapes}; weight must be [*rows, *columns] = {x.left.shape[:-1] + x.right.shape[:-1]}")
    if not x.weight.dtype == x.left.dtype == x.right.dtype:
        types = f"{x.weight.dtype}, {x.left.dtype}, {x.right.dtype}"
        raise ValueError(f"theta{where}: weight, left and right must be of one dtype, got {types}")


# --- The interpreter. A rule gets an equation with at least one LowRank operand; None means that it does not apply.


def _interpret(jaxpr: Jaxpr, consts: Sequence[Any], args: Sequence[Any]) -> list[Any]:
    values = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*consts, *args), strict=True))

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, Literal) else values[atom]

    for eqn in jaxpr.eqns:
        operands = [read(atom) for atom in eqn.invars]
        results = None
        if any(map(_is_low_rank, operands)) and eqn.primitive.name in _RULES:
            results = _RULES[eqn.primitive.name](eqn, operands)
        if results is None:
            results = _bind(eqn, operands)
        values.update(zip(eqn.outvars, results, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _call(closed: ClosedJaxpr, args: Sequence[Any]) -> list[Any]:
    return _interpret(closed.jaxpr, closed.consts, args)


def _bind(eqn: JaxprEqn, operands: Sequence[Any]) -> list[Any]:
    results = eqn.primitive.bind(*map(materialise, operands), **eqn.primitive.get_bind_params(eqn.params))
    return list(results) if eqn.primitive.multiple_results else [results]


def _shape(eqn: JaxprEqn) -> tuple[int, ...]:
    aval: Any = eqn.outvars[0].aval
    return aval.shape


# --- Uses that give an ordinary array.


def _outer(left: Float[Array, "*rows rank"], right: Float[Array, "*columns rank"]) -> Float[Array, "..."]:
    """The sum over the last axes, [*rows, *columns]."""
    rank = left.shape[-1]
    if rank > 4:
        return lax.dot_general(left, right, (((left.ndim - 1,), (right.ndim - 1,)), ((), ())))
    # Products of broadcast arrays, which XLA fuses with the sum they become part of: on a CPU half the time at rank 4.
    tall, wide = left.shape[:-1] + (1,) * (right.ndim - 1), (1,) * (left.ndim - 1) + right.shape[:-1]
    left, right = jnp.moveaxis(left, -1, 0).reshape(rank, *tall), jnp.moveaxis(right, -1, 0).reshape(rank, *wide)
    return functools.reduce(lax.add, [left[r] * right[r] for r in range(rank)])


def _dot(eqn: JaxprEqn, operands: list[Any]) -> list[Any] | None:
    """A product that sums over row axes alone, or over column axes alone: two thin products beside the shared one."""
    lhs, rhs = operands
    if _is_low_rank(lhs) and _is_low_rank(rhs):
        lhs = materialise(lhs)
    p, flipped = eqn.params, _is_low_rank(lhs)
    sums, batches = p["dimension_numbers"]
    (x, w) = (rhs, lhs) if flipped else (lhs, rhs)
    (x_sum, w_sum), (x_batch, w_batch) = (sums[::-1], batches[::-1]) if flipped else (sums, batches)
    rows, used = w.left.ndim - 1, {*w_sum, *w_batch}
    if not w_sum or p.get("out_sharding") is not None or min(used) < rows <= max(used):
        return None
    near, far, first = (w.left, w.right, 0) if max(used) < rows else (w.right, w.left, rows)

    def product(a: Array, b: Array, numbers: Any) -> Array:
        return lax.dot_general(
            a, b, numbers, precision=p["precision"], preferred_element_type=p["preferred_element_type"]
        )

    y = product(*((w.weight, x) if flipped else (x, w.weight)), p["dimension_numbers"])
    numbers = ((x_sum, [a - first for a in w_sum]), (x_batch, [a - first for a in w_batch]))
    thin = product(x, near, numbers)
    z = _outer(thin, far.astype(thin.dtype))
    # z is [batch, free of x, free of near, far]; y has the free axes of w in the order of w, and x first or last.
    cuts = [0, len(x_batch), x.ndim - len(x_sum), thin.ndim - 1, z.ndim]
    batch, free_x, free_near, free_far = (tuple(range(a, b)) for a, b in itertools.pairwise(cuts))
    free_w = free_near + free_far if first == 0 else free_far + free_near
    return [y + lax.transpose(z, batch + (free_w + free_x if flipped else free_x + free_w)).astype(y.dtype)]


def _convolution(eqn: JaxprEqn, operands: list[Any]) -> list[Any] | None:
    """A convolution whose kernel has its output channels as all of its columns, or all of its rows.

    To convolve with the thin factor, every pixel is multiplied by it, one number for each place in the window, and a
    fixed kernel of zeros and ones adds these up. Members then differ by a product; mapping over kernels would give a
    grouped convolution, which costs as much as the materialised one.
    """
    x, w = operands
    p, numbers = eqn.params, eqn.params["dimension_numbers"]
    outputs, inputs, *window = numbers.rhs_spec
    if not _is_low_rank(w) or _is_low_rank(x) or p["feature_group_count"] != 1 or p["batch_group_count"] != 1:
        return None
    if w.right.ndim == 2 and outputs == w.weight.ndim - 1:
        near, far, first = w.left, w.right, 0
    elif w.left.ndim == 2 and outputs == 0:
        near, far, first = w.right, w.left, 1
    else:
        return None
    how = {"precision": p["precision"], "preferred_element_type": p["preferred_element_type"]}

    def convolve(x: Array, kernel: Array) -> Array:
        return lax.conv_general_dilated(
            x, kernel, p["window_strides"], p["padding"], p["lhs_dilation"], p["rhs_dilation"], numbers, **how
        )

    _, channels, *_ = numbers.lhs_spec
    near = lax.transpose(near, [*(axis - first for axis in (inputs, *window)), near.ndim - 1])
    places = near.reshape(near.shape[0], -1)
    pixels = lax.dot_general(x, places, (((channels,), (0,)), ((), ())), **how)
    shift = jnp.eye(places.shape[1], dtype=pixels.dtype).reshape(*near.shape[1:], -1)  # [*window, rank, places]
    shift = jnp.moveaxis(shift, (*range(len(window), shift.ndim), *range(len(window))), numbers.rhs_spec)
    _, channels_out, *_ = numbers.out_spec
    thin = jnp.moveaxis(convolve(jnp.moveaxis(pixels, -1, channels), shift), channels_out, -1)
    return [convolve(x, w.weight) + jnp.moveaxis(_outer(thin, far.astype(thin.dtype)), -1, channels_out)]


def _lookup(eqn: JaxprEqn, operands: list[Any]) -> list[Any] | None:
    """`w[i]` for arrays of indices i that pick whole columns, as an embedding does."""
    x, at = operands
    p, rows = eqn.params, x.left.ndim - 1
    numbers, shape = p["dimension_numbers"], _shape(eqn)
    whole = (1,) * rows + x.right.shape[:-1] == tuple(p["slice_sizes"]) and x.right.ndim == 2
    if not whole or numbers.collapsed_slice_dims != tuple(range(rows)) or numbers.offset_dims != (len(shape) - 1,):
        return None

    how = {name: p[name] for name in ("unique_indices", "indices_are_sorted", "mode")}

    def gather(operand: Array, fill_value: Any) -> Array:
        return lax.gather(operand, at, numbers, (1,) * rows + operand.shape[-1:], fill_value=fill_value, **how)

    # Past the end there is only what fills the weight.
    return [gather(x.weight, p["fill_value"]) + _outer(gather(x.left, 0), x.right)]


# --- Uses that give a LowRank.


def _each(eqn: JaxprEqn, operands: list[Any]) -> list[Any] | None:
    """The same of each part."""
    if not jnp.issubdtype(eqn.params.get("new_dtype", operands[0].weight.dtype), jnp.floating):
        return None
    return [jax.tree.map(lambda part: _bind(eqn, [part])[0], operands[0])]


def _barrier(eqn: JaxprEqn, operands: list[Any]) -> list[Any]:
    del eqn
    return list(lax.optimization_barrier(operands))


def _scale(eqn: JaxprEqn, operands: list[Any]) -> list[Any] | None:
    """A sign or a scalar factor: of the weight and of one thin factor."""
    scalars = [o for o in operands if not _is_low_rank(o)]
    if len(scalars) < len(operands) - 1 or any(map(jnp.ndim, scalars)):
        return None
    if eqn.primitive.name == "div" and not _is_low_rank(operands[0]):
        return None
    operation = {"neg": lax.neg, "mul": lax.mul, "div": lax.div}[eqn.primitive.name]
    (x,) = filter(_is_low_rank, operands)
    weight, left = (operation(*[part if o is x else o for o in operands]) for part in (x.weight, x.left))
    return [LowRank(weight, left, x.right)]


def _transpose(eqn: JaxprEqn, operands: list[Any]) -> list[Any] | None:
    (x,), order = operands, tuple(eqn.params["permutation"])
    rows, columns = x.left.ndim - 1, x.right.ndim - 1
    weight = lax.transpose(x.weight, order)
    if max(order[:rows]) < rows:
        right = lax.transpose(x.right, [*(a - rows for a in order[rows:]), columns])
        return [LowRank(weight, lax.transpose(x.left, [*order[:rows], rows]), right)]
    if min(order[:columns]) >= rows:
        left = lax.transpose(x.right, [*(a - rows for a in order[:columns]), columns])
        return [LowRank(weight, left, lax.transpose(x.left, [*order[columns:], rows]))]
    return None


def _reshape(eqn: JaxprEqn, operands: list[Any]) -> list[Any] | None:
    """Any change of shape that keeps rows before columns; unit axes come and go."""
    x, shape = operands[0], _shape(eqn)
    if math.prod(shape) != x.weight.size or (eqn.primitive.name == "reshape" and eqn.params["dimensions"] is not None):
        return None
    for cut in range(1, len(shape)):
        rows, columns = shape[:cut], shape[cut:]
        if math.prod(rows) == math.prod(x.left.shape[:-1]) and math.prod(columns) == math.prod(x.right.shape[:-1]):
            left, right = x.left.reshape(*rows, -1), x.right.reshape(*columns, -1)
            return [LowRank(x.weight.reshape(shape), left, right)]
    return None


def _slice(eqn: JaxprEqn, operands: list[Any]) -> list[Any]:
    p = eqn.params
    strides = p["strides"] or (1,) * len(p["start_indices"])
    return [_cut(operands[0], lax.slice, (p["start_indices"], p["limit_indices"], strides), (0, None, 1))]


def _dynamic_slice(eqn: JaxprEqn, operands: list[Any]) -> list[Any]:
    x, *start = operands
    return [_cut(x, lax.dynamic_slice, (tuple(start), eqn.params["slice_sizes"]), (jnp.zeros_like(start[0]), None))]


def _cut(x: LowRank, cut: Callable[..., Array], where: tuple[tuple[Any, ...], ...], whole: tuple[Any, ...]) -> LowRank:
    """Apply `cut(array, *where)`, an entry an axis, to each part; `whole`, None for its size, takes all of the rank."""
    rows, rank = x.left.ndim - 1, x.left.shape[-1]
    last = [rank if w is None else w for w in whole]
    left = cut(x.left, *((*w[:rows], all_of) for w, all_of in zip(where, last, strict=True)))
    right = cut(x.right, *((*w[rows:], all_of) for w, all_of in zip(where, last, strict=True)))
    return LowRank(cut(x.weight, *where), left, right)


# --- Functions inside the function. What a loop hands on unchanged, JAX itself has made one of its constants.


def _inline(eqn: JaxprEqn, operands: list[Any]) -> list[Any]:
    return _call(eqn.params["jaxpr" if "jaxpr" in eqn.params else "call_jaxpr"], operands)


def _remat(eqn: JaxprEqn, operands: list[Any]) -> list[Any] | None:
    p = eqn.params
    if not isinstance(p["prevent_cse"], bool):
        return None
    if p["differentiated"] and p["prevent_cse"]:
        operands = lax.optimization_barrier(operands)  # else XLA would share with the forward pass and keep, not redo
    again = jax.checkpoint(lambda *o: _interpret(p["jaxpr"], (), o), prevent_cse=p["prevent_cse"], policy=p["policy"])
    return again(*operands)


def _custom_jvp(eqn: JaxprEqn, operands: list[Any]) -> list[Any]:
    """The value by interpretation, the derivative by the function's own rule."""
    call = jax.custom_jvp(lambda *o: [materialise(r) for r in _call(eqn.params["call_jaxpr"], o)])
    call.defjvp(lambda primals, tangents: jax.jvp(lambda *o: _bind(eqn, o), primals, tangents))
    return call(*operands)


def _custom_vjp(eqn: JaxprEqn, operands: list[Any]) -> list[Any]:
    call = jax.custom_vjp(lambda *o: [materialise(r) for r in _call(eqn.params["call_jaxpr"], o)])
    call.defvjp(lambda *o: jax.vjp(lambda *o: _bind(eqn, o), *o), lambda pullback, cotangents: pullback(cotangents))
    return call(*operands)


def _cond(eqn: JaxprEqn, operands: list[Any]) -> list[Any]:
    """The chosen branch. One that members choose differently is a select to `jax.vmap`, which copies every operand."""
    index, *rest = operands
    branches = [
        lambda *o, branch=branch: [materialise(r) for r in _call(branch, o)] for branch in eqn.params["branches"]
    ]
    return list(lax.switch(index, branches, *rest))


def _scan(eqn: JaxprEqn, operands: list[Any]) -> list[Any]:
    p = eqn.params
    first, carried = scan_operands(eqn)
    last = first + carried
    consts, carry, xs = operands[:first], [materialise(c) for c in operands[first:last]], operands[last:]

    def slice_of(x: Any, part: Any) -> Any:
        """A slice along the first axis shares the columns; with no row axis left it is small."""
        if not _is_low_rank(x):
            return part
        one = replace(part, right=x.right)
        return materialise(one) if one.left.ndim == 1 else one

    def body(carry: list[Any], parts: list[Any]) -> tuple[list[Any], list[Any]]:
        now = [slice_of(x, part) for x, part in zip(xs, parts, strict=True)]
        results = [materialise(r) for r in _call(p["jaxpr"], [*consts, *carry, *now])]
        return results[: len(carry)], results[len(carry) :]

    parts = [replace(x, right=None) if _is_low_rank(x) else x for x in xs]
    carry, ys = lax.scan(body, carry, parts, length=p["length"], reverse=p["reverse"], unroll=p["unroll"])
    return [*carry, *ys]


def _while(eqn: JaxprEqn, operands: list[Any]) -> list[Any]:
    p = eqn.params
    first, last = p["cond_nconsts"], p["cond_nconsts"] + p["body_nconsts"]
    to_test, to_step, carry = operands[:first], operands[first:last], operands[last:]
    return lax.while_loop(
        lambda carry: materialise(_call(p["cond_jaxpr"], [*to_test, *carry])[0]),
        lambda carry: [materialise(r) for r in _call(p["body_jaxpr"], [*to_step, *carry])],
        [materialise(c) for c in carry],
    )


# By the names of the primitives, some of which have changed: one that is not here is materialised, never wrong.
_RULES: dict[str, Rule] = {
    "dot_general": _dot,
    "conv_general_dilated": _convolution,
    "gather": _lookup,
    **dict.fromkeys(("convert_element_type", "copy", "name", "stop_gradient"), _each),
    "optimization_barrier": _barrier,
    **dict.fromkeys(("neg", "mul", "div"), _scale),
    "transpose": _transpose,
    **dict.fromkeys(("reshape", "squeeze", "broadcast_in_dim"), _reshape),
    "slice": _slice,
    "dynamic_slice": _dynamic_slice,
    **dict.fromkeys(("jit", "pjit", "closed_call"), _inline),
    **dict.fromkeys(("remat2", "remat", "checkpoint"), _remat),
    "custom_jvp_call": _custom_jvp,
    "custom_vjp_call": _custom_vjp,
    "cond": _cond,
    "scan": _scan,
    "while": _while,
}

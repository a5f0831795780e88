"""Arrays with a low-rank perturbation, and what each operation makes of them without building the perturbed array.

These are the rules of `metalearn.gradients.perturbed`. Products, convolutions and lookups give an ordinary array.
Operations that only move, reshape, slice, cast or scale give a `LowRank`. A rule returns None if it does not apply.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange
from jax import lax
from jax.extend.core import JaxprEqn
from jaxtyping import Array, Float

__all__ = ["RULES", "LowRank", "Rule", "bind", "is_low_rank", "materialise"]

Rule = Callable[[JaxprEqn, list[Any]], list[Any] | None]
"""`(equation, operands) -> results`; at least one operand is a `LowRank`."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class LowRank:
    """The array `weight + sum_r left[..., r] right[..., r]`, kept in its parts.

    The axes of `weight` are those of `left` (rows), then those of `right` (columns), with at least one of each: the
    perturbation treats a kernel of any number of axes as a matrix. Scale and sign belong in one of the two factors.
    To evaluate many perturbations of one weight, use `jax.vmap` with `LowRank(None, 0, 0)` in `in_axes`.

    Attributes:
        weight: the unperturbed array, [*rows, *columns].
        left: [*rows, rank].
        right: [*columns, rank].
    """

    weight: Any
    left: Any
    right: Any


def materialise(x: Any) -> Any:
    """The array that a `LowRank` represents; any other value is returned unchanged."""
    return x.weight + _outer(x.left, x.right) if isinstance(x, LowRank) else x


def is_low_rank(x: Any) -> bool:
    """Whether this is a `LowRank`."""
    return isinstance(x, LowRank)


def bind(eqn: JaxprEqn, operands: Sequence[Any]) -> list[Any]:
    """The results of an equation with ordinary arrays, every `LowRank` materialised."""
    results = eqn.primitive.bind(*map(materialise, operands), **eqn.primitive.get_bind_params(eqn.params))
    return list(results) if eqn.primitive.multiple_results else [results]


def _shape(eqn: JaxprEqn) -> tuple[int, ...]:
    aval: Any = eqn.outvars[0].aval
    return aval.shape


# Operations that give an ordinary array.


def _outer(left: Float[Array, "*rows rank"], right: Float[Array, "*columns rank"]) -> Float[Array, "..."]:
    """The product summed over the rank, [*rows, *columns]."""
    rank = left.shape[-1]
    if rank > 4:
        return lax.dot_general(left, right, (((left.ndim - 1,), (right.ndim - 1,)), ((), ())))
    # XLA fuses products of broadcast arrays with the sum that they become part of: half the time on a CPU at rank 4.
    tall, wide = left.shape[:-1] + (1,) * (right.ndim - 1), (1,) * (left.ndim - 1) + right.shape[:-1]
    left, right = (rearrange(factor, "... rank -> rank ...") for factor in (left, right))
    left, right = left.reshape(rank, *tall), right.reshape(rank, *wide)
    return functools.reduce(lax.add, [left[r] * right[r] for r in range(rank)])


def _dot(eqn: JaxprEqn, operands: list[Any]) -> list[Any] | None:
    """A product that sums over row axes only, or over column axes only: the shared product and two thin ones."""
    lhs, rhs = operands
    if is_low_rank(lhs) and is_low_rank(rhs):
        lhs = materialise(lhs)
    p, flipped = eqn.params, is_low_rank(lhs)
    sums, batches = p["dimension_numbers"]
    (x, w) = (rhs, lhs) if flipped else (lhs, rhs)
    (x_sum, w_sum), (x_batch, w_batch) = (sums[::-1], batches[::-1]) if flipped else (sums, batches)
    rows, used = w.left.ndim - 1, {*w_sum, *w_batch}
    if not w_sum or p.get("out_sharding") is not None or min(used) < rows <= max(used):
        return None
    near, far, first = (w.left, w.right, 0) if max(used) < rows else (w.right, w.left, rows)

    def product(a: Any, b: Any, numbers: Any) -> Array:
        how = {"precision": p["precision"], "preferred_element_type": p["preferred_element_type"]}
        return lax.dot_general(a, b, numbers, **how)

    y = product(*((w.weight, x) if flipped else (x, w.weight)), p["dimension_numbers"])
    numbers = ((x_sum, [a - first for a in w_sum]), (x_batch, [a - first for a in w_batch]))
    thin = product(x, near, numbers)
    z = _outer(thin, far.astype(thin.dtype))
    # z is [batch, free axes of x, of near, of far]; y has the free axes of w in the order of w, and x before or after.
    cuts = [0, len(x_batch), x.ndim - len(x_sum), thin.ndim - 1, z.ndim]
    batch, free_x, free_near, free_far = (tuple(range(a, b)) for a, b in itertools.pairwise(cuts))
    free_w = free_near + free_far if first == 0 else free_far + free_near
    return [y + lax.transpose(z, batch + (free_w + free_x if flipped else free_x + free_w)).astype(y.dtype)]


def _convolution(eqn: JaxprEqn, operands: list[Any]) -> list[Any] | None:
    """A convolution whose output channels are all columns of the kernel, or all its rows.

    The thin factor is convolved in two steps: every pixel is multiplied by it, which gives one number per place in the
    window, and a fixed kernel of zeros and ones adds these up. Members of a population then differ by a product only.
    Mapping over kernels would give a grouped convolution, which costs as much as the materialised one.
    """
    x, w = operands
    p, numbers = eqn.params, eqn.params["dimension_numbers"]
    outputs, inputs, *window = numbers.rhs_spec
    if not is_low_rank(w) or is_low_rank(x) or p["feature_group_count"] != 1 or p["batch_group_count"] != 1:
        return None
    if w.right.ndim == 2 and outputs == w.weight.ndim - 1:
        near, far, first = w.left, w.right, 0
    elif w.left.ndim == 2 and outputs == 0:
        near, far, first = w.right, w.left, 1
    else:
        return None
    how = {"precision": p["precision"], "preferred_element_type": p["preferred_element_type"]}

    def convolve(x: Any, kernel: Any) -> Array:
        return lax.conv_general_dilated(
            x, kernel, p["window_strides"], p["padding"], p["lhs_dilation"], p["rhs_dilation"], numbers, **how
        )

    _, channels, *_ = numbers.lhs_spec
    near = lax.transpose(near, [*(axis - first for axis in (inputs, *window)), near.ndim - 1])
    places = rearrange(near, "inputs ... -> inputs (...)")
    pixels = lax.dot_general(x, places, (((channels,), (0,)), ((), ())), **how)
    shift = jnp.eye(places.shape[1], dtype=pixels.dtype).reshape(*near.shape[1:], -1)  # [*window, rank, places]
    shift = jnp.moveaxis(shift, (*range(len(window), shift.ndim), *range(len(window))), numbers.rhs_spec)
    _, channels_out, *_ = numbers.out_spec
    thin = jnp.moveaxis(convolve(jnp.moveaxis(pixels, -1, channels), shift), channels_out, -1)
    return [convolve(x, w.weight) + jnp.moveaxis(_outer(thin, far.astype(thin.dtype)), -1, channels_out)]


def _lookup(eqn: JaxprEqn, operands: list[Any]) -> list[Any] | None:
    """`w[i]`, where the indices i select whole rows, as in an embedding."""
    x, at = operands
    p, rows = eqn.params, x.left.ndim - 1
    numbers, shape = p["dimension_numbers"], _shape(eqn)
    whole = (1,) * rows + x.right.shape[:-1] == tuple(p["slice_sizes"]) and x.right.ndim == 2
    if not whole or numbers.collapsed_slice_dims != tuple(range(rows)) or numbers.offset_dims != (len(shape) - 1,):
        return None

    how = {name: p[name] for name in ("unique_indices", "indices_are_sorted", "mode")}

    def gather(operand: Any, fill_value: Any) -> Array:
        return lax.gather(operand, at, numbers, (1,) * rows + operand.shape[-1:], fill_value=fill_value, **how)

    # Beyond the end the result is the fill value of the weight alone.
    return [gather(x.weight, p["fill_value"]) + _outer(gather(x.left, 0), x.right)]


# Operations that give a LowRank.


def _each(eqn: JaxprEqn, operands: list[Any]) -> list[Any] | None:
    """The same operation on each part."""
    if not jnp.issubdtype(eqn.params.get("new_dtype", operands[0].weight.dtype), jnp.floating):
        return None
    return [jax.tree.map(lambda part: bind(eqn, [part])[0], operands[0])]


def _barrier(eqn: JaxprEqn, operands: list[Any]) -> list[Any]:
    del eqn
    return list(lax.optimization_barrier(operands))


def _scale(eqn: JaxprEqn, operands: list[Any]) -> list[Any] | None:
    """A sign or a scalar factor, applied to the weight and to one thin factor."""
    scalars = [o for o in operands if not is_low_rank(o)]
    if len(scalars) < len(operands) - 1 or any(map(jnp.ndim, scalars)):
        return None
    if eqn.primitive.name == "div" and not is_low_rank(operands[0]):
        return None
    operation = {"neg": lax.neg, "mul": lax.mul, "div": lax.div}[eqn.primitive.name]
    (x,) = filter(is_low_rank, operands)
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
    """Any change of shape that keeps rows before columns; axes of length 1 may appear and disappear."""
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
    """Apply `cut(array, *where)`, one entry per axis, to each part.

    `whole` is the entry that keeps the whole rank axis; None in it stands for the rank.
    """
    rows, rank = x.left.ndim - 1, x.left.shape[-1]
    last = [rank if w is None else w for w in whole]
    left = cut(x.left, *((*w[:rows], all_of) for w, all_of in zip(where, last, strict=True)))
    right = cut(x.right, *((*w[rows:], all_of) for w, all_of in zip(where, last, strict=True)))
    return LowRank(cut(x.weight, *where), left, right)


RULES: dict[str, Rule] = {
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
}
"""The rules by primitive name."""

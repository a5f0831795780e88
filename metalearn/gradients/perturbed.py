"""Evaluate a function of theta whose matrices carry a low-rank perturbation, without building the perturbed matrices.

"Evolution Strategies at the Hyperscale" (EGGROLL; Sarkar, Fellows, Duque, Letcher et al. 2025, arXiv 2511.16652):
every member of a population sees `W + A B^T` with thin A and B. In `x @ (W + A B^T) = x @ W + (x @ A) @ B^T` the first
product is the same for all members, so that a population costs little more than a batch of its size.

The paper's code needs models that are written for it. Here the function is any that JAX can trace: `apply_perturbed`
traces it and interprets its jaxpr. A perturbed matrix stays a `LowRank` in it while it is only moved, reshaped, cast,
scaled or passed to a loop, and ends in a product, a convolution or a lookup. Any other use materialises the matrix,
which is always correct, only slower.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import jax
from jax import lax
from jax.extend.core import Jaxpr, JaxprEqn, Literal

from metalearn._jax_versions import constants, open_jaxpr, scan_operands
from metalearn.gradients._low_rank import RULES, LowRank, Rule, bind, is_low_rank, materialise

__all__ = ["LowRank", "apply_perturbed", "materialise"]


def apply_perturbed(f: Callable[..., Any], theta: Any, *args: Any) -> Any:
    """Evaluate `f(theta, *args)`, where each `LowRank` leaf of theta represents the perturbed array.

    The result equals `f` of the materialised theta up to rounding. In low precision it is closer to exact arithmetic,
    since a small perturbation is not rounded away against its weight. `f` is traced in every call: call this under
    `jax.jit`. It can be mapped and differentiated, also with respect to the parts of a `LowRank`. Derivative rules that
    `f` contains (`jax.custom_jvp`, `jax.custom_vjp`) are kept, and get the materialised matrix.

    Args:
        f: any function that JAX can trace, of arrays.
        theta: pytree of arrays and `LowRank`.
        args: further arguments of `f`, pytrees of arrays without any `LowRank`.

    Returns:
        What `f` returns.

    Raises:
        ValueError: the parts of a `LowRank` do not fit each other.
    """
    paths, tree = jax.tree_util.tree_flatten_with_path(theta, is_leaf=is_low_rank)
    leaves = [leaf for _, leaf in paths]
    for path, leaf in paths:
        if isinstance(leaf, LowRank):
            _check(jax.tree_util.keystr(path), leaf)
    abstract = [jax.eval_shape(materialise, leaf) if is_low_rank(leaf) else leaf for leaf in leaves]
    closed, shapes = jax.make_jaxpr(lambda leaves, args: f(tree.unflatten(leaves), *args), return_shape=True)(
        abstract, args
    )
    results = _call(closed, [*leaves, *jax.tree.leaves(args)])
    return jax.tree.unflatten(jax.tree.structure(shapes), [materialise(r) for r in results])


def _check(where: str, x: LowRank) -> None:
    shapes = f"theta{where}: weight {x.weight.shape}, left {x.left.shape}, right {x.right.shape}"
    if min(x.left.ndim, x.right.ndim) < 2 or x.left.shape[-1] != x.right.shape[-1]:
        raise ValueError(f"{shapes}; left must be [*rows, rank] and right [*columns, rank], of the same rank")
    if x.weight.shape != x.left.shape[:-1] + x.right.shape[:-1]:
        raise ValueError(f"{shapes}; weight must be [*rows, *columns] = {x.left.shape[:-1] + x.right.shape[:-1]}")
    if not x.weight.dtype == x.left.dtype == x.right.dtype:
        types = f"{x.weight.dtype}, {x.left.dtype}, {x.right.dtype}"
        raise ValueError(f"theta{where}: weight, left and right must be of one dtype, got {types}")


# The interpreter.


def _interpret(jaxpr: Jaxpr, consts: Sequence[Any], args: Sequence[Any]) -> list[Any]:
    values = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*consts, *args), strict=True))

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, Literal) else values[atom]

    for eqn in jaxpr.eqns:
        operands = [read(atom) for atom in eqn.invars]
        results = None
        if any(map(is_low_rank, operands)) and eqn.primitive.name in _RULES:
            results = _RULES[eqn.primitive.name](eqn, operands)
        if results is None:
            results = bind(eqn, operands)
        values.update(zip(eqn.outvars, results, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _call(jaxpr: Any, args: Sequence[Any]) -> list[Any]:
    """Interpret a jaxpr, open or closed."""
    return _interpret(open_jaxpr(jaxpr), constants(jaxpr), args)


# Rules for functions inside the function. JAX itself has made what a loop passes on unchanged one of its constants.


def _inline(eqn: JaxprEqn, operands: list[Any]) -> list[Any]:
    return _call(eqn.params["jaxpr" if "jaxpr" in eqn.params else "call_jaxpr"], operands)


def _remat(eqn: JaxprEqn, operands: list[Any]) -> list[Any] | None:
    p = eqn.params
    if not isinstance(p["prevent_cse"], bool):
        return None
    if p["differentiated"] and p["prevent_cse"]:
        operands = lax.optimization_barrier(operands)  # else XLA would reuse the forward pass instead of redoing it
    again = jax.checkpoint(lambda *o: _interpret(p["jaxpr"], (), o), prevent_cse=p["prevent_cse"], policy=p["policy"])
    return again(*operands)


def _custom_jvp(eqn: JaxprEqn, operands: list[Any]) -> list[Any]:
    """The value by interpretation, the derivative by the function's own rule."""
    call = jax.custom_jvp(lambda *o: [materialise(r) for r in _call(eqn.params["call_jaxpr"], o)])
    call.defjvp(lambda primals, tangents: jax.jvp(lambda *o: bind(eqn, o), primals, tangents))
    return call(*operands)


def _custom_vjp(eqn: JaxprEqn, operands: list[Any]) -> list[Any]:
    call = jax.custom_vjp(lambda *o: [materialise(r) for r in _call(eqn.params["call_jaxpr"], o)])
    call.defvjp(lambda *o: jax.vjp(lambda *o: bind(eqn, o), *o), lambda pullback, cotangents: pullback(cotangents))
    return call(*operands)


def _cond(eqn: JaxprEqn, operands: list[Any]) -> list[Any]:
    """The chosen branch. If members choose differently, `jax.vmap` makes it a select, which copies every operand."""
    index, *rest = operands
    branches = [
        lambda *o, branch=branch: [materialise(r) for r in _call(branch, o)] for branch in eqn.params["branches"]
    ]
    return list(lax.switch(index, branches, *rest))


def _scan(eqn: JaxprEqn, operands: list[Any]) -> list[Any]:
    p = eqn.params
    number_of_consts, number_carried = scan_operands(eqn)
    consts, rest = operands[:number_of_consts], operands[number_of_consts:]
    carry, xs = [materialise(c) for c in rest[:number_carried]], rest[number_carried:]

    def slice_of(x: Any, part: Any) -> Any:
        """A slice along the first axis, which shares the columns; without a row axis left it is small."""
        if not is_low_rank(x):
            return part
        one = replace(part, right=x.right)
        return materialise(one) if one.left.ndim == 1 else one

    def body(carry: list[Any], parts: list[Any]) -> tuple[list[Any], list[Any]]:
        now = [slice_of(x, part) for x, part in zip(xs, parts, strict=True)]
        results = [materialise(r) for r in _call(p["jaxpr"], [*consts, *carry, *now])]
        return results[: len(carry)], results[len(carry) :]

    parts = [replace(x, right=None) if is_low_rank(x) else x for x in xs]
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


# By primitive name, old and new ones. A primitive without a rule gets materialised operands, so no result is wrong.
_RULES: dict[str, Rule] = {
    **RULES,
    **dict.fromkeys(("jit", "pjit", "closed_call"), _inline),
    **dict.fromkeys(("remat2", "remat", "checkpoint"), _remat),
    "custom_jvp_call": _custom_jvp,
    "custom_vjp_call": _custom_vjp,
    "cond": _cond,
    "scan": _scan,
    "while": _while,
}

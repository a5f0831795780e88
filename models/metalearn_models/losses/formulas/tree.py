"""Formula trees: node types, operators, and functions on the structure of a tree.

Operators and limits follow EvoMAL (Raymond, Chen, Xue, Zhang 2023, arXiv 2209.08907).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from metalearn.errors import unknown_name

__all__ = [
    "FLOOR",
    "LIMIT",
    "MAX_HEIGHT",
    "MAX_SIZE",
    "OPERATORS",
    "TERMINALS",
    "Const",
    "Expr",
    "Op",
    "Operator",
    "Var",
    "check_loss",
    "height",
    "nodes",
    "number_of_coefficients",
    "replace",
    "size",
    "variables",
]

LIMIT = 1e12
"""Bound on every intermediate value and slope: the product of two stays far below the overflow of float32."""
FLOOR = 1e-7
"""log and sqrt of a smaller magnitude are constant."""
MAX_HEIGHT = 64
"""Largest height of a tree. EvoMAL's limit is 10."""
MAX_SIZE = 4096
"""Largest number of nodes of a tree."""
TERMINALS = ("y", "f")
"""The variables of a formula: target and prediction."""


class Operator(NamedTuple):
    """An operator of the formula language.

    Attributes:
        arity: number of arguments, 1 or 2.
        function: elementwise, on JAX arrays of one shape; finite, with finite slopes, on [-LIMIT, LIMIT].
    """

    arity: int
    function: Callable[..., Array]


def _floor_magnitude(x: Array) -> Array:
    # A clamp instead of |x| + FLOOR: at 0 the slope of log(|x| + FLOOR) is 1e7, that of the clamped log is 0.
    return jnp.maximum(jnp.abs(x), FLOOR)


OPERATORS: Mapping[str, Operator] = MappingProxyType(
    {
        "add": Operator(2, jnp.add),
        "sub": Operator(2, jnp.subtract),
        "mul": Operator(2, jnp.multiply),
        "div": Operator(2, lambda a, b: a * jax.lax.rsqrt(1 + b * b)),  # the analytic quotient
        "min": Operator(2, jnp.minimum),
        "max": Operator(2, jnp.maximum),
        "sign": Operator(1, jnp.sign),
        "square": Operator(1, jnp.square),
        "abs": Operator(1, jnp.abs),
        "log": Operator(1, lambda x: jnp.log(_floor_magnitude(x))),
        "sqrt": Operator(1, lambda x: jnp.sqrt(_floor_magnitude(x))),
        "tanh": Operator(1, jnp.tanh),
    }
)
"""The operators by name."""


@dataclass(frozen=True)
class Var:
    """A variable of the formula.

    Attributes:
        name: "y", the target, or "f", the prediction.

    Raises:
        UnknownNameError: another name.
    """

    name: str

    def __post_init__(self) -> None:
        if self.name not in TERMINALS:
            raise unknown_name("variable", self.name, TERMINALS)

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Const:
    """A fixed number. EvoMAL uses 1 and -1 only; real-valued coefficients belong on the edges.

    Attributes:
        value: the number.

    Raises:
        TypeError: not a number.
        ValueError: NaN, or larger in magnitude than `LIMIT`.
    """

    value: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "value", check_number(self.value, "a constant") + 0.0)  # no negative zero

    def __str__(self) -> str:
        return str(int(self.value)) if self.value.is_integer() and abs(self.value) < 1e6 else repr(self.value)


@dataclass(frozen=True)
class Op:
    """An operator applied to its arguments.

    Attributes:
        name: one of `OPERATORS`.
        args: the subtrees it is applied to.

    Raises:
        TypeError: an argument is not a node.
        ValueError: unknown operator, wrong number of arguments, or a tree beyond `MAX_HEIGHT` or `MAX_SIZE`.
    """

    name: str
    args: tuple[Expr, ...]
    _height: int = field(init=False, repr=False, compare=False)
    _size: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.name not in OPERATORS:
            raise unknown_name("function", self.name, OPERATORS)
        object.__setattr__(self, "args", tuple(self.args))
        for arg in self.args:
            if not isinstance(arg, Var | Const | Op):
                raise TypeError(f"arguments of {self.name} must be Var, Const or Op, got {arg!r}")
        if len(self.args) != OPERATORS[self.name].arity:
            raise ValueError(arity_message(self.name, len(self.args)))
        object.__setattr__(self, "_height", 1 + max(height(arg) for arg in self.args))
        object.__setattr__(self, "_size", 1 + sum(size(arg) for arg in self.args))
        if self._height > MAX_HEIGHT:
            raise ValueError(f"a formula may be at most {MAX_HEIGHT} levels high, this one is {self._height}")
        if self._size > MAX_SIZE:
            raise ValueError(f"a formula may have at most {MAX_SIZE} nodes, this one has {self._size}")

    def __str__(self) -> str:
        return f"{self.name}({', '.join(str(arg) for arg in self.args)})"


Expr = Var | Const | Op
"""A formula: its root node."""


def check_number(value: Any, what: str) -> float:
    """Convert a number to float.

    Raises:
        TypeError: not a number.
        ValueError: NaN, or larger in magnitude than `LIMIT`.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{what} must be a number, got {value!r:.80}")
    if not abs(value) <= LIMIT:  # NaN too; compared before the conversion, which huge integers would overflow
        shown = "an integer of too many digits" if isinstance(value, int) else repr(value)
        raise ValueError(f"{what} must be finite and at most {LIMIT:g} in size, got {shown}")
    return float(value)


def arity_message(name: str, got: int) -> str:
    """The error text for a call with a wrong number of arguments."""
    arity = OPERATORS[name].arity
    return f"{name} takes {arity} argument{'s' * (arity > 1)}, got {got}"


def size(expr: Expr) -> int:
    """Number of nodes."""
    return expr._size if isinstance(expr, Op) else 1


def height(expr: Expr) -> int:
    """Number of edges on the longest path from the root to a leaf; 0 for a leaf."""
    return expr._height if isinstance(expr, Op) else 0


def nodes(expr: Expr) -> list[Expr]:
    """All subtrees in prefix order; the first is the whole tree."""
    found: list[Expr] = []
    stack = [expr]
    while stack:
        node = stack.pop()
        found.append(node)
        if isinstance(node, Op):
            stack.extend(reversed(node.args))
    return found


def variables(expr: Expr) -> frozenset[str]:
    """Names of the variables that occur: a subset of {"y", "f"}."""
    return frozenset(node.name for node in nodes(expr) if isinstance(node, Var))


def replace(expr: Expr, index: int, new: Expr) -> Expr:
    """Replace one subtree.

    Args:
        expr: the tree.
        index: place of the subtree in prefix order; 0 is the root.
        new: what stands there afterwards.

    Raises:
        IndexError: no such node.
        ValueError: the result would be beyond `MAX_HEIGHT` or `MAX_SIZE`.
    """
    if not 0 <= index < size(expr):
        raise IndexError(f"the tree has nodes 0 to {size(expr) - 1}, got index {index}")
    if index == 0:
        return new
    assert isinstance(expr, Op)  # a terminal has one node
    args = list(expr.args)
    index -= 1
    for i, arg in enumerate(args):
        if index < size(arg):
            args[i] = replace(arg, index, new)
            break
        index -= size(arg)
    return Op(expr.name, tuple(args))


def number_of_coefficients(expr: Expr) -> int:
    """Number of coefficients: one per edge, that is one per node except the root."""
    return size(expr) - 1


def check_loss(expr: Expr) -> None:
    """Check that a formula contains both y and f, as a loss must.

    Raises:
        ValueError: a variable is missing; names it.
    """
    missing = [name for name in TERMINALS if name not in variables(expr)]
    if missing:
        raise ValueError(f"a loss must contain y and f, {expr!s:.200} lacks {' and '.join(missing)}")

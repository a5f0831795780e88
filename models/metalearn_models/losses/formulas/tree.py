"""The trees of formulas: nodes, the functions they may hold, and what can be asked of their structure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from metalearn.errors import unknown_name

LIMIT = 1e12  # bound on every intermediate value and slope: products of two stay far from the overflow of float32
FLOOR = 1e-7  # log and sqrt are flat below
MAX_HEIGHT = 64  # EvoMAL's own limit is 10
MAX_SIZE = 4096
TERMINALS = ("y", "f")


class Operator(NamedTuple):
    """A function of the formula language.

    Attributes:
        arity: number of arguments, 1 or 2.
        function: elementwise, on JAX arrays of one shape; finite, with finite slopes, on [-LIMIT, LIMIT].
    """

    arity: int
    function: Callable[..., Array]


def _floored(x: Array) -> Array:
    # The clamp, not |x| + FLOOR: the slope of log(|x| + FLOOR) at 0 is 1e7, that of the clamp 0.
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
        "log": Operator(1, lambda x: jnp.log(_floored(x))),
        "sqrt": Operator(1, lambda x: jnp.sqrt(_floored(x))),
        "tanh": Operator(1, jnp.tanh),
    }
)


@dataclass(frozen=True)
class Var:
    """An input of the formula: `y`, the target, or `f`, the prediction."""

    name: str

    def __post_init__(self) -> None:
        if self.name not in TERMINALS:
            raise unknown_name("variable", self.name, TERMINALS)

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Const:
    """A fixed number. EvoMAL's own are 1 and -1; real coefficients belong on the edges."""

    value: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "value", checked_number(self.value, "a constant") + 0.0)  # no negative zero

    def __str__(self) -> str:
        return str(int(self.value)) if self.value.is_integer() and abs(self.value) < 1e6 else repr(self.value)


@dataclass(frozen=True)
class Op:
    """An operator of `OPERATORS` applied to its arguments.

    Raises:
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


def checked_number(value: Any, what: str) -> float:
    """The number as a float; TypeError where it is none, ValueError where it is not within `LIMIT`."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{what} must be a number, got {value!r:.80}")
    if not abs(value) <= LIMIT:  # NaN too; compared before the conversion, which huge integers would overflow
        shown = "an integer of too many digits" if isinstance(value, int) else repr(value)
        raise ValueError(f"{what} must be finite and at most {LIMIT:g} in size, got {shown}")
    return float(value)


def arity_message(name: str, got: int) -> str:
    """What to say of a call with a wrong number of arguments."""
    arity = OPERATORS[name].arity
    return f"{name} takes {arity} argument{'s' * (arity > 1)}, got {got}"


def size(expr: Expr) -> int:
    """Number of nodes."""
    return expr._size if isinstance(expr, Op) else 1


def height(expr: Expr) -> int:
    """Edges on the longest way from the root to a terminal: 0 for a terminal."""
    return expr._height if isinstance(expr, Op) else 0


def nodes(expr: Expr) -> list[Expr]:
    """All subtrees in prefix order, the whole first."""
    found: list[Expr] = []
    stack = [expr]
    while stack:
        node = stack.pop()
        found.append(node)
        if isinstance(node, Op):
            stack.extend(reversed(node.args))
    return found


def variables(expr: Expr) -> frozenset[str]:
    """Names of the variables that occur, a subset of {"y", "f"}."""
    return frozenset(node.name for node in nodes(expr) if isinstance(node, Var))


def replace(expr: Expr, index: int, new: Expr) -> Expr:
    """The tree with the subtree at `index` (in prefix order, 0 the root) exchanged for `new`.

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
    """One for each edge, that is for each node but the root."""
    return size(expr) - 1


def check_loss(expr: Expr) -> None:
    """Refuse a formula that cannot be a loss: it must contain y and f.

    Raises:
        ValueError: a variable is missing.
    """
    missing = [name for name in TERMINALS if name not in variables(expr)]
    if missing:
        raise ValueError(f"a loss must contain y and f, {expr!s:.200} lacks {' and '.join(missing)}")

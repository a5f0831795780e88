"""Formulas of learned losses: small immutable trees over y (the target) and f (the prediction).

Functions, terminals and edge coefficients are those of EvoMAL: Raymond, Chen, Xue, Zhang, "Learning Symbolic
Model-Agnostic Loss Functions via Meta-Learning" (2023, arXiv 2209.08907). Values and slopes are bounded at every
node, so that each formula has a finite value and a finite gradient everywhere.

The structure of a tree is hashable and holds no arrays. Its coefficients, one for each edge, are a separate vector:
the value of every node but the root is multiplied by its coefficient before it enters its parent. Coefficient i
belongs to node i + 1 in prefix order.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple, NoReturn

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from metalearn.errors import unknown_name

LIMIT = 1e12  # bound on every intermediate value and slope: products of two stay far from the overflow of float32
FLOOR = 1e-7  # log and sqrt are flat below
MAX_HEIGHT = 64  # EvoMAL's own limit is 10
MAX_SIZE = 4096
MAX_TEXT = 65_536  # characters
VERSION = 1
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
        object.__setattr__(self, "value", _number(self.value, "a constant") + 0.0)  # no negative zero

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
            raise ValueError(_arity_message(self.name, len(self.args)))
        object.__setattr__(self, "_height", 1 + max(height(arg) for arg in self.args))
        object.__setattr__(self, "_size", 1 + sum(size(arg) for arg in self.args))
        if self._height > MAX_HEIGHT:
            raise ValueError(f"a formula may be at most {MAX_HEIGHT} levels high, this one is {self._height}")
        if self._size > MAX_SIZE:
            raise ValueError(f"a formula may have at most {MAX_SIZE} nodes, this one has {self._size}")

    def __str__(self) -> str:
        return f"{self.name}({', '.join(str(arg) for arg in self.args)})"


Expr = Var | Const | Op


def _number(value: Any, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{what} must be a number, got {value!r:.80}")
    if not abs(value) <= LIMIT:  # NaN too; compared before the conversion, which huge integers would overflow
        shown = "an integer of too many digits" if isinstance(value, int) else repr(value)
        raise ValueError(f"{what} must be finite and at most {LIMIT:g} in size, got {shown}")
    return float(value)


def _arity_message(name: str, got: int) -> str:
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


def to_text(expr: Expr) -> str:
    """Prefix calls, `mul(y, log(f))`; `parse` reads them back to an equal tree."""
    return str(expr)


# --- values and slopes -----------------------------------------------------------------------------------------------


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


# --- text and JSON ---------------------------------------------------------------------------------------------------


def parse(text: str) -> Expr:
    """Read a formula: calls `mul(y, log(f))`, numbers, and as a convenience `a + b`, `a - b`, `a * b`, `-a`, `a^2`.

    There is no `/`: division here is `div(a, b)`, the analytic quotient a / sqrt(1 + b^2).

    Raises:
        ValueError: what was expected at which character (counted from 1); unknown functions and variables by name;
            text longer than `MAX_TEXT`, deeper than `MAX_HEIGHT` or of more nodes than `MAX_SIZE`.
    """
    if not isinstance(text, str):
        raise TypeError(f"a formula must be text, got {type(text).__name__}")
    if len(text) > MAX_TEXT:
        raise ValueError(f"a formula may have at most {MAX_TEXT} characters, this text has {len(text)}")
    return _Parser(text).whole()


class _Parser:
    """Recursive descent: sum, product, sign, power, atom."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.depth = 0

    def fail(self, expected: str) -> NoReturn:
        got = repr(self.text[self.at]) if self.at < len(self.text) else "the end"
        near = self.text[max(0, self.at - 20) : self.at + 20]
        raise ValueError(f"at character {self.at + 1}: expected {expected}, got {got} (near {near!r})")

    def peek(self) -> str:
        while self.at < len(self.text) and self.text[self.at] in " \t\r\n":
            self.at += 1
        return self.text[self.at : self.at + 1]

    def take(self, symbol: str, expected: str) -> None:
        if self.peek() != symbol:
            self.fail(expected)
        self.at += 1

    def op(self, start: int, name: str, *args: Expr) -> Expr:
        try:
            return Op(name, args)
        except ValueError as error:
            raise type(error)(f"at character {start + 1}: {error}") from None

    def whole(self) -> Expr:
        expr = self.sum()
        if self.peek():
            is_slash = self.peek() == "/"
            self.fail("div(a, b), that is a / sqrt(1 + b^2), not /" if is_slash else "an operator or the end")
        return expr

    def sum(self) -> Expr:
        self.depth += 1
        if self.depth > MAX_HEIGHT:
            raise ValueError(f"at character {self.at + 1}: nested deeper than {MAX_HEIGHT} levels")
        expr = self.product()
        while (symbol := self.peek()) in ("+", "-") and symbol:
            start, self.at = self.at, self.at + 1
            expr = self.op(start, "add" if symbol == "+" else "sub", expr, self.product())
        self.depth -= 1
        return expr

    def product(self) -> Expr:
        expr = self.signed()
        while self.peek() == "*":
            start, self.at = self.at, self.at + 1
            expr = self.op(start, "mul", expr, self.signed())
        return expr

    def signed(self) -> Expr:
        if self.peek() != "-":
            return self.power()
        start, self.at = self.at, self.at + 1
        if self.peek() == "-":
            self.fail("a number, a variable, a function or '('")
        expr = self.power()
        return Const(-expr.value) if isinstance(expr, Const) else self.op(start, "mul", Const(-1.0), expr)

    def power(self) -> Expr:
        expr = self.atom()
        while self.peek() == "^":
            start, self.at = self.at, self.at + 1
            self.take("2", "2: the only power is a^2")
            expr = self.op(start, "square", expr)
        return expr

    def atom(self) -> Expr:
        symbol, start = self.peek(), self.at
        if symbol == "(":
            self.at += 1
            expr = self.sum()
            self.take(")", "')'")
            return expr
        if symbol.isascii() and (symbol.isdigit() or symbol == "."):
            return self.number()
        if not (symbol.isascii() and symbol.isalpha()):
            self.fail("a number, a variable, a function or '('")
        while self.at < len(self.text) and self.text[self.at].isascii() and self.text[self.at].isalnum():
            self.at += 1
        name = self.text[start : self.at]
        if self.peek() != "(":
            if name in TERMINALS:
                return Var(name)
            if name in OPERATORS:
                self.fail(f"'(' after {name}")
            raise unknown_name(f"variable at character {start + 1},", name[:40], TERMINALS)
        if name not in OPERATORS:
            raise unknown_name(f"function at character {start + 1},", name[:40], OPERATORS)
        self.at += 1
        args = [self.sum()]
        while self.peek() == ",":
            self.at += 1
            args.append(self.sum())
        self.take(")", "',' or ')'")
        if len(args) != OPERATORS[name].arity:
            raise ValueError(f"at character {start + 1}: {_arity_message(name, len(args))}")
        return self.op(start, name, *args)

    def number(self) -> Expr:
        start = self.at
        previous = ""
        while self.at < len(self.text):
            symbol = self.text[self.at]
            if not (
                (symbol.isascii() and symbol.isdigit()) or symbol in ".eE" or (symbol in "+-" and previous in "eE")
            ):
                break
            previous = symbol
            self.at += 1
        try:
            return Const(float(self.text[start : self.at]))
        except ValueError as error:
            raise ValueError(f"at character {start + 1}: {error}") from None


def to_json(expr: Expr, coefficients: Sequence[float] | Float[Array, "E"] | None) -> str:
    """The formula and its coefficients (None: all 1) as versioned JSON."""
    values = [1.0] * number_of_coefficients(expr) if coefficients is None else [float(c) for c in coefficients]
    return json.dumps(to_record(expr, values), allow_nan=False)


def to_record(expr: Expr, coefficients: Sequence[float]) -> dict[str, Any]:
    """What `to_json` writes, as a dictionary."""
    values = [_number(float(c), "a coefficient") for c in coefficients]
    if len(values) != number_of_coefficients(expr):
        raise ValueError(f"{expr!s:.200} has {number_of_coefficients(expr)} coefficients, got {len(values)}")
    return {"format": "metalearn-loss", "version": VERSION, "expression": to_text(expr), "coefficients": values}


def from_json(text: str | bytes) -> tuple[Expr, tuple[float, ...]]:
    """Read what `to_json` wrote: the formula and its coefficients.

    Raises:
        ValueError: no JSON, truncated, nested too deeply, of a newer version, or with entries that are missing or
            wrong; the message says which.
    """
    return from_record(read_json(text))


def read_json(text: str | bytes) -> Any:
    """JSON without NaN, infinities and integers or nesting beyond what Python reads.

    Raises:
        ValueError: not such JSON, or longer than 16 times `MAX_TEXT`.
    """
    if len(text) > 16 * MAX_TEXT:
        raise ValueError(f"the JSON of a loss may have at most {16 * MAX_TEXT} characters, this has {len(text)}")

    def refuse(name: str) -> NoReturn:
        raise ValueError(f"{name} is no number a loss may hold")

    try:
        return json.loads(text, parse_constant=refuse)
    except RecursionError:
        raise ValueError("the JSON of a loss is nested too deeply") from None
    except (ValueError, UnicodeDecodeError) as error:
        raise ValueError(f"not the JSON of a loss, or truncated: {error}") from None


def from_record(record: Any) -> tuple[Expr, tuple[float, ...]]:
    """What `from_json` does with the dictionary it has read."""
    if not isinstance(record, dict) or record.get("format") != "metalearn-loss":
        raise ValueError('not a loss: expected a JSON object with "format": "metalearn-loss"')
    version = record.get("version")
    if isinstance(version, bool) or not isinstance(version, int) or version < 1:
        raise ValueError(f'"version" must be an integer from 1 to {VERSION}, got {version!r:.80}')
    if version > VERSION:
        raise ValueError(
            f"this loss has format version {version:.8g}, this metalearn reads up to {VERSION}: upgrade it"
        )
    if not isinstance(record.get("expression"), str):
        raise ValueError(f'"expression" must be text like "mul(y, log(f))", got {record.get("expression")!r:.80}')
    expr = parse(record["expression"])
    values = record.get("coefficients")
    expected = number_of_coefficients(expr)
    if not isinstance(values, list) or len(values) != expected:
        got = f"{len(values)} of them" if isinstance(values, list) else f"{values!r:.80}"
        raise ValueError(f'"coefficients" must be a list of {expected} numbers, one an edge; got {got}')
    try:
        return expr, tuple(_number(value, f"coefficient {i}") for i, value in enumerate(values))
    except TypeError as error:
        raise ValueError(str(error)) from None

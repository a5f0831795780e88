"""Formulas as text and as JSON; both are read without `eval`, and with limits on length and depth."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NoReturn

from jaxtyping import Array, Float

from metalearn.errors import unknown_name
from metalearn_models.losses.formulas.tree import (
    MAX_HEIGHT,
    OPERATORS,
    TERMINALS,
    Const,
    Expr,
    Op,
    Var,
    arity_message,
    checked_number,
    number_of_coefficients,
)

MAX_TEXT = 65_536  # characters
VERSION = 1


def to_text(expr: Expr) -> str:
    """Prefix calls, `mul(y, log(f))`; `parse` reads them back to an equal tree."""
    return str(expr)


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
            raise ValueError(f"at character {start + 1}: {arity_message(name, len(args))}")
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
    values = [checked_number(float(c), "a coefficient") for c in coefficients]
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
        return expr, tuple(checked_number(value, f"coefficient {i}") for i, value in enumerate(values))
    except TypeError as error:
        raise ValueError(str(error)) from None

"""Formulas as text and as JSON. Both are read without `eval` and with limits on length and depth."""

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
    check_number,
    number_of_coefficients,
)

__all__ = ["MAX_TEXT", "VERSION", "from_json", "parse", "to_json", "to_text"]

MAX_TEXT = 65_536
"""Largest number of characters of a formula."""
VERSION = 2
"""Newest version of the JSON format that is read. A bare formula is written as version 1; 2 adds entries of losses."""


def to_text(expr: Expr) -> str:
    """Write a formula as nested calls, `mul(y, log(f))`; `parse` reads an equal tree back."""
    return str(expr)


def parse(text: str) -> Expr:
    """Read a formula: calls `mul(y, log(f))`, numbers, and for convenience `a + b`, `a - b`, `a * b`, `-a`, `a^2`.

    There is no `/`. Division is `div(a, b)`, the analytic quotient a / sqrt(1 + b^2).

    Args:
        text: the formula.

    Raises:
        TypeError: not text.
        ValueError: text that is not a formula; says what was expected at which character, counted from 1. Also a
            formula longer than `MAX_TEXT`, higher than `MAX_HEIGHT` or larger than `MAX_SIZE`.
        UnknownNameError: an unknown function or variable.
    """
    if not isinstance(text, str):
        raise TypeError(f"a formula must be text, got {type(text).__name__}")
    if len(text) > MAX_TEXT:
        raise ValueError(f"a formula may have at most {MAX_TEXT} characters, this text has {len(text)}")
    return _Parser(text).whole()


class _Parser:
    """A recursive-descent parser with one method per level: sum, product, signed, power, atom."""

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
            self.fail("div(a, b), which is a / sqrt(1 + b^2), instead of /" if is_slash else "an operator or the end")
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
    """Write a formula and its coefficients as versioned JSON; `from_json` reads it back.

    Args:
        expr: the formula.
        coefficients: one per edge in prefix order; None: all 1.

    Raises:
        ValueError: a wrong number of coefficients, or one that is not finite.
    """
    values = [1.0] * number_of_coefficients(expr) if coefficients is None else [float(c) for c in coefficients]
    return json.dumps(to_record(expr, values), allow_nan=False)


def to_record(expr: Expr, coefficients: Sequence[float]) -> dict[str, Any]:
    """The content of `to_json` as a dictionary."""
    values = [check_number(float(c), "a coefficient") for c in coefficients]
    if len(values) != number_of_coefficients(expr):
        raise ValueError(f"{expr!s:.200} has {number_of_coefficients(expr)} coefficients, got {len(values)}")
    return {"format": "metalearn-loss", "version": 1, "expression": to_text(expr), "coefficients": values}


def from_json(text: str | bytes) -> tuple[Expr, tuple[float, ...]]:
    """Read a formula and its coefficients from the JSON that `to_json` wrote.

    Raises:
        ValueError: text that is not such JSON, or truncated, too long, nested too deeply, of a newer version, or with
            missing or wrong entries; the message says which.
    """
    return from_record(read_json(text))


def read_json(text: str | bytes) -> Any:
    """Read JSON text and refuse NaN, infinities, and numbers or nesting too large for Python.

    Raises:
        ValueError: not such JSON, or longer than 16 times `MAX_TEXT`.
    """
    if len(text) > 16 * MAX_TEXT:
        raise ValueError(f"the JSON of a loss may have at most {16 * MAX_TEXT} characters, this has {len(text)}")

    def refuse(name: str) -> NoReturn:
        raise ValueError(f"{name} is not allowed in a loss, numbers must be finite")

    try:
        return json.loads(text, parse_constant=refuse)
    except RecursionError:
        raise ValueError("the JSON of a loss is nested too deeply") from None
    except (ValueError, UnicodeDecodeError) as error:
        raise ValueError(f"not the JSON of a loss, or truncated: {error}") from None


def from_record(record: Any) -> tuple[Expr, tuple[float, ...]]:
    """Read a formula and its coefficients from the dictionary that `to_record` made; errors as in `from_json`."""
    if not isinstance(record, dict) or record.get("format") != "metalearn-loss":
        raise ValueError('not a loss: expected a JSON object with "format": "metalearn-loss"')
    version = record.get("version")
    if isinstance(version, bool) or not isinstance(version, int) or version < 1:
        raise ValueError(f'"version" must be an integer from 1 to {VERSION}, got {version!r:.80}')
    if version > VERSION:
        raise ValueError(
            f"this loss has format version {version!r:.20}, this metalearn reads up to {VERSION}: upgrade it"
        )
    if not isinstance(record.get("expression"), str):
        raise ValueError(f'"expression" must be text like "mul(y, log(f))", got {record.get("expression")!r:.80}')
    expr = parse(record["expression"])
    values = record.get("coefficients")
    expected = number_of_coefficients(expr)
    if not isinstance(values, list) or len(values) != expected:
        got = f"{len(values)} of them" if isinstance(values, list) else f"{values!r:.80}"
        raise ValueError(f'"coefficients" must be a list of {expected} numbers, one per edge; got {got}')
    try:
        return expr, tuple(check_number(value, f"coefficient {i}") for i, value in enumerate(values))
    except TypeError as error:
        raise ValueError(str(error)) from None

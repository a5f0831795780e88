"""Sums of floats that lose no bits: a number held as the unevaluated sum of two floats, `high + low`.

Knuth's two-sum gives the rounding error of an addition as a float. A pair has twice the bits of its float, 48 of
float32. Sums of pairs and floats are exact, in real numbers, as long as these suffice: all parts are multiples of some
unit u and the sum stays below 2^47 u. Otherwise an addition loses less than 2^-47 of the sum. Subnormal numbers are
left out, since processors may count them as 0.
"""

from __future__ import annotations

from jaxtyping import Array, Float

__all__ = ["add_exactly", "two_sum"]

Tensor = Float[Array, "*S"]


def two_sum(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """The sum of two floats and its rounding error: `a + b == total + error` in real numbers."""
    total = a + b
    part = total - a
    return total, (a - (total - part)) + (b - part)


def add_exactly(high: Tensor, low: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """`high + low + x` as a pair whose first number is the sum rounded to one float."""
    total, error = two_sum(high, x)
    return two_sum(total, low + error)

"""Test functions of global optimisation with a known minimum, in their customary forms and boxes.

Formulas, boxes and minima as collected by Surjanovic and Bingham, "Virtual library of simulation experiments", and by
Jamil and Yang 2013, "A literature survey of benchmark functions for global optimization problems" (arXiv 1308.4008).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from metalearn.errors import unknown_name

__all__ = ["NAMES", "Landscape", "landscape"]


class Landscape(NamedTuple):
    """A function of D real numbers, and its minimum.

    Attributes:
        value: `(x[D]) -> scalar`, differentiable.
        minimizer: a point `[D]` of the least value. It is unique, except for Himmelblau's function, which has four.
        minimum: the least value.
        low: lower end of the customary box, in every coordinate.
        high: upper end of the customary box.
    """

    value: Callable[[Float[Array, "D"]], Float[Array, ""]]
    minimizer: Float[np.ndarray, "D"]
    minimum: float
    low: float
    high: float


def landscape(name: str, dimension: int = 2) -> Landscape:
    """Get a test function by name.

    Args:
        name: one of `NAMES`.
        dimension: D; it must be 2 for functions that exist only in the plane.

    Raises:
        UnknownNameError: no such function.
        ValueError: a dimension in which the function does not exist.
    """
    if name in _ANY_DIMENSION:
        least = 2 if name == "rosenbrock" else 1
        if dimension < least:
            raise ValueError(f"dimension must be at least {least} for {name}, got {dimension}")
        value, minimizer, minimum, low, high = _ANY_DIMENSION[name]
        return Landscape(value, np.full(dimension, minimizer), minimum * dimension, low, high)
    if name in _PLANE:
        if dimension != 2:
            raise ValueError(f"dimension must be 2 for {name}, got {dimension}")
        return _PLANE[name]
    raise unknown_name("test function", name, NAMES)


def _sphere(x: Array) -> Array:
    return (x**2).sum()


def _rosenbrock(x: Array) -> Array:
    return (100.0 * (x[1:] - x[:-1] ** 2) ** 2 + (1.0 - x[:-1]) ** 2).sum()


def _ackley(x: Array) -> Array:
    square = (x**2).mean()
    # The cone has no slope at its tip; there the derivative is 0 instead of NaN.
    radius = jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1.0)), 0.0)
    waves = jnp.cos(2 * math.pi * x).mean()
    return -20.0 * jnp.expm1(-0.2 * radius) - math.e * jnp.expm1(waves - 1.0)


def _rastrigin(x: Array) -> Array:
    return (x**2 + 10.0 * (1.0 - jnp.cos(2 * math.pi * x))).sum()


def _griewank(x: Array) -> Array:
    root = jnp.sqrt(jnp.arange(1, x.shape[0] + 1, dtype=x.dtype))
    return (x**2).sum() / 4000.0 - jnp.prod(jnp.cos(x / root)) + 1.0


def _levy(x: Array) -> Array:
    w = 1.0 + (x - 1.0) / 4.0
    middle = ((w[:-1] - 1.0) ** 2 * (1.0 + 10.0 * jnp.sin(math.pi * w[:-1] + 1.0) ** 2)).sum()
    last = (w[-1] - 1.0) ** 2 * (1.0 + jnp.sin(2 * math.pi * w[-1]) ** 2)
    return jnp.sin(math.pi * w[0]) ** 2 + middle + last


def _styblinski_tang(x: Array) -> Array:
    return 0.5 * (x**4 - 16.0 * x**2 + 5.0 * x).sum()


def _zakharov(x: Array) -> Array:
    ramp = (0.5 * jnp.arange(1, x.shape[0] + 1, dtype=x.dtype) * x).sum()
    return (x**2).sum() + ramp**2 + ramp**4


def _beale(x: Array) -> Array:
    a, b = x[0], x[1]
    return (1.5 - a + a * b) ** 2 + (2.25 - a + a * b**2) ** 2 + (2.625 - a + a * b**3) ** 2


def _booth(x: Array) -> Array:
    a, b = x[0], x[1]
    return (a + 2.0 * b - 7.0) ** 2 + (2.0 * a + b - 5.0) ** 2


def _himmelblau(x: Array) -> Array:
    a, b = x[0], x[1]
    return (a**2 + b - 11.0) ** 2 + (a + b**2 - 7.0) ** 2


def _matyas(x: Array) -> Array:
    return 0.26 * (x**2).sum() - 0.48 * x[0] * x[1]


def _goldstein_price(x: Array) -> Array:
    a, b = x[0], x[1]
    first = (a + b + 1.0) ** 2 * (19.0 - 14.0 * a + 3.0 * a**2 - 14.0 * b + 6.0 * a * b + 3.0 * b**2)
    second = (2.0 * a - 3.0 * b) ** 2 * (18.0 - 32.0 * a + 12.0 * a**2 + 48.0 * b - 36.0 * a * b + 27.0 * b**2)
    return (1.0 + first) * (30.0 + second)


def _three_hump_camel(x: Array) -> Array:
    a, b = x[0], x[1]
    return 2.0 * a**2 - 1.05 * a**4 + a**6 / 6.0 + a * b + b**2


# The deepest root of the derivative of x^4 - 16 x^2 + 5 x.
_TANG = float(np.roots([4.0, 0.0, -32.0, 5.0]).real.min())
_TANG_VALUE = 0.5 * (_TANG**4 - 16.0 * _TANG**2 + 5.0 * _TANG)

# name: value, the coordinates of the minimizer, the minimum per dimension, both ends of the box.
_ANY_DIMENSION: Mapping[str, tuple[Callable[[Array], Array], float, float, float, float]] = {
    "sphere": (_sphere, 0.0, 0.0, -5.12, 5.12),
    "rosenbrock": (_rosenbrock, 1.0, 0.0, -2.048, 2.048),
    "ackley": (_ackley, 0.0, 0.0, -32.768, 32.768),
    "rastrigin": (_rastrigin, 0.0, 0.0, -5.12, 5.12),
    "griewank": (_griewank, 0.0, 0.0, -600.0, 600.0),
    "levy": (_levy, 1.0, 0.0, -10.0, 10.0),
    "styblinski_tang": (_styblinski_tang, _TANG, _TANG_VALUE, -5.0, 5.0),
    "zakharov": (_zakharov, 0.0, 0.0, -5.0, 10.0),
}

# Himmelblau's function has three more minimizers of the same value.
_PLANE: Mapping[str, Landscape] = {
    "beale": Landscape(_beale, np.array([3.0, 0.5]), 0.0, -4.5, 4.5),
    "booth": Landscape(_booth, np.array([1.0, 3.0]), 0.0, -10.0, 10.0),
    "himmelblau": Landscape(_himmelblau, np.array([3.0, 2.0]), 0.0, -6.0, 6.0),
    "matyas": Landscape(_matyas, np.array([0.0, 0.0]), 0.0, -10.0, 10.0),
    "goldstein_price": Landscape(_goldstein_price, np.array([0.0, -1.0]), 3.0, -2.0, 2.0),
    "three_hump_camel": Landscape(_three_hump_camel, np.array([0.0, 0.0]), 0.0, -5.0, 5.0),
}

NAMES: Mapping[str, str] = MappingProxyType(
    {name: "any dimension" for name in _ANY_DIMENSION} | {name: "dimension 2" for name in _PLANE}
)
"""The test functions: name -> the dimensions in which the function exists."""

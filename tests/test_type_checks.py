"""Checks of annotations that functions share: each function keeps its own annotations, defaults and results."""

from __future__ import annotations

import jaxtyping
import numpy as np
import pytest
from jaxtyping import Float

from tests.type_checks import check

checked = jaxtyping.jaxtyped(typechecker=check)


def define(kind: str, default=1.0):
    """The same name each time, as of a function inside another one."""
    if kind == "vector":

        @checked
        def f(x: Float[np.ndarray, "n"], y=default) -> Float[np.ndarray, "n"]:
            return x * y if kind == "vector" and y is default else x[:-1]

    else:

        @checked
        def f(x: Float[np.ndarray, "n m"], y=default) -> Float[np.ndarray, "n m"]:
            return x

    return f


@pytest.mark.parametrize("default", [2.0, np.float32(3.0), np.asarray(4.0)])  # the last has no hash
def test_a_function_that_is_defined_again_is_still_checked(default):
    vector, matrix = np.ones(3), np.ones((2, 2))
    for _ in range(2):
        f = define("vector", default)
        np.testing.assert_array_equal(f(vector), vector * default)
        with pytest.raises(jaxtyping.TypeCheckError, match=r"whilst checking the parameters of .*define.<locals>.f"):
            f(matrix)
        with pytest.raises(jaxtyping.TypeCheckError, match=r"whilst checking the return value of .*define.<locals>.f"):
            f(vector, 0.5)
        other = define("matrix", default)
        assert other(matrix) is matrix
        with pytest.raises(jaxtyping.TypeCheckError):
            other(vector)


def test_equal_signatures_share_their_checks_and_nothing_else():
    first, second = define("vector", 2.0), define("vector", 3.0)
    before = check.cache_info().misses
    third = define("vector", 3.0)
    assert check.cache_info().misses == before
    assert [float(f(np.ones(1))[0]) for f in (first, second, third)] == [2.0, 3.0, 3.0]

"""Which programs are compiled with less effort, and that they compute the same."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metalearn import compilation
from metalearn.compilation import jit_quickly, may_choose


@pytest.fixture
def nobody_has_decided(monkeypatch):
    """The tests have: they compile without any optimization."""
    monkeypatch.setattr(compilation, "may_choose", lambda: True)


@pytest.mark.usefixtures("nobody_has_decided")
def test_the_options_reach_the_compiler_alone_but_not_inside_another_program():
    quick = jit_quickly(lambda x: x + 1, {"no_such_option": 1})
    with pytest.raises(Exception, match="no_such_option"):
        quick(jnp.zeros(2))
    np.testing.assert_array_equal(jax.jit(quick)(jnp.zeros(2)), np.ones(2))


def test_nothing_is_chosen_where_others_have_decided():
    quick = jit_quickly(lambda x: x + 1, {"no_such_option": 1})
    np.testing.assert_array_equal(quick(jnp.zeros(2)), np.ones(2))


@pytest.mark.parametrize(
    ("flags", "backend", "chooses"),
    [("", "cpu", True), ("--xla_backend_optimization_level=3", "cpu", False), ("", "gpu", False)],
)
def test_who_decides_how_programs_are_optimized(monkeypatch, flags, backend, chooses):
    monkeypatch.setenv("XLA_FLAGS", flags)
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    assert not may_choose()  # the tests have decided
    jax.config.update("jax_disable_most_optimizations", False)
    try:
        assert may_choose() == chooses
    finally:
        jax.config.update("jax_disable_most_optimizations", True)

"""The two ways in which tests compile fused loops."""

import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src import compiler

from tests.programs import OPTION, FusedLoops, has_older_generator

pytestmark = pytest.mark.newer_loops  # what the other way changes is seen from here


@pytest.fixture
def options_of(monkeypatch):
    """A function that compiles something new and returns its number and the options it was compiled with."""
    made = []

    def compile_one():
        made.clear()
        options = compiler.get_compile_options
        with monkeypatch.context() as patch:
            patch.setattr(compiler, "get_compile_options", lambda *a, **k: made.append(options(*a, **k)) or made[-1])
            value = jax.jit(lambda x: jnp.sin(x) * jnp.exp(x) + x)(jnp.float32(0.7))
        return float(value), dict(made[-1].env_option_overrides)

    return compile_one


def test_programs_are_compiled_in_the_way_that_was_chosen_last(options_of):
    loops = FusedLoops()
    newer, options = options_of()
    flags = os.environ.get("XLA_FLAGS")
    assert OPTION not in options
    loops.choose(older=True)
    try:
        older, options = options_of()
        assert loops.older == has_older_generator()
        assert options.get(OPTION) == ("False" if loops.older else None)
        assert (f"--{OPTION}=false" in os.environ.get("XLA_FLAGS", "")) == loops.older
        np.testing.assert_allclose(older, newer, rtol=1e-6)
    finally:
        loops.choose(older=False)
    assert OPTION not in options_of()[1] and not loops.older and os.environ.get("XLA_FLAGS") == flags


def test_a_way_that_this_jax_does_not_have_changes_nothing(monkeypatch, options_of):
    monkeypatch.setattr("tests.programs.has_older_generator", lambda: False)
    loops = FusedLoops()
    loops.choose(older=True)
    assert not loops.older and OPTION not in options_of()[1]

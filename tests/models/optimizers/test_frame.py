"""What the frame around every rule hands to the rule, and what it hands back."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metalearn_models.optimizers.frame import LARGEST, copy_shared, hold_still, read_gradient, transformation


def _recorded(seen):
    """A rule that keeps what it gets, doubles the gradients and remembers the parameters."""

    def update(updates, state, params, **extra):
        seen.append((updates, params, extra))
        return jax.tree.map(lambda g: 2 * g, updates), params

    return transformation((), lambda params: params, update)


def test_a_rule_sees_arrays_with_entries_only():
    seen = []
    tx = _recorded(seen)
    params = {"a": 0.5, "empty": jnp.zeros((0, 3), jnp.bfloat16), "none": None, "w": jnp.ones(2)}
    state: Any = tx.init(params)
    updates: Any = tx.update(params, state, params, value=1.0)[0]
    for tree in (state, *seen[0][:2]):
        assert tree["empty"] is None and isinstance(tree["a"], jax.Array) and tree["w"].shape == (2,)
    assert seen[0][2] == {"value": 1.0}
    assert updates["a"] == 1.0 and updates["empty"].shape == (0, 3) and updates["empty"].dtype == jnp.bfloat16
    np.testing.assert_array_equal(updates["w"], 2.0)
    with pytest.raises(TypeError, match="int32"):
        tx.init({"w": jnp.ones(2, jnp.int32)})


def test_a_state_shares_no_buffer_with_itself_or_with_what_made_it():
    tx, params = _recorded([]), {"w": jnp.ones(2), "v": jnp.ones(3)}
    state = tx.init(params)
    _, after = tx.update(params, state, params)
    for kept in (state, after):
        jax.jit(lambda x: x, donate_argnums=0)(kept)  # deletes it
        np.testing.assert_array_equal(params["w"], 1.0)
    zero = jnp.zeros(2)
    first, second = copy_shared((zero, zero), ())
    assert first is zero and second is not zero
    # A copy also in a program, where an argument that is returned as it is would be the same buffer.
    traced = jax.make_jaxpr(lambda x: copy_shared((x,), x))(zero)
    assert [equation.primitive.name for equation in traced.eqns] == ["copy"]


def test_gradients_are_read_within_bounds_and_what_is_not_finite_stays():
    g = jnp.array([1e-30, -2.0, 3e19, -3e38, jnp.inf, jnp.nan])
    np.testing.assert_array_equal(read_gradient(g), np.float32([1e-30, -2, LARGEST, -LARGEST, np.inf, np.nan]))
    np.testing.assert_array_equal(read_gradient(jnp.float16([6e4, -np.inf])), np.float32([6e4, -np.inf]))
    with jax.enable_x64(True):
        assert read_gradient(jnp.float64(1e200)) == np.float32(LARGEST)


def test_only_where_gradient_and_every_momentum_are_zero_is_there_no_step():
    g, momenta = jnp.array([0.0, 0.0, 1.0, 0.0]), jnp.array([[0.0, 0.0, 0.0, 1.0], [0.0, 1.0, 0.0, 0.0]])
    np.testing.assert_array_equal(hold_still(jnp.full(4, 3.0), g, momenta), [0, 3, 3, 3])
    np.testing.assert_array_equal(hold_still(jnp.full(4, 3.0), -g, list(-momenta)), [0, 3, 3, 3])

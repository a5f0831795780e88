"""Several estimators of one theta: their mean, whatever their inner loops look like."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metalearn import backprop, nres, outer_loop
from metalearn.gradients import together
from metalearn.inner import InnerLoop


def _loop(size, length):
    """Gradient descent from ones on a quadratic with `size` parameters, whose curvature is the data."""

    def init(theta, data, key):
        return jax.random.normal(key, (size,))

    def step(theta, state, t, key, data):
        loss = 0.5 * data * jnp.square(state).mean()
        return state - theta["rate"] * data * state, loss, {}

    return InnerLoop(init, step, None, length)


@pytest.fixture(scope="module")
def members():
    small = backprop(_loop(2, 3), 4)
    return {"small": small, "large": nres(_loop(5, 4), 0.1, 4, 2)}


DATA = {"small": jnp.float32(1.0), "large": jnp.float32(2.0)}
THETA = {"rate": jnp.float32(0.1)}


def test_the_gradient_is_the_mean_of_those_of_the_members(members):
    key, both = jax.random.key(3), together(members)
    state = both.init(THETA, DATA, key)
    gradient, _, metrics = both.grad(THETA, state, DATA, key, jnp.int32(0))
    gradient, metrics = both.finish(gradient, metrics)
    single, losses = [], []
    for number, (name, member) in enumerate(members.items()):
        own = jax.random.fold_in(key, number)
        found, _, numbers = member.grad(THETA, member.init(THETA, DATA[name], own), DATA[name], own, jnp.int32(0))
        found, numbers = member.finish(found, numbers)
        single.append(found["rate"])
        losses.append(numbers["loss"])
        np.testing.assert_allclose(metrics[f"loss/{name}"], numbers["loss"], rtol=1e-6)
    np.testing.assert_allclose(gradient["rate"], np.mean(single), rtol=1e-6)
    np.testing.assert_allclose(metrics["loss"], np.mean(losses), rtol=1e-6)


def test_an_outer_loop_learns_from_both_and_reports_each(members):
    loop = outer_loop(together(members), optax.sgd(0.05), 5)
    state = loop.init(THETA, DATA, jax.random.key(0))
    state, metrics = loop.step(state, DATA)
    assert {"loss", "loss/small", "loss/large", "dropped/large", "grad_norm"} <= set(metrics)
    assert state.theta["rate"] > 0.1  # a larger rate is better on both quadratics


def test_a_member_that_is_not_finite_leaves_the_others(members):
    key, both = jax.random.key(3), together({name: members["large"] for name in ("good", "bad")})
    data = {"good": jnp.float32(2.0), "bad": jnp.float32(jnp.nan)}
    gradient, _, metrics = both.grad(THETA, both.init(THETA, data, key), data, key, jnp.int32(0))
    gradient, metrics = both.finish(gradient, metrics)
    assert np.isfinite(gradient["rate"]) and metrics["dropped/bad"] == 1 and metrics["dropped/good"] == 0


def test_what_does_not_fit_together_is_refused(members):
    with pytest.raises(ValueError, match="at least one estimator, got an empty mapping"):
        together({})
    with pytest.raises(ValueError, match=r"same number of trajectories, got \{'a': 4, 'b': 2\}"):
        together({"a": members["small"], "b": backprop(_loop(2, 3), 2)})
    with pytest.raises(ValueError, match=r"a mapping from \['large', 'small'\] to the data of each, got \['small'\]"):
        together(members).init(THETA, {"small": jnp.float32(1.0)}, jax.random.key(0))

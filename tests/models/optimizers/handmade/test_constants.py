"""The constants of optimizers made by hand as meta-parameters, and the table that names them."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metalearn.errors import UnknownNameError
from metalearn.gradients import nres
from metalearn.outer import outer_loop
from metalearn_models.optimizers.handmade.constants import decode_constants, encode_constants, learn_constants
from metalearn_models.optimizers.handmade.first_order import adamw, momentum
from metalearn_models.optimizers.handmade.table import HANDMADE, handmade_entry
from metalearn_models.optimizers.learned.learnable import learnable_momentum
from metalearn_tasks.objectives import cap_losses, quadratic, training_loop


@pytest.fixture(autouse=True)
def _optax_promotes():
    with jax.numpy_dtype_promotion("standard"):
        yield


def _steps(tx, params, count=3):
    @jax.jit
    def run(params):
        state, seen = tx.init(params), []
        for t in range(count):
            grads = jax.tree.map(lambda p, t=t: (p * (1 + 0.3 * t) - 0.2).astype(p.dtype), params)
            updates, state = tx.update(grads, state, params)
            params = optax.apply_updates(params, updates)
            seen.append(updates)
        return seen

    return run(params)


def test_updates_are_those_of_the_optimizer_with_the_constants_in_theta():
    optimizer = learn_constants(adamw, ("learning_rate", "epsilon", "weight_decay"), ("beta1", "beta2"))(
        0.02, beta1=0.8, beta2=0.95, epsilon=1e-3, weight_decay=0.1
    )
    theta = optimizer.init(jax.random.key(0))
    assert {name: round(float(x), 4) for name, x in theta.items()} == {
        "log_learning_rate": -3.912,
        "log_epsilon": -6.9078,
        "log_weight_decay": -2.3026,
        "log_1_minus_beta1": -1.6094,
        "log_1_minus_beta2": -2.9957,
    }
    params = {"w": jnp.arange(6.0).reshape(2, 3), "b": jnp.ones(2)}
    expected = optax.adamw(0.02, 0.8, 0.95, 1e-3, weight_decay=0.1)
    for ours, theirs in zip(_steps(optimizer.transform(theta), params), _steps(expected, params), strict=True):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5), ours, theirs)
    moved = theta | {"log_learning_rate": theta["log_learning_rate"] + jnp.log(2.0)}
    twice = _steps(optimizer.transform(moved), params, 1)[0]["w"]
    np.testing.assert_allclose(twice, 2 * _steps(expected, params, 1)[0]["w"], rtol=2e-5)


def test_the_meta_gradient_is_that_of_the_rule_written_for_it():
    """Momentum has a file of its own, whose theta is the same in other names."""
    generic, own = HANDMADE["momentum"].learnable(0.1, 0.7), learnable_momentum(0.1, 0.7)

    def final(optimizer):
        return lambda theta: jnp.square(sum(_steps(optimizer.transform(theta), jnp.array([1.0, -2.0]), 4))).sum()

    found, expected = (jax.jit(jax.grad(final(o)))(o.init(jax.random.key(0))) for o in (generic, own))
    np.testing.assert_allclose(found["log_learning_rate"], expected.log_learning_rate, rtol=1e-5)
    np.testing.assert_allclose(found["log_1_minus_momentum"], expected.log_forgetting, rtol=1e-5)


def test_values_survive_and_a_decay_below_zero_counts_as_zero():
    values = {"learning_rate": 3e-7, "momentum": 0.0, "decay": 0.999999}
    found = decode_constants(encode_constants(values, ("momentum", "decay")))
    for name, value in values.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-6)
    assert float(decode_constants({"log_1_minus_momentum": jnp.float32(0.3)})["momentum"]) == 0


def test_evolution_strategies_learn_the_constants():
    """From a rate a hundred times too small."""
    objective, optimizer = quadratic(3), HANDMADE["momentum"].learnable(1e-4)
    loop = cap_losses(training_loop(objective, optimizer, 20), 10.0)
    outer = outer_loop(nres(loop, 0.2, 8, 10), optax.adam(0.1), 60)
    theta = optimizer.init(jax.random.key(0))
    state, metrics = outer.step(outer.init(theta, (), jax.random.key(1)), ())
    assert metrics["loss"][-10:].mean() < 0.75 * metrics["loss"][:10].mean()
    assert decode_constants(state.theta)["learning_rate"] > 2e-3


def test_every_row_names_constants_with_a_description_and_a_default_in_range():
    for name, entry in HANDMADE.items():
        arguments = inspect.signature(entry.make).parameters
        assert entry.positive[0] == next(iter(arguments)) == "learning_rate", name
        assert (entry.description and entry.paper[-4:].isdigit()) or entry.paper[-5:].isdigit(), name
        entry.learnable()


def test_what_cannot_be_learned_is_refused():
    with pytest.raises(ValueError, match=r"arguments of the optimizer \(learning_rate, momentum\), got \['damping'\]"):
        learn_constants(momentum, ("learning_rate", "damping"))
    with pytest.raises(ValueError, match="learning_rate must be positive, because its logarithm is learned, got 0"):
        HANDMADE["sgd"].learnable(learning_rate=0)
    with pytest.raises(ValueError, match=r"momentum must be from 0 to below 1, .* got 1"):
        HANDMADE["momentum"].learnable(momentum=1)
    with pytest.raises(TypeError, match="dampening"):
        HANDMADE["momentum"].learnable(dampening=1)
    with pytest.raises(UnknownNameError, match="Did you mean 'muon'"):
        handmade_entry("moun")

"""What every estimator must do: raw keys, empty leaves, 64 bits, NaN, and outer optimizers that read the loss."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metalearn import gradients
from metalearn.evosax_search import evosax_search
from metalearn.gradients.estimator import typed_key
from metalearn.inner import InnerLoop
from metalearn.outer import outer_loop

LENGTH, WINDOW = 4, 2
ESTIMATORS = {
    "backprop": lambda loop: gradients.backprop(loop, 4),
    "truncated_backprop": lambda loop: gradients.truncated_backprop(loop, 4, WINDOW),
    "rtrl": lambda loop: gradients.rtrl(loop, 4, WINDOW),
    "dodge": lambda loop: gradients.dodge(loop, 4, WINDOW),
    "full_es": lambda loop: gradients.full_es(loop, 0.1, 4),
    "truncated_es": lambda loop: gradients.truncated_es(loop, 0.1, 4, WINDOW),
    "pes": lambda loop: gradients.pes(loop, 0.1, 4, WINDOW),
    "nres": lambda loop: gradients.nres(loop, 0.1, 4, WINDOW),
    "gpes": lambda loop: gradients.gpes(loop, 0.1, 4, WINDOW, 4),
    "pes_a": lambda loop: gradients.pes_a(loop, 0.1, 4, WINDOW),
    "nres_a": lambda loop: gradients.nres_a(loop, 0.1, 4, WINDOW),
}
OTHERS = {"Estimator", "Horizon", "Noise", "constant_horizon", "dense", "growing_horizon", "linear_growth"}
OTHERS |= {"log_uniform_horizon", "low_rank", "with_curriculum", "with_schedule"}


def quadratic(bad=lambda key: False):
    """Decay towards 0 at the rate theta["w"]; the loss of a trajectory whose key is bad is NaN."""

    def init(theta, data, key):
        del data
        return jnp.where(bad(key), jnp.nan, jax.random.normal(key, (2,), theta["w"].dtype))

    def step(theta, state, t, key, data):
        del t, key, data
        state = state * (1 - theta["w"])
        return state, jnp.square(state).mean(), {}

    return InnerLoop(init, step, None, LENGTH)


def theta(dtype="float32"):
    return {"w": jnp.full(2, 0.3, dtype), "unused": jnp.zeros((0, 3), dtype)}


def run(name, loop, key, dtype="float32", optimizer=None, calls=2):
    outer = outer_loop(ESTIMATORS[name](loop), optax.sgd(0.1) if optimizer is None else optimizer)
    state = outer.init(theta(dtype), (), key)
    for _ in range(calls):
        state, metrics = outer.step(state, ())
    return state, metrics


def test_every_estimator_is_here():
    assert set(gradients.__all__) - OTHERS == set(ESTIMATORS)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_raw_keys_and_leaves_without_entries(name):
    typed, _ = run(name, quadratic(), jax.random.key(3))
    raw, _ = run(name, quadratic(), jax.random.PRNGKey(3))
    assert typed.theta["unused"].shape == (0, 3) and not np.array_equal(typed.theta["w"], theta()["w"])
    np.testing.assert_array_equal(typed.theta["w"], raw.theta["w"])


@pytest.mark.parametrize("name", ESTIMATORS)
def test_64_bits(name):
    with jax.enable_x64(True):
        for dtype in ("float32", "float64"):
            state, _ = run(name, quadratic(), jax.random.key(0), dtype, calls=1)
            assert state.theta["w"].dtype == dtype and jnp.isfinite(state.theta["w"]).all()


@pytest.mark.parametrize("name", [name for name in ESTIMATORS if "es" in name])
def test_a_trajectory_that_is_not_finite_is_left_out(name):
    one = quadratic(lambda key: jax.random.bits(key) % 3 == 0)
    state, metrics = run(name, one, jax.random.key(0))
    assert jnp.isfinite(state.theta["w"]).all() and jnp.isfinite(metrics["loss"])
    none, _ = run(name, quadratic(lambda key: True), jax.random.key(0))
    np.testing.assert_array_equal(none.theta["w"], theta()["w"])


@pytest.mark.parametrize("name", ["backprop", "pes"])
def test_optimizers_that_read_the_loss_get_it(name):
    plateau = optax.chain(optax.sgd(0.1), optax.contrib.reduce_on_plateau(factor=0.5, patience=1, atol=1e9))
    state, _ = run(name, quadratic(), jax.random.key(0), optimizer=plateau, calls=4)
    assert float(state.optimizer[1].scale) < 1  # no loss is better by 1e9
    with pytest.raises(TypeError, match=r"gives the optimizer value and grad, but it needs more: .*value_fn"):
        run(name, quadratic(), jax.random.key(0), optimizer=optax.lbfgs(), calls=1)


@pytest.mark.unchecked_types
def test_arguments_that_are_something_else_are_named():
    with pytest.raises(TypeError, match=r"^outer_loop takes an estimator, such as backprop\(loop, batch=64\), got "):
        outer_loop(quadratic(), optax.sgd(0.1))
    with pytest.raises(TypeError, match=r"^outer_loop takes an optimizer of optax, such as .*, got 'adam'"):
        outer_loop(gradients.backprop(quadratic(), 4), "adam")
    with pytest.raises(TypeError, match=r"^key must be one key, such as jax.random.key\(0\), got 0"):
        typed_key(0)
    with pytest.raises(TypeError, match=r"^key must be one key"):
        typed_key(jax.random.split(jax.random.key(0), 2))


def test_a_search_without_a_finite_loss_stays_where_it_is():
    algorithms = pytest.importorskip("evosax.algorithms")
    start = {"w": jnp.full(2, 0.3)}
    strategy = algorithms.CMA_ES(population_size=4, solution=start)
    for bad in (True, False):
        search = evosax_search(quadratic(lambda key, bad=bad: bad), strategy)
        state, _ = search.step(search.init(start, (), jax.random.PRNGKey(0)), ())
        assert np.array_equal(state.theta["w"], start["w"]) == bad

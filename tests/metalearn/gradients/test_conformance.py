"""What every estimator must do: raw keys, empty leaves, 64 bits, NaN, and outer optimizers that read the loss."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metalearn import gradients
from metalearn.evosax_search import evosax_search
from metalearn.inner import InnerLoop, add_up_steps, scan_steps, start, typed_key, unroll
from metalearn.outer import outer_loop

LENGTH, WINDOW = 3, 2  # the second window of a trajectory goes beyond its end
SHORT = 100  # from this outer step on, the first two steps of a trajectory count
ESTIMATORS = {
    "backprop": lambda loop, n=4: gradients.backprop(loop, n),
    "truncated_backprop": lambda loop, n=4: gradients.truncated_backprop(loop, n, WINDOW),
    "rtrl": lambda loop, n=4: gradients.rtrl(loop, n, WINDOW),
    "dodge": lambda loop, n=4: gradients.dodge(loop, n, WINDOW),
    "full_es": lambda loop, n=4: gradients.full_es(loop, 0.1, n),
    "truncated_es": lambda loop, n=4: gradients.truncated_es(loop, 0.1, n, WINDOW),
    "pes": lambda loop, n=4: gradients.pes(loop, 0.1, n, WINDOW),
    "nres": lambda loop, n=4: gradients.nres(loop, 0.1, n, WINDOW),
    "gpes": lambda loop, n=4: gradients.gpes(loop, 0.1, n, WINDOW, WINDOW),
    "pes_a": lambda loop, n=4: gradients.pes_a(loop, 0.1, n, WINDOW),
    "nres_a": lambda loop, n=4: gradients.nres_a(loop, 0.1, n, WINDOW),
}
OTHERS = {"Estimator", "Horizon", "Noise", "constant_horizon", "dense", "growing_horizon", "linear_growth"}
OTHERS |= {
    "centred_ranks",
    "together",
    "z_scores",
    "log_uniform_horizon",
    "low_rank",
    "with_curriculum",
    "with_schedule",
}


def data(bad=0, beyond=1.0, first=LENGTH):
    """What the loop is told: the share of bad trajectories in thirds, and what the steps from `first` on work with."""
    return {"bad": jnp.uint32(bad), "beyond": jnp.float32(beyond), "first": jnp.int32(first)}


def init(theta, data, key):
    start = jax.random.normal(key, (2,), theta["w"].dtype)
    return jnp.where(jax.random.bits(key, dtype=jnp.uint32) % 3 < data["bad"], jnp.nan, start)


def step(theta, state, t, key, data):
    """Decay towards 0 at the rate theta["w"]. From `first` on the state is as long as a root that need not exist."""
    del key
    length = jnp.sqrt(jnp.where(t < data["first"], 1, data["beyond"]).astype(state.dtype) * (1 + theta["w"]))
    state = state * (1 - theta["w"]) * length
    return state, jnp.square(state).mean(), {}


LOOP = InnerLoop(init, step, None, LENGTH)


def theta(dtype="float32"):
    return {"w": jnp.full(2, 0.3, dtype), "unused": jnp.zeros((0, 3), dtype)}


@functools.cache
def program(name):
    """One outer loop per estimator for all tests, since they differ in data and keys alone."""
    curriculum = gradients.with_curriculum(
        LOOP, ESTIMATORS[name], lambda outer_step: jnp.where(outer_step < SHORT, LENGTH, 2)
    )
    return outer_loop(curriculum, optax.sgd(0.1))


def run(name, key, outer=None, data=data(), dtype="float32", calls=2, first_call=0):  # noqa: B008
    outer = outer or program(name)
    state = outer.init(theta(dtype), data, key)._replace(step=jnp.int32(first_call))
    for _ in range(calls):
        state, metrics = outer.step(state, data)
    return state, metrics


def test_every_estimator_is_here():
    assert set(gradients.__all__) - OTHERS == set(ESTIMATORS)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_raw_keys_and_leaves_without_entries(name):
    typed, _ = run(name, jax.random.key(3))
    raw, _ = run(name, jax.random.PRNGKey(3))
    assert typed.theta["unused"].shape == (0, 3) and not np.array_equal(typed.theta["w"], theta()["w"])
    np.testing.assert_array_equal(typed.theta["w"], raw.theta["w"])


@pytest.mark.parametrize("name", ESTIMATORS)
def test_what_a_mask_leaves_out_may_be_nan(name):
    """Steps beyond the end of a trajectory, in value and in gradient."""
    expected, good = run(name, jax.random.key(1), calls=4)
    found, bad = run(name, jax.random.key(1), data=data(beyond=-1.0), calls=4)
    np.testing.assert_allclose(found.theta["w"], expected.theta["w"], rtol=1e-6)
    np.testing.assert_allclose(bad["loss"], good["loss"], rtol=1e-6)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_what_a_curriculum_does_not_count_may_be_nan(name):
    """The step at 2, in value and in gradient, or in gradient alone. The metrics `loss` leaves it out too."""
    expected, good = run(name, jax.random.key(1), calls=4, first_call=SHORT)
    for beyond in (-1.0, 0.0):
        wrong = data(beyond=beyond, first=2)
        found, bad = run(name, jax.random.key(1), data=wrong, calls=4, first_call=SHORT)
        np.testing.assert_allclose(found.theta["w"], expected.theta["w"], rtol=1e-6)
        np.testing.assert_allclose(bad["loss"], good["loss"], rtol=1e-6)


SPREAD = """
import sys; sys.path[:0] = ["tests/metalearn/gradients"]
import jax, numpy as np, optax
import test_conformance as t
from metalearn.outer import local_mesh, outer_loop
assert len(jax.devices()) == 8
for name, make in t.ESTIMATORS.items():
    each = [outer_loop(make(t.LOOP, 8), optax.sgd(0.1), 1, mesh) for mesh in (None, local_mesh(8))]
    (one, few), (eight, many) = (t.run(name, jax.random.key(2), outer, calls=3) for outer in each)
    np.testing.assert_allclose(eight.theta["w"], one.theta["w"], rtol=1e-6, atol=1e-6, err_msg=name)
    np.testing.assert_allclose(many["loss"], few["loss"], rtol=1e-5, err_msg=name)
    assert np.abs(one.theta["w"] - t.theta()["w"]).min() > 1e-4, name
print("equal")
"""


def test_eight_devices_give_the_numbers_of_one(on_eight_devices):
    assert on_eight_devices(SPREAD) == "equal"


@pytest.mark.parametrize("name", ESTIMATORS)
def test_64_bits(name):
    """Traced, since dtypes that do not fit each other show there."""
    with jax.enable_x64(True):
        for dtype in ("float32", "float64"):
            outer = outer_loop(ESTIMATORS[name](LOOP), optax.sgd(0.1))
            once = functools.partial(run, name, outer=outer, data=data(), dtype=dtype, calls=1)
            state, metrics = jax.eval_shape(once, jax.random.key(0))
            assert state.theta["w"].dtype == dtype and metrics["loss"].dtype in (dtype, np.float64)


@pytest.mark.parametrize("name", [name for name in ESTIMATORS if "es" in name])
def test_a_trajectory_that_is_not_finite_is_left_out(name):
    state, metrics = run(name, jax.random.key(0), data=data(bad=1))
    assert np.isfinite(state.theta["w"]).all() and np.isfinite(metrics["loss"]).all()
    none, _ = run(name, jax.random.key(0), data=data(bad=3))
    np.testing.assert_array_equal(none.theta["w"], theta()["w"])


@pytest.mark.parametrize("name", ["backprop", "pes"])
def test_optimizers_that_read_the_loss_get_it(name):
    plateau = optax.chain(optax.sgd(0.1), optax.contrib.reduce_on_plateau(factor=0.5, patience=1, atol=1e9))
    state, _ = run(name, jax.random.key(0), outer_loop(ESTIMATORS[name](LOOP), plateau), calls=4)
    assert float(state.optimizer[1].scale) < 1  # no loss is better by 1e9
    with pytest.raises(TypeError, match=r"gives the optimizer value and grad, but it needs more: .*value_fn"):
        run(name, jax.random.key(0), outer_loop(ESTIMATORS[name](LOOP), optax.lbfgs()), calls=1)


def test_the_functions_that_unroll_take_raw_keys_too():
    """With the random numbers of typed keys; the loop gets typed ones."""

    def noisy(theta, state, t, key, data):
        del t, data
        return state, theta["w"].mean() + jax.random.normal(jax.random.clone(key)), {}

    loop = LOOP._replace(step=noisy)

    def everything(key, keys):
        window = scan_steps(loop, theta(), start(loop, theta(), data(), key), jnp.int32(0), 2, key, data())
        return (
            window,
            add_up_steps(loop, theta(), window[0], jnp.int32(2), 1, None, key, data()),
            unroll(loop, theta(), data(), keys, LENGTH),
        )

    key = jax.random.key(4)
    typed = jax.jit(everything)(key, jax.random.split(key, 3))
    raw = jax.jit(everything)(jax.random.key_data(key), jax.random.key_data(jax.random.split(key, 3)))
    jax.tree.map(np.testing.assert_array_equal, raw, typed)


@pytest.mark.unchecked_types
def test_arguments_that_are_something_else_are_named():
    with pytest.raises(TypeError, match=r"^outer_loop takes an estimator, such as backprop\(loop, batch=64\), got "):
        outer_loop(LOOP, optax.sgd(0.1))
    with pytest.raises(TypeError, match=r"^outer_loop takes an optimizer of optax, such as .*, got 'adam'"):
        outer_loop(gradients.backprop(LOOP, 4), "adam")
    with pytest.raises(TypeError, match=r"^key must be one key, such as jax.random.key\(0\), got 0"):
        typed_key(0)
    with pytest.raises(TypeError, match=r"^key must be one key"):
        typed_key(jax.random.split(jax.random.key(0), 2))


def test_a_search_without_a_finite_loss_stays_where_it_is():
    algorithms = pytest.importorskip("evosax.algorithms")
    start = {"w": jnp.full(2, 0.3)}
    strategy = algorithms.Open_ES(population_size=4, solution=start)
    search = evosax_search(LOOP, strategy)
    for bad in (3, 0):
        state, _ = search.step(search.init(start, data(bad), jax.random.PRNGKey(0)), data(bad))
        assert np.array_equal(state.theta["w"], start["w"]) == (bad == 3)

"""evosax strategies as outer loops over whole trajectories."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metalearn.evosax_search import evosax_search
from metalearn.inner import InnerLoop

evosax = pytest.importorskip("evosax.algorithms", reason="the extra `evosax` is not installed")

TARGET = {"a": np.asarray([1.0, -2.0]), "b": np.asarray(0.5)}


def bowl(length=3) -> InnerLoop:
    """An ill-conditioned quadratic whose noise all candidates share."""

    def step(theta, state, t, key, data):
        del t
        a = theta["a"] - jnp.asarray(TARGET["a"], jnp.float32)
        b = theta["b"] - jnp.asarray(TARGET["b"], jnp.float32)
        return state, a[0] ** 2 + 100 * a[1] ** 2 + b**2 + data * jax.random.normal(key), {}

    return InnerLoop(lambda theta, data, key: jnp.zeros(()), step, None, length)


def searched(name, loop, calls, per_call, data=0.0, tasks=1, population=16):
    theta = {"a": jnp.zeros(2), "b": jnp.zeros(())}
    strategy = getattr(evosax, name)(population_size=population, solution=theta)
    search = evosax_search(loop, strategy, tasks=tasks, steps_per_call=per_call)
    state = search.init(theta, jnp.float32(data), jax.random.key(0))
    for _ in range(calls):
        state, metrics = search.step(state, jnp.float32(data))
    return state, metrics


@pytest.mark.parametrize("name", ["CMA_ES", "SNES"])
def test_the_minimum_is_found_under_noise_that_candidates_share(name):
    # noise of standard deviation 10, different each generation, would drown the last of the loss if it were not shared
    state, metrics = searched(name, bowl(), 3, 50, data=10.0)
    np.testing.assert_allclose(state.theta["a"], TARGET["a"], atol=0.05)
    np.testing.assert_allclose(state.theta["b"], TARGET["b"], atol=0.05)
    assert int(state.step) == 150 and metrics["loss"].shape == (50,)


def test_the_fitness_is_the_mean_loss_over_tasks_and_steps():
    loop = InnerLoop(
        lambda theta, data, key: jax.random.normal(key),
        lambda theta, state, t, key, data: (state, state + t.astype(jnp.float32) + 0 * theta["b"], {}),
        None,
        3,
    )
    state, metrics = searched("SNES", loop, 1, 1, tasks=5)
    del state

    # init, then step: the key of the first generation, split for its tasks
    @jax.jit
    def starts():
        first = jax.random.fold_in(jax.random.split(jax.random.key(0))[1], 0)
        keys = jax.random.split(jax.random.split(first, 3)[2], 5)
        return jax.vmap(lambda k: jax.random.normal(jax.random.fold_in(k, 0)))(keys)

    np.testing.assert_allclose(metrics["loss"][0], np.mean(starts()) + 1, rtol=1e-5)


def test_generations_in_a_call_do_not_change_the_numbers():
    one, _ = searched("SNES", bowl(), 6, 1, data=1.0)
    six, _ = searched("SNES", bowl(), 1, 6, data=1.0)
    jax.tree.map(np.testing.assert_array_equal, one.theta, six.theta)


def test_candidates_that_are_not_finite_are_survived():
    def step(theta, state, t, key, data):
        loss = jnp.square(theta["a"] - 1).sum() + theta["b"] ** 2
        return state, jnp.where(theta["a"][0] < 0, jnp.nan, loss), {}

    loop = InnerLoop(lambda theta, data, key: jnp.zeros(()), step, None, 1)
    state, metrics = searched("CMA_ES", loop, 1, 100)
    np.testing.assert_allclose(state.theta["a"], [1.0, 1.0], atol=0.02)
    assert 0 < metrics["dropped"][0] < 1 and np.isfinite(metrics["loss"]).all()


def test_what_does_not_fit_is_refused():
    theta = {"a": jnp.zeros(2), "b": jnp.zeros(())}
    strategy = evosax.SNES(population_size=4, solution=theta)
    with pytest.raises(ValueError, match="this inner loop has length=None"):
        evosax_search(bowl(None), strategy)
    with pytest.raises(ValueError, match="tasks must be at least 1, got 0"):
        evosax_search(bowl(), strategy, tasks=0)
    with pytest.raises(TypeError, match="must have a mean"):
        evosax_search(bowl(), evosax.DifferentialEvolution(population_size=8, solution=theta))

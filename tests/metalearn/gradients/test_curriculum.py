"""Curricula over the steps that count: the gradients of shorter trajectories, for every kind of estimator."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metalearn.gradients import backprop, full_es, linear_growth, rtrl, truncated_backprop, with_curriculum
from metalearn.inner import InnerLoop, scan_steps, start
from metalearn.learner import inner_loop
from metalearn.recipes.driving import compile_outer_loop, initial_state
from metalearn.recipes.in_context.build import prepare
from metalearn.recipes.in_context.config import CurriculumConfig, DataConfig, TrainConfig, from_json, to_json
from metalearn_models.learners.transformer import TransformerConfig
from metalearn_tasks.families.projected import ProjectedConfig

LENGTH = 6


def walk(length: int = LENGTH) -> InnerLoop:
    """s <- s tanh(theta) + noise of the step, loss s^2, aux s; the first steps do not know how many follow."""

    def step(theta, s, t, key, data):
        s = s * jnp.tanh(theta) + jax.random.normal(key) * data
        return s, s**2, {"s": s}

    return InnerLoop(lambda theta, data, key: jax.random.normal(key), step, None, length)


METHODS = {"backprop": lambda loop: backprop(loop, 5), "es": lambda loop: full_es(loop, 0.1, 5)}


@functools.cache
def compiled(method, length=None):
    """`(outer_step) -> gradient, state, metrics`; without a length, as many steps count as the number of the step."""
    make = METHODS[method]
    estimator = with_curriculum(walk(), make, lambda step: step) if length is None else make(walk(length))

    def gradient(outer_step):
        theta, data, key = jnp.float32(0.7), jnp.float32(0.3), jax.random.key(1)
        return estimator.grad(theta, estimator.init(theta, data, key), data, key, outer_step)

    return jax.jit(gradient)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("counted", [1, 4, LENGTH])
def test_the_gradient_is_that_of_a_shorter_trajectory(method, counted):
    found, expected = compiled(method)(jnp.int32(counted)), compiled(method, counted)(jnp.int32(0))
    np.testing.assert_allclose(found[0], expected[0], rtol=2e-5)
    np.testing.assert_allclose(found[2]["loss"], expected[2]["loss"], rtol=1e-6)


def test_windows_beyond_what_counts_have_no_gradient():
    def method(loop):
        return truncated_backprop(loop, 2, 3, stagger=False)

    estimator, theta, key = (
        with_curriculum(walk(), method, lambda step: jnp.int32(3)),
        jnp.float32(0.7),
        jax.random.key(1),
    )
    state, found, grad = estimator.init(theta, jnp.float32(1), key), [], jax.jit(estimator.grad)
    for i in range(2):
        value, state, _ = grad(theta, state, jnp.float32(1), key, jnp.int32(i))
        found.append(float(value))
    assert found[0] != 0 and found[1] == 0


def test_derivatives_that_are_carried_forward_go_through_steps_that_did_not_count():
    """Where the number grows while a trajectory is under way, later steps depend on theta through earlier ones."""

    def method(loop):
        return rtrl(loop, 2, 3, stagger=False)

    @jax.jit
    def second_window():
        theta, data, key, found = jnp.float32(0.7), jnp.float32(0.3), jax.random.key(1), []
        for estimator in (
            with_curriculum(walk(), method, lambda step: jnp.where(step == 0, 2, LENGTH)),
            method(walk()),
        ):
            state = estimator.init(theta, data, key)
            for i in range(2):
                value, state, _ = estimator.grad(theta, state, data, key, jnp.int32(i))
            found.append(value)
        return found

    found, expected = second_window()
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_growth_is_linear_and_ends_at_the_whole():
    counted = linear_growth(10, 50, 80)
    assert [int(counted(jnp.int32(i))) for i in (0, 1, 2, 40, 79, 80, 10**6)] == [10, 10, 11, 30, 49, 50, 50]


def config(**curriculum) -> TrainConfig:
    return TrainConfig(
        data=DataConfig("iris"), family=ProjectedConfig(length=8), batch=2, steps=4, steps_per_call=2,
        learner=TransformerConfig(width=8, layers=1, heads=2, key_size=4, token="pair"),
        curriculum=CurriculumConfig(**curriculum),
    )  # fmt: skip


def test_a_learner_in_parallel_and_the_parts_that_a_configuration_names():
    short, whole = prepare(config(first=4, steps=100)), prepare(config())
    theta, key = initial_state(whole.training, compile_outer_loop(whole.training, 4)[0]).theta, jax.random.key(3)
    loop, keys = inner_loop(whole.learner, whole.family), [jax.random.fold_in(key, i) for i in range(2)]

    @jax.jit
    def by_steps(k):
        return scan_steps(loop, theta, start(loop, theta, whole.data, k), jnp.int32(0), 8, k, whole.data)[1]

    losses = [by_steps(k) for k in keys]

    def metrics(recipe):
        # Without the gradient: the compiler leaves out what is not returned.
        return jax.jit(
            lambda: recipe.training.estimator.grad(theta, jnp.arange(2), recipe.data, key, jnp.int32(0))[2]
        )()

    found = [metrics(short), metrics(whole)]
    np.testing.assert_allclose(found[0]["loss"], np.mean(losses, 0)[:4].mean(), rtol=1e-5)
    np.testing.assert_allclose(found[1]["loss"], np.mean(losses), rtol=1e-5)
    assert found[0]["score"] == found[1]["score"]


def test_configurations_without_a_curriculum_are_those_of_before():
    assert "curriculum" not in to_json(config())
    grown = config(first=3, steps=7)
    assert to_json(grown)["curriculum"] == {"first": 3, "steps": 7}
    assert from_json(to_json(grown)) == grown and from_json(to_json(config())) == config()


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"first": 0, "steps": 2}, "--curriculum.first must be a whole number from 1 to 65536, got 0"),
        ({"first": 9, "steps": 2}, "--curriculum.first must be at most --family.length, got 9 and 8"),
        ({"first": 2, "steps": -1}, "--curriculum.steps must be a whole number from 0 .*, got -1"),
    ],
)
def test_numbers_that_do_not_fit_are_refused(numbers, message):
    with pytest.raises(ValueError, match=message):
        prepare(config(**numbers))


def test_a_loop_without_a_length_is_refused():
    with pytest.raises(ValueError, match="a curriculum needs an inner loop of fixed length"):
        with_curriculum(walk()._replace(length=None), lambda loop: backprop(loop, 2, 3), lambda step: step)

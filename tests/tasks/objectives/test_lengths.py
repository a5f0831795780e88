"""Training runs of several lengths: a schedule spans the length of its own run, not that of the longest."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metalearn.gradients import truncated_backprop
from metalearn.gradients.es import nres
from metalearn.gradients.forward import rtrl
from metalearn.gradients.windows import Horizon
from metalearn.inner import unroll
from metalearn_models.optimizers import LearnedOptimizer
from metalearn_tasks.objectives import cap_losses, quadratic, training_loop, training_loop_of_lengths

LONGEST, OWN = 12, 5


def _falling(theta, num_steps):
    """Gradient descent whose rate falls linearly to 0 over the run."""

    def update(grads, step, params=None, **extra):
        rate = theta * (1 - step / jnp.asarray(num_steps, jnp.float32))
        return jax.tree.map(lambda g: -rate * g, grads), step + 1

    return optax.GradientTransformationExtraArgs(lambda params: jnp.float32(0), update)


FALLING = LearnedOptimizer(lambda key: jnp.float32(0.1), _falling)
FIVE = Horizon(lambda key, outer_step: jnp.int32(OWN), LONGEST, OWN)


@pytest.mark.parametrize(
    "make",
    [
        lambda loop, **options: truncated_backprop(loop, 2, OWN, stagger=False, **options),
        lambda loop, **options: nres(loop, 0.01, 2, OWN, stagger=False, **options),
        lambda loop, **options: rtrl(loop, 2, OWN, stagger=False, **options),
    ],
    ids=["truncated_backprop", "nres", "rtrl"],
)
def test_a_run_that_is_shorter_than_the_longest_is_a_run_of_its_own_length(make):
    objective, theta, key = quadratic(3), jnp.float32(0.1), jax.random.key(1)

    @jax.jit
    def found():
        results = []
        for loop, options in (
            (training_loop(objective, FALLING, OWN), {}),
            (cap_losses(training_loop_of_lengths(objective, FALLING, LONGEST), 1e9), {"horizon": FIVE}),
            (training_loop(objective, FALLING, LONGEST), {"horizon": FIVE}),
        ):
            estimator = make(loop, **options)
            state = estimator.init(theta, (), jax.random.key(0))
            gradient, _, metrics = estimator.grad(theta, state, (), key, jnp.int32(0))
            results.append((gradient, metrics["loss"]))
        return results

    expected, own, longest = found()
    np.testing.assert_allclose(own, expected, rtol=1e-5)
    assert abs(longest[1] / expected[1] - 1) > 0.01


def test_without_a_length_of_its_own_a_run_is_the_longest():
    keys = jax.random.split(jax.random.key(2), 2)
    expected, own = (
        jax.jit(lambda make=make: unroll(make(quadratic(3), FALLING, 6), jnp.float32(0.1), (), keys, 6)[0])()
        for make in (training_loop, training_loop_of_lengths)
    )
    np.testing.assert_allclose(own, expected, rtol=1e-6)
    with pytest.raises(ValueError, match="longest must be at least 1, got 0"):
        training_loop_of_lengths(quadratic(3), FALLING, 0)

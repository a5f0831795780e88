"""Tests hold each call to its annotations: a shape that they exclude is refused, though JAX would broadcast it."""

import jax
import jax.numpy as jnp
import pytest
from jaxtyping import TypeCheckError

from metalearn.learner import prediction_score
from metalearn_models.optimizers.learned.parts.per_tensor import linear
from metalearn_tasks.objectives.classification import moons

WRONG = {
    "metalearn": lambda: prediction_score(jnp.zeros((3, 2)), jnp.int32(0)),
    "metalearn_models": lambda: linear({"weight": jnp.ones((2, 3)), "bias": jnp.zeros(3)}, jnp.ones(2)),
    "metalearn_tasks": lambda: moons(jax.random.key(0), 3, jnp.ones((3, 1))),
}


@pytest.mark.parametrize("package", WRONG)
def test_a_wrong_shape_is_refused(package):
    with pytest.raises(TypeCheckError, match=f"parameters of {package}[.]"):
        WRONG[package]()


@pytest.mark.unchecked_types
@pytest.mark.parametrize("package", WRONG)
def test_a_marked_test_calls_as_users_do(package):
    WRONG[package]()

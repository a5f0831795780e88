"""Every optimizer on parameters that are spread over eight devices, in one process for all of them."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models.optimizers.conformance_cases import MATRIX_PRODUCTS, NAMES, NOT_EXPLICIT, PER_LAYER, params, training


@pytest.fixture(scope="module")
def found(on_eight_devices):
    return json.loads(on_eight_devices("from tests.models.optimizers.conformance_spread import main; main()"))


@pytest.mark.parametrize("name", NAMES)
def test_memory_lies_where_the_parameters_lie(found, name):
    """Momenta and whatever else has the shape of a tensor, on automatic and on explicit meshes, before and after."""
    assert name in PER_LAYER or found[name]["lost"] == []
    assert name in NOT_EXPLICIT or found[name]["explicit"] == []


@pytest.mark.parametrize("name", NAMES)
def test_a_step_gathers_nothing_that_adam_does_not_gather(found, name):
    """Tensors that would be processed in blocks on one device, split along both axes."""
    assert name in MATRIX_PRODUCTS or found[name]["gathers"] <= found["adam"]["gathers"]


@pytest.mark.parametrize("name", NAMES)
def test_the_updates_are_those_of_one_device(found, name):
    """Those of the program that the tests of values compile too."""
    start = params()
    grads = jax.tree.map(lambda x: jnp.asarray(np.stack([x] * 4)), start)
    *_, expected = training(name, start, grads, 1)
    for leaf, spread in found[name]["updates"].items():
        one = np.asarray(expected[leaf], np.float32)
        loose = 2**-8 if expected[leaf].dtype == jnp.bfloat16 else 0.0
        np.testing.assert_allclose(np.reshape(spread, one.shape), one, rtol=loose, atol=1e-6)

"""The mean of two learners' probabilities, against the two learners one by one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metalearn import Signature
from metalearn_models.learners.contextless import MLPConfig, mlp
from metalearn_models.learners.mixed import mixed
from metalearn_models.learners.reference import kernel_ridge

SIGNATURE = Signature(inputs=4, outputs=3, length=6)


@pytest.fixture(scope="module")
def found():
    """Logits of a network and of kernel ridge regression; probabilities of two mixtures, one over two classes."""
    rng = np.random.default_rng(0)
    xs, ys = jnp.asarray(rng.normal(size=(6, 4)), jnp.float32), jnp.asarray(rng.integers(0, 2, 6), jnp.int32)
    network, kernel = mlp(SIGNATURE, MLPConfig(hidden=8)), kernel_ridge(SIGNATURE)

    @jax.jit
    def run():
        theta = network.init(jax.random.key(0))
        learners = [mixed(network, kernel), mixed(network, kernel, sharpness=2.0, classes=2)]
        ours, theirs = network.run(theta, xs, ys), kernel.run((), xs, ys)
        return ours, theirs, *(jnp.exp(learner.run(theta, xs, ys)) for learner in learners)

    return [np.asarray(x, np.float64) for x in run()]


def softmax(logits):
    return np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)


def test_it_is_the_mean_of_both_probabilities(found):
    ours, theirs, mixture, _ = found
    np.testing.assert_allclose(mixture, (softmax(ours) + softmax(6 * theirs)) / 2, rtol=1e-5)
    assert np.abs(softmax(ours) - softmax(6 * theirs)).max() > 0.1


def test_only_outputs_that_are_classes_compete_within_each(found):
    ours, theirs, _, two = found
    np.testing.assert_allclose(two[:, :2], (softmax(ours[:, :2]) + softmax(2 * theirs[:, :2])) / 2, rtol=1e-5)
    assert (two[:, 2] == 0).all()


@pytest.mark.parametrize(
    ("other", "options", "message"),
    [
        (SIGNATURE._replace(outputs=2), {}, "two learners of the same classes"),
        (SIGNATURE, {"sharpness": 0.0}, "sharpness must be positive and finite, got 0.0"),
        (SIGNATURE, {"sharpness": float("nan")}, "sharpness must be positive and finite, got nan"),
        (SIGNATURE, {"classes": 4}, "classes must be between 1 and the learner's 3 outputs, got 4"),
    ],
)
def test_wrong_arguments_are_named(other, options, message):
    with pytest.raises(ValueError, match=message):
        mixed(mlp(SIGNATURE, MLPConfig(hidden=8)), kernel_ridge(other), **options)


def test_real_numbers_have_no_probabilities():
    numbers = Signature(4, 1, 6, True)
    with pytest.raises(ValueError, match="two learners of the same classes"):
        mixed(mlp(numbers, MLPConfig(hidden=8)), kernel_ridge(numbers))

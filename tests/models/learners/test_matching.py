"""LSTMs with matching initial weights: they compare the query with the sums of all classes before any meta-training."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metalearn.learner import Learner, Signature
from metalearn_models.learners.lstm import LSTMConfig, lstm
from metalearn_models.learners.outer_lstm import OuterLSTMConfig, outer_lstm

MATCHING: dict[str, Callable[[Signature], Learner]] = {
    "lstm": lambda s: lstm(s, LSTMConfig(s.inputs * s.outputs * 2, "pair", "matching")),
    "outer_lstm": lambda s: outer_lstm(s, OuterLSTMConfig(s.outputs + 4 * s.inputs, 2, "pair", "matching")),
}


def run_from_init(learner, key, xs, ys):
    """Logits of a learner with new weights, in one program."""
    run = jax.jit(lambda key, xs, ys: learner.run(learner.init(key), xs, ys))
    return run(key, jnp.asarray(xs, jnp.float32), jnp.asarray(ys, jnp.int32))


@pytest.mark.parametrize("name", MATCHING)
def test_with_matching_weights_a_class_that_was_seen_is_known_again_before_any_meta_training(name):
    """Four inputs at right angles come again and again, each with its own class: the second time is right."""
    signature = Signature(inputs=4, outputs=4, length=12)
    learner, rng = MATCHING[name](signature), np.random.default_rng(0)
    points = np.linalg.qr(rng.normal(size=(16, 4, 4)))[0] * 2
    order = np.stack([np.tile(rng.permutation(4), 3) for _ in range(16)])
    labels = np.stack([rng.permutation(4) for _ in range(16)])
    xs, ys = np.take_along_axis(points, order[..., None], 1), np.take_along_axis(labels, order, 1)
    logits = run_from_init(learner, jax.random.key(3), xs, ys)
    right = np.asarray(logits).argmax(-1) == ys
    assert right[:, 4:].all()
    assert right[:, 0].mean() < 0.7, "before the first label there is nothing to know"


@pytest.mark.parametrize("hidden", [8, 24])  # one and all of the inputs
def test_the_lstm_with_matching_weights_multiplies_the_query_and_the_sum_of_each_class(hidden):
    signature, width = Signature(inputs=3, outputs=4, length=6), hidden // 8
    learner = lstm(signature, LSTMConfig(hidden, "pair", "matching"))
    rng = np.random.default_rng(5)
    xs, ys = rng.normal(size=(5, 6, 3)).astype(np.float32), rng.integers(0, 4, (5, 6))
    logits = run_from_init(learner, jax.random.key(0), xs, ys)

    def sigmoid(a: Any) -> Any:
        return 1 / (1 + np.exp(-np.asarray(a)))

    x, label = np.float64(xs)[..., :width], np.eye(4)[ys]
    sums, expected = np.zeros((5, 4, width)), []
    for t in range(6):
        last, named = (x[:, t - 1], label[:, t - 1]) if t else (np.zeros((5, width)), np.zeros((5, 4)))
        sums = sigmoid(5.0) * sums + sigmoid(8 * named - 4)[:, :, None] * np.tanh(last / 2)[:, None]
        expected.append((np.tanh(sums) * np.tanh(x[:, t] / 2)[:, None]).sum(-1))
    np.testing.assert_allclose(logits, np.stack(expected, 1), atol=1e-5)


def test_matching_weights_of_an_outer_product_lstm_read_with_the_features_that_they_write():
    signature = Signature(inputs=3, outputs=4, length=6)
    theta = jax.jit(MATCHING["outer_lstm"](signature).init)(jax.random.key(0))
    kernel = np.asarray(theta["cell"]["gates_input"]["kernel"]).reshape(16, 2, 8, 16)
    query, key = kernel[4:10, :, 6], kernel[10:16, :, 1]
    np.testing.assert_allclose(query / 0.003, key / 0.5, rtol=1e-5)
    assert np.abs(key).max() > 0.1 and not kernel[:4, :, [1, 6]].any()
    np.testing.assert_allclose(kernel[:4, :, 4], np.tile(2 * np.eye(4), 4)[:, None].repeat(2, 1))

"""Networks trained online by learned optimizers: the same learner as a loop written out, and meta-trainable."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metalearn.errors import UnknownNameError
from metalearn.learner import Signature, predictions_in_order
from metalearn_models.learners.online import (
    OnlineOptimizerConfig,
    online_network,
    online_optimizer,
    online_with_optimizer,
)
from metalearn_models.learners.registry import build_learner, learner_entry
from metalearn_models.networks.mlp import mlp
from metalearn_models.optimizers import LearnedOptimizer, learnable_sgd, rnn_mlp
from metalearn_models.optimizers.handmade.constants import decode_constants

CLASSES = Signature(inputs=4, outputs=3, length=9)


@pytest.fixture(autouse=True)
def _optax_promotes():
    with jax.numpy_dtype_promotion("standard"):
        yield


def _episode():
    rng = np.random.default_rng(0)
    xs = jnp.asarray(rng.normal(size=(9, 4)), jnp.float32)
    return xs, jnp.asarray(rng.integers(3, size=9), jnp.int32)


def _predict(learner, theta):
    return jax.jit(lambda theta: predictions_in_order(learner, theta, *_episode(), jax.random.key(3)))(theta)


def test_learned_sgd_is_sgd():
    network = mlp(4, (5,), 3)
    learner, usual = (
        online_with_optimizer(CLASSES, network, learnable_sgd(0.3)),
        online_network(CLASSES, network, optax.sgd(0.3)),
    )
    np.testing.assert_allclose(_predict(learner, learner.init(jax.random.key(0))), _predict(usual, ()), rtol=1e-5)


def test_foof_by_name_trains_online_as_numpy_does():
    """Softmax regression: each example moves the weight along the inverse of the inputs' mean outer product."""
    learner = online_optimizer(CLASSES, OnlineOptimizerConfig("foof"))
    theta = learner.init(jax.random.key(0))
    found = _predict(learner, theta)
    rate, damping, decay = (float(decode_constants(theta)[name]) for name in ("learning_rate", "damping", "decay"))
    (layer,) = learner.start(theta, jax.random.key(3)).params
    weight, bias = (np.asarray(layer[name], np.float64) for name in ("weight", "bias"))
    moment, share = np.zeros((4, 4)), 0.0
    for t, (x, y) in enumerate(zip(*map(np.asarray, _episode()), strict=True)):
        logits = x @ weight + bias
        np.testing.assert_allclose(found[t], logits, rtol=1e-3, atol=1e-4)
        slope = np.exp(logits) / np.exp(logits).sum() - np.eye(3)[y]
        moment, share = decay * moment + (1 - decay) * np.outer(x, x), decay * share + (1 - decay)
        weight = weight - rate * np.linalg.solve(moment / share + damping * np.eye(4), np.outer(x, slope))
        bias = bias - rate * slope


def test_handmade_optimizers_of_every_kind_train_online_and_reach_their_constants():
    """What the optimizer reads is there: moments, Fisher matrices of all labels, a window, slow weights."""
    names = ("kfac", "m-fac", "mini-block-fisher", "soap", "lookahead-adam")
    learners = {name: online_optimizer(CLASSES, OnlineOptimizerConfig(name)) for name in names}
    thetas = {name: learner.init(jax.random.key(0)) for name, learner in learners.items()}
    xs, ys = (jnp.tile(x, (3,) + (1,) * (x.ndim - 1)) for x in _episode())  # the same nine examples three times

    @jax.jit
    def losses(thetas):
        found = {}
        for name, learner in learners.items():
            logits = predictions_in_order(learner, thetas[name], xs, ys, jax.random.key(3))
            found[name] = optax.softmax_cross_entropy_with_integer_labels(logits, ys)
        return found

    rates = {
        n: {k: x + (jnp.log(3.0) if k == "log_learning_rate" else 0) for k, x in t.items()} for n, t in thetas.items()
    }
    slow, fast = losses(thetas), losses(rates)
    for name in names:
        assert np.isfinite(slow[name]).all() and slow[name][18:].mean() < slow[name][:9].mean(), name
        assert np.abs(fast[name] - slow[name])[1:].max() > 1e-4, name


def test_theta_is_the_optimizers_and_reaches_it():
    """The score of a learning rate, differentiated through every update, against finite differences."""
    learner = online_optimizer(CLASSES, OnlineOptimizerConfig("learnable-sgd"))
    xs, ys = _episode()

    @jax.jit
    @jax.value_and_grad
    def loss_and_slope(theta):
        logits = predictions_in_order(learner, theta, xs, ys, jax.random.key(3))
        return optax.softmax_cross_entropy_with_integer_labels(logits, ys).mean()

    theta = jax.tree.map(lambda x: x + 2, learner.init(jax.random.key(0)))
    small = jax.tree.map(lambda x: jnp.full_like(x, 1e-2), theta)
    up, down = (loss_and_slope(jax.tree.map(lambda x, e, s=sign: x + s * e, theta, small))[0] for sign in (1, -1))
    slope = jax.tree.leaves(loss_and_slope(theta)[1])[0]
    assert abs(slope) > 1e-3
    np.testing.assert_allclose(slope, (up - down) / 2e-2, rtol=0.05)


def test_the_optimizer_is_told_loss_and_length():
    told = []

    def transform(theta, num_steps):
        def update(grads, state, params=None, **extra):
            told.append((num_steps, sorted(extra)))
            return grads, state

        return optax.GradientTransformationExtraArgs(lambda params: (), update)

    optimizer = LearnedOptimizer(lambda key: (), transform)
    _predict(online_with_optimizer(CLASSES, mlp(4, (), 3), optimizer), ())
    assert set(map(str, told)) == {"(9, ['value'])"}


def test_state_counts_the_optimizers_memory():
    network = mlp(4, (), 3)
    plain = online_network(CLASSES, network, optax.sgd(0.1)).state_size
    learner = online_with_optimizer(CLASSES, network, rnn_mlp())
    memory = rnn_mlp().transform(rnn_mlp().init(jax.random.key(0)), 9).init(network.init(jax.random.key(0)))
    floats = sum(x.size for x in jax.tree.leaves(memory) if jnp.issubdtype(x.dtype, jnp.floating))
    assert learner.state_size == plain + floats


def test_by_name():
    entry = learner_entry("learned-optimizer")
    assert entry.meta_learned
    learner = build_learner(CLASSES, OnlineOptimizerConfig("learnable-adam", hidden=(6,)))
    assert _predict(learner, learner.init(jax.random.key(0))).shape == (9, 3)
    with pytest.raises(UnknownNameError, match="learnable-adam"):
        build_learner(CLASSES, OnlineOptimizerConfig("learnable-adm"))

"""Optimizers that read layer statistics in the loops of this library and inside the wrappers of optax."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metalearn.inner import unroll
from metalearn.learner import Signature, predictions_in_order
from metalearn_models.learners.online import online_network
from metalearn_models.networks.mlp import mlp
from metalearn_models.optimizers import curvature
from metalearn_models.optimizers.contract import LearnedOptimizer
from metalearn_models.optimizers.curvature import foof, loss_and_statistics, value_grad_and_statistics
from metalearn_tasks.objectives import training_loop, two_moons


def _learnable_foof():
    """FOOF whose learning rate and damping are theta."""
    init = lambda key: jnp.log(jnp.array([0.1, 0.3]))  # noqa: E731
    transform = lambda theta, num_steps=None: foof(*jnp.exp(theta))  # noqa: E731
    return LearnedOptimizer(init, transform, loss_and_statistics)


def test_the_training_loop_passes_statistics_on():
    """As a loop by hand does, with theta traced and over several runs at once; the loop of SGD is another."""
    objective, optimizer, keys = two_moons(5, batch=8), _learnable_foof(), jax.random.split(jax.random.key(1), 2)
    theta = optimizer.init(keys[0])
    loop = training_loop(objective, optimizer, 4)
    losses, _ = jax.jit(lambda theta: unroll(loop, theta, (), keys, 4))(theta)
    tx = foof(0.1, 0.3)

    @jax.jit
    def step(state, t, key):
        batch = objective.sample(state.problem, (), jax.random.fold_in(key, t + 1))
        fn = value_grad_and_statistics(lambda p: objective.loss(state.problem, p, batch))
        loss, grads, statistics = fn(state.params)
        updates, memory = tx.update(grads, state.optimizer, state.params, statistics=statistics)
        return state._replace(params=optax.apply_updates(state.params, updates), optimizer=memory), loss

    state = loop.init(theta, (), jax.random.fold_in(keys[1], 0))
    by_hand = []
    for t in range(4):
        state, loss = step(state, t, keys[1])
        by_hand.append(loss)
    np.testing.assert_allclose(losses[1], by_hand, rtol=1e-4)


def test_a_network_trained_online_reads_its_examples_one_by_one():
    signature, network = Signature(3, 2, 4), mlp(3, (4,), 2)
    learner = online_network(signature, network, foof(0.1, 0.5), loss_and_statistics)
    x, y = jax.random.normal(jax.random.key(0), (4, 3)), jnp.array([0, 1, 1, 0])
    found = jax.jit(lambda: predictions_in_order(learner, (), x, y, jax.random.key(1)))()
    params, tx, expected = learner.start((), jax.random.key(1)).params, foof(0.1, 0.5), []
    state = tx.init(params)

    @jax.jit
    def step(params, state, x, y):
        loss = lambda p: optax.softmax_cross_entropy_with_integer_labels(network.apply(p, x), y)  # noqa: E731
        _, grads, statistics = value_grad_and_statistics(loss)(params)
        updates, state = tx.update(grads, state, params, statistics=statistics)
        return network.apply(params, x), optax.apply_updates(params, updates), state

    for t in range(4):
        outputs, params, state = step(params, state, x[t], y[t])
        expected.append(outputs)
    np.testing.assert_allclose(found, jnp.stack(expected), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("differentiate", [curvature.loss_and_sampled_statistics, curvature.loss_and_exact_statistics])
def test_objectives_of_classification_say_what_their_predictions_are(differentiate):
    """Labels are drawn anew at every step, from a key of their own; there is nothing to draw for all labels."""
    objective, seen = two_moons(5, batch=8), []

    def update(updates, state, params=None, *, statistics, **extra):
        seen.append({path: layer.fisher_grads.shape for path, layer in statistics.items()})
        return updates, statistics["[1]['weight']"].fisher_grads

    tx = optax.GradientTransformationExtraArgs(lambda params: (), update)
    optimizer = LearnedOptimizer(lambda key: (), lambda theta, num_steps=None: tx, differentiate)
    loop = training_loop(objective, optimizer, 4)

    @jax.jit
    def columns(key):
        state = loop.init((), (), jax.random.key(0))
        return loop.step((), state, jnp.int32(0), key, ())[0].optimizer

    count = 1 if differentiate is curvature.loss_and_sampled_statistics else 2
    found = columns(jax.random.key(1))
    assert seen == [{"[0]['weight']": (count, 8, 5), "[1]['weight']": (count, 8, 2)}]
    assert bool(jnp.isfinite(found).all()) and float(jnp.abs(found.sum(-1)).max()) < 1e-6
    assert not jnp.array_equal(found, columns(jax.random.key(2)))

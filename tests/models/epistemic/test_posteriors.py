"""The agents that approximate a posterior, each against what its formula says."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.linalg import solve_discrete_lyapunov

from metalearn.learner import Signature
from metalearn_models.epistemic import (
    DropoutConfig,
    HypermodelConfig,
    Knowledge,
    SGMCMCConfig,
    dropout,
    hypermodel,
    sgmcmc,
    train,
)
from metalearn_models.epistemic.bayes_by_backprop import normal_divergence
from metalearn_models.epistemic.hypermodel import _weights
from metalearn_models.epistemic.sgmcmc import langevin

KEY = jax.random.key(0)
SIGNATURE = Signature(3, 2, 10)
TOLD = Knowledge(jnp.float32(20), jnp.float32(0.25))


def test_the_dynamics_have_the_stationary_variance_of_their_linear_recursion():
    """On a quadratic they are a linear recursion with noise, whose covariance solves a Lyapunov equation."""
    n, a, b, curvature = 40.0, 0.05, 0.9, 2.0
    tx = langevin(KEY, n, a, b)

    @jax.jit
    def program():
        def body(carry, _):
            w, state = carry
            updates, state = tx.update(curvature * w, state, w)
            return (w + updates, state), w.var()

        w = jnp.zeros(3000)
        _, variances = jax.lax.scan(body, (w, tx.init(w)), None, 800)
        return variances[400:].mean()

    root, loud = np.sqrt(a), np.sqrt(2 * (1 - b) / n)
    matrix = np.array([[1 - root * root * curvature, -root * b], [root * curvature, b]])
    noise = np.array([root * loud, -loud])
    wanted = solve_discrete_lyapunov(matrix, np.outer(noise, noise))[0, 0]
    np.testing.assert_allclose(program(), wanted, rtol=0.01)
    assert abs(wanted * n * curvature - 1) < 0.2  # nearly the posterior's own variance, 1 / (n curvature)


def test_the_dynamics_leave_an_empty_tree_alone():
    tx = langevin(KEY, 5.0, 0.1, 0.9)
    assert tx.update({}, tx.init({}))[0] == {}


def test_snapshots_are_those_of_a_loop_over_steps():
    """A snapshot is where a shorter training with the same keys ends."""
    agent = sgmcmc(SIGNATURE, SGMCMCConfig(hidden=(4,), samples=4, steps=10))
    xs, ys = jax.random.normal(KEY, (5, 3)), jnp.array([0, 1, 1, 0, 1])
    last = agent._replace(snapshots=0)
    found, *ends = jax.jit(
        lambda: [train(one, xs, ys, TOLD, KEY).learned for one in (agent, last._replace(steps=4), last)]
    )()
    for i, end in ((0, ends[0]), (3, ends[1])):
        for snapshot, leaf in zip(jax.tree.leaves(found), jax.tree.leaves(end), strict=True):
            np.testing.assert_allclose(snapshot[i], leaf, rtol=1e-5, atol=1e-6)


def test_the_divergence_of_normals_is_its_integral():
    mean, deviation, prior = 0.7, 0.3, 1.5
    nodes, weights = np.polynomial.hermite_e.hermegauss(20)
    x = mean + deviation * nodes
    gap = -np.log(deviation) - nodes**2 / 2 + np.log(prior) + x**2 / (2 * prior**2)
    wanted = (weights * gap).sum() / weights.sum()
    found = normal_divergence({"w": jnp.full(3, mean)}, {"w": jnp.full(3, deviation)}, prior)
    np.testing.assert_allclose(found, 3 * wanted, rtol=1e-5)
    assert abs(normal_divergence(jnp.zeros(2), jnp.full(2, prior), prior)) < 1e-6


def test_dropout_is_a_thinned_network():
    agent = dropout(SIGNATURE, DropoutConfig(hidden=(4,), rate=0.25))
    params = agent.init(KEY, TOLD)
    (masks,) = agent.draw(KEY, 4000)
    assert set(np.unique(masks)) == {0.0, np.float32(1 / 0.75)}
    np.testing.assert_allclose(masks.mean(), 1, atol=0.02)
    first, last = params.learned
    xs = jax.random.normal(KEY, (5, 3))
    mask = jnp.array([0.0, 1.0, 2.0, 0.0])
    hidden = np.maximum(xs @ first["weight"], 0) * np.asarray(mask)[None]
    np.testing.assert_allclose(agent.apply(params, xs, (mask,)), hidden @ np.asarray(last["weight"]), rtol=1e-4)


def test_each_layer_of_a_hypermodel_reads_its_own_part_of_the_index():
    agent = hypermodel(SIGNATURE, HypermodelConfig(hidden=(4,), index=4))
    hyper = agent.init(KEY, TOLD).learned
    first, second = jax.jit(jax.vmap(_weights, (None, 0)))(hyper, jnp.array([[0.0] * 4, [1.0, 0.0, 2.0, 0.0]]))
    along, moved = hyper["directions"][0]["weight"], np.diff(first["weight"], axis=0)[0]
    np.testing.assert_allclose(moved, along[0] + 2 * along[2], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(second["weight"][0], second["weight"][1])
    np.testing.assert_allclose(np.square(agent.draw(KEY, 4000)).sum(-1).mean(), 1, atol=0.05)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: sgmcmc(SIGNATURE, SGMCMCConfig(samples=1)), "got 1 samples"),
        (lambda: sgmcmc(SIGNATURE, SGMCMCConfig(samples=60, steps=100)), "got 60 samples in 100 steps"),
        (lambda: dropout(SIGNATURE, DropoutConfig(rate=1.0)), "rate"),
        (lambda: dropout(SIGNATURE, DropoutConfig(hidden=())), "hidden"),
    ],
)
def test_agents_that_cannot_be_are_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()

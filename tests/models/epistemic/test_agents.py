"""Agents with an index: what their joint predictions are made of, and what their training leaves alone."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metalearn.joint import marginals
from metalearn.learner import Signature
from metalearn_models.epistemic import (
    BayesByBackpropConfig,
    DropoutConfig,
    EnsembleConfig,
    EpinetConfig,
    Examples,
    HypermodelConfig,
    Knowledge,
    Params,
    PriorEnsembleConfig,
    SGMCMCConfig,
    SingleConfig,
    bayes_by_backprop,
    dropout,
    ensemble,
    epinet,
    hypermodel,
    joint,
    marginal_log_probs,
    prior_ensemble,
    sgmcmc,
    single,
    train,
)
from metalearn_models.epistemic.epinet import epinet_on, expose_outputs
from metalearn_models.networks import mlp

KEY = jax.random.key(0)
SIGNATURE = Signature(3, 2, 10)
TOLD = Knowledge(jnp.float32(60), jnp.float32(0.1))
FILLED = jnp.int32(6)
SMALL: Any = {"hidden": (8,), "steps": 30, "learning_rate": 0.01}
AGENTS = {
    "single": single(SIGNATURE, SingleConfig(**SMALL)),
    "ensemble": ensemble(SIGNATURE, EnsembleConfig(members=3, **SMALL)),
    "prior ensemble": prior_ensemble(SIGNATURE, PriorEnsembleConfig(members=3, **SMALL)),
    "epinet": epinet(SIGNATURE, EpinetConfig(index=4, **{**SMALL, "hidden": (8, 8)})),
    "dropout": dropout(SIGNATURE, DropoutConfig(rate=0.3, **SMALL)),
    "bayes by backprop": bayes_by_backprop(SIGNATURE, BayesByBackpropConfig(draws=2, **SMALL)),
    "hypermodel": hypermodel(SIGNATURE, HypermodelConfig(draws=2, **SMALL)),
    "sgmcmc": sgmcmc(SIGNATURE, SGMCMCConfig(samples=5, **{**SMALL, "steps": 200})),
}


@pytest.fixture(autouse=True, scope="module")
def promotion_that_optax_needs():
    with jax.numpy_dtype_promotion("standard"):
        yield


def start_of(agent, told=TOLD):
    """Fresh parameters from one program; drawn op by op they are many."""
    return jax.jit(agent.init)(KEY, told)


@pytest.fixture(scope="module")
def examples():
    xs = np.random.default_rng(1).normal(size=(8, 3)).astype(np.float32)
    return jnp.asarray(xs), jnp.asarray(xs[:, 0] > 0, jnp.int32)


@pytest.fixture(scope="module")
def trained(examples):
    """Per agent: the joint of all labels, the sum of their marginals, the joint of one; log-probabilities."""

    @jax.jit
    def program(xs, ys):
        found, none = {}, (xs[:0], ys[:0])
        for name, agent in AGENTS.items():
            start, params = agent.init(KEY, TOLD), train(agent, xs, ys, TOLD, KEY, filled=FILLED)
            log_prob = joint(agent, params, 16)
            found[name] = (
                log_prob(KEY, *none, xs, ys),
                marginals(log_prob)(KEY, *none, xs, ys),
                log_prob(KEY, *none, xs[:1], ys[:1]),
                [
                    marginal_log_probs(agent, p, xs, KEY, 16)
                    for p in ((params,) if agent.snapshots else (start, params))
                ],
            )
        return found

    return program(*examples)


def test_only_an_index_makes_the_joint_differ_from_the_sum_of_marginals(examples, trained):
    _, ys = examples
    for name, (together, apart, one, (*_, logits)) in trained.items():
        assert np.isfinite(together)
        assert (abs(together - apart) < 1e-6 * len(ys)) == (name == "single"), name
        np.testing.assert_allclose(one, logits[0, ys[0]], rtol=1e-5)  # one label: the marginal


def test_a_trained_agent_fits_its_examples(examples, trained):
    _, ys = examples
    at = (np.arange(6), np.asarray(ys[:6]))
    for name, (*_, logits) in trained.items():
        before, after = logits[0], logits[-1]
        np.testing.assert_allclose(np.exp(after).sum(-1), 1, rtol=1e-5)
        assert AGENTS[name].snapshots or after[at].mean() > before[at].mean() + 0.002, name


def test_two_opposite_members_find_a_label_and_its_copy_half_as_probable(examples):
    agent = ensemble(SIGNATURE, EnsembleConfig(hidden=(), members=2, steps=1))
    params = start_of(agent)
    weight = jnp.stack([40 * jnp.array([[1.0, -1.0]] * 3), -40 * jnp.array([[1.0, -1.0]] * 3)])
    params = params._replace(learned=({"weight": weight, "bias": jnp.zeros((2, 2))},))
    xs, ys = jnp.ones((2, 3)), jnp.array([0, 0])
    log_prob = joint(agent, params)
    both = jax.jit(lambda *given: (log_prob(*given), marginals(log_prob)(*given)))(KEY, xs[:0], ys[:0], xs, ys)
    np.testing.assert_allclose(both, [-math.log(2), -2 * math.log(2)], rtol=1e-6)


def test_priors_are_not_trained_and_doubt_does_not_shape_the_base(examples):
    xs, ys = examples
    agent, given = AGENTS["epinet"], Examples(xs, ys, jnp.ones(len(ys)))
    params = start_of(agent)
    z = jnp.asarray(np.random.default_rng(0).normal(size=4), jnp.float32)

    def parts(params):
        """How far z moves the logits: nothing of it may reach the base or the prior."""
        return (agent.apply(params, xs, z) - agent.apply(params, xs, 0 * z)).sum()

    grads = jax.jit(jax.grad(parts))(params)
    assert all(np.all(leaf == 0) for leaf in jax.tree.leaves((grads.learned["base"], grads.fixed["networks"])))
    assert any(np.any(leaf != 0) for leaf in jax.tree.leaves(grads.learned["epinet"]))
    for name in ("prior ensemble", "epinet"):
        one = AGENTS[name]
        start = start_of(one)
        grads = jax.jit(jax.grad(lambda p, one=one: one.loss(p, given, TOLD, KEY)))(start)
        assert all(np.all(leaf == 0) for leaf in jax.tree.leaves(grads.fixed["networks"])), name
        assert any(np.any(leaf != 0) for leaf in jax.tree.leaves(grads.learned))


def test_the_epinet_is_linear_in_its_index_where_it_should_be():
    """The prior term alone, of an epinet whose learned part is 0: linear in z, and inverse to the temperature."""
    agent = AGENTS["epinet"]
    params, apply = start_of(agent), jax.jit(agent.apply)
    params.learned["epinet"] = jax.tree.map(lambda leaf: jnp.asarray(np.zeros_like(leaf)), params.learned["epinet"])
    xs = jnp.ones((1, 3))
    base = np.asarray(apply(params, xs, jnp.zeros(4)))

    def moved(z):
        return apply(params, xs, jnp.asarray(z)) - base

    z, other = np.random.default_rng(0).normal(size=(2, 4)).astype(np.float32)
    np.testing.assert_allclose(moved(z) + moved(2 * other), moved(z + 2 * other), rtol=1e-4, atol=1e-5)
    hot = Knowledge(TOLD.examples, 10 * TOLD.temperature)
    hotter = start_of(agent, hot)._replace(learned=params.learned)
    np.testing.assert_allclose(10 * (apply(hotter, xs, jnp.asarray(z)) - base), moved(z), rtol=1e-4)


def test_an_epinet_is_the_formula_of_the_paper(examples):
    """Base + learned([z, x, features]) z + scale prior z, written with whole networks in float64."""
    xs, _ = examples
    params = start_of(AGENTS["epinet"])
    z = np.random.default_rng(0).normal(size=4)

    def run(layers, x):
        hidden = x
        for layer in layers[:-1]:
            hidden = np.maximum(hidden @ layer["weight"] + layer["bias"], 0)
        return hidden @ layers[-1]["weight"] + layers[-1]["bias"], hidden

    learned, prior = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), (params.learned, params.fixed["networks"]))
    wanted = []
    for x in np.asarray(xs, np.float64):
        logits, features = run(learned["base"], x)
        matrix = run(learned["epinet"], np.concatenate([z, x, features]))[0].reshape(2, 4)
        priors = [run([{k: v[i] for k, v in layer.items()} for layer in prior], x)[0] for i in range(4)]
        wanted.append(logits + matrix @ z + 0.3 / 0.1 * np.stack(priors, -1) @ z)
    found = jax.jit(AGENTS["epinet"].apply)(params, xs, jnp.asarray(z, jnp.float32))
    np.testing.assert_allclose(found, np.array(wanted), rtol=1e-4, atol=1e-5)


def test_an_epinet_stands_on_any_network(examples):
    xs, _ = examples
    agent = epinet_on(expose_outputs(mlp(3, (), 2)), SIGNATURE, EpinetConfig(index=4, steps=5))
    params = start_of(agent)
    logits = jax.jit(agent.apply)(params, xs, jnp.zeros(4))
    layer = jax.tree.map(np.asarray, params.learned["base"][0])
    np.testing.assert_allclose(logits, np.asarray(xs) @ layer["weight"] + layer["bias"], rtol=1e-5)


def test_padding_counts_for_nothing_and_members_do_not_hinder_one_another(examples):
    xs, ys = examples
    agent = prior_ensemble(SIGNATURE, PriorEnsembleConfig(hidden=(4,), members=2, steps=3))

    @jax.jit
    def program(xs, ys):
        return train(agent, xs, ys, TOLD, KEY, filled=FILLED).learned

    far, ones = np.array(xs), np.array(ys)
    far[6:] *= 100
    ones[6:] = 1
    longer = program(jnp.asarray(far), jnp.asarray(ones))
    assert jax.tree.all(jax.tree.map(np.array_equal, longer, program(xs, ys)))
    # Each member descends its own loss: the gradient of one does not contain the others.
    params = start_of(agent)
    gradient = jax.jit(jax.grad(lambda p: agent.loss(p, Examples(xs, ys, jnp.ones(8)), TOLD, KEY)))
    grads = gradient(params).learned
    others = jax.tree.map(lambda leaf: jnp.asarray(np.stack([leaf[0], np.float32(3) * leaf[1]])), params.learned)
    changed = gradient(params._replace(learned=others)).learned
    for before, after in zip(jax.tree.leaves(grads), jax.tree.leaves(changed), strict=True):
        np.testing.assert_allclose(before[0], after[0], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: ensemble(SIGNATURE, EnsembleConfig(members=1)), "members must be at least 2"),
        (lambda: joint(AGENTS["epinet"], Params((), ()), 1), "indices must be at least 2, got 1"),
        (lambda: single(SIGNATURE._replace(regression=True)), "got the regression signature"),
        (lambda: epinet(SIGNATURE, EpinetConfig(prior_scale=-1.0)), "prior_scale"),
        (
            lambda: train(AGENTS["single"], jnp.ones((4, 2)), jnp.zeros(4, jnp.int32), TOLD, KEY),
            r"xs must be \[4, 3\].* got \[4, 2\]",
        ),
    ],
)
def test_agents_that_cannot_be_are_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()

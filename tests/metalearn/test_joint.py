"""Joint predictions against closed forms."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import betaln
from scipy.stats import multivariate_normal

from metalearn.joint import (
    JointScores,
    chain_rule,
    draw_polyad,
    joint_scores,
    marginals,
    mean_over_indices,
    summarise_joint,
)
from metalearn.learner import Learner, Signature, predictions_in_order
from metalearn_models.learners import transformer
from metalearn_models.learners.transformer import TransformerConfig
from metalearn_tasks.families.conjugate import coins, exact_coin, exact_gaussian_process, linear_kernel

KEY = jax.random.key(3)
A, B = 2.0, 0.5


def counting(length, memory=1.0, classes=2):
    """Bayes' rule for coins as a learner: its state counts labels. With memory < 1 it forgets, so order matters."""

    def start(theta, key):
        return jnp.array([B, A] + [0.1] * (classes - 2))

    def predict(theta, state, x):
        return jnp.log(state)

    def observe(theta, state, x, y):
        return memory * state + jax.nn.one_hot(y, classes)

    return Learner(lambda key: (), start, predict, observe, None, classes, Signature(1, classes, length))


def tosses(count, seed=0):
    return jnp.ones((count, 1)), jnp.asarray(np.random.default_rng(seed).integers(0, 2, count), jnp.int32)


def draw(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def joint_and_marginals(log_prob, xs, ys):
    """The joint log-probability of labels and the sum of their marginals, without context."""
    given = KEY, xs[:0], ys[:0], xs, ys
    return jax.jit(lambda *given: (log_prob(*given), marginals(log_prob)(*given)))(*given)


def closed_form(context, queries):
    heads, more = int(context.sum()), int(queries.sum())
    tails, others = len(context) - heads, len(queries) - more
    return betaln(A + heads + more, B + tails + others) - betaln(A + heads, B + tails)


def test_the_chain_rule_of_bayes_rule_is_the_closed_form_and_so_is_the_exact_function():
    for seen, queries in ((0, 9), (7, 10)):
        given, asked = tosses(seen, 1), tosses(queries, 2)
        wanted = closed_form(np.asarray(given[1]), np.asarray(asked[1]))
        for log_prob in (chain_rule(counting(30), ()), exact_coin(A, B)):
            np.testing.assert_allclose(jax.jit(log_prob)(KEY, *given, *asked), wanted, rtol=2e-6, atol=1e-6)


def test_the_parallel_run_of_a_transformer_gives_the_sum_over_single_steps():
    learner = transformer(Signature(3, 4, 12), TransformerConfig(width=8, layers=1, heads=1, key_size=4))
    # Among two of its four outputs, a learner gives these two all probability.
    two = jnp.array([True, False, True, False])

    @jax.jit
    def program(xs, ys):
        theta = learner.init(KEY)
        log_prob = chain_rule(learner, theta)
        together = log_prob(KEY, xs[:5], ys[:5], xs[5:], ys[5:])
        steps = jax.nn.log_softmax(predictions_in_order(learner, theta, xs, ys, KEY))
        each = jax.vmap(lambda c: log_prob(KEY, xs[:5], ys[:5], xs[5:6], c[None], two))(jnp.arange(4))
        return together, steps[jnp.arange(5, 9), ys[5:]].sum(), each

    together, steps, each = program(draw(9, 3), jnp.asarray(np.random.default_rng(1).integers(0, 4, 9), jnp.int32))
    np.testing.assert_allclose(together, steps, rtol=1e-5)
    np.testing.assert_allclose(np.exp(each).sum(), 1, rtol=1e-5)
    assert each[1] == each[3] == -jnp.inf


def test_without_an_index_the_joint_is_the_sum_of_marginals():
    def apply(z, xs):
        return jnp.stack([jnp.sin(xs[:, 0]), xs[:, 1]], -1)

    log_prob = mean_over_indices(apply, lambda key: jnp.arange(5))
    xs, ys = draw(6, 2), jnp.array([0, 1, 1, 0, 1, 0])

    @jax.jit
    def wanted(xs, ys):
        return jax.nn.log_softmax(apply(0, xs))[jnp.arange(6), ys].sum()

    np.testing.assert_allclose(joint_and_marginals(log_prob, xs, ys), [wanted(xs, ys)] * 2, rtol=1e-6)


def test_two_sure_members_that_disagree_find_two_equal_labels_half_as_probable():
    log_prob = mean_over_indices(
        lambda z, xs: jnp.stack([z * xs[:, 0], -z * xs[:, 0]], -1), lambda key: jnp.array([-40.0, 40.0])
    )
    xs, ys = jnp.ones((2, 1)), jnp.array([1, 1])
    found = joint_and_marginals(log_prob, xs, ys)
    np.testing.assert_allclose(found, [-math.log(2), -2 * math.log(2)], rtol=1e-6)
    together, apart = joint_and_marginals(log_prob, xs[:1], ys[:1])
    np.testing.assert_allclose(together, apart, rtol=1e-6)


def test_a_gaussian_process_gives_the_ratio_of_normal_densities():
    xs, ys = draw(7, 3), draw(7, seed=1)
    covariance = np.asarray(xs, np.float64) @ np.asarray(xs).T + 0.25 * np.eye(7)
    wanted = multivariate_normal.logpdf(ys, np.zeros(7), covariance)
    exact = exact_gaussian_process(linear_kernel, 0.5)

    @jax.jit
    def both(xs, ys):
        parts = [exact(KEY, xs[:t], ys[:t], xs[t:u], ys[t:u]) for t, u in ((0, 7), (0, 3), (3, 4), (4, 7))]
        return parts[0], sum(parts[1:])

    np.testing.assert_allclose(both(xs, ys), [wanted] * 2, rtol=1e-4)


def test_scores_on_tasks_no_learner_is_below_the_floor_and_only_order_that_matters_shows_a_spread():
    family = coins(20, A, B)

    def scored(log_prob):
        return jax.jit(joint_scores(log_prob, family, family.unseen, context=5, queries=10, tasks=192))((), KEY)

    exact, learned = scored(exact_coin(A, B)), scored(chain_rule(counting(20), ()))
    for one, other in zip(exact, learned, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)
    assert np.max(exact.spread) < 1e-4
    forgetful, wrong = scored(chain_rule(counting(20, memory=0.7), ())), scored(exact_coin(1.0, 1.0))
    assert np.mean(forgetful.spread) > 0.1
    best = summarise_joint(exact)
    assert best.impossible == 0 and best.joint.mean > best.marginal.mean + 0.1  # later tosses are told by earlier ones
    for worse in (forgetful, wrong):
        assert np.mean(exact.joint - worse.joint) > 0.02


def test_outputs_beyond_the_classes_get_no_probability():
    family = coins(8, A, B)

    def scored(classes):
        learner = counting(8, classes=classes)
        scores = joint_scores(chain_rule(learner, ()), family, family.unseen, context=2, queries=4, tasks=16)
        return jax.jit(scores)((), KEY)

    np.testing.assert_allclose(scored(2).joint, scored(3).joint, rtol=1e-5)


def test_what_has_no_probability_is_counted_and_not_averaged():
    scores = JointScores(
        jnp.array([-1.0, -jnp.inf, -3.0]), jnp.array([-2.0, -jnp.inf, -jnp.inf]), jnp.array([0.5, jnp.nan, 1.5])
    )
    summary = summarise_joint(scores)
    assert (summary.joint.mean, summary.marginal.mean, summary.spread) == (-2, -2, 1)
    assert (summary.impossible, summary.impossible_alone) == (1, 2)
    assert math.isnan(summarise_joint(scores._replace(joint=jnp.array([jnp.nan, 0.0, 0.0]))).joint.mean)
    beyond = jax.jit(chain_rule(counting(4), ()))(KEY, *tosses(0), jnp.ones((1, 1)), jnp.array([2]))
    assert beyond == -jnp.inf


def test_a_polyad_visits_few_places_and_labels_each_visit_anew():
    anchors = jnp.array([[0.0], [1.0]])
    toss = lambda key, x: jax.random.bernoulli(key, 0.5).astype(jnp.int32)  # noqa: E731
    xs, ys = jax.jit(lambda key: draw_polyad(key, anchors, toss, 60))(KEY)
    assert xs.shape == (60, 1) and set(np.unique(xs)) == {0.0, 1.0}
    for place in (0.0, 1.0):
        assert set(np.asarray(ys)[np.asarray(xs)[:, 0] == place]) == {0, 1}


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: chain_rule(counting(12), ())(KEY, *tosses(8), *tosses(5)), r"8 examples and 5 queries .* at most 7"),
        (
            lambda: chain_rule(counting(9)._replace(signature=Signature(1, 1, 9, regression=True)), ()),
            "predicts a number, which has no probability",
        ),
        (
            lambda: mean_over_indices(lambda z, xs: xs, lambda key: jnp.zeros((1,)))(KEY, *tosses(0), *tosses(2)),
            r"at least 2 in the first axis of all leaves, got \(1,\)",
        ),
        (
            lambda: joint_scores(exact_coin(), coins(9), coins(9).unseen, context=5, queries=5),
            "context=5 and queries=5 are more than the 9 examples",
        ),
        (
            lambda: joint_scores(exact_coin(), coins(9), coins(9).unseen, context=5, queries=0),
            "got context=5, queries=0",
        ),
        (
            lambda: joint_scores(
                chain_rule(counting(9, classes=1), ()), coins(9), coins(9).unseen, context=2, queries=2, tasks=1
            )((), KEY),
            "of 2 classes was asked of a model that has 1",
        ),
        (
            lambda: mean_over_indices(lambda z, xs: xs, lambda key: jnp.zeros((3,)))(
                KEY, *tosses(0), *tosses(2), jnp.ones(2, bool)
            ),
            "of 2 classes was asked of a model that has 1",
        ),
        (lambda: coins(5, 0.0, 1.0), "must be positive, got 5, 0.0 and 1.0"),
        (lambda: exact_gaussian_process(linear_kernel, 0.0), r"noise must be positive, got 0.0"),
    ],
)
def test_what_cannot_be_scored_is_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()

"""The testbed's scoring against the general joint prediction, and a whole toy run."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.epistemic import _problems as made
from experiments.epistemic import testbed as neural
from experiments.epistemic._in_context import score_by_chain_rule
from experiments.epistemic._testbed_report import compare_priors, judge
from metalearn.joint import chain_rule, mean_over_indices
from metalearn.learner import Signature
from metalearn_models.learners.reference.neighbours import NearestNeighbourConfig
from metalearn_models.learners.registry import build_learner
from metalearn_tasks.families.testbed import draw_teacher, teacher_logits

KEY = jax.random.key(5)


def test_counting_labels_per_place_is_the_joint_prediction_of_all_queries():
    teacher = draw_teacher(KEY, 3, 2, 0.3)
    polyads = made.draw_polyads(KEY, teacher, 3, tau=6, polyads=2, draws=3)
    assert (np.asarray(polyads.counts).sum((-1, -2)) == 6).all()
    indices = jax.random.normal(KEY, (5,))

    def logits(xs, z):
        return teacher_logits(teacher, z * xs)

    found = made.joint_of_indices(logits, indices, polyads, chunk=2)
    log_prob = mean_over_indices(lambda z, xs: logits(xs, z), lambda key: indices)
    for p in range(2):
        for draw in range(3):
            places, classes = np.nonzero(np.asarray(polyads.counts[p, draw]))
            times = np.asarray(polyads.counts[p, draw])[places, classes].astype(int)
            xs, ys = polyads.anchors[p][np.repeat(places, times)], jnp.asarray(np.repeat(classes, times))
            np.testing.assert_allclose(found[p, draw], log_prob(KEY, xs[:0], ys[:0], xs, ys), rtol=1e-5)
            truth = jax.nn.log_softmax(teacher_logits(teacher, xs))[jnp.arange(6), ys].sum()
            np.testing.assert_allclose(polyads.truth[p, draw], truth, rtol=1e-4, atol=1e-6)


def test_a_learner_that_reads_examples_is_scored_by_the_chain_rule():
    """Scores of a learner with a closed form, against the general chain rule, one polyad at a time."""
    learner = build_learner(Signature(2, 2, 12), NearestNeighbourConfig())
    drawn = [made.draw_problem(jax.random.key(i), jnp.float32(0.5), 2, 4, (1, 5), 3, 2) for i in range(2)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves)[None], *drawn)
    found = score_by_chain_rule(learner, (), stacked, polyads=2, draws=1)
    assert found.kl.shape == (1, 2, 2)
    log_prob = jax.jit(chain_rule(learner, ()))
    for i, problem in enumerate(drawn):
        queries, gaps = problem.polyads[1], []
        for p in range(2):
            xs, ys = queries.anchors[p][queries.places[p]], queries.labels[p, 0].astype(jnp.int32)
            gaps.append(queries.truth[p, 0] - log_prob(KEY, problem.xs, problem.ys, xs, ys))
        np.testing.assert_allclose(found.kl[0, i, 1], np.mean(gaps), rtol=1e-4)
    with pytest.raises(ValueError, match="longer than the learner's context of 12"):
        longer = jax.tree.map(lambda leaf: leaf, stacked._replace(xs=jnp.zeros((1, 2, 9, 2))))
        score_by_chain_rule(learner, (), longer, 1, 1)


def test_a_class_that_is_never_drawn_costs_nothing_and_a_drawn_one_may_cost_everything():
    log_probs = jnp.array([[[0.0, -jnp.inf], [jnp.log(0.5), jnp.log(0.5)]]])
    counts = jnp.array([[[[3.0, 0.0], [1.0, 1.0]], [[2.0, 1.0], [0.0, 0.0]]]])
    np.testing.assert_allclose(made.joint_of_one(log_probs, counts), [[2 * np.log(0.5), -np.inf]], rtol=1e-6)


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    config = neural.TestbedExperimentConfig(
        agents=("mlp", "epinet"), ratios=(1,), temperatures=(0.1,), seeds=2, polyads=4, indices=8, shorter=200,
        out=tmp_path_factory.mktemp("testbed"),
    )  # fmt: skip
    with jax.numpy_dtype_promotion("standard"):  # optax relies on it
        return config, neural.run(config)


def test_a_toy_run_ends_and_continues_from_its_cells(toy):
    config, result = toy
    assert [row["agent"] for row in result["summary"]] == ["mlp", "epinet"]
    np.testing.assert_allclose(result["summary"][0]["tau 10"][0], 1, rtol=1e-6)
    assert {c["claim"] for c in result["claims"]} == {"tau = 10: epinet at most .6", "tau = 1: epinet from .75 to 1.25"}
    again = neural.run(config)
    assert again["summary"] == result["summary"]
    assert "KL, mlp = 1" in neural.format_result(result)


def test_what_the_prior_does_is_measured_on_the_same_teachers():
    shift = np.array([[0.0, 0.0], [3.0, 5.0], [7.0, 1.0]])  # teachers differ more than agents do
    (pair,) = compare_priors({"epinet": shift, "epinet-no-prior": shift + np.array([0.5, 2.0])}, (1, 10))
    np.testing.assert_allclose([pair["tau 1"], pair["tau 10"]], [[-0.5] * 3, [-2.0] * 3])


def test_the_rule_of_the_verdict():
    def row(mean, low, high):
        return {"tau 1": [1.0, 0.9, 1.1], "tau 10": [mean, low, high]}

    for estimate, state in (((0.5, 0.4, 0.7), "holds"), ((0.7, 0.61, 0.8), "fails"), ((0.7, 0.5, 0.9), "open")):
        assert judge({"epinet": row(*estimate)}, (1, 10))[0]["state"] == state


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"agents": ("mlp", "epinett")}, "epinet"),
        ({"agents": ("epinet",)}, "--agents must contain mlp"),
        ({"seeds": 0}, "must be at least 1"),
    ],
)
def test_settings_that_cannot_be_run_are_refused(values, words, tmp_path):
    with pytest.raises(Exception, match=words):
        neural.run(neural.TestbedExperimentConfig(**values, out=tmp_path))

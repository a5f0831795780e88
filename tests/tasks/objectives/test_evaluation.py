import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metalearn.inner import unroll
from metalearn_tasks.datasets import Split
from metalearn_tasks.objectives.baselines import BASELINES, hand_designed_optimizer
from metalearn_tasks.objectives.classification import mlp_classification
from metalearn_tasks.objectives.evaluation import final_losses, loss_curves, tune_learning_rate
from metalearn_tasks.objectives.functions import quadratic
from metalearn_tasks.objectives.objective import Objective, draw_nothing, draw_start, sample_nothing
from metalearn_tasks.objectives.training import training_loop

DESCENT = hand_designed_optimizer(BASELINES["sgd"])

# 1/2 h phi^2 from 1: after t steps of rate r the loss is h (1 - r h)^(2 t) / 2.
BOWL = Objective(
    draw_nothing,
    lambda problem, key: jnp.float32(1),
    lambda problem, params, batch: 2.0 * params**2,
    sample_nothing,
)


def keys(count, seed=0):
    return jax.random.split(jax.random.key(seed), count)


def test_loss_curves_are_those_of_the_training_loop():
    rng = np.random.default_rng(0)
    data = Split(jnp.asarray(rng.normal(size=(30, 4)), jnp.float32), jnp.asarray(rng.integers(3, size=30), jnp.int32))
    objective, optimizer, theta = mlp_classification(4, 5, 3, batch=8), DESCENT, jnp.float32(0.1)
    curves = loss_curves(objective, optimizer, theta, data, keys(3), 6)
    expected, _ = jax.jit(lambda: unroll(training_loop(objective, optimizer, 6), theta, data, keys(3), 6))()
    np.testing.assert_allclose(curves, expected, rtol=1e-5)
    assert curves.shape == (3, 6)
    assert len(np.unique(np.asarray(curves))) == 18


def test_the_same_objects_are_compiled_once():
    traces = []

    def loss(problem, params, batch):
        traces.append(1)
        return (params**2).sum()

    objective = BOWL._replace(loss=loss)
    for rate in (0.1, 0.2):
        loss_curves(objective, DESCENT, jnp.float32(rate), (), keys(2), 5)
    assert len(traces) == 1


def test_a_sweep_is_trained_at_every_rate_and_the_best_has_the_least_final_loss():
    rates = [0.3, 0.05, 0.1, 0.2]
    result = tune_learning_rate(BOWL, DESCENT, rates, (), keys(2), 10, last=2)
    np.testing.assert_allclose(result.rates, sorted(rates), rtol=1e-6)
    steps = np.array([8, 9])
    expected = [(2 * (1 - 4 * r) ** (2 * steps)).mean() for r in sorted(rates)]
    np.testing.assert_allclose(result.final, np.repeat(np.array(expected)[:, None], 2, 1), rtol=1e-4, atol=1e-12)
    assert result.best == 2
    assert result.rate == pytest.approx(0.2)
    assert not result.at_edge
    np.testing.assert_allclose(result.curves, [2 * 0.2 ** (2 * np.arange(10))] * 2, rtol=1e-3, atol=1e-9)


def test_runs_of_a_sweep_are_those_of_their_rate_alone():
    objective, adam = quadratic(3), hand_designed_optimizer(BASELINES["adam"])
    with jax.numpy_dtype_promotion("standard"):
        result = tune_learning_rate(objective, adam, [1e-3, 1e-2, 1e-1, 1.0], (), keys(4), 40)
        for rate, final in zip(result.rates, result.final, strict=True):
            curves = loss_curves(objective, adam, jnp.float32(rate), (), keys(4), 40)
            np.testing.assert_allclose(final_losses(curves), final, rtol=1e-3)
    for key, first in zip(keys(4), result.curves[:, 0], strict=True):
        problem, params = draw_start(objective, jax.random.fold_in(key, 0))
        np.testing.assert_allclose(first, objective.loss(problem, params, ()), rtol=1e-5)
    assert result.final.mean(1).argmin() == result.best


@pytest.mark.parametrize(("rates", "best"), [([0.01, 0.02, 0.05], 2), ([0.25, 0.4, 0.45], 0), ([0.1], 0)])
def test_a_best_rate_at_the_end_of_the_grid_is_flagged(rates, best):
    result = tune_learning_rate(BOWL, DESCENT, rates, (), keys(1), 10)
    assert result.best == best
    assert result.at_edge


def test_a_rate_at_which_one_run_diverges_does_not_win():
    """One run in two is on a bowl so steep that the rate best for the other makes it overflow."""

    def loss(problem, params, batch):
        return 2.0 * jnp.where(problem, 100.0, 1.0) * params**2

    objective = BOWL._replace(draw=lambda key: jax.random.bernoulli(key), loss=loss)
    result = tune_learning_rate(objective, DESCENT, [1e-4, 4e-3, 0.25], (), keys(8), 60)
    steep = np.isinf(result.final[2])
    assert 0 < steep.sum() < 8
    assert (result.final[2][~steep] < result.final[1][~steep]).all()
    assert not np.isnan(result.final).any()
    assert result.best == 1


def test_where_every_rate_diverges_nothing_is_hidden():
    result = tune_learning_rate(BOWL, DESCENT, [10.0, 100.0], (), keys(2), 60)
    assert np.isinf(result.final).all()
    assert result.best == 0
    assert result.at_edge
    assert not np.isfinite(result.curves).all()


def test_final_losses_are_means_of_the_last_steps_and_infinite_where_a_curve_is_not_finite():
    curves = np.arange(60.0, dtype=np.float32).reshape(3, 20)
    np.testing.assert_array_equal(final_losses(curves), [18.5, 38.5, 58.5])
    np.testing.assert_array_equal(final_losses(curves, last=1), [19, 39, 59])
    np.testing.assert_array_equal(final_losses(curves[0, :5]), 4)
    curves[0, 3], curves[2, 19] = np.nan, -np.inf  # one recovered, one at minus infinity
    np.testing.assert_array_equal(final_losses(curves), [np.inf, 38.5, np.inf])


@pytest.mark.parametrize(
    ("rates", "length", "last", "message"),
    [
        ([], 5, None, "at least one learning rate"),
        ([0.1, 0.1], 5, None, "each only once"),
        ([0.1, 0.0], 5, None, "positive and finite"),
        ([0.1, float("inf")], 5, None, "positive and finite"),
        ([0.1, float("nan")], 5, None, "positive and finite"),
        ([0.1], 0, None, "length must be at least 1, got 0"),
        ([0.1], 5, 6, "last must be between 1 and the 5 steps of a run, got 6"),
    ],
)
def test_bad_arguments_are_refused(rates, length, last, message):
    with pytest.raises(ValueError, match=message):
        tune_learning_rate(BOWL, DESCENT, rates, (), keys(1), length, last)

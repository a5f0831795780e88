"""The learners of backpropagation, meta-trained by evolution strategies through the same inner loop."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metalearn import inner_loop
from metalearn.gradients import backprop, dense, full_es, low_rank, nres, pes
from metalearn.inner import InnerLoop
from metalearn.recipes.in_context.build import prepare
from metalearn.recipes.in_context.config import GradientConfig, from_json, to_json
from metalearn.recipes.in_context.presets import PRESETS
from metalearn.recipes.in_context.run import meta_train
from metalearn.runs.progress import Quiet
from metalearn_models.learners.lstm import LSTMConfig, lstm
from metalearn_models.learners.transformer import TransformerConfig, transformer
from metalearn_tasks.families.regression import RegressionConfig, regression

TASKS = regression(RegressionConfig(kind="linear", inputs=3, length=4))
LEARNERS = {
    "lstm": lstm(TASKS.signature, LSTMConfig(hidden=8, token="pair")),
    "transformer": transformer(TASKS.signature, TransformerConfig(width=16, layers=1, heads=2, key_size=8)),
}


def frozen(loop: InnerLoop, key) -> InnerLoop:
    """Every trajectory is the one that `key` names: the loss becomes a function of theta alone."""
    return loop._replace(init=lambda theta, data, _: loop.init(theta, data, key))


@pytest.mark.parametrize(("name", "noise"), [("lstm", dense), ("transformer", low_rank(1))])
def test_es_gradients_point_as_far_along_backprops_as_the_noise_allows(name, noise):
    learner, pairs = LEARNERS[name], 4096
    loop = frozen(inner_loop(learner, TASKS, sequences=4), jax.random.key(5))
    theta = learner.init(jax.random.key(0))
    exact = gradient_of(backprop(loop, 1), theta)
    estimate = gradient_of(full_es(loop, 1e-3, pairs, noise=noise), theta)
    cosine = estimate @ exact / np.linalg.norm(estimate) / np.linalg.norm(exact)
    predicted = 1 / np.sqrt(1 + (exact.size + 1) / pairs)
    # the variance of low-rank noise is a little larger, on the small matrices of this test up to twice
    low = predicted if noise is dense else 1 / np.sqrt(1 + 2 * (exact.size + 1) / pairs)
    assert low - 0.02 < cosine < predicted + 0.02, (cosine, predicted)
    assert abs(estimate @ exact / (exact @ exact) - 1) < 0.15  # and it is as long as it should be


def gradient_of(estimator, theta):
    def run():
        state = estimator.init(theta, (), jax.random.key(1))
        return estimator.grad(theta, state, (), jax.random.key(2), jnp.int32(0))[0]

    return np.concatenate([np.ravel(a) for a in jax.tree.leaves(jax.jit(run)())])


@pytest.mark.parametrize(("name", "stepwise"), [("lstm", pes), ("transformer", nres)])
def test_windows_over_steps_give_what_the_parallel_run_gives(name, stepwise):
    # the same trajectories and noise: NRES and PES of one window are full ES, by another code path
    loop, theta = inner_loop(LEARNERS[name], TASKS), LEARNERS[name].init(jax.random.key(0))
    whole = gradient_of(full_es(loop, 0.05, 6, noise=low_rank(1)), theta)
    by_steps = gradient_of(stepwise(loop._replace(run=None), 0.05, 6, 4, stagger=False, noise=low_rank(1)), theta)
    np.testing.assert_allclose(by_steps, whole, atol=2e-4 * np.abs(whole).max())


def tiny(method, **changes):
    base = PRESETS["es"][1]
    return dataclasses.replace(
        base,
        learner=LSTMConfig(hidden=4),
        gradient=GradientConfig(method, None if method == "es" else 5, pairs=4, rank=None),
        batch=8,
        steps=6,
        steps_per_call=2,
        evaluate_every=6,
        eval_tasks=4,
        references=(),
        **changes,
    )


def with_window(config, window):
    return dataclasses.replace(config, gradient=dataclasses.replace(config.gradient, window=window))


def test_a_run_by_evolution_strategies_resumes_to_the_same_bits(tmp_path):
    config = tiny("pes", checkpoint_every=2)
    expected, _ = meta_train(config, tmp_path / "whole", progress=Quiet())
    with pytest.raises(InterruptedError):
        meta_train(config, tmp_path / "cut", progress=Interrupting())
    result, _ = meta_train(config, tmp_path / "cut", resume=True, progress=Quiet())
    assert result["theta_sha256"] == expected["theta_sha256"]


class Interrupting(Quiet):
    def update(self, done, metrics):
        if done == 4:
            raise InterruptedError


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (with_window(tiny("es"), 5), "es updates after whole trajectories"),
        (with_window(tiny("nres"), None), "say after how many with --gradient.window"),
        (dataclasses.replace(tiny("pes"), batch=7), "a batch of 7 cannot be divided evenly among 4 pairs"),
        (with_window(tiny("pes"), 21), "window must be at most the length of a trajectory, got 21 and 20"),
    ],
)
def test_configurations_that_do_not_fit_are_refused(config, message):
    with pytest.raises(ValueError, match=message):
        prepare(config)


def test_configurations_from_before_there_was_a_choice_are_backpropagation():
    values = to_json(PRESETS["digits"][1])
    del values["gradient"]
    assert from_json(values) == PRESETS["digits"][1]
    assert from_json(to_json(tiny("pes"))) == tiny("pes")

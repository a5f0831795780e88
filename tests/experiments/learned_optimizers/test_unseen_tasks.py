"""The suite at toy size, its rule, and its tasks."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.learned_optimizers.unseen_tasks import experiment
from experiments.learned_optimizers.unseen_tasks.experiment import SuiteConfig, format_result, judge, run
from experiments.learned_optimizers.unseen_tasks.rules import FRESH, RATES, RULES, TRAINED
from experiments.learned_optimizers.unseen_tasks.tasks import TASKS, make_task
from metalearn.errors import UnknownNameError
from metalearn_models import optimizers


def test_a_run_compares_keeps_and_continues(tmp_path):
    config = SuiteConfig((2, 6), ("iris, relu 16",), ("Adam", FRESH), seeds=2, tuning_seeds=1, out=tmp_path)
    result = run(config)
    assert (tmp_path / "optimizer_suite.png").stat().st_size > 10_000
    assert [(r["rule"], r["steps"]) for r in result["rows"]] == [("Adam", 2), (FRESH, 2), ("Adam", 6), (FRESH, 6)]
    text = format_result(result)
    assert "6 steps: loss" in text and "loss of normalised Adam, cosine over that of Adam" in text and "open:" in text
    kept = next((tmp_path / "cells").glob("*-Adam-2-*.json"))
    stored = json.loads(kept.read_text())
    stored["result"]["loss_mean"] = 123.0
    kept.write_text(json.dumps(stored))
    assert run(config)["rows"][0]["loss_mean"] == 123.0  # read and not run again
    assert run(dataclasses.replace(config, lengths=(2,)))["rows"][0]["loss_mean"] == 123.0  # a length has its own part
    other = dataclasses.replace(config, tuning_seeds=2, lengths=(2,), rules=("Adam",))
    assert run(other)["rows"][0]["loss_mean"] != 123.0


def test_weights_of_a_run_are_one_more_optimizer_and_names_are_known(tmp_path):
    theta = optimizers.make("compass").init(jax.random.key(0))
    optimizers.save(tmp_path / "w.safetensors", "compass", theta)
    config = SuiteConfig((3,), ("iris, relu 16",), (FRESH,), str(tmp_path / "w.safetensors"), 1, 1, tmp_path)
    fresh, trained = run(config)["rows"]
    assert (fresh["rule"], trained["rule"]) == (FRESH, TRAINED) and fresh["losses"] == trained["losses"]
    optimizers.save(tmp_path / "o.safetensors", "compass", theta, {"orthogonalise": True})
    orthogonal = run(dataclasses.replace(config, weights=str(tmp_path / "o.safetensors")))["rows"][1]
    assert orthogonal["losses"] != trained["losses"]  # the same theta in the same folder
    with pytest.raises(ValueError, match="--weights must be those of compass, got those of small-fc"):
        run(dataclasses.replace(config, weights="small-fc-digits-500"))
    with pytest.raises(UnknownNameError, match="iris"):
        run(dataclasses.replace(config, tasks=("iris",)))


def test_a_training_is_that_of_a_loop(tmp_path):
    """One run of SGD with momentum by hand: batches, cosine and final loss."""
    task = make_task("iris, relu 16")
    rates = np.asarray(np.array(RATES) * RULES["momentum, cosine"].middle, np.float32)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        found, _ = experiment.compile_training("iris, relu 16", RULES["momentum, cosine"])(rates, jnp.arange(1), 3)
    init_key, key = jax.random.split(jax.random.key(0))
    params, trace = task.init(init_key), None
    for t in range(3):
        rows = jax.random.randint(jax.random.fold_in(key, t), (task.batch,), 0, len(task.train[0]))
        grads = jax.grad(task.loss)(params, jnp.asarray(task.train[0])[rows], jnp.asarray(task.train[1])[rows])
        trace = grads if trace is None else jax.tree.map(lambda m, g: 0.9 * m + g, trace, grads)
        rate = float(rates[3]) * (0.5 + 0.5 * np.cos(np.pi * t / 3))
        params = jax.tree.map(lambda p, m, rate=rate: p - jnp.float32(rate) * m, params, trace)
    np.testing.assert_allclose(found[3, 0], task.loss(params, *map(jnp.asarray, task.train)), rtol=1e-4)


def _rows(ours, adam, adamw, diverged=0):
    rows = []
    for task in "abcd":
        for steps in (1000, 5000):
            for rule, loss in ((FRESH, ours), ("Adam", adam), ("AdamW, cosine", adamw)):
                bad = diverged if rule == FRESH else 0
                same = {"default": [loss], "loss_mean": loss, "diverged": bad}
                rows.append({"task": task, "rule": rule, "steps": steps, **same})
    return rows


@pytest.mark.parametrize(
    ("losses", "diverged", "verdict"),
    [
        ((0.1, 0.2, 0.2), 0, "reproduced"),
        ((0.1, 0.2, 0.1), 0, "open"),
        ((0.2, 0.1, 0.4), 0, "not reproduced"),
        ((0.1, 0.2, 0.2), 1, "not reproduced"),
    ],
)
def test_the_rule_of_the_verdict(losses, diverged, verdict):
    found = judge(_rows(*losses, diverged))
    assert found["verdict"]["verdict"] == verdict
    np.testing.assert_allclose(found["ratios"]["Adam"]["1000"], [losses[0] / losses[1]] * 3, rtol=1e-6)


def test_tasks_are_equal_at_each_call_and_their_parts_disjoint():
    for name in TASKS:
        one, two = make_task(name), make_task(name)
        np.testing.assert_array_equal(one.train[0], two.train[0])
        assert np.isfinite(one.train[0]).all() and len(one.test[0]) > 20 and one.batch <= len(one.train[0])
    inputs = [
        set(map(bytes, part[0])) for part in (make_task("wine, tanh 64-64").train, make_task("wine, tanh 64-64").test)
    ]
    assert not inputs[0] & inputs[1]

"""The ablation of compass at toy size, its arms and its rule."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.learned_optimizers.unseen_tasks import ablation
from experiments.learned_optimizers.unseen_tasks.ablation import PAPER, CompassAblationConfig, format_result, judge, run
from experiments.learned_optimizers.unseen_tasks.arms import ARMS, count_outer_steps, directions, hide_features
from metalearn.errors import UnknownNameError
from metalearn_models.optimizers.learned.compass import compass

FRESH = compass().init(jax.random.key(0))


def test_arms_differ_in_one_thing_and_take_as_many_inner_steps():
    for name, arm in ARMS.items():
        changed = [f for f in (*arm._fields[:5], "trained") if getattr(arm, f) != getattr(ARMS[arm.against], f)]
        assert len(changed) == (name != "whole")
        steps, horizon = count_outer_steps(arm, 60, 150)
        assert steps * horizon == 60 * 150
    third, twice = (count_outer_steps(ARMS[n], 60, 150) for n in ("a third of the horizon", "twice the horizon"))
    assert third == (180, 50) and twice == (30, 300)


def test_raw_directions_of_a_fresh_rule_are_adams_steps_and_hidden_features_do_not_count():
    gradients = [{"a": jnp.asarray(np.random.default_rng(t).normal(size=(3, 4)), jnp.float32)} for t in range(3)]
    rng = np.random.default_rng(9)
    theta = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), jnp.float32), FRESH)
    arm = ARMS["only Adam's measure"]
    rules = {
        "raw": directions("raw", hide_features(arm, FRESH)),
        "normalised": directions("normalised", hide_features(arm, FRESH)),
        "other": directions("raw", hide_features(arm, theta)),
        "same": directions("raw", hide_features(arm, theta._replace(direct=theta.direct.at[8:].add(1.0)))),
        "adam": optax.scale_by_adam(0.9, 0.95, eps=0.0),
    }
    found = {}
    with jax.numpy_dtype_promotion("standard"):
        for name, tx in rules.items():
            state = tx.init(gradients[0])
            for g in gradients:
                updates, state = tx.update(g, state)
            found[name] = np.asarray(updates["a"])
    np.testing.assert_allclose(found["raw"], found["adam"], rtol=1e-4, atol=1e-6)
    length = np.sqrt(np.square(found["adam"]).mean())
    np.testing.assert_allclose(found["normalised"], found["adam"] / length, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(found["other"], found["same"])
    assert np.abs(found["other"] - found["raw"]).max() > 0.1


def test_a_run_trains_the_arms_and_continues(tmp_path):
    arms, tasks = ("whole", "no meta-training"), ("ill-conditioned, linear",)
    small = {"objectives": ("noisy-regression",), "outer_steps": 2, "length": 3, "batch": 2, "meta_seeds": 2}
    config = CompassAblationConfig(arms, **small, tasks=tasks, steps=4, seeds=1, out=tmp_path)
    result = run(config)
    assert (tmp_path / "compass_ablation.png").stat().st_size > 10_000
    assert [(r["arm"], r["meta_seed"]) for r in result["rows"]] == [(name, seed) for name in arms for seed in (0, 1)]
    whole, fresh = (np.array([r["losses"] for r in result["rows"] if r["arm"] == name]) for name in arms)
    assert fresh[0] == fresh[1] and (whole != fresh).all()  # an untrained output layer hides the seed
    assert whole[0] != whole[1] and result["measures"]["no meta-training"] == [None, None]
    assert "no meta-training" in format_result(result) and result["verdict"]["verdict"] == "open"
    kept = next((tmp_path / "cells").glob("ill*-whole-*.json"))
    stored = json.loads(kept.read_text())
    stored["result"][0]["loss_mean"] = 123.0
    kept.write_text(json.dumps(stored))
    assert run(config)["rows"][0]["loss_mean"] == 123.0  # read and not run again
    with pytest.raises(UnknownNameError, match="no augmentation"):
        run(CompassAblationConfig(("no augmentations",), out=tmp_path))
    with pytest.raises(ValueError, match="at least 1"):
        run(CompassAblationConfig(meta_seeds=0, out=tmp_path))


def _rows(factors):
    losses = {"whole": 1.0, "no orthogonal matrices": 2.0, **dict(zip(PAPER, factors, strict=True))}
    jitter = {("b", 0): 1.02, ("b", 1): 1 / 1.02}
    return [
        {
            "arm": arm,
            "task": task,
            "meta_seed": seed,
            "loss_mean": loss * jitter.get((task, seed), 1.0) ** (arm in PAPER),
        }
        for arm, loss in losses.items()
        for task in "abc"
        for seed in (0, 1)
    ]


@pytest.mark.parametrize(
    ("factors", "verdict"),
    [
        ((1.5, 2.4, 1.3, 1.1), "reproduced"),
        ((1.5, 3.6, 1.3, 1.1), "open"),  # normalisation matters more than augmentation
        ((1.5, 2.4, 1.3, 1.0), "open"),
        ((1.5, 1.8, 1.3, 1.1), "not reproduced"),  # better than the arm that it is compared with
    ],
)
def test_the_rule(factors, verdict):
    found = judge(_rows(factors))
    assert found["verdict"]["verdict"] == verdict
    np.testing.assert_allclose(found["ratios"]["no normalisation either"][0], factors[1] / 2)
    assert ablation.judge(_rows(factors)[:6])["ratios"] == {}

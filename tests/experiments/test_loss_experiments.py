"""The experiments with learned losses: their comparison against a plain loop, and toy runs from end to end."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments import label_noise, robust_regression
from experiments.loss_comparison import FRESH, compare, held_out, merged, text_table
from metalearn.losses import SymbolicLoss, load
from metalearn.losses.population import TrainingConfig


def test_a_comparison_gives_what_a_loop_over_rates_and_seeds_gives():
    config = TrainingConfig(steps=5, batch=8, learning_rates=(1e-3, 1e-1))
    rows = held_out("iris", 0.4, (4,), 2)
    loss = load("gce")
    got = compare({"gce": loss}, {"iris": rows}, config)["iris"]["gce"]

    apply = rows[0].task.apply
    gradient = jax.jit(jax.grad(lambda p, x, y: loss(apply(p, x), y).mean()))
    valid, test = np.zeros((2, 2)), np.zeros((2, 2))
    for seed, held in enumerate(rows):
        key_init, key_batches = jax.random.split(jax.random.fold_in(jax.random.key(FRESH), seed))
        for i, rate in enumerate(config.learning_rates):
            x, y = (jnp.asarray(a) for a in held.task.train)
            params, rule = held.task.init(key_init), optax.adam(rate)
            with jax.numpy_dtype_promotion("standard"):
                state = rule.init(params)
                for t in range(config.steps):
                    chosen = jax.random.randint(jax.random.fold_in(key_batches, t), (8,), 0, len(y))
                    grad = gradient(params, x[chosen], y[chosen])
                    updates, state = rule.update(grad, state, params)
                    params = optax.apply_updates(params, updates)
            for into, (xs, ys) in ((valid, held.task.valid), (test, held.test)):
                into[i, seed] = (np.argmax(held.task.apply(params, jnp.asarray(xs)), -1) != ys).mean()
    best = valid.mean(1).argmin()
    assert got.rate == config.learning_rates[best]
    np.testing.assert_allclose(got.test, test[best], atol=1e-6)


def test_held_out_splits_are_none_that_a_search_has_seen():
    assert robust_regression.RobustRegressionConfig().seeds * robust_regression.RobustRegressionConfig().splits < FRESH
    assert not {name for name, _ in robust_regression.HELD_OUT} & {"diabetes", "friedman1"}
    assert not set(label_noise.HELD_OUT) & set(label_noise.META_TRAINING)


def test_claims_are_ratios_of_the_table():
    row = {"evolved": {"each": [0.1, 0.2]}, "mse": {"mean": 2.0}, "mae": {"mean": 0.4}, "welsch": {"mean": 0.1}}
    got = robust_regression.claims({"t": row})["t"]
    assert got == {"mse_over": [20.0, 10.0], "over_mae": [0.25, 0.5], "over_welsch": [1.0, 2.0]}


def test_tables_are_aligned():
    assert text_table(["a", "bb"], {"x": ["1", "22"], "long": ["3", "4"]}, "c").splitlines() == [
        "c    x  long",
        "a    1     3",
        "bb  22     4",
    ]


@pytest.mark.parametrize(
    ("module", "config"),
    [
        (robust_regression, robust_regression.RobustRegressionConfig(seeds=1, splits=1, generations=1, population=6)),
        (label_noise, label_noise.LabelNoiseConfig(seeds=1, generations=1, population=6)),
    ],
)
def test_an_experiment_runs_end_to_end_at_toy_size(module, config, tmp_path, monkeypatch):
    import dataclasses

    config = dataclasses.replace(config, steps=2, fresh_seeds=2, hidden=(2,), out=tmp_path)
    few = dict(list(module.BASELINES.items())[:1]) if module is label_noise else ("mse", "mae", "welsch")
    monkeypatch.setattr(module, "BASELINES", few)
    monkeypatch.setattr(module, "HELD_OUT", module.HELD_OUT[:2])
    found = module.main(config)
    assert json.loads((tmp_path / "result.json").read_text())["results"] == found["results"]
    assert (tmp_path / "losses.png").stat().st_size > 10_000
    saved = SymbolicLoss.read(tmp_path / "evolved-0.json")
    assert str(saved) == found["found"][0]["evolved"]
    assert all(0 <= row["evolved"]["mean"] for row in found["results"].values())
    assert all(line in module.printed(found) for line in found["results"])


def test_several_losses_are_merged_by_their_means():
    from experiments.loss_comparison import Scores

    scores = {"a": Scores(np.array([1.0, 3.0]), 0.1), "b": Scores(np.array([4.0, 4.0]), 0.1)}
    assert merged(scores, ["a", "b"]) == {"mean": 3.0, "best": 2.0, "worst": 4.0, "each": [2.0, 4.0]}

"""Learning to learn, past the horizon and the cost of updates, at toy size; what they compute from curves."""

import json

import jax
import numpy as np
import pytest

from experiments.learned_optimizers import cost as optimizer_cost
from experiments.learned_optimizers import learning_to_learn, past_the_horizon
from experiments.learned_optimizers.cost import OptimizerCostConfig, measure_costs
from experiments.learned_optimizers.learning_to_learn import LearningToLearnConfig
from experiments.learned_optimizers.past_the_horizon import PastTheHorizonConfig, find_diverged
from metalearn.errors import UnknownNameError
from metalearn_models.optimizers import learnable_momentum


@pytest.fixture(autouse=True)
def _optax_promotes():
    with jax.numpy_dtype_promotion("standard"):
        yield


def test_learning_to_learn_compares_on_the_same_problems(tmp_path, monkeypatch):
    monkeypatch.setattr("experiments.learned_optimizers._training.RATES", (0.01, 0.1))
    config = LearningToLearnConfig(
        parts=("quadratics",), steps=4, batch=4, window=5, length=10, problems=5, seeds=2, out=tmp_path
    )
    result = learning_to_learn.run(config)
    assert json.loads((tmp_path / "result.json").read_text()) == result
    rows = result["quadratics"]
    best = min(row["mean"] for name, row in rows.items() if name != "LSTM")
    np.testing.assert_allclose(result["ratio"], rows["LSTM"]["mean"] / best, rtol=1e-6)
    assert set(rows) == {"LSTM", "SGD", "momentum", "Nesterov", "RMSProp", "Adam"}
    # Untrained, it lies behind whatever is tuned.
    assert result["ratio"] > 1 and not result["apart"]
    assert f"LSTM over the best of them: {result['ratio']:.2f} (intervals overlap)" in learning_to_learn.format_result(
        result
    )
    assert (tmp_path / "learning_to_learn.png").stat().st_size > 10_000


@pytest.mark.slow
def test_past_the_horizon_tells_divergence_from_training(tmp_path, monkeypatch):
    monkeypatch.setattr("experiments.learned_optimizers._training.RATES", (0.01, 0.1))  # a short sweep
    config = PastTheHorizonConfig(
        steps=2, length=10, far=20, elsewhere=10, seeds=1, runs=2, pairs=2, window=5, networks=("tanh",), out=tmp_path
    )
    result = past_the_horizon.run(config)
    assert set(result["tasks"]) == {"as meta-trained, 10 steps", "20 steps", "tanh"}
    for row in result["tasks"].values():
        for name in ("small_fc", "STAR"):
            assert 0 <= row[name]["diverged"] <= 1 and len(row[name]["by_seed"][0]) == 2
            if row[name]["ratio"] is not None:
                np.testing.assert_allclose(row[name]["ratio"], row[name]["final_loss"] / row["Adam"]["final_loss"])
    assert (tmp_path / "past_the_horizon.png").stat().st_size > 10_000


def test_a_run_has_diverged_when_it_ends_above_its_start_or_was_not_finite():
    good = np.linspace(2, 1, 20)
    curves = np.stack(
        [good, good[::-1], np.where(np.arange(20) == 5, np.nan, good), np.where(np.arange(20) > 17, np.inf, good)]
    )
    np.testing.assert_array_equal(find_diverged(curves), [False, True, True, True])


def test_costs_are_of_one_run_and_relative_to_adam(tmp_path):
    size, rows = measure_costs({"learnable-momentum": learnable_momentum()}, 8, turns=2)
    assert size == 784 * 8 + 8 + 8 * 8 + 8 + 8 * 10 + 10
    assert rows["adam"].ratio == 1.0
    np.testing.assert_allclose(rows["adam"].state, 2, atol=0.01)
    np.testing.assert_allclose(rows["learnable-momentum"].state, 1, atol=0.01)
    for cost in rows.values():
        np.testing.assert_allclose(cost.nanoseconds * size, cost.milliseconds * 1e6)
        np.testing.assert_allclose(cost.ratio, cost.milliseconds / rows["adam"].milliseconds)
    result = optimizer_cost.run(OptimizerCostConfig(("learnable-sgd",), (4,), 1, tmp_path))
    assert "learnable-sgd" in optimizer_cost.format_result(result) and (tmp_path / "optimizer_cost.png").exists()
    with pytest.raises(UnknownNameError):
        optimizer_cost.run(OptimizerCostConfig(("learnable-sdg",), (4,), 1, tmp_path))

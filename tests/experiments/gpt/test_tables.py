"""Generators on a table that they never met, at toy size, and the rule of the verdict."""

import numpy as np
import pytest

from experiments.gpt import tables
from experiments.gpt._rows import gradient_steps


def test_it_runs_and_leaves_table_and_picture(tmp_path, monkeypatch, fit_only):
    trained_on, fit = [], fit_only()

    def spy(generator, params, losses, fitting, *rest):
        trained_on.append((params, losses, fitting.steps))
        return fit(generator, params, losses, fitting, *rest)

    monkeypatch.setattr(tables, "fit", spy)
    config = tables.TablesConfig(
        tables=("wine",), methods=("regression",), seeds=1, runs=20, train_steps=12, steps=4, width=8, prompts=3,
        out=tmp_path,
    )  # fmt: skip
    result = tables.run(config)
    [(params, losses, steps)] = trained_on
    wine = tables.record(config, "wine", None)
    np.testing.assert_array_equal(params, wine.params)  # nothing of the table that is never used
    np.testing.assert_array_equal(losses, wine.losses)
    assert steps == 4
    assert set(result["start_loss"]) == {"wine", "iris"} and set(result["rows"]) >= {
        "regression",
        "single gradient step",
    }
    near = result["rows"]["nearest stored one of this table"]["wine"][0]
    assert near["loss"] == pytest.approx(result["wished"]["wine"][0], abs=0.1)  # it is stored with about that loss
    assert result["rows"]["the present network"]["wine"][0]["r2"] <= 0  # one loss for all wishes
    for step in (by[0] for by in result["rows"]["single gradient step"].values()):
        assert step["loss"] <= min(step["achieved"]) + 1e-6  # the best step, whatever was wished
    assert (tmp_path / "gpt_tables.png").stat().st_size > 5_000
    assert result["claim"]["verdict"] in tables.format_result(result)


def test_the_step_of_least_loss_and_those_nearest_to_a_wish():
    """Along the gradient of half the square of x - 1, a step of length s leaves (1 - s)^2 of the loss."""
    starts, wished = np.zeros((2, 3), np.float32), np.float32([[1.4, 0.2], [0.5, 0.0]])
    toward, least = gradient_steps(lambda x: 0.5 * ((x - 1) ** 2).sum(), starts, wished)
    np.testing.assert_allclose(least, 1, atol=1e-6)
    np.testing.assert_allclose(0.5 * ((toward - 1) ** 2).sum(-1), wished, atol=0.1)  # the lengths are a grid


def test_the_verdict_follows_its_rule():
    def claim(r2, loss, near=(-1.0, 2.0)):
        found = {
            "flow": (r2, loss), "regression": (-2.0, 2.0), "single gradient step": (0.1, 0.4),
            "constant: aligned mean": (-1.0, 1.0), "nearest stored checkpoint": near,
        }  # fmt: skip
        rows = {name: {"iris": [{"r2": a, "loss": b}]} for name, (a, b) in found.items()}
        return tables.judge_claim(rows, ("flow", "regression"), "iris")

    assert claim(0.6, 0.3)["verdict"] == "reproduced" and claim(0.6, 0.3)["first"] == "No trivial row is as good."
    assert claim(0.3, 0.3)["verdict"] == "open"
    assert claim(0.6, 0.5)["verdict"] == claim(-0.1, 0.3)["verdict"] == "not reproduced"
    assert "nearest stored checkpoint" in claim(0.6, 0.3, (0.59, 0.9))["first"]


def test_what_is_refused():
    with pytest.raises(ValueError, match=r"not among --tables.* got wine"):
        tables.run(tables.TablesConfig(never_used="wine"))

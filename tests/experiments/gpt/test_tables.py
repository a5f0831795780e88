"""Generators on a table that they never met, at toy size, and the rule of the verdict."""

import pytest

from experiments.gpt import tables


def test_it_runs_and_leaves_table_and_picture(tmp_path):
    config = tables.TablesConfig(
        tables=("wine",), methods=("regression",), seeds=1, runs=20, train_steps=12, steps=4, width=8, prompts=3,
        out=tmp_path,
    )  # fmt: skip
    result = tables.run(config)
    assert set(result["start_loss"]) == {"wine", "iris"} and set(result["rows"]) >= {
        "regression",
        "single gradient step",
    }
    near = result["rows"]["nearest stored one of this table"]["wine"][0]
    assert near["loss"] == pytest.approx(result["wished"]["wine"][0], abs=0.1)  # it is stored with about that loss
    assert result["rows"]["the present network"]["wine"][0]["r2"] <= 0  # one loss for all wishes
    assert (tmp_path / "gpt_tables.png").stat().st_size > 5_000
    assert result["claim"]["verdict"] in tables.format_result(result)


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

"""Scaling of generators at toy size, and the rules of its verdicts."""

import pytest

from experiments.gpt import _arms, scaling


def test_it_runs_and_leaves_table_and_picture(tmp_path, monkeypatch, fit_only):
    monkeypatch.setattr(_arms, "fit", fit_only())
    config = scaling.ScalingConfig(
        hidden=3, runs=(8,), sizes=((8, 1),), operations=1e6, batch=4, train_steps=20, sampler=2, judged=3, prompts=3,
        beyond=(1.0, 0.5), out=tmp_path,
    )  # fmt: skip
    result = scaling.run(config)
    [row] = result["rows"]
    assert row["runs"] == 8 and row["steps"] % 20 == 0
    # The generator stays the identity: each network is left where it was, whatever is wished, and no wish is met.
    assert row["beyond"] == pytest.approx([row["loss"]] * 2) and row["loss"] > result["least"]
    assert max(row["r2"]) <= 0 and row["r2_seen"] <= 0
    assert (tmp_path / "gpt_scaling.png").stat().st_size > 5_000
    text = scaling.format_result(result)
    assert "more runs: " in text and "beyond the best: not reproduced" in text
    # One size and one number of runs: compared with itself, which is neither better nor worse.
    same = {"verdict": "open", "differences": [[0.0, 0.0, 0.0]]}
    assert result["claims"]["more weights"] == result["claims"]["more runs"] == same


def row(weights, runs, r2, beyond):
    return {"weights": weights, "runs": runs, "r2": [r2, r2 + 0.01, r2 - 0.01], "beyond": beyond}


def test_the_verdicts_follow_their_rules():
    rows = [row(1, 4, 0.5, [1.0, 0.9]), row(1, 8, 0.8, [1.0, 0.3]), row(2, 4, 0.5, [1, 1]), row(2, 8, 0.9, [1.0, 0.05])]
    claims = scaling.judge_claims(rows, [1.0, 0.5], 0.1)
    assert [claims[name]["verdict"] for name in claims] == ["reproduced"] * 3
    rows[2]["r2"] = [0.95, 0.96, 0.94]  # at one size, fewer runs are better
    assert scaling.judge_claims(rows, [1.0, 0.5], 0.1)["more runs"]["verdict"] == "not reproduced"
    assert scaling.judge_claims(rows, [1.0, 0.5], 0.04)["beyond the best"]["verdict"] == "not reproduced"


def test_what_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"--runs must be at least 2 each.* got \(1,\)"):
        scaling.run(scaling.ScalingConfig(runs=(1,), out=tmp_path))

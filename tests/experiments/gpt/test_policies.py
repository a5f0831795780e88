"""The experiment on policies at toy size, and its rule."""

import json

import pytest

from experiments.gpt import policies


def test_it_runs_and_leaves_table_and_picture(tmp_path, monkeypatch, fit_only):
    monkeypatch.setattr(policies, "fit", fit_only("diffusion"))
    config = policies.PolicyConfig(
        seeds=1, runs=36, updates=11, episodes=3, horizon=40, judged_by=3, steps=20, width=8, prompts=3, out=tmp_path
    )
    result = policies.run(config)
    assert set(result["rows"]) > {"regression", "flow", "diffusion", "nearest stored checkpoint"}
    assert json.loads((tmp_path / "result.json").read_text())["verdict"] == result["verdict"]
    assert (tmp_path / "policies.png").stat().st_size > 5_000
    assert "best return" in policies.format_result(result)


@pytest.mark.parametrize(
    ("diffusion", "regression", "begins"),
    [(0.95, 0.4, "Reproduced"), (0.7, 0.4, "Open"), (0.3, 0.2, "Not reproduced"), (0.95, 0.96, "As good as diffusion")],
)
def test_the_verdict_follows_the_rule(diffusion, regression, begins):
    scores = {"nearest stored checkpoint": 0.1, "diffusion": diffusion, "regression": regression}
    rows = {name: [{"alignment": score}] for name, score in scores.items()}
    assert policies.verdict(rows).startswith(begins)

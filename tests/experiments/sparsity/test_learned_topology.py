"""The learned rule against RigL: the verdict, what a rule says, and a toy run that continues."""

import dataclasses
import json

import numpy as np
import pytest

from experiments.sparsity import learned_topology
from metalearn_models.sparsity.rules import rigl_theta

TOY = dataclasses.replace(
    learned_topology.PRESETS["quick"],
    held_out=("digits",),
    hidden=(4,),
    steps=22,
    window=11,
    pairs=1,
    outer_steps=2,
    seeds=1,
    networks=2,
)


def test_the_verdict_needs_every_held_out_set():
    below, across, above = [-0.2, -0.3, -0.1], [0.0, -0.1, 0.1], [0.2, 0.1, 0.3]
    assert learned_topology.judge({"a": below, "b": below}) == "ahead"
    assert learned_topology.judge({"a": above, "b": above}) == "behind"
    assert (
        learned_topology.judge({"a": below, "b": across}) == learned_topology.judge({"a": below, "b": above}) == "level"
    )


def test_a_rule_is_described_in_steps():
    found = learned_topology.describe(learned_topology.with_every(rigl_theta(alpha=1.2), 25), 200)
    assert found["every"] == 25 and found["end"] == 150 and found["alpha"] == 1
    assert found["grow"] == {"weight": 0, "gradient": 1, "mean": 0, "age": 0, "noise": 0}


@pytest.mark.slow
def test_a_toy_run_keeps_its_meta_training(monkeypatch, tmp_path):
    monkeypatch.setattr(learned_topology, "GRID", {"alpha": (0.3,), "every": (2,), "end": (0.5, 1.0)})
    config = dataclasses.replace(TOY, out=tmp_path)
    result = learned_topology.run(config)
    (kept,) = (tmp_path / "cells").glob("theta-0-*.json")
    theta = json.loads(kept.read_bytes())["result"]
    assert len(theta) == 5 and theta[0] != [1, 0, 0, 0, 0]
    assert np.isfinite(result["table"]["digits"]["learned - RigL"]).all()
    monkeypatch.setattr(learned_topology, "meta_train_seeds", lambda *args, **options: pytest.fail("trained again"))
    again = learned_topology.run(config)
    assert again["thetas"] == result["thetas"] and again["table"] == result["table"]
    assert "verdict" in learned_topology.format_result(again)

"""The brain surgeon's comparison: the rule of its verdict, and a toy run."""

import json

import pytest

from experiments.sparsity import brain_surgeon
from experiments.sparsity.brain_surgeon import BrainSurgeonConfig


def made_up(surgeon, damage=70.0):
    """Two decays of two seeds; the best magnitude is layer-wise at decay 1."""

    def rows(score):
        return [[score / 100] * 4, [score / 100 + 0.001] * 4]

    at_0 = {"global magnitude": 50, "layer-wise magnitude": 40, "damage": 99, "surgeon": 99}
    at_1 = {"global magnitude": 45, "layer-wise magnitude": 60, "damage": damage, "surgeon": surgeon}
    return {d: {name: rows(s) for name, s in row.items()} for d, row in (("0", at_0), ("1", at_1))}


@pytest.mark.parametrize(
    ("surgeon", "damage", "verdict"),
    [(76, 70, "reproduced"), (74, 70, "not reproduced"), (90, 91, "not reproduced")],
)
def test_the_surgeon_is_held_to_the_best_magnitude_at_its_decay(surgeon, damage, verdict):
    got = brain_surgeon.summarise(made_up(surgeon, damage))
    assert got["best"] == {"decay": "1", "method": "layer-wise magnitude"}
    assert got["over magnitude"][0] == pytest.approx(surgeon - 60)
    assert got["over damage"][0] == pytest.approx(surgeon - damage)
    assert got["verdict"] == verdict


def test_a_toy_run_measures_every_method(tmp_path, monkeypatch):
    monkeypatch.setattr(brain_surgeon, "SPARSITIES", (0.9,))
    config = BrainSurgeonConfig(seeds=1, decays=(0.1,), steps=3, gradients=4, rounds=1, out=tmp_path)
    result = brain_surgeon.run(config)
    rows = result["scores"]["0.1"]
    assert rows["damage"] == rows["damage, once"]  # one round
    assert all(0 <= score <= 1 for row in rows.values() for scores in row for score in scores)
    assert (tmp_path / "brain_surgeon.png").exists()
    assert "verdict" in brain_surgeon.format_result(json.loads((tmp_path / "result.json").read_text()))

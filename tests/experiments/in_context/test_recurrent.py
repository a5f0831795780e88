"""The experiment on recurrent networks: configurations, arithmetic of the summary, end to end at toy size."""

import dataclasses
import json

import jax
import pytest

from experiments.in_context import recurrent
from experiments.in_context.recurrent import ASKED, PRESETS, Settings, summarise
from experiments.suite import run as suite
from metalearn.recipes.in_context.presets import PRESETS as TRAINING
from metalearn.runs.json_values import as_json, finite_or_null
from metalearn_models.learners.lstm import LSTMConfig
from metalearn_models.learners.outer_lstm import OuterLSTMConfig
from tests.metalearn.sweeps.sweep_cells import Recorded


def test_cells_and_configurations():
    found = recurrent.cells(PRESETS["standard"])
    assert len(found) == len({tuple(c.items()) for c in found}) == 12
    config = recurrent.config(Settings(steps=900), {"learner": "outer-lstm", "initial": "paper", "seed": 2})
    assert config.learner == OuterLSTMConfig(96, 1, "pair", "paper")
    assert (config.seed, config.family.seed, config.steps, config.evaluate_every) == (2, 2, 900, 300)
    preset = TRAINING["lstm"][1]
    assert (
        recurrent.config(Settings(steps=900), found[0]).learner == preset.learner == LSTMConfig(320, "pair", "matching")
    )


def hand_made(lstm=(0.4, 0.6, 0.8), outer=(0.6, 0.7, 0.7)):
    def score(value):
        return {"accuracy": {"digits": value, "iris": value + 0.1}, "curve": [0.1, value]}

    rows = []
    for name, values in (("lstm", lstm), ("outer-lstm", outer)):
        for seed, value in enumerate(values):
            for initial, after in (("matching", value), ("paper", 0.1)):
                row = {"learner": name, "initial": initial, "seed": seed, "before": score(0.2), "after": score(after)}
                if (name, initial) == ("lstm", "matching"):
                    row["references"] = {"1-NN": score(0.73), "nearest centroid": score(0.7)}
                rows.append(row)
    return rows


def test_the_rule():
    def verdict(**values):
        return summarise(Settings(), hand_made(**values))["verdict"]

    assert verdict() == "open", "an interval of three seeds from .4 to .8 reaches below .35"
    assert verdict(lstm=(0.6, 0.61, 0.62), outer=(0.6, 0.61, 0.62)) == "reproduced"
    assert verdict(lstm=(0.6, 0.61, 0.62), outer=(0.41, 0.42, 0.43)) == "not reproduced"
    assert verdict(lstm=(0.6,), outer=(0.6,)) == "open"
    found = summarise(Settings(), hand_made(lstm=(0.6, 0.61, 0.62)))
    assert found["points"]["lstm, matching, after"]["iris"][0] == pytest.approx(0.71)
    assert found["points"]["1-NN"]["digits"][0] == pytest.approx(0.73)
    assert "LSTM from paper weights 0.100" in found["words"] and "(before 0.200)" in found["words"]


def test_it_runs_end_to_end_at_toy_size(tmp_path, monkeypatch, shared_programs):
    small = {"lstm": LSTMConfig(320, "pair", "matching"), "outer-lstm": OuterLSTMConfig(74, 1, "pair", "matching")}
    tiny = {
        name: (
            "",
            dataclasses.replace(
                preset := TRAINING[name][1], learner=small[name], batch=4, eval_tasks=2, steps_per_call=2,
                family=dataclasses.replace(preset.family, length=24),
            ),
        )
        for name in ASKED
    }  # fmt: skip
    monkeypatch.setattr(recurrent, "TRAINING", tiny)
    monkeypatch.setattr(recurrent, "references", lambda signature: {})
    chosen = [{"learner": "outer-lstm", "initial": "matching", "seed": 0}]
    monkeypatch.setattr(recurrent, "EXPERIMENT", recurrent.EXPERIMENT._replace(cells=lambda settings: chosen))
    settings = Settings(1, 2, ("iris",), tasks=16)
    with jax.numpy_dtype_promotion("standard"):  # optax's bias correction takes a float to an integer power
        result = suite.run("experiments.in_context.recurrent", settings, tmp_path, workers=0, watch=Recorded())
    assert not result["failed"] and result["summary"]["verdict"] == "open"
    (row,) = result["rows"]
    assert row["before"]["accuracy"]["digits"] > 0.3, "matching weights know something before meta-training"
    assert row["before"]["accuracy"]["iris"] > 0.6 and row["value"] == row["after"]["accuracy"]["digits"]
    assert (tmp_path / "recurrent.png").exists()


def test_picture_and_table_of_hand_made_rows(tmp_path):
    rows = hand_made()
    result = {"rows": rows, "summary": summarise(Settings(), rows)}
    result = json.loads(json.dumps(finite_or_null(as_json(result)), allow_nan=False))
    assert "outer-lstm, paper, before" in recurrent.table(result) and "iris" in recurrent.table(result)
    recurrent.draw(result, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 10_000

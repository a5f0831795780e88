"""The comparison of pruning methods: its claims on made-up outcomes, and a toy run that continues."""

import dataclasses
import json

import numpy as np
import pytest

from experiments.sparsity import shrinkbench
from experiments.sparsity._methods import METHODS
from experiments.sparsity._networks import load_task
from experiments.suite.cells import remember
from metalearn.errors import DataNotPreparedError, UnknownNameError

COMPRESSIONS = (4.0, 8.0, 16.0)
TOY = dataclasses.replace(
    shrinkbench.PRESETS["quick"],
    pairs=("digits, MLP 64-64",),
    seeds=1,
    steps=3,
    tune_steps=2,
    compressions=(8.0,),
    gradients=4,
    rounds=2,
)


def made_up(**top1):
    """A pair of two seeds; speed-up is compression, and twice that of layer-wise methods."""

    def points(name, best):
        factor = 2.0 if name.startswith("layer") else 1.0
        return [[[c, factor * c, best - 0.01 * c + 0.001 * seed, 1.0] for seed in (0, 1)] for c in COMPRESSIONS]

    names = {"random": 0.5, "global_magnitude": 0.9, "layer_wise_magnitude": 0.85} | top1
    methods = {
        name.replace("_", " ").replace("layer wise", "layer-wise"): points(name, best) for name, best in names.items()
    }
    return {"unpruned": [[1, 1, 0.95, 1.0]] * 2, "methods": methods}


def test_claims_are_differences_at_equal_compression_and_at_equal_speed_up():
    got = shrinkbench.summarise({"a conv": made_up()}, COMPRESSIONS)
    assert got["claims"]["magnitude - random"][0] == pytest.approx(35)
    assert got["claims"]["global - layer-wise, per size"][0] == pytest.approx(5)
    # In range are the layer-wise points of speed-up 8 and 16, at compressions 4 and 8; the global ones are at 8 and 16.
    assert got["claims"]["layer-wise - global, per operation"][0] == pytest.approx(-5 + (4 + 8) / 2)
    assert got["verdict"] == "reproduced"
    worse = shrinkbench.summarise({"a conv": made_up(layer_wise_magnitude=0.95)}, COMPRESSIONS)
    assert worse["states"]["global - layer-wise, per size"] == "reversed"
    assert worse["verdict"] == "not reproduced"
    assert shrinkbench.summarise({"an MLP": made_up()}, COMPRESSIONS)["verdict"] == "open"


def test_cells_are_remembered_until_their_settings_change(tmp_path):
    calls = []

    def compute():
        calls.append(1)
        return [1, 2]

    for settings in ({"a": (1,)}, {"a": (1,)}, {"a": (2,)}):
        assert remember(tmp_path, "cell", settings, compute) == [1, 2]
    assert len(calls) == 2


def test_a_run_measures_every_method_and_continues(tmp_path, monkeypatch):
    config = dataclasses.replace(TOY, out=tmp_path)
    result = shrinkbench.run(config)
    pair = result["pairs"]["digits, MLP 64-64"]
    assert list(pair["methods"]) == list(METHODS)
    for points in pair["methods"].values():
        kept = [8970 / point[0][0] for point in points]
        assert kept == pytest.approx([round(8970 / 8)])
        assert all(0 <= point[0][2] <= point[0][3] <= 1 for point in points)
    assert (tmp_path / "digits-mlp-64-64.png").exists()
    text = shrinkbench.format_result(json.loads((tmp_path / "result.json").read_text()))
    assert "brain surgeon" in text
    assert "verdict: open" in text
    monkeypatch.setattr("experiments.sparsity.shrinkbench.report", None)  # nothing is measured again
    again = shrinkbench.run(config)
    assert again["pairs"] == result["pairs"]


def test_pairs_whose_data_are_not_here_are_left_out():
    with pytest.raises(DataNotPreparedError):
        shrinkbench.run(dataclasses.replace(TOY, pairs=("MNIST, LeNet-300-100",), mnist="./nowhere"))
    with pytest.raises(UnknownNameError, match="digits, MLP 64-64"):
        load_task("digits, MLP", "mnist")
    assert np.isfinite(load_task("digits, MLP 64-64", "mnist").data.test.inputs).all()

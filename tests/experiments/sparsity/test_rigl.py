"""The figure of RigL: its claims on made-up outcomes, and a toy run that continues."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from experiments.sparsity import _step_cost, _training, rigl
from experiments.sparsity._training import Cell, model_of
from metalearn.errors import DataNotPreparedError
from metalearn_tasks import datasets


def made_up(**accuracy):
    """Two seeds of every method at 98 %, and of RigL with five times the steps at 90 %."""
    means = {"pruning": 0.95, "rigl": 0.94, "set": 0.93, "static": 0.92, "small-dense": 0.9} | accuracy
    row = dict(network="lenet", length=1, flops=0.02, connections=10)
    rows = [
        row | dict(method=m, sparsity=0.98, seed=s, accuracy=a + 0.001 * s, loss=1 - a + 1e-4 * s)
        for m, a in means.items()
        for s in (0, 1)
    ]
    for s in (0, 1):
        rows.append(row | dict(method="dense", sparsity=0.0, seed=s, accuracy=0.96 + 0.001 * s, loss=0.01))
        rows.append(row | dict(method="rigl", sparsity=0.9, seed=s, accuracy=0.957 + 0.001 * s, loss=0.01, length=5))
    return rows


def test_the_verdict_follows_its_rule():
    found = rigl.summarise(made_up())
    assert found["verdict"] == "reproduced" and len(found["claims"]) == 6
    swapped = rigl.summarise(made_up(static=0.935))
    assert swapped["verdict"] == "not reproduced" and swapped["words"] == "lenet 98%: set > static"
    noisy = made_up()
    noisy[4]["accuracy"], noisy[5]["accuracy"] = 0.90, 0.935  # set: its mean is below static, the interval is wide
    assert rigl.summarise(noisy)["verdict"] == "open"
    worse = [row | {"accuracy": 0.9} if row["length"] == 5 else row for row in made_up()]
    assert "lenet 90%: rigl with 5x" in rigl.summarise(worse)["words"]


def test_each_network_is_judged():
    """A network cannot hide behind another one."""
    rows = made_up() + [row | {"network": "conv"} for row in made_up(static=0.935)]
    found = rigl.summarise(rows)
    assert len(found["claims"]) == 12 and found["words"] == "conv 98%: set > static"


def test_small_dense_networks_fit_the_budget_of_sparse_ones():
    """784-7-10 and 784-3-10 at 98 and 99 %, and the same kind of network for convolutions."""
    for budget, width in ((5_324 + 410, 7), (2_662 + 410, 3)):
        layers = model_of("lenet", (28, 28), budget).network.init(jax.random.key(0))
        assert [layer["weight"].shape for layer in layers] == [(784, width), (width, 10)]
    full, small = (model_of("conv", (28, 28, 1), b).network.init(jax.random.key(0)) for b in (None, 5_000))
    sizes = [sum(x.size for x in jax.tree.leaves(p)) for p in (full, small)]
    assert model_of("conv", (14, 14)).places == {"0/weight": 49, "1/weight": 16, "2/weight": 4}
    assert sizes[0] == 160 + 4_640 + 18_496 + 650 and 4_000 < sizes[1] <= 5_000


@pytest.fixture
def tiny(monkeypatch):
    """Noise in the place of MNIST: 256 training and 64 test images."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(320, 28, 28)).astype(np.float32), np.arange(320) % 10
    data = datasets.load((x[:256], y[:256], x[256:], y[256:]))
    monkeypatch.setattr(rigl.datasets, "load", lambda source, size: data)
    return data


def test_a_toy_run_continues_and_counts_its_connections(tiny, tmp_path, monkeypatch):
    config = dataclasses.replace(
        rigl.PRESETS["quick"], methods=("dense", "rigl"), sparsities=(0.98,), long=(), steps=4, seeds=1, out=tmp_path
    )
    result = rigl.run(config)
    by_method = {row["method"]: row for row in result["summary"]}
    assert by_method["rigl"]["connections"] == 5_324 and by_method["dense"]["connections"] == 266_200
    assert by_method["rigl"]["flops"] == pytest.approx(0.0232343, abs=1e-6) and by_method["dense"]["flops"] == 1
    (path,) = (tmp_path / "cells").glob("lenet-rigl*")
    kept = json.loads(path.read_bytes())
    kept["result"]["accuracy"] = 0.5
    path.write_text(json.dumps(kept))
    again = rigl.run(config)
    assert next(r for r in again["summary"] if r["method"] == "rigl")["accuracy"][0] == 0.5
    assert "rigl" in rigl.format_result(again) and (tmp_path / "rigl.png").stat().st_size > 1_000

    def train_cell(*_):
        raise AssertionError("trained again")

    monkeypatch.setattr(rigl, "train_cell", train_cell)
    rigl.run(config)
    with pytest.raises(AssertionError, match="trained again"):  # other images
        rigl.run(dataclasses.replace(config, mnist="kmnist"))


def test_unknown_names_and_missing_data_are_said(monkeypatch, tmp_path):
    with pytest.raises(ValueError, match=r"--methods takes dense, .*, got snip"):
        rigl.run(dataclasses.replace(rigl.PRESETS["quick"], methods=("snip",)))

    def missing(source, size):
        raise DataNotPreparedError("no mnist here")

    monkeypatch.setattr(rigl.datasets, "load", missing)
    result = rigl.run(dataclasses.replace(rigl.PRESETS["quick"], out=tmp_path))
    assert rigl.format_result(result) == "skipped, no MNIST here: no mnist here" and not list(tmp_path.iterdir())


def test_every_method_has_its_formula():
    shapes = {"0/weight": (784, 300), "1/weight": (300, 100), "2/weight": (100, 10)}
    dense = 3 * 2 * 266_200
    share = {
        m: _training._training_flops(Cell("lenet", m, 0.9, 1, 0), shapes, {}, 4_000, 100) / dense
        for m in _training.METHODS
    }
    assert share["dense"] == 1 and share["static"] == share["set"] == pytest.approx(0.1)
    assert share["snfs"] == pytest.approx((2 * 0.1 + 1) / 3)
    assert share["rigl"] == share["rigl-released"] == pytest.approx(0.10297, abs=1e-5)
    assert 0.3 < share["pruning"] < 0.5


def test_costs_of_a_step_are_over_the_dense_one():
    found = _step_cost.measure(steps=2, repeats=1, batch=2)
    assert found["dense"] == (1.0, 1.0) and set(found) > {"static", "RigL", "RigL, with due"}
    assert all(ratio > 0 for ratios in found.values() for ratio in ratios)

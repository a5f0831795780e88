"""Truly sparse against masked and dense: equal curves at toy size, the claims, the formula, and a toy run."""

import dataclasses
import json

import numpy as np
import pytest

from experiments.sparsity import truly_sparse
from experiments.sparsity._scale import predicted_bytes
from experiments.sparsity._set_mlp import FORMS, connections_of, narrow_width
from experiments.sparsity.truly_sparse import TrulySparseConfig
from metalearn_tasks import datasets
from metalearn_tasks.datasets import Split

LARGE = {
    "neurons": 8, "connections": 9, "step_seconds": 0.1, "epoch_seconds": 1.0, "evolve_seconds": 1.0, "peak_before": 1,
    "peak_training": 2, "peak_process": 3, "bytes": 4.0, "per connection": 5.0, "first_loss": 2.0, "last_loss": 1.0,
}  # fmt: skip


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """A configuration and its result: four forms, which SET changes twice, on 256 digits."""
    data = datasets.load("digits")
    small = dataclasses.replace(data, train=Split(data.train.inputs[:256], data.train.labels[:256]))
    config = TrulySparseConfig("few", (16, 16), 2.0, 3, (0.1,), 1, 64, (4,), out=tmp_path_factory.mktemp("sparse"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(truly_sparse, "FORMS", {k: FORMS[k] for k in ("ELL, SET", "masked, SET", "dense", "small dense")})
        patch.setattr(truly_sparse, "_in_a_process", lambda words: LARGE)
        patch.setattr(datasets, "load", {"few": small}.__getitem__)
        yield config, truly_sparse.run(config)


def test_ell_and_masked_have_the_same_curve(toy):
    ell, masked = (toy[1]["forms"][name]["runs"][0][0] for name in ("ELL, SET", "masked, SET"))
    np.testing.assert_allclose(ell["curve"], masked["curve"], rtol=1e-4)
    assert ell["accuracy"] == pytest.approx(masked["accuracy"], abs=0.01) and ell["bytes"] < masked["bytes"]
    assert ell["curve"][2] < ell["curve"][0]


def test_connections_and_the_small_network_that_has_as_many():
    count = connections_of(784, (300, 300), 10, 20.0)
    assert count == 300 * round(20 * 1084 / 300) + 300 * 40 + 300 * 10
    width = narrow_width(784, (300, 300), 10, 20.0)
    assert abs(794 * width + width**2 - count) <= 794


def test_the_formula_counts_arrays():
    """16 bytes per connection, 8 per place of the transpose, 12 per output weight, 32 per neuron and example."""
    got = predicted_bytes(10, (10,), 2, 1.5, 4)
    places = 10 * 10  # three inputs per neuron; 3 + 3 sqrt(3) + 1, rounded up, is the ten outputs there are
    assert got["connections"] == 30 and got["bytes"] == 16 * 30 + 8 * places + 12 * 20 + 32 * 10 * 4


def form(accuracy, curves=((2.0, 1.0), (2.0, 1.1), (2.0, 0.9))):
    runs = [{"accuracy": a, "curve": list(c)} for a, c in zip(accuracy, curves, strict=True)]
    return {"runs": [runs], "best": 0}


def test_claims_follow_from_the_numbers():
    good = (0.95, 0.951, 0.952)
    worse, level = (0.93, 0.931, 0.932), (0.951, 0.95, 0.953)
    large = [{"neurons": 1_000_000, "peak_process": 2**30, "first_loss": 2.0, "last_loss": 1.0}]
    forms = {"ELL, SET": form(good), "masked, SET": form(good), "dense": form(worse), "small dense": form(worse)}
    assert truly_sparse.summarise(forms, large)["verdict"] == "reproduced"
    assert truly_sparse.summarise({**forms, "dense": form(level)}, large)["verdict"] == "open"
    assert truly_sparse.summarise({**forms, "ELL, SET": form(worse)}, large)["verdict"] == "open"
    assert truly_sparse.summarise({**forms, "dense": form((0.97, 0.971, 0.972))}, large)["verdict"] == "not reproduced"
    apart = form(good, ((2.01, 1.0), (2.0, 1.1), (2.0, 0.9)))
    assert truly_sparse.summarise({**forms, "masked, SET": apart}, large)["claims"]["equal curves"]["state"] == "fails"
    rising = [{**large[0], "last_loss": 2.5}]
    assert truly_sparse.summarise(forms, rising)["claims"]["scale"]["state"] == "fails"
    assert truly_sparse.summarise(forms, [])["claims"]["scale"]["state"] == "open"


def test_a_toy_run_continues_from_its_folder(toy, monkeypatch):
    config, result = toy
    assert "verdict: " in truly_sparse.format_result(result) and (config.out / "truly_sparse.png").exists()
    monkeypatch.setattr(truly_sparse, "train", lambda *args: pytest.fail("a form was trained again"))
    assert truly_sparse.run(config)["forms"] == result["forms"]
    assert json.loads((config.out / "result.json").read_text())["forms"] == result["forms"]

"""Pitfalls of comparisons: the rescaled network is the same function, and made-up outcomes give known differences."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from experiments.sparsity import pitfalls
from metalearn_models.networks import conv

COMPRESSIONS = (8.0, 16.0)


def made_up(seed, layerwise_factor):
    """Global is 5 points better per size; the layer-wise speed-up is the compression times a factor."""

    def curve(factor, best):
        return [[c, factor * c, best - 0.01 * c + 0.001 * seed, 1.0] for c in COMPRESSIONS]

    def shot(top1):
        return [4, 4, top1 + 0.001 * seed, 1.0]

    return {
        "one shot": {
            "as trained": {"global magnitude": shot(0.9), "layer-wise magnitude": shot(0.8)},
            "rescaled": {"global magnitude": shot(0.3), "layer-wise magnitude": shot(0.8)},
        },
        "unpruned": {"brief": shot(0.7), "trained": shot(0.95)},
        "random, brief": shot(0.75),
        "global, trained": shot(0.9),
        "curves": {"global magnitude": curve(1.0, 0.9), "layer-wise magnitude": curve(layerwise_factor, 0.85)},
    }


def test_differences_and_states_follow_the_rule():
    got = pitfalls.summarise([made_up(seed, 2.0) for seed in (0, 1)], COMPRESSIONS)
    means = [[interval[0] for interval in pitfall["differences"].values()] for pitfall in got.values()]
    # One layer-wise point, of compression 8, has a speed-up in range: 16, where the global one has compression 16.
    np.testing.assert_allclose(means, [[10, -50], [10, -15], [5, 5 - 8]], atol=1e-6)
    assert [pitfall["state"] for pitfall in got.values()] == ["shown"] * 3
    same = pitfalls.summarise([made_up(seed, 1.0) for seed in (0, 1)], COMPRESSIONS)
    assert list(same.values())[2]["state"] == "not shown"
    assert pitfalls._state([[1.0, -0.5, 2.5], [-1.0, -2.0, -0.5]]) == "open"


def test_the_rescaled_network_computes_the_same_function():
    network = conv((8, 8), (3, 4), 10)
    params = network.init(jax.random.key(0))
    params = jax.tree.map(lambda leaf: leaf + 0.1, params)  # biases too
    image = jax.random.normal(jax.random.key(1), (64,))
    rescaled = pitfalls.rescale(params, 8.0)
    np.testing.assert_allclose(network.apply(rescaled, image), network.apply(params, image), rtol=1e-4)
    assert (rescaled[0]["weight"] != params[0]["weight"]).all()


def test_a_toy_run_writes_its_result(tmp_path, monkeypatch):
    monkeypatch.setattr(pitfalls, "PAIR", "digits, MLP 64-64")  # compiles faster
    config = dataclasses.replace(
        pitfalls.PRESETS["quick"],
        seeds=1,
        steps=2,
        brief_steps=1,
        tune_steps=1,
        compressions=COMPRESSIONS,
        out=tmp_path,
    )
    result = pitfalls.run(config)
    (cell,) = result["cells"]
    sizes = [point[0] for points in cell["curves"].values() for point in points]
    assert sizes == pytest.approx([*COMPRESSIONS] * 2, rel=1e-3)
    assert (tmp_path / "pitfalls.png").exists()
    assert "verdict: open" in pitfalls.format_result(json.loads((tmp_path / "result.json").read_text()))

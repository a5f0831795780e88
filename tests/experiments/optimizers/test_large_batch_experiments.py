"""Compression and batch sizes at toy size: runs against plain loops, bytes against formulas, verdicts by rules."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.optimizers import batch_size, compression
from experiments.optimizers._compression_methods import METHODS
from experiments.optimizers.neurons.tasks import Task, draw_data, init, loss

SCRIPT = """
import json, pathlib, tempfile
from experiments.optimizers import compression as c
folder = pathlib.Path(tempfile.mkdtemp())
methods = "all-reduce", "DiLoCo, 8 steps"
config = c.CompressionConfig(("mixed",), methods, (8,), 8, 2, 20, 2, 1, (0.03, 0.1), folder)
first = c.run(config)
again = c.run(config)
assert (folder / "compression.png").stat().st_size > 10_000
first.pop("seconds"), again.pop("seconds")
print(json.dumps({"result": first, "same": first == again, "text": c.format_result({**first, "seconds": 1})}))
"""


@pytest.fixture(scope="module")
def toy(on_eight_devices):
    return json.loads(on_eight_devices(SCRIPT))


def plain_sgd(task, rows, seed, rate):
    """Training loss after SGD with momentum on the batches of all devices together."""
    data, tx = draw_data(task, seed), optax.sgd(rate, 0.9)

    @jax.jit
    def run(params):
        def step(carry, row):
            params, state = carry
            updates, state = tx.update(jax.grad(loss)(params, data.inputs[row], data.labels[row]), state)
            return (optax.apply_updates(params, updates), state), None

        (params, _), _ = jax.lax.scan(step, (params, tx.init(params)), jnp.asarray(rows))
        return loss(params, data.inputs, data.labels)

    return float(run(init(task, 64, jax.random.key(seed))))


def test_all_reduce_on_eight_devices_is_sgd_on_the_whole_batch(toy):
    row = toy["result"]["settings"]["mixed"]["all-reduce"]
    config = compression.CompressionConfig(devices=8, batch=2, steps=20)
    for seed in (0, 1):
        labels = np.asarray(draw_data(Task((8,), None, 0.0, 2, 20), seed).labels)
        rows = compression.draw_rows(config, "mixed", labels, seed).reshape(20, 16)
        expected = plain_sgd(Task((8,), None, 0.0, 2, 20), rows, seed, row["rate"])
        np.testing.assert_allclose(row["train_loss"][seed][-1], expected, rtol=1e-4)


def test_bytes_are_those_of_the_network_and_runs_are_kept(toy):
    """64 x 8 and 8 x 10 kernels on eight devices; a round of DiLoCo has eight steps."""
    sent = {name: row["bytes"] for name, row in toy["result"]["settings"]["mixed"].items()}
    whole = 2 * 7 / 8 * 4 * (64 * 8 + 8 * 10)
    assert sent == {"all-reduce": whole, "DiLoCo, 8 steps": whole / 8}
    assert toy["same"] and "verdict: open" in toy["text"] and "8.0x" in toy["text"]


def test_sorted_devices_see_an_eighth_of_the_labels_and_mixed_ones_all():
    labels = np.random.default_rng(0).integers(0, 10, 800)
    config = compression.CompressionConfig(steps=20)
    rows = labels[compression.draw_rows(config, "sorted", labels, 0)]
    spread = [len(set(rows[:, d].ravel())) for d in range(8)]
    assert max(spread) <= 3 and set(rows.ravel()) == set(range(10))
    mixed = labels[compression.draw_rows(config, "mixed", labels, 0)]
    assert min(len(set(mixed[:, d].ravel())) for d in range(8)) == 10


def rows_with(losses, accuracies, sent):
    rng = np.random.default_rng(0)
    noise = rng.normal(size=8)
    return {
        name: {
            "train_loss": (losses.get(name, 1.0) * np.exp(0.01 * noise))[:, None].tolist(),
            "test_accuracy": (accuracies.get(name, 0.95) + 1e-4 * noise * (name != "all-reduce"))[:, None].tolist(),
            "bytes": sent.get(name, 10.0),
        }
        for name in METHODS
    }


def test_the_verdict_on_compression_follows_its_rule():
    without, sent = {name: 2.0 for name in METHODS if "no feedback" in name}, {"all-reduce": 100.0}
    assert compression.judge(rows_with(without, {}, sent))["verdict"] == "reproduced"
    assert (
        compression.judge(rows_with(without, {}, sent | {"sign": 40.0, "sign, two stages": 34.0}))["verdict"] == "open"
    )
    lost = {"rank 4": 0.93, "rank 1": 0.93}
    assert compression.judge(rows_with(without, lost, sent))["verdict"] == "not reproduced"
    assert compression.judge(rows_with({}, {}, sent))["verdict"] == "open"
    helped = without | {"sign, no feedback": 0.5}
    assert compression.judge(rows_with(helped, {}, sent))["verdict"] == "not reproduced"


def test_batch_sizes_run_and_one_run_is_plain_sgd(tmp_path, monkeypatch):
    monkeypatch.setattr(batch_size, "GRID", (1.0,))  # tuning and the comparison are one program
    config = batch_size.BatchSizeConfig((500, 1500), ("SGD",), (8,), 10, 0.0, 2, 2, tmp_path)
    result = batch_size.run(config)
    text = batch_size.format_result(result)
    assert "1500, equal steps  SGD" in text and "SGD, linear" in text
    assert (tmp_path / "batch_size.png").stat().st_size > 10_000
    rows = {(r["batch"], r["budget"], r["method"]): r for r in result["rows"]}
    base, scaled = rows[500, "epochs", "SGD"]["rate"], rows[1500, "epochs", "SGD, linear"]
    assert (scaled["rate"], scaled["steps"], rows[1500, "steps", "SGD"]["steps"]) == (pytest.approx(3 * base), 10, 30)
    schedule = lambda t: base * jnp.minimum(1.0, (t + 1) / 7)  # noqa: E731
    expected = plain_sgd(Task((8,), None, 0.0, 500, 30), batch_size._draw_rows(1500, 500, 30, 0), 0, schedule)
    np.testing.assert_allclose(rows[500, "epochs", "SGD"]["train_loss"][0][-1], expected, rtol=1e-4)
    again = batch_size.run(config)
    assert {**again, "seconds": 0} == {**result, "seconds": 0}


def test_the_rate_of_the_least_training_loss_is_taken_and_the_lowest_of_those_below_the_floor(tmp_path, monkeypatch):
    asked = []

    def reach(losses):
        def train_many(config, batch, steps, name, seeds, rates):
            asked.append((list(seeds), len(rates)))
            values = np.array([losses.get(rate, 1.0) for rate in rates])
            shape = (len(rates), len(seeds), batch_size.TIMES)
            return {"train_loss": np.broadcast_to(values[:, None, None], shape), "test_accuracy": np.ones(shape)}

        monkeypatch.setattr(batch_size, "train_many", train_many)
        config = batch_size.BatchSizeConfig(seeds=2, tuning_seeds=3, out=tmp_path / str(len(asked)))
        return batch_size._measure(config, 500, 20, "SGD", None, lambda text: None)

    found = reach({0.0949: 0.2, 0.3: np.nan, 0.00949: 0.1})
    assert (found["rate"], found["edge"], len(found["tuning"])) == (0.00949, False, 9)
    assert asked == [([1000, 1001, 1002], 9), ([0, 1], 1)] and np.shape(found["train_loss"]) == (2, 10)
    assert reach({0.0949: 1e-7, 0.03: 1e-5})["rate"] == 0.03
    assert reach({3.0: 0.5})["edge"]


def test_the_verdict_on_batch_sizes_follows_its_rule():
    noise = np.random.default_rng(1).normal(size=8)

    def row(batch, budget, method, train=1.0, accuracy=0.95):
        losses, accuracies = train * np.exp(0.01 * noise), accuracy + 1e-3 * noise
        return {"batch": batch, "budget": budget, "method": method, "train_loss": losses[:, None].tolist(),
                "test_accuracy": accuracies[:, None].tolist()}  # fmt: skip

    def verdict(linear=1.0, lamb=0.5, accuracy=0.93):
        rows = [row(50, "epochs", "SGD"), row(150, "epochs", "SGD"), row(150, "epochs", "SGD, linear", linear)]
        rows += [row(1500, "epochs", "SGD"), row(1500, "epochs", "LAMB", lamb), row(1500, "epochs", "LARS", 3.0)]
        return batch_size.judge([*rows, row(1500, "steps", "SGD", accuracy=accuracy)])

    assert verdict()["verdict"] == "reproduced"
    assert verdict(linear=1.5)["parts"] == {"linear": "not reproduced", "layerwise": "reproduced", "gap": "reproduced"}
    assert verdict(lamb=2.0)["parts"]["layerwise"] == "not reproduced"
    assert verdict(accuracy=0.97)["parts"]["gap"] == "not reproduced"
    assert verdict(linear=1.5)["verdict"] == "open"

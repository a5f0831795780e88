"""The comparison on neurons: what a step computes, what is kept, how points are chosen and judged; toy size."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.optimizers.neurons import experiment as neurons
from experiments.optimizers.neurons import tasks
from experiments.optimizers.neurons.cells import Cells
from experiments.optimizers.neurons.experiment import RULE, NeuronsConfig, judge
from experiments.optimizers.neurons.methods import METHODS, Method, gradient
from experiments.optimizers.neurons.tasks import Task
from metalearn.errors import UnknownNameError

TINY = Task((6,), 40, 0.5, 10, 20)


@pytest.fixture(autouse=True)
def _optax_promotes():
    with jax.numpy_dtype_promotion("standard"):
        yield


def test_all_grids_have_as_many_points_and_dampings_where_there_are_some():
    assert {len(set(method.grid)) for method in METHODS.values()} == {24}
    for name, method in METHODS.items():
        has_damping = any(word in name for word in ("FOOF", "MAC", "KFAC", "NGD", "M-FAC", "MBF"))
        assert {damping > 0 for _, damping in method.grid} == {has_damping}, name
        assert min(rate for rate, _ in method.grid) > 0


def test_a_run_is_a_loop_over_epochs_and_warm_up_changes_nothing_but_the_batches():
    """Against a plain loop, with an optimizer that counts how often it was called."""
    data = tasks.draw_data(TINY, 3)
    redrawn = tasks.draw_data(TINY._replace(noise=0.0), 3)
    assert data.inputs.shape == (40, 64) and 0.2 < float((data.labels != redrawn.labels).mean()) < 0.7
    key = jax.random.key(3)
    found = tasks.make_training(TINY, METHODS["SGD"])(jnp.float32(0.3), jnp.float32(0), data, key, True)
    init_key, order_key, _ = jax.random.split(key, 3)
    params = tasks.init(TINY, 64, init_key)
    rows = tasks.draw_batches(TINY, 40, 20, order_key)
    np.testing.assert_array_equal(np.sort(np.asarray(rows).reshape(5, 40), 1), np.tile(np.arange(40), (5, 1)))

    @jax.jit
    def step(params, row):
        value, grads = jax.value_and_grad(tasks.loss)(params, data.inputs[row], data.labels[row])
        params = [p - 0.3 * g for p, g in zip(params, grads, strict=True)]
        return params, value, tasks.loss(params, data.inputs, data.labels)

    start = params
    for t, row in enumerate(np.asarray(rows)):
        params, value, full = step(params, row)
        np.testing.assert_allclose(found.batch_loss[t], value, rtol=1e-4)
        if t % 2:  # ten evaluations in twenty steps
            np.testing.assert_allclose(found.train_loss[t // 2], full, rtol=1e-3)
    late = Method(lambda rate, _: optax.sgd(lambda t: jnp.where(t < 5, 0.0, rate)), METHODS["SGD"].grid, gradient, 5)
    after = tasks.make_training(TINY, late)(jnp.float32(0.3), jnp.float32(0), data, key, True)
    assert after.batch_loss.shape == (20,)
    sixth = np.asarray(tasks.draw_batches(TINY, 40, 25, order_key))[5]
    np.testing.assert_allclose(after.batch_loss[0], step(start, sixth)[1], rtol=1e-4)


def test_end_to_end_and_a_second_call_trains_nothing_again(tmp_path, monkeypatch):
    monkeypatch.setitem(neurons.TASKS, "noise", TINY)
    for name in ("SGD", "Adam"):
        monkeypatch.setitem(METHODS, name, METHODS[name]._replace(grid=METHODS[name].grid[-12::4]))
    config = NeuronsConfig(("noise",), ("SGD", "Adam"), tuning_seeds=1, seeds=2, turns=1, out=tmp_path)
    result = neurons.run(config)
    assert json.loads((tmp_path / "result.json").read_text()) == result
    found = result["tasks"]["noise"]["methods"]
    for row in found.values():
        assert np.shape(row["train_loss"]) == (2, 10) and row["seconds"] > 0
        assert row["point"] == min(row["grid"], key=lambda point: point[2])[:2]
    assert result["verdicts"]["noise"]["verdict"] == "open"
    assert "without FOOF, T=1, KFAC, heuristic" in result["verdicts"]["noise"]["words"]
    assert "noise, 20 updates" in neurons.format_result(result) and "x SGD" in neurons.format_result(result)
    assert (tmp_path / "neurons-noise.png").stat().st_size > 10_000
    lines = (tmp_path / "noise" / "grid.jsonl").read_text().splitlines()
    assert len(lines) == 6
    (tmp_path / "noise" / "grid.jsonl").write_text("\n".join([*lines, lines[0][:40]]))  # a line that was cut short
    monkeypatch.setattr(Cells, "train", lambda *args: pytest.fail("this run was known"))
    monkeypatch.setattr(neurons, "_time", lambda *args: {"SGD": 1.0, "Adam": 2.0})
    assert neurons.run(config)["tasks"]["noise"]["methods"]["SGD"]["grid"] == found["SGD"]["grid"]
    assert (tmp_path / "noise" / "grid.jsonl").read_text().endswith("\n")  # the next run begins a line


def test_a_run_is_known_by_the_constants_of_its_method(tmp_path):
    """Two instances give one line; another momentum gives a second one, and its own numbers."""

    def kept(momentum):
        cells = Cells(tmp_path / "runs.jsonl", TINY, {"SGD": METHODS["SGD"]._replace(make=make(momentum))}, "")
        run = cells.run("SGD", (0.1, 0.0), 0)
        return run["train_loss"].tolist(), len((tmp_path / "runs.jsonl").read_text().splitlines())

    def make(momentum):
        return lambda rate, _: optax.sgd(rate, momentum)

    first, again, other = kept(0.5), kept(0.5), kept(0.6)
    assert first == again and (first[1], other[1]) == (1, 2)
    assert other[0] != first[0]


def test_of_equal_points_the_one_with_lower_losses_before_the_end_is_chosen():
    curves = {(1.0, 0.1): [500.0, 1e-12], (2.0, 0.1): [5.0, 3e-11], (3.0, 0.1): [1.0, 1e-3], (4.0, 0.1): [9.0, np.nan]}

    class Known:
        def run(self, method, point, seed):
            return {"train_loss": np.array(curves[point])}

    best, scores = neurons._tune(Known(), "FOOF, T=1", tuple(curves) * 2, 2)
    assert best == (2.0, 0.1) and len(scores) == 4 and scores[3][2] == np.inf


def _methods(**final):
    """Two evaluations of each of three seeds; the finals vary by 10 % about a value."""
    return {name: {"train_loss": [[1.0, v * f] for f in (0.9, 1.0, 1.1)]} for name, v in final.items()}


def test_the_rule_compares_seed_by_seed():
    good = {"FOOF, T=1": 1e-5, "KFAC, heuristic": 1e-4, "KFAC, standard": 1e-3, "NGD, exact": 1e-2}
    found = judge(_methods(**good))
    assert found["verdict"] == "reproduced" and found["order"] == list(good)
    np.testing.assert_allclose(found["ratios"]["FOOF, T=1 over KFAC, heuristic"], 0.1)  # no spread of the ratio
    assert judge(_methods(**(good | {"NGD, exact": 1e-5})))["verdict"] == "not reproduced"
    assert judge(_methods(**{k: v for k, v in good.items() if k != "NGD, exact"}))["verdict"] == "open"
    mixed = _methods(**good)
    mixed["FOOF, T=1"]["train_loss"] = [[1.0, x] for x in (1e-6, 1e-4, 3e-2)]
    assert judge(mixed)["verdict"] == "open"
    diverged = _methods(**good)
    diverged["NGD, exact"]["train_loss"][1][1] = None
    assert judge(diverged)["ratios"]["KFAC, heuristic over NGD, exact"] == [0.0, 0.0, 0.0]
    assert judge(diverged)["verdict"] == "open" and judge(diverged)["words"].endswith("; diverged: NGD, exact")
    diverged["KFAC, heuristic"]["train_loss"][1][1] = None
    assert judge(diverged)["verdict"] == "open"
    assert {name for pair in RULE for name in pair} == set(good)


def test_unknown_names_come_with_the_nearest(tmp_path):
    with pytest.raises(UnknownNameError, match="Did you mean 'digits'"):
        neurons.run(NeuronsConfig(("digts",), out=tmp_path))
    with pytest.raises(UnknownNameError, match="Did you mean 'Muon'"):
        neurons.run(NeuronsConfig(("digits",), ("Moun",), out=tmp_path))

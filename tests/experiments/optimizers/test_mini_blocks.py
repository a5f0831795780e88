"""Mini-block Fisher and the angle between KFAC and FOOF at toy size: networks against NumPy, verdicts by the rules."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.optimizers import mini_blocks, update_angles
from experiments.optimizers.neurons import experiment, networks
from experiments.optimizers.neurons.tasks import Task, draw_batches, draw_data, init, loss
from metalearn.errors import UnknownNameError
from metalearn_models.optimizers.curvature import (
    foof,
    kfac,
    loss_and_exact_statistics,
    value_grad_and_sampled_statistics,
)


@pytest.fixture(autouse=True)
def _optax_promotes():
    with jax.numpy_dtype_promotion("standard"):
        yield


def test_networks_are_those_of_numpy_and_every_kernel_is_a_layer():
    x, y = np.random.default_rng(0).normal(size=(3, 64)).astype(np.float32), jnp.arange(3)

    @jax.jit
    def measure():
        found = []
        for network, hidden in ((networks.AUTOENCODER, (6, 4, 2)), (networks.CONV, (2, 3))):
            params = network.init(hidden, 64, jax.random.key(0))
            score = network.score(params, x, y)
            loss, _, extra = loss_and_exact_statistics(lambda q, n=network: n.loss(q, x, y))(params, None)
            found.append((params, loss, score, extra["statistics"]))
        return found

    (params, loss, score, layers), (kernels, conv_loss, conv_score, conv_layers) = measure()
    a, b, c, d, e, f = (np.asarray(p) for p in params)
    assert [p.shape for p in params] == [(64, 6), (6, 4), (4, 2), (2, 4), (4, 6), (6, 64)]
    code = np.maximum(np.maximum(x @ a, 0) @ b, 0) @ c
    error = np.maximum(np.maximum(code @ d, 0) @ e, 0) @ f - x
    np.testing.assert_allclose(loss, (error**2).sum() / 6, rtol=1e-5)
    explained = 1 - (error**2).sum() / ((x - x.mean(0)) ** 2).sum()
    np.testing.assert_allclose(score, explained, rtol=1e-4)
    assert [p.shape for p in kernels] == [(3, 3, 1, 2), (3, 3, 2, 3), (12, 10)]
    images = x.reshape(3, 8, 8, 1)
    for kernel in kernels[:-1]:  # "SAME" with stride 2 on an even side pads below and on the right
        padded, side = np.pad(images, ((0, 0), (0, 1), (0, 1), (0, 0))), images.shape[1] // 2
        windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (1, 2))[:, ::2, ::2][:, :side, :side]
        images = np.maximum(np.einsum("bhwcij,ijcd->bhwd", windows, kernel), 0)
    logits = images.reshape(3, -1) @ np.asarray(kernels[-1])
    expected = optax.losses.softmax_cross_entropy_with_integer_labels(jnp.asarray(logits), y).mean()
    np.testing.assert_allclose(conv_loss, expected, rtol=1e-4)
    np.testing.assert_allclose(conv_score, (logits.argmax(1) == np.arange(3)).mean())
    assert len(layers) == 6 and len(conv_layers) == 3
    assert {layer.fisher_grads.shape[0] for layer in layers.values()} == {64}
    assert {layer.fisher_grads.shape[0] for layer in conv_layers.values()} == {10}


def test_mini_blocks_end_to_end(tmp_path, monkeypatch):
    tiny = Task((4, 2), 60, 0.0, 20, 20, network="autoencoder")
    monkeypatch.setitem(mini_blocks.TASKS, "autoencoder", tiny)
    for name in set(mini_blocks.METHODS) - {"MBF", "Adam", "SGD, momentum .9"}:
        monkeypatch.delitem(mini_blocks.METHODS, name)
    for name, method in mini_blocks.METHODS.items():
        monkeypatch.setitem(mini_blocks.METHODS, name, method._replace(grid=method.grid[8:10]))
    monkeypatch.setattr(experiment, "_time", lambda cells, points, turns: dict.fromkeys(points, turns))
    config = mini_blocks.MiniBlocksConfig(("autoencoder",), 1, 2, 1, tmp_path)
    result = mini_blocks.run(config)
    assert json.loads((tmp_path / "result.json").read_text()) == result
    assert (tmp_path / "mini_blocks-autoencoder.png").stat().st_size > 10_000
    assert set(result["tasks"]["autoencoder"]["methods"]) == {"MBF", "Adam", "SGD, momentum .9"}
    assert "an update costs" in mini_blocks.format_result(result)
    with pytest.raises(UnknownNameError, match="Did you mean 'conv'"):
        mini_blocks.run(mini_blocks.MiniBlocksConfig(("cnov",), out=tmp_path))


def test_the_rule_of_mini_blocks():
    def judged(mbf, adam, momentum, cost=1.5):
        rows = {"MBF": mbf, "Adam": adam, "SGD, momentum .9": momentum}
        return mini_blocks.judge({
            name: {"train_loss": [[1.0, v * f] for f in (0.9, 1.0, 1.1)], "milliseconds_per_step": ms}
            for (name, v), ms in zip(rows.items(), (cost, 1.0, 1.0), strict=True)
        })  # fmt: skip

    assert judged(1.0, 2.0, 3.0)["verdict"] == "reproduced"
    assert judged(1.0, 2.0, 3.0, cost=2.5)["verdict"] == "open"
    assert judged(1.0, 2.0, 0.5)["verdict"] == "not reproduced"
    assert judged(1.0, 2.0, np.nan)["verdict"] == "open"
    np.testing.assert_allclose(judged(1.0, 2.0, 3.0)["ratios"]["MBF over Adam"], 0.5)


def test_angles_are_those_of_a_loop_and_judged_by_the_rule(tmp_path):
    task, key = Task((5,), 40, 0.0, 10, 3), jax.random.key(2)
    tx, other, data = kfac(0.1, 0.01), foof(1.0, 0.1), draw_data(Task((5,), 40, 0.0, 10, 3), 0)
    cosines, losses = update_angles.make_angles(task, tx, other)(data, key)
    init_key, order_key, step_key = jax.random.split(key, 3)
    params, rows = jax.jit(lambda a, b: (init(task, 64, a), draw_batches(task, 40, 3, b)))(init_key, order_key)
    state, beside = jax.jit(lambda params: (tx.init(params), other.init(params)))(params)

    @jax.jit
    def step(params, state, beside, row, key):
        compute = value_grad_and_sampled_statistics(loss)
        value, grads, found = compute(key, params, data.inputs[row], data.labels[row])
        updates, state = tx.update(grads, state, params, statistics=found)
        compared, beside = other.update(grads, beside, params, statistics=found)
        return optax.apply_updates(params, updates), state, beside, updates, compared, value

    for t, key in enumerate(jax.random.split(step_key, 3)):
        params, state, beside, updates, compared, value = step(params, state, beside, rows[t], key)
        a, b = (np.concatenate([np.ravel(x) for x in tree]) for tree in (updates, compared))
        np.testing.assert_allclose(cosines[t], a @ b / np.sqrt((a @ a) * (b @ b)), rtol=1e-3)
        np.testing.assert_allclose(losses[t], value, rtol=1e-4)
    low, high = np.full((3, 4), 0.1), np.full((3, 4), 0.7)
    judged = lambda h, s: update_angles.judge({"heuristic": h, "standard": s})["verdict"]  # noqa: E731
    assert judged(high, low) == "reproduced" and judged(low, high) == "not reproduced"
    assert judged(low + 0.1, low) == "not reproduced" and judged(high * np.nan, low) == "open"
    mixed = low + np.array([[0.3], [0.7], [0.2]])
    assert judged(mixed, low * 0) == "open"
    curve = {"cosine": high, "loss": high}
    assert update_angles.draw({"heuristic": curve, "standard": curve}, tmp_path / "a.png").stat().st_size > 10_000

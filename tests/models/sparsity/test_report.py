"""The report on ShrinkBench's MnistNet against its published counts, and accuracies against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metalearn_models.networks import mlp
from metalearn_models.sparsity import report

SHAPES = {"conv1": (5, 5, 1, 20), "conv2": (5, 5, 20, 50), "fc1": (800, 500), "fc2": (500, 10)}


def mnist_net(params, x):
    def layer(x, name, product):
        return product(x, params[name]["weight"]) + params[name]["bias"].reshape((1,) * (x.ndim - 1) + (-1,))

    def conv(x, w):
        return jax.lax.conv_general_dilated(x, w, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    def pool(x):
        return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")

    x = pool(jax.nn.relu(layer(x, "conv1", conv)))
    x = pool(jax.nn.relu(layer(x, "conv2", conv)))
    x = jax.nn.relu(layer(x.reshape(len(x), -1), "fc1", jnp.matmul))
    return layer(x, "fc2", jnp.matmul)


@pytest.fixture(scope="module")
def net():
    return {name: {"weight": jnp.full(s, 0.01), "bias": jnp.zeros(s[-1])} for name, s in SHAPES.items()}


@pytest.fixture(scope="module")
def small():
    """A small network, its batched `apply`, examples and labels."""
    network = mlp(6, (12,), 7)
    x = jax.random.normal(jax.random.key(1), (23, 6))
    labels = np.random.default_rng(0).integers(7, size=23)
    return network.init(jax.random.key(0)), jax.vmap(network.apply, (None, 0)), x, labels


def half_of(leaf):
    return (jnp.arange(leaf.size) % 2 == 0).reshape(leaf.shape)


def test_mnist_net_has_the_published_counts_at_any_number_of_examples(net):
    for examples in (1, 3):
        dense = report(net, None, mnist_net, jnp.ones((examples, 28, 28, 1)))
        assert dense.parameters == dense.kept == 431_080
        spent = {path: layer.multiply_adds for path, layer in dense.layers.items() if layer.multiply_adds}
        assert spent == {
            "conv1/weight": 288_000,
            "conv2/weight": 1_600_000,
            "fc1/weight": 400_000,
            "fc2/weight": 5_000,
        }
        assert dense.multiply_adds == dense.kept_multiply_adds == 2_293_000


def test_compression_counts_all_parameters_and_the_speed_up_only_products(net):
    masks = jax.tree.map(lambda leaf: None, net)
    masks["conv2"]["weight"] = half_of(net["conv2"]["weight"])
    masks["fc1"] = {"weight": half_of(net["fc1"]["weight"]), "bias": jnp.zeros(500, bool)}
    got = report(net, masks, mnist_net, jnp.ones((1, 28, 28, 1)))
    assert got.kept == 431_080 - 12_500 - 200_000 - 500
    assert got.compression == pytest.approx(431_080 / got.kept)
    assert got.speed_up == pytest.approx(2_293_000 / (288_000 + 800_000 + 200_000 + 5_000))
    assert got.empty == ("fc1/bias",)
    assert "nothing is kept of fc1/bias" in got.format()


def test_masks_of_ones_are_the_unpruned_control(small):
    params, apply, x, labels = small
    ones = jax.tree.map(lambda leaf: jnp.ones(leaf.shape, bool), params)
    dense, full = report(params, None, apply, x, labels=labels), report(params, ones, apply, x, labels=labels)
    assert (full.compression, full.speed_up) == (1.0, 1.0) == (dense.compression, dense.speed_up)
    assert (full.top1, full.top5) == (dense.top1, dense.top5)
    assert full.seconds > 0


def test_products_of_two_activations_count_in_full():
    x, w = jnp.ones((2, 3, 4)), {"w": jnp.ones((4, 4))}

    def attend(params, x):
        keys = x @ params["w"]
        return (jnp.einsum("btd,bsd->bts", x, keys) @ x).sum(1)

    got = report(w, {"w": half_of(w["w"])}, attend, x)
    assert got.multiply_adds == 3 * 4 * 4 + 2 * 3 * 3 * 4
    assert got.kept_multiply_adds == 3 * 4 * 4 / 2 + 2 * 3 * 3 * 4
    assert got.layers["w"].multiply_adds == 3 * 4 * 4


@pytest.mark.parametrize("batch", [1, 8, 23, 1000])
def test_accuracies_are_shares_of_all_examples_whatever_the_batch(small, batch):
    params, apply, x, labels = small
    masks = (({"weight": half_of(params[0]["weight"]), "bias": None}), {"weight": None, "bias": None})
    got = report(params, masks, apply, x, labels=labels, batch=batch)
    w = np.where(masks[0]["weight"], params[0]["weight"], 0)
    logits = np.maximum(np.asarray(x) @ w, 0) @ np.asarray(params[1]["weight"])
    best = np.argsort(-logits, -1)
    assert got.top1 == (best[:, 0] == labels).mean()
    assert got.top5 == (best[:, :5] == labels[:, None]).any(-1).mean()


def test_outputs_that_are_not_finite_are_wrong(small):
    params, _, x, _ = small
    got = report(params, None, lambda p, x: x.at[:, 0].set(jnp.nan), x, labels=np.zeros(23, np.int32))
    assert (got.top1, got.top5) == (0.0, 0.0)


def test_what_is_timed_may_be_another_program(small):
    params, apply, x, _ = small
    calls = []
    report(params, None, apply, x, batch=8, timed=lambda x: calls.append(len(x)))
    assert len(calls) > 3
    assert set(calls) == {8}


@pytest.mark.unchecked_types
def test_what_does_not_fit_is_refused_with_its_path(small):
    params, apply, x, labels = small
    none = jax.tree.map(lambda leaf: None, params)
    wrong = ({"weight": jnp.ones((6, 11), bool), "bias": None}, none[1])
    with pytest.raises(ValueError, match=r"mask of 0/weight needs its shape \(6, 12\), got \(6, 11\)"):
        report(params, wrong, apply, x)
    with pytest.raises(TypeError, match=r"0/weight must be boolean, got float32"):
        report(params, ({"weight": jnp.ones((6, 12)), "bias": None}, none[1]), apply, x)
    with pytest.raises(ValueError, match="structure of the parameters"):
        report(params, (none[0], {"weight": None}), apply, x)
    with pytest.raises(ValueError, match=r"one class of 0 to 6 for each of 23 examples, got labels of shape \(22,\)"):
        report(params, None, apply, x, labels=labels[:-1])
    with pytest.raises(ValueError, match=r"one class of 0 to 6 .* from 1 to 7"):
        report(params, None, apply, x, labels=np.where(labels == 0, 7, labels))
    with pytest.raises(ValueError, match="at least one example"):
        report(params, None, apply, x[:0])
    with pytest.raises(ValueError, match=r"jax\.vmap"):
        report(params, None, lambda p, x: x.sum(), x)

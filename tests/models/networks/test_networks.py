"""Networks against NumPy: forward passes, gradients, fresh parameters, refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from scipy.special import expit

from metalearn_models.networks import attention, conv, layer_norm_mlp, lstm_update, mlp


def wide(tree):
    return jax.tree.map(lambda x: np.asarray(x, np.float64), tree)


def agrees_with_finite_differences(loss, params):
    """The directional derivative along three random directions; second-order differences in float64."""
    with jax.enable_x64(True):
        params = jax.tree.map(lambda x: jnp.asarray(np.asarray(x, np.float64)), params)
        vector, unravel = ravel_pytree(params)
        value = jax.jit(lambda v: loss(unravel(v)))
        gradient = np.asarray(jax.jit(jax.grad(lambda v: loss(unravel(v))))(vector))
        for direction in np.random.default_rng(0).normal(size=(3, len(vector))):
            ahead, behind = (float(value(vector + h * direction)) for h in (1e-6, -1e-6))
            np.testing.assert_allclose(gradient @ direction, (ahead - behind) / 2e-6, rtol=1e-5, atol=1e-8)


def test_a_multilayer_perceptron_is_that_of_numpy():
    network = mlp(5, (4, 3), 2)
    params = jax.tree.map(lambda x: x + 0.1, network.init(jax.random.key(0)))
    x = np.random.default_rng(0).normal(size=5)
    first, second, last = wide(params)
    hidden = np.maximum(x @ first["weight"] + first["bias"], 0)
    hidden = np.maximum(hidden @ second["weight"] + second["bias"], 0)
    expected = hidden @ last["weight"] + last["bias"]
    np.testing.assert_allclose(network.apply(params, jnp.asarray(x, jnp.float32)), expected, rtol=1e-5)


def test_fresh_weights_keep_the_variance_of_their_input():
    params = mlp(200, (300,), 10).init(jax.random.key(0))
    np.testing.assert_allclose(params[0]["weight"].std(), 200**-0.5, rtol=0.02)
    assert params[0]["weight"].shape == (200, 300) and params[1]["weight"].shape == (300, 10)
    assert not any(layer["bias"].any() for layer in params)


def test_one_key_draws_each_layer_as_documented():
    """The first layer's weights are JAX's own draw from the first of the keys that `init` splits off."""
    keys = jax.random.split(jax.random.key(3), 2)
    params = mlp(5, (4,), 2).init(jax.random.key(3))
    for layer, key, shape in zip(params, keys, ((5, 4), (4, 2)), strict=True):
        np.testing.assert_array_equal(layer["weight"], jax.nn.initializers.lecun_normal()(key, shape))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: mlp(3, (0,), 2), r"at least one unit, got the widths \(3, 0, 2\)"),
        (lambda: mlp(3, (2,), 2, scale=-1.0), "at least 0, got -1.0"),
        (lambda: mlp(3, (2,), 2, scale=float("nan")), "must be finite"),
        (lambda: conv((8, 8), (4, 0), 2), "at least one unit"),
        (lambda: conv((8, 8), (4,), 2, kernel=0), "at least one unit"),
        (lambda: conv((64,), (4,), 2), r"\(H, W\) or \(H, W, C\).*got \(64,\)"),
    ],
)
def test_sizes_that_make_no_network_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize("shape", [(5, 4), (5, 4, 2)])
def test_a_convolution_is_the_sum_over_its_filter(shape):
    network = conv(shape, (3,), 2)
    params = jax.tree.map(lambda x: x + 0.1, network.init(jax.random.key(0)))
    x = np.random.default_rng(0).normal(size=shape)
    image = np.pad(x.reshape(5, 4, -1), ((1, 1), (0, 1), (0, 0)))  # as XLA pads: at the end where it is odd
    first, last = wide(params)
    filtered = np.zeros((3, 2, 3))
    for i in range(3):
        for j in range(2):
            patch = image[2 * i : 2 * i + 3, 2 * j : 2 * j + 3]
            filtered[i, j] = np.einsum("hwi,hwio->o", patch, first["weight"]) + first["bias"]
    expected = np.maximum(filtered, 0).mean((0, 1)) @ last["weight"] + last["bias"]
    np.testing.assert_allclose(network.apply(params, jnp.asarray(x.ravel(), jnp.float32)), expected, rtol=1e-4)


def test_initial_filters_keep_the_size_of_their_input():
    layers = jax.vmap(conv((8, 8, 4), (6,), 3, 5).init)(jax.random.split(jax.random.key(0), 200))
    assert layers[0]["weight"].shape == (200, 5, 5, 4, 6)
    assert layers[1]["weight"].shape == (200, 6, 3)
    for layer, fan_in in zip(layers, (100, 6), strict=True):
        assert abs((layer["weight"] ** 2).mean() * fan_in - 1) < 0.05
        assert not layer["bias"].any()


@pytest.mark.parametrize("network", [layer_norm_mlp(8, (5, 4), 3, jnp.tanh), conv((4, 2), (3, 4), 3, 3, jnp.tanh)])
def test_gradients_are_those_of_finite_differences(network):
    params = network.init(jax.random.key(0))
    x = np.random.default_rng(1).normal(size=8)
    agrees_with_finite_differences(lambda p: jax.nn.logsumexp(network.apply(p, jnp.asarray(x))), params)


@pytest.mark.parametrize("axis", [0, -1])
def test_the_lstm_remembers_and_forgets_as_written_out_in_numpy(axis):
    i, g, f, o, c = np.random.default_rng(0).normal(size=(5, 3, 4))
    gates = jnp.asarray(np.concatenate([i, g, f, o], axis), jnp.float32)
    h_new, c_new = lstm_update(gates, jnp.asarray(c, jnp.float32), axis)
    expected = expit(f + 1) * c + expit(i) * np.tanh(g)
    np.testing.assert_allclose(c_new, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(h_new, expit(o) * np.tanh(expected), rtol=1e-5, atol=1e-6)


def test_attention_is_that_of_numpy_and_knows_tokens_by_their_places():
    network = attention(3, 2, 4, width=6, layers=1, heads=2)
    params = jax.tree.map(lambda x: x + 0.1, network.init(jax.random.key(0)))
    x = np.random.default_rng(0).normal(size=(3, 2))
    p = wide(params)
    dense = lambda layer, x: x @ layer["weight"] + layer["bias"]  # noqa: E731
    norm = lambda x, gain: gain * x / np.sqrt(np.square(x).mean(-1, keepdims=True) + 1e-6)  # noqa: E731
    (block,) = p["blocks"]
    h = dense(p["embed"], x) + p["places"]
    q, k, v = (part.reshape(3, 2, 3) for part in np.split(dense(block["qkv"], norm(h, block["attention_gain"])), 3, 1))
    seen = np.zeros((3, 6))
    for head in range(2):
        scores = np.exp(q[:, head] @ k[:, head].T / np.sqrt(3))
        seen[:, 3 * head : 3 * head + 3] = scores / scores.sum(1, keepdims=True) @ v[:, head]
    h = h + dense(block["out"], seen)
    h = h + dense(block["back"], np.maximum(dense(block["wide"], norm(h, block["perceptron_gain"])), 0))
    expected = dense(p["readout"], h.mean(0))
    apply = jax.jit(network.apply)
    np.testing.assert_allclose(apply(params, jnp.asarray(x.ravel(), jnp.float32)), expected, rtol=1e-4)
    turned = jnp.asarray(x[::-1].ravel(), jnp.float32)
    assert np.abs(apply(params, turned) - expected).max() > 1e-3
    blind = {**params, "places": jnp.zeros_like(params["places"])}
    np.testing.assert_allclose(apply(blind, turned), apply(blind, jnp.asarray(x.ravel(), jnp.float32)), rtol=1e-5)


def test_attention_refuses_heads_that_do_not_divide_its_width():
    with pytest.raises(ValueError, match="heads must divide the width, got 4 heads and a width of 6"):
        attention(3, 2, 4, width=6, heads=4)

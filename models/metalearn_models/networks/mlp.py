"""Small networks to train: multilayer perceptrons with and without layer normalisation, and convolutional networks.

The multilayer perceptron with sigmoids and small initial weights is that of Andrychowicz, Denil, Gomez Colmenarejo,
Hoffman, Pfau, Schaul, Shillingford and de Freitas 2016 (arXiv 1606.04474); layer normalisation is Ba, Kiros and Hinton
2016 (arXiv 1607.06450). Parameters are tuples of dictionaries of arrays, one a layer; every network takes one flat
example, and `jax.vmap` makes batches of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from metalearn_models.networks.network import Network

Activation = Callable[[Array], Array]
Parameters = tuple[dict[str, Array], ...]


def mlp(
    inputs: int,
    hidden: tuple[int, ...],
    outputs: int,
    activation: Activation = jax.nn.relu,
    scale: float | None = None,
) -> Network:
    """A multilayer perceptron.

    Args:
        inputs: D.
        hidden: widths of the hidden layers, from the input on; may be empty.
        outputs: C.
        activation: of every hidden layer, elementwise.
        scale: standard deviation of every initial weight and bias, normal about 0. None: weights truncated normal of
            variance 1 / fan_in, biases 0.

    Returns:
        The network; its parameters are `{"weight": [in, out], "bias": [out]}`, one a layer.

    Raises:
        ValueError: when a width is not positive or the scale negative.
    """
    widths = _positive((inputs, *hidden, outputs))

    def init(key: PRNGKeyArray) -> Parameters:
        keys = jax.random.split(key, len(widths) - 1)
        return tuple(_layer(k, shape, scale) for k, shape in zip(keys, pairwise(widths), strict=True))

    def apply(params: Parameters, x: Float[Array, "D"]) -> Float[Array, "C"]:
        for layer in params[:-1]:
            x = activation(x @ layer["weight"] + layer["bias"])
        return x @ params[-1]["weight"] + params[-1]["bias"]

    _check_scale(scale)
    return Network(init, apply)


def layer_norm_mlp(inputs: int, hidden: tuple[int, ...], outputs: int, activation: Activation = jax.nn.relu) -> Network:
    """A multilayer perceptron whose hidden layers are normalised before the activation.

    Args:
        inputs: D.
        hidden: widths of the hidden layers; may be empty.
        outputs: C.
        activation: of every hidden layer, elementwise.

    Returns:
        The network; hidden layers have, beside weight and bias, a `"gain"` [out], initially 1, that multiplies the
        normalised values. The bias is added after it.

    Raises:
        ValueError: when a width is not positive.
    """
    plain = mlp(inputs, hidden, outputs, activation)

    def init(key: PRNGKeyArray) -> Parameters:
        *layers, last = plain.init(key)
        return (*({**layer, "gain": jnp.ones_like(layer["bias"])} for layer in layers), last)

    def apply(params: Parameters, x: Float[Array, "D"]) -> Float[Array, "C"]:
        for layer in params[:-1]:
            x = x @ layer["weight"]
            x = (x - x.mean()) * jax.lax.rsqrt(x.var() + 1e-5)
            x = activation(layer["gain"] * x + layer["bias"])
        return x @ params[-1]["weight"] + params[-1]["bias"]

    return Network(init, apply)


def _layer(key: PRNGKeyArray, shape: tuple[int, ...], scale: float | None) -> dict[str, Array]:
    if scale is None:
        return {"weight": jax.nn.initializers.lecun_normal()(key, shape, jnp.float32), "bias": jnp.zeros(shape[-1])}
    weight_key, bias_key = jax.random.split(key)
    weight, bias = jax.random.normal(weight_key, shape), jax.random.normal(bias_key, shape[-1:])
    return {"weight": scale * weight, "bias": scale * bias}


def _positive(widths: tuple[int, ...]) -> tuple[int, ...]:
    if min(widths) < 1:
        raise ValueError(f"every layer needs at least one unit, got the widths {widths}")
    return widths


def _check_scale(scale: float | None) -> None:
    if scale is not None and not (math.isfinite(scale) and scale >= 0):
        raise ValueError(f"a standard deviation is finite and at least 0, got scale={scale}")


def relu_network(inputs: int, hidden: tuple[int, ...], outputs: int) -> Network:
    """A multilayer perceptron with ReLU; weights truncated normal of variance 1/fan_in, biases 0.

    Args:
        inputs: D.
        hidden: widths of the hidden layers, from the input on; may be empty.
        outputs: C.

    Returns:
        Its `init` and `apply`. The parameters are a tuple of `{"weight": [in, out], "bias": [out]}`, one a layer.

    Raises:
        ValueError: when a width is not positive.
    """
    widths = (inputs, *hidden, outputs)
    if min(widths) < 1:
        raise ValueError(f"every layer needs at least one unit, got the widths {widths}")
    draw = jax.nn.initializers.lecun_normal()

    def init(key: PRNGKeyArray) -> tuple[dict[str, Array], ...]:
        keys = jax.random.split(key, len(widths) - 1)
        return tuple(
            {"weight": draw(k, shape, jnp.float32), "bias": jnp.zeros(shape[1])}
            for k, shape in zip(keys, pairwise(widths), strict=True)
        )

    def apply(params: tuple[dict[str, Array], ...], x: Float[Array, "D"]) -> Float[Array, "C"]:
        for layer in params[:-1]:
            x = jax.nn.relu(x @ layer["weight"] + layer["bias"])
        return x @ params[-1]["weight"] + params[-1]["bias"]

    return Network(init, apply)

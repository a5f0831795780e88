"""Multilayer perceptrons, with and without layer normalisation.

With sigmoids and small initial weights, the multilayer perceptron is that of Andrychowicz, Denil, Gomez Colmenarejo,
Hoffman, Pfau, Schaul, Shillingford and de Freitas 2016 (arXiv 1606.04474). Layer normalisation is Ba, Kiros and Hinton
2016 (arXiv 1607.06450).
"""

from __future__ import annotations

from itertools import pairwise

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from metalearn_models.networks._layers import check_scale, check_widths, draw_layer
from metalearn_models.networks.network import Activation, Network, Parameters

__all__ = ["layer_norm_mlp", "mlp"]


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
        activation: applied after every hidden layer.
        scale: standard deviation of every initial weight and bias, normal with mean 0. None: weights are truncated
            normal with variance 1 / fan_in, biases 0.

    Returns:
        The network. Its parameters are one `{"weight": [in, out], "bias": [out]}` per layer.

    Raises:
        ValueError: a width is not positive, or the scale is negative.
    """
    widths = check_widths((inputs, *hidden, outputs))
    check_scale(scale)

    def init(key: PRNGKeyArray) -> Parameters:
        keys = jax.random.split(key, len(widths) - 1)
        return tuple(draw_layer(k, shape, scale) for k, shape in zip(keys, pairwise(widths), strict=True))

    def apply(params: Parameters, x: Float[Array, "D"]) -> Float[Array, "C"]:
        for layer in params[:-1]:
            x = activation(x @ layer["weight"] + layer["bias"])
        return x @ params[-1]["weight"] + params[-1]["bias"]

    return Network(init, apply)


def layer_norm_mlp(inputs: int, hidden: tuple[int, ...], outputs: int, activation: Activation = jax.nn.relu) -> Network:
    """A multilayer perceptron that normalises every hidden layer before the activation.

    Args:
        inputs: D.
        hidden: widths of the hidden layers, from the input on; may be empty.
        outputs: C.
        activation: applied after every hidden layer.

    Returns:
        The network. A hidden layer has a `"gain"` [out] beside weight and bias. The gain starts at 1 and multiplies
        the normalised values; the bias is added after it.

    Raises:
        ValueError: a width is not positive.
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

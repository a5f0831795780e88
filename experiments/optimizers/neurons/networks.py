"""Networks of the comparison beside the multilayer perceptron: a small convolutional network and an autoencoder.

Both have ReLU units and no biases, so that every parameter is the kernel of a layer; kernels begin normal with variance
2 / fan_in (He et al. 2015, arXiv 1502.01852).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from einops import rearrange
from jaxtyping import Array, Float, Int, PRNGKeyArray

from metalearn_models.optimizers.curvature import mark_logits, mark_means

__all__ = ["AUTOENCODER", "CONV", "Network", "draw_kernels"]

Params = list[Array]


class Network(NamedTuple):
    """What is trained.

    Attributes:
        init: `(widths of hidden layers, inputs, key) -> params`.
        loss: `(params, inputs[B, D], labels[B]) -> mean over examples`, with its predictions marked.
        score: `(params, inputs[B, D], labels[B]) -> number`, 1 at best, on test examples.
    """

    init: Callable[[tuple[int, ...], int, PRNGKeyArray], Params]
    loss: Callable[[Params, Array, Array], Array]
    score: Callable[[Params, Array, Array], Array]


def draw_kernels(shapes: list[tuple[int, ...]], key: PRNGKeyArray) -> Params:
    """Normal kernels with variance 2 / fan_in; the last axis of a shape counts the outputs."""
    keys = jax.random.split(key, len(shapes))
    return [jax.random.normal(k, s) * jnp.sqrt(2.0 / math.prod(s[:-1])) for k, s in zip(keys, shapes, strict=True)]


def _conv_init(channels: tuple[int, ...], inputs: int, key: PRNGKeyArray) -> Params:
    side = math.isqrt(inputs)
    for _ in channels:
        side = -(-side // 2)
    filters = [(3, 3, *pair) for pair in pairwise((1, *channels))]
    return draw_kernels([*filters, (side * side * (channels[-1] if channels else 1), 10)], key)


def _conv_logits(params: Params, x: Float[Array, "B D"]) -> Float[Array, "B C"]:
    """Convolutions of stride 2 on square images, then one dense layer on all places."""
    images = rearrange(x, "b (h w) -> b h w 1", h=math.isqrt(x.shape[1]))
    for kernel in params[:-1]:
        images = jax.nn.relu(
            jax.lax.conv_general_dilated(images, kernel, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        )
    return rearrange(images, "b h w c -> b (h w c)") @ params[-1]


def _conv_loss(params: Params, x: Float[Array, "B D"], y: Int[Array, "B"]) -> Float[Array, ""]:
    logits = mark_logits(_conv_logits(params, x))
    return optax.losses.softmax_cross_entropy_with_integer_labels(logits, y).mean()


CONV = Network(_conv_init, _conv_loss, lambda params, x, y: (_conv_logits(params, x).argmax(1) == y).mean())
"""Convolutions of 3 x 3 and stride 2, whose channels are the hidden widths, then a dense layer; scored by accuracy."""


def _autoencoder_init(hidden: tuple[int, ...], inputs: int, key: PRNGKeyArray) -> Params:
    return draw_kernels(list(pairwise((inputs, *hidden, *hidden[-2::-1], inputs))), key)


def _rebuild(params: Params, x: Float[Array, "B D"]) -> Float[Array, "B D"]:
    """The code is linear, all other hidden layers are ReLU."""
    code = len(params) // 2 - 1
    for number, kernel in enumerate(params[:-1]):
        x = x @ kernel if number == code else jax.nn.relu(x @ kernel)
    return x @ params[-1]


def _autoencoder_loss(params: Params, x: Float[Array, "B D"], y: Any) -> Float[Array, ""]:
    """Half the squared error of an example, the negative log-likelihood of normal pixels up to a constant."""
    del y
    return 0.5 * jnp.square(mark_means(_rebuild(params, x)) - x).sum(1).mean()


def _variance_explained(params: Params, x: Float[Array, "B D"], y: Any) -> Float[Array, ""]:
    del y
    return 1 - jnp.square(_rebuild(params, x) - x).sum() / jnp.square(x - x.mean(0)).sum()


AUTOENCODER = Network(_autoencoder_init, _autoencoder_loss, _variance_explained)
"""Hidden widths down to the code, and back; the score is the share of the variance of test inputs that it explains."""

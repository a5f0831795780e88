"""A small Transformer encoder over the rows of an image or a table of tokens, as a network that an optimizer trains.

Vaswani et al. 2017 (arXiv 1706.03762), with the norms before attention and before the perceptron and the mean over
tokens as in small vision Transformers. Its sizes are our choice.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange, reduce
from jaxtyping import Array, Float, PRNGKeyArray

from metalearn_models.networks._layers import check_widths, draw_layer
from metalearn_models.networks.network import Network

__all__ = ["attention"]


def attention(tokens: int, features: int, outputs: int, width: int = 16, layers: int = 1, heads: int = 2) -> Network:
    """A Transformer that reads a flat example as tokens and answers from their mean.

    Args:
        tokens: number of tokens of an example.
        features: numbers per token; an example is `[tokens * features]`.
        outputs: C.
        width: of a token within the network; the perceptrons are twice as wide.
        layers: blocks of attention and perceptron.
        heads: of each attention; they divide the width.

    Returns:
        The network. Its parameters are `{"embed", "places", "blocks", "readout"}`.

    Raises:
        ValueError: a size is not positive, or the heads do not divide the width.
    """
    check_widths((tokens, features, outputs, width, layers, heads))
    if width % heads:
        raise ValueError(f"heads must divide the width, got {heads} heads and a width of {width}")

    def init(key: PRNGKeyArray) -> dict[str, Any]:
        embed_key, places_key, readout_key, *keys = jax.random.split(key, 3 + layers)
        shapes = {
            "qkv": (width, 3 * width),
            "out": (width, width),
            "wide": (width, 2 * width),
            "back": (2 * width, width),
        }

        def block(key: PRNGKeyArray) -> dict[str, Any]:
            own = zip(jax.random.split(key, len(shapes)), shapes.items(), strict=True)
            gains = {name: jnp.ones(width, jnp.float32) for name in ("attention_gain", "perceptron_gain")}
            return {name: draw_layer(k, shape, None) for k, (name, shape) in own} | gains

        return {
            "embed": draw_layer(embed_key, (features, width), None),
            "places": 0.1 * jax.random.normal(places_key, (tokens, width), jnp.float32),
            "blocks": [block(k) for k in keys],
            "readout": draw_layer(readout_key, (width, outputs), None),
        }

    def apply(params: dict[str, Any], x: Float[Array, "D"]) -> Float[Array, "C"]:
        h = _dense(params["embed"], rearrange(x, "(t f) -> t f", t=tokens)) + params["places"]
        for block in params["blocks"]:
            q, k, v = rearrange(
                _dense(block["qkv"], _norm(h, block["attention_gain"])), "t (n h d) -> n h t d", n=3, h=heads
            )
            weights = jax.nn.softmax(q @ rearrange(k, "h t d -> h d t") / (width // heads) ** 0.5)
            h = h + _dense(block["out"], rearrange(weights @ v, "h t d -> t (h d)"))
            h = h + _dense(block["back"], jax.nn.relu(_dense(block["wide"], _norm(h, block["perceptron_gain"]))))
        return _dense(params["readout"], reduce(h, "t d -> 1 d", "mean"))[0]

    return Network(init, apply)


def _dense(layer: dict[str, Array], x: Float[Array, "T I"]) -> Float[Array, "T O"]:
    return x @ layer["weight"] + layer["bias"][None]


def _norm(x: Float[Array, "T D"], gain: Float[Array, "D"]) -> Float[Array, "T D"]:
    return gain[None] * x * jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + 1e-6)

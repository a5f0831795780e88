"""What the layers of a Transformer attend to, on whole sequences."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from metalearn.learner import Labels, Signature
from metalearn_models.learners._attention import attention_mask
from metalearn_models.learners._dense import make_functional
from metalearn_models.learners.transformer import Transformer, TransformerConfig, sequence_tokens

__all__ = ["attention_weights"]


def attention_weights(
    signature: Signature, config: TransformerConfig, theta: Any, xs: Float[Array, "B T D"], ys: Labels
) -> Float[Array, "L B H T T"]:
    """The softmax weights of every layer and head.

    The model itself runs; only its attention is replaced by one that keeps its weights.

    Args:
        signature: the shapes that the learner was built for.
        config: configuration of the learner.
        theta: its meta-parameters.
        xs: inputs.
        ys: labels [B, T].

    Returns:
        At [..., t, s], the weight with which the token of example t reads the token of example s. Rows sum to 1, and
        weights with s > t are 0. The token of example s holds the label of example s - 1.
    """
    kept = []
    mask = attention_mask(xs.shape[-2], config.window)

    def attend(
        q: Float[Array, "B T H K"], k: Float[Array, "B T H K"], v: Float[Array, "B T H K"]
    ) -> Float[Array, "B T H K"]:
        scores = jnp.einsum("bqhk,bshk->bhqs", q, k).astype(jnp.float32)
        kept.append(jax.nn.softmax(scores + jnp.broadcast_to(mask, scores.shape), axis=-1))
        return jnp.einsum("bhqs,bshk->bqhk", kept[-1].astype(v.dtype), v)

    _, bind = make_functional(lambda rngs: Transformer(signature, config, rngs))
    bind(theta).sequence(sequence_tokens(config, signature.outputs, xs, ys), attend)
    return jnp.stack(kept)

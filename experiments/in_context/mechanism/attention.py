"""Does attention compare inputs? Its weights against the similarity of the query to the examples in the context.

The token of example s carries the label of example s - 1, and in a pair token also its input. The weight of token s
therefore counts as that of example s - 1. The first token carries no example: its weight is left out, and the others
are scaled to sum to 1.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jaxtyping import Array, Float
from scipy.special import log_softmax
from scipy.stats import rankdata

from experiments.in_context.mechanism.agreement import SIMILARITIES, TEMPERATURES, similarity
from metalearn.learner import Labels, Signature
from metalearn_models.learners._attention import attention_mask
from metalearn_models.learners._dense import make_functional
from metalearn_models.learners.transformer import Transformer, TransformerConfig, sequence_tokens

TRIED = (*(-t for t in TEMPERATURES), float("inf"), *TEMPERATURES[::-1])
"""Temperatures of a head's kernel. Negative ones prefer examples unlike the query; infinity weighs all equally."""

__all__ = ["TRIED", "Reading", "predictions_with", "read_attention"]


class Reading(NamedTuple):
    """What the attention weights of a Transformer say: means over queries and sequences, arrays [L, H] (layers, heads).

    Attributes:
        on_examples: share of the weight on tokens that carry an example.
        same_class: share of that weight on examples of the query's class.
        chance: share of examples of the query's class, which equal weights would give.
        correlation: kind of similarity -> Spearman's rank correlation of weight and similarity.
        temperature: kind -> temperature of the kernel whose weights are nearest the head's in Kullback-Leibler
            divergence.
        explained: kind -> share of the divergence from equal weights that this kernel explains, at most 1.
    """

    on_examples: np.ndarray
    same_class: np.ndarray
    chance: float
    correlation: dict[str, np.ndarray]
    temperature: dict[str, np.ndarray]
    explained: dict[str, np.ndarray]


def read_attention(weights: np.ndarray, xs: np.ndarray, ys: np.ndarray, first: int) -> Reading:
    """Compare attention weights with similarities, over the queries from position `first` on.

    Args:
        weights: [L, B, H, T, T], see `attention_weights`.
        xs: inputs [B, T, D].
        ys: labels [B, T].
        first: at least 2, so that every query has two examples before it.
    """
    near = {kind: similarity(xs, kind) for kind in SIMILARITIES}
    layers, _, heads, length, _ = weights.shape
    queries = range(first, length)
    on, same, chance = np.zeros((layers, heads)), np.zeros((layers, heads)), 0.0
    correlation = {kind: np.zeros((layers, heads)) for kind in SIMILARITIES}
    cross = {kind: np.zeros((len(TRIED), layers, heads)) for kind in SIMILARITIES}
    to_equal, entropy = np.zeros((layers, heads)), np.zeros((layers, heads))
    for t in queries:
        carried = rearrange(weights[:, :, :, t, 1 : t + 1], "l b h s -> l h b s").astype(np.float64)
        mass = carried.sum(-1, keepdims=True)
        p = carried / np.maximum(mass, 1e-30)
        right = (ys[:, :t] == ys[:, t : t + 1]).astype(np.float64)
        on += mass[..., 0].mean(-1)
        same += (p * right).sum(-1).mean(-1)
        chance += right.mean()
        entropy -= (p * np.log(np.maximum(p, 1e-30))).sum(-1).mean(-1)
        to_equal += np.log(t)
        for kind in SIMILARITIES:
            correlation[kind] += _rank_correlation(p, near[kind][:, t, :t])
            for i, temperature in enumerate(TRIED):
                log_kernel = log_softmax(near[kind][:, t, :t] / temperature, -1)
                cross[kind][i] -= np.einsum("lhbs,bs->lh", p, log_kernel) / len(xs)
    n, best = len(queries), {kind: cross[kind].argmin(0) for kind in SIMILARITIES}
    explained = {
        kind: 1 - (cross[kind].min(0) - entropy) / np.maximum(to_equal - entropy, 1e-30) for kind in SIMILARITIES
    }
    temperature = {kind: np.asarray(TRIED)[best[kind]] for kind in SIMILARITIES}
    return Reading(on / n, same / n, chance / n, {k: c / n for k, c in correlation.items()}, temperature, explained)


def _rank_correlation(p: np.ndarray, near: np.ndarray) -> np.ndarray:
    """Spearman's correlation of [L, H, B, t] with [B, t] along the last axis, averaged over B; 0 if all values tie."""
    a, b = rankdata(p, axis=-1), np.broadcast_to(rankdata(near, axis=-1), p.shape)
    a, b = a - a.mean(-1, keepdims=True), b - b.mean(-1, keepdims=True)
    size = np.sqrt((a**2).sum(-1) * (b**2).sum(-1))
    return ((a * b).sum(-1) / np.where(size > 0, size, 1.0)).mean(-1)


def predictions_with(
    signature: Signature,
    config: TransformerConfig,
    theta: Any,
    xs: Float[Array, "B T D"],
    ys: Labels,
    layer: int,
    kernels: Float[Array, "B #H T T"],
) -> Float[Array, "B T C"]:
    """Logits of the Transformer with the attention weights of one layer replaced.

    Args:
        signature: what the learner was built for.
        config: of the learner.
        theta: its meta-parameters.
        xs: inputs.
        ys: labels.
        layer: number of the layer.
        kernels: weights of examples for each query, [..., t, s] for s < t, which sum to 1 over s. A head keeps its
            weight on the first token, which carries no example, and distributes the rest by these.
    """
    reached = []

    def attend(q: Float[Array, "B T H K"], k: Float[Array, "B T H K"], v: Float[Array, "B T H K"]) -> Array:
        scores = jnp.einsum("bthk,bshk->bhts", q, k).astype(jnp.float32)
        weights = jax.nn.softmax(scores + attention_mask(scores.shape[-1], config.window)[None, None], axis=-1)
        if len(reached) == layer:
            examples = jnp.pad(kernels[..., :-1], ((0, 0), (0, 0), (0, 0), (1, 0)))  # example s - 1 is in token s
            weights = weights.at[..., 1:].set((1 - weights[..., :1]) * examples[..., 1:])
        reached.append(layer)
        return jnp.einsum("bhts,bshk->bthk", weights.astype(v.dtype), v)

    _, bind = make_functional(lambda rngs: Transformer(signature, config, rngs))
    return bind(theta).sequence(sequence_tokens(config, signature.outputs, xs, ys), attend)

"""The Transformer in-context learner of GPICL (Kirsch, Harrison, Sohl-Dickstein, Metz 2022, arXiv 2212.04458).

A pre-LayerNorm causal Transformer reads one token per example and predicts every label from the examples before it.
There are two tokens. With the paper's, `[x_j, y_{j-1}]`, a first attention layer has to learn to join an input with the
label that arrives one token later. The pair token, `[x_j, y_{j-1}, x_{j-1}]`, is our own: it joins them itself, which
removes most of the plateau at the start of meta-training. State size and causality are the same.

There are two initialisations. With the paper's, attention is unrelated to similarity at first, and a one-hot label
enters a token of F numbers with variance 1/F beside inputs of variance near 1; on wide inputs (196 numbers) the plateau
lasts for thousands of steps. "matching" is our own. It gives the label unit variance, embeds the two inputs of a pair
token by the same matrix into the two halves of the width, and lets queries read the first half and keys the second
through the same projection. So attention starts by comparing x_j with x_{i-1}, whose label is in token i.

Defaults are the paper's: width N_M = 256, 4 layers, 8 heads of key size 32, MLP 4 N_M, learned positions.
Shapes: B leading axes, T examples, D inputs, C outputs, F numbers in a token, M the width, H heads, K the key size, L
layers, S examples in the state.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx
from jaxtyping import Array, Float, Int, PRNGKeyArray

from metalearn.learner import Labels, Learner, Signature, encode_label
from metalearn.ranges import Size
from metalearn_models.learners._attention import Attend, make_attention
from metalearn_models.learners._common import check_settings
from metalearn_models.learners._dense import Dense, LayerNorm, make_functional

__all__ = ["Block", "Transformer", "TransformerConfig", "TransformerState", "sequence_tokens", "transformer"]


@dataclass(frozen=True)
class TransformerConfig:
    """Sizes of the Transformer; the defaults are the paper's."""

    width: Size = 256
    """N_M, the width of a token inside the model."""
    layers: Size = 4
    """Number of blocks."""
    heads: Size = 8
    """Attention heads."""
    key_size: Size = 32
    """Width of a key, query and value of one head; independent of the width of the model."""
    mlp_ratio: Size = 4
    """Hidden width of a block's MLP, as a multiple of the model's width."""
    token: Literal["pair", "paper"] = "paper"
    """What one token holds: "paper" [x_j, y_{j-1}]; "pair" adds x_{j-1}, which shortens the plateau a lot."""
    initial: Literal["matching", "paper"] = "paper"
    """Initial weights: "paper" variance scaling; "matching", our own, makes attention compare inputs from the start."""
    compute: Literal["float32", "bfloat16"] = "float32"
    """Precision of the matrix products; weights, LayerNorm, softmax and the head stay in float32."""
    window: Size | None = None
    """Attend only to the last `window` tokens, with the same parameters and less state. None: to all."""
    attention: Literal["written", "fused"] = "written"
    """Attention of whole sequences: "written" for a CPU; "fused" for cuDNN's in bfloat16 on a GPU, else XLA's."""


class TransformerState(NamedTuple):
    """Keys and values of the last S = min(window, T) examples, and the last example, which is part of the next token.

    Those of token t are at t % S: each replaces the one that leaves the window.

    Attributes:
        keys: of every layer.
        values: of every layer.
        t: examples observed so far.
        last_x: input of the last example; zeros at first.
        last_y: its label, as `encode_label` encodes it; zeros at first.
    """

    keys: Float[Array, "L S H K"]
    values: Float[Array, "L S H K"]
    t: Int[Array, ""]
    last_x: Float[Array, "D"]
    last_y: Float[Array, "C"]


class Block(nnx.Module):
    """One pre-LayerNorm block: attention over the past, then an MLP, each added to its input."""

    def __init__(self, config: TransformerConfig, rngs: nnx.Rngs):
        """Draw with variance scaling 2 / layers, as the paper's code does."""
        scale, dtype = 2.0 / config.layers, jnp.dtype(config.compute)
        inner = config.heads * config.key_size
        self.heads, self.key_size = config.heads, config.key_size
        self.norm_attention = LayerNorm(config.width)
        self.qkv = Dense(config.width, 3 * inner, rngs=rngs, scale=scale, dtype=dtype)
        if config.initial == "matching":
            self.qkv.kernel[...] = _matching_queries_and_keys(self.qkv.kernel[...], inner)
        self.out = Dense(inner, config.width, rngs=rngs, scale=scale, dtype=dtype)
        self.norm_mlp = LayerNorm(config.width)
        self.up = Dense(config.width, config.mlp_ratio * config.width, rngs=rngs, scale=scale, dtype=dtype)
        self.down = Dense(config.mlp_ratio * config.width, config.width, rngs=rngs, scale=scale, dtype=dtype)

    def project(
        self, h: Float[Array, "*T M"]
    ) -> tuple[Float[Array, "*T H K"], Float[Array, "*T H K"], Float[Array, "*T H K"]]:
        """Queries, already scaled, keys and values."""
        qkv = rearrange(self.qkv(self.norm_attention(h)), "... (part h k) -> ... part h k", part=3, h=self.heads)
        return qkv[..., 0, :, :] * self.key_size**-0.5, qkv[..., 1, :, :], qkv[..., 2, :, :]

    def finish(self, h: Float[Array, "*T M"], read: Float[Array, "*T H K"]) -> Float[Array, "*T M"]:
        """Add what attention read, then what the MLP makes of it."""
        h = h + self.out(rearrange(read, "... h k -> ... (h k)")).astype(h.dtype)
        return h + self.down(jax.nn.gelu(self.up(self.norm_mlp(h)))).astype(h.dtype)


class Transformer(nnx.Module):
    """Logits of tokens: of whole sequences at once, or of one token and the cache of those before it."""

    def __init__(self, signature: Signature, config: TransformerConfig, rngs: nnx.Rngs):
        """Build for the shapes of `signature`."""
        dtype = jnp.dtype(config.compute)
        self.window = config.window
        self.attention: Literal["written", "fused"] = config.attention
        token = signature.inputs * (2 if config.token == "pair" else 1) + signature.outputs
        self.embed = Dense(token, config.width, rngs=rngs, dtype=dtype)
        if config.initial == "matching":
            self.embed.kernel[...] = _matching_embedding(self.embed.kernel[...], signature.inputs, signature.outputs)
        positions = nnx.initializers.truncated_normal(0.1)(rngs.params(), (signature.length, config.width), jnp.float32)
        self.positions = nnx.Param(positions)
        self.blocks = nnx.List([Block(config, rngs) for _ in range(config.layers)])
        self.norm = LayerNorm(config.width)
        self.head = Dense(config.width, signature.outputs, rngs=rngs)

    def sequence(self, tokens: Float[Array, "*B T F"], attend: Attend | None = None) -> Float[Array, "*B T C"]:
        """Logits of whole sequences at once; each layer attends by `attend`, by default as configured."""
        *batch, length, _ = tokens.shape
        h = self.embed(rearrange(tokens, "... t f -> (...) t f")).astype(jnp.float32)
        h = h + jnp.broadcast_to(self.positions[:length], h.shape)
        attend = attend or make_attention(self.attention, length, self.window)
        for block in self.blocks:
            h = block.finish(h, attend(*block.project(h)))
        return self.head(self.norm(h)).astype(jnp.float32).reshape(*batch, length, -1)

    def one(
        self, token: Float[Array, "F"], state: TransformerState
    ) -> tuple[Float[Array, "C"], list[Array], list[Array]]:
        """Logits of the token at position `state.t`, and its key and value, [H, K], in each layer."""
        h = self.embed(token).astype(jnp.float32) + self.positions[state.t]
        slots = state.keys.shape[1]
        slot, visible = state.t % slots, jnp.arange(slots) <= state.t
        keys, values = [], []
        for layer, block in enumerate(self.blocks):
            q, k, v = block.project(h)
            keys.append(k.astype(jnp.float32))
            values.append(v.astype(jnp.float32))
            past_k = state.keys[layer].at[slot].set(keys[-1]).astype(k.dtype)
            past_v = state.values[layer].at[slot].set(values[-1]).astype(v.dtype)
            scores = jnp.einsum("hk,shk->hs", q, past_k).astype(jnp.float32)
            weights = jax.nn.softmax(jnp.where(visible, scores, -1e30), axis=-1)
            h = block.finish(h, jnp.einsum("hs,shk->hk", weights.astype(v.dtype), past_v))
        return self.head(self.norm(h)).astype(jnp.float32), keys, values


def _matching_embedding(kernel: Float[Array, "F M"], inputs: int, outputs: int) -> Float[Array, "F M"]:
    # Rows of a pair token: x_j, y_{j-1}, x_{j-1}. Twice the variance into half the width keeps the norm.
    half = kernel.shape[1] // 2
    current, label = kernel[:inputs, :half] * 2**0.5, kernel[inputs : inputs + outputs]
    nothing = jnp.zeros((inputs, kernel.shape[1] - half), jnp.float32)
    return jnp.concatenate(
        [
            jnp.concatenate([current, nothing], axis=1),
            label * kernel.shape[0] ** 0.5,
            jnp.concatenate([nothing, current], axis=1),
        ]
    )


def _matching_queries_and_keys(kernel: Float[Array, "M E"], inner: int) -> Float[Array, "M E"]:
    # Columns: queries, keys, values.
    half = kernel.shape[0] // 2
    shared, nothing = kernel[:half, :inner] * 2**0.5, jnp.zeros((kernel.shape[0] - half, inner), jnp.float32)
    queries, keys = jnp.concatenate([shared, nothing]), jnp.concatenate([nothing, shared])
    return jnp.concatenate([queries, keys, kernel[:, 2 * inner :]], axis=1)


def _token(config: TransformerConfig, x: Array, last_x: Array, last_y: Array) -> Array:
    parts = [x, last_y, last_x] if config.token == "pair" else [x, last_y]
    return jnp.concatenate(parts, axis=-1)


def sequence_tokens(
    config: TransformerConfig, outputs: int, xs: Float[Array, "*B T D"], ys: Labels
) -> Float[Array, "*B T F"]:
    """The tokens of whole sequences, for `Transformer.sequence`."""

    def delay(a: Array) -> Array:
        return jnp.concatenate([jnp.zeros_like(a[..., :1, :]), a[..., :-1, :]], axis=-2)

    return _token(config, xs, delay(xs), delay(encode_label(ys, outputs)))


def transformer(signature: Signature, config: TransformerConfig = TransformerConfig()) -> Learner:
    """The Transformer as a learner.

    Args:
        signature: shapes of the tasks. The context holds `signature.length` examples; after more observations the
            state is undefined.
        config: see `TransformerConfig`.

    Returns:
        A learner with a parallel `run`, and a cache of keys and values for one example at a time. Its state size is
        the paper's, 2 * layers * heads * key_size * length, where a shorter window replaces the length.

    Raises:
        ValueError: a field of `config` or of `signature` is out of range, which is named, or
            `initial="matching"` without a pair token or with an odd width.
    """
    check_settings(signature, config)
    inputs, outputs, length, _ = signature
    if config.initial == "matching" and (config.token != "pair" or config.width % 2):
        raise ValueError(
            f'initial="matching" puts the two inputs of a pair token into two halves of the width: '
            f'it needs token="pair" and an even width, got {config.token!r} and {config.width}'
        )
    slots = length if config.window is None else min(config.window, length)
    init, bind = make_functional(lambda rngs: Transformer(signature, config, rngs))

    def start(theta: Any, key: PRNGKeyArray) -> TransformerState:
        del theta, key
        shape = (config.layers, slots, config.heads, config.key_size)
        # Two arrays, not one twice: a state can be donated.
        keys, values = jnp.zeros(shape, jnp.float32), jnp.zeros(shape, jnp.float32)
        return TransformerState(
            keys, values, jnp.int32(0), jnp.zeros(inputs, jnp.float32), jnp.zeros(outputs, jnp.float32)
        )

    def predict(theta: Any, state: TransformerState, x: Float[Array, "D"]) -> Float[Array, "C"]:
        return bind(theta).one(_token(config, x, state.last_x, state.last_y), state)[0]

    def observe(theta: Any, state: TransformerState, x: Float[Array, "D"], y: Labels) -> TransformerState:
        _, keys, values = bind(theta).one(_token(config, x, state.last_x, state.last_y), state)
        slot = state.t % slots
        return TransformerState(
            state.keys.at[:, slot].set(jnp.stack(keys)),
            state.values.at[:, slot].set(jnp.stack(values)),
            state.t + 1,
            x.astype(jnp.float32),
            encode_label(y, outputs),
        )

    def run(theta: Any, xs: Float[Array, "*B T D"], ys: Labels) -> Float[Array, "*B T C"]:
        return bind(theta).sequence(sequence_tokens(config, outputs, xs, ys))

    state_size = 2 * config.layers * config.heads * config.key_size * slots
    return Learner(init, start, predict, observe, run, state_size, signature)

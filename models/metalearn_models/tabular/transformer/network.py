"""The Transformer for tables: cells are tokens, rows and columns come in any order, classes in any number.

In the manner of TabPFN v2 (Hollmann et al. 2025, Nature 637) each cell of a table is a token, and one more token per
row, its target, holds the label of a training row. A block lets each cell read the training rows, then its own row, and
then passes it through an MLP. The decoder is retrieval: an attention over the training rows whose values are their
labels, so the answers are equivariant under the names of the classes, and there may be any number of them.

Shapes: B tables, S training rows, N test rows, F columns, C classes, M width, Q numbers in a code.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from metalearn_models.tabular.transformer.attention import (
    CellAttention,
    CellMemory,
    ColumnAttention,
    Gain,
    Linear,
    RowAttention,
    RowMemory,
    normalise,
)
from metalearn_models.tabular.transformer.config import TableTransformerConfig
from metalearn_models.tabular.transformer.encoding import ENCODED, Columns, encode, measure_columns

__all__ = ["Context", "Memory", "TableTransformer"]

FLOOR = 1e-5
"""The probability that is spread over all classes of the training rows, whatever the rows say."""


class Context(NamedTuple):
    """Training rows of tables, and what decides how they are read.

    Attributes:
        xs: cells; NaN for a missing value.
        ys: classes, from 0 to C - 1; -1 for padding.
        categorical: which columns hold categories.
        columns: 1 for a column, 0 for padding.
        spin: two integers of at least 0 per column, which decide the codes of its categories.
        codes: the code of each class.
    """

    xs: Float[Array | np.ndarray, "B S F"]
    ys: Int[Array | np.ndarray, "B S"]
    categorical: Bool[Array | np.ndarray, "B F"]
    columns: Float[Array | np.ndarray, "B F"]
    spin: Int[Array | np.ndarray, "B F 2"]
    codes: Float[Array | np.ndarray, "B C Q"]


class Memory(NamedTuple):
    """All that test rows need to know about the training rows.

    Attributes:
        measured: the columns.
        tokens: 1 for each token of a row that is no padding; the target's comes first.
        layers: keys and values in each block.
        keys: of the decoder.
        labels: the labels of training rows, one-hot; 0 for padding.
        rows: 1 for a row, 0 for padding.
    """

    measured: Columns
    tokens: Float[Array, "B F1"]
    layers: tuple[LayerMemory, ...]
    keys: Float[Array, "B H S K"]
    labels: Float[Array, "B S C"]
    rows: Float[Array, "B S"]


class LayerMemory(NamedTuple):
    """Keys and values of the training rows in one block."""

    cells: CellMemory | None
    whole: RowMemory


class Block(nnx.Module):
    """Attention over rows, attention over columns and an MLP, each added to its input."""

    def __init__(self, config: TableTransformerConfig, has_cells: bool, rngs: nnx.Rngs):
        """Draw the weights; what each part adds begins small."""
        self.cells = CellAttention(config, rngs) if has_cells else None
        self.whole = RowAttention(config, rngs)
        self.columns = ColumnAttention(config, rngs)
        self.up = Linear(config.width, config.hidden, rngs)
        self.down = Linear(config.hidden, config.width, rngs, 0.1)

    def memory(self, h: Float[Array, "B S F M"], rows: Float[Array, "B S"], tokens: Float[Array, "B F"]) -> LayerMemory:
        """Keys and values of training rows, given their tokens."""
        h = normalise(h)
        cells = None if self.cells is None else self.cells.memory(h, rows)
        return LayerMemory(cells, self.whole.memory(h, rows, tokens))

    def __call__(
        self, h: Float[Array, "B N F M"], memory: LayerMemory, rows: Float[Array, "B S"], tokens: Float[Array, "B F"]
    ) -> Float[Array, "B N F M"]:
        """Tokens after the block."""
        x = normalise(h)
        h = h + self.whole(x, memory.whole, rows, tokens)
        if self.cells is not None and memory.cells is not None:
            h = h + self.cells(x, memory.cells, rows, tokens)
        h = h + self.columns(normalise(h), rows, tokens)
        return h + self.down(jnp.square(jax.nn.relu(self.up(normalise(h)))))


class TableTransformer(nnx.Module):
    """Log-probabilities of the classes of test rows, given training rows."""

    def __init__(self, config: TableTransformerConfig, rngs: nnx.Rngs):
        """Draw the weights."""
        width = config.width
        self.heads = config.votes
        self.frequencies = nnx.Param(jnp.geomspace(0.5, 2.0 ** (config.frequencies / 2), config.frequencies))
        self.embed = Linear(ENCODED + 2 * config.frequencies, width, rngs, bias=True)
        self.label = Linear(config.codes, width, rngs, float(config.codes))
        self.unlabelled = nnx.Param(0.5 * jax.random.normal(rngs.params(), (width,)))
        self.target = nnx.Param(0.5 * jax.random.normal(rngs.params(), (width,)))
        self.pool = Linear(width, width, rngs)
        self.blocks = nnx.List([Block(config, layer < config.cell_layers, rngs) for layer in range(config.layers)])
        self.query = Linear(width, 2 * config.key_size, rngs)
        self.key = Linear(width, 2 * config.key_size, rngs)
        self.key.kernel[...] = jnp.copy(self.query.kernel[...])
        self.gain = Gain(6.0, heads=config.votes)

    def run(self, context: Context, xs: Float[Array, "B N F"]) -> Float[Array, "B N C"]:
        """Read tables and answer for test rows in one pass, for meta-training."""
        measured, tokens, rows, labels, given = self._begin(context)
        columns = tokens[:, 1:]
        h = jnp.concatenate(
            [
                self._tokens(measured, jnp.asarray(context.xs), columns, given),
                self._tokens(measured, xs, columns, self._nothing(xs)),
            ],
            axis=1,
        )
        size = context.xs.shape[1]
        for block in self.blocks:
            h = block(h, block.memory(h[:, :size], rows, tokens), rows, tokens)
        keys = self._compare(self.key, h[:, :size])
        return self._decode(h[:, size:], Memory(measured, tokens, (), keys, labels, rows))

    def read(self, context: Context, chunk: int) -> Memory:
        """Read the training rows, `chunk` of them at once; this must divide their number if it is smaller."""
        measured, tokens, rows, labels, given = self._begin(context)
        h, layers = self._tokens(measured, jnp.asarray(context.xs), tokens[:, 1:], given), []
        size = min(chunk, h.shape[1])
        for block in self.blocks:
            memory = block.memory(h, rows, tokens)
            layers.append(memory)
            parts = rearrange(h, "b (c n) f m -> c b n f m", n=size)

            def pass_on(part: Array, block: Block = block, memory: LayerMemory = memory) -> Array:
                return block(part, memory, rows, tokens)

            h = rearrange(jax.lax.map(pass_on, parts), "c b n f m -> b (c n) f m")
        return Memory(measured, tokens, tuple(layers), self._compare(self.key, h), labels, rows)

    def answer(self, memory: Memory, xs: Float[Array, "B N F"]) -> Float[Array, "B N C"]:
        """Log-probabilities of the classes of test rows, each row by itself; -inf for a class without training rows."""
        h = self._tokens(memory.measured, xs, memory.tokens[:, 1:], self._nothing(xs))
        for block, layer in zip(self.blocks, memory.layers, strict=True):
            h = block(h, layer, memory.rows, memory.tokens)
        return self._decode(h, memory)

    def _begin(self, context: Context) -> tuple[Columns, Array, Array, Array, Array]:
        xs, ys, columns, codes = (jnp.asarray(x) for x in (context.xs, context.ys, context.columns, context.codes))
        rows = (ys >= 0).astype(xs.dtype)
        measured = measure_columns(xs, rows, jnp.asarray(context.categorical), jnp.asarray(context.spin))
        tokens = jnp.concatenate([jnp.ones_like(columns[:, :1]), columns], 1)
        labels = jax.nn.one_hot(ys, codes.shape[1], dtype=xs.dtype)
        return measured, tokens, rows, labels, self.label(labels @ codes)

    def _nothing(self, xs: Array) -> Array:
        return jnp.broadcast_to(self.unlabelled[...].astype(xs.dtype), (*xs.shape[:2], self.unlabelled.shape[0]))

    def _tokens(
        self, measured: Columns, xs: Float[Array, "B N F"], columns: Float[Array, "B F"], given: Float[Array, "B N M"]
    ) -> Float[Array, "B N F1 M"]:
        """The tokens of rows: what is known of the label is in each of them, and half of it in the target."""
        cells, rank, ranked = encode(measured, xs)
        angle = 2 * jnp.pi * jnp.einsum("bnf,w->bnfw", rank, self.frequencies[...].astype(xs.dtype))
        waves = jnp.where(ranked[..., None], jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], -1), 0)
        cells = self.embed(jnp.concatenate([cells, waves], -1)) * columns[:, None, :, None]
        count = columns.sum(1)[:, None, None]
        target = self.target[...].astype(xs.dtype)[None, None] + given / 2 + self.pool(cells.sum(2) / jnp.sqrt(count))
        return jnp.concatenate([target[:, :, None], cells + given[:, :, None]], 2)

    def _compare(self, linear: Linear, h: Float[Array, "B N F M"]) -> Float[Array, "B H N K"]:
        """Unit vectors by which the decoder compares rows."""
        x = rearrange(linear(normalise(h[:, :, 0])), "b n (h k) -> b h n k", h=self.heads)
        return x / jnp.sqrt(jnp.square(x).sum(-1, keepdims=True) + 1e-6)

    def _decode(self, h: Float[Array, "B N F M"], memory: Memory) -> Float[Array, "B N C"]:
        gain = self.gain(memory.rows, memory.tokens)[:, :, None, None]
        queries = self._compare(self.query, h) * gain
        weights = jnp.exp(jnp.einsum("bhnk,bhsk->bhns", queries, memory.keys) - gain)
        votes = jnp.einsum("bhns,bsc->bhnc", weights, memory.labels)
        shares = (votes / votes.sum(-1, keepdims=True)).mean(1)
        known = memory.labels.sum(1, keepdims=True) > 0
        shares = shares * (1 - FLOOR) + FLOOR / known.sum(-1, keepdims=True).astype(shares.dtype)
        # The inner selection keeps the gradient finite where the outer one says -inf.
        return jnp.where(known, jnp.log(jnp.where(known, shares, 1)), -jnp.inf)

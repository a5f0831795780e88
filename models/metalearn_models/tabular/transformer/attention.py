"""Attention over the rows of a table, and over its columns.

Attention over rows reads training rows only, so a row's answer does not depend on other test rows. It comes in two
kinds. Inside a column each cell compares itself with the training cells of its own column. Across whole rows the score
is the sum of the cells' scores over all columns, so all cells of a row share one map of weights: the tied attention of
Rao et al. 2021 (MSA Transformer, ICML) on tables. It needs no names of columns, and one softmax instead of one per
column.

Queries and keys are normalised, those of whole rows over all cells of a row together: a cell whose key is long counts
for more. So a score has a known bound, the gain, which takes the place of the maximum in the softmax.

There is one head of each kind, so that nothing but the columns is moved in memory: on a CPU a step spends most of its
time there and not in its products.
Shapes: B tables, N rows, S training rows, F tokens of a row, M width, K numbers in a key.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx
from jaxtyping import Array, Float

from metalearn_models.learners._dense import dense
from metalearn_models.tabular.transformer.config import TableTransformerConfig

__all__ = [
    "CellAttention",
    "CellMemory",
    "ColumnAttention",
    "Gain",
    "Linear",
    "RowAttention",
    "RowMemory",
    "normalise",
]

MOST = 40.0
"""No gain is larger, so that the exponential of a score minus its bound stays above the smallest float32."""


def normalise(x: Float[Array, "*N D"]) -> Float[Array, "*N D"]:
    """`x` with mean square 1 over the last axis (Zhang & Sennrich 2019, arXiv 1910.07467), without learned scale."""
    flat = rearrange(x, "... d -> (...) d")
    square = jnp.square(flat.astype(_wide(x.dtype))).mean(-1)
    # Written out, the broadcast makes XLA's gradient of this a third faster on a CPU.
    inverse = jax.lax.rsqrt(square + 1e-6).astype(x.dtype)[:, None]
    return (flat * jnp.broadcast_to(inverse, flat.shape)).reshape(x.shape)


def _wide(dtype: Any) -> Any:
    """The precision for sums: at least float32."""
    return dtype if jnp.finfo(dtype).bits >= 32 else jnp.float32


class Linear(nnx.Module):
    """A linear map in the precision of its input; its weights are kept in float32."""

    def __init__(self, inputs: int, outputs: int, rngs: nnx.Rngs, scale: float = 1.0, bias: bool = False):
        """Draw the kernel, truncated normal with variance `scale / inputs`; a bias starts at zero."""
        init = nnx.initializers.variance_scaling(scale, "fan_in", "truncated_normal")
        self.kernel = nnx.Param(init(rngs.params(), (inputs, outputs), jnp.float32))
        self.bias = nnx.Param(jnp.zeros(outputs, jnp.float32)) if bias else None

    def __call__(self, x: Float[Array, "*N D"]) -> Float[Array, "*N E"]:
        """Map the last axis."""
        y = dense(x, self.kernel[...].astype(x.dtype))
        return y if self.bias is None else y + jnp.broadcast_to(self.bias[...].astype(x.dtype), y.shape)


class Gain(nnx.Module):
    """The gain of each head: e^a n^b f^c for n training rows and f columns, at most `MOST`; a, b and c are learned."""

    def __init__(self, start: float, by_columns: float = 0.0, heads: int = 1):
        """Start with gain `start` times a power of the number of columns."""
        self.log_gain = nnx.Param(jnp.full(heads, jnp.log(start), jnp.float32))
        self.by_rows = nnx.Param(jnp.zeros(heads, jnp.float32))
        self.by_columns = nnx.Param(jnp.full(heads, by_columns, jnp.float32))

    def __call__(self, rows: Float[Array, "B S"], columns: Float[Array, "B F"]) -> Float[Array, "B H"]:
        """The gains for tables of so many ones in `rows` and `columns`, in the precision of `rows`."""
        wide = _wide(rows.dtype)
        start, by_rows, by_columns = (p[...].astype(wide) for p in (self.log_gain, self.by_rows, self.by_columns))
        n, f = (jnp.log(ones.astype(wide).sum(1)) for ones in (rows, columns))
        power = start[None] + jnp.outer(n - 4.0, by_rows) + jnp.outer(f, by_columns)
        return (MOST * jnp.tanh(jnp.exp(power) / MOST)).astype(rows.dtype)


class CellMemory(NamedTuple):
    """Keys and values of the training cells, column by column; values are 0 for padding."""

    keys: Float[Array, "B F S K"]
    values: Float[Array, "B F S K"]


class RowMemory(NamedTuple):
    """Keys and values of whole training rows, all cells of a row behind one another; values are 0 for padding."""

    keys: Float[Array, "B S D"]
    values: Float[Array, "B S D"]


class CellAttention(nnx.Module):
    """Attention of each cell to the training cells of its own column."""

    def __init__(self, config: TableTransformerConfig, rngs: nnx.Rngs):
        """Keys begin equal to the queries, so that equal cells attend to each other."""
        self.query, self.key, self.value = (Linear(config.width, config.key_size, rngs) for _ in range(3))
        self.key.kernel[...] = jnp.copy(self.query.kernel[...])
        self.out = Linear(config.key_size, config.width, rngs, 0.1)
        self.gain = Gain(4.0)

    def memory(self, h: Float[Array, "B S F M"], rows: Float[Array, "B S"]) -> CellMemory:
        """Keys and values of training rows, whose tokens `h` are normalised; `rows` is 1 for a row, 0 for padding."""
        keys, values = (rearrange(f(h), "b s f k -> b f s k") for f in (self.key, self.value))
        return CellMemory(normalise(keys), values * rows[:, None, :, None])

    def __call__(
        self, h: Float[Array, "B N F M"], memory: CellMemory, rows: Float[Array, "B S"], columns: Float[Array, "B F"]
    ) -> Float[Array, "B N F M"]:
        """What each cell reads; its tokens `h` are normalised."""
        gain = self.gain(rows, columns)[:, :, None, None]
        query = normalise(rearrange(self.query(h), "b n f k -> b f n k")) * (gain / memory.keys.shape[-1])
        weights = jnp.exp(jnp.einsum("bfnk,bfsk->bfns", query, memory.keys) - gain)
        total = (weights * rows[:, None, None]).sum(-1, keepdims=True)
        read = jnp.einsum("bfns,bfsk->bfnk", weights, memory.values) / total
        return self.out(rearrange(read, "b f n k -> b n f k"))


class RowAttention(nnx.Module):
    """Attention of whole rows to whole training rows."""

    def __init__(self, config: TableTransformerConfig, rngs: nnx.Rngs):
        """Keys begin equal to the queries, so that equal rows attend to each other."""
        self.query, self.key, self.value = (Linear(config.width, config.key_size, rngs) for _ in range(3))
        self.key.kernel[...] = jnp.copy(self.query.kernel[...])
        self.out = Linear(config.key_size, config.width, rngs, 0.1)
        self.gain = Gain(3.0, 0.5)

    def memory(self, h: Float[Array, "B S F M"], rows: Float[Array, "B S"], columns: Float[Array, "B F"]) -> RowMemory:
        """Keys and values of training rows, whose tokens `h` are normalised.

        Args:
            h: tokens.
            rows: 1 for a row, 0 for padding.
            columns: 1 for a column, 0 for padding.
        """
        values = rearrange(self.value(h) * rows[..., None, None], "b s f k -> b s (f k)")
        return RowMemory(self._whole(self.key(h), columns), values)

    def __call__(
        self, h: Float[Array, "B N F M"], memory: RowMemory, rows: Float[Array, "B S"], columns: Float[Array, "B F"]
    ) -> Float[Array, "B N F M"]:
        """What each cell reads; its tokens `h` are normalised."""
        gain = self.gain(rows, columns)[:, :, None]
        query = self._whole(self.query(h), columns) * (gain / memory.keys.shape[-1])
        weights = jnp.exp(jnp.einsum("bnd,bsd->bns", query, memory.keys) - gain)
        total = (weights * rows[:, None]).sum(-1, keepdims=True)
        read = jnp.einsum("bns,bsd->bnd", weights, memory.values) / total
        return self.out(rearrange(read, "b n (f k) -> b n f k", f=h.shape[2]))

    def _whole(self, x: Array, columns: Array) -> Array:
        return normalise(rearrange(x * columns[:, None, :, None], "b n f k -> b n (f k)"))


class ColumnAttention(nnx.Module):
    """Attention of the cells of a row to one another; padding columns are not read."""

    def __init__(self, config: TableTransformerConfig, rngs: nnx.Rngs):
        """Draw the weights."""
        self.query, self.key, self.value = (Linear(config.width, config.key_size, rngs) for _ in range(3))
        self.out = Linear(config.key_size, config.width, rngs, 0.1)
        self.gain = Gain(3.0)

    def __call__(
        self, h: Float[Array, "B N F M"], rows: Float[Array, "B S"], columns: Float[Array, "B F"]
    ) -> Float[Array, "B N F M"]:
        """What each cell reads from its row; its tokens `h` are normalised."""
        query, key, value = normalise(self.query(h)), normalise(self.key(h)), self.value(h)
        gain = self.gain(rows, columns)[:, :, None, None]
        scores = jnp.einsum("bnfk,bngk->bnfg", query * (gain / key.shape[-1]), key)
        weights = jnp.exp(scores - gain) * columns[:, None, None]
        return self.out(jnp.einsum("bnfg,bngk->bnfk", weights, value) / weights.sum(-1, keepdims=True))

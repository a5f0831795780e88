"""Truly sparse layers as Flax modules, to stand where a dense layer stood, and conversion both ways."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from einops import rearrange
from flax import nnx
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from metalearn_models.sparsity.layers.block import block_product, draw_blocks
from metalearn_models.sparsity.layers.convert import from_dense, to_dense
from metalearn_models.sparsity.layers.ell import Connections, ell_product
from metalearn_models.sparsity.layers.topology import draw_connections, draw_values, evolve

__all__ = ["BlockDense", "SparseDense", "Topology", "from_linear", "to_linear"]


class Topology(nnx.Variable):
    """Which connections there are: integers that `nnx.grad` and optimizers of `nnx.Param` leave alone."""


class SparseDense(nnx.Module):
    """An affine map with a fixed number of inputs per output, computed in `dtype`; its weights are kept in float32.

    It takes and returns batches as `nnx.Linear` does. Give it whole batches: a `jax.vmap` over single examples is
    right, but computes one example at a time. Inside, the features come first, and the two transposes cost about as
    much as a quarter of the product; `ell_product` avoids them.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        fan_in: int,
        *,
        rngs: nnx.Rngs,
        bias: bool = True,
        bound: float | None = None,
        capacity: int | None = None,
        dtype: Any = jnp.float32,
    ):
        """Draw a topology and weights; the bias starts at zero.

        Args:
            inputs: I.
            outputs: O.
            fan_in: inputs per output.
            rngs: the stream `params` is read.
            bias: whether there is one.
            bound: of the weights; see `draw_values`.
            capacity: outputs per input at most; see `draw_connections`.
            dtype: what the product is computed in; sums are at least float32.

        Raises:
            ValueError: sizes that do not fit together; see `draw_connections`.
        """
        connections = draw_connections(rngs.params(), inputs, outputs, fan_in, capacity)
        self.values = nnx.Param(draw_values(rngs.params(), fan_in, outputs, bound))
        self.bias = nnx.Param(jnp.zeros(outputs, jnp.float32)) if bias else None
        self.indices = Topology(connections.indices)
        self.positions = Topology(connections.positions)
        self.dtype = dtype

    @property
    def connections(self) -> Connections:
        """The topology."""
        return Connections(self.indices[...], self.positions[...])

    def __call__(self, x: Float[Array, "*N I"]) -> Float[Array, "*N O"]:
        """Map the last axis.

        Raises:
            ValueError: the last axis has another size.
        """
        inputs = self.positions[...].shape[1]
        if x.shape[-1] != inputs:
            raise ValueError(f"this layer has {inputs} inputs, got an array whose last axis is {x.shape[-1]}")
        columns = rearrange(x.astype(self.dtype), "... i -> i (...)")
        y = ell_product(self.values[...], self.connections, columns)
        if self.bias is not None:
            y = y + jnp.broadcast_to(rearrange(self.bias[...].astype(self.dtype), "o -> o 1"), y.shape)
        return rearrange(y, "o b -> b o").reshape(*x.shape[:-1], y.shape[0])

    def evolve(self, key: PRNGKeyArray, fraction: float = 0.3, bound: float | None = None) -> Bool[Array, "K O"]:
        """Change the topology by SET in place; returns where connections are new. See `topology.evolve`."""
        new = evolve(key, self.values[...], self.connections, fraction, bound)
        self.values[...], self.indices[...], self.positions[...] = new.values, *new.connections
        return new.moved


class BlockDense(nnx.Module):
    """An affine map whose connections are small dense matrices, computed in `dtype`; its weights are kept in float32.

    It stands where `SparseDense` stands, and is the form for accelerators. Its topology is fixed.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        fan_in: int,
        block: tuple[int, int],
        *,
        rngs: nnx.Rngs,
        bias: bool = True,
        dtype: Any = jnp.float32,
    ):
        """Draw which blocks there are, and weights; the bias starts at zero.

        Args:
            inputs: I.
            outputs: O.
            fan_in: blocks of inputs per block of outputs.
            block: inputs and outputs of a block, which divide I and O.
            rngs: the stream `params` is read.
            bias: whether there is one.
            dtype: what the product is computed in; sums are at least float32.

        Raises:
            ValueError: the blocks do not divide the sizes, or there are fewer blocks than `fan_in`.
        """
        if min(block) < 1 or inputs % block[0] or outputs % block[1]:
            raise ValueError(f"blocks of {block} do not divide {inputs} inputs and {outputs} outputs")
        blocks = inputs // block[0], outputs // block[1]
        connections = draw_connections(rngs.params(), *blocks, fan_in)
        self.values = nnx.Param(draw_blocks(rngs.params(), fan_in, blocks[1], block))
        self.bias = nnx.Param(jnp.zeros(outputs, jnp.float32)) if bias else None
        self.indices = Topology(connections.indices)
        self.positions = Topology(connections.positions)
        self.dtype = dtype

    @property
    def connections(self) -> Connections:
        """The topology of blocks."""
        return Connections(self.indices[...], self.positions[...])

    def __call__(self, x: Float[Array, "*N I"]) -> Float[Array, "*N O"]:
        """Map the last axis."""
        y = block_product(self.values[...], self.connections, rearrange(x.astype(self.dtype), "... i -> i (...)"))
        if self.bias is not None:
            y = y + jnp.broadcast_to(rearrange(self.bias[...].astype(self.dtype), "o -> o 1"), y.shape)
        return rearrange(y, "o b -> b o").reshape(*x.shape[:-1], y.shape[0])


def from_linear(linear: Any, fan_in: int, capacity: int | None = None) -> SparseDense:
    """The sparse layer that keeps the `fan_in` largest weights of each output of a dense one.

    Args:
        linear: `nnx.Linear`, or any module with a `kernel` `[inputs, outputs]` and a `bias` or None.
        fan_in: inputs per output.
        capacity: outputs per input at most. None: the larger of `default_capacity` and what is there.

    Raises:
        ValueError: the fan-in or the capacity does not fit.
    """
    kernel = linear.kernel[...].astype(jnp.float32)
    inputs, outputs = kernel.shape
    layer = SparseDense(inputs, outputs, fan_in, rngs=nnx.Rngs(0), bias=linear.bias is not None)
    if capacity is None:
        capacity = max(layer.positions[...].shape[0], from_dense(kernel, fan_in)[1].positions.shape[0])
    values, connections = from_dense(kernel, fan_in, capacity)
    layer.values = nnx.Param(values)
    layer.indices, layer.positions = Topology(connections.indices), Topology(connections.positions)
    if layer.bias is not None:
        layer.bias = nnx.Param(jnp.array(linear.bias[...], jnp.float32))
    return layer


def to_linear(layer: SparseDense) -> nnx.Linear:
    """The `nnx.Linear` that computes the same, with zeros where there is no connection."""
    kernel = to_dense(layer.values[...], layer.connections)
    linear = nnx.Linear(*kernel.shape, use_bias=layer.bias is not None, dtype=layer.dtype, rngs=nnx.Rngs(0))
    linear.kernel = nnx.Param(kernel)
    if layer.bias is not None:
        linear.bias = nnx.Param(jnp.array(layer.bias[...]))
    return linear

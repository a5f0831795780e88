"""The layers of the black-box learners: affine maps and LayerNorm over any number of leading axes.

XLA's CPU backend runs `x[B, T, D] @ w[D, E]`, and above all its gradient, a third slower than the same product with
`x` reshaped to `[B*T, D]`. A reduction over the last axis of `[B, 1, T, D]` is ten times slower than one over that of
`[B*T, D]`. Therefore the layers flatten their leading axes, and the learners' `run` takes its batch as leading axes: a
`vmap` would hide the batch from the reshape.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx
from jaxtyping import Array, Float, PRNGKeyArray


def dense(x: Float[Array, "*N D"], w: Float[Array, "D E"]) -> Float[Array, "*N E"]:
    """`x @ w`, computed with the leading axes of `x` flattened into one."""
    flat, (width, outputs) = rearrange(x, "... d -> (...) d"), w.shape
    if flat.shape[0] > width > outputs:
        # The gradient of w is x^T g. XLA's CPU backend computes it at half the speed of g^T x if x is wider than g.
        # A product with an explicit transpose of w makes it g^T x. Without the barrier, XLA simplifies that away.
        y = jax.lax.dot_general(flat, jax.lax.optimization_barrier(w.T), (((1,), (1,)), ((), ())))
    else:
        y = flat @ w
    return y.reshape(*x.shape[:-1], outputs)


class Dense(nnx.Module):
    """An affine map computed in `dtype`; its weights are kept in float32."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        rngs: nnx.Rngs,
        scale: float = 1.0,
        bias: bool = True,
        dtype: Any = jnp.float32,
    ):
        """Draw the kernel, truncated normal with variance `scale / inputs`; the bias starts at zero."""
        init = nnx.initializers.variance_scaling(scale, "fan_in", "truncated_normal")
        self.kernel = nnx.Param(init(rngs.params(), (inputs, outputs), jnp.float32))
        self.bias = nnx.Param(jnp.zeros(outputs, jnp.float32)) if bias else None
        self.dtype = dtype

    def __call__(self, x: Float[Array, "*N D"]) -> Float[Array, "*N E"]:
        """Map the last axis."""
        y = dense(x.astype(self.dtype), self.kernel[...].astype(self.dtype))
        if self.bias is None:
            return y
        return y + jnp.broadcast_to(self.bias[...].astype(self.dtype), y.shape)


class LayerNorm(nnx.Module):
    """Layer normalisation (Ba et al. 2016, arXiv 1607.06450) over the last axis, with scale and offset, in float32."""

    def __init__(self, width: int):
        """Start with scale 1 and offset 0."""
        self.scale = nnx.Param(jnp.ones(width, jnp.float32))
        self.offset = nnx.Param(jnp.zeros(width, jnp.float32))

    def __call__(self, x: Float[Array, "*N D"]) -> Float[Array, "*N D"]:
        """Normalise; the result is float32."""
        flat = rearrange(x.astype(jnp.float32), "... d -> (...) d")
        mean = flat.mean(-1, keepdims=True)
        var = jnp.square(flat - mean).mean(-1, keepdims=True)
        y = (flat - mean) * jax.lax.rsqrt(var + 1e-5)
        y = y * jnp.broadcast_to(self.scale[...], y.shape) + jnp.broadcast_to(self.offset[...], y.shape)
        return y.reshape(x.shape)


def make_functional(build: Callable[[nnx.Rngs], nnx.Module]) -> tuple[Callable[..., Any], Callable[[Any], Any]]:
    """Split a flax module once into pure functions.

    Args:
        build: makes the module from its random streams.

    Returns:
        `init(key) -> theta`, a nested dict of float32 arrays, and `bind(theta) -> module`, for use inside a
        traced function.
    """
    graph, _ = nnx.split(nnx.eval_shape(lambda: build(nnx.Rngs(0))), nnx.Param)

    def init(key: PRNGKeyArray) -> Any:
        return nnx.to_pure_dict(nnx.split(build(nnx.Rngs(key)), nnx.Param)[1])

    def bind(theta: Any) -> Any:
        # Weights that were read are NumPy arrays, which take no index that is traced.
        return nnx.merge(graph, jax.tree.map(jnp.asarray, theta))

    return init, bind

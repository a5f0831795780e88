"""The layers of the black-box learners: affine maps and LayerNorm over any number of leading axes.

XLA's CPU backend runs `x[B, T, D] @ w[D, E]`, and above all its gradient, a third slower than the same product with
`x` reshaped to `[B*T, D]`, and a reduction over the last axis of `[B, 1, T, D]` ten times slower than over that of
`[B*T, D]`. So the layers flatten, and the learners' `run` takes its batch as leading axes: a `vmap` would hide the
batch from the reshape.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, PRNGKeyArray


def dense(x: Float[Array, "*N D"], w: Float[Array, "D E"]) -> Float[Array, "*N E"]:
    """`x @ w`, with the leading axes of `x` flattened into one for the product."""
    flat, (width, outputs) = x.reshape(-1, x.shape[-1]), w.shape
    if flat.shape[0] > width > outputs:
        # The gradient of w is x^T g, which XLA's CPU backend computes at half the speed of g^T x when x is wider than
        # g. Multiplying by an explicit transpose of w makes it g^T x; without the barrier it is simplified away.
        y = jax.lax.dot_general(flat, jax.lax.optimization_barrier(w.T), (((1,), (1,)), ((), ())))
    else:
        y = flat @ w
    return y.reshape(*x.shape[:-1], outputs)


class Dense(nnx.Module):
    """An affine map computed in `dtype`, its weights kept in float32."""

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
        """Draw the kernel with variance `scale / inputs` (truncated normal); the bias starts at zero."""
        init = nnx.initializers.variance_scaling(scale, "fan_in", "truncated_normal")
        self.kernel = nnx.Param(init(rngs.params(), (inputs, outputs), jnp.float32))
        self.bias = nnx.Param(jnp.zeros(outputs)) if bias else None
        self.dtype = dtype

    def __call__(self, x: Float[Array, "*N D"]) -> Float[Array, "*N E"]:
        """Apply to the last axis."""
        y = dense(x.astype(self.dtype), self.kernel[...].astype(self.dtype))
        if self.bias is None:
            return y
        return y + jnp.broadcast_to(self.bias[...].astype(self.dtype), y.shape)


class LayerNorm(nnx.Module):
    """Layer normalisation (Ba et al. 2016, arXiv 1607.06450) over the last axis, with scale and offset, in float32."""

    def __init__(self, width: int):
        """Start as plain normalisation."""
        self.scale = nnx.Param(jnp.ones(width))
        self.offset = nnx.Param(jnp.zeros(width))

    def __call__(self, x: Float[Array, "*N D"]) -> Float[Array, "*N D"]:
        """Normalise; the result is float32."""
        flat = x.astype(jnp.float32).reshape(-1, x.shape[-1])
        mean = flat.mean(-1, keepdims=True)
        var = jnp.square(flat - mean).mean(-1, keepdims=True)
        y = (flat - mean) * jax.lax.rsqrt(var + 1e-5)
        y = y * jnp.broadcast_to(self.scale[...], y.shape) + jnp.broadcast_to(self.offset[...], y.shape)
        return y.reshape(x.shape)


def functional(build: Callable[[nnx.Rngs], nnx.Module]) -> tuple[Callable[..., Any], Callable[[Any], Any]]:
    """Split a module once into pure functions.

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
        return nnx.merge(graph, theta)

    return init, bind

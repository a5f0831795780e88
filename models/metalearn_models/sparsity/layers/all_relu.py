"""All-ReLU: a leaky ReLU whose slope changes its sign from one hidden layer to the next.

Curci, Mocanu and Pechenizkiy 2021 (arXiv 2102.01732). In networks with few connections it lets gradients through where
ReLU stops them, and the alternating sign keeps activations from drifting. Their alpha is 0.6 for Fashion-MNIST and 0.75
for CIFAR-10. The output layer has none.
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float

__all__ = ["all_relu"]


def all_relu(x: Float[Array, "*S"], layer: int, alpha: float = 0.6) -> Float[Array, "*S"]:
    """`x` where it is positive; elsewhere `-alpha * x` in hidden layers 1, 3, ... and `alpha * x` in 2, 4, ...

    Args:
        x: pre-activations.
        layer: number of the hidden layer, from 1 at the input.
        alpha: size of the slope. 0 is ReLU.

    Raises:
        ValueError: the number of the layer is below 1.
    """
    if layer < 1:
        raise ValueError(f"hidden layers are numbered from 1, got layer={layer}")
    slope = -alpha if layer % 2 else alpha
    return jnp.where(x > 0, x, x * slope)

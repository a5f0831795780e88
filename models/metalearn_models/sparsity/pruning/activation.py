"""Scores from the activations that weights meet: magnitude times the size of the input.

A weight that meets small inputs matters little, however large it is. Blalock, Gonzalez Ortiz, Frankle, Guttag 2020
(arXiv 2003.03033) have activations among their baselines. How they are combined with weights is our choice: `|w|` times
the root mean square of the input, which ranks the weights of a unit as Sun, Liu, Bair, Kolter 2023, "Wanda" (arXiv
2306.11695), do for language models.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from metalearn_models.optimizers.curvature import find_layers, value_grad_and_statistics
from metalearn_models.sparsity.masks import Which, kernels

__all__ = ["activation"]


def activation(apply: Callable[[Any, Any], Any], params: Any, inputs: Any, which: Which = kernels) -> Any:
    """`|w|` times the root mean square of the weight's input, over examples and places.

    Args:
        apply: `(params, inputs[B, ...]) -> outputs[B, ...]`.
        params: trained parameters.
        inputs: examples.
        which: chooses the leaves to prune by path and shape.

    Returns:
        A tree like `params`, None where a leaf stays dense.

    Raises:
        ValueError: a chosen leaf is not the kernel of exactly one product or convolution.
    """

    @jax.jit
    def sizes(params: Any) -> dict[str, Any]:
        step = value_grad_and_statistics(lambda p: apply(p, inputs).sum(), unknown="ignore")
        found = {path: layer.inputs for path, layer in step(params)[2].items()}
        return {path: jnp.sqrt(jnp.square(x).mean(tuple(range(x.ndim - 1)))) for path, x in found.items()}

    layouts = find_layers(lambda p: apply(p, inputs).sum(), params)
    found = sizes(params)

    def score(path: Any, w: Any) -> Any:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        if not which(name, tuple(jnp.shape(w))):
            return None
        key = jax.tree_util.keystr(path)
        if key not in found:
            raise ValueError(
                f"{name} is not the kernel of exactly one product or convolution, so its inputs are unknown: leave it "
                "dense"
            )
        layout = layouts[key]
        return layout.from_matrix(layout.to_matrix(jnp.abs(w)) * found[key].astype(w.dtype)[:, None])

    return jax.tree_util.tree_map_with_path(score, params)

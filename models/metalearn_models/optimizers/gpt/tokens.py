"""Parameters as tokens: one per hidden unit, or the chunks of each layer of Peebles et al. 2022 (arXiv 2209.12892).

A tokeniser only says which parameter stands where in which token, so parameters come back with the same bits. Tokens
of one group share their encoder and have no position: a generator cannot tell them apart but by their content, and
permuting hidden units permutes its output. A chunk is a group of its own, with an encoder of its own.

Shapes: P parameters, G groups, N tokens of a group, W width of its tokens.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jaxtyping import Array, Float, Int

__all__ = ["Tokeniser", "Tokens", "chunk_tokens", "hidden_unit_tokens"]

Tokens = tuple[Array, ...]
"""One array `[..., N, W]` per group."""


class Tokeniser(NamedTuple):
    """Where each parameter goes.

    Attributes:
        places: for each group, the place in the flat parameters of each number of its tokens; together, each place
            once.
    """

    places: tuple[Int[np.ndarray, "N W"], ...]

    @property
    def size(self) -> int:
        """P, the number of parameters."""
        return sum(group.size for group in self.places)

    def encode(self, flat: Float[Array, "*B P"]) -> Tokens:
        """The tokens of flat parameters, as `ravel_pytree` makes them."""
        return tuple(flat[..., group] for group in self.places)

    def decode(self, tokens: Tokens) -> Float[Array, "*B P"]:
        """The flat parameters of tokens."""
        flat = jnp.concatenate([rearrange(group, "... n w -> ... (n w)") for group in tokens], -1)
        order = np.argsort(np.concatenate([group.ravel() for group in self.places]))
        return flat[..., order]


def hidden_unit_tokens(params: Any) -> Tokeniser:
    """One token per hidden unit of a network of one hidden layer: weights in, bias, weights out; one of output biases.

    Args:
        params: two layers `{"weight": [in, out], "bias": [out]}`, or their shapes.

    Raises:
        ValueError: the network has other parameters, or another number of layers.
    """
    places = _places(params)
    layers = places if isinstance(places, list | tuple) else ()
    if len(layers) != 2 or any(not isinstance(x, dict) or x.keys() != {"weight", "bias"} for x in layers):
        raise ValueError(
            "tokens of hidden units need two layers of one weight and one bias each, as networks.mlp makes with one "
            f"hidden layer; got {_describe(params)}: use chunk_tokens, or write a Tokeniser for this network"
        )
    first, last = layers
    units = np.concatenate([first["weight"].T, first["bias"][:, None], last["weight"]], 1)
    return Tokeniser((units, last["bias"][None]))


def chunk_tokens(params: Any, chunk: int) -> Tokeniser:
    """Each layer cut into chunks, as the released code does; the last chunk of a layer is the rest.

    Args:
        params: any parameters; an entry of the outermost list or dictionary is a layer.
        chunk: numbers per token at most; 1,000 for the paper's network on MNIST.

    Raises:
        ValueError: the chunk is empty.
    """
    if chunk < 1:
        raise ValueError(f"chunk must be at least 1, got {chunk}")
    places = _places(params)
    layers = (
        list(places.values())
        if isinstance(places, dict)
        else list(places)
        if isinstance(places, list | tuple)
        else [places]
    )
    groups = []
    for layer in layers:
        flat = np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(layer)])
        groups += [flat[None, i : i + chunk] for i in range(0, flat.size, chunk)]
    return Tokeniser(tuple(groups))


def _places(params: Any) -> Any:
    """The same tree with the place of each number in the flat parameters."""
    shapes = jax.tree.map(lambda x: np.zeros(x.shape, np.float32), params)
    leaves, structure = jax.tree.flatten(shapes)
    ends = np.cumsum([0, *(leaf.size for leaf in leaves)])
    numbered = [np.arange(a, a + leaf.size).reshape(leaf.shape) for a, leaf in zip(ends[:-1], leaves, strict=True)]
    return structure.unflatten(numbered)


def _describe(params: Any) -> str:
    shapes = [
        f"{jax.tree_util.keystr(path, simple=True, separator='.')} {list(x.shape)}"
        for path, x in jax.tree_util.tree_leaves_with_path(params)
    ]
    return ", ".join(shapes[:8]) + (", ..." if len(shapes) > 8 else "")

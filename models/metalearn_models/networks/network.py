"""The contract of a network: two pure functions, and parameters as a tuple of layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from jaxtyping import Array, Float, PRNGKeyArray

__all__ = ["Activation", "Network", "Parameters"]

Activation = Callable[[Array], Array]
"""An elementwise function."""

Parameters = tuple[dict[str, Array], ...]
"""One dictionary of arrays per layer, from the input on."""


class Network(NamedTuple):
    """A model as two pure functions. Models of other libraries fit as well.

    Attributes:
        init: `(key) -> params`.
        apply: `(params, x[D]) -> y[C]`, of one example. `jax.vmap` makes it take a batch.
    """

    init: Callable[[PRNGKeyArray], Any]
    apply: Callable[[Any, Float[Array, "D"]], Float[Array, "C"]]

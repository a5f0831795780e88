"""The contract of a network: two pure functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from jaxtyping import Array, Float, PRNGKeyArray


class Network(NamedTuple):
    """A model as two pure functions; whatever library wrote it fits.

    Attributes:
        init: `(key) -> params`.
        apply: `(params, x[D]) -> y[C]`.
    """

    init: Callable[[PRNGKeyArray], Any]
    apply: Callable[[Any, Float[Array, "D"]], Float[Array, "C"]]

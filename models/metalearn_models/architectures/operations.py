"""Operations that need no parameters, by name; those of the recurrent cell of Li and Talwalkar come first.

Li and Talwalkar 2019 (arXiv 1902.07638) search over tanh, ReLU, sigmoid and identity in recurrent cells.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from metalearn.errors import unknown_name

__all__ = ["OPERATIONS", "apply_operation", "check_operations"]

OPERATIONS: dict[str, Callable[[Array], Array]] = {
    "tanh": jnp.tanh,
    "relu": jax.nn.relu,
    "sigmoid": jax.nn.sigmoid,
    "identity": lambda x: x,
    "sine": jnp.sin,
    "zero": jnp.zeros_like,
}
"""Elementwise operations by name."""


def check_operations(names: Sequence[str], known: Sequence[str] = tuple(OPERATIONS)) -> tuple[str, ...]:
    """The same names.

    Raises:
        UnknownNameError: no operation has one of them; with the nearest names.
    """
    for name in names:
        if name not in known:
            raise unknown_name("operation", name, known)
    return tuple(names)


def apply_operation(names: Sequence[str], number: Int[Array, ""], x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Apply the operation of a number. Under `vmap` all are computed and one is selected."""
    return jax.lax.switch(number, [OPERATIONS[name] for name in names], x)

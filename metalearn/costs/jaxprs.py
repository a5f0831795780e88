"""Walking through the programs inside a program."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from jax.extend.core import ClosedJaxpr, Jaxpr


def jaxprs_in(params: Mapping[str, Any]) -> Iterator[Jaxpr]:
    """The functions among the parameters of an equation, such as the body of a scan."""
    # jit, remat, custom_jvp, custom_vjp and what else calls a function: each has its own name for it. Rules of custom
    # derivatives are functions, not jaxprs, until they are used; then they are part of the caller.
    for value in params.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            if isinstance(item, ClosedJaxpr):
                yield item.jaxpr
            elif isinstance(item, Jaxpr):
                yield item

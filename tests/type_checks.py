"""Checks of annotations that are made once for each function, however often it is defined.

A function inside another one is defined again with each call of the outer one, and jaxtyping decorates each of these:
it writes two functions with the same annotations, and beartype compiles checks of both. That was a quarter of the time
of the tests. Neither depends on anything but the signature, so equal signatures share them here. What is checked, and
when, does not change.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import beartype
from jaxtyping import _decorator

KEPT = 8192
"""Signatures that are remembered; more than the packages have."""


@functools.lru_cache(maxsize=2 * KEPT)
def check(function: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a function that jaxtyping has written, so that each call is held to its annotations."""
    return beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))(function)


def share_checks() -> None:
    """Let jaxtyping write one function per signature, and look up the types in a signature once."""
    _decorator._make_fn_with_signature = _share(_decorator._make_fn_with_signature)
    _decorator._destring_annotation = _look_up_once(_decorator._destring_annotation)


def _share(write: Callable[..., Any]) -> Callable[..., Any]:
    remembered = functools.lru_cache(maxsize=KEPT)(write)

    def write_once(name: str, qualname: str, module: str, signature: inspect.Signature, output: bool) -> Any:
        try:
            return remembered(name, qualname, module, signature, output=output)
        except TypeError:  # a default without a hash, such as an array
            return write(name, qualname, module, signature, output=output)

    return write_once


def _look_up_once(look_up: Callable[..., Any]) -> Callable[..., Any]:
    found: dict[tuple[str, str], Any] = {}

    def look_up_once(annotation: Any, names: dict[str, Any]) -> Any:
        if not isinstance(annotation, str):
            return look_up(annotation, names)
        key = (names["__name__"], annotation)
        if key not in found:
            looked_up = look_up(annotation, names)
            if looked_up is Any:  # also what comes out for a name that is not defined yet
                return looked_up
            found[key] = looked_up
        return found[key]

    return look_up_once

"""Configurations and results as JSON values: conversion, and the comparison of two configurations."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from metalearn.errors import RunError

__all__ = ["as_json", "check_same_config", "finite_or_null"]


def as_json(value: Mapping[str, Any]) -> dict[str, Any]:
    """The same values as JSON gives them back: lists for tuples, strings for paths, mappings for dataclasses.

    Raises:
        TypeError: a value has no such form; the message names it.
    """

    def convert(value: Any) -> Any:
        if not isinstance(value, type) and dataclasses.is_dataclass(value):
            return {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        if isinstance(value, Path):
            return str(value)
        if isinstance(value, Mapping):
            return dict(value)
        if isinstance(value, np.ndarray | np.generic | jax.Array):  # arrays and scalars of NumPy and JAX
            return value.tolist()
        raise TypeError(
            f"{value!r} of type {type(value).__name__} has no JSON form: use numbers, strings, lists, dicts"
        )

    return json.loads(json.dumps(dict(value), default=convert))


def finite_or_null(value: Any) -> Any:
    """The same JSON values with None for infinities and NaN, which JSON cannot hold."""
    if isinstance(value, dict):
        return {k: finite_or_null(v) for k, v in value.items()}
    if isinstance(value, list):
        return [finite_or_null(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def check_same_config(old: dict[str, Any], new: dict[str, Any], free: Collection[str], what: str) -> None:
    """Check that two configurations of JSON values agree.

    Raises:
        RunError: they differ in a field that is neither in `free` nor inside such a field. The message begins with
            `what` and names each field with its old and its new value.
    """
    old_fields, new_fields = _fields(old), _fields(new)
    differing = [
        f"{name}: {_format_field(old_fields, name)} -> {_format_field(new_fields, name)}"
        for name in sorted(old_fields.keys() | new_fields.keys())
        if not _same(old_fields, new_fields, name) and not any(name == f or name.startswith(f + ".") for f in free)
    ]
    if differing:
        raise RunError(f"{what}, old -> new: {'; '.join(differing)}. Use the old values, or another folder")


def _fields(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, dict) or not value:
        return {prefix: value}
    parts = [_fields(v, f"{prefix}.{k}" if prefix else k) for k, v in value.items()]
    return {name: v for part in parts for name, v in part.items()}


def _same(old: dict[str, Any], new: dict[str, Any], name: str) -> bool:
    if name not in old or name not in new:
        return False
    return old[name] == new[name] or repr(old[name]) == repr(new[name])  # as text, NaN equals itself


def _format_field(fields: dict[str, Any], name: str) -> str:
    return repr(fields[name]) if name in fields else "absent"

"""Losses by name: those made by hand, and those learned and shipped as JSON with their provenance."""

from __future__ import annotations

import importlib.resources
from importlib.resources.abc import Traversable

from metalearn.errors import unknown_name
from metalearn_models.losses.handmade import HANDMADE, HandmadeLoss
from metalearn_models.losses.symbolic_loss import SymbolicLoss


def names() -> list[str]:
    """Names that `load` knows, in alphabetical order."""
    return sorted([*HANDMADE, *_shipped()])


def load(name: str, **parameters: float) -> SymbolicLoss | HandmadeLoss:
    """A loss by its name: `load("focal", gamma=1.0)(logits, labels)`, one value for each example.

    Args:
        name: one of `names()`.
        parameters: of the factory in `handmade`; learned losses have none.

    Raises:
        UnknownNameError: no such loss; the message lists all.
        TypeError: parameters that this loss does not have.
        ValueError: parameters out of range.
    """
    if name in HANDMADE:
        return HANDMADE[name](**parameters)
    shipped = _shipped()
    if name not in shipped:
        raise unknown_name("loss", name, names())
    if parameters:
        raise TypeError(f"{name} is a learned loss and has no parameters, got {', '.join(parameters)}")
    return SymbolicLoss.from_json(shipped[name].read_text(encoding="utf-8"))


def _shipped() -> dict[str, Traversable]:
    folder = importlib.resources.files("metalearn_models.losses") / "shipped"
    return {file.name.removesuffix(".json"): file for file in folder.iterdir() if file.name.endswith(".json")}

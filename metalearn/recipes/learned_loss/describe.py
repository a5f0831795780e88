"""Descriptions of losses: range, formula, provenance and picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from metalearn_models.losses import library
from metalearn_models.losses.formulas import to_text
from metalearn_models.losses.handmade import HandmadeLoss
from metalearn_models.losses.symbolic_loss import MOST_CLASSES, SymbolicLoss

__all__ = ["describe", "draw", "list_losses"]


def list_losses() -> dict[str, str]:
    """All losses by name: what they are for, made by hand or learned, and their range."""
    return {name: _summary(name, library.load(name)) for name in library.names()}


def _summary(name: str, loss: SymbolicLoss | HandmadeLoss) -> str:
    purpose = "numbers" if loss.link == "identity" else "classes"
    return f"for {purpose}, {_origin(name)}{_range(loss)}"


def _origin(name: str) -> str:
    return "learned" if name in library.shipped() else "made by hand"


def _range(loss: SymbolicLoss | HandmadeLoss) -> str:
    if loss.link == "identity":
        return "; scale= is the unit of the targets (default 1)"
    learned = isinstance(loss, SymbolicLoss) and loss.classes is not None
    return f"; 2 to {MOST_CLASSES:,} classes" if learned else ""


def describe(source: str) -> dict[str, Any]:
    """Describe a loss: its link, its range, its formula in several notations, its provenance.

    Args:
        source: a name, the path of a .json file, or the folder of a search.

    Raises:
        UnknownNameError: there is no loss with this name, and no such path.
        FileNotFoundError: there is no such file.
        ValueError: the file holds no loss.
    """
    loss = library.load(source)
    described: dict[str, Any] = {"name": source, "link": loss.link}
    if text := _range(loss).removeprefix("; "):
        described["range"] = text
    if not isinstance(loss, SymbolicLoss):
        return {**described, "made": "by hand, see metalearn_models.losses.handmade"}
    from metalearn_models.losses.reading import latex, to_sympy  # sympy takes a second to import

    coefficients = np.round(np.asarray(loss.coefficients, np.float64), 4).tolist()
    described |= {"formula": to_text(loss.expr), "coefficients": coefficients}
    described |= {"simplified": str(to_sympy(loss)), "latex": latex(loss)}
    return described | {f"  {key}": value for key, value in (loss.provenance or {}).items()}


def draw(source: str, path: Path) -> None:
    """Draw a loss with its gradient to a PNG. Arguments and errors as `describe`."""
    from metalearn.pictures import save
    from metalearn_models.losses.reading import picture

    save(picture(library.load(source)), path)

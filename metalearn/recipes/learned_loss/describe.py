"""What there is to say of a loss: formula, provenance, picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from metalearn_models.losses import library
from metalearn_models.losses.formulas import to_text
from metalearn_models.losses.symbolic_loss import SymbolicLoss

__all__ = ["describe", "draw", "list_losses"]


def list_losses() -> dict[str, str]:
    """All losses by name, and whether each was made by hand or learned."""
    learned = library.shipped()
    return {name: "learned" if name in learned else "made by hand" for name in library.names()}


def describe(source: str) -> dict[str, Any]:
    """A loss in words: its link, its formula in several notations, its provenance.

    Args:
        source: a name, the path of a .json file, or the folder of a search.

    Raises:
        UnknownNameError: no loss of that name, and no such path.
        FileNotFoundError: the file is not there.
        ValueError: the file holds no loss.
    """
    loss = library.load(source)
    described: dict[str, Any] = {"name": source, "link": loss.link}
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

"""Losses by name: hand-made losses, and learned ones that are shipped as JSON with their provenance."""

from __future__ import annotations

import os
from pathlib import Path

from metalearn.errors import unknown_name
from metalearn_models.losses.handmade import HANDMADE, HandmadeLoss
from metalearn_models.losses.symbolic_loss import SymbolicLoss

__all__ = ["load", "names", "shipped"]

SHIPPED = Path(__file__).parent / "shipped"


def names() -> tuple[str, ...]:
    """All names that `load` knows, in alphabetical order."""
    return tuple(sorted((*HANDMADE, *shipped())))


def shipped() -> tuple[str, ...]:
    """The names of the learned losses in the package, in alphabetical order."""
    return tuple(sorted(path.stem for path in SHIPPED.glob("*.json")))


def load(source: str | os.PathLike[str], **parameters: float) -> SymbolicLoss | HandmadeLoss:
    """Load a loss: `load("focal", gamma=1.0)(logits, labels)` gives one value per example.

    Args:
        source: one of `names()`; or a `.json` file that `SymbolicLoss.save` or `metalearn search-loss` wrote; or the
            folder of such a search.
        parameters: arguments of the loss's factory in `handmade`. Learned losses have none.

    Returns:
        A `HandmadeLoss` for the name of a hand-made loss, otherwise a `SymbolicLoss`.

    Raises:
        UnknownNameError: no such name, and no such path; lists all names.
        FileNotFoundError: a path that ends in `.json` and does not exist, or a folder without a loss.
        TypeError: parameters that the loss does not have.
        ValueError: a parameter out of range, or a file that does not hold a loss.
    """
    name = str(source)
    if name in HANDMADE:
        return HANDMADE[name](**parameters)
    if name in shipped():
        file = SHIPPED / f"{name}.json"
    elif name.endswith(".json") or Path(name).exists():
        file = Path(name) / "loss.json" if Path(name).is_dir() else Path(name)
    else:
        raise unknown_name("loss (and no such path exists)", name, names())
    if not file.is_file():
        raise FileNotFoundError(f"there is no file {file}: metalearn search-loss writes loss.json when it has finished")
    if parameters:
        raise TypeError(f"{name} is a learned loss and has no parameters, got {', '.join(parameters)}")
    return SymbolicLoss.read(file)

"""Losses by name: hand-made losses, and learned ones that are shipped as JSON with their provenance."""

from __future__ import annotations

import dataclasses
import inspect
import os
from collections.abc import Iterable
from pathlib import Path

from metalearn.errors import is_name_or_path, unknown_name
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


def load(source: str | os.PathLike[str], **parameters: float | str) -> SymbolicLoss | HandmadeLoss:
    """Load a loss: `load("focal", gamma=1.0)(logits, labels)` gives one value per example.

    Losses of regression take `scale`, the unit of the targets. The default of 1 is right for targets whose standard
    deviation without outliers is 1. Otherwise give the number, such as `float(robust_scale(y_train))`, or "batch",
    which estimates it in each batch. Learned losses of classification are for 2 to 1,000 classes; with more, they warn.

    Args:
        source: one of `names()`; or a `.json` file that `SymbolicLoss.save` or `metalearn search-loss` wrote; or the
            folder of such a search.
        parameters: arguments of the loss's factory in `handmade`. Learned losses of regression have `scale`, those of
            classification none.

    Returns:
        A `HandmadeLoss` for the name of a hand-made loss, otherwise a `SymbolicLoss`.

    Raises:
        UnknownNameError: no such name, and no such path; lists all names.
        FileNotFoundError: a path that ends in `.json` and does not exist, or a folder without a loss.
        TypeError: a parameter that the loss does not have; the message names those that it has.
        ValueError: a parameter out of range, or a file that does not hold a loss.
    """
    if not is_name_or_path(source):
        raise unknown_name("loss", source, names(), or_path=True)
    name = str(source)
    if name.startswith("~"):
        name = str(Path(name).expanduser())
    if name in HANDMADE:
        _check_parameters(name, parameters, inspect.signature(HANDMADE[name]).parameters)
        return HANDMADE[name](**parameters)
    if name in shipped():
        file = SHIPPED / f"{name}.json"
    elif name.endswith(".json") or Path(name).exists():
        file = Path(name) / "loss.json" if Path(name).is_dir() else Path(name)
    else:
        raise unknown_name("loss", name, names(), or_path=True)
    if not file.is_file():
        raise FileNotFoundError(f"there is no file {file}: metalearn search-loss writes loss.json when it has finished")
    loss = SymbolicLoss.read(file)
    _check_parameters(name, parameters, ("scale",) if loss.link == "identity" else ())
    return dataclasses.replace(loss, **parameters) if parameters else loss


def _check_parameters(name: str, given: Iterable[str], known: Iterable[str]) -> None:
    if unknown := [parameter for parameter in given if parameter not in known]:
        right = f"the parameters {', '.join(known)}" if list(known) else "no parameters"
        raise TypeError(f"the loss {name} has {right}, got {', '.join(unknown)}")

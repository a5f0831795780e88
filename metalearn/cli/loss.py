"""`metalearn loss`: the losses by name, and what one of them is."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from metalearn.errors import unknown_name
from metalearn_models.losses.handmade import HANDMADE
from metalearn_models.losses.library import load, names
from metalearn_models.losses.symbolic_loss import SymbolicLoss

ACTIONS = ("show", "list")


@dataclass(frozen=True)
class LossCommand:
    """Losses by name: metalearn loss list; metalearn loss show NAME, or the file that a search has left."""

    action: Annotated[str, tyro.conf.Positional] = "list"
    """list, or show."""
    name: Annotated[str | None, tyro.conf.Positional] = None
    """The loss to show: a name, or the path of a .json file."""
    picture: Path | None = None
    """Draw it, with its gradient, to this PNG."""
    json: bool = False
    """Print one JSON object as the last line."""


def main(argv: Sequence[str]) -> None:
    """The command: print the names, or a formula with where it comes from.

    Raises:
        UnknownNameError: an action or a loss that there is not.
        ValueError: nothing to show, or a file that holds no loss.
    """
    command = tyro.cli(LossCommand, args=list(argv), prog="metalearn loss")
    if command.action not in ACTIONS:
        raise unknown_name("action", command.action, ACTIONS)
    if command.action == "list":
        kinds = {name: "by hand" if name in HANDMADE else "learned" for name in names()}
        for name, kind in kinds.items():
            print(f"  {name:<20} {kind}")
        if command.json:
            print(json.dumps(kinds))
        return
    if command.name is None:
        raise ValueError(f"say which loss to show: one of {', '.join(names())}, or a .json file")
    shown = describe(command.name)
    for label, value in shown.items():
        print(f"{label + ':':<13} {value}")
    if command.picture is not None:
        from metalearn.pictures import save
        from metalearn_models.losses.reading import picture

        save(picture(found(command.name)), command.picture)
        print(f"{'picture:':<13} {command.picture}")
    if command.json:
        print(json.dumps(shown))


def found(name: str) -> Any:
    """A loss by its name or from its file.

    Raises:
        UnknownNameError: no loss of that name.
        ValueError: the file is not there, or holds no loss.
    """
    if name.endswith(".json") and not Path(name).is_file():
        raise ValueError(f"there is no file {name}; a search leaves loss.json in its folder")
    return SymbolicLoss.read(Path(name)) if name.endswith(".json") else load(name)


def describe(name: str) -> dict[str, Any]:
    """What there is to say of a loss: its formula in several notations, its link, its provenance."""
    loss = found(name)
    shown: dict[str, Any] = {"name": name, "link": loss.link}
    if isinstance(loss, SymbolicLoss):
        from metalearn_models.losses.formulas.expression import to_text
        from metalearn_models.losses.reading import latex, to_sympy

        coefficients = np.round(np.asarray(loss.coefficients, np.float64), 4).tolist()
        shown |= {"formula": to_text(loss.expr), "coefficients": coefficients}
        shown |= {"simplified": str(to_sympy(loss)), "latex": latex(loss)}
        shown |= {f"  {key}": value for key, value in (loss.provenance or {}).items()}
    else:
        shown["made"] = "by hand, see metalearn_models.losses.handmade"
    return shown

"""`metalearn loss`: list the losses, or show one."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import tyro

from metalearn.errors import unknown_name
from metalearn.ranges import PathName
from metalearn.recipes.learned_loss.describe import describe, draw, list_losses
from metalearn.recipes.options import read

__all__ = ["LossCommand", "main"]

_ACTIONS = ("show", "list")


@dataclass(frozen=True)
class LossCommand:
    """Losses by name: metalearn loss list; metalearn loss show NAME, or show FILE for the loss that a search left."""

    action: Annotated[str, tyro.conf.Positional] = "list"
    """list, or show."""
    name: Annotated[str | None, tyro.conf.Positional] = None
    """The loss to show: a name, the path of a .json file, or the folder of a search."""
    picture: PathName | None = None
    """Draw the loss and its gradient to this PNG."""
    json: bool = False
    """Print one JSON object as the last line."""


def main(argv: Sequence[str]) -> None:
    """The command: print the names of all losses, or the formula and the provenance of one.

    Raises:
        UnknownNameError: there is no such action or loss.
        ValueError: `name` is missing, or the file holds no loss.
        FileNotFoundError: there is no such file.
    """
    command = read(LossCommand(), argv, "metalearn loss", "[list | show NAME] [options]")
    if command.action not in _ACTIONS:
        raise unknown_name("action", command.action, _ACTIONS)
    losses = list_losses()
    if command.action == "list":
        for name, kind in losses.items():
            print(f"  {name:<20} {kind}")
        if command.json:
            print(json.dumps(losses))
        return
    if command.name is None:
        raise ValueError(f"name a loss to show: one of {', '.join(losses)}, or a .json file")
    described = describe(command.name)
    for line in _lines(described):
        print(line)
    if command.picture is not None:
        draw(command.name, command.picture)
        print(f"{'picture:':<13} {command.picture}")
    if command.json:
        print(json.dumps(described))


def _lines(values: Mapping[str, Any], indent: str = "") -> Iterator[str]:
    """The values one per line, those of a mapping below its name."""
    for label, value in values.items():
        if isinstance(value, Mapping):
            yield f"{indent}{label}:"
            yield from _lines(value, indent + "    ")
        else:
            text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else value
            yield f"{indent}{label + ':':<13} {text}"

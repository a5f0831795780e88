"""`metalearn list`: everything that has a name."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from metalearn.recipes.catalogue import catalogue
from metalearn.recipes.options import read

__all__ = ["ListCommand", "main"]


@dataclass(frozen=True)
class ListCommand:
    """Presets, learners, families of tasks, optimizers, objectives, losses and data sets by name."""

    json: bool = False
    """Print one JSON object as the last line."""


def main(argv: Sequence[str]) -> None:
    """The command: print the names, one per line."""
    command = read(ListCommand(), argv, "metalearn list")
    sections = catalogue()
    for title, entries in sections.items():
        print(title)
        for name, text in entries.items():
            print(f"  {name:<22} {text}".rstrip())
        print()
    if command.json:
        print(json.dumps({title.partition(" (")[0]: list(entries) for title, entries in sections.items()}))

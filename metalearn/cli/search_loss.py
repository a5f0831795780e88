"""`metalearn search-loss`: search for a loss function, refine it, and leave it as JSON, picture and table."""

from __future__ import annotations

import json
from collections.abc import Sequence

import tyro

from metalearn.recipes.learned_loss.run import SearchLossCommand, find, table
from metalearn.runs.progress import Quiet, default_progress


def main(argv: Sequence[str]) -> None:
    """The command: search, refine, say what was found."""
    command = tyro.cli(SearchLossCommand, args=list(argv), prog="metalearn search-loss")
    loss, result = find(command, Quiet() if command.quiet else default_progress("error"))
    print(table(result))
    print(f"\nformula: {result['formula']}")
    if result["refined"] is not None:
        before, after = result["refined"]["before"], result["refined"]["after"]
        verdict = "kept" if result["refined"]["accepted"] else "not kept: no better where it will be used"
        print(f"refined: {before:.4f} -> {after:.4f}, {verdict}")
    del loss
    print(f"loss:    {command.out / 'loss.json'}    (metalearn loss show {command.out / 'loss.json'})")
    print(f"picture: {command.out / 'loss.png'} ({result['seconds']} s)")
    if command.json:
        print(json.dumps(result))

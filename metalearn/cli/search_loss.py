"""`metalearn search-loss`: search for a loss function, refine it, and leave it as JSON, picture and table."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from metalearn.cli.processes import connect, help_for
from metalearn.ranges import PathName
from metalearn.recipes.learned_loss.config import SearchLossConfig
from metalearn.recipes.learned_loss.run import format_table, search_loss
from metalearn.recipes.options import read
from metalearn.runs.processes import all_do, is_first
from metalearn.runs.progress import Quiet, Silent, default_progress

__all__ = ["SearchLossCommand", "main"]


@dataclass(frozen=True)
class SearchLossCommand:
    """Search for the loss with which networks do best on clean validation examples.

    Formulas are drawn at random, or bred by evolution, or taken from a list of all small losses of one form
    (--strategy). Formulas with zero gradient, with the wrong sign, or equal to one already tried are rejected from
    their table, before any training; the others train a whole population at a time. Of the finalists within the noise
    of the best the smallest is taken. Meta-gradients refine its coefficients, which are kept only if networks train
    better with them. If the folder holds a search already, it continues.

    {processes}
    """

    config: Annotated[SearchLossConfig, tyro.conf.arg(name="")] = field(default_factory=SearchLossConfig)
    out: PathName = Path("runs/search-loss")
    """Folder of the search, its loss.json, picture and result.json."""
    quiet: bool = False
    """No progress, only the result."""
    json: bool = False
    """Print one JSON object as the last line."""


def main(argv: Sequence[str]) -> None:
    """The command: search, refine, print what was found."""
    words = list(argv)
    connect(words, ("--out",))
    description = str(SearchLossCommand.__doc__).replace("{processes}", help_for("--out"))
    command = all_do(lambda: read(SearchLossCommand(), words, "metalearn search-loss", description=description))
    progress = Quiet() if command.quiet else default_progress("error")
    progress = progress if is_first() else Silent()
    _, result = search_loss(command.config, command.out, progress)
    if not is_first():
        return
    print(format_table(result))
    print(f"\nformula: {result['formula']}")
    if result["refined"] is not None:
        before, after = result["refined"]["before"], result["refined"]["after"]
        verdict = "kept" if result["refined"]["accepted"] else "not kept: no better at the length of training it is for"
        print(f"refined: {before:.4f} -> {after:.4f}, {verdict}")
    print(f"loss:    {command.out / 'loss.json'}    (metalearn loss show {command.out / 'loss.json'})")
    print(f"picture: {command.out / 'loss.png'} ({result['seconds']} s)")
    if command.json:
        print(json.dumps(result))

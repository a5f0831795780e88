"""Words that decide which options there are; they are read before the options."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

from metalearn.errors import UsageError, unknown_name
from metalearn.recipes.in_context.config import TrainConfig, learner_names, with_learner
from metalearn.recipes.in_context.presets import PRESETS

__all__ = ["describe", "run_folder", "take", "take_name", "take_preset"]


def take(argv: list[str], option: str) -> str | None:
    """Remove `option VALUE` or `option=VALUE` from the words and return the value; None if it is not there.

    Raises:
        UsageError: the option has no value, or is there twice.
    """
    if sum(word.partition("=")[0] == option for word in argv) > 1:
        raise UsageError(f"{option} is there twice: give it once")
    for i, word in enumerate(argv):
        name, equals, value = word.partition("=")
        if name != option:
            continue
        del argv[i]
        if not equals:
            value = argv.pop(i) if i < len(argv) and not argv[i].startswith("--") else ""
        if not value:
            raise UsageError(f"{option} needs a value")
        return value
    return None


def take_name(argv: list[str]) -> str | None:
    """Remove the first word and return it, unless it is an option or there is none."""
    return argv.pop(0) if argv and not argv[0].startswith("-") else None


def take_preset(argv: list[str]) -> tuple[str, TrainConfig]:
    """Remove the preset, digits by default, and `--learner NAME` from the words; their configuration.

    Raises:
        UsageError: `--learner` has no value, or names a learner in which nothing is meta-learned.
        UnknownNameError: there is no such preset or learner.
    """
    learner = take(argv, "--learner")
    preset = take_name(argv) or "digits"
    if preset not in PRESETS:
        raise unknown_name("preset", preset, PRESETS)
    config = PRESETS[preset][1]
    return preset, config if learner is None else with_learner(config, learner)


def describe(command: type) -> str:
    """The docstring of a command with the names of the presets and of the learners that can be meta-trained."""
    text = str(command.__doc__).replace("{presets}", ", ".join(PRESETS))
    return text.replace("{learners}", ", ".join(learner_names()))


@contextlib.contextmanager
def run_folder(chosen: Path | None, name: str) -> Iterator[Path]:
    """The folder that a user chose, or a new `runs/NAME-DATE-TIME`, with a number behind it if there is one already.

    The new folder is made in one step, so that of two commands within a second each gets its own. A folder that is
    still empty at the end of the context is removed.
    """
    if chosen is not None:
        yield chosen
        return
    stem, number = f"{name}-{time.strftime('%Y%m%d-%H%M%S')}", 1
    runs = Path("runs")
    runs.mkdir(exist_ok=True)
    while True:
        folder = runs / (stem if number == 1 else f"{stem}-{number}")
        try:
            folder.mkdir()
            break
        except FileExistsError:
            number += 1
    try:
        yield folder
    finally:
        for empty in (folder, runs):
            with contextlib.suppress(OSError):  # it holds something
                empty.rmdir()

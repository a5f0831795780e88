"""Options that decide which other options there are; they are read before the others are parsed."""

from __future__ import annotations

from metalearn.errors import unknown_name
from metalearn.recipes.in_context.config import TrainConfig, learner_names, with_learner
from metalearn.recipes.in_context.presets import PRESETS

__all__ = ["describe", "take", "take_name", "take_preset"]


def take(argv: list[str], option: str) -> str | None:
    """Remove `option VALUE` or `option=VALUE` from the words and return the value; None if it is not there.

    Raises:
        ValueError: the option has no value.
    """
    for i, word in enumerate(argv):
        if word == option:
            if i + 1 == len(argv):
                raise ValueError(f"{option} needs a value")
            value = argv[i + 1]
            del argv[i : i + 2]
            return value
        if word.startswith(option + "="):
            del argv[i]
            return word.partition("=")[2]
    return None


def take_name(argv: list[str]) -> str | None:
    """Remove the first word and return it, unless it is an option or there is none."""
    return argv.pop(0) if argv and not argv[0].startswith("-") else None


def take_preset(argv: list[str]) -> tuple[str, TrainConfig]:
    """Remove the preset, digits by default, and `--learner NAME` from the words; their configuration.

    Raises:
        UnknownNameError: there is no such preset or learner.
        ValueError: nothing in the learner is meta-learned.
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

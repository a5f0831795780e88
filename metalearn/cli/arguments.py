"""Options that decide which other options there are, taken out of the words before they are parsed."""

from __future__ import annotations


def take(argv: list[str], option: str) -> str | None:
    """Remove `option VALUE` or `option=VALUE` from the words and return the value; None where it is not there.

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

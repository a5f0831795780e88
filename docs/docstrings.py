"""Turns docstrings, plain text with `code` in single backticks, into the reStructuredText that Sphinx reads."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any


def convert(lines: list[str]) -> list[str]:
    """The lines of a docstring as reStructuredText.

    `code` becomes a literal, stars and bars outside of code stand for themselves, and an indented block after a blank
    line stays as it is written.
    """
    converted: list[str] = []
    literal: int | None = None  # the indentation around the block that is copied
    for i, line in enumerate(lines):
        indent = len(line) - len(line.lstrip())
        if literal is not None and (not line.strip() or indent > literal):
            converted.append(line)
            continue
        literal = None
        before = next((old for old in reversed(lines[:i]) if old.strip()), "")
        around = len(before) - len(before.lstrip())
        if i and not lines[i - 1].strip() and indent >= around + 4 and not before.rstrip().endswith("::"):
            converted += [" " * around + "::", ""]
            literal = around
            converted.append(line)
            continue
        converted.append(_inline(line))
    return converted


def _inline(line: str) -> str:
    parts = re.split(r"(`+[^`]*`+)", line)
    for i, part in enumerate(parts):
        if i % 2:
            parts[i] = f"``{part.strip('`')}``"
        else:
            parts[i] = re.sub(r"(?<!\\)([*|])", r"\\\1", part)
    return "".join(parts)


def process(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Sphinx's hook: changes the lines in place, before napoleon reads them."""
    del app, what, name, obj, options
    lines[:] = convert(lines)


def setup(connect: Callable[..., Any]) -> None:
    """Connect the hook ahead of napoleon's."""
    connect("autodoc-process-docstring", process, priority=100)

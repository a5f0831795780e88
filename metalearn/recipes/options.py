"""Read options: what cannot be read is refused in one sentence that names the option and what it takes.

The options of a command are the fields of its dataclass, and take what the types of these fields allow
(`metalearn/ranges.py`). Words are checked here, then tyro builds the command from them; tyro also writes the help.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import inspect
import io
import re
import shutil
import textwrap
import typing
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, Literal, TypeVar

import tyro

from metalearn.errors import UsageError
from metalearn.ranges import Existing, Field, Place, allows, describe, fields_of, hints_of, members, refusal, rules_of

__all__ = ["check_words", "options_of", "positionals_of", "read"]

Command = TypeVar("Command")

# tyro's markers are written Marker[TYPE], which stands for Annotated[TYPE, ...].
_POSITIONAL: tuple[Any, ...] = typing.get_args(tyro.conf.Positional[int])[1:]
_HIDDEN: tuple[Any, ...] = typing.get_args(tyro.conf.Suppress[int])[1:]


def read(default: Command, words: Sequence[str], prog: str, usage: str = "[options]", description: str = "") -> Command:
    """The command that words describe.

    Args:
        default: a command, a dataclass with the options as fields; its values are the defaults.
        words: the words after the command's name.
        prog: the command's name, for the help.
        usage: what follows the name in the first line of the help; a line for each way to call it.
        description: the text at the head of the help; empty: the command's docstring.

    Raises:
        UsageError: a word cannot be read; names the option and what it takes.
        SystemExit: after the help.
    """
    text = inspect.cleandoc(description or str(type(default).__doc__))
    if any(word in ("-h", "--help") for word in words):
        _print_help(default, prog, usage, text)
    checked, said = check_words(default, words, prog, re.findall(r"--[a-z-]+", usage)), io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(type(default), default=default, args=checked, prog=prog, description=text)
    except SystemExit:  # each value is right by itself, and a configuration refuses them together
        raise UsageError(_without_frame(said.getvalue())) from None


def _without_frame(text: str) -> str:
    """What tyro says in a frame of several lines, as one sentence that names the options' common beginning."""
    words = " ".join(line.strip(" │|") for line in text.splitlines())
    found = re.search(r"Error parsing (?:config\.)?([\w.]+): (.*?)\s*(?:[─-]{9}|$)", words)
    return f"--{found[1].replace('_', '-')}: {found[2]}" if found else words


def check_words(command: Any, words: Sequence[str], prog: str, taken: Sequence[str] = ()) -> list[str]:
    """The same words in the form that tyro reads: `none` as `None`, and the home folder for `~`.

    Args:
        command: a command, a dataclass with the options as fields.
        words: the words after the command's name.
        prog: the command's name.
        taken: options that were read before, and may be meant by a word that is spelt alike.

    Raises:
        UsageError: a word that is no option, a value that an option does not take, or no value where one is needed.
    """
    options, positionals = options_of(command), positionals_of(command)
    checked: list[str] = []
    rest, before = list(words), ""
    while rest:
        word = rest.pop(0)
        if not word.startswith("--"):
            if not positionals:
                after = f" after {before}, which takes no value" if before else ""
                raise UsageError(f"unexpected word {word!r}{after}: {_where_words_go(prog)}")
            checked.append(_check_text(positionals.pop(0), word))
            before = ""
            continue
        name, equals, value = word.partition("=")
        name = name.replace("_", "-")
        field = options.get(name)
        if field is None:
            raise UsageError(_unknown_option(name, [*taken, *options], prog))
        if bool in members(field.hint):
            if equals:
                raise UsageError(f"{name} takes no value, got {value!r}: write {name} or {_negated(name)}")
            checked.append(name)
            before = name
            continue
        before = ""
        many = typing.get_origin(members(field.hint)[0]) is tuple
        values = [value] if equals else []
        while not equals and rest and not rest[0].startswith("--") and (many or not values):
            values.append(rest.pop(0))
        if not values and not many:
            raise UsageError(f"{name} needs a value: {describe(field.hint)}")
        checked += [name, *_check_texts(field, values)]
    missing = [field for field in positionals if field.value is tyro.MISSING]
    if missing:
        raise UsageError(f"{prog} needs {missing[0].name.upper()}: {describe(missing[0].hint)}")
    return checked


def options_of(command: Any) -> dict[str, Field]:
    """The options of a command as name -> field; a switch also under its negated name."""
    found = {}
    for field in _fields(command):
        if not _is_marked(field.hint, _POSITIONAL + _HIDDEN):
            found[field.option] = field
            if bool in members(field.hint):
                found[_negated(field.option)] = field
    return found


def positionals_of(command: Any) -> list[Field]:
    """The words that a command takes without an option, in order."""
    return [field for field in _fields(command) if _is_marked(field.hint, _POSITIONAL)]


def _fields(command: Any) -> Iterator[Field]:
    hints = hints_of(type(command))
    for entry in dataclasses.fields(command):
        value, metadata = getattr(command, entry.name), getattr(hints[entry.name], "__metadata__", ())
        if dataclasses.is_dataclass(value):
            hidden = any(getattr(item, "name", None) == "" for item in metadata)  # tyro.conf.arg(name="")
            yield from fields_of(value, "" if hidden else f"{entry.name}.")
        else:
            yield Field(entry.name, hints[entry.name], value)


def _is_marked(hint: Any, marker: tuple[Any, ...]) -> bool:
    metadata = getattr(hint, "__metadata__", ())
    return bool(metadata) and any(item is mark for mark in marker for item in metadata)


def _check_texts(field: Field, texts: list[str]) -> list[str]:
    hint = next((m for m in members(field.hint) if typing.get_origin(m) is tuple), None)
    if hint is None:
        return [_check_text(field, text) for text in texts]
    item = Field(field.name, typing.get_args(hint)[0], None)
    checked = [_check_text(item, text) for text in texts]
    values = tuple(_values(item.hint, text)[0] for text in checked)
    if not allows(field.hint, values):
        raise UsageError(refusal(field.option, field.hint, values))
    return checked


def _check_text(field: Field, text: str) -> str:
    """The text as tyro reads it; an error if it is not a value of the field."""
    if type(None) in members(field.hint) and text.lower() == "none":
        return "None"
    is_place = Path in members(field.hint) or any(isinstance(rule, Place) for rule in rules_of(field.hint))
    text = str(Path(text).expanduser()) if is_place and text.startswith("~") else text
    values = _values(field.hint, text)
    if not any(allows(field.hint, value) for value in values):
        name = field.name.upper() if _is_marked(field.hint, _POSITIONAL) else field.option
        raise UsageError(refusal(name, field.hint, values[0] if values and isinstance(values[0], int) else text))
    kind = next((rule.kind for rule in rules_of(field.hint) if isinstance(rule, Existing)), None)
    if kind is not None and not Path(text).exists():
        raise UsageError(f"{field.option} must name a {kind} on this machine, and there is no {text!r}")
    return text


def _values(hint: Any, text: str) -> list[Any]:
    """What a text can stand for, by the types that a hint allows."""
    found: list[Any] = []
    for member in members(hint):
        if member in (int, float):
            try:
                found.append(member(text))
            except (ValueError, OverflowError):
                continue
        elif typing.get_origin(member) is Literal:
            found += [value for value in typing.get_args(member) if str(value) == text]
        elif member is Path:
            found += [Path(text)] if text else []  # an empty path would be the present folder
        elif member is not type(None):
            found.append(text)
    return found


def _negated(option: str) -> str:
    head, dot, last = option.removeprefix("--").rpartition(".")
    return f"--{head}{dot}no-{last}"


def _unknown_option(name: str, options: Sequence[str], prog: str) -> str:
    near = difflib.get_close_matches(name, options, n=3, cutoff=0.6)
    # Options whose last part is the same are meant more often than those that are spelt alike.
    near = list(dict.fromkeys([*(o for o in options if o.rpartition(".")[2] == name.lstrip("-")), *near]))[:3]
    hint = f" Did you mean {' or '.join(near)}?" if near else ""
    return f"unknown option {name}.{hint} `{prog} --help` lists all"


def _where_words_go(prog: str) -> str:
    places = {
        "metalearn train": "the preset comes first, `metalearn train PRESET --steps 500`",
        "metalearn sweep": "the preset comes first, `metalearn sweep PRESET --grid FIELD=VALUE,VALUE`",
        "metalearn train-optimizer": "the optimizer comes first, `metalearn train-optimizer OPTIMIZER --steps 500`",
    }
    return places.get(prog, f"`{prog} --help` shows what it takes")


def _print_help(default: Any, prog: str, usage: str, description: str) -> None:
    """Print a first line and a description of our own, then tyro's table of options; then exit."""
    written = io.StringIO()
    with redirect_stdout(written), contextlib.suppress(SystemExit):
        tyro.cli(type(default), default=default, args=["--help"], prog=prog, description="")
    _, _, table = written.getvalue().partition("\n\n")
    columns = min(shutil.get_terminal_size().columns, 100)
    paragraphs = [  # an indented one is an example
        part if part.startswith(" ") else textwrap.fill(part, columns) for part in description.split("\n\n")
    ]
    print("usage: " + "\n       ".join(f"{prog} {line}" for line in usage.split("\n")))
    print("\n" + "\n\n".join(paragraphs) + "\n\n" + table.strip("\n"))
    raise SystemExit(0)

"""The command line of every experiment: `python -m experiments NAME [PRESET] [options]`.

The contract of a module in `experiments.catalogue`. It has one of three forms.

An experiment on in-context learners defines `EXPERIMENT`, see `experiments.suite.experiment`.

Every other experiment defines

- `PRESETS: dict[str, Config]`: settings by name, the default first. `Config` is a frozen dataclass with a docstring
  under each field, which is the help of the option. It has no field `json`: `--json` is added here.
- `run(config, progress=None) -> result`: compute, write files and pictures, return JSON values. `progress` is a
  `metalearn.runs.progress.Progress`; the command passes the default one. Functions that print have no place here:
  what a person should read meanwhile goes to `progress.note`.
- `format_result(result) -> str`: what is printed when it has ended, with the path of the picture.
- `SCORE`, optional: the name of the score that `progress` shows, "accuracy" by default.
- `prepare_process()`, optional: environment variables and CPU affinity; called before JAX has made its devices.

A tool, whose command line has words of its own, defines a frozen dataclass `Options` in the place of `PRESETS`.

The command returns 0 when all went well and 1 otherwise. Errors a person can mend (`MetalearnError`, `ValueError`,
`OSError`, `FloatingPointError`) are one line on stderr; others keep their traceback.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Generic, NamedTuple, TypeVar

import tyro

from experiments.catalogue import EXPERIMENTS, find_module
from experiments.suite import run as suite
from metalearn.errors import MetalearnError, UnknownNameError, unknown_name
from metalearn.runs.progress import default_progress, duration

__all__ = ["Parsed", "Suite", "parse", "run_command"]

S = TypeVar("S")


@dataclass(frozen=True)
class Command(Generic[S]):
    """The options of an experiment."""

    settings: Annotated[S, tyro.conf.arg(name="")]
    json: bool = False
    """Print the result as one JSON object, the last line of stdout."""


@dataclass(frozen=True)
class Suite(Generic[S]):
    """The options of an experiment on in-context learners."""

    settings: Annotated[S, tyro.conf.arg(name="")]
    out: Path | None = None
    """Folder of runs, table and picture; the same command continues what is in it. None: runs/NAME-PRESET."""
    workers: int | None = None
    """Worker processes. None: one per core, or a single one if there is an accelerator. 0: run in this process."""
    storage: str | None = None
    """Database URL of the sweep. None: an SQLite file in the folder. Machines that are given the same storage and a
    folder that all of them can reach share the work."""
    json: bool = False
    """Print the result as one JSON object, the last line of stdout."""


class Parsed(NamedTuple):
    """A command line that was read.

    Attributes:
        name: of the experiment.
        module: its full name.
        preset: its preset; "" for a tool.
        options: a `Command` or a `Suite`.
    """

    name: str
    module: str
    preset: str
    options: Any


def parse(name: str, words: Sequence[str]) -> Parsed:
    """Read a command line.

    Args:
        name: of the experiment.
        words: what follows it.

    Raises:
        UnknownNameError: no experiment or none of its presets has this name; with the nearest names.
        SystemExit: options that do not exist, or `--help`; tyro has said so.
    """
    path = find_module(name)
    module, words = importlib.import_module(path), list(words)
    is_suite = hasattr(module, "EXPERIMENT")
    form: Any = Suite if is_suite else Command
    presets = suite.load(path).presets if is_suite else getattr(module, "PRESETS", None)
    description = str(module.__doc__)
    if presets is None:
        return Parsed(name, path, "", _read_options(name, description, words, form[module.Options]))
    preset = words.pop(0) if words and not words[0].startswith("-") else next(iter(presets))
    if preset not in presets:
        raise unknown_name("preset", preset, presets)
    described = ", ".join(f"{name} ({time})" if time else name for name, time in EXPERIMENTS[name].times.items())
    options = _read_options(
        f"{name} [{'|'.join(presets)}]",
        f"{description}\nPresets: {described}. Defaults below: {preset}.",
        words,
        form[type(presets[preset])],
        form(presets[preset]),
    )
    return Parsed(name, path, preset, options)


def _read_options(usage: str, description: str, words: list[str], form: Any, default: Any = None) -> Any:
    given = {} if default is None else {"default": default}
    return tyro.cli(form, args=words, prog=f"python -m experiments {usage}", description=description, **given)


def run_command(name: str, words: Sequence[str]) -> int:
    """Read a command line, run the experiment and print its result; returns the exit status."""
    try:
        path = find_module(name)
    except UnknownNameError as error:
        print(f"experiments: {error}", file=sys.stderr)
        return 1
    try:
        module = importlib.import_module(path)
        if hasattr(module, "prepare_process"):
            module.prepare_process()
        parsed = parse(name, words)
        if isinstance(parsed.options, Suite):
            return _run_suite(parsed, parsed.options)
        result = module.run(parsed.options.settings, default_progress(getattr(module, "SCORE", "accuracy")))
    except (MetalearnError, ValueError, OSError, FloatingPointError) as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{name}: stopped", file=sys.stderr)
        return 130
    print(module.format_result(result))
    if parsed.options.json:
        print(json.dumps(result))
    return 0


def _run_suite(parsed: Parsed, options: Suite[Any]) -> int:
    """Run an experiment on in-context learners and print what came of it; returns the exit status."""
    experiment = suite.load(parsed.module)
    out = options.out or Path("runs") / f"{experiment.name}-{parsed.preset}"
    try:
        result = suite.run(
            parsed.module,
            options.settings,
            out,
            preset=parsed.preset,
            workers=options.workers,
            storage=options.storage,
        )
    except KeyboardInterrupt:
        print(f"{experiment.name}: stopped; the same command continues", file=sys.stderr)
        return 130
    print(experiment.table(result))
    print(f"\nclaim:   {result['claim']}\nverdict: {result['summary']['verdict']}: {result['summary']['words']}")
    print(f"picture: {out / (experiment.name + '.png')}")
    print(f"time:    {duration(result['seconds'])}, {duration(result['cell_seconds'])} of workers in all")
    for name, reason in result["failed"].items():
        print(f"failed:  {name}: {reason}", file=sys.stderr)
    if options.json:
        print(json.dumps(result))
    return 1 if result["failed"] else 0

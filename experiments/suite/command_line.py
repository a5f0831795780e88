"""The command line of the experiments: `python -m experiments NAME [quick|standard|paper] [options]`."""

from __future__ import annotations

import dataclasses
import importlib
import json
import sys
from pathlib import Path
from typing import Annotated, Generic, TypeVar

import tyro

from experiments.suite import run as suite
from metalearn.errors import MetalearnError, unknown_name
from metalearn.runs.progress import duration

S = TypeVar("S")


@dataclasses.dataclass(frozen=True)
class Command(Generic[S]):
    """The command line of an experiment."""

    settings: Annotated[S, tyro.conf.arg(name="")]
    out: Path | None = None
    """Folder of runs, table and picture; the same command goes on with what is in it. None: runs/NAME-PRESET."""
    workers: int | None = None
    """Worker processes; none: one a core, or one in all where there is an accelerator; 0: run in this process."""
    storage: str | None = None
    """Where the sweep is kept, as a database URL; none: an SQLite file in the folder. Machines that are given the same
    storage and a folder that all can reach share the work."""
    json: bool = False
    """Print one JSON object as the last line."""


def command(module: str) -> int:
    """The command line of an experiment; returns the exit status."""
    experiment, words = suite.load(module), sys.argv[1:]
    preset = words.pop(0) if words and not words[0].startswith("-") else next(iter(experiment.presets))
    try:
        if preset not in experiment.presets:
            raise unknown_name("preset", preset, experiment.presets)
        settings = experiment.presets[preset]
        options = tyro.cli(
            Command[type(settings)],  # pyright: ignore[reportInvalidTypeArguments]
            default=Command(settings),
            args=words,
            prog=f"python -m {module} [{'|'.join(experiment.presets)}]",
            description=f"{importlib.import_module(module).__doc__}\nPreset: {preset}.",
        )
        out = options.out or Path("runs") / f"{experiment.name}-{preset}"
        result = suite.run(
            module, options.settings, out, preset=preset, workers=options.workers, storage=options.storage
        )
    except (MetalearnError, ValueError, OSError) as error:
        print(f"{experiment.name}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{experiment.name}: stopped; the same command goes on", file=sys.stderr)
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

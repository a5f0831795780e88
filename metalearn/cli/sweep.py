"""`metalearn sweep`: meta-train many configurations, by grid or at random, over any number of workers and machines."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

import tyro

from metalearn.cli.arguments import describe, run_folder, take_preset
from metalearn.errors import RunError, UsageError
from metalearn.ranges import PathName
from metalearn.recipes.in_context.config import TrainConfig, with_absolute_places
from metalearn.recipes.in_context.sweep import SweepConfig, run
from metalearn.recipes.options import read
from metalearn.recipes.outer_optimizer import with_short_warmup
from metalearn.runs.folder import note_on_stderr

__all__ = ["SweepCommand", "main", "table"]


@dataclass(frozen=True)
class SweepCommand:
    """Meta-train many configurations, by grid or at random.

    A FIELD is any option of `metalearn train PRESET` without its leading dashes: learner.width,
    outer-optimizer.learning-rate, family.num-tasks. The same command with the same --out continues with what is left.
    With the same --storage and a folder that all can reach, any number of machines share the work. Example:

        metalearn sweep digits --grid learner.width=32,64 family.num-tasks=64,512 --seeds 3 --out runs/widths

    Presets: {presets}.

    Learners: {learners}.
    """

    config: Annotated[TrainConfig, tyro.conf.arg(name="")]
    sweep: Annotated[SweepConfig, tyro.conf.arg(name="")] = field(default_factory=SweepConfig)
    out: PathName | None = None
    """Folder of the sweep and its runs; None: runs/sweep-PRESET-DATE-TIME."""
    json: bool = False
    """Print one JSON object as the last line."""


def table(rows: Sequence[Mapping[str, Any]], regression: bool) -> str:
    """The rows as text, one per configuration: the mean score on unseen tasks, and the least and greatest of a seed.

    Args:
        rows: as `metalearn.recipes.in_context.sweep.summarise` makes them.
        regression: whether the scores are squared errors, which the rows have with a minus.
    """
    measure, sign = ("squared error", -1.0) if regression else ("accuracy", 1.0)
    width, first = max(len("configuration"), *(len(row["name"]) for row in rows)), max(8, len(measure))
    head = f"{'configuration':<{width}} {measure:>{first}} {'from':>8} {'to':>8} {'done':>5} {'early':>6} {'failed':>7}"
    lines = [head]
    for row in rows:
        values = [sign * value for value in row["values"]]
        mean = None if row["mean"] is None else sign * row["mean"]
        mean, low, high = (
            "" if v is None else f"{v:.4f}" for v in (mean, min(values, default=None), max(values, default=None))
        )
        ends = f"{row['done']:>5} {row['stopped early']:>6} {row['failed']:>7}"
        lines.append(f"{row['name']:<{width}} {mean:>{first}} {low:>8} {high:>8} {ends}")
    return "\n".join(lines)


def main(argv: Sequence[str]) -> None:
    """The command: parse, sweep, print."""
    words = list(argv)
    preset, config = take_preset(words)
    for option in ("--grid", "--random"):  # tyro would take the last one alone
        if sum(word == option or word.startswith(option + "=") for word in words) > 1:
            raise UsageError(f"{option} is there twice: name all its fields behind one, {option} FIELD=... FIELD=...")
    usage = "[PRESET] [--learner NAME] --grid FIELD=VALUE,VALUE,... [options]"
    command = read(SweepCommand(config), words, "metalearn sweep", usage, describe(SweepCommand))
    base = with_absolute_places(command.config)
    optimizer = with_short_warmup(base.outer_optimizer, config.outer_optimizer, base.steps, note_on_stderr)
    with run_folder(command.out, f"sweep-{preset}") as out:
        found = run(dataclasses.replace(base, outer_optimizer=optimizer), command.sweep, out)
    print(table(found.rows, found.regression))
    print(f"\npicture: {found.picture}\nsweep:   {out}")
    if command.json:
        print(json.dumps(found.values))
    if found.failed:
        first = found.failed[0]
        raise RunError(
            f"{len(found.failed)} of {found.values['cells']} cells failed, the others are safe; the same command tries "
            f"them again. The first: {first.name}: {first.error}"
        )

"""`metalearn sweep`: meta-train many configurations, by grid or at random, over any number of workers and machines."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import tyro

from metalearn.cli.arguments import take
from metalearn.cli.train import described
from metalearn.errors import RunError, unknown_name
from metalearn.pictures import draw_sweep, new_figure, save
from metalearn.recipes.in_context.build import prepare
from metalearn.recipes.in_context.config import TrainConfig, to_json, with_learner
from metalearn.recipes.in_context.fits import check_largest
from metalearn.recipes.in_context.presets import PRESETS
from metalearn.recipes.in_context.sweep import _left, axes, configured, run_trial, summarised, swept
from metalearn.runs.files import write_atomically
from metalearn.runs.folder import as_json, finite_or_null
from metalearn.sweeps import Cell, Halving, Plan, cell_name, grid, run_sweep, sampled
from metalearn.sweeps.study import storage_url
from metalearn.sweeps.workers import worker_count


@dataclass(frozen=True)
class SweepCommand:
    """Meta-train many configurations: metalearn sweep [PRESET] --grid FIELD=VALUE,VALUE,... [options].

    Presets: {presets}. Learners: {learners}.
    A FIELD is any option of `metalearn train PRESET`, without its dashes in front: learner.width,
    outer-optimizer.learning-rate, family.num-tasks. The same command with the same --out continues
    with what is left, here or, with the same --storage and a folder that all can reach, on any number of machines at
    once. Example:

        metalearn sweep digits --grid learner.width=32,64 family.num-tasks=64,512 --seeds 3 --out runs/widths
    """

    config: Annotated[TrainConfig, tyro.conf.arg(name="")]
    grid: tuple[str, ...] = ()
    """FIELD=VALUE,VALUE,...: every combination of the values of all fields is run."""
    random: tuple[str, ...] = ()
    """FIELD=LOW..HIGH, uniform; FIELD=LOW..HIGH:log, uniform in the logarithm; whole numbers where both ends are
    written so; or FIELD=VALUE,VALUE,...: --trials draws of all of them."""
    trials: int = 20
    """With --random: number of draws, equal ones counted once; each is run with every combination of --grid and every
    seed."""
    seeds: int = 1
    """Runs of each configuration, with seeds from --seed on."""
    halving: bool = False
    """Asynchronous successive halving: stop runs that are behind at their first evaluation after 1/9 and after 1/3 of
    --steps, two of three each time; --evaluate-every should be no more than 1/9 of them."""
    out: Path | None = None
    """Folder of the sweep and its runs; none: runs/sweep-PRESET-DATE-TIME."""
    storage: str | None = None
    """Where the sweep is kept, as a database URL; none: an SQLite file in the folder."""
    workers: int | None = None
    """Worker processes; none: one a core, or one in all where there is an accelerator; 0: run in this process."""
    json: bool = False
    """Print one JSON object as the last line."""


def cells_of(command: SweepCommand) -> list[Cell]:
    """What the command asks to be run: draws x grid x seeds.

    Raises:
        ValueError: nothing is swept, or the axes do not fit, see `axes`.
    """
    if command.seeds < 1:
        raise ValueError(f"a configuration needs at least 1 seed, got {command.seeds}")
    fixed, free = axes(command.grid, command.random)
    if "seed" in fixed or "seed" in free:
        raise ValueError("seeds are swept with --seeds N, beginning at --seed")
    if not fixed and not free and command.seeds == 1:
        raise ValueError("nothing is swept: give --grid FIELD=VALUE,VALUE, --random FIELD=LOW..HIGH or --seeds N")
    draws = sampled(free, command.trials, command.config.seed) if free else [{}]
    draws = list({cell_name(draw): draw for draw in draws}.values())  # short lists are drawn from more than once
    seeds = [command.config.seed + i for i in range(command.seeds)]
    return [{**draw, **point, "seed": seed} for seed in seeds for draw in draws for point in grid(fixed)]


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows as text."""
    width = max(len("configuration"), *(len(row["name"]) for row in rows))
    lines = [f"{'configuration':<{width}} {'value':>8} {'from':>8} {'to':>8} {'done':>5} {'early':>6} {'failed':>7}"]
    for row in rows:
        numbers = [row["mean"], min(row["values"], default=None), max(row["values"], default=None)]
        cells = "".join(f"{'' if v is None else format(v, '.4f'):>9}" for v in numbers)
        lines.append(f"{row['name']:<{width}}{cells} {row['done']:>5} {row['stopped early']:>6} {row['failed']:>7}")
    return "\n".join(lines)


def main(argv: Sequence[str]) -> None:
    """The command: parse, sweep, print."""
    words = list(argv)
    learner = take(words, "--learner")
    preset = words.pop(0) if words and not words[0].startswith("-") else "digits"
    if preset not in PRESETS:
        raise unknown_name("preset", preset, PRESETS)
    config = PRESETS[preset][1]
    config = config if learner is None else with_learner(config, learner)
    for option in ("--grid", "--random"):  # tyro would take the last one alone
        if sum(word == option or word.startswith(option + "=") for word in words) > 1:
            raise ValueError(f"{option} is there twice: name all its fields behind one, {option} FIELD=... FIELD=...")
    command = tyro.cli(
        SweepCommand,
        default=SweepCommand(config),
        args=words,
        prog="metalearn sweep",
        description=described(SweepCommand),
    )
    out = command.out or Path("runs") / f"sweep-{preset}-{time.strftime('%Y%m%d-%H%M%S')}"
    cells = cells_of(command)
    for field, value in dict.fromkeys((f, v) for cell in cells for f, v in cell.items()):
        configured(command.config, {field: value})  # what cannot be configured is refused before anything is run
    prepare(configured(command.config, cells[0]))
    check_largest(_left(command.config, cells, out), worker_count(command.workers))
    steps = command.config.steps
    plan = Plan(out.resolve().name, {"command": "metalearn sweep", "config": to_json(command.config)}, cells)
    run = partial(run_trial, to_json(command.config), out)
    halving = Halving(max(1, steps // 9)) if command.halving else None
    url = storage_url(command.storage, out)
    found = run_sweep(plan, url, run, workers=command.workers, compiled=out / "compiled", halving=halving)
    rows = summarised(found)
    told = [r._asdict() for r in found]
    result = finite_or_null(as_json({"sweep": plan.name, "cells": len(found), "configurations": rows, "records": told}))
    out.mkdir(parents=True, exist_ok=True)  # others may have run everything, elsewhere
    write_atomically(out / "sweep.json", (json.dumps(result, indent=1) + "\n").encode())
    figure, panels = new_figure(columns=max(1, len(swept(cells))), width=3.6)
    for ax, field in zip(panels, swept(cells) or ["seed"], strict=True):
        draw_sweep(ax, field, [(r.cell.get(field), r.value, r.state) for r in found if r.value is not None])
    save(figure, out / "sweep.png")
    print(table(rows))
    print(f"\npicture: {out / 'sweep.png'}\nsweep:   {out}")
    if command.json:
        print(json.dumps(result))
    failed = [r for r in found if r.state == "failed"]
    if failed:
        raise RunError(
            f"{len(failed)} of {len(found)} cells failed, the others are safe; the same command tries them again. "
            f"The first: {failed[0].name}: {failed[0].error}"
        )

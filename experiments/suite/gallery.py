"""The gallery: every figure beside its command, its run time, the paper's claim and a verdict in words.

    python -m experiments gallery           # docs/gallery.md from docs/results and from what is newer in runs/

Takes the results of each experiment on in-context learners from `runs/NAME-PRESET/result.json` and from the copies of
earlier ones in docs/results, the newest of each preset; of those with settings of their own only where it has no other.
Summarises its rows anew, keeps a copy, draws the picture from it, and writes the page.
"""

from __future__ import annotations

import importlib
import json
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.catalogue import find_module
from experiments.suite.compute import format_compute
from experiments.suite.experiment import Experiment, load
from experiments.suite.results import read_result, settings_of
from metalearn.errors import RunError
from metalearn.runs.files import write_atomically
from metalearn.runs.json_values import as_json, finite_or_null
from metalearn.runs.progress import Progress, duration

EXPERIMENTS = ("phase_diagram", "transition", "state_size", "plateau", "generalisation", "mechanism")
HEADING = """# Gallery

What the experiments on in-context learners show, each with the command that makes it, the time that took, what
Kirsch, Harrison, Sohl-Dickstein, Metz 2022 ([2212.04458](https://arxiv.org/abs/2212.04458)) claim, and a verdict by a
written rule: *reproduced*, *not reproduced*, *beyond* what the paper shows, or *open*. The rule is in the docstring of
`summarise` of each experiment, which says so where it was changed after a run had been seen.
`python -m experiments gallery` writes this page from `docs/results/`.

Brackets around means and differences are 95 % intervals by Student's t. Those of numbers of tasks, of ratios of steps
and of exponents are the middle 95 % over resampled seeds: they show how far the seeds at hand lie apart, and of two or
three they hold the true value less often, that of a mean of normal ones in half or three quarters of all cases
(`coverage` in `experiments/suite/intervals.py`). Those of rank correlations are over resampled configurations.
"""


@dataclass(frozen=True)
class Options:
    """Write the gallery."""

    runs: Path = Path("runs")
    """Folder in which experiments have left their folders."""
    docs: Path = Path("docs")
    """Folder of the page, the pictures and the copies of results."""


def to_show(name: str, options: Options) -> list[dict[str, Any]]:
    """The results of an experiment to show, the newest of each preset; see above.

    Raises:
        RunError: a result cannot be read, or is another version's.
    """
    paths = [*options.runs.glob(f"{name}-*/result.json"), *(options.docs / "results").glob(f"{name}-*.json")]
    found = [result for result in map(read_result, paths) if result["experiment"] == name]
    presets = load(find_module(name)).presets
    by_preset = [[result for result in found if result["preset"] == preset] for preset in presets]
    return [max(own, key=_rank) for own in by_preset if own]


def _rank(result: dict[str, Any]) -> tuple[Any, ...]:
    """Of two results of a preset the one with its own settings is shown, then the newer, then the later measured."""
    return not changed(result), result["environment"]["time"], result.get("compute", {}).get("time", "")


def changed(result: dict[str, Any]) -> str:
    """The options that make of a result's preset its settings: ` --steps 100 --seeds 1`; empty when nothing does."""
    preset = as_json({"": load(find_module(result["experiment"])).presets[result["preset"]]})[""]
    differing = {k: v for k, v in result["settings"].items() if preset.get(k) != v}
    words = {k: shlex.join(map(str, v if isinstance(v, list) else [v])) for k, v in differing.items()}
    return "".join(f" --{k.replace('_', '-')} {v}".rstrip() for k, v in words.items())


def summarised(result: dict[str, Any]) -> dict[str, Any]:
    """A result with the summary that today's code makes of its rows."""
    made = load(find_module(result["experiment"])).summarise(settings_of(result), result["rows"])
    return {**result, "summary": finite_or_null(as_json(made))}


def shared_copy(result: dict[str, Any]) -> dict[str, Any]:
    """A result without what is only of interest on the machine where it was made."""
    kept = ("metalearn", "jax", "python", "devices", "time")
    return {**result, "environment": {k: v for k, v in result["environment"].items() if k in kept}}


def section(experiment: Experiment, result: dict[str, Any]) -> str:
    """The part of the page that one result has."""
    name, preset, summary = experiment.name, result["preset"], result["summary"]
    failed = f", {len(result['failed'])} of them failed" if result["failed"] else ""
    time = f"{duration(result['cell_seconds'])} of single workers in all, {result['environment']['devices']}"
    if result["seconds"]:
        time = f"{duration(result['seconds'])}; {time}"
    return "\n".join(
        [
            f"![{name}, {preset}]({name}-{preset}.png)",
            "",
            f"**{summary['verdict'].capitalize()}.** {summary['words'][0].upper()}{summary['words'][1:]}.",
            "",
            f"- Command: `python -m experiments {name} {preset}{changed(result)}`; {result['cells']} runs{failed}.",
            f"- Time: {time}.",
            *([f"- Compute: {format_compute(result['compute'])}."] if "compute" in result else []),
            "",
            "```",
            experiment.table(result),
            "```",
            "",
        ]
    )


def write(options: Options, note: Callable[[str], None] = lambda text: None) -> Path:
    """Write copies, pictures and the page; returns its path.

    Args:
        options: what to read and where to write.
        note: called with a line per result.

    Raises:
        RunError: a result cannot be read, or there is not one.
    """
    sections, missing = [], []
    for name in EXPERIMENTS:
        experiment, results = load(find_module(name)), to_show(name, options)
        if not results:
            missing.append(name)
            continue
        title = str(importlib.import_module(find_module(name)).__doc__).splitlines()[0].rstrip(".")
        sections.append(f"## {title}\n\nClaim: {experiment.claim}.\n")
        for result in map(shared_copy, map(summarised, results)):
            file = f"{name}-{result['preset']}"
            copy = options.docs / "results" / f"{file}.json"
            copy.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(copy, (json.dumps(result, separators=(",", ":")) + "\n").encode())
            experiment.draw(result, options.docs / f"{file}.png")
            sections.append(section(experiment, result))
            note(f"{name}: {result['preset']}, {result['summary']['verdict']}")
    if not sections:
        raise RunError(
            f"no result of {', '.join(EXPERIMENTS)} in {options.runs} or {options.docs / 'results'}: run one first, "
            "such as python -m experiments transition quick"
        )
    if missing:
        sections.append(f"Not run yet: {', '.join(missing)}.\n")
    page = options.docs / "gallery.md"
    write_atomically(page, "\n".join([HEADING, *sections]).encode())
    return page


def run(options: Options, progress: Progress | None = None) -> dict[str, Any]:
    """Write the gallery; returns the path of the page."""
    return {"page": str(write(options, progress.note if progress else lambda text: None))}


def format_result(result: dict[str, Any]) -> str:
    """What the command prints at the end."""
    return f"page: {result['page']}"

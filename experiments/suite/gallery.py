"""The gallery: every figure beside its command, its run time, the paper's claim and a verdict in words.

    python -m experiments gallery           # docs/gallery.md from docs/results and from newer results in runs/

Of each preset of each experiment on in-context learners the page shows the newest result, from
`runs/NAME-PRESET/result.json` or from the copies of earlier results in docs/results. A result with changed settings is
shown only if the preset has no other. Each result is summarised again by today's code, its copy is kept, and its
picture is drawn.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.catalogue import find_module, summary_line
from experiments.suite.compute import format_compute
from experiments.suite.experiment import Experiment, load
from experiments.suite.results import read_result, read_settings
from metalearn.errors import RunError
from metalearn.runs.files import write_atomically
from metalearn.runs.json_values import as_json, finite_or_null
from metalearn.runs.progress import Progress, duration

__all__ = ["EXPERIMENTS", "Options", "changed_options", "format_result", "run", "select_results", "write_page"]

EXPERIMENTS = ("phase_diagram", "transition", "state_size", "plateau", "generalisation", "recurrent", "mechanism")
"""The experiments on the page, in its order."""
HEADING = """# Gallery

What the experiments on in-context learners show, each with the command that makes it, the time that took, the claim of
Kirsch, Harrison, Sohl-Dickstein, Metz 2022 ([2212.04458](https://arxiv.org/abs/2212.04458)), and a verdict by a
written rule: *reproduced*, *not reproduced*, *beyond* what the paper shows, or *open*. The rule is in the docstring of
`summarise` of each experiment, which also says where the rule was changed after a run had been seen.
`python -m experiments gallery` writes this page from `docs/results/`.

Brackets around means and differences are 95 % intervals by Student's t. Brackets around numbers of tasks, ratios of
steps and exponents are the middle 95 % over resampled seeds. They reflect only the spread of the observed seeds: with
two or three seeds they are too narrow, and for a normal mean they cover the truth 51 % or 74 % of the time (`coverage`
in `experiments/suite/intervals.py`). Those of rank correlations are over resampled configurations.
"""


@dataclass(frozen=True)
class Options:
    """Write the gallery."""

    runs: Path = Path("runs")
    """Folder with the folders of experiments."""
    docs: Path = Path("docs")
    """Folder of the page, the pictures and the copies of results."""


def select_results(name: str, options: Options) -> list[dict[str, Any]]:
    """The results of an experiment that the page shows: the newest one per preset, in the order of its presets.

    Raises:
        RunError: a result cannot be read, or was written by another version.
    """
    paths = [*options.runs.glob(f"{name}-*/result.json"), *(options.docs / "results").glob(f"{name}-*.json")]
    results = [result for result in map(read_result, paths) if result["experiment"] == name]
    presets = load(find_module(name)).presets
    by_preset = [[result for result in results if result["preset"] == preset] for preset in presets]
    return [max(own, key=_rank) for own in by_preset if own]


def _rank(result: dict[str, Any]) -> tuple[Any, ...]:
    """Unchanged settings come before changed ones, then the newer run, then the later measurement of its compute."""
    return not changed_options(result), result["environment"]["time"], result.get("compute", {}).get("time", "")


def changed_options(result: dict[str, Any]) -> str:
    """The options that turn a result's preset into its settings: ` --steps 100 --seeds 1`; empty if there are none."""
    preset = as_json({"": load(find_module(result["experiment"])).presets[result["preset"]]})[""]
    differing = {k: v for k, v in result["settings"].items() if preset.get(k) != v}
    words = {k: shlex.join(map(str, v if isinstance(v, list) else [v])) for k, v in differing.items()}
    return "".join(f" --{k.replace('_', '-')} {v}".rstrip() for k, v in words.items())


def _summarise_again(result: dict[str, Any]) -> dict[str, Any]:
    """A result with the summary that today's code makes of its rows."""
    summary = load(find_module(result["experiment"])).summarise(read_settings(result), result["rows"])
    return {**result, "summary": finite_or_null(as_json(summary))}


def _without_machine(result: dict[str, Any]) -> dict[str, Any]:
    """A result without what matters only on the machine where it was made."""
    kept = ("metalearn", "jax", "python", "devices", "time")
    return {**result, "environment": {k: v for k, v in result["environment"].items() if k in kept}}


def _format_section(experiment: Experiment, result: dict[str, Any]) -> str:
    """The part of the page about one result."""
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
            f"- Command: `python -m experiments {name} {preset}{changed_options(result)}`; "
            f"{result['cells']} runs{failed}.",
            f"- Time: {time}.",
            *([f"- Compute: {format_compute(result['compute'])}."] if "compute" in result else []),
            "",
            "```",
            experiment.table(result),
            "```",
            "",
        ]
    )


def write_page(options: Options, note: Callable[[str], None] = lambda text: None) -> Path:
    """Write the copies of results, the pictures and the page.

    Args:
        options: what to read and where to write.
        note: called with one line per result.

    Returns:
        The path of the page.

    Raises:
        RunError: a result cannot be read, or there is none.
    """
    sections, missing = [], []
    for name in EXPERIMENTS:
        experiment, results = load(find_module(name)), select_results(name, options)
        if not results:
            missing.append(name)
            continue
        sections.append(f"## {summary_line(find_module(name))}\n\nClaim: {experiment.claim}.\n")
        for result in map(_without_machine, map(_summarise_again, results)):
            file = f"{name}-{result['preset']}"
            copy = options.docs / "results" / f"{file}.json"
            copy.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(copy, (json.dumps(result, separators=(",", ":")) + "\n").encode())
            experiment.draw(result, options.docs / f"{file}.png")
            sections.append(_format_section(experiment, result))
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
    return {"page": str(write_page(options, progress.note if progress is not None else lambda text: None))}


def format_result(result: dict[str, Any]) -> str:
    """What the command prints at the end."""
    return f"page: {result['page']}"

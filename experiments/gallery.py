"""The gallery: every figure beside its command, its run time, the paper's claim and a verdict in words.

    python -m experiments.gallery           # docs/gallery.md from docs/results and from what is newer in runs/

Takes the result of each experiment on in-context learners from `runs/NAME-PRESET/result.json` or from the copy of an
earlier one in docs/results, whichever preset is larger, or of equal ones the newer; those with settings of their own
come last. Keeps a copy, draws the picture anew from it, and writes the page.
"""

from __future__ import annotations

import importlib
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from experiments.spent import told
from experiments.suite import Experiment, load, read_result
from metalearn.errors import MetalearnError, RunError
from metalearn.files import write_atomically
from metalearn.progress import duration
from metalearn.runs import as_json

EXPERIMENTS = ("phase_diagram", "transition", "state_size", "plateau", "generalisation", "mechanism")
SIZES = ("quick", "standard", "paper")
HEADING = """# Gallery

What the experiments on in-context learners show, each with the command that makes it, the time that took, what
Kirsch, Harrison, Sohl-Dickstein, Metz 2022 ([2212.04458](https://arxiv.org/abs/2212.04458)) claim, and a verdict by a
rule that was written down before: *reproduced*, *not reproduced*, *beyond* what the paper shows, or *open*. The rule is
in the docstring of `summarise` of each experiment. `python -m experiments.gallery` writes this page from
`docs/results/`.
"""


@dataclass(frozen=True)
class Options:
    """Write the gallery."""

    runs: Path = Path("runs")
    """Folder in which experiments have left their folders."""
    docs: Path = Path("docs")
    """Folder of the page, the pictures and the copies of results."""


def newest(name: str, options: Options) -> dict[str, Any] | None:
    """The result of an experiment to show, see above; None: there is none.

    Raises:
        RunError: a result cannot be read, or is another version's.
    """
    paths = [*options.runs.glob(f"{name}-*/result.json"), options.docs / "results" / f"{name}.json"]
    found = [read_result(path) for path in paths if path.exists()]
    found = [result for result in found if result["experiment"] == name and result["preset"] in SIZES]
    rank = {size: i for i, size in enumerate(SIZES)}
    return max(found, key=lambda r: (not changed(r), rank[r["preset"]], r["environment"]["time"]), default=None)


def changed(result: dict[str, Any]) -> str:
    """What differs from the preset that a result is named after: `steps 100, seeds 1`; empty when nothing does."""
    preset = as_json({"": load(f"experiments.{result['experiment']}").presets[result["preset"]]})[""]
    return ", ".join(f"{k} {v}" for k, v in result["settings"].items() if preset.get(k) != v)


def shared_copy(result: dict[str, Any]) -> dict[str, Any]:
    """A result without what is only of interest on the machine where it was made."""
    kept = ("metalearn", "jax", "python", "devices", "time")
    return {**result, "environment": {k: v for k, v in result["environment"].items() if k in kept}}


def section(experiment: Experiment, result: dict[str, Any]) -> str:
    """The part of the page that one experiment has."""
    name, summary = experiment.name, result["summary"]
    title = str(importlib.import_module(f"experiments.{name}").__doc__).splitlines()[0]
    failed = f", {len(result['failed'])} of them failed" if result["failed"] else ""
    other = f", with {changed(result)}" if changed(result) else ""
    time = f"{duration(result['cell_seconds'])} of single workers in all, {result['environment']['devices']}"
    if result["seconds"]:
        time = f"{duration(result['seconds'])}; {time}"
    return "\n".join(
        [
            f"## {title.rstrip('.')}",
            "",
            f"![{name}]({name}.png)",
            "",
            f"**{summary['verdict'].capitalize()}.** {summary['words'][0].upper()}{summary['words'][1:]}.",
            "",
            f"- Claim: {result['claim']}.",
            f"- Command: `python -m experiments.{name} {result['preset']}`{other}; {result['cells']} runs{failed}.",
            f"- Time: {time}.",
            *([f"- Compute: {told(result['compute'])}."] if "compute" in result else []),
            "",
            "```",
            experiment.table(result),
            "```",
            "",
        ]
    )


def write(options: Options) -> Path:
    """Copies, pictures and the page; returns its path.

    Raises:
        RunError: a result cannot be read, or there is not one.
    """
    sections, missing = [], []
    for name in EXPERIMENTS:
        result = newest(name, options)
        if result is None:
            missing.append(name)
            continue
        result, experiment = shared_copy(result), load(f"experiments.{name}")
        copy = options.docs / "results" / f"{name}.json"
        copy.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(copy, (json.dumps(result, separators=(",", ":")) + "\n").encode())
        experiment.draw(result, options.docs / f"{name}.png")
        sections.append(section(experiment, result))
        print(f"{name}: {result['preset']}, {result['summary']['verdict']}")
    if not sections:
        raise RunError(
            f"no result of {', '.join(EXPERIMENTS)} in {options.runs} or {options.docs / 'results'}: run one first, "
            "such as python -m experiments.transition quick"
        )
    if missing:
        sections.append(f"Not run yet: {', '.join(missing)}.\n")
    page = options.docs / "gallery.md"
    write_atomically(page, "\n".join([HEADING, *sections]).encode())
    return page


def main() -> int:
    """The command; returns the exit status."""
    try:
        page = write(tyro.cli(Options, prog="python -m experiments.gallery", description=__doc__))
    except (MetalearnError, OSError) as error:
        print(f"gallery: {error}", file=sys.stderr)
        return 1
    print(f"page: {page}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

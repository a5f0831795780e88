"""`metalearn list`: presets, learners, tasks, optimizers, objectives, shipped weights and data sets by name."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import tyro

from metalearn.recipes.in_context.presets import PRESETS
from metalearn_models.learners.library import shipped
from metalearn_models.learners.registry import LEARNERS
from metalearn_models.optimizers.library import OPTIMIZERS
from metalearn_models.optimizers.library import shipped as optimizers_shipped
from metalearn_tasks.datasets.load import names
from metalearn_tasks.objectives.library import OBJECTIVES


@dataclass(frozen=True)
class ListCommand:
    """Presets, learners and data sets by name."""

    json: bool = False
    """Print one JSON object as the last line."""


def main(argv: Sequence[str]) -> None:
    """The command: print the names, a line each."""
    command = tyro.cli(ListCommand, args=list(argv), prog="metalearn list")
    sections = {
        "presets (metalearn train NAME)": {name: text for name, (text, _) in PRESETS.items()},
        "learners (--learner NAME)": {n: e.description for n, e in LEARNERS.items() if e.meta_learned},
        "reference learners (metalearn evaluate RUN --references NAME ...)": {
            n: e.description for n, e in LEARNERS.items() if not e.meta_learned
        },
        "families of tasks (the presets' --family options)": {
            "projected": "randomly projected classification over a data set (Kirsch et al. 2022)",
            "regression": "linear, sparse, sinusoid, network, tree (Garg et al. 2022; Finn et al. 2017)",
        },
        "learned optimizers (metalearn train-optimizer NAME)": {n: e.description for n, e in OPTIMIZERS.items()},
        "objectives (train-optimizer's --objective NAME)": {
            f"{n}-DATA" if e.over_data else n: e.description for n, e in OBJECTIVES.items()
        },
        "meta-trained optimizers (metalearn_models.optimizers.load)": {name: "" for name in optimizers_shipped()},
        "shipped weights (InContextClassifier(weights=NAME))": {name: "" for name in shipped()},
        "data sets (--data.source NAME, or any tensorflow-datasets name or prepared folder)": names(),
    }
    for title, entries in sections.items():
        print(title)
        for name, text in entries.items():
            print(f"  {name:<18} {text}")
        print()
    if command.json:
        print(json.dumps({title.partition(" (")[0]: list(entries) for title, entries in sections.items()}))

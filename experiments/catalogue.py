"""Every experiment and every tool for experiments by name: the module that runs it, and how long its presets take.

No experiment is imported: `python -m experiments --list` reads only the first lines of the files.
The contract of such a module is in `experiments.suite.command_line`.
"""

from __future__ import annotations

import ast
from pathlib import Path
from typing import NamedTuple

from metalearn.errors import unknown_name

__all__ = ["EXPERIMENTS", "Entry", "find_module", "format_list", "summary_line"]

ROOT = Path(__file__).parents[1]
ACCELERATOR = "the published size, for an accelerator"


class Entry(NamedTuple):
    """An experiment or a tool in the catalogue.

    Attributes:
        module: its full name; the part after `experiments` is the room.
        times: by preset, in the order of the module, how long it takes on two cores; "" where nobody has measured it.
            Empty for a tool, which has no presets.
    """

    module: str
    times: dict[str, str]


EXPERIMENTS: dict[str, Entry] = {
    "transition": Entry(
        "experiments.in_context.transition", {"quick": "minutes", "standard": "30 min", "paper": ACCELERATOR}
    ),
    "phase_diagram": Entry(
        "experiments.in_context.phase_diagram.experiment",
        {"quick": "13 min", "standard": "47 min", "long": "2 h 35 min", "paper": ACCELERATOR},
    ),
    "state_size": Entry(
        "experiments.in_context.state_size.experiment",
        {"quick": "minutes", "standard": "40 min", "paper": ACCELERATOR},
    ),
    "plateau": Entry(
        "experiments.in_context.plateau.experiment",
        {"quick": "8 min", "standard": "over an hour", "paper": ACCELERATOR},
    ),
    "generalisation": Entry(
        "experiments.in_context.generalisation.experiment",
        {"quick": "minutes", "standard": "20 min", "paper": ACCELERATOR},
    ),
    "recurrent": Entry("experiments.in_context.recurrent", {"quick": "", "standard": ""}),
    "mechanism": Entry(
        "experiments.in_context.mechanism.experiment", {"quick": "4 min", "standard": "18 min", "paper": ACCELERATOR}
    ),
    "estimator_variance": Entry("experiments.gradients.estimator_variance", {"standard": "26 s"}),
    "influence_balancing": Entry("experiments.gradients.influence_balancing", {"standard": "13 s"}),
    "lorenz": Entry("experiments.gradients.lorenz", {"standard": "27 s"}),
    "schedule_2d": Entry("experiments.gradients.schedule_2d", {"standard": "17 s"}),
    "population_shaping": Entry("experiments.gradients.population_shaping", {"standard": "10 min", "quick": "15 s"}),
    "es_in_context": Entry("experiments.gradients.es_in_context", {"standard": "5.5 min", "quick": ""}),
    "learning_to_learn": Entry("experiments.learned_optimizers.learning_to_learn", {"standard": "", "quick": ""}),
    "optimizer_suite": Entry(
        "experiments.learned_optimizers.unseen_tasks.experiment", {"standard": "", "quick": "", "long": ""}
    ),
    "compass_ablation": Entry("experiments.learned_optimizers.unseen_tasks.ablation", {"standard": "", "quick": ""}),
    "past_the_horizon": Entry("experiments.learned_optimizers.past_the_horizon", {"standard": "", "quick": ""}),
    "optimizer_pareto": Entry("experiments.learned_optimizers.pareto", {"standard": "", "quick": ""}),
    "optimizer_cost": Entry("experiments.learned_optimizers.cost", {"standard": "1 min"}),
    "dmd_ablation": Entry("experiments.learned_optimizers.dmd_ablation", {"standard": "", "quick": ""}),
    "guard_demo": Entry("experiments.learned_optimizers.guard_demo", {"standard": "6 min", "quick": ""}),
    "reverse_engineering": Entry(
        "experiments.learned_optimizers.reverse_engineering.experiment", {"standard": "minutes", "quick": ""}
    ),
    "label_noise": Entry("experiments.losses.label_noise", {"standard": "7 min", "quick": "1 min"}),
    "robust_regression": Entry("experiments.losses.robust_regression", {"standard": "6 min", "quick": "1 min"}),
    "robust_units": Entry("experiments.losses.robust_units", {"standard": "", "quick": ""}),
    "loss_transfer": Entry("experiments.losses.transfer", {"standard": "5 min", "quick": "1 min"}),
    "mnist_losses": Entry("experiments.losses.mnist", {"standard": "5 min", "quick": "1 min"}),
    "trusted_losses": Entry("experiments.losses.trusted.experiment", {"standard": "", "quick": ""}),
    "many_classes": Entry("experiments.losses.trusted.many", {"standard": "", "quick": ""}),
    "refinement": Entry("experiments.losses.refinement", {"standard": "minutes", "quick": "20 s"}),
    "downstream_loss": Entry("experiments.losses.downstream", {"standard": "", "quick": "8 s"}),
    "lookahead": Entry("experiments.optimizers.lookahead", {"standard": "8 min", "quick": "40 s"}),
    "neurons": Entry("experiments.optimizers.neurons.experiment", {"quick": "", "standard": ""}),
    "mini_blocks": Entry("experiments.optimizers.mini_blocks", {"standard": "4 min", "quick": ""}),
    "update_angles": Entry("experiments.optimizers.update_angles", {"quick": "1 min", "standard": ""}),
    "epinet_compute": Entry("experiments.epistemic.compute", {"quick": "2 min", "standard": ""}),
    "epistemic_bandit": Entry("experiments.epistemic.bandit", {"quick": "2 min", "standard": ""}),
    "gpt_curves": Entry("experiments.gpt.curves", {"standard": ""}),
    "gpt_scaling": Entry("experiments.gpt.scaling", {"quick": ""}),
    "gpt_tables": Entry("experiments.gpt.tables", {"standard": "", "quick": ""}),
    "gpt_checkpoints": Entry("experiments.gpt.checkpoints", {"softmax": "", "quick": "", "standard": ""}),
    "shipped_uncertainty": Entry("experiments.epistemic.shipped", {"quick": "", "standard": ""}),
    "testbed": Entry("experiments.epistemic.testbed", {"quick": "4 min", "standard": ""}),
    "testbed_tuning": Entry("experiments.epistemic.tuning", {"standard": ""}),
    "gpt_policies": Entry("experiments.gpt.policies", {"standard": "", "quick": "2 min"}),
    "batch_size": Entry("experiments.optimizers.batch_size", {"standard": "15 min", "quick": "2 min"}),
    "compression": Entry("experiments.optimizers.compression", {"standard": "10 min", "quick": ""}),
    "learned_constants": Entry("experiments.optimizers.learned_constants", {"standard": "6 min", "quick": ""}),
    "architectures": Entry("experiments.architectures.digits", {"quick": "1 min", "standard": ""}),
    "early_stopping": Entry("experiments.architectures.early_stopping", {"quick": "2 min", "standard": ""}),
    "shared_weights": Entry("experiments.architectures.shared_weights", {"quick": "2 min"}),
    "cells": Entry("experiments.architectures.cells", {"quick": "", "standard": ""}),
    "retrain": Entry("experiments.architectures.retrain", {}),
    "tabular": Entry("experiments.tabular.tabular", {"standard": "minutes", "large": "a minute"}),
    "few_images": Entry("experiments.tabular.few_images", {"standard": "", "quick": ""}),
    "table_prior": Entry("experiments.tabular.prior", {"standard": "", "quick": ""}),
    "keel": Entry("experiments.tabular.keel.experiment", {"standard": "minutes", "quick": "a minute"}),
    "regression": Entry("experiments.tabular.regression", {"standard": "20 min beside other jobs", "quick": ""}),
    "shipped": Entry("experiments.tabular.shipped.experiment", {}),
    "rigl": Entry("experiments.sparsity.rigl", {"quick": "9 min", "standard": ""}),
    "learned_topology": Entry("experiments.sparsity.learned_topology", {"quick": "5 min", "standard": ""}),
    "shrinkbench": Entry("experiments.sparsity.shrinkbench", {"standard": "", "quick": "20 min"}),
    "brain_surgeon": Entry("experiments.sparsity.brain_surgeon", {"standard": "4 min", "quick": "1 min"}),
    "pruning_pitfalls": Entry("experiments.sparsity.pitfalls", {"standard": "", "quick": "3 min"}),
    "truly_sparse": Entry("experiments.sparsity.truly_sparse", {"standard": "", "quick": "2 min"}),
    "throughput": Entry("experiments.speed.training_step", {"standard": "4 min"}),
    "estimator_speed": Entry("experiments.speed.estimators", {"standard": "2 to 3 min"}),
    "mfac_speed": Entry("experiments.speed.mfac", {"standard": ""}),
    "table_speed": Entry("experiments.speed.tables", {"standard": "", "quick": ""}),
    "loss_search_speed": Entry("experiments.speed.loss_search", {"standard": "2 min"}),
    "sparse_layers": Entry("experiments.speed.sparse_layers", {"standard": "3 min", "quick": ""}),
    "curvature_cost": Entry("experiments.speed.curvature", {"standard": "minutes"}),
    "sweep_storage": Entry("experiments.speed.sweep_storage", {"standard": "2 min", "quick": "seconds"}),
    "both_cores": Entry("experiments.speed.peers.both_cores", {"standard": "3 min"}),
    "weak_scaling": Entry("experiments.speed.weak_scaling", {"standard": "under 2 min"}),
    "accelerator": Entry("experiments.accelerator.experiment", {"standard": "25 min on an accelerator"}),
    "gallery": Entry("experiments.suite.gallery", {}),
    "compute": Entry("experiments.suite.compute", {}),
}


def find_module(name: str) -> str:
    """The module of an experiment.

    Raises:
        UnknownNameError: no experiment has this name; with the nearest names.
    """
    if name not in EXPERIMENTS:
        raise unknown_name("experiment", name, EXPERIMENTS)
    return EXPERIMENTS[name].module


def summary_line(module: str) -> str:
    """The first line of a module's docstring, read from its file without importing it."""
    path = ROOT / Path(*module.split(".")).with_suffix(".py")
    return str(ast.get_docstring(ast.parse(path.read_text()))).splitlines()[0].rstrip(".")


def format_list() -> str:
    """Every experiment by room: name, what it shows, and its presets with their times; the default preset first."""
    lines, room = [], ""
    rooms = list(dict.fromkeys(entry.module.split(".")[1] for entry in EXPERIMENTS.values()))
    for name, entry in sorted(EXPERIMENTS.items(), key=lambda item: rooms.index(item[1].module.split(".")[1])):
        if room != (room := entry.module.split(".")[1]):
            lines += ["", summary_line(f"experiments.{room}.__init__")]
        lines.append(f"  {name:<20} {summary_line(entry.module)}")
        presets = [f"{preset} ({time})" if time else preset for preset, time in entry.times.items()]
        if presets:
            lines.append(f"  {'':<20} {', '.join(presets)}")
    return "\n".join(lines).strip("\n")

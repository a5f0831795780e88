"""Learned losses with other networks and on other data: other widths, depths and data sets, with and without noise.

Both shipped losses were found with one small network: `label-noise` on digits 0 to 4 and wine, `robust-regression` on
diabetes and friedman1. Here they train narrower, wider and deeper networks, on data sets of 2 to 10 classes. In each
row every loss has the learning rate that is best for it. The search has seen two of these data sets: wine, and half of
the classes of digits. Raymond, Chen, Xue, Zhang (2023, arXiv 2209.08907) test theirs on other networks too.

    python -m experiments loss_transfer            # about five minutes on two cores
    python -m experiments loss_transfer quick      # three seeds and one other network, about a minute
    python -m experiments loss_transfer --help
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.losses._comparison import (
    compare,
    format_mean,
    held_out_tasks,
    label_log_axis,
    share_compilations,
    summarise_seeds,
)
from experiments.suite.results import write_result
from experiments.suite.tables import format_columns, read_number
from metalearn.pictures import new_figure, save
from metalearn.runs.progress import Progress
from metalearn_models.losses import SymbolicLoss, load
from metalearn_models.losses.search.population import TrainingConfig
from metalearn_tasks.objectives.baselines import learning_rates

LEAST = {"classification": 1e-3, "regression": 1e-6}
"""Least error in the ratios of the picture, so that a baseline without an error does not make them infinite."""


class Part(NamedTuple):
    """Losses of one kind, with the tasks and networks of their comparison.

    Attributes:
        title: title of table and picture.
        baseline: the loss that the others are compared with.
        losses: names or JSON files, the baseline first.
        noise: shares of corrupted training labels.
        networks_on: data sets for all networks.
        sets: data sets for the network of the search only.
        hidden: widths of that network's hidden layers.
    """

    title: str
    baseline: str
    losses: tuple[str, ...]
    noise: tuple[float, ...]
    networks_on: tuple[str, ...]
    sets: tuple[str, ...]
    hidden: tuple[int, ...]


class Row(NamedTuple):
    """A data set, its share of corrupted training labels, and the hidden layers of the network."""

    title: str
    name: str
    noise: float
    hidden: tuple[int, ...]


@dataclass(frozen=True)
class LossTransferConfig:
    """Train other networks on other data, with learned losses and with those made by hand."""

    classification: tuple[str, ...] = ("cross-entropy", "label-smoothing", "gce", "probability-mae", "label-noise")
    """Losses of classification, names or JSON files; the others are compared with the first."""
    regression: tuple[str, ...] = ("mse", "huber", "mae", "welsch", "robust-regression")
    """Losses of regression; the others are compared with the first."""
    networks: tuple[str, ...] = ("16", "256", "64-64-64")
    """Hidden layers, their widths joined by hyphens."""
    learning_rates: tuple[float, ...] = learning_rates(3e-4, 0.1, per_decade=2, digits=1)
    """Learning rates of Adam to choose from, for each loss and row separately."""
    steps: int = 400
    """Steps per training."""
    seeds: int = 5
    """Splits, noises and networks per row."""
    out: Path = Path("runs/loss_transfer")
    """Folder for the picture and the table."""


PRESETS = {
    "standard": LossTransferConfig(),
    "quick": LossTransferConfig(
        classification=("cross-entropy", "gce", "label-noise"),
        regression=("mse", "mae", "robust-regression"),
        networks=("16",),
        learning_rates=(1e-3, 1e-2),
        steps=200,
        seeds=3,
    ),
}


def parts(config: LossTransferConfig) -> tuple[Part, ...]:
    """The two parts of the comparison."""
    classes, numbers = config.classification, config.regression
    sets = ("wine", "breast_cancer", "iris", "digits")
    return (
        Part("classification", classes[0], classes, (0.4, 0.0), ("digits-high",), sets, (64,)),
        Part("regression", numbers[0], numbers, (0.2, 0.0), ("friedman2", "friedman3"), (), (32,)),
    )


def read_widths(text: str) -> tuple[int, ...]:
    """Read the widths of hidden layers from a text such as 64-32; "none" stands for no hidden layer.

    Raises:
        ValueError: the text is neither.
    """
    if text == "none":
        return ()
    if not all(part.isdecimal() and int(part) > 0 for part in text.split("-")):
        raise ValueError(f'hidden layers are written as 64-32, or "none", got {text!r}')
    return tuple(int(part) for part in text.split("-"))


def run(config: LossTransferConfig, progress: Progress | None = None) -> dict[str, Any]:
    """Compare and draw; returns what result.json holds, errors of classification as shares."""
    start = time.monotonic()
    training = TrainingConfig(steps=config.steps, learning_rates=config.learning_rates)
    result: dict[str, Any] = {"parts": {}}
    groups = [
        (part, hidden) for part in parts(config) for hidden in dict.fromkeys(row.hidden for row in _rows(part, config))
    ]
    if progress is not None:
        progress.start(0, len(groups))
    with share_compilations():
        for done, (part, hidden) in enumerate(groups, 1):
            losses = {name: SymbolicLoss.read(name) if name.endswith(".json") else load(name) for name in part.losses}
            rows = [row for row in _rows(part, config) if row.hidden == hidden]
            tasks = {row.title: held_out_tasks(row.name, row.noise, hidden, config.seeds) for row in rows}
            scores = compare(losses, tasks, training)
            table = result["parts"].setdefault(part.title, {"baseline": part.baseline, "rows": {}})
            table["rows"] |= {
                title: {name: summarise_seeds(row[name]) for name in losses} for title, row in scores.items()
            }
            if progress is not None:
                errors = [row[part.losses[-1]].test.mean() for row in scores.values()]
                progress.update(done, {"loss": float(np.mean(errors))})
    for part in parts(config):
        table = result["parts"][part.title]
        table["rows"] = {row.title: table["rows"][row.title] for row in _rows(part, config)}
    if progress is not None:
        progress.close()
    result |= {"seconds": round(time.monotonic() - start, 1), "picture": str(config.out / "transfer.png")}
    result = write_result(config.out, result)
    draw(config, result)
    return result


def _rows(part: Part, config: LossTransferConfig) -> list[Row]:
    """The rows of a part, in the order of the table."""
    base = "-".join(map(str, part.hidden))
    tried = [(name, network) for name in part.networks_on for network in (base, *config.networks)]
    tried += [(name, base) for name in part.sets]
    return [
        Row(f"{name}, {network}, " + (f"{noise:.0%} noise" if noise else "clean"), name, noise, read_widths(network))
        for noise in part.noise
        for name, network in tried
    ]


def format_result(result: Mapping[str, Any]) -> str:
    """The tables of errors, and in how many rows each loss does better than the first one."""
    shown = []
    for title, part in result["parts"].items():
        unit, digits = (100, 1) if title == "classification" else (1, 4)
        rows, labels = part["rows"], list(next(iter(part["rows"].values())))
        columns = {
            Path(label).name: [format_mean(row[label], digits, unit) for row in rows.values()] for label in labels
        }
        shown += [format_columns(list(rows), columns, "test error, %" if title == "classification" else "test MSE")]
        for kind in ("noise", "clean"):
            chosen = [row for name, row in rows.items() if name.endswith(kind)]
            counts = [
                f"{Path(label).name} in {sum(_is_less(row, label, part['baseline']) for row in chosen)}"
                for label in labels[1:]
            ]
            shown.append(f"{kind}, {len(chosen)} rows: better than {part['baseline']}: {', '.join(counts)}")
        shown.append("")
    return "\n".join([*shown, f"picture: {result['picture']} ({result['seconds']} s)"])


def _is_less(row: Mapping[str, Any], label: str, baseline: str) -> bool:
    """Whether the mean error with one loss is less than that with another; a diverged one is infinite."""
    return _mean(row, label) < _mean(row, baseline)


def _mean(row: Mapping[str, Any], label: str) -> float:
    return read_number(row[label]["mean"], missing=float("inf"))


def _ratio(row: Mapping[str, Any], label: str, baseline: str, least: float) -> float:
    return max(_mean(row, label), least) / max(_mean(row, baseline), least)


def draw(config: LossTransferConfig, result: Mapping[str, Any]) -> None:
    """Draw one dot per row and loss: its error over that of the first loss."""
    figure, axes = new_figure(columns=len(result["parts"]), width=6.5, height=6.0)
    for ax, (title, part) in zip(axes, result["parts"].items(), strict=True):
        names = list(part["rows"])
        least = LEAST[title]
        labels = [label for label in next(iter(part["rows"].values())) if label != part["baseline"]]
        for number, label in enumerate(labels):
            ratio = [_ratio(row, label, part["baseline"], least) for row in part["rows"].values()]
            last = number == len(labels) - 1
            ax.plot(
                ratio,
                -np.arange(len(names)) - 0.12 * (number - 1.5),
                "D" if last else "o",
                color=f"C{number}",
                markersize=6 if last else 4,
                alpha=1.0 if last else 0.6,
                label=Path(label).name,
            )
        ax.axvline(1, color="0.5", linewidth=1)
        ax.set_xscale("log")
        label_log_axis(ax.xaxis)
        ax.set_yticks(-np.arange(len(names)), names, fontsize=7)
        ax.set_xlabel(f"test error over that with {part['baseline']} (both at least {least:g})")
        ax.set_title(title, fontsize=9)
        ax.legend(fontsize=7, frameon=False)
    save(figure, config.out / "transfer.png")

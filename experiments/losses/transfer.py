"""Whether learned losses are worth taking elsewhere: other widths and depths, other data sets, with and without noise.

The two shipped losses were searched for with one small network, `label-noise` on digits 0 to 4 and wine, and
`robust-regression` on diabetes and friedman1. Here narrower, wider and deeper networks are trained with them, and data
sets of 2 to 10 classes, each loss at the learning rate that is best for it, row by row; Raymond, Chen, Xue, Zhang
(2023, arXiv 2209.08907) test theirs on other networks too. Of these data sets the search has seen wine, and half of the
classes of digits.

    python -m experiments loss_transfer            # about five minutes on two cores
    python -m experiments loss_transfer --help
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tyro

from experiments.losses._comparison import compare, compiled_once, held_out, summary, text_table
from metalearn.pictures import new_figure, save
from metalearn.runs.progress import Progress, default_progress
from metalearn_models.losses import SymbolicLoss, load
from metalearn_models.losses.search.population import TrainingConfig
from metalearn_tasks.objectives.baselines import learning_rates


class Part(NamedTuple):
    """Losses of one kind, and where they are compared.

    Attributes:
        title: of table and picture.
        baseline: the loss that the others are measured by.
        losses: names or JSON files, the baseline first.
        noise: shares of corrupted training labels.
        networks_on: data sets on which all networks are tried.
        sets: data sets that are tried with the network of the search.
        hidden: widths of that network.
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
    """Train other networks, and on other data, with learned losses and with those made by hand."""

    classification: tuple[str, ...] = ("cross-entropy", "label-smoothing", "gce", "probability-mae", "label-noise")
    """Losses of classification, names or JSON files; the first is what the others are measured by."""
    regression: tuple[str, ...] = ("mse", "huber", "mae", "welsch", "robust-regression")
    """Losses of regression."""
    networks: tuple[str, ...] = ("16", "256", "64-64-64")
    """Hidden layers, their widths joined by hyphens."""
    learning_rates: tuple[float, ...] = learning_rates(3e-4, 0.1, per_decade=2, digits=1)
    """Of Adam; each loss has its own for each row."""
    steps: int = 400
    """Steps of each training."""
    seeds: int = 5
    """Splits, noise and networks of each row."""
    out: Path = Path("runs/loss_transfer")
    """Folder of the picture and the table."""
    json: bool = False
    """Print one JSON object as the last line."""


def parts(config: LossTransferConfig) -> tuple[Part, ...]:
    """What is compared."""
    classes, numbers = config.classification, config.regression
    sets = ("wine", "breast_cancer", "iris", "digits")
    return (
        Part("classification", classes[0], classes, (0.4, 0.0), ("digits-high",), sets, (64,)),
        Part("regression", numbers[0], numbers, (0.2, 0.0), ("friedman2", "friedman3"), (), (32,)),
    )


def widths(text: str) -> tuple[int, ...]:
    """The hidden layers that a name such as 64-32 stands for; "none" has none.

    Raises:
        ValueError: anything else.
    """
    if text == "none":
        return ()
    if not all(part.isdecimal() and int(part) > 0 for part in text.split("-")):
        raise ValueError(f'hidden layers are written as 64-32, or "none", got {text!r}')
    return tuple(int(part) for part in text.split("-"))


def main(config: LossTransferConfig, progress: Progress | None = None) -> dict[str, Any]:
    """Compare, draw; returns what result.json holds, errors of classification as shares."""
    began = time.monotonic()
    training = TrainingConfig(steps=config.steps, learning_rates=config.learning_rates)
    result: dict[str, Any] = {"parts": {}}
    groups = [
        (part, hidden) for part in parts(config) for hidden in dict.fromkeys(row.hidden for row in _rows(part, config))
    ]
    if progress is not None:
        progress.start(0, len(groups))
    with compiled_once():
        for done, (part, hidden) in enumerate(groups, 1):
            losses = {name: SymbolicLoss.read(name) if name.endswith(".json") else load(name) for name in part.losses}
            rows = [row for row in _rows(part, config) if row.hidden == hidden]
            tasks = {row.title: held_out(row.name, row.noise, hidden, config.seeds) for row in rows}
            scores = compare(losses, tasks, training)
            table = result["parts"].setdefault(part.title, {"baseline": part.baseline, "rows": {}})
            table["rows"] |= {title: {name: summary(row[name]) for name in losses} for title, row in scores.items()}
            if progress is not None:
                errors = [row[part.losses[-1]].test.mean() for row in scores.values()]
                progress.update(done, {"loss": float(np.mean(errors))})
    for part in parts(config):
        table = result["parts"][part.title]
        table["rows"] = {row.title: table["rows"][row.title] for row in _rows(part, config)}
    if progress is not None:
        progress.close()
    _draw(config, result)
    result |= {"seconds": round(time.monotonic() - began, 1), "picture": str(config.out / "transfer.png")}
    (config.out / "result.json").write_text(json.dumps(result, indent=2))
    return result


def _rows(part: Part, config: LossTransferConfig) -> list[Row]:
    """The rows of a part, in the order in which they are shown."""
    base = "-".join(map(str, part.hidden))
    tried = [(name, network) for name in part.networks_on for network in (base, *config.networks)]
    tried += [(name, base) for name in part.sets]
    return [
        Row(f"{name}, {network}, " + (f"{noise:.0%} noise" if noise else "clean"), name, noise, widths(network))
        for noise in part.noise
        for name, network in tried
    ]


def printed(result: dict[str, Any]) -> str:
    """The tables that are shown: errors, and in how many rows each loss does better than the first one."""
    shown = []
    for title, part in result["parts"].items():
        unit, digits = (100, 1) if title == "classification" else (1, 4)
        rows, labels = part["rows"], list(next(iter(part["rows"].values())))
        columns = {
            Path(label).name: [
                f"{unit * row[label]['mean']:.{digits}f} ± {unit * row[label]['sem']:.{digits}f}"
                for row in rows.values()
            ]
            for label in labels
        }
        shown += [text_table(list(rows), columns, "test error, %" if title == "classification" else "test MSE")]
        for kind in ("noise", "clean"):
            chosen = [row for name, row in rows.items() if name.endswith(kind)]
            better = {
                label: sum(r[label]["mean"] < r[part["baseline"]]["mean"] for r in chosen) for label in labels[1:]
            }
            told = ", ".join(f"{Path(label).name} {count}" for label, count in better.items())
            shown.append(f"{kind}: better than {part['baseline']} in, of {len(chosen)} rows: {told}")
        shown.append("")
    return "\n".join(shown)


def _draw(config: LossTransferConfig, result: dict[str, Any]) -> None:
    """A dot a loss in each row: its error over that of the first loss."""
    figure, axes = new_figure(columns=len(result["parts"]), width=6.5, height=6.0)
    for ax, (title, part) in zip(axes, result["parts"].items(), strict=True):
        names = list(part["rows"])
        labels = [label for label in next(iter(part["rows"].values())) if label != part["baseline"]]
        for number, label in enumerate(labels):
            ratio = [row[label]["mean"] / max(row[part["baseline"]]["mean"], 1e-12) for row in part["rows"].values()]
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
        ax.set_yticks(-np.arange(len(names)), names, fontsize=7)
        ax.set_xlabel(f"test error over that with {part['baseline']}")
        ax.set_title(title, fontsize=9)
        ax.legend(fontsize=7, frameon=False)
    save(figure, config.out / "transfer.png")


if __name__ == "__main__":
    command = tyro.cli(LossTransferConfig, description=__doc__)
    outcome = main(command, default_progress())
    print(printed(outcome))
    print(f"picture: {outcome['picture']} ({outcome['seconds']} s)")
    if command.json:
        print(json.dumps(outcome))
